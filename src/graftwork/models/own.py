"""The one layer of graftwork's own, which Keras has to know before it loads a model with a SavedModel inside."""

import importlib
from typing import Any

from graftwork.architecture.layer import Layer, walk
from graftwork.models.lazy import load_keras

LAYER = "graftwork.models.savedmodel.layer"
"""The module that makes it known."""

NEEDS = "graftwork has to be installed: use gw.load, or import graftwork.models.savedmodel.layer before keras.saving.load_model"
"""What a file with it needs, as the end of a sentence."""


def register() -> None:
    """Make Keras know the layer."""
    load_keras()
    importlib.import_module(LAYER)


def imports_of(model: Any) -> tuple[str, ...]:
    """Return the modules of graftwork that have to be imported before Keras loads a live model from its file."""
    return tuple(
        dict.fromkeys(module for layer in model._flatten_layers() if (module := type(layer).__module__) == LAYER)
    )


def imports_for(architecture: Layer | None) -> tuple[str, ...]:
    """Return the modules of graftwork that have to be imported before Keras loads a file with these layers."""
    layers = walk(architecture) if architecture is not None else ()
    return (LAYER,) if any(layer.module == LAYER for _, layer in layers) else ()

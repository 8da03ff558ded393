"""Layers as users spell them: a number of units, a class with settings, a live layer, a model."""

import re
from collections.abc import Mapping
from typing import Any

from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.copying import copy_model
from graftwork.models.lazy import keras

LayerSpec = Any
"""``"Flatten"``, ``{"Dropout": {"rate": 0.5}}``, a live `keras.layers.Layer` or `keras.Model`; a list of these is a chain."""


def as_layers(spec: LayerSpec, what: str) -> list[Any]:
    """Return the layers that a user spells, in the order in which they are called.

    Live layers and models are copied by their configuration where they hold no weights, else refused unless they are models: a layer
    that is trained belongs to the model it was trained in.

    Args:
        spec: See `LayerSpec`.
        what: What they are for, for messages.

    Raises:
        OptionError: If it is no layer.
        UnknownNameError: If Keras has no layer of this name.
    """
    if isinstance(spec, list | tuple):
        return [layer for item in spec for layer in as_layers(item, what)]
    if isinstance(spec, str):
        return [_made(spec, {}, what)]
    if isinstance(spec, Mapping):
        if len(spec) != 1 or not isinstance(next(iter(spec.values())) or {}, Mapping):
            raise OptionError(
                f"{what} is {str(spec)[:60]}; expected a class and its settings, such as {{Dropout: {{rate: 0.5}}}}"
            )
        ((name, settings),) = spec.items()
        return [_made(str(name), dict(settings or {}), what)]
    if isinstance(spec, keras.layers.Layer):
        return [_own(spec, what)]
    raise OptionError(
        f"{what} is {str(spec)[:60]!r}; expected the name of a Keras layer, a mapping with its settings, or a layer"
    )


def _made(name: str, settings: dict[str, Any], what: str) -> Any:
    known = {
        each: cls
        for each in dir(keras.layers)
        if isinstance(cls := getattr(keras.layers, each), type) and issubclass(cls, keras.layers.Layer)
    }
    if name not in known:
        raise UnknownNameError(f"Keras layer (for {what})", name, known)
    try:
        return known[name](**{"dtype": "float32", "name": _snake(name), **settings})
    except (TypeError, ValueError) as error:
        raise OptionError(f"{what}: Keras cannot make {name} of {settings}: {str(error).splitlines()[0]}") from error


def _snake(name: str) -> str:
    """Return the name of a class as Keras makes the name of a layer of it, without the number that depends on what was made before."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z])", "_", name).lower()


def _own(layer: Any, what: str) -> Any:
    """Return a layer that nobody else holds."""
    if isinstance(layer, keras.Model):
        return copy_model(layer)
    if layer.built and layer.weights:
        raise OptionError(
            f"{what} is the layer {layer.name!r}, which has weights already; give a model of it, or a layer that is not built"
        )
    return type(layer).from_config(layer.get_config())

"""Copies of live models that share nothing with their sources and compute the same to the last bit."""

import re
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError
from graftwork.models import live
from graftwork.models.configuration import REFUSALS, layers_of, objects_of
from graftwork.models.lazy import keras
from graftwork.stores.files import brief


def copy_model(model: Any, name: str | None = None, *, compiled: bool = False) -> Any:
    """Return an exact copy of a live model.

    A round trip through a ``.keras`` file makes it; what such a file does not hold is then carried over: which layers and which single
    variables are trainable, the states of random generators, variables that Keras leaves out when it saves.

    Args:
        model: The source, which is left as it is.
        name: What the copy is called; by default as the source.
        compiled: Whether the copy is compiled as the source is, with its optimizer's state.

    Raises:
        StoreError: If Keras cannot save the model, or what it reloads is not the same model.
        OptionError: If the name cannot be a model's, or this is no Keras 3 model.
    """
    if not isinstance(model, keras.Model):
        raise OptionError(f"{type(model).__name__} is not a Keras 3 model; give a keras.Model")
    custom = objects_of(model)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of a model that is not built, of code in Lambda layers: both are the caller's own
        path = Path(folder) / "copy.keras"
        try:
            model.save(path)
        except REFUSALS as error:
            raise StoreError(f"Keras cannot save model {model.name!r}: {brief(error)}{_advice(model)}") from error
        try:
            copy = keras.saving.load_model(path, custom_objects=custom, compile=compiled, safe_mode=False)
        except REFUSALS as error:
            raise StoreError(
                f"Keras saves model {model.name!r} and cannot load it again: {brief(error)}{_advice(model)}"
            ) from error
    carry_over(model, copy)
    return live.renamed(copy, name)


def carry_over(source: Any, copy: Any) -> None:
    """Give a reloaded model what a file does not hold, after making sure that it is the same model.

    Raises:
        StoreError: If the two differ in layers or variables.
    """
    carry_flags(source, copy)
    for value, other in zip(_values(source), _values(copy), strict=True):
        _assign(other, value)


def carry_flags(source: Any, copy: Any) -> None:
    """Make the layers and variables of a rebuilt model trainable or not, and called, as those of its source.

    Raises:
        StoreError: If the two differ in layers or variables.
    """
    layers, copies = layers_of(source), layers_of(copy)
    _agree(source, "layer", [_shown(x) for x in layers], [_shown(x) for x in copies])
    values, others = _values(source), _values(copy)
    _agree(source, "variable", [_shown(v) for v in values], [_shown(v) for v in others])
    for value, other in zip(values, others, strict=True):
        other.trainable = value.trainable
    for layer, other in zip(layers, copies, strict=True):
        other._trainable = layer._trainable  # the property would set the flags of everything inside as well
        if other.name != layer.name:
            other.name = layer.name  # Keras numbers the layers that a layer makes inside itself anew
        if getattr(layer, "lora_enabled", False):
            other.lora_alpha = layer.lora_alpha  # which Dense and Embedding of Keras 3.15 save, and do not read


def _values(model: Any) -> list[Any]:
    """Return the variables that a model computes with, the states of random generators among them."""
    return [*model.weights, *(g.state for layer in layers_of(model) for g in layer._seed_generators)]


def _assign(variable: Any, like: Any) -> None:
    """Give a variable the value of another where it differs in a bit."""
    found, wanted = keras.ops.convert_to_numpy(variable), keras.ops.convert_to_numpy(like)
    if found.tobytes() != wanted.tobytes():
        variable.assign(wanted)


def _shown(thing: Any) -> str:
    """Return what must agree: the name but for a number that Keras counts up, the class or the shape and dtype."""
    name = re.sub(r"_\d+$", "", thing.name)
    if isinstance(thing, keras.layers.Layer):
        return f"{type(thing).__name__} {name!r}"
    return f"{name!r} {tuple(thing.shape)} {thing.dtype}"


def _agree(source: Any, what: str, found: Sequence[str], copied: Sequence[str]) -> None:
    if len(found) == len(copied) and all(a == b for a, b in zip(found, copied, strict=True)):
        return
    first = next(
        (pair for pair in zip(found, copied, strict=False) if pair[0] != pair[1]), ("nothing more", "nothing more")
    )
    raise StoreError(
        f"Keras does not reload model {source.name!r} as it is: {len(found)} times a {what} there and {len(copied)} times in the copy, "
        f"first difference {first[0]} against {first[1]}; its classes do not make the same model of their configuration"
    )


def _advice(model: Any) -> str:
    """Return what to do about a class that Keras cannot save."""
    if type(model).__module__.split(".")[0] == "keras":
        return ""
    return (
        f"; {type(model).__name__} is a subclass of keras.Model, so it needs a `get_config` with everything that its `__init__` takes "
        "(and, where calling it on its input does not build it, a `build`)"
    )

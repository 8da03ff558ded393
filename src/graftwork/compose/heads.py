"""New heads: the layers that are trained on top of what other layers give."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.layers import LayerSpec, as_layers
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, describe
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS

HeadSpec = int | LayerSpec
"""A number of units, a layer as `LayerSpec` spells it, a model, or a list of these; numbers before the last item are hidden layers."""


@dataclass(frozen=True, slots=True)
class Head:
    """Layers that nobody trained yet, and models among them that bring their weights.

    Attributes:
        layers: In the order in which they are called.
        name: What it is called in messages.
    """

    layers: tuple[Any, ...]
    name: str

    def __call__(self, value: Any) -> Any:
        """Return what the head makes of a Keras tensor or an array.

        Raises:
            MismatchError: If a layer cannot take what it gets.
        """
        for layer in self.layers:
            try:
                value = layer(value)
            except (ValueError, TypeError) as error:
                shape = describe(tuple(value.shape), keras.backend.standardize_dtype(value.dtype))
                raise MismatchError(
                    f"{self.name}: {type(layer).__name__} {layer.name!r} cannot take {shape}: {str(error).splitlines()[0]}"
                ) from error
        return value

    @property
    def note(self) -> str:
        """How many parameters it adds, once it has been called."""
        count = sum(layer.count_params() for layer in self.layers if not isinstance(layer, keras.Model))
        said = " → ".join(map(_described, self.layers))
        return f"{self.name}: {said}" + (f"; adds {count:,} untrained parameters" if count else "")


def as_head(
    spec: HeadSpec,
    value: Port,
    names: Names,
    *,
    hidden: Sequence[int] = (),
    activation: str | None = None,
    name: str = "head",
    spread: bool = False,
) -> Head:
    """Return the head that a user spells.

    A number of units is a Dense layer: softmax over several units, sigmoid of one; numbers before the last are hidden layers with relu.
    New layers compute in float32, also on top of mixed precision, and are named after the head.

    Args:
        spec: See `HeadSpec`.
        value: What it stands on.
        names: The names in use.
        hidden: Units of Dense layers before it, with relu.
        activation: Of the last Dense layer, where the head ends in a number of units.
        name: What the head is called.
        spread: Whether units may stand at every position of a sequence or an image.

    Raises:
        MismatchError: If units cannot stand on the value.
        OptionError: If it is no head.
        UnknownNameError: If Keras has no such layer.
    """
    items = [*hidden, *(spec if isinstance(spec, list | tuple) else [spec])]
    if not items or (isinstance(spec, list | tuple) and not spec):
        raise OptionError(f"{name} is empty; give a number of units, a layer, or a list of these")
    if activation is not None and not _is_units(items[-1]):
        raise OptionError(
            f"activation={activation!r} is for a {name} that ends in a number of units; give the layer its own"
        )
    if _is_units(items[0]):
        _check(value, name, spread=spread)
    layers: list[Any] = []
    for place, item in enumerate(items):
        last = place == len(items) - 1
        if _is_units(item):
            layers.append(
                _dense(
                    item, _activation(item, activation) if last else "relu", name if last else f"{name}_hidden", names
                )
            )
            continue
        for layer in as_layers(item, name):
            layer.name = names.fresh(_named(layer, name))
            layers.append(layer)
    return Head(tuple(layers), name)


def units_of(spec: HeadSpec) -> int | None:
    """Return how many units a head ends in, where it says so by a number."""
    last: Any = spec[-1] if isinstance(spec, list | tuple) and spec else spec
    return int(last) if _is_units(last) else None


def _is_units(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def _activation(units: int, wanted: str | None) -> str:
    return wanted or ("softmax" if units > 1 else "sigmoid")


def _dense(units: int, activation: str, wanted: str, names: Names) -> Any:
    if units < 1:
        raise OptionError(f"{wanted} has {units} units; expected at least one")
    try:
        return keras.layers.Dense(units, activation=activation, dtype="float32", name=names.fresh(wanted))
    except ValueError as error:
        raise OptionError(f"Keras has no activation {activation!r}: {str(error).splitlines()[0]}") from error


def _check(value: Port, name: str, *, spread: bool) -> None:
    """Refuse units on top of what they would silently be applied to position by position, or cannot compute with."""
    shown = f"{value.name!r} is {describe(value.shape, value.dtype)}"
    if value.dtype not in FLOATS:
        raise MismatchError(
            f"{name}: {shown}, but Dense takes floating-point numbers", advice="put layers before it that make some"
        )
    if len(value.shape) < 2 or value.shape[-1] is None:
        raise MismatchError(
            f"{name}: {shown}; Dense needs a last axis of a fixed size", advice="give the size to the model's Input"
        )
    if len(value.shape) > 2 and not spread:
        rank = len(value.shape) - 2
        pooling = f'"GlobalAveragePooling{rank}D"' if rank < 4 else '"Flatten"'
        raise MismatchError(
            f"{name}: {shown}, so Dense would stand at every position",
            advice=f"pool or flatten first, as in head=[{pooling}, 10]; for one at every position: head={{Dense: {{units: 10}}}}",
        )


def _named(layer: Any, head: str) -> str:
    """Return the name of a layer: its own, or one of the head where Keras numbered it."""
    plain = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)).lower()
    return f"{head}_{plain}" if re.sub(r"_\d+$", "", layer.name) == plain else str(layer.name)


def _described(layer: Any) -> str:
    if isinstance(layer, keras.Model):
        return f"model {layer.name!r}"
    if isinstance(layer, keras.layers.Dense):
        return f"Dense({layer.units}, {layer.activation.__name__})"
    return type(layer).__name__

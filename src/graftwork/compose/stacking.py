"""Members of one small architecture as one: their weights side by side, one multiplication for all of them instead of one for each.

It is for chains of Dense layers, and pays where calls are short and compiled (docs/results/ensembles.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.compose.base import Member
from graftwork.compose.graph import own_calls
from graftwork.compose.naming import Names, named
from graftwork.compose.ports import graph_of
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True)
class Stacked:
    """What the members give when they are one.

    Attributes:
        tensors: What each member gives.
        finish: Takes the members' weights over; to be called once where there are values.
        variables: What it fills.
    """

    tensors: tuple[Any, ...]
    finish: Callable[[], None]
    variables: tuple[Any, ...]


def stacked(members: Sequence[Member], tensor: Any, names: Names) -> Stacked:
    """Return members of one architecture as one, on one tensor.

    ::

        h_m = activation(x_m · W_m + b_m)        for every member m at once: an einsum over W of shape (members, inputs, units)

    Args:
        members: Models that are chains of Dense layers with the same settings.
        tensor: What all of them take, of shape (batch, features).
        names: The names in use.

    Raises:
        MismatchError: If their layers have other settings.
        OptionError: If one is no chain of Dense layers.
    """
    chains = [_chain(member) for member in members]
    for member, chain in zip(members, chains, strict=True):
        for place, layer in enumerate(chain):
            first = chains[0][place] if place < len(chains[0]) else None
            if first is None or len(chain) != len(chains[0]) or _settings(layer) != _settings(first):
                raise MismatchError(
                    f"layer {layer.name!r} of {member.name} is not as that of {members[0].name}",
                    advice="stack_weights=True takes members whose layers have the same settings",
                )
    layers = []
    for place, kinds in enumerate(zip(*chains, strict=True)):
        layer = keras.layers.EinsumDense(
            "bmi,mio->bmo" if place else "bi,mio->bmo",
            output_shape=(len(members), kinds[0].units),
            activation=keras.activations.serialize(kinds[0].activation),
            bias_axes="mo" if kinds[0].use_bias else None,
            dtype=kinds[0].dtype_policy.name,
            name=names.fresh(f"members_{kinds[0].name}"),
        )
        tensor = layer(tensor)
        layer.trainable = kinds[0].trainable
        layers.append(layer)

    def finish() -> None:
        for layer, own in zip(layers, zip(*chains, strict=True), strict=True):
            for variable, parts in zip(layer.weights, zip(*(each.weights for each in own), strict=True), strict=True):
                variable.assign(np.stack([keras.ops.convert_to_numpy(part) for part in parts]))

    given = tuple(named(tensor[:, place], names.fresh(f"{m.name}_of_all")) for place, m in enumerate(members))
    return Stacked(given, finish, tuple(variable for layer in layers for variable in layer.weights))


def _chain(member: Member) -> list[Any]:
    """Return the Dense layers of a model that is nothing but a chain of them."""
    graph = graph_of(member.model)
    operations = [node.operation for node in own_calls(graph)] if graph is not None else [member.model]
    layers = [each for each in operations if not isinstance(each, keras.layers.InputLayer)]
    other = next((each for each in layers if not _plain(each)), None)
    if other is not None or not layers or len(graph._inputs) != 1 or len(graph._inputs[0].shape) != 2:
        what = f"{type(other).__name__} {other.name!r}" if other is not None else "another form"
        raise OptionError(
            f"stack_weights=True takes chains of plain Dense layers on vectors; {member.name} has {what}; leave it out"
        )
    return layers


def _plain(layer: Any) -> bool:
    """Return whether a layer is a Dense without what could not be carried over: codes, penalties, constraints, adapters."""
    more = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
    return (
        type(layer) is keras.layers.Dense
        and not any(getattr(layer, name, None) for name in (*more, "quantization_mode", "lora_enabled"))
        and len(layer.weights) == 1 + layer.use_bias
    )


def _settings(layer: Any) -> dict[str, Any]:
    """Return the settings of a layer but its name and what only training from the beginning looks at."""
    found = layer.get_config()
    return {key: found[key] for key in ("units", "activation", "use_bias", "dtype", "trainable")} | {
        "inputs": tuple(layer.kernel.shape)
    }

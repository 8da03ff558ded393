"""A part of a graph as a model of its own: new inputs in the place of some tensors, the same layers behind them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from graftwork.compose.addresses import taps
from graftwork.compose.base import Member
from graftwork.compose.graph import Graph, Key, Tap, claim
from graftwork.compose.naming import Names, as_layer_name
from graftwork.compose.ports import Port, inputs
from graftwork.errors import OptionError
from graftwork.models.lazy import keras

At = str | list[str] | dict[str, str]
"""One address, several, or addresses by the name that their tensors get."""


def labelled(model: Any, at: At) -> dict[str, Tap]:
    """Return the tensors that are addressed, by the names that they get: the given ones, or those of their layers.

    Raises:
        UnknownNameError: If there is no layer of a name.
        OptionError: If an address does not name one tensor, two name the same, or a name cannot be a port's.
    """
    if isinstance(at, Mapping):
        found = dict(zip(at, taps(model, list(at.values())), strict=True))
        for name in found:
            if as_layer_name(name) != name:
                raise OptionError(
                    f"{name!r} cannot be the name of a tensor; letters, digits, points, dashes and underscores can"
                )
    else:
        names, found = Names(), {}
        for tap in taps(model, at):
            label = as_layer_name(tap.address.rpartition("/")[2]).strip("_")
            found[names.fresh(label if label not in names else as_layer_name(tap.address).strip("_"))] = tap
    once: dict[Key, str] = {}
    graph = Graph(model, list(found.values()))
    for tap in found.values():
        other = once.setdefault(graph.same(tap.key), tap.address)
        if other != tap.address:
            raise OptionError(f"{tap.address!r} and {other!r} are the same tensor of {model.name!r}; name it once")
    if len(once) < len(found):
        raise OptionError(f"an address of {model.name!r} is named twice")
    return found


def named_after(member: Member) -> Any:
    """Return the model of a member, called as the member is."""
    member.model.name = as_layer_name(member.name)
    return member.model


def structured(at: At, tensors: Mapping[str, Any]) -> Any:
    """Return tensors as they were asked for: one, a list, or by name."""
    if isinstance(at, str):
        return next(iter(tensors.values()))
    return dict(tensors) if isinstance(at, Mapping) else list(tensors.values())


def model_of(
    graph: Graph,
    ins: Mapping[str, tuple[Key, Any]],
    targets: Sequence[Key],
    name: str,
    takes: Callable[[dict[str, Any]], Any],
    gives: Callable[[Sequence[Any]], Any],
) -> tuple[Any, list[str]]:
    """Return the model that makes some tensors of a graph from others, and its inputs' names in the order of its flattened input.

    Args:
        graph: The graph; its layers are the model's.
        ins: For each input by name: the tensor in whose place it is, and the Keras tensor that it imitates.
        targets: What it gives.
        name: What it is called; made a name that Keras takes.
        takes: Brings the new inputs into the structure of the model's input.
        gives: Likewise for what it gives.
    """
    names = Names()
    new = {label: like(tensor, names.fresh(label)) for label, (_, tensor) in ins.items()}
    given = {key: new[label] for label, (key, _) in ins.items()}
    steps = graph.needed(targets, given)
    claim(graph.model, steps, names)
    values = graph.run(steps, given, names)
    struct = takes(new)
    order = {id(tensor): label for label, tensor in new.items()}
    model = keras.Model(struct, gives([values[key] for key in targets]), name=as_layer_name(name))
    if not graph.model.trainable:
        model.trainable = False
    return model, [order[id(tensor)] for tensor in keras.tree.flatten(struct)]


def like(tensor: Any, name: str) -> Any:
    """Return a new input as a Keras tensor is."""
    return keras.Input(
        batch_shape=tuple(tensor.shape),
        dtype=keras.backend.standardize_dtype(tensor.dtype),
        sparse=bool(getattr(tensor, "sparse", False)),
        name=name,
    )


def model_inputs(graph: Graph, keys: Sequence[Key] | None = None) -> dict[str, tuple[Key, Any]]:
    """Return the inputs of the model itself, as `model_of` takes them: all, or those among some tensors."""
    ports = inputs(graph.model)
    return {
        name: (key, port.tensor)
        for key, (name, port) in zip(graph.inputs, ports.items(), strict=True)
        if keys is None or key in keys
    }


def as_input(graph: Graph, tensors: Mapping[str, Any]) -> Any:
    """Return new inputs in the structure of the model's own, as far as it has them all; else by name where it is a dictionary."""
    struct = graph.functional._inputs_struct
    if len(tensors) == len(graph.inputs):
        return keras.tree.pack_sequence_as(struct, list(tensors.values()))
    if isinstance(struct, Mapping):
        return dict(tensors)
    return list(tensors.values()) if len(tensors) > 1 else next(iter(tensors.values()))


def as_output(graph: Graph, tensors: Sequence[Any]) -> Any:
    """Return what a model gives in the structure of its own."""
    return keras.tree.pack_sequence_as(graph.functional._outputs_struct, list(tensors))


def port_of(graph: Graph, key: Key, tensor: Any) -> Port:
    """Return a tensor inside a model as something that has a name, a shape and a dtype."""
    return Port(graph.label(key), tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype), None)

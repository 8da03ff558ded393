"""The inputs and outputs of a model by name, and calling a model with tensors by name.

A port is called by its key where the model takes a dictionary, else by the layer whose tensor it is. That way neither the order of
a list nor the nesting of a structure can swap two tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output of a model.

    Attributes:
        name: Its name among the model's inputs, or outputs.
        shape: With the batch in front; None where the size is not fixed.
        dtype: As Keras names it.
        tensor: The Keras tensor inside the model.
    """

    name: str
    shape: Shape
    dtype: str
    tensor: Any

    def __str__(self) -> str:
        return f"{self.name!r} {describe(self.shape, self.dtype)}"


def describe(shape: Shape, dtype: str) -> str:
    """Return a shape and dtype as messages say it: ``(None, 10) float32``."""
    return f"({', '.join(str(size) for size in shape)}{',' if len(shape) == 1 else ''}) {dtype}"


def has_graph(model: Any) -> bool:
    """Return whether a model is a graph of layers that can be looked into: Functional, or a Sequential that has been built."""
    return graph_of(model) is not None


def graph_of(model: Any) -> Any:
    """Return the Functional that is a model's graph: itself, what a built Sequential holds, or None."""
    if getattr(model, "_functional", None) is not None and isinstance(model, keras.Sequential):
        return model._functional
    return model if hasattr(model, "_inputs_struct") and hasattr(model, "_nodes_by_depth") else None


def inputs(model: Any) -> dict[str, Port]:
    """Return a model's inputs by name, in its own order.

    Raises:
        OptionError: If the model does not say what it takes.
    """
    return _ports(_graph(model)._inputs_struct)


def outputs(model: Any) -> dict[str, Port]:
    """Return a model's outputs by name, in its own order.

    Raises:
        OptionError: If the model does not say what it gives.
    """
    return _ports(_graph(model)._outputs_struct)


def _graph(model: Any) -> Any:
    graph = graph_of(model)
    if graph is None:
        raise OptionError(
            f"{type(model).__name__} {model.name!r} does not say what its inputs are; build it with an Input layer, or call it once in a "
            "Functional model"
        )
    return graph


def _ports(struct: Any) -> dict[str, Port]:
    found: dict[str, Port] = {}
    keyed = isinstance(struct, Mapping)
    for path, tensor in keras.tree.flatten_with_path(struct):
        name = "/".join(str(part) for part in path) if keyed else str(tensor._keras_history.operation.name)
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name}_{number}"
        found[label] = Port(label, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype), tensor)
    return found


def call(model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Call a model with tensors (or arrays) by the names of its inputs, and return what it gives by the names of its outputs.

    Args:
        model: A model whose inputs are known.
        tensors: One for each of its inputs.

    Raises:
        MismatchError: If an input is missing or there is one more.
    """
    wanted = inputs(model)
    if set(wanted) != set(tensors):
        raise MismatchError(
            f"model {model.name!r} takes {', '.join(map(repr, wanted))}; given are {', '.join(map(repr, tensors)) or 'none'}"
        )
    struct = _graph(model)._inputs_struct
    given = keras.tree.pack_sequence_as(struct, [tensors[name] for name in wanted])
    return dict(zip(outputs(model), keras.tree.flatten(model(given)), strict=True))


def packed(struct: Any, tensors: Mapping[str, Any]) -> Any:
    """Return tensors by name, in the order of a model's ports, in the structure that the model has."""
    return keras.tree.pack_sequence_as(struct, list(tensors.values()))


def fresh_inputs(ports: Mapping[str, Port], names: Any) -> dict[str, Any]:
    """Return new Keras inputs of the same names, shapes and dtypes.

    Args:
        ports: What to imitate.
        names: The names in use, a `graftwork.compose.naming.Names`.
    """
    found = {}
    for port in ports.values():
        operation = port.tensor._keras_history.operation
        found[port.name] = keras.Input(
            batch_shape=port.shape,
            dtype=port.dtype,
            sparse=bool(getattr(port.tensor, "sparse", False)),
            name=names.fresh(operation.name),
        )
    return found

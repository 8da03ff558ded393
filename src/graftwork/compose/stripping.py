"""Taking the softmax or sigmoid off the end of a model, where nothing else depends on it."""

from collections.abc import Iterator
from typing import Any

from graftwork.compose.graph import calls_of, is_graph, own_calls
from graftwork.compose.ports import graph_of
from graftwork.models.lazy import keras
from graftwork.models.outputs import ending

_WRAPPERS = ("TimeDistributed", "SpectralNormalization")


def stripped(model: Any, index: int) -> Any:
    """Return a model whose output comes before its last softmax or sigmoid: the same layers with the same weights.

    Args:
        model: A Functional that nobody else holds: a layer of it may lose its activation.
        index: Which of its outputs, in the order in which Keras flattens them.

    Returns:
        A Functional; None where the softmax cannot be taken off: something else depends on it, or it leaves out masked classes.
    """
    last = ending(model, index)
    trail = last.trail
    if last.kind not in ("probabilities", "sigmoid") or not trail or not _alone(model, index, trail):
        return None
    _, tensor = trail[-1]
    operation = tensor._keras_history.operation
    if type(operation).__name__ in _WRAPPERS:
        operation = operation.layer
        if is_graph(operation):
            return None
    if hasattr(operation, "activation"):
        operation.activation = keras.activations.linear
        return model
    taken = operation._inbound_nodes[tensor._keras_history.node_index].input_tensors
    if len(taken) != 1:  # a mask beside the logits
        return None
    # a layer that changes nothing keeps the name and, in mixed precision, the dtype
    new: Any = keras.layers.Activation(
        "linear", dtype=getattr(operation, "dtype_policy", tensor.dtype), name=operation.name
    )
    for around, inner in reversed(trail):
        old = inner._keras_history.operation
        new = _with(around, old, new)
    return new


def _with(graph: Any, old: Any, new: Any) -> Any:
    """Return a graph that calls another layer where it called one."""

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer is new and not is_graph(new):
            return layer(*args, **{key: value for key, value in kwargs.items() if key != "mask"})
        return layer(*args, **kwargs)

    return keras.models.clone_model(
        graph,
        input_tensors=graph._inputs_struct,
        clone_function=lambda layer: new if layer is old else layer,
        call_function=call,
    )


def _alone(model: Any, index: int, trail: tuple[tuple[Any, Any], ...]) -> bool:
    """Return whether every operation on the way is called once, and no other output depends on what it makes."""
    graphs = list(_graphs(model))
    outer: Any = None
    for graph, tensor in trail:
        calls = sum(len(calls_of(each, tensor._keras_history.operation)) for each in graphs)
        followed = index if outer is None else outer._keras_history.tensor_index
        if calls != 1 or _depending(graph, tensor) != [followed]:
            return False
        outer = tensor
    return True


def _graphs(model: Any) -> Iterator[Any]:
    """Yield the graph of a model and those of the models in it, each once."""
    seen: set[int] = set()
    stack = [model]
    while stack:
        graph = graph_of(stack.pop())
        if id(graph) in seen:
            continue
        seen.add(id(graph))
        yield graph
        stack += [node.operation for node in own_calls(graph) if is_graph(node.operation)]


def _depending(graph: Any, tensor: Any) -> list[int]:
    """Return the positions of the outputs of a graph that a tensor goes into."""
    reached = {id(tensor)}
    for node in own_calls(graph):
        if any(id(each) in reached for each in node.input_tensors):
            reached |= {id(each) for each in node.outputs}
    return [position for position, each in enumerate(graph.outputs) if id(each) in reached]

"""What a model's outputs are, read off the operation that they come out of."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["probabilities", "sigmoid", "logits", "sigmoid_logits", "regression"]
"""Probabilities of classes that sum to 1 along the last axis, probabilities of independent yes and no, what softmax or sigmoid makes these
of, or values without bounds."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_ACTIVATIONS: dict[str, Kind] = {"softmax": "probabilities", "sigmoid": "sigmoid", "log_softmax": "logits"}
_ACTIVATED = (
    "Dense",
    "EinsumDense",
    "Activation",
    *(
        f"{kind}Conv{rank}D{way}"
        for kind in ("", "Separable", "Depthwise")
        for rank in (1, 2, 3)
        for way in ("", "Transpose")
    ),
)
_NOTHING_IN_USE = (
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "SpatialDropout3D",
    "AlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
)
_SAME = (*_NOTHING_IN_USE, "Identity", "ActivityRegularization", "Cast", "SaturateCast", "StopGradient")
_RESHAPING = ("Reshape", "Flatten", "Squeeze", "ExpandDims", "RepeatVector")
_WRAPPERS = ("TimeDistributed", "SpectralNormalization")


@dataclass(frozen=True, slots=True)
class Ending:
    """What an output comes out of.

    Attributes:
        kind: What the output is; None if its operation does not tell.
        what: The operation in words, as an end to "the model ends in".
        trail: The way there from the outermost graph to the innermost: each graph and the tensor in it that the output is. Empty where
            several operations make the output together.
        open: Whether the values have no bounds: they may be logits or numbers.
    """

    kind: Kind | None
    what: str
    trail: tuple[tuple[Any, Any], ...] = ()
    open: bool = False


def ending(model: Any, index: int = 0, told: Kind | None = None) -> Ending:
    """Return what an output of a model comes out of.

    Operations that leave values as they are, nested models and reshapes that leave the last axis in place are looked through.

    Args:
        model: A live model, or a skeleton.
        index: Which of its outputs, in the order in which Keras flattens them.
        told: What it is, where its operation does not tell and something else does.
    """
    graph = _graph(model)
    if graph is None:
        found = Ending(None, f"{type(model).__name__} {model.name!r}, which cannot be looked into")
    else:
        found = _of_tensor(graph, graph.outputs[index], ())
    return found if found.kind is not None or told is None else Ending(told, found.what)


def _graph(operation: Any) -> Any:
    graph = getattr(operation, "_functional", None) or operation
    return graph if getattr(graph, "outputs", None) and hasattr(graph, "_nodes_by_depth") else None


def _of_tensor(graph: Any, tensor: Any, trail: tuple[tuple[Any, Any], ...]) -> Ending:
    operation, node_index, tensor_index = tensor._keras_history
    node = operation._inbound_nodes[node_index]
    trail = (*trail, (graph, tensor))
    inner = _graph(operation)
    if inner is not None:
        return _of_tensor(inner, inner.outputs[tensor_index], trail)
    word = type(operation).__name__
    before = list(node.input_tensors)

    def back() -> Ending:
        return _of_tensor(graph, before[0], trail[:-1])

    if word in _SAME or (word == "Activation" and activation_of(operation) == "linear"):
        return back() if "float" in str(tensor.dtype) else Ending(None, f"{word} {operation.name!r}")
    if word in _RESHAPING:
        return _reshaped(back(), before[0], tensor, f"{word} {operation.name!r}")
    averaged = _averaged(operation, before)
    if averaged:
        return _all_alike([_of_tensor(graph, each, ()) for each in averaged], tensor, f"{word} {operation.name!r}")
    return replace(_of_operation(operation, tensor), trail=trail)


def _reshaped(found: Ending, before: Any, after: Any, what: str) -> Ending:
    """Return what reshaped values are: classes must still stand on the last axis."""
    if found.kind in ("probabilities", "logits") and (before.shape[-1] is None or before.shape[-1] != after.shape[-1]):
        return Ending(None, f"{what}, after which classes do not stand on the last axis")
    return found


def _averaged(operation: Any, before: list[Any]) -> list[Any]:
    """Return the tensors whose plain average an operation takes; none if it does something else."""
    if type(operation).__name__ == "Average" and hasattr(operation, "get_weights"):
        return before
    if type(operation).__name__ == "Mean" and operation.axis in (0, (0,), [0]):
        source, index, _ = before[0]._keras_history
        if type(source).__name__ == "Stack" and source.axis == 0:
            return list(source._inbound_nodes[index].input_tensors)
    return []


def _all_alike(found: list[Ending], tensor: Any, what: str) -> Ending:
    kinds = {each.kind for each in found}
    if len(kinds) == 1 and found[0].kind is not None:
        return Ending(found[0].kind, f"{what}, an average of {found[0].kind}")
    return Ending(None, what, open=all(each.open for each in found))


def _of_operation(operation: Any, tensor: Any) -> Ending:
    word, label = type(operation).__name__, f"{type(operation).__name__} {operation.name!r}"
    if word in _WRAPPERS:
        inner = _graph(operation.layer)
        return ending(operation.layer) if inner is not None else _of_operation(operation.layer, tensor)
    if word in ("Softmax", "LogSoftmax"):
        if operation.axis not in (-1, len(tensor.shape) - 1, [-1], (-1,)):
            return Ending(None, f"{label} over axis {operation.axis}, which is not the last")
        return Ending("probabilities" if word == "Softmax" else "logits", label)
    if word == "Sigmoid":
        return Ending("sigmoid", label)
    if word not in _ACTIVATED:
        return Ending(None, label)
    activation = activation_of(operation)
    if activation in ("softmax", "log_softmax") and _channels_first(operation, tensor):
        return Ending(
            None, f"{label} with the activation {activation} over the last axis, where its channels do not stand"
        )
    if activation == "linear":
        return Ending(None, f"{label} without an activation", open=True)
    return Ending(_ACTIVATIONS.get(activation), f"{label} with the activation {activation}")


def _channels_first(operation: Any, tensor: Any) -> bool:
    return getattr(operation, "data_format", None) == "channels_first" and len(tensor.shape) > 2


def activation_of(layer: Any) -> str:
    """Return the word for a layer's activation, as far as it is one of Keras or TensorFlow; ``linear`` if it has none."""
    function: Callable[..., Any] | None = getattr(layer, "activation", None)
    if function is None:
        return "linear"
    name = str(getattr(function, "__name__", type(function).__name__))
    home = str(getattr(function, "__module__", "")).partition(".")[0]
    return name if home in ("keras", "tensorflow") else f"{name} of {home}"

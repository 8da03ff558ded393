"""What tensors inside a model are when it runs, found without any graph but the model's own.

Results are compared with this: nothing here was unfolded, opened, renamed or built anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from graftwork.compose.graph import Tap, functional, own_calls, told
from graftwork.models.lazy import keras


def observed(model: Any, found: Sequence[Tap], values: Mapping[int, Any]) -> list[Any]:
    """Return the values of tensors inside a model.

    Args:
        model: The model.
        found: The tensors.
        values: The values of tensors of its outermost graph by their `id`: of its inputs, or of tensors in their place.
    """
    return [_observed(model, tap, values) for tap in found]


def _observed(model: Any, tap: Tap, values: Mapping[int, Any]) -> Any:
    graph = functional(model)
    for node in tap.within:
        known = _run(graph, values, node.input_tensors)
        (given, *_), _kwargs = node.arguments.fill_in(known)
        graph = functional(node.operation)
        values = {
            id(inner): value for inner, value in zip(graph._inputs, graph._standardize_inputs(given), strict=True)
        }
    return _run(graph, values, [tap.tensor])[id(tap.tensor)]


def _run(graph: Any, values: Mapping[int, Any], wanted: Sequence[Any]) -> dict[int, Any]:
    """Run what makes the wanted tensors, nested models as a whole."""
    nodes = own_calls(graph)
    missing, needed = {id(tensor) for tensor in wanted} - set(values), set()
    for node in reversed(nodes):
        if not missing.isdisjoint(map(id, node.outputs)):
            needed.add(id(node))
            missing |= {id(tensor) for tensor in node.input_tensors} - set(values)
    known = dict(values)
    for node in nodes:
        if id(node) in needed and not node.is_input:
            args, kwargs = node.arguments.fill_in(known)
            made = keras.tree.flatten(node.operation(*args, **told(node.operation, kwargs, False)))  # as `predict`
            known.update(
                {id(tensor): value for tensor, value in zip(node.outputs, made, strict=True) if id(tensor) not in known}
            )
    return known

"""Where a graph can be cut: what passes by a cut, and which single tensors everything passes through.

A cut is a set of tensors. It is clean when all that lies behind is computed from them alone: nothing that was made before the cut, on the
way to it, is used behind it or is an output. What no tensor shows passes by a cut too: the masks that Keras hangs on tensors when a model
runs.
"""

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.graph import Graph, Key, Step, Tap, masks_of
from graftwork.compose.naming import Names
from graftwork.compose.ports import fresh_inputs, inputs
from graftwork.errors import MismatchError
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True)
class Cut:
    """What a cut does to a graph.

    Attributes:
        before: The steps that make the tensors of the cut.
        behind: The steps that make the targets of those tensors.
        crossing: The tensors made before that are used behind or wanted, and are not in the cut.
        more: Inputs of the model that are used behind and not before.
        shared: Operations with weights that are called on both sides.
    """

    before: list[Step]
    behind: list[Step]
    crossing: list[Key]
    more: list[Key]
    shared: list[Any]

    @property
    def clean(self) -> bool:
        """Whether both sides can stand alone, and there is something on both."""
        return not self.crossing and not self.shared and bool(self.behind) and not all(s.is_input for s in self.before)


def cut(graph: Graph, keys: Sequence[Key], targets: Sequence[Key], given: Collection[Key] = ()) -> Cut:
    """Return what a cut does.

    Args:
        graph: The graph.
        keys: The tensors of the cut.
        targets: What is wanted behind.
        given: Where what lies before begins; by default at the model's inputs.
    """
    before = graph.needed(keys, given)
    inside = {id(step) for step in before}
    behind = [step for step in graph.needed(targets, keys) if id(step) not in inside]
    used = {key for step in behind for key in step.takes} | set(targets)
    crossing = [key for step in before for key in step.gives if key in used and key not in keys]
    more = [key for step in behind if step.is_input for key in step.gives]
    called = {id(step.operation) for step in before}
    shared = {id(s.operation): s.operation for s in behind if id(s.operation) in called and _has_weights(s.operation)}
    return Cut(before, behind, crossing, more, list(shared.values()))


def _carried(graph: Graph, taps: Sequence[Tap], keys: Sequence[Key], targets: Sequence[Key], found: Cut) -> str:
    """Return what more to cut: where a mask is all that passes by, the mask."""
    masks = dict.fromkeys(graph.same(key) for step in found.behind for key in masks_of(step) if key not in keys)
    if masks and cut(graph, [*keys, *masks], targets).clean:
        both = [*(tap.address for tap in taps), *(graph.label(key) for key in masks)]
        return f"cut at [{', '.join(both)}] to carry the mask along"
    return "cut there as well"


def _has_weights(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer) and bool(operation.weights)


def check_clean(graph: Graph, taps: Sequence[Tap], targets: Sequence[Key]) -> Cut:
    """Return what a cut does, if it is clean.

    Raises:
        MismatchError: If something passes by it, with its name and the nearest clean cuts.
    """
    keys = [graph.same(tap.key) for tap in taps]
    found = cut(graph, keys, targets)
    where = f"{graph.model.name!r} cannot be cut at {', '.join(repr(tap.address) for tap in taps)}"
    if found.crossing:
        names = [graph.label(key) for key in found.crossing]
        many = ", ".join(map(repr, names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        raise MismatchError(
            f"{where}: {many} {'is' if len(names) == 1 else 'are'} made before and used behind it",
            advice=f"{_carried(graph, taps, keys, targets, found)}, or {nearest(graph, keys, targets)}",
        )
    if found.shared:
        names = [operation.name for operation in found.shared]
        raise MismatchError(
            f"{where}: the layer {', '.join(map(repr, names))} is called before and behind it, so each side would get weights of its own",
            advice=nearest(graph, keys, targets),
        )
    if not found.clean:
        side = "behind" if not found.behind else "before"
        raise MismatchError(f"{where}: there is nothing {side} it", advice=nearest(graph, keys, targets))
    return found


def clean_cuts(graph: Graph, targets: Sequence[Key]) -> list[Key]:
    """Return the tensors that are a clean cut each, in order; inputs and the targets themselves leave nothing on one side."""
    return [key for step in graph.needed(targets) for key in step.gives if _is_clean(graph, key, targets)]


def nearest(graph: Graph, keys: Sequence[Key], targets: Sequence[Key]) -> str:
    """Return the clean cuts next to some tensors, as a sentence's end."""
    steps = graph.needed(targets)
    order = [key for step in steps for key in step.gives]
    places = [order.index(key) for key in keys if key in order]
    before = next((k for k in reversed(order[: min(places, default=0)]) if _is_clean(graph, k, targets)), None)
    after = next((k for k in order[max(places, default=0) + 1 :] if _is_clean(graph, k, targets)), None)
    if before is None and after is None:
        return "no single tensor cuts it in two"
    said = [f"{graph.label(key)!r} {word}" for key, word in ((before, "before"), (after, "after")) if key is not None]
    return f"the nearest clean cut{'s are' if len(said) > 1 else ' is'} {' and '.join(said)}"


def _is_clean(graph: Graph, key: Key, targets: Sequence[Key]) -> bool:
    return cut(graph, [key], targets).clean


# Masks ------------------------------------------------------------------------------------------------------------------


def check_masks(model: Any, taps: Sequence[Tap], targets: Sequence[Key] | None = None) -> tuple[str, ...]:
    """Return what to say of masks that tensors carry and that a new input in their place would not.

    Args:
        model: The model.
        taps: The tensors.
        targets: What is wanted behind them; by default the model's outputs.

    Raises:
        MismatchError: If a layer behind uses such a mask.
    """
    if not any(_makes_masks(layer) for layer in model._flatten_layers()):
        return ()
    graph = Graph(model, taps, deep=True)
    given = dict(zip(graph.inputs, fresh_inputs(inputs(model), Names()).values(), strict=True))
    wanted = [graph.same(key) for key in targets] if targets is not None else graph.outputs
    keys = [graph.same(tap.key) for tap in taps]
    values = graph.run(graph.needed([*wanted, *keys], given), given, Names())
    masked = [tap for tap, key in zip(taps, keys, strict=True) if _mask(values[key]) is not None]
    if not masked:
        return ()
    said = ", ".join(repr(tap.address) for tap in masked)
    for step in graph.needed(wanted, keys):
        if _uses_masks(step) and any(_mask(values[key]) is not None for key in step.takes):
            raise MismatchError(
                f"{said} of {model.name!r} carries a mask, which {graph.label(step.gives[0])!r} behind it uses and which a new input would "
                "not have",
                advice="cut before the layer that makes the mask (Masking, or an Embedding with mask_zero)",
            )
    return (f"the mask on {said} ends there: a loss on what lies behind is no longer masked",)


def _mask(tensor: Any) -> Any:
    return getattr(tensor, "_keras_mask", None)


def _makes_masks(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False):
        return True
    own = not type(layer).__module__.startswith("keras.")
    return own and type(layer).compute_mask is not keras.layers.Layer.compute_mask


def _uses_masks(step: Step) -> bool:
    """Return whether a call takes a mask from its tensors: its layer can, and none is given as a tensor of the graph."""
    if not isinstance(step.operation, keras.layers.Layer) or step.node is None:
        return False
    names = {
        name for name in inspect.signature(step.operation.call).parameters if name == "mask" or name.endswith("_mask")
    }
    names.discard("attention_mask")  # this one is never taken from a tensor
    given = step.node.arguments.kwargs
    return any(all(mask is None for mask in keras.tree.flatten(given.get(name))) for name in names)

"""A model cut in two."""

from collections.abc import Sequence
from typing import Any, ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.cuts import check_clean, check_masks
from graftwork.compose.graph import Graph, settle
from graftwork.compose.observing import observed
from graftwork.compose.parts import At, as_input, as_output, labelled, model_inputs, model_of, named_after, structured
from graftwork.models.lazy import keras


@verb
class Split(Verb):
    """Cut a model in two: a trunk that ends at tensors inside it, and a head that begins there. Chained, they are the model again.

    A cut past which something goes (a skip connection, a mask) is refused, with what passes by and the nearest tensors that everything
    goes through. The head is written beside the trunk.
    """

    kind: ClassVar[str] = "split"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    at: At
    """Where: the address of a tensor; or several, past which nothing goes: then trunk and head pass them by name."""

    name: str | None = None
    """What the trunk is called; by default as the model, with `_trunk` behind. The head is called so with `_head` behind."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the two; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        found = labelled(model, self.at)
        graph = Graph(model, list(found.values()))
        cut = check_clean(graph, list(found.values()), graph.outputs)
        notes = list(check_masks(model, list(found.values())))
        keys = [graph.same(tap.key) for tap in found.values()]
        base = self.name or member.name

        def joint(tensors: dict[str, Any]) -> Any:
            return tensors if len(tensors) > 1 or isinstance(self.at, dict) else structured("", tensors)

        below = model_inputs(graph, [key for step in cut.before if step.is_input for key in step.gives])
        more = model_inputs(graph, cut.more)
        if more:
            notes.append(f"the head also takes {', '.join(map(repr, more))}, which the trunk does not need")
        trunk, order = model_of(
            graph,
            below,
            keys,
            self.name or f"{base}_trunk",
            lambda new: as_input(graph, new),
            lambda made: joint(dict(zip(found, made, strict=True))),
        )
        ends = {label: (key, tap.tensor) for key, (label, tap) in zip(keys, found.items(), strict=True)}
        head, _ = model_of(
            graph,
            {**ends, **more},
            graph.outputs,
            f"{base}_head",
            joint,
            lambda made: as_output(graph, made),
        )

        settle(trunk, head)

        def reference(values: Any) -> Any:
            known = {id(below[label][1]): value for label, value in zip(order, keras.tree.flatten(values), strict=True)}
            return joint(dict(zip(found, observed(model, list(found.values()), known), strict=True)))

        return Composed(model=trunk, reference=reference, exact=True, notes=tuple(notes), more={"head": head})

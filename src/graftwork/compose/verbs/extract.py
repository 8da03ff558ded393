"""The piece of a model between tensors."""

from collections.abc import Sequence
from typing import Any, ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.cuts import check_masks, cut, nearest
from graftwork.compose.graph import Graph, settle
from graftwork.compose.naming import Names
from graftwork.compose.observing import observed
from graftwork.compose.parts import At, as_input, labelled, model_inputs, model_of, named_after, structured
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras


@verb
class Extract(Verb):
    """Take the part of a model that leads to tensors inside it, from its inputs or from other tensors inside.

    The result has the layers in between with their weights. Nested models are opened where an address leads into them, else kept as
    they are.
    """

    kind: ClassVar[str] = "extract"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    at: At
    """What the result gives: the address of a tensor, such as `conv5_block3_out`, `encoder/block_2`, `shared#2` (its second call) or
    `lstm[1]` (its second output); several; or addresses by the names they get."""

    start: At | None = None
    """The tensors that are the inputs of the result, as for `at`; by default the inputs of the model."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the piece; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        found = labelled(model, self.at)
        starts = labelled(model, self.start) if self.start is not None else {}
        graph = Graph(model, [*found.values(), *starts.values()])
        targets = [graph.same(tap.key) for tap in found.values()]
        notes: list[str] = []
        if starts:
            keys = [graph.same(tap.key) for tap in starts.values()]
            self._check_start(graph, member.name, list(starts), keys, targets)
            notes += check_masks(model, list(starts.values()), targets)
            ins = {label: (key, tap.tensor) for key, (label, tap) in zip(keys, starts.items(), strict=True)}
        else:
            needed = [key for step in graph.needed(targets) if step.is_input for key in step.gives]
            ins = model_inputs(graph, needed)
            left = [name for name in model_inputs(graph) if name not in ins]
            if left:
                notes.append(
                    f"{', '.join(map(repr, left))} of {member.name} is not needed and not an input of the result"
                )
        result, order = model_of(
            graph,
            ins,
            targets,
            self.name or member.name,
            lambda new: structured(self.start, new) if self.start is not None else as_input(graph, new),
            lambda made: structured(self.at, dict(zip(found, made, strict=True))),
        )

        settle(result)

        def reference(values: Any) -> Any:
            given = dict(zip(order, keras.tree.flatten(values), strict=True))
            if starts:
                made = graph.run(graph.needed(targets, keys), {ins[label][0]: given[label] for label in ins}, Names())
                return structured(self.at, {label: made[key] for label, key in zip(found, targets, strict=True)})
            known = {id(ins[label][1]): value for label, value in given.items()}
            return structured(self.at, dict(zip(found, observed(model, list(found.values()), known), strict=True)))

        return Composed(model=result, reference=reference, exact=True, notes=tuple(notes))

    @staticmethod
    def _check_start(
        graph: Graph, name: str, labels: Sequence[str], keys: Sequence[Any], targets: Sequence[Any]
    ) -> None:
        """Refuse starts from which the targets cannot be computed, or that do not lead to them."""
        used = {key for step in graph.needed(targets, keys) for key in step.takes} | set(targets)
        idle = [graph.label(key) for key in keys if key not in used]
        if idle:
            raise OptionError(
                f"start: {', '.join(map(repr, idle))} of {name} does not lead to what is extracted; leave it out"
            )
        found = cut(graph, keys, targets)
        passing = [graph.label(key) for key in (*found.crossing, *found.more)]
        if passing:
            raise MismatchError(
                f"{', '.join(repr(graph.label(key)) for key in targets)} of {name} cannot be computed from "
                f"{', '.join(repr(graph.label(key)) for key in keys)} alone: {', '.join(map(repr, passing[:6]))} "
                f"{'passes' if len(passing) == 1 else 'pass'} by",
                advice=f"start there as well, or {nearest(graph, keys, targets)}",
            )

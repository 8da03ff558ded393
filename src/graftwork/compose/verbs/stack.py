"""A trained combination of what several models give."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.heads import HeadSpec, as_head, units_of
from graftwork.compose.inputs import InputMode, feeds
from graftwork.compose.joining import Trunk, joined, kept_still
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, call, outputs
from graftwork.errors import MismatchError, OptionError
from graftwork.tensor import FLOATS


@verb
class Stack(Verb):
    """Put a new head on what models give side by side, to be trained: it learns whom to believe when.

    The models' outputs are concatenated and go through the head. The models themselves stay as they are, unless `freeze` is off.
    """

    kind: ClassVar[str] = "stack"

    head: HeadSpec | None = None
    """A number of units (softmax; sigmoid for one), a layer, a model, or a list of these; by default as many units as each model gives."""

    hidden: Sequence[int] = ()
    """Units of Dense layers with relu before the head."""

    activation: str | None = None
    """The activation of the head, where it is a number of units: `linear` for values without bounds."""

    freeze: bool = True
    """Keep the models' weights, and the statistics of their BatchNormalization, as they are."""

    inputs: InputMode = "shared"
    """`shared` where the models take the same; `separate` where each has inputs of its own."""

    inline: bool = False
    """Put the layers of all models in one graph, named after their model, instead of each model as one layer."""

    name: str = "stack"
    """What the result is called."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the stack; see `Verb.compose`."""
        if len(members) < 2:
            raise OptionError("a stack takes at least two models; for a new head on one: swap_head")
        names = Names([self.name])
        for member in members:
            member.model.name = names.fresh(member.name)
        ports = {member.name: outputs(member.model) for member in members}
        rows = [_row(name, port) for name, known in ports.items() for port in known.values()]
        head = self.head if self.head is not None else _width(ports)
        notes: list[str] = []
        trunks = []
        given = feeds(members, names, self.inputs)
        for member in members:
            model, said = kept_still(member.model) if self.freeze else (member.model, ())
            notes += [f"{member.name}: {each}" for each in said]
            trunks.append(Trunk(name=member.name, model=model, run=_runner(member.model)))
        made = joined(
            trunks,
            given,
            lambda value: as_head(head, value, names, hidden=self.hidden, activation=self.activation),
            names,
            flat=self.inline,
            name=self.name,
        )
        known = {member.classes for member in members}
        classes = members[0].classes if len(known) == 1 and len(members[0].classes or ()) == units_of(head) else None
        return replace(made, classes=classes, notes=(*notes, *made.notes), tables={"features": rows})


def _runner(model: Any) -> Any:
    return lambda given: list(call(model, given).values())


def _width(ports: Mapping[str, Mapping[str, Port]]) -> int:
    """Return how many units the head has where nobody says: as many as every model gives."""
    widths = {name: [port.shape[-1] for port in known.values()] for name, known in ports.items()}
    first = next(iter(widths.values()))
    if len(first) != 1 or first[0] is None or any(each != first for each in widths.values()):
        said = ", ".join(f"{name} {' and '.join(map(str, each))}" for name, each in widths.items())
        raise OptionError(
            f"the models do not give the same number of values ({said}), so say how many the head has: head=10"
        )
    return first[0]


def _row(member: str, port: Port) -> dict[str, Any]:
    """Return how an output is used, refusing one that cannot be put beside others."""
    if len(port.shape) != 2 or port.shape[-1] is None:
        raise MismatchError(
            f"{member} gives {port}, which cannot stand beside other outputs: one row of a fixed number of values per example is needed",
            advice="use fuse, which pools features, or put layers behind the model first (the verb insert)",
        )
    if port.dtype not in FLOATS:
        raise MismatchError(
            f"{member} gives {port}, which are no floating-point numbers",
            advice="cut it before they are made: the verb extract",
        )
    return {"model": member, "output": port.name, "values": port.shape[-1]}

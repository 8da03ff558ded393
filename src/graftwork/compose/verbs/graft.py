"""A piece of one model in the place of a piece of another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from graftwork.compose.adapters import Adapters, adapter
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.changes import Change, Changing
from graftwork.compose.cuts import check_masks, cut
from graftwork.compose.graph import Graph, Key, Step, Tap, claim
from graftwork.compose.naming import Names
from graftwork.compose.parts import labelled, model_inputs, named_after, port_of
from graftwork.compose.ports import outputs
from graftwork.errors import MismatchError, OptionError, UnknownNameError

WAYS = ("host:donor", "donor:host")
"""Where a graft passes from one model to the other."""


@verb
class Graft(Verb):
    """Put a piece of the donor in the place of a piece of the host; what is around it keeps its weights.

    Each piece lies between tensors: from `start` to `at` in the host, from `donor_start` to `donor_at` in the donor. By default a piece
    begins at its model's inputs, and the donor's ends at its outputs. Several tensors go in the order in which they are named; where they
    are not named, they meet by the names of inputs and outputs.
    """

    kind: ClassVar[str] = "graft"
    takes: ClassVar[tuple[str, ...]] = ("host", "donor")

    at: str | list[str]
    """The tensors of the host that the donor's piece makes from now on: one address or several."""

    start: str | list[str] | None = None
    """Where the host's piece begins: the tensors that the donor's piece takes."""

    donor_at: str | list[str] | None = None
    """Where the donor's piece ends."""

    donor_start: str | list[str] | None = None
    """Where the donor's piece begins."""

    adapters: Adapters = Field(default_factory=dict)
    """What stands where the two do not fit, by `host:donor` (into the piece) and `donor:host` (behind it): dense, gap, flatten, resize,
    cast, pad, a layer, or a list of these."""

    name: str | None = None
    """What the result is called; by default as the host."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Graft the piece; see `Verb.compose`."""
        unknown = [key for key in self.adapters if key not in WAYS]
        if unknown:
            raise UnknownNameError("way between the models (under `adapters`)", unknown[0], WAYS)
        host, donor = members
        donor.model.name = Names([named_after(host).name]).fresh(donor.name)
        old = _piece(host, self.start, self.at, "start", "at")
        new = _piece(donor, self.donor_start, self.donor_at, "donor_start", "donor_at")
        _check_left(host, old)
        starts = _met(host, old.starts, donor, new.starts, self.start, self.donor_start, "takes")
        ends = _met(host, old.ends, donor, new.ends, self.at, self.donor_at, "gives")
        changing = Changing(old.graph, old.steps)
        claim(donor.model, new.steps, changing.names)
        ways = []
        for mine, theirs in starts:
            value = port_of(old.graph, mine, old.graph.tensor(mine))
            port = port_of(new.graph, theirs, new.graph.tensor(theirs))
            made = adapter(value, port, f"{host.name} → {donor.name}", self.adapters.get("host:donor"), changing.names)
            changing.notes += made.notes
            ways.append((theirs, made.adapt))

        def make(values: Sequence[Any]) -> list[Any]:
            given = {key: adapt(value) for (key, adapt), value in zip(ways, values, strict=True)}
            made = new.graph.run(new.steps, given, changing.names)
            return [made[theirs] for _, theirs in ends]

        count = sum(1 for step in new.steps if not step.is_input), sum(1 for step in old.steps if not step.is_input)
        changing.notes.append(f"{_calls(count[0])} of {donor.name} in the place of {_calls(count[1])} of {host.name}")
        change = Change(
            takes=[mine for mine, _ in starts],
            gives=[mine for mine, _ in ends],
            make=make,
            where=f"{donor.name} → {host.name}",
            fit=self.adapters.get("donor:host"),
            adaptable=True,
        )
        return changing.composed(host, [change], self.name)


@dataclass(frozen=True, slots=True)
class _Piece:
    """The part of a model between tensors.

    Attributes:
        graph: The model's graph.
        starts: Where it begins, by name.
        ends: Where it ends, by name.
        steps: The steps in between.
    """

    graph: Graph
    starts: Mapping[str, Key]
    ends: Mapping[str, Key]
    steps: list[Step]


def _piece(member: Member, start: Any, at: Any, start_word: str, at_word: str) -> _Piece:
    """Return the piece between tensors.

    Raises:
        MismatchError: If what ends the piece is made of more than what it starts with.
    """
    model = member.model
    starting: dict[str, Tap] = labelled(model, start) if start is not None else {}
    ending: dict[str, Tap] = labelled(model, at) if at is not None else {}
    graph = Graph(model, [*starting.values(), *ending.values()])
    ends = {name: graph.same(tap.key) for name, tap in ending.items()}
    if at is None:
        ends = dict(zip(outputs(model), graph.outputs, strict=True))
    targets = list(ends.values())
    if start is None:
        needed = {key for step in graph.needed(targets) if step.is_input for key in step.gives}
        starts = {name: key for name, (key, _) in model_inputs(graph).items() if key in needed}
    else:
        starts = {name: graph.same(tap.key) for name, tap in starting.items()}
    found = cut(graph, list(starts.values()), targets)
    if passing := [*found.crossing, *found.more]:
        names = ", ".join(repr(graph.label(key)) for key in passing[:6])
        raise MismatchError(
            f"{at_word} of {member.name} is made of more than {start_word}: {names} {'is' if len(passing) == 1 else 'are'} used too",
            advice=f"name it in {start_word} as well, or take a piece that everything goes through",
        )
    if idle := [name for name, key in starts.items() if not any(key in step.takes for step in found.behind)]:
        raise OptionError(
            f"{start_word}: {', '.join(map(repr, idle))} of {member.name} does not lead to {at_word}; leave it out"
        )
    if start is not None:
        check_masks(model, list(starting.values()), targets)
    return _Piece(graph, starts, ends, [step for step in found.behind if not step.is_input])


def _check_left(host: Member, piece: _Piece) -> None:
    """Refuse a piece of the host of which something else is used than what ends it."""
    graph, ends = piece.graph, set(piece.ends.values())
    inside = {id(step) for step in piece.steps}
    rest = [step for step in graph.needed(graph.outputs, ends) if id(step) not in inside]
    used = {key for step in rest for key in step.takes} | set(graph.outputs)
    left = [key for step in piece.steps for key in step.gives if key in used and key not in ends]
    if left:
        names = ", ".join(repr(graph.label(key)) for key in left[:6])
        raise MismatchError(
            f"{names} of {host.name} {'is' if len(left) == 1 else 'are'} made inside the piece and used outside it",
            advice="name it in at as well, with what the donor gives for it in donor_at",
        )


def _met(
    host: Member, mine: Mapping[str, Key], donor: Member, theirs: Mapping[str, Key], said: Any, other: Any, word: str
) -> list[tuple[Key, Key]]:
    """Return which tensor of the donor meets which of the host."""
    if len(mine) == len(theirs) and (len(mine) == 1 or (said is not None and other is not None)):
        return list(zip(mine.values(), theirs.values(), strict=True))
    if set(mine) == set(theirs):
        return [(key, theirs[name]) for name, key in mine.items()]
    raise MismatchError(
        f"the piece of {host.name} {word} {', '.join(map(repr, mine))}, that of {donor.name} {', '.join(map(repr, theirs))}",
        advice="name as many tensors of both, in the order in which they meet",
    )


def _calls(count: int) -> str:
    return f"{count} call" if count == 1 else f"{count} calls"

"""The repeated blocks of a graph: pieces of one form that follow one another, found without looking at names.

A graph is cut at the tensors that everything behind goes through, but for what was made before the blocks and is used in all of them
(an attention mask). Pieces between such cuts that repeat, one or several at a time, are blocks. Where there are several runs of them, as
in the stages of a convolutional network, the one that covers the most layers is taken.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from graftwork.compose.flow import Flow
from graftwork.compose.forms import Forms, StepForm, shape_of, spelled, weights_of
from graftwork.compose.graph import Graph, Key, Step, Tap, functional, is_graph, own_calls, why_closed
from graftwork.errors import MismatchError


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Blocks:
    """The repeated blocks of a model.

    Attributes:
        label: What messages call the model.
        flow: Its graph.
        cuts: What the first block takes, and what each block gives.
        context: Tensors made before the blocks that each of them takes, in the order in which a block uses them.
        steps: The calls of each block, in one order.
        form: What all blocks have in common.
    """

    label: str
    flow: Flow
    cuts: tuple[Key, ...]
    context: tuple[Key, ...]
    steps: tuple[tuple[Step, ...], ...]
    form: tuple[StepForm, ...]

    @property
    def count(self) -> int:
        """How many blocks there are."""
        return len(self.steps)

    def __str__(self) -> str:
        first, last = (self.flow.graph.label(cut) for cut in (self.cuts[1], self.cuts[-1]))
        what = spelled(shape_of(self.flow.graph.tensor(self.cuts[0])))
        calls = "1 call" if len(self.steps[0]) == 1 else f"{len(self.steps[0])} calls"
        return f"{self.count} blocks of {calls} on {what}; the first ends in {first!r}, the last in {last!r}"

    def behind(self) -> frozenset[Key]:
        """Return the tensors made before or in the blocks that are used behind them, apart from what the last block gives."""
        return self.flow.passing(self.cuts[-1])

    def ends(self, block: int) -> tuple[str, str]:
        """Return the names of the first and the last layer of a block."""
        return self.steps[block][0].label, self.steps[block][-1].label

    def has(self, pattern: str) -> bool:
        """Return whether a glob matches the name or address of a layer in a block."""
        graph = self.flow.graph
        names = ((step.label, graph.label(step.gives[0])) for steps in self.steps for step in steps)
        return any(fnmatchcase(name, pattern) for both in names for name in both)


def find_blocks(label: str, model: Any, forms: Forms, block: str | None = None) -> Blocks:
    """Return the repeated blocks of a model.

    Args:
        label: What messages call it.
        model: A graph of layers.
        forms: Says which pieces are of one form.
        block: A glob that the name of a layer in the blocks matches; without it, the run that covers the most layers is taken.

    Raises:
        MismatchError: If there are none, with the reason.
        OptionError: If the model is no graph of layers.
    """
    found: list[tuple[int, Blocks]] = []
    tied: list[str] = []
    for within in _openings(functional(model), ()):
        taps = [Tap(within, within[-1].outputs[0], "")] if within else []
        found += _Search(label, Flow(Graph(model, taps)), forms, tied).runs()
    wanted = [(size, run) for size, run in found if block is None or run.has(block)]
    if wanted:
        return max(wanted, key=lambda pair: pair[0])[1]  # the first of the largest
    if found:
        runs = list(dict.fromkeys(str(run) for _, run in sorted(found, key=lambda pair: -pair[0])))
        raise MismatchError(
            f"no run of repeated blocks of {label} has a layer that {block!r} matches; there are " + ", ".join(runs[:4])
        )
    why = "no two pieces that follow one another are of the same classes, settings, wiring and shapes"
    if tied:
        why = f"{', '.join(map(repr, list(dict.fromkeys(tied))[:4]))} of it is called in several places, which share its weights"
    raise MismatchError(
        f"{label} has no repeated blocks: {why}", advice="layers are put together from models of equal blocks in a row"
    )


def _openings(graph: Any, within: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Yield which nested models to open: none, then each with those around it."""
    yield within
    seen = set()
    for node in own_calls(graph):
        if not node.is_input and is_graph(node.operation) and not why_closed(node) and id(node.operation) not in seen:
            seen.add(id(node.operation))
            yield from _openings(functional(node.operation), (*within, node))


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What lies between two cuts; pieces of one number are of one form and use the same tensors from before."""

    number: int
    steps: tuple[Step, ...]
    context: tuple[Key, ...]
    size: int


class _Search:
    """The search for runs of blocks in one graph."""

    def __init__(self, label: str, flow: Flow, forms: Forms, tied: list[str]) -> None:
        self.label, self.flow, self.forms, self.tied = label, flow, forms, tied
        self.keys = [key for step in flow.steps for key in step.gives]
        self.passing = {key: flow.passing(key) for key in self.keys}
        self.calls: dict[int, set[int]] = {}
        for place, step in enumerate(flow.steps):
            self.calls.setdefault(id(step.operation), set()).add(place)
        self._numbers: dict[Any, int] = {}
        self._pieces: dict[Any, _Piece] = {}

    def runs(self) -> list[tuple[int, Blocks]]:
        """Return every run of blocks, and how many layers it covers; one of each stretch of cuts."""
        counts: dict[frozenset[Key], int] = {frozenset(): 2}
        for passing in self.passing.values():
            counts[passing] = counts.get(passing, 0) + 1
        contexts = sorted((context for context, count in counts.items() if count > 1), key=len)
        found: dict[tuple[Key, ...], tuple[int, Blocks]] = {}
        for context in contexts:
            for cuts in self._chains(context):
                for size, blocks in self._repeats(cuts, context):
                    found.setdefault(blocks.cuts, (size, blocks))
        return list(found.values())

    def _chains(self, context: frozenset[Key]) -> Iterator[list[Key]]:
        """Yield the tensors that everything goes through but some that were made before; an output ends a chain."""
        cuts: list[Key] = []
        for key in self.keys:
            made_before = not any(other == key or self.flow.leads(other, key) for other in context)
            if self.passing[key] <= context and made_before:
                cuts.append(key)
                if key in self.flow.outputs:
                    yield cuts
                    cuts = [key]
        yield cuts

    def _repeats(self, cuts: list[Key], context: frozenset[Key]) -> Iterator[tuple[int, Blocks]]:
        """Yield the best way to see blocks in each stretch of cuts where pieces repeat."""
        if len(cuts) < 3:
            return
        pieces = [self._piece(cuts[k], cuts[k + 1], context) for k in range(len(cuts) - 1)]
        best: dict[int, tuple[tuple[int, int, bool, int], int, int, int]] = {}
        for period in range(1, len(pieces) // 2 + 1):
            for begin, end in _stretches([piece.number for piece in pieces], period):
                count = (end - begin) // period
                for start in range(begin, end - count * period + 1):
                    parts = pieces[start : start + count * period]
                    if not any(weights_of(step) for piece in parts[:period] for step in piece.steps):
                        continue
                    size = sum(piece.size for piece in parts)
                    groups = [parts[k : k + period] for k in range(0, len(parts), period)]
                    told = _told([[step.label for piece in group for step in piece.steps] for group in groups])
                    rank = (size, -period, told, -start)
                    old = next((key for key, (_, s, p, n) in best.items() if s < end and begin < s + p * n), None)
                    if old is None or rank > best[old][0]:
                        if old is not None:
                            del best[old]
                        best[start] = rank, start, period, count
        for rank, start, period, count in best.values():
            groups = [pieces[start + k * period : start + (k + 1) * period] for k in range(count)]
            steps = tuple(tuple(step for piece in group for step in piece.steps) for group in groups)
            used = tuple(dict.fromkeys(key for piece in groups[0] for key in piece.context))
            first = {key: f"context {place}" for place, key in enumerate(used)}
            form = self.forms.of(self.flow, steps[0], {cuts[start]: "input", **first})
            assert form is not None
            blocks = Blocks(
                label=self.label,
                flow=self.flow,
                cuts=tuple(cuts[start + k * period] for k in range(count + 1)),
                context=used,
                steps=steps,
                form=form,
            )
            yield rank[0], blocks

    def _piece(self, start: Key, end: Key, context: frozenset[Key]) -> _Piece:
        """Return what lies between two cuts."""
        steps = tuple(self.flow.between([end], {start, *context}))
        used = tuple(dict.fromkeys(key for step in steps for key in step.takes if key in context))
        if (start, end, used) in self._pieces:
            return self._pieces[start, end, used]
        given = {start: "input", **{key: f"context {place}" for place, key in enumerate(used)}}
        number = -1 - len(self._pieces)  # like no other
        if not self._is_tied(steps):
            form = self.forms.of(self.flow, steps, given)
            if form is not None:
                number = self._numbers.setdefault((form, used), len(self._numbers))
        size = sum(_layers_in(step.operation) for step in steps)
        piece = self._pieces[start, end, used] = _Piece(number, steps, used, size)
        return piece

    def _is_tied(self, steps: Sequence[Step]) -> bool:
        """Return whether a layer with weights is called outside as well, so that no piece can be taken alone."""
        inside = {self.flow.maker[step.gives[0]] for step in steps}
        tied = [step.label for step in steps if weights_of(step) and self.calls[id(step.operation)] - inside]
        self.tied += tied
        return bool(tied)


def _stretches(numbers: Sequence[int], period: int) -> Iterator[tuple[int, int]]:
    """Yield where a sequence repeats itself with a period at least once: begin and end."""
    begin = 0
    for place in range(len(numbers) - period + 1):
        ends = place == len(numbers) - period or numbers[place] != numbers[place + period]
        if ends:
            if place - begin >= period:
                yield begin, place + period
            begin = place + 1


def _layers_in(operation: Any) -> int:
    """Return how many layers a call runs: those of a nested model count one by one."""
    if operation is None or not is_graph(operation):
        return 1
    return sum(_layers_in(node.operation) for node in own_calls(functional(operation)) if not node.is_input)


def _told(blocks: Sequence[Sequence[str]]) -> bool:
    """Return whether the names of layers tell blocks apart: all of a block begin alike, or end in one number, and no other block's do."""
    prefixes = {_beginning(names) for names in blocks}
    numbers = [{(re.findall(r"\d+", name) or ["0"])[-1] for name in names} for names in blocks]
    return (len(prefixes) == len(blocks) and all(re.search(r"\d", prefix) for prefix in prefixes)) or (
        all(len(found) == 1 for found in numbers) and len(set.union(*numbers)) == len(blocks)
    )


def _beginning(names: Sequence[str]) -> str:
    """Return what all names begin with."""
    first, last = min(names), max(names)
    return first[: next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]

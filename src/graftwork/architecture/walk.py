"""One walk through two graphs in step, backwards from their outputs, which pairs nodes that compute the same.

Where the order of a call's inputs matters, the k-th meets the k-th; where it does not (Add, …) or can be made up for (Concatenate),
names decide first, then places, then what the branches compute. Branches that compute the same are twins: what is already paired
tells them apart, else their order does.
"""

import functools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import dataclass, field

from graftwork.architecture.compare import Difference, kind_of
from graftwork.architecture.findings import MAX_DIFFERENCES, Findings, join
from graftwork.architecture.numbering import Numbering
from graftwork.architecture.rearrange import GraphPair
from graftwork.architecture.wiring import Node, Tensor, Wiring

_AHEAD = 100
"""Nodes that are looked at before twins are paired."""

_LOOKS = 1_000_000
"""Nodes that are looked at so in all."""

CAREFUL = 200_000
"""Nodes that are looked at while pairing twins with care."""

_ROUNDS = 3
"""How often what depends on a pair goes up and down the graphs."""

_RESYNC = 6
"""Layers that are looked through for one that is missing on the other side."""


@dataclass(slots=True)
class Tally:
    """What the walks of one attempt have together.

    Attributes:
        careful: Nodes that may still be looked at while pairing twins with care; 0 for no care.
        looks: Nodes that may still be looked at before twins are paired.
        guesses: How often twins were paired.
        conflicts: How often a pair contradicted others.
    """

    careful: int = 0
    looks: int = _LOOKS
    guesses: int = 0
    conflicts: int = 0


@dataclass(slots=True, eq=False)
class Walk:
    """One walk through a pair of graphs.

    Attributes:
        pair: The graphs; the pairs of nodes go here.
        up: Numbers of the nodes of A and of B that say how they are computed.
        down: Numbers that say, besides, what becomes of them.
        depth: How deep the graphs lie in others.
        numbering: Gives these numbers.
        findings: Where what is found goes.
        tally: What all walks have together.
        compare: Compares the layers of two nodes, and what is inside them.
    """

    pair: GraphPair
    up: tuple[list[int], list[int]]
    down: tuple[list[int], list[int]]
    depth: int
    numbering: Numbering
    findings: Findings
    tally: Tally
    compare: Callable[[Node, Node], None]
    places: dict[int, int] = field(default_factory=dict)
    places_back: dict[int, int] = field(default_factory=dict)
    queue: deque[tuple[Tensor, Tensor, str]] = field(default_factory=deque)
    twins: deque[tuple[int, int]] = field(default_factory=deque)
    outputs: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    again: Counter[int] = field(default_factory=Counter)
    stopped: bool = False

    def run(self, inputs: Iterable[tuple[Tensor, Tensor]], outputs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Pair nodes, from pairs of inputs and outputs.

        Raises:
            StoreError: If layers nest deeper, or are more, than Keras would write.
        """
        for one, other in outputs:
            self.queue.append((one, other, ""))
            self.outputs[0].append(one)
            self.outputs[1].append(other)
        for one, other in inputs:
            self.queue.append((one, other, ""))
        while self.queue or self.twins:
            # What is certain goes first: it often tells twins apart.
            if self.queue:
                self._meet(*self.queue.popleft())
            else:
                self.tally.guesses += 1
                self._tell_apart()
                self._choose(*self.twins.popleft())
        self._remaining()

    def _tell_apart(self) -> None:
        """Let the pairs that are certain by now tell apart what depends on them."""
        cost = _ROUNDS * (len(self.pair.a.nodes) + len(self.pair.b.nodes))
        if self.tally.careful < cost:
            return
        self.tally.careful -= cost
        marks = {one: number for number, one in enumerate(self.pair.nodes)}
        marks_b = {self.pair.nodes[one]: number for one, number in marks.items()}
        for k, (wiring, mark, ends) in enumerate(
            ((self.pair.a, marks, self.outputs[0]), (self.pair.b, marks_b, self.outputs[1]))
        ):
            marked: Mapping[int, int] = mark
            for _ in range(_ROUNDS):
                self.up[k][:] = self.numbering.upward(wiring, mark, self.depth, marked)
                self.down[k][:] = self.numbering.downward(wiring, self.up[k], ends)
                marked = dict(enumerate(self.down[k]))

    def _path(self, node: Node, of_b: bool) -> str:
        return join(self.pair.path_b if of_b else self.pair.path_a, node.layer.name)

    def _differ(self, a: Node, b: Node, what: str, one: object, other: object, reason: str = "") -> None:
        self.findings.differ([Difference(self._path(a, False), self._path(b, True), what, one, other, reason)])

    def _meet(self, one: Tensor, other: Tensor, by: str) -> None:
        """Pair two tensors, which pairs the nodes that make them."""
        (number_a, output_a), (number_b, output_b) = one, other
        a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
        if output_a != output_b:
            self._differ(a, b, "output", output_a, output_b, f"used by layer {by!r}" if by else "")
        if number_a in self.pair.nodes or number_b in self.pair.back:
            if self.pair.nodes.get(number_a) != number_b:
                self._conflict(number_a, number_b, by)
            return
        if a.is_input and b.is_input:
            self._marry(number_a, number_b)
            self.compare(a, b)
            return
        if a.is_input or b.is_input or kind_of(a.layer) != kind_of(b.layer):
            if self._skip(one, other, by):
                return
            if a.is_input or b.is_input:
                self._differ(a, b, "class", kind_of(a.layer), kind_of(b.layer))
                self.stopped = True
                return
        before = self.places.get(a.place), self.places_back.get(b.place)
        if before != (None, None) and before != (b.place, a.place):
            self._conflict(number_a, number_b, by)
            return
        self._marry(number_a, number_b)
        if before == (None, None):
            self.compare(a, b)
        self._descend(number_a, number_b)

    def _marry(self, number_a: int, number_b: int) -> None:
        self.pair.nodes[number_a] = number_b
        self.pair.back[number_b] = number_a
        place_a, place_b = self.pair.a.nodes[number_a].place, self.pair.b.nodes[number_b].place
        self.places[place_a], self.places_back[place_b] = place_b, place_a

    def _conflict(self, number_a: int, number_b: int, by: str) -> None:
        a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
        self.stopped = True
        self.tally.conflicts += 1
        if len(self.findings.differences) >= MAX_DIFFERENCES:
            return  # what follows looks through all nodes
        met_b = self.places.get(a.place)
        met_a = self.places_back.get(b.place)
        layers_a, layers_b = self.pair.a.graph.layers, self.pair.b.graph.layers
        seen = f"{layers_b[met_b].name!r} in B" if met_b is not None and met_b >= 0 else "no layer of B"
        back = f"{layers_a[met_a].name!r} in A" if met_a is not None and met_a >= 0 else "no layer of A"
        reason = f"elsewhere {a.layer.name!r} takes the place of {seen}, and {b.layer.name!r} that of {back}"
        user = join(self.pair.path_a, by) if by else self.pair.path_a
        met = next((n for n, x in enumerate(self.pair.a.nodes) if by and x.layer.name == by), None)
        user_b = self.pair.nodes.get(met) if met is not None else None
        path_b = (
            join(self.pair.path_b, self.pair.b.nodes[user_b].layer.name) if user_b is not None else self.pair.path_b
        )
        self.findings.differ([Difference(user, path_b, "inputs", a.layer.name, b.layer.name, reason)])

    def _descend(self, number_a: int, number_b: int) -> None:
        """Pair what goes into two nodes."""
        a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
        if a.constants != b.constants:
            self._differ(a, b, "arguments", dict(a.constants), dict(b.constants))
        if a.slots != b.slots:
            if len(a.slots) != len(b.slots):
                names_a = [self.pair.a.name(tensor) for tensor in a.inputs]
                names_b = [self.pair.b.name(tensor) for tensor in b.inputs]
                self._differ(a, b, "inputs", names_a, names_b, f"{len(a.slots)} inputs against {len(b.slots)}")
                self.stopped = True
                if a.flippable and b.flippable:
                    self.twins.append((number_a, number_b))
                    return
            else:
                self._differ(a, b, "arguments", list(a.slots), list(b.slots))
        elif a.flippable and b.flippable:
            colours = [self.down[0][source] for source, _ in a.inputs]
            if len(set(colours)) == len(colours):
                self._choose(number_a, number_b)
            else:
                self.twins.append((number_a, number_b))
            return
        for one, other in zip(a.inputs, b.inputs, strict=False):
            self.queue.append((one, other, a.layer.name))

    def _choose(self, number_a: int, number_b: int) -> None:
        """Pair inputs that may stand in another order."""
        a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
        left_a, left_b = dict(enumerate(a.inputs)), dict(enumerate(b.inputs))
        order: dict[int, int] = {}

        def take(slot_a: int, slot_b: int) -> None:
            order[slot_a] = slot_b
            del left_a[slot_a], left_b[slot_b]

        for slot, (source, output) in list(left_a.items()):
            if source in self.pair.nodes:
                wanted = self.pair.nodes[source], output
                same = [k for k, tensor in left_b.items() if tensor == wanted]
                if same:
                    take(slot, slot if slot in same else same[0])
        by_name = self._by_name(left_a, left_b)
        for colours in (self.down, self.up):
            seen_a = {slot: (colours[0][source], output) for slot, (source, output) in left_a.items()}
            seen_b = {slot: (colours[1][source], output) for slot, (source, output) in left_b.items()}
            twins = {colour for colour, count in Counter(seen_a.values()).items() if count > 1}
            fit = functools.partial(self._fit, a, b, {slot for slot, colour in seen_a.items() if colour in twins})
            in_place = {slot: slot for slot in left_a}
            if (
                by_name is not None
                and all(seen_a[i] == seen_b[k] for i, k in by_name.items())
                and all(map(fit, by_name, by_name.values()))
            ):
                chosen = by_name
            elif seen_a == seen_b and all(map(fit, in_place, in_place)):
                self._tell_twins(a, left_a)
                chosen = in_place
            else:
                chosen = _by_colour(seen_a, seen_b, fit)
                if len(chosen) == len(left_a) == len(left_b):
                    self._tell_twins(a, left_a)
            unsure = [i for i in chosen if seen_a[i] in twins]
            if self.tally.careful and unsure and self.again[number_a] < len(a.inputs):
                self.again[number_a] += 1  # one pair of twins at a time: it may tell apart the others
                self.queue.append((a.inputs[unsure[0]], b.inputs[chosen[unsure[0]]], a.layer.name))
                self.twins.appendleft((number_a, number_b))
                return
            for i, k in chosen.items():
                take(i, k)
            if not left_a or not left_b:
                break
            by_name = self._by_name(left_a, left_b)
        by_name = self._by_name(left_a, left_b, partly=True) or {}
        for i, k in by_name.items():
            take(i, k)
        for i, k in zip(list(left_a), list(left_b), strict=False):
            take(i, k)
        self.pair.order[number_a] = order
        for i, k in sorted(order.items()):
            self.queue.append((a.inputs[i], b.inputs[k], a.layer.name))

    def _fit(self, a: Node, b: Node, twins: Set[int], slot_a: int, slot_b: int) -> bool:
        return slot_a not in twins or self._possible(a.inputs[slot_a], b.inputs[slot_b])

    def _possible(self, one: Tensor, other: Tensor) -> bool:
        """Look a little ahead: whether two tensors can be paired without contradicting the pairs that are certain."""
        nodes: dict[int, int] = {}
        places: dict[int, int] = {}
        ahead = deque([(one, other)])
        for _ in range(_AHEAD):
            if not ahead or self.tally.looks <= 0:
                break
            self.tally.looks -= 1
            (number_a, output_a), (number_b, output_b) = ahead.popleft()
            a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
            met = self.pair.nodes.get(number_a, nodes.get(number_a))
            if met is not None or number_b in self.pair.back:
                if met != number_b or output_a != output_b:
                    return False
                continue
            place = self.places.get(a.place, places.get(a.place))
            if (
                output_a != output_b
                or self.places_back.get(b.place, a.place) != a.place
                or place not in (None, b.place)
            ):
                return False
            nodes[number_a], places[a.place] = number_b, b.place
            if not a.flippable:
                ahead.extend(zip(a.inputs, b.inputs, strict=False))
                continue
            known = [(self.pair.nodes[source], output) for source, output in a.inputs if source in self.pair.nodes]
            if Counter(known) - Counter(b.inputs) or len(known) != sum(x in self.pair.back for x, _ in b.inputs):
                return False
        return True

    def _by_name(self, a: Mapping[int, Tensor], b: Mapping[int, Tensor], partly: bool = False) -> dict[int, int] | None:
        """Return slots paired by the names of what fills them; None unless the names are the same and tell all apart."""
        names_a = {self._name(self.pair.a, tensor): slot for slot, tensor in a.items()}
        names_b = {self._name(self.pair.b, tensor): slot for slot, tensor in b.items()}
        if len(names_a) < len(a) or len(names_b) < len(b) or (names_a.keys() != names_b.keys() and not partly):
            return None
        return {slot: names_b[name] for name, slot in names_a.items() if name in names_b}

    def _name(self, wiring: Wiring, tensor: Tensor) -> tuple[str, int, int]:
        node = wiring.nodes[tensor[0]]
        return node.layer.name, node.call, tensor[1]

    def _tell_twins(self, node: Node, inputs: Mapping[int, Tensor]) -> None:
        if node.concatenates:
            return  # the places in a concatenation tell them apart
        count = Counter(self.down[0][tensor[0]] for tensor in inputs.values())
        twins = [self.pair.a.name(tensor) for tensor in inputs.values() if count[self.down[0][tensor[0]]] > 1]
        if len(set(twins)) > 1:
            shown = ", ".join(repr(name) for name in twins)
            self.findings.note(
                f"twin branches {shown} into layer {self._path(node, False)!r} are interchangeable and were matched in order"
            )

    def _skip(self, one: Tensor, other: Tensor, by: str) -> bool:
        """Find what is missing on one side where two layers of different classes meet; whether the walk goes on there."""
        chain_a, chain_b = self._back(self.pair.a, one), self._back(self.pair.b, other)
        for far in range(1, _RESYNC):
            for skipped_a, skipped_b in ((far, 0), (0, far)):
                if skipped_a >= len(chain_a) or skipped_b >= len(chain_b):
                    continue
                at_a, at_b = chain_a[skipped_a], chain_b[skipped_b]
                if not self._similar(at_a, at_b, exact=far > 1):
                    continue
                for number, _ in chain_a[:skipped_a]:
                    self._missing(self.pair.a.nodes[number], of_b=False)
                for number, _ in chain_b[:skipped_b]:
                    self._missing(self.pair.b.nodes[number], of_b=True)
                self.queue.append((at_a, at_b, by))
                return True
        return False

    def _back(self, wiring: Wiring, tensor: Tensor) -> list[Tensor]:
        """Return a tensor and what it is made of, as long as each node has a single input."""
        chain = [tensor]
        while len(chain) < _RESYNC and len(wiring.nodes[chain[-1][0]].inputs) == 1:
            chain.append(wiring.nodes[chain[-1][0]].inputs[0])
        return chain

    def _similar(self, one: Tensor, other: Tensor, exact: bool) -> bool:
        a, b = self.pair.a.nodes[one[0]], self.pair.b.nodes[other[0]]
        if a.is_input or b.is_input:
            return a.is_input and b.is_input
        if self.up[0][one[0]] == self.up[1][other[0]]:
            return True
        described = self.numbering.describe
        one_is, other_is = described(a.layer, self.pair.a.rank(a)), described(b.layer, self.pair.b.rank(b))
        return one_is.kind == other_is.kind and (not exact or one_is.fields == other_is.fields)

    def _missing(self, node: Node, of_b: bool) -> None:
        self.stopped = True
        path = self._path(node, of_b)
        places = self.places_back if of_b else self.places
        if places.get(node.place) == -2:
            return
        places[node.place] = -2
        kind = kind_of(node.layer)
        self.findings.differ(
            [Difference("", path, "layers", None, kind) if of_b else Difference(path, "", "layers", kind, None)]
        )

    def _remaining(self) -> None:
        """Pair by name what the walk did not reach; what then is left has no counterpart."""
        left_a = [node for number, node in enumerate(self.pair.a.nodes) if number not in self.pair.nodes]
        left_b = [node for number, node in enumerate(self.pair.b.nodes) if number not in self.pair.back]
        named = {node.layer.name: node for node in left_b if node.place not in self.places_back}
        for node in left_a:
            if node.place in self.places or node.place < 0:
                continue
            other = named.get(node.layer.name)
            if (
                other is not None
                and other.place not in self.places_back
                and kind_of(other.layer) == kind_of(node.layer)
            ):
                self.places[node.place], self.places_back[other.place] = other.place, node.place
                if not self.stopped:
                    self.findings.note("layers that lead to no output were matched by name", f"{node.layer.name!r}")
                self.compare(node, other)
            else:
                self._missing(node, of_b=False)
        for node in left_b:
            if node.place not in self.places_back and node.place >= 0:
                self._missing(node, of_b=True)


def _by_colour(a: Mapping[int, Hashable], b: Mapping[int, Hashable], fit: Callable[[int, int], bool]) -> dict[int, int]:
    """Return slots paired by what they compute, those that compute the same in order, except for pairs that do not fit."""
    free: dict[Hashable, dict[int, None]] = {}
    for slot, colour in b.items():
        free.setdefault(colour, {})[slot] = None
    found: dict[int, int] = {}
    for slot, colour in a.items():
        place = next((k for k in free.get(colour, ()) if fit(slot, k)), None)
        if place is not None:
            found[slot] = place
            del free[colour][place]
    return found

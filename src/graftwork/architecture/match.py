"""Which layer of one model is which layer of another, from their configurations alone.

Both graphs are walked backwards from the outputs in step. Where the order of a call's inputs matters, the k-th meets the k-th;
where it does not (Add, …) or can be made up for (Concatenate), names decide first, then places, then what the branches compute.
Whatever is matched this way computes, with B's weights in A's layers, what B computes; a rearrangement says which axes have to be
put in A's order on the way. Anything else is a difference.
"""

import functools
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from graftwork.architecture.compare import (
    Description,
    Difference,
    describe,
    differences,
    inner_layers,
    is_builtin,
    kind_of,
)
from graftwork.architecture.layer import MAX_DEPTH, Layer
from graftwork.architecture.rearrange import Flow, GraphPair, Rearrangement
from graftwork.architecture.wiring import Node, Tensor, Wiring, output_shape, wire
from graftwork.errors import StoreError

__all__ = ["Difference", "Match", "Rearrangement", "match"]

MAX_DIFFERENCES = 50
"""No more are collected; the first ones tell."""

_MAX_LAYERS = 200_000
"""Layers, inner ones included, that are compared; wrappers in wrappers could double at every level."""

_INNER = 8
"""How many levels of models one level of wrappers counts for, as real ones hardly nest."""

_AHEAD = 100
"""Nodes that are looked at before twins are paired."""

_LOOKS = 1_000_000
"""Nodes that are looked at so in all."""

_CAREFUL = 200_000
"""Nodes that are looked at while pairing twins with care."""

_ROUNDS = 3
"""How often what depends on a pair goes up and down the graphs."""

_NO_MARKS: Mapping[int, int] = MappingProxyType({})

_RESYNC = 6
"""Layers that are looked through for one that is missing on the other side."""


@dataclass(frozen=True, slots=True)
class Match:
    """What matching two models found.

    Attributes:
        layers: Chain of layer names in A to the chain in B, for every matched layer, outer ones first.
        differences: Why the two do not compute the same function; empty when they do, up to weights.
        rearrangements: What must be permuted in B's tensors before they meet A's.
        notes: What a reader should know although nothing is wrong.
    """

    layers: Mapping[str, str]
    differences: tuple[Difference, ...] = ()
    rearrangements: tuple[Rearrangement, ...] = ()
    notes: tuple[str, ...] = ()


def match(a: Layer, b: Layer, ignore: Set[str] = frozenset()) -> Match:
    """Return which layer of `b` is which layer of `a`, and everything that speaks against merging their weights.

    Args:
        a: The model whose names and order of branches the result has.
        b: The other one.
        ignore: Fields of layers' configurations that may differ; how layers are connected cannot be ignored.

    Raises:
        StoreError: If a configuration is not one that Keras writes (a cycle, a connection that leads nowhere).
    """
    try:
        matcher = _Matcher(by_name=True, ignore=ignore)
        found = matcher.run(a, b)
        if found.differences and _has_choice(a, b):
            other = _Matcher(by_name=False, ignore=ignore).run(a, b)
            found = other if len(other.differences) < len(found.differences) else found
        if matcher.conflicts and matcher.guesses:
            other = _Matcher(by_name=True, careful=True, ignore=ignore).run(a, b)
            found = other if len(other.differences) < len(found.differences) else found
    except RecursionError as error:
        raise StoreError("a configuration nests deeper than Keras would write") from error
    return found


def _has_choice(a: Layer, b: Layer) -> bool:
    """Whether inputs or outputs that can be paired by name would meet others if paired by position."""
    if a.graph is None or b.graph is None:
        return False
    ends = ((a.graph.inputs, b.graph.inputs), (a.graph.outputs, b.graph.outputs))
    names = [[[ref.layer for _, ref in refs] for refs in pair] for pair in ends]
    return any(one != other and sorted(one) == sorted(other) for one, other in names)


class _Matcher:
    """Collects what one attempt finds.

    Args:
        by_name: Whether the model's inputs and outputs are paired by layer name where the names agree.
        careful: Whether all that is already paired is considered whenever twins are. It seldom helps, and takes long.
        ignore: Fields that may differ.
    """

    def __init__(self, by_name: bool, careful: bool = False, ignore: Set[str] = frozenset()) -> None:
        self.by_name = by_name
        self.ignore = ignore
        self.careful = _CAREFUL if careful else 0
        self.guesses = self.conflicts = 0
        self.layers: dict[str, str] = {}
        self.differences: list[Difference] = []
        self.notes: dict[str, list[str]] = {}
        self.numbers: dict[Hashable, int] = {}
        self.described: dict[int, tuple[Layer, Description]] = {}
        self.counted = 0
        self.looks = _LOOKS
        self.wrapped: list[GraphPair] = []
        self.known: dict[int, tuple[Layer, int]] = {}

    def run(self, a: Layer, b: Layer) -> Match:
        """Match two models."""
        rearrangements: tuple[Rearrangement, ...] = ()
        if a.graph is None or b.graph is None:
            self._layers(a, b, "", "", None, None, 0)
        else:
            wiring_a, wiring_b = wire(a), wire(b)
            pair = self._graphs(wiring_a, wiring_b, "", "", self.by_name, 0)
            if not self.differences:
                flow = Flow()
                for each in (pair, *self.wrapped):
                    flow.run(each)
                rearrangements = tuple(flow.moves.values())
                self._differ(flow.differences)
        self.layers.pop("", None)
        return Match(
            layers=self.layers,
            differences=tuple(self.differences[:MAX_DIFFERENCES]),
            rearrangements=rearrangements if not self.differences else (),
            notes=tuple(self._told()),
        )

    def _told(self) -> list[str]:
        told = []
        renamed = [(a, b) for a, b in self.layers.items() if a.rpartition("/")[2] != b.rpartition("/")[2]]
        if renamed:
            shown = ", ".join(f"{a!r} is {b!r}" for a, b in renamed[:3]) + (", …" if len(renamed) > 3 else "")
            count = "1 layer has another name" if len(renamed) == 1 else f"{len(renamed):,} layers have other names"
            told.append(f"{count}, matched by structure: {shown}")
        for kind, where in self.notes.items():
            places = list(dict.fromkeys(where))
            shown = ", ".join(places[:3]) + (f" and {len(places) - 3:,} more" if len(places) > 3 else "")
            told.append(f"{kind}: {shown}" if shown else kind)
        return told

    def _note(self, kind: str, where: str = "") -> None:
        self.notes.setdefault(kind, []).extend([where] if where else [])

    def _differ(self, found: Iterable[Difference]) -> None:
        for difference in found:
            if len(self.differences) <= MAX_DIFFERENCES:
                self.differences.append(difference)

    def _count(self) -> None:
        self.counted += 1
        if self.counted > _MAX_LAYERS:
            raise StoreError(f"more than {_MAX_LAYERS:,} layers in one model; it was not written by Keras")

    # What layers compute, as numbers that are equal when they agree.

    def _number(self, value: Hashable) -> int:
        return self.numbers.setdefault(value, len(self.numbers))

    def _describe(self, layer: Layer, rank: int | None) -> Description:
        if id(layer) not in self.described:
            self.described[id(layer)] = layer, describe(layer, rank).without(self.ignore)
        return self.described[id(layer)][1]

    def _layer_number(self, layer: Layer, wiring: Wiring | None, rank: int | None, depth: int) -> int:
        """Return a number for what a layer computes, with all that is inside it."""
        if depth > MAX_DEPTH:
            raise StoreError(
                f"layer {layer.name!r} nests layers more than {MAX_DEPTH} deep; it was not written by Keras"
            )
        self._count()
        if id(layer) in self.known:
            return self.known[id(layer)][1]
        if layer.graph is not None:
            wiring = wiring or wire(layer, depth)
            colours = self._upward(wiring, {node: k for k, (_, (node, _)) in enumerate(wiring.inputs)}, depth)
            number = self._number(("model", tuple((colours[node], output) for _, (node, output) in wiring.outputs)))
        else:
            described = self._describe(layer, rank)
            inner = tuple((at, self._layer_number(x, None, None, depth + _INNER)) for at, x in inner_layers(layer))
            number = self._number((described.kind, tuple(sorted(described.fields.items(), key=_first)), inner))
        self.known[id(layer)] = layer, number
        return number

    def _upward(
        self, wiring: Wiring, inputs: Mapping[int, Hashable], depth: int, marks: Mapping[int, int] = _NO_MARKS
    ) -> list[int]:
        """Return a number for each node that says how it is computed from the inputs (and from nodes with marks)."""
        colours: list[int] = []
        for number, node in enumerate(wiring.nodes):
            if node.is_input:
                colours.append(self._number(("input", inputs.get(number))))
                continue
            layer = self._layer_number(node.layer, wiring.inner.get(node.place), wiring.rank(node), depth + 1)
            given = [(colours[source], output) for source, output in node.inputs]
            if node.flippable:
                given.sort()
            uses = max(1, len(node.layer.calls))
            colours.append(self._number((layer, uses, node.slots, node.constants, tuple(given), marks.get(number))))
        return colours

    def _downward(self, wiring: Wiring, colours: Sequence[int], outputs: Sequence[Tensor]) -> list[int]:
        """Return a number for each node that says, besides, what becomes of it."""
        ends: dict[int, list[tuple[int, int]]] = {}
        for label, (node, output) in enumerate(outputs):
            ends.setdefault(node, []).append((label, output))
        both = [0] * len(colours)
        for number in reversed(range(len(colours))):
            uses = sorted(
                (both[user], "" if wiring.nodes[user].flippable else wiring.nodes[user].slots[slot], source[1])
                for user, slot in wiring.users[number]
                for source in (wiring.nodes[user].inputs[slot],)
            )
            both[number] = self._number((colours[number], tuple(uses), tuple(sorted(ends.get(number, ())))))
        shared: dict[int, list[int]] = {}
        for use, shares in enumerate(wiring.nodes):
            if len(shares.layer.calls) > 1:
                shared.setdefault(shares.place, []).append(use)
        for uses_of in shared.values():  # what becomes of a layer in one place tells its other uses apart from a twin's
            together = tuple(sorted(both[use] for use in uses_of))
            for use in uses_of:
                both[use] = self._number(("shared", both[use], together))
        return both

    # Layers

    def _layers(
        self, a: Layer, b: Layer, path_a: str, path_b: str, rank_a: int | None, rank_b: int | None, depth: int
    ) -> None:
        """Compare two layers and what is inside them, except for graphs in graphs."""
        if depth > MAX_DEPTH:
            raise StoreError(f"layer {path_a!r} nests layers more than {MAX_DEPTH} deep; it was not written by Keras")
        self._count()
        self.layers[path_a] = path_b
        if a.graph is not None and b.graph is not None:
            pair = self._graphs(wire(a, depth), wire(b, depth), path_a, path_b, False, depth + 1, inner=True)
            self.wrapped.append(pair)
            return
        one, other = self._describe(a, rank_a), self._describe(b, rank_b)
        if rank_a is None and rank_b is not None:  # two spellings of an axis, and only one of the ranks known
            one = describe(a, rank_b).without(self.ignore)
        elif rank_b is None and rank_a is not None:
            other = describe(b, rank_a).without(self.ignore)
        self._differ(differences(one, other, path_a, path_b))
        for name in sorted(one.lenient.keys() & other.lenient.keys()):
            if one.lenient[name] != other.lenient[name]:
                why = "and is ignored as asked" if name in self.ignore else "which does not change what is inferred"
                self._note(f"{name} differs, {why}", f"{path_a!r}")
        if "vocabulary" in one.fields and one.fields["vocabulary"] is None and other.fields.get("vocabulary") is None:
            self._note("vocabularies that are not in the configuration were not compared", f"{path_a!r}")
        if one.kind != other.kind:
            return
        if one.kind == "Lambda":
            self._note("Lambda layers were compared by their code, not by what it refers to", f"{path_a!r}")
        elif not is_builtin(a):
            self._note(
                "classes that do not come with Keras were compared by their configurations",
                f"{path_a or a.class_name!r}",
            )
        inner_a, inner_b = dict(inner_layers(a)), dict(inner_layers(b))
        for attribute in inner_a.keys() | inner_b.keys() if inner_a.keys() != inner_b.keys() else ():
            if attribute not in inner_a or attribute not in inner_b:
                at_a, at_b = inner_a.get(attribute), inner_b.get(attribute)
                self._differ(
                    [Difference(path_a, path_b, attribute, at_a and at_a.class_name, at_b and at_b.class_name)]
                )
        for attribute, at_a in inner_a.items():
            if attribute in inner_b:
                at_b = inner_b[attribute]
                self._layers(at_a, at_b, _join(path_a, at_a.name), _join(path_b, at_b.name), None, None, depth + _INNER)

    def _input_layers(self, a: Node, b: Node, path_a: str, path_b: str) -> None:
        shape_a, shape_b = (output_shape(x.layer, ()) or () for x in (a, b))
        if shape_a and shape_b and len(shape_a) != len(shape_b):
            self._differ([Difference(path_a, path_b, "shape", list(shape_a), list(shape_b))])
        elif shape_a[1:] != shape_b[1:] and shape_a and shape_b:
            self._note(f"inputs have other sizes ({list(shape_a[1:])} in A, {list(shape_b[1:])} in B)", f"{path_a!r}")
        if a.place < 0 or b.place < 0:
            return
        self.layers[path_a] = path_b
        one, other = self._describe(a.layer, None), self._describe(b.layer, None)
        self._differ(differences(one, other, path_a, path_b))

    # Graphs

    def _graphs(
        self, a: Wiring, b: Wiring, path_a: str, path_b: str, by_name: bool, depth: int, inner: bool = False
    ) -> GraphPair:
        pair = GraphPair(a, b, path_a, path_b)
        inputs = self._ends("inputs", pair, a.inputs, b.inputs, by_name, inner)
        labels_a = {tensor[0]: k for k, (tensor, _) in enumerate(inputs)}
        labels_b = {tensor[0]: k for k, (_, tensor) in enumerate(inputs)}
        up_a, up_b = self._upward(a, labels_a, depth), self._upward(b, labels_b, depth)
        outputs = self._ends("outputs", pair, a.outputs, b.outputs, by_name, inner)
        down_a = self._downward(a, up_a, [tensor for tensor, _ in outputs])
        down_b = self._downward(b, up_b, [tensor for _, tensor in outputs])
        _Walk(self, pair, (up_a, up_b), (down_a, down_b), depth).run(inputs, outputs)
        return pair

    def _ends(
        self,
        field: str,
        pair: GraphPair,
        a: Sequence[tuple[str, Tensor]],
        b: Sequence[tuple[str, Tensor]],
        by_name: bool,
        inner: bool,
    ) -> list[tuple[Tensor, Tensor]]:
        """Pair inputs or outputs: by key, else (of the outermost model) by layer name, else by position."""
        keys_a, keys_b = dict(a), dict(b)
        if len(a) != len(b):
            self._differ([Difference(pair.path_a, pair.path_b, field, len(a), len(b), "another number")])
        if keys_a.keys() == keys_b.keys() and not all(key.isdecimal() for key in keys_a):
            return [(tensor, keys_b[key]) for key, tensor in a]
        names_a = {pair.a.name(tensor): tensor for _, tensor in a}
        names_b = {pair.b.name(tensor): tensor for _, tensor in b}
        if by_name and not inner and len(names_a) == len(a) == len(b) and names_a.keys() == names_b.keys():
            if list(names_a) != list(names_b):
                self._note(f"{field} stand in another order and were matched by name")
            return [(tensor, names_b[name]) for name, tensor in names_a.items()]
        named = [{key for key in keys if not key.isdecimal()} for keys in (keys_a, keys_b)]
        if all(named) and not inner:
            self._differ([Difference(pair.path_a, pair.path_b, field, sorted(named[0]), sorted(named[1]))])
        return [(one, other) for (_, one), (_, other) in zip(a, b, strict=False)]


@dataclass(slots=True, eq=False)
class _Walk:
    """One walk through a pair of graphs.

    Attributes:
        matcher: Where what is found goes.
        pair: The graphs; the pairs of nodes go here.
        up: Numbers of the nodes of A and of B that say how they are computed.
        down: Numbers that say, besides, what becomes of them.
        depth: How deep the graphs lie in others.
    """

    matcher: _Matcher
    pair: GraphPair
    up: tuple[list[int], list[int]]
    down: tuple[list[int], list[int]]
    depth: int
    places: dict[int, int] = field(default_factory=dict)
    places_back: dict[int, int] = field(default_factory=dict)
    queue: deque[tuple[Tensor, Tensor, str]] = field(default_factory=deque)
    twins: deque[tuple[int, int]] = field(default_factory=deque)
    outputs: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    again: Counter[int] = field(default_factory=Counter)
    stopped: bool = False

    def run(self, inputs: Iterable[tuple[Tensor, Tensor]], outputs: Iterable[tuple[Tensor, Tensor]]) -> None:
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
                self.matcher.guesses += 1
                self._tell_apart()
                self._choose(*self.twins.popleft())
        self._remaining()

    def _tell_apart(self) -> None:
        """Let the pairs that are certain by now tell apart what depends on them."""
        cost = _ROUNDS * (len(self.pair.a.nodes) + len(self.pair.b.nodes))
        if self.matcher.careful < cost:
            return
        self.matcher.careful -= cost
        marks = {one: number for number, one in enumerate(self.pair.nodes)}
        marks_b = {self.pair.nodes[one]: number for one, number in marks.items()}
        for k, (wiring, mark, ends) in enumerate(
            ((self.pair.a, marks, self.outputs[0]), (self.pair.b, marks_b, self.outputs[1]))
        ):
            marked: Mapping[int, int] = mark
            for _ in range(_ROUNDS):
                self.up[k][:] = self.matcher._upward(wiring, mark, self.depth, marked)
                self.down[k][:] = self.matcher._downward(wiring, self.up[k], ends)
                marked = dict(enumerate(self.down[k]))

    def _path(self, node: Node, of_b: bool) -> str:
        return _join(self.pair.path_b if of_b else self.pair.path_a, node.layer.name)

    def _differ(self, a: Node, b: Node, what: str, one: object, other: object, reason: str = "") -> None:
        self.matcher._differ([Difference(self._path(a, False), self._path(b, True), what, one, other, reason)])

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
            self.matcher._input_layers(a, b, self._path(a, False), self._path(b, True))
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
            self._compare(a, b)
        self._descend(number_a, number_b)

    def _marry(self, number_a: int, number_b: int) -> None:
        self.pair.nodes[number_a] = number_b
        self.pair.back[number_b] = number_a
        place_a, place_b = self.pair.a.nodes[number_a].place, self.pair.b.nodes[number_b].place
        self.places[place_a], self.places_back[place_b] = place_b, place_a

    def _conflict(self, number_a: int, number_b: int, by: str) -> None:
        a, b = self.pair.a.nodes[number_a], self.pair.b.nodes[number_b]
        self.stopped = True
        self.matcher.conflicts += 1
        if len(self.matcher.differences) >= MAX_DIFFERENCES:
            return  # what follows looks through all nodes
        met_b = self.places.get(a.place)
        met_a = self.places_back.get(b.place)
        layers_a, layers_b = self.pair.a.graph.layers, self.pair.b.graph.layers
        seen = f"{layers_b[met_b].name!r} in B" if met_b is not None and met_b >= 0 else "no layer of B"
        back = f"{layers_a[met_a].name!r} in A" if met_a is not None and met_a >= 0 else "no layer of A"
        reason = f"elsewhere {a.layer.name!r} takes the place of {seen}, and {b.layer.name!r} that of {back}"
        user = _join(self.pair.path_a, by) if by else self.pair.path_a
        met = next((n for n, x in enumerate(self.pair.a.nodes) if by and x.layer.name == by), None)
        user_b = self.pair.nodes.get(met) if met is not None else None
        path_b = (
            _join(self.pair.path_b, self.pair.b.nodes[user_b].layer.name) if user_b is not None else self.pair.path_b
        )
        self.matcher._differ([Difference(user, path_b, "inputs", a.layer.name, b.layer.name, reason)])

    def _compare(self, a: Node, b: Node) -> None:
        path_a, path_b = self._path(a, False), self._path(b, True)
        matcher, pair = self.matcher, self.pair
        if a.layer.graph is not None and b.layer.graph is not None:
            matcher.layers[path_a] = path_b
            inner_a, inner_b = pair.a.inner[a.place], pair.b.inner[b.place]
            pair.inner[a.place] = matcher._graphs(inner_a, inner_b, path_a, path_b, False, self.depth + 1, inner=True)
        else:
            matcher._layers(a.layer, b.layer, path_a, path_b, pair.a.rank(a), pair.b.rank(b), self.depth + 1)
        uses_a, uses_b = max(1, len(a.layer.calls)), max(1, len(b.layer.calls))
        if uses_a != uses_b and not pair.a.graph.sequential and not pair.b.graph.sequential:
            self._differ(a, b, "calls", uses_a, uses_b, "the layer is shared by more places in one of the models")

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
            if self.matcher.careful and unsure and self.again[number_a] < len(a.inputs):
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
            if not ahead or self.matcher.looks <= 0:
                break
            self.matcher.looks -= 1
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
            self.matcher._note(
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
        described = self.matcher._describe
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
        self.matcher._differ(
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
                    self.matcher._note("layers that lead to no output were matched by name", f"{node.layer.name!r}")
                if node.is_input:
                    self.matcher._input_layers(node, other, self._path(node, False), self._path(other, True))
                else:
                    self._compare(node, other)
            else:
                self._missing(node, of_b=False)
        for node in left_b:
            if node.place not in self.places_back and node.place >= 0:
                self._missing(node, of_b=True)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _first(item: tuple[str, object]) -> str:
    return item[0]


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

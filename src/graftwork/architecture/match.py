"""Which layer of one model is which layer of another, from their configurations alone.

Both graphs are walked backwards from the outputs in step, see `walk`. Whatever is matched this way computes, with B's weights in A's
layers, what B computes; a rearrangement says which axes have to be put in A's order on the way. Anything else is a difference.
"""

import functools
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from graftwork.architecture.compare import Difference, describe, differences, inner_layers, is_builtin
from graftwork.architecture.findings import MAX_DIFFERENCES, Findings, join
from graftwork.architecture.layer import MAX_DEPTH, Layer
from graftwork.architecture.numbering import INNER, Numbering
from graftwork.architecture.rearrange import Flow, GraphPair, Rearrangement
from graftwork.architecture.walk import CAREFUL, Tally, Walk
from graftwork.architecture.wiring import Node, Tensor, Wiring, output_shape, wire
from graftwork.errors import StoreError

__all__ = ["Difference", "Match", "Rearrangement", "match"]


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
        if matcher.tally.conflicts and matcher.tally.guesses:
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
    """One attempt: compares layers, and has graphs walked in step.

    Args:
        by_name: Whether the model's inputs and outputs are paired by layer name where the names agree.
        careful: Whether all that is already paired is considered whenever twins are. It seldom helps, and takes long.
        ignore: Fields that may differ.
    """

    def __init__(self, by_name: bool, careful: bool = False, ignore: Set[str] = frozenset()) -> None:
        self.by_name = by_name
        self.ignore = ignore
        self.tally = Tally(careful=CAREFUL if careful else 0)
        self.numbering = Numbering(ignore)
        self.findings = Findings()
        self.wrapped: list[GraphPair] = []

    def run(self, a: Layer, b: Layer) -> Match:
        """Match two models."""
        rearrangements: tuple[Rearrangement, ...] = ()
        if a.graph is None or b.graph is None:
            self._layers(a, b, "", "", None, None, 0)
        else:
            wiring_a, wiring_b = wire(a), wire(b)
            pair = self._graphs(wiring_a, wiring_b, "", "", self.by_name, 0)
            if not self.findings.differences:
                flow = Flow()
                for each in (pair, *self.wrapped):
                    flow.run(each)
                rearrangements = tuple(flow.moves.values())
                self.findings.differ(flow.differences)
        self.findings.layers.pop("", None)
        return Match(
            layers=self.findings.layers,
            differences=tuple(self.findings.differences[:MAX_DIFFERENCES]),
            rearrangements=rearrangements if not self.findings.differences else (),
            notes=tuple(self.findings.told()),
        )

    def _layers(
        self, a: Layer, b: Layer, path_a: str, path_b: str, rank_a: int | None, rank_b: int | None, depth: int
    ) -> None:
        """Compare two layers and what is inside them, except for graphs in graphs."""
        if depth > MAX_DEPTH:
            raise StoreError(f"layer {path_a!r} nests layers more than {MAX_DEPTH} deep; it was not written by Keras")
        self.numbering.count()
        self.findings.layers[path_a] = path_b
        if a.graph is not None and b.graph is not None:
            pair = self._graphs(wire(a, depth), wire(b, depth), path_a, path_b, False, depth + 1, inner=True)
            self.wrapped.append(pair)
            return
        one, other = self.numbering.describe(a, rank_a), self.numbering.describe(b, rank_b)
        if rank_a is None and rank_b is not None:  # two spellings of an axis, and only one of the ranks known
            one = describe(a, rank_b).without(self.ignore)
        elif rank_b is None and rank_a is not None:
            other = describe(b, rank_a).without(self.ignore)
        self.findings.differ(differences(one, other, path_a, path_b))
        for name in sorted(one.lenient.keys() & other.lenient.keys()):
            if one.lenient[name] != other.lenient[name]:
                why = "and is ignored as asked" if name in self.ignore else "which does not change what is inferred"
                self.findings.note(f"{name} differs, {why}", f"{path_a!r}")
        if one.kind != other.kind:
            return
        if one.kind == "Lambda":
            self.findings.note("Lambda layers were compared by their code, not by what it refers to", f"{path_a!r}")
        elif not is_builtin(a):
            self.findings.note(
                "classes that do not come with Keras were compared by their configurations",
                f"{path_a or a.class_name!r}",
            )
        inner_a, inner_b = dict(inner_layers(a)), dict(inner_layers(b))
        for attribute in inner_a.keys() | inner_b.keys() if inner_a.keys() != inner_b.keys() else ():
            if attribute not in inner_a or attribute not in inner_b:
                at_a, at_b = inner_a.get(attribute), inner_b.get(attribute)
                self.findings.differ(
                    [Difference(path_a, path_b, attribute, at_a and at_a.class_name, at_b and at_b.class_name)]
                )
        for attribute, at_a in inner_a.items():
            if attribute in inner_b:
                at_b = inner_b[attribute]
                self._layers(at_a, at_b, join(path_a, at_a.name), join(path_b, at_b.name), None, None, depth + INNER)

    def _input_layers(self, a: Node, b: Node, path_a: str, path_b: str) -> None:
        shape_a, shape_b = (output_shape(x.layer, ()) or () for x in (a, b))
        if shape_a and shape_b and len(shape_a) != len(shape_b):
            self.findings.differ([Difference(path_a, path_b, "shape", list(shape_a), list(shape_b))])
        elif shape_a[1:] != shape_b[1:] and shape_a and shape_b:
            self.findings.note(
                f"inputs have other sizes ({list(shape_a[1:])} in A, {list(shape_b[1:])} in B)", f"{path_a!r}"
            )
        if a.place < 0 or b.place < 0:
            return
        self.findings.layers[path_a] = path_b
        one, other = self.numbering.describe(a.layer, None), self.numbering.describe(b.layer, None)
        self.findings.differ(differences(one, other, path_a, path_b))

    def _nodes(self, pair: GraphPair, depth: int, a: Node, b: Node) -> None:
        """Compare the layers of two nodes, and what is inside them."""
        path_a, path_b = join(pair.path_a, a.layer.name), join(pair.path_b, b.layer.name)
        if a.is_input:
            self._input_layers(a, b, path_a, path_b)
            return
        if a.layer.graph is not None and b.layer.graph is not None:
            self.findings.layers[path_a] = path_b
            inner_a, inner_b = pair.a.inner[a.place], pair.b.inner[b.place]
            pair.inner[a.place] = self._graphs(inner_a, inner_b, path_a, path_b, False, depth + 1, inner=True)
        else:
            self._layers(a.layer, b.layer, path_a, path_b, pair.a.rank(a), pair.b.rank(b), depth + 1)
        uses_a, uses_b = max(1, len(a.layer.calls)), max(1, len(b.layer.calls))
        if uses_a != uses_b and not pair.a.graph.sequential and not pair.b.graph.sequential:
            why = "the layer is shared by more places in one of the models"
            self.findings.differ([Difference(path_a, path_b, "calls", uses_a, uses_b, why)])

    def _graphs(
        self, a: Wiring, b: Wiring, path_a: str, path_b: str, by_name: bool, depth: int, inner: bool = False
    ) -> GraphPair:
        pair = GraphPair(a, b, path_a, path_b)
        inputs = self._ends("inputs", pair, a.inputs, b.inputs, by_name, inner)
        labels_a = {tensor[0]: k for k, (tensor, _) in enumerate(inputs)}
        labels_b = {tensor[0]: k for k, (_, tensor) in enumerate(inputs)}
        up_a, up_b = self.numbering.upward(a, labels_a, depth), self.numbering.upward(b, labels_b, depth)
        outputs = self._ends("outputs", pair, a.outputs, b.outputs, by_name, inner)
        down_a = self.numbering.downward(a, up_a, [tensor for tensor, _ in outputs])
        down_b = self.numbering.downward(b, up_b, [tensor for _, tensor in outputs])
        compare = functools.partial(self._nodes, pair, depth)
        walk = Walk(pair, (up_a, up_b), (down_a, down_b), depth, self.numbering, self.findings, self.tally, compare)
        walk.run(inputs, outputs)
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
            self.findings.differ([Difference(pair.path_a, pair.path_b, field, len(a), len(b), "another number")])
        if keys_a.keys() == keys_b.keys() and not all(key.isdecimal() for key in keys_a):
            return [(tensor, keys_b[key]) for key, tensor in a]
        names_a = {pair.a.name(tensor): tensor for _, tensor in a}
        names_b = {pair.b.name(tensor): tensor for _, tensor in b}
        if by_name and not inner and len(names_a) == len(a) == len(b) and names_a.keys() == names_b.keys():
            if list(names_a) != list(names_b):
                self.findings.note(f"{field} stand in another order and were matched by name")
            return [(tensor, names_b[name]) for name, tensor in names_a.items()]
        named = [{key for key in keys if not key.isdecimal()} for keys in (keys_a, keys_b)]
        if all(named) and not inner:
            self.findings.differ([Difference(pair.path_a, pair.path_b, field, sorted(named[0]), sorted(named[1]))])
        return [(one, other) for (_, one), (_, other) in zip(a, b, strict=False)]

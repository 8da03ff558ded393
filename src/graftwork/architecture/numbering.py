"""What layers and nodes compute, as numbers that are equal when it is the same: that is how branches are told apart without names."""

from collections.abc import Hashable, Mapping, Sequence, Set
from types import MappingProxyType

from graftwork.architecture.compare import Description, describe, inner_layers
from graftwork.architecture.layer import MAX_DEPTH, Layer
from graftwork.architecture.wiring import Tensor, Wiring, wire
from graftwork.errors import StoreError

_MAX_LAYERS = 200_000
"""Layers, inner ones included, that are compared; wrappers in wrappers could double at every level."""

INNER = 8
"""How many levels of models one level of wrappers counts for, as real ones hardly nest."""

_NO_MARKS: Mapping[int, int] = MappingProxyType({})


class Numbering:
    """Gives numbers to what the layers of two models compute, and counts the layers.

    Args:
        ignore: Fields of layers' configurations that may differ.
    """

    def __init__(self, ignore: Set[str] = frozenset()) -> None:
        self.ignore = ignore
        self._numbers: dict[Hashable, int] = {}
        self._described: dict[int, tuple[Layer, Description]] = {}
        self._known: dict[int, tuple[Layer, int]] = {}
        self._counted = 0

    def count(self) -> None:
        """Count a layer.

        Raises:
            StoreError: If there are more than Keras would write.
        """
        self._counted += 1
        if self._counted > _MAX_LAYERS:
            raise StoreError(f"more than {_MAX_LAYERS:,} layers in one model; it was not written by Keras")

    def _number(self, value: Hashable) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    def describe(self, layer: Layer, rank: int | None) -> Description:
        """Return what a layer computes, without the fields that are ignored."""
        if id(layer) not in self._described:
            self._described[id(layer)] = layer, describe(layer, rank).without(self.ignore)
        return self._described[id(layer)][1]

    def _layer_number(self, layer: Layer, wiring: Wiring | None, rank: int | None, depth: int) -> int:
        """Return a number for what a layer computes, with all that is inside it."""
        if depth > MAX_DEPTH:
            raise StoreError(
                f"layer {layer.name!r} nests layers more than {MAX_DEPTH} deep; it was not written by Keras"
            )
        self.count()
        if id(layer) in self._known:
            return self._known[id(layer)][1]
        if layer.graph is not None:
            wiring = wiring or wire(layer, depth)
            colours = self.upward(wiring, {node: k for k, (_, (node, _)) in enumerate(wiring.inputs)}, depth)
            number = self._number(("model", tuple((colours[node], output) for _, (node, output) in wiring.outputs)))
        else:
            described = self.describe(layer, rank)
            inner = tuple((at, self._layer_number(x, None, None, depth + INNER)) for at, x in inner_layers(layer))
            number = self._number((described.kind, tuple(sorted(described.fields.items(), key=_first)), inner))
        self._known[id(layer)] = layer, number
        return number

    def upward(
        self, wiring: Wiring, inputs: Mapping[int, Hashable], depth: int, marks: Mapping[int, int] = _NO_MARKS
    ) -> list[int]:
        """Return a number for each node that says how it is computed from the inputs (and from nodes with marks).

        Raises:
            StoreError: If layers nest deeper, or are more, than Keras would write.
        """
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

    def downward(self, wiring: Wiring, colours: Sequence[int], outputs: Sequence[Tensor]) -> list[int]:
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


def _first(item: tuple[str, object]) -> str:
    return item[0]

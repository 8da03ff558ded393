"""Which layers of a long graph share a box, so that the graph can be read.

A graph is taken apart into runs (one layer after another) and branches (from one layer to the one that joins them again), as networks of
resistors are. Then it is opened from the outside in, a level at a time, while there is room: stages of one resolution, stages of one
shape, what repeats, blocks, layers. What a box stands for always has one tensor that enters and one that leaves.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a graph that is entered from one layer and left from one.

    Attributes:
        last: The node that it is left from.
        count: How many nodes it has.
        parts: The pieces inside, in order; empty for a single node.
        branches: Whether the parts are branches and, last, the node that joins them, not one after another.
        pinned: Whether a node inside must be seen.
    """

    last: int
    count: int = 1
    parts: tuple["Piece", ...] = ()
    branches: bool = False
    pinned: bool = False

    def nodes(self) -> list[int]:
        """Return the numbers of all nodes inside, in the order of computation."""
        found, stack = [], [self]
        while stack:
            piece = stack.pop()
            if piece.parts:
                stack += piece.parts
            else:
                found.append(piece.last)
        return sorted(found)

    def forks(self) -> bool:
        """Whether there are branches inside."""
        return self.branches or any(part.branches for part in self.parts)


LONGEST_PATTERN = 64
"""Blocks of a pattern that is recognised when it repeats."""

Key = Callable[[int], Hashable]
"""What nodes of one stage have in common."""


def _in_turn(parts: Sequence[Piece]) -> Piece:
    if len(parts) == 1:
        return parts[0]
    return Piece(parts[-1].last, sum(p.count for p in parts), tuple(parts), pinned=any(part.pinned for part in parts))


class Folding:
    """A graph that begins folded as far as it can be and is opened level by level.

    Args:
        preceding: For each node the nodes that it takes tensors from; nodes are in an order of computation.
        foldable: Which nodes may share a box.
        ends: Nodes whose tensors leave the graph.
        pinned: Nodes that must be seen.
        stages: What nodes of one stage have in common, coarse first. A run between branches counts as a part of the stage where it ends.
        kinds: What each node is; pieces of the same kinds in the same order are repetitions.
        section: What nodes of one section have in common: no run crosses its border until stages are told apart.
    """

    def __init__(
        self,
        preceding: Sequence[set[int]],
        foldable: Sequence[bool],
        ends: set[int],
        pinned: set[int],
        stages: Sequence[Key],
        section: Key,
        kinds: Sequence[Hashable],
    ) -> None:
        self._stages = list(stages)
        self._section = section
        self._kinds = kinds
        self.pieces = self._open_pinned(_reduced(preceding, foldable, ends, pinned))

    def opened(self) -> list[Piece]:
        """Return the pieces of the next level; as many as before when everything is open.

        Levels are the same all over the graph: stages are told apart everywhere before any block is opened.
        """
        while self._stages:
            found = [part for piece in self.pieces for part in self._by_stage(piece, self._stages[0])]
            if len(found) > len(self.pieces):
                return self._open_pinned(found)
            self._stages.pop(0)
        for open_ in (self._by_repetition, self._by_block, _by_branch, _by_node):
            found = [part for piece in self.pieces for part in open_(piece)]
            if len(found) > len(self.pieces):
                return self._open_pinned(found)
        return self.pieces

    def open_all(self) -> None:
        """Give every node a box of its own."""
        self.pieces = [Piece(node) for node in sorted(node for piece in self.pieces for node in piece.nodes())]

    def _open_pinned(self, pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        stack = pieces[::-1]
        while stack:
            piece = stack.pop()
            if piece.pinned and piece.parts:
                stack += reversed(self._open(piece))
            else:
                found.append(piece)
        return found

    def _open(self, piece: Piece) -> Sequence[Piece]:
        for key in self._stages:
            found = self._by_stage(piece, key)
            if len(found) > 1:
                return found
        found = self._by_repetition(piece)
        if len(found) > 1:
            return found
        return piece.parts if piece.branches or not piece.forks() else self._by_block(piece)

    def _by_stage(self, piece: Piece, key: Key) -> Sequence[Piece]:
        if piece.branches or not piece.parts:
            return (piece,)
        blocks = self._by_block(piece) if piece.forks() else piece.parts
        return _grouped(blocks, lambda part: key(part.last))

    def _by_repetition(self, piece: Piece) -> Sequence[Piece]:
        """Return the repetitions of a pattern, each as one piece, with the blocks before and after them."""
        if piece.branches or not piece.parts:
            return (piece,)
        blocks = self._by_block(piece) if piece.forks() else piece.parts
        kinds = [tuple(self._kinds[node] for node in block.nodes()) for block in blocks]
        most, period, begin, end = 0, 0, 0, 0
        for apart in range(2, min(len(blocks) // 2, LONGEST_PATTERN) + 1):
            run = 0
            for k in range(apart, len(blocks) + 1):
                if k < len(blocks) and kinds[k] == kinds[k - apart]:
                    run += 1
                    continue
                covered = (run + apart) // apart * apart
                if run >= apart and covered > most:
                    most, period, begin, end = covered, apart, k - covered, k
                run = 0
        if not most:
            return (piece,)
        chunks = [_in_turn(_flat(blocks[k : k + period])) for k in range(begin, end, period)]
        return [*blocks[:begin], *chunks, *blocks[end:]]

    def _by_block(self, piece: Piece) -> Sequence[Piece]:
        """Return branches as they are and what lies between them as runs."""
        if piece.branches or not piece.forks():
            return (piece,)
        return _grouped(piece.parts, lambda part: id(part) if part.branches else (0, self._section(part.last)))


def _by_branch(piece: Piece) -> Sequence[Piece]:
    return piece.parts if piece.branches else (piece,)


def _by_node(piece: Piece) -> Sequence[Piece]:
    return piece.parts or (piece,)


def _grouped(parts: Sequence[Piece], key: Callable[[Piece], Hashable]) -> list[Piece]:
    groups: list[list[Piece]] = []
    before: Hashable = None
    for part in parts:
        found = key(part)
        if groups and found == before:
            groups[-1].append(part)
        else:
            groups.append([part])
        before = found
    return [_in_turn(_flat(group)) for group in groups]


def _flat(parts: Sequence[Piece]) -> list[Piece]:
    """Return parts with runs replaced by what they consist of: a run of runs is a run."""
    return [x for part in parts for x in (part.parts if part.parts and not part.branches else (part,))]


def _reduced(preceding: Sequence[set[int]], foldable: Sequence[bool], ends: set[int], pinned: set[int]) -> list[Piece]:
    """Take a graph apart: each join with its branches, then each run, in one pass in the order of computation."""
    count = len(preceding)
    before = [set(nodes) for nodes in preceding]  # by the piece's first name, as everything here
    after: list[set[int]] = [set() for _ in range(count)]
    for v, nodes in enumerate(preceding):
        for u in nodes:
            after[u].add(v)
    for v in ends:
        after[v].add(-1)
    runs: dict[int, list[Piece]] = {v: [Piece(v, pinned=v in pinned)] for v in range(count)}
    name = list(range(count))  # under which name a node's piece is known

    for v in range(count):
        before[v] = {name[u] for u in before[v]}
        inner = [u for u in before[v] if after[u] == {v} and len(before[u]) == 1 and foldable[u]]
        forks = (before[v] - set(inner)) | {u for w in inner for u in before[w]}
        if foldable[v] and len(before[v]) > 1 and inner and len(forks) == 1 and not forks & set(inner):
            fork = forks.pop()
            branches = [_in_turn(runs.pop(u)) for u in sorted(inner)]
            parts = (*branches, *runs[v])
            runs[v] = [Piece(v, sum(p.count for p in parts), parts, branches=True, pinned=any(p.pinned for p in parts))]
            after[fork].difference_update(inner)
            after[fork].add(v)
            before[v] = {fork}
        if len(before[v]) == 1 and foldable[v]:
            (u,) = before[v]
            if after[u] == {v} and foldable[u]:
                runs[u] += runs.pop(v)
                name[v] = u
                after[u] = after[v]
    return sorted((_in_turn(run) for run in runs.values()), key=lambda piece: piece.last)

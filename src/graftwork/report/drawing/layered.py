"""Where boxes that depend on each other go: rows, an order inside each row, positions, and lines that cross no box.

Coordinates are *along* the flow and *across* it, whichever way the page runs. It is the method of Sugiyama, Tagawa and Toda (1981): rows
by longest path, few crossings by sorting rows by the mean position of their neighbours, positions after Brandes and Köpf (2001). A line
that passes rows gets a place of its own in each of them, so it bends only between rows, where no box is; lines of one tensor share it.
"""

import itertools
from bisect import bisect_right, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from graftwork.errors import StoreError

MAX_VERTICES = 40_000
"""Boxes and places for passing lines; more is no drawing that anyone could read."""

MAX_LEVELS = 64
"""Large boxes one after another whose rows are looked after."""

Point = tuple[float, float]
"""Across, along."""

BETWEEN_BOXES = 26.0
BETWEEN_LINES = 14.0


@dataclass(frozen=True, slots=True)
class Item:
    """A box.

    Attributes:
        before: How far it reaches across the flow to the one side of its anchor.
        after: How far it reaches to the other.
        along: Its size along the flow.
        first: Whether it belongs in the first row: an input.
        last: Whether it has a place in the last row, below all others: where a line leaves the graph.
        early: Whether it begins where its row begins, not in the row's middle.
    """

    before: float
    after: float
    along: float
    first: bool = False
    last: bool = False
    early: bool = False


@dataclass(frozen=True, slots=True)
class Net:
    """One tensor on its way from the box that makes it to those that use it.

    Attributes:
        source: The number of the item that makes it.
        leaves: Where across the flow it leaves, from the anchor; None lets it be chosen.
        targets: Each item that uses it, with where it arrives.
        room: What its label needs along the flow; its lines run straight so far.
    """

    source: int
    leaves: float | None
    targets: tuple[tuple[int, float | None], ...]
    room: float = 0.0


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Where everything is.

    Attributes:
        anchors: Of each item: the position of its anchor across the flow and of its beginning along it.
        lines: Of each net, for each target: the points from source to target. Lines run straight along the flow inside rows; the second
            point of each pair that differs across the flow ends a bend.
        across: The whole extent, from 0.
        along: Likewise.
    """

    anchors: list[Point]
    lines: list[list[list[Point]]]
    across: float
    along: float


def arrange(items: Sequence[Item], nets: Sequence[Net]) -> Arrangement:
    """Return where boxes and lines go; boxes never overlap and lines never run through them.

    Args:
        items: In an order in which every net leads forward.
        nets: What connects them.

    Raises:
        StoreError: If so many lines pass so many rows that nobody could follow them.
    """
    if not items:
        return Arrangement([], [], 0.0, 0.0)
    graph = _Rows(items, nets)
    _order(graph)
    across = _positions(graph)
    left = min(x - graph.before[v] for v, x in enumerate(across))
    across = [x - left for x in across]
    return _routed(graph, across)


def _rows(items: Sequence[Item], nets: Sequence[Net]) -> list[int]:
    """Return each item's row: the longest path, but large boxes stand side by side wherever they can."""
    following: list[set[int]] = [set() for _ in items]
    preceding: list[set[int]] = [set() for _ in items]
    for net in nets:
        for target, _ in net.targets:
            following[net.source].add(target)
            preceding[target].add(net.source)
    typical = median(item.along for item in items)
    large = {v for v, item in enumerate(items) if item.along > 2.5 * typical}
    level = [0] * len(items)  # how many large boxes come before
    for v, before in enumerate(preceding):
        level[v] = max((level[u] + (u in large) for u in before), default=0)
    fixed: dict[int, int] = {}

    def earliest() -> list[int]:
        rows = [0] * len(items)
        for v, before in enumerate(preceding):
            rows[v] = max(fixed.get(v, 0), max((rows[u] + 1 for u in before), default=0))
        return rows

    for wanted in sorted({level[v] for v in large})[:MAX_LEVELS]:
        rows = earliest()
        together = [v for v in large if level[v] == wanted]
        fixed.update(dict.fromkeys(together, max(rows[v] for v in together)))
    rows = earliest()
    for v in reversed(range(len(items))):
        if not preceding[v] and following[v] and not items[v].first:
            rows[v] = min(rows[u] for u in following[v]) - 1  # a constant stands where it is used
    bottom = max((rows[v] for v, item in enumerate(items) if not item.last), default=-1) + 1
    rows = [bottom if item.last else row for item, row in zip(items, rows, strict=True)]
    return rows


class _Rows:
    """Items and the places of passing lines as vertices, whose connections lead from one row to the next."""

    def __init__(self, items: Sequence[Item], nets: Sequence[Net]) -> None:
        self.items, self.nets = items, nets
        self.row = _rows(items, nets)
        self.before = [item.before for item in items]
        self.after = [item.after for item in items]
        self.up: list[list[int]] = [[] for _ in items]
        self.down: list[list[int]] = [[] for _ in items]
        self._connected: set[tuple[int, int]] = set()
        self.passing: list[list[int]] = []  # of each net: its vertex in each row after the source's
        for net in nets:
            chain: list[int] = []
            begin = self.row[net.source]
            for _ in range(begin + 1, max((self.row[t] for t, _ in net.targets), default=0)):
                if len(self.row) >= MAX_VERTICES:
                    raise StoreError(
                        "the connections pass so many layers that a drawing could not be read; "
                        "collapse models or draw fewer boxes"
                    )
                chain.append(len(self.row))
                self._connect(chain[-2] if len(chain) > 1 else net.source, self._new(begin + len(chain)))
            self.passing.append(chain)
            for target, _ in net.targets:
                passed = self.row[target] - begin - 1
                self._connect(chain[passed - 1] if passed else net.source, target)
        self.order: list[list[int]] = [[] for _ in range(max(self.row) + 1)]
        for v, row in enumerate(self.row):
            self.order[row].append(v)

    def _new(self, row: int) -> int:
        self.row.append(row)
        self.before.append(0.0)
        self.after.append(0.0)
        self.up.append([])
        self.down.append([])
        return len(self.row) - 1

    def _connect(self, u: int, v: int) -> None:
        if (u, v) not in self._connected:
            self._connected.add((u, v))
            self.down[u].append(v)
            self.up[v].append(u)

    def is_passing(self, v: int) -> bool:
        """Whether a vertex is a line's place, not a box."""
        return v >= len(self.items)

    def distance(self, u: int, v: int) -> float:
        """Return how far apart the anchors of two neighbours in a row must be."""
        lines = self.is_passing(u) + self.is_passing(v)
        return (
            self.after[u] + self.before[v] + (BETWEEN_BOXES, (BETWEEN_BOXES + BETWEEN_LINES) / 2, BETWEEN_LINES)[lines]
        )


def _order(graph: _Rows) -> None:
    """Sort every row so that few lines cross."""
    place = [0] * len(graph.row)
    seen: set[int] = set()
    begun: list[list[int]] = [[] for _ in graph.order]
    for root in range(len(graph.row)):  # depth first, so that what hangs together starts together
        stack = [root]
        while stack:
            v = stack.pop()
            if v not in seen:
                seen.add(v)
                begun[graph.row[v]].append(v)
                stack += [w for w in reversed(graph.down[v]) if w not in seen]
    order = begun

    def settle(rows: list[list[int]]) -> None:
        for row in rows:
            for k, v in enumerate(row):
                place[v] = k

    settle(order)
    best, fewest = [list(row) for row in order], _crossings(graph, order, place)
    for sweep in range(16 if len(graph.row) < 4_000 else 4):
        if fewest == 0:
            break
        downward = sweep % 2 == 0
        near = graph.up if downward else graph.down
        for row in order if downward else reversed(order):
            means = {v: sum(place[u] for u in near[v]) / len(near[v]) if near[v] else float(place[v]) for v in row}
            row.sort(key=lambda v: (means[v], place[v]))
            for k, v in enumerate(row):
                place[v] = k
        crossings = _crossings(graph, order, place)
        if crossings < fewest:
            best, fewest = [list(row) for row in order], crossings
    graph.order = best


def _crossings(graph: _Rows, order: list[list[int]], place: list[int]) -> int:
    total = 0
    for row in order[:-1]:
        ends: list[int] = []
        for v in row:
            below = sorted(place[w] for w in graph.down[v])
            total += sum(len(ends) - bisect_right(ends, end) for end in below)
            for end in below:
                insort(ends, end)
    return total


def _positions(graph: _Rows) -> list[float]:
    """Return a position across the flow for every vertex, long lines straight (Brandes and Köpf)."""
    taboo = _conflicts(graph)
    found: list[list[float]] = []
    for upward in (False, True):
        for mirrored in (False, True):
            rows = graph.order[::-1] if upward else graph.order
            rows = [row[::-1] for row in rows] if mirrored else rows
            near = graph.down if upward else graph.up
            root = _aligned(rows, near, taboo)
            distance: Callable[[int, int], float] = (lambda u, v: graph.distance(v, u)) if mirrored else graph.distance
            xs = _compacted(rows, root, distance)
            found.append([-x for x in xs] if mirrored else xs)
    begins = [min(x - graph.before[v] for v, x in enumerate(xs)) for xs in found]
    ends = [max(x + graph.after[v] for v, x in enumerate(xs)) for xs in found]
    smallest = min(range(4), key=lambda k: ends[k] - begins[k])
    for k, xs in enumerate(found):  # 0 and 2 lean to the beginning, 1 and 3 to the end
        shift = begins[smallest] - begins[k] if k % 2 == 0 else ends[smallest] - ends[k]
        found[k] = [x + shift for x in xs]
    return [sum(sorted(four)[1:3]) / 2 for four in zip(*found, strict=True)]


def _conflicts(graph: _Rows) -> set[tuple[int, int]]:
    """Return the connections that cross a straight piece of a passing line, which has precedence."""
    taboo: set[tuple[int, int]] = set()
    for above, row in zip(graph.order, graph.order[1:], strict=False):
        place = {v: k for k, v in enumerate(above)}
        begin, scanned = 0, 0
        for k, v in enumerate(row):
            inner = next((u for u in graph.up[v] if graph.is_passing(u)), None) if graph.is_passing(v) else None
            if inner is None and k + 1 < len(row):
                continue
            end = place[inner] if inner is not None else len(above)
            for w in row[scanned : k + 1]:
                for u in graph.up[w]:
                    if not begin <= place[u] <= end and not (graph.is_passing(u) and graph.is_passing(w)):
                        taboo.add((u, w))
            scanned, begin = k + 1, end
    return taboo


def _aligned(rows: list[list[int]], near: list[list[int]], taboo: set[tuple[int, int]]) -> list[int]:
    """Return the head of each vertex's column: vertices of one column get one position."""
    root = list(range(len(near)))
    joined = [False] * len(near)
    place = [0] * len(near)
    for above, row in itertools.pairwise(rows):
        for k, v in enumerate(above):
            place[v] = k
        last = -1
        for v in row:
            around = sorted(near[v], key=lambda u: place[u])
            for u in dict.fromkeys(around[k] for k in ((len(around) - 1) // 2, len(around) // 2)) if around else ():
                free = not joined[u] and last < place[u] and (u, v) not in taboo and (v, u) not in taboo
                if free and root[v] == v:
                    root[v], joined[u], last = root[u], True, place[u]
    return root


def _compacted(rows: list[list[int]], root: list[int], distance: Callable[[int, int], float]) -> list[float]:
    """Return the smallest positions that keep every row's distances, columns then drawn back towards what follows them."""
    after: dict[int, dict[int, float]] = {head: {} for head in root}
    missing = dict.fromkeys(after, 0)
    for row in rows:
        for u, v in itertools.pairwise(row):
            a, b = root[u], root[v]
            if b not in after[a]:
                missing[b] += 1
            after[a][b] = max(after[a].get(b, 0.0), distance(u, v))
    ready = [head for head, count in missing.items() if count == 0]
    x = dict.fromkeys(after, 0.0)
    order: list[int] = []
    while ready:
        a = ready.pop()
        order.append(a)
        for b, apart in after[a].items():
            x[b] = max(x[b], x[a] + apart)
            missing[b] -= 1
            if missing[b] == 0:
                ready.append(b)
    for a in reversed(order):
        if after[a]:
            x[a] = max(x[a], min(x[b] - apart for b, apart in after[a].items()))
    return [x[head] for head in root]


def _routed(graph: _Rows, across: list[float]) -> Arrangement:
    items, nets = graph.items, graph.nets
    leaves, arrives = _ports(graph, across)
    thick = [max((items[v].along for v in row if not graph.is_passing(v)), default=0.0) for row in graph.order]
    tops, bends = [0.0], []
    for size, (straight, bent) in zip(thick, _gaps(graph, across, leaves, arrives), strict=True):
        bends.append(tops[-1] + size + straight)
        tops.append(bends[-1] + bent)
    anchors = [
        (across[v], tops[row] + (0.0 if item.early else (thick[row] - item.along) / 2))
        for v, (item, row) in enumerate(zip(items, graph.row, strict=False))
    ]
    lines: list[list[list[Point]]] = []
    for k, net in enumerate(nets):
        start, row = leaves[k], graph.row[net.source]
        lines.append([])
        for j, (target, _) in enumerate(net.targets):
            points = [(start, anchors[net.source][1] + items[net.source].along), (start, bends[row])]
            for r in range(row + 1, graph.row[target]):
                x = across[graph.passing[k][r - row - 1]]
                points += [(x, tops[r]), (x, bends[r])]
            end = arrives[k][j]
            points += [(end, tops[graph.row[target]]), (end, anchors[target][1])]
            lines[-1].append(points)
    width = max(x + graph.after[v] for v, x in enumerate(across))
    return Arrangement(anchors, lines, width, tops[-2] + thick[-1])


def _ports(graph: _Rows, across: list[float]) -> tuple[list[float], list[list[float]]]:
    """Spread the lines of a box over its side, in the order of where they come from or go to."""
    leaves = [across[net.source] + (net.leaves or 0.0) for net in graph.nets]
    arrives = [[across[t] + (at or 0.0) for t, at in net.targets] for net in graph.nets]
    out: dict[int, list[int]] = {}
    into: dict[int, list[tuple[int, int]]] = {}
    for k, net in enumerate(graph.nets):
        if net.leaves is None:
            out.setdefault(net.source, []).append(k)
        for j, (target, at) in enumerate(net.targets):
            if at is None:
                into.setdefault(target, []).append((k, j))

    def previous(k: int, j: int) -> float:
        passed = graph.row[graph.nets[k].targets[j][0]] - graph.row[graph.nets[k].source] - 1
        return across[graph.passing[k][passed - 1]] if passed else leaves[k]

    def following(k: int) -> float:
        net = graph.nets[k]
        nearest = [across[t] for t, _ in net.targets if graph.row[t] == graph.row[net.source] + 1]
        nearest += [across[v] for v in graph.passing[k][:1]]
        return sum(nearest) / len(nearest)

    for v, found in out.items():
        for k, at in zip(sorted(found, key=following), _spread(graph.items[v], len(found)), strict=True):
            leaves[k] = across[v] + at
    for v, ends in into.items():
        for (k, j), at in zip(
            sorted(ends, key=lambda e: previous(*e)), _spread(graph.items[v], len(ends)), strict=True
        ):
            arrives[k][j] = across[v] + at
    return leaves, arrives


def _spread(item: Item, count: int) -> list[float]:
    step = min(22.0, 2 * min(item.before, item.after) / (count + 1))
    return [(k - (count - 1) / 2) * step for k in range(count)]


def _gaps(
    graph: _Rows, across: list[float], leaves: list[float], arrives: list[list[float]]
) -> list[tuple[float, float]]:
    """Return the free space after each row: first enough for labels, then for lines that go far to bend gently."""
    far = [0.0] * len(graph.order)
    room = [0.0] * len(graph.order)
    for k, net in enumerate(graph.nets):
        row = graph.row[net.source]
        room[row] = max(room[row], net.room)
        xs = [leaves[k], *(across[v] for v in graph.passing[k])]
        for step, (a, b) in enumerate(itertools.pairwise(xs)):
            far[row + step] = max(far[row + step], abs(a - b))
        for j, (target, _) in enumerate(net.targets):
            step = graph.row[target] - row - 1
            far[row + step] = max(far[row + step], abs(xs[step] - arrives[k][j]))
    return [(free, min(80.0, 24.0 + wide / 12)) for free, wide in zip(room, far, strict=True)]

"""The geometry of a drawing: every box with its texts, every line, clusters around the layers of models that are drawn open."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from graftwork.report.drawing.diagram import Diagram, Frozen, Kind, Link, Part
from graftwork.report.drawing.layered import Item, Net, Point, arrange
from graftwork.report.drawing.words import fit, width, wrap

Direction = Literal["down", "right"]

NAME, BODY, EDGE = 12.5, 11.0, 10.0
"""Sizes of the letters of a box's name, of its other lines, and beside lines."""
LETTERS = {
    "name": (NAME, True),
    "body": (BODY, False),
    "end": (BODY, True),
    "edge": (EDGE, False),
    "halo": (EDGE, False),
    "badge": (EDGE, True),
}
"""Size and boldness of each style of text."""
LINE = 16.0
PADDING = 10.0
WIDEST = 270.0
NARROWEST = 84.0
MARGIN = 16.0
HEADER = 44.0
STACK = 5.0
"""How far the second sheet of a box that stands for several layers looks out."""


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text.

    Attributes:
        x: Where it begins, is centred or ends, as `anchor` says.
        y: Its base line.
        text: What is written.
        style: A key of `LETTERS`.
        anchor: ``"start"``, ``"middle"`` or ``"end"``.
    """

    x: float
    y: float
    text: str
    style: str
    anchor: str = "start"

    @property
    def extent(self) -> tuple[float, float]:
        """From where to where it reaches at most."""
        size, bold = LETTERS[self.style]
        wide = width(self.text, size, bold=bold)
        begin = self.x - {"start": 0.0, "middle": wide / 2, "end": wide}[self.anchor]
        return begin, begin + wide


@dataclass(frozen=True, slots=True)
class Placed:
    """A part with its place, in the coordinates of the whole drawing; `inside` lies within it."""

    part: Part
    x: float
    y: float
    width: float
    height: float
    texts: tuple[Text, ...]
    inside: "Picture | None" = None


@dataclass(frozen=True, slots=True)
class Route:
    """A line.

    Attributes:
        source: The number of the box where it begins; -1 is the edge of the cluster.
        target: The number of the box where it ends; -1 likewise.
        points: Straight from the first to the second, bent from the second to the third, and so on in turns.
        arrow: Whether it ends in an arrow.
    """

    source: int
    target: int
    points: tuple[Point, ...]
    arrow: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """A graph with places: `boxes` in the order of the diagram's parts."""

    boxes: tuple[Placed, ...]
    routes: tuple[Route, ...]
    labels: tuple[Text, ...]
    width: float
    height: float
    direction: Direction

    def everywhere(self) -> Iterator[Placed]:
        """Yield every box, those inside clusters after the cluster."""
        for box in self.boxes:
            yield box
            if box.inside is not None:
                yield from box.inside.everywhere()

    def moved(self, x: float, y: float) -> "Picture":
        """Return the same somewhere else."""
        return Picture(
            boxes=tuple(_moved(box, x, y) for box in self.boxes),
            routes=tuple(replace(r, points=tuple((a + x, b + y) for a, b in r.points)) for r in self.routes),
            labels=tuple(replace(label, x=label.x + x, y=label.y + y) for label in self.labels),
            width=self.width,
            height=self.height,
            direction=self.direction,
        )


def _moved(box: Placed, x: float, y: float) -> Placed:
    return Placed(
        box.part,
        box.x + x,
        box.y + y,
        box.width,
        box.height,
        tuple(replace(text, x=text.x + x, y=text.y + y) for text in box.texts),
        box.inside.moved(x, y) if box.inside is not None else None,
    )


def place(diagram: Diagram, direction: Direction = "down") -> Picture:
    """Return where everything of a diagram goes, with the top left corner at (0, 0).

    Raises:
        StoreError: If the connections are too many to follow.
    """
    return _arranged(diagram, [_box(part, direction) for part in diagram.parts], direction, ())


def _arranged(
    diagram: Diagram, boxes: Sequence[Placed], direction: Direction, exits: Sequence[tuple[int, int]]
) -> Picture:
    """Place boxes and lines; a line to the end of the graph is kept free for each of `exits`, and is among the last routes."""
    down = direction == "down"
    count = len(boxes)
    leaving = [Link(source, output, count + k, 0, "") for k, (source, output) in enumerate(exits)]
    nets, links = _nets([*diagram.links, *leaving], boxes, down)
    told = [0.0] * count
    for net, members in zip(nets, links, strict=True):
        told[net.source] = max(told[net.source], width(members[0].shape, EDGE) if down else 0.0)
    items = [_item(box, down, label) for box, label in zip(boxes, told, strict=True)]
    found = arrange([*items, *(Item(0.0, 0.0, 0.0, last=True) for _ in exits)], nets)
    placed = []
    for box, item, (across, along) in zip(boxes, items, found.anchors, strict=False):
        x, y = (across - item.before, along) if down else (along, across - item.before)
        placed.append(_moved(box, x, y))
    routes, labels = [], []
    out: dict[int, Route] = {}
    for net, lines, members in zip(nets, found.lines, links, strict=True):
        for link, line in zip(members, lines, strict=True):
            points = tuple(line) if down else tuple((b, a) for a, b in line)
            if link.target < count:
                routes.append(Route(net.source, link.target, points))
            else:
                out[link.target] = Route(net.source, -1, points, arrow=False)
        if members[0].shape:
            x, y = points[0]
            labels.append(Text(*((x + 5, y + 12) if down else (x + 6, y - 4)), members[0].shape, "edge"))
    wide, high = (found.across, found.along) if down else (found.along, found.across)
    routes += [out[number] for number in sorted(out)]
    return Picture(tuple(placed), tuple(routes), tuple(labels), wide, high, direction)


def _nets(every: Sequence[Link], boxes: Sequence[Placed], down: bool) -> tuple[list[Net], list[list[Link]]]:
    """Gather links by tensor: lines of one tensor share their way and their label."""
    tensors: dict[tuple[int, int], list[Link]] = {}
    for link in every:
        tensors.setdefault((link.source, link.output), []).append(link)
    nets = []
    for (source, output), members in tensors.items():
        targets = tuple(
            (link.target, _entry(boxes[link.target], link.entry, down) if link.target < len(boxes) else None)
            for link in members
        )
        room = 0.0 if not members[0].shape else 15.0 if down else width(members[0].shape, EDGE) + 10
        nets.append(Net(source, _exit(boxes[source], output, down), targets, room))
    return nets, list(tensors.values())


def _entry(box: Placed, entry: int, down: bool) -> float | None:
    """Return where a line arrives at a cluster, from its anchor: at its input."""
    inner = box.part.inside
    if inner is None or box.inside is None or not inner.entries:
        return None
    end = box.inside.boxes[inner.entries[entry] if entry < len(inner.entries) else inner.entries[0]]
    return _middle(end, down) - _anchor(box, down)


def _exit(box: Placed, output: int, down: bool) -> float | None:
    if box.inside is None:
        return None
    stubs = [route for route in box.inside.routes if route.target == -1]
    if output >= len(stubs):
        return None
    return stubs[output].points[-1][0 if down else 1] - _anchor(box, down)


def _middle(box: Placed, down: bool) -> float:
    return box.x + box.width / 2 if down else box.y + box.height / 2


def _anchor(box: Placed, down: bool) -> float:
    """Return the line across the flow by which a box is aligned: a cluster's input, else the middle."""
    inner = box.part.inside
    if inner is not None and box.inside is not None and len(inner.entries) == 1:
        return _middle(box.inside.boxes[inner.entries[0]], down)
    return _middle(box, down)


def _item(box: Placed, down: bool, label: float) -> Item:
    wide, high = (box.width, box.height) if down else (box.height, box.width)
    anchor = _anchor(box, down)
    after = max(wide - anchor, label + 6)
    return Item(anchor, after, high, first=box.part.kind is Kind.INPUT, early=box.inside is not None)


def _box(part: Part, direction: Direction) -> Placed:
    """Return a box at (0, 0), as large as its texts need."""
    if part.inside is not None:
        return _cluster(part, direction)
    if part.kind in (Kind.INPUT, Kind.OUTPUT):
        return _end(part)
    badge = f"{_ordinal(part.use)}" if part.use[1] > 1 else ""
    body = [part.class_name]
    for line in part.details:
        joined = f"{body[-1]}  {line}"
        if len(body) == 1 and part.kind is Kind.LAYER and width(joined, BODY) <= WIDEST - 2 * PADDING:
            body[-1] = joined
        else:
            body.append(line)
    if part.kind is Kind.LAYER and body == [part.title]:
        body = []
    inner = WIDEST - 2 * PADDING
    badge_width = width(badge, EDGE, bold=True) + 8 if badge else 0.0
    name = _named(part, inner - badge_width)
    body = [row for line in body for row in wrap(line, BODY, inner, 2)]
    widths = [width(name, NAME, bold=True) + badge_width, *(width(line, BODY) for line in body)]
    if part.inside is None and direction == "down":
        widths.append(NARROWEST - 2 * PADDING)
    wide = round(max(widths) + 2 * PADDING, 1)
    extra = STACK if part.kind is not Kind.LAYER else 0.0
    texts = [Text(PADDING, 19.0, name, "name")]
    texts += [Text(PADDING, 19.0 + LINE * k, line, "body") for k, line in enumerate(body, start=1)]
    if badge:
        texts.append(Text(wide - PADDING, 18.5, badge, "badge", "end"))
    return Placed(part, 0.0, 0.0, wide + extra, 28.0 + LINE * len(body) + extra, tuple(texts))


def _named(part: Part, limit: float) -> str:
    if not part.until:
        return fit(part.title, NAME, limit, bold=True)
    whole = f"{part.title} … {part.until}"
    if width(whole, NAME, bold=True) <= limit:
        return whole
    half = (limit - width(" … ", NAME, bold=True)) / 2
    return " … ".join(fit(name, NAME, half, bold=True) for name in (part.title, part.until))


def _ordinal(use: tuple[int, int]) -> str:
    return f"use {use[0]} of {use[1]}"


def _end(part: Part) -> Placed:
    text = fit(part.title, BODY, WIDEST - 40, bold=True)
    wide = round(max(width(text, BODY, bold=True) + 32, 64.0), 1)
    return Placed(part, 0.0, 0.0, wide, 26.0, (Text(wide / 2, 17.0, text, "end", "middle"),))


def _cluster(part: Part, direction: Direction) -> Placed:
    assert part.inside is not None
    down = direction == "down"
    diagram = part.inside
    boxes = [_box(inner, direction) for inner in diagram.parts]
    inside = _arranged(diagram, boxes, direction, ())
    stubs = [_stub(inside, number, output) for number, output in diagram.exits]
    if all(_is_free(inside, stub) for stub in stubs) and len({stub.points for stub in stubs}) == len(stubs):
        inside = replace(inside, routes=(*inside.routes, *stubs))
    else:
        inside = _arranged(diagram, boxes, direction, diagram.exits)
    told = [part.class_name, *part.details]
    if part.use[1] > 1:
        told.append(_ordinal(part.use))
    if part.frozen is not Frozen.NO:
        told.append("frozen" if part.frozen is Frozen.YES else "partly frozen")
    line = " · ".join(told)
    limit = max(inside.width, 360.0)
    name = fit(part.title, NAME, limit, bold=True)
    line = fit(line, BODY, limit)
    wide = max(inside.width, width(name, NAME, bold=True), width(line, BODY)) + 2 * MARGIN
    high = inside.height + HEADER + 2 * MARGIN
    moved = inside.moved((wide - inside.width) / 2, HEADER + MARGIN)
    routes = [_to_border(route, high if down else wide, down) for route in moved.routes]
    if not down:
        for number in diagram.entries:
            box = moved.boxes[number]
            y = _middle(box, down)
            routes.append(Route(-1, number, ((0.0, y), (box.x, y)), arrow=False))
    texts = (Text(MARGIN, 19.0, name, "name"), Text(MARGIN, 35.0, line, "body"))
    return Placed(part, 0.0, 0.0, wide, high, texts, replace(moved, routes=tuple(routes)))


def _stub(picture: Picture, number: int, output: int) -> Route:
    """Return the straight line from a box to the end of the graph."""
    down = picture.direction == "down"
    box = picture.boxes[number]
    at = _exit(box, output, down)
    across = _middle(box, down) if at is None else _anchor(box, down) + at
    if down:
        return Route(number, -1, ((across, box.y + box.height), (across, picture.height)), arrow=False)
    return Route(number, -1, ((box.x + box.width, across), (picture.width, across)), arrow=False)


def _is_free(picture: Picture, stub: Route) -> bool:
    """Whether a straight line runs through no box."""
    (x0, y0), (x1, y1) = stub.points
    for k, box in enumerate(picture.boxes):
        if k != stub.source and x0 <= box.x + box.width and x1 >= box.x and y0 <= box.y + box.height and y1 >= box.y:
            return False
    return True


def _to_border(route: Route, border: float, down: bool) -> Route:
    if route.target != -1:
        return route
    x, y = route.points[-1]
    return replace(route, points=(*route.points[:-1], (x, border) if down else (border, y)))

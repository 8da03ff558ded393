"""A picture as SVG: one file without scripts, links or fonts of its own."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from xml.sax.saxutils import escape

from graftwork.report.drawing.diagram import Frozen, Kind
from graftwork.report.drawing.layered import Point
from graftwork.report.drawing.placing import HEADER, STACK, Picture, Placed, Route, Text
from graftwork.report.drawing.words import fit, is_plain, width

BORDER = 28.0
CORNER = 6.0

STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;fill:#1f2933}
.title{font-size:20px;font-weight:600}.told{font-size:12.5px;fill:#52606d}
.name{font-size:12.5px;font-weight:600}.body{font-size:11px;fill:#52606d}
.end{font-size:11px;font-weight:600}.badge{font-size:10px;font-weight:600;fill:#8a3f8f}
.edge,.halo{font-size:10px;fill:#616e7c}.halo{fill:#fff;stroke:#fff;stroke-width:2.5px;stroke-linejoin:round;opacity:.85}
.box{fill:#fff;stroke:#9aa5b1}.frozen{fill:#d5e3f3;stroke:#6b8cae}.partly{fill:#eef4fb;stroke:#6b8cae}
.shared{stroke:#8a3f8f;stroke-width:1.5;stroke-dasharray:5 3}
.cluster{fill:#fafaf7;stroke:#c3c6bf}.cluster.frozen{fill:#edf3fa;stroke:#8fabc9}.cluster.partly{fill:#f6f9fd;stroke:#8fabc9}
.band{fill:#eeeee8}.band.frozen{fill:#d5e3f3;stroke:none}.band.partly{fill:#e6eff9;stroke:none}
.input{fill:#e3f4e8;stroke:#3c9160}.output{fill:#fdebd8;stroke:#c9772b}
.weights{fill:#3b6fb0}.line{fill:none;stroke:#8793a0;stroke-width:1.3}.head{fill:#8793a0}
"""


def to_svg(picture: Picture, title: str, told: str) -> str:
    """Return a picture as the text of an SVG file.

    Args:
        picture: What is drawn.
        title: The heading.
        told: The line below it.
    """
    legend = _legend(picture)
    needs = sum(46 + width(text, 11.0) for _, text in legend)
    wide = max(picture.width, min(needs, 640.0), 420.0) + 2 * BORDER
    title = fit(title, 20.0, wide - 2 * BORDER, bold=True)
    rows = _wrapped(told.split(" · "), 12.5, wide - 2 * BORDER)
    top = BORDER + 22.0 + 18.0 * len(rows)
    keys, below = _keys(legend, top + 6, wide - BORDER)
    top = below + 26.0
    moved = picture.moved((wide - picture.width) / 2, top)
    high = top + picture.height + BORDER
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(wide)}" height="{_n(high)}" viewBox="0 0 {_n(wide)} {_n(high)}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{_n(wide)}" height="{_n(high)}" fill="#fff"/>',
        f'<text class="title" x="{_n(BORDER)}" y="{_n(BORDER + 16)}">{escape(title)}</text>',
        *(
            f'<text class="told" x="{_n(BORDER)}" y="{_n(BORDER + 36 + 18 * k)}">{escape(row)}</text>'
            for k, row in enumerate(rows)
        ),
        *keys,
        *_picture(moved),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _wrapped(pieces: Sequence[str], size: float, limit: float) -> list[str]:
    rows: list[str] = []
    for piece in pieces:
        joined = f"{rows[-1]} · {piece}" if rows else piece
        if rows and width(joined, size) <= limit:
            rows[-1] = joined
        else:
            rows.append(fit(piece, size, limit))
    return rows


def _legend(picture: Picture) -> list[tuple[str, str]]:
    boxes = list(picture.everywhere())
    kinds = {box.part.kind for box in boxes}
    frozen = {box.part.frozen for box in boxes}
    return [
        (style, text)
        for shown, style, text in (
            (Kind.INPUT in kinds, "input", "input"),
            (Kind.OUTPUT in kinds, "output", "output"),
            (any(box.part.weights for box in boxes), "weights", "has weights"),
            (Frozen.YES in frozen, "box frozen", "frozen"),
            (Frozen.PARTLY in frozen, "box partly", "partly frozen"),
            (any(box.part.use[1] > 1 for box in boxes), "box shared", "used more than once, with the same weights"),
            (any(_is_stack(box) for box in boxes), "stack", "several layers"),
        )
        if shown
    ]


def _keys(legend: Sequence[tuple[str, str]], top: float, limit: float) -> tuple[list[str], float]:
    lines: list[str] = []
    x = BORDER
    for style, text in legend:
        wide = width(text, 11.0)
        if x > BORDER and x + 24 + wide > limit:
            x, top = BORDER, top + 18
        if style in ("weights", "stack"):
            if style == "stack":
                lines.append(_rect("box", x + 3, top + 3, 15, 9, 2))
            lines.append(_rect("box", x, top, 15 if style == "stack" else 18, 9 if style == "stack" else 12, 2))
            if style == "weights":
                lines.append(_rect("weights", x, top, 3.5, 12, 1.5))
        else:
            lines.append(_rect(style, x, top, 18, 12, 6 if style in ("input", "output") else 2))
        lines.append(f'<text class="body" x="{_n(x + 24)}" y="{_n(top + 10)}">{escape(text)}</text>')
        x += 46 + wide
    return lines, top + 12


def _picture(picture: Picture) -> Iterator[str]:
    for box in picture.boxes:
        if box.inside is not None:
            yield from _cluster(box)
    for route in picture.routes:
        yield from _route(route, downward=picture.direction == "down")
    for box in picture.boxes:
        if box.inside is None:
            yield from _box(box)
    for label in picture.labels:
        yield _text(replace(label, style="halo"))
        yield _text(label)


def _cluster(box: Placed) -> Iterator[str]:
    assert box.inside is not None
    frozen = _frozen(box)
    yield f"<g><title>{escape(box.part.hint)}</title>"
    yield _rect(f"cluster{frozen}", box.x, box.y, box.width, box.height, 10)
    yield _rect(f"band{frozen}", box.x + 1, box.y + 1, box.width - 2, HEADER - 1, 9)
    if box.part.use[1] > 1:
        yield _rect("shared", box.x, box.y, box.width, box.height, 10, 'fill="none"')
    for text in box.texts:
        yield _text(text)
    yield "</g>"
    yield from _picture(box.inside)


def _box(box: Placed) -> Iterator[str]:
    part = box.part
    yield f"<g><title>{escape(part.hint)}</title>"
    if part.kind in (Kind.INPUT, Kind.OUTPUT):
        yield _rect(part.kind.value, box.x, box.y, box.width, box.height, box.height / 2)
    else:
        style = f"box{_frozen(box)}{' shared' if part.use[1] > 1 else ''}"
        extra = STACK if _is_stack(box) else 0.0
        wide, high = box.width - extra, box.height - extra
        if extra:
            yield _rect(style, box.x + extra, box.y + extra, wide, high, CORNER)
        yield _rect(style, box.x, box.y, wide, high, CORNER)
        if part.weights:
            yield _rect("weights", box.x + 0.5, box.y + 5, 3.5, high - 10, 1.7)
    for text in box.texts:
        yield _text(text)
    yield "</g>"


def _is_stack(box: Placed) -> bool:
    return box.inside is None and box.part.kind in (Kind.FOLD, Kind.MODEL)


def _frozen(box: Placed) -> str:
    return {Frozen.NO: "", Frozen.PARTLY: " partly", Frozen.YES: " frozen"}[box.part.frozen]


def _route(route: Route, *, downward: bool) -> Iterator[str]:
    points = list(route.points)
    x, y = points[-1]
    if route.arrow:
        length = 7.0
        points[-1] = (x, y - length + 1) if downward else (x - length + 1, y)
        tips = (
            [(x - 3.5, y - length), (x + 3.5, y - length)]
            if downward
            else [(x - length, y - 3.5), (x - length, y + 3.5)]
        )
        head = " ".join(f"{_n(a)},{_n(b)}" for a, b in [*tips, (x, y)])
    steps = [f"M{_pair(points[0])}"]
    for k, (a, b) in enumerate(itertools.pairwise(points)):
        if a == b:
            continue
        across = a[0] != b[0] if downward else a[1] != b[1]
        if k % 2 == 1 and across:
            middle = ((a[1] + b[1]) / 2) if downward else ((a[0] + b[0]) / 2)
            bend = [(a[0], middle), (b[0], middle)] if downward else [(middle, a[1]), (middle, b[1])]
            steps.append(f"C{_pair(bend[0])} {_pair(bend[1])} {_pair(b)}")
        else:
            steps.append(f"L{_pair(b)}")
    yield f'<path class="line" d="{"".join(steps)}"/>'
    if route.arrow:
        yield f'<polygon class="head" points="{head}"/>'


def _text(text: Text) -> str:
    more = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
    if not is_plain(text.text):
        begin, end = text.extent
        more += f' textLength="{_n(end - begin)}" lengthAdjust="spacingAndGlyphs"'
    return f'<text class="{text.style}" x="{_n(text.x)}" y="{_n(text.y)}"{more}>{escape(text.text)}</text>'


def _rect(style: str, x: float, y: float, wide: float, high: float, corner: float, more: str = "") -> str:
    extra = f" {more}" if more else ""
    return f'<rect class="{style}" x="{_n(x)}" y="{_n(y)}" width="{_n(wide)}" height="{_n(high)}" rx="{_n(corner)}"{extra}/>'


def _pair(point: Point) -> str:
    return f"{_n(point[0])},{_n(point[1])}"


def _n(value: float) -> str:
    """Return a coordinate with at most one decimal, the same on every machine."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"

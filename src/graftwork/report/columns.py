"""Rows of texts in columns, as wide as they need to be; on a terminal no wider than it, long texts going on below.

Characters that are two columns wide, as in names in Chinese or Japanese, count as two. What does not print is escaped.
"""

import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest

GAP = "  "
"""What stands between two columns."""

LEAST = 8
"""Columns of texts are not made narrower than this."""

MANY = 100_000
"""So wide is what is no terminal."""


def terminal_width() -> int:
    """Return how wide standard output is."""
    if sys.stdout is None or not sys.stdout.isatty():  # None where the shell has closed it
        return MANY
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except OSError:
        return 80


def filled(text: str) -> str:
    """Return a paragraph in lines that are easily read."""
    return textwrap.fill(text, min(100, terminal_width()), break_long_words=False, break_on_hyphens=False)


def in_columns(rows: Iterable[Sequence[str]], right: Sequence[int] = (), width: int | None = None) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: One text for each column.
        right: Which columns are aligned to the right, as numbers are.
        width: How wide lines may be, by default as standard output.
    """
    rows = [[_shown(cell) for cell in row] for row in rows]
    if not rows:
        return []
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    room = (terminal_width() if width is None else width) - len(GAP) * (len(widths) - 1)
    while sum(widths) > room and max(widths) > LEAST:
        widest = widths.index(max(widths))
        second = max([LEAST, *(n for n in widths if n < widths[widest])])
        widths[widest] = max(second, widths[widest] - (sum(widths) - room))
    lines = []
    for row in rows:
        parts = [_folded(cell, n) for cell, n in zip(row, widths, strict=True)]
        for cells in zip_longest(*parts, fillvalue=""):
            padded = [
                " " * (n - _width(cell)) + cell if at in right else cell + " " * (n - _width(cell))
                for at, (cell, n) in enumerate(zip(cells, widths, strict=True))
            ]
            lines.append(GAP.join(padded).rstrip())
    return lines


def _shown(text: str) -> str:
    """Return a text with escapes in the place of what moves a cursor, or worse: names come from files."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _width(text: str) -> int:
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _folded(text: str, width: int) -> list[str]:
    """Return a text in pieces of at most `width`, cut at blanks where there are some."""
    if _width(text) <= width:
        return [text]
    pieces, piece, used = [], "", 0
    for character in text:
        need = _columns(character)
        if piece and used + need > width:
            head, blank, tail = piece.rpartition(" ")
            pieces.append(head if blank else piece)
            piece = tail if blank else ""
            used = _width(piece)
        piece, used = piece + character, used + need
    return [*pieces, piece]

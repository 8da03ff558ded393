"""Tables for terminals: nothing is lost, nothing is wider than it may be, and nothing that does not print is printed."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from graftwork.report.columns import GAP, LEAST, in_columns

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def columns_of(line: str) -> int:
    """How many columns of a terminal a line takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def test_a_table_by_hand():
    """As wide as its texts, numbers to the right, no blanks at the end."""
    rows = [["tensor", "size", "role"], ["kernel", "1,024", "weight"], ["b", "8", ""]]
    assert in_columns(rows, [1]) == ["tensor   size  role", "kernel  1,024  weight", "b           8"]


def test_a_narrow_terminal_folds_the_widest_column():
    """The others stay as they are; what is folded goes on below, and is cut at blanks where there are some."""
    rows = [["name", "shape"], ["encoder/layer_0/attention/kernel", "2×3"], ["some words that are long", "4"]]
    assert in_columns(rows, width=23) == [
        "name              shape",
        "encoder/layer_0/  2×3",
        "attention/kernel",
        "some words that   4",
        "are long",
    ]


def test_characters_of_two_columns_are_counted_as_two():
    """Names in Chinese stand in line with others."""
    assert in_columns([["层", "a"], ["bias", "b"]]) == ["层    a", "bias  b"]


def test_what_would_move_the_cursor_is_escaped():
    """Names come from files that others made."""
    assert in_columns([["a\x1b[2Jb\n", "c"]]) == ["a\\x1b[2Jb\\n  c"]


def test_nothing_is_no_table():
    """No rows, no lines."""
    assert in_columns([]) == []


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5), st.integers(3 * LEAST + 2 * len(GAP), 60))
def test_nothing_is_lost_and_nothing_too_wide(rows, width):
    """Whatever the texts and the terminal."""
    lines = in_columns(rows, width=width)
    assert all(columns_of(line) <= width and line.isprintable() for line in lines)
    wanted = sorted(c for row in rows for cell in row for c in cell if c.isprintable() and c.isalpha() and ord(c) > 127)
    assert wanted == sorted(c for line in lines for c in line if c.isalpha() and ord(c) > 127)

"""Classes by name: every class of the result is made of the same class of every member that has it, and of nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.compose.classes import class_lists, class_map
from graftwork.errors import MismatchError, OptionError, UnknownNameError

LISTS = st.lists(
    st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=6, unique=True).map(tuple), min_size=1, max_size=5
)


def mapped(lists, weights=None):
    names = [f"m{k}" for k in range(len(lists))]
    return names, class_map(names, [len(each) for each in lists], lists, weights or [1.0] * len(lists))


@given(LISTS)
def test_every_class_gathers_its_own_columns(lists):
    """Reading the groups back gives, for each class, who has it and where; no column is used twice or left out."""
    _, found = mapped(lists)

    assert found.classes == tuple(dict.fromkeys(each for known in lists for each in known))
    seen = {
        (found.classes[at], member): columns[place]
        for group in found.groups
        for place, at in enumerate(group.classes)
        for member, columns in zip(group.members, group.columns, strict=True)
    }
    assert seen == {(each, k): known.index(each) for k, known in enumerate(lists) for each in known}
    laid = [at for group in found.groups for at in group.classes]
    order = found.order if found.order is not None else range(len(laid))
    assert [laid[place] for place in order] == list(range(found.width))


@given(LISTS, st.data())
def test_the_table_says_where_each_class_is_and_how_much_of_the_weight_knows_it(lists, data):
    """One row for each class, None where a member does not know it; the coverage is the share of the weights that do."""
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(lists), max_size=len(lists)))
    names, found = mapped(lists, weights)

    for row, each in zip(found.rows, found.classes, strict=True):
        knowing = [k for k, known in enumerate(lists) if each in known]
        assert row["class"] == each
        assert np.isclose(row["coverage"], sum(weights[k] for k in knowing) / sum(weights))
        assert [row[name] for name in names] == [known.index(each) if each in known else None for known in lists]


def test_without_lists_the_same_order_is_assumed_and_said():
    """Also where some members have the same list and the others none, but as many outputs."""
    plain = class_map(["a", "b"], [3, 3], [None, None], [1, 1])
    some = class_map(["a", "b", "c"], [2, 2, 2], [("x", "y"), None, ("x", "y")], [1, 1, 1])

    assert plain.classes is None
    assert "the same order are assumed" in plain.notes[0]
    assert some.classes == ("x", "y")
    assert some.notes[0].startswith("b has no names")
    assert [group.columns for group in some.groups] == [((0, 1), (0, 1), (0, 1))]


@pytest.mark.parametrize(
    ("widths", "lists", "said"),
    [
        ([1, 10], [None, None], "a gives 1 values and b gives 10"),
        ([None, 10, 9], [None, None, None], "b gives 10 values and c gives 9"),
        ([2, 2], [("x", "x"), ("x", "y")], "class 'x' stands twice"),
        ([3, 2], [("x", "y"), ("x", "y")], "a gives 3 values, and its list names 2"),
        ([None, 2], [("x", "y"), ("x", "y")], "does not fix how many"),
        ([2, 2, 2], [("x", "y"), None, ("y", "x")], "b has none"),
        ([2, 3], [("x", "y"), None], "b has none"),
    ],
)
def test_what_cannot_be_matched_is_refused(widths, lists, said):
    """With what was found; nothing is guessed or broadcast."""
    with pytest.raises(MismatchError, match=said):
        class_map(["a", "b", "c"][: len(lists)], widths, lists, [1.0] * len(lists))


def test_a_users_lists_stand_before_those_of_sources():
    """By member or in turn; a list for nobody and a list too few are refused; numbers are names as well."""
    known = [("x", "y"), None]
    assert class_lists(["a", "b"], None, known, ["a", "b"]) == [("x", "y"), None]
    assert class_lists(["a", "b"], {"b": [1, 2]}, known, ["a", "b"]) == [("x", "y"), ("1", "2")]
    assert class_lists(["a", "b"], [["p"], ["q"]], known, ["a", "b"]) == [("p",), ("q",)]
    with pytest.raises(UnknownNameError, match="'c'"):
        class_lists(["a", "b"], {"c": ["x"]}, known, ["a", "b"])
    with pytest.raises(OptionError, match="1 lists for 2"):
        class_lists(["a", "b"], [["x"]], known, ["a", "b"])

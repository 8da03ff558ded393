"""What is drawn for a test says nothing of what was imported before it."""

import importlib.util
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def test_examples_are_the_same_whatever_was_imported_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Hypothesis looks for constants in modules that are there; which are, the tests before decide, and the worker that they ran in."""
    (tmp_path / "constants.py").write_text(f"NUMBERS = {[*range(10_000, 10_100)]}")

    def drawn() -> list[list[int]]:
        found = []

        @settings(max_examples=200)
        @given(st.lists(st.integers()))
        def draw(numbers: list[int]) -> None:
            found.append(numbers)

        draw()
        return found

    before = drawn()
    spec = importlib.util.spec_from_file_location("constants", tmp_path / "constants.py")
    monkeypatch.setitem(sys.modules, "constants", importlib.util.module_from_spec(spec))

    assert drawn() == before

"""The demo shows what it says it shows, by the numbers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graftwork import demo
from graftwork.errors import GraftworkError, OutputError


def test_the_demo_shows_merging_at_work(tmp_path: Path):
    """Fine-tunes of one base merge well; models that were trained apart do not."""
    folder = tmp_path / "models"
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "demo", "--folder", str(folder), "--json"],
        env={**os.environ, "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("graftwork merge ")]
    rows = {row["model"]: row for row in json.loads(done.stdout)}
    accuracy = {name: row["accuracy"] for name, row in rows.items()}
    assert set(rows) == {*demo.TRAINED, *demo.MERGES} == {path.stem for path in folder.iterdir()}
    assert accuracy["soup"] > max(accuracy[name] for name in (*demo.DIGITS, "base"))
    assert accuracy["broken"] < min(accuracy["soup"], accuracy["apart"]) - 0.1
    for name in demo.MERGES:
        assert rows[name]["seconds"] > 0
        assert 20 < rows[name]["peak_mb"] < 500


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path):
    """The demo writes nothing over what is there."""
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputError, match="is not an empty directory"):
        demo.run(tmp_path, tell=lambda _: None)


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    """Instead of a traceback."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(GraftworkError, match=r"pip install graftwork\[demo\]"):
        demo.run(None, tell=lambda _: None)


def test_the_table_says_what_to_see(capsys: pytest.CaptureFixture[str]):
    """Numbers in the sentences are those of the rows."""
    rows = [{"model": name, "accuracy": 0.5, "how": "somehow"} for name in demo.TRAINED]
    rows += [
        {"model": name, "accuracy": 0.75, "how": "graftwork merge …", "seconds": 1.24, "peak_mb": 199.6}
        for name in demo.MERGES
    ]
    demo.show(rows)
    shown = capsys.readouterr().out
    assert "soup                0.750      1.2      200  graftwork merge …\n" in shown
    assert "their plain average knows all ten (0.750)" in " ".join(shown.split())

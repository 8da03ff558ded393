"""No file, however made, does more than be refused."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import CASES, CORPORA
from hostile.client import Worker
from hostile.corpus import Case, Outcome
from hostile.keras_config import MARKER

GROWTH_BYTES = 300 << 20
MESSAGE_CHARACTERS = 700


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One process that forks a child for each file."""
    with Worker() as made:
        yield made


def snapshot(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return what lies below a directory, links not followed."""
    found: dict[str, tuple[Any, ...]] = {}
    for root, directories, files in os.walk(folder):
        for name in directories + files:
            path = Path(root, name)
            status = path.lstat()
            found[str(path.relative_to(folder))] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)
    return found


def names_of(path: Path) -> set[str]:
    """Return the names by which a refusal may call a source: its own, its files', its members'."""
    inside = {file.name for file in path.parent.rglob("*")} if path.parent.is_dir() else set()
    return {path.name} | inside


def digest(values: Any) -> tuple[tuple[int, ...], str]:
    """Return a tensor's shape and the digest of its values as the worker reports them."""
    little = values.astype(values.dtype.newbyteorder("<"))
    return tuple(values.shape), hashlib.sha256(little.tobytes()).hexdigest()


def test_every_format_has_twenty_hostile_files():
    """No corpus is a token."""
    for name, corpus in CORPORA.items():
        assert sum(case.outcome is Outcome.REFUSED for case in corpus.cases.values()) >= 20, name


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_it_is_refused_or_read_right(case: Case, tmp_path: Path, worker: Worker):
    """A hostile file ends in one sentence that names it; an odd one gives its values; nothing runs, grows or changes."""
    path = case.build(tmp_path)
    before = snapshot(tmp_path)

    said = worker.read(path)

    assert said["end"] in ("read", "refused"), (
        f"{said['end']}: {said.get('type', '')} {said['message']}\n{said.get('trace', '')}"
    )
    assert not (tmp_path / MARKER).exists(), "something in the file was run"
    assert snapshot(tmp_path) == before, "reading changed a file"
    assert said["growth_bytes"] < GROWTH_BYTES, f"reading took {said['growth_bytes'] >> 20} MiB"
    if case.outcome is Outcome.HARMLESS:
        assert said["end"] == "read", f"refused: {said['message']}"
    if case.outcome is Outcome.REFUSED:
        assert said["end"] == "refused", f"read as {[t['name'][:80] for t in said['tensors']][:20]}"
    if said["end"] == "refused":
        message = said["message"]
        assert "\n" not in message and "Traceback" not in message, message[:1000]
        assert message.isprintable(), ascii(message[:1000])
        assert 10 < len(message) < MESSAGE_CHARACTERS + len(str(path)), message[:1000]
        assert any(name in message for name in names_of(path)), f"names no file: {message}"
        assert re.search(case.mentions, message), message
    elif case.outcome is Outcome.HARMLESS:
        found = {(tuple(tensor["shape"]), tensor["digest"]) for tensor in said["tensors"]}
        missing = [name for name, values in case.values.items() if digest(values) not in found]
        assert not missing, f"not read right: {missing}"

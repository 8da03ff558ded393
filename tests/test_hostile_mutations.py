"""Random damage ends in values or in an error of ours, never in a crash, a hang or another exception.

The damage is drawn from a seed, so that a run can be repeated. ``GRAFTWORK_MUTATIONS=5000`` draws more of it, and
``GRAFTWORK_MUTATIONS_FROM=1000`` other.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import mutate
from hostile.client import GIB, Worker

COUNT = int(os.environ.get("GRAFTWORK_MUTATIONS", "300"))
FIRST = int(os.environ.get("GRAFTWORK_MUTATIONS_FROM", "0"))


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One process that forks a child for each file."""
    with Worker() as made:
        yield made


@pytest.mark.parametrize("format", list(mutate.sources()))
def test_damage_is_read_or_refused(format: str, tmp_path: Path, worker: Worker):
    """Whatever byte of whichever file changes, the reader keeps its manners."""
    source = mutate.sources()[format](tmp_path)
    folder = source if source.is_dir() else source.parent
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    failures = []
    for seed in range(FIRST, FIRST + COUNT):
        damaged = mutate.damage(files, random.Random(f"{format} {seed}"))
        for name, data in damaged.items():
            if data != files[name]:
                (folder / name).write_bytes(data)

        said = worker.read(source)

        if said["end"] not in ("read", "refused") or said["growth_bytes"] > GIB:
            failures.append(
                f"seed {seed}: {said['end']} {said.get('type', '')} {said.get('message', '')[:200]} {said.get('trace', '')[-300:]}"
            )
            keep = os.environ.get("GRAFTWORK_KEEP")
            if keep:
                name = next((n for n in files if damaged[n] != files[n]), "")
                Path(keep, f"{format}-{seed}-{Path(name).name}").write_bytes(damaged[name])
        for name, data in files.items():
            if damaged[name] != data:
                (folder / name).write_bytes(data)
    assert not failures, f"{len(failures)} of {COUNT}:\n" + "\n".join(failures[:20])

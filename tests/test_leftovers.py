"""What killed runs leave beside a target: the next run removes what is certainly nobody's, and says what it lets be."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import graftwork as gw
from graftwork.stores import FORMATS, leftovers
from graftwork.stores.staged import Staged

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells when a process began")

HOLDING = """
import sys
from pathlib import Path
from graftwork.stores import FORMATS
from graftwork.stores.staged import Staged
with Staged(Path(sys.argv[1]), FORMATS[sys.argv[2]]) as staged:
    if staged.row.directory:
        staged.path.mkdir()
        (staged.path / "half").write_text("half")
    else:
        staged.path.write_text("half")
    print(staged.path.name, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def writing(target: Path, form: str = "safetensors"):
    """Have another process write a target, and yield it with the name of its temporary file; it is killed in the end."""
    command = [sys.executable, "-c", HOLDING, str(target), form]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield target.with_name(process.stdout.readline().strip())
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    (tmp_path / "sources").mkdir()
    for name, value in (("a", 1.0), ("b", 3.0)):
        save_file({"w": np.full(4, value, np.float32)}, tmp_path / "sources" / f"{name}.safetensors")
    return sorted((tmp_path / "sources").iterdir())


def test_a_run_removes_what_a_killed_one_has_left_but_nothing_of_one_that_lives(models, tmp_path):
    target = tmp_path / "out" / "merged.safetensors"
    target.parent.mkdir()
    notes: list[str] = []
    with writing(target) as theirs:
        assert theirs.read_text() == "half"
        gw.merge(models, output=target, report=notes)
        assert {path.name for path in target.parent.iterdir()} == {target.name, theirs.name}
    assert theirs.exists(), "it was killed outright"
    gw.merge(models, output=target, overwrite=True, report=notes)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert not any("stays" in note for note in notes)


def test_directories_and_what_stands_beside_them_go_as_well(tmp_path):
    with writing(tmp_path / "saved", "keras_dir") as theirs:
        inside = tmp_path / f"{theirs.name}-abcd_123"  # what `tempfile` makes in the place of a file
        inside.mkdir()
        (inside / "file").touch()
    assert {path.name for path in tmp_path.iterdir()} == {theirs.name, inside.name}
    assert leftovers.clear(tmp_path / "other") == () and theirs.exists()
    assert leftovers.clear(tmp_path / "saved") == ()
    assert not list(tmp_path.iterdir())


def test_only_what_is_certainly_nobodys_goes(tmp_path, models):
    """A number given out anew is another process; another machine, an unknown name and what was being replaced are let be, and told of."""
    target = tmp_path / "m.safetensors"
    name = leftovers.temporary(target).name.removeprefix(".m.safetensors.")
    where, pid, began, rest = name.split("-", 3)
    assert pid == str(os.getpid()) and len(where) == 12 and where != leftovers.NOWHERE
    gone = f"{where}-{pid}-{int(began) - 1}-{rest}"
    stay = {
        "ours": (name, False),
        "of another machine": (f"{'f' * 12}-{pid}-{int(began) - 1}-{rest}", True),
        "of nowhere": (f"{leftovers.NOWHERE}-{pid}-{int(began) - 1}-{rest}", True),
        "of an older version": (f"{pid}-abcdef.graftwork-tmp", True),
        "of somebody who likes the name": (f"{gone}.txt", True),
        "of another target": (f"keras.{gone}", False),
        "no temporary": (f"{gone.removesuffix('.graftwork-tmp')}.txt", False),
    }
    for file in (gone, *(each for each, _ in stay.values())):
        tmp_path.joinpath(f".m.safetensors.{file}").write_text("x")
    replacing = tmp_path / f".m.safetensors.{gone.replace('-' + rest, '-123456.graftwork-tmp')}"
    replacing.mkdir()
    aside = replacing.with_name(f"{replacing.name}-old")
    aside.mkdir()
    (aside / "old").write_text("the only copy")
    notes: list[str] = []
    gw.merge(models, output=target, report=notes)
    there = {path.name.removeprefix(".m.safetensors.") for path in tmp_path.iterdir() if path.name.startswith(".")}
    kept = {path.name.removeprefix(".m.safetensors.") for path in (replacing, aside)}
    assert there == {file for file, _ in stay.values()} | kept
    for file, told in stay.values():
        assert told is any(f".m.safetensors.{file} stays: it cannot be known" in note for note in notes), file
    assert sum("may be the only copy" in note for note in notes) == 2
    (aside / "old").unlink()
    leftovers.clear(target)
    assert not replacing.exists() and not aside.exists()


def test_where_the_system_does_not_tell_nothing_goes(tmp_path, monkeypatch):
    target = tmp_path / "m.safetensors"
    with writing(target) as theirs:
        pass
    monkeypatch.setattr(leftovers, "_here", lambda: leftovers.NOWHERE)
    (blind := leftovers.temporary(target)).touch()
    assert len(leftovers.clear(target)) == 2 and theirs.exists() and blind.exists()
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert len(leftovers.clear(target)) == 2 and theirs.exists()


def test_long_names_leave_room(tmp_path):
    """Of a target whose name is as long as it may be, in letters of four bytes."""
    target = tmp_path / ("𝔘" * 55 + ".safetensors")
    with Staged(target, FORMATS["safetensors"]) as staged:
        staged.path.with_name(f"{staged.path.name}-old").touch()
        staged.path.touch()
        staged.commit()
    assert target.exists()

"""Many files, few descriptors: what is closed to make room is opened again, and must be what it was."""

import os
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest
from descriptors import open_under
from safetensors.numpy import load_file, save_file

import graftwork as gw
from graftwork.stores import held, open_store
from graftwork.stores.held import HeldFile


def test_no_more_than_so_many_stay_open(tmp_path, monkeypatch):
    """Five files, two places: every one is read, again and again, from several threads."""
    monkeypatch.setattr(held, "MOST", 2)
    files = []
    for k in range(5):
        (tmp_path / str(k)).write_bytes(bytes([k]) * 10)
        files.append(HeldFile(tmp_path / str(k)))
    assert open_under(tmp_path) <= 2
    wrong = []

    def read():
        for _ in range(200):
            for k, file in enumerate(files):
                with file.descriptor() as fd:
                    wrong.extend([k] * (os.pread(fd, 10, 0) != bytes([k]) * 10))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert open_under(tmp_path) <= 2
    for file in files:
        file.close()
    assert open_under(tmp_path) == 0
    with pytest.raises(gw.GraftworkError, match="closed"), files[0].descriptor():
        pass


def test_a_file_that_was_replaced_meanwhile_is_refused(tmp_path, monkeypatch):
    """The header that was read is that of another file."""
    monkeypatch.setattr(held, "MOST", 0)
    for name in ("a", "b"):
        save_file({"w": np.ones(4, np.float32)}, tmp_path / f"{name}.safetensors")
    with open_store(tmp_path / "a.safetensors") as reader:
        (tmp_path / "b.safetensors").replace(tmp_path / "a.safetensors")
        with pytest.raises(gw.GraftworkError, match=r"a\.safetensors was changed or replaced"):
            reader.read_into("w", 0, np.empty(4, np.float32))


MERGE = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
import graftwork as gw
gw.merge(sys.argv[3:], output=sys.argv[2])
"""


def test_hundreds_of_shards_merge_where_few_files_may_be_open(tmp_path):
    """60 directories of 4 shards with 200 descriptors."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 200
    folders = []
    for k in range(60):
        folder = tmp_path / f"m{k}"
        folder.mkdir()
        names = [f"model-0000{i + 1}-of-00004.safetensors" for i in range(4)]
        for i, name in enumerate(names):
            save_file({f"layers.{i}.weight": np.full((3, 2), float(k), np.float32)}, folder / name)
        weight_map = ", ".join(f'"layers.{i}.weight": "{name}"' for i, name in enumerate(names))
        (folder / "model.safetensors.index.json").write_text(
            f'{{"metadata": {{"total_size": 96}}, "weight_map": {{{weight_map}}}}}'
        )
        folders.append(str(folder))

    out = tmp_path / "out.safetensors"
    done = subprocess.run([sys.executable, "-c", MERGE, "200", str(out), *folders], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    for values in load_file(out).values():
        np.testing.assert_array_equal(values, np.full((3, 2), 29.5, np.float32))

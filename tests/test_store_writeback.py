"""Where blocks go: the same bytes whether pages are kept or not, and what is read back differently is refused."""

import errno
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import graftwork as gw
from graftwork.stores import writeback
from graftwork.stores.writeback import Sink


@pytest.fixture
def eager(monkeypatch):
    """Let every disk be fast and every file large."""
    monkeypatch.setattr(writeback, "LARGE", 1)
    monkeypatch.setattr(writeback, "PROBE", 1)
    monkeypatch.setattr(writeback, "FAST", 0.0)


def blocks(count=6, size=50_000):
    return [np.random.default_rng(k).standard_normal(size, dtype=np.float32) for k in range(count)]


def write_all(path, arrays):
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        sink, at, compared = Sink(fd, sum(a.nbytes for a in arrays) + 3), 3, []
        for array in arrays:  # at odd offsets, as tensors behind a header are
            compared.append(sink.write(array, at))
            at += array.nbytes
        os.fsync(fd)
    finally:
        os.close(fd)
    return compared


def test_pages_that_are_not_kept_hold_the_same_bytes(tmp_path, eager):
    """All but the first block, which shows how fast the disk is, are compared; or none, where the system cannot."""
    arrays = blocks()
    compared = write_all(tmp_path / "a", arrays)
    assert (tmp_path / "a").read_bytes()[3:] == b"".join(a.tobytes() for a in arrays)
    assert compared[0] is False
    assert len(set(compared[1:])) == 1


def test_small_files_are_left_to_the_kernel(tmp_path):
    """And are compared when they are opened again."""
    assert write_all(tmp_path / "a", blocks()) == [False] * 6


def test_a_slow_disk_keeps_its_pages(tmp_path, eager, monkeypatch):
    """Reading them again would take long."""
    monkeypatch.setattr(writeback, "FAST", 1e30)
    assert write_all(tmp_path / "a", blocks()) == [False] * 6


def test_a_system_that_cannot_keeps_them_too(tmp_path, eager, monkeypatch):
    """Older kernels and other file systems say so; the bytes are written all the same."""
    real = os.pwritev

    def refuse(fd, views, offset, flags=0):
        if flags:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(fd, views, offset)

    monkeypatch.setattr(os, "pwritev", refuse)
    arrays = blocks()
    assert write_all(tmp_path / "a", arrays) == [False] * 6
    assert (tmp_path / "a").read_bytes()[3:] == b"".join(a.tobytes() for a in arrays)


def test_what_is_read_back_differently_is_refused(tmp_path, eager, monkeypatch):
    """The block, the place, and no result."""
    real = os.preadv

    def spoil(fd, views, offset, flags=0):
        count = real(fd, views, offset, flags)
        if flags:
            views[0][count // 2] ^= 1
        return count

    monkeypatch.setattr(os, "preadv", spoil)
    with pytest.raises(gw.GraftworkError, match="read back differently"):
        write_all(tmp_path / "a", blocks())


def test_a_merge_gives_the_same_file_either_way(tmp_path, eager, monkeypatch):
    """Through the executor, with comparison by heads when the result is opened again."""
    for k in range(2):
        arrays = {f"layers.{i}.weight": a.reshape(250, 200) for i, a in enumerate(blocks())}
        save_file({n: a * np.float32(k) for n, a in arrays.items()}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]
    one = gw.merge(files, output=tmp_path / "one.safetensors")
    monkeypatch.setattr(writeback, "LARGE", 1 << 60)
    two = gw.merge(files, output=tmp_path / "two.safetensors")

    assert one.read_bytes() == two.read_bytes()
    np.testing.assert_array_equal(load_file(one)["layers.0.weight"], blocks()[0].reshape(250, 200) / 2)

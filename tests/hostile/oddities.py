"""Paths that are no files, and files that are something else."""

import os
import socket
from pathlib import Path

from hostile.corpus import Corpus, Outcome
from hostile.keras_config import pickle_that_would_run


def add(corpus: Corpus, name: str, valid: bytes) -> None:
    """Add what can stand at a file's path instead of the file."""

    def keep(case: str, content: bytes) -> None:
        def build(folder: Path) -> Path:
            (folder / name).write_bytes(content)
            return folder / name

        corpus.add(case, build)

    keep("path-is-an-empty-file", b"")
    keep("path-is-one-byte", valid[:1])
    keep("path-is-a-picture", b"\x89PNG\r\n\x1a\n" + bytes(2000))
    keep("path-is-zeros", bytes(5000))
    keep("path-is-text", b"This is not a model.\n" * 100)
    corpus.add("path-is-a-pickle", lambda folder: _pickle(folder, name))
    corpus.add("path-does-not-exist", lambda folder: folder / name)
    corpus.add("path-is-an-empty-directory", lambda folder: _directory(folder, name))
    corpus.add("path-is-a-pipe", lambda folder: _pipe(folder, name))
    corpus.add("path-is-a-socket", lambda folder: _socket(folder, name))
    corpus.add("path-is-a-device", lambda folder: _link(folder, name, "/dev/zero"))
    corpus.add("path-is-a-link-to-itself", lambda folder: _link(folder, name, name))
    corpus.add("path-is-a-link-to-nothing", lambda folder: _link(folder, name, "nothing"))
    corpus.add("path-is-a-link-to-the-file", lambda folder: _link_to(folder, name, valid), Outcome.HARMLESS)


def _pickle(folder: Path, name: str) -> Path:
    (folder / name).write_bytes(pickle_that_would_run(folder))
    return folder / name


def _directory(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _pipe(folder: Path, name: str) -> Path:
    os.mkfifo(folder / name)
    return folder / name


def _socket(folder: Path, name: str) -> Path:
    here = Path.cwd()
    os.chdir(folder)  # the path of a socket may have 107 bytes only
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(name)
    finally:
        os.chdir(here)
    return folder / name


def _link(folder: Path, name: str, target: str) -> Path:
    (folder / name).symlink_to(target)
    return folder / name


def _link_to(folder: Path, name: str, valid: bytes) -> Path:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / name).write_bytes(valid)
    return _link(folder, name, f"elsewhere/{name}")

"""A copy of a SavedModel that lives as long as somebody uses it: a bridge must not depend on a directory that others change or delete."""

import hashlib
import os
import shutil
import tempfile
import threading
import weakref
from pathlib import Path

from graftwork.errors import StoreError
from graftwork.stores.files import open_fd
from graftwork.stores.huggingface import inside
from graftwork.stores.saved_program import METADATA, PROGRAM

PARTS = (PROGRAM, METADATA, "variables", "assets")
"""What TensorFlow and graftwork read of a SavedModel."""

PIECE = 1 << 22


class Folder:
    """A SavedModel's files in a directory of their own, which is removed when nobody uses it any more.

    Args:
        source: The SavedModel.

    Attributes:
        path: The directory.
        digest: A digest of all files, names and contents.

    Raises:
        StoreError: If a file cannot be read, links to elsewhere, or does not fit the disk.
    """

    def __init__(self, source: Path) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="graftwork-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self.digest = copied(source, self.path)


_HELD: "weakref.WeakValueDictionary[str, Folder]" = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def held(digest: str) -> Folder | None:
    """Return the copy of a SavedModel that somebody uses now, by its digest."""
    return _HELD.get(digest)


def hold(source: Path) -> Folder:
    """Return a copy of a SavedModel; the same one for the same contents.

    Raises:
        StoreError: See `Folder`.
    """
    folder = Folder(source)
    with _LOCK:
        return _HELD.setdefault(folder.digest, folder)


def files_of(source: Path) -> list[Path]:
    """Return the files that a SavedModel consists of, in the order of their names.

    Raises:
        StoreError: If one links to elsewhere.
    """
    found = [file for part in PARTS for file in (source / part, *sorted((source / part).rglob("*")))]
    return [inside(file, source) for file in found if file.is_file()]


def copied(source: Path, target: Path) -> str:
    """Copy a SavedModel and return the digest of what was copied.

    Args:
        source: The SavedModel.
        target: An existing directory.

    Raises:
        StoreError: If a file cannot be read or written, or links to elsewhere.
    """
    digest = hashlib.sha256()
    for file in files_of(source):
        name = file.relative_to(source)
        digest.update(f"{name.as_posix()}\0{file.stat().st_size}\0".encode())
        place = target / name
        fd = open_fd(file)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as out:
                at = 0
                while piece := os.pread(fd, PIECE, at):
                    digest.update(piece)
                    out.write(piece)
                    at += len(piece)
        except OSError as error:
            raise StoreError(f"{file} cannot be copied to {place}: {error.strerror or error}") from error
        finally:
            os.close(fd)
    return digest.hexdigest()

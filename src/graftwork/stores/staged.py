"""A result that appears complete under its final name, or not at all.

Everything is written under a temporary name beside the target (so that the last step is a rename within one file system), and
only moved when it has been completed, synced, reopened and compared. Whatever ends the work before that, an error, Ctrl-C, a signal
turned into an exception, the temporary is removed; what a run leaves that is killed outright, the next one removes (see
`graftwork.stores.leftovers`). An existing target stays what it was until the very last step, and comes back
if that fails.
"""

import fnmatch
import glob
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from graftwork.errors import OutputError
from graftwork.stores import leftovers
from graftwork.stores.base import Format

MAX_NAME_BYTES = 255
"""What the usual file systems allow."""


class Staged:
    """The place where a result is made before it takes its name; use it in a ``with``.

    Args:
        target: Where the result shall appear.
        row: The format it has.
        overwrite: Whether an existing result may be replaced.

    Attributes:
        path: Where to write.
        notes: What a run that was killed has left there and cannot be removed; filled when the ``with`` is entered.
    """

    def __init__(self, target: Path, row: Format, *, overwrite: bool = False) -> None:
        self.target, self.row, self.overwrite = target, row, overwrite
        self.path = leftovers.temporary(target)
        self.notes: tuple[str, ...] = ()
        self._aside = self.path.with_name(self.path.name + leftovers.ASIDE)
        self._moved = self._done = False

    def __enter__(self) -> "Staged":
        self.notes = leftovers.clear(self.target)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._done:
            _remove(self.path)
            if self._moved:
                _remove(self._aside)

    @property
    def opened_as(self) -> Path:
        """The path to open when the result is looked at before it is moved."""
        return self.path / self.target.name if self.row.files_beside else self.path

    def commit(self) -> None:
        """Move the result to its name.

        Raises:
            OutputError: If something has appeared there meanwhile and may not be replaced.
        """
        check_target(self.target, self.row, (), overwrite=self.overwrite)
        try:
            if self.path.is_dir():
                for file in sorted(self.path.rglob("*")):
                    _sync(file)
            if self.row.files_beside:
                self._move_beside()
            elif self.row.directory:
                self._move_directory()
            else:
                self.path.replace(self.target)
            _sync(self.target.parent)
        except OSError as error:
            raise OutputError(f"the result cannot be moved to {self.target}: {error.strerror or error}") from error
        self._done = True

    def _move_directory(self) -> None:
        try:
            if self.target.exists():
                self.target.rename(self._aside)
            self.path.rename(self.target)
        except BaseException:
            if self._aside.exists() and not self.target.exists():
                self._aside.rename(self.target)
            _remove(self._aside)
            raise
        self._moved = True
        _remove(self._aside)

    def _replaced(self) -> list[str]:
        """Return the further files of the result that is replaced."""
        if not self.target.is_file():
            return []
        index, names = self.target.read_bytes(), _beside(self.target, self.row)
        return [name for name in names if not self.row.lists_parts or f'"{name}"'.encode() in index]

    def _move_beside(self) -> None:
        """Move shards, then the index that makes them a result; whatever they replace is kept until all is in place.

        What only points to the result comes last, and not at all where somebody else's has come up meanwhile.
        """
        aside = self._aside
        moved: list[Path] = []
        try:
            aside.mkdir()
            found = sorted(p.name for p in self.path.iterdir())
            called = _called(self.target, self.row)
            shards = [name for name in found if called.match(name)]
            pointers = [name for name in found if name != self.target.name and not called.match(name)]
            names = [*shards, self.target.name, *(n for n in pointers if not os.path.lexists(self.target.with_name(n)))]
            for name in dict.fromkeys([self.target.name, *shards, *self._replaced()]):
                final = self.target.with_name(name)
                if final.exists():
                    if not self.overwrite:
                        raise OutputError(f"{final} exists; pass --overwrite (overwrite=True) to replace it")
                    final.rename(aside / name)
            for name in names:
                moved.append(self.target.with_name(name))
                (self.path / name).rename(moved[-1])
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            for old in aside.iterdir() if aside.exists() else ():
                old.rename(self.target.with_name(old.name))
            _remove(aside)
            raise
        self._moved = True
        _remove(aside)
        _remove(self.path)


def _beside(target: Path, row: Format) -> list[str]:
    """Return the names of the files that look like further parts of a result (``NAME_00000…``)."""
    return sorted(path.name for path in target.parent.glob(glob.escape(_stem(target, row)) + row.part))


def _called(target: Path, row: Format) -> re.Pattern[str]:
    """Return what the names of those files match."""
    return re.compile(fnmatch.translate(glob.escape(_stem(target, row)) + row.part))


def _stem(target: Path, row: Format) -> str:
    return target.name.removesuffix(next((s for s in row.suffixes if target.name.endswith(s)), ""))


def check_location(target: Path, sources: Iterable[Path]) -> None:
    """Refuse a target that is a source, or where nothing can be made.

    Args:
        target: Where a result shall appear.
        sources: Every file that is read.

    Raises:
        OutputError: With the reason.
    """
    if not target.name or "\0" in str(target):
        raise OutputError(f"the target {str(target)!r} has no name that a file can have")
    if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
        raise OutputError(f"the name of the target {target} is longer than the {MAX_NAME_BYTES} bytes that it may have")
    parent = target.parent
    if not parent.is_dir():
        raise OutputError(f"the target's directory {parent} does not exist")
    if not os.access(parent, os.W_OK):
        raise OutputError(f"the target's directory {parent} cannot be written to")
    for source in sources:
        if _same(target, source):
            raise _over_source(target)
        if source.is_dir() and parent.resolve().is_relative_to(source.resolve()):
            raise OutputError(
                f"the target {target} lies inside {source}, which is one of the sources; write it elsewhere"
            )


def _over_source(target: Path) -> OutputError:
    return OutputError(f"the target {target} is one of the sources; graftwork never writes over what it reads")


def refuse_existing(target: Path) -> None:
    """Refuse a target that exists and is not an empty directory.

    Raises:
        OutputError: If it does.
    """
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target} exists; pass --overwrite (overwrite=True) to replace it")


def check_target(target: Path, row: Format, sources: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a target that is a source, exists, or cannot be made.

    Args:
        target: Where a result shall appear.
        row: Its format.
        sources: Every file that is read.
        overwrite: Whether an existing result may be replaced.

    Raises:
        OutputError: With the reason.
    """
    sources = list(sources)
    check_location(target, sources)
    if row.directory and target.is_dir() and any(_same(target, source.parent) for source in sources):
        raise _over_source(target)
    if row.files_beside:
        _check_beside(target, row, sources, overwrite=overwrite)
    if not os.path.lexists(target):
        return
    if target.is_dir() and not any(target.iterdir()) and row.directory:
        return
    if not overwrite:
        raise OutputError(f"{target} exists; pass --overwrite (overwrite=True) to replace it")
    if target.is_dir() != row.directory or (target.is_dir() and not row.recognise(target)):
        kind = "directory" if target.is_dir() else "file"
        raise OutputError(
            f"{target} is a {kind} that is no {row.name} model; graftwork does not replace it, remove it yourself"
        )


def _check_beside(target: Path, row: Format, sources: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse a target whose further files (``NAME_00000…``) would take the place of a source, or of anything without asking."""
    called = _called(target, row)
    for source in sources:
        if called.match(source.name) and _same(source.parent, target.parent):
            raise OutputError(
                f"the files of {target} could take the place of {source.name}, which is one of the sources; "
                "choose another name or directory"
            )
    there = _beside(target, row)
    if there and not overwrite:
        raise OutputError(f"{target.with_name(there[0])} exists; pass --overwrite (overwrite=True) to replace it")


def free_bytes(target: Path) -> int:
    """Return how many bytes the target's file system has left for this user."""
    found = os.statvfs(target.parent)
    return found.f_bavail * found.f_frsize


def _same(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".h5").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

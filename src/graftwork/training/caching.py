"""What teachers say of all samples, computed once and kept on the disk.

::

    FOLDER/KEY/entry.json      shapes and dtypes, written last
    FOLDER/KEY/0.npy …         one array for each thing that is kept, a row for each sample

An entry is made under another name, and gets its own when it is complete and on the disk: one that was interrupted is never found. It is
found by a key made of everything that its values depend on. When a folder would hold more than the limit, entries that were not used for
the longest time go.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DataError, OptionError, OutputError

ENTRY = "entry.json"
UNFINISHED = ".unfinished-"
GIVEN_UP = 24 * 3600.0
"""Seconds after which an entry that was not finished is nobody's any more."""


@dataclass(slots=True)
class Cache:
    """A folder of entries.

    Args:
        folder: Where; None for a temporary one, which goes with the process.
        limit_bytes: How much it may hold.

    Attributes:
        used: The keys of what was found or kept, which stays.
    """

    folder: Path | None
    limit_bytes: int
    used: set[str] = field(default_factory=set)
    _temporary: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="graftwork-")
            self.folder = Path(self._temporary.name)

    def find(self, key: str) -> dict[str, NDArray[Any]] | None:
        """Return what is kept under a key, mapped; None if that is nothing, or not complete."""
        assert self.folder is not None  # since it was made
        path = self.folder / key
        try:
            told = json.loads((path / ENTRY).read_text(encoding="utf-8"))
            found = {
                name: np.load(path / f"{number}.npy", mmap_mode="r", allow_pickle=False)
                for number, name in enumerate(told)
            }
        except (OSError, ValueError, EOFError):
            return None
        if any([list(found[name].shape), found[name].dtype.str] != told[name] for name in told):
            return None
        os.utime(path)  # the oldest go first
        self.used.add(key)
        return found

    def keep(self, key: str, count: int, batches: Iterable[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """Keep what comes in batches, and return it mapped.

        Args:
            key: What it is found by.
            count: How many samples there are.
            batches: What is to be kept of the samples in order.

        Raises:
            OptionError: If it is more than may be kept.
            DataError: If the shapes of samples differ, or there are not as many as there should be.
            OutputError: If it cannot be written.
        """
        assert self.folder is not None  # since it was made
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            place = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder))
        except OSError as error:
            raise OutputError(f"nothing can be kept in {self.folder}: {error}") from error
        try:
            self._write(place, count, batches)
            self._take_in(place, key)
        except OSError as error:
            raise OutputError(f"what teachers say cannot be written to {self.folder}: {error}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
        found = self.find(key)
        if found is None:
            raise OutputError(f"{self.folder / key} is damaged; remove it")
        return found

    def _write(self, place: Path, count: int, batches: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        arrays: dict[str, np.memmap[Any, Any]] = {}
        done = 0
        for batch in batches:
            if not done:
                self._check(count, batch)
                for number, (name, values) in enumerate(batch.items()):
                    path, shape = place / f"{number}.npy", (count, *values.shape[1:])
                    arrays[name] = np.lib.format.open_memmap(path, "w+", values.dtype, shape)
            for name, values in batch.items():
                if values.shape[1:] != arrays[name].shape[1:] or done + len(values) > count:
                    raise DataError(
                        f"{name} says {values.shape[1:]} of some samples and {arrays[name].shape[1:]} of others, which cannot be kept"
                    )
                arrays[name][done : done + len(values)] = values
            done += len(next(iter(batch.values())))
        if done != count:
            raise DataError(f"{done:,} samples were asked about and {count:,} expected")
        for array in arrays.values():
            array.flush()
        for file in place.iterdir():
            _sync(file)
        told = {name: [list(array.shape), array.dtype.str] for name, array in arrays.items()}
        (place / ENTRY).write_text(json.dumps(told), encoding="utf-8")
        _sync(place / ENTRY)

    def _check(self, count: int, batch: Mapping[str, NDArray[Any]]) -> None:
        assert self.folder is not None  # since it was made
        size = count * sum(values[:1].nbytes for values in batch.values())
        size += sum(_size(self.folder / key) for key in self.used)
        if size > self.limit_bytes:
            raise OptionError(
                f"what teachers say of {count:,} samples ({', '.join(batch)}) needs {size / 2**30:.3g} GiB, and "
                f"{self.limit_bytes / 2**30:.3g} GiB may be kept; raise cache_limit, or ask them in each epoch (cache=False)"
            )

    def _take_in(self, place: Path, key: str) -> None:
        """Give an entry its name, after others made room for it."""
        assert self.folder is not None  # since it was made
        for path in self.folder.glob(f"{UNFINISHED}*"):
            if path != place and time.time() - max(map(_used, (path, *path.iterdir()))) > GIVEN_UP:
                shutil.rmtree(path, ignore_errors=True)
        target = self.folder / key
        shutil.rmtree(target, ignore_errors=True)  # one that was damaged
        entries = sorted((path for path in self.folder.iterdir() if (path / ENTRY).exists()), key=_used)
        held = sum(map(_size, entries))
        for path in entries:
            if held > self.limit_bytes and path != place and path.name not in self.used:
                held -= _size(path)
                shutil.rmtree(path, ignore_errors=True)
        place.rename(target)


def _used(path: Path) -> float:
    return path.stat().st_mtime


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())

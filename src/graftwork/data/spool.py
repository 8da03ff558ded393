"""Columns that are written to temporary files as they come, and mapped once all are there: how large tables fit any memory.

The files have no names any more once they are mapped, so that nothing is left behind however the process ends.
"""

import errno
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError


class Spool:
    """Columns on their way to the disk, to be used in a ``with``: at its end only what was mapped is left.

    Args:
        name: What messages call the table.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="graftwork-", ignore_cleanup_errors=True)
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, Column] = {}
        self._counts: dict[str, int] = {}
        self._ends: dict[str, int] = {}
        self._useless: dict[str, str] = {}

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()

    def add(self, column: str, values: NDArray[Any]) -> None:
        """Append numbers to a column.

        Raises:
            DataError: If they are of another type or shape than those before, or the disk is full.
        """
        values = np.asarray(values, values.dtype.newbyteorder("="))
        if self._goes_on(column, Column.of(values), len(values)):
            self._write(column, np.ascontiguousarray(values).data)

    def add_texts(self, column: str, lengths: NDArray[Any], data: Any, shape: Sequence[int] = ()) -> None:
        """Append texts, or other bytes of any length, to a column.

        Args:
            column: Its name.
            lengths: The number of bytes of each.
            data: All bytes, one text after the other.
            shape: The shape that the texts of one sample have.

        Raises:
            DataError: As for `add`.
        """
        count = len(lengths) // max(1, math.prod(shape))
        if self._goes_on(column, Column(tuple(shape), "str"), count):
            ends = self._ends.get(column, 0) + np.cumsum(lengths, dtype=np.int64)
            self._write(column, data)
            self._write(f"{column}\0ends", ends.data)
            self._ends[column] = int(ends[-1]) if len(ends) else self._ends.get(column, 0)

    def useless(self, column: str, kind: Column, reason: str) -> None:
        """Note why a column cannot be used; that is said when it is, since others can be."""
        self._kinds.setdefault(column, kind)
        self._useless.setdefault(column, reason)

    def _goes_on(self, column: str, kind: Column, count: int) -> bool:
        if column in self._useless:
            return False
        if kind != self._kinds.setdefault(column, kind):
            raise DataError(
                f"column {column!r} of {self.name} is {self._kinds[column]} at first, and {kind} in row {self._counts[column] + 1:,}; "
                "expected one type and shape in all rows"
            )
        self._counts[column] = self._counts.get(column, 0) + count
        return True

    def _write(self, key: str, data: Any) -> None:
        try:
            if key not in self._files:
                self._files[key] = (Path(self._folder.name) / str(len(self._files))).open("wb")
            self._files[key].write(data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DataError(
                f"{self.name} does not fit the disk of {self._folder.name}, where it is unpacked; TMPDIR names another place"
            ) from error

    def table(
        self,
        known: str,
        labels: str | None = None,
        classes: tuple[str, ...] | None = None,
        decoders: "Mapping[str, Decoder] | None" = None,
    ) -> "Spooled":
        """Return all of it as a table.

        Args:
            known: What tells the data from other data.
            labels: The usual column of labels.
            classes: Names of the classes that labels count.
            decoders: What texts in a column stand for.
        """
        counts = {key: count for key, count in self._counts.items() if key not in self._useless}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            raise DataError(f"the columns of {self.name} have different numbers of rows: {told}")
        if not self._kinds or (counts and not max(counts.values())):
            raise DataError(f"there are no samples in {self.name}")
        if not counts:
            raise DataError(next(iter(self._useless.values())))
        columns: dict[str, NDArray[Any] | Texts] = {}
        for column, count in counts.items():
            kind = self._kinds[column]
            if kind.dtype == "str":
                parts = self._mapped(column, np.uint8), self._mapped(f"{column}\0ends", np.int64)
                columns[column] = Texts(*parts, tuple(size or 0 for size in kind.shape))
            else:
                columns[column] = self._mapped(column, np.dtype(kind.dtype)).reshape(count, *kind.shape)
        count = max(counts.values())
        return Spooled(self.name, count, self._kinds, columns, self._useless, known, labels, classes, decoders or {})

    def _mapped(self, key: str, dtype: Any) -> NDArray[Any]:
        file = self._files[key]
        file.close()
        path = Path(file.name)
        return np.memmap(path, dtype, "r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)


class Texts:
    """Texts one after the other, and where each ends."""

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[np.int64], shape: tuple[int, ...]) -> None:
        self._data, self._ends, self._shape = data, ends, shape
        self._each = math.prod(shape)

    def take(self, rows: Rows) -> NDArray[Any]:
        """Return the texts of some samples, as bytes."""
        places = (np.asarray(rows)[:, None] * self._each + np.arange(self._each)).ravel()
        begins = np.where(places > 0, self._ends[places - 1], 0)
        found = np.empty(len(places), object)
        for at, (begin, end) in enumerate(zip(begins.tolist(), self._ends[places].tolist(), strict=True)):
            found[at] = self._data[begin:end].tobytes()
        return found.reshape(len(rows), *self._shape)


Decoder = tuple[Column, Callable[[bytes, str], NDArray[Any]]]
"""What the texts of a column stand for: an array of this kind, made of the bytes of one; the other argument says in messages which."""


class Spooled:
    """A table whose columns lie in temporary files; see `graftwork.data.base.Table`."""

    def __init__(
        self,
        name: str,
        count: int,
        kinds: Mapping[str, Column],
        columns: Mapping[str, NDArray[Any] | Texts],
        useless: Mapping[str, str],
        known: str,
        labels: str | None,
        classes: tuple[str, ...] | None,
        decoders: Mapping[str, Decoder],
    ) -> None:
        self.name, self.labels, self.classes = name, labels if labels in kinds else None, classes
        self._count = count
        self._values, self._useless, self._known, self._decoders = columns, useless, known, decoders
        self.columns: Mapping[str, Column] = {
            key: decoders[key][0] if key in decoders else kind for key, kind in kinds.items()
        }

    def __len__(self) -> int:
        return self._count

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column in self._useless:
            raise DataError(self._useless[column])
        if column not in self._values:
            raise UnknownNameError(f"column in {self.name}", column, self.columns)
        values = self._values[column]
        if isinstance(values, np.ndarray):
            return np.asarray(values[rows])
        texts = values.take(rows)
        if column in self._decoders:
            kind, decoded = self._decoders[column]
            where = [f"column {column!r} of sample {row:,} of {self.name}" for row in rows]
            found = [decoded(text, each) for text, each in zip(texts, where, strict=True)]
            return np.stack(found) if found else np.empty((0, *(size or 0 for size in kind.shape)), kind.dtype)
        try:
            return np.array([text.decode("utf-8") for text in texts.flat], dtype=np.str_).reshape(texts.shape)
        except UnicodeDecodeError as error:
            raise DataError(f"column {column!r} of {self.name} holds bytes that are no text in UTF-8") from error

    def fingerprint(self) -> str:
        """Return a text that changes when the data does; see `Table.fingerprint`."""
        return self._known

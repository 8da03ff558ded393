"""Columns that are written to a temporary directory as they come, and mapped once all are there: how large tables fit any memory."""

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.arrays import fingerprint_of
from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError


class Spool:
    """Columns on their way to the disk; texts are kept as numbers of the different ones.

    Args:
        name: What messages call the table.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="graftwork-")
        self._files: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._texts: dict[str, dict[str, int]] = {}
        self._counts: dict[str, int] = {}

    def add(self, column: str, values: NDArray[Any]) -> None:
        """Append entries to a column.

        Raises:
            DataError: If they are of another type or shape than those before.
        """
        if values.dtype.kind in "OUS":
            known = self._texts.setdefault(column, {})
            flat = [
                text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in values.ravel()
            ]
            values = np.array([known.setdefault(text, len(known)) for text in flat], np.int64).reshape(values.shape)
        kind = (values.dtype, values.shape[1:])
        if column not in self._files:
            self._files[column] = (Path(self._folder.name) / str(len(self._files))).open("wb")
            self._kinds[column], self._counts[column] = kind, 0
        if kind != self._kinds[column]:
            before = Column(self._kinds[column][1], self._kinds[column][0].name)
            raise DataError(
                f"column {column!r} of {self.name} is {before} at first, and {Column(kind[1], kind[0].name)} in row "
                f"{self._counts[column] + 1:,}"
            )
        self._files[column].write(np.ascontiguousarray(values).data)
        self._counts[column] += len(values)

    def table(self, files: Sequence[Path], labels: str | None = None) -> "Spooled":
        """Return all of it as a table.

        Args:
            files: The files that it came from.
            labels: The usual column of labels.
        """
        if len(set(self._counts.values())) > 1:
            told = ", ".join(f"{key} {count:,}" for key, count in self._counts.items())
            raise DataError(f"the columns of {self.name} have different numbers of rows: {told}")
        if not self._counts or not next(iter(self._counts.values())):
            raise DataError(f"there are no samples in {self.name}")
        arrays = {}
        for column, file in self._files.items():
            file.close()
            dtype, shape = self._kinds[column]
            whole = (self._counts[column], *shape)
            empty = not math.prod(whole)
            arrays[column] = np.empty(whole, dtype) if empty else np.memmap(file.name, dtype, "r", shape=whole)
        texts = {column: list(known) for column, known in self._texts.items()}
        return Spooled(self.name, arrays, texts, files, labels, self._folder)


class Spooled:
    """A table whose columns lie in temporary files; see `graftwork.data.base.Table`."""

    def __init__(
        self,
        name: str,
        arrays: Mapping[str, NDArray[Any]],
        texts: Mapping[str, list[str]],
        files: Sequence[Path],
        labels: str | None,
        folder: Any,
    ) -> None:
        self.name, self.labels, self.classes = name, labels, None
        self._arrays, self._files, self._folder = arrays, files, folder
        self._texts = {column: np.array(found, dtype=str) for column, found in texts.items()}
        self.columns: Mapping[str, Column] = {
            key: Column(array.shape[1:], "str" if key in texts else array.dtype.name) for key, array in arrays.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column not in self._arrays:
            raise UnknownNameError(f"column in {self.name}", column, self._arrays)
        found = np.asarray(self._arrays[column][rows])
        return self._texts[column][found] if column in self._texts else found

    def fingerprint(self) -> str:
        """Return a text that changes when a file does."""
        return fingerprint_of(self._files)

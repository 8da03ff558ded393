"""What data is: columns with one entry per sample, of which models take some as inputs, labels and weights.

A `Table` gives any samples in any order and is not held in memory; a `Stream` gives batches one after the other, as often as it is asked,
and may never give the same twice. Both deal in NumPy arrays and load neither Keras nor TensorFlow, save for what is made of them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""Numbers of samples, from 0 on."""

Batch = Mapping[str, NDArray[Any]]
"""Entries of some samples by the name of their column."""


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is known of every sample.

    Attributes:
        shape: Sizes of one entry's axes, None where they differ or are not known.
        dtype: NumPy's word for its elements; ``"str"`` for texts.
    """

    shape: tuple[int | None, ...]
    dtype: str

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Column":
        """Return the column whose entries an array holds."""
        return cls(array.shape[1:], "str" if array.dtype.kind in "US" else array.dtype.name)

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype} ({sizes}{',' if len(self.shape) == 1 else ''})"


@runtime_checkable
class Table(Protocol):
    """Samples that can be had in any order.

    Attributes:
        name: What messages call it.
        columns: What is known of every sample, by name.
        labels: The usual name of the column of labels, None where nothing tells.
        classes: The names of the classes that labels count, where the data tells.
    """

    name: str
    columns: Mapping[str, Column]
    labels: str | None
    classes: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples, as a new array in the byte order of the machine.

        Raises:
            UnknownNameError: If there is no such column.
            DataError: If what is in it is of no use, or cannot be read.
        """

    def fingerprint(self) -> str:
        """Return a text that changes when the data does, or how it is read.

        Of files it tells where they lie, their sizes and times, as they were when they were opened.
        """


@runtime_checkable
class Stream(Protocol):
    """Samples that come in batches, one after the other.

    Attributes:
        name: What messages call it.
    """

    name: str

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """Yield inputs, labels and weights of each batch, as Keras's `fit` takes them; the latter two may be missing."""

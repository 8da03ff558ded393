"""Samples as models take them: columns of a table as inputs, labels and weights; shuffled, split, in batches."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork import rng
from graftwork.data.base import Rows, Table
from graftwork.errors import DataError


@dataclass(frozen=True, slots=True)
class Part:
    """Some samples, read.

    Attributes:
        rows: Their numbers in the table.
        inputs: One array for each input of the model, by its name (``""`` where nothing names it).
        labels: Their labels, or None.
        weights: What each of them counts, or None.
    """

    rows: Rows
    inputs: Mapping[str, NDArray[Any]]
    labels: NDArray[Any] | None
    weights: NDArray[Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Some samples of a table, in an order, with what each column is for.

    Attributes:
        table: Where they are.
        rows: Their numbers, in order.
        inputs: The columns of each input, by the input's name (``""`` where nothing names it).
        labels: The column of labels, or None.
        weights: The column of weights, or None.
        classes: Names of the classes that labels count, where they are known.
        scale: What inputs are multiplied with.
        offset: What is added to them then: a model is given ``scale · x + offset``.
    """

    table: Table
    rows: Rows
    inputs: Mapping[str, tuple[str, ...]]
    labels: str | None = None
    weights: str | None = None
    classes: tuple[str, ...] | None = None
    scale: float | None = None
    offset: float | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """What messages call them."""
        return self.table.name

    def take(self, rows: Rows) -> Part:
        """Read samples by their numbers in the table."""
        found = {name: self._input(columns, rows) for name, columns in self.inputs.items()}
        weights = None if self.weights is None else self.table.take(self.weights, rows)
        return Part(rows, found, self._labels(rows), weights)

    def batches(self, size: int, *, seed: int | None = None, epoch: int = 0) -> Iterator[Part]:
        """Yield samples in groups of `size`, the last of which may be smaller.

        Args:
            size: How many are read at a time.
            seed: Draws their order, another one in each epoch; without it they come as they are.
            epoch: Which time this is.
        """
        rows = (self if seed is None else self.shuffled(seed, epoch)).rows
        for first in range(0, len(rows), size):
            yield self.take(rows[first : first + size])

    def shuffled(self, seed: int, epoch: int = 0) -> "Samples":
        """Return them in an order that the seed and the number of an epoch fix."""
        return self.only(_drawn(len(self), seed, f"epoch {epoch}"))

    def only(self, places: NDArray[Any] | slice) -> "Samples":
        """Return some of them, by their place among these."""
        return replace(self, rows=self.rows[places])

    def split(self, *shares: float, seed: int = 0, stratify: bool = False) -> list["Samples"]:
        """Return parts of them that have nothing in common, in the order that they are in.

        Args:
            shares: What part of the samples each of them has: ``0.8, 0.2``.
            seed: Draws which.
            stratify: Whether every class has the same share in each part, to within one sample.

        Raises:
            DataError: If a part would be empty, or there are no classes to stratify by.
        """
        edges = [0.0, *(round(edge, 9) for edge in itertools.accumulate(shares))]
        if not all(0 < share <= 1 for share in shares) or not edges[-1] <= 1:
            raise DataError(f"the shares {', '.join(f'{share:g}' for share in shares)} are no parts of 1")
        return [self.between(*both, seed=seed, stratify=stratify) for both in itertools.pairwise(edges)]

    def between(self, begin: float, end: float, *, seed: int = 0, stratify: bool = False) -> "Samples":
        """Return what lies between two fractions when the samples stand in an order that is drawn; see `split`."""
        order = _drawn(len(self), seed, "split")
        groups = self._by_class(order) if stratify else [order]
        pieces = []
        for number, group in enumerate(groups):
            # classes are cut at the same fraction, rounded differently, so that small ones do not all go to one side
            shift = (number + 0.5) / len(groups)
            first, last = (int(edge * len(group) + shift) for edge in (begin, end))
            pieces.append(group[first:last])
        places = np.sort(np.concatenate(pieces))
        if not len(places):
            raise DataError(f"{end - begin:g} of the {len(self):,} samples of {self.name} is none")
        return self.only(places)

    def _by_class(self, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        labels = self._labels(self.rows)
        if labels is None:
            raise DataError(f"{self.name} has no labels to stratify by; say which column holds them (y)")
        if labels.ndim == 2 and labels.shape[1] > 1 and _is_one_hot(labels):
            labels = labels.argmax(1)
        if labels.size != len(labels) or np.any(labels != np.floor(labels)):
            raise DataError(
                f"the labels of {self.name} (column {self.labels!r}) are not one class per sample, which is what to stratify by"
            )
        labels = labels.reshape(-1)[order]
        sorted_ = np.argsort(labels, kind="stable")
        return np.split(order[sorted_], np.flatnonzero(np.diff(labels[sorted_])) + 1)

    def _input(self, columns: Sequence[str], rows: Rows) -> NDArray[Any]:
        found = [self.table.take(column, rows) for column in columns]
        if len(found) > 1:
            found = [np.concatenate([values.reshape(len(rows), -1) for values in found], axis=1)]
        values = found[0]
        if self.scale is not None:
            values = np.multiply(values, np.float32(self.scale), dtype=np.float32)
        return values if self.offset is None else np.add(values, np.float32(self.offset), dtype=np.float32)

    def _labels(self, rows: Rows) -> NDArray[Any] | None:
        if self.labels is None:
            return None
        labels = self.table.take(self.labels, rows)
        if labels.dtype.kind not in "US":
            return labels
        if not self.classes:
            raise DataError(
                f"the labels of {self.name} (column {self.labels!r}) are texts such as {str(labels.flat[0])!r}; say which classes "
                "there are, in the order of the model's outputs (classes)"
            )
        found, places = np.unique(labels, return_inverse=True)
        numbers = {name: number for number, name in enumerate(self.classes)}
        for text in found.tolist():
            if text not in numbers:
                raise DataError(
                    f"label {text!r} of {self.name} (column {self.labels!r}) is none of the classes {', '.join(self.classes)}"
                )
        return np.array([numbers[text] for text in found.tolist()], np.int64)[places].reshape(labels.shape)

    def fingerprint(self) -> str:
        """Return a text that changes when the samples, their order or what they are used for do."""
        found = hashlib.sha256(np.ascontiguousarray(self.rows, "<i8").data)
        inputs = sorted(self.inputs.items())
        how = self.labels, self.weights, self.classes, self.scale, self.offset
        found.update(repr((self.table.fingerprint(), inputs, *how)).encode())
        return found.hexdigest()


def _is_one_hot(labels: NDArray[Any]) -> bool:
    return bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(1) == 1))


def _drawn(count: int, seed: int, what: str) -> NDArray[np.int64]:
    """Return the numbers below `count` in an order that the seed and a word fix."""
    return np.random.Generator(np.random.Philox(key=int(rng.key(seed, what, 0)))).permutation(count).astype(np.int64)

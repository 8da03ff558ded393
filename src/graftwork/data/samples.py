"""Samples as models take them: columns of a table as inputs, labels and weights; shuffled, split, in batches."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    """

    table: Table
    rows: Rows
    inputs: Mapping[str, tuple[str, ...]]
    labels: str | None = None
    weights: str | None = None
    classes: tuple[str, ...] | None = None
    scale: float | None = None
    _numbers: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.classes:
            self._numbers.update({name: number for number, name in enumerate(self.classes)})

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
        """Return parts of them that have nothing in common, in an order drawn from the seed.

        Args:
            shares: What part of the samples each of them has: ``0.8, 0.2``.
            seed: Fixes the order that they are cut from.
            stratify: Whether every class has the same share in each part.

        Raises:
            DataError: If a part would be empty, or there are no classes to stratify by.
        """
        if any(share < 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise DataError(f"the shares {', '.join(f'{share:g}' for share in shares)} are no parts of 1")
        order = _drawn(len(self), seed, "split")
        groups = [order]
        if stratify:
            labels = self._strata()[order]
            groups = [order[labels == label] for label in np.unique(labels)]
        parts: list[list[NDArray[Any]]] = [[] for _ in shares]
        edges = np.cumsum((0.0, *shares))
        for group in groups:
            cuts = np.rint(edges * len(group)).astype(int)
            for part, begin, end in zip(parts, cuts[:-1], cuts[1:], strict=True):
                part.append(group[begin:end])
        found = []
        for share, pieces in zip(shares, parts, strict=True):
            places = np.concatenate(pieces)
            if not len(places):
                raise DataError(f"a share of {share:g} of the {len(self):,} samples of {self.name} is none")
            found.append(self.only(np.sort(places)))
        return found

    def _strata(self) -> NDArray[Any]:
        labels = self._labels(self.rows)
        if labels is None:
            raise DataError(f"{self.name} has no labels to stratify by; say which column holds them (y)")
        return labels.argmax(-1) if labels.ndim > 1 and labels.shape[-1] > 1 else labels.reshape(len(labels))

    def _input(self, columns: Sequence[str], rows: Rows) -> NDArray[Any]:
        found = [self.table.take(column, rows) for column in columns]
        if len(found) > 1:
            found = [np.concatenate([values.reshape(len(rows), -1) for values in found], axis=1)]
        values = found[0]
        return values if self.scale is None else np.multiply(values, np.float32(self.scale), dtype=np.float32)

    def _labels(self, rows: Rows) -> NDArray[Any] | None:
        if self.labels is None:
            return None
        labels = self.table.take(self.labels, rows)
        if labels.dtype.kind not in "US":
            return labels
        if not self._numbers:
            raise DataError(
                f"the labels of {self.name} (column {self.labels!r}) are texts such as {str(labels.flat[0])!r}; say which classes "
                "there are, in the order of the model's outputs (classes)"
            )
        unknown = [text for text in dict.fromkeys(labels.ravel().tolist()) if text not in self._numbers]
        if unknown:
            raise DataError(f"label {unknown[0]!r} of {self.name} is none of the classes {', '.join(self._numbers)}")
        return np.array([self._numbers[text] for text in labels.ravel().tolist()], np.int64).reshape(labels.shape)

    def fingerprint(self) -> str:
        """Return a text that changes when the samples, their order or what they are used for do."""
        import hashlib

        chosen = hashlib.sha256(np.ascontiguousarray(self.rows).data).hexdigest()
        return f"{self.table.fingerprint()} {chosen} {sorted(self.inputs.items())} {self.labels} {self.weights} {self.scale}"


def _drawn(count: int, seed: int, what: str) -> NDArray[np.int64]:
    """Return the numbers below `count` in an order that the seed and a word fix."""
    return np.random.Generator(np.random.Philox(key=int(rng.key(seed, what, 0)))).permutation(count).astype(np.int64)

"""Mean and variance of arrays that come in pieces, to the last digits of float64 whatever the pieces are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

ELEMENTS = 1 << 17
"""As many are worked on at a time, so that they stay in the cache."""


class Moments:
    """Counts, means and sums of squared deviations of the columns of all rows so far.

    Two sets of rows are combined as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample
    Variances" (1979), equation 2.1, written for means::

        n   = nₐ + n_b
        δ   = mean_b - meanₐ
        mean = meanₐ + δ · n_b / n
        M₂  = M₂ₐ + M₂_b + δ² · nₐ n_b / n

    within a piece the mean is taken first, then the squared deviations from it: nothing cancels when the mean is large.

    Args:
        size: How many columns there are.
    """

    def __init__(self, size: int) -> None:
        self.count: Vector = np.zeros(size)
        self.mean: Vector = np.zeros(size)
        self._squares: Vector = np.zeros(size)

    @property
    def variance(self) -> Vector:
        """The mean squared deviation of each column (divided by the number of rows, not by one less); 0 where there are none."""
        return self._squares / np.maximum(self.count, 1)

    def add(self, rows: NDArray[Any], mask: NDArray[np.bool_] | None = None) -> None:
        """Take in rows.

        Args:
            rows: Shape (rows, columns), any type of numbers.
            mask: Of the same shape: which entries count.
        """
        step = max(ELEMENTS // max(rows.shape[1], 1), 1)
        for first in range(0, len(rows), step):
            piece = rows[first : first + step].astype(np.float64)
            ones = np.ones(len(piece))
            if mask is None:
                count: Any = float(len(piece))
                mean = ones @ piece / count
                piece -= mean
            else:
                counts = mask[first : first + step]
                count = counts.sum(axis=0, dtype=np.float64)
                mean = np.where(counts, piece, 0).sum(axis=0) / np.maximum(count, 1)
                piece = np.where(counts, piece - mean, 0)
            self._combine(count, mean, ones @ np.square(piece, out=piece))

    def _combine(self, count: Any, mean: Vector, squares: Vector) -> None:
        whole = np.maximum(self.count + count, 1)
        delta = mean - self.mean
        self.mean += delta * (count / whole)
        self._squares += squares + np.square(delta) * (self.count * count / whole)
        self.count += count


def as_rows(values: NDArray[Any], kept: Sequence[int]) -> NDArray[Any]:
    """Return an array as rows whose columns are the entries of some axes; without any, there is one column.

    Args:
        values: The array.
        kept: The axes, in ascending order.
    """
    moved = np.moveaxis(values, kept, range(-len(kept), 0)) if kept else values
    columns = int(np.prod([values.shape[axis] for axis in kept], dtype=np.int64))
    return moved.reshape(-1, columns) if values.size else np.empty((0, columns), values.dtype)

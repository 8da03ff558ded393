"""Sums whose result does not depend on how the work is cut into blocks, nor on the number of threads.

A sum over a tensor is kept per `CHUNK` of elements. Inside a chunk, element j is added to lane j mod 64 in float64, and the lanes are
added in order: a fixed order of additions, which vectorises without any licence to reassociate. Every chunk's sum has its own place
in an array; at the end the places are added in order.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten

CHUNK = 4096
"""The same as `graftwork.methods.base.CHUNK`, as a constant for compiled code."""

LANES = 64

TILE = 1024
"""Elements whose accumulators stay in the first-level cache while the loop over models runs outside."""


@block_loop
def _dots(x: Any, y: Any, sums: Any) -> None:
    """Σ x y per chunk; float32 or float64 (b,), sums float64 (⌈b / CHUNK⌉,)."""
    lanes = np.empty(LANES, np.float64)
    for c in range(sums.size):
        a, b = x[c * CHUNK : (c + 1) * CHUNK], y[c * CHUNK : (c + 1) * CHUNK]
        whole = a.size // LANES * LANES
        lanes[:] = 0.0
        for k in range(0, whole, LANES):
            p, q = a[k : k + LANES], b[k : k + LANES]
            for j in range(LANES):
                lanes[j] += np.float64(p[j]) * np.float64(q[j])
        for j in range(a.size - whole):
            lanes[j] += np.float64(a[whole + j]) * np.float64(b[whole + j])
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        sums[c] = total


@block_loop
def _magnitudes(x: Any, sums: Any) -> None:
    """Σ |x| per chunk; float32 or float64 (b,), sums float64 (⌈b / CHUNK⌉,)."""
    lanes = np.empty(LANES, np.float64)
    for c in range(sums.size):
        a = x[c * CHUNK : (c + 1) * CHUNK]
        whole = a.size // LANES * LANES
        lanes[:] = 0.0
        for k in range(0, whole, LANES):
            p = a[k : k + LANES]
            for j in range(LANES):
                lanes[j] += np.float64(abs(p[j]))
        for j in range(a.size - whole):
            lanes[j] += np.float64(abs(a[whole + j]))
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        sums[c] = total


class ChunkSums:
    """Sums over a tensor (or all tensors laid end to end), each kept per chunk until it is asked for.

    Args:
        rows: Number of different sums.
        size: Number of elements they are over.
    """

    def __init__(self, rows: int, size: int) -> None:
        self._sums = np.zeros((rows, -(-size // CHUNK)), np.float64)

    def add_dots(self, row: int, position: int, x: NDArray[Any], y: NDArray[Any]) -> None:
        """Set the chunks of Σ x y that begin at `position`, a multiple of `CHUNK`."""
        _dots(x, y, self.places(row, position, x.size))

    def add_magnitudes(self, row: int, position: int, x: NDArray[Any]) -> None:
        """Set the chunks of Σ |x| that begin at `position`, a multiple of `CHUNK`."""
        _magnitudes(x, self.places(row, position, x.size))

    def totals(self) -> NDArray[np.float64]:
        """Return each row's sum, its chunks added in order."""
        if self._sums.shape[1] == 0:
            return np.zeros(len(self._sums))
        return np.cumsum(self._sums, axis=1)[:, -1]  # cumsum adds one by one; np.sum's order depends on NumPy's build

    def places(self, row: int | slice, position: int, size: int) -> NDArray[np.float64]:
        """Return a row's (or rows') places of the chunks of `size` elements that begin at `position`, a multiple of `CHUNK`."""
        first = position // CHUNK
        return self._sums[row, first : first + -(-size // CHUNK)]


def weighted_sum(models: NDArray[Any], weights: NDArray[np.float64], divisor: float, out: NDArray[Any]) -> None:
    """Write ``Σ wᵢ xᵢ / divisor`` to `out` in float64 arithmetic; exact where the models agree and the weights sum to `divisor`.

    Args:
        models: Shape (n, b), float32 or float64.
        weights: Shape (n,).
        divisor: What the sum is divided by.
        out: Shape (b,), the models' dtype.
    """
    # float32 needs no care: the sum's error is 2⁻⁵³ and vanishes in the one rounding. In float64 equal inputs are told apart.
    equal = models.dtype == np.float64 and weights.sum() == divisor
    (_weighted_sum_or_equal if equal else _weighted_sum)(*flatten(models), weights, divisor, out)


@block_loop
def _weighted_sum(x: Any, distance: Any, n: Any, weights: Any, divisor: Any, out: Any) -> None:
    sums = np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target = out[first : first + TILE]
        for i in range(n):
            row, w = x[i * distance + first : i * distance + first + target.size], weights[i]
            if i == 0:
                for j in range(target.size):
                    sums[j] = w * np.float64(row[j])
            else:
                for j in range(target.size):
                    sums[j] += w * np.float64(row[j])
        for j in range(target.size):
            target[j] = sums[j] / divisor


@_weighted_sum.in_numpy
def _weighted_sum_in_numpy(x: Any, distance: Any, n: Any, weights: Any, divisor: Any, out: Any) -> None:
    sums, term = np.empty(8 * TILE), np.empty(8 * TILE)
    with np.errstate(all="ignore"):
        for first in range(0, out.size, len(sums)):
            target = out[first : first + len(sums)]
            total, part = sums[: target.size], term[: target.size]
            for i in range(n):
                row = x[i * distance + first : i * distance + first + target.size]
                np.multiply(row, weights[i], out=part if i else total, dtype=np.float64)
                if i:
                    total += part
            np.divide(total, divisor, out=target, casting="same_kind")


@block_loop
def _weighted_sum_or_equal(x: Any, distance: Any, n: Any, weights: Any, divisor: Any, out: Any) -> None:
    _weighted_sum(x, distance, n, weights, divisor, out)
    differs = np.empty(TILE, np.bool_)
    for first in range(0, out.size, TILE):
        target, reference = out[first : first + TILE], x[first : first + TILE]
        differs[:] = False
        for i in range(1, n):
            row = x[i * distance + first : i * distance + first + target.size]
            for j in range(target.size):
                differs[j] |= row[j] != reference[j]
        for j in range(target.size):
            target[j] = target[j] if differs[j] else reference[j]

"""How far models are apart, entry by entry, and what is left of them where they are far enough."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import CHUNK, LANES

TILE = 1024
"""Elements whose accumulators stay in the first-level cache while the loop over models runs outside."""


def spread(models: NDArray[Any]) -> NDArray[Any]:
    """Return the population standard deviation over the models, shape (b,), in their dtype; exactly 0 where all are equal.

    It orders entries as the variance does, and does not underflow where the models are close.

    Args:
        models: Shape (n, b), float32 or float64.
    """
    out = np.empty(models.shape[1], models.dtype)
    _spread(*flatten(models), out)
    return out


def add_selected_squares(
    x: NDArray[Any],
    base: NDArray[Any],
    measured: NDArray[Any],
    threshold: np.floating[Any],
    cut: int,
    sums: NDArray[np.float64],
) -> None:
    """Write Σ (x - base)² of every chunk over the entries whose measure is large enough.

    Args:
        x: Shape (b,), one model.
        base: Shape (b,).
        measured: Shape (b,).
        threshold: The least measure.
        cut: Position in the block up to which a measure of exactly that is enough.
        sums: Shape (⌈b / CHUNK⌉,), the places of a `ChunkSums`.
    """
    _selected_squares(x, base, measured, threshold, cut, sums)


def select(
    row: NDArray[Any], base: NDArray[Any], measured: NDArray[Any], threshold: np.floating[Any], cut: int
) -> None:
    """Set every element of `row` to the base's whose measure is not large enough; arguments as for `add_selected_squares`."""
    _select(row, base, measured, threshold, cut)


@block_loop
def _spread(x: Any, distance: Any, n: Any, out: Any) -> None:
    sums, squares = np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target, origin = out[first : first + TILE], x[first : first + TILE]
        sums[:] = 0.0
        squares[:] = 0.0
        for i in range(1, n):
            row = x[i * distance + first : i * distance + first + target.size]
            for j in range(target.size):
                # from the first model, not from 0: nothing cancels, and sums of short numbers are exact in any order
                d = np.float64(row[j]) - np.float64(origin[j])
                sums[j] += d
                squares[j] += d * d
        for j in range(target.size):
            target[j] = np.sqrt(n * squares[j] - sums[j] * sums[j]) / n


@block_loop
def _selected_squares(x: Any, base: Any, measured: Any, threshold: Any, cut: Any, sums: Any) -> None:
    lanes = np.empty(LANES, np.float64)
    for c in range(sums.size):
        first = c * CHUNK
        a, b, m = x[first : first + CHUNK], base[first : first + CHUNK], measured[first : first + CHUNK]
        lanes[:] = 0.0
        for k in range(0, a.size, LANES):
            p, q, r = a[k : k + LANES], b[k : k + LANES], m[k : k + LANES]
            for j in range(p.size):
                d = np.float64(p[j]) - np.float64(q[j])
                less = (r[j] < threshold) | ((r[j] == threshold) & (first + k + j >= cut))
                lanes[j] += 0.0 if less else d * d
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        sums[c] = total


@block_loop
def _select(row: Any, base: Any, measured: Any, threshold: Any, cut: Any) -> None:
    for j in range(row.size):
        mine, origin, m = row[j], base[j], measured[j]
        less = (m < threshold) | ((m == threshold) & (j >= cut))
        row[j] = origin if less else mine

"""How far models are apart, entry by entry, and what is left of them where they are far enough."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import CHUNK, LANES

TILE = 1024
"""Elements whose accumulators stay in the first-level cache while the loop over models runs outside."""

INFINITY = 0x7FF0000000000000
"""The bits of infinity; numbers that are not negative are ordered like theirs."""


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


def least_variance(spread: np.floating[Any], n_models: int) -> float:
    """Return the least n² times variance of which the root, divided by n and rounded to the dtype of `spread`, is not less than that.

    Comparing with it is comparing spreads, exactly, since roots and roundings are monotone; and it takes no root.
    """
    return float(_least_variance(spread, n_models, np.empty(1, spread.dtype), np.empty(1)))


def bounds(low: np.floating[Any], n_models: int) -> tuple[float, float]:
    """Return between which variances, as `least_variance` has them, the spread is `low` exactly: from the first, below the second."""
    return least_variance(low, n_models), least_variance(np.nextafter(low, low.dtype.type(np.inf)), n_models)


def select(models: NDArray[Any], base: NDArray[Any], threshold: np.floating[Any], cut: int) -> None:
    """Set every element of the models to the base's where the models' spread is not large enough.

    Args:
        models: Shape (n, b), changed in place. Where the spread is NaN, it is not less than anything, and they stay.
        base: Shape (b,).
        threshold: The least spread.
        cut: Position in the block up to which a spread of exactly that is enough.
    """
    _select(*flatten(models), base, *bounds(threshold, len(models)), cut)


@dataclass(slots=True)
class Between:
    """What one thread has seen of a tensor: how much is above a range of variances, and what is in it.

    Attributes:
        variances: Shape (room,), n² times the variances of what is in the range.
        positions: Shape (room,), where in the tensor that is.
        squares: Shape (room, n), squared differences from the base there.
        counts: How many entries vary, are above the range, and are in it; the last may be more than there is room for.
    """

    variances: NDArray[np.float64]
    positions: NDArray[np.int64]
    squares: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def empty(cls, n_models: int, room: int) -> Self:
        """Return a place for so many entries in the range."""
        squares = np.empty((room, n_models))
        return cls(np.empty(room), np.empty(room, np.int64), squares, np.zeros(3, np.int64))

    def observe(
        self,
        models: NDArray[Any],
        base: NDArray[Any],
        position: int,
        range_: tuple[float, float, float],
        sums: NDArray[np.float64],
    ) -> None:
        """Take in one block.

        Args:
            models: Shape (n, b).
            base: Shape (b,).
            position: Of the block's first element in the tensor.
            range_: The least variance that is one, the least in the range and the least above it.
            sums: Shape (n, ⌈b / CHUNK⌉), for Σ (xᵢ - base)² of every chunk over what is above: the places of a `ChunkSums`.
        """
        into = self.variances, self.positions, self.squares, self.counts
        _between(*flatten(models), base, position, *range_, sums, *into)


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
def _least_variance(spread: Any, n: Any, rounded: Any, variance: Any) -> Any:
    low, high, bits = 0, INFINITY, variance.view(np.int64)
    while low < high:
        bits[0] = low + ((high - low) >> 1)
        rounded[0] = np.sqrt(variance[0]) / n
        if rounded[0] >= spread:
            high = bits[0]
        else:
            low = bits[0] + 1
    bits[0] = low
    return variance[0]


@block_loop
def _variances(x: Any, distance: Any, n: Any, first: Any, sums: Any, variances: Any) -> None:
    """N Σ d² - (Σ d)² of a tile, where d are the differences from the first model; as `_spread` has it."""
    origin = x[first : first + variances.size]
    sums[:] = 0.0
    variances[:] = 0.0
    for i in range(1, n):
        row = x[i * distance + first : i * distance + first + variances.size]
        for j in range(variances.size):
            d = np.float64(row[j]) - np.float64(origin[j])
            sums[j] += d
            variances[j] += d * d
    for j in range(variances.size):
        variances[j] = n * variances[j] - sums[j] * sums[j]


@block_loop
def _add_above(x: Any, base: Any, variances: Any, high: Any, lanes: Any) -> None:
    """Add (x - base)² of a tile to the lanes, where the variance is not less than `high`."""
    for k in range(0, x.size, LANES):
        p, q, v = x[k : k + LANES], base[k : k + LANES], variances[k : k + LANES]
        for j in range(p.size):
            d = np.float64(p[j]) - np.float64(q[j])
            lanes[j] += 0.0 if v[j] < high else d * d


@block_loop
def _count(variances: Any, least: Any, low: Any, high: Any) -> Any:
    """How many are not less than `least`, how many between `low` and `high`, and how many above."""
    varied, within, above = 0, 0, 0
    for j in range(variances.size):
        varied += variances[j] >= least
        within += variances[j] >= low
        above += variances[j] >= high
    return varied, within - above, above


@block_loop
def _places(variances: Any, low: Any, high: Any, places: Any) -> None:
    """Write where the variance is between `low` and `high`."""
    filled = 0
    for j in range(variances.size):
        places[filled] = j  # written over unless it is one: no branch
        filled += (variances[j] >= low) & (variances[j] < high)


@block_loop
def _between(
    x: Any,
    distance: Any,
    n: Any,
    base: Any,
    position: Any,
    least: Any,
    low: Any,
    high: Any,
    totals: Any,
    found: Any,
    positions: Any,
    squares: Any,
    counts: Any,
) -> None:
    sums, work, lanes = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty((n, LANES), np.float64)
    places = np.empty(TILE + 1, np.int64)
    for first in range(0, base.size, TILE):
        origin = base[first : first + TILE]
        variances = work[: origin.size]
        _variances(x, distance, n, first, sums, variances)
        if first % CHUNK == 0:
            lanes[:] = 0.0
        for i in range(n):
            _add_above(x[i * distance + first : i * distance + first + origin.size], origin, variances, high, lanes[i])
        if (first + TILE) % CHUNK == 0 or first + TILE >= base.size:
            for i in range(n):
                total = 0.0
                for j in range(LANES):
                    total += lanes[i, j]
                totals[i, first // CHUNK] = total
        varied, within, above = _count(variances, least, low, high)
        counts[0] += varied
        counts[1] += above
        if within and counts[2] + within <= found.size:
            _places(variances, low, high, places)
            for k in range(within):
                at, filled = first + places[k], counts[2] + k
                found[filled] = variances[places[k]]
                positions[filled] = position + at
                for i in range(n):
                    d = np.float64(x[i * distance + at]) - np.float64(base[at])
                    squares[filled, i] = d * d
        counts[2] += within


@block_loop
def _select(x: Any, distance: Any, n: Any, base: Any, low: Any, high: Any, cut: Any) -> None:
    sums, work, less = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty(TILE, np.bool_)
    for first in range(0, base.size, TILE):
        origin = base[first : first + TILE]
        variances = work[: origin.size]
        _variances(x, distance, n, first, sums, variances)
        before = min(max(cut - first, 0), origin.size)
        for j in range(before):
            less[j] = variances[j] < low
        for j in range(before, origin.size):
            less[j] = variances[j] < high
        for i in range(n):
            row = x[i * distance + first : i * distance + first + origin.size]
            for j in range(row.size):
                mine, other = row[j], origin[j]
                row[j] = other if less[j] else mine

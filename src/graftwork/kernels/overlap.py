"""Entries of task vectors told apart by how many models moved them.

A model moved an entry if its difference from the base is greater than ε in magnitude, or NaN; that is decided in the models' dtype. Sums
are float64; the result is rounded once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten

TILE = 1024
"""Elements whose accumulators stay in the first-level cache while the loop over models runs outside."""


def count_moved(models: NDArray[Any], base: NDArray[Any], epsilon: float, counts: NDArray[np.int64]) -> None:
    """Add to `counts` how many entries each model moved: together with others (first row), and alone (second row).

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,), same dtype.
        epsilon: ε.
        counts: Shape (2, n).
    """
    _count_moved(*flatten(models), base, models.dtype.type(epsilon), counts)


def add_moved(
    models: NDArray[Any], base: NDArray[Any], epsilon: float, factors: NDArray[np.float64], out: NDArray[Any]
) -> None:
    """Write the base plus, where one model moved it, ``fᵢ (xᵢ - base)``, and where several did, the mean of their differences.

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,), same dtype.
        epsilon: ε.
        factors: Shape (n,): f.
        out: Shape (b,). Entries that no model moved equal the base exactly.
    """
    _add_moved(*flatten(models), base, models.dtype.type(epsilon), factors, out)


@block_loop
def _count_moved(x: Any, distance: Any, n: Any, base: Any, epsilon: Any, counts: Any) -> None:
    movers = np.empty(TILE, np.int32)
    for first in range(0, base.size, TILE):
        origin = base[first : first + TILE]
        movers[:] = 0
        for i in range(n):
            row = x[i * distance + first : i * distance + first + origin.size]
            for j in range(origin.size):
                movers[j] += not (abs(row[j] - origin[j]) <= epsilon)
        for i in range(n):
            row = x[i * distance + first : i * distance + first + origin.size]
            shared, alone = np.int32(0), np.int32(0)
            for j in range(origin.size):
                moved = not (abs(row[j] - origin[j]) <= epsilon)
                shared += np.int32(moved & (movers[j] > 1))
                alone += np.int32(moved & (movers[j] == 1))
            counts[0, i] += shared
            counts[1, i] += alone


@block_loop
def _add_moved(x: Any, distance: Any, n: Any, base: Any, epsilon: Any, factors: Any, out: Any) -> None:
    movers, sums, scaled = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target, origin = out[first : first + TILE], base[first : first + TILE]
        movers[:] = 0.0
        sums[:] = 0.0
        scaled[:] = 0.0
        for i in range(n):
            row, f = x[i * distance + first : i * distance + first + target.size], factors[i]
            for j in range(target.size):
                mine, start = row[j], origin[j]
                difference = np.float64(mine) - np.float64(start)
                delta = 0.0 if abs(mine - start) <= epsilon else difference
                movers[j] += 0.0 if abs(mine - start) <= epsilon else 1.0
                sums[j] += delta
                scaled[j] += f * delta
        for j in range(target.size):
            mean = sums[j] / (movers[j] if movers[j] > 1.0 else 1.0)
            total = scaled[j] if movers[j] == 1.0 else mean
            target[j] = np.float64(origin[j]) + total if total != 0.0 else np.float64(origin[j])

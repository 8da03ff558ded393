"""Adding up those entries of task vectors that several models agree are worth keeping."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import TILE


def add_agreed(
    models: NDArray[Any],
    base: NDArray[Any],
    weights: NDArray[np.float64],
    bounds: NDArray[np.float64],
    k: int,
    lambda_: float,
    out: NDArray[Any],
) -> None:
    """Write ``base + λ · τ [at least k of |τᵢ| ≥ cᵢ |τ - τᵢ|]`` with ``τᵢ = wᵢ (xᵢ - base)`` and ``τ = Σ τᵢ``.

    What is dropped, and what no model moved, equals the base exactly. NaN is less than nothing, and so is never dropped.

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,).
        weights: Shape (n,): w.
        bounds: Shape (n,): c.
        k: How many models have to agree, at most n.
        lambda_: λ.
        out: Shape (b,).
    """
    _add_agreed(*flatten(models), base, weights, bounds, k, float(lambda_), out)


@block_loop
def _add_agreed(
    x: Any, distance: Any, n: Any, base: Any, weights: Any, bounds: Any, k: Any, lambda_: Any, out: Any
) -> None:
    sums, against = np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target, origin = out[first : first + TILE], base[first : first + TILE]
        sums[:] = 0.0
        against[:] = 0.0
        for i in range(n):
            row, w = x[i * distance + first : i * distance + first + target.size], weights[i]
            for j in range(target.size):
                sums[j] += w * (np.float64(row[j]) - np.float64(origin[j]))
        for i in range(n):
            row, w = x[i * distance + first : i * distance + first + target.size], weights[i]
            bound = bounds[i]
            for j in range(target.size):
                mine = w * (np.float64(row[j]) - np.float64(origin[j]))
                against[j] += 1.0 if abs(mine) < bound * abs(sums[j] - mine) else 0.0
        for j in range(target.size):
            moved = against[j] <= n - k and sums[j] != 0.0
            target[j] = np.float64(origin[j]) + lambda_ * sums[j] if moved else np.float64(origin[j])

"""The mean of models, element by element, each weighted by how sure it is of the element."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import TILE


def weighted_by(
    models: NDArray[Any],
    precisions: NDArray[Any],
    weights: NDArray[np.float64],
    floor: float,
    out: NDArray[Any],
) -> None:
    """Write ``Σ wᵢ max(pᵢ, floor) xᵢ / Σ wᵢ max(pᵢ, floor)``; exact where all models agree.

    Args:
        models: Shape (n, b), float32 or float64.
        precisions: Shape (n, b), likewise.
        weights: Shape (n,), not negative, not all zero.
        floor: Greater than zero.
        out: Shape (b,).
    """
    x, distance, n = flatten(models)
    p, apart, _ = flatten(precisions)
    _weighted_by(x, distance, n, p, apart, weights, float(floor), out)


@block_loop
def _weighted_by(x: Any, distance: Any, n: Any, p: Any, apart: Any, weights: Any, floor: Any, out: Any) -> None:
    sums, totals = np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    differs = np.empty(TILE, np.bool_)
    for first in range(0, out.size, TILE):
        target, reference = out[first : first + TILE], x[first : first + TILE]
        sums[:] = 0.0
        totals[:] = 0.0
        differs[:] = False
        for i in range(n):
            row = x[i * distance + first : i * distance + first + target.size]
            sure = p[i * apart + first : i * apart + first + target.size]
            w = weights[i]
            for j in range(target.size):
                factor = w * max(np.float64(sure[j]), floor)
                sums[j] += factor * np.float64(row[j])
                totals[j] += factor
            for j in range(target.size):
                differs[j] |= row[j] != reference[j]
        for j in range(target.size):
            target[j] = sums[j] / totals[j] if differs[j] else reference[j]

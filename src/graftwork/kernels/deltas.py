"""Differences from a base: adding them up, trimming them, electing their signs.

A trimmed or dropped entry of a task vector is written by setting the model's element to the base's, so that the loops that follow need no
mask. Differences and sums are float64, whatever the models' dtype; the result is rounded once.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import CHUNK, LANES

TILE = 1024
"""Elements whose accumulators stay in the first-level cache while the loop over models runs outside."""


def add_differences(models: NDArray[Any], base: NDArray[Any], factors: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Write ``base + Σ fᵢ (xᵢ - base)``; elements that no model moved equal the base exactly.

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,).
        factors: Shape (n,).
        out: Shape (b,).
    """
    _add_differences(*flatten(models), base, factors, out)


def trim(row: NDArray[Any], base: NDArray[Any], magnitude: np.floating[Any], cut: int) -> None:
    """Set every element of `row` to the base's that differs by less than `magnitude`, or by as much from position `cut` on.

    Args:
        row: Shape (b,), changed in place. NaN is not less than anything, and stays.
        base: Shape (b,).
        magnitude: Threshold of |x - base|, of the models' dtype or wider.
        cut: Position in the block up to which elements that differ by `magnitude` exactly are kept.
    """
    _trim(row, base, magnitude, cut)


def keep_between(
    row: NDArray[Any],
    base: NDArray[Any],
    least: tuple[np.floating[Any], int],
    outlying: tuple[np.floating[Any], int],
) -> None:
    """Set every element of `row` to the base's that is not among the largest by `least`, or is among the largest by `outlying`.

    Args:
        row: Shape (b,), changed in place. NaN stays.
        base: Shape (b,).
        least: A threshold of |x - base|, of the models' dtype or wider, and the position in the block up to which elements that
            differ by exactly that much are among the largest; see `graftwork.kernels.largest.Thresholds`.
        outlying: The same for those that are too large.
    """
    _keep_between(row, base, *least, *outlying)


def add_distances(x: NDArray[Any], base: NDArray[Any], sums: NDArray[np.float64]) -> None:
    """Write Σ |x - base| of every chunk to `sums`, shape (⌈b / CHUNK⌉,), the places of a `ChunkSums`."""
    _distances(x, base, sums)


def elect_and_add(
    models: NDArray[Any],
    base: NDArray[Any],
    coefficients: NDArray[np.float64],
    lambda_: float,
    *,
    normalize: bool,
    count: bool,
    out: NDArray[Any],
    least: float = 0.0,
) -> None:
    """Write ``base + λ · τ`` with τ the sum or mean of those differences whose sign wins the election.

    ::

        γ  = +1 where Σ vᵢ δᵢ ≥ 0, else -1          (Σ sign(vᵢ δᵢ) if `count`)
        τ  = Σ fᵢ δᵢ [sign(vᵢ δᵢ) = γ]               divided by Σ dᵢ [sign(vᵢ δᵢ) = γ] if `normalize` and that is not 0

    Where γ is of a sum that is NaN, so is the result.

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,).
        coefficients: Shape (3, n): the votes v, the factors f and the divisors d.
        lambda_: λ.
        normalize: Whether to divide.
        count: Whether every model has one vote, or as many as its difference is large.
        out: Shape (b,).
        least: What a sum of divisors is taken for that is smaller in magnitude.
    """
    _elect_and_add(*flatten(models), base, coefficients, float(lambda_), normalize, count, float(least), out)


def step_towards(row: NDArray[Any], base: NDArray[Any], step: float, out: NDArray[Any]) -> None:
    """Write ``base + w (x - base)`` with ``w = min(1, step / max(|x - base|, 10⁻⁶))``; the model's element itself where w is 1.

    Args:
        row: Shape (b,), the model.
        base: Shape (b,), same dtype.
        step: The greatest distance, not negative.
        out: Shape (b,).
    """
    _step_towards(row, base, float(step), out)


@block_loop
def _step_towards(row: Any, base: Any, step: Any, out: Any) -> None:
    for j in range(out.size):
        mine, origin = np.float64(row[j]), np.float64(base[j])
        delta = mine - origin
        distance = abs(delta)
        weight = step / (1e-6 if distance < 1e-6 else distance)
        out[j] = mine if weight >= 1.0 else origin + weight * delta


@block_loop
def _add_differences(x: Any, distance: Any, n: Any, base: Any, factors: Any, out: Any) -> None:
    sums = np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target, origin = out[first : first + TILE], base[first : first + TILE]
        sums[:] = 0.0
        for i in range(n):
            row, f = x[i * distance + first : i * distance + first + target.size], factors[i]
            for j in range(target.size):
                sums[j] += f * (np.float64(row[j]) - np.float64(origin[j]))
        for j in range(target.size):
            target[j] = np.float64(origin[j]) + sums[j] if sums[j] != 0.0 else np.float64(origin[j])


@block_loop
def _trim(row: Any, base: Any, magnitude: Any, cut: Any) -> None:
    for j in range(cut):
        mine, origin = row[j], base[j]
        row[j] = origin if abs(mine - origin) < magnitude else mine
    for j in range(cut, row.size):
        mine, origin = row[j], base[j]
        row[j] = origin if abs(mine - origin) <= magnitude else mine


@block_loop
def _keep_between(row: Any, base: Any, least: Any, least_cut: Any, outlying: Any, outlying_cut: Any) -> None:
    for j in range(row.size):
        mine, origin = row[j], base[j]
        magnitude = abs(mine - origin)
        small = (magnitude < least) | ((magnitude == least) & (j >= least_cut))
        large = (magnitude > outlying) | ((magnitude == outlying) & (j < outlying_cut))
        row[j] = origin if small | large else mine


@block_loop
def _distances(x: Any, base: Any, sums: Any) -> None:
    lanes = np.empty(LANES, np.float64)
    for c in range(sums.size):
        a, b = x[c * CHUNK : (c + 1) * CHUNK], base[c * CHUNK : (c + 1) * CHUNK]
        lanes[:] = 0.0
        for k in range(0, a.size, LANES):
            p, q = a[k : k + LANES], b[k : k + LANES]
            for j in range(p.size):
                lanes[j] += abs(np.float64(p[j]) - np.float64(q[j]))
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        sums[c] = total


@block_loop
def _elect_and_add(
    x: Any,
    distance: Any,
    n: Any,
    base: Any,
    coefficients: Any,
    lambda_: Any,
    normalize: Any,
    count: Any,
    least: Any,
    out: Any,
) -> None:
    elected, total, divisor = np.empty(TILE, np.float64), np.empty(TILE, np.float64), np.empty(TILE, np.float64)
    for first in range(0, out.size, TILE):
        target, origin = out[first : first + TILE], base[first : first + TILE]
        elected[:] = 0.0
        total[:] = 0.0
        divisor[:] = 0.0
        for i in range(n):
            row, vote = x[i * distance + first : i * distance + first + target.size], coefficients[0, i]
            if count:
                for j in range(target.size):
                    v = vote * (np.float64(row[j]) - np.float64(origin[j]))
                    elected[j] += (1.0 if v > 0.0 else 0.0) - (1.0 if v < 0.0 else 0.0) if v == v else v
            else:
                for j in range(target.size):
                    elected[j] += vote * (np.float64(row[j]) - np.float64(origin[j]))
        for i in range(n):
            row, vote = x[i * distance + first : i * distance + first + target.size], coefficients[0, i]
            factor, share = coefficients[1, i], coefficients[2, i]
            for j in range(target.size):
                delta = np.float64(row[j]) - np.float64(origin[j])
                v = vote * delta
                agrees = (v if elected[j] >= 0.0 else -v) > 0.0
                total[j] += factor * delta if agrees else 0.0
                divisor[j] += share if agrees else 0.0
        if normalize:
            for j in range(target.size):
                d = least if abs(divisor[j]) < least else divisor[j]
                total[j] /= d if d != 0.0 else 1.0
        for j in range(target.size):
            found = np.float64(origin[j]) + lambda_ * total[j] if total[j] != 0.0 else np.float64(origin[j])
            target[j] = found if elected[j] == elected[j] else elected[j]

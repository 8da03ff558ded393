"""Linear combinations of models whose coefficients follow from lengths and angles.

Means on the sphere, great circles and medians of several tensors lie in the span of the tensors. Their coefficients depend on the
tensors' dot products alone, or on their distances: n(n + 1)/2 numbers, found in one sweep over the data. Iterations then work on an
n × n matrix in float64, and one more sweep adds the tensors up.

A dot product tells an angle near 0 to 1e-8 only. That is enough: there, what is made of angles depends on their squares.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.deltas import _add_differences
from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten
from graftwork.kernels.sums import CHUNK, LANES, ChunkSums, _weighted_sum, _weighted_sum_or_equal

TILE = 1024
"""Elements of every model that stay in the cache while all pairs are multiplied; a multiple of `LANES`."""

Vectors: TypeAlias = tuple[NDArray[Any], NDArray[Any] | None]
"""Models, shape (n, b), and the base they are differences from, shape (b,), or None."""


class Gram:
    """A reduction: factors that follow from the dot products of all pairs of a tensor's vectors, or from their squared distances.

    Args:
        n: Number of vectors.
        size: Elements of the tensor.
        factors: Makes of the matrix, shape (n, n) and symmetric, what `combine` gets; called once.
        vectors: Takes the vectors from a block; models, or where there is a base, differences from it, unless given.
        distances: Whether to ask for ``|xᵢ - xⱼ|²`` instead of ``xᵢ · xⱼ``: as exact for vectors that lie close together, where a
            difference of dot products would have lost all digits.
    """

    def __init__(
        self,
        n: int,
        size: int,
        factors: Callable[[NDArray[np.float64]], Any],
        *,
        vectors: Callable[[Any], Vectors] | None = None,
        distances: bool = False,
    ) -> None:
        self._n, self._factors, self._vectors, self._distances = n, factors, vectors or task_vectors, distances
        self._sums = ChunkSums(n * (n + 1) // 2, size)
        self._matrix: NDArray[np.float64] = np.zeros((n, n))

    def local(self) -> None:
        """Return nothing: sums go to places of their own."""

    def observe(self, block: Any, local: None) -> None:
        """Sum up one block."""
        models, base = self._vectors(block)
        places = self._sums.places(slice(None), block.start, models.shape[1])
        _products(*flatten(models), *_origin(models, base), self._distances, CHUNK, places)

    def end_pass(self, locals_: Any) -> bool:
        """Add the sums up; one pass is enough."""
        self._matrix = _symmetric(self._sums.totals()[:, None], self._n)[0]
        return False

    def result(self) -> Any:
        """Return the factors."""
        with np.errstate(all="ignore"):
            return self._factors(self._matrix)


def task_vectors(block: Any) -> Vectors:
    """Return a block's models and base."""
    return block.models, block.base


def gram_of_units(models: NDArray[Any], base: NDArray[Any] | None, unit: int) -> NDArray[np.float64]:
    """Return the dot products of the models, or of their differences from the base, unit by unit; shape (units, n, n).

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,), or None.
        unit: Elements of a unit, which divide b.
    """
    n, b = models.shape
    sums = np.empty((n * (n + 1) // 2, b // unit), np.float64)
    _products(*flatten(models), *_origin(models, base), False, unit, sums)
    return _symmetric(sums, n)


def combine(models: NDArray[Any], base: NDArray[Any] | None, factors: NDArray[np.float64], out: NDArray[Any]) -> None:
    """Write ``Σ fᵢ xᵢ``, or ``base + Σ fᵢ (xᵢ - base)``, with one row of factors per run of elements.

    Factors that sum to 1 but for their rounding are taken to sum to 1, so that equal models come out unchanged.

    Args:
        models: Shape (n, b), float32 or float64.
        base: Shape (b,), or None.
        factors: Shape (runs, n), for as many runs of equal length in the block; or (n,), for the whole block.
        out: Shape (b,).
    """
    factors = np.ascontiguousarray(np.atleast_2d(factors))
    run = out.size // len(factors)
    if base is not None:
        _add_runs_of_differences(*flatten(models), base, factors, run, out)
        return
    sums = np.cumsum(factors, axis=1)[:, -1]
    means = np.abs(sums - 1) <= 4 * len(models) * np.finfo(np.float64).eps
    _add_runs(*flatten(models), factors, np.where(means, sums, 1.0), means & (models.dtype == np.float64), run, out)


def _origin(models: NDArray[Any], base: NDArray[Any] | None) -> tuple[int, NDArray[Any]]:
    """Return the number of elements, and the base; an empty array for none."""
    return models.shape[1], models[0, :0] if base is None else base


def _symmetric(sums: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """Return matrices from the sums over pairs in their order, shape (pairs, k); shape (k, n, n)."""
    matrices = np.empty((sums.shape[1], n, n))
    rows, columns = np.triu_indices(n)
    matrices[:, rows, columns] = sums.T
    matrices[:, columns, rows] = sums.T
    return matrices


@block_loop
def _products(x: Any, distance: Any, n: Any, size: Any, origin: Any, distances: Any, run: Any, sums: Any) -> None:
    """Σ xᵢ xⱼ per run, i ≤ j in order, in `LANES` as `ChunkSums` has them; sums float64 (pairs, runs)."""
    work = np.empty(n * TILE, np.float64)
    lanes = np.empty(len(sums) * LANES, np.float64)
    for r in range(sums.shape[1]):
        end = min((r + 1) * run, size)
        lanes[:] = 0.0
        for first in range(r * run, end, TILE):
            b = min(TILE, end - first)
            whole = (b + LANES - 1) // LANES * LANES
            for i in range(n):
                row, target = x[i * distance + first : i * distance + first + b], work[i * TILE : (i + 1) * TILE]
                target[b:whole] = 0.0
                if origin.size:
                    start = origin[first : first + b]
                    for j in range(b):
                        target[j] = np.float64(row[j]) - np.float64(start[j])
                else:
                    for j in range(b):
                        target[j] = row[j]
            pair = 0
            for i in range(n):
                for k in range(i, n):
                    u, v = work[i * TILE : i * TILE + whole], work[k * TILE : k * TILE + whole]
                    lane = lanes[pair * LANES : (pair + 1) * LANES]
                    pair += 1
                    for first_lane in range(0, whole, LANES):
                        p, q = u[first_lane : first_lane + LANES], v[first_lane : first_lane + LANES]
                        if distances:
                            for j in range(LANES):
                                lane[j] += (p[j] - q[j]) * (p[j] - q[j])
                        else:
                            for j in range(LANES):
                                lane[j] += p[j] * q[j]
        for pair in range(len(sums)):
            total = 0.0
            for j in range(LANES):
                total += lanes[pair * LANES + j]
            sums[pair, r] = total


@block_loop
def _add_runs(x: Any, distance: Any, n: Any, factors: Any, divisors: Any, means: Any, run: Any, out: Any) -> None:
    for r in range(len(factors)):
        first = r * run
        if means[r]:
            _weighted_sum_or_equal(x[first:], distance, n, factors[r], divisors[r], out[first : first + run])
        else:
            _weighted_sum(x[first:], distance, n, factors[r], divisors[r], out[first : first + run])


@block_loop
def _add_runs_of_differences(x: Any, distance: Any, n: Any, base: Any, factors: Any, run: Any, out: Any) -> None:
    for r in range(len(factors)):
        first = r * run
        part = slice(first, first + run)
        _add_differences(x[first:], distance, n, base[part], factors[r], out[part])

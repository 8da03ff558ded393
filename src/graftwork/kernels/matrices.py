"""Singular vectors of large matrices from small ones.

A matrix M has as many singular values as its shorter side is long. Everything that is asked of its singular value decomposition ``M = U
Σ Vᵀ`` follows from ``MᵀM = V Σ² Vᵀ``, the Gram matrix of the shorter side: M is gone through in slabs of rows, once to build it and
once more for ``U = M V Σ⁻¹``, and no second matrix of M's size is ever made. All is float64. Squares lose half of the digits: singular
values are told from zero down to `RANK` times the largest (a decomposition in float32 gets about as far), and for sources in float32
that is exact enough by orders of magnitude.

Vectors have no sign of their own, and results here do not depend on any: they only hold ``U`` and ``V`` together.
"""

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

RANK = 1e-5
"""Singular values that are smaller than this times the largest count as zero."""

SLAB = 1 << 20
"""Elements of a slab of rows."""

Matrix: TypeAlias = NDArray[np.float64]


def tall(flat: NDArray[Any], unit: int) -> NDArray[Any]:
    """Return a view of a tensor in unit order as a matrix whose second axis is the shorter one, as far as one is shorter."""
    matrix = flat.reshape(-1, unit)
    return matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T


def slabs(matrix: NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows that hold about `SLAB` elements."""
    rows = max(SLAB // max(matrix.shape[1], 1), 1)
    for first in range(0, matrix.shape[0], rows):
        yield slice(first, min(first + rows, matrix.shape[0]))


def difference(x: NDArray[Any], base: NDArray[Any], weight: float, rows: slice) -> Matrix:
    """Return ``w (x - base)`` of some rows."""
    with np.errstate(invalid="ignore"):  # infinities, which the caller looks for
        part: Matrix = np.subtract(x[rows], base[rows], dtype=np.float64)
        part *= weight
    return part


def gram(parts: Iterable[Matrix], columns: int) -> Matrix:
    """Return the sum of ``PᵀP`` over slabs of rows."""
    total = np.zeros((columns, columns))
    with np.errstate(invalid="ignore", over="ignore"):
        for part in parts:
            total += part.T @ part
    return total


def singular(gram_: Matrix) -> tuple[Matrix, NDArray[np.float64]]:
    """Return the right singular vectors, as columns, and the singular values of a matrix, greatest first, without those that are zero.

    Args:
        gram_: The Gram matrix of the matrix's columns, finite.
    """
    squares, vectors = np.linalg.eigh(gram_)
    kept = squares > RANK**2 * squares.max(initial=0.0)
    return vectors[:, kept][:, ::-1], np.sqrt(squares[kept])[::-1]


def whitening(gram_: Matrix) -> Matrix:
    """Return ``G^(-1/2)``, with which a matrix of Gram matrix G becomes the nearest one whose columns are orthonormal.

    Where columns depend on each other, none exists; then the columns come out orthonormal within the space that they span, and
    combinations that are zero stay zero.
    """
    vectors, values = singular(gram_)
    whitened: Matrix = (vectors / values) @ vectors.T
    return whitened


def isotropic(gram_: Matrix) -> Matrix:
    """Return the P that gives every singular value of M, as far as it is not zero, their mean: ``M P = σ̄ U Vᵀ``.

    Args:
        gram_: The Gram matrix of M's columns, finite.
    """
    vectors, values = singular(gram_)
    made: Matrix = (vectors * (values.sum() / max(len(values), 1) / values)) @ vectors.T
    return made

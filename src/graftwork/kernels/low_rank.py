"""Parts of a product of two thin matrices, element by element, whatever the part."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop

TILE = 1024
"""Elements whose sums stay in the first-level cache while the loop over the inner axis runs outside."""


def add_product(out: NDArray[np.float64], start: int, left: NDArray[Any], right: NDArray[Any], scaling: float) -> None:
    """Add ``scaling · (L R)`` to a part of a matrix.

    Every sum is taken in float64 in the order of the inner axis, so the result does not depend on where a part begins or ends.

    Args:
        out: Shape (b,): the elements from flat position `start` on, changed in place.
        start: Position of the first element in the matrix, row by row.
        left: L, shape (rows, r), contiguous, float32 or float64.
        right: R, shape (r, columns), likewise.
        scaling: What the product is multiplied by.
    """
    _add_product(out, start, left, right, float(scaling))


@block_loop
def _add_product(out: Any, start: Any, left: Any, right: Any, scaling: Any) -> None:
    columns = right.shape[1]
    sums = np.empty(TILE, np.float64)
    at = 0
    while at < out.size:
        row = (start + at) // columns
        column = start + at - row * columns
        size = min(TILE, columns - column, out.size - at)
        for j in range(size):
            sums[j] = 0.0
        for k in range(right.shape[0]):
            factor = np.float64(left[row, k])
            source = right[k, column : column + size]
            for j in range(size):
                sums[j] += factor * np.float64(source[j])
        target = out[at : at + size]
        for j in range(size):
            target[j] += scaling * sums[j]
        at += size


@_add_product.in_numpy
def _add_product_in_numpy(out: Any, start: Any, left: Any, right: Any, scaling: Any) -> None:
    columns = right.shape[1]
    first, last = start // columns, -(-(start + out.size) // columns)
    for row in range(first, last):
        begin, end = max(start, row * columns), min(start + out.size, (row + 1) * columns)
        part = right[:, begin - row * columns : end - row * columns]
        sums = np.zeros(end - begin)
        for k in range(right.shape[0]):
            sums += np.float64(left[row, k]) * part[k].astype(np.float64)
        out[begin - start : end - start] += scaling * sums

"""A block of several models as one run of memory, for loops that take all models at once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def flatten(models: NDArray[Any]) -> tuple[NDArray[Any], int, int]:
    """Return the memory from the first element of the first row to the last of the last, the rows' distance, and their number.

    The rows of a block are contiguous but need not follow on one another: the last block of a tensor is shorter than the work
    array. Compiled for rows at any distance in a flat array, a loop knows that its elements are neighbours, and vectorises; for
    a slice of a two-dimensional array it would not (a fifth of the speed, and compiled a second time).

    Args:
        models: Shape (n, b), n ≥ 1.
    """
    n, b = models.shape
    if models.flags.c_contiguous:
        return models.reshape(-1), b, n
    if (
        models.strides[1] != models.itemsize
        or models.strides[0] < b * models.itemsize
        or models.strides[0] % models.itemsize
    ):
        return np.ascontiguousarray(models).reshape(-1), b, n
    distance = models.strides[0] // models.itemsize
    return np.lib.stride_tricks.as_strided(models, ((n - 1) * distance + b,), models.strides[1:]), distance, n

"""How much of a task vector is left after trimming or dropping: what methods share that make up for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.deltas import add_distances
from graftwork.kernels.sums import ChunkSums


def ratios(before: NDArray[np.float64], after: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return norms divided by those of what is left, element by element; 1 where nothing is left, NaN where one is not known."""
    with np.errstate(invalid="ignore"):  # infinity by infinity
        return np.where(after != 0, before, 1.0) / np.where(after != 0, after, 1.0)


class NormRatios:
    """A reduction: ‖xᵢ - base‖₁ divided by the same after trimming, shape (n,); 1 where nothing is left.

    Args:
        trim: Sets what is trimmed in rows of a block, a copy of its models, to the base's: called with the rows and the block.
        n_models: Number of models.
        size: Elements of the tensor.
    """

    def __init__(self, trim: Callable[[NDArray[Any], Any], None], n_models: int, size: int) -> None:
        self._trim = trim
        self._sums = ChunkSums(2 * n_models, size)

    def local(self) -> None:
        """Return nothing: sums go to places of their own."""

    def observe(self, block: Any, local: None) -> None:
        """Sum up one block."""
        trimmed = block.models.copy()
        self._trim(trimmed, block)
        for i, row in enumerate([*block.models, *trimmed]):
            add_distances(row, block.base, self._sums.places(i, block.start, row.size))

    def end_pass(self, locals_: Any) -> bool:
        """End; one pass is enough."""
        return False

    def result(self) -> NDArray[np.float64]:
        """Return the ratios."""
        return ratios(*self._sums.totals().reshape(2, -1))

"""SCE: select where models differ, calculate their weights, erase the minority's signs."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.chain import Chain
from graftwork.kernels.deltas import elect_and_add
from graftwork.kernels.largest import Largest, Measured, Thresholds
from graftwork.kernels.spread import add_selected_squares, select, spread
from graftwork.kernels.sums import ChunkSums
from graftwork.methods.base import Base, Block, MergeMethod, merge_method

LEAST_DIVISOR = 1e-6


@merge_method("sce", reference="https://arxiv.org/abs/2408.07990", base=Base.REQUIRED, models=(2, None))
class Sce(MergeMethod):
    """Merge task vectors ``τᵢ = xᵢ - base`` where the models differ most, each with a weight of the tensor's own.

    ::

        select     τ̂ᵢ  = τᵢ in the k entries in which the τᵢ vary most, 0 elsewhere;  k = max(1, int(select_topk · entries that vary))
        calculate  wᵢ  = mean(τ̂ᵢ²) / Σ mean(τ̂ₗ²) over the tensor
        erase      γ   = sign(Σ τ̂ᵢ), + where that is 0
        result     base + Σ wᵢ τ̂ᵢ [sign τ̂ᵢ = γ] / max(10⁻⁶, Σ wᵢ [sign τ̂ᵢ = γ])

    The merging of FuseChat, Wan et al. (2024), by mergekit's formula: the variance is of the population; with `select_topk` 1 every
    entry counts, whether it varies or not. An entry that all models moved by the same amount does not vary, and below 1 is not
    selected. From mergekit it differs in this: weights are equal only where nothing is left of any model; there they are, silently,
    where Σ mean(τ̂²) is under 10⁻⁶, as it is for most fine-tuned models. One entry is kept where any varies and the fraction would give
    none. Sums are float64, and variances are compared as standard deviations, which do not underflow; among equal ones the
    earlier position wins.

    Attributes:
        select_topk: Fraction of the entries that vary which is merged, in (0, 1].
    """

    select_topk: Annotated[float, Field(gt=0, le=1)] = 1.0

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Chain | Weights":
        """Ask for the entries that vary most, unless all are selected, and then for the weights."""
        if self.select_topk == 1:
            return Weights(None, n_models, size)
        search = Largest(
            [(0, lambda elements, nonzero: max(1, int(self.select_topk * nonzero)) if nonzero else 0)],
            size,
            dtype,
            measure=spreads,
        )
        return Chain(search, lambda found: Weights(found, n_models, size))

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the elected mean."""
        assert block.base is not None
        thresholds, weights = (None, reduced) if self.select_topk == 1 else reduced
        if thresholds is not None:
            measured, threshold, cut = selection(block, thresholds)
            for row in block.models:
                select(row, block.base, measured, threshold, cut)
        coefficients = np.stack((np.ones_like(weights), weights, weights))
        elect_and_add(
            block.models, block.base, coefficients, 1.0, normalize=True, count=False, out=block.out, least=LEAST_DIVISOR
        )


def spreads(block: Block) -> Measured:
    """Return by how much the models differ, as one row."""
    return spread(block.models)[None], None


def selection(block: Block, thresholds: Thresholds) -> tuple[NDArray[Any], np.floating[Any], int]:
    """Return by how much the models differ, how much is enough, and up to which place in the block that much exactly is."""
    rows, _ = spreads(block)
    return rows[0], thresholds.magnitudes[0], thresholds.cuts(rows, None, block.offset + block.start)[0]


class Weights:
    """A reduction: each model's share of the squared differences that are selected.

    Args:
        thresholds: Which are; None for all.
        n_models: Number of models.
        size: Number of elements of the tensor.
    """

    def __init__(self, thresholds: Thresholds | None, n_models: int, size: int) -> None:
        self._thresholds = thresholds
        self._sums = ChunkSums(n_models, size)

    def local(self) -> None:
        """Return nothing: sums go to places of their own."""

    def observe(self, block: Block, local: None) -> None:
        """Sum up one block."""
        assert block.base is not None
        if self._thresholds is None:
            measured, threshold, cut = block.base, block.base.dtype.type(-np.inf), block.base.size  # nothing is less
        else:
            measured, threshold, cut = selection(block, self._thresholds)
        for i, row in enumerate(block.models):
            places = self._sums.places(i, block.start, row.size)
            add_selected_squares(row, block.base, measured, threshold, cut, places)

    def end_pass(self, locals_: Any) -> bool:
        """Add the sums up; one pass is enough."""
        return False

    def result(self) -> NDArray[np.float64]:
        """Return the weights; all the same where nothing is selected or left."""
        totals = self._sums.totals()
        total = np.cumsum(totals)[-1]
        with np.errstate(invalid="ignore"):  # infinity by infinity
            return np.full(len(totals), 1 / len(totals)) if total == 0 else totals / total

"""SCE: select where models differ, calculate their weights, erase the minority's signs."""

from collections.abc import Sequence
from itertools import chain
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.chain import Chain
from graftwork.kernels.deltas import elect_and_add
from graftwork.kernels.largest import EVERYWHERE, Largest, Measured, Thresholds
from graftwork.kernels.sampling import range_of_rank, sampled, stride
from graftwork.kernels.spread import Between, add_selected_squares, least_variance, select, spread
from graftwork.kernels.sums import ChunkSums
from graftwork.methods.base import CHUNK, Base, Block, MergeMethod, merge_method

LEAST_DIVISOR = 1e-6

ROOM = 1 << 20
"""Greatest number of squared differences that a thread collects: 8 MiB, and 16 bytes for every position."""


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

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Weights | Selection":
        """Ask for the weights, and for the entries that vary most unless all are selected."""
        if self.select_topk == 1:
            return Weights(None, n_models, size)
        return Selection(self.select_topk, n_models, size, dtype)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the elected mean."""
        assert block.base is not None
        thresholds, weights = (None, reduced) if self.select_topk == 1 else reduced
        if thresholds is not None:
            rows = spreads(block)[0] if thresholds.rests.any() else block.base[None]  # else nobody looks at them
            cut = thresholds.cuts(rows, None, block.offset + block.start)[0]
            select(block.models, block.base, thresholds.magnitudes[0], cut)
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


class Selection:
    """A reduction: the entries that vary most, and each model's share of the squared differences there.

    From a sample it is known between which spreads the least that is selected probably lies. Then one pass adds up the squares of what is
    above, and collects what is between. If the sample was wrong, or too much is between (16-bit sources have few distinct
    spreads), `Largest` and `Weights` find the same in passes of their own. A small tensor needs no sample: all of it is collected.

    Args:
        fraction: k divided by the number of entries that vary.
        n_models: Number of models.
        size: Number of elements of the tensor.
        dtype: float32 or float64.

    Attributes:
        stride: Of how many chunks the pass to come needs one.
    """

    passes = 1
    """Passes over the data, as a rule; a sample is none."""

    def __init__(self, fraction: float, n_models: int, size: int, dtype: np.dtype[Any]) -> None:
        self._fraction, self._n, self._size, self._dtype = fraction, n_models, size, np.dtype(dtype)
        self._room = min(ROOM // n_models, size)
        self._sums = ChunkSums(n_models, size)
        self._tiny = np.finfo(dtype).smallest_subnormal
        self._range: tuple[np.floating[Any], np.floating[Any]] | None = None
        self._exact: Chain | None = None
        self._result: Any = None
        self.stride = 1
        if size > self._room:
            self.stride = stride(size, self._room)
        else:
            self._look_between(self._tiny, self._dtype.type(np.inf))

    def local(self) -> Any:
        """Return a list for samples, or a place for what is between."""
        if self._exact is not None:
            return self._exact.local()
        return [] if self._range is None else Between.empty(self._n, self._room)

    def observe(self, block: Block, local: Any) -> None:
        """Take one block into account."""
        assert block.base is not None
        if self._exact is not None:
            self._exact.observe(block, local)
        elif self._range is None:
            for first in sampled(block.start, block.base.size, self.stride):
                local.append((block.start + first, spread(block.models[:, first : first + CHUNK])))
        else:
            places = self._sums.places(slice(None), block.start, block.base.size)
            local.observe(block.models, block.base, block.start, self._variances, places)

    def end_pass(self, locals_: Sequence[Any]) -> bool:
        """Take in what all threads saw; return whether another pass is needed."""
        if self._exact is not None:
            if self._exact.end_pass(locals_):
                return True
            self._result = self._exact.result()
        elif self._range is None:
            chunks = [chunk for _, chunk in sorted(chain.from_iterable(locals_), key=lambda seen: seen[0])]
            self._look_between(*range_of_rank(chunks, self._fraction, self._size, self._room))
            return True
        else:
            self._result = self._choose(locals_)
        if self._result is None:
            search = Largest([(0, lambda _, varied: self._rank(varied))], -1, self._dtype, measure=spreads)
            self._exact = Chain(search, lambda found: Weights(found, self._n, self._size))
        return self._result is None

    def result(self) -> tuple[Thresholds, NDArray[np.float64]]:
        """Return which entries are selected, and the weights."""
        found: tuple[Thresholds, NDArray[np.float64]] = self._result
        return found

    def _look_between(self, low: np.floating[Any], high: np.floating[Any]) -> None:
        """Make the next pass one over all blocks, which looks for spreads from `low` on and below `high`."""
        self.stride, self._range = 1, (low, high)
        self._variances = tuple(least_variance(limit, self._n) for limit in (self._tiny, low, high))

    def _rank(self, varied: int) -> int:
        """Return how many entries are selected, of so many that vary."""
        return max(1, int(self._fraction * varied)) if varied else 0

    def _choose(self, locals_: Sequence[Between]) -> tuple[Thresholds, NDArray[np.float64]] | None:
        """Settle it from what is between; None if that is not where the threshold is."""
        varied, above, between = np.sum([seen.counts for seen in locals_], axis=0).tolist()
        need = self._rank(varied) - above
        if between > self._room or not (0 < need <= between or varied == 0):
            return None
        if varied == 0:
            none = Thresholds(np.full(1, np.inf, self._dtype), np.zeros(1, np.int64), np.zeros(1, np.int64))
            return none, shares(self._sums.totals())
        filled = [int(seen.counts[2]) for seen in locals_]
        variances, positions, squares = (
            np.concatenate([getattr(seen, name)[:count] for seen, count in zip(locals_, filled, strict=True)])
            for name in ("variances", "positions", "squares")
        )
        with np.errstate(over="ignore"):
            found = (np.sqrt(variances) / self._n).astype(self._dtype)
        threshold = np.partition(found, between - need)[between - need]
        equal = np.sort(positions[found == threshold])
        quota = need - int(np.count_nonzero(found > threshold))
        cutoff = int(equal[quota - 1]) + 1 if quota < equal.size else EVERYWHERE
        selected = np.flatnonzero((found > threshold) | ((found == threshold) & (positions < cutoff)))
        selected = selected[np.argsort(positions[selected])]  # sums are added in an order that no thread decides
        totals = self._sums.totals() + np.cumsum(squares[selected], axis=0)[-1]
        thresholds = Thresholds(np.full(1, threshold), np.array([cutoff], np.int64), np.zeros(1, np.int64))
        return thresholds, shares(totals)


def shares(totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each number's share of their sum; all the same where that is 0."""
    total = np.cumsum(totals)[-1]
    with np.errstate(invalid="ignore"):  # infinity by infinity
        return np.full(len(totals), 1 / len(totals)) if total == 0 else totals / total


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
        return shares(self._sums.totals())

"""Arcee Fusion: take from a model what is unusually important, and leave the rest of the base."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.divergence import divergences, importance, take_if_not_less
from graftwork.kernels.largest import Largest, Measured, Rank
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, merge_method

QUARTILES = (0.25, 0.5, 0.75)


@merge_method("arcee_fusion", reference="https://arcee.ai", base=Base.REQUIRED, models=(1, 1))
class ArceeFusion(MergeMethod):
    """Take those entries of the model whose importance is far above the median, and the base's elsewhere.

    ::

        importance = |x - base| · KL(p ‖ q)              p = softmax(x) + 10⁻⁸, q = softmax(base) + 10⁻⁸ of the entry's unit
        result     = x where importance ≥ Q₂ + 1.5 (Q₃ - Q₁), else base
        Qₖ         = the entry at int(k/4 · (size - 1)) of the tensor's importances in ascending order

    The method of mergekit's `arcee_fusion` (Arcee AI, 2024); there is no paper. A unit is all weights of one output, a row of a matrix in
    PyTorch's layout; a tensor of fewer than two axes is one unit. It differs from mergekit in three ways. KL is computed in float64:
    the terms of the sum cancel to about 10⁻⁷ of their size in fine-tuned models, where float32 leaves one or two digits of it. The
    quartiles are those of the whole tensor; there, of a million entries drawn at random where it has more. And convolutions are
    taken by units too, where mergekit goes along the last axis, whatever it means.
    """

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Return that divergences are of units."""
        return "unit"

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return one divergence per unit."""
        return 8 * (size // max(unit, 1))

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Fence":
        """Ask for the threshold."""
        return Fence(size, dtype)

    def combine(self, block: Block, reduced: "Fence") -> None:
        """Write each entry of the model or of the base; NaN of the model counts as important."""
        assert block.base is not None
        (measured,), _ = reduced.measure(block)
        take_if_not_less(block.models[0], block.base, measured, reduced.threshold, block.out)


class Fence:
    """A reduction: how important an entry has to be.

    Args:
        size: Number of elements of the tensor.
        dtype: Of importances.

    Attributes:
        passes: Passes over the data, as a rule.
        threshold: What was found.
    """

    passes = 2

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        searches = [(0, ascending(q)) for q in QUARTILES]
        self._search = Largest(searches, size, dtype, measure=self.measure, positions=False)
        self._divergences: dict[int, NDArray[np.float64]] = {}
        self.threshold = 0.0

    def measure(self, block: Block) -> Measured:
        """Return the importances as one row; the divergences of a block are computed once."""
        assert block.base is not None
        model, found = block.models[0], self._divergences.get(block.start)
        if found is None or found.size * block.unit != model.size:
            found = self._divergences[block.start] = divergences(model, block.base, block.unit)
        return importance(model, block.base, found)[None], None

    def local(self) -> Any:
        """Return what one thread counts in during one pass."""
        return self._search.local()

    def observe(self, block: Block, local: Any) -> None:
        """Take one block into account."""
        self._search.observe(block, local)

    def end_pass(self, locals_: Any) -> bool:
        """Take in what all threads saw; return whether another pass is needed."""
        return self._search.end_pass(locals_)

    def result(self) -> "Fence":
        """Return this, for `measure` and `threshold`."""
        lower, median, upper = self._search.result().magnitudes.tolist()
        self.threshold = median + 1.5 * (upper - lower)
        return self


def ascending(fraction: float) -> Rank:
    """Return what asks for all from the entry at ``int(fraction · (size - 1))`` in ascending order on."""
    return lambda size, nonzero: size - int(fraction * (size - 1)) if size else 0

"""RAM: entries that one model moved are added whole, entries that several moved are averaged."""

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.overlap import add_moved, count_moved
from graftwork.methods.base import Base, Block, MergeMethod, merge_method


class Overlap(MergeMethod):
    """What the two methods share.

    Attributes:
        epsilon: ε: an entry counts as moved where it differs from the base by more than this.
    """

    epsilon: Annotated[float, Field(ge=0)] = 1e-5

    def combine(self, block: Block, reduced: NDArray[np.float64] | None) -> None:
        """Write the base plus what was moved; `reduced` holds the factors of entries that one model moved."""
        assert block.base is not None
        factors = np.ones(len(block.models)) if reduced is None else reduced
        add_moved(block.models, block.base, self.epsilon, factors, block.out)


@merge_method("ram", reference="https://arxiv.org/abs/2601.13572", base=Base.REQUIRED)
class Ram(Overlap):
    """Add to each entry of the base the mean difference of those models that moved it.

    ::

        mᵢ     = [|xᵢ - base| > ε]
        result = base + Σ mᵢ (xᵢ - base) / Σ mᵢ          (the base where no model moved the entry)

    Reinforced Agent Merging (2026): models trained by reinforcement learning change few entries, and dividing by the number of
    all models would dilute what one of them alone has learned. mergekit's `ram` computes the same in the dtype of the sources; here
    sums are float64. Which entries are moved is decided in the dtype of the sources. ε is absolute: choose it below the changes
    that matter.
    """


@merge_method("ramplus_tl", reference="https://arxiv.org/abs/2601.13572", base=Base.REQUIRED)
class RamPlus(Overlap):
    """Merge as `ram` does, and make up in a model's own entries for what averaging took from its shared ones.

    ::

        result = base + λᵢ (xᵢ - base)                    where only model i moved the entry
                 base + Σ mᵢ (xᵢ - base) / Σ mᵢ           elsewhere, as `ram`
        λᵢ     = 1 + r min(α, ρᵢ)
        ρᵢ     = entries of the tensor that i and others moved / entries that i alone moved

    Reinforced Agent Merging plus (2026) in mergekit's form, which counts in each tensor by itself (`tl`: tensor-local) and not over
    the whole model. Counts are exact. Departures as for `ram`.

    Attributes:
        r: How much is made up for.
        alpha: α: the greatest ρ that counts.
    """

    r: Annotated[float, Field(ge=0)] = 0.1
    alpha: Annotated[float, Field(ge=0)] = 0.2

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Overlaps":
        """Ask for the numbers of entries moved together and alone."""
        return Overlaps(n_models, self.epsilon, self.r, self.alpha)


class Overlaps:
    """A reduction: λ of each model.

    Args:
        n_models: Number of models.
        epsilon: See `RamPlus`.
        r: See `RamPlus`.
        alpha: See `RamPlus`.
    """

    def __init__(self, n_models: int, epsilon: float, r: float, alpha: float) -> None:
        self._epsilon, self._r, self._alpha = epsilon, r, alpha
        self._counts: NDArray[np.int64] = np.zeros((2, n_models), np.int64)

    def local(self) -> NDArray[np.int64]:
        """Return what one thread counts in."""
        return np.zeros_like(self._counts)

    def observe(self, block: Block, local: NDArray[np.int64]) -> None:
        """Count in one block."""
        assert block.base is not None
        count_moved(block.models, block.base, self._epsilon, local)

    def end_pass(self, locals_: Any) -> bool:
        """Add the counts up; one pass is enough."""
        self._counts = np.sum(locals_, axis=0)
        return False

    def result(self) -> NDArray[np.float64]:
        """Return λ; where a model moved nothing alone, nothing is multiplied by it."""
        shared, alone = self._counts
        factors: NDArray[np.float64] = 1 + self._r * np.minimum(self._alpha, shared / np.maximum(alone, 1))
        return factors

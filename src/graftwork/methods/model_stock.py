"""Model Stock: as far from the base as the angles between fine-tunes say."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.gram import Gram, combine, gram_of_units
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, merge_method

SINGULAR = 1e-6


@merge_method("model_stock", reference="https://arxiv.org/abs/2403.19522", base=Base.REQUIRED, models=(2, None))
class ModelStock(MergeMethod):
    """Go from the base towards the mean of the models, the farther the more they agree.

    ::

        c      = mean over i < j of  τᵢ · τⱼ / (|τᵢ| |τⱼ|),        τᵢ = xᵢ - base
        t      = n c / (1 + (n - 1) c)                            (0 where |1 + (n - 1) c| < 1e-6)
        result = base + t (Σ xᵢ / n - base)

    Jang, Yun and Han (2024), who show that this is the point of the models' plane nearest to the centre that fine-tunes scatter
    around. They take the angle layer by layer; here it is one per tensor, or one per unit. Where the denominator vanishes (task vectors
    that balance out) the base is kept, and a zero task vector has cosine 0, both as in mergekit.

    From mergekit it differs in two things: there the divisor ``|τᵢ| |τⱼ|`` is at least 1e-6, so that the result of small task vectors (each
    of length 1e-3) depends on their size; and with `filter_wise`, kernels of more than two axes have one angle per unit (filter), where
    mergekit has one per run of the last axis.

    Attributes:
        filter_wise: Whether every unit (each row of a matrix in PyTorch's layout) has its own angle.
    """

    filter_wise: bool = False

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Return what holds the vectors between which angles are taken."""
        return "unit" if self.filter_wise else "block"

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram | None:
        """Ask for the lengths of the task vectors and their dot products, if a tensor is one vector."""
        return None if self.filter_wise else Gram(n_models, size, factors)

    def combine(self, block: Block, reduced: NDArray[np.float64] | None) -> None:
        """Write the base plus a part of the way."""
        if reduced is None:
            reduced = factors(gram_of_units(block.models, block.base, block.unit))
        combine(block.models, block.base, reduced, block.out)


def factors(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the factors of task vectors, shape (…, n), from their dot products, shape (…, n, n)."""
    n = gram.shape[-1]
    rows, columns = np.triu_indices(n, 1)
    lengths = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
    products = lengths[..., rows] * lengths[..., columns]
    with np.errstate(all="ignore"):
        cosines = np.where(products == 0, 0.0, np.clip(gram[..., rows, columns] / products, -1, 1))
        cosine = np.cumsum(cosines, axis=-1)[..., -1] / len(rows)
        divisor = 1 + (n - 1) * cosine
        t = np.where(np.abs(divisor) < SINGULAR, 0.0, n * cosine / divisor)
    return np.repeat(t[..., None] / n, n, axis=-1)

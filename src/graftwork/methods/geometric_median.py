"""The geometric median: a mean that far-off models cannot pull away."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.gram import Gram, combine
from graftwork.methods.base import Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum

RESOLVED = 1e-7
"""Least distance from a model, relative to the distances it is made of, that float64 tells from 0."""


@merge_method("geometric_median", reference="https://arxiv.org/abs/1912.13445")
class GeometricMedian(MergeMethod):
    """Take the point whose distances from the models have the least sum, with a tensor as one point.

    ::

        result = argmin_z Σ wᵢ |xᵢ - z|
        z      ← Σ βᵢ xᵢ / Σ βᵢ,     βᵢ = wᵢ / max(|xᵢ - z|, smoothing)       from z = Σ wᵢ xᵢ / Σ wᵢ on

    As long as models with less than half of the weight are bad, however bad (up to 1e12 times as far off as the others are apart),
    the result stays near the others. The search is Weiszfeld's (1937), as Pillutla, Kakade and Harchaoui (2022) use it to aggregate
    models of which some are corrupted. Theirs always smooths, since no β is defined at a model. Here, where `smoothing` is 0, a model
    that is the median (the others do not outweigh it) is found before the search and comes out bit for bit, and steps from one that
    is not are those of Vardi and Zhang (2000). Theirs takes all weights of a network as one point; here each tensor is one, so that a
    model may count in some and be far off in others.

    Where there is more than one median (two models of the same weight), the result is the one that the search comes to from the mean:
    there the mean itself. mergekit has no such method.

    Attributes:
        weight: How much each model counts, not negative.
        max_iter: Greatest number of steps.
        tol: Length of a step, relative to the (harmonic) mean distance from the models, below which the search ends.
        smoothing: Distance below which a model pulls no harder; what is found is then the median to within this distance.
    """

    weight: PerModel[Annotated[float, Field(ge=0)]] = 1.0
    max_iter: Annotated[int, Field(ge=0)] = 100
    tol: Annotated[float, Field(gt=0)] = 1e-6
    smoothing: Annotated[float, Field(ge=0)] = 0.0

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, True, option="")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram:
        """Ask for the distances between the models."""
        return Gram(n_models, size, self.factors, distances=True)

    def factors(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factors of the models from their squared distances."""
        weights: NDArray[np.float64] = per_model(self.weight, len(squares))
        weights /= weights.sum()
        if not np.isfinite(squares).all():
            return weights
        median = model_that_is_median(squares, weights) if self.smoothing == 0 else None
        if median is None:
            return self.search(squares, weights)
        alone: NDArray[np.float64] = np.eye(len(weights))[median]
        return alone

    def search(self, squares: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the steps lead, as a combination of the models with factors that sum to 1."""
        z = weights
        for _ in range(self.max_iter):
            mine, among = squares @ z, z @ squares @ z / 2
            distances = np.sqrt(np.maximum(mine - among, 0.0))
            met = (mine - among <= RESOLVED**2 * (mine + among)) & (self.smoothing == 0)
            pulls = np.where(met, 0.0, weights / np.maximum(distances, self.smoothing))
            total = pulls.sum()
            if total == 0:
                break
            way = pulls / total - z
            # a model that is met holds z back by its weight, against the pull of the others
            pull = total * length(way, squares)
            held = min(1.0, weights[met].sum() / pull) if met.any() and pull > 0 else 0.0
            step = (1 - held) * way
            z = z + step
            if length(step, squares) <= self.tol / total:
                break
        return z

    def combine(self, block: Block, reduced: NDArray[np.float64]) -> None:
        """Write the median's block."""
        combine(block.models, None, reduced, block.out)


def length(way: NDArray[np.float64], squares: NDArray[np.float64]) -> float:
    """Return the length of a combination of models with factors that sum to 0."""
    return math.sqrt(np.maximum(-(way @ squares @ way) / 2, 0.0))


def model_that_is_median(squares: NDArray[np.float64], weights: NDArray[np.float64]) -> int | None:
    """Return the first model that outweighs the pull of the others, Σ wᵢ (xᵢ - xₖ) / |xᵢ - xₖ|; None if there is none."""
    for k, distances in enumerate(np.sqrt(squares)):
        others = distances > 0
        pulls = np.where(others, weights / np.where(others, distances, 1.0), 0.0)
        pulls[k] -= pulls.sum()
        if length(pulls, squares) < weights[~others].sum() * (1 - RESOLVED):
            return k
    return None

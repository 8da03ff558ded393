"""The Riemannian mean of models on the sphere."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.gram import Gram, combine
from graftwork.methods.base import Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum

RESOLVED = 1e-7
"""Least angle, and least distance from opposite, that a dot product in float64 tells from 0."""


@merge_method("karcher", reference="https://arxiv.org/abs/2603.04972")
class Karcher(MergeMethod):
    """Average the directions of models along great circles, and their lengths.

    ::

        uᵢ     = xᵢ / |xᵢ|,     m = Σ wᵢ uᵢ / |Σ wᵢ uᵢ|                      to begin with
        θᵢ     = the angle between m and uᵢ
        T      = Σ wᵢ θᵢ / sin θᵢ (uᵢ - m cos θᵢ)                            the mean of the ways from m to uᵢ
        m      = m cos |T| + T sin |T| / |T|                                until |T| < tol, or `max_iter` times
        result = (Σ wᵢ |xᵢ|) m

    The mean of Karcher (1977), the point with the least sum of squared angles, with a tensor taken as one vector. Weights are
    divided by their sum. As in mergekit, zero tensors have no say in the direction, opposite ones none in T (there are many ways to
    them), and where the uᵢ balance out the first is where the search begins, and may end.

    mergekit has no weights and computes in float32; it leaves out tensors with a length up to `tol`, which is an angle,
    and so gives zeros where all are that short. A base there counts as one more model: list it among the models.

    Attributes:
        weight: How much each model counts, not negative.
        max_iter: Greatest number of steps.
        tol: Angle in radians below which a step ends the search, and below which a model is where m is.
    """

    weight: PerModel[Annotated[float, Field(ge=0)]] = 1.0
    max_iter: Annotated[int, Field(ge=0)] = 10
    tol: Annotated[float, Field(gt=0)] = 1e-5

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, True, option="")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram:
        """Ask for the lengths of the models and their dot products."""
        return Gram(n_models, size, self.factors)

    def factors(self, gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factors of the models from their dot products."""
        weights = per_model(self.weight, len(gram))
        weights /= weights.sum()
        lengths = np.sqrt(np.diagonal(gram))
        counted = np.flatnonzero(lengths * weights)
        if not counted.size or not np.isfinite(lengths).all():
            return weights
        cosines = gram[np.ix_(counted, counted)] / np.outer(lengths[counted], lengths[counted])
        mean = self.mean(cosines, weights[counted] / weights[counted].sum())
        factors = np.zeros_like(weights)
        factors[counted] = mean / lengths[counted] * (weights @ lengths)
        return factors

    def mean(self, cosines: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the mean of unit vectors as a combination of them."""

        def length(v: NDArray[np.float64]) -> float:
            return math.sqrt(np.maximum(v @ cosines @ v, 0.0))

        least = max(self.tol, RESOLVED)
        m = weights / length(weights) if length(weights) >= least else np.eye(len(weights))[0]
        for _ in range(self.max_iter):
            towards = np.clip(cosines @ m, -1, 1)
            angles = np.arccos(towards)
            pulls = np.where((angles < least) | (angles > np.pi - least), 0.0, weights / np.sinc(angles / np.pi))
            step = pulls - (pulls @ towards) * m
            size = length(step)
            if size < self.tol:
                break
            m = m * np.cos(size) + step * np.sinc(size / np.pi)
            m /= length(m)
        return m

    def combine(self, block: Block, reduced: NDArray[np.float64]) -> None:
        """Write the mean's block."""
        combine(block.models, None, reduced, block.out)

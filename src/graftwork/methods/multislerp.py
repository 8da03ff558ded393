"""Spherical interpolation between any number of models."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.gram import Gram, combine
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum

BALANCED = 1e-7
"""Length of a mean of unit vectors below which it is rounding alone: the inputs' own is 6e-8 in float32."""


@merge_method("multislerp", reference="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea", base=Base.OPTIONAL)
class MultiSlerp(MergeMethod):
    """Average the directions of several models, and their lengths, separately.

    ::

        m      = Σ wᵢ vᵢ / (|vᵢ| + eps)
        result = (Σ wᵢ |vᵢ|) m / |m|

    Goddard's barycentric interpolation on the sphere, with a tensor taken as one vector: vᵢ are the models' tensors; with a base, the task
    vectors ``xᵢ - base``, and the result is added to the base. His text goes on to a tangent space at m / |m|, where the directions
    are averaged once more; with the same weights that mean is the point of contact itself, so the formula above is all of it. Directions
    that balance out (|m| < eps, or below 1e-7 of the weights, where it is rounding) have no mean: two models are added as they are, by
    weight, more are refused, both as in mergekit. Where there is one model, or every vector is zero (mergekit fails), nothing
    has a direction, and the weighted sum is the result.

    Attributes:
        weight: Factor of each model; may be negative.
        normalize_weights: Whether to divide the weights by their sum.
        eps: Least length of m; also added to the lengths that are divided by.
    """

    weight: PerModel[float] = 1.0
    normalize_weights: bool = True
    eps: Annotated[float, Field(ge=0)] = 1e-8

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize_weights, "normalize_weights")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram:
        """Ask for the lengths of the vectors and their dot products."""
        return Gram(n_models, size, self.factors)

    def factors(self, gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factors of the vectors from their dot products.

        Raises:
            OptionError: If the directions of more than two models balance out.
        """
        weights: NDArray[np.float64] = per_model(self.weight, len(gram))
        if len(gram) == 1:
            return np.ones(1)
        if self.normalize_weights:
            weights = weights / weights.sum()
        lengths = np.sqrt(np.diagonal(gram))
        shares = np.where(lengths == 0, 0.0, weights / (lengths + self.eps))
        mean = math.sqrt(np.maximum(shares @ gram @ shares, 0.0))
        if not shares.any():
            return weights
        if mean < max(self.eps, BALANCED * np.abs(weights).sum()):
            if len(gram) == 2:
                return weights
            raise OptionError(
                f"multislerp has no mean direction for a tensor: the directions of its {len(gram)} vectors, by weights "
                f"{', '.join(f'{w:g}' for w in weights)}, sum to one of length {mean:.2g}; change a weight, "
                "leave a model out, or choose another method"
            )
        return shares * (weights @ lengths / mean)

    def combine(self, block: Block, reduced: NDArray[np.float64]) -> None:
        """Write the interpolated block."""
        combine(block.models, block.base, reduced, block.out)

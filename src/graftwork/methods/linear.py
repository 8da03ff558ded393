"""The weighted mean of models: averaging, model soups, checkpoint averaging."""

from typing import Any

import numpy as np

from graftwork.errors import OptionError
from graftwork.kernels.sums import weighted_sum
from graftwork.methods.base import Block, MergeMethod, PerModel, merge_method, per_model


@merge_method("linear", reference="https://arxiv.org/abs/2203.05482")
class Linear(MergeMethod):
    """Average models, element by element.

    ::

        result = Σ wᵢ xᵢ / Σ wᵢ        (without the division if not `normalize`)

    With equal weights this is the uniform soup of Wortsman et al. (2022). Sums are float64 and rounded once, so that a model
    averaged with itself comes out unchanged to the last bit. mergekit's `linear` computes the same; weights that sum to zero,
    which give NaN there, are refused here.

    Attributes:
        weight: Factor of each model; may be negative.
        normalize: Whether to divide by the sum of the weights.
    """

    weight: PerModel[float] = 1.0
    normalize: bool = True

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the weighted mean."""
        weights = per_model(self.weight, len(block.models))
        weighted_sum(block.models, weights, weights.sum() if self.normalize else 1.0, block.out)


def refuse_zero_sum(
    method: str, weight: PerModel[float], n_models: int, normalize: bool, option: str = "normalize"
) -> None:
    """Refuse weights whose sum is zero, as 0.1, 0.2 and -0.3 are but for rounding, if they are to be normalized.

    Args:
        method: The method's name.
        weight: The weights.
        n_models: Their number.
        normalize: Whether they are to be normalized.
        option: What says so; "" where there is no choice.

    Raises:
        OptionError: If they are.
    """
    weights = per_model(weight, n_models)
    rounding = len(weights) * np.finfo(np.float64).eps * np.abs(weights).sum()
    if normalize and abs(weights.sum()) <= rounding:
        shown = ", ".join(f"{w:g}" for w in weights)
        way_out = f" or set {option}: false" if option else ""
        raise OptionError(
            f"option 'weight' of {method} is {shown}, which sums to 0 and cannot be normalized; change a weight{way_out}"
        )

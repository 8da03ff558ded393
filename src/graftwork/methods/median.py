"""Means that a few models cannot spoil: the median and the trimmed mean."""

import math
from typing import Annotated, Any

from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.middle import mean_of_middle
from graftwork.methods.base import Block, MergeMethod, merge_method


@merge_method("median", reference="https://arxiv.org/abs/1803.01498")
class Median(MergeMethod):
    """Take the median of the models, element by element.

    ::

        result = x₍ₘ₎                        n = 2m - 1 models, x₍₁₎ ≤ … ≤ x₍ₙ₎ in order
        result = (x₍ₘ₎ + x₍ₘ₊₁₎) / 2        n = 2m models

    The coordinate-wise median of Yin et al. (2018). Fewer than half of the models cannot move it outside the range of the others. All
    models count alike. With `allow_nonfinite`, infinity is greater than every number, and an element that is NaN in any model is NaN.
    mergekit has no such method.
    """

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the median."""
        mean_of_middle(block.models, (len(block.models) - 1) // 2, block.out)


@merge_method("trimmed_mean", reference="https://arxiv.org/abs/1803.01498")
class TrimmedMean(MergeMethod):
    """Average the models, element by element, without the least and the greatest numbers.

    ::

        c      = int(trim · n)
        result = (x₍c₊₁₎ + … + x₍ₙ₋c₎) / (n - 2c)        x₍₁₎ ≤ … ≤ x₍ₙ₎ in order

    The coordinate-wise trimmed mean of Yin et al. (2018), whose β is `trim`. `trim` 0 gives the mean; a greater one that is too small
    to leave out a single one of n models is refused, as the result would be the mean too. All models count alike. With
    `allow_nonfinite`, infinity is greater than every number, and an element that is NaN in any model is NaN. mergekit has no such
    method.

    Attributes:
        trim: Fraction of the models left out at each end, in [0, 0.5).
    """

    trim: Annotated[float, Field(ge=0, lt=0.5)] = 0.25

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse a fraction that leaves out no model."""
        super().check(n_models, has_base)
        if self.trim > 0 and self._cut(n_models) == 0:
            advice = f"set it to {math.ceil(100 / n_models) / 100} or more, or to 0" if n_models > 2 else "set it to 0"
            raise OptionError(
                f"option 'trim' of {self.name} is {self.trim:g}, which leaves out none of {n_models} models; {advice} for the mean of all"
            )

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the mean of what is left."""
        mean_of_middle(block.models, self._cut(len(block.models)), block.out)

    def _cut(self, n: int) -> int:
        """Return how many models are left out at each end; 0.29 of 100 is 29, though it is a little less in binary."""
        return min(math.floor(round(self.trim * n, 9)), (n - 1) // 2)

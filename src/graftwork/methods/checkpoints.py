"""Averages of the checkpoints of one training, in their order: the exponential moving average, and the mean of every n-th one."""

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.sums import weighted_sum
from graftwork.methods.base import Block, Floats, MergeMethod, merge_method


@merge_method("ema", reference="https://arxiv.org/abs/1703.01780")
class ExponentialMovingAverage(MergeMethod):
    """Average checkpoints so that each counts `decay` times as much as the one after it.

    ::

        e₁ = x₁          eₜ = d eₜ₋₁ + (1 - d) xₜ          result = eₙ = dⁿ⁻¹ x₁ + Σ_{t>1} (1 - d) dⁿ⁻ᵗ xₜ

        with `debias`:  e₀ = 0   eₜ = d eₜ₋₁ + (1 - d) xₜ   result = eₙ / (1 - dⁿ) = Σ dⁿ⁻ᵗ xₜ / Σ dⁿ⁻ᵗ

    The moving average of weights of Tarvainen and Valpola (2017), over the models in the order of the recipe, the oldest first. It
    starts at the first checkpoint, which therefore counts 1 / (1 - d) times as much as its place says; `debias` starts at zero and
    makes up for it as Adam does (Kingma and Ba, 2015). Checkpoints lie far apart, so decays are smaller than those used after every
    step of training. mergekit has no such method.

    Attributes:
        decay: d, in [0, 1); 0 gives the last checkpoint.
        debias: Whether the first checkpoint counts only as much as its place says.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    debias: bool = False

    def statistic_weights(self, n_models: int) -> tuple[float, ...]:
        """Return the weights of the checkpoints."""
        return tuple(self._weights(n_models).tolist())

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the moving average."""
        weights = self._weights(len(block.models))
        weighted_sum(block.models, weights, weights.sum(), block.out)

    def _weights(self, n: int) -> Floats:
        """Return how much each checkpoint counts, up to a common factor."""
        weights = self.decay ** np.arange(n - 1, -1, -1, dtype=np.float64)
        if not self.debias:
            weights[1:] *= 1 - self.decay
        return weights


@merge_method("swa", reference="https://arxiv.org/abs/1803.05407")
class StochasticWeightAveraging(MergeMethod):
    """Average checkpoints from one of them on, all or every n-th.

    ::

        result = mean of x₍start₎, x₍start + every₎, x₍start + 2 every₎ …          models counted from 0

    Stochastic weight averaging of Izmailov et al. (2018), over the models in the order of the recipe, the oldest first; `every` is
    the length of the cycle of their learning rate. The statistics of BatchNorm are averaged in the same way, and have to be computed
    anew on data, as in the paper. Checkpoints that do not count are not computed with. mergekit has no such method.

    Attributes:
        start: How many checkpoints at the beginning do not count.
        every: 1 to average all from there on, 2 for every second one, and so on.
    """

    start: Annotated[int, Field(ge=0)] = 0
    every: Annotated[int, Field(ge=1)] = 1

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse a start after the last checkpoint."""
        super().check(n_models, has_base)
        if self.start >= n_models:
            raise OptionError(
                f"option 'start' of {self.name} is {self.start}, but the number of models is {n_models}, so none would count"
            )

    def statistic_weights(self, n_models: int) -> tuple[float, ...]:
        """Return 1 for the checkpoints that count and 0 for the others."""
        counts = range(self.start, n_models, self.every)
        return tuple(float(i in counts) for i in range(n_models))

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the mean of the checkpoints that count."""
        chosen = block.models[self.start :: self.every]
        weighted_sum(chosen, np.ones(len(chosen)), float(len(chosen)), block.out)

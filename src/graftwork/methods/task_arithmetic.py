"""Adding task vectors to a base."""

from typing import Any

from pydantic import Field

from graftwork.kernels.deltas import add_differences
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum


@merge_method("task_arithmetic", reference="https://arxiv.org/abs/2212.04089", base=Base.REQUIRED)
class TaskArithmetic(MergeMethod):
    """Add weighted task vectors to the base.

    ::

        result = base + λ Σ wᵢ (xᵢ - base)        (÷ Σ wᵢ if `normalize`)

    Task arithmetic of Ilharco et al. (2023); a negative weight makes the model forget a task. mergekit's `task_arithmetic`
    computes the same, with differences in the dtype of the sources; here they are float64 and the result is rounded once.
    Entries that no model moved equal the base exactly.

    Attributes:
        weight: Factor of each task vector; may be negative.
        normalize: Whether to divide by the sum of the weights.
        lambda_: λ, spelled `lambda` in recipes: how much of the merged task vector is added.
    """

    weight: PerModel[float] = 1.0
    normalize: bool = False
    lambda_: float = Field(1.0, alias="lambda")

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the task vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        factors = self.lambda_ * weights / (weights.sum() if self.normalize else 1.0)
        add_differences(block.models, block.base, factors, block.out)

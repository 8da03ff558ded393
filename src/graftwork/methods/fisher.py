"""Fisher-weighted averaging: each model counts where changing it would change what it says."""

from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.precision import weighted_by
from graftwork.methods.base import Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum

Share: TypeAlias = Annotated[float, Field(ge=0)]


@merge_method("fisher", reference="https://arxiv.org/abs/2111.09832", companion="fisher")
class Fisher(MergeMethod):
    """Average models, each element weighted by its Fisher information in each model.

    ::

        Fᵢ     = max(mean over samples of E[(∂ log p(y|x) / ∂xᵢ)²], floor)
        result = Σ wᵢ Fᵢ xᵢ / Σ wᵢ Fᵢ

    Fisher merging of Matena and Raffel (2022) with the diagonal of the Fisher information, which `graftwork fisher` estimates for each
    model from its own data. Where all are below the floor, the result is the weighted mean. The floor is there to divide by something;
    the authors' code has 10⁻⁶ and raises only the first model's Fisher information to it, so that elements which no model is sure of
    become the first model's. Here no model comes first, and the floor lies lower, since all of the Fisher information of a model that
    has learned its data can be below 10⁻⁶. Their code divides each model's by its norm over the model; say with `weight` what models
    of unlike data should count. Where the models agree, the result is theirs to the last bit. mergekit has no such method.

    Attributes:
        fisher: One file per model with its Fisher information, as `graftwork fisher` writes it.
        weight: Factor of each model's Fisher information; not negative.
        floor: What less Fisher information counts as; greater than 0.
    """

    fisher: PerModel[str] = ""
    weight: PerModel[Share] = 1.0
    floor: Annotated[float, Field(gt=0)] = 1e-12

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that are all zero."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, normalize=True)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the weighted mean.

        Raises:
            OptionError: If a companion holds what no square is.
        """
        precisions = np.stack(block.companions)
        if precisions.min(initial=0.0) < 0:
            raise OptionError("the files of option 'fisher' hold negative numbers, which Fisher information never is")
        weighted_by(block.models, precisions, per_model(self.weight, len(block.models)), self.floor, block.out)

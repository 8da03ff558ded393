"""Consensus task arithmetic: adding task vectors where several models need them."""

from typing import Annotated, Any, TypeAlias

from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.consensus import add_agreed
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model

Bound: TypeAlias = Annotated[float, Field(ge=0)]


@merge_method("consensus", reference="https://arxiv.org/abs/2405.07813", base=Base.REQUIRED)
class Consensus(MergeMethod):
    """Add up task vectors, and keep only entries of the sum that several models need.

    ::

        τᵢ      = wᵢ (xᵢ - base)          τ = Σ τᵢ
        mᵢ      = [|τᵢ| ≥ cᵢ |τ - τᵢ|]                      (`tall_lambda` is c)
        result  = base + λ · τ [Σ mᵢ ≥ k]

    Consensus task arithmetic of Wang et al. (2024) with their TALL masks mᵢ, which mark the entries where a model's own task vector
    outweighs the sum of the others. With k = 2 an entry goes that no model needs (a "catastrophic" weight) or only one (a "selfish" one);
    with k = 1 only the former go; k = 0 is task arithmetic. The paper has no weights, and chooses cᵢ from 0.2, 0.3 … 0.6 for each task on
    data; here the default is the middle. Its authors' code has > for ≥, which matters only where the two are equal. A k greater than the
    number of models, which leaves nothing but the base, is refused. With `allow_nonfinite`, NaN is never dropped. mergekit has no such
    method.

    Attributes:
        weight: Factor of each task vector; may be negative.
        tall_lambda: c: what fraction of the sum of the others a model's entry has to reach for the model to need it; not negative.
        k: How many models have to need an entry.
        lambda_: λ, spelled `lambda` in recipes: how much of the merged task vector is added.
    """

    weight: PerModel[float] = 1.0
    tall_lambda: PerModel[Bound] = 0.4
    k: Annotated[int, Field(ge=0)] = 2
    lambda_: float = Field(1.0, alias="lambda")

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse to ask for more models than there are."""
        super().check(n_models, has_base)
        if self.k > n_models:
            raise OptionError(
                f"option 'k' of {self.name} is {self.k}, but the number of models is {n_models}, so no entry would be kept"
            )

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus what is kept."""
        assert block.base is not None
        n = len(block.models)
        weights, bounds = per_model(self.weight, n), per_model(self.tall_lambda, n)
        add_agreed(block.models, block.base, weights, bounds, self.k, self.lambda_, block.out)

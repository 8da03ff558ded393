"""DARE: drop entries of task vectors at random and rescale the rest."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.deltas import add_differences
from graftwork.kernels.masks import add_kept_magnitudes, drop
from graftwork.kernels.norms import ratios
from graftwork.kernels.sums import ChunkSums
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum
from graftwork.methods.ties import Election, Fraction, add_elected
from graftwork.rng import bound


class Dare(MergeMethod):
    """What the family shares: dropping and rescaling.

    Attributes:
        density: Probability with which an entry of a task vector is kept, in (0, 1].
        weight: Factor of each task vector; may be negative.
        rescale: Whether to make up for what was dropped.
        rescale_norm: How: by 1 / density as in the paper (`density`), or so that the sum of the magnitudes of each tensor's
            task vector is what it was before (`l1`), as mergekit does.
        lambda_: λ, spelled `lambda` in recipes; 1 adds the merged task vector as it is.
    """

    density: PerModel[Fraction] = 0.5
    weight: PerModel[float] = 1.0
    rescale: bool = True
    rescale_norm: Literal["density", "l1"] = "density"
    lambda_: float = Field(1.0, alias="lambda")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "KeptNorms | None":
        """Ask for the norms before and after dropping, if they are to be the same."""
        if self.rescale and self.rescale_norm == "l1":
            return KeptNorms(per_model(self.density, n_models), size)
        return None

    def drop_and_scale(self, block: Block, norms: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Drop entries of the block's task vectors in place; return the factors that make up for it, shape (n,)."""
        assert block.base is not None
        density = per_model(self.density, len(block.models))
        for row, key, p in zip(block.models, block.keys, density, strict=True):
            if p < 1:
                drop(row, block.base, key, block.start, bound(p))
        if not self.rescale:
            return np.ones_like(density)
        if norms is None:
            return 1 / density
        return ratios(*norms)


@merge_method("dare_linear", reference="https://arxiv.org/abs/2311.03099", base=Base.REQUIRED)
class DareLinear(Dare):
    """Drop entries of the task vectors at random, rescale the rest and add them.

    ::

        result = base + λ Σ wᵢ sᵢ mᵢ (xᵢ - base)        (÷ Σ wᵢ if `normalize`)
        mᵢ ~ Bernoulli(density)         sᵢ = 1 / density, or ‖xᵢ - base‖₁ / ‖mᵢ (xᵢ - base)‖₁

    DARE of Yu et al. (2024) followed by task arithmetic. Masks are drawn by (seed, tensor name, model, position), see
    `graftwork.rng`, not from one generator in order. From mergekit it differs in the default `rescale_norm`, and in rescaling
    in float64, where half precision overflows.

    Attributes:
        normalize: Whether to divide by the sum of the weights.
    """

    normalize: bool = False

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize)

    def combine(self, block: Block, reduced: NDArray[np.float64] | None) -> None:
        """Write the base plus what is left of the task vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        factors = self.lambda_ * weights * self.drop_and_scale(block, reduced)
        add_differences(block.models, block.base, factors / (weights.sum() if self.normalize else 1.0), block.out)


@merge_method("dare_ties", reference="https://arxiv.org/abs/2311.03099", base=Base.REQUIRED)
class DareTies(Dare):
    """Drop entries of the task vectors at random, rescale the rest, and merge them as `ties` does after trimming.

    ::

        δᵢ     = sᵢ mᵢ (xᵢ - base)                            (m and s as for `dare_linear`)
        γ      = sign(Σ wᵢ δᵢ), + where that is 0
        result = base + λ Σ wᵢ δᵢ [sign(wᵢ δᵢ) = γ] / Σ wᵢ [sign(wᵢ δᵢ) = γ]

    DARE of Yu et al. (2024) in the place of the trimming in TIES, Yadav et al. (2023). Departures as for `dare_linear` and `ties`.

    Attributes:
        normalize: Whether to divide by the weights of those that agree.
        election: What elects the sign; see `ties`.
    """

    normalize: bool = True
    election: Election = "sum"

    def combine(self, block: Block, reduced: NDArray[np.float64] | None) -> None:
        """Write the base plus the elected mean."""
        assert block.base is not None
        add_elected(self, block, block.base, self.drop_and_scale(block, reduced))


class KeptNorms:
    """A reduction: ‖xᵢ - base‖₁ before and after dropping, shape (2, n)."""

    def __init__(self, density: NDArray[np.float64], size: int) -> None:
        self._bounds = [bound(p) for p in density]
        self._sums = ChunkSums(2 * len(density), size)
        self._totals: NDArray[np.float64] = np.zeros((2, len(density)))

    def local(self) -> None:
        """Return nothing: sums go to places of their own."""

    def observe(self, block: Block, local: None) -> None:
        """Sum up one block."""
        assert block.base is not None
        n = len(self._bounds)
        for i, (row, key, limit) in enumerate(zip(block.models, block.keys, self._bounds, strict=True)):
            add_kept_magnitudes(self._sums, (i, n + i), (row, block.base), key, block.start, limit)

    def end_pass(self, locals_: Any) -> bool:
        """Add the sums up; one pass is enough."""
        self._totals = self._sums.totals().reshape(2, -1)
        return False

    def result(self) -> NDArray[np.float64]:
        """Return the norms."""
        return self._totals

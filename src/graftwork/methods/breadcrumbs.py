"""Model Breadcrumbs: leave out the smallest entries of task vectors, and the very largest."""

from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels.chain import Chain
from graftwork.kernels.deltas import add_differences, keep_between
from graftwork.kernels.largest import Largest, Rank, Thresholds
from graftwork.kernels.norms import NormRatios
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum
from graftwork.methods.ties import Election, Fraction, add_elected


class Breadcrumbs(MergeMethod):
    """What the family shares: which entries stay, and rescaling.

    Attributes:
        density: Fraction of each task vector kept, in (0, 1].
        gamma: γ: fraction of each task vector left out for being too large; less where `density` would not be reached.
        weight: Factor of each task vector; may be negative.
        rescale: Whether to make the sum of the magnitudes of each tensor's task vector what it was before.
        lambda_: λ, spelled `lambda` in recipes; 1 adds the merged task vector as it is.
    """

    density: PerModel[Fraction] = 0.9
    gamma: PerModel[Annotated[float, Field(ge=0, lt=1)]] = 0.01
    weight: PerModel[float] = 1.0
    rescale: bool = False
    lambda_: float = Field(1.0, alias="lambda")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Largest | Chain | None:
        """Ask for the outliers and for what is kept of each task vector, then for the norms before and after if those matter."""
        if (per_model(self.density, n_models) == 1).all():
            return None
        fractions = list(zip(per_model(self.density, n_models), per_model(self.gamma, n_models), strict=True))
        outliers = [(i, outlying(float(d), float(g))) for i, (d, g) in enumerate(fractions)]
        largest = [(i, outlying_or_kept(float(d), float(g))) for i, (d, g) in enumerate(fractions)]
        search = Largest([*outliers, *largest], size, dtype)
        return Chain(search, partial(norm_ratios, n_models, size)) if self.rescale else search

    def trim_and_scale(self, block: Block, reduced: Any) -> NDArray[np.float64]:
        """Trim the block's task vectors in place; return the factors that make up for it, shape (n,)."""
        thresholds, scales = reduced if self.rescale and reduced is not None else (reduced, np.ones(len(block.models)))
        if thresholds is not None:
            trim_both_ends(block.models, block, thresholds)
        return scales


@merge_method("breadcrumbs", reference="https://arxiv.org/abs/2312.06795", base=Base.REQUIRED)
class BreadcrumbsLinear(Breadcrumbs):
    """Leave out the largest and the smallest entries of the task vectors and add what is left.

    ::

        result = base + λ Σ wᵢ sᵢ mᵢ (xᵢ - base)        (÷ Σ wᵢ if `normalize`)
        mᵢ     = 1 for the k entries that are largest in magnitude after the o largest of all, 0 for the others
        k      = max(1, int(density · size))        o = min(int(γ · size), size - k)
        sᵢ     = 1, or ‖xᵢ - base‖₁ / ‖mᵢ (xᵢ - base)‖₁ if `rescale`

    Model Breadcrumbs of Davari and Belilovsky (2023), tensor by tensor; in the paper's words k is what lies between the thresholds β and
    γ. Where leaving out the largest would keep fewer than `density`, smaller ones fill up, as in mergekit. From mergekit it
    differs in the default density (there 1, which leaves out nothing; 0.9 with γ = 0.01 is what its guide recommends), in
    keeping at least one entry of every tensor, in keeping exactly as many as asked among equal magnitudes (the earlier position counts
    as the larger), in float64 sums, and in rescaling small task vectors too (there not where a norm is under 10⁻⁷).

    Attributes:
        normalize: Whether to divide by the sum of the weights.
    """

    normalize: bool = False

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus what is left of the task vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        factors = self.lambda_ * weights * self.trim_and_scale(block, reduced)
        add_differences(block.models, block.base, factors / (weights.sum() if self.normalize else 1.0), block.out)


@merge_method("breadcrumbs_ties", reference="https://arxiv.org/abs/2312.06795", base=Base.REQUIRED)
class BreadcrumbsTies(Breadcrumbs):
    """Leave out the largest and the smallest entries of the task vectors, and merge the rest as `ties` does after trimming.

    ::

        δᵢ     = sᵢ mᵢ (xᵢ - base)                            (m and s as for `breadcrumbs`)
        γ      = sign(Σ wᵢ δᵢ), + where that is 0
        result = base + λ Σ wᵢ δᵢ [sign(wᵢ δᵢ) = γ]          (÷ Σ wᵢ [sign(wᵢ δᵢ) = γ] if `normalize`)

    Model Breadcrumbs of Davari and Belilovsky (2023) in the place of the trimming in TIES, Yadav et al. (2023), as in mergekit.
    Departures as for `breadcrumbs` and `ties`.

    Attributes:
        normalize: Whether to divide by the weights of those that agree.
        election: What elects the sign; see `ties`.
    """

    normalize: bool = False
    election: Election = "sum"

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the elected sum or mean."""
        assert block.base is not None
        add_elected(self, block, block.base, self.trim_and_scale(block, reduced))


def outlying(density: float, gamma: float) -> Rank:
    """Return what asks for the entries that are too large."""
    return lambda size, nonzero: min(int(gamma * size), size - max(1, int(density * size)))


def outlying_or_kept(density: float, gamma: float) -> Rank:
    """Return what asks for the entries that are too large and those that are kept."""
    outliers = outlying(density, gamma)
    return lambda size, nonzero: outliers(size, nonzero) + max(1, int(density * size))


def norm_ratios(n_models: int, size: int, thresholds: Thresholds) -> NormRatios:
    """Return the reduction that tells by how much trimming shortens each task vector."""
    return NormRatios(lambda rows, block: trim_both_ends(rows, block, thresholds), n_models, size)


def trim_both_ends(rows: NDArray[Any], block: Block, thresholds: Thresholds) -> None:
    """Set what is too large or too small in `rows`, a block's models or a copy of them, to the base's."""
    assert block.base is not None
    n = len(rows)
    cuts = thresholds.cuts(block.models, block.base, block.offset + block.start)
    ends = list(zip(thresholds.magnitudes, cuts, strict=True))
    for row, outliers, least in zip(rows, ends[:n], ends[n:], strict=True):
        keep_between(row, block.base, least, outliers)

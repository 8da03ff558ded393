"""TIES: trim, elect sign and merge."""

from functools import partial
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.chain import Chain
from graftwork.kernels.deltas import elect_and_add, trim
from graftwork.kernels.largest import Largest, Thresholds, share
from graftwork.kernels.norms import NormRatios
from graftwork.methods.base import Base, Block, MergeMethod, PerModel, merge_method, per_model

Fraction: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Election: TypeAlias = Literal["sum", "unweighted", "count"]


@merge_method("ties", reference="https://arxiv.org/abs/2306.01708", base=Base.REQUIRED)
class Ties(MergeMethod):
    """Merge task vectors ``τᵢ = xᵢ - base`` after resolving their sign conflicts.

    ::

        trim     τ̂ᵢ  = the max(1, int(density · size)) entries of τᵢ largest in magnitude, 0 elsewhere; times ‖τᵢ‖₁ / ‖τ̂ᵢ‖₁ if `rescale`
        elect    γ   = sign(Σ wᵢ τ̂ᵢ), + where that is 0
        average  τ   = Σ wᵢ τ̂ᵢ [sign(wᵢ τ̂ᵢ) = γ] / Σ wᵢ [sign(wᵢ τ̂ᵢ) = γ]
        result   base + λ · τ;  exactly the base where no entry agrees

    With equal weights and `trim="model"` this is Algorithm 1 of Yadav et al. (2023), but for γ = + where the paper leaves 0 (which matters
    only where differences cancel exactly). `trim="tensor"`, the default, trims tensor by tensor, as mergekit and most others do.

    From mergekit it differs in the default density (0.2 as in the paper; there 1), in keeping exactly as many as asked among equal
    magnitudes (earlier positions win), in float64 sums, and in rescaling small task vectors too (there not where a norm is under
    10⁻⁷). Where the weights of those that agree cancel exactly, nothing is divided, as there.

    Attributes:
        density: Fraction of each task vector kept, in (0, 1].
        weight: Factor of each task vector; may be negative.
        normalize: Whether to divide by the weights of those that agree.
        lambda_: λ, spelled `lambda` in recipes; 1 adds the merged task vector as it is.
        rescale: Whether to make the sum of the magnitudes of each tensor's task vector what it was before the trim.
        trim: Whether the largest are sought in each tensor or in the whole model.
        election: What is summed to elect the sign: the weighted entries (`sum`), the entries as in the paper (`unweighted`; then
            `sign τ̂ᵢ` has to agree), or the signs of the weighted entries (`count`).
    """

    density: PerModel[Fraction] = 0.2
    weight: PerModel[float] = 1.0
    normalize: bool = True
    lambda_: float = Field(1.0, alias="lambda")
    rescale: bool = False
    trim: Literal["tensor", "model"] = "tensor"
    election: Election = "sum"

    def scope(self) -> Literal["tensor", "model"]:
        """Return what is trimmed as a whole."""
        return self.trim

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse to make up tensor by tensor for a trim that left out whole tensors."""
        super().check(n_models, has_base)
        if self.rescale and self.trim == "model":
            raise OptionError("ties rescales tensor by tensor, so `rescale` needs `trim: tensor`")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Largest | Chain | None:
        """Ask for the largest entries of each task vector, unless all are kept, then for the norms before and after if those matter."""
        density = per_model(self.density, n_models)
        if (density == 1).all():
            return None
        search = Largest([(i, None if d == 1 else share(float(d))) for i, d in enumerate(density)], size, dtype)
        return Chain(search, partial(norm_ratios, n_models, size)) if self.rescale else search

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the elected mean."""
        assert block.base is not None
        thresholds, scales = reduced if self.rescale and reduced is not None else (reduced, 1.0)
        if thresholds is not None:
            trim_smallest(block.models, block, thresholds)
        add_elected(self, block, block.base, scales)


def norm_ratios(n_models: int, size: int, thresholds: Thresholds) -> NormRatios:
    """Return the reduction that tells by how much trimming shortens each task vector."""
    return NormRatios(lambda rows, block: trim_smallest(rows, block, thresholds), n_models, size)


def trim_smallest(rows: NDArray[Any], block: Block, thresholds: Thresholds) -> None:
    """Set what is not among the largest in `rows`, a block's models or a copy of them, to the base's."""
    assert block.base is not None
    cuts = thresholds.cuts(block.models, block.base, block.offset + block.start)
    for row, magnitude, cut in zip(rows, thresholds.magnitudes, cuts, strict=True):
        if magnitude != 0:  # nothing is smaller
            trim(row, block.base, magnitude, cut)


class Electing(Protocol):
    """The options of a method that adds those differences whose sign wins an election; see `Ties`."""

    @property
    def weight(self) -> PerModel[float]:
        """See `Ties`."""
        ...

    @property
    def normalize(self) -> bool:
        """See `Ties`."""
        ...

    @property
    def lambda_(self) -> float:
        """See `Ties`."""
        ...

    @property
    def election(self) -> Election:
        """See `Ties`."""
        ...


def add_elected(method: Electing, block: Block, base: NDArray[Any], scales: NDArray[np.float64] | float = 1.0) -> None:
    """Write the base plus the elected sum or mean of the block's differences from it, which are to be multiplied by `scales` first."""
    weights = per_model(method.weight, len(block.models))
    votes = np.ones_like(weights) if method.election == "unweighted" else weights
    elect_and_add(
        block.models,
        base,
        np.stack((votes * scales, weights * scales, weights)),
        method.lambda_,
        normalize=method.normalize,
        count=method.election == "count",
        out=block.out,
    )

"""DELLA: drop entries of task vectors at random, small ones more often, and rescale the rest."""

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.deltas import add_differences
from graftwork.kernels.norms import ratios
from graftwork.kernels.ranks import drop_where, keep_by_rank
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, PerModel, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum
from graftwork.methods.ties import Election, add_elected


class Della(MergeMethod):
    """What the family shares: dropping and rescaling.

    Attributes:
        density: Mean probability with which an entry of a task vector is kept, in (0, 1]; 1 keeps everything.
        epsilon: ε: how far the probability of the smallest entry of a unit is below `density`, and that of the largest above.
        weight: Factor of each task vector; may be negative.
        rescale: Whether to make up for what was dropped.
        rescale_norm: How: so that the sum of the magnitudes of each tensor's task vector is what it was before (`l1`), as mergekit
            does, or each entry by 1 / p, its own probability, as in the paper (`density`).
        lambda_: λ, spelled `lambda` in recipes; 1 adds the merged task vector as it is.
    """

    density: PerModel[Annotated[float, Field(gt=0, le=1)]] = 0.5
    epsilon: PerModel[Annotated[float, Field(ge=0, lt=0.5)]] = 0.15
    weight: PerModel[float] = 1.0
    rescale: bool = True
    rescale_norm: Literal["l1", "density"] = "l1"
    lambda_: float = Field(1.0, alias="lambda")

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse probabilities that are not between 0 and 1."""
        super().check(n_models, has_base)
        for p, epsilon in zip(per_model(self.density, n_models), per_model(self.epsilon, n_models), strict=True):
            if p < 1 and not 0 < p - epsilon <= p + epsilon < 1:
                raise OptionError(
                    f"option 'epsilon' of {self.name} is {epsilon:g} with a density of {p:g}, so that entries are kept with "
                    f"probabilities from {p - epsilon:g} to {p + epsilon:g}; these have to be between 0 and 1: lower epsilon"
                )

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Return that entries are ranked within units."""
        return "unit"

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return one bit per entry and model, and two sums per unit, where the norms are found in a pass of their own."""
        if not (self.rescale and self.rescale_norm == "l1"):
            return 0
        return n_models * (-(-size // 8) + 16 * (size // max(unit, 1)))

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Masks | None":
        """Ask for the masks with the norms before and after dropping, if they are to be the same."""
        if self.rescale and self.rescale_norm == "l1":
            return Masks(self.chances(n_models))
        return None

    def chances(self, n_models: int) -> list[tuple[float, float] | None]:
        """Return for each model the least probability and how far above it the greatest is; None if nothing is dropped."""
        density, epsilon = per_model(self.density, n_models), per_model(self.epsilon, n_models)
        return [(float(p - e), float(2 * e)) if p < 1 else None for p, e in zip(density, epsilon, strict=True)]

    def drop_and_scale(self, block: Block, reduced: "Masks | None") -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Drop entries of the block's task vectors in place.

        Returns:
            What is left are differences from this, shape (b,), times these factors, shape (n,).
        """
        assert block.base is not None
        n = len(block.models)
        if reduced is not None:
            for i, row in enumerate(block.models):
                reduced.drop(block, i, row)
            return block.base, reduced.scales
        for row, key, chances in zip(block.models, block.keys, self.chances(n), strict=True):
            kept = np.ones(row.size, np.bool_)
            factors = np.ones_like(row) if self.rescale else None
            if chances is not None:
                keep_by_rank(row, block.base, block.unit, (key, block.start), chances, kept, factors)
            if factors is None:
                drop_where(row, block.base, kept)
            else:
                with np.errstate(invalid="ignore", over="ignore"):
                    row -= block.base
                    row *= factors
        return (np.zeros_like(block.base) if self.rescale else block.base), np.ones(n)


@merge_method("della_linear", reference="https://arxiv.org/abs/2406.11617", base=Base.REQUIRED)
class DellaLinear(Della):
    """Drop entries of the task vectors at random, small ones more often, rescale the rest and add them.

    ::

        result = base + λ Σ wᵢ sᵢ mᵢ (xᵢ - base)        (÷ Σ wᵢ if `normalize`)
        mᵢ ~ Bernoulli(p)           p  = density - ε + rank · 2ε / (n - 1)
        sᵢ = ‖xᵢ - base‖₁ / ‖mᵢ (xᵢ - base)‖₁, or 1 / p

    MagPrune of DELLA, Deep et al. (2024), followed by task arithmetic. The rank is that of ``|xᵢ - base|`` among the n entries of a
    unit, all weights of one output (a row of a matrix in PyTorch's layout), from 0 for the smallest; of equal ones the earlier has the
    lower. A tensor of fewer than two axes is one unit, and in a unit of one p is the density. Masks are drawn by (seed, tensor name,
    model, position in the order of units), see `graftwork.rng`.

    From the paper it differs in the default `rescale_norm`, mergekit's, which needs no exact ranks and is twice as fast. From
    mergekit it differs in the default density (there 1, which drops nothing), in taking units as rows for convolutions too (there
    the second axis is ranked, whatever it means), in units of one (an error there), in rescaling small task vectors too, and in
    float64 sums.

    Attributes:
        normalize: Whether to divide by the sum of the weights.
    """

    normalize: bool = False

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that sum to zero where they are to be divided by their sum."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, self.normalize)

    def combine(self, block: Block, reduced: "Masks | None") -> None:
        """Write the base plus what is left of the task vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        origin, scales = self.drop_and_scale(block, reduced)
        factors = self.lambda_ * weights * scales / (weights.sum() if self.normalize else 1.0)
        add_differences(block.models, origin, factors, block.out)
        if origin is not block.base:
            block.out += block.base


@merge_method("della", reference="https://arxiv.org/abs/2406.11617", base=Base.REQUIRED)
class DellaTies(Della):
    """Drop entries of the task vectors at random, small ones more often, rescale the rest, and merge them as `ties` does after trimming.

    ::

        δᵢ     = sᵢ mᵢ (xᵢ - base)                            (m and s as for `della_linear`)
        γ      = sign(Σ wᵢ δᵢ), + where that is 0
        result = base + λ Σ wᵢ δᵢ [sign(wᵢ δᵢ) = γ] / Σ wᵢ [sign(wᵢ δᵢ) = γ]

    DELLA of Deep et al. (2024). Departures as for `della_linear` and `ties`.

    Attributes:
        normalize: Whether to divide by the weights of those that agree.
        election: What elects the sign; see `ties`.
    """

    normalize: bool = True
    election: Election = "sum"

    def combine(self, block: Block, reduced: "Masks | None") -> None:
        """Write the base plus the elected mean."""
        assert block.base is not None
        origin, scales = self.drop_and_scale(block, reduced)
        add_elected(self, block, origin, scales)
        if origin is not block.base:
            block.out += block.base


class Masks:
    """A reduction: which entries are kept, one bit each, and ‖xᵢ - base‖₁ divided by the same after dropping.

    Blocks have to be the same in `combine` as in the reduction's pass.

    Args:
        chances: See `Della.chances`.

    Attributes:
        scales: Shape (n,), the quotients; 1 where nothing is left.
    """

    def __init__(self, chances: list[tuple[float, float] | None]) -> None:
        self._chances = chances
        self._kept: dict[tuple[int, int], NDArray[np.uint8]] = {}
        self._sums: dict[int, NDArray[np.float64]] = {}
        self.scales: NDArray[np.float64] = np.ones(len(chances))

    def local(self) -> None:
        """Return nothing: what is found has a place of its own for each block."""

    def observe(self, block: Block, local: None) -> None:
        """Draw the masks of one block."""
        assert block.base is not None
        n, size = block.models.shape
        sums, kept = np.ones((n, 2, size // max(block.unit, 1))), np.empty(size, np.bool_)
        for i, (row, key, chances) in enumerate(zip(block.models, block.keys, self._chances, strict=True)):
            if chances is not None:
                keep_by_rank(row, block.base, block.unit, (key, block.start), chances, kept, sums=sums[i])
                self._kept[i, block.start] = np.packbits(kept)
        self._sums[block.start] = sums

    def end_pass(self, locals_: Any) -> bool:
        """Add the sums up in the order of units; one pass is enough."""
        if self._sums:
            sums = np.concatenate([self._sums[start] for start in sorted(self._sums)], axis=2)
            self.scales = ratios(*np.cumsum(sums, axis=2)[:, :, -1].T)
        self._sums = {}
        return False

    def result(self) -> "Masks":
        """Return this, for `drop` and `scales`."""
        return self

    def drop(self, block: Block, i: int, row: NDArray[Any]) -> None:
        """Set what is not kept of model i in a block to the base's, in place."""
        assert block.base is not None
        if self._chances[i] is not None:
            kept = np.unpackbits(self._kept[i, block.start], count=row.size).view(np.bool_)
            drop_where(row, block.base, kept)

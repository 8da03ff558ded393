"""Isotropic merging in the common subspace: every direction of the summed task vectors counts alike."""

from typing import Any

import numpy as np
from pydantic import Field

from graftwork.kernels import matrices
from graftwork.kernels.blas import one_thread
from graftwork.kernels.deltas import add_differences
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, PerModel, merge_method, per_model


@merge_method("iso_c", reference="https://arxiv.org/abs/2502.04959", base=Base.REQUIRED)
class IsoC(MergeMethod):
    """Add up task vectors, and give all singular values of each summed matrix their mean.

    ::

        M      = Σ wᵢ (xᵢ - base) = U Σ Vᵀ          a matrix: one row per unit of the layer
        result = base + λ · σ̄ U Vᵀ                    σ̄: the mean of the singular values
        result = base + λ / n · Σ wᵢ (xᵢ - base)    vectors and scalars: the mean

    Iso-C of Marczak et al. (2025), with sums for matrices and means for the rest as in its authors' code; λ is their α, which they
    choose on data, and weights are 1 there. Their code averages every tensor that has not exactly two axes, and an image model's
    projection to the space of texts; here a tensor of more axes (a convolution's kernel) is a matrix too, with one row per unit.
    Singular values below 10⁻⁵ of the largest count as zero: their directions stay out and σ̄ is the mean of the others, where in the
    paper's code, in float32, rounding chooses those directions. With `allow_nonfinite`, a matrix that holds NaN or infinity becomes
    NaN. mergekit has no such method.

    Attributes:
        weight: Factor of each task vector; may be negative.
        lambda_: λ, spelled `lambda` in recipes: how much of the merged task vector is added.
    """

    weight: PerModel[float] = 1.0
    lambda_: float = Field(1.0, alias="lambda")

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Matrices are seen whole."""
        return "tensor" if len(shape) > 1 else "block"

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return what a Gram matrix, its eigenvectors and some rows take."""
        side = min(unit, size // max(unit, 1))
        return 8 * (6 * side * side + 3 * min(matrices.SLAB, size))

    @one_thread()
    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the isotropic matrix, or the mean of vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        if len(block.shape) < 2 or not block.out.size:
            add_differences(block.models, block.base, self.lambda_ / len(weights) * weights, block.out)
            return
        base, out = matrices.tall(block.base, block.unit), matrices.tall(block.out, block.unit)
        models = [matrices.tall(x, block.unit) for x in block.models]

        def summed(rows: slice) -> matrices.Matrix:
            parts = (matrices.difference(x, base, w, rows) for x, w in zip(models, weights, strict=True))
            total = next(parts)
            with np.errstate(invalid="ignore"):
                for part in parts:
                    total += part
            return total

        gram = matrices.gram((summed(rows) for rows in matrices.slabs(base)), base.shape[1])
        if not np.isfinite(gram).all():
            out[:] = np.nan
            return
        turn = self.lambda_ * matrices.isotropic(gram)
        for rows in matrices.slabs(base):
            np.add(base[rows], summed(rows) @ turn, out=out[rows], casting="same_kind")

"""Task singular vectors: task matrices compressed and made orthogonal, so that they do not interfere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.kernels import matrices
from graftwork.kernels.blas import one_thread
from graftwork.kernels.deltas import add_differences
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, PerModel, merge_method, per_model


@merge_method("tsv", reference="https://arxiv.org/abs/2412.00081", base=Base.REQUIRED)
class TaskSingularVectors(MergeMethod):
    """Keep the first singular vectors of each task matrix, make those of all tasks orthogonal, and add up.

    ::

        wᵢ (xᵢ - base) = Uᵢ Σᵢ Vᵢᵀ              a matrix: one row per unit of the layer
        U = [U₁ … Uₙ], Σ, V                    the first max(1, int(r / n)) singular vectors and values of each of the n tasks
        result = base + λ · U⊥ Σ V⊥ᵀ            U⊥ = U (UᵀU)^(-1/2): the orthonormal matrix nearest to U; likewise V⊥
        result = base + λ / n · Σ wᵢ (xᵢ - base)    vectors and scalars: the mean

    r is the length of the matrix's shorter side. TSV-M of Gargiulo et al. (2025), with the mean for what is no matrix as in its
    authors' code; λ is their α, which they choose on data (about 1), and weights are 1 there. Their code averages every tensor that has
    not exactly two axes, and an image model's projection to the space of texts; here a tensor of more axes (a convolution's kernel) is
    a matrix too, with one row per unit. With more tasks than r each keeps one vector, there none. Singular values below 10⁻⁵ of the
    largest count as zero, and where the vectors of several tasks depend on each other (one model given twice) U⊥ is orthonormal within
    what they span, where in the paper's code, in float32, rounding fills up. With `allow_nonfinite`, a matrix that holds NaN or
    infinity becomes NaN. mergekit has no such method.

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
        """Return what Gram matrices, eigenvectors and some rows take."""
        side = min(unit, size // max(unit, 1))
        kept = n_models * max(side // n_models, 1)
        return 8 * (6 * side * side + 3 * side * kept + 6 * kept * kept + 5 * min(matrices.SLAB, size))

    @one_thread()
    def combine(self, block: Block, reduced: Any) -> None:
        """Write the base plus the orthogonalised sum, or the mean of vectors."""
        assert block.base is not None
        weights = per_model(self.weight, len(block.models))
        if len(block.shape) < 2 or not block.out.size:
            add_differences(block.models, block.base, self.lambda_ / len(weights) * weights, block.out)
            return
        base, out = matrices.tall(block.base, block.unit), matrices.tall(block.out, block.unit)
        tasks = [(matrices.tall(x, block.unit), w) for x, w in zip(block.models, weights, strict=True)]
        found = _first_vectors(tasks, base)
        if found is None:
            out[:] = np.nan
            return
        right, values, to_left = found

        def left(rows: slice) -> matrices.Matrix:
            parts = zip(tasks, to_left, strict=True)
            return np.concatenate([matrices.difference(x, base, w, rows) @ turn for (x, w), turn in parts], axis=1)

        between = matrices.whitening(matrices.gram((left(rows) for rows in matrices.slabs(base)), len(values)))
        between = self.lambda_ * (between * values) @ matrices.whitening(right.T @ right) @ right.T
        for rows in matrices.slabs(base):
            np.add(base[rows], left(rows) @ between, out=out[rows], casting="same_kind")


def _first_vectors(
    tasks: Sequence[tuple[NDArray[Any], float]], base: NDArray[Any]
) -> tuple[matrices.Matrix, NDArray[np.float64], list[matrices.Matrix]] | None:
    """Return V, the diagonal of Σ, and for each task what turns its matrix into its Uᵢ; None where something is not finite."""
    side = base.shape[1]
    keep = max(side // len(tasks), 1)
    right, values, to_left = [], [], []
    for x, w in tasks:
        gram = matrices.gram((matrices.difference(x, base, w, rows) for rows in matrices.slabs(base)), side)
        if not np.isfinite(gram).all():
            return None
        vectors, sizes = matrices.singular(gram)
        vectors, sizes = vectors[:, :keep], sizes[:keep]
        right.append(vectors)
        values.append(sizes)
        to_left.append(vectors / sizes)
    return np.concatenate(right, axis=1), np.concatenate(values), to_left

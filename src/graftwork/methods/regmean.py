"""Regression mean: the linear layer whose outputs are nearest to those that each model's layer gives on its own data."""

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.blas import one_thread
from graftwork.kernels.matrices import SLAB, Matrix, slabs
from graftwork.kernels.sums import weighted_sum
from graftwork.methods.base import Block, Granularity, MergeMethod, PerModel, get, merge_method, per_model
from graftwork.methods.linear import refuse_zero_sum

Share: TypeAlias = Annotated[float, Field(ge=0)]

MOST_ALPHA = 1 - 1e-5
"""Off-diagonal entries are scaled by this at most: Gram matrices of fewer samples than inputs, rounded to float32, stay regular."""


@merge_method("regmean", reference="https://arxiv.org/abs/2212.09849", companion="gram")
class RegMean(MergeMethod):
    """Merge each linear layer by least squares: its outputs come nearest to those of every model on that model's own data.

    ::

        Gᵢ     = XᵢᵀXᵢ / N                           Xᵢ: the inputs of the layer in model i, one row per sample
        G̃ᵢ     = α Gᵢ + (1 - α) diag Gᵢ
        result = Σ wᵢ xᵢ G̃ᵢ (Σ wᵢ G̃ᵢ)⁻¹             xᵢ: the weights, one row per unit of the layer
        result = Σ wᵢ xᵢ / Σ wᵢ                      tensors without Gram matrices: biases, norms, embeddings …

    RegMean of Jin et al. (2023), with their α of 0.9, which shrinks towards a mean per input. `graftwork gram` writes Gᵢ for dense
    layers and convolutions; the inputs of a convolution are the patches under its kernel. The paper sums over samples; here, as in its
    authors' code, it is the mean, so that a model of more data counts no more (say so with `weight`). Three things keep the equations
    solvable that the paper does not speak of: α is 0.99999 at most, an input that is always 0 keeps the mean of the weights, and what
    is solved for is the difference from that mean, so that equal models come out unchanged. mergekit has no such method.

    Attributes:
        gram: One file per model with Gram matrices, as `graftwork gram` writes it; which tensors it does without, the plan says.
        weight: Factor of each model's Gram matrices; not negative.
        alpha: α, how much of the Gram matrices off the diagonal counts.
    """

    gram: PerModel[str] = ""
    weight: PerModel[Share] = 1.0
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.9

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse weights that are all zero."""
        super().check(n_models, has_base)
        refuse_zero_sum(self.name, self.weight, n_models, normalize=True)

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Matrices are seen whole."""
        return "tensor" if len(shape) > 1 else "block"

    def companion_shape(self, shape: tuple[int, ...], unit: int) -> tuple[int, ...] | None:
        """A Gram matrix is over the weights of one unit; vectors have none."""
        return (unit, unit) if len(shape) > 1 else None

    def without_companion(self, n_models: int) -> MergeMethod:
        """Return the weighted mean, for tensors that the files hold no Gram matrix of."""
        return get("linear").model_validate({"weight": tuple(per_model(self.weight, n_models).tolist())})

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return what the equations, their solution and some rows take."""
        return 8 * ((n_models + 5) * unit * unit + 4 * min(SLAB, size))

    @one_thread()
    def combine(self, block: Block, reduced: Any) -> None:
        """Write the solution, or the mean where there are no Gram matrices.

        Raises:
            OptionError: If a companion is no Gram matrix.
        """
        weights = per_model(self.weight, len(block.models))
        weighted_sum(block.models, weights, weights.sum(), block.out)
        if not block.companions or not block.out.size:
            return
        turns = _turns(block.companions, weights, min(self.alpha, MOST_ALPHA))
        out = block.out.reshape(-1, block.unit)
        models = block.models.reshape(len(block.models), -1, block.unit)
        for rows in slabs(out):
            mean = out[rows].copy()
            change = np.zeros(mean.shape)
            with np.errstate(invalid="ignore"):  # infinities, which the user lets pass
                for x, turn in zip(models, turns, strict=True):
                    change += np.subtract(x[rows], mean, dtype=np.float64) @ turn
            np.add(mean, change, out=out[rows], casting="same_kind")


def _turns(grams: Sequence[NDArray[Any]], weights: NDArray[np.float64], alpha: float) -> list[Matrix]:
    """Return ``wᵢ G̃ᵢ (Σ wᵢ G̃ᵢ)⁻¹`` for each model; 0 for inputs that are always 0."""
    scaled = []
    for gram, weight in zip(grams, weights, strict=True):
        size = gram.diagonal().max(initial=0.0)
        if not np.allclose(gram, gram.T, rtol=0, atol=1e-4 * size) or gram.diagonal().min(initial=0.0) < 0:
            raise OptionError(
                "the files of option 'gram' hold matrices that are no Gram matrices; write them with `graftwork gram`"
            )
        made = gram.astype(np.float64) * (weight * alpha)
        np.fill_diagonal(made, weight * gram.diagonal().astype(np.float64))
        scaled.append(made)
    total = sum(scaled[1:], start=scaled[0].copy())
    silent = total.diagonal() == 0
    total[silent, silent] = 1.0
    try:
        return [np.linalg.solve(total, made).T for made in scaled]
    except np.linalg.LinAlgError as error:
        raise OptionError(
            "the files of option 'gram' hold matrices that are no Gram matrices: their sum cannot be inverted"
        ) from error

"""Spherical interpolation by weights: of models or of task vectors, whole or unit by unit."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.gram import Gram, combine, gram_of_units
from graftwork.methods.base import Base, Block, Granularity, MergeMethod, PerModel, merge_method, per_model

STRAIGHT = 1e-12
"""Least sin² of an angle whose great circle is followed: below, the way there is straight, or (opposite vectors) unknown."""

STRIP = 64


@merge_method(
    "nuslerp",
    reference="https://dl.acm.org/doi/10.1145/325334.325242",
    base=Base.OPTIONAL,
    models=(2, 2),
)
class NuSlerp(MergeMethod):
    """Go from one model to another along a great circle, as far as their weights say.

    ::

        t      = w₂ / (w₁ + w₂)                          (½ where the weights sum to 0)
        cos ω  = v₁ · v₂ / (|v₁| |v₂|)
        result = v₁ sin((1 - t) ω) / sin ω + v₂ sin(t ω) / sin ω

    The formula of Shoemake (1985). The vectors v are the models' tensors; with a base, the task vectors ``xᵢ - base``, and the result is
    added to the base. Vectors keep their lengths. Parallel and opposite ones (sin² ω ≤ 1e-12) are mixed along the straight line, a zero
    vector counts as perpendicular to the other, both as in mergekit.

    From mergekit it differs in that vectors shorter than 1e-7 have their own angle too, and in what a vector is in a tensor of more than
    two axes if not `nuslerp_flatten`: the weights of one unit (filter), where mergekit takes the last axis alone.

    Attributes:
        weight: How near the result is to each model.
        nuslerp_flatten: Whether a tensor is one vector. If not, each unit's weights are (each row of a matrix in PyTorch's layout).
        nuslerp_row_wise: If not `nuslerp_flatten`: whether vectors run across the units instead (each column of such a matrix).
    """

    weight: PerModel[float] = 1.0
    nuslerp_flatten: bool = True
    nuslerp_row_wise: bool = False

    def granularity(self, shape: tuple[int, ...]) -> Granularity:
        """Return what holds a whole vector."""
        if self.nuslerp_flatten:
            return "block"
        return "tensor" if self.nuslerp_row_wise and len(shape) > 1 else "unit"

    def working_bytes(self, n_models: int, size: int, unit: int) -> int:
        """Return the memory of the turned tensors, where vectors run across the units."""
        return 8 * (n_models + 2) * size if self.nuslerp_row_wise and not self.nuslerp_flatten else 0

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram | None:
        """Ask for the lengths of the two vectors and their dot product, if a tensor is one vector."""
        return Gram(n_models, size, self.factors) if self.nuslerp_flatten else None

    def factors(self, gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factors of the two vectors, shape (…, 2), from their dot products, shape (…, 2, 2)."""
        first, second = per_model(self.weight, 2)
        t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
        with np.errstate(all="ignore"):
            lengths = np.sqrt(gram[..., 0, 0]) * np.sqrt(gram[..., 1, 1])
            cos = np.where(lengths == 0, 0.0, gram[..., 0, 1] / lengths)
            curved = 1 - cos**2 > STRAIGHT
            angle = np.arccos(np.where(curved, cos, 0.0))
            ways = [np.where(curved, np.sin(s * angle) / np.sin(angle), s) for s in (1 - t, t)]
        return np.stack(ways, axis=-1)

    def combine(self, block: Block, reduced: NDArray[np.float64] | None) -> None:
        """Write the interpolated block."""
        models, base, out = block.models, block.base, block.out
        if reduced is not None:
            combine(models, base, reduced, out)
        elif not self.nuslerp_row_wise or len(block.shape) < 2:
            combine(models, base, self.factors(gram_of_units(models, base, block.unit)), out)
        else:
            units = out.size // block.unit
            turned = np.empty((4, out.size), out.dtype)
            for row, target in zip((*models, *(() if base is None else (base,))), turned, strict=False):
                turn(row, units, target)
            models, base, result = turned[:2], None if base is None else turned[2], turned[3]
            combine(models, base, self.factors(gram_of_units(models, base, units)), result)
            turn(result, block.unit, out)


def turn(matrix: NDArray[Any], rows: int, out: NDArray[Any]) -> None:
    """Write a flat matrix of so many rows column by column; in strips, whose lines of cache are written whole."""
    source, target = matrix.reshape(rows, -1), out.reshape(-1, rows)
    for first in range(0, rows, STRIP):
        target[:, first : first + STRIP] = source[first : first + STRIP].T

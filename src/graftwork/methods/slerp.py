"""Spherical interpolation between two models."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.sums import ChunkSums, weighted_sum
from graftwork.methods.base import Base, Block, MergeMethod, merge_method

NEARLY_PARALLEL = 0.9995


@merge_method("slerp", reference="https://dl.acm.org/doi/10.1145/325334.325242", base=Base.OPTIONAL, models=(1, 2))
class Slerp(MergeMethod):
    """Go a fraction `t` of the way from one tensor to another along a great circle.

    ::

        cos ω  = a · b / (|a| |b|)
        result = a sin((1 - t) ω) / sin ω + b sin(t ω) / sin ω

    The formula of Shoemake (1985), with a tensor taken as one vector. The two are the base and a model, or two models. As in mergekit, the
    angle is that of the directions but the vectors keep their lengths, and where ``|cos ω| > 0.9995``, or one of them is zero, the result
    is ``(1 - t) a + t b``.

    Attributes:
        t: 0 gives the base (or the first model), 1 the model (or the second).
    """

    t: Annotated[float, Field(ge=0, le=1)] = 0.5

    def check(self, n_models: int, has_base: bool | None = None) -> None:
        """Refuse anything but two tensors."""
        super().check(n_models, has_base)
        if has_base is not None and n_models + has_base != 2:
            found = f"{n_models} model{'s' * (n_models != 1)} and {'a' if has_base else 'no'} base"
            raise OptionError(f"slerp goes between two models, or from a base to one model, but there are {found}")

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> "Angle":
        """Ask for the lengths of the two vectors and their dot product."""
        return Angle(size)

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the interpolated block."""
        pair = block.models if block.base is None else np.stack(ends(block))
        weighted_sum(pair, np.array(reduced.coefficients(self.t)), 1.0, block.out)


class Angle:
    """A reduction: |a|², |b|² and a · b of the two tensors that are interpolated."""

    def __init__(self, size: int) -> None:
        self._sums = ChunkSums(3, size)
        self._totals: NDArray[np.float64] = np.zeros(3)

    def local(self) -> None:
        """Return nothing: sums go to places of their own."""

    def observe(self, block: Block, local: None) -> None:
        """Sum up one block."""
        a, b = ends(block)
        for row, (x, y) in enumerate(((a, a), (b, b), (a, b))):
            self._sums.add_dots(row, block.start, x, y)

    def end_pass(self, locals_: Any) -> bool:
        """Add the sums up; one pass is enough."""
        self._totals = self._sums.totals()
        return False

    def result(self) -> "Angle":
        """Return this, for `coefficients`."""
        return self

    def coefficients(self, t: float) -> tuple[float, float]:
        """Return the factors of a and b at `t`."""
        aa, bb, ab = (float(total) for total in self._totals)
        lengths = math.sqrt(aa) * math.sqrt(bb)
        cos = ab / lengths if 0 < lengths < math.inf else 1.0
        if not abs(cos) <= NEARLY_PARALLEL:
            return 1 - t, t
        angle = math.acos(cos)
        return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def ends(block: Block) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the two ends of the way: the base and the model, or the two models."""
    return (block.models[0], block.models[1]) if block.base is None else (block.base, block.models[0])

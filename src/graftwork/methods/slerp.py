"""Spherical interpolation between two models."""

import math
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from graftwork.errors import OptionError
from graftwork.kernels.gram import Gram
from graftwork.kernels.sums import weighted_sum
from graftwork.methods.base import Base, Block, MergeMethod, merge_method

NEARLY_PARALLEL = 0.9995


@merge_method("slerp", reference="https://dl.acm.org/doi/10.1145/325334.325242", base=Base.OPTIONAL, models=(1, 2))
class Slerp(MergeMethod):
    """Go a fraction `t` of the way from one tensor to another along a great circle.

    ::

        cos ω  = a · b / (|a| |b|)
        result = a sin((1 - t) ω) / sin ω + b sin(t ω) / sin ω

    The formula of Shoemake (1985), with a tensor taken as one vector. The two are the base and a model, or two models. As in mergekit, the
    angle is that of the directions but the vectors keep their lengths, and where ``|cos ω| > 0.9995`` the result is ``(1 - t) a + t b``.
    So it is where one of them is zero, which mergekit takes for perpendicular to the other.

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

    def reduction(self, n_models: int, size: int, dtype: np.dtype[Any]) -> Gram:
        """Ask for the lengths of the two vectors and their dot product."""
        return Gram(2, size, self.factors, vectors=lambda block: (ends(block), None))

    def factors(self, gram: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the factors of the two tensors."""
        lengths = math.sqrt(gram[0, 0]) * math.sqrt(gram[1, 1])
        cos = gram[0, 1] / lengths if 0 < lengths < math.inf else 1.0
        if not abs(cos) <= NEARLY_PARALLEL:
            return np.array([1 - self.t, self.t])
        angle = math.acos(cos)
        return np.array([math.sin((1 - self.t) * angle), math.sin(self.t * angle)]) / math.sin(angle)

    def combine(self, block: Block, reduced: NDArray[np.float64]) -> None:
        """Write the interpolated block."""
        weighted_sum(ends(block), reduced, 1.0, block.out)


def ends(block: Block) -> NDArray[Any]:
    """Return the two ends of the way, shape (2, b): the base and the model, or the two models."""
    return block.models if block.base is None else np.stack((block.base, block.models[0]))

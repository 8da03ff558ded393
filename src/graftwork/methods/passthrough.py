"""One model as it is, or scaled."""

from typing import Any

import numpy as np

from graftwork.kernels.sums import weighted_sum
from graftwork.methods.base import Block, MergeMethod, merge_method


@merge_method("passthrough", reference="https://github.com/arcee-ai/mergekit#passthrough", models=(1, 1))
class Passthrough(MergeMethod):
    """Return the one model there is, times `scale`.

    ::

        result = scale · x

    A scale of exactly 1 copies every bit, NaN included. As mergekit's `passthrough`.

    Attributes:
        scale: The factor.
    """

    scale: float = 1.0

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the scaled block."""
        if self.scale == 1:
            block.out[:] = block.models[0]
        else:
            weighted_sum(block.models, np.array([self.scale]), 1.0, block.out)

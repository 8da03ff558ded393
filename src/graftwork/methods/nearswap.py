"""NearSwap: the base moves towards a model, by little."""

from typing import Annotated, Any

from pydantic import Field

from graftwork.kernels.deltas import step_towards
from graftwork.methods.base import Base, Block, MergeMethod, merge_method


@merge_method(
    "nearswap",
    reference="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    base=Base.REQUIRED,
    models=(1, 1),
)
class NearSwap(MergeMethod):
    """Move each entry of the base towards the model by at most `t`.

    ::

        w      = min(1, t / max(|x - base|, 10⁻⁶))
        result = w x + (1 - w) base

    So entries nearer than `t` become the model's, to the last bit, and the others go a step of length `t`. The method of the
    QuartetAnemoi models of alchemonaut (2024), whose `t` is the default here; in mergekit, which computes the same, `t` has to be given.
    The floor 10⁻⁶ is mergekit's, and matters only for `t` below it.

    Attributes:
        t: The longest step.
    """

    t: Annotated[float, Field(ge=0)] = 1e-4

    def combine(self, block: Block, reduced: Any) -> None:
        """Write the block of the base, moved."""
        assert block.base is not None
        step_towards(block.models[0], block.base, self.t, block.out)

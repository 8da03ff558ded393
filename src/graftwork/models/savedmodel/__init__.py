"""SavedModels put together, bridged into Keras models, and their variables lifted into them.

A verb is a class in `graftwork.recipe.savedmodel`, which declares its options, and one row of `PLANS`. Planning reads the files with our own
parser (`graftwork.stores.saved_program`) and refuses what they tell; only making the result loads TensorFlow.
"""

from collections.abc import Callable

from graftwork.models.savedmodel.base import ServablePlan

__all__ = ["PLANS", "ServablePlan"]

PLANS: dict[str, Callable[..., ServablePlan]] = {}
"""How each kind of step is planned: from label and path of every source, in order, and the step's options by name."""

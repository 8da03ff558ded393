"""SavedModels put together, bridged into Keras models, and their variables lifted into them.

A verb is a class in `graftwork.recipe.savedmodel`, which declares its options, and one row of `PLANS`. Planning reads the files with our
own parser (`graftwork.stores.saved_program`) and refuses what they tell; only making the result loads TensorFlow.
"""

from collections.abc import Callable

from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.bridge import plan_bridge
from graftwork.models.savedmodel.chain import plan_chain
from graftwork.models.savedmodel.combine import plan_combine
from graftwork.models.savedmodel.ensemble import plan_ensemble
from graftwork.models.savedmodel.freezing import plan_from_frozen_graph, plan_join_frozen
from graftwork.models.savedmodel.frozen import FROZEN

__all__ = ["FROZEN", "PLANS", "ServablePlan"]

PLANS: dict[str, Callable[..., ServablePlan]] = {
    "savedmodel_bridge": plan_bridge,
    "savedmodel_chain": plan_chain,
    "savedmodel_combine": plan_combine,
    "savedmodel_ensemble": plan_ensemble,
    "savedmodel_from_frozen_graph": plan_from_frozen_graph,
    "savedmodel_join_frozen": plan_join_frozen,
}
"""How each kind of step is planned: from label and path of every source, in order, and the step's options by name."""

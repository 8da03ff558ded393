"""Which function plans which verb on checkpoints."""

from collections.abc import Callable, Mapping
from typing import Any

from graftwork.ckpt.assign import plan_assign
from graftwork.ckpt.average import plan_average
from graftwork.ckpt.selection import plan_cast, plan_drop, plan_extract, plan_rename
from graftwork.ckpt.union import plan_union
from graftwork.planning import MergePlan
from graftwork.stores.base import Reader

PLANS: dict[str, Callable[[Any, Mapping[str, Reader]], MergePlan]] = {
    "ckpt_assign": plan_assign,
    "ckpt_average": plan_average,
    "ckpt_cast": plan_cast,
    "ckpt_drop": plan_drop,
    "ckpt_extract": plan_extract,
    "ckpt_merge": plan_union,
    "ckpt_rename": plan_rename,
}
"""How each kind of step is planned: from the step and the open (or planned) input of each name."""

"""What each kind of step does: how it is planned, whether a target can take its result, how that is made.

A `Job` is a plan and what is done with it; `JOBS` says for every kind of step how its job comes about. One file for each kind of result.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from graftwork.jobs.adapters import check_adapter, plan_adapter_step
from graftwork.jobs.base import Job, LaterJob, LaterPlan, UnmadeError, reader_of
from graftwork.jobs.compositions import assembly, plan_assembly, plan_assembly_step, plan_compose_step
from graftwork.jobs.declared import check_servable, declared
from graftwork.jobs.estimates import estimated, plan_estimate_step, write_estimate
from graftwork.jobs.evaluations import plan_evaluation_step
from graftwork.jobs.merges import MergeJob, plan_merge_step
from graftwork.mergekit import plan_mergekit_step
from graftwork.recipe import STEP_KINDS, Recipe
from graftwork.recipe.checkpoints import CHECKPOINT_STEPS
from graftwork.recipe.composition import ComposeStep
from graftwork.recipe.savedmodel import SAVEDMODEL_STEPS
from graftwork.stores import Reader

__all__ = [
    "JOBS",
    "Job",
    "LaterJob",
    "LaterPlan",
    "UnmadeError",
    "assembly",
    "check_adapter",
    "check_servable",
    "declared",
    "estimated",
    "plan_assembly",
    "reader_of",
    "write_estimate",
]

JOBS: dict[str, Callable[[Any, Recipe, Mapping[str, Reader], Path], Job]] = {
    "merge": plan_merge_step,
    "assemble": plan_assembly_step,
    "mergekit": lambda step, recipe, readers, root: MergeJob(plan_mergekit_step(step, recipe, readers)),
    "evaluate": plan_evaluation_step,
    "extract_lora": plan_adapter_step,
    "fisher": plan_estimate_step,
    "gram": plan_estimate_step,
    **dict.fromkeys(
        (*CHECKPOINT_STEPS, *SAVEDMODEL_STEPS),
        lambda step, recipe, readers, root: declared(step, readers, root, recipe.custom_objects),
    ),
    **{kind: plan_compose_step for kind, step in STEP_KINDS.items() if issubclass(step, ComposeStep)},
}
"""How each kind of step is planned: from the step, its recipe, the open (or planned) input of each name, and the recipe's directory."""

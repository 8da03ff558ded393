"""Checkpoints merged by any method, without their models' code: averages of the last ones, exponential averages, task vectors."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from graftwork.planning import MergePlan, plan_merge, request_of
from graftwork.recipe.checkpoints import CkptAverage
from graftwork.stores.base import Reader
from graftwork.tensor import Role


def plan_average(step: CkptAverage, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of an average.

    Args:
        step: What is asked for.
        readers: The open checkpoints by their names.

    Raises:
        MismatchError: If they are not of one model.
        OptionError: If an option makes no sense.
    """
    plan = plan_merge(
        replace(request_of(step), lender=step.lender),
        [readers[name] for name in step.models],
        readers[step.base] if step.base is not None else None,
        companions=[readers[file] for file in step.files()],
    )
    return replace(plan, tables={"roles": _roles(plan)})


def _roles(plan: MergePlan) -> list[dict[str, Any]]:
    """Return what becomes of the tensors of each role."""
    counts: dict[tuple[str, str], int] = {}
    for step in plan.steps:
        done = step.method.name if step.method is not None else f"that of {step.labels[0]}"
        counts[str(step.spec.role), done] = counts.get((str(step.spec.role), done), 0) + 1
    if plan.dropped:
        counts[str(Role.OPTIMIZER), "dropped"] = len(plan.dropped)
    return [{"role": role, "tensors": count, "result": done} for (role, done), count in counts.items()]

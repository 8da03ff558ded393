"""Models judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.data import open_data
from graftwork.jobs.base import Job, LastJob
from graftwork.judging import JSON, EvaluationPlan, check_evaluation, write_evaluation
from graftwork.models.custom import known
from graftwork.recipe import Recipe, Step
from graftwork.recipe.training import EvaluateStep
from graftwork.stores import Reader
from graftwork.training.placing import check_device
from graftwork.writing import Progress, Result, Target


@dataclass(frozen=True, slots=True)
class EvaluationJob(LastJob):
    """Models judged; see `Job`."""

    plan: EvaluationPlan
    between: tuple[str, str] = (".json", JSON.name)

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_evaluation(self.plan, target)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_evaluation(self.plan, target, progress)


def plan_evaluation_step(step: EvaluateStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of an evaluation."""
    if step.device is not None:
        check_device(step.device)
    data = recipe.data.get(step.data, step.data) if isinstance(step.data, str) else step.data
    wishes = {name: value for name, value in step.wishes().items() if name not in ("data", "x", "y")}
    wishes["custom_objects"] = known(recipe.custom_objects, root)
    models = tuple((name, readers[name].path) for name in step.models)
    return EvaluationJob(
        EvaluationPlan(models=models, data=open_data(data, root=root, x=step.x, y=step.y), wishes=wishes)
    )

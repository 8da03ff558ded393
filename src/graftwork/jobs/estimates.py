"""What data tells of a model beside its weights."""

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.data import Samples
from graftwork.errors import OptionError
from graftwork.estimates import Estimate, EstimatePlan, Wishes, check_estimate, estimate, plan_estimate, save_estimate
from graftwork.jobs.base import Job, key_in
from graftwork.models.custom import known
from graftwork.recipe import EstimateStep, Recipe, Step
from graftwork.stores import Header, Reader
from graftwork.tensor import TensorSpec
from graftwork.writing import Progress, Result, Target, convert


@dataclass(frozen=True, slots=True)
class EstimateJob:
    """What data tells of a model; see `Job`."""

    plan: EstimatePlan
    between: tuple[str, str] = (".safetensors", "safetensors")

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_estimate(self.plan, target.path, overwrite=target.overwrite)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_estimate(self.plan, target, progress=progress)

    def header(self) -> Header | None:
        """See `Job.header`."""
        return self.plan.model.header

    def specs(self) -> Mapping[str, TensorSpec]:
        """See `Job.specs`."""
        return {spec.name: spec for spec in self.plan.specs}

    def key(self, name: str) -> str:
        """See `Job.key`."""
        return key_in(self.plan.model, name)


def estimated(plan: EstimatePlan, progress: Progress | None = None, like: Any = None) -> Estimate:
    """Return what data tells of a model's weights, by the names of its tensors.

    Args:
        plan: The plan; its model is open.
        progress: Told how far the work is.
        like: A live model whose own classes are used.
    """
    whole = len(plan.data) if isinstance(plan.data, Samples) else 0
    whole = min(whole, plan.wishes.samples or whole) or plan.wishes.samples or 0

    def count(done: int) -> None:
        if progress is not None:
            progress(f"{plan.wishes.kind}: samples", done, whole)

    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        path = plan.model.path
        if plan.model.header.format not in ("keras", "legacy_h5"):
            path = Path(folder) / "model.keras"
            convert(plan.model.path, Target(path=path))
        return estimate(plan, path, count, like)


def write_estimate(plan: EstimatePlan, target: Target, progress: Progress | None = None, like: Any = None) -> Result:
    """Run an estimate into a file; see `estimated`."""
    begin = time.perf_counter()
    if target.format not in (None, "safetensors"):
        raise OptionError(f"{plan.wishes.kind} cannot be written in format {target.format!r}")
    check_estimate(plan, target.path, overwrite=target.overwrite)
    found = estimated(plan, progress, like)
    size, notes = save_estimate(plan, found, target.path, overwrite=target.overwrite)
    return Result(
        path=target.path,
        format="safetensors",
        tensors=len(found.arrays),
        size_bytes=size,
        seconds=time.perf_counter() - begin,
        notes=(*found.notes, *notes),
    )


def plan_estimate_step(step: EstimateStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of an estimate."""
    data = recipe.data.get(step.data, step.data) if isinstance(step.data, str) else step.data
    wishes = Wishes(kind=step.kind, **{name: getattr(step, name) for name in step.options()})
    custom = known(recipe.custom_objects, root)
    return EstimateJob(plan_estimate(readers[step.model], step.model, data, wishes, root, custom))

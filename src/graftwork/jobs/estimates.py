"""What data tells of a model beside its weights."""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError
from graftwork.estimates import EstimatePlan, Wishes, check_estimate, estimate, plan_estimate, save_estimate
from graftwork.jobs.base import Job, key_in
from graftwork.models.data import Samples, samples_of
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


@contextlib.contextmanager
def estimated(
    plan: EstimatePlan, samples: Samples, progress: Progress | None = None, like: Any = None
) -> Iterator[tuple[Mapping[str, Any], tuple[str, ...]]]:
    """Yield what data tells of a model's weights, by the names of its tensors, and what the user should know.

    Args:
        plan: The plan; its model is open.
        samples: The data.
        progress: Told how far the work is.
        like: A live model whose own classes are used.
    """
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(plan.wishes.kind, done, samples.nbytes)

    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        path = plan.model.path
        if plan.model.header.format not in ("keras", "legacy_h5"):
            path = Path(folder) / "model.keras"
            convert(plan.model.path, Target(path=path))
        yield estimate(plan, path, samples, count, like)


def write_estimate(
    plan: EstimatePlan,
    target: Target,
    samples: Samples | None = None,
    progress: Progress | None = None,
    like: Any = None,
) -> Result:
    """Run an estimate into a file; see `estimated`. Without samples these are read from the plan's file."""
    begin = time.perf_counter()
    if target.format not in (None, "safetensors"):
        raise OptionError(f"{plan.wishes.kind} cannot be written in format {target.format!r}")
    check_estimate(plan, target.path, overwrite=target.overwrite)
    if samples is None:
        assert plan.data is not None
        samples = samples_of(plan.data, x=plan.wishes.x, y=plan.wishes.y, most=plan.wishes.samples)
    with estimated(plan, samples, progress, like) as (arrays, notes):
        size = save_estimate(plan, arrays, samples, target.path, overwrite=target.overwrite)
    return Result(
        path=target.path,
        format="safetensors",
        tensors=len(arrays),
        size_bytes=size,
        seconds=time.perf_counter() - begin,
        notes=notes,
    )


def plan_estimate_step(step: EstimateStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of an estimate."""
    data = root / Path(step.data).expanduser()
    if not data.is_file():
        raise StoreError(f"there is no file {data} with data")
    wishes = Wishes(kind=step.kind, **step.model_dump(exclude={"model", "data"}))
    return EstimateJob(plan_estimate(readers[step.model], step.model, data, wishes))

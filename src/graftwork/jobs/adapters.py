"""Adapters extracted from the difference of two models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.errors import OptionError
from graftwork.extraction import ExtractionPlan, Wishes, extract, plan_extraction
from graftwork.jobs.base import Job, LastJob
from graftwork.recipe import ExtractLoraStep, Recipe, Step
from graftwork.stores import Reader
from graftwork.stores.lora import ADAPTER
from graftwork.stores.staged import check_target
from graftwork.writing import Progress, Result, Target


@dataclass(frozen=True, slots=True)
class AdapterJob(LastJob):
    """The extraction of an adapter; see `Job`."""

    plan: ExtractionPlan
    between: tuple[str, str] = ("", ADAPTER.name)

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_adapter(self.plan, target)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_adapter(self.plan, target, progress)


def check_adapter(plan: ExtractionPlan, target: Target) -> None:
    """Refuse a target that cannot take an adapter.

    Raises:
        OutputError: With the reason.
        OptionError: If the target asks for another format.
    """
    if target.format not in (None, ADAPTER.name):
        raise OptionError(f"an adapter cannot be written in format {target.format!r}")
    check_target(target.path, ADAPTER, plan.sources, overwrite=target.overwrite)


def write_adapter(plan: ExtractionPlan, target: Target, progress: Progress | None = None) -> Result:
    """Run the plan of an extraction into an adapter."""
    check_adapter(plan, target)
    found = extract(plan, target.path, overwrite=target.overwrite, progress=progress)
    return Result(
        path=found.path,
        format=ADAPTER.name,
        tensors=len(found.tensors),
        size_bytes=found.size_bytes,
        seconds=found.seconds,
        notes=found.notes,
    )


def plan_adapter_step(step: ExtractLoraStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of the extraction of an adapter."""
    wishes = Wishes(**step.model_dump(exclude={"model", "base"}))
    return AdapterJob(plan_extraction(readers[step.base], readers[step.model], wishes, (step.base, step.model)))

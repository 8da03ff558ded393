"""Steps on checkpoints and SavedModels."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from graftwork.ckpt import plans
from graftwork.ckpt.lift import compared, plan_lift
from graftwork.errors import OptionError, OutputError, StoreError
from graftwork.jobs.base import LastJob, PlannedReader, UnmadeError
from graftwork.jobs.merges import MergeJob
from graftwork.models import savedmodel
from graftwork.models.custom import Custom, known
from graftwork.models.savedmodel import FROZEN, ServablePlan
from graftwork.recipe import Step
from graftwork.recipe.checkpoints import CheckpointStep
from graftwork.recipe.declared import DeclaredStep
from graftwork.recipe.savedmodel import SavedmodelLift
from graftwork.stores import FORMATS, Format, Reader, label_of
from graftwork.stores.staged import Staged, check_target, free_bytes
from graftwork.writing import Progress, Result, Target


@dataclass(frozen=True, slots=True)
class ServableJob(LastJob):
    """Something made of SavedModels; see `Job`."""

    plan: ServablePlan

    @property
    def between(self) -> tuple[str, str]:
        """Return ending and format."""
        row = _row(self.plan)
        return (row.suffixes[0] if row.suffixes else ""), row.name

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_servable(self.plan, target)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_servable(self.plan, target, progress)


def _row(plan: ServablePlan) -> Format:
    return FROZEN if plan.format == FROZEN.name else FORMATS[plan.format]


def _servable_row(plan: ServablePlan, target: Target) -> Format:
    row = _row(plan)
    if target.format not in (None, row.name):
        raise OptionError(f"the result of {plan.kind} is written as {row.name}, not as {target.format!r}")
    if row.suffixes and not target.path.name.endswith(row.suffixes):
        raise OutputError(f"the target {target.path} must end in {' or '.join(row.suffixes)}")
    return row


def check_servable(plan: ServablePlan, target: Target) -> None:
    """Refuse a target that cannot take what is made of SavedModels.

    Raises:
        OutputError: With the reason.
        OptionError: If the target asks for another format.
    """
    row = _servable_row(plan, target)
    check_target(target.path, row, [*(path for _, path in plan.sources), *plan.files], overwrite=target.overwrite)
    free = free_bytes(target.path)
    if free < plan.size_bytes:
        raise OutputError(f"{target.path.parent} has {free:,} bytes free, but the result needs {plan.size_bytes:,}")


def write_servable(plan: ServablePlan, target: Target, progress: Progress | None = None) -> Result:
    """Make something of SavedModels: complete and looked at, or not at all."""
    begin = time.perf_counter()
    check_servable(plan, target)
    row = _servable_row(plan, target)
    if progress is not None:
        progress(plan.kind, 0, plan.size_bytes)
    with Staged(target.path, row, overwrite=target.overwrite) as staged:
        notes = plan.make(staged.path)
        staged.commit()
    if progress is not None:
        progress(plan.kind, plan.size_bytes, plan.size_bytes)
    files = [f for f in target.path.rglob("*") if f.is_file()] if target.path.is_dir() else [target.path]
    return Result(
        path=target.path,
        format=row.name,
        tensors=0,
        size_bytes=sum(file.stat().st_size for file in files),
        seconds=time.perf_counter() - begin,
        notes=(*plan.notes, *notes, *staged.notes),
        tables=plan.tables,
    )


def declared(
    step: DeclaredStep, readers: Mapping[str, Reader], root: Path = Path(), custom_objects: Custom | None = None
) -> MergeJob | ServableJob:
    """Return the job of a step on checkpoints or SavedModels.

    Args:
        step: What is asked for.
        readers: The open (or planned) input of each name.
        root: What its paths are relative to.
        custom_objects: What a model refers to and Keras does not know.

    Raises:
        GraftworkError: If it cannot be done.
        UnmadeError: If it can only be told once an earlier step has been made.
    """
    custom = known(custom_objects, root) if step.loads else {}
    if isinstance(step, SavedmodelLift):
        return MergeJob(plan_lift(step, readers), lambda reader: compared(step, readers[step.source], reader, custom))
    if isinstance(step, CheckpointStep):
        return MergeJob(plans.PLANS[step.kind](step, readers))
    sources = [(label, _directory(step.kind, label, readers[label])) for label in step.inputs()]
    for name in step.paths:
        given = getattr(step, name)
        found = [root / Path(path).expanduser() for path in ((given,) if isinstance(given, str) else given)]
        sources += [(label_of(path), path) for path in found]
    wishes = step.wishes(root) | ({"custom_objects": custom} if step.loads else {})
    return ServableJob(savedmodel.PLANS[step.kind](sources, **wishes))


def _directory(kind: str, label: str, reader: Reader) -> Path:
    """Return where a SavedModel lies whose program is read."""
    if not isinstance(reader, PlannedReader):
        return reader.path
    if reader.makes not in ("saved_model", ""):
        raise StoreError(
            f"step {label!r} makes a {reader.makes} model, and {kind} takes SavedModels; list it under `outputs`, `graftwork export` it, "
            "and go on from there in a recipe of its own"
        )
    raise UnmadeError(label)

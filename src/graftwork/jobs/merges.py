"""Merges of weights, and those whose statistics are re-estimated on data before they take their name."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graftwork.composing import Source, plan_composition, write_composition
from graftwork.data import open_data
from graftwork.errors import OutputError
from graftwork.jobs.base import Job, key_in
from graftwork.models.custom import known
from graftwork.planning import REPAIR, MergePlan, plan_merge, request_of
from graftwork.recipe import MergeStep, Recipe, Step
from graftwork.stores import FORMATS, Header, Reader, format_for_target, open_store
from graftwork.tensor import TensorSpec
from graftwork.training.verbs.recalibrate import Recalibrate
from graftwork.writing import Progress, Result, Target, row_of, write_merge


@dataclass(frozen=True, slots=True)
class MergeJob:
    """A merge, and how its result is looked at before it takes its name; see `Job`."""

    plan: MergePlan
    look: Callable[[Reader], Sequence[str]] | None = None

    @property
    def between(self) -> tuple[str, str]:
        """Return ending and format of the first model."""
        row = FORMATS[self.plan.lender.header.format]
        return (row.suffixes[0] if row.suffixes else ""), row.name

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        row_of(self.plan, target)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_merge(self.plan, target, step.settings(), progress, verb=step.kind, look=self.look)

    def header(self) -> Header | None:
        """See `Job.header`."""
        return self.plan.lender.header

    def specs(self) -> Mapping[str, TensorSpec]:
        """See `Job.specs`."""
        return {spec.name: spec for spec in self.plan.specs}

    def key(self, name: str) -> str:
        """See `Job.key`."""
        return key_in(self.plan.lender, name)


@dataclass(frozen=True, slots=True)
class RepairedJob:
    """A merge whose statistics are re-estimated on data before it takes its name; see `Job`."""

    merge: MergeJob
    verb: Recalibrate
    custom_objects: Mapping[str, Any] = field(default_factory=dict)
    between: tuple[str, str] = (".keras", "keras")

    @property
    def plan(self) -> MergePlan:
        """Return the plan of the merge."""
        told = f"BatchNormalization gets new statistics from {len(self.verb.data):,} samples of {self.verb.data.name} afterwards"
        notes = [note for note in self.merge.plan.notes if REPAIR not in note]
        return replace(self.merge.plan, notes=(*notes, told))

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        self.merge.check(target)
        row = format_for_target(target.path, self.merge.plan.lender, target.format)
        if not row.holds_architecture:
            raise OutputError(f"{target.path} holds weights alone; a model that is recalibrated ends in .keras")

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            path = Path(folder) / f"{target.path.stem}.keras"
            merged = self.merge.write(Target(path=path, threads=target.threads), step, progress)
            with open_store(path) as reader:
                plan = plan_composition(self.verb, [Source(name=path.stem, reader=reader)], self.custom_objects)
                result = write_composition(plan, target, progress, settings=step.settings())
        notes = [note for note in merged.notes if REPAIR not in note]
        return replace(result, notes=(*notes, *result.notes))

    def header(self) -> Header | None:
        """See `Job.header`."""
        return self.merge.header()

    def specs(self) -> Mapping[str, TensorSpec]:
        """See `Job.specs`."""
        return self.merge.specs()

    def key(self, name: str) -> str:
        """See `Job.key`."""
        return self.merge.key(name)


def plan_merge_step(step: MergeStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of a merge."""
    models, base = [readers[name] for name in step.models], readers[step.base] if step.base is not None else None
    companions = [readers[file] for file in step.files()]
    classes = {name: recipe.models[name].classes for name in step.inputs() if name in recipe.models}
    request = request_of(step, {name: known for name, known in classes.items() if known is not None})
    merge = MergeJob(plan_merge(request, models, base, companions=companions))
    if step.recalibrate is None:
        return merge
    data = (
        recipe.data.get(step.recalibrate, step.recalibrate) if isinstance(step.recalibrate, str) else step.recalibrate
    )
    verb = Recalibrate(data=open_data(data, root=root))
    lender, custom = Source(name=step.models[0], reader=models[0]), known(recipe.custom_objects, root)
    # what it would refuse of the result, it refuses of the model that lends the architecture
    plan_composition(verb, [lender], custom)
    return RepairedJob(merge, verb, custom)

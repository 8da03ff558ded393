"""Graphs made of graphs, trained ones too, and models put together from runs of layers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.assembly import plan_assemble_step
from graftwork.compose.assemble import Assemble, Run
from graftwork.compose.naming import Names
from graftwork.composing import CompositionPlan, Source, check_composition, plan_composition, write_composition
from graftwork.errors import MismatchError, OptionError
from graftwork.jobs.base import Job, PlannedReader, UnmadeError
from graftwork.jobs.merges import MergeJob
from graftwork.models.custom import known
from graftwork.recipe import AssembleStep, Recipe, Step
from graftwork.recipe.composition import ComposeStep
from graftwork.stores import Header, Reader
from graftwork.tensor import TensorSpec
from graftwork.training.fed import Fed
from graftwork.writing import Progress, Result, Target


@dataclass(frozen=True, slots=True)
class ComposeJob:
    """A composition of graphs, what its result is exported as, and what the record says of it; see `Job`."""

    plan: CompositionPlan
    export: str | None = None
    settings: Mapping[str, Any] | None = None
    between: tuple[str, str] = (".keras", "keras")

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_composition(self.plan, target, self.export)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_composition(self.plan, target, progress, export=self.export, settings=self.settings)

    def header(self) -> Header | None:
        """See `Job.header`."""
        return Header(
            format="keras", architecture=self.plan.architecture(), config=self.plan.config, config_kind="keras3"
        )

    def specs(self) -> Mapping[str, TensorSpec]:
        """See `Job.specs`; the result is made once with other weights to know what its tensors will be called."""
        return self.plan.specs()

    def key(self, name: str) -> str:
        """Return the name; where Keras will put it is only known once it is written."""
        return name


def plan_compose_step(step: ComposeStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of a composition.

    Raises:
        UnmadeError: If it can only be told once an earlier step has been made.
    """
    taken = Names()
    sources = [
        Source(
            name=taken.fresh(name),
            reader=readers[name],
            classes=recipe.models[name].classes if name in recipe.models else None,
            role=role,
        )
        for role, name in step.models
    ]
    verb = step.verb.below(root)
    if isinstance(verb, Fed):
        verb = verb.given(recipe.data, root)
    for role, name in step.models:
        reader = readers[name]
        if role in verb.served and isinstance(reader, PlannedReader) and reader.makes == "saved_model":
            raise UnmadeError(name)  # a program that the verb reads
    plan = plan_composition(verb, sources, known(recipe.custom_objects, root))
    return ComposeJob(plan, step.export, step.settings())


def plan_assembly_step(step: AssembleStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of a model made of layers of others."""
    names = dict.fromkeys(step.inputs())
    classes = {name: recipe.models[name].classes for name in names if name in recipe.models}
    sources = [Source(name=name, reader=readers[name], classes=classes.get(name)) for name in names]
    return plan_assembly(step, sources, known(recipe.custom_objects, root))


def assembly(step: AssembleStep, sources: Sequence[Source]) -> Assemble | None:
    """Return what makes a model of blocks of graphs, where the models have an architecture of Keras; None where they are weights alone.

    Args:
        step: What is asked for.
        sources: The models, by the names that the step calls them.

    Raises:
        MismatchError: If there are models of both kinds.
        OptionError: If an option is for the other kind.
    """
    graphs = [source.name for source in sources if source.reader is None or source.reader.header.architecture]
    if not graphs:
        if step.block is not None:
            raise OptionError(
                f"block={step.block!r} tells blocks of Keras models; layers of weights alone are numbered"
            )
        return None
    bare = [source.name for source in sources if source.name not in graphs]
    if bare:
        raise MismatchError(
            f"{graphs[0]} is a Keras model, and {bare[0]} holds weights alone",
            advice="layers are put together from models of one kind",
        )
    if step.dtype is not None:
        raise OptionError(f"dtype={step.dtype}: layers of Keras models keep theirs; convert the result")
    return Assemble(
        layers=[Run(run.model, *run.range, run.scale) for run in step.layers],
        block=step.block,
        ignore=list(step.ignore),
        allow_nonfinite=step.allow_nonfinite,
    )


def plan_assembly(
    step: AssembleStep, sources: Sequence[Source], custom_objects: Mapping[str, Any] | None = None
) -> MergeJob | ComposeJob:
    """Return the job of a model made of layers of others.

    Args:
        step: What is asked for.
        sources: The models, by the names that the step calls them.
        custom_objects: Classes and functions of the models that Keras does not know, by name.

    Raises:
        GraftworkError: If they do not go together.
    """
    verb = assembly(step, sources)
    if verb is not None:
        return ComposeJob(plan_composition(verb, sources, custom_objects), settings=step.settings())
    readers = {source.name: source.reader for source in sources if source.reader is not None}
    return MergeJob(plan_assemble_step(step, None, readers))

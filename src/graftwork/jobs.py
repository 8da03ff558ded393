"""What each kind of step does: how it is planned, whether a target can take its result, how that is made.

A `Job` is a plan and what is done with it; `JOBS` says for every kind of step how its job comes about.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from graftwork import ckpt
from graftwork.assembly import plan_assemble_step
from graftwork.ckpt.lift import compared, plan_lift
from graftwork.compose.assemble import Assemble, Run
from graftwork.compose.naming import Names
from graftwork.composing import CompositionPlan, Source, check_composition, plan_composition, write_composition
from graftwork.data import open_data
from graftwork.errors import GraftworkError, MismatchError, OptionError, OutputError, StoreError
from graftwork.estimates import EstimatePlan, check_estimate, estimate, plan_estimate, save_estimate
from graftwork.estimates import Wishes as EstimateWishes
from graftwork.extraction import ExtractionPlan, Wishes, extract, plan_extraction
from graftwork.judging import JSON, EvaluationPlan, check_evaluation, write_evaluation
from graftwork.mergekit import plan_mergekit_step
from graftwork.models import savedmodel
from graftwork.models.data import Samples, samples_of
from graftwork.models.savedmodel import FROZEN, ServablePlan
from graftwork.planning import REPAIR, MergePlan, MergeRequest, check_output, plan_merge
from graftwork.recipe import STEP_KINDS, AssembleStep, EstimateStep, ExtractLoraStep, MergeStep, Recipe, Step
from graftwork.recipe.checkpoints import CHECKPOINT_STEPS, CheckpointStep
from graftwork.recipe.composition import ComposeStep
from graftwork.recipe.declared import DeclaredStep
from graftwork.recipe.merge import Merging
from graftwork.recipe.savedmodel import SAVEDMODEL_STEPS, SavedmodelLift
from graftwork.recipe.training import EvaluateStep
from graftwork.stores import FORMATS, Format, Header, Reader, format_for_target, label_of, open_store
from graftwork.stores.lora import ADAPTER
from graftwork.stores.staged import Staged, check_target, free_bytes
from graftwork.stores.tf_checkpoint import Lender, Text
from graftwork.stores.tf_graph import pruned
from graftwork.stores.tf_protos import Node, parse_graph
from graftwork.tensor import TensorSpec
from graftwork.training.verbs.recalibrate import Recalibrate
from graftwork.writing import Progress, Result, Target, convert, distinct, write_merge


class Job(Protocol):
    """A step that has been planned.

    Attributes:
        plan: What it will do.
        between: Ending and format of its result where no output is wanted and other steps use it.
    """

    @property
    def plan(self) -> Any:
        """Return the plan."""

    @property
    def between(self) -> tuple[str, str]:
        """Return ending and format."""

    def check(self, target: Target) -> None:
        """Refuse a target that cannot take the result."""

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """Make the result and write it."""

    def header(self) -> Header | None:
        """Return what the result will say of itself, None where it is nothing that other steps can use."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the tensors that the result will hold."""

    def key(self, name: str) -> str:
        """Return the key that a tensor will have in the result's file."""


class PlannedReader:
    """The result of a step that has been planned but not made: its specs and header, no values.

    Args:
        name: Name of the step.
        job: What it will do.
        header: What its result will say of itself.
    """

    is_planned = True

    def __init__(self, name: str, job: Job, header: Header) -> None:
        self.path = Path(name)
        self.header = replace(header, files=(), provenance=None, notes=())
        self._job = job
        self._specs: Mapping[str, TensorSpec] | None = None

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec; the job finds them out once, for a composition takes a while to."""
        if self._specs is None:
            self._specs = self._job.specs()
        return self._specs

    def key(self, name: str) -> str:
        """Return the key that the tensor will have."""
        return self._job.key(name)

    def read_into(self, name: str, start: int, out: Any) -> None:
        """Refuse: there are no values yet."""
        raise GraftworkError(f"step {self.path} has been planned, not run; its tensor {name!r} has no values")

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "PlannedReader":
        return self

    def __exit__(self, *_: object) -> None: ...


class PlannedCheckpoint(PlannedReader):
    """A checkpoint of TensorFlow that has been planned but not made: it lends objects and texts already.

    Args:
        name: Name of the step.
        job: What it will do.
        header: What its result will say of itself.
        lender: Where its objects and texts come from.
    """

    def __init__(self, name: str, job: Job, header: Header, lender: Lender) -> None:
        super().__init__(name, job, header)
        self._lender = lender
        self.texts: Mapping[str, Text] = lender.texts
        keys = [*map(self.key, self.specs()), *lender.texts]
        self.nodes: tuple[Node, ...] = parse_graph(pruned(lender.nodes, keys)) if lender.nodes else ()

    def code(self, name: str) -> int | None:
        """Return TensorFlow's number of a tensor's type, None where it is not known."""
        before = self._lender.specs().get(name)
        return self._lender.code(name) if before and before.dtype == self.specs()[name].dtype else None


def reader_of(name: str, job: Job, header: Header) -> PlannedReader:
    """Return what stands for a step's result while later steps are planned."""
    lender = job.plan.lender if isinstance(job, MergeJob) else None
    if header.format == "tf_checkpoint" and isinstance(lender, Lender):
        return PlannedCheckpoint(name, job, header, lender)
    return PlannedReader(name, job, header)


# Merges ----------------------------------------------------------------------------------------------------------------


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
        row = format_for_target(target.path, self.plan.lender, target.format)
        check_output(self.plan, target.path, row, overwrite=target.overwrite)

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
        return _key_in(self.plan.lender, name)


def _key_in(like: Reader, name: str) -> str:
    """Return the key of a tensor in a source of the same layout; its name, where the source does not have it."""
    return like.key(name) if name in like.specs() else name


def request_of(step: Merging, recipe: Recipe | None = None) -> MergeRequest:
    """Return what a recipe's step asks for."""
    classes: dict[str, Sequence[str]] = {}
    for name in step.inputs():
        if recipe is not None and name in recipe.models and recipe.models[name].classes is not None:
            classes[name] = recipe.models[name].classes or ()
    return MergeRequest(
        method=step.method,
        options=step.options,
        labels=distinct(step.models),
        base_label=step.base,
        seed=step.seed,
        dtype=step.dtype,
        map=step.map,
        skip=step.skip,
        ignore=step.ignore,
        classes=classes or None,
        allow_nonfinite=step.allow_nonfinite,
        optimizer=step.optimizer,
    )


@dataclass(frozen=True, slots=True)
class RepairedJob:
    """A merge whose statistics are re-estimated on data before it takes its name; see `Job`."""

    merge: MergeJob
    verb: Recalibrate
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
                plan = plan_composition(self.verb, [Source(name=path.stem, reader=reader)])
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


class LastJob:
    """A job whose result is nothing that later steps can use: an adapter, a servable, figures."""

    __slots__ = ()

    def header(self) -> Header | None:
        """Return None."""
        return None

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return nothing."""
        return {}

    def key(self, name: str) -> str:
        """Return the name."""
        return name


# Adapters --------------------------------------------------------------------------------------------------------------


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


# Estimates -------------------------------------------------------------------------------------------------------------


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
        return _key_in(self.plan.model, name)


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


# Compositions ----------------------------------------------------------------------------------------------------------


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


# SavedModels -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServableJob(LastJob):
    """Something made of SavedModels; see `Job`."""

    plan: ServablePlan
    between: tuple[str, str] = ("", "")

    def check(self, target: Target) -> None:
        """See `Job.check`."""
        check_servable(self.plan, target)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """See `Job.write`."""
        return write_servable(self.plan, target, progress)


def _servable_row(plan: ServablePlan, target: Target) -> Format:
    row = FROZEN if plan.format == FROZEN.name else FORMATS[plan.format]
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
        notes=(*plan.notes, *notes),
        tables=plan.tables,
    )


# From steps to jobs ----------------------------------------------------------------------------------------------------


def _merge(step: MergeStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    models, base = [readers[name] for name in step.models], readers[step.base] if step.base is not None else None
    companions = [readers[file] for file in step.files()]
    merge = MergeJob(plan_merge(request_of(step, recipe), models, base, companions=companions))
    if step.recalibrate is None:
        return merge
    data = (
        recipe.data.get(step.recalibrate, step.recalibrate) if isinstance(step.recalibrate, str) else step.recalibrate
    )
    verb = Recalibrate(data=open_data(data, root=root))
    lender = Source(name=step.models[0], reader=models[0])
    plan_composition(
        verb, [lender]
    )  # what it would refuse of the result, it refuses of the model that lends the architecture
    return RepairedJob(merge, verb)


def _assemble(step: AssembleStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    names = dict.fromkeys(step.inputs())
    classes = {name: recipe.models[name].classes for name in names if name in recipe.models}
    return plan_assembly(step, [Source(name=name, reader=readers[name], classes=classes.get(name)) for name in names])


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


def _extract_lora(step: ExtractLoraStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    wishes = Wishes(**step.model_dump(exclude={"model", "base"}))
    return AdapterJob(plan_extraction(readers[step.base], readers[step.model], wishes, (step.base, step.model)))


def _estimate(step: EstimateStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    data = root / Path(step.data).expanduser()
    if not data.is_file():
        raise StoreError(f"there is no file {data} with data")
    wishes = EstimateWishes(kind=step.kind, **step.model_dump(exclude={"model", "data"}))
    return EstimateJob(plan_estimate(readers[step.model], step.model, data, wishes))


def _compose(step: ComposeStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
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
    given = {name: getattr(step.verb, name) for name in step.verb.fed}
    opened = {
        name: open_data(recipe.data.get(value, value) if isinstance(value, str) else value, root=root)
        for name, value in given.items()
        if value is not None
    }
    verb = step.verb.model_copy(update=opened) if opened else step.verb
    return ComposeJob(plan_composition(verb, sources), step.export, step.settings())


def declared(step: DeclaredStep, readers: Mapping[str, Reader], root: Path = Path()) -> MergeJob | ServableJob:
    """Return the job of a step on checkpoints or SavedModels.

    Args:
        step: What is asked for.
        readers: The open (or planned) input of each name.
        root: What its paths are relative to.

    Raises:
        GraftworkError: If it cannot be done.
    """
    if isinstance(step, SavedmodelLift):
        return MergeJob(plan_lift(step, readers), lambda reader: compared(step, readers[step.source], reader))
    if isinstance(step, CheckpointStep):
        return MergeJob(ckpt.PLANS[step.kind](step, readers))
    sources = [(label, readers[label].path) for label in step.inputs()]
    for name in step.paths:
        given = getattr(step, name)
        found = [root / Path(path).expanduser() for path in ((given,) if isinstance(given, str) else given)]
        sources += [(label_of(path), path) for path in found]
    return ServableJob(savedmodel.PLANS[step.kind](sources, **step.wishes(root)))


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


def _evaluate(step: EvaluateStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    data = recipe.data.get(step.data, step.data) if isinstance(step.data, str) else step.data
    wishes = {name: value for name, value in step.wishes().items() if name != "data"}
    models = tuple((name, readers[name].path) for name in step.models)
    return EvaluationJob(EvaluationPlan(models=models, data=open_data(data, root=root), wishes=wishes))


JOBS: dict[str, Callable[[Any, Recipe, Mapping[str, Reader], Path], Job]] = {
    "merge": _merge,
    "assemble": _assemble,
    "mergekit": lambda step, recipe, readers, root: MergeJob(plan_mergekit_step(step, recipe, readers)),
    "evaluate": _evaluate,
    "extract_lora": _extract_lora,
    "fisher": _estimate,
    "gram": _estimate,
    **dict.fromkeys(
        (*CHECKPOINT_STEPS, *SAVEDMODEL_STEPS), lambda step, recipe, readers, root: declared(step, readers, root)
    ),
    **{kind: _compose for kind, step in STEP_KINDS.items() if issubclass(step, ComposeStep)},
}
"""How each kind of step is planned: from the step, its recipe, the open (or planned) input of each name, and the recipe's directory."""

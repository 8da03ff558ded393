"""From sources to a finished file: opens, plans, executes, checks and moves into place; and a recipe's steps, one after the other.

Nothing here decides what is right (`graftwork.planning` does) or how it is computed (`graftwork.executor` does). It holds the
order in which things happen, so that whatever fails and whenever, sources stay as they are and no half-written result is left.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork import provenance
from graftwork.assembly import plan_assemble_step
from graftwork.errors import GraftworkError, MismatchError, OptionError, OutputError, StoreError
from graftwork.estimates import EstimatePlan, check_estimate, estimate, plan_estimate, save_estimate
from graftwork.estimates import Wishes as EstimateWishes
from graftwork.extraction import ExtractionPlan, Wishes, extract, plan_extraction
from graftwork.mergekit import plan_mergekit_step
from graftwork.methods import get
from graftwork.methods.options import Place, companion_files
from graftwork.models.data import Samples, samples_of
from graftwork.pairing import Source
from graftwork.planning import MergePlan, MergeRequest, Step, check_output, plan_merge
from graftwork.recipe import EstimateStep, ExtractLoraStep, MergeStep, Recipe
from graftwork.recipe import Step as RecipeStep
from graftwork.stores import FORMATS, Format, Header, Reader, format_for_target, label_of, open_store, spelling
from graftwork.stores.lora import ADAPTER
from graftwork.stores.staged import Staged, check_target
from graftwork.tensor import FLOATS, Role, TensorSpec

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes dealt with so far and bytes in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A file that was made.

    Attributes:
        path: Where it is.
        format: Its format.
        tensors: How many tensors it holds.
        size_bytes: Its size on disk.
        seconds: How long making it took.
        notes: What the user should know about it.
    """

    path: Path
    format: str
    tensors: int
    size_bytes: int
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how a result is written.

    Attributes:
        path: The file or directory.
        format: Name of the format; by default the path's ending tells.
        overwrite: Whether an existing result may be replaced.
        threads: How many threads work.
        drop_compile: Leave out how the model was compiled.
        shard_bytes: Greatest size of a shard, where the format has shards.
    """

    path: Path
    format: str | None = None
    overwrite: bool = False
    threads: int = 0
    drop_compile: bool = False
    shard_bytes: int | None = None

    def workers(self) -> int:
        """Return the number of threads: as asked, else one for each processor that this process may use."""
        if self.threads < 0:
            raise OptionError(f"threads is {self.threads}, expected at least 1")
        return self.threads or len(os.sched_getaffinity(0))

    def options(self, row: Format) -> dict[str, Any]:
        """Return the further arguments of the format's writer."""
        import inspect

        assert row.create is not None
        known = inspect.signature(row.create).parameters
        given: dict[str, Any] = {}
        for name, value in (("drop_compile", self.drop_compile), ("shard_bytes", self.shard_bytes)):
            if value:
                if name not in known:
                    raise OptionError(f"format {row.name!r} has no {name.replace('_', ' ')}")
                given[name] = value
        if "target" in known:
            given["target"] = self.path
        return given


@contextlib.contextmanager
def opened(paths: Sequence[Path]) -> Iterator[list[Reader]]:
    """Open sources in order and close them all at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(open_store(path)) for path in paths]


@contextlib.contextmanager
def companions(request: MergeRequest, root: Path = Path()) -> Iterator[list[Reader]]:
    """Open the files that tell more about the models of a merge, whose paths are relative to `root`; none for most methods."""
    files = companion_files(request.method, request.options, request.labels)
    with opened([spelling.below(root, file) for file in files]) as readers:
        yield readers


def labels_of(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a short name for each source: its file name without endings, with a number where two are the same."""
    return distinct([label_of(path) for path in paths])


def write_merge(
    plan: MergePlan,
    target: Target,
    settings: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    verb: str = "merge",
    like: Reader | None = None,
) -> Result:
    """Run a plan into a file.

    Args:
        plan: The plan; its sources are open.
        target: Where to.
        settings: What the record of the result says.
        progress: Told how far the work is.
        verb: What the record calls it.
        like: Lends architecture and places; by default the plan says.

    Raises:
        OutputError: If the target cannot be written.
        NonFiniteError: If a source holds NaN or infinity.
    """
    from graftwork.executor.local import LocalExecutor, verify_written

    begin = time.perf_counter()
    like = like or plan.lender
    row = format_for_target(target.path, like, target.format)
    if row.create is None:
        raise OutputError(f"format {row.name!r} is only read")
    check_output(plan, target.path, row, overwrite=target.overwrite, like=like)
    sources = [*zip(plan.request.labels, plan.models, strict=True)]
    if plan.base is not None:
        sources.append((plan.request.base_label or "base", plan.base))
    if plan.companions:
        kind = get(plan.request.method).companion
        sources += [
            (f"{kind} of {label}", reader) for (label, _), reader in zip(sources, plan.companions, strict=False)
        ]
        settings = {**settings, kind: [reader.path.name for reader in plan.companions]}
    total = plan.bytes_read * plan.passes
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(verb, min(done, total), total)

    with Staged(target.path, row, overwrite=target.overwrite) as staged:
        try:
            writer = row.create(
                staged.path,
                plan.specs,
                like=like,
                provenance=provenance.record(verb, settings, sources),
                **target.options(row),
            )
        except OSError as error:
            raise OutputError(f"{target.path} cannot be written: {error.strerror or error}") from error
        try:
            outcome = LocalExecutor(plan, writer, threads=target.workers(), progress=count).run()
            try:
                writer.finish()
            except OSError as error:
                raise OutputError(f"{target.path} cannot be written: {error.strerror or error}") from error
        finally:
            writer.close()
        with row.open(staged.opened_as) as reader:
            verify_written(reader, plan.specs, outcome.written, target.workers())
        staged.commit()
    if progress is not None:
        progress(verb, total, total)
    return Result(
        path=target.path,
        format=row.name,
        tensors=len(plan.specs),
        size_bytes=_size(target.path, row),
        seconds=time.perf_counter() - begin,
        notes=(*plan.notes, *outcome.notes),
    )


def _size(path: Path, row: Format) -> int:
    if path.is_dir():
        return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    if row.files_beside:
        with row.open(path) as reader:
            return reader.header.size_bytes
    return path.stat().st_size


# Convert ---------------------------------------------------------------------------------------------------------------


def plan_convert(
    source: Reader, row: Format, *, like: Reader | None = None, dtype: str | None = None
) -> tuple[MergePlan, tuple[str, ...]]:
    """Return a plan that copies a source into another format, and what the format cannot carry.

    Args:
        source: The open source.
        row: The format to write.
        like: A model of the same architecture that lends what the source does not have.
        dtype: Cast floating-point tensors to this.

    Raises:
        MismatchError: If `like` has other tensors than the source.
    """
    from graftwork.methods import get

    losses: list[str] = []
    specs = list(source.specs().values())
    keras_family = ("keras", "weights_h5", "sharded_h5", "keras_dir", "preset")
    lender = like or source
    carries_optimizer = row.name == source.header.format or (
        row.name in keras_family and source.header.format in keras_family and like is None
    )
    optimizer = [spec for spec in specs if spec.role is Role.OPTIMIZER]
    if optimizer and not carries_optimizer:
        losses.append(f"the optimizer state ({len(optimizer)} tensors)")
        specs = [spec for spec in specs if spec.role is not Role.OPTIMIZER]
    if like is not None:
        _same_tensors(source, like, specs)
    if source.header.config is not None and not row.holds_architecture:
        losses.append("the architecture")
    elif (
        _is_compiled(source) and ("legacy_h5" in (row.name, source.header.format)) and row.name != source.header.format
    ):
        losses.append("how the model was compiled")
    if source.header.assets and not row.holds_architecture:
        losses.append(f"{len(source.header.assets)} vocabularies and other assets")
    if dtype is not None and dtype not in FLOATS:
        raise OptionError(f"a result cannot have dtype {dtype!r}; choose one of {', '.join(FLOATS)}")
    cast = get("passthrough")() if dtype is not None else None
    steps = []
    for spec in specs:
        kept = spec.role in (Role.QUANTIZED, Role.OPTIMIZER)
        casts = dtype is not None and spec.dtype in FLOATS and spec.dtype != dtype and not kept
        steps.append(
            Step(
                spec=replace(spec, dtype=dtype) if casts and dtype is not None else spec,
                readers=(source,),
                labels=(lender.path.name,),
                sources=(Source(name=spec.name),),
                n_models=1,
                place=Place(spec.name, str(spec.role)),
                method=cast if casts else None,
            )
        )
    request = MergeRequest(method="passthrough", labels=(lender.path.name,), allow_nonfinite=True)
    plan = MergePlan(request=request, models=(source,), base=None, steps=tuple(steps), notes=())
    return plan, tuple(losses)


def _is_compiled(source: Reader) -> bool:
    config = source.header.config
    return source.header.format == "legacy_h5" or (isinstance(config, dict) and bool(config.get("compile_config")))


def _same_tensors(source: Reader, like: Reader, specs: Sequence[TensorSpec]) -> None:
    wanted = {name: spec for name, spec in like.specs().items() if spec.role is not Role.OPTIMIZER}
    given = {spec.name: spec for spec in specs}
    reasons = [
        f"{source.path.name} has no tensor {name!r}, which {like.path.name} has" for name in wanted if name not in given
    ]
    reasons += [
        f"tensor {name!r} of {source.path.name} is not in {like.path.name}" for name in given if name not in wanted
    ]
    reasons += [
        f"tensor {name!r} has shape {spec.shape} in {source.path.name} but {wanted[name].shape} in {like.path.name}"
        for name, spec in given.items()
        if name in wanted and wanted[name].shape != spec.shape
    ]
    if reasons:
        raise MismatchError(*reasons, advice="`like` must be a model of the same architecture and names")


def convert(
    source: Path,
    target: Target,
    *,
    like: Path | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Write a model in another format; see `graftwork.convert`."""
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(open_store(source))
        lender = stack.enter_context(open_store(like)) if like is not None else None
        row = format_for_target(target.path, lender or reader, target.format)
        plan, losses = plan_convert(reader, row, like=lender, dtype=dtype)
        settings = {
            "source": reader.path.name,
            "format": row.name,
            "dtype": dtype,
            "like": lender.path.name if lender else None,
        }
        result = write_merge(plan, target, settings, progress, verb="convert", like=lender)
    return replace(result, notes=(*result.notes, *(f"{row.name} cannot carry {loss}: left out" for loss in losses)))


# Recipes ---------------------------------------------------------------------------------------------------------------


class PlannedReader:
    """The result of a step that has been planned but not made: its specs and header, no values."""

    is_planned = True

    def __init__(self, name: str, plan: MergePlan | EstimatePlan) -> None:
        self.path = Path(name)
        self._like = plan.lender if isinstance(plan, MergePlan) else plan.model
        self.header: Header = replace(self._like.header, files=(), provenance=None, notes=())
        self._specs = {spec.name: spec for spec in plan.specs}

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec."""
        return self._specs

    def key(self, name: str) -> str:
        """Return the key that the tensor will have."""
        return self._like.key(name) if name in self._like.specs() else name

    def read_into(self, name: str, start: int, out: Any) -> None:
        """Refuse: there are no values yet."""
        raise GraftworkError(f"step {self.path} has been planned, not run; its tensor {name!r} has no values")

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "PlannedReader":
        return self

    def __exit__(self, *_: object) -> None: ...


def request_of(step: MergeStep, recipe: Recipe | None = None) -> MergeRequest:
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


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return labels with a number behind each that was there before."""
    found: list[str] = []
    for name in names:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name}#{number}"
        found.append(label)
    return tuple(found)


def plan_merge_step(step: MergeStep, recipe: Recipe, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of one merge of a recipe."""
    models, base = [readers[name] for name in step.models], readers[step.base] if step.base is not None else None
    return plan_merge(request_of(step, recipe), models, base, companions=[readers[file] for file in step.files()])


def plan_extract_step(step: ExtractLoraStep, recipe: Recipe, readers: Mapping[str, Reader]) -> ExtractionPlan:
    """Return the plan of one extraction of a recipe."""
    wishes = Wishes(**step.model_dump(exclude={"model", "base"}))
    return plan_extraction(readers[step.base], readers[step.model], wishes, (step.base, step.model))


def plan_estimate_step(step: EstimateStep, recipe: Recipe, readers: Mapping[str, Reader]) -> EstimatePlan:
    """Return the plan of one estimate of a recipe; the path of its data is still as the recipe has it."""
    wishes = EstimateWishes(kind=step.kind, **step.model_dump(exclude={"model", "data"}))
    return plan_estimate(readers[step.model], step.model, Path(step.data).expanduser(), wishes)


Plan = MergePlan | ExtractionPlan | EstimatePlan
"""What a step of a recipe will do."""

PLANNERS: dict[str, Callable[[Any, Recipe, Mapping[str, Reader]], Plan]] = {
    "merge": plan_merge_step,
    "assemble": plan_assemble_step,
    "extract_lora": plan_extract_step,
    "fisher": plan_estimate_step,
    "gram": plan_estimate_step,
    "mergekit": plan_mergekit_step,
}
"""How each kind of step is planned: from the step, its recipe, and the open (or planned) input of each name."""


@contextlib.contextmanager
def planned(recipe: Recipe, root: Path) -> Iterator[dict[str, Plan]]:
    """Plan every step of a recipe without making anything; sources stay open in the meantime."""
    with contextlib.ExitStack() as stack:
        readers: dict[str, Reader] = {}
        plans: dict[str, Plan] = {}
        for name in recipe.order():
            step = recipe.steps[name]
            for wanted in (*step.inputs(), *step.files()):
                if wanted not in readers:
                    readers[wanted] = stack.enter_context(open_store(_path(recipe, wanted, root)))
            plan = _planned(step, recipe, readers, root)
            plans[name] = plan
            if not isinstance(plan, ExtractionPlan):
                readers[name] = PlannedReader(name, plan)
        yield plans


def _planned(step: RecipeStep, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Plan:
    plan = PLANNERS[step.kind](step, recipe, readers)
    if isinstance(plan, EstimatePlan) and plan.data is not None:
        plan = replace(plan, data=root / plan.data)
        if plan.data is not None and not plan.data.is_file():
            raise StoreError(f"there is no file {plan.data} with data")
    return plan


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


def _path(recipe: Recipe, name: str, root: Path) -> Path:
    return spelling.below(root, recipe.models[name].path if name in recipe.models else name)


def run(
    recipe: Recipe, root: Path, outputs: Mapping[str, Target], progress: Progress | None = None
) -> dict[str, Result]:
    """Run a recipe.

    Args:
        recipe: What to do.
        root: Directory that its paths are relative to.
        outputs: Where results go; what is needed in between lives in a temporary directory beside the first.
        progress: Told how far each step is.

    Returns:
        One result for each output, by step.
    """
    with planned(recipe, root) as plans:
        for name, wanted in outputs.items():
            found = plans[name]
            if isinstance(found, ExtractionPlan):
                check_adapter(found, wanted)
                continue
            if isinstance(found, EstimatePlan):
                check_estimate(found, wanted.path, overwrite=wanted.overwrite)
                continue
            row = format_for_target(wanted.path, found.lender, wanted.format)
            check_output(found, wanted.path, row, overwrite=wanted.overwrite)
    needed = _needed(recipe, outputs)
    results: dict[str, Result] = {}
    first = next(iter(outputs.values()))
    with tempfile.TemporaryDirectory(prefix=".graftwork-", dir=first.path.parent) as between:
        made: dict[str, Path] = {}
        for name in recipe.order():
            if name not in needed:
                continue
            step = recipe.steps[name]
            names = list(dict.fromkeys((*step.inputs(), *step.files())))
            with opened([made.get(m) or _path(recipe, m, root) for m in names]) as readers:
                plan = _planned(step, recipe, dict(zip(names, readers, strict=True)), root)
                if isinstance(plan, ExtractionPlan):
                    results[name] = write_adapter(plan, outputs[name], _named(progress, name))
                    continue
                target = outputs.get(name)
                if isinstance(plan, EstimatePlan):
                    target = target or Target(path=Path(between) / f"{name}.safetensors")
                    result = write_estimate(plan, target, progress=_named(progress, name))
                    made[name] = target.path
                    if name in outputs:
                        results[name] = result
                    continue
                if target is None:
                    row = FORMATS[plan.lender.header.format]
                    suffix = row.suffixes[0] if row.suffixes else ""
                    target = Target(path=Path(between) / f"{name}{suffix}", format=row.name, threads=first.threads)
                result = write_merge(plan, target, step.settings(), _named(progress, name), verb=step.kind)
            made[name] = target.path
            if name in outputs:
                results[name] = result
    return results


def _named(progress: Progress | None, step: str) -> Progress | None:
    if progress is None:
        return None
    return lambda verb, done, total: progress(f"{verb} {step}", done, total)


def _needed(recipe: Recipe, outputs: Mapping[str, Target]) -> set[str]:
    needed: set[str] = set()
    left = list(outputs)
    while left:
        name = left.pop()
        if name in recipe.steps and name not in needed:
            needed.add(name)
            left += (*recipe.steps[name].inputs(), *recipe.steps[name].files())
    return needed

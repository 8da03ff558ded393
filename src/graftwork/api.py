"""What users call. Every function here is also a command and, where it makes something, a recipe's step.

A model argument is a path or a live `keras.Model`. With `output` the result is written there and its path returned; without
it a live model is returned. Sources are never changed.
"""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from graftwork import estimates, extraction, pipeline
from graftwork.assembly import plan_assemble_step
from graftwork.errors import GraftworkError, OptionError, RecipeError
from graftwork.extraction import Extraction
from graftwork.models import live
from graftwork.models.data import Data, samples_of
from graftwork.planning import MergePlan, MergeRequest, check_output
from graftwork.planning import plan_merge as _plan
from graftwork.recipe import AssembleStep, LayerRun, MergeStep, Recipe, as_name, read_recipe
from graftwork.report import measure
from graftwork.report.measure import Diff, Inspection
from graftwork.report.verification import Verification
from graftwork.report.verification import verify as _verify
from graftwork.stores import FORMATS, open_store

Model = str | PathLike[str] | Any
"""A path to a model in any format of the stores, or a live `keras.Model`."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes dealt with so far and bytes in all."""


def inspect(model: Model) -> Inspection:
    """Return what a model is, from headers alone: format, layers, parameters, dtypes, roles, tensors, provenance.

    Args:
        model: A path or a live model.

    Raises:
        StoreError: If it cannot be read.
    """
    with _on_disk([model]) as (paths, _), open_store(paths[0]) as reader:
        return measure.inspect(reader)


def diff(a: Model, b: Model, *, threads: int | None = None, progress: Progress | None = None) -> Diff:
    """Return how two models differ: structure first, then each tensor's distance, cosine, signs and largest change.

    Args:
        a: A path or a live model.
        b: Another.
        threads: How many threads read; by default one for each processor.
        progress: Told how far the work is.

    Raises:
        StoreError: If one cannot be read.
    """
    with _on_disk([a, b]) as (paths, labels), pipeline.opened(paths) as readers:
        total = sum(spec.size_bytes for reader in readers for spec in reader.specs().values())
        target = pipeline.Target(path=Path(), threads=threads or 0)
        return measure.diff(
            readers[0], readers[1], (labels[0], labels[1]), target.workers(), _counting("diff", total, progress)
        )


def merge(
    models: Sequence[Model],
    *,
    method: str = "linear",
    base: Model | None = None,
    weights: Sequence[float] | None = None,
    output: str | PathLike[str] | None = None,
    seed: int = 0,
    threads: int | None = None,
    overwrite: bool = False,
    dtype: str | None = None,
    names: Sequence[str] | None = None,
    map: Mapping[str, str] | None = None,
    skip: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    classes: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    allow_nonfinite: bool = False,
    optimizer: str = "drop",
    format: str | None = None,
    drop_compile: bool = False,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    report: list[str] | None = None,
    on_result: Callable[[pipeline.Result], None] | None = None,
    **options: Any,
) -> Any:
    """Merge the weights of models of one architecture into one model.

    Args:
        models: Paths or live models, in order; the first lends architecture, names and dtypes to the result.
        method: Name of the merge method; `graftwork methods` lists them.
        base: Their common ancestor, for methods that work on differences.
        weights: One weight per model: the method's option `weight`.
        output: Where to write; the ending says the format. Without it a live model is returned.
        seed: Fixes every random choice, together with tensor names and positions.
        threads: How many threads work; by default one for each processor. The result does not depend on it.
        overwrite: Whether an existing output may be replaced.
        dtype: The result's dtype; by default each tensor keeps the first model's.
        names: What to call the models in messages and options; by default their file names.
        map: Regular expressions over whole tensor names of the other models, and their names in the first model.
        skip: Globs (or ``re:`` expressions) over tensor names that keep the first model's values.
        ignore: Fields of layers' settings that may differ.
        classes: Class names of each model, in the order of its outputs; heads are permuted into the first model's order.
        allow_nonfinite: Whether sources may hold NaN or infinity.
        optimizer: ``"drop"`` the optimizer state, or keep that of the ``"first"`` model.
        format: Name of the output's format, where its ending does not tell.
        drop_compile: Leave out how the model was compiled.
        shard_bytes: Greatest size of a shard, for formats with shards.
        progress: Told how far the work is.
        report: A list to which what the user should know is added, one sentence each.
        on_result: Told the result as `run` and `convert` return it: path, format, size, seconds, notes.
        **options: The method's own options (``density=0.2``); a value, a list with one per model, a mapping from model names,
            or a list of ``{"filter": …, "value": …}``.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not compute the same function up to weights.
        OptionError: If an option makes no sense.
        NonFiniteError: If a source holds NaN or infinity.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    if isinstance(models, str | PathLike):
        raise OptionError("`models` is one path; give a list of models")
    with _on_disk([*models, *([base] if base is not None else [])], names) as (paths, labels):
        request = _request(
            method,
            options,
            weights,
            labels,
            base is not None,
            seed=seed,
            dtype=dtype,
            map=dict(map or {}),
            skip=_words(skip),
            ignore=_words(ignore),
            classes=classes,
            allow_nonfinite=allow_nonfinite,
            optimizer=optimizer,
        )
        with _result(output, next((m for m in models if live.is_live(m)), None)) as target_path:
            target = pipeline.Target(
                path=target_path.path,
                format=format,
                overwrite=overwrite,
                threads=threads or 0,
                drop_compile=drop_compile,
                shard_bytes=shard_bytes,
            )
            with pipeline.opened(paths) as readers, pipeline.companions(request) as companions:
                own_base = readers.pop() if base is not None else None
                plan = _plan(request, readers, own_base, companions=companions)
                result = pipeline.write_merge(plan, target, _settings(request), progress)
            if report is not None:
                report += result.notes
            if on_result is not None:
                on_result(result)
            return target_path.finish(result)


def assemble(
    layers: Sequence[tuple[Any, ...]],
    *,
    output: str | PathLike[str],
    threads: int | None = None,
    overwrite: bool = False,
    dtype: str | None = None,
    ignore: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    format: str | None = None,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
    on_result: Callable[[pipeline.Result], None] | None = None,
) -> Path:
    """Make a model of layers of others, one run of layers after the other.

    What lies before the layers (embeddings) comes from the first run's model, what lies behind them (norms, heads) from the last
    run's, configuration and tokenizer from the first. Models are Hugging Face directories or safetensors files.

    Args:
        layers: Runs in the order of the result: ``(model, first, end)`` or ``(model, first, end, scale)``; layers count from 0, `end` is
            not in the run, and a run's tensors are multiplied with `scale`.
        output: Where to write; the ending says the format.
        threads: How many threads work; by default one for each processor.
        overwrite: Whether an existing output may be replaced.
        dtype: The result's dtype; by default each tensor keeps its own.
        ignore: Fields of configurations that may differ.
        allow_nonfinite: Whether sources may hold NaN or infinity.
        format: Name of the output's format, where its ending does not tell.
        shard_bytes: Greatest size of a shard, for formats with shards.
        progress: Told how far the work is.
        on_result: Told the result as `run` and `convert` return it.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If the models do not belong together, or their layers cannot be told.
        OptionError: If a model does not have the layers that are wanted.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    for run_ in layers:
        if isinstance(run_, str | PathLike) or not 3 <= len(run_) <= 4:
            raise OptionError(
                f"{run_!r} is no run of layers; expected (model, first, end) or (model, first, end, scale)"
            )
    models: dict[Any, Model] = {_identity(run_[0]): run_[0] for run_ in layers}
    with _on_disk(list(models.values())) as (paths, labels):
        names = dict(zip(models, _distinct([as_name(label) for label in labels]), strict=True))
        runs = tuple(
            LayerRun(model=names[_identity(model)], range=(first, end), scale=scale[0] if scale else 1.0)
            for model, first, end, *scale in layers
        )
        step = AssembleStep.model_validate(
            {"layers": runs, "dtype": dtype, "ignore": _words(ignore), "allow_nonfinite": allow_nonfinite}
        )
        target = pipeline.Target(
            path=Path(output), format=format, overwrite=overwrite, threads=threads or 0, shard_bytes=shard_bytes
        )
        with pipeline.opened(paths) as readers:
            plan_ = plan_assemble_step(step, None, dict(zip(names.values(), readers, strict=True)))
            result = pipeline.write_merge(plan_, target, step.settings(), progress, verb=step.kind)
    if on_result is not None:
        on_result(result)
    return result.path


def plan_merge(
    models: Sequence[Model],
    *,
    method: str = "linear",
    base: Model | None = None,
    weights: Sequence[float] | None = None,
    output: str | PathLike[str] | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    names: Sequence[str] | None = None,
    format: str | None = None,
    **options: Any,
) -> "PlanReport":
    """Return what `merge` with the same arguments would do, reading only headers.

    Raises:
        GraftworkError: For every reason for which `merge` would refuse, but those that only values tell.
    """
    fields = {name: options.pop(name) for name in _PLAN_FIELDS if name in options}
    fields.update({k: _words(fields[k]) for k in ("skip", "ignore") if k in fields})
    with _on_disk([*models, *([base] if base is not None else [])], names) as (paths, labels):
        request = _request(method, options, weights, labels, base is not None, **fields)
        with pipeline.opened(paths) as readers, pipeline.companions(request) as companions:
            own_base = readers.pop() if base is not None else None
            plan = _plan(request, readers, own_base, companions=companions)
            target = None
            if output is not None:
                target = pipeline.Target(path=Path(output), format=format, overwrite=overwrite, threads=threads or 0)
            return _report("merge", plan, target, threads)


_PLAN_FIELDS = ("seed", "dtype", "map", "skip", "ignore", "classes", "allow_nonfinite", "optimizer")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a step would do.

    Attributes:
        step: Name of the step.
        method: Name of its method.
        models: What goes in, in order.
        base: The base model, or None.
        tensors: One row for each tensor of the result: name, shape, dtype, role, what is done and with which options, its name in each
            model, the class of its layer and its depth in the model (0 first, 1 last; None where not known).
        roles: How many tensors of each role.
        renamed: Tensors that have another name in another model.
        bytes_read: Bytes of values in one pass over the sources.
        bytes_written: Bytes of values written.
        passes: Most passes over any tensor.
        peak_bytes: Resident memory needed, interpreter included.
        free_bytes: Free disk at the target, where one is named.
        seconds: Rough estimate of the time.
        notes: What the user should know.
    """

    step: str
    method: str
    models: tuple[str, ...]
    base: str | None
    tensors: tuple[Mapping[str, Any], ...]
    roles: Mapping[str, int]
    renamed: tuple[tuple[str, str, str], ...]
    bytes_read: int
    bytes_written: int
    passes: int
    peak_bytes: int
    free_bytes: int | None
    seconds: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        from dataclasses import asdict

        return asdict(self)


def plan(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe, *, threads: int | None = None, overwrite: bool = False
) -> list[PlanReport]:
    """Return what a recipe would do, step by step, reading only headers.

    Args:
        recipe: A YAML file, a mapping that spells a recipe, or a `Recipe`.
        threads: How many threads it would use.
        overwrite: Whether existing outputs may be replaced.

    Raises:
        GraftworkError: For every reason for which `run` would refuse, but those that only values tell.
    """
    found, root = _recipe(recipe)
    with pipeline.planned(found, root) as plans:
        reports = []
        for name, step_plan in plans.items():
            target = None
            if name in found.outputs:
                target = pipeline.Target(path=root / Path(found.outputs[name]).expanduser(), overwrite=overwrite)
            if isinstance(step_plan, extraction.ExtractionPlan):
                reports.append(_report_extraction(name, step_plan, target))
            elif isinstance(step_plan, estimates.EstimatePlan):
                reports.append(_report_estimate(name, step_plan, target))
            else:
                reports.append(_report(name, step_plan, target, threads))
        return reports


def run(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe,
    *,
    output: str | PathLike[str] | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> dict[str, pipeline.Result]:
    """Run a recipe and return its results by step.

    Args:
        recipe: A YAML file, a mapping that spells a recipe, or a `Recipe`. Its paths are relative to the file (else to the
            working directory). A file or mapping of mergekit's is one, too.
        output: Where to write the last step's result, for a recipe that does not say (or says otherwise).
        threads: How many threads work.
        overwrite: Whether existing outputs may be replaced.
        shard_bytes: Greatest size of a shard of each output, for formats with shards.
        progress: Told how far each step is.

    Raises:
        RecipeError: If it is no recipe, or says nowhere what to write.
        GraftworkError: As `merge`.
    """
    found, root = _recipe(recipe)
    if output is not None:
        if len(found.outputs) > 1:
            raise RecipeError(f"the recipe has {len(found.outputs)} outputs; `output` can replace only one")
        name = next(iter(found.outputs), found.order()[-1] if found.steps else "")
        outputs = {name: Path(output)}
    else:
        outputs = {name: root / Path(path).expanduser() for name, path in found.outputs.items()}
    if not outputs or not found.steps:
        raise RecipeError("the recipe names no outputs; add `outputs: {step: path}`, or say where to write (-o)")
    if len(set(outputs.values())) != len(outputs):
        raise RecipeError("two outputs of the recipe have the same path")
    targets = {
        name: pipeline.Target(path=path, overwrite=overwrite, threads=threads or 0, shard_bytes=shard_bytes)
        for name, path in outputs.items()
    }
    return pipeline.run(found, root, targets, progress)


def convert(
    source: Model,
    target: str | PathLike[str],
    *,
    like: str | PathLike[str] | None = None,
    dtype: str | None = None,
    format: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    drop_compile: bool = False,
    shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> pipeline.Result:
    """Write a model in another format, or with another dtype.

    Args:
        source: A path or a live model.
        target: Where to write; the ending says the format.
        like: A model of the same architecture and names that lends what the source's format does not hold.
        dtype: Round floating-point tensors to this.
        format: Name of the target's format, where its ending does not tell.
        threads: How many threads work.
        overwrite: Whether an existing target may be replaced.
        drop_compile: Leave out how the model was compiled.
        shard_bytes: Greatest size of a shard, for formats with shards.
        progress: Told how far the work is.

    Returns:
        The result, whose notes say what the target's format cannot carry.

    Raises:
        OutputError: If the target cannot hold the model, exists or is the source.
        StoreError: If the source cannot be read.
    """
    with _on_disk([source]) as (paths, _):
        where = pipeline.Target(
            path=Path(target),
            format=format,
            overwrite=overwrite,
            threads=threads or 0,
            drop_compile=drop_compile,
            shard_bytes=shard_bytes,
        )
        return pipeline.convert(
            paths[0], where, like=Path(like) if like is not None else None, dtype=dtype, progress=progress
        )


def extract_lora(
    model: Model,
    *,
    base: Model,
    output: str | PathLike[str],
    rank: int = 16,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = False,
    save_rest: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Write what a fine-tuned model has learnt as a LoRA adapter of its base, which PEFT loads.

    Args:
        model: The fine-tuned model, with tensors called as in Hugging Face models.
        base: The model that it was fine-tuned from.
        output: The adapter's directory.
        rank: Greatest rank of a tensor's two factors; the more, the nearer and the larger.
        include: Globs over the names of tensors that may get factors; by default all matrices called ``….weight``.
        exclude: Globs over the names of those that get none.
        embeddings: Whether embeddings get factors too.
        save_rest: Whether what differs and gets no factors (norms, biases …) is saved whole.
        overwrite: Whether an existing adapter may be replaced.
        progress: Told how far the work is.

    Returns:
        Where it is, and for each tensor how much of its difference is in it.

    Raises:
        MismatchError: If the two are not one architecture with the same tensors, or do not differ.
        NonFiniteError: If one holds NaN or infinity.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
    """
    wishes = extraction.Wishes(
        rank=rank, include=_words(include), exclude=_words(exclude), embeddings=embeddings, save_rest=save_rest
    )
    with _on_disk([base, model]) as (paths, labels), pipeline.opened(paths) as (ours, theirs):
        plan = extraction.plan_extraction(ours, theirs, wishes, (labels[0], labels[1]))
        return extraction.extract(plan, Path(output), overwrite=overwrite, progress=progress)


def fisher(
    model: Model,
    data: Data,
    *,
    output: str | PathLike[str] | None = None,
    labels: str = "model",
    outputs: str = "auto",
    samples: int | None = None,
    batch: int = 32,
    seed: int = 0,
    x: str | Sequence[str] = "x",
    y: str = "y",
    overwrite: bool = False,
    progress: Progress | None = None,
    on_result: Callable[[pipeline.Result], None] | None = None,
) -> Any:
    """Estimate the diagonal of a model's Fisher information, for the merge method `fisher`.

    Args:
        model: A path to a Keras model, or a live one.
        data: An ``.npz`` file, inputs, a tuple of inputs and labels, or arrays by name; several inputs as a list.
        output: Where to write, a ``.safetensors`` file. Without it, arrays by the names of the model's tensors are returned.
        labels: Whose labels: all that the ``"model"`` can say, each as likely as it says; one ``"sampled"`` from what it says; or
            those of the ``"data"``.
        outputs: What the model's outputs are: ``"probabilities"`` of classes, their ``"logits"``, ``"sigmoid"`` (independent yes and no) or
            ``"regression"``; ``"auto"`` for what the last activation tells.
        samples: Use the first so many samples.
        batch: Samples dealt with at a time; fewer where their gradients would take much memory.
        seed: Fixes labels that are sampled.
        x: Name of the input in the data, or names.
        y: Name of the labels in the data.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is, in bytes of inputs.
        on_result: Told what was written.

    Returns:
        The path of the output, or the arrays.

    Raises:
        NonFiniteError: If the model makes NaN or infinity of the data.
        OptionError: If an option makes no sense, or the data do not fit.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If the model or the data cannot be read.
    """
    wishes = estimates.Wishes(
        kind="fisher", x=_words(x), y=y, samples=samples, batch=batch, labels=labels, outputs=outputs, seed=seed
    )
    return _estimate(model, data, wishes, output, overwrite=overwrite, progress=progress, on_result=on_result)


def gram(
    model: Model,
    data: Data,
    *,
    output: str | PathLike[str] | None = None,
    samples: int | None = None,
    batch: int = 32,
    max_inputs: int = 8192,
    x: str | Sequence[str] = "x",
    overwrite: bool = False,
    progress: Progress | None = None,
    on_result: Callable[[pipeline.Result], None] | None = None,
) -> Any:
    """Compute the Gram matrices of the inputs of a model's dense layers and convolutions, for the merge method `regmean`.

    Args:
        model: A path to a Keras model, or a live one.
        data: An ``.npz`` file, inputs, or arrays by name; several inputs as a list.
        output: Where to write, a ``.safetensors`` file. Without it, arrays by the names of the model's tensors are returned.
        samples: Use the first so many samples.
        batch: Samples shown at a time.
        max_inputs: Layers of more inputs, whose matrix has that many rows and columns, get none.
        x: Name of the input in the data, or names.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is, in bytes of inputs.
        on_result: Told what was written.

    Returns:
        The path of the output, or the arrays.

    Raises:
        NonFiniteError: If the model makes NaN or infinity of the data.
        OptionError: If an option makes no sense, or the data do not fit.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If the model or the data cannot be read.
    """
    wishes = estimates.Wishes(kind="gram", x=_words(x), samples=samples, batch=batch, max_inputs=max_inputs)
    return _estimate(model, data, wishes, output, overwrite=overwrite, progress=progress, on_result=on_result)


def verify(path: str | PathLike[str], *, load: bool = True, progress: Progress | None = None) -> Verification:
    """Check a file thoroughly: it opens, CRCs hold, values are finite, and Keras loads it in a fresh process.

    Args:
        path: The file or directory.
        load: Whether to load it with Keras, where it holds an architecture.
        progress: Told how far the work is.

    Raises:
        StoreError: If it cannot be opened or is damaged.
    """
    return _verify(Path(path), load=load, progress=progress)


# What the functions above share ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _on_disk(
    models: Sequence[Model], names: Sequence[str] | None = None
) -> Iterator[tuple[list[Path], tuple[str, ...]]]:
    """Yield a path and a label for every model; live ones are saved to a temporary directory first."""
    with contextlib.ExitStack() as stack:
        paths: list[Path] = []
        labels: list[str] = []
        folder: Path | None = None
        for position, model in enumerate(models):
            if isinstance(model, str | PathLike):
                paths.append(Path(model))
                labels.append(pipeline.labels_of([Path(model)])[0])
            elif live.is_live(model):
                if folder is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graftwork-")))
                paths.append(folder / f"{position}.keras")
                live.save(model, paths[-1])
                labels.append(str(model.name))
            else:
                raise OptionError(f"model {position} is a {type(model).__name__}, expected a path or a keras.Model")
        if names is not None:
            if len(names) not in (len(models), len(models) - 1):
                raise OptionError(f"{len(names)} names are given for {len(models)} models")
            labels[: len(names)] = names
        yield paths, _distinct(labels)


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    return pipeline.distinct(labels)


def _request(
    method: str,
    options: Mapping[str, Any],
    weights: Sequence[float] | None,
    labels: tuple[str, ...],
    has_base: bool,
    **fields: Any,
) -> MergeRequest:
    options = dict(options)
    if weights is not None:
        if "weight" in options:
            raise OptionError("`weight` and `weights` are one option; give one of them")
        options["weight"] = list(weights)
    return MergeRequest(
        method=method,
        options=options,
        labels=labels[:-1] if has_base else labels,
        base_label=labels[-1] if has_base else None,
        **fields,
    )


def _settings(request: MergeRequest) -> dict[str, Any]:
    """Return a request as a recipe's step spells it."""
    fields = {
        name: getattr(request, name) for name in MergeStep.model_fields if hasattr(request, name) and name != "options"
    }
    return {**fields, "models": request.labels, "base": request.base_label, **request.options}


def _identity(model: Model) -> Any:
    return str(model) if isinstance(model, str | PathLike) else id(model)


def _words(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _recipe(recipe: str | PathLike[str] | Mapping[str, Any] | Recipe) -> tuple[Recipe, Path]:
    if isinstance(recipe, str | PathLike):
        path = Path(recipe)
        return read_recipe(path), path.parent
    return read_recipe(recipe), Path()


def _counting(verb: str, total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def count(nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(verb, min(done, total), total)

    return count


def _estimate(
    model: Model,
    data: Data,
    wishes: estimates.Wishes,
    output: str | PathLike[str] | None,
    *,
    overwrite: bool,
    progress: Progress | None,
    on_result: Callable[[pipeline.Result], None] | None,
) -> Any:
    """Return what data tells of a model, or the path of the file where it is written."""
    if (wishes.samples or 1) < 1 or wishes.batch < 1:
        raise OptionError(f"samples is {wishes.samples} and batch {wishes.batch}; expected at least 1")
    like = model if live.is_live(model) else None
    with _on_disk([model]) as (paths, labels), open_store(paths[0]) as reader:
        file = Path(data) if isinstance(data, str | PathLike) else None
        plan_ = estimates.plan_estimate(reader, labels[0], file, wishes)
        target = None if output is None else pipeline.Target(path=Path(output), overwrite=overwrite)
        if target is not None:
            estimates.check_estimate(plan_, target.path, overwrite=overwrite)
        samples = samples_of(data, x=wishes.x, y=wishes.y, most=wishes.samples)
        if target is None:
            with pipeline.estimated(plan_, samples, progress, like) as (arrays, _):
                return dict(arrays)
        result = pipeline.write_estimate(plan_, target, samples, progress, like)
        if on_result is not None:
            on_result(result)
        return result.path


class _Pending:
    """A result on its way: under the user's path, or in a temporary file that becomes a live model."""

    def __init__(self, path: Path, like: Any, live_result: bool) -> None:
        self.path = path
        self._like, self._live = like, live_result

    def finish(self, result: pipeline.Result) -> Any:
        """Return the path, or the live model in it."""
        return live.load(result.path, self._like) if self._live else result.path


@contextlib.contextmanager
def _result(output: str | PathLike[str] | None, like: Any) -> Iterator[_Pending]:
    if output is not None:
        yield _Pending(Path(output), like, live_result=False)
        return
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        yield _Pending(Path(folder) / "result.keras", like, live_result=True)


def _report(name: str, plan_: MergePlan, target: pipeline.Target | None, threads: int | None) -> PlanReport:
    from graftwork.executor.local import peak_bytes
    from graftwork.stores import format_for_target
    from graftwork.stores.staged import free_bytes

    workers = (target or pipeline.Target(path=Path(), threads=threads or 0)).workers()
    if target is not None:
        row = format_for_target(target.path, plan_.models[0], target.format)
        check_output(plan_, target.path, row, overwrite=target.overwrite)
    rows = [
        {
            "name": step.spec.name,
            "shape": list(step.spec.shape),
            "dtype": step.spec.dtype,
            "role": str(step.spec.role),
            "action": step.method.name if step.method is not None else "copy",
            "sources": [source.name for source in step.sources[: step.n_models]],
            "layer": step.place.layer,
            "depth": step.place.depth,
            "options": step.method.model_dump(by_alias=True) if step.method is not None else {},
        }
        for step in plan_.steps
    ]
    return PlanReport(
        step=name,
        method=plan_.request.method,
        models=plan_.request.labels,
        base=plan_.request.base_label,
        tensors=tuple(rows),
        roles=plan_.roles,
        renamed=plan_.renamed,
        bytes_read=plan_.bytes_read,
        bytes_written=plan_.bytes_written,
        passes=plan_.passes,
        peak_bytes=peak_bytes(plan_, workers),
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=plan_.seconds(),
        notes=plan_.notes,
    )


def _report_extraction(name: str, plan_: extraction.ExtractionPlan, target: pipeline.Target | None) -> PlanReport:
    from graftwork.executor.local import INTERPRETER_BYTES
    from graftwork.stores.staged import free_bytes

    if target is not None:
        pipeline.check_adapter(plan_, target)
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "role": str(spec.role),
            "action": "factors" if spec.name in plan_.names else "compare",
            "sources": [spec.name],
            "layer": None,
            "depth": None,
            "options": {},
        }
        for spec in plan_.base.specs().values()
    ]
    return PlanReport(
        step=name,
        method="extract_lora",
        models=(plan_.labels[1],),
        base=plan_.labels[0],
        tensors=tuple(rows),
        roles=dict(Counter(str(spec.role) for spec in plan_.base.specs().values())),
        renamed=(),
        bytes_read=plan_.bytes_read,
        bytes_written=plan_.bytes_written,
        passes=2,
        peak_bytes=INTERPRETER_BYTES + plan_.working_bytes,
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=plan_.seconds(),
        notes=(),
    )


def _report_estimate(name: str, plan_: estimates.EstimatePlan, target: pipeline.Target | None) -> PlanReport:
    from graftwork.executor.local import INTERPRETER_BYTES
    from graftwork.stores.staged import free_bytes

    if target is not None:
        estimates.check_estimate(plan_, target.path, overwrite=target.overwrite)
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "role": str(spec.role),
            "action": plan_.wishes.kind,
            "sources": [spec.name],
            "layer": None,
            "depth": None,
            "options": {},
        }
        for spec in plan_.specs
    ]
    weights = sum(spec.size_bytes for spec in plan_.model.specs().values())
    return PlanReport(
        step=name,
        method=f"estimate {plan_.wishes.kind}",
        models=(plan_.label,),
        base=None,
        tensors=tuple(rows),
        roles=dict(Counter(str(spec.role) for spec in plan_.specs)),
        renamed=(),
        bytes_read=weights,
        bytes_written=sum(spec.size_bytes for spec in plan_.specs),
        passes=1,
        peak_bytes=INTERPRETER_BYTES + estimates.KERAS_BYTES + 2 * weights + plan_.working_bytes,
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=estimates.KERAS_SECONDS,
        notes=("memory and time are those of Keras and the weights; data and what layers make of it come on top",),
    )


__all__ = [
    "FORMATS",
    "Diff",
    "Extraction",
    "GraftworkError",
    "Inspection",
    "PlanReport",
    "Verification",
    "assemble",
    "convert",
    "diff",
    "extract_lora",
    "fisher",
    "gram",
    "inspect",
    "merge",
    "plan",
    "plan_merge",
    "run",
    "verify",
]

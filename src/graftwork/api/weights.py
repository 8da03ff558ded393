"""Weights: comparing them, merging them, writing them in another format."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.api.plans import PlanReport, of_merge
from graftwork.api.sources import Model, Progress, on_disk, result_place, words
from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.planning import MergeRequest
from graftwork.planning import plan_merge as _plan
from graftwork.recipe import MergeStep
from graftwork.report import measure
from graftwork.report.measure import Diff
from graftwork.report.verification import Verification
from graftwork.report.verification import verify as _verify
from graftwork.writing import Result, Target, companions, counting, opened, write_merge
from graftwork.writing import convert as _convert

if TYPE_CHECKING:
    from graftwork.models.custom import Custom


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
    with on_disk([a, b]) as (paths, labels), opened(paths) as readers:
        total = sum(spec.size_bytes for reader in readers for spec in reader.specs().values())
        target = Target(path=Path(), threads=threads or 0)
        return measure.diff(
            readers[0], readers[1], (labels[0], labels[1]), target.workers(), counting("diff", total, progress)
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
    custom_objects: "Custom | None" = None,
    progress: Progress | None = None,
    report: list[str] | None = None,
    on_result: Callable[[Result], None] | None = None,
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
        optimizer: ``"drop"`` the optimizer state, or keep that of the ``"first"`` or the ``"last"`` model.
        format: Name of the output's format, where its ending does not tell.
        drop_compile: Leave out how the model was compiled.
        shard_bytes: Greatest size of a shard, for formats with shards.
        custom_objects: Without `output`, classes and functions that the live model refers to and Keras does not know: by name, or Python
            files or modules that define them, which are run.
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
    with on_disk([*models, *([base] if base is not None else [])], names) as (paths, labels):
        request = _request(
            method,
            options,
            weights,
            labels,
            base is not None,
            seed=seed,
            dtype=dtype,
            map=dict(map or {}),
            skip=words(skip),
            ignore=words(ignore),
            classes=classes,
            allow_nonfinite=allow_nonfinite,
            optimizer=optimizer,
        )
        with result_place(output, next((m for m in models if live.is_live(m)), None), custom_objects) as target_path:
            target = Target(
                path=target_path.path,
                format=format,
                overwrite=overwrite,
                threads=threads or 0,
                drop_compile=drop_compile,
                shard_bytes=shard_bytes,
            )
            with opened(paths) as readers, companions(request) as further:
                own_base = readers.pop() if base is not None else None
                plan = _plan(request, readers, own_base, companions=further)
                result = write_merge(plan, target, _settings(request), progress)
            if report is not None:
                report += result.notes
            if on_result is not None:
                on_result(result)
            return target_path.finish(result)


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
    drop_compile: bool = False,
    shard_bytes: int | None = None,
    **options: Any,
) -> "PlanReport":
    """Return what `merge` with the same arguments would do, reading only headers.

    Raises:
        GraftworkError: For every reason for which `merge` would refuse, but those that only values tell.
    """
    fields = {name: options.pop(name) for name in _PLAN_FIELDS if name in options}
    fields.update({k: words(fields[k]) for k in ("skip", "ignore") if k in fields})
    with on_disk([*models, *([base] if base is not None else [])], names) as (paths, labels):
        request = _request(method, options, weights, labels, base is not None, **fields)
        with opened(paths) as readers, companions(request) as further:
            own_base = readers.pop() if base is not None else None
            plan = _plan(request, readers, own_base, companions=further)
            target = None
            if output is not None:
                target = Target(
                    path=Path(output),
                    format=format,
                    overwrite=overwrite,
                    threads=threads or 0,
                    drop_compile=drop_compile,
                    shard_bytes=shard_bytes,
                )
            return of_merge("merge", plan, target, threads)


_PLAN_FIELDS = ("seed", "dtype", "map", "skip", "ignore", "classes", "allow_nonfinite", "optimizer")


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
) -> Result:
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
    with on_disk([source]) as (paths, _):
        where = Target(
            path=Path(target),
            format=format,
            overwrite=overwrite,
            threads=threads or 0,
            drop_compile=drop_compile,
            shard_bytes=shard_bytes,
        )
        return _convert(paths[0], where, like=Path(like) if like is not None else None, dtype=dtype, progress=progress)


def verify(
    path: str | PathLike[str],
    *,
    load: bool = True,
    custom_objects: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check a file thoroughly: it opens, CRCs hold, values are finite, and Keras loads it in a fresh process.

    Args:
        path: The file or directory.
        load: Whether to load it with Keras, where it holds an architecture.
        custom_objects: A Python file or module that defines classes and functions which Keras does not know, or several; they are run.
        progress: Told how far the work is.

    Raises:
        StoreError: If it cannot be opened or is damaged.
        OptionError: If such a file or module cannot be run.
    """
    from graftwork.models.custom import known, origins

    custom = origins(known(custom_objects).values()) or ()
    return _verify(Path(path), load=load, custom=custom, progress=progress)


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

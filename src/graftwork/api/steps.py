"""Verbs whose options are declared by a step: done, or planned, with what all of them take."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from pydantic import ValidationError

from graftwork.api.reports import Report, report_of
from graftwork.api.sources import Model, Progress, on_disk
from graftwork.ckpt.history import spread
from graftwork.errors import OptionError
from graftwork.jobs import Job, declared
from graftwork.recipe import STEP_KINDS, as_name
from graftwork.recipe.base import Step
from graftwork.recipe.checkpoints import CheckpointStep, CkptAverage
from graftwork.recipe.declared import DeclaredStep
from graftwork.recipe.slips import sentence
from graftwork.stores import distinct
from graftwork.stores.tf_checkpoint import target_of
from graftwork.writing import Result, Target, opened

Stated = TypeVar("Stated", bound=Step)


class Wanted(TypedDict, total=False):
    """What every verb on checkpoints and SavedModels takes beside its own options.

    Attributes:
        output: Where to write the result; the ending says the format.
        names: What the sources are called in options, messages and tables; by default their files' names.
        format: Name of the output's format, where its ending does not tell.
        overwrite: Whether an existing output may be replaced.
        threads: How many threads work; by default one for each processor.
        shard_bytes: Greatest size of a shard, for formats with shards.
        progress: Told how far the work is.
        report: A list to which what the user should know is added, one sentence each.
        on_result: Told what was written.
    """

    output: str | PathLike[str]
    names: Sequence[str] | None
    format: str | None
    overwrite: bool
    threads: int | None
    shard_bytes: int | None
    progress: Progress | None
    report: list[str] | None
    on_result: Callable[[Result], None] | None


def perform(kind: str, sources: Mapping[str, Any], options: Mapping[str, Any], wanted: Mapping[str, Any]) -> Path:
    """Do what a step says and return where its result is.

    Args:
        kind: The step's word.
        sources: A path or live model, a list of these, or a mapping from them, for each field that names models or files.
        options: The options.
        wanted: What `Wanted` says, and ``custom_objects`` where Keras loads a model.

    Raises:
        GraftworkError: If it cannot be done.
    """
    if wanted.get("output") is None:
        raise OptionError("say where to write the result (output=)")
    with planned(kind, sources, options, wanted) as (step, job):
        result = job.write(_target(step, wanted), step, wanted.get("progress"))
    report, on_result = wanted.get("report"), wanted.get("on_result")
    if report is not None:
        report += result.notes
    if on_result is not None:
        on_result(result)
    return result.path


def foresee(kind: str, sources: Mapping[str, Any], options: Mapping[str, Any], wanted: Mapping[str, Any]) -> Report:
    """Return what `perform` with the same arguments would do, from headers alone.

    Raises:
        GraftworkError: For every reason for which it would refuse, but those that only values tell.
    """
    with planned(kind, sources, options, wanted) as (step, job):
        target = _target(step, wanted) if wanted.get("output") is not None else None
        return report_of(kind, job, target, wanted.get("threads"))


def _target(step: DeclaredStep, wanted: Mapping[str, Any]) -> Target:
    path = Path(wanted["output"])
    return Target(
        path=target_of(path) if isinstance(step, CheckpointStep) and wanted.get("format") is None else path,
        format=wanted.get("format"),
        overwrite=bool(wanted.get("overwrite")),
        threads=wanted.get("threads") or 0,
        shard_bytes=wanted.get("shard_bytes"),
    )


@contextlib.contextmanager
def planned(
    kind: str, sources: Mapping[str, Any], options: Mapping[str, Any], wanted: Mapping[str, Any]
) -> Iterator[tuple[DeclaredStep, Job]]:
    """Yield a step and what it will do, as long as its sources are open; see `perform`."""
    cls = STEP_KINDS[kind]
    assert issubclass(cls, DeclaredStep)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    flat: list[Model] = []
    for name in cls.takes:
        flat += _models(sources.get(name))
    with on_disk(flat, wanted.get("names")) as (paths, labels):
        labels = distinct([as_name(label) for label in labels])
        left = iter(labels)
        for name in cls.takes:
            value = sources.get(name)
            named = [next(left) for _ in _models(value)]
            if isinstance(value, Mapping):
                given[name] = dict(zip(named, value.values(), strict=True))
            elif value is not None:
                given[name] = tuple(named) if _is_list(value) else named[0]
        for name in cls.paths:
            given[name] = [str(p) for p in sources[name]] if _is_list(sources[name]) else str(sources[name])
        step = stated(cls, given)
        where = dict(zip(labels, paths, strict=True))
        if isinstance(step, CkptAverage) and step.last is not None:
            step, found = spread(step, where, where)
            where |= found
        wanted_names = list(dict.fromkeys(step.inputs()))
        files = [Path(file) for file in step.files()]
        with opened([*(where[name] for name in wanted_names), *files]) as readers:
            by_name = dict(zip((*wanted_names, *step.files()), readers, strict=True))
            yield step, declared(step, by_name, custom_objects=wanted.get("custom_objects"))


def stated(cls: type[Stated], given: Mapping[str, Any]) -> Stated:
    """Return a step of these fields.

    Raises:
        OptionError: If one makes no sense.
    """
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise OptionError(f"{cls.kind}: {sentence(error, cls)}") from error


def _models(value: Any) -> list[Model]:
    """Return the models that a field names."""
    if value is None:
        return []
    return [*value] if isinstance(value, Mapping) or _is_list(value) else [value]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)

"""Graphs: models loaded, copied, chained, taken apart and put together.

Every function here makes a plain Keras model. Models that go in are paths or live models; they are copied, never changed, and stand in the
result as layers under names of their own. What all of them take beside their own options is `Wanted`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from graftwork.api.reports import CompositionReport, of_composition
from graftwork.api.sources import Model, Progress
from graftwork.compose.naming import Names
from graftwork.composing import Source, check_composition, compose, plan_composition, write_composition
from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.models.copying import copy_model
from graftwork.recipe.composition import verb_of
from graftwork.stores import label_of, open_store
from graftwork.writing import Result, Target


class Wanted(TypedDict, total=False):
    """What every verb takes beside its own options.

    Attributes:
        output: Where to write the result; the ending says the format. Without it the live model is returned.
        names: What the models are called in options, messages and the result; by default their files' or their own names.
        custom_objects: Classes and functions of the models that Keras does not know, by name.
        share: Let live models themselves go in, not copies: training the result trains them.
        check: Load the written result in a fresh process, and compare it there with what the models say one by one.
        format: Name of the output's format, where its ending does not tell.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is.
        report: A list to which what the user should know is added, one sentence each.
        on_result: Told what was written.
    """

    output: str | PathLike[str] | None
    names: Sequence[str] | None
    custom_objects: Mapping[str, Any] | None
    share: bool
    check: bool
    format: str | None
    overwrite: bool
    progress: Progress | None
    report: list[str] | None
    on_result: Callable[[Result], None] | None


def load(
    source: str | PathLike[str],
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Return the model in a file, not compiled; files of Keras 2 are brought to the present form where that can be done exactly.

    Args:
        source: A file or directory in any format that holds an architecture.
        name: What the model is called; by default as in the file.
        custom_objects: Classes and functions that the file refers to and Keras does not know, by name.
        safe_mode: Whether code in the file (of a Lambda layer) is refused; without it, loading runs that code.

    Raises:
        StoreError: If it cannot be loaded.
        OptionError: If the name cannot be a model's.
    """
    return live.load_model(Path(source), name=name, custom_objects=custom_objects, safe_mode=safe_mode)


def copy(model: Any, name: str | None = None) -> Any:
    """Return an exact copy of a live model that shares nothing with it: weights, states, flags, compiled as the source is.

    Args:
        model: Anything that Keras can save.
        name: What the copy is called; by default as the source.

    Raises:
        StoreError: If Keras cannot save the model.
        OptionError: If the name cannot be a model's.
    """
    if not live.is_live(model):
        raise OptionError(f"{str(model)[:60]!r} is no live model; load a file with `load`")
    return copy_model(model, name, compiled=True)


def check(verb: str, models: Sequence[Model], **wanted: Any) -> CompositionReport:
    """Return what a verb would make, without building or reading weights.

    Args:
        verb: ``"ensemble"``, ``"chain"`` and so on.
        models: The models that go in, in the order of the verb's arguments.
        **wanted: The verb's options, and what `Wanted` says.

    Raises:
        GraftworkError: For every reason for which the verb would refuse.
    """
    general = {key: wanted.pop(key) for key in list(wanted) if key in Wanted.__annotations__}
    with _sources(models, general) as sources:
        plan = plan_composition(verb_of(verb, wanted), sources, general.get("custom_objects"))
        return of_composition(verb, plan, _target(general))


def make(verb: str, models: Sequence[Model], **wanted: Any) -> Any:
    """Do what a verb says; the functions below are this with a verb each.

    Args:
        verb: ``"ensemble"``, ``"chain"`` and so on.
        models: The models that go in, in the order of the verb's arguments.
        **wanted: The verb's options, and what `Wanted` says.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        GraftworkError: If the verb refuses.
    """
    general = {key: wanted.pop(key) for key in list(wanted) if key in Wanted.__annotations__}
    return _made(verb, models, general, **wanted)


def chain(
    models: Sequence[Model],
    *,
    adapters: Mapping[Any, Any] | None = None,
    connect: Mapping[str, str] | None = None,
    inline: bool = False,
    name: str = "chain",
    **wanted: Unpack[Wanted],
) -> Any:
    """Put models one behind the other: what one gives goes into the next.

    A single output goes to a single input; where a model has several, those of the same name meet.

    Args:
        models: Paths or live models, in order.
        adapters: What stands between two models where the output of one does not fit the other, by ``("a", "b")``: ``"dense"``, ``"gap"``,
            ``"flatten"``, ``"resize"``, ``"cast"``, ``"pad"``, a layer, or a list of these.
        connect: Which output goes to an input: ``{"b.text": "a.features"}``; ``"input"`` makes it an input of the result.
        inline: Put the layers of all models in one graph, instead of each model as one layer.
        name: What the result is called.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If an output does not fit the input it goes to; the message says which adapter would help.
        OptionError: If an option makes no sense.
    """
    return _made("chain", models, wanted, adapters=adapters, connect=connect, inline=inline, name=name)


# What the functions above share ----------------------------------------------------------------------------------------


def _made(verb: str, models: Sequence[Model], wanted: Mapping[str, Any], **options: Any) -> Any:
    """Return what a verb makes of models: a live model, or the path where it is written."""
    chosen = verb_of(verb, {name: value for name, value in options.items() if value is not None})
    unknown = set(wanted) - set(Wanted.__annotations__)
    if unknown:
        raise TypeError(f"{verb}() got an unexpected keyword argument {min(unknown)!r}")
    custom_objects, target = wanted.get("custom_objects"), _target(wanted)
    with _sources(models, wanted) as sources:
        if target is None:
            composed = compose(chosen, sources, custom_objects)
            _say(wanted, composed.notes)
            return composed.model
        plan = plan_composition(chosen, sources, custom_objects)
        check_composition(plan, target)
        result = write_composition(plan, target, wanted.get("progress"), check=wanted.get("check", True))
        _say(wanted, result.notes)
        if wanted.get("on_result") is not None:
            wanted["on_result"](result)
        return result.path


def _say(wanted: Mapping[str, Any], notes: Sequence[str]) -> None:
    if wanted.get("report") is not None:
        wanted["report"].extend(notes)


def _target(wanted: Mapping[str, Any]) -> Target | None:
    if wanted.get("output") is None:
        return None
    return Target(
        path=Path(wanted["output"]), format=wanted.get("format"), overwrite=bool(wanted.get("overwrite", False))
    )


@contextlib.contextmanager
def _sources(models: Sequence[Model], wanted: Mapping[str, Any]) -> Iterator[list[Source]]:
    """Yield the sources that models are, files open, each under a name of its own."""
    if isinstance(models, str | PathLike) or live.is_live(models):
        raise OptionError("`models` is one model; give a list of models")
    names = wanted.get("names")
    if names is not None and len(names) != len(models):
        raise OptionError(f"{len(names)} names are given for {len(models)} models")
    taken = Names()
    with contextlib.ExitStack() as stack:
        found = []
        for position, model in enumerate(models):
            if isinstance(model, str | PathLike):
                reader = stack.enter_context(open_store(Path(model)))
                label = names[position] if names is not None else label_of(Path(model))
                found.append(Source(name=taken.fresh(label), reader=reader))
            elif live.is_live(model):
                label = names[position] if names is not None else model.name
                found.append(Source(name=taken.fresh(label), model=model, shared=bool(wanted.get("share", False))))
            else:
                raise OptionError(f"model {position} is a {type(model).__name__}, expected a path or a keras.Model")
        yield found

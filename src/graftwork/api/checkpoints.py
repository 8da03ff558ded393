"""Checkpoints: united, averaged, assigned from others, renamed, cut down.

Sources are paths in any format of the stores, checkpoints of TensorFlow 1 and 2 above all, and stay as they are. What every function takes
beside its own options is `graftwork.api.steps.Wanted`.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from graftwork.api.headers import ls as ls
from graftwork.api.plans import PlanReport, of_merge
from graftwork.api.sources import Model, Progress, on_disk
from graftwork.api.steps import Wanted, perform, stated
from graftwork.ckpt.assign import plan_assign
from graftwork.errors import OptionError
from graftwork.models import values
from graftwork.recipe import as_name
from graftwork.recipe.checkpoints import CkptAssign
from graftwork.stores import distinct
from graftwork.writing import Target, opened, write_merge


def average(
    models: Model | Sequence[Model],
    *,
    method: str = "linear",
    base: Model | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    dtype: str | None = None,
    map: Mapping[str, str] | None = None,
    skip: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    optimizer: str = "drop",
    last: int | None = None,
    lender: str = "last",
    **wanted: Unpack[Wanted],
) -> Path:
    """Average checkpoints, or merge them by any other method.

    Optimizer state is never averaged: it is dropped, or kept as it is in one of them. Counters and all else that is no floating-point
    number come from the model that lends names. None of the models' code is needed.

    Args:
        models: The checkpoints, oldest first; with ``last``, the directory that holds them.
        method: Name of the merge method.
        base: Their common ancestor, if the method works on differences.
        options: The method's own options; in recipes they stand beside the other fields.
        seed: Fixes every random choice.
        dtype: The result's dtype; by default each tensor keeps its own.
        map: Regular expressions over tensor names of the other models, and the name in the model that lends names.
        skip: Globs (or ``re:`` expressions) over tensors that are not merged but taken from the model that lends names.
        ignore: Fields of layers' settings that may differ.
        allow_nonfinite: Whether sources may hold NaN or infinity.
        optimizer: ``drop`` the optimizer state, or keep that of the ``first`` or the ``last`` model.
        last: Take so many of a directory's checkpoints, the last ones.
        lender: Which of them lends names, objects, texts and counters to the result: the ``first`` or the ``last``.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If they are not of one model, or a directory does not have so many checkpoints.
        OptionError: If an option makes no sense.
        NonFiniteError: If a source holds NaN or infinity.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    choices = {
        "method": method,
        "options": dict(options or {}),
        "seed": seed,
        "dtype": dtype,
        "map": dict(map or {}),
        "skip": skip,
        "ignore": ignore,
        "allow_nonfinite": allow_nonfinite,
        "optimizer": optimizer,
        "last": last,
        "lender": lender,
    }
    return perform("ckpt_average", {"models": models, "base": base}, choices, wanted)


def merge(
    models: Model | Sequence[Model],
    *,
    scope: Mapping[str, str] | None = None,
    on_conflict: str = "error",
    bookkeeping: str = "equal",
    **wanted: Unpack[Wanted],
) -> Path:
    """Put several checkpoints into one: every tensor of all of them.

    Checkpoints of TensorFlow 2 are joined object by object, so that `tf.train.Checkpoint` restores the result, optimizers too; all others
    name by name. The sources stay what they are.

    Args:
        models: The checkpoints, in order.
        scope: Put a checkpoint below a prefix: its name, and the prefix, as in ``A=encoder/``.
        on_conflict: What several hold by the same name: an ``error``, taken from the ``first`` or the ``last``, or ``equal``: refused if it
            is not.
        bookkeeping: What a graph of TensorFlow 1 has once (``beta1_power``, ``global_step``, loss scales), and so several hold by the same
            name: ``equal``, taken from the ``first`` or the ``last``, or all kept ``separate``, the second as ``beta1_power_1``.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If several hold what only one may, or they are of kinds that do not go together.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    options = {"scope": dict(scope or {}), "on_conflict": on_conflict, "bookkeeping": bookkeeping}
    return perform("ckpt_merge", {"models": models}, options, wanted)


Rules = Mapping[str, str] | Sequence[str] | str | None
"""Which name leads where: a mapping from old names to new ones, or texts ``OLD=NEW``; without any, equal names meet."""


def assign(
    target: Model,
    sources: Mapping[Any, Rules],
    *,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    on_shape: str = "error",
    axes: Mapping[str, int | Sequence[int]] | None = None,
    fill: str = "target",
    seed: int = 0,
    state: bool = False,
    **wanted: Unpack[Wanted],
) -> Path:
    """Give a model or checkpoint values from others: all that their names lead to, and the rest stays as it is.

    The first word of a rule is the name in the source, the second that in the target: scope/=other/ for all names below a scope (/ is the
    top), or a regular expression over whole names and what they become. Without rules equal names meet. Optimizer state, counters and seeds
    of the sources are left out.

    Args:
        target: The model or checkpoint that is given values; it stays as it is, the result is another file.
        sources: Where values come from, each source with its rules.
        include: Globs (or ``re:`` expressions) over the target's names: these alone are given values.
        exclude: Globs (or ``re:`` expressions) over the target's names: these keep their values.
        on_shape: What happens where shapes differ: ``error``; ``skip`` keeps the target's values; ``slice`` cuts what is longer in the
            source, ``pad`` fills up what is shorter, and ``fit`` does either, along the named axes.
        axes: The axes along which sizes may differ, by globs (or ``re:`` expressions) over the target's names: vocabularies, classes.
        fill: What is filled up with: the ``target``'s own values, ``zeros``, the source's ``mean`` along the axis, or ``normal`` random
            numbers of the source's mean and deviation.
        seed: Fixes random numbers.
        state: Whether optimizer state, counters and seeds of the sources are assigned too.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If two tensors would be assigned to one, one does not fit, or nothing would be assigned.
        OptionError: If a rule or a pattern fits nothing.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    choices = _choices(include, exclude, on_shape, axes, fill, seed, state)
    return perform("ckpt_assign", {"target": target, "sources": _sources(sources)}, choices, wanted)


def init_from(
    sources: Mapping[Any, Rules],
    *,
    into: Any,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    on_shape: str = "error",
    axes: Mapping[str, int | Sequence[int]] | None = None,
    fill: str = "target",
    seed: int = 0,
    state: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PlanReport:
    """Give a live Keras model values from models and checkpoints, in place: all that `assign` would, or none.

    As `tf.compat.v1.train.init_from_checkpoint`, whose maps are understood as they are: ``{"scope/": "other/", "/": "/", "name": "name"}``.

    Args:
        sources: Where values come from: a path or a live model, each with its rules or None.
        into: The model. Its optimizer, how it is compiled and what it trains stay as they are. Rules and patterns may call its variables
            as Keras does (`variable.path`), too.
        include: As for `assign`, like all that follow.
        exclude: See `assign`.
        on_shape: See `assign`.
        axes: See `assign`.
        fill: See `assign`.
        seed: See `assign`.
        state: See `assign`.
        threads: How many threads work; by default one for each processor.
        progress: Told how far the work is.

    Returns:
        What was done: ``tables["assigned"]`` has a row for each tensor of the model, ``tables["unused"]`` one for each of the sources' that
        went nowhere.

    Raises:
        MismatchError: If two tensors would be assigned to one, one does not fit, or nothing would be assigned.
        OptionError: If a rule or a pattern fits nothing, or `into` is no model of Keras 3.
        StoreError: If a source cannot be read.
    """
    values.check_is_keras(into)
    given = _sources(sources)
    choices = _choices(include, exclude, on_shape, axes, fill, seed, state)
    with on_disk([into, *given]) as (paths, found):
        target, *labels = distinct([as_name(label) for label in found])
        rules = dict(zip(labels, given.values(), strict=True))
        step = stated(CkptAssign, {"target": target, "sources": rules, **choices})
        with opened(paths) as readers:
            spellings = values.spellings_of(into, readers[0].specs())
            plan = plan_assign(step, dict(zip((target, *labels), readers, strict=True)), spellings)
            report = of_merge("init_from", plan, None, threads)
            result = Target(path=paths[0].with_name("result.keras"), threads=threads or 0)
            write_merge(plan, result, step.settings(), progress, verb="init_from")
            values.set_values(into, result.path, paths[0])
    return report


def rename(model: Model, rules: Rules, *, slots: bool = True, objects: bool = False, **wanted: Unpack[Wanted]) -> Path:
    """Give the tensors of a checkpoint other names.

    A rule is scope/=other/ for all names below a scope (/ is the top), or a regular expression over whole names and what they become. A
    checkpoint of TensorFlow 1 is restored by these names, one of TensorFlow 2 by those of its objects, which ``objects`` changes.

    Args:
        model: The checkpoint; it stays as it is, the result is another file.
        rules: Rules ``OLD=NEW`` over names; of several that fit a name the first counts.
        slots: Whether an optimizer's slots (``w/Adam``) go with their variables.
        objects: Whether rules are about the paths to objects in a checkpoint of TensorFlow 2, rather than about names.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If two things would have one name.
        OptionError: If a rule fits nothing, or makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    return perform("ckpt_rename", {"model": model}, {"rules": rules, "slots": slots, "objects": objects}, wanted)


def extract(
    model: Model, patterns: str | Sequence[str], *, exclude: str | Sequence[str] = (), **wanted: Unpack[Wanted]
) -> Path:
    """Make a checkpoint of some tensors of another.

    Args:
        model: The checkpoint; it stays as it is, the result is another file.
        patterns: Globs (or ``re:`` expressions) over names of what is wanted, texts of tables among them.
        exclude: Globs (or ``re:`` expressions) over names of what is not, though a pattern fits it.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If no tensor is left.
        OptionError: If a pattern fits nothing.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    return perform("ckpt_extract", {"model": model}, {"patterns": patterns, "exclude": exclude}, wanted)


def drop(
    model: Model, patterns: str | Sequence[str], *, exclude: str | Sequence[str] = (), **wanted: Unpack[Wanted]
) -> Path:
    """Make a checkpoint of all but some tensors of another.

    Args:
        model: The checkpoint; it stays as it is, the result is another file.
        patterns: Globs (or ``re:`` expressions) over names of what is left out, texts of tables among them.
        exclude: Globs (or ``re:`` expressions) over names of what is kept, though a pattern fits it.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If no tensor is left.
        OptionError: If a pattern fits nothing.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    return perform("ckpt_drop", {"model": model}, {"patterns": patterns, "exclude": exclude}, wanted)


def cast(
    model: Model,
    dtype: str,
    patterns: str | Sequence[str] = (),
    *,
    exclude: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    **wanted: Unpack[Wanted],
) -> Path:
    """Make a checkpoint whose weights have another dtype.

    Optimizer state, counters and all that is no floating-point number keep theirs. What the dtype cannot hold is refused.

    Args:
        model: The checkpoint; it stays as it is, the result is another file.
        dtype: The dtype of the result.
        patterns: Globs (or ``re:`` expressions) over names of what is cast; by default all weights are.
        exclude: Globs (or ``re:`` expressions) over names of what is not, though a pattern fits it.
        allow_nonfinite: Whether weights may hold NaN or infinity.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If nothing has to be cast.
        NonFiniteError: If the dtype cannot hold a weight.
        OptionError: If a pattern fits nothing.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    choices = {"dtype": dtype, "patterns": patterns, "exclude": exclude, "allow_nonfinite": allow_nonfinite}
    return perform("ckpt_cast", {"model": model}, choices, wanted)


def _sources(given: Mapping[Any, Rules]) -> Mapping[Any, Rules]:
    if not isinstance(given, Mapping):
        raise OptionError(
            f"`sources` is a {type(given).__name__}, expected a mapping from each source to its rules, such as {{'a.ckpt': None}}"
        )
    return {Path(source) if isinstance(source, str | PathLike) else source: rules for source, rules in given.items()}


def _choices(
    include: str | Sequence[str],
    exclude: str | Sequence[str],
    on_shape: str,
    axes: Mapping[str, int | Sequence[int]] | None,
    fill: str,
    seed: int,
    state: bool,
) -> dict[str, Any]:
    return {
        "include": include,
        "exclude": exclude,
        "on_shape": on_shape,
        "axes": dict(axes or {}),
        "fill": fill,
        "seed": seed,
        "state": state,
    }

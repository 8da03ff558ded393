"""Checkpoints: united, averaged, assigned from others, renamed, cut down.

Sources are paths in any format of the stores, checkpoints of TensorFlow 1 and 2 above all, and stay as they are. What every function takes
beside its own options is `graftwork.api.steps.Wanted`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from graftwork.api.headers import ls as ls
from graftwork.api.sources import Model
from graftwork.api.steps import Wanted, perform


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

"""Heads that are asked for by a word: what is put on a trunk for the labels that there are."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.adapters import pooling
from graftwork.compose.heads import Head, HeadSpec, as_head
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.errors import DataError, MismatchError, OptionError

Word = Literal["linear", "mlp", "conv", "logistic", "own"]
"""Heads by a word: one Dense layer, several, a convolution before them, one that is solved instead of trained, or the model's own."""

WORDS: tuple[str, ...] = get_args(Word)

HIDDEN = 256
"""Units of the hidden layer of an mlp of which nothing is said, and filters of a conv."""

FEW = 1000
"""As many classes are believed of any number of samples; more have to have a sample each."""

BATCH = 8192
"""Labels that are read at a time."""

NEVER = 20.0
"""How much less than the mean of the others a class scores that no sample has: practically never."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What labels ask a head for.

    Attributes:
        units: How many numbers.
        activation: What it ends in.
        shape: The shape of a label.
    """

    units: int
    activation: str
    shape: tuple[int, ...] = field(default=(), compare=False)


def wanted_by(data: Samples | Stream) -> Wanted:
    """Return what the labels of some data ask for: whole numbers and texts for classes, one column per class for these too where each row
    has one 1, columns of 0 and 1 for independent yes and no, other numbers for values.

    Raises:
        OptionError: If the data does not tell: batches; whole numbers that are stored as fractions; more classes than there are samples.
        DataError: If labels are none.
    """
    if not isinstance(data, Samples):
        raise OptionError(f"{data.name} yields batches, which do not tell how many classes there are; say it: head=10")
    if data.labels is None:
        raise MismatchError(f"{data.name} has no labels", advice="say which column holds them (y)")
    if data.classes and len(data.table.columns[data.labels].shape) == 0:
        return Wanted(len(data.classes), "softmax")
    labels = np.concatenate([np.asarray(part) for part in _labels(data)])
    rows = labels.reshape(len(labels), -1)
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError(f"a label of {data.name} is NaN or infinite")
    if rows.shape[1] > 1:
        switches = bool(np.isin(rows, (0, 1)).all())
        one = switches and bool((rows.sum(axis=1) == 1).all())
        activation = "softmax" if one else "sigmoid" if switches else "linear"
        return Wanted(rows.shape[1], activation, labels.shape[1:])
    most = rows.max()
    if labels.dtype.kind == "f":
        if (rows == np.floor(rows)).all():
            raise _undecided(f"the labels of {data.name} are whole numbers stored as {labels.dtype.name}", most)
        return Wanted(1, "linear")
    if rows.min() < 0:
        raise DataError(f"a label of {data.name} is {rows.min()}; classes are numbered from 0 on")
    if most > max(len(labels), FEW):
        raise _undecided(f"the labels of {data.name} go up to {most:,}, and there are {len(labels):,} samples", most)
    return Wanted(max(2, int(most) + 1), "softmax")


def _undecided(found: str, most: Any) -> OptionError:
    return OptionError(
        f"{found}, which does not tell classes from values: say head={max(2, int(most) + 1)} for classes, or head=1, "
        "activation=linear and outputs=regression for values"
    )


def _labels(data: Samples) -> Any:
    for part in replace(data, inputs={}).batches(BATCH):
        yield part.labels


def crowned(
    spec: HeadSpec | str,
    value: Port,
    names: Names,
    *,
    wanted: Wanted | None,
    hidden: Sequence[int],
    activation: str | None,
    spread: bool,
) -> Head:
    """Return a head for a trunk.

    Args:
        spec: A word, or what `graftwork.compose.heads.as_head` takes.
        value: What it stands on; images and sequences are pooled before a word and before a number of units.
        names: The names in use.
        wanted: What labels ask for, where it is a word.
        hidden: Units of Dense layers before the last.
        activation: Of the last Dense layer.
        spread: Whether units may stand at every position.

    Raises:
        MismatchError: If it cannot stand there.
        OptionError: If it is no head.
    """
    if not isinstance(spec, str) or spec not in WORDS:
        pooled = (
            [pooling(value.shape, "head_pool", "the head")] if _is_units(spec) and not spread and _wide(value) else []
        )
        items = [*pooled, *hidden, *(spec if isinstance(spec, list | tuple) else [spec])]
        return as_head(items, value, names, activation=activation, spread=spread)
    assert wanted is not None  # since it is a word
    if _wide(value) and _of_positions(wanted, value.shape[1:-1]):
        raise MismatchError(
            f"labels have the shape {wanted.shape}, which are the positions of {value.name!r} {value.shape}: {spec} would pool them",
            advice="say a head that stands at every position, head={Dense: {units: …, activation: softmax}}, or the number of units for "
            "one answer to each sample",
        )
    layers: list[Any] = []
    if spec == "conv":
        if not _wide(value):
            raise MismatchError(
                f"head='conv' stands on images and sequences, and {value.name!r} is {value.shape}",
                advice="stand it on a tensor before the pooling (at), or use mlp",
            )
        kind = f"Conv{len(value.shape) - 2}D"
        layers.append({kind: {"filters": HIDDEN, "kernel_size": 3, "padding": "same", "activation": "relu"}})
    if _wide(value):
        layers.append(pooling(value.shape, "head_pool", "the head"))
    if spec == "logistic" and (hidden or activation or wanted.activation == "linear"):
        raise OptionError("head='logistic' is one layer for labels that are classes; for other heads: linear or mlp")
    layers += [*(hidden or ([HIDDEN] if spec == "mlp" else [])), wanted.units]
    return as_head(layers, value, names, activation=activation or wanted.activation)


def _is_units(spec: Any) -> bool:
    first = spec[0] if isinstance(spec, list | tuple) and spec else spec
    return isinstance(first, int) and not isinstance(first, bool)


def _of_positions(wanted: Wanted, positions: tuple[int | None, ...]) -> bool:
    """Return whether labels may be of positions: as many as there are, or values where that is not fixed; rows with a single 1 are not."""
    if len(wanted.shape) != len(positions) or wanted.activation == "softmax":
        return False
    unknown = None in positions and wanted.activation == "linear"
    return unknown or wanted.shape == positions


def _wide(value: Port) -> bool:
    return len(value.shape) > 2


def solved(
    dense: Any, features: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any] | None, strength: float
) -> str:
    """Give a Dense layer the weights of scikit-learn's logistic regression, and return what was done.

    Args:
        dense: A Dense layer with softmax, or with sigmoid for independent labels.
        features: What it stands on, a row for each sample.
        labels: Numbers of classes, or a column for each.
        weights: What each sample counts.
        strength: How strongly large weights are punished, the inverse of scikit-learn's `C`.

    Raises:
        OptionError: If scikit-learn is not installed, or labels are of one class.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise OptionError("head='logistic' needs scikit-learn: pip install scikit-learn") from error
    scale = float(np.abs(features).max()) or 1.0
    given = features.reshape(len(features), -1).astype(np.float64) / scale
    columns = [labels.reshape(len(labels))] if labels.ndim == 1 or labels.shape[-1] == 1 else list(labels.T)
    if dense.activation.__name__ == "softmax" and len(columns) > 1:
        columns = [labels.argmax(-1)]
    kernel, bias = np.zeros(dense.kernel.shape), np.zeros(dense.units)
    steps = 0
    for place, column in enumerate(columns):
        if len(np.unique(column)) < 2:
            raise OptionError("head='logistic': all labels are the same, so there is nothing to tell apart")
        model = LogisticRegression(C=scale**2 / strength, max_iter=10_000, tol=1e-6)
        model.fit(given, column, sample_weight=weights)
        steps = max(steps, int(np.max(model.n_iter_)))
        weight, shift = model.coef_.T / scale, model.intercept_
        if dense.activation.__name__ != "softmax":
            kernel[:, place], bias[place] = weight[:, 0], shift[0]
            continue
        if weight.shape[1] == 1:  # of two classes scikit-learn tells the second from the first
            weight, shift = np.pad(weight, ((0, 0), (1, 0))), np.pad(shift, (1, 0))
        known = model.classes_.astype(int)
        kernel[:], bias[:] = weight.mean(axis=1, keepdims=True), shift.mean() - NEVER
        kernel[:, known], bias[known] = weight, shift
    dense.kernel.assign(kernel.astype(np.float32))
    dense.bias.assign(bias.astype(np.float32))
    return f"the head is scikit-learn's logistic regression (C={1 / strength:g}), which settled after {steps} steps"

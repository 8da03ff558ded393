"""Data against a model: which column goes into which input, and whether what is in it is what the model takes.

Everything that shapes and dtypes tell is found before a sample is read; labels and values are looked at in one pass before training.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port, inputs, outputs
from graftwork.data import Column, Samples
from graftwork.data.samples import Part
from graftwork.errors import DataError, MismatchError
from graftwork.models.lazy import keras

BATCH = 1024
"""Samples that are looked at in one piece."""

NARROW = ("int8", "uint8", "int16", "uint16", "bool")
"""Kinds of inputs that larger numbers do not fit."""

SWITCHES = ("sigmoid", "sigmoid_logits")
"""Kinds of outputs whose labels are from 0, no, to 1, yes."""

CATEGORICAL = ("probabilities", "logits")
"""Kinds of outputs whose labels are classes."""

NOT_ONE = 0.02
"""How far from 1 the label of a sample may sum to; what half precision rounds away is less."""


@dataclass(frozen=True, slots=True)
class Target:
    """An output of a model, as far as labels have to fit it.

    Attributes:
        name: Its name.
        shape: Its shape without the batch.
        kind: What it is: probabilities, logits, sigmoid, sigmoid_logits or regression; None where labels need not fit.
    """

    name: str
    shape: tuple[int | None, ...]
    kind: str | None


def matched(samples: Samples, model: Any) -> Samples:
    """Return samples whose inputs are called as the model's are, in its order.

    Raises:
        MismatchError: If an input has no column, a column no input, or a shape or dtype does not fit.
    """
    ports = inputs(model)
    check_texts(ports)
    given = _named(samples, ports)
    missing = [name for name in ports if name not in given]
    more = [name for name in given if name not in ports]
    if len(ports) == 1 and len(given) > 1 and all(name.isdecimal() for name in given):
        name, columns = next(iter(ports)), [column for each in given.values() for column in each]
        few = columns[:3] + ["…"] * (len(columns) > 3)
        raise MismatchError(
            f"{samples.name} gives {len(given)} inputs in order ({', '.join(few)}), and model {model.name!r} takes one, {name!r}",
            advice=f"for one input with columns side by side, x={{{name}: [{', '.join(few)}]}}, or --x {name}={','.join(few)}",
        )
    if missing or more:
        told = [f"input {name!r} gets no column" for name in missing] + [
            f"the model has no input {name!r}" for name in more
        ]
        raise MismatchError(
            f"model {model.name!r} and {samples.name} do not go together: {', '.join(told)}",
            advice=f"say which column goes into which input, x={{{', '.join(f'{name}: …' for name in ports)}}}; there are "
            + ", ".join(list(samples.table.columns)[:12]),
        )
    reasons = []
    for name, port in ports.items():
        reason = _unfit(samples, given[name], port)
        if reason:
            reasons.append(reason)
    if reasons:
        raise MismatchError(*reasons)
    return replace(samples, inputs={name: given[name] for name in ports})


def check_texts(ports: Mapping[str, Port]) -> None:
    """Refuse inputs that take texts where Keras has none.

    Raises:
        MismatchError: If there is one.
    """
    texts, backend = [name for name, port in ports.items() if port.dtype == "string"], keras.config.backend()
    if texts and backend != "tensorflow":
        raise MismatchError(
            f"input {texts[0]!r} takes texts, and Keras on {backend} has none",
            advice="start Python with KERAS_BACKEND=tensorflow",
        )


def _named(samples: Samples, ports: Mapping[str, Port]) -> dict[str, tuple[str, ...]]:
    given = dict(samples.inputs)
    if set(given) == {""} and len(ports) == 1:
        return {next(iter(ports)): given[""]}
    if given and all(name.isdecimal() for name in given) and len(given) == len(ports):
        return {name: given[str(place)] for place, name in enumerate(ports)}
    if set(given) == {""}:
        columns = [name for name in ports if name in samples.table.columns]
        if len(columns) == len(ports):
            return {name: (name,) for name in ports}
    return given


def _unfit(samples: Samples, columns: tuple[str, ...], port: Port) -> str:
    """Return why columns do not go into an input, "" if they do."""
    found = {name: samples.table.columns[name] for name in columns}
    shape = next(iter(found.values())).shape if len(found) == 1 else (_width(found.values()),)
    kinds = [column.dtype for column in found.values()]
    named = ", ".join(columns[:3]) + (f" … ({len(columns)} columns)" if len(columns) > 3 else "")
    where = f"{named} of {samples.name}"
    if "str" in kinds and port.dtype != "string":
        name = columns[kinds.index("str")]
        reason = f"{name} of {samples.name} holds texts{_example(samples, name)}"
    else:
        reason = misfit(Column(shape, kinds[0]), kinds, port, where)
    changed = [
        f"{word} {by:g}" for word, by in (("scaled by", samples.scale), ("moved by", samples.offset)) if by is not None
    ]
    if not reason and changed and not port.dtype.startswith(("float", "bfloat")):
        reason = f"{where} would be {' and '.join(changed)}, which is for inputs of floating-point numbers"
    return reason and f"input {port.name!r} takes {Column(port.shape[1:], port.dtype)} and {reason}"


def misfit(column: Column, kinds: Sequence[str], port: Port, where: str) -> str:
    """Return why entries of a shape, made of elements of some kinds, do not go into an input, "" if they do."""
    wanted = port.shape[1:]
    if port.dtype == "string" and any(kind != "str" for kind in kinds):
        return f"{where} holds numbers"
    if not _same(column.shape, wanted) and not (column.shape == () and wanted == (1,)):
        return f"{where} is {column}"
    if port.dtype.startswith(("int", "uint", "bool")) and any(np.dtype(kind).kind == "f" for kind in kinds):
        return f"{where} holds fractions, which would be cut off"
    if port.dtype in NARROW and not all(np.can_cast(kind, port.dtype) for kind in kinds):
        return f"{where} holds {' and '.join(dict.fromkeys(kinds))}, which may not fit; save it as {port.dtype}"
    return ""


def _width(columns: Iterable[Column]) -> int | None:
    """Return how many numbers stand side by side, None where that is not known."""
    sizes = [size for column in columns for size in [_size(column.shape)]]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _size(shape: tuple[int | None, ...]) -> int | None:
    return None if None in shape else math.prod(size or 0 for size in shape)


def _example(samples: Samples, name: str) -> str:
    """Return the first text of a column that is no number, as messages say it."""
    for first in range(0, min(len(samples), 100 * BATCH), BATCH):
        rows = samples.rows[first : first + BATCH]
        for row, text in zip(rows, samples.table.take(name, rows).reshape(len(rows), -1), strict=True):
            for each in text:
                try:
                    float(each)
                except ValueError:
                    return f" such as {str(each)[:40]!r} (sample {row:,})"
    return ""


def check_values(samples: Samples, targets: Mapping[str, Target] | None = None) -> None:
    """Read all samples once and refuse what no model should be trained on.

    Args:
        samples: The samples, `matched`.
        targets: The outputs that labels belong to; none if labels are not used.

    Raises:
        DataError: For NaN or infinity in inputs, labels or weights, labels out of range, and weights below 0, with the first sample;
            for weights that are all 0.
    """
    counted = 0.0
    for part in samples.batches(BATCH):
        check_part(part, samples.name, targets)
        counted += 1 if part.weights is None else float(np.sum(part.weights))
    if not counted:
        raise DataError(f"the weights of all samples of {samples.name} (column {samples.weights!r}) are 0")


def check_part(part: Part, where: str, targets: Mapping[str, Target] | None = None) -> None:
    """Refuse what no model should be shown among samples that were read; see `check_values`.

    Args:
        part: The samples.
        where: What messages call the data.
        targets: The outputs that labels belong to; none if labels are not used.
    """
    for name, values in part.inputs.items():
        _finite(values, part.rows, f"input {name!r}", where)
    if part.weights is not None:
        _finite(part.weights, part.rows, "the weight", where)
        if (part.weights < 0).any():
            row = part.rows[np.argwhere(part.weights < 0)[0][0]]
            raise DataError(f"the weight of sample {row:,} of {where} is below 0")
    if part.labels is not None and targets:
        for target in targets.values():
            _label(part.labels, part.rows, target, where)


def _finite(values: NDArray[Any], rows: NDArray[np.int64], what: str, where: str) -> None:
    if values.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(values)
    if bad.any():
        place = np.argwhere(bad)[0]
        raise DataError(
            f"{what} of sample {rows[place[0]]:,} of {where} is {values[tuple(place)]}; fill it, or leave the sample out"
        )


def _label(labels: NDArray[Any], rows: NDArray[np.int64], target: Target, where: str) -> None:
    _finite(labels, rows, "the label", where)
    what = f"of {where} is {{}}, and output {target.name!r} "
    if target.kind in SWITCHES:
        _refuse((labels < 0) | (labels > 1), labels, rows, what + "says yes or no: expected 0 to 1")
    count = target.shape[-1] if target.shape else None
    if target.kind not in CATEGORICAL or count is None:
        return
    if _same(labels.shape[1:], target.shape) and labels.ndim > 1:
        _refuse((labels < 0) | (labels > 1), labels, rows, what + "gives probabilities: expected 0 to 1")
        sums = labels.sum(-1, dtype=np.float64)
        told = f"of {where} sums to {{:g}}, and output {target.name!r} gives probabilities of classes: expected numbers that sum to 1"
        _refuse(np.abs(sums - 1) > NOT_ONE, sums, rows, told)
        return
    wrong = (labels < 0) | (labels >= count) | (labels != np.floor(labels))
    _refuse(wrong, labels, rows, what + f"has {count} classes: expected a whole number from 0 to {count - 1}")


def _refuse(wrong: NDArray[np.bool_], values: NDArray[Any], rows: NDArray[np.int64], sentence: str) -> None:
    """Refuse the first label that is wrong."""
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise DataError(f"the label of sample {rows[place[0]]:,} " + sentence.format(values[place]))


def check_labels(samples: Samples, target: Target) -> None:
    """Refuse, before a sample is read, labels that cannot be those of an output.

    Raises:
        MismatchError: If there are none, or their shape does not fit.
        DataError: If they are texts, and no classes say which number each stands for.
    """
    if samples.labels is None:
        raise MismatchError(f"{samples.name} has no labels", advice="say which column holds them (y)")
    column = samples.table.columns[samples.labels]
    where = f"labels of {samples.name} (column {samples.labels!r})"
    if column.dtype == "str" and not samples.classes:
        raise DataError(
            f"{where} are texts; say which classes there are, in the order of the model's outputs (classes)"
        )
    check_shape(column.shape, target, where)


def check_shape(shape: tuple[int | None, ...], target: Target, where: str) -> None:
    """Refuse labels whose shape is not that of an output, nor that of numbers of its classes.

    Args:
        shape: The shape of one sample's label.
        target: The output.
        where: What messages call the labels.

    Raises:
        MismatchError: If they cannot be labels of it.
    """
    whole = target.shape
    classes = whole[:-1] if target.kind in CATEGORICAL else whole
    allowed = [whole, classes, (*classes, 1)] + ([()] if whole == (1,) else [])
    if not any(_same(shape, each) for each in allowed):
        wanted = f", expected that, or whole numbers of the shape {classes}" if target.kind in CATEGORICAL else ""
        raise MismatchError(f"{where} have the shape {shape}, output {target.name!r} gives {whole}{wanted}")


def _same(a: tuple[int | None, ...], b: tuple[int | None, ...]) -> bool:
    return len(a) == len(b) and all(x is None or y is None or x == y for x, y in zip(a, b, strict=True))


def target_of(model: Any, kind: str | None) -> Target:
    """Return the single output of a model as a target.

    Raises:
        MismatchError: If it has several.
    """
    ports = outputs(model)
    if len(ports) != 1:
        raise MismatchError(f"model {model.name!r} has {len(ports)} outputs ({', '.join(ports)}), expected one")
    port = next(iter(ports.values()))
    return Target(port.name, port.shape[1:], kind)

"""Data against a model: which column goes into which input, and whether what is in it is what the model takes.

Everything that shapes and dtypes tell is found before a sample is read; labels and values are looked at in one pass before training.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port, inputs, outputs
from graftwork.data import Column, Samples
from graftwork.data.samples import Part
from graftwork.errors import DataError, MismatchError

BATCH = 1024
"""Samples that are looked at in one piece."""

CATEGORICAL = ("probabilities", "logits")
"""Kinds of outputs whose labels are classes."""


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
    given = _named(samples, ports)
    missing = [name for name in ports if name not in given]
    more = [name for name in given if name not in ports]
    if missing or more:
        told = [f"input {name!r} gets no column" for name in missing] + [
            f"the model has no input {name!r}" for name in more
        ]
        raise MismatchError(
            f"model {model.name!r} and {samples.name} do not go together: {', '.join(told)}",
            advice=f"say which column goes into which input: x={{{', '.join(f'{name}: …' for name in ports)}}}",
        )
    reasons = []
    for name, port in ports.items():
        reason = _unfit(samples, given[name], port)
        if reason:
            reasons.append(reason)
    if reasons:
        raise MismatchError(*reasons)
    return replace(samples, inputs={name: given[name] for name in ports})


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
    found = [samples.table.columns[column] for column in columns]
    shape: tuple[int | None, ...] = found[0].shape
    if len(found) > 1:
        sizes = [int(np.prod([1, *(size or 0 for size in column.shape)])) for column in found]
        shape = (sum(sizes),)
    wanted = port.shape[1:]
    where = f"input {port.name!r} takes {Column(wanted, port.dtype)} and {', '.join(columns[:3])} of {samples.name} "
    fits = len(shape) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(shape, wanted, strict=True)
    )
    if not fits:
        return where + f"is {Column(shape, found[0].dtype)}"
    texts = [column.dtype == "str" for column in found]
    if any(texts) != (port.dtype == "string"):
        return where + ("holds texts" if any(texts) else "holds numbers")
    kinds = [np.dtype(column.dtype).kind for column in found if column.dtype != "str"]
    if samples.scale is None and port.dtype.startswith(("int", "uint")) and "f" in kinds:
        return where + "holds fractions, which would be cut off"
    return ""


def check_values(samples: Samples, targets: Mapping[str, Target] | None = None) -> None:
    """Read all samples once and refuse what no model should be trained on.

    Args:
        samples: The samples, `matched`.
        targets: The outputs that labels belong to; none if labels are not used.

    Raises:
        DataError: For NaN or infinity in inputs, labels or weights, labels out of range, and weights below 0, with the first sample.
    """
    for part in samples.batches(BATCH):
        check_part(part, samples.name, targets)


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
    if target.kind not in CATEGORICAL:
        return
    count = target.shape[-1] if target.shape else None
    if count is None or (labels.ndim > 1 and labels.shape[-1] == count and count > 1):
        return
    wrong = (labels < 0) | (labels >= count) | (labels != np.floor(labels))
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise DataError(
            f"the label of sample {rows[place[0]]:,} of {where} is {labels[place]}, and output {target.name!r} has {count} classes: "
            f"expected a whole number from 0 to {count - 1}"
        )


def check_labels(samples: Samples, target: Target) -> None:
    """Refuse, before a sample is read, labels that cannot be those of an output.

    Raises:
        MismatchError: If there are none, or their shape does not fit.
    """
    if samples.labels is None:
        raise MismatchError(f"{samples.name} has no labels", advice="say which column holds them (y)")
    shape = samples.table.columns[samples.labels].shape
    whole, own = target.shape, shape
    classes = target.shape[:-1] if target.kind in CATEGORICAL else whole
    allowed = [whole, classes, (*classes, 1)] + ([()] if whole == (1,) else [])
    if not any(_same(own, each) for each in allowed):
        raise MismatchError(
            f"labels of {samples.name} (column {samples.labels!r}) have the shape {shape}, output {target.name!r} gives {whole}"
        )


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

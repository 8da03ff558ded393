"""Batches of streams against a model: each is read as samples are, and refused where the model could not take it.

A stream may yield anything at any time, so every batch is looked at, and again each time that it comes.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port
from graftwork.data import Column
from graftwork.data.base import Stream
from graftwork.data.samples import Part
from graftwork.errors import DataError, MismatchError
from graftwork.models.lazy import keras
from graftwork.training.matching import Target, check_part, check_shape, check_texts, misfit

Ports = Mapping[str, Port] | None
"""What a model takes, by name; None where it does not say."""

TEXTS = "OUS"
"""Kinds of arrays that hold no numbers: texts, or Python objects such as lists of different lengths."""


def parts_of(stream: Stream, ports: Ports, target: Target | None = None, *, labelled: bool = True) -> Iterator[Part]:
    """Yield the batches of a stream as samples that were read, numbered through.

    Args:
        stream: The stream, which is gone through once.
        ports: What the model takes.
        target: The output that labels belong to, where they have to fit it.
        labelled: Whether labels are wanted; else they are left aside, whatever they are.

    Raises:
        DataError: If the stream yields nothing, or what no model should be shown.
        MismatchError: If there are no labels, or their shape does not fit.
    """
    done = 0
    for number, batch in enumerate(stream):
        where = f"batch {number:,} of {stream.name}"
        part = part_of(batch if labelled else (batch[0], None, *batch[2:]), ports, where, done)
        if labelled:
            if part.labels is None:
                raise MismatchError(f"{where} has no labels", advice="yield (inputs, labels)")
            if target is not None:
                check_shape(part.labels.shape[1:], target, f"labels of {where}")
        check_part(part, stream.name, None if target is None else {target.name: target})
        done += len(part.rows)
        yield part
    if not done:
        raise DataError(f"{stream.name} yields no batches")


def part_of(batch: tuple[Any, ...], ports: Ports, where: str, first: int = 0) -> Part:
    """Return a batch of a stream as samples that were read.

    Args:
        batch: Inputs, and perhaps labels and weights.
        ports: What the model takes.
        where: What messages call the batch.
        first: The number of the first sample in it.

    Raises:
        DataError: If the inputs are not those of the model, or labels and weights are not as many.
    """
    found = inputs_of(batch[0], ports, where)
    labels, weights = (
        None if values is None else _one(values, word, where)
        for word, values in zip(("labels", "weights"), (*batch[1:], None, None), strict=False)
    )
    return Part(rows_of(where, first, *found.values(), labels, weights), found, labels, weights)


def rows_of(where: str, first: int, *arrays: NDArray[Any] | None) -> NDArray[np.int64]:
    """Return the numbers of the samples in a batch.

    Args:
        where: What messages call the batch.
        first: The number of the first.
        arrays: All that is known of them; None counts for nothing.

    Raises:
        DataError: If these are not of one length.
    """
    counts = {len(values) if values.ndim else 0 for values in arrays if values is not None}
    if len(counts) > 1:
        raise DataError(f"the inputs, labels and weights in {where} are of different lengths: {sorted(counts)}")
    return np.arange(first, first + counts.pop(), dtype=np.int64)


def inputs_of(given: Any, ports: Ports, where: str) -> dict[str, NDArray[Any]]:
    """Return what a batch holds for each input of a model, in its order.

    Args:
        given: Arrays in any structure: by name, or in the order of the inputs.
        ports: What the model takes.
        where: What messages call the batch.

    Raises:
        DataError: If these are not the inputs of the model.
        MismatchError: If it takes texts, which this Keras cannot give it.
    """
    if ports is not None:
        check_texts(ports)
    found = {name: array_of(values, f"the inputs in {where}") for name, values in _flat(given, ports, where).items()}
    if not found:
        raise DataError(f"{where} holds no inputs")
    for name, values in found.items():
        if not values.ndim:
            raise DataError(f"{where} is one number; expected an array with one row per sample")
        if ports is not None:
            _check_input(values, ports[name], where)
    return found


def _check_input(values: NDArray[Any], port: Port, where: str) -> None:
    column = Column(values.shape[1:], "str" if values.dtype.kind in TEXTS else values.dtype.name)
    reason = misfit(column, [column.dtype], port, where)
    if not reason and column.dtype == "str" and port.dtype != "string":
        reason = f"{where} holds texts or lists"
    if reason:
        alone = (
            "; if that is one sample, yield batches of them (.batch(32) of tf.data)"
            if values.shape == port.shape[1:]
            else ""
        )
        raise DataError(
            f"input {port.name!r} takes {Column(port.shape[1:], port.dtype)}, and {reason} in each sample{alone}"
        )


def numbers_in(values: Any, what: str) -> NDArray[Any]:
    """Return labels or weights that a stream yields as an array of numbers.

    Args:
        values: The labels or weights.
        what: What messages call them, in the plural.

    Raises:
        DataError: If they are none.
    """
    found = array_of(values, what)
    if found.dtype.kind in TEXTS:
        raise DataError(f"{what} are texts or lists; batches must hold arrays of numbers")
    return found


def array_of(values: Any, what: str) -> NDArray[Any]:
    """Return what a stream yields as an array.

    Raises:
        DataError: If it is none.
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} are no array: {str(error).splitlines()[0]}") from error


def _flat(given: Any, ports: Ports, where: str) -> dict[str, Any]:
    if isinstance(given, Mapping):
        named = given
        if any(isinstance(values, Mapping) for values in given.values()):
            named = {"/".join(map(str, path)): values for path, values in keras.tree.flatten_with_path(given)}
        missing = [name for name in ports or () if name not in named]
        if missing:
            raise DataError(f"{where} holds {', '.join(map(repr, named))}, and the model takes {missing[0]!r}")
        return {name: named[name] for name in ports or named}
    flat = keras.tree.flatten(given) if isinstance(given, list | tuple) else [given]
    names = ["" if len(flat) == 1 else str(place) for place in range(len(flat))] if ports is None else list(ports)
    if len(flat) != len(names):
        raise DataError(f"{where} holds {len(flat)} inputs, and the model takes {', '.join(names)}")
    return dict(zip(names, flat, strict=True))


def _one(values: Any, word: str, where: str) -> NDArray[Any]:
    several = isinstance(values, list | tuple) and any(hasattr(each, "shape") and each.shape for each in values)
    if isinstance(values, Mapping) or several:
        raise DataError(f"{where} holds several {word}; expected those of one output")
    return numbers_in(values, f"the {word} in {where}")

"""Data shown to one model in one pass: samples and streams alike, looked at before the model sees them, in batches of at most one size."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of, inputs
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.data.samples import Part
from graftwork.errors import DataError, MismatchError
from graftwork.training.matching import Target, check_labels, check_part, matched
from graftwork.training.streams import parts_of
from graftwork.training.tokens import check_tokens, vocabularies


def shown(
    model: Any,
    data: Samples | Stream,
    batch: int,
    *,
    labelled: bool = False,
    target: Target | None = None,
    most: int | None = None,
) -> Iterator[Part]:
    """Yield samples as a model takes them, inputs in its order.

    Args:
        model: The model; of one that does not say what it takes, inputs come as the data has them.
        data: The data.
        batch: The most samples in one piece.
        labelled: Whether labels are wanted.
        target: The output that they have to fit.
        most: The most samples in all, the first; None for all.

    Raises:
        MismatchError: If the data does not go into the model, or there are no labels.
        DataError: If it holds NaN or infinity, words that no Embedding knows, or labels that are none of the output, as far as it is read.
    """
    known = vocabularies(model)
    for part in _checked(model, data, batch, labelled, target, most):
        check_tokens(known, part.inputs, part.rows, data.name)
        yield part


def _checked(
    model: Any, data: Samples | Stream, batch: int, labelled: bool, target: Target | None, most: int | None
) -> Iterator[Part]:
    if isinstance(data, Samples):
        yield from _of_samples(model, data if labelled else replace(data, labels=None), batch, target, labelled, most)
        return
    left = most
    for part in parts_of(data, inputs(model) if graph_of(model) is not None else None, target, labelled=labelled):
        for first in range(0, len(part.rows), batch):
            piece = only(part, slice(first, first + (batch if left is None else min(batch, left))))
            yield piece
            left = None if left is None else left - len(piece.rows)
            if left == 0:
                return


def _of_samples(
    model: Any, data: Samples, batch: int, target: Target | None, labelled: bool, most: int | None
) -> Iterator[Part]:
    found = matched(data, model) if graph_of(model) is not None else data
    if target is not None:
        check_labels(found, target)
    elif labelled and found.labels is None:
        raise MismatchError(f"{found.name} has no labels", advice="say which column holds them (y)")
    for part in found.only(slice(most)).batches(batch):
        check_part(part, found.name, None if target is None else {target.name: target})
        yield part


def only(part: Part, places: Any) -> Part:
    """Return some of the samples that were read, by their places."""
    return Part(
        part.rows[places],
        {name: values[places] for name, values in part.inputs.items()},
        None if part.labels is None else part.labels[places],
        None if part.weights is None else part.weights[places],
    )


class Counted:
    """What the samples of one pass count.

    Args:
        name: What messages call the data.

    Attributes:
        samples: How many there were.
        total: What they count in all.
    """

    def __init__(self, name: str) -> None:
        self.samples, self.total = 0, 0.0
        self._name = name

    def add(self, part: Part) -> NDArray[np.float32] | None:
        """Return what each sample counts; None where all count one.

        Raises:
            DataError: If that is not one number for each.
        """
        count = len(part.rows)
        self.samples += count
        if part.weights is None:
            self.total += count
            return None
        if part.weights.size != count:
            raise DataError(
                f"the weights of {self._name} have the shape {part.weights.shape[1:]} for each sample; expected one number"
            )
        found = part.weights.reshape(count)
        self.total += float(found.sum(dtype=np.float64))
        return found.astype(np.float32)

    def refuse_nothing(self) -> None:
        """Refuse samples that all count nothing.

        Raises:
            DataError: If they do.
        """
        if not self.total:
            raise DataError(f"the weights of all samples of {self._name} are 0")

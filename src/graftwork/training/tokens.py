"""Numbers that stand for words: an Embedding layer knows so many, and beyond them Keras fails, wraps around, or gives zeros, by device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.graph import Graph, is_graph
from graftwork.compose.ports import inputs
from graftwork.data import Samples
from graftwork.errors import DataError
from graftwork.models.lazy import keras

BATCH = 1024
"""Samples that are looked at in one piece."""


@dataclass(frozen=True, slots=True)
class Known:
    """What an input goes into.

    Attributes:
        layer: The Embedding layer.
        count: How many numbers it knows, from 0 on.
    """

    layer: str
    count: int


def vocabularies(model: Any) -> dict[str, Known]:
    """Return the smallest Embedding that each input of a model goes into as it is, by the input's name."""
    if not is_graph(model):
        return {}
    graph = Graph(model, deep=True)
    names = dict(zip(graph.inputs, inputs(model), strict=True))
    found: dict[str, Known] = {}
    for step in graph.steps:
        if isinstance(step.operation, keras.layers.Embedding) and step.takes[0] in names:
            name, known = names[step.takes[0]], Known(step.operation.name, int(step.operation.input_dim))
            if name not in found or known.count < found[name].count:
                found[name] = known
    return found


def check_tokens(
    known: Mapping[str, Known], given: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], where: str
) -> None:
    """Refuse numbers that an Embedding layer does not know.

    Args:
        known: What inputs go into; see `vocabularies`.
        given: Samples, by input.
        rows: Their numbers.
        where: What messages call the data.

    Raises:
        DataError: With the first sample that holds one.
    """
    for name, each in known.items():
        wrong = (given[name] < 0) | (given[name] >= each.count)
        if wrong.any():
            place = tuple(np.argwhere(wrong)[0])
            raise DataError(
                f"input {name!r} of sample {rows[place[0]]:,} of {where} is {given[name][place]}, and Embedding {each.layer!r} knows "
                f"{each.count:,}: expected whole numbers from 0 to {each.count - 1:,}"
            )


def smallest(names: Sequence[str], *models: Any) -> dict[str, Known]:
    """Return the smallest Embedding that each input goes into as it is, in any of several models.

    Args:
        names: What the inputs are called, in the order in which each model takes them.
        models: The models.
    """
    known: dict[str, Known] = {}
    for model in models:
        found = vocabularies(model)
        for name, ours in zip(inputs(model), names, strict=True) if found else ():
            if name in found and (ours not in known or found[name].count < known[ours].count):
                known[ours] = found[name]
    return known


def check_all(samples: Samples, *models: Any) -> None:
    """Go through all samples once, and refuse numbers that Embedding layers of models do not know.

    Args:
        samples: The samples.
        models: What they are shown to; they are `matched` with each, or with a model that takes the same inputs in this order.

    Raises:
        DataError: If there is one.
    """
    known = smallest(list(samples.inputs), *models)
    for part in samples.batches(BATCH) if known else ():
        check_tokens(known, part.inputs, part.rows, samples.name)

"""Models asked what they say, in inference mode, also those that only take batches of one size."""

from typing import Any

import numpy as np

from graftwork.compose.ports import inputs, outputs
from graftwork.models.lazy import keras
from graftwork.training.feeding import tensor_of


def fixed(model: Any) -> int | None:
    """Return the only size of batches that a model takes, or gives by a Reshape of its own, say; None if it takes any."""
    for ports in (inputs(model), outputs(model)):
        sizes = [size for port in ports.values() for size in port.shape[:1] if size is not None]
        if sizes:
            return min(sizes)
    return None


def asked(model: Any, given: Any, count: int) -> Any:
    """Return what a model says, with a row for each sample.

    A model that takes batches of one size gets as many as it takes; the last one is filled up with the first samples.

    Args:
        model: The model.
        given: Arrays in the structure of its inputs.
        count: How many samples that is.
    """
    size = fixed(model)
    if size is None or size == count:
        return model.predict_on_batch(ready(given))
    said = [model.predict_on_batch(ready(rows(given, first, size, count))) for first in range(0, count, size)]
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts)[:count], *said)


def piece(model: Any, given: Any, count: int) -> Any:
    """Return a batch as Keras takes it, or the first of it if the model takes batches of another size only."""
    size = fixed(model)
    return ready(given if size in (None, count) else rows(given, 0, size, count))


def rows(given: Any, first: int, size: int, count: int) -> Any:
    """Return `size` samples of a batch from one on; after the last of `count` it goes on with the first."""
    places = np.arange(first, first + size) % count
    return keras.tree.map_structure(lambda each: np.asarray(each)[places], given)


def ready(given: Any) -> Any:
    """Return arrays as Keras takes them."""
    return keras.tree.map_structure(lambda each: tensor_of(np.asarray(each)), given)

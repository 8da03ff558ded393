"""Samples as Keras takes them: batches in the structure of a model's inputs, in an order that a seed fixes."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.errors import DataError
from graftwork.models.lazy import keras


def packed(model: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return arrays by the names of a model's inputs, in the structure that it takes."""
    graph = graph_of(model)
    ready = [tensor_of(values) for values in arrays.values()]
    return keras.tree.pack_sequence_as(graph._inputs_struct, ready)


def tensor_of(values: NDArray[Any]) -> Any:
    """Return an array as Keras takes it: texts as tensors of texts, integers in the width of models."""
    if values.dtype.kind in "OUS":
        import tensorflow as tf

        return tf.constant(values.astype(object))
    return values


def predictions(model: Any, samples: Samples, batch: int) -> Iterator[tuple[Any, dict[str, NDArray[Any]]]]:
    """Yield the samples, read, and what a model says of them by the names of its outputs, in inference mode.

    Args:
        model: A model whose inputs are known.
        samples: Samples that are `matched` with it.
        batch: How many are dealt with at a time.
    """
    from graftwork.compose.ports import outputs

    names = list(outputs(model))
    for part in samples.batches(batch):
        said = keras.tree.flatten(model.predict_on_batch(packed(model, part.inputs)))
        yield part, {name: np.asarray(value) for name, value in zip(names, said, strict=True)}


def dataset(model: Any, samples: Samples, batch: int, *, seed: int | None = None) -> Any:
    """Return samples as a `keras.utils.PyDataset` for `fit`: the same batches for the same seed, another order in each epoch.

    Args:
        model: The model that is trained.
        samples: Samples that are `matched` with it.
        batch: How many stand in a batch; the last may have fewer.
        seed: Draws the order; without it samples come as they are.
    """

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.epoch = 0
            self._order = self._drawn()

        def _drawn(self) -> Samples:
            return samples if seed is None else samples.shuffled(seed, self.epoch)

        def __len__(self) -> int:
            return -(-len(samples) // batch)

        def __getitem__(self, number: int) -> Any:
            part = samples.take(self._order.rows[number * batch : (number + 1) * batch])
            found: tuple[Any, ...] = (keras.tree.lists_to_tuples(packed(model, part.inputs)),)
            if part.labels is not None:
                found = (*found, part.labels)
                if part.weights is not None:
                    found = (*found, part.weights)
            return found

        def on_epoch_end(self) -> None:
            self.start_at(self.epoch + 1)

        def start_at(self, epoch: int) -> None:
            """Give the batches of an epoch next."""
            self.epoch = epoch
            self._order = self._drawn()

    return Batches()


def in_order(feed: Any) -> Any:
    """Return a callback for `fit` that gives each epoch the order that its number fixes.

    Keras looks at batches before the first epoch of a model that it has not built yet, and calls that the end of one; so what counts
    epochs by their ends is one ahead, at times.

    Args:
        feed: What `dataset` returned, or anything else with a `start_at`.
    """

    class InOrder(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            feed.start_at(epoch)

    return InOrder()


def streamed(
    stream: Stream, look: Callable[[Any], object] = lambda batch: None, made: Callable[[Any], Any] = lambda batch: batch
) -> Any:
    """Return the batches of a stream as a `keras.utils.PyDataset`: each epoch goes through it once, in its own order.

    Args:
        stream: The stream; it is gone through once to count its batches.
        look: Is shown every batch that is counted, and refuses what does not fit.
        made: Makes of a batch what Keras is given.

    Raises:
        DataError: If it yields nothing.
    """
    count = 0
    for each in stream:
        look(each)
        count += 1
    if not count:
        raise DataError(f"{stream.name} yields no batches")

    class Streamed(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._rest: Iterator[Any] = iter(())

        def __len__(self) -> int:
            return count

        def __getitem__(self, number: int) -> Any:
            if number == 0:
                self._rest = iter(stream)
            batch = next(self._rest, None)
            if batch is None:  # a stream that is shorter this time goes on from its beginning
                self._rest = iter(stream)
                batch = next(self._rest)
            return made(batch)

    return Streamed()

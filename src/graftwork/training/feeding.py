"""Samples as Keras takes them: batches in the structure of a model's inputs, in an order that a seed fixes."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of
from graftwork.data import Samples
from graftwork.data.samples import Part
from graftwork.models.lazy import keras
from graftwork.training.failing import failing, on
from graftwork.training.tokens import check_tokens, vocabularies


def arranged(model: Any, given: Mapping[str, Any]) -> Any:
    """Return what is given for each input of a model, in the order of these, in the structure that it takes.

    A model that does not say what it takes gets one by itself, numbered ones in a list, and named ones by name.
    """
    graph = graph_of(model)
    if graph is not None:
        return keras.tree.pack_sequence_as(graph._inputs_struct, list(given.values()))
    if set(given) == {""}:
        return given[""]
    return list(given.values()) if all(name.isdecimal() for name in given) else dict(given)


def packed(model: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return arrays as a model takes them; see `arranged`."""
    return arranged(model, {name: tensor_of(values) for name, values in arrays.items()})


def fitted(model: Any, part: Part) -> tuple[Any, ...]:
    """Return samples that were read as `fit` takes them: inputs, labels and weights, as far as there are any."""
    found: tuple[Any, ...] = (keras.tree.lists_to_tuples(packed(model, part.inputs)),)
    if part.labels is not None or part.weights is not None:
        found = (*found, part.labels)
    return found if part.weights is None else (*found, part.weights)


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

    names, known = list(outputs(model)), vocabularies(model)
    for part in samples.batches(batch):
        check_tokens(known, part.inputs, part.rows, samples.name)
        given = packed(model, part.inputs)
        with failing(model.name, on(part.rows, samples.name), model, given):
            said = keras.tree.flatten(model.predict_on_batch(given))
        yield part, {name: np.asarray(value) for name, value in zip(names, said, strict=True)}


def kept_if_raised(get: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Return the `__getitem__` of a `keras.utils.PyDataset` which keeps what it raises, for `raised_as_it_was`."""

    @functools.wraps(get)
    def kept(self: Any, number: int) -> Any:
        try:
            return get(self, number)
        except BaseException as error:
            self.raised = error, error.__cause__
            raise

    return kept


@contextlib.contextmanager
def raised_as_it_was(*feeds: Any) -> Iterator[None]:
    """Raise what a feed raised while Keras asked it as it was: Keras takes the cause away, and TensorFlow makes an error of the text alone.

    Args:
        feeds: Whose `__getitem__` is `kept_if_raised`; None for one that there is not.
    """
    try:
        yield
    except Exception:
        for feed in feeds:
            error, cause = getattr(feed, "raised", (None, None))
            if error is not None:
                raise error from cause
        raise


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

        @kept_if_raised
        def __getitem__(self, number: int) -> Any:
            return fitted(model, samples.take(self._order.rows[number * batch : (number + 1) * batch]))

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


def streamed(batches: Callable[[], Iterator[Part]], made: Callable[[Part], Any]) -> Any:
    """Return the batches of a stream as a `keras.utils.PyDataset`: each epoch goes through it once, in its own order.

    Args:
        batches: Goes through the stream, and refuses what does not fit; it is gone through once here, to count them.
        made: Makes of a batch what Keras is given.
    """
    count = sum(1 for _ in batches())

    class Streamed(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._rest: Iterator[Part] = iter(())

        def __len__(self) -> int:
            return count

        @kept_if_raised
        def __getitem__(self, number: int) -> Any:
            if number == 0:
                self._rest = batches()
            batch = next(self._rest, None)
            if batch is None:  # a stream that is shorter this time goes on from its beginning
                self._rest = batches()
                batch = next(self._rest)
            return made(batch)

    return Streamed()

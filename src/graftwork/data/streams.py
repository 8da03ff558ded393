"""What programs make: generators, data sets of TensorFlow, Keras's own, and functions that return any of these."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from graftwork.errors import DataError


class Batches:
    """Batches of anything that yields them; see `graftwork.data.base.Stream`.

    Args:
        source: A `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that returns a new iterator each time it is called.
        name: What messages call it.
    """

    def __init__(self, source: Any, name: str) -> None:
        self.source, self.name = source, name

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        found = self.source() if callable(self.source) and not hasattr(self.source, "__getitem__") else self.source
        if hasattr(found, "as_numpy_iterator"):
            found = found.as_numpy_iterator()
        elif hasattr(found, "__getitem__") and hasattr(found, "__len__") and not hasattr(found, "__iter__"):
            found = (found[number] for number in range(len(found)))
        for batch in found:
            yield batch if isinstance(batch, tuple) else (batch,)


def is_stream(data: Any) -> bool:
    """Return whether something gives batches and is no table: a data set of TensorFlow or Keras, or a function."""
    known = ("DatasetV2", "PyDataset", "Dataset")
    return any(cls.__name__ in known for cls in type(data).__mro__) or (callable(data) and not isinstance(data, type))


def called(spelling: str, arguments: Mapping[str, Any]) -> Any:
    """Return what a function gives that is spelled ``module:function``.

    Raises:
        DataError: If there is no such function, or it fails.
    """
    module, _, name = spelling.partition(":")
    if not module or not name:
        raise DataError(f"{spelling!r} is no function; write MODULE:FUNCTION")
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise DataError(f"there is no function {spelling}: {error}") from error
    try:
        return function(**arguments)
    except Exception as error:
        raise DataError(f"{spelling} failed: {type(error).__name__}: {error}") from error

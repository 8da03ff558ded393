"""What programs make: generators, data sets of TensorFlow, Keras's own, and functions that return any of these."""

import functools
import importlib
import inspect
import itertools
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import DataError, GraftworkError, gist

ENDLESS = -1
"""What TensorFlow says of the number of batches if there is no last one."""

END: Any = object()
"""Stands behind the last batch."""

INSTALLED = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "purelib", "platlib"))
"""Where code lies that is nobody's own."""

OURS = str(Path(__file__).parent.parent)
"""Where graftwork's lies."""


class Batches:
    """Batches of anything that yields them; see `graftwork.data.base.Stream`.

    Args:
        source: A `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that returns a new iterator each time it is called.
        name: What messages call it.
        most: How many batches are read at most; all, if None.

    Raises:
        DataError: If it says itself that it never ends, and nothing is said of how much of it is meant.
    """

    def __init__(self, source: Any, name: str, most: int | None = None) -> None:
        self.source, self.name, self.most = source, name, most
        if most is not None:
            return
        if _is_of(source, "Dataset", "tensorflow") and int(source.cardinality()) == ENDLESS:
            raise DataError(
                f"{name} never ends; leave repeat() out, or say how many batches are meant (take, or `batches` in a description)"
            )
        if hasattr(source, "__getitem__") and not hasattr(source, "__len__"):
            raise DataError(
                f"{name} never ends, since its class does not say how many batches there are; give it a __len__"
            )

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        found = itertools.islice(self._read(), self.most)
        for number in itertools.count():
            try:
                batch = next(found, END)
            except GraftworkError:
                raise
            except Exception as error:
                raise DataError(f"batch {number:,} of {self.name} cannot be made: {why(error)}") from error
            if batch is END:
                return
            one = batch if isinstance(batch, tuple) else (batch,)
            if not 1 <= len(one) <= 3:
                raise DataError(
                    f"batch {number:,} of {self.name} has {len(one)} parts; expected inputs, labels and weights"
                )
            yield one

    def _read(self) -> Iterator[Any]:
        """Yield what the source does."""
        source = self.source
        if hasattr(source, "as_numpy_iterator"):
            yield from source.as_numpy_iterator()
        elif hasattr(source, "__getitem__"):
            for place in range(len(source)) if hasattr(source, "__len__") else itertools.count():
                yield source[place]
        else:
            made = source()
            if not hasattr(made, "__iter__"):
                raise DataError(f"{self.name} returns a {type(made).__name__}; expected an iterator of batches")
            yield from made


def is_stream(data: Any) -> bool:
    """Return whether something gives batches and is no table: a data set of TensorFlow or Keras, or a function."""
    return (
        _is_of(data, "Dataset", "tensorflow")
        or _is_of(data, "PyDataset", "keras")
        or _is_of(data, "Sequence", "keras", "tf_keras")
        or inspect.isroutine(data)
        or isinstance(data, functools.partial)
    )


def _is_of(data: Any, name: str, *packages: str) -> bool:
    """Return whether an object is of a class that a package defines; it need not be loaded for that."""
    return any(
        cls.__name__ in (name, f"{name}V2") and cls.__module__.partition(".")[0] in packages
        for cls in type(data).__mro__
    )


def called(spelling: str, arguments: Mapping[str, Any], root: Path) -> Any:
    """Return what a function gives that is spelled ``module:function``; for one that yields, a function that yields anew.

    Args:
        spelling: Module and function.
        arguments: What the function is called with.
        root: Where modules are looked for, too.

    Raises:
        DataError: If there is no such function, or it fails.
    """
    module, _, name = spelling.partition(":")
    if not module or not name:
        raise DataError(f"{spelling!r} is no function; write MODULE:FUNCTION")
    function = _function(module, name, root)
    made: Callable[[], Any] = functools.partial(function, **arguments)
    if inspect.isgeneratorfunction(function):
        return made
    try:
        found = made()
    except Exception as error:
        raise DataError(f"{spelling} failed: {why(error)}") from error
    return made if hasattr(found, "__next__") else found


def _function(module: str, name: str, root: Path) -> Callable[..., Any]:
    place = str(root.resolve())
    sys.path.insert(0, place)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise DataError(
            f"there is no module {error.name!r}, neither in {place} nor where Python looks ({module}:{name})"
        ) from error
    except AttributeError as error:
        raise DataError(f"module {module!r} has no function {name!r}") from error
    except Exception as error:
        raise DataError(f"module {module!r} fails: {why(error)}") from error
    finally:
        sys.path.remove(place)
    if not callable(found):
        raise DataError(f"{module}:{name} is a {type(found).__name__}, not a function")
    return found  # type: ignore[no-any-return]


def why(error: BaseException) -> str:
    """Return what somebody's own code raised, and the line of it: the command line shows no more.

    Of what code raised that TensorFlow runs (`from_generator`, `py_function`), the lines stand in the text of TensorFlow's error.
    """
    frames = [(each.filename, each.lineno) for each in traceback.extract_tb(error.__traceback__)]
    lines = [*frames, *re.findall(r'File "(.+?)", line (\d+)', str(error))]
    own = [(file, line) for file, line in lines if not file.startswith((*INSTALLED, OURS, "<"))]
    return gist(error) + (f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else "")

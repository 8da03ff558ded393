"""What a model fails with on data that was checked: texts that a lookup does not know, shapes that only its own code asks for, memory.

TensorFlow and JAX say it in errors of their own, and Keras repeats errors of whatever kind that a layer raises, after pages of places in
code that is not the user's.
"""

import contextlib
import traceback
from collections.abc import Iterator
from typing import Any

from graftwork.data.base import Rows
from graftwork.errors import DataError, gist
from graftwork.models.lazy import keras

BACKENDS = ("tensorflow", "jax", "jaxlib", "torch")
"""Packages whose errors are about what a model was given."""

CALLING = "Exception encountered when calling "
"""What Keras puts in front of what a layer raises."""


@contextlib.contextmanager
def failing(name: str, when: str, model: Any = None, given: Any = None) -> Iterator[None]:
    """Refuse what a model fails on: which, when, in which layer, and what its backend, or the layer, says of it.

    Args:
        name: The model's.
        when: What it is doing; see `on`.
        model: The model, where the layer can be looked for.
        given: What it is called with then, or a function that returns that.

    Raises:
        DataError: If the backend or a layer fails.
    """
    try:
        yield
    except Exception as error:
        if not of_model(error):
            raise
        layer = "" if given is None else _layer(model, given)
        raise DataError(f"model {name!r} fails {when}{layer}: {gist(error)}") from error


def of_model(error: Exception) -> bool:
    """Return whether an error is that of a backend or a layer; any other is one of code, and stays what it is."""
    own = type(error).__module__.partition(".")[0] in BACKENDS
    return own or (bool(error.args) and CALLING in str(error.args[0]))


def _layer(model: Any, given: Any) -> str:
    """Return the layer in which a model fails and what that is called with, as messages say it; "" if it does not fail another time."""
    filtered = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        model(given() if callable(given) else given, training=False)
    except Exception as error:  # the one that was just seen, or its like
        frames = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)]
        calls = [each for each in frames if isinstance(each.get("self"), keras.Operation) and "args" in each]
        if not calls:
            return ""
        layer, taken = calls[-1]["self"], keras.tree.flatten(calls[-1]["args"])
        told = ", ".join(
            f"{keras.backend.standardize_dtype(each.dtype)} {tuple(each.shape)}"
            for each in taken
            if hasattr(each, "shape")
        )
        return f" in layer {layer.name!r} ({type(layer).__name__}), which is given {told}"
    finally:
        if filtered:
            keras.config.enable_traceback_filtering()
    return ""


def on(rows: Rows, where: str) -> str:
    """Return which batch a model is shown, for `failing`.

    Args:
        rows: The numbers of its samples.
        where: What messages call the data.
    """
    return f"on the batch of {where} that begins with sample {rows[0]:,}"

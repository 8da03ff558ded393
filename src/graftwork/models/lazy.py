"""Keras, imported when it is first used: what only declares things about models costs nothing to import."""

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

from graftwork import models
from graftwork.errors import OptionError


class _Lazy:
    """Stands for a module until an attribute of it is wanted."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load_keras(), name)


keras: Any = _Lazy()
"""The module `keras`."""


def load_keras() -> Any:
    """Return Keras, imported as loudly as `graftwork.models.quiet` allows.

    Raises:
        OptionError: If it cannot be imported, as where its backend is not installed.
    """
    silent = models.quiet and "keras" not in sys.modules
    if silent:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        logging.getLogger("tensorflow").addFilter(worth_saying)
    try:
        with without_stderr() if silent else contextlib.nullcontext():
            return importlib.import_module("keras")
    except (ImportError, ValueError) as error:  # of names that are no backend's, Keras says the latter
        chosen = os.environ.get("KERAS_BACKEND")
        backend = f"KERAS_BACKEND={chosen}" if chosen else "the backend that its configuration names, if any"
        raise OptionError(
            f"Keras cannot be imported with {backend}: {error}; install what is missing, or set KERAS_BACKEND to one that is installed"
        ) from error


def worth_saying(record: logging.LogRecord) -> bool:
    """Return whether a line of TensorFlow's log is for users; that of functions traced too often counts by code, which all models share."""
    return "triggered tf.function retracing" not in record.getMessage()


@contextlib.contextmanager
def without_stderr() -> Iterator[None]:
    """Lose what is written to standard error, from C++ as well, which Python cannot catch."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Lose what TensorFlow, converters and runtimes say about themselves; what matters comes out as an error or a difference."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), without_stderr() if models.quiet else contextlib.nullcontext():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

"""What a model fails with on data that was checked: texts that a lookup does not know, shapes that only its own code asks for, memory.

TensorFlow and JAX say it in errors of their own, after pages of places in code that is not the user's.
"""

import contextlib
from collections.abc import Iterator

from graftwork.data.base import Rows
from graftwork.errors import DataError, gist

BACKENDS = ("tensorflow", "jax", "jaxlib", "torch")
"""Packages whose errors are about what a model was given; any other error is one of code, and stays what it is."""


@contextlib.contextmanager
def failing(name: str, when: str) -> Iterator[None]:
    """Refuse what a model fails on: which, when, and what its backend says of it.

    Args:
        name: The model's.
        when: What it is doing; see `on`.

    Raises:
        DataError: If the backend fails.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in BACKENDS:
            raise
        raise DataError(f"model {name!r} fails {when}: {gist(error)}") from error


def on(rows: Rows, where: str) -> str:
    """Return which batch a model is shown, for `failing`.

    Args:
        rows: The numbers of its samples.
        where: What messages call the data.
    """
    return f"on the batch of {where} that begins with sample {rows[0]:,}"

"""Names inside a composition: each is used once, the same ones every time, and Keras takes them."""

import re
from collections.abc import Iterable
from typing import Any


class Names:
    """The names that a graph has in use.

    Args:
        used: Those that are taken from the beginning.
    """

    def __init__(self, used: Iterable[str] = ()) -> None:
        self._used = set(used)

    def __contains__(self, name: str) -> bool:
        """Return whether a name is in use."""
        return name in self._used

    def fresh(self, wanted: str) -> str:
        """Return a name nobody has, and take it: the one that is wanted, or that with the first free number behind it."""
        wanted = as_layer_name(wanted)
        name, number = wanted, 1
        while name in self._used:
            number += 1
            name = f"{wanted}_{number}"
        self._used.add(name)
        return name


def as_layer_name(text: str) -> str:
    """Return a text as the name of a layer, which every backend takes: letters, digits, points, dashes and underscores."""
    name = re.sub(r"[^A-Za-z0-9_.\-]+", "_", text)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"m{name}"


def named(value: Any, name: str) -> Any:
    """Give the operation that made a Keras tensor a name, and return the tensor; arrays are handed through."""
    history = getattr(value, "_keras_history", None)
    if history is not None and history.operation is not None:
        history.operation.name = name
    return value

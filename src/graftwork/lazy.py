"""What is imported when it is first used: NumPy, and the names that a room offers.

What reads headers alone needs no arrays, and starts in half the time: stores take `np` from here. It is NumPy itself to type checkers, and
the same functions and types to everyone else.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

__all__ = ["NDArray", "names_in", "np"]


def names_in(package: str, homes: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a package's ``__getattr__``, which finds each name in the file that it comes from.

    Args:
        package: The package's full name.
        homes: By file (or package), without the package's name: what comes from it.
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def attribute(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{home_of[name]}"), name)

    return attribute


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:

    class _Lazy:
        """Stands for a module until an attribute of it is wanted."""

        def __init__(self, name: str) -> None:
            self._name = name

        def __getattr__(self, attribute: str) -> Any:
            found = getattr(importlib.import_module(self._name), attribute)
            setattr(self, attribute, found)
            return found

    class NDArray:
        """Stands for the type of arrays in signatures."""

        def __class_getitem__(cls, _: Any) -> Any:
            return Any

    np = _Lazy("numpy")

"""NumPy, imported when it is first used: what reads headers alone needs no arrays, and starts in half the time.

Stores take `np` from here. It is NumPy itself to type checkers, and the same functions and types to everyone else.
"""

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["NDArray", "np"]

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

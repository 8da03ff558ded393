"""Merge methods: one file per method, or per family with one formula.

Importing this room imports every file in it, and each registers its methods in `METHODS`: adding one is adding a file. Neither Numba nor
SciPy nor Keras is imported.
"""

import importlib
import pkgutil

from graftwork.methods.base import CHUNK, METHODS, Base, Block, MergeMethod, PerModel, Reduction, get, merge_method

__all__ = ["CHUNK", "METHODS", "Base", "Block", "MergeMethod", "PerModel", "Reduction", "get", "merge_method"]

_NO_METHODS = ("base", "options", "arrays")

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    if _module not in _NO_METHODS:
        importlib.import_module(f"{__name__}.{_module}")

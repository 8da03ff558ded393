"""Merge methods: one file per method, or per family with one formula.

Importing this room registers them all in `METHODS`; it imports neither Numba nor Keras.
"""

from graftwork.methods.base import METHODS, Base, Block, MergeMethod, PerModel, Reduction, get, merge_method
from graftwork.methods.linear import Linear

__all__ = ["METHODS", "Base", "Block", "Linear", "MergeMethod", "PerModel", "Reduction", "get", "merge_method"]

"""Merge methods: one file per method, or per family with one formula.

Importing this room registers them all in `METHODS`; it imports neither Numba nor Keras.
"""

from graftwork.methods.base import CHUNK, METHODS, Base, Block, MergeMethod, PerModel, Reduction, get, merge_method
from graftwork.methods.dare import DareLinear, DareTies
from graftwork.methods.linear import Linear
from graftwork.methods.passthrough import Passthrough
from graftwork.methods.slerp import Slerp
from graftwork.methods.task_arithmetic import TaskArithmetic
from graftwork.methods.ties import Ties

__all__ = [
    "CHUNK",
    "METHODS",
    "Base",
    "Block",
    "DareLinear",
    "DareTies",
    "Linear",
    "MergeMethod",
    "Passthrough",
    "PerModel",
    "Reduction",
    "Slerp",
    "TaskArithmetic",
    "Ties",
    "get",
    "merge_method",
]

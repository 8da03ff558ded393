"""Names, shapes, dtypes and roles of tensors, without their values.

A plan is built from `TensorSpec`s alone. That is what lets a wrong merge be refused in milliseconds, before a single
weight is read. Nothing here may import a library that reads files.
"""

import math
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a tensor is for, which decides what a merge does with it."""

    WEIGHT = "weight"  # goes through the method
    STATISTIC = "statistic"  # running mean, variance: averaged; the plan says to recalibrate
    COUNTER = "counter"  # copied from the first model when equal, reported when not
    SEED = "seed"  # likewise
    OPTIMIZER = "optimizer"  # dropped unless asked for
    QUANTIZED = "quantized"  # refused: averaging codes is meaningless
    TABLE = "table"  # lookup vocabularies: must be equal


def number_in(text: str) -> int | None:
    """Return the number that a piece of a name is, or None where it is none (or longer than any counter gets)."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else None


ITEMSIZE = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes per element of every dtype that graftwork stores, by its name."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that merge methods compute with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor without its values.

    Attributes:
        name: Canonical name: the chain of layer names and the variable name (``encoder/block_1/conv/kernel``), the same
            whatever the format.
        shape: Sizes of the axes; ``()`` for a scalar.
        dtype: A key of `ITEMSIZE`.
        role: What the tensor is for.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = Role.WEIGHT

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Bytes that the values take in a file."""
        return self.size * ITEMSIZE[self.dtype]

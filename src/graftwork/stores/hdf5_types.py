"""The types and shapes of an HDF5 file's datasets and attributes: datatypes and dataspaces."""

import math
import struct
from typing import Any, Final, NamedTuple

from graftwork.lazy import np
from graftwork.stores.hdf5_pages import damaged

MAX_VALUE_BYTES: Final = 1 << 26
"""The value of one attribute; `model_config` may be as long as a ``config.json``."""

MAX_ELEMENTS: Final = 1 << 56
"""Elements of one dataset or attribute, so that their bytes are a number that NumPy can hold."""

MAX_RANK: Final = 32
"""Axes of a dataspace; HDF5's own limit, and below NumPy's."""


class Datatype(NamedTuple):
    """A datatype as far as graftwork needs it.

    Attributes:
        name: A key of `graftwork.tensor.ITEMSIZE`; for what is no number, the word for it in messages.
        size: Bytes of an element in the file.
        numpy: How elements lie in the file; None for what NumPy cannot show.
        text: 0 for what is no text, 1 for texts of fixed and 2 for texts of any length.
        padding: How texts of fixed length end: 0 at a NUL, 1 filled with NUL, 2 filled with spaces.
        known: Whether tensors may have it.
    """

    name: str
    size: int
    numpy: "np.dtype[Any] | None" = None
    text: int = 0
    padding: int = 0
    known: bool = False


CLASSES: Final = (
    "integer", "float", "time", "text", "bit field", "opaque", "compound", "reference", "enumeration", "variable-length", "array",
    "complex",
)  # fmt: skip

IEEE: Final = {
    2: (15, (0, 16, 10, 5, 0, 10, 15)),
    4: (31, (0, 32, 23, 8, 0, 23, 127)),
    8: (63, (0, 64, 52, 11, 0, 52, 1023)),
}
"""Where sign, exponent and mantissa of a float lie, by its size."""


def datatype_of(body: bytes) -> Datatype:
    """Return what a datatype message says.

    Raises:
        Unreadable: If it contradicts itself.
    """
    first, bits, bits_8, _, size = struct.unpack_from("<BBBBI", body)
    version, number = first >> 4, first & 15
    if not 1 <= version <= 5 or number >= len(CLASSES) or not size:
        raise damaged(f"a datatype has version {version}, class {number} and {size} bytes")
    name = CLASSES[number]
    if number == 0:
        offset, precision = struct.unpack_from("<HH", body, 8)
        if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
            return Datatype(f"{precision}-bit integer", size)
        kind = np.dtype(f"{'>' if bits & 1 else '<'}{'i' if bits & 8 else 'u'}{size}")
        return Datatype(kind.name, size, kind, known=True)
    if number == 1:
        fields = struct.unpack_from("<HHBBBBI", body, 8)
        if bits & 0x40 or bits & 0x30 != 0x20 or IEEE.get(size) != (bits_8, fields):
            return Datatype(f"{fields[1]}-bit float that is not IEEE's", size)
        kind = np.dtype(f"{'>' if bits & 1 else '<'}f{size}")
        return Datatype(kind.name, size, kind, known=True)
    if number == 3:
        return Datatype(
            name, size, np.dtype(f"S{size}") if size <= MAX_VALUE_BYTES else None, text=1, padding=bits & 15
        )
    if number == 5:
        kind = np.dtype(f"V{size}") if size <= MAX_VALUE_BYTES else np.dtype("V1")
        tagged = any(body[8 : 8 + bits])
        return Datatype("bfloat16" if size == 2 else name, size, None if tagged else kind, known=size == 2)
    if number == 8:
        return _enumeration(body, bits | bits_8 << 8, size, version)
    if number == 9 and bits & 15 == 1 and size == 16:
        return Datatype("text of any length", size, text=2)
    return Datatype(name, size)


def _enumeration(body: bytes, members: int, size: int, version: int) -> Datatype:
    """Return "bool" for h5py's way to write it, an enumeration over int8 of FALSE and TRUE."""
    if size == 1 and members == 2 and body[8] & 15 == 0 and body[9] & 8:
        at, names = 8 + 12, []
        for _ in range(2):
            end = body.find(b"\0", at)
            names.append(body[at:end])
            at = end + 1 if version >= 3 else at + (end - at + 8) // 8 * 8
        values = body[at : at + 2]
        if dict(zip(names, values, strict=False)) == {b"FALSE": 0, b"TRUE": 1}:
            return Datatype("bool", 1, np.dtype(bool), known=True)
    return Datatype("enumeration", size)


def shape_of(body: bytes) -> tuple[int, ...] | None:
    """Return the shape that a dataspace message says, None for one that holds nothing, not even an array without elements.

    Raises:
        Unreadable: If it contradicts itself.
    """
    version, rank, flags = body[0], body[1], body[2]
    if version not in (1, 2) or rank > MAX_RANK:
        raise damaged(f"a dataspace has version {version} and {rank} axes")
    if version == 2:
        if body[3] == 2:
            return None
        if body[3] > 2 or (body[3] == 0) != (rank == 0):
            raise damaged(f"a dataspace has {rank} axes and is of kind {body[3]}")
    elif flags & 2:
        raise damaged("a dataspace permutes its axes")
    shape: tuple[int, ...] = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    if math.prod(max(n, 1) for n in shape) >= MAX_ELEMENTS:  # NumPy minds a long axis even where another is 0
        raise damaged(f"a dataspace has the shape {shape}"[:120])
    return shape

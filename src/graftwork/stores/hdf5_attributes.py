"""The attributes of an HDF5 file's groups and datasets, and their values as h5py gives them."""

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

from graftwork.lazy import np
from graftwork.stores.hdf5_dense import dense_objects
from graftwork.stores.hdf5_file import UNDEFINED, H5File
from graftwork.stores.hdf5_headers import ATTRIBUTE, ATTRIBUTE_INFO, MAX_MESSAGES, MAX_NAME_BYTES, SHARED, Message
from graftwork.stores.hdf5_pages import Unreadable, damaged
from graftwork.stores.hdf5_texts import Texts
from graftwork.stores.hdf5_types import datatype_of, shape_of


class Attribute(NamedTuple):
    """An attribute as its message holds it."""

    kind: bytes
    space: bytes
    value: bytes
    shared: bool


class Nothing(NamedTuple):
    """The value of an attribute that has a type and no value."""

    dtype: "np.dtype[Any]"


def attributes_of(file: H5File, messages: Sequence[Message]) -> dict[str, Attribute]:
    """Return an object's attributes by name, values not looked at.

    Raises:
        Unreadable: If they cannot be told.
    """
    bodies: list[tuple[bytes, int]] = []
    for message in messages:
        if message.kind == ATTRIBUTE:
            bodies.append((message.body, message.flags))
        elif message.kind == ATTRIBUTE_INFO:
            heap, tree = struct.unpack_from("<QQ", message.body, 4 if message.body[1] & 1 else 2)
            if heap != UNDEFINED:
                bodies += dense_objects(file, heap, tree, 8, MAX_MESSAGES, claim=False)
    found: dict[str, Attribute] = {}
    for body, flags in bodies:
        if flags & SHARED:
            raise Unreadable("keeps an attribute in another object, which no Keras file does")
        name, attribute = _attribute(body)
        if name in found:
            raise damaged(f"it has the attribute {name[:60]!r} twice")
        found[name] = attribute
    return found


def _attribute(body: bytes) -> tuple[str, Attribute]:
    """Return name and parts of an attribute message."""
    version, flags, name_size, kind_size, space_size = struct.unpack_from("<BBHHH", body)
    if version not in (1, 2, 3):
        raise damaged(f"an attribute has version {version}")
    at = 9 if version == 3 else 8
    parts = []
    for size in (name_size, kind_size, space_size):
        if at + size > len(body):
            raise damaged("an attribute is longer than its message")
        parts.append(body[at : at + size])
        at += (size + 7) // 8 * 8 if version == 1 else size
    raw = parts[0].partition(b"\0")[0]
    if len(raw) > MAX_NAME_BYTES:
        raise Unreadable(f"has an attribute whose name is {len(raw):,} bytes long")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("has an attribute whose name is not UTF-8") from error
    return name, Attribute(parts[1], parts[2], body[at:], version > 1 and bool(flags & 3))


def value_of(attribute: Attribute, texts: Texts) -> Any:
    """Return an attribute's value as h5py gives it: str, bytes, a NumPy scalar or an array of them; `Nothing` for no value.

    Raises:
        Unreadable: If it is damaged, or neither text nor numbers.
    """
    if attribute.shared:
        raise Unreadable("has a type that lies elsewhere in the file, which no Keras file has")
    kind, shape = datatype_of(attribute.kind), shape_of(attribute.space)
    if kind.numpy is None and kind.text != 2:
        raise Unreadable(f"holds {kind.name} values, which graftwork does not know")
    if shape is None:
        return Nothing(_texts_dtype() if kind.numpy is None else kind.numpy)
    count = math.prod(shape)
    if count * kind.size > len(attribute.value) or kind.size * math.prod(max(n, 1) for n in shape) >= 1 << 63:
        raise damaged(
            f"it should have {count:,} values of {kind.size:,} bytes, but there are {len(attribute.value):,} bytes"
        )
    data = attribute.value[: count * kind.size]
    if kind.text == 2:
        found = texts.at(data)
        if not shape:
            return found[0]
        out = np.empty(count, _texts_dtype())
        out[:] = found
        return out.reshape(shape)
    if kind.name == "bool":
        return np.frombuffer(data, np.uint8).astype(bool).reshape(shape)[()]
    values = np.frombuffer(data, kind.numpy, count)
    if kind.text and kind.padding != 1:
        ended = [v.rstrip(b" ") if kind.padding else v.partition(b"\0")[0] for v in values.tolist()]
        values = np.array(ended, kind.numpy)
    return values.reshape(shape).copy()[()]


def _texts_dtype() -> "np.dtype[Any]":
    """Return what h5py calls `string_dtype()`: it tells h5py how to write an array, even of no texts."""
    return np.dtype("O", metadata={"vlen": str})

"""The few protocol buffers that TensorFlow's checkpoints are made of, read and written byte by byte.

::

    BundleHeaderProto      1 num_shards   2 endianness (0 little, 1 big)   3 version {1 producer, 2 min_consumer}
    BundleEntryProto       1 dtype   2 shape {2 dim {1 size}, 3 unknown_rank}   3 shard_id   4 offset   5 size
                           6 crc32c (fixed32, masked)   7 slices {1 extent {1 start, 2 length}}
    TrackableObjectGraph   1 nodes {1 children {1 node_id, 2 local_name}
                                    2 attributes {1 name, 2 full_name, 3 checkpoint_key}
                                    3 slot_variables {1 original_variable_node_id, 2 slot_name, 3 slot_variable_node_id}}

A message that is damaged raises `ValueError`, whose text the caller puts into an error that names the file.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

Value = int | bytes
"""What a field holds: a number, or bytes (a text, or a message inside)."""

MAX_AXES = 32
"""TensorFlow knows 254, NumPy 32 or 64."""

WHOLE_AXIS = -1
"""The length that stands for all of an axis."""


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at byte `at`, and where the next field begins."""
    if at < len(data) and data[at] < 0x80:  # as nearly all are
        return data[at], at + 1
    value = shift = 0
    while True:
        if at >= len(data):
            raise ValueError("a number is cut short")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number takes more than ten bytes")
    if value >> 64:
        raise ValueError("a number has more than 64 bits")
    return value, at


def varint(value: int) -> bytes:
    """Return a number of up to 64 bits in seven bits a byte; negative ones as their two's complement."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Yield the number and the value of every field of a message."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise ValueError(f"a field has the number {number}")
        if wire == 0:
            value, at = read_varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = read_varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field is of the kind {wire}")
        if at + size > len(message):
            raise ValueError(f"a field claims {size:,} bytes where {len(message) - at:,} are left")
        piece = message[at : at + size]
        yield number, piece if wire == 2 else int.from_bytes(piece, "little")
        at += size


def number(value: Value) -> int:
    """Return a field's value as a signed number."""
    if isinstance(value, bytes):
        raise ValueError("there are bytes where a number should be")  # noqa: TRY004 - of the file, not of the caller
    return value - (1 << 64) if value >> 63 else value


def inner(value: Value) -> bytes:
    """Return a field's value as bytes."""
    if isinstance(value, int):
        raise ValueError("there is a number where bytes should be")  # noqa: TRY004
    return value


def text(value: Value) -> str:
    """Return a field's value as text."""
    return inner(value).decode("utf-8")  # UnicodeDecodeError is a ValueError


def field(number: int, value: int | bytes | str) -> bytes:
    """Return a field with a number (left out where it is 0, as protocol buffers do), bytes or a text."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value else b""
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


# Bundles -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """What is said of a checkpoint as a whole."""

    num_shards: int = 1
    big_endian: bool = False
    min_consumer: int = 0

    @classmethod
    def parse(cls, message: bytes) -> "BundleHeader":
        """Read the header."""
        shards, endianness, consumer = 0, 0, 0
        for which, value in fields(message):
            if which == 1:
                shards = number(value)
            elif which == 2:
                endianness = number(value)
            elif which == 3:
                consumer = next((number(v) for n, v in fields(inner(value)) if n == 2), 0)
        if endianness not in (0, 1):
            raise ValueError(f"the order of bytes is {endianness}, expected 0 or 1")
        return cls(shards, endianness == 1, consumer)

    def encode(self) -> bytes:
        """Return the header's bytes."""
        return field(1, self.num_shards) + field(3, field(1, 1))


Slice = tuple[tuple[int, int], ...]
"""For each axis where a part of a tensor begins and how long it is; `WHOLE_AXIS` for all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleEntry:
    """Where the values of a tensor lie, or, with `slices`, in which parts they do."""

    dtype: int
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    slices: tuple[Slice, ...] = ()

    @classmethod
    def parse(cls, message: bytes) -> "BundleEntry":
        """Read an entry."""
        dtype = shard = offset = size = crc = 0
        shape: tuple[int, ...] = ()
        slices: list[Slice] = []
        for which, value in fields(message):
            if which == 1:
                dtype = number(value)
            elif which == 2:
                shape = _shape(inner(value))
            elif which == 3:
                shard = number(value)
            elif which == 4:
                offset = number(value)
            elif which == 5:
                size = number(value)
            elif which == 6:
                crc = number(value)
            elif which == 7:
                slices.append(_slice(inner(value)))
        if min(shard, offset, size) < 0:
            raise ValueError(f"its values lie at {offset:,} of shard {shard} and take {size:,} bytes")
        return cls(dtype=dtype, shape=shape, shard=shard, offset=offset, size=size, crc=crc, slices=tuple(slices))

    def encode(self) -> bytes:
        """Return the entry's bytes."""
        shape = b"".join(field(2, field(1, size)) for size in self.shape)
        crc = varint(6 << 3 | 5) + struct.pack("<I", self.crc) if not self.slices else b""
        places = field(3, self.shard) + field(4, self.offset) + field(5, self.size) + crc
        return field(1, self.dtype) + field(2, shape) + places + b"".join(field(7, _encoded(s)) for s in self.slices)


def _shape(message: bytes) -> tuple[int, ...]:
    sizes: list[int] = []
    for which, value in fields(message):
        if which == 2:
            sizes.append(next((number(v) for n, v in fields(inner(value)) if n == 1), 0))
        elif which == 3 and value:
            raise ValueError("its shape is not known")
    if len(sizes) > MAX_AXES:
        raise ValueError(f"it has {len(sizes):,} axes; graftwork reads tensors of at most {MAX_AXES}")
    claimed = 16
    for size in sizes:
        claimed *= max(size, 1)
        if size < 0 or claimed >= 1 << 63:
            raise ValueError(f"an axis has {size:,} entries, which no memory holds")
    return tuple(sizes)


def _slice(message: bytes) -> Slice:
    axes = []
    for which, value in fields(message):
        if which == 1:
            start, length = 0, WHOLE_AXIS
            for inside, part in fields(inner(value)):
                if inside == 1:
                    start = number(part)
                elif inside == 2:
                    length = number(part)
            axes.append((start, length))
    return tuple(axes)


def _encoded(part: Slice) -> bytes:
    found = b""
    for start, length in part:
        extent = field(1, start)
        if length != WHOLE_AXIS:
            extent += varint(2 << 3) + varint(length)
        found += field(1, extent)
    return found


# Object graphs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attribute:
    """A value of an object, saved under a key of its own."""

    name: str
    full_name: str
    key: str


@dataclass(frozen=True, slots=True)
class Node:
    """One object: the objects it refers to, its saved values, and the slots that it keeps for variables.

    Attributes:
        children: Number of a node and the name by which it is referred to.
        attributes: Saved values.
        slots: Number of a variable's node, name of the slot, number of the node that holds the slot.
        message: The node as it was read.
    """

    children: tuple[tuple[int, str], ...]
    attributes: tuple[Attribute, ...]
    slots: tuple[tuple[int, str, int], ...]
    message: bytes


def parse_graph(message: bytes) -> tuple[Node, ...]:
    """Return the objects of a graph; the first is its root."""
    nodes = tuple(_node(inner(value)) for which, value in fields(message) if which == 1)
    for node in nodes:
        for child in (*(c for c, _ in node.children), *(n for a, _, b in node.slots for n in (a, b))):
            if not 0 <= child < len(nodes):
                raise ValueError(f"an object refers to object {child} of {len(nodes)}")
    return nodes


def _node(message: bytes) -> Node:
    children, attributes, slots = [], [], []
    for which, value in fields(message):
        if which == 1:
            children.append(_child(inner(value)))
        elif which == 2:
            attributes.append(_attribute(inner(value)))
        elif which == 3:
            slots.append(_slot(inner(value)))
    return Node(tuple(children), tuple(attributes), tuple(slots), message)


def _child(message: bytes) -> tuple[int, str]:
    child, name = 0, ""
    for n, v in fields(message):
        if n == 1:
            child = number(v)
        elif n == 2:
            name = text(v)
    return child, name


def _attribute(message: bytes) -> Attribute:
    found = {n: text(v) for n, v in fields(message) if n in (1, 2, 3)}
    return Attribute(found.get(1, ""), found.get(2, ""), found.get(3, ""))


def _slot(message: bytes) -> tuple[int, str, int]:
    variable, name, holder = 0, "", 0
    for n, v in fields(message):
        if n == 1:
            variable = number(v)
        elif n == 2:
            name = text(v)
        elif n == 3:
            holder = number(v)
    return variable, name, holder


def node_of(
    children: Iterable[tuple[int, str]] = (),
    attributes: Iterable[Attribute] = (),
    slots: Iterable[tuple[int, str, int]] = (),
    rest: bytes = b"",
) -> Node:
    """Return an object that did not exist before; `rest` is what it says beyond what we know."""
    message = b"".join(field(1, field(1, child) + field(2, name)) for child, name in children)
    message += b"".join(field(2, field(1, a.name) + field(2, a.full_name) + field(3, a.key)) for a in attributes)
    message += b"".join(field(3, field(1, a) + field(2, name) + field(3, b)) for a, name, b in slots)
    return _node(message + rest)


def rest_of(node: Node) -> bytes:
    """Return what an object says beyond children, attributes and slots."""
    return b"".join(field(which, value) for which, value in fields(node.message) if which not in (1, 2, 3))


def remade(
    node: Node,
    number_of: Callable[[int], int | None],
    attribute_of: Callable[[Attribute], Attribute | None] = lambda attribute: attribute,
) -> Node:
    """Return an object with other numbers and values; all else that it says stays as it is.

    Args:
        node: The object.
        number_of: The new number of an object that it refers to; None leaves the reference out, and a slot with it.
        attribute_of: A saved value with its new names; None leaves it out.
    """
    message = b""
    for which, value in fields(node.message):
        if which not in (1, 2, 3):
            message += field(which, value)
            continue
        old = inner(value)
        new: dict[int, Value] | None
        if which == 1:
            child = number_of(_child(old)[0])
            new = None if child is None else {1: child}
        elif which == 2:
            found = attribute_of(_attribute(old))
            new = None if found is None else {2: found.full_name.encode(), 3: found.key.encode()}
        else:
            variable, _, holder = _slot(old)
            numbers = number_of(variable), number_of(holder)
            new = {1: numbers[0], 3: numbers[1]} if numbers[0] is not None and numbers[1] is not None else None
        if new is not None:
            message += field(which, _with(old, new))
    return _node(message)


def _with(message: bytes, new: Mapping[int, Value]) -> bytes:
    """Return a message with other values in some fields."""
    kept = [(which, value) for which, value in fields(message) if which not in new]
    given = [(which, value) for which, value in new.items() if value != b""]
    return b"".join(field(which, value) for which, value in sorted([*kept, *given], key=lambda pair: pair[0]))


def prune_graph(nodes: Iterable[Node], kept: set[str]) -> bytes:
    """Return a graph without the values whose keys are not in `kept`, and without slots that held nothing else."""
    nodes = tuple(nodes)
    emptied = {i for i, node in enumerate(nodes) if node.attributes and all(a.key not in kept for a in node.attributes)}
    found = []
    for node in nodes:
        message = b""
        for which, value in fields(node.message):
            if which == 2 and _attribute(inner(value)).key not in kept:
                continue
            if which == 3 and _slot(inner(value))[2] in emptied:
                continue
            message += field(which, inner(value)) if isinstance(value, bytes) else field(which, value)
        found.append(field(1, message))
    return b"".join(found)

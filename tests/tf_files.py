"""TensorFlow checkpoints written and read byte by byte: without graftwork, and without TensorFlow."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import ml_dtypes
import numpy as np

MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
CODES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "bfloat16": 14,
    "uint16": 17,
    "complex128": 18,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
    "float8_e5m2": 24,
    "float8_e4m3fn": 25,
}
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def varint(value: int) -> bytes:
    """Seven bits a byte."""
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def masked(data: bytes) -> int:
    """A CRC as it is stored."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def header(shards: int = 1, endianness: int = 0, consumer: int = 0) -> bytes:
    """The entry of the empty key."""
    return field(1, shards) + field(2, endianness) + field(3, field(1, 1) + field(2, consumer))


def entry(
    dtype: int, shape: Sequence[int], offset: int, size: int, crc: int, shard: int = 0, slices: Sequence[Any] = ()
) -> bytes:
    """The entry of a tensor; `slices` are tuples of (start, length) for each axis."""
    dims = b"".join(field(2, field(1, n)) for n in shape)
    parts = b"".join(field(7, b"".join(field(1, field(1, b) + field(2, n)) for b, n in part)) for part in slices)
    place = field(3, shard) + field(4, offset) + field(5, size) + varint(6 << 3 | 5) + struct.pack("<I", crc)
    return field(1, dtype) + field(2, dims) + place + parts


def block(items: Iterable[tuple[bytes, bytes]], compression: int = 0) -> bytes:
    """A block of a table, every entry a restart, with what comes behind it."""
    data, restarts = b"", []
    for key, value in items:
        restarts.append(len(data))
        data += varint(0) + varint(len(key)) + varint(len(value)) + key + value
    restarts = restarts or [0]
    data += b"".join(struct.pack("<I", at) for at in restarts) + struct.pack("<I", len(restarts)) + bytes([compression])
    return data + struct.pack("<I", masked(data))


def table(items: Mapping[bytes, bytes], per_block: int = 5) -> bytes:
    """A table of several blocks."""
    listed = sorted(items.items())
    return table_of([block(listed[k : k + per_block]) for k in range(0, len(listed), per_block)], listed, per_block)


def table_of(blocks: Sequence[bytes], listed: Sequence[tuple[bytes, bytes]], per_block: int = 5) -> bytes:
    """A table of these blocks, which hold `per_block` each of the listed entries."""
    out, places = b"", []
    for k, made in enumerate(blocks):
        last = listed[min((k + 1) * per_block, len(listed)) - 1][0] if listed else b""
        places.append((last, varint(len(out)) + varint(len(made) - 5)))
        out += made
    handles = b""
    for made in (block([]), block(places)):
        handles += varint(len(out)) + varint(len(made) - 5)
        out += made
    return out + handles.ljust(40, b"\0") + MAGIC


def text_tensor(texts: Sequence[bytes]) -> tuple[bytes, int]:
    """The bytes of a tensor of texts, and the masked CRC of its entry."""
    lengths = masked(b"".join(struct.pack("<I", len(text)) for text in texts))
    joined = b"".join(texts)
    stored = b"".join(varint(len(text)) for text in texts) + struct.pack("<I", lengths) + joined
    checked = b"".join(struct.pack("<I", len(text)) for text in texts) + struct.pack("<I", lengths) + joined
    return stored, masked(checked)


def parts_of(arrays: Mapping[str, np.ndarray[Any, Any]], shards: int = 1) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The entries of the index, and the contents of the data files; tensors go to the shards in turn."""
    data = [b""] * shards
    entries = {b"": header(shards)}
    for k, (name, array) in enumerate(arrays.items()):
        raw = np.ascontiguousarray(array).tobytes()
        shard = k % shards
        entries[name.encode()] = entry(
            CODES[array.dtype.name], array.shape, len(data[shard]), len(raw), masked(raw), shard
        )
        data[shard] += raw
    return entries, data


def checkpoint(index: Path, arrays: Mapping[str, np.ndarray[Any, Any]], shards: int = 1) -> Path:
    """Write a checkpoint by names; return the index."""
    entries, data = parts_of(arrays, shards)
    return put(index, table(entries), data)


def put(index: Path, made: bytes, data: Sequence[bytes]) -> Path:
    """Write index and data files."""
    index.write_bytes(made)
    for k, values in enumerate(data):
        index.with_name(f"{index.name.removesuffix('.index')}.data-{k:05}-of-{len(data):05}").write_bytes(values)
    return index


# Reading ------------------------------------------------------------------------------------------------------------


def _number(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(data: bytes) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _number(data, at)
        if tag & 7 == 0:
            value, at = _number(data, at)
        else:
            size, at = (4, at) if tag & 7 == 5 else _number(data, at)
            value, at = data[at : at + size], at + size
        found.setdefault(tag >> 3, []).append(value)
    return found


def _items(data: bytes, place: bytes, at: int = 0) -> tuple[dict[bytes, bytes], int]:
    offset, at = _number(place, at)
    size, at = _number(place, at)
    whole = data[offset : offset + size + 1]
    assert struct.pack("<I", masked(whole)) == data[offset + size + 1 : offset + size + 5]
    end = size - 4 - 4 * struct.unpack("<I", whole[size - 4 : size])[0]
    found, key, k = {}, b"", 0
    while k < end:
        shared, k = _number(whole, k)
        rest, k = _number(whole, k)
        length, k = _number(whole, k)
        key = key[:shared] + whole[k : k + rest]
        found[key] = whole[k + rest : k + rest + length]
        k += rest + length
    return found, at


def table_items(data: bytes) -> dict[bytes, bytes]:
    """All entries of a table, its CRCs checked."""
    assert data[-8:] == MAGIC
    _, at = _items(data, data[-48:])
    places, _ = _items(data, data[-48:], at)
    return {key: value for place in places.values() for key, value in _items(data, place)[0].items()}


def checkpoint_of(index: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a checkpoint, CRCs checked."""
    data = [file.read_bytes() for file in sorted(index.parent.glob(index.name.removesuffix(".index") + ".data-*"))]
    names = {code: name for name, code in CODES.items()}
    found = {}
    for key, value in table_items(index.read_bytes()).items():
        if not key:
            assert _fields(value)[1] == [len(data)]
            continue
        held = _fields(value)
        shape = [_fields(dim).get(1, [0])[0] for dim in _fields(held.get(2, [b""])[0]).get(2, [])]
        offset, size = held.get(4, [0])[0], held.get(5, [0])[0]
        raw = data[held.get(3, [0])[0]][offset : offset + size]
        assert struct.unpack("<I", held[6][0])[0] == masked(raw)
        name = names[held[1][0]]
        dtype = np.dtype(getattr(ml_dtypes, name, name))
        found[key.decode()] = np.frombuffer(raw, dtype).reshape(shape)
    return found

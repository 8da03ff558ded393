"""The sorted table that the index of a TensorFlow checkpoint is: keys and values in blocks, as LevelDB lays them out.

::

    blocks      entries, then their restarts (uint32 each) and how many there are (uint32)
                an entry: bytes shared with the key before, further bytes of the key, bytes of the value (varints); then the key's
                rest and the value
                behind each block one byte of compression (0 none, 1 snappy) and the masked CRC-32C of the block and that byte
    metaindex   a block; TensorFlow writes it empty and does not read it. Graftwork keeps its record there
    index       a block: for each block of entries a key not below its last, and its place
    footer      48 bytes: place of metaindex, place of index (offset and size as varints), zeros, magic

A CRC is masked, since CRCs of data that hold CRCs are weak.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import google_crc32c

from graftwork.errors import StoreError
from graftwork.stores.tf_protos import read_varint, varint

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
TRAILER_BYTES = 5

MAX_TABLE_BYTES = 1 << 30
MAX_KEYS_BYTES = 1 << 26
"""Keys share their beginnings, so a small table could claim keys without end."""

BLOCK_BYTES = 1 << 18
RESTART_INTERVAL = 16


def mask(crc: int) -> int:
    """Return a CRC as it is stored."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class Table:
    """A table, open for reading.

    Args:
        fd: The file; stays the caller's.
        size: Its size.
        path: Its path, for messages.

    Raises:
        StoreError: If it is no table, or is cut short.
    """

    def __init__(self, fd: int, size: int, path: Path) -> None:
        self._fd, self._path = fd, path
        if size > MAX_TABLE_BYTES:
            raise StoreError(
                f"{path.name} has {size:,} bytes, more than the {MAX_TABLE_BYTES:,} that an index may have"
            )
        if size < FOOTER_BYTES:
            raise StoreError(f"{path.name} has {size} bytes, too few for the index of a TensorFlow checkpoint")
        footer = os.pread(fd, FOOTER_BYTES, size - FOOTER_BYTES)
        if footer[-8:] != MAGIC:
            raise StoreError(
                f"{path.name} ends in {footer[-8:].hex()}, expected {MAGIC.hex()}: it is no index of a TensorFlow checkpoint, "
                "or was cut short"
            )
        self._end = size - FOOTER_BYTES
        self._keys_left = MAX_KEYS_BYTES
        try:
            meta, at = _handle(footer, 0)
            self._index, _ = _handle(footer, at)
        except ValueError as error:
            raise StoreError(f"the footer of {path.name} is damaged: {error}") from error
        self._meta = meta

    def meta(self) -> dict[bytes, bytes]:
        """Return what the metaindex holds."""
        return dict(self._block(self._meta))

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key with its value, in order.

        Raises:
            StoreError: If a block is damaged, compressed or not where it should be, or keys are out of order.
        """
        before: bytes | None = None
        for bound, value in self._block(self._index):
            try:
                place, _ = _handle(value, 0)
            except ValueError as error:
                raise StoreError(f"the index of blocks of {self._path.name} is damaged: {error}") from error
            for key, found in self._block(place):
                if before is not None and key <= before:
                    raise StoreError(
                        f"{self._path.name} has {key[:80]!r} behind {before[:80]!r}, which is out of order"
                    )
                before = key
                yield key, found
            if before is not None and before > bound:
                raise StoreError(f"a block of {self._path.name} holds {before[:80]!r}, beyond its bound {bound[:80]!r}")

    def _block(self, place: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
        offset, size = place
        where = f"the block at byte {offset:,} of {self._path.name}"
        if offset + size + TRAILER_BYTES > self._end:
            raise StoreError(f"{where} claims {size:,} bytes, more than the file has")
        data = os.pread(self._fd, size + TRAILER_BYTES, offset)
        if len(data) != size + TRAILER_BYTES:
            raise StoreError(f"{where} is cut short")
        if mask(google_crc32c.value(data[: size + 1])) != int.from_bytes(data[size + 1 :], "little"):
            raise StoreError(f"{where} does not have the contents that its CRC promises; the file is damaged")
        if data[size]:
            kind = "with snappy" if data[size] == 1 else f"in an unknown way ({data[size]})"
            raise StoreError(
                f"{where} is compressed {kind}, which graftwork does not read; let TensorFlow save the checkpoint again"
            )
        try:
            yield from self._entries(data[:size])
        except ValueError as error:
            raise StoreError(f"{where} is damaged: {error}") from error

    def _entries(self, block: bytes) -> Iterator[tuple[bytes, bytes]]:
        count = int.from_bytes(block[-4:], "little")
        end = len(block) - 4 - 4 * count
        if len(block) < 4 or end < 0:
            raise ValueError(f"it claims {count:,} restarts in {len(block):,} bytes")
        restarts = {int.from_bytes(block[k : k + 4], "little") for k in range(end, len(block) - 4, 4)}
        key, at = b"", 0
        while at < end:
            begin = at
            shared, at = read_varint(block, at)
            rest, at = read_varint(block, at)
            size, at = read_varint(block, at)
            if shared > len(key) or at + rest + size > end:
                raise ValueError(f"the entry at {begin:,} claims more than there is")
            if begin in restarts:
                if shared:
                    raise ValueError(f"the entry at {begin:,} does not begin anew, though a restart says so")
                restarts.discard(begin)
            key = key[:shared] + block[at : at + rest]
            self._keys_left -= len(key)
            if self._keys_left < 0:
                raise ValueError(f"the keys take more than {MAX_KEYS_BYTES:,} bytes")
            yield key, block[at + rest : at + rest + size]
            at += rest + size
        if restarts - ({0} if not end else set()):
            raise ValueError(f"a restart points to {min(restarts):,}, where no entry begins")


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = read_varint(data, at)
    size, at = read_varint(data, at)
    return (offset, size), at


# Writing -----------------------------------------------------------------------------------------------------------


def table_bytes(items: Iterable[tuple[bytes, bytes]], meta: Mapping[bytes, bytes]) -> bytes:
    """Return a table.

    Args:
        items: Keys and values, keys ascending.
        meta: What the metaindex holds.
    """
    out = bytearray()

    def put(entries: list[tuple[bytes, bytes]], interval: int = RESTART_INTERVAL) -> bytes:
        block = _block_bytes(entries, interval) + b"\0"
        handle = varint(len(out)) + varint(len(block) - 1)
        out.extend(block + mask(google_crc32c.value(block)).to_bytes(4, "little"))
        return handle

    places: list[tuple[bytes, bytes]] = []
    gathered: list[tuple[bytes, bytes]] = []
    filled = 0
    for key, value in items:
        gathered.append((key, value))
        filled += len(key) + len(value)
        if filled >= BLOCK_BYTES:
            places.append((key, put(gathered)))
            gathered, filled = [], 0
    if gathered:
        places.append((gathered[-1][0], put(gathered)))
    handles = put(sorted(meta.items())) + put(places, 1)
    return bytes(out + handles.ljust(FOOTER_BYTES - len(MAGIC), b"\0") + MAGIC)


def _block_bytes(entries: list[tuple[bytes, bytes]], interval: int) -> bytes:
    block, restarts, before = bytearray(), [], b""
    for k, (key, value) in enumerate(entries):
        shared = 0
        if k % interval == 0:
            restarts.append(len(block))
        else:
            shared = next(
                (i for i, (a, b) in enumerate(zip(before, key, strict=False)) if a != b), min(len(before), len(key))
            )
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    restarts = restarts or [0]
    return bytes(block) + b"".join(r.to_bytes(4, "little") for r in (*restarts, len(restarts)))

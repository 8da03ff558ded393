"""The groups of an HDF5 file: links by name to groups and datasets, as Keras's files have them by the hundred thousand."""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from graftwork.stores.hdf5_dense import dense_objects
from graftwork.stores.hdf5_file import UNDEFINED, H5File
from graftwork.stores.hdf5_headers import LINK, LINK_INFO, MAX_NAME_BYTES, SHARED, SYMBOL_TABLE, Message
from graftwork.stores.hdf5_pages import Unreadable, damaged

MAX_NAMES_BYTES: Final = 1 << 26
"""The names in one group."""

_HEAP = struct.Struct("<4sB3xQQQ")
_SYMBOL = struct.Struct("<QQI20x")


def links_of(file: H5File, messages: Sequence[Message], most: int, *, claim: bool = False) -> list[tuple[bytes, int]]:
    """Return the links of a group as (name, address of the object), by name; -1 for a link that is soft or external.

    Args:
        file: The file.
        messages: Those of the group's object header.
        most: How many there may be; one more, and the list ends.
        claim: Whether to claim what is read; the first visit does.

    Raises:
        Unreadable: If they cannot be told.
    """
    found: list[tuple[bytes, int]] = []
    for message in messages:
        if message.kind in (SYMBOL_TABLE, LINK_INFO, LINK) and message.flags & SHARED:
            raise damaged("a group's links lie in another object")
        if message.kind == SYMBOL_TABLE:
            tree, heap = struct.unpack_from("<QQ", message.body)
            _symbols(file, tree, heap, found, most, claim)
        elif message.kind == LINK:
            found.append(_link(message.body))
        elif message.kind == LINK_INFO:
            heap, tree = struct.unpack_from("<QQ", message.body, 10 if message.body[1] & 1 else 2)
            if heap != UNDEFINED:
                found.extend(_link(body) for body, _ in dense_objects(file, heap, tree, 5, most, claim=claim))
    found.sort()
    return found


def _symbols(file: H5File, tree: int, heap: int, found: list[tuple[bytes, int]], most: int, claim: bool) -> None:
    """Add the links of a symbol table."""
    names = b""
    read = file.pages.read
    for node in _leaves(file, tree, most, claim):
        head = read(node, 8)
        count = head[6] | head[7] << 8
        if head[:5] != b"SNOD\x01" or count > file.superblock.leaf_entries:
            raise damaged(f"there should be a list of {count:,} symbols at byte {node:,}, but there is none")
        if claim:
            file.claim(node, 8 + 40 * count)
        if not names:
            names = _names(file, heap, claim)
        for name_at, address, cached in _SYMBOL.iter_unpack(read(node + 8, 40 * count)):
            end = names.find(b"\0", name_at, name_at + MAX_NAME_BYTES + 1)
            if end < 0:
                raise damaged(f"a name of more than {MAX_NAME_BYTES:,} bytes, or outside its heap")
            found.append((names[name_at:end], -1 if cached == 2 else address))
        if len(found) > most:
            return


def _names(file: H5File, heap: int, claim: bool) -> bytes:
    """Return the data of a local heap."""
    signature, version, size, _, segment = _HEAP.unpack(file.pages.read(heap, 32))
    if signature != b"HEAP" or version:
        raise damaged(f"there should be a heap of names at byte {heap:,}, but there is none")
    if size > MAX_NAMES_BYTES:
        raise Unreadable(f"has a heap of {size:,} bytes of names; no Keras model needs as many")
    names = file.pages.read(segment, size)
    if claim:
        file.claim(heap, 32)
        file.claim(segment, size)
    return names


def _leaves(file: H5File, address: int, most: int, claim: bool) -> Iterator[int]:
    """Yield what the leaves of a group's version 1 B-tree point to, in order."""
    stack: list[tuple[int, int | None]] = [(address, None)]
    while stack:
        at, level = stack.pop()
        if level == -1:
            yield at
            continue
        level, count = file.tree_node(at, 0, level, "a node of a B-tree")
        if claim:
            file.claim(at, 24 + 16 * count + 8)
        if count:
            children = struct.unpack(f"<{2 * count}Q", file.pages.read(at + 24, 16 * count))[1::2]
            stack.extend((child, level - 1) for child in reversed(children))
            if len(stack) > most:
                raise damaged(f"the B-tree at byte {address:,} has more than {most:,} nodes")


def _link(body: bytes) -> tuple[bytes, int]:
    """Return what a link message says, as (name, address of the object), -1 for a link that is soft or external."""
    version, flags = body[0], body[1]
    if version != 1:
        raise damaged(f"a link has version {version}")
    at, kind = 2, 0
    if flags & 8:
        kind, at = body[at], at + 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    at += width
    name = body[at : at + length]
    if len(name) != length or length > MAX_NAME_BYTES:
        raise damaged(f"a link's name of {length:,} bytes is cut short or longer than {MAX_NAME_BYTES:,}")
    return name, -1 if kind else struct.unpack_from("<Q", body, at + length)[0]

"""The object headers of an HDF5 file: lists of messages that say what an object is, and the types of messages."""

import struct
from typing import Final, NamedTuple

from graftwork.stores.hdf5_file import H5File
from graftwork.stores.hdf5_pages import READ_COST, Unreadable, damaged

MAX_HEADER_BYTES: Final = 1 << 26
"""One object's header with all its attributes."""

MAX_MESSAGES: Final = 1 << 16
"""Messages in one object's header; it counts them in 16 bits."""

MAX_NAME_BYTES: Final = 4096
"""A name of a link or an attribute."""

# types of messages
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0A, 0x0B, 0x0C, 0x10, 0x11, 0x15

OF_GROUPS: Final = frozenset((SYMBOL_TABLE, LINK_INFO, LINK, GROUP_INFO))
OF_DATASETS: Final = frozenset((DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS))

SHARED, MUST_KNOW = 0x02, 0x80
"""Flags of messages: the body lies elsewhere; a reader that does not know the type must give up."""

LAST_KNOWN: Final = 0x16

_PREFIX_1 = struct.Struct("<BBHII")
_MESSAGE_1 = struct.Struct("<HHB3x")
_MESSAGE_2 = struct.Struct("<BHB")
_MESSAGE_3 = struct.Struct("<BHB2x")
_PLACE = struct.Struct("<QQ")


class Message(NamedTuple):
    """One message of an object header."""

    kind: int
    flags: int
    body: bytes


def messages_of(file: H5File, address: int, *, claim: bool = False) -> list[Message]:
    """Return the messages of the object header at an address, continuations followed, empty messages left out.

    Args:
        file: The file.
        address: Where the header begins.
        claim: Whether to claim its ranges; the first visit does.

    Raises:
        Unreadable: If it is no object header, or larger than any Keras file's.
    """
    form, start, size = _first_block(file, address, claim)
    found: list[Message] = []
    blocks, seen, total = [(start, size)], {start}, 0
    for start, size in blocks:  # grows while it is walked
        total += size
        if total > MAX_HEADER_BYTES or len(found) > MAX_MESSAGES:
            raise Unreadable(f"has an object header of more than {MAX_HEADER_BYTES:,} bytes at byte {address:,}")
        for at, length in _parse(file, file.pages.read(start, size), found, form):
            if at in seen:
                raise damaged(f"the object header at byte {address:,} continues in itself")
            seen.add(at)
            if claim:
                file.claim(at, length)
            if form is not _MESSAGE_1:
                _check_newer(file, at, length, b"OCHK")
                at, length = at + 4, length - 8
            blocks.append((at, length))
    for message in found:
        if message.kind > LAST_KNOWN and message.flags & MUST_KNOW:
            raise Unreadable(f"has an object with a message of type {message.kind}, which graftwork does not know")
    return found


def _first_block(file: H5File, address: int, claim: bool) -> tuple[struct.Struct, int, int]:
    """Return how messages of an object header begin, and address and length of its first block of them."""
    head = file.pages.read(address, 16)
    if head[0] == 1:
        size = _PREFIX_1.unpack_from(head)[4]
        if claim:
            file.claim(address, 16 + size)
        return _MESSAGE_1, address + 16, size
    if head[:5] != b"OHDR\x02":
        raise damaged(f"there should be an object at byte {address:,}, but there is none")
    flags = head[5]
    begin = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(file.pages.read(begin, width), "little")
    length = begin + width + size + 4 - address
    _check_newer(file, address, length, b"OHDR")
    if claim:
        file.claim(address, length)
    return _MESSAGE_3 if flags & 4 else _MESSAGE_2, begin + width, size


def _check_newer(file: H5File, at: int, length: int, signature: bytes) -> None:
    """Check signature and checksum of a piece of a version 2 object header."""
    data = file.pages.read(at, length) if 8 <= length <= MAX_HEADER_BYTES else b""
    if data[:4] != signature or not file.pages.sum_holds(data):
        raise damaged(f"there should be part of an object at byte {at:,}, but there is none")


def _parse(file: H5File, block: bytes, found: list[Message], form: struct.Struct) -> list[tuple[int, int]]:
    """Add a block's messages; return its continuations."""
    at, end, before = 0, len(block) - form.size + 1, form.size
    left, continuations = MAX_MESSAGES, []
    unpack = form.unpack_from
    while at < end:
        kind, size, flags = unpack(block, at)
        at += before
        if at + size > len(block):
            raise damaged("a message is longer than the object header that holds it")
        if kind == CONTINUATION:
            continuations.append(_PLACE.unpack_from(block, at))
        elif kind:
            found.append(Message(kind, flags, block[at : at + size]))
        at += size
        left -= 1
        if not left:
            raise Unreadable(f"has an object header of more than {MAX_MESSAGES:,} messages")
    file.pages.spend((MAX_MESSAGES - left) * READ_COST)
    return continuations

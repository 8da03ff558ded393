"""Zip archives with every field in our hands, since `zipfile` would refuse to write most of these."""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

STORED, DEFLATED = 0, 8


@dataclass(frozen=True, kw_only=True)
class Member:
    """One member; a None is computed from the data, anything else is written as it is.

    Attributes:
        name: Name in the central directory.
        data: What stands in the archive, compressed already if it is.
        local_name: Name in the local header, if that lies.
        local_size: Sizes in the local header, if they lie.
        offset: Where the central directory says that the local header is.
    """

    name: bytes
    data: bytes
    method: int = STORED
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    flags: int = 0
    attributes: int = 0
    made_by: int = 3 << 8 | 20
    extra: bytes = b""
    local_extra: bytes = b""
    local_name: bytes | None = None
    local_size: int | None = None
    local_method: int | None = None
    offset: int | None = None


def deflated(member: Member) -> Member:
    """Return a member honestly compressed."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = squeeze.compress(member.data) + squeeze.flush()
    return replace(member, data=packed, method=DEFLATED, size=len(member.data), crc=zlib.crc32(member.data))


def archive(
    members: Sequence[Member],
    *,
    count: int | None = None,
    directory_size: int | None = None,
    directory_offset: int | None = None,
    before: bytes = b"",
    comment: bytes = b"",
    comment_length: int | None = None,
) -> bytes:
    """Return an archive; the keywords lie in the record at its end."""
    out, central = bytearray(before), bytearray()
    for m in members:
        at = len(out) if m.offset is None else m.offset
        size = len(m.data) if m.size is None else m.size
        packed = len(m.data) if m.packed is None else m.packed
        crc = zlib.crc32(m.data) if m.crc is None else m.crc
        local = m.name if m.local_name is None else m.local_name
        sizes = (packed, size) if m.local_size is None else (m.local_size, m.local_size)
        method = m.method if m.local_method is None else m.local_method
        head = struct.pack(
            "<IHHHHHIIIHH", 0x04034B50, 20, m.flags, method, 0, 33, crc, *sizes, len(local), len(m.local_extra)
        )
        out += head + local + m.local_extra + m.data
        fields = (m.made_by, 20, m.flags, m.method, 0, 33, crc, packed, size, len(m.name), len(m.extra), 0, 0, 0)
        central += struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, *fields, m.attributes, at) + m.name + m.extra
    start = len(out) if directory_offset is None else directory_offset
    length = len(central) if directory_size is None else directory_size
    number = len(members) if count is None else count
    said = len(comment) if comment_length is None else comment_length
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, number & 0xFFFF, number & 0xFFFF, length, start & 0xFFFFFFFF, said)
    return bytes(out) + central + end + comment


def zip64(*values: int) -> bytes:
    """Return a zip64 extra field."""
    return struct.pack("<HH", 1, 8 * len(values)) + b"".join(struct.pack("<Q", v) for v in values)

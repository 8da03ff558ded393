"""The checksums of HDF5: of its newer structures, and of chunks that went through its filter fletcher32."""

import struct

from graftwork.lazy import np


def sum_holds(data: bytes) -> bool:
    """Whether the last four bytes of a structure are the checksum of the others."""
    return sum_of(data[:-4]) == int.from_bytes(data[-4:], "little")


def sum_of(data: bytes) -> int:
    """Return the checksum of HDF5's newer structures: Bob Jenkins' lookup3, starting from 0."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    whole = max(len(data) - 1, 0) // 12 * 12
    for x, y, z in struct.iter_unpack("<III", data[:whole]):
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = ((a - c) & mask) ^ (c << 4 & mask | c >> 28)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 6 & mask | a >> 26)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 8 & mask | b >> 24)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ (c << 16 & mask | c >> 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 19 & mask | a >> 13)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 4 & mask | b >> 28)
        b = (b + a) & mask
    if not data:
        return c
    x, y, z = struct.unpack("<III", data[whole:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = ((c ^ b) - (b << 14 & mask | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 & mask | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 & mask | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 & mask | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 & mask | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 & mask | a >> 18)) & mask
    total: int = ((c ^ b) - (b << 24 & mask | b >> 8)) & mask
    return total


def fletcher_holds(data: bytes) -> bool:
    """Compare Fletcher's checksum, modulo 65535, over big-endian words."""
    body = data[:-4]
    if len(body) % 2:
        body += b"\0"
    words = np.frombuffer(body, ">u2")
    low, high, step = 0, 0, 1 << 16
    for start in range(0, len(words), step):
        part = words[start : start + step].astype(np.uint64)
        high += len(part) * low + int((part * np.arange(len(part), 0, -1, dtype=np.uint64)).sum())
        low += int(part.sum())
    stored = int.from_bytes(data[-4:], "little")
    return (low - (stored & 0xFFFF)) % 65535 == 0 and (high - (stored >> 16)) % 65535 == 0

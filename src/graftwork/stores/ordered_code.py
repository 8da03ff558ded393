"""Keys of the parts of partitioned tensors: texts and numbers as bytes that sort as they do.

::

    part's key    number 0, name, number of axes, then for each axis where the part begins and how long it is (signed)
    number        how many bytes, then the bytes, big-endian
    text          0x00 as 0x00 0xff, 0xff as 0xff 0x00, and 0x00 0x01 at the end
    signed        the high bits of the first byte say how many bytes follow, inverted for negative numbers
"""

from graftwork.stores.tf_protos import Slice

PART = b"\0"
"""How the keys of parts begin."""

ESCAPED = {0: b"\0\xff", 255: b"\xff\0"}


def part_key(name: bytes, part: Slice) -> bytes:
    """Return the key under which a part of the tensor `name` is found."""
    axes = b"".join(_signed(start) + _signed(length) for start, length in part)
    return PART + _text(name) + _number(len(part)) + axes


def _number(value: int) -> bytes:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(data)]) + data


def _text(value: bytes) -> bytes:
    return b"".join(ESCAPED.get(byte, bytes([byte])) for byte in value) + b"\0\x01"


def _signed(value: int) -> bytes:
    bits = (~value if value < 0 else value).bit_length()
    size = bits // 7 + 1
    data = bytearray((value & (1 << 8 * size) - 1).to_bytes(size, "big"))
    head = ((0xFFFF << 16 - size) & 0xFFFF).to_bytes(2, "big")
    data[0] ^= head[0]
    if size > 1:
        data[1] ^= head[1]
    return bytes(data)

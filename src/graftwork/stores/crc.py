"""CRCs of a long range from the CRCs of its pieces, so that threads may read or write the pieces in any order.

Appending zeros to a message multiplies its CRC by a power of x modulo the CRC's polynomial; `combine` does that by repeated squaring, as
zlib's ``crc32_combine`` does (which Python does not offer).
"""

from functools import lru_cache

POLYNOMIAL = 0xEDB88320
"""Of CRC-32, as zip and zlib use it."""

CASTAGNOLI = 0x82F63B78
"""Of CRC-32C, as TensorFlow uses it."""

MAX_PIECES = 1 << 16
"""So many pieces of one range are remembered."""


def combine(first: int, second: int, second_bytes: int, polynomial: int = POLYNOMIAL) -> int:
    """Return the CRC of two byte strings in a row from the CRC of each."""
    if not second_bytes:
        return first
    return _multiply(_power(second_bytes * 8, polynomial), first, polynomial) ^ second


class Pieces:
    """The CRC-32C of a range whose pieces come in any order.

    Args:
        nbytes: Length of the range.
    """

    def __init__(self, nbytes: int) -> None:
        self._left = nbytes
        self._found: dict[int, tuple[int, int]] = {}

    def add(self, begin: int, nbytes: int, crc: int) -> int | None:
        """Take a piece; return the CRC of the whole once there are as many bytes as it has.

        None also when the pieces are too many, or turn out to overlap: then they do not tell the CRC.
        """
        if begin in self._found or len(self._found) >= MAX_PIECES:
            return None
        self._found[begin] = (nbytes, crc)
        self._left -= nbytes
        if self._left:
            return None
        at = whole = 0
        for start, (length, piece) in sorted(self._found.items()):
            if start != at:
                return None
            whole, at = combine(whole, piece, length, CASTAGNOLI), at + length
        return whole


def _multiply(a: int, b: int, polynomial: int) -> int:
    """Multiply two polynomials over GF(2) modulo the CRC's, in its reflected order of bits."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (polynomial if b & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _power(bits: int, polynomial: int) -> int:
    """Return x to the power of `bits`, reduced."""
    result, square = 1 << 31, 1 << 30
    while bits:
        if bits & 1:
            result = _multiply(square, result, polynomial)
        square = _multiply(square, square, polynomial)
        bits >>= 1
    return result

"""CRC-32 of a long range from the CRCs of its pieces, so that threads may write the pieces in any order.

Appending zeros to a message multiplies its CRC by a power of x modulo the CRC's polynomial; `combine` does that by repeated squaring, as
zlib's ``crc32_combine`` does (which Python does not offer).
"""

from functools import lru_cache

POLYNOMIAL = 0xEDB88320


def combine(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-32 of two byte strings in a row from the CRC-32 of each."""
    if not second_bytes:
        return first
    return _multiply(_power(second_bytes * 8), first) ^ second


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2) modulo the CRC's, in its reflected order of bits."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = (b >> 1) ^ (POLYNOMIAL if b & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _power(bits: int) -> int:
    """Return x to the power of `bits`, reduced."""
    result, square = 1 << 31, 1 << 30
    while bits:
        if bits & 1:
            result = _multiply(square, result)
        square = _multiply(square, square)
        bits >>= 1
    return result

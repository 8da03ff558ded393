"""Raw elements of a file to numbers and back, looking out for NaN and infinity on the way.

Numba knows no 16-bit floats, so these are taken apart and put together as integers:

::

    float16   s eeeee mmmmmmmmmm              e = 0: m · 2⁻²⁴     e = 31: infinity (m = 0) or NaN
    bfloat16  s eeeeeeee mmmmmmm              the upper half of a float32

Rounding is to nearest, ties to even, and happens once: a float64 on its way to 16 bits is first rounded *to odd* to float32
(truncated, last bit set where something was cut off), after which the second rounding gives what one rounding would have given
(Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd").
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop

TILE = 2048
"""Elements that pass through both steps of a conversion while they are in the first-level cache."""

_BITS = {np.dtype(np.float32): np.dtype(np.uint32), np.dtype(np.float64): np.dtype(np.uint64)}


def decode(raw: NDArray[Any], dtype_name: str, out: NDArray[Any]) -> int:
    """Fill `out` with the numbers that raw elements stand for, and return how many are NaN or infinite.

    Args:
        raw: Shape (b,), contiguous, as elements lie in a file: bfloat16 as uint16, float16 as float16 or uint16. May be `out`
            itself, which is then only looked through.
        dtype_name: ``float16``, ``bfloat16``, ``float32`` or ``float64``.
        out: Shape (b,), contiguous, float32 or float64. Exact unless float64 goes to float32.
    """
    size = out.size
    if dtype_name in ("float16", "bfloat16"):
        half = raw.view(np.uint16)
        step = _decode_float16 if dtype_name == "float16" else _decode_bfloat16
        if out.dtype == np.float32:
            return step(half, out, out.view(np.uint32))
        work = np.empty(size, np.float32)
        count = step(half, work, work.view(np.uint32))
        with np.errstate(invalid="ignore"):
            out[:] = work
        return count
    numbers = raw.view(dtype_name)
    if numbers.dtype != out.dtype:
        with np.errstate(over="ignore", invalid="ignore"):
            out[:] = numbers
    elif raw.ctypes.data != out.ctypes.data:
        return _copy(numbers.view(_BITS[out.dtype]), out.view(_BITS[out.dtype]))
    return count_nonfinite(out)


def encode(floats: NDArray[Any], dtype_name: str, raw_out: NDArray[Any]) -> int:
    """Fill `raw_out` with numbers rounded to a dtype, and return how many became (or were) NaN or infinite.

    Args:
        floats: Shape (b,), contiguous, float32 or float64. Not changed.
        dtype_name: ``float16``, ``bfloat16``, ``float32`` or ``float64``.
        raw_out: Shape (b,), contiguous, as elements lie in a file; may be `floats` itself where the dtypes are the same.
    """
    if dtype_name in ("float16", "bfloat16"):
        half = raw_out.view(np.uint16)
        if floats.dtype == np.float32:
            bits = floats.view(np.uint32)
        else:
            work = np.empty(floats.size, np.float32)
            bits = work.view(np.uint32)
            _round_to_odd(floats, work, bits)
        return _encode_float16(bits, half) if dtype_name == "float16" else _encode_bfloat16(bits, half)
    return decode(floats, floats.dtype.name, raw_out.view(dtype_name))


def count_nonfinite(floats: NDArray[Any]) -> int:
    """Return how many of float32 or float64 numbers are NaN or infinite."""
    return _count(floats.view(_BITS[floats.dtype]))


@block_loop
def _count(bits: Any) -> int:
    infinity = np.uint32(0x7F800000) if bits.itemsize == 4 else np.uint64(0x7FF0000000000000)
    rest = np.uint32(0x7FFFFFFF) if bits.itemsize == 4 else np.uint64(0x7FFFFFFFFFFFFFFF)
    count = 0
    for first in range(0, bits.size, TILE):
        part = bits[first : first + TILE]
        top = bits.dtype.type(0)
        for j in range(part.size):  # the greatest magnitude is enough, unless it is not finite
            top = max(top, bits.dtype.type(part[j] & rest))  # cast, as Numba's integers are of 64 bits
        if top >= infinity:
            for j in range(part.size):
                count += (part[j] & rest) >= infinity
    return count


@_count.in_numpy
def _count_in_numpy(bits: Any) -> int:
    infinity = np.uint32(0x7F800000) if bits.itemsize == 4 else np.uint64(0x7FF0000000000000)
    rest = np.uint32(0x7FFFFFFF) if bits.itemsize == 4 else np.uint64(0x7FFFFFFFFFFFFFFF)
    count = 0
    for first in range(0, bits.size, 8 * TILE):
        magnitudes = bits[first : first + 8 * TILE] & rest
        if magnitudes.max() >= infinity:
            count += int(np.count_nonzero(magnitudes >= infinity))
    return count


@block_loop
def _copy(bits: Any, out: Any) -> int:
    count = 0
    for first in range(0, out.size, TILE):
        source, target = bits[first : first + TILE], out[first : first + TILE]
        for j in range(target.size):
            target[j] = source[j]
        count += _count(target)
    return count


@block_loop
def _decode_bfloat16(raw: Any, out: Any, out_bits: Any) -> int:
    count = 0
    for first in range(0, out.size, TILE):
        source, target = raw[first : first + TILE], out_bits[first : first + TILE]
        top = np.uint16(0)
        for j in range(target.size):
            target[j] = np.uint32(source[j]) << np.uint32(16)
            top = max(top, np.uint16(source[j] & np.uint16(0x7FFF)))
        if top >= np.uint16(0x7F80):
            count += _count(target)
    return count


@block_loop
def _decode_float16(raw: Any, out: Any, out_bits: Any) -> int:
    count = 0
    for first in range(0, out.size, TILE):
        source = raw[first : first + TILE]
        numbers, target = out[first : first + TILE], out_bits[first : first + TILE]
        top = np.uint16(0)
        for j in range(target.size):
            half = np.uint32(source[j])
            magnitude = np.uint32(half & np.uint32(0x7FFF))
            bias = np.uint32(0x70000000) if magnitude >= np.uint32(0x7C00) else np.uint32(0x38000000)
            target[j] = ((half & np.uint32(0x8000)) << np.uint32(16)) | ((magnitude << np.uint32(13)) + bias)
            top = max(top, np.uint16(source[j] & np.uint16(0x7FFF)))
        for j in range(target.size):
            whole = np.int32(source[j])
            small = np.float32(whole & np.int32(0x3FF)) * np.float32(2.0**-24)
            small = -small if whole & np.int32(0x8000) else small
            numbers[j] = numbers[j] if whole & np.int32(0x7C00) else small
        if top >= np.uint16(0x7C00):
            count += _count(target)
    return count


@block_loop
def _encode_bfloat16(bits: Any, raw: Any) -> int:
    count = 0
    for first in range(0, raw.size, TILE):
        source, target = bits[first : first + TILE], raw[first : first + TILE]
        top = np.uint16(0)
        for j in range(target.size):
            b = source[j]
            odd = (b >> np.uint32(16)) & np.uint32(1)
            rounded = np.uint32(b + np.uint32(0x7FFF) + odd) >> np.uint32(16)
            nan = (b >> np.uint32(16)) | np.uint32(0x40)
            half = np.uint16(nan if (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else rounded)
            target[j] = half
            top = max(top, np.uint16(half & np.uint16(0x7FFF)))
        if top >= np.uint16(0x7F80):
            for j in range(target.size):
                count += (target[j] & np.uint16(0x7FFF)) >= np.uint16(0x7F80)
    return count


@block_loop
def _encode_float16(bits: Any, raw: Any) -> int:
    shifted = np.empty(TILE, np.float32)
    shifted_bits = shifted.view(np.uint32)
    count = 0
    for first in range(0, raw.size, TILE):
        source, target = bits[first : first + TILE], raw[first : first + TILE]
        for j in range(target.size):
            shifted_bits[j] = source[j] & np.uint32(0x7FFFFFFF)
        for j in range(
            target.size
        ):  # adding 1/2 lines the last bit of a small float16 up with that of a float32, and rounds
            shifted[j] = shifted[j] + np.float32(0.5)
        top = np.uint16(0)
        for j in range(target.size):
            magnitude = np.uint32(source[j] & np.uint32(0x7FFFFFFF))
            odd = (magnitude >> np.uint32(13)) & np.uint32(1)
            normal = np.uint32(magnitude - np.uint32(0x38000000) + np.uint32(0xFFF) + odd) >> np.uint32(13)
            small = shifted_bits[j] - np.uint32(0x3F000000)
            nan = ((magnitude >> np.uint32(13)) & np.uint32(0x3FF)) | np.uint32(0x7E00)
            half = small if magnitude < np.uint32(0x38800000) else normal
            half = np.uint32(0x7C00) if magnitude >= np.uint32(0x47800000) else half
            half = nan if magnitude > np.uint32(0x7F800000) else half
            target[j] = np.uint16(half | ((source[j] >> np.uint32(16)) & np.uint32(0x8000)))
            top = max(top, np.uint16(half))
        if top >= np.uint16(0x7C00):
            for j in range(target.size):
                count += (target[j] & np.uint16(0x7FFF)) >= np.uint16(0x7C00)
    return count


@block_loop
def _round_to_odd(floats: Any, work: Any, bits: Any) -> None:
    for first in range(0, floats.size, TILE):
        source = floats[first : first + TILE]
        numbers, target = work[first : first + TILE], bits[first : first + TILE]
        for j in range(source.size):
            numbers[j] = source[j]
        for j in range(source.size):
            near = np.float64(numbers[j])
            cut = target[j] - np.uint32(1 if abs(near) > abs(source[j]) else 0)
            target[j] = target[j] if near == source[j] else np.uint32(cut | np.uint32(1))

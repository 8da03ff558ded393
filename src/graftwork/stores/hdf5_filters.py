"""The filters that chunks of an HDF5 file's datasets went through, and their way back."""

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from graftwork.lazy import np
from graftwork.stores.hdf5_checksums import fletcher_holds
from graftwork.stores.hdf5_pages import Unreadable, damaged

DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3

FILTER_NAMES: Final = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32015: "zstd"}


def filters_of(body: bytes) -> tuple[int, ...]:
    """Return the filters of a pipeline message in the order in which they were applied.

    Raises:
        Unreadable: If one of them is not deflate, shuffle or fletcher32, or comes twice.
    """
    version, count = body[0], body[1]
    if version not in (1, 2) or count > 32:
        raise damaged(f"its filters have version {version} and are {count}")
    at, found = 8 if version == 1 else 2, []
    for _ in range(count):
        number = struct.unpack_from("<H", body, at)[0]
        if number not in (DEFLATE, SHUFFLE, FLETCHER):
            name = f" ({FILTER_NAMES[number]})" if number in FILTER_NAMES else ""
            raise Unreadable(
                f"is stored with HDF5 filter {number}{name}, which graftwork does not know; save it again without compression"
            )
        if version == 1:
            length, _, values = struct.unpack_from("<HHH", body, at + 2)
            at += 8 + length + 4 * (values + values % 2)
        else:
            values = struct.unpack_from("<H", body, at + 4)[0]
            at += 6 + 4 * values
        found.append(number)
    if len(set(found)) != len(found):
        raise Unreadable("applies one filter twice, which no Keras file does")
    return tuple(found)


def unfiltered(data: bytes, applied: Sequence[int], mask: int, size: int, itemsize: int) -> bytes:
    """Return a chunk's `size` bytes from what is stored of it.

    Raises:
        Unreadable: If they are not as many, or a checksum differs.
    """
    used = [number for i, number in enumerate(applied) if not mask >> i & 1]
    for i in reversed(range(len(used))):
        number = used[i]
        if number == FLETCHER:
            if len(data) < 4 or not fletcher_holds(data):
                raise damaged("a chunk does not have the checksum that it should")
            data = data[:-4]
        elif number == SHUFFLE:
            whole = len(data) // itemsize * itemsize
            planes = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1)
            data = planes.T.tobytes() + data[whole:]
        else:
            data = _inflated(data, size + 4 * used[:i].count(FLETCHER))
    if len(data) != size:
        raise damaged(f"a chunk has {len(data):,} bytes of values instead of {size:,}")
    return data


def _inflated(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size)
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise damaged(f"a chunk expands to more than its {size:,} bytes")
    except zlib.error as error:
        raise damaged(f"a chunk cannot be expanded ({error})") from error
    if not stream.eof:
        raise damaged("a chunk's compressed bytes end early")
    return found

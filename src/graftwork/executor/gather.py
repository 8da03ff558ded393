"""Reading a block of a tensor whose axis is permuted, without reading the tensor.

With the permuted axis in the middle a tensor is (outer, axis, inner). Runs of `inner` elements stay together, so a block is
a list of runs to fetch: by themselves where they are long or the whole would be too large, else together with their
neighbours, permuted in memory.
"""

import math
from collections.abc import Sequence

import numpy as np

from graftwork.stores.base import Raw, Reader

LONG_RUN = 256
"""Elements from which on a run is read by itself."""

SLAB_BYTES = 1 << 20
"""What is read whole, to be permuted in memory, is at most this long."""


def read_gathered(
    reader: Reader,
    name: str,
    shape: tuple[int, ...],
    gather: Sequence[tuple[int, tuple[int, ...]]],
    start: int,
    out: Raw,
) -> None:
    """Fill `out` with flat positions from `start` on of a tensor whose axes are permuted.

    Args:
        reader: The open source.
        name: The tensor.
        shape: Its shape.
        gather: (axis, positions): entry k of the axis in the result is entry ``positions[k]`` of the file's. Applied in order.
        start: First flat position.
        out: Raw elements to fill.
    """
    (axis, index), *before = gather[::-1]
    axis %= len(shape)
    inner = math.prod(shape[axis + 1 :])
    width = shape[axis]

    def fetch(position: int, into: Raw) -> None:
        if before:
            read_gathered(reader, name, shape, before[::-1], position, into)
        else:
            reader.read_into(name, position, into)

    slab = width * inner
    if inner >= LONG_RUN or slab * out.itemsize > SLAB_BYTES:
        done = 0
        while done < len(out):
            row, column = divmod(start + done, inner)
            outer, k = divmod(row, width)
            end = k + 1
            while end < width and index[end] == index[end - 1] + 1 and (end - k) * inner - column < len(out) - done:
                end += 1  # neighbours that stay neighbours are one run
            count = min((end - k) * inner - column, len(out) - done)
            fetch((outer * width + index[k]) * inner + column, out[done : done + count])
            done += count
        return
    order = np.asarray(index)
    first, last = start // slab, -(-(start + len(out)) // slab)
    piece = np.empty(slab, out.dtype)
    for outer in range(first, last):
        fetch(outer * slab, piece)
        permuted = piece.reshape(width, inner)[order].reshape(-1)
        begin, end = max(start, outer * slab), min(start + len(out), (outer + 1) * slab)
        out[begin - start : end - start] = permuted[begin - outer * slab : end - outer * slab]

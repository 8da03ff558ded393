"""The mean of the middle of several models, element by element: what is left when the least and the greatest go.

Models are sorted by a network of comparators (Batcher's merge exchange; Knuth, The Art of Computer Programming, vol. 3, 5.2.2,
algorithm M): the same comparisons whatever the data, each made for a whole tile of elements at once, so that they vectorise.
Comparators that the middle does not depend on are left out.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.rows import flatten

CACHE_BYTES = 32768
"""Size of a tile of all models, which is gone over once per comparator."""


def mean_of_middle(models: NDArray[Any], cut: int, out: NDArray[Any]) -> None:
    """Write the mean of all but the `cut` least and the `cut` greatest of each element to `out`.

    The sum is float64, of the sorted numbers. Where all that are left agree, the result is exact. Where any model is NaN, so is the result.

    Args:
        models: Shape (n, b), float32 or float64.
        cut: How many are left out at each end, less than n / 2.
        out: Shape (b,), the models' dtype.
    """
    n = len(models)
    tile = min(max(CACHE_BYTES // (n * models.itemsize) // 64 * 64, 64), 1024)
    _mean_of_middle(*flatten(models), comparators(n, cut), cut, np.empty(n * tile, models.dtype), out)


@functools.lru_cache(maxsize=64)
def comparators(n: int, cut: int) -> NDArray[np.int64]:
    """Return the comparators that put everything but the `cut` least and the `cut` greatest of n numbers in its sorted place.

    Returns:
        Shape (m, 2): of numbers at the first and the second place, the less goes to the first.
    """
    network = []
    top = 1 << (n - 1).bit_length() >> 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            network += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    wanted, kept = set(range(cut, n - cut)), []
    for pair in reversed(network):
        if not wanted.isdisjoint(pair):
            wanted.update(pair)
            kept.append(pair)
    return np.array(kept[::-1], np.int64).reshape(-1, 2)


@block_loop
def _mean_of_middle(x: Any, distance: Any, n: Any, network: Any, cut: Any, memory: Any, out: Any) -> None:
    tile = memory.size // n
    sums, unordered = np.empty(tile, np.float64), np.empty(tile, np.bool_)
    for first in range(0, out.size, tile):
        target = out[first : first + tile]
        unordered[:] = False
        for i in range(n):
            row = x[i * distance + first : i * distance + first + target.size]
            mine = memory[i * tile : i * tile + target.size]
            for j in range(target.size):
                mine[j] = row[j]
                unordered[j] |= row[j] != row[j]
        for c in range(len(network)):
            low = memory[network[c, 0] * tile : network[c, 0] * tile + target.size]
            high = memory[network[c, 1] * tile : network[c, 1] * tile + target.size]
            for j in range(target.size):
                a, b = low[j], high[j]
                swap = b < a
                low[j] = b if swap else a
                high[j] = a if swap else b
        sums[:] = 0.0
        for i in range(cut, n - cut):
            mine = memory[i * tile : i * tile + target.size]
            for j in range(target.size):
                sums[j] += np.float64(mine[j])
        least = memory[cut * tile : cut * tile + target.size]
        greatest = memory[(n - 1 - cut) * tile : (n - 1 - cut) * tile + target.size]
        for j in range(target.size):
            mean = np.float64(least[j]) if least[j] == greatest[j] else sums[j] / (n - 2 * cut)
            target[j] = np.nan if unordered[j] else mean

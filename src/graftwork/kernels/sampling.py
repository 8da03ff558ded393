"""Between which two values the k-th largest of a tensor lies, from a sample of its chunks.

The sample is taken at places that depend on the size of the tensor alone: so what is found is the same for every number of threads
and every block size. It may be wrong, and whoever uses it has to see whether it is.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.sums import CHUNK

LEAST, MOST = 1 << 17, 1 << 21
"""Elements of a sample."""

DEVIATIONS = 5.0
"""How many standard deviations of the sample's rank the range reaches to both sides."""


def stride(size: int, room: int) -> int:
    """Return of how many chunks one is to be sampled, so that a range that holds the k-th largest holds half of `room`, not more."""
    wanted = min(max(int((2 * DEVIATIONS * size / room) ** 2), LEAST), MOST)
    return max(1, size // wanted)


def sampled(start: int, size: int, stride: int) -> Iterator[int]:
    """Return where in a block that begins at `start` the chunks of a sample begin, those that are whole."""
    first = -(-start // (CHUNK * stride)) * CHUNK * stride - start
    return iter(range(first, size - CHUNK + 1, CHUNK * stride))


def range_of_rank(
    chunks: Sequence[NDArray[Any]], fraction: float, size: int, room: int
) -> tuple[np.floating[Any], np.floating[Any]]:
    """Return a range, from the first number up to and without the second, in which the k-th largest of a tensor probably lies.

    Args:
        chunks: The sample: magnitudes of shape (CHUNK,), in the order of their positions.
        fraction: k divided by the number of elements that are not 0.
        size: Elements of the tensor.
        room: How many elements the range may hold.
    """
    sample = np.stack(chunks)
    some = np.sort(sample, axis=None)[::-1]
    nonzero = int(np.count_nonzero(some > 0))
    tiny, infinity = np.finfo(some.dtype).smallest_subnormal, some.dtype.type(np.inf)
    if not nonzero:
        return tiny, infinity
    rank = fraction * nonzero
    middle = some[min(int(rank), nonzero - 1)]
    # neighbours are alike: what a chunk has too much of tells more than its number of elements
    excess = np.count_nonzero(sample >= middle, axis=1) - fraction * np.count_nonzero(sample > 0, axis=1)
    deviation = max(np.sqrt(excess @ excess), np.sqrt(rank * (1 - fraction)))
    margin = min(DEVIATIONS * float(deviation) + 1, 0.4 * room * some.size / size)
    highest, lowest = int(rank - margin), int(np.ceil(rank + margin))
    high = np.nextafter(some[highest], infinity) if highest >= 0 and rank > margin else infinity
    return (some[lowest] if lowest < nonzero else tiny), high

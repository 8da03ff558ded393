"""Random masks drawn by position: the compiled side of `graftwork.rng`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.sums import CHUNK, ChunkSums, _magnitudes

INCREMENT = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


def drop(row: NDArray[Any], base: NDArray[Any], key: np.uint64, start: int, bound: np.uint64) -> None:
    """Set every element of `row` that its random number does not keep to the base's.

    Args:
        row: Shape (b,), one model's block; changed in place.
        base: Shape (b,), same dtype.
        key: The stream, see `graftwork.rng.key`.
        start: Position of the first element in the tensor.
        bound: What keeps an element, see `graftwork.rng.bound`.
    """
    _drop(row, base, np.uint64(key), np.uint64(start), np.uint64(bound))


def add_kept_magnitudes(
    sums: ChunkSums,
    rows: tuple[int, int],
    block: tuple[NDArray[Any], NDArray[Any]],
    key: np.uint64,
    start: int,
    bound: np.uint64,
) -> None:
    """Set the chunks from `start` on of Σ |x - base| (first row) and of the same sum over what `drop` keeps (second row).

    Args:
        sums: Where they go.
        rows: The two sums' rows.
        block: The model's block and the base's, shape (b,).
        key: As for `drop`.
        start: As for `drop`.
        bound: As for `drop`.
    """
    x, base = block
    places = [sums.places(row, start, x.size) for row in rows]
    work = np.empty((2, CHUNK), x.dtype)
    _kept_magnitudes(x, base, np.uint64(key), np.uint64(start), np.uint64(bound), work, places[0], places[1])


@block_loop
def mix(z: Any) -> Any:
    """What SplitMix64 makes of its state; see `graftwork.rng`."""
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@block_loop
def _drop(row: Any, base: Any, key: Any, start: Any, bound: Any) -> None:
    state = key + (start + np.uint64(1)) * INCREMENT
    for j in range(row.size):
        number = mix(state + np.uint64(j) * INCREMENT) >> np.uint64(11)
        mine, origin = row[j], base[j]  # both loaded: a choice between values vectorises, one between loads is a branch
        row[j] = mine if number < bound else origin


@block_loop
def _kept_magnitudes(x: Any, base: Any, key: Any, start: Any, bound: Any, work: Any, every: Any, kept: Any) -> None:
    for c in range(every.size):
        first = c * CHUNK
        a, b = x[first : first + CHUNK], base[first : first + CHUNK]
        before, after = work[0, : a.size], work[1, : a.size]
        for j in range(a.size):
            before[j] = a[j]
            after[j] = a[j]
        _drop(after, b, key, start + np.uint64(first), bound)
        for j in range(a.size):
            before[j] -= b[j]
            after[j] -= b[j]
        _magnitudes(before, every[c : c + 1])
        _magnitudes(after, kept[c : c + 1])

"""The k largest magnitudes of a tensor, or of a whole model, without sorting and without holding it.

Magnitudes of floats are ordered like their bits, so the k-th largest is found digit by digit:

1. A histogram of the top 16 bits tells which bin the k-th largest is in, and its rank there.
2. If that bin holds few elements (the rule), the second pass collects them with their positions, and all is known. If it holds more
   than `COLLECTED`, the next 16 bits are counted, and so on.
3. If the elements *equal* to the k-th largest are too many to collect (16-bit sources have few distinct values), their number is
   counted per chunk; the one chunk in which the quota runs out is looked through when it is written.

So two passes over the data usually do, three (float64: five) always. A tensor that comes in one block is settled at once, in
memory. Of elements with equal magnitude, earlier positions win. Zeros are never worth a pass: where the k-th largest is 0,
everything is kept, since a difference of 0 moves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.sums import CHUNK

COLLECTED = 1 << 18
"""Greatest number of elements (per model) that are collected with their positions: 3 MiB, of float64 4 MiB."""

BINS = 1 << 16
TILE = 2048
EVERYWHERE = np.iinfo(np.int64).max
"""A cutoff beyond every position."""


class Look(Enum):
    """What the next pass has to find out about a model."""

    DIGIT = "counts per value of the next digit"
    COLLECT = "the candidates themselves"
    COUNT = "candidates per chunk"
    NOTHING = "nothing"


@dataclass(slots=True)
class Search:
    """How far the search in one model has come.

    The candidates are the elements whose bits minus 1 are in ``[low, low + 2^width)``; `need` of them, the largest and among
    equals the first, survive, and so does everything above.
    """

    look: Look
    low: int = 0
    width: int = 0
    need: int = 0
    count: int = 0
    cutoff: int = EVERYWHERE
    rest: int = 0

    @property
    def shift(self) -> int:
        """Bits below the next digit."""
        return max(self.width - 16, 0)


@dataclass(slots=True)
class Seen:
    """What one thread has seen in one pass, per model."""

    magnitudes: NDArray[Any]
    digits: NDArray[np.uint32]
    histograms: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    collected: dict[int, tuple[NDArray[Any], NDArray[np.int64]]] = field(default_factory=dict)
    filled: dict[int, int] = field(default_factory=dict)
    elements: int = 0
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Which elements are among the largest of each model.

    An element survives iff ``|δ|`` is greater than its model's magnitude, or equal and at a position before the cutoff, or equal and among
    the first `rest` of those from the cutoff on.

    Attributes:
        magnitudes: Shape (n,), in the work dtype.
        cutoffs: Shape (n,), positions in what the reduction is over.
        rests: Shape (n,); not 0 only where the cutoff begins a chunk and the quota runs out inside it.
    """

    magnitudes: NDArray[Any]
    cutoffs: NDArray[np.int64]
    rests: NDArray[np.int64]

    def cuts(self, models: NDArray[Any], base: NDArray[Any] | None, position: int) -> list[int]:
        """Return for each model the place in a block up to which elements equal to the magnitude survive.

        Args:
            models: Shape (n, b).
            base: Shape (b,), or None where magnitudes are of the models themselves.
            position: Where the block begins in what the reduction is over.
        """
        size = models.shape[1]
        cuts = []
        for i, row in enumerate(models):
            cut = min(max(int(self.cutoffs[i]) - position, 0), size)
            if self.rests[i] and cut < size and self.cutoffs[i] >= position:
                chunk = slice(cut, cut + CHUNK)
                magnitudes = _magnitudes(row[chunk], None if base is None else base[chunk])
                equal = np.flatnonzero(magnitudes == self.magnitudes[i])
                cut += int(equal[self.rests[i] - 1]) + 1
            cuts.append(cut)
        return cuts


class LargestMagnitudes:
    """Finds, for each model, the ``max(1, int(keep · size))`` elements of ``x - base`` that are largest in magnitude.

    A reduction: see `graftwork.methods.base.Reduction`. `result` returns `Thresholds`.

    Args:
        keep: Shape (n,), fractions in (0, 1].
        size: Number of elements of the tensor; a block of that size is settled at once.
        dtype: float32 or float64. Blocks of float32 may be among those of a float64 reduction.
    """

    passes = 2
    """Passes over the data, as a rule."""

    def __init__(self, keep: NDArray[np.float64], size: int, dtype: np.dtype[Any]) -> None:
        self._keep = [float(k) for k in keep]
        self._size = size
        self._dtype = np.dtype(dtype)
        self._bits = np.dtype(np.uint32) if self._dtype == np.float32 else np.dtype(np.uint64)
        width = 31 if self._dtype == np.float32 else 63
        self._searches = [Search(Look.NOTHING if k >= 1 else Look.DIGIT, width=width) for k in self._keep]
        self._magnitudes = np.zeros(len(keep), self._dtype)
        self._first = True
        self._counts: NDArray[np.int32] = np.zeros((0, 0), np.int32)
        self._reach = 0

    def local(self) -> Seen:
        """Return what one thread counts in during one pass."""
        seen = Seen(np.empty(TILE, self._dtype), np.empty(TILE, np.uint32))
        for i, search in enumerate(self._searches):
            if search.look is Look.COLLECT:
                seen.collected[i] = np.empty(search.count + 1, self._bits), np.empty(search.count + 1, np.int64)
                seen.filled[i] = 0
        return seen

    def observe(self, block: Any, local: Seen) -> None:
        """Take one block into account."""
        position, base = block.offset + block.start, block.base
        size = block.models.shape[1]
        local.elements += size
        local.reach = max(local.reach, position + size)
        if size == self._size and position == 0:
            self._settle(block)
            return
        bits = local.magnitudes.view(self._bits)
        for i, (row, search) in enumerate(zip(block.models, self._searches, strict=True)):
            if search.look is Look.NOTHING:
                continue
            low, origin = self._bits.type(search.low + 1), base
            if row.dtype != self._dtype:
                row, origin = _magnitudes(row, base).astype(self._dtype), None
            if search.look is Look.DIGIT:
                if i not in local.histograms:
                    local.histograms[i] = np.zeros(BINS + 1, np.int64)
                shift, bins = self._bits.type(search.shift), self._bits.type(BINS)
                _digits(row, origin, low, shift, bins, local.magnitudes, bits, local.digits, local.histograms[i])
            elif search.look is Look.COLLECT:
                span = self._bits.type((1 << search.width) - 1)
                work = local.magnitudes, bits
                values, positions = local.collected[i]
                local.filled[i] = _collect(row, origin, low, span, *work, position, values, positions, local.filled[i])
            else:
                counts = self._counts[i, position // CHUNK : -(-(position + size) // CHUNK)]
                _count(row, origin, low, local.magnitudes, bits, counts)

    def end_pass(self, locals_: Sequence[Seen]) -> bool:
        """Take in what all threads saw; return whether another pass is needed."""
        if self._first:
            self._first = False
            elements = sum(seen.elements for seen in locals_)
            self._reach = max((seen.reach for seen in locals_), default=0)
            for search, keep in zip(self._searches, self._keep, strict=True):
                search.need = min(max(1, int(keep * elements)), elements)
        for i, search in enumerate(self._searches):
            if search.look is Look.DIGIT:
                histograms = [seen.histograms[i] for seen in locals_ if i in seen.histograms]
                self._narrow(i, np.sum([np.zeros(BINS + 1, np.int64), *histograms], axis=0))
            elif search.look is Look.COLLECT:
                values = np.concatenate([seen.collected[i][0][: seen.filled[i]] for seen in locals_])
                positions = np.concatenate([seen.collected[i][1][: seen.filled[i]] for seen in locals_])
                self._choose(i, values, positions)
            elif search.look is Look.COUNT:
                before = np.cumsum(self._counts[i], dtype=np.int64)
                chunk = int(np.searchsorted(before, search.need))
                search.rest = search.need - int(before[chunk] - self._counts[i, chunk])
                search.cutoff = chunk * CHUNK
                self._found(i, search.low + 1)
        if any(search.look is Look.COUNT for search in self._searches):
            self._counts = np.zeros((len(self._searches), -(-self._reach // CHUNK)), np.int32)
        return any(search.look is not Look.NOTHING for search in self._searches)

    def result(self) -> Thresholds:
        """Return which elements survive."""
        cutoffs = np.array([search.cutoff for search in self._searches], np.int64)
        return Thresholds(self._magnitudes, cutoffs, np.array([search.rest for search in self._searches], np.int64))

    def _found(self, i: int, bits: int) -> None:
        """Settle model i: its threshold has these bits."""
        self._magnitudes[i] = np.array([bits], self._bits).view(self._dtype)[0]
        self._searches[i].look = Look.NOTHING

    def _narrow(self, i: int, histogram: NDArray[np.int64]) -> None:
        """Go down to the bin in which the candidate of rank `need` is."""
        search = self._searches[i]
        counts = histogram[: 1 << (search.width - search.shift)]
        from_top = np.cumsum(counts[::-1])
        if not from_top.size or search.need > from_top[-1] or search.need == 0:  # the k-th largest is a zero
            self._found(i, 0)
            return
        place = int(np.searchsorted(from_top, search.need))
        digit = counts.size - 1 - place
        search.count = int(counts[digit])
        search.need -= int(from_top[place]) - search.count
        search.low += digit << search.shift
        search.width = search.shift
        if search.count == search.need:
            self._found(i, search.low + 1)
        elif search.count <= COLLECTED:
            search.look = Look.COLLECT
        else:
            search.look = Look.DIGIT if search.width else Look.COUNT

    def _choose(self, i: int, values: NDArray[Any], positions: NDArray[np.int64]) -> None:
        """Settle model i from its candidates."""
        search = self._searches[i]
        value = np.partition(values, values.size - search.need)[values.size - search.need]
        quota = search.need - int(np.count_nonzero(values > value))
        equal = positions[values == value]
        if quota < equal.size:
            search.cutoff = int(np.partition(equal, quota - 1)[quota - 1]) + 1
        self._found(i, search.low + int(value) + 1)

    def _settle(self, block: Any) -> None:
        """Settle all models from the one block there is."""
        size = block.models.shape[1]
        for i, (row, search) in enumerate(zip(block.models, self._searches, strict=True)):
            if search.look is Look.NOTHING or size == 0:
                continue
            magnitudes = _magnitudes(row, block.base).astype(self._dtype, copy=False)
            bits = magnitudes.view(self._bits)
            rank = size - max(1, int(self._keep[i] * size))
            value = np.partition(bits, rank)[rank] if np.count_nonzero(bits) >= size - rank else 0
            if value:
                quota = size - rank - int(np.count_nonzero(bits > value))
                equal = np.flatnonzero(bits == value)
                search.cutoff = int(equal[quota - 1]) + 1 if quota < equal.size else EVERYWHERE
            self._found(i, int(value))


def _magnitudes(x: NDArray[Any], base: NDArray[Any] | None) -> NDArray[Any]:
    """Return |x - base|; infinity minus infinity is NaN, and no news."""
    with np.errstate(invalid="ignore", over="ignore"):
        magnitudes: NDArray[Any] = np.abs(x if base is None else x - base)
    return magnitudes


@block_loop
def _measure(x: Any, base: Any, magnitudes: Any) -> None:
    if base is None:
        for j in range(x.size):
            magnitudes[j] = abs(x[j])
    else:
        for j in range(x.size):
            magnitudes[j] = abs(x[j] - base[j])


@block_loop
def _digits(
    x: Any, base: Any, low: Any, shift: Any, bins: Any, magnitudes: Any, bits: Any, digits: Any, histogram: Any
) -> None:
    for first in range(0, x.size, TILE):
        part = x[first : first + TILE]
        _measure(part, None if base is None else base[first : first + TILE], magnitudes)
        for j in range(
            part.size
        ):  # unsigned: what lies below `low`, zeros too, wraps around to the bin that nobody reads
            digits[j] = min((bits[j] - low) >> shift, bins)
        for j in range(part.size):
            histogram[digits[j]] += 1


@block_loop
def _collect(
    x: Any,
    base: Any,
    low: Any,
    span: Any,
    magnitudes: Any,
    bits: Any,
    position: Any,
    values: Any,
    positions: Any,
    filled: Any,
) -> Any:
    for first in range(0, x.size, TILE):
        part = x[first : first + TILE]
        _measure(part, None if base is None else base[first : first + TILE], magnitudes)
        for j in range(part.size):
            value = bits[j] - low
            values[filled] = value
            positions[filled] = position + first + j
            filled += value <= span
    return filled


@block_loop
def _count(x: Any, base: Any, wanted: Any, magnitudes: Any, bits: Any, counts: Any) -> None:
    for c in range(counts.size):
        count = 0
        for first in range(c * CHUNK, min((c + 1) * CHUNK, x.size), TILE):
            part = x[first : first + TILE]
            _measure(part, None if base is None else base[first : first + TILE], magnitudes)
            for j in range(part.size):
                count += bits[j] == wanted
        counts[c] = count

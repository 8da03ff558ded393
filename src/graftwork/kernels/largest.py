"""The k largest magnitudes of a tensor, or of a whole model, without sorting and without holding it.

Magnitudes of floats are ordered like their bits, so the k-th largest is found digit by digit:

1. A histogram of the top 16 bits tells which bin the k-th largest is in, and its rank there.
2. If that bin holds few elements (the rule), the second pass collects them with their positions, and all is known. If it holds more
   than `COLLECTED`, the next 16 bits are counted, and so on.
3. If the elements *equal* to the k-th largest are too many to collect, their number is counted per chunk; the one chunk in which the
   quota runs out is looked through when it is written.
4. A bin that holds more than one element in `CROWD` holds equal ones, as a rule: differences of 16-bit sources have few distinct
   values, with few digits. So the second pass counts, per chunk, those that equal the bin's only number of 16 bits, and if the k-th
   largest is among them, all is known.

So two passes over the data usually do, four (float64: six) always, for any number of ranks. A tensor that comes in one block is
settled at once, in memory. Of elements with equal magnitude, earlier positions win. Zeros are never worth a pass: where the k-th
largest is 0, everything is kept, since a difference of 0 moves nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.sums import CHUNK

COLLECTED = 1 << 18
"""Greatest number of elements (per rank) that are collected with their positions: 3 MiB, of float64 4 MiB."""

CROWD = 32
"""A bin with more than one in so many elements is taken to hold equal ones."""

BINS = 1 << 16
TILE = 2048
RUN = 64
"""Elements that are looked through together for candidates: few runs hold one."""

EVERYWHERE = np.iinfo(np.int64).max
"""A cutoff beyond every position."""

Rank: TypeAlias = Callable[[int, int], int]
"""Tells how many elements are to survive, of so many in all and so many that are not 0."""

Measured: TypeAlias = tuple[NDArray[Any], NDArray[Any] | None]
"""What magnitudes are of: rows of shape (m, b), and what is subtracted from each, of shape (b,), or None."""

Bin: TypeAlias = tuple[int, int, int]
"""A row, and the bits minus 1 with which a bin of it begins and the number of bits that tell its elements apart."""


def differences(block: Any) -> Measured:
    """Return a block's models and base: magnitudes are |x - base|."""
    return block.models, block.base


def share(fraction: float) -> Rank:
    """Return what asks for ``max(1, int(fraction · size))`` elements."""
    return lambda size, nonzero: max(1, int(fraction * size))


class Look(Enum):
    """What the next pass has to find out for a search."""

    DIGIT = "counts per value of the next digit"
    COLLECT = "the candidates themselves"
    COUNT = "candidates per chunk"
    NOTHING = "nothing"


@dataclass(slots=True)
class Search:
    """How far the search for one rank in one row has come.

    The candidates are the elements whose bits minus 1 are in ``[low, low + 2^width)``; `need` of them, the largest and among
    equals the first, survive, and so does everything above. The greatest that may be among them, with bits ``low + 2^width``, is the
    one whose bits below this digit are 0; `guessed` is whether it was counted already, and is not what is sought.
    """

    row: int
    look: Look
    low: int = 0
    width: int = 0
    need: int = 0
    count: int = 0
    cutoff: int = EVERYWHERE
    rest: int = 0
    guessed: bool = False

    @property
    def bin(self) -> Bin:
        """Return where the candidates are."""
        return self.row, self.low, self.width

    @property
    def greatest(self) -> int:
        """Return the bits of the greatest candidate that there may be."""
        return self.low + (1 << self.width)

    @property
    def shift(self) -> int:
        """Bits below the next digit."""
        return max(self.width - 16, 0)


@dataclass(slots=True)
class Seen:
    """What one thread has seen in one pass; searches in the same bin share it."""

    magnitudes: NDArray[Any]
    digits: NDArray[np.uint32]
    histograms: dict[Bin, NDArray[np.int64]] = field(default_factory=dict)
    collected: dict[Bin, tuple[NDArray[Any], NDArray[np.int64]]] = field(default_factory=dict)
    filled: dict[Bin, int] = field(default_factory=dict)
    elements: int = 0
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Which elements are among the largest, for each rank that was asked for.

    An element is among them iff its magnitude is greater than the threshold, or equal and at a position before the cutoff, or equal
    and among the first `rest` of those from the cutoff on.

    Attributes:
        magnitudes: Shape (s,), in the work dtype; 0 where all elements are, infinity with cutoff 0 where none is.
        cutoffs: Shape (s,), positions in what the reduction is over.
        rests: Shape (s,); not 0 only where the cutoff begins a chunk and the quota runs out inside it.
    """

    magnitudes: NDArray[Any]
    cutoffs: NDArray[np.int64]
    rests: NDArray[np.int64]

    def cuts(self, rows: NDArray[Any], base: NDArray[Any] | None, position: int) -> list[int]:
        """Return for each rank the place in a block up to which elements equal to the threshold are among the largest.

        Args:
            rows: Shape (s, b), what was measured; where s is twice the number of rows, they are taken in turn.
            base: Shape (b,), or None where magnitudes are of the rows themselves.
            position: Where the block begins in what the reduction is over.
        """
        size = rows.shape[1]
        cuts = []
        for i, threshold in enumerate(self.magnitudes):
            cut = min(max(int(self.cutoffs[i]) - position, 0), size)
            if self.rests[i] and cut < size and self.cutoffs[i] >= position:
                chunk = slice(cut, cut + CHUNK)
                magnitudes = _magnitudes(rows[i % len(rows)][chunk], None if base is None else base[chunk])
                equal = np.flatnonzero(magnitudes == threshold)
                cut += int(equal[self.rests[i] - 1]) + 1
            cuts.append(cut)
        return cuts


class Largest:
    """Finds the elements of a row that are largest in magnitude, for several rows, and ranks in each.

    A reduction: see `graftwork.methods.base.Reduction`. `result` returns `Thresholds`, one for each search.

    Args:
        searches: The row and the rank of each search; None for the rank if all elements are among the largest.
        size: Number of elements of the tensor; a block of that size is settled at once.
        dtype: float32 or float64. Blocks of float32 may be among those of a float64 reduction.
        measure: Tells of a block what magnitudes are of.
        positions: Whether it matters which of equal elements are among the largest; if not, only the thresholds are right.
    """

    passes = 2
    """Passes over the data, as a rule."""

    def __init__(
        self,
        searches: Sequence[tuple[int, Rank | None]],
        size: int,
        dtype: np.dtype[Any],
        *,
        measure: Callable[[Any], Measured] = differences,
        positions: bool = True,
    ) -> None:
        self._ranks = [rank for _, rank in searches]
        self._measure = measure
        self._positions = positions
        self._size = size
        self._dtype = np.dtype(dtype)
        self._bits = np.dtype(np.uint32) if self._dtype == np.float32 else np.dtype(np.uint64)
        width = 31 if self._dtype == np.float32 else 63
        self._searches = [
            Search(row, Look.NOTHING if rank is None else Look.DIGIT, width=width) for row, rank in searches
        ]
        self._magnitudes = np.zeros(len(searches), self._dtype)
        self._elements = -1
        self._counts: dict[Bin, NDArray[np.int32]] = {}
        self._reach = 0

    def local(self) -> Seen:
        """Return what one thread counts in during one pass."""
        seen = Seen(np.empty(TILE, self._dtype), np.empty(TILE, np.uint32))
        for search in self._searches:
            if search.look is Look.COLLECT:
                room = search.count + 1
                seen.collected[search.bin] = np.empty(room, self._bits), np.empty(room, np.int64)
                seen.filled[search.bin] = 0
        return seen

    def observe(self, block: Any, local: Seen) -> None:
        """Take one block into account."""
        position, size = block.offset + block.start, block.models.shape[1]
        local.elements += size
        local.reach = max(local.reach, position + size)
        rows, base = self._measure(block)
        if size == self._size and position == 0:
            self._settle(rows, base)
            return
        bits = local.magnitudes.view(self._bits)
        for place, look in {s.bin: s.look for s in self._searches if s.look is not Look.NOTHING}.items():
            (i, start, width), origin = place, base
            row, low = rows[i], self._bits.type(start + 1)
            if row.dtype != self._dtype:
                row, origin = _magnitudes(row, base).astype(self._dtype), None
            if look is Look.DIGIT:
                if place not in local.histograms:
                    local.histograms[place] = np.zeros(BINS + 1, np.int64)
                shift, bins = self._bits.type(max(width - 16, 0)), self._bits.type(BINS)
                _digits(row, origin, low, shift, bins, local.magnitudes, bits, local.digits, local.histograms[place])
            elif look is Look.COLLECT:
                span, into = self._bits.type((1 << width) - 1), local.collected[place]
                work = local.magnitudes, bits
                local.filled[place] = _collect(row, origin, low, span, *work, position, *into, local.filled[place])
            else:
                counts = self._counts[place][position // CHUNK : -(-(position + size) // CHUNK)]
                _count(row, origin, self._bits.type(start + (1 << width)), local.magnitudes, bits, counts)

    def end_pass(self, locals_: Sequence[Seen]) -> bool:
        """Take in what all threads saw; return whether another pass is needed."""
        first = self._elements < 0
        if first:
            self._elements = sum(seen.elements for seen in locals_)
            self._reach = max((seen.reach for seen in locals_), default=0)
        for i, search in enumerate(self._searches):
            if search.look is Look.DIGIT:
                histograms = [seen.histograms[search.bin] for seen in locals_ if search.bin in seen.histograms]
                histogram = np.sum([np.zeros(BINS + 1, np.int64), *histograms], axis=0)
                if first:
                    search.need = self._rank(i, self._elements, int(histogram[:BINS].sum()))
                self._narrow(i, histogram)
            elif search.look is Look.COLLECT:
                filled = [(*seen.collected[search.bin], seen.filled[search.bin]) for seen in locals_]
                values = np.concatenate([values[:count] for values, _, count in filled])
                self._choose(i, values, np.concatenate([positions[:count] for _, positions, count in filled]))
            elif search.look is Look.COUNT:
                self._run_out(i, self._counts[search.bin])
        chunks = -(-self._reach // CHUNK)
        self._counts = {s.bin: np.zeros(chunks, np.int32) for s in self._searches if s.look is Look.COUNT}
        return any(search.look is not Look.NOTHING for search in self._searches)

    def result(self) -> Thresholds:
        """Return which elements are among the largest."""
        cutoffs = np.array([search.cutoff for search in self._searches], np.int64)
        return Thresholds(self._magnitudes, cutoffs, np.array([search.rest for search in self._searches], np.int64))

    def _rank(self, i: int, elements: int, nonzero: int) -> int:
        """Return how many elements search i asks for, of those there are."""
        rank = self._ranks[i]
        return elements if rank is None else max(0, min(rank(elements, nonzero), elements))

    def _found(self, i: int, bits: int) -> None:
        """Settle search i: its threshold has these bits."""
        self._magnitudes[i] = np.array([bits], self._bits).view(self._dtype)[0]
        self._searches[i].look = Look.NOTHING

    def _found_none(self, i: int) -> None:
        """Settle search i: no element is among its largest."""
        self._magnitudes[i] = np.inf
        self._searches[i].cutoff, self._searches[i].look = 0, Look.NOTHING

    def _narrow(self, i: int, histogram: NDArray[np.int64]) -> None:
        """Go down to the bin in which the candidate of rank `need` is."""
        search = self._searches[i]
        if search.need == 0:
            self._found_none(i)
            return
        counts = histogram[: 1 << (search.width - search.shift)]
        from_top = np.cumsum(counts[::-1])
        if search.need > from_top[-1]:  # the k-th largest is a zero
            self._found(i, 0)
            return
        place = int(np.searchsorted(from_top, search.need))
        digit = counts.size - 1 - place
        search.count = int(counts[digit])
        search.need -= int(from_top[place]) - search.count
        search.low += digit << search.shift
        search.width = search.shift
        if search.count == search.need if self._positions else not search.width:
            self._found(i, search.low + 1)
        elif search.count * CROWD > self._elements and not search.guessed:
            search.look = Look.COUNT
        else:
            self._look_closer(search)

    def _look_closer(self, search: Search) -> None:
        """Have candidates collected, or those counted that are too many."""
        if search.count <= COLLECTED:
            search.look = Look.COLLECT
        else:
            search.look = Look.DIGIT if search.width else Look.COUNT

    def _run_out(self, i: int, counts: NDArray[np.int32]) -> None:
        """Settle search i, if the greatest candidates, of which there are so many in each chunk, are enough."""
        search = self._searches[i]
        before = np.cumsum(counts, dtype=np.int64)
        if search.need > before[-1]:
            search.guessed = True
            self._look_closer(search)
            return
        chunk = int(np.searchsorted(before, search.need))
        search.rest = search.need - int(before[chunk] - counts[chunk])
        search.cutoff = chunk * CHUNK
        self._found(i, search.greatest)

    def _choose(self, i: int, values: NDArray[Any], positions: NDArray[np.int64]) -> None:
        """Settle search i from its candidates."""
        search = self._searches[i]
        value = np.partition(values, values.size - search.need)[values.size - search.need]
        quota = search.need - int(np.count_nonzero(values > value))
        equal = positions[values == value]
        if quota < equal.size:
            search.cutoff = int(np.partition(equal, quota - 1)[quota - 1]) + 1
        self._found(i, search.low + int(value) + 1)

    def _settle(self, rows: NDArray[Any], base: NDArray[Any] | None) -> None:
        """Settle all searches from the one block there is."""
        size = rows.shape[1]
        open_ = [i for i, search in enumerate(self._searches) if search.look is not Look.NOTHING]
        for row in sorted({self._searches[i].row for i in open_}):
            bits = _magnitudes(rows[row], base).astype(self._dtype, copy=False).view(self._bits)
            nonzero = int(np.count_nonzero(bits))
            needs = {i: self._rank(i, size, nonzero) for i in open_ if self._searches[i].row == row}
            places = sorted({size - need for need in needs.values() if 0 < need <= nonzero})
            parted = np.partition(bits, places) if places else bits
            for i, need in needs.items():
                value = int(parted[size - need]) if 0 < need <= nonzero else 0
                if not need:
                    self._found_none(i)
                    continue
                if value:
                    quota = need - int(np.count_nonzero(bits > value))
                    equal = np.flatnonzero(bits == value)
                    self._searches[i].cutoff = int(equal[quota - 1]) + 1 if quota < equal.size else EVERYWHERE
                self._found(i, value)


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
        for begin in range(0, part.size, RUN):
            run = bits[begin : min(begin + RUN, part.size)]
            candidates = np.uint32(0)
            for j in range(run.size):
                candidates = np.uint32(candidates + np.uint32(bits.dtype.type(run[j] - low) <= span))
            if candidates:
                for j in range(run.size):
                    value = run[j] - low
                    values[filled] = value
                    positions[filled] = position + first + begin + j
                    filled += value <= span
    return filled


@block_loop
def _count(x: Any, base: Any, wanted: Any, magnitudes: Any, bits: Any, counts: Any) -> None:
    for c in range(counts.size):
        count = np.uint32(0)
        for first in range(c * CHUNK, min((c + 1) * CHUNK, x.size), TILE):
            part = x[first : first + TILE]
            _measure(part, None if base is None else base[first : first + TILE], magnitudes)
            for j in range(part.size):
                count = np.uint32(count + np.uint32(bits[j] == wanted))  # cast, as Numba's integers are of 64 bits
        counts[c] = count

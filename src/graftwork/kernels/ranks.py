"""Random masks whose probability rises with the rank of an element's magnitude within its unit.

The rank is seldom needed. An element is kept if its random number is below a bound that grows with its rank; a histogram of the unit's
magnitudes tells in which range its rank lies, and nearly always its number is below the bounds of all of them or of none. Of those that
are in between the rank is counted out. Where a bin holds equal magnitudes only (16-bit sources have few distinct differences) that takes no
more than the elements' order; if many others are left, the whole unit is sorted. What comes out is what sorting every unit would give.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.masks import INCREMENT, mix
from graftwork.kernels.sums import LANES

UNIT = 2.0**53
"""A random number is this many times a number in [0, 1)."""

HALF = np.uint32(1 << 31)
"""The same for the upper 31 bits of a random number, which nearly always tell enough."""

RAISED = 2.0**-7
"""What is below so much of a unit's largest magnitude has bins of one width; above, bins are the wider the larger the magnitudes."""

PER_BIN = 2
"""Elements for each bin of the histogram: more bins take longer to add up, fewer leave more ranks to be counted out."""

COUNTED = 32
"""So many ranks in a unit are counted out one by one; more are found by sorting."""

CROWDED = 8
"""Where a unit left more ranks open, as those of 16-bit sources do, the next one's elements are numbered in their bins."""

COUNTED_AT_ONCE = 1 << 12
"""Elements counted in a narrow integer, as it vectorises best."""

SHORT = 16
"""Up to so many elements are sorted by insertion."""

WORD = 8
"""Elements whose flags are looked at together."""


def keep_by_rank(
    row: NDArray[Any],
    base: NDArray[Any],
    unit: int,
    stream: tuple[np.uint64, int],
    chances: tuple[float, float],
    kept: NDArray[np.bool_],
    factors: NDArray[Any] | None = None,
    sums: NDArray[np.float64] | None = None,
) -> None:
    """Write which elements of a block are kept, with a probability that rises with their rank.

    The smallest difference from the base in a unit has rank 0, the largest rank ``unit - 1``; of equal ones the earlier has the lower. An
    element is kept iff ``u >> 11 < p · 2⁵³``, with u from the stream and ``p = low + rank · (width / (unit - 1))`` in float64, or
    ``low + width / 2`` in a unit of one. Where the model does not differ from the base it does not matter, and anything may be written.

    Args:
        row: Shape (b,), one model's block.
        base: Shape (b,), same dtype.
        unit: Elements of one unit, of which b is a multiple.
        stream: The key, see `graftwork.rng`, and the position of the first element.
        chances: low and width: the smallest probability, and how far above it the largest is.
        kept: Shape (b,).
        factors: Shape (b,), for 1 / p where an element is kept and 0 elsewhere; None if that is not needed.
        sums: Shape (2, units), for Σ |x - base| of each unit, and the same over what is kept; None if that is not needed.
    """
    integers = np.dtype(np.uint32 if row.dtype == np.float32 else np.uint64)
    magnitudes, raised = np.empty((2, unit), row.dtype)
    bins = min(max(unit if factors is not None else unit // PER_BIN, 16), 1 << 22)
    flags = np.zeros(-(-unit // WORD) * WORD, np.uint8)
    key, start = stream
    _keep_by_rank(
        row,
        base,
        unit,
        np.uint64(key),
        np.uint64(start),
        float(chances[0]),
        float(chances[1]),
        magnitudes,
        magnitudes.view(integers),
        raised,
        raised.view(integers),
        np.empty(bins + 1, np.int32 if unit < 1 << 31 else np.int64),
        np.empty(bins + 1, np.uint32),
        flags,
        flags.view(np.uint64),
        kept,
        np.empty(0, row.dtype) if factors is None else factors,
        np.empty((0, 0)) if sums is None else sums,
    )


def drop_where(row: NDArray[Any], base: NDArray[Any], kept: NDArray[np.bool_]) -> None:
    """Set what is not kept to the base's, in place."""
    _drop_where(row, base, kept)


@block_loop
def _keep_by_rank(
    x: Any,
    base: Any,
    unit: Any,
    key: Any,
    start: Any,
    low: Any,
    width: Any,
    magnitudes: Any,
    bits: Any,
    raised: Any,
    digits: Any,
    counts: Any,
    bounds: Any,
    flags: Any,
    words: Any,
    kept: Any,
    factors: Any,
    sums: Any,
) -> None:
    every, some = np.empty(LANES, np.float64), np.empty(LANES, np.float64)
    tops = np.empty(unit, np.uint32)
    numbers = np.empty(unit if factors.size else 0, np.float64)
    ranks = np.empty(unit if factors.size else 0, np.int64)
    open_ = np.empty(flags.size + 1, np.int64)
    orders, latest = np.empty(unit, counts.dtype), np.empty(counts.size, bits.dtype)
    crowded = not factors.size
    step = width / (unit - 1) if unit > 1 else 0.0
    least = low if unit > 1 else low + width / 2
    part = bits
    for first in range(0, x.size, unit):
        row, origin, keeps = x[first : first + unit], base[first : first + unit], kept[first : first + unit]
        for j in range(unit):
            magnitudes[j] = abs(row[j] - origin[j])
        state = key + (start + np.uint64(first) + np.uint64(1)) * INCREMENT
        before = counts[: _count(magnitudes, part, raised, digits, counts, crowded, orders, latest) + 1]
        undecided = 0
        if not factors.size:
            _draw_tops(state, tops)
            undecided = _decide(part, digits, before, tops, least, step, bounds, flags, words, keeps, open_, crowded)
            numbered, crowded = crowded, undecided > CROWDED
            if numbered and undecided:
                undecided = _follow(part, digits, before, state, least, step, orders, latest, keeps, open_[:undecided])
        if factors.size or undecided > COUNTED:
            if not numbers.size:
                numbers, ranks = np.empty(unit, np.float64), np.empty(unit, np.int64)
            _draw(state, numbers)
            _ranks(part, digits, before, ranks)
            for j in range(unit):
                keeps[j] = numbers[j] < (least + ranks[j] * step) * UNIT
            undecided = 0
            if factors.size:
                inverse = factors[first : first + unit]
                for j in range(unit):
                    p = 1.0 / (least + ranks[j] * step)
                    inverse[j] = p if keeps[j] else 0.0
        for k in range(undecided):
            j = open_[k]
            keeps[j] = _number(state, j) < (least + _rank(part, j) * step) * UNIT
        if sums.size:
            _add_kept(magnitudes, keeps, every, some, sums[:, first // unit])


@block_loop
def _decide(
    part: Any,
    digits: Any,
    before: Any,
    tops: Any,
    least: Any,
    step: Any,
    bounds: Any,
    flags: Any,
    words: Any,
    keeps: Any,
    open_: Any,
    crowded: Any,
) -> Any:
    """Decide on elements whose bin tells enough. Returns how many others there are, whose places are in `open_`.

    If they are expected to be many (`crowded`), they are looked for without branches, which would be foreseen badly.
    """
    for b in range(before.size):
        bounds[b] = np.int64(min((least + before[b] * step) * HALF, HALF - 1.0))
    widest = np.uint32(0)
    for b in range(before.size - 1):
        widest = max(widest, np.uint32(bounds[b + 1] - bounds[b]))
    above = bounds[1:]
    for j in range(tops.size):
        tops[j] -= bounds[digits[j]]  # wraps around where it is less
    for j in range(tops.size):
        keeps[j] = tops[j] >= HALF
        flags[j] = tops[j] <= widest
    flagged = 0
    if crowded:
        for j in range(tops.size):
            open_[flagged] = j
            flagged += flags[j]
    else:
        for w in range(words.size):
            if words[w]:
                for j in range(w * WORD, (w + 1) * WORD):
                    open_[flagged] = j
                    flagged += flags[j]
    undecided = 0
    for k in range(flagged):
        j = open_[k]
        b = digits[j]
        open_[undecided] = j
        undecided += (tops[j] <= np.uint32(above[b] - bounds[b])) & (part[j] > 0)
    return undecided


@block_loop
def _follow(
    part: Any,
    digits: Any,
    before: Any,
    state: Any,
    least: Any,
    step: Any,
    orders: Any,
    latest: Any,
    keeps: Any,
    open_: Any,
) -> Any:
    """Decide on elements of bins in which all are equal: their ranks follow their order. Returns how many others stay in `open_`."""
    differing = part.dtype.type(0)
    for j in range(part.size):
        differing = part.dtype.type(differing | (part[j] ^ latest[digits[j]]))
    mixed = np.zeros(before.size if differing else 0, np.bool_)
    if differing:
        for j in range(part.size):
            mixed[digits[j]] |= part[j] != latest[digits[j]]
    undecided = 0
    for k in range(open_.size):
        j = open_[k]
        open_[undecided] = j
        if differing and mixed[digits[j]]:
            undecided += 1
        else:
            keeps[j] = _number(state, j) < (least + (before[digits[j]] + orders[j]) * step) * UNIT
    return undecided


@block_loop
def _number(state: Any, j: Any) -> Any:
    """The number u >> 11 at place j of a stream, as float64, which holds it exactly."""
    return np.float64(np.int64(mix(state + np.uint64(j) * INCREMENT) >> np.uint64(11)))


@block_loop
def _draw(state: Any, numbers: Any) -> None:
    """The numbers u >> 11 of a stream."""
    for j in range(numbers.size):
        numbers[j] = _number(state, j)


@block_loop
def _draw_tops(state: Any, tops: Any) -> None:
    """The upper 31 bits of a stream's numbers."""
    for j in range(tops.size):
        tops[j] = mix(state + np.uint64(j) * INCREMENT) >> np.uint64(33)


@block_loop
def _count(
    magnitudes: Any, part: Any, raised: Any, digits: Any, before: Any, numbered: Any, orders: Any, latest: Any
) -> Any:
    """The bin of each element, and how many elements are in the bins before each. Returns the number of bins.

    If asked to, numbers the elements in their bins (`orders`) and keeps the last one of each (`latest`).

    Magnitudes are raised by a part of the largest, and the upper bits of that tell the bin: `digits` is `raised` as integers.
    """
    top = part[0]
    for j in range(part.size):
        top = max(top, part[j])
    digits[0] = top
    raised[0] = raised[0] * RAISED if raised[0] < np.inf else 0.0
    by, bottom = raised[0], digits[0]
    for j in range(part.size):
        raised[j] = magnitudes[j] + by
    last = part.dtype.type(0)
    for j in range(part.size):
        digits[j] -= bottom
        last = max(last, digits[j])
    shift = part.dtype.type(0)
    while (last >> shift) >= before.size - 1:
        shift += part.dtype.type(1)
    for j in range(part.size):
        digits[j] >>= shift
    bins = np.int64(last >> shift) + 1
    before[: bins + 1] = 0
    after = before[1:]
    if numbered:
        for j in range(part.size):
            b = digits[j]
            place = after[b]
            orders[j] = place
            after[b] = place + 1
            latest[b] = part[j]
    else:
        for j in range(part.size):
            after[digits[j]] += 1
    total = 0
    for b in range(bins):
        total += after[b]
        after[b] = total
    return bins


@block_loop
def _rank(part: Any, j: Any) -> Any:
    """How many elements are smaller, or equal and earlier."""
    beyond = part.dtype.type(part[j] + part.dtype.type(1))  # bits of a magnitude: there are larger ones
    return _count_below(part[:j], beyond) + _count_below(part[j + 1 :], part[j])


@block_loop
def _count_below(part: Any, limit: Any) -> Any:
    """How many elements are less than `limit`."""
    count: Any = 0
    for first in range(0, part.size, COUNTED_AT_ONCE):
        run, few = part[first : first + COUNTED_AT_ONCE], np.uint32(0)
        for k in range(run.size):
            few = np.uint32(few + np.uint32(run[k] < limit))  # cast, as Numba's sums are of 64 bits
        count += np.int64(few)
    return count


@block_loop
def _ranks(part: Any, digits: Any, before: Any, ranks: Any) -> None:
    """The rank of each element: bins are in order already, what is in one bin is sorted."""
    values, order, places = np.empty_like(part), np.empty(part.size, np.int64), before[:-1].copy()
    for j in range(part.size):
        place = places[digits[j]]
        places[digits[j]] = place + 1
        values[place] = part[j]
        order[place] = j
    for b in range(before.size - 1):
        if before[b + 1] - before[b] > SHORT:
            some, whose = values[before[b] : before[b + 1]], order[before[b] : before[b + 1]]
            descents = 0
            for k in range(1, some.size):
                descents += some[k - 1] > some[k]
            if descents:
                sorted_ = np.argsort(some, kind="mergesort")
                whose[:] = whose[sorted_]
                some[:] = some[sorted_]
    for k in range(1, part.size):
        mine, j, hole = values[k], order[k], k
        while hole > 0 and values[hole - 1] > mine:
            values[hole] = values[hole - 1]
            order[hole] = order[hole - 1]
            hole -= 1
        values[hole] = mine
        order[hole] = j
    for k in range(part.size):
        ranks[order[k]] = k


@block_loop
def _add_kept(magnitudes: Any, kept: Any, every: Any, some: Any, sums: Any) -> None:
    """Σ m and the same over what is kept: element j is added to lane j mod 64, and the lanes are added in order."""
    every[:] = 0.0
    some[:] = 0.0
    whole = magnitudes.size // (4 * LANES) * (4 * LANES)
    for first in range(0, whole, 4 * LANES):  # four to a lane at once: it is loaded and stored but once
        m, k = magnitudes[first : first + 4 * LANES], kept[first : first + 4 * LANES]
        for j in range(LANES):
            a, b = np.float64(m[j]), np.float64(m[j + LANES])
            c, d = np.float64(m[j + 2 * LANES]), np.float64(m[j + 3 * LANES])
            every[j] = every[j] + a + b + c + d
            half = some[j] + (a if k[j] else 0.0) + (b if k[j + LANES] else 0.0)
            some[j] = half + (c if k[j + 2 * LANES] else 0.0) + (d if k[j + 3 * LANES] else 0.0)
    for first in range(whole, magnitudes.size, LANES):
        m, k = magnitudes[first : first + LANES], kept[first : first + LANES]
        for j in range(m.size):
            d = np.float64(m[j])
            every[j] += d
            some[j] += d if k[j] else 0.0
    before, after = 0.0, 0.0
    for j in range(min(magnitudes.size, LANES)):
        before += every[j]
        after += some[j]
    sums[0] = before
    sums[1] = after


@block_loop
def _drop_where(row: Any, base: Any, kept: Any) -> None:
    for j in range(row.size):
        mine, origin = row[j], base[j]
        row[j] = mine if kept[j] else origin

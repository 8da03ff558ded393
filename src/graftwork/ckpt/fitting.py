"""A tensor in another shape: cut where the other is smaller, filled up where it is larger, block by block.

Both have the same number of axes, and element (i, j, …) stays at (i, j, …): of a vocabulary that has grown the known words keep their
rows. What is there in both shapes is read from the source; the rest is the target's own value or made by a rule:

::

    target   the target's own value
    zeros    0
    mean     the mean of the source along the axes that are filled up: a new word is the mean of all words
    normal   μ + σ · z, with the mean μ and the standard deviation σ of all of the source; z is standard normal, by Box and Muller (1958)
             from two streams of `graftwork.rng`, so that it depends on seed, name and position, and on nothing else

Memory is that of a few blocks, and for `mean` the means.
"""

import bisect
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork import rng
from graftwork.errors import NonFiniteError
from graftwork.kernels.convert import decode, encode
from graftwork.stores.base import RAW_DTYPES, Raw, Reader
from graftwork.tensor import FLOATS, TensorSpec

Fill = Literal["target", "zeros", "mean", "normal"]

PIECE = 1 << 18
"""Elements that are read at a time where a block needs many short runs, and that statistics add up at a time."""

LONG_RUN = 2048
"""Elements from which on a run is read by itself."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The elements that two shapes of as many axes share, as runs that lie in one piece in both.

    Attributes:
        ours: The shape that is wanted.
        theirs: The shape that there is.
    """

    ours: tuple[int, ...]
    theirs: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes that both have."""
        return tuple(map(min, self.ours, self.theirs))

    @property
    def axis(self) -> int:
        """The last axis on which the two differ, behind which all is in one piece."""
        return max((k for k, (a, b) in enumerate(zip(self.ours, self.theirs, strict=True)) if a != b), default=0)

    @property
    def length(self) -> int:
        """Elements of a run."""
        return math.prod(self.shape[self.axis :])

    @property
    def count(self) -> int:
        """How many runs there are."""
        return math.prod(self.shape[: self.axis]) if self.length else 0

    @property
    def filled(self) -> tuple[int, ...]:
        """The axes on which something is missing."""
        return tuple(k for k, (a, b) in enumerate(zip(self.ours, self.theirs, strict=True)) if a > b)

    def places(self, runs: NDArray[np.int64], shape: Sequence[int]) -> NDArray[np.int64]:
        """Return where runs begin in an array of one of the two shapes."""
        outer = self.shape[: self.axis]
        at = np.zeros(len(runs), np.int64)
        for size, k in zip(outer[::-1], range(self.axis - 1, -1, -1), strict=True):
            runs, index = np.divmod(runs, size)
            at += index * math.prod(shape[k + 1 :])
        return at

    def runs(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the runs that have elements in a range of flat positions of what is wanted."""

        def begin(run: int) -> int:
            return int(self.places(np.array([run]), self.ours)[0])

        every = range(self.count)
        first = bisect.bisect_right(every, start, key=lambda run: begin(run) + self.length)
        return np.arange(first, bisect.bisect_left(every, stop, key=begin), dtype=np.int64)


class Fitted:
    """A tensor of an open source as one of another shape and dtype; a reader of this one tensor. Closing it leaves its sources open.

    Args:
        source: The open source.
        name: The tensor's name there.
        target: The open model whose tensor it becomes.
        spec: That tensor.
        fill: What the elements are that the source does not have.
        seed: For random ones.
    """

    def __init__(
        self, source: Reader, name: str, target: Reader, spec: TensorSpec, *, fill: Fill = "target", seed: int = 0
    ) -> None:
        self.path = source.path
        self.header = source.header
        self.is_planned = bool(getattr(source, "is_planned", False) or getattr(target, "is_planned", False))
        self._source, self._target = source, target
        self._theirs = source.specs()[name]
        self._spec = spec
        self._overlap = Overlap(spec.shape, self._theirs.shape)
        self._fill: Fill = fill
        self._keys = [rng.key(seed, spec.name, stream) for stream in (0, 1)]
        self._lock = threading.Lock()
        self._means: dict[tuple[int, ...], NDArray[np.float64]] = {}
        self._moments: tuple[float, float] | None = None

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the one tensor that there is, by its name in the source."""
        return {self._theirs.name: replace(self._spec, name=self._theirs.name)}

    def key(self, name: str) -> str:
        """Return the tensor's key in the source."""
        return self._source.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of the tensor in its new shape, beginning at flat position `start`.

        Raises:
            NonFiniteError: If a number of the source is too large for the dtype.
        """
        runs = self._overlap.runs(start, start + out.size)
        length = self._overlap.length
        ours = self._overlap.places(runs, self._overlap.ours)
        theirs = self._overlap.places(runs, self._overlap.theirs)
        covered = np.minimum(ours + length, start + out.size) - np.maximum(ours, start)
        if int(covered.sum()) < out.size:
            self._fill_up(start, out)
        if length >= LONG_RUN:
            for place, there in zip(ours.tolist(), theirs.tolist(), strict=True):
                first, last = max(place, start), min(place + length, start + out.size)
                self._fetch(there + first - place, out[first - start : last - start])
            return
        for begin, end in _groups(theirs, length):
            there = theirs[begin:end]
            piece: Raw = np.empty(int(there[-1] - there[0]) + length, out.dtype)
            self._fetch(int(there[0]), piece)
            within = np.arange(length)
            to = (ours[begin:end, None] + within).reshape(-1) - start
            values = piece[((there - there[0])[:, None] + within).reshape(-1)]
            inside = (to >= 0) & (to < out.size)
            out[to[inside]] = values[inside]

    def close(self) -> None:
        """Do nothing: the sources are closed by whoever opened them."""

    def __enter__(self) -> "Fitted":
        return self

    def __exit__(self, *_: object) -> None: ...

    # What there is

    def _fetch(self, start: int, out: Raw) -> None:
        """Fill `out` with elements of the source in the dtype that is wanted."""
        if self._theirs.dtype == self._spec.dtype:
            self._source.read_into(self._theirs.name, start, out)
            return
        for first in range(0, out.size, PIECE):
            part = out[first : first + PIECE]
            numbers = self._numbers(start + first, part.size)
            self._encode(numbers, part)

    def _numbers(self, start: int, size: int) -> NDArray[Any]:
        """Return elements of the source as numbers."""
        raw: Raw = np.empty(size, RAW_DTYPES[self._theirs.dtype])
        self._source.read_into(self._theirs.name, start, raw)
        if self._theirs.dtype not in FLOATS:
            return raw
        numbers = np.empty(size, np.float64 if self._theirs.dtype == "float64" else np.float32)
        decode(raw, self._theirs.dtype, numbers)
        return numbers

    def _encode(self, numbers: NDArray[Any], out: Raw) -> None:
        bad = encode(numbers, self._spec.dtype, out)
        if bad > np.count_nonzero(~np.isfinite(numbers)):
            raise NonFiniteError(
                f"tensor {self._theirs.name!r} of {self.path.name} has numbers that {self._spec.dtype}, the dtype of "
                f"{self._spec.name!r}, cannot hold"
            )

    # What is missing

    def _fill_up(self, start: int, out: Raw) -> None:
        if self._fill == "target":
            self._target.read_into(self._spec.name, start, out)
        elif self._fill == "zeros":
            out[:] = 0
        elif self._fill == "normal":
            self._encode(self._normal(start, out.size), out)
        else:
            self._encode(self._mean(start, out.size), out)

    def _normal(self, start: int, size: int) -> NDArray[np.float64]:
        with self._lock:
            if self._moments is None:
                self._moments = self._moments_of_all()
        mean, deviation = self._moments
        u, v = (((rng.stream(key, start, size) >> np.uint64(11)) + np.uint64(1)) * 2.0**-53 for key in self._keys)
        values: NDArray[np.float64] = mean + deviation * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)
        return values

    def _mean(self, start: int, size: int) -> NDArray[np.float64]:
        """Return for every element the mean along those axes on which it lies outside of the source."""
        index = np.unravel_index(np.arange(start, start + size), self._overlap.ours)
        outside = {k: index[k] >= self._overlap.theirs[k] for k in self._overlap.filled}
        values = np.zeros(size)
        for axes in _subsets(self._overlap.filled):
            chosen = np.logical_and.reduce([outside[k] if k in axes else ~outside[k] for k in outside])
            if not chosen.any():
                continue
            with self._lock:
                if axes not in self._means:
                    self._means[axes] = self._means_along(axes)
            means = self._means[axes]
            left = [index[k][chosen] for k in range(len(index)) if k not in axes]
            values[chosen] = means[tuple(left)] if left else means
        return values

    def _moments_of_all(self) -> tuple[float, float]:
        size = self._theirs.size
        if not size:
            return 0.0, 0.0
        mean = sum(float(part.sum(dtype=np.float64)) for _, part in self._pieces()) / size
        squares = sum(float(np.square(part - mean, dtype=np.float64).sum()) for _, part in self._pieces())
        return mean, math.sqrt(squares / size)

    def _means_along(self, axes: tuple[int, ...]) -> NDArray[np.float64]:
        shape = self._theirs.shape
        kept = [k for k in range(len(shape)) if k not in axes]
        sums = np.zeros(math.prod(shape[k] for k in kept))
        for start, part in self._pieces():
            index = np.unravel_index(np.arange(start, start + part.size), shape)
            to = (
                np.ravel_multi_index([index[k] for k in kept], [shape[k] for k in kept])
                if kept
                else np.zeros(part.size, int)
            )
            first = int(to.min())
            found = np.bincount(to - first, weights=part)
            sums[first : first + len(found)] += found
        count = math.prod(shape[k] for k in axes)
        return (sums / max(count, 1)).reshape([shape[k] for k in kept])

    def _pieces(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield all of the source, piece by piece: where each begins, and its numbers."""
        for start in range(0, self._theirs.size, PIECE):
            yield start, self._numbers(start, min(PIECE, self._theirs.size - start))


def _groups(places: NDArray[np.int64], length: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of runs that are read together: as many as lie within a piece."""
    begin = 0
    while begin < len(places):
        end = max(int(np.searchsorted(places, places[begin] + PIECE - length, side="right")), begin + 1)
        yield begin, end
        begin = end


def _subsets(axes: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield every choice of at least one axis."""
    for number in range(1, 1 << len(axes)):
        yield tuple(axis for k, axis in enumerate(axes) if number >> k & 1)

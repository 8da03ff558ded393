"""A tensor's blocks: read from every model into the thread's scratch, turned into numbers, and after merging rounded and written."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork import rng
from graftwork.errors import NonFiniteError, OutputError
from graftwork.executor.gather import read_gathered
from graftwork.executor.memory import block_elements
from graftwork.executor.written import Written
from graftwork.kernels.convert import count_nonfinite, decode, encode
from graftwork.methods.base import Block, block_length
from graftwork.stores.base import RAW_DTYPES, Raw, Reader, Writer
from graftwork.tensor import ITEMSIZE, TensorSpec

if TYPE_CHECKING:
    from graftwork.pairing import Source
    from graftwork.planning import MergePlan, Step

Progress = Callable[[int], None]
"""Called with a number of bytes that have been dealt with."""


@dataclass(slots=True)
class Outcome:
    """What running a plan found out that headers could not tell.

    Attributes:
        written: Every block of the result.
        notes: What the user should know.
    """

    written: list[Written] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Held:
    """The values of a tensor, held between passes.

    Attributes:
        rows: Shape (sources, size).
        starts: Where the blocks begin that were read.
    """

    rows: NDArray[Any]
    starts: set[int]

    @classmethod
    def within(cls, room: NDArray[np.uint8], step: "Step", dtype: np.dtype[Any]) -> "Held | None":
        """Return a place for a step's tensor of every source; None if there is not so much room, or it would take more than the files."""
        needed = len(step.sources) * step.spec.size * dtype.itemsize
        if needed > len(room) or needed > _raw_bytes(step, step.spec.size):
            return None
        return cls(room[:needed].view(dtype).reshape(len(step.sources), -1), set())


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is the same for all blocks of a tensor that is merged.

    Attributes:
        step: The plan's step.
        dtype: What is computed in.
        length: Elements of a block.
        keys: Shape (n,), uint64: the key of each model's random stream.
        offset: Where the tensor begins in what its reduction is over.
        held: Where values stay between passes, or None.
    """

    step: "Step"
    dtype: np.dtype[Any]
    length: int
    keys: NDArray[np.uint64]
    offset: int = 0
    held: Held | None = None

    @property
    def starts(self) -> range:
        """Return where the blocks begin."""
        return range(0, self.step.spec.size, self.length)


class Blocks:
    """Reads a plan's blocks and writes its result's; from any thread.

    Args:
        plan: What to do.
        writer: Where the result goes.
        block_size: Elements of a block, for tests.
        progress: Called with bytes read.

    Attributes:
        outcome: What was written, and what the user should know.
    """

    def __init__(self, plan: "MergePlan", writer: Writer, block_size: int | None, progress: Progress) -> None:
        self._plan, self._writer, self._progress = plan, writer, progress
        self._block = block_elements(max((step.n_models for step in plan.steps), default=1), block_size)
        self._local = threading.local()
        self._lock = threading.Lock()
        self.outcome = Outcome()

    def length(self, step: "Step") -> int:
        """Return the length of a step's blocks."""
        return block_length(step.granularity, step.unit, step.spec.size, self._block)

    def tensor(
        self, step: "Step", dtype: np.dtype[Any], offset: int = 0, room: NDArray[np.uint8] | None = None
    ) -> Tensor:
        """Return a step's tensor, to be held in `room` between passes if it fits there."""
        keys = [rng.key(self._plan.request.seed, step.stream, k) for k in range(step.n_models)]
        held = None if room is None else Held.within(room, step, dtype)
        return Tensor(step, dtype, self.length(step), np.array(keys, np.uint64), offset, held)

    def room(self, size: int) -> NDArray[np.uint8]:
        """Return where this thread may hold a tensor of so many bytes at most."""
        mine: dict[str, NDArray[np.uint8]] = self._local.__dict__
        if "room" not in mine:
            mine["room"] = np.empty(size, np.uint8)
        return mine["room"]

    def load(self, tensor: Tensor, start: int, nonfinite: list[int] | None, length: int | None = None) -> Block:
        """Read one block of every model, unless it is held.

        Args:
            tensor: What the block is of.
            start: Where it begins.
            nonfinite: Where to count, source by source, what is not finite; None if it does not matter.
            length: Its length, where it is not the usual one; such a block is not held.

        Raises:
            StoreError: If a source ends early.
        """
        step, dtype, held = tensor.step, tensor.dtype, tensor.held if length is None else None
        length = min(length or tensor.length, step.spec.size - start)
        assert step.method is not None
        scratch = self._scratch(len(step.sources), step.method.scratch_rows, dtype, length)
        rows = scratch["models"][:, :length] if held is None else held.rows[:, start : start + length]
        if held is not None and start in held.starts:
            self._progress(_raw_bytes(step, length))
        else:
            for k, (reader, source) in enumerate(zip(step.readers, step.sources, strict=True)):
                read = self._read_turned if step.granularity == "tensor" and step.is_turned else self._read
                bad = read(step, reader, source, start, rows[k], scratch["raw"], count=nonfinite is not None)
                if nonfinite is not None:
                    nonfinite[k] += bad
            if held is not None:
                held.starts.add(start)
        return Block(
            models=rows[: step.n_models],
            base=rows[step.n_models] if step.has_base else None,
            out=scratch["out"][:length],
            scratch=scratch["rows"][:, :length],
            start=start,
            offset=tensor.offset,
            keys=tensor.keys,
            shape=step.spec.shape,
            unit=0 if step.method.granularity(step.spec.shape) == "block" else step.unit,
            companions=tuple(self._companion(step, k, start, length, dtype) for k in range(len(step.companions))),
        )

    def store(self, step: "Step", block: Block) -> None:
        """Round a block of the result and write it.

        Raises:
            NonFiniteError: If its dtype cannot hold a value.
            OutputError: If it cannot be written.
        """
        if step.granularity == "tensor" and step.is_turned:
            units = step.spec.size // step.unit
            values, rows = block.out.reshape(units, step.unit), max(self._block // units, 1)
            for row in range(0, step.unit, rows):
                self._encode(step, row * units, np.ascontiguousarray(values[:, row : row + rows].T).reshape(-1))
            return
        for first in range(0, len(block.out), self._block):
            self._encode(step, block.start + first, block.out[first : first + self._block])

    def copy(self, step: "Step", check: Callable[[], None]) -> None:
        """Copy a tensor of the first model, and note when another model has other values; `check` is called before each block."""
        spec, source = step.spec, step.sources[0]
        name = source.name
        reader = step.readers[0]
        differing: set[str] = set()
        length = self._block
        for start in range(0, max(spec.size, 1), length):
            check()
            raw = np.empty(min(length, spec.size - start), RAW_DTYPES[spec.dtype])
            reader.read_into(name, start, raw)
            self._progress(raw.nbytes)
            for label, other, theirs in zip(step.labels[1:], step.readers[1:], step.sources[1:], strict=True):
                if label not in differing:
                    found = np.empty_like(raw)
                    other.read_into(theirs.name, start, found)
                    if found.tobytes() != raw.tobytes():
                        differing.add(label)
            self._write(spec, start, raw)
        for label in sorted(differing):
            with self._lock:
                self.outcome.notes.append(
                    f"{spec.role} {spec.name!r} differs in {label}; the result has the value of {step.labels[0]}"
                )

    def refuse_nonfinite(self, step: "Step", counts: Sequence[int]) -> None:
        """Refuse a tensor of whose sources so many values each are not finite, unless that was allowed.

        Raises:
            NonFiniteError: With the sources and their counts.
        """
        if self._plan.request.allow_nonfinite or not any(counts):
            return
        found = [
            f"{count:,} in {label}" + (f" ({source.name!r})" if source.name != step.spec.name else "")
            for count, label, source in zip(counts, step.labels, step.sources, strict=True)
            if count
        ]
        raise NonFiniteError(
            f"tensor {step.spec.name!r} holds values that are NaN or infinite: {', '.join(found)}; "
            "a merge spreads them, pass --allow-nonfinite (allow_nonfinite=True) if that is meant"
        )

    def _scratch(self, n: int, rows: int, dtype: np.dtype[Any], length: int) -> dict[str, Any]:
        """Return work arrays: this thread's own, made once for each kind, or new ones for a block that is longer than most."""
        arrays: dict[Any, dict[str, Any]] = self._local.__dict__.setdefault("arrays", {})
        key = (n, rows, dtype.str)
        if key in arrays and length <= self._block:
            return arrays[key]
        made = {
            "models": np.empty((n, max(length, self._block)), dtype),
            "out": np.empty(max(length, self._block), dtype),
            "rows": np.empty((rows, max(length, self._block)), dtype),
            "raw": np.empty(self._block, np.uint64),
        }
        if length <= self._block:
            arrays[key] = made
        return made

    def _read(
        self, step: "Step", reader: Reader, source: "Source", start: int, into: Raw, scratch: Raw, *, count: bool
    ) -> int:
        """Fill `into` with numbers from flat position `start` on; return how many are not finite, if asked to."""
        spec = reader.specs()[source.name]
        plain = RAW_DTYPES[spec.dtype] == into.dtype  # elements are the numbers already, and need no scratch
        bad = 0
        for first in range(0, len(into), len(into) if plain and not source.gather else self._block):
            part = into[first:] if plain and not source.gather else into[first : first + self._block]
            raw = part if plain else scratch.view(RAW_DTYPES[spec.dtype])[: len(part)]
            if source.gather:
                read_gathered(reader, source.name, spec.shape, source.gather, start + first, raw)
            else:
                reader.read_into(source.name, start + first, raw)
            self._progress(raw.nbytes)
            bad += decode(raw, spec.dtype, part) if not plain else count_nonfinite(part) if count else 0
        return bad

    def _read_turned(
        self, step: "Step", reader: Reader, source: "Source", start: int, into: Raw, scratch: Raw, *, count: bool
    ) -> int:
        """As `_read` for a whole tensor whose units are counted by its last axis: they are laid one after the other."""
        bad = 0
        units = step.spec.size // step.unit
        target = into.reshape(units, step.unit)
        rows = max(self._block // units, 1)
        natural = np.empty(rows * units, into.dtype)
        work = scratch if natural.size <= len(scratch) else np.empty(natural.size, np.uint64)
        for row in range(0, step.unit, rows):
            part = natural[: min(rows, step.unit - row) * units]
            bad += self._read(step, reader, source, row * units, part, work, count=count)
            target[:, row : row + rows] = part.reshape(-1, units).T
        return bad

    def _companion(self, step: "Step", k: int, start: int, length: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return what the companion of model k says of a block, or of the whole tensor."""
        reader, source = step.companions[k]
        spec = reader.specs()[source.name]
        whole = step.granularity == "tensor"
        raw = np.empty(spec.size if whole else length, RAW_DTYPES[spec.dtype])
        if source.gather:
            read_gathered(reader, source.name, spec.shape, source.gather, 0 if whole else start, raw)
        else:
            reader.read_into(source.name, 0 if whole else start, raw)
        self._progress(raw.nbytes)
        numbers = np.empty(raw.size, dtype)
        if decode(raw, spec.dtype, numbers):
            raise NonFiniteError(f"{reader.path.name} holds NaN or infinity in {source.name!r}; compute it again")
        return numbers.reshape(spec.shape) if whole else numbers

    def _encode(self, step: "Step", start: int, values: Raw) -> None:
        """Round a run of the result and write it."""
        spec = step.spec
        raw: Raw
        if RAW_DTYPES[spec.dtype] == values.dtype:
            raw = values
            bad = count_nonfinite(raw)
        else:
            raw = np.empty(len(values), RAW_DTYPES[spec.dtype])
            bad = encode(values, spec.dtype, raw)
        # an infinity that the user lets pass is one thing, a number too large for the dtype another
        if bad and (not self._plan.request.allow_nonfinite or bad > np.count_nonzero(~np.isfinite(values))):
            holder = values.dtype.name if spec.dtype == "float64" else spec.dtype
            wider = "write the result in float32 (dtype='float32'), or " if spec.dtype == "float16" else ""
            raise NonFiniteError(
                f"tensor {spec.name!r} of the result would have {bad} values that {holder} cannot hold; "
                f"{wider}lower the weights or lambda"
            )
        self._write(spec, start, raw)

    def _write(self, spec: TensorSpec, start: int, raw: Raw) -> None:
        try:
            compared = self._writer.write(spec.name, start, raw)
        except OSError as error:
            raise OutputError(
                f"the result cannot be written: {error.strerror or error}; nothing is left behind"
            ) from error
        self.outcome.written.append(Written.of(spec.name, start, raw, compared=compared))


def _raw_bytes(step: "Step", length: int) -> int:
    """Return the bytes that so many elements of every source take in the files."""
    pairs = zip(step.readers, step.sources, strict=True)
    return length * sum(ITEMSIZE[reader.specs()[source.name].dtype] for reader, source in pairs)

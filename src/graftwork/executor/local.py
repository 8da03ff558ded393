"""Run a merge plan with the threads of this process.

The work on a tensor is cut into blocks. A block's elements are read from every model straight into the thread's scratch, turned into
float32 (float64 where a source is float64), handed to the method, rounded once and written. Reading, computing and writing all
happen without Python's lock, so two threads keep two cores busy.

A small tensor is one thread's work from first pass to last, so its values are still in the cache when they are needed again. A
large one is everybody's: its blocks are shared out pass by pass. Neither changes the result (see `graftwork.methods.base`).

A method that goes over a tensor more than once finds its values in memory after the first time, unless they take too much (`HELD`); then
the files are read again. Memory is that and the threads' scratch, whatever the size of the models; see `peak_bytes`. Methods that have
to see whole tensors (matrices to be decomposed) are the exception: each thread then holds one tensor of every model.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from graftwork import rng
from graftwork.errors import NonFiniteError, OptionError, OutputError
from graftwork.executor.gather import read_gathered
from graftwork.kernels import loop
from graftwork.kernels.blas import one_thread
from graftwork.kernels.convert import count_nonfinite, decode, encode
from graftwork.methods.base import CHUNK, Block, MergeMethod, Reduction, block_length
from graftwork.stores.base import RAW_DTYPES, Raw, Reader, Writer
from graftwork.tensor import ITEMSIZE, Role, TensorSpec

if TYPE_CHECKING:
    from graftwork.pairing import Source
    from graftwork.planning import MergePlan, Step

INTERPRETER_BYTES = 130 * 2**20
"""Resident memory of the interpreter with NumPy, Numba and HDF5, before any block."""

BLOCK = 1 << 19
"""Elements of a block for two or three models; more models make shorter blocks, so that scratch stays in the cache."""

SHORT_WORK_BYTES = 1 << 29
"""Below so many bytes, importing Numba takes longer than NumPy does for the loops that it can do as well."""

HELD = 1 << 26
"""Bytes of values, those of all threads together, that are held between the passes over a tensor; 16-bit ones would grow, and are not."""

SHARED_BLOCKS = 4
"""A tensor of more blocks than this is worked on by all threads together."""

Progress = Callable[[int], None]
"""Called with a number of bytes that have been dealt with."""

Visit = Callable[["Step", Block, Any], None]
"""What a thread does with a block of a step, and with what it keeps for itself."""


HEAD = 1024
"""Elements of a block that was compared when it was written, which are read again to see that they are found under their name."""


@dataclass(frozen=True, slots=True)
class Written:
    """Raw elements of the result and their CRC-32C, to compare with what the file holds when it is opened again."""

    name: str
    start: int
    size: int
    crc: int


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


@dataclass(slots=True)
class Outcome:
    """What running a plan found out that headers could not tell.

    Attributes:
        written: Every block of the result.
        notes: What the user should know.
    """

    written: list[Written] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def block_elements(n_models: int, wanted: int | None = None) -> int:
    """Return the length of a block: a multiple of `CHUNK`, shorter for many models."""
    if wanted is not None:
        return max(CHUNK, -(-wanted // CHUNK) * CHUNK)
    return max(CHUNK, min(BLOCK, BLOCK * 4 // (n_models + 1)) // CHUNK * CHUNK)


def peak_bytes(plan: "MergePlan", threads: int) -> int:
    """Return the resident memory that running a plan needs: interpreter, all threads' scratch, reductions over the largest tensor."""
    n = max((step.n_models for step in plan.steps), default=1)
    rows = max((step.method.scratch_rows for step in plan.steps if step.method is not None), default=0)
    extra = max((len(step.companions) for step in plan.steps), default=0)
    one = block_elements(n) * ((n + 2 + rows + 2 * extra) * 8 + 16)
    largest = max((step.spec.size for step in plan.steps), default=0)
    sums = largest // CHUNK * 16 * (n + 1)
    histograms = (1 << 16) * 8 * n
    held = min(HELD, threads * largest * (n + 1) * 8) if plan.passes > 1 else 0
    whole = sorted((_whole_bytes(step) for step in plan.steps), reverse=True)
    return INTERPRETER_BYTES + threads * (one + histograms) + sums + held + sum(whole[:threads])


def _whole_bytes(step: "Step") -> int:
    """Return the memory that grows with a tensor: all of it where it is seen in one piece, and what its method keeps."""
    if step.method is None:
        return 0
    kept = step.method.working_bytes(step.n_models, step.spec.size, step.unit)
    if step.granularity != "tensor":
        return kept
    itemsize = _work_dtype(step).itemsize
    arrays = (len(step.sources) + 1 + step.method.scratch_rows) * step.spec.size * itemsize
    extra = 2 * itemsize * sum(reader.specs()[source.name].size for reader, source in step.companions)
    return arrays + extra + kept


class Cancelled(Exception):  # noqa: N818 - no error: another thread failed or the user stopped the work
    """Raised inside a worker when the work is over."""


class LocalExecutor:
    """Runs one plan into one writer.

    Args:
        plan: What to do.
        writer: Where the result goes; finishing it is the caller's.
        threads: How many threads work.
        block_size: Elements of a block, for tests; results do not depend on it.
        progress: Called from any thread with bytes read.
    """

    def __init__(
        self,
        plan: "MergePlan",
        writer: Writer,
        *,
        threads: int,
        block_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.plan, self.writer, self.threads = plan, writer, max(1, threads)
        self.block = block_elements(max((step.n_models for step in plan.steps), default=1), block_size)
        self.progress: Progress = progress or (lambda _: None)
        self.outcome = Outcome()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._local = threading.local()

    def run(self) -> Outcome:
        """Do all steps and return what was found out.

        Raises:
            NonFiniteError: If a source holds NaN or infinity and that was not allowed.
            StoreError: If a source ends early or the disk is full.
        """
        loop.short_work = self.plan.bytes_read * self.plan.passes < SHORT_WORK_BYTES
        whole = any(step.granularity == "tensor" for step in self.plan.steps)
        with (
            one_thread() if whole else contextlib.nullcontext(),
            ThreadPoolExecutor(self.threads, thread_name_prefix="graftwork") as pool,
        ):
            try:
                self._run(pool)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        self.outcome.written.sort(key=lambda w: (w.name, w.start))
        self.outcome.notes.sort()
        return self.outcome

    def _run(self, pool: ThreadPoolExecutor) -> None:
        copies = [step for step in self.plan.steps if step.method is None]
        wide: list[Step] = []
        shared: list[Step] = []
        alone: list[Step] = []
        for step in self.plan.steps:
            if step.method is None:
                continue
            if step.method.scope() == "model" and step.spec.role is Role.WEIGHT:
                wide.append(step)
            elif step.granularity != "tensor" and step.spec.size > SHARED_BLOCKS * self._length(step):
                shared.append(step)
            else:
                alone.append(step)
        if wide:
            self._run_shared(pool, wide, None)
        room = np.empty(HELD, np.uint8)
        for step in shared:
            with _naming(step):
                self._run_shared(pool, [step], room)
        del room
        queue = iter([*sorted(alone, key=lambda s: -s.spec.size), *copies])
        self._together(pool, lambda: self._drain(queue))

    def _together(self, pool: ThreadPoolExecutor, work: Callable[[], Any]) -> list[Any]:
        """Run the same work on every thread; the first failure ends all of it."""
        futures: list[Future[Any]] = [pool.submit(work) for _ in range(self.threads)]
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        failed = [f.exception() for f in done if f.exception() is not None]
        if failed:
            self._stop.set()
            wait(futures)
            errors = [f.exception() for f in futures if f.exception() is not None]
            raise next((e for e in errors if not isinstance(e, Cancelled)), errors[0]) from None  # type: ignore[misc]
        return [f.result() for f in futures]

    def _next(self, queue: Iterator[Any]) -> Any:
        if self._stop.is_set():
            raise Cancelled
        with self._lock:
            return next(queue, None)

    def _drain(self, queue: Iterator["Step"]) -> None:
        while (step := self._next(queue)) is not None:
            if step.method is None:
                self._copy(step)
            else:
                with _naming(step):
                    self._run_alone(step)

    def _length(self, step: "Step") -> int:
        """Return the length of a step's blocks."""
        return block_length(step.granularity, step.unit, step.spec.size, self.block)

    # One thread, one tensor

    def _run_alone(self, step: "Step") -> None:
        method = _method(step)
        size = step.spec.size
        dtype = _work_dtype(step)
        starts = range(0, size, self._length(step))
        reduction = method.reduction(step.n_models, size, dtype)
        held = Held.within(self._room(), step, dtype) if reduction is not None and len(starts) > 1 else None
        keys = self._keys(step)
        first = True
        nonfinite: list[int] = [0] * len(step.sources)
        block: Block | None = None
        while reduction is not None:
            local, stride = reduction.local(), _stride(reduction)
            if stride > 1 and len(starts) > 1:
                for start in range(0, size, stride * CHUNK):
                    self._check()
                    reduction.observe(self._load(step, start, dtype, keys, 0, None, None, CHUNK), local)
                reduction.end_pass([local])
                continue
            for start in starts:
                self._check()
                if block is None or len(starts) > 1:
                    block = self._load(step, start, dtype, keys, 0, held, nonfinite if first else None)
                reduction.observe(block, local)
            first = False
            if not reduction.end_pass([local]):
                break
        if not first:
            self._refuse_nonfinite(step, nonfinite)
        reduced = reduction.result() if reduction is not None else None
        for start in starts:
            self._check()
            if block is None or len(starts) > 1:
                block = self._load(step, start, dtype, keys, 0, held, nonfinite if first else None)
                if first:
                    self._refuse_nonfinite(step, nonfinite)
            method.combine(block, reduced)
            self._store(step, block)

    # All threads together

    def _run_shared(self, pool: ThreadPoolExecutor, steps: Sequence["Step"], room: NDArray[np.uint8] | None) -> None:
        """One reduction over all elements of the given steps (one large tensor, or all of the model), then each block's combine.

        One tensor that there is room for is held between the passes.
        """
        placed, at = [], 0
        for step in steps:
            placed.append((step, at))
            at += -(-step.spec.size // CHUNK) * CHUNK
        dtype = max((_work_dtype(step) for step in steps), key=lambda found: found.itemsize)
        reduction = _method(steps[0]).reduction(steps[0].n_models, sum(s.spec.size for s in steps), dtype)
        check, reduced = True, None
        held = Held.within(room, steps[0], dtype) if room is not None and reduction is not None else None
        if reduction is not None:
            see = reduction.observe

            def observe(_: "Step", block: Block, local: Any) -> None:
                see(block, local)

            again = True
            while again:
                stride = _stride(reduction)
                seen = self._sweep(
                    pool, placed, dtype, held, reduction.local, observe, check=check and stride == 1, stride=stride
                )
                again, check = reduction.end_pass(seen), check and stride > 1
            check, reduced = False, reduction.result()

        def combine(step: "Step", block: Block, _: None) -> None:
            _method(step).combine(block, reduced)
            self._store(step, block)

        self._sweep(pool, placed, dtype, held, lambda: None, combine, check=check)

    def _sweep(
        self,
        pool: ThreadPoolExecutor,
        placed: Sequence[tuple["Step", int]],
        dtype: np.dtype[Any],
        held: Held | None,
        begin: Callable[[], Any],
        visit: Visit,
        *,
        check: bool,
        stride: int = 1,
    ) -> list[Any]:
        """Let all threads visit every block once (or one chunk of so many), each with what `begin` gives it; return those."""
        keys = {step.spec.name: self._keys(step) for step, _ in placed}
        counts = {step.spec.name: [0] * len(step.sources) for step, _ in placed}
        queue = (
            (step, offset, start)
            for step, offset in placed
            for start in range(0, step.spec.size, self._length(step) if stride == 1 else stride * CHUNK)
        )
        wanted = None if stride == 1 else CHUNK
        kept = held if stride == 1 else None

        def work() -> Any:
            local = begin()
            while (item := self._next(queue)) is not None:
                step, offset, start = item
                found = [0] * len(step.sources)
                bad = found if check else None
                block = self._load(step, start, dtype, keys[step.spec.name], offset, kept, bad, wanted)
                visit(step, block, local)
                if any(found):
                    with self._lock:
                        counts[step.spec.name] = [a + b for a, b in zip(counts[step.spec.name], found, strict=True)]
            return local

        locals_ = self._together(pool, work)
        for step, _ in placed:
            self._refuse_nonfinite(step, counts[step.spec.name])
        return locals_

    # Blocks

    def _room(self) -> NDArray[np.uint8]:
        """Return where this thread may hold a tensor."""
        mine: dict[str, NDArray[np.uint8]] = self._local.__dict__
        if "room" not in mine:
            mine["room"] = np.empty(HELD // self.threads, np.uint8)
        return mine["room"]

    def _scratch(self, n: int, rows: int, dtype: np.dtype[Any], length: int) -> dict[str, Any]:
        """Return work arrays: this thread's own, made once for each kind, or new ones for a block that is longer than most."""
        arrays: dict[Any, dict[str, Any]] = self._local.__dict__.setdefault("arrays", {})
        key = (n, rows, dtype.str)
        if key in arrays and length <= self.block:
            return arrays[key]
        made = {
            "models": np.empty((n, max(length, self.block)), dtype),
            "out": np.empty(max(length, self.block), dtype),
            "rows": np.empty((rows, max(length, self.block)), dtype),
            "raw": np.empty(self.block, np.uint64),
        }
        if length <= self.block:
            arrays[key] = made
        return made

    def _load(
        self,
        step: "Step",
        start: int,
        dtype: np.dtype[Any],
        keys: NDArray[np.uint64],
        offset: int,
        held: Held | None,
        nonfinite: list[int] | None,
        wanted: int | None = None,
    ) -> Block:
        """Read one block of every model, of `wanted` elements if given, unless it is held; count what is not finite, if asked to."""
        length = min(wanted or self._length(step), step.spec.size - start)
        method, n = _method(step), step.n_models
        scratch = self._scratch(len(step.sources), method.scratch_rows, dtype, length)
        rows = scratch["models"][:, :length] if held is None else held.rows[:, start : start + length]
        if held is not None and start in held.starts:
            self.progress(_raw_bytes(step, length))
        else:
            for k, (reader, source) in enumerate(zip(step.readers, step.sources, strict=True)):
                read = self._read_turned if step.granularity == "tensor" and step.is_turned else self._read
                bad = read(step, reader, source, start, rows[k], scratch["raw"], count=nonfinite is not None)
                if nonfinite is not None:
                    nonfinite[k] += bad
            if held is not None:
                held.starts.add(start)
        return Block(
            models=rows[:n],
            base=rows[n] if step.has_base else None,
            out=scratch["out"][:length],
            scratch=scratch["rows"][:, :length],
            start=start,
            offset=offset,
            keys=keys,
            shape=step.spec.shape,
            unit=0 if method.granularity(step.spec.shape) == "block" else step.unit,
            companions=tuple(self._companion(step, k, start, length, dtype) for k in range(len(step.companions))),
        )

    def _read(
        self, step: "Step", reader: Reader, source: "Source", start: int, into: Raw, scratch: Raw, *, count: bool
    ) -> int:
        """Fill `into` with numbers from flat position `start` on; return how many are not finite, if asked to."""
        spec = reader.specs()[source.name]
        plain = RAW_DTYPES[spec.dtype] == into.dtype  # elements are the numbers already, and need no scratch
        bad = 0
        for first in range(0, len(into), len(into) if plain and not source.gather else self.block):
            part = into[first:] if plain and not source.gather else into[first : first + self.block]
            raw = part if plain else scratch.view(RAW_DTYPES[spec.dtype])[: len(part)]
            if source.gather:
                read_gathered(reader, source.name, spec.shape, source.gather, start + first, raw)
            else:
                reader.read_into(source.name, start + first, raw)
            self.progress(raw.nbytes)
            bad += decode(raw, spec.dtype, part) if not plain else count_nonfinite(part) if count else 0
        return bad

    def _read_turned(
        self, step: "Step", reader: Reader, source: "Source", start: int, into: Raw, scratch: Raw, *, count: bool
    ) -> int:
        """As `_read` for a whole tensor whose units are counted by its last axis: they are laid one after the other."""
        bad = 0
        units = step.spec.size // step.unit
        target = into.reshape(units, step.unit)
        rows = max(self.block // units, 1)
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
        self.progress(raw.nbytes)
        numbers = np.empty(raw.size, dtype)
        if decode(raw, spec.dtype, numbers):
            raise NonFiniteError(f"{reader.path.name} holds NaN or infinity in {source.name!r}; compute it again")
        return numbers.reshape(spec.shape) if whole else numbers

    def _store(self, step: "Step", block: Block) -> None:
        if step.granularity == "tensor" and step.is_turned:
            units = step.spec.size // step.unit
            values, rows = block.out.reshape(units, step.unit), max(self.block // units, 1)
            for row in range(0, step.unit, rows):
                self._encode(step, row * units, np.ascontiguousarray(values[:, row : row + rows].T).reshape(-1))
            return
        for first in range(0, len(block.out), self.block):
            self._encode(step, block.start + first, block.out[first : first + self.block])

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
        if bad and (not self.plan.request.allow_nonfinite or bad > np.count_nonzero(~np.isfinite(values))):
            holder = values.dtype.name if spec.dtype == "float64" else spec.dtype
            wider = "write the result in float32 (dtype='float32'), or " if spec.dtype == "float16" else ""
            raise NonFiniteError(
                f"tensor {spec.name!r} of the result would have {bad} values that {holder} cannot hold; "
                f"{wider}lower the weights or lambda"
            )
        self._write(spec, start, raw)

    def _write(self, spec: TensorSpec, start: int, raw: Raw) -> None:
        try:
            compared = self.writer.write(spec.name, start, raw)
        except OSError as error:
            raise OutputError(
                f"the result cannot be written: {error.strerror or error}; nothing is left behind"
            ) from error
        raw = raw[:HEAD] if compared else raw
        self.outcome.written.append(Written(spec.name, start, len(raw), google_crc32c.value(raw.view(np.uint8))))

    def _copy(self, step: "Step") -> None:
        """Copy a tensor of the first model, and say when another model has other values."""
        spec, source = step.spec, step.sources[0]
        name = source.name
        reader = step.readers[0]
        differing: set[str] = set()
        length = self.block
        for start in range(0, max(spec.size, 1), length):
            self._check()
            raw = np.empty(min(length, spec.size - start), RAW_DTYPES[spec.dtype])
            reader.read_into(name, start, raw)
            self.progress(raw.nbytes)
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

    def _keys(self, step: "Step") -> NDArray[np.uint64]:
        return np.array([rng.key(self.plan.request.seed, step.stream, k) for k in range(step.n_models)], np.uint64)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _refuse_nonfinite(self, step: "Step", counts: Sequence[int]) -> None:
        if self.plan.request.allow_nonfinite or not any(counts):
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


def verify_written(reader: Reader, specs: Sequence[TensorSpec], written: Sequence[Written], threads: int) -> None:
    """Compare a result that was reopened with what was written.

    Raises:
        OutputError: If a tensor is missing, has another shape or dtype, or other bytes.
    """
    found = reader.specs()
    for spec in specs:
        other = found.get(spec.name)
        if other is None or (other.shape, other.dtype) != (spec.shape, spec.dtype):
            raise OutputError(
                f"the result was reopened and tensor {spec.name!r} is not as planned: "
                f"expected {spec.dtype} {spec.shape}, found {f'{other.dtype} {other.shape}' if other else 'nothing'}"
            )
    if len(found) != len(specs):
        extra = next(name for name in found if name not in {s.name for s in specs})
        raise OutputError(f"the result was reopened and holds a tensor {extra!r} that was not planned")

    def compare(item: Written) -> str | None:
        raw = np.empty(item.size, RAW_DTYPES[found[item.name].dtype])
        reader.read_into(item.name, item.start, raw)
        return None if google_crc32c.value(raw.view(np.uint8)) == item.crc else item.name

    with ThreadPoolExecutor(max(1, threads)) as pool:
        for name in pool.map(compare, written, chunksize=64):
            if name is not None:
                raise OutputError(f"the result was reopened and tensor {name!r} does not hold what was written")


def _stride(reduction: Reduction) -> int:
    """Return of how many chunks a reduction needs one in the pass to come; most need them all."""
    stride: int = getattr(reduction, "stride", 1)
    return stride


def _method(step: "Step") -> MergeMethod:
    assert step.method is not None
    return step.method


@contextlib.contextmanager
def _naming(step: "Step") -> Iterator[None]:
    """Name the tensor when its values turn out to be such that its method has no answer."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"tensor {step.spec.name!r}: {error}") from error


def _raw_bytes(step: "Step", length: int) -> int:
    """Return the bytes that so many elements of every source take in the files."""
    pairs = zip(step.readers, step.sources, strict=True)
    return length * sum(ITEMSIZE[reader.specs()[source.name].dtype] for reader, source in pairs)


def _work_dtype(step: "Step") -> np.dtype[Any]:
    """Return float64 where a source is float64, else float32."""
    pairs = zip(step.readers, step.sources, strict=True)
    wide = any(reader.specs()[source.name].dtype == "float64" for reader, source in pairs)
    return np.dtype(np.float64 if wide else np.float32)

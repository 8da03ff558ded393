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
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OptionError
from graftwork.executor.blocks import Blocks, Outcome, Progress, Tensor
from graftwork.executor.memory import HELD, work_dtype
from graftwork.kernels import loop
from graftwork.kernels.blas import one_thread
from graftwork.methods.base import CHUNK, Block, MergeMethod, Reduction
from graftwork.stores.base import Writer
from graftwork.tensor import Role

if TYPE_CHECKING:
    from graftwork.planning import MergePlan, Step

SHORT_WORK_BYTES = 1 << 29
"""Below so many bytes, importing Numba takes longer than NumPy does for the loops that it can do as well."""

SHARED_BLOCKS = 4
"""A tensor of more blocks than this is worked on by all threads together."""

Visit = Callable[["Step", Block, Any], None]
"""What a thread does with a block of a step, and with what it keeps for itself."""


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
        self._plan, self._threads = plan, max(1, threads)
        self._blocks = Blocks(plan, writer, block_size, progress or (lambda _: None))
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> Outcome:
        """Do all steps and return what was found out.

        Raises:
            NonFiniteError: If a source holds NaN or infinity and that was not allowed.
            StoreError: If a source ends early or the disk is full.
        """
        loop.short_work = self._plan.bytes_read * self._plan.passes < SHORT_WORK_BYTES
        whole = any(step.granularity == "tensor" for step in self._plan.steps)
        with (
            one_thread() if whole else contextlib.nullcontext(),
            ThreadPoolExecutor(self._threads, thread_name_prefix="graftwork") as pool,
        ):
            try:
                self._run(pool)
            except BaseException:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        outcome = self._blocks.outcome
        outcome.written.sort(key=lambda w: (w.name, w.start))
        outcome.notes.sort()
        return outcome

    def _run(self, pool: ThreadPoolExecutor) -> None:
        copies = [step for step in self._plan.steps if step.method is None]
        wide: list[Step] = []
        shared: list[Step] = []
        alone: list[Step] = []
        for step in self._plan.steps:
            if step.method is None:
                continue
            if step.method.scope() == "model" and step.spec.role is Role.WEIGHT:
                wide.append(step)
            elif step.granularity != "tensor" and step.spec.size > SHARED_BLOCKS * self._blocks.length(step):
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
        futures: list[Future[Any]] = [pool.submit(work) for _ in range(self._threads)]
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
                self._blocks.copy(step, self._check)
            else:
                with _naming(step):
                    self._run_alone(step)

    # One thread, one tensor

    def _run_alone(self, step: "Step") -> None:
        method, size, dtype = _method(step), step.spec.size, work_dtype(step)
        reduction = method.reduction(step.n_models, size, dtype)
        several = size > self._blocks.length(step)
        room = self._blocks.room(HELD // self._threads) if several and reduction is not None else None
        tensor = self._blocks.tensor(step, dtype, room=room)
        first = True
        nonfinite: list[int] = [0] * len(step.sources)
        block: Block | None = None
        while reduction is not None:
            local, stride = reduction.local(), _stride(reduction)
            if stride > 1 and several:
                for start in range(0, size, stride * CHUNK):
                    self._check()
                    reduction.observe(self._blocks.load(tensor, start, None, CHUNK), local)
                reduction.end_pass([local])
                continue
            for start in tensor.starts:
                self._check()
                if block is None or several:
                    block = self._blocks.load(tensor, start, nonfinite if first else None)
                reduction.observe(block, local)
            first = False
            if not reduction.end_pass([local]):
                break
        if not first:
            self._blocks.refuse_nonfinite(step, nonfinite)
        reduced = reduction.result() if reduction is not None else None
        for start in tensor.starts:
            self._check()
            if block is None or several:
                block = self._blocks.load(tensor, start, nonfinite if first else None)
                if first:
                    self._blocks.refuse_nonfinite(step, nonfinite)
            method.combine(block, reduced)
            self._blocks.store(step, block)

    # All threads together

    def _run_shared(self, pool: ThreadPoolExecutor, steps: Sequence["Step"], room: NDArray[np.uint8] | None) -> None:
        """One reduction over all elements of the given steps (one large tensor, or all of the model), then each block's combine.

        One tensor that there is room for is held between the passes.
        """
        dtype = max((work_dtype(step) for step in steps), key=lambda found: found.itemsize)
        reduction = _method(steps[0]).reduction(steps[0].n_models, sum(s.spec.size for s in steps), dtype)
        tensors, at = [], 0
        for step in steps:
            tensors.append(self._blocks.tensor(step, dtype, at, room if reduction is not None else None))
            at += -(-step.spec.size // CHUNK) * CHUNK
        check, reduced = True, None
        if reduction is not None:
            see = reduction.observe

            def observe(_: "Step", block: Block, local: Any) -> None:
                see(block, local)

            again = True
            while again:
                stride = _stride(reduction)
                seen = self._sweep(pool, tensors, reduction.local, observe, check=check and stride == 1, stride=stride)
                again, check = reduction.end_pass(seen), check and stride > 1
            check, reduced = False, reduction.result()

        def combine(step: "Step", block: Block, _: None) -> None:
            _method(step).combine(block, reduced)
            self._blocks.store(step, block)

        self._sweep(pool, tensors, lambda: None, combine, check=check)

    def _sweep(
        self,
        pool: ThreadPoolExecutor,
        tensors: Sequence[Tensor],
        begin: Callable[[], Any],
        visit: Visit,
        *,
        check: bool,
        stride: int = 1,
    ) -> list[Any]:
        """Let all threads visit every block once (or one chunk of so many), each with what `begin` gives it; return those."""
        counts = [[0] * len(tensor.step.sources) for tensor in tensors]
        queue = (
            (i, start)
            for i, tensor in enumerate(tensors)
            for start in (tensor.starts if stride == 1 else range(0, tensor.step.spec.size, stride * CHUNK))
        )
        length = None if stride == 1 else CHUNK

        def work() -> Any:
            local = begin()
            while (item := self._next(queue)) is not None:
                i, start = item
                found = [0] * len(counts[i])
                block = self._blocks.load(tensors[i], start, found if check else None, length)
                visit(tensors[i].step, block, local)
                if any(found):
                    with self._lock:
                        counts[i] = [a + b for a, b in zip(counts[i], found, strict=True)]
            return local

        locals_ = self._together(pool, work)
        for tensor, found in zip(tensors, counts, strict=True):
            self._blocks.refuse_nonfinite(tensor.step, found)
        return locals_

    def _check(self) -> None:
        if self._stop.is_set():
            raise Cancelled


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

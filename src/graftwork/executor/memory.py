"""How much memory a plan takes: its threads' scratch, what is held between passes, and whole tensors where a method sees them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from graftwork.methods.base import CHUNK

if TYPE_CHECKING:
    from graftwork.planning import MergePlan, Step

INTERPRETER_BYTES = 130 * 2**20
"""Resident memory of the interpreter with NumPy, Numba and HDF5, before any block."""

BLOCK = 1 << 19
"""Elements of a block for two or three models; more models make shorter blocks, so that scratch stays in the cache."""

HELD = 1 << 26
"""Bytes of values, those of all threads together, that are held between the passes over a tensor; 16-bit ones would grow, and are not."""


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
    itemsize = work_dtype(step).itemsize
    arrays = (len(step.sources) + 1 + step.method.scratch_rows) * step.spec.size * itemsize
    extra = 2 * itemsize * sum(reader.specs()[source.name].size for reader, source in step.companions)
    return arrays + extra + kept


def work_dtype(step: "Step") -> np.dtype[Any]:
    """Return float64 where a source is float64, else float32."""
    pairs = zip(step.readers, step.sources, strict=True)
    wide = any(reader.specs()[source.name].dtype == "float64" for reader, source in pairs)
    return np.dtype(np.float64 if wide else np.float32)

"""Merging arrays in memory: the plain, sequential way, for notebooks and tests.

The executor does the same with files and threads; results are the same to the last bit.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork import rng
from graftwork.errors import MismatchError, OptionError
from graftwork.kernels.convert import decode, encode
from graftwork.methods.base import Block, MergeMethod, block_length, unit_length
from graftwork.methods.options import Options, Place
from graftwork.tensor import FLOATS


def merge_arrays(
    method: str,
    models: Sequence[NDArray[Any]],
    *,
    base: NDArray[Any] | None = None,
    name: str = "tensor",
    seed: int = 0,
    block_size: int | None = None,
    dtype: Any = None,
    unit_axis: int = -1,
    companions: Sequence[NDArray[Any]] = (),
    **options: Any,
) -> NDArray[Any]:
    """Return one array merged of several of the same shape.

    Args:
        method: Name of the merge method.
        models: Arrays of float16, bfloat16 (of ml_dtypes), float32 or float64. Not changed.
        base: Their common ancestor, for methods that merge differences.
        name: The tensor's name, which random methods and filters in options depend on.
        seed: Fixes every random choice; see `graftwork.rng`.
        block_size: Elements per block, rounded up to a multiple of `CHUNK` or of a unit. Does not change the result.
        dtype: Of the result; that of the models unless given.
        unit_axis: The axis that counts units, for methods that see them: -1 in Keras's layout, 0 in PyTorch's.
        companions: What else is known of each model's tensor, for methods with `companion`: squared gradients of the same shape, or
            Gram matrices.
        **options: The method's options; `lambda_` for λ. Models are called ``"0"``, ``"1"`` … in mappings.

    Raises:
        MismatchError: If shapes differ, or dtypes do and `dtype` is not given.
        OptionError: If an option makes no sense, or the arrays are not of floats.
    """
    models = [np.asarray(model) for model in models]
    every = [*models] if base is None else [*models, np.asarray(base)]
    instance = Options(method, options, [str(i) for i in range(len(models))], has_base=base is not None).for_tensor(
        Place(name)
    )
    _check(every, models, dtype)
    result_dtype = np.dtype(models[0].dtype if dtype is None else dtype)
    work = np.dtype(np.float64 if any(array.dtype == np.float64 for array in every) else np.float32)
    shape = models[0].shape
    granularity = instance.granularity(shape)
    turned = granularity != "block" and unit_axis == -1 and len(shape) > 1
    flat = [(_raw(np.moveaxis(array, -1, 0) if turned else array), array.dtype.name) for array in every]
    keys = np.array([rng.key(seed, name, i) for i in range(len(models))], np.uint64)
    size, n = models[0].size, len(models)
    unit = 0 if granularity == "block" else unit_length(shape, unit_axis)
    step = min(block_length(granularity, unit, size, block_size or 1 << 16), max(size, 1))
    memory = np.empty((len(flat) + 1 + instance.scratch_rows) * step, work)
    result = np.empty((shape[-1], *shape[:-1]) if turned else shape, result_dtype)
    target = _raw(result)
    extras = _companions(instance, companions, instance.companion_shape(shape, unit_length(shape, unit_axis)), n, work)

    def blocks() -> Iterator[Block]:
        for start in range(0, size, step):
            stop = min(start + step, size)
            rows = memory[: memory.size // step * (stop - start)].reshape(-1, stop - start)
            for row, (raw, dtype_name) in zip(rows[: len(flat)], flat, strict=True):
                decode(raw[start:stop], dtype_name, row)
            yield Block(
                models=rows[:n],
                base=None if base is None else rows[n],
                out=rows[len(flat)],
                scratch=rows[len(flat) + 1 :],
                start=start,
                offset=0,
                keys=keys,
                shape=shape,
                unit=unit,
                companions=tuple(c[start:stop] if granularity == "block" else c for c in extras),
            )

    def write(block: Block) -> None:
        encode(block.out, result_dtype.name, target[block.start : block.start + block.out.size])

    merge_blocks(instance, blocks, (n, size, work), write)
    return np.ascontiguousarray(np.moveaxis(result, 0, -1)) if turned else result


def _companions(
    method: MergeMethod, given: Sequence[NDArray[Any]], shape: tuple[int, ...] | None, n: int, dtype: np.dtype[Any]
) -> list[NDArray[Any]]:
    """Return one companion for each model as the method takes them; none where it needs none, or has a way without."""
    if given and not method.companion:
        raise OptionError(f"{method.name} takes no companions")
    if shape is None or (not given and method.without_companion(n) is not None):
        return []
    found = [np.asarray(companion, dtype) for companion in given]
    if [companion.shape for companion in found] != [shape] * n:
        raise OptionError(
            f"{method.name} needs {n} companions ({method.companion}) of shape {shape}, one for each model; found "
            + (", ".join(str(companion.shape) for companion in found) or "none")
        )
    return [companion.reshape(-1) for companion in found] if method.granularity(shape) == "block" else found


def merge_blocks(
    method: MergeMethod,
    blocks: Callable[[], Iterator[Block]],
    extent: tuple[int, int, np.dtype[Any]],
    write: Callable[[Block], None],
) -> None:
    """Run a method over one tensor: its reduction, as many passes as it asks for, then `combine`.

    Args:
        method: The method with the tensor's options.
        blocks: Begins a pass over all blocks.
        extent: Number of models, number of elements, and the dtype that is computed in.
        write: Takes a block whose `out` is filled.
    """
    reduction, reduced = method.reduction(*extent), None
    if reduction is not None:
        again = True
        while again:
            local = reduction.local()
            for block in blocks():
                reduction.observe(block, local)
            again = reduction.end_pass([local])
        reduced = reduction.result()
    for block in blocks():
        method.combine(block, reduced)
        write(block)


def _check(every: Sequence[NDArray[Any]], models: Sequence[NDArray[Any]], dtype: Any) -> None:
    """Refuse arrays that cannot be merged."""
    for i, array in enumerate(every):
        who = f"model {i}" if i < len(models) else "the base"
        if array.shape != every[0].shape:
            raise MismatchError(f"model 0 has shape {every[0].shape}, but {who} has {array.shape}")
        if array.dtype.name not in FLOATS:
            raise OptionError(f"{who} is of {array.dtype.name}; expected {', '.join(FLOATS)}")
        if dtype is None and i < len(models) and array.dtype != models[0].dtype:
            raise MismatchError(
                f"model 0 is of {models[0].dtype.name}, but {who} of {array.dtype.name}; say `dtype` for the result"
            )
    if dtype is not None and np.dtype(dtype).name not in FLOATS:
        raise OptionError(f"dtype is {np.dtype(dtype).name}; expected {', '.join(FLOATS)}")


def _raw(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array's elements as they lie in a file, flat."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint16) if array.dtype.name == "bfloat16" else flat

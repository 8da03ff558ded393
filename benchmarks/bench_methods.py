"""How fast merge methods are on one core: `pytest benchmarks/bench_methods.py -n 0`.

Throughput is elements per second over all models (without the base): `extra_info["elements"]` divided by the time.
"""

import ml_dtypes
import numpy as np
import pytest

from graftwork import methods, rng
from graftwork.kernels.convert import decode, encode
from graftwork.methods.arrays import merge_arrays
from graftwork.methods.base import Base, Block
from graftwork.tensor import FLOATS

SIZE = 1 << 20
BLOCK = 1 << 16
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


def models_and_base(name):
    """Two models and a base, or as many as the method takes."""
    cls = methods.get(name)
    arrays = np.random.default_rng(0).standard_normal((3, SIZE), np.float32)
    most = cls.models[1] or 2
    return list(arrays[: min(2, most)]), arrays[2] if cls.base is Base.REQUIRED else None


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_merge_arrays(benchmark, name, dtype):
    """Two models and a base of 2²⁰ elements (4 MiB in float32), conversion included."""
    models, base = models_and_base(name)
    models = [model.astype(DTYPES[dtype]) for model in models]
    base = None if base is None else base.astype(DTYPES[dtype])
    benchmark.extra_info["elements"] = sum(model.size for model in models)

    merged = benchmark(merge_arrays, name, models, base=base)

    assert np.isfinite(merged.astype(np.float32)).all()


@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_combine(benchmark, name):
    """One block of 2¹⁶ float32 in cache, two models and a base; options as by default, reductions done before."""
    models, base = models_and_base(name)
    method = methods.get(name)()
    block = Block(
        models=np.stack([model[:BLOCK] for model in models]),
        base=None if base is None else base[:BLOCK].copy(),
        out=np.empty(BLOCK, np.float32),
        scratch=np.empty((method.scratch_rows, BLOCK), np.float32),
        start=0,
        offset=0,
        keys=np.array([rng.key(0, "x", i) for i in range(len(models))], np.uint64),
    )
    reduction, reduced = method.reduction(len(models), BLOCK, np.dtype(np.float32)), None
    if reduction is not None:
        again = True
        while again:
            local = reduction.local()
            reduction.observe(block, local)
            again = reduction.end_pass([local])
        reduced = reduction.result()
    benchmark.extra_info["elements"] = block.models.size

    benchmark(method.combine, block, reduced)

    assert np.isfinite(block.out).all()


@pytest.mark.parametrize(
    "name", [name for name in sorted(methods.METHODS) if methods.get(name)().reduction(2, 1, np.dtype("f4"))]
)
def test_observe(benchmark, name):
    """The first pass of a reduction over one of many blocks of 2¹⁶ float32 in cache."""
    models, base = models_and_base(name)
    block = Block(
        models=np.stack([model[:BLOCK] for model in models]),
        base=None if base is None else base[:BLOCK].copy(),
        out=np.empty(0, np.float32),
        scratch=np.empty((0, BLOCK), np.float32),
        start=0,
        offset=0,
        keys=np.array([rng.key(0, "x", i) for i in range(len(models))], np.uint64),
    )
    reduction = methods.get(name)().reduction(len(models), SIZE, np.dtype(np.float32))
    local = reduction.local()
    benchmark.extra_info["elements"] = block.models.size

    benchmark(reduction.observe, block, local)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("way", ["decode", "encode"])
def test_conversion(benchmark, way, dtype):
    """2¹⁶ elements in cache, from a file's dtype to float32 (float64 for float64) or back."""
    work = np.dtype(np.float64 if dtype == "float64" else np.float32)
    numbers = np.random.default_rng(0).standard_normal(BLOCK).astype(work)
    raw = np.empty(BLOCK, {"float16": np.uint16, "bfloat16": np.uint16}.get(dtype, dtype))
    encode(numbers, dtype, raw)
    benchmark.extra_info["elements"] = BLOCK

    count = benchmark(decode, raw, dtype, numbers) if way == "decode" else benchmark(encode, numbers, dtype, raw)

    assert count == 0

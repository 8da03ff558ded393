"""Compiled loops: exact conversions, sums and selections that do not depend on how the work is cut."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.kernels import convert, largest, sums
from graftwork.kernels.convert import count_nonfinite, decode, encode
from graftwork.kernels.largest import Largest, share
from graftwork.kernels.loop import block_loop
from graftwork.kernels.sums import CHUNK, ChunkSums, weighted_sum
from graftwork.methods import base as methods_base

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")

HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# ---------------------------------------------------------------------------------------------------------------- loops


def test_importing_methods_does_not_import_numba():
    """`plan`, `inspect` and the like start without the compiler."""
    code = "import sys, graftwork.methods, graftwork.methods.arrays, graftwork.kernels.largest; print('numba' in sys.modules)"

    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@block_loop
def add_one(x):
    for j in range(x.size):
        x[j] += 1


@block_loop
def add_two(x):
    add_one(x)
    add_one(x)


def test_loops_can_be_called_first_by_many_threads():
    """Compiling happens once, and every call is made."""
    x = np.zeros((8, 10))
    threads = [threading.Thread(target=add_two, args=(row,)) for row in x]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    np.testing.assert_array_equal(x, 2)


def test_machine_code_is_kept_under_a_name_of_its_own():
    """Two types give two files, whatever order processes write them in; Numba alone would call the first of either "1"."""
    add_one(np.zeros(3, np.float32))
    add_one(np.zeros(3, np.int64))
    names = set(add_one.compiled()._cache._cache_file._load_index().values())

    assert len(names) >= 2
    assert not any(name.endswith((".1.nbc", ".2.nbc")) for name in names)


def test_chunks_are_the_same_everywhere():
    """Compiled code has the constant as its own."""
    assert methods_base.CHUNK == CHUNK


# ---------------------------------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_16_bit_pattern_is_decoded_right(name, dtype):
    """All 65536, signs of zeros included; NaN and infinity are counted."""
    raw = np.arange(65536).astype(np.uint16)
    expected = raw.view(HALVES[name]).astype(dtype)
    out = np.empty(raw.size, dtype)

    count = decode(raw, name, out)

    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))
    assert count == np.count_nonzero(~np.isfinite(expected))


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_16_bit_pattern_survives_the_way_there_and_back(name, dtype):
    """NaN may get quiet, all else keeps its bits."""
    raw = np.arange(65536).astype(np.uint16)
    numbers, back = np.empty(raw.size, dtype), np.empty(raw.size, np.uint16)

    counts = decode(raw, name, numbers), encode(numbers, name, back)

    nan = np.isnan(numbers)
    np.testing.assert_array_equal(back[~nan], raw[~nan])
    assert np.isnan(back[nan].view(HALVES[name]).astype(np.float32)).all()
    assert counts[0] == counts[1]


def hard_numbers(name, dtype):
    """Numbers around every 16-bit number and every tie between two: exact, one step of `dtype` up, one down."""
    exact = np.arange(65536).astype(np.uint16).view(HALVES[name]).astype(np.float64)
    finite = np.sort(exact[np.isfinite(exact)])
    points = np.concatenate([finite, (finite[1:] + finite[:-1]) / 2]).astype(dtype)
    up, down = np.nextafter(points, dtype(np.inf)), np.nextafter(points, dtype(-np.inf))
    extreme = np.array([65519.996, 65520, 65536, 3.39e38, 3.4e38, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    subnormal = np.array([np.finfo(dtype).smallest_subnormal], dtype)
    return np.concatenate([points, up, down, extreme, -extreme, subnormal, [np.inf, -np.inf, np.nan, -np.nan]]).astype(
        dtype
    )


@pytest.mark.parametrize("name", HALVES)
def test_float32_rounds_to_16_bits_as_ml_dtypes_does(name):
    """Ties to even, subnormals, overflow; and 400000 random bit patterns."""
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**32, 400_000, dtype=np.uint32).view(np.float32)
    numbers = np.concatenate([hard_numbers(name, np.float32), random])
    raw = np.empty(numbers.size, np.uint16)

    count = encode(numbers, name, raw)

    with np.errstate(all="ignore"):
        expected = numbers.astype(HALVES[name])
    nan = np.isnan(numbers)
    np.testing.assert_array_equal(raw[~nan], expected.view(np.uint16)[~nan])
    assert np.isnan(raw[nan].view(HALVES[name]).astype(np.float32)).all()
    assert count == np.count_nonzero(~np.isfinite(expected.astype(np.float32)))


def nearest(numbers, name):
    """Round to a 16-bit float by comparing exact distances to its two neighbours, in float64."""
    grid = np.arange(0x8000).astype(np.uint16)
    values = grid.view(HALVES[name]).astype(np.float64)
    grid, values = grid[np.isfinite(values)], values[np.isfinite(values)]
    values = np.append(values, 2 * values[-1] - values[-2])  # what infinity stands for when it comes to rounding
    grid = np.append(grid, grid[-1] + 1)
    magnitude = np.minimum(np.abs(numbers), values[-1])
    above = np.clip(np.searchsorted(values, magnitude), 1, values.size - 1)
    low, high = magnitude - values[above - 1], values[above] - magnitude
    take_high = (high < low) | ((high == low) & (grid[above] % 2 == 0))
    return np.where(take_high, grid[above], grid[above - 1]) | np.where(np.signbit(numbers), 0x8000, 0)


@pytest.mark.parametrize("name", HALVES)
def test_float64_is_rounded_once(name):
    """Never first to float32 and then again, which moves numbers just beside a tie."""
    numbers = hard_numbers(name, np.float64)
    numbers = numbers[np.isfinite(numbers)]
    raw = np.empty(numbers.size, np.uint16)

    encode(numbers, name, raw)

    np.testing.assert_array_equal(raw, nearest(numbers, name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 5000])
def test_non_finite_numbers_are_counted(dtype, size):
    """Wherever they are; copying or looking in place."""
    x = np.ones(size, dtype)
    x[::7] = np.nan
    x[3::11] = -np.inf
    expected = np.count_nonzero(~np.isfinite(x))
    copy = np.empty_like(x)

    assert decode(x, x.dtype.name, x) == expected
    assert decode(x, x.dtype.name, copy) == expected
    assert encode(x, x.dtype.name, copy) == expected
    assert count_nonfinite(x) == expected
    np.testing.assert_array_equal(copy, x)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_raw_elements_may_be_read_only(name):
    """As they are in a buffer that belongs to someone else."""
    raw = np.frombuffer(bytes(160), {"float16": np.uint16, "bfloat16": np.uint16}.get(name, name))
    out = np.empty(raw.size, np.float64)

    assert decode(raw, name, out) == 0
    np.testing.assert_array_equal(out, 0)


def test_wider_and_narrower():
    """float32 to float64 is exact; float64 to float32 is rounded, and overflow is counted."""
    wide, narrow = np.array([1 / 3, 1e300, np.nan]), np.empty(3, np.float32)

    assert encode(wide, "float32", narrow) == 2
    np.testing.assert_array_equal(narrow, np.array([1 / 3, np.inf, np.nan], np.float32))
    assert decode(narrow, "float32", wide) == 2
    assert wide[0] == np.float32(1 / 3)


# ----------------------------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, CHUNK, 3 * CHUNK + 17])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_do_not_depend_on_the_blocks(size, dtype):
    """Bit for bit, and right."""
    x, y = np.random.default_rng(size).standard_normal((2, size)).astype(dtype)
    whole, cut = ChunkSums(2, size), ChunkSums(2, size)
    whole.add_dots(0, 0, x, y)
    whole.add_magnitudes(1, 0, x)
    for start in reversed(range(0, size, CHUNK)):
        cut.add_dots(0, start, x[start : start + CHUNK], y[start : start + CHUNK])
        cut.add_magnitudes(1, start, x[start : start + CHUNK])

    np.testing.assert_array_equal(whole.totals(), cut.totals())
    expected = [np.dot(x.astype(np.float64), y.astype(np.float64)), np.abs(x.astype(np.float64)).sum()]
    # the error of a sum of n float64 is below n · 2⁻⁵³ · Σ|terms|
    np.testing.assert_allclose(whole.totals(), expected, rtol=0, atol=max(size, 1) ** 2 * 2.0**-53)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_need_not_be_contiguous(dtype):
    """A slice of a work array's columns gives the same, and so does any other view."""
    x = np.random.default_rng(0).standard_normal((3, 5000)).astype(dtype)
    for view in (x[:, :3000], x[:, 10:3010], x[::-1, :3000], x[:, ::2], x[:1, :3000], x[:, :0]):
        out, expected = np.empty((2, view.shape[1]), dtype)

        weighted_sum(view, np.ones(len(view)), 3.0, out)
        weighted_sum(view.copy(), np.ones(len(view)), 3.0, expected)

        np.testing.assert_array_equal(out, expected)


# ------------------------------------------------------------------------------------------------------------ selection


def survivors(x, base, keep, *, step, threads=2, size=None, offset=0):
    """Run `Largest` over blocks dealt out to threads; return what survives and the number of passes."""
    total = x.shape[1]
    searches = [(i, None if k == 1 else share(k)) for i, k in enumerate(keep)]
    reduction = Largest(searches, total if size is None else size, x.dtype)
    blocks = [
        SimpleNamespace(
            models=x[:, s : s + step], base=None if base is None else base[s : s + step], start=s, offset=offset
        )
        for s in range(0, total, step)
    ]
    passes, again = 0, True
    while again:
        locals_ = [reduction.local() for _ in range(threads)]
        for i, block in enumerate(reversed(blocks)):
            reduction.observe(block, locals_[i % threads])
        again = reduction.end_pass(locals_)
        passes += 1
    thresholds = reduction.result()
    kept = np.zeros(x.shape, bool)
    for block in blocks:
        delta = np.abs(block.models if base is None else block.models - block.base)
        cuts = thresholds.cuts(block.models, block.base, block.offset + block.start)
        for i, cut in enumerate(cuts):
            at = np.arange(delta.shape[1])
            keeps = (delta[i] > thresholds.magnitudes[i]) | ((delta[i] == thresholds.magnitudes[i]) & (at < cut))
            kept[i, block.start : block.start + step] = keeps
    return kept, passes


def expected_survivors(x, base, keep):
    """The k largest by stable sorting; all where the k-th is zero."""
    kept = np.zeros(x.shape, bool)
    for i, row in enumerate(x if base is None else x - base):
        magnitudes = np.abs(row)
        order = np.argsort(-magnitudes, kind="stable")
        k = max(1, int(keep[i] * row.size))
        kept[i, order[:k]] = True
        if magnitudes[order[k - 1]] == 0 or keep[i] == 1:
            kept[i] = True
    return kept


SIZES = [1, 2, 100, CHUNK, 3 * CHUNK + 17]
KINDS = {
    "random": lambda rng, shape: rng.standard_normal(shape),
    "ties": lambda rng, shape: rng.integers(-8, 9, shape) / 8,
    "equal": lambda rng, shape: np.ones(shape),
    "zero": lambda rng, shape: np.zeros(shape),
    "sparse": lambda rng, shape: rng.standard_normal(shape) * (rng.random(shape) < 0.05),
    "subnormal": lambda rng, shape: rng.integers(-9, 9, shape) * float(np.finfo(np.float32).smallest_subnormal),
    "scales": lambda rng, shape: 10.0 ** rng.uniform(-30, 30, shape),
}


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("collected", [0, 3, largest.COLLECTED])
def test_exactly_the_largest_survive(monkeypatch, collected, dtype, kind, with_base):
    """Earlier ones among equals, in one block or many, by whatever way the search goes."""
    monkeypatch.setattr(largest, "COLLECTED", collected)
    rng = np.random.default_rng(0)
    for size in SIZES:
        x = KINDS[kind](rng, (4, size)).astype(dtype)
        base = (rng.integers(-8, 9, size) / 8).astype(dtype) if with_base else None
        keep = [0.2, 0.5, 1.0, 1e-9]
        expected = expected_survivors(x, base, keep)

        for step in (CHUNK, 2 * CHUNK, 1 << 20):
            kept, passes = survivors(x, base, keep, step=step, size=-1 if step < 1 << 20 else None)
            np.testing.assert_array_equal(kept, expected)
            assert passes <= (1 if step == 1 << 20 else 4 if dtype == np.float32 else 6)
        kept, _ = survivors(x, base, keep, step=CHUNK, size=-1, offset=5 * CHUNK, threads=3)
        np.testing.assert_array_equal(kept, expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sources_of_16_bits_take_two_passes(dtype):
    """Though most of what is in the bin of the k-th largest difference equals it."""
    rng = np.random.default_rng(0)
    size = 40 * CHUNK + 5
    numbers = 0.02 * rng.standard_normal(size) + 2e-4 * rng.standard_normal((4, size))
    base = numbers[0].astype(dtype).astype(np.float32)
    x = (numbers + 2e-4 * rng.standard_normal((4, size))).astype(dtype).astype(np.float32)
    keep = [0.1, 0.5, 0.2, 0.02]

    kept, passes = survivors(x, base, keep, step=CHUNK, size=-1)

    np.testing.assert_array_equal(kept, expected_survivors(x, base, keep))
    assert passes == 2


@pytest.mark.parametrize("collected", [0, 3, largest.COLLECTED])
@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_several_ranks_of_what_is_measured(monkeypatch, collected, positions, kind):
    """Ranks in one row share the passes, and may be of anything that is not negative: none, all, by entries that are not 0."""
    monkeypatch.setattr(largest, "COLLECTED", collected)
    size = 3 * CHUNK + 17
    x = KINDS[kind](np.random.default_rng(0), (2, size)).astype(np.float32)
    measured = np.abs(x[0] - x[1])[None]
    nonzero = np.count_nonzero(measured)
    ranks = [0, 1, size // 100, size // 100 + 1, nonzero // 2, nonzero, size]
    order = np.argsort(-measured[0], kind="stable")
    for step in (CHUNK, size):
        reduction = Largest(
            [(0, (lambda size, nonzero, rank=rank: rank)) for rank in ranks[:4]]
            + [(0, lambda size, nonzero: nonzero // 2), (0, lambda size, nonzero: nonzero), (0, None)],
            size,
            x.dtype,
            measure=lambda block: (block.measured, None),
            positions=positions,
        )
        blocks = [
            SimpleNamespace(models=x[:, s : s + step], measured=measured[:, s : s + step], start=s, offset=0)
            for s in range(0, size, step)
        ]
        again = True
        while again:
            seen = reduction.local()
            for block in blocks:
                reduction.observe(block, seen)
            again = reduction.end_pass([seen])
        thresholds = reduction.result()
        for i, rank in enumerate(ranks):
            magnitude = thresholds.magnitudes[i]
            if not positions:
                exact = 0 if i == len(ranks) - 1 else np.inf if rank == 0 else measured[0, order[rank - 1]]
                assert magnitude == exact
                continue
            kept = np.concatenate(
                [
                    (b.measured[0] > magnitude)
                    | ((b.measured[0] == magnitude) & (np.arange(b.measured.shape[1]) < cuts[i]))
                    for b in blocks
                    for cuts in [thresholds.cuts(b.measured, None, b.start)]
                ]
            )
            expected = np.zeros(size, bool)
            expected[order[:rank]] = True
            np.testing.assert_array_equal(kept & (measured[0] > 0), expected & (measured[0] > 0))


def test_two_passes_are_enough_as_a_rule():
    """Random numbers in many blocks: a histogram, then the candidates."""
    x = np.random.default_rng(0).standard_normal((3, 10 * CHUNK)).astype(np.float32)

    _, passes = survivors(x, None, [0.2, 0.5, 0.9], step=CHUNK)

    assert passes == 2


def test_blocks_of_float32_among_those_of_a_float64_reduction():
    """Tensors of a model may differ in dtype when the largest are sought in the whole model."""
    rng = np.random.default_rng(0)
    x32, x64 = (
        rng.integers(-99, 99, (1, CHUNK)).astype(np.float32),
        rng.integers(-99, 99, (1, CHUNK)).astype(np.float64),
    )
    reduction = Largest([(0, share(0.25))], 2 * CHUNK, np.dtype(np.float64))
    blocks = [
        SimpleNamespace(models=x32, base=None, start=0, offset=0),
        SimpleNamespace(models=x64, base=None, start=0, offset=CHUNK),
    ]
    again = True
    while again:
        seen = reduction.local()
        for block in blocks:
            reduction.observe(block, seen)
        again = reduction.end_pass([seen])

    thresholds = reduction.result()

    expected = expected_survivors(np.hstack([x32, x64]), None, [0.25])[0]
    at = np.arange(CHUNK)
    for block, wanted in zip(blocks, (expected[:CHUNK], expected[CHUNK:]), strict=True):
        magnitudes, cut = np.abs(block.models[0]), thresholds.cuts(block.models, None, block.offset)[0]
        limit = thresholds.magnitudes[0]
        np.testing.assert_array_equal((magnitudes > limit) | ((magnitudes == limit) & (at < cut)), wanted)


def test_nan_counts_as_largest():
    """Nothing hangs or crashes, and NaN is never trimmed away unseen."""
    x = np.random.default_rng(0).standard_normal((1, 3 * CHUNK)).astype(np.float32)
    x[0, ::100] = np.nan
    x[0, 1::1000] = np.inf
    reduction = Largest([(0, share(0.1))], -1, x.dtype)
    again = True
    while again:
        seen = reduction.local()
        reduction.observe(SimpleNamespace(models=x, base=None, start=0, offset=0), seen)
        again = reduction.end_pass([seen])

    assert 0 < reduction.result().magnitudes[0] < np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 40_000), n=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_numpy_does_what_the_compiled_loops_do(dtype, seed, size, n):
    """Small merges run without Numba; not one bit may depend on it."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, size)) * 10.0 ** rng.integers(-30, 30, (n, size))).astype(dtype)
    x.reshape(-1)[rng.integers(0, x.size, 3)] = [np.nan, np.inf, -np.inf]
    weights, divisor = rng.standard_normal(n), float(rng.uniform(0.5, 3))
    compiled, plain = np.empty(size, dtype), np.empty(size, dtype)

    sums._weighted_sum.compiled()(x.reshape(-1), size, n, weights, divisor, compiled)
    sums._weighted_sum_in_numpy(x.reshape(-1), size, n, weights, divisor, plain)

    bits = np.uint32 if dtype == np.float32 else np.uint64
    finite = ~np.isnan(compiled)
    np.testing.assert_array_equal(np.isnan(plain), ~finite)
    np.testing.assert_array_equal(plain.view(bits)[finite], compiled.view(bits)[finite])
    assert (
        convert._count_in_numpy(x.reshape(-1).view(bits))
        == convert._count.compiled()(x.reshape(-1).view(bits))
        == int(np.count_nonzero(~np.isfinite(x)))
    )

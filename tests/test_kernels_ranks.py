"""Masks by rank: what comes out of histograms and counting is what sorting gives."""

import numpy as np
import pytest

from graftwork import rng as streams
from graftwork.kernels import ranks
from graftwork.kernels.loop import BlockLoop
from graftwork.kernels.ranks import keep_by_rank

KINDS = {
    "random": lambda rng, n: rng.standard_normal(n),
    "few values": lambda rng, n: rng.integers(-8, 9, n) / 8,
    "equal": lambda rng, n: np.ones(n),
    "nearly equal": lambda rng, n: 1 + rng.integers(0, 9, n) * 2.0**-20,
    "by turns": lambda rng, n: np.where(np.arange(n) * 6 // n % 2, rng.integers(-8, 9, n) / 8, rng.standard_normal(n)),
    "zero": lambda rng, n: np.zeros(n),
    "sparse": lambda rng, n: rng.standard_normal(n) * (rng.random(n) < 0.05),
    "outlier": lambda rng, n: rng.standard_normal(n) * np.where(np.arange(n) == n // 2, 1e6, 1),
    "scales": lambda rng, n: 10.0 ** rng.uniform(-30, 30, n),
}
KEY, START = np.uint64(77), 12


def by_sorting(x, base, unit, low, width):
    """Which elements are kept, and 1 / p where they are, by the definition."""
    kept, factors = np.zeros(x.size, bool), np.zeros(x.size)
    numbers = streams.stream(KEY, START, x.size) >> np.uint64(11)
    for s in range(0, x.size, unit):
        part = slice(s, s + unit)
        rank = np.argsort(np.argsort(np.abs(x[part] - base[part]), kind="stable"), kind="stable")
        p = low + rank * (width / (unit - 1)) if unit > 1 else np.array([low + width / 2])
        kept[part] = numbers[part] < p * 2.0**53
        factors[part] = np.where(kept[part], 1 / p, 0)
    return kept, factors


@pytest.mark.parametrize("counted", [0, ranks.COUNTED, 10**9])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_masks_are_those_of_the_definition(monkeypatch, dtype, kind, counted):
    """By whatever way a rank is found; NaN and infinity rank highest."""
    plain = counted != ranks.COUNTED
    if plain:  # the constant is compiled in: run the loops as plain Python, on less
        monkeypatch.setattr(ranks, "COUNTED", counted)
        for name, loop in vars(ranks).copy().items():
            if isinstance(loop, BlockLoop):
                monkeypatch.setattr(ranks, name, loop._function)
    for unit in (1, 3, 64) if plain else (1, 2, 3, 9, 64, 1000, 5000, 70_000):
        size = unit * max(1, (100 if plain else 3000) // unit)
        rng = np.random.default_rng(unit)
        x, base = KINDS[kind](rng, size).astype(dtype), (rng.integers(-8, 9, size) / 8).astype(dtype)
        if kind == "scales" and unit > 2:
            x[1:3] = np.nan, np.inf
        for epsilon in (0.15, 0.49, 0.0):
            low, width = 0.5 - epsilon, 2 * epsilon
            expected, factors = by_sorting(x, base, unit, low, width)

            kept = np.zeros(size, bool)
            with np.errstate(over="ignore"):
                keep_by_rank(x, base, unit, (KEY, START), (low, width), kept)
            np.testing.assert_array_equal(kept[x != base], expected[x != base])

            exact, found = np.zeros(size, bool), np.zeros(size, dtype)
            with np.errstate(over="ignore"):
                keep_by_rank(x, base, unit, (KEY, START), (low, width), exact, found)
            np.testing.assert_array_equal(exact, expected)
            np.testing.assert_array_equal(found, factors.astype(dtype))


@pytest.mark.parametrize("unit", [1, 5, 64, 65, 1000])
def test_sums_are_those_of_each_unit(unit):
    """Whatever the number of units in a block, to the last bit."""
    rng = np.random.default_rng(0)
    x, base = rng.standard_normal((2, 12 * unit)).astype(np.float32)
    kept, sums, one = np.zeros(x.size, bool), np.empty((2, 12)), np.empty((2, 1))

    keep_by_rank(x, base, unit, (KEY, START), (0.35, 0.3), kept, sums=sums)

    distances = np.abs(x - base).astype(np.float64).reshape(12, unit)
    np.testing.assert_allclose(sums, [distances.sum(1), (distances * kept.reshape(12, unit)).sum(1)], rtol=1e-13)
    keep_by_rank(x[-unit:], base[-unit:], unit, (KEY, START + 11 * unit), (0.35, 0.3), np.zeros(unit, bool), sums=one)
    np.testing.assert_array_equal(one[:, 0], sums[:, -1])

"""Divergences of softmaxes against NumPy's exp and log."""

import numpy as np
import pytest

from graftwork.kernels.divergence import FLOOR, divergences


def by_numpy(x, base):
    """In long double where the machine has it: the sum cancels."""

    def softmax(values):
        e = np.exp(values.astype(np.longdouble) - values.max())
        return e / e.sum() + FLOOR

    p, q = softmax(x), softmax(base)
    return float((p * np.log(p / q)).sum())


@pytest.mark.parametrize("unit", [2, 3, 64, 511, 513, 5000])
@pytest.mark.parametrize(("scale", "change"), [(0.02, 1e-3), (1.0, 1.0), (30.0, 30.0), (1e30, 1e30)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_divergences_are_right(dtype, scale, change, unit):
    """From nearly equal distributions to those with all weight in one place."""
    rng = np.random.default_rng(unit)
    base = scale * rng.standard_normal(3 * unit)
    x = (base + change * rng.standard_normal(3 * unit)).astype(dtype)
    base = base.astype(dtype)

    found = divergences(x, base, unit)

    expected = [by_numpy(x[s : s + unit], base[s : s + unit]) for s in range(0, 3 * unit, unit)]
    # each term is right to a few 10⁻¹⁶ of its p; the terms add up to the divergence
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("scale", "change"), [(0.02, 2e-4), (0.5, 1e-5), (3.0, 0.015)])
def test_divergences_of_fine_tunes_keep_their_digits(scale, change):
    """Terms that cancel to 10⁻⁹ of their size leave no error behind; the expected sum is of terms that do not cancel."""
    rng = np.random.default_rng(0)
    base = scale * rng.standard_normal(5000)
    x = base + change * rng.standard_normal(5000)
    e = np.exp(base - base.max())
    v = np.expm1(x - base)
    plain, mean = e / e.sum(), (e * v).sum() / e.sum()
    q = plain + FLOOR
    ratio = plain * (v - mean) / (1 + mean) / q
    with_log = np.where(
        abs(ratio) < 1e-3, ratio**2 / 2 - ratio**3 / 6 + ratio**4 / 12, (1 + ratio) * np.log1p(ratio) - ratio
    )

    np.testing.assert_allclose(divergences(x, base, 5000), [(q * with_log).sum()], rtol=1e-8)


def test_equal_units_do_not_diverge():
    """Exactly, and NaN shows."""
    x = np.random.default_rng(0).standard_normal(1000)
    bad = x.copy()
    bad[700] = np.nan

    np.testing.assert_array_equal(divergences(x, x.copy(), 250), [0, 0, 0, 0])
    np.testing.assert_array_equal(np.isnan(divergences(bad, x, 250)), [False, False, True, False])

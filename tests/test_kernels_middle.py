"""The middle of several models: networks of comparators that sort it, and its mean."""

import itertools

import numpy as np
import pytest

from graftwork.kernels.middle import comparators, mean_of_middle


@pytest.mark.parametrize("n", range(1, 12))
def test_networks_sort_the_middle(n):
    """Every arrangement of zeros and ones; a network that sorts those sorts all numbers (Knuth's zero-one principle)."""
    arrangements = np.array(list(itertools.product([0, 1], repeat=n)), np.int8).T
    for cut in range((n + 1) // 2):
        rows = arrangements.copy()
        for low, high in comparators(n, cut):
            rows[[low, high]] = np.minimum(rows[low], rows[high]), np.maximum(rows[low], rows[high])

        np.testing.assert_array_equal(rows[cut : n - cut], np.sort(arrangements, axis=0)[cut : n - cut])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 100, 300])
def test_the_middle_is_averaged(n, dtype):
    """As sorting and adding up does it, for sizes around those of tiles; inputs in rows that lie apart are left as they are."""
    whole = np.random.default_rng(n).integers(-50, 50, (n, 2100)).astype(dtype)
    for size in (0, 1, 64, 1025, 2099):
        models, out = whole[:, :size], np.empty(size, dtype)
        before = models.copy()
        for cut in {0, n // 4, (n - 1) // 2}:
            mean_of_middle(models, cut, out)

            left = np.sort(before, axis=0)[cut : n - cut].astype(np.float64)
            np.testing.assert_array_equal(out, (left.sum(axis=0) / len(left)).astype(dtype))
        np.testing.assert_array_equal(models, before)


def test_what_agrees_is_kept_to_the_last_bit():
    """Where the sum of equal numbers would be rounded, or overflow, the number itself comes out."""
    numbers = np.array([0.1, np.finfo(np.float64).max, np.finfo(np.float64).smallest_subnormal, -0.0])
    out = np.empty_like(numbers)

    for n in (2, 3, 7):
        mean_of_middle(np.stack([numbers] * n), 0, out)
        np.testing.assert_array_equal(out.view(np.uint64), numbers.view(np.uint64))


@pytest.mark.parametrize("place", range(5))
def test_nan_is_never_left_out(place):
    """Not even where it would be at an end."""
    models, out = np.arange(10.0).reshape(5, 2), np.empty(2)
    models[place, 1] = np.nan

    mean_of_middle(models, 2, out)

    np.testing.assert_array_equal(out, [4, np.nan])

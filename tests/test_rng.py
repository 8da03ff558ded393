"""Random numbers depend on seed, name, model and position, and on nothing else."""

import itertools

import numpy as np
import pytest
from reference_methods import mask, splitmix64, stream_key

from graftwork import rng
from graftwork.kernels.masks import drop


def test_the_stream_is_splitmix64():
    """The first outputs for the seed 1234567, as published with the reference implementation."""
    known = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]

    assert [int(u) for u in rng.stream(np.uint64(1234567), 0, 5)] == known


@pytest.mark.parametrize("key", [0, 1, 2**63, 2**64 - 1])
def test_the_stream_can_be_entered_anywhere(key):
    """Element j is the (j + 1)-th output, drawn in one go or from the middle."""
    numbers = list(itertools.islice(splitmix64(key), 100))

    assert rng.stream(np.uint64(key), 0, 100).tolist() == numbers
    assert rng.stream(np.uint64(key), 37, 20).tolist() == numbers[37:57]


def test_keys_are_what_the_documentation_says():
    """Keys can be computed by anyone, and never change."""
    assert int(rng.key(0, "dense/kernel", 1)) == stream_key(0, "dense/kernel", 1)
    assert int(rng.key(0, "tensor", 0)) == 0x39C2F9D043BB9661
    assert rng.key(-(2**70), "α/β", 3).dtype == np.uint64


def test_keys_differ_with_each_of_their_parts():
    """No two of (seed, name, model) share a stream, however the text is cut."""
    parts = itertools.product([0, 1, 11, -1], ["", "a", "1:a", "1", ":"], [0, 1, 11])
    keys = [int(rng.key(seed, name, model)) for seed, name, model in parts]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("probability", [1e-300, 0.1, 1 / 3, 0.5, 1 - 2**-53, 1.0])
def test_the_compiled_mask_is_the_documented_one(probability):
    """What `drop` leaves alone is what Python's integers say."""
    row, base = np.ones(500, np.float32), np.zeros(500, np.float32)

    drop(row, base, rng.key(5, "x", 2), 0, rng.bound(probability))

    np.testing.assert_array_equal(row.astype(bool), mask(500, probability, 5, "x", 2))


def test_masks_keep_the_fraction_asked_for():
    """Within five standard deviations over 100000 draws."""
    row, base = np.ones(100_000, np.float64), np.zeros(100_000)

    drop(row, base, rng.key(0, "x", 0), 0, rng.bound(0.3))

    assert abs(row.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / row.size)


def test_masks_of_two_models_are_independent():
    """Four equally likely pairs, within five standard deviations."""
    rows = np.ones((2, 100_000), np.float32)
    for i, row in enumerate(rows):
        drop(row, np.zeros_like(row), rng.key(0, "x", i), 0, rng.bound(0.5))

    assert abs((rows[0] * rows[1]).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / rows.shape[1])

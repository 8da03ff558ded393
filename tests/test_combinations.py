"""Methods whose result is a combination of the models: what their factors promise, beyond the laws of tests/test_methods.py."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_methods import REFERENCES

from graftwork.errors import OptionError
from graftwork.kernels.gram import Gram, combine, gram_of_units
from graftwork.methods.arrays import merge_arrays
from graftwork.methods.base import CHUNK
from graftwork.methods.options import Options

METHODS = ["nuslerp", "multislerp", "karcher", "model_stock", "geometric_median"]


def f32(*values):
    return np.array(values, np.float32)


def observed(models, base, length, **how):
    """Return the matrix of a tensor that comes in blocks of this length, the last ones first."""
    n, size = models.shape
    gram = Gram(n, size, lambda matrix: matrix.copy(), **how)
    for start in reversed(range(0, size, length)):
        part = slice(start, start + length)
        block = SimpleNamespace(models=models[:, part], base=None if base is None else base[part], start=start)
        gram.observe(block, gram.local())
    assert not gram.end_pass([None])
    return gram.result()


# -------------------------------------------------------------------------------------------------------------- kernels


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 5),
    size=st.integers(1, 3 * CHUNK),
    dtype=st.sampled_from([np.float32, np.float64]),
    has_base=st.booleans(),
    distances=st.booleans(),
)
def test_dot_products_do_not_depend_on_blocks(n, size, dtype, has_base, distances):
    """Of models or of differences, or distances: those of NumPy, and the same to the last bit however the tensor is cut."""
    rng = np.random.default_rng(size)
    models = rng.standard_normal((n, size)).astype(dtype)
    base = rng.standard_normal(size).astype(dtype) if has_base else None

    matrix = observed(models, base, CHUNK, distances=distances)

    vectors = models.astype(np.float64) - (0 if base is None else base.astype(np.float64))
    expected = vectors @ vectors.T
    if distances:
        expected = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(matrix, expected, rtol=1e-13, atol=1e-13 * size)
    np.testing.assert_array_equal(observed(models, base, 1 << 20, distances=distances), matrix)


@pytest.mark.parametrize("unit", [1, 3, 64, 1500])
@pytest.mark.parametrize("has_base", [False, True])
def test_units_are_looked_at_one_by_one(unit, has_base):
    """Dot products and sums of each unit are those of the unit alone, to the last bit, whatever its neighbours."""
    rng = np.random.default_rng(unit)
    models, base = rng.standard_normal((3, 7 * unit)), rng.standard_normal(7 * unit) if has_base else None
    factors, out = rng.standard_normal((7, 3)), np.empty(7 * unit)
    factors[2] = 0.25, 0.5, 0.25

    matrices = gram_of_units(models, base, unit)
    combine(models, base, factors, out)

    for u in range(7):
        part = slice(u * unit, (u + 1) * unit)
        mine, start = models[:, part].copy(), None if base is None else base[part].copy()
        np.testing.assert_array_equal(gram_of_units(mine, start, unit)[0], matrices[u])
        vectors = mine - (0 if start is None else start)
        np.testing.assert_allclose(matrices[u], vectors @ vectors.T, rtol=1e-13, atol=1e-13 * unit)
        alone = np.empty(unit)
        combine(mine, start, factors[u], alone)
        np.testing.assert_array_equal(alone, out[part])
        np.testing.assert_allclose(alone, factors[u] @ vectors + (0 if start is None else start), atol=1e-13)


def test_distances_of_models_that_lie_close_together_keep_their_digits():
    """Models of size 1, apart by 1e-9: the dot products' own rounding is as large as the squares of the distances."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-8, 9, (3, 5000)) * 2.0**-33
    models = 1 + steps

    matrix = observed(models, None, CHUNK, distances=True)

    np.testing.assert_allclose(matrix, ((steps[:, None] - steps[None]) ** 2).sum(axis=2), rtol=1e-14)


# ------------------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6, 1e-8])
def test_models_that_lie_close_together_lose_no_digit(method, apart):
    """In float64, as whole vectors give it, though angles are all but 0: to ten roundings of elements that are up to 4."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal(20_000)
    n = 2 if method == "nuslerp" else 4
    base, *models = (x + apart * (1 + i) * rng.standard_normal(x.size) for i in range(n + 1))
    base = base if method == "model_stock" else None
    options = {} if method == "model_stock" else {"weight": [1.0, 2.0, 3.0, 4.0][:n]}
    if method == "geometric_median":
        options |= {"weight": 1.0, "max_iter": 30}

    merged = merge_arrays(method, models, base=base, **options)

    expected = REFERENCES[method](models, base, **options)
    np.testing.assert_allclose(merged, expected, rtol=0, atol=10 * 2.0**-50)


@pytest.mark.parametrize("method", ["multislerp", "karcher", "model_stock", "geometric_median"])
@pytest.mark.parametrize("n", [3, 7])
def test_many_models(method, n):
    """The formula, for more models than the laws try."""
    rng = np.random.default_rng(n)
    base, *models = rng.standard_normal((n + 1, 30, 40))
    for origin in [base] if method == "model_stock" else [None, base] if method == "multislerp" else [None]:
        options = {} if method == "model_stock" else {"weight": list(rng.uniform(0.5, 1.5, n))}

        merged = merge_arrays(method, models, base=origin, **options)

        np.testing.assert_allclose(merged, REFERENCES[method](models, origin, **options), rtol=0, atol=1e-13)


UNITS = [
    ("nuslerp", {"nuslerp_flatten": False}, 2),
    ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True, "weight": [1.0, 3.0]}, 2),
    ("model_stock", {"filter_wise": True}, 3),
]


@pytest.mark.parametrize(("method", "options", "n"), UNITS)
@pytest.mark.parametrize("shape", [(50,), (12, 9), (9, 1), (1, 9), (5, 4, 3, 3)])
@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("has_base", [False, True])
def test_units_have_angles_of_their_own(method, options, n, shape, axis, has_base):
    """In both layouts the same numbers, those of the formula unit by unit, however the tensor is cut."""
    if method == "model_stock" and not has_base:
        pytest.skip("model_stock needs a base")
    rng = np.random.default_rng(0)
    base, *models = rng.standard_normal((n + 1, *shape))
    base = base if has_base else None
    expected = REFERENCES[method](models, base, **options)

    def turned(array):
        return np.moveaxis(array, 0, -1) if axis == -1 else array

    for block_size in (1, 10, 1 << 20):
        merged = merge_arrays(
            method,
            [turned(model) for model in models],
            base=None if base is None else turned(base),
            unit_axis=axis,
            block_size=block_size,
            **options,
        )
        np.testing.assert_allclose(merged, turned(expected), rtol=0, atol=1e-12)


# -------------------------------------------------------------------------------------------------------------- by hand


def test_nuslerp_by_hand():
    """Weights 1 and 2: two thirds of a right angle, sin 30° = ½ of the one and sin 60° = √¾ of the other; from the base as well."""
    third = [1, 2 * np.sqrt(3)]

    np.testing.assert_allclose(merge_arrays("nuslerp", [f32(2, 0), f32(0, 4)], weight=[1, 2]), third, rtol=1e-6)
    merged = merge_arrays("nuslerp", [f32(2, 1), f32(0, 5)], base=f32(0, 1), weight=[1, 2])
    np.testing.assert_allclose(merged, np.add(third, [0, 1]), rtol=1e-6)


def test_nuslerp_by_rows_and_columns():
    """Rows (3, 0), (0, 4) are perpendicular and (1, 1), (3, 3) parallel; columns (2, 0), (0, 5) perpendicular, (1, 1), (3, 3) parallel."""
    half = np.sqrt(0.5)
    rows = [f32([3, 0], [1, 1]), f32([0, 4], [3, 3])]
    columns = [f32([2, 1], [0, 1]), f32([0, 3], [5, 3])]

    by_row = merge_arrays("nuslerp", rows, unit_axis=0, nuslerp_flatten=False)
    by_column = merge_arrays("nuslerp", columns, unit_axis=0, nuslerp_flatten=False, nuslerp_row_wise=True)

    np.testing.assert_allclose(by_row, [[3 * half, 4 * half], [2, 2]], rtol=1e-6)
    np.testing.assert_allclose(by_column, [[2 * half, 2], [5 * half, 2]], rtol=1e-6)


def test_nuslerp_where_there_is_no_circle():
    """Opposite and parallel vectors are mixed as they are; a zero vector counts as perpendicular; weights that sum to 0 mean half way."""
    assert merge_arrays("nuslerp", [f32(2), f32(-6)], weight=[3, 1]) == 0
    assert merge_arrays("nuslerp", [f32(2), f32(6)], weight=[3, 1]) == 3
    assert merge_arrays("nuslerp", [f32(2), f32(6)], weight=[1, -1]) == 4
    assert merge_arrays("nuslerp", [f32(2), f32(0)], weight=[2, 1]) == np.float32(2 * np.sin(np.pi / 3))
    assert merge_arrays("nuslerp", [f32(0), f32(0)]) == 0
    # short vectors have angles too
    tiny = f32(3e-12, 4e-12)
    np.testing.assert_array_equal(merge_arrays("nuslerp", [tiny, tiny]), tiny)


def test_multislerp_by_hand():
    """Directions (1, 0) and (0, 1): the mean is at 45°, as long as the mean of 3 and 1; with weights 3 and 4 it is at (3, 4) / 5."""
    models = [f32(3, 0), f32(0, 1)]

    np.testing.assert_allclose(merge_arrays("multislerp", models), [np.sqrt(2), np.sqrt(2)], rtol=1e-6)
    merged = merge_arrays("multislerp", models, weight=[3, 4])
    np.testing.assert_allclose(merged, np.array([3, 4]) / 5 * (3 * 3 + 4 * 1) / 7, rtol=1e-6)
    merged = merge_arrays("multislerp", [m + 1 for m in models], base=f32(1, 1), weight=[3, 4], normalize_weights=False)
    np.testing.assert_allclose(merged, 1 + np.array([3, 4]) / 5 * (3 * 3 + 4 * 1), rtol=1e-6)


def test_multislerp_where_directions_balance_out():
    """Two are added as they are, more are refused with what to do; no vector at all is no direction to be missed."""
    assert merge_arrays("multislerp", [f32(4), f32(-2)]) == 1
    assert merge_arrays("multislerp", [f32(5), f32(-1)], base=f32(1)) == 2
    with pytest.raises(
        OptionError, match=r"of its 3 vectors, by weights 0\.5, 0\.25, 0\.25, sum to one of length .*; change a weight"
    ):
        merge_arrays("multislerp", [f32(4, 0), f32(-2, 0), f32(-1, 0)], weight=[2, 1, 1])
    zeros = [f32(0, 0)] * 3
    assert not merge_arrays("multislerp", zeros).any()
    np.testing.assert_array_equal(merge_arrays("multislerp", [f32(1, 2)] * 3, base=f32(1, 2)), [1, 2])
    # one that did not move has a length, 0, and no direction
    np.testing.assert_allclose(merge_arrays("multislerp", [f32(3, 0), f32(0, 0), f32(3, 0)]), [2, 0], rtol=1e-6)


def test_multislerp_tells_rounding_from_a_direction():
    """Opposite in float32, up to its rounding: the mean direction would be that of the rounding."""
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)

    merged = merge_arrays("multislerp", [x, -3 * x])

    np.testing.assert_allclose(merged, -x, atol=1e-6)


def at(degrees, length=1.0):
    return length * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


def test_karcher_by_hand():
    """In a plane the mean of directions is the mean of the angles: 0°, 30° and 90° give 40°, with weights 1, 1, 2 give 52.5°."""
    models = [at(0, 2), at(30, 3), at(90, 4)]

    exactly = {"tol": 1e-12, "max_iter": 100}
    np.testing.assert_allclose(merge_arrays("karcher", models, **exactly), at(40, 3), atol=1e-12)
    np.testing.assert_allclose(
        merge_arrays("karcher", models, weight=[1, 1, 2], **exactly), at(52.5, 13 / 4), atol=1e-12
    )
    # begins at the mean direction, and after no step is still there
    mean = at(0) + at(30) + at(90)
    np.testing.assert_allclose(merge_arrays("karcher", models, max_iter=0), 3 * mean / np.linalg.norm(mean))


def test_karcher_where_there_is_no_mean():
    """Opposite ones: the first's direction. Zero tensors count for the length alone. Short ones count like long ones."""
    np.testing.assert_array_equal(merge_arrays("karcher", [f32(2, 0), f32(-4, 0)]), [3, 0])
    np.testing.assert_array_equal(merge_arrays("karcher", [f32(-4, 0), f32(2, 0)]), [-3, 0])
    np.testing.assert_allclose(merge_arrays("karcher", [f32(0, 0), f32(3, 0), f32(3, 0)]), [2, 0])
    assert not merge_arrays("karcher", [f32(0, 0)] * 3).any()
    np.testing.assert_allclose(
        merge_arrays("karcher", [f32(1e-9, 0), f32(0, 1e-9)]), [1e-9 * np.sqrt(0.5)] * 2, rtol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(2, 6))
def test_karcher_mean_does_not_know_the_order(seed, n):
    """Nor is there a way to go from it that leads nearer to all: the sum of the ways to the models is 0."""
    models = list(np.abs(np.random.default_rng(seed).standard_normal((n, 50))) + 0.1)

    merged = merge_arrays("karcher", models, tol=1e-12, max_iter=200)

    np.testing.assert_allclose(merge_arrays("karcher", models[::-1], tol=1e-12, max_iter=200), merged, rtol=1e-10)
    mean = merged / np.linalg.norm(merged)
    units = [model / np.linalg.norm(model) for model in models]
    ways = [np.arccos(u @ mean) / np.sqrt(1 - (u @ mean) ** 2) * (u - (u @ mean) * mean) for u in units]
    np.testing.assert_allclose(sum(ways), 0, atol=1e-7)


def test_model_stock_by_hand():
    """τ = (5, 0) and (3, 4): c = 15 / 25, t = 2 · 0.6 / 1.6 = ¾ of the way to the mean (4, 2)."""
    base, models = f32(1, 1), [f32(6, 1), f32(4, 5)]

    np.testing.assert_allclose(merge_arrays("model_stock", models, base=base), [4, 2.5], rtol=1e-6)
    rows = [np.stack([model, f32(9, 7)]) for model in models]
    merged = merge_arrays("model_stock", rows, base=np.stack([base, base]), unit_axis=0, filter_wise=True)
    np.testing.assert_allclose(merged, [[4, 2.5], [9, 7]], rtol=1e-6)


def test_model_stock_where_task_vectors_balance_out():
    """Opposite ones, or three at 120°: no part of the way is best, and the base stays."""
    base = np.array([1.0, -1.0])

    np.testing.assert_array_equal(merge_arrays("model_stock", [base + 1, base - 2], base=base), base)
    three = [base + at(degrees) for degrees in (0, 120, 240)]
    np.testing.assert_array_equal(merge_arrays("model_stock", three, base=base), base)
    # one that did not move is perpendicular to the other
    np.testing.assert_array_equal(merge_arrays("model_stock", [base + 1, base], base=base), base)


def test_model_stock_does_not_depend_on_the_size_of_task_vectors():
    """Down to 1e-30: the same part of the way."""
    deltas = np.random.default_rng(0).standard_normal((3, 100))
    base = np.zeros(100)
    merged = merge_arrays("model_stock", list(deltas), base=base)

    for scale in (2.0**-20, 2.0**-100):
        small = merge_arrays("model_stock", list(deltas * scale), base=base)
        np.testing.assert_allclose(small, merged * scale, rtol=1e-12)


def test_geometric_median_by_hand():
    """Of a convex quadrilateral it is where the diagonals meet; of a triangle with an angle of 120° or more, that corner."""
    corners = [np.array(p, float) for p in ((0, 0), (0, 2), (3, 3), (2, 0))]
    exactly = {"tol": 1e-12, "max_iter": 1000}

    np.testing.assert_allclose(merge_arrays("geometric_median", corners, **exactly), [1, 1], atol=1e-9)
    triangle = [np.array(p, float) for p in ((0.1, 0.3), (10, 2), (-10, 3))]
    np.testing.assert_array_equal(merge_arrays("geometric_median", triangle), triangle[0])
    np.testing.assert_array_equal(merge_arrays("geometric_median", corners, weight=[1, 1, 5, 1]), corners[2])
    np.testing.assert_array_equal(merge_arrays("geometric_median", [f32(1, 2), f32(5, 0)]), [3, 1])


def test_geometric_median_leaves_a_model_that_it_begins_at():
    """The mean of three corners is the fourth model, which weighs little; Weiszfeld's own step would divide by 0 there."""
    corners = [np.array(p, float) for p in ((0, 0), (12, 0), (0, 3))]
    models = [*corners, np.array([4.0, 1.0])]

    merged = merge_arrays("geometric_median", models, weight=[1, 1, 1, 0.01], tol=1e-10, max_iter=1000)

    pulls = [w * (x - merged) / np.linalg.norm(x - merged) for w, x in zip((1, 1, 1, 0.01), models, strict=True)]
    assert np.linalg.norm(merged - models[3]) > 1
    np.testing.assert_allclose(sum(pulls), 0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(3, 8), dimensions=st.integers(2, 40))
def test_geometric_median_has_the_least_sum_of_distances(seed, n, dimensions):
    """No step in any direction makes it less."""
    rng = np.random.default_rng(seed)
    models, weights = rng.standard_normal((n, dimensions)), rng.uniform(0.5, 2, n)

    def cost(z):
        return weights @ np.linalg.norm(models - z, axis=1)

    merged = merge_arrays("geometric_median", list(models), weight=list(weights), tol=1e-9, max_iter=2000)

    for step in (1e-2, 1.0):
        for direction in rng.standard_normal((20, dimensions)):
            assert cost(merged) <= cost(merged + step * direction / np.linalg.norm(direction))
    assert cost(merged) <= min(cost(model) for model in models) + 1e-12


@pytest.mark.parametrize("far", [1e2, 1e6, 1e10])
@pytest.mark.parametrize("last", [False, True])
def test_geometric_median_is_not_pulled_away(far, last):
    """By one model of five, up to 1e12 times as far off: the result is nearer to the others than they are to one another."""
    rng = np.random.default_rng(0)
    good = list(0.01 * rng.standard_normal((4, 1000)))
    bad = far * rng.standard_normal(1000)
    models = [*good, bad] if last else [bad, *good]

    merged = merge_arrays("geometric_median", models)

    apart = max(np.linalg.norm(x - y) for x in good for y in good)
    assert max(np.linalg.norm(merged - x) for x in good) < apart
    towards = [(x - merged) / np.linalg.norm(x - merged) for x in models]
    np.testing.assert_allclose(sum(towards), 0, atol=1e-4)


def test_geometric_median_smoothed():
    """Where all models are within `smoothing` it is their mean."""
    models = [f32(0, 0), f32(1, 0), f32(0, 2)]

    np.testing.assert_array_equal(
        merge_arrays("geometric_median", models, smoothing=10.0), merge_arrays("linear", models)
    )


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "multislerp",
            {"weight": [1, -1]},
            "sums to 0 and cannot be normalized; change a weight or set normalize_weights: false",
        ),
        ("karcher", {"weight": [0, 0]}, "which sums to 0 and cannot be normalized; change a weight"),
        ("karcher", {"weight": [1, -1]}, "option 'weight' of karcher is -1; expected a number in [0, inf)"),
        ("geometric_median", {"weight": 0}, "which sums to 0 and cannot be normalized; change a weight"),
        ("geometric_median", {"tol": 0}, "option 'tol' of geometric_median is 0; expected a number in (0, inf)"),
    ],
)
def test_weights_without_a_mean_are_refused(method, options, message):
    """Before any weight is read."""
    with pytest.raises(OptionError) as error:
        Options(method, options, ["a", "b"])

    assert str(error.value).endswith(message)


def test_numbers_of_models_are_refused():
    """Model Stock needs an angle between two, nuslerp the two ends of a way."""
    with pytest.raises(OptionError, match="model_stock merges at least 2 models, but there are 1"):
        Options("model_stock", {}, ["a"], has_base=True)
    with pytest.raises(OptionError, match="nuslerp merges exactly 2 models, but there are 3"):
        Options("nuslerp", {}, ["a", "b", "c"])

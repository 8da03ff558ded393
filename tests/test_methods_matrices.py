"""Methods that see matrices: what they compute, in both layouts, and by hand; methods that know more than the weights."""

import numpy as np
import pytest
from reference_methods import REFERENCES, in_units
from safetensors.numpy import load_file, save_file
from threadpoolctl import threadpool_limits

import graftwork as gw
from graftwork import methods
from graftwork.errors import OptionError
from graftwork.methods.arrays import merge_arrays
from graftwork.methods.options import companion_files

SHAPES = [(5, 7), (7, 5), (40, 30), (300, 20), (1, 6), (6, 1), (3, 3, 4, 5), (4, 2, 3)]


def f32(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", ["tsv", "iso_c"])
def test_singular_vectors_are_those_of_the_decomposition(method, shape, axis):
    """Gram matrices in float64 give what LAPACK's singular value decomposition gives, for every shape and layout."""
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 7):
        base, *models = rng.standard_normal((n + 1, *shape))
        for options in ({}, {"weight": [0.5 - i for i in range(n)], "lambda_": 0.7}):
            merged = merge_arrays(method, models, base=base, unit_axis=axis, **options)

            # squares in float64: what is left of 2⁻⁵³ where seven tasks have nearly the same vectors
            expected = REFERENCES[method](models, base, axis=axis, **options)
            np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["tsv", "iso_c"])
def test_float32_is_as_good_as_a_decomposition_in_float32(method):
    """Singular values over three orders of magnitude, and differences much smaller than the weights."""
    rng = np.random.default_rng(1)
    base = rng.standard_normal((96, 64)).astype(np.float32)
    left, right = (np.linalg.qr(rng.standard_normal((3, k, 64)))[0] for k in (96, 64))
    tasks = [(u * np.geomspace(1, 1e-3, 64)) @ v.T for u, v in zip(left, right, strict=True)]
    models = [(base + task).astype(np.float32) for task in tasks]

    merged = merge_arrays(method, models, base=base, unit_axis=0)

    # the inputs are exact; 2⁻²⁴ of the result's largest numbers, about 5, is one rounding
    np.testing.assert_allclose(merged, REFERENCES[method](models, base, axis=0), rtol=0, atol=5 * 2.0**-24)


def test_iso_c_by_hand():
    """3 e₁e₁ᵀ and 1 e₂e₂ᵀ: singular values 3 and 1, whose mean is 2. Vectors: the mean."""
    base = np.zeros((2, 2), np.float32)
    a, b = np.diag(f32(3, 0)), np.diag(f32(0, 1))

    np.testing.assert_allclose(merge_arrays("iso_c", [a, b], base=base), np.diag([2, 2]), atol=1e-7)
    np.testing.assert_allclose(merge_arrays("iso_c", [a, b], base=base, lambda_=0.5), np.eye(2), atol=1e-7)
    np.testing.assert_array_equal(merge_arrays("iso_c", [f32(3, 0), f32(1, 0)], base=f32(0, 0)), [2, 0])


def test_iso_c_leaves_out_directions_that_no_task_has():
    """2 e₁e₁ᵀ twice has one singular value, 4; rounding does not choose the others."""
    a = np.diag(f32(2, 0, 0))

    merged = merge_arrays("iso_c", [a, a], base=np.zeros((3, 3), np.float32))

    np.testing.assert_allclose(merged, np.diag([4, 0, 0]), atol=1e-7)


def test_tsv_by_hand():
    """Two tasks in two dimensions keep a vector each; left vectors e₁, e₁ are shared: both become e₁ / √2."""
    base = np.zeros((2, 2), np.float32)
    a, b = f32([2, 0], [0, 0]), f32([0, 2], [0, 0])

    apart = merge_arrays("tsv", [np.diag(f32(3, 1)), np.diag(f32(1, 5))], base=base, unit_axis=0)
    shared = merge_arrays("tsv", [a, b], base=base, unit_axis=0)

    np.testing.assert_allclose(apart, np.diag([3, 5]), atol=1e-6)
    np.testing.assert_allclose(shared, [[np.sqrt(2), np.sqrt(2)], [0, 0]], atol=1e-6)


def test_tsv_of_one_model_given_twice_is_its_first_half():
    """U⊥ = [U U] / √2 on both sides: the two halves add up to the one."""
    rng = np.random.default_rng(2)
    u, v = np.linalg.qr(rng.standard_normal((8, 4)))[0], np.linalg.qr(rng.standard_normal((4, 4)))[0]
    model = ((u * [4, 3, 2, 1]) @ v.T).astype(np.float32)

    merged = merge_arrays("tsv", [model, model], base=np.zeros_like(model), unit_axis=0)

    np.testing.assert_allclose(merged, (u[:, :2] * [4, 3]) @ v[:, :2].T, atol=1e-6)


def test_matrices_count_their_memory():
    """A plan is told what the decompositions take: several matrices of the shorter side, whatever the longer one."""
    for method in ("tsv", "iso_c"):
        cls = methods.get(method)()
        assert cls.granularity((100, 2048)) == "tensor"
        assert cls.granularity((2048,)) == "block"
        wide = cls.working_bytes(3, 32000 * 2048, 2048)
        assert 6 * 8 * 2048**2 < wide < 20 * 8 * 2048**2
        assert wide == cls.working_bytes(3, 32000 * 2048, 32000)


@pytest.mark.parametrize("method", ["tsv", "iso_c"])
def test_threads_do_not_change_a_bit(method, tmp_path):
    """Whatever they do at the same time, and however many threads NumPy's linear algebra would take by itself."""
    rng = np.random.default_rng(6)
    for name in ("base", "a", "b"):
        tensors = {f"layer{k}/kernel": rng.standard_normal((200, 150)).astype(np.float32) for k in range(4)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "base")]

    results = []
    for threads, blas in ((1, 1), (3, 2)):
        with threadpool_limits(blas, user_api="blas"):
            out = tmp_path / f"{threads}.safetensors"
            gw.merge(paths[:2], base=paths[2], method=method, output=out, threads=threads)
            results.append(out.read_bytes())

    assert results[0] == results[1]


# ------------------------------------------------------------------------------------------------------- with companions


def test_fisher_by_hand():
    """(1 · 0 + 3 · 4) / 4 = 3 and (3 · 4 + 1 · 8) / 4 = 5; where neither is sure, the mean."""
    merged = merge_arrays("fisher", [f32(0, 4, 1), f32(4, 8, 3)], companions=[f32(1, 3, 0), f32(3, 1, 0)])

    np.testing.assert_array_equal(merged, [3, 5, 2])
    sure = merge_arrays("fisher", [f32(0), f32(4)], companions=[f32(1), f32(1)], weight=[3, 1])
    np.testing.assert_array_equal(sure, [1])


def test_fisher_of_a_single_number(tmp_path):
    """A temperature, say, which is a tensor of no axes, from arrays and from files."""
    numbers, squares = [np.float32(0), np.float32(4)], [np.float32(1), np.float32(3)]
    assert merge_arrays("fisher", numbers, companions=squares) == 3
    for kind, values in (("model", numbers), ("fisher", squares)):
        for i, value in enumerate(values):
            save_file({"scale": np.array(value)}, tmp_path / f"{kind}{i}.safetensors")
    models, fisher = ([tmp_path / f"{kind}{i}.safetensors" for i in range(2)] for kind in ("model", "fisher"))

    out = gw.merge(models, method="fisher", fisher=[str(path) for path in fisher], output=tmp_path / "out.safetensors")

    assert load_file(out)["scale"] == 3


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("fisher", [], r"fisher needs 2 companions \(fisher\) of shape \(2,\), one for each model; found none"),
        ("fisher", [f32(1, 1)], r"found \(2,\)$"),
        ("fisher", [f32(1, 1), f32(1)], r"found \(2,\), \(1,\)$"),
        ("linear", [f32(1, 1), f32(1, 1)], "linear takes no companions"),
    ],
)
def test_companions_are_one_for_each_model(method, given, said):
    with pytest.raises(OptionError, match=said):
        merge_arrays(method, [f32(0, 4), f32(4, 8)], companions=given)


def test_fisher_refuses_negative_numbers():
    """Squares are not negative: the file is another."""
    with pytest.raises(OptionError, match="negative"):
        merge_arrays("fisher", [f32(0), f32(4)], companions=[f32(1), f32(-1)])


def test_regmean_by_hand():
    """One unit, two inputs that do not correlate: each input counts as much as it is large; one that is always 0 is averaged."""
    a, b = f32([2, 5, 1]), f32([4, 1, 3])
    grams = [np.diag(f32(1, 3, 0)), np.diag(f32(1, 1, 0))]

    merged = merge_arrays("regmean", [a, b], companions=grams, unit_axis=0)

    np.testing.assert_allclose(merged, [[3, 4, 2]], rtol=1e-6)


@pytest.mark.parametrize("axis", [0, -1])
@pytest.mark.parametrize("shape", [(5, 7), (3, 3, 2, 4)], ids=str)
def test_regmean_solves_the_equations(shape, axis):
    """As an inverse in float64 does, in both layouts."""
    rng = np.random.default_rng(3)
    models = list(rng.standard_normal((3, *shape)))
    unit = in_units(models[0], axis).shape[1]
    data = rng.standard_normal((3, 2 * unit, unit))
    grams = [x.T @ x / len(x) for x in data]
    for options in ({}, {"alpha": 0.0}, {"weight": [1, 2, 0.5]}):
        merged = merge_arrays("regmean", models, companions=grams, unit_axis=axis, **options)

        expected = REFERENCES["regmean"](models, None, companions=grams, axis=axis, **options)
        np.testing.assert_allclose(merged, expected, rtol=0, atol=1e-8)


def test_regmean_of_linear_models_is_their_joint_least_squares():
    """Two models that each fit their own data exactly: the merged one has the least error that any linear model has on both."""
    rng = np.random.default_rng(4)
    inputs = [rng.standard_normal((200, 6)) * scale for scale in ([3, 1, 1, 1, 0.1, 2], [0.1, 1, 2, 1, 3, 1])]
    models = list(rng.standard_normal((2, 6, 3)))  # Keras's layout: inputs, outputs
    answers = [x @ w for x, w in zip(inputs, models, strict=True)]

    merged = merge_arrays("regmean", models, companions=[x.T @ x / len(x) for x in inputs], alpha=1.0)

    best = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(answers), rcond=None)[0]
    np.testing.assert_allclose(merged, best, atol=1e-3)  # α is 0.99999 at most

    def error(w):
        return sum(((x @ w - y) ** 2).sum() for x, y in zip(inputs, answers, strict=True))

    assert error(merged) < 0.5 * error(sum(models) / 2)


def test_regmean_with_fewer_samples_than_inputs():
    """Singular matrices are no obstacle, and what no data speaks of keeps the mean."""
    rng = np.random.default_rng(5)
    models = list(rng.standard_normal((2, 9, 2)).astype(np.float32))
    sample = rng.standard_normal((1, 9)).astype(np.float32)

    merged = merge_arrays("regmean", models, companions=[sample.T @ sample] * 2, alpha=1.0)

    np.testing.assert_allclose(merged, sum(models) / 2, atol=1e-4)


def test_regmean_refuses_what_is_no_gram_matrix():
    """A matrix that is not symmetric was made by something else."""
    with pytest.raises(OptionError, match="Gram"):
        merge_arrays("regmean", [np.eye(2)] * 2, companions=[f32([1, 5], [0, 1]), np.eye(2, dtype=np.float32)])


@pytest.mark.parametrize("value", ["", "one.safetensors", ["a", ""], ["a", "b", "c"]], ids=str)
def test_companions_are_one_file_per_model(value):
    """Any other number is refused in one sentence that says what is wanted."""
    with pytest.raises(OptionError, match="fisher"):
        companion_files("fisher", {"fisher": value}, ["a", "b"])


def test_companions_in_their_order():
    """From a list, or by the names of the models; none for methods that need none."""
    assert companion_files("fisher", {"fisher": ["x", "y"]}, ["a", "b"]) == ("x", "y")
    assert companion_files("regmean", {"gram": {"b": "y", "a": "x"}}, ["a", "b"]) == ("x", "y")
    assert companion_files("fisher", {"fisher": "x"}, ["a"]) == ("x",)
    assert companion_files("linear", {}, ["a", "b"]) == ()

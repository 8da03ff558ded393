"""Laws that every merge method keeps, a comparison with plain NumPy, and one example each, worked out by hand."""

import itertools
import warnings
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference_methods import REFERENCES

from graftwork import methods
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.methods.arrays import merge_arrays
from graftwork.methods.base import CHUNK, Base, Block
from graftwork.methods.options import Options, Place, json_schema, option_rows

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


@dataclass(frozen=True)
class Case:
    """A method and what is true of it.

    Attributes:
        method: Its name.
        options: Options to run the laws with.
        variants: Further options, to compare with the reference.
        counts: Numbers of models it is tried with.
        symmetric: Whether the order of the models is immaterial.
        keeps_equal: Whether a model merged with itself (and differing from the base) comes out bit for bit.
        averages: Whether scaling all weights changes nothing.
        whole: Whether an element depends on the whole tensor: factors follow from lengths and angles.
        with_base: Whether it is tried with a base, for methods that may have one.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    variants: tuple[dict[str, Any], ...] = ()
    counts: tuple[int, ...] = (1, 2, 7)
    symmetric: bool = True
    keeps_equal: bool = True
    averages: bool = False
    whole: bool = False
    with_base: bool = False

    @property
    def has_base(self):
        return self.with_base or methods.get(self.method).base is Base.REQUIRED

    @property
    def rounding(self):
        """What is left of a result of 0: the rounding of factors, times the size of elements."""
        return 1e-13 if self.whole else 0.0


CASES = [
    Case(
        "linear",
        variants=({"weight": 0.3}, {"weight": "ramp"}, {"weight": 0.3, "normalize": False}),
        averages=True,
    ),
    Case("slerp", {"t": 0.3}, variants=({"t": 0.0}, {"t": 1.0}), counts=(2,), symmetric=False, whole=True),
    *[
        Case(
            "nuslerp",
            options,
            variants=({"weight": "ramp"}, {"weight": [1.0, -1.0]}, {"weight": [2.0, 1.0], "nuslerp_flatten": False}),
            counts=(2,),
            averages=True,
            whole=True,
            with_base=with_base,
        )
        for with_base, options in (
            (False, {}),
            (True, {}),
            (False, {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
            (True, {"nuslerp_flatten": False}),
        )
    ],
    # the directions of more models may balance out, which is refused
    *[
        Case(
            "multislerp",
            variants=({"weight": "ramp"}, {"weight": 0.3, "normalize_weights": False}, {"eps": 0.0}),
            counts=(1, 2),
            averages=True,
            whole=True,
            with_base=with_base,
        )
        for with_base in (False, True)
    ],
    # between opposite models there is no one mean: the first is taken
    Case(
        "karcher",
        variants=({"weight": "ramp"}, {"max_iter": 50, "tol": 1e-9}, {"max_iter": 0}),
        symmetric=False,
        averages=True,
        whole=True,
    ),
    Case("model_stock", {"filter_wise": True}, variants=({},), counts=(2, 7), whole=True),
    Case(
        "geometric_median",
        variants=({"weight": "ramp"}, {"smoothing": 0.5}, {"max_iter": 3}),
        averages=True,
        whole=True,
    ),
    # the largest singular vectors of each model, of which those of two equal models are the same
    Case(
        "tsv",
        variants=({"weight": "ramp", "lambda_": 0.7}, {"weight": -0.5}),
        keeps_equal=False,
        whole=True,
    ),
    Case("iso_c", variants=({"weight": "ramp", "lambda_": 0.7}, {"weight": -0.5}), keeps_equal=False, whole=True),
    Case("fisher", variants=({"weight": "ramp"}, {"floor": 1.0}), averages=True),
    Case("regmean", variants=({"weight": "ramp"}, {"alpha": 0.1}), averages=True, whole=True),
    Case("passthrough", variants=({"scale": -0.3},), counts=(1,)),
    Case(
        "task_arithmetic",
        {"normalize": True},
        variants=({}, {"weight": "ramp", "lambda_": 0.7}, {"weight": -0.25}),
        averages=True,
    ),
    Case(
        "ties",
        {"density": 1.0},
        variants=(
            {},
            {"density": 0.5, "lambda_": 1.5},
            {"density": "ramp", "weight": "ramp"},
            {"density": 0.4, "election": "unweighted", "weight": "ramp"},
            {"density": 0.4, "election": "count", "weight": "ramp"},
            {"density": 0.7, "normalize": False, "weight": -0.5},
            {"density": "ramp", "rescale": True, "weight": "ramp"},
        ),
        averages=True,
    ),
    Case(
        "dare_linear",
        {"density": 0.5, "normalize": True},
        variants=(
            {},
            {"density": "ramp", "weight": "ramp"},
            {"rescale": False},
            {"rescale_norm": "l1", "lambda_": 0.5},
        ),
        symmetric=False,
        keeps_equal=False,
        averages=True,
    ),
    Case(
        "dare_ties",
        {"density": 0.5},
        variants=(
            {"density": 1.0},
            {"rescale_norm": "l1", "weight": "ramp"},
            {"rescale": False, "election": "count"},
            {"density": "ramp", "election": "unweighted", "normalize": False},
        ),
        symmetric=False,
        keeps_equal=False,
        averages=True,
    ),
    Case("median"),
    # fewer than 4 models, of which a quarter is none, are refused
    Case("trimmed_mean", variants=({"trim": 0.4}, {"trim": 0.0}), counts=(5, 7)),
    Case(
        "ema",
        variants=({"decay": 0.0}, {"decay": 0.5}, {"decay": 0.99, "debias": True}),
        symmetric=False,
    ),
    Case("swa", variants=({"start": 1}, {"every": 3}, {"start": 1, "every": 2}), counts=(2, 7)),
    # a sum of task vectors, which k = 2 models at least have to agree on
    Case(
        "consensus",
        variants=({}, {"tall_lambda": "ramp", "k": 1}, {"weight": "ramp", "lambda_": 0.7}, {"weight": -0.5, "k": 0}),
        counts=(2, 7),
        keeps_equal=False,
    ),
    Case(
        "della_linear",
        {"density": 0.5, "normalize": True},
        variants=(
            {},
            {"density": 1.0},
            {"density": "ramp", "epsilon": 0.1, "weight": "ramp", "lambda_": 0.5},
            {"density": 0.3, "epsilon": 0.29, "rescale": False},
            {"rescale_norm": "density"},
        ),
        symmetric=False,
        keeps_equal=False,
        averages=True,
        whole=True,
    ),
    Case(
        "della",
        {"density": 0.5},
        variants=(
            {"epsilon": 0.0, "weight": "ramp"},
            {"density": "ramp", "epsilon": 0.1, "rescale_norm": "density", "election": "count"},
            {"rescale": False, "election": "unweighted", "normalize": False},
        ),
        symmetric=False,
        keeps_equal=False,
        averages=True,
        whole=True,
    ),
    Case(
        "breadcrumbs",
        {"density": 1.0, "normalize": True},
        variants=(
            {},
            {"density": 0.3, "gamma": 0.2},
            {"density": 0.9, "gamma": 0.5, "rescale": True, "lambda_": 0.5},
            {"density": "ramp", "gamma": "ramp", "weight": "ramp", "rescale": True},
        ),
        averages=True,
    ),
    Case(
        "breadcrumbs_ties",
        {"density": 1.0, "normalize": True},
        variants=(
            {},
            {"density": 0.3, "gamma": 0.2, "weight": "ramp", "normalize": True},
            {"density": "ramp", "gamma": "ramp", "rescale": True, "election": "count"},
            {"density": 0.5, "election": "unweighted", "weight": -0.5, "lambda_": 2.0},
        ),
        averages=True,
    ),
    Case("sce", variants=({"select_topk": 0.1}, {"select_topk": 0.5}), counts=(2, 7), whole=True),
    Case("arcee_fusion", variants=({},), counts=(1,), keeps_equal=False, whole=True),
    Case("ram", variants=({"epsilon": 0.5}, {"epsilon": 0.0})),
    Case("ramplus_tl", variants=({"epsilon": 1.0}, {"epsilon": 1.0, "r": 0.5, "alpha": 3.0})),
    Case("nearswap", {"t": 0.25}, variants=({}, {"t": 0.0}, {"t": 1e-7}, {"t": 99.0}), counts=(1,), keeps_equal=False),
]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.method)
quick = settings(max_examples=25, deadline=None)


def those(**wanted):
    """Cases of which something is true."""
    cases = [case for case in CASES if all(getattr(case, name) == value for name, value in wanted.items())]
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.method)


def eighths(shape, dtype=np.float32):
    """Arrays of multiples of 1/8: differences are exact and ties are common."""
    return hnp.arrays(np.int8, shape, elements=st.integers(-64, 64)).map(lambda a: (a / 8).astype(dtype))


@st.composite
def inputs(draw, case, dtypes=(np.float32, np.float64), least=0):
    """Models of one shape and, for methods that need one, their base."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=least, max_side=6))
    dtype = draw(st.sampled_from(dtypes))
    count = draw(st.sampled_from(case.counts))
    arrays = [draw(eighths(shape, dtype)) for _ in range(count + 1)]
    return arrays[1:], arrays[0] if case.has_base else None


def resolved(options, n):
    """Write "ramp" out as one value per model."""
    return {
        name: [(i + 1) / (n + 1) for i in range(n)] if value == "ramp" else value for name, value in options.items()
    }


def run(case, models, base, **more):
    return merge_arrays(
        case.method, models, base=base, **known(case, models), **{**resolved(case.options, len(models)), **more}
    )


def known(case, models):
    """What companions say of models, for methods that need them: made of the models, so that equal models have equal ones."""
    option = methods.get(case.method).companion
    models = [np.clip(np.nan_to_num(x.astype(np.float64)), -9, 9) for x in models]
    if option == "fisher":
        return {"companions": [np.abs(x) + 0.125 for x in models]}
    if option == "gram" and models[0].ndim > 1 and models[0].size:
        matrices = [np.moveaxis(x, -1, 0).reshape(x.shape[-1], -1) for x in models]
        return {"companions": [m.T @ m + np.eye(m.shape[1]) for m in matrices]}
    return {}


def test_every_method_has_a_row():
    """No method escapes the laws below, nor the comparison."""
    assert {case.method for case in CASES} == set(methods.METHODS) == set(REFERENCES)


# ----------------------------------------------------------------------------------------------------------------- laws


@every_case
@quick
@given(data=st.data())
def test_shape_and_dtype_are_kept_and_inputs_untouched(case, data):
    """For every dtype, down to no element at all."""
    models, base = data.draw(inputs(case, DTYPES))
    before = [array.copy() for array in models]

    merged = run(case, models, base)

    assert merged.shape == models[0].shape
    assert merged.dtype == models[0].dtype
    for array, copy in zip(models, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@those(keeps_equal=True)
@quick
@given(data=st.data())
def test_a_model_merged_with_itself_is_unchanged(case, data):
    """Bit for bit where the method averages models; to one rounding where differences from a base are added up."""
    (model, *_), base = data.draw(inputs(case))
    model = (model / 3).astype(model.dtype)  # not a multiple of 1/8
    n = data.draw(st.sampled_from(case.counts))

    merged = run(case, [model] * n, base)

    if case.has_base:
        # base + mean of n equal differences, n + 2 roundings of numbers up to 16
        np.testing.assert_allclose(merged, model, rtol=0, atol=(n + 2) * 16 * np.finfo(model.dtype).eps)
    else:
        np.testing.assert_array_equal(merged, model)


@those(method="linear")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mean_of_equal_models_keeps_every_bit(case, dtype):
    """With awkward weights and numbers of all sizes."""
    rng = np.random.default_rng(0)
    model = (rng.standard_normal(5000) * 10.0 ** rng.uniform(-4, 4, 5000)).astype(dtype)

    for weight in ([0.1, 0.2, 0.7], [1, 1, 1], [3, -1, 0.3]):
        np.testing.assert_array_equal(merge_arrays("linear", [model] * 3, weight=weight), model)


@those(symmetric=True)
@quick
@given(data=st.data())
def test_order_of_the_models_does_not_matter(case, data):
    """Symmetric methods give one answer however the recipe lists its sources."""
    models, base = data.draw(inputs(case))

    # sums of multiples of 1/8 are exact in float64 in any order; one division and one rounding follow
    result, reversed_ = run(case, models, base), run(case, models[::-1], base)
    np.testing.assert_allclose(result, reversed_, rtol=1e-6, atol=case.rounding)


@those(averages=True)
@quick
@given(data=st.data(), factor=st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_normalized_weights_changes_nothing(case, data, factor):
    """By powers of two, bit for bit."""
    models, base = data.draw(inputs(case))
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(models), max_size=len(models)))

    merged = run(case, models, base, weight=[float(w) for w in weights])

    np.testing.assert_array_equal(run(case, models, base, weight=[factor * w for w in weights]), merged)


@those(has_base=True)
@quick
@given(data=st.data())
def test_models_that_equal_the_base_give_the_base(case, data):
    """Bit for bit, whatever the options."""
    (model, *_), _ = data.draw(inputs(case))
    base = (model / 3).astype(model.dtype)
    options = data.draw(st.sampled_from(case.variants))
    n = data.draw(st.sampled_from(case.counts))

    same = [base] * n
    merged = merge_arrays(case.method, same, base=base, **known(case, same), **resolved(options, n))

    np.testing.assert_array_equal(merged, base)


@those(has_base=True)
@quick
@given(data=st.data(), shift=st.integers(-8, 8))
def test_task_vectors_do_not_know_where_they_start(case, data, shift):
    """Moving the base and all models by the same amount moves the result by it (in float64, to rounding)."""
    models, base = data.draw(inputs(case, [np.float64]))
    moved = [model + shift for model in models]

    result = run(case, moved, base + shift)

    np.testing.assert_allclose(result, run(case, models, base) + shift, rtol=0, atol=1e-12)


@every_case
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_do_not_change_a_bit(case, dtype):
    """One block, or many that end inside a chunk."""
    size, n = 3 * CHUNK + 17, case.counts[-1]
    rng = np.random.default_rng(1)
    base, *models = rng.standard_normal((n + 1, size)).astype(dtype)
    for options in (case.options, *case.variants):
        results = [
            merge_arrays(
                case.method,
                models,
                base=base if case.has_base else None,
                **known(case, models),
                block_size=block_size,
                **resolved(options, n),
            )
            for block_size in (1, 2 * CHUNK - 5, 1 << 30)
        ]
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])


# ------------------------------------------------------------------------------------------------------- the reference


@every_case
@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_formula_is_computed(case, kind, dtype, size):
    """As plain NumPy computes it, with ties in magnitude and without."""
    rng = np.random.default_rng(size)
    for n in case.counts:
        for options in (case.options, *case.variants):
            if kind == "random":
                base, *models = rng.standard_normal((n + 1, size)).astype(dtype)
            else:
                base, *models = (rng.integers(-8, 9, (n + 1, size)) / 8).astype(dtype)
            base = base if case.has_base else None
            options = resolved(options, n)

            options |= known(case, models)
            merged = merge_arrays(case.method, models, base=base, seed=3, name="a/b", **options)

            chance = {"seed": 3, "name": "a/b"} if case.method.startswith(("dare", "della")) else {}
            expected = REFERENCES[case.method](models, base, **options, **chance)
            # both compute in float64; ours is rounded to dtype once. Sums of n ≤ 7 terms up to about 10 that may cancel.
            tolerance = {np.float32: 1e-6, np.float64: 1e-14}[dtype]
            np.testing.assert_allclose(merged, expected, rtol=tolerance, atol=20 * tolerance, err_msg=str(options))


@quick
@given(data=st.data())
def test_ties_without_trimming_or_conflict_is_the_weighted_mean(data):
    """If all differences are positive, nothing is left to elect."""
    models, base = data.draw(inputs(next(case for case in CASES if case.method == "ties"), [np.float64]))
    models = [np.abs(model) + 0.125 + base for model in models]
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(models), max_size=len(models)))

    merged = merge_arrays("ties", models, base=base, density=1.0, weight=weights)

    np.testing.assert_allclose(merged, merge_arrays("linear", models, weight=weights), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("density", [1e-9, 0.1, 0.25, 0.999])
@pytest.mark.parametrize("size", [1, 10, 5000, 3 * CHUNK + 17])
def test_ties_keeps_exactly_as_many_as_asked(density, size):
    """However many are equal: at least one, and no more than int(density · size)."""
    x = np.random.default_rng(0).choice([-2.0, -1.0, 1.0, 2.0], size).astype(np.float32)

    merged = merge_arrays("ties", [x], base=np.zeros_like(x), density=density, block_size=CHUNK)

    assert np.count_nonzero(merged) == max(1, int(density * size))
    np.testing.assert_array_equal(merged[merged != 0], x[merged != 0])


def test_ties_over_the_whole_model_trims_tensors_together():
    """Two tensors as parts of one model: what survives is what survives in the two laid end to end."""
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal(CHUNK), 10 * rng.standard_normal(100)
    method = methods.get("ties")(density=0.1, trim="model")
    assert method.scope() == "model"
    reduction = method.reduction(1, CHUNK + 100, np.dtype(np.float64))
    blocks = [
        Block(
            x[None].copy(), np.zeros_like(x), np.empty_like(x), np.empty((0, x.size)), 0, offset, np.zeros(1, np.uint64)
        )
        for x, offset in ((first, 0), (second, CHUNK))
    ]
    again = True
    while again:
        local = reduction.local()
        for block in blocks:
            reduction.observe(block, local)
        again = reduction.end_pass([local])
    for block in blocks:
        method.combine(block, reduction.result())

    whole = np.concatenate([first, second])
    together = merge_arrays("ties", [whole], base=np.zeros_like(whole), density=0.1)
    np.testing.assert_array_equal(np.concatenate([block.out for block in blocks]), together)


def test_dare_keeps_the_mean():
    """What is dropped is made up for: the mean over many entries stays, within five standard deviations."""
    x, base = np.ones(100_000, np.float32), np.zeros(100_000, np.float32)
    p = 0.2

    merged = merge_arrays("dare_linear", [x], base=base, density=p)

    assert set(np.unique(merged)) == {0.0, np.float32(1 / p)}
    assert abs(merged.mean() - 1) < 5 * np.sqrt((1 - p) / p / x.size)
    rescaled = merge_arrays("dare_linear", [x], base=base, density=p, rescale_norm="l1")
    np.testing.assert_allclose(np.abs(rescaled).sum(dtype=np.float64), x.size, rtol=1e-6)


def test_dare_depends_on_seed_and_name():
    """And on nothing else: the same call gives the same bytes."""
    x, base = np.ones(1000, np.float32), np.zeros(1000, np.float32)
    first = merge_arrays("dare_linear", [x], base=base, seed=1, name="a")

    np.testing.assert_array_equal(merge_arrays("dare_linear", [x], base=base, seed=1, name="a"), first)
    assert (merge_arrays("dare_linear", [x], base=base, seed=2, name="a") != first).any()
    assert (merge_arrays("dare_linear", [x], base=base, seed=1, name="b") != first).any()


@pytest.mark.parametrize("rescale_norm", ["l1", "density"])
@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_ranks_within_units(method, rescale_norm):
    """Whatever the blocks; in PyTorch's layout the units of a matrix are its rows, in Keras's its columns."""
    base, *models = np.random.default_rng(0).standard_normal((3, 5, 30, 70)).astype(np.float32)
    options = {"density": [0.4, 0.7], "epsilon": [0.1, 0.25], "rescale_norm": rescale_norm, "seed": 3}
    expected = REFERENCES[method](models, base, **options)

    for block_size in (1, 1000, 1 << 20):
        merged = merge_arrays(method, models, base=base, block_size=block_size, **options)
        np.testing.assert_allclose(merged, expected, rtol=1e-6, atol=2e-6)

    turned = [np.moveaxis(array, -1, 0) for array in (base, *models)]
    same = merge_arrays(method, turned[1:], base=turned[0], unit_axis=0, **options)
    np.testing.assert_array_equal(np.moveaxis(same, 0, -1), merged)


def test_della_keeps_larger_entries_more_often():
    """In units of three with probabilities of 0.35, 0.5 and 0.65, within five standard deviations of each."""
    x = np.tile(np.array([[2], [3], [-1]], np.float32), (1, 20_000))

    merged = merge_arrays("della_linear", [x], base=np.zeros_like(x), rescale_norm="density")

    for row, p in zip(merged, (0.5, 0.65, 0.35), strict=True):
        assert abs(np.count_nonzero(row) / row.size - p) < 5 * np.sqrt(p * (1 - p) / row.size)
    np.testing.assert_allclose(merged[merged != 0], (x / [[0.5], [0.65], [0.35]])[merged != 0], rtol=1e-6)


def test_passthrough_copies_every_bit():
    """NaN with its payload, signed zeros, subnormals."""
    bits = np.array([0x7FC12345, 0xFFC00001, 0x80000000, 1, 0x7F800000], np.uint32)

    merged = merge_arrays("passthrough", [bits.view(np.float32)])

    np.testing.assert_array_equal(merged.view(np.uint32), bits)


# -------------------------------------------------------------------------------------------------------------- by hand


def f32(*values):
    return np.array(values, np.float32)


def test_linear_by_hand():
    """(1 · 1 + 3 · 5) / 4 = 4."""
    np.testing.assert_array_equal(merge_arrays("linear", [f32(1, 8), f32(5, 0)], weight=[1, 3]), [4, 2])


def test_slerp_by_hand():
    """Half way between two perpendicular vectors of length 2 and 4: √½ of both. Opposite ones go straight."""
    half = np.float32(np.sqrt(0.5))

    np.testing.assert_allclose(merge_arrays("slerp", [f32(2, 0), f32(0, 4)]), [2 * half, 4 * half], rtol=1e-7)
    np.testing.assert_allclose(merge_arrays("slerp", [f32(0, 4)], base=f32(2, 0), t=1 / 3)[0], 2 * np.sin(np.pi / 3))
    np.testing.assert_array_equal(merge_arrays("slerp", [f32(2, 0), f32(-2, 0)], t=0.25), [1, 0])
    np.testing.assert_array_equal(merge_arrays("slerp", [f32(0, 0), f32(2, 4)], t=0.5), [1, 2])


def test_task_arithmetic_by_hand():
    """1 + 2 · (1 · 2 - 0.5 · 4) = 1;  1 + 2 · (1 · 1 - 0.5 · 0) = 3."""
    merged = merge_arrays("task_arithmetic", [f32(3, 2), f32(5, 1)], base=f32(1, 1), weight=[1, -0.5], lambda_=2)

    np.testing.assert_array_equal(merged, [1, 3])


def test_ties_by_hand():
    """The worked example of the docs: conflict, agreement, trimmed, untouched."""
    a, b = f32(4, 2, 1, 0), f32(-6, 4, 0, 0)

    merged = merge_arrays("ties", [a, b], base=np.zeros(4, np.float32), weight=[1, 1], density=0.5, lambda_=2)

    np.testing.assert_array_equal(merged, [-12, 6, 0, 0])


def test_ties_elections_by_hand():
    """Weights 6, 1, 1 and differences 1, -2, -3: by weighted sum -1 loses; by signs, weights or not, two beat one."""
    models, base = [f32(1), f32(-2), f32(-3)], f32(0)
    merged = {
        election: merge_arrays("ties", models, base=base, weight=[6, 1, 1], density=1.0, election=election)[0]
        for election in ("sum", "unweighted", "count")
    }

    assert merged == {"sum": 1, "unweighted": -2.5, "count": -2.5}


def test_dare_by_hand():
    """With density 1 nothing is dropped: `dare_linear` is task arithmetic, `dare_ties` is `ties` without trimming."""
    models, base = [f32(3, -2, 1), f32(5, 1, 1)], f32(1, 1, 1)

    np.testing.assert_array_equal(merge_arrays("dare_linear", models, base=base, density=1.0), [7, -2, 1])
    np.testing.assert_array_equal(merge_arrays("dare_ties", models, base=base, density=1.0), [4, -2, 1])


def test_median_by_hand():
    """1, 9, 2 in order are 1, 2, 9; with 4 they are 1, 2, 4, 9, between whose middle two is 3."""
    models = [f32(1), f32(9), f32(2), f32(4)]

    assert merge_arrays("median", models[:3]) == 2
    assert merge_arrays("median", models) == 3
    assert merge_arrays("median", models[:2]) == 5
    assert merge_arrays("median", models[:1]) == 1


def test_trimmed_mean_by_hand():
    """Of 1, 2, 4, 9, 100 one goes at each end: (2 + 4 + 9) / 3 = 5. With 0.4 two go, and 4 is left."""
    models = [f32(100), f32(2), f32(9), f32(1), f32(4)]

    assert merge_arrays("trimmed_mean", models) == 5
    assert merge_arrays("trimmed_mean", models, trim=0.4) == 4
    assert merge_arrays("trimmed_mean", models, trim=0) == np.float32(116 / 5)


@pytest.mark.parametrize("n", [3, 4, 6, 7, 9, 100])
def test_trimmed_mean_says_how_much_to_trim(n):
    """And takes what it says; a little less is refused with the same words."""
    models = [f32(i * i) for i in range(n)]
    with pytest.raises(OptionError, match="leaves out none of") as error:
        merge_arrays("trimmed_mean", models, trim=0.99 / n)
    advised = float(str(error.value).split("set it to ")[1].split()[0])

    assert merge_arrays("trimmed_mean", models, trim=advised) < np.float32((n - 1) * (2 * n - 1) / 6)


def test_trimmed_mean_counts_in_decimals():
    """0.29 of 100 models is 29, though 0.29 · 100 is 28.999999999999996: 29 … 70 are left, whatever the 29 at either end are."""
    models = [f32(i) for i in range(100)]
    models[99] = f32(1e6)

    assert merge_arrays("trimmed_mean", models, trim=0.29) == 49.5
    assert merge_arrays("trimmed_mean", [*models[:28], f32(-1e6), *models[29:]], trim=0.29) == 49.5


@pytest.mark.parametrize("method", ["median", "trimmed_mean"])
def test_what_is_not_finite_is_ordered_or_said(method):
    """Infinity is one more great number, and NaN in one model is NaN in the result, wherever in the order it would have gone."""
    models = [f32(1, 1, 1), f32(2, 2, 2), f32(3, 3, 3), f32(4, 4, np.nan), f32(np.inf, -np.inf, 5)]

    np.testing.assert_array_equal(merge_arrays(method, models), [3, 2, np.nan])


def test_ema_by_hand():
    """8 → (8 + 4) / 2 = 6 → (6 + 1) / 2 = 3.5; without bias (¼ · 8 + ½ · 4 + 1 · 1) / (¼ + ½ + 1) = 20 / 7."""
    models = [f32(8), f32(4), f32(1)]

    assert merge_arrays("ema", models, decay=0.5) == 3.5
    assert merge_arrays("ema", models, decay=0.5, debias=True) == np.float32(20 / 7)
    assert merge_arrays("ema", models, decay=0) == 1


def test_swa_by_hand():
    """Without the first one (2 + 3 + 7) / 3 = 4, of the others every second one (2 + 7) / 2 = 4.5."""
    models = [f32(np.nan), f32(2), f32(3), f32(7)]

    assert merge_arrays("swa", models, start=1) == 4
    assert merge_arrays("swa", models, start=1, every=2) == 4.5
    assert merge_arrays("swa", models, start=3) == 7


def test_statistics_count_as_their_checkpoints_do():
    """Weights of BatchNorm's averages in a moving average and in a mean of some checkpoints."""
    assert methods.get("ema")(decay=0.5).statistic_weights(3) == (0.25, 0.25, 0.5)
    assert methods.get("ema")(decay=0.5, debias=True).statistic_weights(3) == (0.25, 0.5, 1)
    assert methods.get("swa")(start=1, every=2).statistic_weights(5) == (0, 1, 0, 1, 0)


def test_consensus_by_hand():
    """Task vectors 4, 3, -1, one column each; the sum, who outweighs half of the others' sum, and what is left with k = 2.

    ========  ==========  =========  =========  ============
    τ         5, 0, 0     4, 4, 0    4, -4, 1   2, 0.5, 0.5
    sum       5           8          1          3
    others    0, 5, 5     4, 4, 8    -3, 5, 0   1, 2.5, 2.5
    needs it  first       two        all        first
    k = 2     0           8          1          0
    ========  ==========  =========  =========  ============
    """
    base = f32(1, 1, 1, 1)
    models = [base + f32(5, 4, 4, 2), base + f32(0, 4, -4, 0.5), base + f32(0, 0, 1, 0.5)]

    def merged(**options):
        return list(merge_arrays("consensus", models, base=base, tall_lambda=0.5, **options))

    assert merged() == [1, 9, 2, 1]
    assert merged(lambda_=2) == [1, 17, 3, 1]
    assert merged(k=3) == [1, 1, 2, 1]
    assert merged(k=1) == merged(k=0) == [6, 9, 2, 4]
    # 0.5 is 0.2 of 2.5, just enough
    assert list(merge_arrays("consensus", models, base=base, tall_lambda=[0.5, 0.2, 0.5])) == [1, 9, 2, 4]
    assert list(merge_arrays("consensus", models, base=base, tall_lambda=1, weight=[1, 0, 0])) == [1, 1, 1, 1]


def test_della_by_hand():
    """With density 1 nothing is dropped: `della_linear` is task arithmetic, `della` is `ties` without trimming."""
    models, base = [f32(3, -2, 1), f32(5, 1, 1)], f32(1, 1, 1)

    np.testing.assert_array_equal(merge_arrays("della_linear", models, base=base, density=1.0), [7, -2, 1])
    np.testing.assert_array_equal(merge_arrays("della", models, base=base, density=1.0), [4, -2, 1])


def test_breadcrumbs_by_hand():
    """Of 5, 4, -3, 2, 1 the largest is left out and the next two stay; with `rescale` their 7 becomes 15. A density of 0.8 fills up."""
    x, base = f32(2, 5, -3, 4, 1), np.zeros(5, np.float32)

    def merged(**options):
        return merge_arrays("breadcrumbs", [x], base=base, **options).tolist()

    assert merged(density=0.4, gamma=0.2) == [0, 0, -3, 4, 0]
    assert merged(density=0.4, gamma=0.2, rescale=True) == f32(0, 0, -45 / 7, 60 / 7, 0).tolist()
    assert merged(density=0.8, gamma=0.4) == [2, 0, -3, 4, 1]
    assert merge_arrays("breadcrumbs", [f32(3)], base=f32(1)) == [3]


def test_breadcrumbs_ties_by_hand():
    """Left of a: 3, 2 (after 9); of b: -4, 1 (after 8). 3 - 4 elects minus, 2 stands alone, so does 1."""
    a, b = f32(3, 2, 9, 0), f32(-4, 0, 8, 1)

    merged = merge_arrays("breadcrumbs_ties", [a, b], base=np.zeros(4, np.float32), density=0.5, gamma=0.25)

    np.testing.assert_array_equal(merged, [-4, 2, 0, 1])


def test_arcee_fusion_by_hand():
    """One unit, so KL is a common factor: differences 0, 1, 1, 2, 9 have quartiles 1, 1, 2 and the threshold 2.5."""
    merged = merge_arrays("arcee_fusion", [f32(0, -1, 1, 2, 9)], base=np.zeros(5, np.float32))

    np.testing.assert_array_equal(merged, [0, 0, 0, 0, 9])


def test_arcee_fusion_weighs_units():
    """Two outputs with the same differences: of the one whose softmax has changed more, more is taken."""
    rng = np.random.default_rng(0)
    delta = rng.standard_normal((500, 1)).astype(np.float32)
    base = np.hstack([np.zeros((500, 1)), 5 * rng.standard_normal((500, 1))]).astype(np.float32)

    merged = merge_arrays("arcee_fusion", [base + delta], base=base)

    np.testing.assert_allclose(merged, REFERENCES["arcee_fusion"]([base + delta], base))
    taken = (merged != base).sum(axis=0)
    assert taken.min() * 2 < taken.max()
    for block_size in (1, 1 << 20):
        np.testing.assert_array_equal(
            merge_arrays("arcee_fusion", [base + delta], base=base, block_size=block_size), merged
        )


def test_sce_by_hand():
    """a: 3, 1, 0, 2; b: -1, 1, 4, 2. Entries 1 and 3 vary (by 2 either side), the first counts: weights 9/10 and 1/10, + wins."""
    a, b, base = f32(4, 2, 1, 3), f32(0, 2, 5, 3), f32(1, 1, 1, 1)

    np.testing.assert_array_equal(merge_arrays("sce", [a, b], base=base, select_topk=0.5), [4, 1, 1, 1])
    # everything: squares 14 and 22; entry 1 is a's, entry 3 is b's, the others are both
    np.testing.assert_array_equal(merge_arrays("sce", [a, b], base=base), [4, 2, 5, 3])
    # both agree on 2, 1 with weights 4/5 and 1/5
    np.testing.assert_allclose(merge_arrays("sce", [f32(2), f32(1)], base=f32(0)), 4 / 5 * 2 + 1 / 5 * 1)


@pytest.mark.parametrize("select_topk", [1.0, 0.5])
def test_sce_weighs_small_task_vectors_as_it_does_large_ones(select_topk):
    """Down to differences whose squares float32 does not hold: the merged task vector is as many times smaller."""
    deltas = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    base = np.zeros(1000, np.float32)
    large = merge_arrays("sce", list(deltas), base=base, select_topk=select_topk)

    small = merge_arrays("sce", list(deltas * np.float32(2**-80)), base=base, select_topk=select_topk)

    np.testing.assert_array_equal(small, large * np.float32(2**-80))


def test_sce_takes_for_zero_what_is_left_of_models_that_count_for_nothing():
    """The weight of b is 10⁻⁸; where it stands alone its entry is divided by 10⁻⁶ and not by that."""
    a, b = f32(1e4, 0), f32(0, 1)

    merged = merge_arrays("sce", [a, b], base=f32(0, 0))

    np.testing.assert_allclose(merged, [1e4, 1e-2], rtol=1e-6)


def test_ram_by_hand():
    """Entry 1 was moved by a alone, 2 by both (mean of 2 and -4), 3 by b but not beyond ε, 4 by none."""
    a, b = f32(5, 3, 1, 1), f32(1, -3, 1.25, 1)

    np.testing.assert_array_equal(merge_arrays("ram", [a, b], base=f32(1, 1, 1, 1), epsilon=0.25), [5, 0, 1, 1])


def test_ramplus_by_hand():
    """a: 1 entry shared, 2 alone, ρ = 0.5, λ = 1 + 0.5 · 0.5; b: 1 shared, none alone, so its λ multiplies nothing."""
    a, b, base = f32(2, 5, -3), f32(4, 1, 1), f32(0, 1, 1)

    merged = merge_arrays("ramplus_tl", [a, b], base=base, r=0.5, alpha=1.0)

    np.testing.assert_array_equal(merged, [3, 6, -4])
    np.testing.assert_array_equal(merge_arrays("ramplus_tl", [a, b], base=base, r=0.5, alpha=0.0), [3, 5, -3])


def test_nearswap_by_hand():
    """Nearer than ½: the model's; farther: half a step towards it."""
    merged = merge_arrays("nearswap", [f32(1.25, 3, -7)], base=f32(1, 1, 1), t=0.5)

    np.testing.assert_array_equal(merged, [1.25, 1.5, 0.5])


@pytest.mark.parametrize("method", ["ram", "ramplus_tl", "nearswap"])
def test_what_is_not_a_number_is_not_taken_for_unmoved(method):
    """A NaN that was allowed shows in the result."""
    assert np.isnan(merge_arrays(method, [f32(np.nan)], base=f32(1))).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *(("ties", {"election": election, "density": 1.0}) for election in ("sum", "unweighted", "count")),
        ("ties", {"density": 0.5}),
        ("breadcrumbs_ties", {"gamma": 0.0, "normalize": True}),
        ("dare_ties", {"density": 1.0, "rescale_norm": "density"}),
        ("della", {"density": 1.0, "rescale_norm": "density"}),
    ],
)
def test_what_is_not_a_number_takes_no_side(method, options):
    """No sign wins where one of those who vote is NaN: the result shows it there, and the others' elsewhere."""
    models = [f32(2, np.nan, 4, 8), f32(2, 3, 4, 8), f32(2, 3, 4, 8)]

    merged = merge_arrays(method, models, base=f32(1, 1, 1, 1), **options)

    assert np.isnan(merged[1])
    np.testing.assert_array_equal(merged[3], 8)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ties", {"density": 0.5, "rescale": True}),
        ("breadcrumbs", {"density": 0.5, "rescale": True}),
        ("dare_linear", {"density": 0.5, "rescale_norm": "l1"}),
        ("dare_ties", {"density": 0.5, "rescale_norm": "l1"}),
        ("della", {"density": 0.5}),
        ("della_linear", {"density": 0.5}),
    ],
)
def test_a_norm_that_is_not_a_number_shows(method, options):
    """What is left of a task vector cannot be rescaled to a length that nobody knows; it was left as it was, or gave the base."""
    base = np.ones(64, np.float32)
    models = [base + np.arange(64, dtype=np.float32) % 7 - 3 for _ in range(2)]
    models[0][5] = np.nan

    merged = merge_arrays(method, models, base=base, **options)

    assert np.isnan(merged).all()


def test_passthrough_by_hand():
    """Half of it."""
    np.testing.assert_array_equal(merge_arrays("passthrough", [f32(3, -1)], scale=0.5), [1.5, -0.5])


# -------------------------------------------------------------------------------------------------------------- hostile


EXTREMES = [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan]


@every_case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (1, 1), (CHUNK + 1,)])
def test_extreme_arrays_do_not_crash(case, dtype, shape):
    """Results may not be finite; nothing is raised and nothing printed."""
    for value, n, options in itertools.product(EXTREMES, case.counts, (case.options, *case.variants)):
        array = np.full(shape, value, dtype)
        given = {"base": array if case.has_base else None, **known(case, [array] * n), **resolved(options, n)}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                merged = merge_arrays(case.method, [array] * n, **given)
            except Exception as error:
                error.add_note(f"{n} models of {value}, {options}")
                raise
        assert merged.shape == shape, (value, n, options)
        assert value != 0 or not merged.any(), (value, n, options)


@every_case
def test_one_bad_element_stays_where_it_is(case):
    """A NaN in one model touches no other position, for methods that look at positions one by one."""
    rng = np.random.default_rng(0)
    n = case.counts[-1]
    base, *models = rng.standard_normal((n + 1, 3 * CHUNK)).astype(np.float32)
    base = base if case.has_base else None
    if case.whole:
        pytest.skip("lengths and angles are those of the whole tensor")
    clean = run(case, models, base)
    models[0][7] = np.nan

    merged = run(case, models, base)

    np.testing.assert_array_equal(np.delete(merged, 7), np.delete(clean, 7))


# -------------------------------------------------------------------------------------------------------------- options

AB = ["a", "b"]


def test_options_by_model_and_tensor():
    """First match wins, mappings go by model names, the default is the method's own."""
    options = Options(
        "ties",
        {
            "density": [
                {"filter": "re:kern.l$", "value": {"b": 0.5, "default": 1}},
                {"filter": "enc/*", "value": [0.1, 0.2]},
            ],
            "lambda": 2,
        },
        AB,
    )

    assert options.for_tensor(Place("enc/x/kernel")).density == (1.0, 0.5)
    assert options.for_tensor(Place("enc/x/bias")).density == (0.1, 0.2)
    assert options.for_tensor(Place("dec/bias")).density == 0.2
    assert options.for_tensor(Place("dec/bias")).lambda_ == 2.0
    assert options.for_tensor(Place("enc/x/kernel")) is options.for_tensor(Place("dec/y/kernel"))
    assert options.unused_filters([Place("dec/kernel")]) == ["density: enc/*"]


def test_globs_are_over_the_whole_name_and_know_upper_case():
    """`*` crosses slashes; regular expressions are searched for."""
    options = Options(
        "slerp", {"t": [{"filter": "a*/k", "value": 0.1}, {"filter": "re:K$", "value": 0.2}, {"value": 0.3}]}, AB
    )

    assert [options.for_tensor(Place(name)).t for name in ("a/b/k", "xa/b/k", "a/K", "a")] == [0.1, 0.3, 0.2, 0.3]


REFUSALS = [
    ("ties", {"densty": 1}, "ties has no option 'densty'; did you mean 'density'?"),
    ("ties", {"density": 1.5}, "option 'density' of ties is 1.5; expected a number in (0, 1]"),
    ("ties", {"density": 0}, "option 'density' of ties is 0; expected a number in (0, 1]"),
    ("ties", {"density": "0.5"}, "option 'density' of ties is '0.5'; expected a number in (0, 1]"),
    ("ties", {"density": True}, "option 'density' of ties is True; expected a number in (0, 1]"),
    ("ties", {"weight": float("nan")}, "option 'weight' of ties is nan; expected a number"),
    (
        "ties",
        {"weight": [1, -1e308]},
        "option 'weight' of ties is -1e+308, too far from 1 to compute with; expected 0, or 1e-30 to 1e+30 in magnitude",
    ),
    (
        "dare_ties",
        {"density": 1e-320},
        "option 'density' of dare_ties is 1e-320, too far from 1 to compute with; expected 0, or 1e-30 to 1e+30 in magnitude",
    ),
    ("ties", {"weight": None}, "option 'weight' of ties is None; expected a number"),
    ("ties", {"weight": [1, 2, 3]}, "option 'weight' of ties has 3 values, but there are 2 models: a, b"),
    ("ties", {"weight": []}, "option 'weight' of ties has 0 values, but there are 2 models: a, b"),
    ("ties", {"weight": {"a": 1}}, "option 'weight' of ties has no value for b; add them, or a `default`"),
    (
        "ties",
        {"weight": {"a": 1, "c": 2}},
        "option 'weight' of ties names the model 'c', which is not merged; there are 'a', 'b'",
    ),
    ("ties", {"lambda": [1, 2]}, "option 'lambda' of ties is a list, but it is one value for all models: a number"),
    (
        "ties",
        {"lambda": {"a": 2}},
        "option 'lambda' of ties is a mapping, but it is one value for all models: a number",
    ),
    ("ties", {"lambda": 1, "lambda_": 2}, "option 'lambda' of ties is given twice"),
    ("ties", {"normalize": "yes"}, "option 'normalize' of ties is 'yes'; expected true or false"),
    ("ties", {"trim": "modl"}, "option 'trim' of ties is 'modl'; expected 'tensor' or 'model'; did you mean 'model'?"),
    (
        "ties",
        {"weight": [{"filter": "x", "value": "1"}]},
        "option 'weight' of ties for tensors 'x' is '1'; expected a number",
    ),
    (
        "ties",
        {"weight": [{"value": 1}, {"filter": "x", "value": 1}]},
        "entry 2 of option 'weight' of ties never counts, since entry 1 matches every tensor; put that one last",
    ),
    (
        "ties",
        {"weight": [{"filter": "re:(", "value": 1}]},
        "the filter of option 'weight' of ties for tensors 're:(' is not a regular expression: "
        "missing ), unterminated subpattern at position 0",
    ),
    (
        "ties",
        {"weight": [{"filtr": "x", "value": 1}]},
        "entry 1 of option 'weight' of ties has the keys filtr, value; expected value, and filter, role or layer",
    ),
    (
        "linear",
        {"weight": [1, -1]},
        "option 'weight' of linear is 1, -1, which sums to 0 and cannot be normalized; "
        "change a weight or set normalize: false",
    ),
    (
        "trimmed_mean",
        {},
        "option 'trim' of trimmed_mean is 0.25, which leaves out none of 2 models; set it to 0 for the mean of all",
    ),
    ("trimmed_mean", {"trim": 0.5}, "option 'trim' of trimmed_mean is 0.5; expected a number in [0, 0.5)"),
    ("ema", {"decay": 1}, "option 'decay' of ema is 1; expected a number in [0, 1)"),
    ("swa", {"every": 0}, "option 'every' of swa is 0; expected a whole number in [1, inf)"),
    ("swa", {"start": 2}, "option 'start' of swa is 2, but the number of models is 2, so none would count"),
    ("consensus", {"k": 3}, "option 'k' of consensus is 3, but the number of models is 2, so no entry would be kept"),
    (
        "della",
        {"density": [1, 0.9]},
        "option 'epsilon' of della is 0.15 with a density of 0.9, so that entries are kept with probabilities from 0.75 to 1.05; "
        "these have to be between 0 and 1: lower epsilon",
    ),
    ("passthrough", {}, "passthrough merges exactly 1 model, but there are 2"),
]


@pytest.mark.parametrize(("method", "raw", "message"), REFUSALS, ids=lambda value: str(value)[:40])
def test_options_that_make_no_sense_are_refused_at_once(method, raw, message):
    """With what was found, what was expected and, where it can be told, what was meant."""
    with pytest.raises(OptionError) as error:
        Options(method, raw, AB)

    assert str(error.value) == message


def test_bases_are_refused_or_asked_for():
    """Before any weight is read."""
    with pytest.raises(OptionError, match="ties merges differences from a base model; add `base`"):
        Options("ties", {}, AB, has_base=False)
    with pytest.raises(OptionError, match="linear has no use for a base"):
        Options("linear", {}, AB, has_base=True)
    with pytest.raises(OptionError, match="but there are 2 models and a base"):
        Options("slerp", {}, AB, has_base=True)
    with pytest.raises(OptionError, match="but there are 1 model and no base"):
        Options("slerp", {}, ["a"], has_base=False)
    with pytest.raises(UnknownNameError, match="no merge method is called 'tie'; did you mean 'ties'"):
        Options("tie", {}, AB)


def test_weights_that_cancel_but_for_rounding_are_refused():
    """What is left of 0.1 + 0.2 - 0.3 would make the result some 10¹⁶ times too large; weights that nearly cancel are the user's own."""
    with pytest.raises(OptionError, match=r"is 0\.1, 0\.2, -0\.3, which sums to 0"):
        Options("linear", {"weight": [0.1, 0.2, -0.3]}, ["a", "b", "c"])
    Options("linear", {"weight": [0.1, 0.2, -0.3 + 1e-9]}, ["a", "b", "c"])


def test_weights_that_cancel_in_one_tensor_are_refused_for_that_tensor():
    """The plan asks for every tensor's options, so it is still before a weight is read."""
    options = Options("linear", {"weight": [{"filter": "a", "value": [1, -1]}, {"value": 1}]}, AB)

    assert options.for_tensor(Place("b")).weight == 1
    with pytest.raises(OptionError, match="sums to 0"):
        options.for_tensor(Place("a"))


@every_case
def test_every_option_is_described(case):
    """Its name as recipes spell it, its type, its default and a sentence; the schema says the same."""
    cls = methods.get(case.method)
    rows, schema = option_rows(cls), json_schema(cls)

    assert all(row.doc.endswith(".") and row.type and not row.name.endswith("_") for row in rows)
    assert [row.name for row in rows] == list(schema["properties"])
    assert cls.reference.startswith("https://") and cls.__doc__.count("::")


def test_arrays_that_do_not_fit_are_refused():
    """Shapes, dtypes, integers."""
    with pytest.raises(MismatchError, match=r"model 0 has shape \(2,\), but model 1 has \(3,\)"):
        merge_arrays("linear", [np.zeros(2), np.zeros(3)])
    with pytest.raises(MismatchError, match="model 0 is of float64, but model 1 of float32; say `dtype`"):
        merge_arrays("linear", [np.zeros(2), np.zeros(2, np.float32)])
    with pytest.raises(OptionError, match="model 0 is of int64; expected float16"):
        merge_arrays("linear", [np.zeros(2, int)])
    mixed = merge_arrays("linear", [np.ones(2), np.zeros(2, np.float16)], dtype=np.float32)
    np.testing.assert_array_equal(mixed, np.full(2, 0.5, np.float32))

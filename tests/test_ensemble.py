"""Ensembles in one graph against their members run one by one and combined in NumPy by formulas that are written out here."""

import keras
import numpy as np
import pytest
import scipy.special as special
from composed import compose, reloaded, same
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import graftwork as gw
from graftwork.compose.classes import class_map
from graftwork.compose.combine import Combination, Given
from graftwork.compose.verbs.ensemble import Ensemble
from graftwork.errors import GraftworkError, MismatchError, OptionError, UnknownNameError

pytestmark = pytest.mark.keras

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(11, 8)).astype(np.float32)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def net(seed, activation="softmax", width=5, name="net", dtype=None):
    """Return a small classifier; any two have the same inner layers' names."""
    keras.utils.set_random_seed(seed)
    policy = {"dtype": dtype} if dtype else {}
    return keras.Sequential(
        [
            keras.Input((8,), name="x"),
            layers.Dense(6, activation="tanh", name="hidden", **policy),
            layers.Dense(width, activation=activation, name="out", kernel_initializer="random_normal", **policy),
        ],
        name=name,
    )


@pytest.fixture(scope="module")
def three():
    """Three classifiers of five classes."""
    return {name: net(seed) for seed, name in enumerate("abc")}


def outputs(models, x=X):
    return np.stack([np.asarray(model(x), np.float64) for model in models.values()])


FORMULAS = {
    "mean": lambda p: p.mean(axis=0),
    "geometric": lambda p: (g := p.prod(axis=0) ** (1 / len(p))) / g.sum(axis=-1, keepdims=True),
    "median": lambda p: np.median(p, axis=0),
    "max": lambda p: p.max(axis=0),
    "min": lambda p: p.min(axis=0),
    "product": lambda p: (g := p.prod(axis=0)) / g.sum(axis=-1, keepdims=True),
    "vote": lambda p: np.mean([np.eye(p.shape[-1])[each.argmax(axis=-1)] for each in p], axis=0),
    "concat": lambda p: np.concatenate(list(p), axis=-1),
}


@pytest.mark.parametrize(("word", "inline"), [*((word, False) for word in FORMULAS), ("mean", True), ("concat", True)])
def test_every_combination_is_its_formula(word, inline, three):
    """In one graph, after saving and loading with nothing but Keras, and by the members one by one."""
    found = compose(Ensemble(combine=word, inline=inline), three)

    expected = FORMULAS[word](outputs(three))
    np.testing.assert_allclose(found.model(X), expected, **CLOSE)
    np.testing.assert_allclose(found.reference(X), expected, **CLOSE)
    same(reloaded(found.model)(X), found.model(X))
    assert found.model(X).dtype == "float32"
    assert found.exact == (word in ("max", "min", "concat"))
    if found.exact:
        same(found.model(X), found.reference(X))


def test_the_median_of_an_even_number_lies_between_the_middle_two(three):
    """As NumPy has it."""
    four = {**three, "d": net(7)}
    np.testing.assert_allclose(
        compose(Ensemble(combine="median"), four).model(X), np.median(outputs(four), axis=0), **CLOSE
    )


def test_weights_are_divided_by_their_sum(three):
    """In a list or by name; one of 0 takes its member out of the graph."""
    p = outputs(three)
    mean = np.tensordot([0.2, 0.3, 0.5], p, axes=1)
    logs = np.exp(np.tensordot([0.2, 0.3, 0.5], np.log(p), axes=1))
    votes = np.tensordot([0.2, 0.3, 0.5], [np.eye(5)[each.argmax(-1)] for each in p], axes=1)

    np.testing.assert_allclose(compose(Ensemble(weights=[2, 3, 5]), three).model(X), mean, **CLOSE)
    by_name = compose(Ensemble(weights={"c": 0.5, "a": 0.2, "b": 0.3}, combine="geometric"), three)
    np.testing.assert_allclose(by_name.model(X), logs / logs.sum(-1, keepdims=True), **CLOSE)
    np.testing.assert_allclose(compose(Ensemble(weights=[2, 3, 5], combine="vote"), three).model(X), votes, **CLOSE)
    without = compose(Ensemble(weights=[0, 1, 1]), three)
    np.testing.assert_allclose(without.model(X), p[1:].mean(axis=0), **CLOSE)
    assert "a counts nothing" in without.notes[0]
    assert "a" not in [layer.name for layer in without.model.layers]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"weights": [1, 2]}, OptionError, "2 numbers for 3"),
        ({"weights": [1, -2, 3]}, OptionError, "weight of b is -2"),
        ({"weights": [1, float("nan"), 3]}, OptionError, "weight of b is nan"),
        ({"weights": [0, 0, 0]}, OptionError, "all weights are 0"),
        ({"weights": [1e308, 1e308, 1]}, OptionError, r"the weights 1e\+308, 1e\+308, 1 are too large"),
        ({"weights": {"a": 1, "b": 1}}, OptionError, "nothing of c"),
        ({"weights": {"a": 1, "b": 1, "d": 1}}, UnknownNameError, "'d'"),
        ({"weights": [1, 1, 1], "combine": "median"}, OptionError, "weights are for mean"),
        ({"combine": {"nothing": "max"}}, UnknownNameError, "'nothing'"),
        ({"combine": "concat", "classes": [["v"]] * 3}, OptionError, "takes no `classes`"),
        ({"combine": "concat", "normalize": True}, OptionError, "not for what is laid"),
        ({"outputs": {"z": "logits"}}, UnknownNameError, "'z'"),
        ({"outputs": {"a": "logits"}}, OptionError, "so it gives probabilities, not logits"),
        ({"preprocess": {"z": "tf"}}, UnknownNameError, "'z'"),
        ({"preprocess": {"a": "torch"}}, OptionError, "three channels"),
        ({"resize": {"a": 5}}, OptionError, "no images"),
        ({"input_size": 5}, OptionError, "for images"),
        ({"classes": {"a": list("vwxyz"), "b": list("zyxwv")}}, MismatchError, "c has none"),
        ({"classes": {"d": list("vwxyz")}}, UnknownNameError, "'d'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, error, said, three):
    """With what was found, before any graph is made."""
    with pytest.raises(error, match=said):
        compose(Ensemble(**options), three)


def test_one_member_is_no_ensemble(three):
    """Nothing would be combined."""
    with pytest.raises(OptionError, match="at least two"):
        compose(Ensemble(), {"a": three["a"]})


def test_nothing_is_broadcast(three):
    """One value beside five, and a sequence beside a vector, are refused with both shapes."""
    with pytest.raises(MismatchError, match="a gives 5 values and b gives 1"):
        compose(Ensemble(), {"a": three["a"], "b": net(1, width=1)})
    given = keras.Input((8,))
    steps = keras.Model(given, layers.Dense(5, activation="softmax")(layers.Reshape((4, 2))(given)))
    with pytest.raises(MismatchError, match=r"a gives \(None, 5\) float32 and b gives \(None, 4, 5\)"):
        compose(Ensemble(), {"a": three["a"], "b": steps})
    wide = keras.Sequential([keras.Input((9,)), layers.Dense(5, activation="softmax")])
    with pytest.raises(MismatchError, match=r"\(None, 8\).*\(None, 9\)"):
        compose(Ensemble(), {"a": three["a"], "b": wide})
    whole = keras.Sequential([keras.Input((8,), dtype="int32"), layers.Dense(5, activation="softmax")])
    with pytest.raises(MismatchError, match="int32"):
        compose(Ensemble(), {"a": three["a"], "b": whole})


def test_logits_and_probabilities_are_brought_together():
    """Logits beside a softmax become probabilities; what does not tell is asked for; logits among themselves stay logits."""
    mixed = {"a": net(1), "b": net(2, None)}
    p = np.stack([np.asarray(mixed["a"](X)), special.softmax(np.asarray(mixed["b"](X), np.float64), axis=-1)])

    with pytest.raises(OptionError, match=r"b ends in Dense 'out' without an activation.*outputs=\{\"b\""):
        compose(Ensemble(), mixed)
    for outputs_ in ("logits", {"b": "logits"}):
        found = compose(Ensemble(outputs=outputs_), mixed)
        np.testing.assert_allclose(found.model(X), p.mean(axis=0), **CLOSE)
        np.testing.assert_allclose(found.reference(X), p.mean(axis=0), **CLOSE)
    for word in ("geometric", "product", "vote"):
        found = compose(Ensemble(outputs="logits", combine=word), mixed)
        np.testing.assert_allclose(found.model(X), FORMULAS[word](p), **CLOSE)
        np.testing.assert_allclose(found.reference(X), FORMULAS[word](p), **CLOSE)
    both = {"a": net(1, None), "b": net(2, None)}
    unknown, logits = compose(Ensemble(), both), compose(Ensemble(outputs="logits"), both)
    same(unknown.model(X), logits.model(X))
    assert any("as they are" in note for note in unknown.notes)
    np.testing.assert_allclose(logits.model(X), FORMULAS["mean"](outputs(both)), **CLOSE)
    with pytest.raises(OptionError, match="may be logits or values"):
        compose(Ensemble(combine="vote"), both)
    with pytest.raises(MismatchError, match="independent yes and no"):
        compose(Ensemble(), {"a": net(1), "b": net(2, "sigmoid")})


def test_independent_probabilities_have_their_own_formulas():
    """The geometric mean is over yes and no, a vote over what is likelier than not."""
    models = {"a": net(1, "sigmoid"), "b": net(2, None), "c": net(3, "sigmoid")}
    p = outputs(models)
    p[1] = special.expit(p[1])
    yes, no = p.prod(axis=0), (1 - p).prod(axis=0)
    expected = {
        "mean": p.mean(axis=0),
        "geometric": yes ** (1 / 3) / (yes ** (1 / 3) + no ** (1 / 3)),
        "product": yes / (yes + no),
        "vote": (p > 0.5).mean(axis=0),
    }
    for word, values in expected.items():
        found = compose(Ensemble(combine=word, outputs={"b": "sigmoid_logits"}), models)
        np.testing.assert_allclose(found.model(X), values, **CLOSE)
        np.testing.assert_allclose(found.reference(X), values, **CLOSE)


def test_values_are_averaged_and_not_multiplied():
    """Regression; of numbers there is no geometric mean of probabilities and no vote."""
    models = {name: net(seed, None, width=1) for seed, name in enumerate("ab")}
    for word in ("mean", "median", "max", "min"):
        found = compose(Ensemble(combine=word, outputs="regression"), models)
        np.testing.assert_allclose(found.model(X), FORMULAS[word](outputs(models)), **CLOSE)
    for word in ("geometric", "product", "vote"):
        with pytest.raises(OptionError, match="is values"):
            compose(Ensemble(combine=word, outputs="regression"), models)


CLASSES = {"a": list("vwxyz"), "b": list("zyxpq"), "c": list("wvzqr")}


@pytest.mark.parametrize("word", [word for word in FORMULAS if word != "concat"])
def test_each_class_is_combined_over_the_members_that_know_it(word, three):
    """By name, whatever the order; the result says its classes, and the table where they come from."""
    found = compose(Ensemble(combine=word, classes=CLASSES), three)

    p = dict(zip("abc", outputs(three), strict=True))
    if word == "vote":
        p = {name: np.eye(5)[each.argmax(-1)] for name, each in p.items()}
    plain = {
        "geometric": lambda q: np.log(q).mean(0),
        "product": lambda q: 3 * np.log(q).mean(0),
        "vote": lambda q: q.mean(0),
    }
    columns = []
    for each in "vwxyzpqr":
        knowing = np.stack([p[name][:, CLASSES[name].index(each)] for name in "abc" if each in CLASSES[name]])
        columns.append(plain.get(word, FORMULAS[word])(knowing))
    expected = np.stack(columns, axis=-1)
    if word in ("geometric", "product"):
        expected = special.softmax(expected, axis=-1)
    assert found.classes == tuple("vwxyzpqr")
    np.testing.assert_allclose(found.model(X), expected, **CLOSE)
    np.testing.assert_allclose(found.reference(X), expected, **CLOSE)
    same(reloaded(found.model)(X), found.model(X))
    row = next(row for row in found.tables["classes"] if row["class"] == "v")
    assert row == {"class": "v", "coverage": pytest.approx(2 / 3), "a": 0, "b": None, "c": 1}
    whole = compose(Ensemble(combine=word, classes=CLASSES, normalize=True, weights=None), three)
    np.testing.assert_allclose(whole.model(X), expected / expected.sum(-1, keepdims=True), **CLOSE)


def test_classes_known_from_sources_are_used_unless_others_are_said(three):
    """In another order, the columns are brought together by name."""
    two = {"a": three["a"], "b": three["b"]}
    known = {"a": tuple("vwxyz"), "b": tuple("zyxwv")}
    p = outputs(two)

    found = compose(Ensemble(), two, classes=known)
    said = compose(Ensemble(classes={"b": list("vwxyz")}), two, classes=known)

    np.testing.assert_allclose(found.model(X), (p[0] + p[1][:, ::-1]) / 2, **CLOSE)
    np.testing.assert_allclose(said.model(X), p.mean(axis=0), **CLOSE)
    assert not found.notes


ROWS = st.lists(st.lists(st.integers(0, 3), min_size=3, max_size=3), min_size=2, max_size=4)


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_ties_go_to_the_class_that_comes_first(rows):
    """Within a member the first of its likeliest classes gets the vote; classes with as many votes get the same share."""
    given_ = [keras.Input((3,)) for _ in rows]
    names = iter(f"op{k}" for k in range(1000))
    found = class_map([str(k) for k in range(len(rows))], [3] * len(rows), [None] * len(rows), [1] * len(rows))
    way = Combination(
        word="vote",
        kind="probabilities",
        weights=(1 / len(rows),) * len(rows),
        classes=found,
        normalize=False,
        dtype="float32",
    )
    members = [Given(tensor=each, kind="logits", member=str(k)) for k, each in enumerate(given_)]
    model = keras.Model(given_, way.joined(members, lambda word: f"{word}_{next(names)}"))

    shares = np.asarray(model([np.array([row], np.float32) for row in rows]))[0]

    votes = [row.index(max(row)) for row in rows]
    np.testing.assert_allclose(shares, [votes.count(k) / len(rows) for k in range(3)], atol=1e-6)


@pytest.mark.parametrize("word", FORMULAS)
def test_nan_of_a_member_is_not_hidden(word):
    """A largest, smallest or middle number that leaves NaN out would look like one of all members; XLA's own leave it out."""
    import tensorflow as tf

    broken = net(2)
    broken.set_weights([np.full_like(weight, np.nan) for weight in broken.get_weights()])
    found = compose(Ensemble(combine=word), {"a": net(1), "b": broken, "c": net(3)})
    compiled = [tf.function(found.model, jit_compile=True)] if word in ("max", "min", "median", "vote") else []

    for run in (found.model, found.reference, *compiled):
        values = np.asarray(run(tf.constant(X)))
        assert np.isnan(values[:, 5:10] if word == "concat" else values).all()


def test_members_compute_as_they_did_and_are_combined_in_float32():
    """A mixed_float16 member beside a float32 one; a probability that float16 rounds to 0 stays finite in a geometric mean."""
    half = net(2, dtype="mixed_float16")
    half.set_weights([weight * 60 for weight in half.get_weights()])
    models = {"a": net(1), "b": half}
    assert half.outputs[0].dtype == "float16" and (np.asarray(half(X)) == 0).any()

    mean, geometric = compose(Ensemble(), models), compose(Ensemble(combine="geometric"), models)

    p = np.stack([np.asarray(models["a"](X), np.float64), np.asarray(half(X)).astype(np.float64)])
    assert mean.model.output.dtype == "float32"
    np.testing.assert_allclose(mean.model(X), p.mean(axis=0), **CLOSE)
    logs = np.log(np.stack([p[0], np.maximum(p[1], 2.0**-24)])).mean(axis=0)
    np.testing.assert_allclose(geometric.model(X), special.softmax(logs, axis=-1), rtol=1e-4, atol=1e-6)


def test_the_same_file_ten_times_and_layers_of_the_same_names(tmp_path):
    """Members are told apart, sources keep their names, and the mean of ten equals one."""
    model = net(1, name="net")
    model.save(tmp_path / "one.keras")
    ten = {f"m{k}": keras.saving.load_model(tmp_path / "one.keras") for k in range(10)}

    found = compose(Ensemble(), ten)

    np.testing.assert_allclose(found.model(X), model(X), **CLOSE)
    same(reloaded(found.model)(X), found.model(X))
    assert {each.name for each in ten.values()} == {"net"}


def test_members_whose_one_output_stands_in_a_list(three, tmp_path):
    """As Keras saved every functional model up to 3.9; the result gives its one output, and is checked against the members."""
    paths = []
    for name, model in three.items():
        inputs = keras.Input((8,), name="x")
        keras.Model([inputs], [model(inputs)], name=name).save(tmp_path / f"{name}.keras")
        paths.append(tmp_path / f"{name}.keras")
    notes: list[str] = []

    made = gw.ensemble(paths, output=tmp_path / "out.keras", report=notes)

    np.testing.assert_allclose(keras.saving.load_model(made)(X), outputs(three).mean(axis=0), **CLOSE)
    assert any("what its members give one by one" in note for note in notes)


def test_training_the_ensemble_leaves_its_sources_alone(three):
    """Not a bit of them changes."""
    before = [model.get_weights() for model in three.values()]
    found = compose(Ensemble(), three)

    found.model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    found.model.fit(X, np.arange(11) % 5, verbose=0)

    same(before, [model.get_weights() for model in three.values()])
    assert not np.array_equal(found.model.get_layer("a").get_weights()[0], before[0][0])


def several(seed, order=("text", "image")):
    """Return a model of two inputs and two outputs, in dictionaries whose keys come in some order."""
    keras.utils.set_random_seed(seed)
    ins = {key: keras.Input((4 if key == "text" else 3,), name=key) for key in order}
    joined = layers.Concatenate()([ins["text"], ins["image"]])
    outs = {
        "kind": layers.Dense(3, activation="softmax", name=f"kind_{seed}")(joined),
        "size": layers.Dense(1, name=f"size_{seed}")(joined),
    }
    return keras.Model(ins, {key: outs[key] for key in (("kind", "size") if seed % 2 else ("size", "kind"))})


def test_several_inputs_and_outputs_meet_by_name():
    """Dictionaries in whatever order; each output has its own way; the result has the structure of the first member."""
    models = {"a": several(1), "b": several(2, ("image", "text"))}
    x = {"text": RANDOM.normal(size=(6, 4)).astype(np.float32), "image": RANDOM.normal(size=(6, 3)).astype(np.float32)}

    found = compose(Ensemble(combine={"kind": "geometric", "size": "max"}), models)

    each = [model(x) for model in models.values()]
    kind = FORMULAS["geometric"](np.stack([np.asarray(one["kind"], np.float64) for one in each]))
    for values in (found.model(x), found.reference(x), reloaded(found.model)(x)):
        assert set(values) == {"kind", "size"}
        np.testing.assert_allclose(values["kind"], kind, **CLOSE)
        np.testing.assert_allclose(values["size"], np.maximum(each[0]["size"], each[1]["size"]), **CLOSE)
    assert set(found.model.input) == {"text", "image"}
    with pytest.raises(OptionError, match=r"size is values"):
        compose(Ensemble(combine="vote", outputs={"size": "regression"}), models)
    classes = compose(Ensemble(classes={"a.kind": list("xyz"), "b.kind": list("zyx")}), models)
    expected = (np.asarray(each[0]["kind"]) + np.asarray(each[1]["kind"])[:, ::-1]) / 2
    np.testing.assert_allclose(classes.model(x)["kind"], expected, **CLOSE)
    assert "classes of kind" in classes.tables
    given_ = keras.Input((4,), name="text")
    with pytest.raises(GraftworkError):
        compose(Ensemble(), {"a": several(1), "b": keras.Model(given_, layers.Dense(3)(given_))})


IMAGES = RANDOM.integers(0, 256, size=(4, 12, 12, 3)).astype(np.float32)


def pixels(seed, size=12, dtype="float32"):
    """Return a model of images that gives a linear function of every pixel."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((size, size, 3), dtype=dtype, name="image"),
            layers.Flatten(),
            layers.Dense(2, activation="sigmoid"),
        ]
    )


@pytest.mark.parametrize("raw", ["float32", "uint8"])
def test_each_member_gets_its_own_scale_of_pixels(raw):
    """The same numbers as Keras's preprocess_input, of one raw input of either dtype."""
    from keras.src.applications.imagenet_utils import preprocess_input

    ways = ("tf", "torch", "caffe")
    models = {
        way: keras.Sequential([keras.Input((12, 12, 3)), layers.Activation("linear", name="seen")]) for way in ways
    }

    found = compose(Ensemble(combine="concat", preprocess={way: way for way in ways}, input_dtype=raw), models)

    assert found.model.input.dtype == raw
    seen = np.split(np.asarray(found.model(IMAGES.astype(raw))), 3, axis=-1)
    for way, values in zip(ways, seen, strict=True):
        expected = preprocess_input(IMAGES.copy(), data_format="channels_last", mode=way)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)
    assert f"the result takes (None, 12, 12, 3) {raw}" in found.notes


def test_members_of_other_sizes_get_resized_images():
    """Resized from the raw image, before their scale; without being asked, sizes that differ are refused with what would help."""
    models = {"a": pixels(1), "b": pixels(2, 6)}
    with pytest.raises(MismatchError, match=r"12, 12.*6, 6"):
        compose(Ensemble(), models)

    found = compose(Ensemble(resize=True, preprocess={"b": "tf"}), models)

    small = keras.ops.image.resize(IMAGES, (6, 6)) / 127.5 - 1
    expected = (np.asarray(models["a"](IMAGES)) + np.asarray(models["b"](small))) / 2
    np.testing.assert_allclose(found.model(IMAGES), expected, **CLOSE)
    np.testing.assert_allclose(found.reference(IMAGES), expected, **CLOSE)
    same(reloaded(found.model)(IMAGES), found.model(IMAGES))
    assert any("resized from 12×12 to 6×6" in note for note in found.notes)
    bytes_ = compose(Ensemble(resize={"b": True}, preprocess={"a": "cast"}, input_dtype="uint8"), models)
    plain = (np.asarray(models["a"](IMAGES)) + np.asarray(models["b"](keras.ops.image.resize(IMAGES, (6, 6))))) / 2
    np.testing.assert_allclose(bytes_.model(IMAGES.astype("uint8")), plain, **CLOSE)
    any_size = compose(Ensemble(resize=True, input_size=0), models)
    assert any_size.model.input_shape == (None, None, None, 3)
    np.testing.assert_allclose(any_size.model(IMAGES), plain, **CLOSE)
    larger = compose(Ensemble(resize=True, input_size=[12, 10]), {"b": models["b"], "a": models["a"]})
    assert larger.model.input_shape == (None, 12, 10, 3)
    with pytest.raises(OptionError, match="expected a number of pixels"):
        compose(Ensemble(resize=True, input_size=[1, 2, 3]), models)


def test_real_architectures_meet():
    """MobileNetV2 beside an EfficientNetB0 with adapted statistics, of one raw image, of other sizes and with different classes."""
    keras.utils.set_random_seed(5)
    mobile = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=4, alpha=0.35)
    efficient = keras.applications.EfficientNetB0(weights=None, input_shape=(40, 40, 3), classes=3)
    norm = next(layer for layer in efficient.layers if isinstance(layer, layers.Normalization))
    norm.adapt(RANDOM.uniform(0, 1, size=(8, 40, 40, 3)).astype(np.float32))
    images = RANDOM.integers(0, 256, size=(2, 40, 40, 3)).astype(np.float32)

    found = compose(
        Ensemble(
            preprocess={"mobile": "tf"},
            resize={"mobile": True},
            classes={"mobile": ["cat", "dog", "cow", "owl"], "efficient": ["owl", "dog", "fox"]},
            weights=[1, 3],
        ),
        {"mobile": mobile, "efficient": efficient},
    )

    m = np.asarray(mobile(keras.ops.image.resize(images, (32, 32)) / 127.5 - 1))
    e = np.asarray(efficient(images))
    expected = np.stack([m[:, 0], (m[:, 1] + 3 * e[:, 1]) / 4, m[:, 2], (m[:, 3] + 3 * e[:, 0]) / 4, e[:, 2]], axis=-1)
    assert found.classes == ("cat", "dog", "cow", "owl", "fox")
    assert found.model.input_shape == (None, 40, 40, 3)
    np.testing.assert_allclose(found.model(images), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.reference(images), expected, rtol=1e-4, atol=1e-5)
    same(reloaded(found.model)(images), found.model(images))


def test_inputs_that_nobody_named_do_not_say_that_they_are_two():
    """Beside one that has a name; where one of the members alone has such, it is an input of its own."""

    def model(**inputs):
        return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(list(inputs.values()))))

    mask = [keras.Input((3,), name="mask") for _ in range(3)]
    first, second = (
        model(**{name: keras.Input((4,), name=name), "mask": mask[k]}) for k, name in enumerate(("input_1", "input_2"))
    )

    with pytest.raises(MismatchError, match="their names do not say which of them are the same"):
        compose(Ensemble(), {"a": first, "b": second})

    alone = keras.Model({"mask": mask[2]}, layers.Dense(2)(mask[2]))
    assert set(compose(Ensemble(), {"a": first, "b": alone}).model.input) == {"input_1", "mask"}


def test_texts_go_through_tables():
    """Two text models whose lookup tables are in another order."""

    def text(words, seed):
        keras.utils.set_random_seed(seed)
        given_ = keras.Input((3,), dtype="string", name="words")
        numbers = layers.StringLookup(vocabulary=words)(given_)
        hidden = layers.LSTM(4)(layers.Embedding(6, 4, mask_zero=True)(numbers))
        return keras.Model(given_, layers.Dense(2, activation="softmax")(hidden))

    models = {"a": text(["yes", "no", "or"], 1), "b": text(["or", "yes", "no"], 2)}
    import tensorflow as tf

    x = tf.constant([["yes", "no", "what"], ["or", "or", "yes"]])

    found = compose(Ensemble(), models)

    expected = np.mean([np.asarray(model(x)) for model in models.values()], axis=0)
    for values in (found.model(x), found.reference(x), reloaded(found.model)(x)):
        np.testing.assert_allclose(values, expected, **CLOSE)


@keras.saving.register_keras_serializable("test_ensemble")
class Own(keras.Model):
    """A model whose call is code of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(5, activation="softmax")

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_is_a_member_as_it_is(three):
    """It takes what the others take, which is said; what it gives must be told where that matters."""
    own = Own()
    own(X)
    models = {"own": own, "a": three["a"]}

    found = compose(Ensemble(outputs={"own": "probabilities"}), models)

    np.testing.assert_allclose(found.model(X), outputs(models).mean(axis=0), **CLOSE)
    np.testing.assert_allclose(found.reference(X), outputs(models).mean(axis=0), **CLOSE)
    assert any("own is a Own" in note and "cannot be looked into" in note for note in found.notes)
    with pytest.raises(OptionError, match="cannot be looked into"):
        compose(Ensemble(), models)
    with pytest.raises(OptionError, match="does not say what its inputs are"):
        compose(Ensemble(outputs="probabilities"), {"own": own, "other": own})


def test_weights_side_by_side_give_what_members_give(tmp_path):
    """stack_weights: one multiplication for all members gives what each gives, also after loading; nothing counts as new."""
    members = []
    for k in range(4):
        keras.utils.set_random_seed(k)
        hidden = keras.layers.Dense(7, "relu")
        members.append(
            keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3, activation="softmax")], name=f"m{k}")
        )
    x = np.random.default_rng(0).normal(size=(9, 6)).astype("float32")
    each = np.stack([np.asarray(member(x)) for member in members])
    for combine, expected in (("mean", each.mean(0)), ("max", each.max(0)), ("concat", np.concatenate(each, -1))):
        result = gw.ensemble(members, combine=combine, stack_weights=True)
        np.testing.assert_allclose(result(x), expected, rtol=1e-5, atol=1e-6)
        result.save(tmp_path / "stacked.keras")
        np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "stacked.keras")(x), result(x))
    assert len(result.weights) == 4
    report = gw.check("ensemble", members, stack_weights=True)
    assert report.parameters["new"] == 0
    assert report.parameters["total"] == sum(member.count_params() for member in members)


def test_weights_that_cannot_lie_side_by_side_are_refused():
    """Other layers, other settings, penalties and inputs of several kinds are refused by name."""

    def chain(name, *layers):
        return keras.Sequential([keras.Input((6,)), *layers], name=name)

    dense = keras.layers.Dense
    a = chain("a", dense(4), dense(2))
    for other, message in (
        (chain("b", dense(4, "relu"), dense(2)), "is not as that of a"),
        (chain("b", dense(4)), "is not as that of a|gives"),
        (chain("b", dense(4), keras.layers.Dropout(0.5), dense(2)), "has Dropout"),
        (chain("b", dense(4, kernel_regularizer="l2"), dense(2)), "has Dense"),
    ):
        with pytest.raises(gw.GraftworkError, match=message):
            gw.check("ensemble", [a, other], stack_weights=True)
    with pytest.raises(gw.OptionError, match="leave out preprocess"):
        gw.check("ensemble", [a, a], stack_weights=True, inputs="separate")

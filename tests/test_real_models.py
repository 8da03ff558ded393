"""Architectures that people have, through the verbs as people call them: the same as the models one by one in plain Keras."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from composed import reloaded, same
from keras import layers as kl

import graftwork as gw
from graftwork.compose import VERBS

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
SERIES = RNG.normal(size=(4, 16, 8)).astype("float32")
PAIR = [SERIES, SERIES[::-1] + 1]
FACTS = {"series": SERIES, "facts": RNG.normal(size=(4, 3)).astype("float32")}
TEXTS = tf.constant([["a tern and an auk"], ["gull"], ["auk auk gull tern auk"], ["a heron"]])
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


# Models ----------------------------------------------------------------------------------------------------------------


def lived(model):
    """Return a model whose statistics are those of some data, not the ones that BatchNormalization begins with."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        if isinstance(layer, kl.BatchNormalization):
            layer.moving_mean.assign(rng.normal(0, 0.1, layer.moving_mean.shape))
            layer.moving_variance.assign(rng.uniform(0.8, 1.2, layer.moving_variance.shape))
    return model


def application(name, **settings):
    return lived(getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3), classes=5, **settings))


def efficient():
    model = application("EfficientNetB0")
    next(layer for layer in model.layers if isinstance(layer, kl.Normalization)).adapt(IMAGES / 255)
    return model


def nested():
    """Preprocessing and a base inside, called as the guide on fine-tuning does."""
    scale, norm = kl.Rescaling(1 / 127.5, -1), kl.Normalization(name="normalize")
    norm.adapt(np.asarray(scale(IMAGES)))
    prepare = keras.Sequential([keras.Input((32, 32, 3)), kl.RandomFlip("horizontal"), scale, norm], name="prepare")
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, include_top=False, name="base")
    image = keras.Input((32, 32, 3), name="image")
    features = kl.GlobalAveragePooling2D(name="pool")(base(prepare(image), training=False))
    return lived(keras.Model(image, kl.Dense(5, activation="softmax", name="out")(features), name="nested"))


def siamese():
    x = keras.Input((16, 8))
    y = kl.BatchNormalization(name="norm")(kl.Conv1D(6, 3, activation="relu", name="conv")(x))
    tower = keras.Model(x, kl.GlobalMaxPooling1D(name="pool")(y), name="tower")
    left, right = keras.Input((16, 8), name="left"), keras.Input((16, 8), name="right")
    apart = keras.ops.abs(tower(left) - tower(right))
    out = kl.Dense(5, activation="softmax", name="out")(apart)
    return lived(keras.Model([left, right], out, name="siamese"))


def several():
    """Dictionaries in and out, whose keys are not the names of layers."""
    given = {"series": keras.Input((16, 8), name="in_a"), "facts": keras.Input((3,), name="in_b")}
    deep = kl.GRU(6, name="read")(given["series"])
    both = kl.Concatenate(name="both")([deep, given["facts"]])
    outputs = {"kind": kl.Dense(5, activation="softmax", name="top_a")(both), "size": kl.Dense(1, name="top_b")(both)}
    return keras.Model(given, outputs, name="several")


def text():
    vectorize = kl.TextVectorization(output_sequence_length=6, name="vectorize")
    vectorize.adapt(["a tern", "an auk and a gull"])
    x = given = keras.Input((1,), dtype="string", name="text")
    x = kl.Embedding(9, 4, mask_zero=True, name="embed")(vectorize(x))
    x = kl.LSTM(6, name="read")(kl.Bidirectional(kl.LSTM(3, return_sequences=True), name="both")(x))
    return keras.Model(given, kl.Dense(5, activation="softmax", name="out")(x), name="text")


def words():
    given = keras.Input((1,), dtype="string", name="word")
    ids = kl.StringLookup(vocabulary=["gull", "a heron"], name="look_up")(given)
    x = kl.Flatten(name="flat")(kl.Embedding(3, 6, name="embed")(ids))
    return keras.Model(given, kl.Dense(5, activation="softmax", name="out")(x), name="words")


def transformer():
    given = keras.Input((16, 8), name="series")
    x = kl.Dense(8, name="embed")(given)
    for i in range(2):
        y = kl.MultiHeadAttention(2, 4, dropout=0.1, name=f"attention_{i}")(x, x)
        x = kl.LayerNormalization(name=f"norm_{i}_a")(kl.Add(name=f"add_{i}_a")([x, y]))
        y = kl.Dense(8, name=f"down_{i}")(kl.Dense(16, activation="gelu", name=f"up_{i}")(x))
        x = kl.LayerNormalization(name=f"norm_{i}_b")(kl.Add(name=f"add_{i}_b")([x, y]))
    x = kl.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(given, kl.Dense(5, activation="softmax", name="out")(x), name="transformer")


def half():
    policy = {"dtype": "mixed_float16"}
    given = keras.Input((16, 8), name="series")
    x = kl.Conv1D(6, 3, name="conv", **policy)(given)
    x = kl.ReLU(name="relu", **policy)(kl.BatchNormalization(name="norm", **policy)(x))
    x = kl.GlobalAveragePooling1D(name="pool", **policy)(x)
    return lived(keras.Model(given, kl.Dense(5, activation="softmax", name="out", **policy)(x), name="half"))


def uncalled():
    """A Sequential that says what it takes and was never called."""
    return keras.Sequential(
        [
            keras.Input((16, 8)),
            kl.Flatten(name="flat"),
            kl.Dense(6, activation="tanh", name="deep"),
            kl.Dropout(0.5, name="drop"),
            kl.Dense(5, activation="softmax", name="out"),
        ],
        name="uncalled",
    )


ZOO = {
    "mobile": (lambda: application("MobileNetV2", alpha=0.35), IMAGES),
    "resnet": (lambda: application("ResNet50"), IMAGES),
    "efficient": (efficient, IMAGES),
    "dense": (lambda: application("DenseNet121"), IMAGES),
    "nested": (nested, IMAGES),
    "siamese": (siamese, PAIR),
    "several": (several, FACTS),
    "text": (text, TEXTS),
    "words": (words, TEXTS),
    "transformer": (transformer, SERIES),
    "half": (half, SERIES),
    "uncalled": (uncalled, SERIES),
}


@functools.cache
def source(name):
    """Return a model of the zoo: one for all tests, since no verb may change it."""
    keras.utils.set_random_seed(sorted(ZOO).index(name))
    return ZOO[name][0]()


# What always holds -----------------------------------------------------------------------------------------------------


def run(model, x):
    """Return what a model gives; RandomFlip takes part in training unless it is told not to."""
    return model(x, training=False)


def bits(model):
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in model.variables]


def state(model):
    """Everything of a model that a verb could change."""
    layers = [(layer.name, layer.trainable, len(layer._inbound_nodes)) for layer in model._flatten_layers()]
    return layers, [(v.path, v.trainable, v.dtype) for v in model.variables], bits(model)


def made(verb, names, x, **options):
    """Return what a verb makes, and that again after loading: as planned, from sources that stay as they are, both the same."""
    models = [source(name) for name in names]
    before = [state(model) for model in models]

    report = gw.check(verb, models, **options)
    found = getattr(gw, verb)(*([models] if VERBS[verb].takes == ("models",) else models), **options)

    assert [state(model) for model in models] == before
    first = found[0] if isinstance(found, tuple) else found
    numbers = {key: report.parameters[key] for key in ("total", "trained")}
    weights = [v for v in first.variables if "seed_generator" not in v.path]
    sizes = [sum(int(np.prod(v.shape)) for v in each) for each in (weights, first.trainable_variables)]
    assert numbers == dict(zip(("total", "trained"), sizes, strict=True))
    for ports, tensors in ((report.inputs, first.inputs), (report.outputs, first.outputs)):
        assert [(tuple(p["shape"]), p["dtype"]) for p in ports] == [(tuple(t.shape), t.dtype) for t in tensors]
    again = reloaded(first)
    same(run(again, x), run(first, x))
    return found, again


def moved(model, x, classes=5):
    """Return the layers whose variables a training step changes, by the first part of their paths."""
    variables = [v for v in model.variables if "seed" not in v.path]  # of dropout, which draws in every step
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(x, np.arange(4) % classes)
    return {
        v.path.split("/")[0]
        for v, old in zip(variables, before, strict=True)
        if not np.array_equal(keras.ops.convert_to_numpy(v), old)
    }


# One model -------------------------------------------------------------------------------------------------------------

CUTS = {
    "mobile": "block_5_add",
    "siamese": ["tower#1", "tower#2"],
    "several": ["both"],
    "text": "read",
    "words": "embed",
    "transformer": "norm_0_b",
    "half": "norm",
    "uncalled": "deep",
}


@pytest.mark.parametrize("name", CUTS)
def test_cut_in_two_and_chained_a_model_is_itself(name):
    """Bit for bit: the trunk and head one after the other, and their chain."""
    model, x = source(name), ZOO[name][1]
    expected = run(model, x)

    (trunk, head), _ = made("split", [name], x, at=CUTS[name])
    whole = gw.chain([trunk, head])

    same(run(head, run(trunk, x)), expected)
    same(run(whole, x), expected)
    same(run(reloaded(whole), x), expected)
    assert sorted(bits(whole)) == sorted(bits(model))  # each once: what is shared stays shared


@pytest.mark.parametrize("name", ["efficient", "siamese", "text", "words", "transformer", "half", "uncalled"])
def test_a_new_head_trains_and_what_is_below_stays(name):
    """Frozen trunks keep every bit in training, BatchNormalization's statistics too, and are still frozen after loading."""
    x = ZOO[name][1]

    model, again = made("swap_head", [name], x, head=3, freeze=True)

    assert moved(again, x, 3) == {"head"}
    assert name == "efficient" or moved(model, x, 3) == {"head"}  # of small ones, the one that was not loaded as well


@pytest.mark.parametrize("name", ["siamese", "text", "transformer", "half"])
def test_logits_are_what_softmax_makes_the_probabilities_of(name):
    x = ZOO[name][1]

    logits, _ = made("to_logits", [name], x)

    found = keras.ops.softmax(keras.ops.cast(run(logits, x), "float32"))
    far = {"rtol": 2e-3, "atol": 1e-3} if name == "half" else CLOSE  # softmax in float16
    np.testing.assert_allclose(found, np.asarray(run(source(name), x), "float32"), **far)


def test_several_outputs_by_name():
    """Of a model with dictionaries: one output alone, a new head on one, logits of one; the other stays to the last bit."""
    before = run(source("several"), FACTS)

    kind, _ = made("extract", ["several"], FACTS, at="top_a")
    other, _ = made("swap_head", ["several"], FACTS, head=3, port="kind")
    logits, _ = made("to_logits", ["several"], FACTS, only=["kind"])

    same(run(kind, FACTS), before["kind"])
    assert run(other, FACTS)["kind"].shape == (4, 3)
    for model in (other, logits):
        same(run(model, FACTS)["size"], before["size"])
    np.testing.assert_allclose(keras.ops.softmax(run(logits, FACTS)["kind"]), before["kind"], **CLOSE)


def test_an_inner_tensor_of_a_shared_tower_of_a_shared_layer():
    """The second call of a nested model alone needs the second input alone."""
    tower = source("siamese").get_layer("tower")

    right, _ = made("extract", ["siamese"], PAIR[1], at="tower#2/norm")

    same(run(right, PAIR[1]), run(keras.Model(tower.input, tower.get_layer("norm").output), PAIR[1]))


# Several models --------------------------------------------------------------------------------------------------------

ENSEMBLES = {
    "images": (["mobile", "nested"], {"preprocess": {"mobilenetv2_0.35_32": "tf"}}),
    "series": (["transformer", "half", "uncalled"], {}),
    "pairs": (["siamese", "siamese"], {"inline": True}),
    "facts": (["several", "several"], {"outputs": {"size": "regression"}}),
    "texts": (["text", "words"], {}),
}


@pytest.mark.parametrize("kind", ENSEMBLES)
def test_an_ensemble_is_the_mean_of_its_members(kind):
    """Of other architectures, of precisions that differ, of the same twice; raw pixels reach each as it wants them."""
    names, options = ENSEMBLES[kind]
    x = ZOO[names[0]][1]

    model, _ = made("ensemble", names, x, **options)

    each = [run(source(name), x) for name in names]
    if kind == "images":
        each[0] = run(source("mobile"), x / 127.5 - 1)
    expected = keras.tree.map_structure(lambda *ys: np.mean([np.asarray(y, np.float64) for y in ys], axis=0), *each)
    found = run(model, x)
    keras.tree.assert_same_structure(found, expected)
    for a, b in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        assert a.dtype == "float32"
        np.testing.assert_allclose(a, b, **CLOSE)


STACKS = {
    "series": (["half", "transformer", "uncalled"], SERIES, {"hidden": [4]}),
    "texts": (["text", "words", "text"], TEXTS, {}),
    "pairs": (["siamese", "siamese"], PAIR, {"inline": True}),
}


@pytest.mark.parametrize("kind", STACKS)
def test_a_stack_stands_on_what_its_members_give_and_trains_alone(kind):
    names, x, options = STACKS[kind]

    model, _ = made("stack", names, x, head=3, **options)

    features = run(keras.Model(model._inputs_struct, model.get_layer("features").output), x)
    expected = np.concatenate([np.asarray(run(source(name), x), "float32") for name in names], axis=-1)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert {part.rpartition("_hidden")[0] or part for part in moved(model, x, 3)} == {"head"}


FUSIONS = {
    "images": (["resnet", "dense"], IMAGES, ["conv2_block3_out", "conv2_block3_concat"]),
    "series": (["half", "transformer", "uncalled"], SERIES, ["norm", "add_1_a", "deep"]),
    "inside": (["nested"], IMAGES, ["base/block_2_add"]),
}


def inner(name, tap):
    """Return what a layer inside a model gives for its example, averaged over positions, by Keras's own ways."""
    model, x = source(name), ZOO[name][1]
    if name == "nested":
        model, x, tap = model.get_layer("base"), run(model.get_layer("prepare"), x), tap.removeprefix("base/")
    found = np.asarray(run(keras.Model(model.inputs, model.get_layer(tap).output), x), "float32")
    return found.mean(axis=tuple(range(1, found.ndim - 1)))


@pytest.mark.parametrize("kind", FUSIONS)
def test_a_fusion_stands_on_inner_features_and_trains_alone(kind):
    """Features are those of the members' own graphs; the trunks, cut there, keep every bit in training."""
    names, x, taps = FUSIONS[kind]

    model, again = made("fuse", names, x, taps=taps, head=3)

    features = run(keras.Model(model._inputs_struct, model.get_layer("head").input), x)
    np.testing.assert_allclose(features, np.concatenate(list(map(inner, names, taps)), axis=-1), rtol=1e-3, atol=1e-4)
    assert moved(again, x, 3) == {"head"}


def test_what_is_written_predicts_the_same_in_a_fresh_process(tmp_path):
    """Texts, tables and masks, beside each other and under one new head."""
    notes: list[str] = []

    path = gw.stack([source("text"), source("words")], head=3, output=tmp_path / "stack.keras", report=notes)

    assert any("to the last bit, and what its members give one by one exactly" in note for note in notes)
    assert run(keras.saving.load_model(path), TEXTS).shape == (4, 3)


# What cannot be looked into ---------------------------------------------------------------------------------------------


class Own(keras.Model):
    """A subclassed model, registered nowhere."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.flat, self.out = kl.Flatten(), kl.Dense(5, activation="softmax")

    def call(self, x):
        return self.out(self.flat(x))


@pytest.fixture
def own():
    keras.utils.set_random_seed(9)
    model = Own(name="own")
    model(SERIES)
    return model


def test_a_subclassed_model_is_a_member_as_a_whole(own):
    """Copied, with its class known only here; sources stay."""
    before = state(own)
    told: list[str] = []

    model = gw.ensemble([source("half"), own], outputs={"own": "probabilities"}, report=told)

    assert state(own) == before
    expected = (np.asarray(run(source("half"), SERIES), "float32") + run(own, SERIES)) / 2
    np.testing.assert_allclose(run(model, SERIES), expected, **CLOSE)
    assert any("cannot be looked into" in note and "only be loaded where its class is known" in note for note in told)
    inside = bits(model.get_layer("own"))
    moved(model, SERIES)
    assert bits(model.get_layer("own")) != inside
    assert state(own) == before


@pytest.mark.parametrize(
    ("verb", "options", "said"),
    [
        ("extract", {"at": "dense"}, "Own 'own' is not a graph of layers: its call is code of its own"),
        ("split", {"at": "dense"}, "code of its own"),
        ("insert", {"layer": "ReLU", "after": "dense"}, "code of its own"),
        ("rename", {"prefix": "a_"}, "code of its own"),
        ("swap_head", {"head": 3}, "own"),
        ("to_logits", {}, "own"),
    ],
)
def test_layers_inside_code_cannot_be_asked_for(verb, options, said, own):
    for call in (lambda: getattr(gw, verb)(own, **options), lambda: gw.check(verb, [own], **options)):
        with pytest.raises(gw.OptionError, match=said):
            call()


VERBS_OF_SHAPELESS = {
    "chain": {},
    "ensemble": {},
    "stack": {},
    "fuse": {"taps": ["deep", "deep"], "head": 3},
    "extract": {"at": "deep"},
    "split": {"at": "deep"},
    "swap_head": {"head": 3},
    "to_logits": {},
}


@pytest.mark.parametrize("verb", VERBS_OF_SHAPELESS)
def test_a_sequential_that_does_not_say_what_it_takes_is_refused(verb):
    """It has no weights yet, so nothing could be carried over; no verb makes some in silence."""
    shapeless = keras.Sequential([kl.Flatten(), kl.Dense(5, activation="softmax", name="deep")], name="shapeless")
    models = [source("uncalled"), shapeless] if VERBS[verb].takes == ("models",) else [shapeless]
    for call in (
        lambda: getattr(gw, verb)(*([models] if len(models) == 2 else models), **VERBS_OF_SHAPELESS[verb]),
        lambda: gw.check(verb, models, **VERBS_OF_SHAPELESS[verb]),
    ):
        with pytest.raises(gw.OptionError, match=r"shapeless.*(Input layer|not known)"):
            call()

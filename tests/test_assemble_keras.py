"""Keras models made of blocks of others: equal to calling the layers by hand, whatever the blocks are made of, or refused."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from typer.testing import CliRunner

import graftwork as gw
from graftwork.cli.app import app
from graftwork.compose.blocks import find_blocks
from graftwork.compose.forms import Forms, weights_of
from graftwork.errors import GraftworkError

pytestmark = pytest.mark.keras
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
HELD = ("norm", "attention", "norm2", "wide", "narrow")
IDS = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 9]], "int32")


def stir(model, seed):
    """Give every weight of a model a value of its own; what multiplies or divides is near 1."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * 0.4
        weight.assign(1 + abs(value) if weight.name in ("gamma", "moving_variance") else value)
    return model


def vit(name, seed, depth=6, width=8, units=5, *, plain=False, activation="gelu"):
    """Patches, pre-norm transformer blocks with dropout that grows with depth, a norm, a head; `plain` leaves names to Keras."""

    def named(text):
        return None if plain else text

    x = image = keras.Input((8, 8, 3), name="image")
    x = kl.Reshape((16, width), name="tokens")(kl.Conv2D(width, 2, 2, name="patch")(x))
    for k in range(depth):
        y = kl.LayerNormalization(name=named(f"block_{k}_norm"))(x)
        y = kl.MultiHeadAttention(2, 3, name=named(f"block_{k}_attention"))(y, y)
        x = kl.Add(name=named(f"block_{k}_add"))([x, y])
        y = kl.LayerNormalization(name=named(f"block_{k}_norm2"))(x)
        y = kl.Dense(2 * width, activation, name=named(f"block_{k}_wide"))(y)
        y = kl.Dropout(0.1 * k, name=named(f"block_{k}_drop"))(y)
        y = kl.Dense(width, name=named(f"block_{k}_narrow"))(y)
        x = kl.Add(name=named(f"block_{k}_out"))([x, y])
    x = kl.GlobalAveragePooling1D(name="pool")(kl.LayerNormalization(name="norm")(x))
    return stir(keras.Model(image, kl.Dense(units, name="head")(x), name=name), seed)


def vit_by_hand(runs, value):
    """Call the layers of transformers one by one; runs of (model, first, end)."""
    first, last = runs[0][0].get_layer, runs[-1][0].get_layer
    x = first("tokens")(first("patch")(value))
    for model, begin, end in runs:
        for k in range(begin, end):
            layers = {name: model.get_layer(f"block_{k}_{name}") for name in HELD}
            y = layers["norm"](x)
            x = x + layers["attention"](y, y)
            x = x + layers["narrow"](layers["wide"](layers["norm2"](x)))
    return last("head")(last("pool")(last("norm")(x)))


def residual(name, seed, depth=4):
    """A stem that ends as blocks do, residual convolutions with BatchNormalization, left to name themselves, and a pooled head."""
    image = keras.Input((8, 8, 3), name="image")
    x = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(4, 3, padding="same")(image)))
    for _ in range(depth):
        y = kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(4, 3, padding="same")(x)))
        y = kl.BatchNormalization()(kl.Conv2D(4, 3, padding="same")(y))
        x = kl.ReLU()(kl.Add()([x, y]))
    x = kl.GlobalAveragePooling2D()(x)
    return stir(keras.Model(image, kl.Dense(5, "softmax")(x), name=name), seed)


def nested(name, seed, depth=4):
    """Blocks that are models, in a backbone that is a model too."""
    x = features = keras.Input((8, 8, 4))
    for k in range(depth):
        given = keras.Input((8, 8, 4))
        y = kl.Conv2D(4, 3, padding="same", activation="tanh", name="conv")(kl.LayerNormalization(name="norm")(given))
        x = keras.Model(given, kl.Add(name="add")([given, y]), name=f"stage_{k}")(x)
    backbone = keras.Model(features, x, name="backbone")
    image = keras.Input((8, 8, 3), name="image")
    y = kl.Flatten(name="flat")(backbone(kl.Conv2D(4, 1, name="stem")(image)))
    y = kl.Dense(6, name="second")(kl.Dense(6, name="first")(y))  # two that are not quite alike
    return stir(keras.Model(image, y, name=name), seed)


def text(name, seed, depth=3):
    """Tokens with a mask from the embedding, attention with one computed beside it, and a pooling that takes the first."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    seen = keras.ops.expand_dims(keras.ops.not_equal(ids, 3), 1)
    x = kl.Embedding(10, 6, mask_zero=True)(ids)
    for _ in range(depth):
        y = kl.MultiHeadAttention(2, 3)(x, x, attention_mask=seen)
        x = kl.LayerNormalization()(kl.Add()([x, y]))
        x = kl.LayerNormalization()(kl.Add()([x, kl.Dense(6, "relu")(x)]))
    return stir(keras.Model(ids, kl.Dense(4)(kl.GlobalAveragePooling1D()(x)), name=name), seed)


def plain_chain(name, seed, depth=5, width=6):
    """A Sequential of equal dense layers between two others."""
    layers = [keras.Input((3,)), kl.Dense(width, "tanh"), *(kl.Dense(width, "tanh") for _ in range(depth)), kl.Dense(2)]
    return stir(keras.Sequential(layers, name=name), seed)


MAKERS = {
    "vit": (vit, 6, IMAGES),
    "residual": (residual, 4, IMAGES),
    "nested": (nested, 4, IMAGES),
    "text": (text, 3, IDS),
    "chain": (plain_chain, 5, RNG.normal(size=(3, 3)).astype("float32")),
}


def reloaded(model, folder):
    """Return a model saved and loaded with nothing but Keras."""
    model.save(folder / "again.keras")
    return keras.saving.load_model(folder / "again.keras")


def equal(one, other):
    """Assert equality to the last bit."""
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other), strict=True)


@pytest.mark.parametrize("kind", MAKERS)
def test_put_together_again_a_model_is_itself(kind, tmp_path):
    """Halves of a model give the model: the same values in and out of a file, the same weights under the same names; sources stay."""
    make, count, value = MAKERS[kind]
    model = make(kind, 1)
    before = [np.array(weight) for weight in model.weights]
    expected = model(value)

    again = gw.assemble([(model, 0, count // 2), (model, count // 2, count)])

    equal(again(value), expected)
    equal(reloaded(again, tmp_path)(value), expected)
    assert again.count_params() == model.count_params()
    assert [np.array(w).tobytes() for w in model.weights] == [w.tobytes() for w in before]
    if kind != "nested":  # whose backbone is laid flat

        def named(model):
            return {
                (layer.name, w.path.rpartition("/")[2]): np.array(w) for layer in model.layers for w in layer.weights
            }

        mine, theirs = named(again), named(model)
        assert mine.keys() == theirs.keys()
        assert all(mine[key].tobytes() == theirs[key].tobytes() for key in theirs)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_block_that_is_used_twice_becomes_two(kind, tmp_path):
    """The result is as deep as the runs say, it reloads, and the two are equal until one of them is changed."""
    make, _, value = MAKERS[kind]
    model = make("a", 1, 3)

    deep = gw.assemble([(model, 0, 3), (model, 1, 2)])

    equal(reloaded(deep, tmp_path)(value), deep(value))
    blocks = find_blocks("deep", deep, Forms()).steps
    assert len(blocks) == 4
    for steps in zip(blocks[1], blocks[3], strict=True):
        for one, other in zip(*map(weights_of, steps), strict=True):
            equal(one, other)
            one.assign(np.array(one) + 1)
            assert not np.array_equal(np.array(one), np.array(other))


def test_layers_of_two_transformers_called_by_hand():
    """A:0-4 and B:2-6: A's patches, four blocks of A, four of B, B's norm and head of another width; names count on."""
    a, b = vit("a", 1), vit("b", 2, units=7)
    runs = [(a, 0, 4), (b, 2, 6)]
    report = []

    made = gw.assemble(runs, report=report)

    np.testing.assert_allclose(made(IMAGES), vit_by_hand(runs, IMAGES), rtol=1e-6, atol=1e-6)
    names = [layer.name for layer in made.layers if "_attention" in layer.name]
    assert names == [f"block_{k}_attention" for k in range(8)]
    assert "a has 6 blocks of 8 calls on (None, 16, 8) float32" in report[0]
    ends = [note.partition("; ")[2] for note in report if "blocks of" in note]
    assert (
        ends == ["the first ends in 'block_0_out', the last in 'block_5_out'"] * 2
    )  # in the models, not in the result
    assert any("before the blocks is from a" in note and "behind them from b" in note for note in report)


def test_names_that_keras_gives_are_counted_on():
    """`dense`, `dense_1`, … of a model that nobody named: the block behind the last gets the next number."""
    keras.backend.clear_session()
    model = vit("a", 1, depth=2, plain=True)
    made = gw.assemble([(model, 0, 2), (model, 0, 1)])
    names = [layer.name for layer in made.layers if isinstance(layer, kl.MultiHeadAttention)]
    assert names == ["multi_head_attention", *(f"multi_head_attention_{k}" for k in (1, 2))]
    assert len({layer.name for layer in made.layers}) == len(made.layers)


def test_masks_reach_every_block():
    """The mask of the embedding and the one of the attention hold in blocks of both models, as calling the layers by hand says."""
    a, b = text("a", 1), text("b", 2)
    made = gw.assemble([(a, 0, 2), (b, 0, 3)])

    def layers(model, kind):
        return [layer for layer in model.layers if isinstance(layer, kind)]  # in the order of the graph

    x = layers(a, kl.Embedding)[0](IDS)
    for model, count in ((a, 2), (b, 3)):
        attention, norms = layers(model, kl.MultiHeadAttention), layers(model, kl.LayerNormalization)
        adds, dense = layers(model, kl.Add), layers(model, kl.Dense)
        for k in range(count):
            x = norms[2 * k](adds[2 * k]([x, attention[k](x, x, attention_mask=(IDS != 3)[:, None])]))
            x = norms[2 * k + 1](adds[2 * k + 1]([x, dense[k](x)]))
    by_hand = layers(b, kl.Dense)[-1](layers(b, kl.GlobalAveragePooling1D)[0](x, mask=IDS != 0))
    np.testing.assert_allclose(made(IDS), by_hand, rtol=1e-5, atol=1e-5)
    unmasked = layers(b, kl.Dense)[-1](keras.ops.mean(x, axis=1))
    assert not np.allclose(unmasked, by_hand, atol=1e-3)  # the mask matters


def test_a_scale_multiplies_the_weights_of_its_run_alone(tmp_path):
    """As merging the run's model by `passthrough`: weights times the scale, running statistics as they are; the other run is untouched."""
    a = residual("a", 1)
    a.save(tmp_path / "a.keras")
    gw.assemble([(tmp_path / "a.keras", 0, 2), (tmp_path / "a.keras", 1, 3, 0.3)], output=tmp_path / "out.keras")
    whole = gw.merge([tmp_path / "a.keras"], method="passthrough", scale=0.3, output=tmp_path / "scaled.keras")
    scaled, made = keras.saving.load_model(whole), keras.saving.load_model(tmp_path / "out.keras")
    plain, other, found = (find_blocks("m", model, Forms()).steps for model in (a, scaled, made))
    for steps, wanted in zip(found, [plain[0], plain[1], other[1], other[2]], strict=True):
        for step, like in zip(steps, wanted, strict=True):
            for one, two in zip(weights_of(step), weights_of(like), strict=True):
                equal(one, two)
    equal(made.layers[1].kernel, a.layers[1].kernel)


@pytest.mark.parametrize(
    ("architecture", "stages"),
    [
        (
            "ResNet50",
            {
                None: (5, "conv4_block2_1_conv", "conv4_block2_out"),
                "conv3_*": (3, "conv3_block2_1_conv", "conv3_block2_out"),
            },
        ),
        (
            "MobileNetV2",
            {None: (3, "block_7_expand", "block_7_add"), "block_12_*": (2, "block_11_expand", "block_11_add")},
        ),
        ("EfficientNetB0", {None: (3, "block6b_expand_conv", "block6b_add")}),
    ],
)
def test_stages_of_applications(architecture, stages):
    """The longest stage, or the one that is asked for: how many blocks, and where the first begins and ends."""
    model = getattr(keras.applications, architecture)(weights=None, input_shape=(32, 32, 3), classes=4)
    for block, (count, *ends) in stages.items():
        found = find_blocks(model.name, model, Forms(), block)
        assert (found.count, *found.ends(0)) == (count, *ends)


def test_a_stage_of_efficientnet_the_whole_way():
    """Two blocks of a stage swapped, and swapped back: the model is itself again, its adapted Normalization too."""
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=4)
    next(layer for layer in model.layers if isinstance(layer, kl.Normalization)).adapt(IMAGES)
    made = gw.assemble([(model, 1, 2), (model, 0, 1)], block="block4*")
    image = RNG.uniform(0, 255, size=(1, 32, 32, 3)).astype("float32")
    again = gw.assemble([(made, 1, 2), (made, 0, 1)], block="block4*")  # swapped back
    equal(again(image), model(image))


# Asked for ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of two transformers and of models that do not go with them."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in {
        "a": vit("a", 1),
        "b": vit("b", 2),
        "wide": vit("wide", 3, width=12),
        "relu": vit("relu", 4, activation="relu"),
        "shallow": residual("shallow", 5),
        "classifier": stir(keras.Sequential([keras.Input((3,)), kl.Dense(4), kl.ReLU(), kl.Dense(2)]), 1),
    }.items():
        model.save(folder / f"{name}.keras")
    shared = kl.Dense(4, name="again")
    x = given = keras.Input((4,))
    for _ in range(3):
        x = shared(x)
    keras.Model(given, kl.Dense(2)(x)).save(folder / "tied.keras")
    gw.convert(folder / "a.keras", folder / "a.safetensors")
    return folder


def test_the_three_ways_to_ask_give_the_same(folder, tmp_path, monkeypatch):
    """Python, the command line and a recipe write the same weights; the plan says where each block is from, reading none."""
    monkeypatch.chdir(folder)
    gw.assemble([("a.keras", 0, 2), ("b.keras", 1, 3, 0.5)], output=tmp_path / "one.keras", check=False)
    command = ["assemble", "a.keras:0-2", "b.keras:1-3*0.5", "-o", str(tmp_path / "two.keras"), "--no-check"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "a has 6 blocks" in done.output
    recipe = {
        "models": {"a": "a.keras", "b": "b.keras"},
        "steps": {
            "s": {
                "assemble": {"layers": [{"model": "a", "range": [0, 2]}, {"model": "b", "range": [1, 3], "scale": 0.5}]}
            },
            "mean": {"merge": {"method": "linear", "models": ["s", "s"]}},
        },
        "outputs": {"s": str(tmp_path / "three.keras"), "mean": str(tmp_path / "mean.keras")},
    }
    report = gw.plan(recipe)[0]
    notes = gw.run(recipe)["s"].notes  # looked at again in a fresh process

    assert any("what its members give one by one exactly" in note for note in notes), notes
    rows = [(row["block"], row["model"], row["was"], row["first"]) for row in report.tables["blocks"]]
    assert rows == [(k, m, n, f"block_{n}_norm") for k, (m, n) in enumerate([("a", 0), ("a", 1), ("b", 1), ("b", 2)])]
    models = [keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("one", "two", "three", "mean")]
    for other in models[1:]:
        equal(other(IMAGES), models[0](IMAGES))
    assert report.parameters["total"] == models[0].count_params()
    assert report.parameters["new"] == 0
    records = [gw.inspect(tmp_path / f"{name}.keras").provenance for name in ("one", "two", "three")]
    layers = [{"model": "a", "range": [0, 2]}, {"model": "b", "range": [1, 3], "scale": 0.5}]
    assert all(json.loads(json.dumps(record))["assemble"] == {"layers": layers} for record in records)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([("a", 0, 3), ("wide", 3, 6)], ["(None, 16, 8) float32", "wide on (None, 16, 12) float32"]),
        ([("a", 0, 3), ("relu", 3, 6)], ["block_0_wide", "'gelu' in a", "'relu' in relu"]),
        ([("a", 0, 3), ("shallow", 0, 2)], ["blocks of a work on (None, 16, 8)", "shallow on (None, 8, 8, 4)"]),
        ([("a", 0, 3), ("b", 3, 7)], ["b has the blocks 0 to 5", "3 to 7"]),
        ([("classifier", 0, 1)], ["classifier has no repeated blocks", "no two pieces"]),
        ([("tied", 0, 1)], ["tied has no repeated blocks", "'again'", "share its weights"]),
        ([("a", 0, 3), ("a.safetensors", 3, 6)], ["a is a Keras model", "weights alone"]),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(runs, words, folder, tmp_path):
    """By the plan already, with what was found in both; nothing is written."""
    runs = [(folder / (name if "." in name else f"{name}.keras"), *rest) for name, *rest in runs]
    names = {str(path): f"m{k}" if path.suffix == ".safetensors" else path.stem for k, (path, *_) in enumerate(runs)}
    recipe = {
        "models": {name: path for path, name in names.items()},
        "steps": {"s": {"assemble": {"layers": [{"model": names[str(p)], "range": [i, j]} for p, i, j in runs]}}},
        "outputs": {"s": str(tmp_path / "out.keras")},
    }
    for refused in (lambda: gw.plan(recipe), lambda: gw.assemble(runs, output=tmp_path / "out.keras")):
        with pytest.raises(GraftworkError) as caught:
            refused()
        for word in words:
            assert word in str(caught.value), str(caught.value)
    assert not list(tmp_path.iterdir())


def test_options_that_mean_nothing_here_are_refused(folder, tmp_path):
    """A dtype, a glob that no run of blocks fits, one for weights alone; NaN, unless it is allowed."""
    a = vit("a", 1)
    with pytest.raises(GraftworkError, match=r"dtype=float16.*convert"):
        gw.assemble([(a, 0, 1)], dtype="float16")
    with pytest.raises(GraftworkError, match=r"'stage_\*' matches; there are 6 blocks"):
        gw.assemble([(a, 0, 1)], block="stage_*")
    with pytest.raises(GraftworkError, match=r"block='x'.*weights alone"):
        gw.assemble([(folder / "a.safetensors", 0, 1)], block="x", output=tmp_path / "out.safetensors")
    relu = vit("relu", 4, activation="relu")
    mixed = gw.assemble([(a, 0, 3), (relu, 3, 6)], ignore="activation")
    assert [mixed.get_layer(f"block_{k}_wide").activation.__name__ for k in (2, 3)] == ["gelu", "relu"]
    a.get_layer("block_0_wide").bias.assign(np.full(16, np.nan))
    with pytest.raises(GraftworkError, match="NaN"):
        gw.assemble([(a, 0, 1)])
    gw.assemble([(a, 1, 2)])  # the block that holds it is not in
    assert np.isnan(gw.assemble([(a, 0, 1)], allow_nonfinite=True).get_layer("block_0_wide").bias).all()

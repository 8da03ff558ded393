"""New heads on trunks that stay still: on what models give, on features from inside them, in the place of their last layers."""

import numpy as np
import pytest
from composed import compose

from graftwork.compose import get
from graftwork.errors import MismatchError, OptionError, UnknownNameError

pytestmark = pytest.mark.keras

keras = pytest.importorskip("keras")
kl = keras.layers

RNG = np.random.default_rng(0)
X = RNG.uniform(0, 4, (16, 32, 32, 3)).astype(np.float32)
Y = RNG.integers(0, 3, 16)


def cnn(name="cnn", dtype="float32"):
    image = keras.Input((32, 32, 3), name="image")
    x = kl.Conv2D(4, 3, strides=4, dtype=dtype, name="conv")(image)
    x = kl.BatchNormalization(dtype=dtype, name="norm")(x)
    y = kl.GlobalAveragePooling2D(dtype=dtype, name="pool")(kl.ReLU(dtype=dtype)(x))
    return keras.Model(image, kl.Dense(3, activation="softmax", dtype=dtype, name="out")(y), name=name)


def transformer(name="transformer"):
    image = keras.Input((32, 32, 3), name="picture")
    x = kl.Dense(8, name="embed")(kl.Reshape((64, 48))(image))
    x = kl.LayerNormalization(name="norm")(kl.Add()([x, kl.MultiHeadAttention(2, 4, name="attention")(x, x)]))
    return keras.Model(image, kl.Dense(3, name="out")(kl.GlobalAveragePooling1D(name="pool")(x)), name=name)


def mobile(name="mobile"):
    base = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, weights=None, include_top=False, name="base")
    image = keras.Input((32, 32, 3), name="image")
    x = kl.GlobalAveragePooling2D(name="pool")(base(kl.Rescaling(0.5, name="scale")(image)))
    return keras.Model(image, kl.Dense(3, activation="softmax", name="out")(x), name=name)


def state(model):
    flags = [(layer.name, layer.trainable) for layer in model._flatten_layers()]
    return flags, [keras.ops.convert_to_numpy(weight).tobytes() for weight in model.weights]


def changed(model, x, y=Y):
    """Return how many weights training changes, and how many can train."""
    before = state(model)[1]
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, epochs=1, batch_size=8, verbose=0)
    return sum(a != b for a, b in zip(before, state(model)[1], strict=True)), len(model.trainable_weights)


def check(made, sources, x, tmp_path, trained):
    """Assert that the result is what its reference says, and that only its head moves, before and after loading."""
    assert made.reference is not None
    before = [state(source) for source in sources]
    np.testing.assert_allclose(made.model.predict(x, verbose=0), made.reference(x), rtol=1e-5, atol=1e-6)
    assert changed(made.model, x) == (trained, trained)
    made.model.save(tmp_path / "made.keras")
    again = keras.saving.load_model(tmp_path / "made.keras")
    np.testing.assert_array_equal(again.predict(x, verbose=0), made.model.predict(x, verbose=0))
    assert changed(again, x) == (trained, trained)
    assert [state(source) for source in sources] == before


@pytest.mark.parametrize("inline", [False, True])
def test_a_stack_trains_its_head_and_nothing_else(inline, tmp_path):
    """BatchNormalization, attention and half precision below; one input shared, whatever the members call it."""
    members = {"a": cnn(), "b": cnn(dtype="mixed_float16"), "c": transformer()}

    made = compose(get("stack")(hidden=[5], inline=inline), members)

    check(made, members.values(), X, tmp_path, 4)
    assert [row["values"] for row in made.tables["features"]] == [3, 3, 3]
    assert any("Dense(5, relu) → Dense(3, softmax); adds 68 untrained parameters" in note for note in made.notes)


def test_a_stack_of_texts(tmp_path):
    """Texts go through lookup tables and recurrent layers with masks, each member with its own input."""

    def reader(name):
        words = keras.Input((1,), dtype="string", name="words")
        ids = kl.TextVectorization(20, output_sequence_length=5, vocabulary=["tern", "gull", "auk"])(words)
        x = kl.Bidirectional(kl.LSTM(3))(kl.Embedding(20, 4, mask_zero=True)(ids))
        return keras.Model(words, kl.Dense(3, activation="softmax")(x), name=name)

    members = {"a": reader("a"), "b": reader("b")}
    texts = keras.ops.convert_to_tensor([["tern auk"], ["gull"], ["auk auk gull tern"], ["heron"]] * 4)

    made = compose(get("stack")(head=3, inputs="separate"), members)

    assert {tensor.name for tensor in made.model.inputs} == {"a_input", "b_input"}
    check(made, members.values(), {"a_input": texts, "b_input": texts}, tmp_path, 2)


def test_a_fusion_of_real_models(tmp_path):
    """Features by address, also inside nested models and several of one; what the taps do not need is left out."""
    members = {"a": mobile(), "b": cnn(dtype="mixed_float16"), "c": transformer()}
    taps = {"a": "base/block_3_project_BN", "b": ["conv", "pool"], "c": "attention"}

    made = compose(get("fuse")(taps=taps, head=3), members)

    check(made, members.values(), X, tmp_path, 2)
    assert [row["pooling"] for row in made.tables["features"]] == [
        "GlobalAveragePooling2D",
        "GlobalAveragePooling2D",
        "",
        "GlobalAveragePooling1D",
    ]
    names = {layer.name for layer in made.model._flatten_layers()}
    assert not {"block_4_expand", "out"} & names
    by_hand = keras.Model(members["c"].input, members["c"].get_layer("attention").output)(X)
    features = keras.Model(made.model.inputs, made.model.get_layer("features").output)(X)
    np.testing.assert_allclose(features[:, -8:], np.mean(by_hand, axis=1), rtol=1e-4, atol=1e-5)


def test_features_of_sequences_leave_padding_out():
    """Positions that are masked do not count in the average, nested or laid flat."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = kl.LSTM(3, return_sequences=True, name="read")(kl.Embedding(9, 4, mask_zero=True)(ids))
    model = keras.Model(ids, kl.Dense(2)(kl.GlobalAveragePooling1D()(x)), name="reader")
    values = np.array([[1, 2, 0, 0, 0], [3, 4, 5, 6, 7]])
    steps = np.asarray(keras.Model(ids, x)(values))
    expected = [steps[0, :2].mean(0), steps[1].mean(0)]
    for inline in (False, True):
        made = compose(get("fuse")(taps=["read", "read"], head=2, inline=inline), {"a": model, "b": model})
        features = keras.Model(made.model.inputs, made.model.get_layer("features").output)(values)
        np.testing.assert_allclose(features, np.tile(expected, 2), rtol=1e-5, atol=1e-6)


def test_swapping_a_head(tmp_path):
    """The last layer with weights goes and what follows; with an address, all that the new head does not stand on."""
    model = cnn()
    made = compose(get("swap_head")(head=3, freeze=True), {"m": model})
    check(made, [model], X, tmp_path, 2)
    assert "1 layer with 15 parameters is removed ('out')" in made.notes[0]

    model = mobile()
    deep = compose(
        get("swap_head")(head=["GlobalAveragePooling2D", 3], at="base/block_2_add", freeze=True), {"m": model}
    )
    check(deep, [model], X, tmp_path, 2)

    free = compose(get("swap_head")(head=3), {"m": cnn()}).model
    assert len(free.trainable_weights) == 6


def test_one_of_several_outputs_gets_a_new_head():
    """The other outputs stay as they are."""
    model = cnn()
    two = keras.Model(
        model.input,
        {"kind": model.output, "size": kl.Dense(1, name="size")(model.get_layer("pool").output)},
        name="two",
    )
    with pytest.raises(OptionError, match="port='kind'"):
        compose(get("swap_head")(head=5), {"two": two})

    made = compose(get("swap_head")(head=5, port="kind"), {"two": two})

    found = made.model(X)
    assert found["kind"].shape == (16, 5)
    np.testing.assert_array_equal(found["size"], two(X)["size"])


def test_what_does_not_go_together_is_refused():
    """Sizes, positions, names and heads that make no sense, each with what was found."""
    small = keras.Sequential([keras.Input((8, 8, 3)), kl.Flatten(name="flat"), kl.Dense(3, name="out")], name="small")
    with pytest.raises(MismatchError, match=r"\(None, 32, 32, 3\).*\(None, 8, 8, 3\).*separate"):
        compose(get("stack")(), {"a": cnn(), "b": small})
    body = keras.Sequential([keras.Input((32, 32, 3)), kl.Conv2D(2, 3)])
    with pytest.raises(MismatchError, match="use fuse"):
        compose(get("stack")(), {"a": cnn(), "b": body})
    with pytest.raises(MismatchError, match='pool="gap"'):
        compose(get("fuse")(taps=["conv", "pool"], head=3, pool="none"), {"a": cnn(), "b": cnn()})
    with pytest.raises(OptionError, match="says nothing of b"):
        compose(get("fuse")(taps={"a": "pool"}, head=3), {"a": cnn(), "b": cnn()})
    with pytest.raises(UnknownNameError, match="did you mean 'pool'"):
        compose(get("fuse")(taps=["pool", "poll"], head=3), {"a": cnn(), "b": cnn()})
    with pytest.raises(MismatchError, match="GlobalAveragePooling2D"):
        compose(get("swap_head")(head=3, at="conv"), {"a": cnn()})
    with pytest.raises(OptionError, match="nothing would be left"):
        compose(get("swap_head")(head=3), {"a": keras.Sequential([keras.Input((4,)), kl.Dense(2)])})
    for head, words in (([], "empty"), (0, "at least one"), ("Dens", "Dense")):
        with pytest.raises((OptionError, UnknownNameError), match=words):
            compose(get("stack")(head=head), {"a": cnn(), "b": cnn()})

"""Models loaded from every format that holds an architecture, those of Keras 2 rebuilt with the same outputs, and skeletons of files."""

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from graftwork.errors import OptionError, StoreError
from graftwork.models import fresh
from graftwork.models.live import load_model
from graftwork.models.skeleton import skeleton, weightless
from graftwork.stores import open_store

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
k3 = keras.layers

pytestmark = pytest.mark.keras

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(3, 8, 8, 3)).astype("float32")
WORDS = tf.constant([["u", "v"], ["v", "zz"]])


def filled(model):
    """Give a model weights that are neither zero nor the same in two places, and so small that outputs do not saturate."""
    for variable in model.weights:
        new = rng.uniform(0.1, 0.5, variable.shape) * (
            1 if "variance" in variable.name else rng.choice([-1, 1], variable.shape)
        )
        if "float" in str(variable.dtype):
            variable.assign(new)
    return model


def network(dtype="float32"):
    inner = keras.Sequential(
        [keras.Input((6, 6, 4)), k3.Conv2D(4, 3, dtype=dtype), k3.BatchNormalization()], name="inner"
    )
    image = keras.Input((8, 8, 3))
    x = k3.Reshape((16, 4))(inner(k3.Conv2D(4, 3, name="stem", dtype=dtype)(image)))
    return filled(keras.Model(image, k3.Dense(2)(k3.Bidirectional(k3.GRU(2), name="both")(x)), name="network"))


def lookup():
    layer = k3.StringLookup(output_mode="multi_hot", name="words")
    layer.adapt([["u", "v"]])
    words = keras.Input((2,), dtype="string")
    return keras.Model(words, k3.Dense(2)(layer(words)))


def sharded(folder, model, target):
    """Make an unzipped directory whose weights are in shards."""
    shutil.copytree(folder, target)
    (target / "model.weights.h5").unlink()
    model.save_weights(target / "model.weights.json", max_shard_size=1e-6)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Each model in each format, and what the models answer."""
    folder = tmp_path_factory.mktemp("files")
    answers = {}
    for name, model, data in (
        ("float", network(), IMAGES),
        ("half", network("bfloat16"), IMAGES),
        ("lookup", lookup(), WORDS),
    ):
        model.compile("sgd", "mse")
        model.save(folder / f"{name}.keras")
        with zipfile.ZipFile(folder / f"{name}.keras") as archive:
            archive.extractall(folder / f"{name}_dir")
        sharded(folder / f"{name}_dir", model, folder / f"{name}_shards")
        shutil.copy(folder / f"{name}.keras", folder / f"{name}.zip")
        model.save(folder / f"{name}.h5")
        answers[name] = data, keras.ops.convert_to_numpy(model(data))
    return folder, answers


@pytest.mark.parametrize("ending", [".keras", ".h5", ".zip", "_dir", "_shards"])
@pytest.mark.parametrize("name", ["float", "half", "lookup"])
def test_every_format_with_an_architecture_is_loaded(files, name, ending):
    """To the last bit, not compiled, under the name that is wanted; its skeleton has the same variables and outputs."""
    folder, answers = files
    path = folder / f"{name}{ending}"
    if (name, ending) == ("lookup", ".h5"):
        for call in (load_model, skeleton):
            with pytest.raises(StoreError, match=r"vocabulary of layer 'words'.*\.keras"):
                call(path)
        return
    model = load_model(path, name="given")
    data, want = answers[name]
    assert model.name == "given" and not model.compiled
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(model(data)), want)
    with open_store(path) as reader:
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(load_model(reader)(data)), want)
        with weightless():
            found = [skeleton(path, name="bones"), skeleton(SimpleNamespace(path=Path("step"), header=reader.header))]
            again = skeleton(reader)  # the header is as it was
    for bones in (*found, again):
        assert [(tuple(v.shape), v.dtype, v.trainable) for v in bones.weights] == [
            (tuple(v.shape), v.dtype, v.trainable) for v in model.weights
        ]
        assert all(v._value is None for v in bones.weights)
        assert [(o.shape, o.dtype) for o in bones.outputs] == [(o.shape, o.dtype) for o in model.outputs]
    assert found[0].name == "bones"


def test_a_model_without_weights_is_loaded(tmp_path):
    """One that only prepares inputs."""
    keras.Sequential([keras.Input((4,)), k3.Rescaling(2.0)]).save(tmp_path / "double.keras")
    np.testing.assert_array_equal(load_model(tmp_path / "double.keras")(np.ones((1, 4))), [[2.0] * 4])


def test_what_holds_no_model_is_refused(files, tmp_path):
    """With what to do."""
    folder, _ = files
    network().save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(StoreError, match=r"without an architecture.*load_weights"):
        load_model(tmp_path / "a.weights.h5")
    with pytest.raises(StoreError, match="without an architecture"), weightless():
        skeleton(tmp_path / "a.weights.h5")
    shutil.copytree(folder / "float_dir", tmp_path / "preset")
    (tmp_path / "preset" / "task.json").write_text("{}")
    with pytest.raises(StoreError, match="KerasHub preset"):
        load_model(tmp_path / "preset")
    for name in ("a/b", ""):
        with pytest.raises(OptionError, match="slash"):
            load_model(folder / "float.keras", name=name)


class Twice(k3.Layer):
    def call(self, x):
        return 2 * x


def test_code_and_classes_are_the_users_to_allow(tmp_path):
    """A file's code is run, and a class looked up, only where the user says so."""
    inputs = keras.Input((4,))
    model = keras.Model(inputs, k3.Dense(2)(k3.Lambda(lambda x: x + 1, name="more")(inputs)))
    for ending in ("keras", "h5"):
        path = tmp_path / f"code.{ending}"
        model.save(path)
        for call in (load_model, skeleton):
            with pytest.raises(StoreError, match=r"layer 'more' \(Lambda\).*safe_mode=False"):
                call(path)
        np.testing.assert_array_equal(load_model(path, safe_mode=False)(np.ones((1, 4))), model(np.ones((1, 4))))
    path = tmp_path / "own.keras"
    keras.Model(inputs, k3.Dense(2)(Twice()(inputs))).save(path)
    for call in (load_model, skeleton):
        with pytest.raises(StoreError, match=r"'Twice' does not come with Keras.*custom_objects"):
            call(path)
        assert call(path, custom_objects={"Twice": Twice}).layers[1].__class__ is Twice


# Keras 2 ------------------------------------------------------------------------------------------------------------

tk = pytest.importorskip("tf_keras")
k2 = tk.layers


def sequential():
    return tk.Sequential(
        [
            k2.Conv2D(4, 3, input_shape=(8, 8, 3), activation="relu"),
            k2.BatchNormalization(),
            k2.DepthwiseConv2D(3),
            k2.LeakyReLU(0.2),
            k2.Conv2DTranspose(3, 3, strides=2),
            k2.PReLU(shared_axes=[1, 2]),
            k2.SpatialDropout2D(0.2),
            k2.SeparableConv2D(4, 2),
            k2.GlobalAveragePooling2D(),
            k2.Dense(3, "softmax", kernel_regularizer="l2"),
        ]
    )


def nested():
    """Several outputs, sub-models called twice, a mixed precision, names that Keras 3 forbids."""
    encoder = tk.Sequential(
        [k2.Input((5,)), k2.Dense(5, activation="swish"), k2.BatchNormalization(), k2.LayerNormalization()],
        name="encoder",
    )
    inner = k2.Input((5,))
    forked = tk.Model(inner, [k2.Dense(5, name="one/dense")(inner), k2.Dense(5, "elu")(inner)], name="forked")
    inputs = k2.Input((5,))
    a, b = forked(encoder(inputs))
    a2, _ = forked(a)
    x = k2.Concatenate()([a2, b, encoder(b)])
    x = k2.Dense(4, dtype=tk.mixed_precision.Policy("mixed_float16"), name="block/half")(x)
    return tk.Model(inputs, {"b": k2.Activation("tanh", dtype="float32")(x), "a": k2.Dense(2)(a2)})


def test_keras_2_is_not_a_class_that_somebody_should_define(tmp_path, monkeypatch):
    """Keras 3 does not know its `Functional`, and says so in the words in which it speaks of the user's classes."""
    inputs = k2.Input((3,))
    tk.Model(inputs, k2.Dense(2)(inputs)).save(path := tmp_path / "old.keras")
    said = "TypeError: Could not locate class '{}'. Make sure custom classes and functions are decorated"
    for name, reason in (
        ("Functional", "Keras 2 wrote it, .*gw.load rebuilds it"),
        ("Own", "the class 'Own' does not come with Keras"),
    ):
        answer = {"error": said.format(name)}
        monkeypatch.setattr(fresh, "answer_of", lambda *_, answer=answer: answer)
        with pytest.raises(StoreError, match=reason):
            fresh.load_in_fresh_process(path)


def recurrent():
    inputs = k2.Input((5, 4))
    x = k2.Bidirectional(k2.LSTM(2, return_sequences=True))(inputs)
    x = k2.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True)
    x = k2.LayerNormalization()(k2.TimeDistributed(k2.Dense(4))(x))
    y = k2.GRU(3, return_sequences=True)(x)
    return tk.Model(
        inputs, [k2.RNN([k2.GRUCell(4), k2.LSTMCell(4)])(x), k2.SimpleRNN(2)(y), k2.Attention(use_scale=True)([x, x])]
    )


def masked():
    """A mask goes along with states, which Keras 3 would forget."""
    tokens, state = k2.Input((6,), dtype="int32"), k2.Input((3,))
    x = k2.LSTM(3, return_sequences=True)(k2.Embedding(7, 3, mask_zero=True)(tokens))
    return tk.Model([tokens, state], k2.LSTM(3)(x, initial_state=[state, k2.Dense(3)(state)]))


def siamese():
    a, b, inner = k2.Input((4,)), k2.Input((4,)), k2.Input((4,))
    tower = tk.Model(inner, k2.Dense(3)(inner), name="tower")
    return tk.Model([a, b], k2.Dot(1)([tower(a), tower(b)]))


def normalized():
    layer = k2.Normalization()
    layer.adapt(rng.normal(2, 3, (9, 4)))
    inputs = k2.Input((4,))
    return tk.Model(inputs, k2.Dense(2)(layer(inputs)))


def looked_up():
    text, words = k2.TextVectorization(output_sequence_length=4), k2.StringLookup(output_mode="multi_hot")
    text.adapt(["u zz", "zz"])
    words.adapt([["u", "v"]])
    a, b = k2.Input((1,), dtype="string"), k2.Input((2,), dtype="string")
    return tk.Model([a, b], [k2.Dense(2)(words(b)), k2.LSTM(2)(k2.Embedding(9, 2)(text(a)))])


def image_arithmetic():
    """What `preprocess_input` and people write between layers; a layer has the name that an operation would get."""
    image = k2.Input((8, 8, 3))
    x = 1 - 2.0 * (tf.cast(image, tf.float32) / 127.5 - 1.0)
    x = tf.nn.bias_add(x[..., ::-1][:, 1:, :, 0:2], [1.0, 2.0])
    x = tf.reduce_mean(x, axis=[1, 2], keepdims=True)
    a, b = tf.split(tf.concat([x, x + 1], -1), 2, axis=-1)
    x = tf.reshape(tf.stack([a, b], axis=1), [-1, 4])
    x = tf.where(x > 0, x, 0.5)
    x = tf.nn.relu(x + k2.Dense(4, name="add")(x)) ** 2
    x = abs(tk.backend.sum(x, axis=-1)[:, None])
    return tk.Model(image, x @ tf.ones((1, 2)))


def sequence_arithmetic():
    inputs = k2.Input((6, 4))
    x = tf.squeeze(tf.expand_dims(tf.transpose(inputs, [0, 2, 1]), 1), [1])
    x = tf.clip_by_value(tf.math.l2_normalize(tf.nn.softmax(x), axis=-1), 0.1, 0.9)
    x = tf.tile(tf.nn.leaky_relu(tf.nn.gelu(tf.pad(x, [[0, 0], [1, 0], [0, 2]])), 0.3), [1, 2, 1])
    y = k2.Dense(3)(tf.maximum(tf.sqrt(tf.abs(x) + 1e-3), 0.2))
    z = tf.nn.silu(tf.matmul(y, y, transpose_b=True)) / 2.0
    a, b = tf.unstack(tf.reduce_mean(y, 1)[:, :2], axis=1)
    outputs = {
        "most": tf.math.reduce_max(tf.sigmoid(z), 1),
        "where": tf.argmax(z, -1),
        "sum": tf.reduce_sum(y, axis=(1, 2)),
    }
    return tk.Model(inputs, {**outputs, "product": a * b})


def nodes():
    """Operations as Keras 2.4 and before kept them."""
    from tf_keras.src.engine.base_layer import TensorFlowOpLayer

    def node(op, constants=None, **attributes):
        made = {"name": op, "op": op, "input": ["x", "y"], "attr": {"T": {"type": "DT_FLOAT"}, **attributes}}
        return TensorFlowOpLayer(made, op, constants)

    inputs = k2.Input((4,))
    x = k2.Dense(3)(inputs)
    y = node("RealDiv", {0: np.float32(3.0)})(node("AddV2", {1: 2.0})(x))
    y = node("Mean", {1: [1]}, keep_dims={"b": True}, Tidx={"type": "DT_INT32"})(node("Mul")([y, x]))
    return tk.Model(inputs, y)


def mobile():
    return tk.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), classes=4, alpha=0.35)


OLD = {
    build.__name__: build
    for build in (
        *(sequential, nested, recurrent, masked, siamese, normalized, looked_up),
        *(image_arithmetic, sequence_arithmetic, nodes, mobile),
    )
}


SAVED = {"looked_up": ("keras",), "image_arithmetic": ("h5",), "mobile": ("h5",)}
"""Keras 2 cannot save all of them in both formats, and one of them takes long."""


def inputs_of(model):
    found = []
    for tensor in model.inputs:
        shape = [5, *tensor.shape[1:]]
        if tensor.dtype == tf.string:
            found.append(tf.constant(rng.choice(["u", "v", "zz"], shape)))
        elif tensor.dtype.is_integer:
            found.append(tf.constant(rng.integers(0, 3, shape), tf.int32))
        else:
            found.append(tf.constant(rng.normal(size=shape) * 2, tf.float32))
    return found if len(found) > 1 else found[0]


@pytest.mark.parametrize(
    ("name", "ending"), [(name, ending) for name in OLD for ending in SAVED.get(name, ("h5", "keras"))]
)
def test_a_model_of_keras_2_answers_in_keras_3_as_it_did(name, ending, tmp_path):
    """And again after it was saved by Keras 3 and loaded without custom objects; layers keep their names."""
    tk.backend.clear_session()
    old = OLD[name]()
    if name not in ("looked_up", "normalized"):
        filled(old)
    path = tmp_path / f"old.{ending}"
    old.save(path)
    data = inputs_of(old)
    want = tf.nest.flatten(old(data, training=False))
    new = load_model(path, name="new")
    new.save(tmp_path / "new.keras")
    for model in (new, keras.saving.load_model(tmp_path / "new.keras")):
        for found, wanted in zip(tf.nest.flatten(model(data, training=False)), want, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-3 if name == "nested" else 1e-5, atol=1e-6)
    inputs = {layer.name for layer in new.layers if isinstance(layer, k3.InputLayer)}
    assert {layer.name.replace("/", "_") for layer in old.layers} <= {
        op.name for op in getattr(new, "operations", new.layers)
    } | inputs
    with weightless():
        bones = skeleton(path)
    assert [(tuple(v.shape), v.dtype) for v in bones.weights] == [(tuple(v.shape), v.dtype) for v in new.weights]


class Half(k2.Layer):
    def call(self, x):
        return x / 2


def refused(layer):
    inputs = k2.Input((4, 4, 4))
    return tk.Model(inputs, k2.Dense(2)(layer(inputs)))


REFUSED = {
    "a Lambda of code": (
        lambda: refused(k2.Lambda(lambda x: x + 1, name="more")),
        r"layer 'more' is a Lambda.*safe_mode=False",
    ),
    "a class of the user's": (
        lambda: refused(Half(name="half")),
        r"layer 'half' is a .*Half.*--custom-objects FILE.py",
    ),
    "a class that is gone": (
        lambda: refused(k2.LocallyConnected2D(2, 3, name="local")),
        r"layer 'local' is a LocallyConnected2D.*Keras 3",
    ),
    "a setting that is gone": (
        lambda: refused(
            lambda x: k2.LSTM(2, time_major=True, return_sequences=True, name="turned")(k2.Reshape((16, 4))(x))
        ),
        r"layer 'turned'.*time_major=True",
    ),
    "an operation": (
        lambda: refused(lambda x: tf.image.adjust_hue(x[..., :3], 0.2)),
        r"tf\.image\.adjust_hue.*not translated",
    ),
    "an argument": (
        lambda: refused(tf.math.l2_normalize),
        r"tf\.math\.l2_normalize(_\d+)?'.*over all axes, batch included",
    ),
    "an activation that is another one now": (
        lambda: refused(k2.Conv2D(2, 3, activation="hard_sigmoid", name="hard")),
        r"layer 'hard' .*hard_sigmoid.*x/6",
    ),
    "a shape made while it runs": (
        lambda: refused(lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 4, 16]))),
        r"tf\..*not translated",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_keras_3_cannot_compute_is_refused(what, tmp_path):
    """It is said which layer, and why; no other model comes out."""
    build, message = REFUSED[what]
    build().save(tmp_path / "old.h5")
    for call in (load_model, skeleton):
        with pytest.raises(StoreError, match=message):
            call(tmp_path / "old.h5")

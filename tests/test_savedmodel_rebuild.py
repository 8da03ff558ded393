"""Models of Keras 2 rebuilt from their SavedModels: the same variables in the same places, the same answers, plain and trainable files."""

import importlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import graftwork as gw
from graftwork.errors import StoreError
from graftwork.models.examples import inputs_for
from graftwork.models.savedmodel.rebuild import rebuilt, refusal
from graftwork.stores import open_store
from graftwork.stores.keras2_program import Keras2Program
from graftwork.stores.saved_program import read_keras_metadata
from graftwork.stores.tf_protos import field, fields, inner
from graftwork.tensor import Role

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
k2 = pytest.importorskip("tf_keras")
SavedModel = importlib.import_module("tensorflow.core.protobuf.saved_model_pb2").SavedModel
L = k2.layers

pytestmark = pytest.mark.keras

rng = np.random.default_rng(0)


def filled(model):
    """Give a model weights that differ everywhere, and so small that outputs do not saturate."""
    for variable in model.weights:
        # vocabularies, weights of words and adapted statistics are what adapting has made of them
        if not hasattr(variable, "shape") or variable.name.startswith(("Variable", "mean", "variance", "summary")):
            continue
        new = rng.uniform(0.1, 0.5, variable.shape)
        if "variance" not in variable.name:
            new *= rng.choice([-1, 1], variable.shape)
        if variable.dtype.is_floating:
            variable.assign(new.astype(variable.dtype.as_numpy_dtype))
    return model


def sequential():
    """Built by being called, so that its configuration gets its input afterwards."""
    model = k2.Sequential([L.Dense(3, activation="relu"), L.Dropout(0.2), L.Dense(2)], name="chain")
    model(np.ones((2, 4), "float32"))
    return model


def nested():
    """A sequence, a graph and a layer that are used twice or lie inside others."""
    image = k2.Input((8, 8, 3), name="image")
    inner_ = k2.Sequential([L.Conv2D(4, 3), L.BatchNormalization()], name="inner")
    features = k2.Input((4,))
    deepest = k2.Sequential([L.Dense(4), L.BatchNormalization()], name="deepest")
    head = k2.Model(features, L.Dense(4, name="dense")(deepest(features)), name="head")
    shared = L.Dense(4, name="shared")
    x = L.GlobalAveragePooling2D()(inner_(image))
    return k2.Model(image, [shared(head(x)), head(shared(x)) * 2.0], name="net")


def vision():
    """Layers over images, with their statistics."""
    image = k2.Input((9, 9, 3))
    x = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(image)
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = L.SeparableConv2D(4, 3, use_bias=False)(x)
    x = L.BatchNormalization(scale=False)(x)
    x = L.PReLU(shared_axes=[1, 2])(L.Conv2DTranspose(4, 2)(x))
    x = L.GroupNormalization(2)(L.LeakyReLU(0.1)(x))
    x = L.SpatialDropout2D(0.1)(L.Add()([x, L.Conv2D(4, 1)(x)]))
    return k2.Model(image, L.Dense(2)(L.Flatten()(x)))


def sequences():
    """Recurrent layers of all kinds, attention, wrappers."""
    words = k2.Input((6,), dtype="int32", name="words")
    x = L.Embedding(11, 4, mask_zero=False)(words)
    x = L.Bidirectional(L.LSTM(3, return_sequences=True))(x)
    x = L.Bidirectional(
        L.GRU(2, return_sequences=True), backward_layer=L.LSTM(2, return_sequences=True, go_backwards=True)
    )(x)
    x = L.RNN(L.StackedRNNCells([L.GRUCell(3), L.LSTMCell(4)]), return_sequences=True)(x)
    x = L.LayerNormalization()(L.MultiHeadAttention(2, 3)(x, x))
    x = L.TimeDistributed(L.Dense(4))(L.SimpleRNN(3, return_sequences=True)(x))
    x = L.Attention(use_scale=True)([x, x])
    x = L.Conv1D(3, 2)(L.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d")(x))
    return k2.Model(words, L.GlobalMaxPooling1D()(x))


def adapted():
    """Layers that were adapted to data, whose state is tables and statistics."""
    words, number, size = (
        k2.Input((2,), dtype="string", name="w"),
        k2.Input((1,), dtype="int64", name="n"),
        k2.Input((3,), name="s"),
    )
    seen = L.StringLookup(output_mode="multi_hot", num_oov_indices=2, name="seen")
    seen.adapt([["u", "v"], ["v", "ä b"]])
    given = L.StringLookup(vocabulary=["a", "b"], mask_token="", name="given")
    back = L.StringLookup(vocabulary=["a", "b"], invert=True, mask_token="", name="back")
    integers = L.IntegerLookup(output_mode="one_hot", name="integers")
    integers.adapt([3, 5, 5, 9])
    text = L.TextVectorization(output_mode="tf_idf", name="text")
    text.adapt(["u v", "v zz", "v"])
    scaled = L.Normalization(name="scaled")
    scaled.adapt(rng.normal(size=(20, 3)))
    joined = L.Concatenate()([seen(words), integers(number), scaled(size)])
    outputs = {"y": L.Dense(2)(joined), "word": back(given(words)), "text": text(L.Reshape((1,))(words[:, :1]))}
    return k2.Model([words, number, size], outputs)


def binned():
    """A layer whose bins were found by adapting it."""
    x = k2.Input((3,))
    bins = L.Discretization(num_bins=5)
    bins.adapt(rng.normal(size=(200, 3)))
    return k2.Model(x, L.Dense(2)(L.CategoryEncoding(5, output_mode="multi_hot")(bins(x))))


def half():
    """A model that computes in half precision and keeps its weights in single."""
    x = k2.Input((5,))
    policy = k2.mixed_precision.Policy("mixed_bfloat16")
    hidden = L.BatchNormalization(dtype=policy)(L.Dense(4, dtype=policy)(x))
    return k2.Model(x, L.Dense(2, dtype="float32")(hidden))


MODELS = {f.__name__: f for f in (sequential, nested, vision, sequences, adapted, binned, half)}


class Custom(L.Layer):
    """A layer of the user's."""

    def call(self, x):
        return x + 1


class Own(k2.Model):
    """A model of the user's."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.dense = L.Dense(2)

    def call(self, x):
        return self.dense(x)


class Own2(k2.Model):
    """A model of the user's that is made as a graph."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SavedModels of all of them; weights in canonical order beside."""
    place = tmp_path_factory.mktemp("saved")
    for name, make in MODELS.items():
        model = filled(make())
        if name == "nested":  # with all that training leaves behind
            model.compile("adam", "mse", metrics=[k2.metrics.MeanMetricWrapper(lambda a, b: a - b, name="own"), "mae"])
            model.fit(rng.normal(size=(4, 8, 8, 3)), [np.ones((4, 4)), np.ones((4, 4))], verbose=0)
        model.save(place / name)
        model.save(place / f"{name}.keras")
    x = k2.Input((3,))
    k2.Model(x, Custom()(L.Dense(2)(x))).save(place / "custom")
    k2.Model(x, L.Lambda(lambda t: t + 1)(L.Dense(2)(x))).save(place / "code")
    Own2(x, L.Dense(2)(x)).save(place / "own_graph")
    own = Own()
    own(np.ones((1, 3), "float32"))
    own.save(place / "own")
    return place


@pytest.mark.parametrize("name", MODELS)
def test_variables_have_the_names_and_values_that_the_keras_file_of_the_model_gives_them(folder, name):
    """The `.keras` file of tf_keras, which is read in an entirely other way, is the judge."""
    with Keras2Program(folder / name) as source, open_store(folder / f"{name}.keras") as judge:
        wanted = {n: s for n, s in judge.specs().items() if s.role is not Role.OPTIMIZER}
        found = source.specs()
        assert {n: (s.shape, s.role) for n, s in found.items()} == {n: (s.shape, s.role) for n, s in wanted.items()}
        for n, spec in found.items():
            a, b = (np.empty(spec.size, reader.specs()[n].dtype) for reader in (source, judge))
            source.read_into(n, 0, a)
            judge.read_into(n, 0, b)
            np.testing.assert_array_equal(a, b, err_msg=n)


@pytest.mark.parametrize("name", MODELS)
def test_rebuilt_models_say_what_the_savedmodel_says(folder, name, tmp_path):
    """Compared by us with other inputs than rebuilding itself does, after a way through a plain file that loads without graftwork."""
    found = rebuilt(folder / name)
    assert "the model answers as signature 'serving_default'" in found.note
    found.model.save(tmp_path / "plain.keras")
    model = keras.saving.load_model(tmp_path / "plain.keras")
    signature = tf.saved_model.load(str(folder / name)).signatures["serving_default"]
    arrays = keras.tree.flatten(inputs_for(model, batch=3, seed=7))
    names = [t.name for t in model.inputs]
    specs = signature.structured_input_signature[1]
    if set(names) != set(specs):
        names = list(specs)
        assert len(names) == 1
    wanted = signature(
        **{
            n: tf.cast(a, specs[n].dtype) if a.dtype.kind != "U" else tf.constant(a)
            for n, a in zip(names, arrays, strict=True)
        }
    )
    said = keras.tree.flatten(model([tf.constant(a) for a in arrays] if len(arrays) > 1 else tf.constant(arrays[0])))
    assert len(said) == len(wanted)
    for tensor in said:
        assert any(
            tensor.shape == w.shape
            and (tensor.dtype == tf.string) == (w.dtype == tf.string)
            and (
                np.array_equal(tensor, w)
                if w.dtype == tf.string
                else np.allclose(tensor, w, rtol=0, atol=1e-2 if name == "half" else 1e-5)
            )
            for w in wanted.values()
        )


def test_a_rebuilt_model_is_trained_as_a_whole(folder):
    """All that was trainable is, and statistics move; only what stands before a mean that is taken away has no gradient."""
    model = rebuilt(folder / "nested").model
    before = [np.array(v) for v in model.weights]
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    model.fit(rng.normal(size=(8, 8, 8, 3)), [np.ones((8, 4)), np.ones((8, 4))], verbose=0)
    changed = {v.path: not np.array_equal(a, v) for a, v in zip(before, model.weights, strict=True)}
    assert [path for path, moved in changed.items() if not moved] in ([], ["conv2d/bias"])
    assert len(model.trainable_weights) == len(model.weights) - 4


def test_what_cannot_be_rebuilt_is_told_from_files_alone(folder):
    """The kind of result is known in a process that has neither TensorFlow nor Keras."""
    script = (
        "import sys; from pathlib import Path; from graftwork.models.savedmodel.rebuild import refusal\n"
        "print([refusal(Path(p)) for p in sys.argv[1:]]); assert not {'keras', 'tensorflow', 'tf_keras'} & set(sys.modules)"
    )
    names = ["nested", "own", "own_graph", "custom"]
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(folder / n) for n in names)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    nested_, own, own_graph, custom = eval(done.stdout)
    assert nested_ is None
    assert own.startswith("own is a Own, a class of its own")
    assert "Own2" in own_graph
    assert "Custom" in custom


def test_code_in_the_file_is_not_run(folder):
    """Neither while planning nor while rebuilding, unless that is asked for."""
    with pytest.raises(StoreError, match="Python code in the file"):
        rebuilt(folder / "code")


def test_functions_of_the_users_are_given(tmp_path):
    """By Python and in a recipe: with the function that activations name, a plain model, which is looked at as ever."""

    def bent(values):
        return tf.where(values > 0, values, values / 4)

    x = k2.Input((5,))
    model = filled(k2.Model(x, L.Activation(bent)(L.Dense(3, activation=bent)(x))))
    model.save(tmp_path / "bent")
    (tmp_path / "own.py").write_text(
        "from keras import ops\n\n\ndef bent(values):\n    return ops.where(values > 0, values, values / 4)\n"
    )
    with pytest.raises(StoreError, match=r"activation 'bent', .*; give that function \(--custom-objects"):
        gw.savedmodel.bridge(tmp_path / "bent", result="rebuild")
    recipe = {
        "models": {"served": str(tmp_path / "bent")},
        "custom_objects": [str(tmp_path / "own.py")],
        "steps": {"plain": {"savedmodel_bridge": {"source": "served", "result": "rebuild"}}},
        "outputs": {"plain": str(tmp_path / "plain.keras")},
    }
    notes = gw.run(recipe)["plain"].notes
    assert "to load it, Keras needs custom_objects with bent" in notes
    assert any(note.startswith("reloaded in a fresh process, it predicts the same") for note in notes)
    given = rng.normal(size=(4, 5)).astype("float32")
    for found in (
        gw.savedmodel.bridge(tmp_path / "bent", result="rebuild", custom_objects=tmp_path / "own.py"),
        gw.load(tmp_path / "plain.keras", custom_objects=tmp_path / "own.py"),
    ):
        np.testing.assert_allclose(found(given), model(given), rtol=1e-6)


def test_early_keras_2_has_the_configuration_in_the_program(folder, tmp_path):
    """Up to TensorFlow 2.4, and its functional models were called `_tf_keras_model` as those of users' classes are."""
    place = tmp_path / "early"
    shutil.copytree(folder / "nested", place)
    rows = {row.path: row.metadata for row in read_keras_metadata(place)}
    (place / "keras_metadata.pb").unlink()
    program = SavedModel.FromString((place / "saved_model.pb").read_bytes())
    root = program.meta_graphs[0].object_graph_def.nodes[0].user_object
    root.identifier, root.metadata = "_tf_keras_model", rows["root"]
    (place / "saved_model.pb").write_bytes(program.SerializeToString())
    for a, b in zip(rebuilt(place).model.weights, rebuilt(folder / "nested").model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def _edited(source, target, edit):
    """Copy a SavedModel with another root configuration."""
    shutil.copytree(source, target)
    file = target / "keras_metadata.pb"
    rows = []
    for _, message in fields(file.read_bytes()):
        row = dict(fields(inner(message)))
        if row.get(3) == b"root":
            row[5] = edit(row[5])
        rows.append(field(1, b"".join(field(n, v) for n, v in row.items())))
    file.write_bytes(b"".join(rows))
    return target


def _swapped(text):
    """Exchange two layers of the configuration, so that objects and configuration disagree."""
    config = json.loads(text)
    layers = config["config"]["layers"]
    layers[1], layers[3] = layers[3], layers[1]
    return json.dumps(config).encode()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_swapped, "."),
        (lambda text: text[:-9], "is not JSON"),
        (lambda text: b"[]", "does not describe the model"),
        (lambda text: text.replace(b'"use_bias": true', b'"use_bias": false', 1), "."),
    ],
    ids=["layers exchanged", "cut short", "a list", "other variables"],
)
def test_configurations_that_are_not_of_these_variables_are_refused(folder, tmp_path, edit, message):
    """Never silently wrong: what is rebuilt agrees with the signature, or is not rebuilt."""
    changed = _edited(folder / "sequential", tmp_path / "changed", edit)
    with pytest.raises(StoreError, match=message):
        rebuilt(changed)


def test_every_byte_of_the_metadata_may_be_wrong(folder, tmp_path):
    """A damaged file is refused with an error of ours, or means the same."""
    place = tmp_path / "damaged"
    shutil.copytree(folder / "sequential", place)
    file = place / "keras_metadata.pb"
    whole = file.read_bytes()
    for at in range(0, len(whole), 41):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        assert refusal(place) is None or refusal(place)
        file.write_bytes(whole[:at])
        assert refusal(place) is not None or at == 0

"""SavedModels of every origin as trainable Keras models, and tensors inside them."""

import gc
import pickle
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import graftwork as gw
from graftwork.errors import MismatchError, OptionError, StoreError, UnknownNameError
from graftwork.models.savedmodel.bridge import foreseen, made, witnessed

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
servables = pytest.importorskip("tests.servables")

SERVING = "serving_default"
WORDS = ["b", "a", "x"]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """SavedModels by their origin."""
    folder = tmp_path_factory.mktemp("originals")
    return {
        "keras3": servables.keras3(folder / "keras3"),
        "keras2": servables.keras2(folder / "keras2"),
        "module": servables.module(folder / "module"),
        "tf1": servables.text_model(folder / "tf1", ["a", "b", "c"], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    }


def numbers(rows=4, seed=0):
    """Features of a few examples."""
    return np.random.default_rng(seed).standard_normal((rows, 3)).astype(np.float32)


def said(path, signature=SERVING, **inputs):
    """What TensorFlow itself gives."""
    loaded = tf.saved_model.load(str(path))
    return {key: value.numpy() for key, value in loaded.signatures[signature](**inputs).items()}


def trunk(model):
    """The layer around a SavedModel."""
    (layer,) = [layer for layer in model._flatten_layers() if type(layer).__name__ == "SavedModelLayer"]
    return layer


CASES = [
    ("keras3", SERVING, lambda: tf.constant(numbers())),
    ("keras2", SERVING, lambda: tf.constant(numbers())),
    ("module", SERVING, lambda: tf.constant(numbers())),
    ("module", "look", lambda: tf.constant(["cat", "dog", "cow"])),
    ("tf1", SERVING, lambda: tf.constant(WORDS)),
]


@pytest.mark.parametrize(("origin", "signature", "inputs"), CASES, ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_a_bridge_says_what_the_signature_says_when_the_original_is_gone(
    originals, tmp_path, origin, signature, inputs
):
    """At once, reloaded, and reloaded again from what was saved then; any number of examples; tables and assets included."""
    source = shutil.copytree(originals[origin], tmp_path / origin)
    given = inputs()
    (key,) = tf.saved_model.load(str(source)).signatures[signature].structured_input_signature[1]
    (wanted,) = said(source, signature, **{key: given}).values()
    model = gw.savedmodel.bridge(source, signature=signature, result="layer")
    assert [tensor.name for tensor in model.inputs] == [key]
    shutil.rmtree(source)
    gc.collect()
    np.testing.assert_array_equal(model(given), wanted)
    model.save(tmp_path / "once.keras")
    once = keras.saving.load_model(tmp_path / "once.keras")
    del model
    gc.collect()
    np.testing.assert_array_equal(once(given), wanted)
    once.save(tmp_path / "twice.keras")
    twice = gw.load(tmp_path / "twice.keras")
    np.testing.assert_array_equal(twice(given), wanted)
    np.testing.assert_array_equal(twice(given[:1]), wanted[:1])
    with zipfile.ZipFile(tmp_path / "twice.keras") as file:
        assert any(name.endswith("saved_model.pb") for name in file.namelist())


def test_one_of_keras_2_is_rebuilt_unless_something_else_is_asked(originals):
    """What came out is said."""
    report: list[str] = []
    model = gw.savedmodel.bridge(originals["keras2"], report=report)
    assert model.trainable_variables
    assert "rebuilt" in report[0]
    (wanted,) = said(originals["keras2"], features=tf.constant(numbers())).values()
    np.testing.assert_allclose(model(numbers()), wanted, rtol=1e-5, atol=1e-6)
    report.clear()
    layer = gw.savedmodel.bridge(originals["keras2"], at="classes/Softmax", report=report)
    assert trunk(layer)
    assert "frozen layer" in report[0]
    with pytest.raises(OptionError, match="tensors are asked for by name"):
        gw.savedmodel.bridge(originals["keras2"], at="classes/Softmax", result="rebuild")
    with pytest.raises(OptionError, match="no configuration"):
        gw.savedmodel.bridge(originals["keras3"], result="rebuild")


# Tensors inside --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("origin", "signature"), [(case[0], case[1]) for case in CASES])
def test_every_tensor_that_is_listed_can_be_had(originals, origin, signature):
    """By the name under which it is listed, with the shape and dtype that are; outputs are what the signature says."""
    (row,) = gw.savedmodel.ls(originals[origin], signature, tensors=True).signatures
    model = gw.savedmodel.bridge(
        originals[origin], signature=signature, at=[t.name for t in row.tensors], result="layer"
    )
    ports = trunk(model)._ports.outputs
    assert [port["tensor"] for port in ports.values()] == [t.name for t in row.tensors]
    for port, t in zip(ports.values(), row.tensors, strict=True):
        assert port["dtype"] == t.dtype
        assert t.shape is None or tuple(port["shape"]) == t.shape
    inputs = next(case[2] for case in CASES if case[:2] == (origin, signature))()
    found = model(inputs)
    wanted = said(originals[origin], signature, **{row.inputs[0].name: inputs})
    for key, t in zip(ports, row.tensors, strict=True):
        if t.output:
            np.testing.assert_array_equal(found[key] if len(ports) > 1 else found, wanted[t.output])


DEEP = """
import sys, keras, numpy as np
keras.utils.set_random_seed(1)
inputs = keras.Input((5, 4), name="steps")
hidden = keras.layers.Dense(6, activation="silu", name="first")(inputs)
hidden = keras.layers.Bidirectional(keras.layers.LSTM(3, return_sequences=True))(hidden)
hidden = keras.layers.BatchNormalization(name="norm")(hidden)
hidden = hidden + keras.layers.MultiHeadAttention(2, 3)(hidden, hidden)
features = keras.layers.Dense(4, activation="gelu", name="features")(hidden)
model = keras.Model(inputs, keras.layers.Dense(2, name="last")(keras.layers.Dropout(0.5)(features)))
model.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, 6))
model.export(sys.argv[1], verbose=False)
keras.Model(inputs, features).save(sys.argv[2])
"""
"""A model with a gradient of its own, loops and attention inside, exported by another process."""


@pytest.fixture(scope="module")
def deep(tmp_path_factory, commands):
    """Its features as a Keras model, and its export."""
    folder = tmp_path_factory.mktemp("deep")
    paths = [str(folder / "deep"), str(folder / "part.keras")]
    done = commands.python(DEEP, *paths)
    assert done.returncode == 0, done.stderr
    return keras.saving.load_model(paths[1]), paths[0]


def test_tensors_inside_and_their_gradients_are_those_of_the_model_itself(deep):
    """Through calls in calls, loops, and operations with a gradient of their own."""
    part, path = deep
    names = [t.name for t in gw.savedmodel.ls(path, SERVING, tensors=True).signatures[0].tensors]
    end = [name for name in names if "/features" in name][-1]
    model = gw.savedmodel.bridge(path, at=end)
    steps = tf.constant(np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32))
    gc.collect()
    results = []
    for each in (model, part):
        with tf.GradientTape() as tape:
            tape.watch(steps)
            value = each(steps, training=False)
            loss = tf.reduce_sum(value**2)
        results.append((value, tape.gradient(loss, steps)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert float(tf.reduce_max(abs(results[0][1]))) > 1e-3


@pytest.mark.parametrize("at", [(), "Softmax"])
def test_a_gradient_that_is_not_the_natural_one_is_kept(originals, at):
    """An operation that changes nothing and lets ten times the gradient through."""
    model = gw.savedmodel.bridge(originals["module"], at=at)
    kernel = tf.constant(np.arange(12).reshape(3, 4) / 12, tf.float32)
    features = tf.constant(numbers())
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(features)
        ours, natural = model(features)[:, 0], tf.nn.softmax(features @ kernel)[:, 0]
    np.testing.assert_allclose(ours, natural, rtol=1e-5)
    np.testing.assert_allclose(
        tape.gradient(ours, features), 10 * tape.gradient(natural, features), rtol=1e-4, atol=1e-6
    )


def test_names_of_tensors_can_be_short_and_must_be_clear(originals):
    """An end that one tensor has, a name of an output, and no others; what is named twice is refused."""
    source = originals["keras3"]
    model = gw.savedmodel.bridge(source, at=["Relu", "output_0"])
    assert list(model.output) == ["Relu", "output_0"]
    with pytest.raises(StoreError, match="tensors inside signature 'serving_default' of keras3 end in 'MatMul'"):
        gw.savedmodel.bridge(source, at="MatMul")
    with pytest.raises(UnknownNameError, match="no tensor inside signature"):
        gw.savedmodel.bridge(source, at="nothing")
    with pytest.raises(OptionError, match="names a tensor twice"):
        gw.savedmodel.bridge(source, at=["Relu", "Relu:0"])
    with pytest.raises(UnknownNameError, match="no signature in keras3"):
        gw.savedmodel.bridge(source, signature="serving")


def test_inputs_that_are_not_needed_are_left_out(tmp_path):
    """The graph is cut down to what leads to what was asked for."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], name="a"), tf.TensorSpec([None, 2], name="b")])
    def both(a, b):
        half = tf.tanh(a, name="half")
        return {"sum": half + b, "b": b * 1.0}

    source = servables.functions(tmp_path / "both", serving_default=both)
    report: list[str] = []
    model = gw.savedmodel.bridge(source, at="half", report=report)
    assert [tensor.name for tensor in model.inputs] == ["a"]
    assert "inputs 'b' are not needed and left out" in report
    whole = gw.savedmodel.bridge(source)
    given = {"a": np.ones((1, 2), np.float32), "b": np.full((1, 2), 3, np.float32)}
    np.testing.assert_allclose(whole(given)["sum"], np.tanh(given["a"]) + 3, rtol=1e-6)
    np.testing.assert_allclose(model(given["a"]), np.tanh(given["a"]), rtol=1e-6)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], name="a"), tf.TensorSpec([None, 2], name="idle")])
    def one(a, idle):
        return {"twice": 2 * a}

    plan = foreseen(servables.functions(tmp_path / "one", serving_default=one), result="layer")
    found = made(plan).model
    np.testing.assert_array_equal(found(given["a"]), 2 * given["a"])
    assert "itself says the same, to the last bit" in witnessed(plan, found)


# Training --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["keras3", "keras2", "module"])
def test_a_head_on_a_frozen_trunk_trains_and_the_trunk_does_not(originals, origin):
    """In `fit`, also when the bridge itself is gone; statistics of BatchNormalization and everything else inside stay."""
    bridge = gw.savedmodel.bridge(originals[origin], result="layer")
    model = keras.Model(bridge.input, keras.layers.Dense(2, name="head")(bridge.output))
    held = trunk(model)
    before = [v.numpy() for v in held.running.trunk.model.signatures[SERVING].variables]
    assert before
    outputs = bridge(numbers())
    del bridge
    gc.collect()
    assert [v.path for v in model.trainable_variables] == ["head/kernel", "head/bias"]
    model.compile(keras.optimizers.Adam(0.05), "mse")
    history = model.fit(numbers(64), numbers(64)[:, :2], epochs=8, verbose=0).history["loss"]
    assert history[-1] < history[0]
    after = [v.numpy() for v in held.running.trunk.model.signatures[SERVING].variables]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(held(tf.constant(numbers())), outputs)


def test_layers_before_a_trunk_train(originals):
    """Gradients reach them."""
    bridge = gw.savedmodel.bridge(originals["keras3"], at="Relu")
    inputs = keras.Input((3,))
    first = keras.layers.Dense(3)
    model = keras.Model(inputs, keras.layers.Dense(1)(bridge(first(inputs))))
    before = first.kernel.numpy()
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(numbers(16), numbers(16)[:, :1], verbose=0)
    assert not np.array_equal(before, first.kernel.numpy())


@pytest.mark.parametrize("at", [(), "Relu"])
def test_tapes_see_inputs_and_leave_frozen_variables_alone(originals, at):
    """A loop of one's own that trains what the tape has watched does not train the trunk."""
    model = gw.savedmodel.bridge(originals["keras3"], at=at)
    gc.collect()
    features = tf.constant(numbers())
    with tf.GradientTape() as tape:
        tape.watch(features)
        loss = tf.reduce_sum(model(features, training=True) ** 2)
    assert float(tf.reduce_max(abs(tape.gradient(loss, features)))) > 0
    assert not tape.watched_variables()


def test_mixed_precision_around_a_trunk(originals):
    """The trunk computes as it was saved; numbers of half precision go into it widened."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        bridge = gw.savedmodel.bridge(originals["keras3"])
        inputs = keras.Input((3,))
        model = keras.Model(inputs, keras.layers.Dense(2)(bridge(keras.layers.Dense(3)(inputs))))
        model.compile("adam", "mse")
        model.fit(numbers(), numbers()[:, :2], verbose=0)
        assert bridge.output.dtype == "float32"
        assert model(numbers()).dtype == tf.float16
    finally:
        keras.mixed_precision.set_global_policy("float32")


# Composed, copied, exported --------------------------------------------------------------------------------------------


def test_copies_say_the_same(originals):
    """Of graftwork, Keras and Python."""
    model = gw.savedmodel.bridge(originals["keras3"], at="Relu")
    for copy in (gw.copy(model), keras.models.clone_model(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(copy(numbers()), model(numbers()))


def test_bridges_go_into_compositions(originals, tmp_path):
    """Live and from files; what comes out is looked at in a fresh process that has graftwork's layer, and needs nothing else."""
    a = gw.savedmodel.bridge(originals["keras3"], name="a")
    b = gw.savedmodel.bridge(originals["keras2"], result="layer", name="b")
    stack = gw.stack([a, b], head=3)
    assert stack(numbers()).shape == (4, 3)
    a.save(tmp_path / "a.keras")
    b.save(tmp_path / "b.keras")
    report: list[str] = []
    gw.ensemble([tmp_path / "a.keras", tmp_path / "b.keras"], output=tmp_path / "both.keras", report=report)
    assert any("reloaded in a fresh process, it predicts the same" in note for note in report)
    assert any("graftwork has to be installed" in note for note in report)
    mean = (np.asarray(a(numbers())) + np.asarray(b(numbers()))) / 2
    np.testing.assert_allclose(gw.load(tmp_path / "both.keras")(numbers()), mean, rtol=1e-6)
    assert gw.swap_head(a, head=7, at=trunk(a).name)(numbers()).shape == (4, 7)
    after = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    np.testing.assert_allclose(gw.chain([a, after])(numbers()), after(a(numbers())), rtol=1e-6)


@pytest.mark.parametrize(("origin", "at"), [("keras3", "Relu"), ("module", ()), ("tf1", ())])
def test_trunk_and_head_are_exported_as_one_servable(originals, tmp_path, commands, origin, at):
    """With variables, tables and assets of the trunk; it runs when everything else is gone."""
    bridge = gw.savedmodel.bridge(shutil.copytree(originals[origin], tmp_path / "source"), at=at, result="layer")
    model = keras.Model(bridge.input, keras.layers.Dense(2)(bridge.output))
    exported = gw.export(model, output=tmp_path / "servable")
    assert exported.difference.agrees
    inputs = WORDS if origin == "tf1" else numbers()
    wanted = model(tf.constant(inputs)).numpy()
    shutil.rmtree(tmp_path / "source")
    moved = (tmp_path / "servable").rename(tmp_path / "elsewhere")
    del model, bridge
    gc.collect()
    np.save(tmp_path / "inputs.npy", np.array(inputs))
    code = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "function = model.signatures['serving_default']\n"
        "(key,) = function.structured_input_signature[1]\n"
        "(found,) = function(**{key: tf.constant(np.load(sys.argv[2]).tolist())}).values()\n"
        "np.save(sys.argv[3], found.numpy())\n"
    )
    done = commands.python(code, moved, tmp_path / "inputs.npy", tmp_path / "found.npy")
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, rtol=1e-5, atol=1e-6)


def test_two_graphs_with_the_same_names_keep_their_own_words_and_numbers(originals, tmp_path):
    """TensorFlow 1 tells tables apart by a name that is made of a path."""
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    twin = servables.text_model(tmp_path / "twin", ["x", "b", "a"], rows * 10)
    one, other = gw.savedmodel.bridge(originals["tf1"]), gw.savedmodel.bridge(twin)
    np.testing.assert_allclose(one(tf.constant(WORDS)), 4 * rows[[1, 0, 0]])  # b, a, and x, which it does not know
    np.testing.assert_allclose(other(tf.constant(WORDS)), 40 * rows[[1, 2, 0]])


# Files -----------------------------------------------------------------------------------------------------------------


def test_a_file_needs_the_layer_to_be_known_and_no_more(originals, tmp_path, commands):
    """Keras alone names it; with the module imported it loads, safe mode on, as it does to be verified."""
    path = gw.savedmodel.bridge(originals["keras3"], at="Relu", output=tmp_path / "bridged.keras")
    assert gw.verify(path).sound
    load = f"import keras; keras.saving.load_model({str(path)!r}, safe_mode=True)"
    alone = commands.python(load)
    assert "graftwork>SavedModelLayer" in alone.stderr
    known = f"import graftwork.models.savedmodel.layer; {load}"
    assert commands.python(known).returncode == 0


def test_a_damaged_file_is_refused(originals, tmp_path):
    """A byte of the SavedModel inside has changed, with its checksum in the archive."""
    model = gw.savedmodel.bridge(originals["keras3"])
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        for name in good.namelist():
            data = bytearray(good.read(name))
            if "variables.data" in name:
                data[len(data) // 2] ^= 1
            bad.writestr(name, bytes(data))
    with pytest.raises(StoreError, match="another SavedModel, or its files are damaged"):
        gw.load(tmp_path / "bad.keras")


def test_a_written_bridge_is_compared_with_the_signature(originals, tmp_path):
    """All or nothing; tensors inside by the graph that they are cut out of."""
    for origin, at, words in (
        ("tf1", (), "itself says the same"),
        ("keras3", "Relu", "the graph that it is cut out of gives"),
    ):
        report: list[str] = []
        path = tmp_path / f"{origin}.keras"
        assert gw.savedmodel.bridge(originals[origin], at=at, output=path, report=report) == path
        assert any(words in note and "to the last bit" in note for note in report)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keras3.keras", "tf1.keras"]


def test_foreseeing_a_bridge_does_not_load_tensorflow(originals):
    """What comes out is known from the files."""
    code = (
        "import sys\n"
        "from graftwork.api.steps import foresee\n"
        f"plan = foresee('savedmodel_bridge', {{'source': {str(originals['module'])!r}}}, {{}}, {{}})\n"
        "print([name for name in ('tensorflow', 'keras') if name in sys.modules], plan.to_dict()['notes'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[] ")
    assert "frozen layer around signature 'serving_default'" in done.stdout


# Refused ---------------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_a_signature_is_refused(originals):
    """When the model is built, by name; nothing is cast but to wider numbers."""
    model = gw.savedmodel.bridge(originals["keras3"], name="trunk")
    with pytest.raises(MismatchError, match=r"input 'features' .* is float32 .* given int32"):
        trunk(model)(keras.Input((3,), dtype="int32"))
    with pytest.raises(MismatchError, match=r"has the shape \(None, 3\) .* given \(None, 4\)"):
        trunk(model)(keras.Input((4,)))
    with pytest.raises(MismatchError, match=r"takes 'features' by name and was given 'other'"):
        trunk(model)({"other": keras.Input((3,))})


def test_a_layer_without_its_savedmodel_says_so(originals):
    """Made of a configuration in another process, as a skeleton is."""
    model = gw.savedmodel.bridge(originals["keras3"])
    config = {**trunk(model).get_config(), "digest": "0" * 64}
    with pytest.raises(StoreError, match="has no SavedModel"):
        type(trunk(model)).from_config(config)(tf.constant(numbers()))


def test_signatures_that_no_keras_model_has_are_refused(tmp_path):
    """Without inputs, with a single number, with any number of axes, and none at all; each with what it is."""

    @tf.function(input_signature=[])
    def nothing():
        return {"one": tf.constant(1.0)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def scalar(x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def any_axes(x):
        return {"y": x + 1}

    @tf.function(input_signature=[tf.TensorSpec([2, 3], tf.float32, name="x")])
    def fixed(x):
        return {"y": x + 1}

    source = servables.functions(tmp_path / "odd", nothing=nothing, scalar=scalar, any_axes=any_axes, fixed=fixed)
    for signature, words in (
        ("nothing", "has no inputs"),
        ("scalar", "one number without a batch"),
        ("any_axes", "any number of axes"),
    ):
        with pytest.raises(StoreError, match=words):
            gw.savedmodel.bridge(source, signature=signature)
    model = gw.savedmodel.bridge(source, signature="fixed")
    assert model.input.shape == (2, 3)
    tf.saved_model.save(tf.Module(), str(tmp_path / "none"))
    with pytest.raises(StoreError, match="has no signatures"):
        gw.savedmodel.bridge(tmp_path / "none")


def test_python_functions_are_refused_before_anything_is_loaded(tmp_path):
    """By the name of the node."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def asks(x):
        return {"y": tf.numpy_function(lambda value: value, [x], tf.float32)}

    source = servables.functions(tmp_path / "asks", serving_default=asks)
    with pytest.raises(StoreError, match=r"calls a Python function in node '.*PyFunc'"):
        gw.savedmodel.bridge(source)

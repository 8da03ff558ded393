"""Example inputs, comparing outputs, and saved models in a process that knows neither graftwork nor the user's classes."""

import ast
import math
import subprocess
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

import graftwork as gw
from graftwork.errors import OptionError, StoreError
from graftwork.models import alone, fresh
from graftwork.models.difference import compare
from graftwork.models.examples import WORDS, inputs_for
from graftwork.models.fresh import predict_in_fresh_process, self_check

pytestmark = pytest.mark.keras

F32 = np.float32


@pytest.fixture(scope="module")
def keras():
    """Keras, imported by the first test that needs it."""
    import keras

    return keras


@pytest.fixture(autouse=True)
def real_processes(monkeypatch):
    """Here, a fresh process is one."""
    monkeypatch.setattr(fresh, "subprocess", subprocess)


@pytest.fixture(scope="module")
def everything(keras):
    """A model with text, tokens and an image in a dictionary, a nested model, an LSTM, half precision and outputs of three kinds."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    pixels = keras.Input((None, None, 3), dtype="uint8", name="pixels")
    features = layers.GlobalAveragePooling2D()(
        layers.Conv2D(4, 3, dtype="mixed_float16")(layers.Rescaling(1 / 255)(pixels))
    )
    eyes = keras.Model(pixels, features, name="eyes")
    text = keras.Input((1,), dtype="string", name="text")
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    words = layers.StringLookup(vocabulary=["tern", "gull", "auk"], output_mode="one_hot")(text)
    read = layers.LSTM(5)(layers.Embedding(11, 6, mask_zero=True)(tokens))
    seen = layers.Dense(4, dtype="mixed_bfloat16", name="seen")(eyes(image))
    joined = layers.Concatenate()([words, read, layers.Activation("linear", dtype="float32")(seen)])
    logits = layers.Dense(3, name="logits")(joined)
    label = keras.ops.argmax(logits, axis=-1)
    said = layers.StringLookup(vocabulary=["x", "y"], invert=True)(label)
    return keras.Model(
        {"text": text, "tokens": tokens, "image": image},
        {"logits": logits, "label": label, "said": said, "seen": seen},
        name="everything",
    )


def test_a_saved_model_predicts_the_same_in_a_fresh_process(everything, tmp_path: Path):
    """Text, dictionaries, nesting, recurrence and half precision; the members' own answer is looked at as well."""
    everything.save(path := tmp_path / "all.keras")
    inputs = inputs_for(everything)
    live = alone.predict(everything, inputs)
    assert {name: value.dtype.kind for name, value in live.items()} == {
        "logits": "f",
        "label": "i",
        "said": "S",
        "seen": "f",
    }
    asked = []

    def reference(given):
        asked.append(given)
        return live

    note = self_check(path, everything, inputs, reference, exact=True)
    assert "fresh process" in note and "NaN" not in note
    assert note.endswith("what its members give one by one exactly")
    (given,) = asked
    np.testing.assert_equal(alone.mapped(alone.array, given), alone.mapped(alone.array, inputs))


def test_a_reference_that_says_something_else_is_refused(everything, tmp_path: Path, monkeypatch):
    """Which output, how far; and a little is allowed unless it must be exact."""
    live = alone.predict(everything, inputs := inputs_for(everything))
    monkeypatch.setattr("graftwork.models.fresh.predict_in_fresh_process", lambda *_, **__: live)
    path = tmp_path / "all.keras"
    near = {**live, "logits": live["logits"] * F32(1 + 5e-7)}
    assert "within" in self_check(path, everything, inputs, lambda _: near)
    with pytest.raises(StoreError, match=r"members give one by one: output 'logits': \d of 6 entries differ"):
        self_check(path, everything, inputs, lambda _: near, exact=True)
    with pytest.raises(StoreError, match=r"output 'label': 2 of 2 entries differ, by up to 1"):
        self_check(path, everything, inputs, lambda _: {**live, "label": live["label"] + 1})
    with pytest.raises(StoreError, match=r"output 'said': 1 of 2"):
        self_check(path, everything, inputs, lambda _: {**live, "said": np.array([live["said"][0], b"other"])})


def test_a_file_that_was_damaged_after_saving_is_found(keras, tmp_path: Path):
    """One weight of one layer, in the last of three outputs."""
    x = keras.Input((4,))
    outputs = [keras.layers.Dense(2, name=name)(x) for name in ("first", "second", "third")]
    model = keras.Model(x, outputs, name="three")
    model.save(path := tmp_path / "three.keras")
    _change_a_weight(path, "layers/dense_2/vars/0")
    with pytest.raises(
        StoreError, match=r"three\.keras, reloaded in a fresh process, does not predict .* output '2': 2 of 4 entries"
    ):
        self_check(path, model, inputs_for(model))


def _change_a_weight(path: Path, key: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    weights = path.with_suffix(".h5")
    weights.write_bytes(members["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        file[key][0, 0] += 0.01
    members["model.weights.h5"] = weights.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def test_what_needs_code_of_the_users_is_refused_by_name(keras, tmp_path: Path):
    """Which class, of which layer; a Lambda layer of a nested model by its path. `verify` says the same."""

    class Twice(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    x = keras.Input((4,))
    keras.Model(x, Twice(name="mine")(keras.layers.Dense(2)(x))).save(custom := tmp_path / "custom.keras")
    with pytest.raises(
        StoreError, match=r"custom\.keras does not load .* the class 'Twice' of layer 'mine' does not come with Keras"
    ):
        predict_in_fresh_process(custom, np.zeros((1, 4), F32))
    y = keras.Input((4,))
    inner = keras.Model(y, keras.layers.Lambda(lambda v: 2 * v, name="code")(y), name="inner")
    keras.Model(x, keras.layers.Dense(2)(inner(x))).save(coded := tmp_path / "coded.keras")
    found = gw.verify(coded)
    assert not found.sound and "Lambda layer 'inner/code' holds Python code" in found.load_error


def test_a_process_that_does_not_answer_is_an_error(keras, tmp_path: Path):
    """Too slow; inputs that the model does not take; a process that ends early."""
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Dense(2)(x)).save(path := tmp_path / "m.keras")
    with pytest.raises(StoreError, match=r"took more than 0\.01 seconds"):
        predict_in_fresh_process(path, np.zeros((1, 4), F32), seconds=0.01)
    with pytest.raises(StoreError, match=r"does not predict in a fresh process: .*\(1, 5\)"):
        predict_in_fresh_process(path, np.zeros((1, 5), F32))


def test_a_process_that_ends_early_is_an_error(tmp_path: Path, monkeypatch):
    """Killed for memory, say: there is no answer, and a status."""
    (script := tmp_path / "killed.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    monkeypatch.setattr(alone, "__file__", str(script))
    with pytest.raises(StoreError, match=r"the process that loaded m\.keras was ended by signal 9"):
        predict_in_fresh_process(tmp_path / "m.keras", np.zeros((1, 4), F32))


def test_the_fresh_process_imports_nothing_of_graftwork():
    """What it loads with is Keras alone; only the layer of a model with a SavedModel inside is imported by its name, as it is told."""
    tree = ast.parse(Path(alone.__file__).read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} == {
        "importlib",
        "json",
        "keras",
        "numpy",
        "pathlib",
        "sys",
        "tensorflow",
        "typing",
    }


def test_structures_survive_as_json():
    """Lists stay lists, tuples tuples, a dictionary keeps its order, and nothing stays nothing."""
    structure = {"b": [1.5, (2.5, None)], "a": {"z": 3.5}}
    leaves: list[float] = []
    packed = alone.pack(structure, leaves)
    assert leaves == [1.5, 2.5, 3.5]
    again = alone.unpack(packed, leaves)
    assert again == structure and list(again) == ["b", "a"]


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("found", "expected", "apart"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([NAN, INF, -INF, 2.0], [NAN, INF, -INF, 2.0], 0),
        ([0.0, 2.0], [-0.0, 2.0], 0),
        ([1.0, 2.5], [1.0, 2.0], 0.5),
        ([NAN, 2.0], [1.0, 2.0], INF),
        ([1.0, 2.0], [NAN, 2.0], INF),
        ([INF, 2.0], [-INF, 2.0], INF),
        ([INF, 2.0], [1.0, 2.0], INF),
        ([], [], 0),
    ],
)
def test_the_largest_difference_by_hand(found, expected, apart):
    """NaN equals NaN and an infinity itself, and neither equals anything else, however large the tolerance."""
    difference = compare(np.array(found, F32), np.array(expected, F32), rtol=0.26)
    assert difference.absolute == apart
    assert difference.agrees == (apart < 1)
    assert difference.relative == (apart / 2 if apart < INF else INF)
    assert compare(np.array(found, F32), np.array(expected, F32)).agrees == (apart == 0)


def test_the_output_that_is_worst_is_named():
    """Relative to each output's own size: a small one is not hidden behind a large one."""
    expected = {"large": np.array([1000.0, 1.0]), "small": [np.array([0.5, 0.001]), np.array([1.0])]}
    found = {"large": np.array([1000.001, 1.0]), "small": (np.array([0.5, 0.002]), np.array([1.0]))}
    difference = compare(found, expected, rtol=1e-5)
    assert not difference.agrees and difference.output == "small/0"
    assert difference.absolute == pytest.approx(0.001) and difference.relative == pytest.approx(0.002)
    assert str(difference) == "output 'small/0': 1 of 2 entries differ, by up to 0.001 (0.002 of the largest)"
    assert compare(found, expected, rtol=2.1e-3).agrees
    assert compare(found, expected, atol=1.1e-3).agrees


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        (np.zeros((2, 3)), np.zeros((2, 1)), r"the output has shape \(2, 3\), and \(2, 1\)"),
        ([np.zeros(2)] * 2, np.zeros(2), "the outputs are '0', '1', and a single one are expected"),
        ({"a": np.zeros(2)}, {"b": np.zeros(2)}, "the outputs are 'a', and 'b' are expected"),
        (np.array([1, 0]), np.array([1.0, 0.0]), r"holds integers \(int64\), and numbers \(float64\)"),
        (np.array([1, 3]), np.array([1, 2]), "1 of 2 entries differ, by up to 1"),
        (np.array([True]), np.array([False]), "1 of 1 entries differ"),
        (np.array(["a", "b"]), np.array([b"a", b"c"]), "1 of 2 entries differ"),
    ],
)
def test_what_no_tolerance_helps(found, expected, reason):
    """Shapes, structures, kinds, and whatever is not a floating-point number."""
    difference = compare(found, expected, rtol=10, atol=10)
    assert not difference.agrees
    with pytest.raises(AssertionError, match=reason):
        assert difference.agrees, difference


def test_a_list_of_one_output_is_that_output():
    """Keras up to 3.9 saved models of one output so; two outputs are two, and a dictionary names its own."""
    one, other = np.ones((2, 3), F32), np.zeros((2, 3), F32)
    for found, expected in ((one, [one]), ([one], one), ([one], (one,))):
        assert compare(found, expected, exact=True).agrees
    assert not compare([one], other).agrees
    for expected in ([one, one], {"0": {"y": one}}, {"y": one}, [[one]]):
        assert "expected" in compare(one, expected).reason


def test_exact_asks_for_the_same_dtype():
    """The same numbers in another dtype are close, and not the same."""
    half, single = np.ones(2, np.float16), np.ones(2, F32)
    assert compare(half, single).agrees
    assert "float16, and float32" in str(compare(half, single, exact=True))
    assert compare(np.array(["a"]), np.array([b"a"]), exact=True).agrees


def test_example_inputs_are_what_the_layers_can_use(keras, everything):
    """Words of the vocabulary, tokens of the embedding and none that is masked, images that are large enough."""
    inputs = inputs_for(everything, batch=50)
    assert list(inputs) == ["text", "tokens", "image"]
    assert set(inputs["text"].ravel()) == {"tern", "gull", "auk"} and inputs["text"].shape == (50, 1)
    assert set(inputs["tokens"].ravel()) == set(range(1, 11)) and inputs["tokens"].dtype == np.int32
    assert inputs["image"].shape == (50, 64, 64, 3) and inputs["image"].max() == 255
    assert compare(inputs_for(everything, batch=50), inputs, exact=True).agrees
    assert not compare(inputs_for(everything, batch=50, seed=1), inputs).agrees
    assert inputs_for(everything, dynamic=9)["tokens"].shape == (2, 9)


def test_examples_follow_tokens_through_casts_and_nested_models(keras):
    """The smaller of two vocabularies; a fixed batch; kinds that nothing looks up; and a list stays a list."""
    layers = keras.layers
    ids = keras.Input((3,), dtype="int64")
    inner = keras.Model(ids, layers.Embedding(5, 2)(keras.ops.cast(ids, "int32")))
    tokens, flags, count, words = (
        keras.Input(batch_shape=(3, *shape), dtype=dtype)
        for shape, dtype in [((3,), "int64"), ((2,), "bool"), ((2,), "int32"), ((1,), "string")]
    )
    sums = [inner(tokens), layers.Embedding(4, 2)(layers.Reshape((3,))(tokens))]
    hashed = layers.Embedding(6, 2)(layers.Hashing(6)(words))
    model = keras.Model([tokens, flags, count, words], [*sums, keras.ops.logical_not(flags), count + 1, hashed])
    given = inputs_for(model, batch=200)
    assert [array.shape for array in given] == [(3, 3), (3, 2), (3, 2), (3, 1)]
    many = [inputs_for(model, seed=seed) for seed in range(20)]
    assert set(np.ravel([g[0] for g in many])) == {0, 1, 2, 3}
    assert set(np.ravel([g[1] for g in many])) == {True, False}
    assert set(np.ravel([g[2] for g in many])) == {0, 1}
    assert set(np.ravel([g[3] for g in many])) == set(WORDS)


def test_sizes_grow_until_the_model_can_use_them(keras):
    """A deep stack of convolutions wants more than 128 pixels; one that wants a size that is not tried is refused."""
    layers = keras.layers
    x = image = keras.Input((None, None, 3))
    for _ in range(4):
        x = layers.Conv2D(2, 5, strides=3)(x)
    assert inputs_for(keras.Model(image, x)).shape == (2, 224, 224, 3)
    with pytest.raises(OptionError, match="none fits where it leaves a dimension free"):
        inputs_for(keras.Model(image, layers.Conv2D(2, 600)(image)))
    free = keras.Model(image, layers.Conv2D(2, 600)(image))
    assert inputs_for(free, batch=1, dynamic=601).shape == (1, 601, 601, 3)


def test_a_model_that_does_not_say_what_it_takes(keras):
    """A subclassed model, or a Sequential that was never built."""
    with pytest.raises(OptionError, match="does not say what it takes"):
        inputs_for(keras.Sequential([keras.layers.Dense(2)], name="empty"))


def test_results_are_compared_with_what_members_give_without_augmentation(tmp_path):
    """A layer of augmentation is in training mode where nobody says anything; text beside numbers is what Keras mixes with nothing else."""
    keras, tf = pytest.importorskip("keras"), pytest.importorskip("tensorflow")
    paths = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        image = keras.Input((4, 4, 1), name="image")
        moved = keras.layers.RandomTranslation(0.9, 0.9, fill_mode="constant")(image)
        name = keras.Input((1,), dtype="string", name="name")
        known = keras.layers.StringLookup(vocabulary=["tern", "gull"], output_mode="one_hot")(name)
        joined = keras.layers.Concatenate()([keras.layers.Flatten()(moved), known])
        model = keras.Model({"image": image, "name": name}, keras.layers.Dense(2)(joined), name=f"member_{seed}")
        paths.append(tmp_path / f"{seed}.keras")
        model.save(paths[-1])
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]).save(tmp_path / "head.keras")
    image = np.random.default_rng(0).random((4, 4, 4, 1), dtype="float32")
    x = {"image": tf.constant(image), "name": tf.constant([["tern"], ["gull"], ["auk"], ["tern"]])}
    first, second = (keras.saving.load_model(path).predict(x, verbose=0) for path in paths)
    head = keras.saving.load_model(tmp_path / "head.keras").predict(first, verbose=0)

    both = keras.saving.load_model(gw.ensemble(paths, output=tmp_path / "both.keras"))
    chained = keras.saving.load_model(gw.chain([paths[0], tmp_path / "head.keras"], output=tmp_path / "chain.keras"))

    np.testing.assert_allclose(both.predict(x, verbose=0), (first + second) / 2, rtol=1e-5)
    np.testing.assert_allclose(chained.predict(x, verbose=0), head, rtol=1e-5)


def test_stateful_models_are_planned_frozen_and_checked(keras, tmp_path):
    """Keras makes their states of values, where planning wants none made; each call moves them on."""
    for name in "ab":
        keras.Sequential([keras.Input(batch_shape=(2, 3, 4)), keras.layers.LSTM(5, stateful=True)]).save(
            tmp_path / f"{name}.keras"
        )
    notes = []

    gw.stack([tmp_path / "a.keras", tmp_path / "b.keras"], head=2, output=tmp_path / "both.keras", report=notes)

    assert len(keras.saving.load_model(tmp_path / "both.keras").trainable_weights) == 2
    assert "what its members give one by one exactly" in str(notes)

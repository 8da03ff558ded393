"""Keras's formats against Keras: what it writes is read, what we write it loads in a fresh process and predicts the same."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import shutil
import subprocess
import zipfile

import keras
import numpy as np
import pytest
from keras import layers as kl

import graftwork as gw
from graftwork.stores import FORMATS, open_store
from graftwork.tensor import Role
from graftwork.testing import read_raw

pytestmark = pytest.mark.keras

ENDINGS = {
    "keras": ".keras",
    "weights_h5": ".weights.h5",
    "sharded_h5": ".weights.json",
    "keras_dir": "_dir",
    "legacy_h5": ".h5",
    "safetensors": ".safetensors",
    "huggingface": "_hf",
}


def plain():
    x = inputs = keras.Input((6,))
    x = kl.BatchNormalization()(kl.Dense(5, activation="relu")(x))
    model = keras.Model(inputs, kl.Dense(3, activation="softmax")(kl.Dropout(0.5)(x)))
    model.compile("adam", "mse", metrics=["mae"])
    return model


def nested():
    """Every vector has five elements, so that a swap of two goes unnoticed by shapes."""
    parts = [
        keras.Sequential(
            [keras.Input((5,)), kl.Dense(5, "relu"), kl.BatchNormalization(), kl.Dense(5), kl.LayerNormalization()],
            name=name,
        )
        for name in ("encoder", "decoder")
    ]
    inputs = keras.Input((5,))
    return keras.Model(inputs, kl.Dense(5)(parts[1](parts[0](inputs))))


def recurrent():
    """Square kernels wherever possible, for the same reason."""
    x = inputs = keras.Input((5, 4))
    x = kl.Bidirectional(kl.LSTM(2, return_sequences=True))(x)
    x = kl.MultiHeadAttention(2, 2, value_dim=2)(x, x)
    x = kl.TimeDistributed(kl.Dense(4))(x)
    x = kl.GroupQueryAttention(2, 4, 2)(x, x)
    return keras.Model(inputs, kl.RNN([kl.GRUCell(4), kl.LSTMCell(4)])(kl.LayerNormalization()(x)))


def convolutional():
    x = inputs = keras.Input((8, 8, 4))
    x = kl.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = kl.SeparableConv2D(4, 2)(kl.DepthwiseConv2D(3)(x))
    x = kl.PReLU()(kl.Conv2DTranspose(4, 2)(kl.BatchNormalization()(x)))
    return keras.Model(inputs, kl.Dense(4)(kl.GlobalAveragePooling2D()(kl.GroupNormalization(2)(x))))


def adapted():
    normalization = kl.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (50, 6)).astype("float32"))
    inputs = keras.Input((6,))
    return keras.Model(inputs, kl.Dense(2)(normalization(inputs)))


def half():
    inputs = keras.Input((6,), dtype="bfloat16")
    return keras.Model(inputs, kl.Dense(2, dtype="bfloat16")(kl.Dense(4, dtype="bfloat16")(inputs)))


def text():
    layer = kl.TextVectorization(output_sequence_length=4)
    layer.adapt(["one two two three three three"])
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling1D()(kl.Embedding(9, 3)(layer(inputs)))))


def lookup():
    inputs = keras.Input((1,), dtype="string")
    found = kl.StringLookup(vocabulary=["one", "two"])(inputs)
    return keras.Model(inputs, kl.Dense(2)(kl.Flatten()(kl.Embedding(9, 3)(found))))


def frozen():
    """Layers that do not train come last in legacy files."""
    model = nested()
    model.layers[1].layers[0].trainable = False
    model.layers[2].trainable = False
    return model


ZOO = {
    build.__name__: build for build in (plain, nested, recurrent, convolutional, adapted, half, text, lookup, frozen)
}
WORDS = [["one"], ["two three"], ["unheard"], ["three"]]


def inputs_of(name, model):
    if name in ("text", "lookup"):
        return keras.ops.convert_to_tensor(WORDS)
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, *model.inputs[0].shape[1:])).astype("float32")


def predict(name, model):
    return np.asarray(keras.ops.cast(model(inputs_of(name, model)), "float32"))


def randomize(model, seed):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in str(variable.dtype) and "normalization/mean" not in variable.path:
            values = rng.normal(size=variable.shape) * 0.4
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.path else values)
    for layer in model.layers:
        if isinstance(layer, kl.Normalization):
            layer.finalize_state()
    return model


def values(path):
    """Return what a file holds, without the optimizer: name → shape, dtype, bytes."""
    with open_store(path) as reader:
        return {
            name: (spec.shape, spec.dtype, read_raw(reader, name).tobytes())
            for name, spec in reader.specs().items()
            if spec.role is not Role.OPTIMIZER
        }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """Every model, saved by Keras in every format that it knows; and what it predicts."""
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for name, build in ZOO.items():
        model = randomize(build(), 0)
        model.save(folder / f"{name}.keras")
        model.save(folder / f"{name}.h5")
        model.save_weights(folder / f"{name}.weights.h5")
        model.save_weights(folder / f"{name}.weights.json", max_shard_size=6e-7)
        with zipfile.ZipFile(folder / f"{name}.keras") as archive:
            archive.extractall(folder / f"{name}_dir")
        found[name] = (model, predict(name, model))
    return folder, found


# Reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_what_keras_writes_is_read_alike_from_every_format(zoo, name):
    """Names, shapes, dtypes and bits agree; together they are the model's variables."""
    folder, models = zoo
    wanted = values(folder / f"{name}.keras")
    for ending in (".weights.h5", ".weights.json", "_dir", ".h5"):
        assert values(folder / f"{name}{ending}") == wanted, ending
    variables = [v for v in models[name][0].weights if "seed" not in v.path]
    assert sorted(data for *_, data in wanted.values()) == sorted(np.asarray(v).tobytes() for v in variables)


@pytest.mark.parametrize(("ending", "more"), [(".weights.h5", {}), (".weights.json", {"max_shard_size": 1})])
def test_a_file_without_an_architecture_need_not_tell_what_variables_are(tmp_path, ending, more):
    """The only one of a normalization is its scale or its offset, for all that such a file says."""
    inputs = keras.Input((6,))
    outputs = kl.Dense(2, name="out")(
        kl.LayerNormalization(center=False, name="b")(kl.BatchNormalization(scale=False, name="a")(inputs))
    )
    model = randomize(keras.Model(inputs, outputs), 1)
    model.save(whole := tmp_path / "whole.keras")
    model.save_weights(tmp_path / f"keras{ending}", **more)

    ours = gw.convert(whole, tmp_path / f"ours{ending}").path

    assert values(ours) == values(tmp_path / f"keras{ending}") != values(whole)
    assert values(gw.convert(ours, tmp_path / "back.keras", like=whole).path) == values(whole)
    for number, pair in enumerate(([whole, ours], [ours, whole])):
        merged = gw.merge(pair, output=tmp_path / f"{number}{'.keras' if pair[0] == whole else ending}")
        assert values(merged) == values(pair[0])
        assert gw.diff(*pair).identical


@keras.saving.register_keras_serializable("tests")
class Adversaries(keras.Model):
    """Two networks, and an optimizer for each."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator, self.critic = kl.Dense(3, name="g"), kl.Dense(1, name="c")
        self.first, self.second = keras.optimizers.Adam(), keras.optimizers.RMSprop()

    def call(self, x):
        return self.critic(self.generator(x))

    def step(self, x):
        """Train both once."""
        for optimizer, part in ((self.first, self.generator), (self.second, self.critic)):
            optimizer.build(part.trainable_variables)
            optimizer.apply([x.mean() * np.ones(v.shape, np.float32) for v in part.trainable_variables])


def test_the_state_of_a_models_own_optimizers_is_not_averaged(tmp_path):
    """Keras wants it back; moments of two trainings have no mean that means something."""
    models = []
    for seed in range(2):
        model = Adversaries(name="gan")
        model(x := np.full((1, 4), seed + 1, np.float32))
        randomize(model, seed).step(x)
        model.save(tmp_path / f"{seed}.keras")
        models.append(model)

    out = gw.merge([tmp_path / "0.keras", tmp_path / "1.keras"], output=tmp_path / "out.keras", report=(notes := []))

    kept, ours, others = (values(path) for path in (out, tmp_path / "0.keras", tmp_path / "1.keras"))
    state = [name for name in ours if name.startswith(("adam/", "rm_sprop/"))]
    assert len(state) == 2 + 4 + 2 + 2 and all(kept[name] == ours[name] for name in state)
    assert not {*others.values()} & {ours[name] for name in state if name[-1] not in "01"}, "every moment differs"
    merged = keras.saving.load_model(out)
    for found, *both in zip(merged.weights, *(m.weights for m in models), strict=True):
        np.testing.assert_allclose(found, np.mean([np.asarray(v) for v in both], axis=0), rtol=1e-6)
    assert any("differs in 1; the result has the value of 0" in note for note in notes)


def test_shards_of_keras_are_several(zoo):
    """So that the test above means something."""
    assert len(list(zoo[0].glob("recurrent_0*.weights.h5"))) > 2


# Conversions ----------------------------------------------------------------------------------------------------------


def source_of(folder, made, name, format_name):
    """Return a file in a format: Keras's own where it writes the format, else ours."""
    ending = ENDINGS[format_name]
    if format_name in ("safetensors", "huggingface"):
        path = made / f"{name}{ending}"
        if not path.exists():
            gw.convert(folder / f"{name}.keras", path, format=format_name)
        return path
    return folder / f"{name}{ending}"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return tmp_path_factory.mktemp("made")


@pytest.mark.parametrize("name", ["plain", "nested", "recurrent", "half", "text"])
@pytest.mark.parametrize("target", ENDINGS)
def test_every_format_converts_to_every_other(zoo, made, tmp_path, name, target):
    """Values and specs survive; what cannot be is refused with the way out, what cannot be carried is said."""
    folder, _ = zoo
    wanted = values(folder / f"{name}.keras")
    for source in ENDINGS:
        path = source_of(folder, made, name, source)
        out = tmp_path / f"{source}{ENDINGS[target]}"
        lends = source in ("keras", "keras_dir", "legacy_h5")
        kept = lends or target in ("safetensors", "huggingface") or {source, target} <= {"weights_h5", "sharded_h5"}
        arguments = {} if kept else {"like": folder / f"{name}.keras"}
        if target == "legacy_h5" and source != "legacy_h5" and name in ("half", "text"):
            with pytest.raises(gw.OutputError, match="bfloat16" if name == "half" else "vocabularies"):
                gw.convert(path, out, **arguments)
            assert not out.exists()
            continue
        if target == "legacy_h5" and name == "half":
            with pytest.raises(gw.OutputError, match="dtype='float32'"):
                gw.convert(path, out)
            continue
        if not kept and target in ("keras", "keras_dir", "legacy_h5"):
            with pytest.raises(gw.OutputError, match="like"):
                gw.convert(path, out, format=target)
        result = gw.convert(path, out, format=target, **arguments)
        assert values(out) == wanted, source
        notes = " ".join(result.notes)
        if FORMATS[source].holds_architecture and not FORMATS[target].holds_architecture and lends:
            assert "architecture" in notes, (source, result.notes)
        if name == "text" and source == "keras" and target not in ("keras", "keras_dir"):
            assert "vocabular" in notes, result.notes
        if name == "plain" and source == "keras" and target in ("legacy_h5", "safetensors"):
            assert "optimizer" in notes or "compile" in notes, result.notes


LOADER = """
import json, sys
import keras, numpy as np
for path, weights, words, inputs in json.load(open(sys.argv[1])):
    try:
        model = keras.saving.load_model(path, compile=False)
        if weights:
            for variable in model.weights:
                if "float" in str(variable.dtype) and "normalization/" not in variable.path:
                    variable.assign(np.zeros(variable.shape))
            model.load_weights(weights)
        given = keras.ops.convert_to_tensor(words) if words else np.load(inputs)
        found = np.asarray(keras.ops.cast(model(given), "float32")).tolist()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    print("result:" + json.dumps(found))
assert "graftwork" not in sys.modules
"""


def load_afresh(commands, tmp_path, jobs):
    """Return predictions of (model file, weights file, name, inputs) that a process of its own makes, or its errors."""
    given = []
    for k, (path, weights, name, inputs) in enumerate(jobs):
        if name in ("text", "lookup"):
            given.append((str(path), str(weights or ""), WORDS, ""))
        else:
            np.save(tmp_path / f"{k}.npy", inputs)
            given.append((str(path), str(weights or ""), None, str(tmp_path / f"{k}.npy")))
    (tmp_path / "jobs.json").write_text(json.dumps(given))
    done = commands.python(LOADER, tmp_path / "jobs.json")
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(x.removeprefix("result:")) for x in done.stdout.splitlines() if x.startswith("result:")]


def test_keras_loads_what_is_written_in_a_fresh_process(zoo, tmp_path, commands):
    """Every model, merged with another into every format that Keras loads: predictions are those of weights averaged by hand."""
    folder, models = zoo
    jobs, wanted, labels = [], [], []
    for name, (model, _) in models.items():
        other = randomize(keras.saving.load_model(folder / f"{name}.keras"), 1)
        other.save(tmp_path / f"{name}.keras")
        average = keras.saving.load_model(folder / f"{name}.keras")
        for a, b, c in zip(average.weights, model.weights, other.weights, strict=True):
            if "float" in str(a.dtype):
                mean = (np.asarray(b).astype("float32") * np.float32(0.5)) + np.asarray(c).astype("float32") * 0.5
                a.assign(mean)
        for layer in average.layers:
            if isinstance(layer, kl.Normalization):
                layer.finalize_state()
        target = predict(name, average)
        sources = [folder / f"{name}.keras", tmp_path / f"{name}.keras"]
        for format_name in ("keras", "keras_dir", "weights_h5", "sharded_h5", "legacy_h5"):
            if format_name == "legacy_h5" and name in ("half", "text"):
                continue
            out = tmp_path / f"{name}_merged{ENDINGS[format_name]}"
            gw.merge(sources, output=out, format=format_name)
            if format_name == "keras":
                with zipfile.ZipFile(out) as archive:
                    assert archive.testzip() is None
                    assert "graftwork.json" in archive.namelist()
                if shutil.which("unzip"):
                    subprocess.run(["unzip", "-tqq", str(out)], check=True)
            weights = out if format_name in ("weights_h5", "sharded_h5") else None
            jobs.append((folder / f"{name}.keras" if weights else out, weights, name, None))
            if name not in ("text", "lookup"):
                jobs[-1] = (*jobs[-1][:3], inputs_of(name, model))
            wanted.append(target)
            labels.append((name, format_name))
    for label, found, target in zip(labels, load_afresh(commands, tmp_path, jobs), wanted, strict=True):
        assert not isinstance(found, str), (label, found)
        tolerance = 2e-2 if label[0] == "half" else 1e-5
        np.testing.assert_allclose(found, target, rtol=tolerance, atol=tolerance, err_msg=str(label))


def test_legacy_files_of_keras_3_are_merged_into_what_keras_loads(zoo, tmp_path, commands):
    """By way of its own layout, and into every other format; a model whose legacy file Keras cannot load itself is left out."""
    folder, models = zoo
    jobs, wanted, labels = [], [], []
    for name, (model, target) in models.items():
        if name in ("half", "text"):
            continue
        for format_name in ("legacy_h5", "keras", "keras_dir"):
            out = tmp_path / f"{name}{ENDINGS[format_name]}"
            gw.merge([folder / f"{name}.h5"] * 2, output=out, format=format_name)
            jobs.append((out, None, name, None if name == "lookup" else inputs_of(name, model)))
            wanted.append(target)
            labels.append((name, format_name))
    for label, found, target in zip(labels, load_afresh(commands, tmp_path, jobs), wanted, strict=True):
        assert not isinstance(found, str), (label, found)
        np.testing.assert_allclose(found, target, rtol=1e-5, atol=1e-5, err_msg=str(label))


def test_bfloat16_goes_into_a_legacy_file_as_float32(zoo, tmp_path):
    """The way out that the refusal names works: same values, same predictions."""
    folder, models = zoo
    gw.convert(folder / "half.keras", tmp_path / "half.h5", dtype="float32")
    _, wanted = models["half"]
    loaded = keras.saving.load_model(tmp_path / "half.h5", compile=False)
    np.testing.assert_array_equal(predict("half", loaded), wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_another_dtype_is_loaded_by_keras(zoo, tmp_path, dtype):
    """Keras casts to what the configuration says."""
    folder, models = zoo
    gw.convert(folder / "plain.keras", tmp_path / "a.keras", dtype=dtype)
    found = predict("plain", keras.saving.load_model(tmp_path / "a.keras"))
    np.testing.assert_allclose(found, models["plain"][1], atol={"float16": 1e-2, "bfloat16": 5e-2, "float64": 0}[dtype])


def test_a_zipped_again_keras_file_gives_the_same_result(zoo, tmp_path):
    """DEFLATE changes nothing but speed."""
    folder, _ = zoo
    with (
        zipfile.ZipFile(folder / "text.keras") as archive,
        zipfile.ZipFile(tmp_path / "again.keras", "w", zipfile.ZIP_DEFLATED) as again,
    ):
        for name in archive.namelist():
            again.writestr(name, archive.read(name))
    assert values(tmp_path / "again.keras") == values(folder / "text.keras")
    out = gw.merge([tmp_path / "again.keras", folder / "text.keras"], output=tmp_path / "out.keras")
    assert values(out) == values(folder / "text.keras")


def test_a_result_is_a_source_like_any_other(zoo, tmp_path):
    """Merging results again keeps one record, one set of assets, and the values."""
    folder, _ = zoo
    path = folder / "text.keras"
    for k in range(3):
        path = gw.merge([path, folder / "text.keras"], output=tmp_path / f"{k}.keras")
    assert values(path) == values(folder / "text.keras")
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(folder / "text.keras") as first:
        assert sorted(archive.namelist()) == sorted([*first.namelist(), "graftwork.json"])


# Presets --------------------------------------------------------------------------------------------------------------


def test_a_preset_with_a_task_is_merged(tmp_path):
    """As KerasHub lays it out: the backbone's configuration and weights, a head in files of its own, a tokenizer."""
    backbones = []
    for k in range(2):
        inputs = keras.Input((4,), name="tokens")
        backbone = randomize(keras.Model(inputs, kl.Dense(3, name="dense")(inputs), name="backbone"), k)
        head = randomize(keras.Sequential([keras.Input((3,)), kl.Dense(2, name="logits")]), k + 10)
        preset = tmp_path / f"preset{k}"
        preset.mkdir()
        (preset / "config.json").write_text(json.dumps(keras.saving.serialize_keras_object(backbone)))
        (preset / "metadata.json").write_text(
            json.dumps({"keras_version": keras.__version__, "keras_hub_version": "0.20"})
        )
        (preset / "task.json").write_text(json.dumps({"class_name": "Classifier"}))
        (preset / "tokenizer.json").write_text(json.dumps({"class_name": "Tokenizer"}))
        (preset / "assets" / "tokenizer").mkdir(parents=True)
        (preset / "assets" / "tokenizer" / "vocabulary.txt").write_text("one\ntwo\n")
        backbone.save_weights(preset / "model.weights.h5")
        head.save_weights(preset / "task.weights.h5")
        backbones.append((backbone, head, preset))
    out = gw.merge([preset for *_, preset in backbones], output=tmp_path / "merged")
    inspection = gw.inspect(out)
    assert inspection.format == "preset"
    for file in ("config.json", "metadata.json", "task.json", "tokenizer.json", "assets/tokenizer/vocabulary.txt"):
        assert (out / file).read_bytes() == (backbones[0][2] / file).read_bytes()
    for part, file in ((0, "model.weights.h5"), (1, "task.weights.h5")):
        loaded, other = backbones[0][part], backbones[1][part]
        wanted = [(a + b) / 2 for a, b in zip(loaded.get_weights(), other.get_weights(), strict=True)]
        loaded.load_weights(out / file)
        for found, mean in zip(loaded.get_weights(), wanted, strict=True):
            np.testing.assert_allclose(found, mean, rtol=1e-6, atol=1e-7)
    (backbones[1][2] / "assets" / "tokenizer" / "vocabulary.txt").write_text("two\none\n")
    with pytest.raises(gw.MismatchError, match="vocabular"):
        gw.merge([preset for *_, preset in backbones], output=tmp_path / "refused")

"""Fine-tuning: one plain model that is trunk and head, trained on kept features where that changes nothing, else it says why not."""

import hashlib
import json
import re
import signal
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from sklearn.linear_model import LogisticRegression

import graftwork as gw
from graftwork.compose.base import Member
from graftwork.compose.ports import outputs
from graftwork.data import open_data
from graftwork.errors import DataError, MismatchError, OptionError, StoreError
from graftwork.models.copying import copy_model
from graftwork.training import features as kept
from graftwork.training.anchoring import anchored
from graftwork.training.crowning import Wanted, wanted_by
from graftwork.training.matching import matched
from graftwork.training.verbs.finetune import Finetune

pytestmark = pytest.mark.keras

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 6, 6, 2)).astype("float32")
X[:, :3] *= np.linspace(0.5, 2, 90, dtype="float32")[:, None, None, None]
Y = np.digitize(X[:, :3].std(axis=(1, 2, 3)), [0.9, 1.5]).astype("int64")
TRAIN, TEST = slice(0, None, 3), slice(1, None, 3)


TENSORFLOW = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="SavedModels run in TensorFlow")


def net(*more: kl.Layer) -> keras.Model:
    """A classifier of four classes with BatchNormalization; `more` stands before its pooling."""
    keras.utils.set_random_seed(1)
    x = image = keras.Input((6, 6, 2), name="image")
    x = kl.Conv2D(6, 3, activation="relu", name="first")(x)
    x = kl.BatchNormalization(name="norm")(x)
    x = kl.Conv2D(8, 3, activation="relu", name="second")(x)
    for layer in more:
        x = layer(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, kl.Dense(4, activation="softmax", name="old")(x), name="net")
    model.get_layer("norm").moving_mean.assign(np.linspace(0, 1, 6))
    model.get_layer("norm").moving_variance.assign(np.linspace(0.5, 2, 6))
    return model


def tuned(trunk, data=(X[TRAIN], Y[TRAIN]), **options):
    """Return what `finetune` makes of a live model, its notes and its tables."""
    verb = Finetune(data=data, **{"epochs": 2, "batch": 8, "jit": False, **options})
    composed = verb.compose([Member(name=trunk.name, model=copy_model(trunk))])
    done = composed.train(None)
    return composed.model, " | ".join((*composed.notes, *done.notes)), done.tables


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{v.name}": np.asarray(v) for layer in model.layers for v in layer.weights}


def below(model: keras.Model, name: str) -> np.ndarray:
    return np.asarray(keras.Model(model.input, model.get_layer(name).output)(X))


def test_the_result_is_trunk_followed_by_head():
    """Bit for bit what the trunk's own layers give, through the head's weights; it is plain, not compiled, and the trunk did not move."""
    trunk = net()
    model, notes, _ = tuned(trunk, head=3, hidden=[5])

    features = below(trunk, "pool")
    head = keras.Sequential([keras.Input((8,)), kl.Dense(5, "relu"), kl.Dense(3, "softmax")])
    head.set_weights([np.asarray(w) for layer in model.layers[-2:] for w in layer.weights])
    np.testing.assert_array_equal(np.asarray(model(X)), np.asarray(head(features)))
    found, before = values(model), values(trunk)
    assert all(found[name].tobytes() == before[name].tobytes() for name in before if not name.startswith("old"))
    assert not model.compiled and type(model).__module__.startswith("keras.") and "runs once" in notes


def test_kept_features_change_nothing_but_the_time():
    """The same losses, epoch by epoch, as Keras's fit of the whole model with a frozen trunk: the same order, the same first weights."""
    trunk = net()
    data = {"data": (X[TRAIN], Y[TRAIN], np.linspace(0.5, 1.5, 30)), "validation": (X[TEST], Y[TEST])}
    _, once, tables = tuned(trunk, **data, epochs=4, learning_rate=0.05, jit=None)
    model, always, whole = tuned(trunk, **data, epochs=4, learning_rate=0.05, jit=None, cache=False)

    assert "runs once" in once and "every epoch: cache=False" in always
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        a, b = ([row[name] for row in each["history"]] for each in (tables, whole))
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert a[-1] > a[0] or tables["history"][-1]["loss"] < tables["history"][0]["loss"]
    assert values(model)["norm/moving_mean"].tobytes() == values(trunk)["norm/moving_mean"].tobytes()


class Own(kl.Layer):
    """A layer of a user that may do anything in training."""

    def call(self, x, training=None):
        return x + 1 if training else x


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (kl.Dropout(0.3, name="drop"), r"layer 'drop' \(Dropout\) is random in training"),
        (kl.GaussianNoise(0.1, name="noise"), "layer 'noise'"),
        (kl.RandomFlip(name="flip"), "layer 'flip'"),
        (Own(name="own"), r"layer 'own' \(Own\) is a class of its own"),
    ],
)
def test_what_changes_in_training_is_not_run_once(layer, said):
    """It is said why the model runs in every epoch; to keep features all the same is refused; in the head the same layer is no reason."""
    _, notes, _ = tuned(net(layer), epochs=1)
    assert re.search(f"every epoch: {said}", notes)
    with pytest.raises(OptionError, match=said):
        tuned(net(layer), cache=True)
    assert "runs once" in tuned(net(layer), at="second", head=["GlobalAveragePooling2D", 3], epochs=1)[1]


def test_a_layer_that_remembers_the_batch_before_is_not_run_once():
    """What a stateful layer gives depends on the samples before, whose order is another one in each epoch."""
    steps = keras.Input(batch_shape=(8, 5, 3))
    trunk = keras.Model(steps, kl.GRU(4, stateful=True, name="memory")(steps), name="trunk")
    data = open_data((np.zeros((16, 5, 3), "float32"), np.zeros(16, int)))
    assert "layer 'memory' (GRU) is stateful" in kept.why_not_once(trunk, outputs(trunk)["memory"], data)
    with pytest.raises(OptionError, match=r"trunk: layer 'memory' \(GRU\) is stateful.*give batches in their order"):
        tuned(trunk, data=data, head=2)
    stream = [(np.zeros((8, 5, 3), "float32"), np.zeros(8, int))] * 2
    assert "yields batches" in tuned(trunk, data=lambda: iter(stream), head=2, epochs=1)[1]


def test_dropout_that_drops_nothing_is_no_reason():
    """A rate of 0 draws nothing."""
    assert "runs once" in tuned(net(kl.Dropout(0.0)), epochs=1)[1]


def test_streams_are_trained_on_in_every_epoch():
    """Batches may be others each time, so nothing of them is kept."""
    trunk = net()
    batches = [(X[first : first + 8], Y[first : first + 8]) for first in range(0, 32, 8)]
    model, notes, tables = tuned(trunk, data=lambda: iter(batches), head=3, epochs=3, learning_rate=0.05)
    assert "yields batches that may be others each time" in notes
    losses = [row["loss"] for row in tables["history"]]
    assert losses[-1] < losses[0] and model.output_shape == (None, 3)
    with pytest.raises(OptionError, match="head=10"):
        tuned(trunk, data=lambda: iter(batches))
    columns = [(x, np.eye(3, dtype="float32")[y]) for x, y in batches]
    _, _, again = tuned(trunk, data=lambda: iter(columns), head=3, epochs=3, learning_rate=0.05)
    np.testing.assert_allclose([row["loss"] for row in again["history"]], losses, rtol=1e-5)
    for bad, message in (
        ((X[:8, 1:], Y[:8]), r"batch 4 of .* is float32 \(5, 6, 2\)"),
        ((X[:8], np.eye(4)[Y[:8]]), r"labels of batch 4 of .* have the shape \(4,\)"),
        ((X[:8], Y[:8] + 3), "label of sample 32 of"),
        ((X[:8],), "batch 4 of .* has no labels"),
    ):
        with pytest.raises((DataError, MismatchError), match=message):
            tuned(trunk, data=lambda bad=bad: iter([*batches, bad]), head=3)


def test_features_go_on_where_they_were_interrupted(tmp_path, monkeypatch):
    """Rows that are done are not computed again, the others are; every bit is that of the whole run, and other data is refused."""
    monkeypatch.setattr(kept, "SYNCED", 0)
    model = net()
    trunk = keras.Model(model.input, model.get_layer("pool").output)
    samples = matched(open_data((X, Y)), trunk).only(np.arange(89, -1, -1))
    seen = []

    def stop(done, count):
        seen.append(done)
        if done == 40 and len(seen) < 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept.features(trunk, samples, batch=8, folder=tmp_path, tell=stop)
    found = kept.features(trunk, samples, batch=8, folder=tmp_path, tell=stop)

    assert seen == [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 90]
    part = found.take(np.array([0, 7, 89]))
    whole = kept.features(trunk, samples, batch=8, folder=tmp_path / "whole")
    every = whole.take(whole.rows)
    np.testing.assert_array_equal(part.inputs["features"], every.inputs["features"][[0, 7, 89]])
    np.testing.assert_allclose(every.inputs["features"], below(model, "pool")[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(part.labels, Y[[89, 82, 0]])
    assert kept.features(trunk, samples, batch=8, folder=tmp_path, tell=stop) and len(seen) == 12
    with pytest.raises(StoreError, match="other data"):
        kept.features(trunk, samples.only(slice(0, 90)).only(np.arange(90)[::-1]), batch=8, folder=tmp_path)
    model.get_layer("first").bias.assign(np.full(6, 0.1))
    with pytest.raises(StoreError, match="another trunk"):
        kept.features(trunk, samples, batch=8, folder=tmp_path)


SCRIPT = """
import os, signal, sys, hashlib, json
sys.path.insert(0, sys.argv[1])
import test_finetune as t
from pathlib import Path
folder, kill = Path(sys.argv[2]), sys.argv[3]
t.kept.SYNCED = 0
def made(name, kill):
    def progress(what, done, total):
        if kill and what.startswith(kill):
            os.kill(os.getpid(), signal.SIGKILL)
    notes = []
    t.gw.finetune(folder / "trunk.keras", data=folder / "data.npz", validation=folder / "data.npz", head=["Dropout", 4, 3],
        epochs=3, batch=8, patience=2, unfreeze=1, l2_sp=0.01, interpolate=0.5, seed=5, log=str(folder / f"{name}.csv"),
        output=folder / f"{name}.keras", jit=False, check=False, progress=progress, report=notes)
    model = t.keras.saving.load_model(folder / f"{name}.keras")
    return hashlib.sha256(b"".join(t.np.asarray(w).tobytes() for w in model.weights)).hexdigest(), notes
print(json.dumps([made("killed", kill), made("whole", "")]))
"""


def test_a_run_that_is_killed_ends_with_the_same_bits(tmp_path, commands):
    """SIGKILL among features, in the head's training and in that of the layers below; the state beside the output goes once it is there."""
    net().save(tmp_path / "trunk.keras")
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    script = SCRIPT.replace('["Dropout", 4, 3]', '[{"Dropout": {"rate": 0.3}}, 4, 3]')

    def process(kill):
        return commands.python(script, Path(__file__).parent, tmp_path, kill)

    for kill in ("features: 48 ", "head: epoch 3/3, step 2", "fine-1: epoch 2/3, step 1"):
        assert process(kill).returncode == -signal.SIGKILL
        assert (tmp_path / "killed.keras.run").is_dir() and not (tmp_path / "killed.keras").exists()
    told = json.loads((tmp_path / "killed.keras.run" / "features" / "features.json").read_text())
    assert told["done"] == 90
    done = process("")
    assert done.returncode == 0, done.stderr[-3000:]
    (killed, notes), (whole, _) = json.loads(done.stdout.splitlines()[-1])

    assert killed == whole
    assert any("fine-1" in note and "gone on with after 1" in note for note in notes)
    for log in ("{}.csv", "{}-fine-1.csv"):
        assert (tmp_path / log.format("killed")).read_text() == (tmp_path / log.format("whole")).read_text()
    assert not list(tmp_path.glob("*.run"))


def test_a_state_of_other_wishes_is_refused(tmp_path):
    """What lies beside the output belongs to one run; where writing fails it stays."""
    trunk = net()
    tuned(trunk, run=str(tmp_path / "state"))
    with pytest.raises(StoreError, match="another run"):
        tuned(trunk, run=str(tmp_path / "state"), learning_rate=0.5)
    tuned(trunk, run=str(tmp_path / "state"))


# Heads -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_logistic_head_is_scikit_learns(classes, weighted):
    """Probabilities equal those of LogisticRegression on the same features; a class without samples is practically never said."""
    trunk, labels = net(), np.minimum(Y[TRAIN], classes - 1)
    weights = (np.linspace(0.2, 2, 30),) if weighted else ()
    model, notes, tables = tuned(trunk, data=(X[TRAIN], labels, *weights), head="logistic", penalty=0.1)

    features = below(trunk, "pool")
    theirs = LogisticRegression(C=10, max_iter=10_000, tol=1e-8).fit(features[TRAIN], labels, *weights)
    np.testing.assert_allclose(np.asarray(model(X)), theirs.predict_proba(features), atol=2e-3)
    assert "scikit-learn" in notes and len(tables["history"]) == 1

    gap, *_ = tuned(trunk, data=(X[TRAIN], labels * 2), head="logistic", penalty=0.1)
    said = np.asarray(gap(X))
    assert said.shape[1] == 2 * classes - 1 and said[:, 1::2].max() < 1e-6
    if not weighted:
        np.testing.assert_allclose(said[:, ::2], theirs.predict_proba(features), atol=2e-3)


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [
        (Y, Wanted(3, "softmax")),
        (Y % 2 == 0, Wanted(2, "softmax")),
        (np.eye(3)[Y], Wanted(3, "softmax")),
        (np.stack([Y > 0, Y > 1], 1).astype("float32"), Wanted(2, "sigmoid")),
        (X[:, 0, 0, 0], Wanted(1, "linear")),
        (X[:, 0, 0], Wanted(2, "linear")),
    ],
)
def test_labels_tell_what_a_head_is_for(labels, wanted):
    """Classes, rows with one 1, columns of yes and no, values: as many units, and the loss that goes with them."""
    assert wanted_by(open_data((X, labels))) == wanted
    model, _, tables = tuned(net(), data=(X, labels), head="mlp", hidden=[4], epochs=1)
    assert model.output_shape == (None, wanted.units)
    said = np.asarray(model(X)).astype("float64")
    truth = (
        np.eye(wanted.units)[np.asarray(labels).astype(int)]
        if wanted.activation == "softmax" and labels.ndim == 1
        else labels
    )
    truth = np.asarray(truth, "float64").reshape(said.shape)
    (row,) = tables["history"]
    if wanted.activation == "linear":
        loss, metric = ((said - truth) ** 2).mean(), "mae"
    elif wanted.activation == "sigmoid":
        loss, metric = -(truth * np.log(said) + (1 - truth) * np.log(1 - said)).mean(), "accuracy"
    else:
        loss, metric = -np.log((said * truth).sum(1)).mean(), "accuracy"
    assert metric in row
    *_, measured = tuned(net(), data=(X, labels), validation=(X, labels), head="mlp", hidden=[4], epochs=1)
    assert measured["history"][0]["val_loss"] == pytest.approx(loss, rel=1e-4)


def test_labels_that_do_not_tell_are_asked_about():
    """Class numbers stored as fractions are no values to predict, and prices in whole dollars no classes: both are asked about."""
    for labels, said in (
        (Y.astype("float32"), "stored as float32"),
        (Y * 100_000, "up to 200,000, and there are 90 samples"),
    ):
        with pytest.raises(
            OptionError, match=f"{said}.*head=[0-9,]+ for classes, or head=1, activation=linear and outputs=regression"
        ):
            wanted_by(open_data((X, labels)))
    assert wanted_by(open_data((X, Y * 400))) == Wanted(801, "softmax"), (
        "classes that have no sample are no mistake by themselves"
    )
    floats = (X[TRAIN], Y[TRAIN].astype("float32"))
    assert "accuracy" in tuned(net(), data=floats, head=3, epochs=1)[2]["history"][0]
    assert (
        "mae" in tuned(net(), data=floats, head=1, activation="linear", outputs="regression", epochs=1)[2]["history"][0]
    )


def test_labels_of_positions_are_not_pooled_into_one_answer():
    """Tags of a sequence have the shape of several values; a head that averages positions would learn the wrong thing unnoticed."""
    steps = keras.Input((5,), dtype="int32", name="steps")
    sequence = kl.LSTM(4, return_sequences=True, name="lstm")(kl.Embedding(9, 3)(steps))
    tagger = keras.Model(steps, kl.Dense(3, activation="softmax", name="tags")(sequence), name="tagger")
    x, tags = np.arange(100).reshape(20, 5) % 9, np.arange(100).reshape(20, 5) % 3
    for labels in (tags, tags % 2, tags + 0.5):
        with pytest.raises(MismatchError, match=r"shape \(5,\), which are the positions of .*head=\{Dense"):
            tuned(tagger, data=(x, labels))
    model, *_ = tuned(tagger, data=(x, tags), head=[{"Dense": {"units": 3, "activation": "softmax"}}], epochs=1)
    assert model.output_shape == (None, 5, 3)
    assert tuned(tagger, data=(x, np.eye(5)[tags[:, 0]]), epochs=1)[0].output_shape == (None, 5), (
        "five classes are no positions"
    )


def test_a_head_on_what_may_be_logits_says_so():
    """Numbers without bounds are features or old answers, which nothing tells; there is a note, and the place below."""
    trunk = net()
    logits = keras.Model(trunk.input, kl.Dense(2, name="logits")(trunk.get_layer("pool").output), name="net")
    model, notes, _ = tuned(logits, epochs=1)
    assert "ends in Dense 'logits' without an activation; if these are answers to its old task" in notes
    assert "at='pool'" in notes and model.get_layer("head").kernel.shape == (2, 3)
    model, notes, _ = tuned(logits, at="pool", epochs=1)
    assert "old task" not in notes and model.get_layer("head").kernel.shape == (8, 3)


@pytest.mark.parametrize("loss", ["mse", "categorical_crossentropy", {"CategoricalFocalCrossentropy": {"gamma": 1.0}}])
def test_a_loss_that_wants_columns_gets_them(loss):
    """Numbers of classes and rows with a 1 give the same loss; with as many samples as classes a difference would even be broadcast."""
    columns = np.eye(3, dtype="float32")[Y[TRAIN]]
    rows = [
        tuned(net(), data=(X[TRAIN], labels), head=3, loss=loss, batch=3, epochs=1, learning_rate=0.01)[2]["history"][
            0
        ]["loss"]
        for labels in (Y[TRAIN], Y[TRAIN][:, None], columns)
    ]
    assert rows[0] == pytest.approx(rows[2], rel=1e-5) and rows[1] == pytest.approx(rows[2], rel=1e-5)
    with pytest.raises(OptionError, match="takes numbers of classes, and labels have a column for each"):
        tuned(net(), data=(X[TRAIN], columns), head=3, loss="sparse_categorical_crossentropy")


def test_a_model_that_takes_a_list_is_trained_whole():
    """Keras's `fit` takes a list of inputs in batches for one tensor; what is given to it stands in tuples."""
    one, two = keras.Input((2,), name="one"), keras.Input((3,), name="two")
    trunk = keras.Model([one, two], kl.Dense(4, "relu", name="dense")(kl.Concatenate()([one, two])), name="trunk")
    x, y = [np.ones((8, 2), "float32"), np.ones((8, 3), "float32")], np.arange(8) % 2
    model, *_ = tuned(trunk, data=(x, y), epochs=1, unfreeze=1)
    assert np.asarray(model(x)).shape == (8, 2)


def test_heads_of_all_kinds():
    """A convolution, an own model with its weights, the model's own last layer, and one on a nested model."""
    trunk = net()
    conv, notes, _ = tuned(trunk, head="conv", at="second", epochs=1)
    assert "Conv2D → GlobalAveragePooling2D → Dense(3, softmax)" in notes and conv.output_shape == (None, 3)

    mine = keras.Sequential([keras.Input((8,)), kl.Dense(3, "softmax", name="mine")], name="mine")
    _, notes, tables = tuned(trunk, head=mine, epochs=3, learning_rate=0.1)
    assert "model 'mine'" in notes and tables["history"][-1]["loss"] < tables["history"][0]["loss"]

    own, notes, _ = tuned(trunk, head="own")
    moved = {name for name, value in values(own).items() if value.tobytes() != values(trunk)[name].tobytes()}
    assert moved == {"old/kernel", "old/bias"} and "runs once" in notes

    outer = keras.Input((6, 6, 2), name="outer")
    inside = keras.Model(trunk.input, trunk.get_layer("pool").output, name="inside")
    nested = keras.Model(outer, kl.Dense(4, name="top")(inside(outer)), name="nested")
    model, *_ = tuned(nested, at="inside", head=3, unfreeze="inside/second")
    assert model.get_layer("inside").get_layer("second").trainable
    with pytest.raises(OptionError, match="outputs=logits"):
        tuned(nested, head="own", epochs=1)
    assert tuned(nested, head="own", outputs="logits", epochs=1)[2]["history"]


@TENSORFLOW
def test_a_savedmodel_is_a_trunk(tmp_path):
    """Bridged as a frozen layer, its features are kept, and the head is trained."""
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self):
            self.w = tf.Variable(rng.normal(size=(72, 5)).astype("float32"))

        @tf.function(input_signature=[tf.TensorSpec((None, 6, 6, 2), tf.float32, name="image")])
        def serve(self, image):
            return {"features": tf.nn.relu(tf.reshape(image, (-1, 72)) @ self.w)}

    module = Module()
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    bridged = gw.savedmodel.bridge(tmp_path / "saved")
    model = gw.finetune(bridged, data=(X[TRAIN], Y[TRAIN]), epochs=2, batch=8)
    kernel, bias = (np.asarray(w) for w in model.layers[-1].weights)
    logits = np.maximum(X.reshape(-1, 72) @ module.w.numpy(), 0) @ kernel + bias
    wanted = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(np.asarray(model(X)), wanted, rtol=1e-3, atol=1e-5)


# Below the head ----------------------------------------------------------------------------------------------------------


def moved(model: keras.Model, trunk: keras.Model) -> set[str]:
    before = values(trunk)
    return {
        name for name, value in values(model).items() if name in before and value.tobytes() != before[name].tobytes()
    }


def test_only_what_is_unfrozen_moves():
    """Layers from the top, by number or by path; BatchNormalization, its statistics too, only where it is asked for."""
    trunk = net()
    model, _, tables = tuned(trunk, unfreeze=1, fine_epochs=1)
    assert moved(model, trunk) == {"second/kernel", "second/bias"}
    assert [row["stage"] for row in tables["history"]] == ["head", "head", "fine-1"]
    assert [layer.name for layer in model.layers if layer.trainable and layer.weights] == ["second", "head"]
    assert moved(tuned(trunk, unfreeze="first")[0], trunk) == {"first/kernel", "first/bias"}
    both = {"first/kernel", "first/bias", "second/kernel", "second/bias"}
    assert moved(tuned(trunk, unfreeze="*")[0], trunk) == both
    norms = {f"norm/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert moved(tuned(trunk, unfreeze="*", batchnorm=True)[0], trunk) == both | norms
    with pytest.raises(OptionError, match="2 layers with weights below the head"):
        tuned(trunk, unfreeze=3)
    with pytest.raises(OptionError, match="only BatchNormalization"):
        tuned(trunk, unfreeze="norm")
    with pytest.raises(OptionError, match="unfreeze"):
        tuned(trunk, l2_sp=0.1)


def test_stages_have_learning_rates_of_their_own():
    """By default a tenth of the one before; Adam's first step of a weight is as large as its learning rate."""
    trunk = net()
    for options, rates in [
        ({"learning_rate": 0.02}, (0.002, 0.0002)),
        ({"fine_learning_rate": [0.01, 0.003]}, (0.01, 0.003)),
    ]:
        one, *_ = tuned(trunk, unfreeze=[1], fine_epochs=1, batch=30, **{**options, **_first(options)})
        both, *_ = tuned(trunk, unfreeze=[1, 2], fine_epochs=1, batch=30, **options)
        steps = [
            np.abs(values(one)["second/bias"] - values(trunk)["second/bias"]).max(),
            np.abs(values(both)["first/bias"] - values(trunk)["first/bias"]).max(),
        ]
        np.testing.assert_allclose(steps, rates, rtol=1e-2)


def _first(options):
    rates = options.get("fine_learning_rate")
    return {} if rates is None else {"fine_learning_rate": rates[:1]}


def test_l2_sp_is_half_the_squared_distance():
    """The loss by hand, a gradient that pulls back, regularizers as they were; the stronger it is, the nearer weights stay."""
    model = net()
    model.get_layer("second").kernel.regularizer = own = keras.regularizers.L2(0.5)
    kernel, bias = model.get_layer("second").weights
    starts = [np.asarray(kernel) + 0.25, np.asarray(bias) - 2]
    with anchored(list(zip((kernel, bias), starts, strict=True)), 0.3):
        penalty = float(sum(model.losses))
    by_hand = 0.15 * (0.0625 * starts[0].size + 4 * starts[1].size) + 0.5 * (np.asarray(kernel) ** 2).sum()
    assert penalty == pytest.approx(by_hand, rel=1e-5)
    assert kernel.regularizer is own and bias.regularizer is None

    trunk, far = net(), []
    for strength in (0.0, 1.0, 100.0):
        found = tuned(trunk, unfreeze=1, l2_sp=strength, fine_learning_rate=0.01, best=False, fine_epochs=4)[0]
        far.append(np.linalg.norm(values(found)["second/kernel"] - values(trunk)["second/kernel"]))
    assert far[0] > far[1] > far[2] > 0


def test_weights_between_the_original_and_the_end():
    """0 is the model before layers were unfrozen, 1 the end, 0.5 the mean of both; best is the least loss of the table."""
    trunk, options = net(), {"validation": (X[TEST], Y[TEST]), "unfreeze": 1, "fine_learning_rate": 0.05}
    start, end = values(tuned(trunk, validation=(X[TEST], Y[TEST]))[0]), values(tuned(trunk, **options)[0])
    assert start["second/kernel"].tobytes() != end["second/kernel"].tobytes()
    for share, wanted in [(0.0, start), (1.0, end), (0.5, {name: (start[name] + end[name]) / 2 for name in start})]:
        found = values(tuned(trunk, **options, interpolate=share)[0])
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, rtol=0 if share != 0.5 else 1e-6, err_msg=name)
    model, _, tables = tuned(trunk, **options, interpolate="best")
    rows = tables["interpolation"]
    assert [row["share"] for row in rows] == pytest.approx(np.linspace(0, 1, 11))
    said = np.asarray(model(X[TEST])).astype("float64")
    loss = -np.log(said[np.arange(30), Y[TEST]]).mean()
    assert loss == pytest.approx(min(row["val_loss"] for row in rows), rel=1e-4)


def test_what_is_forgotten_is_measured():
    """Accuracy on the old task before and after, and how far answers moved: by hand, from the old head on the new layers."""
    trunk = net()
    old = np.asarray(trunk(X)).argmax(1)
    labels = np.where(np.arange(90) < 60, old, (old + 1) % 4)
    model, _, tables = tuned(trunk, old=(X, labels), unfreeze=2, fine_learning_rate=0.05)
    before, after = tables["forgetting"]

    again = net()
    for name in ("first", "second"):
        again.get_layer(name).set_weights(model.get_layer(name).get_weights())
    then, now = np.asarray(trunk(X)), np.asarray(again(X))
    assert before == {"when": "before", "accuracy": pytest.approx(60 / 90)}
    assert after["accuracy"] == pytest.approx((now.argmax(1) == labels).mean())
    assert after["agreement"] == pytest.approx((now.argmax(1) == old).mean())
    far = np.linalg.norm(now - then, axis=1) / np.linalg.norm(then, axis=1)
    assert after["moved"] == pytest.approx(far.mean(), rel=1e-4) and after["moved"] > 0.01
    assert tuned(trunk, old=X)[2]["forgetting"][1]["moved"] == 0, "nothing moves while only the head trains"


def test_data_that_does_not_fit_is_refused():
    """Before training: shapes and missing labels from headers alone, NaN and labels out of range while they are read."""
    trunk = net()
    with pytest.raises(MismatchError, match="no labels"):
        tuned(trunk, data=X)
    with pytest.raises(MismatchError, match="input 'image'"):
        tuned(trunk, data=(X[..., :1], Y))
    with pytest.raises(DataError, match="output 'head' has 2 classes"):
        tuned(trunk, data=(X, Y), head=2)
    with pytest.raises(DataError, match="expected 0 to 1"):
        tuned(trunk, data=(X, Y), head=1)
    holed = X.copy()
    holed[41, 2, 2, 0] = np.nan
    for cache in (True, False):
        with pytest.raises(DataError, match="sample 41"):
            tuned(trunk, data=(holed, Y), cache=cache)


def test_the_same_seed_makes_the_same_model():
    """Twice the same bits, head and all; another seed makes another."""
    made = []
    for seed in (1, 1, 2):
        model, *_ = tuned(net(), head="mlp", seed=seed)
        made.append(hashlib.sha256(b"".join(value.tobytes() for value in values(model).values())).digest())
    assert made[0] == made[1] != made[2]

"""Models are judged by what they say of the samples, whatever they are stored as, give, and call their classes."""

import json
import weakref
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers, ops
from sklearn import metrics as sk

import graftwork as gw
from graftwork.data import open_data
from graftwork.errors import DataError, MismatchError, OptionError, OutputError, UnknownNameError
from graftwork.models import live
from graftwork.report import plots, render
from graftwork.training import decisions
from graftwork.training.evaluating import evaluate
from graftwork.training.evaluation import Evaluation

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(3)
X = RNG.normal(size=(70, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 70)
W = RNG.integers(0, 4, 70) / 2
TENSORFLOW = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="SavedModels and texts need TensorFlow")
CLOSE = {"rel": 1e-5, "abs": 1e-6}  # Keras computes in float32, in batches of other sizes


def model(units=3, activation="softmax", name="m", seed=0, **input_options):
    """Return a model of five numbers."""
    given = keras.Input((5,), name="x", **input_options)
    hidden = layers.Dense(4, activation="tanh", kernel_initializer=keras.initializers.GlorotUniform(seed))(given)
    end = layers.Dense(
        units, activation=activation, name="head", kernel_initializer=keras.initializers.Orthogonal(2, seed)
    )
    return keras.Model(given, end(hidden), name=name)


def with_columns(source, order):
    """Return a copy of a model whose outputs stand in another order."""
    made = keras.models.clone_model(source)
    made.set_weights([*source.get_weights()[:-2], *(values[..., order] for values in source.get_weights()[-2:])])
    return made


def judged(models, data, **options) -> Evaluation:
    found = evaluate(models, data if hasattr(data, "name") else open_data(data), **{"timed": False, **options})
    json.dumps(found.to_dict(), allow_nan=False)
    return found


def metrics(found, name="m", verdict=0):
    return dict(found.verdicts[verdict].figures[name].metrics)


@pytest.fixture(scope="module")
def classifier():
    return model()


def test_a_model_that_remembers_is_said_to():
    """What a stateful layer gives depends on the batch before, and so do the figures."""
    steps = keras.Input(batch_shape=(4, 2, 5), name="steps")
    memory = layers.GRU(2, stateful=True, name="memory")(steps)
    found = judged([keras.Model(steps, layers.Dense(3, "softmax")(memory), name="m")], (X[:8].reshape(4, 2, 5), Y[:4]))
    assert found.notes == (
        "m: layer 'memory' (GRU) is stateful, so its figures depend on the order of the samples and on the batch",
    )


def test_classes_as_scikit_learn_counts_them(classifier):
    """What is judged is what the model predicts: every figure is scikit-learn's on `predict`, with weights."""
    found = judged([classifier], (X, Y, W), batch=16, top=2)

    p = classifier.predict(X, verbose=0)
    said, w = p.argmax(1), {"sample_weight": W}
    assert metrics(found) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(Y, said, **w),
            "top_2": sk.top_k_accuracy_score(Y, p, k=2, **w),
            "log_loss": sk.log_loss(Y, p, **w),
            "f1_macro": sk.f1_score(Y, said, average="macro", **w),
            "f1_weighted": sk.f1_score(Y, said, average="weighted", **w),
            "auc": sk.roc_auc_score(Y, p / p.sum(1, keepdims=True), multi_class="ovr", **w),
            "ece": metrics(found)["ece"],  # tests/test_metrics.py has the formula
        },
        **CLOSE,
    )
    np.testing.assert_allclose(found.verdicts[0].figures["m"].confusion, sk.confusion_matrix(Y, said, **w))
    assert found.samples == 70 and found.models[0].parameters == 39 and found.models[0].size_bytes is None


@pytest.mark.parametrize("batch", [1, 7, 70, 1000])
def test_batches_do_not_matter(classifier, batch):
    """The figures are of all samples, however they are cut."""
    assert metrics(judged([classifier], (X, Y), batch=batch)) == pytest.approx(
        metrics(judged([classifier], (X, Y))), **CLOSE
    )


def test_labels_in_columns_are_the_same_labels(classifier):
    """Numbers of classes, alone in a column, or as a 1 among zeros: the same figures."""
    expected = metrics(judged([classifier], (X, Y)))

    for labels in (Y[:, None], np.eye(3, dtype=np.float32)[Y], Y.astype(np.float32)):
        assert metrics(judged([classifier], (X, labels))) == expected


def test_logits_are_judged_as_their_probabilities(classifier):
    """A model without its softmax has the same figures, once it is said what it gives; unsaid it is not guessed."""
    logits = model(activation=None)
    logits.set_weights(classifier.get_weights())

    with pytest.raises(OptionError, match=r"may be logits or values; say which: outputs=\{\"m\": \"logits\"\}"):
        judged([logits], (X, Y))
    for said in ("logits", {"m": "logits"}, {"head": "logits"}, {"m.head": "logits"}):
        assert metrics(judged([logits], (X, Y), outputs=said)) == pytest.approx(
            metrics(judged([classifier], (X, Y))), **CLOSE
        )


def test_yes_or_no():
    """A single sigmoid is judged as two classes, and agrees with a softmax that says the same."""
    one = model(1, "sigmoid", name="one")
    two = model(2, "softmax", name="two")
    kernel, bias = one.get_weights()[2:]
    two.set_weights([*one.get_weights()[:2], np.hstack([0 * kernel, kernel]), np.concatenate([0 * bias, bias])])
    labels = Y % 2

    found = judged([one, two], (X, labels))

    p = one.predict(X, verbose=0)[:, 0]
    assert metrics(found, "one")["auc"] == pytest.approx(sk.roc_auc_score(labels, p), **CLOSE)
    assert metrics(found, "one")["log_loss"] == pytest.approx(sk.log_loss(labels, p), **CLOSE)
    assert metrics(found, "one") == pytest.approx(metrics(found, "two"), rel=1e-4)
    assert found.verdicts[0].agreement[0].figures == {"same": 1.0, "kappa": 1.0}
    assert metrics(judged({"m": one}, (X, labels[:, None]))) == metrics(judged({"m": one}, (X, labels)))


def test_independent_labels():
    """Several sigmoids are labels of their own."""
    labels = RNG.integers(0, 2, (70, 3))
    many = model(3, "sigmoid")

    found = judged([many], (X, labels, W))

    p, w = many.predict(X, verbose=0), {"sample_weight": W}
    assert found.verdicts[0].task == "labels"
    assert metrics(found)["exact_match"] == pytest.approx(sk.accuracy_score(labels, p > 0.5, **w), **CLOSE)
    assert metrics(found)["f1_macro"] == pytest.approx(sk.f1_score(labels, p > 0.5, average="macro", **w), **CLOSE)
    assert metrics(found)["auc"] == pytest.approx(sk.roc_auc_score(labels, p, **w), **CLOSE)
    assert found.verdicts[0].figures["m"].confusion is None
    with pytest.raises(DataError, match=r"label of sample .* says yes or no: expected 0 to 1"):
        judged([many], (X, labels * 2))
    with pytest.raises(
        MismatchError, match=r"labels of the data \(column 'y'\) have the shape \(\), output 'y' gives \(3,\)"
    ):
        judged([many], (X, Y))


def test_numbers():
    """Regression, with several numbers and with one, whose labels may stand in a column or not."""
    labels = RNG.normal(size=(70, 2)).astype(np.float32)
    pair, single = model(2, None), model(1, None)

    found = metrics(judged([pair], (X, labels, W), outputs="regression"))

    said = pair.predict(X, verbose=0)
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(labels, said, sample_weight=W),
            "mse": sk.mean_squared_error(labels, said, sample_weight=W),
            "r2": sk.r2_score(labels, said, sample_weight=W),
        },
        **CLOSE,
    )
    flat, column = (metrics(judged([single], (X, y), outputs="regression")) for y in (labels[:, 0], labels[:, :1]))
    assert flat == column
    both = judged({"a": pair, "b": pair}, (X, labels), outputs="regression")
    assert both.verdicts[0].agreement[0].figures["correlation"] == pytest.approx(1)


def test_positions_of_sequences():
    """Each position of a sequence is judged, and counts what its weight says, or that of its sequence."""
    given = keras.Input((4, 2))
    tagger = keras.Model(given, layers.Dense(3, activation="softmax")(given), name="m")
    x = RNG.normal(size=(20, 4, 2)).astype(np.float32)
    y, w = RNG.integers(0, 3, (20, 4)), RNG.integers(0, 3, (20, 4)) / 1.0
    p = tagger.predict(x, verbose=0).argmax(-1)

    by_position = metrics(judged([tagger], (x, y, w)))
    by_sequence = metrics(judged([tagger], (x, y, w[:, 0])))

    assert by_position["accuracy"] == pytest.approx(sk.accuracy_score(y.ravel(), p.ravel(), sample_weight=w.ravel()))
    assert by_sequence["accuracy"] == pytest.approx(
        sk.accuracy_score(y.ravel(), p.ravel(), sample_weight=np.repeat(w[:, 0], 4))
    )
    with pytest.raises(MismatchError, match=r"weights of the data have the shape \(20, 3\)"):
        judged([tagger], (x, y, w[:, :3]))


def test_padding_is_said_to_be_judged():
    """A mask is lost between a model and its judge; weights take its place, and a note says so."""
    given = keras.Input((4,), dtype="int32")
    masked = layers.Embedding(9, 3, mask_zero=True)(given)
    tagger = keras.Model(
        given, layers.Dense(2, activation="softmax", name="tags")(layers.LSTM(3, return_sequences=True)(masked))
    )

    found = judged({"m": tagger}, (RNG.integers(0, 9, (6, 4)), RNG.integers(0, 2, (6, 4))))

    assert any("m: output tags is masked" in note for note in found.notes)


# Classes by name -------------------------------------------------------------------------------------------------------

NAMES = ("cat", "dog", "fox")


def named(y=Y, classes=NAMES):
    return open_data((X, y), classes=classes)


def test_models_with_their_classes_in_another_order(classifier):
    """The same model with its outputs in another order, which it says, has the same figures, class by class."""
    order = [2, 0, 1]
    turned = with_columns(classifier, order)
    lists = {"straight": NAMES, "turned": [NAMES[k] for k in order]}

    found = judged({"straight": classifier, "turned": turned}, named(), classes=lists)

    assert metrics(found, "turned") == pytest.approx(metrics(found, "straight"), **CLOSE)
    assert found.verdicts[0].names == NAMES
    a, b = (found.verdicts[0].figures[name] for name in ("straight", "turned"))
    assert a.confusion == b.confusion
    assert found.verdicts[0].agreement[0].figures["same"] == 1
    untold = judged({"straight": classifier, "turned": turned}, named())
    assert metrics(untold, "turned")["accuracy"] != metrics(untold, "straight")["accuracy"]
    assert any("are taken to be the classes of the data in their order" in note for note in untold.notes)


def test_a_model_that_lacks_a_class_and_has_another(classifier):
    """A class that the model does not know counts as wrong; one that only it knows is one that it can be wrong with."""
    lists = [["dog", "cow", "cat"]]

    found = judged([classifier], named(), classes=lists)

    p = classifier.predict(X, verbose=0)
    said = np.array([1, 3, 0])[p.argmax(1)]
    assert found.verdicts[0].names == ("cat", "dog", "fox", "cow")
    np.testing.assert_array_equal(
        found.verdicts[0].figures["m"].confusion, sk.confusion_matrix(Y, said, labels=range(4))
    )
    assert metrics(found)["f1_macro"] == pytest.approx(sk.f1_score(Y, said, average="macro", zero_division=0))
    assert metrics(found)["log_loss"] is None
    assert "of classes that the model does not know" in found.verdicts[0].figures["m"].reasons["log_loss"]
    assert "m does not know fox; what is of these classes counts as wrong" in found.notes


def test_labels_that_are_texts(classifier):
    """Texts are told by the data's classes, or else by the models'."""
    texts = np.array(NAMES)[Y]
    expected = metrics(judged([classifier], named()))

    assert metrics(judged([classifier], named(texts))) == expected
    assert metrics(judged([classifier], (X, texts), classes=[NAMES])) == expected
    with pytest.raises(DataError, match="say which classes"):
        judged([classifier], (X, texts))
    with pytest.raises(MismatchError, match="are texts, and m give no classes"):
        judged([model(3, None)], (X, texts), outputs="regression")


def test_classes_that_cannot_be_matched_are_refused(classifier):
    """Orders that differ while nothing tells what labels count, and lists that do not fit."""
    both = {"a": classifier, "b": classifier}
    with pytest.raises(MismatchError, match="does not tell in which order its labels count"):
        judged(both, (X, Y), classes={"a": NAMES, "b": NAMES[::-1]})
    with pytest.raises(MismatchError, match="gives 3 values, and its list names 2 classes"):
        judged(both, (X, Y), classes={"a": NAMES[:2]})
    with pytest.raises(MismatchError, match="gives 3 values, and its list names 4 classes"):
        judged([classifier], named(classes=(*NAMES, "cow")))
    with pytest.raises(UnknownNameError, match="'c'"):
        judged(both, (X, Y), classes={"c": NAMES})


def test_independent_labels_in_another_order():
    """Labels have names and orders as classes do."""
    labels = RNG.integers(0, 2, (70, 3))
    straight = model(3, "sigmoid")
    turned = with_columns(straight, [1, 2, 0])

    found = judged({"a": straight, "b": turned}, named(labels), classes={"b": [NAMES[k] for k in (1, 2, 0)]})

    assert metrics(found, "a") == pytest.approx(metrics(found, "b"), **CLOSE)


# Several inputs and outputs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def forked():
    """A model of two inputs that gives classes, a number, and what nobody has labels for."""
    left, right = keras.Input((5,), name="left"), keras.Input((2,), name="right")
    both = layers.Concatenate()([left, right])
    kind = layers.Dense(3, activation="softmax", name="kind")(both)
    age = layers.Dense(1, name="age")(both)
    rest = layers.Dense(2, activation="relu", name="rest")(both)
    return keras.Model({"left": left, "right": right}, {"kind": kind, "age": age, "rest": rest}, name="m")


RIGHT = RNG.normal(size=(70, 2)).astype(np.float32)
AGE = RNG.normal(size=70).astype(np.float32)


def test_each_output_by_its_own_labels(forked):
    """``y.NAME`` belongs to output NAME; what has no labels is said to be left out."""
    data = ({"right": RIGHT, "left": X}, {"age": AGE, "kind": Y})

    found = judged([forked], data, outputs={"age": "regression"})

    said = forked.predict({"left": X, "right": RIGHT}, verbose=0)
    tasks = {verdict.labels: verdict for verdict in found.verdicts}
    assert {column: verdict.task for column, verdict in tasks.items()} == {"y.age": "numbers", "y.kind": "classes"}
    assert tasks["y.age"].figures["m"].metrics["mse"] == pytest.approx(sk.mean_squared_error(AGE, said["age"]), **CLOSE)
    assert tasks["y.kind"].figures["m"].metrics["accuracy"] == pytest.approx(
        sk.accuracy_score(Y, said["kind"].argmax(1))
    )
    assert "m: no labels for rest, so that is not judged" in found.notes


def test_labels_of_other_names(forked):
    """Which labels belong to which output can be said, and must be where names do not tell."""
    columns = {"x.left": X, "x.right": RIGHT, "years": AGE, "what": Y}
    inputs = {"left": "x.left", "right": "x.right"}
    data = open_data(columns, x=inputs)

    found = judged([forked], data, labels={"kind": "what", "m.age": "years"}, outputs={"m.age": "regression"})

    tasks = {verdict.labels: verdict.task for verdict in found.verdicts}
    assert tasks == {"what": "classes", "years": "numbers"}
    with pytest.raises(MismatchError, match=r"has no labels, and model 'm' gives .*say which column holds them"):
        judged([forked], data)
    with pytest.raises(MismatchError, match="has the columns of labels what, and model 'm' gives"):
        judged([forked], open_data(columns, x=inputs, y="what"))
    with pytest.raises(UnknownNameError, match="column in the data is called 'wat'"):
        judged([forked], data, labels={"kind": "wat"})
    with pytest.raises(UnknownNameError, match="`labels`"):
        judged([forked], data, labels={"knd": "what"})


# Where models and samples come from ------------------------------------------------------------------------------------


@TENSORFLOW
def test_files_say_what_live_models_say(classifier, tmp_path):
    """A .keras file, an .h5 file and a SavedModel are judged as the model is; the SavedModel tells that it ends in softmax."""
    paths = [tmp_path / "zip.keras", tmp_path / "old.h5", tmp_path / "served"]
    for path in paths[:2]:
        classifier.save(path)
    classifier.export(paths[2], verbose=False)

    found = judged([classifier, *paths, str(paths[0])], (X, Y))

    names = [each.name for each in found.models]
    assert names == ["m", "zip", "old", "served", "zip#2"]
    for name in names:
        assert metrics(found, name) == pytest.approx(metrics(found, "m"), **CLOSE)
    assert [each.parameters for each in found.models] == [39] * 5
    assert found.models[1].size_bytes == paths[0].stat().st_size
    assert found.models[3].size_bytes == sum(file.stat().st_size for file in paths[2].rglob("*") if file.is_file())
    assert all(pair.figures["same"] == 1 for pair in found.verdicts[0].agreement)
    assert any(note.startswith("served: ") and "frozen layer" in note for note in found.notes)


@pytest.mark.parametrize("last", ["softmax", "sigmoid", "linear"])
def test_files_are_in_memory_one_after_the_other(last, tmp_path, monkeypatch):
    """Each is gone before the next one is loaded, and all that is found is what models in memory together give."""
    models = [model(activation=last, name=f"m{seed}", seed=seed) for seed in range(3)]
    models[2].layers[-1].bias.assign(np.array([np.nan, 0, 0]))
    for each in models:
        each.save(tmp_path / f"{each.name}.keras")
    labels = RNG.random((70, 3)).astype(np.float32) if last == "linear" else np.eye(3, dtype=np.float32)[Y]
    options = {"outputs": "regression" if last == "linear" else "auto", "batch": 16}
    load, loaded = live.load_model, []

    def counted(*given, **more):
        assert not [each for each in loaded if each() is not None]
        made = load(*given, **more)
        loaded.append(weakref.ref(made))
        return made

    monkeypatch.setattr(live, "load_model", counted)
    told = []
    found = judged(
        [tmp_path / f"{each.name}.keras" for each in models],
        (X, labels, W),
        **options,
        progress=lambda *n: told.append(n),
    )
    monkeypatch.setattr(decisions, "HELD_BYTES", 1)  # what they say stands in files
    together = judged(models, (X, labels, W), **options)

    assert len(loaded) == 3 and found.to_dict()["verdicts"] == together.to_dict()["verdicts"]
    assert set(found.verdicts[0].agreement[0].figures.values()) != {None} and told[-1] == (
        "evaluate: samples",
        210,
        210,
    )


def test_streams_are_judged_as_arrays_are(classifier, forked):
    """Data sets of TensorFlow and Keras and generators, with weights, and labels by output."""
    import tensorflow as tf

    class Sequence(keras.utils.PyDataset):
        def __len__(self):
            return 10

        def __getitem__(self, number):
            part = slice(number * 7, number * 7 + 7)
            return X[part], Y[part], W[part]

    expected = metrics(judged([classifier], (X, Y, W)))
    sequence = Sequence()
    for stream in (
        tf.data.Dataset.from_tensor_slices((X, Y, W)).batch(16),
        sequence,
        lambda: (sequence[number] for number in range(10)),
    ):
        found = judged([classifier], open_data(stream))
        assert found.samples == 70
        assert metrics(found) == pytest.approx(expected, **CLOSE)
    inputs = {"left": X, "right": RIGHT}
    both = tf.data.Dataset.from_tensor_slices((inputs, {"kind": Y, "age": AGE})).batch(16)
    options = {"outputs": {"age": "regression"}}
    ours = judged([forked], open_data((inputs, {"kind": Y, "age": AGE})), **options)
    theirs = judged([forked], open_data(both), **options)
    for verdict in range(2):
        assert metrics(theirs, verdict=verdict) == pytest.approx(metrics(ours, verdict=verdict), **CLOSE)
    weighted = tf.data.Dataset.from_tensor_slices((inputs, {"kind": Y, "age": AGE}, {"kind": W, "age": 2 - W})).batch(9)
    found, said = judged([forked], open_data(weighted), **options), forked.predict(inputs, verbose=0)
    own = {verdict.labels: verdict.figures["m"].metrics for verdict in found.verdicts}
    assert own["y.age"]["mse"] == pytest.approx(sk.mean_squared_error(AGE, said["age"], sample_weight=2 - W), **CLOSE)
    right = sk.accuracy_score(Y, said["kind"].argmax(1), sample_weight=W)
    assert own["y.kind"]["accuracy"] == pytest.approx(right, **CLOSE)
    with pytest.raises(DataError, match="no samples"):
        judged([classifier], open_data(lambda: iter(())))
    with pytest.raises(DataError, match="are texts or lists"):
        judged([classifier], open_data(lambda: iter([(X[:5], np.array(["cat"] * 5))])))
    with pytest.raises(DataError, match="label of sample 9 of"):
        judged([classifier], open_data(lambda: iter([(X[:5], Y[:5]), (X[:5], [0, 1, 2, 0, 3])])))
    for bad, message in (
        ((X[:5, :4], Y[:5]), r"batch 1 of .* is float32 \(4,\)"),
        ((X[:5], X[:5]), r"labels 'y' of batch 1 of .* have the shape \(5,\)"),
        ((X[:5], Y[:4]), "batch 1 of .* different lengths"),
        ((X[:5],), "batch 1 of .* has no labels 'y'"),
    ):
        with pytest.raises((DataError, MismatchError), match=message):
            judged([classifier], open_data(lambda bad=bad: iter([(X[:5], Y[:5]), bad])))


@TENSORFLOW
def test_texts_as_inputs():
    """Models that take texts are asked as others are, from arrays and from streams."""
    import tensorflow as tf

    given = keras.Input((1,), dtype="string")
    rows = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(given)
    reader = keras.Model(given, layers.Dense(2, activation="softmax")(rows), name="m")
    words, labels = np.array([["a"], ["b"], ["c"], ["a"]]), np.array([0, 1, 1, 0])
    p = reader.predict(tf.constant(words), verbose=0)

    for data in ((words, labels), tf.data.Dataset.from_tensor_slices((words, labels)).batch(3)):
        assert metrics(judged([reader], data))["log_loss"] == pytest.approx(sk.log_loss(labels, p), **CLOSE)


def test_models_that_take_one_size_of_batches(classifier):
    """The last batch is filled up for them, and what fills it is not judged."""
    fixed = model(batch_size=8)
    fixed.set_weights(classifier.get_weights())

    found = judged({"m": fixed}, (X, Y), batch=20, timed=True)

    assert metrics(found) == pytest.approx(metrics(judged([classifier], (X, Y))), **CLOSE)
    latency = found.models[0].latency
    assert latency.single_ms is None and latency.batch == 8


def test_a_model_whose_own_reshape_fixes_the_batch(classifier):
    """It gets as many samples as it gives answers, and says of each what it would have said."""
    x = keras.Input((5,), name="x")
    eight = keras.Model(x, ops.reshape(classifier(x), (8, 3)), name="eight")

    found = judged([classifier, eight], (X, Y), batch=20, timed=True, outputs={"eight": "probabilities"})

    assert metrics(found) == pytest.approx(metrics(found, "eight"), **CLOSE)
    assert found.models[1].latency.batch == 8
    with pytest.raises(
        MismatchError, match=r"output '.*' of model 'mean' has the shape \(\) for 32 samples, expected 32 rows"
    ):
        judged([keras.Model(x, ops.mean(classifier(x)), name="mean")], (X, Y), outputs="regression")


def test_models_are_left_as_they_are(classifier):
    """Not a weight, a flag, a state or a compiled function changes in a model that was judged."""
    given = keras.Input(batch_shape=(7, 3, 1))
    memory = layers.LSTM(2, stateful=True)
    remembering = keras.Model(given, layers.Dense(3, activation="softmax")(memory(given)), name="remembering")
    frozen = model(name="frozen")
    frozen.layers[1].trainable = False
    frozen.compile("adam", "sparse_categorical_crossentropy")
    optimizer = frozen.optimizer
    before = [[np.array(v) for v in each.variables] for each in (frozen, remembering)]

    judged([frozen], (X, Y), timed=True)
    judged([remembering], (X[:, :3, None], Y), timed=True)

    for each, values in zip((frozen, remembering), before, strict=True):
        assert all(np.array_equal(v, value) for v, value in zip(each.variables, values, strict=True))
    assert not any(np.any(state) for state in memory.states)
    assert [layer.trainable for layer in frozen.layers] == [True, False, True]
    assert frozen.predict_function is None and frozen.optimizer is optimizer


@TENSORFLOW
def test_several_models_are_no_reason_to_warn(caplog):
    """TensorFlow counts how often code is traced, not models: it would warn of a loop that there is not."""
    judged([model(name=f"m{k}") for k in range(6)], (X, Y), batch=32, timed=True)

    assert not [record for record in caplog.records if "retracing" in record.getMessage()]


def test_latency_says_how_it_was_measured(classifier):
    """Milliseconds for one sample and for a batch, of more samples than there are too; or nothing."""
    found = judged([classifier], (X[:3], Y[:3]), batch=16, timed=True).models[0].latency

    assert found.single_ms > 0 and found.batch_ms > 0 and found.batch == 16
    assert "predict_on_batch" in found.how and "median" in found.how
    assert judged([classifier], (X, Y)).models[0].latency is None


# What is not silently wrong --------------------------------------------------------------------------------------------


def test_truth_values_are_labels():
    """True and False are the classes 1 and 0, and the two sides of a label."""
    one = model(1, "sigmoid")

    assert metrics(judged([one], (X, Y > 0))) == metrics(judged([one], (X, (Y > 0).astype(int))))
    several = np.stack([Y > 0, Y > 1], axis=1)
    two = model(2, "sigmoid")
    assert metrics(judged([two], (X, several))) == metrics(judged([two], (X, several.astype(np.float32))))


def test_a_model_that_gives_nan_has_no_figures(classifier):
    """Not a number becomes no figure, with the reason; the other models are judged."""
    broken = model(name="broken")
    weights = broken.get_weights()
    weights[-1][0] = np.nan
    broken.set_weights(weights)

    found = judged([classifier, broken], (X, Y))

    assert set(metrics(found, "broken").values()) == {None}
    assert found.verdicts[0].figures["broken"].reasons["accuracy"] == "70 answers hold NaN or infinity"
    assert metrics(found) == metrics(judged([classifier], (X, Y)))
    assert found.verdicts[0].agreement[0].figures == {"same": None, "kappa": None}


def test_what_is_no_probability_is_refused(classifier):
    """A relu said to give probabilities."""
    with pytest.raises(MismatchError, match="should give probabilities"):
        judged([model(activation="relu")], (X, Y), outputs="probabilities")
    with pytest.raises(OptionError, match="it gives probabilities, not logits"):
        judged([classifier], (X, Y), outputs="logits")


def test_data_that_does_not_fit_is_refused(classifier):
    """Which sample, where, found against expected."""
    wrong = Y.copy()
    wrong[41] = 3
    bad = X.copy()
    bad[12, 2] = np.nan
    soft = np.full((70, 3), 1 / 3, np.float32)
    for data, error, said in (
        ((X[:, :4], Y), MismatchError, "takes float32"),
        ((X, wrong), DataError, "label of sample 41 of the data is 3, and output 'y' has 3 classes"),
        ((bad, Y), DataError, "input 'x' of sample 12 of the data is nan"),
        ((X, Y, np.where(np.arange(70) == 5, -1.0, 1)), DataError, "weight of sample 5 of the data is below 0"),
        ((X, soft), DataError, "are not all one 1 among zeros"),
        ((X, np.zeros((70, 4))), MismatchError, "shape"),
        ((X,), MismatchError, "has no labels"),
    ):
        with pytest.raises(error, match=said):
            judged([classifier], data)


def test_models_that_speak_about_different_things_are_refused(classifier):
    """Classes, labels and numbers cannot be judged by the same labels."""
    with pytest.raises(MismatchError, match="speak about different things"):
        judged({"a": classifier, "b": model(3, "sigmoid")}, (X, Y))
    with pytest.raises(MismatchError, match="a gives 3 values and b gives 4"):
        judged({"a": classifier, "b": model(4)}, (X, Y))
    with pytest.raises(UnknownNameError, match="`outputs`"):
        judged([classifier], (X, Y), outputs={"hed": "logits"})
    with pytest.raises(OptionError, match="no models"):
        judged([], (X, Y))
    with pytest.raises(OptionError, match="is a int, expected a path"):
        judged([3], (X, Y))


# Shown -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown(classifier):
    """Two models, one of which is right far more often."""
    sure = keras.Model(
        classifier.inputs,
        ops.softmax(10 * ops.one_hot(ops.cast(classifier.inputs[0][:, 0] > 0, "int32"), 3)),
        name="sure",
    )
    return judged([classifier, sure], open_data((X, (X[:, 0] > 0).astype(int)), classes=NAMES), timed=True)


def test_the_table_marks_the_best(shown, capsys):
    """A star stands at the best figure of each column: the highest accuracy, the lowest loss."""
    render.evaluation(shown, per_class=True)

    told = capsys.readouterr().out
    sizes, figures = (line.split() for line in told.splitlines() if line.startswith("sure "))
    assert sizes[1] == "0*" and figures[1] == "1.0000*" and shown.verdicts[0].best("log_loss") == ("sure",)
    assert "m: no auc (no samples with and without fox)" in told
    assert "f1 of sure" in told and "predict_on_batch" in told
    assert shown.verdicts[0].best("auc") == ()


def test_times_of_other_batches_are_not_compared(shown, capsys):
    """A model that only takes eight at a time has its own number of samples beside its time, and no star."""
    latency = shown.models[0].latency
    first = replace(shown.models[0], latency=replace(latency, single_ms=None, batch_ms=1.0, batch=8))
    second = replace(shown.models[1], latency=replace(latency, batch_ms=2.0, batch=32))

    render.evaluation(replace(shown, models=(first, second)))

    told = capsys.readouterr().out
    assert "1.00 for 8" in told and "2.00 for 32" in told and "1.00 for 8*" not in told


def test_where_nothing_counts_nothing_is_said(classifier):
    """Weights of 0 everywhere: no figure, and the reason."""
    found = judged([classifier, model(name="n")], (X, Y, 0 * W))

    assert set(metrics(found).values()) == {None}
    assert set(found.verdicts[0].figures["m"].reasons.values()) == {"no sample counts"}
    assert found.verdicts[0].agreement[0].figures == {"same": None, "kappa": None}


@pytest.mark.parametrize("writer", ["evaluate", "confusion", "reliability", "draw", "gram", "export"])
def test_whatever_writes_tells_of_what_a_killed_run_may_have_left(writer, shown, classifier, tmp_path):
    """As merges do: a temporary file of which nobody knows whose it is stays, with a note."""
    report: list[str] = []
    ending, write = {
        "evaluate": (
            ".json",
            lambda out: report.extend(gw.evaluate(classifier, (X, Y), output=out, timed=False).notes),
        ),
        "confusion": (".svg", lambda out: plots.confusion(shown, out, report=report)),
        "reliability": (".svg", lambda out: plots.reliability(shown, out, report=report)),
        "draw": (".svg", lambda out: gw.draw(classifier, out, report=report)),
        "gram": (
            ".safetensors",
            lambda out: gw.gram(
                classifier, X, output=out, samples=2, on_result=lambda found: report.extend(found.notes)
            ),
        ),
        "export": ("", lambda out: report.extend(gw.export(classifier, out).notes)),
    }[writer]
    target = tmp_path / f"out{ending}"
    left = tmp_path / f".{target.name}.1-abcdef.graftwork-tmp"
    left.write_text("half of something")

    write(target)

    assert target.exists() and left.exists()
    assert [note for note in report if note.startswith(f"{left} stays: ")]


def test_confusion_of_every_model_is_drawn(shown, tmp_path):
    """A panel for each model and each column of labels, or those that were chosen; where there is no matrix it is said."""
    verdict = shown.verdicts[0]
    without = replace(
        verdict, labels="z", figures=verdict.figures | {"sure": replace(verdict.figures["sure"], confusion=None)}
    )
    both = replace(shown, verdicts=(verdict, without))

    def titles(name, **chosen):
        text = plots.confusion(both, tmp_path / name, **chosen).read_text()
        told = [f"{model}: {labels}" for labels in "yz" for model in ("m", "sure") if f"{model}: {labels}<" in text]
        return told, text.count("no confusion matrix")

    assert titles("all.svg") == (["m: y", "sure: y", "m: z", "sure: z"], 1)
    assert titles("one.svg", model="m") == (["m: y", "m: z"], 0)
    assert titles("other.svg", labels="y") == (["m: y", "sure: y"], 0)
    with pytest.raises(OptionError, match="sure has no confusion matrix for z"):
        titles("none.svg", model="sure", labels="z")


def test_reliability_by_every_column_of_labels_is_drawn(shown, tmp_path):
    """A panel for each, or for the one that was chosen, in which every model has its curve."""
    verdict = shown.verdicts[0]
    both = replace(shown, verdicts=(verdict, replace(verdict, labels="other")))

    def panels(name, **chosen):
        text = plots.reliability(both, tmp_path / name, **chosen).read_text()
        return [text.count(word) for word in (">y<", ">other<", ">m (ECE", ">sure (ECE")]

    assert panels("all.svg") == [1, 1, 2, 2]
    assert panels("one.svg", labels="other") == [0, 1, 1, 1]


def test_plots_are_files_that_are_complete_or_not_there(shown, tmp_path):
    """SVG or PNG by the ending, the same bytes for the same evaluation, and nothing is replaced unasked."""
    svg, again, png = tmp_path / "a.svg", tmp_path / "b.svg", tmp_path / "c.png"

    plots.confusion(shown, svg, model="sure")
    plots.confusion(shown, again, model="sure")
    plots.reliability(shown, png)

    assert svg.read_bytes() == again.read_bytes() and b"fox" in svg.read_bytes()
    assert png.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OutputError, match="exists"):
        plots.reliability(shown, svg)
    plots.reliability(shown, svg, overwrite=True)
    assert svg.read_bytes() != again.read_bytes() and b"exactly as sure as right" in svg.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.svg", "b.svg", "c.png"]
    with pytest.raises(OutputError, match=r"must end in \.svg or \.png"):
        plots.confusion(shown, tmp_path / "a.pdf")
    with pytest.raises(UnknownNameError, match="'shure'"):
        plots.confusion(shown, tmp_path / "d.svg", model="shure")
    numbers = replace(shown, verdicts=(replace(shown.verdicts[0], task="numbers"),))
    with pytest.raises(OptionError, match="there is no reliability curve of"):
        plots.reliability(numbers, tmp_path / "d.svg")

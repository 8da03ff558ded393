"""Data against models, and what TensorFlow and Keras give as data."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import graftwork as gw
from graftwork.compose.ports import inputs
from graftwork.data import open_data
from graftwork.errors import DataError, MismatchError, gist
from graftwork.training.failing import failing
from graftwork.training.feeding import dataset, in_order, predictions
from graftwork.training.matching import Target, check_labels, check_values, matched, target_of
from graftwork.training.streams import part_of, parts_of

pytestmark = pytest.mark.keras

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 4)).astype(np.float32)
Y = np.arange(23) % 3


def plain(shape=(4,), dtype="float32", units=3):
    taken = keras.Input(shape, dtype=dtype, name="x")
    return keras.Model(taken, layers.Dense(units, name="y")(layers.Flatten()(taken)), name="m")


texts = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="texts need TensorFlow")


@pytest.fixture(scope="module")
def several():
    """A model that takes numbers, a word's number and a text."""
    numbers = keras.Input((4,), name="numbers")
    token = keras.Input((), dtype="int32", name="token")
    word = keras.Input((1,), dtype="string", name="word")
    looked_up = layers.StringLookup(vocabulary=["a", "b", "c"], output_mode="one_hot", num_oov_indices=0)(word)
    both = layers.Concatenate()([numbers, layers.Embedding(3, 2)(token), looked_up])
    return keras.Model({"word": word, "numbers": numbers, "token": token}, layers.Dense(2, name="y")(both), name="m")


COLUMNS = {"numbers": X, "token": Y, "word": np.array(["a", "b", "c"])[Y], "y": Y % 2}


# Inputs ----------------------------------------------------------------------------------------------------------------


@texts
def test_columns_find_their_inputs(several):
    """By name, by what is said, or in order; the model gets them as it takes them."""
    spelled = {"numbers": "n", "token": "t", "word": "w"}
    named = open_data((dict(sorted(COLUMNS.items())[:3]), COLUMNS["y"]))
    renamed = {spelled.get(name, name): values for name, values in COLUMNS.items()}
    said = open_data(renamed, x=spelled)
    listed = open_data(renamed, x=[spelled[name] for name in inputs(several)])
    ragged = {name: values[:, None] if name == "word" else values for name, values in COLUMNS.items() if name != "y"}
    expected = several.predict({name: tf.constant(values) for name, values in ragged.items()}, verbose=0)
    for samples in (named, said, listed):
        found = matched(samples, several)
        assert list(found.inputs) == list(inputs(several))
        answers = [answer["y"] for _, answer in predictions(several, found, 6)]
        np.testing.assert_allclose(np.concatenate(answers), expected, rtol=1e-5, atol=1e-6)


def test_texts_need_tensorflow(several, monkeypatch):
    """Keras's other backends fail on a text in the midst of a model, with an error that is about types."""
    monkeypatch.setattr(keras.config, "backend", lambda: "jax")
    samples, stream = open_data(COLUMNS, x=list(inputs(several))), open_data(lambda: iter([(COLUMNS, Y)]))
    for shown in (lambda: matched(samples, several), lambda: list(parts_of(stream, inputs(several)))):
        with pytest.raises(
            MismatchError, match="input 'word' takes texts, and Keras on jax has none; start Python with"
        ):
            shown()


def test_numbers_side_by_side():
    """Columns of numbers are one input; a single one goes into an input of one number."""
    columns = {f"c{k}": X[:, k] for k in range(4)}
    wide, thin = plain(), plain((1,))
    found = matched(open_data(columns), wide)
    assert found.inputs == {"x": ("c0", "c1", "c2", "c3")}
    (_, answer), *_ = predictions(wide, found, 23)
    np.testing.assert_allclose(answer["y"], wide.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
    (_, answer), *_ = predictions(thin, matched(open_data(columns, x="c2"), thin), 23)
    np.testing.assert_allclose(answer["y"], thin.predict(X[:, 2:3], verbose=0), rtol=1e-5, atol=1e-6)
    mixed = open_data({"a": X[:, :3], "b": X[:, 3]}, x={"x": ["a", "b"]})
    (_, answer), *_ = predictions(wide, matched(mixed, wide), 23)
    np.testing.assert_allclose(answer["y"], wide.predict(X, verbose=0), rtol=1e-5, atol=1e-6)


def test_sizes_that_are_free():
    """Sequences of any length, where the model leaves it open."""
    found = matched(open_data(RNG.normal(size=(5, 9, 2))), keras.Sequential([keras.Input((None, 2)), layers.LSTM(2)]))
    assert len(found) == 5


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (plain(), X[:, :3], {}, r"input 'x' takes float32 \(4,\) and x of the data is float32 \(3,\)"),
        (plain(), X[:, None], {}, r"takes float32 \(4,\) and x of the data is float32 \(1, 4\)"),
        (plain(), X[:, 0], {}, r"is float32 \(\)"),
        (plain((2,)), {"a": X[:, 0], "b": X[:, 1:3]}, {"x": {"x": ["a", "b"]}}, r"a, b of the data is float32 \(3,\)"),
        (plain(), {"a": np.array(["1.5", "many"])}, {"x": "a"}, r"a of the data holds texts such as 'many' \(sample 1\)"),
        (plain((4,), "int32"), X, {}, "holds fractions, which would be cut off"),
        (plain((1,), "uint8"), Y, {}, "holds int64, which may not fit; save it as uint8"),
        (plain((1,), "int32"), Y, {"scale": 0.5}, "would be scaled by 0.5, which is for inputs of floating-point"),
        (plain((1,), "int32"), Y, {"scale": 2, "offset": -1}, "would be scaled by 2 and moved by -1, which is for"),
        (plain(), {"a": X, "b": X}, {"x": ["a", "b"]}, r"gives 2 inputs in order \(a, b\), and model .* takes one, 'x'.*x=\{x: \[a, b\]\}"),
        (plain(), (({"z": X}), Y), {}, r"the model has no input 'z'; say which column goes into which input, x=\{x: …\}"),
    ],
    ids=str,
)  # fmt: skip
def test_columns_that_do_not_fit(model, data, options, message):
    """Which input and column, what is taken and what was found, before a sample is read."""
    with pytest.raises(MismatchError, match=message):
        matched(open_data(data, **options), model)


@texts
def test_texts_and_numbers_do_not_mix(several):
    """Numbers beside texts would become texts."""
    with pytest.raises(MismatchError, match=r"input 'word' takes string .* and numbers of the data holds numbers"):
        matched(open_data(COLUMNS, x={"numbers": "numbers", "token": "token", "word": "numbers"}), several)
    with pytest.raises(MismatchError, match="word, token of the data holds numbers"):
        matched(open_data(COLUMNS, x={"numbers": "numbers", "token": "token", "word": ["word", "token"]}), several)
    with pytest.raises(MismatchError, match="gets no column"):
        matched(open_data(COLUMNS, x="numbers"), replace_inputs(several))


def replace_inputs(model):
    """Return the model under other names, so that no column is called like an input."""
    fresh = {
        name: keras.Input(port.shape[1:], dtype=port.dtype, name=f"my_{name}") for name, port in inputs(model).items()
    }
    return keras.Model({f"my_{name}": tensor for name, tensor in fresh.items()}, model(fresh))


# Labels ----------------------------------------------------------------------------------------------------------------

CLASSES = Target("y", (3,), "probabilities")
TAGS = Target("y", (5, 3), "logits")
SWITCHES = Target("y", (3,), "sigmoid_logits")
NUMBERS = Target("y", (2,), "regression")
SINGLE = Target("y", (1,), "sigmoid")


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (CLASSES, Y),
        (CLASSES, Y[:, None]),
        (CLASSES, np.eye(3)[Y]),
        (CLASSES, np.full((23, 3), 1 / 3, np.float16)),
        (CLASSES, Y.astype(np.float32)),
        (CLASSES, Y.astype(np.uint8)),
        (CLASSES, Y > 0),
        (TAGS, np.tile(Y[:, None], 5)),
        (TAGS, np.tile(Y[:, None, None], (5, 1))),
        (TAGS, np.eye(3)[np.tile(Y[:, None], 5)]),
        (Target("y", (3, 3), "logits"), np.tile(Y[:, None], 3)),
        (SWITCHES, RNG.integers(0, 2, (23, 3))),
        (SINGLE, Y > 0),
        (SINGLE, Y[:, None] / 2),
        (NUMBERS, X[:, :2]),
    ],
    ids=str,
)
def test_labels_that_fit(target, labels):
    """Whole numbers, with or without an axis of one, one-hot, smoothed; for each sample or each position."""
    samples = open_data((X, labels))
    check_labels(samples, target)
    check_values(samples, {"y": target})


@pytest.mark.parametrize(
    ("target", "labels", "message"),
    [
        (CLASSES, np.where(np.arange(23) == 20, 3, Y), "label of sample 20 of the data is 3, and output 'y' has 3 classes: .* 0 to 2"),
        (CLASSES, Y - 1, "label of sample 0 of the data is -1"),
        (CLASSES, Y / 2, "label of sample 1 of the data is 0.5, .* whole number from 0 to 2"),
        (CLASSES, np.where(np.arange(23) == 9, np.nan, Y), "the label of sample 9 of the data is nan"),
        (CLASSES, np.eye(3)[Y] + np.eye(3)[0], "label of sample 0 of the data is 2.0, .* 0 to 1"),
        (CLASSES, np.minimum(np.eye(3)[Y] + np.eye(3)[0], 1), "label of sample 1 of the data sums to 2, .* sum to 1"),
        (Target("y", (3, 3), "logits"), np.tile(Y[:, None] + 1, 3), "label of sample 2 of the data is 3"),
        (SWITCHES, RNG.integers(1, 3, (23, 3)), "is 2, and output 'y' says yes or no: expected 0 to 1"),
        (SINGLE, Y - 1, "is -1, and output 'y' says yes or no"),
    ],
    ids=str,
)  # fmt: skip
def test_labels_out_of_range(target, labels, message):
    """The first one is told, with its sample."""
    samples = open_data((X, labels))
    check_labels(samples, target)
    with pytest.raises(DataError, match=message):
        check_values(samples, {"y": target})


@pytest.mark.parametrize(
    ("target", "labels", "message"),
    [
        (CLASSES, X, r"column 'y'\) have the shape \(4,\), output 'y' gives \(3,\), expected that, or whole numbers of the shape \(\)"),
        (TAGS, Y, r"have the shape \(\), output 'y' gives \(5, 3\), expected that, or whole numbers of the shape \(5,\)"),
        (NUMBERS, Y, r"have the shape \(\), output 'y' gives \(2,\)$"),
        (CLASSES, None, "the data has no labels; say which column holds them"),
    ],
    ids=str,
)  # fmt: skip
def test_labels_of_another_shape(target, labels, message):
    """Told before a sample is read."""
    with pytest.raises(MismatchError, match=message):
        check_labels(open_data((X, labels)), target)


def test_texts_as_labels():
    """Classes number them; without classes they are refused at once."""
    texts = np.array(["cat", "cow", "dog"])[Y]
    samples = open_data((X, texts), classes=["dog", "cow", "cat"])
    check_labels(samples, CLASSES)
    check_values(samples, {"y": CLASSES})
    assert samples.take(np.arange(3)).labels.tolist() == [2, 1, 0]
    with pytest.raises(DataError, match="are texts; say which classes there are, in the order of the model's outputs"):
        check_labels(open_data((X, texts)), CLASSES)
    with pytest.raises(DataError, match="label of sample 2 of the data is 3"):
        check_values(open_data((X, texts), classes=["a", "cat", "cow", "dog"]), {"y": CLASSES})


def test_values_that_nothing_should_learn_from():
    """NaN, infinity, negative weights, weights that are all 0: which, and in which sample of the file, in whatever order it is read."""
    broken = X.copy()
    broken[17, 2] = np.inf
    with pytest.raises(DataError, match="input '' of sample 17 of the data is inf; fill it, or leave the sample out"):
        check_values(open_data((broken, Y)).shuffled(3))
    check_values(open_data((broken, Y)).only(slice(17)))
    for weights, message in [
        (np.where(Y == 2, -1.0, 1.0), "weight of sample 2 of the data is below 0"),
        (np.where(Y == 2, np.nan, 1.0), "the weight of sample 2 of the data is nan"),
        (np.zeros(23), r"weights of all samples of the data \(column 'weights'\) are 0"),
    ]:
        with pytest.raises(DataError, match=message):
            check_values(open_data((X, Y, weights)))


def test_several_outputs_are_refused_as_one_target():
    """A target is one output."""
    taken = keras.Input((4,))
    forked = keras.Model(taken, [layers.Dense(2, name="a")(taken), layers.Dense(2, name="b")(taken)], name="m")
    with pytest.raises(MismatchError, match=r"model 'm' has 2 outputs \(a, b\), expected one"):
        target_of(forked, None)
    assert target_of(plain(), "logits") == Target("y", (3,), "logits")


# Feeding ---------------------------------------------------------------------------------------------------------------


def test_epochs_are_drawn_by_the_seed():
    """Keras sees each sample once in an epoch, in the order of `Samples.shuffled`; labels and weights stay with their samples."""
    samples = matched(open_data((X, Y, Y + 1.0)), plain())
    fed = dataset(plain(), samples, 5, seed=4)
    orders = []
    for epoch in range(3):
        batches = [fed[number] for number in range(len(fed))]
        assert [len(batch[0]) for batch in batches] == [5, 5, 5, 5, 3]
        rows = samples.shuffled(4, epoch).rows
        np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), X[rows])
        np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), Y[rows])
        np.testing.assert_array_equal(np.concatenate([batch[2] for batch in batches]), Y[rows] + 1.0)
        orders.append(rows.tolist())
        fed.on_epoch_end()
    assert orders[0] != orders[1] != orders[2]
    fed.start_at(1)
    np.testing.assert_array_equal(fed[0][0], X[orders[1][:5]])


def test_training_is_the_same_for_the_same_seed():
    """Two runs give the same weights to the last bit; they are those that Keras gives when it is fed the arrays in that order."""
    samples = open_data((X, Y))

    def trained(feed):
        keras.utils.set_random_seed(0)
        model = plain()
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        feed(model)
        return model.get_weights()

    def ours(model):
        feed = dataset(model, matched(samples, model), 8, seed=1)
        model.fit(feed, epochs=2, verbose=0, shuffle=False, callbacks=[in_order(feed)])

    def theirs(model):
        for epoch in range(2):
            rows = samples.shuffled(1, epoch).rows
            model.fit(X[rows], Y[rows], batch_size=8, verbose=0, shuffle=False)

    for a, b, c in zip(trained(ours), trained(ours), trained(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


# What only the model itself knows ----------------------------------------------------------------------------------------


@texts
@pytest.mark.parametrize("verb", ["evaluate", "fisher", "gram", "recalibrate", "finetune", "train", "distill"])
def test_what_a_model_fails_on_is_told(verb):
    """Which model, which batch, and what TensorFlow says of it, in one line."""
    word = keras.Input((1,), dtype="string", name="word")
    known = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot", num_oov_indices=0)(word)
    hidden = layers.BatchNormalization()(layers.Dense(3)(known))
    model = keras.Model(word, layers.Dense(2, activation="softmax")(hidden), name="lookup")
    data = np.array([["a"], ["b"], ["b"], ["zebra"], ["a"]]), np.array([0, 1, 1, 0, 0])
    do = {
        "evaluate": lambda: gw.evaluate([model], data, batch=2, timed=False),
        "fisher": lambda: gw.fisher(model, data, batch=2),
        "gram": lambda: gw.gram(model, data, batch=2),
        "recalibrate": lambda: gw.recalibrate(model, data, batch=2),
        "finetune": lambda: gw.finetune(model, data=data, batch=2, name="trunk"),
        "train": lambda: gw.finetune(model, data=data, batch=2, epochs=1, cache=False),
        "distill": lambda: gw.distill([model], model, data=data, batch=2, cache=True),
    }
    with pytest.raises(DataError) as raised:
        do[verb]()
    which = "while it is trained" if verb == "train" else "on the batch of the data that begins with sample 2"
    which += r"( in layer 'string_lookup\w*' \(StringLookup\), which is given string \([12], 1\))" + "?" * (
        verb == "train"
    )
    message = str(raised.value)
    assert re.fullmatch(
        rf"model '\w+' fails {which}: InvalidArgumentError: .*all inputs should be in vocabulary.*zebra.*", message
    )
    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)


@pytest.mark.parametrize("verb", ["evaluate", "fisher", "gram", "recalibrate", "finetune", "train", "distill", "learn"])
def test_the_layer_that_fails_is_told(verb):
    """Which, and what it is given: the error is a plain ValueError of Keras's, or one of TensorFlow's about names of its own."""
    taken = keras.Input((4,), name="taken")
    three = keras.ops.concatenate([layers.Dense(2)(taken), keras.ops.ones((3, 2))], axis=1)
    hidden = layers.BatchNormalization()(layers.Dense(3)(three))
    model = keras.Model(taken, layers.Dense(2, activation="softmax")(hidden), name="threes")
    good = keras.Sequential([keras.Input((4,)), layers.Dense(2, activation="softmax")], name="good")
    data = X[:6], Y[:6] % 2
    do = {
        "evaluate": lambda: gw.evaluate([model], data, batch=2, timed=False),
        "fisher": lambda: gw.fisher(model, data, batch=2),
        "gram": lambda: gw.gram(model, data, batch=2),
        "recalibrate": lambda: gw.recalibrate(model, data, batch=2),
        "finetune": lambda: gw.finetune(model, data=data, batch=2),
        "train": lambda: gw.finetune(model, data=data, batch=2, epochs=1, cache=False),
        "distill": lambda: gw.distill([model], good, data=data, batch=2, epochs=1),
        "learn": lambda: gw.distill([good], model, data=data, batch=2, epochs=1),
    }
    told = r"in layer 'concatenate\w*' \(Concatenate\), which is given float32 \(2, 2\), float32 \(3, 2\): "
    if verb in ("train", "learn"):
        told = "while it is trained " + told if keras.config.backend() == "tensorflow" else "while it is trained: "
    with pytest.raises(DataError, match=rf"^model '(threes|trunk)' fails .*{told}"):
        do[verb]()
    assert keras.config.is_traceback_filtering_enabled()


def test_errors_of_code_stay_what_they_are():
    """Nobody takes a bug for something about the data."""
    bug = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug") as raised, failing("m", "somehow"):
        raise bug
    assert raised.value is bug


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("one line", "ValueError: one line"),
        ("a list [[1, 2]]\nmore", "ValueError: a list [[1, 2]]"),
        ("", "ValueError"),
        (
            "Graph execution error:\n\nDetected at node a/Assert defined at (most recent call last):\n"
            '  File "/x/y.py", line 63, in call\n\nassertion failed: [no such word]\n\t [[{{node a/Assert}}]] [Op:__inference_1]',
            "ValueError: assertion failed: [no such word]",
        ),
        ("no 2 of 3 for '{{node m/Reshape}} = Reshape[T=DT](a/b, c)' with input shapes: [2].", "ValueError: no 2 of 3"),
        (
            "Exception encountered when calling Reshape.call().\n\n\x1b[1m{{function_node __wrapped}} 30 values [Op:Reshape]\x1b[0m\n\n"
            "Arguments received by Reshape.call():\n  • x=1",
            "ValueError: 30 values",
        ),
    ],
)
def test_the_gist_of_an_error(said, told):
    """It stands behind the places and between the marks of Keras and TensorFlow."""
    assert gist(ValueError(said)) == told


# Streams ---------------------------------------------------------------------------------------------------------------


class Endless(keras.utils.PyDataset):
    """Batches without a number of them, which Keras takes with `steps_per_epoch`."""

    def __getitem__(self, place):
        return np.zeros((2, 3), "float32"), np.zeros(2)


def test_a_data_set_without_an_end_is_refused():
    """It would be read for ever."""
    with pytest.raises(DataError, match=r"never ends.*__len__"):
        open_data(Endless())


class Sheets(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, number):
        return X[number * 10 : number * 10 + 10], Y[number * 10 : number * 10 + 10]


def batches():
    for first in range(0, 23, 10):
        yield X[first : first + 10], Y[first : first + 10]


@pytest.mark.parametrize(
    "source",
    [tf.data.Dataset.from_tensor_slices((X, Y)).batch(10), Sheets(), batches, lambda: batches(), lambda: list(batches())],
    ids=["tf.data", "PyDataset", "generator", "function", "list"],
)  # fmt: skip
def test_streams(source):
    """Whatever yields batches gives the same ones each time it is gone through, and is checked against a model by the first."""
    stream = open_data(source)
    for _ in range(2):
        found = list(stream)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in found]), X)
        np.testing.assert_array_equal(np.concatenate([y for _, y in found]), Y)
    model = plain()
    parts = list(parts_of(stream, inputs(model), target_of(model, "logits")))
    for name, whole in (("inputs", X), ("labels", Y), ("rows", np.arange(23))):
        found = [part.inputs["x"] if name == "inputs" else getattr(part, name) for part in parts]
        np.testing.assert_array_equal(np.concatenate(found), whole)


@texts
def test_streams_of_dictionaries(several):
    """Inputs by name, in any order."""
    taken = {name: COLUMNS[name] for name in ("token", "word", "numbers")}
    stream = open_data(tf.data.Dataset.from_tensor_slices((taken, COLUMNS["y"])).batch(7))
    part = next(parts_of(stream, inputs(several), labelled=False))
    assert list(part.inputs) == list(inputs(several)) and part.labels is None
    np.testing.assert_array_equal(part.inputs["token"], Y[:7])


@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((X[0],), r"input 'x' takes float32 \(4,\), and batch {n} of the data is float32 \(\) in each sample"),
        ((X[:5, :3],), r"batch {n} of the data is float32 \(3,\) in each sample"),
        ((3.0,), "batch {n} of the data is one number"),
        ((np.array([["a"] * 4]),), "batch {n} of the data holds texts"),
        (([[1.0], [1.0, 2.0]],), "batch {n} of the data holds 3 inputs"),
        (({"z": X},), "batch {n} of the data holds 'z', and the model takes 'x'"),
        (([X, X],), "batch {n} of the data holds 2 inputs, and the model takes x"),
        ((X, Y[:5]), r"in batch {n} of the data are of different lengths: \[5, 23\]"),
        ((X, Y, np.ones(4)), "in batch {n} of the data are of different lengths"),
        ((X, {"a": Y, "b": Y}), "batch {n} of the data holds several labels"),
        ((X[:2], np.array(["a", "b"])), "the labels in batch {n} of the data are texts"),
        ((X[:2], [[0], [0, 1]]), "the labels in batch {n} of the data are no array"),
        ((X[:2], Y[:2], ["1", "2"]), "the weights in batch {n} of the data are texts"),
        ((X, Y + 1), "the label of sample {m} of the data is 3"),
        ((X,), "batch {n} of the data has no labels; yield"),
        ((X, X), r"labels of batch {n} of the data have the shape \(4,\)"),
        ((X[:2], Y[:2], np.array([1, -1])), "the weight of sample {w} of the data is below 0"),
        ((np.full((2, 4), np.nan), Y[:2]), "input 'x' of sample {s} of the data is nan"),
    ],
    ids=str,
)
def test_streams_that_do_not_fit(batch, message, before):
    """Any batch tells, not only the first; samples are numbered through."""
    model = plain()
    stream = open_data(lambda: iter([(X[:3], Y[:3])] * before + [batch]))
    found = parts_of(stream, inputs(model), target_of(model, "logits"))
    for _ in range(before):
        next(found)
    message = message.format(n=before, s=3 * before, w=3 * before + 1, m=3 * before + 2)
    with pytest.raises((DataError, MismatchError), match=message):
        next(found)


def test_streams_without_beginning_or_end():
    """Nothing at all, and what says of itself that it never ends."""
    with pytest.raises(DataError, match="yields no batches"):
        list(parts_of(open_data(lambda: iter([])), inputs(plain())))
    with pytest.raises(
        DataError, match=r"never ends; leave repeat\(\) out, or say how many batches are meant \(take, "
    ):
        open_data(tf.data.Dataset.from_tensor_slices(X).batch(5).repeat())
    assert len(list(open_data(tf.data.Dataset.from_tensor_slices(X).batch(5).repeat().take(7)))) == 7


def test_errors_of_a_generator_inside_a_data_set_are_told_with_their_line():
    """TensorFlow runs it, and has the line in its text only; samples that come one by one are told to be that."""

    def given():
        yield from zip(X[:2], Y[:2], strict=True)
        yield {}["lost"]

    made = tf.data.Dataset.from_generator(given, output_signature=(tf.TensorSpec((4,)), tf.TensorSpec((), tf.int32)))
    line = given.__code__.co_firstlineno + 2
    told = (
        rf"batch 1 of the data cannot be made: UnknownError: KeyError: 'lost' \(test_training_data\.py, line {line}\)"
    )
    with pytest.raises(DataError, match=told):
        list(parts_of(open_data(made.batch(2)), inputs(plain())))
    with pytest.raises(DataError, match=r"if that is one sample, yield batches of them \(\.batch\(32\) of tf\.data\)"):
        list(parts_of(open_data(made), inputs(plain())))


def test_errors_of_tensorflow_s_data():
    """What it says stands behind much else; all of it is the cause."""
    numbers = tf.data.Dataset.from_tensor_slices([[1.0], [2.0], [-1.0]])
    stream = iter(open_data(numbers.map(lambda x: tf.debugging.check_numerics(tf.math.log(x), "a log")).batch(1)))
    next(stream), next(stream)
    message = r"batch 2 of the data cannot be made: InvalidArgumentError: a log : Tensor had NaN values"
    with pytest.raises(DataError, match=rf"^{message}$") as raised:
        next(stream)
    assert isinstance(raised.value.__cause__, tf.errors.InvalidArgumentError)


def test_later_batches_count_on():
    """Samples of a stream are numbered through."""
    assert part_of((X[:3],), inputs(plain()), "s", first=20).rows.tolist() == [20, 21, 22]


def test_weights_go_along_without_labels():
    """What samples count is not lost where there are no labels."""
    weights = np.linspace(0, 2, 23)
    _, labels, found = dataset(plain(), matched(open_data((X, None, weights)), plain()), 10)[1]
    assert labels is None
    np.testing.assert_array_equal(found, weights[10:20])


# TFRecord --------------------------------------------------------------------------------------------------------------

PICTURES = RNG.integers(0, 256, (23, 5, 6, 3), dtype=np.uint8)


def example(row, **more):
    found = {
        "x": tf.train.Feature(float_list=tf.train.FloatList(value=X[row])),
        "y": tf.train.Feature(int64_list=tf.train.Int64List(value=[Y[row]])),
        "text": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"zeile {row} ü".encode()])),
        "png": tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.encode_png(PICTURES[row]).numpy()])),
        "raw": tf.train.Feature(bytes_list=tf.train.BytesList(value=[X[row].tobytes()])),
        **more,
    }
    return tf.train.Example(features=tf.train.Features(feature=found)).SerializeToString()


def write(path, examples, compression=""):
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for each in examples:
            writer.write(each)


FEATURES = {
    "x": {"shape": [4]},
    "y": {"dtype": "int64"},
    "text": {"dtype": "str"},
    "png": {"decode": "image"},
    "raw": {"shape": [2, 2], "decode": "raw:float32"},
}


@pytest.mark.parametrize("ending", ["tfrecord", "tfrecord.gz"])
def test_tfrecord(tmp_path, ending):
    """Numbers, texts, images and arrays in bytes, over several files, compressed or not."""
    compression = "GZIP" if ending.endswith("gz") else ""
    for number in range(2):
        write(tmp_path / f"{number}.{ending}", map(example, range(number * 12, min(number * 12 + 12, 23))), compression)
    said = {"tfrecord": f"*.{ending}", "y": "y", "features": FEATURES}

    def read(name, **more):
        part = open_data(said | {"x": name} | more, root=tmp_path).take(np.array([3, 22, 12]))
        assert part.labels.tolist() == Y[[3, 22, 12]].tolist()
        return part.inputs[""]

    np.testing.assert_array_equal(read("x"), X[[3, 22, 12]])
    np.testing.assert_array_equal(read("raw").reshape(3, 4), X[[3, 22, 12]])
    assert read("text").tolist() == ["zeile 3 ü", "zeile 22 ü", "zeile 12 ü"]
    np.testing.assert_array_equal(read("png"), PICTURES[[3, 22, 12]])
    assert read("png", size=[2, 3], channels=1).shape == (3, 2, 3, 1)
    matched(open_data(said | {"x": "png"}, root=tmp_path), plain((5, 6, 3), "uint8"))
    prints = {
        open_data(said | {"x": "x"} | more, root=tmp_path).fingerprint()
        for more in (
            {},
            {"size": [2, 3]},
            {"channels": 1},
            {"features": FEATURES | {"raw": {"shape": [4], "decode": "raw:float32"}}},
        )
    }
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, r"does not say what is in it; describe its features: \{image:"),
        ({"x": {"shape": [5]}}, "do not hold what `features` says of them: .*x"),
        ({"x": {"shape": [4], "dtype": "int64"}}, "do not hold what `features` says"),
        ({"z": {}}, "do not hold what `features` says of them: .*z"),
        ({"raw": {"shape": [3], "decode": "raw:float32"}}, r"feature 'raw' of d.tfrecord has 16 bytes; expected 12, for float32 \(3,\)"),
        ({"text": {"decode": "image"}}, "feature 'text' of d.tfrecord cannot be read as an image: it is none of"),
        ({"png": {"decode": "image", "shape": [9, 9, 3]}}, "'png' of sample 0 of d.tfrecord is 5 × 6, expected 9 × 9"),
        ({"raw": {"dtype": "str"}}, "column 'raw' of d.tfrecord holds bytes that are no text in UTF-8"),
        ({"x": {"shape": [4], "decode": "sound"}}, "'features.x.decode' of the description"),
    ],
    ids=str,
)  # fmt: skip
def test_features_that_are_not_there(tmp_path, features, message):
    """What the description says and the file does not hold."""
    write(tmp_path / "d.tfrecord", map(example, range(2)))
    with pytest.raises(DataError, match=message):
        open_data({"tfrecord": "d.tfrecord", "features": features, "x": next(iter(features), "x")}, root=tmp_path)


def test_broken_tfrecord(tmp_path):
    """Cut, damaged, compressed without saying so, and lengths that lie."""
    path: Path = tmp_path / "d.tfrecord"
    write(path, map(example, range(5)))
    good = path.read_bytes()
    write(path, map(example, range(5)), "GZIP")
    said = {"tfrecord": "d.tfrecord", "features": {"x": {"shape": [4]}}}
    for content in (
        path.read_bytes(),
        good[:-7],
        good[:40] + bytes(255 - each for each in good[40:43]) + good[43:],  # features stand in any order
        struct.pack("<Q", 1 << 60) + good[8:],
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"d\.tfrecord is no TFRecord file, or broken; compressed ones end in \.gz"):
            open_data(said, root=tmp_path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"no samples in d\.tfrecord"):
        open_data(said, root=tmp_path)


@pytest.mark.parametrize("said", [{"scale": 1 / 255}, {"scale": 1 / 127.5, "offset": -1}, {"offset": 3}], ids=str)
def test_scaled_inputs(said):
    """`scale` and `offset` are what a Rescaling layer does."""
    pixels = RNG.integers(0, 256, (23, 4), dtype=np.uint8)
    samples = matched(open_data((pixels, Y), **said), plain())
    found = samples.take(samples.rows).inputs["x"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, np.asarray(layers.Rescaling(**{"scale": 1.0} | said)(pixels)), rtol=1e-6, atol=1e-6
    )
    assert replace(samples, scale=None, offset=None).take(samples.rows).inputs["x"].dtype == np.uint8

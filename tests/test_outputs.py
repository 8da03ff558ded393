"""What outputs are is read off the operation that they come out of, and softmax comes off where nothing depends on it."""

import keras
import numpy as np
import pytest
from composed import compose, reloaded
from keras import layers, ops

from graftwork.compose.outputs import converted, floor_of, log_probabilities
from graftwork.compose.verbs.to_logits import ToLogits
from graftwork.compose.verbs.to_probabilities import ToProbabilities
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models import skeleton
from graftwork.models.outputs import ending

pytestmark = pytest.mark.keras

X = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)


def functional(end, name="m"):
    """Return a model of four inputs that ends as `end` says."""
    given = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", name="hidden")(given)
    return keras.Model(given, end(hidden), name=name)


def nested(inner):
    """Return a model around one."""
    given = keras.Input((4,), name="outer_x")
    return keras.Model(given, inner(given), name="outer")


ENDS = {
    "dense": (lambda h: layers.Dense(3, activation="softmax")(h), "probabilities"),
    "layer": (lambda h: layers.Softmax()(layers.Dense(3)(h)), "probabilities"),
    "activation": (lambda h: layers.Activation("softmax", dtype="float32")(layers.Dense(3)(h)), "probabilities"),
    "function": (lambda h: layers.Dense(3, activation=ops.softmax)(h), "probabilities"),
    "operation": (lambda h: ops.softmax(layers.Dense(3)(h)), "probabilities"),
    "sigmoid": (lambda h: layers.Dense(3, activation="sigmoid")(h), "sigmoid"),
    "sigmoid operation": (lambda h: ops.sigmoid(layers.Dense(3)(h)), "sigmoid"),
    "then cast": (lambda h: ops.cast(layers.Dense(3, activation="softmax")(h), "float16"), "probabilities"),
    "then dropout": (lambda h: layers.Dropout(0.5)(layers.Dense(3, activation="softmax")(h)), "probabilities"),
    "then linear": (lambda h: layers.Activation("linear")(layers.Softmax()(layers.Dense(3)(h))), "probabilities"),
    "then reshaped": (lambda h: layers.Reshape((1, 3))(layers.Dense(3, activation="softmax")(h)), "probabilities"),
    "then flattened": (
        lambda h: layers.Flatten()(layers.Dense(3, activation="softmax")(layers.Reshape((2, 3))(h))),
        None,
    ),
    "sigmoid flattened": (
        lambda h: layers.Flatten()(layers.Dense(3, activation="sigmoid")(layers.Reshape((2, 3))(h))),
        "sigmoid",
    ),
    "convolution": (lambda h: layers.Conv1D(2, 2, activation="softmax")(layers.Reshape((3, 2))(h)), "probabilities"),
    "distributed": (
        lambda h: layers.TimeDistributed(layers.Dense(2, activation="softmax"))(layers.Reshape((3, 2))(h)),
        "probabilities",
    ),
    "log softmax": (lambda h: layers.Dense(3, activation="log_softmax")(h), "logits"),
    "average": (
        lambda h: layers.Average()(
            [layers.Dense(3, activation="softmax")(h), layers.Dense(3, activation="softmax")(h)]
        ),
        "probabilities",
    ),
    "other axis": (lambda h: layers.Softmax(axis=1)(layers.Reshape((3, 2))(h)), None),
    "channels first": (
        lambda h: layers.Conv1D(2, 2, activation="softmax", data_format="channels_first")(layers.Reshape((3, 2))(h)),
        None,
    ),
    "nothing": (lambda h: layers.Dense(3)(h), None),
    "relu": (lambda h: layers.Dense(3, activation="relu")(h), None),
    "lstm": (lambda h: layers.LSTM(3, activation="softmax")(layers.Reshape((3, 2))(h)), None),
    "scaled": (lambda h: layers.Rescaling(2.0)(layers.Dense(3, activation="softmax")(h)), None),
    "sum": (
        lambda h: layers.Add()([layers.Dense(3, activation="softmax")(h), layers.Dense(3, activation="softmax")(h)]),
        None,
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_outputs_are_what_they_come_out_of(end):
    """Also inside a model, inside a Sequential, and without values."""
    make, kind = ENDS[end]
    model = functional(make)

    assert ending(model).kind == kind
    assert ending(nested(model)).kind == kind
    assert ending(keras.Sequential([keras.Input((4,)), model])).kind == kind
    with skeleton.weightless():
        assert ending(skeleton.skeleton(model)).kind == kind


def test_what_may_be_logits_or_values_is_told_from_what_is_bounded():
    """A Dense without an activation has no bounds; relu has one."""
    assert ending(functional(ENDS["nothing"][0])).open
    assert not ending(functional(ENDS["relu"][0])).open
    assert "relu" in ending(functional(ENDS["relu"][0])).what


def test_a_function_of_the_users_own_is_not_taken_at_its_word():
    """Though it is called softmax."""

    def softmax(x):
        return x * 2

    assert ending(functional(lambda h: layers.Dense(3, activation=softmax)(h))).kind is None


STRIPPED = (
    "dense",
    "layer",
    "activation",
    "function",
    "operation",
    "sigmoid",
    "sigmoid operation",
    "then dropout",
    "then linear",
    "then reshaped",
    "distributed",
    "convolution",
)


@pytest.mark.parametrize("around", ["plain", "nested", "sequential"])
@pytest.mark.parametrize("end", STRIPPED)
def test_softmax_comes_off(end, around):
    """What the result gives has, under the same softmax, every bit of what the model gave; its weights are the same ones."""
    make, kind = ENDS[end]
    model = functional(make)
    model = {"plain": model, "nested": nested(model), "sequential": keras.Sequential([keras.Input((4,)), model])}[
        around
    ]

    found = compose(ToLogits(), {"m": model})

    assert not any("cannot be taken off" in note for note in found.notes)
    again = {"probabilities": ops.softmax, "sigmoid": ops.sigmoid}[kind]
    np.testing.assert_array_equal(again(found.model(X)), model(X))
    np.testing.assert_array_equal(again(reloaded(found.model)(X)), model(X))
    assert all(np.array_equal(a, b) for a, b in zip(found.model.get_weights(), model.get_weights(), strict=True))
    assert ending(model).kind == kind  # the source is as it was


def test_what_else_depends_on_a_softmax_keeps_it():
    """The layer is called twice, or another output is made of it: logarithms then, and said."""
    given = keras.Input((4,), name="x")
    dense = layers.Dense(3, activation="softmax", name="p")
    model = keras.Model(
        given, {"p": dense(given), "twice": layers.Rescaling(2.0, name="twice")(dense(given))}, name="m"
    )
    one = dense(given)
    other = keras.Model(given, {"p": one, "twice": layers.Rescaling(2.0, name="twice")(one)}, name="m")

    for source in (model, other):
        found = compose(ToLogits(only=["p"]), {"m": source})
        assert any("cannot be taken off" in note for note in found.notes)
        before, after = source(X), found.model(X)
        np.testing.assert_allclose(np.log(before["p"]), after["p"], rtol=1e-5)
        np.testing.assert_array_equal(before["twice"], after["twice"])


def test_a_masked_softmax_keeps_its_mask():
    """Softmax over what a mask leaves is not that over all."""
    given = keras.Input((5,), dtype="int32")
    steps = layers.Embedding(7, 3, mask_zero=True)(given)
    model = keras.Model(given, layers.Softmax()(steps), name="m")

    found = compose(ToLogits(), {"m": model})

    assert any("cannot be taken off" in note for note in found.notes)


def test_outputs_are_chosen_by_name():
    """All that are probabilities by default; others are left and said, unless they were asked for."""
    given = keras.Input((4,), name="x")
    outs = {
        "kind": layers.Dense(3, activation="softmax", name="k")(given),
        "flags": layers.Dense(2, activation="sigmoid", name="f")(given),
        "size": layers.Dense(1, name="s")(given),
    }
    model = keras.Model(given, outs, name="m")

    found = compose(ToLogits(), {"m": model})

    before, after = model(X), found.model(X)
    np.testing.assert_array_equal(ops.softmax(after["kind"]), before["kind"])
    np.testing.assert_array_equal(ops.sigmoid(after["flags"]), before["flags"])
    np.testing.assert_array_equal(after["size"], before["size"])
    assert any("'s'" in note and "left" in note for note in found.notes)
    with pytest.raises(OptionError, match="logits or values"):
        compose(ToLogits(only=["size"]), {"m": model})
    with pytest.raises(UnknownNameError, match="'sizes'"):
        compose(ToLogits(only=["sizes"]), {"m": model})
    back = compose(ToProbabilities(outputs={"kind": "logits", "flags": "sigmoid_logits"}), {"m": found.model})
    assert all(np.array_equal(before[name], back.model(X)[name]) for name in outs)
    np.testing.assert_allclose(back.reference(X)["kind"], before["kind"], atol=1e-6)


def test_what_does_not_tell_is_asked_for():
    """And what contradicts the last operation is refused."""
    linear, softmax = functional(ENDS["nothing"][0]), functional(ENDS["dense"][0])
    with pytest.raises(OptionError, match="may be logits or values; say which"):
        compose(ToProbabilities(), {"m": linear})
    with pytest.raises(OptionError, match="so it gives probabilities, not logits"):
        compose(ToProbabilities(outputs="logits"), {"m": softmax})
    with pytest.raises(OptionError, match="regression, of which there are no"):
        compose(ToProbabilities(outputs="regression"), {"m": linear})
    with pytest.raises(OptionError, match="'softmax'; expected"):
        compose(ToProbabilities(outputs="softmax"), {"m": linear})
    unchanged = compose(ToLogits(outputs="logits"), {"m": linear})
    np.testing.assert_array_equal(unchanged.model(X), linear(X))
    found = compose(ToProbabilities(outputs="logits"), {"m": linear})
    np.testing.assert_allclose(found.model(X), found.reference(X), atol=1e-6)


def test_conversions_stay_finite():
    """A probability of exactly 0 or 1 has a finite logarithm, and softmax of that gives it back; NaN stays NaN."""
    p = np.array([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25], [np.nan, 0.5, 0.5]], np.float32)
    name = str

    z = np.asarray(converted(p, "probabilities", "logits", name))
    s = np.asarray(converted(p, "sigmoid", "sigmoid_logits", name))

    assert np.isfinite(z[:2]).all() and np.isfinite(s[:2]).all()
    np.testing.assert_allclose(ops.softmax(z[:2]), p[:2], atol=1e-7)
    np.testing.assert_allclose(ops.sigmoid(s[:2]), p[:2], atol=1e-7)
    assert np.isnan(z[2, 0]) and np.isnan(s[2, 0])
    logs = np.asarray(log_probabilities(np.array([[200.0, 0.0]], np.float32), "logits", name, "float32"))
    np.testing.assert_allclose(logs, [[0, np.log(floor_of("float32"))]], rtol=1e-6)
    with pytest.raises(MismatchError, match="cannot be turned"):
        converted(p, "probabilities", "sigmoid", name)


def test_a_zero_of_float16_stands_for_more_than_one_of_float32():
    """It is any number below the smallest that float16 has."""
    assert np.float16(floor_of("float16")) > 0
    assert floor_of("float16") > floor_of("float32") == floor_of("bfloat16")

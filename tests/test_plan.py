"""What is matched and what is refused, on files that Keras wrote; matches are proven by what the merged model predicts."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers as kl

import graftwork as gw

pytestmark = pytest.mark.keras


@keras.saving.register_keras_serializable("mine")
class Block(kl.Layer):
    """A layer of the user's, whose inner layers have automatic names."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.second = kl.Dense(units, activation="tanh")
        self.first = kl.Dense(units)
        self.steps = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="steps")
        self.scale = self.add_weight(shape=(units,), initializer="ones", name="scale")

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.units))

    def call(self, x):
        return self.second(self.first(x)) * self.scale

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def randomize(model, seed):
    """Give every floating-point variable values of its own."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" in variable.dtype:
            values = rng.normal(size=variable.shape) * 0.4
            variable.assign(np.abs(values) + 0.1 if "variance" in variable.path else values)
    return model


def saved(folder, **models):
    """Save models under their names and return the paths."""
    paths = []
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
        paths.append(folder / f"{name}.keras")
    return paths


def inputs_of(model, seed=0):
    rng = np.random.default_rng(seed)
    found = [
        rng.normal(size=(4, *(4 if n is None else n for n in t.shape[1:]))).astype("float32") for t in model.inputs
    ]
    return found if len(found) > 1 else found[0]


def predictions(model, inputs=None):
    if not isinstance(model, keras.Model):
        model = keras.saving.load_model(model, compile=False)
    return np.asarray(model(inputs_of(model) if inputs is None else inputs))


def average_by_hand(models):
    """Return the plain average of live models whose variables come in one order, by Keras alone."""
    for position, variable in enumerate(models[0].weights):
        if "float" in variable.dtype:
            variable.assign(np.mean([np.asarray(m.weights[position]) for m in models], axis=0))
    return models[0]


def check_average(tmp_path, build, count=2, **arguments):
    """Merge models built one after the other, each with automatic names of its own, and compare with Keras."""
    models = [randomize(build(), seed) for seed in range(count)]
    paths = saved(tmp_path, **{f"m{k}": model for k, model in enumerate(models)})
    out = gw.merge(paths, output=tmp_path / "out.keras", **arguments)
    np.testing.assert_allclose(predictions(out), predictions(average_by_hand(models)), rtol=2e-5, atol=2e-6)
    return out


def refused(tmp_path, a, b, *words, **arguments):
    """Merging must be refused from headers alone, with all of the words in the message; return it."""
    paths = saved(tmp_path, first=a, second=b)
    for act, more in ((gw.plan_merge, {}), (gw.merge, {"output": tmp_path / "out.keras"})):
        with pytest.raises(gw.MismatchError) as caught:
            act(paths, **more, **arguments)
        for word in words:
            assert word in str(caught.value), str(caught.value)
    assert not (tmp_path / "out.keras").exists()
    return str(caught.value)


# Matched ------------------------------------------------------------------------------------------------------------


def mlp(activation="relu", units=3, epsilon=1e-3, momentum=0.99):
    x = inputs = keras.Input((6,))
    x = kl.BatchNormalization(epsilon=epsilon, momentum=momentum)(kl.Dense(5, activation=activation)(x))
    return keras.Model(inputs, kl.Dense(units)(x))


def cnn(strides=1, padding="same", rate=1):
    x = inputs = keras.Input((8, 8, 2))
    x = kl.Conv2D(4, 3, strides=strides, padding=padding, dilation_rate=rate)(x)
    return keras.Model(inputs, kl.Dense(2)(kl.GlobalMaxPooling2D()(kl.DepthwiseConv2D(2)(x))))


def recurrent():
    x = inputs = keras.Input((7, 4))
    x = kl.Bidirectional(kl.LSTM(3, return_sequences=True))(x)
    x = kl.MultiHeadAttention(2, 3)(x, x)
    x = kl.TimeDistributed(kl.Dense(4, activation="relu"))(x)
    return keras.Model(inputs, kl.RNN([kl.GRUCell(3), kl.LSTMCell(4)])(kl.LayerNormalization()(x)))


def nested():
    parts = [
        keras.Sequential([keras.Input((5,)), kl.Dense(5, activation="relu"), kl.BatchNormalization(), kl.Dense(5)])
        for _ in range(2)
    ]
    inputs = keras.Input((5,))
    return keras.Model(inputs, kl.Dense(2)(parts[1](parts[0](inputs))))


def siamese():
    left, right, shared = keras.Input((4,)), keras.Input((4,)), kl.Dense(3, activation="tanh")
    tower = keras.Sequential([keras.Input((3,)), kl.Dense(4)])
    return keras.Model([left, right], kl.Dense(2)(kl.Concatenate()([tower(shared(left)), tower(shared(right))])))


def several_inputs():
    a, b, c = (keras.Input((4,)) for _ in range(3))
    x, y, z = (kl.Dense(3, activation="relu")(t) for t in (a, b, c))
    return keras.Model([a, b, c], [kl.Dense(2)(kl.Add()([x, y])), kl.Dense(2)(kl.Subtract()([y, z]))][0])


def custom():
    inputs = keras.Input((4,))
    return keras.Model(inputs, kl.Dense(2)(Block(4)(Block(4)(inputs))))


@pytest.mark.parametrize(
    "build", [mlp, cnn, recurrent, nested, siamese, several_inputs, custom], ids=lambda b: b.__name__
)
@pytest.mark.parametrize("count", [2, 3])
def test_other_automatic_names_are_matched_by_structure(tmp_path, build, count):
    """The same code run again gives other names; the average is the one that Keras itself computes."""
    check_average(tmp_path, build, count)


def two_branches(order, names=(None, None), hidden=(3, 3)):
    """Return a model of two branches, made and concatenated in an order, and its layers (first, second, head)."""
    inputs = keras.Input((6,))
    branches = {}
    for which in order:
        branches[which] = kl.Dense(hidden[which], activation="relu", name=names[which])
    made = {which: branch(inputs) for which, branch in branches.items()}
    head = kl.Dense(2)
    joined = kl.Concatenate()([made[which] for which in order])
    return keras.Model(inputs, head(joined)), branches[0], branches[1], head


@pytest.mark.parametrize("names", [(None, None), ("left", "right")], ids=["automatic", "named"])
def test_concatenate_twins_are_matched_right(tmp_path, names):
    """`Concatenate([a, b])` and `([b, a])`: the h5 keys are swapped, and so are the rows of what comes after.

    The twin computes the very same function, so every average of the two must compute it too. Averaging by position, by key or
    without permuting the head's rows does not.
    """
    a, first, second, head = two_branches((0, 1), names, (3, 3))
    randomize(a, 0)
    b, first_b, second_b, head_b = two_branches((1, 0), names, (3, 3))
    first_b.set_weights(first.get_weights())
    second_b.set_weights(second.get_weights())
    kernel, bias = head.get_weights()
    head_b.set_weights([np.concatenate([kernel[3:], kernel[:3]]), bias])
    inputs = inputs_of(a)
    np.testing.assert_allclose(predictions(a, inputs), predictions(b, inputs), rtol=1e-5, atol=1e-6)
    paths = saved(tmp_path, a=a, b=b)
    if names[0] is None:
        # nothing tells the branches apart: whichever is taken for which, it is the same architecture in the same order
        out = gw.merge(paths, output=tmp_path / "out.keras")
        assert predictions(out, inputs).shape == (4, 2)
        return
    for k, given in enumerate((paths, paths[::-1])):
        out = gw.merge(given, weights=[0.3, 0.7], output=tmp_path / f"out{k}.keras")
        np.testing.assert_allclose(predictions(out, inputs), predictions(a, inputs), rtol=1e-5, atol=1e-6)


def test_the_first_of_two_unnamed_branches_is_the_one_that_is_concatenated_first(tmp_path):
    """Both branches are made in the same order and joined in the other one; automatic names count in vain."""
    models = []
    for flip in (False, True):
        inputs = keras.Input((6,))
        layers = [kl.Dense(3, activation="relu"), kl.Dense(3, activation="relu")]
        tensors = [layer(inputs) for layer in layers]
        first, second = layers[::-1] if flip else layers
        head = kl.Dense(2)
        models.append(
            (keras.Model(inputs, head(kl.Concatenate()(tensors[::-1] if flip else tensors))), first, second, head)
        )
    (a, *of_a), (b, *of_b) = models
    randomize(a, 0)
    for mine, theirs in zip(of_a, of_b, strict=True):
        theirs.set_weights(mine.get_weights())
    np.testing.assert_allclose(predictions(b), predictions(a), rtol=1e-5, atol=1e-6)
    for k, given in enumerate(([a, b], [b, a])):
        out = gw.merge(saved(tmp_path, x=given[0], y=given[1]), weights=[0.3, 0.7], output=tmp_path / f"out{k}.keras")
        np.testing.assert_allclose(predictions(out), predictions(a), rtol=1e-5, atol=1e-6)


def test_names_that_were_given_the_other_way_round_do_not_mislead(tmp_path):
    """`x` comes first in one model and `y` in the other: the twin is matched by what layers do, or refused."""
    a = randomize(keras.Sequential([keras.Input((4,)), kl.Dense(4, "relu", name="x"), kl.Dense(4, name="y")]), 0)
    b = keras.Sequential([keras.Input((4,)), kl.Dense(4, "relu", name="y"), kl.Dense(4, name="x")])
    b.set_weights(a.get_weights())
    paths = saved(tmp_path, a=a, b=b)
    try:
        out = gw.merge(paths, output=tmp_path / "out.keras")
    except gw.MismatchError:
        return
    np.testing.assert_allclose(predictions(out), predictions(a), rtol=1e-5, atol=1e-6)


def test_flipped_branches_without_a_kernel_behind_them_are_matched_by_what_they_do(tmp_path):
    """Where nothing can be permuted, the first branch meets the first one, whatever it is called, and the plan says so."""
    a, b = randomize(joined(kl.Subtract()), 0), joined(kl.Subtract(), flip=True)
    for name, other in (("one", "two"), ("two", "one"), ("head", "head")):
        b.get_layer(other).set_weights(a.get_layer(name).get_weights())
    np.testing.assert_allclose(predictions(b), predictions(a), rtol=1e-5, atol=1e-6)
    notes = []
    out = gw.merge(saved(tmp_path, a=a, b=b), weights=[0.3, 0.7], output=tmp_path / "out.keras", report=notes)
    np.testing.assert_allclose(predictions(out), predictions(a), rtol=1e-5, atol=1e-6)
    assert any("'one' is 'two'" in note for note in notes), notes


@pytest.mark.parametrize("what", ["inputs", "outputs"])
def test_named_ends_in_another_order_are_matched_by_name_and_told(tmp_path, what):
    """A head called `boxes` is the boxes, wherever it stands; that it stands elsewhere is worth a note."""

    def build(flip):
        a, b = keras.Input((4,), name="left"), keras.Input((4,), name="right")
        found = [kl.Dense(3, name="boxes")(a), kl.Dense(3, name="labels")(b)]
        flip_in, flip_out = (flip, False) if what == "inputs" else (False, flip)
        return keras.Model([b, a] if flip_in else [a, b], found[::-1] if flip_out else found)

    models = [randomize(build(False), 0), randomize(build(True), 1)]
    notes = []
    out = gw.merge(saved(tmp_path, a=models[0], b=models[1]), output=tmp_path / "out.keras", report=notes)
    assert any(f"{what} stand in another order" in note for note in notes), notes
    found = keras.saving.load_model(out)
    for name in ("boxes", "labels"):
        for got, *given in zip(*(m.get_layer(name).get_weights() for m in (found, *models)), strict=True):
            np.testing.assert_allclose(got, np.mean(given, axis=0), rtol=1e-5, atol=1e-7)


def test_branches_of_other_widths_are_matched_by_structure(tmp_path):
    """Without names in common, what differs between the branches tells them apart."""
    a, first, second, head = two_branches((0, 1), hidden=(3, 4))
    randomize(a, 0)
    b, first_b, second_b, head_b = two_branches((1, 0), hidden=(3, 4))
    first_b.set_weights(first.get_weights())
    second_b.set_weights(second.get_weights())
    kernel, bias = head.get_weights()
    head_b.set_weights([np.concatenate([kernel[3:], kernel[:3]]), bias])
    paths = saved(tmp_path, a=a, b=b)
    try:
        out = gw.merge(paths, output=tmp_path / "out.keras")
    except gw.MismatchError:
        return  # refused is right too; a wrong function is not
    np.testing.assert_allclose(predictions(out), predictions(a), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [(1, 0), (0, 1)])
def test_layers_made_in_another_order_are_matched_by_name(tmp_path, order):
    """Keys of the file count classes in the order of the graph; names do not care."""
    inputs = keras.Input((6,))
    one, two = kl.Dense(3, name="one"), kl.Dense(3, name="two")
    a = randomize(keras.Model(inputs, kl.Dense(2, name="head")(kl.Subtract()([one(inputs), two(inputs)]))), 0)
    inputs = keras.Input((6,))
    made = {k: kl.Dense(3, name=("one", "two")[k]) for k in order}
    tensors = {k: layer(inputs) for k, layer in made.items()}
    b = keras.Model(inputs, kl.Dense(2, name="head")(kl.Subtract()([tensors[0], tensors[1]])))
    for name in ("one", "two", "head"):
        b.get_layer(name).set_weights(a.get_layer(name).get_weights())
    out = gw.merge(saved(tmp_path, a=a, b=b), output=tmp_path / "out.keras")
    np.testing.assert_allclose(predictions(out), predictions(a), rtol=1e-5, atol=1e-6)


def test_a_shared_layer_is_merged_once(tmp_path):
    """One set of weights, however often it is used."""
    out = check_average(tmp_path, siamese)
    assert len(gw.inspect(out).tensors) == 6


def test_one_model_twice_is_allowed_and_said(tmp_path):
    """The result is the model, to the bit."""
    model = randomize(mlp(), 0)
    (path,) = saved(tmp_path, m=model)
    notes = []
    out = gw.merge([path, path], output=tmp_path / "out.keras", report=notes)
    assert any("same file" in note for note in notes), notes
    for found, wanted in zip(keras.saving.load_model(out).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("count", [2, 3, 7])
def test_an_adapted_normalization_is_carried_exactly(tmp_path, count):
    """Bit for bit, when all models were adapted to the same data; the loaded model normalizes as they do."""
    data = np.random.default_rng(0).normal(3, 7, (100, 5)).astype("float32")
    models = []
    for seed in range(count):
        normalization = kl.Normalization()
        normalization.adapt(data)
        inputs = keras.Input((5,))
        model = keras.Model(inputs, kl.Dense(2)(normalization(inputs)))
        model.layers[-1].set_weights([w + seed for w in model.layers[-1].get_weights()])
        models.append(model)
    paths = saved(tmp_path, **{f"m{k}": m for k, m in enumerate(models)})
    out = keras.saving.load_model(gw.merge(paths, output=tmp_path / "out.keras"))
    for found, wanted in zip(out.layers[1].get_weights(), models[0].layers[1].get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.asarray(out.layers[1](data)), np.asarray(models[0].layers[1](data)))


def test_normalizations_adapted_to_other_data_are_told(tmp_path):
    """Averaging them is possible, but the user is told."""
    paths = []
    for k in range(2):
        normalization = kl.Normalization()
        normalization.adapt(np.random.default_rng(k).normal(k, k + 1, (100, 5)).astype("float32"))
        inputs = keras.Input((5,))
        paths += saved(tmp_path, **{f"m{k}": keras.Model(inputs, kl.Dense(2)(normalization(inputs)))})
    notes = []
    gw.merge(paths, output=tmp_path / "out.keras", report=notes)
    assert any("adapted" in note for note in notes), notes


def test_running_statistics_are_averaged_and_the_plan_says_recalibrate(tmp_path):
    """The plan tells it before anything is written."""
    paths = saved(tmp_path, a=randomize(mlp(), 0), b=randomize(mlp(), 1))
    plan = gw.plan_merge(paths, method="ties", base=paths[0])
    assert any("recalibrate" in note for note in plan.notes)
    assert plan.roles == {"weight": 6, "statistic": 2}
    rows = {row["name"]: row for row in plan.tensors}
    assert {row["action"] for name, row in rows.items() if "moving_" in name} == {"linear"}


def test_factors_of_lora_are_no_weights_and_the_plan_says_so(tmp_path):
    """A .keras file holds weights with what their factors add, a legacy one the factors themselves."""
    for name in "ab":
        model = keras.Sequential([keras.Input((3,)), kl.Dense(4, name="dense")])
        model.get_layer("dense").enable_lora(2)
        for ending in ("keras", "h5"):
            model.save(tmp_path / f"{name}.{ending}")
    notes = {e: str(gw.plan_merge([tmp_path / f"a.{e}", tmp_path / f"b.{e}"]).notes) for e in ("keras", "h5")}
    assert "2 factors of LoRA ('dense/lora_kernel_a' …) are merged one by one" in notes["h5"]
    assert "LoRA" not in notes["keras"]


def test_integers_are_copied_and_counters_that_differ_are_told(tmp_path):
    """Steps are not averaged."""
    models = [randomize(custom(), 0), randomize(custom(), 1)]
    models[0].layers[1].steps.assign(5)
    models[1].layers[1].steps.assign(9)
    notes = []
    out = gw.merge(saved(tmp_path, a=models[0], b=models[1]), output=tmp_path / "out.keras", report=notes)
    assert int(keras.saving.load_model(out).layers[1].steps) == 5
    assert [note for note in notes if "differs in b" in note], notes
    assert len([note for note in notes if "differs in" in note]) == 1, notes


def test_a_keras_file_and_its_weights_file_are_matched(tmp_path):
    """A weights file has names, no architecture; what cannot be compared is said."""
    a, b = randomize(mlp(), 0), randomize(mlp(), 1)
    named = keras.saving.load_model(saved(tmp_path, a=a)[0])
    named.set_weights(b.get_weights())
    named.save_weights(tmp_path / "b.weights.h5")
    notes = []
    out = gw.merge([tmp_path / "a.keras", tmp_path / "b.weights.h5"], output=tmp_path / "out.keras", report=notes)
    assert any("no architecture" in note for note in notes), notes
    np.testing.assert_allclose(predictions(out), predictions(average_by_hand([a, b])), rtol=2e-5, atol=2e-6)


def test_a_weights_file_with_other_names_is_refused(tmp_path):
    """Keys that happen to be equal do not make tensors equal."""
    a, b = randomize(mlp(), 0), randomize(mlp(), 1)
    (path,) = saved(tmp_path, a=a)
    b.save_weights(tmp_path / "b.weights.h5")
    with pytest.raises(gw.MismatchError, match=r"has no counterpart in b.*map"):
        gw.merge([path, tmp_path / "b.weights.h5"], output=tmp_path / "out.keras")


# Refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "field", "changed", "values"),
    [
        (mlp, "activation", {"activation": "tanh"}, ("relu", "tanh")),
        (mlp, "epsilon", {"epsilon": 1e-5}, ("0.001", "1e-05")),
        (cnn, "strides", {"strides": 2}, ("1", "2")),
        (cnn, "padding", {"padding": "valid"}, ("same", "valid")),
        (cnn, "dilation_rate", {"rate": 2}, ("1", "2")),
        (mlp, "units", {"units": 4}, ("3", "4")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_that_changes_the_function_is_refused_by_name(tmp_path, build, field, changed, values):
    """Field, both values and both models are in the message."""
    refused(tmp_path, build(), build(**changed), field, *values, "first", "second")


def test_a_setting_of_training_alone_may_differ(tmp_path):
    """Momentum of BatchNorm and Dropout's rate do not change what a model predicts."""
    a, b = randomize(mlp(momentum=0.9), 0), randomize(mlp(momentum=0.99), 1)
    out = gw.merge(saved(tmp_path, a=a, b=b), output=tmp_path / "out.keras")
    np.testing.assert_allclose(predictions(out), predictions(average_by_hand([a, b])), rtol=2e-5, atol=2e-6)


def one(layer, shape=(6,), dtype=None):
    """Return a model of one layer between two others with weights."""
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, kl.Dense(2)(layer(kl.Dense(shape[-1])(inputs))))


def joined(join, flip=False):
    inputs = keras.Input((4,))
    tensors = [kl.Dense(3, name="one")(inputs), kl.Dense(3, name="two")(inputs)]
    return keras.Model(inputs, kl.Dense(2, name="head")(join(tensors[::-1] if flip else tensors)))


def attention(**how):
    inputs = keras.Input((5, 4))
    return keras.Model(inputs, kl.MultiHeadAttention(2, 3)(inputs, inputs, **how))


def twice(layer):
    return lambda x: layer(layer(x))


def tokens(**how):
    inputs = keras.Input((5,), dtype="int32")
    return keras.Model(inputs, kl.LSTM(3)(kl.Embedding(7, 4, **how)(inputs)))


PAIRS = {
    "LeakyReLU": lambda k: one(kl.LeakyReLU(negative_slope=(0.1, 0.3)[k])),
    "ReLU": lambda k: one(kl.ReLU(max_value=(None, 6)[k])),
    "Activation": lambda k: one(kl.Activation(("relu", "elu")[k])),
    "Softmax axis": lambda k: one(kl.Softmax(axis=(-1, 1)[k]), (5, 4)),
    "LayerNorm": lambda k: one(kl.LayerNormalization(epsilon=(1e-3, 1e-6)[k])),
    "GroupNorm": lambda k: one(kl.GroupNormalization(groups=(2, 3)[k])),
    "Rescaling": lambda k: one(kl.Rescaling(scale=(1.0, 0.5)[k])),
    "constant": lambda k: one(lambda x: x * (2.0, 3.0)[k]),
    "operation": lambda k: one((keras.ops.sin, keras.ops.cos)[k]),
    "Lambda": lambda k: one(kl.Lambda((lambda x: x * 2, lambda x: x * 3)[k], output_shape=(6,))),
    "join": lambda k: joined((kl.Add(), kl.Multiply())[k]),
    "causal": lambda k: attention(use_causal_mask=bool(k)),
    "mask_zero": lambda k: tokens(mask_zero=bool(k)),
    "go_backwards": lambda k: keras.Sequential([keras.Input((5, 4)), kl.LSTM(3, go_backwards=bool(k))]),
    "reset_after": lambda k: keras.Sequential([keras.Input((5, 4)), kl.GRU(3, use_bias=False, reset_after=bool(k))]),
    "merge_mode": lambda k: keras.Sequential(
        [keras.Input((5, 4)), kl.Bidirectional(kl.LSTM(3), merge_mode=("sum", "mul")[k])]
    ),
    "groups": lambda k: keras.Sequential([keras.Input((6, 6, 4)), kl.Conv2D(4, 3, groups=(1, 2)[k])]),
    "interpolation": lambda k: one(kl.UpSampling2D(interpolation=("nearest", "bilinear")[k]), (4, 4, 2)),
    "Permute": lambda k: one(kl.Permute(((1, 2), (2, 1))[k]), (4, 4)),
    "Reshape": lambda k: one(kl.Reshape(((3, 2), (2, 3))[k])),
    "pooling": lambda k: one((kl.AveragePooling1D(2), kl.MaxPooling1D(2))[k], (4, 2)),
    "Discretization": lambda k: one(
        kl.Discretization(bin_boundaries=[(0.0, 1.0), (0.0, 2.0)][k], output_mode="one_hot")
    ),
    "Normalization": lambda k: one(kl.Normalization(mean=(0.0, 1.0)[k], variance=1.0)),
    "Hashing": lambda k: one(kl.Hashing(num_bins=5, salt=(1, 2)[k], output_mode="one_hot")),
    "custom": lambda k: one(Block(4) if k else kl.Dense(4)),
    "residual": lambda k: one((lambda x: x + kl.Dense(6)(x)) if k else (lambda x: kl.Dense(6)(x) + kl.Dense(6)(x))),
    "sharing": lambda k: one(twice(kl.Dense(6)) if k else (lambda x: kl.Dense(6)(kl.Dense(6)(x)))),
}


@pytest.mark.parametrize("name", PAIRS)
def test_whatever_changes_the_function_is_refused(tmp_path, name):
    """Two models with the same shapes of weights (where that is possible) that compute different things."""
    build = PAIRS[name]
    message = refused(tmp_path, build(0), build(1), "first", "second")
    assert len(message) < 1500


@pytest.mark.parametrize("name", PAIRS)
def test_a_model_meets_another_of_the_same_code(tmp_path, name):
    """The refusals above are not because such models never match."""
    build = PAIRS[name]
    if name in ("Lambda", "Hashing", "Discretization"):
        pytest.skip("Keras does not load it in safe mode, or its inputs are not floats")
    models = [randomize(build(0), k) for k in range(2)]
    gw.plan_merge(saved(tmp_path, a=models[0], b=models[1]))


def test_a_difference_in_a_nested_model_is_refused(tmp_path):
    """However deep it lies."""

    def build(activation):
        inner = keras.Sequential([keras.Input((4,)), kl.Dense(3, activation=activation)], name="inner")
        outer = keras.Sequential([keras.Input((4,)), inner], name="outer")
        inputs = keras.Input((4,))
        return keras.Model(inputs, kl.Dense(2)(outer(inputs)))

    refused(tmp_path, build("relu"), build("gelu"), "activation", "relu", "gelu", "inner")


@pytest.mark.parametrize(
    "wrapper", [lambda cell: kl.Bidirectional(cell), lambda cell: kl.TimeDistributed(kl.RNN(cell.cell))]
)
def test_a_difference_in_a_wrapper_is_refused(tmp_path, wrapper):
    """A layer's settings count inside another layer too."""

    def build(activation):
        inputs = keras.Input((2, 5, 4) if wrapper(kl.LSTM(3)).__class__ is kl.TimeDistributed else (5, 4))
        return keras.Model(inputs, wrapper(kl.LSTM(3, activation=activation))(inputs))

    refused(tmp_path, build("tanh"), build("sigmoid"), "activation", "tanh", "sigmoid")


def test_an_ignored_field_may_differ(tmp_path):
    """`ignore` lets one field pass, and the result says so."""
    paths = saved(tmp_path, a=randomize(mlp(), 0), b=randomize(mlp(epsilon=1e-5), 1))
    notes = []
    gw.merge(paths, ignore="epsilon", output=tmp_path / "out.keras", report=notes)
    assert any("epsilon" in note and "ignored" in note for note in notes), notes


def lookup_model(layer):
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, kl.Dense(2)(kl.Flatten()(kl.Embedding(9, 3)(layer(inputs)))))


def text_model(words):
    layer = kl.TextVectorization(output_sequence_length=4)
    layer.adapt(words)
    return lookup_model(layer)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (
            lambda: lookup_model(kl.StringLookup(vocabulary=["a", "b", "c"])),
            lambda: lookup_model(kl.StringLookup(vocabulary=["a", "c", "b"])),
        ),
        (lambda: text_model(["one two two three three three"]), lambda: text_model(["one two two two three three"])),
    ],
    ids=["config", "assets"],
)
def test_another_vocabulary_is_refused(tmp_path, first, second):
    """The same words in another order are other numbers."""
    message = refused(tmp_path, first(), second(), "vocabular")
    assert "first" in message and "second" in message


def two_texts(words, order=(0, 1)):
    inputs = [keras.Input((1,), dtype="string", name=f"text_{k}") for k in range(2)]
    layers = [kl.TextVectorization(output_mode="multi_hot", name=f"words_{k}") for k in range(2)]
    for k, layer in enumerate(layers):
        layer.adapt([words[k]])
    both = kl.Concatenate(name="both")([layers[k](inputs[k]) for k in order])
    return keras.Model(inputs, kl.Dense(2, name="head")(both))


def test_vocabularies_go_with_their_layers(tmp_path):
    """What a file calls them counts layers; two layers that have exchanged theirs are two other layers."""
    first, same, exchanged = (two_texts(["a b", "c d"]), two_texts(["a b", "c d"], (1, 0)), two_texts(["c d", "a b"]))
    paths = saved(tmp_path, first=first, same=same, exchanged=exchanged)

    assert not any("vocabular" in note for note in gw.plan_merge(paths[:2]).notes)
    with pytest.raises(gw.MismatchError, match="vocabulary"):
        gw.plan_merge(paths[::2])
    assert [bool(gw.diff(paths[0], path).structure) for path in paths[1:]] == [False, True]


@pytest.mark.parametrize(
    "build",
    [
        lambda: lookup_model(kl.StringLookup(vocabulary=["a", "b", "c"])),
        lambda: text_model(["one two two three three three"]),
    ],
    ids=["config", "assets"],
)
def test_one_vocabulary_is_carried(tmp_path, build):
    """The merged model looks words up as its sources do."""
    models = [randomize(build(), k) for k in range(2)]
    out = gw.merge(saved(tmp_path, a=models[0], b=models[1]), output=tmp_path / "out.keras")
    words = keras.ops.convert_to_tensor([["a"], ["two one"], ["c"], ["unheard"]])
    wanted = predictions(average_by_hand(models), words)
    np.testing.assert_allclose(predictions(out, words), wanted, rtol=2e-5, atol=2e-6)


def test_a_missing_layer_is_refused(tmp_path):
    """Whichever of the two has it."""

    def build(deep):
        x = inputs = keras.Input((4,))
        for _ in range(2 + deep):
            x = kl.Dense(4, activation="relu")(x)
        return keras.Model(inputs, kl.Dense(2)(x))

    refused(tmp_path, build(0), build(1), "first", "second")
    refused(tmp_path, build(1), build(0), "first", "second")


def test_another_shape_is_refused_with_both_sides_and_the_way_out(tmp_path):
    """Weights files hold no settings, so that shapes tell."""
    for name, units in (("first", 3), ("second", 4)):
        inputs = keras.Input((6,))
        trunk = kl.Dense(5, name="trunk")(inputs)
        model = randomize(keras.Model(inputs, kl.Dense(units, name="head")(trunk)), units)
        model.save(tmp_path / f"{name}.keras")
        model.save_weights(tmp_path / f"{name}.weights.h5")
    with pytest.raises(gw.MismatchError) as caught:
        gw.plan_merge([tmp_path / "first.weights.h5", tmp_path / "second.weights.h5"])
    for word in ("head/kernel", "(5, 3)", "(5, 4)", "first", "second", "map", "skip"):
        assert word in str(caught.value)
    out = gw.merge(
        [tmp_path / "first.keras", tmp_path / "second.weights.h5"], skip="head/*", output=tmp_path / "out.keras"
    )
    found, a = keras.saving.load_model(out), keras.saving.load_model(tmp_path / "first.keras")
    np.testing.assert_array_equal(found.get_layer("head").get_weights()[0], a.get_layer("head").get_weights()[0])
    with pytest.raises(gw.MismatchError, match="units"):
        gw.merge([tmp_path / "first.keras", tmp_path / "second.keras"], skip="head/*", output=tmp_path / "two.keras")
    gw.merge(
        [tmp_path / "first.keras", tmp_path / "second.keras"],
        skip="head/*",
        ignore="units",
        output=tmp_path / "two.keras",
    )
    for wanted, got in zip(
        found.get_weights(), keras.saving.load_model(tmp_path / "two.keras").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(wanted, got)


def test_map_says_which_is_which(tmp_path):
    """Regular expressions over the other model's names."""
    for name, prefix in (("first", "enc"), ("second", "encoder")):
        inputs = keras.Input((6,))
        x = kl.Dense(5, name=f"{prefix}_2")(kl.Dense(5, name=f"{prefix}_1")(inputs))
        randomize(keras.Model(inputs, x), len(prefix)).save_weights(tmp_path / f"{name}.weights.h5")
        keras.Model(inputs, x).save(tmp_path / f"{name}.keras")
    paths = [tmp_path / "first.keras", tmp_path / "second.weights.h5"]
    with pytest.raises(gw.MismatchError, match="map"):
        gw.plan_merge(paths)
    out = gw.merge(paths, map={r"encoder_(\d)/(.*)": r"enc_\1/\2"}, output=tmp_path / "out.keras")
    models = [keras.saving.load_model(tmp_path / f"{n}.keras") for n in ("first", "second")]
    np.testing.assert_allclose(predictions(out), predictions(average_by_hand(models)), rtol=2e-5, atol=2e-6)


def test_quantized_models_are_refused_with_the_way_out(tmp_path):
    """From the headers: codes cannot be averaged."""
    models = [randomize(mlp(), k) for k in range(2)]
    for model in models:
        model.quantize("int8")
    refused(tmp_path, *models, "quantized", "int8", "dequantize")


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_a_quantized_model_does_not_meet_a_float_one(tmp_path, mode):
    """In either order; what a difference is said to be."""
    a, b = randomize(mlp(), 0), randomize(mlp(), 1)
    b.quantize(mode)
    refused(tmp_path, a, b, "dequantize")
    refused(tmp_path, b, a, "dequantize")
    assert f"'quantized {mode}" in gw.diff(*saved(tmp_path, a=a, b=b)).structure[0]


# Classes ------------------------------------------------------------------------------------------------------------

CLASSES, OTHERS = ["cat", "dog", "emu"], ["emu", "cat", "dog"]


def dense_head(order):
    def build():
        inputs = keras.Input((4,))
        return keras.Model(inputs, kl.Dense(3, activation="softmax", name="head")(kl.Dense(5, name="body")(inputs)))

    return build, [np.s_[:, order], np.s_[order]]


def conv_head(order):
    def build():
        inputs = keras.Input((4, 4, 2))
        x = kl.GlobalAveragePooling2D()(kl.Conv2D(3, 3, name="head")(inputs))
        return keras.Model(inputs, kl.Softmax()(x))

    return build, [np.s_[..., order], np.s_[order]]


def sequential_head(order):
    def build():
        return keras.Sequential([keras.Input((4,)), kl.Dense(3, use_bias=False, name="head"), kl.Activation("softmax")])

    return build, [np.s_[:, order]]


def nested_head(order):
    def build():
        inner = keras.Sequential([keras.Input((4,)), kl.Dense(5, name="body"), kl.Dense(3, name="head")], name="inner")
        inputs = keras.Input((4,))
        return keras.Model(inputs, kl.Softmax()(inner(inputs)))

    return build, [np.s_[:, order], np.s_[order]]


@pytest.mark.parametrize("kind", [dense_head, conv_head, sequential_head, nested_head], ids=lambda k: k.__name__)
def test_heads_in_another_order_of_classes_are_permuted(tmp_path, kind):
    """The twin has its classes in another order, so the average must predict as the first model does."""
    order = [CLASSES.index(name) for name in OTHERS]
    build, cuts = kind(order)
    a = randomize(build(), 0)
    b = build()
    b.set_weights(a.get_weights())

    def head(model):
        return model.get_layer("inner").get_layer("head") if kind is nested_head else model.get_layer("head")

    head(b).set_weights([w[cut] for w, cut in zip(head(b).get_weights(), cuts, strict=True)])
    paths = saved(tmp_path, a=a, b=b)
    inputs = inputs_of(a)
    np.testing.assert_allclose(predictions(b, inputs), predictions(a, inputs)[:, order], rtol=1e-5)
    if kind is conv_head:  # pooling after the head is not looked through
        with pytest.raises(gw.MismatchError, match="cannot be permuted"):
            gw.plan_merge(paths, classes=[CLASSES, OTHERS])
        return
    out = gw.merge(paths, classes=[CLASSES, OTHERS], weights=[0.2, 0.8], output=tmp_path / "out.keras")
    np.testing.assert_allclose(predictions(out, inputs), predictions(a, inputs), rtol=1e-5, atol=1e-6)
    by_name = gw.merge(paths, classes={"a": CLASSES, "b": OTHERS}, weights=[0.2, 0.8], output=tmp_path / "two.keras")
    np.testing.assert_array_equal(predictions(by_name, inputs), predictions(out, inputs))


def test_other_classes_are_refused(tmp_path):
    """The odd one is named."""
    build, _ = dense_head([0, 1, 2])
    refused(tmp_path, build(), build(), "'emu'", "ensemble", classes=[CLASSES, ["cat", "dog", "gnu"]])


def test_a_wrong_number_of_classes_is_refused(tmp_path):
    """Four names for three outputs."""
    build, _ = dense_head([0, 1, 2])
    names = [*CLASSES, "gnu"]
    refused(tmp_path, build(), build(), "head", "4 classes", classes=[names, names[::-1]])
    paths = saved(tmp_path, a=build(), b=build())
    with pytest.raises(gw.GraftworkError, match="4 classes"):
        gw.plan_merge(paths, classes=[names, names])


# Optimizer and compile settings -------------------------------------------------------------------------------------


def trained(seed):
    model = randomize(mlp(), seed)
    model.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    rng = np.random.default_rng(seed)
    model.fit(rng.normal(size=(32, 6)), rng.normal(size=(32, 3)), epochs=2, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained_paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return saved(folder, a=trained(0), b=trained(1))


def test_the_optimizer_is_dropped_unless_asked_for(tmp_path, trained_paths):
    """Dropped and said; kept, it is the first model's, to the bit; the result trains on either way."""
    notes = []
    dropped = gw.merge(trained_paths, output=tmp_path / "dropped.keras", report=notes)
    assert any("optimizer" in note and "dropped" in note for note in notes), notes
    kept = gw.merge(trained_paths, optimizer="first", output=tmp_path / "kept.keras")
    first, found = keras.saving.load_model(trained_paths[0]), keras.saving.load_model(kept)
    assert int(found.optimizer.iterations) == int(first.optimizer.iterations) > 0
    for got, wanted in zip(found.optimizer.variables, first.optimizer.variables, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
    rng = np.random.default_rng(0)
    for path in (dropped, kept):
        model = keras.saving.load_model(path)
        assert model.compiled and model.loss == "mse"
        model.fit(rng.normal(size=(32, 6)), rng.normal(size=(32, 3)), verbose=0)
    assert int(keras.saving.load_model(dropped).optimizer.iterations) == 0


@pytest.mark.parametrize("optimizer", ["drop", "first"])
def test_compile_settings_are_kept_unless_asked_otherwise(tmp_path, trained_paths, optimizer):
    """`drop_compile` leaves a model without loss and optimizer."""
    out = gw.merge(trained_paths, drop_compile=True, optimizer=optimizer, output=tmp_path / "out.keras")
    model = keras.saving.load_model(out)
    assert not model.compiled
    gw.convert(trained_paths[0], tmp_path / "two.keras", drop_compile=True)
    assert not keras.saving.load_model(tmp_path / "two.keras").compiled


def test_values_that_are_not_finite_are_found_while_reading(tmp_path):
    """Tensor, count and model; no output, no temporary file."""
    a, b = randomize(mlp(), 0), randomize(mlp(), 1)
    kernel, bias = b.layers[-1].get_weights()
    kernel[1, 1:] = np.nan
    b.layers[-1].set_weights([kernel, bias])
    paths = saved(tmp_path, a=a, b=b)
    gw.plan_merge(paths)  # headers cannot tell
    there = sorted(tmp_path.iterdir())
    with pytest.raises(
        gw.NonFiniteError, match=rf"{a.layers[-1].name}/kernel.* 2 in b .*{b.layers[-1].name}.*allow-nonfinite"
    ):
        gw.merge(paths, output=tmp_path / "out.keras")
    assert sorted(tmp_path.iterdir()) == there
    out = gw.merge(paths, output=tmp_path / "out.keras", allow_nonfinite=True)
    assert np.isnan(keras.saving.load_model(out).get_weights()[-2]).sum() == 2


# Live models --------------------------------------------------------------------------------------------------------


def test_live_models_are_merged_into_a_live_model(tmp_path):
    """A copy comes back; the sources keep their values, names and flags."""
    models = [randomize(nested(), 0), randomize(nested(), 1)]
    models[1].layers[1].trainable = False
    before = [[w.copy() for w in m.get_weights()] for m in models]
    names = [[v.path for v in m.weights] for m in models]
    merged = gw.merge(models)
    assert isinstance(merged, keras.Model) and merged is not models[0]
    for model, values, paths in zip(models, before, names, strict=True):
        assert [v.path for v in model.weights] == paths
        for found, wanted in zip(model.get_weights(), values, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert [len(m.trainable_variables) for m in models] == [12 - 0, 12 - 6] or not models[1].layers[1].trainable
    inputs = inputs_of(merged)
    found = predictions(merged, inputs)
    np.testing.assert_allclose(found, predictions(average_by_hand(models), inputs), rtol=2e-5, atol=2e-6)


def test_live_models_with_layers_of_the_user_are_merged(tmp_path):
    """Classes that Keras cannot know are taken from the models."""

    class Scale(kl.Layer):  # not registered
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), name="factor")

        def call(self, x):
            return x * self.factor

    def build():
        inputs = keras.Input((4,))
        return keras.Model(inputs, kl.Dense(2)(Scale()(inputs)))

    models = [randomize(build(), 0), randomize(build(), 1)]
    merged = gw.merge(models)
    np.testing.assert_allclose(predictions(merged), predictions(average_by_hand(models)), rtol=2e-5, atol=2e-6)


# Names inside classes of the user's ---------------------------------------------------------------------------------


def renamed_inside(model, names):
    """Give the inner layers of a model's blocks names, as sessions with another history would."""
    blocks = [layer for layer in model.layers if isinstance(layer, Block)]
    inner = [layer for block in blocks for layer in (block.second, block.first)]
    for layer, name in zip(inner, names, strict=True):
        layer.name = name
    return model


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_automatic_names_inside_a_layer_that_overlap_do_not_mislead(tmp_path, shift):
    """`dense_3` is the first inner layer here and the second one there: attributes tell, not numbers."""
    models = [randomize(custom(), seed) for seed in range(2)]
    for k, model in enumerate(models):
        renamed_inside(model, [f"dense_{k * shift + i + 1}" for i in range(4)])
        for block, name in zip([x for x in model.layers if isinstance(x, Block)], ("one", "two"), strict=True):
            block.name = name
    out = gw.merge(saved(tmp_path, a=models[0], b=models[1]), output=tmp_path / "out.keras")
    np.testing.assert_allclose(predictions(out), predictions(average_by_hand(models)), rtol=2e-5, atol=2e-6)


@keras.saving.register_keras_serializable("mine")
class Subclassed(keras.Model):
    """A model of the user's that is no graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.encoder = kl.Dense(4, activation="tanh")
        self.decoder = keras.Sequential([kl.Dense(4, activation="tanh"), kl.Dense(4)])
        self.readout = kl.Dense(4)  # behind "layers" in the alphabet: Keras saves it among these

    def call(self, x):
        return self.readout(self.decoder(self.encoder(x)))


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_subclassed_models_are_matched_by_attributes(tmp_path, shift):
    """Whatever numbers their layers have."""
    inputs = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    models = []
    for k in range(2):
        model = Subclassed()
        model.decoder.name = f"sequential_{k * shift}"
        for place, layer in enumerate([model.encoder, *model.decoder.layers, model.readout]):
            layer.name = f"dense_{1 + k * shift + place}"
        model(inputs)
        models.append(randomize(model, k))
    out = gw.merge(saved(tmp_path, a=models[0], b=models[1]), output=tmp_path / "out.keras")
    wanted = predictions(average_by_hand(models), inputs)
    np.testing.assert_allclose(predictions(out, inputs), wanted, rtol=2e-5, atol=2e-6)

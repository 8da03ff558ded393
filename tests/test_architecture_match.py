"""Matching is a claim about functions: with B's weights put where `match` says, A must predict what B predicts."""

import copy
import json
import random
import sys

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers as kl

from graftwork.architecture.layer import Layer, parse
from graftwork.architecture.match import MAX_DIFFERENCES, Difference, Match, match
from graftwork.errors import StoreError

pytestmark = pytest.mark.keras

CALLS = 1000
"""So many function calls may matching take for each layer: what grows faster than the number of layers takes more."""


def counted(work):
    """Return what a function gives, and how many calls of Python functions it took: a measure that a busy machine does not change."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        found = work()
    finally:
        sys.setprofile(None)
    return found, calls


def config(model) -> Layer:
    return parse(json.loads(model.to_json()))


def matched(a, b) -> Match:
    """Match two models that must agree."""
    found = match(config(a), config(b))
    assert not found.differences, [str(difference) for difference in found.differences]
    return found


def differing(a, b) -> dict[str, Difference]:
    """Match two models that must not, and return the differences by field."""
    found = match(config(a), config(b))
    assert found.differences
    assert not found.rearrangements
    return {difference.field: difference for difference in found.differences}


def leaves(model, prefix=""):
    """Yield every layer with weights below a model and the chain of names to it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from leaves(layer, f"{prefix}{layer.name}/")
        elif layer.weights:
            yield f"{prefix}{layer.name}", layer


def transplant(a, b, found: Match) -> None:
    """Put B's weights into A as the match says, in plain numpy."""
    leaves_b = dict(leaves(b))
    moves = {(move.layer, move.variable): move for move in found.rearrangements}
    used = set()
    for chain, layer in leaves(a):
        chain_b = found.layers[chain]
        values = []
        for variable in leaves_b[chain_b].weights:
            value = np.asarray(variable)
            inner = variable.path.split("/")
            *below, name = inner[inner.index(leaves_b[chain_b].name) + 1 :]
            move = moves.get(("/".join([chain_b, *below]), name))
            if move is not None:
                used.add((move.layer, move.variable))
                slices = [np.arange(start, start + length) for start, length in move.blocks]
                value = np.take(value, np.concatenate(slices), axis=move.axis)
                assert value.shape == variable.shape
            values.append(value)
        layer.set_weights(values)
    assert used == moves.keys(), "every rearrangement names a variable that exists"


def randomize(model, seed=0):
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 1, w.shape) * rng.choice([-1, 1], w.shape[-1:]) for w in model.get_weights()])
    for _, layer in leaves(model):
        if isinstance(layer, kl.BatchNormalization):
            layer.moving_variance.assign(np.abs(np.asarray(layer.moving_variance)))
    return model


def agree(a, b, found: Match, *inputs) -> None:
    """Check that A with B's weights predicts what B does."""
    randomize(a, 1)
    randomize(b, 2)
    rng = np.random.default_rng(0)
    given = inputs or tuple(rng.normal(size=(3, *tensor.shape[1:])) for tensor in a.inputs)
    given = list(given) if len(given) > 1 else given[0]
    wanted = np.asarray(b(given))
    before = np.asarray(a(given))
    transplant(a, b, found)
    after = np.asarray(a(given))
    assert not np.allclose(before, wanted, atol=1e-3)
    np.testing.assert_allclose(after, wanted, atol=1e-4, rtol=1e-4)


# The same architecture -----------------------------------------------------------------------------------------------


def resnet():
    """Names are automatic, so a second one in the same session has others."""
    x = inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(4, 3, padding="same")(x)
    for stride in (1, 2):
        y = kl.BatchNormalization()(kl.Conv2D(4, 3, strides=stride, padding="same")(x))
        y = kl.Conv2D(4, 3, padding="same")(kl.ReLU()(y))
        x = kl.Add()([kl.Conv2D(4, 1, strides=stride)(x), y])
    return keras.Model(inputs, kl.Dense(2)(kl.GlobalAveragePooling2D()(x)))


def test_renamed_layers_are_matched_by_structure():
    a, b = resnet(), resnet()
    found = matched(a, b)
    assert {x.name for x in a.layers} == found.layers.keys()
    assert [found.layers[x.name] for x in a.layers] == [x.name for x in b.layers]
    assert "matched by structure" in found.notes[0]
    agree(a, b, found)


@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "DenseNet121"])
def test_applications_match_fully(name):
    build = getattr(keras.applications, name)
    a, b = build(weights=None), build(weights=None)
    one, other = config(a), config(b)
    found, calls = counted(lambda: match(one, other))
    assert calls < CALLS * len(a.layers)
    assert found.differences == ()
    assert found.rearrangements == ()
    assert [found.layers[x.name] for x in a.layers] == [x.name for x in b.layers]


def test_other_input_size_is_a_note():
    def net(size, channels=3):
        inputs = keras.Input((size, size, channels))
        return keras.Model(inputs, kl.GlobalAveragePooling2D()(kl.Conv2D(2, 3, name="c")(inputs)))

    assert any("[224, 224, 3] in A, [192, 192, 3]" in note for note in matched(net(224), net(192)).notes)
    assert any("other sizes" in note for note in matched(net(8), net(8, 1)).notes)


def test_what_does_not_change_inference_is_at_most_a_note():
    def net(rate, momentum, policy, trainable):
        inputs = keras.Input((4,))
        x = kl.Dense(3, name="d", dtype=policy, kernel_initializer="ones" if trainable else "zeros")(inputs)
        x = kl.BatchNormalization(momentum=momentum, name="bn", trainable=trainable)(x)
        return keras.Model(inputs, kl.Dropout(rate, name="drop", seed=int(10 * rate))(x))

    notes = matched(net(0.1, 0.9, "float32", True), net(0.4, 0.99, "mixed_bfloat16", False)).notes
    assert [field for field in ("rate", "momentum", "dtype") if any(note.startswith(field) for note in notes)] == [
        "rate",
        "momentum",
        "dtype",
    ]


# Differences ---------------------------------------------------------------------------------------------------------


def conv(**options):
    inputs = keras.Input((9, 9, 2))
    x = kl.Conv2D(2, 3, name="conv", **options)(inputs)
    return keras.Model(inputs, kl.GlobalMaxPooling2D(name="pool")(x))


def text(words):
    inputs = keras.Input((1,), dtype="string")
    return keras.Model(inputs, kl.StringLookup(vocabulary=words, output_mode="one_hot", name="lookup")(inputs))


@pytest.mark.parametrize(
    ("field", "options", "message"),
    [
        ("activation", {"activation": "tanh"}, "layer 'conv' has activation 'linear' in A but 'tanh' in B"),
        ("strides", {"strides": 2}, "layer 'conv' has strides (1, 1) in A but (2, 2) in B"),
        ("padding", {"padding": "same"}, "layer 'conv' has padding 'valid' in A but 'same' in B"),
        ("dilation_rate", {"dilation_rate": 2}, "layer 'conv' has dilation_rate (1, 1) in A but (2, 2) in B"),
        ("use_bias", {"use_bias": False}, "layer 'conv' has use_bias True in A but False in B"),
        ("groups", {"groups": 2}, "layer 'conv' has groups 1 in A but 2 in B"),
    ],
)
def test_a_field_that_changes_the_function_is_named(field, options, message):
    found = match(config(conv()), config(conv(**options)))
    assert [str(difference) for difference in found.differences] == [message]
    assert found.differences[0].field == field
    assert found.differences[0].describe("x.keras", "y.keras") == message.replace("A but", "x.keras but").replace(
        "in B", "in y.keras"
    )


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda k: kl.BatchNormalization(epsilon=[1e-3, 1e-5][k]), "epsilon"),
        (lambda k: kl.BatchNormalization(axis=[-1, 1][k]), "axis"),
        (lambda k: kl.LSTM(3, return_sequences=True, go_backwards=bool(k)), "go_backwards"),
        (
            lambda k: kl.LSTM(3, return_sequences=True, recurrent_activation=["sigmoid", "hard_sigmoid"][k]),
            "recurrent_activation",
        ),
        (lambda k: kl.Bidirectional(kl.LSTM(3, return_sequences=True), merge_mode=["sum", "ave"][k]), "merge_mode"),
        (lambda k: kl.Bidirectional(kl.LSTM(3, return_sequences=True, activation=["tanh", "relu"][k])), "activation"),
        (lambda k: kl.TimeDistributed(kl.Dense(3, activation=["tanh", None][k])), "activation"),
        (lambda k: kl.RNN([kl.GRUCell(3), kl.GRUCell(3, reset_after=bool(k))], return_sequences=True), "reset_after"),
        (lambda k: kl.LeakyReLU([0.3, 0.2][k]), "negative_slope"),
        (lambda k: kl.Dense(3, activation=[kl.LeakyReLU(0.3), kl.LeakyReLU(0.2)][k]), "negative_slope"),
        (lambda k: kl.Dense(3, activation=[kl.ReLU(), "tanh"][k]), "activation"),
        (lambda k: [kl.MaxPooling1D, kl.AveragePooling1D][k](2), "class"),
        (lambda k: [kl.Add, kl.Maximum][k](), "class"),
        (lambda k: kl.Dense(3, dtype=["float32", keras.dtype_policies.get("int8_from_float32")][k]), "dtype"),
        (lambda k: kl.Rescaling([1 / 255, 1 / 127.5][k]), "scale"),
    ],
)
def test_other_fields(build, field):
    def net(k):
        inputs = keras.Input((4, 3))
        layer = build(k)
        x = layer([inputs, inputs]) if isinstance(layer, kl.Add | kl.Maximum) else layer(inputs)
        return keras.Model(inputs, kl.Flatten()(x))

    assert set(differing(net(0), net(1))) == {field}
    matched(net(1), net(1))


def test_equal_activations_in_other_spellings():
    def net(activation):
        inputs = keras.Input((4,))
        return keras.Model(inputs, kl.Dense(3, activation=activation, name="d")(inputs))

    matched(net("relu"), net(keras.activations.relu))
    matched(net("relu"), net(kl.ReLU()))
    matched(net("silu"), net("swish"))
    matched(net(None), net("linear"))
    differing(net("relu"), net(kl.ReLU(max_value=6)))


def test_vocabularies_are_compared_whole():
    words = [f"w{k}" for k in range(1204)]
    matched(text(words), text(list(words)))
    other = [*words[:17], "cat", *words[18:]]
    assert (
        "has another vocabulary in A than in B: 1,204 against 1,204 entries, first at 17: 'w17' against 'cat'"
        in str(differing(text(words), text(other))["vocabulary"])
    )


def test_missing_layers_are_named():
    def net(*, norm=True, drop=False):
        x = inputs = keras.Input((6, 6, 1))
        for k in range(3):
            x = kl.Conv2D(2, 3, padding="same", name=f"conv_{k}")(x)
            x = kl.BatchNormalization(name=f"bn_{k}")(x) if norm or k != 1 else x
            x = kl.Dropout(0.5, name=f"drop_{k}")(x) if drop and k == 2 else x
            x = kl.ReLU(name=f"relu_{k}")(x)
        return keras.Model(inputs, x)

    found = match(config(net()), config(net(norm=False, drop=True)))
    assert sorted(map(str, found.differences)) == [
        "layer 'bn_1' (BatchNormalization) of A has no counterpart in B",
        "layer 'drop_2' (Dropout) of B has no counterpart in A",
    ]
    assert found.layers["conv_0"] == "conv_0"


def test_differences_are_bounded():
    def net(activation):
        return keras.Sequential([keras.Input((2,)), *(kl.Dense(2, activation=activation) for _ in range(60))])

    assert len(match(config(net("relu")), config(net("tanh"))).differences) == MAX_DIFFERENCES


def test_custom_classes_are_compared_in_full():
    def layer(**options):
        return {
            "module": "my.code",
            "class_name": "Mine",
            "registered_name": "my>Mine",
            "config": {
                "name": f"mine_{len(options)}",
                "trainable": True,
                "dtype": "float32",
                "gain_initializer": 1,
                **options,
            },
        }

    def net(value):
        return parse({"class_name": "Sequential", "config": {"name": "s", "layers": [value]}})

    assert not match(net(layer(x=1)), net(layer(x=1.0))).differences
    assert match(net(layer(x=1)), net(layer(x=2))).differences[0].field == "x"
    assert match(net(layer(x=1)), net(layer(x=1, gain_initializer=3))).differences[0].field == "gain_initializer"
    assert match(net(layer()), net({**layer(), "registered_name": "other>Mine"})).differences[0].field == "class"
    dense = entry("mine", units=3)
    own = {**copy.deepcopy(dense), "module": "my.code", "registered_name": "Dense"}
    assert match(net(dense), net(own)).differences[0].b == "Dense (custom)"
    assert any("do not come with Keras" in note for note in match(net(own), net(own)).notes)


# Order of inputs -----------------------------------------------------------------------------------------------------


def fork(flip, after, widths=(3, 4), names=("a", "b"), shape=(5,), branch=None):
    """Two branches, concatenated in one order or the other."""
    inputs = keras.Input(shape)
    branch = branch or (lambda units, name: kl.Dense(units, activation="tanh", name=name))
    two = [branch(units, name)(inputs) for units, name in zip(widths, names, strict=True)]
    return keras.Model(inputs, after(kl.Concatenate(name="join")(two[::-1] if flip else two)))


def conv_branch(units, name):
    return kl.Conv2D(units, 2, activation="tanh", name=name)


def chain(*build):
    """Return a function that applies fresh layers in a row."""

    def after(x):
        for layer in build:
            x = layer()(x)
        return x

    return after


HEAD = chain(lambda: kl.Dense(2, name="head"))


@pytest.mark.parametrize("widths", [(3, 3), (3, 4)])
def test_flipped_concatenation_of_the_same_names_is_put_in_order(widths):
    a, b = fork(False, HEAD, widths), fork(True, HEAD, widths)
    found = matched(a, b)
    assert found.layers["a"] == "a"
    assert found.layers["b"] == "b"
    (move,) = found.rearrangements
    assert (move.layer, move.variable, move.axis) == ("head", "kernel", -2)
    assert move.blocks == ((widths[1], widths[0]), (0, widths[1]))
    assert "concatenates 'b', 'a'" in move.reason
    agree(a, b, found)


def test_without_names_places_decide():
    a, b = fork(False, HEAD, (3, 3), ("a", "b")), fork(False, HEAD, (3, 3), ("x", "y"))
    found = matched(a, b)
    assert (found.layers["a"], found.layers["b"]) == ("x", "y")
    assert not found.rearrangements


def test_branches_that_compute_something_else_are_told_by_that():
    def net(flip, names):
        inputs = keras.Input((5,))
        two = [kl.Dense(3, activation=f, name=n)(inputs) for f, n in zip(("relu", "tanh"), names, strict=True)]
        return keras.Model(inputs, HEAD(kl.Concatenate(name="join")(two[::-1] if flip else two)))

    a, b = net(False, ("a", "b")), net(True, ("x", "y"))
    found = matched(a, b)
    assert (found.layers["a"], found.layers["b"]) == ("x", "y")
    agree(a, b, found)
    a, b = net(False, ("a", "b")), net(True, ("b", "a"))  # names that mislead
    found = matched(a, b)
    assert (found.layers["a"], found.layers["b"]) == ("b", "a")
    agree(a, b, found)


CONV = {"shape": (6, 6, 2), "branch": conv_branch}


@pytest.mark.parametrize(
    ("after", "options"),
    [
        (chain(kl.BatchNormalization, kl.ReLU, lambda: kl.Dropout(0.5), lambda: kl.Dense(2)), {}),
        (chain(lambda: kl.LayerNormalization(center=False), kl.PReLU, lambda: kl.Dense(2)), {}),
        (chain(lambda: kl.Activation("softmax"), lambda: kl.EinsumDense("ab,bc->ac", 2)), {}),
        (chain(lambda: kl.Conv2D(2, 3, name="c"), kl.GlobalAveragePooling2D), CONV),
        (chain(lambda: kl.Conv2DTranspose(2, 3, name="c"), kl.GlobalAveragePooling2D), CONV),
        (chain(kl.BatchNormalization, kl.MaxPooling2D, kl.ZeroPadding2D, kl.Flatten, lambda: kl.Dense(2)), CONV),
        (chain(lambda: kl.PReLU(shared_axes=[1, 2]), kl.GlobalAveragePooling2D, lambda: kl.Dense(2)), CONV),
        (
            chain(lambda: kl.DepthwiseConv2D(2, depth_multiplier=2), kl.BatchNormalization, lambda: kl.Conv2D(2, 1)),
            CONV,
        ),
        (chain(lambda: kl.SeparableConv2D(2, 2, depth_multiplier=2)), CONV),
        (chain(lambda: kl.LSTM(2)), {"shape": (4, 3)}),
        (chain(lambda: kl.Bidirectional(kl.GRU(2))), {"shape": (4, 3)}),
        (chain(lambda: kl.TimeDistributed(kl.Dense(2))), {"shape": (4, 3)}),
        (chain(lambda: lambda x: kl.MultiHeadAttention(2, 2, name="mha", output_shape=2)(x, x)), {"shape": (4, 3)}),
        (chain(lambda: lambda x: keras.ops.relu(x * 2.0 + 1.0), lambda: kl.Dense(2)), {}),
        (chain(lambda: lambda x: kl.Add()([x, kl.BatchNormalization()(x)]), lambda: kl.Dense(2)), {}),
        (chain(lambda: lambda x: kl.Concatenate()([kl.Dense(2, name="e")(x), x]), lambda: kl.Dense(2)), {}),
        (chain(lambda: keras.Sequential([kl.BatchNormalization(name="n"), kl.Dense(2, name="m")], name="seq")), {}),
    ],
)
def test_the_order_is_followed_to_where_it_ends(after, options):
    a, b = fork(False, after, **options), fork(True, after, **options)
    found = matched(a, b)
    assert found.rearrangements
    agree(a, b, found)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (chain(), "would show in the model's output"),
        (chain(lambda: kl.Reshape((7, 1)), kl.Flatten), "through which the order of channels is not followed"),
        (chain(lambda: lambda x: kl.Add()([x, kl.Dense(7)(x)]), lambda: kl.Dense(2)), "in another order"),
        (chain(lambda: kl.GroupNormalization(7), lambda: kl.Dense(2)), "not followed"),
    ],
)
def test_where_the_order_cannot_be_followed_it_is_refused(after, reason):
    found = differing(fork(False, after), fork(True, after))
    assert found.keys() == {"inputs"}
    assert reason in str(found["inputs"])
    assert found["inputs"].where_a == "join"


def test_concatenation_on_another_axis_is_refused_when_flipped():
    def net(flip):
        inputs = keras.Input((4, 3))
        two = [kl.Dense(2, name=name)(inputs) for name in "ab"]
        return keras.Model(inputs, kl.Dense(2)(kl.Concatenate(axis=1)(two[::-1] if flip else two)))

    matched(net(False), net(False))
    assert "axis -2" in str(differing(net(False), net(True))["inputs"])


def test_shared_layers_need_the_same_order_everywhere():
    def net(flips):
        inputs = keras.Input((5,))
        a, b = (kl.Dense(3, name=name)(inputs) for name in "ab")
        head = kl.Dense(2, name="head")
        joined = [kl.Concatenate(name=f"join_{k}")([b, a] if flip else [a, b]) for k, flip in enumerate(flips)]
        return keras.Model(inputs, kl.Subtract()([head(joined[0] * 2.0), head(joined[1])]))

    a, b = net((False, False)), net((True, True))
    found = matched(a, b)
    assert len(found.rearrangements) == 1
    agree(a, b, found)
    assert "shared" in str(differing(net((False, False)), net((True, False)))["inputs"])


def test_twins_under_add():
    def net(names, flip=False):
        inputs = keras.Input((5,))
        two = [kl.Dense(3, name=name)(inputs) for name in names]
        return keras.Model(inputs, kl.Add(name="sum")(two[::-1] if flip else two))

    found = matched(net("ab"), net("ab", flip=True))
    assert found.layers["a"] == "a"
    assert not any("twin" in note for note in found.notes)
    found = matched(net("ab"), net("xy"))
    assert found.layers["a"] == "x"
    assert any(note.startswith("twin branches 'a', 'b' into layer 'sum' are interchangeable") for note in found.notes)


def test_twins_are_told_apart_by_what_becomes_of_them():
    def net(names, flip):
        inputs = keras.Input((5,))
        one, two = (kl.Dense(3, name=name)(inputs) for name in names)
        total = kl.Add()([two, one] if flip else [one, two])
        return keras.Model(inputs, [total, one, two])

    a, b = net("ab", False), net("xy", True)
    found = matched(a, b)
    assert (found.layers["a"], found.layers["b"]) == ("x", "y")


# Graphs --------------------------------------------------------------------------------------------------------------


def siamese(shared=True):
    one, two = keras.Input((4,)), keras.Input((4,))
    tower = kl.Dense(3)
    other = tower if shared else kl.Dense(3)
    return keras.Model([one, two], kl.Dense(1)(kl.Subtract()([tower(one), other(two)])))


def test_shared_layers_must_be_shared_likewise():
    a, b = siamese(), siamese()
    agree(a, b, matched(a, b))
    assert differing(siamese(), siamese(shared=False))
    assert differing(siamese(shared=False), siamese())


def test_use_in_another_order_is_no_matter():
    def net(swap):
        one, two = keras.Input((4,), name="one"), keras.Input((4,), name="two")
        tower = kl.Dense(3, name="tower")
        if swap:
            second, first = tower(two), tower(one)
        else:
            first, second = tower(one), tower(two)
        return keras.Model([one, two], kl.Subtract(name="minus")([first, second]))

    agree(net(False), net(True), matched(net(False), net(True)))


def test_inputs_and_outputs_by_key_and_by_name():
    def net(order, keyed):
        inputs = {key: keras.Input((4,), name=key) for key in order}
        hidden = {key: kl.Dense(3)(inputs[key]) for key in sorted(order)}
        outputs = {f"out_{key}": kl.Dense(2, name=f"out_{key}")(hidden[key]) for key in order}
        if keyed:
            return keras.Model(inputs, outputs)
        return keras.Model(list(inputs.values()), list(outputs.values()))

    found = matched(net("pq", True), net("qp", True))
    assert found.layers["out_p"] == "out_p"
    found = matched(net("pq", False), net("qp", False))
    assert found.layers["out_p"] == "out_p"
    assert found.layers["p"] == "p"
    assert any("outputs stand in another order" in note for note in found.notes)
    assert differing(net("pq", True), net("pr", True)).keys() >= {"inputs", "outputs"}


def nested(activation="relu"):
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, kl.Dense(3, activation=activation, name="deep")(inner_in), name="encoder")
    inputs = keras.Input((4,))
    head = keras.Sequential([kl.Dense(2), kl.Dense(2)])
    return keras.Model(inputs, head(kl.Add()([inner(inputs), inner(inputs * 2.0)])))


def test_nested_models():
    a, b = nested(), nested()
    found = matched(a, b)
    assert found.layers["encoder/deep"] == "encoder/deep"
    assert len([chain for chain in found.layers if chain.count("/")]) >= 4
    agree(a, b, found)
    difference = differing(nested(), nested("tanh"))["activation"]
    assert str(difference) == "layer 'encoder/deep' has activation 'relu' in A but 'tanh' in B"


def test_models_used_twice_as_outputs():
    """Keras 3 counts the uses of a Functional model from 1 among the outputs, and from 0 elsewhere."""

    def net(swap=False):
        inner_in = keras.Input((4,))
        inner = keras.Model(inner_in, kl.Dense(4, name="deep")(inner_in), name="inner")
        inputs = keras.Input((4,))
        one = inner(inputs)
        two = inner(one)
        three = kl.Dense(2, name="three")(one)
        return keras.Model(inputs, [two, one, three] if swap else [one, two, three])

    matched(net(), net())
    assert differing(net(), net(swap=True))


def test_flips_inside_models_that_are_shared_or_wrapped():
    def net(flip, wrap):
        inner = fork(flip, HEAD)
        inputs = keras.Input((2, 5) if wrap else (5,))
        if wrap:
            return keras.Model(inputs, kl.TimeDistributed(inner, name="each")(inputs))
        return keras.Model(inputs, kl.Add()([inner(inputs), inner(inputs * 3.0)]))

    a, b = net(False, False), net(True, False)
    found = matched(a, b)
    assert len(found.rearrangements) == 1
    agree(a, b, found)
    (move,) = matched(net(False, True), net(True, True)).rearrangements
    assert move.layer.startswith("each/")
    assert move.layer.endswith("/head")


def test_inner_layers_are_in_the_mapping():
    def net():
        inputs = keras.Input((4, 3))
        x = kl.Bidirectional(kl.LSTM(2, return_sequences=True))(inputs)
        x = kl.MultiHeadAttention(1, 2)(x, x)
        return keras.Model(inputs, kl.RNN([kl.GRUCell(2), kl.GRUCell(2)])(kl.TimeDistributed(kl.Dense(2))(x)))

    a, b = net(), net()
    found = matched(a, b)
    bidirectional = a.layers[1].name
    assert found.layers[f"{bidirectional}/{a.layers[1].forward_layer.name}"] == (
        f"{b.layers[1].name}/{b.layers[1].forward_layer.name}"
    )
    assert found.layers[f"{a.layers[2].name}/query"] == f"{b.layers[2].name}/query"
    assert any(chain.count("/") == 2 and "gru_cell" in chain for chain in found.layers)


def test_sequential_and_functional_of_the_same_chain():
    def stack():
        return [kl.Conv2D(2, 3), kl.BatchNormalization(), kl.Flatten(), kl.Dense(2)]

    sequential = keras.Sequential([keras.Input((6, 6, 1)), *stack()])
    inputs = x = keras.Input((6, 6, 1))
    for layer in stack():
        x = layer(x)
    functional = keras.Model(inputs, x)
    agree(sequential, functional, matched(sequential, functional))
    agree(functional, sequential, matched(functional, sequential))
    late = keras.Sequential(stack())
    late.build((None, 6, 6, 1))
    matched(late, functional)


# Keras 2 -------------------------------------------------------------------------------------------------------------


def zoo(keras_or_tf_keras):
    """The same model, in the words of either version."""
    k = keras_or_tf_keras.layers
    inputs = k.Input((8, 8, 3), name="in")
    x = k.Resizing(8, 8)(k.RandomFlip()(inputs))
    x = k.Conv2D(4, 3, padding="same", activation="relu")(x)
    x = k.BatchNormalization()(x)
    x = k.LeakyReLU(0.3)(x)
    y = k.DepthwiseConv2D(3, padding="same")(x)
    x = k.Add()([x, k.SeparableConv2D(4, 3, padding="same")(y)])
    x = k.Conv2DTranspose(3, 2)(x)
    x = k.Concatenate()([k.MaxPooling2D()(x), k.AveragePooling2D((2, 2))(x)])
    x = k.Reshape((16, 6))(x)
    x = k.LayerNormalization()(x)
    x = k.MultiHeadAttention(2, 3)(x, x)
    x = k.Bidirectional(k.LSTM(3, return_sequences=True))(x)
    x = k.TimeDistributed(k.Dense(4))(x)
    x = k.GRU(3)(x)
    return keras_or_tf_keras.Model(inputs, k.Dropout(0.3)(k.Dense(2, activation="softmax", name="head")(x)))


def keras2_configs():
    tf_keras = pytest.importorskip("tf_keras")
    model = zoo(tf_keras)
    plain = json.loads(model.to_json())
    full = json.loads(json.dumps(tf_keras.saving.serialize_keras_object(model)))
    return [parse(plain), parse(full)]


def test_keras_2_and_keras_3_of_the_same_model():
    new = config(zoo(keras))
    for old in keras2_configs():
        for one, other in ((old, new), (new, old)):
            found = match(one, other)
            assert not found.differences, [str(difference) for difference in found.differences]
            assert not found.rearrangements
        assert match(old, old).differences == ()


def test_keras_2_flipped_branches():
    tf_keras = pytest.importorskip("tf_keras")

    def net(flip):
        k = tf_keras.layers
        inputs = k.Input((7, 7, 3))
        two = [k.Conv2D(n, 3, strides=2, name=name)(inputs) for n, name in ((2, "a"), (3, "b"))]
        x = k.BatchNormalization(name="bn")(k.Concatenate(name="join")(two[::-1] if flip else two))
        return tf_keras.Model(inputs, k.Dense(2, name="head")(k.Flatten()(x)))

    found = match(config(net(False)), config(net(True)))
    assert not found.differences
    moves = {(move.layer, move.variable): move.blocks for move in found.rearrangements}
    assert moves["bn", "moving_mean"] == ((3, 2), (0, 3))
    assert moves["head", "kernel"][:4] == ((3, 2), (0, 3), (8, 2), (5, 3))
    assert sum(length for _, length in moves["head", "kernel"]) == 45


def test_keras_2_nested_models():
    tf_keras = pytest.importorskip("tf_keras")

    def net(mod):
        k = mod.layers
        inner_in = k.Input((4,))
        inner = mod.Model(inner_in, k.Dense(3, name="d")(inner_in), name="inner")
        chain = mod.Sequential([k.Dense(4, name="e")], name="chain")
        inputs = k.Input((4,))
        return mod.Model(inputs, k.Subtract()([inner(inputs), inner(chain(inputs))]))

    old = net(tf_keras)
    full = parse(json.loads(json.dumps(tf_keras.saving.serialize_keras_object(old))))
    for one, other in ((old, net(keras)), (net(keras), old), (old, net(tf_keras))):
        found = match(config(one), config(other))
        assert not found.differences, [str(difference) for difference in found.differences]
        assert found.layers["inner/d"] == "inner/d"
        assert found.layers["chain/e"] == "chain/e"
    assert not match(full, config(net(keras))).differences


def test_keras_2_dictionary_of_inputs():
    tf_keras = pytest.importorskip("tf_keras")

    def net(mod, swap=False):
        k = mod.layers
        inner_in = {key: k.Input((3,), name=key) for key in "pq"}
        inner = mod.Model(inner_in, k.Dense(2, name="d")(k.Subtract()([inner_in["p"], inner_in["q"]])), name="inner")
        one, two = k.Input((3,), name="one"), k.Input((3,), name="two")
        return mod.Model([one, two], inner({"q": two, "p": one} if not swap else {"q": one, "p": two}))

    assert not match(config(net(tf_keras)), config(net(keras))).differences
    assert match(config(net(tf_keras)), config(net(tf_keras))).layers["inner/d"] == "inner/d"


# Hostile and large ---------------------------------------------------------------------------------------------------


def plain(layers, outputs, inputs=(("i", 0, 0),)):
    return parse(
        {
            "class_name": "Functional",
            "config": {
                "name": "m",
                "layers": layers,
                "input_layers": list(map(list, inputs)),
                "output_layers": outputs,
            },
        }
    )


def entry(name, *sources, kind="Dense", **options):
    return {
        "class_name": kind,
        "config": {"name": name, "trainable": True, **options},
        "name": name,
        "inbound_nodes": [[[source, 0, 0, {}] for source in sources]] if sources else [],
    }


SOUND = json.loads(zoo(keras).to_json())
INPUT = entry("i", kind="InputLayer", batch_shape=[None, 3])


@pytest.mark.parametrize(
    ("layers", "outputs", "message"),
    [
        ([INPUT, entry("a", "b"), entry("b", "a")], [["b", 0, 0]], "form a cycle"),
        ([INPUT, entry("a", "ghost")], [["a", 0, 0]], "layer 'a' refers to layer 'ghost'"),
        ([INPUT, entry("a", "i")], [["z", 0, 0]], "its output '0' refers to layer 'z'"),
        ([INPUT, entry("a", "i")], [["a", 3, 0]], "refers to use 3 of layer 'a', which is used 1 times"),
    ],
)
def test_hostile_connections(layers, outputs, message):
    model = plain(layers, outputs)
    with pytest.raises(StoreError, match=message):
        match(model, model)


def test_wrappers_in_wrappers_end():
    value = entry("d", units=3)
    for k in range(40):
        value = {"class_name": "Bidirectional", "config": {"name": f"w{k}", "trainable": True, "layer": value}}
    model = parse({"class_name": "Sequential", "config": {"name": "s", "layers": [value]}})
    with pytest.raises(StoreError, match="nests layers more than"):
        match(model, model)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_nonsense_in_a_configuration_is_refused_or_read(data):
    other = copy.deepcopy(SOUND)
    for _ in range(data.draw(st.integers(1, 3))):
        value = other
        while True:
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(value[key], dict | list) or not value[key] or data.draw(st.integers(0, 5)) == 0:
                break
            value = value[key]
        junk = [None, True, -1, 0, 3, 10**30, 0.5, "", "x", [], {}, [[]], {"a": 1}, [None, "a"], ["i", 0, 0]]
        value[key] = copy.deepcopy(data.draw(st.sampled_from(junk)))
    try:
        one, two = parse(SOUND), parse(other)
        match(one, two)
        match(two, one)
        match(two, two)
    except StoreError:
        pass


def test_many_layers_take_no_time():
    def net(prefix):
        layers = [INPUT]
        last = "i"
        for k in range(2500):
            layers.append(entry(f"{prefix}d{k}", last, units=3))
            layers.append(entry(f"{prefix}s{k}", last, f"{prefix}d{k}", kind="Add"))
            last = f"{prefix}s{k}"
        return plain(layers, [[last, 0, 0]])

    one, other = net("a"), net("b")
    found, calls = counted(lambda: match(one, other))
    assert calls < CALLS * 5001
    assert not found.differences
    assert len(found.layers) == 5001


def test_models_used_twice_at_every_level_take_no_time():
    def level(depth):
        if depth == 0:
            return entry("d", "i", units=3)
        inner = level(depth - 1)
        inner["inbound_nodes"] = [[["i", 0, 0, {}]], [[inner["name"], 0, 0, {}]]]
        return {
            **entry(f"m{depth}", "i", kind="Functional"),
            "config": {
                "name": f"m{depth}",
                "layers": [copy.deepcopy(INPUT), inner],
                "input_layers": [["i", 0, 0]],
                "output_layers": [[inner["name"], 1, 0]],
            },
        }

    model = parse(level(40))
    found, calls = counted(lambda: match(model, model))
    assert calls < CALLS * 2 * 40
    assert not found.differences


def knot(rng, size):
    """A random graph full of twins and shared layers, from a configuration alone."""
    layers, tensors, dense = {"i": copy.deepcopy(INPUT)}, [("i", 0)], []

    def pick():
        return [*rng.choice(tensors[-5:]), 0, {}]

    for k in range(size):
        kind = rng.choice(["Dense", "Dense", "Dense", "Add", "Add", "Subtract", "Concatenate", "shared"])
        name = f"{kind}_{k}"
        if kind == "shared" and dense:
            name = rng.choice(dense)
            layers[name]["inbound_nodes"].append([pick()])
        elif kind in ("Dense", "shared"):
            layers[name] = entry(name, units=3, activation=rng.choice(["tanh"] * 5 + ["relu"]))
            layers[name]["inbound_nodes"] = [[pick()]]
            dense.append(name)
        else:
            layers[name] = entry(name, kind=kind)
            layers[name]["inbound_nodes"] = [
                [pick() for _ in range(2 if kind == "Subtract" else rng.choice([2, 3, 4]))]
            ]
            if kind == "Concatenate":
                layers[f"after_{k}"] = entry(f"after_{k}", name, units=3)
                name = f"after_{k}"
        tensors.append((name, len(layers[name]["inbound_nodes"]) - 1))
    used = {(ref[0], ref[1]) for layer in layers.values() for node in layer["inbound_nodes"] for ref in node}
    ends = [tensor for tensor in tensors if tensor not in used]
    layers["sum"] = entry("sum", kind="Add")
    layers["sum"]["inbound_nodes"] = [[[*tensor, 0, {}] for tensor in [*ends, tensors[-1]]]]
    return list(layers.values())


def retied(layers, names, rng):
    """Return the same graph with other names, the layers in another order, the inputs of sums and concatenations too."""
    layers = copy.deepcopy(layers)
    for layer in layers:
        layer["name"] = layer["config"]["name"] = names[layer["name"]]
        for node in layer["inbound_nodes"]:
            for ref in node:
                ref[0] = names[ref[0]]
            if layer["class_name"] in ("Add", "Concatenate"):
                rng.shuffle(node)
    rng.shuffle(layers)
    return layers


@pytest.mark.parametrize("seed", range(20))
def test_knots_are_untied(seed):
    """Whatever the names, a pairing is found in which every layer has its counterpart and every input its place."""
    for each in range(40 * seed, 40 * (seed + 1)):
        rng = random.Random(each)
        layers = knot(rng, rng.randint(3, 25))
        old = [layer["name"] for layer in layers]
        new = rng.sample(old, len(old)) if rng.random() < 0.5 else [f"o{k}" for k in range(len(old))]
        names = dict(zip(old, new, strict=True))
        one = plain(layers, [["sum", 0, 0]])
        other = plain(retied(layers, names, rng), [[names["sum"], 0, 0]], inputs=((names["i"], 0, 0),))
        found = match(one, other)
        assert not found.differences, (each, [str(difference) for difference in found.differences])
        assert found.layers.keys() == set(old)
        assert set(found.layers.values()) == set(new)
        here = {layer.name: layer for layer in one.graph.layers}
        there = {layer.name: layer for layer in other.graph.layers}
        for name, counterpart in found.layers.items():
            made = [sorted((found.layers[ref.layer]) for ref in call.inputs) for call in here[name].calls]
            wanted = [sorted(ref.layer for ref in call.inputs) for call in there[counterpart].calls]
            assert sorted(made) == sorted(wanted)


# Laws ----------------------------------------------------------------------------------------------------------------


@st.composite
def graphs(draw):
    """A small random model of Dense, Add, Subtract, Concatenate and shared layers; all tensors are three wide but one."""
    inputs = keras.Input((3,), name="input")
    tensors = [inputs]
    dense = []
    for k in range(draw(st.integers(2, 7))):
        pick = st.sampled_from(tensors)
        kind = draw(st.sampled_from(["dense", "dense", "add", "subtract", "concatenate", "shared"]))
        if kind == "shared" and dense:
            tensors.append(draw(st.sampled_from(dense))(draw(pick)))
            continue
        if kind in ("dense", "shared") or len(tensors) < 2:
            dense.append(kl.Dense(3, activation=draw(st.sampled_from(["relu", "tanh"])), name=f"dense_{k}"))
            tensors.append(dense[-1](draw(pick)))
            continue
        two = [draw(pick), draw(pick)]
        if kind == "concatenate":
            joined = kl.Concatenate(name=f"join_{k}")(two)
            dense.append(kl.Dense(3, name=f"dense_{k}"))
            tensors.append(kl.Dense(3, name=f"after_{k}")(joined))
        else:
            tensors.append({"add": kl.Add, "subtract": kl.Subtract}[kind](name=f"{kind}_{k}")(two))
    dense = kl.Dense(3, name="last")(kl.Add(name="sum")([tensors[-1], draw(st.sampled_from(tensors))]))
    return keras.Model(inputs, dense)


def rewritten(model_config, renamed, rng=None, flip=False):
    """Return a model's configuration with other names, in another order, and with inputs that may be flipped."""

    def rename(value):
        if isinstance(value, dict):
            return {k: renamed.get(v, v) if k == "name" and isinstance(v, str) else rename(v) for k, v in value.items()}
        if isinstance(value, list):
            if len(value) == 3 and isinstance(value[0], str) and value[0] in renamed:
                return [renamed[value[0]], *value[1:]]
            return [rename(item) for item in value]
        return value

    out = rename(model_config)
    if rng is not None:
        rng.shuffle(out["config"]["layers"])
    for layer in out["config"]["layers"] if flip else ():
        if layer["class_name"] in ("Add", "Concatenate"):
            for node in layer["inbound_nodes"]:
                if rng.random() < 0.5:
                    node["args"][0].reverse()
    return out


LAWS = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))


@LAWS
@given(graphs(), st.integers(0, 99))
def test_names_and_the_order_of_layers_do_not_matter(model, seed):
    plain = json.loads(model.to_json())
    names = [layer["config"]["name"] for layer in plain["config"]["layers"]]
    renamed = {name: f"other_{k}" for k, name in enumerate(names)}
    found = match(parse(plain), parse(rewritten(plain, renamed, random.Random(seed))))
    assert not found.differences
    assert dict(found.layers) == renamed
    assert not found.rearrangements


@LAWS
@given(graphs(), st.integers(0, 99))
def test_flipped_inputs_and_swapped_names_still_compute_the_same(model, seed):
    rng = random.Random(seed)
    plain = json.loads(model.to_json())
    names = [layer["config"]["name"] for layer in plain["config"]["layers"]]
    shuffled = names[1:]
    rng.shuffle(shuffled)
    other = rewritten(plain, dict(zip(names, [names[0], *shuffled], strict=True)), rng, flip=True)
    found = match(parse(plain), parse(other))
    assert not found.differences, [str(difference) for difference in found.differences]
    b = randomize(keras.Model.from_config(other["config"]), 2)
    randomize(model, 1)
    transplant(model, b, found)
    x = np.random.default_rng(0).normal(size=(4, 3)) * 0.3
    np.testing.assert_allclose(np.asarray(model(x)), np.asarray(b(x)), atol=1e-3, rtol=1e-3)


@LAWS
@given(graphs(), st.data())
def test_one_changed_field_is_always_found(model, data):
    plain = json.loads(model.to_json())
    other = copy.deepcopy(plain)
    layers = [layer for layer in other["config"]["layers"] if layer["class_name"] != "InputLayer"]
    layer = data.draw(st.sampled_from(layers))
    if layer["class_name"] == "Dense":
        field, value = data.draw(st.sampled_from([("activation", "gelu"), ("use_bias", False), ("units", 4)]))
        layer["config"][field] = value
    elif layer["class_name"] == "Concatenate":
        field = "axis"
        layer["config"]["axis"] = 0
    else:
        field = "class"
        layer["class_name"] = "Maximum"
    found = match(parse(plain), parse(other))
    assert (layer["config"]["name"], field) in {
        (difference.where_b, difference.field) for difference in found.differences
    }
    found = match(parse(plain), parse(rewritten(other, {layer["config"]["name"]: "renamed"})))
    assert field in {difference.field for difference in found.differences}

"""Copies of live models: the same to the last bit, flags and random states included, and nothing shared with the source."""

import numpy as np
import pytest

from graftwork.errors import OptionError, StoreError
from graftwork.models.configuration import layers_of
from graftwork.models.copying import copy_model
from graftwork.models.skeleton import skeleton, weightless

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
kl = keras.layers

pytestmark = pytest.mark.keras

TEXTS = np.array([["a b c"], ["zz a"], ["c c b"]])
FLOATS = np.random.default_rng(0).normal(2, 3, (3, 4)).astype("float32")


def double(x):
    return 2 * x


class Scale(kl.Layer):
    """A layer of the user's, registered nowhere, with a layer inside."""

    def __init__(self, units, **more):
        super().__init__(**more)
        self.units, self.dense = units, kl.Dense(units)

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), initializer="uniform", name="factor")
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x * self.factor)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Penalty(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(x * x)

    def get_config(self):
        return {}


class Subclassed(keras.Model):
    def __init__(self, units, **more):
        super().__init__(**more)
        self.units, self.inner, self.drop = units, kl.Dense(units), kl.Dropout(0.4)

    def call(self, x, training=False):
        return self.drop(self.inner(x), training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def functional(build, *shapes, dtype="float32"):
    inputs = [keras.Input(shape, dtype=dtype) for shape in shapes]
    return keras.Model(inputs[0] if len(inputs) == 1 else inputs, build(*inputs), name="source")


def partly_frozen_inside():
    """Flags of layers inside layers, and of single variables, none of which a file holds."""
    bi = kl.Bidirectional(kl.LSTM(3, dropout=0.2), name="bi")
    attention = kl.MultiHeadAttention(2, 4, dropout=0.1, name="attention")
    model = functional(lambda x: kl.Dense(2)(bi(attention(x, x))), (2, 2))
    attention._query_dense.trainable = False
    bi.forward_layer.trainable = False
    model.weights[3].trainable = False
    model.layers[-1].bias.trainable = False
    return model, FLOATS.reshape(3, 2, 2)


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), kl.Dense(4, name="a"), kl.BatchNormalization(name="n"), kl.Dropout(0.3), kl.Dense(4)],
        name="inner",
    )
    model = functional(lambda x: kl.Dense(2)(inner(inner(x))), (4,))
    inner.get_layer("a").trainable = inner.get_layer("n").trainable = False
    return model, FLOATS


def frozen():
    model, data = nested()
    model.trainable = False
    model.layers[-1].trainable = True
    return model, data


def normalized():
    layer = kl.Normalization()
    layer.adapt(FLOATS)
    return functional(lambda x: kl.Dense(2)(layer(x)), (4,)), FLOATS


def text(mode, **more):
    layer = kl.TextVectorization(output_mode=mode, **more)
    layer.adapt(TEXTS[:, 0])
    last = (lambda x: kl.LSTM(2)(kl.Embedding(9, 3, mask_zero=True)(x))) if mode == "int" else kl.Dense(2)
    return functional(lambda x: last(layer(x)), (1,), dtype="string"), tf.constant(TEXTS)


def looked_up():
    layer = kl.StringLookup(output_mode="multi_hot")
    layer.adapt(["a b c", "zz a"])
    return functional(lambda x: kl.Dense(2)(layer(x)), (1,), dtype="string"), tf.constant(TEXTS)


def own_code():
    offset = 3.0

    def shifted(x):
        return x + offset

    def build(x):
        x = kl.Lambda(lambda y: y - 1)(kl.Lambda(shifted)(x))
        return Scale(3)(kl.Dense(4, activation=shifted, kernel_regularizer=Penalty())(x))

    return functional(build, (4,)), FLOATS


def quantized(mode):
    model = functional(lambda x: kl.Dense(4)(kl.Dense(8)(x)), (4,))
    model.quantize(mode)
    return model, FLOATS


def adapted():
    first, second = kl.Embedding(9, 5), kl.Dense(3)
    model = functional(lambda x: second(first(x)), (4,), dtype="int32")
    for layer in (first, second):
        layer.enable_lora(2, lora_alpha=5, b_initializer="he_uniform")
    return model, np.arange(12, dtype="int32").reshape(3, 4) % 9


def siamese():
    tower = kl.Dense(3)
    return functional(lambda a, b: [kl.Subtract()([tower(a), tower(b)]), tower(a)], (4,), (4,)), [FLOATS, FLOATS[::-1]]


def dictionaries():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    outputs = {"sum": a + b, "half": kl.Dense(2, dtype="mixed_float16")(a)}
    return keras.Model({"a": a, "b": b}, outputs, name="source"), {"a": FLOATS, "b": FLOATS[::-1]}


def unbuilt():
    return keras.Sequential([kl.Dense(3), kl.Dropout(0.5), kl.Dense(2)]), None


def unbuilt_around_a_built_one():
    return keras.Sequential([kl.Rescaling(2.0), nested()[0]]), FLOATS


def subclassed():
    model = Subclassed(3)
    model(FLOATS)
    model.inner.trainable = False
    return model, FLOATS


def efficient():
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=5)
    images = np.random.default_rng(1).normal(100, 30, (3, 32, 32, 3)).astype("float32")
    next(layer for layer in model.layers if isinstance(layer, kl.Normalization)).adapt(images)
    for layer in model.layers[:100]:
        layer.trainable = False
    return model, images


ZOO = {
    "partly frozen inside": partly_frozen_inside,
    "nested": nested,
    "frozen": frozen,
    "normalized": normalized,
    "text": lambda: text("int", output_sequence_length=4),
    "tf-idf": lambda: text("tf_idf"),
    "looked up": looked_up,
    "own code": own_code,
    "int8": lambda: quantized("int8"),
    "int4": lambda: quantized("int4"),
    "LoRA": adapted,
    "siamese": siamese,
    "dictionaries": dictionaries,
    "unbuilt": unbuilt,
    "unbuilt around a built one": unbuilt_around_a_built_one,
    "subclassed": subclassed,
    "efficient": efficient,
}


def values(model):
    return [*model.weights, *(g.state for layer in layers_of(model) for g in layer._seed_generators)]


def state(model):
    """Everything of a model but its own name."""
    return (
        [(type(layer), layer._trainable, layer.dtype_policy.name) for layer in layers_of(model)],
        [layer.name for layer in layers_of(model)[1:]],
        [(v.trainable, v.dtype, tuple(v.shape), keras.ops.convert_to_numpy(v).tobytes()) for v in values(model)],
        model.compiled,
    )


def answers(model, data, **how):
    return [keras.ops.convert_to_numpy(out).tobytes() for out in tf.nest.flatten(model(data, **how))]


@pytest.mark.parametrize("name", ZOO)
def test_a_copy_is_the_same_to_the_last_bit_and_shares_nothing(name):
    """Also with dropout: the random states are copied, so both draw the same."""
    model, data = ZOO[name]()
    before, its_name = state(model), model.name
    copy = copy_model(model, "copy")
    assert state(model) == before and model.name == its_name
    assert state(copy) == before and copy.name == "copy"
    assert not {id(v) for v in values(model)} & {id(v) for v in values(copy)}
    if data is not None:
        assert answers(copy, data) == answers(model, data)
        assert answers(copy, data, training=True) == answers(model, data, training=True)
    assert state(copy)[2] == state(model)[2]
    before = state(model)
    copy.trainable = True
    for variable in copy.weights:
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
    assert state(model) == before


@pytest.mark.parametrize("name", ["partly frozen inside", "frozen", "int8"])
def test_a_copy_is_unfrozen_as_its_source_is(name):
    """Whatever order Keras made the variables in."""
    model, _ = ZOO[name]()
    copy = copy_model(model)
    model.trainable = copy.trainable = True
    assert [v.path.rpartition("/")[2] for v in copy.trainable_variables] == [
        v.path.rpartition("/")[2] for v in model.trainable_variables
    ]
    assert state(copy) == state(model)


def test_a_copy_trains_on_as_its_source_does():
    """The optimizer's state comes along where it is asked for, and a loss of one's own."""

    def loss(y, p):
        return keras.ops.mean((y - p) ** 2)

    model, data = nested()
    targets = FLOATS[:, :2]
    model.compile(keras.optimizers.Adam(0.1), loss)
    model.fit(data, targets, epochs=2, verbose=0, shuffle=False)
    assert not copy_model(model).compiled
    copy = copy_model(model, compiled=True)
    for each in (model, copy):
        each.fit(data, targets, epochs=2, verbose=0, shuffle=False)
    assert state(copy) == state(model)


def test_what_cannot_be_copied_is_refused():
    """With what to do about it."""

    class Closed(keras.Model):
        def __init__(self, layer):
            super().__init__()
            self.inner = layer

        def call(self, x):
            return self.inner(x)

    closed = Closed(kl.Dense(2))
    closed(FLOATS)
    with pytest.raises(StoreError, match=r"Closed.*get_config"):
        copy_model(closed)
    one, other = _named(1), _named(2)
    with pytest.raises(StoreError, match="two different classes or functions called 'named'"):
        copy_model(functional(lambda x: kl.Dense(2, activation=one)(kl.Dense(2, activation=other)(x)), (4,)))
    with pytest.raises(OptionError, match="slash"):
        copy_model(nested()[0], "a/b")
    tf_keras = pytest.importorskip("tf_keras")
    with pytest.raises(OptionError, match=r"keras\.Model"):
        copy_model(tf_keras.Sequential([tf_keras.layers.Dense(2)]))


def _named(k):
    def named(x):
        return k * x

    return named


@pytest.mark.parametrize("name", ZOO)
def test_a_skeleton_is_the_model_without_values(name):
    """Same layers, flags, shapes, dtypes; no variable has a value, inside the scope and after it."""
    model, _ = ZOO[name]()
    with weightless():
        found = skeleton(model, name="bones")
        outputs = (
            [(o.shape, o.dtype) for o in found.outputs] if model.built and not isinstance(model, Subclassed) else []
        )
    assert found.name == "bones"
    assert all(v._value is None for v in found.weights)
    want = state(model)
    assert [(type(layer), layer._trainable, layer.dtype_policy.name) for layer in layers_of(found)] == want[0]
    assert [(v.trainable, v.dtype, tuple(v.shape)) for v in values(found)] == [v[:3] for v in want[2]]
    if outputs:
        assert outputs == [(o.shape, o.dtype) for o in model.outputs]

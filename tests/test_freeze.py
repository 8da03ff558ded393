"""Frozen means frozen: to the last bit, after training other layers, after saving and loading, in every nesting."""

import numpy as np
import pytest
from composed import compose

from graftwork.compose import get
from graftwork.errors import OptionError, UnknownNameError

pytestmark = pytest.mark.keras

keras = pytest.importorskip("keras")
kl = keras.layers

X = np.random.default_rng(0).normal(1, 3, (16, 6, 4)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 2, 16)


def bits(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def changed(model, train):
    """Return the paths of the weights that training changes."""
    before = bits(model)
    train(model)
    return {w.path for w, a, b in zip(model.weights, before, bits(model), strict=True) if not np.array_equal(a, b)}


def fit(model):
    """Train a model under a head of its own, as a user does who loads it: with weight decay, too."""
    given = keras.Input((6, 4))
    outer = keras.Model(given, kl.Dense(2)(kl.Flatten()(model(given))))
    outer.compile(
        keras.optimizers.AdamW(0.01, weight_decay=0.1),
        keras.losses.SparseCategoricalCrossentropy(True),
        run_eagerly=True,
    )
    outer.fit(X, Y, epochs=1, batch_size=8, verbose=0)


def reload(model, tmp_path):
    model.save(tmp_path / "model.keras")
    return keras.saving.load_model(tmp_path / "model.keras")


def graph(*layers):
    given = tensor = keras.Input((6, 4))
    for layer in layers:
        tensor = (
            layer(tensor, tensor)
            if "Query" in type(layer).__name__ or "Multi" in type(layer).__name__
            else layer(tensor)
        )
    return keras.Model(given, tensor, name="model")


def block(name):
    return keras.Sequential(
        [keras.Input((6, 4)), kl.Dense(4, name="dense"), kl.BatchNormalization(name="norm")], name=name
    )


def nested():
    return graph(kl.Dense(4, name="first"), keras.Sequential([block("deep"), kl.Dense(4, name="last")], name="inner"))


def attention_inside():
    return graph(
        kl.Dense(4, name="first"), graph(kl.MultiHeadAttention(2, 3, name="attention"), kl.LayerNormalization())
    )


KINDS = {
    "nested": nested,
    "bidirectional": lambda: graph(kl.Bidirectional(kl.LSTM(2, return_sequences=True))),
    "cells": lambda: graph(kl.RNN([kl.LSTMCell(3), kl.GRUCell(3)], return_sequences=True)),
    "distributed norm": lambda: graph(kl.TimeDistributed(kl.BatchNormalization())),
    "distributed model": lambda: graph(
        kl.TimeDistributed(keras.Sequential([keras.Input((4,)), kl.Dense(3), kl.BatchNormalization()]))
    ),
    "attention": lambda: graph(kl.MultiHeadAttention(2, 3, name="attention")),
    "attention with dropout": lambda: graph(kl.MultiHeadAttention(2, 3, dropout=0.1, name="attention")),
    "grouped attention": lambda: graph(kl.GroupQueryAttention(4, 2, 1, name="attention")),
    "attention inside": attention_inside,
    "half precision": lambda: graph(kl.Dense(4, dtype="mixed_float16"), kl.BatchNormalization(dtype="mixed_float16")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_stay_as_they_are_after_training_and_loading(kind, tmp_path):
    """Weights and statistics keep every bit, and outputs too: also those of layers whose inside Keras makes anew when it loads."""
    model = KINDS[kind]()
    expected, flags = np.asarray(model(X)), [layer.trainable for layer in model._flatten_layers()]

    frozen = compose(get("freeze")(), {"model": model}).model

    np.testing.assert_array_equal(frozen(X), expected)
    assert not changed(frozen, fit)
    again = reload(frozen, tmp_path)
    assert not changed(again, fit)
    np.testing.assert_array_equal(again(X), expected)
    assert len(changed(model, fit)) == len(model.weights)
    assert [layer.trainable for layer in model._flatten_layers()] == flags


def test_causal_attention_of_any_length_is_the_same_when_frozen():
    """The mask that attention makes of sizes is made of tensors instead."""
    given = keras.Input((None, 4))
    layer = kl.MultiHeadAttention(2, 3, dropout=0.2)
    model = keras.Model(given, layer(given, given, use_causal_mask=True), name="model")

    frozen = compose(get("freeze")(), {"model": model}).model

    for length in (2, 6):
        np.testing.assert_array_equal(frozen(X[:, :length]), model(X[:, :length]))


def test_unfreezing_a_part_moves_only_that_part(tmp_path):
    """BatchNormalization stays still unless asked for; what is not named keeps its flags, before and after loading."""
    frozen = compose(get("freeze")(), {"model": nested()}).model

    part = compose(get("unfreeze")(layers="inner/deep"), {"model": frozen})
    assert changed(part.model, fit) == {"dense/kernel", "dense/bias"}
    assert changed(reload(part.model, tmp_path), fit) == {"dense/kernel", "dense/bias"}
    assert "20 parameters train, in 1 of 4 layers" in part.notes[0]

    with_norm = compose(get("unfreeze")(layers="inner/deep/*", batchnorm=True), {"model": frozen}).model
    assert len(changed(reload(with_norm, tmp_path), fit)) == 6

    upper = compose(get("unfreeze")(from_layer="inner/deep/norm"), {"model": frozen}).model
    assert changed(upper, fit) == {"last/kernel", "last/bias"}


def test_patterns_that_do_nothing_are_refused():
    """A name that is not there gets near ones; what has no weights, and what only has statistics, is said."""
    model = graph(kl.Dense(4, name="first"), kl.Dropout(0.1, name="drop"), kl.BatchNormalization(name="norm"))
    with pytest.raises(UnknownNameError, match="'fist'; did you mean 'first'"):
        compose(get("freeze")(layers="fist"), {"model": model})
    with pytest.raises(OptionError, match="no weights"):
        compose(get("freeze")(layers="re:drop|in.*"), {"model": model})
    with pytest.raises(OptionError, match="batchnorm=True"):
        compose(get("unfreeze")(layers="norm"), {"model": model})
    with pytest.raises(OptionError, match="no regular expression"):
        compose(get("freeze")(layers="re:("), {"model": model})


@keras.saving.register_keras_serializable("graftwork-tests")
class Inside(kl.Layer):
    """A layer with others inside, as users write them."""

    def build(self, shape):
        self.norm = kl.BatchNormalization()
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(x, training=training)


def test_what_keras_cannot_keep_still_is_refused():
    """A layer of the user's own that Keras makes anew, one that changes in every step, and attention over masked steps."""
    with pytest.raises(OptionError, match=r"'inside' \(Inside\) would train again"):
        compose(get("freeze")(), {"model": graph(Inside(name="inside"))})
    with pytest.raises(OptionError, match="SpectralNormalization"):
        compose(get("freeze")(), {"model": graph(kl.SpectralNormalization(kl.Dense(4)))})
    words = keras.Input((6,), dtype="int32")
    x = kl.Embedding(9, 4, mask_zero=True)(words)
    with pytest.raises(OptionError, match="masked"):
        compose(get("freeze")(), {"model": keras.Model(words, kl.MultiHeadAttention(2, 3)(x, x))})

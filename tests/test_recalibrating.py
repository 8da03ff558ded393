"""Recalibration: each layer has the mean and variance of what it is called with, whatever the batches, and nothing else changes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graftwork as gw
from graftwork.data import open_data
from graftwork.errors import DataError, MismatchError, OptionError, UnknownNameError
from graftwork.training.moments import Moments, as_rows

pytestmark = pytest.mark.keras

keras = pytest.importorskip("keras")
kl = keras.layers

from graftwork.training.recalibrating import outlook, recalibrate  # noqa: E402

X = np.random.default_rng(0).normal(3, 2, (24, 8, 8, 3)).astype(np.float32)
EXACT = 2e-6
"""Of float32: rounding of what layers compute, which differs between sizes of batches."""


def scrambled(model, seed=0):
    """Give every weight values that fit nothing; return the model."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = np.asarray(keras.ops.convert_to_numpy(weight))
        if value.dtype.kind == "f":
            weight.assign(
                np.abs(rng.normal(0.5, 0.3, value.shape)) + 0.1
                if "var" in weight.path
                else rng.normal(0, 0.4, value.shape)
            )
    return model


def bits(model):
    return {weight.path: keras.ops.convert_to_numpy(weight).copy() for weight in model.weights}


def statistics(model):
    return {path: value for path, value in bits(model).items() if "moving_" in path}


def run(model, data=X, **options):
    """Recalibrate a model; everything but statistics must stay as it is, in the copy as in the source."""
    before, flags = bits(model), [layer.trainable for layer in model._flatten_layers()]
    found, report = recalibrate(model, open_data((data,)), **options)
    assert found is not model
    assert (
        [layer.trainable for layer in found._flatten_layers()]
        == flags
        == [x.trainable for x in model._flatten_layers()]
    )
    for (path, old), now, copied in zip(before.items(), bits(model).values(), bits(found).values(), strict=True):
        assert now.tobytes() == old.tobytes()
        assert copied.tobytes() == old.tobytes() or any(
            word in path
            for word in ("moving_", "renorm_") + (("mean", "variance") if options.get("normalizations") else ())
        )
    assert report.samples == len(np.asarray(data) if not isinstance(data, dict) else next(iter(data.values())))
    return found, report


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_allclose(found[path], value, rtol=EXACT, atol=EXACT * (1 + np.abs(value).max()), err_msg=path)


def by_hand(model, order, data=X):
    """Set the statistics of layers of a flat model one after the other, from sub-models that Keras makes, in one batch; return them."""
    oracle = keras.models.clone_model(model)
    oracle.set_weights(model.get_weights())
    for name in order:
        layer = oracle.get_layer(name)
        seen = [
            np.asarray(keras.Model(oracle.inputs[0], node.input_tensors[0])(data, training=False)).astype(np.float64)
            for node in layer._inbound_nodes
        ]
        axis = layer.axis % seen[0].ndim
        rows = np.concatenate([np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis]) for values in seen])
        layer.moving_mean.assign(rows.mean(0))
        layer.moving_variance.assign(rows.var(0))
    return dict(zip(statistics(model), statistics(oracle).values(), strict=True))


def branched():
    """Two branches that meet, one of them longer, with a layer in front and one behind: two passes could not do."""
    given = keras.Input((8, 8, 3))
    stem = kl.ReLU()(kl.BatchNormalization(name="stem")(kl.Conv2D(4, 3, padding="same")(given)))
    long = kl.BatchNormalization(name="long_1")(kl.Conv2D(5, 1)(stem))
    long = kl.BatchNormalization(name="long_2")(kl.DepthwiseConv2D(3, padding="same")(kl.LeakyReLU()(long)))
    short = kl.BatchNormalization(name="short")(kl.Conv2D(5, 1)(stem))
    both = kl.Dropout(0.5)(kl.Add()([long, short, kl.Conv2D(5, 1)(stem)]))
    last = kl.BatchNormalization(name="last", scale=False)(kl.GlobalAveragePooling2D()(both))
    return scrambled(keras.Model(given, kl.Dense(3, activation="softmax")(last)))


# The arithmetic -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_moments_are_those_of_all_rows_whatever_the_pieces(data):
    """Against NumPy in one piece, where the mean is a million times the deviation as well."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, size = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 5))
    rows = rng.normal(data.draw(st.sampled_from([0.0, 1.0, -1e6])), 1, (count, size))
    mask = rng.random((count, size)) < 0.6 if data.draw(st.booleans()) else None
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=6)))
    moments = Moments(size)
    for piece in np.split(np.arange(count), cuts):
        moments.add(rows[piece], None if mask is None else mask[piece])
    for column in range(size):
        counted = rows[:, column] if mask is None else rows[mask[:, column], column]
        assert moments.count[column] == len(counted)
        if len(counted):
            np.testing.assert_allclose(moments.mean[column], counted.mean(), rtol=1e-13, atol=1e-13)
            np.testing.assert_allclose(moments.variance[column], counted.var(), rtol=1e-9, atol=1e-13)
        else:
            assert (moments.mean[column], moments.variance[column]) == (0, 0)


def test_rows_have_the_kept_axes_as_columns():
    """Of (2, 3, 4): a column per entry of axis 1, of axes 0 and 2, and one for all."""
    values = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(as_rows(values, (1,)).sum(0), values.sum((0, 2)))
    np.testing.assert_array_equal(as_rows(values, (0, 2)).sum(0), values.sum(1).ravel())
    np.testing.assert_array_equal(as_rows(values, ()), values.reshape(-1, 1))


# Against references -------------------------------------------------------------------------------------------------------


def test_dense_layers_in_plain_numpy():
    """Two normalized layers, computed in float64 without Keras."""
    x = np.random.default_rng(1).normal(5, 3, (50, 6)).astype(np.float32)
    model = scrambled(
        keras.Sequential(
            [
                keras.Input((6,)),
                kl.Dense(4),
                kl.BatchNormalization(),
                kl.ReLU(),
                kl.Dense(3),
                kl.BatchNormalization(epsilon=0.1),
                kl.Dense(2),
            ]
        )
    )
    k1, b1, gamma, beta, _, _, k2, b2, *_ = (np.asarray(w, np.float64) for w in model.get_weights())
    first = x @ k1 + b1
    normal = (first - first.mean(0)) / np.sqrt(first.var(0) + 1e-3) * gamma + beta
    second = np.maximum(normal, 0) @ k2 + b2
    found, report = run(model, x, batch=7)
    wanted = [first.mean(0), first.var(0), second.mean(0), second.var(0)]
    for value, right in zip(statistics(found).values(), wanted, strict=True):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-5)
    assert [(row.turn, row.calls, row.values) for row in report.layers] == [(1, 1, 50), (2, 1, 50)]
    old = np.asarray(model.get_weights()[4], np.float64)
    np.testing.assert_allclose(
        report.layers[0].shift, np.sqrt(np.mean((old - first.mean(0)) ** 2 / (first.var(0) + 1e-3))), rtol=1e-5
    )


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_branches_against_sub_models(kept_bytes):
    """Layer by layer as Keras's own sub-models say; branches of the same depth share a pass; both ways of passing give the same."""
    model = branched()
    found, report = run(model, batch=5, kept_bytes=kept_bytes)
    close(statistics(found), by_hand(model, ["stem", "long_1", "short", "long_2", "last"]))
    assert [(row.path, row.turn) for row in report.layers] == [
        ("stem", 1),
        ("long_1", 2),
        ("short", 2),
        ("long_2", 3),
        ("last", 4),
    ]
    assert report.passes == outlook(model).passes == 4
    assert outlook(model).layers == (("stem",), ("long_1", "short"), ("long_2",), ("last",))
    assert (report.kept_bytes > 0) == (kept_bytes > 0)
    assert report.notes == ()


def test_keeping_changes_no_bit_and_leaves_nothing_behind(tmp_path, monkeypatch):
    """With everything kept, with room for some of it, and with none."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, samples = branched(), open_data(X)
    results = {limit: recalibrate(model, samples, batch=7, kept_bytes=limit) for limit in (0, 40_000, 1 << 30)}
    kept = [report.kept_bytes for _, report in results.values()]
    assert kept[0] == 0 < kept[1] <= 40_000 < kept[2]
    one, *others = (bits(found).values() for found, _ in results.values())
    for other in others:
        assert [value.tobytes() for value in one] == [value.tobytes() for value in other]
    assert list(Path(tmp_path).iterdir()) == []


WHOLE = {}


@settings(deadline=None, max_examples=12)
@given(batch=st.integers(1, 30), seed=st.integers(0, 1000))
def test_neither_batches_nor_order_matter(batch, seed):
    """The same statistics as those of one batch, to the rounding of float32."""
    if not WHOLE:
        WHOLE["model"] = branched()
        WHOLE["wanted"] = statistics(recalibrate(WHOLE["model"], open_data(X), batch=24)[0])
    found, _ = recalibrate(WHOLE["model"], open_data(X).shuffled(seed), batch=batch)
    close(statistics(found), WHOLE["wanted"])


# Wherever layers stand ----------------------------------------------------------------------------------------------------


def test_nested_models_and_shared_ones():
    """A nested model that is called twice: statistics over both calls, as in a flat model of the same layers."""
    inner = keras.Sequential(
        [keras.Input((4,)), kl.Dense(4), kl.BatchNormalization(name="bn"), kl.ReLU()], name="inner"
    )
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    after = kl.BatchNormalization(name="after")(kl.Concatenate()([inner(a), inner(b)]))
    model = scrambled(keras.Model([a, b], after))
    data = {"a": X[:, 0, :4, 0], "b": X[:, 1, 4:, 1] * 3}
    found, report = run(model, data, batch=5)
    dense = [np.asarray(w, np.float64) for w in inner.get_weights()]
    rows = np.concatenate([data["a"] @ dense[0] + dense[1], data["b"] @ dense[0] + dense[1]])
    values = list(statistics(found).values())
    np.testing.assert_allclose(values[0], rows.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values[1], rows.var(0), rtol=1e-5)
    normal = np.maximum((rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3) * dense[2] + dense[3], 0)
    np.testing.assert_allclose(values[2], np.concatenate(np.split(normal, 2), 1).mean(0), rtol=1e-5, atol=1e-5)
    assert [(row.path, row.calls, row.values) for row in report.layers] == [("inner/bn", 2, 48), ("after", 1, 24)]


def test_frames_of_a_film():
    """A model in TimeDistributed sees every frame; the axis of channels is its own."""
    inner = keras.Sequential(
        [
            keras.Input((8, 3)),
            kl.Conv1D(4, 3),
            kl.BatchNormalization(name="bn"),
            kl.ReLU(),
            kl.BatchNormalization(name="more"),
        ]
    )
    model = scrambled(
        keras.Sequential(
            [keras.Input((8, 8, 3)), kl.TimeDistributed(inner), kl.Flatten(), kl.BatchNormalization(name="last")]
        )
    )
    single = keras.models.clone_model(inner)
    single.set_weights(inner.get_weights())
    found, report = run(model, batch=7)
    wanted = by_hand(single, ["bn", "more"], X.reshape(-1, 8, 3))
    for value, right in zip(statistics(found).values(), wanted.values(), strict=False):
        np.testing.assert_allclose(value, right, rtol=EXACT, atol=EXACT)
    assert [row.values for row in report.layers] == [24 * 8 * 6, 24 * 8 * 6, 24]
    assert report.passes == 3


@keras.saving.register_keras_serializable("recalibrating")
class Own(keras.Model):
    """Runs its layers in code; `one` before `two`, though they are made the other way round."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.two, self.one, self.dense = (
            kl.BatchNormalization(name="two"),
            kl.BatchNormalization(name="one"),
            kl.Dense(5, name="dense"),
        )
        self.idle = kl.BatchNormalization(name="idle")
        self.idle.build((None, 2))

    def build(self, shape):
        self.one.build(shape)
        self.dense.build(shape)
        self.two.build((None, 5))

    def call(self, inputs, training=None):
        return self.two(self.dense(self.one(inputs, training=training)), training=training)


@pytest.mark.parametrize("around", [False, True])
def test_code_of_its_own_is_followed_as_it_is_called(around):
    """A subclassed model, by itself and as a layer of a graph: in the order of the calls, one layer in a pass."""
    x = X[:, 0, 0]
    own = Own(name="own")
    own.build((None, 3))
    model = own
    if around:
        given = keras.Input((3,))
        model = keras.Model(given, kl.BatchNormalization(name="behind")(own(given)))
    scrambled(model)
    found, report = run(model, x, batch=5)
    inside = found.get_layer("own") if around else found
    first = np.asarray(x, np.float64)
    gamma, beta = (np.asarray(w) for w in (inside.one.gamma, inside.one.beta))
    second = ((first - first.mean(0)) / np.sqrt(first.var(0) + 1e-3) * gamma + beta) @ np.asarray(
        inside.dense.kernel
    ) + np.asarray(inside.dense.bias)
    np.testing.assert_allclose(inside.one.moving_mean, first.mean(0), rtol=1e-5)
    np.testing.assert_allclose(inside.two.moving_mean, second.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside.two.moving_variance, second.var(0), rtol=1e-4)
    assert [row.path.rpartition("/")[2] for row in report.layers] == ["one", "two", *(["behind"] if around else [])]
    assert any("code of its own" in note for note in report.notes)
    assert any("'own/idle'" in note or "'idle'" in note for note in report.notes if "never called" in note)


def test_layers_on_their_own_results_are_told_of():
    """One layer called twice in a row: no order is right, and the note says how far off it is; twice side by side is exact."""
    given = keras.Input((3,))
    norm, dense = kl.BatchNormalization(name="norm"), kl.Dense(3)
    model = scrambled(keras.Model(given, norm(dense(norm(given)))))
    _, report = run(model, X[:, 0, 0])
    assert report.passes == 1 and len(report.notes) == 1
    assert "'norm': called on something that depends on what it gives" in report.notes[0]


@keras.saving.register_keras_serializable("recalibrating")
class Compiled(kl.Layer):
    """Runs a layer where its values cannot be seen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = kl.BatchNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, inputs):
        return keras.ops.vectorized_map(lambda x: self.norm(x[None])[0], inputs)


def test_what_cannot_be_seen_is_refused():
    """Not left as it is in silence."""
    model = keras.Sequential([keras.Input((3,)), Compiled(name="compiled"), kl.BatchNormalization(name="seen")])
    with pytest.raises(OptionError, match=r"layer 'compiled/norm' of .* is called where its values cannot be seen"):
        recalibrate(model, open_data(X[:, 0, 0]))
    _, report = run(model, X[:, 0, 0], layers="seen")
    assert [row.path for row in report.layers] == ["seen"]


# Ways of being called -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_what_a_mask_hides_does_not_count(kept_bytes):
    """Masks hang on tensors, also on those that were kept between passes."""
    x = np.random.default_rng(3).normal(1, 1, (20, 6, 4)).astype(np.float32)
    x[np.arange(6)[None] >= np.random.default_rng(4).integers(1, 6, 20)[:, None]] = 0
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            kl.Masking(),
            kl.BatchNormalization(),
            kl.TimeDistributed(kl.Dense(3)),
            kl.BatchNormalization(),
        ]
    )
    scrambled(model)
    found, report = run(model, x, batch=6, kept_bytes=kept_bytes)
    gamma, beta, _, _, kernel, bias, *_ = (np.asarray(w, np.float64) for w in model.get_weights())
    rows = x[np.any(x != 0, -1)].astype(np.float64)
    second = ((rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-3) * gamma + beta) @ kernel + bias
    for value, right in zip(
        statistics(found).values(), [rows.mean(0), rows.var(0), second.mean(0), second.var(0)], strict=True
    ):
        np.testing.assert_allclose(value, right, rtol=1e-5, atol=1e-6)
    assert [row.values for row in report.layers] == [len(rows)] * 2


def test_channels_in_front():
    """The axis of channels is the layer's own."""
    model = scrambled(
        keras.Sequential([keras.Input((8, 8, 3)), kl.BatchNormalization(axis=1), kl.BatchNormalization(axis=-2)])
    )
    found, _ = run(model)
    values = list(statistics(found).values())
    np.testing.assert_allclose(values[0], X.astype(np.float64).mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(values[1], X.astype(np.float64).var((0, 2, 3)), rtol=1e-6)


def test_half_precision_counts_what_layers_get():
    """In mixed precision, statistics are float32 and those of float16 activations."""
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model = scrambled(
            keras.Sequential(
                [keras.Input((3,)), kl.Dense(4), kl.BatchNormalization(), kl.Dense(4), kl.BatchNormalization()]
            )
        )
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    found, report = run(model, X[:, 0, 0], batch=24)
    seen = np.asarray(keras.Model(model.inputs[0], model.layers[0].output)(X[:, 0, 0]))
    assert seen.dtype == np.float16
    np.testing.assert_allclose(next(iter(statistics(found).values())), seen.astype(np.float64).mean(0), rtol=1e-6)
    assert report.kept_bytes == 24 * 4 * 2


class Always(kl.Layer):
    """Calls a layer as in training, whatever the model does."""

    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner

    def build(self, shape):
        if not self.inner.built:
            self.inner.build(shape)

    def call(self, x):
        return self.inner(x, training=True)

    def get_config(self):
        return {**super().get_config(), "inner": keras.saving.serialize_keras_object(self.inner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("inner")), **config)


def test_frozen_ones_and_training_ones():
    """A frozen layer is recalibrated and said; one that code always calls as in training is run in inference mode, and said."""
    given = keras.Input((3,))
    kept = kl.BatchNormalization(name="kept")
    kept.trainable = False
    forced = kl.BatchNormalization(name="forced", momentum=0.5)
    value = Always(forced, name="always")(kept(given))
    model = scrambled(keras.Model(given, kl.BatchNormalization(name="last")(value)))
    found, report = run(model, X[:, 0, 0], batch=5)
    assert [row.frozen for row in report.layers] == [True, False, False]
    beta = np.asarray(forced.beta)
    np.testing.assert_allclose(found.get_layer("kept").moving_mean, X[:, 0, 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.get_layer("last").moving_mean, beta, rtol=1e-4, atol=1e-5)
    assert [note for note in report.notes if note.startswith("'always/forced': called with training=True")]
    assert [note for note in report.notes if note.startswith("'kept' is frozen")]


def test_renormalization_goes_on_from_the_same_statistics():
    """Batch renormalization keeps them several times over."""
    model = scrambled(keras.Sequential([keras.Input((3,)), kl.BatchNormalization(renorm=True)]))
    found, _ = run(model, X[:, 0, 0])
    layer = found.layers[0]
    np.testing.assert_allclose(layer.renorm_mean, X[:, 0, 0].mean(0), rtol=1e-5)
    for deviation in (layer.moving_stddev, layer.renorm_stddev):
        np.testing.assert_allclose(deviation, np.sqrt(X[:, 0, 0].var(0) + 1e-3), rtol=1e-5)


def test_random_numbers_in_prediction_are_told_of():
    """And the generator's state stays as it was."""
    given = keras.Input((3,))
    dropped = Always(kl.Dropout(0.5, seed=3))(given)
    model = scrambled(keras.Model(given, kl.BatchNormalization()(dropped)))
    state = model.layers[1].inner.seed_generator.state
    before = np.asarray(state)
    found, report = run(model, X[:, 0, 0])
    assert any("draws random numbers" in note for note in report.notes)
    np.testing.assert_array_equal(found.layers[1].inner.seed_generator.state, before)


def test_augmentation_does_nothing_as_in_predict():
    """Keras notes down `training=True` for layers of augmentation called without a word; `predict` leaves them out all the same."""
    given = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), kl.RandomTranslation(0.9, 0.9, fill_mode="constant", seed=1)])
    value = inner(kl.RandomTranslation(0.9, 0.9, fill_mode="constant", seed=2)(given))
    model = scrambled(
        keras.Model(given, kl.BatchNormalization(name="norm")(kl.Dropout(0.5, seed=3)(value, training=True)))
    )
    found, report = run(model)
    np.testing.assert_allclose(found.get_layer("norm").moving_mean, X.mean((0, 1, 2)), rtol=1e-5)
    assert not [note for note in report.notes if "random" in note]


def test_the_verb_gives_a_model_that_computes_with_its_normalizations():
    """Their constants are made anew, live and in the file: the output has mean 0 and variance 1 behind a BatchNormalization that is new."""
    model = keras.Sequential([keras.Input((3,)), normal := kl.Normalization(), kl.BatchNormalization(epsilon=1e-9)])
    normal.adapt(10 * X[:, 0, 0] + 5)
    found = gw.recalibrate(model, X[:, 0, 0], normalizations=True)
    said = found.predict(X[:, 0, 0], verbose=0)
    np.testing.assert_allclose(said.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(said.std(0), 1, rtol=1e-4)


# What is asked for --------------------------------------------------------------------------------------------------------


def test_only_some_layers():
    """The others keep their statistics, and run with them."""
    model = branched()
    found, report = run(model, layers=["long_*", "last"])
    assert [row.path for row in report.layers] == ["long_1", "long_2", "last"]
    close(statistics(found), by_hand(model, ["long_1", "long_2", "last"]))
    with pytest.raises(UnknownNameError, match="did you mean 'last'"):
        recalibrate(model, open_data(X), layers="lst")
    with pytest.raises(OptionError, match=r"has no BatchNormalization layer among conv2d\*"):
        recalibrate(model, open_data(X), layers="conv2d*")


def test_adapted_normalizations_on_request():
    """As Keras's own `adapt` says, with the layer ready to use; given or undoing ones stay."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Normalization(name="adapted"),
            kl.Normalization(mean=1.0, variance=4.0, name="given"),
            kl.Normalization(axis=None, name="one"),
            kl.Normalization(axis=(1, 3), name="two"),
            kl.BatchNormalization(name="norm"),
            kl.Normalization(invert=True, name="undoing"),
        ]
    )
    scrambled(model)
    _, report = run(model)
    assert [row.path for row in report.layers] == ["norm"]
    found, report = run(model, normalizations=True, batch=5)
    assert [(row.path, row.kind) for row in report.layers][:2] == [
        ("adapted", "Normalization"),
        ("one", "Normalization"),
    ]
    assert "'undoing' undoes a normalization" in report.notes[0]
    values = X
    for name in ("adapted", "given", "one", "two"):
        layer = found.get_layer(name)
        if name != "given":
            fresh = kl.Normalization(axis=layer.axis or None)
            fresh.adapt(values)
            np.testing.assert_allclose(layer.adapt_mean, fresh.adapt_mean, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(layer.adapt_variance, fresh.adapt_variance, rtol=1e-4)
            np.testing.assert_allclose(layer(values), fresh(values), rtol=1e-3, atol=1e-4)
        values = np.asarray(layer(values))


def test_compiled_models_stay_compiled():
    """With their optimizer's state, unless told otherwise."""
    model = branched()
    model.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(X, np.arange(24) % 3, epochs=1, verbose=0)
    found, _ = recalibrate(model, open_data(X))
    assert found.optimizer is not model.optimizer
    for a, b in zip(model.optimizer.variables, found.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not recalibrate(model, open_data(X), compiled=False)[0].compiled


def test_progress_and_plain_values():
    """Passes are said with samples; a report is what JSON can hold."""
    import json

    told = []
    _, report = recalibrate(branched(), open_data(X), batch=16, progress=lambda *args: told.append(args))
    assert told == [(number, 4, done) for number in (1, 2, 3, 4) for done in (16, 24)]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["passes"] == 4


def test_refusals():
    """Each says what to do, or what is wrong."""
    plain = keras.Sequential([keras.Input((3,)), kl.Dense(2), kl.LayerNormalization()])
    with pytest.raises(OptionError, match="has no BatchNormalization layer: there are no statistics"):
        recalibrate(plain, open_data(X[:, 0, 0]))
    model = branched()
    with pytest.raises(MismatchError):
        recalibrate(model, open_data(X[:, 0]))
    broken = X.copy()
    broken[3, 2, 1, 0] = np.nan
    with pytest.raises(DataError, match="layer 'stem' is called with is not finite"):
        recalibrate(model, open_data(broken))
    with pytest.raises(DataError, match="several passes over the same samples"):
        recalibrate(model, open_data(lambda: iter([X])))
    with pytest.raises(OptionError, match="batch is 0"):
        recalibrate(model, open_data(X), batch=0)
    fixed = keras.Sequential([keras.Input(batch_shape=(8, 3)), kl.BatchNormalization()])
    with pytest.raises(OptionError, match="takes batches of exactly 8"):
        recalibrate(fixed, open_data(X[:, 0, 0]), batch=5)
    run(fixed, X[:, 0, 0], batch=8)


def test_constant_channels_are_told_of():
    """A channel without variance magnifies whatever it is given later."""
    x = X[:, 0, 0].copy()
    x[:, 1] = 7
    found, report = run(keras.Sequential([keras.Input((3,)), kl.BatchNormalization(name="norm")]), x)
    assert report.layers[0].constant == 1 and "1 channels of 'norm' are the same on all the data" in report.notes[0]
    assert list(statistics(found).values())[1][1] == 0


# What it is for -----------------------------------------------------------------------------------------------------------


def network(momentum):
    """A model with BatchNormalization; statistics of momentum 0.9 keep up with a short training, those of 0.99 do not."""
    blocks = [
        [kl.Conv2D(width, 3, padding="same", use_bias=False), kl.BatchNormalization(momentum=momentum), kl.ReLU()]
        for width in (16, 24, 32)
    ]
    last = [kl.GlobalAveragePooling2D(), kl.Dense(10, activation="softmax")]
    return keras.Sequential([keras.Input((8, 8, 1)), *blocks[0], *blocks[1], kl.MaxPooling2D(), *blocks[2], *last])


@pytest.fixture(scope="module")
def digits():
    datasets, selection = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.model_selection")
    x, y = datasets.load_digits(return_X_y=True)
    x = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    return selection.train_test_split(x, y, test_size=0.25, stratify=y, random_state=0)


def trained(model, x, y, epochs, seed, rate=2e-3):
    keras.utils.set_random_seed(seed)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


def averaged(models):
    mean = keras.models.clone_model(models[0])
    mean.set_weights(
        [np.mean(values, axis=0) for values in zip(*(model.get_weights() for model in models), strict=True)]
    )
    return mean


def accuracy(model, x, y):
    return float(np.mean(model.predict(x, verbose=0, batch_size=256).argmax(-1) == y))


def tuned(base, x, y, epochs, seed):
    model = keras.models.clone_model(base)
    model.set_weights(base.get_weights())
    return trained(model, x, y, epochs, seed)


def test_merged_fine_tunes_are_repaired(digits):
    """Short fine-tunes of one base, each on some digits only: their average is poor as they are, and good once it is recalibrated."""
    x, other, y, wanted = digits
    base, models = trained(network(0.99), x, y, 4, 0), []
    for seed, seen in enumerate([(0, 1, 2, 3, 4, 5, 6), (3, 4, 5, 6, 7, 8, 9), (0, 1, 2, 3, 7, 8, 9)], 1):
        of = np.isin(y, seen)
        models.append(tuned(base, x[of], y[of], 3, seed))
    merged = averaged(models)
    found, _ = recalibrate(merged, open_data(x), batch=128)
    before, after = accuracy(merged, other, wanted), accuracy(found, other, wanted)
    assert after > 0.95 and after > before + 0.15, (before, after)
    assert after > max(accuracy(model, other, wanted) for model in models) + 0.1


def test_models_of_other_scales_are_repaired(digits):
    """A good model of pixels from 0 to 1 averaged with a fine-tune of it on pixels from 0 to 16."""
    x, other, y, wanted = digits
    base = trained(network(0.9), x, y, 4, 0)
    merged = averaged([base, tuned(base, x * 16, y, 3, 1)])
    found, _ = recalibrate(merged, open_data(x), batch=128)
    before, after = accuracy(merged, other, wanted), accuracy(found, other, wanted)
    assert accuracy(base, other, wanted) > 0.95
    assert before < 0.5 and after > 0.95, (before, after)

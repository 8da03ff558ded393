"""Files of Keras 2 (tf_keras): read, merged, converted, and loaded by tf_keras again."""

import os

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tf_keras
from tf_keras import layers as kl

import graftwork as gw
from graftwork.stores import open_store
from graftwork.tensor import Role
from graftwork.testing import read_raw

pytestmark = pytest.mark.keras


def plain():
    inputs = kl.Input((6,))
    x = kl.BatchNormalization()(kl.Dense(5, activation="relu")(inputs))
    return tf_keras.Model(inputs, kl.Dense(3)(kl.Dropout(0.5)(x)))


def sequential():
    return tf_keras.Sequential([kl.Input((6,)), kl.Dense(4, activation="relu"), kl.BatchNormalization(), kl.Dense(4)])


def nested():
    parts = [
        tf_keras.Sequential(
            [
                kl.Input((5,)),
                kl.Dense(5, activation="relu"),
                kl.BatchNormalization(),
                kl.Dense(5),
                kl.LayerNormalization(),
            ],
            name=name,
        )
        for name in ("encoder", "decoder")
    ]
    inputs = kl.Input((5,))
    return tf_keras.Model(inputs, kl.Dense(5)(parts[1](parts[0](inputs))))


def recurrent():
    inputs = kl.Input((5, 4))
    x = kl.Bidirectional(kl.LSTM(2, return_sequences=True))(inputs)
    x = kl.MultiHeadAttention(2, 2)(x, x)
    x = kl.LayerNormalization()(kl.TimeDistributed(kl.Dense(4))(x))
    return tf_keras.Model(inputs, kl.RNN([kl.GRUCell(4), kl.LSTMCell(4)])(x))


def convolutional():
    inputs = kl.Input((8, 8, 4))
    x = kl.DepthwiseConv2D(3)(kl.Conv2D(4, 3, padding="same", activation="relu")(inputs))
    x = kl.PReLU()(kl.BatchNormalization()(kl.SeparableConv2D(4, 2)(x)))
    return tf_keras.Model(inputs, kl.Dense(4)(kl.GlobalAveragePooling2D()(x)))


ZOO = {build.__name__: build for build in (plain, sequential, nested, recurrent, convolutional)}


def randomize(model, seed):
    rng = np.random.default_rng(seed)
    model.set_weights([np.abs(rng.normal(size=w.shape)).astype("float32") * 0.4 + 0.1 for w in model.get_weights()])
    return model


def values(path):
    """Return what a file holds of the model: name → shape, bytes."""
    with open_store(path) as reader:
        return {
            name: (spec.shape, read_raw(reader, name).tobytes())
            for name, spec in reader.specs().items()
            if spec.role is not Role.OPTIMIZER
        }


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    found = {}
    for name, build in ZOO.items():
        found[name] = [randomize(build(), seed) for seed in range(2)]
        for k, model in enumerate(found[name]):
            model.compile("adam", "mse")
            model.save(folder / f"{name}{k}.h5")
            model.save(folder / f"{name}{k}.keras")
    return folder, found


@pytest.mark.parametrize("name", ZOO)
def test_both_formats_of_keras_2_are_read_alike(zoo, name):
    """Nested weights lack the outer name in one of them, and layer names are missing in the other."""
    folder, models = zoo
    found = values(folder / f"{name}0.h5")
    assert found == values(folder / f"{name}0.keras")
    assert sorted(data for _, data in found.values()) == sorted(w.tobytes() for w in models[name][0].get_weights())


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("ending", ["h5", "keras"])
@pytest.mark.parametrize("optimizer", ["drop", "first"])
def test_a_merge_of_keras_2_files_loads_in_keras_2(zoo, tmp_path, name, ending, optimizer):
    """Names are automatic and differ; every variable is the average of the two that it should be."""
    folder, models = zoo
    out = tmp_path / f"out.{ending}"
    gw.merge([folder / f"{name}0.{ending}", folder / f"{name}1.{ending}"], output=out, optimizer=optimizer)
    loaded = tf_keras.models.load_model(out)
    pairs = zip(models[name][0].get_weights(), models[name][1].get_weights(), strict=True)
    for found, (a, b) in zip(loaded.get_weights(), pairs, strict=True):
        np.testing.assert_allclose(found, (a + b) / 2, rtol=1e-6)


def test_the_two_formats_merge_with_each_other(zoo, tmp_path):
    """One model in both is that model."""
    folder, models = zoo
    for name, (model, _) in models.items():
        out = gw.merge([folder / f"{name}0.h5", folder / f"{name}0.keras"], output=tmp_path / f"{name}.h5")
        for found, wanted in zip(tf_keras.models.load_model(out).get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_flat_file_of_keras_2_is_loaded_by_keras_3_after_a_merge(zoo, tmp_path):
    """As Keras 3 loads the original."""
    folder, models = zoo
    out = gw.merge([folder / "sequential0.h5"] * 2, output=tmp_path / "out.h5")
    loaded = keras.models.load_model(out, compile=False)
    for found, wanted in zip(loaded.get_weights(), models["sequential"][0].get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_keras_2_does_not_become_a_keras_3_file_that_does_not_load(zoo, tmp_path):
    """Refused, with the way out."""
    folder, _ = zoo
    with pytest.raises(gw.OutputError, match=r"Keras 2.*like"):
        gw.convert(folder / "plain0.h5", tmp_path / "out.keras")
    assert not (tmp_path / "out.keras").exists()


def test_weights_of_keras_2_go_into_a_model_rebuilt_in_keras_3(zoo, tmp_path):
    """`like` lends the architecture of Keras 3; names agree because they are given alike."""
    folder, models = zoo
    names = [layer.name for layer in models["plain"][0].layers]
    inputs = keras.Input((6,), name=names[0])
    x = keras.layers.Dense(5, activation="relu", name=names[1])(inputs)
    x = keras.layers.Dropout(0.5, name=names[3])(keras.layers.BatchNormalization(name=names[2])(x))
    rebuilt = keras.Model(inputs, keras.layers.Dense(3, name=names[4])(x))
    rebuilt.save(tmp_path / "like.keras")
    gw.convert(folder / "plain0.h5", tmp_path / "out.keras", like=tmp_path / "like.keras")
    loaded = keras.saving.load_model(tmp_path / "out.keras")
    for found, wanted in zip(loaded.get_weights(), models["plain"][0].get_weights(), strict=True):
        np.testing.assert_array_equal(found, wanted)

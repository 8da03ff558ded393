"""How deep a tensor lies: by the model's own order of layers, by the numbers in names, or not known."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import graftwork as gw
from graftwork.architecture.depth import block_number, depths_and_classes


def depths(names):
    return dict(depths_and_classes(names, None)[0])


def test_numbers_in_names_count_from_0_to_1():
    """Three layers: 0, a half, 1; embeddings come before them, norms and heads after."""
    found = depths(
        [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.1.mlp.up_proj.weight",
            "model.layers.2.self_attn.q_proj.weight",
            "model.norm.weight",
        ]
    )
    assert found == {
        "lm_head.weight": 1.0,
        "model.embed_tokens.weight": 0.0,
        "model.layers.0.mlp.up_proj.weight": 0.0,
        "model.layers.1.mlp.up_proj.weight": 0.5,
        "model.layers.2.self_attn.q_proj.weight": 1.0,
        "model.norm.weight": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("transformer.h.11.attn.c_attn.weight", 11),
        ("bert.encoder.layer.3.output.dense.bias", 3),
        ("encoder/block_2/conv/kernel", 2),
        ("vision.resblocks.7.ln.weight", 7),
        ("dense_3/kernel", None),
        ("player.3.weight", None),
        ("model.layers.x.weight", None),
    ],
)
def test_which_numbers_are_those_of_blocks(name, number):
    """A number behind `dense_` is no depth: Keras counts classes there."""
    assert block_number(name) == number


def test_no_number_no_depth():
    """Nothing is guessed from an order of names."""
    assert depths(["a.weight", "b.weight"]) == {}


def test_a_keras_model_is_as_deep_as_its_layers_say(tmp_path):
    """A gradient over a Sequential of three Dense layers: 0, a half, 1, whatever the layers are called."""
    import keras

    models = []
    for k in range(2):
        model = keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(4, name="z_first"),
                keras.layers.Dense(4, name="m_second"),
                keras.layers.Dense(2, name="a_third"),
            ]
        )
        model.set_weights([np.full(w.shape, float(k), np.float32) for w in model.get_weights()])
        model.save(tmp_path / f"{k}.keras")
        models.append(tmp_path / f"{k}.keras")

    out = gw.merge(models, method="slerp", t={"gradient": [0, 1]}, output=tmp_path / "out.keras")
    rows = {row["name"]: row for row in gw.plan_merge(models, method="slerp", t={"gradient": [0, 1]}).tensors}

    merged = keras.saving.load_model(out, compile=False)
    means = {layer.name: float(np.mean(layer.kernel)) for layer in merged.layers}
    # the first model is all zeros, so slerp falls back to (1 - t) a + t b
    assert means == {"z_first": 0.0, "m_second": 0.5, "a_third": 1.0}
    assert {name: (row["depth"], row["layer"], row["options"]["t"]) for name, row in rows.items()} == {
        f"{layer}/{variable}": (depth, "Dense", depth)
        for layer, depth in (("z_first", 0.0), ("m_second", 0.5), ("a_third", 1.0))
        for variable in ("kernel", "bias")
    }


def test_a_gradient_over_unknown_depth_is_refused(tmp_path):
    """With the tensor's name and what to do."""
    for k in range(2):
        save_file({"a.weight": np.ones(3, np.float32)}, tmp_path / f"{k}.safetensors")
    files = [tmp_path / f"{k}.safetensors" for k in range(2)]

    with pytest.raises(gw.GraftworkError, match=r"gradient.*'a\.weight'.*not known.*filter"):
        gw.plan_merge(files, method="slerp", t={"gradient": [0, 1]})


def test_weights_by_class_of_layer_and_role(tmp_path):
    """Only Dense kernels move; BatchNorm statistics follow their own entry."""
    rng = np.random.default_rng(0)
    files = []
    for k in range(2):
        path = tmp_path / f"{k}.keras"
        arrays = saved_model(path, rng)
        files.append((path, arrays))
    weight = [
        {"layer": "Dense", "value": [1.0, 0.0]},
        {"role": "statistic", "value": [0.5, 0.5]},
        {"value": [0.0, 1.0]},
    ]

    out = gw.merge([path for path, _ in files], weight=weight, output=tmp_path / "out.keras")

    import keras

    merged = by_name(keras.saving.load_model(out, compile=False))
    first, second = (arrays for _, arrays in files)
    np.testing.assert_array_equal(merged["head/kernel"], first["head/kernel"])
    np.testing.assert_array_equal(merged["bn/gamma"], second["bn/gamma"])
    np.testing.assert_allclose(merged["bn/moving_mean"], (first["bn/moving_mean"] + second["bn/moving_mean"]) / 2, 1e-6)


def saved_model(path, rng):
    """Save a Dense behind a BatchNormalization with random values; return them by path."""
    import keras

    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.BatchNormalization(name="bn"), keras.layers.Dense(2, name="head")]
    )
    model.set_weights([rng.random(w.shape).astype(np.float32) for w in model.get_weights()])
    model.save(path)
    return by_name(model)


def by_name(model):
    return {f"{layer.name}/{v.name}": v.numpy() for layer in model.layers for v in layer.variables}

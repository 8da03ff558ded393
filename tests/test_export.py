"""Exports: run where they will run, compared with the model, complete or not at all."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from graftwork.errors import OptionError, OutputError, StoreError, UnknownNameError
from graftwork.models import alone
from graftwork.models.examples import inputs_for
from graftwork.models.export import export
from graftwork.models.runtimes import RUNTIMES

pytestmark = pytest.mark.keras

F32 = np.float32


@pytest.fixture(scope="module")
def keras():
    """Keras, imported by the first test that needs it."""
    import keras

    return keras


@pytest.fixture(params=["saved_model", "litert", "onnx"])
def format(request):
    """A format whose packages are installed."""
    for package in RUNTIMES[request.param].packages["tensorflow"]:
        pytest.importorskip(package)
    return request.param


def place(folder: Path, format: str) -> Path:
    """Return where an export of a format may be made."""
    return folder / f"out{RUNTIMES[format].suffix}"


def linear(keras, *, nested: bool = False):
    """Return a model that takes ``left`` and ``right``, alike but in name, and gives ``twice`` the left and ``thrice`` the right."""
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    outputs = {}
    for name, x, factor in [("twice", left, 2), ("thrice", right, 3)]:
        layer = keras.layers.Dense(
            2, name=f"{name}_by", use_bias=False, kernel_initializer=keras.initializers.Constant(factor)
        )
        if nested:
            inner = keras.Input((2,))
            layer = keras.Model(inner, layer(inner), name=f"{name}_inside")
        outputs[name] = layer(x)
    return keras.Model({"right": right, "left": left}, outputs, name="linear")


def run(path: Path, format: str, inputs):
    """Run an export by the names it has, with nothing of graftwork; return its outputs by name."""
    if format == "saved_model":
        import tensorflow as tf

        loaded = tf.saved_model.load(str(path))
        found = loaded.signatures["serving_default"](**{k: tf.constant(v) for k, v in inputs.items()})
        return {k: v.numpy() for k, v in found.items()}
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))
    import tensorflow as tf

    return tf.lite.Interpreter(model_path=str(path)).get_signature_runner()(**inputs)


@pytest.mark.parametrize("nested", [False, True])
def test_inputs_and_outputs_keep_their_names(keras, format, nested: bool, tmp_path: Path):
    """Two inputs and two outputs of one shape each: what stands under a name is what the model calls so."""
    model = linear(keras, nested=nested)
    before = [w.copy() for w in model.get_weights()], [layer.name for layer in model.layers]
    found = export(model, target := place(tmp_path, format), format)
    assert list(found.inputs.items()) == [("left", "(None, 2) float32"), ("right", "(None, 2) float32")]
    assert set(found.outputs) == {"thrice", "twice"}
    x, y = np.array([[1.0, 2.0]], F32), np.array([[10.0, 20.0]], F32)
    outputs = run(target, format, {"left": x, "right": y})
    np.testing.assert_array_equal(outputs["twice"], [[6, 6]])
    np.testing.assert_array_equal(outputs["thrice"], [[90, 90]])
    assert found.path == target and "exactly" in str(found) and "'left' (None, 2) float32" in str(found)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    np.testing.assert_array_equal(model.get_weights(), before[0])
    assert [layer.name for layer in model.layers] == before[1]


def test_an_export_that_gives_something_else_is_refused(keras, format, tmp_path: Path, monkeypatch):
    """One weight a little off: nothing is left, and what was there before stays."""
    model, other = linear(keras), linear(keras)
    target = place(tmp_path, format)
    export(model, target, format)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    other.get_layer("thrice_by").set_weights([np.array([[3, 3], [3, 3.01]])])
    alone.predict(other, inputs_for(other))  # Keras refuses to export what was never called
    right = keras.Model.export
    monkeypatch.setattr(keras.Model, "export", lambda _, *arguments, **options: right(other, *arguments, **options))
    with pytest.raises(
        StoreError, match=r"model 'linear', exported as .* output 'thrice': 2 of 4 entries differ"
    ) as error:
        export(model, target, format, overwrite=True)
    assert str(target) in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files


def test_an_earlier_export_is_replaced_when_asked(keras, format, tmp_path: Path):
    """And only then; what is no export is never replaced, and no source is written over."""
    linear(keras).save(source := tmp_path / "linear.keras")
    held = source.read_bytes()
    target = place(tmp_path, format)
    export(source, target, format)
    with pytest.raises(OutputError, match="exists"):
        export(source, target, format)
    doubled = linear(keras)
    doubled.set_weights([2 * w for w in doubled.get_weights()])
    export(doubled, target, format, overwrite=True)
    outputs = run(target, format, {"left": np.ones((1, 2), F32), "right": np.ones((1, 2), F32)})
    np.testing.assert_array_equal(outputs["twice"], [[8, 8]])
    (mine := tmp_path / f"mine{RUNTIMES[format].suffix}").mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="does not replace it"):
        export(source, mine, format, overwrite=True)
    assert source.read_bytes() == held
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([target.name, mine.name, source.name])


def everyday(keras, *, string: bool):
    """Return a model with an embedding, an LSTM, a convolution, BatchNormalization and, if asked for, text."""
    layers = keras.layers
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    image = keras.Input((None, None, 3), dtype="uint8", name="image")
    seen = layers.Conv2D(4, 3, strides=2)(layers.Rescaling(1 / 255)(image))
    seen = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(seen))
    parts = [layers.LSTM(5)(layers.Embedding(11, 6)(tokens)), seen]
    inputs = [tokens, image]
    if string:
        inputs.append(text := keras.Input((1,), dtype="string", name="text"))
        parts.append(layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(text))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(parts)), name="everyday")


def test_recurrence_free_sizes_and_text(keras, format, tmp_path: Path):
    """LiteRT wants sizes fixed for an LSTM, and says so; ONNX has no tables, and is not written."""
    found = export(everyday(keras, string=False), place(tmp_path, format), format)
    assert list(found.inputs) == ["tokens", "image"]
    if format == "litert":
        assert found.inputs["tokens"] == "(1, 7) int32" and found.inputs["image"] == "(1, 64, 64, 3) uint8"
        (note,) = found.notes
        assert "TensorListReserve" in note and "takes exactly 'tokens' (1, 7) int32" in note
    else:
        assert found.inputs["tokens"] == "(None, None) int32" and not found.notes
    model = everyday(keras, string=True)
    target = place(tmp_path, format).with_stem("text")
    if format == "onnx":
        with pytest.raises(
            StoreError, match=r"cannot be run as ONNX: ONNX has no operation LookupTableFindV2 \(.*string_lookup"
        ):
            export(model, target, format)
        assert not target.exists()
    else:
        assert list(export(model, target, format).inputs)[2] == "text"


def test_values_that_the_converter_makes_inputs_of(keras, format, tmp_path: Path):
    """A Normalization layer holds its mean outside its weights; where it is not carried over, nothing is written."""
    x = keras.Input((2,), name="x")
    scaled = keras.layers.Normalization(mean=[1.0, 2.0], variance=[4.0, 9.0], name="scaled")(x)
    model = keras.Model(x, keras.layers.Dense(2)(scaled))
    if format == "onnx":
        with pytest.raises(
            StoreError, match=r"asks for '.*scaled.*' as well, values that a layer holds .* KERAS_BACKEND=jax"
        ):
            export(model, place(tmp_path, format), format)
        assert not list(tmp_path.iterdir())
    else:
        assert list(export(model, place(tmp_path, format), format).inputs) == ["x"]


def test_layers_of_augmentation_do_nothing_in_an_export(keras, format, tmp_path: Path):
    """Keras exports models as they are where nobody says that nothing is trained, and such layers then go on moving images about."""
    image = keras.Input((8, 8, 1), name="image")
    sized = keras.layers.Resizing(4, 4, name="sized")(image)
    moved = keras.layers.RandomTranslation(0.9, 0.9, fill_mode="constant", name="moved")(sized)
    model = keras.Model({"image": image}, keras.layers.Dense(2)(keras.layers.Flatten()(moved)), name="seen")
    found = export(model, place(tmp_path, format), format)
    assert (list(found.inputs), found.notes) == (["image"], ("layers of augmentation ('moved') do nothing there",))


def test_half_precision(keras, tmp_path: Path):
    """Allowed to differ more; LiteRT has no such products and the message says what is the matter."""
    x = keras.Input((4,), name="x")
    hidden = keras.layers.Dense(8, dtype="mixed_float16")(x)
    model = keras.Model(x, keras.layers.Dense(2, dtype="float32")(hidden), name="half")
    assert export(model, tmp_path / "half", "saved_model").tolerance == 1e-2
    with pytest.raises(StoreError, match="LiteRT has no operation MatMul; it computes in half precision"):
        export(model, tmp_path / "half.tflite", "litert")
    assert [p.name for p in tmp_path.iterdir()] == ["half"]


def test_outputs_that_no_signature_can_have(keras, tmp_path: Path):
    """A dictionary in a list."""
    x = keras.Input((4,))
    model = keras.Model(x, [keras.layers.Dense(2)(x), {"inner": keras.layers.Dense(2)(x)}], name="deep")
    with pytest.raises(StoreError, match="model 'deep' cannot be exported as a SavedModel: its outputs are nested"):
        export(model, tmp_path / "deep", "saved_model")
    assert not list(tmp_path.iterdir())


def test_a_fixed_batch_and_inputs_of_the_users(keras, tmp_path: Path):
    """The batch that the model has; given inputs are what is compared; a subclassed model needs them."""
    x = keras.Input(batch_shape=(3, 4), name="x")
    model = keras.Model(x, keras.layers.Dense(2)(x), name="three")
    assert export(model, tmp_path / "a", "saved_model").difference.absolute == 0

    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    own = Own()
    given = np.ones((2, 4), F32)
    own(given)
    with pytest.raises(OptionError, match="'own' does not say what it takes"):
        export(own, tmp_path / "b", "saved_model")
    (name,) = export(own, tmp_path / "b", "saved_model", inputs=given).inputs
    np.testing.assert_array_equal(
        run(tmp_path / "b", "saved_model", {name: given})["output_0"], alone.predict(own, given)
    )
    with pytest.raises(StoreError, match=r"the output of model 'own' is NaN everywhere, which says nothing"):
        export(own, tmp_path / "c", "saved_model", inputs=given * F32(np.nan))


def test_what_is_refused_before_anything_is_loaded(tmp_path: Path, monkeypatch):
    """The source does not even have to exist."""
    source = tmp_path / "none.keras"
    with pytest.raises(UnknownNameError, match="did you mean 'saved_model'"):
        export(source, tmp_path / "x", "savedmodel")  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=r"must end in \.tflite, as LiteRT files do"):
        export(source, tmp_path / "x.lite", "litert")
    with pytest.raises(OutputError, match="does not exist"):
        export(source, tmp_path / "no" / "x.onnx", "onnx")
    row = RUNTIMES["onnx"]
    monkeypatch.setitem(RUNTIMES, "onnx", dataclasses.replace(row, packages={"tensorflow": ("json", "no_such_thing")}))
    with pytest.raises(OutputError, match=r"install no_such_thing \(pip install no_such_thing\)"):
        export(source, tmp_path / "x.onnx", "onnx")
    monkeypatch.setitem(RUNTIMES, "onnx", dataclasses.replace(row, packages={"jax": ()}))
    with pytest.raises(OutputError, match=r"does not export as ONNX with the tensorflow backend; .* KERAS_BACKEND=jax"):
        export(source, tmp_path / "x.onnx", "onnx")
    with pytest.raises(StoreError, match="there is no file or directory"):
        export(source, tmp_path / "x", "saved_model")
    assert not list(tmp_path.iterdir())


def test_examples_are_what_is_compared(keras, tmp_path: Path):
    """Inputs of the wrong structure are an error of ours."""
    model = linear(keras)
    assert list(inputs_for(model)) == ["right", "left"]
    with pytest.raises(StoreError, match="model 'linear' cannot predict on these inputs"):
        export(model, tmp_path / "x", "saved_model", inputs=[np.ones((1, 9), F32)])
    assert not list(tmp_path.iterdir())

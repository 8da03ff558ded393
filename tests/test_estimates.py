"""What data tells of a model: Fisher information and Gram matrices, against plain loops, and all the way through the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import graftwork as gw
from graftwork.data import open_data
from graftwork.data.arrays import Arrays
from graftwork.errors import DataError, MismatchError, NonFiniteError, OptionError, OutputError, RecipeError, StoreError
from graftwork.stores import open_store
from graftwork.training.gram import grams_of, patches

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
layers = keras.layers
array = keras.ops.convert_to_numpy


def cnn(last="softmax", units=4, seed=0):
    """A small image model with a BatchNorm, whose weights are random."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.Conv2D(5, 2, strides=2, padding="same", activation="tanh", name="body")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(units, activation=last, name="head")(x), name="cnn")


@pytest.fixture(scope="module")
def images():
    """Seven images and labels."""
    rng = np.random.default_rng(0)
    return rng.standard_normal((7, 8, 8, 3)).astype(np.float32), rng.integers(0, 4, 7)


def scores(model, image, kind, label):
    """Scalars of one image whose squared gradients are weighted and added up, with their weights."""
    output = tf.cast(model(image[None], training=False)[0], tf.float64)
    if kind in ("softmax", "logits"):
        p = tf.nn.softmax(output) if kind == "logits" else output
        which = range(len(p)) if label is None else [label]
        return [(tf.math.log(p[k]), float(p[k]) if label is None else 1.0) for k in which]
    if kind == "sigmoid":
        return [(tf.math.log(q), float(q)) for k in range(len(output)) for q in (output[k], 1 - output[k])]
    return [(output[k], 1.0) for k in range(len(output))]


@pytest.mark.parametrize(
    ("last", "outputs", "labels", "kind"),
    [
        ("softmax", "auto", "model", "softmax"),
        ("softmax", "auto", "data", "softmax"),
        (None, "logits", "model", "logits"),
        ("sigmoid", "auto", "model", "sigmoid"),
        (None, "regression", "model", "regression"),
    ],
)
def test_fisher_is_the_mean_of_squared_gradients_of_each_sample(images, last, outputs, labels, kind):
    """As a plain loop over samples and labels has it, whatever the batch."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the loop is TensorFlow's")
    x, y = images
    model = cnn(last)
    variables = {f"{v.path}": v.value for v in model.trainable_variables}
    expected = {name: np.zeros(value.shape) for name, value in variables.items()}
    for image, label in zip(x, y, strict=True):
        with tf.GradientTape(persistent=True) as tape:
            found = scores(model, image, kind, label if labels == "data" else None)
        for scalar, weight in found:
            for name, gradient in zip(variables, tape.gradient(scalar, list(variables.values())), strict=True):
                expected[name] += weight * gradient.numpy().astype(np.float64) ** 2 / len(x)

    fisher = gw.fisher(model, (x, y), labels=labels, outputs=outputs, batch=3)

    assert set(fisher) == set(expected)
    for name, array in fisher.items():
        # float32 gradients through three layers
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-6 * expected[name].max(), err_msg=name)


@pytest.mark.parametrize("last", ["softmax", "sigmoid", None])
def test_fisher_of_a_linear_model_is_its_formula(last):
    """It is p (1 - p) x² for what a softmax or a sigmoid makes of x W + b, x² for a regression; weighted as the samples are."""
    rng = np.random.default_rng(1)
    x, weights = rng.standard_normal((6, 3)).astype(np.float32), np.array([1, 2, 0, 1, 1, 3], np.float32)
    kernel, bias = rng.standard_normal((3, 4)), rng.standard_normal(4)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation=last, name="head")])
    model.set_weights([kernel, bias])

    found = gw.fisher(model, (x, np.zeros(6, np.int64), weights), outputs="auto" if last else "regression", batch=4)

    scores = x @ kernel + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    p = powers / powers.sum(axis=1, keepdims=True) if last == "softmax" else 1 / (1 + np.exp(-scores))
    spread = (p * (1 - p) if last else np.ones_like(p)) * weights[:, None] / weights.sum()
    # float32 gradients
    np.testing.assert_allclose(found["head/bias"], spread.sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found["head/kernel"], np.square(x).T @ spread, rtol=1e-4)


def test_sampled_labels_follow_the_seed_and_come_near_the_expectation(images):
    """Same seed, same numbers; over many samples, the exact Fisher information."""
    x, _ = images
    model = cnn()
    many = np.concatenate([x] * 100)

    sampled = gw.fisher(model, many, labels="sampled", seed=1)

    again = gw.fisher(model, many, labels="sampled", seed=1)
    other = gw.fisher(model, many, labels="sampled", seed=2)
    exact = gw.fisher(model, x)
    assert all(np.array_equal(sampled[name], again[name]) for name in exact)
    assert any(not np.array_equal(sampled[name], other[name]) for name in exact)
    totals = [sum(float(a.sum()) for a in found.values()) for found in (sampled, exact)]
    np.testing.assert_allclose(*totals, rtol=0.2)  # 700 draws, whose squares vary by about their mean


def test_an_output_that_stands_in_a_dictionary_is_that_output(images):
    """Keras gives what a model was made with; the estimate is the same."""
    plain = cnn()
    named = keras.Model(plain.inputs, {"class": plain.outputs[0]}, name="cnn")
    expected, found = gw.fisher(plain, images[0]), gw.fisher(named, images[0])
    assert {**expected}.keys() == {**found}.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_last_activations_that_may_mean_two_things_are_asked_for(images):
    """No guess at what linear outputs are."""
    with pytest.raises(OptionError, match=r"logits or regression"):
        gw.fisher(cnn(None), images)


def test_labels_that_do_not_fit_are_refused(images):
    """Classes that the model does not have, and labels that are not there."""
    x, y = images
    for data, error, message in (
        ((x, np.full(7, 4)), DataError, "sample 0 of the data is 4, and output 'head' has 4 classes.* from 0 to 3"),
        (x, MismatchError, "no labels"),
        ((x, x), MismatchError, "labels of the data .* have the shape"),
        ((x, np.array(list("abcdabc"))), DataError, "are texts"),
        ((x, np.zeros(6)), DataError, "rows"),
        (lambda: iter([(x, y), (x, y + 4)]), DataError, "label of sample 7 of"),
        (lambda: iter([(x, y), (x,)]), MismatchError, "batch 1 of .* has no labels"),
    ):
        with pytest.raises(error, match=message):
            gw.fisher(cnn(), data, labels="data")


def test_data_that_does_not_go_into_the_model_is_refused(images):
    """Ports, shapes and kinds of numbers, of columns and of every batch."""
    x, y = images
    for data, error, message in (
        (x[:, 1:], MismatchError, r"input 'image' takes float32 \(8, 8, 3\) and x of the data is float32 \(7, 8, 3\)"),
        ({"x.image": x, "x.more": x}, MismatchError, "the model has no input 'more'"),
        (lambda: iter([(x, y), (x[:, 1:], y)]), DataError, "batch 1 of .* is float32"),
        (lambda: iter([]), DataError, "yields no batches"),
        ((x, y, np.zeros(7)), DataError, "weights of all samples"),
        ((x, y, -np.ones(7)), DataError, "below 0"),
        ((x, y, np.ones((7, 2))), DataError, "expected one number"),
        (np.full_like(x, "nan"), DataError, "input 'image' of sample 0 of the data is nan"),
    ):
        for verb in (gw.fisher, gw.gram):
            with pytest.raises(error, match=message):
                verb(cnn(), data)


def test_infinity_from_the_model_is_refused(images):
    """Rather than written."""
    model = cnn(None)
    model.get_layer("stem").kernel.assign(model.get_layer("stem").kernel.value * 1e30)
    for verb, options in ((gw.fisher, {"outputs": "regression"}), (gw.gram, {})):
        with pytest.raises(NonFiniteError, match="not finite"):
            verb(model, images[0] * 1e30, **options)


def same(found, expected):
    """The numbers of two estimates agree to the last bits of float32; sums run over other pieces."""
    assert set(found) == set(expected)
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=2e-5, atol=1e-6 * np.abs(expected[name]).max())


@pytest.mark.parametrize("verb", [gw.fisher, gw.gram])
def test_streams_are_shown_as_arrays_are(images, verb):
    """In one pass, cut where a batch has more samples than are dealt with at a time; `samples` are the first."""
    x, y = images
    passes = []

    def batches():
        passes.append(1)
        yield x[:5], y[:5]
        yield x[5:], y[5:]

    same(verb(cnn(), batches, batch=2), verb(cnn(), x, batch=2))
    assert len(passes) == 1
    for data in (batches, (x, y), tf.data.Dataset.from_tensor_slices((x, y)).batch(4)):
        same(verb(cnn(), data, samples=6), verb(cnn(), x[:6]))
    if verb is gw.fisher:
        same(verb(cnn(), batches, labels="data", batch=3), verb(cnn(), (x, y), labels="data"))


@pytest.mark.parametrize("verb", [gw.fisher, gw.gram])
def test_a_sample_of_weight_two_is_there_twice(images, verb):
    """Weights count samples, from arrays and from streams; one of weight 0 is not there."""
    x, y = images
    weights = np.array([2, 0, 1, 1, 2, 0.0, 3])
    times = np.repeat(np.arange(7), weights.astype(int))

    expected = verb(cnn(), (x[times], y[times]))

    same(verb(cnn(), (x, y, weights), batch=3), expected)
    same(verb(cnn(), lambda: iter([(x[:4], y[:4], weights[:4]), (x[4:], y[4:], weights[4:])])), expected)


@pytest.mark.parametrize("weights", [None, [1, 2, 1, 0, 1, 1, 1]])
@pytest.mark.parametrize("count", [7, 6, 4, 3])
def test_grams_of_a_model_of_one_batch_size_are_those_of_one_of_any(images, count, weights):
    """Samples that fill up a batch count nothing, whatever their number has in common with the size."""

    def model(size):
        x = given = keras.Input(batch_shape=(size, 8))
        x = layers.Dense(6, activation="tanh", kernel_initializer=keras.initializers.GlorotNormal(0), name="first")(x)
        x = keras.ops.reshape(x, (size or -1, 2, 3))  # a batch that is spelled out takes no other
        return keras.Model(given, layers.Dense(2, kernel_initializer="ones", name="second")(x))

    data = (images[0][:count, 0, :, 0], None, None if weights is None else np.array(weights[:count], np.float32))

    found, expected = gw.gram(model(4), data, batch=5), gw.gram(model(None), data)

    assert set(found) == {"first/kernel", "second/kernel"}
    for name, gram in found.items():
        np.testing.assert_allclose(gram, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("verb", ["fisher", "gram"])
def test_any_data_is_shown(tmp_path, verb, commands):
    """Tables, directories of images, examples: what the same arrays give. Command, step and function make the same file of a part."""
    from PIL import Image

    rng = np.random.default_rng(4)
    keras.utils.set_random_seed(5)
    given = [keras.Input((2,), name="body"), keras.Input((1,), name="age")]
    joined = layers.Dense(3, activation="tanh", name="first")(layers.Concatenate()(given))
    table = keras.Model(given, layers.Dense(2, activation="softmax", name="last")(joined), name="table")
    numbers, labels = rng.integers(0, 100, (9, 3)), rng.integers(0, 2, 9)
    rows = [",".join(map(str, [*row, label])) for row, label in zip(numbers, labels, strict=True)]
    (tmp_path / "people.csv").write_text("\n".join(["age,height,weight,smokes", *rows]), "utf-8")
    pixels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "pictures" / "cd"[number // 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    with tf.io.TFRecordWriter(str(tmp_path / "p.tfrecord")) as writer:
        for image in pixels:
            raw = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()]))
            writer.write(tf.train.Example(features=tf.train.Features(feature={"raw": raw})).SerializeToString())
    examples = {
        "tfrecord": str(tmp_path / "p.tfrecord"),
        "features": {"raw": {"shape": [8, 8, 3], "decode": "raw:uint8"}},
        "scale": 1 / 255,
        "x": "raw",
    }
    estimate = getattr(gw, verb)
    body, age = numbers[:, 1:].astype("float32"), numbers[:, :1].astype("float32")
    columns = {"x": {"body": ["height", "weight"], "age": "age"}, "y": "smokes"}

    same(estimate(table, tmp_path / "people.csv", **columns), estimate(table, [body, age]))
    same(
        estimate(cnn(), {"images": str(tmp_path / "pictures"), "scale": 1 / 255}),
        estimate(cnn(), pixels / np.float32(255)),
    )
    same(estimate(cnn(), examples), estimate(cnn(), pixels / np.float32(255)))

    table.save(tmp_path / "table.keras")
    half = {"csv": "people.csv", "part": [0.5, 1.0], **columns}
    (tmp_path / "half.yaml").write_text(json.dumps(half), "utf-8")
    words = [verb, "table.keras", "--data", "half.yaml", "-o", "told.safetensors", "--samples", "3"]
    told = commands.graftwork(words, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    recipe = {
        "models": {"table": str(tmp_path / "table.keras")},
        "data": {"half": {**half, "csv": str(tmp_path / "people.csv")}},
        "steps": {"told": {verb: {"model": "table", "data": "half", "samples": 3}}},
        "outputs": {"told": str(tmp_path / "step.safetensors")},
    }
    gw.run(recipe)
    made = estimate(tmp_path / "table.keras", tmp_path / "half.yaml", samples=3, output=tmp_path / "made.safetensors")
    files = {}
    for path in (tmp_path / "told.safetensors", tmp_path / "step.safetensors", made):
        with open_store(path) as reader:
            files[path.name] = {}
            for name, spec in reader.specs().items():
                files[path.name][name] = np.empty(spec.shape, np.float32)
                reader.read_into(name, 0, files[path.name][name].reshape(-1))
            record = reader.header.provenance[verb]
            assert record["samples"] == 3
            assert record["data"] == (recipe["data"]["half"] if path.name == "step.safetensors" else "half.yaml")
    first, *others = files.values()
    for other in others:
        assert set(other) == set(first)
        for name, array in other.items():
            np.testing.assert_array_equal(array, first[name])


def test_data_is_not_held_in_memory(tmp_path, monkeypatch):
    """An archive is mapped, and read a batch at a time."""
    np.savez(tmp_path / "many.npz", x=np.zeros((100, 8, 8, 3), np.float32))
    asked = []
    take = Arrays.take
    monkeypatch.setattr(Arrays, "take", lambda self, name, rows: asked.append(len(rows)) or take(self, name, rows))

    gw.gram(cnn(), tmp_path / "many.npz", batch=7)

    assert max(asked) == 7 and sum(asked) >= 100


CONVOLUTIONS = [
    (layers.Conv2D, (3, 9, 10, 3), (3, 2), {"strides": 2, "padding": "same"}),
    (layers.Conv2D, (3, 9, 10, 3), (3, 2), {"dilation_rate": 2, "padding": "same"}),
    (layers.Conv2D, (3, 9, 10, 3), (3, 2), {"strides": (1, 3)}),
    (layers.Conv1D, (3, 11, 2), (3,), {"padding": "causal", "dilation_rate": 2}),
    (layers.Conv1D, (3, 11, 2), (4,), {"padding": "same", "strides": 3}),
    (layers.Conv3D, (2, 5, 6, 7, 2), (2, 3, 2), {"padding": "same", "strides": 2}),
]


@pytest.mark.parametrize(("cls", "shape", "size", "options"), CONVOLUTIONS, ids=str)
@pytest.mark.parametrize("elements", [1, 1 << 23])
def test_a_convolution_is_its_kernel_times_its_patches(monkeypatch, elements, cls, shape, size, options):
    """In the order of the kernel's units, so that a Gram matrix of patches is one of the layer."""
    monkeypatch.setattr("graftwork.training.gram.PATCH_ELEMENTS", elements)
    layer = cls(5, size, **options)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = np.asarray(layer(x))

    rows = np.concatenate(list(patches(x, size, layer.strides, layer.dilation_rate, layer.padding)))

    kernel = np.moveaxis(np.asarray(layer.kernel.value), -1, 0).reshape(5, -1)
    np.testing.assert_allclose((rows @ kernel.T).reshape(expected.shape), expected, rtol=1e-5, atol=1e-5)


def test_shared_and_nested_layers_add_up_all_calls():
    """A layer that two places of the graph share has the inputs of both; layers that are no linear maps have none."""
    rng = np.random.default_rng(1)
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((6, 4)), layers.Dense(4, name="first")], name="inner")
    x = tokens = keras.Input((6, 4), name="tokens")
    x = shared(inner(shared(x)))
    x = layers.TimeDistributed(layers.Dense(3, name="each"), name="times")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.LSTM(3, name="lstm")(x)
    model = keras.Model(tokens, layers.Dense(2, name="head")(x))
    data = rng.standard_normal((10, 6, 4)).astype(np.float32)

    grams = gw.gram(model, data, batch=4)

    once = np.asarray(shared(data)).reshape(-1, 4)
    twice = np.asarray(inner.layers[0](shared(data))).reshape(-1, 4)
    known = np.concatenate([data.reshape(-1, 4), twice])
    np.testing.assert_allclose(grams["shared/kernel"], known.T @ known / len(known), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grams["inner/first/kernel"], once.T @ once / len(once), rtol=1e-5, atol=1e-5)
    shapes = {name: array.shape for name, array in grams.items() if "shared" not in name and "first" not in name}
    assert shapes == {
        "times/each/kernel": (4, 4),
        "attention/attention_output/kernel": (6, 6),
        "head/kernel": (3, 3),
    }


def test_layers_of_many_inputs_are_left_out_and_said(images, tmp_path):
    """Their matrix would take the memory of many models; regmean averages them."""
    notes: list[str] = []
    gw.gram(
        cnn(), images[0], output=tmp_path / "g.safetensors", max_inputs=20, on_result=lambda r: notes.extend(r.notes)
    )

    with open_store(tmp_path / "g.safetensors") as reader:
        assert set(reader.specs()) == {"body/kernel", "head/kernel"}
    assert any("'stem' has 27 inputs" in note for note in notes)
    assert any("regmean averages them: 'stem/kernel'" in note for note in notes)


class Compiled(layers.Layer):
    """Calls a dense layer in a compiled function, where nobody sees what with."""

    def __init__(self, **options):
        super().__init__(**options)
        self.inner = layers.Dense(2, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return tf.function(self.inner)(x)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the function is TensorFlow's")
def test_no_matrix_at_all_is_refused(images):
    """A result with nothing in it would be taken for one."""
    rows = keras.Input((8, 3))
    with pytest.raises(
        OptionError, match="no Gram matrix at all: layer 'inner' is called where its inputs cannot be seen"
    ):
        grams_of(keras.Model(rows, Compiled()(rows)), open_data(images[0][:, 0]))


# ----------------------------------------------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two small models trained on half of the classes each, their base, and their data."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((4, 8, 8, 3)) * 2
    labels = rng.integers(0, 4, 400)
    images = (centres[labels] + rng.standard_normal((400, 8, 8, 3))).astype(np.float32)
    base = cnn()
    base.save(folder / "base.keras")
    for name, classes in (("low", (0, 1)), ("high", (2, 3))):
        model = keras.saving.load_model(folder / "base.keras")
        mine = np.isin(labels, classes)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(images[mine], labels[mine], epochs=10, verbose=0)
        model.save(folder / f"{name}.keras")
        np.savez(folder / f"{name}.npz", x=images[mine], y=labels[mine])
    return folder


@pytest.mark.parametrize(("verb", "method", "option"), [("fisher", "fisher", "fisher"), ("gram", "regmean", "gram")])
def test_from_data_to_a_merged_model(trained, commands, verb, method, option):
    """Files of estimates are made, found by a merge, recorded by name, and count in the result; the source stays as it was."""
    before = (trained / "low.keras").read_bytes()
    for name in ("low", "high"):
        done = commands.graftwork(
            [verb, f"{name}.keras", "--data", f"{name}.npz", "-o", f"{name}.{verb}.safetensors"], cwd=trained
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == f"{name}.{verb}.safetensors\n"
    files = f"[low.{verb}.safetensors, high.{verb}.safetensors]"

    merge = ["merge", "low.keras", "high.keras", "-m", method, "--set", f"{option}={files}", "-o", f"{verb}.keras"]
    done = commands.graftwork(merge, cwd=trained)

    assert done.returncode == 0, done.stderr
    merged = keras.saving.load_model(trained / f"{verb}.keras")
    mean = gw.merge([trained / "low.keras", trained / "high.keras"])
    models = {name: keras.saving.load_model(trained / f"{name}.keras") for name in ("low", "high")}

    def strayed(model):
        """How far weights are from those of each model, as its data weighs that: what the method makes as small as it can be."""
        found = 0.0
        for name, own in models.items():
            theirs = {v.path: array(v) for v in own.weights}
            for path, known in load_file(trained / f"{name}.{verb}.safetensors").items():
                d = next(array(v) for v in model.weights if v.path == path) - theirs[path]
                rows = d.reshape(len(known), -1)
                found += (known * d**2).sum() if verb == "fisher" else np.einsum("ij,ik,kj->", rows, known, rows)
        return found

    assert strayed(merged) < 0.9 * strayed(mean)
    found = json.loads(commands.graftwork(["inspect", f"{verb}.keras", "--json"], cwd=trained).stdout)["provenance"]
    assert found["merge"][option] == [f"low.{verb}.safetensors", f"high.{verb}.safetensors"]
    assert [source["label"] for source in found["sources"]] == ["low", "high"]
    assert [source["label"] for source in found["companions"]] == [f"{option} of low", f"{option} of high"]
    assert (trained / "low.keras").read_bytes() == before
    again = trained / f"{verb}-again.keras"
    gw.merge(
        [trained / "low.keras", trained / "high.keras"],
        method=method,
        output=again,
        threads=1,
        **{option: [str(trained / f"{name}.{verb}.safetensors") for name in ("low", "high")]},
    )
    assert again.read_bytes() == (trained / f"{verb}.keras").read_bytes()


def test_a_merge_from_files_is_that_of_arrays(trained):
    """Kernels in Keras's layout, turned and with their Gram matrices, give what `merge_arrays` gives."""
    paths = [trained / "low.keras", trained / "high.keras"]
    grams, fishers = ([verb(path, path.with_suffix(".npz")) for path in paths] for verb in (gw.gram, gw.fisher))
    for path, gram, fisher in zip(paths, grams, fishers, strict=True):
        gw.gram(path, path.with_suffix(".npz"), output=path.with_suffix(".g.safetensors"), overwrite=True)
        gw.fisher(path, path.with_suffix(".npz"), output=path.with_suffix(".f.safetensors"), overwrite=True)
        assert set(gram) < set(fisher)
    models = [keras.saving.load_model(path) for path in paths]
    kernels = [array(model.get_layer("body").kernel) for model in models]
    for method, option, arrays in (("regmean", "gram", grams), ("fisher", "fisher", fishers)):
        files = [str(path.with_suffix(f".{option[0]}.safetensors")) for path in paths]
        merged = gw.merge(paths, method=method, **{option: files})

        expected = gw.merge_arrays(method, kernels, companions=[found["body/kernel"] for found in arrays])
        np.testing.assert_array_equal(array(merged.get_layer("body").kernel), expected)


def test_classes_in_another_order_permute_what_is_known_of_the_head(trained, tmp_path):
    """The head of a model whose classes are in another order meets the first one's, and so does its Fisher information."""
    order = [2, 0, 3, 1]
    model = keras.saving.load_model(trained / "high.keras")
    head = model.get_layer("head")
    head.set_weights([array(head.kernel)[:, order], array(head.bias)[order]])
    model.save(tmp_path / "turned.keras")
    names = ["a", "b", "c", "d"]
    results = []
    for path, classes in (
        (trained / "high.keras", names),
        (tmp_path / "turned.keras", [names[k] for k in order]),
    ):
        paths = [trained / "low.keras", path]
        data = [trained / "low.npz", trained / "high.npz"]
        files = [str(tmp_path / f"{path.stem}{k}.safetensors") for k in range(2)]
        for source, arrays, file in zip(paths, data, files, strict=True):
            gw.fisher(source, arrays, output=file)
        merged = gw.merge(paths, method="fisher", fisher=files, classes=[names, classes])
        results.append(array(merged.get_layer("head").kernel))

    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


def test_a_recipe_makes_what_its_merge_needs(trained, tmp_path):
    """Steps estimate, a merge names them; the plan knows before anything is made, and paths are the recipe's own."""
    recipe = trained / "recipe.yaml"
    recipe.write_text(
        """
models: {low: low.keras, high: high.keras}
steps:
  grams_low: {gram: {model: low, data: low.npz, samples: 50}}
  grams_high: {gram: {model: high, data: high.npz, samples: 50}}
  sure: {fisher: {model: low, data: low.npz, labels: data}}
  both: {merge: {method: regmean, models: [low, high], gram: [grams_low, grams_high], alpha: 0.8}}
outputs: {both: recipe.keras, sure: sure.safetensors}
""",
        encoding="utf-8",
    )

    plans = {plan.step: plan for plan in gw.plan(recipe)}
    results = gw.run(recipe)

    assert {row["name"] for row in plans["grams_low"].tensors} == {"stem/kernel", "body/kernel", "head/kernel"}
    assert plans["both"].method == "regmean"
    assert set(results) == {"both", "sure"}
    by_hand = gw.merge(
        [trained / "low.keras", trained / "high.keras"],
        method="regmean",
        alpha=0.8,
        gram=[
            str(gw.gram(trained / f"{n}.keras", trained / f"{n}.npz", samples=50, output=tmp_path / f"{n}.safetensors"))
            for n in ("low", "high")
        ],
    )
    found = keras.saving.load_model(trained / "recipe.keras")
    for a, b in zip(found.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not [path for path in trained.iterdir() if path.name.startswith(".")]


def test_recipes_that_mix_estimates_up_are_refused(trained):
    """An estimate is no model, and Fisher information no Gram matrix."""
    fisher = {"fisher": {"model": "low", "data": "low.npz"}}
    for merge, words in (
        ({"method": "linear", "models": ["low", "sure"]}, "no model"),
        ({"method": "regmean", "models": ["low"], "gram": "sure"}, "does not make"),
    ):
        with pytest.raises(RecipeError, match=words):
            gw.plan({"models": {"low": "low.keras"}, "steps": {"sure": fisher, "both": {"merge": merge}}})


def test_what_is_refused_before_anything_is_computed(trained, tmp_path):
    """Other files, missing tensors, sources as targets: each in one sentence."""
    pair = [trained / "low.keras", trained / "high.keras"]
    few = tmp_path / "few.safetensors"
    gw.gram(pair[0], trained / "low.npz", output=few, samples=5, max_inputs=20)
    with pytest.raises(MismatchError, match=r"has no tensor|expected floating-point numbers of shape"):
        gw.plan_merge(pair, method="fisher", fisher=[str(few), str(few)])
    with pytest.raises(OptionError, match="one file per model"):
        gw.plan_merge(pair, method="fisher")
    with pytest.raises(StoreError, match="no file or directory"):
        gw.plan_merge(pair, method="fisher", fisher=["nowhere", str(few)])
    with pytest.raises(OutputError, match="one of the sources"):
        gw.plan_merge(pair, method="regmean", gram=[str(few), str(few)], output=few, overwrite=True)
    with pytest.raises(OutputError, match="safetensors"):
        gw.gram(pair[0], trained / "low.npz", output=tmp_path / "gram.keras")

    notes = gw.plan_merge(pair, method="regmean", gram=[str(few), str(few)]).notes

    assert any("1 matrices are not in every gram file and are averaged: 'stem/kernel'" in note for note in notes)
    assert any("are the same file" in note for note in notes)


def test_a_plan_counts_companions_and_equations(trained, tmp_path):
    """Memory and bytes read grow by what the files hold."""
    pair = [trained / "low.keras", trained / "high.keras"]
    file = tmp_path / "g.safetensors"
    gw.gram(pair[0], trained / "low.npz", output=file, samples=5)

    with_grams = gw.plan_merge(pair, method="regmean", gram=[str(file), str(file)])

    plain = gw.plan_merge(pair)
    held = 4 * (27**2 + 16**2 + 5**2)
    assert with_grams.bytes_read == plain.bytes_read + 2 * held
    assert with_grams.peak_bytes > plain.peak_bytes


def test_a_model_without_architecture_cannot_be_shown_data(trained, tmp_path):
    """Weights alone compute nothing."""
    gw.convert(trained / "low.keras", tmp_path / "low.safetensors")

    with pytest.raises(StoreError, match=r"\.keras"):
        gw.fisher(tmp_path / "low.safetensors", trained / "low.npz")


def test_formats_that_keras_does_not_load_are_converted(trained, tmp_path):
    """Names are the same in every format."""
    gw.convert(trained / "low.keras", tmp_path / "low.h5")

    fisher = gw.fisher(tmp_path / "low.h5", trained / "low.npz", samples=9)

    expected = gw.fisher(Path(trained / "low.keras"), trained / "low.npz", samples=9)
    assert set(fisher) == set(expected)
    for name, array in fisher.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-12)

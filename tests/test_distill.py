"""Students lose what the formulas say, learn what teachers know, and come out plain; what is kept of teachers is what they say."""

import json
import os

import keras
import numpy as np
import pytest
from keras import layers, ops

import graftwork as gw
from graftwork.composing import Source, compose, plan_composition
from graftwork.errors import DataError, MismatchError, OptionError, StoreError, UnknownNameError
from graftwork.recipe.composition import verb_of
from graftwork.stores import open_store
from graftwork.training import lessons
from graftwork.training.caching import ENTRY, Cache
from graftwork.training.distillation import Voice, averaged, divergence, taught
from graftwork.training.features import digest
from graftwork.training.hints import Hint, Telling
from graftwork.training.students import scaled

pytestmark = pytest.mark.keras

TENSORFLOW = pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="SavedModels run in TensorFlow")
RNG = np.random.default_rng(5)
X = RNG.normal(size=(96, 6)).astype(np.float32)
Y = RNG.integers(0, 4, 96)
CLOSE = {"rtol": 2e-5, "atol": 2e-6}  # float32 with logarithms of small probabilities


# References, in NumPy and float64 ------------------------------------------------------------------------------------------


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(-1)


def bernoulli_kl(p, q):
    return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(-1)


# The loss ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("teacher", ["logits", "probabilities"])
@pytest.mark.parametrize("student", ["logits", "probabilities"])
def test_classes_lose_what_the_formula_says(temperature, teacher, student):
    """T² times the divergence at T, whether either side gives logits or probabilities."""
    zt, zs = RNG.normal(0, 3, (2, 7, 5))
    expected = temperature**2 * kl(softmax(zt / temperature), softmax(zs / temperature))

    said = {"logits": lambda z: z, "probabilities": softmax}
    target, known = taught([said[teacher](zt)], [Voice(kind=teacher)], temperature)
    lost = divergence(target, said[student](zs), student, temperature)

    assert known is None
    np.testing.assert_allclose(lost, expected, **CLOSE)


@pytest.mark.parametrize("teacher", ["sigmoid_logits", "sigmoid"])
@pytest.mark.parametrize("student", ["sigmoid_logits", "sigmoid"])
def test_labels_lose_what_the_formula_says(teacher, student):
    """For independent yes and no, the mean over labels of the divergence of each."""
    zt, zs = RNG.normal(0, 2, (2, 7, 5))
    said = {"sigmoid_logits": lambda z: z, "sigmoid": sigmoid}
    target, _ = taught([said[teacher](zt)], [Voice(kind=teacher)], 3.0)

    lost = divergence(target, said[student](zs), student, 3.0)

    np.testing.assert_allclose(lost, 9 * bernoulli_kl(sigmoid(zt / 3), sigmoid(zs / 3)), **CLOSE)


def test_several_teachers_say_their_weighted_mean():
    """At the temperature, whatever each gives; confidence is one minus the entropy, as a share of the largest."""
    z = RNG.normal(0, 2, (2, 6, 4))
    p, q = softmax(z[0] / 2), softmax(z[1] / 2)
    voices = [Voice(kind="logits", weight=1.0), Voice(kind="probabilities", weight=3.0)]

    fixed, _ = taught([z[0], softmax(z[1])], voices, 2.0)
    sure, _ = taught([z[0], softmax(z[1])], voices, 2.0, confident=True)

    np.testing.assert_allclose(fixed, (p + 3 * q) / 4, **CLOSE)
    a, b = (1 + (softmax(each) * np.log(softmax(each))).sum(-1, keepdims=True) / np.log(4) for each in z)
    np.testing.assert_allclose(sure, (a * p + 3 * b * q) / (a + 3 * b), **CLOSE)


def test_classes_that_not_every_teacher_knows():
    """Each class is said by those that know it, and the whole is a distribution again; of labels, unknown ones cost nothing."""
    one, two = RNG.normal(size=(2, 3, 2))
    voices = [Voice(kind="logits", columns=(0, 1, -1, -1)), Voice(kind="logits", weight=3.0, columns=(-1, 1, 0, -1))]
    p, q = softmax(one), softmax(two)
    raw = np.stack([p[:, 0], (p[:, 1] + 3 * q[:, 1]) / 4, q[:, 0], np.zeros(3)], -1)

    said, known = taught([one, two], voices, 1.0)

    assert known is None
    np.testing.assert_allclose(said, raw / raw.sum(-1, keepdims=True), **CLOSE)

    voices = [Voice(kind="sigmoid_logits", columns=(1, 0, -1))]
    said, known = taught([one], voices, 1.0)
    lost = divergence(said, np.full((3, 3), 7.0), "sigmoid_logits", 1.0, known=known)
    np.testing.assert_array_equal(known, [1, 1, 0])
    np.testing.assert_allclose(lost, bernoulli_kl(sigmoid(one), np.full((3, 2), sigmoid(7.0))), rtol=1e-4)


def test_weights_and_masks_count_as_in_keras():
    """The mean is that of Keras's own losses for the same weights and mask, and Σ w·m·l / Σ m."""
    values, mask = RNG.random((4, 3)).astype("float32"), RNG.random((4, 3)) < 0.6
    for weights in (RNG.random(4), RNG.random((4, 3))):
        spread = weights.reshape(4, -1)
        expected = (values * spread * mask).sum() / mask.sum()
        np.testing.assert_allclose(
            averaged(ops.convert_to_tensor(values), weights, ops.convert_to_tensor(mask)), expected, rtol=1e-5
        )
        plain = keras.losses.MeanSquaredError()(
            np.zeros((4, 3, 1)), np.sqrt(values)[..., None], sample_weight=spread * np.ones((4, 3))
        )
        np.testing.assert_allclose(averaged(ops.convert_to_tensor(values), weights), plain, rtol=1e-5)


def test_probabilities_of_zero_cost_much_and_not_nan():
    """What underflowed counts as the smallest number of its dtype; the gradient is a number."""
    target, _ = taught([np.array([[0.0, 1.0]])], [Voice(kind="probabilities")], 2.0)
    lost = divergence(target, np.array([[1.0, 0.0]]), "probabilities", 2.0)
    assert np.isfinite(np.asarray(target)).all()
    assert 100 < float(lost[0]) < 400


# Hints -------------------------------------------------------------------------------------------------------------------


def telling(loss, student, teacher, **more):
    return Telling(hint=Hint(student="a", teacher="b", loss=loss, **more), key="t/b", student=student, teacher=teacher)


def test_attention_by_hand():
    """Squares summed over channels, one direction for each sample, squared distance; weights count samples."""
    s, t = RNG.normal(size=(3, 2, 2, 4)), RNG.normal(size=(3, 2, 2, 6))
    maps = [(each**2).sum(-1).reshape(3, -1) for each in (s, t)]
    maps = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in maps]
    expected = ((maps[0] - maps[1]) ** 2).sum(1)
    hint = telling("attention", (None, 2, 2, 4), (None, 2, 2, 6))
    np.testing.assert_allclose(hint.lost(s, t, None, None), expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(hint.lost(s, t, np.array([1.0, 0, 0]), None), expected[0] / 3, rtol=1e-5)


def test_relational_distances_by_hand():
    """Distances of pairs over their mean, Huber between the two; no pair with itself, and none of a single sample."""
    s, t = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2, 4)) * 10

    def distances(feature):
        flat = feature.reshape(5, -1)
        far = np.sqrt(((flat[:, None] - flat[None]) ** 2).sum(-1))
        return far / far[~np.eye(5, dtype=bool)].mean()

    gap = np.abs(distances(s) - distances(t))[~np.eye(5, dtype=bool)]
    expected = np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()
    hint = telling("relational", (None, 3), (None, 2, 4))
    np.testing.assert_allclose(hint.lost(s, t, None, None), expected, rtol=1e-4)
    assert float(hint.lost(s[:1], t[:1], None, None)) == 0.0


def test_hints_that_cannot_be():
    """Shapes that do not go together are refused with both of them."""
    with pytest.raises(
        MismatchError, match=r"\(None, 3\) and the teacher's \(None, 2, 2, 4\); give layers of as many axes"
    ):
        telling("mse", (None, 3), (None, 2, 2, 4))
    with pytest.raises(MismatchError, match="no positions"):
        telling("attention", (None, 3), (None, 3))


# Distilling ----------------------------------------------------------------------------------------------------------------


def net(name, units=8, seed=0, end="softmax", outputs=4, size=6, dtype="float32", drop=0.2):
    init = keras.initializers.GlorotUniform
    x = given = keras.Input((size,), name="x")
    x = layers.Dense(units, "tanh", name="hidden", kernel_initializer=init(seed), dtype=dtype)(x)
    x = layers.Dropout(drop, name="drop", dtype=dtype)(x)
    return keras.Model(
        given, layers.Dense(outputs, end, name="head", kernel_initializer=init(seed + 1), dtype="float32")(x), name=name
    )


def distilled(teachers, student=None, data=(X, Y), progress=None, **options):
    verb = verb_of("distill", {"data": data, "epochs": 2, "jit": False, **options})
    sources = [source(each, "teachers") for each in teachers]
    sources += [source(student, "student")] if student is not None else []
    planned = plan_composition(verb, sources)
    made = compose(verb, sources, progress=progress)
    assert planned.parameters["total"] == made.model.count_params()
    return made


def source(model, role):
    """A live model, or the file or directory of one."""
    if isinstance(model, keras.Model):
        return Source(name=model.name, model=model, role=role)
    return Source(name=model.stem, reader=open_store(model), role=role)


STILL = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 1, "alpha": 1}
"""Nothing is learned, so that what `fit` reports is what the student loses at first."""


def state(model):
    return [(v.path, v.trainable, np.asarray(v).tobytes()) for v in model.variables], [
        (layer.name, layer.trainable) for layer in model._flatten_layers()
    ]


def row(made, number=-1):
    return made.tables["epochs"][number]


@pytest.fixture(scope="module")
def teacher():
    return net("teacher", 24, seed=3)


def test_training_takes_the_loss_that_the_formula_gives(teacher):
    """With a learning rate of nothing, what `fit` reports is the formula over all the data: weights and labels included."""
    student, weights = net("student", seed=7, drop=0), RNG.random(96).astype("float32")
    made = distilled(
        [teacher],
        student,
        (X, Y, weights),
        epochs=1,
        optimizer="sgd",
        learning_rate=1e-30,
        alpha=0.3,
        temperature=2,
        batch=40,
    )
    p, q = (np.asarray(each(X), np.float64) for each in (teacher, student))
    soft = [softmax(np.log(each) / 2) for each in (p, q)]
    distillation = (4 * kl(*soft) * weights).mean()
    supervised = (-np.log(q[np.arange(96), Y]) * weights).mean()
    found = row(made)
    assert found["distillation"] == pytest.approx(distillation, rel=1e-4)
    assert found["supervised"] == pytest.approx(supervised, rel=1e-4)
    assert found["loss"] == pytest.approx(0.3 * distillation + 0.7 * supervised, rel=1e-4)
    assert found["accuracy"] == pytest.approx((q.argmax(1) == Y).mean(), abs=1e-6)
    assert found["agreement"] == pytest.approx((q.argmax(1) == p.argmax(1)).mean(), abs=1e-6)


def test_weights_count_without_labels(teacher):
    """Of samples without labels too, from arrays and from streams: one that counts nothing is not learned from."""
    student, weights = net("student", seed=7, drop=0), RNG.integers(0, 3, 96).astype("float32")
    options = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 2, "batch": 32}
    p, q = (softmax(np.log(np.asarray(each(X), np.float64)) / 2) for each in (teacher, student))
    expected = (4 * kl(p, q) * weights).mean()

    def batches():
        for first in range(0, 96, 32):
            yield X[first : first + 32], None, weights[first : first + 32]

    for data in ((X, None, weights), batches):
        assert row(distilled([teacher], student, data, **options))["loss"] == pytest.approx(expected, rel=1e-4)


def test_every_batch_of_a_stream_is_looked_at(teacher):
    """A later batch of another width, or with labels of another shape, is refused by its number before Keras sees it."""
    good, student = (X[:32], Y[:32]), net("student", seed=7)
    for bad, message in (
        ((X[:32, :5], Y[:32]), r"batch 1 of .* is float32 \(5,\)"),
        ((X[:32], X[:32]), r"labels of batch 1 of .* have the shape \(6,\)"),
        ((X[:32], np.full(32, 4)), "label of sample 32 of"),
    ):
        with pytest.raises((DataError, MismatchError), match=message):
            distilled([teacher], student, lambda bad=bad: iter([good, bad]))


def test_the_result_is_the_plain_student_and_teachers_stay(teacher, tmp_path):
    """Not compiled, no layer more, the same flags; neither teachers nor the student that was given change in a bit."""
    student = net("student", seed=7)
    student.get_layer("hidden").trainable = False
    before = state(teacher), state(student)
    made = distilled([teacher], student, hints={"hidden": "hidden"}).model
    assert (state(teacher), state(student)) == before
    assert json.dumps(made.get_config()) == json.dumps(student.get_config())
    assert not made.compiled
    assert [layer.trainable for layer in made._flatten_layers()] == [
        layer.trainable for layer in student._flatten_layers()
    ]
    np.testing.assert_array_equal(made.get_layer("hidden").kernel, student.get_layer("hidden").kernel)
    assert not np.array_equal(made.get_layer("head").kernel, student.get_layer("head").kernel)
    made.save(tmp_path / "s.keras")
    again = keras.saving.load_model(tmp_path / "s.keras")
    assert len(again.variables) == len(student.variables)
    np.testing.assert_array_equal(again(X), made(X))


def test_what_is_kept_of_teachers_changes_nothing(teacher, tmp_path):
    """Asked in every epoch or once, the student learns the same; a second run asks nobody, another teacher is asked."""
    other, student = net("other", 12, seed=9), net("student", seed=7)
    live = distilled([teacher, other], student, cache=False, validation=(X[:20], Y[:20]))
    kept = distilled([teacher, other], student, cache=str(tmp_path), validation=(X[:20], Y[:20]))
    again = distilled([teacher, other], student, cache=str(tmp_path), temperature=2, epochs=1)
    for name, value in row(live).items():
        assert row(kept)[name] == pytest.approx(value, rel=1e-4), name
    assert sum("2 of 2 teachers were asked" in note for note in kept.notes) == 2
    assert any("0 of 2 teachers were asked" in note for note in again.notes)
    changed = net("other", 12, seed=10)
    assert any(
        "1 of 2 teachers were asked" in n
        for n in distilled([teacher, changed], student, cache=str(tmp_path), epochs=1).notes
    )
    flipped = (X[::-1].copy(), Y)
    assert any(
        "1 of 1 teachers were asked" in n
        for n in distilled([teacher], student, flipped, cache=str(tmp_path), epochs=1).notes
    )


def test_a_student_gives_its_output_in_a_dictionary(teacher):
    """It stays so, and learns what it would learn otherwise."""
    found = []
    for wrapped in (False, True):
        student = net("student", seed=7)
        made = keras.Model(
            student.inputs, {"class": student.outputs[0]} if wrapped else student.outputs[0], name="student"
        )
        found.append(distilled([teacher], made, epochs=1).model)
    assert list(found[1].output) == ["class"]
    assert all(np.array_equal(a, b) for a, b in zip(found[0].get_weights(), found[1].get_weights(), strict=True))


def test_data_come_by_place_or_name_and_cannot_be_left_out(teacher):
    """`gw.distill(teachers, student, data)`, as one would write it: the same student as with everything by name."""
    wanted = {"epochs": 1, "batch": 32, "seed": 3}
    first = gw.distill([teacher], net("s", 4), (X, Y), **wanted)
    second = gw.distill([teacher], data=(X, Y), student=net("s", 4), **wanted)

    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(OptionError, match="distill: 'data' is missing"):
        gw.distill([teacher], net("s", 4))


def test_a_cache_that_was_interrupted_is_never_used(tmp_path):
    """What was being written when the process ended is not there; what was cut short later is not taken either."""
    cache = Cache(tmp_path, 2**20)

    def dying():
        yield {"t": np.ones((3, 2), np.float32)}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep("key", 6, dying())
    assert cache.find("key") is None and not list(tmp_path.iterdir())
    whole = cache.keep("key", 6, iter([{"t": np.ones((3, 2), np.float32)}] * 2))
    np.testing.assert_array_equal(whole["t"], np.ones((6, 2)))
    (tmp_path / "key" / "0.npy").write_bytes((tmp_path / "key" / "0.npy").read_bytes()[:-4])
    assert Cache(tmp_path, 2**20).find("key") is None
    told = json.loads((tmp_path / "key" / ENTRY).read_text())
    assert told == {"t": [[6, 2], "<f4"]}
    with pytest.raises(DataError, match="3 samples were asked about and 6 expected"):
        cache.keep("short", 6, iter([{"t": np.ones((3, 2), np.float32)}]))


def test_a_cache_is_bounded(tmp_path):
    """More than the limit is refused before it is written; what was not used for the longest time goes first."""
    with pytest.raises(OptionError, match="cache_limit"):
        Cache(tmp_path, 1000).keep("key", 100, iter([{"t": np.ones((10, 30), np.float32)}] * 10))
    for at, key in enumerate("abc"):
        Cache(tmp_path, 2000).keep(key, 10, iter([{"t": np.ones((10, 16), np.float32)}]))
        os.utime(tmp_path / key, (at, at))  # else within one tick of the file system's clock, maybe
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_nothing_is_kept_where_augmentation_makes_it_wrong(teacher):
    """Streams, students that change samples at random, teachers that are called as in training."""
    student = net("student")
    x = given = keras.Input((6,), name="x")
    noisy = keras.Model(given, net("inner")(layers.GaussianNoise(0.1)(x, training=True)), name="noisy")
    image = keras.Input((8, 8, 3), name="x")
    pooled = layers.GlobalAveragePooling2D()(layers.RandomFlip(seed=1, name="flip")(image))
    flipping = keras.Model(image, layers.Dense(4, "softmax")(pooled), name="flipping")
    plain = keras.Model(image, layers.Dense(4, "softmax")(layers.GlobalAveragePooling2D()(image)), name="plain")
    images = RNG.random((16, 8, 8, 3)).astype("float32")

    def batches():
        for first in range(0, 96, 32):
            yield X[first : first + 32], Y[first : first + 32]

    for arguments, why in (
        (([teacher], student, batches), "yields batches"),
        (([noisy], student), "called as in training"),
        (([plain], flipping, (images, Y[:16])), r"layer 'flip', RandomFlip"),
    ):
        with pytest.raises(OptionError, match=f"cannot be kept: .*{why}"):
            distilled(*arguments, cache=True)
    distilled([flipping], plain, (images, Y[:16]), cache=True)  # asked for inference, a teacher does not flip
    streamed, table = distilled([teacher], student, batches, best=False), distilled([teacher], student, cache=False)
    assert len(streamed.tables["epochs"]) == 2 and row(streamed)["loss"] == pytest.approx(row(table)["loss"], rel=0.2)
    assert any("RandomFlip" in note for note in distilled([plain], flipping, (images, Y[:16])).notes)


def test_without_labels_and_with_labels_that_do_not_fit(teacher):
    """Unlabelled data is enough; alpha says that labels are wanted; other labels are left aside where teachers count alone."""
    student = net("student")
    made = distilled([teacher], student, X)
    assert set(row(made)) == {"epoch", "loss", "distillation", "agreement"}
    assert row(made)["loss"] == pytest.approx(row(made)["distillation"])
    with pytest.raises(MismatchError, match="has no labels"):
        distilled([teacher], student, X, alpha=0.5)
    with pytest.raises(DataError, match="has 4 classes"):
        distilled([teacher], student, (X, Y + 3))
    assert any("left aside" in note for note in distilled([teacher], student, (X, X), alpha=1).notes)


def test_values_and_labels_have_their_own_losses():
    """Teachers of values are met in squares, without a temperature; independent labels each for themselves."""
    teacher, student = net("teacher", end=None), net("student", seed=4, end=None, drop=0)
    options = {"outputs": "regression", "alpha": 1, "epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30}
    made = distilled([teacher], student, X, **options)
    assert row(made)["loss"] == pytest.approx(float(np.mean((teacher(X) - student(X)) ** 2)), rel=1e-4)
    with pytest.raises(OptionError, match="temperature is for probabilities"):
        distilled([teacher], student, X, temperature=2, **options)
    labels = (RNG.random((96, 4)) < 0.5).astype("float32")
    made = distilled(
        [net("teacher", end="sigmoid")], net("student", end=None), (X, labels), outputs={"student": "sigmoid_logits"}
    )
    assert {"supervised", "accuracy", "agreement"} <= set(row(made))


def test_sequences_are_learned_where_they_are_not_padded():
    """Padding and what stands there make no difference to what is learned."""

    def tagger(name, units, seed):
        keras.utils.set_random_seed(seed)
        words = keras.Input((None,), dtype="int32", name="words")
        x = layers.Embedding(9, units, mask_zero=True, name="embed")(words)
        return keras.Model(
            words, layers.Dense(3, "softmax", name="tags")(layers.GRU(units, return_sequences=True)(x)), name=name
        )

    teacher, student = tagger("teacher", 6, 1), tagger("student", 4, 2)
    words = RNG.integers(1, 9, (12, 5))
    words[:, 3:] = 0
    tags = RNG.integers(0, 3, (12, 5))
    options = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 1, "alpha": 0.5, "cache": False}
    p, q = (np.asarray(each(words), np.float64)[:, :3] for each in (teacher, student))
    found = row(distilled([teacher], student, (words, tags), **options))
    expected = -np.log(np.take_along_axis(q, tags[:, :3, None], -1)).mean()
    assert found["loss"] == pytest.approx((kl(p, q).mean() + expected) / 2, rel=1e-5)
    if keras.config.backend() == "tensorflow":  # Keras takes masks off what metrics are shown on JAX
        assert found["distillation"] == pytest.approx(kl(p, q).mean(), rel=1e-4)
        assert found["supervised"] == pytest.approx(expected, rel=1e-4)


def test_what_is_drawn_when_a_model_is_loaded_makes_no_other_model(tmp_path):
    """Dropout of a file gets a new random state each time: the same teacher is found in the cache, and the same run goes on."""
    net("teacher", seed=3).save(tmp_path / "teacher.keras")
    net("student", seed=7).save(tmp_path / "student.keras")
    options = {"cache": str(tmp_path / "cache"), "run": str(tmp_path / "run"), "epochs": 1}
    for asked, again in ((1, False), (0, True)):
        teacher, student = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("teacher", "student"))
        notes = distilled([teacher], student, **options).notes
        assert any(f"{asked} of 1 teachers were asked" in note for note in notes)
        assert any("the run went on" in note for note in notes) == again


def test_another_vocabulary_is_another_teacher():
    """Words that an adapted layer knows stand neither in its configuration nor among the weights."""
    words = keras.Input((), dtype="string")
    lookup = layers.StringLookup()
    lookup.adapt(np.array(["a", "b"]))
    model = keras.Model(words, layers.Embedding(3, 2)(lookup(words)))
    before = digest(model)
    lookup.adapt(np.array(["c", "d"]))
    assert digest(model) != before


@pytest.mark.parametrize("loss", ["mse", "categorical_focal_crossentropy"])
def test_a_loss_of_labels_that_wants_columns_gets_them(teacher, loss):
    """Numbers of classes are as good as rows with a 1, also where a batch has as many samples as there are classes."""
    student, rows = net("student", seed=7, drop=0), np.eye(4, dtype="float32")[Y]
    options = {"loss": loss, "epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "alpha": 0.5, "batch": 4}
    numbers, columns = (row(distilled([teacher], student, (X, labels), **options)) for labels in (Y, rows))
    assert numbers["supervised"] == pytest.approx(columns["supervised"], rel=1e-5)
    with pytest.raises(OptionError, match="takes numbers of classes, and labels have a column for each"):
        distilled([teacher], student, (X, rows), **{**options, "loss": "sparse_categorical_crossentropy"})


def test_classes_are_met_by_name(teacher):
    """A new student has the union; a given one must have every class; teachers are asked by their own order."""
    three = net("three", outputs=3, seed=1)
    names = {"teacher": ["a", "b", "c", "d"], "three": ["d", "e", "a"]}
    made = distilled([teacher, three], None, X, classes=names, width=1.0)
    assert made.classes == ("a", "b", "c", "d", "e") and made.model.output_shape == (None, 5)
    with pytest.raises(MismatchError, match="teacher three knows 'e', which the student has no output for"):
        distilled([teacher, three], net("student"), X, classes={**names, "student": ["a", "b", "c", "d"]})
    turned = {"teacher": ["a", "b", "c", "d"], "student": ["d", "c", "b", "a"]}
    student = net("student", drop=0)
    options = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 1}
    lost = row(distilled([teacher], student, X, classes=turned, **options))["loss"]
    p, q = (np.asarray(each(X), np.float64) for each in (teacher, student))
    assert lost == pytest.approx(kl(p[:, ::-1], q).mean(), rel=1e-4)


def test_students_are_made_of_a_teacher(teacher):
    """Half the units, new weights that the seed fixes, what adapted layers know, all of it trained; auto is a tenth."""
    x = given = keras.Input((6,), name="x")
    norm = layers.Normalization(name="norm")
    norm.adapt(X * 3 + 1)
    x = layers.Dense(40, "relu", name="wide")(norm(x))
    x = layers.Dense(40, "relu", name="deep")(x)
    big = keras.Model(given, layers.Dense(4, "softmax", name="head")(x), name="big")
    big.get_layer("wide").trainable = False
    one, two = (distilled([big], None, X, width=0.5, seed=seed, epochs=1) for seed in (1, 2))
    same = distilled([big], None, X, width=0.5, seed=1, epochs=1)
    assert one.model.get_layer("wide").units == one.model.get_layer("deep").units == 20
    assert one.model.get_layer("head").units == 4 and one.model.get_layer("wide").trainable
    np.testing.assert_array_equal(one.model.get_layer("norm").mean, norm.mean)
    np.testing.assert_array_equal(one.model(X), same.model(X))
    assert not np.allclose(one.model(X), two.model(X))
    auto = distilled([big, big_copy(big)], None, X).model
    assert 0.05 < auto.count_params() / (2 * big.count_params()) <= 0.1


def test_students_of_convolutions_keep_what_goes_with_each_channel():
    """Half the channels have half the filters that see one each, and half the factors; another Reshape is Keras's to refuse."""
    x = given = keras.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, padding="same")(x)
    x = layers.Conv2D(8, 3, padding="same", groups=8, name="each")(x)
    factors = layers.Reshape((1, 1, 8), name="factors")(layers.GlobalAveragePooling2D()(x))
    x = layers.Multiply()([x, layers.Conv2D(8, 1, activation="sigmoid")(factors)])
    x = layers.Reshape((36, 8), name="rows")(x)
    x = layers.Dense(4, "softmax")(layers.GlobalAveragePooling1D()(x))
    made = scaled(keras.Model(given, x), 0.5, "student", 0).model
    assert made.get_layer("each").groups == made.get_layer("each").filters == 4
    assert made.get_layer("factors").output.shape == (None, 1, 1, 4)
    assert made.get_layer("rows").output.shape == (None, 36, 4) and made.output_shape == (None, 4)
    assert made(np.ones((2, 6, 6, 3))).shape == (2, 4)

    x = layers.Reshape((2, 4))(layers.Dense(8)(small := keras.Input((3,))))
    rigid = keras.Model(small, layers.Dense(4, "softmax")(layers.Flatten()(x)))
    with pytest.raises(
        MismatchError, match=r"size of the tensor must be unchanged.*; give a student .*, or another width"
    ):
        scaled(rigid, 0.5, "student", 0)


def big_copy(model):
    made = keras.models.clone_model(model)
    made.name = "other"
    return made


def test_preprocessing_stands_between(teacher):
    """A teacher that takes something else is asked about what its layer makes of the student's input."""
    small = net("small", size=3, seed=2)
    student = net("student", drop=0)
    keep = {"Dense": {"units": 3, "kernel_initializer": "ones", "use_bias": False}}
    options = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 1}
    with pytest.raises(MismatchError, match="under preprocess, for 'small'"):
        distilled([small], student, X, **options)
    lost = row(distilled([small], student, X, preprocess={"small": keep}, **options))["loss"]
    p, q = np.asarray(small(X.sum(1, keepdims=True) * np.ones(3)), np.float64), np.asarray(student(X), np.float64)
    assert lost == pytest.approx(kl(p, q).mean(), rel=1e-4)


@pytest.mark.parametrize(("dtype", "jit"), [("mixed_float16", False), ("mixed_bfloat16", True)])
def test_mixed_precision_and_compiled_steps(teacher, dtype, jit):
    """The student computes in half precision, the step may be compiled, and the loss is the same but for its rounding."""
    student = net("student", seed=7, dtype=dtype)
    found = distilled([teacher], student, hints={"hidden": "hidden"}, jit=jit)
    plain = distilled([teacher], net("student", seed=7), hints={"hidden": "hidden"})
    assert row(found)["loss"] == pytest.approx(row(plain)["loss"], rel=2e-2)
    assert found.model.get_layer("hidden").compute_dtype == student.get_layer("hidden").compute_dtype


def test_a_run_goes_on_where_it_was_stopped(teacher, tmp_path):
    """One epoch, then two more in another run, end with the bits of three; another teacher's run is refused."""
    student = net("student", seed=7)
    whole = distilled([teacher], student, epochs=3, best=False)

    class StopError(Exception):
        pass

    def stopping(what, done, of):
        if "epoch 2/3" in what:
            raise StopError

    with pytest.raises(StopError):
        distilled([teacher], student, epochs=3, best=False, run=str(tmp_path), progress=stopping)
    rest = distilled([teacher], student, epochs=3, best=False, run=str(tmp_path))
    for a, b in zip(whole.model.variables, rest.model.variables, strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(StoreError, match="another run"):
        distilled([net("teacher", 24, seed=4)], student, epochs=3, best=False, run=str(tmp_path))


def test_what_makes_no_sense_is_refused(teacher):
    """Each in a sentence, before anything is trained."""
    student = net("student")
    for options, error, said in (
        ({"width": 0.5}, OptionError, "a student is given"),
        ({"hints": {"hiden": "hidden"}}, UnknownNameError, "'hidden'"),
        ({"hints": [{"student": "hidden", "teacher": "hidden", "of": "tutor"}]}, UnknownNameError, "tutor"),
        ({"hints": [{"student": "hidden", "teacher": "hidden", "loss": "mze"}]}, UnknownNameError, "mze"),
        ({"loss": "sparse_crossentropy"}, UnknownNameError, "SparseCategoricalCrossentropy"),
        ({"outputs": {"pupil": "logits"}}, UnknownNameError, "pupil"),
        ({"outputs": {"student": "sigmoid"}}, OptionError, "softmax"),
        ({"weights": [1, 2]}, OptionError, "2 numbers for 1 models"),
        ({"alpha": 1.5}, OptionError, "alpha"),
        ({"data": (X[:, :5], Y)}, MismatchError, r"float32 \(5,\)"),
    ):
        with pytest.raises(error, match=said):
            distilled([teacher], student, **{"data": (X, Y), **options})
    with pytest.raises(MismatchError, match="one of several classes"):
        distilled([net("teacher", end="sigmoid")], student)
    frozen = net("student")
    frozen.trainable = False
    with pytest.raises(OptionError, match="nothing of the student"):
        distilled([teacher], frozen)


def test_places_are_the_order_of_samples():
    """What is kept is found for each sample, also where the samples are a part of the table in an order of their own."""
    from graftwork.data import open_data

    part = open_data((X, Y), part="0.5:1", seed=3)
    rows = part.shuffled(4, 2).rows
    np.testing.assert_array_equal(part.rows[lessons.places_of(part).shuffled(4, 2).rows], rows)


@TENSORFLOW
def test_ensembles_and_savedmodels_teach(teacher, tmp_path):
    """An ensemble that was put together before says what its members say together; a bridged SavedModel what its graph says."""
    import tensorflow as tf

    import graftwork as gw

    other, student = net("other", 12, seed=9), net("student", seed=7, drop=0)
    module = tf.Module()
    module.kernel = tf.Variable(RNG.normal(size=(6, 4)).astype("float32"))
    module.serve = tf.function(
        lambda x: {"out": tf.nn.softmax(x @ module.kernel)},
        input_signature=[tf.TensorSpec((None, 6), tf.float32, name="x")],
    )
    tf.saved_model.save(module, str(tmp_path / "saved"), signatures=module.serve)
    bridged = gw.savedmodel.bridge(tmp_path / "saved")
    options = {"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-30, "temperature": 1, "alpha": 1}
    q = np.asarray(student(X), np.float64)

    both = row(distilled([gw.ensemble([teacher, other])], student, X, **options))
    apart = row(distilled([teacher, other], student, X, **options))
    saved = row(
        distilled(
            [bridged], student, X, outputs={bridged.name: "probabilities"}, cache=str(tmp_path / "kept"), **options
        )
    )

    assert both["loss"] == pytest.approx(apart["loss"], rel=1e-5)
    assert saved["loss"] == pytest.approx(kl(softmax(np.float64(X) @ module.kernel.numpy()), q).mean(), rel=1e-4)


# SavedModels ---------------------------------------------------------------------------------------------------------------

X3 = X[:, :3].copy()


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """SavedModels by their origin, and what TensorFlow says that they give for the samples."""
    servables = pytest.importorskip("tests.servables")
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("programs")
    made = {
        "keras3": servables.keras3(folder / "keras3"),
        "keras2": servables.keras2(folder / "keras2"),
        "module": servables.module(folder / "module"),
        "hub": servables.hub_module(folder / "hub", RNG.normal(size=(3, 4)).astype(np.float32)),
        "several": servables.functions(
            folder / "several",
            **{
                name: tf.function(
                    lambda x, scale=scale: {"scores": scale * x, "sure": tf.nn.softmax(scale * x)},
                    input_signature=[tf.TensorSpec((8, 3), tf.float32, name="x")],
                )
                for name, scale in (("serving_default", 1.0), ("sharp", 5.0))
            },
        ),
    }

    def said(name, signature="serving_default", batch=96):
        tags = [] if name == "hub" else None  # beside it there is a graph for training
        called = tf.saved_model.load(str(made[name]), tags=tags).signatures[signature]
        (key,) = called.structured_input_signature[1]
        parts = [called(**{key: tf.constant(X3[at : at + batch])}) for at in range(0, 96, batch)]
        return {name: np.concatenate([part[name].numpy() for part in parts]).astype(np.float64) for name in parts[0]}

    return made, said


@TENSORFLOW
@pytest.mark.parametrize("origin", ["keras3", "keras2", "module", "hub"])
def test_savedmodels_teach_as_they_are(programs, origin):
    """Whoever saved it: the loss is that of what its signature says, which is read off its graph where that tells."""
    made, said = programs
    student = net("student", seed=7, drop=0, size=3)
    options = {}
    signature = "serving_default"
    if origin == "hub":
        with pytest.raises(OptionError, match=r"say which: outputs=\{\"hub\""):
            distilled([made["hub"]], student, X3, **STILL)
        options, signature = {"outputs": {"hub": "logits"}}, "default"

    found = distilled([made[origin]], student, X3, cache=True, **options, **STILL)

    (p,) = said(origin, signature, batch=32).values()  # what that of hub says depends on the batch
    p = softmax(p) if origin == "hub" else p
    assert row(found)["loss"] == pytest.approx(kl(p, np.asarray(student(X3), np.float64)).mean(), rel=1e-4)
    assert any("frozen layer" in note for note in found.notes) == (origin != "keras2")


@TENSORFLOW
def test_signatures_and_outputs_are_chosen(programs, tmp_path):
    """One of several signatures, one of several outputs, for batches of one size that do not divide the data's."""
    made, said = programs
    student = net("student", seed=7, drop=0, size=3, outputs=3)
    q = np.asarray(student(X3), np.float64)
    with pytest.raises(
        MismatchError, match=r"has 2 outputs \(scores, sure\), and one is compared; say which: outputs="
    ):
        distilled([made["several"]], student, X3, **STILL)
    for signature in ("serving_default", "sharp"):
        for output in ("scores", "sure"):
            p = said("several", signature, batch=8)[output]
            found = distilled(
                [made["several"]],
                student,
                X3,
                signatures={"several": signature},
                outputs={f"several.{output}": "logits" if output == "scores" else "auto"},
                cache=str(tmp_path / signature / output),
                batch=20,
                **STILL,
            )
            expected = kl(softmax(p) if output == "scores" else p, q).mean()
            assert row(found)["loss"] == pytest.approx(expected, rel=1e-4), (signature, output)
    for signatures, error, told in (
        ({"several": "blunt"}, UnknownNameError, "blunt"),
        ({"other": "sharp"}, UnknownNameError, "other"),
        ({"student": "sharp"}, OptionError, "student is no SavedModel"),
    ):
        with pytest.raises(error, match=told):
            distilled([made["several"]], student, X3, signatures=signatures, **STILL)


@TENSORFLOW
def test_what_only_models_of_layers_can_do(programs):
    """A program without layers has none to imitate, to hint at or to train; one of Keras 2 is rebuilt and has."""
    made, _ = programs
    student = net("student", seed=7, drop=0, size=3)
    with pytest.raises(OptionError, match="no student can be made of the architecture of keras3"):
        distilled([made["keras3"]], None, X3)
    with pytest.raises(OptionError, match="hints: teacher module is a SavedModel whose layers are not known"):
        distilled([made["module"]], student, X3, hints={"hidden": "dense"})
    with pytest.raises(OptionError, match=r"student keras3 is a SavedModel that cannot be trained: .*savedmodel lift"):
        distilled([net("teacher", size=3)], made["keras3"], X3)
    own = [layer.name for layer in distilled([made["keras2"]], None, X3, width=0.5).model.layers]
    trained = distilled([made["module"]], made["keras2"], (X3, Y), hints=()).model
    assert [layer.name for layer in trained.layers] == own and trained.trainable_variables
    assert distilled([made["keras2"]], student, X3, hints={"hidden": own[1]}).tables["epochs"][-1]["hints"] > 0


@TENSORFLOW
def test_a_savedmodel_teaches_from_everywhere(programs, tmp_path):
    """Its directory does on the command line, in Python and in a recipe; a dry run says what comes out, and no more."""
    from typer.testing import CliRunner

    import graftwork as gw
    from graftwork.cli.app import app

    made, _ = programs
    net("student", size=3).save(tmp_path / "student.keras")
    np.savez(tmp_path / "data.npz", x=X3, y=Y)
    arguments = ["distill", "-t", made["module"], "-s", tmp_path / "student.keras", "--data", tmp_path / "data.npz"]
    arguments = list(map(str, [*arguments, "--epochs", 1, "-o", tmp_path / "cli.keras"]))
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert dry.exit_code == 0 and not (tmp_path / "cli.keras").exists(), dry.output
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (tmp_path / "recipe.yaml").write_text(
        f"models: {{big: {made['module']}, small: student.keras}}\n"
        "steps: {taught: {distill: {teachers: [big], student: small, data: data.npz, epochs: 1}}}\n"
        "outputs: {taught: recipe.keras}\n"
    )
    assert gw.plan(tmp_path / "recipe.yaml")
    gw.run(tmp_path / "recipe.yaml")
    live = gw.distill([made["module"]], tmp_path / "student.keras", data=(X3, Y), epochs=1)
    for name in ("cli.keras", "recipe.keras"):
        np.testing.assert_array_equal(gw.load(tmp_path / name)(X3), live(X3))


# Batches of one size, and several outputs ------------------------------------------------------------------------------------


def test_teachers_that_take_batches_of_one_size(teacher):
    """They are asked about as many as they take, whatever batches the student sees; a student made of one takes any."""
    given = keras.Input(batch_shape=(8, 6), name="x")
    rigid, student = keras.Model(given, teacher(given), name="rigid"), net("student", seed=7, drop=0)
    hint = {"student": "hidden", "teacher": "hidden", "loss": "relational"}
    free = row(distilled([teacher], student, batch=20, hints=hint))
    hint["teacher"] = "teacher/hidden"
    for cache in (None, False):
        found = row(distilled([rigid], student, batch=20, hints=hint, cache=cache))
        assert found["loss"] == pytest.approx(free["loss"], rel=1e-5)
    assert distilled([rigid], None, width=0.5).model.input_shape == (None, 6)
    with pytest.raises(OptionError, match="student rigid only takes batches of 8"):
        distilled([teacher], rigid)
    assert distilled([teacher], rigid, batch=8).model.input_shape == (8, 6)


def test_one_of_several_outputs_teaches(teacher):
    """The one that is called as the student's, or the one that is named; a student of several is refused, and the way out works."""
    inner = teacher.get_layer("hidden").output
    both = keras.Model(teacher.input, {"head": teacher.output, "low": layers.Dense(4, "softmax")(inner)}, name="both")
    student = net("student", seed=7, drop=0)
    plain = row(distilled([teacher], student, X, **STILL))["loss"]
    assert row(distilled([both], student, X, **STILL))["loss"] == pytest.approx(plain, rel=1e-6)
    low = row(distilled([both], student, X, outputs={"both.low": "auto"}, **STILL))["loss"]
    p, q = np.asarray(both(X)["low"], np.float64), np.asarray(student(X), np.float64)
    assert low == pytest.approx(kl(p, q).mean(), rel=1e-4)
    with pytest.raises(OptionError, match="of the architecture of both, which has several outputs"):
        distilled([both], None, X, outputs={"both.low": "auto"})
    with pytest.raises(MismatchError, match="graftwork extract MODEL --at head"):
        distilled([teacher], both, X)
    import graftwork as gw

    assert distilled([teacher], gw.extract(both, "head", name="one"), X).model.output_shape == (None, 4)

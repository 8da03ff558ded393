"""Surgery on models: extract, split, graft, insert, remove, replace, rename. All that stays gives the same to the last bit."""

import keras
import numpy as np
import pytest
from composed import check, compose, reloaded, same
from keras import layers as kl

from graftwork.compose import VERBS
from graftwork.errors import MismatchError, OptionError, UnknownNameError

pytestmark = pytest.mark.keras
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
IDS = np.array([[1, 2, 3, 0, 0], [4, 0, 0, 0, 0], [5, 6, 7, 8, 0]])
PAIR = {"left": RNG.normal(size=(3, 4)).astype("float32"), "right": RNG.normal(size=(3, 4)).astype("float32")}


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(1)


@pytest.fixture
def net():
    """A residual block between two convolutions and a classifier, with moved BatchNormalization statistics."""
    image = keras.Input((8, 8, 3), name="image")
    x = kl.ReLU(name="relu")(kl.Conv2D(4, 3, padding="same", name="first")(image))
    y = kl.Dropout(0.5, name="drop")(
        kl.BatchNormalization(name="norm")(kl.Conv2D(4, 3, padding="same", name="second")(x))
    )
    y = kl.GlobalAveragePooling2D(name="pool")(kl.Add(name="add")([x, y]))
    model = keras.Model(image, kl.Dense(5, activation="softmax", name="top")(y), name="net")
    norm = model.get_layer("norm")
    norm.moving_mean.assign(RNG.normal(size=4))
    norm.moving_variance.assign(RNG.uniform(0.5, 2, size=4))
    return model


@pytest.fixture
def siamese():
    """One tower on two inputs; dictionaries in and out."""
    tower = keras.Sequential([keras.Input((4,)), kl.Dense(4, name="dense"), kl.ReLU(name="act")], name="tower")
    given = {"left": keras.Input((4,), name="left"), "right": keras.Input((4,), name="right")}
    one, other = tower(given["left"]), tower(given["right"])
    return keras.Model(given, {"likeness": kl.Dot(1, name="dot")([one, other]), "code": one}, name="siamese")


@pytest.fixture
def text():
    """Embedding with a mask, two LSTM layers, one output."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    x = kl.Embedding(9, 4, mask_zero=True, name="embed")(ids)
    x = kl.LSTM(3, return_sequences=True, name="one")(x)
    return keras.Model(ids, kl.Dense(2, name="top")(kl.LSTM(3, name="two")(x)), name="text")


def inside(model, layer):
    """Return what a layer gives, by Keras's own way to a sub-model."""
    return keras.Model(model.input, model.get_layer(layer).output)


def weights(model):
    return {f"{layer.name}/{v.name}": np.asarray(v) for layer in model.layers for v in layer.weights}


# Extract ----------------------------------------------------------------------------------------------------------------


def test_extract_gives_what_the_layer_gave(net):
    made = compose("extract", net, at="add")
    model = check(made, IMAGES)
    same(model(IMAGES), inside(net, "add")(IMAGES))
    assert [layer.name for layer in model.layers] == ["image", "first", "relu", "second", "norm", "drop", "add"]


@pytest.mark.parametrize(("at", "kind"), [(["add", "relu"], list), ({"deep": "add", "shallow": "relu"}, dict)])
def test_several_taps_come_out_as_they_were_asked_for(net, at, kind):
    model = check(compose("extract", net, at=at), IMAGES)
    found = model(IMAGES)
    assert isinstance(found, kind)
    same(list(found.values()) if kind is dict else found, [inside(net, "add")(IMAGES), inside(net, "relu")(IMAGES)])


def test_extract_between_tensors(net):
    made = compose("extract", net, at="top", start="add")
    features = np.asarray(inside(net, "add")(IMAGES))
    model = check(made, features)
    same(model(features), net(IMAGES))
    both = check(compose("extract", net, at="add", start={"x": "relu", "y": "drop"}), {"x": features, "y": features})
    same(both({"x": features, "y": features}), features * 2)


def test_extract_refuses_starts_past_which_something_goes(net):
    with pytest.raises(MismatchError) as refusal:
        compose("extract", net, at="top", start="drop")
    assert "'relu' passes by" in str(refusal.value) and "'relu' before and 'add' after" in str(refusal.value)
    with pytest.raises(OptionError, match="'add' of a does not lead to"):
        compose("extract", net, at="relu", start=["first", "add"])
    with pytest.raises(OptionError, match="named twice"):
        compose("extract", net, at=["add", "add"])


def test_extract_from_nested_models_with_only_the_inputs_it_needs(siamese):
    made = compose("extract", siamese, at="tower#2/dense")
    model = check(made, {"right": PAIR["right"]})
    assert list(model.input) == ["right"]
    assert "'left' of a is not needed and not an input of the result" in made.notes
    kernel, bias = siamese.get_layer("tower").get_weights()
    np.testing.assert_allclose(model({"right": PAIR["right"]}), PAIR["right"] @ kernel + bias, rtol=1e-5, atol=1e-6)
    both = check(compose("extract", siamese, at=["tower#1/act", "tower#2/act"]), PAIR)
    assert both.count_params() == 20  # the tower is there once
    with pytest.raises(OptionError, match="does not say which call"):
        compose("extract", siamese, at="tower/act")


def test_extract_one_of_the_tensors_of_a_layer():
    x = keras.Input((4, 2), name="x")
    out, state, cell = kl.LSTM(3, return_state=True, name="lstm")(x)
    model = keras.Model(x, kl.Dense(2, name="top")(kl.Concatenate(name="cat")([out, state, cell])))
    values = RNG.normal(size=(2, 4, 2)).astype("float32")

    cell_alone = check(compose("extract", model, at="lstm[2]"), values)

    same(cell_alone(values), keras.Model(x, cell)(values))
    made = compose("split", model, at=["lstm[0]", "lstm[1]", "lstm[2]"])
    trunk = check(made, values)
    assert list(trunk.output) == ["lstm_0", "lstm_1", "lstm_2"]
    same(reloaded(made.more["head"])(trunk(values)), model(values))
    with pytest.raises(MismatchError, match=r"'lstm\[2\]'"):
        compose("split", model, at=["lstm[0]", "lstm[1]"])


# Split ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["relu", "add", ["relu", "drop"], {"here": "pool"}])
def test_trunk_and_head_are_the_model_again(net, at):
    made = compose("split", net, at=at)
    trunk, head = check(made, IMAGES), reloaded(made.more["head"])
    same(head(trunk(IMAGES)), net(IMAGES))
    joined = compose("chain", {"trunk": made.model, "head": made.more["head"]})
    same(check(joined, IMAGES)(IMAGES), net(IMAGES))
    assert trunk.count_params() + head.count_params() == net.count_params()
    assert (trunk.name, head.name) == ("a_trunk", "a_head")


def test_a_cut_inside_a_residual_is_refused(net):
    with pytest.raises(MismatchError) as refusal:
        compose("split", net, at="norm")
    assert str(refusal.value) == (
        "'a' cannot be cut at 'norm': 'relu' is made before and used behind it; cut there as well, or the nearest clean cuts are 'relu' "
        "before and 'add' after"
    )
    for at, side in (("image", "before"), ("top", "behind")):
        with pytest.raises(MismatchError, match=f"there is nothing {side} it"):
            compose("split", net, at=at)


def test_layers_on_both_sides_keep_sharing_by_being_refused(siamese):
    with pytest.raises(MismatchError, match="the layer 'tower' is called before and behind it"):
        compose("split", siamese, at="tower#1")
    made = compose("split", siamese, at=["tower#1", "tower#2"])
    same(made.more["head"](check(made, PAIR)(PAIR)), siamese(PAIR))


def test_inputs_that_only_the_head_needs_are_its_own():
    image, facts = keras.Input((4,), name="image"), keras.Input((2,), name="facts")
    deep = kl.Dense(3, name="deep")(image)
    model = keras.Model([image, facts], kl.Dense(2, name="top")(kl.Concatenate(name="cat")([deep, facts])))

    made = compose("split", model, at="deep")

    assert made.notes == ("the head also takes 'facts', which the trunk does not need",)
    values = [PAIR["left"], PAIR["right"][:, :2]]
    features = np.asarray(check(made, values[0])(values[0]))
    same(made.more["head"]({"deep": features, "facts": values[1]}), model(values))


def test_a_split_in_a_nested_model():
    inner_in = keras.Input((4,), name="inner_in")
    inner = keras.Model(inner_in, kl.Dense(3, name="top")(kl.Dense(4, name="low")(inner_in)), name="inner")
    x = keras.Input((4,), name="x")
    model = keras.Model(x, kl.Dense(2, name="top")(inner(kl.Rescaling(2.0, name="scale")(x))), name="outer")

    made = compose("split", model, at="inner/low")

    same(made.more["head"](check(made, PAIR["left"])(PAIR["left"])), model(PAIR["left"]))
    assert [layer.name for layer in made.more["head"].layers] == ["low", "inner_top", "top"]


# Masks ------------------------------------------------------------------------------------------------------------------


def test_masks_that_pass_by_a_cut_are_refused_or_carried(text):
    mask = next(each.name for each in text.operations if each.name.startswith("not_equal"))  # numbered by Keras
    for at in ("embed", "one"):
        with pytest.raises(MismatchError, match=f"cut at \\[{at}, {mask}\\] to carry the mask along"):
            compose("split", text, at=at)
    made = compose("split", text, at=["one", mask])
    trunk, head = check(made, IDS), reloaded(made.more["head"])
    values = {name: np.asarray(value) for name, value in trunk(IDS).items()}  # no mask hangs on an array
    same(head(values), text(IDS))
    made = compose("split", text, at="two")
    same(made.more["head"](check(made, IDS)(IDS)), text(IDS))


def test_masks_that_no_tensor_shows_are_found(text):
    """A nested model hands a mask on only when it runs: nothing in the graph says so."""
    ids = keras.Input((5,), dtype="int32", name="ids")
    front = keras.Model(text.input, text.get_layer("embed").output, name="front")
    model = keras.Model(ids, kl.Dense(2, name="top")(kl.LSTM(3, name="two")(front(ids))), name="outer")

    for verb, options in (("split", {"at": "front"}), ("extract", {"at": "top", "start": "front/embed"})):
        with pytest.raises(MismatchError, match="carries a mask, which 'two' behind it uses"):
            compose(verb, model, **options)
    opened = check(compose("insert", model, layer="LayerNormalization", after="front/embed"), IDS)
    before = opened(IDS)
    table = opened.get_layer("embed").embeddings
    table.assign(np.concatenate([np.full((1, 4), 99.0), np.asarray(table)[1:]]))
    same(opened(IDS), before)  # what stands for nothing is still masked


# Insert, remove, replace ------------------------------------------------------------------------------------------------


def test_insert_changes_what_all_that_follows_takes(net):
    made = compose("insert", net, layer={"Rescaling": {"scale": 2.0}}, after="relu")
    model = check(made, IMAGES)
    behind = keras.Model(net.get_layer("relu").output, net.output)
    same(model(IMAGES), behind(inside(net, "relu")(IMAGES) * 2))
    for name, value in weights(net).items():
        np.testing.assert_array_equal(weights(model)[name], value)


def test_insert_before_changes_what_one_layer_takes(net):
    made = compose("insert", net, layer=["BatchNormalization", {"Rescaling": {"scale": -3.0}}], before="second")
    model = check(made, IMAGES)
    assert made.notes == ("batch_normalization adds 16 untrained parameters",)
    relu = inside(net, "relu")(IMAGES)
    scaled = relu / np.sqrt(np.float32(1.001)) * -3
    norm, second = net.get_layer("norm"), net.get_layer("second")
    np.testing.assert_allclose(inside(model, "add")(IMAGES), relu + norm(second(scaled)), rtol=1e-4, atol=1e-5)


def test_insert_at_the_ends(net):
    changed = check(compose("insert", net, layer={"Rescaling": {"scale": 0.5}}, after="image"), IMAGES)
    same(changed(IMAGES), net(IMAGES * np.float32(0.5)))
    made = compose("insert", net, layer={"Dense": {"units": 2, "name": "more"}}, after="top")
    assert check(made, IMAGES).output_shape == (None, 2)
    assert made.notes == (
        "the output is (None, 2) float32 where it was (None, 5) float32",
        "more adds 12 untrained parameters",
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        (
            {"layer": {"Dense": {"units": 9}}, "after": "relu"},
            MismatchError,
            "(None, 8, 8, 9) float32, but what is behind it takes",
        ),
        (
            {"layer": {"Conv1D": {"filters": 2, "kernel_size": 1}}, "after": "relu"},
            OptionError,
            "cannot take (None, 8, 8, 4)",
        ),
        ({"layer": "ReLU", "before": "add"}, OptionError, "takes 2 tensors, 'relu', 'drop'"),
        ({"layer": "ReLU", "before": "image"}, OptionError, "is an input"),
        ({"layer": "ReLU"}, OptionError, "after= or with before="),
        ({"layer": [], "after": "relu"}, OptionError, "is empty"),
        ({"layer": "RELU", "after": "relu"}, UnknownNameError, "did you mean"),
        ({"layer": "ReLU", "after": "rely"}, UnknownNameError, "did you mean 'relu'"),
    ],
)
def test_insertions_that_make_no_sense_are_refused(net, options, error, said):
    with pytest.raises(error) as refusal:
        compose("insert", net, **options)
    assert said in str(refusal.value)


def test_remove_lets_what_follows_take_the_input(net, siamese):
    made = compose("remove", net, at=["drop", "relu"])
    model = check(made, IMAGES)
    first = inside(net, "first")(IMAGES)
    np.testing.assert_allclose(
        inside(model, "add")(IMAGES),
        first + net.get_layer("norm")(net.get_layer("second")(first)),
        rtol=1e-5,
        atol=1e-6,
    )
    linear = check(compose("remove", siamese, at="tower/act"), PAIR)
    kernel, bias = siamese.get_layer("tower").get_weights()
    np.testing.assert_allclose(linear(PAIR)["code"], PAIR["left"] @ kernel + bias, rtol=1e-5, atol=1e-6)
    assert linear.count_params() == 20
    for at, said in (("add", "takes 2 and gives 1"), ("first", "cannot take its input"), ("image", "is an input")):
        with pytest.raises((MismatchError, OptionError), match=said):
            compose("remove", net, at=at)


def test_replace_calls_the_new_layer_as_the_old_one_was(net, siamese):
    product = check(compose("replace", net, at="add", layer="Multiply"), IMAGES)
    same(inside(product, "add")(IMAGES), inside(net, "relu")(IMAGES) * inside(net, "drop")(IMAGES))
    made = compose("replace", net, at="top", layer={"Dense": {"units": 7}})
    assert check(made, IMAGES).output_names == ["top"]
    assert made.notes == (
        "the output is (None, 7) float32 where it was (None, 5) float32",
        "top adds 35 untrained parameters",
    )
    shared = check(compose("replace", siamese, at="tower/dense", layer={"Dense": {"units": 4}}), PAIR)
    assert shared.count_params() == 20 and list(shared.output) == ["likeness", "code"]
    with pytest.raises(MismatchError, match="what comes in the place of 'first'"):
        compose("replace", net, at="first", layer={"Conv2D": {"filters": 8, "kernel_size": 3, "padding": "same"}})


# Graft ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def donor():
    image = keras.Input((8, 8, 3), name="picture")
    x = kl.Conv2D(6, 3, padding="same", name="first")(image)
    return keras.Model(image, kl.Conv2D(4, 1, name="last")(x), name="donor")


def test_graft_puts_the_donors_trunk_in_place(net, donor):
    made = compose("graft", net, donor, at="add")
    model = check(made, IMAGES)
    same(model(IMAGES), keras.Model(net.get_layer("add").output, net.output)(donor(IMAGES)))
    assert [layer.name for layer in model.layers] == ["image", "first", "last", "pool", "top"]
    assert made.notes == ("2 calls of b in the place of 6 calls of a",)


def test_graft_between_tensors_of_both(net, donor):
    made = compose(
        "graft", net, donor, at="drop", start="relu", donor_start="first", adapters={("host", "donor"): "dense"}
    )
    model = check(made, IMAGES)
    assert "a → b: adds 30 untrained parameters" in made.notes
    relu, dense = inside(net, "relu")(IMAGES), model.get_layer("a_to_b_dense")
    behind = keras.Model([net.get_layer("relu").output, net.get_layer("drop").output], net.output)
    same(model(IMAGES), behind([relu, donor.get_layer("last")(dense(relu))]))


def test_grafts_that_do_not_fit_are_refused(net, donor):
    with pytest.raises(MismatchError, match=r"b → a: .*\(None, 8, 8, 4\).*\(None, 4\).*the adapter gap would fit"):
        compose("graft", net, donor, at="pool")
    assert check(compose("graft", net, donor, at="pool", adapters={"donor:host": "gap"}), IMAGES).output_shape == (
        None,
        5,
    )
    with pytest.raises(MismatchError, match="'relu' of a is made inside the piece and used outside it"):
        compose("graft", net, donor, at="norm")
    with pytest.raises(MismatchError, match="at of a is made of more than start: 'relu' is used too"):
        compose("graft", net, donor, at="add", start="norm")
    with pytest.raises(UnknownNameError, match="host:donor"):
        compose("graft", net, donor, at="add", adapters={"a:b": "dense"})
    with pytest.raises(MismatchError, match="name as many tensors of both"):
        compose("graft", net, donor, at="add", start=["relu", "drop"])


# Rename -----------------------------------------------------------------------------------------------------------------


def test_rename_changes_names_alone(net):
    made = compose("rename", net, mapping={"first": "second", "second": "first", "image": "photo"}, name="other")
    model = check(made, IMAGES)
    same(model(IMAGES), net(IMAGES))
    assert model.name == "other"
    assert [layer.name for layer in model.layers] == [
        "photo",
        "second",
        "relu",
        "first",
        "norm",
        "drop",
        "add",
        "pool",
        "top",
    ]
    prefixed = check(compose("rename", net, prefix="b_", mapping={"top": "scores"}), IMAGES)
    assert [layer.name for layer in prefixed.layers][1:3] == ["b_first", "b_relu"] and prefixed.output_names == [
        "scores"
    ]


def test_rename_in_nested_models_and_of_keys(siamese):
    names = {"tower": "encoder", "tower/dense": "projection", "left": "query", "dot": "similarity"}
    model = check(compose("rename", siamese, mapping=names), {"query": PAIR["left"], "right": PAIR["right"]})
    assert list(model.input) == ["query", "right"]
    assert [layer.name for layer in reloaded(model).get_layer("encoder").layers] == ["projection", "act"]
    same(model({"query": PAIR["left"], "right": PAIR["right"]}), siamese(PAIR))
    assert siamese.get_layer("tower").layers[0].name == "dense"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "nothing is renamed"),
        ({"mapping": {"first": "second"}}, "two layers of 'a' would be called 'second'"),
        ({"mapping": {"first": "a/b"}}, "nothing can be called 'a/b'"),
        ({"mapping": {"firsd": "a"}}, "did you mean 'first'"),
        ({"mapping": {"first#1": "a"}}, "only layers have names"),
        ({"prefix": "/"}, "nothing can be called"),
        ({"name": ""}, "nothing can be called ''"),
    ],
)
def test_names_that_cannot_be_are_refused(net, options, said):
    with pytest.raises((OptionError, MismatchError, UnknownNameError)) as refusal:
        compose("rename", net, **options)
    assert said in str(refusal.value)


# Models of all kinds ----------------------------------------------------------------------------------------------------


def transformer():
    x = keras.Input((6, 4), name="x")
    attended, scores = kl.MultiHeadAttention(2, 3, name="attention")(x, value=x, return_attention_scores=True)
    y = kl.LayerNormalization(name="norm")(kl.Add(name="residual")([x, attended]))
    y = kl.GlobalAveragePooling1D(name="average")(kl.Dense(4, activation="gelu", name="mlp")(y))
    weighed = keras.ops.mean(scores, axis=(1, 2, 3), keepdims=False)
    return keras.Model(x, kl.Dense(2, name="top")(y * keras.ops.expand_dims(weighed, -1)))


def words():
    x = keras.Input((), dtype="string", name="x")
    ids = kl.TextVectorization(vocabulary=["a", "good", "bad", "film"], output_sequence_length=5, name="vectorize")(x)
    y = kl.Embedding(7, 4, mask_zero=True, name="embed")(ids)
    return keras.Model(x, kl.Dense(2, name="top")(kl.Bidirectional(kl.GRU(3), name="both")(y)))


def half():
    x = keras.Input((6, 4), name="x")
    y = kl.Dense(8, dtype="mixed_float16", name="half")(x)
    return keras.Model(x, kl.Dense(2, dtype="float32", name="top")(kl.Flatten(name="flat", dtype="mixed_float16")(y)))


def adapted():
    x = keras.Input((6, 4), name="x")
    norm = kl.Normalization(name="norm")
    norm.adapt(RNG.normal(3, 5, size=(50, 6, 4)))
    return keras.Model(x, kl.Dense(2, name="top")(kl.Conv1D(4, 3, name="conv")(norm(x))))


SERIES = RNG.normal(size=(2, 6, 4)).astype("float32")
WORDS = np.array(["a good film", "bad"], dtype=object)


@pytest.mark.parametrize(
    ("make", "at", "values"),
    [(transformer, "norm", SERIES), (words, "both", WORDS), (half, "half", SERIES), (adapted, "conv", SERIES)],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_every_kind_of_model_is_cut_changed_and_renamed_exactly(make, at, values):
    model = make()
    values = keras.ops.convert_to_tensor(values)
    whole = model(values)
    renamed = check(compose("rename", model, prefix="p_"), values)
    same(renamed(values), whole)
    grown = check(compose("insert", model, layer={"Activation": {"activation": "linear"}}, after=at), values)
    same(grown(values), whole)
    if make is transformer:  # the scores of attention pass by
        with pytest.raises(MismatchError, match=r"'attention\[1\]' is made before"):
            compose("split", model, at=at)
        at = [at, "attention[1]"]
    made = compose("split", model, at=at)
    same(made.more["head"](check(made, values)(values)), whole)


def test_layers_of_ones_own_and_lambdas_of_live_models_go_through():
    class Twice(kl.Layer):
        def call(self, x):
            return x * 2.0

    x = keras.Input((4,), name="x")
    y = kl.Lambda(lambda z: z + 1.0, name="more")(Twice(name="twice")(kl.Dense(3, name="dense")(x)))
    model = keras.Model(x, kl.Dense(2, name="top")(y))

    made = compose("split", model, at="more")

    same(made.more["head"](made.model(PAIR["left"])), model(PAIR["left"]))
    same(made.reference(PAIR["left"]), made.model(PAIR["left"]))


def test_results_train_and_frozen_layers_stay_as_they_are(net):
    net.get_layer("norm").trainable = False
    net.get_layer("first").trainable = False
    model = compose("insert", net, layer={"Dense": {"units": 4}}, before="pool").model
    before = weights(model)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(IMAGES, np.array([0, 1, 2]), epochs=2, verbose=0)
    moved = {name for name, value in weights(model).items() if not np.array_equal(value, before[name])}
    assert {name.partition("/")[0] for name in moved} == {"second", "dense", "top"}


def test_every_verb_of_surgery_is_here():
    assert {"extract", "split", "graft", "insert", "remove", "replace", "rename"} <= set(VERBS)


def test_what_tensors_are_is_found_without_augmentation():
    """Keras notes down `training=True` for layers of augmentation called without a word; results are compared with what `predict` does."""
    from graftwork.compose.addresses import taps
    from graftwork.compose.observing import observed

    image = keras.Input((4, 4, 1))
    inner = keras.Sequential([keras.Input((4, 4, 1)), kl.RandomTranslation(0.9, 0.9, seed=1), kl.Flatten(name="flat")])
    inner.name = "inner"
    moved = kl.RandomTranslation(0.9, 0.9, fill_mode="constant", seed=2, name="moved")(image)
    model = keras.Model(image, kl.Dense(2)(inner(moved)))
    x = np.random.default_rng(0).random((8, 4, 4, 1), dtype="float32")
    found = observed(model, taps(model, ["moved", "inner/flat"]), {id(model.inputs[0]): x})
    np.testing.assert_array_equal(found[0], x)
    np.testing.assert_array_equal(found[1], x.reshape(8, 16))

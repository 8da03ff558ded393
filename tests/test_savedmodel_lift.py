"""Variables lifted out of SavedModels and checkpoints into Keras 3 models: each in its place, or a refusal that says what would help."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graftwork as gw
from graftwork.api import savedmodel
from graftwork.ckpt.counterparts import Order, by_names, counterparts
from graftwork.errors import MismatchError, OptionError, OutputError, StoreError
from graftwork.stores import open_store
from graftwork.tensor import Role, TensorSpec
from tests import tf_files

# Counterparts -------------------------------------------------------------------------------------------------------


def specs(*shaped):
    """Tensors of these names and shapes."""
    return {name: TensorSpec(name=name, shape=shape, dtype="float32") for name, shape in shaped}


def layers(names, shape=(2, 2)):
    """A kernel and a bias for each layer."""
    return specs(*((f"{name}/{leaf}", s) for name in names for leaf, s in (("kernel", shape), ("bias", shape[-1:]))))


def found(target, source, ours=None, theirs=None):
    """What each tensor gets its values from."""
    return {name: counterpart.name for name, counterpart in counterparts(target, source, ours, theirs).items()}


words = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=5, unique=True)


@given(kinds=words, counts=st.data(), shift=st.integers(1, 40), prefix=st.sampled_from(["", "net/", "a/b/"]))
def test_every_layer_shifted_by_a_number_and_put_behind_a_prefix_is_found(kinds, counts, shift, prefix):
    """All shapes are equal, so names alone tell; equal names would lead half of them astray."""
    if prefix.count("/") > 1 and shift:  # one part may be left out while numbers change, not two
        shift = 0
    numbers = {kind: counts.draw(st.integers(1, 5)) for kind in kinds}
    listed = [(kind, k) for kind in kinds for k in range(numbers[kind])]
    theirs = [f"{kind}_{k}" if k else kind for kind, k in listed]
    ours = [f"{kind}_{k + shift}" if k + shift else kind for kind, k in listed]
    source = layers([prefix + name for name in theirs])
    wanted = dict(zip(layers(ours), source, strict=True))
    assert found(layers(ours), dict(counts.draw(st.permutations(list(source.items()))))) == wanted


@given(
    names=st.lists(
        st.sampled_from(["a", "a_1", "a_2", "b", "b_1", "n/a", "n/a_1", "n/b"]), min_size=1, max_size=6, unique=True
    ),
    others=st.lists(
        st.sampled_from(["a", "a_1", "a_3", "b", "b_2", "n/a", "m/a_1", "m/n/b"]), min_size=1, max_size=6, unique=True
    ),
    sizes=st.lists(st.sampled_from([1, 2]), min_size=12, max_size=12),
)
def test_no_tensor_is_used_twice_or_in_another_shape(names, others, sizes):
    """Whatever the names are."""
    target = specs(*((f"{n}/kernel", (s,)) for n, s in zip(names, sizes, strict=False)))
    source = specs(*((f"{n}/kernel", (s,)) for n, s in zip(others, sizes[6:], strict=False)))
    pairs = found(target, source)
    assert len(set(pairs.values())) == len(pairs)
    assert all(target[name].shape == source[other].shape for name, other in pairs.items())
    assert all(pairs[name] == name for name in pairs if name in source and target.keys() <= source.keys())


def test_layers_that_are_shifted_irregularly_are_not_told_by_their_numbers():
    """Equal names count then, and the rest is left to whoever knows."""
    pairs = found(layers(["d_2", "d_4", "d_5"]), layers(["d_1", "d_2", "d_4"]))
    assert "d_5/kernel" not in pairs


def test_two_prefixes_that_would_do_are_none():
    """Two towers of one architecture: nothing says which."""
    source = layers(["left/d", "left/e", "right/d", "right/e"])
    assert not found(layers(["d", "e"]), source)
    assert not by_names(layers(["d", "e"]), source)
    assert len(by_names(layers(["d", "e"]), layers(["left/d", "left/e", "right/d"]))) == 4


def test_an_equal_name_in_another_shape_is_no_reason_to_take_another_tensor():
    """`head` has changed its size; that some other layer ends alike does not make it the head."""
    target = specs(("head/kernel", (4, 2)), ("a/kernel", (3, 3)))
    source = specs(("head/kernel", (4, 9)), ("old/head/kernel", (4, 2)), ("a/kernel", (3, 3)))
    assert found(target, source) == {"a/kernel": "a/kernel"}


@pytest.mark.parametrize("other", ["kernel", "old/head/kernel", "head_1/kernel"])
def test_nor_is_a_whole_model_that_another_way_explains(other):
    """Even where one prefix or number would explain all of it."""
    assert not found(specs(("head/kernel", (1,))), specs(("head/kernel", (2,)), (other, (1,))))


def test_the_order_counts_only_if_it_fits_in_every_place():
    """One last part of a name or one shape that differs, and the order says nothing."""
    target, source = layers(["x", "y"]), layers(["p", "q"])

    def order(of, leaves="kernel bias kernel bias"):
        return Order(names=tuple(of), leaves=tuple(leaves.split()))

    assert found(target, source, order(target), order(source)) == dict(zip(target, source, strict=True))
    assert not found(target, source, order(target), order(source, "kernel bias kernel beta"))
    other = specs(("p/kernel", (2, 2)), ("p/bias", (2,)), ("q/kernel", (2, 3)), ("q/bias", (2,)))
    assert not found(target, other, order(target), order(other))


def test_counters_and_seeds_are_not_needed_and_depthwise_kernels_are_spelled_in_two_ways():
    """What a model computes the same without may be missing."""
    target = {
        **specs(("d/kernel", (3, 3, 2, 1))),
        "n/count": TensorSpec(name="n/count", shape=(), dtype="int64", role=Role.COUNTER),
    }
    assert found(target, specs(("net/d/depthwise_kernel", (3, 3, 2, 1)))) == {"d/kernel": "net/d/depthwise_kernel"}


# Lifted -------------------------------------------------------------------------------------------------------------

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")
k2 = pytest.importorskip("tf_keras")
k3 = keras.layers

rng = np.random.default_rng(0)
slow = pytest.mark.keras


def filled(model):
    """Give every variable values of its own, statistics too."""
    for variable in model.weights:
        low = 0.5 if "variance" in variable.name else -0.5
        variable.assign(rng.uniform(low, low + 1, variable.shape).astype("float32"))
    return model


def dense(name="dense", units=2, names=(None, None), activation=None):
    """Two layers of the same shape."""
    return keras.Sequential(
        [keras.Input((units,)), k3.Dense(units, name=names[0], activation=activation), k3.Dense(units, name=names[1])],
        name=name,
    )


def mobile():
    """A real model inside another, with layers that Keras names, and dropout, whose state is exported too."""
    image = keras.Input((32, 32, 3))
    trunk = keras.applications.MobileNetV2((32, 32, 3), alpha=0.35, include_top=False, weights=None)
    shared = k3.Dense(1280, use_bias=False)
    x = k3.GlobalAveragePooling2D()(trunk(k3.Conv2D(3, 1)(image)))
    return keras.Model(image, k3.Dense(5)(k3.Dropout(0.5)(shared(shared(x)))))


def values(model):
    """The values of all weights."""
    return [np.array(v) for v in model.weights]


def same(model, other):
    """Whether two models have the same values."""
    return all(np.array_equal(a, b) for a, b in zip(values(model), values(other), strict=True))


@slow
def test_an_export_of_a_real_model_goes_into_a_fresh_one_whose_layers_have_other_names(tmp_path):
    """260 variables of MobileNetV2, bit for bit, and the answers of the export."""
    trained = filled(mobile())
    trained.export(tmp_path / "served", verbose=False)
    fresh = mobile()
    assert {v.path for v in fresh.weights} != {v.path for v in trained.weights}
    before, report = values(fresh), []
    lifted = savedmodel.lift(tmp_path / "served", fresh, report=report)
    assert same(lifted, trained)
    assert any("the model answers as signature 'serving_default' of served does" in note for note in report)
    assert all(np.array_equal(a, b) for a, b in zip(before, values(fresh), strict=True))
    image = rng.normal(size=(3, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(lifted(image), trained(image), rtol=1e-5, atol=1e-6)


@slow
def test_the_table_says_for_every_tensor_where_it_comes_from_and_what_is_left_over(tmp_path):
    """From files alone, before anything is made."""
    filled(mobile()).export(tmp_path / "served", verbose=False)
    mobile().save(tmp_path / "into.keras")
    from graftwork.api.steps import foresee

    report = foresee("savedmodel_lift", {"source": tmp_path / "served", "into": tmp_path / "into.keras"}, {}, {})
    with open_store(tmp_path / "into.keras") as into, open_store(tmp_path / "served") as served:
        rows = {row["tensor"]: row for row in report.tables["lifted"]}
        assert rows.keys() == into.specs().keys()
        assert all(row["from"] == "served" and row["by"] == "the order of the variables" for row in rows.values())
        left = {row["name there"] for row in report.tables["unused"]}
        assert left | {row["name there"] for row in rows.values()} == served.specs().keys()
        assert all(served.specs()[name].role is Role.SEED for name in left)


@slow
def test_what_another_computation_would_make_of_the_values_is_refused(tmp_path):
    """The same variables in a model that does something else with them; nothing is written, unless that is asked for."""
    filled(dense()).export(tmp_path / "served", verbose=False)
    dense(activation="tanh").save(tmp_path / "into.keras")
    target = tmp_path / "out.keras"
    with pytest.raises(StoreError, match=r"does not say what signature 'serving_default' of served says.*--no-check"):
        savedmodel.lift(tmp_path / "served", tmp_path / "into.keras", output=target)
    assert not target.exists()
    report = []
    savedmodel.lift(tmp_path / "served", tmp_path / "into.keras", output=target, check=False, report=report)
    assert "not compared with the source, as asked" in report
    assert keras.saving.load_model(target)


@slow
def test_layers_in_another_order_are_refused_and_a_map_solves_it(tmp_path):
    """The same shapes in both places and no name that tells: the order would do it wrongly, so all must fit."""
    model = filled(dense(names=("first", "second")))
    tf.saved_model.save(plain(model), tmp_path / "served")
    into = dense("into", names=("one", "two"))
    with pytest.raises(MismatchError) as refused:
        savedmodel.lift(tmp_path / "served", into)
    assert "'one/kernel' of into could be 'first/kernel' or 'second/kernel' of served" in str(refused.value)
    assert "--map OLD=NEW, such as 'first/kernel=one/kernel')" in str(refused.value)
    rules = {"first/(.*)": r"two/\1", "second/(.*)": r"one/\1"}
    with pytest.raises(StoreError, match="does not say what"):
        savedmodel.lift(tmp_path / "served", into, map=rules)
    rules = {"first/(.*)": r"one/\1", "second/(.*)": r"two/\1"}
    assert same(savedmodel.lift(tmp_path / "served", into, map=rules), model)
    with pytest.raises(OptionError, match="leads from 'first/bias' to 'none/bias'"):
        savedmodel.lift(tmp_path / "served", into, map={"first/(.*)": r"none/\1"})


def plain(model, prefix=""):
    """A `tf.Module` with the variables of a Sequential model, by names, and a signature."""
    module = tf.Module()
    for layer in model.layers:
        for leaf in ("kernel", "bias"):
            name = f"{prefix}{layer.name}/{leaf}"
            setattr(module, f"{layer.name}_{leaf}", tf.Variable(getattr(layer, leaf), name=name))

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="x")])
    def serving_default(x):
        for layer in model.layers:
            x = x @ getattr(module, f"{layer.name}_kernel") + getattr(module, f"{layer.name}_bias")
        return {"y": x}

    module.serving_default = serving_default
    return module


@slow
def test_a_module_under_a_scope_and_other_numbers_is_told_by_names(tmp_path):
    """`tower/dense_1` is `dense_7`."""
    model = filled(dense(names=("dense_1", "dense_2")))
    tf.saved_model.save(plain(model, "tower/"), tmp_path / "served")
    report = []
    assert same(savedmodel.lift(tmp_path / "served", dense(names=("dense_2", "dense_3")), report=report), model)
    assert "4 tensors are told apart by the same kind of layer under another number" in report


@slow
def test_variables_of_tensorflow_1_are_lifted_and_compared(tmp_path):
    """A graph with batch statistics, saved with its optimizer's slots by `tf.compat.v1`."""
    v1 = tf.compat.v1
    kernel, gamma = (rng.normal(size=s).astype("float32") for s in ((3, 4), 4))
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 3), name="x")
        with v1.variable_scope("net"):
            made = {}
            for name, value in (
                ("fc/kernel", kernel),
                ("fc/bias", gamma + 1),
                ("bn/gamma", gamma),
                ("bn/beta", gamma * 2),
                ("bn/moving_mean", gamma * 3),
                ("bn/moving_variance", gamma**2 + 1),
            ):
                made[name] = v1.get_variable(name, initializer=value, trainable="moving" not in name, use_resource=True)
        hidden = x @ made["fc/kernel"] + made["fc/bias"]
        y = tf.nn.batch_normalization(
            hidden, made["bn/moving_mean"], made["bn/moving_variance"], made["bn/beta"], made["bn/gamma"], 1e-3
        )
        v1.train.AdamOptimizer().minimize(tf.reduce_sum(y), global_step=v1.train.get_or_create_global_step())
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "served"), {"x": x}, {"y": y})
    into = keras.Sequential([keras.Input((3,)), k3.Dense(4, name="fc"), k3.BatchNormalization(name="bn", epsilon=1e-3)])
    report = []
    lifted = savedmodel.lift(tmp_path / "served", into, report=report)
    np.testing.assert_array_equal(lifted.layers[0].kernel, kernel)
    np.testing.assert_array_equal(lifted.layers[1].moving_variance, gamma**2 + 1)
    assert any("the model answers as signature" in note for note in report)


@slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_a_savedmodel_of_keras_2_goes_into_the_same_model_built_anew(tmp_path, precision):
    """Nested and shared layers under the numbers of another session, the names told by its own configuration."""

    def make(k, dense_names):
        layers_ = k.layers
        image = k.Input((8, 8, 3))
        inner = k.Sequential([layers_.Conv2D(4, 3), layers_.BatchNormalization()], name="inner")
        features = k.Input((4,))
        head = k.Model(features, layers_.Dense(4, name=dense_names[0])(features), name="head")
        shared = layers_.Dense(4, name=dense_names[1])
        x = layers_.GlobalAveragePooling2D()(inner(image))
        return k.Model(image, layers_.Dense(2, name=dense_names[2], dtype="float32")(shared(head(shared(x)))))

    for k in (k2, keras):
        k.mixed_precision.set_global_policy(precision) if k is k2 else keras.config.set_dtype_policy(precision)
    try:
        old = make(k2, ("a", "b", "c"))
        for variable in old.weights:
            low = 0.5 if "variance" in variable.name else -0.5
            variable.assign(rng.uniform(low, low + 1, variable.shape).astype("float32"))
        old.save(tmp_path / "served")
        new = make(keras, ("p", "q", "r"))
        report = []
        lifted = savedmodel.lift(tmp_path / "served", new, report=report)
    finally:
        k2.mixed_precision.set_global_policy("float32")
        keras.config.set_dtype_policy("float32")
    assert any("the model answers as signature" in note for note in report)
    theirs = {tuple(v.shape): v for v in old.weights if "kernel" in v.name and v.shape[0] != 4}
    for variable in lifted.weights:
        if variable.name == "kernel" and tuple(variable.shape) in theirs:
            np.testing.assert_array_equal(variable, theirs[tuple(variable.shape)])
    np.testing.assert_array_equal(
        lifted.layers[1].layers[1].moving_variance, old.get_layer("inner").layers[1].moving_variance
    )


@slow
def test_the_live_result_is_trained_and_frozen_as_the_model_was(tmp_path):
    """A copy: compiled likewise, with the same frozen layers, and the model itself as it was."""
    filled(dense()).export(tmp_path / "served", verbose=False)
    into = dense()
    into.layers[0].trainable = False
    into.compile("sgd", "mse", run_eagerly=True)
    lifted = savedmodel.lift(tmp_path / "served", into)
    assert [layer.trainable for layer in lifted.layers] == [False, True]
    before = values(lifted)
    lifted.fit(np.ones((4, 2)), np.zeros((4, 2)), verbose=0)
    moved = [not np.array_equal(a, b) for a, b in zip(before, values(lifted), strict=True)]
    assert moved == [False, False, True, True]


@slow
def test_heads_of_another_size_are_refused_unless_they_may_keep_their_values(tmp_path):
    """What is left over on either side is named; a part is lifted when asked."""
    source = filled(keras.Sequential([keras.Input((3,)), k3.Dense(4, name="body"), k3.Dense(9, name="head")]))
    source.export(tmp_path / "served", verbose=False)
    into = keras.Sequential([keras.Input((3,)), k3.Dense(4, name="body"), k3.Dense(5, name="head")], name="into")
    with pytest.raises(MismatchError, match=r"'head/kernel' of into has no counterpart") as caught:
        savedmodel.lift(tmp_path / "served", into)
    assert any("'sequential" in reason and "head/bias" in reason for reason in caught.value.reasons)
    report = []
    lifted = savedmodel.lift(tmp_path / "served", into, partial=True, report=report)
    np.testing.assert_array_equal(lifted.layers[0].kernel, source.layers[0].kernel)
    np.testing.assert_array_equal(lifted.layers[1].kernel, into.layers[1].kernel)
    assert any("2 of 4 tensors are assigned, 2 keep their values" in note for note in report)
    assert any("may have kept their values" in note for note in report)


def test_checkpoints_are_lifted_by_names_and_not_compared(tmp_path):
    """Of TensorFlow 1, written without TensorFlow; the result is any format that holds weights."""
    model = dense(names=("dense_1", "dense_2"))
    model.save(tmp_path / "into.keras")
    arrays = {
        f"net/{name}/{leaf}": rng.normal(size=s).astype("float32")
        for name in ("dense", "dense_1")
        for leaf, s in (("kernel", (2, 2)), ("bias", (2,)))
    }
    index = tf_files.checkpoint(tmp_path / "old.ckpt.index", {**arrays, "global_step": np.int64(7)})
    report = []
    savedmodel.lift(index, tmp_path / "into.keras", output=tmp_path / "out.weights.h5", report=report)
    with open_store(tmp_path / "out.weights.h5") as made:
        for (name, spec), array in zip(made.specs().items(), arrays.values(), strict=True):
            read = np.empty(spec.size, "float32")
            made.read_into(name, 0, read)
            np.testing.assert_array_equal(read, array.ravel(), err_msg=name)
    assert any("holds no program" in note for note in report)


def test_there_has_to_be_an_architecture_and_a_place_for_the_result(tmp_path):
    """Both are said before anything is read."""
    index = tf_files.checkpoint(tmp_path / "a.ckpt.index", {"w": np.ones(2, "float32")})
    with pytest.raises(MismatchError, match="holds no architecture"):
        savedmodel.lift(index, index, output=tmp_path / "out.keras")
    dense().save(tmp_path / "into.keras")
    with pytest.raises(OptionError, match="say where to write"):
        savedmodel.lift(index, tmp_path / "into.keras")
    arrays = {
        f"{n}/{leaf}": np.ones(s, "float32") for n in ("a", "b") for leaf, s in (("kernel", (2, 2)), ("bias", (2,)))
    }
    index = tf_files.checkpoint(tmp_path / "b.ckpt.index", arrays)
    dense(names=("a", "b")).save(tmp_path / "ab.keras")
    with pytest.raises(OutputError, match="source"):
        savedmodel.lift(index, tmp_path / "ab.keras", output=tmp_path / "ab.keras", overwrite=True)


@slow
def test_sizes_that_only_the_savedmodel_fixes_are_kept_when_it_is_asked(tmp_path):
    """A model for images of any size, and an export for batches of three of 11 by 11."""

    def make(size, batch=None):
        image = keras.Input((size, size, 2), batch_size=batch)
        return keras.Model(image, k3.Dense(2)(k3.GlobalMaxPooling2D()(k3.Conv2D(3, 3)(image))))

    model = filled(make(11, 3))
    model.export(tmp_path / "served", verbose=False)
    report = []
    assert same(savedmodel.lift(tmp_path / "served", make(None), report=report), model)
    assert any("the model answers as signature" in note for note in report)


@slow
def test_recipes_lift_and_go_on_with_the_result(tmp_path):
    """What is lifted is a model as any other to the steps behind it."""
    model = filled(dense())
    model.export(tmp_path / "served", verbose=False)
    dense().save(tmp_path / "into.keras")
    recipe = {
        "models": {"served": str(tmp_path / "served"), "into": str(tmp_path / "into.keras")},
        "steps": {
            "lifted": {"savedmodel_lift": {"source": "served", "into": "into"}},
            "twice": {"merge": {"method": "linear", "models": ["lifted", "lifted"], "weight": [0.5, 0.5]}},
        },
        "outputs": {"twice": str(tmp_path / "out.keras")},
    }
    gw.run(recipe)
    assert same(keras.saving.load_model(tmp_path / "out.keras"), model)


@slow
def test_convert_takes_a_savedmodel_whose_names_have_the_models_name_before_them(tmp_path):
    """As those of a Sequential model have; and states of random generators go nowhere."""
    model = keras.Sequential([keras.Input((3,)), k3.Dense(4), k3.Dropout(0.5), k3.Dense(2)], name="chain")
    filled(model).export(tmp_path / "served", verbose=False)
    model.save(tmp_path / "like.keras")
    result = gw.convert(tmp_path / "served", tmp_path / "out.keras", like=tmp_path / "like.keras")
    assert same(keras.saving.load_model(tmp_path / "out.keras"), model)
    assert any("random generators" in note for note in result.notes)
    other = keras.Sequential([keras.Input((3,)), k3.Dense(4, name="x"), k3.Dense(2, name="y")])
    other.save(tmp_path / "other.keras")
    with pytest.raises(MismatchError, match="savedmodel lift"):
        gw.convert(tmp_path / "served", tmp_path / "none.keras", like=tmp_path / "other.keras")


@slow
def test_the_order_of_a_configuration_is_the_order_of_the_live_models_variables(tmp_path):
    """Of layers with layers inside, wrappers and attention, which is what exports go by."""
    from graftwork.ckpt.lift import order_of_model

    words_ = keras.Input((6,), dtype="int32")
    x = k3.Embedding(9, 4)(words_)
    x = k3.Bidirectional(k3.LSTM(3, return_sequences=True))(x)
    x = k3.MultiHeadAttention(2, 3)(x, x)
    x = k3.TimeDistributed(k3.Dense(4))(k3.LayerNormalization()(x))
    x = k3.RNN(k3.StackedRNNCells([k3.GRUCell(3), k3.LSTMCell(2)]), return_sequences=True)(x)
    x = k3.BatchNormalization()(k3.SeparableConv1D(4, 2)(k3.GRU(4, return_sequences=True)(x)))
    model = keras.Model(words_, k3.Dense(2)(k3.GlobalMaxPooling1D()(k3.Dropout(0.1)(x))))
    for number, variable in enumerate(model.weights):
        variable.assign(np.full(variable.shape, number, "float32"))
    model.save(tmp_path / "m.keras")
    with open_store(tmp_path / "m.keras") as reader:
        order = order_of_model(reader)
        firsts = []
        for name in order.names:
            read = np.empty(reader.specs()[name].size, "float32")
            reader.read_into(name, 0, read)
            firsts.append(int(read[0]))
    assert firsts == list(range(len(model.weights)))
    assert list(order.leaves) == [v.path.rpartition("/")[2] for v in model.weights]

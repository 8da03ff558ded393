"""One checkpoint made of one: other names, other objects, some tensors, another dtype, and what TensorFlow restores of it."""

import re

import ml_dtypes
import numpy as np
import pytest
import tf_files
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import graftwork as gw
from graftwork.ckpt.moving import move
from graftwork.ckpt.names import rule_of
from graftwork.errors import GraftworkError, MismatchError, NonFiniteError, OptionError
from graftwork.stores import open_store
from graftwork.stores.tf_protos import Attribute, node_of

cast, drop, extract, ls, rename = (
    gw.checkpoints.cast,
    gw.checkpoints.drop,
    gw.checkpoints.extract,
    gw.checkpoints.ls,
    gw.checkpoints.rename,
)

TF1 = {
    "bert/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bert/kernel/Adam": np.full((2, 3), 2, np.float32),
    "bert/kernel/Adam_1": np.full((2, 3), 3, np.float32),
    "head/bias": np.array([1.5, -2, 1e-3], np.float32),
    "head/bias/Momentum": np.ones(3, np.float32),
    "beta1_power": np.array(0.9, np.float32),
    "global_step": np.array(7, np.int64),
}


@pytest.fixture
def tf1_names(tmp_path):
    """A checkpoint by names, with slots and counters."""
    return tf_files.checkpoint(tmp_path / "model.ckpt-7.index", TF1)


def held(path):
    """All tensors of a checkpoint of one data file, read without graftwork."""
    return tf_files.checkpoint_of(path)


def same(found, wanted):
    """Assert that two models have the same tensors, bit for bit."""
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes()


# Names ---------------------------------------------------------------------------------------------------------------


def test_slots_go_with_their_variables(tf1_names, tmp_path):
    """Of a variable that a rule is about; `slots=False` leaves them, and all values are what they were."""
    out = rename(tf1_names, r"bert/(.*l)=encoder/\1", output=tmp_path / "out.index")
    same(held(out), {name.replace("bert/", "encoder/"): values for name, values in TF1.items()})
    out = rename(tf1_names, {"head/bias": "logits"}, slots=False, output=tmp_path / "other.index")
    same(held(out), {{"head/bias": "logits"}.get(name, name): values for name, values in TF1.items()})
    with open_store(out) as reader:
        assert reader.specs()["head/bias/Momentum"].role == "optimizer"  # though its variable has another name now


def test_a_rule_that_names_a_slot_wins(tf1_names, tmp_path):
    """What the user says of it counts, rather than what its variable does."""
    out = rename(tf1_names, ["head/bias=b", "head/bias/Momentum=velocity"], output=tmp_path / "out.index")
    assert {"b", "velocity"} < set(held(out))


def test_a_weight_that_is_called_like_a_slot_is_none(tmp_path):
    """What roles say counts: in a source that is no checkpoint of TensorFlow 1 a layer may be called Adam."""
    save_file({"w": np.ones(2, np.float32), "w/Adam": np.zeros(2, np.float32)}, tmp_path / "a.safetensors")
    assert {row.role for row in ls(tmp_path / "a.safetensors")} == {"weight"}
    out = rename(tmp_path / "a.safetensors", "w=v", output=tmp_path / "b.safetensors")
    assert set(load_file(out)) == {"v", "w/Adam"}


def test_a_checkpoint_is_put_below_a_scope_and_back(tf1_names, tmp_path):
    """``/=a/`` and ``a/=/`` are each other's inverse, bit for bit."""
    below = rename(tf1_names, "/=a/b/", output=tmp_path / "below.index")
    same(held(below), {f"a/b/{name}": values for name, values in TF1.items()})
    same(held(rename(below, "a/b/=/", output=tmp_path / "back.index")), TF1)


@pytest.mark.parametrize(
    ("rules", "error", "said"),
    [
        ("bret/=x/", OptionError, "the rule 'bret/=x/' fits no tensor of model; did you mean 'bert/'?"),
        ("beta1_power=beta1_power", OptionError, "the rules change no name of model"),
        ("beta1_power=global_step", MismatchError, "would both be called 'global_step'"),
        ("(bert|head)/[a-z]+=w", MismatchError, "'bert/kernel' and 'head/bias' of model would both be called 'w'"),
        ("head/bias=bert/kernel", MismatchError, "would both be called 'bert/kernel'"),
        (["bert/=x/", "bert/kernel=y"], OptionError, "comes too late"),
        ("bert/=x", OptionError, "a slash at the end of one side only"),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(tf1_names, tmp_path, rules, error, said):
    """In one sentence; nothing is written."""
    with pytest.raises(error, match=re.escape(said)):
        rename(tf1_names, rules, output=tmp_path / "out.index", names=["model"])
    assert {p.name for p in tmp_path.iterdir()} == {tf1_names.name, "model.ckpt-7.data-00000-of-00001"}


def test_names_alone_have_no_objects(tf1_names, tmp_path):
    """A checkpoint of TensorFlow 1 is refused with what to do."""
    with pytest.raises(OptionError, match="holds names and no objects; rename its tensors without `objects`"):
        rename(tf1_names, "a/=b/", objects=True, output=tmp_path / "out.index")


# Some of them ----------------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_what_is_extracted_and_what_is_left_are_all(tmp_path_factory, data):
    """Whatever the patterns: two parts, each tensor in one of them as it was."""
    folder = tmp_path_factory.mktemp("parts")
    model = tf_files.checkpoint(folder / "a.index", TF1)
    patterns = data.draw(
        st.lists(st.sampled_from([*TF1, "bert/*", "*Adam*", "re:^head", "*"]), min_size=1, max_size=3, unique=True)
    )
    parts = []
    for made in (extract, drop):
        out = folder / f"{made.__name__}.index"
        try:
            parts.append(held(made(model, patterns, output=out)))
        except MismatchError as error:
            assert "no tensor of a.index is left" in str(error)  # noqa: PT017
            assert not out.exists()
            parts.append({})
    assert not set(parts[0]) & set(parts[1])
    same(parts[0] | parts[1], TF1)


def test_what_is_excluded_stays_where_it_is(tf1_names, tmp_path):
    """Behind patterns that fit it; roles are kept, also of slots whose variable is gone."""
    out = extract(tf1_names, ["bert/*", "global_step"], exclude="*Adam_1", output=tmp_path / "out.index")
    assert set(held(out)) == {"bert/kernel", "bert/kernel/Adam", "global_step"}
    notes = []
    out = drop(tf1_names, "*/*", exclude="*/Adam*", report=notes, output=tmp_path / "other.index")
    assert {row.name: row.role for row in ls(out)} == {
        "bert/kernel/Adam": "optimizer",
        "bert/kernel/Adam_1": "optimizer",
        "beta1_power": "optimizer",
        "global_step": "counter",
    }
    assert "the result keeps optimizer state of variables that it does not have: 'bert/kernel/Adam' and 1 more" in notes


@pytest.mark.parametrize("made", [extract, drop])
def test_a_pattern_that_fits_nothing_is_refused(tf1_names, tmp_path, made):
    """It is a slip, or the wrong file."""
    with pytest.raises(OptionError, match=r"the pattern 'bret/\*' fits no tensor of .*did you mean 'bert/'"):
        made(tf1_names, ["head/*", "bret/*"], output=tmp_path / "out.index")
    with pytest.raises(GraftworkError, match="is one of the sources"):
        made(tf1_names, "head/*", output=tf1_names, overwrite=True)


def test_any_store_goes_in_and_out(small_models, tmp_path):
    """A Keras model, safetensors and a checkpoint: the same values under the names that were asked for."""
    model = small_models / "birds.keras"
    rows = ls(model)
    weights = [row.name for row in rows if row.role == "weight"]
    scope = weights[0].partition("/")[0]
    whole = load_file(gw.convert(model, tmp_path / "whole.safetensors").path)
    part = extract(model, f"{scope}/*", output=tmp_path / "part.safetensors")
    wanted = {name: values for name, values in whole.items() if name.startswith(f"{scope}/")}
    same(load_file(part), wanted)
    renamed = rename(part, f"{scope}/=other/", output=tmp_path / "renamed.index")
    other = {name.replace(f"{scope}/", "other/", 1): values for name, values in wanted.items()}
    same(held(renamed), other)
    back = drop(renamed, next(iter(other)), output=tmp_path / "back.safetensors")
    same(load_file(back), dict(list(other.items())[1:]))


# Dtypes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_are_cast_and_nothing_else(tf1_names, tmp_path, dtype):
    """To NumPy's rounding; optimizer state and counters keep their bits, and that is said."""
    notes = []
    out = held(cast(tf1_names, dtype, output=tmp_path / "out.index", report=notes))
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    same(out, {n: v.astype(kind) if n in ("bert/kernel", "head/bias") else v for n, v in TF1.items()})
    assert "4 tensors (optimizer float32) keep their dtype" in notes
    assert "1 tensor (counter int64) keeps its dtype" in notes


def test_what_the_dtype_cannot_hold_is_refused(tmp_path):
    """A number never becomes an infinity; NaN goes through only where it is allowed."""
    model = tmp_path / "a.safetensors"
    save_file({"w": np.array([1, 70000], np.float32), "v": np.array([np.nan, 2], np.float32)}, model)
    for patterns in ("w", "v"):
        with pytest.raises(NonFiniteError, match=patterns):
            cast(model, "float16", patterns, output=tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    with pytest.raises(NonFiniteError, match="1 values that float16 cannot hold"):
        cast(model, "float16", allow_nonfinite=True, output=tmp_path / "out.safetensors")
    out = load_file(cast(model, "float16", "v", allow_nonfinite=True, output=tmp_path / "out.safetensors"))
    np.testing.assert_array_equal(out["v"], np.array([np.nan, 2], np.float16))
    assert out["w"].dtype == np.float32


def test_a_cast_that_casts_nothing_is_refused(tf1_names, tmp_path):
    """Whether nothing is meant that could be cast, or all has the dtype already."""
    for patterns, dtype in (("*Adam*", "float16"), ("bert/kernel", "float32"), ("global_step", "float64")):
        with pytest.raises(MismatchError, match=r"no tensor of .* is cast"):
            cast(tf1_names, dtype, patterns, output=tmp_path / "out.index")


# Listing -------------------------------------------------------------------------------------------------------------


def test_a_listing_says_all(tf1_names):
    """Names in the file's order, shapes, dtypes, sizes, roles and keys; patterns choose."""
    rows = ls(tf1_names)
    assert [row.name for row in rows] == sorted(TF1)
    assert {row.name: (row.shape, row.dtype, row.size_bytes, row.key) for row in rows} == {
        name: (values.shape, values.dtype.name, values.nbytes, name) for name, values in TF1.items()
    }
    assert [row.name for row in ls(tf1_names, "head/*", "global_step")] == [
        "global_step",
        "head/bias",
        "head/bias/Momentum",
    ]
    with pytest.raises(OptionError, match="fits no tensor"):
        ls(tf1_names, "nothing")


# Objects: graphs by hand ---------------------------------------------------------------------------------------------

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def graph_of(edges, values, slots=()):
    """A graph of numbered objects: (from, name, to), the keys of values by number, (optimizer, variable, slot, holder)."""
    count = 1 + max([n for a, _, b in edges for n in (a, b)] + [n for o, v, _, h in slots for n in (o, v, h)])
    return tuple(
        node_of(
            [(b, name) for a, name, b in edges if a == n],
            [Attribute("VARIABLE_VALUE", f"name{n}", values[n])] if n in values else [],
            [(v, slot, h) for o, v, slot, h in slots if o == n],
        )
        for n in range(count)
    )


def moved(nodes, *rules):
    """The graph after rules, with all of its keys."""
    keys = [a.key for node in nodes for a in node.attributes]
    return move(nodes, keys, [rule_of(rule) for rule in rules], "model")


def at(nodes, path):
    """The key of the value at a path, None if there is no such path."""
    n = 0
    for name in path.split("/") if path else []:
        found = [child for child, own in nodes[n].children if own == name]
        if len(found) != 1:
            return None
        (n,) = found
    return nodes[n].attributes[0].key if nodes[n].attributes else ""


CHAIN = graph_of(
    [(0, "model", 1), (1, "layer", 2), (2, "kernel", 3), (2, "self", 2), (1, "root", 0), (0, "opt", 4), (4, "vars", 5)],
    {3: "model/layer/kernel" + VALUE, 6: "model/layer/kernel/.OPTIMIZER_SLOT/opt/m" + VALUE},
    [(4, 3, "m", 6)],
)


def test_a_scope_is_moved_with_all_below_it():
    """Keys follow, circles stay circles, and a slot's key names where its variable and its optimizer are now."""
    found = moved(CHAIN, "model/=a/b/", "opt/=adam/")
    assert at(found.nodes, "a/b/layer/kernel") == "a/b/layer/kernel" + VALUE
    assert at(found.nodes, "model/layer/kernel") is None
    assert at(found.nodes, "a/b/root/a/b/layer/self/self/kernel") == "a/b/layer/kernel" + VALUE
    ((variable, slot, holder),) = next(node.slots for node in found.nodes if node.slots)
    assert found.nodes[variable].attributes[0].key == "a/b/layer/kernel" + VALUE
    assert (slot, found.nodes[holder].attributes[0].key) == ("m", "a/b/layer/kernel/.OPTIMIZER_SLOT/adam/m" + VALUE)
    assert [node.attributes[0].full_name for node in found.nodes if node.attributes] == ["name3", "name6"]
    assert found.paths == (("model", "a/b"), ("opt", "adam"))


def test_what_lies_above_is_moved_first():
    """Whatever the order of the rules: one object goes into another that a later rule puts there."""
    found = moved(CHAIN, "opt/vars=x/y", "model=x")
    assert at(found.nodes, "x/layer/kernel") == "x/layer/kernel" + VALUE
    assert at(found.nodes, "x/y") == ""


def test_a_new_top_keeps_the_counter_of_saves():
    """``/=inner/`` is a new root that refers to the old one; ``save_counter`` belongs to the new one."""
    nodes = graph_of([(0, "w", 1), (0, "save_counter", 2)], {1: "w" + VALUE, 2: "save_counter" + VALUE})
    found = moved(nodes, "/=inner/")
    assert at(found.nodes, "inner/w") == "inner/w" + VALUE
    assert at(found.nodes, "save_counter") == "save_counter" + VALUE
    assert at(found.nodes, "inner/save_counter") is None
    back = moved(found.nodes, "inner/=/")
    assert at(back.nodes, "w") == "w" + VALUE
    assert {name for _, name in back.nodes[0].children} == {"w", "save_counter"}


def test_a_scope_can_be_lifted_with_its_slots():
    """What lay below it lies at the top; the root is the optimizer then, with its slots."""
    found = moved(CHAIN, "opt/=/")
    assert found.nodes[0].slots
    assert at(found.nodes, "model/layer/kernel") == "model/layer/kernel" + VALUE
    assert at(found.nodes, "vars") == ""


def test_contents_of_a_scope_go_into_another():
    """Where both have an object of one name, that is refused."""
    nodes = graph_of([(0, "a", 1), (1, "x", 2), (0, "b", 3), (3, "y", 4)], {2: "a/x" + VALUE, 4: "b/y" + VALUE})
    found = moved(nodes, "a/=b/")
    assert (at(found.nodes, "b/x"), at(found.nodes, "b/y"), at(found.nodes, "a")) == (
        "b/x" + VALUE,
        "b/y" + VALUE,
        None,
    )
    clash = graph_of([(0, "a", 1), (1, "x", 2), (0, "b", 3), (3, "x", 4)], {2: "a/x" + VALUE, 4: "b/x" + VALUE})
    with pytest.raises(MismatchError, match="there is an object 'b/x' in model already"):
        moved(clash, "a/=b/")
    both = moved(clash, "a/=b/", "b/=a/")
    assert (both.keys["a/x" + VALUE], both.keys["b/x" + VALUE]) == ("b/x" + VALUE, "a/x" + VALUE)


def test_one_object_of_two_paths_is_moved_on_one_of_them():
    """The other path leads to it as before, and a key that is spelled along it stays."""
    nodes = graph_of([(0, "a", 1), (0, "b", 2), (1, "w", 3), (2, "v", 3)], {3: "a/w" + VALUE})
    found = moved(nodes, "b/v=c")
    assert at(found.nodes, "a/w") == at(found.nodes, "c") == "a/w" + VALUE
    assert at(found.nodes, "b/v") is None
    found = moved(nodes, "a/w=c")
    assert at(found.nodes, "b/v") == at(found.nodes, "c") == "c" + VALUE


def test_contents_that_several_rules_join_are_one():
    """One object by two names, each put into another: all three are one then, and nothing of them is lost."""
    nodes = graph_of(
        [(0, "a", 1), (0, "c", 1), (1, "x", 2), (0, "b", 3), (3, "y", 4), (0, "d", 5), (5, "z", 6)],
        {2: "a/x" + VALUE, 4: "b/y" + VALUE, 6: "d/z" + VALUE},
    )
    found = moved(nodes, "a/=b/", "c/=d/")
    assert {(top, name): at(found.nodes, f"{top}/{name}") for top in "bd" for name in "xyz"} == {
        (top, name): key + VALUE for top in "bd" for name, key in (("x", "b/x"), ("y", "b/y"), ("z", "d/z"))
    }
    assert len(found.nodes) == len(nodes) - 2


def test_keys_are_spelled_with_escapes():
    """A dot in a name is two and a slash is ``.S``, in rules as in keys."""
    nodes = graph_of([(0, "a.b/c", 1), (1, "w", 2)], {2: "a..b.Sc/w" + VALUE})
    found = moved(nodes, "a..b.Sc/=x..y/")
    assert at(found.nodes, "x.y/w") == "x..y/w" + VALUE


def test_regular_expressions_are_about_paths_of_values():
    """Each that fits is moved, with what the parentheses matched."""
    edges = [
        (0, "m", 1),
        *((1, f"layer{k}", 2 + 2 * k) for k in range(3)),
        *((2 + 2 * k, "w", 3 + 2 * k) for k in range(3)),
    ]
    nodes = graph_of(edges, {3 + 2 * k: f"m/layer{k}/w{VALUE}" for k in range(3)})
    found = moved(nodes, r"m/layer([01])/w=out/\1/kernel")
    assert [at(found.nodes, path) for path in ("out/0/kernel", "out/1/kernel", "m/layer2/w")] == [
        path + VALUE for path in ("out/0/kernel", "out/1/kernel", "m/layer2/w")
    ]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["mdel/=x/"], "the rule 'mdel/=x/' fits no object of model; did you mean 'model/'?"),
        (["model/layr/=x/"], "did you mean 'model/layer/' or"),
        (["/=/"], "moves nothing"),
        (["model/=x/", "model/=y/"], "the rule 'model/=y/' moves nothing of model that rules before it do not move"),
        (["model/=model/"], "moves nothing"),
        (["model/layer/kernel=opt"], "there is an object 'opt' in model already"),
        (["model/layer/kernel/=opt/"], "has a value of its own"),
        (["model/root/=opt/"], "there is an object 'opt' in model already"),
    ],
)
def test_moves_that_cannot_be_made_are_refused(rules, said):
    """In one sentence that says what there is."""
    with pytest.raises(GraftworkError, match=re.escape(said)):
        moved(CHAIN, *rules)


NAMES = st.sampled_from(["a", "b", "c", "d.e"])


@given(st.lists(st.tuples(st.integers(0, 5), NAMES), min_size=1, max_size=9), st.data())
@settings(deadline=None)
def test_moving_there_and_back_changes_nothing(grown, data):
    """For every tree and every object: its paths, its keys, its values."""
    edges, paths = [], [""]
    for parent, name in grown:
        parent %= len(paths)
        if (parent, name) not in {(a, own) for a, own, _ in edges}:
            edges.append((parent, name, len(paths)))
            paths.append(f"{paths[parent]}/{name.replace('.', '..')}".strip("/"))
    leaves = {n for n in range(1, len(paths)) if n not in {a for a, _, _ in edges}}
    nodes = graph_of(edges, {n: paths[n] + VALUE for n in leaves})
    path = data.draw(st.sampled_from(paths[1:]))
    there = moved(nodes, f"{path}/=new/place/")
    back = moved(there.nodes, f"new/place/={path}/")
    for n in leaves:
        plain = paths[n].replace("..", ".")
        assert at(back.nodes, plain) == paths[n] + VALUE
        inside = (paths[n] + "/").startswith(path + "/")
        assert (there.keys.get(paths[n] + VALUE, "").startswith("new/place")) == inside


# TensorFlow ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow, which takes its time."""
    import tensorflow

    return tensorflow


def fitted(keras, seed):
    """Return a small model after one step of training."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,))
    hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(4, name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="second")(hidden))
    model.compile("adam", "mse", run_eagerly=True)
    rng = np.random.default_rng(seed)
    model.fit(rng.standard_normal((4, 8)), rng.standard_normal((4, 2)), verbose=0)
    return model


def variables_of(model):
    """The variables of a model and of its optimizer."""
    found = model.optimizer.variables
    return [*model.variables, *(found() if callable(found) else found)]


def state_of(model):
    """Their values."""
    return [np.asarray(v) for v in variables_of(model)]


@pytest.mark.keras
@pytest.mark.parametrize("version", ["keras", "tf_keras", "legacy"])
def test_tensorflow_restores_moved_objects(tf, tmp_path, version):
    """``Checkpoint(encoder=…)`` restores what was saved as ``Checkpoint(model=…)``: every variable, every slot, nothing left over."""
    keras = pytest.importorskip("tf_keras" if version == "legacy" else version)
    models = [fitted(keras, seed) for seed in range(2)]
    if version == "legacy":
        for model in models:
            model.compile(keras.optimizers.legacy.Adam(), "mse", run_eagerly=True)
            model.fit(np.ones((4, 8)), np.ones((4, 2)), verbose=0)
    saved, fresh = models
    prefix = tf.train.Checkpoint(model=saved, optimizer=saved.optimizer).save(str(tmp_path / "a"))
    initial = state_of(fresh)

    def restored(rules, **objects):
        for variable, value in zip(variables_of(fresh), initial, strict=True):
            variable.assign(value)
        out = rename(prefix, rules, objects=True, output=tmp_path / "out.index", overwrite=True)
        tf.train.Checkpoint(**objects).restore(str(out).removesuffix(".index")).assert_consumed()
        for found, wanted in zip(state_of(fresh), state_of(saved), strict=True):
            np.testing.assert_array_equal(found, wanted)
        values = tf.train.load_checkpoint(str(out).removesuffix(".index"))
        before = tf.train.load_checkpoint(prefix)
        assert len(values.get_variable_to_shape_map()) == len(before.get_variable_to_shape_map())

    restored("model/=encoder/", encoder=fresh, optimizer=fresh.optimizer)
    restored(
        {"model/": "net/body/", "optimizer/": "adam/"},
        net=tf.train.Checkpoint(body=fresh),
        adam=fresh.optimizer,
    )
    restored("/=inner/", inner=tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer))
    tf.train.Checkpoint(model=saved).write(str(tmp_path / "b"))
    out = rename(tmp_path / "b", "model/=/", objects=True, output=tmp_path / "root.index")
    for variable, value in zip(variables_of(fresh), initial, strict=True):
        variable.assign(value)
    tf.train.Checkpoint(fresh).read(str(out).removesuffix(".index")).assert_consumed()
    for found, wanted in zip(state_of(fresh), state_of(saved), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.keras
def test_other_names_are_restored_by_objects_as_before(tf, tmp_path):
    """In TensorFlow 2 names are for people, and for us: what is restored is the same, part of it too."""
    import keras

    saved, fresh = fitted(keras, 0), fitted(keras, 1)
    tf.train.Checkpoint(model=saved, optimizer=saved.optimizer).write(str(tmp_path / "a"))
    out = rename(tmp_path / "a", {"first/": "stem/", "second/(.*)": r"head_\1"}, output=tmp_path / "b.index")
    assert {row.name for row in ls(out) if row.role in ("weight", "statistic")} == {
        *("stem/kernel", "stem/bias", "head_kernel", "head_bias"),
        *("norm/gamma", "norm/beta", "norm/moving_mean", "norm/moving_variance"),
    }
    tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).read(str(tmp_path / "b")).assert_consumed()
    for found, wanted in zip(state_of(fresh), state_of(saved), strict=True):
        np.testing.assert_array_equal(found, wanted)
    fresh = fitted(keras, 1)
    kernel = np.asarray(fresh.layers[-1].kernel)
    part = extract(out, ["stem/*", "norm/*"], output=tmp_path / "part.index")
    tf.train.Checkpoint(model=fresh).read(str(part)[:-6]).expect_partial()
    np.testing.assert_array_equal(fresh.get_layer("first").kernel, saved.get_layer("first").kernel)
    np.testing.assert_array_equal(fresh.get_layer("norm").moving_variance, saved.get_layer("norm").moving_variance)
    np.testing.assert_array_equal(fresh.layers[-1].kernel, kernel)
    with pytest.raises(MismatchError, match=r"cannot be called 'Variable'.*as TensorFlow calls what nobody named"):
        rename(out, {"norm/beta": "Variable"}, output=tmp_path / "c.index")


@pytest.mark.keras
def test_a_saver_of_tensorflow_1_restores_what_was_renamed(tf, tmp_path):
    """Into a graph of the new names: variables, Adam's slots, the step."""
    v1 = tf.compat.v1

    def build(scope):
        with v1.variable_scope(scope):
            w = v1.get_variable("w", (3, 2), partitioner=v1.fixed_size_partitioner(2))
            b = v1.get_variable("b", (2,), initializer=v1.random_normal_initializer())
        loss = tf.reduce_sum(tf.matmul(tf.ones((1, 3)), tf.convert_to_tensor(w)) * b)
        return v1.train.AdamOptimizer().minimize(loss, v1.train.get_or_create_global_step())

    values = []
    for scope in ("old", "new"):
        with tf.Graph().as_default(), v1.Session() as session:
            train = build(scope)
            session.run(v1.global_variables_initializer())
            if scope == "old":
                session.run(train)
                v1.train.Saver().save(session, str(tmp_path / "a"))
                rename(tmp_path / "a", "old/([wb])=new/\\1", output=tmp_path / "b.index")
            else:
                v1.train.Saver().restore(session, str(tmp_path / "b"))
            variables = sorted(v1.global_variables(), key=lambda v: v.name.replace("old", "new"))
            values.append([session.run(v) for v in variables])
    assert len(values[0]) == 12
    for old, new in zip(*values, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.keras
def test_tables_are_moved_and_dropped(tf, tmp_path):
    """Their texts are tensors like others: named, left out, found again at the new place."""

    def table(keys=(), values=()):
        made = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        if keys:
            made.insert(list(keys), tf.constant(list(values), tf.int64))
        return made

    tf.train.Checkpoint(words=table(["a", "b"], [1, 2]), w=tf.Variable([1.0]), n=tf.Variable("text")).write(
        str(tmp_path / "a")
    )
    texts = {row.name for row in ls(tmp_path / "a") if row.role == "text"}
    assert len(texts) == 2
    out = rename(tmp_path / "a", {"words/": "vocabulary/inner/", "n": "m"}, objects=True, output=tmp_path / "b.index")
    found, text = table(), tf.Variable("")
    fresh = tf.train.Checkpoint(vocabulary=tf.train.Checkpoint(inner=found), m=text, w=tf.Variable([0.0]))
    fresh.read(str(out)[:-6]).assert_consumed()
    assert found.lookup(tf.constant(["a", "b", "c"])).numpy().tolist() == [1, 2, -1]
    assert text.numpy() == b"text"
    left = drop(tmp_path / "a", [*texts, "words*"], output=tmp_path / "c.index")
    assert [row.name for row in ls(left)] == ["w"]
    assert tf.train.load_checkpoint(str(left)[:-6]).get_tensor("w" + VALUE).tolist() == [1.0]


@pytest.mark.keras
def test_a_cast_is_restored_into_variables_of_that_dtype(tf, tmp_path):
    """bfloat16 of a float32, as TensorFlow itself rounds."""
    w = tf.Variable(tf.random.stateless_normal((3, 4), [1, 2]))
    tf.train.Checkpoint(w=w, step=tf.Variable(3)).write(str(tmp_path / "a"))
    out = cast(tmp_path / "a", "bfloat16", output=tmp_path / "b.index")
    fresh = tf.Variable(tf.zeros((3, 4), tf.bfloat16))
    tf.train.Checkpoint(w=fresh, step=tf.Variable(0)).read(str(out)[:-6]).assert_consumed()
    np.testing.assert_array_equal(fresh.numpy(), tf.cast(w, tf.bfloat16).numpy())


@pytest.mark.keras
def test_steps_of_a_recipe_know_the_objects_of_steps_before(tf, tmp_path):
    """All are planned before the first is made, each with the objects, texts and names that its input will have."""
    tf.train.Checkpoint(a=tf.train.Checkpoint(w=tf.Variable([1.0], name="w")), text=tf.Variable("t", name="t")).write(
        str(tmp_path / "a")
    )
    (tmp_path / "recipe.yaml").write_text("""
models: {a: a.index}
steps:
  named: {ckpt_rename: {model: a, rules: [w=v]}}
  moved: {ckpt_rename: {model: named, rules: [a/=b/], objects: true}}
  cast: {ckpt_cast: {model: moved, dtype: float64}}
  kept: {ckpt_extract: {model: cast, patterns: [v, t]}}
outputs: {kept: out.index}
""")
    assert [report.step for report in gw.plan(tmp_path / "recipe.yaml")] == ["named", "moved", "cast", "kept"]
    gw.run(tmp_path / "recipe.yaml")
    assert [(row.name, row.dtype, row.key) for row in ls(tmp_path / "out.index")] == [
        ("v", "float64", "b/w" + VALUE),
        ("t", "string", "text" + VALUE),
    ]
    fresh, text = tf.Variable(tf.zeros(1, tf.float64)), tf.Variable("")
    tf.train.Checkpoint(b=tf.train.Checkpoint(w=fresh), text=text).read(str(tmp_path / "out")).assert_consumed()
    assert (fresh.numpy().tolist(), text.numpy()) == ([1.0], b"t")

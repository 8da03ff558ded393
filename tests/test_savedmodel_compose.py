"""SavedModels put together: combined, chained, in ensembles, and made of frozen graphs; with parts of every kind, and hostile ones."""

import hashlib
import itertools
import shutil

import numpy as np
import pytest
import servables
import tensorflow as tf
from servables import SERVING, v1

import graftwork as gw
from graftwork.compose.classes import ClassMap, Group
from graftwork.compose.plain import combined
from graftwork.errors import MismatchError, OptionError, OutputError, StoreError, UnknownNameError
from graftwork.models.combining import CALIBRATED, FAMILIES
from graftwork.models.savedmodel import beside, legacy, reduction
from graftwork.models.savedmodel.combine import plan_combine

pytestmark = pytest.mark.keras
made = gw.savedmodel
KERNEL = np.arange(12).reshape(4, 3)
WORDS = ["cat", "dog", "bird", "fish"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """SavedModels of every kind; not to be written to."""
    folder = tmp_path_factory.mktemp("parts")
    servables.text_model(folder / "old", WORDS, KERNEL, loop=False)
    servables.text_model(folder / "turned", WORDS[::-1], KERNEL)
    servables.text_model(folder / "unlisted", WORDS, -KERNEL, resource=True, listed=False)
    servables.text_model(folder / "bare", WORDS, 2 * KERNEL, listed=False)
    servables.keras3(folder / "keras3")
    servables.keras3(folder / "logits", seed=5, activation=None)
    servables.keras3(folder / "wide", seed=7, classes=5)
    servables.keras2(folder / "keras2")
    servables.module(folder / "module")
    servables.frozen(folder / "a.pb", 2.0)
    servables.frozen(folder / "b.pb", 3.0, words=("dog", "bird", "cat"))
    return folder


def contents_of(folder):
    """Return a digest of every file below a folder."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def run(path, signature=SERVING, /, **given):
    """Run a signature as TensorFlow 2 loads it."""
    model = tf.saved_model.load(str(path))
    return {name: tensor.numpy() for name, tensor in model.signatures[signature](**given).items()}


def rows_by_hand(words, kernel, text):
    """What a text model gives."""
    return 4 * np.asarray(kernel, np.float32)[[words.index(word) if word in words else 0 for word in text]]


def test_parts_of_every_kind_stay_whole_in_one_servable(parts, tmp_path):
    """Tables with other words, variables of TensorFlow 1 and functions with gradients of their own live on, when all sources are gone."""
    names = ["old", "turned", "unlisted", "bare", "keras3", "keras2", "module"]
    before = contents_of(parts)
    text, features = tf.constant(["dog", "fish", "?"]), tf.constant(np.eye(3, dtype=np.float32))
    wanted = {name: run(parts / name, features=features) for name in names[4:]}
    sources = [shutil.copytree(parts / name, tmp_path / "sources" / name) for name in names]
    report: list[str] = []

    made.combine(sources, names=names, output=tmp_path / "out", report=report)

    assert contents_of(tmp_path / "sources").items() <= before.items()
    shutil.rmtree(tmp_path / "sources")
    model = tf.saved_model.load(str((tmp_path / "out").rename(tmp_path / "elsewhere")))
    assert set(model.signatures) == {*(f"{name}_{SERVING}" for name in names), SERVING, "serve", "look"}
    kernels = {"old": (WORDS, KERNEL), "turned": (WORDS[::-1], KERNEL), "unlisted": (WORDS, -KERNEL)}
    for name, (words, kernel) in {**kernels, "bare": (WORDS, 2 * KERNEL)}.items():
        found = model.signatures[f"{name}_{SERVING}"](text=text)["features"]
        np.testing.assert_array_equal(found, rows_by_hand(words, kernel, ["dog", "fish", "?"]))
    for name, outputs in wanted.items():
        found = model.signatures[f"{name}_{SERVING}"](features=features)
        assert {key: tensor.numpy().tobytes() for key, tensor in found.items()} == {
            key: values.tobytes() for key, values in outputs.items()
        }
    np.testing.assert_array_equal(model.signatures["look"](words=tf.constant(["dog", "?"]))["numbers"], [5, -1])
    assert any("serving_default is signature 'serving_default' of old" in note for note in report)
    assert any("in a session and as TensorFlow 2 loads it" in note and "to the last bit" in note for note in report)
    with tf.GradientTape(persistent=True) as tape:
        own = model.module.score(features)["classes"][:, 0]
        rows = model.signatures[SERVING](text=text)["features"]
    kernel = tf.Variable(model.module.kernel)
    with tf.GradientTape() as plain:
        softmax = tf.nn.softmax(features @ kernel)[:, 0]
    np.testing.assert_allclose(tape.gradient(own, model.module.kernel), 10 * plain.gradient(softmax, kernel), rtol=1e-6)
    (variable,) = [v for v in model.old.variables if v.name == "dense/kernel:0"]
    assert variable.trainable
    gradient = tf.convert_to_tensor(tape.gradient(rows, variable))
    np.testing.assert_array_equal(gradient, [[4] * 3, [4] * 3, [0] * 3, [4] * 3])


def test_what_is_made_can_be_a_part_again(parts, tmp_path):
    """Renamed signatures, a default that is said, one SavedModel twice, and a servable of servables."""
    made.combine(
        [parts / "old", parts / "old"],
        names=["a", "b"],
        rename={f"a.{SERVING}": "first", f"b.{SERVING}": "second"},
        default="b",
        output=tmp_path / "two",
    )
    made.combine([tmp_path / "two", parts / "turned"], names=["two", "one"], output=tmp_path / "three")

    model = tf.saved_model.load(str(tmp_path / "three"))
    assert set(model.signatures) == {"first", "second", f"two_{SERVING}", f"one_{SERVING}", SERVING}
    found = model.signatures["second"](text=tf.constant(["bird"]))["features"]
    np.testing.assert_array_equal(found, rows_by_hand(WORDS, KERNEL, ["bird"]))


def test_signatures_never_take_each_others_names(parts):
    """Nothing is renamed over something else, nothing unknown is renamed, and the default is one that there is."""
    sources = [("a", parts / "old"), ("b", parts / "module")]
    with pytest.raises(OptionError, match=r"would be called 'look', which another signature is called"):
        plan_combine(sources, rename={f"a.{SERVING}": "look"})
    with pytest.raises(OptionError, match=r"'serving_default', which `default` says"):
        plan_combine(sources, rename={"b.look": SERVING})
    with pytest.raises(UnknownNameError, match=r"did you mean 'b.look'"):
        plan_combine(sources, rename={"b.lok": "other"})
    with pytest.raises(UnknownNameError, match=r"no part or signature"):
        plan_combine(sources, default="c")
    alone = plan_combine([("a", parts / "old"), ("b", parts / "module")], default="b.look")
    assert {row["signature"]: row["of"] for row in alone.tables["signatures"]} == {
        f"a_{SERVING}": "a",
        f"b_{SERVING}": "b",
        "look": "b",
        SERVING: "b",
    }


def test_broken_results_are_caught_and_nothing_is_written(parts, tmp_path, monkeypatch):
    """What TensorFlow saves of variables of the old kind has no values; without the rewriting, that would come out."""
    monkeypatch.setattr(legacy, "prepared", lambda path, tags, folder: path)
    with pytest.raises(
        StoreError, match=r"in a fresh process, running 'old_serving_default' of the result \(session\) failed"
    ):
        made.combine([parts / "old", parts / "keras3"], output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_variable_that_is_changed_in_a_way_without_rewriting_is_refused(tmp_path):
    """A model that writes to its variables by reference says so, before anything is made."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [1], name="x")
        seen = v1.get_variable("seen", initializer=np.zeros(2, np.float32), use_resource=False)
        with tf.control_dependencies([v1.scatter_add(seen, [0], x)]):
            y = tf.identity(x)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(tmp_path / "counts"), {"x": x}, {"y": y})
    servables.functions(tmp_path / "plain", **{SERVING: plain})
    with pytest.raises(StoreError, match=r"changes the variable 'seen' by ScatterAdd"):
        made.combine([tmp_path / "counts", tmp_path / "plain"], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
def plain(x):
    """Add one."""
    return {"y": x + 1}


# Chains --------------------------------------------------------------------------------------------------------------


def test_a_chain_is_its_parts_one_after_the_other(parts, tmp_path):
    """TensorFlow 1 before Keras 2; any batch goes through."""
    made.chain([parts / "old", parts / "keras2"], output=tmp_path / "out")

    for text in (["dog"], ["cat", "bird", "?"]):
        features = run(parts / "old", text=tf.constant(text))["features"]
        wanted = run(parts / "keras2", features=tf.constant(features))["classes"]
        np.testing.assert_array_equal(run(tmp_path / "out", text=tf.constant(text))["classes"], wanted)


def test_connections_are_said_and_further_inputs_become_inputs(tmp_path):
    """Outputs of any earlier part, by the words of the verb chain; names of ports need be no names of Python's."""
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.placeholder(tf.float32, [None], name="x")
        ports = {"twice it": 2 * x, "the/square": x * x}
        v1.saved_model.simple_save(session, str(tmp_path / "a"), {"my-x": x}, ports)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in ("left", "right", "my_x")])
    def b(left, right, my_x):
        return {"out": left - right + 100 * my_x, "idle": left}

    servables.functions(tmp_path / "b", **{SERVING: b})

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name=name) for name in ("out", "more")])
    def c(out, more):
        return {"out": out, "more": more}

    servables.functions(tmp_path / "c", **{SERVING: c})
    report: list[str] = []
    made.chain(
        [tmp_path / name for name in "abc"],
        connect={"b.left": "a.the/square", "b.right": "a.twice it", "b.my_x": "input", "c.more": "a.twice it"},
        output=tmp_path / "out",
        report=report,
    )

    model = tf.saved_model.load(str(tmp_path / "out"))
    with v1.Session(graph=tf.Graph()) as session:
        ports = v1.saved_model.load(session, ["serve"], str(tmp_path / "out")).signature_def[SERVING].inputs
    assert set(ports) == {"my-x", "b.my_x"}
    taken = model.signatures[SERVING].structured_input_signature[1]
    assert {name: spec.shape.as_list() for name, spec in taken.items()} == {"my_x": [None], "b_my_x": [None]}
    found = model.signatures[SERVING](my_x=tf.constant([3.0]), b_my_x=tf.constant([5.0]))
    assert {name: tensor.numpy().tolist() for name, tensor in found.items()} == {"out": [503.0], "more": [6.0]}
    assert any("of b, nothing takes the output 'idle'" in note for note in report)


def test_what_does_not_meet_is_refused_before_tensorflow_is_asked(parts, tmp_path):
    """Shapes, dtypes, names and order of connections."""
    with pytest.raises(MismatchError, match=r"keras3.output_0 gives float32 \(\?, 4\) .* their shapes differ"):
        made.chain([parts / "keras3", parts / "module"], output=tmp_path / "out")
    with pytest.raises(MismatchError, match=r"their dtypes differ"):
        made.chain([parts / "keras3", parts / "old"], output=tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"did you mean 'module.features'"):
        made.chain([parts / "old", parts / "module"], connect={"module.feature": "old"}, output=tmp_path / "out")
    with pytest.raises(OptionError, match=r"'module' comes after 'module'"):
        made.chain([parts / "old", parts / "module"], connect={"module": "module"}, output=tmp_path / "out")
    with pytest.raises(UnknownNameError, match=r"no signature in module is called 'loook'; did you mean 'look'"):
        made.chain([parts / "old", parts / "module"], signatures={"module": "loook"}, output=tmp_path / "out")


def test_what_is_advised_fits(tmp_path):
    """The first output of the dtype and shape that an input takes; where there is none, an input of the result."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def a(x):
        return {"counts": tf.cast(x, tf.int32), "pairs": tf.stack([x, x], axis=1), "same": x}

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.float32, "number"), tf.TensorSpec([None], tf.string, "text")]
    )
    def b(number, text):
        return {"out": number, "said": text}

    given = [servables.functions(tmp_path / name, **{SERVING: function}) for name, function in (("a", a), ("b", b))]
    with pytest.raises(MismatchError, match=r'connect=\{"b\.number": "a\.same"\}, or "input"$'):
        made.chain(given, output=tmp_path / "out")
    with pytest.raises(MismatchError, match=r'connect=\{"b\.text": "input"\}; nothing of a fits$'):
        made.chain(given, connect={"b.number": "a.same"}, output=tmp_path / "out")
    made.chain(given, connect={"b.number": "a.same", "b.text": "input"}, output=tmp_path / "out")


def test_inputs_that_random_values_do_not_fit_can_be_given(tmp_path):
    """A part that asks for more than noise is not called broken; arrays from a file are used, and found from there."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def careful(x):
        with tf.control_dependencies([tf.debugging.assert_greater(x, 100.0)]):
            return {"x": tf.identity(x)}

    servables.functions(tmp_path / "careful", **{SERVING: careful})
    servables.functions(tmp_path / "plain", **{SERVING: plain})
    sources = [tmp_path / "careful", tmp_path / "plain"]
    with pytest.raises(StoreError, match=r"give inputs that they can work on \(examples=FILE.npz\)"):
        made.chain(sources, output=tmp_path / "out")
    np.savez(tmp_path / "given.npz", x=np.array([101, 102], np.float32))
    made.chain(sources, examples=tmp_path / "given.npz", output=tmp_path / "out")
    np.testing.assert_array_equal(run(tmp_path / "out", x=tf.constant([200.0]))["y"], [201])


def test_a_module_of_tensorflow_hub_in_a_recipe(parts, tmp_path):
    """Graphs without tags, variables in parts, old conditions; inputs are found from the recipe's directory."""
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3) - 2
    servables.hub_module(tmp_path / "hub", kernel)
    shutil.copytree(parts / "keras3", tmp_path / "keras3")
    np.savez(tmp_path / "given.npz", default=np.ones((4, 3), np.float32))
    (tmp_path / "recipe.yaml").write_text(
        """
models: {hub: hub, keras3: keras3}
steps: {both: {savedmodel_chain: {models: [hub, keras3], connect: {keras3: hub}, examples: given.npz}}}
outputs: {both: both}
"""
    )
    gw.run(tmp_path / "recipe.yaml")

    for x in (np.ones((2, 3), np.float32), -np.ones((1, 3), np.float32)):
        row = x @ kernel
        row = row + kernel[0] if row.sum() > 0 else row - kernel[0]
        wanted = run(parts / "keras3", features=tf.constant(row))["output_0"]
        np.testing.assert_allclose(run(tmp_path / "both", default=tf.constant(x))["output_0"], wanted, rtol=1e-6)


# Ensembles -----------------------------------------------------------------------------------------------------------

WORDS_OF_WAYS = ["mean", "geometric", "median", "max", "min", "product", "vote", "concat"]


@pytest.mark.parametrize(
    ("word", "family"),
    [
        (word, family)
        for word, family in itertools.product(WORDS_OF_WAYS, sorted({*FAMILIES.values()}))
        if family != "values" or word not in ("geometric", "product", "vote")
    ],
)
def test_every_way_gives_the_numbers_of_the_verb_ensemble(word, family):
    """For every mixture of kinds, weights and NaN: the NumPy reference of compositions of Keras models."""
    kinds = [kind for kind, of in FAMILIES.items() if of == family]
    rng = np.random.default_rng(0)
    whole = ClassMap(classes=None, width=None, groups=(Group((), (0, 1, 2), ((), (), ())),))
    for mixture, weights in itertools.product(
        itertools.combinations_with_replacement(kinds, 3), [(1 / 3,) * 3, (0.5, 0.2, 0.3)]
    ):
        arrays = [_outputs(kind, rng) for kind in mixture]
        arrays[1][3, 1] = np.nan
        kind = mixture[0] if len(set(mixture)) == 1 else CALIBRATED[mixture[0]]
        if word in ("geometric", "product", "vote"):
            kind = CALIBRATED[mixture[0]]
        given = (None, None, None) if word == "concat" else mixture
        kind = None if word == "concat" else kind
        if word not in ("mean", "geometric", "vote"):
            weights = (1 / 3,) * 3
        wanted = combined(word, arrays, given, kind, weights, whole)
        found = reduction.Reduction(
            word=word, kinds=given, kind=kind, weights=weights, came=("float32",) * 3, dtype="float32"
        ).reduced([tf.constant(array) for array in arrays])
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-6)


def _outputs(kind, rng):
    """Return outputs of a kind: ties and certainties among them."""
    values = np.round(3 * rng.standard_normal((8, 4)))
    if kind in ("sigmoid", "sigmoid_logits"):
        found = 1 / (1 + np.exp(-values)) if kind == "sigmoid" else values
    else:
        found = np.exp(values) / np.exp(values).sum(-1, keepdims=True) if kind == "probabilities" else values
    if kind in ("probabilities", "sigmoid"):
        found[0] = [1, 0, 0, 0]
    return found.astype(np.float32)


def test_an_ensemble_combines_what_its_parts_give(parts, tmp_path):
    """Keras 3, Keras 2 and a module; probabilities are recognised by their last operation, and logits are turned into them."""
    names = ["keras3", "keras2", "module", "logits"]
    report: list[str] = []
    made.ensemble(
        [parts / name for name in names],
        weights={"keras3": 1, "keras2": 2, "module": 0, "logits": 5},
        outputs={"logits": "logits"},
        output=tmp_path / "out",
        report=report,
    )

    features = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    each = {name: next(iter(run(parts / name, features=tf.constant(features)).values())) for name in names}
    power = np.exp(each["logits"])
    wanted = (each["keras3"] + 2 * each["keras2"] + 5 * power / power.sum(-1, keepdims=True)) / 8
    found = run(tmp_path / "out", features=tf.constant(features))
    assert list(found) == ["output_0"]
    np.testing.assert_allclose(found["output_0"], wanted, rtol=1e-5)
    assert any("module counts nothing and is left out" in note for note in report)
    assert any("the logits of logits are turned into probabilities" in note for note in report)


def test_several_outputs_meet_by_name_each_its_own_way(tmp_path):
    """Different ways, dtypes and further inputs; the largest and what is laid side by side come out to the last bit."""

    def saved(name, shift, dtype):
        @tf.function(
            input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x"), tf.TensorSpec([], tf.float32, name=name)]
        )
        def both(x, own):
            return {"top": tf.cast(x * shift, dtype), "all": x + shift + own}

        both = tf.function(both.python_function, input_signature=both.input_signature)
        return servables.functions(tmp_path / name, **{SERVING: both})

    sources = [saved("a", 1.0, tf.float64), saved("b", -3.0, tf.float16)]
    made.ensemble(sources, combine={"top": "max", "all": "concat"}, output=tmp_path / "out")

    x = np.array([[1.5, -2]], np.float32)
    found = run(tmp_path / "out", x=tf.constant(x), a=tf.constant(10.0), b=tf.constant(20.0))
    assert found["top"].dtype == np.float64
    np.testing.assert_array_equal(found["top"], np.maximum(x, -3 * x))
    np.testing.assert_array_equal(found["all"], np.concatenate([x + 11, x + 17], axis=-1))


def test_what_cannot_be_combined_is_refused(parts, tmp_path):
    """Numbers of classes, kinds that are not told, words that there are not."""
    out = tmp_path / "out"
    with pytest.raises(MismatchError, match=r"keras3 gives 'output_0' as \(\?, 4\) and wide as \(\?, 5\).*must agree"):
        made.ensemble([parts / "keras3", parts / "wide"], output=out)
    with pytest.raises(
        OptionError, match=r'logits\'s output \'output_0\' ends in \w+, .*outputs=\{"logits": "logits"\}'
    ):
        made.ensemble([parts / "keras3", parts / "logits"], output=out)
    with pytest.raises(OptionError, match=r"ends in Softmax, so it gives probabilities, not logits"):
        made.ensemble([parts / "keras3", parts / "keras2"], outputs={"keras3": "logits"}, output=out)
    with pytest.raises(OptionError, match=r"weights are for mean, geometric, vote; max counts"):
        made.ensemble([parts / "keras3", parts / "keras2"], combine="max", weights=[1, 2], output=out)
    with pytest.raises(MismatchError, match=r"only floating-point numbers are combined"):
        made.ensemble(
            [parts / "module", parts / "module"], signatures={"module": "look", "module#2": "look"}, output=out
        )
    one, two = (
        tf.function(lambda **given: {"y": sum(given.values())}, autograph=False).get_concrete_function(
            **{name: tf.TensorSpec([None], tf.float32, name=name) for name in names}
        )
        for names in (["input_1"], ["input_1", "input_2"])
    )
    sources = [servables.functions(tmp_path / name, **{SERVING: f}) for name, f in (("one", one), ("two", two))]
    with pytest.raises(MismatchError, match=r"their names do not say which input"):
        made.ensemble(sources, output=out)
    with pytest.raises(OptionError, match="at least 2 SavedModels"):
        made.ensemble([parts / "keras3"], output=out)
    assert not out.exists()


# Frozen graphs -------------------------------------------------------------------------------------------------------


def test_a_frozen_graph_becomes_a_servable(parts, tmp_path):
    """With its table filled; cut off in the middle where that is asked for."""
    made.from_frozen_graph(parts / "a.pb", feeds=["image=x:0", "word"], fetches="y", output=tmp_path / "whole")
    x = np.array([[1, -2, 3], [0.5, 0, 4]], np.float32)
    found = run(tmp_path / "whole", image=tf.constant(x), word=tf.constant("dog"))
    np.testing.assert_array_equal(found["y"], servables.frozen_by_hand(x, "dog", 2))

    made.from_frozen_graph(parts / "a.pb", feeds="x,scope/row:0", fetches="y", output=tmp_path / "cut")
    found = run(tmp_path / "cut", x=tf.constant(x), row=tf.constant(7.0))
    np.testing.assert_array_equal(found["y"], servables.frozen_by_hand(x, "dog", 2) - 3 + 7)


@pytest.mark.parametrize("result", ["saved_model", "frozen_graph"])
def test_joined_graphs_take_nothing_for_the_others(parts, tmp_path, result):
    """Two graphs with functions, tables, loops and nodes of the same names, that all do something else."""
    out = tmp_path / ("joined.pb" if result == "frozen_graph" else "joined")
    made.join_frozen(
        [parts / "a.pb", parts / "b.pb"],
        connect={"b/x:0": "a/y:0"},
        fetches=["b/y", "first=a/y"],
        result=result,
        output=out,
    )

    x = np.array([[1, -2, 3]], np.float32)
    given = {"x": x, "a_word": "dog", "b_word": "cat"}
    if result == "saved_model":
        found = run(out, **{name: tf.constant(value) for name, value in given.items()})
    else:
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            tf.graph_util.import_graph_def(v1.GraphDef.FromString(out.read_bytes()), name="")
            session.run("init_all_tables")
            fed = {f"inputs/{name}:0": value for name, value in given.items()}
            found = dict(zip(["y", "first"], session.run(["b/y:0", "a/y:0"], fed), strict=True))
    first = servables.frozen_by_hand(x, "dog", 2)
    np.testing.assert_array_equal(found["first"], first)
    np.testing.assert_array_equal(found["y"], servables.frozen_by_hand(first, "cat", 3, ("dog", "bird", "cat")))


def test_no_output_is_lost_where_the_last_node_gives_several(tmp_path):
    """Nobody said which: all are named in the refusal."""
    with tf.Graph().as_default() as graph:
        tf.split(v1.placeholder(tf.float32, [None, 4], name="x"), 2, axis=1, name="halves")
    (tmp_path / "g.pb").write_bytes(graph.as_graph_def().SerializeToString())
    with pytest.raises(OptionError, match=r"'halves' of g.pb, which gives 2 tensors.*: halves:0, halves:1"):
        made.from_frozen_graph(tmp_path / "g.pb", output=tmp_path / "out")
    made.from_frozen_graph(tmp_path / "g.pb", fetches=["a=halves:0", "b=halves:1"], output=tmp_path / "out")
    found = run(tmp_path / "out", x=tf.constant([[1.0, 2, 3, 4]]))
    np.testing.assert_array_equal(np.concatenate([found["a"], found["b"]], 1), [[1, 2, 3, 4]])


def test_what_a_frozen_graph_lacks_is_said(parts, tmp_path):
    """Unknown nodes, placeholders that nobody feeds, variables, Python, tables that nothing fills."""
    out = tmp_path / "out"
    with pytest.raises(UnknownNameError, match=r"no node in a.pb is called 'yy'; did you mean"):
        made.from_frozen_graph(parts / "a.pb", fetches="yy", output=out)
    with pytest.raises(OptionError, match=r"placeholder 'word' of a.pb"):
        made.from_frozen_graph(parts / "a.pb", feeds="x", fetches="y", output=out)
    with pytest.raises(OptionError, match=r"the input 'b_x' is given by another graph|is given by another graph"):
        made.join_frozen(
            [parts / "a.pb", parts / "b.pb"],
            connect={"b/x": "a/y"},
            feeds=["a/x", "a/word", "b/word", "b/x"],
            output=out,
        )
    with pytest.raises(MismatchError, match=r"b/word is string|a/x:0 is float32"):
        made.join_frozen([parts / "a.pb", parts / "b.pb"], connect={"b/word": "a/x:0"}, output=out)
    with tf.Graph().as_default() as graph:
        v = v1.get_variable("v", initializer=1.0, use_resource=False)
        tf.add(v, 1, name="changed")
        tf.identity(v1.py_func(lambda: np.float32(1), [], tf.float32), name="python")
        table = v1.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)
        tf.identity(table.lookup(tf.constant("a")), name="found")
        definition = graph.as_graph_def()
    for node in [node for node in definition.node if node.op == "LookupTableImportV2" or "Initialize" in node.op]:
        definition.node.remove(node)
    (tmp_path / "c.pb").write_bytes(definition.SerializeToString())
    for output, message in {
        "changed": r"is not frozen: node 'v' \(VariableV2\)",
        "python": r"calls a Python function in node 'PyFunc'",
        "found": r"the table 'hash_table', and nothing in the file fills it",
    }.items():
        with pytest.raises(StoreError, match=message):
            made.from_frozen_graph(tmp_path / "c.pb", fetches=output, output=out)
    (tmp_path / "text.pb").write_text("node { name: 'x' }")
    with pytest.raises(StoreError, match=r"text.pb is not a graph"):
        made.from_frozen_graph(tmp_path / "text.pb", fetches="x", output=out)
    assert not out.exists()


# Hostile parts -------------------------------------------------------------------------------------------------------


def test_parts_that_are_not_whole_are_refused_without_tensorflow(parts, tmp_path, monkeypatch):
    """Python inside, assets elsewhere, values missing, nothing to call, a damaged program: named, and nothing is written."""
    monkeypatch.setattr(tf.saved_model, "load", lambda *_: pytest.fail("TensorFlow was asked"))
    good = parts / "keras3"

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def python(x):
        return {"y": tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), [])}

    bad = {"python": servables.functions(tmp_path / "python", **{SERVING: python})}
    bad["unnamed"] = tmp_path / "unnamed"
    tf.saved_model.save(tf.Module(), str(bad["unnamed"]))
    for name in ("old", "keras3"):
        bad[name] = shutil.copytree(parts / name, tmp_path / f"lacking_{name}")
        shutil.rmtree(bad[name] / "variables")
    bad["link"] = shutil.copytree(parts / "old", tmp_path / "link")
    (asset,) = (bad["link"] / "assets").iterdir()
    asset.rename(tmp_path / "elsewhere.txt")
    asset.symlink_to(tmp_path / "elsewhere.txt")
    bad["cut"] = shutil.copytree(good, tmp_path / "cut")
    (bad["cut"] / "saved_model.pb").write_bytes((good / "saved_model.pb").read_bytes()[:-100])
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        x = v1.sparse_placeholder(tf.float32)
        v1.saved_model.simple_save(session, str(tmp_path / "sparse"), {"x": x}, {"y": v1.sparse_reduce_sum(x)})
    bad["sparse"] = tmp_path / "sparse"
    messages = {
        "sparse": "'x' of signature 'serving_default' .* is a sparse or ragged tensor",
        "python": "Python function",
        "unnamed": "has no signatures",
        "old": "variables are missing",
        "keras3": "variables are missing",
        "link": "outside|links? to",
        "cut": "damaged",
    }
    before = contents_of(tmp_path)
    for name, message in messages.items():
        for verb in (made.combine, made.chain, made.ensemble):
            with pytest.raises(StoreError, match=message):
                verb([good, bad[name]], output=tmp_path / "out")
    with pytest.raises(OutputError, match="lies inside"):
        made.combine([good, bad["cut"].rename(tmp_path / "x") and good], names=["a", "b"], output=good / "out")
    assert set(contents_of(tmp_path).values()) == set(before.values())


def test_the_comparison_sees_what_differs(parts, tmp_path):
    """A servable that is not what it claims to be made of is refused, by output and size of the difference."""
    flow = beside.Flow(
        inputs=plan_combine([("a", parts / "keras3"), ("b", parts / "keras2")]) and _features(parts),
        steps=[beside.Step(part="a", signature=SERVING, feeds={"features": (None, "features")})],
        expected=lambda found: {"output_0": found[0]["classes"]},
    )
    with pytest.raises(
        StoreError, match=r"run in a session, does not give what its parts give one by one: output 'output_0'"
    ):
        beside.check(parts / "keras3", {"a": beside.savedmodel(parts / "keras2", ["serve"])}, {SERVING: flow})


def _features(parts):
    from graftwork.stores.saved_program import read_program

    return read_program(parts / "keras3").signature(SERVING).inputs

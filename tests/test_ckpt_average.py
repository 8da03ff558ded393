"""Averages of checkpoints: by any method, the last ones of a directory, and never of optimizers and counters."""

import json

import numpy as np
import pytest
import tf_files
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import graftwork as gw
from graftwork.ckpt.history import last_of
from graftwork.cli.app import app
from graftwork.errors import MismatchError, OptionError, OutputError, RecipeError, StoreError
from graftwork.methods import METHODS, Base
from graftwork.stores import open_store
from graftwork.tensor import Role
from graftwork.testing import read_raw

SLOTS = ("w/Adam", "w/Adam_1", "beta1_power", "beta2_power")


def values_of(path):
    """Return every tensor of a source as the numbers that it holds."""
    with open_store(path) as reader:
        return {
            name: read_raw(reader, name).view(spec.dtype).reshape(spec.shape) for name, spec in reader.specs().items()
        }


def saved(folder, number, *, scale=1.0, without=(), **more):
    """Write a checkpoint as TensorFlow 1 names what it holds."""
    w = np.arange(6, dtype=np.float32).reshape(2, 3) * number * scale
    arrays = {
        "w": w,
        "w/Adam": w * 10,
        "w/Adam_1": w * 100,
        "beta1_power": np.float32(0.9**number),
        "beta2_power": np.float32(0.99**number),
        "global_step": np.int64(number * 100),
        "ids": np.array([1, 2, number], np.int32),
        **more,
    }
    folder.mkdir(exist_ok=True)
    kept = {name: np.asarray(array) for name, array in arrays.items() if name not in without}
    return tf_files.checkpoint(folder / f"model.ckpt-{number}.index", kept)


def state_file(folder, *numbers, latest=None):
    """Write the state file of a directory."""
    lines = [f'model_checkpoint_path: "model.ckpt-{latest or numbers[-1]}"']
    lines += [f'all_model_checkpoint_paths: "model.ckpt-{number}"' for number in numbers]
    (folder / "checkpoint").write_text("\n".join(lines) + "\n")


# Roles ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lender", ["first", "last"])
@pytest.mark.parametrize("optimizer", ["drop", "first", "last"])
def test_optimizer_state_and_counters_are_taken_and_not_averaged(tmp_path, optimizer, lender):
    """Weights are the mean; all else is, bit for bit, that of the checkpoint that was asked for."""
    paths = [saved(tmp_path / "run", number) for number in (1, 2, 6)]
    report = []
    out = gw.checkpoints.average(
        paths, output=tmp_path / "out.index", optimizer=optimizer, lender=lender, report=report
    )
    found, first, last = values_of(out), values_of(paths[0]), values_of(paths[2])
    np.testing.assert_array_equal(found.pop("w"), first["w"] * 3)
    kept = {"first": first, "last": last}.get(optimizer, {})
    lent = {"first": first, "last": last}[lender]
    wanted = {name: kept[name] for name in SLOTS if kept} | {name: lent[name] for name in ("global_step", "ids")}
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    assert any("optimizer state (4 tensors) is dropped" in note for note in report) == (optimizer == "drop")


def test_the_table_says_what_becomes_of_each_role(tmp_path):
    """By the plan, and in the result that is told."""
    paths = [saved(tmp_path / "run", number) for number in (1, 2)]
    told = []
    gw.checkpoints.average(paths, output=tmp_path / "out.index", optimizer="first", on_result=told.append)
    assert {(row["role"], row["tensors"], row["result"]) for row in told[0].tables["roles"]} == {
        ("weight", 1, "linear"),
        ("optimizer", 4, "that of model.ckpt-1"),
        ("counter", 2, "that of model.ckpt-2"),
    }


def test_optimizer_state_that_is_not_whole_is_refused(tmp_path):
    """A slot that the kept state lacks would begin at zero, and train on wrongly."""
    paths = [saved(tmp_path / "run", 1, without=SLOTS[:1]), saved(tmp_path / "run", 2)]
    with pytest.raises(MismatchError, match=r"optimizer state 'w/Adam' is not in model\.ckpt-1"):
        gw.checkpoints.average(paths, output=tmp_path / "out.index", optimizer="first")
    assert not (tmp_path / "out.index").exists()
    out = gw.checkpoints.average(paths, output=tmp_path / "out.index", optimizer="last")
    assert set(SLOTS) <= set(values_of(out))


def test_state_that_would_get_lost_is_refused(tmp_path):
    """The lender has no place for a slot that the kept optimizer has."""
    paths = [saved(tmp_path / "run", 1), saved(tmp_path / "run", 2, without=SLOTS[:1])]
    with pytest.raises(MismatchError, match=r"'w/Adam' of model\.ckpt-1 has no place in the result"):
        gw.checkpoints.average(paths, output=tmp_path / "out.index", optimizer="first")


def test_names_come_from_the_lender(tmp_path):
    """With `map`, in both directions."""
    a = tf_files.checkpoint(tmp_path / "a.index", {"old": np.ones(3, np.float16)})
    b = tf_files.checkpoint(tmp_path / "b.index", {"new": np.zeros(3, np.float32)})
    out = gw.checkpoints.average([a, b], output=tmp_path / "x.index", map={"old": "new"})
    assert {name: found.dtype for name, found in values_of(out).items()} == {"new": np.float32}
    out = gw.checkpoints.average([a, b], output=tmp_path / "y.index", map={"new": "old"}, lender="first")
    assert {name: found.dtype for name, found in values_of(out).items()} == {"old": np.float16}


# Methods -------------------------------------------------------------------------------------------------------------

OPTIONS = {
    "linear": {"weight": [1, 2, 3]},
    "ema": {"decay": 0.6},
    "median": {},
    "task_arithmetic": {"lambda": 0.5},
    "ties": {"density": 0.5},
    "dare_linear": {"density": 0.5},
    "swa": {"start": 1},
}


@pytest.mark.parametrize("method", list(OPTIONS))
@pytest.mark.parametrize("lender", ["first", "last"])
def test_methods_see_the_checkpoints_in_the_order_given(tmp_path, method, lender):
    """Whoever lends names: the result is that of the method on plain arrays."""
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((40, 30), np.float32) for _ in range(4)]
    paths = [tf_files.checkpoint(tmp_path / f"{k}.index", {"x/w": array}) for k, array in enumerate(arrays)]
    needs_base = METHODS[method].base is Base.REQUIRED
    out = gw.checkpoints.average(
        paths[:3],
        base=paths[3] if needs_base else None,
        method=method,
        options=OPTIONS[method],
        output=tmp_path / "out.index",
        seed=5,
        lender=lender,
    )
    wanted = gw.merge_arrays(
        method, arrays[:3], base=arrays[3] if needs_base else None, name="x/w", seed=5, **OPTIONS[method]
    )
    np.testing.assert_array_equal(values_of(out)["x/w"], wanted)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
@settings(deadline=None, max_examples=40)
def test_the_average_of_copies_is_the_checkpoint(tmp_path_factory, numbers):
    """Two copies: their sum is twice the number or overflows, and no bit changes."""
    folder = tmp_path_factory.mktemp("copies")
    array = np.array(numbers, np.float32) / 4
    paths = [tf_files.checkpoint(folder / f"{k}.index", {"w": array}) for k in range(2)]
    out = gw.checkpoints.average(paths, output=folder / "out.index")
    np.testing.assert_array_equal(values_of(out)["w"], array)


def test_any_store_will_do(tmp_path):
    """A checkpoint and a safetensors file into a safetensors file."""
    a = tf_files.checkpoint(tmp_path / "a.index", {"w": np.ones(4, np.float32)})
    save_file({"w": np.full(4, 3, np.float32)}, tmp_path / "b.safetensors")
    out = gw.checkpoints.average([a, tmp_path / "b.safetensors"], output=tmp_path / "out.safetensors")
    np.testing.assert_array_equal(load_file(out)["w"], np.full(4, 2, np.float32))


def test_what_is_not_of_one_model_is_refused(tmp_path):
    """Other names, other shapes, one tensor more."""
    a = tf_files.checkpoint(tmp_path / "a.index", {"w": np.ones(4, np.float32)})
    for k, other in enumerate(({"v": np.ones(4)}, {"w": np.ones(5)}, {"w": np.ones(4), "v": np.ones(1)})):
        b = tf_files.checkpoint(tmp_path / f"b{k}.index", {n: v.astype(np.float32) for n, v in other.items()})
        for models in ([a, b], [b, a]):
            with pytest.raises(MismatchError):
                gw.checkpoints.average(models, output=tmp_path / "out.index")
    with pytest.raises(OutputError, match="source"):
        gw.checkpoints.average([a, a], names=["x", "y"], output=a, overwrite=True)


# The last ones of a directory ----------------------------------------------------------------------------------------


def test_the_state_file_tells_the_order(tmp_path):
    """Numbers may say otherwise: training was begun again."""
    for number in (5, 7, 9, 30):
        saved(tmp_path, number)
    state_file(tmp_path, 30, 9, 5)
    assert [path.name for path in last_of(tmp_path, 2)] == ["model.ckpt-9.index", "model.ckpt-5.index"]
    with pytest.raises(
        MismatchError, match=r"the last 4 .* by its file 'checkpoint' there are 3: model.ckpt-30, model.ckpt-9"
    ):
        last_of(tmp_path, 4)
    state_file(tmp_path, 30, 8)
    with pytest.raises(StoreError, match=r"model.ckpt-8.* is not there"):
        last_of(tmp_path, 1)


def test_a_state_file_is_read_as_tensorflow_writes_it(tmp_path):
    """Absolute paths of a directory that was moved; characters that are escaped."""
    folder = tmp_path / "now"
    folder.mkdir()
    for name in ("ü-1", 'q"-2'):
        tf_files.checkpoint(folder / f"{name}.index", {"w": np.ones(1, np.float32)})
    lines = [
        'model_checkpoint_path: "/old/place/q\\"-2"',
        'all_model_checkpoint_paths: "/old/place/\\303\\274-1"',
        'all_model_checkpoint_paths: "/old/place/q\\"-2"',
    ]
    (folder / "checkpoint").write_text("\n".join(lines))
    assert [path.name for path in last_of(folder, 2)] == ["ü-1.index", 'q"-2.index']


@given(st.permutations(range(8, 13)), st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_without_a_state_file_numbers_tell_the_order(tmp_path_factory, numbers, count):
    """As numbers, not as texts."""
    folder = tmp_path_factory.mktemp("numbers")
    for number in numbers:
        save_file({"w": np.ones(1, np.float32)}, folder / f"m-{number}.safetensors")
    assert [path.name for path in last_of(folder, count)] == [f"m-{n}.safetensors" for n in range(13 - count, 13)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a-1", "b-2"], "'a-1.safetensors' and 'b-2.safetensors' are called by different names"),
        (["a-1", "a-01"], "same number"),
        (["a-1", "best"], "'best.safetensors' has no number at the end"),
        (["a-1"], "there are 1: a-1"),
        ([], "there are 0: none"),
    ],
)
def test_an_order_that_nothing_tells_is_refused(tmp_path, names, said):
    """Times of files are not asked."""
    for name in names:
        save_file({"w": np.ones(1, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(MismatchError, match=said):
        last_of(tmp_path, 2)
    with pytest.raises(StoreError, match="is no directory"):
        last_of(tmp_path / "nowhere", 2)


def test_a_directory_is_averaged_in_three_ways_with_one_result(tmp_path, monkeypatch):
    """From Python, as a command, as a recipe, and with the files named one by one."""
    monkeypatch.chdir(tmp_path)
    for number in (1, 2, 4, 8):
        saved(tmp_path / "run", number)
    state_file(tmp_path / "run", 1, 2, 4, 8)
    gw.checkpoints.average("run", last=3, output="a")
    done = CliRunner().invoke(app, ["ckpt", "average", "run", "--last", "3", "-o", "b"])
    assert done.exit_code == 0, done.output
    steps = {"soup": {"ckpt_average": {"models": "run", "last": 3}}}
    gw.run({"models": {"run": "run"}, "steps": steps, "outputs": {"soup": "c.index"}})
    gw.checkpoints.average([f"run/model.ckpt-{number}" for number in (2, 4, 8)], output="d")
    made = [(tmp_path / f"{name}.data-00000-of-00001").read_bytes() for name in "abcd"]
    assert len(set(made)) == 1
    np.testing.assert_allclose(values_of(tmp_path / "a.index")["w"], np.arange(6).reshape(2, 3) * 14 / 3, rtol=1e-6)
    assert values_of(tmp_path / "a.index")["global_step"] == 800
    plan = CliRunner().invoke(app, ["ckpt", "average", "run", "--last", "3", "--dry-run", "--json"])
    assert json.loads(plan.stdout)["models"] == ["model.ckpt-2", "model.ckpt-4", "model.ckpt-8"]


def test_last_takes_one_directory(tmp_path, monkeypatch):
    """Not several models, not the result of a step, and at least one."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "run", 1)
    with pytest.raises(RecipeError, match="one directory"):
        gw.checkpoints.average(["run", "run"], last=1, output="out")
    with pytest.raises(OptionError, match="greater than or equal to 1"):
        gw.checkpoints.average("run", last=0, output="out")
    steps = {
        "one": {"ckpt_average": {"models": ["a"]}},
        "two": {"ckpt_average": {"models": ["one"], "last": 2}},
    }
    with pytest.raises(RecipeError, match="no directory but a step"):
        gw.plan({"models": {"a": "run/model.ckpt-1.index"}, "steps": steps, "outputs": {"two": "out.index"}})


# TensorFlow itself ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tf():
    """TensorFlow."""
    import tensorflow

    return tensorflow


def build_tf1(tf):
    """Make the variables of a graph of TensorFlow 1, and a step of its training."""
    v1 = tf.compat.v1
    kernel = v1.get_variable("enc/kernel", (3, 2), partitioner=v1.fixed_size_partitioner(2))
    bias = v1.get_variable("enc/bias", (2,))
    loss = tf.reduce_sum((tf.matmul(tf.ones((1, 3)), tf.convert_to_tensor(kernel)) + bias) ** 2)
    return v1.train.AdamOptimizer(0.1).minimize(loss, v1.train.get_or_create_global_step())


@pytest.mark.keras
@pytest.mark.parametrize("optimizer", ["drop", "last"])
def test_an_average_of_tensorflow_1_is_restored_by_its_saver(tf, tmp_path, optimizer):
    """Weights are the mean, Adam goes on from the last one's state."""
    v1 = tf.compat.v1
    folder = tmp_path / "run"
    with tf.Graph().as_default(), v1.Session() as session:
        train = build_tf1(tf)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(max_to_keep=3)
        for _ in range(4):
            session.run(train)
            saver.save(session, str(folder / "model.ckpt"), v1.train.get_global_step())
    out = gw.checkpoints.average(folder, last=3, optimizer=optimizer, output=tmp_path / "avg.ckpt")
    readers = [tf.train.load_checkpoint(str(folder / f"model.ckpt-{number}")) for number in (2, 3, 4)]
    names = set(readers[0].get_variable_to_shape_map())
    state = {name for name in names if "Adam" in name or "_power" in name}
    assert len(state) == 6
    kept = names if optimizer == "last" else names - state
    with tf.Graph().as_default(), v1.Session() as session:
        train = build_tf1(tf)
        mine = [
            v for v in v1.global_variables() if optimizer == "last" or not any(s in v.name for s in ("Adam", "_pow"))
        ]
        session.run(v1.global_variables_initializer())
        v1.train.Saver(mine).restore(session, str(out).removesuffix(".index"))
        session.run(train)
        assert session.run(v1.train.get_global_step()) == 5
    found = tf.train.load_checkpoint(str(out).removesuffix(".index"))
    assert set(found.get_variable_to_shape_map()) == kept
    for name in kept:
        arrays = [reader.get_tensor(name) for reader in readers]
        averaged = name in ("enc/kernel", "enc/bias")
        wanted = np.mean(np.array(arrays, np.float64), axis=0) if averaged else arrays[-1]
        np.testing.assert_allclose(found.get_tensor(name), wanted, rtol=1e-6 if averaged else 0)


@pytest.mark.keras
@pytest.mark.parametrize("kind", ["keras", "tf_keras"])
def test_an_average_of_objects_is_restored_by_tensorflow(tf, tmp_path, kind):
    """Every object finds its value: weights the mean, optimizer, counters and texts those of the last."""
    if kind == "keras":
        import keras
    else:
        keras = pytest.importorskip("tf_keras")

    def build():
        model = keras.Sequential([keras.layers.Dense(4, name="a"), keras.layers.Dense(2, name="b")])
        model.build((None, 3))
        model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
        step = tf.Variable(0, dtype=tf.int64, name="global_step")
        return tf.train.Checkpoint(model=model, optimizer=model.optimizer, step=step), model, step

    root, model, step = build()
    manager = tf.train.CheckpointManager(root, str(tmp_path / "run"), max_to_keep=None)
    x, seen = np.ones((8, 3), np.float32), []
    for _ in range(3):
        model.fit(x, np.ones((8, 2), np.float32), verbose=0)
        step.assign_add(5)
        manager.save()
        seen.append([weights.copy() for weights in model.get_weights()])
    state = [np.asarray(v) for v in (model.optimizer.variables if kind == "keras" else model.optimizer.variables())]
    out = gw.checkpoints.average(tmp_path / "run", last=2, optimizer="last", output=tmp_path / "avg")
    restored, other, counted = build()
    other.fit(x, np.zeros((8, 2), np.float32), verbose=0)
    status = restored.restore(str(out).removesuffix(".index"))
    status.assert_consumed()
    assert (int(counted), int(restored.save_counter)) == (15, 3)
    for found, one, two in zip(other.get_weights(), *seen[1:], strict=True):
        np.testing.assert_allclose(found, (one + two) / 2, rtol=1e-6)
    after = other.optimizer.variables if kind == "keras" else other.optimizer.variables()
    for found, wanted in zip(after, state, strict=True):
        np.testing.assert_array_equal(np.asarray(found), wanted)
    dropped = gw.checkpoints.average(tmp_path / "run", last=2, output=tmp_path / "dropped")
    bare, third, _ = build()
    bare.restore(str(dropped).removesuffix(".index")).expect_partial()
    np.testing.assert_allclose(third.get_weights()[0], (seen[1][0] + seen[2][0]) / 2, rtol=1e-6)


@pytest.mark.keras
def test_layers_that_are_numbered_otherwise_are_matched_by_their_places(tf, tmp_path):
    """A model that is built a second time in a process: names say `dense_1` for another layer, and shapes do not tell."""
    import keras

    def build():
        return keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(3))], name="model")

    keras.backend.clear_session()
    models = [build(), build()]
    names = [[layer.name for layer in model.layers] for model in models]
    assert names == [["dense", "dense_1", "dense_2"], ["dense_3", "dense_4", "dense_5"]]
    keras.backend.clear_session()
    keras.layers.Dense(1)
    models.append(build())
    assert [layer.name for layer in models[2].layers] == ["dense_1", "dense_2", "dense_3"]
    paths = []
    for k, model in enumerate(models):
        model.set_weights([np.full(w.shape, 10 * n + k, np.float32) for n, w in enumerate(model.get_weights())])
        paths.append(tf.train.Checkpoint(model=model).save(str(tmp_path / str(k) / "m.ckpt")))
    for first, other in ((0, 1), (0, 2), (2, 0)):
        report = []
        out = gw.checkpoints.average(
            [paths[first], paths[other]], output=tmp_path / f"{first}{other}", names=["a", "b"], report=report
        )
        assert any("places among the objects" in note for note in report)
        tf.train.Checkpoint(model=models[0]).restore(str(out).removesuffix(".index")).assert_existing_objects_matched()
        for n, found in enumerate(models[0].get_weights()):
            assert (found == 10 * n + (first + other) / 2).all()
    for name, order, value in (("swapped", "ba", 2), ("plain", "ab", 0)):
        dense = [keras.layers.Dense(4, name=letter) for letter in order]
        model = keras.Sequential([keras.Input((4,)), *dense], name="model")
        model.get_layer("a").set_weights([np.full((4, 4), value), np.zeros(4)])
        tf.train.Checkpoint(model=model).write(str(tmp_path / name))
    found = values_of(gw.checkpoints.average([tmp_path / "plain", tmp_path / "swapped"], output=tmp_path / "named"))
    assert [values.mean() for name, values in found.items() if name.endswith("a/kernel")] == [1]


@pytest.mark.keras
def test_layers_that_were_made_in_another_order_are_matched_by_what_the_model_calls_them(tf, tmp_path):
    """An optimizer numbers variables in the order in which layers were made, and the shortest way to a deep variable leads through it."""
    import keras

    class Pair(keras.layers.Layer):
        def __init__(self, order, depth):
            super().__init__(name="pair")
            for name in order:
                setattr(self, name, Pair("xy", depth - 1) if depth else keras.layers.Dense(4, use_bias=False))

        def build(self, shape):
            for layer in self._layers:
                layer.build(shape)

    paths = []
    for number, order in enumerate((("enc", "dec"), ("dec", "enc"))):
        model = Pair(order, 1)
        model.build((None, 4))
        for n, layer in enumerate((model.enc.x, model.enc.y, model.dec.x, model.dec.y)):
            layer.set_weights([np.full((4, 4), 10 * n + number, np.float32)])
        optimizer = keras.optimizers.Adam()
        optimizer.build(model.trainable_variables)
        for variable in optimizer.variables[2:]:
            variable.assign(np.full(variable.shape, 100 + number))
        paths.append(tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / str(number))))
    with open_store(f"{paths[0]}.index") as reader:
        assert all("_trainable_variables" in reader.key(n) for n, s in reader.specs().items() if s.role is Role.WEIGHT)
    out = gw.checkpoints.average(paths, output=tmp_path / "mean", optimizer="last")
    tf.train.Checkpoint(model=model, optimizer=optimizer).restore(str(out).removesuffix(".index")).assert_consumed()
    for n, layer in enumerate((model.enc.x, model.enc.y, model.dec.x, model.dec.y)):
        assert (layer.get_weights()[0] == 10 * n + 0.5).all()
    assert all((variable.numpy() == 101).all() for variable in optimizer.variables[2:])
    with pytest.raises(MismatchError, match="or belongs to another variable there"):
        gw.checkpoints.average(paths, output=tmp_path / "other", optimizer="first")


@pytest.mark.keras
def test_an_average_of_keras_files_goes_on_training_where_the_last_was(tmp_path):
    """Optimizer and iterations of the last file, weights the mean; layers of other names are matched by what they are."""
    import keras

    paths = []
    for k in range(3):
        layers = [keras.Input((3,)), keras.layers.Dense(4, name=f"a{k}"), keras.layers.Dense(2, name=f"b{k}")]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
        model.fit(np.ones((8, 3)), np.ones((8, 2)), batch_size=8, epochs=k + 1, verbose=0)
        model.save(tmp_path / f"epoch-{k}.keras")
        paths.append(model)
    out = gw.checkpoints.average(tmp_path, last=3, optimizer="last", output=tmp_path / "mean.keras")
    found = keras.saving.load_model(out)
    assert [layer.name for layer in found.layers] == ["a2", "b2"]
    assert int(found.optimizer.iterations) == 3
    for got, wanted in zip(found.optimizer.variables, paths[2].optimizer.variables, strict=True):
        np.testing.assert_array_equal(got, wanted)
    for got, *each in zip(found.get_weights(), *(model.get_weights() for model in paths), strict=True):
        np.testing.assert_allclose(got, np.mean(each, axis=0), rtol=1e-5, atol=1e-7)

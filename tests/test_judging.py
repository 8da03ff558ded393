"""Models judged and repaired with data: as commands, as steps of recipes, and in Python."""

import json
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest
from commands import Commands
from keras import layers as kl

import graftwork as gw

pytestmark = pytest.mark.keras


def classifier(name: str, seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    x = keras.Input((8,), name="x")
    y = kl.BatchNormalization(name="norm", momentum=0.5)(kl.Dense(16, activation="relu", name="hidden")(x))
    return keras.Model(x, kl.Dense(3, activation="softmax", name="out")(y), name=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classifiers of one ancestor, and the data that they were trained on."""
    made = tmp_path_factory.mktemp("judging")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)).astype("float32")
    y = (x[:, 0] > 0).astype("int64") + (x[:, 1] > 0)
    np.savez(made / "data.npz", x=x, y=y)
    for seed, name in ((1, "a"), (2, "b")):
        model = classifier(name, 0)
        model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", jit_compile=False)
        model.fit(x[seed::2], y[seed::2], epochs=3, verbose=0)
        model.save(made / f"{name}.keras")
    return made


@pytest.fixture
def command(commands: Commands):
    """Runs a command, which ends with the status that is said."""

    def run(*words: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = commands.graftwork(words)
        assert done.returncode == status, done.stderr
        return done

    return run


def test_an_evaluation_is_the_same_three_ways(folder, tmp_path, command):
    """Command, step and function tell the figures that NumPy finds; nothing is written twice."""
    found = gw.evaluate([folder / "a.keras", folder / "b.keras"], folder / "data.npz", timed=False, top=2)
    with np.load(folder / "data.npz") as data:
        x, y = data["x"], data["y"]
    for name in "ab":
        said = keras.saving.load_model(folder / f"{name}.keras").predict(x, verbose=0)
        row = found.verdicts[0].figures[name].metrics
        assert row["accuracy"] == pytest.approx(np.mean(said.argmax(1) == y), abs=1e-12)
        assert row["log_loss"] == pytest.approx(-np.mean(np.log(said[np.arange(len(y)), y])), rel=1e-5)
    words = (
        "evaluate",
        folder / "a.keras",
        folder / "b.keras",
        "--data",
        folder / "data.npz",
        "--no-timed",
        "--top",
        2,
    )
    told = command(*words, "--json", "-o", tmp_path / "told.json", "--confusion", tmp_path / "c.svg")
    plain = json.loads(told.stdout)
    assert (
        plain["verdicts"] == found.to_dict()["verdicts"] == json.loads((tmp_path / "told.json").read_text())["verdicts"]
    )
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")
    assert "exists" in command(*words, "-o", tmp_path / "told.json", status=1).stderr
    recipe = {
        "models": {name: str(folder / f"{name}.keras") for name in "ab"},
        "data": {"all": {"npz": str(folder / "data.npz")}},
        "steps": {"judged": {"evaluate": {"models": ["a", "b"], "data": "all", "top": 2, "timed": False}}},
        "outputs": {"judged": str(tmp_path / "judged.json")},
    }
    (report,) = gw.plan(recipe)
    assert "300 samples" in report.notes[0]
    gw.run(recipe)
    assert json.loads((tmp_path / "judged.json").read_text())["verdicts"] == plain["verdicts"]


def test_a_merge_is_recalibrated_where_the_recipe_gives_data(folder, tmp_path, command):
    """The statistics are those of the merged model's own activations; the other weights are those of the plain merge."""
    recipe = {
        "models": {name: str(folder / f"{name}.keras") for name in "ab"},
        "data": {"all": {"npz": str(folder / "data.npz")}},
        "steps": {"soup": {"merge": {"method": "linear", "models": ["a", "b"], "recalibrate": "all"}}},
        "outputs": {"soup": str(tmp_path / "soup.keras")},
    }
    (report,) = gw.plan(recipe)
    assert any("300 samples" in note for note in report.notes)
    result = gw.run(recipe)["soup"]
    assert not any("averaged" in note for note in result.notes)
    soup = keras.saving.load_model(tmp_path / "soup.keras")
    plain = gw.merge([folder / "a.keras", folder / "b.keras"], output=tmp_path / "plain.keras")
    with np.load(folder / "data.npz") as data:
        x = data["x"].astype("float64")
    merged = {v.path: np.asarray(v) for v in keras.saving.load_model(plain).variables}
    for variable in soup.variables:
        if "moving" not in variable.path:
            assert np.array_equal(merged[variable.path], np.asarray(variable))
    kernel, bias = (np.asarray(v, "float64") for v in soup.get_layer("hidden").weights)
    hidden = np.maximum(x @ kernel + bias, 0)
    norm = soup.get_layer("norm")
    assert np.allclose(np.asarray(norm.moving_mean), hidden.mean(0), rtol=1e-5, atol=1e-6)
    assert np.allclose(np.asarray(norm.moving_variance), hidden.var(0), rtol=1e-5, atol=1e-6)
    by_command = command("recalibrate", plain, "--data", folder / "data.npz", "-o", tmp_path / "by_command.keras")
    assert "1 layer gets new statistics" in by_command.stderr
    again = keras.saving.load_model(tmp_path / "by_command.keras")
    assert all(
        np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(soup.variables, again.variables, strict=True)
    )


def test_columns_are_said_in_the_same_way_everywhere(folder, tmp_path, command):
    """`x` and `y` of every verb with data: in Python, by command, and in a recipe; several columns in order, or by the inputs' names."""
    with np.load(folder / "data.npz") as data:
        x, y = data["x"], data["y"]
    np.savez(tmp_path / "named.npz", left=x[:, :3], right=x[:, 3:], kind=y, noise=y)
    by_name = {"x": ("left", "right")}
    said = {"data": tmp_path / "named.npz", "x": by_name, "y": "kind"}
    expected = gw.recalibrate(folder / "a.keras", folder / "data.npz")
    live = gw.recalibrate(folder / "a.keras", **said)
    words = ("--data", tmp_path / "named.npz", "--x", "x=left,right", "--y", "kind")
    command("recalibrate", folder / "a.keras", *words, "-o", tmp_path / "command.keras")
    recipe = {
        "models": {"a": str(folder / "a.keras")},
        "data": {"all": str(tmp_path / "named.npz")},
        "steps": {
            "again": {"recalibrate": {"model": "a", "data": "all", "x": {"x": ["left", "right"]}, "y": "kind"}},
            "judged": {"evaluate": {"models": ["a"], "data": "all", "x": by_name, "y": "kind", "timed": False}},
        },
        "outputs": {"again": str(tmp_path / "recipe.keras"), "judged": str(tmp_path / "judged.json")},
    }
    gw.run(recipe)
    for found in (live, *(keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("command", "recipe"))):
        assert all(np.array_equal(a, b) for a, b in zip(expected.get_weights(), found.get_weights(), strict=True))
    figures = json.loads((tmp_path / "judged.json").read_text())["verdicts"][0]["figures"]["a"]["metrics"]
    told = json.loads(command("evaluate", folder / "a.keras", *words, "--no-timed", "--json").stdout)
    assert told["verdicts"][0]["figures"]["a"]["metrics"] == figures
    models = {
        "finetune": [folder / "a.keras"],
        "distill": {"teachers": [folder / "a.keras"], "student": folder / "b.keras"},
    }
    for verb, given in models.items():
        report = gw.check(verb, given, validation=tmp_path / "named.npz", **said)
        assert not any("labels are left aside" in note for note in report.notes)
        with pytest.raises(gw.GraftworkError, match=r"no array in named\.npz is called 'kinds'"):
            gw.check(verb, given, **said | {"y": "kinds"})
    command("finetune", folder / "a.keras", *words, "--dry-run")
    assert (
        "given twice"
        in command("gram", folder / "a.keras", *words, "--x", "x=noise", "-o", "g.safetensors", status=2).stderr
    )


def test_wrong_data_is_refused_before_anything_is_made(folder, tmp_path, command):
    """Shapes by the plan; a target without an architecture; a name that nothing has."""
    np.savez(tmp_path / "narrow.npz", x=np.ones((4, 7), "float32"))
    with pytest.raises(gw.GraftworkError, match="takes float32"):
        gw.check("recalibrate", [folder / "a.keras"], data=tmp_path / "narrow.npz")
    error = command(
        "recalibrate", folder / "a.keras", "--data", tmp_path / "narrow.npz", "-o", tmp_path / "o.keras", status=1
    )
    assert error.stderr.startswith("error:") and not (tmp_path / "o.keras").exists()
    recipe = {
        "models": {name: str(folder / f"{name}.keras") for name in "ab"},
        "steps": {
            "soup": {"merge": {"method": "linear", "models": ["a", "b"], "recalibrate": str(folder / "data.npz")}}
        },
        "outputs": {"soup": str(tmp_path / "soup.safetensors")},
    }
    with pytest.raises(gw.GraftworkError, match="keras"):
        gw.run(recipe)
    assert not (tmp_path / "soup.safetensors").exists()

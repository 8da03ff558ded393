"""Layers and functions of the user's own, named by file or module: one meaning in Python, on the command line and in recipes.

Commands and the fresh processes that look at results know nothing of the classes that this process has.
"""

import inspect
import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import typer
import yaml
from keras import layers as kl

import graftwork as gw
from graftwork.api.compose import Wanted
from graftwork.cli.app import Commands as Program
from graftwork.cli.app import app
from graftwork.errors import OptionError, StoreError
from graftwork.models.custom import known, origins

pytestmark = pytest.mark.keras

LAYERS = """
import keras
from custom_neighbour import SLOPE


@keras.saving.register_keras_serializable("mine")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", name="scale")

    def call(self, x):
        return x * self.scale


class Shift(keras.layers.Layer):
    def __init__(self, by=1.0, **settings):
        super().__init__(**settings)
        self.by = by

    def call(self, x):
        return x + self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}


def bent(x):
    return keras.ops.maximum(x, SLOPE * x)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models with a registered layer, one that is not, and an activation; the file that defines them, and data."""
    made = tmp_path_factory.mktemp("custom")
    (made / "custom_layers.py").write_text(LAYERS)
    (made / "custom_neighbour.py").write_text("SLOPE = 0.25\n")
    own = known(made / "custom_layers.py")
    for seed, name in enumerate("ab"):
        keras.utils.set_random_seed(seed)
        x = kl.Dense(8, activation=own["bent"], name="hidden")(inputs := keras.Input((8,), name="x"))
        x = kl.BatchNormalization(name="norm")(x)
        x = own["Shift"](0.5, name="shift")(own["Scale"](name="scale")(x))
        keras.Model(inputs, kl.Dense(3, "softmax", name="out")(x), name=name).save(made / f"{name}.keras")
    x = inputs = keras.Input((8,), name="x")
    for k in range(3):
        x = own["Scale"](name=f"scale_{k}")(kl.Dense(8, activation=own["bent"], name=f"hidden_{k}")(x))
    keras.Model(inputs, x, name="deep").save(made / "deep.keras")
    rng = np.random.default_rng(0)
    np.savez(made / "data.npz", x=rng.normal(size=(24, 8)).astype("float32"), y=np.arange(24) % 3)
    return made


FILE = "custom_layers.py"
TRAINED = {"data": "data.npz", "epochs": 1, "jit": False}
DENSE = {"Dense": {"units": 8, "kernel_initializer": "ones"}}
STEPS = {
    "soup": {"merge": {"method": "linear", "models": ["a", "b"], "recalibrate": "data.npz"}},
    "both": {"ensemble": {"models": ["a", "soup"]}},
    "row": {"chain": {"models": ["a", "b"], "adapters": {"a:b": DENSE}}},
    "part": {"extract": {"model": "a", "at": "shift"}},
    "tuned": {"finetune": {"trunk": "a", "head": 3, "unfreeze": 2, **TRAINED}},
    "small": {"distill": {"teachers": ["a", "b"], "student": "a", **TRAINED}},
    "long": {"assemble": {"layers": [{"model": "deep", "range": [0, 3]}, {"model": "deep", "range": [1, 3]}]}},
    "judged": {"evaluate": {"models": ["a", "both"], "data": "data.npz", "timed": False}},
    "told": {"fisher": {"model": "a", "data": "data.npz", "samples": 4}},
}
TRAIN = ("--data", "data.npz", "--epochs", "1", "--no-jit")
COMMANDS = {
    "soup": ("recalibrate", "plain.keras", "--data", "data.npz"),
    "both": ("ensemble", "a.keras", "made/soup.keras"),
    "row": ("chain", "a.keras", "b.keras", "--adapters", f"a:b={json.dumps(DENSE)}"),
    "part": ("extract", "a.keras", "--at", "shift"),
    "tuned": ("finetune", "a.keras", "--units", "3", "--unfreeze", "2", *TRAIN),
    "small": ("distill", "--teacher", "a.keras", "--teacher", "b.keras", "--student", "a.keras", *TRAIN),
    "long": ("assemble", "deep.keras:0-3", "deep.keras:1-3"),
    "judged": ("evaluate", "a.keras", "made/both.keras", "--data", "data.npz", "--no-timed", "--quiet"),
    "told": ("fisher", "a.keras", "--data", "data.npz", "--samples", "4"),
}
ENDINGS = {"judged": ".json", "told": ".safetensors"}


@pytest.fixture(scope="module")
def made(folder, commands) -> Path:
    """What a recipe in another directory makes of the models."""
    (folder / "made").mkdir()
    recipe = {
        "models": {name: f"../{name}.keras" for name in ("a", "b", "deep")},
        "custom_objects": f"../{FILE}",
        "steps": json.loads(json.dumps(STEPS).replace("data.npz", "../data.npz")),
        "outputs": {name: f"{name}{ENDINGS.get(name, '.keras')}" for name in STEPS},
    }
    (folder / "made" / "all.yaml").write_text(yaml.safe_dump(recipe))
    done = commands.graftwork(["run", "made/all.yaml", "--no-check"], cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "made"


@pytest.mark.parametrize("name", STEPS)
def test_the_command_makes_what_the_recipe_makes(name, folder, made, tmp_path, commands):
    """Every verb that loads Keras models takes the option, results are looked at in a fresh process, and the record names the file."""
    if name == "soup":
        gw.merge([folder / "a.keras", folder / "b.keras"], output=folder / "plain.keras")
    path = tmp_path / f"{name}{ENDINGS.get(name, '.keras')}"
    done = commands.graftwork([*COMMANDS[name], "-o", path, "--custom-objects", FILE], cwd=folder)
    assert done.returncode == 0, done.stderr
    if name == "judged":
        assert json.loads(path.read_text())["verdicts"] == json.loads((made / path.name).read_text())["verdicts"]
        return
    ours, theirs = (gw.inspect(place) for place in (path, made / path.name))
    if name == "told":
        assert path.read_bytes()[-64:] == (made / path.name).read_bytes()[-64:]
        return
    assert re.search(r"to load it, Keras needs custom_objects with .*Scale.* \(custom_layers.py\)", done.stderr)
    assert "note: reloaded in a fresh process, it predicts the same" in done.stderr
    assert f": {COMMANDS[name][0]} of " in commands.graftwork(["inspect", path]).stdout
    assert ours.provenance["custom_objects"] == theirs.provenance["custom_objects"] == [FILE]
    x = np.random.default_rng(1).normal(size=(5, 8)).astype("float32")
    said = [np.asarray(gw.load(place, custom_objects=folder / FILE)(x)) for place in (path, made / path.name)]
    np.testing.assert_array_equal(*said)


def test_what_loads_a_model_takes_the_file(folder, tmp_path, commands):
    """A model is sound, and can be exported, where its classes are known."""
    for words in (["verify", "a.keras"], ["export", "a.keras", "-o", tmp_path / "served"]):
        without = commands.graftwork(words, cwd=folder)
        assert without.returncode == 1
        assert "--custom-objects" in without.stdout + without.stderr
        done = commands.graftwork([*words, "--custom-objects", FILE], cwd=folder)
        assert done.returncode == 0, done.stderr


def test_what_is_lifted_is_compared(folder, tmp_path, commands):
    """The model that variables of a SavedModel are put into may have classes of the user's, too: by recipe, command and function."""
    gw.load(folder / "b.keras", custom_objects=folder / FILE).export(tmp_path / "served", verbose=False)
    recipe = {
        "models": {"served": str(tmp_path / "served"), "into": str(folder / "a.keras")},
        "custom_objects": [str(folder / FILE)],
        "steps": {"lifted": {"savedmodel_lift": {"source": "served", "into": "into", "map": "scale/scale=scale/0"}}},
        "outputs": {"lifted": str(tmp_path / "lifted.keras")},
    }
    notes = gw.run(recipe)["lifted"].notes
    assert any("signature" in note for note in notes), notes
    x = np.ones((2, 8), "float32")
    said = [gw.load(path, custom_objects=folder / FILE)(x) for path in (folder / "b.keras", tmp_path / "lifted.keras")]
    np.testing.assert_array_equal(*map(np.asarray, said))
    del recipe["custom_objects"]
    with pytest.raises(StoreError, match=r"does not come with Keras.*custom_objects: FILE.py in a recipe"):
        gw.run(recipe, overwrite=True)

    words = [
        "savedmodel",
        "lift",
        tmp_path / "served",
        "a.keras",
        "--map",
        "scale/scale=scale/0",
        "-o",
        tmp_path / "by.keras",
    ]
    without = commands.graftwork(words, cwd=folder)
    assert without.returncode == 1
    assert "--custom-objects" in without.stderr
    done = commands.graftwork([*words, "--custom-objects", FILE], cwd=folder)
    assert done.returncode == 0, done.stderr
    given = {"map": {"scale/scale": "scale/0"}, "custom_objects": folder / FILE, "output": tmp_path / "called.keras"}
    gw.savedmodel.lift(tmp_path / "served", folder / "a.keras", **given)
    said += [gw.load(tmp_path / name, custom_objects=folder / FILE)(x) for name in ("by.keras", "called.keras")]
    for each in said[2:]:
        np.testing.assert_array_equal(np.asarray(each), np.asarray(said[0]))


def test_a_merge_that_gives_a_live_model_takes_the_file(folder):
    """Weights need no classes, but a model does: without an output a merge gives one, and knows the file before it begins."""
    models = [folder / "a.keras", folder / "b.keras"]
    with pytest.raises(StoreError, match="custom_objects="):
        gw.merge(models)
    merged = gw.merge(models, custom_objects=folder / FILE)
    gw.merge(models, output=folder / "merged.keras")
    for one, other in zip(
        merged.weights, gw.load(folder / "merged.keras", custom_objects=folder / FILE).weights, strict=True
    ):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(OptionError, match=r"there is no file .*nowhere.py"):
        gw.merge(["nowhere.keras"], custom_objects="nowhere.py")


def test_python_takes_a_mapping_a_text_and_a_list(folder):
    """One meaning: the same classes, the same predictions."""
    own = known(folder / FILE)
    assert [thing.__name__ for thing in own.values()].count("Scale") == 2  # as mine>Scale as well
    x = np.ones((2, 8), "float32")
    said = [
        np.asarray(gw.ensemble([folder / "a.keras", folder / "b.keras"], custom_objects=given)(x))
        for given in (own, str(folder / FILE), [folder / FILE])
    ]
    np.testing.assert_array_equal(said[0], said[1])
    np.testing.assert_array_equal(said[0], said[2])
    assert known(own) == own
    assert known(None) == {}


def test_every_function_with_custom_objects_is_a_command_with_the_option():
    """What Python takes, the command line takes."""
    functions = {
        name
        for name in gw.api.__all__
        if inspect.isfunction(found := getattr(gw.api, name))
        for parameter in inspect.signature(found).parameters.values()
        if parameter.name == "custom_objects"
        or (parameter.kind is parameter.VAR_KEYWORD and "Wanted" in str(parameter))
    }
    assert "custom_objects" in Wanted.__annotations__
    assert functions >= {"ensemble", "finetune", "evaluate", "assemble", "export", "verify", "gram", "load"}
    program = typer.main.get_group(app)
    assert isinstance(program, Program)
    for name in functions - {"load", "merge"}:  # they are for live models there, which only Python has
        words = [name.replace("_", "-")]
        command = program.resolve_command(typer.Context(program), words)[1]
        assert "--custom-objects" in {word for p in command.params for word in p.opts}, name


def test_a_model_file_runs_nothing(folder, tmp_path, commands):
    """Without the option, code beside a model is left alone, and the message says what would help in each of the three ways."""
    (tmp_path / FILE).write_text("raise SystemExit('run')")
    done = commands.graftwork(["extract", folder / "a.keras", "--at", "shift", "-o", "out.keras"], cwd=tmp_path)
    assert done.returncode == 1
    assert "does not come with Keras; name the Python file that defines it: --custom-objects FILE.py" in done.stderr
    assert "custom_objects: FILE.py in a recipe" in done.stderr
    assert "custom_objects='FILE.py'" in done.stderr


def test_files_are_run_once_and_leave_nothing(tmp_path):
    """Neighbours are shared by the files of a directory, and those of another directory are others, whatever they are called."""
    for place, value in (("one", 1), ("two", 2)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "shared_part.py").write_text(
            f"import sys\nVALUE = {value}\ndef act(x):\n    return {value} * x\n"
        )
        for name in ("first", "second"):
            text = f"import sys\nfrom shared_part import act\nsys.path.insert(0, 'elsewhere')\ndef {name}_{place}(x):\n    return act(x)\n"
            (tmp_path / place / f"{name}_file.py").write_text(text)
    path, modules = list(sys.path), dict(sys.modules)
    found = {place: known([f"{place}/first_file.py", f"{place}/second_file.py"], tmp_path) for place in ("one", "two")}
    assert sys.path == path
    assert {name: sys.modules.get(name) for name in ("first_file", "second_file", "shared_part")} == {
        "first_file": None,
        "second_file": None,
        "shared_part": None,
    }
    assert all(sys.modules[name] is module for name, module in modules.items())
    assert {*found["one"]} == {"act", "first_one", "second_one"}
    assert found["one"]["first_one"](3) == 3
    assert found["two"]["second_two"](3) == 6
    again = known(tmp_path / "one" / "shared_part.py")
    assert again["act"] is found["one"]["act"]
    assert origins([found["two"]["act"]]) == [str(tmp_path / "two" / "first_file.py")]
    assert origins([test_files_are_run_once_and_leave_nothing]) is None
    with pytest.raises(OptionError, match=r"first_file.py and .*shared_part.py both define 'act'.*rename one"):
        known([tmp_path / "one" / "first_file.py", tmp_path / "two" / "shared_part.py"])


def test_modules_are_imported_by_name(tmp_path, monkeypatch):
    """A package offers what it has, wherever in it that is defined; what the process has imported already is taken as it is."""
    package = tmp_path / "custom_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .parts import Half\n")
    (package / "parts.py").write_text(
        "import keras\nclass Half(keras.layers.Layer):\n    pass\n"
        "@keras.saving.register_keras_serializable('package')\nclass Third(keras.layers.Layer):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = known("custom_package")
    module = sys.modules["custom_package.parts"]
    assert found["Half"] is module.Half
    assert found["package>Third"] is module.Third
    assert known("custom_package.parts")["Half"] is module.Half
    assert known(package / "parts.py")["Half"] is module.Half
    for name in ("custom_package", "custom_package.parts"):
        monkeypatch.delitem(sys.modules, name)


WRONG = {
    "nowhere.py": (None, "there is no file nowhere.py"),
    "nowhere": (None, "there is no module 'nowhere' where Python looks; name its file"),
    "custom.txt": ("x = 1", "custom.txt is no file of Python"),
    "broken_text.py": ("def f(:\n", r"broken_text.py is not Python: SyntaxError: .*\(broken_text.py, line 1\)"),
    "raising.py": (
        "x = 1\nraise KeyError('why')\n",
        r"raising.py cannot be run: KeyError: 'why' \(raising.py, line 2\)",
    ),
    "leaving.py": ("import sys\n\nsys.exit(3)\n", r"leaving.py cannot be run: SystemExit: 3 \(leaving.py, line 3\)"),
    "missing.py": (
        "import not_there_at_all\n",
        r"missing.py cannot be run: ModuleNotFoundError: .*\(missing.py, line 1\)",
    ),
    "nothing.py": ("import os\nfrom json import loads\nX = 1\n", "nothing.py has nothing that Keras could use"),
    "itself.py": ("import graftwork.models.custom as c\nc.known(__file__)\n", "is being run, and asks for itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_used_is_said_with_its_place(name, tmp_path):
    """And nothing is left behind."""
    text, message = WRONG[name]
    if text is not None:
        (tmp_path / name).write_text(text)
    path, modules = list(sys.path), set(sys.modules)
    with pytest.raises(OptionError, match=message):
        known(name, tmp_path)
    assert sys.path == path
    assert not {Path(name).stem} & (set(sys.modules) - modules)


def test_a_mapping_is_nothing_that_another_process_could_be_told(folder, tmp_path):
    """Such a result is written with a note of what it needs, a function by name as a class is, and not looked at."""
    bent = known(folder / FILE)["bent"]

    def like_it(x):
        return bent(x)

    like_it.__name__ = "bent"
    own = {**known(folder / FILE), "bent": like_it}
    notes: list[str] = []
    model, path = folder / "a.keras", tmp_path / "out.keras"
    gw.extract(model, "hidden", custom_objects=own, output=path, report=notes)
    assert notes == ["to load it, Keras needs custom_objects with bent"]
    assert "custom_objects" not in gw.inspect(path).provenance
    with pytest.raises(StoreError, match="'bent' does not come with Keras"):
        gw.extract(model, "hidden")

"""What holds for every verb: one meaning in Python, on the command line and in recipes, sources untouched, results plain and checked."""

import atexit
import inspect
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import yaml
from keras import layers as kl

import graftwork as gw
from graftwork import api
from graftwork.api.compose import Wanted
from graftwork.compose import VERBS
from graftwork.recipe import STEP_KINDS

pytestmark = pytest.mark.keras


def image_model(name: str, seed: int, width: int = 4) -> keras.Model:
    """A convolution with BatchNormalization and a residual, on 8×8 images, with softmax over five classes."""
    keras.utils.set_random_seed(seed)
    x = image = keras.Input((8, 8, 3), name="image")
    x = kl.Conv2D(width, 3, padding="same", name="stem")(x)
    x = kl.BatchNormalization(name="norm")(x)
    y = kl.Conv2D(width, 3, padding="same", activation="relu", name="branch")(x)
    x = kl.Add(name="add")([x, y])
    x = kl.Dropout(0.3, name="drop")(x)
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, kl.Dense(5, activation="softmax", name="head")(x), name=name)
    model.get_layer("norm").moving_mean.assign(np.linspace(-1, 1, width))
    model.get_layer("norm").moving_variance.assign(np.linspace(0.5, 2, width))
    return model


def vector_model(name: str, seed: int, size: int = 5) -> keras.Model:
    """A Sequential on vectors."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((size,)), kl.Dense(6, "relu"), kl.Dense(3, "softmax")], name=name)


DATA = Path(tempfile.mkdtemp(prefix="graftwork-tests-")) / "data.npz"
"""Samples for verbs that train."""
np.savez(DATA, x=np.random.default_rng(0).normal(size=(24, 8, 8, 3)).astype("float32"), y=np.arange(24) % 5)
atexit.register(shutil.rmtree, DATA.parent)

MODELS = {
    "a": lambda: image_model("a", 1),
    "b": lambda: image_model("b", 2),
    "wide": lambda: image_model("wide", 3, width=6),
    "vector": lambda: vector_model("vector", 4),
}


@dataclass(frozen=True)
class Case:
    """One use of a verb.

    Attributes:
        verb: Its word.
        models: Names of `MODELS`.
        options: As Python takes them.
        command: The same on the command line, behind the models.
    """

    verb: str
    models: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    command: tuple[str, ...] = ()

    def given(self, models: list[Any]) -> dict[str, Any]:
        """Models by the verb's arguments: those that are left go into the one that takes several."""
        cls = VERBS[self.verb]
        several = [name for name in cls.takes if name in cls.lists]
        rest = len(models) - len(cls.takes) + len(several)
        found, left = {}, list(models)
        for name in cls.takes:
            found[name] = [left.pop(0) for _ in range(rest)] if name in several else left.pop(0)
        return found

    def words(self, models: list[str]) -> list[str]:
        """Models as the command line takes them."""
        flags = VERBS[self.verb].flags
        return [
            word
            for name, value in self.given(models).items()
            for each in (value if isinstance(value, list) else [value])
            for word in ((flags[name][0], each) if name in flags else (each,))
        ]


CASES = [
    Case("chain", ("a", "vector")),
    Case(
        "ensemble",
        ("a", "b", "wide"),
        {"combine": "geometric", "weights": [1, 2, 1]},
        ("--combine", "geometric", "--weights", "1,2,1"),
    ),
    Case("extract", ("a",), {"at": "pool"}, ("--at", "pool")),
    Case("split", ("a",), {"at": "add"}, ("--at", "add")),
    Case("freeze", ("a",), {"layers": ["stem", "norm"]}, ("--layers", "stem,norm")),
    Case("unfreeze", ("a",), {"layers": "branch"}, ("--layers", "branch")),
    Case(
        "fuse", ("a", "wide"), {"taps": ["add", "pool"], "head": 4}, ("--taps", "add", "--taps", "pool", "--head", "4")
    ),
    Case("stack", ("a", "b"), {"head": 4}, ("--units", "4")),
    Case("swap_head", ("a",), {"head": 7}, ("--units", "7")),
    Case(
        "graft",
        ("a", "b"),
        {"at": "branch", "start": "norm", "donor_at": "branch", "donor_start": "norm"},
        ("--at", "branch", "--start", "norm", "--donor-at", "branch", "--donor-start", "norm"),
    ),
    Case(
        "insert",
        ("a",),
        {"layer": {"Dropout": {"rate": 0.5}}, "after": "pool"},
        ("--layer", "{Dropout: {rate: 0.5}}", "--after", "pool"),
    ),
    Case("remove", ("a",), {"at": "drop"}, ("--at", "drop")),
    Case(
        "replace",
        ("a",),
        {"at": "drop", "layer": {"GaussianNoise": {"stddev": 0.1}}},
        ("--at", "drop", "--layer", "{GaussianNoise: {stddev: 0.1}}"),
    ),
    Case("rename", ("a",), {"mapping": {"stem": "root"}, "prefix": "x_"}, ("--mapping", "stem=root", "--prefix", "x_")),
    Case(
        "distill",
        ("a", "b", "wide"),
        {"data": str(DATA), "epochs": 2, "weights": [1, 2], "hints": {"add": "add"}},
        ("--data", str(DATA), "--epochs", "2", "--weights", "1,2", "--hints", "add=add"),
    ),
    Case("recalibrate", ("a",), {"data": str(DATA)}, ("--data", str(DATA))),
    Case(
        "finetune",
        ("a",),
        {"data": str(DATA), "head": 5, "epochs": 2, "unfreeze": [1, 2], "batch": 8},
        ("--data", str(DATA), "--units", "5", "--epochs", "2", "--unfreeze", "1,2", "--batch", "8"),
    ),
    Case("to_logits", ("a",)),
    Case("to_probabilities", ("a",), {"outputs": "probabilities"}, ("--outputs", "probabilities")),
]
IDS = [case.verb for case in CASES]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with every model of `MODELS` as a `.keras` file."""
    made = tmp_path_factory.mktemp("composing")
    for name, make in MODELS.items():
        make().save(made / f"{name}.keras")
    return made


def function(verb: str) -> Any:
    return getattr(gw, verb)


def called(case: Case, models: list[Any], **more: Any) -> Any:
    """Call a verb's function as a user does."""
    return function(case.verb)(*case.given(models).values(), **case.options, **more)


def images(model: keras.Model, seed: int = 0) -> np.ndarray:
    shape = [4 if size is None else size for size in model.inputs[0].shape]
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def state(model: keras.Model) -> list[Any]:
    """Everything of a model that a composition could change."""
    return [
        (layer.name, layer.trainable, [(v.path, v.trainable, np.asarray(v).tobytes()) for v in layer.weights])
        for layer in model._flatten_layers()
    ]


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def test_every_verb_has_a_row():
    """No verb escapes the laws below."""
    assert {case.verb for case in CASES} == set(VERBS)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_a_verb_exists_three_times_with_one_meaning(verb):
    """Python's function has the verb's options with its defaults and its words; the recipe's step has them too."""
    cls, made = VERBS[verb], function(verb)
    parameters = inspect.signature(made).parameters
    own = {
        name: p
        for name, p in parameters.items()
        if p.kind is not inspect.Parameter.VAR_KEYWORD and name not in cls.takes
    }
    assert list(own) == list(cls.model_fields) or set(own) == set(cls.model_fields)
    words = " ".join((made.__doc__ or "").split())
    for name, option in cls.model_fields.items():
        default = option.get_default(call_default_factory=True)
        if own[name].default is not inspect.Parameter.empty:
            left_out = own[name].default is None and (
                not default or option.is_required()
            )  # then the verb says what is missing
            assert own[name].default == default or left_out
        assert f"{name}: {' '.join((option.description or '').split())}" in words
    assert " ".join((cls.__doc__ or "").split()) in words
    schema = STEP_KINDS[verb].schema_of_settings()
    assert set(schema["properties"]) == {*cls.takes, *cls.model_fields, "export"}
    assert not set(cls.model_fields) & set(Wanted.__annotations__), "an option of a verb hides one of all verbs"


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_live_results_are_what_was_planned_and_sources_stay(case):
    """The plan's numbers are the result's; live sources keep weights, names and flags, also when the result is trained."""
    models = [MODELS[name]() for name in case.models]
    before = [state(model) for model in models]

    report = gw.check(case.verb, case.given(models), **case.options)
    result = first(called(case, models))

    assert [state(model) for model in models] == before
    assert type(result).__module__.startswith("keras.")
    assert report.parameters["total"] == sum(int(np.prod(v.shape)) for v in result.weights if "seed" not in v.path)
    assert report.parameters["trained"] == sum(int(np.prod(v.shape)) for v in result.trainable_weights)
    assert [tuple(port["shape"]) for port in report.inputs] == [tuple(x.shape) for x in result.inputs]
    assert [tuple(port["shape"]) for port in report.outputs] == [tuple(x.shape) for x in result.outputs]
    result.compile("sgd", "mse", run_eagerly=True)
    x = images(result)
    result.fit(x, np.zeros(result(x).shape), verbose=0)
    assert [state(model) for model in models] == before


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_files_reload_plain_and_predict_the_same(case, folder, tmp_path):
    """What is written loads without graftwork and custom objects and predicts what the live result does; sources keep every byte."""
    paths = [folder / f"{name}.keras" for name in case.models]
    before = [path.read_bytes() for path in paths]

    live = first(called(case, paths))
    notes: list[str] = []
    written = first(called(case, paths, output=tmp_path / "out.keras", check=False, report=notes))
    reloaded = keras.saving.load_model(written)

    assert [path.read_bytes() for path in paths] == before
    x = images(reloaded)
    new = gw.check(case.verb, case.given(paths), **case.options).parameters["new"]
    if not new:
        np.testing.assert_array_equal(reloaded(x), live(x))
    record = json.loads(zipfile.ZipFile(written).read("graftwork.json"))
    assert [source["file"] for source in record["sources"]] == [path.name for path in paths]
    assert case.verb in record


def test_the_command_and_the_recipe_make_what_python_makes(folder, tmp_path, commands):
    """One meaning: the same architecture and the same predictions from all three, for every verb."""
    typed, steps, outputs = [], {}, {}
    for case in CASES:
        name = case.verb.replace("_", "-")
        files = [str(folder / f"{model}.keras") for model in case.models]
        typed.append(
            [
                name,
                *case.words(files),
                *case.command,
                "-o",
                str(tmp_path / f"cli_{case.verb}.keras"),
                "--no-check",
                "--quiet",
            ]
        )
        steps[f"step_{case.verb}"] = {case.verb: {**case.given(list(case.models)), **case.options}}
        outputs[f"step_{case.verb}"] = f"recipe_{case.verb}.keras"
    recipe = {"models": {name: str(folder / f"{name}.keras") for name in MODELS}, "steps": steps, "outputs": outputs}
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(recipe))
    for command in typed:
        done = commands.graftwork(command)
        assert done.returncode == 0, done.stderr
    gw.run(tmp_path / "all.yaml", check=False)

    for case in CASES:
        written = called(
            case,
            [folder / f"{name}.keras" for name in case.models],
            output=tmp_path / f"py_{case.verb}.keras",
            check=False,
        )
        python = keras.saving.load_model(written)
        for kind in ("cli", "recipe"):
            other = keras.saving.load_model(tmp_path / f"{kind}_{case.verb}.keras")
            assert other.get_config() == python.get_config(), (case.verb, kind)
            x = images(python)
            if not gw.check(
                case.verb, case.given([folder / f"{m}.keras" for m in case.models]), **case.options
            ).parameters["new"]:
                np.testing.assert_array_equal(other(x), python(x), err_msg=f"{case.verb} {kind}")


@pytest.mark.parametrize("case", CASES[:3], ids=IDS[:3])
def test_results_are_checked_in_a_fresh_process(case, folder, tmp_path):
    """The note says what the fresh process found."""
    results: list[Any] = []
    called(
        case,
        [folder / f"{name}.keras" for name in case.models],
        output=tmp_path / "out.keras",
        on_result=results.append,
    )
    assert any("fresh process" in note for note in results[0].notes)


def test_a_result_is_exported_beside_its_output(folder, tmp_path):
    """Python, the command line and recipes write the same export beside the result; one that is there already is refused before."""
    recipe = {
        "models": {name: str(folder / f"{name}.keras") for name in ("a", "b")},
        "steps": {"both": {"ensemble": {"models": ["a", "b"], "export": "litert"}}},
        "outputs": {"both": str(tmp_path / "both.keras")},
    }
    notes = gw.run(recipe, check=False)["both"].notes
    assert (tmp_path / "both.tflite").is_file() and any(
        "both.tflite" in note and "(0.0001 is allowed)" in note for note in notes
    )
    (tmp_path / "both.keras").unlink()
    with pytest.raises(gw.OutputError, match=r"both\.tflite exists"):
        gw.ensemble([folder / "a.keras", folder / "b.keras"], output=tmp_path / "both.keras", export="litert")
    assert not (tmp_path / "both.keras").exists()
    with pytest.raises(gw.UnknownNameError, match="did you mean 'litert'"):
        gw.ensemble([folder / "a.keras"] * 2, output=tmp_path / "both.keras", export="liter")


def test_one_file_ten_times(folder):
    """Ten members of one file have ten names and ten sets of weights; the name inside the file does not matter."""
    ten = gw.ensemble([folder / "a.keras"] * 10)
    assert [layer.name for layer in ten.layers if isinstance(layer, keras.Model)] == [
        "a",
        *(f"a_{k}" for k in range(2, 11)),
    ]
    one = keras.saving.load_model(folder / "a.keras")
    x = images(one)
    np.testing.assert_allclose(ten(x), one(x), rtol=1e-6)
    assert ten.count_params() == 10 * one.count_params()


def test_targets(folder, tmp_path):
    """A target that is a source, exists, or holds weights only is refused before anything is loaded; nothing is left."""
    a, b = folder / "a.keras", folder / "b.keras"
    with pytest.raises(gw.OutputError, match="one of the sources"):
        gw.ensemble([a, b], output=a, overwrite=True)
    (tmp_path / "there.keras").write_bytes(b"mine")
    with pytest.raises(gw.OutputError, match="exists"):
        gw.ensemble([a, b], output=tmp_path / "there.keras")
    assert (tmp_path / "there.keras").read_bytes() == b"mine"
    with pytest.raises(gw.OutputError, match="weights only"):
        gw.ensemble([a, b], output=tmp_path / "w.weights.h5")
    with pytest.raises(gw.OutputError, match="does not say in which format"):
        gw.ensemble([a, b], output=tmp_path / "directory")
    assert [path.name for path in tmp_path.iterdir()] == ["there.keras"]


def test_a_result_that_differs_is_not_written(folder, tmp_path, monkeypatch):
    """If the fresh process sees another model than was made, the target never appears."""
    import graftwork.composing as composing

    real = composing.live.save

    def spoiled(model, path):
        model.layers[-1].bias.assign_add([1.0, 0, 0]) if hasattr(model.layers[-1], "bias") else None
        real(model, path)
        for layer in model._flatten_layers():
            if getattr(layer, "bias", None) is not None:
                layer.bias.assign_add(np.ones(layer.bias.shape))

    monkeypatch.setattr(composing.live, "save", spoiled)
    with pytest.raises(gw.StoreError, match="fresh process"):
        gw.chain([folder / "a.keras", folder / "vector.keras"], output=tmp_path / "out.keras")
    assert not list(tmp_path.iterdir())


def test_shared_members_are_the_sources_themselves():
    """share=True trains the sources; it is refused where names would change, files go in, or two members share a layer."""
    a, b = image_model("a", 1), image_model("b", 2)
    both = gw.ensemble([a, b], share=True)
    assert both.get_layer("a") is a
    with pytest.raises(gw.OptionError, match="name of its own"):
        gw.ensemble([a, image_model("a", 3)], share=True)
    with pytest.raises(gw.OptionError, match="inline"):
        gw.ensemble([a, b], share=True, inline=True)
    inner = kl.Dense(3, name="inner")
    left, right = (keras.Sequential([keras.Input((4,)), inner], name=name) for name in ("left", "right"))
    with pytest.raises(gw.MismatchError, match="share the layer 'inner'"):
        gw.ensemble([left, right], share=True)
    assert gw.ensemble([left, right]).count_params() == 2 * left.count_params()


def test_wrong_words_are_refused_with_the_right_ones(folder):
    """Slips in options, verbs and models are refused by name."""
    a = folder / "a.keras"
    with pytest.raises(gw.UnknownNameError, match="did you mean 'ensemble'"):
        gw.check("ensmble", [a])
    with pytest.raises(gw.OptionError, match="did you mean 'combine'"):
        gw.check("ensemble", [a, a], combin="mean")
    with pytest.raises(TypeError, match="outptu"):
        gw.ensemble([a, a], outptu="x.keras")
    with pytest.raises(gw.OptionError, match=r"expected a path or a keras\.Model"):
        gw.ensemble([3, a])
    with pytest.raises(gw.OptionError, match="give a list of models"):
        gw.ensemble(a)
    with pytest.raises(gw.StoreError):
        gw.ensemble([folder / "missing.keras", a])


def test_merges_and_compositions_in_one_recipe(folder, tmp_path):
    """A soup goes into an ensemble, and ensembles of one architecture are merged; everything is planned before anything is made.

    What steps use of one another is the model, also where the output that was asked for holds its weights alone.
    """
    recipe = {
        "models": {name: str(folder / f"{name}.keras") for name in ("a", "b", "vector")},
        "steps": {
            "soup": {"merge": {"method": "linear", "models": ["a", "b"]}},
            "both": {"ensemble": {"models": ["a", "soup"]}},
            "other": {"ensemble": {"models": ["a", "soup"]}},
            "merged": {"merge": {"method": "linear", "models": ["both", "other"]}},
        },
        "outputs": {
            "soup": str(tmp_path / "soup.safetensors"),
            "both": str(tmp_path / "both.keras"),
            "merged": str(tmp_path / "merged.keras"),
        },
    }
    reports = {report.step: report for report in gw.plan(recipe)}
    assert [member["name"] for member in reports["both"].members] == ["a", "soup"]
    assert len(reports["merged"].tensors) > 0
    gw.run(recipe, check=False)
    soup = gw.merge([folder / "a.keras", folder / "b.keras"], method="linear")
    both, merged = (keras.saving.load_model(tmp_path / f"{name}.keras") for name in ("both", "merged"))
    a = keras.saving.load_model(folder / "a.keras")
    x = images(a)
    np.testing.assert_allclose(both(x), (np.asarray(a(x)) + np.asarray(soup(x))) / 2, rtol=1e-5)
    np.testing.assert_allclose(merged(x), both(x), rtol=1e-5)


def test_the_command_line_of_verbs(folder, tmp_path, commands):
    """Statuses and streams: 0 and a path, 1 and one line, 2 for wrong words; `plan VERB` makes nothing."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return commands.graftwork(arguments, cwd=folder)

    planned = run("plan", "ensemble", "a.keras", "b.keras", "--json")
    assert planned.returncode == 0 and json.loads(planned.stdout)["outputs"][0]["shape"] == [None, 5]
    fused = run("plan", "fuse", "a.keras:add", "b.keras:pool", "--units", "4", "--json")
    assert fused.returncode == 0 and json.loads(fused.stdout)["outputs"][0]["shape"] == [None, 4]
    refused = run("chain", "a.keras", "a.keras", "-o", str(tmp_path / "x.keras"))
    assert refused.returncode == 1 and refused.stderr.startswith("error: ") and refused.stderr.count("\n") == 1
    assert run("ensemble", "a.keras", "b.keras").returncode == 2
    assert run("ensemble", "a.keras", "b.keras", "--combin", "mean").returncode == 2
    assert not list(tmp_path.iterdir())


def test_weights_only_work_loads_no_composition():
    """Merging neither loads Keras nor what composes graphs."""
    script = "import sys, graftwork as gw; gw.merge; gw.plan_merge; print([m for m in ('keras', 'graftwork.compose') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_option_has_words():
    """No option of a verb is without a description, and descriptions end as sentences do."""
    for kind, cls in VERBS.items():
        for name, option in cls.model_fields.items():
            assert re.search(r"[.]$", option.description or ""), (kind, name)
    assert api.HOMES

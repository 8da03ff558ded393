"""Recipes: what is one, what is said of what is not, and what running one does."""

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from llamas import config_of, make_llama
from safetensors.numpy import load_file, save_file

import graftwork as gw
from graftwork.errors import GraftworkError, RecipeError
from graftwork.jobs import JOBS
from graftwork.methods import METHODS
from graftwork.pipeline import planned
from graftwork.recipe import STEP_KINDS, read_recipe, schema
from graftwork.stores import open_store

MODELS = "models: {base: base.safetensors, a: a.safetensors, b: b.safetensors}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three models of one tensor, whose averages can be worked out in the head."""
    for name, value in (("base", 0.0), ("a", 4.0), ("b", 8.0)):
        save_file({"w": np.full(6, value, np.float32)}, tmp_path / f"{name}.safetensors")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def step(settings: str) -> str:
    return MODELS + f"steps: {{s: {{merge: {{{settings}}}}}}}\n"


SLIPS = {
    "unknown key": (MODELS + "step: {}\n", r"'step' is not known; did you mean 'steps'\?"),
    "unknown key of a model": (
        "models: {a: {pth: x}}\nsteps: {}\n",
        r"'models.a.pth' is not known; did you mean 'path'\?",
    ),
    "unknown kind": (MODELS + "steps: {s: {mege: {}}}\n", "no kind of step .* 'mege'; did you mean 'merge'"),
    "unknown method": (
        step("method: tise, models: [a, b]"),
        "step 's': no merge method is called 'tise'; did you mean 'ties'",
    ),
    "unknown option": (
        step("method: linear, models: [a, b], wieght: 1"),
        "step 's': .* 'wieght'; did you mean 'weight'",
    ),
    "unknown field": (step("method: linear, model: [a, b]"), "no option 'model'; did you mean 'models'"),
    "unknown model": (
        step("method: linear, models: [a, bb]"),
        r"\(wanted by step 's'\) is called 'bb'; did you mean 'b",
    ),
    "unknown base": (step("method: ties, models: [a, b], base: bse"), "'bse'; did you mean 'base'"),
    "unknown output": (
        step("method: linear, models: [a, b]") + "outputs: {t: x}\n",
        r"under `outputs`\) is called 't'",
    ),
    "no method": (step("models: [a, b]"), "'steps.s.method' is missing"),
    "no steps": (MODELS, "'steps' is missing"),
    "no step": (MODELS + "steps: {}\n", "there are no steps"),
    "no models": (step("method: linear, models: []"), r"'steps.s.models' is \[\]; expected one or more"),
    "models are a list": ("models: [a]\nsteps: {}\n", r"'models' is \['a'\]; expected a mapping"),
    "a model is a number": ("models: {a: 3}\nsteps: {}\n", "'models.a' is 3; expected a path"),
    "seed": (step("method: linear, models: [a, b], seed: x"), "'steps.s.seed' is 'x'; expected a whole number"),
    "negative seed": (step("method: linear, models: [a, b], seed: -1"), "'steps.s.seed' is -1"),
    "dtype": (step("method: linear, models: [a, b], dtype: int8"), "is 'int8'; expected 'float16', 'bfloat16'"),
    "flag": (step("method: linear, models: [a, b], allow_nonfinite: perhaps"), "expected true or false"),
    "optimizer": (step("method: linear, models: [a, b], optimizer: all"), "expected 'drop', 'first' or 'last'"),
    "density": (step("method: ties, base: base, models: [a, b], density: 2"), r"density' of ties is 2; .* in \(0, 1\]"),
    "too many weights": (
        step("method: linear, models: [a, b], weights: [1, 2, 3]"),
        "3 values, but there are 2 models: a, b",
    ),
    "weight twice": (step("method: linear, models: [a, b], weights: 1, weight: 1"), "are one option"),
    "weight of a stranger": (
        step("method: linear, models: [a, b], weight: {c: 1}"),
        "names the model 'c', which is not merged",
    ),
    "no base": (step("method: ties, models: [a, b]"), "add `base:` with the name of their common ancestor"),
    "needless base": (step("method: linear, models: [a, b], base: base"), "no use for a base|takes no base"),
    "settings are a word": (
        MODELS + "steps: {s: {merge: linear}}\n",
        "settings of step 's' are 'linear', expected a mapping",
    ),
    "step is a list": (MODELS + "steps: {s: [merge]}\n", "step 's' should be one word with its settings"),
    "one name for two": (
        MODELS + "steps: {a: {merge: {method: linear, models: [b]}}}\n",
        "'a' is the name of a model and of a step",
    ),
    "name with a slash": (MODELS + "steps: {s/t: {merge: {method: linear, models: [a, b]}}}\n", "without slashes"),
    "itself": (step("method: linear, models: [s, a]"), "in a circle: s → s"),
    "circle": (
        MODELS + "steps: {s: {merge: {method: linear, models: [t]}}, t: {merge: {method: linear, models: [s]}}}\n",
        "in a circle: s → t → s",
    ),
    "not YAML": ("models: {a: [}\n", "is not YAML: line 1, column 14"),
    "tab": ("models:\n\ta: b\n", "is not YAML: line 2, column 1"),
    "a control character": ("models: {a: \0}\n", "is not YAML"),
    "alias": ("models: {a: &x a.safetensors, b: *x}\n", "line 1 uses a YAML alias"),
    "key twice": ("models:\n  a: x\n  a: y\n", "is not YAML: line 3, column 3: 'a' is given a second time"),
    "a word of several": (step("method: linear, models: [a, b], optimizer: frist"), "or 'last'; did you mean 'first'"),
    "a word or a mapping": (
        MODELS + "steps: {s: {ensemble: {models: [a, b], combine: meen}}}\n",
        "'combine' is 'meen'; expected 'mean', 'geometric', 'median', 'max', 'min', 'product', 'vote' or 'concat' or a mapping; did you",
    ),
    "a word in a mapping": (
        MODELS + "steps: {s: {ensemble: {models: [a, b], combine: {out: 3}}}}\n",
        "'combine.out' is 3; expected 'mean'",
    ),
    "a text or a description": (
        MODELS + "steps: {s: {merge: {method: linear, models: [a, b], recalibrate: {npzz: x}}}}\n",
        "'steps.s.recalibrate.npzz' is not known; did you mean 'npz'",
    ),
    "a number for names": (
        MODELS + "steps: {s: {savedmodel_from_frozen_graph: {graph: a.pb, feeds: 3.5}}}\n",
        "'steps.s.feeds' is 3.5; expected a list",
    ),
    "a list": ("- a\n", "holds no recipe: expected a mapping with `models` and `steps`"),
    "nothing": ("", "holds no recipe"),
    "a Python object": ("models: !!python/object:os.system {}\n", "is not YAML"),
}


@pytest.mark.parametrize("slip", SLIPS, ids=str)
def test_a_slip_is_told_in_one_sentence(slip: str, folder: Path):
    """Where it is, what was found, and what was probably meant."""
    text, told = SLIPS[slip]
    with pytest.raises(RecipeError, match=told) as caught:
        gw.plan(written(folder, text))
    assert "recipe.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(RecipeError):
        gw.run(folder / "recipe.yaml", output=folder / "x.safetensors")
    assert not (folder / "x.safetensors").exists()


def test_a_filter_that_matches_nothing_is_a_slip(folder: Path):
    """Found by the plan, which knows the tensors' names."""
    with pytest.raises(GraftworkError, match="matches no tensor that is merged; tensors are called 'w'"):
        gw.plan(written(folder, step("method: linear, models: [a, b], weight: [{filter: 'v*', value: 1}]")))


@pytest.mark.parametrize(
    ("skip", "told"),
    [
        ("v*", "the pattern 'v\\*' of skip fits no tensor of any model; tensors are called 'w'"),
        ("re:(", "the pattern 're:\\(' is not a regular expression: missing \\)"),
    ],
)
def test_what_shall_be_skipped_is_there(folder: Path, skip: str, told: str):
    """A slip would average what the user wants to keep."""
    with pytest.raises(GraftworkError, match=told):
        gw.plan(written(folder, step(f"method: linear, models: [a, b], skip: ['{skip}']")))


def test_a_seed_is_what_a_recipe_could_say(folder: Path):
    """The record of a result is a step, which could not be run again."""
    for seed in (-1, 2**64):
        with pytest.raises(GraftworkError, match=f"seed is {seed}, expected"):
            gw.plan_merge([folder / "a.safetensors", folder / "b.safetensors"], seed=seed)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("v: w", "the pattern 'v' of map fits no tensor"),
        ("w: v", "`map` calls tensor 'w' of b 'v', which a does not have"),
    ],
)
def test_what_a_map_says_is_done(folder: Path, rule: str, told: str):
    """A slip in a map would be passed over where names pair tensors otherwise."""
    with pytest.raises(GraftworkError, match=told):
        gw.plan(written(folder, step(f"method: linear, models: [a, b], map: {{{rule}}}")))


def test_a_step_uses_the_result_of_another(folder: Path):
    """Whatever the order in which they are written; what is made in between is removed."""
    text = MODELS + (
        "steps:\n"
        "  all: {merge: {method: linear, models: [mean, base], weights: [0.5, 0.5]}}\n"
        "  mean: {merge: {method: linear, models: [a, b]}}\n"
        "outputs: {all: all.safetensors}\n"
    )
    before = {path.name for path in folder.iterdir()}
    results = gw.run(written(folder, text))
    assert list(results) == ["all"]
    assert results["all"].path == folder / "all.safetensors"
    np.testing.assert_array_equal(load_file(folder / "all.safetensors")["w"], np.full(6, 3, np.float32))
    assert {path.name for path in folder.iterdir()} == before | {"recipe.yaml", "all.safetensors"}


def test_several_outputs_and_a_step_that_none_needs(folder: Path):
    """Every output is written; a step that no output needs is checked, and not run."""
    text = MODELS + (
        "steps:\n"
        "  mean: {merge: {method: linear, models: [a, b]}}\n"
        "  third: {merge: {method: linear, models: [mean, base], weights: [1, 2]}}\n"
        "  idle: {merge: {method: linear, models: [third, a]}}\n"
        "outputs: {third: third.safetensors, mean: mean.safetensors}\n"
    )
    results = gw.run(written(folder, text))
    assert set(results) == {"mean", "third"}
    np.testing.assert_array_equal(load_file(folder / "mean.safetensors")["w"], np.full(6, 6, np.float32))
    np.testing.assert_array_equal(load_file(folder / "third.safetensors")["w"], np.full(6, 2, np.float32))
    assert [report.step for report in gw.plan(folder / "recipe.yaml", overwrite=True)] == ["mean", "third", "idle"]


def test_a_directory_of_what_is_also_written_as_weights(tmp_path: Path):
    """What a step uses of another is a directory like the sources, also where the output that was asked for is one file."""
    for name in "ab":
        make_llama(tmp_path / name, layers=1, seed=ord(name))
    text = (
        "models: {a: a, b: b}\n"
        "steps: {m: {merge: {method: linear, models: [a, b]}}, n: {merge: {method: linear, models: [m, b]}}}\n"
        "outputs: {m: m.safetensors, n: n}\n"
    )
    gw.run(written(tmp_path, text))
    assert config_of(tmp_path / "n") == config_of(tmp_path / "a")
    assert not gw.convert(tmp_path / "n", tmp_path / "o").notes, "a copy loses nothing"


def test_output_replaces_the_only_one(folder: Path):
    """`-o` writes elsewhere; for several outputs it would be ambiguous, for none it takes the last step."""
    path = written(folder, step("method: linear, models: [a, b]") + "outputs: {s: s.safetensors}\n")
    assert gw.run(path, output=folder / "o.safetensors")["s"].path == folder / "o.safetensors"
    assert not (folder / "s.safetensors").exists()
    path = written(folder, step("method: linear, models: [a, b]"))
    with pytest.raises(RecipeError, match="names no outputs"):
        gw.run(path)
    assert gw.run(path, output=folder / "p.safetensors")["s"].path == folder / "p.safetensors"
    two = MODELS + (
        "steps: {s: {merge: {method: linear, models: [a]}}, t: {merge: {method: linear, models: [b]}}}\n"
        "outputs: {s: s.safetensors, t: t.safetensors}\n"
    )
    with pytest.raises(RecipeError, match="has 2 outputs"):
        gw.run(written(folder, two), output=folder / "q.safetensors")
    path = written(folder, two.replace("t: t.safetensors", "t: x/../s.safetensors"))
    for verb in (gw.plan, gw.run):
        with pytest.raises(RecipeError, match="the outputs of the steps 's' and 't' have the same path"):
            verb(path)


def test_paths_are_relative_to_the_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Wherever it is run from."""
    inner = folder / "recipes"
    inner.mkdir()
    text = step("method: linear, models: [a, b]").replace(": a.safe", ": ../a.safe").replace(": b.safe", ": ../b.safe")
    path = inner / "r.yaml"
    path.write_text(text + "outputs: {s: s.safetensors}\n")
    monkeypatch.chdir("/")
    gw.run(path)
    assert (inner / "s.safetensors").exists()


def test_an_existing_output_is_refused_before_any_step_runs(folder: Path):
    """The first step's output is not written when the second's is in the way."""
    two = MODELS + (
        "steps: {s: {merge: {method: linear, models: [a]}}, t: {merge: {method: linear, models: [b]}}}\n"
        "outputs: {s: s.safetensors, t: t.safetensors}\n"
    )
    (folder / "t.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    with pytest.raises(gw.OutputError, match="exists"):
        gw.run(written(folder, two))
    assert not (folder / "s.safetensors").exists()
    assert set(gw.run(folder / "recipe.yaml", overwrite=True)) == {"s", "t"}


def test_a_mapping_is_a_recipe_too(folder: Path):
    """In Python no file is needed, and both say the same."""
    mapping = {
        "models": {name: str(folder / f"{name}.safetensors") for name in ("base", "a", "b")},
        "steps": {"s": {"merge": {"method": "task_arithmetic", "base": "base", "models": ["a", "b"], "lambda": 0.5}}},
        "outputs": {"s": str(folder / "s.safetensors")},
    }
    recipe = read_recipe(mapping)
    assert read_recipe(recipe) is recipe
    assert recipe.steps["s"].options == {"lambda": 0.5}
    gw.run(recipe)
    np.testing.assert_array_equal(load_file(folder / "s.safetensors")["w"], np.full(6, 6, np.float32))
    with pytest.raises(RecipeError, match="the recipe: 'model' is not known; did you mean 'models'"):
        gw.plan({"model": {}, "steps": {}})


def test_the_record_of_a_result_is_a_step(folder: Path):
    """What a result carries can be put into a recipe, and makes it again."""
    path = written(folder, step("method: dare_linear, base: base, models: [a, b], density: 0.5, seed: 7"))
    gw.run(path, output=folder / "one.safetensors")
    record = gw.inspect(folder / "one.safetensors").provenance
    again = {**yaml.safe_load(MODELS), "steps": {"s": {"merge": record["merge"]}}}
    path.write_text(yaml.safe_dump(again))
    gw.run(path, output=folder / "two.safetensors")
    assert (folder / "one.safetensors").read_bytes() == (folder / "two.safetensors").read_bytes()


# The schema ------------------------------------------------------------------------------------------------------------

GOOD = [
    step("method: linear, models: [a, b]"),
    step("method: linear, models: a"),
    step("method: linear, models: [a, b], weights: [0.5, 0.5], skip: 'head/*', ignore: [rate], dtype: float16"),
    step("method: ties, base: base, models: [a, b], density: [{filter: 'w', value: 0.5}], lambda: 2, trim: model"),
    step("method: dare_ties, base: base, models: [a, b], density: {a: 0.5, default: 1.0}, rescale_norm: l1, seed: 3"),
    step("method: slerp, models: [a, b], t: 0.25"),
    step("method: slerp, models: [a, b], t: {gradient: [0, 1, 0.5]}"),
    step("method: linear, models: [a, b], weights: [{gradient: [0, 1]}, 1]"),
    step(
        "method: linear, models: [a, b], weight: [{filter: 'has:w', role: weight, layer: Dense, value: {a: 1, b: 2}}]"
    ),
    "models: {a: {path: a.safetensors, classes: [x, y]}}\nsteps: {s: {merge: {method: passthrough, models: [a]}}}\n",
    step("method: linear, models: [a, b]") + "outputs: {s: s.safetensors}\n",
]

BAD = [
    "models: {a: a.safetensors}\n",
    "models: {a: 3}\nsteps: {}\n",
    step("method: linear, models: [a, b], density: 0.5"),
    step("method: ties, models: [a, b]"),
    step("method: ties, base: base, models: [a, b], density: 2"),
    step("method: ties, base: base, models: [a, b], trim: layer"),
    step("method: ties, base: base, models: [a, b], trim: {gradient: [tensor, model]}"),
    step("method: slerp, models: [a, b], t: {gradient: [0, 2]}"),
    step("method: linear, models: [a, b], weight: [{role: weigth, value: 1}]"),
    step("method: nothing, models: [a, b]"),
    step("method: linear"),
    step("method: linear, models: []"),
    step("method: linear, models: [a, b], optimizer: all"),
    MODELS + "steps: {s: {mege: {method: linear, models: [a]}}}\n",
    MODELS + "steps: {}\nextra: 1\n",
]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(found)))


@pytest.mark.parametrize("text", GOOD)
def test_the_schema_takes_what_the_reader_takes(text: str, validator: jsonschema.Draft202012Validator):
    """An editor does not underline a good recipe."""
    assert read_recipe(yaml.safe_load(text))
    validator.validate(yaml.safe_load(text))


@pytest.mark.parametrize("text", BAD)
def test_the_schema_refuses_what_the_reader_refuses(text: str, validator: jsonschema.Draft202012Validator):
    """An editor underlines what would be refused."""
    with pytest.raises(RecipeError):
        read_recipe(yaml.safe_load(text))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(yaml.safe_load(text))


def test_every_kind_of_step_can_be_planned():
    """A kind of step that recipes may name has a planner."""
    assert set(JOBS) >= set(STEP_KINDS)


def test_the_schema_knows_layers_to_assemble():
    """What the reader takes the schema takes, and what it refuses the schema does not."""
    validator = jsonschema.Draft202012Validator(schema())
    runs = [{"model": "a", "range": [0, 2]}, {"model": "b", "range": [1, 2], "scale": 0.5}]
    for layers, good in ((runs, True), ([], False), ([{"model": "a"}], False), ([{**runs[0], "rnge": 1}], False)):
        recipe = {"models": {"a": "a", "b": "b"}, "steps": {"s": {"assemble": {"layers": layers}}}}
        assert validator.is_valid(recipe) == good
        if good:
            assert read_recipe(recipe)
        else:
            with pytest.raises(RecipeError):
                read_recipe(recipe)


def test_the_schema_knows_every_method_with_its_options():
    """Read from the registry, so that a new method is in it."""
    kind = schema()["properties"]["steps"]["additionalProperties"]["oneOf"][0]
    found = {body["properties"]["method"]["const"]: body for body in kind["properties"]["merge"]["oneOf"]}
    assert set(found) == set(METHODS)
    assert found["ties"]["properties"]["density"]["default"] == 0.2
    assert "lambda" in found["ties"]["properties"]


def test_live_classes_of_a_recipe(small_models: Path, tmp_path: Path):
    """`classes` belong to the models and permute the head of those in another order."""
    shutil.copytree(small_models, tmp_path, dirs_exist_ok=True)
    names = [f"kind{k}" for k in range(10)]
    recipe = {
        "models": {
            "birds": {"path": str(tmp_path / "birds.keras"), "classes": names},
            "again": {"path": str(tmp_path / "birds.keras"), "classes": names[1:] + names[:1]},
        },
        "steps": {"s": {"merge": {"method": "linear", "models": ["birds", "again"]}}},
    }
    (report,) = gw.plan(recipe)
    assert any("permuted into the order of birds" in note for note in report.notes)
    gw.run(recipe, output=tmp_path / "s.safetensors")
    gw.convert(tmp_path / "birds.keras", tmp_path / "birds.safetensors")
    head = load_file(tmp_path / "birds.safetensors")["head/bias"]
    merged = load_file(tmp_path / "s.safetensors")["head/bias"]
    np.testing.assert_allclose(merged, (head + np.roll(head, 1)) / 2, rtol=1e-6)


def test_a_planned_result_keeps_the_places_of_its_lender(small_models):
    """Matching looks at keys where layers have no names of their own: a planned merge has those of the file it will be like."""
    recipe = read_recipe(
        {
            "models": {name: str(small_models / f"{name}.keras") for name in ("birds", "flowers")},
            "steps": {"soup": {"merge": {"method": "linear", "models": ["birds", "flowers"]}}},
            "outputs": {"soup": "soup.keras"},
        }
    )
    with planned(recipe, Path()) as jobs, open_store(small_models / "birds.keras") as birds:
        names = list(birds.specs())
        assert [jobs["soup"].key(name) for name in names] == [birds.key(name) for name in names] != names

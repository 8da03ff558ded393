"""Recipes whose steps train, and recipes whose steps make programs that nobody can look at before they are there."""

from pathlib import Path

import keras
import numpy as np
import pytest
import servables
import tensorflow as tf

import graftwork as gw
from graftwork.errors import DataError, OutputError, RecipeError, StoreError
from graftwork.recipe.composition import verb_of

pytestmark = [pytest.mark.keras, pytest.mark.xdist_group("servables")]

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two SavedModels and data; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    servables.keras3(folder / "one", seed=1)
    servables.keras3(folder / "two", seed=2)
    np.savez(folder / "new.npz", x=X, y=Y)
    np.savez(folder / "old.npz", x=X, y=Y + (X[:, 2] > 0))
    return folder


def classifier(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, activation="softmax")], name=f"net{seed}")


# Files of steps that train -----------------------------------------------------------------------------------------------


def test_files_that_a_step_writes_while_it_trains_lie_beside_the_recipe(tmp_path, monkeypatch):
    """As all its other paths do; `~` is the home directory, and in Python they are relative to where one is."""
    inner, elsewhere, home = (tmp_path / name for name in ("recipes", "elsewhere", "home"))
    for folder in (inner, elsewhere, home):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(elsewhere)
    for name, seed in (("teacher", 1), ("student", 2)):
        classifier(seed).save(inner / f"{name}.keras")
    np.savez(inner / "data.npz", x=X, y=Y)
    (inner / "recipe.yaml").write_text(
        """
models: {teacher: teacher.keras, student: student.keras}
data: {train: data.npz}
steps:
  taught: {distill: {teachers: [teacher], student: student, data: train, epochs: 2, cache: kept, log: ~/log.csv, run: state}}
outputs: {taught: taught.keras}
"""
    )
    (inner / "state").write_text("in the way")
    with pytest.raises(OutputError, match="recipes/state"):
        gw.run(inner / "recipe.yaml")
    (inner / "state").unlink()
    (home / "log.csv").unlink(missing_ok=True)
    gw.run(inner / "recipe.yaml")
    assert not list(elsewhere.iterdir())
    assert {path.name for path in inner.iterdir()} - {"kept"} == {
        "teacher.keras",
        "student.keras",
        "data.npz",
        "recipe.yaml",
        "taught.keras",
    }
    assert list((inner / "kept").iterdir())
    assert len((home / "log.csv").read_text().splitlines()) == 3
    assert verb_of("finetune", {"data": None, "log": "log.csv"}).fit().log == Path("log.csv")


def test_every_option_that_is_a_path_is_found_from_the_recipe():
    verb = verb_of("finetune", {"data": None, "log": "a/log.csv", "tensorboard": "/board", "run": "~/run"})
    found = verb.below(Path("/recipes"))
    assert (found.log, found.tensorboard, found.run) == (
        "/recipes/a/log.csv",
        "/board",
        str(Path("~/run").expanduser()),
    )
    for cache in (None, True, False):
        assert verb_of("distill", {"data": None, "cache": cache}).below(Path("/recipes")).cache is cache


# Steps that can only be planned once others are made ---------------------------------------------------------------------


def test_a_bridge_is_fine_tuned_and_judged_in_one_recipe(made, tmp_path, monkeypatch):
    """What comes out is what two commands give, one after the other; the plan says what it could not look at."""
    recipe = {
        "models": {"saved": str(made / "one")},
        "data": {"new": str(made / "new.npz")},
        "steps": {
            "features": {"savedmodel_bridge": {"source": "saved"}},
            "tuned": {
                "finetune": {"trunk": "features", "data": "new", "head": 3, "at": "saved_serving_default", "epochs": 2}
            },
            "judged": {"evaluate": {"models": ["tuned"], "data": "new", "timed": False}},
        },
        "outputs": {"tuned": str(tmp_path / "tuned.keras"), "judged": str(tmp_path / "judged.json")},
    }
    bridge, tuned, judged = gw.plan(recipe)
    assert bridge.format == "keras" and judged.format == "evaluation"
    assert (tuned.step, tuned.verb, tuned.models, tuned.waits_for) == ("tuned", "finetune", ("features",), "features")
    assert "only known once it is made" in tuned.notes[0] and tuned.to_dict()["waits_for"] == "features"
    results = gw.run(recipe, check=False)
    assert {*results} == {"tuned", "judged"} and {p.name for p in tmp_path.iterdir()} == {"tuned.keras", "judged.json"}

    trunk = gw.savedmodel.bridge(made / "one", name="saved")
    options = {"data": str(made / "new.npz"), "head": 3, "at": "saved_serving_default", "epochs": 2}
    wanted = gw.finetune(trunk, **options)
    found = gw.load(tmp_path / "tuned.keras")
    for ours, theirs in zip(found.weights, wanted.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    np.testing.assert_array_equal(found.predict(X, verbose=0), wanted.predict(X, verbose=0))


def test_servables_go_into_servables_and_are_judged(made, tmp_path):
    """An ensemble of SavedModels is combined with one of them, and both are judged, each once it is there."""
    recipe = {
        "models": {"one": str(made / "one"), "two": str(made / "two")},
        "data": {"old": str(made / "old.npz")},
        "steps": {
            "judged": {
                "evaluate": {"models": ["one", "both"], "data": "old", "outputs": "probabilities", "timed": False}
            },
            "all": {"savedmodel_combine": {"models": ["both", "one"]}},
            "both": {"savedmodel_ensemble": {"models": ["one", "two"]}},
        },
        "outputs": {"judged": str(tmp_path / "judged.json"), "all": str(tmp_path / "all")},
    }
    assert [getattr(report, "waits_for", "") for report in gw.plan(recipe)] == ["", "", "both"]
    gw.run(recipe)
    one, two = (tf.saved_model.load(str(made / name)).signatures["serving_default"] for name in ("one", "two"))
    said = [np.asarray(each(features=tf.constant(X))["output_0"]) for each in (one, two)]
    served = tf.saved_model.load(str(tmp_path / "all")).signatures["both_serving_default"]
    np.testing.assert_allclose(np.asarray(served(features=tf.constant(X))["output_0"]), sum(said) / 2, rtol=1e-6)
    figures = gw.evaluate([made / "one"], made / "old.npz", timed=False).verdicts[0].figures["one"].metrics
    told = (tmp_path / "judged.json").read_text()
    assert f'"accuracy": {figures["accuracy"]}' in told and '"both"' in told


def test_what_does_not_fit_is_refused_before_anything_is_made_that_it_does_not_need(made, tmp_path):
    """What can be told beforehand is; all that is left is looked at as soon as the bridge is there, before the long work."""

    def recipe(steps, **outputs):
        bridge = {"trunk": {"savedmodel_bridge": {"source": "one"}}}
        return {
            "models": {"one": str(made / "one"), "two": str(made / "two")},
            "data": {"new": str(made / "new.npz"), "none": str(tmp_path / "none.npz")},
            "steps": {**bridge, **steps},
            "outputs": {name: str(tmp_path / path) for name, path in outputs.items()},
        }

    def tuned(**more):
        return {"tuned": {"finetune": {"trunk": "trunk", "data": "new", "head": 3, **more}}}

    with pytest.raises(DataError, match=r"none\.npz"):
        gw.plan(recipe(tuned(data="none"), tuned="tuned.keras"))
    there = tmp_path / "there.keras"
    there.write_bytes(b"")
    for act in (gw.plan, gw.run):
        with pytest.raises(OutputError, match="exists; pass --overwrite"):
            act(recipe(tuned(), tuned="there.keras"))
    with pytest.raises(StoreError, match="step 'trunk' makes a keras model, and savedmodel_chain takes SavedModels"):
        gw.plan(recipe({"row": {"savedmodel_chain": {"models": ["trunk", "two"]}}}))
    with pytest.raises(StoreError, match=r"both is a SavedModel.*savedmodel bridge"):
        gw.plan(
            recipe(
                {
                    "both": {"savedmodel_ensemble": {"models": ["one", "two"]}},
                    "tuned": {"finetune": {"trunk": "both", "data": "new"}},
                }
            )
        )
    ensemble = {"both": {"savedmodel_ensemble": {"models": ["one", "two"]}}}
    taught = recipe({**ensemble, "small": {"distill": {"teachers": ["both"], "student": "trunk", "data": "new"}}})
    assert [getattr(report, "waits_for", "") for report in gw.plan(taught)] == ["", "", "both"]
    joined = {"savedmodel_join_frozen": {"graphs": ["a.pb", "b.pb"], "result": "frozen_graph"}}
    with pytest.raises(RecipeError, match="'bridged' uses 'joined', whose result no later step can use"):
        gw.plan(recipe({"joined": joined, "bridged": {"savedmodel_bridge": {"source": "joined"}}}))
    late = recipe(
        {**tuned(log=str(tmp_path / "log.csv")), "cut": {"extract": {"model": "trunk", "at": "nothing_of_the_kind"}}},
        tuned="tuned.keras",
        cut="cut.keras",
    )
    assert [getattr(report, "waits_for", "") for report in gw.plan(late)] == ["", "trunk", "trunk"]
    with pytest.raises(Exception, match="nothing_of_the_kind"):
        gw.run(late)
    assert [path.name for path in tmp_path.iterdir()] == ["there.keras"]

"""Models made of layers of others: which tensor comes from where, what config.json says, and what is refused."""

import json

import numpy as np
import pytest
from llamas import config_of, make_llama, tensors_of
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import graftwork as gw
from graftwork.cli.app import app
from graftwork.errors import GraftworkError

TYPES = ["full_attention", "sliding_attention", "chunked", "linear"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two models, of 4 and of 6 layers."""
    make_llama(tmp_path / "a", seed=1)
    make_llama(tmp_path / "b", layers=6, seed=2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expected(runs, models):
    """Return the tensors of a result, by hand: runs of (model, first, end)."""
    first, last = models[runs[0][0]], models[runs[-1][0]]
    found = {"model.embed_tokens.weight": first["model.embed_tokens.weight"]}
    number = 0
    for name, start, end in runs:
        for layer in range(start, end):
            found |= {
                key.replace(f"layers.{layer}.", f"layers.{number}."): value
                for key, value in models[name].items()
                if f".layers.{layer}." in key
            }
            number += 1
    return {**found, "model.norm.weight": last["model.norm.weight"], "lm_head.weight": last["lm_head.weight"]}


@pytest.mark.parametrize(
    "runs",
    [
        [("a", 0, 4)],
        [("a", 0, 3), ("b", 2, 6)],
        [("b", 5, 6), ("a", 0, 1), ("b", 0, 5), ("b", 1, 2)],
        [("a", 0, 2), ("a", 1, 3), ("a", 2, 4)],
    ],
    ids=str,
)
def test_every_tensor_comes_from_its_place(runs, folder):
    """Layers in the order of the runs, embeddings of the first, norm and head of the last, bit for bit; the count follows."""
    models = {name: tensors_of(folder / name) for name in "ab"}

    out = gw.assemble([(folder / name, start, end) for name, start, end in runs], output=folder / "out")

    found, wanted = tensors_of(out), expected(runs, models)
    assert found.keys() == wanted.keys()
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    layers = sum(end - start for _, start, end in runs)
    assert config_of(out) == {**config_of(folder / runs[0][0]), "num_hidden_layers": layers}


def test_the_three_ways_to_ask_give_the_same(folder):
    """Python, the command line and a recipe write the same weights; the recipe's plan says which tensor is read."""
    gw.assemble([("a", 0, 2), ("b", 1, 3, 0.5)], output="one")
    done = CliRunner().invoke(app, ["assemble", "a:0-2", "b:1-3*0.5", "-o", "two", "--quiet"])
    assert done.exit_code == 0, done.output
    recipe = {
        "models": {"x": "a", "y": "b"},
        "steps": {
            "s": {
                "assemble": {"layers": [{"model": "x", "range": [0, 2]}, {"model": "y", "range": [1, 3], "scale": 0.5}]}
            }
        },
        "outputs": {"s": "three"},
    }
    (report,) = gw.plan(recipe)
    gw.run(recipe)

    results = [tensors_of(folder / name) for name in ("one", "two", "three")]
    for other in results[1:]:
        assert {k: v.tobytes() for k, v in other.items()} == {k: v.tobytes() for k, v in results[0].items()}
    half = tensors_of(folder / "b")["model.layers.2.mlp.up_proj.weight"] * np.float32(0.5)
    np.testing.assert_array_equal(results[0]["model.layers.3.mlp.up_proj.weight"], half)
    (row,) = [row for row in report.tensors if row["name"] == "model.layers.3.mlp.up_proj.weight"]
    assert row["sources"] == ["model.layers.2.mlp.up_proj.weight"]
    assert (row["depth"], row["options"]) == (1.0, {"scale": 0.5})


def test_a_step_may_use_what_was_assembled(folder):
    """A merge of an assembled model: planned before it is made, and equal to making it first."""
    gw.run(
        {
            "models": {"a": "a", "b": "b"},
            "steps": {
                "deep": {"assemble": {"layers": [{"model": "a", "range": [0, 4]}, {"model": "a", "range": [2, 4]}]}},
                "both": {"merge": {"method": "linear", "models": ["deep", "b"]}},
            },
            "outputs": {"both": "both"},
        }
    )
    gw.assemble([("a", 0, 4), ("a", 2, 4)], output="deep")
    a, b, both = (tensors_of(folder / name) for name in ("deep", "b", "both"))
    for name in both:
        np.testing.assert_allclose(both[name], (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-7)
    assert config_of(folder / "both")["num_hidden_layers"] == 6


def test_lists_of_layers_in_the_configuration_follow(folder):
    """One entry per layer goes with its layer; numbers of layers become those in the result; other lists stay."""
    own = {"layer_types": TYPES, "mlp_only_layers": [0, 3], "rope_scaling_factors": [1.0, 2.0, 3.0, 4.0]}
    make_llama(folder / "c", text_config={"num_hidden_layers": 4}, **own)
    gw.assemble([("c", 2, 4), ("c", 0, 3)], output="out")
    found = config_of(folder / "out")
    assert found["layer_types"] == [*TYPES[2:4], *TYPES[:3]]
    assert found["mlp_only_layers"] == [1, 2]
    assert found["rope_scaling_factors"] == own["rope_scaling_factors"]
    assert found["text_config"] == {"num_hidden_layers": 5}


def test_plain_safetensors_are_assembled(folder):
    """Names of GPT-2, no configuration, nothing before or behind the layers."""
    layers = {f"h.{i}.attn.c_attn.weight": np.full((2, 3), i, np.float32) for i in range(12)}
    save_file(layers, folder / "gpt.safetensors")
    gw.assemble([("gpt.safetensors", 10, 12), ("gpt.safetensors", 0, 1)], output="out.safetensors")
    found = load_file(folder / "out.safetensors")
    assert {name: value[0, 0] for name, value in found.items()} == {
        "h.0.attn.c_attn.weight": 10,
        "h.1.attn.c_attn.weight": 11,
        "h.2.attn.c_attn.weight": 0,
    }


def test_the_result_says_how_it_was_made(folder):
    """The record holds the step; shards are cut as asked."""
    gw.assemble([("a", 0, 2), ("b", 4, 6)], output="out", shard_bytes=10_000)
    record = json.loads((folder / "out" / "graftwork.json").read_text())
    assert record["assemble"] == {"layers": [{"model": "a", "range": [0, 2]}, {"model": "b", "range": [4, 6]}]}
    assert [source["label"] for source in record["sources"]] == ["a", "b"]
    assert len(list((folder / "out").glob("model-*.safetensors"))) > 1
    assert gw.verify(folder / "out", load=False).sound


def refused(folder, runs, *words):
    """Assembling must be refused with all of the words, and leave nothing behind."""
    before = sorted(folder.iterdir())
    with pytest.raises(GraftworkError) as caught:
        gw.assemble(runs, output=folder / "out")
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_ranges_are_checked(folder):
    """No layer twice as far as the model is long, none backwards, none empty."""
    refused(folder, [("a", 0, 2), ("a", 2, 5)], "a has the layers 0 to 3", "2 to 5")
    refused(folder, [("a", 2, 2)], "2 to 2", "no layers")
    refused(folder, [("a", -1, 2)], "-1 to 2")
    refused(folder, [("a", 0)], "(model, first, end)")
    refused(folder, [("a", 0, 2, float("nan"))], "'layers.0.scale' is nan", "finite")
    refused(folder, ["a:0-2"], "'a:0-2'", "(model, first, end)")


def test_models_that_do_not_belong_together_are_refused(folder):
    """Another width, another vocabulary, other names, a missing part: each is told."""
    make_llama(folder / "wide", hidden_act="gelu")
    refused(folder, [("a", 0, 2), ("wide", 2, 4)], "hidden_act", "'gelu' in wide")
    make_llama(folder / "gpt", prefix="model.h")
    refused(folder, [("a", 0, 2), ("gpt", 2, 4)], "model.layers.N", "model.h.N")
    for name, words in (("x", "zero"), ("y", "one")):
        make_llama(folder / name)
        (folder / name / "tokenizer.json").write_text(f'{{"{words}": 1}}')
    refused(folder, [("x", 0, 2), ("y", 2, 4)], "vocabulary 'tokenizer.json' differs between x and y")
    save_file({"h.0.w": np.zeros(3, np.float32), "h.1.w": np.zeros(3, np.float32)}, folder / "s.safetensors")
    save_file({"h.0.w": np.zeros(4, np.float32), "h.1.w": np.zeros(4, np.float32)}, folder / "t.safetensors")
    refused(folder, [("s.safetensors", 0, 1), ("t.safetensors", 1, 2)], "(3,) in s", "(4,)")


def test_models_whose_layers_cannot_be_told_are_refused(folder):
    """None, several families, a gap, or a configuration that says something else."""
    save_file({"w": np.zeros(3, np.float32)}, folder / "none.safetensors")
    refused(folder, [("none.safetensors", 0, 1)], "no numbered layers", "'w'")
    two = {f"{part}.layers.{i}.w": np.zeros(3, np.float32) for part in ("encoder", "decoder") for i in range(2)}
    save_file(two, folder / "two.safetensors")
    refused(folder, [("two.safetensors", 0, 1)], "2 families", "encoder.layers.0 to 1", "decoder.layers.0 to 1")
    save_file({"h.0.w": np.zeros(3, np.float32), "h.2.w": np.zeros(3, np.float32)}, folder / "gap.safetensors")
    refused(folder, [("gap.safetensors", 0, 1)], "h.2", "none of h.1")
    make_llama(folder / "odd", num_hidden_layers=5)
    refused(folder, [("odd", 0, 2)], "config.json of odd", "4 layers")


@pytest.mark.keras
def test_keras_models_are_refused(folder, small_models):
    """One without blocks has no layers to take, and one with a graph does not go with weights alone."""
    refused(folder, [(small_models / "birds.keras", 0, 1)], "birds has no repeated blocks")
    refused(folder, [("a", 0, 1), (small_models / "birds.keras", 0, 1)], "birds is a Keras model", "a holds weights")


@pytest.mark.parametrize("text", ["a", "a:0", "a:0-", "a:2-x", "a:0-2*", "a:0-2*x", ":0-2"])
def test_a_slip_in_a_run_is_a_wrong_argument(text, folder):
    """Status 2, with the spelling."""
    done = CliRunner().invoke(app, ["assemble", text, "-o", "out"])
    assert done.exit_code == 2
    assert "MODEL:0-16" in done.output

"""mergekit's configuration files: what they mean, what is said of slips, and mergekit's own numbers for the same files."""

import json
import subprocess

import ml_dtypes
import numpy as np
import pytest
import yaml
from llamas import config_of, make_llama, tensors_of
from safetensors.numpy import save_file
from test_peer import HERE, PEER
from test_peer import pytestmark as peer_marks
from typer.testing import CliRunner

import graftwork as gw
from graftwork.cli.app import app
from graftwork.errors import GraftworkError, MismatchError, RecipeError
from graftwork.methods import METHODS
from graftwork.methods.options import option_rows
from graftwork.recipe import read_recipe
from graftwork.recipe.mergekit.methods import MERGEKIT, REQUIRED, our_options
from graftwork.stores import open_store

LINEAR = {"merge_method": "linear", "models": [{"model": "a"}, {"model": "b"}], "parameters": {"weight": 1}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Models a, b and c of 4 layers; the working directory."""
    for seed, name in enumerate("abc"):
        make_llama(tmp_path / name, seed=seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coefficients(config):
    """Return the options of every tensor of the result's plan."""
    *_, report = gw.plan(config)
    return {row["name"]: row["options"] for row in report.tensors}


def slices(*sources, **more):
    return {"sources": [{"model": model, "layer_range": list(layers), **own} for model, layers, own in sources], **more}


# What counts for which tensor ---------------------------------------------------------------------------------------


def test_the_nearest_level_counts(folder):
    """Source before slice before module before the whole; where no filter of a level fits, the next one is asked."""
    config = {
        "merge_method": "linear",
        "modules": {
            "default": {
                "slices": [
                    slices(
                        ("a", (0, 2), {"parameters": {"weight": {"filter": "mlp", "value": 1}}}),
                        ("b", (0, 2), {}),
                        parameters={"weight": [{"filter": "self_attn", "value": 2}]},
                    ),
                    slices(("a", (2, 4), {}), ("b", (2, 4), {"parameters": {"weight": 5}})),
                ],
                "parameters": {"weight": [{"filter": "norm", "value": 3}]},
            }
        },
        "parameters": {"weight": 4},
    }
    found = {name: options["weight"] for name, options in coefficients(config).items()}
    assert found["model.layers.0.mlp.up_proj.weight"] == (1, 4)
    assert found["model.layers.1.self_attn.q_proj.weight"] == (2, 2)
    assert found["model.layers.0.input_layernorm.weight"] == (3, 3)
    assert found["model.embed_tokens.weight"] == (4, 4)
    assert found["model.layers.2.mlp.up_proj.weight"] == (4, 5)
    assert found["model.norm.weight"] == (3, 5)


def test_the_first_filter_that_fits_counts(folder):
    """In the order of the list; no filter and * fit everything."""
    entries = [
        {"filter": "layers.1.mlp", "value": 1},
        {"filter": "mlp", "value": 2},
        {"filter": "*", "value": 3},
        {"value": 4},
    ]
    found = coefficients({**LINEAR, "parameters": {"weight": entries}})
    assert found["model.layers.1.mlp.up_proj.weight"]["weight"] == (1, 1)
    assert found["model.layers.2.mlp.up_proj.weight"]["weight"] == (2, 2)
    assert found["lm_head.weight"]["weight"] == (3, 3)


def test_what_is_left_empty_says_nothing(folder):
    """`parameters:` and other keys without a value, and an empty list, are as good as not there."""
    empty = {"base_model": None, "tokenizer_source": None, "slices": [], "modules": None, "dtype": None}
    config = {
        **LINEAR,
        **empty,
        "models": [{"model": "a", "parameters": None}, {"model": "b", "parameters": {"weight": []}}],
    }
    assert coefficients(config) == coefficients(LINEAR)


def test_gradients_lie_along_the_layers_of_their_slice(folder):
    """Numbers are interpolated, other values chosen; 0 outside of the layers, 1 in a slice of one layer."""
    config = {
        "merge_method": "linear",
        "slices": [
            slices(
                ("a", (0, 3), {"parameters": {"weight": [0, 1]}}), ("b", (0, 3), {"parameters": {"weight": [2, 3, 6]}})
            ),
            slices(("a", (3, 4), {"parameters": {"weight": [7, 8, 9]}}), ("b", (0, 1), {})),
        ],
        "parameters": {"weight": 1, "normalize": [True, False]},
    }
    found = coefficients(config)
    weights = [found[f"model.layers.{i}.mlp.up_proj.weight"]["weight"] for i in range(4)]
    assert weights == [(0, 2), (0.5, 3), (1, 6), (9, 1)]
    assert [found[f"model.layers.{i}.mlp.up_proj.weight"]["normalize"] for i in range(4)] == [True, True, False, False]
    assert found["model.embed_tokens.weight"]["weight"] == (0, 2)
    assert found["lm_head.weight"]["weight"] == (7, 1)


def test_gradients_need_layers_that_are_numbered(folder):
    """Elsewhere only the first of the values would count, without a word."""
    for name in "xy":
        save_file({"stem.weight": np.ones(3, np.float32)}, folder / f"{name}.safetensors")
    models = [{"model": "x.safetensors"}, {"model": "y.safetensors"}]
    with pytest.raises(
        RecipeError, match=r"`weight` is a list .* 'stem.weight', but the models have no numbered layers"
    ):
        gw.plan({**LINEAR, "models": models, "parameters": {"weight": [0, 1]}})
    assert coefficients({**LINEAR, "models": models, "parameters": {"weight": [2]}})["stem.weight"]["weight"] == (2, 2)


def test_filters_of_a_model_look_at_its_own_names(folder):
    """The third layer of b is the first of the result: b's parameters know it by its number in b."""
    own = {"parameters": {"weight": [{"filter": "layers.2.", "value": 5}, {"value": 1}]}}
    config = {"merge_method": "linear", "slices": [slices(("a", (0, 2), own), ("b", (2, 4), own))]}
    found = coefficients(config)
    assert found["model.layers.0.mlp.up_proj.weight"]["weight"] == (1, 5)
    assert found["model.layers.1.mlp.up_proj.weight"]["weight"] == (1, 1)


def test_the_base_is_no_model_unless_the_method_has_none(folder):
    """ties: the base among the models is the base alone; linear: it counts, also where it is not listed."""
    ties = {
        "merge_method": "ties",
        "base_model": "a",
        "models": [
            {"model": "a"},
            {"model": "b", "parameters": {"weight": 1}},
            {"model": "./c", "parameters": {"weight": 2}},
        ],
    }
    (report,) = gw.plan(ties)
    assert (report.models, report.base) == (("b", "c"), "a")
    assert coefficients(ties)["lm_head.weight"]["weight"] == (1, 2)
    assert coefficients(ties)["lm_head.weight"]["density"] == (1, 1)
    (report,) = gw.plan({**LINEAR, "base_model": "c"})
    assert (report.models, report.base) == (("a", "b", "c"), None)


@pytest.mark.parametrize("name", sorted(MERGEKIT))
def test_every_method_is_ours(name):
    """Each of its methods is a method here; every option of ours is set by a parameter, or has one value that is the same."""
    row, method = MERGEKIT[name], METHODS[name]
    known = {option.name for option in option_rows(method)}
    missing = {p for p, spec in row.parameters.items() if spec.has_effect and p not in known}
    assert not missing
    assert known - set(row.parameters) - set(row.ours) <= {"trim", "election"} | (
        {"weight"} if name == "karcher" else set()
    )
    values = {p: 0.5 if spec.default is REQUIRED else spec.default for p, spec in row.parameters.items()}
    values = {
        p: (v, v) if row.parameters[p].of == "model" else (v,) if row.parameters[p].of == "input" else v
        for p, v in values.items()
    }
    assert set(our_options(name, values)) <= known
    for parameter in missing:
        with pytest.raises(RecipeError, match=f"`{parameter}: True`"):
            our_options(name, {**values, parameter: True})


@pytest.mark.parametrize("name", sorted(name for name, row in MERGEKIT.items() if row.parameters))
def test_the_table_names_every_default_that_differs(name):
    """In docs/mergekit.md, in the column of our own recipes."""
    ours = {option.name: option.default for option in option_rows(METHODS[name])}
    row = MERGEKIT[name]
    theirs = {p: spec.default for p, spec in row.parameters.items() if spec.has_effect} | dict(row.ours)
    text = (HERE.parent / "docs" / "mergekit.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1])
    for parameter in (p for p, default in theirs.items() if ours[p] != default):
        default = ours[parameter]
        spelled = f"`{default}`" if isinstance(default, str) else f"{default:g}" if default is not True else "true"
        assert f"`{parameter}` {spelled}" in line.split("|")[3]


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_file_is_run_and_planned_like_a_recipe(folder):
    """Python and the command line; a directory comes out, with the file in its record and the base's configuration."""
    (folder / "a" / "tokenizer_config.json").write_text('{"chat_template": "mine"}')
    config = {**LINEAR, "base_model": "a", "dtype": "float16", "out_dtype": "bfloat16", "chat_template": "auto"}
    text = yaml.safe_dump(config)
    (folder / "config.yml").write_text(text)
    done = CliRunner().invoke(app, ["run", "config.yml", "-o", "out", "--shard-size", "10KB", "--quiet"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == "out"
    gw.run("config.yml", output="again.safetensors")
    with pytest.raises(
        RecipeError, match=r"names no outputs; say where to write \(-o"
    ):  # not `outputs:`, which is not mergekit's
        gw.run("config.yml")

    assert json.loads((folder / "out" / "graftwork.json").read_text())["mergekit"] == config
    assert config_of(folder / "out") == {**config_of(folder / "a"), "torch_dtype": "bfloat16"}
    assert (folder / "out" / "tokenizer_config.json").read_text() == '{"chat_template": "mine"}'
    card = (folder / "out" / "README.md").read_text()
    assert "tags: [merge, graftwork, linear]" in card
    assert yaml.safe_load(card.partition("```yaml\n")[2].partition("```")[0]) == config
    assert len(list((folder / "out").glob("model-*"))) > 1
    with open_store(folder / "out") as made:
        assert {spec.dtype for spec in made.specs().values()} == {"bfloat16"}
    done = CliRunner().invoke(app, ["plan", "config.yml", "--coefficients"])
    assert done.exit_code == 0
    assert "1, 1" in done.output
    done = CliRunner().invoke(app, ["run", "config.yml"])
    assert done.exit_code == 1
    assert "-o" in done.output


def test_paths_are_looked_for_from_here_then_from_the_file(folder, monkeypatch):
    """The working directory first, as in mergekit; then the file's own; ORG/NAME that is neither is on the Hub."""
    (folder / "configs").mkdir()
    make_llama(folder / "configs" / "b", seed=7)
    (folder / "configs" / "c.yml").write_text(yaml.safe_dump({**LINEAR, "models": [{"model": "a"}, {"model": "b"}]}))
    recipe = read_recipe(folder / "configs" / "c.yml")
    assert [source.path for source in recipe.models.values()] == [str(folder / "a"), str(folder / "b")]
    monkeypatch.chdir(folder / "a")
    (folder / "configs" / "c.yml").write_text(yaml.safe_dump({**LINEAR, "models": [{"model": "../a"}, {"model": "b"}]}))
    recipe = read_recipe(folder / "configs" / "c.yml")
    assert [source.path for source in recipe.models.values()][1] == str(folder / "configs" / "b")
    long = {"model": {"path": "org/name", "revision": "main"}, "lora": {"path": "org/adapter"}}
    listed = [{"model": "org/name"}, {"model": "org/name@v1+org/adapter"}, {"model": long}]
    recipe = read_recipe({**LINEAR, "models": listed})
    assert [source.path for source in recipe.models.values()] == [
        "hf://org/name",
        "hf://org/name@v1+hf://org/adapter",
        "hf://org/name@main+hf://org/adapter",
    ]


def test_documents_refer_to_each_other_by_name(folder):
    """Whatever their order; the one without a name is the result, and what lies between is gone."""
    last = {
        "merge_method": "linear",
        "models": [{"model": "deep"}, {"model": "mean"}],
        "parameters": {"weight": [1, 3]},
    }
    mean = {**LINEAR, "name": "mean"}
    deep = {
        "name": "deep",
        "merge_method": "passthrough",
        "slices": [slices(("c", (0, 2), {})), slices(("c", (2, 4), {}))],
    }
    (folder / "multi.yml").write_text(yaml.safe_dump_all([last, mean, deep]))
    before = {path.name for path in folder.iterdir()}
    results = gw.run(folder / "multi.yml", output=folder / "out")
    assert {path.name for path in folder.iterdir()} == before | {"out"}
    assert list(results) == ["merged"]
    a, b, c, out = (tensors_of(folder / name) for name in ("a", "b", "c", "out"))
    name = "model.layers.3.mlp.up_proj.weight"
    np.testing.assert_allclose(out[name], (c[name] + (a[name] + b[name]) / 2) / 2, rtol=1e-5, atol=1e-6)


def test_aliases_are_read_but_not_bombs(folder):
    """Anchors, also with merge keys, mean what they mean in YAML; a file that would be huge is refused at once."""
    text = "merge_method: linear\nmodels:\n- {model: a, parameters: &p {weight: 0.25}}\n- {model: b, parameters: "
    (folder / "c.yml").write_text(text + "*p}\n")
    assert coefficients(folder / "c.yml")["lm_head.weight"]["weight"] == (0.25, 0.25)
    (folder / "c.yml").write_text(text + "{<<: *p}}\n")
    assert coefficients(folder / "c.yml")["lm_head.weight"]["weight"] == (0.25, 0.25)
    bomb = "merge_method: linear\na0: &a0 [x, x]\n" + "".join(
        f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60)
    )
    merges = "merge_method: linear\na0: &a0 {x: 1}\n" + "".join(
        f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(60)
    )
    for text in (bomb, merges, "merge_method: linear\nmodels: &m [*m]\n"):
        (folder / "c.yml").write_text(text)
        with pytest.raises(RecipeError, match=r"line [23] uses a YAML alias"):
            gw.plan(folder / "c.yml")


def test_the_tokenizer_comes_from_whom_the_file_says(folder):
    """From the base; from a model with the same vocabulary; no union of different ones."""
    for name, template in (("a", "A"), ("b", "B")):
        (folder / name / "tokenizer.json").write_text('{"model": {"vocab": {"x": 0}}}')
        (folder / name / "tokenizer_config.json").write_text(f'{{"chat_template": "{template}"}}')
        (folder / name / "generation_config.json").write_text(f'{{"who": "{name}"}}')
    for k, (said, template) in enumerate(((None, "A"), ("base", "A"), ("b", "B"), ("union", "A"))):
        gw.run({**LINEAR, "base_model": "a", "tokenizer_source": said} if said else LINEAR, output=f"out{k}")
        assert template in (folder / f"out{k}" / "tokenizer_config.json").read_text()
        assert (folder / f"out{k}" / "generation_config.json").read_text() == '{"who": "a"}'
    (folder / "b" / "tokenizer.json").write_text('{"model": {"vocab": {"y": 0}}}')
    with pytest.raises(MismatchError, match=r"vocabulary .* differs between a and b.*graftwork: {ignore"):
        gw.plan(LINEAR)
    ignoring = {**LINEAR, "graftwork": {"ignore": ["assets"]}}
    assert gw.plan(ignoring)
    with pytest.raises(MismatchError, match="builds no union"):
        gw.plan({**ignoring, "tokenizer_source": "union"})


def test_the_template_that_most_have_is_the_one_that_is_carried(folder):
    """`auto` where the base's template is the most common, or as common as another; refused where it is not."""
    for name, template in (("a", "A"), ("b", "B"), ("c", "B")):
        (folder / name / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    auto = {**LINEAR, "chat_template": "auto"}
    assert gw.plan(auto)
    three = {**auto, "models": [{"model": name} for name in "abc"]}
    with pytest.raises(MismatchError, match="most common template, which is not that of a"):
        gw.plan(three)
    (folder / "a" / "chat_template.jinja").write_text("B\n")
    assert gw.plan(three)
    assert gw.plan({**three, "tokenizer_source": "c"})
    later = {**auto, "models": [{"model": "mean"}, {"model": "b"}]}
    (folder / "c.yml").write_text(yaml.safe_dump_all([{**LINEAR, "name": "mean"}, later]))
    gw.run(folder / "c.yml", output=folder / "out")
    assert (folder / "out" / "chat_template.jinja").read_text() == "B\n"


def test_no_source_is_written_over(folder):
    """Not the model that lends only the tokenizer, nor the base that lends only the configuration."""
    for config in (
        {**LINEAR, "tokenizer_source": "c"},
        {
            "merge_method": "linear",
            "base_model": "c",
            "slices": [slices(("a", (0, 2), {}), ("b", (0, 2), {}))],
            "parameters": {"weight": 1},
        },
        {
            "merge_method": "slerp",
            "slices": [slices(("a", (0, 2), {}), ("c", (0, 2), {}), base_model="c")],
            "parameters": {"t": 0.5},
        },
    ):
        with pytest.raises(GraftworkError, match="is one of the sources"):
            gw.run(config, output=folder / "c", overwrite=True)
        assert gw.run(config, output=folder / "out", overwrite=True)


def test_what_has_no_effect_is_said(folder):
    """Filters that fit nothing, parameters that mergekit takes and nobody uses, the base's own weight."""
    config = {
        "merge_method": "ties",
        "base_model": "a",
        "models": [{"model": "a", "parameters": {"weight": 3}}, {"model": "b"}],
        "parameters": {"weight": [{"filter": "self_atn", "value": 2}, {"value": 1}], "int8_mask": True},
    }
    (report,) = gw.plan(config)
    notes = " | ".join(report.notes)
    assert "'self_atn'" in notes
    assert "`int8_mask` has no effect" in notes
    assert "parameters of the base (a) have no effect" in notes


def test_configurations_that_differ_need_a_word(folder):
    """In mergekit such models are merged without a word; here the file has to say that it does not matter."""
    make_llama(folder / "d", seed=9, rope_theta=5e5)
    config = {**LINEAR, "models": [{"model": "a"}, {"model": "d"}]}
    with pytest.raises(MismatchError, match=r"rope_theta None in a but 500000.0 in d.*graftwork: {ignore"):
        gw.plan(config)
    assert gw.plan({**config, "graftwork": {"ignore": "rope_theta"}})


def test_parts_of_configurations_are_compared_field_by_field(folder):
    """Models of texts and images have a configuration within theirs: what is harmless outside is so there, and the field is named."""
    for seed, (name, part) in enumerate(
        {
            "x": {"rope_theta": 1.0, "dtype": "float32", "attention_dropout": 0.1, "pad_token_id": 3},
            "y": {"rope_theta": 1.0, "dtype": "bfloat16", "sliding_window": None},
            "z": {"rope_theta": 2.0},
        }.items()
    ):
        make_llama(folder / name, seed=seed, text_config=part)
    assert gw.plan({**LINEAR, "models": [{"model": "x"}, {"model": "y"}]})
    config = {**LINEAR, "models": [{"model": "x"}, {"model": "z"}]}
    with pytest.raises(MismatchError, match=r"config.json has text_config.rope_theta 1.0 in x but 2.0 in z;"):
        gw.plan(config)
    for ignored in ("text_config.rope_theta", "text_config"):
        assert gw.plan({**config, "graftwork": {"ignore": ignored}})
    with pytest.raises(MismatchError):
        gw.plan({**config, "graftwork": {"ignore": "text"}})


def test_parts_of_a_model_are_told_by_words_in_names(folder):
    """A model with an encoder and a decoder under `modules`; what belongs to none is refused."""
    for seed, name in enumerate("xy"):
        rng = np.random.default_rng(seed)
        parts = {
            f"model.{part}.layers.{i}.w": rng.random((2, 3), np.float32)
            for part in ("encoder", "decoder")
            for i in range(3)
        }
        save_file(parts, folder / f"{name}.safetensors")
    models = [{"model": "x.safetensors"}, {"model": "y.safetensors"}]
    one, other = {"weight": 1}, {"weight": [{"filter": "encoder", "value": 9}, {"value": [1, 3]}]}
    config = {
        "merge_method": "linear",
        "modules": {"encoder": {"models": models, "parameters": one}, "decoder": {"models": models}},
        "parameters": other,
    }
    found = coefficients(config)
    assert [found[f"model.encoder.layers.{i}.w"]["weight"] for i in range(3)] == [(1, 1)] * 3
    assert [found[f"model.decoder.layers.{i}.w"]["weight"] for i in range(3)] == [(1, 1), (2, 2), (3, 3)]
    with pytest.raises(RecipeError, match=r"'encoder' is a part of the model, and nothing is said of 'model.decoder"):
        gw.plan({**config, "modules": {"encoder": {"models": models, "parameters": one}}})
    with pytest.raises(RecipeError, match="modules encoder, head are told by words"):
        gw.plan({**config, "modules": {"encoder": {"models": models}, "head": {"models": models}}})


def test_parts_of_different_models_have_to_fit(folder):
    """The encoder of one and the decoder of another are compared like models that are merged, and nothing of either is left out."""
    for name, config in (("x", {"hidden_act": "gelu"}), ("y", {"hidden_act": "relu"})):
        tensors = {
            f"model.{part}.layers.{i}.w": np.full(3, i, np.float32) for part in ("encoder", "decoder") for i in range(2)
        }
        (folder / name).mkdir()
        save_file(tensors, folder / name / "model.safetensors")
        (folder / name / "config.json").write_text(json.dumps({"encoder_layers": 2, "decoder_layers": 2, **config}))
    parts = {"encoder": {"models": [{"model": "x"}]}, "decoder": {"models": [{"model": "y"}]}}
    config = {"merge_method": "passthrough", "modules": parts}
    with pytest.raises(MismatchError, match=r"hidden_act 'gelu' in x but 'relu' in y.*graftwork: {ignore"):
        gw.plan(config)
    ignoring = {**config, "graftwork": {"ignore": "hidden_act"}}
    assert len(gw.plan(ignoring)[0].tensors) == 4
    save_file({**tensors, "head.weight": np.ones(3, np.float32)}, folder / "y" / "model.safetensors")
    with pytest.raises(RecipeError, match=r"'head.weight' of y has none"):
        gw.plan(ignoring)


def test_a_base_that_lends_only_its_configuration_has_to_fit(folder):
    """Where no slice is of the base, `config.json` and the tokenizer are still its own: they have to be true of the others' layers."""
    make_llama(folder / "far", seed=9, layers=6, rope_theta=5e5)
    config = {"merge_method": "passthrough", "slices": [slices(("a", (0, 3), {})), slices(("b", (2, 4), {}))]}
    with pytest.raises(MismatchError, match=r"rope_theta None in a but 500000.0 in far.*graftwork: {ignore"):
        gw.plan({**config, "base_model": "far"})
    ignoring = {**config, "base_model": "far", "graftwork": {"ignore": "rope_theta"}}
    gw.run(ignoring, output=folder / "out")
    assert config_of(folder / "out") == {**config_of(folder / "far"), "num_hidden_layers": 5}


def test_sources_of_several_dtypes_are_noted(folder):
    """Where the file does not say which dtype, mergekit takes the widest, and here the first model's counts."""
    make_llama(folder / "half", seed=3, dtype=np.float16)
    models = [{"model": "half"}, {"model": "a"}]
    (report,) = gw.plan({**LINEAR, "models": models})
    assert "sources hold float16 and float32: 'lm_head.weight' comes out as float16" in " | ".join(report.notes)
    for config in ({**LINEAR, "models": models, "out_dtype": "float32"}, LINEAR):
        assert not gw.plan(config)[0].notes


def test_a_tensor_that_one_has_not_can_be_kept(folder):
    """The message says how in a file of mergekit's."""
    save_file(
        {k: v for k, v in tensors_of(folder / "b").items() if k != "lm_head.weight"}, folder / "b" / "model.safetensors"
    )
    with pytest.raises(
        MismatchError, match=r"'lm_head.weight' of a has no counterpart in b; .*`graftwork: {skip: \[NAME\]}`"
    ):
        gw.plan(LINEAR)
    assert gw.plan({**LINEAR, "graftwork": {"skip": "lm_head.weight"}})


SLIPS = {
    "method": ({"merge_method": "liner"}, "'liner'; did you mean 'linear'"),
    "key": ({"tokenizer_sorce": "base"}, "'tokenizer_sorce' is not known; did you mean 'tokenizer_source'"),
    "key of a model": ({"models": [{"modl": "a"}]}, "'models.0.modl' is not known; did you mean 'model'"),
    "key of a reference": (
        {"models": [{"model": {"model": {"path": "a", "rev": "x"}}}]},
        "'models.0.model.model.rev' is not known",
    ),
    "parameter": ({"parameters": {"weigth": 1}}, "'linear' has no parameter 'weigth'; did you mean 'weight'"),
    "parameter of another method": (
        {"parameters": {"weight": 1, "density": 0.5}},
        "'linear' has no parameter 'density'",
    ),
    "parameter of a model": ({"models": [{"model": "a", "parameters": {"wait": 1}}]}, "no parameter 'wait'"),
    "parameter in the wrong place": (
        {"models": [{"model": "a", "parameters": {"normalize": False}}]},
        "`normalize` is one value for all models",
    ),
    "no weight": ({"parameters": {}}, "`weight` is not given for the tensor 'lm_head.weight' of a"),
    "no weight for some": (
        {"parameters": {"weight": {"filter": "mlp", "value": 1}}},
        "`weight` is not given for the tensor 'lm_head",
    ),
    "a word for a number": ({"parameters": {"weight": "much"}}, "`weight` is 'much'; expected a number"),
    "a mapping for a number": (
        {"parameters": {"weight": {"a": 1}}},
        "'parameters.weight.0.a' is not known; there are 'filter', 'value'",
    ),
    "no model": ({"models": [{"model": "nothing"}]}, "there is no model nothing in the working directory"),
    "nothing to merge": ({"models": []}, "one of models, slices and modules; found none"),
    "two things to merge": ({"slices": [slices(("a", (0, 1), {}))]}, "found models and slices"),
    "model twice": ({"models": [{"model": "a"}, {"model": "./a"}]}, "a is listed twice"),
    "no base": ({"merge_method": "ties"}, "'ties' needs `base_model`"),
    "the base alone": (
        {"merge_method": "ties", "base_model": "a", "models": [{"model": "a"}]},
        "nothing but the base a",
    ),
    "a path for a model": ({"models": ["a", "b"]}, "'models.0' is 'a'; expected a mapping with `model`"),
    "a text for layers": (
        {"models": None, "slices": [{"sources": [{"model": "a", "layer_range": "0-4"}]}]},
        "layer_range' is '0-4'; expected a list",
    ),
    "nothing for a number": (
        {"parameters": {"weight": [None]}},
        "weight.0.value' is \\[None\\]; expected one value, a list of them, or entries",
    ),
    "no such layers": (
        {"models": None, "slices": [slices(("a", (0, 2), {}), ("b", (3, 5), {}))]},
        "b has the layers 0 to 3, so 3 to 5",
    ),
    "ranges of different lengths": (
        {"models": None, "slices": [slices(("a", (0, 2), {}), ("b", (1, 4), {}))]},
        "different numbers of layers.*0 to 2 of a, 1 to 4 of b",
    ),
    "layers of whole models": (
        {"models": [{"model": "a", "layer_range": [0, 2]}]},
        "`layer_range` belongs under `slices`",
    ),
    "a slice without layers": ({"models": None, "slices": [{"sources": [{"model": "a"}]}]}, "has no `layer_range`"),
    "base not in the slice": (
        {
            "models": None,
            "merge_method": "slerp",
            "base_model": "c",
            "parameters": {"t": 0.5},
            "slices": [slices(("a", (0, 2), {}), ("b", (0, 2), {}))],
        },
        "the base c is not among the sources",
    ),
    "dtype": ({"dtype": "int8"}, "'dtype' is 'int8'; expected 'float16'"),
    "new tokens": ({"tokenizer": {"source": "base", "tokens": {"x": {"source": "a"}}}}, "changes the vocabulary"),
    "two tokenizers": ({"tokenizer_source": "base", "tokenizer": {"source": "base"}}, "say the same"),
    "template": ({"chat_template": "chatml"}, "`chat_template` asks for another template"),
    "architecture": ({"models": [{"model": {"model": "a", "override_architecture": "X"}}]}, "override_architecture"),
    "extras": ({"graftwork": {"sed": 1}}, "'graftwork.sed' is not known; did you mean 'seed'"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_in_one_sentence(slip, folder):
    """Which place, what was found, what was meant; from a file and from Python."""
    change, told = SLIPS[slip]
    config = {key: value for key, value in {**LINEAR, **change}.items() if value is not None}
    with pytest.raises(GraftworkError, match=told):
        gw.plan(config)
    (folder / "c.yml").write_text(yaml.safe_dump(config))
    done = CliRunner().invoke(app, ["plan", "c.yml"])
    assert done.exit_code == 1
    assert done.output.count("\n") == 1
    assert done.output.startswith("error: ")


def test_names_of_documents_are_checked(folder):
    """No two of one name, no circle, no adapter on what is yet to be made."""
    for documents, told in (
        ([LINEAR, LINEAR], "2 documents have no `name`"),
        ([{**LINEAR, "name": "x"}, {**LINEAR, "name": "x"}], "the name 'x'"),
        (
            [{**LINEAR, "name": "x", "models": [{"model": "y"}]}, {**LINEAR, "name": "y", "models": [{"model": "x"}]}],
            "circle",
        ),
        ([{**LINEAR, "name": "x"}, {**LINEAR, "models": [{"model": "x+a"}]}], "x is made by this file"),
        ([LINEAR, {"models": {}}], "document 2: expected a mapping with `merge_method`"),
        ([{**LINEAR, "name": "a b"}], "'name' is 'a b'"),
    ):
        (folder / "c.yml").write_text(yaml.safe_dump_all(documents))
        with pytest.raises(RecipeError, match=told):
            gw.plan(folder / "c.yml")


# mergekit's own numbers ------------------------------------------------------------------------------------------------

CONFIGURATIONS = {  # mergekit-multi fails where a path has a blank
    "slerp": """
merge_method: slerp
base_model: {a}
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 4]}}
      - {{model: {b}, layer_range: [0, 4]}}
parameters:
  t:
    - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
    - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
    - {{value: 0.5}}
dtype: float32
""",
    "frankenmerge": """
merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 3]}}]
  - sources:
      - model: {b}
        layer_range: [1, 4]
        parameters: {{scale: [{{filter: o_proj, value: 0.5}}, {{filter: down_proj, value: [0, 1]}}, {{value: 1.0}}]}}
dtype: float32
""",
    "ties": """
merge_method: ties
base_model: {a}
models:
  - model: {b}
    parameters: {{weight: [0.1, 0.9], density: [{{filter: mlp, value: 0.5}}, {{filter: q_proj, value: [0.3, 0.8]}}]}}
  - {{model: {c}, parameters: {{weight: 0.4}}}}
parameters: {{density: 0.7, normalize: true, int8_mask: true}}
dtype: float32
""",
    "modules": """
merge_method: linear
base_model: {c}
modules:
  default:
    slices:
      - sources:
          - {{model: {a}, layer_range: [0, 2], parameters: {{weight: 1.0}}}}
          - model: {b}
            layer_range: [2, 4]
            parameters: {{weight: [{{filter: layers.3, value: 0.2}}, {{filter: mlp, value: 1e-1}}]}}
        parameters: {{weight: 0.5}}
      - sources:
          - {{model: {c}, layer_range: [0, 1]}}
          - {{model: {b}, layer_range: [3, 4], parameters: {{weight: [5, 6]}}}}
        parameters: {{normalize: false}}
    parameters: {{weight: 0.3}}
parameters: {{weight: 2}}
dtype: float32
out_dtype: bfloat16
""",
    "an-unlisted-base": """
merge_method: linear
base_model: {c}
models: [{{model: {a}, parameters: {{weight: 1.0}}}}, {{model: {b}}}]
parameters: {{weight: [2, 0.5]}}
dtype: float32
""",
    "a-listed-base": """
merge_method: task_arithmetic
base_model: {a}
models:
  - {{model: {a}}}
  - {{model: {b}, parameters: {{weight: 0.3}}}}
  - {{model: {c}, parameters: {{weight: 0.5, density: 0.3}}}}
parameters: {{lambda: [{{filter: norm, value: [0.2, 0.4, 1]}}]}}
""",
    "gradients-of-switches": """
merge_method: nuslerp
base_model: {a}
models:
  - {{model: {b}, parameters: {{weight: [0, 1]}}}}
  - {{model: {c}, parameters: {{weight: 0.5}}}}
parameters: {{nuslerp_row_wise: [true, false], nuslerp_flatten: false}}
""",
    "several-documents": """
name: first
merge_method: linear
models: [{{model: {a}, parameters: {{weight: 1}}}}, {{model: {b}, parameters: {{weight: 3}}}}]
dtype: float32
---
merge_method: slerp
base_model: second
models: [{{model: first}}]
parameters: {{t: 0.3}}
dtype: float32
---
name: second
merge_method: passthrough
slices:
  - sources: [{{model: {b}, layer_range: [0, 2]}}]
  - sources: [{{model: {a}, layer_range: [0, 2]}}]
""",
}


def _plainest(method):
    """Return a file that says as little as the method takes, so that its defaults count."""
    row = MERGEKIT[method]
    pairs = ("slerp", "nearswap", "arcee_fusion")
    models = ["{b}"] if method in (*pairs, "passthrough") else ["{b}", "{c}"]
    needed = {name: 0.4 for name, spec in row.parameters.items() if spec.default is REQUIRED}
    config = {"merge_method": method, "models": [{"model": model} for model in models], "dtype": "float32"}
    config |= {"parameters": needed} if needed else {}
    return yaml.safe_dump(
        {**config, **({"base_model": "{a}"} if row.base != "ignored" else {})}, default_flow_style=False
    )


CONFIGURATIONS |= {f"plain-{method}": _plainest(method) for method in MERGEKIT}


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """A directory with every configuration and what mergekit made of it."""
    place = tmp_path_factory.mktemp("configurations")
    paths = {name: make_llama(place / name, seed=seed) for seed, name in enumerate("abc")}
    for name, text in CONFIGURATIONS.items():
        (place / f"{name}.yml").write_text(text.format(**paths))
    done = subprocess.run(
        [PEER, HERE / "peer" / "configurations.py", place], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return place


def numbers(folder):
    with open_store(folder) as reader:
        found = {}
        for name, spec in reader.specs().items():
            raw = np.empty(spec.size, np.uint16 if spec.dtype == "bfloat16" else spec.dtype)
            reader.read_into(name, 0, raw)
            found[name] = (raw.view(ml_dtypes.bfloat16) if spec.dtype == "bfloat16" else raw).astype(np.float64)
        return found


@pytest.mark.parametrize("method", [pytest.param(method, marks=peer_marks) for method in MERGEKIT])
def test_every_parameter_is_known_with_its_default(method, peer):
    """None of mergekit's methods is missing, and none of their parameters; a scale of nothing is 1."""
    theirs = json.loads((peer / "methods.json").read_text())
    assert theirs.keys() == MERGEKIT.keys()
    ours = {
        name: None if spec.default is REQUIRED else spec.default for name, spec in MERGEKIT[method].parameters.items()
    }
    assert ours == (theirs[method] if method != "passthrough" else {"scale": 1.0})


@pytest.mark.parametrize("name", [pytest.param(name, marks=peer_marks) for name in CONFIGURATIONS])
def test_mergekit_makes_the_same_of_the_same_file(name, peer):
    """The same tensors, every element within 1e-5 of the tensor's largest, and the same number of layers."""
    gw.run(peer / f"{name}.yml", output=peer / f"{name}.ours")
    ours, theirs = numbers(peer / f"{name}.ours"), numbers(peer / f"{name}.theirs")
    assert ours.keys() == theirs.keys()
    for tensor, wanted in theirs.items():
        assert np.abs(ours[tensor] - wanted).max() <= 1e-5 * np.abs(wanted).max(), tensor
    layers = [config_of(peer / f"{name}.{who}")["num_hidden_layers"] for who in ("ours", "theirs")]
    assert layers[0] == layers[1]

"""Adapters extracted from fine-tuned models, against NumPy's singular value decomposition; and back again."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from test_store_lora import read
from typer.testing import CliRunner

import graftwork as gw
from graftwork import extraction
from graftwork.cli.app import app
from graftwork.errors import GraftworkError, MismatchError, NonFiniteError, OptionError, OutputError, StoreError
from graftwork.stores import open_store

HERE = Path(__file__).parent
SHAPES = {
    "model.embed_tokens.weight": (12, 6),
    "model.layers.0.c_attn.weight": (8, 6),
    "model.layers.0.c_attn.bias": (8,),
    "model.layers.1.q.weight": (8, 6),
    "model.norm.weight": (6,),
    "model.norm.bias": (6,),
    "model.pos": (6,),
    "model.steps": (1,),
    "head.weight": (3, 6),
}
FACTORED = ["head.weight", "model.layers.0.c_attn.weight"]


def write(folder, tensors, **config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", **config}))
    return folder


def models(tmp_path, seed=0, dtype=np.float32, **config):
    """Write a base and a fine-tune that leaves layer 1 as it was; return their tensors."""
    rng = np.random.default_rng(seed)
    ours = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    theirs = {name: (value + 0.1 * rng.standard_normal(value.shape)).astype(dtype) for name, value in ours.items()}
    theirs["model.layers.1.q.weight"] = ours["model.layers.1.q.weight"]
    for tensors, steps in ((ours, 1), (theirs, 2)):
        tensors["model.steps"] = np.array([steps], np.int64)
    write(tmp_path / "base", ours, **config)
    write(tmp_path / "tuned", theirs, **config)
    return ours, theirs


def extract(tmp_path, **options):
    return gw.extract_lora(tmp_path / "tuned", base=tmp_path / "base", output=tmp_path / "lora", **options)


def adapted(tmp_path):
    with open_store(f"{tmp_path}/base+{tmp_path}/lora") as reader:
        return {name: read(reader, name) for name in reader.specs()}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), rank=st.integers(1, 9), turned=st.booleans())
def test_no_approximation_of_that_rank_is_nearer(tmp_path_factory, seed, rank, turned):
    """Error and energy are those of the truncated decomposition, in the report and in the adapted model."""
    tmp_path = tmp_path_factory.mktemp("extraction")
    ours, theirs = models(tmp_path, seed, **({"model_type": "gpt2"} if turned else {}))
    found = extract(tmp_path, rank=rank)

    assert [row.name for row in found.tensors] == FACTORED
    moved = adapted(tmp_path)
    for row in found.tensors:
        delta = theirs[row.name].astype(np.float64) - ours[row.name]
        values = np.linalg.svd(delta, compute_uv=False)
        error = np.sqrt(np.square(values[rank:]).sum() / np.square(values).sum())
        assert row.rank == min(rank, *delta.shape)
        np.testing.assert_allclose([row.error, row.energy], [error, 1 - error**2], atol=1e-6)
        left = np.linalg.norm(moved[row.name].astype(np.float64) - theirs[row.name]) / np.linalg.norm(delta)
        np.testing.assert_allclose(left, error, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("kind", ["mine", "gpt2"])
def test_there_and_back_at_full_rank(tmp_path, dtype, kind):
    """Base and adapter give the fine-tuned model, but for what float32 factors cannot hold."""
    ours, theirs = models(tmp_path, dtype=dtype, model_type=kind)
    found = extract(tmp_path, rank=100, embeddings=True, save_rest=True)

    for name, value in adapted(tmp_path).items():
        assert value.dtype == ours[name].dtype
        if name in ("model.pos", "model.steps"):
            # of the whole model, and no weight: no module that PEFT could save
            np.testing.assert_array_equal(value, ours[name])
        elif theirs[name].ndim == 2:
            spacing = np.spacing(np.abs(theirs[name]).max().astype(dtype))
            assert np.abs(value - theirs[name]).max() <= max(spacing, 2e-7), name
        else:
            np.testing.assert_array_equal(value, theirs[name])
    assert {row.name for row in found.rest if not row.saved} == {"model.pos", "model.steps"}
    assert (found.unchanged, len(found.tensors)) == (1, 3)


def test_what_gets_no_factors_is_said(tmp_path):
    """By how much it differs, and how to keep it."""
    ours, theirs = models(tmp_path)
    found = extract(tmp_path, rank=4, exclude="head.*")

    assert [row.name for row in found.tensors] == FACTORED[1:]
    rest = {row.name: row.difference for row in found.rest}
    assert set(rest) == set(SHAPES) - {FACTORED[1], "model.layers.1.q.weight"}
    norm = np.linalg.norm(theirs["model.norm.weight"] - ours["model.norm.weight"].astype(np.float64))
    np.testing.assert_allclose(rest["model.norm.weight"], norm / np.linalg.norm(ours["model.norm.weight"]), rtol=1e-5)
    assert rest["model.steps"] is None
    (note,) = found.notes
    assert "7 tensors differ and are not in the adapter" in note
    assert "--save-rest" in note


def test_the_configuration_as_peft_reads_it(tmp_path):
    """Ranks by pattern where a matrix is too small, longest names first; alpha makes the scaling 1."""
    models(tmp_path)
    extract(tmp_path, rank=5, save_rest=True)

    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["head", "model.layers.0.c_attn"]
    assert (config["r"], config["lora_alpha"], config["peft_type"], config["bias"]) == (5, 5, "LORA", "lora_only")
    assert config["rank_pattern"] == config["alpha_pattern"] == {"head": 3}
    assert config["modules_to_save"] == ["model.embed_tokens", "model.norm"]
    assert config["base_model_name_or_path"] == "base"
    keys = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    assert keys["base_model.model.head.lora_B.weight"].shape == (3, 3)
    assert keys["base_model.model.model.layers.0.c_attn.lora_A.weight"].shape == (5, 6)


def test_a_pattern_that_ends_another_name_does_not_count_for_it(tmp_path):
    """PEFT takes the first pattern that a module's name ends in."""
    rng = np.random.default_rng(0)
    shapes = {"q.weight": (2, 6), "x.q.weight": (8, 6)}
    for name in ("base", "tuned"):
        tensors = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
        write(tmp_path / name, tensors)
    extract(tmp_path, rank=4)
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    assert list(config["rank_pattern"].items()) == [(r"x\.q", 4), ("q", 2)]
    np.testing.assert_allclose(adapted(tmp_path)["q.weight"], tensors["q.weight"], atol=1e-5)


@pytest.mark.parametrize("spectrum", ["noise", "decaying", "exact"])
def test_large_matrices_are_approximated_as_well_as_by_a_whole_decomposition(spectrum):
    """The Krylov space finds the same energy, and the same bits each time."""
    rng = np.random.default_rng(0)
    if spectrum == "noise":
        delta = rng.standard_normal((600, 700))
    else:
        u, v = (np.linalg.qr(rng.standard_normal((size, 560)))[0] for size in (600, 700))
        values = 1 / np.arange(1, 561) if spectrum == "decaying" else np.r_[np.ones(4), np.zeros(556)]
        delta = (u * values) @ v.T
    found = extraction._krylov(delta, 4, "name")
    best = np.square(np.linalg.svd(delta, compute_uv=False)[:4]).sum()

    up, down = extraction._factors(delta, 4, "name")
    left = np.square(delta - up.astype(np.float64) @ down).sum()
    whole = np.square(delta).sum()
    assert found is not None
    assert found[0].shape[1] < 300
    assert abs((whole - left) - best) <= 1e-6 * whole
    again = extraction._factors(delta, 4, "name")
    assert all(a.tobytes() == b.tobytes() for a, b in zip((up, down), again, strict=True))


REFUSED = {
    "rank 0": ({"rank": 0}, None, OptionError, "the rank is 0"),
    "a glob for nothing": ({"include": "nothing*"}, None, OptionError, "'nothing\\*' matches no tensor"),
    "nothing left": ({"exclude": "*.weight"}, None, MismatchError, "no tensor of base can get factors"),
    "the same model": ({}, lambda t: t.update(load_file(Path("base/model.safetensors"))), MismatchError, "same values"),
    "a tensor more": ({}, lambda t: t.update(more=np.zeros(1, np.float32)), MismatchError, "'more' is in tuned alone"),
    "another shape": (
        {},
        lambda t: t.update({"head.weight": np.zeros((4, 6), np.float32)}),
        MismatchError,
        "head.weight",
    ),
    "NaN": ({}, lambda t: t["head.weight"].__setitem__(0, np.nan), NonFiniteError, "'head.weight' of tuned holds NaN"),
    "only the rest": (
        {},
        lambda t: t.update({**load_file(Path("base/model.safetensors")), "model.pos": np.zeros(6, np.float32)}),
        MismatchError,
        "none of the 1 tensors that differ gets factors",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(tmp_path, monkeypatch, case):
    """Before anything is written."""
    options, edit, kind, message = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    _, theirs = models(tmp_path)
    if edit is not None:
        edit(theirs)
        save_file(theirs, tmp_path / "tuned" / "model.safetensors")
    with pytest.raises(kind, match=message):
        extract(tmp_path, **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "tuned"]


def test_models_that_are_set_up_otherwise_are_refused(tmp_path):
    """An adapter cannot carry a setting, and no option says that it does not matter: none is advised."""
    models(tmp_path)
    for name, act in (("base", "gelu"), ("tuned", "relu")):
        (tmp_path / name / "config.json").write_text(json.dumps({"hidden_act": act}))
    with pytest.raises(
        MismatchError, match=r"hidden_act 'gelu' in base but 'relu' in tuned; an adapter .* set up alike$"
    ):
        extract(tmp_path)


def test_an_adapter_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """An existing directory is replaced only when asked for, only if it is an adapter, and by a complete one."""
    models(tmp_path)
    first = extract(tmp_path, rank=2)
    before = (first.path / "adapter_model.safetensors").read_bytes()
    with pytest.raises(OutputError, match="exists; pass --overwrite"):
        extract(tmp_path, rank=3)
    with monkeypatch.context() as broken:
        counts = itertools.count()
        broken.setattr("graftwork.extraction.zlib.crc32", lambda _: next(counts))
        with pytest.raises(OutputError, match="does not hold what was written"):
            extract(tmp_path, rank=3, overwrite=True)
    assert (first.path / "adapter_model.safetensors").read_bytes() == before
    extract(tmp_path, rank=2, overwrite=True)
    assert (first.path / "adapter_model.safetensors").read_bytes() == before
    for target in ("base", "tuned", "base/lora"):
        with pytest.raises(OutputError, match="one of the sources"):
            gw.extract_lora(tmp_path / "tuned", base=tmp_path / "base", output=tmp_path / target, overwrite=True)
    shutil.copytree(tmp_path / "tuned", tmp_path / "other")
    with pytest.raises(OutputError, match="is no lora model"):
        gw.extract_lora(tmp_path / "tuned", base=tmp_path / "base", output=tmp_path / "other", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "lora", "other", "tuned"]


def test_what_a_killed_run_may_have_left_is_told(tmp_path):
    """It stays, with a note, where nobody knows whose it is."""
    models(tmp_path)
    left = tmp_path / ".lora.1-abcdef.graftwork-tmp"
    left.mkdir()
    assert any(note.startswith(f"{left} stays: ") for note in extract(tmp_path, rank=2).notes)
    assert left.exists()


def test_an_adapter_of_an_adapted_model(tmp_path):
    """The base may have an adapter itself; what is extracted goes on top."""
    _, theirs = models(tmp_path)
    extract(tmp_path, rank=1)
    both = f"{tmp_path}/base+{tmp_path}/lora"
    gw.extract_lora(tmp_path / "tuned", base=both, output=tmp_path / "second", rank=8)
    with open_store(f"{both}+{tmp_path}/second") as reader:
        for name in FACTORED:
            np.testing.assert_allclose(read(reader, name), theirs[name], atol=1e-6)


def test_the_command(tmp_path, monkeypatch):
    """As the function; JSON for machines, notes on standard error, status 1 and one line for a refusal."""
    models(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments = ["extract-lora", "tuned", "--base", "base", "-o", "lora"]
    done = CliRunner().invoke(app, [*arguments, "--rank", "2", "--json", "--exclude", "head.*"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["name"] for row in found["tensors"]] == FACTORED[1:]
    done = CliRunner().invoke(app, [*arguments, "--overwrite", "--save-rest", "--tensors"])
    assert done.exit_code == 0, done.stderr
    assert "100.0% on average" in done.stdout
    assert "are not in the adapter" in done.stderr
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)


PEER = Path(os.environ.get("GRAFTWORK_PEER_PYTHON") or HERE.parent / ".venv-peers" / "bin" / "python")


@pytest.mark.skipif(not PEER.exists(), reason="no environment with PEFT; `make bench-peers` makes one")
def test_peft_and_graftwork_agree():
    """Adapters that PEFT saved give what PEFT merges, and PEFT makes the fine-tuned model of base and extracted adapter."""
    done = subprocess.run(
        [PEER, HERE / "peer" / "with_peft.py", sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_a_damaged_source_is_a_store_error(tmp_path):
    """Errors of reading come through as they are."""
    models(tmp_path)
    os.truncate(tmp_path / "tuned" / "model.safetensors", 500)
    with pytest.raises(StoreError, match="claims a header of"):
        extract(tmp_path)


RECIPE = """
models: {base: base, tuned: tuned}
steps:
  half: {merge: {method: linear, models: [base, tuned]}}
  whole: {extract_lora: {model: tuned, base: base, rank: 8, exclude: "head.*"}}
  lora: {extract_lora: {model: half, base: base, rank: 8, save_rest: true}}
outputs: {lora: by_recipe}
"""


def test_a_step_of_a_recipe(tmp_path):
    """Its models may be results of other steps; what is planned is done, and no more than outputs need."""
    ours, theirs = models(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE)
    half, whole, report = gw.plan(tmp_path / "r.yaml")
    assert (half.method, report.method, report.models, report.base) == ("linear", "extract_lora", ("half",), "base")
    assert [row["name"] for row in whole.tensors if row["action"] == "factors"] == [
        "model.layers.0.c_attn.weight",
        "model.layers.1.q.weight",
    ]
    found = gw.run(tmp_path / "r.yaml")
    assert {name: result.format for name, result in found.items()} == {"lora": "lora"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "by_recipe", "r.yaml", "tuned"]
    with open_store(f"{tmp_path}/base+{tmp_path}/by_recipe") as reader:
        for name in FACTORED:
            np.testing.assert_allclose(read(reader, name), (ours[name] + theirs[name]) / 2, atol=1e-6)
    for each in (gw.plan, gw.run):
        with pytest.raises(OutputError, match="exists; pass --overwrite"):
            each(tmp_path / "r.yaml")
    gw.run(tmp_path / "r.yaml", overwrite=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("rank: 8, save_rest", "rank: 0, save_rest"), "steps.lora.rank"),
        (("save_rest", "save_all"), "did you mean 'save_rest'"),
        (("models: [base, tuned]", "models: [base, whole]"), "step 'half' uses 'whole', whose result is an adapter"),
        (("model: half", "model: halve"), "did you mean 'half'"),
    ],
)
def test_slips_in_a_step(tmp_path, edit, message):
    """Refused as anywhere in recipes."""
    models(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.replace(*edit))
    with pytest.raises(GraftworkError, match=message):
        gw.plan(tmp_path / "r.yaml")

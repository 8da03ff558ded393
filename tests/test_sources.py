"""How sources are spelled: paths first, then models on the Hub and adapters; from Python, the command line and recipes alike."""

import json
import os
import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import graftwork as gw
from graftwork.cli.app import app
from graftwork.errors import StoreError
from graftwork.stores import hub, open_store, spelling
from graftwork.writing import labels_of

COMMIT = "0123456789abcdef"


def model(folder, value=1.0, text="", **files):
    """Write a model of one tensor."""
    folder.mkdir(parents=True)
    save_file({"a.weight": np.full((4, 2), value, np.float32)}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "mine"}))
    if text:
        (folder / "README.md").write_text(text)
    return folder


def adapter(folder):
    """Write an adapter that adds 2 to every element."""
    folder.mkdir(parents=True)
    factors = {"A": np.ones((1, 2), np.float32), "B": np.full((4, 1), 2, np.float32)}
    tensors = {f"base_model.model.a.lora_{name}.weight": value for name, value in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}))
    return folder


def value(path):
    return float(load_file(path / "model.safetensors")["a.weight"][0, 0])


@pytest.fixture
def the_hub(tmp_path, monkeypatch):
    """Put a Hub with ORG/model and ORG/lora in the place of the network; return what was asked of it."""
    asked = []

    def snapshot_download(repo_id, *, revision=None, allow_patterns, ignore_patterns):
        asked.append((repo_id, revision))
        folder = tmp_path / "cache" / ("models--" + repo_id.replace("/", "--")) / "snapshots" / COMMIT
        if not folder.exists():
            files = model(tmp_path / "remote", 5.0) if repo_id == "ORG/model" else adapter(tmp_path / "remote")
            for name in ("pytorch_model.bin", "evil.pkl", "original/consolidated.safetensors", "code.py"):
                (files / name).parent.mkdir(exist_ok=True)
                (files / name).write_bytes(b"x")
            names = [str(file.relative_to(files)) for file in files.rglob("*") if file.is_file()]
            wanted = huggingface_hub.utils.filter_repo_objects(
                names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
            )
            for name in wanted:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(files / name, folder / name)
            shutil.rmtree(files)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    hub.fetch.cache_clear()
    yield asked
    hub.fetch.cache_clear()


@pytest.mark.parametrize("kind", [str, Path])
def test_a_model_on_the_hub_is_a_source(tmp_path, the_hub, kind):
    """As a text or a path (which has lost a slash); only weights and texts are fetched, once."""
    model(tmp_path / "local", 1.0)
    out = gw.merge([kind("hf://ORG/model@v1.0"), tmp_path / "local"], output=tmp_path / "out")

    assert value(out) == 3.0
    gw.inspect(kind("hf://ORG/model@v1.0"))
    assert the_hub == [("ORG/model", "v1.0")]
    (fetched,) = (tmp_path / "cache").glob("*/snapshots/*")
    assert {file.name for file in fetched.iterdir()} == {"model.safetensors", "config.json"}


def test_the_command_line_and_recipes_say_the_same(tmp_path, the_hub):
    """One spelling everywhere; in recipes each part is relative to the recipe."""
    model(tmp_path / "sub" / "local", 1.0)
    adapter(tmp_path / "sub" / "lora")
    runner = CliRunner()

    sources = ["hf://ORG/model+sub/lora", "sub/local+sub/lora+hf://ORG/lora"]
    done = runner.invoke(app, ["merge", *sources, "-o", "by_command", "--format", "huggingface"])
    assert done.exit_code == 0, done.stderr
    assert value(tmp_path / "by_command") == 6.0
    (tmp_path / "sub" / "recipe.yaml").write_text(
        "models: {a: hf://ORG/model+lora, b: local+lora+hf://ORG/lora}\n"
        "steps: {m: {merge: {method: linear, models: [a, b]}}}\noutputs: {m: by_recipe}\n"
    )
    done = runner.invoke(app, ["plan", "sub/recipe.yaml"])
    assert done.exit_code == 0, done.stderr
    done = runner.invoke(app, ["run", "sub/recipe.yaml"])
    assert done.exit_code == 0, done.stderr
    assert value(tmp_path / "sub" / "by_recipe") == 6.0


def test_what_exists_wins(tmp_path, the_hub):
    """A plus sign, or a directory called hf:, means nothing where there is such a path."""
    plus = model(tmp_path / "my+model", 1.0)
    like = model(tmp_path / "hf:" / "ORG" / "model", 2.0)
    adapter(tmp_path / "a+b")
    for source, expected in (
        (plus, 1.0),
        ("my+model", 1.0),
        ("my+model+a+b", 3.0),
        (f"{tmp_path}/my+model+{tmp_path}/a+b", 3.0),
        ("hf:/ORG/model", 2.0),
        (Path("hf://ORG/model"), 2.0),
        (like, 2.0),
    ):
        with open_store(source) as reader:
            out = np.empty(1, np.float32)
            reader.read_into("a.weight", 0, out)
            assert out == expected, source
    assert not the_hub


def test_recipes_beside_odd_directories(tmp_path, the_hub):
    """The recipe's own directory may have a plus sign in its name; `~` is the home in each part."""
    root = tmp_path / "x+y"
    model(root / "base")
    adapter(root / "lora")
    assert spelling.split(spelling.below(root, "base+lora")) == [str(root / "base"), str(root / "lora")]
    assert spelling.below(root, "hf://A/b+lora") == Path(f"hf:/A/b+{root}/lora")
    home = Path("~").expanduser()
    assert spelling.below(root, "~/none+lora") == Path(f"{home}/none+{root}/lora")


def test_labels(the_hub):
    """What messages and options call a source."""
    sources = ["x/birds.keras", "hf://ORG/model@v1", "x/base+y/lora", "x/base+z/lora"]
    assert labels_of([Path(source) for source in sources]) == ("birds", "model", "base+lora", "base+lora#2")


@pytest.mark.parametrize("source", ["+", "base+", "+base", "base++base"])
def test_plus_signs_stand_between(tmp_path, source, the_hub):
    """An empty part is a slip."""
    model(tmp_path / "base")
    with pytest.raises(StoreError, match="nothing before or behind a plus sign"):
        open_store(source)


def test_a_missing_file_with_a_plus_sign_is_called_by_its_whole_name(the_hub):
    """It may have been meant as either."""
    with pytest.raises(StoreError, match=r"no file or directory fine\+tuned.keras, nor a model fine that adapters"):
        open_store("fine+tuned.keras")


def _http(kind):
    import httpx2

    return kind("no", response=httpx2.Response(404, request=httpx2.Request("GET", "https://example.org")))


FAILURES = {
    "gated": (lambda: _http(errors.GatedRepoError), "hf://ORG/model@v1 is gated: accept its terms"),
    "missing": (lambda: _http(errors.RepositoryNotFoundError), "has no model hf://ORG/model@v1, or a private one"),
    "revision": (lambda: _http(errors.RevisionNotFoundError), "ORG/model on the Hugging Face Hub has no branch, tag"),
    "offline": (lambda: errors.LocalEntryNotFoundError("no"), "not in the cache, and the Hugging Face Hub cannot be"),
    "name": (lambda: errors.HFValidationError("odd"), "is no name of a model"),
    "disk": (lambda: OSError(28, "No space left on device"), "cannot be fetched: .*No space left"),
    "anything": (lambda: RuntimeError("line\nbreak"), "cannot be fetched: line break"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_of_the_hub_are_errors_of_ours(monkeypatch, case):
    """One sentence, whatever it was; a second try asks again."""
    make, message = FAILURES[case]

    def fail(*_, **__):
        raise make()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    hub.fetch.cache_clear()
    for _ in range(2):
        with pytest.raises(StoreError, match=message):
            open_store("hf://ORG/model@v1")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    """The package is needed for these sources alone."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    hub.fetch.cache_clear()
    with pytest.raises(StoreError, match=r"pip install 'graftwork\[hub\]'"):
        open_store("hf://ORG/model")
    assert not os.path.lexists("hf:")


@pytest.mark.parametrize("text", ["hf://model", "hf://a/b/c", "hf:a/b", "https://a/b"])
def test_what_is_no_name_on_the_hub_is_a_path(text, the_hub):
    """And there is none; where the Hub was meant, its spelling is told."""
    told = "; a model on the Hub is spelled hf://ORG/NAME" if text.startswith("hf:") else "$"
    with pytest.raises(StoreError, match=f"there is no file or directory [^ ]+{told}"):
        open_store(text)
    assert not the_hub

"""What is loaded when: importing costs nothing, and work on weights loads neither Keras nor TensorFlow.

`sys.modules` is looked at rather than the clock, which measures the machine.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tf_files import checkpoint

import graftwork as gw

HEAVY = ("keras", "tensorflow", "tf_keras", "numba", "scipy", "matplotlib", "h5py", "pydantic", "numpy", "rich", "yaml")

COMMAND = """
import atexit, sys
atexit.register(lambda: print("loaded:", *sys.modules, file=sys.stderr))
sys.argv[0] = "graftwork"
from graftwork.cli import main
main()
"""

RECIPE = """
models: {base: pretrained.keras, birds: birds.keras, flowers: flowers.keras}
steps:
  both: {merge: {method: dare_ties, base: base, models: [birds, flowers]}}
  soup: {merge: {method: linear, models: [both, birds]}}
outputs: {soup: soup.keras}
"""

VERBS = [
    ["inspect", "birds.keras", "--tensors"],
    ["diff", "birds.keras", "flowers.keras"],
    ["plan", "merge", "birds.keras", "flowers.keras", "-m", "ties", "--base", "pretrained.keras"],
    ["plan", "recipe.yaml"],
    ["merge", "birds.keras", "flowers.keras", "-m", "ties", "--base", "pretrained.keras", "-o", "out.keras"],
    ["convert", "birds.keras", "birds.safetensors"],
    ["run", "recipe.yaml"],
    ["verify", "birds.keras", "--no-load"],
    ["methods", "ties"],
    ["schema"],
]


def loaded(script: str, *arguments: str, cwd: Path | None = None) -> set[str]:
    """Return the top-level packages that a fresh process has loaded in the end."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stderr.splitlines() if line.startswith("loaded:"))
    return {name.partition(".")[0] for name in line.split()[1:]}


def test_importing_the_package_loads_nothing_heavy():
    """`import graftwork` costs next to nothing, and knows its names already."""
    found = loaded("import sys, graftwork; dir(graftwork); print('loaded:', *sys.modules, file=sys.stderr)")
    assert "graftwork" in found
    assert not found & set(HEAVY)


@pytest.mark.parametrize("arguments", [[], ["merge"], ["plan"], ["demo"]], ids=" ".join)
def test_help_loads_nothing_heavy(arguments: list[str]):
    """Help is there at once, the list of all commands too."""
    found = loaded(COMMAND, *arguments, "--help")
    assert not found & {*HEAVY} - {"pydantic"}  # newer versions of Typer load it themselves


@pytest.mark.parametrize("arguments", VERBS, ids=lambda arguments: " ".join(arguments[:2]))
def test_work_on_weights_loads_neither_keras_nor_tensorflow(arguments: list[str], small_models: Path, tmp_path: Path):
    """Every verb but the loading half of `verify` and the demo works without them."""
    shutil.copytree(small_models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    found = loaded(COMMAND, *arguments, cwd=tmp_path)
    assert not found & {"keras", "tensorflow", "tf_keras", "scipy", "matplotlib"}


@pytest.mark.parametrize("arguments", [v for v in VERBS if v[0] in ("inspect", "methods", "schema", "plan")], ids=str)
def test_looking_at_headers_compiles_nothing(arguments: list[str], small_models: Path, tmp_path: Path):
    """What reads headers alone does not load Numba either."""
    shutil.copytree(small_models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert "numba" not in loaded(COMMAND, *arguments, cwd=tmp_path)


@pytest.mark.parametrize(
    "arguments", [["inspect"], ["inspect", "--tensors"], ["ckpt", "ls"], ["ckpt", "ls", "--json"]], ids=" ".join
)
def test_looking_at_a_checkpoint_loads_next_to_nothing(arguments: list[str], tmp_path: Path):
    """The headers of a checkpoint need no arrays, no recipes, and of the formats nothing that is not here."""
    model = checkpoint(tmp_path / "model.ckpt.index", {"w": np.zeros((2, 3), np.float32), "step": np.int64(3)})
    found = loaded(COMMAND, *arguments, str(model))
    assert not found & {*HEAVY, "ml_dtypes"} - {"pydantic"}  # newer versions of Typer load it themselves


def test_no_module_hides_a_public_name():
    """A submodule is an attribute of the package once it is imported, and would stand in the place of a function."""
    for name in gw.__all__:
        assert name.startswith("__") or importlib.util.find_spec(f"graftwork.{name}") is None, name


def test_every_public_name_is_there():
    """What `__all__` promises can be had, and nothing else."""
    for name in gw.__all__:
        assert getattr(gw, name) is not None
    assert dir(gw) == sorted(gw.__all__)
    with pytest.raises(AttributeError, match="no attribute 'mergge'"):
        _ = gw.mergge


def test_python_m_graftwork_is_the_command(tmp_path: Path):
    """Where the command is not on the path, the module is."""
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "--version"],
        cwd=tmp_path,
        env={**os.environ, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"graftwork {gw.__version__}\n"

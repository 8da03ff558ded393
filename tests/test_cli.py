"""The command line as people and scripts meet it: statuses, streams, JSON, help, and words for slips of the pen."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import graftwork as gw
from graftwork.cli.app import FILES, app
from graftwork.cli.listed import LISTED
from graftwork.cli.terminal import as_plain
from graftwork.errors import OptionError

PAIR = ("birds.keras", "flowers.keras")
RECIPE = """
models: {base: pretrained.keras, birds: birds.keras, flowers: flowers.keras}
steps: {both: {merge: {method: ties, base: base, models: [birds, flowers], density: 0.5}}}
outputs: {both: both.keras}
"""


@dataclass(frozen=True)
class Done:
    """What a command left: its status and its two streams."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def folder(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the small models, a recipe, a damaged file and one with a NaN."""
    made = tmp_path_factory.mktemp("cli")
    shutil.copytree(small_models, made, dirs_exist_ok=True)
    (made / "recipe.yaml").write_text(RECIPE)
    (made / "cut.keras").write_bytes((made / "birds.keras").read_bytes()[:5000])
    return made


@pytest.fixture(scope="module")
def graftwork(folder: Path):
    """Runs the real command in a process of its own."""

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "graftwork", *arguments],
            cwd=folder,
            env={**os.environ, "COLUMNS": "100", "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def test_a_merge_prints_its_path_and_nothing_else(graftwork, folder: Path):
    """Standard output is the result, for `$(…)` and pipes."""
    done = graftwork("merge", *PAIR, "-o", "mean.keras")
    assert (done.status, done.out, done.err) == (0, "mean.keras\n", "")
    assert (folder / "mean.keras").is_file()


def test_notes_go_to_standard_error_and_quiet_drops_them(graftwork):
    """What the user should know does not get into pipes."""
    loud = graftwork("merge", "fitted.keras", "birds.keras", "-o", "loud.keras")
    assert loud.out == "loud.keras\n"
    assert loud.err.startswith("note: the optimizer state (14 tensors) is dropped")
    quiet = graftwork("merge", "fitted.keras", "birds.keras", "-o", "quiet.keras", "--quiet")
    assert (quiet.status, quiet.out, quiet.err) == (0, "quiet.keras\n", "")


REFUSED = {
    "no such file": (["inspect", "nowhere.keras"], "there is no file or directory nowhere.keras"),
    "damaged": (["inspect", "cut.keras"], "cut.keras"),
    "other function": (
        ["merge", "birds.keras", "tanh.keras", "-o", "x.keras"],
        "activation 'relu' in birds but 'tanh'",
    ),
    "other shape": (["merge", "birds.keras", "wide.keras", "-o", "x.keras"], "units 10 in birds but 100 in wide"),
    "method": (["merge", *PAIR, "-m", "tie", "-o", "x.keras"], "no merge method is called 'tie'; did you mean 'ties'"),
    "described method": (["methods", "liner"], "did you mean 'linear'"),
    "option": (
        ["merge", *PAIR, "-m", "ties", "--base", "pretrained.keras", "--set", "densty=1", "-o", "x.keras"],
        "ties has no option 'densty'; did you mean 'density'?",
    ),
    "value": (
        ["merge", *PAIR, "-m", "ties", "--base", "pretrained.keras", "--set", "density=2", "-o", "x.keras"],
        "option 'density' of ties is 2",
    ),
    "no base": (["merge", *PAIR, "-m", "ties", "-o", "x.keras"], "common ancestor"),
    "weights": (["merge", *PAIR, "--weights", "1,2,3", "-o", "x.keras"], "has 3 values, but there are 2 models"),
    "ending": (["merge", *PAIR, "-o", "x.foo"], "does not say in which format to write"),
    "format": (
        ["merge", *PAIR, "-o", "x.foo", "--format", "kears"],
        "no format is called 'kears'; did you mean 'keras'",
    ),
    "source as target": (["merge", *PAIR, "-o", "birds.keras", "--overwrite"], "is one of the sources"),
    "existing target": (["merge", *PAIR, "-o", "cats.keras"], "cats.keras exists; pass --overwrite"),
    "shards of one file": (
        ["merge", *PAIR, "-o", "x.safetensors", "--shard-size", "1MB"],
        "format 'safetensors' has no shards; formats that have: huggingface (a directory)",
    ),
    "no directory": (["merge", *PAIR, "-o", "nowhere/x.keras"], "directory nowhere does not exist"),
    "dtype": (["merge", *PAIR, "--dtype", "int8", "-o", "x.keras"], "a result cannot have dtype 'int8'"),
    "skip everything": (["merge", *PAIR, "--skip", "*", "-o", "x.keras"], "no tensor is left to merge"),
    "classes": (["merge", *PAIR, "--classes", "a,b", "-o", "x.keras"], "`classes` has 1 list"),
    "map": (["merge", *PAIR, "--map", "(=x", "-o", "x.keras"], "is not a regular expression"),
    "convert without architecture": (["convert", "cut.keras", "x.safetensors"], "cut.keras"),
    "no recipe": (["run", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
    "plan refuses alike": (["plan", "merge", "birds.keras", "tanh.keras"], "activation 'relu' in birds"),
    "plan checks the target": (["plan", "merge", *PAIR, "-o", "cats.keras"], "cats.keras exists"),
    "plan checks how it is written": (
        ["plan", "merge", *PAIR, "-o", "x.keras", "--shard-size", "1MB"],
        "format 'keras' has no shards",
    ),
    "no SavedModel": (["savedmodel", "ls", "nowhere"], "nowhere is not there"),
    "names": (
        ["merge", *PAIR, "--names", "a,b", "--set", "weight={a: 1, flowers: 1}", "-o", "x.keras"],
        "names the model 'flowers', which is not merged; there are 'a', 'b'",
    ),
    "a folder that cannot be": (["demo", "--folder", "birds.keras/x"], "birds.keras/x cannot be made: Not a directory"),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_a_refusal_is_one_line_and_status_1(case: str, graftwork, folder: Path):
    """No traceback, no result, no file: a sentence that says what, where and what to do."""
    before = sorted(path.name for path in folder.iterdir())
    arguments, told = REFUSED[case]
    done = graftwork(*arguments)
    assert done.status == 1
    assert done.out == ""
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert told in done.err
    assert sorted(path.name for path in folder.iterdir()) == before


WRONG = {
    "no such command": ["mege", *PAIR],
    "no output": ["merge", *PAIR],
    "no models": ["merge", "-o", "x.keras"],
    "no such option": ["merge", *PAIR, "-o", "x.keras", "--densty", "1"],
    "set without value": ["merge", *PAIR, "-o", "x.keras", "--set", "density"],
    "set that is not YAML": ["merge", *PAIR, "-o", "x.keras", "--set", "density=[1"],
    "weights": ["merge", *PAIR, "-o", "x.keras", "--weights", "a,b"],
    "set twice": ["merge", *PAIR, "-o", "x.keras", "--set", "normalize=true", "--set", "normalize=false"],
    "set with a key twice": ["merge", *PAIR, "-o", "x.keras", "--set", "weight={birds: 1, birds: 2, default: 0}"],
    "set of what has an option of its own": ["merge", *PAIR, "-o", "x.keras", "--set", "output=y.keras"],
    "map twice": ["merge", *PAIR, "-o", "x.keras", "--map", "stem/(.*)=a", "--map", "stem/(.*)=b"],
    "a layer renamed twice": ["rename", "birds.keras", "--mapping", "stem=a", "--mapping", "stem=b", "-o", "x.keras"],
    "labels twice": ["evaluate", "birds.keras", "--data", "x.npz", "--labels", "out=a", "--labels", "out=b"],
    "outputs of one kind and another": [
        "evaluate",
        "birds.keras",
        "--data",
        "x.npz",
        "--outputs",
        "logits",
        "--outputs",
        "sigmoid",
    ],
    "map without name": ["merge", *PAIR, "-o", "x.keras", "--map", "stem/(.*)"],
    "no threads": ["merge", *PAIR, "-o", "x.keras", "--threads", "0"],
    "plan of a recipe with another output": ["plan", "recipe.yaml", "-o", "x.keras"],
    "plan of a recipe with another method": ["plan", "recipe.yaml", "--method", "ties"],
    "seed": ["merge", *PAIR, "-o", "x.keras", "--seed", "one"],
    "size": ["merge", *PAIR, "-o", "x.keras", "--shard-size", "much"],
    "size of nothing": ["merge", *PAIR, "-o", "x.keras", "--shard-size", "0"],
    "distil without a teacher": ["distill", "--data", "x.npz", "-o", "x.keras"],
    "no dtype": ["ckpt", "cast", "x.index", "-o", "y.index"],
    "no place": ["extract", "birds.keras", "-o", "x.keras"],
    "no data": ["recalibrate", "birds.keras", "-o", "x.keras"],
    "plan of nothing": ["plan"],
    "plan merge of nothing": ["plan", "merge"],
    "plan of two recipes": ["plan", "recipe.yaml", "recipe.yaml"],
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_arguments_are_status_2(case: str, graftwork):
    """As every other command has it, with the usage."""
    done = graftwork(*WRONG[case])
    assert done.status == 2
    assert done.out == "" or "Usage" in done.out
    assert "Usage" in done.err + done.out


def test_without_arguments_help_is_printed(graftwork):
    """Whoever types the name alone sees what there is."""
    assert "Commands:" in (done := graftwork()).out + done.err


FULL = {
    "what is there already is said": (
        ["merge", *PAIR, "-o", "full.keras", "--json"],
        "; what was made is there: full.keras",
    ),
    "a table": (["inspect", "birds.keras"], ""),
    "more than a buffer": (["plan", "recipe.yaml", "--overwrite", "--json"], ""),
}


@pytest.mark.parametrize("case", FULL, ids=str)
def test_a_full_disk_behind_standard_output_is_one_line(case: str, folder: Path):
    """Whenever it is found: at once, or when the last buffer goes out. What was made before stays."""
    words, told = FULL[case]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "graftwork", *words], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == f"error: standard output cannot be written: No space left on device{told}\n"
    assert not told or gw.verify(folder / "full.keras", load=False).sound


def test_a_reader_that_has_left_is_no_error(folder: Path):
    """As `| head -1` leaves: nothing is said."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "graftwork", "methods"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


JSON = {
    "inspect": ["inspect", "birds.keras"],
    "diff": ["diff", *PAIR],
    "diff of zeros": ["diff", "norms_a.keras", "norms_b.keras"],
    "plan of a recipe": ["plan", "recipe.yaml", "--overwrite"],
    "plan of a merge": ["plan", "merge", *PAIR, "-o", "planned.keras"],
    "merge": ["merge", "fitted.keras", "birds.keras", "-o", "told.keras", "--overwrite"],
    "run": ["run", "recipe.yaml", "--overwrite"],
    "convert": ["convert", "fitted.keras", "fitted.safetensors", "--overwrite"],
    "verify": ["verify", "birds.keras", "--no-load"],
    "methods": ["methods"],
    "one method": ["methods", "ties"],
}


@pytest.mark.parametrize("case", JSON, ids=str)
def test_json_is_json_and_alone(case: str, graftwork):
    """Standard output is one JSON value, without NaN, and nothing else."""
    done = graftwork(*JSON[case], "--json")
    assert done.status == 0, done.err
    assert json.loads(done.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert done.err == ""


def test_json_holds_what_the_tables_show(graftwork):
    """Scripts need not read tables."""
    found = json.loads(graftwork("inspect", "birds.keras", "--json").out)
    assert (found["format"], found["parameters"], found["layers"]) == ("keras", 1562, 5)
    assert found["tensors"][0] == {
        "name": "stem/kernel",
        "shape": [3, 3, 3, 8],
        "dtype": "float32",
        "role": "weight",
        "key": "layers/conv2d/vars/0",
    }
    (step,) = json.loads(graftwork("plan", "recipe.yaml", "--overwrite", "--json").out)
    assert (step["step"], step["method"], step["models"], step["base"]) == (
        "both",
        "ties",
        ["birds", "flowers"],
        "base",
    )
    assert step["tensors"][0]["sources"] == ["stem/kernel", "stem/kernel"]
    assert step["bytes_read"] == 3 * step["bytes_written"]
    assert json.loads(graftwork("schema").out)["title"] == "graftwork recipe"


def test_a_loss_that_is_no_number_is_null_in_json():
    """Infinity in a history (the loss of validation, say) has no word in JSON, which would end in a traceback after all the work."""

    @dataclass
    class Result:
        path: Path
        tables: dict[str, list[dict[str, float]]]

    found = as_plain(
        Result(Path("a.keras"), {"history": [{"loss": 0.5, "val_loss": float("inf"), "val_mae": float("nan")}]})
    )
    assert found == {"path": "a.keras", "tables": {"history": [{"loss": 0.5, "val_loss": None, "val_mae": None}]}}


def test_a_switch_with_three_states_takes_no_value(graftwork):
    """`--jit` and `--no-cache` are flags, as people type them: what follows is not taken for a value."""
    done = graftwork(
        "finetune", "birds.keras", "--data", "none.npz", "--jit", "--no-cache", "--dry-run", "-o", "x.keras"
    )
    assert done.status == 1 and "none.npz is not there" in done.err
    assert "--jit / --no-jit" in graftwork("finetune", "--help").out


def test_plan_reads_headers_and_makes_nothing(graftwork, folder: Path):
    """A plan can be asked for any number of times."""
    before = sorted(path.name for path in folder.iterdir())
    done = graftwork("plan", "merge", *PAIR, "--base", "pretrained.keras", "-m", "ties", "-o", "new.keras", "--tensors")
    assert done.status == 0
    assert re.search(r"^tensors +6: 6 merged, 0 copied$", done.out, re.MULTILINE)
    assert re.search(r"^head/bias +10 +float32 +weight +ties$", done.out, re.MULTILINE)
    assert sorted(path.name for path in folder.iterdir()) == before


def test_a_recipe_runs_and_runs_again_with_overwrite(graftwork, folder: Path):
    """The same recipe gives the same bytes."""
    graftwork("run", "recipe.yaml", "-o", "one.keras")
    again = graftwork("run", "recipe.yaml", "-o", "two.keras", "--threads", "3")
    assert again.out == "two.keras\n"
    assert (folder / "one.keras").read_bytes() == (folder / "two.keras").read_bytes()
    assert "exists" in graftwork("run", "recipe.yaml", "-o", "two.keras").err
    assert graftwork("run", "recipe.yaml", "-o", "two.keras", "--overwrite").status == 0


def test_verify_ends_with_status_1_for_a_file_that_is_not_sound(graftwork, folder: Path):
    """A script can ask whether a file is good."""
    import h5py
    import numpy as np

    graftwork("convert", "birds.keras", "nan.weights.h5")
    assert graftwork("verify", "nan.weights.h5").status == 0
    with h5py.File(folder / "nan.weights.h5", "r+") as file:
        file["layers/conv2d/vars/1"][3] = np.nan
    done = graftwork("verify", "nan.weights.h5")
    assert done.status == 1
    assert "wrong: tensor stem/bias holds 1 value of NaN or infinity" in done.out
    assert done.out.endswith("not sound\n")


def test_set_takes_yaml(graftwork):
    """Numbers, words, lists per model, mappings and lists by filter."""
    options = (
        ["density=0.5", "trim=model", "normalize=false", "lambda=2"],
        ["density=[0.5, 0.25]"],
        ["weight={birds: 1, default: 0.5}"],
        ["density=[{filter: 'head/*', value: 1.0}, {value: [0.3, 0.6]}]"],
    )
    for number, given in enumerate(options):
        arguments = [part for option in given for part in ("--set", option)]
        output = f"set{number}.safetensors"
        done = graftwork("merge", *PAIR, "-m", "ties", "--base", "pretrained.keras", *arguments, "-o", output)
        assert done.status == 0, done.err
    record = json.loads(graftwork("inspect", "set0.safetensors", "--json").out)["provenance"]["merge"]
    assert {k: record[k] for k in ("density", "trim", "lambda")} == {"density": 0.5, "trim": "model", "lambda": 2}


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("500MB", 500_000_000), ("2 GiB", 2**31), ("0.5kb", 500), ("10B", 10)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int):
    """Powers of ten for MB, of two for MiB."""
    from graftwork.cli.sizes import size_of

    assert size_of(text) == size


def commands() -> dict[str, click.Command]:
    """Those that are written out; verbs' and steps' are made of fields."""
    group: Any = typer.main.get_command(app)
    groups = ("checkpoints", "savedmodel")
    return {
        name: group.resolve_command(None, [name])[1]
        for file, names in FILES.items()
        if file not in groups
        for name in names
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_argument_and_option_has_help(name: str):
    """Help leaves nothing out, and one line of it fits into the list of commands."""
    command = commands()[name]
    assert command.help
    first = command.help.partition("\n")[0]
    assert first.endswith(".")
    assert len(first) <= 70
    for parameter in command.params:
        if "--help" not in parameter.opts:
            assert getattr(parameter, "help", None), (name, parameter.name)


def test_the_list_says_what_the_commands_say():
    """What help shows without loading commands are all of them, with the first sentences of their own help."""
    from graftwork.cli import checkpoints, compose, savedmodel

    groups = {group.info.name: typer.main.get_group(group) for group in (checkpoints.app, savedmodel.app)}
    real = {**commands(), **compose.commands(), **groups}
    assert {name: command.get_short_help_str(1000) for name, command in real.items()} == LISTED


def test_every_command_that_reports_has_json():
    """Machines get what people get."""
    for name in ("inspect", "diff", "plan", "merge", "run", "convert", "verify", "methods", "demo"):
        assert any("--json" in parameter.opts for parameter in commands()[name].params), name


def test_the_same_words_in_python(small_models: Path, tmp_path: Path):
    """An option of `merge` has one name on the command line, in a recipe and in Python."""
    import inspect

    python = set(inspect.signature(gw.merge).parameters)
    renamed = {
        "map_": "map",
        "format_": "format",
        "settings": "options",
        "shard_size": "shard_bytes",
        "quiet": "report",
        "as_json": "on_result",
    }
    line = {renamed.get(parameter.name or "", parameter.name) for parameter in commands()["merge"].params}
    assert line - {"help", "as_json"} <= python
    with pytest.raises(OptionError, match="give a list of models"):
        gw.merge(str(small_models / "birds.keras"), output=tmp_path / "x.keras")  # type: ignore[arg-type]


def test_plan_merge_takes_what_merge_takes():
    """With the same words, but for those of what is only done."""
    merge, plan = ({parameter.name for parameter in commands()[name].params} for name in ("merge", "plan"))
    assert merge - plan == {"models", "quiet"}


def test_one_text_is_a_list_where_an_option_is_one():
    """``--hidden 10`` as well as ``--hidden 10,5``; where a text alone is something else, it stays one."""
    from graftwork.cli.fields import value_of
    from graftwork.compose.verbs.freeze import Freeze
    from graftwork.compose.verbs.stack import Stack
    from graftwork.training.verbs import VERBS

    hidden, layers = Stack.model_fields["hidden"], Freeze.model_fields["layers"]
    for given, wanted in ((["10"], [10]), (["10,5"], [10, 5]), (["10", "5"], [10, 5]), (["[10]"], [10]), (["[]"], [])):
        assert value_of(hidden, given) == wanted
    assert value_of(layers, ["block_*"]) == "block_*"
    assert value_of(VERBS["finetune"].model_fields["unfreeze"], ["3"]) == 3


def test_help_says_what_options_take():
    """Generated options too: a number where one is wanted, the words that there are, a list only where there may be several."""
    from graftwork.training.verbs import VERBS

    def command(*words: str) -> click.Command:
        found: Any = typer.main.get_command(app)
        for word in words:
            _, found, _ = found.resolve_command(None, [word])
        return found

    shown = {
        p.name: p.metavar for p in command("finetune").params if p.name in VERBS["finetune"].model_fields and p.metavar
    }
    assert {name: shown[name] for name in ("seed", "learning_rate", "mode", "unfreeze", "loss", "at", "data")} == {
        "seed": "<int>",
        "learning_rate": "<float>",
        "mode": "<min|max>",
        "unfreeze": "<int|str|list[int]|list[str]>",
        "loss": "<str|name=value>",
        "at": "<str>",
        "data": "<value>",
    }
    average = command("ckpt", "average").params
    assert {p.name: p.metavar for p in average if p.name in ("last", "seed", "set")} == {
        "last": "<int>",
        "seed": "<int>",
    }


@pytest.mark.parametrize("backend", ["jax", "nonsense"])
def test_a_backend_that_is_not_there_is_one_sentence(small_models: Path, tmp_path: Path, backend: str):
    """Not installed, or the name of none."""
    (tmp_path / "jax.py").write_text("raise ModuleNotFoundError(\"No module named 'jax'\")")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "graftwork",
            "extract",
            small_models / "birds.keras",
            "--at",
            "stem",
            "-o",
            tmp_path / "o.keras",
        ],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"error: Keras cannot be imported with KERAS_BACKEND={backend}: ")
    assert done.stderr.count("\n") == 1 and "set KERAS_BACKEND to one that is installed" in done.stderr


def test_rows_of_a_table_need_not_have_the_same_columns(capsys):
    """What was measured before a model was tuned is less than what is measured after: nothing can have moved."""
    from graftwork.report import render

    render.tables({"forgetting": [{"when": "before", "right": 0.5}, {"when": "after", "moved": 0.25, "right": 0.75}]})
    _, title, *lines = capsys.readouterr().out.splitlines()
    assert title == "forgetting"
    assert [line.split() for line in lines] == [
        ["when", "right", "moved"],
        ["before", "0.5", "–"],
        ["after", "0.75", "0.25"],
    ]

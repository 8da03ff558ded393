"""Everything that README and docs show is run, and everything they list is complete.

A ``console`` block is run command by command in a directory with the models of `small_models`; where it shows output, that must
come out, with ``…`` for any text in a line and a line of ``…`` for any lines. README's commands are processes of their own; those of other
documents are run by `commands`. A ``yaml`` block that begins with a comment ``# NAME.yaml``, or a ``python`` one with ``# NAME.py``,
is there as that file; a ``yaml`` one that is a recipe is planned. ``python`` blocks are run in order in one process.
"""

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import Commands

import graftwork as gw
from graftwork.methods import METHODS
from graftwork.methods.options import option_rows
from graftwork.stores import FORMATS

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changes").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document: Path, language: str) -> list[str]:
    return [body for found, body in BLOCK.findall(document.read_text(encoding="utf-8")) if found == language]


def with_blocks(*languages: str) -> list[Path]:
    return [document for document in DOCUMENTS if any(blocks(document, language) for language in languages)]


def name_of(document: Path) -> str:
    return str(document.relative_to(ROOT))


@pytest.fixture
def workplace(request: pytest.FixtureRequest, small_models: Path, tmp_path: Path) -> Path:
    """A directory with the small models and the files that the document shows."""
    shutil.copytree(small_models, tmp_path, dirs_exist_ok=True)
    document = request.node.callspec.params["document"]
    for body in (*blocks(document, "yaml"), *blocks(document, "python")):
        named = re.match(r"# (\S+\.(?:yaml|py))\n", body)
        if named:
            (tmp_path / named[1]).write_text(body, encoding="utf-8")
    return tmp_path


def environment(beside: Path) -> dict[str, str]:
    return {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100", "PYTHONUTF8": "1"}


def pattern(shown: str) -> str:
    """Return a shown output as a regular expression."""
    return "".join(
        "(?:.*\n)*?" if line.strip() == "…" else ".*?".join(re.escape(part) for part in line.rstrip().split("…")) + "\n"
        for line in shown.splitlines()
    )


@pytest.mark.parametrize("document", with_blocks("console"), ids=name_of)
def test_commands_print_what_is_shown(document: Path, workplace: Path, commands: Commands):
    """Whoever types what a document shows sees what it shows."""
    real = document.name == "README.md"
    for body in blocks(document, "console"):
        for step in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            while command.endswith("\\"):
                more, _, shown = shown.partition("\n")
                command = command[:-1] + more.strip()
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=workplace,
                env=environment(Path(sys.executable).parent if real else commands.folder),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            came = "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())
            assert "Traceback" not in came
            assert (done.returncode != 0) == ("error:" in shown.lower() or "not sound" in shown), (command, came)
            if shown:
                assert re.fullmatch(pattern(shown), came), f"$ {command}\n{came}"


@pytest.mark.parametrize("document", with_blocks("yaml"), ids=name_of)
def test_recipes_can_be_planned(document: Path, workplace: Path):
    """Every recipe that a document shows is one, and every configuration of mergekit; other YAML is YAML."""
    for number, body in enumerate(blocks(document, "yaml")):
        written, *_ = yaml.safe_load_all(body)
        if isinstance(written, dict) and ({"models", "steps"} <= set(written) or "merge_method" in written):
            path = workplace / f"block{number}.yaml"
            path.write_text(body, encoding="utf-8")
            assert gw.plan(path)


@pytest.mark.parametrize("document", with_blocks("python"), ids=name_of)
def test_python_runs(document: Path, workplace: Path, commands: Commands):
    """Python that a document shows runs as it stands."""
    script = workplace / "blocks.py"
    script.write_text("\n".join(blocks(document, "python")), encoding="utf-8")
    done = commands.python(script, cwd=workplace, env=environment(commands.folder))
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(document: Path):
    """Every link to a file of the project finds it, and its heading."""
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles]


def test_every_method_and_option_is_documented():
    """docs/methods.md has each method with its source, and each option with its default; README names each method."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", (ROOT / "docs/methods.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    by_name = {section.split("\n", 1)[0].strip("`"): section for section in sections}
    for name, method in METHODS.items():
        assert f"| `{name}` |" in readme
        assert method.reference in by_name[name]
        for row in option_rows(method):
            default = str(row.default).lower() if isinstance(row.default, bool) else f"{row.default}"
            default = default.removesuffix(".0")
            assert re.search(rf"^\| `{row.name}` \| `?{re.escape(default)}`? \|", by_name[name], re.MULTILINE), (
                name,
                row,
            )
    assert set(by_name) >= set(METHODS)


def test_every_format_is_documented():
    """README and docs/formats.md have each format, and each ending that chooses it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    formats = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    for name, row in FORMATS.items():
        assert f"| `{name}` |" in readme
        assert f"`{name}`" in formats
        for suffix in row.suffixes:
            assert f"`{suffix}`" in readme
            assert f"`{suffix}`" in formats


def test_the_drawing_of_the_floors_is_the_contract():
    """docs/architecture.md draws the floors that import-linter checks, in its order."""
    contract = configparser.ConfigParser()
    contract.read(ROOT / ".importlinter")
    layers = contract["importlinter:contract:floors"]["layers"].split("\n")
    floors = [set(re.findall(r"graftwork\.(\w+)", layer)) for layer in layers if layer.strip()]
    drawing = blocks(ROOT / "docs/architecture.md", "text")[0]
    rows = re.findall(r"^ *\d+ +(\S.*?)(?: {2,}|$)", drawing, re.MULTILINE)
    drawn = [{word.strip(" ,").removesuffix(".py").rstrip("/") for word in row.split()} for row in rows]
    assert drawn == floors


def test_every_command_is_listed():
    """README lists the commands that exist, and no others."""
    import typer

    from graftwork.cli.app import app

    root = typer.main.get_group(app)
    real = set(root.list_commands(typer.Context(root)))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("## What you type")[2].partition("\n## ")[0]
    assert set(re.findall(r"`graftwork ([\w-]+)", section)) == real


def test_tracked_files_name_no_machine():
    """No path of a developer's machine and no package registry's host is in the project."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    forbidden = re.compile(r"(?<![\w.])/(?:work|home|root|opt)/\w|/tmp/\w|index-url|pypi\.|pythonhosted")
    for name in listed.split("\0"):
        path = ROOT / name
        if not name or not path.is_file() or path.resolve() == Path(__file__).resolve():
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        assert not forbidden.search(text), (name, forbidden.search(text))

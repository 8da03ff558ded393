"""The command itself: which commands there are, and the file that each of them comes from when it is wanted."""

import importlib
import re
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from graftwork import __version__
from graftwork.cli.listed import LISTED

FILES = {
    "looking": ("inspect", "diff", "verify"),
    "merging": ("merge", "plan", "run"),
    "assembling": ("assemble",),
    "converting": ("convert", "extract-lora"),
    "estimating": ("fisher", "gram"),
    "about": ("methods", "schema", "demo"),
    "checkpoints": ("ckpt",),
    "savedmodel": ("savedmodel",),
}
"""The commands of each file, and the groups of commands; those of verbs that compose graphs and train are in `compose`."""


class Listed(TyperCommand):
    """Stands for a command of which no more than its first sentence is known yet."""


class Commands(TyperGroup):
    """The commands, all only listed until one is wanted."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands.update({name: Listed(name, help=text) for name, text in LISTED.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that words begin with, its name, and the words behind it."""
        self._load(args[0])
        return super().resolve_command(ctx, args)

    def _load(self, name: str) -> None:
        """Put the command itself in the place of what stands for it."""
        if not isinstance(self.commands.get(name), Listed):
            return
        file = next((file for file, names in FILES.items() if name in names), None)
        if file is None:
            from graftwork.cli import compose

            self.commands.update(compose.commands())
            return
        found = typer.main.get_group(importlib.import_module(f"graftwork.cli.{file}").app)
        self.commands.update(
            {name: found} if found.name == name else found.commands
        )  # a group, or commands in one file

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn ``plan ensemble …`` into ``ensemble --dry-run …``: the verb's own command, which then makes nothing."""
        if args[:1] == ["plan"] and args[1:2] and re.fullmatch(r"[a-z][a-z-]*", args[1]) and args[1] != "merge":
            self._load(args[1])
            verb = self.get_command(ctx, args[1])
            if verb is not None and any("--dry-run" in parameter.opts for parameter in verb.params):
                args = [args[1], "--dry-run", *args[2:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="graftwork",
    help="Make one model of several trained Keras or TensorFlow models, without loading them whole.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graftwork {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make one model of several trained Keras or TensorFlow models, without loading them whole."""

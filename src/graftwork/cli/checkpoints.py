"""The commands that look at checkpoints and make checkpoints of checkpoints."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from graftwork.cli.terminal import print_json, refusing


class Commands(TyperGroup):
    """The commands. Those of steps are made when one is wanted that is no other, so that listing a file is quick."""

    def _load_steps(self) -> None:
        from graftwork.cli.groups import add_commands
        from graftwork.recipe.checkpoints import CHECKPOINT_STEPS

        steps = typer.Typer(add_completion=False, rich_markup_mode=None)
        add_commands(steps, CHECKPOINT_STEPS, "ckpt_")
        self.commands.update(typer.main.get_group(steps).commands)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all commands."""
        self._load_steps()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name."""
        if cmd_name not in self.commands:
            self._load_steps()
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Commands,
    name="ckpt",
    help="Checkpoints: united, averaged, assigned from others, renamed, cut down.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """Checkpoints: united, averaged, assigned from others, renamed, cut down."""


@app.command()
def ls(
    model: Annotated[Path, typer.Argument(help="A checkpoint, or any other model file or directory.")],
    patterns: Annotated[
        list[str] | None, typer.Argument(help="Globs, or re: expressions, of tensors to list; by default all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """List the tensors of MODEL, reading only its headers.

    Name, shape, dtype, size, role, and the key where it is another.
    """
    from graftwork.api import headers
    from graftwork.report import render

    with refusing():
        rows = headers.ls(model, *(patterns or ()))
        print_json([row.to_dict() for row in rows]) if as_json else render.listing(rows)

"""The commands that look at checkpoints and make checkpoints of checkpoints."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.stepwise import commands_of
from graftwork.cli.terminal import print_json, printing, refusing

app = typer.Typer(
    cls=commands_of("graftwork.recipe.checkpoints", "CHECKPOINT_STEPS", "ckpt_"),
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
        with printing():
            print_json([row.to_dict() for row in rows]) if as_json else render.listing(rows)

"""The commands that look into SavedModels and make something of them."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.stepwise import commands_of
from graftwork.cli.terminal import refusing, show

app = typer.Typer(
    cls=commands_of("graftwork.recipe.savedmodel", "SAVEDMODEL_STEPS", "savedmodel_"),
    name="savedmodel",
    help="SavedModels: bridged into Keras models, lifted, chained, combined.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.callback()
def _root() -> None:
    """SavedModels: bridged into Keras models, lifted, chained, combined."""


@app.command()
def ls(
    path: Annotated[Path, typer.Argument(help="The directory of a SavedModel.")],
    signature: Annotated[
        str | None, typer.Option("--signature", help="Only this signature; by default all.", show_default=False)
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Also list the tensors inside signatures, which a bridge can end at.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Say what the SavedModel PATH offers, without TensorFlow.

    Signatures with inputs and outputs, variables, tables, assets, and what a bridge makes of it.
    """
    from graftwork.api.programs import ls as listed
    from graftwork.report import render

    with refusing():
        show(listed(path, signature, tensors=tensors), as_json, render.program)

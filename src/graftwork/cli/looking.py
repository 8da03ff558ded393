"""The commands that look at models and make none."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.custom import CustomObjects
from graftwork.cli.options import Json, Quiet, Threads
from graftwork.cli.terminal import progress, refusing, show

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: Json = False,
) -> None:
    """Say what MODEL is, reading only its headers."""
    from graftwork import api
    from graftwork.report import render

    with refusing():
        show(api.inspect(model), as_json, render.inspection, tensors=tensors)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not only every layer.")] = False,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how two models differ.

    Structure comes first, then how far their weights are apart, layer by layer.
    """
    from graftwork import api
    from graftwork.report import render

    with refusing():
        with progress(quiet) as told:
            found = api.diff(a, b, threads=threads, progress=told)
        show(found, as_json, render.difference, tensors=tensors)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load it with Keras in a fresh process.")] = True,
    custom_objects: CustomObjects = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check MODEL: CRCs, values, and whether Keras loads it.

    The exit status is 1 if anything is wrong.
    """
    from graftwork import api
    from graftwork.report import render

    with refusing():
        with progress(quiet) as told:
            found = api.verify(model, load=load, custom_objects=custom_objects, progress=told)
        show(found, as_json, render.verification)
        if not found.sound:
            raise typer.Exit(1)

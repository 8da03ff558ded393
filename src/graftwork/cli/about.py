"""The commands that show what graftwork can do: its methods, its recipes, a demonstration."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.options import Json, Quiet
from graftwork.cli.terminal import print_json, printing, refusing, say

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its options.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List merge methods, or describe one."""
    from graftwork.methods import METHODS, get
    from graftwork.report import render

    with refusing(), printing():
        if as_json:
            chosen = [name] if name else sorted(METHODS)
            print_json([render.method_as_dict(get(each)) for each in chosen])
        elif name is None:
            render.method_list({each: METHODS[each] for each in sorted(METHODS)})
        else:
            render.method(get(name))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes."""
    from graftwork import recipe

    with refusing(), printing():
        print_json(recipe.schema())


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where to keep the models; by default they are removed.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small models, merge them, print what came out.

    The models are trained on real data (scikit-learn's digits) and merged with the commands above. Takes half a minute.
    """
    from graftwork import demo as demonstration

    with refusing():
        rows = demonstration.run(folder, tell=lambda line: say(quiet, line))
        with printing(*filter(None, [folder])):
            print_json(rows) if as_json else demonstration.show(rows)

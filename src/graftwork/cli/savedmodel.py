"""The commands that work on SavedModels."""

import typer

from graftwork.cli.groups import add_commands
from graftwork.recipe.savedmodel import SAVEDMODEL_STEPS

app = typer.Typer(
    name="savedmodel",
    help="SavedModels: bridged into Keras models, lifted, chained, combined.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
add_commands(app, SAVEDMODEL_STEPS, "savedmodel_")

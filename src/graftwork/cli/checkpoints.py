"""The commands that make checkpoints of checkpoints."""

import typer

from graftwork.cli.groups import add_commands
from graftwork.recipe.checkpoints import CHECKPOINT_STEPS

app = typer.Typer(
    name="ckpt",
    help="Checkpoints: united, averaged, assigned from others, renamed, cut down.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
add_commands(app, CHECKPOINT_STEPS, "ckpt_")

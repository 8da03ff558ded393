"""The option that names the user's own Python: layers and functions that models refer to and Keras does not know."""

from typing import Annotated

import typer

OPTION = typer.Option(
    "--custom-objects",
    metavar="FILE.py|MODULE",
    help="Python that defines layers or functions of your own which the models use; naming it runs it. Repeat for more.",
    show_default=False,
)

CustomObjects = Annotated[list[str] | None, OPTION]
"""The annotation of a command's parameter `custom_objects`."""

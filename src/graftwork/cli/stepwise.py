"""Groups of commands of which those of steps are made when one is wanted that is no other, so that a listing is quick."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup


def commands_of(module: str, steps: str, prefix: str) -> type[TyperGroup]:
    """Return the class of a group.

    Args:
        module: Where the steps are declared.
        steps: The name of the mapping that lists them there.
        prefix: What all of their words begin with: ``ckpt_``.
    """

    class Commands(TyperGroup):
        def _load_steps(self) -> None:
            from graftwork.cli.groups import add_commands

            made = typer.Typer(add_completion=False, rich_markup_mode=None)
            add_commands(made, getattr(importlib.import_module(module), steps), prefix)
            if made.registered_commands:
                made.callback()(lambda: None)  # else a group of one command is that command
                self.commands.update(typer.main.get_group(made).commands)

        def list_commands(self, ctx: Any) -> list[str]:
            """Return the names of all commands."""
            self._load_steps()
            return super().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """Return a command by its name."""
            if cmd_name not in self.commands:
                self._load_steps()
            return super().get_command(ctx, cmd_name)

    return Commands

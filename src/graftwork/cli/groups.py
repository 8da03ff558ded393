"""Groups of commands, `graftwork ckpt …` and `graftwork savedmodel …`: one for each step that declares its options."""

import inspect
import typing
from collections.abc import Mapping
from typing import Any

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand

from graftwork.cli.custom import OPTION
from graftwork.cli.fields import asked, command, is_word, option, parameter, value_of, written
from graftwork.cli.sizes import size_of
from graftwork.cli.terminal import making, refusing, show
from graftwork.recipe.declared import DeclaredStep


def add_commands(app: typer.Typer, steps: Mapping[str, type[DeclaredStep]], prefix: str) -> None:
    """Add a command for each step to a group.

    Args:
        app: The group.
        steps: The steps by their words.
        prefix: What all of their words begin with: ``ckpt_``.
    """
    for kind, step in steps.items():
        app.command(kind.removeprefix(prefix).replace("_", "-"), cls=Command)(_command(kind, step))


RULED = "MODEL [RULE]…"
"""What the help shows behind an option that takes a model and rules for it."""


class Command(TyperCommand):
    """A command some of whose options take a model and any number of rules: ``--from A 'old=new' 'scope/=other/' --from B``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join each such option's words into one, which parsers know what to do with."""
        ruled = {word for p in self.params if p.metavar == RULED for word in p.opts}
        joined: list[str] = []
        k = 0
        while k < len(args):
            joined.append(args[k])
            k += 1
            if joined[-1] in ruled and k < len(args):
                end = k + 1
                while end < len(args) and "=" in args[end] and not args[end].startswith("-"):
                    end += 1
                joined.append("\n".join(args[k:end]))
                k = end
        return super().parse_args(ctx, joined)


def _ruled(given: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the rules of each model; see `Command`."""
    found: dict[str, tuple[str, ...]] = {}
    for text in given:
        model, *rules = text.split("\n")
        found[model] = (*found.get(model, ()), *rules)
    return found


def _command(kind: str, step: type[DeclaredStep]) -> Any:
    def run(**given: Any) -> None:
        from graftwork.api import steps as api
        from graftwork.report import render

        sources = {name: given[name] for name in (*step.takes, *step.paths)}
        sources |= {name: _ruled(sources[name]) for name in step.takes if _is_mapping(step.model_fields[name])}
        options = {
            name: value_of(field, given[name])
            for name, field in step.choices().items()
            if given.get(name) not in (None, [])
        }
        wanted: dict[str, Any] = {
            "names": given["names"].split(",") if given["names"] else None,
            "format": given["format_"],
            "overwrite": given["overwrite"],
            "threads": given["threads"],
            "shard_bytes": size_of(given["shard_size"]),
            "custom_objects": given.get("custom_objects"),
        }
        with refusing():
            if given["dry_run"]:
                report = api.foresee(kind, sources, options, {**wanted, "output": given["output"]})
                show(report, given["as_json"], render.report)
                return
            if given["output"] is None:
                raise typer.BadParameter("say where to write the result", param_hint="-o / --output")
            with making(quiet=given["quiet"], as_json=given["as_json"], tables=True) as told:
                api.perform(kind, sources, options, {**wanted, "output": given["output"], **told})

    parameters = [
        *_arguments(step),
        *(
            option(name, field, step.flags.get(name, ()))
            for name, field in step.choices().items()
            if name not in step.arguments
        ),
        *([parameter("custom_objects", list[str] | None, OPTION, None)] if step.loads else []),
        *_common(),
    ]
    return command(run, kind, step.__doc__ or "", parameters)


def _arguments(step: type[DeclaredStep]) -> list[inspect.Parameter]:
    found = []
    for name in (*step.takes, *step.paths, *step.arguments):
        field = step.model_fields[name]
        many = not is_word(field.annotation)
        text = " ".join((field.description or "").replace("``", "").replace("`", "").split())
        info = typer.Argument(help=text, show_default=False)
        if not field.is_required():
            there = name in step.arguments
            found.append(
                parameter(name, list[str] | None, info, None)
                if there
                else option(name, field, step.flags.get(name, ()))
            )
            continue
        if _is_mapping(field):
            info = typer.Option(*step.flags[name], help=text, metavar=RULED, show_default=False)
        found.append(parameter(name, list[str] if many else str, info))
    return found


def _is_mapping(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is Mapping


def _common() -> list[inspect.Parameter]:
    return [
        *written(),
        parameter(
            "names",
            str | None,
            typer.Option(
                "--names", help="What the sources are called: a,b,c; by default their files' names.", show_default=False
            ),
            None,
        ),
        parameter(
            "shard_size",
            str | None,
            typer.Option("--shard-size", help="Greatest size of a data file or shard: 500MB, 5GB.", show_default=False),
            None,
        ),
        parameter(
            "threads",
            int | None,
            typer.Option("--threads", min=1, help="Threads; by default one per processor.", show_default=False),
            None,
        ),
        *asked(),
    ]

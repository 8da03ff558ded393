"""Options of commands, made of the fields that declare a verb: their words, their help, and what their texts say."""

import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic.fields import FieldInfo

from graftwork.cli.values import columns, pairs, value
from graftwork.data.description import Columns

_ALIASES = {"head": ("--head", "--units")}
"""Options that have a second name; a head that is a number is its units."""


def parameter(name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    """Return a parameter of a command."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


def command(run: Any, kind: str, about: str, parameters: Sequence[inspect.Parameter]) -> Any:
    """Return a function that takes anything as the function of a command: what it is called, its help, and its parameters."""
    run.__name__ = kind
    run.__doc__ = inspect.cleandoc(about).replace("``", "").replace("`", "")
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def option(name: str, field: FieldInfo, words: tuple[str, ...] = (), *, optional: bool = False) -> inspect.Parameter:
    """Return the option of a field; `words` are its names where these are not the field's.

    It is `optional` where the command line can say in another way what the field has to have.
    """
    words = words or _ALIASES.get(name, (f"--{name.rstrip('_').replace('_', '-')}",))
    text = " ".join((field.description or "").replace("``", "").replace("`", "").split())
    if field.annotation is bool:
        flag = words if not field.default else (f"{words[0]}/--no-{words[0][2:]}",)
        return parameter(name, bool, typer.Option(*flag, help=text), bool(field.default))
    if field.annotation == bool | None:
        flag = (f"{words[0]}/--no-{words[0][2:]}",)
        return parameter(name, bool | None, typer.Option(*flag, help=text, show_default=False), None)
    shown = field.get_default(call_default_factory=True) if not field.is_required() else None
    if shown not in (None, "", [], (), {}):
        text += f" [default: {shown}]"
    info = typer.Option(*words, help=text, metavar=f"<{taken(field.annotation)}>", show_default=False)
    kind: Any = str if is_word(field.annotation) else list[str]
    return (
        parameter(name, kind, info)
        if field.is_required() and not optional
        else parameter(name, kind | None, info, None)
    )


def taken(annotation: Any) -> str:
    """Return what an option of a type takes, as the help shows it: ``int``, ``float|auto``, ``list[str]``, ``name=str``, or ``value``."""
    return "|".join(dict.fromkeys(_kinds(annotation))) or "value"


def _kinds(annotation: Any) -> Iterator[str]:
    """Yield what a type is called, each part of a union by itself."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for part in arguments:
            yield from _kinds(part)
    elif origin is Annotated:
        yield from _kinds(arguments[0])
    elif origin is Literal:
        yield from map(str, arguments)
    elif annotation is bool:
        yield from ("true", "false")
    elif annotation in (str, int, float):
        yield annotation.__name__
    elif origin in (list, tuple, Sequence):
        yield f"list[{taken(arguments[0])}]"
    elif origin in (Mapping, dict):
        yield f"name={arguments[1].__name__}" if arguments[1] in (str, int, float) else "name=value"
    elif annotation is not types.NoneType:
        yield "value"


def is_word(annotation: Any) -> bool:
    """Return whether an option is a text as it stands."""
    parts = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    parts = tuple(part.__origin__ if typing.get_origin(part) is Annotated else part for part in parts)
    return all(part in (str, type(None)) or typing.get_origin(part) is Literal for part in parts)


def value_of(field: FieldInfo, given: Any) -> Any:
    """Return what the texts of an option say: one value, a list of them, or a mapping, each NAME=VALUE or all of it as in YAML."""
    if isinstance(given, bool) or is_word(field.annotation):
        return given
    if field.annotation == Columns | None:
        return columns(given)
    if typing.get_origin(field.annotation) is tuple and typing.get_args(field.annotation)[0] is str:
        return tuple(given)
    in_yaml = given[0].startswith(("[", "{"))
    if typing.get_origin(field.annotation) is Mapping and typing.get_args(field.annotation)[1] is str and not in_yaml:
        return pairs(given, last=True)
    if all("=" in text and not text.startswith(("=", "[", "{")) for text in given):
        return {key: plain(said) for key, said in pairs(given).items()}
    values = [plain(text) for text in given]
    alone = len(values) == 1 and (isinstance(values[0], list) or not _is_list(field.annotation))
    return values[0] if alone else values


def _is_list(annotation: Any) -> bool:
    """Return whether an option takes nothing but a list."""
    parts = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    return all(typing.get_origin(part) in (list, tuple, Sequence) or part is types.NoneType for part in parts)


def plain(text: str) -> Any:
    """Return a number, true, false, null, a list (also ``a,b``) or a mapping; every other text as it stands."""
    if text.startswith(("[", "{")):
        return value(text)
    if "," in text:
        return [plain(part.strip()) for part in text.split(",")]
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def written() -> list[inspect.Parameter]:
    """Return the options of every generated command that say where and how its result is written."""
    return [
        parameter(
            "output",
            Path | None,
            typer.Option("-o", "--output", help="Where to write; the ending says the format.", show_default=False),
            None,
        ),
        parameter(
            "format_",
            str | None,
            typer.Option("--format", help="Format of the output, where its ending does not tell.", show_default=False),
            None,
        ),
    ]


def asked() -> list[inspect.Parameter]:
    """Return the options of every generated command that say how it goes about its work."""
    return [
        parameter("overwrite", bool, typer.Option("--overwrite", help="Replace an existing output."), False),
        parameter("dry_run", bool, typer.Option("--dry-run", help="Say what would be made, and make nothing."), False),
        parameter("as_json", bool, typer.Option("--json", help="Print JSON for machines."), False),
        parameter("quiet", bool, typer.Option("--quiet", "-q", help="Print results and errors only."), False),
    ]

"""The commands that compose graphs: one for each verb, whose options are the verb's fields."""

import inspect
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import yaml
from pydantic.fields import FieldInfo

from graftwork.cli.terminal import print_json, progress, refusing, say
from graftwork.compose import VERBS, Verb

_ALIASES = {"head": ("--head", "--units")}
"""Options that have a second name; a head that is a number is its units."""


def commands(tell: Any) -> dict[str, Any]:
    """Return a command for each verb, by its name.

    Args:
        tell: Prints what a command made.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    for kind, verb in VERBS.items():
        app.command(command_name(kind))(_command(kind, verb, tell))
    app.command()(export)
    app.command()(draw)
    return dict(typer.main.get_group(app).commands)


def command_name(kind: str) -> str:
    """Return what a verb's command is called."""
    return kind.replace("_", "-")


def _command(kind: str, verb: type[Verb], tell: Any) -> Any:
    def run(**given: Any) -> None:
        from graftwork import api
        from graftwork.report import render

        models = [m for name in verb.takes for m in (given[name] if name == "models" else [given[name]])]
        options = {
            name: _value(field, given[name])
            for name, field in verb.model_fields.items()
            if given.get(name) not in (None, [])
        }
        if "taps" in verb.model_fields and "taps" not in options:
            models, options["taps"] = _tapped(models)
        wanted: dict[str, Any] = {
            "names": given["names"].split(",") if given["names"] else None,
            "format": given["format_"],
            "overwrite": given["overwrite"],
            "export": given["export"],
        }
        with refusing():
            if given["dry_run"]:
                report = api.check(kind, models, output=given["output"], **options, **wanted)
                print_json(report.to_dict()) if given["as_json"] else render.composition(report)
                return
            if given["output"] is None:
                raise typer.BadParameter("say where to write the result", param_hint="-o / --output")
            results: list[Any] = []
            with progress(given["quiet"]) as told:
                api.make(
                    kind,
                    models,
                    output=given["output"],
                    check=given["check"],
                    progress=told,
                    on_result=results.append,
                    **options,
                    **wanted,
                )
            tell(results[0], quiet=given["quiet"], as_json=given["as_json"])

    parameters = [*_arguments(verb), *(_option(name, field) for name, field in verb.model_fields.items()), *_common()]
    run.__name__ = kind
    run.__doc__ = inspect.cleandoc(verb.__doc__ or "").replace("``", "").replace("`", "")
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _arguments(verb: type[Verb]) -> list[inspect.Parameter]:
    found = []
    for name in verb.takes:
        many = name == "models"
        tapped = many and "taps" in verb.model_fields
        text = "Model files or directories" + (
            ", each with the layer whose output is taken: MODEL:LAYER." if tapped else ", in order."
        )
        found.append(
            _parameter(
                name,
                list[str] if many else str,
                typer.Argument(
                    metavar="MODEL:LAYER …" if tapped else None,
                    help=text if many else "A model file or directory.",
                    show_default=False,
                ),
            )
        )
    return found


def _parameter(name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    words = _ALIASES.get(name, (f"--{name.rstrip('_').replace('_', '-')}",))
    text = " ".join((field.description or "").replace("``", "").replace("`", "").split())
    if field.annotation is bool:
        flag = words if not field.default else (f"{words[0]}/--no-{words[0][2:]}",)
        return _parameter(name, bool, typer.Option(*flag, help=text), bool(field.default))
    shown = field.get_default(call_default_factory=True) if not field.is_required() else None
    if shown not in (None, "", [], (), {}):
        text += f" [default: {shown}]"
    if _is_word(field.annotation):
        return _parameter(name, str | None, typer.Option(*words, help=text, show_default=False), None)
    return _parameter(name, list[str] | None, typer.Option(*words, help=text, show_default=False), None)


def _common() -> list[inspect.Parameter]:
    return [
        _parameter(
            "output",
            Path | None,
            typer.Option("-o", "--output", help="Where to write; the ending says the format.", show_default=False),
            None,
        ),
        _parameter(
            "names",
            str | None,
            typer.Option(
                "--names", help="What the models are called: a,b,c; by default their files' names.", show_default=False
            ),
            None,
        ),
        _parameter(
            "export",
            str | None,
            typer.Option(
                "--export",
                help="Also write it for another runtime, beside the output: saved_model, onnx or litert.",
                show_default=False,
            ),
            None,
        ),
        _parameter(
            "check",
            bool,
            typer.Option("--check/--no-check", help="Load the result in a fresh process and compare."),
            True,
        ),
        _parameter(
            "format_",
            str | None,
            typer.Option("--format", help="Format of the output, where its ending does not tell.", show_default=False),
            None,
        ),
        _parameter("overwrite", bool, typer.Option("--overwrite", help="Replace an existing output."), False),
        _parameter("dry_run", bool, typer.Option("--dry-run", help="Say what would be made, and make nothing."), False),
        _parameter("as_json", bool, typer.Option("--json", help="Print JSON for machines."), False),
        _parameter("quiet", bool, typer.Option("--quiet", "-q", help="Print results and errors only."), False),
    ]


def _is_word(annotation: Any) -> bool:
    """Return whether an option is a text as it stands."""
    parts = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
        else (annotation,)
    )
    return all(part in (str, type(None)) or typing.get_origin(part) is Literal for part in parts)


def _value(field: FieldInfo, given: Any) -> Any:
    """Return what an option's texts say: one value, a list of them, or a mapping where each is NAME=VALUE."""
    if isinstance(given, bool) or _is_word(field.annotation):
        return given
    pairs = [text.partition("=") for text in given]
    if all(equals and not name.startswith(("[", "{")) for name, equals, _ in pairs):
        return {name.strip(): _plain(value.strip()) for name, _, value in pairs}
    values = [_plain(text) for text in given]
    return values[0] if len(values) == 1 else values


def _plain(text: str) -> Any:
    """Return a number, true, false, null, a list (also ``a,b``) or a mapping; every other text as it stands."""
    if text.startswith(("[", "{")):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            raise typer.BadParameter(f"{text!r} is not a value") from None
    if "," in text:
        return [_plain(part.strip()) for part in text.split(",")]
    if text in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _tapped(models: list[str]) -> tuple[list[str], list[Any]]:
    """Return the models and the layers of ``MODEL:LAYER``."""
    found = [text.rpartition(":") for text in models]
    for text, (model, _, layer) in zip(models, found, strict=True):
        if not model or not layer:
            raise typer.BadParameter(f"{text!r} names no layer; write MODEL:LAYER", param_hint="MODEL:LAYER")
    return [model for model, _, _ in found], [_plain(layer) for _, _, layer in found]


def export(
    model: Annotated[Path, typer.Argument(help="A Keras model.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The directory of a SavedModel, or a file .onnx or .tflite.", show_default=False
        ),
    ],
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="saved_model, onnx or litert; by default as the ending of the output says.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
) -> None:
    """Write MODEL for another runtime, run it there, and compare.

    What the export gives on random inputs must be what the model gives; else nothing is written.
    """
    from graftwork import api

    with refusing():
        endings = {".onnx": "onnx", ".tflite": "litert"}
        found = api.export(
            model, output, format=format_ or endings.get(output.suffix, "saved_model"), overwrite=overwrite
        )
        if as_json:
            print_json(
                {
                    "path": str(found.path),
                    "format": found.format,
                    "inputs": dict(found.inputs),
                    "outputs": list(found.outputs),
                    "difference": found.difference.relative,
                    "tolerance": found.tolerance,
                    "notes": list(found.notes),
                }
            )
            return
        say(quiet, f"note: {found}")
        typer.echo(str(found.path))


def draw(
    model: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Where to write: a file that ends in .svg.", show_default=False)
    ],
    collapse: Annotated[
        list[str] | None,
        typer.Option(
            "--collapse", help="Path of a model inside that stays one box; repeat for more.", show_default=False
        ),
    ] = None,
    expand: Annotated[
        list[str] | None,
        typer.Option("--expand", help="Path of a layer or model inside that is opened.", show_default=False),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=0, help="How many levels of models in models are opened.")] = 1,
    boxes: Annotated[
        int, typer.Option("--boxes", min=0, help="How many boxes are enough to make layers share them; 0 for one each.")
    ] = 30,
    direction: Annotated[Literal["down", "right"], typer.Option("--direction", help="Where it runs.")] = "down",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing drawing.")] = False,
) -> None:
    """Draw MODEL's graph as SVG.

    Members are clusters, shapes stand on the lines, frozen parts are shaded. Only the configuration is read.
    """
    from graftwork import api

    with refusing():
        path = api.draw(
            model,
            output,
            collapse=tuple(collapse or ()),
            expand=tuple(expand) if expand else None,
            depth=depth,
            boxes=boxes or None,
            direction=direction,
            overwrite=overwrite,
        )
        typer.echo(str(path))

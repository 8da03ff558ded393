"""The commands that compose graphs: one for each verb, whose options are the verb's fields."""

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from graftwork.cli.custom import OPTION, CustomObjects
from graftwork.cli.fields import asked, command, option, parameter, plain, value_of, written
from graftwork.cli.judging import evaluate
from graftwork.cli.terminal import making, print_json, printing, refusing, say, show
from graftwork.training.verbs import VERBS, Verb


def commands() -> dict[str, Any]:
    """Return a command for each verb, and those that look at what verbs make, by their names."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    for kind, verb in VERBS.items():
        app.command(command_name(kind))(_command(kind, verb))
    app.command()(export)
    app.command()(draw)
    app.command()(evaluate)
    return dict(typer.main.get_group(app).commands)


def command_name(kind: str) -> str:
    """Return what a verb's command is called."""
    return kind.replace("_", "-")


def _command(kind: str, verb: type[Verb]) -> Any:
    def run(**given: Any) -> None:
        from graftwork import api
        from graftwork.report import render

        models: Any = {name: given[name] for name in verb.takes}
        options = {
            name: value_of(field, given[name])
            for name, field in verb.model_fields.items()
            if given.get(name) not in (None, [])
        }
        if "taps" in verb.model_fields and "taps" not in options:
            models["models"], options["taps"] = _tapped(models["models"])
        wanted: dict[str, Any] = {
            "names": given["names"].split(",") if given["names"] else None,
            "format": given["format_"],
            "overwrite": given["overwrite"],
            "export": given["export"],
            "custom_objects": given["custom_objects"],
        }
        for name in verb.flags:
            if name in verb.lists and not given[name]:
                raise typer.BadParameter("give one at least", param_hint=" / ".join(reversed(verb.flags[name])))
        with refusing():
            if given["dry_run"]:
                report = api.check(kind, models, output=given["output"], **options, **wanted)
                show(report, given["as_json"], render.composition)
                return
            if given["output"] is None:
                raise typer.BadParameter("say where to write the result", param_hint="-o / --output")
            with making(quiet=given["quiet"], as_json=given["as_json"], tables=bool(verb.fed)) as told:
                api.make(
                    kind,
                    models,
                    output=given["output"],
                    check=given["check"],
                    **options,
                    **wanted,
                    **told,
                )

    options = (option(name, field, optional=name == "taps") for name, field in verb.model_fields.items())
    parameters = [*_arguments(verb), *options, *_common()]
    return command(run, kind, verb.__doc__ or "", parameters)


def _arguments(verb: type[Verb]) -> list[inspect.Parameter]:
    found = []
    for name in verb.takes:
        many = name in verb.lists
        tapped = many and "taps" in verb.model_fields
        if name in verb.flags:
            text = f"The {name}: a model file or directory" + ("; repeat for more." if many else ".")
            kind, info = (list[str] | None, None) if many else (str | None, None)
            found.append(parameter(name, kind, typer.Option(*verb.flags[name], help=text, show_default=False), info))
            continue
        text = "Model files or directories" + (
            ", each with the layer whose output is taken: MODEL:LAYER." if tapped else ", in order."
        )
        found.append(
            parameter(
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


def _common() -> list[inspect.Parameter]:
    return [
        *written(),
        parameter(
            "names",
            str | None,
            typer.Option(
                "--names", help="What the models are called: a,b,c; by default their files' names.", show_default=False
            ),
            None,
        ),
        parameter(
            "export",
            str | None,
            typer.Option(
                "--export",
                help="Also write it for another runtime, beside the output: saved_model, onnx or litert.",
                show_default=False,
            ),
            None,
        ),
        parameter("custom_objects", list[str] | None, OPTION, None),
        parameter(
            "check",
            bool,
            typer.Option("--check/--no-check", help="Load the result in a fresh process and compare."),
            True,
        ),
        *asked(),
    ]


def _tapped(models: list[str]) -> tuple[list[str], list[Any]]:
    """Return the models and the layers of ``MODEL:LAYER``."""
    found = [text.rpartition(":") for text in models]
    for text, (model, _, layer) in zip(models, found, strict=True):
        if not model or not layer:
            raise typer.BadParameter(
                f"{text!r} names no layer; write MODEL:LAYER, or give --taps", param_hint="MODEL:LAYER"
            )
    return [model for model, _, _ in found], [plain(layer) for _, _, layer in found]


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
    custom_objects: CustomObjects = None,
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
            model,
            output,
            format=format_ or endings.get(output.suffix, "saved_model"),
            overwrite=overwrite,
            custom_objects=custom_objects,
        )
        told = {
            "path": str(found.path),
            "format": found.format,
            "inputs": dict(found.inputs),
            "outputs": list(found.outputs),
            "difference": found.difference.relative,
            "tolerance": found.tolerance,
            "notes": list(found.notes),
        }
        say(quiet or as_json, f"note: {found}")
        with printing(found.path):
            print_json(told) if as_json else typer.echo(str(found.path))


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
        typer.Option(
            "--expand", help="Path of a layer or model inside that is opened; repeat for more.", show_default=False
        ),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=0, help="How many levels of models in models are opened.")] = 1,
    boxes: Annotated[
        int, typer.Option("--boxes", min=0, help="How many boxes are enough to make layers share them; 0 for one each.")
    ] = 30,
    direction: Annotated[Literal["down", "right"], typer.Option("--direction", help="Where it runs.")] = "down",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing drawing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
) -> None:
    """Draw MODEL's graph as SVG.

    Members are clusters, shapes stand on the lines, frozen parts are shaded. Only the configuration is read.
    """
    from graftwork import api

    with refusing():
        notes: list[str] = []
        path = api.draw(
            model,
            output,
            collapse=tuple(collapse or ()),
            expand=tuple(expand) if expand else None,
            depth=depth,
            boxes=boxes or None,
            direction=direction,
            overwrite=overwrite,
            report=notes,
        )
        say(quiet, *(f"note: {note}" for note in notes))
        with printing(path):
            typer.echo(str(path))

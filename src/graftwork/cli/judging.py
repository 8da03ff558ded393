"""The command that says how good models are."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.custom import CustomObjects
from graftwork.cli.options import InputColumns, LabelColumn, Names
from graftwork.cli.terminal import print_json, printing, progress, refusing, say
from graftwork.cli.values import columns, pairs


def evaluate(
    models: Annotated[
        list[Path], typer.Argument(help="Models in any format that loads, SavedModels too.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            help="Samples with labels: a file, a directory of images, or a description in YAML.",
            show_default=False,
        ),
    ],
    x: InputColumns = None,
    y: LabelColumn = None,
    names: Names = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            "--outputs",
            help="What models give where their last operation does not tell: a kind for all, or MODEL=KIND; repeat for more.",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--classes",
            help="MODEL=cat,dog,…: its classes in the order of its outputs; repeat for more.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", help="OUTPUT=COLUMN: where its labels are; repeat for more.", show_default=False),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="k of the top-k accuracy.")] = 5,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples dealt with at a time.")] = 32,
    bins: Annotated[
        int, typer.Option("--bins", min=1, help="Bins of confidence that calibration is measured in.")
    ] = 15,
    timed: Annotated[bool, typer.Option("--timed/--no-timed", help="Measure how long models take.")] = True,
    device: Annotated[
        str | None,
        typer.Option("--device", help="Where models run: cpu, gpu:1; by default where Keras does.", show_default=False),
    ] = None,
    custom_objects: CustomObjects = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Print a table of classes as well.")] = False,
    confusion: Annotated[
        Path | None,
        typer.Option(
            "--confusion", help="Draw the confusion matrix of each model: a .svg or .png file.", show_default=False
        ),
    ] = None,
    reliability: Annotated[
        Path | None,
        typer.Option("--reliability", help="Draw reliability curves: a .svg or .png file.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the figures to a .json file.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
) -> None:
    """Say how good MODELS are on data.

    Accuracy, top-k, log loss, F1, AUC or errors as their outputs ask for, calibration, each class, agreement, time and size.
    """
    from graftwork import api
    from graftwork.report import plots, render

    outputs = outputs or ["auto"]
    for_all = len(outputs) == 1 and "=" not in outputs[0]
    with refusing():
        with progress(quiet) as told:
            found = api.evaluate(
                models,
                data,
                output=output,
                names=names.split(",") if names else None,
                x=columns(x or ()),
                y=y,
                outputs=outputs[0] if for_all else pairs(outputs, "--outputs"),
                classes={name: text.split(",") for name, text in pairs(classes or (), "--classes").items()} or None,
                labels=pairs(labels or (), "--labels") or None,
                top=top,
                batch=batch,
                bins=bins,
                timed=timed,
                device=device,
                custom_objects=custom_objects,
                overwrite=overwrite,
                progress=told,
            )
        for draw, path in ((plots.confusion, confusion), (plots.reliability, reliability)):
            if path is not None:
                notes: list[str] = []
                drawn = draw(found, path, overwrite=overwrite, report=notes)
                say(quiet, *(f"note: {note}" for note in (drawn, *notes)))
        with printing(*filter(None, (output, confusion, reliability))):
            print_json(found.to_dict()) if as_json else render.evaluation(found, per_class=per_class)

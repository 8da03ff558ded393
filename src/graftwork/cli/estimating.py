"""The commands that estimate on data what merge methods weigh by."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.custom import CustomObjects
from graftwork.cli.options import InputColumns, Json, LabelColumn, Overwrite, Quiet, Seed
from graftwork.cli.terminal import making, refusing
from graftwork.cli.values import columns

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Samples: a file, a directory of images, or a description in YAML.", show_default=False
    ),
]
EstimateOutput = Annotated[
    Path, typer.Option("-o", "--output", help="Where to write: a .safetensors file.", show_default=False)
]
SampleCount = Annotated[
    int | None, typer.Option("--samples", min=1, help="Use the first so many samples.", show_default=False)
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Samples dealt with at a time.")]


@app.command()
def fisher(
    model: Annotated[Path, typer.Argument(help="A Keras model.", show_default=False)],
    data: Data,
    output: EstimateOutput,
    labels: Annotated[
        str,
        typer.Option(
            "--labels", help="Whose labels: all that the model can say, sampled from it, or those of the data."
        ),
    ] = "model",
    outputs: Annotated[
        str,
        typer.Option("--outputs", help="What it puts out: auto, probabilities, logits, sigmoid or regression."),
    ] = "auto",
    samples: SampleCount = None,
    batch: Batch = 32,
    seed: Seed = 0,
    x: InputColumns = None,
    y: LabelColumn = None,
    custom_objects: CustomObjects = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate MODEL's Fisher information on data.

    For each weight, how much what the model says changes with it: what the merge method `fisher` weighs models by.
    """
    from graftwork import api

    with refusing(), making(quiet=quiet, as_json=as_json) as told:
        api.fisher(
            model,
            data,
            output=output,
            labels=labels,
            outputs=outputs,
            samples=samples,
            batch=batch,
            seed=seed,
            x=columns(x or ()),
            y=y,
            custom_objects=custom_objects,
            overwrite=overwrite,
            **told,
        )


@app.command()
def gram(
    model: Annotated[Path, typer.Argument(help="A Keras model.", show_default=False)],
    data: Data,
    output: EstimateOutput,
    samples: SampleCount = None,
    batch: Batch = 32,
    max_inputs: Annotated[int, typer.Option("--max-inputs", min=1, help="Layers of more inputs get none.")] = 8192,
    x: InputColumns = None,
    y: LabelColumn = None,
    custom_objects: CustomObjects = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute Gram matrices of the inputs of MODEL's layers on data.

    Which inputs of a dense layer or a convolution occur together: what the merge method `regmean` solves for.
    """
    from graftwork import api

    with refusing(), making(quiet=quiet, as_json=as_json) as told:
        api.gram(
            model,
            data,
            output=output,
            samples=samples,
            batch=batch,
            max_inputs=max_inputs,
            x=columns(x or ()),
            y=y,
            custom_objects=custom_objects,
            overwrite=overwrite,
            **told,
        )

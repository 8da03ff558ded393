"""The command that makes a model of layers of others."""

import re
from typing import Annotated

import typer

from graftwork.cli.custom import CustomObjects
from graftwork.cli.options import AllowNonfinite, Dtype, Format, Json, Output, Overwrite, Quiet, ShardSize, Threads
from graftwork.cli.sizes import size_of
from graftwork.cli.terminal import making, refusing

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def assemble(
    layers: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL:FIRST-END …",
            help="Runs of layers in the order of the result. Layers count from 0, END is not in the run: M:0-16 takes the first 16; "
            "M:0-16*0.5 multiplies them with 0.5.",
            show_default=False,
        ),
    ],
    output: Output,
    block: Annotated[
        str | None,
        typer.Option(
            "--block",
            help="For Keras models: the blocks meant hold a layer whose name this glob matches; by default those of the longest run.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            help="A field of config.json, or of layers' settings, that may differ; repeat for more.",
            show_default=False,
        ),
    ] = None,
    allow_nonfinite: AllowNonfinite = False,
    format_: Format = None,
    shard_size: ShardSize = None,
    threads: Threads = None,
    custom_objects: CustomObjects = None,
    overwrite: Overwrite = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load a Keras model in a fresh process and compare.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a model of layers of others.

    Embeddings come from the first run's model, norms and heads behind the layers from the last run's. Models are Hugging Face
    directories or safetensors files with numbered layers (config.json follows), or Keras models with repeated blocks.
    """
    from graftwork import api

    with refusing(), making(quiet=quiet, as_json=as_json) as told:
        api.assemble(
            [_layers(text) for text in layers],
            output=output,
            block=block,
            check=check,
            dtype=dtype,
            ignore=tuple(ignore or ()),
            allow_nonfinite=allow_nonfinite,
            format=format_,
            shard_bytes=size_of(shard_size),
            threads=threads,
            custom_objects=custom_objects,
            overwrite=overwrite,
            **told,
        )


def _layers(text: str) -> tuple[str, int, int, float]:
    """Return a run of layers such as MODEL:0-16 or MODEL:0-16*0.5."""
    found = re.fullmatch(r"(.+):(\d{1,6})-(\d{1,6})(?:\*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?))?", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no run of layers such as MODEL:0-16 or MODEL:0-16*0.5", param_hint="MODEL:FIRST-END"
        )
    return found[1], int(found[2]), int(found[3]), float(found[4] or 1)

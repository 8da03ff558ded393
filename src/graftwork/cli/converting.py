"""The commands that write a model in another form: another format, or what it has learnt as an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from graftwork.cli.options import DropCompile, Dtype, Format, Json, Overwrite, Quiet, ShardSize, Threads
from graftwork.cli.sizes import size_of
from graftwork.cli.terminal import print_json, printing, progress, refusing, say, tell

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Where to write; the ending says the format.", show_default=False)],
    like: Annotated[
        Path | None, typer.Option("--like", help="A model that lends what SOURCE does not hold.", show_default=False)
    ] = None,
    dtype: Dtype = None,
    format_: Format = None,
    drop_compile: DropCompile = False,
    shard_size: ShardSize = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write SOURCE in another format.

    What that format cannot carry is said.
    """
    from graftwork import api

    with refusing():
        with progress(quiet) as told:
            result = api.convert(
                source,
                target,
                like=like,
                dtype=dtype,
                format=format_,
                drop_compile=drop_compile,
                shard_bytes=size_of(shard_size),
                threads=threads,
                overwrite=overwrite,
                progress=told,
            )
        tell(result, quiet=quiet, as_json=as_json)


@app.command("extract-lora")
def extract_lora(
    model: Annotated[Path, typer.Argument(help="The fine-tuned model.", show_default=False)],
    base: Annotated[Path, typer.Option("--base", help="The model that it was fine-tuned from.", show_default=False)],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Directory of the adapter that is written.", show_default=False)
    ],
    rank: Annotated[int, typer.Option("--rank", min=1, help="Greatest rank of a tensor's two factors.")] = 16,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", help="Glob of tensors that may get factors; repeat for more.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", help="Glob of tensors that get none; repeat for more.", show_default=False),
    ] = None,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Embeddings get factors too.")] = False,
    save_rest: Annotated[
        bool, typer.Option("--save-rest", help="Save what differs and gets no factors (norms, biases) whole.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write what MODEL has learnt since BASE as a LoRA adapter.

    PEFT loads it; BASE+ADAPTER is a source like any other. What is lost is said.
    """
    from graftwork import api
    from graftwork.report import render

    with refusing():
        with progress(quiet) as told:
            found = api.extract_lora(
                model,
                base=base,
                output=output,
                rank=rank,
                include=tuple(include or ()),
                exclude=tuple(exclude or ()),
                embeddings=embeddings,
                save_rest=save_rest,
                overwrite=overwrite,
                progress=told,
            )
        say(quiet or as_json, *(f"note: {note}" for note in found.notes))
        with printing(output):
            print_json(found.to_dict()) if as_json else render.extraction(found, tensors=tensors)

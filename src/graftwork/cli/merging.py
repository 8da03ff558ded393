"""The commands that merge weights: at once, as a recipe says, or as a plan that nothing comes of."""

from pathlib import Path
from typing import Annotated, Any

import typer

from graftwork.cli.options import (
    AllowNonfinite,
    DropCompile,
    Dtype,
    Format,
    Json,
    Names,
    Output,
    Overwrite,
    Quiet,
    Seed,
    ShardSize,
    Threads,
)
from graftwork.cli.sizes import size_of
from graftwork.cli.terminal import as_plain, making, print_json, printing, progress, refusing, say
from graftwork.cli.values import pairs, value

app = typer.Typer(add_completion=False, rich_markup_mode=None)

Models = Annotated[
    list[Path],
    typer.Argument(help="Model files or directories; the first lends architecture and names.", show_default=False),
]
MaybeOutput = Annotated[Path | None, typer.Option("-o", "--output", help="Where to write.", show_default=False)]
Method = Annotated[str, typer.Option("--method", "-m", help="Merge method; see `graftwork methods`.")]
BaseModel = Annotated[
    Path | None,
    typer.Option("--base", help="Their common ancestor, for methods that work on differences.", show_default=False),
]
Weights = Annotated[
    str | None, typer.Option("--weights", help="One weight per model: 0.5,0.3,0.2.", show_default=False)
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="An option of the method, name=value (value as in YAML); repeat for more.", show_default=False
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        help="REGEX=NAME: names of tensors of the other models, and in the first; repeat for more.",
        show_default=False,
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Glob of tensors to keep from the first model; repeat for more.", show_default=False),
]
Ignore = Annotated[
    list[str] | None,
    typer.Option("--ignore", help="A layer setting that may differ; repeat for more.", show_default=False),
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--classes", help="Class names of each model in order: cat,dog,…; once per model.", show_default=False
    ),
]
Optimizer = Annotated[
    str, typer.Option("--optimizer", help="drop the optimizer state, or keep that of the first or the last model.")
]


@app.command()
def merge(
    models: Models,
    output: Output,
    method: Method = "linear",
    base: BaseModel = None,
    weights: Weights = None,
    names: Names = None,
    settings: Settings = None,
    seed: Seed = 0,
    dtype: Dtype = None,
    map_: Map = None,
    skip: Skip = None,
    ignore: Ignore = None,
    classes: Classes = None,
    allow_nonfinite: AllowNonfinite = False,
    optimizer: Optimizer = "drop",
    format_: Format = None,
    drop_compile: DropCompile = False,
    shard_size: ShardSize = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Merge the weights of MODELS into one model.

    All must have one architecture; whatever speaks against it is found before a weight is read.
    """
    from graftwork import api

    with refusing():
        arguments = _merge_arguments(
            method, base, weights, names, settings, seed, dtype, map_, skip, ignore, classes, allow_nonfinite, optimizer
        )
        with making(quiet=quiet, as_json=as_json) as told:
            api.merge(
                models,
                output=output,
                format=format_,
                drop_compile=drop_compile,
                shard_bytes=size_of(shard_size),
                threads=threads,
                overwrite=overwrite,
                **arguments,
                **told,
            )


@app.command()
def plan(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE | merge A B …", help="A recipe, or a merge with its arguments.", show_default=False
        ),
    ],
    output: MaybeOutput = None,
    method: Method = "linear",
    base: BaseModel = None,
    weights: Weights = None,
    names: Names = None,
    settings: Settings = None,
    seed: Seed = 0,
    dtype: Dtype = None,
    map_: Map = None,
    skip: Skip = None,
    ignore: Ignore = None,
    classes: Classes = None,
    allow_nonfinite: AllowNonfinite = False,
    optimizer: Optimizer = "drop",
    format_: Format = None,
    drop_compile: DropCompile = False,
    shard_size: ShardSize = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its sources.")] = False,
    coefficients: Annotated[
        bool, typer.Option("--coefficients", help="Show the options that count for every tensor, model by model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a recipe or a merge would do.

    Only headers are read. What `run` or `merge` would refuse is refused, but for what values alone tell. Verbs that have
    --dry-run can be planned as well: `plan ensemble …` is `ensemble --dry-run …`.
    """
    from graftwork import api
    from graftwork.report import render

    if what[0] == "merge" and len(what) < 2:
        raise typer.BadParameter("`plan merge` needs models")
    if what[0] != "merge" and len(what) > 1:
        raise typer.BadParameter("give one recipe, or `merge` and its models")
    if what[0] != "merge":
        _refuse_merge_options(context)
    with refusing():
        if what[0] == "merge":
            arguments = _merge_arguments(
                method,
                base,
                weights,
                names,
                settings,
                seed,
                dtype,
                map_,
                skip,
                ignore,
                classes,
                allow_nonfinite,
                optimizer,
            )
            reports: list[Any] = [
                api.plan_merge(
                    [Path(m) for m in what[1:]],
                    output=output,
                    format=format_,
                    drop_compile=drop_compile,
                    shard_bytes=size_of(shard_size),
                    threads=threads,
                    overwrite=overwrite,
                    **arguments,
                )
            ]
        else:
            reports = api.plan(Path(what[0]), threads=threads, overwrite=overwrite)
        with printing():
            if as_json:
                print_json([report.to_dict() for report in reports])
                return
            for report in reports:
                render.report(report, tensors=tensors, coefficients=coefficients)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe in YAML, or a mergekit configuration.", show_default=False)],
    output: MaybeOutput = None,
    shard_size: ShardSize = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load compositions in a fresh process and compare.")
    ] = True,
    threads: Threads = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run RECIPE: everything from its models to its outputs."""
    from graftwork import api

    with refusing():
        with progress(quiet) as told:
            results = api.run(
                recipe,
                output=output,
                threads=threads,
                overwrite=overwrite,
                shard_bytes=size_of(shard_size),
                check=check,
                progress=told,
            )
        with printing(*(result.path for result in results.values())):
            if as_json:
                print_json({name: as_plain(result) for name, result in results.items()})
                return
            for name, result in results.items():
                say(quiet, *(f"note: {name}: {note}" for note in result.notes))
                typer.echo(str(result.path))


def _merge_arguments(
    method: str,
    base: Path | None,
    weights: str | None,
    names: str | None,
    settings: list[str] | None,
    seed: int,
    dtype: str | None,
    map_: list[str] | None,
    skip: list[str] | None,
    ignore: list[str] | None,
    classes: list[str] | None,
    allow_nonfinite: bool,
    optimizer: str,
) -> dict[str, Any]:
    """Return what the options of `merge` say as arguments of the API."""
    return {
        "method": method,
        "base": base,
        "weights": _numbers(weights) if weights is not None else None,
        "names": names.split(",") if names else None,
        "seed": seed,
        "dtype": dtype,
        "map": pairs(map_ or (), "--map", last=True),
        "skip": tuple(skip or ()),
        "ignore": tuple(ignore or ()),
        "classes": [[c.strip() for c in item.split(",")] for item in classes] if classes else None,
        "allow_nonfinite": allow_nonfinite,
        "optimizer": optimizer,
        **_options(settings),
    }


def _refuse_merge_options(context: typer.Context) -> None:
    """Refuse options that a recipe says itself, rather than leave them out of account."""
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if (
            name not in ("what", "threads", "overwrite", "tensors", "coefficients", "as_json")
            and source is not None
            and source.name == "COMMANDLINE"
        ):
            raise typer.BadParameter("is for `plan merge`, and not for a recipe", param_hint=parameter.opts[-1])


def _options(settings: list[str] | None) -> dict[str, Any]:
    """Return the method's options; what `merge` has an argument of its own for is none."""
    import inspect

    from graftwork import api

    found = pairs(settings or (), "--set")
    for name in found:
        if name in inspect.signature(api.merge).parameters:
            raise typer.BadParameter(
                f"{name!r} is no option of a method; `graftwork merge -h` lists what says it", param_hint="--set"
            )
    return {name: value(text, "--set") for name, text in found.items()}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0.5,0.5", param_hint="--weights") from None

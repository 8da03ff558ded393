"""The commands, one function each: the docstring is the help text, the body calls the API and prints."""

import importlib
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from graftwork import __version__
from graftwork.cli.custom import CustomObjects
from graftwork.cli.listed import LISTED
from graftwork.cli.sizes import size_of
from graftwork.cli.terminal import as_plain, print_json, progress, refusing, say, tell

_GROUPS = {"ckpt": "checkpoints", "savedmodel": "savedmodel"}
"""The file of each group of commands, loaded when it is wanted."""


class Listed(TyperCommand):
    """Stands for a command of which no more than its first sentence is known yet."""


class Commands(TyperGroup):
    """The commands. Those of verbs that compose graphs, and the groups, are only listed until one is wanted."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands.update({name: Listed(name, help=text) for name, text in LISTED.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that words begin with, its name, and the words behind it."""
        self._load(args[0])
        return super().resolve_command(ctx, args)

    def _load(self, name: str) -> None:
        """Put the command itself in the place of what stands for it."""
        if not isinstance(self.commands.get(name), Listed):
            return
        if name in _GROUPS:
            module = importlib.import_module(f"graftwork.cli.{_GROUPS[name]}")
            self.commands[name] = typer.main.get_group(module.app)
            return
        from graftwork.cli import compose

        self.commands.update(compose.commands(tell))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Turn ``plan ensemble …`` into ``ensemble --dry-run …``: the verb's own command, which then makes nothing."""
        if args[:1] == ["plan"] and args[1:2] and re.fullmatch(r"[a-z][a-z-]*", args[1]) and args[1] != "merge":
            self._load(args[1])
            verb = self.get_command(ctx, args[1])
            if verb is not None and any("--dry-run" in parameter.opts for parameter in verb.params):
                args = [args[1], "--dry-run", *args[2:]]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=Commands,
    name="graftwork",
    help="Make one model of several trained Keras or TensorFlow models, without loading them whole.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Models = Annotated[
    list[Path],
    typer.Argument(help="Model files or directories; the first lends architecture and names.", show_default=False),
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Where to write; the ending says the format.", show_default=False)
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
Seed = Annotated[int, typer.Option("--seed", help="Fixes every random choice.")]
Dtype = Annotated[
    str | None,
    typer.Option("--dtype", help="Dtype of the result; by default the first model's.", show_default=False),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map", help="REGEX=NAME: names of tensors of the other models, and in the first.", show_default=False
    ),
]
Skip = Annotated[
    list[str] | None,
    typer.Option("--skip", help="Glob of tensors to keep from the first model.", show_default=False),
]
Ignore = Annotated[
    list[str] | None, typer.Option("--ignore", help="A layer setting that may differ.", show_default=False)
]
Classes = Annotated[
    list[str] | None,
    typer.Option(
        "--classes", help="Class names of each model in order: cat,dog,…; once per model.", show_default=False
    ),
]
AllowNonfinite = Annotated[
    bool, typer.Option("--allow-nonfinite", help="Merge although a source holds NaN or infinity.")
]
Optimizer = Annotated[
    str, typer.Option("--optimizer", help="drop the optimizer state, or keep that of the first or the last model.")
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="Format of the output, where its ending does not tell.", show_default=False),
]
DropCompile = Annotated[bool, typer.Option("--drop-compile", help="Leave out how the model was compiled.")]
ShardSize = Annotated[
    str | None, typer.Option("--shard-size", help="Greatest size of a shard: 500MB, 5GB.", show_default=False)
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads; by default one per processor.", show_default=False)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
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
Inputs = Annotated[str | None, typer.Option("--x", help="Column of the input; several as a,b.", show_default=False)]
Labels = Annotated[str | None, typer.Option("--y", help="Column of the labels.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graftwork {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make one model of several trained Keras or TensorFlow models, without loading them whole."""


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    as_json: Json = False,
) -> None:
    """Say what MODEL is, reading only its headers."""
    from graftwork import api
    from graftwork.report import render

    with refusing():
        found = api.inspect(model)
        print_json(found.to_dict()) if as_json else render.inspection(found, tensors=tensors)


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another.", show_default=False)],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, not only every layer.")] = False,
    threads: Threads = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how two models differ.

    Structure comes first, then how far their weights are apart, layer by layer.
    """
    from graftwork import api
    from graftwork.report import render

    with refusing():
        with progress(quiet) as told:
            found = api.diff(a, b, threads=threads, progress=told)
        print_json(found.to_dict()) if as_json else render.difference(found, tensors=tensors)


@app.command()
def merge(
    models: Models,
    output: Output,
    method: Method = "linear",
    base: BaseModel = None,
    weights: Weights = None,
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
            method, base, weights, settings, seed, dtype, map_, skip, ignore, classes, allow_nonfinite, optimizer
        )
        results: list[Any] = []
        with progress(quiet) as told:
            api.merge(
                models,
                output=output,
                format=format_,
                drop_compile=drop_compile,
                shard_bytes=size_of(shard_size),
                threads=threads,
                overwrite=overwrite,
                progress=told,
                on_result=results.append,
                **arguments,
            )
        tell(results[0], quiet=quiet, as_json=as_json)


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
            "--ignore", help="A field of config.json, or of layers' settings, that may differ.", show_default=False
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

    with refusing():
        results: list[Any] = []
        with progress(quiet) as told:
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
                progress=told,
                on_result=results.append,
            )
        tell(results[0], quiet=quiet, as_json=as_json)


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
    threads: Threads = None,
    overwrite: Overwrite = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor with its sources.")] = False,
    coefficients: Annotated[
        bool, typer.Option("--coefficients", help="Show the options that count for every tensor, model by model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what a recipe or a merge would do.

    Only headers are read. What `run` or `merge` would refuse is refused, but for what values alone tell.
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
                method, base, weights, settings, seed, dtype, map_, skip, ignore, classes, allow_nonfinite, optimizer
            )
            reports: list[Any] = [
                api.plan_merge(
                    [Path(m) for m in what[1:]],
                    output=output,
                    format=format_,
                    threads=threads,
                    overwrite=overwrite,
                    **arguments,
                )
            ]
        else:
            reports = api.plan(Path(what[0]), threads=threads, overwrite=overwrite)
        if as_json:
            print_json([report.to_dict() for report in reports])
        else:
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
        if as_json:
            print_json({name: as_plain(result) for name, result in results.items()})
            return
        for name, result in results.items():
            say(quiet, *(f"note: {name}: {note}" for note in result.notes))
            typer.echo(str(result.path))


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
        if as_json:
            print_json(found.to_dict())
            return
        say(quiet, *(f"note: {note}" for note in found.notes))
        render.extraction(found, tensors=tensors)


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
    x: Inputs = None,
    y: Labels = None,
    custom_objects: CustomObjects = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Estimate MODEL's Fisher information on data.

    For each weight, how much what the model says changes with it: what the merge method `fisher` weighs models by.
    """
    from graftwork import api

    with refusing():
        results: list[Any] = []
        with progress(quiet) as told:
            api.fisher(
                model,
                data,
                output=output,
                labels=labels,
                outputs=outputs,
                samples=samples,
                batch=batch,
                seed=seed,
                x=tuple(x.split(",")) if x else None,
                y=y,
                custom_objects=custom_objects,
                overwrite=overwrite,
                progress=told,
                on_result=results.append,
            )
        tell(results[0], quiet=quiet, as_json=as_json)


@app.command()
def gram(
    model: Annotated[Path, typer.Argument(help="A Keras model.", show_default=False)],
    data: Data,
    output: EstimateOutput,
    samples: SampleCount = None,
    batch: Batch = 32,
    max_inputs: Annotated[int, typer.Option("--max-inputs", min=1, help="Layers of more inputs get none.")] = 8192,
    x: Inputs = None,
    y: Labels = None,
    custom_objects: CustomObjects = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compute Gram matrices of the inputs of MODEL's layers on data.

    Which inputs of a dense layer or a convolution occur together: what the merge method `regmean` solves for.
    """
    from graftwork import api

    with refusing():
        results: list[Any] = []
        with progress(quiet) as told:
            api.gram(
                model,
                data,
                output=output,
                samples=samples,
                batch=batch,
                max_inputs=max_inputs,
                x=tuple(x.split(",")) if x else None,
                y=y,
                custom_objects=custom_objects,
                overwrite=overwrite,
                progress=told,
                on_result=results.append,
            )
        tell(results[0], quiet=quiet, as_json=as_json)


@app.command()
def verify(
    model: Annotated[Path, typer.Argument(help="A model file or directory.", show_default=False)],
    load: Annotated[bool, typer.Option("--load/--no-load", help="Load it with Keras in a fresh process.")] = True,
    custom_objects: CustomObjects = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check MODEL: CRCs, values, and whether Keras loads it.

    The exit status is 1 if anything is wrong.
    """
    from graftwork import api
    from graftwork.report import render

    with refusing():
        with progress(quiet) as told:
            found = api.verify(model, load=load, custom_objects=custom_objects, progress=told)
        print_json(found.to_dict()) if as_json else render.verification(found)
        if not found.sound:
            raise typer.Exit(1)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="A method, to see its options.", show_default=False)] = None,
    as_json: Json = False,
) -> None:
    """List merge methods, or describe one."""
    from graftwork.methods import METHODS, get
    from graftwork.report import render

    with refusing():
        if as_json:
            chosen = [name] if name else sorted(METHODS)
            print_json([render.method_as_dict(get(each)) for each in chosen])
        elif name is None:
            render.method_list({each: METHODS[each] for each in sorted(METHODS)})
        else:
            render.method(get(name))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes."""
    from graftwork import recipe

    with refusing():
        print_json(recipe.schema())


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Where to keep the models; by default they are removed.", show_default=False),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small models, merge them, print what came out.

    The models are trained on real data (scikit-learn's digits) and merged with the commands above. Takes half a minute.
    """
    from graftwork import demo as demonstration

    with refusing():
        rows = demonstration.run(folder, tell=lambda line: say(quiet, line))
        print_json(rows) if as_json else demonstration.show(rows)


def _merge_arguments(
    method: str,
    base: Path | None,
    weights: str | None,
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
        "seed": seed,
        "dtype": dtype,
        "map": dict(_pair("--map", item) for item in map_ or ()),
        "skip": tuple(skip or ()),
        "ignore": tuple(ignore or ()),
        "classes": [[c.strip() for c in item.split(",")] for item in classes] if classes else None,
        "allow_nonfinite": allow_nonfinite,
        "optimizer": optimizer,
        **{name: _value(text) for name, text in (_pair("--set", item) for item in settings or ())},
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
            raise typer.BadParameter("is for `plan merge`; a recipe says this itself", param_hint=parameter.opts[-1])


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=") if option == "--set" else text.rpartition("=")
    if not equals or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
    return name.strip(), value.strip()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 0.5,0.5", param_hint="--weights") from None


def _value(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise typer.BadParameter(f"{text!r} is not a value", param_hint="--set") from None


def _layers(text: str) -> tuple[str, int, int, float]:
    """Return a run of layers such as MODEL:0-16 or MODEL:0-16*0.5."""
    found = re.fullmatch(r"(.+):(\d{1,6})-(\d{1,6})(?:\*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?))?", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no run of layers such as MODEL:0-16 or MODEL:0-16*0.5", param_hint="MODEL:FIRST-END"
        )
    return found[1], int(found[2]), int(found[3]), float(found[4] or 1)

"""Models made of layers of others: of tensors, or of blocks of graphs."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graftwork.api.sources import Model, Progress, words
from graftwork.api.steps import stated
from graftwork.composing import Source, compose
from graftwork.errors import OptionError
from graftwork.jobs import assembly, plan_assembly
from graftwork.models import live
from graftwork.models.custom import Custom, known
from graftwork.recipe import AssembleStep, as_name
from graftwork.stores import distinct, label_of, open_store
from graftwork.writing import Result, Target


def assemble(
    layers: Sequence[tuple[Any, ...]],
    *,
    output: str | PathLike[str] | None = None,
    block: str | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    dtype: str | None = None,
    ignore: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    format: str | None = None,
    shard_bytes: int | None = None,
    check: bool = True,
    custom_objects: Custom | None = None,
    progress: Progress | None = None,
    report: list[str] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Any:
    """Make a model of layers of others, one run of layers after the other.

    What lies before the layers (embeddings) comes from the first run's model, what lies behind them (norms, heads) from the last
    run's, configuration and tokenizer from the first. Models are Hugging Face directories and safetensors files, whose layers are numbered,
    or Keras models, whose layers are the repeated blocks of their graph.

    Args:
        layers: Runs in the order of the result: ``(model, first, end)`` or ``(model, first, end, scale)``; layers count from 0, `end` is
            not in the run, and a run's tensors are multiplied with `scale`.
        output: Where to write; the ending says the format. Without it, Keras models give a live model.
        block: For Keras models, a glob over names of layers: the blocks meant are those that hold such a layer. By default those of the
            longest run.
        threads: How many threads work; by default one for each processor.
        overwrite: Whether an existing output may be replaced.
        dtype: The result's dtype, for weights alone; by default each tensor keeps its own.
        ignore: Fields of configurations, or of layers' settings, that may differ.
        allow_nonfinite: Whether sources may hold NaN or infinity.
        format: Name of the output's format, where its ending does not tell.
        shard_bytes: Greatest size of a shard, for formats with shards.
        check: Load a Keras model that is written in a fresh process, and compare it there with its blocks called one by one.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        progress: Told how far the work is.
        report: A list to which what the user should know is added, one sentence each.
        on_result: Told the result as `run` and `convert` return it.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not belong together, or their layers cannot be told.
        OptionError: If a model does not have the layers that are wanted.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read.
    """
    for run_ in layers:
        if isinstance(run_, str | PathLike) or not 3 <= len(run_) <= 4:
            raise OptionError(
                f"{run_!r} is no run of layers; expected (model, first, end) or (model, first, end, scale)"
            )
    models: dict[Any, Model] = {_identity(run_[0]): run_[0] for run_ in layers}
    labels = [as_name(_label(model)) for model in models.values()]
    names = dict(zip(models, distinct(labels), strict=True))
    step = stated(
        AssembleStep,
        {
            "layers": [
                {"model": names[_identity(model)], "range": (first, end), "scale": scale[0] if scale else 1.0}
                for model, first, end, *scale in layers
            ],
            "block": block,
            "dtype": dtype,
            "ignore": words(ignore),
            "allow_nonfinite": allow_nonfinite,
        },
    )
    with _sources({names[key]: model for key, model in models.items()}) as sources:
        if output is None:
            verb = assembly(step, sources)
            if verb is None:
                raise OptionError("say where to write (output=): weights alone make no live model")
            composed = compose(verb, sources, known(custom_objects))
            notes, made = composed.notes, composed.model
        else:
            target = Target(
                path=Path(output),
                format=format,
                overwrite=overwrite,
                threads=threads or 0,
                shard_bytes=shard_bytes,
                check=check,
            )
            result = plan_assembly(step, sources, known(custom_objects)).write(target, step, progress)
            notes, made = result.notes, result.path
            if on_result is not None:
                on_result(result)
    if report is not None:
        report += notes
    return made


@contextlib.contextmanager
def _sources(models: Mapping[str, Model]) -> Iterator[list[Source]]:
    with contextlib.ExitStack() as stack:
        found = []
        for name, model in models.items():
            if isinstance(model, str | PathLike):
                found.append(Source(name=name, reader=stack.enter_context(open_store(Path(model)))))
            elif live.is_live(model):
                found.append(Source(name=name, model=model))
            else:
                raise OptionError(f"{name} is a {type(model).__name__}, expected a path or a keras.Model")
        yield found


def _label(model: Model) -> str:
    return label_of(Path(model)) if isinstance(model, str | PathLike) else str(getattr(model, "name", "model"))


def _identity(model: Model) -> Any:
    return str(model) if isinstance(model, str | PathLike) else id(model)

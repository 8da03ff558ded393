"""What else there is to know of weights: adapters, and what data tells."""

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from graftwork import estimates, extraction
from graftwork.api.sources import Model, Progress, on_disk, words
from graftwork.errors import OptionError
from graftwork.extraction import Extraction
from graftwork.jobs import estimated, write_estimate
from graftwork.models import live
from graftwork.models.custom import Custom, known
from graftwork.stores import open_store
from graftwork.writing import Result, Target, opened


def extract_lora(
    model: Model,
    *,
    base: Model,
    output: str | PathLike[str],
    rank: int = 16,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    embeddings: bool = False,
    save_rest: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Extraction:
    """Write what a fine-tuned model has learnt as a LoRA adapter of its base, which PEFT loads.

    Args:
        model: The fine-tuned model, with tensors called as in Hugging Face models.
        base: The model that it was fine-tuned from.
        output: The adapter's directory.
        rank: Greatest rank of a tensor's two factors; the more, the nearer and the larger.
        include: Globs over the names of tensors that may get factors; by default all matrices called ``….weight``.
        exclude: Globs over the names of those that get none.
        embeddings: Whether embeddings get factors too.
        save_rest: Whether what differs and gets no factors (norms, biases …) is saved whole.
        overwrite: Whether an existing adapter may be replaced.
        progress: Told how far the work is.

    Returns:
        Where it is, and for each tensor how much of its difference is in it.

    Raises:
        MismatchError: If the two are not one architecture with the same tensors, or do not differ.
        NonFiniteError: If one holds NaN or infinity.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
    """
    wishes = extraction.Wishes(
        rank=rank, include=words(include), exclude=words(exclude), embeddings=embeddings, save_rest=save_rest
    )
    with on_disk([base, model]) as (paths, labels), opened(paths) as (ours, theirs):
        plan = extraction.plan_extraction(ours, theirs, wishes, (labels[0], labels[1]))
        return extraction.extract(plan, Path(output), overwrite=overwrite, progress=progress)


def fisher(
    model: Model,
    data: Any,
    *,
    output: str | PathLike[str] | None = None,
    labels: str = "model",
    outputs: str = "auto",
    samples: int | None = None,
    batch: int = 32,
    seed: int = 0,
    x: Any = None,
    y: str | None = None,
    custom_objects: Custom | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Any:
    """Estimate the diagonal of a model's Fisher information, for the merge method `fisher`.

    Args:
        model: A path to a Keras model, or a live one.
        data: Samples: arrays (inputs alone, ``(x, y)`` or ``(x, y, weights)``), a file, a directory of images, a description, or something
            that yields batches.
        output: Where to write, a ``.safetensors`` file. Without it, arrays by the names of the model's tensors are returned.
        labels: Whose labels: all that the ``"model"`` can say, each as likely as it says; one ``"sampled"`` from what it says; or
            those of the ``"data"``.
        outputs: What the model's outputs are: ``"probabilities"`` of classes, their ``"logits"``, ``"sigmoid"`` (independent yes and no) or
            ``"regression"``; ``"auto"`` for what the last activation tells.
        samples: Use the first so many samples.
        batch: Samples dealt with at a time; fewer where their gradients would take much memory.
        seed: Fixes labels that are sampled.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is, in samples.
        on_result: Told what was written.

    Returns:
        The path of the output, or the arrays.

    Raises:
        DataError: If the data cannot be read, holds NaN, or labels that are none.
        MismatchError: If the data does not go into the model.
        NonFiniteError: If the model makes NaN or infinity of the data.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If the model cannot be read.
        UnknownNameError: If the data has no such column.
    """
    wishes = estimates.Wishes(
        kind="fisher", x=x, y=y, samples=samples, batch=batch, labels=labels, outputs=outputs, seed=seed
    )
    return _estimate(
        model,
        data,
        wishes,
        output,
        custom_objects=custom_objects,
        overwrite=overwrite,
        progress=progress,
        on_result=on_result,
    )


def gram(
    model: Model,
    data: Any,
    *,
    output: str | PathLike[str] | None = None,
    samples: int | None = None,
    batch: int = 32,
    max_inputs: int = 8192,
    x: Any = None,
    y: str | None = None,
    custom_objects: Custom | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Any:
    """Compute the Gram matrices of the inputs of a model's dense layers and convolutions, for the merge method `regmean`.

    Args:
        model: A path to a Keras model, or a live one.
        data: Samples, as `fisher` takes them; labels are not looked at.
        output: Where to write, a ``.safetensors`` file. Without it, arrays by the names of the model's tensors are returned.
        samples: Use the first so many samples.
        batch: Samples shown at a time.
        max_inputs: Layers of more inputs, whose matrix has that many rows and columns, get none.
        x: The columns of the inputs, where the data does not tell.
        y: The column of labels, which are no input, where the data does not tell.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is, in samples.
        on_result: Told what was written.

    Returns:
        The path of the output, or the arrays.

    Raises:
        DataError: If the data cannot be read, holds NaN, or labels that are none.
        MismatchError: If the data does not go into the model.
        NonFiniteError: If the model makes NaN or infinity of the data.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If the model cannot be read.
        UnknownNameError: If the data has no such column.
    """
    wishes = estimates.Wishes(kind="gram", x=x, y=y, samples=samples, batch=batch, max_inputs=max_inputs)
    return _estimate(
        model,
        data,
        wishes,
        output,
        custom_objects=custom_objects,
        overwrite=overwrite,
        progress=progress,
        on_result=on_result,
    )


def _estimate(
    model: Model,
    data: Any,
    wishes: estimates.Wishes,
    output: str | PathLike[str] | None,
    *,
    custom_objects: Custom | None,
    overwrite: bool,
    progress: Progress | None,
    on_result: Callable[[Result], None] | None,
) -> Any:
    """Return what data tells of a model, or the path of the file where it is written."""
    if (wishes.samples or 1) < 1 or wishes.batch < 1:
        raise OptionError(f"samples is {wishes.samples} and batch {wishes.batch}; expected at least 1")
    like = model if live.is_live(model) else None
    with on_disk([model]) as (paths, labels), open_store(paths[0]) as reader:
        plan_ = estimates.plan_estimate(reader, labels[0], data, wishes, custom_objects=known(custom_objects))
        if output is None:
            return dict(estimated(plan_, progress, like).arrays)
        result = write_estimate(plan_, Target(path=Path(output), overwrite=overwrite), progress, like)
        if on_result is not None:
            on_result(result)
        return result.path

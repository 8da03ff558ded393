"""Models as they are: loaded, copied, drawn, exported; and what a verb would make of them."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from graftwork.api.compose import Models, Wanted, sources_of, target_of
from graftwork.api.reports import CompositionReport, of_composition
from graftwork.api.sources import Model, on_disk
from graftwork.composing import plan_composition
from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.models.copying import copy_model
from graftwork.models.custom import Custom, known
from graftwork.models.export import Exported
from graftwork.models.export import export as export_model
from graftwork.recipe.composition import verb_of
from graftwork.report import drawing
from graftwork.report.drawing.files import write as write_drawing
from graftwork.stores import open_store


def load(
    source: str | PathLike[str],
    name: str | None = None,
    custom_objects: Custom | None = None,
    safe_mode: bool = True,
) -> Any:
    """Return the model in a file, not compiled; files of Keras 2 are brought to the present form where that can be done exactly.

    Args:
        source: A file or directory in any format that holds an architecture.
        name: What the model is called; by default as in the file.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        safe_mode: Whether code in the file (of a Lambda layer) is refused; without it, loading runs that code.

    Raises:
        StoreError: If it cannot be loaded.
        OptionError: If the name cannot be a model's.
    """
    return live.load_model(Path(source), name=name, custom_objects=known(custom_objects), safe_mode=safe_mode)


def copy(model: Any, name: str | None = None) -> Any:
    """Return an exact copy of a live model that shares nothing with it: weights, states, flags, compiled as the source is.

    Args:
        model: Anything that Keras can save.
        name: What the copy is called; by default as the source.

    Raises:
        StoreError: If Keras cannot save the model.
        OptionError: If the name cannot be a model's.
    """
    if not live.is_live(model):
        raise OptionError(f"{str(model)[:60]!r} is no live model; load a file with `load`")
    return copy_model(model, name, compiled=True)


def check(verb: str, models: Models, **wanted: Any) -> CompositionReport:
    """Return what a verb would make, without building or reading weights.

    Args:
        verb: ``"ensemble"``, ``"chain"`` and so on.
        models: The models that go in, in the order of the verb's arguments.
        **wanted: The verb's options, and what `Wanted` says.

    Raises:
        GraftworkError: For every reason for which the verb would refuse.
    """
    general = {key: wanted.pop(key) for key in list(wanted) if key in Wanted.__annotations__}
    chosen = verb_of(verb, wanted)
    with sources_of(models, general, type(chosen)) as sources:
        plan = plan_composition(chosen, sources, known(general.get("custom_objects")))
        return of_composition(verb, plan, target_of(general))


def export(
    model: Model,
    output: str | PathLike[str],
    *,
    format: str = "saved_model",
    overwrite: bool = False,
    custom_objects: Custom | None = None,
) -> Exported:
    """Write a model for another runtime, run it there, and compare what it gives with what the model gives.

    Args:
        model: A path or a live model.
        output: The directory of a SavedModel, or a file that ends in ``.onnx`` or ``.tflite``.
        format: ``"saved_model"``, ``"onnx"`` or ``"litert"``.
        overwrite: Whether an earlier export there may be replaced.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.

    Returns:
        Where it is, its inputs and outputs by the names they have there, and how far it is from the model.

    Raises:
        UnknownNameError: If there is no such format.
        OutputError: If the output cannot be written, a package is missing, or Keras's backend cannot export to this format.
        StoreError: If Keras or the runtime cannot do this model, or the export gives something else than the model.
    """
    return export_model(model, Path(output), format, overwrite=overwrite, custom_objects=known(custom_objects))


def draw(
    model: Model,
    output: str | PathLike[str] | None = None,
    *,
    collapse: Sequence[str] = (),
    expand: Sequence[str] | None = None,
    depth: int = 1,
    boxes: int | None = 30,
    direction: Literal["down", "right"] = "down",
    overwrite: bool = False,
    report: list[str] | None = None,
) -> Any:
    """Draw a model's graph as SVG: members as clusters, shapes on the lines, frozen parts shaded.

    Args:
        model: A path or a live model.
        output: Where to write, a file that ends in ``.svg``. Without it the drawing is returned as text.
        collapse: Nested paths of models that stay one box (``"resnet50"``, ``"encoder/*"``).
        expand: Nested paths of layers that are seen and of models that are opened, whatever `depth` and `boxes` say.
        depth: How many levels of models in models are opened; 0 draws each as one box.
        boxes: How many boxes are enough to make layers share them; None gives each layer its own.
        direction: ``"down"`` or ``"right"``.
        overwrite: Whether an existing output may be replaced.
        report: A list to which what the user should know is added, one sentence each.

    Returns:
        The path of the output, or the text.

    Raises:
        OptionError: If an option makes no sense.
        OutputError: If the output cannot be written.
        StoreError: If the model has no Keras configuration.
        UnknownNameError: If a path of `collapse` or `expand` fits nothing.
    """
    with on_disk([model]) as (paths, _), open_store(paths[0]) as reader:
        text = drawing.draw(
            reader, collapse=tuple(collapse), expand=expand, depth=depth, boxes=boxes, direction=direction
        )
        if output is None:
            return text
        notes = write_drawing(text, Path(output), reader.header.files, overwrite=overwrite)
        if report is not None:
            report += notes
        return Path(output)

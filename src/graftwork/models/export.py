"""Models for other runtimes, through Keras's own `export`, each run there and compared with the model before it takes its name."""

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from graftwork.errors import OutputError, StoreError, UnknownNameError
from graftwork.models import alone, live
from graftwork.models.configuration import layers_of, trains_unasked
from graftwork.models.difference import Difference, called, compare, leaves_of
from graftwork.models.examples import inputs_for
from graftwork.models.fresh import predict
from graftwork.models.lazy import keras, quietly
from graftwork.models.runtimes import RUNTIMES, Run, Runtime, Unsupported
from graftwork.stores.base import Format
from graftwork.stores.files import brief
from graftwork.stores.staged import Staged, check_target

HALF = 1e-2
"""How far an export may be from a model that computes in half precision, which runtimes round in different places."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was exported.

    Attributes:
        path: The file or directory.
        format: ``"saved_model"``, ``"onnx"`` or ``"litert"``.
        inputs: Its inputs by the names that they have there, with shape and dtype, in the model's order.
        outputs: The names of its outputs there, in the model's order.
        difference: How far its outputs were from the model's when it was run.
        tolerance: How far they may be, as a fraction of an output's largest entry.
        notes: What should be known.
    """

    path: Path
    format: str
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    difference: Difference
    tolerance: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        far = f"within {self.difference.relative:.1g} of the largest entry" if self.difference.absolute else "exactly"
        return "; ".join(
            (
                f"run as {RUNTIMES[self.format].title}, it gives what the model gives {far} ({self.tolerance:g} is allowed)",
                f"inputs {', '.join(f'{name!r} {what}' for name, what in self.inputs.items())}",
                f"outputs {', '.join(map(repr, self.outputs))}",
                *self.notes,
            )
        )


def export(
    model: Any,
    target: Path,
    format: str,
    *,
    overwrite: bool = False,
    inputs: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Exported:
    """Export a model for another runtime: complete and looked at, or not at all.

    Args:
        model: A live model, which stays as it is, or the path of a saved one.
        target: The directory of a SavedModel, or a file that ends in ``.onnx`` or ``.tflite``.
        format: For which runtime: ``"saved_model"``, ``"onnx"`` or ``"litert"``.
        overwrite: Whether an earlier export there may be replaced.
        inputs: Arrays to compare with, in the structure that the model takes; by default random ones.
        custom_objects: Classes and functions that a file refers to and Keras does not know, by name.

    Raises:
        UnknownNameError: If there is no such format.
        OutputError: If the target cannot be written, a package is missing, or Keras's backend cannot export to this format.
        StoreError: If Keras or the runtime cannot do this model, or the export gives something else than the model.
        OptionError: If the model does not say what it takes, and no inputs are given.
    """
    source = None if live.is_live(model) else Path(model)
    check_export(target, format, [source] if source is not None else [], overwrite=overwrite)
    row = _row(format, RUNTIMES[format])
    model = model if source is None else live.load_model(source, custom_objects=custom_objects)
    given = inputs_for(model) if inputs is None else inputs
    model, notes = _inferring(model)
    with (
        Staged(target, row, overwrite=overwrite) as staged,
        tempfile.TemporaryDirectory(prefix=f"{staged.path.name}-", dir=target.parent) as folder,
    ):
        made = Path(folder) / exported_name("export", format)
        exported = _made(model, given, made, target, format)
        with contextlib.suppress(IsADirectoryError), made.open("rb") as file:
            os.fsync(file.fileno())
        made.rename(staged.path)
        staged.commit()
    return replace(exported, notes=(*exported.notes, *notes, *staged.notes))


def _inferring(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a model as it infers, and a note: layers of augmentation train where nobody says anything, and there nobody does."""
    graph = getattr(model, "_functional", None) or model
    found = [repr(layer.name) for layer in layers_of(model) if trains_unasked(layer)]
    if not found or not hasattr(graph, "_inputs_struct"):
        return model, ()
    given = keras.tree.map_structure(
        lambda x: keras.Input(batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=x.name), graph._inputs_struct
    )
    told = keras.Model(given, model(given, training=False), name=model.name)
    return told, (f"layers of augmentation ({', '.join(found[:3])}{', …' if found[3:] else ''}) do nothing there",)


def _made(model: Any, given: Any, made: Path, target: Path, format: str) -> Exported:
    """Write an export and run it; for LiteRT with fixed sizes where it cannot leave them free."""
    runtime = RUNTIMES[format]
    expected = _expected(model, given)
    notes = []
    try:
        run = _run(model, given, expected, made, runtime)
    except Unsupported as error:
        graph = getattr(model, "_functional", None) or model
        if format != "litert" or not hasattr(graph, "_inputs_struct"):
            _refuse(model, runtime, error)
        free = graph.inputs[0].shape[0] is None
        given = alone.mapped(lambda values: alone.array(values)[:1], given) if free else given
        expected = _expected(model, given)
        try:
            run = _run(model, given, expected, made, runtime, _signature(graph, given))
        except Unsupported as again:
            _refuse(model, runtime, again)
        sizes = ", ".join(f"{name!r} {what}" for name, what in run.inputs.items())
        notes.append(f"LiteRT cannot do this model with sizes left free ({error}), so it takes exactly {sizes}")
    tolerance = max(runtime.tolerance, HALF) if computes_in_half(model) else runtime.tolerance
    flat = {name: alone.array(value) for name, value in _flat(expected).items()}
    labels = dict(zip(flat, run.outputs, strict=True))
    difference = compare({name: run.outputs[labels[name]] for name in flat}, flat, rtol=tolerance)
    if not difference.agrees:
        raise StoreError(
            f"model {model.name!r}, exported as {runtime.title} and run there, does not give what it should: {difference} "
            f"({tolerance:g} of the largest is allowed); nothing was written to {target}"
        )
    return Exported(
        path=target,
        format=format,
        inputs=run.inputs,
        outputs=tuple(run.outputs),
        difference=difference,
        tolerance=tolerance,
        notes=tuple(notes),
    )


def _expected(model: Any, given: Any) -> Any:
    """Return what the export should give."""
    found = predict(model, given)
    for name, values in leaves_of(found):
        if values.dtype.kind in "fc" and values.size and np.isnan(values).all():
            raise StoreError(
                f"{called(name)} of model {model.name!r} is NaN everywhere, which says nothing; give inputs"
            )
    return found


def _run(model: Any, given: Any, expected: Any, made: Path, runtime: Runtime, signature: Any = None) -> Run:
    """Export a model, and run the export on inputs."""
    flat = [alone.array(values) for values in keras.tree.flatten(given)]
    graph = getattr(model, "_functional", None) or model
    names = [tensor.name for tensor in getattr(graph, "inputs", None) or ()] or [""] * len(flat)
    with quietly():
        try:
            model.export(
                made, format=runtime.keras_name, verbose=False, **({"input_signature": signature} if signature else {})
            )
            return runtime.run(made, names, flat, list(_flat(expected)))
        except Unsupported:
            raise
        except Exception as error:  # of Keras, TensorFlow, converters and runtimes, each with its own classes
            raise StoreError(f"model {model.name!r} cannot be exported as {runtime.title}: {_said(error)}") from error


def _said(error: Exception) -> str:
    """Return why an export failed."""
    if "Got a non-Tensor value" in str(error):
        return "its outputs are nested, and a signature has them in one list or one dictionary"
    return brief(error)


def _refuse(model: Any, runtime: Runtime, error: Unsupported) -> NoReturn:
    half = "; it computes in half precision, which runtimes know little of" if computes_in_half(model) else ""
    raise StoreError(f"model {model.name!r} cannot be run as {runtime.title}: {error}{half}") from error


def _flat(structure: Any) -> dict[str, Any]:
    """Return the outputs of a model by their names, in the order in which exports have them."""
    return {"/".join(map(str, path)): value for path, value in keras.tree.flatten_with_path(structure)}


def _signature(graph: Any, given: Any) -> list[Any]:
    """Return the specification of inputs of exactly these shapes."""
    import tensorflow as tf

    arrays = keras.tree.flatten(given)
    specs = [tf.TensorSpec(a.shape, t.dtype, name=t.name) for a, t in zip(arrays, graph.inputs, strict=True)]
    return [keras.tree.pack_sequence_as(graph._inputs_struct, specs)]


def computes_in_half(model: Any) -> bool:
    """Return whether some layer computes in float16 or bfloat16."""
    return any(layer.compute_dtype in ("float16", "bfloat16") for layer in layers_of(model))


def _row(name: str, runtime: Runtime) -> Format:
    """Return what has to be known of a format to replace an earlier result of it."""

    def not_read(path: Path) -> NoReturn:
        raise StoreError(f"{path} is an export, which graftwork writes and does not read")

    def recognise(path: Path) -> bool:
        return path.is_file() if runtime.suffix else (path / "saved_model.pb").is_file()

    suffixes = (runtime.suffix,) if runtime.suffix else ()
    return Format(
        name=name,
        summary=runtime.title,
        suffixes=suffixes,
        directory=not suffixes,
        recognise=recognise,
        open=not_read,
        create=None,
    )


def exported_name(stem: str, format: str) -> str:
    """Return what an export of something is called.

    Raises:
        UnknownNameError: If there is no such format.
    """
    runtime = _runtime(format)
    return f"{stem}{runtime.suffix}" if runtime.suffix else f"{stem}_{format}"


def _runtime(format: str) -> Runtime:
    if format not in RUNTIMES:
        raise UnknownNameError("export format", format, RUNTIMES)
    return RUNTIMES[format]


def check_export(target: Path, format: str, sources: Sequence[Path], *, overwrite: bool) -> None:
    """Refuse, before anything is loaded, an export that cannot come to a good end.

    Args:
        target: Where it shall go.
        format: For which runtime.
        sources: Every file that is read.
        overwrite: Whether an earlier export there may be replaced.

    Raises:
        UnknownNameError: If there is no such format.
        OutputError: With the reason.
    """
    runtime = _runtime(format)
    if not target.name.endswith(runtime.suffix):
        raise OutputError(f"the target {target} must end in {runtime.suffix}, as {runtime.title} files do")
    check_target(target, _row(format, runtime), sources, overwrite=overwrite)
    backend = keras.config.backend()
    if backend not in runtime.packages:
        raise OutputError(
            f"Keras does not export as {runtime.title} with the {backend} backend; save the model to a .keras file and export that with "
            f"KERAS_BACKEND={next(iter(runtime.packages))}"
        )
    missing = [package for package in runtime.packages[backend] if importlib.util.find_spec(package) is None]
    if missing:
        raise OutputError(
            f"to export as {runtime.title} and look at the result, install {' '.join(missing)} (pip install {' '.join(missing)})"
        )

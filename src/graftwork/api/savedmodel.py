"""SavedModels: bridged into Keras models, lifted, chained, combined.

Sources are directories of SavedModels, and stay as they are. What every function takes beside its own options is
`graftwork.api.steps.Wanted`.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Unpack

from graftwork.api.programs import ls as ls
from graftwork.api.servables import chain as chain
from graftwork.api.servables import combine as combine
from graftwork.api.servables import ensemble as ensemble
from graftwork.api.servables import from_frozen_graph as from_frozen_graph
from graftwork.api.servables import join_frozen as join_frozen
from graftwork.api.sources import Model, on_disk
from graftwork.api.steps import Wanted, perform, stated
from graftwork.ckpt.lift import compared, plan_lift
from graftwork.errors import OptionError
from graftwork.models import values
from graftwork.models.configuration import objects_of
from graftwork.models.copying import copy_model
from graftwork.models.custom import Custom, known
from graftwork.models.savedmodel.bridge import bridge as bridged
from graftwork.recipe import as_name
from graftwork.recipe.savedmodel import SavedmodelLift
from graftwork.stores import distinct
from graftwork.writing import Target, opened, write_merge


def bridge(
    source: str | PathLike[str],
    *,
    signature: str = "serving_default",
    at: str | Sequence[str] = (),
    result: Literal["auto", "rebuild", "layer"] = "auto",
    name: str | None = None,
    custom_objects: Custom | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Make a Keras model of a SavedModel.

    One that Keras 2 saved with its configuration is rebuilt: a plain model, all of which can be trained. Any other becomes a frozen layer
    around one of its signatures, through which gradients pass; every file of it contains the whole SavedModel, and graftwork has to be
    installed where it is loaded.

    Args:
        source: The SavedModel.
        signature: Which of its signatures.
        at: Where to end: outputs of the signature, or tensors inside it, as ``savedmodel ls --tensors`` lists them; by default all outputs.
        result: What comes out: ``rebuild`` for a plain model, ``layer`` for a frozen layer, ``auto`` for the first where it can be had.
        name: What the model is called; by default as the SavedModel.
        custom_objects: Functions that a model which is rebuilt refers to and Keras does not know: by name, or Python files or modules that
            define them, which are run.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output, or a live model where no output is named; it does not need the SavedModel's directory.

    Raises:
        OptionError: If it cannot be rebuilt and shall be.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If the SavedModel is damaged, cannot become a Keras model, or the result does not say what the signature says.
        UnknownNameError: If it has no such signature, output or tensor.
    """
    ends = (at,) if isinstance(at, str) else tuple(at)
    if wanted.get("output") is not None:
        options = {"signature": signature, "at": ends, "result": result, "name": name}
        return perform("savedmodel_bridge", {"source": source}, options, {**wanted, "custom_objects": custom_objects})
    own = known(custom_objects)
    found = bridged(Path(source), signature=signature, at=ends, result=result, name=name, custom_objects=own)
    report = wanted.get("report")
    if report is not None:
        report += found.notes
    return found.model


def lift(
    source: str | PathLike[str],
    into: Model,
    *,
    map: Mapping[str, str] | Sequence[str] | None = None,
    partial: bool = False,
    signature: str = "serving_default",
    check: bool = True,
    custom_objects: Custom | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Put the variables of a SavedModel or checkpoint into a Keras 3 model of the same architecture.

    Tensors meet by name: the same one, one with a prefix before it, or one with other numbers of layers; and those that an export of
    Keras 3 lists by their order. Every tensor of the model gets its values from one tensor of the same shape. What the model says then is
    compared with what the SavedModel's signature says.

    Args:
        source: The SavedModel or checkpoint.
        into: The model, which stays as it is; the result is another file, or another live model where no output is named.
        map: Rules ``OLD=NEW`` from names in the source to names in the model, where names do not tell.
        partial: Allow for tensors of the model that keep their values, and tensors of the source that go nowhere.
        signature: The signature of the SavedModel that the model is compared with.
        check: Whether the two are compared, and the result refused if they do not say the same.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output, or the live model.

    Raises:
        MismatchError: If a tensor of either side has no counterpart.
        OptionError: If a rule fits nothing, or there is neither an output nor a live model.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, or the model does not say what the signature says.
    """
    options = {"map": map or (), "partial": partial, "signature": signature, "check": check}
    sources = {"source": source, "into": into}
    if wanted.get("output") is not None:
        return perform("savedmodel_lift", sources, options, {**wanted, "custom_objects": custom_objects})
    if isinstance(into, str | PathLike):
        raise OptionError("say where to write the result (output=), or give `into` as a live model")
    values.check_is_keras(into)
    with on_disk([source, into], wanted.get("names")) as (paths, labels):
        there, here = distinct([as_name(label) for label in labels])
        step = stated(SavedmodelLift, {"source": there, "into": here, **options})
        with opened(paths) as readers:
            plan = plan_lift(step, dict(zip((there, here), readers, strict=True)))
            target = Target(path=paths[1].with_name("result.keras"), threads=wanted.get("threads") or 0)
            result = write_merge(
                plan,
                target,
                step.settings(),
                wanted.get("progress"),
                verb=step.kind,
                look=lambda made: compared(
                    step, readers[0], made, {**objects_of(into), **known(custom_objects)}, safe_mode=False
                ),
            )
            made = copy_model(into, compiled=True)
            values.set_values(made, target.path, paths[1])
    report, on_result = wanted.get("report"), wanted.get("on_result")
    if report is not None:
        report += result.notes
    if on_result is not None:
        on_result(result)
    return made

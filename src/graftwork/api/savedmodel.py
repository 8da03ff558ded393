"""SavedModels: bridged into Keras models, lifted, chained, combined.

Sources are directories of SavedModels, and stay as they are. What every function takes beside its own options is
`graftwork.api.steps.Wanted`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Unpack

from graftwork.api.sources import Model
from graftwork.api.steps import Wanted, perform, planned
from graftwork.ckpt.lift import compared
from graftwork.errors import OptionError
from graftwork.jobs import MergeJob
from graftwork.models import values
from graftwork.models.configuration import objects_of
from graftwork.models.copying import copy_model
from graftwork.recipe.savedmodel import SavedmodelLift
from graftwork.writing import Target


def lift(
    source: str | PathLike[str],
    into: Model,
    *,
    map: Mapping[str, str] | Sequence[str] | None = None,
    partial: bool = False,
    signature: str = "serving_default",
    check: bool = True,
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
        return perform("savedmodel_lift", sources, options, wanted)
    if isinstance(into, str | PathLike):
        raise OptionError("say where to write the result (output=), or give `into` as a live model")
    values.check_is_keras(into)
    with planned("savedmodel_lift", sources, options, wanted) as (step, job):
        assert isinstance(step, SavedmodelLift)
        assert isinstance(job, MergeJob)
        into_reader, source_reader = job.plan.models
        own = objects_of(into)
        after = into_reader.path.with_name("result.keras")
        looking = replace(job, look=lambda reader: compared(step, source_reader, reader, own))
        result = looking.write(Target(path=after, threads=wanted.get("threads") or 0), step, wanted.get("progress"))
        made = copy_model(into, compiled=True)
        values.set_values(made, after, into_reader.path)
    report, on_result = wanted.get("report"), wanted.get("on_result")
    if report is not None:
        report += result.notes
    if on_result is not None:
        on_result(result)
    return made

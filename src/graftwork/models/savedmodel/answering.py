"""A SavedModel that is asked what it says: the Keras model that it becomes for that, and what its outputs are as far as its graph tells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.errors import StoreError
from graftwork.models.lazy import keras
from graftwork.models.outputs import Kind
from graftwork.models.savedmodel.bridge import foreseen, made, sketched
from graftwork.models.savedmodel.endings import KINDS_OF, Endings
from graftwork.stores import Reader
from graftwork.tensor import Role

COUNTED = (Role.WEIGHT, Role.STATISTIC, Role.QUANTIZED)
"""Roles of the tensors that are a model's parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """A SavedModel that is asked what it says.

    Attributes:
        model: The Keras model that it became.
        kinds: What its outputs are, by the signature's names for them; None where its graph does not tell.
        closed: Why it has no layers to look into, "" if it has.
        parameters: How many it has; None where they are constants of its graph.
        notes: What the user should know.
    """

    model: Any
    kinds: Mapping[str, Kind | None]
    closed: str
    parameters: int | None
    notes: tuple[str, ...]

    def kind(self, output: str) -> Kind | None:
        """Return what an output of the model is, where the graph tells; a single one may be called otherwise than in the signature."""
        return next(iter(self.kinds.values())) if len(self.kinds) == 1 else self.kinds.get(output)


def answering(
    reader: Reader, name: str | None = None, signature: str | None = None, *, values: bool = True
) -> Answering:
    """Return what a SavedModel becomes to be asked.

    Args:
        reader: The SavedModel.
        name: What it is called; by default as the directory.
        signature: Which signature is asked; by default the one for serving, or the only one.
        values: Whether it shall say something; without, it only has ports and layers, and this is to be called inside `weightless`.

    Raises:
        StoreError: If it cannot be asked, with the reason.
        UnknownNameError: If it has no such signature.
        OptionError: If several signatures could be meant.
    """
    plan = foreseen(reader.path, signature=signature, name=name)
    bridged = made(plan) if values else sketched(plan)
    if bridged.kind == "layer" and keras.config.backend() != "tensorflow":
        raise StoreError(f"{reader.path.name} runs in TensorFlow; start Python with KERAS_BACKEND=tensorflow")
    endings = Endings(plan.program)
    held = sum(math.prod(spec.shape) for spec in reader.specs().values() if spec.role in COUNTED)
    return Answering(
        model=bridged.model,
        kinds={key: KINDS_OF.get(endings.of(port)) for key, port in plan.signature.outputs.items()},
        closed="" if bridged.kind == "rebuild" else plan.why or "it cannot be rebuilt",
        parameters=bridged.model.count_params() or held or None,
        notes=() if bridged.kind == "rebuild" else bridged.notes[:1],
    )

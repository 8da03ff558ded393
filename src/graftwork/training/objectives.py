"""What a model is trained for and measured by, where its output and the labels tell."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.errors import DataError, OptionError
from graftwork.models.lazy import keras
from graftwork.training.losses import LossSpec, loss_for
from graftwork.training.matching import CATEGORICAL, SWITCHES, Target


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss and the metrics that go with it; each `compile` needs new ones.

    Attributes:
        kind: What the output is; see `graftwork.models.outputs`.
        spread: Whether labels have a column for each class, not the number of one.
        loss: What the user wants in place of the usual loss.
    """

    kind: str
    spread: bool = False
    loss: LossSpec | None = None

    def made_loss(self) -> Any:
        """Return a new loss of Keras.

        Raises:
            OptionError: If the user's does not take such labels.
        """
        if self.loss is not None:
            return loss_for(self.loss, self.kind, spread=self.spread)
        losses = keras.losses
        if self.kind in CATEGORICAL:
            usual = losses.CategoricalCrossentropy if self.spread else losses.SparseCategoricalCrossentropy
            return usual(from_logits=self.kind == "logits")
        if self.kind in SWITCHES:
            return losses.BinaryCrossentropy(from_logits=self.kind == "sigmoid_logits")
        return losses.MeanSquaredError()

    def made_metrics(self) -> list[Any]:
        """Return new metrics of Keras: accuracy, or for values the mean absolute error."""
        metrics = keras.metrics
        if self.kind in CATEGORICAL:
            usual = metrics.CategoricalAccuracy if self.spread else metrics.SparseCategoricalAccuracy
            return [usual(name="accuracy")]
        if self.kind in SWITCHES:
            return [metrics.BinaryAccuracy(name="accuracy", threshold=0.5 if self.kind == "sigmoid" else 0.0)]
        return [metrics.MeanAbsoluteError(name="mae")]


def objective(target: Target, data: Samples | Stream, loss: LossSpec | None) -> Objective:
    """Return what an output is trained for.

    Args:
        target: The output.
        data: What it is trained on; of a stream its first batch tells later how labels come (`has_columns`).
        loss: What the user wants.

    Raises:
        OptionError: If nothing tells.
    """
    if target.kind is None:
        raise OptionError(
            f"output {target.name!r} does not tell what it gives, and so not its loss; say it: outputs=logits (or sigmoid_logits, "
            "regression), or give the head an activation"
        )
    shape = data.table.columns[data.labels].shape if isinstance(data, Samples) and data.labels is not None else ()
    return Objective(target.kind, has_columns(target, shape), loss)


def has_columns(target: Target, shape: tuple[int | None, ...]) -> bool:
    """Return whether labels of classes have a column for each, not the number of one.

    Args:
        target: The output.
        shape: The shape of a label.
    """
    whole = len(shape) == len(target.shape) and bool(shape) and shape[-1] == target.shape[-1] != 1
    return target.kind in CATEGORICAL and whole


def check_switches(labels: NDArray[Any], rows: NDArray[np.int64], where: str) -> None:
    """Refuse labels that are no answers between no and yes.

    Args:
        labels: Labels of some samples.
        rows: The numbers of these.
        where: What messages call the data.

    Raises:
        DataError: If one is not from 0 to 1.
    """
    wrong = (labels < 0) | (labels > 1)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0])
        raise DataError(
            f"the label of sample {rows[place[0]]:,} of {where} is {labels[place]}, and the output says yes or no: expected 0 to 1"
        )

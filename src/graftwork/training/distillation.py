"""What a student loses by not saying what its teachers say (Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531).

::

    one of several classes     T² · Σ_c t_c (log t_c - log s_c),                     t, s: softmax(z / T)
    independent yes and no     T² · mean over labels of KL(Bernoulli(t) ‖ Bernoulli(s)),  t, s: sigmoid(z / T)
    values                     mean over the last axis of (t - s)²

Probabilities count as the logits that they were made of: ``softmax(log p / T) = softmax(z / T)``. T² keeps the gradient as large as that of
the labels' loss whatever the temperature. Several teachers say the weighted mean of what each says at the temperature; the student's
gradient is that of the weighted mean of the losses against each. Everything is computed in float32 with `keras.ops`, on any backend.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.models.combining import FAMILIES
from graftwork.models.lazy import keras

TINY = float(np.finfo(np.float32).tiny)
"""The least that a probability counts as under a logarithm."""

LEAST_SURE = 1e-6
"""What a teacher counts that is not sure at all, so that the weights of teachers that are all unsure do not vanish."""

VALUES, CLASSES, LABELS = FAMILIES["regression"], FAMILIES["logits"], FAMILIES["sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """What one teacher says, and what it counts.

    Attributes:
        kind: What its output is.
        weight: What it counts.
        floor: What stands for a probability of zero in the dtype that it computes in.
        columns: For each class of the student the teacher's column, -1 where it does not know the class; None where all are the same.
    """

    kind: str
    weight: float = 1.0
    floor: float = TINY
    columns: tuple[int, ...] | None = None

    def knows(self, width: int) -> NDArray[np.float32]:
        """Return 1 for each class of the student that the teacher knows, else 0."""
        if self.columns is None:
            return np.ones(width, np.float32)
        return (np.array(self.columns) >= 0).astype(np.float32)


def softened(value: Any, kind: str, temperature: float, floor: float = TINY) -> Any:
    """Return what an output says at a temperature: logarithms of probabilities of classes, logits of yes and no, or values as they are."""
    ops = keras.ops
    value = ops.cast(value, "float32")
    if FAMILIES[kind] == VALUES:
        return value
    if kind in ("probabilities", "sigmoid"):
        yes = ops.log(ops.maximum(value, floor))
        value = yes if kind == "probabilities" else yes - ops.log(ops.maximum(1.0 - value, floor))
    value = value / temperature
    return ops.log_softmax(value, axis=-1) if FAMILIES[kind] == CLASSES else value


def taught(
    values: Sequence[Any], voices: Sequence[Voice], temperature: float, *, confident: bool = False
) -> tuple[Any, NDArray[np.float32] | None]:
    """Return what all teachers say together, and which of it means anything.

    Args:
        values: The output of each teacher.
        voices: What they are.
        temperature: Of classes and labels.
        confident: Whether each counts, for each sample, by how sure it is: one minus its entropy, divided by the largest it could have.

    Returns:
        Probabilities at the temperature, or values; and 1 for each label that a teacher knows, 0 for others; None where all are known.
    """
    ops, family = keras.ops, FAMILIES[voices[0].kind]
    total: Any = 0.0
    counted: Any = 0.0
    for value, voice in zip(values, voices, strict=True):
        said = softened(value, voice.kind, temperature, voice.floor)
        weight: Any = voice.weight
        if confident:
            weight = weight * certainty(value, voice)
        if family != VALUES:
            said = ops.exp(said) if family == CLASSES else ops.sigmoid(said)
        if voice.columns is not None:
            said, weight = _placed(said, voice), _placed_weight(weight, voice)
        total, counted = total + weight * said, counted + weight
    if all(voice.columns is None for voice in voices):
        return total / counted, None
    known = np.max([voice.knows(total.shape[-1]) for voice in voices], axis=0)
    mean = total / ops.maximum(counted, TINY)
    if family == CLASSES:
        mean = mean / ops.sum(mean, axis=-1, keepdims=True)
    return mean, None if known.all() or family == CLASSES else known


def _placed(said: Any, voice: Voice) -> Any:
    """Return probabilities in the order of the student's classes, 0 where the teacher does not know one."""
    columns = np.array(voice.columns, np.int32)
    return keras.ops.take(said, np.maximum(columns, 0), axis=-1) * (columns >= 0).astype(np.float32)


def _placed_weight(weight: Any, voice: Voice) -> Any:
    if FAMILIES[voice.kind] == LABELS and not isinstance(weight, float):
        return _placed(weight, voice)
    return weight * (np.array(voice.columns) >= 0).astype(np.float32)


def certainty(value: Any, voice: Voice) -> Any:
    """Return how sure a teacher is of each sample, at temperature 1: of its class (with an axis of one behind), or of each label."""
    ops = keras.ops
    said = softened(value, voice.kind, 1.0, voice.floor)
    if FAMILIES[voice.kind] == CLASSES:
        chance = math.log(max(int(said.shape[-1]), 2))
        return ops.maximum(1.0 + ops.sum(ops.exp(said) * said, axis=-1, keepdims=True) / chance, LEAST_SURE)
    yes = ops.sigmoid(said)
    return ops.maximum(1.0 - (ops.softplus(said) - yes * said) / math.log(2.0), LEAST_SURE)


def divergence(
    target: Any,
    student: Any,
    kind: str,
    temperature: float,
    *,
    floor: float = TINY,
    known: NDArray[np.float32] | None = None,
) -> Any:
    """Return what a student loses at every position, T² included: the axis of classes, labels or values is gone.

    Args:
        target: What the teachers say, as `taught` returns it.
        student: What the student says.
        kind: What that is.
        temperature: Of both.
        floor: What stands for a probability of zero in the dtype that the student computes in.
        known: Which labels the teachers know.
    """
    ops, family = keras.ops, FAMILIES[kind]
    said = softened(student, kind, temperature, floor)
    if family == VALUES:
        lost = ops.square(target - said)
        return ops.mean(lost, axis=-1) if len(lost.shape) > 1 else lost
    if family == CLASSES:
        return temperature**2 * ops.sum(_x_log_x(target) - target * said, axis=-1)
    lost = ops.softplus(said) - target * said + _x_log_x(target) + _x_log_x(1.0 - target)
    if known is None:
        return temperature**2 * ops.mean(lost, axis=-1)
    return temperature**2 * ops.sum(lost * known, axis=-1) / float(known.sum())


def _x_log_x(value: Any) -> Any:
    return value * keras.ops.log(keras.ops.maximum(value, TINY))


def averaged(values: Any, weights: Any = None, mask: Any = None) -> Any:
    """Return the mean of what is lost at every position as Keras's losses take it: ``Σ w·m·l / Σ m``.

    Args:
        values: One number for every sample, or for every position of every sample.
        weights: What each sample, or each position, counts.
        mask: Which positions there are; the others are padding.
    """
    average = _average()
    if mask is not None:
        keras.src.backend.set_keras_mask(values, mask)  # where Keras's losses look for it
    return average(values, values, sample_weight=spread(weights, len(values.shape)))


def _average() -> Any:
    class Average(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return y_pred

    return Average()


def spread(weights: Any, rank: int) -> Any:
    """Return weights with as many axes as the numbers that they are for; of positions that are no longer told apart, their mean."""
    if weights is None:
        return None
    weights = keras.ops.cast(weights, "float32")
    if len(weights.shape) > rank:
        return keras.ops.mean(weights, axis=tuple(range(rank, len(weights.shape))))
    return keras.ops.reshape(weights, (*keras.ops.shape(weights), *[1] * (rank - len(weights.shape))))


def mask_of(value: Any) -> Any:
    """Return the mask that Keras hangs on a tensor, None where there is none."""
    return keras.src.backend.get_keras_mask(value)

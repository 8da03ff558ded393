"""What a model says as it is judged: probabilities of the classes that labels count, of independent labels, or numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DataError, MismatchError
from graftwork.models.outputs import Kind
from graftwork.training.judging import Task
from graftwork.training.metrics import Floats, Switches

NOT_ONE = 0.02
"""How far from 1 probabilities may sum to; what half precision rounds away is less."""


def task_of(kind: Kind, shape: tuple[int | None, ...]) -> Task:
    """Return what an output is about.

    Args:
        kind: What it gives.
        shape: Its shape without the batch.
    """
    if kind == "regression":
        return "numbers"
    return "labels" if kind in ("sigmoid", "sigmoid_logits") and not _is_single(shape) else "classes"


def width_of(kind: Kind, shape: tuple[int | None, ...]) -> int | None:
    """Return how many classes, labels or numbers an output is about; a single yes or no is about two classes."""
    if kind in ("sigmoid", "sigmoid_logits") and _is_single(shape):
        return 2
    return shape[-1] if shape else 1


def _is_single(shape: tuple[int | None, ...]) -> bool:
    return not shape or shape[-1] == 1


def leading(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the part of the shape of values, the batch among it, that does not count classes, labels or numbers."""
    return shape[:-1] if len(shape) > 1 else shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One output of a model, as far as it is judged.

    Attributes:
        model: The model's name.
        output: The output's name.
        kind: What it gives.
        task: What it is about.
        columns: For each of its classes the number by which labels and other models have it; None where they are the same.
        size: How many classes, labels or numbers there are.
    """

    model: str
    output: str
    kind: Kind
    task: Task
    columns: tuple[int, ...] | None
    size: int

    @property
    def known(self) -> Switches:
        """Which of the classes the model knows."""
        found = np.ones(self.size, bool)
        if self.columns is not None:
            found[:] = False
            found[list(self.columns)] = True
        return found

    def of(self, values: NDArray[np.generic]) -> tuple[Floats, int]:
        """Return what the model says, a row for each sample or position in the columns of labels, and how many rows hold NaN or infinity.

        Raises:
            MismatchError: If values are no probabilities although they should be.
        """
        flat: Floats = values.astype(np.float64).reshape(math.prod(leading(values.shape)), -1)
        if self.kind in ("logits", "sigmoid_logits"):
            with np.errstate(invalid="ignore", over="ignore"):
                flat = softmax(flat) if self.kind == "logits" else 1 / (1 + np.exp(-flat))
        bad = int((~np.isfinite(flat)).any(axis=1).sum())
        if not bad and self.task != "numbers":
            self._refuse_improbable(flat)
        if self.task == "classes" and self.kind in ("sigmoid", "sigmoid_logits"):
            flat = np.concatenate([1 - flat, flat], axis=1)
        if self.columns is None:
            return flat, bad
        found = np.zeros((len(flat), self.size))
        found[:, list(self.columns)] = flat
        return found, bad

    def _refuse_improbable(self, flat: Floats) -> None:
        sums = flat.sum(axis=1)
        where = f"output {self.output!r} of model {self.model!r}"
        if flat.size and (flat.min() < -NOT_ONE or flat.max() > 1 + NOT_ONE):
            raise MismatchError(
                f"{where} should give {self.kind} and gives {flat.min():.3g} to {flat.max():.3g}",
                advice="say what it gives (outputs)",
            )
        if self.kind == "probabilities" and len(sums) and np.abs(sums - 1).max() > NOT_ONE:
            worst = float(sums[np.abs(sums - 1).argmax()])
            raise MismatchError(
                f"{where} should give probabilities that sum to 1, and they sum to {worst:.3g}",
                advice="say what it gives (outputs)",
            )


def softmax(logits: Floats) -> Floats:
    """Return probabilities of classes along the last axis."""
    found: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found /= found.sum(axis=-1, keepdims=True)
    return found


def classes_of(labels: NDArray[np.generic], lead: tuple[int, ...], count: int, where: str) -> NDArray[np.int64]:
    """Return labels as numbers of classes, one for each sample or position.

    Args:
        labels: Numbers of classes, or one entry of 1 among zeros for each.
        lead: The shape that answers have, without the classes.
        count: How many classes labels count.
        where: What messages call the data.

    Raises:
        MismatchError: If their shape does not fit.
        DataError: If they are neither.
    """
    if labels.shape in (lead, (*lead, 1)):
        return labels.reshape(-1).astype(np.int64)
    _fit(labels, [lead, (*lead, 1), (*lead, count)], where)
    flat = labels.reshape(-1, count)
    if not (((flat == 0) | (flat == 1)).all() and (flat.sum(axis=1) == 1).all()):
        raise DataError(
            f"labels of {where} have a column for each of {count} classes and are not all one 1 among zeros; figures are of samples of "
            "one class each"
        )
    return np.asarray(flat.argmax(axis=1), np.int64)


def switches_of(labels: NDArray[np.generic], shape: tuple[int, ...], where: str) -> Switches:
    """Return labels as one switch for each label, one row for each sample or position.

    Raises:
        MismatchError: If their shape does not fit.
        DataError: If they are neither 0 nor 1.
    """
    _fit(labels, [shape], where)
    if not ((labels == 0) | (labels == 1)).all():
        raise DataError(f"labels of {where} are not all 0 or 1, as those of independent labels are")
    return labels.reshape(-1, shape[-1]).astype(bool)


def numbers_of(labels: NDArray[np.generic], shape: tuple[int, ...], where: str) -> Floats:
    """Return labels as numbers, one row for each sample or position.

    Raises:
        MismatchError: If their shape does not fit.
    """
    _fit(labels, [shape, (*shape, 1)] + ([shape[:-1]] if shape[-1] == 1 and len(shape) > 1 else []), where)
    return labels.astype(np.float64).reshape(-1, shape[-1] if len(shape) > 1 else 1)


def weights_of(weights: NDArray[np.generic] | None, lead: tuple[int, ...], where: str) -> Floats:
    """Return what each sample or position counts.

    Raises:
        MismatchError: If their shape does not fit.
    """
    if weights is None:
        return np.ones(math.prod(lead))
    if weights.shape in (lead, (*lead, 1)):
        return weights.astype(np.float64).reshape(-1)
    _fit(weights, [lead, lead[:1], (*lead[:1], 1)], where, "weights")
    return np.repeat(weights.astype(np.float64).reshape(-1), math.prod(lead[1:]))


def _fit(values: NDArray[np.generic], shapes: Sequence[tuple[int, ...]], where: str, what: str = "labels") -> None:
    if values.shape not in shapes:
        expected = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
        raise MismatchError(f"{what} of {where} have the shape {values.shape} for a batch, expected {expected}")

"""What is judged of an output, by what it is: classes, independent labels, or numbers.

A judge takes labels and what a model says of them batch by batch, and gives figures at the end; see `graftwork.training.metrics`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.models.outputs import Kind
from graftwork.training.metrics import (
    Average,
    Bin,
    Calibration,
    ClassScore,
    Confusion,
    Correlation,
    Counts,
    Deviations,
    Floats,
    Integers,
    Reasons,
    SameClass,
    Scores,
    Switches,
    among_first,
    auc_macro,
    binary_losses,
    f1_macro,
    f1_weighted,
    losses,
)

Task: TypeAlias = Literal["classes", "labels", "numbers"]
"""One class for each sample, any number of independent labels, or numbers."""

HIGHER = ("accuracy", "top", "exact_match", "f1_macro", "f1_weighted", "auc", "r2")
"""Figures of which more is better (``top_5`` and the like counting as ``top``); of the others less is."""


def higher_is_better(figure: str) -> bool:
    """Return whether more of a figure is better."""
    return figure in HIGHER or figure.startswith("top_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How good one output of one model is.

    Attributes:
        output: The output's name.
        kind: What it gives.
        metrics: The figures by name; None where one is not defined.
        reasons: Why, by name.
        per_class: One row for each class or label, in their order.
        confusion: Weight of samples by class (rows) and what is said of them (columns), of classes only.
        reliability: Bins of confidence.
    """

    output: str
    kind: Kind
    metrics: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[float, ...], ...] | None = None
    reliability: tuple[Bin, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as JSON takes them."""
        return {
            "output": self.output,
            "kind": self.kind,
            "metrics": dict(self.metrics),
            "reasons": dict(self.reasons),
            "per_class": [asdict(row) for row in self.per_class],
            "confusion": None if self.confusion is None else [list(row) for row in self.confusion],
            "reliability": [asdict(row) for row in self.reliability],
        }


class Judge(Protocol):
    """Judges one output of one model."""

    def add(self, labels: NDArray[Any], said: Floats, weights: Floats) -> None:
        """Add samples: their labels, probabilities or numbers, and what each counts."""

    def figures(self, output: str, kind: Kind) -> Figures:
        """Return what was found."""


class ClassJudge:
    """Judges probabilities of classes against the number of the class.

    Args:
        classes: What they are called.
        known: Which of them the model knows.
        top: k of the top-k accuracy, which is left out where there are not more classes.
        bins: Bins of confidence.
    """

    def __init__(self, classes: Sequence[str], known: Switches, top: int, bins: int) -> None:
        size = len(classes)
        self._classes, self._known, self._top = classes, known, top
        self._right, self._among, self._loss = Average(), Average(), Average()
        self._counts, self._confusion, self._scores = Counts(size), Confusion(size), Scores()
        self._calibration = Calibration(bins)
        self._strange = 0

    def add(self, labels: Integers, said: Floats, weights: Floats) -> None:
        """Add samples: the number of each one's class, a probability for every class."""
        answers = said.argmax(axis=1)
        right = answers == labels
        self._right.add(right, weights)
        if 1 < self._top < len(self._classes):
            self._among.add(among_first(labels, said, self._top), weights)
        self._loss.add(losses(labels, said), weights)
        self._counts.add(labels, answers, weights)
        self._confusion.add(labels, answers, weights)
        self._scores.add(labels, said, weights)
        self._calibration.add(said.max(axis=1), right, weights)
        self._strange += int(((~self._known[labels]) & (weights > 0)).sum())

    def figures(self, output: str, kind: Kind) -> Figures:
        """Return what was found."""
        why: Reasons = {}
        areas = self._scores.areas()
        rows = self._counts.scores(areas or None)
        metrics: dict[str, float | None] = {"accuracy": self._right.value()}
        if 1 < self._top < len(self._classes):
            metrics[f"top_{self._top}"] = self._among.value()
        metrics["log_loss"] = self._loss.value()
        if self._strange:
            metrics["log_loss"] = None
            many = f"{self._strange:,} samples are of classes" if self._strange > 1 else "1 sample is of a class"
            why["log_loss"] = f"{many} that the model does not know"
        metrics["f1_macro"], metrics["f1_weighted"] = f1_macro(rows), f1_weighted(rows)
        metrics["auc"] = auc_macro(areas, self._classes, why, exclusive=True, dropped=self._scores.dropped)
        metrics["ece"] = self._calibration.error()
        return Figures(
            output=output,
            kind=kind,
            metrics=metrics,
            reasons=_told(metrics, why),
            per_class=rows,
            confusion=_rows(self._confusion.matrix),
            reliability=self._calibration.curve(),
        )


class LabelJudge:
    """Judges probabilities of independent labels against which of them there are; more than a half is said to be.

    Args:
        labels: What they are called.
        bins: Bins of confidence.
    """

    def __init__(self, labels: Sequence[str], bins: int) -> None:
        self._labels = labels
        self._right, self._exact, self._loss = Average(), Average(), Average()
        self._counts, self._scores, self._calibration = Counts(len(labels)), Scores(), Calibration(bins)

    def add(self, labels: Switches, said: Floats, weights: Floats) -> None:
        """Add samples: a switch and a probability for every label."""
        answers = said > 0.5
        right = answers == labels
        self._right.add(right.mean(axis=1), weights)
        self._exact.add(right.all(axis=1), weights)
        self._loss.add(binary_losses(labels, said).mean(axis=1), weights)
        self._counts.add_switches(labels, answers, weights)
        self._scores.add(labels, said, weights)
        self._calibration.add(said.ravel(), labels.ravel(), np.repeat(weights, labels.shape[1]))

    def figures(self, output: str, kind: Kind) -> Figures:
        """Return what was found."""
        why: Reasons = {"f1_weighted": "no label occurs"}
        areas = self._scores.areas()
        rows = self._counts.scores(areas or None)
        metrics = {
            "accuracy": self._right.value(),
            "exact_match": self._exact.value(),
            "log_loss": self._loss.value(),
            "f1_macro": f1_macro(rows, absent=self._right.value() is not None),
            "f1_weighted": f1_weighted(rows),
            "auc": auc_macro(areas, self._labels, why, exclusive=False, dropped=self._scores.dropped),
            "ece": self._calibration.error(),
        }
        return Figures(
            output=output,
            kind=kind,
            metrics=metrics,
            reasons=_told(metrics, why),
            per_class=rows,
            reliability=self._calibration.curve(),
        )


class NumberJudge:
    """Judges numbers.

    Args:
        columns: How many a sample has.
    """

    def __init__(self, columns: int) -> None:
        self._deviations = Deviations(columns)

    def add(self, labels: Floats, said: Floats, weights: Floats) -> None:
        """Add samples: their numbers, and what a model says of them."""
        self._deviations.add(labels, said, weights)

    def figures(self, output: str, kind: Kind) -> Figures:
        """Return what was found."""
        why: Reasons = {}
        metrics = self._deviations.figures(why)
        return Figures(output=output, kind=kind, metrics=metrics, reasons=_told(metrics, why))


def _told(metrics: Mapping[str, float | None], why: Reasons) -> Reasons:
    """Return a reason for everything that is not defined."""
    if all(value is None for value in metrics.values()):
        return dict.fromkeys(metrics, "no sample counts")
    return {name: why.get(name, "no sample counts") for name, value in metrics.items() if value is None}


def _rows(matrix: NDArray[np.float64] | None) -> tuple[tuple[float, ...], ...] | None:
    return None if matrix is None else tuple(tuple(row) for row in matrix.tolist())


def judge(task: Task, names: Sequence[str], known: Switches, *, top: int, bins: int) -> Judge:
    """Return what judges an output.

    Args:
        task: What it is about.
        names: What its classes, labels or numbers are called.
        known: Which classes the model knows.
        top: k of the top-k accuracy.
        bins: Bins of confidence.
    """
    if task == "classes":
        return ClassJudge(names, known, top, bins)
    return LabelJudge(names, bins) if task == "labels" else NumberJudge(len(names))


class Agreement:
    """How far two models say the same, whatever the labels are.

    Args:
        task: What they speak about.
        size: How many classes, labels or numbers there are.
    """

    def __init__(self, task: Task, size: int) -> None:
        self._task = task
        self._same = SameClass(size if task == "classes" else 2)
        self._correlation = Correlation(size)

    def add(self, first: NDArray[Any], second: NDArray[Any], weights: Floats) -> None:
        """Add what both decide for; see `graftwork.training.decisions.decided`."""
        if self._task == "numbers":
            self._correlation.add(first, second, weights)
            return
        each = first.shape[1] if self._task == "labels" else 1
        self._same.add(first.ravel().astype(np.int64), second.ravel().astype(np.int64), np.repeat(weights, each))

    def figures(self, why: Reasons) -> Mapping[str, float | None]:
        """Return the share of equal answers and Cohen's kappa; of numbers their correlation.

        Args:
            why: Is told why a figure is None.
        """
        return (self._correlation if self._task == "numbers" else self._same).figures(why)

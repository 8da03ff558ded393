"""How good predictions are, in NumPy alone: figures that are added up batch by batch, and are scikit-learn's on the same predictions.

Every accumulator takes labels, predictions and what each counts, as often as there are batches, and gives its figures at the end. Where a
figure is not defined it is None, with a reason; NaN is never a figure. A sample of weight 0 is as if it were not there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Switches = NDArray[np.bool_]

EPSILON = float(np.finfo(np.float64).eps)
"""Probabilities are taken to be at least this, and at most 1 less this, under a logarithm; as in scikit-learn."""

BINS = 15
"""Bins of confidence that calibration is measured in."""

MOST_CLASSES = 1000
"""Classes up to which a confusion matrix is kept."""

TOGETHER = 64
"""Classes whose scores are laid out in memory at a time."""

MOST_BYTES = 1 << 30
"""What scores may need in memory, all of which have to be known before the area under a curve is."""


Reasons = dict[str, str]
"""Why figures are None, by their name."""


class Average:
    """The weighted mean of numbers: accuracies and losses."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0

    def add(self, values: Floats | Switches, weights: Floats) -> None:
        """Add one number for each weight."""
        self._sum += float((values * weights).sum())
        self._weight += float(weights.sum())

    def value(self) -> float | None:
        """Return the mean, None of nothing."""
        return self._sum / self._weight if self._weight else None


def among_first(labels: Integers, scores: Floats, k: int) -> Switches:
    """Return of which samples the class is among the `k` that score highest; of equal scores the later class comes first.

    That is scikit-learn's `top_k_accuracy_score`. With equal scores `k` of 1 may therefore differ from the accuracy, which takes the first.
    """
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    later = np.arange(scores.shape[1]) > labels[:, None]
    found: Switches = ((scores > own) | ((scores == own) & later)).sum(axis=1) < k
    return found


def losses(labels: Integers, probabilities: Floats) -> Floats:
    """Return ``-log p(label)`` of each sample, with probabilities at least `EPSILON` and at most 1 less that."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]
    return -np.log(np.clip(own.astype(np.float64), EPSILON, 1 - EPSILON))


def binary_losses(labels: Switches, probabilities: Floats) -> Floats:
    """Return ``-log p`` of what is, ``-log (1 - p)`` of what is not, with probabilities in the same bounds."""
    p = np.clip(probabilities.astype(np.float64), EPSILON, 1 - EPSILON)
    return -np.log(np.where(labels, p, 1 - p))


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """How one class is told.

    Attributes:
        precision: Of what is said to be of the class, the share that is; None if nothing is.
        recall: Of what is of the class, the share that is said to be; None if nothing is.
        f1: Their harmonic mean, ``2 tp / (2 tp + fp + fn)``; None where the class neither occurs nor is said.
        support: The weight of the samples of the class.
        auc: Area under the ROC curve of the class against all others; None where it is not defined.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: float
    auc: float | None = None


class Counts:
    """How often each of some classes is meant, said, and both.

    Args:
        classes: How many there are.
    """

    def __init__(self, classes: int) -> None:
        self.meant, self.said, self.both = (np.zeros(classes) for _ in range(3))

    def add(self, labels: Integers, said: Integers, weights: Floats) -> None:
        """Add samples of one class each."""
        size = len(self.meant)
        self.meant += np.bincount(labels, weights, size)
        self.said += np.bincount(said, weights, size)
        self.both += np.bincount(labels[labels == said], weights[labels == said], size)

    def add_switches(self, labels: Switches, said: Switches, weights: Floats) -> None:
        """Add samples of any number of classes each: one column for each class."""
        self.meant += weights @ labels
        self.said += weights @ said
        self.both += weights @ (labels & said)

    def scores(self, aucs: Sequence[float | None] | None = None) -> tuple[ClassScore, ...]:
        """Return one row for each class."""
        areas = aucs if aucs is not None else [None] * len(self.meant)
        rows = zip(self.meant.tolist(), self.said.tolist(), self.both.tolist(), areas, strict=True)
        return tuple(
            ClassScore(
                precision=both / said if said else None,
                recall=both / meant if meant else None,
                f1=2 * both / (meant + said) if meant + said else None,
                support=meant,
                auc=auc,
            )
            for meant, said, both, auc in rows
        )


def f1_macro(scores: Sequence[ClassScore], *, absent: bool = False) -> float | None:
    """Return the mean of the classes' F1.

    Args:
        scores: One row for each class.
        absent: Whether a class that neither occurs nor is said counts, as 0. scikit-learn leaves it out among classes, and counts it
            among independent labels.
    """
    found = [row.f1 if row.f1 is not None else 0.0 for row in scores if absent or row.f1 is not None]
    return sum(found) / len(found) if found else None


def f1_weighted(scores: Sequence[ClassScore]) -> float | None:
    """Return the mean of the classes' F1, each counting as much as its samples."""
    whole = sum(row.support for row in scores)
    return sum(row.support * (row.f1 or 0.0) for row in scores) / whole if whole else None


class Confusion:
    """The weight of the samples of each class (rows) that are said to be of each class (columns).

    Args:
        classes: How many there are; beyond `MOST_CLASSES` nothing is kept.
    """

    def __init__(self, classes: int) -> None:
        self.matrix = np.zeros((classes, classes)) if classes <= MOST_CLASSES else None

    def add(self, labels: Integers, said: Integers, weights: Floats) -> None:
        """Add samples."""
        if self.matrix is not None:
            np.add.at(self.matrix, (labels, said), weights)


def area(positive: Switches, scores: Floats, weights: Floats) -> float | None:
    """Return the area under the ROC curve: how probably a positive sample scores higher than a negative one, equal scores counting half.

    Returns:
        The area; None if all samples that count are positive, or all negative.
    """
    counted = weights > 0
    positive, scores, weights = positive[counted], scores[counted], weights[counted].astype(np.float64)
    order = np.argsort(scores)
    positive, scores, weights = positive[order], scores[order], weights[order]
    if positive.all() or not positive.any():
        return None
    level = np.cumsum(np.concatenate([[False], scores[1:] != scores[:-1]]))
    ups, downs = (np.bincount(level, np.where(side, weights, 0.0)) for side in (positive, ~positive))
    below = np.cumsum(downs) - downs
    return float((ups * (below + downs / 2)).sum() / (ups.sum() * downs.sum()))


class Scores:
    """All scores, of which areas under ROC curves are computed at the end: one column for each class against all others.

    Args:
        most_bytes: What they may need; beyond it they are dropped, and there are no areas.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._parts: list[tuple[NDArray[Any], Floats, Floats]] = []
        self._bytes, self._most = 0, most_bytes
        self.dropped = False

    def add(self, labels: NDArray[Any], scores: Floats, weights: Floats) -> None:
        """Add samples: labels are numbers of classes, or one switch for each class."""
        if self.dropped:
            return
        self._bytes += labels.nbytes + scores.nbytes + weights.nbytes
        if self._bytes > self._most:
            self._parts, self.dropped = [], True
        else:
            self._parts.append((labels, scores, weights))

    def areas(self) -> list[float | None]:
        """Return the area of each class; none if scores were dropped, or there are none."""
        if not self._parts:
            return []
        labels, scores, counted = zip(*self._parts, strict=True)
        weights = np.concatenate(counted)
        found: list[float | None] = []
        for first in range(0, scores[0].shape[1], TOGETHER):
            columns = slice(first, first + TOGETHER)
            several = labels[0].ndim > 1
            meant = np.concatenate([part[:, columns] if several else part[:, None] for part in labels]).T
            said = np.ascontiguousarray(np.concatenate([part[:, columns] for part in scores]).T)
            found += [area(meant[k] if several else meant[0] == first + k, said[k], weights) for k in range(len(said))]
        return found


def auc_macro(
    areas: Sequence[float | None], names: Sequence[str], why: Reasons, *, exclusive: bool, dropped: bool = False
) -> float | None:
    """Return the mean of areas under ROC curves; of two classes of which every sample has one, that of the second.

    It is None where a class has none, as it is NaN in scikit-learn.

    Args:
        areas: One for each class.
        names: What the classes are called.
        why: Is told the reason if there is no mean.
        exclusive: Whether every sample has one class.
        dropped: Whether there are no areas because there were too many scores.
    """
    missing = [name for name, each in zip(names, areas, strict=False) if each is None]
    if dropped:
        why["auc"] = f"all scores together need more than {MOST_BYTES >> 30} GiB"
    elif not areas:
        why["auc"] = "no sample counts"
    elif len(missing) == len(names):
        why["auc"] = "all samples are alike"
    elif missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        why["auc"] = f"no samples with and without {shown}"
    else:
        found = [each for each in areas if each is not None]
        return found[1] if exclusive and len(found) == 2 else sum(found) / len(found)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Predictions of similar confidence.

    Attributes:
        low: Confidence above which they are (0 belongs to the first bin).
        high: The highest there may be.
        weight: What they count together.
        confidence: Their mean confidence.
        accuracy: The share of them that is right.
    """

    low: float
    high: float
    weight: float
    confidence: float
    accuracy: float


class Calibration:
    """How well confidence says how often predictions are right.

    ::

        ECE = Σₘ |Bₘ| / n · |acc(Bₘ) - conf(Bₘ)|,   Bₘ = the predictions with a confidence in ((m - 1) / M, m / M]

    in M bins of equal width, |Bₘ| and n being sums of weights: Naeini et al. (2015); Guo et al., On Calibration of Modern Neural Networks
    (2017), https://arxiv.org/abs/1706.04599, section 2. For classes, confidence is the probability of the class that is said, and right is
    whether it is the label; for independent labels, confidence is the probability that one is there, and right whether it is.

    Args:
        bins: M.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.edges = np.linspace(0, 1, bins + 1)
        self._weight, self._confidence, self._right = (np.zeros(bins) for _ in range(3))

    def add(self, confidence: Floats, right: Switches, weights: Floats) -> None:
        """Add predictions."""
        size = len(self._weight)
        place = np.searchsorted(self.edges[1:-1], confidence, side="left")
        self._weight += np.bincount(place, weights, size)
        self._confidence += np.bincount(place, weights * confidence, size)
        self._right += np.bincount(place, weights * right, size)

    def error(self) -> float | None:
        """Return the expected calibration error, None of nothing."""
        whole = float(self._weight.sum())
        return float(np.abs(self._right - self._confidence).sum()) / whole if whole else None

    def curve(self) -> tuple[Bin, ...]:
        """Return the bins that have predictions: the reliability curve."""
        return tuple(self._bins())

    def _bins(self) -> Iterator[Bin]:
        for m, weight in enumerate(self._weight.tolist()):
            if weight:
                yield Bin(
                    low=float(self.edges[m]),
                    high=float(self.edges[m + 1]),
                    weight=weight,
                    confidence=float(self._confidence[m]) / weight,
                    accuracy=float(self._right[m]) / weight,
                )


class Deviations:
    """Errors of numbers, and how much of their variance is explained; one column for each number of a sample.

    Means and squared deviations are updated as Chan, Golub and LeVeque (1979) do: batches add up to what one pass over all gives.

    Args:
        columns: How many numbers a sample has.
    """

    def __init__(self, columns: int) -> None:
        self._weight, self._count = 0.0, 0
        self._absolute, self._squared, self._mean, self._spread = (np.zeros(columns) for _ in range(4))
        self._least, self._most = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, labels: Floats, said: Floats, weights: Floats) -> None:
        """Add samples."""
        counted = weights > 0
        labels, said, weights = labels[counted].astype(np.float64), said[counted].astype(np.float64), weights[counted]
        if not len(labels):
            return
        errors = labels - said
        self._absolute += weights @ np.abs(errors)
        self._squared += weights @ errors**2
        self._least = np.minimum(self._least, labels.min(axis=0))
        self._most = np.maximum(self._most, labels.max(axis=0))
        weight = float(weights.sum())
        mean = (weights @ labels) / weight
        step = mean - self._mean
        whole = self._weight + weight
        self._spread += weights @ (labels - mean) ** 2 + step**2 * (self._weight * weight / whole)
        self._mean += step * (weight / whole)
        self._weight, self._count = whole, self._count + len(labels)

    def figures(self, why: Reasons) -> Mapping[str, float | None]:
        """Return MAE, MSE and R², each the mean over columns.

        R² of labels that are all the same is 1 if they are met exactly and else 0, and of fewer than two samples it is not defined; both as
        in scikit-learn.

        Args:
            why: Is told why a figure is None.
        """
        if not self._count:
            why.update(dict.fromkeys(("mae", "mse", "r2"), "no sample counts"))
            return {"mae": None, "mse": None, "r2": None}
        explained = None
        if self._count < 2:
            why["r2"] = "one sample has no variance"
        else:
            constant = self._least == self._most
            shares = 1 - self._squared / np.where(constant, 1.0, self._spread)
            explained = float(np.where(constant, self._squared == 0, shares).mean())
        return {
            "mae": float((self._absolute / self._weight).mean()),
            "mse": float((self._squared / self._weight).mean()),
            "r2": explained,
        }


class SameClass:
    """How far two models say the same of samples: the share of equal answers, and Cohen's kappa.

    ::

        κ = (pₒ - pₑ) / (1 - pₑ)    pₒ the share of equal answers, pₑ = Σₖ p₁(k) p₂(k) the share if they knew nothing of each other

    Args:
        answers: How many different answers there are.
    """

    def __init__(self, answers: int) -> None:
        self._counts = Counts(answers)

    def add(self, first: Integers, second: Integers, weights: Floats) -> None:
        """Add answers of both."""
        self._counts.add(first, second, weights)

    def figures(self, why: Reasons) -> Mapping[str, float | None]:
        """Return the share of samples of which both say the same, and kappa.

        Args:
            why: Is told why a figure is None.
        """
        whole = float(self._counts.meant.sum())
        if not whole:
            why.update(dict.fromkeys(("same", "kappa"), "no sample counts"))
            return {"same": None, "kappa": None}
        same = float(self._counts.both.sum()) / whole
        if (self._counts.meant == whole).any() and (self._counts.said == whole).any() and same == 1:
            why["kappa"] = "both say the same of every sample"
            return {"same": same, "kappa": None}
        chance = float((self._counts.meant * self._counts.said).sum()) / whole**2
        return {"same": same, "kappa": (same - chance) / (1 - chance)}


class Correlation:
    """Pearson's correlation of the numbers that two models give, the mean over columns.

    Args:
        columns: How many numbers a sample has.
    """

    def __init__(self, columns: int) -> None:
        self._weight = 0.0
        self._mean, self._least, self._most = (
            np.zeros((2, columns)),
            np.full((2, columns), np.inf),
            np.full((2, columns), -np.inf),
        )
        self._spread, self._joint = np.zeros((2, columns)), np.zeros(columns)

    def add(self, first: Floats, second: Floats, weights: Floats) -> None:
        """Add what both give."""
        counted = weights > 0
        both, weights = np.stack([first[counted], second[counted]]).astype(np.float64), weights[counted]
        if not len(weights):
            return
        weight = float(weights.sum())
        mean = (weights @ both) / weight
        apart = both - mean[:, None]
        step, whole = mean - self._mean, self._weight + weight
        share = self._weight * weight / whole
        self._spread += weights @ apart**2 + step**2 * share
        self._joint += weights @ (apart[0] * apart[1]) + step[0] * step[1] * share
        self._mean += step * (weight / whole)
        self._least, self._most = np.minimum(self._least, both.min(axis=1)), np.maximum(self._most, both.max(axis=1))
        self._weight = whole

    def figures(self, why: Reasons) -> Mapping[str, float | None]:
        """Return the correlation.

        Args:
            why: Is told why it is None.
        """
        if not (self._least < self._most).all() or not (self._spread > 0).all():
            why["correlation"] = "a model always gives the same" if self._weight else "no sample counts"
            return {"correlation": None}
        found = self._joint / np.sqrt(self._spread[0] * self._spread[1])
        return {"correlation": float(np.clip(found, -1.0, 1.0).mean())}

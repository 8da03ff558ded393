"""What a model forgot of an old task: measured on data of that task, before and after."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data import Samples
from graftwork.errors import MismatchError
from graftwork.training.feeding import predictions
from graftwork.training.matching import CATEGORICAL, SWITCHES, Target, check_labels


@dataclass(slots=True)
class Task:
    """An old task of a model with one output.

    Args:
        model: The model as it was made for that task; its layers are trained elsewhere.
        samples: Data of the task, `matched` with it.
        target: Its output.
        batch: Samples that are run at a time.
    """

    model: Any
    samples: Samples
    target: Target
    batch: int
    _before: Any = field(default=None, init=False, repr=False)
    _folder: Any = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="graftwork-"), init=False, repr=False
    )

    @property
    def labelled(self) -> bool:
        """Whether labels are those of the model's output."""
        if self.samples.labels is None or self.target.kind is None:
            return False
        try:
            check_labels(self.samples, self.target)
        except MismatchError:
            return False
        return True

    def remember(self) -> dict[str, float]:
        """Return how good the model is now, and keep what it says."""
        return self._measured(keep=True)

    def compare(self) -> dict[str, float]:
        """Return how good the model is now, and how far what it says is from what it said then.

        ``moved`` is the mean over samples of ``‖now - then‖ / ‖then‖``, ``agreement`` the share of samples that get the same class.
        """
        return self._measured(keep=False)

    def _measured(self, *, keep: bool) -> dict[str, float]:
        sums: dict[str, float] = {}
        weight, done = 0.0, 0
        labelled = self.labelled
        for part, said in predictions(self.model, self.samples, self.batch):
            values = next(iter(said.values()))
            weights = (
                np.ones(len(values)) if part.weights is None else part.weights.reshape(len(values), -1).mean(axis=1)
            )
            found: dict[str, NDArray[Any]] = {}
            if labelled:
                found |= _right(values, np.asarray(part.labels), self.target.kind or "")
            if keep:
                self._keep(values, done)
            elif self._before is not None:
                found |= _moved(values, self._before[done : done + len(values)], self.target.kind)
            for name, each in found.items():
                sums[name] = sums.get(name, 0.0) + float((each * weights).sum())
            weight += float(weights.sum())
            done += len(values)
        return {name: total / weight for name, total in sums.items()}

    def _keep(self, values: NDArray[Any], done: int) -> None:
        if self._before is None:
            shape = (len(self.samples), *values.shape[1:])
            self._before = np.memmap(Path(self._folder.name) / "before", values.dtype, "w+", shape=shape)
        self._before[done : done + len(values)] = values


def _right(values: NDArray[Any], labels: NDArray[Any], kind: str) -> Mapping[str, NDArray[Any]]:
    """Return for each sample how good an answer is."""
    rows = len(values)
    if kind in CATEGORICAL:
        meant = labels.argmax(-1) if labels.shape == values.shape else labels.reshape(values.shape[:-1])
        return {"accuracy": (values.argmax(-1) == meant).reshape(rows, -1).mean(axis=1)}
    if kind in SWITCHES:
        said = values > (0.5 if kind == "sigmoid" else 0.0)
        return {"accuracy": (said == (labels.reshape(values.shape) > 0.5)).reshape(rows, -1).mean(axis=1)}
    wrong = values.astype(np.float64) - labels.reshape(values.shape)
    return {"mse": (wrong**2).reshape(rows, -1).mean(axis=1)}


def _moved(now: NDArray[Any], then: NDArray[Any], kind: str | None) -> Mapping[str, NDArray[Any]]:
    """Return for each sample how far an answer is from the one before."""
    a, b = now.astype(np.float64).reshape(len(now), -1), then.astype(np.float64).reshape(len(then), -1)
    far = np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), np.finfo(np.float32).tiny)
    found = {"moved": far}
    if kind in CATEGORICAL:
        found["agreement"] = (now.argmax(-1) == then.argmax(-1)).reshape(len(now), -1).mean(axis=1)
    return found

"""What judging models finds, as values: figures by model for each column of labels, agreement, times and sizes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from graftwork.training.contenders import Latency
from graftwork.training.judging import Figures, Task, higher_is_better


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A model that was judged.

    Attributes:
        name: What it is called.
        source: Where it comes from.
        parameters: How many it has; None of a SavedModel that holds them in its graph.
        size_bytes: Its size on disk, None of a live model.
        latency: How long it takes; None if that was not measured.
    """

    name: str
    source: str
    parameters: int | None
    size_bytes: int | None
    latency: Latency | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How far two models say the same, whatever the labels are.

    Attributes:
        a: One model.
        b: The other.
        figures: The share of equal answers (``same``) and Cohen's kappa (``kappa``); of numbers their ``correlation``.
        reasons: Why one is None.
    """

    a: str
    b: str
    figures: Mapping[str, float | None]
    reasons: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found about one column of labels.

    Attributes:
        labels: The column.
        task: What it is about: ``classes``, ``labels`` (independent ones) or ``numbers``.
        names: What the classes, labels or numbers are called.
        figures: How good each model is, by its name.
        agreement: One for each pair of models.
    """

    labels: str
    task: Task
    names: tuple[str, ...]
    figures: Mapping[str, Figures]
    agreement: tuple[Pair, ...]

    def best(self, figure: str) -> tuple[str, ...]:
        """Return the names of the models with the best value of a figure; none where all that have it have the same."""
        found = {name: row.metrics.get(figure) for name, row in self.figures.items()}
        values = [value for value in found.values() if value is not None]
        if len(set(values)) < 2:
            return ()
        best = max(values) if higher_is_better(figure) else min(values)
        return tuple(name for name, value in found.items() if value == best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """How good models are.

    Attributes:
        data: What the samples are called.
        samples: How many there are.
        models: The models, in the order given.
        verdicts: One for each column of labels.
        notes: What the user should know.
    """

    data: str
    samples: int
    models: tuple[Judged, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, as JSON takes them: no figure is NaN or infinite."""
        return {
            "data": self.data,
            "samples": self.samples,
            "models": [asdict(model) for model in self.models],
            "verdicts": [
                {
                    "labels": verdict.labels,
                    "task": verdict.task,
                    "names": list(verdict.names),
                    "figures": {name: row.to_dict() for name, row in verdict.figures.items()},
                    "agreement": [asdict(pair) for pair in verdict.agreement],
                }
                for verdict in self.verdicts
            ],
            "notes": list(self.notes),
        }

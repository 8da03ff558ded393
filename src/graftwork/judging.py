"""Evaluations as steps of recipes: planned, made, and written as JSON."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from graftwork.data import Samples, Stream
from graftwork.errors import OptionError, OutputError, StoreError
from graftwork.stores import Format
from graftwork.stores.staged import Staged, check_target
from graftwork.training.evaluating import evaluate
from graftwork.training.evaluation import Evaluation
from graftwork.writing import Progress, Result, Target


def _not_read(path: Path) -> NoReturn:
    raise StoreError(f"{path} is an evaluation, no model")


JSON = Format(
    name="evaluation",
    summary="figures of an evaluation, as JSON",
    suffixes=(".json",),
    recognise=Path.is_file,
    open=_not_read,
    create=None,
)
"""The file of an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """What is to be judged.

    Attributes:
        models: Name and path of each model.
        data: The samples.
        wishes: The further arguments of `graftwork.training.evaluating.evaluate`.
        notes: What the user should know beforehand.
    """

    models: tuple[tuple[str, Path], ...]
    data: Samples | Stream
    wishes: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def check_evaluation(plan: EvaluationPlan, target: Target) -> None:
    """Refuse a target that cannot take an evaluation.

    Raises:
        OutputError: With the reason.
        OptionError: If the target asks for another format.
    """
    if target.format not in (None, JSON.name):
        raise OptionError(f"an evaluation is written as JSON, not as {target.format!r}")
    if target.path.suffix != ".json":
        raise OutputError(f"the target {target.path} must end in .json")
    check_target(target.path, JSON, [path for _, path in plan.models], overwrite=target.overwrite)


def write_evaluation(plan: EvaluationPlan, target: Target, progress: Progress | None = None) -> Result:
    """Judge models and write what was found."""
    check_evaluation(plan, target)
    begin = time.perf_counter()
    found = evaluate(dict(plan.models), plan.data, progress=progress, **plan.wishes)
    notes = save_evaluation(found, target)
    return Result(
        path=target.path,
        format=JSON.name,
        tensors=0,
        size_bytes=target.path.stat().st_size,
        seconds=time.perf_counter() - begin,
        notes=(*found.notes, *notes),
        tables={verdict.labels: rows(found, verdict.labels) for verdict in found.verdicts},
    )


def save_evaluation(found: Evaluation, target: Target) -> tuple[str, ...]:
    """Write what was found, and return what is to be known of the place."""
    with Staged(target.path, JSON, overwrite=target.overwrite) as staged:
        text = json.dumps(found.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        staged.path.write_text(text + "\n", encoding="utf-8")
        staged.commit()
    return staged.notes


def rows(found: Evaluation, labels: str) -> list[dict[str, Any]]:
    """Return one row for each model: its figures about a column of labels."""
    verdict = next(each for each in found.verdicts if each.labels == labels)
    return [{"model": name, **row.metrics} for name, row in verdict.figures.items()]

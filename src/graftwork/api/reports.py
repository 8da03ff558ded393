"""What a step of a recipe would do, as values: one report for each kind of plan."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from graftwork import estimates, extraction
from graftwork.api.plans import PlanReport, of_merge
from graftwork.composing import CompositionPlan, check_composition
from graftwork.data import Samples
from graftwork.jobs import Job, LaterPlan, check_adapter, check_servable
from graftwork.judging import EvaluationPlan, check_evaluation
from graftwork.models.savedmodel import ServablePlan
from graftwork.stores.staged import free_bytes
from graftwork.writing import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionReport:
    """What a composition of graphs would make.

    Attributes:
        step: Name of the step.
        verb: What it does.
        members: One row for each model that goes in: name, source, class, layers, parameters, inputs and outputs.
        inputs: The inputs of the result: name, shape, dtype.
        outputs: Likewise.
        parameters: How many it has: ``total``, ``trained``, ``frozen``, and ``new`` ones, which are not trained yet.
        size_bytes: What its weights need.
        needs: What Keras has to be given to load the result; empty for a plain model.
        tables: What was decided, by what it is about (``classes``, …), as rows.
        free_bytes: Free disk at the target, where one is named.
        notes: What the user should know.
    """

    step: str
    verb: str
    members: tuple[Mapping[str, Any], ...]
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, int]
    size_bytes: int
    needs: str
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    free_bytes: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServableReport:
    """What a step on SavedModels would make.

    Attributes:
        step: Name of the step.
        verb: What it does.
        sources: Label and path of everything that goes in.
        format: What comes out: ``"saved_model"``, ``"frozen_graph"`` or ``"keras"``.
        signatures: One row for each port of each signature of the result: signature, port, name, shape, dtype.
        size_bytes: About what it takes on disk.
        tables: What was decided, by what it is about, as rows.
        free_bytes: Free disk at the target, where one is named.
        notes: What the user should know.
    """

    step: str
    verb: str
    sources: tuple[tuple[str, str], ...]
    format: str
    signatures: tuple[Mapping[str, Any], ...]
    size_bytes: int
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    free_bytes: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterReport:
    """A step of which only its making, or that of a step before, tells what it would do.

    Attributes:
        step: Name of the step.
        verb: What it does.
        models: Names of what goes in.
        waits_for: The step after which it can be planned.
        free_bytes: Free disk at the target, where one is named.
        notes: What the user should know.
    """

    step: str
    verb: str
    models: tuple[str, ...]
    waits_for: str
    free_bytes: int | None
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


Report = PlanReport | CompositionReport | ServableReport | LaterReport
"""What a step would do."""


def report_of(name: str, job: Job, target: Target | None, threads: int | None) -> Report:
    """Return what a step of a recipe would do.

    Raises:
        OutputError: If the target cannot take its result.
    """
    plan = job.plan
    if isinstance(plan, CompositionPlan):
        return of_composition(name, plan, target)
    if isinstance(plan, extraction.ExtractionPlan):
        return of_extraction(name, plan, target)
    if isinstance(plan, estimates.EstimatePlan):
        return of_estimate(name, plan, target)
    if isinstance(plan, ServablePlan):
        return of_servable(name, plan, target)
    if isinstance(plan, EvaluationPlan):
        return of_evaluation(name, plan, target)
    if isinstance(plan, LaterPlan):
        return of_later(name, job, plan, target)
    return of_merge(name, plan, target, threads)


def of_later(name: str, job: Job, plan_: LaterPlan, target: Target | None) -> LaterReport:
    """Return what is known of a step that cannot be planned yet; see `report_of`."""
    if target is not None:
        job.check(target)
    return LaterReport(
        step=name,
        verb=plan_.kind,
        models=plan_.models,
        waits_for=plan_.waits_for,
        free_bytes=free_bytes(target.path) if target is not None else None,
        notes=(
            f"what {plan_.waits_for!r} holds is only known once it is made: `run` plans {name!r} then, and refuses then what does not fit",
        ),
    )


def of_evaluation(name: str, plan_: EvaluationPlan, target: Target | None) -> ServableReport:
    """Return what an evaluation would judge; see `report_of`."""
    if target is not None:
        check_evaluation(plan_, target)
    count = f"{len(plan_.data):,} samples" if isinstance(plan_.data, Samples) else "samples as they come"
    return ServableReport(
        step=name,
        verb="evaluate",
        sources=tuple((label, str(path)) for label, path in plan_.models),
        format="evaluation",
        signatures=(),
        size_bytes=0,
        tables={},
        free_bytes=free_bytes(target.path) if target is not None else None,
        notes=(f"judged on {plan_.data.name}: {count}", *plan_.notes),
    )


def of_servable(name: str, plan_: ServablePlan, target: Target | None) -> ServableReport:
    """Return what a step on SavedModels would make; see `report_of`."""
    if target is not None:
        check_servable(plan_, target)
    return ServableReport(
        step=name,
        verb=plan_.kind,
        sources=tuple((label, str(path)) for label, path in plan_.sources),
        format=plan_.format,
        signatures=plan_.signatures,
        size_bytes=plan_.size_bytes,
        tables=plan_.tables,
        free_bytes=free_bytes(target.path) if target is not None else None,
        notes=plan_.notes,
    )


def of_composition(name: str, plan_: CompositionPlan, target: Target | None) -> CompositionReport:
    """Return what a composition would make; see `report_of`."""
    if target is not None:
        check_composition(plan_, target)
    return CompositionReport(
        step=name,
        verb=plan_.verb.kind,
        members=plan_.members,
        inputs=plan_.inputs,
        outputs=plan_.outputs,
        parameters=plan_.parameters,
        size_bytes=plan_.size_bytes,
        needs=plan_.needs,
        tables=plan_.tables,
        free_bytes=free_bytes(target.path) if target is not None else None,
        notes=plan_.notes,
    )


def of_extraction(name: str, plan_: extraction.ExtractionPlan, target: Target | None) -> PlanReport:
    """Return what the extraction of an adapter would do; see `report_of`."""
    from graftwork.executor.memory import INTERPRETER_BYTES

    if target is not None:
        check_adapter(plan_, target)
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "role": str(spec.role),
            "action": "factors" if spec.name in plan_.names else "compare",
            "sources": [spec.name],
            "layer": None,
            "depth": None,
            "options": {},
        }
        for spec in plan_.base.specs().values()
    ]
    return PlanReport(
        step=name,
        method="extract_lora",
        models=(plan_.labels[1],),
        base=plan_.labels[0],
        tensors=tuple(rows),
        roles=dict(Counter(str(spec.role) for spec in plan_.base.specs().values())),
        renamed=(),
        bytes_read=plan_.bytes_read,
        bytes_written=plan_.bytes_written,
        passes=2,
        peak_bytes=INTERPRETER_BYTES + plan_.working_bytes,
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=plan_.seconds(),
        notes=(),
    )


def of_estimate(name: str, plan_: estimates.EstimatePlan, target: Target | None) -> PlanReport:
    """Return what an estimate would do; see `report_of`."""
    from graftwork.executor.memory import INTERPRETER_BYTES

    if target is not None:
        estimates.check_estimate(plan_, target.path, overwrite=target.overwrite)
    rows: list[dict[str, Any]] = [
        {
            "name": spec.name,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "role": str(spec.role),
            "action": plan_.wishes.kind,
            "sources": [spec.name],
            "layer": None,
            "depth": None,
            "options": {},
        }
        for spec in plan_.specs
    ]
    weights = sum(spec.size_bytes for spec in plan_.model.specs().values())
    return PlanReport(
        step=name,
        method=f"estimate {plan_.wishes.kind}",
        models=(plan_.label,),
        base=None,
        tensors=tuple(rows),
        roles=dict(Counter(str(spec.role) for spec in plan_.specs)),
        renamed=(),
        bytes_read=weights,
        bytes_written=sum(spec.size_bytes for spec in plan_.specs),
        passes=1,
        peak_bytes=INTERPRETER_BYTES + estimates.KERAS_BYTES + 2 * weights + plan_.working_bytes,
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=estimates.KERAS_SECONDS,
        notes=(
            *((f"{len(plan_.data):,} samples of {plan_.data.name}",) if isinstance(plan_.data, Samples) else ()),
            "memory and time are those of Keras and the weights; data and what layers make of it come on top",
        ),
    )

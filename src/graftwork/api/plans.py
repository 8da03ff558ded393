"""What a merge would do, as values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from graftwork.planning import MergePlan
from graftwork.stores.staged import free_bytes
from graftwork.writing import Target, row_of


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport:
    """What a step would do.

    Attributes:
        step: Name of the step.
        method: Name of its method.
        models: What goes in, in order.
        base: The base model, or None.
        tensors: One row for each tensor of the result: name, shape, dtype, role, what is done and with which options, its name in each
            model, the class of its layer and its depth in the model (0 first, 1 last; None where not known).
        roles: How many tensors of each role.
        renamed: Tensors that have another name in another model.
        bytes_read: Bytes of values in one pass over the sources.
        bytes_written: Bytes of values written.
        passes: Most passes over any tensor.
        peak_bytes: Resident memory needed, interpreter included.
        free_bytes: Free disk at the target, where one is named.
        seconds: Rough estimate of the time.
        notes: What the user should know.
        tables: What was decided, by what it is about, as rows of plain values.
    """

    step: str
    method: str
    models: tuple[str, ...]
    base: str | None
    tensors: tuple[Mapping[str, Any], ...]
    roles: Mapping[str, int]
    renamed: tuple[tuple[str, str, str], ...]
    bytes_read: int
    bytes_written: int
    passes: int
    peak_bytes: int
    free_bytes: int | None
    seconds: float
    notes: tuple[str, ...]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def of_merge(name: str, plan_: MergePlan, target: Target | None, threads: int | None) -> PlanReport:
    """Return what a merge would do; see `report_of`."""
    from graftwork.executor.memory import peak_bytes

    workers = (target or Target(path=Path(), threads=threads or 0)).workers()
    if target is not None:
        row_of(plan_, target)
    rows = [
        {
            "name": step.spec.name,
            "shape": list(step.spec.shape),
            "dtype": step.spec.dtype,
            "role": str(step.spec.role),
            "action": step.method.name if step.method is not None else "copy",
            "sources": [source.name for source in step.sources[: step.n_models]],
            "layer": step.place.layer,
            "depth": step.place.depth,
            "options": step.method.model_dump(by_alias=True) if step.method is not None else {},
        }
        for step in plan_.steps
    ]
    return PlanReport(
        step=name,
        method=plan_.request.method,
        models=plan_.request.labels,
        base=plan_.request.base_label,
        tensors=tuple(rows),
        roles=plan_.roles,
        renamed=plan_.renamed,
        bytes_read=plan_.bytes_read,
        bytes_written=plan_.bytes_written,
        passes=plan_.passes,
        peak_bytes=peak_bytes(plan_, workers),
        free_bytes=free_bytes(target.path) if target is not None else None,
        seconds=plan_.seconds(),
        notes=plan_.notes,
        tables=plan_.tables,
    )

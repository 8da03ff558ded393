"""A step that has been planned, and what stands for its result while later steps are planned.

A merge or a composition says beforehand what its result will hold. What is made of SavedModels is a program that only making it tells: it
is an `UnmadeReader` until then, and a step that asks more of it than its place is planned when it is there; see `LaterJob`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from graftwork.errors import GraftworkError
from graftwork.models.savedmodel import ServablePlan
from graftwork.recipe import Step
from graftwork.stores import Header, Reader
from graftwork.stores.staged import check_location, refuse_existing
from graftwork.stores.tf_checkpoint import Lender, Text
from graftwork.stores.tf_graph import pruned
from graftwork.stores.tf_protos import Node, parse_graph
from graftwork.tensor import TensorSpec
from graftwork.writing import Progress, Result, Target


class Job(Protocol):
    """A step that has been planned.

    Attributes:
        plan: What it will do.
        between: Ending and format of its result where no output is wanted and other steps use it.
    """

    @property
    def plan(self) -> Any:
        """Return the plan."""

    @property
    def between(self) -> tuple[str, str]:
        """Return ending and format."""

    def check(self, target: Target) -> None:
        """Refuse a target that cannot take the result."""

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """Make the result and write it."""

    def header(self) -> Header | None:
        """Return what the result will say of itself, None where that is not known before, or where no other step can use it."""

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the tensors that the result will hold."""

    def key(self, name: str) -> str:
        """Return the key that a tensor will have in the result's file."""


class LastJob:
    """A job of whose result later steps know nothing beforehand (a servable), or that they cannot use (an adapter, figures)."""

    __slots__ = ()

    def header(self) -> Header | None:
        """Return None."""
        return None

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return nothing."""
        return {}

    def key(self, name: str) -> str:
        """Return the name."""
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterPlan:
    """A step that is planned once another one has been made.

    Attributes:
        kind: The step's word.
        models: Names of what goes in.
        waits_for: The step that has to be made before.
        files: Every file that is known to be read.
    """

    kind: str
    models: tuple[str, ...]
    waits_for: str
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class LaterJob(LastJob):
    """A step that uses what nobody can look at before it is made; see `Job`."""

    plan: LaterPlan
    between: tuple[str, str] = ("", "")

    def check(self, target: Target) -> None:
        """Refuse a target that no result at all could have."""
        check_location(target.path, self.plan.files)
        if not target.overwrite:
            refuse_existing(target.path)

    def write(self, target: Target, step: Step, progress: Progress | None) -> Result:
        """Refuse: it is planned anew when it can be."""
        raise UnmadeError(self.plan.waits_for)


class UnmadeError(GraftworkError):
    """Something is asked about a step's result that is only known once it is made.

    Attributes:
        step: Name of the step.
    """

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(f"what step {step!r} makes is only known once it is made")


def key_in(like: Reader, name: str) -> str:
    """Return the key of a tensor in a source of the same layout; its name, where the source does not have it."""
    return like.key(name) if name in like.specs() else name


class PlannedReader:
    """The result of a step that has been planned but not made: its specs and header, no values.

    Args:
        name: Name of the step.
        job: What it will do.
        header: What its result will say of itself.
    """

    is_planned = True

    def __init__(self, name: str, job: Job, header: Header) -> None:
        self.path = Path(name)
        self.header = replace(header, files=(), provenance=None, notes=())
        self._job = job
        self._specs: Mapping[str, TensorSpec] | None = None

    @property
    def makes(self) -> str:
        """The format of the result, "" where it is not known yet."""
        return self.header.format

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec; the job finds them out once, for a composition takes a while to."""
        if self._specs is None:
            self._specs = self._job.specs()
        return self._specs

    def key(self, name: str) -> str:
        """Return the key that the tensor will have."""
        return self._job.key(name)

    def read_into(self, name: str, start: int, out: Any) -> None:
        """Refuse: there are no values yet."""
        raise GraftworkError(f"step {self.path} has been planned, not run; its tensor {name!r} has no values")

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> "PlannedReader":
        return self

    def __exit__(self, *_: object) -> None: ...


class PlannedCheckpoint(PlannedReader):
    """A checkpoint of TensorFlow that has been planned but not made: it lends objects and texts already.

    Args:
        name: Name of the step.
        job: What it will do.
        header: What its result will say of itself.
        lender: Where its objects and texts come from.
    """

    def __init__(self, name: str, job: Job, header: Header, lender: Lender) -> None:
        super().__init__(name, job, header)
        self._lender = lender
        self.texts: Mapping[str, Text] = lender.texts
        keys = [*map(self.key, self.specs()), *lender.texts]
        self.nodes: tuple[Node, ...] = parse_graph(pruned(lender.nodes, keys)) if lender.nodes else ()

    def code(self, name: str) -> int | None:
        """Return TensorFlow's number of a tensor's type, None where it is not known."""
        before = self._lender.specs().get(name)
        return self._lender.code(name) if before and before.dtype == self.specs()[name].dtype else None


class UnmadeReader(PlannedReader):
    """The result of a step of which nothing is known before it is made but its name and, perhaps, its format.

    Args:
        name: Name of the step.
        makes: The format of its result, "" where not even that is known.
    """

    def __init__(self, name: str, makes: str) -> None:
        self.path = Path(name)
        self._makes = makes
        if makes == "saved_model":  # which says of itself that it is a program, and no more
            self.header = Header(format=makes)

    @property
    def makes(self) -> str:
        """The format of the result, "" where it is not known yet."""
        return self._makes

    def specs(self) -> Mapping[str, TensorSpec]:
        """Say that nobody knows.

        Raises:
            UnmadeError: Always.
        """
        raise UnmadeError(str(self.path))

    def key(self, name: str) -> str:
        """Say that nobody knows.

        Raises:
            UnmadeError: Always.
        """
        raise UnmadeError(str(self.path))

    def __getattr__(self, name: str) -> Any:
        raise UnmadeError(str(self.path))


def reader_of(name: str, job: Job) -> PlannedReader:
    """Return what stands for a step's result while later steps are planned."""
    header = job.header()
    if header is None:
        return UnmadeReader(name, job.plan.format if isinstance(job.plan, ServablePlan) else "")
    lender = getattr(job.plan, "lender", None)
    if header.format == "tf_checkpoint" and isinstance(lender, Lender):
        return PlannedCheckpoint(name, job, header, lender)
    return PlannedReader(name, job, header)

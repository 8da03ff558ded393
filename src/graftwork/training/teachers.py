"""Teachers: models that are asked what they say of each batch, outside the step that trains the student.

Each stands behind the student's inputs, with what it needs in between, and gives its output and the features that hints are about, in
inference mode. Nothing of a teacher is in the student's graph, its step or its file: whether they were asked just now or long ago makes no
difference to the student, and each computes in its own precision.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.addresses import taps as taps_of
from graftwork.compose.base import Member
from graftwork.compose.classes import ClassLists, class_lists, class_map
from graftwork.compose.graph import Graph, claim, is_graph
from graftwork.compose.naming import Names, named
from graftwork.compose.outputs import OutputKinds, ending_of, kind_of, unknown_kind
from graftwork.compose.ports import Port, Shape, call, fresh_inputs, inputs, outputs
from graftwork.compose.preprocess import Preparations
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.combining import FAMILIES, floor_of
from graftwork.models.configuration import trains_unasked
from graftwork.models.lazy import keras
from graftwork.models.outputs import Kind
from graftwork.training.asking import asked, fixed
from graftwork.training.features import digest
from graftwork.training.matching import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher.

    Attributes:
        name: What it is called.
        model: Takes what the student takes, and gives a list: its output, then the features.
        target: Its output.
        floor: What stands for a probability of zero in the dtype that it computes in.
        keys: What each of the list is called among what all teachers say.
        shapes: Their shapes.
        restless: Why it does not say the same twice, "" if it does.
    """

    name: str
    model: Any
    target: Target
    floor: float
    keys: tuple[str, ...]
    shapes: tuple[Shape, ...]
    restless: str

    def say(self, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what it says of a batch, by key.

        Args:
            given: The student's inputs, in the order of its ports.
        """
        values = list(given.values())
        said = asked(self.model, values, len(values[0]))
        return {key: np.asarray(value) for key, value in zip(self.keys, keras.tree.flatten(said), strict=True)}

    def digest(self) -> str:
        """Return a text that changes when anything does that its answers depend on, beside the samples."""
        told = f"{digest(self.model)} {self.keys} {keras.__version__} {keras.config.backend()}"
        return hashlib.sha256(told.encode()).hexdigest()


def target_said(member: Member, said: OutputKinds, alone: bool, like: str = "") -> Target:
    """Return the output of a model that is compared, and what it is.

    Args:
        member: The model.
        said: What the user says of outputs: a kind for all, or by model, output or ``model.output``.
        alone: Whether it is the only one that something can be said of.
        like: Of several outputs the one that is meant, unless the user names one as ``model.output``.

    Raises:
        MismatchError: If it has several outputs, and nothing tells which is meant.
        OptionError: If it is not known what it gives.
    """
    ports = outputs(member.model)
    named = [name for name in ports if isinstance(said, Mapping) and f"{member.name}.{name}" in said]
    meant = list(ports) if len(ports) == 1 else named or [name for name in ports if name == like]
    if len(meant) != 1:
        raise MismatchError(
            f"{member.name} has {len(ports)} outputs ({', '.join(ports)}), and one is compared",
            advice=f'say which: outputs={{"{member.name}.{next(iter(ports))}": "auto"}}'
            if member.role == "teachers"
            else f"take it out of the model: graftwork extract MODEL --at {next(iter(ports))} -o ONE.keras",
        )
    port, last = ports[meant[0]], ending_of(member.model, meant[0], member.served)
    keys = (f"{member.name}.{port.name}", port.name, member.name)
    key = next((key for key in keys if key in said), None) if isinstance(said, Mapping) else None
    word = said if isinstance(said, str) else said[key] if key is not None else "auto"
    kind = kind_of(member.name, last, word, explicit=alone or key is not None)
    if kind is None:
        raise unknown_kind(member.name, last, member.name if len(ports) == 1 else f"{member.name}.{port.name}")
    return Target(port.name, port.shape[1:], kind)


def teachers_of(
    members: Sequence[Member],
    raw: Mapping[str, Port],
    targets: Sequence[Target],
    said: Preparations,
    features: Mapping[str, Sequence[str]],
) -> tuple[list[Teacher], list[str]]:
    """Return teachers, and what the user should know of them.

    Args:
        members: Their models.
        raw: What the student takes, by name.
        targets: The output of each.
        said: What stands between the student's inputs and theirs.
        features: The layers whose outputs are wanted, by teacher.

    Raises:
        MismatchError: If one does not take what the student takes.
    """
    takes = {member.name: inputs(member.model) for member in members}
    said.check(takes)
    alone = all(len(known) == 1 for known in takes.values())
    found, notes = [], []
    for member, target in zip(members, targets, strict=True):
        teacher, more = _behind(member, raw, target, said, alone, features.get(member.name, ()))
        found.append(teacher)
        notes += more
    return found, notes


def _behind(
    member: Member, raw: Mapping[str, Port], target: Target, said: Preparations, alone: bool, features: Sequence[str]
) -> tuple[Teacher, list[str]]:
    names, notes = Names([member.name]), list[str]()
    size = fixed(member.model)
    given = fresh_inputs({name: replace(port, shape=(size, *port.shape[1:])) for name, port in raw.items()}, names)
    ports = inputs(member.model)
    tensors = {}
    for port in ports.values():
        name = next(iter(raw)) if len(raw) == len(ports) == 1 else port.name
        if name not in raw:
            raise MismatchError(
                f"teacher {member.name} has the input {port.name!r}, and the student takes {', '.join(map(repr, raw))}",
                advice="rename inputs that are the same (the verb rename)",
            )
        adapt, more = said.prepare(member.name, port, raw[name], alone, names)
        tensors[port.name] = adapt(given[name])
        notes += more
    found = _run(member, tensors, target, features, names)
    dtype = keras.backend.standardize_dtype(found[0].dtype)
    ready = [named(keras.ops.cast(each, "float32"), names.fresh("said")) for each in found]
    return Teacher(
        name=member.name,
        model=keras.Model(list(given.values()), ready, name=f"{member.name}_asked"),
        target=target,
        floor=floor_of(dtype),
        keys=(member.name, *(f"{member.name}/{feature}" for feature in features)),
        shapes=tuple(tuple(each.shape) for each in ready),
        restless=_restless(member.model),
    ), notes


def _run(
    member: Member, tensors: Mapping[str, Any], target: Target, features: Sequence[str], names: Names
) -> list[Any]:
    """Return a teacher's output and features."""
    if not features:
        return [call(member.model, tensors)[target.name]]
    taps = taps_of(member.model, list(features))
    graph = Graph(member.model, taps)
    place = list(outputs(member.model)).index(target.name)
    targets = [graph.outputs[place], *(graph.same(tap.key) for tap in taps)]
    given = dict(zip(graph.inputs, (tensors[name] for name in inputs(member.model)), strict=True))
    steps = graph.needed(targets, given)
    claim(member.model, steps, names, member.name)
    values = graph.run(steps, given, names)
    return [values[key] for key in targets]


def _restless(model: Any) -> str:
    """Return which layer of a model is always called as in training, "" if none is.

    Of layers of augmentation Keras notes that down where nothing was said, and asks them for inference all the same.
    """
    for step in Graph(model, deep=True).steps if is_graph(model) else ():
        if (
            step.node is not None
            and step.node.arguments.kwargs.get("training") is True
            and not trains_unasked(step.operation)
        ):
            return f"its layer {step.label!r} is called as in training, always"
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Which class is where.

    Attributes:
        classes: Names of the student's classes in the order of its outputs, None where nobody has names.
        width: How many outputs it has; None where that is not fixed.
        columns: For each teacher its column of each class of the student, -1 where it does not know it; None where all are the same.
        rows: One for each class, for tables.
        notes: What the user should know.
    """

    classes: tuple[str, ...] | None
    width: int | None
    columns: tuple[tuple[int, ...] | None, ...]
    rows: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]


def order_of(
    members: Sequence[Member],
    targets: Sequence[Target],
    student: tuple[str, int | None, Sequence[str] | None] | None,
    said: ClassLists | None,
    weights: Sequence[float],
    counted: Sequence[str] | None,
) -> Order:
    """Return which class of each teacher is which of the student.

    Args:
        members: The teachers.
        targets: Their outputs.
        student: Its name, its width and what is known of its classes; None for one that gets the classes of all teachers.
        said: Names of classes as the user says them.
        weights: What each teacher counts.
        counted: The classes that labels count, where the data tells.

    Raises:
        MismatchError: If classes cannot be matched, or a teacher knows one that the student does not.
        OptionError: If there are names of classes for values.
    """
    names = [member.name for member in members]
    widths = [target.shape[-1] if target.shape else None for target in targets]
    everyone = [*names, student[0]] if student is not None else names
    known: list[Sequence[str] | None] = [member.classes for member in members]
    if FAMILIES[str(targets[0].kind)] == "values":
        if said is not None:
            raise OptionError("`classes` are given, and the teachers give values")
        _same_width(everyone, [*widths, student[1]] if student is not None else widths)
        return Order(classes=None, width=widths[0], columns=(None,) * len(names), rows=(), notes=())
    if student is not None:
        widths, known = [*widths, student[1]], [*known, student[2]]
    lists = class_lists(everyone, said, known, everyone) if isinstance(said, Mapping) or said is None else None
    if lists is None:  # in the order of the teachers
        lists = class_lists(names, said, known[: len(names)], names) + [
            tuple(each) if each else None for each in known[len(names) :]
        ]
    named_teachers = any(each is not None for each in lists[: len(names)])
    if student is not None and lists[-1] is None and named_teachers and counted and len(counted) == student[1]:
        lists[-1] = tuple(counted)
    mapped = class_map(everyone, widths, lists, [*weights, 1.0][: len(everyone)])
    first = next((each for each in lists if each is not None), None)
    if first is None:
        return Order(
            classes=tuple(counted) if counted else None,
            width=mapped.width,
            columns=(None,) * len(names),
            rows=(),
            notes=mapped.notes if len(everyone) > 1 else (),
        )
    full = [each if each is not None else first for each in lists]
    own = full[-1] if student is not None else tuple(counted or mapped.classes or ())
    if counted is not None and tuple(counted) != own:
        raise MismatchError(
            f"labels count the classes {', '.join(counted)[:80]}, and the student's are {', '.join(own)[:80]}: they must be the same, "
            "in the same order",
            advice="say the student's classes under `classes`, or those of the data in their order",
        )
    for name, each in zip(names, full, strict=False):
        strange = [one for one in each if one not in own]
        if strange:
            raise MismatchError(
                f"teacher {name} knows {', '.join(map(repr, strange[:5]))}, which the student has no output for",
                advice="give a student that has all classes, or leave the student out: a new one gets them",
            )
    found: list[tuple[int, ...] | None] = []
    for each in full[: len(names)]:
        place = {one: number for number, one in enumerate(each)}
        columns = tuple(place.get(one, -1) for one in own)
        found.append(None if columns == tuple(range(len(own))) else columns)
    return Order(classes=own, width=len(own), columns=tuple(found), rows=mapped.rows, notes=mapped.notes)


def _same_width(names: Sequence[str], widths: Sequence[int | None]) -> None:
    for name, width in zip(names, widths, strict=True):
        if None not in (width, widths[0]) and width != widths[0]:
            raise MismatchError(f"{names[0]} gives {widths[0]} values and {name} gives {width}")


def one_family(members: Sequence[str], kinds: Sequence[Kind | str | None]) -> None:
    """Refuse models that speak about different things.

    Raises:
        MismatchError: If they do.
    """
    first = str(kinds[0])
    for name, kind in zip(members, kinds, strict=True):
        if FAMILIES[str(kind)] != FAMILIES[first]:
            raise MismatchError(
                f"{members[0]} gives {first} ({FAMILIES[first]}) and {name} gives {kind} ({FAMILIES[str(kind)]})",
                advice="if that is wrong, say it under `outputs`",
            )


def check_names(said: OutputKinds, signatures: Mapping[str, str], members: Sequence[Member]) -> None:
    """Refuse what is said of a model or an output that there is not.

    Raises:
        UnknownNameError: If something is.
    """
    names = [member.name for member in members]
    for key in signatures:
        if key not in names:
            raise UnknownNameError("teacher or student (under `signatures`)", key, names)
    known = list(names)
    for member in members:
        known += [word for output in outputs(member.model) for word in (output, f"{member.name}.{output}")]
    for key in said if isinstance(said, Mapping) else ():
        if key not in known:
            raise UnknownNameError("teacher or student (under `outputs`)", key, dict.fromkeys(known))


def parameters_of(members: Sequence[Member]) -> int:
    """Return how many parameters models have together."""
    return sum(member.model.count_params() or (member.served and member.served.parameters) or 0 for member in members)

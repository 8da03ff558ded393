"""Which outputs of which models are judged by which column of labels, found before a model is asked anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from graftwork.compose.classes import ClassLists, class_lists, class_map
from graftwork.compose.outputs import OutputKinds, ending_of, kind_of, unknown_kind
from graftwork.data.base import Stream
from graftwork.data.samples import Samples
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.outputs import Kind
from graftwork.training.answers import Answer, task_of, width_of
from graftwork.training.contenders import Contender
from graftwork.training.judging import Task
from graftwork.training.matching import Target

LABELS = "y"
"""The usual name of labels; ``y.NAME`` are those of output ``NAME``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: one column of labels, and the output of each model that answers it.

    Attributes:
        labels: The column.
        task: What it is about.
        names: What the classes, labels or numbers are called, those that only models know at the end.
        counted: How many of them labels count.
        target: What the labels have to fit.
        spelled: Names of the classes that labels count, where they are known.
        answers: What answers it, by the model's name.
        notes: What the user should know.
    """

    labels: str
    task: Task
    names: tuple[str, ...]
    counted: int
    target: Target
    spelled: tuple[str, ...] | None
    answers: Mapping[str, Answer]
    notes: tuple[str, ...]


def columns_of(samples: Samples) -> list[str]:
    """Return the columns of labels: the one that is said or usual, else ``y.NAME`` of each name."""
    if samples.labels is not None:
        return [samples.labels]
    return [name for name in samples.table.columns if name.startswith(f"{LABELS}.")]


def named_for(samples: Samples, question: Question) -> Samples:
    """Return samples with the labels of a question."""
    return replace(samples, labels=question.labels, classes=question.spelled or samples.classes)


def questions(
    contenders: Sequence[Contender],
    columns: Sequence[str],
    samples: Samples | Stream,
    *,
    outputs: OutputKinds,
    classes: ClassLists | None,
    labels: Mapping[str, str] | None,
) -> list[Question]:
    """Return what can be asked.

    Args:
        contenders: The models.
        columns: The usual columns of labels.
        samples: The data.
        outputs: What outputs give, where that is said.
        classes: Names of each model's classes.
        labels: The column of each output, where that is said.

    Raises:
        MismatchError: If there are no labels for a model, or models speak about different things.
        OptionError: If it is not known what an output gives.
        UnknownNameError: If an option names a model, output or column that there is not.
    """
    _check_keys("outputs", outputs if isinstance(outputs, Mapping) else {}, contenders)
    _check_keys("labels", labels or {}, contenders)
    if labels:
        there = samples.table.columns if isinstance(samples, Samples) else columns
        for column in labels.values():
            if column not in there:
                raise UnknownNameError(f"column in {samples.name}", column, there)
    asked: dict[str, dict[str, str]] = {}
    notes: list[str] = []
    for each in contenders:
        found = _columns_for(each, columns, labels or {}, samples.name)
        left = [name for name in each.ports if name not in found]
        if left:
            notes.append(f"{each.name}: no labels for {', '.join(left)}, so that is not judged")
        for output, column in found.items():
            if each.name in asked.setdefault(column, {}):
                raise MismatchError(
                    f"outputs {asked[column][each.name]!r} and {output!r} of model {each.name!r} both have the labels {column!r}"
                )
            asked[column][each.name] = output
        notes += [
            _masked(each, output)
            for output in found
            if getattr(each.ports[output].tensor, "_keras_mask", None) is not None
        ]
    by_name = {each.name: each for each in contenders}
    alone = len(contenders) == 1
    drafts = {
        column: {name: _draft(by_name[name], output, outputs, alone=alone) for name, output in outputs_.items()}
        for column, outputs_ in asked.items()
    }
    tasks = {column: _task(column, found, by_name) for column, found in drafts.items()}
    named = _named_column(tasks, classes)
    return [
        _question(column, tasks[column], found, by_name, samples, classes, named=column == named, notes=notes)
        for column, found in drafts.items()
    ]


def _check_keys(option: str, said: Mapping[str, str], contenders: Sequence[Contender]) -> None:
    known = [each.name for each in contenders] if option == "outputs" else []
    for each in contenders:
        known += [*each.ports, *(f"{each.name}.{output}" for output in each.ports)]
    for key in said:
        if key not in known:
            raise UnknownNameError(f"output of a model (under `{option}`)", key, dict.fromkeys(known))


def _columns_for(each: Contender, columns: Sequence[str], said: Mapping[str, str], where: str) -> dict[str, str]:
    """Return the column of labels of each output that has one."""
    names = list(each.ports)
    told = {}
    for output in names:
        for key in (f"{each.name}.{output}", output):
            if key in said:
                told[output] = said[key]
                break
    if told:
        return told
    if len(names) == 1 and len(columns) == 1:
        return {names[0]: columns[0]}
    found = {output: f"{LABELS}.{output}" for output in names if f"{LABELS}.{output}" in columns}
    if not found and list(columns) == [f"{LABELS}.{place}" for place in range(len(names))]:
        return dict(zip(names, columns, strict=True))
    if not found:
        there = f"the columns of labels {', '.join(columns)}" if columns else "no labels"
        raise MismatchError(
            f"{where} has {there}, and model {each.name!r} gives {', '.join(map(repr, names))}",
            advice=f'say which belong together: labels={{"{names[0]}": …}}'
            if columns
            else "say which column holds them (y)",
        )
    return found


def _masked(each: Contender, output: str) -> str:
    return (
        f"{each.name}: output {output} is masked where inputs are padded, and padding is judged as anything else unless its weight is 0 "
        "(weights with one entry for each position)"
    )


@dataclass(frozen=True, slots=True)
class _Draft:
    output: str
    kind: Kind
    shape: tuple[int | None, ...]

    @property
    def task(self) -> Task:
        return task_of(self.kind, self.shape)

    @property
    def width(self) -> int | None:
        return width_of(self.kind, self.shape)


def _draft(each: Contender, output: str, said: OutputKinds, *, alone: bool) -> _Draft:
    """Return what an output gives."""
    keys = (f"{each.name}.{output}", output, each.name)
    key = next((key for key in keys if key in said), None) if isinstance(said, Mapping) else None
    word = said if isinstance(said, str) else said[key] if key is not None else "auto"
    owner, last = f"{each.name}'s output {output!r}", ending_of(each.model, output, each.served)
    explicit = key is not None or (alone and len(each.ports) == 1)
    kind = kind_of(owner, last, word, explicit=explicit)
    if kind is None:
        raise unknown_kind(owner, last, each.name if len(each.ports) == 1 else f"{each.name}.{output}")
    return _Draft(output, kind, each.ports[output].shape[1:])


def _task(column: str, drafts: Mapping[str, _Draft], contenders: Mapping[str, Contender]) -> Task:
    found = {name: draft.task for name, draft in drafts.items()}
    if len(set(found.values())) > 1:
        told = ", ".join(
            f"{name} gives {drafts[name].kind} {contenders[name].ports[drafts[name].output].shape}" for name in found
        )
        raise MismatchError(
            f"models speak about different things, and are judged by the same labels {column!r}: {told}",
            advice="if one of them is taken for what it is not, say what it gives (outputs)",
        )
    return next(iter(found.values()))


def _named_column(tasks: Mapping[str, Task], classes: ClassLists | None) -> str | None:
    """Return the column whose classes have names: the only one of classes, or else of labels."""
    for task in ("classes", "labels"):
        found = [column for column, each in tasks.items() if each == task]
        if found:
            if len(found) > 1 and classes is not None:
                raise OptionError(
                    f"`classes` are given, and {', '.join(found)} all have classes; evaluate them one by one (y)"
                )
            return found[0] if len(found) == 1 else None
    if classes is not None:
        raise OptionError("`classes` are given, and no model gives any")
    return None


def _question(
    column: str,
    task: Task,
    drafts: Mapping[str, _Draft],
    contenders: Mapping[str, Contender],
    samples: Samples | Stream,
    classes: ClassLists | None,
    *,
    named: bool,
    notes: Sequence[str],
) -> Question:
    widths = {name: draft.width for name, draft in drafts.items()}
    texts = isinstance(samples, Samples) and samples.table.columns[column].dtype == "str"
    if texts and task != "classes":
        raise MismatchError(
            f"the labels of {samples.name} (column {column!r}) are texts, and {', '.join(drafts)} give no classes"
        )
    own = samples.classes if isinstance(samples, Samples) and (named or texts) else None
    lists: list[tuple[str, ...] | None] = [None] * len(drafts)
    if named and task != "numbers":
        members = list(drafts)
        known: list[Sequence[str] | None] = [None] * len(members)
        lists = class_lists(members, classes, known, members)
    spelled = own or _spelled(lists, samples.name, texts=texts)
    more = list(notes)
    if spelled is None:
        mapped = class_map(list(drafts), list(widths.values()), lists, [1.0] * len(drafts))
        if mapped.width is None:
            raise MismatchError(f"{next(iter(drafts))} does not fix how many values it gives, so they cannot be judged")
        names, counted = tuple(map(str, range(mapped.width))), mapped.width
        columns: dict[str, tuple[int, ...] | None] = dict.fromkeys(drafts)
    else:
        taken = [name for name, each in zip(drafts, lists, strict=True) if each is None]
        if taken:
            more.append(
                f"the outputs of {', '.join(taken)} are taken to be the classes of {samples.name} in their order"
            )
        full = [each if each is not None else spelled for each in lists]
        mapped = class_map(
            [samples.name, *drafts], [len(spelled), *widths.values()], [spelled, *full], [1.0] * (len(drafts) + 1)
        )
        names, counted = mapped.classes or spelled, len(spelled)
        place = {name: number for number, name in enumerate(names)}
        columns = {}
        for name, each in zip(drafts, full, strict=True):
            found = tuple(place[one] for one in each)
            columns[name] = None if found == tuple(range(len(names))) else found
            strange = [one for one in spelled if one not in each]
            if strange:
                more.append(f"{name} does not know {', '.join(strange)}; what is of these classes counts as wrong")
    shape = next(iter(drafts.values())).shape
    kind = {"classes": "probabilities", "labels": "sigmoid", "numbers": "regression"}[task]
    return Question(
        labels=column,
        task=task,
        names=names,
        counted=counted,
        target=Target(column, shape if task == "numbers" else (*shape[:-1], counted), kind),
        spelled=spelled,
        answers={
            name: Answer(
                model=name,
                output=draft.output,
                kind=draft.kind,
                task=task,
                columns=columns[name],
                size=len(names),
            )
            for name, draft in drafts.items()
        },
        notes=tuple(more),
    )


def _spelled(lists: Sequence[tuple[str, ...] | None], where: str, *, texts: bool) -> tuple[str, ...] | None:
    """Return the classes that labels count where only models tell: they must agree, unless labels are texts."""
    found = list(dict.fromkeys(each for each in lists if each is not None))
    if not found:
        return None
    if texts:
        return tuple(dict.fromkeys(name for each in found for name in each))
    if len(found) > 1:
        raise MismatchError(
            f"models have their classes in different orders, and {where} does not tell in which order its labels count",
            advice="say it with the data (classes)",
        )
    return found[0]

"""How good models are on data: one pass over the samples, in which every model is asked what it says of the same ones."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.classes import ClassLists
from graftwork.compose.outputs import OutputKinds
from graftwork.compose.ports import graph_of
from graftwork.data.base import Stream
from graftwork.data.samples import Part, Samples
from graftwork.errors import DataError, OptionError
from graftwork.models.lazy import keras
from graftwork.stores import label_of
from graftwork.training.answers import Answer, classes_of, leading, numbers_of, switches_of, weights_of
from graftwork.training.contenders import Contender, Latency, contender
from graftwork.training.judging import Agreement, Figures, Judge, Task, higher_is_better, judge
from graftwork.training.matching import Target, check_labels, check_part, matched
from graftwork.training.metrics import BINS, Floats, Reasons
from graftwork.training.questions import LABELS, Question, columns_of, named_for, questions

Progress = Callable[[str, int, int], None]
"""Called with what is being done, samples dealt with so far and samples in all (0 where that is not known)."""


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


def evaluate(
    models: Sequence[Any] | Mapping[str, Any],
    samples: Samples | Stream,
    *,
    outputs: OutputKinds = "auto",
    classes: ClassLists | None = None,
    labels: Mapping[str, str] | None = None,
    top: int = 5,
    batch: int = 32,
    bins: int = BINS,
    timed: bool = True,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge models by the same samples; all are held in memory at once.

    Args:
        models: Live Keras models (which are left as they are) and paths to models in any format that loads, SavedModels among them; by name
            where they are a mapping, else they are called by their files.
        samples: The samples, with labels.
        outputs: What models give where their last operation does not tell: a kind for all, or by model, output, or ``model.output``.
        classes: Names of each model's classes in the order of its outputs, by model or for all in turn; by default those of the data. A
            class that a model does not have has the probability 0.
        labels: The column of labels of each output, by output or ``model.output``; by default ``y``, or ``y.NAME`` for output ``NAME``.
        top: k of the top-k accuracy.
        batch: How many samples are dealt with at a time.
        bins: Bins of confidence in which calibration is measured.
        timed: Whether to measure how long models take.
        custom_objects: Classes and functions that files refer to and Keras does not know, by name.
        safe_mode: Whether code in files is refused.
        progress: Is told how far the work is.

    Raises:
        MismatchError: If samples are not what a model takes, or models speak about different things.
        DataError: If samples hold NaN, or labels that are none.
        OptionError: If it is not known what an output gives, or an option makes no sense.
        StoreError: If a model cannot be loaded.
    """
    if batch < 1 or bins < 1 or top < 1:
        raise OptionError(f"batch ({batch}), bins ({bins}) and top ({top}) must be at least 1")
    named = _by_name(models)
    contenders = [contender(name, each, custom_objects, safe_mode=safe_mode) for name, each in named.items()]
    feed = _Feed(contenders, samples, batch)
    asked = questions(contenders, feed.columns, samples, outputs=outputs, classes=classes, labels=labels)
    feed.expect(asked)
    benches = [_Bench(question, contenders, top, bins) for question in asked]
    count = 0
    whole = len(samples) if isinstance(samples, Samples) else 0
    for part in feed:
        said = {each.name: each.said(part.given[each.name], len(part.rows)) for each in contenders}
        for bench in benches:
            bench.add(part, said, samples.name)
        count += len(part.rows)
        if progress is not None:
            progress("evaluate", count, whole)
    latencies = {
        each.name: each.latency(feed.first.given[each.name], len(feed.first.rows), batch) if timed else None
        for each in contenders
    }
    return Evaluation(
        data=samples.name,
        samples=count,
        models=tuple(
            Judged(
                name=each.name,
                source=each.source,
                parameters=each.parameters,
                size_bytes=each.size_bytes,
                latency=latencies[each.name],
            )
            for each in contenders
        ),
        verdicts=tuple(bench.verdict() for bench in benches),
        notes=tuple(
            dict.fromkeys(
                itertools.chain(
                    *(each.notes for each in contenders),
                    *(question.notes for question in asked),
                )
            )
        ),
    )


def _by_name(models: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if not models:
        raise OptionError("there are no models to evaluate")
    if isinstance(models, Mapping):
        return dict(models)
    found: dict[str, Any] = {}
    for model in models:
        label = (
            str(model.name) if hasattr(model, "_flatten_layers") else label_of(model) if _is_path(model) else "model"
        )
        name, number = label, 1
        while name in found:
            number += 1
            name = f"{label}#{number}"
        found[name] = model
    return found


def _is_path(model: Any) -> bool:
    return isinstance(model, str) or hasattr(model, "__fspath__")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """Some samples as models take them.

    Attributes:
        rows: Their numbers.
        given: What each model is given, by its name.
        labels: Labels by column.
        weights: What each sample counts, by column; None where all count the same.
    """

    rows: NDArray[np.int64]
    given: Mapping[str, Any]
    labels: Mapping[str, NDArray[Any]]
    weights: Mapping[str, NDArray[Any] | None]


class _Feed:
    """The samples, each batch read once for all models that take the same columns.

    Attributes:
        columns: The columns of labels that there are.
        first: The first batch, once it was read.
    """

    first: _Given

    def __init__(self, contenders: Sequence[Contender], samples: Samples | Stream, batch: int) -> None:
        self._contenders, self._samples, self._batch = contenders, samples, batch
        self._wanted: Mapping[str, Target] = {}
        if isinstance(samples, Samples):
            plain = replace(samples, labels=None, weights=None)
            self._matched = {each.name: matched(plain, each.model) for each in contenders}
            self.columns = columns_of(samples)
        else:
            self._batches = iter(samples)
            try:
                self._begin = next(self._batches)
            except StopIteration:
                raise DataError(f"there are no samples in {samples.name}") from None
            self.columns = list(_labels(self._begin))

    def expect(self, asked: Sequence[Question]) -> None:
        """Say which labels are read, and refuse those whose shape or kind tells that they cannot be."""
        self._wanted = {question.labels: question.target for question in asked}
        if isinstance(self._samples, Samples):
            for question in asked:
                check_labels(named_for(self._samples, question), question.target)
            self._labelled = {question.labels: named_for(self._samples, question) for question in asked}

    def __iter__(self) -> Iterator[_Given]:
        found = self._of_samples() if isinstance(self._samples, Samples) else self._of_stream()
        for number, part in enumerate(found):
            if not number:
                self.first = part
            yield part

    def _of_samples(self) -> Iterator[_Given]:
        assert isinstance(self._samples, Samples)
        rest = replace(self._samples, inputs={}, labels=None)
        for first in range(0, len(self._samples), self._batch):
            rows = self._samples.rows[first : first + self._batch]
            read: dict[tuple[tuple[str, ...], ...], list[NDArray[Any]]] = {}
            given = {}
            for each in self._contenders:
                taken = self._matched[each.name]
                key = tuple(taken.inputs.values())
                if key not in read:
                    part = taken.take(rows)
                    check_part(part, self._samples.name)
                    read[key] = list(part.inputs.values())
                given[each.name] = keras.tree.pack_sequence_as(graph_of(each.model)._inputs_struct, read[key])
            labels = {}
            for column, samples in self._labelled.items():
                part = replace(samples, inputs={}, weights=None).take(rows)
                check_part(part, self._samples.name, {column: self._wanted[column]})
                assert part.labels is not None  # there is a column of them
                labels[column] = part.labels
            counted = rest.take(rows)
            check_part(counted, self._samples.name)
            yield _Given(rows=rows, given=given, labels=labels, weights=dict.fromkeys(labels, counted.weights))

    def _of_stream(self) -> Iterator[_Given]:
        done, where = 0, self._samples.name
        for batch in itertools.chain([self._begin], self._batches):
            flat = [np.asarray(each) for each in keras.tree.flatten(batch[0])]
            rows = np.arange(done, done + len(flat[0]), dtype=np.int64)
            check_part(Part(rows, {str(place): each for place, each in enumerate(flat)}, None, None), where)
            found, counted = _labels(batch), _weights(batch)
            for column, target in self._wanted.items():
                if column not in found:
                    raise DataError(f"a batch of {where} has no labels {column!r}, as the first one had")
                if found[column].dtype.kind in "OUS":
                    raise DataError(
                        f"the labels {column!r} of {where} are texts or lists; its batches must hold arrays of numbers"
                    )
                part = Part(rows, {}, found[column], counted.get(column, counted.get("")))
                check_part(part, where, {column: target})
            yield _Given(
                rows=rows,
                given=dict.fromkeys((each.name for each in self._contenders), batch[0]),
                labels={column: found[column] for column in self._wanted},
                weights={column: counted.get(column, counted.get("")) for column in self._wanted},
            )
            done += len(rows)


def _labels(batch: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
    """Return the labels of a batch of a stream by the names that columns would have."""
    found = _by_output(batch[1]) if len(batch) > 1 and batch[1] is not None else {}
    return {f"{LABELS}.{name}" if name else LABELS: values for name, values in found.items()}


def _weights(batch: tuple[Any, ...]) -> dict[str, NDArray[Any]]:
    """Return what samples of a stream count, likewise; under the empty name what they count for all labels."""
    found = _by_output(batch[2]) if len(batch) > 2 and batch[2] is not None else {}
    return {f"{LABELS}.{name}" if name else "": values for name, values in found.items()}


def _by_output(values: Any) -> dict[str, NDArray[Any]]:
    """Return arrays by output: by its name or its place; under the empty name one alone."""
    if isinstance(values, Mapping):
        return {str(name): np.asarray(each) for name, each in values.items()}
    if isinstance(values, list | tuple) and all(hasattr(each, "shape") for each in values):
        return {str(place): np.asarray(each) for place, each in enumerate(values)}
    return {"": np.asarray(values)}


class _Bench:
    """Judges all models by one column of labels."""

    def __init__(self, question: Question, contenders: Sequence[Contender], top: int, bins: int) -> None:
        self._question = question
        self._judges: dict[str, Judge] = {
            name: judge(question.task, question.names, answer.known, top=top, bins=bins)
            for name, answer in question.answers.items()
        }
        self._pairs = {
            pair: Agreement(question.task, len(question.names)) for pair in itertools.combinations(question.answers, 2)
        }
        self._bad: dict[str, int] = {}

    def add(self, part: _Given, said: Mapping[str, Mapping[str, NDArray[Any]]], where: str) -> None:
        """Add samples: what each model says of them, by its name and output."""
        labels: dict[tuple[int, ...], tuple[NDArray[Any], Floats]] = {}
        rows: dict[str, tuple[Floats, Floats]] = {}
        for name, answer in self._question.answers.items():
            values = said[name][answer.output]
            if values.shape not in labels:
                labels[values.shape] = self._labels(answer, values.shape, part, where)
            own, weights = labels[values.shape]
            flat, bad = answer.of(values)
            self._bad[name] = self._bad.get(name, 0) + bad
            if not self._bad[name]:
                self._judges[name].add(own, flat, weights)
                rows[name] = flat, weights
        for (a, b), agreement in self._pairs.items():
            if a in rows and b in rows:
                agreement.add(rows[a][0], rows[b][0], rows[a][1])

    def _labels(self, answer: Answer, shape: tuple[int, ...], part: _Given, where: str) -> tuple[NDArray[Any], Floats]:
        found, lead = part.labels[self._question.labels], leading(shape)
        weights = weights_of(part.weights[self._question.labels], lead, where)
        if answer.task == "classes":
            return classes_of(found, lead, self._question.counted, where), weights
        if answer.task == "labels":
            counted = switches_of(found, (*shape[:-1], self._question.counted), where)
            more = len(self._question.names) - self._question.counted
            return np.pad(counted, ((0, 0), (0, more))), weights
        return numbers_of(found, shape, where), weights

    def verdict(self) -> Verdict:
        """Return what was found."""
        figures = {}
        for name, answer in self._question.answers.items():
            figures[name] = self._judges[name].figures(answer.output, answer.kind)
            if self._bad.get(name):
                figures[name] = _broken(figures[name], f"{self._bad[name]:,} answers hold NaN or infinity")
        pairs = []
        for (a, b), agreement in self._pairs.items():
            why: Reasons = {}
            found = agreement.figures(why)
            broken = [name for name in (a, b) if self._bad.get(name)]
            if broken:
                why = dict.fromkeys(found, f"{broken[0]} gives NaN or infinity")
                found = dict.fromkeys(found)
            pairs.append(Pair(a=a, b=b, figures=found, reasons=why))
        return Verdict(
            labels=self._question.labels,
            task=self._question.task,
            names=self._question.names,
            figures=figures,
            agreement=tuple(pairs),
        )


def _broken(figures: Figures, why: str) -> Figures:
    """Return figures without one, of a model that does not give numbers."""
    return Figures(
        output=figures.output,
        kind=figures.kind,
        metrics=dict.fromkeys(figures.metrics),
        reasons=dict.fromkeys(figures.metrics, why),
    )

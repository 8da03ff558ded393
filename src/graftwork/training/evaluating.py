"""How good models are on data: every model is asked what it says of the same samples, and those in files are loaded one after the other."""

import gc
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.classes import ClassLists
from graftwork.compose.outputs import OutputKinds
from graftwork.data.base import Stream
from graftwork.data.samples import Samples
from graftwork.errors import OptionError
from graftwork.stores import label_of
from graftwork.training.answers import Answer, classes_of, leading, numbers_of, switches_of, weights_of
from graftwork.training.asking import piece
from graftwork.training.contenders import Contender, contender, unwarned
from graftwork.training.decisions import Decisions
from graftwork.training.evaluation import Evaluation, Judged, Pair, Verdict
from graftwork.training.failing import failing, on
from graftwork.training.judging import Figures, Judge, judge
from graftwork.training.metrics import BINS, Floats, Reasons
from graftwork.training.placing import on_device
from graftwork.training.portions import Feed, Portion
from graftwork.training.questions import Question, questions
from graftwork.training.remembering import remembering

Progress = Callable[[str, int, int], None]
"""Called with what is being done, samples dealt with so far and samples in all (0 where that is not known)."""


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
    device: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    progress: Progress | None = None,
) -> Evaluation:
    """Judge models by the same samples.

    Several models in files are loaded and asked one after the other, each in a pass of its own over the samples, once all of them were
    looked at without their weights. A stream is gone through once, with all models in memory.

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
        device: Where models run: `cpu`, `gpu:1`; by default where Keras does.
        custom_objects: Classes and functions that files refer to and Keras does not know, by name.
        safe_mode: Whether code in files is refused.
        progress: Is told how far the work is.

    Raises:
        MismatchError: If samples are not what a model takes, or models speak about different things.
        DataError: If samples hold NaN, or labels that are none.
        OptionError: If it is not known what an output gives, there is no such device, or an option makes no sense.
        StoreError: If a model cannot be loaded.
        OutputError: If the disk is full where what models say is kept.
    """
    if batch < 1 or bins < 1 or top < 1:
        raise OptionError(f"batch ({batch}), bins ({bins}) and top ({top}) must be at least 1")
    named = _by_name(models)
    apart = len(named) > 1 and isinstance(samples, Samples)
    load = partial(contender, custom_objects=custom_objects, safe_mode=safe_mode, copied=device is not None)
    with on_device(device), unwarned():
        contenders = [load(name, each, values=not apart) for name, each in named.items()]
        feed = Feed(contenders, samples, batch)
        asked = questions(contenders, feed.columns, samples, outputs=outputs, classes=classes, labels=labels)
        feed.expect(asked)
        benches = [_Bench(question, top, bins) for question in asked]
        turns = _turns(contenders)
        judged: dict[str, Judged] = {}
        for number, turn in enumerate(turns):
            ready = [each if each.loaded else load(each.name, named[each.name]) for each in turn]
            count = _ask(ready, feed, benches, samples, partial(_told, progress, number, len(turns)))
            judged |= {each.name: _judged(each, feed, batch, timed=timed) for each in ready}
            del ready
            gc.collect()  # a model's layers and functions hold each other
    return Evaluation(
        data=samples.name,
        samples=count,
        models=tuple(judged[each.name] for each in contenders),
        verdicts=tuple(bench.verdict() for bench in benches),
        notes=tuple(
            dict.fromkeys(
                itertools.chain(
                    *(each.notes for each in contenders),
                    (_remembers(each) for each in contenders if remembering(each.model)),
                    *(question.notes for question in asked),
                )
            )
        ),
    )


def _turns(contenders: Sequence[Contender]) -> list[list[Contender]]:
    """Return which models are asked in one pass over the samples: all that are in memory, then each other one by itself."""
    ready = [each for each in contenders if each.loaded]
    return [*([ready] if ready else []), *([each] for each in contenders if not each.loaded)]


def _told(progress: Progress | None, turn: int, turns: int, count: int, whole: int) -> None:
    if progress is not None:
        progress("evaluate: samples", turn * whole + count, turns * whole)


def _judged(each: Contender, feed: Feed, batch: int, *, timed: bool) -> Judged:
    return Judged(
        name=each.name,
        source=each.source,
        parameters=each.parameters,
        size_bytes=each.size_bytes,
        latency=each.latency(feed.first.given[each.name], len(feed.first.rows), batch) if timed else None,
    )


def _ask(
    contenders: Sequence[Contender],
    feed: Feed,
    benches: "Sequence[_Bench]",
    samples: Samples | Stream,
    progress: Callable[[int, int], None],
) -> int:
    """Ask models about all samples, and return how many there are."""
    count, whole = 0, len(samples) if isinstance(samples, Samples) else 0
    for part in feed.portions(contenders):
        said = {}
        for each in contenders:
            given, rows = part.given[each.name], len(part.rows)
            with failing(each.name, on(part.rows, samples.name), each.model, partial(piece, each.model, given, rows)):
                said[each.name] = each.said(given, rows)
        for bench in benches:
            bench.add(part, said, samples.name)
        count += len(part.rows)
        progress(count, whole)
    return count


def _remembers(each: Contender) -> str:
    return f"{each.name}: {remembering(each.model)}, so its figures depend on the order of the samples and on the batch"


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


class _Bench:
    """Judges all models by one column of labels."""

    def __init__(self, question: Question, top: int, bins: int) -> None:
        self._question = question
        self._judges: dict[str, Judge] = {
            name: judge(question.task, question.names, answer.known, top=top, bins=bins)
            for name, answer in question.answers.items()
        }
        self._decisions = Decisions(question.task, len(question.names), list(question.answers))
        self._weighing = next(iter(question.answers))
        self._bad: dict[str, int] = {}

    def add(self, part: Portion, said: Mapping[str, Mapping[str, NDArray[Any]]], where: str) -> None:
        """Add samples: what models say of them, by name and output."""
        labels: dict[tuple[int, ...], tuple[NDArray[Any], Floats]] = {}
        for name, answer in self._question.answers.items():
            if name not in said:
                continue
            values = said[name][answer.output]
            if values.shape not in labels:
                labels[values.shape] = self._labels(answer, values.shape, part, where)
            own, weights = labels[values.shape]
            flat, bad = answer.of(values)
            self._bad[name] = self._bad.get(name, 0) + bad
            if not self._bad[name]:
                self._judges[name].add(own, flat, weights)
                self._decisions.add(name, flat)
            if name == self._weighing:
                self._decisions.weigh(weights)

    def _labels(self, answer: Answer, shape: tuple[int, ...], part: Portion, where: str) -> tuple[NDArray[Any], Floats]:
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
        bad = [name for name, count in self._bad.items() if count]
        for (a, b), agreement in self._decisions.compared(bad).items():
            why: Reasons = {}
            found = agreement.figures(why)
            broken = [name for name in (a, b) if name in bad]
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

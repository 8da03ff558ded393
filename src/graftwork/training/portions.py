"""Samples in portions for several models at once: what each is given, with the labels and weights that all are judged by."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import inputs
from graftwork.data.base import Stream
from graftwork.data.samples import Part, Samples
from graftwork.errors import DataError
from graftwork.training.contenders import Contender
from graftwork.training.feeding import arranged
from graftwork.training.matching import Target, check_labels, check_part, check_shape, matched
from graftwork.training.questions import LABELS, Question, columns_of, named_for
from graftwork.training.streams import inputs_of, numbers_in, rows_of
from graftwork.training.tokens import check_tokens, vocabularies


@dataclass(frozen=True, slots=True, kw_only=True)
class Portion:
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


class Feed:
    """The samples, each batch read once for all models that take the same columns and are asked in the same pass.

    Args:
        contenders: All models; what is looked at of them are their inputs.
        samples: The data.
        batch: Samples in a portion; a stream comes in batches of its own.

    Attributes:
        columns: The columns of labels that there are.
        first: The first portion of the last pass, once it was read.

    Raises:
        MismatchError: If samples are not what a model takes.
        DataError: If there are none.
    """

    first: Portion

    def __init__(self, contenders: Sequence[Contender], samples: Samples | Stream, batch: int) -> None:
        self._samples, self._batch = samples, batch
        self._known = {each.name: vocabularies(each.model) for each in contenders}
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
            self.columns = list(_labels(self._begin, f"batch 0 of {samples.name}"))

    def expect(self, asked: Sequence[Question]) -> None:
        """Say which labels are read, and refuse those whose shape or kind tells that they cannot be.

        Raises:
            MismatchError: If they cannot.
        """
        self._wanted = {question.labels: question.target for question in asked}
        if isinstance(self._samples, Samples):
            for question in asked:
                check_labels(named_for(self._samples, question), question.target)
            self._labelled = {question.labels: named_for(self._samples, question) for question in asked}

    def portions(self, contenders: Sequence[Contender]) -> Iterator[Portion]:
        """Yield the samples as some of the models take them; what none should be shown is refused where it stands.

        Of a stream there is one pass, with all models.
        """
        found = self._of_samples(contenders) if isinstance(self._samples, Samples) else self._of_stream(contenders)
        for number, part in enumerate(found):
            if not number:
                self.first = part
            yield part

    def _of_samples(self, contenders: Sequence[Contender]) -> Iterator[Portion]:
        assert isinstance(self._samples, Samples)
        rest = replace(self._samples, inputs={}, labels=None)
        for first in range(0, len(self._samples), self._batch):
            rows = self._samples.rows[first : first + self._batch]
            read: dict[tuple[tuple[str, ...], ...], list[NDArray[Any]]] = {}
            given = {}
            for each in contenders:
                taken = self._matched[each.name]
                key = tuple(taken.inputs.values())
                if key not in read:
                    part = taken.take(rows)
                    check_part(part, self._samples.name)
                    read[key] = list(part.inputs.values())
                check_tokens(
                    self._known[each.name], dict(zip(taken.inputs, read[key], strict=True)), rows, self._samples.name
                )
                given[each.name] = arranged(each.model, dict(zip(taken.inputs, read[key], strict=True)))
            labels = {}
            for column, samples in self._labelled.items():
                part = replace(samples, inputs={}, weights=None).take(rows)
                check_part(part, self._samples.name, {column: self._wanted[column]})
                assert part.labels is not None  # there is a column of them
                labels[column] = part.labels
            counted = rest.take(rows)
            check_part(counted, self._samples.name)
            yield Portion(rows=rows, given=given, labels=labels, weights=dict.fromkeys(labels, counted.weights))

    def _of_stream(self, contenders: Sequence[Contender]) -> Iterator[Portion]:
        done, name = 0, self._samples.name
        for number, batch in enumerate(itertools.chain([self._begin], self._batches)):
            where = f"batch {number:,} of {name}"
            taken = {each.name: inputs_of(batch[0], inputs(each.model), where) for each in contenders}
            found, counted = _labels(batch, where), _weights(batch, where)
            missing = [column for column in self._wanted if column not in found]
            if missing:
                raise DataError(f"{where} has no labels {missing[0]!r}, as the first one had")
            labels = {column: found[column] for column in self._wanted}
            weights = {column: counted.get(column, counted.get("")) for column in self._wanted}
            first = next(iter(taken.values()))
            rows = rows_of(where, done, *first.values(), *labels.values(), *weights.values())
            for owner, each in taken.items():
                check_part(Part(rows, each, None, None), name)
                check_tokens(self._known[owner], each, rows, name)
            for column, target in self._wanted.items():
                check_shape(labels[column].shape[1:], target, f"labels {column!r} of {where}")
                check_part(Part(rows, {}, labels[column], weights[column]), name, {column: target})
            given = {each.name: arranged(each.model, taken[each.name]) for each in contenders}
            yield Portion(rows=rows, given=given, labels=labels, weights=weights)
            done += len(rows)


def _labels(batch: tuple[Any, ...], where: str) -> dict[str, NDArray[Any]]:
    """Return the labels of a batch of a stream by the names that columns would have."""
    found = _by_output(batch[1], f"the labels in {where}") if len(batch) > 1 and batch[1] is not None else {}
    return {f"{LABELS}.{name}" if name else LABELS: values for name, values in found.items()}


def _weights(batch: tuple[Any, ...], where: str) -> dict[str, NDArray[Any]]:
    """Return what samples of a stream count, likewise; under the empty name what they count for all labels."""
    found = _by_output(batch[2], f"the weights in {where}") if len(batch) > 2 and batch[2] is not None else {}
    return {f"{LABELS}.{name}" if name else "": values for name, values in found.items()}


def _by_output(values: Any, what: str) -> dict[str, NDArray[Any]]:
    """Return arrays by output: by its name or its place; under the empty name one alone."""
    if isinstance(values, Mapping):
        return {str(name): numbers_in(each, what) for name, each in values.items()}
    if isinstance(values, list | tuple) and all(hasattr(each, "shape") for each in values):
        return {str(place): numbers_in(each, what) for place, each in enumerate(values)}
    return {"": numbers_in(values, what)}

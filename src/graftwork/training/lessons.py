"""Batches for a student: its inputs, labels and weights, and what the teachers say of them, just asked or kept from before."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port, inputs
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.data.samples import Part
from graftwork.errors import DataError
from graftwork.models.lazy import keras
from graftwork.training import asking, feeding
from graftwork.training.caching import Cache
from graftwork.training.failing import failing, on
from graftwork.training.feeding import kept_if_raised, tensor_of
from graftwork.training.matching import Target
from graftwork.training.streams import part_of, parts_of
from graftwork.training.teachers import Teacher
from graftwork.training.tokens import check_tokens, smallest

Tell = Callable[[int, int], None]
"""Called with how many batches are done, and of how many."""


def lesson(part: Part, said: Mapping[str, NDArray[Any]], *, labelled: bool) -> tuple[dict[str, Any]]:
    """Return one batch as the distiller takes it: everything stands in its inputs.

    Args:
        part: The samples, read.
        said: What the teachers say of them.
        labelled: Whether labels are used.
    """
    found: dict[str, Any] = {"inputs": tuple(tensor_of(values) for values in part.inputs.values()), "said": dict(said)}
    if labelled and part.labels is not None:
        found["labels"] = part.labels
    if part.weights is not None:
        found["weights"] = np.asarray(part.weights, np.float32)
    return (found,)


def ask(teachers: Sequence[Teacher], part: Part, where: str) -> dict[str, NDArray[Any]]:
    """Return what teachers say of a batch.

    Args:
        teachers: The teachers.
        part: The batch.
        where: What messages call the data.

    Raises:
        DataError: If one fails on it.
    """
    found: dict[str, NDArray[Any]] = {}
    for teacher in teachers:
        given = functools.partial(asking.piece, teacher.model, list(part.inputs.values()), len(part.rows))
        with failing(teacher.name, on(part.rows, where), teacher.model, given):
            found |= teacher.say(part.inputs)
    return found


def kept(
    teachers: Sequence[Teacher], samples: Samples, batch: int, cache: Cache, tell: Tell | None = None
) -> tuple[dict[str, NDArray[Any]], int]:
    """Return what teachers say of all samples, mapped, and how many of them had to be asked.

    Args:
        teachers: The teachers.
        samples: The samples, `matched` with the student.
        batch: How many are asked about at a time.
        cache: Where it is kept.
        tell: Told how far it is.

    Raises:
        OptionError: If it is more than may be kept.
    """
    found: dict[str, NDArray[Any]] = {}
    asked = 0
    steps = -(-len(samples) // batch)
    for number, teacher in enumerate(teachers):
        key = _key(teacher, samples)
        before = cache.find(key)

        def said(teacher: Teacher = teacher, number: int = number) -> Iterator[dict[str, NDArray[Any]]]:
            for done, part in enumerate(samples.batches(batch), 1):
                yield ask([teacher], part, samples.name)
                if tell is not None:
                    tell(number * steps + done, len(teachers) * steps)

        if before is None:
            asked += 1
            before = cache.keep(key, len(samples), said())
        found |= before
    return found, asked


def _key(teacher: Teacher, samples: Samples) -> str:
    import hashlib

    return hashlib.sha256(f"{teacher.digest()} {samples.fingerprint()}".encode()).hexdigest()[:32]


def lessons(
    samples: Samples,
    batch: int,
    said: Callable[[Part, NDArray[np.int64]], Mapping[str, NDArray[Any]]],
    *,
    seed: int | None,
    labelled: bool,
) -> Any:
    """Return batches as a `keras.utils.PyDataset`: the same for the same seed, in another order in each epoch.

    Args:
        samples: The samples, `matched` with the student.
        batch: How many stand in a batch; the last may have fewer.
        said: Returns what teachers say of samples that were read, whose places among all samples are given.
        seed: Draws the order; without it samples come as they are.
        labelled: Whether labels are used.
    """

    class Lessons(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.start_at(0)

        def __len__(self) -> int:
            return -(-len(samples) // batch)

        @kept_if_raised
        def __getitem__(self, number: int) -> Any:
            places = self._order[number * batch : (number + 1) * batch]
            part = samples.take(samples.rows[places])
            return lesson(part, said(part, places), labelled=labelled)

        def on_epoch_end(self) -> None:
            self.start_at(self.epoch + 1)

        def start_at(self, epoch: int) -> None:
            """Give the batches of an epoch next."""
            self.epoch = epoch
            every = np.arange(len(samples), dtype=np.int64)
            # the order of `Samples.shuffled`, as places
            self._order = every if seed is None else places_of(samples).shuffled(seed, epoch).rows

    return Lessons()


def places_of(samples: Samples) -> Samples:
    """Return samples whose rows are their places among all of them: the order that a seed draws is the same."""
    from dataclasses import replace

    return replace(samples, rows=np.arange(len(samples), dtype=np.int64))


def first_labels(stream: Stream, ports: Mapping[str, Port]) -> NDArray[Any] | None:
    """Return the labels of the first batch of a stream, None if it has none."""
    for batch in stream:
        return part_of(batch, ports, f"batch 0 of {stream.name}").labels
    raise DataError(f"{stream.name} yields no batches")


def streamed(stream: Stream, student: Any, teachers: Sequence[Teacher], *, labelled: bool, target: Target) -> Any:
    """Return the batches of a stream as a `keras.utils.PyDataset`; each epoch goes through it once, in the stream's own order.

    Args:
        stream: The stream; it is gone through once, to count its batches.
        student: Who learns from them.
        teachers: Who is asked about each batch.
        labelled: Whether labels are used.
        target: What they have to fit.

    Raises:
        DataError: If it yields nothing, or not what the student takes.
        MismatchError: If labels are used, and are not those of the student.
    """
    ports = inputs(student)
    known = smallest(list(ports), student, *(teacher.model for teacher in teachers))

    def batches() -> Iterator[Part]:
        for part in parts_of(stream, ports, target if labelled else None, labelled=labelled):
            check_tokens(known, part.inputs, part.rows, stream.name)
            yield part

    return feeding.streamed(batches, lambda part: lesson(part, ask(teachers, part, stream.name), labelled=labelled))

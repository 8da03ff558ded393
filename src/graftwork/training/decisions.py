"""What models decided, batch by batch, until all of them have been asked: models need not be in memory together to be compared."""

import contextlib
import itertools
import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OutputError
from graftwork.training.judging import Agreement, Task
from graftwork.training.metrics import Floats

HELD_BYTES = 1 << 26
"""As much of what one model decided is held in memory; beyond it, all stands in a temporary file."""


def decided(task: Task, said: Floats) -> NDArray[Any]:
    """Return what a model decides for by what it says: the number of a class, which labels there are, or the numbers themselves."""
    if task == "numbers":
        return said
    found: NDArray[Any] = said.argmax(axis=1).astype(np.int32) if task == "classes" else said > 0.5
    return found


class Decisions:
    """What models decided about the same samples.

    Args:
        task: What they speak about.
        size: How many classes, labels or numbers there are.
        names: The models' names.
    """

    def __init__(self, task: Task, size: int, names: Sequence[str]) -> None:
        self._task, self._size = task, size
        self._pairs = list(itertools.combinations(names, 2))
        self._open = contextlib.ExitStack()
        self._weights, *kept = (_Kept(self._open.enter_context(_file())) for _ in ("weights", *names))
        self._kept = dict(zip(names, kept, strict=True))

    def weigh(self, weights: Floats) -> None:
        """Add what each sample of a batch counts."""
        if self._pairs:
            self._weights.add(weights)

    def add(self, name: str, said: Floats) -> None:
        """Add what a model says of a batch.

        Raises:
            OutputError: If the disk is full.
        """
        if self._pairs:
            self._kept[name].add(decided(self._task, said))

    def compared(self, broken: Sequence[str]) -> Mapping[tuple[str, str], Agreement]:
        """Return how far the models of each pair say the same, and let go of what they say.

        Args:
            broken: The models that did not speak to the end.
        """
        found = {pair: Agreement(self._task, self._size) for pair in self._pairs}
        whole = {name: each for name, each in self._kept.items() if name not in broken}
        with self._open:
            for number in range(len(self._weights)):
                weights = self._weights.read(number)
                batch = {name: each.read(number) for name, each in whole.items()}
                for (a, b), agreement in found.items():
                    if a in batch and b in batch:
                        agreement.add(batch[a], batch[b], weights)
        return found


def _file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(HELD_BYTES, prefix="graftwork-")


class _Kept:
    """Arrays that are kept one after the other in a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: list[tuple[int, tuple[int, ...], np.dtype[Any]]] = []

    def __len__(self) -> int:
        return len(self._places)

    def add(self, values: NDArray[Any]) -> None:
        self._places.append((self._file.tell(), values.shape, values.dtype))
        try:
            self._file.write(values.tobytes())
        except OSError as error:
            raise OutputError(
                f"what models say cannot be kept in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names another place"
            ) from error

    def read(self, number: int) -> NDArray[Any]:
        begin, shape, dtype = self._places[number]
        self._file.seek(begin)
        return np.frombuffer(self._file.read(math.prod(shape) * dtype.itemsize), dtype).reshape(shape)

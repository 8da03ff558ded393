"""Going over data again and again through a part of a model, each time from where the last time left off.

What the next passes begin with is written to a temporary directory and mapped, as long as it stays below a limit; where it does not, they
compute it anew. What comes out is the same to the last bit, since batches are the same ones.
"""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.graph import Graph, Key, Step
from graftwork.compose.naming import Names
from graftwork.data import Samples
from graftwork.data.base import Rows
from graftwork.models.lazy import keras
from graftwork.training.failing import failing, on
from graftwork.training.feeding import packed


class Activations:
    """Tensors of a graph on some data, of which some are kept on the disk.

    Args:
        graph: The model, unfolded.
        samples: Samples that are matched with it.
        batch: How many are run at a time.
        limit: The most bytes to keep on the disk.

    Attributes:
        most_bytes: The most bytes that were kept at any time.
    """

    def __init__(self, graph: Graph, samples: Samples, batch: int, limit: int) -> None:
        self._graph, self._samples, self._batch, self._limit = graph, samples, batch, limit
        self._kept: _Kept | None = None
        self.most_bytes = 0

    @property
    def given(self) -> tuple[Key, ...]:
        """The tensors that are kept."""
        return () if self._kept is None else self._kept.keys

    def close(self) -> None:
        """Delete what is kept."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def run(self, wanted: Sequence[Key], keep: Sequence[Key], progress: Callable[[int], None]) -> None:
        """Run what makes some tensors on all samples.

        Args:
            wanted: The tensors.
            keep: Those with which later passes go on, if they can be kept.
            progress: Told how many samples are done.
        """
        given = self.given
        steps = self._graph.needed([*wanted, *keep], given)
        last = _last_uses(steps, keep)
        room = self._limit - (0 if self._kept is None else self._kept.size_bytes)
        new = _Kept(keep, len(self._samples)) if keep and set(keep) != set(given) else None
        try:
            done = 0
            for values, count in self._begun(steps):
                model, rows = self._graph.model, self._samples.rows[done : done + count]
                with failing(model.name, on(rows, self._samples.name), model, partial(self._given, rows)):
                    self._run(steps, values, last)
                if new is not None and not new.add(values, done, count, room):
                    new.close()
                    new = None
                done += count
                progress(done)
        except BaseException:
            if new is not None:
                new.close()
            raise
        if new is not None:
            self.most_bytes = max(self.most_bytes, new.size_bytes + self._limit - room)
            self.close()
            self._kept = new

    def _begun(self, steps: Sequence[Step]) -> Iterator[tuple[dict[Key, Any], int]]:
        """Yield for each batch what to begin with, and how many samples it has."""
        functional = self._graph.functional
        entering = {key for step in steps if step.is_input for key in step.gives}
        for first in range(0, len(self._samples), self._batch):
            rows = self._samples.rows[first : first + self._batch]
            values = {} if self._kept is None else self._kept.read(first, len(rows))
            if entering:
                values |= zip(self._graph.inputs, functional._standardize_inputs(self._given(rows)), strict=True)
            yield values, len(rows)

    def _given(self, rows: Rows) -> Any:
        return packed(self._graph.model, self._samples.take(rows).inputs)

    def _run(self, steps: Sequence[Step], values: dict[Key, Any], last: Mapping[int, Sequence[Key]]) -> None:
        """Call steps one after the other; what is used no more is let go of."""
        names = Names()
        for place, step in enumerate(steps):
            if not step.is_input:
                made = step.call([values[key] for key in step.takes], names)
                values.update(zip(step.gives, made, strict=True))
            for key in last.get(place, ()):
                values.pop(key, None)


def _last_uses(steps: Sequence[Step], keep: Sequence[Key]) -> dict[int, list[Key]]:
    """Return, by the place of a step, the tensors that are not needed after it."""
    places = {key: place for place, step in enumerate(steps) for key in (*step.gives, *step.takes)}
    found: dict[int, list[Key]] = {}
    for key, place in places.items():
        if key not in keep:
            found.setdefault(place, []).append(key)
    return found


class _Kept:
    """Tensors on the disk, with the masks that they carry.

    Args:
        keys: The tensors.
        count: The number of samples.
    """

    def __init__(self, keys: Sequence[Key], count: int) -> None:
        self.keys, self._count = tuple(keys), count
        self._folder = tempfile.TemporaryDirectory(prefix="graftwork-")
        self._arrays: dict[tuple[Key, str], NDArray[Any]] = {}
        self.size_bytes = 0

    def close(self) -> None:
        self._arrays.clear()
        self._folder.cleanup()

    def add(self, values: Mapping[Key, Any], first: int, count: int, room: int) -> bool:
        """Write the samples from a place on; return whether they could be: one entry per sample, always of one shape, in the room."""
        found = {}
        for key in self.keys:
            mask = getattr(values[key], "_keras_mask", None)
            for word, tensor in (("", values[key]), ("mask", mask)):
                if tensor is not None:
                    try:
                        found[key, word] = np.asarray(keras.ops.convert_to_numpy(tensor))
                    except (TypeError, ValueError, AttributeError):  # sparse or ragged
                        return False
        if any(array.ndim == 0 or len(array) != count or array.dtype.hasobject for array in found.values()):
            return False
        if not self._arrays and not self._opened(found, room):
            return False
        same = {name: (array.dtype, array.shape[1:]) for name, array in self._arrays.items()}
        if same != {name: (array.dtype, array.shape[1:]) for name, array in found.items()}:
            return False
        for name, array in found.items():
            self._arrays[name][first : first + count] = array
        return True

    def _opened(self, found: Mapping[tuple[Key, str], NDArray[Any]], room: int) -> bool:
        shapes = {name: (self._count, *array.shape[1:]) for name, array in found.items()}
        self.size_bytes = sum(math.prod(shape) * found[name].dtype.itemsize for name, shape in shapes.items())
        if self.size_bytes > room or not all(math.prod(shape) for shape in shapes.values()):
            return False
        for number, (name, shape) in enumerate(shapes.items()):
            self._arrays[name] = np.memmap(Path(self._folder.name) / str(number), found[name].dtype, "w+", shape=shape)
        return True

    def read(self, first: int, count: int) -> dict[Key, Any]:
        """Return the tensors of some samples."""
        values = {}
        for key in self.keys:
            values[key] = keras.ops.convert_to_tensor(self._arrays[key, ""][first : first + count])
            mask = self._arrays.get((key, "mask"))
            if mask is not None:
                keras.src.backend.set_keras_mask(values[key], keras.ops.convert_to_tensor(mask[first : first + count]))
        return values

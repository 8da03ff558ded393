"""What a frozen trunk gives for every sample, computed once: on the disk, mapped, and gone on with where it was interrupted.

::

    FOLDER/features.json     key, shape and dtype, and how many samples are done
    FOLDER/features.bin      the rows, one after the other

The number of samples that are done is written after the rows are on the disk, so rows that were half written when a process died are
computed again. Batches are the same ones whatever happened in between, and so are the bits.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port
from graftwork.data import Column, Samples
from graftwork.data.base import Rows, Stream, Table
from graftwork.data.samples import Part
from graftwork.errors import MismatchError, OutputError, StoreError
from graftwork.models.configuration import configuration_of, layers_of
from graftwork.models.lazy import keras
from graftwork.training.failing import failing, on
from graftwork.training.feeding import packed
from graftwork.training.placing import asked_on
from graftwork.training.remembering import remembering

COLUMN = "features"
SYNCED = 10.0
"""Seconds after which what is done so far is made safe."""


def why_not_once(trunk: Any, port: Port, data: Samples | Stream) -> str:
    """Return why a trunk must run in every epoch, "" if once is enough.

    Args:
        trunk: A model whose layers are all frozen.
        port: What it gives.
        data: What it is run on.
    """
    if not isinstance(data, Samples):
        return f"{data.name} yields batches that may be others each time"
    if port.tensor is not None and getattr(port.tensor, "_keras_mask", None) is not None:
        return f"{port.name!r} carries a mask"
    if any(size is None for size in port.shape[1:]):
        return f"{port.name!r} {port.shape} has no fixed size"
    found = remembering(trunk)
    if found:
        return f"{found}: what it gives depends on the samples before"
    for layer in trunk._flatten_layers(include_self=False):
        own = type(layer).__name__
        if _draws(layer):
            return f"layer {layer.name!r} ({own}) is random in training"
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            return f"layer {layer.name!r} ({own}) is not frozen, so its statistics move"
        plain = type(layer).__module__.startswith(("keras.", "graftwork."))
        if not plain and layer._call_has_training_arg:
            return f"layer {layer.name!r} ({own}) is a class of its own that may do something else in training"
    return ""


def _draws(layer: Any) -> bool:
    """Return whether a layer gives something random in training, at the rates that it has."""
    rates = [getattr(layer, name, None) for name in ("rate", "dropout", "recurrent_dropout", "_dropout", "stddev")]
    known = [rate for rate in rates if isinstance(rate, int | float)]
    return bool(layer._seed_generators) and (not known or any(rate > 0 for rate in known))


def digest(model: Any) -> str:
    """Return a text that changes when a model's configuration, a vocabulary or a weight of it does.

    The states of random layers do not count: a model that is loaded has others each time.
    """
    found = hashlib.sha256(json.dumps(configuration_of(model), sort_keys=True, default=str).encode())
    for layer in layers_of(model):
        if hasattr(layer, "get_vocabulary"):
            found.update(repr(layer.get_vocabulary()).encode())
    for variable in model.weights:
        found.update(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).view(np.uint8).data)
    return found.hexdigest()


def told_apart(data: Samples | Stream | None) -> str:
    """Return a text that changes when data does, as far as that can be told: of a stream, its name."""
    if data is None:
        return ""
    return data.fingerprint() if isinstance(data, Samples) else data.name


def features(
    trunk: Any,
    samples: Samples,
    *,
    batch: int,
    folder: Path,
    device: str | None = None,
    precision: str | None = None,
    check: Callable[[Part], None] = lambda part: None,
    tell: Callable[[int, int], None] = lambda done, count: None,
) -> Samples:
    """Return samples whose one input is what a trunk gives in inference mode; all else is as it was.

    Args:
        trunk: A model with one output.
        samples: The samples, `matched` with it.
        batch: How many are run at a time.
        folder: Where the features are kept; those of the same trunk, samples, batch, device and precision are found there.
        device: Where the trunk runs: `cpu`, `gpu:1`; by default where Keras does.
        precision: What its layers compute in, ``"float16"`` or ``"bfloat16"``; by default what they do.
        check: Refuses samples, as they are read.
        tell: Told how many samples are done, and how many there are.

    Raises:
        StoreError: If the folder holds the features of something else.
        OutputError: If they cannot be written.
        MismatchError: If the trunk does not give one row for each sample.
        OptionError: If there is no such device.
    """
    how = [batch, device, precision, keras.__version__, keras.config.backend()]
    told = f"{digest(trunk)} {samples.fingerprint()} {' '.join(map(str, how))}"
    key = hashlib.sha256(told.encode()).hexdigest()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        rows = _Rows(folder, key, len(samples))
        if rows.done < len(samples):
            with asked_on(trunk, device, precision) as asked:
                while rows.done < len(samples):
                    part = samples.take(samples.rows[rows.done : rows.done + batch])
                    check(part)
                    given = partial(packed, trunk, part.inputs)
                    with failing(trunk.name, on(part.rows, samples.name), trunk, given):
                        found = _said(asked, part, batch if rows.done else 0)
                    rows.add(found.astype(np.float32) if found.dtype.itemsize < 4 else found)
                    tell(rows.done, len(samples))
        table = Featured(samples, rows.mapped(), key)
    except OSError as error:
        raise OutputError(f"features cannot be kept in {folder}: {error}") from error
    every = np.arange(len(samples), dtype=np.int64)
    return replace(samples, table=table, rows=every, inputs={COLUMN: (COLUMN,)}, scale=None, offset=None)


def _said(trunk: Any, part: Part, size: int) -> NDArray[Any]:
    """Return what a trunk gives for samples; fewer than `size` are filled up, so that nothing is compiled for them."""
    more = max(0, size - len(part.rows))
    given = {name: np.concatenate([each, np.repeat(each[-1:], more, axis=0)]) for name, each in part.inputs.items()}
    found = np.asarray(keras.ops.convert_to_numpy(trunk.predict_on_batch(packed(trunk, given))))
    if len(found) != len(part.rows) + more:
        raise MismatchError(f"{trunk.name!r} gives {len(found)} rows for {len(part.rows) + more} samples")
    return found[: len(part.rows)]


class _Rows:
    """The rows on the disk, and how many of them are done."""

    def __init__(self, folder: Path, key: str, count: int) -> None:
        self._state, self._file, self._key, self._count = folder / "features.json", folder / "features.bin", key, count
        self._told: dict[str, Any] = {}
        self._array: Any = None
        self._safe = time.monotonic()
        self.done = 0
        if self._state.exists():
            self._restore()

    def _restore(self) -> None:
        try:
            told = json.loads(self._state.read_text(encoding="utf-8"))
            fits = told["key"] == self._key
            shape, dtype = (self._count, *map(int, told["shape"])), np.dtype(told["dtype"])
            whole = self._file.stat().st_size == int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            done = int(told["done"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"the features in {self._state.parent} are damaged ({error}); remove them to begin anew"
            ) from error
        if not fits or not whole or not 0 <= done <= self._count:
            raise StoreError(
                f"{self._state.parent} holds features of another trunk, other data, or run otherwise (batch, device, precision); name "
                "another folder, or remove it"
            )
        self._told, self.done = told, done
        self._array = np.memmap(self._file, dtype, "r+", shape=shape)

    def add(self, found: NDArray[Any]) -> None:
        if self._array is None:
            shape = (self._count, *found.shape[1:])
            self._told = {"key": self._key, "shape": found.shape[1:], "dtype": found.dtype.str}
            with self._file.open("wb") as file:  # a map over space that the disk does not have would kill the process
                os.posix_fallocate(file.fileno(), 0, max(1, int(np.prod(shape, dtype=np.int64)) * found.dtype.itemsize))
            self._array = np.memmap(self._file, found.dtype, "r+", shape=shape)
        self._array[self.done : self.done + len(found)] = found
        self.done += len(found)
        if self.done == self._count or time.monotonic() - self._safe > SYNCED:
            self._sync()

    def _sync(self) -> None:
        """Make what is done safe, then say so."""
        self._array.flush()
        unfinished = self._state.with_name(f".{self._state.name}.{os.getpid()}")
        unfinished.write_text(json.dumps({**self._told, "done": self.done}), encoding="utf-8")
        unfinished.replace(self._state)
        self._safe = time.monotonic()

    def mapped(self) -> NDArray[Any]:
        return np.memmap(self._file, self._array.dtype, "r", shape=self._array.shape)


class Featured:
    """A table of features, with the labels and weights of the samples that they are of; see `graftwork.data.base.Table`."""

    def __init__(self, samples: Samples, values: NDArray[Any], key: str) -> None:
        self._samples, self._values, self._key = samples, values, key
        table: Table = samples.table
        self.name, self.labels, self.classes = table.name, table.labels, table.classes
        self.columns: Mapping[str, Column] = {**table.columns, COLUMN: Column(values.shape[1:], values.dtype.name)}

    def __len__(self) -> int:
        return len(self._values)

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column == COLUMN:
            return np.asarray(self._values[rows])
        return self._samples.table.take(column, self._samples.rows[rows])

    def fingerprint(self) -> str:
        """Return a text that changes when the features do."""
        return self._key

"""Models that are asked what they say: loaded from any format, or the caller's own, which is left as it is."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import Port, graph_of, inputs, outputs
from graftwork.errors import MismatchError, OptionError, StoreError, gist
from graftwork.models import live
from graftwork.models.configuration import layers_of
from graftwork.models.copying import copy_model
from graftwork.models.lazy import keras, worth_saying
from graftwork.models.savedmodel.answering import Answering, answering
from graftwork.models.skeleton import skeleton, weightless
from graftwork.stores import Reader, open_store
from graftwork.training.asking import asked, fixed, ready, rows
from graftwork.training.failing import of_model

WARM_UP, ROUNDS, ENOUGH = 3, 30, 1.0
"""Calls before the clock counts, calls that it counts, and seconds after which five of them are enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """How long a model takes.

    Attributes:
        single_ms: Milliseconds for one sample alone; None where the model only takes batches of another size.
        batch_ms: Milliseconds for a batch.
        batch: Samples in it.
        how: How this was measured.
    """

    single_ms: float | None
    batch_ms: float
    batch: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model that is asked what it says.

    Attributes:
        name: What it is called in results.
        source: Where it comes from: a path, or the class of a live model.
        model: The live model, which is our own or shares nothing with the caller's but its layers, which inference does not change; or, of
            one that is not loaded, the same without values.
        ports: Its outputs by name.
        served: What a SavedModel became to be asked.
        parameters: How many it has; None of a SavedModel that holds them in its graph.
        size_bytes: Its size on disk, None of a live model.
        notes: What the user should know.
        loaded: Whether it has values, and can be asked.
    """

    name: str
    source: str
    model: Any
    ports: Mapping[str, Port]
    served: Answering | None = None
    parameters: int | None
    size_bytes: int | None
    notes: tuple[str, ...] = ()
    loaded: bool = True

    @property
    def fixed(self) -> int | None:
        """The only size of batches that it takes, None if it takes any."""
        return fixed(self.model)

    def said(self, given: Any, count: int) -> dict[str, NDArray[Any]]:
        """Return what the model says, by the names of its outputs, in inference mode.

        Args:
            given: Arrays in the structure of its inputs.
            count: How many samples that is.

        Raises:
            MismatchError: If it does not take them, or does not answer each.
        """
        try:
            flat = [np.asarray(each) for each in keras.tree.flatten(asked(self.model, given, count))]
        except (ValueError, TypeError, KeyError) as error:
            if of_model(error):
                raise
            raise MismatchError(f"model {self.name!r} does not take the samples as they come: {gist(error)}") from error
        for name, values in zip(self.ports, flat, strict=True):
            if not values.ndim or len(values) != count:
                raise MismatchError(
                    f"output {name!r} of model {self.name!r} has the shape {values.shape} for {count} samples, expected {count} rows"
                )
        return dict(zip(self.ports, flat, strict=True))

    def latency(self, given: Any, count: int, batch: int) -> Latency:
        """Measure how long the model takes.

        Args:
            given: Arrays in the structure of its inputs, repeated as far as needed.
            count: How many samples that is.
            batch: How many shall be in the larger batch.
        """
        size = self.fixed or batch
        return Latency(
            single_ms=self._milliseconds(rows(given, 0, 1, count)) if self.fixed in (None, 1) else None,
            batch_ms=self._milliseconds(rows(given, 0, size, count)),
            batch=size,
            how=(
                f"median of up to {ROUNDS} calls of predict_on_batch after {WARM_UP} that do not count, from NumPy to NumPy "
                f"({keras.config.backend()})"
            ),
        )

    def _milliseconds(self, given: Any) -> float:
        given = ready(given)
        for _ in range(WARM_UP):
            self.model.predict_on_batch(given)
        took: list[float] = []
        while len(took) < ROUNDS and (len(took) < 5 or sum(took) < ENOUGH):
            start = time.perf_counter()
            self.model.predict_on_batch(given)
            took.append(time.perf_counter() - start)
        return float(np.median(took)) * 1000


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Lose TensorFlow's warning of functions that are traced too often: all models share the code of `predict`."""
    logger = logging.getLogger("tensorflow")
    before = worth_saying in logger.filters
    logger.addFilter(worth_saying)
    try:
        yield
    finally:
        if not before:
            logger.removeFilter(worth_saying)


def contender(
    name: str,
    source: Any,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    safe_mode: bool = True,
    copied: bool = False,
    values: bool = True,
) -> Contender:
    """Return a model to be asked.

    Args:
        name: What it is called in results.
        source: A live Keras model, or a path to one in any format that loads, SavedModels among them.
        custom_objects: Classes and functions that a file refers to and Keras does not know, by name.
        safe_mode: Whether code in a file is refused.
        copied: Whether a live model is copied, so that it stands where models are made just now.
        values: Whether it can be asked; without, the weights in a file are not read, if its layers can be made without.

    Raises:
        StoreError: If it cannot be loaded.
        OptionError: If it is neither, or does not say what it takes.
    """
    if not isinstance(source, str | PathLike):
        if not live.is_live(source):
            raise OptionError(f"model {name!r} is a {type(source).__name__}, expected a path or a keras.Model")
        model = _apart(source, copied=copied)
        return Contender(
            name=name,
            source=f"{type(source).__name__} {source.name!r}",
            model=model,
            ports=outputs(model),
            parameters=model.count_params(),
            size_bytes=None,
        )
    with open_store(source if isinstance(source, str) else Path(source)) as reader:
        path, files = reader.path, list(reader.header.files)
        if not values:
            try:
                with weightless():
                    model, served = _opened(reader, custom_objects, safe_mode=safe_mode, values=False)
            except StoreError:  # layers that give their variables values themselves
                values = True
        if values:
            model, served = _opened(reader, custom_objects, safe_mode=safe_mode)
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    return Contender(
        name=name,
        source=str(source),
        model=model,
        ports=outputs(model),
        served=served,
        parameters=served.parameters if served else model.count_params(),
        loaded=values,
        size_bytes=sum(file.stat().st_size for file in dict.fromkeys(files)),
        notes=tuple(f"{name}: {note}" for note in served.notes) if served else (),
    )


def _opened(
    reader: Reader, custom_objects: Mapping[str, Any] | None, *, safe_mode: bool, values: bool = True
) -> tuple[Any, Answering | None]:
    """Return the model in a file, and what it became if it is a SavedModel; without values only inside `weightless`."""
    if reader.header.format == "saved_model":
        served = answering(reader, values=values)
        return served.model, served
    load = live.load_model if values else skeleton
    return load(reader, custom_objects=custom_objects, safe_mode=safe_mode), None


def _apart(model: Any, *, copied: bool) -> Any:
    """Return a model of the same layers whose being asked leaves no trace in the caller's; a copy where asking changes layers."""
    if not isinstance(model, keras.Model):
        raise OptionError(f"{type(model).__name__} is not a Keras 3 model; give a keras.Model")
    inputs(model)  # refuses a model that does not say what it takes
    graph = graph_of(model)
    plain = type(model).__module__.startswith("keras.")
    if copied or not plain or any(getattr(layer, "stateful", False) for layer in layers_of(model)):
        return copy_model(model)
    return keras.Model(graph._inputs_struct, graph._outputs_struct, name=model.name)

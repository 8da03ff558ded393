"""Keras 2 models out of the SavedModels that Keras 2 made of them: rebuilt in Keras 3, plain and trainable, and compared.

What can be told without TensorFlow is told by `graftwork.stores.keras2_program`: the configuration, and which variable is which. Tables of
lookup layers are parts of the program, so TensorFlow loads it to read them, and to be asked for what its signature says.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.architecture.layer import Layer
from graftwork.errors import StoreError
from graftwork.models import live
from graftwork.models.savedmodel.agreement import SERVING, agreement, loaded
from graftwork.stores.base import RAW_DTYPES
from graftwork.stores.files import brief
from graftwork.stores.keras2_program import Keras2Program, Place, discretizations, lookups


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A model that was rebuilt.

    Attributes:
        model: The model, not compiled.
        note: How it was compared.
    """

    model: Any
    note: str


def refusal(path: Path) -> str | None:
    """Return why a SavedModel cannot be rebuilt as a Keras model, as far as its files tell; None if it can. Loads nothing."""
    try:
        with Keras2Program(path):
            return None
    except StoreError as error:
        return str(error)


def rebuilt(
    path: Path,
    *,
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
    check: bool = True,
) -> Rebuilt:
    """Return the Keras 2 model that a SavedModel was saved from, rebuilt in Keras 3.

    Args:
        path: The directory.
        name: What the model is called; by default as it was.
        custom_objects: Functions that its configuration refers to and Keras does not know, by name.
        safe_mode: Whether code in its configuration is refused.
        check: Whether what it says is compared with what the SavedModel's signature says.

    Raises:
        StoreError: If it carries no configuration, has a part that does not become the same in Keras 3, or says something else.
    """
    with described(path) as (source, program):
        outputs = output_names(source.places[0].layer)
        model = live.load_model(source, name=name, custom_objects=custom_objects, safe_mode=safe_mode)
    if not check:
        return Rebuilt(model, "not compared with the SavedModel, as asked")
    return Rebuilt(model, agreement(program or loaded(path), path.name, model, SERVING, outputs)[1])


@contextlib.contextmanager
def described(path: Path) -> Iterator[tuple[Keras2Program, Any]]:
    """Yield a SavedModel as the Keras 2 model that it was saved from, with all settings, and its program where TensorFlow had to load it.

    Raises:
        StoreError: If it carries no configuration, or one that its objects do not fit.
    """
    with Keras2Program(path) as source:
        found = lookups(source.places)
        program = loaded(path) if found else None
        settings = {place.chain: _table(source, place, program) for place in found}
        settings |= {place.chain: _bins(source, place) for place in discretizations(source.places)}
    with Keras2Program(path, settings) as source:
        yield source, program


def output_names(root: Layer) -> tuple[str, ...]:
    """Return what Keras 2 calls the outputs of a model in signatures: by the layers that give them."""
    graph = root.graph
    if graph is None or not graph.layers:
        return ()
    names = [graph.layers[-1].name] if graph.sequential else [ref.layer for _, ref in graph.outputs]
    found: list[str] = []
    for name in names:
        taken, number = name, 0
        while taken in found:
            number += 1
            taken = f"{name}_{number}"
        found.append(taken)
    return tuple(found)


# Tables ----------------------------------------------------------------------------------------------------------------


def _table(source: Keras2Program, place: Place, program: Any) -> dict[str, Any]:
    """Return the settings that tell a lookup layer what it knows."""
    thing = program
    for edge in place.edges:
        thing = getattr(thing, edge, None)
    if place.layer.class_name == "TextVectorization":
        thing = getattr(thing, "_lookup_layer", None)
    table = getattr(thing, "lookup_table", None)
    if table is None:
        raise StoreError(f"{source.path.name} has no table of layer {place.chain!r} ({place.layer.class_name})")
    words = _words(source, place, table)
    config = place.layer.config
    if config.get("output_mode") != "tf_idf":
        return {"vocabulary": words}
    weights = _values(source, f"{place.chain}/idf_weights")
    special = int(config.get("num_oov_indices", 1))
    return {"vocabulary": words, "idf_weights": [float(w) for w in weights[special : special + len(words)]]}


def _values(source: Keras2Program, name: str) -> Any:
    """Return a variable's values."""
    if name not in source.specs():
        raise StoreError(f"{source.path.name} has no variable {name!r}")
    spec = source.specs()[name]
    values = np.empty(spec.size, RAW_DTYPES[spec.dtype])
    source.read_into(name, 0, values)
    return values.reshape(spec.shape)


def _bins(source: Keras2Program, place: Place) -> dict[str, Any]:
    """Return the boundaries that an adapted Discretization layer makes of its summary: quantiles of the weighted values in it.

    ::

        summary   values x, ascending, and their weights w
        edges     x at the shares 1/n, 2/n, …, (n-1)/n of the sum of w, in between by straight lines; all x where there are fewer than n
    """
    values, weights = (np.asarray(row, np.float64) for row in _values(source, f"{place.chain}/summary"))
    bins = int(place.layer.config.get("num_bins") or 1)
    if len(values) < bins:
        return {"bin_boundaries": values[:-1].tolist(), "num_bins": None}
    summed = weights.cumsum()
    shares = 1 / bins + np.arange(0.0, 1.0, 1 / bins)
    return {
        "bin_boundaries": np.interp(shares, summed / summed[-1], values)[:-1].astype(np.float32).tolist(),
        "num_bins": None,
    }


def _words(source: Keras2Program, place: Place, table: Any) -> list[Any]:
    """Return what a table knows, in the order of the numbers that it gives."""
    import tensorflow as tf

    is_text = place.layer.class_name != "IntegerLookup"
    kinds = [tf.string if is_text else tf.int64, tf.int64]
    inverted = bool(place.layer.config.get("invert"))
    try:
        keys, values = tf.raw_ops.LookupTableExportV2(
            table_handle=table.resource_handle,
            Tkeys=kinds[inverted],
            Tvalues=kinds[not inverted],
        )
    except Exception as error:  # of TensorFlow
        raise StoreError(
            f"the table of layer {place.chain!r} of {source.path.name} cannot be read: {brief(error)}"
        ) from error
    words, numbers = (values, keys) if inverted else (keys, values)
    ordered: Sequence[Any] = words.numpy()[np.argsort(numbers.numpy())].tolist()
    return [word.decode("utf-8") if isinstance(word, bytes) else int(word) for word in ordered]

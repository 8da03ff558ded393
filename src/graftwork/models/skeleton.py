"""Models without values: their layers, connections, shapes and dtypes, for planning."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from graftwork.errors import StoreError
from graftwork.models import live
from graftwork.models.lazy import keras
from graftwork.stores import open_store
from graftwork.stores.base import Header
from graftwork.stores.files import brief


class Headed(Protocol):
    """What says of itself which model it holds: an open reader, or one that is only planned."""

    path: Path
    header: Header


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Make variables that have a shape and a dtype and no value, as long as this lasts."""
    with keras.StatelessScope(initialize_variables=False):
        yield


def skeleton(
    source: Path | str | Headed | Any, *, name: str | None = None, custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Return a model without values; to be called inside `weightless`.

    Args:
        source: A file, what has a header, or a live model.
        name: What the model is called; by default as in the source.
        custom_objects: Classes and functions that the source refers to and Keras does not know, by name.

    Raises:
        StoreError: If the source holds no architecture, or one that Keras cannot rebuild.
    """
    model: Any = source
    if live.is_live(model):
        config = keras.saving.serialize_keras_object(model)
        custom_objects = {**{cls.__name__: cls for cls in live.custom_classes(model)}, **(custom_objects or {})}
        label, safe_mode = f"model {model.name!r}", False
    elif isinstance(source, Path | str):
        with open_store(source) as reader:
            return skeleton(reader, name=name, custom_objects=custom_objects)
    else:
        config, label, safe_mode = source.header.config, source.path.name, True
    if not isinstance(config, dict):
        raise StoreError(f"{label} holds no Keras architecture")
    try:
        model = keras.saving.deserialize_keras_object(
            {**config, "compile_config": None}, custom_objects=dict(custom_objects or {}), safe_mode=safe_mode
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"Keras cannot rebuild {label}: {brief(error)}") from error
    return live.renamed(model, name)

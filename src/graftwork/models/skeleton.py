"""Models without values: their layers, connections, shapes and dtypes, for planning."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.models import live
from graftwork.models.configuration import configuration_of, objects_of, rebuild
from graftwork.models.copying import carry_flags
from graftwork.models.lazy import keras
from graftwork.models.loadable import Headed
from graftwork.stores import open_store


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Make variables that have a shape and a dtype and no value, as long as this lasts."""
    with keras.StatelessScope(initialize_variables=False):
        yield


def skeleton(
    source: Path | str | Headed | Any,
    *,
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Return a model without values; to be called inside `weightless`.

    Args:
        source: A file, what has a header, or a live model.
        name: What the model is called; by default as in the source.
        custom_objects: Classes and functions that the source refers to and Keras does not know, by name.
        safe_mode: Whether code in a file is refused.

    Raises:
        StoreError: If the source holds no architecture, or one that Keras cannot rebuild.
    """
    model: Any = source
    if live.is_live(model):
        config = configuration_of(model)
        known = {**objects_of(model, config), **(custom_objects or {})}
        made = rebuild(config, f"model {model.name!r}", known, safe_mode=False)
        carry_flags(model, made)
        return live.renamed(made, name)
    if isinstance(source, Path | str):
        with open_store(source) as reader:
            return skeleton(reader, name=name, custom_objects=custom_objects, safe_mode=safe_mode)
    return live.renamed(live.rebuilt(source, custom_objects, safe_mode=safe_mode), name)

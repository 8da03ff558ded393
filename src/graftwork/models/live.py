"""Between live Keras models and files: exact copies, through Keras's own saving.

A round trip through a ``.keras`` file is the one way to copy a model that is exact for everything Keras can save (adapted layers, lookup
tables, quantized weights); `clone_model` with `set_weights` is not.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError
from graftwork.models.lazy import keras
from graftwork.stores import open_store
from graftwork.stores.base import Reader
from graftwork.stores.files import brief


def is_live(model: object) -> bool:
    """Return whether an object is a Keras model, without importing Keras for one that is not."""
    return any(
        cls.__module__.startswith(("keras.", "tf_keras.")) and cls.__name__ == "Model" for cls in type(model).__mro__
    )


def save(model: Any, path: Path) -> None:
    """Write a live model to a ``.keras`` file, leaving the model as it is.

    Raises:
        StoreError: If Keras cannot save it.
    """
    if not model.built:
        raise StoreError(f"model {model.name!r} has no weights yet; build it or call it once")
    try:
        model.save(path)
    except (ValueError, TypeError, NotImplementedError, AttributeError) as error:
        raise StoreError(f"Keras cannot save model {model.name!r}: {brief(error)}") from error


def load(path: Path, like: Any = None, *, compiled: bool = True) -> Any:
    """Return the live model in a file.

    Args:
        path: A file that Keras can load.
        like: A live model whose own classes are used for layers that Keras does not know.
        compiled: Whether it comes back compiled, if it was.

    Raises:
        StoreError: If Keras cannot load it.
    """
    custom = {cls.__name__: cls for cls in custom_classes(like)} if like is not None else None
    # Lambda code of a live model is the caller's own; a file's is never run
    return _loaded(path, custom, compiled=compiled, safe_mode=like is None)


def load_model(
    source: Path | str | Reader,
    *,
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    safe_mode: bool = True,
) -> Any:
    """Return the model in a file of any format that holds an architecture, not compiled.

    Args:
        source: The file or directory, or an open reader of it.
        name: What the model is called; by default as in the file.
        custom_objects: Classes and functions that the file refers to and Keras does not know, by name.
        safe_mode: Whether code in the file (of a Lambda layer) is refused; without it, loading runs that code.

    Raises:
        StoreError: If it cannot be loaded.
        OptionError: If the name cannot be a model's.
    """
    with contextlib.ExitStack() as stack:
        reader = source if isinstance(source, Reader) else stack.enter_context(open_store(source))
        model = _loaded(reader.path, custom_objects, compiled=False, safe_mode=safe_mode)
    return renamed(model, name)


def renamed(model: Any, name: str | None) -> Any:
    """Return a model that the caller owns under another name; None leaves it as it is.

    Raises:
        OptionError: If a model cannot be called so.
    """
    if name is None:
        return model
    if not name or "/" in name:
        raise OptionError(f"a model cannot be called {name!r}; a name has at least one character and no slash")
    model.name = name
    return model


def _loaded(path: Path, custom_objects: Mapping[str, Any] | None, *, compiled: bool, safe_mode: bool) -> Any:
    try:
        return keras.saving.load_model(
            path, custom_objects=dict(custom_objects or {}), compile=compiled, safe_mode=safe_mode
        )
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise StoreError(f"Keras cannot load {path.name}: {brief(error)}") from error


def custom_classes(model: Any) -> Iterator[type]:
    """Yield the classes of a live model's layers, itself included, that do not come with Keras."""
    seen: set[int] = set()
    stack = [model]
    while stack:
        layer = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if not type(layer).__module__.startswith(("keras.", "tf_keras.")):
            yield type(layer)
        stack += list(getattr(layer, "_flatten_layers", lambda **_: [])(include_self=False, recursive=False))

"""Between live Keras models and files: exact copies, through Keras's own saving.

A round trip through a ``.keras`` file is the one way to copy a model that is exact for everything Keras can save (adapted layers, lookup
tables, quantized weights); `clone_model` with `set_weights` is not.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.models.lazy import keras
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
    try:
        # Lambda code of a live model is the caller's own; a file's is never run
        return keras.saving.load_model(path, custom_objects=custom, compile=compiled, safe_mode=like is None)
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

"""Between live Keras models and files: exact copies, through Keras's own saving.

A round trip through a ``.keras`` file is the one way to copy a model that is exact for everything Keras can save (adapted layers, lookup
tables, quantized weights); `clone_model` with `set_weights` is not.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graftwork.architecture.layer import walk
from graftwork.architecture.spelling import with_modules
from graftwork.errors import OptionError, StoreError
from graftwork.models.configuration import REFUSALS, configuration_of, objects_of, reason, rebuild
from graftwork.models.lazy import keras
from graftwork.models.loadable import Headed, upgraded, vocabularies_of, write_keras
from graftwork.models.own import register
from graftwork.models.upgrade import LOOKUPS, Upgrade
from graftwork.stores import open_store
from graftwork.stores.base import Header, Reader
from graftwork.stores.files import brief
from graftwork.stores.keras_dir import KerasDirReader
from graftwork.stores.keras_zip import WEIGHTS, KerasZipReader


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


def load(
    path: Path, like: Any = None, *, custom_objects: Mapping[str, Any] | None = None, compiled: bool = True
) -> Any:
    """Return the live model in a file.

    Args:
        path: A file that Keras can load.
        like: A live model whose own classes and functions are used where Keras does not know them.
        custom_objects: Further classes and functions, by name.
        compiled: Whether it comes back compiled, if it was.

    Raises:
        StoreError: If Keras cannot load it.
    """
    custom = {**(objects_of(like) if like is not None else {}), **(custom_objects or {})}
    # Lambda code of a live model is the caller's own; a file's is never run
    return _loaded(path, custom, path.name, compiled=compiled, safe_mode=like is None)


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
        path = _loadable(reader, custom_objects, stack, safe_mode=safe_mode)
        custom = {thing.__name__: thing for thing in (custom_objects or {}).values() if hasattr(thing, "__name__")}
        model = _loaded(
            path, {**custom, **(custom_objects or {})}, reader.path.name, compiled=False, safe_mode=safe_mode
        )
    return renamed(model, name)


def rebuilt(source: Headed, custom_objects: Mapping[str, Any] | None = None, *, safe_mode: bool = True) -> Any:
    """Return the model that a source describes, with the values that its layers begin with.

    Args:
        source: An open reader, or what has the header of one.
        custom_objects: Classes and functions that it refers to and Keras does not know, by name.
        safe_mode: Whether code in its configuration is refused.

    Raises:
        StoreError: If it holds no architecture, or one that the Keras at hand cannot rebuild.
    """
    header, where = source.header, source.path.name
    _refuse_without_architecture(header, where)
    if header.config_kind == "keras2":
        assert header.architecture is not None  # read with the configuration
        known = vocabularies_of(source)
        return Upgrade(where, dict(custom_objects or {}), safe_mode, known).model(header.architecture)
    _refuse_unfit(header, where, safe_mode=safe_mode)
    return rebuild(with_modules(header.config), where, custom_objects, safe_mode=safe_mode)


def _refuse_without_architecture(header: Header, where: str) -> None:
    if header.format == "preset":
        raise StoreError(
            f"{where} is a KerasHub preset, which only KerasHub can build; load it with keras_hub and give the live model, "
            "or save it from there as a .keras file"
        )
    if header.config_kind == "huggingface":
        raise StoreError(
            f"{where} is a model of Hugging Face's, which Keras cannot build; only its weights can be merged"
        )
    if header.format == "saved_model" and header.config is None:
        raise StoreError(
            f"{where} is a SavedModel, whose program Keras does not load; make a Keras model of it with `savedmodel bridge`, or put its "
            "variables into one with `savedmodel lift`"
        )
    if header.config is None:
        raise StoreError(
            f"{where} holds weights without an architecture; build the model in Keras, load them with `load_weights` and give the "
            "live model, or save it as a .keras file"
        )


def _refuse_unfit(header: Header, where: str, *, safe_mode: bool) -> None:
    """Refuse lookup layers whose vocabulary is not there, which Keras would load empty without a word, and code that is not to be run."""
    assert header.architecture is not None  # read with the configuration
    for chain, layer in walk(header.architecture):
        if (
            layer.class_name in LOOKUPS
            and layer.is_builtin
            and layer.config.get("vocabulary") is None
            and not header.assets
        ):
            raise StoreError(
                f"{where} does not hold the vocabulary of layer {chain!r} ({layer.class_name}); save the model as a .keras file"
            )
        function = layer.config.get("function")
        if (
            safe_mode
            and layer.class_name == "Lambda"
            and isinstance(function, dict)
            and function.get("class_name") == "__lambda__"
        ):
            raise StoreError(
                f"layer {chain!r} (Lambda) of {where} is made of Python code in the file; if you trust it, load with safe_mode=False, "
                "which runs that code"
            )


def _loadable(
    reader: Reader, custom_objects: Mapping[str, Any] | None, stack: contextlib.ExitStack, *, safe_mode: bool
) -> Path:
    """Return a file that Keras loads: the source itself, or one that is made of it for as long as `stack` lasts."""
    header, where = reader.header, reader.path.name
    _refuse_without_architecture(header, where)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graftwork-")))
    if header.config_kind == "keras2":
        with keras.StatelessScope(initialize_variables=False):
            config = configuration_of(rebuilt(reader, custom_objects, safe_mode=safe_mode))
        return write_keras(upgraded(reader, config), folder / "upgraded.keras")
    _refuse_unfit(header, where, safe_mode=safe_mode)
    if isinstance(reader, KerasZipReader):
        if reader.path.suffix == ".keras":
            return reader.path
        link = folder / "model.keras"  # Keras goes by the name
        link.symlink_to(reader.path.resolve())
        return link
    if isinstance(reader, KerasDirReader) and (reader.path / WEIGHTS).exists():
        return reader.path
    return write_keras(reader, folder / "model.keras")


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


def _loaded(
    path: Path, custom_objects: Mapping[str, Any] | None, where: str, *, compiled: bool, safe_mode: bool
) -> Any:
    register()
    try:
        return keras.saving.load_model(
            path, custom_objects=dict(custom_objects or {}), compile=compiled, safe_mode=safe_mode
        )
    except REFUSALS as error:
        raise StoreError(f"Keras cannot load {where}: {reason(error)}") from error


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

"""Models made of configurations by Keras, without values from anywhere, and the classes and functions that a configuration refers to."""

import copy
import inspect
import re
import types
from collections.abc import Iterator, Mapping
from typing import Any

from graftwork.errors import StoreError
from graftwork.models.lazy import keras, load_keras
from graftwork.models.own import register
from graftwork.stores.files import brief

REFUSALS = (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, IndexError, OSError)
"""What Keras raises where it cannot save, rebuild or load something."""


def rebuild(config: Any, where: str, custom_objects: Mapping[str, Any] | None = None, *, safe_mode: bool = True) -> Any:
    """Return the model that a Keras 3 configuration describes, not compiled; the configuration stays as it is.

    Args:
        config: What ``config.json`` holds.
        where: Whose it is, for messages.
        custom_objects: Classes and functions that it refers to and Keras does not know, by name.
        safe_mode: Whether code in it is refused.

    Raises:
        StoreError: If Keras cannot rebuild it.
    """
    register()
    from keras.src.saving.serialization_lib import ObjectSharingScope  # what Keras's own loading enters; not exported

    try:
        with ObjectSharingScope():
            return keras.saving.deserialize_keras_object(
                copy.deepcopy({**config, "compile_config": None}),
                custom_objects=dict(custom_objects or {}),
                safe_mode=safe_mode,
            )
    except REFUSALS as error:
        raise StoreError(f"Keras cannot rebuild {where}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """Return why Keras refuses something, and what to do where that is known; its own messages begin with what it was doing."""
    text = str(error)
    unknown = re.search(r"Could not (?:locate|deserialize) (class|function) '([^']+)'", text)
    if unknown:
        return (
            f"its {unknown[1]} {unknown[2]!r} does not come with Keras; name the Python file that defines it: --custom-objects FILE.py, "
            f"custom_objects: FILE.py in a recipe, custom_objects='FILE.py' or {{{unknown[2]!r}: …}} in Python"
        )
    example = re.search(r"Example error message for object .*?:\n\n(.*?)\n\nList of objects", text, re.DOTALL)
    if example:
        return brief(ValueError(example[1]))
    called = re.search(
        r"Exception encountered when calling .*?\n\n(?:\x1b\[1m)?(.*?)(?:\x1b\[0m)?\n\nArguments received by",
        text,
        re.DOTALL,
    )
    if called:
        return brief(ValueError(called[1]))
    _, found, last = text.rpartition("Exception encountered: ")
    return brief(ValueError(last)) if found else brief(error)


def configuration_of(model: Any) -> Any:
    """Return the configuration of a live model, as a ``.keras`` file would hold it.

    Raises:
        StoreError: If it has none.
    """
    load_keras()
    from keras.src.saving.serialization_lib import ObjectSharingScope

    try:
        with ObjectSharingScope():
            return keras.saving.serialize_keras_object(model)
    except REFUSALS as error:
        raise StoreError(f"Keras cannot save model {model.name!r}: {brief(error)}") from error


def objects_of(model: Any, config: Any = None) -> dict[str, Any]:
    """Return the classes and functions that do not come with Keras and that a live model's configuration refers to, by name.

    Args:
        model: A live model, whose layers are looked through.
        config: Its configuration, where that is at hand.

    Raises:
        StoreError: If two of them have one name, so that a configuration cannot tell them apart, or the model has none.
    """
    mentioned = set(_mentioned(configuration_of(model) if config is None else config))
    found: dict[str, Any] = {}
    for thing in _foreign(model):
        for name in {thing.__name__, keras.saving.get_registered_name(thing)} & mentioned:
            if found.setdefault(name, thing) is not thing:
                raise StoreError(
                    f"model {model.name!r} uses two different classes or functions called {name!r}, which a configuration cannot "
                    "tell apart; rename one of them, or register both with keras.saving.register_keras_serializable"
                )
    return found


def layers_of(model: Any) -> list[Any]:
    """Return a live model and every layer inside it, each once, in an order that is the same for a model and its copy."""
    found: list[Any] = []
    seen: set[int] = set()
    stack = [model]
    while stack:
        layer = stack.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            found.append(layer)
            stack += reversed(layer._flatten_layers(include_self=False, recursive=False))
    return found


def trains_unasked(layer: Any) -> bool:
    """Return whether a layer trains where nothing is said, as those of augmentation do.

    Resizing and cropping have that in their signature too, from the class that they share with these, and do the same always.
    """
    training = inspect.signature(layer.call).parameters.get("training")
    alike = isinstance(layer, keras.layers.Resizing | keras.layers.CenterCrop)
    return training is not None and training.default is True and not alike


def _mentioned(config: Any) -> Iterator[str]:
    """Yield the names by which a configuration refers to classes and functions."""
    if isinstance(config, list | tuple):
        for item in config:
            yield from _mentioned(item)
    elif isinstance(config, dict):
        yield from (v for k in ("class_name", "registered_name", "config") if isinstance(v := config.get(k), str))
        for value in config.values():
            yield from _mentioned(value)


def _foreign(model: Any) -> Iterator[Any]:
    """Yield classes and functions of the user's that a model's layers are or hold."""
    seen: set[int] = set()
    compiled = getattr(getattr(model, "_compile_config", None), "config", None)
    stack: list[tuple[Any, int]] = [(compiled, 0), *((layer, 0) for layer in layers_of(model))]
    while stack:
        thing, depth = stack.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, dict | list | tuple | set):
            if depth < _DEPTH:
                stack += [(item, depth) for item in (thing.values() if isinstance(thing, dict) else thing)]
        elif isinstance(thing, types.FunctionType):
            if not is_keras(thing):
                yield thing
        elif isinstance(thing, holders()):
            if not is_keras(type(thing)):
                yield type(thing)
            if depth < _DEPTH:
                stack += [(value, depth + 1) for value in vars(thing).values()]


_DEPTH = 3
"""So deep in the attributes of a layer, functions and classes are looked for: layer, regularizer, what that holds."""


def holders() -> tuple[type, ...]:
    """Return the classes of what a configuration describes by class and settings."""
    return (
        keras.Operation,  # layers are operations
        keras.initializers.Initializer,
        keras.regularizers.Regularizer,
        keras.constraints.Constraint,
        keras.losses.Loss,
        keras.metrics.Metric,
        keras.optimizers.Optimizer,
        keras.DTypePolicy,
    )


def is_keras(thing: Any) -> bool:
    """Return whether a class or function comes with Keras or TensorFlow."""
    return str(thing.__module__).split(".")[0] in ("keras", "tf_keras", "tensorflow")

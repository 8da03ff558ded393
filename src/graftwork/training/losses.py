"""Losses of Keras as users spell them: by name, by class and settings, or the object itself."""

import inspect
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.lazy import keras
from graftwork.training.matching import CATEGORICAL

LOGITS = ("logits", "sigmoid_logits")


def _as_plain(value: Any) -> Any:
    """Return a loss that is an object as Keras spells it in files."""
    if value is None or isinstance(value, str | Mapping):
        return value
    return keras.saving.serialize_keras_object(value)


LossSpec = Annotated[str | Mapping[str, Any], BeforeValidator(_as_plain)]
"""``"mse"``, ``{"Huber": {"delta": 0.5}}``, a configuration of Keras, or a loss."""


def loss_of(spec: LossSpec, kind: str | None = None) -> Any:
    """Return a new loss, of which `call` gives one number for every position.

    Args:
        spec: See `LossSpec`. Where it takes `from_logits` and that is not said, it gets what the output asks for.
        kind: What the output is that it judges.

    Raises:
        OptionError: If Keras cannot make it.
        UnknownNameError: If Keras has none of this name.
    """
    if isinstance(spec, Mapping) and "class_name" in spec:
        return _deserialized(spec)
    name, settings = (spec, {}) if isinstance(spec, str) else _pair(spec)
    found = _class(name)
    if "from_logits" in inspect.signature(found).parameters and kind is not None:
        settings = {"from_logits": kind in LOGITS, **settings}
    try:
        return found(**settings)
    except (TypeError, ValueError) as error:
        raise OptionError(f"loss {name!r}: {str(error).splitlines()[0]}") from error


def loss_for(spec: LossSpec, kind: str, *, spread: bool) -> Any:
    """Return a new loss of an output for the labels that there are: numbers of classes become columns where it wants these.

    Args:
        spec: See `LossSpec`.
        kind: What the output is.
        spread: Whether labels of classes have a column for each, not the number of one.

    Raises:
        OptionError: If it takes numbers of classes and labels have a column for each.
    """
    found = loss_of(spec, kind)
    if kind not in CATEGORICAL or not type(found).__module__.startswith("keras."):
        return found
    sparse = type(found).__name__.startswith("Sparse")
    if sparse and spread:
        raise OptionError(
            f"the loss {type(found).__name__} takes numbers of classes, and labels have a column for each; use CategoricalCrossentropy"
        )
    return found if sparse or spread else _of_numbers(found)


def _of_numbers(loss: Any) -> Any:
    """Return a loss that is given numbers of classes in place of columns."""

    class OfNumbers(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            numbers = keras.ops.reshape(y_true, keras.ops.shape(y_pred)[:-1])
            return loss.call(keras.ops.one_hot(keras.ops.cast(numbers, "int32"), y_pred.shape[-1]), y_pred)

    return OfNumbers(name=loss.name, reduction=loss.reduction)


def _pair(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if len(spec) != 1 or not isinstance(next(iter(spec.values())) or {}, Mapping):
        raise OptionError(
            f"the loss {str(spec)[:60]} is none; write a class and its settings, such as {{Huber: {{delta: 0.5}}}}"
        )
    ((name, settings),) = spec.items()
    return name, dict(settings or {})


def _class(name: str) -> Any:
    known = {
        each: cls
        for each in dir(keras.losses)
        if isinstance(cls := getattr(keras.losses, each), type)
        and issubclass(cls, keras.losses.Loss)
        and cls is not keras.losses.Loss
    }
    for each in (name, _capitals(name), _capitals(_function(name))):
        if each in known:
            return known[each]
    custom = keras.saving.get_registered_object(name)
    if isinstance(custom, type) and issubclass(custom, keras.losses.Loss):
        return custom
    raise UnknownNameError("loss of Keras", name, known)


def _function(name: str) -> str:
    """Return the full name of a function that Keras also knows by a shorter one, such as ``mse``."""
    try:
        return str(getattr(keras.losses.get(name), "__name__", ""))
    except ValueError:
        return ""


def _capitals(name: str) -> str:
    special = {"kl_divergence": "KLDivergence", "ctc": "CTC"}
    return special.get(name) or re.sub(r"(?:^|_)([a-z])", lambda found: found[1].upper(), name)


def _deserialized(spec: Mapping[str, Any]) -> Any:
    try:
        found = keras.losses.get(dict(spec))
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"Keras cannot make the loss {spec.get('class_name')!r}: {str(error).splitlines()[0]}"
        ) from error
    if isinstance(found, keras.losses.Loss):
        return found
    raise OptionError(f"{spec.get('config')!r} is a function; give a class of losses (keras.losses.Loss)")

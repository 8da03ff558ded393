"""Values for a live model, in place: all of them or none."""

from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError
from graftwork.models.configuration import REFUSALS, reason
from graftwork.models.live import is_live


def check_is_keras(model: Any) -> None:
    """Refuse what is no model of Keras 3.

    Raises:
        OptionError: With what it is.
    """
    if not is_live(model):
        raise OptionError(f"`into` is a {type(model).__name__}, expected a keras.Model")
    if any(cls.__module__.startswith("tf_keras.") for cls in type(model).__mro__):
        raise OptionError(
            f"model {model.name!r} is one of Keras 2 (tf_keras), whose values are not set in place; save it, assign into the file, and "
            "load the result"
        )


def set_values(model: Any, path: Path, before: Path) -> None:
    """Give a live model the values of a file that was made of it.

    Args:
        model: The model; how it is compiled and what it trains stay as they are.
        path: A ``.keras`` file of the same model with other values.
        before: One with its own, which it keeps if something fails.

    Raises:
        StoreError: If Keras refuses the values.
    """
    try:
        model.load_weights(path)
    except BaseException as error:
        model.load_weights(before)
        if isinstance(error, REFUSALS):
            raise StoreError(f"Keras cannot load values into model {model.name!r}: {reason(error)}") from error
        raise

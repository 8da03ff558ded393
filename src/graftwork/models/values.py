"""Values for a live model, in place: all of them or none; and what its variables are called."""

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError
from graftwork.models.configuration import REFUSALS, reason
from graftwork.models.live import is_live
from graftwork.models.names import names_of


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


def spellings_of(model: Any, names: Collection[str]) -> dict[str, str]:
    """Return what Keras calls variables whose file calls them otherwise, and what the file does.

    These are their paths, with and without the model's own name. A file does not hold the names of variables that layers of the user's own
    classes have made, only their order.

    Args:
        model: A live model; to find out, numbers may be written into it, and its values put back.
        names: The names of its tensors in its file.
    """
    paths = {id(variable): str(variable.path) for variable in model.weights}
    short = {key: path.removeprefix(f"{model.name}/") for key, path in paths.items()}
    count = Counter(short.values())
    told = set(short.values()) <= set(names)
    own = short if told else {key: found[0] for key, found in names_of(model).items()}
    return {
        spelling: name
        for key, name in own.items()
        for spelling in (short[key], paths[key])
        if count[short[key]] == 1 and spelling not in names
    }


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

"""What the outputs of members are, and bringing them from one kind to another inside a graph."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graftwork.compose.naming import named
from graftwork.compose.ports import outputs
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.combining import FAMILIES, floor_of
from graftwork.models.lazy import keras
from graftwork.models.outputs import KINDS, Ending, Kind, ending
from graftwork.models.savedmodel.answering import Answering

Name = Callable[[str], str]
"""Gives the name of a new operation that does what a word says."""

OutputKinds = str | Mapping[str, str]
"""``auto``, a kind for all, or kinds by member, output, or ``member.output``."""


def checked_kind(kind: str, where: str) -> Kind:
    """Return a kind that a user says.

    Raises:
        OptionError: If there is no such kind.
    """
    for known in KINDS:
        if kind == known:
            return known
    raise OptionError(f"{where} is {kind!r}; expected auto, {', '.join(KINDS[:-1])} or {KINDS[-1]}")


def ending_of(model: Any, output: str, served: Answering | None) -> Ending:
    """Return what an output of a model comes out of, as far as its graph, or that of the SavedModel which it was, tells.

    Args:
        model: A live model, or a skeleton.
        output: Which of its outputs.
        served: What the SavedModel became; None for other models.
    """
    told = served.kind(output) if served is not None else None
    return ending(model, list(outputs(model)).index(output), told)


def kind_of(owner: str, found: Ending, said: str, *, explicit: bool) -> Kind | None:
    """Return what an output is; None if neither its last operation nor the user tells.

    Args:
        owner: Whose output it is, for messages.
        found: What it comes out of.
        said: What the user says; ``auto`` for nothing.
        explicit: Whether it is said of this very output; else it is about those that do not tell.

    Raises:
        OptionError: If the user says that it is what it cannot be.
    """
    if said == "auto":
        return found.kind
    word = checked_kind(said, "outputs")
    if found.kind is None or (explicit and word == "regression"):
        return word
    if explicit and word != found.kind:
        raise OptionError(f"{owner} ends in {found.what}, so it gives {found.kind}, not {word} as `outputs` says")
    return found.kind


def unknown_kind(owner: str, found: Ending, key: str) -> OptionError:
    """Return the refusal of an output that does not tell what it is."""
    meaning = "which may be logits or values" if found.open else "which does not tell what its outputs are"
    return OptionError(
        f'{owner} ends in {found.what}, {meaning}; say which: outputs={{"{key}": "logits"}}, or another of {", ".join(KINDS)}'
    )


def converted(value: Any, kind: str, to: str, name: Name, dtype: str | None = None) -> Any:
    """Return outputs of one kind as another of the same family, in the dtype in which they come.

    Logarithms stay finite: what is smaller than the smallest number of the dtype counts as that. NaN stays NaN.

    Args:
        value: A Keras tensor, or an array.
        kind: What it is.
        to: What is wanted.
        name: Names the operations.
        dtype: What it was computed in, where it was cast since; a float16 of zero stands for more than a float32 of zero.

    Raises:
        MismatchError: If one cannot be made of the other.
    """
    if kind == to:
        return value
    if FAMILIES[kind] != FAMILIES[to] or kind == "regression":
        raise MismatchError(f"{kind} ({FAMILIES[kind]}) cannot be turned into {to} ({FAMILIES[to]})")
    ops = keras.ops
    if to == "probabilities":
        return named(ops.softmax(value, axis=-1), name("softmax"))
    if to == "sigmoid":
        return named(ops.sigmoid(value), name("sigmoid"))
    floor = floor_of(dtype or keras.backend.standardize_dtype(value.dtype))
    yes = _log(value, floor, name)
    if to == "logits":
        return yes
    return named(
        ops.subtract(yes, _log(named(ops.subtract(1.0, value), name("complement")), floor, name)), name("logit")
    )


def log_probabilities(value: Any, kind: str, name: Name, dtype: str) -> Any:
    """Return logarithms of the probabilities of classes, at least that of the smallest number of a dtype."""
    floor = floor_of(dtype)
    if kind == "probabilities":
        return _log(value, floor, name)
    log_p = named(keras.ops.log_softmax(value, axis=-1), name("log_softmax"))
    return _at_least(log_p, float(np.log(floor)), name)


def _log(value: Any, floor: float, name: Name) -> Any:
    return named(keras.ops.log(_at_least(value, floor, name)), name("log"))


def _at_least(value: Any, floor: float, name: Name) -> Any:
    """Return the larger of a value and a floor; unlike a maximum, on every backend, NaN for NaN."""
    below = named(keras.ops.less(value, floor), name("below"))
    return named(keras.ops.where(below, floor, value), name("floor"))


def chosen(
    model: Any, said: OutputKinds, only: Sequence[str] | None, changing: Mapping[str, Kind]
) -> tuple[dict[str, Kind], list[str]]:
    """Return which outputs of a model are to be brought to another kind, with what they are, and notes on the others.

    Args:
        model: The model.
        said: What the user says of its outputs.
        only: Which outputs; all that can be by default.
        changing: What is made of each kind that changes.

    Raises:
        OptionError: If it is not known what an output is, or none can be changed.
        UnknownNameError: If an output is named that the model has not.
    """
    ports = outputs(model)
    for option, keys in (("only", only or ()), ("outputs", said if isinstance(said, Mapping) else ())):
        unknown = [key for key in keys if key not in ports]
        if unknown:
            raise UnknownNameError(f"output (under `{option}`)", unknown[0], ports)
    found: dict[str, Kind] = {}
    notes = []
    for index, name in enumerate(ports):
        if only is not None and name not in only:
            continue
        word = said if isinstance(said, str) else said.get(name, "auto")
        last = ending(model, index)
        strict = only is not None or len(ports) == 1
        explicit = len(ports) == 1 or isinstance(said, Mapping)
        kind = kind_of(f"{model.name}'s output {name!r}", last, word, explicit=explicit)
        if kind is None:
            if strict:
                raise unknown_kind(f"{model.name}'s output {name!r}", last, name)
            notes.append(f"{name} ends in {last.what} and is left as it is")
        elif kind in changing or kind in changing.values():
            found[name] = kind
        elif strict:
            raise OptionError(
                f"{model.name}'s output {name!r} is {kind}, of which there are no {next(iter(changing.values()))}"
            )
        else:
            notes.append(f"{name} is {kind} and is left as it is")
    if not found:
        raise OptionError(
            f"no output of {model.name} is known to be {' or '.join(changing)}; say what they are under `outputs`"
        )
    return found, notes

"""Which layers of a model train: finding them by path, and setting their flags so that what is frozen stays as it is to the last bit.

The one thing that keeps a layer still in Keras is its own flag `trainable`: freezing its variables leaves the statistics of
BatchNormalization moving, and setting the flag of a model around it is forgotten as soon as an inner flag is set. So flags are set on every
layer, and a model trains if anything in it does.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True)
class Part:
    """A layer inside a model.

    Attributes:
        path: Its name behind the names of the models around it: ``member/block_5_conv``.
        layer: The layer; what a layer that is no model has inside belongs to it.
        parts: Those of a nested model.
    """

    path: str
    layer: Any
    parts: tuple["Part", ...]

    def leaves(self) -> list["Part"]:
        """Return the layers that are no models of others, itself or those inside."""
        return [leaf for part in self.parts for leaf in part.leaves()] if self.parts else [self]


def parts(model: Any, prefix: str = "") -> tuple[Part, ...]:
    """Return the layers of a model, those of nested models inside them; a shared layer stands wherever it is reached."""
    return tuple(
        Part(f"{prefix}{layer.name}", layer, parts(inner, f"{prefix}{layer.name}/") if inner is not None else ())
        for layer in model.layers
        for inner in [_inner(layer)]
    )


def _inner(layer: Any) -> Any:
    """Return the model that a layer is, or wraps; None for a layer that is none."""
    if isinstance(layer, keras.layers.TimeDistributed):
        return _inner(layer.layer)
    return layer if isinstance(layer, keras.Model) and layer.layers else None


def flat(found: Sequence[Part]) -> list[Part]:
    """Return parts and all that are inside them, models before their layers."""
    return [part for outer in found for part in (outer, *flat(outer.parts))]


def matching(model: Any, patterns: str | Sequence[str]) -> list[Part]:
    """Return the layers that patterns match, each once, in the model's order; a nested model stands for all its layers.

    Args:
        model: Where to look.
        patterns: Paths with ``*``, ``?`` and ``[…]``, which match slashes too, or ``re:`` and a regular expression for the whole path.

    Raises:
        UnknownNameError: If a pattern matches nothing.
        OptionError: If a regular expression is none, or there are no patterns.
    """
    spelled = [patterns] if isinstance(patterns, str) else list(patterns)
    if not spelled:
        raise OptionError("`layers` is empty; name at least one layer, or leave it out for all")
    known = flat(parts(model))
    found: set[int] = set()
    for pattern in spelled:
        matches = _matcher(pattern)
        hits = [leaf for part in known if matches(part.path) for leaf in part.leaves()]
        if not hits:
            raise UnknownNameError(f"layer of {model.name!r}", pattern, _near(pattern, [part.path for part in known]))
        found |= {id(leaf.layer) for leaf in hits}
    return _once(leaf for part in parts(model) for leaf in part.leaves() if id(leaf.layer) in found)


def since(model: Any, path: str) -> list[Part]:
    """Return a layer and all that come after it in the model's order, each once.

    Raises:
        UnknownNameError: If there is no such layer.
    """
    known = flat(parts(model))
    start = next((place for place, part in enumerate(known) if part.path == path), None)
    if start is None:
        raise UnknownNameError(f"layer of {model.name!r}", path, _near(path, [part.path for part in known]))
    return _once(part for part in known[start:] if not part.parts)


def _once(found: Any) -> list[Part]:
    return list({id(part.layer): part for part in found}.values())


def _matcher(pattern: str) -> Callable[[str], object]:
    if not pattern.startswith("re:"):
        return lambda path: fnmatch.fnmatchcase(path, pattern)
    try:
        return re.compile(pattern.removeprefix("re:")).fullmatch
    except re.error as error:
        raise OptionError(f"`layers` has {pattern!r}, which is no regular expression: {error}") from error


def _near(pattern: str, paths: list[str]) -> list[str]:
    """Return the paths to suggest: those inside nested models that end as the pattern does, else all."""
    return [path for path in paths if path.rpartition("/")[2] == pattern] or paths


def set_trained(model: Any, train: Mapping[int, bool], *, batchnorm: bool = True) -> None:
    """Set which layers of a model train; what is not named stays as it is.

    Args:
        model: A model that nobody else holds.
        train: Whether a layer trains, by the `id` of those that change.
        batchnorm: Whether BatchNormalization inside a layer that begins to train does so too; a BatchNormalization layer itself is
            named or not.

    Raises:
        OptionError: If a layer is to be kept still that Keras cannot keep still.
    """
    tree = parts(model)
    flags = {id(each): each.trainable for each in model._flatten_layers()}
    variables = {id(variable): variable.trainable for variable in model.variables}
    wanted = _wanted(tree, dict(train), model.trainable)
    _set_models(model, tree, wanted)
    for leaf in _once(leaf for part in tree for leaf in part.leaves()):
        layer, trained = leaf.layer, wanted[id(leaf.layer)]
        if not trained and train.get(id(layer)) is False:
            _refuse_restless(leaf)
        inside = list(layer._flatten_layers(include_self=False))
        if trained == flags[id(layer)]:  # a model around it may have set it, and all that is inside, otherwise
            for each in (layer, *inside):
                each.trainable = flags[id(each)]
            for variable in layer.variables:
                variable.trainable = variables[id(variable)]
            continue
        layer.trainable = trained
        for each in inside if trained and not batchnorm else ():
            if isinstance(each, keras.layers.BatchNormalization):
                each.trainable = flags[id(each)]


def freeze_all(model: Any) -> None:
    """Freeze every layer of a model.

    Args:
        model: A model that nobody else holds.

    Raises:
        OptionError: If it has a layer that Keras cannot keep still.
    """
    leaves = [leaf for part in parts(model) for leaf in part.leaves()]
    set_trained(model, {id(leaf.layer): False for leaf in leaves})
    model.trainable = False


def _wanted(tree: Sequence[Part], train: dict[int, bool], around: bool) -> dict[int, bool]:
    """Return for every layer whether it is to train; one in a frozen model does not, whatever its own flag says."""
    found: dict[int, bool] = {}
    for part in tree:
        if part.parts:
            inner = _wanted(part.parts, train, around and part.layer.trainable)
            found |= {key: found.get(key, False) or value for key, value in inner.items()}
        else:
            key = id(part.layer)
            found[key] = train.get(key, found.get(key, False) or (around and part.layer.trainable))
    return found


def _set_models(model: Any, tree: Sequence[Part], wanted: Mapping[int, bool]) -> None:
    """Set the flags of models, outer ones first, since each sets those of all that is inside."""
    leaves = [leaf for part in tree for leaf in part.leaves()]
    model.trainable = any(wanted[id(leaf.layer)] for leaf in leaves)
    for part in tree:
        if part.parts:
            part.layer.trainable = any(wanted[id(leaf.layer)] for leaf in part.leaves())
            _set_models(_inner(part.layer), part.parts, wanted)


def _refuse_restless(leaf: Part) -> None:
    """Refuse a layer that changes its weights in training, whether it trains or not."""
    for layer in (leaf.layer, *leaf.layer._flatten_layers(include_self=False)):
        if isinstance(layer, keras.layers.SpectralNormalization):
            raise OptionError(
                f"layer {leaf.path!r} is SpectralNormalization, which changes the weights inside it in every training step, frozen or not, "
                "so it cannot be kept still; leave it out of what is frozen"
            )


def has_weights(part: Part) -> bool:
    """Return whether there is anything to train in a layer."""
    return bool(part.layer.weights)


def is_batchnorm(part: Part) -> bool:
    """Return whether BatchNormalization is all that could train in a layer."""
    training = [each for each in part.layer._flatten_layers() if each._trainable_variables]
    return bool(training) and all(isinstance(each, keras.layers.BatchNormalization) for each in training)


def count(model: Any) -> str:
    """Return how much of a model trains, as a sentence."""
    leaves = [leaf for leaf in _once(leaf for part in parts(model) for leaf in part.leaves()) if has_weights(leaf)]
    trained = [leaf for leaf in leaves if leaf.layer.trainable_weights and model.trainable]
    free, still = size_of(model.trainable_weights), size_of(model.non_trainable_weights)
    return f"{free:,} parameters train, in {len(trained)} of {len(leaves)} layers with weights; {still:,} do not"


def size_of(weights: Sequence[Any]) -> int:
    """Return how many numbers weights hold."""
    return sum(math.prod(weight.shape) for weight in weights)

"""The ways to combine outputs in plain NumPy, in float64, class by class: what a graph of them is checked against."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.classes import ClassMap
from graftwork.models.combining import floor_of

Values = NDArray[np.float64]


def combined(
    word: str,
    outputs: Sequence[NDArray[Any]],
    kinds: Sequence[str | None],
    kind: str | None,
    weights: Sequence[float],
    classes: ClassMap,
    *,
    normalize: bool = False,
) -> Values:
    """Return what an ensemble gives for its members' outputs.

    Args:
        word: How they are combined.
        outputs: Each member's.
        kinds: What each is.
        kind: What they are brought to.
        weights: What each counts.
        classes: Which output of which member is which.
        normalize: Whether the result is divided by its sum.
    """
    values = [_numbers(word, output, own, kind) for output, own in zip(outputs, kinds, strict=True)]
    if word == "concat":
        return np.concatenate(values, axis=-1)
    if classes.width is None or values[0].ndim < 2:
        found = _reduce(word, np.stack(values), np.array(weights))
    else:
        found = np.empty((*values[0].shape[:-1], classes.width))
        for group in classes.groups:
            for place, at in enumerate(group.classes):
                column = [
                    values[k][..., columns[place]] for k, columns in zip(group.members, group.columns, strict=True)
                ]
                found[..., at] = _reduce(word, np.stack(column), np.array([weights[k] for k in group.members]))
    if word in ("geometric", "product"):
        found = found * (len(outputs) if word == "product" else 1)
        found = _sigmoid(found) if kind == "sigmoid" else _softmax(found)
    return found / found.sum(axis=-1, keepdims=True) if normalize else found


def _reduce(word: str, stack: Values, weights: Values) -> Values:
    if word == "median":
        return np.asarray(np.median(stack, axis=0))
    if word in ("max", "min"):
        return np.asarray(getattr(np, word)(stack, axis=0))
    return np.asarray(np.tensordot(weights / weights.sum(), stack, axes=1))


def _numbers(word: str, output: NDArray[Any], own: str | None, kind: str | None) -> Values:
    floor, value = floor_of(str(output.dtype)), np.asarray(output, np.float64)
    if kind is None or own is None:
        return value
    if word == "vote":
        return _ballots(value, own)
    exclusive = own in ("probabilities", "logits")
    if word not in ("geometric", "product") and own == kind:
        return value
    p = value if own in ("probabilities", "sigmoid") else _softmax(value) if exclusive else _sigmoid(value)
    if word not in ("geometric", "product") and kind in ("probabilities", "sigmoid"):
        return p
    if own == "sigmoid_logits":
        return value
    with np.errstate(invalid="ignore"):
        log_p = np.log(np.maximum(p, floor))
        return log_p if exclusive else log_p - np.log(np.maximum(1 - p, floor))


def _ballots(value: Values, own: str) -> Values:
    if own in ("sigmoid", "sigmoid_logits"):
        found = (value > (0.5 if own == "sigmoid" else 0)).astype(np.float64)
        return np.where(np.isnan(value), np.nan, found)
    found = np.eye(value.shape[-1])[value.argmax(axis=-1)]
    return np.where(np.isnan(value).any(axis=-1, keepdims=True), np.nan, found)


def probabilities(value: Values, kind: str) -> Values:
    """Return the probabilities that logits of a kind stand for."""
    return _softmax(value) if kind == "logits" else _sigmoid(value)


def _softmax(value: Values) -> Values:
    power = np.exp(value - value.max(axis=-1, keepdims=True))
    return np.asarray(power / power.sum(axis=-1, keepdims=True))


def _sigmoid(value: Values) -> Values:
    return np.asarray(np.exp(-np.logaddexp(0, -value)))

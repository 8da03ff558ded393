"""Staying near where a model began: a penalty on the way, and a choice between both ends afterwards."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.models.lazy import keras

STEPS = 11
"""Points of the way from the original to what came out that are measured."""


@contextlib.contextmanager
def anchored(pairs: Sequence[tuple[Any, NDArray[Any]]], strength: float) -> Iterator[None]:
    """Punish weights for leaving a place, for a while: L2-SP (Li, Grandvalet and Davoine 2018, https://arxiv.org/abs/1802.01483).

    ::

        loss + strength / 2 · Σ (w - w₀)²

    Args:
        pairs: Each weight and its place.
        strength: α of the paper; 0 for nothing.
    """
    kept = [variable.regularizer for variable, _ in pairs]
    try:
        for (variable, start), before in zip(pairs if strength else (), kept, strict=False):
            variable.regularizer = _penalty(start, strength, before)
        yield
    finally:
        for (variable, _), before in zip(pairs, kept, strict=True):
            variable.regularizer = before


def _penalty(start: NDArray[Any], strength: float, before: Any) -> Callable[[Any], Any]:
    def penalty(value: Any) -> Any:
        own = strength / 2 * keras.ops.sum(keras.ops.square(keras.ops.cast(value, "float32") - start))
        return own if before is None else own + before(value)

    return penalty


def values_of(model: Any) -> list[NDArray[Any]]:
    """Return copies of all weights of a model, statistics included."""
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.weights]


def between(model: Any, start: Sequence[NDArray[Any]], end: Sequence[NDArray[Any]], share: float) -> None:
    """Give a model weights between two others: WiSE-FT (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).

    ::

        (1 - share) · start + share · end        in float64, rounded once; both ends exactly

    Args:
        model: The model, which is changed.
        start: Its weights where it began.
        end: Its weights where it ended.
        share: How far on the way.
    """
    for variable, first, last in zip(model.weights, start, end, strict=True):
        if share in (0, 1) or first.dtype.kind not in "fV" or first.tobytes() == last.tobytes():
            variable.assign(first if share == 0 else last)
        else:
            mixed = (1 - share) * first.astype(np.float64) + share * last.astype(np.float64)
            variable.assign(mixed.astype(first.dtype))


def curve(
    model: Any,
    start: Sequence[NDArray[Any]],
    end: Sequence[NDArray[Any]],
    measure: Callable[[], Mapping[str, float]],
) -> list[dict[str, float]]:
    """Return what is measured of a model at points on the way between two sets of weights; it has the last ones afterwards."""
    rows = []
    for share in np.linspace(0, 1, STEPS).round(3).tolist():
        between(model, start, end, share)
        rows.append({"share": share, **measure()})
    return rows

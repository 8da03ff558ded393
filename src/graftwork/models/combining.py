"""The ways to make one output of several models': which there are, which outputs go together, what each model counts."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from graftwork.errors import OptionError, UnknownNameError
from graftwork.lazy import np
from graftwork.models.outputs import Kind

Combine = Literal["mean", "geometric", "median", "max", "min", "product", "vote", "concat"]

WEIGHTED = ("mean", "geometric", "vote")
"""Ways in which members can count differently."""

NEEDS_KIND = ("geometric", "product", "vote")
"""Ways that mean nothing for outputs of which it is not known what they are."""

FAMILIES: Mapping[str, str] = {
    "probabilities": "one of several classes",
    "logits": "one of several classes",
    "sigmoid": "independent yes and no",
    "sigmoid_logits": "independent yes and no",
    "regression": "values",
}
"""What outputs of a kind are about; kinds of one family can be brought to each other."""

CALIBRATED: Mapping[str, Kind] = {
    "probabilities": "probabilities",
    "logits": "probabilities",
    "sigmoid": "sigmoid",
    "sigmoid_logits": "sigmoid",
}
"""The probabilities of a kind's family."""


def floor_of(dtype: str) -> float:
    """Return what stands for a probability of zero under a logarithm: the smallest positive number that a dtype computes with."""
    return float(np.finfo(np.float16).smallest_subnormal) if dtype == "float16" else float(np.finfo(np.float32).tiny)


def weights_of(said: Sequence[float] | Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """Return what each member counts, by name.

    Raises:
        OptionError: If a weight is negative or no number, or their sum is 0 or no number.
        UnknownNameError: If one is for no member.
    """
    if said is None:
        return dict.fromkeys(names, 1.0)
    if isinstance(said, Mapping):
        unknown = [name for name in said if name not in names]
        if unknown:
            raise UnknownNameError("member (under `weights`)", unknown[0], names)
        missing = [name for name in names if name not in said]
        if missing:
            raise OptionError(f"`weights` says nothing of {', '.join(missing)}")
        found = [float(said[name]) for name in names]
    else:
        found = [float(weight) for weight in said]
    if len(found) != len(names):
        raise OptionError(f"`weights` has {len(found)} numbers for {len(names)} models")
    wrong = [(name, weight) for name, weight in zip(names, found, strict=True) if not (0 <= weight < math.inf)]
    if wrong:
        raise OptionError(f"the weight of {wrong[0][0]} is {wrong[0][1]}; expected a number that is not negative")
    if not sum(found):
        raise OptionError("all weights are 0")
    if sum(found) == math.inf:
        raise OptionError(f"the weights {', '.join(f'{weight:g}' for weight in found)} are too large to be added up")
    return dict(zip(names, found, strict=True))

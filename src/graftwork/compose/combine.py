"""The ways to make one output of several members', as operations of a graph."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.compose.classes import ClassMap
from graftwork.compose.naming import named
from graftwork.compose.outputs import Name, converted, log_probabilities
from graftwork.models.combining import WEIGHTED, Combine
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One output of one member.

    Attributes:
        tensor: The Keras tensor, as the member computed it.
        kind: What it is; None where nothing depends on it.
        member: The member's name.
    """

    tensor: Any
    kind: str | None
    member: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """How members' outputs become one.

    Attributes:
        word: The way.
        kind: What they are brought to first; None where they stay as they are.
        weights: What each member counts; they add up to 1.
        classes: Which output of which member is which.
        normalize: Whether the result is divided by its sum along the last axis.
        dtype: What is computed in.
    """

    word: Combine
    kind: str | None
    weights: tuple[float, ...]
    classes: ClassMap
    normalize: bool
    dtype: str

    def joined(self, given: Sequence[Given], name: Name) -> Any:
        """Return the tensor that is made of members' outputs."""
        values = [self._prepared(each, _of_member(name, each.member)) for each in given]
        if self.word == "concat":
            return named(keras.ops.concatenate(values, axis=-1), name("concat"))
        result = self._finished(self._by_group(values, name), name)
        if self.normalize:
            total = named(keras.ops.sum(result, axis=-1, keepdims=True), name("total"))
            result = named(keras.ops.divide(result, total), name("normalized"))
        return result

    def _prepared(self, given: Given, name: Name) -> Any:
        """Return a member's output in the numbers that are averaged, of which the largest is taken and so on."""
        came = keras.backend.standardize_dtype(given.tensor.dtype)
        value = given.tensor
        if came != self.dtype:
            value = named(keras.ops.cast(value, self.dtype), name(self.dtype))
        if self.kind is None or given.kind is None:
            return value
        if self.word in ("geometric", "product"):
            if self.kind == "sigmoid":
                return converted(value, given.kind, "sigmoid_logits", name, came)
            return log_probabilities(value, given.kind, name, came)
        if self.word == "vote":
            return _ballot(value, given.kind, name, self.dtype)
        return converted(value, given.kind, self.kind, name, came)

    def _by_group(self, values: Sequence[Any], name: Name) -> Any:
        """Reduce each group of classes over the members that know it, and lay the groups in the order of the result."""
        groups = self.classes.groups
        found = []
        for number, group in enumerate(groups, 1):
            parts = []
            for member, columns in zip(group.members, group.columns, strict=True):
                part = values[member]
                if columns and columns != tuple(range(part.shape[-1] or -1)):
                    part = named(keras.ops.take(part, np.array(columns, np.int32), axis=-1), name("columns"))
                parts.append(part)
            weights = [self.weights[member] for member in group.members]
            found.append(_reduced(self.word, parts, weights, name if len(groups) == 1 else _numbered(name, number)))
        laid = found[0] if len(found) == 1 else named(keras.ops.concatenate(found, axis=-1), name("groups"))
        if self.classes.order is None:
            return laid
        return named(keras.ops.take(laid, np.array(self.classes.order, np.int32), axis=-1), name("order"))

    def _finished(self, value: Any, name: Name) -> Any:
        if self.word not in ("geometric", "product"):
            return value
        if self.word == "product":  # the mean of logarithms, as many times as there are members
            value = named(keras.ops.multiply(value, float(len(self.weights))), name("sum"))
        if self.kind == "sigmoid":
            return named(keras.ops.sigmoid(value), name("sigmoid"))
        return named(keras.ops.softmax(value, axis=-1), name("softmax"))


def _of_member(name: Name, member: str) -> Name:
    return lambda word: name(f"{member}_{word}")


def _numbered(name: Name, number: int) -> Name:
    return lambda word: name(f"{word}_group{number}")


def _ballot(value: Any, kind: str, name: Name, dtype: str) -> Any:
    """Return 1 for the class that is the likeliest, the first of several; for independent yes and no, 1 for each that is likelier than not.

    NaN gives NaN: a member that does not know does not vote for anything.
    """
    ops = keras.ops
    absent = named(ops.isnan(value), name("isnan"))
    if kind in ("sigmoid", "sigmoid_logits"):
        yes = named(ops.greater(value, 0.5 if kind == "sigmoid" else 0.0), name("yes"))
        ballot = named(ops.cast(yes, dtype), name("ballot"))
    else:
        absent = named(ops.any(absent, axis=-1, keepdims=True), name("any_isnan"))
        places = np.arange(value.shape[-1], dtype=np.int32)
        most = named(ops.max(value, axis=-1, keepdims=True), name("most"))
        best = named(ops.equal(value, most), name("best"))
        # not argmax, which leaves open on some devices which of several equal ones it gives
        candidates = named(ops.where(best, places, len(places)), name("candidates"))
        first = named(ops.min(candidates, axis=-1, keepdims=True), name("first"))
        ballot = named(ops.cast(named(ops.equal(candidates, first), name("choice")), dtype), name("ballot"))
    return named(ops.where(absent, math.nan, ballot), name("vote"))


def _reduced(word: Combine, parts: Sequence[Any], weights: Sequence[float], name: Name) -> Any:
    """Return one tensor of several of one shape; where one of them is NaN, so is the result."""
    ops = keras.ops
    if len(parts) == 1:
        return parts[0]
    stack = named(ops.stack(parts, axis=0), name("stack"))
    if word in WEIGHTED or word == "product":
        if len(set(weights)) == 1:
            return named(ops.mean(stack, axis=0), name("mean"))
        shares = np.array([weight / sum(weights) for weight in weights], stack.dtype)
        scaled = named(ops.multiply(stack, shares.reshape(-1, *[1] * (len(stack.shape) - 1))), name("weighted"))
        return named(ops.sum(scaled, axis=0), name("sum"))
    absent = named(ops.any(named(ops.isnan(stack), name("isnan")), axis=0), name("any_isnan"))
    if word == "median":
        ranked = named(ops.sort(stack, axis=0), name("sort"))
        low, high = (len(parts) - 1) // 2, len(parts) // 2
        middle = named(ops.take(ranked, np.arange(low, high + 1, dtype=np.int32), axis=0), name("middle"))
        found = named(ops.mean(middle, axis=0), name("median"))
    else:
        found = named({"max": ops.max, "min": ops.min}[word](stack, axis=0), name(word))
    return named(ops.where(absent, math.nan, found), name("known"))

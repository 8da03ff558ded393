"""The ways to make one output of several, in TensorFlow's own operations; the words and the numbers are those of `graftwork.compose`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.models.combining import WEIGHTED, Combine, floor_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """How outputs become one.

    Attributes:
        word: The way.
        kinds: What each output is; None where nothing depends on it.
        kind: What they are brought to first; None where they stay as they are.
        weights: What each counts; they add up to 1.
        came: The dtype in which each was computed.
        dtype: What is computed in.
    """

    word: Combine
    kinds: tuple[str | None, ...]
    kind: str | None
    weights: tuple[float, ...]
    came: tuple[str, ...]
    dtype: str

    def reduced(self, tensors: Sequence[Any]) -> Any:
        """Return one tensor of several; where one of them is NaN, so is the result."""
        import tensorflow as tf

        values = [
            self._prepared(tf.cast(tensor, self.dtype), kind, came)
            for tensor, kind, came in zip(tensors, self.kinds, self.came, strict=True)
        ]
        if self.word == "concat":
            return tf.concat(values, axis=-1)
        stack = tf.stack(values)  # of equal shapes alone: nothing is broadcast
        found = self._mean(stack) if self.word in (*WEIGHTED, "product") else self._ranked(stack)
        if self.word == "product":  # the mean of logarithms, as many times as there are members
            found = found * len(self.weights)
        if self.word in ("geometric", "product"):
            return tf.sigmoid(found) if self.kind == "sigmoid" else _softmax(found)
        return found

    def _prepared(self, value: Any, kind: str | None, came: str) -> Any:
        """Return an output in the numbers that are averaged, of which the largest is taken and so on."""
        import tensorflow as tf

        if kind is None or self.kind is None:
            return value
        if self.word == "vote":
            return _ballot(value, kind)
        if self.word in ("geometric", "product"):
            if kind == "sigmoid_logits":
                return value
            floor = floor_of(came)
            if kind == "sigmoid":
                return _log(value, floor) - _log(1 - value, floor)
            return _log(value, floor) if kind == "probabilities" else _at_least(tf.nn.log_softmax(value), np.log(floor))
        if kind == self.kind:
            return value
        return _softmax(value) if kind == "logits" else tf.sigmoid(value)

    def _mean(self, stack: Any) -> Any:
        import tensorflow as tf

        if len(set(self.weights)) == 1:
            return tf.reduce_mean(stack, axis=0)
        shares = np.array(self.weights, self.dtype).reshape(-1, *[1] * (stack.shape.rank - 1))
        return tf.reduce_sum(stack * shares, axis=0)

    def _ranked(self, stack: Any) -> Any:
        import tensorflow as tf

        if self.word == "median":
            ranked = tf.sort(stack, axis=0)
            low, high = (len(self.weights) - 1) // 2, len(self.weights) // 2
            found = tf.reduce_mean(ranked[low : high + 1], axis=0)
        else:
            found = (tf.reduce_max if self.word == "max" else tf.reduce_min)(stack, axis=0)
        absent = tf.reduce_any(tf.math.is_nan(stack), axis=0)
        return tf.where(absent, tf.constant(np.nan, stack.dtype), found)


def _softmax(value: Any) -> Any:
    """Return probabilities; NaN for all classes where one is NaN, beside which TensorFlow's own gives 0."""
    import tensorflow as tf

    absent = tf.reduce_any(tf.math.is_nan(value), axis=-1, keepdims=True)
    return tf.where(absent, tf.constant(np.nan, value.dtype), tf.nn.softmax(value))


def _log(value: Any, floor: float) -> Any:
    import tensorflow as tf

    return tf.math.log(_at_least(value, floor))


def _at_least(value: Any, floor: float) -> Any:
    """Return the larger of a value and a floor; NaN for NaN."""
    import tensorflow as tf

    return tf.where(value < floor, tf.constant(floor, value.dtype), value)


def _ballot(value: Any, kind: str) -> Any:
    """Return 1 for the class that is the likeliest, the first of several; for independent yes and no, 1 for each likelier than not.

    NaN gives NaN: a member that does not know does not vote for anything.
    """
    import tensorflow as tf

    absent = tf.math.is_nan(value)
    if kind in ("sigmoid", "sigmoid_logits"):
        ballot = tf.cast(value > (0.5 if kind == "sigmoid" else 0.0), value.dtype)
    else:
        absent = tf.reduce_any(absent, axis=-1, keepdims=True)
        places = tf.range(tf.shape(value)[-1])
        best = value == tf.reduce_max(value, axis=-1, keepdims=True)
        # not argmax, which leaves open on some devices which of several equal ones it gives
        candidates = tf.where(best, places, tf.size(places))
        ballot = tf.cast(candidates == tf.reduce_min(candidates, axis=-1, keepdims=True), value.dtype)
    return tf.where(absent, tf.constant(np.nan, value.dtype), ballot)

"""The diagonal of a model's Fisher information: for each weight, how much the likelihood of labels changes with it."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OptionError
from graftwork.models.data import Samples
from graftwork.models.likelihood import as_targets, directions, drawn, kind_of, log_likelihood, logits_of

GRADIENT_BYTES = 1 << 28
"""Gradients of as many samples as fit into this are held at a time."""

MOST_DIRECTIONS = 1000
"""More outputs than this are not gone through one by one."""


def _no_loops(record: logging.LogRecord) -> bool:
    """Leave out TensorFlow's remark that it computes the gradients of some operations one sample after the other."""
    return "while_loop" not in record.getMessage()


LABELS = ("model", "sampled", "data")


def information(
    model: Any,
    variables: Sequence[Any],
    samples: Samples,
    *,
    labels: str = "model",
    outputs: str = "auto",
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> list[NDArray[np.float64]]:
    """Return, for each variable, the mean over samples of ``E[(∂ log p(y|x) / ∂θ)²]``.

    The square is taken for each sample by itself. Layers run as in inference. Sums are float64.

    Args:
        model: A live model, on TensorFlow.
        variables: Variables of the model.
        samples: Inputs, and labels where these are used.
        labels: Over which y the expectation is: all that the model can say, each as likely as it says (``model``); one, drawn from what it
            says (``sampled``); or the label in the data (``data``), which gives the empirical Fisher information.
        outputs: What the model's outputs are; see `graftwork.models.likelihood`.
        batch: Most samples worked on at a time.
        seed: Fixes the labels that are drawn.
        progress: Told the bytes of inputs dealt with.

    Raises:
        OptionError: If an option makes no sense or labels do not fit.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise OptionError(
            f"Keras runs on {keras.backend.backend()}; Fisher information is computed on TensorFlow (KERAS_BACKEND=tensorflow)"
        )
    if labels not in LABELS:
        raise OptionError(f"labels is {labels!r}; expected one of {', '.join(LABELS)}")
    if labels == "data" and samples.labels is None:
        raise OptionError(f"there are no labels in {samples.name}; add an array y, or use labels: model")
    kind = kind_of(model, outputs)
    values = [variable.value for variable in variables]
    size = sum(int(np.prod(value.shape)) for value in values)
    batch = max(min(batch, GRADIENT_BYTES // (4 * max(size, 1))), 1)
    sums = [np.zeros(value.shape, np.float64) for value in values]
    logging.getLogger("tensorflow").addFilter(_no_loops)
    square = _squares(model, values, kind)
    generator = np.random.default_rng(seed)
    for part in samples.batches(batch):
        answers = np.asarray(logits_of(model(_given(model, part.inputs), training=False), kind))
        if labels == "model":
            count = answers[0].size
            if count > MOST_DIRECTIONS:
                raise OptionError(
                    f"model {model.name!r} has {count:,} outputs per sample, too many to go through one by one; use labels: sampled"
                )
            rounds = [(np.zeros_like(answers), k) for k in range(count)]
        else:
            known = (
                as_targets(np.asarray(part.labels), answers.shape, kind)
                if labels == "data"
                else drawn(answers, kind, generator)
            )
            rounds = [(known, -1)]
        for targets, k in rounds:
            for total, found in zip(sums, square(part.inputs, targets, k), strict=True):
                total += found
        progress(part.nbytes)
    return [total / len(samples) for total in sums]


def _squares(model: Any, values: Sequence[Any], kind: str) -> Callable[..., Sequence[NDArray[np.float32]]]:
    """Return what sums up the squared gradients of samples: of the log-likelihood of targets, or of direction k."""
    import tensorflow as tf

    def one(sample: tuple[tuple[Any, ...], Any, Any]) -> list[Any]:
        inputs, targets, k = sample
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            logits = logits_of(model(_given(model, [x[None] for x in inputs]), training=False), kind)[0]
            scalar, factor = (
                (log_likelihood(logits, kind, targets), tf.constant(1.0)) if k is None else directions(logits, kind, k)
            )
        gradients = tape.gradient(scalar, values, unconnected_gradients="zero")
        return [
            tf.cast(factor, tf.float32) * tf.square(tf.cast(tf.convert_to_tensor(g), tf.float32)) for g in gradients
        ]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def exact(inputs: Any, k: Any) -> Any:
        return [tf.reduce_sum(g, axis=0) for g in tf.vectorized_map(lambda x: one((x, None, k)), inputs)]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def given(inputs: Any, targets: Any) -> Any:
        return [
            tf.reduce_sum(g, axis=0)
            for g in tf.vectorized_map(lambda pair: one((pair[0], pair[1], None)), (inputs, targets))
        ]

    def square(inputs: tuple[NDArray[Any], ...], targets: NDArray[np.float32], k: int) -> list[NDArray[np.float32]]:
        arrays = tuple(tf.convert_to_tensor(x) for x in inputs)
        found = given(arrays, tf.convert_to_tensor(targets)) if k < 0 else exact(arrays, tf.constant(k))
        return [np.asarray(part) for part in found]

    return square


def _given(model: Any, inputs: Sequence[Any]) -> Any:
    """Return inputs as the model is called with: one by itself, several in a list."""
    return inputs[0] if len(inputs) == 1 else list(inputs)

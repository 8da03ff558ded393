"""The diagonal of a model's Fisher information: for each weight, how much the likelihood of labels changes with it."""

import importlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.errors import OptionError
from graftwork.models.lazy import keras
from graftwork.training.failing import failing, on
from graftwork.training.feeding import arranged, tensor_of
from graftwork.training.likelihood import as_targets, directions, drawn, kind_of, log_likelihood, logits_of
from graftwork.training.matching import target_of
from graftwork.training.showing import Counted, shown

GRADIENT_BYTES = 1 << 28
"""Gradients of as many samples as fit into this are held at a time."""

MOST_DIRECTIONS = 1000
"""More outputs than this are not gone through one by one."""


def _no_loops(record: logging.LogRecord) -> bool:
    """Leave out TensorFlow's remark that it computes the gradients of some operations one sample after the other."""
    return "while_loop" not in record.getMessage()


LABELS = ("model", "sampled", "data")

Square: TypeAlias = Callable[..., Sequence[NDArray[np.float32]]]
"""Takes the inputs of some samples, targets or the number of a direction (else -1), and weights, and sums up squared gradients."""


def information(
    model: Any,
    variables: Sequence[Any],
    data: Samples | Stream,
    *,
    labels: str = "model",
    outputs: str = "auto",
    samples: int | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[NDArray[np.float64]], int]:
    """Return, for each variable, the mean over samples of ``E[(∂ log p(y|x) / ∂θ)²]``, and how many samples that is of.

    The square is taken for each sample by itself. Layers run as in inference. Sums are float64. Where samples have weights, the mean is
    weighted.

    Args:
        model: A live model, on TensorFlow or JAX.
        variables: Variables of the model.
        data: Inputs, and labels where these are used.
        labels: Over which y the expectation is: all that the model can say, each as likely as it says (``model``); one, drawn from what it
            says (``sampled``); or the label in the data (``data``), which gives the empirical Fisher information.
        outputs: What the model's outputs are; see `graftwork.training.likelihood`.
        samples: Use the first so many samples.
        batch: Most samples worked on at a time.
        seed: Fixes the labels that are drawn.
        progress: Told how many samples are dealt with.

    Raises:
        OptionError: If an option makes no sense.
        MismatchError: If the data does not go into the model, or labels are not of its output.
        DataError: If the data holds NaN, or labels that are none.
    """
    backend = keras.backend.backend()
    if backend not in SQUARES:
        raise OptionError(
            f"Keras runs on {backend}; Fisher information is computed on {' or '.join(SQUARES)} (KERAS_BACKEND=tensorflow)"
        )
    if labels not in LABELS:
        raise OptionError(f"labels is {labels!r}; expected one of {', '.join(LABELS)}")
    kind = kind_of(model, outputs)
    size = sum(int(np.prod(variable.shape)) for variable in variables)
    batch = max(min(batch, GRADIENT_BYTES // (4 * max(size, 1))), 1)
    sums = [np.zeros(tuple(variable.shape), np.float64) for variable in variables]
    generator = np.random.default_rng(seed)
    labelled = labels == "data"
    target = target_of(model, kind) if labelled and graph_of(model) is not None else None
    counted = Counted(data.name)
    square: Square | None = None
    for part in shown(model, data, batch, labelled=labelled, target=target, most=samples):
        square = square or SQUARES[backend](model, variables, kind, list(part.inputs))
        given = tuple(tensor_of(each) for each in part.inputs.values())
        named = dict(zip(part.inputs, given, strict=True))
        whole = arranged(model, named)
        with failing(model.name, on(part.rows, data.name), model, whole):
            answers = np.asarray(_logits(model, whole, kind))
        weights = counted.add(part)
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
                if labelled
                else drawn(answers, kind, generator)
            )
            rounds = [(known, -1)]
        for targets, k in rounds:
            alone = keras.tree.map_structure(lambda each: each[:1], whole)
            with failing(model.name, on(part.rows, data.name), model, alone):
                squares = square(given, targets, k, weights)
            for total, found in zip(sums, squares, strict=True):
                total += found
        progress(counted.samples)
    counted.refuse_nothing()
    return [total / counted.total for total in sums], counted.samples


def _on_tensorflow(model: Any, variables: Sequence[Any], kind: str, names: Sequence[str]) -> Square:
    """Return what sums up the squared gradients of samples: of the log-likelihood of targets, or of direction k."""
    import tensorflow as tf

    logging.getLogger("tensorflow").addFilter(_no_loops)
    values = [variable.value for variable in variables]

    def one(sample: tuple[tuple[Any, ...], Any, Any]) -> list[Any]:
        inputs, targets, k = sample
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            scalar, factor = _scalar(model, kind, dict(zip(names, inputs, strict=True)), targets, k)
        gradients = tape.gradient(scalar, values, unconnected_gradients="zero")
        return [
            tf.cast(factor, tf.float32) * tf.square(tf.cast(tf.convert_to_tensor(g), tf.float32)) for g in gradients
        ]

    def summed(found: Sequence[Any], weights: Any) -> list[Any]:
        if weights is None:
            return [tf.reduce_sum(g, axis=0) for g in found]
        return [tf.tensordot(weights, g, 1) for g in found]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def exact(inputs: Any, k: Any, weights: Any) -> Any:
        return summed(tf.vectorized_map(lambda x: one((x, None, k)), inputs), weights)

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def given(inputs: Any, targets: Any, weights: Any) -> Any:
        return summed(tf.vectorized_map(lambda pair: one((pair[0], pair[1], None)), (inputs, targets)), weights)

    def square(
        inputs: tuple[Any, ...], targets: NDArray[np.float32], k: int, weights: NDArray[np.float32] | None
    ) -> list[NDArray[np.float32]]:
        arrays = tuple(tf.convert_to_tensor(x) for x in inputs)
        counts = None if weights is None else tf.convert_to_tensor(weights)
        found = given(arrays, tf.convert_to_tensor(targets), counts) if k < 0 else exact(arrays, tf.constant(k), counts)
        return [np.asarray(part) for part in found]

    return square


def _on_jax(model: Any, variables: Sequence[Any], kind: str, names: Sequence[str]) -> Square:
    """As `_on_tensorflow`."""
    jax: Any = importlib.import_module("jax")

    def scalar(values: Sequence[Any], inputs: Sequence[Any], targets: Any, k: Any) -> tuple[Any, Any]:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return _scalar(model, kind, dict(zip(names, inputs, strict=True)), targets, k)

    def one(values: Sequence[Any], inputs: Sequence[Any], targets: Any, k: Any) -> list[Any]:
        gradients, factor = jax.grad(scalar, has_aux=True)(values, inputs, targets, k)
        return [factor * jax.numpy.square(g.astype("float32")) for g in gradients]

    def summed(values: Sequence[Any], inputs: Sequence[Any], targets: Any, k: Any, weights: Any) -> list[Any]:
        each = None if targets is None else 0
        found = jax.vmap(one, in_axes=(None, 0, each, None))(values, inputs, targets, k)
        return [g.sum(axis=0) if weights is None else jax.numpy.tensordot(weights, g, 1) for g in found]

    compiled = jax.jit(summed)

    def square(
        inputs: tuple[Any, ...], targets: NDArray[np.float32], k: int, weights: NDArray[np.float32] | None
    ) -> list[NDArray[np.float32]]:
        values = [variable.value for variable in variables]
        found = compiled(values, inputs, *((targets, None) if k < 0 else (None, k)), weights)
        return [np.asarray(part) for part in found]

    return square


def _scalar(model: Any, kind: str, inputs: dict[str, Any], targets: Any, k: Any) -> tuple[Any, Any]:
    """Return what is differentiated for one sample, and the factor of its square."""
    given = arranged(model, {name: x[None] for name, x in inputs.items()})
    logits = _logits(model, given, kind)[0]
    return (log_likelihood(logits, kind, targets), 1.0) if k is None else directions(logits, kind, k)


def _logits(model: Any, given: Any, kind: str) -> Any:
    """Return the logits of a model's one output, in whatever structure that stands."""
    said = keras.tree.flatten(model(given, training=False))
    if len(said) != 1:
        raise OptionError(f"model {model.name!r} has {len(said)} outputs; Fisher information is of one")
    return logits_of(said[0], kind)


SQUARES: dict[str, Callable[..., Square]] = {"tensorflow": _on_tensorflow, "jax": _on_jax}
"""By Keras's backend: what makes the function that squares gradients."""

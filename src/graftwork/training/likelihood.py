"""What a model's outputs say of labels: the log-likelihood whose gradient Fisher information is made of."""

from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import DataError, OptionError
from graftwork.models.outputs import ending
from graftwork.training.matching import CATEGORICAL

Outputs: TypeAlias = Literal["auto", "probabilities", "logits", "sigmoid", "regression"]
"""What a model's outputs are: probabilities of classes, their logits, probabilities of independent yes and no, or numbers."""


def kind_of(model: Any, outputs: str) -> str:
    """Return what a model's outputs are, where the user does not say it from its last operation.

    Raises:
        OptionError: If the operation does not tell, or the model has several outputs.
    """
    known = ("auto", "probabilities", "logits", "sigmoid", "regression")
    if outputs not in known:
        raise OptionError(f"outputs is {outputs!r}; expected one of {', '.join(known)}")
    if len(getattr(model, "outputs", None) or [None]) != 1:
        raise OptionError(f"model {model.name!r} has {len(model.outputs)} outputs; Fisher information is of one")
    if outputs != "auto":
        return outputs
    found = ending(model)
    if found.kind is None:
        meaning = "may be logits or numbers" if found.open else "does not tell what its outputs are"
        raise OptionError(
            f"model {model.name!r} ends in {found.what}, which {meaning}; say outputs: logits or regression"
        )
    return found.kind


def logits_of(output: Any, kind: str) -> Any:
    """Return the numbers of which `kind` makes a likelihood, as tensors of the backend.

    On TensorFlow Keras keeps the logits beside the probabilities that it makes of them; without them, logarithms of the probabilities do.
    """
    from keras import ops

    if kind in ("logits", "regression"):
        return output
    kept = getattr(output, "_keras_logits", None)
    if kept is not None:
        return kept
    tiny = np.finfo(np.float32).tiny
    positive = ops.log(ops.maximum(output, tiny))
    return positive if kind == "probabilities" else positive - ops.log(ops.maximum(1.0 - output, tiny))


def directions(logits: Any, kind: str, k: Any) -> tuple[Any, Any]:
    """Return number k of the scalars whose squared gradients add up to the exact Fisher information of one sample, and its factor.

    ::

        classes     log p(y = k), times p(y = k)
        sigmoid     the logit of output k, times p (1 - p)
        regression  output k, times 1                           (a Gaussian of variance 1 around the output)

    Positions of a sample, where there are several, are independent given the inputs: their Fisher information adds up.
    """
    from keras import ops

    if kind in CATEGORICAL:
        log_p = ops.reshape(ops.log_softmax(logits, axis=-1), (-1,))[k]
        return log_p, ops.exp(log_p)
    one = ops.reshape(logits, (-1,))[k]
    p = ops.sigmoid(one)
    return one, p * (1.0 - p) if kind == "sigmoid" else ops.ones_like(p)


def log_likelihood(logits: Any, kind: str, y: Any) -> Any:
    """Return log p(y|x) of one sample, but for constants."""
    from keras import ops

    if kind in CATEGORICAL:
        return ops.sum(ops.log_softmax(logits, axis=-1) * y)
    if kind == "sigmoid":
        return ops.sum(logits * y - ops.softplus(logits))
    return -0.5 * ops.sum(ops.square(y - logits))


def as_targets(labels: NDArray[Any], shape: tuple[int, ...], kind: str) -> NDArray[np.float32]:
    """Return labels in the shape of the outputs: class numbers as one-hot vectors.

    Args:
        labels: One row per sample.
        shape: Shape of the outputs for these samples.
        kind: What the outputs are.

    Raises:
        DataError: If they do not fit.
    """
    if kind in CATEGORICAL and labels.shape in (shape[:-1], (*shape[:-1], 1)) and labels.shape != shape:
        numbers = labels.reshape(shape[:-1]).astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= shape[-1] or (numbers != labels.reshape(shape[:-1])).any():
            raise DataError(
                f"labels lie between {labels.min()} and {labels.max()}; expected whole numbers from 0 to {shape[-1] - 1}"
            )
        return _one_hot(numbers, shape[-1])
    if labels.size != np.prod(shape):
        raise DataError(f"labels have the shape {labels.shape}, which does not fit outputs of shape {shape}")
    return labels.reshape(shape).astype(np.float32)


def drawn(logits: NDArray[Any], kind: str, generator: np.random.Generator) -> NDArray[np.float32]:
    """Return labels drawn from what the model says, in the shape of the outputs."""
    numbers = logits.astype(np.float64)
    if kind in CATEGORICAL:
        noisy = numbers + generator.gumbel(size=numbers.shape)
        return _one_hot(noisy.argmax(axis=-1), numbers.shape[-1])
    if kind == "sigmoid":
        return (generator.random(numbers.shape) < 1 / (1 + np.exp(-numbers))).astype(np.float32)
    return (numbers + generator.standard_normal(numbers.shape)).astype(np.float32)


def _one_hot(numbers: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.eye(classes, dtype=np.float32)[numbers]
    return found

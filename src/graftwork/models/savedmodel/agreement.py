"""Does a Keras model answer as a signature of a SavedModel does? Both are asked, and their ports are matched by what tells them apart."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graftwork import models
from graftwork.errors import OptionError, StoreError
from graftwork.models.difference import called, compare, leaves_of
from graftwork.models.examples import inputs_for
from graftwork.models.export import computes_in_half
from graftwork.models.fresh import REFERENCE, predict
from graftwork.models.lazy import keras, quietly, without_stderr
from graftwork.stores.files import brief

SERVING = "serving_default"
"""The signature that a model server uses."""

IN_HALF = 5e-2
"""How far a model that computes in half precision may be, as a fraction of an output's largest entry: bfloat16 has steps of 1/256."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output.

    Attributes:
        names: What it may be called, the most telling name first.
        shape: Its shape; None is a size that is left free.
        dtype: Its dtype.
    """

    names: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str

    def fits(self, other: "Port") -> bool:
        """Return whether the two may be the same, by dtype and shape."""
        same_rank = len(self.shape) == len(other.shape)
        sizes = zip(self.shape, other.shape, strict=False)
        return self.dtype == other.dtype and same_rank and all(a is None or b is None or a == b for a, b in sizes)


def loaded(path: Path) -> Any:
    """Return a SavedModel as TensorFlow loads it; its variables and tables live as long as what is returned.

    Raises:
        StoreError: If TensorFlow is not there, or does not load it.
    """
    try:
        with without_stderr() if models.quiet else contextlib.nullcontext():
            import tensorflow as tf
    except ImportError as error:
        raise StoreError(f"to look into {path.name}, install tensorflow (pip install tensorflow)") from error
    try:
        with quietly():
            return tf.saved_model.load(str(path))
    except Exception as error:  # of TensorFlow, which has many classes of them
        raise StoreError(f"TensorFlow cannot load {path.name}: {brief(error)}") from error


def agreement(
    program: Any, where: str, model: Any, signature: str = SERVING, output_names: Sequence[str] = ()
) -> tuple[bool, str]:
    """Compare what a model says on example inputs with what a signature says.

    Args:
        program: What `loaded` returned.
        where: What messages call the SavedModel.
        model: The Keras model.
        signature: Name of the signature.
        output_names: What the SavedModel is known to call the model's outputs, in their order.

    Returns:
        Whether they were compared, and what was found, as the end of a sentence; or why they could not be.

    Raises:
        StoreError: If the two say something else.
    """
    function = program.signatures.get(signature) if hasattr(program, "signatures") else None
    if function is None:
        return False, f"not compared: {where} has no signature {signature!r}"
    graph = getattr(model, "_functional", None) or model
    if not hasattr(graph, "_inputs_struct"):
        return False, f"not compared: {type(model).__name__} {model.name!r} does not say what it takes"
    taken = _ports(function.structured_input_signature[1])
    inputs = pairs([_port(t, [t.name]) for t in graph.inputs], taken)
    ends = keras.tree.flatten_with_path(graph._outputs_struct)
    ours = []
    for k, (path, tensor) in enumerate(ends):
        names = [*output_names[k : k + 1], "/".join(map(str, path)), tensor._keras_history.operation.name]
        ours.append(_port(tensor, [*names, f"output_{k}"]))
    given = _ports(function.structured_outputs)
    outputs = pairs(ours, given)
    if inputs is None or outputs is None:
        what, ports, wanted = ("inputs", taken, graph.inputs) if inputs is None else ("outputs", given, ends)
        listed = ", ".join(repr(port.names[0]) for port in ports)
        return (
            False,
            f"not compared: which of the {what} of signature {signature!r} ({listed}) is which of the model's {len(wanted)} does not show",
        )
    fixed = {port.names[0]: port.shape for port in taken}
    first = next((shape[0] for shape in fixed.values() if shape and shape[0] is not None), 2)
    free = {
        size
        for tensor, name in zip(graph.inputs, inputs, strict=True)
        for own, size in zip(tensor.shape[1:], fixed[name][1:], strict=False)
        if own is None and size is not None
    }
    if len(free) > 1:
        return (
            False,
            f"not compared: {where} fixes sizes that the model leaves free, {', '.join(map(str, sorted(free)))}",
        )
    try:
        arrays = inputs_for(model, batch=first, dynamic=next(iter(free), None))
    except OptionError as error:
        return False, f"not compared: {error}"
    said = keras.tree.flatten(predict(model, arrays))
    fed = dict(zip(inputs, keras.tree.flatten(arrays), strict=True))
    expected = _run(function, fed, where, signature)
    tolerance = IN_HALF if computes_in_half(model) else REFERENCE
    answers = {name: expected[name] for name in outputs}
    far = compare(dict(zip(outputs, said, strict=True)), answers, rtol=tolerance)
    if not far.agrees:
        raise StoreError(
            f"the model does not say what signature {signature!r} of {where} says on the same inputs: {far}, and {tolerance:g} is allowed"
        )
    unknown = [called(n) for n, v in leaves_of(answers) if v.dtype.kind in "fc" and not np.isfinite(v).any()]
    note = f"the model answers as signature {signature!r} of {where} does, " + (
        f"within {far.relative:.1g} of the largest entry" if far.absolute else "to the last bit"
    )
    return True, note + (f"; no number in {', '.join(unknown)}, which says nothing" if unknown else "")


def _port(tensor: Any, names: Sequence[str]) -> Port:
    return Port(tuple(names), tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))


def _ports(specs: Mapping[str, Any]) -> list[Port]:
    shapes = {name: spec.shape for name, spec in specs.items()}
    return [
        Port((name,), tuple(shapes[name].as_list()) if shapes[name].rank is not None else (), spec.dtype.name)
        for name, spec in sorted(specs.items())
    ]


MAX_PORTS = 6
"""More ports than this are told apart by their names or not at all."""


def pairs(ours: Sequence[Port], theirs: Sequence[Port]) -> list[str] | None:
    """Return which name each port of a model has in a signature, or None where that does not show.

    One is the other. Several are told apart by names, and else by shapes and dtypes, if these leave one way only.
    """
    if len(ours) != len(theirs):
        return None
    if len(ours) == 1:
        return [theirs[0].names[0]]
    known = {port.names[0] for port in theirs}
    for level in range(min(len(port.names) for port in ours)):
        names = [port.names[level] for port in ours]
        if set(names) == known:
            return names
    if len(ours) > MAX_PORTS:
        return None
    ways = [
        [port.names[0] for port in order]
        for order in itertools.permutations(theirs)
        if all(a.fits(b) for a, b in zip(ours, order, strict=True))
    ]
    return ways[0] if len(ways) == 1 else None


def _run(function: Any, fed: Mapping[str, Any], where: str, signature: str) -> dict[str, Any]:
    import tensorflow as tf

    specs = function.structured_input_signature[1]
    try:
        with tf.device("cpu:0"):
            tensors = {name: _tensor(values, specs[name].dtype) for name, values in fed.items()}
            found = function(**tensors)
            return {
                name: (tf.cast(t, tf.float32) if t.dtype == tf.bfloat16 else t).numpy() for name, t in found.items()
            }
    except Exception as error:  # of TensorFlow
        raise StoreError(f"signature {signature!r} of {where} cannot be run: {brief(error)}") from error


def _tensor(values: Any, dtype: Any) -> Any:
    import tensorflow as tf

    if values.dtype.kind in "USO":
        return tf.constant(values.tolist(), tf.string, values.shape)
    return tf.cast(tf.constant(values), dtype)

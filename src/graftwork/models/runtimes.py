"""Running exported models where they will run: a SavedModel's serving signature, ONNX Runtime, LiteRT's interpreter."""

import importlib.util
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.stores.files import brief


class Unsupported(Exception):  # noqa: N818
    """The runtime cannot do what the export asks of it; the message says what, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class Run:
    """What an export takes, and what it gave.

    Attributes:
        inputs: Its inputs by its own names, each with shape and dtype.
        outputs: Its outputs by its own names, in the order of the model's.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One kind of export.

    Attributes:
        title: What people call it.
        keras_name: What Keras calls it.
        suffix: The ending of its files; empty for a directory.
        packages: What it needs, by Keras backend, each as it is imported; there is no export with another backend.
        tolerance: How far an export may be from the model, as a fraction of an output's largest entry.
        run: Runs an export, given the names of the model's inputs, arrays for them and the names of its outputs.
    """

    title: str
    keras_name: str
    suffix: str
    packages: Mapping[str, tuple[str, ...]]
    tolerance: float
    run: Callable[[Path, Sequence[str], Sequence[NDArray[Any]], Sequence[str]], Run]


def run_saved_model(path: Path, names: Sequence[str], arrays: Sequence[NDArray[Any]], outputs: Sequence[str]) -> Run:
    """Run the signature that a model server uses."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))  # its variables are gone once it is
    signature = loaded.signatures["serving_default"]
    specs = signature.structured_input_signature[1]
    given = _matched(names, arrays, specs)
    tensors = {
        name: tf.constant(values.tolist() if values.dtype.kind in "USO" else values, specs[name].dtype, values.shape)
        for name, values in given.items()
    }
    with tf.device("cpu:0"):
        found = {name: tensor.numpy() for name, tensor in signature(**tensors).items()}
    return Run(
        {name: _described(specs[name].shape, specs[name].dtype.name) for name in given}, _in_order(found, outputs)
    )


def run_onnx(path: Path, names: Sequence[str], arrays: Sequence[NDArray[Any]], outputs: Sequence[str]) -> Run:
    """Run an ONNX file on the processor."""
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no name that can be imported
        raise Unsupported(_unknown_to_onnx(path) or brief(Exception(str(error).rpartition("failed:")[2]))) from error
    ports = {port.name: port for port in session.get_inputs()}
    given = _matched(names, arrays, ports)
    fed = {
        name: values.astype(str).astype(object) if values.dtype.kind in "US" else values
        for name, values in given.items()
    }
    labels = [port.name for port in session.get_outputs()]
    found = dict(zip(labels, session.run(labels, fed), strict=True))
    return Run({name: _described(ports[name].shape, _onnx_dtype(ports[name].type)) for name in given}, found)


def run_litert(path: Path, names: Sequence[str], arrays: Sequence[NDArray[Any]], outputs: Sequence[str]) -> Run:
    """Run a LiteRT file on the processor, with the operations that LiteRT itself has."""
    interpreter = _interpreter(path)
    signature = interpreter.get_signature_runner("serving_default")
    details = signature.get_input_details()
    places = {name: int(detail["index"]) for name, detail in details.items()}
    shapes = {name: _described(d["shape_signature"], np.dtype(d["dtype"]).name) for name, d in details.items()}
    results = {name: int(detail["index"]) for name, detail in signature.get_output_details().items()}
    del signature, details  # they hold on to memory that the interpreter wants to move
    given = _matched(names, arrays, places)
    try:
        for name, values in given.items():
            interpreter.resize_tensor_input(places[name], values.shape)
        interpreter.allocate_tensors()
        for name, values in given.items():
            interpreter.set_tensor(
                places[name], values.astype("S").astype(object) if values.dtype.kind == "U" else values
            )
        interpreter.invoke()
    except RuntimeError as error:
        operation = re.search(r"\(Flex(\w+)\)", str(error))
        raise Unsupported(f"LiteRT has no operation {operation[1]}" if operation else brief(error)) from error
    found = {name: interpreter.get_tensor(place) for name, place in results.items()}
    return Run({name: shapes[name] for name in given}, _in_order(found, outputs))


def _interpreter(path: Path) -> Any:
    """Return LiteRT's own interpreter, or the same in TensorFlow, which has announced its end."""
    if importlib.util.find_spec("ai_edge_litert"):
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter(model_path=str(path))
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tf.lite.Interpreter(model_path=str(path))


def _matched(names: Sequence[str], arrays: Sequence[NDArray[Any]], ports: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return the arrays by the names that the export has for its inputs."""
    if len(names) == len(ports) == 1:
        return dict(zip(ports, arrays, strict=True))
    if set(names) < set(ports):
        further = [name for name in ports if name not in names]
        raise Unsupported(
            f"it asks for {', '.join(map(repr, further))} as well, values that a layer holds beside its weights (Normalization does), "
            "which this converter does not carry over; with KERAS_BACKEND=jax another converter is used, which does"
        )
    if set(names) != set(ports):
        raise Unsupported(
            f"it calls its inputs {', '.join(map(repr, ports))}, and the model {', '.join(map(repr, names))}"
        )
    return dict(zip(names, arrays, strict=True))


def _in_order(found: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return the outputs of a signature in the model's order: they are called by keys, or ``output_0``, ``output_1``."""
    labels = [name if name in found else f"output_{name or 0}" for name in outputs]
    if set(labels) != set(found):
        raise Unsupported(
            f"it calls its outputs {', '.join(map(repr, found))}, and {', '.join(map(repr, labels))} are expected"
        )
    return {label: found[label] for label in labels}


def _described(shape: Iterable[Any], dtype: str) -> str:
    sizes = [str(int(size)) if isinstance(size, int | np.integer) and size >= 0 else "None" for size in shape]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)}) {dtype}"


def _onnx_dtype(text: str) -> str:
    """Return Keras's name of a dtype that ONNX calls ``tensor(float)``."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def _unknown_to_onnx(path: Path) -> str:
    """Return which operations of a file ONNX does not have, and where they come from; empty if it has them all."""
    import onnx

    nodes = onnx.load(str(path)).graph.node
    unknown = {n.op_type: n.name for n in nodes if n.domain in ("", "ai.onnx") and not onnx.defs.has(n.op_type)}
    return "ONNX has no operation " + ", ".join(f"{kind} ({name})" for kind, name in unknown.items()) if unknown else ""


RUNTIMES: dict[str, Runtime] = {
    "saved_model": Runtime(
        title="a SavedModel",
        keras_name="tf_saved_model",
        suffix="",
        packages={"tensorflow": ("tensorflow",), "jax": ("tensorflow",)},
        tolerance=1e-5,
        run=run_saved_model,
    ),
    "onnx": Runtime(
        title="ONNX",
        keras_name="onnx",
        suffix=".onnx",
        packages={"tensorflow": ("onnx", "tf2onnx", "onnxruntime"), "jax": ("onnx", "jax2onnx", "onnxruntime")},
        tolerance=1e-4,
        run=run_onnx,
    ),
    "litert": Runtime(
        title="LiteRT",
        keras_name="litert",
        suffix=".tflite",
        packages={"tensorflow": ("tensorflow",)},
        tolerance=1e-4,
        run=run_litert,
    ),
}
"""Every kind of export by the name that users give."""

"""One small valid model in every format, written without graftwork and without Keras.

The model is ``Dense(4)``, ``BatchNormalization()``, ``Dense(2, "softmax")`` on eight inputs, laid out as Keras 3.15 lays it out.
"""

import json
import struct
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Json = Any
Array = np.ndarray[Any, Any]

LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "dense": {"kernel": (8, 4), "bias": (4,)},
    "batch_normalization": {"gamma": (4,), "beta": (4,), "moving_mean": (4,), "moving_variance": (4,)},
    "dense_1": {"kernel": (4, 2), "bias": (2,)},
}
"""Shapes of the weights: layer → variable → shape, in the order of creation."""


def _values() -> dict[str, Array]:
    found, at = {}, 0
    for layer, variables in LAYERS.items():
        for variable, shape in variables.items():
            size = int(np.prod(shape))
            found[f"{layer}/{variable}"] = (np.arange(at, at + size, dtype="<f4") / 8).reshape(shape)
            at += size
    return found


VALUES: dict[str, Array] = _values()
"""Canonical name → values; no two tensors are equal."""

KERNEL = "dense/kernel"
"""The tensor that most faults strike, (8, 4) float32."""

METADATA = b'{"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}'


# Configurations ----------------------------------------------------------------------------------------------------


def layer(class_name: str, name: str, build: Json = None, **config: Json) -> dict[str, Json]:
    """Return one layer's configuration as Keras 3 writes it."""
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    made = {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, "trainable": True, "dtype": policy, **config},
        "registered_name": None,
    }
    return made if build is None else {**made, "build_config": {"input_shape": build}}


def input_layer(name: str = "input_layer", shape: Json = (None, 8)) -> dict[str, Json]:
    """Return the configuration of an input."""
    made = layer("InputLayer", name, batch_shape=list(shape), sparse=False, ragged=False, optional=False)
    made["config"]["dtype"] = "float32"
    return made


def _body() -> list[dict[str, Json]]:
    return [
        layer("Dense", "dense", [None, 8], units=4, activation="linear", use_bias=True),
        layer("BatchNormalization", "batch_normalization", [None, 4], axis=-1, epsilon=0.001, center=True, scale=True),
        layer("Dense", "dense_1", [None, 4], units=2, activation="softmax", use_bias=True),
    ]


def sequential(layers: Iterable[Json] | None = None, name: str = "sequential") -> dict[str, Json]:
    """Return the configuration of the model as a Sequential."""
    made = layer(
        "Sequential",
        name,
        [None, 8],
        layers=[input_layer(), *_body()] if layers is None else list(layers),
        build_input_shape=[None, 8],
    )
    made["module"] = "keras"
    return made


def node(source: str, call: int = 0, output: int = 0) -> dict[str, Json]:
    """Return one entry of ``inbound_nodes``: a call on one tensor."""
    history = [source, call, output]
    tensor = {
        "class_name": "__keras_tensor__",
        "config": {"shape": [None, 4], "dtype": "float32", "keras_history": history},
    }
    return {"args": [tensor], "kwargs": {}}


def functional(edit: Callable[[dict[str, Json]], object] | None = None) -> dict[str, Json]:
    """Return the configuration of the model as a Functional, after `edit` changed the inside of it."""
    layers = [input_layer(), *_body()]
    source = None
    for item in layers:
        item["name"] = item["config"]["name"]
        item["inbound_nodes"] = [] if source is None else [node(source)]
        source = item["name"]
    made = layer("Functional", "functional", [None, 8])
    made["module"] = "keras"
    made["config"] |= {
        "layers": layers,
        "input_layers": [["input_layer", 0, 0]],
        "output_layers": [["dense_1", 0, 0]],
    }
    if edit is not None:
        edit(made["config"])
    return made


def keras2(config: Mapping[str, Json]) -> dict[str, Json]:
    """Return a configuration without the fields that legacy files lack."""

    def strip(value: Json) -> Json:
        if isinstance(value, dict):
            gone = (
                ("module", "registered_name", "build_config") if "inbound_nodes" in value or "config" in value else ()
            )
            return {k: strip(v) for k, v in value.items() if k not in gone}
        return [strip(v) for v in value] if isinstance(value, list) else value

    return strip(config)


def text(value: Json) -> bytes:
    """Return JSON text."""
    return json.dumps(value).encode()


# HDF5 --------------------------------------------------------------------------------------------------------------

WEIGHTS_KERNEL = "layers/dense/vars/0"
LEGACY_KERNEL = "model_weights/dense/sequential/dense/kernel"


def h5_bytes(fill: Callable[[h5py.File], object]) -> bytes:
    """Return an HDF5 file that `fill` wrote."""
    with h5py.File("in-memory.h5", "w", driver="core", backing_store=False) as file:
        fill(file)
        file.flush()
        return file.id.get_file_image()


def fill_weights(file: h5py.File, layers: Iterable[str] = tuple(LAYERS), optimizer: bool = True) -> None:
    """Write the tree of a ``.weights.h5`` file."""
    file.create_group("vars").attrs["name"] = "sequential"
    for name in layers:
        group = file.create_group(f"layers/{name}/vars")
        group.attrs["name"] = name
        for i, variable in enumerate(LAYERS[name]):
            group[str(i)] = VALUES[f"{name}/{variable}"]
    if optimizer:
        group = file.create_group("optimizer/vars")
        group.attrs["name"] = "adam"
        group["0"] = np.int64(7)
        group["1"] = np.float32(0.001)


def fill_legacy(file: h5py.File, config: bytes | None = None) -> None:
    """Write the tree of a legacy ``.h5`` file of a whole model."""
    string = h5py.string_dtype("utf-8")
    file.attrs["backend"] = "tensorflow"
    file.attrs["keras_version"] = "3.15.1"
    config = text(keras2(sequential())) if config is None else config
    if b"\0" in config:  # no text of any length holds one
        file.attrs["model_config"] = np.array(config, f"S{len(config)}")
    else:
        file.attrs.create("model_config", config, dtype=string)
    root = file.create_group("model_weights")
    root.attrs["backend"] = "tensorflow"
    root.attrs["keras_version"] = "3.15.1"
    root.attrs["layer_names"] = list(LAYERS)
    for name, variables in LAYERS.items():
        group = root.create_group(name)
        group.attrs["weight_names"] = [f"sequential/{name}/{variable}" for variable in variables]
        for variable in variables:
            group[f"sequential/{name}/{variable}"] = VALUES[f"{name}/{variable}"]
    root.create_group("top_level_model_weights").attrs["weight_names"] = np.array([], "S1")
    group = file.create_group("optimizer_weights")
    group.attrs["weight_names"] = ["adam/iteration", "adam/learning_rate"]
    group["adam/iteration"] = np.int64(7)
    group["adam/learning_rate"] = np.float32(0.001)


# safetensors -------------------------------------------------------------------------------------------------------


def safetensors_parts(names: Iterable[str] = tuple(VALUES)) -> tuple[dict[str, Json], bytes]:
    """Return the header and the data of a safetensors file."""
    header: dict[str, Json] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name in names:
        raw = VALUES[name].tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(VALUES[name].shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


def safetensors_bytes(header: Json = None, data: bytes | None = None, length: int | None = None) -> bytes:
    """Return a safetensors file; `header` is JSON or its text, `length` a lie about the header's length."""
    good, values = safetensors_parts()
    raw = header if isinstance(header, bytes) else text(good if header is None else header)
    return struct.pack("<Q", len(raw) if length is None else length) + raw + (values if data is None else data)


# Directories -------------------------------------------------------------------------------------------------------


def write_files(folder: Path, files: Mapping[str, bytes | None]) -> Path:
    """Write a directory of files; a None leaves a file out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        if data is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    return folder

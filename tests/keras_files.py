"""Files in Keras's formats, written with h5py, zipfile and json alone."""

import io
import json
import zipfile
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np

THING = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "sequential",
        "layers": [
            {"module": "keras.layers", "class_name": "InputLayer", "config": {"name": "in", "batch_shape": [None, 2]}},
            {"module": "mine", "class_name": "Thing", "config": {"name": "thing"}, "registered_name": "mine>Thing"},
        ],
    },
}
"""A model with one layer of a class that nobody knows, whose variables have numbers for names."""


def put(group, key, values, **options):
    """Write one dataset as Keras does: bfloat16 as two opaque bytes and an attribute."""
    if values.dtype == ml_dtypes.bfloat16:
        group.create_dataset(key, data=np.asarray(values).view("V2"), **options).attrs["dtype"] = "bfloat16"
    else:
        group.create_dataset(key, data=values, **options)


def get(dataset):
    """Read one dataset as Keras does."""
    values = np.asarray(dataset[()])
    return values.view(ml_dtypes.bfloat16) if dataset.attrs.get("dtype") == "bfloat16" else values


def weights_h5(file, arrays, **options):
    """Write ``thing/0``, ``thing/1``, … as a weights file holds them; `file` is a path or a file."""
    with h5py.File(file, "w") as h5:
        group = h5.create_group("layers/thing/vars")
        group.attrs["name"] = "thing"
        h5.create_group("vars").attrs["name"] = "sequential"
        for name, values in arrays.items():
            put(group, name.removeprefix("thing/"), values, **options)


def weights_of(file):
    """Return what a weights file holds of the layer ``thing``."""
    with h5py.File(file, "r") as h5:
        group = h5["layers/thing/vars"]
        assert group.attrs["name"] == "thing"
        return {f"thing/{key}": get(group[key]) for key in group}


def weights_bytes(arrays, **options):
    """Return a weights file as bytes."""
    file = io.BytesIO()
    weights_h5(file, arrays, **options)
    return file.getvalue()


def keras_zip(path, arrays, compression=zipfile.ZIP_STORED, config=None, **options):
    """Write a ``.keras`` file."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1", "date_saved": "2026-01-01@00:00:00"}))
        archive.writestr("config.json", json.dumps(config or THING))
        archive.writestr("model.weights.h5", weights_bytes(arrays, **options))


def keras_directory(path, arrays, **metadata):
    """Write the members of a ``.keras`` file as files."""
    path.mkdir()
    (path / "metadata.json").write_text(json.dumps({"keras_version": "3.15.1", **metadata}))
    (path / "config.json").write_text(json.dumps(THING))
    weights_h5(path / "model.weights.h5", arrays)


def sharded(path: Path, arrays, shards=2):
    """Write an index and shards, the variables of one layer dealt out among them."""
    stem = path.name.removesuffix(".weights.json")
    names = [f"{stem}_{k:05}.weights.h5" for k in range(min(shards, len(arrays)))]
    for k, name in enumerate(names):
        weights_h5(path.with_name(name), dict([*arrays.items()][k::shards]))
    index = {
        "metadata": {"total_size": sum(a.nbytes for a in arrays.values())},
        "weight_map": {"/layers/thing/vars": names if len(names) > 1 else names[0]},
    }
    path.write_text(json.dumps(index))


def sharded_of(path: Path):
    """Return what shards hold, as the index says."""
    found = {}
    index = json.loads(path.read_text())
    listed = index["weight_map"]["/layers/thing/vars"]
    for name in [listed] if isinstance(listed, str) else listed:
        found |= weights_of(path.with_name(name))
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in found.values())
    return found


def legacy_h5(path, arrays):
    """Write a legacy file of weights alone."""
    with h5py.File(path, "w") as h5:
        h5.attrs["layer_names"] = ["thing"]
        h5.attrs["keras_version"], h5.attrs["backend"] = "3.15.1", "tensorflow"
        group = h5.create_group("thing")
        group.attrs["weight_names"] = list(arrays)
        for name, values in arrays.items():
            put(group, name, values)


def legacy_of(path):
    """Return what a legacy file of weights alone holds."""
    with h5py.File(path, "r") as h5:
        return {name: get(h5["thing"][name]) for name in h5["thing"].attrs["weight_names"]}

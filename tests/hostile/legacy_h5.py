"""Legacy ``.h5`` files of whole models: one HDF5 file, the configuration in an attribute."""

import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from hostile import hdf5, json_text, keras_config, oddities
from hostile.corpus import Corpus, Outcome
from hostile.keras_config import config_text
from hostile.valid import LEGACY_KERNEL, VALUES, fill_legacy, h5_bytes, keras2

CORPUS = Corpus("legacy_h5", VALUES)
TEXT = h5py.string_dtype("utf-8")


def put(folder: Path, data: bytes) -> Path:
    """Write the file."""
    path = folder / "model.h5"
    path.write_bytes(data)
    return path


def edited(folder: Path, edit: Callable[[h5py.File], object]) -> Path:
    """Write a file whose tree was changed."""

    def both(file: h5py.File) -> None:
        fill_legacy(file)
        edit(file)

    return put(folder, h5_bytes(both))


def _set(group: h5py.Group, name: str, value: object) -> None:
    group.attrs[name] = value


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder, h5_bytes(fill_legacy))


hdf5.add_faults(CORPUS, put, fill_legacy, LEGACY_KERNEL)
oddities.add(CORPUS, "model.h5", h5_bytes(fill_legacy))
for _name, _text in json_text.BROKEN.items():
    CORPUS.add(
        f"config-{_name}",
        lambda folder, text=_text: put(folder, h5_bytes(lambda f: fill_legacy(f, text))),
        Outcome.TOLERATED if _name in ("empty", "null-at-the-top", "nul-bytes") else Outcome.REFUSED,
    )
for _name, _fault in keras_config.FAULTS.items():

    def _build(folder: Path, fault: keras_config.Fault = _fault) -> Path:
        value = fault.make(folder)
        raw = config_text(value if isinstance(value, bytes) else keras2(value))
        return put(folder, h5_bytes(lambda f: fill_legacy(f, raw)))

    CORPUS.add(f"config-{_name}", _build, _fault.outcome)


@CORPUS.refused()
def config_is_a_number(folder: Path) -> Path:
    """The attribute holds no text."""
    return edited(folder, lambda f: _set(f, "model_config", 3.5))


@CORPUS.refused()
def config_is_many_texts(folder: Path) -> Path:
    """The attribute holds a thousand texts."""
    return edited(folder, lambda f: f.attrs.create("model_config", np.full(1000, "{}", object), dtype=TEXT))


@CORPUS.tolerated()
def config_is_missing(folder: Path) -> Path:
    """Weights alone, as `save_weights` wrote them."""
    return edited(folder, lambda f: f.attrs.pop("model_config"))


@CORPUS.refused()
def weights_missing(folder: Path) -> Path:
    """No group of weights."""
    return edited(folder, lambda f: f.pop("model_weights"))


@CORPUS.refused()
def layer_missing(folder: Path) -> Path:
    """``layer_names`` lists a layer that has no group."""
    return edited(folder, lambda f: _set(f["model_weights"], "layer_names", ["dense", "nobody"]))


@CORPUS.tolerated()
def layer_not_listed(folder: Path) -> Path:
    """A group that ``layer_names`` does not list."""
    return edited(folder, lambda f: _set(f["model_weights"], "layer_names", ["dense"]))


@CORPUS.refused()
def weight_missing(folder: Path) -> Path:
    """``weight_names`` lists a weight that has no dataset."""
    names = ["sequential/dense/kernel", "sequential/dense/nothing"]
    return edited(folder, lambda f: _set(f["model_weights/dense"], "weight_names", names))


@CORPUS.refused()
def weight_listed_twice(folder: Path) -> Path:
    """``weight_names`` lists one weight twice."""
    names = ["sequential/dense/kernel", "sequential/dense/kernel"]
    return edited(folder, lambda f: _set(f["model_weights/dense"], "weight_names", names))


@CORPUS.refused()
def weight_names_climb(folder: Path) -> Path:
    """``weight_names`` points into another layer, as HDF5's paths do not."""
    names = ["../dense_1/sequential/dense_1/kernel", "sequential/dense/bias"]
    return edited(folder, lambda f: _set(f["model_weights/dense"], "weight_names", names))


@CORPUS.refused()
def weight_names_begin_at_the_root(folder: Path) -> Path:
    """``weight_names`` with an absolute path into the optimizer."""
    names = ["/optimizer_weights/adam/iteration", "sequential/dense/bias"]
    return edited(folder, lambda f: _set(f["model_weights/dense"], "weight_names", names))


@CORPUS.refused()
def weight_name_is_a_group(folder: Path) -> Path:
    """``weight_names`` lists a group."""
    names = ["sequential/dense", "sequential/dense/bias"]
    return edited(folder, lambda f: _set(f["model_weights/dense"], "weight_names", names))


@CORPUS.refused()
def layer_names_not_utf8(folder: Path) -> Path:
    """``layer_names`` is not text."""
    names = np.array([b"\xff\xfe", b"dense"])
    return edited(folder, lambda f: _set(f["model_weights"], "layer_names", names))


@CORPUS.tolerated()
def layer_names_in_pieces(folder: Path) -> Path:
    """``layer_names0`` and ``layer_names1``, as Keras writes long lists."""

    def edit(file: h5py.File) -> None:
        root = file["model_weights"]
        del root.attrs["layer_names"]
        root.attrs["layer_names0"] = ["dense"]
        root.attrs["layer_names1"] = ["batch_normalization", "dense_1"]

    return edited(folder, edit)


@CORPUS.tolerated()
def layer_names_of_the_two_pieces(folder: Path) -> Path:
    """``layer_names0`` and ``layer_names5``: pieces are missing."""

    def edit(file: h5py.File) -> None:
        root = file["model_weights"]
        del root.attrs["layer_names"]
        root.attrs["layer_names0"] = ["dense"]
        root.attrs["layer_names5"] = ["dense_1"]

    return edited(folder, edit)


@CORPUS.tolerated()
def training_config_is_a_lambda(folder: Path) -> Path:
    """What `compile` was told names a function of the standard library."""
    text = '{"loss": {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}}'
    return edited(folder, lambda f: f.attrs.create("training_config", text, dtype=TEXT))


@CORPUS.refused()
def weights_in_a_pipe(folder: Path) -> Path:
    """The group of weights is said to lie in another file, which would never answer."""
    (folder / "outside").mkdir()
    os.mkfifo(folder / "outside" / "pipe.h5")

    def edit(file: h5py.File) -> None:
        del file["model_weights"]
        file["model_weights"] = h5py.ExternalLink(str(folder / "outside" / "pipe.h5"), "/")

    return edited(folder, edit)

"""``.weights.h5`` files: one HDF5 file, no configuration."""

from pathlib import Path

import h5py
import numpy as np

from hostile import hdf5, oddities
from hostile.corpus import Corpus
from hostile.keras_zip import valid as keras_file
from hostile.valid import VALUES, WEIGHTS_KERNEL, fill_legacy, fill_weights, h5_bytes, safetensors_bytes

CORPUS = Corpus("weights_h5", VALUES)


def put(folder: Path, data: bytes) -> Path:
    """Write the file."""
    path = folder / "model.weights.h5"
    path.write_bytes(data)
    return path


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder, h5_bytes(fill_weights))


hdf5.add_faults(CORPUS, put, fill_weights, WEIGHTS_KERNEL, slow=True)
oddities.add(CORPUS, "model.weights.h5", h5_bytes(fill_weights))


@CORPUS.tolerated()
def is_a_keras_file(folder: Path) -> Path:
    """A ``.keras`` file under another ending."""
    return put(folder, keras_file())


@CORPUS.tolerated()
def is_safetensors(folder: Path) -> Path:
    """A safetensors file under another ending."""
    return put(folder, safetensors_bytes())


@CORPUS.tolerated()
def is_a_whole_model(folder: Path) -> Path:
    """A legacy ``.h5`` file under another ending."""
    return put(folder, h5_bytes(fill_legacy))


@CORPUS.tolerated()
def tensors_of_one_name(folder: Path) -> Path:
    """Two layers that say they are the same layer."""

    def fill(file: h5py.File) -> None:
        fill_weights(file)
        for i, values in enumerate([np.ones((8, 4), "f4"), np.ones(4, "f4")]):
            file[f"layers/dense_2/vars/{i}"] = values
        file["layers/dense_2/vars"].attrs["name"] = "dense"

    return put(folder, h5_bytes(fill))


@CORPUS.tolerated()
def variables_with_a_gap(folder: Path) -> Path:
    """``vars/0`` and ``vars/7``."""
    return put(folder, h5_bytes(lambda f: (fill_weights(f), f.move("layers/dense/vars/1", "layers/dense/vars/7"))))


@CORPUS.harmless()
def in_the_latest_format(folder: Path) -> Path:
    """Superblock version 3, with checksums in every header."""
    path = folder / "model.weights.h5"
    with h5py.File(path, "w", libver="latest") as file:
        fill_weights(file)
    return path


@CORPUS.tolerated()
def left_open_by_a_writer(folder: Path) -> Path:
    """The flag of a writer that crashed."""
    path = in_the_latest_format(folder)
    with path.open("r+b") as file:
        file.seek(11)
        file.write(b"\x05")
    return path


@CORPUS.tolerated()
def in_pages(folder: Path) -> Path:
    """Space in pages, kept free space and all."""
    path = folder / "model.weights.h5"
    with h5py.File(path, "w", libver="latest", fs_strategy="page", fs_persist=True) as file:
        fill_weights(file)
    return path


@CORPUS.tolerated()
def checksum_of_the_latest_format(folder: Path) -> Path:
    """One bit of a time in a checked header is wrong; a reader need not compare checksums of metadata."""
    path = in_the_latest_format(folder)
    data = bytearray(path.read_bytes())
    data[data.find(b"OHDR") + 10] ^= 1
    path.write_bytes(data)
    return path

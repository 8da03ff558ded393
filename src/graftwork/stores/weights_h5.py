"""The ``.weights.h5`` file of ``model.save_weights``: one HDF5 file without an architecture; see `keras_weights` for what is inside."""

import os
from collections.abc import Sequence
from pathlib import Path

from graftwork.stores.base import Format, Raw, Reader, register
from graftwork.stores.files import open_fd
from graftwork.stores.hdf5 import H5Source
from graftwork.stores.keras_weights import (
    KerasReader,
    KerasWeights,
    check_places,
    keras_tree,
    open_part,
    weights_header,
)
from graftwork.tensor import TensorSpec

H5_MAGIC = b"\x89HDF\r\n\x1a\n"


class WeightsH5Reader(KerasReader):
    """A ``.weights.h5`` file, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_fd(path)
        try:
            self.weights = KerasWeights(path, [H5Source(path, self._fd)], None)
            self.header = weights_header("weights_h5", self.weights, [path])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        super().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class WeightsH5Writer:
    """A ``.weights.h5`` file being made; see `graftwork.stores.base.Writer` for the arguments."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec], *, like: Reader, provenance: str) -> None:
        tree, self.keys = keras_tree(specs, like)
        self._dtypes = {spec.name: spec.dtype for spec in specs}
        self._part = open_part(path, tree, provenance)

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        return self._part.write(self.keys[name], start, block, self._dtypes[name])

    def finish(self) -> None:
        """Sync the file."""
        os.fsync(self._part.fd)

    def close(self) -> None:
        """Close the file."""
        self._part.close()


def is_hdf5(path: Path) -> bool:
    """Return whether a regular file begins as an HDF5 file does."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) == H5_MAGIC


def recognise(path: Path) -> bool:
    """Return whether a path is, or is called as, a file of Keras weights."""
    if path.is_dir():
        return False
    return path.name.endswith(".weights.h5") or is_hdf5(path)


register(
    Format(
        name="weights_h5",
        summary="Keras weights (.weights.h5): no architecture",
        suffixes=(".weights.h5",),
        recognise=recognise,
        open=WeightsH5Reader,
        create=WeightsH5Writer,
        check=check_places,
        order=20,
    )
)

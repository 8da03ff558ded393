"""Arrays: an ``.npz`` archive, ``.npy`` files, or arrays in memory; files are mapped, not read."""

import hashlib
import mmap
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError

LABELS = "y"
"""What the array of labels is called if nothing else is said."""


class Arrays:
    """Arrays with one row per sample; see `graftwork.data.base.Table`.

    Args:
        arrays: The arrays by name.
        name: What messages call them.
        files: The files in which they lie.
        classes: Names of the classes that labels count.

    Raises:
        DataError: If they do not have one row per sample each, or there are none.
    """

    labels: str | None = LABELS

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        name: str,
        files: Sequence[Path] = (),
        classes: tuple[str, ...] | None = None,
    ) -> None:
        counts = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            raise DataError(
                f"the arrays of {name} have different numbers of rows ({told}); expected one row per sample in each"
            )
        if not arrays or not next(iter(counts.values())):
            raise DataError(f"there are no samples in {name}")
        for key, array in arrays.items():
            if array.dtype.hasobject:
                raise DataError(f"array {key!r} of {name} holds Python objects; save it as numbers or texts")
        self.name, self.classes = name, classes
        self._arrays, self._files = arrays, files
        self.columns: Mapping[str, Column] = {
            key: Column(array.shape[1:], _word(array.dtype)) for key, array in arrays.items()
        }

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column not in self._arrays:
            raise UnknownNameError(f"array in {self.name}", column, self._arrays)
        array = self._arrays[column]
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
            return np.array(array[rows[0] : rows[-1] + 1])
        return np.asarray(array[rows])

    def fingerprint(self) -> str:
        """Return a text that changes when the data does: of files their sizes and times, of arrays in memory their bytes."""
        if self._files:
            return fingerprint_of(self._files)
        found = hashlib.sha256()
        for key, array in self._arrays.items():
            found.update(f"{key} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).view(np.uint8).data)
        return found.hexdigest()


def fingerprint_of(files: Sequence[Path]) -> str:
    """Return a text that changes when one of the files is replaced or written to."""
    found = hashlib.sha256()
    for file in files:
        told = file.stat()
        found.update(f"{file.resolve()}\0{told.st_size}\0{told.st_mtime_ns}\0".encode())
    return found.hexdigest()


def _word(dtype: np.dtype[Any]) -> str:
    return "str" if dtype.kind in "US" else dtype.name


def open_npz(path: Path) -> Arrays:
    """Open an archive of arrays. What is stored is mapped; what is compressed is unpacked into a temporary file first.

    Raises:
        DataError: If it is no such archive, or an array in it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {
                info.filename.removesuffix(".npy"): _member(path, archive, info)
                for info in archive.infolist()
                if info.filename.endswith(".npy")
            }
    except (OSError, zipfile.BadZipFile, ValueError, EOFError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from error
    if not arrays:
        raise DataError(f"there are no arrays in {path}; numpy.savez(FILE, x=…, y=…) makes such a file")
    return Arrays(arrays, path.name, [path])


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        with archive.open(info) as member, path.open("rb") as file:
            shape, fortran, dtype = _header(member)
            file.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            begin = info.header_offset + 30 + name + extra + member.tell()
            if dtype.hasobject:
                raise ValueError(f"array {info.filename!r} holds Python objects")
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if size == 0:
                return np.empty(shape, dtype)
            if begin + size > path.stat().st_size:
                raise ValueError(f"array {info.filename!r} claims {size:,} bytes, more than the file has")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return np.ndarray(shape, dtype, mapped, begin, order="F" if fortran else "C")
    with archive.open(info) as member, tempfile.NamedTemporaryFile(prefix="graftwork-", suffix=".npy") as unpacked:
        while piece := member.read(1 << 20):
            unpacked.write(piece)
        unpacked.flush()
        return _mapped(Path(unpacked.name))


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    return np.lib.format.read_array_header_2_0(file)


def open_npy(paths: Mapping[str, Path]) -> Arrays:
    """Open files of one array each, by the names of their columns.

    Raises:
        DataError: If one cannot be read.
    """
    arrays = {}
    for name, path in paths.items():
        try:
            arrays[name] = _mapped(path)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} cannot be read as an .npy file: {error}") from error
    return Arrays(arrays, ", ".join(path.name for path in paths.values()), list(paths.values()))


def _mapped(path: Path) -> NDArray[Any]:
    found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("it is an archive, not one array")  # noqa: TRY004 - of the file, not of the caller
    return found

"""Arrays: an ``.npz`` archive, ``.npy`` files, or arrays in memory; files are mapped, not read."""

import hashlib
import math
import shutil
import tempfile
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError

PIECE = 1 << 20
"""Bytes that are unpacked or hashed at a time."""


class Arrays:
    """Arrays with one row per sample; see `graftwork.data.base.Table`.

    Args:
        arrays: The arrays by name: numbers or texts.
        name: What messages call them.
        known: What tells the data from other data; by default the bytes of the arrays.
        classes: Names of the classes that labels count.

    Raises:
        DataError: If they do not have one row per sample each, are neither numbers nor texts, or there are none.
    """

    labels: str | None = "y"

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        name: str,
        known: str | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        counts = {key: len(array) if array.ndim else 0 for key, array in arrays.items()}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{key} {count:,}" for key, count in counts.items())
            raise DataError(
                f"the arrays of {name} have different numbers of rows ({told}); expected one row per sample in each, or say which are "
                "meant (x, y)"
            )
        if not arrays or not next(iter(counts.values())):
            raise DataError(f"there are no samples in {name}")
        self.name, self.classes = name, classes
        self._arrays = {key: _usable(array, key, name) for key, array in arrays.items()}
        self._known = known
        self.columns: Mapping[str, Column] = {key: Column.of(array) for key, array in self._arrays.items()}

    def __len__(self) -> int:
        return len(next(iter(self._arrays.values())))

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column not in self._arrays:
            raise UnknownNameError(f"array in {self.name}", column, self._arrays)
        array = self._arrays[column]
        found = np.array(array[_span(rows)], array.dtype.newbyteorder("="), order="C")
        if found.dtype.kind != "S":
            return found
        try:
            return np.char.decode(found, "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"array {column!r} of {self.name} holds bytes that are no text in UTF-8: {error}"
            ) from error

    def fingerprint(self) -> str:
        """Return a text that changes when the data does; see `Table.fingerprint`."""
        if self._known is None:
            self._known = _bytes_of(self._arrays)
        return self._known


def _usable(array: NDArray[Any], key: str, name: str) -> NDArray[Any]:
    """Return an array of numbers or texts; texts that are Python objects as NumPy's."""
    if array.dtype.kind == "O" and all(isinstance(each, str | bytes) for each in array.flat):
        texts = [each if isinstance(each, str) else each.decode("utf-8", "replace") for each in array.flat]
        return np.array(texts, dtype=np.str_).reshape(array.shape)
    if array.dtype.kind not in "biufUS" or (array.dtype.kind in "US" and not array.dtype.itemsize):
        held = "Python objects" if array.dtype.kind == "O" else array.dtype.name
        raise DataError(f"array {key!r} of {name} holds {held}; expected numbers or texts (numpy's astype converts)")
    return array


def _span(rows: Rows) -> Any:
    """Return the rows as a slice where they follow each other, which is read faster."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
        return slice(rows[0], rows[-1] + 1)
    return rows


def _bytes_of(arrays: Mapping[str, NDArray[Any]]) -> str:
    found = hashlib.sha256()
    for key, array in arrays.items():
        found.update(f"{key!r} {array.dtype.str} {array.shape} ".encode())
        step = max(1, PIECE * len(array) // max(1, array.nbytes))
        for first in range(0, len(array), step):
            found.update(array[first : first + step].tobytes())
    return found.hexdigest()


def fingerprint_of(files: Sequence[Path], *how: object) -> str:
    """Return a text that changes when one of the files is replaced or written to, or how they are read does."""
    found = hashlib.sha256(repr(how).encode())
    for file in files:
        told = file.stat()
        found.update(
            f"{file.resolve()}\0{told.st_size}\0{told.st_mtime_ns}\0{told.st_ctime_ns}\0".encode("utf-8", "replace")
        )
    return found.hexdigest()


def open_npz(path: Path, meant: Collection[str] = ()) -> Arrays:
    """Open an archive of arrays. What is stored is mapped; what is compressed is unpacked into a temporary file first.

    Args:
        path: The archive.
        meant: Arrays that are used, where that is said: those with another number of rows (of a test set in the same archive, say) are
            left aside.

    Raises:
        DataError: If it is no such archive, or an array in it cannot be read.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        known = fingerprint_of([path], "npz")
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in arrays:
                    raise DataError(f"there are two arrays {name!r} in {path}")
                if name != info.filename:
                    arrays[name] = _member(path, archive, info)
    except DataError:
        raise
    except Exception as error:  # files of strangers break zipfile, zlib and NumPy's parser in many ways
        raise DataError(f"{path} cannot be read as an .npz file: {_told(error)}") from error
    if not arrays:
        raise DataError(f"there are no arrays in {path}; numpy.savez(FILE, x=…, y=…) makes such a file")
    counts = {len(arrays[name]) for name in meant if name in arrays and arrays[name].ndim}
    if len(counts) == 1:
        arrays = {name: array for name, array in arrays.items() if array.ndim and len(array) in counts}
    return Arrays(arrays, path.name, known)


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    what = f"array {info.filename.removesuffix('.npy')!r}"
    with archive.open(info) as member:
        if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
            with path.open("rb") as file:
                file.seek(info.header_offset + 26)
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            return _mapped(path, info.header_offset + 30 + name + extra, info.file_size, what)
        free = shutil.disk_usage(tempfile.gettempdir()).free
        if info.file_size > free:
            raise ValueError(
                f"{what} takes {info.file_size:,} bytes unpacked, and {tempfile.gettempdir()} has {free:,}; TMPDIR names another place"
            )
        with tempfile.NamedTemporaryFile(prefix="graftwork-", suffix=".npy") as unpacked:
            while piece := member.read(PIECE):  # zipfile gives no more than the size that it was just asked for
                unpacked.write(piece)
            unpacked.flush()
            return _mapped(Path(unpacked.name), 0, unpacked.tell(), what)


def open_npy(paths: Mapping[str, Path]) -> Arrays:
    """Open files of one array each, by the names of their columns.

    Raises:
        DataError: If one cannot be read.
    """
    arrays = {}
    known = fingerprint_of(list(paths.values()), "npy", *paths)
    for name, path in paths.items():
        try:
            arrays[name] = _mapped(path, 0, path.stat().st_size, "its array")
        except Exception as error:  # as in `open_npz`
            raise DataError(f"{path} cannot be read as an .npy file: {_told(error)}") from error
    return Arrays(arrays, ", ".join(path.name for path in paths.values()), known)


def _mapped(path: Path, begin: int, length: int, what: str) -> NDArray[Any]:
    """Map the array that NumPy wrote to a stretch of a file, once its header was found to tell the truth."""
    with path.open("rb") as file:
        file.seek(begin)
        shape, fortran, dtype = _header(file)
        size, room = math.prod(shape) * dtype.itemsize, begin + length - file.tell()
        if dtype.hasobject:
            raise ValueError(f"{what} holds Python objects, which are not loaded; save it as numbers or texts")
        if any(each < 0 for each in shape) or size != room or file.tell() + size > path.stat().st_size:
            raise ValueError(f"{what} should have {size:,} bytes by its header, and has {max(room, 0):,}")
        if not size:
            return np.empty(shape, dtype)
        return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C").view(np.ndarray)


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not known")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__

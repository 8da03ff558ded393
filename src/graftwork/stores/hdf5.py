"""HDF5 as Keras writes it: a tree of groups with contiguous little-endian datasets.

Reading goes through h5py for the tree and past it for the values: a contiguous dataset is a byte range of the file, found once
and read with ``preadv`` by any thread. Chunked, compressed, compact and big-endian datasets are read through h5py, slower.

HDF5 can express far more than Keras writes (links to other files, values in other files, datasets made of other datasets, cycles).
A model file has no use for that, and a hostile one does, so all of it is refused while the tree is walked.

Writing lays out the whole tree at once with its space allocated and never filled; blocks are then written into their ranges.
"""

import io
import itertools
import math
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from graftwork.errors import StoreError
from graftwork.stores.base import RAW_DTYPES, Extent, Raw, pread_full
from graftwork.stores.files import brief
from graftwork.tensor import ITEMSIZE

MAX_OBJECTS = 200_000
"""Groups and datasets in one file; a model of a hundred thousand layers has fewer."""

MAX_DEPTH = 256
"""Groups in groups; Keras uses three levels for each model inside a model."""

MAX_CHUNK_BYTES = 1 << 28
"""A chunk is decompressed whole, so its size bounds memory."""

MAX_EXPANSION = 1100
"""DEFLATE cannot expand by more than 1032."""

SMALL = 1 << 20
"""A chunked dataset up to this size may expand as it likes."""


class Window(io.RawIOBase):
    """A byte range of an open file as a read-only file of its own (a STORED member of a zip)."""

    def __init__(self, fd: int, offset: int, length: int, path: Path) -> None:
        self._fd, self._offset, self._length, self._path = fd, offset, length, path
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the range."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """Return the position in the range."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, with fewer bytes at the end of the range."""
        count = max(0, min(len(buffer), self._length - self._at))
        done = 0
        view = memoryview(buffer)
        while done < count:
            got = os.preadv(self._fd, [view[done:count]], self._offset + self._at + done)
            if got <= 0:
                break
            done += got
        self._at += done
        return done


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset of an HDF5 file, from its header.

    Attributes:
        path: Its path without a leading slash.
        shape: Its shape.
        dtype: A key of `graftwork.tensor.ITEMSIZE`.
        offset: Where its values begin in the file that holds it (the zip, for a ``.keras`` file); None when they are not one
            plain byte range.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    offset: int | None

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


class H5Source:
    """An HDF5 file open for reading, every object in it checked.

    Args:
        path: The file, or the zip that holds it.
        fd: A descriptor open on it; stays the caller's.
        window: Where the HDF5 file lies in it, as (offset, length); None for the whole file.
        label: What to call it in messages.

    Raises:
        StoreError: If it is not HDF5, is damaged, or uses what no Keras file uses.
    """

    def __init__(self, path: Path, fd: int, window: tuple[int, int] | None = None, label: str | None = None) -> None:
        self.path, self.fd = path, fd
        self.label = label or path.name
        size = os.fstat(fd).st_size
        self.offset, self.length = window if window is not None else (0, size)
        self._lock = threading.Lock()
        self.groups: dict[str, h5py.h5g.GroupID] = {}
        self.datasets: dict[str, Dataset] = {}
        try:
            self._file = h5py.File(io.BufferedReader(Window(fd, self.offset, self.length, path), 1 << 16), "r")
        except (OSError, RuntimeError, ValueError, KeyError, OverflowError) as error:
            raise StoreError(f"{self.label} is not a readable HDF5 file: {brief(error)}") from error
        try:
            self._walk()
            self._refuse_overlaps()
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, UnicodeError, OverflowError) as error:
            self.close()
            raise StoreError(f"{self.label} is damaged: {brief(error)}") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the HDF5 side; the descriptor is the caller's."""
        self.groups.clear()
        self._file.close()

    def _walk(self) -> None:
        seen: set[int] = set()
        root = h5py.h5g.open(self._file.id, b"/")
        stack: list[tuple[str, h5py.h5g.GroupID, int]] = [("", root, 0)]
        seen.add(_address(root))
        count = 0
        while stack:
            prefix, group, depth = stack.pop()
            self.groups[prefix] = group
            if depth > MAX_DEPTH:
                raise StoreError(f"{self.label} nests groups more than {MAX_DEPTH} deep, at {prefix[:60]!r}")
            names: list[bytes] = []
            group.links.iterate(names.append)
            for raw in names:
                count += 1
                if count > MAX_OBJECTS:
                    raise StoreError(
                        f"{self.label} holds more than {MAX_OBJECTS:,} objects; no Keras model has as many"
                    )
                name = raw.decode("utf-8")
                path = f"{prefix}/{name}" if prefix else name
                if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                    raise StoreError(
                        f"{self.label} has a soft or external link at {path!r}; graftwork follows no links, "
                        "copy what it points to into the file"
                    )
                item = h5py.h5o.open(group, raw)
                address = _address(item)
                if address in seen:
                    raise StoreError(f"{self.label} links to one object twice, the second time at {path!r}")
                seen.add(address)
                if isinstance(item, h5py.h5g.GroupID):
                    stack.append((path, item, depth + 1))
                elif isinstance(item, h5py.h5d.DatasetID):
                    self.datasets[path] = self._dataset(path, item)
                else:
                    raise StoreError(f"{self.label} has a named datatype at {path!r}, which no Keras file has")

    def _dataset(self, path: str, item: h5py.h5d.DatasetID) -> Dataset:
        what = f"dataset {path!r} of {self.label}"
        space = item.get_space()
        if space.get_simple_extent_type() == h5py.h5s.NULL:
            raise StoreError(f"{what} has no values")
        shape = tuple(int(n) for n in space.get_simple_extent_dims())
        dtype, plain = _dtype(item, what)
        nbytes = math.prod(shape) * ITEMSIZE[dtype]
        plist = item.get_create_plist()
        layout = plist.get_layout()
        if layout == h5py.h5d.VIRTUAL or plist.get_external_count():
            raise StoreError(f"{what} keeps its values in another file, which graftwork does not follow")
        stored = item.get_storage_size()
        if layout == h5py.h5d.CONTIGUOUS:
            offset = item.get_offset()
            if nbytes == 0:
                return Dataset(path, shape, dtype, 0)
            if offset is None or stored != nbytes:
                raise StoreError(f"{what} should have {nbytes:,} bytes of values but {stored:,} are stored")
            if offset < 0 or offset + nbytes > self.length:
                raise StoreError(
                    f"{what} should lie in bytes {offset:,} to {offset + nbytes:,}, but the file has {self.length:,}"
                )
            return Dataset(path, shape, dtype, self.offset + offset if plain else None)
        if layout == h5py.h5d.CHUNKED:
            chunk = math.prod(plist.get_chunk()) * ITEMSIZE[dtype]
            if chunk > MAX_CHUNK_BYTES:
                raise StoreError(f"{what} has chunks of {chunk:,} bytes; more than {MAX_CHUNK_BYTES:,} are not read")
            for position in range(plist.get_nfilters()):
                code = plist.get_filter(position)[0]
                if not h5py.h5z.filter_avail(code):
                    raise StoreError(f"{what} is compressed with HDF5 filter {code}, which is not installed")
        if nbytes > SMALL + MAX_EXPANSION * min(stored, self.length):
            raise StoreError(f"{what} claims {nbytes:,} bytes of values but only {stored:,} are stored")
        return Dataset(path, shape, dtype, None)

    def _refuse_overlaps(self) -> None:
        ranges = sorted(
            (d.offset, d.nbytes, d.path) for d in self.datasets.values() if d.offset is not None and d.nbytes
        )
        for (begin, nbytes, path), (following, _, other) in itertools.pairwise(ranges):
            if begin + nbytes > following:
                raise StoreError(f"datasets {path!r} and {other!r} of {self.label} overlap")

    def extent(self, path: str) -> Extent | None:
        """Return where a dataset's values lie, or None when they must be read through HDF5."""
        found = self.datasets[path]
        return None if found.offset is None else Extent(self.fd, found.offset, found.nbytes)

    def read_into(self, path: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a dataset from flat position `start` on."""
        found = self.datasets[path]
        if found.offset is not None:
            pread_full(self.fd, out, found.offset + start * ITEMSIZE[found.dtype], self.path)
            return
        try:
            with self._lock:
                _read_flat(h5py.Dataset(h5py.h5o.open(self._file.id, path.encode())), start, out)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            raise StoreError(f"dataset {path!r} of {self.label} cannot be read: {brief(error)}") from error

    def text_attribute(self, path: str, name: str) -> str | None:
        """Return an attribute of a group or dataset as text, or None where there is none."""
        value = self.attribute(path, name)
        if value is None:
            return None
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise StoreError(f"attribute {name!r} of {path!r} in {self.label} is not UTF-8") from error
        return value if isinstance(value, str) else None

    def attribute(self, path: str, name: str) -> Any:
        """Return an attribute's value as h5py gives it, or None where there is none."""
        group = self.groups.get(path)
        try:
            if group is None:
                group = h5py.h5o.open(self._file.id, path.encode() or b"/")
            if not h5py.h5a.exists(group, name.encode()):
                return None
            opened = h5py.h5a.open(group, name.encode())
            if math.prod(opened.shape) * opened.get_type().get_size() > self.length:
                raise StoreError(f"attribute {name!r} of {path!r} in {self.label} claims more bytes than the file has")
            attributes = h5py.AttributeManager(
                h5py.Group(group) if isinstance(group, h5py.h5g.GroupID) else h5py.Dataset(group)
            )
            return attributes[name]
        except (OSError, RuntimeError, ValueError, TypeError, KeyError, UnicodeError) as error:
            raise StoreError(
                f"attribute {name!r} of {path!r} in {self.label} cannot be read: {brief(error)}"
            ) from error

    def attribute_names(self, path: str) -> list[str]:
        """Return the names of a group's attributes, sorted."""
        group = self.groups[path]
        return sorted(h5py.h5a.open(group, index=i).name.decode() for i in range(h5py.h5a.get_num_attrs(group)))


def _address(item: Any) -> int:
    info = h5py.h5o.get_info(item)
    return int(info.addr)


def _dtype(item: h5py.h5d.DatasetID, what: str) -> tuple[str, bool]:
    """Return the dtype's name, and whether the values lie in the file as NumPy would lay them out."""
    kind = item.get_type()
    size = kind.get_size()
    if isinstance(kind, h5py.h5t.TypeOpaqueID) and size == 2:
        return "bfloat16", True  # Keras marks it with the attribute dtype="bfloat16", legacy files forget to
    if isinstance(kind, h5py.h5t.TypeEnumID):
        if kind.dtype != np.dtype(bool):
            raise StoreError(f"{what} is an enumeration, expected numbers")
        return "bool", True
    if not isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID):
        raise StoreError(
            f"{what} holds {type(kind).__name__.removeprefix('Type').removesuffix('ID').lower()} values, expected numbers"
        )
    dtype = kind.dtype
    if dtype.name not in ITEMSIZE or dtype.itemsize != size:
        raise StoreError(f"{what} holds {dtype.name} values of {size} bytes, which graftwork does not know")
    return dtype.name, kind.get_order() == h5py.h5t.ORDER_LE or size == 1


def _read_flat(dataset: Any, start: int, out: Raw) -> None:
    """Read flat positions [start, start + len(out)) of a dataset of any rank, in runs that are boxes."""
    shape = dataset.shape
    if not shape or dataset.size == len(out):
        values = np.asarray(dataset[()])
        out[:] = _raw(values.reshape(-1), out.dtype)[start : start + len(out)]
        return
    inner = math.prod(shape[1:])
    done = 0
    while done < len(out):
        row, column = divmod(start + done, inner)
        rows = (len(out) - done) // inner
        if column == 0 and rows:  # whole rows at once
            part = np.asarray(dataset[row : row + rows]).reshape(-1)
        else:  # a piece of one row
            part = _piece(dataset, row, column, min(inner - column, len(out) - done))
        out[done : done + part.size] = _raw(part, out.dtype)
        done += part.size


def _piece(dataset: Any, row: int, column: int, count: int) -> Any:
    """Read `count` elements of one row along the first axis; rows of several axes are cut along the second."""
    if dataset.ndim == 1:
        return np.asarray(dataset[row : row + 1])
    inner = math.prod(dataset.shape[2:])
    first, last = column // inner, -(-(column + count) // inner)
    part = np.asarray(dataset[row, first:last]).reshape(-1)
    return part[column - first * inner : column - first * inner + count]


def _raw(values: Any, dtype: np.dtype[Any]) -> Any:
    if values.dtype.kind == "V" or values.dtype == np.dtype(bool):
        return values.view(dtype)
    return values.astype(dtype, copy=False)


# Writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tree:
    """An HDF5 file to be made: groups with attributes, datasets without values."""

    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    datasets: Mapping[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)


def lay_out(path: Path, tree: Tree) -> dict[str, tuple[int, int]]:
    """Make an HDF5 file with space for every dataset's values and none of them written.

    Returns:
        For each dataset its (offset, bytes) in the file.

    Raises:
        OSError: If the file cannot be made or may not grow to its size.
    """
    places: dict[str, tuple[int, int]] = {}
    try:
        with h5py.File(path, "w") as file:
            for name, attributes in tree.groups.items():
                group = file.require_group(name) if name else file
                for key, value in attributes.items():
                    group.attrs[key] = value
            for name, (shape, dtype) in tree.datasets.items():
                places[name] = _allocate(file, name, shape, dtype)
    except RuntimeError as error:  # what h5py makes of a failing write when the file is closed
        raise OSError(brief(error)) from error
    return places


def _allocate(file: Any, name: str, shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    parent, _, leaf = name.rpartition("/")
    group = file.require_group(parent) if parent else file
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    numpy_dtype = {"bfloat16": np.dtype("V2"), "bool": np.dtype(bool)}.get(dtype, RAW_DTYPES[dtype])
    made = h5py.h5d.create(group.id, leaf.encode(), h5py.h5t.py_create(numpy_dtype, logical=True), space, dcpl=plist)
    if dtype == "bfloat16":
        h5py.Dataset(made).attrs["dtype"] = "bfloat16"
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    offset = made.get_offset()
    return (0 if offset is None else int(offset), nbytes)


def gaps(places: Iterable[tuple[int, int]], length: int) -> list[tuple[int, int]]:
    """Return the byte ranges of a file of `length` bytes that no dataset covers, as (offset, bytes)."""
    at, found = 0, []
    for offset, nbytes in sorted(p for p in places if p[1]):
        if offset > at:
            found.append((at, offset - at))
        at = offset + nbytes
    if at < length:
        found.append((at, length - at))
    return found

"""HDF5 as Keras writes it: a tree of groups with contiguous little-endian datasets.

Reading never calls libhdf5, which a crafted file can crash or hang; see `hdf5_file`. A contiguous dataset is a byte range of the
file, found once and read with ``preadv`` by any thread. Chunked, compressed, compact and big-endian datasets are put together from
their pieces, slower.

HDF5 can express far more than Keras writes (links to other files, values in other files, datasets made of other datasets, cycles).
A model file has no use for that, and a hostile one does, so all of it is refused while the tree is walked.

Writing is h5py's: it lays out the whole tree at once with its space allocated and never filled; blocks are then written into their
ranges.
"""

import contextlib
import itertools
import math
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.lazy import np
from graftwork.stores.base import RAW_DTYPES, Extent, Raw, pread_full
from graftwork.stores.files import brief, open_fd
from graftwork.stores.hdf5_attributes import Attribute, Nothing, attributes_of, value_of
from graftwork.stores.hdf5_file import UNDEFINED, H5File
from graftwork.stores.hdf5_filters import filters_of, unfiltered
from graftwork.stores.hdf5_groups import links_of
from graftwork.stores.hdf5_headers import (
    DATASPACE,
    DATATYPE,
    EXTERNAL,
    FILTERS,
    LAYOUT,
    OF_DATASETS,
    OF_GROUPS,
    SHARED,
    Message,
    messages_of,
)
from graftwork.stores.hdf5_layout import Chunk, Layout, chunks_of, layout_of
from graftwork.stores.hdf5_pages import Unreadable, damaged
from graftwork.stores.hdf5_texts import Texts
from graftwork.stores.hdf5_types import Datatype, datatype_of, shape_of
from graftwork.tensor import ITEMSIZE

MAX_OBJECTS = 200_000
"""Groups and datasets in one file; a model of a hundred thousand layers has fewer."""

MAX_DEPTH = 256
"""Groups in groups; Keras uses three levels for each model inside a model."""

MAX_CHUNKS = 1 << 20
"""Chunks of one dataset, whose places are kept in memory."""

MAX_CHUNK_BYTES = 1 << 27
"""A chunk is decompressed whole, so its size bounds memory."""

MAX_EXPANSION = 1100
"""DEFLATE cannot expand by more than 1032."""

SMALL = 1 << 20
"""A chunked dataset up to this size may expand as it likes."""

MAX_PATH_CHARACTERS = 1 << 25
"""All paths together, so that long names of groups do not add up."""

KEPT_BYTES = 1 << 26
"""Chunks that are kept expanded, for the next block of the same rows."""


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


@dataclass(slots=True)
class _Pieces:
    """How to put together a dataset that is not one little-endian byte range.

    Attributes:
        dtype: How elements lie in the file.
        layout: Where they lie.
        filters: What chunks went through.
        chunks: Every chunk by its place in the grid; None until the first of them is needed.
    """

    dtype: "np.dtype[Any]"
    layout: Layout
    filters: tuple[int, ...]
    chunks: Mapping[tuple[int, ...], Chunk] | None = None


class H5Source:
    """An HDF5 file open for reading, every object in it checked.

    Args:
        path: The file, or the zip that holds it.
        fd: A descriptor open on it; stays the caller's.
        window: Where the HDF5 file lies in it, as (offset, length); None for the whole file.
        label: What to call it in messages.

    Attributes:
        groups: Address of every group's header by the group's path, the root's is "".
        datasets: Every dataset by its path; within a group, links go by name.

    Raises:
        StoreError: If it is not HDF5, is damaged, or uses what no Keras file uses.
    """

    def __init__(self, path: Path, fd: int, window: tuple[int, int] | None = None, label: str | None = None) -> None:
        self.path, self.fd = path, fd
        self.label = label or path.name
        self.groups: dict[str, int] = {}
        self.datasets: dict[str, Dataset] = {}
        self._pieces: dict[str, _Pieces] = {}
        self._headers: dict[str, int] = {}
        self._attributes: tuple[str, Mapping[str, Attribute]] | None = None
        self._kinds: dict[bytes, Datatype] = {}
        self._inflated: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._lock = threading.Lock()
        with _refusing(self.label):
            self._file = H5File(fd, *(window if window is not None else (0, os.fstat(fd).st_size)))
            self._texts = Texts(self._file)
            self._walk()
            self._refuse_overlaps()

    def close(self) -> None:
        """Forget what was read; the descriptor is the caller's."""
        self.fd = -1
        self._inflated.clear()

    def _walk(self) -> None:
        stack: list[tuple[str, int, int]] = [("", self._file.root, 0)]
        count, characters = 0, 0
        while stack:
            path, address, depth = stack.pop()
            if address in self._file.claimed:
                raise StoreError(f"{self.label} links to one object twice, the second time at {_short(path)}")
            links = self._visit(path, address)
            if links is None:
                continue
            count += len(links)
            if count > MAX_OBJECTS:
                raise StoreError(f"{self.label} holds more than {MAX_OBJECTS:,} objects; no Keras model has as many")
            if links and depth >= MAX_DEPTH:
                raise StoreError(f"{self.label} nests groups more than {MAX_DEPTH} deep, at {_short(path)}")
            prefix = f"{path}/" if path else ""
            names = set()
            for raw, target in reversed(links):
                child = prefix + self._name(raw, path)
                if target < 0:
                    raise StoreError(
                        f"{self.label} has a soft or external link at {_short(child)}; graftwork follows no links, "
                        "copy what it points to into the file"
                    )
                if raw in names:
                    raise StoreError(f"{self.label} is damaged: two objects are called {_short(child)}")
                names.add(raw)
                characters += len(child)
                stack.append((child, target, depth + 1))
            if characters > MAX_PATH_CHARACTERS:
                raise StoreError(f"{self.label} has names of more than {MAX_PATH_CHARACTERS:,} characters altogether")

    def _visit(self, path: str, address: int) -> list[tuple[bytes, int]] | None:
        """Take up a group or dataset; return a group's links."""
        what = "object"
        try:
            messages = messages_of(self._file, address, claim=True)
            kinds = {message.kind for message in messages}
            if LAYOUT in kinds:
                what = "dataset"
                self.datasets[path] = self._dataset(path, messages)
                self._headers[path] = address
                return None
            if not kinds & OF_GROUPS:
                if DATATYPE in kinds:
                    raise Unreadable("is a named datatype, which no Keras file has")
                raise damaged("it is neither a group nor a dataset")
            what = "group"
            self.groups[path] = address
            return links_of(self._file, messages, MAX_OBJECTS, claim=True)
        except WRONG as error:
            raise _refusal(f"{what} {_short(path)} of {self.label}" if path else self.label, error) from error

    def _name(self, raw: bytes, group: str) -> str:
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise StoreError(f"{self.label} has a name in group {_short(group)} that is not UTF-8") from error
        if not name or "/" in name or name in (".", ".."):
            raise StoreError(f"{self.label} is damaged: it has an object called {name[:60]!r} in group {_short(group)}")
        return name

    def _dataset(self, path: str, messages: Sequence[Message]) -> Dataset:
        found: dict[int, bytes] = {}
        for number, flags, body in messages:
            if number in OF_DATASETS:
                if flags & SHARED:
                    raise Unreadable("has a type that lies elsewhere in the file, which no Keras file has")
                if number in found:
                    raise damaged(f"it has two messages of type {number}")
                found[number] = body
        if EXTERNAL in found:
            raise Unreadable("keeps its values in another file, which graftwork does not follow")
        if DATATYPE not in found or DATASPACE not in found:
            raise damaged("it has no type or no shape")
        said = found[DATATYPE]
        if (kind := self._kinds.get(said)) is None:
            kind = datatype_of(said)
            if len(said) < 100:
                self._kinds[said] = kind
        if not kind.known or kind.name not in ITEMSIZE:
            raise Unreadable(f"holds {kind.name} values, expected numbers")
        if kind.name == "bfloat16":
            self._is_bfloat16(messages)
        shape = shape_of(found[DATASPACE])
        if shape is None:
            raise Unreadable("has no values")
        layout = layout_of(found[LAYOUT], len(shape), kind.size)
        filters = filters_of(found[FILTERS]) if FILTERS in found else ()
        return self._placed(path, shape, kind, layout, filters)

    def _is_bfloat16(self, messages: Sequence[Message]) -> None:
        """Refuse two opaque bytes that say they are something else; legacy files forget to say what they are."""
        said = attributes_of(self._file, messages).get("dtype")
        if said is not None and (text := value_of(said, self._texts)) not in ("bfloat16", b"bfloat16"):
            raise Unreadable(f"holds opaque values said to be {str(text)[:40]!r}, which graftwork does not know")

    def _placed(
        self,
        path: str,
        shape: tuple[int, ...],
        kind: Datatype,
        layout: Layout,
        filters: tuple[int, ...],
    ) -> Dataset:
        """Return a dataset after checking that its values can be where they are said to be."""
        nbytes, length = math.prod(shape) * kind.size, self._file.length
        assert kind.numpy is not None
        plain = kind.size == 1 or kind.numpy.byteorder != ">"
        if not nbytes:
            return Dataset(path, shape, kind.name, 0)
        if layout.chunk is not None:
            chunk_bytes = math.prod(layout.chunk) * kind.size
            if chunk_bytes > MAX_CHUNK_BYTES:
                raise Unreadable(f"has chunks of {chunk_bytes:,} bytes; more than {MAX_CHUNK_BYTES:,} are not read")
            count = math.prod(-(-n // c) for n, c in zip(shape, layout.chunk, strict=True))
            if count > length // 32 or count > MAX_CHUNKS or nbytes > SMALL + MAX_EXPANSION * length:
                raise Unreadable(f"claims {nbytes:,} bytes of values in a file of {length:,}")
        elif filters:
            raise damaged("it has filters but no chunks")
        elif layout.inside is not None:
            if layout.size != nbytes:
                raise Unreadable(f"should have {nbytes:,} bytes of values but {layout.size:,} are stored")
        elif layout.address == UNDEFINED or layout.size != nbytes:
            stored = 0 if layout.address == UNDEFINED else layout.size
            raise Unreadable(f"should have {nbytes:,} bytes of values but {stored:,} are stored")
        elif layout.address + nbytes > length:
            raise Unreadable(
                f"should lie in bytes {layout.address:,} to {layout.address + nbytes:,}, but the file has {length:,}"
            )
        elif plain:
            return Dataset(path, shape, kind.name, self._file.begin + layout.address)
        self._pieces[path] = _Pieces(kind.numpy, layout, filters)
        return Dataset(path, shape, kind.name, None)

    def _refuse_overlaps(self) -> None:
        begin = self._file.begin
        ranges = [(d.offset - begin, d.nbytes) for d in self.datasets.values() if d.offset is not None and d.nbytes]
        ranges += [
            (p.layout.address, self.datasets[path].nbytes)
            for path, p in self._pieces.items()
            if p.layout.chunk is None and p.layout.inside is None
        ]
        if (found := self._file.overlap(ranges)) is None:
            return
        at = {d.offset - begin: p for p, d in self.datasets.items() if d.offset is not None and d.nbytes}
        names = [f"dataset {_short(at[place])}" if place in at else f"what lies at byte {place:,}" for place in found]
        raise StoreError(f"{names[0]} and {names[1]} of {self.label} overlap")

    # Values ------------------------------------------------------------------------------------------------------

    def extent(self, path: str) -> Extent | None:
        """Return where a dataset's values lie, or None when they must be put together."""
        found = self.datasets[path]
        return None if found.offset is None else Extent(self.fd, found.offset, found.nbytes)

    def read_into(self, path: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a dataset from flat position `start` on."""
        found = self.datasets[path]
        if not len(out):
            return
        if found.offset is not None:
            pread_full(self.fd, out, found.offset + start * ITEMSIZE[found.dtype], self.path)
            return
        with _refusing(f"dataset {_short(path)} of {self.label}"):
            pieces = self._pieces[path]
            if pieces.layout.chunk is not None:
                self._read_chunks(path, found.shape, pieces, start, out)
                return
            if pieces.layout.inside is not None:
                itemsize = pieces.dtype.itemsize
                inside = pieces.layout.inside[start * itemsize : (start + len(out)) * itemsize]
                out.data.cast("B")[:] = inside
            else:
                offset = self._file.begin + pieces.layout.address + start * pieces.dtype.itemsize
                pread_full(self.fd, out, offset, self.path)
            if pieces.dtype.byteorder == ">":
                out.byteswap(inplace=True)

    def _read_chunks(self, path: str, shape: tuple[int, ...], pieces: _Pieces, start: int, out: Raw) -> None:
        chunk = pieces.layout.chunk
        assert chunk is not None
        done = 0
        for low, high in _boxes(shape, start, start + len(out)):
            size = tuple(h - b for b, h in zip(low, high, strict=True))
            box = out[done : done + math.prod(size)].reshape(size)
            done += box.size
            first = [b // c for b, c in zip(low, chunk, strict=True)]
            last = [-(-h // c) for h, c in zip(high, chunk, strict=True)]
            for place in itertools.product(*map(range, first, last)):
                values = np.frombuffer(self._chunk(path, shape, pieces, place), pieces.dtype).reshape(chunk)
                ends = list(zip(place, chunk, low, high, strict=True))
                inner = tuple(slice(max(b - p * c, 0), min(h - p * c, c)) for p, c, b, h in ends)
                outer = tuple(slice(max(p * c - b, 0), min((p + 1) * c, h) - b) for p, c, b, h in ends)
                box[outer] = values[inner].view(out.dtype.newbyteorder(pieces.dtype.byteorder))

    def _chunk(self, path: str, shape: tuple[int, ...], pieces: _Pieces, place: tuple[int, ...]) -> bytes:
        """Return a chunk's values; the last ones used are kept."""
        key = (path, place)
        with self._lock:
            if (values := self._inflated.pop(key, None)) is not None:
                self._inflated[key] = values
                return values
        assert pieces.layout.chunk is not None
        size = math.prod(pieces.layout.chunk) * pieces.dtype.itemsize
        with self._lock:
            if pieces.chunks is None:
                pieces.chunks = chunks_of(self._file, pieces.layout, shape, size, filtered=bool(pieces.filters))
        found = pieces.chunks[place]
        stored = np.empty(found.size, np.uint8)
        pread_full(self.fd, stored, self._file.begin + found.address, self.path)
        values = unfiltered(stored.tobytes(), pieces.filters, found.mask, size, pieces.dtype.itemsize)
        with self._lock:
            self._inflated[key] = values
            kept = sum(map(len, self._inflated.values()))
            while kept > KEPT_BYTES and len(self._inflated) > 1:
                kept -= len(self._inflated.pop(next(iter(self._inflated))))
        return values

    # Attributes --------------------------------------------------------------------------------------------------

    def text_attribute(self, path: str, name: str) -> str | None:
        """Return an attribute of a group or dataset as text, or None where there is none."""
        value = self.attribute(path, name)
        if isinstance(value, bytes):
            try:
                return value.decode("utf-8")
            except UnicodeDecodeError as error:
                raise StoreError(f"attribute {name!r} of {_short(path)} in {self.label} is not UTF-8") from error
        return value if isinstance(value, str) else None

    def attribute(self, path: str, name: str) -> Any:
        """Return an attribute's value as h5py gives it, or None where there is none."""
        found = self._attributes_of(path).get(name)
        if found is None:
            return None
        with _refusing(f"attribute {_short(name)} of {_short(path)} in {self.label}"):
            value = value_of(found, self._texts)
        if isinstance(value, Nothing):
            import h5py

            return h5py.Empty(value.dtype)
        return value

    def attribute_names(self, path: str) -> list[str]:
        """Return the names of a group's attributes, sorted."""
        return sorted(self._attributes_of(path))

    def _attributes_of(self, path: str) -> Mapping[str, Attribute]:
        kept = self._attributes
        if kept is not None and kept[0] == path:
            return kept[1]
        address = self.groups[path] if path in self.groups else self._headers.get(path)
        if address is None:
            return {}
        with _refusing(f"{_short(path)} of {self.label}" if path else self.label):
            found = attributes_of(self._file, messages_of(self._file, address))
        self._attributes = (path, found)
        return found


def has_attribute(path: Path, group: str, names: Sequence[str]) -> bool | None:
    """Return whether a group of an HDF5 file, or the root where there is no such group, has an attribute of one of these names.

    It looks at the root's links and at two object headers, whatever else the file holds. A file that cannot be read so far gives None.
    """
    try:
        fd = open_fd(path)
    except StoreError:
        return None
    try:
        file = H5File(fd, 0, os.fstat(fd).st_size)
        messages = messages_of(file, file.root)
        address = dict(links_of(file, messages, MAX_OBJECTS, claim=True)).get(group.encode(), -1)
        found = attributes_of(file, messages_of(file, address) if address >= 0 else messages)
    except WRONG:
        return None
    finally:
        os.close(fd)
    return any(name in found for name in names)


def _short(path: str) -> str:
    """Return a path in quotes, its middle left out if it would fill the screen."""
    return repr(path if len(path) <= 160 else f"{path[:80]}…{path[-60:]}")


WRONG = (Unreadable, struct.error, IndexError, OSError)
"""What reading structures may end in."""


def _refusal(what: str, error: Exception) -> StoreError:
    """Return an error of ours that says what is wrong with `what`."""
    if isinstance(error, Unreadable):
        return StoreError(f"{what} {error}")
    if isinstance(error, OSError):
        return StoreError(f"{what} cannot be read: {error.strerror or brief(error)}")
    return StoreError(f"{what} is damaged: a structure is shorter than it should be")


@contextlib.contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turn what is wrong with a structure into an error of ours that names `what`."""
    try:
        yield
    except WRONG as error:
        raise _refusal(what, error) from error


def _boxes(shape: Sequence[int], start: int, stop: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield the boxes (lowest corner, corner after the highest) that flat positions [start, stop) of an array are, in order."""
    if not shape:
        yield (), ()
        return
    inner = math.prod(shape[1:])
    row, column = divmod(start, inner)
    last, rest = divmod(stop, inner)
    if column:
        end = rest if row == last else inner
        for low, high in _boxes(shape[1:], column, end):
            yield (row, *low), (row + 1, *high)
        if row == last:
            return
        row += 1
    if row < last:
        yield (row, *[0] * (len(shape) - 1)), (last, *shape[1:])
    if rest:
        for low, high in _boxes(shape[1:], 0, rest):
            yield (last, *low), (last + 1, *high)


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
    import h5py

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
    import h5py

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

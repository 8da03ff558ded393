"""A TensorFlow checkpoint as it lies on the disk: an index, and data files that hold nothing but values.

::

    PREFIX.index                      a table (see `tf_table`): "" → header, name of a tensor → entry, and for each part of a
                                      partitioned tensor a key that `ordered_code` makes → entry
    PREFIX.data-00000-of-00003        values, little-endian, C order, where the entries say

Texts are stored as their lengths (varints), a masked CRC-32C of those (as uint32) and the texts; variants each as a length, a message and a
masked CRC-32C. Those are *opaque* here: copied byte for byte and never computed with. The CRC in an entry is of the bytes, save for
lengths, which count as numbers of fixed width.

None of what an index claims is believed before it is checked: sizes against shapes and files, entries against each other.
"""

import bisect
import itertools
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import google_crc32c

from graftwork.errors import StoreError
from graftwork.lazy import np
from graftwork.stores.base import Raw, pread_full
from graftwork.stores.crc import Pieces
from graftwork.stores.held import HeldFile
from graftwork.stores.ordered_code import PART, part_key
from graftwork.stores.tf_protos import WHOLE_AXIS, BundleEntry, BundleHeader, Slice
from graftwork.stores.tf_table import Table, mask
from graftwork.tensor import ITEMSIZE

SUFFIX = ".index"

DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
}
"""Our name of every element type that is read and written, by TensorFlow's number."""

CODES = {name: code for code, name in DTYPES.items()}

QUANTIZED = {11: "int8", 12: "uint8", 13: "int32", 15: "int16", 16: "uint16"}
"""The types of codes (``qint8`` …), which lie as integers do."""

STRING, RESOURCE, VARIANT = 7, 20, 21
OPAQUE = {STRING: "string", RESOURCE: "resource", VARIANT: "variant"}

OTHERS = {
    26: "float8_e4m3fnuz",
    27: "float8_e4m3b11fnuz",
    28: "float8_e5m2fnuz",
    29: "int4",
    30: "uint4",
    31: "int2",
    32: "uint2",
}
"""Types that are refused, by their names."""

MAX_SHARDS = 100_000
MAX_PARTS = 10_000
LEAST_CHECKED = 4096
"""Blocks smaller than that are not added up to a tensor's CRC, save its last."""
PIECE = 1 << 22


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a tensor that lies in one range of bytes: where it begins on each axis, how long it is, and its entry."""

    begin: tuple[int, ...]
    shape: tuple[int, ...]
    entry: BundleEntry


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a checkpoint.

    Attributes:
        name: The key in the index.
        code: TensorFlow's number of its type.
        shape: Its shape.
        parts: Where its values lie; one part, unless it was partitioned.
        whole: Its own entry, which tells the parts of one that was partitioned.
    """

    name: str
    code: int
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    whole: BundleEntry

    @property
    def is_opaque(self) -> bool:
        """Whether its elements are texts or objects."""
        return self.code in OPAQUE

    @property
    def dtype(self) -> str:
        """Our name of its type."""
        return DTYPES.get(self.code) or QUANTIZED.get(self.code) or OPAQUE[self.code]


class Bundle:
    """Index and data files of a checkpoint, open for reading; from any thread.

    Args:
        index: Path of the ``.index``.

    Attributes:
        tensors: Every tensor by its key, in the order of the index.
        meta: What graftwork keeps in the index beside the entries.

    Raises:
        StoreError: If a file is missing or damaged, or something does not fit together.
    """

    def __init__(self, index: Path) -> None:
        self.path = index
        self.prefix = index.name.removesuffix(SUFFIX)
        self.tensors: dict[str, Stored] = {}
        self._index = HeldFile(index)
        self._shards: dict[int, HeldFile] = {}
        self._sums: dict[str, Pieces] = {}
        self._lock = threading.Lock()
        try:
            with self._index.descriptor() as fd:
                table = Table(fd, self._index.size, index)
                self.meta = table.meta()
                self._header, entries = self._entries(table)
            self._open_shards(entries)
            self._gather(entries)
        except BaseException:
            self.close()
            raise

    def _entries(self, table: Table) -> tuple[BundleHeader, dict[bytes, BundleEntry]]:
        items = table.items()
        key, value = next(items, (b"?", b""))
        if key:
            raise StoreError(f"{self.path.name} does not begin with the header of a TensorFlow checkpoint")
        try:
            header = BundleHeader.parse(value)
        except ValueError as error:
            raise StoreError(f"the header of {self.path.name} is damaged: {error}") from error
        if header.big_endian:
            raise StoreError(
                f"{self.path.name} was written on a big-endian machine, which graftwork does not read; "
                "let TensorFlow restore and save it on this one"
            )
        if header.min_consumer > 1:
            raise StoreError(f"{self.path.name} asks for version {header.min_consumer} of its format, known is 1")
        if not 0 < header.num_shards <= MAX_SHARDS:
            raise StoreError(f"{self.path.name} claims {header.num_shards:,} data files, expected 1 to {MAX_SHARDS:,}")
        entries = {}
        for key, value in items:
            try:
                entries[key] = BundleEntry.parse(value)
            except ValueError as error:
                raise StoreError(f"the entry of {key[:80]!r} in {self.path.name} is damaged: {error}") from error
        return header, entries

    def _open_shards(self, entries: Mapping[bytes, BundleEntry]) -> None:
        """Open every data file that an entry names, and compare the ranges that they claim with the files and each other."""
        found: dict[int, list[tuple[int, int, bytes]]] = {}
        for key, entry in entries.items():
            if not entry.slices:
                found.setdefault(entry.shard, []).append((entry.offset, entry.size, key))
        count = self._header.num_shards
        for shard in sorted(found):
            if shard >= count:
                raise StoreError(
                    f"{self.path.name} places {found[shard][0][2][:80]!r} in data file {shard}, of {count} in all"
                )
            file = self.path.with_name(f"{self.prefix}.data-{shard:05}-of-{count:05}")
            if not file.exists():
                raise StoreError(f"{self.path.name} refers to the data file {file.name}, which is not there")
            self._shards[shard] = held = HeldFile(file)
            at, before = 0, b""
            for offset, size, key in sorted(found[shard]):
                if offset + size > held.size:
                    raise StoreError(
                        f"{key[:80]!r} of {self.path.name} lies at {offset:,} to {offset + size:,} of {file.name}, which has "
                        f"{held.size:,} bytes; it was cut short or belongs to another checkpoint"
                    )
                if offset < at and size:
                    raise StoreError(f"{key[:80]!r} and {before[:80]!r} of {self.path.name} overlap in {file.name}")
                if size:
                    at, before = offset + size, key

    def _gather(self, entries: Mapping[bytes, BundleEntry]) -> None:
        parts_of = {
            part_key(key, part): key
            for key, entry in entries.items()
            for part in entry.slices
            if len(entry.slices) <= MAX_PARTS
        }
        for key, entry in entries.items():
            if key in parts_of:
                continue
            where = f"tensor {key[:200]!r} of {self.path.name}"
            if key.startswith(PART):
                raise StoreError(f"{where} is called as a part of a partitioned tensor, but no tensor has this part")
            try:
                name = key.decode("utf-8")
            except UnicodeDecodeError as error:
                raise StoreError(f"{where} has a name that is not Unicode text") from error
            self._check_type(entry, where)
            parts = self._parts(key, entry, entries, where) if entry.slices else (_whole(entry),)
            for part in parts:
                self._check_size(part.entry, where)
            self.tensors[name] = Stored(name, entry.dtype, entry.shape, parts, entry)

    def _check_type(self, entry: BundleEntry, where: str) -> None:
        if entry.dtype not in DTYPES and entry.dtype not in QUANTIZED and entry.dtype not in OPAQUE:
            kind = OTHERS.get(entry.dtype, f"number {entry.dtype} of TensorFlow's")
            raise StoreError(
                f"{where} has elements of type {kind}; graftwork reads {', '.join(DTYPES.values())} and quantized integers"
            )

    def _check_size(self, entry: BundleEntry, where: str) -> None:
        count = math.prod(entry.shape)
        if entry.dtype in OPAQUE:
            if count > entry.size:
                raise StoreError(f"{where} has the shape {entry.shape}, but its values take {entry.size:,} bytes")
            return
        wanted = count * ITEMSIZE[DTYPES.get(entry.dtype) or QUANTIZED[entry.dtype]]
        if entry.size != wanted:
            raise StoreError(
                f"{where} has the shape {entry.shape}, which takes {wanted:,} bytes, but the index says {entry.size:,}"
            )

    def _parts(
        self, key: bytes, entry: BundleEntry, entries: Mapping[bytes, BundleEntry], where: str
    ) -> tuple[Part, ...]:
        """Return the parts of a partitioned tensor, which fill it without holes and overlaps."""
        if len(entry.slices) > MAX_PARTS:
            raise StoreError(f"{where} has {len(entry.slices):,} parts, more than the {MAX_PARTS:,} that it may have")
        parts = []
        for part in entry.slices:
            found = entries.get(part_key(key, part))
            shown = _shown(part)
            if found is None:
                raise StoreError(f"{where} has no entry for its part {shown}")
            if len(part) != len(entry.shape):
                raise StoreError(f"{where} has the shape {entry.shape}, but a part {shown}")
            begin = tuple(start for start, _ in part)
            shape = tuple(
                size if length == WHOLE_AXIS else length for size, (_, length) in zip(entry.shape, part, strict=True)
            )
            if any(b < 0 or n < 0 or b + n > size for b, n, size in zip(begin, shape, entry.shape, strict=True)):
                raise StoreError(f"the part {shown} of {where} lies outside of its shape {entry.shape}")
            if found.slices or found.dtype != entry.dtype or found.shape != shape:
                raise StoreError(
                    f"the part {shown} of {where} is of another shape or type: {found.shape}, number {found.dtype}"
                )
            parts.append(Part(begin, shape, found))
        filled, size = sum(math.prod(part.shape) for part in parts), math.prod(entry.shape)
        if filled != size or _overlap([part for part in parts if math.prod(part.shape)]):
            raise StoreError(
                f"the {len(parts)} parts of {where} have {filled:,} elements together, and do not fill its shape "
                f"{entry.shape} without holes and overlaps"
            )
        return tuple(parts)

    @property
    def files(self) -> tuple[Path, ...]:
        """Index and data files."""
        return (self.path, *(file.path for file in self._shards.values()))

    @property
    def size_bytes(self) -> int:
        """Their sizes added up."""
        return self._index.size + sum(file.size for file in self._shards.values())

    # Reading

    def read_into(self, tensor: Stored, start: int, out: Raw) -> None:
        """Fill `out` with elements of a tensor from flat position `start` on.

        When the last byte of an unpartitioned tensor has been read, in whatever order, its CRC is compared.

        Raises:
            StoreError: If a file has become shorter, or a tensor's values are not those that its CRC promises.
        """
        if len(tensor.parts) > 1:
            for part in tensor.parts:
                self._read_part(tensor, part, start, out)
            return
        entry = tensor.parts[0].entry
        file = self._shards[entry.shard]
        with file.descriptor() as fd:
            pread_full(fd, out, entry.offset + start * out.itemsize, file.path)
        begin = start * out.itemsize
        if out.nbytes >= LEAST_CHECKED or begin + out.nbytes == entry.size:
            self._add_up(tensor, begin, out)

    def _add_up(self, tensor: Stored, begin: int, out: Raw) -> None:
        entry = tensor.parts[0].entry
        crc = google_crc32c.value(out.view(np.uint8))
        with self._lock:
            pieces = self._sums.get(tensor.name)
            if pieces is None:
                pieces = self._sums[tensor.name] = Pieces(entry.size)
            whole = pieces.add(begin, out.nbytes, crc)
        if whole is not None and mask(whole) != entry.crc:
            raise self._damaged(tensor, entry)

    def _damaged(self, tensor: Stored, entry: BundleEntry) -> StoreError:
        return StoreError(
            f"tensor {tensor.name!r} in {self._shards[entry.shard].path.name} does not have the values that its CRC in "
            f"{self.path.name} promises; the file is damaged or belongs to another checkpoint"
        )

    def _read_part(self, tensor: Stored, part: Part, start: int, out: Raw) -> None:
        """Fill those elements of `out` that lie in a part: runs that are contiguous in the part and in the tensor."""
        runs = _Runs(tensor.shape, part)
        first = bisect.bisect_right(range(runs.count), start, key=lambda run: runs.place(run) + runs.length)
        last = bisect.bisect_left(range(runs.count), start + out.size, key=runs.place)
        file = self._shards[part.entry.shard]
        with file.descriptor() as fd:
            if runs.length * out.itemsize >= LEAST_CHECKED:
                for run in range(first, last):
                    place = runs.place(run)
                    begin, end = max(place, start), min(place + runs.length, start + out.size)
                    offset = part.entry.offset + (run * runs.length + begin - place) * out.itemsize
                    pread_full(fd, out[begin - start : end - start], offset, file.path)
            elif first < last:
                found = np.empty((last - first) * runs.length, out.dtype)
                pread_full(fd, found, part.entry.offset + first * runs.length * out.itemsize, file.path)
                places = np.array([runs.place(run) for run in range(first, last)], np.int64)
                flat = (places[:, None] + np.arange(runs.length)).reshape(-1) - start
                inside = (flat >= 0) & (flat < out.size)
                out[flat[inside]] = found[inside]

    def pieces(self, entry: BundleEntry) -> Iterator[bytes]:
        """Yield all bytes of an entry, a few megabytes at a time."""
        file = self._shards[entry.shard]
        for begin in range(0, entry.size, PIECE):
            found = bytearray(min(PIECE, entry.size - begin))
            with file.descriptor() as fd:
                pread_full(fd, found, entry.offset + begin, file.path)
            yield bytes(found)

    def bytes_of(self, tensor: Stored, limit: int) -> bytes:
        """Return the only text of a tensor.

        Raises:
            StoreError: If it has more, is longer than `limit`, or is damaged.
        """
        entry = tensor.parts[0].entry
        if tensor.code != STRING or tensor.shape or len(tensor.parts) != 1 or entry.size > limit:
            raise StoreError(
                f"{tensor.name!r} of {self.path.name} is {tensor.dtype} {tensor.shape} of {entry.size:,} bytes, "
                f"expected one text of at most {limit:,}"
            )
        texts = _Texts(self.pieces(entry), keep=True)
        crc = texts.skip_strings(1)
        if crc is None or mask(crc) != entry.crc or texts.left:
            raise self._damaged(tensor, entry)
        return texts.last

    def check(self) -> None:
        """Compare all values with their CRCs.

        Raises:
            StoreError: If some differ.
        """
        for tensor in self.tensors.values():
            for part in tensor.parts:
                crc = self.crc_of(part.entry)
                if crc is None or mask(crc) != part.entry.crc:
                    raise self._damaged(tensor, part.entry)

    def crc_of(self, entry: BundleEntry) -> int | None:
        """Return the CRC-32C of an entry's values as TensorFlow computes it, None where texts are not well formed."""
        if entry.dtype not in OPAQUE:
            crc = 0
            for piece in self.pieces(entry):
                crc = google_crc32c.extend(crc, piece)
            return crc
        texts, count = _Texts(self.pieces(entry)), math.prod(entry.shape)
        found = texts.skip_strings(count) if entry.dtype == STRING else texts.skip_variants(count)
        return None if texts.left else found

    def close(self) -> None:
        """Close every file; closing twice does nothing."""
        self._index.close()
        for file in self._shards.values():
            file.close()


class _Texts:
    """Reads texts and variants from pieces of bytes, adding up their CRC.

    Attributes:
        last: The text that was read last, if it is to be kept.
    """

    def __init__(self, pieces: Iterator[bytes], *, keep: bool = False) -> None:
        self._pieces, self._piece, self._at = pieces, b"", 0
        self._keep = keep
        self._crc = 0
        self._damaged = False
        self.last = b""

    def skip_strings(self, count: int) -> int | None:
        lengths = [self._length() for _ in range(count) if not self._damaged]
        for length in lengths:
            self._extend(length.to_bytes(4 if length < 1 << 32 else 8, "little"))
        self._check()
        for length in lengths:
            self._text(length)
        return None if self._damaged else self._crc

    def skip_variants(self, count: int) -> int | None:
        for _ in range(count):
            if self._damaged:
                break
            length = self._length()
            self._extend(length.to_bytes(8, "little"))
            self._text(length)
            self._check()
        return None if self._damaged else self._crc

    @property
    def left(self) -> bool:
        """Whether there is more behind what was read."""
        return bool(self._take(1))

    def _take(self, most: int) -> bytes:
        while self._at == len(self._piece):
            self._piece, self._at = next(self._pieces, b""), 0
            if not self._piece:
                return b""
        found = self._piece[self._at : self._at + most]
        self._at += len(found)
        return found

    def _length(self) -> int:
        value = shift = 0
        while shift <= 63:
            byte = self._take(1)
            if not byte:
                break
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                if value < 1 << 64:
                    return value
                break
            shift += 7
        self._damaged = True
        return 0

    def _text(self, length: int) -> None:
        self.last = b""
        while length:
            piece = self._take(length)
            if not piece:
                self._damaged = True
                return
            self._extend(piece)
            if self._keep:
                self.last += piece
            length -= len(piece)

    def _check(self) -> None:
        """Compare the CRC so far with the one that follows, which counts itself from there on."""
        found = b""
        while len(found) < 4:
            piece = self._take(4 - len(found))
            if not piece:
                break
            found += piece
        if mask(self._crc).to_bytes(4, "little") != found:
            self._damaged = True
        self._extend(found)

    def _extend(self, data: bytes) -> None:
        self._crc = google_crc32c.extend(self._crc, data)


class _Runs:
    """The runs of a part that are contiguous in the tensor, in the order of both.

    Attributes:
        length: Elements of a run.
        count: How many there are.
    """

    def __init__(self, shape: Sequence[int], part: Part) -> None:
        cut = next((axis for axis in range(len(shape) - 1, -1, -1) if part.shape[axis] != shape[axis]), 0)
        self._strides = [math.prod(shape[axis + 1 :]) for axis in range(cut + 1)]
        self._outer = part.shape[:cut]
        self._begin = sum(b * s for b, s in zip(part.begin, self._strides, strict=False))
        self.length = part.shape[cut] * self._strides[cut]
        self.count = math.prod(self._outer) if self.length else 0

    def place(self, run: int) -> int:
        """Return the flat position of a run in the tensor."""
        at = self._begin
        for size, stride in zip(reversed(self._outer), reversed(self._strides[:-1]), strict=True):
            run, index = divmod(run, size)
            at += index * stride
        return at


def _whole(entry: BundleEntry) -> Part:
    return Part((0,) * len(entry.shape), entry.shape, entry)


def _overlap(parts: Sequence[Part]) -> bool:
    begins = np.array([part.begin for part in parts], np.int64)
    ends = begins + np.array([part.shape for part in parts], np.int64)
    return any(bool(((begins[:k] < ends[k]) & (begins[k] < ends[:k])).all(axis=1).any()) for k in range(1, len(parts)))


def _shown(part: Slice) -> str:
    text = ", ".join(":" if n == WHOLE_AXIS else f"{b}:{b + n}" for b, n in itertools.islice(part, 8))
    return f"[{text}{', …' if len(part) > 8 else ''}]"

"""The structures of an HDF5 file, read without libhdf5 and believed in nothing.

::

    superblock        at byte 0, 512, 1024 …: where the file ends, and the root group's object header
    object header     a list of messages, possibly continued elsewhere; the messages say what the object is
      group           either a symbol table (B-tree of nodes "TREE" over "SNOD", names in a local heap "HEAP"), or links: as messages,
                      or, when there are many, in a fractal heap "FRHP" that a version 2 B-tree "BTHD" lists
      dataset         dataspace, datatype, layout (in the header, one byte range, or chunks in a B-tree), filters
      attribute       a message with name, datatype, dataspace and value; texts of any length lie in a global heap "GCOL"

The reference is the HDF5 File Format Specification, version 3.0; the words are its own. libhdf5 reads all of it faster, and follows a
crafted file into crashes, endless loops and gigabytes. Here every range is checked against the file before it is read, no structure is
read twice, and all that is read is counted; so a file ends in an answer or in `Unreadable`, soon. What Keras files never use is
recognised well enough to be refused by name.

Addresses count from the superblock.
"""

import bisect
import math
import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from graftwork.lazy import np

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"

UNDEFINED: Final = (1 << 64) - 1
"""The address of what is not there."""

MAX_METADATA_BYTES: Final = 1 << 29
"""What is read of a file beside values, each read counted with `READ_COST` more; 200,000 objects need half of it."""

READ_COST: Final = 128
"""What a read, a message or an entry of a list costs, in bytes, however short: it bounds the time that many of nothing take."""

SUM_COST: Final = 16
"""What computing a checksum costs for each byte."""

MAX_HEADER_BYTES: Final = 1 << 26
"""One object's header with all its attributes."""

MAX_MESSAGES: Final = 1 << 16
"""Messages in one object's header; it counts them in 16 bits."""

MAX_NAME_BYTES: Final = 4096
"""A name of a link or an attribute."""

MAX_NAMES_BYTES: Final = 1 << 26
"""The names in one group."""

MAX_CHUNKS: Final = 1 << 20
"""Chunks of one dataset, whose places are kept in memory."""

MAX_VALUE_BYTES: Final = 1 << 26
"""The value of one attribute; `model_config` may be as long as a ``config.json``."""

MAX_ELEMENTS: Final = 1 << 56
"""Elements of one dataset or attribute, so that their bytes are a number that NumPy can hold."""

MAX_RANK: Final = 32
"""Axes of a dataspace; HDF5's own limit, and below NumPy's."""

# types of messages
DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL, LAYOUT = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08
GROUP_INFO, FILTERS, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE, ATTRIBUTE_INFO = 0x0A, 0x0B, 0x0C, 0x10, 0x11, 0x15

OF_GROUPS: Final = frozenset((SYMBOL_TABLE, LINK_INFO, LINK, GROUP_INFO))
OF_DATASETS: Final = frozenset((DATASPACE, DATATYPE, EXTERNAL, LAYOUT, FILTERS))

SHARED, MUST_KNOW = 0x02, 0x80
"""Flags of messages: the body lies elsewhere; a reader that does not know the type must give up."""

LAST_KNOWN: Final = 0x16

_PREFIX_1 = struct.Struct("<BBHII")
_MESSAGE_1 = struct.Struct("<HHB3x")
_MESSAGE_2 = struct.Struct("<BHB")
_MESSAGE_3 = struct.Struct("<BHB2x")
_TREE = struct.Struct("<4sBBHQQ")
_HEAP = struct.Struct("<4sB3xQQQ")
_SYMBOL = struct.Struct("<QQI20x")
_TWO = struct.Struct("<QQ")


class Unreadable(Exception):  # noqa: N818 - it is worded to follow a name
    """What is wrong with a file, as words that follow its name: ``is damaged: …``."""


def damaged(what: str) -> Unreadable:
    """Return the complaint that a file contradicts itself."""
    return Unreadable(f"is damaged: {what}")


class Message(NamedTuple):
    """One message of an object header."""

    kind: int
    flags: int
    body: bytes


class Pages:
    """A byte range of an open file, read in small pieces through pages that are kept.

    Args:
        fd: A descriptor; stays the caller's.
        begin: Where the range begins in the file.
        length: How long it is.
    """

    SIZE = 1 << 13
    KEPT = 1 << 12

    def __init__(self, fd: int, begin: int, length: int) -> None:
        self.fd, self.begin, self.length = fd, begin, length
        self._pages: dict[int, bytes] = {}
        self._left = MAX_METADATA_BYTES

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes at an address.

        Raises:
            Unreadable: If they are not all there, or too much has been read already.
        """
        if at < 0 or at + count > self.length:
            raise damaged(
                f"something should lie in bytes {at:,} to {at + count:,}, but the file ends at {self.length:,}"
            )
        self.spend(count + READ_COST)
        number, start = at >> 13, at & 0x1FFF
        page = self._pages.get(number)
        if page is None:
            page = self._load(number)
        if start + count <= len(page):
            return page[start : start + count]
        return self._read_long(at, count)

    def spend(self, size: int) -> None:
        """Count what is about to be looked at.

        Raises:
            Unreadable: If it is too much by now.
        """
        self._left -= size
        if self._left < 0:
            raise Unreadable("has more structures than any Keras model needs")

    def _load(self, number: int) -> bytes:
        if len(self._pages) >= self.KEPT:
            self._pages.clear()
        start = number << 13
        page = os.pread(self.fd, min(self.SIZE, self.length - start), self.begin + start)
        self._pages[number] = page
        return page

    def _read_long(self, at: int, count: int) -> bytes:
        out = bytearray(count)
        view, done = memoryview(out), 0
        while done < count:
            got = os.preadv(self.fd, [view[done:]], self.begin + at + done)
            if got <= 0:
                raise damaged(f"it ends at byte {at + done:,}")
            done += got
        return bytes(out)


class Superblock(NamedTuple):
    """What the beginning of a file says."""

    begin: int
    """Where it lies in the file: addresses count from here."""
    length: int
    root: int
    leaf_entries: int
    node_entries: int
    chunk_entries: int


def find_superblock(pages: Pages) -> Superblock:
    """Return a file's superblock, behind a user block of 512 · 2ᵏ bytes if there is one.

    Raises:
        Unreadable: If there is none, or the file is shorter than it says.
    """
    at = 0
    while at + 8 <= pages.length and pages.read(at, 8) != SIGNATURE:
        at = at * 2 or 512
    if at + 8 > pages.length:
        raise Unreadable("is not an HDF5 file: it does not begin as one")
    left = pages.length - at
    if left < 48:
        raise Unreadable("is not a readable HDF5 file: it ends in its superblock")
    version = pages.read(at + 8, 1)[0]
    if version > 3:
        raise Unreadable(f"has version {version} of HDF5's superblock, which graftwork does not know")
    leaf, node, chunk = 65535, 65535, 65535
    extra = 4 if version == 1 else 0
    if version < 2:
        if left < 96 + extra:
            raise Unreadable("is not a readable HDF5 file: it ends in its superblock")
        head = pages.read(at, 96 + extra)
        sizes = head[13], head[14]
        leaf, node = (2 * n for n in struct.unpack_from("<HH", head, 16))
        chunk = 2 * struct.unpack_from("<H", head, 24)[0] if extra else 64
        base, _, end, driver = struct.unpack_from("<QQQQ", head, 24 + extra)
        root = struct.unpack_from("<Q", head, 64 + extra)[0]
        if driver != UNDEFINED:
            raise Unreadable("is one of several files that form one HDF5 file, which graftwork does not read")
    else:
        head = pages.read(at, 48)
        sizes = head[9], head[10]
        if version == 3 and head[11] & 1:
            raise Unreadable("was not closed by the program that wrote it")
        base, _, end, root = struct.unpack_from("<QQQQ", head, 12)
        if sum_of(head[:44]) != int.from_bytes(head[44:], "little"):
            raise damaged("its superblock does not have the checksum that it should")
    if sizes != (8, 8):
        raise Unreadable(
            f"has addresses of {sizes[0]} and lengths of {sizes[1]} bytes; graftwork reads those of 8 only"
        )
    length = end - base
    if end == UNDEFINED or length < 48:
        raise damaged(f"its superblock says that it ends at byte {end:,}")
    if length > left:
        raise Unreadable(f"is cut short: it should have {at + length:,} bytes but has {pages.length:,}")
    return Superblock(at, length, root, leaf, node, chunk)


def sum_of(data: bytes) -> int:
    """Return the checksum of HDF5's newer structures: Bob Jenkins' lookup3, starting from 0."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(data)) & mask
    whole = max(len(data) - 1, 0) // 12 * 12
    for x, y, z in struct.iter_unpack("<III", data[:whole]):
        a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
        a = ((a - c) & mask) ^ (c << 4 & mask | c >> 28)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 6 & mask | a >> 26)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 8 & mask | b >> 24)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ (c << 16 & mask | c >> 16)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ (a << 19 & mask | a >> 13)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ (b << 4 & mask | b >> 28)
        b = (b + a) & mask
    if not data:
        return c
    x, y, z = struct.unpack("<III", data[whole:].ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    c = ((c ^ b) - (b << 14 & mask | b >> 18)) & mask
    a = ((a ^ c) - (c << 11 & mask | c >> 21)) & mask
    b = ((b ^ a) - (a << 25 & mask | a >> 7)) & mask
    c = ((c ^ b) - (b << 16 & mask | b >> 16)) & mask
    a = ((a ^ c) - (c << 4 & mask | c >> 28)) & mask
    b = ((b ^ a) - (a << 14 & mask | a >> 18)) & mask
    total: int = ((c ^ b) - (b << 24 & mask | b >> 8)) & mask
    return total


class Datatype(NamedTuple):
    """A datatype as far as graftwork needs it.

    Attributes:
        name: A key of `graftwork.tensor.ITEMSIZE`; for what is no number, the word for it in messages.
        size: Bytes of an element in the file.
        numpy: How elements lie in the file; None for what NumPy cannot show.
        text: 0 for what is no text, 1 for texts of fixed and 2 for texts of any length.
        padding: How texts of fixed length end: 0 at a NUL, 1 filled with NUL, 2 filled with spaces.
        known: Whether tensors may have it.
    """

    name: str
    size: int
    numpy: "np.dtype[Any] | None" = None
    text: int = 0
    padding: int = 0
    known: bool = False


CLASSES: Final = (
    "integer", "float", "time", "text", "bit field", "opaque", "compound", "reference", "enumeration", "variable-length", "array",
    "complex",
)  # fmt: skip

IEEE: Final = {
    2: (15, (0, 16, 10, 5, 0, 10, 15)),
    4: (31, (0, 32, 23, 8, 0, 23, 127)),
    8: (63, (0, 64, 52, 11, 0, 52, 1023)),
}
"""Where sign, exponent and mantissa of a float lie, by its size."""


def datatype(body: bytes) -> Datatype:
    """Return what a datatype message says.

    Raises:
        Unreadable: If it contradicts itself.
    """
    first, bits, bits_8, _, size = struct.unpack_from("<BBBBI", body)
    version, number = first >> 4, first & 15
    if not 1 <= version <= 5 or number >= len(CLASSES) or not size:
        raise damaged(f"a datatype has version {version}, class {number} and {size} bytes")
    name = CLASSES[number]
    if number == 0:
        offset, precision = struct.unpack_from("<HH", body, 8)
        if size not in (1, 2, 4, 8) or offset or precision != 8 * size:
            return Datatype(f"{precision}-bit integer", size)
        kind = np.dtype(f"{'>' if bits & 1 else '<'}{'i' if bits & 8 else 'u'}{size}")
        return Datatype(kind.name, size, kind, known=True)
    if number == 1:
        fields = struct.unpack_from("<HHBBBBI", body, 8)
        if bits & 0x40 or bits & 0x30 != 0x20 or IEEE.get(size) != (bits_8, fields):
            return Datatype(f"{fields[1]}-bit float that is not IEEE's", size)
        kind = np.dtype(f"{'>' if bits & 1 else '<'}f{size}")
        return Datatype(kind.name, size, kind, known=True)
    if number == 3:
        return Datatype(
            name, size, np.dtype(f"S{size}") if size <= MAX_VALUE_BYTES else None, text=1, padding=bits & 15
        )
    if number == 5:
        kind = np.dtype(f"V{size}") if size <= MAX_VALUE_BYTES else np.dtype("V1")
        tagged = any(body[8 : 8 + bits])
        return Datatype("bfloat16" if size == 2 else name, size, None if tagged else kind, known=size == 2)
    if number == 8:
        return _enumeration(body, bits | bits_8 << 8, size, version)
    if number == 9 and bits & 15 == 1 and size == 16:
        return Datatype("text of any length", size, text=2)
    return Datatype(name, size)


def _enumeration(body: bytes, members: int, size: int, version: int) -> Datatype:
    """Return "bool" for h5py's way to write it, an enumeration over int8 of FALSE and TRUE."""
    if size == 1 and members == 2 and body[8] & 15 == 0 and body[9] & 8:
        at, names = 8 + 12, []
        for _ in range(2):
            end = body.find(b"\0", at)
            names.append(body[at:end])
            at = end + 1 if version >= 3 else at + (end - at + 8) // 8 * 8
        values = body[at : at + 2]
        if dict(zip(names, values, strict=False)) == {b"FALSE": 0, b"TRUE": 1}:
            return Datatype("bool", 1, np.dtype(bool), known=True)
    return Datatype("enumeration", size)


def dataspace(body: bytes) -> tuple[int, ...] | None:
    """Return the shape that a dataspace message says, None for one that holds nothing, not even an array without elements.

    Raises:
        Unreadable: If it contradicts itself.
    """
    version, rank, flags = body[0], body[1], body[2]
    if version not in (1, 2) or rank > MAX_RANK:
        raise damaged(f"a dataspace has version {version} and {rank} axes")
    if version == 2:
        if body[3] == 2:
            return None
        if body[3] > 2 or (body[3] == 0) != (rank == 0):
            raise damaged(f"a dataspace has {rank} axes and is of kind {body[3]}")
    elif flags & 2:
        raise damaged("a dataspace permutes its axes")
    shape: tuple[int, ...] = struct.unpack_from(f"<{rank}Q", body, 8 if version == 1 else 4)
    if math.prod(max(n, 1) for n in shape) >= MAX_ELEMENTS:  # NumPy minds a long axis even where another is 0
        raise damaged(f"a dataspace has the shape {shape}"[:120])
    return shape


class Chunk(NamedTuple):
    """Where one chunk lies, and which filters it left out."""

    address: int
    size: int
    mask: int


class Layout(NamedTuple):
    """Where a dataset's values lie.

    Attributes:
        address: Of one byte range, or of the index of chunks; `UNDEFINED` where nothing is stored.
        size: Bytes of the one range, or of the only chunk.
        inside: The values themselves, where they lie in the header.
        chunk: The shape of a chunk; None where there are none.
        listed: What lists the chunks: ``"tree"`` or ``"single"``.
        mask: Filters that the only chunk left out.
    """

    address: int
    size: int
    inside: bytes | None = None
    chunk: tuple[int, ...] | None = None
    listed: str = ""
    mask: int = 0


CHUNK_INDEXES: Final = {2: "implicit", 3: "fixed array", 4: "extensible array", 5: "version 2 B-tree"}


def layout(body: bytes, rank: int, itemsize: int) -> Layout:
    """Return what a data layout message says.

    Raises:
        Unreadable: If it contradicts itself or uses what Keras files do not.
    """
    version, kind = body[0], body[1]
    if version in (1, 2):
        raise Unreadable("is laid out as HDF5 before version 1.6.3 did it; save it again")
    if version not in (3, 4, 5):
        raise damaged(f"its layout has version {version}")
    if kind == 0:
        size = struct.unpack_from("<H", body, 2)[0]
        if 4 + size > len(body):
            raise damaged(f"its {size:,} bytes of values do not fit in its header")
        return Layout(UNDEFINED, size, inside=body[4 : 4 + size])
    if kind == 1:
        return Layout(*_TWO.unpack_from(body, 2))
    if kind == 3 and version > 3:
        raise Unreadable("keeps its values in other datasets, which graftwork does not follow")
    if kind != 2:
        raise damaged(f"its layout is of class {kind}")
    if version == 3:
        if body[2] != rank + 1:
            raise damaged(f"its chunks have {body[2] - 1} axes, but it has {rank}")
        *chunk, element = struct.unpack_from(f"<{rank + 1}I", body, 11)
        found = Layout(struct.unpack_from("<Q", body, 3)[0], 0, chunk=tuple(chunk), listed="tree")
    else:
        found, element = _layout_4(body, rank)
    if element != itemsize or not found.chunk or not all(found.chunk):
        raise damaged(f"its chunks have the shape {found.chunk} and elements of {element} bytes")
    return found


def _layout_4(body: bytes, rank: int) -> tuple[Layout, int]:
    flags, axes, width = body[2], body[3], body[4]
    if axes != rank + 1 or not 1 <= width <= 8:
        raise damaged(f"its chunks have {axes - 1} axes, but it has {rank}")
    at = 5 + axes * width
    if at + 9 > len(body):
        raise damaged("its layout is cut short")
    *chunk, element = (int.from_bytes(body[5 + i * width : 5 + (i + 1) * width], "little") for i in range(axes))
    index = body[at]
    if index != 1:
        raise Unreadable(
            f"lists its chunks in HDF5's newer way ({CHUNK_INDEXES.get(index, index)}), which graftwork does not read; "
            "save it again with h5py's default settings"
        )
    size, mask = struct.unpack_from("<QI", body, at + 1) if flags & 2 else (math.prod(chunk) * element, 0)
    address = struct.unpack_from("<Q", body, at + (13 if flags & 2 else 1))[0]
    return Layout(address, size, chunk=tuple(chunk), listed="single", mask=mask), element


DEFLATE, SHUFFLE, FLETCHER = 1, 2, 3

FILTER_NAMES: Final = {4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf", 32001: "blosc", 32015: "zstd"}


def filters(body: bytes) -> tuple[int, ...]:
    """Return the filters of a pipeline message in the order in which they were applied.

    Raises:
        Unreadable: If one of them is not deflate, shuffle or fletcher32, or comes twice.
    """
    version, count = body[0], body[1]
    if version not in (1, 2) or count > 32:
        raise damaged(f"its filters have version {version} and are {count}")
    at, found = 8 if version == 1 else 2, []
    for _ in range(count):
        number = struct.unpack_from("<H", body, at)[0]
        if number not in (DEFLATE, SHUFFLE, FLETCHER):
            name = f" ({FILTER_NAMES[number]})" if number in FILTER_NAMES else ""
            raise Unreadable(
                f"is stored with HDF5 filter {number}{name}, which graftwork does not know; save it again without compression"
            )
        if version == 1:
            length, _, values = struct.unpack_from("<HHH", body, at + 2)
            at += 8 + length + 4 * (values + values % 2)
        else:
            values = struct.unpack_from("<H", body, at + 4)[0]
            at += 6 + 4 * values
        found.append(number)
    if len(set(found)) != len(found):
        raise Unreadable("applies one filter twice, which no Keras file does")
    return tuple(found)


def unfiltered(data: bytes, applied: Sequence[int], mask: int, size: int, itemsize: int) -> bytes:
    """Return a chunk's `size` bytes from what is stored of it.

    Raises:
        Unreadable: If they are not as many, or a checksum differs.
    """
    used = [number for i, number in enumerate(applied) if not mask >> i & 1]
    for i in reversed(range(len(used))):
        number = used[i]
        if number == FLETCHER:
            if len(data) < 4 or not _fletcher_holds(data):
                raise damaged("a chunk does not have the checksum that it should")
            data = data[:-4]
        elif number == SHUFFLE:
            whole = len(data) // itemsize * itemsize
            planes = np.frombuffer(data, np.uint8, whole).reshape(itemsize, -1)
            data = planes.T.tobytes() + data[whole:]
        else:
            data = _inflated(data, size + 4 * used[:i].count(FLETCHER))
    if len(data) != size:
        raise damaged(f"a chunk has {len(data):,} bytes of values instead of {size:,}")
    return data


def _inflated(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(data, size)
        if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
            raise damaged(f"a chunk expands to more than its {size:,} bytes")
    except zlib.error as error:
        raise damaged(f"a chunk cannot be expanded ({error})") from error
    if not stream.eof:
        raise damaged("a chunk's compressed bytes end early")
    return found


def _fletcher_holds(data: bytes) -> bool:
    """Compare Fletcher's checksum, modulo 65535, over big-endian words."""
    body = data[:-4]
    if len(body) % 2:
        body += b"\0"
    words = np.frombuffer(body, ">u2")
    low, high, step = 0, 0, 1 << 16
    for start in range(0, len(words), step):
        part = words[start : start + step].astype(np.uint64)
        high += len(part) * low + int((part * np.arange(len(part), 0, -1, dtype=np.uint64)).sum())
        low += int(part.sum())
    stored = int.from_bytes(data[-4:], "little")
    return (low - (stored & 0xFFFF)) % 65535 == 0 and (high - (stored >> 16)) % 65535 == 0


def texts_dtype() -> "np.dtype[Any]":
    """Return what h5py calls `string_dtype()`: it tells h5py how to write an array, even of no texts."""
    return np.dtype("O", metadata={"vlen": str})


class Attribute(NamedTuple):
    """An attribute as its message holds it."""

    kind: bytes
    space: bytes
    value: bytes
    shared: bool


class Structures:
    """An HDF5 file, structure by structure.

    Args:
        fd: A descriptor; stays the caller's.
        begin: Where the HDF5 file, or its user block, begins in the file.
        length: How many bytes there are.

    Attributes:
        begin: Where the superblock lies in the file; addresses count from here.
        length: Where the file ends, as an address.
        root: Address of the root group's object header.
        claimed: Addresses of structures that have been read.

    Raises:
        Unreadable: If it is not an HDF5 file.
    """

    def __init__(self, fd: int, begin: int, length: int) -> None:
        self._superblock = found = find_superblock(Pages(fd, begin, length))
        self.begin, self.length, self.root = begin + found.begin, found.length, found.root
        self.pages = Pages(fd, self.begin, self.length)
        self.claimed: set[int] = set()
        self._ranges = array("Q", (0, 48))
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def claim(self, at: int, size: int) -> None:
        """Note that a structure lies in a byte range; none may lie there already."""
        if at in self.claimed or at + size > self.length:
            raise damaged(f"two things lie at byte {at:,}, or it is outside the file")
        self.claimed.add(at)
        self._ranges.append(at)
        self._ranges.append(at + size)

    def overlap(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
        """Return the begins of two ranges that overlap, among those given, as (address, bytes), and all structures; None for none."""
        pairs = np.frombuffer(self._ranges, np.uint64).reshape(-1, 2).astype(np.int64)
        if ranges:
            more = np.array(ranges, np.int64).reshape(-1, 2)
            pairs = np.concatenate([pairs, np.stack([more[:, 0], more[:, 0] + more[:, 1]], axis=1)])
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        bad = np.flatnonzero(pairs[1:, 0] < pairs[:-1, 1])
        return (int(pairs[bad[0], 0]), int(pairs[bad[0] + 1, 0])) if len(bad) else None

    # Object headers ----------------------------------------------------------------------------------------------

    def messages(self, address: int, *, claim: bool = False) -> list[Message]:
        """Return the messages of the object header at an address, continuations followed, empty messages left out.

        Args:
            address: Where the header begins.
            claim: Whether to claim its ranges; the first visit does.
        """
        form, start, size = self._first_block(address, claim)
        found: list[Message] = []
        blocks, seen, total = [(start, size)], {start}, 0
        for start, size in blocks:  # grows while it is walked
            total += size
            if total > MAX_HEADER_BYTES or len(found) > MAX_MESSAGES:
                raise Unreadable(f"has an object header of more than {MAX_HEADER_BYTES:,} bytes at byte {address:,}")
            for at, length in self._parse(self.pages.read(start, size), found, form):
                if at in seen:
                    raise damaged(f"the object header at byte {address:,} continues in itself")
                seen.add(at)
                if claim:
                    self.claim(at, length)
                if form is not _MESSAGE_1:
                    self._check_newer(at, length, b"OCHK")
                    at, length = at + 4, length - 8
                blocks.append((at, length))
        for message in found:
            if message.kind > LAST_KNOWN and message.flags & MUST_KNOW:
                raise Unreadable(f"has an object with a message of type {message.kind}, which graftwork does not know")
        return found

    def _first_block(self, address: int, claim: bool) -> tuple[struct.Struct, int, int]:
        """Return how messages of an object header begin, and address and length of its first block of them."""
        head = self.pages.read(address, 16)
        if head[0] == 1:
            size = _PREFIX_1.unpack_from(head)[4]
            if claim:
                self.claim(address, 16 + size)
            return _MESSAGE_1, address + 16, size
        if head[:5] != b"OHDR\x02":
            raise damaged(f"there should be an object at byte {address:,}, but there is none")
        flags = head[5]
        begin = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        size = int.from_bytes(self.pages.read(begin, width), "little")
        length = begin + width + size + 4 - address
        self._check_newer(address, length, b"OHDR")
        if claim:
            self.claim(address, length)
        return _MESSAGE_3 if flags & 4 else _MESSAGE_2, begin + width, size

    def _check_newer(self, at: int, length: int, signature: bytes) -> None:
        """Check signature and checksum of a piece of a version 2 object header."""
        data = self.pages.read(at, length) if 8 <= length <= MAX_HEADER_BYTES else b""
        if data[:4] != signature or not self._sum_holds(data):
            raise damaged(f"there should be part of an object at byte {at:,}, but there is none")

    def _parse(self, block: bytes, found: list[Message], form: struct.Struct) -> list[tuple[int, int]]:
        """Add a block's messages; return its continuations."""
        at, end, before = 0, len(block) - form.size + 1, form.size
        left, continuations = MAX_MESSAGES, []
        unpack = form.unpack_from
        while at < end:
            kind, size, flags = unpack(block, at)
            at += before
            if at + size > len(block):
                raise damaged("a message is longer than the object header that holds it")
            if kind == CONTINUATION:
                continuations.append(_TWO.unpack_from(block, at))
            elif kind:
                found.append(Message(kind, flags, block[at : at + size]))
            at += size
            left -= 1
            if not left:
                raise Unreadable(f"has an object header of more than {MAX_MESSAGES:,} messages")
        self.pages.spend((MAX_MESSAGES - left) * READ_COST)
        return continuations

    # Groups ------------------------------------------------------------------------------------------------------

    def links(self, messages: Sequence[Message], most: int, *, claim: bool = False) -> list[tuple[bytes, int]]:
        """Return the links of a group as (name, address of the object), by name; -1 for a link that is soft or external.

        Args:
            messages: Those of the group's object header.
            most: How many there may be; one more, and the list ends.
            claim: Whether to claim what is read; the first visit does.
        """
        found: list[tuple[bytes, int]] = []
        for message in messages:
            if message.kind in (SYMBOL_TABLE, LINK_INFO, LINK) and message.flags & SHARED:
                raise damaged("a group's links lie in another object")
            if message.kind == SYMBOL_TABLE:
                tree, heap = _TWO.unpack_from(message.body)
                self._symbols(tree, heap, found, most, claim)
            elif message.kind == LINK:
                found.append(link(message.body))
            elif message.kind == LINK_INFO:
                heap, tree = _TWO.unpack_from(message.body, 10 if message.body[1] & 1 else 2)
                if heap != UNDEFINED:
                    found.extend(link(body) for body, _ in self._heap_objects(heap, tree, 5, most, claim=claim))
        found.sort()
        return found

    def _symbols(self, tree: int, heap: int, found: list[tuple[bytes, int]], most: int, claim: bool) -> None:
        """Add the links of a symbol table."""
        names = b""
        read = self.pages.read
        for node in self._leaves(tree, most, claim):
            head = read(node, 8)
            count = head[6] | head[7] << 8
            if head[:5] != b"SNOD\x01" or count > self._superblock.leaf_entries:
                raise damaged(f"there should be a list of {count:,} symbols at byte {node:,}, but there is none")
            if claim:
                self.claim(node, 8 + 40 * count)
            if not names:
                names = self._names(heap, claim)
            for name_at, address, cached in _SYMBOL.iter_unpack(read(node + 8, 40 * count)):
                end = names.find(b"\0", name_at, name_at + MAX_NAME_BYTES + 1)
                if end < 0:
                    raise damaged(f"a name of more than {MAX_NAME_BYTES:,} bytes, or outside its heap")
                found.append((names[name_at:end], -1 if cached == 2 else address))
            if len(found) > most:
                return

    def _names(self, heap: int, claim: bool) -> bytes:
        """Return the data of a local heap."""
        signature, version, size, _, segment = _HEAP.unpack(self.pages.read(heap, 32))
        if signature != b"HEAP" or version:
            raise damaged(f"there should be a heap of names at byte {heap:,}, but there is none")
        if size > MAX_NAMES_BYTES:
            raise Unreadable(f"has a heap of {size:,} bytes of names; no Keras model needs as many")
        names = self.pages.read(segment, size)
        if claim:
            self.claim(heap, 32)
            self.claim(segment, size)
        return names

    def _leaves(self, address: int, most: int, claim: bool) -> Iterator[int]:
        """Yield what the leaves of a group's version 1 B-tree point to, in order."""
        stack = [(address, -1)]
        while stack:
            at, level = stack.pop()
            if level == 0:
                yield at
                continue
            signature, kind, found_level, count, _, _ = _TREE.unpack(self.pages.read(at, 24))
            if (
                signature != b"TREE"
                or kind
                or level not in (-1, found_level + 1)
                or count > self._superblock.node_entries
            ):
                raise damaged(f"there should be a node of a B-tree at byte {at:,}, but there is none")
            if claim:
                self.claim(at, 24 + 16 * count + 8)
            if count:
                children = struct.unpack(f"<{2 * count}Q", self.pages.read(at + 24, 16 * count))[1::2]
                stack.extend((child, found_level) for child in reversed(children))
                if len(stack) > most:
                    raise damaged(f"the B-tree at byte {address:,} has more than {most:,} nodes")

    # Fractal heaps, for many links or attributes ------------------------------------------------------------------

    def _heap_objects(self, heap: int, tree: int, kind: int, most: int, *, claim: bool) -> list[tuple[bytes, int]]:
        """Return the objects of a fractal heap that the records of a version 2 B-tree list, with their messages' flags.

        Args:
            heap: Address of the heap's header.
            tree: Address of the B-tree's header.
            kind: Its type: 5 for links by name, 8 for attributes by name.
            most: How many there may be.
            claim: Whether to claim what is read.
        """
        blocks, offset_size, length_size = self._heap_blocks(heap, claim)
        begins = [begin for begin, _, _ in blocks]
        found = []
        for record in self._records(tree, kind, most, claim):
            key, flags = (record[4:], 0) if kind == 5 else (record[:8], record[8])
            if key[0] & 0xF0:
                raise Unreadable(
                    "has an attribute of more than 4,096 bytes in HDF5's newer layout, which graftwork does not read; "
                    "save it again with h5py's default settings"
                )
            offset = int.from_bytes(key[1 : 1 + offset_size], "little")
            length = int.from_bytes(key[1 + offset_size : 1 + offset_size + length_size], "little")
            number = bisect.bisect_right(begins, offset) - 1
            begin, address, size = blocks[number] if number >= 0 else (0, 0, 0)
            if offset + length > begin + size:
                raise damaged(f"an object of {length:,} bytes lies outside the fractal heap at byte {heap:,}")
            found.append((self.pages.read(address + offset - begin, length), flags))
        return found

    def _heap_blocks(self, heap: int, claim: bool) -> tuple[list[tuple[int, int, int]], int, int]:
        """Return a fractal heap's direct blocks as (offset in the heap, address, bytes), and the bytes of offsets and lengths."""
        data = self._summed(heap, 146, b"FRHP", claim)
        fields = struct.unpack_from("<HHBI12QHQQHHQH", data, 5)
        _, filtered, _, largest = fields[:4]
        width, start, most_direct, bits, _, root, rows = fields[16:]
        powers = start & (start - 1) == 0 == most_direct & (most_direct - 1) and 1 <= start <= most_direct <= 1 << 24
        if filtered or not powers or not 1 <= width <= 64 or not 1 <= bits <= 64 or not largest:
            raise Unreadable("has a fractal heap of a kind that no Keras file has")
        offset_size = (bits + 7) // 8
        length_size = min(((most_direct.bit_length() - 1) + 7) // 8, (largest.bit_length() - 1) // 8 + 1)
        direct_rows = most_direct.bit_length() - start.bit_length() + 2
        blocks: list[tuple[int, int, int]] = []
        stack = [(root, 0, start, rows)]
        while stack:
            address, begin, size, rows = stack.pop()
            if address == UNDEFINED:
                continue
            if not rows:
                if self.pages.read(address, size)[:5] != b"FHDB\0":
                    raise damaged(f"there should be a block of a fractal heap at byte {address:,}, but there is none")
                if claim:
                    self.claim(address, size)
                blocks.append((begin, address, size))
                continue
            if rows > bits:
                raise damaged(f"the fractal heap at byte {heap:,} has {rows:,} rows")
            prefix = 13 + offset_size
            data = self._summed(address, prefix + 8 * rows * width + 4, b"FHIB", claim)
            children = struct.unpack_from(f"<{rows * width}Q", data, prefix)
            for i, child in enumerate(children):
                row = i // width
                size = start << max(row - 1, 0)
                below = 0 if row < direct_rows else size.bit_length() - (start * width).bit_length() + 1
                stack.append((child, begin, size, below))
                begin += size
        return sorted(blocks), offset_size, length_size

    def _records(self, tree: int, kind: int, most: int, claim: bool) -> Iterator[bytes]:
        """Yield the records of a version 2 B-tree, in no order."""
        data = self._summed(tree, 38, b"BTHD", claim)
        found_kind, node_size, size, depth, root, count, total = struct.unpack_from("<BIHH2xQHQ", data, 5)
        if found_kind != kind or size != {5: 11, 8: 17}[kind] or depth > 8 or node_size < 64 or total > most:
            raise damaged(f"there should be a B-tree of names at byte {tree:,}, but there is none")
        largest = (node_size - 10) // size
        count_size = (largest.bit_length() - 1) // 8 + 1
        sums, below = [0], largest  # bytes of the number of all records below, by depth
        for _ in range(depth):
            step = 8 + count_size + sums[-1]
            here = (node_size - 10 - step) // (size + step)
            below = (here + 1) * below + here
            sums.append((below.bit_length() - 1) // 8 + 1)
        stack = [(root, count, depth)] if total else []
        given = 0
        while stack:
            at, count, level = stack.pop()
            step = 8 + count_size + sums[level - 1] if level else 0
            used = 6 + count * size + (count + 1) * step + 4
            if used > node_size:
                raise damaged(f"a node of the B-tree at byte {tree:,} has {count:,} records")
            data = self._summed(at, used, b"BTIN" if level else b"BTLF", claim, whole=node_size)
            given += count
            if data[5] != kind or given > total:
                raise damaged(f"the B-tree at byte {tree:,} has more than its {total:,} records")
            for i in range(count):
                yield data[6 + i * size : 6 + (i + 1) * size]
            for i in range(count + 1 if level else 0):
                pointer = 6 + count * size + i * step
                child = struct.unpack_from("<Q", data, pointer)[0]
                child_count = int.from_bytes(data[pointer + 8 : pointer + 8 + count_size], "little")
                stack.append((child, child_count, level - 1))
        if given != total:
            raise damaged(f"the B-tree at byte {tree:,} has {given:,} of its {total:,} records")

    def _summed(self, at: int, size: int, signature: bytes, claim: bool, whole: int = 0) -> bytes:
        """Return a structure with version 0 whose last four bytes are its checksum; it takes `whole` bytes if more than `size`."""
        data = self.pages.read(at, size)
        if data[:5] != signature + b"\0" or not self._sum_holds(data):
            raise damaged(f"there should be a structure {signature.decode()} at byte {at:,}, but there is none")
        if claim:
            self.claim(at, max(size, whole))
        return data

    def _sum_holds(self, data: bytes) -> bool:
        self.pages.spend(SUM_COST * len(data))
        return sum_of(data[:-4]) == int.from_bytes(data[-4:], "little")

    # Chunks ------------------------------------------------------------------------------------------------------

    def chunks(
        self, layout: Layout, shape: Sequence[int], size: int, *, filtered: bool
    ) -> Mapping[tuple[int, ...], Chunk]:
        """Return every chunk of a dataset by its place in the grid of chunks.

        Args:
            layout: The dataset's.
            shape: The dataset's.
            size: Bytes of a chunk's values.
            filtered: Whether chunks may have other sizes in the file.

        Raises:
            Unreadable: If one is missing, comes twice, lies outside the file or in another.
        """
        assert layout.chunk is not None
        grid = [-(-n // c) for n, c in zip(shape, layout.chunk, strict=True)]
        wanted = math.prod(grid)
        if layout.address == UNDEFINED:
            raise Unreadable("has no values: none of its chunks is stored")
        if layout.listed == "single":
            if wanted != 1:
                raise damaged("it has one chunk, which does not hold all of its values")
            found = {(0,) * len(grid): Chunk(layout.address, layout.size, layout.mask)}
        else:
            found = self._chunk_tree(layout.address, layout.chunk, grid, wanted)
        if len(found) != wanted:
            raise Unreadable(f"has values for {len(found):,} of its {wanted:,} chunks only")
        last = 0
        for address, stored, _ in sorted(found.values()):
            if address < last or address + stored > self.length or not stored:
                raise damaged(
                    f"a chunk of {stored:,} bytes lies at byte {address:,}, in another chunk or outside the file"
                )
            if not filtered and stored != size:
                raise damaged(f"a chunk has {stored:,} bytes instead of {size:,}")
            last = address + stored
        return found

    def _chunk_tree(
        self, address: int, chunk: Sequence[int], grid: Sequence[int], wanted: int
    ) -> dict[tuple[int, ...], Chunk]:
        rank = len(chunk)
        entry = struct.Struct(f"<II{rank + 1}QQ")
        found: dict[tuple[int, ...], Chunk] = {}
        stack = [(address, -1)]
        while stack:
            at, level = stack.pop()
            signature, kind, found_level, count, _, _ = _TREE.unpack(self.pages.read(at, 24))
            if (
                signature != b"TREE"
                or kind != 1
                or level not in (-1, found_level)
                or count > self._superblock.chunk_entries
            ):
                raise damaged(f"there should be a list of chunks at byte {at:,}, but there is none")
            self.claim(at, 24 + count * entry.size + entry.size - 8)
            self.pages.spend(count * READ_COST)
            for size, mask, *offsets, child in entry.iter_unpack(self.pages.read(at + 24, count * entry.size)):
                if found_level:
                    stack.append((child, found_level - 1))
                    continue
                place = tuple(o // c for o, c in zip(offsets[:-1], chunk, strict=True))
                if offsets[-1] or any(
                    o % c or p >= n for o, c, p, n in zip(offsets[:-1], chunk, place, grid, strict=True)
                ):
                    if all(o % c == 0 for o, c in zip(offsets[:-1], chunk, strict=True)) and not offsets[-1]:
                        continue  # a chunk that was there before the dataset shrank
                    raise damaged(f"a chunk begins at {tuple(offsets[:-1])}, where none can")
                if place in found:
                    raise damaged(f"two chunks begin at {tuple(offsets[:-1])}")
                found[place] = Chunk(child, size, mask)
            if len(found) > wanted or len(stack) > wanted:
                raise damaged(f"it lists more than its {wanted:,} chunks")
        return found

    # Attributes --------------------------------------------------------------------------------------------------

    def attributes(self, messages: Sequence[Message]) -> dict[str, Attribute]:
        """Return an object's attributes by name, values not looked at.

        Raises:
            Unreadable: If they cannot be told.
        """
        bodies: list[tuple[bytes, int]] = []
        for message in messages:
            if message.kind == ATTRIBUTE:
                bodies.append((message.body, message.flags))
            elif message.kind == ATTRIBUTE_INFO:
                heap, tree = _TWO.unpack_from(message.body, 4 if message.body[1] & 1 else 2)
                if heap != UNDEFINED:
                    bodies += self._heap_objects(heap, tree, 8, MAX_MESSAGES, claim=False)
        found: dict[str, Attribute] = {}
        for body, flags in bodies:
            if flags & SHARED:
                raise Unreadable("keeps an attribute in another object, which no Keras file does")
            name, attribute = _attribute(body)
            if name in found:
                raise damaged(f"it has the attribute {name[:60]!r} twice")
            found[name] = attribute
        return found

    def value(self, attribute: Attribute) -> Any:
        """Return an attribute's value as h5py gives it: str, bytes, a NumPy scalar or an array of them; `NOTHING` for no value.

        Raises:
            Unreadable: If it is damaged, or neither text nor numbers.
        """
        if attribute.shared:
            raise Unreadable("has a type that lies elsewhere in the file, which no Keras file has")
        kind, shape = datatype(attribute.kind), dataspace(attribute.space)
        if kind.numpy is None and kind.text != 2:
            raise Unreadable(f"holds {kind.name} values, which graftwork does not know")
        if shape is None:
            return Nothing(texts_dtype() if kind.numpy is None else kind.numpy)
        count = math.prod(shape)
        if count * kind.size > len(attribute.value) or kind.size * math.prod(max(n, 1) for n in shape) >= 1 << 63:
            raise damaged(
                f"it should have {count:,} values of {kind.size:,} bytes, but there are {len(attribute.value):,} bytes"
            )
        data = attribute.value[: count * kind.size]
        if kind.text == 2:
            texts = self._texts(data)
            if not shape:
                return texts[0]
            out = np.empty(count, texts_dtype())
            out[:] = texts
            return out.reshape(shape)
        if kind.name == "bool":
            return np.frombuffer(data, np.uint8).astype(bool).reshape(shape)[()]
        values = np.frombuffer(data, kind.numpy, count)
        if kind.text and kind.padding != 1:
            ended = [v.rstrip(b" ") if kind.padding else v.partition(b"\0")[0] for v in values.tolist()]
            values = np.array(ended, kind.numpy)
        return values.reshape(shape).copy()[()]

    def _texts(self, data: bytes) -> list[str]:
        """Return the texts of any length to which the elements of an attribute point."""
        found, total = [], 0
        for length, heap, index in struct.iter_unpack("<IQI", data):
            if not length:
                found.append("")
                continue
            at, size = self._heap_object(heap, index)
            total += length
            if length > size or total > MAX_VALUE_BYTES:
                raise damaged(
                    f"a text of {length:,} bytes has room for {size:,}, or all of them are longer than {MAX_VALUE_BYTES:,}"
                )
            text = self.pages.read(at, length).partition(b"\0")[0]
            try:
                found.append(text.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Unreadable("is not UTF-8") from error
        return found

    def _heap_object(self, address: int, index: int) -> tuple[int, int]:
        """Return address and size of an object in a global heap."""
        objects = self._heaps.get(address)
        if objects is None:
            objects = self._collection(address)
            if len(self._heaps) >= 16:
                self._heaps.clear()
            self._heaps[address] = objects
        if index not in objects:
            raise damaged(f"there is no text {index} in the heap at byte {address:,}")
        return objects[index]

    def _collection(self, address: int) -> dict[int, tuple[int, int]]:
        head = self.pages.read(address, 16)
        size = struct.unpack_from("<Q", head, 8)[0]
        end = address + size
        if head[:5] != b"GCOL\x01" or end > self.length:
            raise damaged(f"there should be a heap of texts at byte {address:,}, but there is none")
        objects: dict[int, tuple[int, int]] = {}
        at = address + 16
        while at + 16 <= end:
            index, _, length = struct.unpack("<HH4xQ", self.pages.read(at, 16))
            if not index:  # free space, always last
                break
            if index in objects or at + 16 + length > end:
                raise damaged(f"the heap of texts at byte {address:,} holds object {index} twice, or not whole")
            objects[index] = (at + 16, length)
            at += 16 + (length + 7) // 8 * 8
        return objects


class Nothing(NamedTuple):
    """The value of an attribute that has a type and no value."""

    dtype: "np.dtype[Any]"


def _attribute(body: bytes) -> tuple[str, Attribute]:
    """Return name and parts of an attribute message."""
    version, flags, name_size, kind_size, space_size = struct.unpack_from("<BBHHH", body)
    if version not in (1, 2, 3):
        raise damaged(f"an attribute has version {version}")
    at = 9 if version == 3 else 8
    parts = []
    for size in (name_size, kind_size, space_size):
        if at + size > len(body):
            raise damaged("an attribute is longer than its message")
        parts.append(body[at : at + size])
        at += (size + 7) // 8 * 8 if version == 1 else size
    raw = parts[0].partition(b"\0")[0]
    if len(raw) > MAX_NAME_BYTES:
        raise Unreadable(f"has an attribute whose name is {len(raw):,} bytes long")
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable("has an attribute whose name is not UTF-8") from error
    return name, Attribute(parts[1], parts[2], body[at:], version > 1 and bool(flags & 3))


def link(body: bytes) -> tuple[bytes, int]:
    """Return what a link message says, as (name, address of the object), -1 for a link that is soft or external."""
    version, flags = body[0], body[1]
    if version != 1:
        raise damaged(f"a link has version {version}")
    at, kind = 2, 0
    if flags & 8:
        kind, at = body[at], at + 1
    at += (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = int.from_bytes(body[at : at + width], "little")
    at += width
    name = body[at : at + length]
    if len(name) != length or length > MAX_NAME_BYTES:
        raise damaged(f"a link's name of {length:,} bytes is cut short or longer than {MAX_NAME_BYTES:,}")
    return name, -1 if kind else struct.unpack_from("<Q", body, at + length)[0]

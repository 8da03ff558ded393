"""An HDF5 file open for reading: where it begins and ends, its bytes, and what lies where in it.

The reference of this file and those beside it is the HDF5 File Format Specification, version 3.0; the words are its own.

::

    hdf5_file        superblock, at byte 0, 512, 1024 …: where the file ends, and the root group's object header
    hdf5_headers     object header: a list of messages, possibly continued elsewhere; the messages say what the object is
    hdf5_groups        group: either a symbol table (B-tree of nodes "TREE" over "SNOD", names in a local heap "HEAP"), or links
    hdf5_types         dataset: dataspace, datatype,
    hdf5_layout          layout (in the header, one byte range, or chunks in a B-tree),
    hdf5_filters         filters
    hdf5_attributes    attribute: a message with name, datatype, dataspace and value
    hdf5_texts           texts of any length, in global heaps "GCOL"
    hdf5_dense         many links or attributes: in a fractal heap "FRHP" that a version 2 B-tree "BTHD" lists

libhdf5 reads all of it faster, and follows a crafted file into crashes, endless loops and gigabytes. Here every range is checked
against the file before it is read, no structure is read twice, and all that is read is counted; so a file ends in an answer or in
`Unreadable`, soon. What Keras files never use is recognised well enough to be refused by name.

Addresses count from the superblock.
"""

import struct
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

from graftwork.lazy import np
from graftwork.stores.hdf5_checksums import sum_holds
from graftwork.stores.hdf5_pages import Pages, Unreadable, damaged

SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"

UNDEFINED: Final = (1 << 64) - 1
"""The address of what is not there."""

_TREE = struct.Struct("<4sBBHQQ")


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
        if not sum_holds(head):
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


class H5File:
    """An HDF5 file whose structures are read one by one.

    Args:
        fd: A descriptor; stays the caller's.
        begin: Where the HDF5 file, or its user block, begins in the file.
        length: How many bytes there are.

    Attributes:
        begin: Where the superblock lies in the file; addresses count from here.
        length: Where the file ends, as an address.
        root: Address of the root group's object header.
        superblock: What its beginning says.
        pages: Its bytes by address.
        claimed: Addresses of structures that have been read.

    Raises:
        Unreadable: If it is not an HDF5 file.
    """

    def __init__(self, fd: int, begin: int, length: int) -> None:
        self.superblock = found = find_superblock(Pages(fd, begin, length))
        self.begin, self.length, self.root = begin + found.begin, found.length, found.root
        self.pages = Pages(fd, self.begin, self.length)
        self.claimed: set[int] = set()
        self._ranges = array("Q", (0, 48))

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

    def summed(self, at: int, size: int, signature: bytes, *, claim: bool, whole: int = 0) -> bytes:
        """Return a structure of version 0 whose last four bytes are its checksum.

        Args:
            at: Where it begins.
            size: Bytes of it that are used.
            signature: What it begins with.
            claim: Whether to claim it; the first visit does.
            whole: Bytes that it takes, if more than `size`.

        Raises:
            Unreadable: If there is none.
        """
        data = self.pages.read(at, size)
        if data[:5] != signature + b"\0" or not self.pages.sum_holds(data):
            raise damaged(f"there should be a structure {signature.decode()} at byte {at:,}, but there is none")
        if claim:
            self.claim(at, max(size, whole))
        return data

    def tree_node(self, at: int, kind: int, level: int | None, what: str) -> tuple[int, int]:
        """Return the level of a node of a version 1 B-tree, 0 for a leaf, and how many entries follow its 24 bytes.

        Args:
            at: Where it begins.
            kind: What the tree lists: 0 for a group's symbols, 1 for a dataset's chunks.
            level: The level that it must have; None for any, which the root has.
            what: What should be there, in words.

        Raises:
            Unreadable: If there is no such node.
        """
        most = self.superblock.chunk_entries if kind else self.superblock.node_entries
        signature, found_kind, found_level, count, _, _ = _TREE.unpack(self.pages.read(at, 24))
        if signature != b"TREE" or found_kind != kind or level not in (None, found_level) or count > most:
            raise damaged(f"there should be {what} at byte {at:,}, but there is none")
        return found_level, count

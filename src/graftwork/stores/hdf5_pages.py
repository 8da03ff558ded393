"""The bytes of an HDF5 file, read in small pieces; each must be there, and all together may be only so many."""

import os
from typing import Final

from graftwork.stores.hdf5_checksums import sum_holds

MAX_METADATA_BYTES: Final = 1 << 29
"""What is read of a file beside values, each read counted with `READ_COST` more; 200,000 objects need half of it."""

READ_COST: Final = 128
"""What a read, a message or an entry of a list costs, in bytes, however short: it bounds the time that many of nothing take."""

SUM_COST: Final = 16
"""What computing a checksum costs for each byte."""


class Unreadable(Exception):  # noqa: N818 - it is worded to follow a name
    """What is wrong with a file, as words that follow its name: ``is damaged: …``."""


def damaged(what: str) -> Unreadable:
    """Return the complaint that a file contradicts itself."""
    return Unreadable(f"is damaged: {what}")


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

    def sum_holds(self, data: bytes) -> bool:
        """Whether the last four bytes of a structure that was read are the checksum of the others; computing it counts.

        Raises:
            Unreadable: If too much has been looked at by now.
        """
        self.spend(SUM_COST * len(data))
        return sum_holds(data)

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

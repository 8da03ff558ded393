"""The texts of any length in an HDF5 file, which lie in global heaps."""

import struct

from graftwork.stores.hdf5_file import H5File
from graftwork.stores.hdf5_pages import Unreadable, damaged
from graftwork.stores.hdf5_types import MAX_VALUE_BYTES


class Texts:
    """The texts of any length of a file; where those of the last heaps lie is remembered.

    Args:
        file: The file.
    """

    def __init__(self, file: H5File) -> None:
        self._file = file
        self._heaps: dict[int, dict[int, tuple[int, int]]] = {}

    def at(self, data: bytes) -> list[str]:
        """Return the texts to which the elements of an attribute point.

        Args:
            data: The elements: length, address of a heap, and number in it.

        Raises:
            Unreadable: If one is not there, or they are too long.
        """
        found, total = [], 0
        for length, heap, index in struct.iter_unpack("<IQI", data):
            if not length:
                found.append("")
                continue
            at, size = self._place(heap, index)
            total += length
            if length > size or total > MAX_VALUE_BYTES:
                raise damaged(
                    f"a text of {length:,} bytes has room for {size:,}, or all of them are longer than {MAX_VALUE_BYTES:,}"
                )
            text = self._file.pages.read(at, length).partition(b"\0")[0]
            try:
                found.append(text.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise Unreadable("is not UTF-8") from error
        return found

    def _place(self, address: int, index: int) -> tuple[int, int]:
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
        head = self._file.pages.read(address, 16)
        size = struct.unpack_from("<Q", head, 8)[0]
        end = address + size
        if head[:5] != b"GCOL\x01" or end > self._file.length:
            raise damaged(f"there should be a heap of texts at byte {address:,}, but there is none")
        objects: dict[int, tuple[int, int]] = {}
        at = address + 16
        while at + 16 <= end:
            index, _, length = struct.unpack("<HH4xQ", self._file.pages.read(at, 16))
            if not index:  # free space, always last
                break
            if index in objects or at + 16 + length > end:
                raise damaged(f"the heap of texts at byte {address:,} holds object {index} twice, or not whole")
            objects[index] = (at + 16, length)
            at += 16 + (length + 7) // 8 * 8
        return objects

"""Where an object of an HDF5 file keeps many links or attributes: in a fractal heap, whose objects a version 2 B-tree lists."""

import bisect
import struct
from collections.abc import Iterator

from graftwork.stores.hdf5_file import UNDEFINED, H5File
from graftwork.stores.hdf5_pages import Unreadable, damaged


def dense_objects(file: H5File, heap: int, tree: int, kind: int, most: int, *, claim: bool) -> list[tuple[bytes, int]]:
    """Return the objects of a fractal heap that the records of a version 2 B-tree list, with their messages' flags.

    Args:
        file: The file.
        heap: Address of the heap's header.
        tree: Address of the B-tree's header.
        kind: Its type: 5 for links by name, 8 for attributes by name.
        most: How many there may be.
        claim: Whether to claim what is read.

    Raises:
        Unreadable: If they cannot be told.
    """
    blocks, offset_size, length_size = _heap_blocks(file, heap, claim)
    begins = [begin for begin, _, _ in blocks]
    found = []
    for record in _records(file, tree, kind, most, claim):
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
        found.append((file.pages.read(address + offset - begin, length), flags))
    return found


def _heap_blocks(file: H5File, heap: int, claim: bool) -> tuple[list[tuple[int, int, int]], int, int]:
    """Return a fractal heap's direct blocks as (offset in the heap, address, bytes), and the bytes of offsets and lengths."""
    data = file.summed(heap, 146, b"FRHP", claim=claim)
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
            if file.pages.read(address, size)[:5] != b"FHDB\0":
                raise damaged(f"there should be a block of a fractal heap at byte {address:,}, but there is none")
            if claim:
                file.claim(address, size)
            blocks.append((begin, address, size))
            continue
        if rows > bits:
            raise damaged(f"the fractal heap at byte {heap:,} has {rows:,} rows")
        prefix = 13 + offset_size
        data = file.summed(address, prefix + 8 * rows * width + 4, b"FHIB", claim=claim)
        children = struct.unpack_from(f"<{rows * width}Q", data, prefix)
        for i, child in enumerate(children):
            row = i // width
            size = start << max(row - 1, 0)
            below = 0 if row < direct_rows else size.bit_length() - (start * width).bit_length() + 1
            stack.append((child, begin, size, below))
            begin += size
    return sorted(blocks), offset_size, length_size


def _records(file: H5File, tree: int, kind: int, most: int, claim: bool) -> Iterator[bytes]:
    """Yield the records of a version 2 B-tree, in no order."""
    data = file.summed(tree, 38, b"BTHD", claim=claim)
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
        data = file.summed(at, used, b"BTIN" if level else b"BTLF", claim=claim, whole=node_size)
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

"""Where the values of an HDF5 file's datasets lie: in the header, in one byte range, or in chunks that something lists."""

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from graftwork.stores.hdf5_file import UNDEFINED, H5File
from graftwork.stores.hdf5_pages import READ_COST, Unreadable, damaged

CHUNK_INDEXES: Final = {2: "implicit", 3: "fixed array", 4: "extensible array", 5: "version 2 B-tree"}


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


def layout_of(body: bytes, rank: int, itemsize: int) -> Layout:
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
        return Layout(*struct.unpack_from("<QQ", body, 2))
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


def chunks_of(
    file: H5File, layout: Layout, shape: Sequence[int], size: int, *, filtered: bool
) -> Mapping[tuple[int, ...], Chunk]:
    """Return every chunk of a dataset by its place in the grid of chunks.

    Args:
        file: The file.
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
        found = _chunk_tree(file, layout.address, layout.chunk, grid, wanted)
    if len(found) != wanted:
        raise Unreadable(f"has values for {len(found):,} of its {wanted:,} chunks only")
    last = 0
    for address, stored, _ in sorted(found.values()):
        if address < last or address + stored > file.length or not stored:
            raise damaged(f"a chunk of {stored:,} bytes lies at byte {address:,}, in another chunk or outside the file")
        if not filtered and stored != size:
            raise damaged(f"a chunk has {stored:,} bytes instead of {size:,}")
        last = address + stored
    return found


def _chunk_tree(
    file: H5File, address: int, chunk: Sequence[int], grid: Sequence[int], wanted: int
) -> dict[tuple[int, ...], Chunk]:
    rank = len(chunk)
    entry = struct.Struct(f"<II{rank + 1}QQ")
    found: dict[tuple[int, ...], Chunk] = {}
    stack: list[tuple[int, int | None]] = [(address, None)]
    while stack:
        at, level = stack.pop()
        level, count = file.tree_node(at, 1, level, "a list of chunks")
        file.claim(at, 24 + count * entry.size + entry.size - 8)
        file.pages.spend(count * READ_COST)
        for size, mask, *offsets, child in entry.iter_unpack(file.pages.read(at + 24, count * entry.size)):
            if level:
                stack.append((child, level - 1))
                continue
            place = tuple(o // c for o, c in zip(offsets[:-1], chunk, strict=True))
            if offsets[-1] or any(o % c or p >= n for o, c, p, n in zip(offsets[:-1], chunk, place, grid, strict=True)):
                if all(o % c == 0 for o, c in zip(offsets[:-1], chunk, strict=True)) and not offsets[-1]:
                    continue  # a chunk that was there before the dataset shrank
                raise damaged(f"a chunk begins at {tuple(offsets[:-1])}, where none can")
            if place in found:
                raise damaged(f"two chunks begin at {tuple(offsets[:-1])}")
            found[place] = Chunk(child, size, mask)
        if len(found) > wanted or len(stack) > wanted:
            raise damaged(f"it lists more than its {wanted:,} chunks")
    return found

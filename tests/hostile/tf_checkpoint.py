"""TensorFlow checkpoints: the table of the index, the entries in it, the object graph, the data files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tf_files import (
    GRAPH,
    MAGIC,
    block,
    entry,
    field,
    header,
    masked,
    parts_of,
    put,
    table,
    table_of,
    text_tensor,
    varint,
)

from hostile import oddities
from hostile.corpus import Corpus, Outcome
from hostile.valid import KERNEL, VALUES

CORPUS = Corpus("tf_checkpoint", VALUES)
INDEX = "model.index"
RAW = VALUES[KERNEL].tobytes()
Entries = dict[bytes, bytes]


def good() -> tuple[Entries, list[bytes]]:
    """Return the entries and the data files of a checkpoint by names."""
    return parts_of(VALUES, shards=2)


def checkpoint(folder: Path, made: bytes | None = None, data: list[bytes] | None = None) -> Path:
    """Write a checkpoint of which the index or the data files may be wrong."""
    entries, values = good()
    return put(folder / INDEX, table(entries) if made is None else made, values if data is None else data)


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return checkpoint(folder)


@CORPUS.harmless()
def padding_between_tensors(folder: Path) -> Path:
    """TensorFlow aligns values where it is asked to."""
    entries, data = {b"": header()}, b""
    for name, values in VALUES.items():
        raw = values.tobytes()
        entries[name.encode()] = entry(1, values.shape, len(data), len(raw), masked(raw))
        data += raw + bytes(-len(raw) % 64)
    return put(folder / INDEX, table(entries), [data])


oddities.add(CORPUS, INDEX, table(good()[0]))
for odd in ("path-is-a-link-to-the-file", "path-is-a-device"):
    CORPUS.cases.pop(odd)  # its data files would not be beside it; the end of a device cannot be looked at


def whole(name: str, make: Callable[[bytes], bytes], outcome: Outcome = Outcome.REFUSED, mentions: str = "") -> None:
    """Add a fault of the index's bytes."""
    CORPUS.add(name, lambda folder: checkpoint(folder, make(table(good()[0]))), outcome, mentions)


def handles(*numbers: int) -> bytes:
    """Return a footer with these places."""
    return b"".join(varint(n) for n in numbers).ljust(40, b"\0") + MAGIC


def changed(at: int, by: bytes) -> Callable[[bytes], bytes]:
    """Return what puts bytes over others."""
    return lambda data: data[:at] + by + data[at + len(by) :]


for keep in (1, 40, 47, 48, 200):
    whole(f"index-ends-at-{keep}", lambda data, keep=keep: data[:keep])
whole("index-without-its-first-byte", lambda data: data[1:])
whole("index-with-something-behind", lambda data: data + b"\0")
whole("other-magic", lambda data: data[:-8] + b"\x57\xfb\x80\x8b\x24\x75\x47\xda", mentions="expected")
whole("footer-of-long-numbers", lambda data: data[:-48] + b"\xff" * 40 + MAGIC, mentions="footer")
whole("index-block-beyond-the-end", lambda data: data[:-48] + handles(0, 8, 1 << 40, 100))
whole("index-block-of-all-bytes", lambda data: data[:-48] + handles(0, 8, 0, (1 << 64) - 1))
whole("index-block-is-the-first-block", lambda data: data[:-48] + handles(0, 8, 0, 30))
whole("metaindex-beyond-the-end", lambda data: data[:-48] + handles(len(data), 8) + data[-40:])
whole("damaged-block", changed(20, b"\x55"), mentions="CRC")
whole("damaged-crc", lambda data: data.replace(data[-60:-56], b"abcd"), mentions="CRC")


def blocks(name: str, make: Callable[[list[tuple[bytes, bytes]]], list[bytes]], mentions: str = "") -> None:
    """Add a fault of one block of entries whose CRC is right."""

    def build(folder: Path) -> Path:
        listed = sorted(good()[0].items())
        return checkpoint(folder, table_of(make(listed), listed, len(listed)))

    CORPUS.add(name, build, mentions=mentions)


def sealed(data: bytes, kind: int = 0) -> bytes:
    """Return a block with the trailer that it should have."""
    import struct

    whole_ = data + bytes([kind])
    return whole_ + struct.pack("<I", masked(whole_))


blocks("snappy", lambda listed: [block(listed, 1)], "snappy")
blocks("zstd", lambda listed: [block(listed, 2)], "unknown way")
blocks("keys-out-of-order", lambda listed: [block([listed[0], *listed[:0:-1]])], "order")
blocks("a-key-twice", lambda listed: [block([*listed[:2], *listed[1:]])], "order")
blocks("empty-block", lambda _: [sealed(b"")], "restarts")
blocks("all-restarts", lambda _: [sealed(b"\xff" * 40)], "restarts")
blocks("no-header", lambda listed: [block(listed[1:])], "header")
blocks("nothing-but-no-entries", lambda _: [block([])], "header")
blocks("shares-with-nothing", lambda _: [sealed(varint(5) + varint(1) + varint(0) + b"a" + bytes(4) + b"\1\0\0\0")])
blocks("value-beyond-the-block", lambda _: [sealed(varint(0) + varint(0) + varint(1 << 30) + bytes(4) + b"\1\0\0\0")])
blocks(
    "restart-inside-an-entry",
    lambda _: [sealed(b"\0\0" + varint(len(header())) + header() + b"\3\0\0\0\1\0\0\0")],
    "restart",
)
blocks("endless-varint", lambda _: [sealed(b"\xff" * 30 + bytes(4) + b"\1\0\0\0")])


@CORPUS.refused("keys take more")
def keys_that_grow(folder: Path) -> Path:
    """A megabyte on the disk, terabytes in memory: each key shares all of the one before."""
    key = b"k" * 60_000
    data = bytes([0, 0]) + varint(len(header())) + header() + varint(0) + varint(len(key)) + b"\0" + key
    data += b"".join(varint(len(key) + k) + b"\1\0a" for k in range(200_000))
    return checkpoint(folder, table_of([sealed(data + bytes(4) + b"\1\0\0\0")], [(b"\xff", b"")]))


def entries(
    name: str, edit: Callable[[Entries], object], outcome: Outcome = Outcome.REFUSED, mentions: str = ""
) -> None:
    """Add a fault of the entries."""

    def build(folder: Path) -> Path:
        found, data = good()
        edit(found)
        return checkpoint(folder, table(found), data)

    CORPUS.add(name, build, outcome, mentions)


def kernel(name: str, outcome: Outcome = Outcome.REFUSED, mentions: str = "", **what: Any) -> None:
    """Add a fault of one tensor's entry."""
    right = {"dtype": 1, "shape": (8, 4), "offset": 0, "size": len(RAW), "crc": masked(RAW)}
    entries(name, lambda found: found.update({KERNEL.encode(): entry(**{**right, **what})}), outcome, mentions)


entries("header-says-big-endian", lambda e: e.update({b"": header(2, 1)}), mentions="big-endian")
entries("header-of-no-order", lambda e: e.update({b"": header(2, 7)}))
entries("header-of-a-later-version", lambda e: e.update({b"": header(2, 0, 9)}), mentions="version")
entries("no-data-files", lambda e: e.update({b"": header(0)}))
entries("a-billion-data-files", lambda e: e.update({b"": header(1 << 30)}))
entries("fewer-data-files-than-used", lambda e: e.update({b"": header(1)}))
entries("more-data-files-than-there-are", lambda e: e.update({b"": header(3)}), mentions="not there")
entries("header-is-noise", lambda e: e.update({b"": b"\xff\xff\xff"}))
entries("entry-is-noise", lambda e: e.update({KERNEL.encode(): b"\xff\xff\xff"}))
entries("entry-is-empty", lambda e: e.update({KERNEL.encode(): b""}))
entries("entry-is-a-group", lambda e: e.update({KERNEL.encode(): b"\x0b\x0c"}))
entries("entry-cut-in-a-number", lambda e: e.update({KERNEL.encode(): b"\x08"}))
entries("name-is-no-text", lambda e: e.update({b"\xc3\x28": e.pop(KERNEL.encode())}))
entries("part-of-no-tensor", lambda e: e.update({b"\0w\0\1\1\1\x80\x84": e.pop(KERNEL.encode())}))
kernel("ends-beyond-the-file", offset=1 << 20, mentions="cut short")
kernel("begins-at-the-end-of-all-numbers", offset=(1 << 63) - 8)
kernel("begins-before-the-file", offset=(1 << 64) - 8)
kernel("size-of-another-shape", size=len(RAW) - 4, mentions="takes 128 bytes")
kernel("size-of-all-memory", size=1 << 62)
kernel("shape-of-all-memory", shape=(1 << 31, 1 << 31))
kernel("shape-of-nothing-and-all-memory", shape=(0, 1 << 62, 1 << 62))
kernel("negative-axis", shape=(8, (1 << 64) - 4))
kernel("hundred-axes", shape=(1,) * 100)
kernel("overlaps-another", offset=4, mentions="overlap")
kernel("in-a-data-file-that-is-not-there", shard=2)
kernel("in-a-negative-data-file", shard=(1 << 64) - 1)
kernel("wrong-crc", crc=5, mentions="CRC")
for number in (0, 26, 29, 101, 1 << 31):
    kernel(f"type-{number}", dtype=number, mentions="elements of type")
kernel("a-text-that-is-none", Outcome.TOLERATED, dtype=7, size=len(RAW))
kernel("parts-without-entries", slices=[((0, 8), (0, 4))], mentions="no entry for its part")
kernel("parts-of-other-rank", slices=[((0, 8),)])
kernel("ten-thousand-parts", slices=[((0, 1), (0, k)) for k in range(10_100)], mentions="parts")


def graph(name: str, value: bytes, mentions: str = "object graph", stored: bytes | None = None, **what: Any) -> None:
    """Add a fault of the object graph."""

    def build(folder: Path) -> Path:
        found, data = good()
        written, crc = text_tensor([value])
        right = {"dtype": 7, "shape": (), "offset": len(data[0]), "size": len(written), "crc": crc}
        found[GRAPH.encode()] = entry(**{**right, **what})
        return checkpoint(folder, table(found), [data[0] + (written if stored is None else stored), data[1]])

    CORPUS.add(name, build, mentions=mentions)


graph("graph-is-noise", b"\xff" * 50)
graph("graph-refers-beyond-its-end", field(1, field(1, field(1, 99))))
graph("graph-refers-before-its-begin", field(1, field(1, field(1, (1 << 64) - 1))))
graph("graph-names-are-no-text", field(1, field(2, field(3, b"\xff\xfe"))))
graph("graph-is-a-list", b"", mentions=GRAPH, shape=(2,))
graph("graph-is-a-number", b"", mentions=GRAPH, dtype=1, size=4)
graph("graph-of-wrong-crc", b"", mentions="CRC", crc=1)
graph("graph-of-all-memory", b"", mentions="", size=1 << 40)
graph("graph-claims-more-than-there-is", b"abc", mentions="CRC", stored=b"\xff\xff\xff\x7f" + bytes(4))


@CORPUS.harmless()
def graph_of_cycles(folder: Path) -> Path:
    """Objects that refer to each other, and to themselves, a hundred thousand deep."""
    nodes = b"".join(
        field(1, field(1, field(1, (k + 1) % 20_000) + field(2, "next")) + field(1, field(1, k) + field(2, "me")))
        for k in range(20_000)
    )
    found, data = good()
    written, crc = text_tensor([nodes])
    found[GRAPH.encode()] = entry(7, (), len(data[0]), len(written), crc)
    return checkpoint(folder, table(found), [data[0] + written, data[1]])


@CORPUS.refused("not there")
def missing_data_file(folder: Path) -> Path:
    """One of two."""
    path = checkpoint(folder)
    (folder / "model.data-00001-of-00002").unlink()
    return path


@CORPUS.refused("not there|cut short|CRC")
def swapped_data_files(folder: Path) -> Path:
    """Each under the other's name."""
    return checkpoint(folder, None, good()[1][::-1])


@CORPUS.refused("cut short")
def data_file_cut_short(folder: Path) -> Path:
    """By one byte."""
    one, two = good()[1]
    return checkpoint(folder, None, [one, two[:-1]])


@CORPUS.refused("CRC")
def damaged_values(folder: Path) -> Path:
    """One bit of one number."""
    one, two = good()[1]
    return checkpoint(folder, None, [bytes([one[0] ^ 1]) + one[1:], two])


@CORPUS.refused("not a regular file")
def data_file_is_a_directory(folder: Path) -> Path:
    """Under the right name."""
    path = checkpoint(folder)
    (folder / "model.data-00001-of-00002").unlink()
    (folder / "model.data-00001-of-00002").mkdir()
    return path


def state(name: str, text: bytes, mentions: str = "") -> None:
    """Add a fault of the file that names the latest checkpoint of a directory."""

    def build(folder: Path) -> Path:
        (folder / "run").mkdir()
        checkpoint(folder)
        checkpoint(folder / "run")
        (folder / "run" / "checkpoint").write_bytes(text)
        return folder / "run"

    CORPUS.add(name, build, mentions=mentions)


state("state-file-leads-out", b'model_checkpoint_path: "../model"')
state("state-file-names-the-directory", b'model_checkpoint_path: "."')
state("state-file-names-nothing", b'model_checkpoint_path: ""')
state("state-file-names-what-is-gone", b'model_checkpoint_path: "gone"', "is not there")
state("state-file-is-empty", b"")
state("state-file-is-noise", bytes(range(256)) * 9)
state("state-file-of-a-zero-byte", b'model_checkpoint_path: "mod\0el"')

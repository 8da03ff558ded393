"""The checkpoint of TensorFlow 1 and 2: an index and its data files; see `tf_bundle` for the bytes and `tf_graph` for the names.

A source is spelled as its index (``model.ckpt-1000.index``), as TensorFlow does without that ending, or as a directory whose file
``checkpoint`` names the latest. Texts and objects (vocabularies of tables, …) count as assets: compared, carried over into another
checkpoint, and never merged.

What is written has one data file, or several where a size for them is given, and no partitions. It keeps the keys, the object graph and
the texts that a `like` lends, so that ``tf.train.Checkpoint(…).restore`` finds its objects; else names are keys, as
``tf.compat.v1.train.Saver`` and ``tf.train.load_checkpoint`` take them. The file ``checkpoint`` is made where the directory has none, so
that ``tf.train.latest_checkpoint`` finds the result; one that is there stays as it is. The table's metaindex, which TensorFlow does not
read, holds our record and the roles that names do not tell.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import google_crc32c

from graftwork.errors import OutputError, StoreError
from graftwork.lazy import np
from graftwork.stores.base import FORMATS, Format, Header, Raw, Reader, SpecTable, register
from graftwork.stores.crc import Pieces
from graftwork.stores.files import read_json, read_small
from graftwork.stores.ordered_code import PART, part_key
from graftwork.stores.safetensors import overruled, recorded_roles, reserve, roles_text
from graftwork.stores.tf_bundle import CODES, DTYPES, STRING, SUFFIX, Bundle, Stored
from graftwork.stores.tf_graph import GRAPH, maybe_slots, names_of, pruned, roles_in, second_copies
from graftwork.stores.tf_protos import BundleEntry, BundleHeader, Node, parse_graph, varint
from graftwork.stores.tf_table import mask, table_bytes
from graftwork.stores.writeback import Sink
from graftwork.tensor import ITEMSIZE, Role, TensorSpec

STATE = "checkpoint"
"""The file in a directory that names its latest checkpoint."""

RECORD, ROLES = b"graftwork", b"graftwork.roles"

MAX_GRAPH_BYTES = 1 << 26

DIGITS = "[0-9]" * 5


@dataclass(frozen=True, slots=True)
class Text:
    """A tensor of texts or objects, and the checkpoint in which it lies."""

    stored: Stored
    bundle: Bundle


@runtime_checkable
class Lender(Protocol):
    """What lends keys, objects and texts to a checkpoint that is written: another one, or a view of some.

    Attributes:
        path: What messages call it.
        nodes: Its object graph; empty in TensorFlow 1.
        texts: Tensors of texts and objects by their keys.
    """

    path: Path
    nodes: tuple[Node, ...]
    texts: Mapping[str, Text]

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the spec of every tensor of numbers by its canonical name."""

    def key(self, name: str) -> str:
        """Return the key of a tensor of numbers."""

    def code(self, name: str) -> int | None:
        """Return TensorFlow's number of a tensor's type, None where it is not known."""


class CheckpointReader:
    """A TensorFlow checkpoint, open for reading.

    Args:
        path: The index, or a directory whose state file names the latest.
        exported: Whether it is a part of a SavedModel, in which variables may lie twice.

    Attributes:
        bundle: Its files.
        nodes: Its object graph; empty in TensorFlow 1.
        texts: Tensors of texts and objects by their keys.

    Raises:
        StoreError: If it is damaged or incomplete, or holds elements of a type that graftwork does not know.
    """

    def __init__(self, path: Path, *, exported: bool = False) -> None:
        self.path = latest(path) if path.is_dir() else path
        self.bundle = Bundle(self.path)
        try:
            self._name(exported)
        except BaseException:
            self.close()
            raise

    def _name(self, exported: bool) -> None:
        bundle = self.bundle
        self.nodes: tuple[Node, ...] = ()
        if GRAPH in bundle.tensors:
            try:
                self.nodes = parse_graph(bundle.bytes_of(bundle.tensors[GRAPH], MAX_GRAPH_BYTES))
            except ValueError as error:
                raise StoreError(f"the object graph of {self.path.name} is damaged: {error}") from error
        left_out = second_copies(bundle.tensors, self.nodes) if exported else set()
        names = names_of([key for key in bundle.tensors if key not in left_out], self.nodes)
        self.texts: Mapping[str, Text] = {
            key: Text(tensor, bundle) for key, tensor in bundle.tensors.items() if tensor.is_opaque and key != GRAPH
        }
        plain = {key: name for key, name in names.items() if not bundle.tensors[key].is_opaque}
        roles = overruled(
            roles_in(plain, bundle.tensors, self.nodes),
            recorded_roles(_text(bundle, ROLES), f"the roles in {self.path.name}"),
            {name: bundle.tensors[key].dtype for key, name in plain.items()},
        )
        self._table = SpecTable(self.path)
        self._stored: dict[str, Stored] = {}
        for key, name in plain.items():
            tensor = bundle.tensors[key]
            self._table.add(TensorSpec(name=name, shape=tensor.shape, dtype=tensor.dtype, role=roles[name]), key)
            self._stored[name] = tensor
        record = _text(bundle, RECORD)
        self.header = Header(
            format="tf_checkpoint",
            files=bundle.files,
            size_bytes=bundle.size_bytes,
            assets={names[key]: digest(text) for key, text in self.texts.items()},
            provenance=read_json(record.encode(), f"the record of graftwork in {self.path.name}") if record else None,
            notes=() if self.nodes else tuple(_notes(self._table.specs)),
        )

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name, in the order of the index."""
        return self._table.specs

    def key(self, name: str) -> str:
        """Return a tensor's key in the index: the path to it in TensorFlow 2, its name in TensorFlow 1."""
        return self._table.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor.

        Raises:
            UnknownNameError: If the checkpoint has no such tensor.
            StoreError: If a file has become shorter, or a tensor that has been read to its end does not have the values that its
                CRC promises.
        """
        spec = self._table[name]
        if out.itemsize != ITEMSIZE[spec.dtype] or start < 0 or start + out.size > spec.size:
            raise ValueError(f"{out.size} elements of {out.dtype} from {start} on are not a part of {spec}")
        if out.size:
            self.bundle.read_into(self._stored[name], start, out)

    def code(self, name: str) -> int | None:
        """Return TensorFlow's number of a tensor's type, None if there is no such tensor."""
        return self._stored[name].code if name in self._stored else None

    def crc(self, name: str) -> int | None:
        """Return the CRC of a tensor's values as the index has it, None for one that was partitioned."""
        parts = self._stored[name].parts
        return parts[0].entry.crc if len(parts) == 1 else None

    def check(self) -> None:
        """Compare all values, texts too, with their CRCs.

        Raises:
            StoreError: If some differ.
        """
        self.bundle.check()

    def close(self) -> None:
        """Close the files; closing twice does nothing."""
        self.bundle.close()

    def __enter__(self) -> "CheckpointReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _notes(specs: Mapping[str, TensorSpec]) -> Iterator[str]:
    found = maybe_slots(specs)
    if found:
        more = (
            f" and {len(found) - 1:,} more stand behind variables of their shapes, as an optimizer's slots do, and count as weights"
            if len(found) > 1
            else " stands behind a variable of its shape, as an optimizer's slots do, and counts as a weight"
        )
        last = found[0].rpartition("/")[2]
        yield f"{found[0]!r}{more}; if that is wrong, leave them out first (ckpt drop '*/{last}')"


def _text(bundle: Bundle, key: bytes) -> str:
    try:
        return bundle.meta.get(key, b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"what graftwork noted in {bundle.path.name} is not Unicode text") from error


def digest(text: Text) -> str:
    """Return what tells the texts of a tensor from others: the CRCs and sizes of its parts."""
    return " ".join(f"{part.entry.crc:08x}:{part.entry.size}" for part in text.stored.parts)


def latest(folder: Path) -> Path:
    """Return the index of the latest checkpoint of a directory.

    Raises:
        StoreError: If its state file names none, or one elsewhere.
    """
    found = recorded(folder, "model_checkpoint_path")
    if not found:
        raise StoreError(f"{folder / STATE} has no line `model_checkpoint_path: …`, so it names no checkpoint")
    return found[0]


def recorded(folder: Path, field: str) -> list[Path]:
    """Return the indexes of the checkpoints that a field of a directory's state file names, in its order.

    Raises:
        StoreError: If one is elsewhere, or not there.
    """
    data = read_small(folder / STATE)
    texts = re.findall(rb"^\s*" + field.encode() + rb'\s*:\s*"((?:[^"\\\n]|\\.)*)"', data, re.MULTILINE)
    return [_index_of(folder, _unescaped(text).decode("utf-8", errors="replace")) for text in texts]


def _unescaped(text: bytes) -> bytes:
    """Return a text as it was before it was written into a text of protocol buffers."""
    return re.sub(
        rb"\\([0-7]{1,3}|.)",
        lambda found: bytes([int(found[1], 8) & 255]) if found[1].isdigit() else {b"n": b"\n"}.get(found[1], found[1]),
        text,
    )


def _index_of(folder: Path, name: str) -> Path:
    last = name.rpartition("/")[2]
    index = folder / (last + SUFFIX)
    if last in ("", ".", "..") or "\0" in last or ("/" in name and not _same_folder(name, folder, index)):
        raise StoreError(
            f"{folder / STATE} names {name[:200]!r}, which is not in {folder}; name that checkpoint itself"
        )
    if not index.exists():
        raise StoreError(f"{folder / STATE} names {name[:200]!r}, but {index} is not there")
    return index


def _same_folder(name: str, folder: Path, index: Path) -> bool:
    """Return whether a path is one into `folder`, maybe from before it was moved."""
    parent = (folder / name).parent
    return parent.resolve() == folder.resolve() or (Path(name).is_absolute() and not parent.exists() and index.exists())


# Writing -----------------------------------------------------------------------------------------------------------


class CheckpointWriter:
    """A checkpoint being made: a folder that holds index, data files and maybe a state file, which the caller moves into place.

    Args beyond those of every writer:
        target: The final path of the index, which gives the data files their names.
        shard_bytes: Greatest size of the values in one data file, a larger tensor gets one of its own; by default there is one file.

    Attributes:
        notes: What the user should know.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        like: Reader,
        provenance: str,
        target: Path,
        shard_bytes: int | None = None,
    ) -> None:
        if shard_bytes is not None and shard_bytes <= 0:
            raise OutputError(f"a shard of {shard_bytes} bytes holds nothing; give a positive size")
        path.mkdir()
        self._index = path / target.name
        lender = like if isinstance(like, Lender) else None
        self._keys = keys_of(specs, like)
        codes = {spec.name: _code(spec, lender) for spec in specs}
        self._meta = {RECORD: provenance.encode()} if provenance else {}
        self._entries: dict[bytes, BundleEntry] = {}
        self._places: dict[str, tuple[int, int, TensorSpec]] = {}
        self._fds: list[int] = []
        self._sinks: list[Sink] = []
        self._sums: dict[str, Pieces] = {}
        self._crcs: dict[str, int] = {}
        self._lock = threading.Lock()
        sizes = [0]
        for spec in sorted(specs, key=lambda spec: self._keys[spec.name].encode()):
            if shard_bytes is not None and sizes[-1] and sizes[-1] + spec.size_bytes > shard_bytes:
                sizes.append(0)
            shard, at = len(sizes) - 1, sizes[-1]
            self._places[spec.name] = (shard, at, spec)
            self._sums[spec.name] = Pieces(spec.size_bytes)
            self._entries[self._keys[spec.name].encode()] = BundleEntry(
                dtype=codes[spec.name], shape=spec.shape, shard=shard, offset=at, size=spec.size_bytes, crc=mask(0)
            )
            sizes[-1] += spec.size_bytes
        values = sizes[-1]  # behind them, in the last file, come texts and the object graph
        texts = lender.texts if lender else {}
        sizes[-1] += sum(part.entry.size for text in texts.values() for part in text.stored.parts)
        graph = _graph_bytes(lender, [*self._keys.values(), *texts]) if lender else b""
        roles = roles_text(specs, self._inferred(specs, lender))
        if roles:
            self._meta[ROLES] = roles.encode()
        prefix = target.name.removesuffix(SUFFIX)
        self.notes = _write_state(path / STATE, target.with_name(STATE), prefix)
        sizes[-1] += len(graph)
        last = len(sizes) - 1
        try:
            for shard, size in enumerate(sizes):
                self._open(path / f"{prefix}.data-{shard:05}-of-{len(sizes):05}", size)
            for key, text in texts.items():
                values = self._copy(key.encode(), text, last, values)
            if graph:
                self._sinks[last].write(np.frombuffer(graph, np.uint8), values)
                self._entries[GRAPH.encode()] = BundleEntry(
                    dtype=STRING, shape=(), shard=last, offset=values, size=len(graph), crc=_crc_of_text(graph)
                )
        except BaseException:
            self.close()
            raise

    def _open(self, file: Path, size: int) -> None:
        try:
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{file} cannot be made: {error.strerror or error}") from error
        self._fds.append(fd)
        reserve(fd, size, file)
        self._sinks.append(Sink(fd, size))

    def _inferred(self, specs: Sequence[TensorSpec], lender: Lender | None) -> Mapping[str, Role]:
        """Return the roles that a reader would find without being told."""
        tensors = {}
        for spec in specs:
            key, code = self._keys[spec.name], _code(spec, lender)
            tensors[key] = Stored(key, code, spec.shape, (), BundleEntry(dtype=code, shape=spec.shape))
        return roles_in({self._keys[s.name]: s.name for s in specs}, tensors, lender.nodes if lender else ())

    def _copy(self, key: bytes, text: Text, shard: int, at: int) -> int:
        """Copy the texts of a tensor byte for byte to `at` of a data file; return where the next may begin."""
        whole = text.stored.whole
        if whole.slices:
            self._entries[key] = whole
        keys = [part_key(key, part) for part in whole.slices] or [key]
        for place, part in zip(keys, text.stored.parts, strict=True):
            entry = part.entry
            self._entries[place] = BundleEntry(
                dtype=entry.dtype, shape=entry.shape, shard=shard, offset=at, size=entry.size, crc=entry.crc
            )
            for piece in text.bundle.pieces(entry):
                self._sinks[shard].write(np.frombuffer(piece, np.uint8), at)
                at += len(piece)
        return at

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        shard, begin, spec = self._places[name]
        if block.itemsize != ITEMSIZE[spec.dtype] or start < 0 or start + block.size > spec.size:
            raise ValueError(f"{block.size} elements of {block.dtype} from {start} on are not a part of {spec}")
        if not block.size:
            return False
        crc = google_crc32c.value(block.view(np.uint8))
        with self._lock:
            whole = self._sums[name].add(start * block.itemsize, block.nbytes, crc)
            if whole is not None:
                self._crcs[name] = whole
        return self._sinks[shard].write(block, begin + start * block.itemsize)

    def finish(self) -> None:
        """Sync the data files, then write the index."""
        for fd in self._fds:
            os.fsync(fd)
        for name, (_, _, spec) in self._places.items():
            if not spec.size:
                continue
            crc = self._crcs[name] if name in self._crcs else self._read_crc(name)
            key = self._keys[name].encode()
            self._entries[key] = replace(self._entries[key], crc=mask(crc))
        header = BundleHeader(num_shards=len(self._fds))
        items = [(b"", header.encode()), *((k, e.encode()) for k, e in sorted(self._entries.items()))]
        with self._index.open("wb") as file:
            file.write(table_bytes(items, self._meta))
            file.flush()
            os.fsync(file.fileno())

    def _read_crc(self, name: str) -> int:
        """Return the CRC of a tensor that came in too many pieces to add up."""
        shard, begin, spec = self._places[name]
        crc = 0
        for at in range(begin, begin + spec.size_bytes, 1 << 22):
            crc = google_crc32c.extend(crc, os.pread(self._fds[shard], min(1 << 22, begin + spec.size_bytes - at), at))
        return crc

    def close(self) -> None:
        """Close the data files; closing twice does nothing."""
        while self._fds:
            os.close(self._fds.pop())


def _write_state(path: Path, final: Path, prefix: str) -> tuple[str, ...]:
    """Write the state file of a checkpoint, or return a note that there is one already."""
    if os.path.lexists(final):
        return (f"{final} stays as it is, and names the latest checkpoint there",)
    name = prefix.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    path.write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n', encoding="utf-8")
    return ()


def target_of(path: Path) -> Path:
    """Return the index that a target means, which TensorFlow spells without its ending: ``out/model.ckpt``.

    A directory, and a path that ends as the results of some format do, stays what it is.
    """
    endings = tuple(suffix for row in FORMATS.values() for suffix in row.suffixes)
    return path if not path.name or path.name.endswith(endings) or path.is_dir() else path.with_name(path.name + SUFFIX)


def keys_of(specs: Sequence[TensorSpec], like: Reader) -> dict[str, str]:
    """Return the key under which each tensor is written: that of a `like` that is a checkpoint, else its name.

    Raises:
        OutputError: If a tensor has no place in the object graph of `like`, or a name that cannot be a key.
    """
    lender = like if isinstance(like, Lender) else None
    theirs = lender.specs() if lender else {}
    keys: dict[str, str] = {}
    for spec in specs:
        if spec.dtype not in CODES:
            raise OutputError(f"tensor {spec.name!r} is {spec.dtype}, which a TensorFlow checkpoint does not hold")
        if lender and lender.nodes and spec.name not in theirs:
            raise OutputError(
                f"tensor {spec.name!r} has no place among the objects of {like.path.name}; name a checkpoint with `like` that has "
                "it, or a source of another format, for a checkpoint by names"
            )
        key = lender.key(spec.name) if lender and spec.name in theirs else spec.name
        if not key or key.startswith(PART.decode()) or (key == GRAPH or (lender and key in lender.texts)):
            raise OutputError(f"a TensorFlow checkpoint cannot hold a tensor called {key!r}; rename it")
        keys[spec.name] = key
    if len(set(keys.values())) != len(keys):
        found = list(keys.values())
        raise OutputError(f"two tensors would be called {next(k for k in found if found.count(k) > 1)!r}")
    return keys


def _code(spec: TensorSpec, lender: Lender | None) -> int:
    """Return TensorFlow's number of a type: of a tensor of codes, that which its source has."""
    code = lender.code(spec.name) if lender else None
    kept = (
        code is not None and code not in DTYPES and lender is not None and lender.specs()[spec.name].dtype == spec.dtype
    )
    return code if kept and code is not None else CODES[spec.dtype]


def _graph_bytes(lender: Lender, kept: Sequence[str]) -> bytes:
    """Return the object graph of a checkpoint as one text is stored, empty where it has none."""
    if not lender.nodes:
        return b""
    text = pruned(lender.nodes, kept)
    length = google_crc32c.value(len(text).to_bytes(4, "little"))
    return varint(len(text)) + mask(length).to_bytes(4, "little") + text


def _crc_of_text(stored: bytes) -> int:
    """Return the masked CRC of one text that is stored."""
    at = next(k for k, byte in enumerate(stored) if byte < 0x80) + 1
    length = len(stored) - at - 4
    return mask(google_crc32c.extend(google_crc32c.value(length.to_bytes(4, "little")), stored[at:]))


def check_keys(specs: Sequence[TensorSpec], like: Reader) -> None:
    """Refuse tensors that a checkpoint could not hold, as `keys_of` would."""
    keys_of(specs, like)


def recognise(path: Path) -> bool:
    """Return whether a path is called as the index of a checkpoint, or is a directory with a state file."""
    return (path / STATE).is_file() if path.is_dir() else path.name.endswith(SUFFIX)


register(
    Format(
        name="tf_checkpoint",
        summary="TensorFlow checkpoint (.index and .data files): no architecture",
        suffixes=(SUFFIX,),
        recognise=recognise,
        open=CheckpointReader,
        create=CheckpointWriter,
        check=check_keys,
        files_beside=True,
        part=f".data-{DIGITS}-of-{DIGITS}",
        lists_parts=False,
        order=30,
    )
)

"""The ``.safetensors`` file: a JSON header, then the tensors' values.

::

    8 bytes    length n of the header, little-endian
    n bytes    {"__metadata__": {"format": "pt", …}, "NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, …}
               padded with spaces; offsets count from the end of the header
    the rest   values, little-endian, C order, one tensor after the other without holes

``__metadata__`` of files that graftwork made also has ``graftwork`` (our record) and ``graftwork.roles`` (see `roles_of`).
Canonical names are the names in the file, whatever separates their parts.
"""

import errno
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import OutputError, StoreError
from graftwork.stores.base import Format, Header, Raw, Reader, SpecTable, pread_full, register
from graftwork.stores.files import read_json
from graftwork.stores.held import HeldFile
from graftwork.stores.writeback import Sink
from graftwork.tensor import FLOATS, ITEMSIZE, Role, TensorSpec

DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
"""Our name of every element type that is read and written, by the format's name."""

CODES = {dtype: code for code, dtype in DTYPES.items()}

MAX_HEADER_BYTES = 100_000_000
"""As in the reference implementation."""

MAX_AXES = 32
"""The format knows no limit, NumPy does."""

METADATA, RECORD, ROLES = "__metadata__", "graftwork", "graftwork.roles"

STATISTICS = ("running_mean", "running_var", "moving_mean", "moving_variance")
"""Last parts of the names of BatchNorm's statistics, in PyTorch and in Keras."""

CODED = ("weight", "kernel", "embeddings", "qweight", "qzeros", "weight_packed", "quantized_kernel")
"""Last parts of names that, with 8-bit elements, hold codes instead of numbers."""

PACKED = ("qweight", "qzeros", "weight_packed")
"""Those of `CODED` that hold several codes in one wider integer."""

COMPANIONS = (
    *("SCB", "absmax", "quant_map", "nested_absmax", "nested_quant_map", "weight_format"),  # bitsandbytes
    *("scales", "g_idx", "qzeros"),  # GPTQ, AWQ
    *(
        "weight_scale",
        "weight_scale_inv",
        "weight_zero_point",
        "weight_shape",
        "weight_g_idx",
    ),  # compressed-tensors, fp8
    *("input_scale", "output_scale", "k_scale", "v_scale"),
    *("kernel_scale", "kernel_zero", "embeddings_scale", "embeddings_zero"),  # Keras
)
"""Last parts of the names of tensors that say how their neighbour's codes become numbers."""


class SafetensorsReader:
    """A ``.safetensors`` file, open for reading.

    Args:
        path: The file.

    Attributes:
        metadata: The free texts of the file's header, without what graftwork put there.
        recorded_roles: Roles that graftwork noted because names and dtypes do not tell them.

    Raises:
        StoreError: If it is not a safetensors file, is cut short, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = SpecTable(path)
        self._begin: dict[str, int] = {}
        self._file = HeldFile(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        size = self._file.size
        with self._file.descriptor() as fd:
            entries, data_begin = _read_header(fd, size, self.path)
        texts = _metadata(entries.pop(METADATA, None), self.path)
        record, roles = texts.pop(RECORD, ""), texts.pop(ROLES, "")
        self.metadata: dict[str, str] = texts
        self.recorded_roles: Mapping[str, Role] = recorded_roles(roles, f"{ROLES} in the header of {self.path.name}")
        found = [_entry(name, entry, self.path) for name, entry in entries.items()]
        found.sort(key=lambda pair: pair[1])  # stable, so that empty tensors keep their order
        at = 0
        for spec, (begin, end) in found:
            if begin != at:
                what = (
                    "overlaps the tensor before it" if begin < at else f"leaves {begin - at:,} bytes before it unused"
                )
                raise StoreError(f"tensor {spec.name!r} of {self.path.name} begins at byte {begin:,}, which {what}")
            at = end
        if data_begin + at != size:
            raise StoreError(
                f"{self.path.name} has {size - data_begin:,} bytes behind its header, but its tensors take {at:,}; "
                "it was cut short or has something appended"
            )
        roles_found = roles_of({spec.name: spec.dtype for spec, _ in found}, self.recorded_roles)
        for spec, (begin, _) in found:
            self._table.add(with_role(spec, roles_found[spec.name]), spec.name)
            self._begin[spec.name] = data_begin + begin
        self.header = Header(
            format="safetensors",
            files=(self.path,),
            size_bytes=size,
            provenance=read_json(record.encode(), f"the record of graftwork in {self.path.name}") if record else None,
            unit_axis=unit_axis_of(self._table.specs, texts),
        )

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by name, in the order of their values in the file."""
        return self._table.specs

    def key(self, name: str) -> str:
        """Return a tensor's name in the file, which is its canonical name."""
        return self._table.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor.

        Raises:
            UnknownNameError: If the file has no such tensor.
            StoreError: If the file has become shorter since it was opened.
        """
        spec = self._table[name]
        if out.itemsize != ITEMSIZE[spec.dtype] or start < 0 or start + out.size > spec.size:
            raise ValueError(f"{out.size} elements of {out.dtype} from {start} on are not a part of {spec}")
        if out.size:
            with self._file.descriptor() as fd:
                pread_full(fd, out, self._begin[name] + start * out.itemsize, self.path)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> "SafetensorsReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read_header(fd: int, size: int, path: Path) -> tuple[dict[str, Any], int]:
    """Return the header's entries and where the values begin."""
    if size < 8:
        raise StoreError(f"{path.name} has {size} bytes, too few for a safetensors file")
    length = int.from_bytes(os.pread(fd, 8, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise StoreError(
            f"{path.name} claims a header of {length:,} bytes, more than the {MAX_HEADER_BYTES:,} that safetensors allows; "
            "it is damaged or no safetensors file"
        )
    if 8 + length > size:
        raise StoreError(
            f"{path.name} claims a header of {length:,} bytes but has {size - 8:,} bytes in all behind that claim"
        )
    text = os.pread(fd, length, 8)
    if text[:1] != b"{":
        raise StoreError(
            f"the header of {path.name} begins with {text[:8]!r}, expected '{{'; it is no safetensors file"
        )
    entries = read_json(text, f"the header of {path.name}")
    if not isinstance(entries, dict):
        raise StoreError(f"the header of {path.name} is not a JSON object")
    return entries, 8 + length


def _metadata(found: Any, path: Path) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise StoreError(f"{METADATA} in the header of {path.name} is not an object of texts")
    return dict(found)


def recorded_roles(text: str, label: str) -> dict[str, Role]:
    """Return the roles that graftwork noted in a file: see `roles_text`.

    Raises:
        StoreError: If the note is not one.
    """
    found = read_json(text.encode(), label) if text else {}
    try:
        return {name: Role(role) for name, role in found.items()}
    except (AttributeError, ValueError) as error:
        raise StoreError(f"{label} does not map tensors to roles: {text[:60]!r}") from error


def _entry(name: str, entry: Any, path: Path) -> tuple[TensorSpec, tuple[int, int]]:
    """Return what one entry of the header says, once it agrees with itself."""
    where = f"tensor {name!r} of {path.name}"
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise StoreError(f"{where} has a name that is not Unicode text") from error
    if not isinstance(entry, dict):
        raise StoreError(f"{where} is described by {_short(entry)}, expected an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise StoreError(f"{where} has elements of type {_short(dtype)}; graftwork reads {', '.join(DTYPES)}")
    if not isinstance(shape, list) or not all(_counts(size) for size in shape):
        raise StoreError(f"{where} has the shape {_short(shape)}, expected a list of sizes")
    if len(shape) > MAX_AXES:
        raise StoreError(f"{where} has {len(shape):,} axes; graftwork reads tensors of at most {MAX_AXES}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_counts(offset) for offset in offsets):
        raise StoreError(f"{where} lies at {_short(offsets)}, expected two offsets")
    spec = TensorSpec(name=name, shape=tuple(shape), dtype=DTYPES[dtype])
    claimed = ITEMSIZE[spec.dtype]
    for size in shape:
        claimed *= max(size, 1)
    if claimed >= 1 << 63:
        raise StoreError(f"{where} has the shape {_short(shape)}, which no memory holds")
    begin, end = offsets
    if end - begin != spec.size_bytes:
        raise StoreError(
            f"{where} has the shape {_short(shape)} in {dtype}, which takes {spec.size_bytes:,} bytes, "
            f"but lies at {begin:,} to {end:,}, which is {end - begin:,}"
        )
    return spec, (begin, end)


def _counts(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def with_role(spec: TensorSpec, role: Role) -> TensorSpec:
    """Return `spec` in another role."""
    return TensorSpec(name=spec.name, shape=spec.shape, dtype=spec.dtype, role=role)


# Roles -------------------------------------------------------------------------------------------------------------


def roles_of(
    dtypes: Mapping[str, str], recorded: Mapping[str, Role] | None = None, *, quantized: bool = False
) -> dict[str, Role]:
    """Return every tensor's role, of which the format itself says nothing.

    Floats are weights, save BatchNorm's statistics. Integers and booleans are counters (positions, masks, batches seen), save
    seeds. 8-bit elements are codes where their name, or a neighbour that holds scales, says so; float8 always. What scales
    codes is as quantized as they are. What graftwork recorded goes before all that, unless it calls integers weights.

    Args:
        dtypes: All tensors of a model (companions may lie in another shard).
        recorded: Roles that a file of graftwork's notes.
        quantized: Whether the model's configuration declares quantization: then all 8-bit integers are codes.
    """
    return overruled(_inferred(dtypes, quantized), recorded or {}, dtypes)


def overruled(inferred: Mapping[str, Role], recorded: Mapping[str, Role], dtypes: Mapping[str, str]) -> dict[str, Role]:
    """Return the roles that names and dtypes tell, save where a note knows better and can be right."""
    known = {name: role for name, role in recorded.items() if name in inferred and _possible(role, dtypes[name])}
    return {**inferred, **known}


def roles_text(specs: Iterable[TensorSpec], inferred: Mapping[str, Role]) -> str:
    """Return the note of those roles that a reader would not infer, empty where there are none."""
    roles = {
        spec.name: spec.role.value
        for spec in specs
        if spec.role is not inferred[spec.name] and _possible(spec.role, spec.dtype)
    }
    return json.dumps(roles, ensure_ascii=False) if roles else ""


def _possible(role: Role, dtype: str) -> bool:
    return dtype in FLOATS or role not in (Role.WEIGHT, Role.STATISTIC)


def _inferred(dtypes: Mapping[str, str], quantized: bool) -> dict[str, Role]:
    parts = {name: _split(name) for name in dtypes}
    scaled = {owner for owner, leaf in parts.values() if leaf in COMPANIONS}

    def is_code(name: str) -> bool:
        dtype, (owner, leaf) = dtypes[name], parts[name]
        if dtype in ("int8", "uint8"):
            named = leaf in CODED or leaf.endswith(("_blocks", "_scales")) or leaf.startswith("bitsandbytes__")
            return quantized or named or name in scaled or owner in scaled
        return dtype.startswith("float8") or (leaf in PACKED and dtype not in FLOATS)

    codes = {name for name in dtypes if is_code(name)}
    coded = codes | {parts[name][0] for name in codes}
    found = {}
    for name, dtype in dtypes.items():
        owner, leaf = parts[name]
        if name in codes or (leaf in COMPANIONS and owner in coded):
            found[name] = Role.QUANTIZED
        elif dtype in FLOATS:
            found[name] = Role.STATISTIC if leaf in STATISTICS else Role.WEIGHT
        else:
            found[name] = Role.SEED if "seed" in leaf else Role.COUNTER
    return found


def _split(name: str) -> tuple[str, str]:
    """Return the owner and the last part of a name, whose parts are separated by dots or by slashes."""
    at = max(name.rfind("."), name.rfind("/"))
    return name[: max(at, 0)], name[at + 1 :]


# Writing -----------------------------------------------------------------------------------------------------------


class SafetensorsWriter:
    """A ``.safetensors`` file being made; see `graftwork.stores.base.Writer` for the arguments.

    Wider elements come first, so that every tensor is aligned; within one width the order of `specs` is kept.

    Args beyond those of every writer:
        metadata: Free texts for the file's header; by default those of a safetensors or Hugging Face `like`, whose
            ``{"format": "pt"}`` transformers asks for.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        like: Reader,
        provenance: str,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        texts = dict(metadata_of(like) if metadata is None else metadata)
        if provenance:
            texts[RECORD] = provenance
        text, offsets, size = _lay_out(specs, texts, path)
        begin = 8 + len(text)
        self._places = {spec.name: (begin + offsets[spec.name], spec) for spec in specs}
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{path} cannot be made: {error.strerror or error}") from error
        try:
            reserve(self._fd, begin + size, path)
            self._sink = Sink(self._fd, begin + size)
            os.pwrite(self._fd, len(text).to_bytes(8, "little"), 0)
            done = 0
            while done < len(text):
                done += os.pwrite(self._fd, text[done:], 8 + done)
        except BaseException:
            self.close()
            raise

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        begin, spec = self._places[name]
        if block.itemsize != ITEMSIZE[spec.dtype] or start < 0 or start + block.size > spec.size:
            raise ValueError(f"{block.size} elements of {block.dtype} from {start} on are not a part of {spec}")
        return block.size > 0 and self._sink.write(block, begin + start * block.itemsize)

    def finish(self) -> None:
        """Sync the file."""
        os.fsync(self._fd)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def unit_axis_of(names: Iterable[str], metadata: Mapping[str, str]) -> int:
    """Return the axis that counts the outputs of a layer: PyTorch's first, unless the file says or shows that Keras laid it out.

    Args:
        names: The tensors' names; graftwork writes those of Keras models with slashes.
        metadata: The free texts of the file; transformers notes there whose tensors they are.
    """
    return -1 if metadata.get("format") == "tf" or any("/" in name for name in names) else 0


def metadata_of(like: Reader) -> Mapping[str, str]:
    """Return the free texts of a source that is made of safetensors files, none for any other."""
    found: Mapping[str, str] = getattr(like, "metadata", {})
    return found if like.header.format in ("safetensors", "huggingface") else {}


def _lay_out(specs: Sequence[TensorSpec], texts: dict[str, str], path: Path) -> tuple[bytes, dict[str, int], int]:
    """Return the header, every tensor's offset behind it, and how many bytes all values take."""
    offsets: dict[str, int] = {}
    entries: dict[str, Any] = {}
    at = 0
    for spec in sorted(specs, key=lambda spec: -ITEMSIZE[spec.dtype]):
        if spec.dtype not in CODES:
            raise OutputError(
                f"tensor {spec.name!r} is {spec.dtype}, which safetensors does not hold; leave it out of a copy first (graftwork ckpt drop)"
            )
        if spec.name == METADATA or spec.name in entries:
            raise OutputError(
                f"a safetensors file cannot hold {'two tensors' if spec.name in entries else 'a tensor'} "
                f"called {spec.name!r}; rename it"
            )
        offsets[spec.name] = at
        entries[spec.name] = {
            "dtype": CODES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [at, at + spec.size_bytes],
        }
        at += spec.size_bytes
    roles = roles_text(specs, roles_of({spec.name: spec.dtype for spec in specs}))
    if roles:
        texts[ROLES] = roles
    header = {METADATA: texts, **entries} if texts else entries
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"a tensor's name or the metadata of {path.name} is not Unicode text: {error}") from error
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise OutputError(
            f"the header of {path.name} would take {len(text):,} bytes, more than the {MAX_HEADER_BYTES:,} that safetensors "
            "allows; write a Hugging Face directory, whose shards have one each"
        )
    return text, offsets, at


def reserve(fd: int, size: int, path: Path) -> None:
    """Give a new file its final size, with disk space behind it where the file system can.

    Raises:
        OutputError: If the disk does not have the space; looked at first, since a failing reservation fills the disk.
    """
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if disk.f_blocks and size > free:
        raise OutputError(f"{path} needs {size:,} bytes but its disk has {free:,} left; free space or write elsewhere")
    try:
        try:
            os.posix_fallocate(fd, 0, size)
        except (OSError, AttributeError) as error:  # macOS has no posix_fallocate, some file systems cannot
            if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            os.ftruncate(fd, size)
    except OSError as error:
        raise OutputError(
            f"{path} needs {size:,} bytes, which cannot be had: {error.strerror or error}; free space or write elsewhere"
        ) from error


def recognise(path: Path) -> bool:
    """Return whether a path is called as a safetensors file, or begins as one does."""
    if not path.is_file():
        return False
    if path.name.endswith(".safetensors"):
        return True
    try:
        with path.open("rb") as file:
            begin = file.read(9)
    except OSError:
        return False
    return begin[8:] == b"{" and int.from_bytes(begin[:8], "little") <= min(MAX_HEADER_BYTES, path.stat().st_size - 8)


register(
    Format(
        name="safetensors",
        summary="One safetensors file (.safetensors): no architecture",
        suffixes=(".safetensors",),
        recognise=recognise,
        open=SafetensorsReader,
        create=SafetensorsWriter,
    )
)

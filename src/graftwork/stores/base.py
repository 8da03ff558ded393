"""What every store promises: headers first, flat blocks after, one way to be found.

A store is one file format. Its *reader* tells all specs from headers and fills blocks; its *writer* gets all specs first and lays the
file out at once, so that any block can be written at any time by any thread. Both sides deal in *raw* elements, as they lie in
the file: bfloat16 is ``uint16``, bool is ``uint8``, the rest is NumPy's dtype, little-endian. Turning raw elements into numbers is the
executor's work.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from graftwork.architecture.layer import Layer
from graftwork.errors import StoreError, UnknownNameError
from graftwork.lazy import NDArray, np
from graftwork.stores.model_card import Card
from graftwork.tensor import ITEMSIZE, TensorSpec

Raw = NDArray[Any]
"""A flat array of raw elements."""

_RAW = {"bfloat16": "<u2", "bool": "u1", "float8_e4m3fn": "u1", "float8_e5m2": "u1"}


class _RawDtypes(dict[str, "np.dtype[Any]"]):
    """Dtypes by name, each made when it is wanted."""

    def __missing__(self, name: str) -> "np.dtype[Any]":
        if name not in ITEMSIZE:
            raise KeyError(name)
        self[name] = np.dtype(_RAW.get(name, name)).newbyteorder("<")
        return self[name]


RAW_DTYPES: Mapping[str, "np.dtype[Any]"] = _RawDtypes()
"""How a dtype's elements lie in a file, as a NumPy dtype."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A tensor's values as one range of bytes of one open file, contiguous and uncompressed."""

    fd: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a source says of itself beside its tensors.

    Attributes:
        format: Name of the store format that read it.
        architecture: The model's layers, where the file holds a Keras configuration.
        config: That configuration as JSON, or a Hugging Face ``config.json``.
        config_kind: ``"keras3"``, ``"keras2"``, ``"huggingface"`` or ``""`` when there is none.
        library: ``"Keras 3.15.1"`` and the like, where the file says.
        files: Every file that belongs to the source.
        size_bytes: Their sizes added up.
        assets: Further contents that belong to the model's function (lookup vocabularies …): path inside the model → digest.
        provenance: The record that graftwork left when it made the file.
        notes: What a user should know about how the file was read (a name that had to stay an index, …).
        unit_axis: The axis of its tensors that counts the outputs of a layer: -1 in Keras's layout, 0 in PyTorch's.
        twins: Tensors that the file holds twice, by the name of the first; both must be given the same values.
        cards: What is known of the models that it consists of: one, and one for each adapter.
    """

    format: str
    architecture: Layer | None = None
    config: Any = None
    config_kind: str = ""
    library: str = ""
    files: tuple[Path, ...] = ()
    size_bytes: int = 0
    assets: Mapping[str, str] = field(default_factory=dict)
    provenance: Any = None
    notes: tuple[str, ...] = ()
    unit_axis: int = -1
    twins: Mapping[str, str] = field(default_factory=dict)
    cards: tuple[Card, ...] = ()


@runtime_checkable
class Reader(Protocol):
    """An open source. Close it, or use it in a ``with``; it may be read from several threads at once."""

    path: Path
    header: Header

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name, in file order, without reading values."""
        ...

    def key(self, name: str) -> str:
        """Return the store's own key of a tensor (h5 path, tensor name in a safetensors header …)."""
        ...

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor, beginning at flat position `start`."""
        ...

    def close(self) -> None:
        """Close every file."""
        ...

    def __enter__(self) -> "Reader": ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Writer(Protocol):
    """A file being made under a temporary name.

    Args (of every writer's constructor):
        path: Where to write; the caller renames it when all is well.
        specs: Every tensor that will be written, by canonical name, in order.
        like: An open source whose everything-but-values (configuration, assets, keys) the result keeps.
        provenance: JSON that the file carries for `verify` and `inspect`, without a date, so that equal inputs give equal bytes.
    """

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor from flat position `start` on; blocks never overlap and come from any thread.

        Returns:
            Whether the block was read back from the file and compared; what was not, will be when the result is reopened.
        """
        ...

    def finish(self) -> None:
        """Complete the file(s) and sync them to disk; every element has been written."""
        ...

    def close(self) -> None:
        """Close without completing; the caller removes what is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One row of the registry.

    Attributes:
        name: What users call it (``convert --to NAME``).
        summary: One line for help and docs.
        suffixes: Endings of paths that choose this format for writing, longest first.
        directory: Whether it is a directory of files.
        recognise: Whether an existing path is of this format, from its name and first bytes.
        open: Opens an existing path for reading.
        create: Begins a file; None for a format that is only read.
        holds_architecture: Whether it carries the model's configuration.
        files_beside: Whether a result is several files in the target's own directory (an index and its shards); the writer then
            makes a directory with them, and they are moved from there.
        part: With `files_beside`, how the names of the further files go on behind the target's without its ending, as a glob.
        lists_parts: Whether its index names those that belong to it; else all that are called so do.
        check: Refuses tensors that the format could not hold given the source that lends the rest, before anything is written.
        order: Formats are asked in this order whether they recognise a path; the less a format looks at, the later.
    """

    name: str
    summary: str
    suffixes: tuple[str, ...]
    recognise: Callable[[Path], bool]
    open: Callable[[Path], Reader]
    create: Callable[..., Writer] | None
    directory: bool = False
    holds_architecture: bool = False
    files_beside: bool = False
    part: str = "_[0-9][0-9][0-9][0-9][0-9].*"
    lists_parts: bool = True
    order: int = 0
    check: Callable[[Sequence[TensorSpec], Reader], object] | None = None


FORMATS: dict[str, Format] = {}
"""Every store format by name."""


def register(row: Format) -> Format:
    """Add a format to the registry; a second one of the same name is a mistake."""
    if row.name in FORMATS:
        raise ValueError(f"store format {row.name!r} is registered twice")
    FORMATS[row.name] = row
    return row


class SpecTable:
    """Names, specs, keys and places of the tensors of a source: what readers share.

    Args:
        path: The source, for messages.
        what: ``"tensor in birds.keras"``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._specs: dict[str, TensorSpec] = {}
        self._keys: dict[str, str] = {}

    def add(self, spec: TensorSpec, key: str) -> None:
        """Add a tensor; a canonical name that is taken already is a mistake of the caller."""
        if spec.name in self._specs:
            raise StoreError(
                f"two tensors of {self.path.name} are called {spec.name!r} ({self._keys[spec.name]!r} and {key!r})"
            )
        self._specs[spec.name] = spec
        self._keys[spec.name] = key

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """All specs by canonical name, in the order they were added."""
        return self._specs

    def __getitem__(self, name: str) -> TensorSpec:
        try:
            return self._specs[name]
        except KeyError:
            raise UnknownNameError(f"tensor in {self.path.name}", name, self._specs) from None

    def key(self, name: str) -> str:
        """Return the store's own key of a tensor."""
        self[name]
        return self._keys[name]


def pread_full(fd: int, out: Raw | bytearray, offset: int, path: Path) -> None:
    """Fill `out` from a byte range of a file.

    Raises:
        StoreError: If the file ends early (it was cut short while it was open).
    """
    if fd < 0:
        raise StoreError(f"{path.name} is closed")
    view = memoryview(out if isinstance(out, bytearray) else out.data).cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count <= 0:
            raise StoreError(
                f"{path.name} ends at byte {offset + done}, where {len(view) - done} more bytes of a tensor should be"
            )
        done += count

"""Is a file sound? Opened, every CRC checked, every value looked at, and loaded by Keras in a process of its own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.models.fresh import load_in_fresh_process
from graftwork.models.own import imports_for
from graftwork.report.measure import count_nonfinite
from graftwork.stores import FORMATS, open_store
from graftwork.stores.base import Header
from graftwork.writing import counting


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        path: The file or directory.
        format: Its format.
        tensors: How many tensors it holds.
        nonfinite: Tensors that hold NaN or infinity, with how many.
        loaded: What Keras says of the model it loaded in a fresh process; None when it was not asked to.
        load_error: Why Keras did not load it; empty when it did or was not asked.
        provenance: Graftwork's record of how it was made, or None.
        notes: What should be known.
    """

    path: str
    format: str
    tensors: int
    nonfinite: Mapping[str, int]
    loaded: Mapping[str, Any] | None
    load_error: str
    provenance: Any
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against using the file."""
        return not self.nonfinite and not self.load_error

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "sound": self.sound}


def verify(
    path: Path,
    *,
    load: bool,
    custom: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Check a file; see `graftwork.verify`. `custom` are the files and modules that its classes come from."""
    with open_store(path) as reader:
        total = sum(spec.size_bytes for spec in reader.specs().values())
        count = counting("verify", total, progress)
        check = getattr(reader, "check", None)
        if check is not None:
            check()
        nonfinite = count_nonfinite(reader, count)
        header, tensors, place = reader.header, len(reader.specs()), reader.path
    notes = list(header.notes)
    loaded, error = None, ""
    if load and _loads_in_keras(header):
        try:
            loaded = load_in_fresh_process(place, custom=custom, imports=imports_for(header.architecture))
        except StoreError as refusal:
            error = str(refusal)
    elif load:
        notes.append(f"format {header.format!r} is not one that Keras loads as a model, so it was not loaded")
    return Verification(
        path=str(path),
        format=header.format,
        tensors=tensors,
        nonfinite=nonfinite,
        loaded=loaded,
        load_error=error,
        provenance=header.provenance,
        notes=tuple(notes),
    )


def _loads_in_keras(header: Header) -> bool:
    return FORMATS[header.format].holds_architecture and header.config is not None and header.format != "preset"

"""What will be made of SavedModels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ServablePlan:
    """What a verb on SavedModels will make, as far as their files tell.

    Attributes:
        kind: The verb's word.
        sources: Label and path of everything that goes in.
        files: Every file that is read.
        format: What comes out: ``"saved_model"``, ``"frozen_graph"`` or ``"keras"``.
        signatures: One row for each signature of the result (or each port of a Keras model): ``signature``, ``port`` (``input`` or
            ``output``), ``name``, ``shape``, ``dtype``.
        size_bytes: About what the result takes on disk.
        make: Writes the whole result to a path, looks at it again in a fresh process, and returns what the user should know.
        tables: What was decided, by what it is about, as rows of plain values.
        notes: What the user should know beforehand.
    """

    kind: str
    sources: tuple[tuple[str, Path], ...]
    files: tuple[Path, ...]
    format: str
    signatures: tuple[Mapping[str, Any], ...]
    size_bytes: int
    make: Callable[[Path], Sequence[str]]
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

"""The record that every result carries: how it was made, from what, by which version.

It has no date and no absolute path, so that equal inputs give equal bytes wherever and whenever they are merged.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from graftwork import __version__
from graftwork.stores.base import Reader

PASSING = "passing"
"""What the record of a result says that is there only until a recipe ends; what is made of it tells the record as its own."""


def record(
    verb: str,
    settings: Mapping[str, Any],
    sources: Sequence[tuple[str, Reader | None]],
    *,
    companions: Sequence[tuple[str, Reader]] = (),
    custom_objects: Sequence[str] = (),
    passing: bool = False,
) -> str:
    """Return the record as JSON.

    Args:
        verb: What was done, as in ``merge``.
        settings: The step of a recipe that does it again.
        sources: Label and open source of every model that went in; None instead of a source for a live model.
        companions: The same of files that told more about them.
        custom_objects: The files and modules that define classes and functions of the result which Keras does not know.
        passing: Whether the result is there only until a recipe ends.
    """
    content = {
        "graftwork": __version__,
        verb: _plain(settings),
        "sources": [describe(label, reader) for label, reader in sources],
    }
    if companions:
        content["companions"] = [describe(label, reader) for label, reader in companions]
    if custom_objects:
        content["custom_objects"] = list(custom_objects)
    if passing:
        content[PASSING] = True
    return json.dumps(content, sort_keys=True, ensure_ascii=False)


def describe(label: str, reader: Reader | None) -> dict[str, Any]:
    """Return what identifies a source: file name, format, size and a digest of its header; how it was made, if it will be gone."""
    if reader is None:
        return {"label": label, "format": "live model"}
    header = reader.header
    digest = hashlib.blake2b(digest_size=12)
    for name, spec in reader.specs().items():
        digest.update(f"{name}\0{spec.shape}\0{spec.dtype}\0".encode())
    digest.update(json.dumps(header.config, sort_keys=True, default=str).encode())
    found = {
        "label": label,
        "file": reader.path.name,
        "format": header.format,
        "size_bytes": header.size_bytes,
        "header_digest": digest.hexdigest(),
    }
    if header.cards:
        found["cards"] = [card.to_dict() for card in header.cards]
    if isinstance(header.provenance, dict) and header.provenance.get(PASSING):
        found["made"] = {key: value for key, value in header.provenance.items() if key != PASSING}
    if header.library:
        found["library"] = header.library
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items() if not _unsaid(v)}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _unsaid(value: Any) -> bool:
    """Return whether a setting says nothing; 0 and false do say something."""
    return value is None or (isinstance(value, Mapping | list | tuple) and not value)

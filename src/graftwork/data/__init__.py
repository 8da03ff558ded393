"""Data to train and judge models with: one file per kind of source, opened by `open_data`. Names are loaded when they are used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graftwork.data.base import Batch, Column, Rows, Stream, Table
    from graftwork.data.description import Description
    from graftwork.data.opening import KINDS, open_data
    from graftwork.data.samples import Samples

_HOMES = {
    "base": ("Batch", "Column", "Rows", "Stream", "Table"),
    "description": ("Description",),
    "opening": ("KINDS", "open_data"),
    "samples": ("Samples",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["KINDS", "Batch", "Column", "Description", "Rows", "Samples", "Stream", "Table", "open_data"]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'graftwork.data' has no attribute {name!r}")
    return getattr(importlib.import_module(f"graftwork.data.{_HOME_OF[name]}"), name)

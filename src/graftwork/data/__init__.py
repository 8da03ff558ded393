"""Data to train and judge models with: one file per kind of source, opened by `open_data`. Names are loaded when they are used."""

from typing import TYPE_CHECKING

from graftwork.lazy import names_in

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

__all__ = ["KINDS", "Batch", "Column", "Description", "Rows", "Samples", "Stream", "Table", "open_data"]

__getattr__ = names_in(__name__, _HOMES)

"""Data to train and judge models with: one file per kind of source, opened by `open_data`."""

from graftwork.data.base import Batch, Column, Rows, Stream, Table
from graftwork.data.opening import KINDS, open_data
from graftwork.data.samples import Samples

__all__ = ["KINDS", "Batch", "Column", "Rows", "Samples", "Stream", "Table", "open_data"]

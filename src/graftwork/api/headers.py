"""Looking at a source's headers, with no more loaded than its format needs: this is what people wait for most often."""

from os import PathLike
from pathlib import Path
from typing import Any

from graftwork.report.inspection import Inspection
from graftwork.report.inspection import inspect as _inspect
from graftwork.stores import open_store


def inspect(model: str | PathLike[str] | Any) -> Inspection:
    """Return what a model is, from headers alone: format, layers, parameters, dtypes, roles, tensors, provenance.

    Args:
        model: A path or a live model.

    Raises:
        StoreError: If it cannot be read.
    """
    if isinstance(model, str | PathLike):
        with open_store(Path(model)) as reader:
            return _inspect(reader)
    from graftwork.api.sources import on_disk

    with on_disk([model]) as (paths, _), open_store(paths[0]) as reader:
        return _inspect(reader)

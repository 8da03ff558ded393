"""Looking at a source's headers, with no more loaded than its format needs: this is what people wait for most often."""

import contextlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any

from graftwork.report.inspection import Inspection, TensorRow, rows_of
from graftwork.report.inspection import inspect as _inspect
from graftwork.stores import Reader, open_store


def inspect(model: str | PathLike[str] | Any) -> Inspection:
    """Return what a model is, from headers alone: format, layers, parameters, dtypes, roles, tensors, provenance.

    Args:
        model: A path or a live model.

    Raises:
        StoreError: If it cannot be read.
    """
    with _opened(model) as reader:
        return _inspect(reader)


def ls(model: str | PathLike[str] | Any, *patterns: str) -> tuple[TensorRow, ...]:
    """Return a row for each tensor of a checkpoint or any other model: name, shape, dtype, size, role and key.

    Args:
        model: A path or a live model.
        *patterns: Globs (or ``re:`` expressions) over names; by default all tensors are listed.

    Raises:
        StoreError: If it cannot be read.
        OptionError: If a pattern fits none.
    """
    with _opened(model) as reader:
        rows = rows_of(reader)
        if not patterns:
            return rows
        from graftwork.ckpt.names import chosen

        wanted = set(chosen([row.name for row in rows], reader.path.name, include=patterns))
        return tuple(row for row in rows if row.name in wanted)


@contextlib.contextmanager
def _opened(model: str | PathLike[str] | Any) -> Iterator[Reader]:
    if isinstance(model, str | PathLike):
        with open_store(Path(model)) as reader:
            yield reader
        return
    from graftwork.api.sources import on_disk

    with on_disk([model]) as (paths, _), open_store(paths[0]) as reader:
        yield reader

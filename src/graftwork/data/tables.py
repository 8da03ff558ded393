"""CSV and Parquet, read by pyarrow in pieces."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from graftwork.data.spool import Spool, Spooled
from graftwork.errors import DataError

PIECE = 1 << 24
"""Bytes of a CSV file that are read at a time."""


def open_csv(files: Sequence[Path]) -> Spooled:
    """Open files of comma-separated values with one line of names at the top.

    Raises:
        DataError: If they cannot be read, or an entry is missing.
    """
    return _spooled(files, _csv)


def open_parquet(files: Sequence[Path]) -> Spooled:
    """Open Parquet files; a column of lists of one length is a column of vectors.

    Raises:
        DataError: If they cannot be read, or an entry is missing.
    """
    return _spooled(files, _parquet)


def _spooled(files: Sequence[Path], pieces: Any) -> Spooled:
    arrow = _arrow()
    spool = Spool(", ".join(file.name for file in files))
    for file in files:
        at = 0
        try:
            for piece in pieces(file):
                for name, column in zip(piece.schema.names, piece.columns, strict=True):
                    if column.null_count:
                        first = column.is_null().to_pylist().index(True)
                        raise DataError(
                            f"column {name!r} of {file.name} has no value in row {at + first + 1:,}; fill it, or leave that row out"
                        )
                    spool.add(name, _values(arrow, column, name, file))
                at += piece.num_rows
        except (OSError, arrow.ArrowException) as error:
            raise DataError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    return spool.table(files)


def _csv(file: Path) -> Iterator[Any]:
    from pyarrow import csv

    with csv.open_csv(file, read_options=csv.ReadOptions(block_size=PIECE)) as reader:
        yield from reader


def _parquet(file: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file) as found:
        yield from found.iter_batches()


def _values(arrow: Any, column: Any, name: str, file: Path) -> Any:
    kind = column.type
    if arrow.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    if arrow.types.is_list(kind) or arrow.types.is_fixed_size_list(kind) or arrow.types.is_large_list(kind):
        inner = column.flatten().to_numpy(zero_copy_only=False)
        if not len(column) or len(inner) % len(column) or any(len(row) != len(inner) // len(column) for row in column):
            raise DataError(f"the lists in column {name!r} of {file.name} are of different lengths; pad them to one")
        return inner.reshape(len(column), -1)
    if not (arrow.types.is_primitive(kind) or arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
        raise DataError(f"column {name!r} of {file.name} holds {kind}; expected numbers, texts, or lists of numbers")
    return column.to_numpy(zero_copy_only=False)


def _arrow() -> Any:
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise DataError("to read CSV and Parquet, install pyarrow: pip install 'graftwork[data]'") from error
    return arrow

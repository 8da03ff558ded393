"""CSV and Parquet, read by pyarrow in pieces."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.data.arrays import fingerprint_of
from graftwork.data.base import Column
from graftwork.data.spool import Spool, Spooled
from graftwork.errors import DataError

PIECE = 1 << 21
"""Bytes of a file that are read at a time. pyarrow reads some thirty pieces of a CSV file ahead, and its first tells the columns' types."""

LONGEST = 1 << 28
"""The longest piece, and line, of a CSV file."""

ROWS = 1 << 16
"""The most rows of a Parquet file that are read at a time."""


class _AgainError(Exception):
    """A CSV file has to be read again: a column needs another type than its first lines told, or a line is longer than a piece."""


@dataclass
class _Known:
    """What is known by now of CSV files: the types of columns, and how long a piece has to be."""

    kinds: dict[str, Any] = field(default_factory=dict)
    piece: int = PIECE


def open_csv(files: Sequence[Path]) -> Spooled:
    """Open files of comma-separated values with one line of names at the top.

    A column is of whole numbers, of numbers, of true and false, or of texts, as its values ask for.

    Raises:
        DataError: If they cannot be read.
    """
    known = _Known()
    while True:
        try:
            return _spooled(files, "csv", lambda file: _csv(file, known))
        except _AgainError:
            continue


def open_parquet(files: Sequence[Path]) -> Spooled:
    """Open Parquet files; a column of lists of one length is a column of vectors.

    Raises:
        DataError: If they cannot be read.
    """
    return _spooled(files, "parquet", _parquet)


def _spooled(files: Sequence[Path], word: str, pieces: Callable[[Path], Iterator[Any]]) -> Spooled:
    arrow = _arrow()
    known = fingerprint_of(files, word)
    names: list[str] | None = None
    with Spool(", ".join(file.name for file in files)) as spool:
        for file in files:
            at = 1 if word == "csv" else 0  # as a spreadsheet and pyarrow count, the names are the first row
            try:
                for piece in pieces(file):
                    names = names or _checked(piece.schema.names, file)
                    if piece.schema.names != names:
                        raise DataError(
                            f"{file.name} has the columns {', '.join(piece.schema.names)}, and {files[0].name} {', '.join(names)}"
                        )
                    for name, column in zip(names, piece.columns, strict=True):
                        _add(spool, name, column, file, at)
                    at += piece.num_rows
            except (OSError, arrow.ArrowException) as error:
                raise DataError(f"{file} cannot be read: {str(error).splitlines()[0][:300]}") from error
        return spool.table(known)


def _checked(names: list[str], file: Path) -> list[str]:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{file.name} has two columns {twice[0]!r}; call one of them otherwise")
    if all(_is_number(name) for name in names):
        raise DataError(
            f"the first line of {file.name} holds numbers ({', '.join(names[:3])}); expected the names of the columns"
        )
    other = next((mark for mark in (";", "\t", "|") if mark in names[0]), None)
    if len(names) == 1 and other:
        raise DataError(f"the columns of {file.name} are separated by {other!r}; expected commas")
    return names


def _csv(file: Path, known: _Known) -> Iterator[Any]:
    import pyarrow as arrow
    from pyarrow import csv

    names: list[str] = []
    try:
        reading = csv.ReadOptions(block_size=known.piece, use_threads=False)  # one thread counts the rows
        converting = csv.ConvertOptions(column_types=known.kinds)
        with csv.open_csv(file, read_options=reading, convert_options=converting) as reader:
            names = reader.schema.names
            for piece in reader:
                known.kinds = known.kinds or dict(zip(names, piece.schema.types, strict=True))
                yield piece
    except arrow.ArrowInvalid as error:
        _learn(str(error), names, known)
        raise


def _learn(said: str, names: Sequence[str], known: _Known) -> None:
    """Take a longer piece, or a wider type for the column whose value pyarrow could not convert, if it says so."""
    import pyarrow as arrow

    if "straddling" in said and known.piece < LONGEST:
        known.piece *= 8
        raise _AgainError
    found = re.search(r"In CSV column #(\d+): .*?conversion error to (\w+).*?: invalid value '(.*)'", said, re.DOTALL)
    names = names or list(known.kinds)
    if found and int(found[1]) < len(names):
        name = names[int(found[1])]
        numeric = found[2] in ("int64", "null") and _is_number(found[3])
        wider = arrow.float64() if numeric else arrow.string()
        if known.kinds.get(name) != wider:
            known.kinds = {**known.kinds, name: wider}
            raise _AgainError


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parquet(file: Path) -> Iterator[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(file, buffer_size=PIECE, pre_buffer=False) as found:
        groups = [found.metadata.row_group(number) for number in range(found.metadata.num_row_groups)]
        most = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
        yield from found.iter_batches(batch_size=int(min(ROWS, max(1, PIECE // max(1, most)))))


def _add(spool: Spool, name: str, column: Any, file: Path, at: int) -> None:
    """Add a piece of a column, or why it cannot be used."""
    import pyarrow as arrow
    from pyarrow import compute

    where = f"column {name!r} of {file.name}"
    if arrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, arrow.BaseExtensionType):
        column = column.storage
    whole = Column((), str(column.type))
    if column.null_count:
        first = compute.index(column.is_null(), arrow.scalar(value=True)).as_py()
        reason = f"{where} has no value in row {at + first + 1:,}; fill it, or leave that row out"
        spool.useless(name, whole, reason)
        return
    count, shape = len(column), []
    while _is_list(column.type):
        sizes = compute.list_value_length(column)
        size = sizes[0].as_py() if len(sizes) else 0
        if not compute.all(compute.equal(sizes, size), min_count=0).as_py():
            spool.useless(name, whole, f"the lists in {where} are of different lengths; pad them to one")
            return
        shape.append(size)
        column = column.flatten()
    if column.null_count:
        spool.useless(name, whole, f"{where} has lists with missing values; fill them")
        return
    kind = column.type
    if arrow.types.is_decimal(kind):
        column = column.cast(arrow.float64())
    if arrow.types.is_string(kind) or arrow.types.is_large_string(kind):
        texts = column.cast(arrow.large_string())
        lengths = compute.binary_length(texts).to_numpy(zero_copy_only=False)
        spool.add_texts(name, lengths, _bytes_of(texts), shape)
    elif arrow.types.is_boolean(kind) or arrow.types.is_integer(kind) or arrow.types.is_floating(column.type):
        values = column.to_numpy(zero_copy_only=False)
        spool.add(name, values.reshape(count, *shape))
    elif arrow.types.is_binary(kind):
        spool.useless(name, whole, f"{where} holds bytes that are no text in UTF-8")
    else:
        spool.useless(name, whole, f"{where} holds {whole.dtype}; expected numbers, texts, or lists of them")


def _is_list(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_list(kind) or arrow.types.is_large_list(kind) or arrow.types.is_fixed_size_list(kind))


def _bytes_of(texts: Any) -> Any:
    """Return the bytes of an array of large strings, one text after the other."""
    ends = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = texts.buffers()[2]
    return b"" if data is None or not len(ends) else data[int(ends[0]) : int(ends[-1])]


def _arrow() -> Any:
    try:
        import pyarrow as arrow
    except ImportError as error:
        raise DataError("to read CSV and Parquet, install pyarrow: pip install 'graftwork[data]'") from error
    return arrow

"""From whatever describes data to samples: a path, arrays, a description, or something that gives batches."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from graftwork.data.arrays import Arrays, open_npy, open_npz
from graftwork.data.base import Rows, Stream, Table
from graftwork.data.description import SOURCES, Description
from graftwork.data.images import Images
from graftwork.data.records import open_tfrecord
from graftwork.data.samples import Samples
from graftwork.data.streams import Batches, called, is_stream
from graftwork.data.tables import open_csv, open_parquet
from graftwork.errors import DataError, UnknownNameError

DESCRIPTIONS = (".yaml", ".yml", ".json")


def _files(root: Path, patterns: str | Sequence[str]) -> list[Path]:
    found = []
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        path = root / Path(pattern).expanduser()
        named = (
            [path]
            if path.is_file()
            else sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor) if path.anchor else path)))
        )
        if not named:
            raise DataError(f"there is no file {path}")
        found += named
    return found


def _folder(root: Path, name: str) -> Path:
    path = root / Path(name).expanduser()
    if not path.is_dir():
        raise DataError(f"there is no directory {path}")
    return path


def _npy(said: Description, root: Path) -> Table:
    paths = {"x": said.npy} if isinstance(said.npy, str) else said.npy or {}
    return open_npy({name: _files(root, path)[0] for name, path in paths.items()})


def _tfds(said: Description, root: Path) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError("to read a data set of TensorFlow Datasets, install tensorflow-datasets") from error
    columns = tfds.as_numpy(tfds.load(said.tfds, split=said.split, batch_size=-1))
    return Arrays(columns, f"{said.tfds} ({said.split})")


KINDS: dict[str, Callable[[Description, Path], Any]] = {
    "npz": lambda said, root: open_npz(_files(root, said.npz or "")[0]),
    "npy": _npy,
    "csv": lambda said, root: open_csv(_files(root, said.csv or ())),
    "parquet": lambda said, root: open_parquet(_files(root, said.parquet or ())),
    "images": lambda said, root: Images(_folder(root, said.images or ""), said.size, said.channels, said.classes),
    "tfrecord": lambda said, root: open_tfrecord(_files(root, said.tfrecord or ()), said.features),
    "tfds": _tfds,
    "python": lambda said, root: called(said.python or "", said.arguments),
}
"""How each kind of source is opened: to a table, a stream, or arrays in memory."""

ENDINGS = {
    ".npz": "npz",
    ".npy": "npy",
    ".csv": "csv",
    ".parquet": "parquet",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}


def open_data(data: Any, *, root: Path = Path(), **further: Any) -> Samples | Stream:
    """Open data.

    Args:
        data: A path (an ``.npz``, ``.npy``, ``.csv``, ``.parquet`` or ``.tfrecord`` file, a directory of images, or a YAML file with a
            description), a `Description` or a mapping that spells one, arrays (the inputs alone, ``(x, y)``, ``(x, y, weights)``, or a
            mapping of names to arrays), a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that makes a generator of batches.
        root: What paths are relative to.
        **further: Fields of the description that are said apart: ``x``, ``y``, ``weights``, ``classes`` and so on.

    Raises:
        DataError: If it cannot be read, or makes no sense.
        UnknownNameError: If there is no such column.
    """
    further = {name: value for name, value in further.items() if value is not None}
    if isinstance(data, Samples | Batches):
        return data
    said, table = _described(data, root, further)
    if table is None:
        kind = said.kind()
        if kind is None:
            raise DataError(f"the data says {_several(said)}; say exactly one of {', '.join(SOURCES)}")
        table = KINDS[kind](said, root)
        if not isinstance(table, Table):
            table = _table_of(table, f"{said.python or said.tfds}")
    if isinstance(table, Stream) and not isinstance(table, Table):
        given = [name for name in ("x", "y", "weights", "part", "scale") if getattr(said, name) is not None]
        if given:
            raise DataError(f"{table.name} yields batches of inputs, labels and weights; {given[0]!r} is for columns")
        return table
    return _roles(table, said)


def _several(said: Description) -> str:
    return " and ".join(name for name in SOURCES if getattr(said, name) is not None) or "nowhere where it lies"


def _described(data: Any, root: Path, further: Mapping[str, Any]) -> tuple[Description, Any]:
    """Return the description of data, and a table or stream where it is there already."""
    if isinstance(data, Description):
        return data.model_copy(update=dict(further)), None
    if isinstance(data, str | PathLike):
        path = root / Path(data).expanduser()
        if path.suffix in DESCRIPTIONS and path.is_file():
            return _parsed(_yaml(path), further, path), None
        kind = "images" if path.is_dir() else ENDINGS.get(path.suffix) or ENDINGS.get(Path(path.stem).suffix)
        if kind is None:
            raise DataError(
                f"{path} is no data that is known by its name ({', '.join(ENDINGS)}, a directory of images, or a description in YAML)"
            )
        return _parsed({kind: str(data)}, further, None), None
    if isinstance(data, Mapping) and not any(hasattr(value, "shape") for value in data.values()):
        return _parsed(data, further, None), None
    return _parsed({}, further, None), _table_of(data, "the data")


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error


def _parsed(said: Any, further: Mapping[str, Any], path: Path | None) -> Description:
    if not isinstance(said, Mapping):
        raise DataError(
            f"{path} holds {str(said)[:60]!r}, expected a description such as {{npz: data.npz, x: x, y: y}}"
        )
    try:
        return Description.model_validate({**said, **further})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UnknownNameError("field of a description of data", place, Description.model_fields) from error
        raise DataError(f"{place!r} of the description of data: {first['msg']}") from error


def _table_of(data: Any, name: str) -> Table | Stream:
    """Return arrays in memory as a table, what yields batches as a stream."""
    if isinstance(data, Table):
        return data
    if is_stream(data):
        return Batches(data, name)
    if isinstance(data, Mapping):
        return Arrays({key: np.asarray(value) for key, value in data.items()}, name)
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3 or not all(
        hasattr(part, "shape") or isinstance(part, list | tuple | Mapping) for part in parts
    ):
        raise DataError(
            f"{name} is a {type(data).__name__}; expected a path, arrays (x, y), or something that yields batches"
        )
    columns = {}
    for word, part in zip(("x", "y", "weights"), parts, strict=False):
        if isinstance(part, Mapping):
            columns.update({f"{word}.{key}": np.asarray(value) for key, value in part.items()})
        elif word == "x" and isinstance(part, tuple | list) and all(hasattr(each, "shape") for each in part):
            columns.update({f"x.{number}": np.asarray(each) for number, each in enumerate(part)})
        elif part is not None:
            columns[word] = np.asarray(part)
    return Arrays(columns, name)


def _roles(table: Table, said: Description) -> Samples:
    """Return the samples of a table with what each column is for."""
    labels = said.y if said.y is not None else table.labels if table.labels in table.columns else None
    weights = (
        said.weights
        if said.weights is not None
        else "weights"
        if "weights" in table.columns and said.y is None
        else None
    )
    known = [name for name in table.columns if name not in (labels, weights)]
    if said.x is None:
        inputs = _usual(table, known)
    elif isinstance(said.x, Mapping):
        inputs = {name: _tuple(columns) for name, columns in said.x.items()}
    elif isinstance(said.x, str):
        inputs = {"": (said.x,)}
    else:
        inputs = {str(place): (name,) for place, name in enumerate(said.x)} if len(said.x) > 1 else {"": said.x}
    for name in (
        *(c for columns in inputs.values() for c in columns),
        *(n for n in (labels, weights) if n is not None),
    ):
        if name not in table.columns:
            raise UnknownNameError(f"column in {table.name}", name, table.columns)
    rows: Rows = np.arange(len(table), dtype=np.int64)
    found = Samples(
        table=table,
        rows=rows,
        inputs=inputs,
        labels=labels,
        weights=weights,
        classes=said.classes if said.classes is not None else table.classes,
        scale=said.scale,
    )
    return found if said.part is None else _part(found, said)


def _usual(table: Table, known: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the inputs where nobody says: ``x``, ``x.NAME`` of each, ``image``, or numbers that stand side by side."""
    for word in ("x", "image"):
        if word in known:
            return {"": (word,)}
    named: dict[str, tuple[str, ...]] = {name.partition(".")[2]: (name,) for name in known if name.startswith("x.")}
    if named:
        return named
    numbers = [name for name in known if table.columns[name].dtype != "str" and table.columns[name].shape == ()]
    if len(numbers) != len(known) or not known:
        raise DataError(
            f"{table.name} does not tell which of its columns are inputs; say it (x): {', '.join(table.columns)}"
        )
    return {"": tuple(numbers)}


def _tuple(columns: str | tuple[str, ...]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else columns


def _part(samples: Samples, said: Description) -> Samples:
    begin, colon, end = (said.part or "").partition(":")
    try:
        edges = (float(begin or 0), float(end or 1))
    except ValueError:
        edges = (1.0, 0.0)
    if not colon or not 0 <= edges[0] < edges[1] <= 1:
        raise DataError(f"{said.part!r} is no part of the samples; write fractions such as 0:0.8")
    shares = (edges[0], edges[1] - edges[0])
    wanted = [share for share in shares if share > 0]
    return samples.split(*wanted, seed=said.seed, stratify=said.stratify)[-1]


def told(data: Any) -> Any:
    """Return what a record says of data: its path or description, or what it is called."""
    if isinstance(data, str | PathLike):
        return str(data)
    if isinstance(data, Description):
        return data.model_dump(mode="json", exclude_defaults=True)
    if isinstance(data, Mapping) and not any(hasattr(value, "shape") for value in data.values()):
        return dict(data)
    return getattr(data, "name", None) or f"a {type(data).__name__} in memory"

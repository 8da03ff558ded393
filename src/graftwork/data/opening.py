"""From whatever describes data to samples: a path, arrays, a description, or something that gives batches."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from graftwork import plain_yaml
from graftwork.data.arrays import Arrays, open_npy, open_npz
from graftwork.data.base import Rows, Stream, Table
from graftwork.data.description import SOURCES, Description
from graftwork.data.images import Images
from graftwork.data.records import COMPRESSIONS, open_tfds, open_tfrecord
from graftwork.data.samples import Samples
from graftwork.data.streams import Batches, called, is_stream
from graftwork.data.tables import open_csv, open_parquet
from graftwork.errors import DataError, UnknownNameError

DESCRIPTIONS = (".yaml", ".yml", ".json")


def _files(root: Path, patterns: str | Sequence[str]) -> list[Path]:
    """Return the files that paths and patterns mean, each once."""
    found: dict[Path, None] = {}
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        path = root / Path(pattern).expanduser()
        named = [path] if path.is_file() else sorted(each for each in _glob(path) if each.is_file())
        if not named:
            kind = "a directory, not a file" if path.is_dir() else "not there"
            raise DataError(f"{path} is {kind}")
        found.update(dict.fromkeys(named))
    return list(found)


def _glob(path: Path) -> Iterator[Path]:
    return Path(path.anchor or ".").glob(str(path.relative_to(path.anchor)) if path.anchor else str(path))


def _file(root: Path, pattern: str) -> Path:
    found = _files(root, pattern)
    if len(found) > 1:
        raise DataError(f"{pattern} means {len(found)} files ({found[0].name}, {found[1].name} …); expected one")
    return found[0]


def _folder(root: Path, name: str) -> Path:
    path = root / Path(name).expanduser()
    if not path.is_dir():
        raise DataError(f"there is no directory {path}")
    return path


def _npy(said: Description, root: Path) -> Table:
    paths = {"x": said.npy} if isinstance(said.npy, str) else said.npy or {}
    return open_npy({name: _file(root, path) for name, path in paths.items()})


def _meant(said: Description) -> set[str]:
    """Return the columns that a description names."""
    x = said.x if said.x is not None else ()
    columns = itertools.chain.from_iterable(map(_tuple, x.values() if isinstance(x, Mapping) else (x,)))
    return {name for name in (*columns, said.y, said.weights) if name is not None}


KINDS: dict[str, Callable[[Description, Path], Any]] = {
    "npz": lambda said, root: open_npz(_file(root, said.npz or ""), _meant(said)),
    "npy": _npy,
    "csv": lambda said, root: open_csv(_files(root, said.csv or ())),
    "parquet": lambda said, root: open_parquet(_files(root, said.parquet or ())),
    "images": lambda said, root: Images(_folder(root, said.images or ""), said.size, said.channels, said.classes),
    "tfrecord": lambda said, root: open_tfrecord(
        _files(root, said.tfrecord or ()), said.features, said.size, said.channels
    ),
    "tfds": lambda said, root: open_tfds(said.tfds or "", said.split, root, said.size, said.channels),
    "python": lambda said, root: called(said.python or "", said.arguments, root),
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

COMPRESSED = (".csv", ".tfrecord", ".tfrecords")
"""What may be compressed, with an ending more."""


WEIGHTS = ("weights", "sample_weight", "sample_weights")
"""The usual names of an array of what each sample counts; in a table it could be anything."""


def open_data(data: Any, *, root: Path = Path(), **further: Any) -> Samples | Stream:
    """Open data.

    Args:
        data: A path (an ``.npz``, ``.npy``, ``.csv``, ``.parquet`` or ``.tfrecord`` file, a directory of images, or a YAML file with a
            description), a `Description` or a mapping that spells one, arrays (the inputs alone, ``(x, y)``, ``(x, y, weights)``, or a
            mapping of names to arrays), a `tf.data.Dataset`, a `keras.utils.PyDataset`, or a function that makes a generator of batches.
            What was opened before is returned as it is.
        root: What paths are relative to; in a file with a description they are relative to that file.
        **further: Fields of the description that are said apart: ``x``, ``y``, ``weights``, ``classes`` and so on.

    Raises:
        DataError: If it cannot be read, or makes no sense.
        UnknownNameError: If there is no such column.
    """
    further = {name: value for name, value in further.items() if value is not None}
    if isinstance(data, Samples | Batches):
        if further:
            raise DataError(f"{data.name} is open already; say {next(iter(further))!r} where it is opened")
        return data
    said, root, table = _described(data, root, further)
    if table is None:
        kind = said.kind()
        if kind is None:
            raise DataError(f"the data says {_several(said)}; say exactly one of {', '.join(SOURCES)}")
        try:
            table = KINDS[kind](said, root)
        except OSError as error:
            raise DataError(f"{error.filename or said} cannot be read: {error.strerror}") from error
        if not isinstance(table, Table):
            table = _table_of(table, said.python or kind, said.batches)
    if isinstance(table, Table):
        if said.batches is not None:
            raise DataError(f"`batches` is for what yields them, and {table.name} holds samples; say `part`")
        return _roles(table, said)
    stream: Stream = table
    given = [name for name in FOR_COLUMNS if getattr(said, name) is not None]
    if given:
        raise DataError(f"{stream.name} yields batches of inputs, labels and weights; {given[0]!r} is for columns")
    return stream


FOR_COLUMNS = ("x", "y", "weights", "part", "scale", "offset")
"""The fields that need columns, or any samples at any time."""


def _several(said: Description) -> str:
    return " and ".join(name for name in SOURCES if getattr(said, name) is not None) or "nowhere where it lies"


def _described(data: Any, root: Path, further: Mapping[str, Any]) -> tuple[Description, Path, Any]:
    """Return the description of data, what its paths are relative to, and a table or stream where it is there already."""
    if isinstance(data, Description):
        return _parsed(data.model_dump(exclude_unset=True), further), root, None
    if isinstance(data, str | PathLike):
        path = root / Path(data).expanduser()
        if path.suffix in DESCRIPTIONS:
            return _parsed(_yaml(path), further, f"{path} holds"), path.parent, None
        kind = "images" if path.is_dir() else _kind_of(path)
        return _parsed({kind: str(data)}, further), root, None
    if isinstance(data, Mapping) and not any(hasattr(value, "shape") for value in data.values()):
        return _parsed(data, further), root, None
    return _parsed({}, further), root, _table_of(data, "the data", further.get("batches"))


def _kind_of(path: Path) -> str:
    plain = Path(path.stem) if path.suffix in COMPRESSIONS and Path(path.stem).suffix in COMPRESSED else path
    if plain.suffix not in ENDINGS:
        raise DataError(
            f"{path} {'is' if path.exists() else 'is not there, and'} no data that is known by its name "
            f"({', '.join(ENDINGS)}, a directory of images, or a description in YAML)"
        )
    return ENDINGS[plain.suffix]


def _yaml(path: Path) -> Any:
    try:
        return plain_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as YAML: {str(error).splitlines()[0]}") from error


def _parsed(said: Any, further: Mapping[str, Any], where: str = "the data is") -> Description:
    if not isinstance(said, Mapping):
        raise DataError(f"{where} {str(said)[:60]!r}, expected a description such as {{npz: data.npz, x: x, y: y}}")
    try:
        return Description.model_validate({**said, **further})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise UnknownNameError("field of a description of data", place, Description.model_fields) from error
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(
            f"{place!r} of the description of data: {message}" if place else f"the description of data: {message}"
        ) from error


def _table_of(data: Any, name: str, batches: int | None = None) -> Table | Stream:
    """Return arrays in memory as a table, what yields batches as a stream of all of them or of so many."""
    if isinstance(data, Table):
        return data
    if is_stream(data):
        return Batches(data, name, batches)
    if isinstance(data, Mapping):
        return Arrays({str(key): _array(value, str(key), name) for key, value in data.items()}, name)
    if hasattr(data, "__next__"):
        raise DataError(
            f"{name} is a {type(data).__name__}, which can be read once; pass the function that makes it, without calling it"
        )
    parts = data if isinstance(data, tuple) else (data,)
    if not 1 <= len(parts) <= 3 or not all(
        hasattr(part, "shape") or isinstance(part, list | tuple | Mapping) or (part is None and place)
        for place, part in enumerate(parts)
    ):
        raise DataError(
            f"{name} is a {type(data).__name__}; expected a path, arrays (x, y), or something that yields batches"
        )
    columns = {}
    for word, part in zip(("x", "y", "weights"), parts, strict=False):
        for key, value in _named(word, part).items():
            columns[key] = _array(value, key, name)
    return Arrays(columns, name)


def _named(word: str, part: Any) -> dict[str, Any]:
    """Return the arrays of one of ``(x, y, weights)`` by the names of columns: several ones have the word in front."""
    if part is None:
        return {}
    if isinstance(part, Mapping):
        return {f"{word}.{key}": value for key, value in part.items()}
    if isinstance(part, tuple | list) and part and all(hasattr(each, "shape") and each.shape for each in part):
        return {f"{word}.{place}": value for place, value in enumerate(part)}
    return {word: part}


def _array(value: Any, key: str, name: str) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"array {key!r} of {name} is no array: {error}") from error


def _roles(table: Table, said: Description) -> Samples:
    """Return the samples of a table with what each column is for."""
    labels = said.y if said.y is not None else table.labels if table.labels in table.columns else None
    weights = said.weights
    if weights is None and isinstance(table, Arrays):
        weights = next((name for name in WEIGHTS if name in table.columns), None)
    known = [name for name in table.columns if name not in (labels, weights)]
    if said.x is None:
        inputs = _usual(table, known)
    elif isinstance(said.x, Mapping):
        inputs = {name: _tuple(columns) for name, columns in said.x.items()}
    elif isinstance(said.x, str):
        inputs = {"": (said.x,)}
    else:
        inputs = {str(place): (name,) for place, name in enumerate(said.x)} if len(said.x) > 1 else {"": said.x}
    first = np.zeros(1, np.int64)
    for name in (*itertools.chain(*inputs.values()), labels, weights):
        if name is not None:
            table.take(name, first)  # what cannot be used is refused here, with its reason
    if weights is not None and table.columns[weights].dtype == "str":
        raise DataError(f"the weights of {table.name} (column {weights!r}) are texts; expected numbers")
    rows: Rows = np.arange(len(table), dtype=np.int64)
    found = Samples(
        table=table,
        rows=rows,
        inputs=inputs,
        labels=labels,
        weights=weights,
        classes=said.classes if said.classes is not None else table.classes,
        scale=said.scale,
        offset=said.offset,
    )
    edges = said.fractions()
    return found if edges is None else found.between(*edges, seed=said.seed, stratify=said.stratify)


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


def told(data: Any) -> Any:
    """Return what a record says of data: its path or description, or what it is called."""
    if isinstance(data, str | PathLike):
        return str(data)
    if isinstance(data, Description):
        return data.model_dump(mode="json", exclude_defaults=True)
    if isinstance(data, Mapping) and not any(hasattr(value, "shape") for value in data.values()):
        return dict(data)
    return getattr(data, "name", None) or f"a {type(data).__name__} in memory"

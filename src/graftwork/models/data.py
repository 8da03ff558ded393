"""Data to show to a model: arrays by name from an ``.npz`` file, or as they are."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OptionError, UnknownNameError

Data: TypeAlias = "str | PathLike[str] | NDArray[Any] | tuple[Any, ...] | Mapping[str, Any]"
"""A path to an ``.npz`` file, the inputs alone, inputs and labels, or arrays by name as such a file has them."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples in their order.

    Attributes:
        inputs: One array for each input of the model, one row per sample.
        labels: One row per sample, or None.
        name: What messages call them.
    """

    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[Any] | None
    name: str

    def __len__(self) -> int:
        return len(self.inputs[0])

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs."""
        return sum(array.nbytes for array in self.inputs)

    def batches(self, size: int) -> Iterator["Samples"]:
        """Yield samples in groups of `size`, the last of which may be smaller."""
        for first in range(0, len(self), size):
            part = slice(first, first + size)
            labels = None if self.labels is None else self.labels[part]
            yield Samples(tuple(array[part] for array in self.inputs), labels, self.name)


def samples_of(data: Data, *, x: Sequence[str] = ("x",), y: str = "y", most: int | None = None) -> Samples:
    """Return samples.

    Args:
        data: Where they are.
        x: Names of the inputs, in the order of the model's.
        y: Name of the labels; they need not be there.
        most: At most so many of them, the first.

    Raises:
        OptionError: If arrays do not have one row per sample, or there are none.
        UnknownNameError: If there is no array of such a name.
    """
    if isinstance(data, str | PathLike):
        path = Path(data)
        with _archive(path) as arrays:
            return _by_name(arrays, x, y, most, path.name)
    if isinstance(data, Mapping):
        return _by_name(data, x, y, most, "the data")
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    return _checked(inputs if isinstance(inputs, tuple | list) else [inputs], labels, most, "the data")


def _archive(path: Path) -> Any:
    if not path.is_file():
        raise OptionError(f"there is no file {path} with data")
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise OptionError(f"data {path} cannot be read as an .npz file: {error}") from error
    if not isinstance(found, np.lib.npyio.NpzFile):
        raise OptionError(f"data {path} is one array; give an .npz file with arrays x and y, as numpy.savez writes it")
    return found


def _by_name(arrays: Mapping[str, Any], x: Sequence[str], y: str, most: int | None, where: str) -> Samples:
    for name in (*x, *([y] if y != "y" else [])):
        if name not in arrays:
            raise UnknownNameError(f"array in {where}", name, list(arrays))
    try:
        return _checked([arrays[name] for name in x], arrays.get(y), most, where)
    except ValueError as error:  # an array of Python objects
        raise OptionError(f"an array of {where} cannot be read: {error}") from error


def _checked(inputs: Sequence[Any], labels: Any, most: int | None, where: str) -> Samples:
    found = [np.asarray(array) for array in inputs]
    known = [*found, *([np.asarray(labels)] if labels is not None else [])]
    counts = [len(array) if array.ndim else 0 for array in known]
    if len(set(counts)) != 1:
        raise OptionError(
            f"the arrays of {where} have {', '.join(map(str, counts))} rows; expected one row per sample in each"
        )
    if not counts[0]:
        raise OptionError(f"there are no samples in {where}")
    kept = [array[:most] for array in known]
    return Samples(tuple(kept[: len(found)]), kept[len(found)] if labels is not None else None, where)

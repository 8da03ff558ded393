"""Which variable of a live model is which tensor of its file: found out by writing numbers into a copy and looking where they come out."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.kernels.convert import decode
from graftwork.models import live
from graftwork.stores import open_store
from graftwork.stores.base import RAW_DTYPES
from graftwork.tensor import FLOATS

BASE = 128
"""Numbers below this are exact in every floating-point dtype; larger ones are written as several digits."""


def names_of(model: Any) -> dict[int, tuple[str, ...]]:
    """Return the canonical names of a live model's floating-point variables by their `id`; several for one that its file holds twice.

    Nothing has to be known of layers, so this holds for the user's own classes as well. Values are put back in the end.

    Args:
        model: A built model, which Keras can save.

    Raises:
        StoreError: If Keras cannot save it.
    """
    import keras

    variables = [v for v in model.weights if v.dtype in FLOATS and all(v.shape)]
    before = [keras.ops.convert_to_numpy(v) for v in variables]
    places: dict[str, int] = {}
    try:
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            digit = 1
            while digit == 1 or digit < len(variables):
                for i, variable in enumerate(variables):
                    variable.assign(np.full(variable.shape, i // digit % BASE, np.float32))
                for name, found in _first_elements(model, Path(folder) / "marked.keras").items():
                    places[name] = places.get(name, 0) + digit * found
                digit *= BASE
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
    names: dict[int, tuple[str, ...]] = {}
    for name, i in places.items():
        names[id(variables[i])] = (*names.get(id(variables[i]), ()), name)
    return names


def _first_elements(model: Any, path: Path) -> dict[str, int]:
    """Save a model and return the first element of each of its floating-point tensors."""
    live.save(model, path)
    found = {}
    with open_store(path) as reader:
        for name, spec in reader.specs().items():
            if spec.dtype in FLOATS and spec.size and not name.startswith("optimizer/"):
                raw, number = np.empty(1, RAW_DTYPES[spec.dtype]), np.empty(1, np.float32)
                reader.read_into(name, 0, raw)
                decode(raw, spec.dtype, number)
                found[name] = int(number[0])
    path.unlink()
    return found

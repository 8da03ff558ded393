"""How far the outputs of two models are apart."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.models.alone import array


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a comparison found, of the output that disagrees or else differs most.

    Attributes:
        agrees: Whether all outputs are as close as was asked for.
        output: The output: a key, a position, several of these with slashes between; empty for a model's only one.
        absolute: The largest difference of two entries; infinite where NaN, infinity or text stands against something else.
        relative: That, divided by the largest finite magnitude among the expected entries of this output.
        reason: In words.
    """

    agrees: bool
    output: str = ""
    absolute: float = 0.0
    relative: float = 0.0
    reason: str = "nothing differs"

    def __str__(self) -> str:
        return self.reason


def compare(found: Any, expected: Any, *, exact: bool = False, rtol: float = 0.0, atol: float = 0.0) -> Difference:
    """Compare the outputs of two models.

    Floating-point entries agree within ``atol + rtol · the largest finite magnitude of the expected output``; NaN agrees with NaN
    and an infinity with itself. Integers, booleans and text agree when they are equal, and so does everything with `exact`, which asks for
    equal dtypes as well (zeros of either sign are equal).

    Args:
        found: Arrays, in lists, tuples and dictionaries.
        expected: Arrays likewise; a tuple is as good as a list, and one array as a list of it, which is how the output of a model
            stands that Keras up to 3.9 saved.
        exact: Whether entries must be equal.
        rtol: Tolerance, as a fraction of the largest expected entry.
        atol: Tolerance.
    """
    ours, theirs = ({"": x["0"]} if set(x) == {"0"} else x for x in map(dict, map(leaves_of, (found, expected))))
    if set(ours) != set(theirs):
        return Difference(
            agrees=False,
            absolute=math.inf,
            relative=math.inf,
            reason=f"the outputs are {_listed(ours)}, and {_listed(theirs)} are expected",
        )
    worst = Difference(agrees=True)
    for name, wanted in theirs.items():
        one = _compare(name, ours[name], wanted, 0.0 if exact else rtol, 0.0 if exact else atol, exact)
        if (not one.agrees, one.relative, one.absolute) > (not worst.agrees, worst.relative, worst.absolute):
            worst = one
    return worst


def leaves_of(structure: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays of a structure with their names."""
    if isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from leaves_of(value, (*path, str(key)))
    elif isinstance(structure, list | tuple):
        for position, value in enumerate(structure):
            yield from leaves_of(value, (*path, str(position)))
    elif structure is not None:
        yield "/".join(path), array(structure)


def called(name: str) -> str:
    """Return what a message calls an output."""
    return f"output {name!r}" if name else "the output"


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) if name else "a single one" for name in names) or "none"


def _compare(
    name: str, found: NDArray[Any], expected: NDArray[Any], rtol: float, atol: float, exact: bool
) -> Difference:
    if found.shape != expected.shape:
        reason = f"{called(name)} has shape {found.shape}, and {expected.shape} is expected"
    elif exact and found.dtype != expected.dtype and not {found.dtype.kind, expected.dtype.kind} <= set("SU"):
        reason = f"{called(name)} is {found.dtype}, and {expected.dtype} is expected"
    elif _kind(found) != _kind(expected):
        reason = (
            f"{called(name)} holds {_kind(found)} ({found.dtype}), and {_kind(expected)} ({expected.dtype}) is expected"
        )
    else:
        return _entries(name, found, expected, rtol, atol)
    return Difference(agrees=False, output=name, absolute=math.inf, relative=math.inf, reason=reason)


def _kind(values: NDArray[Any]) -> str:
    kinds = {"b": "booleans", "i": "integers", "u": "integers", "S": "text"}
    return kinds.get(values.dtype.kind, "numbers")


def _entries(name: str, found: NDArray[Any], expected: NDArray[Any], rtol: float, atol: float) -> Difference:
    same = found == expected
    if expected.dtype.kind in "fc":
        same |= np.isnan(found) & np.isnan(expected)
    if same.all():
        return Difference(agrees=True, output=name)
    if expected.dtype.kind == "S":
        apart, largest = np.where(same, 0.0, np.inf), 1.0
    else:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        with np.errstate(invalid="ignore", over="ignore"):
            apart = np.where(same, 0.0, np.abs(found.astype(wide) - expected.astype(wide)))
        apart[np.isnan(apart)] = np.inf
        known = np.abs(expected.astype(wide))
        largest = float(np.max(known, initial=0.0, where=np.isfinite(known)))
    far = float(apart.max())
    share = far / largest if largest else math.inf
    close = far <= atol + rtol * largest and expected.dtype.kind in "fc"
    return Difference(
        agrees=close,
        output=name,
        absolute=far,
        relative=share,
        reason=f"{called(name)}: {np.count_nonzero(~same)} of {same.size} entries differ, by up to {far:.3g}"
        + (f" ({share:.3g} of the largest)" if math.isfinite(share) else ""),
    )

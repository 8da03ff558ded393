"""Numbers about one model or two, from blocks; `inspection` has what headers tell.

Nothing here prints. What comes out are frozen values that turn into plain JSON.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from graftwork.executor.gather import read_gathered
from graftwork.kernels.convert import decode
from graftwork.pairing import Pairing, Source, explore
from graftwork.report.plain import finite
from graftwork.stores.base import RAW_DTYPES, Reader
from graftwork.tensor import FLOATS, Role, TensorSpec

BLOCK = 1 << 18
"""Elements that are compared at a time."""

APART = (Role.COUNTER, Role.SEED, Role.TABLE)
"""Roles whose values are no part of a layer's distance beside weights: one counter of steps is larger than all of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorDiff:
    """How far one tensor of B is from A's.

    Attributes:
        name: Its name in A.
        other: Its name in B.
        shape: Its shape.
        distance: ``‖b − a‖ / ‖a‖``: relative L2 distance; infinite where a is zero and b is not.
        cosine: ``a·b / (‖a‖ ‖b‖)``; 1 where both are zero, 0 where one is.
        sign_agreement: Fraction of elements with the same sign (zero is a sign of its own).
        largest: Largest absolute difference of any element; infinite where one is NaN or infinite and the other another value.
        nonfinite: Elements that are NaN or infinite in either; the other measures leave them out.
    """

    name: str
    other: str
    shape: tuple[int, ...]
    distance: float
    cosine: float
    sign_agreement: float
    largest: float
    nonfinite: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiff:
    """The same for all weights and statistics of a layer together, or for what else it has if it has none."""

    name: str
    parameters: int
    distance: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """How two models differ.

    Attributes:
        a: First model.
        b: Second model.
        structure: Differences of architecture, one sentence each.
        only_a: Tensors that only the first has.
        only_b: Tensors that only the second has.
        reshaped: Tensors of two shapes: (name, shape in A, shape in B).
        retyped: Tensors of two dtypes: (name, dtype in A, dtype in B); their values are compared all the same.
        tensors: Every tensor that both have.
        layers: The same by layer.
        distance: Relative L2 distance over all weights and statistics (over everything, if there are none).
        cosine: Cosine over all of them.
        notes: How tensors were matched.
    """

    a: str
    b: str
    structure: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    retyped: tuple[tuple[str, str, str], ...]
    tensors: tuple[TensorDiff, ...]
    layers: tuple[LayerDiff, ...]
    distance: float
    cosine: float
    notes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether structure, tensors, their dtypes and values are all the same."""
        others = self.structure or self.only_a or self.only_b or self.reshaped or self.retyped
        return not others and self.equal

    @property
    def equal(self) -> bool:
        """Whether the tensors that both have hold the same values, be their dtypes what they may."""
        return all(t.largest == 0 for t in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values; what is infinite or not a number becomes None."""
        found: dict[str, Any] = finite(asdict(self))
        found["identical"] = self.identical
        return found


def diff(
    a: Reader, b: Reader, labels: tuple[str, str], threads: int = 2, progress: Callable[[int], None] | None = None
) -> Diff:
    """Return how two open sources differ, reading both once in blocks."""
    pairing, structure, notes = explore((labels[0], a), (labels[1], b))
    ours = {n: s for n, s in a.specs().items() if s.role is not Role.OPTIMIZER}
    theirs = {n: s for n, s in b.specs().items() if s.role is not Role.OPTIMIZER}
    taken = {source.name for source in pairing.sources.values()}
    both, reshaped, retyped = [], [], []
    for name, spec in ours.items():
        source = pairing.get(name)
        if source is None:
            continue
        if theirs[source.name].shape != spec.shape:
            reshaped.append((name, spec.shape, theirs[source.name].shape))
            continue
        both.append((name, source))
        if theirs[source.name].dtype != spec.dtype:
            retyped.append((name, spec.dtype, theirs[source.name].dtype))
    tell = progress or (lambda _: None)
    with ThreadPoolExecutor(threads) as pool:
        sums = list(pool.map(lambda pair: _compare(a, b, pair[0], pair[1], tell), both))
    tensors = tuple(s.tensor(name, source.name, ours[name].shape) for s, (name, source) in zip(sums, both, strict=True))
    by_layer: dict[str, _Sums] = {}
    total = _Sums()
    layer_of = {name: name.rpartition("/")[0] or name.rpartition(".")[0] or name for name, _ in both}
    counted = {name for name, _ in both if ours[name].role not in APART}
    weighty = {layer_of[name] for name in counted}
    for (name, _), found in zip(both, sums, strict=True):
        layer = layer_of[name]
        if name in counted or layer not in weighty:
            by_layer[layer] = by_layer.get(layer, _Sums()) + found
        if name in counted or not counted:
            total = total + found
    return Diff(
        a=str(a.path),
        b=str(b.path),
        structure=tuple(structure),
        only_a=tuple(name for name in ours if pairing.get(name) is None),
        only_b=tuple(name for name in theirs if name not in taken),
        reshaped=tuple(reshaped),
        retyped=tuple(retyped),
        tensors=tensors,
        layers=tuple(
            LayerDiff(name=name, parameters=s.count, distance=s.distance, cosine=s.cosine)
            for name, s in by_layer.items()
        ),
        distance=total.distance,
        cosine=total.cosine,
        notes=(*notes, *_left_out(tensors)),
    )


def _left_out(tensors: Sequence[TensorDiff]) -> list[str]:
    """Return what to say of elements that no distance is made of."""
    bad = [tensor for tensor in tensors if tensor.nonfinite]
    if not bad:
        return []
    more = f" and {sum(t.nonfinite for t in bad[1:]):,} of {len(bad) - 1:,} more tensors" if bad[1:] else ""
    first = f"{bad[0].nonfinite:,} element{'s' * (bad[0].nonfinite != 1)} of {bad[0].name!r}"
    return [f"{first}{more} are NaN or infinite in either model; distances are those of the others"]


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the measures of a diff are made of."""

    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    same_sign: int = 0
    largest: float = 0.0
    count: int = 0
    nonfinite: int = 0

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.aa + other.aa,
            self.bb + other.bb,
            self.ab + other.ab,
            self.dd + other.dd,
            self.same_sign + other.same_sign,
            max(self.largest, other.largest),
            self.count + other.count,
            self.nonfinite + other.nonfinite,
        )

    @property
    def distance(self) -> float:
        if self.aa == 0:
            return 0.0 if self.dd == 0 else math.inf
        return math.sqrt(self.dd / self.aa)

    @property
    def cosine(self) -> float:
        if self.aa == 0 or self.bb == 0:
            return 1.0 if self.aa == self.bb else 0.0
        return max(-1.0, min(1.0, self.ab / math.sqrt(self.aa) / math.sqrt(self.bb)))

    def tensor(self, name: str, other: str, shape: tuple[int, ...]) -> TensorDiff:
        return TensorDiff(
            name=name,
            other=other,
            shape=shape,
            distance=self.distance,
            cosine=self.cosine,
            sign_agreement=self.same_sign / self.count if self.count else 1.0,
            largest=self.largest,
            nonfinite=self.nonfinite,
        )


def _compare(a: Reader, b: Reader, name: str, source: Source, tell: Callable[[int], None]) -> _Sums:
    spec_a, spec_b = a.specs()[name], b.specs()[source.name]
    total = _Sums()
    for start in range(0, spec_a.size, BLOCK):
        count = min(BLOCK, spec_a.size - start)
        x = _numbers(a, spec_a, (), start, count)
        y = _numbers(b, spec_b, source.gather, start, count)
        whole = x.dtype.kind in "iu" and y.dtype.kind in "iu" and bool((x != y).any())  # float64 holds not all of these
        x, y = (v.astype(np.float64) if v.dtype.kind in "iu" else v for v in (x, y))
        if np.iscomplexobj(x) or np.iscomplexobj(y):  # real and imaginary parts are numbers of their own
            x, y = (np.ascontiguousarray(v, np.complex128).view(np.float64) for v in (x, y))
        tell(count * (RAW_DTYPES[spec_a.dtype].itemsize + RAW_DTYPES[spec_b.dtype].itemsize))
        finite = np.isfinite(x) & np.isfinite(y)
        bad = finite.size - int(finite.sum())
        moved = bool(bad) and not np.array_equal(x[~finite], y[~finite], equal_nan=True)
        if bad:
            x, y = x[finite], y[finite]
        d = y - x
        total = total + _Sums(
            float(x @ x),
            float(y @ y),
            float(x @ y),
            float(d @ d),
            int((np.sign(x) == np.sign(y)).sum()),
            math.inf if moved else float(np.abs(d).max(initial=0.0)) or float(whole),
            finite.size,
            bad,
        )
    return total


def _numbers(reader: Reader, spec: TensorSpec, gather: Any, start: int, count: int) -> Any:
    raw = np.empty(count, RAW_DTYPES[spec.dtype])
    if gather:
        read_gathered(reader, spec.name, spec.shape, gather, start, raw)
    else:
        reader.read_into(spec.name, start, raw)
    if spec.dtype not in FLOATS:
        if raw.dtype.kind in "iu":
            return raw
        return raw.astype(np.complex128 if spec.dtype.startswith("complex") else np.float64)
    out = np.empty(count, np.float64 if spec.dtype == "float64" else np.float32)
    decode(raw, spec.dtype, out)
    return out.astype(np.float64, copy=False)


def count_nonfinite(reader: Reader, progress: Callable[[int], None] | None = None) -> dict[str, int]:
    """Return the tensors that hold NaN or infinity, with how many, reading all values once."""
    found = {}
    for name, spec in reader.specs().items():
        if spec.dtype not in FLOATS:
            continue
        bad = 0
        for start in range(0, spec.size, BLOCK):
            values = _numbers(reader, spec, (), start, min(BLOCK, spec.size - start))
            bad += int(values.size - np.isfinite(values).sum())
            if progress is not None:
                progress(values.size * RAW_DTYPES[spec.dtype].itemsize)
        if bad:
            found[name] = bad
    return found


__all__ = ["Diff", "LayerDiff", "Pairing", "TensorDiff", "count_nonfinite", "diff"]

"""How different the softmax of two vectors is, unit by unit.

exp and log are polynomials over tiles, with the same roundings on every machine; a library's differ in the last bit, and are called
element by element. Their relative errors are below 10⁻¹⁵.

Where no weight of a unit moved by more than `NEAR`, as in fine-tuned models, two thirds of the work are spared. With
``u = exp(base)``, ``v = exp(x - base) - 1`` and w the mean of v weighted by u,

::

    q = u / Σu + 10⁻⁸            p - q = u / Σu · (v - w) / (1 + w)            e = (p - q) / q
    Σ p log(p / q) = Σ (p log(p / q) - p + q) = Σ q ((1 + e) log(1 + e) - e) = Σ q (e² / 2 - e³ / 6 + e⁴ / 12 - …)

since p and q have the same sum. No term is negative, so none cancel. What the series leave out is below 10⁻¹⁰ of the sum.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.kernels.loop import block_loop
from graftwork.kernels.sums import LANES

FLOOR = 1e-8
"""What is added to every probability."""

NEAR = 2.0**-4
"""Greatest difference of a weight for which the series near the base are used."""

SMALL = 16.0
"""Greatest weight for which they are."""

TILE = 512
LOG2_E = 1.4426950408889634
LN2_HIGH = 0.693147180369123816490
LN2_LOW = 1.90821492927058770002e-10
LN2 = 0.6931471805599453
ROUNDER = 6755399441055744.0
"""1.5 · 2⁵²: adding it and taking it off again rounds to a whole number."""

ROOT_HALF = 0x3FE6A09E667F3BCD
"""The bits of √½."""


def divergences(x: NDArray[Any], base: NDArray[Any], unit: int) -> NDArray[np.float64]:
    """Return ``Σ p log(p / q)`` of each unit, where ``p = softmax(x) + 10⁻⁸`` and q is the same of the base; never less than 0.

    Args:
        x: Shape (b,), float32 or float64.
        base: Shape (b,), same dtype.
        unit: Elements of one unit, of which b is a multiple.
    """
    out = np.empty(x.size // max(unit, 1))
    _divergences(x, base, unit, out)
    return out


def importance(x: NDArray[Any], base: NDArray[Any], factors: NDArray[np.float64]) -> NDArray[Any]:
    """Return ``|x - base|`` times the factor of each unit, shape (b,), in the dtype of x.

    Args:
        x: Shape (b,).
        base: Shape (b,).
        factors: Shape (units,), of which all have the same size.
    """
    out = np.empty_like(x)
    _importance(x, base, factors, out)
    return out


def take_if_not_less(
    x: NDArray[Any], base: NDArray[Any], measured: NDArray[Any], threshold: float, out: NDArray[Any]
) -> None:
    """Write x where the measure is not less than the threshold, and the base elsewhere; all of shape (b,)."""
    _take(x, base, measured, float(threshold), out)


@block_loop
def _divergences(x: Any, base: Any, unit: Any, out: Any) -> None:
    p, q = np.empty(unit, np.float64), np.empty(unit, np.float64)
    powers, lanes = np.empty(TILE, np.int64), np.empty(LANES, np.float64)
    scales = powers.view(np.float64)
    for u in range(out.size):
        part = slice(u * unit, (u + 1) * unit)
        if _is_near(x[part], base[part]):
            out[u] = _divergence_near(x[part], base[part], p, q, lanes)
            continue
        _softmax(x[part], p, powers, scales, lanes)
        _softmax(base[part], q, powers, scales, lanes)
        lanes[:] = 0.0
        for first in range(0, unit, TILE):
            a, b = p[first : first + TILE], q[first : first + TILE]
            for j in range(a.size):
                scales[j] = a[j] / b[j]
            for j in range(a.size):
                # a power of two, and what is between √½ and √2
                exponent = (powers[j] - ROOT_HALF) >> 52
                b[j] = np.float64(exponent) * LN2
                powers[j] -= exponent << 52
            for j in range(a.size):
                z = (scales[j] - 1.0) / (scales[j] + 1.0)
                s = z * z
                series = s * (1.0 / 21.0) + 1.0 / 19.0
                series = series * s + 1.0 / 17.0
                series = series * s + 1.0 / 15.0
                series = series * s + 1.0 / 13.0
                series = series * s + 1.0 / 11.0
                series = series * s + 1.0 / 9.0
                series = series * s + 1.0 / 7.0
                series = series * s + 1.0 / 5.0
                series = series * s + 1.0 / 3.0
                b[j] = a[j] * (b[j] + 2.0 * (z + z * s * series))
            _add_lanes(b, lanes)
        total = 0.0
        for j in range(LANES):
            total += lanes[j]
        out[u] = 0.0 if total < 0.0 else total


@block_loop
def _is_near(x: Any, base: Any) -> bool:
    """Whether the series apply; not where anything is NaN."""
    outside = 0
    for j in range(x.size):
        near = (abs(x[j] - base[j]) <= NEAR) & (abs(base[j]) <= SMALL)
        outside += 0 if near else 1
    return outside == 0


@block_loop
def _divergence_near(x: Any, base: Any, u: Any, v: Any, lanes: Any) -> float:
    moved = np.zeros(LANES, np.float64)
    work = np.empty(TILE, np.float64)
    lanes[:] = 0.0
    for first in range(0, x.size, TILE):
        a, b = x[first : first + TILE], base[first : first + TILE]
        e, m = u[first : first + TILE], v[first : first + TILE]
        for j in range(a.size):
            origin = np.float64(b[j])
            r = origin * 0.015625
            series = r * (1.0 / 362880.0) + 1.0 / 40320.0
            series = series * r + 1.0 / 5040.0
            series = series * r + 1.0 / 720.0
            series = series * r + 1.0 / 120.0
            series = series * r + 1.0 / 24.0
            series = series * r + 1.0 / 6.0
            series = series * r + 0.5
            series = series * r + 1.0
            root = series * r + 1.0
            root *= root
            root *= root
            root *= root
            root *= root
            root *= root
            e[j] = root * root  # exp(r) to the power of 64
            d = np.float64(a[j]) - origin
            series = d * (1.0 / 5040.0) + 1.0 / 720.0
            series = series * d + 1.0 / 120.0
            series = series * d + 1.0 / 24.0
            series = series * d + 1.0 / 6.0
            series = series * d + 0.5
            series = series * d + 1.0
            m[j] = series * d
            work[j] = e[j] * m[j]
        _add_lanes(e, lanes)
        _add_lanes(work[: a.size], moved)
    whole, shift = 0.0, 0.0
    for j in range(LANES):
        whole += lanes[j]
        shift += moved[j]
    mean = shift / whole
    factor, share = 1.0 / (1.0 + mean), 1.0 / whole
    lanes[:] = 0.0
    for first in range(0, x.size, TILE):
        e, m = u[first : first + TILE], v[first : first + TILE]
        for j in range(e.size):
            plain = e[j] * share
            q = plain + FLOOR
            t = plain * (m[j] - mean) * factor / q
            series = t * (1.0 / 110.0) - 1.0 / 90.0
            series = series * t + 1.0 / 72.0
            series = series * t - 1.0 / 56.0
            series = series * t + 1.0 / 42.0
            series = series * t - 1.0 / 30.0
            series = series * t + 1.0 / 20.0
            series = series * t - 1.0 / 12.0
            series = -series * t - 1.0 / 6.0
            series = series * t + 0.5
            work[j] = q * t * t * series
        _add_lanes(work[: e.size], lanes)
    total = 0.0
    for j in range(LANES):
        total += lanes[j]
    return total


@block_loop
def _softmax(x: Any, p: Any, powers: Any, scales: Any, lanes: Any) -> None:
    top = x[0]
    for j in range(x.size):
        top = x[j] if x[j] > top else top
    highest = np.float64(top)
    lanes[:] = 0.0
    for first in range(0, x.size, TILE):
        a, e = x[first : first + TILE], p[first : first + TILE]
        for j in range(a.size):
            below = np.float64(a[j]) - highest
            t = -700.0 if below < -700.0 else below
            k = (t * LOG2_E + ROUNDER) - ROUNDER
            r = (t - k * LN2_HIGH) - k * LN2_LOW
            series = r * (1.0 / 479001600.0) + 1.0 / 39916800.0
            series = series * r + 1.0 / 3628800.0
            series = series * r + 1.0 / 362880.0
            series = series * r + 1.0 / 40320.0
            series = series * r + 1.0 / 5040.0
            series = series * r + 1.0 / 720.0
            series = series * r + 1.0 / 120.0
            series = series * r + 1.0 / 24.0
            series = series * r + 1.0 / 6.0
            series = series * r + 0.5
            series = series * r + 1.0
            e[j] = series * r + 1.0
            powers[j] = (np.int64(k) + 1023) << 52
        for j in range(a.size):
            e[j] *= scales[j]
        _add_lanes(e, lanes)
    total = 0.0
    for j in range(LANES):
        total += lanes[j]
    factor = 1.0 / total
    for j in range(x.size):
        p[j] = p[j] * factor + FLOOR


@block_loop
def _add_lanes(x: Any, lanes: Any) -> None:
    for k in range(0, x.size, LANES):
        part = x[k : k + LANES]
        for j in range(part.size):
            lanes[j] += part[j]


@block_loop
def _importance(x: Any, base: Any, factors: Any, out: Any) -> None:
    unit = x.size // max(factors.size, 1)
    for u in range(factors.size):
        f = factors[u]
        a, b, target = x[u * unit : (u + 1) * unit], base[u * unit : (u + 1) * unit], out[u * unit : (u + 1) * unit]
        for j in range(a.size):
            target[j] = np.float64(abs(a[j] - b[j])) * f


@block_loop
def _take(x: Any, base: Any, measured: Any, threshold: Any, out: Any) -> None:
    for j in range(out.size):
        mine, origin = x[j], base[j]
        out[j] = origin if measured[j] < threshold else mine

"""Every merge method a second time: straight from its formula, whole arrays, float64, nothing of graftwork.

Slow and plain on purpose. Masks are drawn with Python's integers, the k largest are found by sorting.
"""

import hashlib
import math
from fractions import Fraction

import numpy as np

MASK64 = 2**64 - 1


def splitmix64(state):
    """Yield the outputs of SplitMix64 (Steele, Lea and Flood 2014) from a seed on."""
    while True:
        state = (state + 0x9E3779B97F4A7C15) & MASK64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
        yield z ^ (z >> 31)


def stream_key(seed, name, model):
    """The documented key of a random stream."""
    text = f"{seed}:{model}:{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"graftwork-rng-1").digest(), "little")


def mask(size, probability, seed, name, model):
    """The documented mask: kept where u >> 11 < p · 2⁵³."""
    numbers = splitmix64(stream_key(seed, name, model))
    return np.array([(next(numbers) >> 11) < probability * 2.0**53 for _ in range(size)], bool)


def vector(value, n):
    """An option that may be one value or one per model."""
    return list(value) if isinstance(value, (list, tuple)) else [value] * n


def linear(models, base, *, weight=1.0, normalize=True, **_):
    w = vector(weight, len(models))
    total = sum(wi * x.astype(np.float64) for wi, x in zip(w, models, strict=True))
    return total / sum(w) if normalize else total


def passthrough(models, base, *, scale=1.0, **_):
    return scale * models[0].astype(np.float64)


def slerp(models, base, *, t=0.5, **_):
    a, b = (x.astype(np.float64) for x in (models if base is None else [base, models[0]]))
    if not a.any() or not b.any():
        return (1 - t) * a + t * b
    cos = np.sum(a / np.linalg.norm(a) * (b / np.linalg.norm(b)))
    if abs(cos) > 0.9995:
        return (1 - t) * a + t * b
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b


def differences(models, base):
    return [x.astype(np.float64) - base.astype(np.float64) for x in models]


def task_arithmetic(models, base, *, weight=1.0, normalize=False, lambda_=1.0, **_):
    w = vector(weight, len(models))
    total = sum(wi * d for wi, d in zip(w, differences(models, base), strict=True))
    return base + lambda_ * total / (sum(w) if normalize else 1)


def elect(deltas, w, base, *, normalize, lambda_, election):
    weighted = [wi * d for wi, d in zip(w, deltas, strict=True)]
    votes = deltas if election == "unweighted" else weighted
    ballot = sum(np.sign(v) for v in votes) if election == "count" else sum(votes)
    winner = np.where(ballot >= 0, 1, -1)
    agree = [np.sign(v) == winner for v in votes]
    total = sum(np.where(a, v, 0) for a, v in zip(agree, weighted, strict=True))
    if normalize:
        divisor = sum(np.where(a, wi, 0) for a, wi in zip(agree, w, strict=True))
        total = total / np.where(divisor == 0, 1, divisor)
    return base + lambda_ * total


def largest(difference, fraction):
    """Which of the entries are the k largest in magnitude, the first among equals."""
    flat = np.abs(difference).reshape(-1)
    kept = np.zeros(flat.size, bool)
    kept[np.argsort(-flat, kind="stable")[: max(1, int(fraction * flat.size))]] = True
    return kept.reshape(difference.shape)


def ties(models, base, *, density=0.2, weight=1.0, normalize=True, lambda_=1.0, election="sum", **_):
    n = len(models)
    # which are largest is decided in the dtype of the models, as documented
    kept = [largest(x - base, d) for x, d in zip(models, vector(density, n), strict=True)]
    trimmed = [np.where(k, d, 0) for k, d in zip(kept, differences(models, base), strict=True)]
    return elect(trimmed, vector(weight, n), base, normalize=normalize, lambda_=lambda_, election=election)


def dropped(models, base, *, density, rescale, rescale_norm, seed, name):
    for i, (d, p) in enumerate(zip(differences(models, base), vector(density, len(models)), strict=True)):
        kept = d * mask(d.size, p, seed, name, i).reshape(d.shape)
        if not rescale:
            yield kept
        elif rescale_norm == "density":
            yield kept / p
        else:
            yield kept * (np.abs(d).sum() / np.abs(kept).sum()) if kept.any() else kept


def dare_linear(
    models,
    base,
    *,
    density=0.5,
    weight=1.0,
    rescale=True,
    rescale_norm="density",
    normalize=False,
    lambda_=1.0,
    seed=0,
    name="tensor",
):
    w = vector(weight, len(models))
    left = dropped(models, base, density=density, rescale=rescale, rescale_norm=rescale_norm, seed=seed, name=name)
    total = sum(wi * d for wi, d in zip(w, left, strict=True))
    return base + lambda_ * total / (sum(w) if normalize else 1)


def dare_ties(
    models,
    base,
    *,
    density=0.5,
    weight=1.0,
    rescale=True,
    rescale_norm="density",
    normalize=True,
    lambda_=1.0,
    election="sum",
    seed=0,
    name="tensor",
):
    left = list(
        dropped(models, base, density=density, rescale=rescale, rescale_norm=rescale_norm, seed=seed, name=name)
    )
    return elect(left, vector(weight, len(models)), base, normalize=normalize, lambda_=lambda_, election=election)


def median(models, base, **_):
    return np.median([x.astype(np.float64) for x in models], axis=0)


def trimmed_mean(models, base, *, trim=0.25, **_):
    cut = math.floor(Fraction(str(trim)) * len(models))
    ordered = np.sort([x.astype(np.float64) for x in models], axis=0)
    return ordered[cut : len(models) - cut].mean(axis=0)


def ema(models, base, *, decay=0.9, debias=False, **_):
    first, *rest = (x.astype(np.float64) for x in models)
    average = (1 - decay) * first if debias else first
    for x in rest:
        average = decay * average + (1 - decay) * x
    return average / (1 - decay ** len(models)) if debias else average


def swa(models, base, *, start=0, every=1, **_):
    return np.mean(
        [x.astype(np.float64) for i, x in enumerate(models) if i >= start and (i - start) % every == 0], axis=0
    )


def consensus(models, base, *, weight=1.0, tall_lambda=0.4, k=2, lambda_=1.0, **_):
    n = len(models)
    vectors = [wi * d for wi, d in zip(vector(weight, n), differences(models, base), strict=True)]
    together = sum(vectors)
    masks = [np.abs(v) >= c * np.abs(together - v) for v, c in zip(vectors, vector(tall_lambda, n), strict=True)]
    return base + lambda_ * np.where(sum(mask.astype(int) for mask in masks) >= k, together, 0)


def ram(models, base, *, epsilon=1e-5, factors=None, **_):
    deltas = differences(models, base)
    moved = [np.abs(x - base) > x.dtype.type(epsilon) for x in models]  # in the dtype of the models, as documented
    count = sum(m.astype(int) for m in moved)
    alone = sum(
        np.where(m & (count == 1), f * d, 0)
        for m, d, f in zip(moved, deltas, factors or [1] * len(models), strict=True)
    )
    shared = sum(np.where(m & (count > 1), d, 0) for m, d in zip(moved, deltas, strict=True))
    return base + alone + shared / np.maximum(count, 1)


def ramplus_tl(models, base, *, epsilon=1e-5, r=0.1, alpha=0.2, **_):
    moved = np.array([np.abs(x - base) > x.dtype.type(epsilon) for x in models])
    count = moved.sum(axis=0)
    shared, alone = [[int((m & which).sum()) for m in moved] for which in (count > 1, count == 1)]
    rho = [s / a if a else np.inf for s, a in zip(shared, alone, strict=True)]
    return ram(models, base, epsilon=epsilon, factors=[1 + r * min(alpha, p) for p in rho])


def nearswap(models, base, *, t=1e-4, **_):
    a, b = base.astype(np.float64), models[0].astype(np.float64)
    w = np.minimum(1, t / np.maximum(np.abs(a - b), 1e-6))
    return w * b + (1 - w) * a


REFERENCES = {
    "consensus": consensus,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "ema": ema,
    "linear": linear,
    "nearswap": nearswap,
    "median": median,
    "passthrough": passthrough,
    "ram": ram,
    "ramplus_tl": ramplus_tl,
    "slerp": slerp,
    "swa": swa,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "trimmed_mean": trimmed_mean,
}

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


def great_circle(a, b, t):
    product = np.linalg.norm(a) * np.linalg.norm(b)
    cos = np.sum(a * b) / product if product else 0.0
    if 1 - cos**2 <= 1e-12:
        return (1 - t) * a + t * b
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle) * a + math.sin(t * angle) / math.sin(angle) * b


def nuslerp(models, base, *, weight=1.0, nuslerp_flatten=True, nuslerp_row_wise=False, **_):
    """Arrays of more than one axis in PyTorch's layout."""
    w = vector(weight, 2)
    t = 0.5 if sum(w) == 0 else w[1] / sum(w)
    origin = np.zeros(models[0].shape) if base is None else base.astype(np.float64)
    a, b = differences(models, origin)
    if nuslerp_flatten or a.ndim < 2:
        return origin + great_circle(a, b, t)
    result = origin.copy()
    for index in np.ndindex(a.shape[1:] if nuslerp_row_wise else a.shape[:1]):
        which = (slice(None), *index) if nuslerp_row_wise else index
        result[which] += great_circle(a[which], b[which], t)
    return result


def multislerp(models, base, *, weight=1.0, normalize_weights=True, eps=1e-8, **_):
    """With the way through the tangent space, as published."""
    origin = np.zeros(models[0].shape) if base is None else base.astype(np.float64)
    vectors = differences(models, origin)
    w = np.array(vector(weight, len(models)), np.float64)
    if len(models) == 1:
        return models[0].astype(np.float64)
    if normalize_weights:
        w = w / w.sum()
    norms = [np.linalg.norm(v) for v in vectors]
    units = [v / (norm + eps) if norm else v for v, norm in zip(vectors, norms, strict=True)]
    mean = sum(wi * u for wi, u in zip(w, units, strict=True))
    if np.linalg.norm(mean) < 1e-7:
        assert len(models) == 2 or not any(norms)
        return origin + sum(wi * v for wi, v in zip(w, vectors, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(wi * (u - np.sum(u * mean) * mean) for wi, u in zip(w, units, strict=True))
    size = np.linalg.norm(tangent) + 1e-30
    return origin + (w @ norms) * (mean * math.cos(size) + tangent * math.sin(size) / size)


def karcher(models, base, *, weight=1.0, max_iter=10, tol=1e-5, **_):
    w = np.array(vector(weight, len(models)), np.float64)
    w /= w.sum()
    norms = np.array([np.linalg.norm(x.astype(np.float64)) for x in models])
    if not norms.any():
        return np.zeros(models[0].shape)
    units = [(wi, x / norm) for wi, x, norm in zip(w, models, norms, strict=True) if norm]
    total = sum(wi for wi, _ in units)
    units = [(wi / total, u.astype(np.float64)) for wi, u in units]
    mean = sum(wi * u for wi, u in units)
    mean = mean / np.linalg.norm(mean) if np.linalg.norm(mean) >= max(tol, 1e-7) else units[0][1]
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for wi, u in units:
            cos = np.clip(np.sum(mean * u), -1, 1)
            angle = math.acos(cos)
            if max(tol, 1e-7) < angle < math.pi - max(tol, 1e-7):
                tangent += wi * angle / math.sin(angle) * (u - cos * mean)
        size = np.linalg.norm(tangent)
        if size < tol:
            break
        mean = math.cos(size) * mean + math.sin(size) / size * tangent
        mean /= np.linalg.norm(mean)
    return (w @ norms) * mean


def model_stock(models, base, *, filter_wise=False, **_):
    """Arrays of more than one axis in PyTorch's layout."""
    base = base.astype(np.float64)
    if filter_wise and base.ndim > 1:
        return np.stack([model_stock([x[u] for x in models], base[u]) for u in range(len(base))])
    n, deltas = len(models), differences(models, base)
    cosines = []
    for i in range(n):
        for j in range(i):
            product = np.linalg.norm(deltas[i]) * np.linalg.norm(deltas[j])
            cosines.append(np.sum(deltas[i] * deltas[j]) / product if product else 0.0)
    divisor = 1 + (n - 1) * np.mean(cosines)
    t = n * np.mean(cosines) / divisor if abs(divisor) >= 1e-6 else 0.0
    return t * np.mean([x.astype(np.float64) for x in models], axis=0) + (1 - t) * base


def geometric_median(models, base, *, weight=1.0, max_iter=100, tol=1e-6, smoothing=0.0, **_):
    """Steps of Weiszfeld, and of Vardi and Zhang where a model is met."""
    points = [x.astype(np.float64) for x in models]
    w = np.array(vector(weight, len(models)), np.float64)
    w /= w.sum()

    def pulls(z):
        distances = np.array([np.linalg.norm(x - z) for x in points])
        met = (distances < 1e-9) & (smoothing == 0)
        return np.where(met, 0, w / np.maximum(np.where(met, 1, distances), smoothing)), w[met].sum()

    for z in points if smoothing == 0 else []:
        p, mass = pulls(z)
        if np.linalg.norm(sum(pi * (x - z) for pi, x in zip(p, points, strict=True))) < mass * (1 - 1e-7):
            return z
    z = sum(wi * x for wi, x in zip(w, points, strict=True))
    for _ in range(max_iter):
        p, mass = pulls(z)
        if not p.any():
            break
        way = sum(pi * x for pi, x in zip(p, points, strict=True)) / p.sum() - z
        pull = p.sum() * np.linalg.norm(way)
        step = way * (1 - min(1, mass / pull)) if mass and pull else way
        z = z + step
        if np.linalg.norm(step) <= tol / p.sum():
            break
    return z


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


def ties(models, base, *, density=0.2, weight=1.0, normalize=True, lambda_=1.0, rescale=False, election="sum", **_):
    n = len(models)
    # which are largest is decided in the dtype of the models, as documented
    kept = [largest(x - base, d) for x, d in zip(models, vector(density, n), strict=True)]
    deltas = differences(models, base)
    trimmed = [np.where(k, d, 0) for k, d in zip(kept, deltas, strict=True)]
    if rescale:
        trimmed = [
            t * (np.abs(d).sum() / np.abs(t).sum()) if t.any() else t for t, d in zip(trimmed, deltas, strict=True)
        ]
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


def ranked_mask(difference, magnitudes, density, epsilon, key):
    """The documented mask and its probabilities: entry by entry in the order of units, which the last axis counts."""
    turned = np.moveaxis(magnitudes, -1, 0) if magnitudes.ndim > 1 else magnitudes[None]
    units = turned.reshape(len(turned), -1) if turned.size else turned
    numbers = splitmix64(key)
    p, kept = np.empty(units.shape), np.empty(units.shape)
    for u, unit in enumerate(units):
        for rank, j in enumerate(np.argsort(unit, kind="stable")):
            p[u, j] = density - epsilon + rank * (2 * epsilon / (unit.size - 1)) if unit.size > 1 else density
        kept[u] = [(next(numbers) >> 11) < p[u, j] * 2.0**53 for j in range(unit.size)]
    back = [np.moveaxis(a.reshape(turned.shape), 0, -1).reshape(difference.shape) for a in (kept, p)]
    return back[0], back[1]


def ranked(models, base, *, density, epsilon, rescale, rescale_norm, seed, name):
    n = len(models)
    chances = zip(vector(density, n), vector(epsilon, n), strict=True)
    for i, (x, d, (q, e)) in enumerate(zip(models, differences(models, base), chances, strict=True)):
        if q == 1:
            yield d
            continue
        # ranked in the dtype of the models, as documented
        kept, p = ranked_mask(d, np.abs(x - base), q, e, stream_key(seed, name, i))
        left = d * kept
        if not rescale:
            yield left
        elif rescale_norm == "density":
            yield left / p
        else:
            yield left * (np.abs(d).sum() / np.abs(left).sum()) if left.any() else left


def della_linear(
    models,
    base,
    *,
    density=0.5,
    epsilon=0.15,
    weight=1.0,
    rescale=True,
    rescale_norm="l1",
    normalize=False,
    lambda_=1.0,
    seed=0,
    name="tensor",
):
    w = vector(weight, len(models))
    drop = {"density": density, "epsilon": epsilon, "rescale": rescale, "rescale_norm": rescale_norm}
    left = ranked(models, base, **drop, seed=seed, name=name)
    total = sum(wi * d for wi, d in zip(w, left, strict=True))
    return base + lambda_ * total / (sum(w) if normalize else 1)


def della(
    models,
    base,
    *,
    density=0.5,
    epsilon=0.15,
    weight=1.0,
    rescale=True,
    rescale_norm="l1",
    normalize=True,
    lambda_=1.0,
    election="sum",
    seed=0,
    name="tensor",
):
    drop = {"density": density, "epsilon": epsilon, "rescale": rescale, "rescale_norm": rescale_norm}
    left = list(ranked(models, base, **drop, seed=seed, name=name))
    return elect(left, vector(weight, len(models)), base, normalize=normalize, lambda_=lambda_, election=election)


def crumbs(models, base, *, density, gamma, rescale):
    n = len(models)
    for x, d, f, g in zip(models, differences(models, base), vector(density, n), vector(gamma, n), strict=True):
        k = max(1, int(f * d.size))
        outliers = min(int(g * d.size), d.size - k)
        order = np.argsort(-np.abs(x - base).reshape(-1), kind="stable")  # in the dtype of the models, as documented
        kept = np.zeros(d.size)
        kept[order[outliers : outliers + k]] = 1
        left = d * kept.reshape(d.shape)
        yield left * (np.abs(d).sum() / np.abs(left).sum()) if rescale and left.any() else left


def breadcrumbs(models, base, *, density=0.9, gamma=0.01, weight=1.0, rescale=False, normalize=False, lambda_=1.0, **_):
    w = vector(weight, len(models))
    left = crumbs(models, base, density=density, gamma=gamma, rescale=rescale)
    total = sum(wi * d for wi, d in zip(w, left, strict=True))
    return base + lambda_ * total / (sum(w) if normalize else 1)


def breadcrumbs_ties(
    models,
    base,
    *,
    density=0.9,
    gamma=0.01,
    weight=1.0,
    rescale=False,
    normalize=False,
    lambda_=1.0,
    election="sum",
    **_,
):
    left = list(crumbs(models, base, density=density, gamma=gamma, rescale=rescale))
    return elect(left, vector(weight, len(models)), base, normalize=normalize, lambda_=lambda_, election=election)


def sce(models, base, *, select_topk=1.0, **_):
    deltas = np.array(differences(models, base))
    if select_topk < 1:
        # n times the standard deviation, without a division, so that equal ones come out equal; in the dtype of the models
        scaled = np.sqrt(len(models) * (deltas**2).sum(axis=0) - deltas.sum(axis=0) ** 2)
        spread = scaled.astype(models[0].dtype).reshape(-1)
        varied = np.count_nonzero(np.ptp(np.array(models), axis=0))
        chosen = np.zeros(spread.size, bool)
        chosen[np.argsort(-spread, kind="stable")[: max(1, int(select_topk * varied)) if varied else 0]] = True
        deltas = deltas * chosen.reshape(base.shape)
    squares = [(d**2).mean() for d in deltas]
    w = [s / sum(squares) if sum(squares) else 1 / len(models) for s in squares]
    winner = np.where(sum(deltas) >= 0, 1, -1)
    agree = [np.sign(d) == winner for d in deltas]
    total = sum(np.where(a, wi * d, 0) for a, wi, d in zip(agree, w, deltas, strict=True))
    return base + total / np.maximum(sum(np.where(a, wi, 0) for a, wi in zip(agree, w, strict=True)), 1e-6)


def arcee_fusion(models, base, **_):
    x, b = models[0].astype(np.float64), base.astype(np.float64)
    axes = tuple(range(x.ndim - 1)) if x.ndim > 1 else None  # a unit is what shares the last index, or all of a vector

    def softmax(values):
        e = np.exp(values - values.max(axis=axes, keepdims=True))
        return e / e.sum(axis=axes, keepdims=True) + 1e-8

    p, q = softmax(x), softmax(b)
    kl = (p * np.log(p / q)).sum(axis=axes, keepdims=True)
    scores = (np.abs(models[0] - base) * kl).astype(base.dtype).astype(np.float64)
    ordered = np.sort(scores, axis=None)
    q1, q2, q3 = (ordered[int(share * (ordered.size - 1))] for share in (0.25, 0.5, 0.75))
    return np.where(scores >= q2 + 1.5 * (q3 - q1), x, b)


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


def in_units(x, axis=-1):
    """A tensor as a matrix with one row per unit, in float64."""
    return np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).astype(np.float64)


def from_units(matrix, shape, axis=-1):
    """Such a matrix as a tensor again."""
    rest = shape[:-1] if axis == -1 else shape[1:]
    return np.moveaxis(matrix.reshape(shape[axis], *rest), 0, axis)


def decomposed(matrix):
    """U, the singular values and V of a matrix, as far as they are not zero."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    kept = s > 1e-5 * s.max(initial=0)
    return u[:, kept], s[kept], v[kept]


def iso_c(models, base, *, weight=1.0, lambda_=1.0, axis=-1, **_):
    w, n = vector(weight, len(models)), len(models)
    deltas = [wi * (x.astype(np.float64) - base) for wi, x in zip(w, models, strict=True)]
    if base.ndim < 2:
        return base + lambda_ * sum(deltas) / n
    u, s, v = decomposed(in_units(sum(deltas), axis))
    return base + lambda_ * from_units((u * s.mean()) @ v if s.size else 0 * in_units(base, axis), base.shape, axis)


def tsv(models, base, *, weight=1.0, lambda_=1.0, axis=-1, **_):
    w, n = vector(weight, len(models)), len(models)
    deltas = [wi * (x.astype(np.float64) - base) for wi, x in zip(w, models, strict=True)]
    if base.ndim < 2:
        return base + lambda_ * sum(deltas) / n
    k = max(1, min(in_units(base, axis).shape) // n)
    parts = [decomposed(in_units(delta, axis)) for delta in deltas]
    u, v = (
        decomposed(m) for m in (np.hstack([u[:, :k] for u, _, _ in parts]), np.vstack([v[:k] for _, _, v in parts]))
    )
    values = np.concatenate([s[:k] for _, s, _ in parts])
    return base + lambda_ * from_units((u[0] @ u[2] * values) @ (v[0] @ v[2]), base.shape, axis)


def fisher(models, base, *, companions, weight=1.0, floor=1e-12, **_):
    factors = [
        w * np.maximum(f.astype(np.float64), floor)
        for w, f in zip(vector(weight, len(models)), companions, strict=True)
    ]
    return sum(f * x for f, x in zip(factors, models, strict=True)) / sum(factors)


def regmean(models, base, *, companions=(), weight=1.0, alpha=0.9, axis=-1, **_):
    w = vector(weight, len(models))
    if not companions:
        return linear(models, base, weight=weight)
    grams = [wi * (alpha * g + (1 - alpha) * np.diag(np.diag(g))) for wi, g in zip(w, companions, strict=True)]
    total = sum(in_units(x, axis) @ g for x, g in zip(models, grams, strict=True))
    return from_units(total @ np.linalg.inv(sum(grams)), models[0].shape, axis)


REFERENCES = {
    "arcee_fusion": arcee_fusion,
    "breadcrumbs": breadcrumbs,
    "breadcrumbs_ties": breadcrumbs_ties,
    "consensus": consensus,
    "dare_linear": dare_linear,
    "dare_ties": dare_ties,
    "ema": ema,
    "fisher": fisher,
    "geometric_median": geometric_median,
    "karcher": karcher,
    "iso_c": iso_c,
    "della": della,
    "della_linear": della_linear,
    "linear": linear,
    "nearswap": nearswap,
    "median": median,
    "model_stock": model_stock,
    "multislerp": multislerp,
    "nuslerp": nuslerp,
    "passthrough": passthrough,
    "ram": ram,
    "regmean": regmean,
    "ramplus_tl": ramplus_tl,
    "sce": sce,
    "slerp": slerp,
    "swa": swa,
    "task_arithmetic": task_arithmetic,
    "ties": ties,
    "trimmed_mean": trimmed_mean,
    "tsv": tsv,
}

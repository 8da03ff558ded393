"""What is found with the help of a sample is what sorting finds, whether the sample is right or wrong."""

import numpy as np
import pytest

from graftwork.kernels import sampling
from graftwork.methods import sce
from graftwork.methods.base import CHUNK, Block

SIZE = 40 * CHUNK + 1234
RNG = np.random.default_rng(5)
BASE = np.round(RNG.standard_normal(SIZE) * 8).astype(np.float32) / 8
NOISE = RNG.standard_normal((3, SIZE)).astype(np.float32)
SPARSE = np.where(RNG.random(SIZE) < 0.97, np.float32(0), NOISE)
MISLEADING = NOISE * np.where(np.arange(SIZE) // CHUNK % 8 == 0, np.float32(100), np.float32(1))
DELTAS = {
    "alike": (NOISE, True),
    "trending": (NOISE * np.linspace(0.1, 3, SIZE, dtype=np.float32), True),
    "sparse": (SPARSE, True),
    "few distinct": (np.round(NOISE), False),
    "misleading": (MISLEADING, False),
    "nothing": (np.zeros_like(NOISE), True),
}
"""Differences from the base, and whether a sample tells enough for one pass over everything to be all there is."""


def select(models, topk, length, threads):
    """Return the selection's result and the number of passes over everything, with blocks dealt out in reverse."""
    reduction = sce.Selection(topk, len(models), SIZE, models.dtype)
    passes, again = 0, True
    while again:
        passes += reduction.stride == 1
        locals_ = [reduction.local() for _ in range(threads)]
        for k, start in enumerate(reversed(range(0, SIZE, length))):
            part = slice(start, min(start + length, SIZE))
            empty = np.empty(0, models.dtype)
            block = Block(
                models[:, part], BASE.astype(models.dtype)[part], empty, empty, start, 0, np.empty(3, np.uint64)
            )
            reduction.observe(block, locals_[k % threads])
        again = reduction.end_pass(locals_)
    return *reduction.result(), passes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("topk", [0.0001, 0.1, 0.9, 0.99999])
@pytest.mark.parametrize("kind", DELTAS)
def test_a_selection_is_what_sorting_selects(monkeypatch, kind, topk, dtype):
    """The same to the bit for every cut and number of threads; and of few passes where the sample is right."""
    monkeypatch.setattr(sce, "ROOM", SIZE)  # a third of the elements
    monkeypatch.setattr(sampling, "LEAST", 5 * CHUNK)
    monkeypatch.setattr(sampling, "MOST", 5 * CHUNK)
    deltas, telling = DELTAS[kind]
    models = (BASE + deltas).astype(dtype)
    d = models.astype(np.float64) - models[0]
    spread = (np.sqrt(3 * (d[1] ** 2 + d[2] ** 2) - (d[1] + d[2]) ** 2) / 3).astype(dtype)
    varied = int(np.count_nonzero(spread))
    chosen = np.argsort(-spread, kind="stable")[: max(1, int(topk * varied)) if varied else 0]
    squares = [((x.astype(np.float64) - BASE)[chosen] ** 2).sum() for x in models]

    found = [select(models, topk, *cut) for cut in ((CHUNK, 3), (7 * CHUNK, 2), (11 * 4 * CHUNK, 1))]

    for thresholds, weights, needed in found:
        cut = thresholds.cuts(spread[None], None, 0)[0]
        selected = (spread > thresholds.magnitudes[0]) | (
            (spread == thresholds.magnitudes[0]) & (np.arange(SIZE) < cut)
        )
        np.testing.assert_array_equal(np.flatnonzero(selected), np.sort(chosen))
        np.testing.assert_allclose(weights, np.array(squares) / sum(squares) if varied else 1 / 3, rtol=1e-12)
        np.testing.assert_array_equal(weights, found[0][1])
        if 0.01 < topk < 0.95:
            assert (needed == 1) == telling

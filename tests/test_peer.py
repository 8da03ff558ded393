"""Our numbers against those of mergekit's public release, which runs in an environment of its own; skipped where there is none.

`make bench-peers` makes that environment, or GRAFTWORK_PEER_PYTHON names a Python that has mergekit. One process computes all of its
results.
"""

import functools
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from graftwork.methods.arrays import merge_arrays

HERE = Path(__file__).parent
NAMED = os.environ.get("GRAFTWORK_PEER_PYTHON")
ENVIRONMENT = HERE.parent / ".venv-peers"
PEER = Path(NAMED or ENVIRONMENT / "bin" / "python")

pytestmark = [
    pytest.mark.skipif(
        not NAMED and not (ENVIRONMENT / ".installed").exists(),
        reason="mergekit is not installed; `make bench-peers` does it",
    ),
]

TOLERANCE = 1e-5
"""Greatest error, relative to the tensor's largest magnitude: mergekit adds up in float32, so that the error of an element goes with the
size of what was added, not with its own, which may be the small difference of large ones."""

MOST = 4
"""Models that are made of every tensor."""

SHAPES = {
    "matrix": (96, 64),
    "wide": (7, 300),
    "tall": (300, 7),
    "large": (500, 400),
    "vector": (513,),
    "one": (1,),
    "few": (3,),
    "row": (1, 33),
    "column": (33, 1),
    "cube": (4, 5, 6),
    "kernel": (8, 4, 3, 3),
}
SMALL = ("fine", "fine vector", "tiny")
TIED = ("tied matrix", "tied and opposite", "tied vector")


@functools.cache
def tensors():
    """Return every tensor as (base, models), float32.

    Models are as large as their differences, so that an error in those shows; `fine`: differences of 1%, as after fine-tuning;
    `tiny`: of less; `tied`: multiples of 1/8, many of the same magnitude; `unmoved`: the first model equals the base; `still`: all do.
    """
    rng = np.random.default_rng(0)

    def draw(shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    def around(base, scale):
        return base, [(base + draw(base.shape, scale * (1 + i / 4))).astype(np.float32) for i in range(MOST)]

    def eighths(shape):
        return (rng.integers(-16, 17, shape) / 8).astype(np.float32)

    made = {name: around(draw(shape), 1.0) for name, shape in SHAPES.items()}
    made["fine"] = around(draw((120, 80), 0.02), 0.0002)
    made["fine vector"] = around(draw((700,), 0.02), 0.0002)
    made["tiny"] = around(draw((6, 10), 0.02), 0.00001)
    made["tied matrix"] = eighths((16, 24)), [eighths((16, 24)) for _ in range(MOST)]
    base, shift, other = (eighths((12, 14)) for _ in range(3))
    made["tied and opposite"] = base, [base + shift, base - shift, base + other, base - other]
    made["parallel"] = draw((15, 9)), []
    made["parallel"][1].extend(factor * made["parallel"][0] for factor in (2.0, 3.0, 1.5, 2.5))
    made["tied vector"] = eighths((90,)), [eighths((90,)) for _ in range(MOST)]
    base, models = around(draw((24, 10)), 1.0)
    made["unmoved"] = base, [base, *models[1:]]
    made["still"] = base, [base] * MOST
    return made


@dataclass(frozen=True)
class Case:
    """One method under the same parameters in both tools.

    Attributes:
        method: Its name in both.
        peer: mergekit's parameters; a list has one value per model.
        ours: Our options, where they are called or valued differently.
        models: How many, without the base.
        base: Whether there is a base.
        without: Tensors that are not compared.
        refused: Tensors that mergekit fails on and we merge.
        by_unit: A vector is all weights of a unit here, one run of the last axis there: there tensors of more than two axes are given
            as matrices of units.
        least_one: The parameter that is a fraction of entries, of which at least one is kept here: there it is raised to that.
        enlarged: Tensors so small that absolute thresholds set in there, and none here: there they are given 2²⁰ times as large.
        precise: Tensors for which float32 is not enough there: there they are given in float64.
    """

    method: str
    peer: dict[str, object] = field(default_factory=dict)
    ours: dict[str, object] = field(default_factory=dict)
    models: int = 3
    base: bool = True
    without: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    by_unit: bool = False
    least_one: str = ""
    enlarged: tuple[str, ...] = ()
    precise: tuple[str, ...] = ()

    @property
    def id(self):
        said = ",".join(f"{k}={v}" for k, v in self.peer.items())
        return f"{self.method}({said}) of {self.models}{' and a base' * self.base}".replace("/", "|")

    def job(self, name):
        """What mergekit is given for a tensor."""
        shape = tensors()[name][0].shape
        parameters = dict(self.peer)
        if self.least_one:
            fraction, least = parameters[self.least_one], 1 / math.prod(shape)
            raised = [max(f, least) for f in fraction] if isinstance(fraction, list) else max(fraction, least)
            parameters[self.least_one] = raised
        return {
            "parameters": parameters,
            "shape": [shape[0], -1] if self.by_unit and len(shape) > 2 else list(shape),
            "factor": 2.0**20 if name in self.enlarged else 1.0,
            "dtype": "float64" if name in self.precise else "float32",
        }

    def options(self):
        """Our options: mergekit's, in our spelling."""
        said = {("lambda_" if key == "lambda" else key): value for key, value in self.peer.items()}
        return {**said, **self.ours}

    def run(self, name):
        """Return our result for a tensor, in PyTorch's layout."""
        base, models = tensors()[name]
        base = base if self.base else None
        return merge_arrays(self.method, models[: self.models], base=base, name=name, unit_axis=0, **self.options())


W3 = [0.2, 0.5, 1.1]

# Among entries of equal magnitude, which are the largest is left to the sorting routine there; here the earlier are.
untied = functools.partial(Case, without=TIED)
some_kept = functools.partial(untied, least_one="density")

EXACT = [
    Case("linear", {"weight": 1.0}, base=False),
    Case("linear", {"weight": W3}, base=False),
    Case("linear", {"weight": [1.5, -0.5], "normalize": False}, models=2, base=False),
    *[Case("slerp", {"t": t}, models=1) for t in (0.0, 0.3, 0.5, 1.0)],
    Case("task_arithmetic", {"weight": 1.0}),
    Case("task_arithmetic", {"weight": W3, "lambda": 0.7}),
    Case("task_arithmetic", {"weight": [1.0, -0.4], "normalize": True}, models=2),
    Case("ties", {"weight": 1.0, "density": 1.0}),
    Case("ties", {"weight": [1.0, -0.5, 0.25], "density": 1.0, "normalize": False}),
    *[untied("ties", {"weight": 1 / 3, "density": density}) for density in (0.001, 0.2, 0.5, 0.9)],
    untied("ties", {"weight": W3, "density": [0.3, 0.5, 0.7], "lambda": 1.4}),
    untied("ties", {"weight": [-1.0, 0.5], "density": 0.4, "normalize": False}, models=2),
    untied("ties", {"weight": W3, "density": 0.4, "rescale": True}),
    *[Case("passthrough", {"scale": scale}, models=1, base=False) for scale in (1.0, 0.5, -2.0)],
    *[
        Case(
            "nuslerp",
            {"weight": weight, "nuslerp_flatten": flat, "nuslerp_row_wise": row},
            models=2,
            base=base,
            without=("tied and opposite",) if base and not flat else (),
            by_unit=not (flat or row),
        )
        for base in (False, True)
        for weight in ([1.0, 1.0], [0.3, 0.9])
        for flat, row in ((True, False), (False, False), (False, True))
    ],
    *[Case("multislerp", {"weight": weight}, base=False) for weight in (1.0, W3)],
    *[Case("multislerp", {"weight": weight}, refused=("still",)) for weight in (1.0, W3)],
    Case("multislerp", {"weight": W3, "normalize_weights": False}, base=False),
    Case("multislerp", {"weight": [0.4, 0.8]}, models=2, base=False),
    Case("karcher", models=2, base=False),
    Case("karcher", base=False),
    Case("karcher", {"max_iter": 50, "tol": 1e-7}, models=4, base=False),
    *[
        some_kept(method, {"weight": 1 / 3, "density": density, "gamma": gamma})
        for method in ("breadcrumbs", "breadcrumbs_ties")
        for density, gamma in ((0.5, 0.01), (0.9, 0.05), (0.3, 0.2), (0.95, 0.2))
    ],
    *[
        some_kept(method, {"weight": W3, "density": [0.3, 0.5, 0.7], "gamma": [0.01, 0.1, 0.2], "lambda": 1.3})
        for method in ("breadcrumbs", "breadcrumbs_ties")
    ],
    some_kept("breadcrumbs", {"weight": W3, "density": 0.5, "gamma": 0.1, "normalize": True}),
    some_kept("breadcrumbs_ties", {"weight": W3, "density": 0.5, "gamma": 0.1, "normalize": True}),
    *[
        some_kept(method, {"weight": W3, "density": 0.5, "gamma": 0.1, "rescale": True})
        for method in ("breadcrumbs", "breadcrumbs_ties")
    ],
    Case("breadcrumbs", {"weight": 0.5, "density": 1.0, "gamma": 0.1}),
    Case("sce", {"select_topk": 1.0}, enlarged=SMALL),
    *[untied("sce", {"select_topk": k}, least_one="select_topk", enlarged=SMALL) for k in (0.1, 0.5, 0.9)],
    untied("sce", {"select_topk": 0.3}, models=4, least_one="select_topk", enlarged=SMALL),
    *[Case("model_stock", models=n, enlarged=SMALL) for n in (2, 3, 4)],
    *[Case("model_stock", {"filter_wise": True}, models=n, by_unit=True, enlarged=SMALL) for n in (2, 3, 4)],
    *[Case("nearswap", {"t": t}, models=1) for t in (0.0001, 0.3, 1.0)],
    # the divergence of fine-tunes is a sum of terms a thousand times as large that cancel
    Case("arcee_fusion", models=1, by_unit=True, precise=SMALL),
    *[Case("ram", {"epsilon": epsilon}, models=n) for n in (2, 3) for epsilon in (1e-5, 0.6)],
    *[
        Case("ramplus_tl", {"r": r, "alpha": alpha, "epsilon": epsilon}, models=3)
        for r, alpha, epsilon in ((0.1, 0.2, 1e-5), (0.5, 1.0, 0.6), (1.0, 0.2, 0.9))
    ],
    Case("dare_linear", {"weight": W3, "density": 1.0, "rescale": True, "lambda": 0.8}, {"rescale_norm": "l1"}),
    Case("dare_linear", {"weight": W3, "density": 1.0, "normalize": True}, {"rescale_norm": "l1"}),
    Case("dare_ties", {"weight": W3, "density": 1.0, "normalize": False}, {"rescale_norm": "l1"}),
    Case("dare_ties", {"weight": W3, "density": 1.0, "normalize": True}, {"rescale_norm": "l1"}),
    Case("della", {"weight": W3, "density": 1.0, "epsilon": 0.15, "lambda": 0.8, "normalize": True}),
    Case("della_linear", {"weight": W3, "density": 1.0, "epsilon": 0.15}),
]
"""Deterministic ones: every element is the same, but for the differences that docs/methods.md states and `Case` names."""

DROPPING = [
    *[
        Case("dare_linear", {"weight": 1.0, "density": d, "rescale": True}, {"rescale_norm": "l1"}, models=1)
        for d in (0.2, 0.5, 0.9)
    ],
    Case("dare_ties", {"weight": 1.0, "density": 0.5, "rescale": True}, {"rescale_norm": "l1"}, models=1),
    Case("dare_linear", {"weight": 1.0, "density": 0.3, "rescale": False}, models=1),
    *[
        Case(method, {"weight": 1.0, "density": d, "epsilon": e, "rescale": True}, models=1, refused=("column", "one"))
        for method in ("della", "della_linear")
        for d, e in ((0.5, 0.15), (0.4, 0.35))
    ],
    Case(
        "della_linear",
        {"weight": 1.0, "density": 0.6, "epsilon": 0.1, "rescale": False},
        models=1,
        refused=("column", "one"),
    ),
]
"""Random ones, one model each: what does not depend on the draw is the same."""


CHOOSING = [
    Case("ties", {"weight": 1.0, "density": 0.37}, models=1),
    *[
        Case(method, {"weight": 1.0, "density": 0.37, "gamma": 0.1}, models=1)
        for method in ("breadcrumbs", "breadcrumbs_ties")
    ],
]
"""Those that choose by magnitude, one model each: as many of each magnitude are kept."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes put their files."""
    return tmp_path_factory.mktemp("peer")


@pytest.fixture(scope="module")
def peer(folder):
    """Mergekit's results and errors by case and tensor."""
    jobs = [
        {
            "id": case.id,
            "method": case.method,
            "models": case.models,
            "base": case.base,
            "tensors": {name: case.job(name) for name in tensors()},
        }
        for case in [*EXACT, *CHOOSING, *DROPPING]
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    flat = {}
    for name, (base, models) in tensors().items():
        flat |= {f"{name}/base": base, **{f"{name}/{i}": model for i, model in enumerate(models)}}
    np.savez(folder / "tensors.npz", **flat)
    done = subprocess.run([PEER, HERE / "peer" / "driver.py", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "results.npz") as found:
        return dict(found), json.loads((folder / "errors.json").read_text())


def test_every_method_of_mergekit_is_compared(peer, folder):
    """None of its methods is without a row."""
    theirs = set((folder / "methods.txt").read_text().split())
    assert {case.method for case in [*EXACT, *DROPPING]} == theirs


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.id)
def test_the_same_numbers(case, peer):
    """Every element within 1e-5 of mergekit's, relative to the tensor's largest."""
    results, errors = peer
    assert {name for name in tensors() if f"{case.id}/{name}" in errors} == set(case.refused)
    wrong = {}
    for name in tensors():
        if name in case.refused:
            assert np.isfinite(case.run(name)).all()
        if name in case.without or name in case.refused:
            continue
        ours, theirs = case.run(name).astype(np.float64), results[f"{case.id}/{name}"].astype(np.float64)
        assert ours.shape == theirs.shape
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        if not error <= TOLERANCE:
            wrong[name] = f"{error:.2g}, {np.mean(np.abs(ours - theirs) > TOLERANCE * np.abs(theirs).max()):.2%}"
    assert not wrong


@pytest.mark.parametrize("row_wise", [False, True])
def test_opposite_vectors_are_mixed_along_the_line(row_wise, peer):
    """There float32 seldom tells that vectors are opposite, and rounding is divided by the sine of an angle that is almost π."""
    parameters = {"weight": [0.3, 0.9], "nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
    case = Case("nuslerp", parameters, models=2)
    _, (a, b, *_) = tensors()["tied and opposite"]
    ours, theirs = case.run("tied and opposite"), peer[0][f"{case.id}/tied and opposite"]

    np.testing.assert_allclose(ours, a / 4 + 3 * b / 4, rtol=0, atol=1e-6)
    assert np.abs(theirs - ours).max() > 0.01


@pytest.mark.parametrize("case", CHOOSING, ids=lambda case: case.id)
def test_choosing_among_equals(case, peer):
    """Where many entries are equal in magnitude, which ones are kept may differ, but not how many of each magnitude."""
    results, _ = peer
    for name in TIED:
        base = tensors()[name][0]
        ours, theirs = (
            np.sort(np.abs(merged - base).reshape(-1)) for merged in (case.run(name), results[f"{case.id}/{name}"])
        )
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("case", DROPPING, ids=lambda case: case.id)
def test_dropping_at_random(case, peer):
    """As many entries are kept, of the same L1 norm, all by one factor: there and here."""
    results, errors = peer
    assert {name for name in tensors() if f"{case.id}/{name}" in errors} == set(case.refused)
    assert all(np.isfinite(case.run(name)).all() for name in case.refused)
    density, rescale = case.peer["density"], case.peer["rescale"]
    for name in ("matrix", "wide", "large", "vector"):
        base, (model, *_) = (np.asarray(a, np.float64) for a in (tensors()[name][0], tensors()[name][1]))
        delta = model - base
        for merged in (case.run(name), results[f"{case.id}/{name}"]):
            moved = merged - base
            kept = np.abs(moved) > 0.01 * np.abs(delta)
            factor = np.abs(delta).sum() / np.abs(delta[kept]).sum() if rescale else 1.0
            rounding = 1e-6 * np.abs(merged).max()
            np.testing.assert_allclose(moved, np.where(kept, factor * delta, 0), rtol=1e-5, atol=rounding)
            spread = 5 * math.sqrt(density * (1 - density) / delta.size)  # five standard deviations, at most
            assert abs(kept.mean() - density) < spread


@pytest.mark.parametrize("case", [case for case in DROPPING if "epsilon" in case.peer], ids=lambda case: case.id)
def test_della_ranks_within_rows(case, peer):
    """Within a row of a matrix, the larger an entry, the likelier it is kept: in each tenth as often there as here, and as stated."""
    results, _ = peer
    base, (model, *_) = tensors()["large"]
    density, epsilon = case.peer["density"], case.peer["epsilon"]
    width = base.shape[1]
    ranks = np.abs(model - base).argsort(axis=1).argsort(axis=1)
    for merged in (case.run("large"), results[f"{case.id}/large"]):
        kept = np.abs(merged - base) > 0.01 * np.abs(model - base)
        for tenth in range(10):
            entries = ranks * 10 // width == tenth
            wanted = density - epsilon + 2 * epsilon * ranks[entries].mean() / (width - 1)
            assert abs(kept[entries].mean() - wanted) < 5 * math.sqrt(0.25 / entries.sum())


def test_the_benchmark_runs(tmp_path):
    """`make bench-peers` in small: both tools merge the same directories, and a table and a plot are written; nothing else is left."""
    command = [sys.executable, "-m", "benchmarks", "peers", "--methods", "linear", "--dtype", "bfloat16", "--size", "4"]
    where = ["--rounds", "1", "--folder", tmp_path / "models", "--results", tmp_path / "results"]
    subprocess.run([*command, *where], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)

    text = (tmp_path / "results" / "peers.md").read_text()
    assert sum(line.startswith("| `linear` | bfloat16 |") for line in text.splitlines()) == 1
    assert (tmp_path / "results" / "peers.svg").stat().st_size
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["peers.yml"]

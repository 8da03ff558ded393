"""How cost grows: with the size of the models, with their number, with the dtype of their numbers; and what the first merge takes."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, plots
from benchmarks.measure import Run, alternating, floor, graftwork, middle, ratio, read
from benchmarks.options import Options
from benchmarks.peers import METHODS as OPTIONS
from graftwork import methods
from graftwork.methods import Base

SIZES = (10, 40, 160, 640, 1300, 4000)
COUNTS = (2, 4, 8, 16)
COUNTED_MB = 160
CROWD, CROWD_MB, CROWD_FILES = 100, 50, 256
FIRST_MB = 50


def case(name: str, base: Path, sources: list[Path], out: Path, **how: Any) -> Callable[[], Run]:
    """Return a merge of as many of the sources as the method takes, under the parameters of the comparison with mergekit."""
    known = OPTIONS.get(name)
    options = {**known.each, **known.all, **known.ours} if known else {}
    cls = methods.get(name)
    has_base = known.base if known else cls.base is Base.REQUIRED
    said = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
    taken = sources[: _most(name)]
    return graftwork(
        "merge", *taken, "-o", out, "--method", name, *(["--base", base] if has_base else []), *said, **how
    )


def _most(name: str) -> int | None:
    """Return how many models a method takes; mergekit's two with a base count it among them."""
    known = OPTIONS.get(name)
    return known.models if known and known.models < 3 else methods.get(name).models[1]


def scaling(given: Options) -> str:
    """Time against the size of two models and a base, and against the number of models."""
    names = given.methods or ("linear", "ties")
    sizes = [size for size in SIZES if size <= given.largest_mb]
    by_size = {name: [] for name in names} | {"floor": []}
    for size in sizes:
        base, *sources = _even(given.folder, size, 3)
        _time(names, base, sources, given, size, by_size)
    base, *sources = _even(given.folder, min(COUNTED_MB, given.largest_mb), max(COUNTS) + 1, keep=True)
    by_count = {name: [] for name in names} | {"floor": []}
    for count in COUNTS:
        _time(names, base, sources[:count], given, count, by_count)
    for file in (base, *sources):
        file.unlink()
    plots.lines(
        given.results / "scaling.svg",
        {"megabytes of each of two models": by_size, f"models of {min(COUNTED_MB, given.largest_mb)} MB": by_count},
        "seconds",
    )
    return "\n".join(
        [
            "float32 tensors of 4 MB, as many as the size takes; the floor reads two models and a base, or so many models and a",
            "base, and writes one, synced. A straight line is fitted to each row (start + slope × size), all points counting",
            "alike in proportion; the deviation is that of the worst point.",
            "",
            *_table(by_size, "MB", "s per GB", 1000),
            "",
            *_table(by_count, "models", "s per model", 1),
            "",
            "![Time by size and by number of models](scaling.svg)",
        ]
    )


def _even(folder: Path, size: int, count: int, *, keep: bool = False) -> list[Path]:
    """Make models of one size, the first of which is the base of the others."""
    name = f"even{size}{'n' * keep}-"
    shapes = models.even(size)
    return [models.safetensors(folder, name, k, shapes, ancestor=0 if k else None) for k in range(count)]


def _time(
    names: tuple[str, ...],
    base: Path,
    sources: list[Path],
    given: Options,
    at: int,
    into: dict[str, list[tuple[float, float]]],
) -> None:
    """Add the median time of every method, and of the floor, at one point; models that only this point needs go."""
    out = given.folder / "scaling-out.safetensors"
    read(base, *sources)
    print(f"{len(sources)} models of {base.stat().st_size / 1e6:.0f} MB:", flush=True)
    cases = {name: case(name, base, sources, out) for name in names}
    cases["floor"] = lambda: floor([base, *sources], given.folder / "scaling-floor")
    for name, runs in alternating(cases, given.rounds).items():
        into[name].append((at, middle(runs).wall))
    out.unlink()
    if "n-" not in base.name:
        for file in (base, *sources):
            file.unlink()


def _table(found: dict[str, list[tuple[float, float]]], what: str, per: str, unit: float) -> list[str]:
    """Return a table with a row per method: its times and the line through them."""
    columns = [f"{at:g} {what}" for at, _ in next(iter(found.values()))]
    lines = [f"| | {' | '.join(columns)} | start s | {per} | deviation |", "|---|" + "---:|" * (len(columns) + 3)]
    for name, points in found.items():
        start, slope, worst = fit(points)
        times = " | ".join(f"{seconds:.2f}" for _, seconds in points)
        lines.append(f"| {name} | {times} | {start:.2f} | {slope * unit:.3f} | {worst:.0%} |")
    return lines


def fit(points: list[tuple[float, float]]) -> tuple[float, float, float]:
    """Return intercept and slope of the line with the least relative squares, and the greatest relative deviation from it."""
    x, y = np.array(points, np.float64).T
    matrix = np.stack([1 / y, x / y], axis=1)
    (start, slope), *_ = np.linalg.lstsq(matrix, np.ones_like(y), rcond=None)
    return float(start), float(slope), float(np.abs((start + slope * x) / y - 1).max())


def crowd(given: Options) -> str:
    """A hundred models of 50 MB in one merge: time, memory and files open at once, with and without a limit on those."""
    size = min(CROWD_MB, given.largest_mb)
    base, *sources = _even(given.folder, size, CROWD + 1)
    out = given.folder / "crowd-out.safetensors"
    names = given.methods or ("linear", "ties")
    read(base, *sources)
    cases = {}
    for name in names:
        cases[name] = case(name, base, sources, out, watch=True)
        cases[f"{name}, at most {CROWD_FILES} files"] = case(
            name, base, sources, out, watch=True, most_files=CROWD_FILES
        )
    cases["floor"] = lambda: floor([base, *sources], given.folder / "crowd-floor")
    found = alternating(cases, given.rounds)
    for file in (out, base, *sources):
        file.unlink()
    rows = []
    for name, runs in found.items():
        m = middle(runs)
        rows.append(
            f"| {name} | {m.wall:.2f} | {ratio(runs, found['floor']):.2f} | {m.peak_mb:.0f} | {m.files or '–'} |"
        )
    return "\n".join(
        [
            f"{CROWD} models of {size} MB float32 and a base (ties only; the floor reads it too).",
            "",
            "| case | wall s | × floor | peak MB | files open at once |",
            "|---|---:|---:|---:|---:|",
            *rows,
        ]
    )


def first(given: Options) -> str:
    """The first merge after installation, when loops are compiled, and the next, of up to four models of 50 MB, in seconds."""
    size = min(FIRST_MB, given.largest_mb)
    base, *sources = _even(given.folder, size, 5)
    out = given.folder / "first-out.safetensors"
    names = given.methods or tuple(sorted(name for name, cls in methods.METHODS.items() if not cls.companion))
    read(base, *sources)

    def fresh(name: str) -> Run:
        with tempfile.TemporaryDirectory(dir=given.folder) as cache:
            return case(name, base, sources, out, env={"NUMBA_CACHE_DIR": cache})()

    rows = []
    for name in names:
        print(f"{name}:", flush=True)
        cases = {"first": lambda name=name: fresh(name), "next": case(name, base, sources, out)}
        found = {key: middle(runs) for key, runs in alternating(cases, given.rounds, cold=("first",)).items()}
        rows.append(f"| `{name}` | {found['first'].wall:.2f} | {found['next'].wall:.2f} |")
    for file in (out, base, *sources):
        file.unlink()
    return "\n".join(["| method | first s | next s |", "|---|---:|---:|", *rows])


def dtypes(given: Options) -> str:
    """Elements merged per second, of sources in float32, bfloat16 and float16: two models and a base."""
    names = given.methods or tuple(
        name for name in ("linear", "slerp", "ties", "dare_ties", "della") if name in methods.METHODS
    )
    kinds = given.dtypes or ("float32", "bfloat16", "float16")
    size = given.size_mb // 2
    made = {
        kind: [
            models.safetensors(given.folder, f"{kind}-", k, models.even(size), dtype=kind, ancestor=0 if k else None)
            for k in range(3)
        ]
        for kind in kinds
    }
    out = given.folder / "dtypes-out.safetensors"
    rows = []
    for name in names:
        cases = {kind: case(name, files[0], files[1:], out) for kind, files in made.items()}
        read(*(file for files in made.values() for file in files))
        print(f"{name}:", flush=True)
        found = alternating(cases, given.rounds)
        for kind, runs in found.items():
            m = middle(runs)
            against = ratio(found[kinds[0]], runs)
            rows.append(f"| `{name}` | {kind} | {m.wall:.2f} | {size / 4 / m.wall:.0f} | {against:.0%} |")
    for file in (out, *(file for files in made.values() for file in files)):
        file.unlink()
    return "\n".join(
        [
            f"{size / 4:.0f} million elements per model, whole processes.",
            "",
            f"| method | sources | wall s | million elements of the result per s | of {kinds[0]} |",
            "|---|---|---:|---:|---:|",
            *rows,
        ]
    )

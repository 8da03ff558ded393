"""graftwork against mergekit: the same models, the same parameters, whole processes in turn.

mergekit lives in an environment of its own, which `make bench-peers` makes; GRAFTWORK_PEER_PYTHON names another one.
"""

import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import models, plots
from benchmarks.measure import Run, alternating, floor, graftwork, held, middle, process, ratio
from benchmarks.options import Options

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Method:
    """How a method is measured.

    Attributes:
        faster: How many times as fast as mergekit it has to be.
        each: Parameters of every model, called as mergekit calls them.
        all: Parameters of the merge.
        ours: Our options, where they are called or valued differently.
        models: How many, without the base.
        base: Whether there is a base.
        floors: How many times the floor it may take.
    """

    faster: float
    each: dict[str, Any] = field(default_factory=dict)
    all: dict[str, Any] = field(default_factory=dict)
    ours: dict[str, Any] = field(default_factory=dict)
    models: int = 3
    base: bool = True
    floors: float = 4.0


THIRD = {"weight": round(1 / 3, 6)}
DROP = {**THIRD, "density": 0.5}
L1 = {"rescale_norm": "l1"}

METHODS = {
    "linear": Method(5, THIRD, base=False, floors=2),
    "slerp": Method(5, all={"t": 0.4}, models=1),
    "task_arithmetic": Method(5, THIRD),
    "nuslerp": Method(5, {"weight": 0.5}, models=2, base=False),
    "nearswap": Method(5, all={"t": 0.0001}, models=1),
    "model_stock": Method(5),
    "dare_linear": Method(8, DROP, ours=L1),
    "dare_ties": Method(8, DROP, ours=L1),
    "karcher": Method(8, base=False),
    "arcee_fusion": Method(8, models=1),
    "ram": Method(8),
    "ramplus_tl": Method(8),
    "ties": Method(20, DROP),
    "breadcrumbs": Method(20, {**DROP, "gamma": 0.01}),
    "breadcrumbs_ties": Method(20, {**DROP, "gamma": 0.01}),
    "della": Method(20, {**DROP, "epsilon": 0.15}),
    "della_linear": Method(20, {**DROP, "epsilon": 0.15}),
    "sce": Method(20, all={"select_topk": 0.1}),
}
"""Every method that both have, with what issue 3 asks of it: speed against mergekit, and against the floor."""

MEMORY = 20
"""How many times as much memory mergekit has to take."""


def peers(given: Options) -> str:
    """Graftwork and mergekit on the same llama-like models: three fine-tunes and a base."""
    python = peer()
    if python is None:
        sys.exit(
            "peers: mergekit is not installed; `make bench-peers` does it, or name a Python in GRAFTWORK_PEER_PYTHON"
        )
    process([str(python), "-m", "mergekit.scripts.run_yaml", "--help"], env=OFFLINE)  # its own bytecode is compiled now
    names = given.methods or tuple(METHODS)
    rows, bars = [], []
    for dtype in given.dtypes or ("float32", "bfloat16"):
        folder = given.folder / f"peers-{dtype}"
        folder.mkdir(exist_ok=True)
        try:
            base, *tuned = [
                models.llama(
                    folder, "model", seed, given.size_mb, dtype, ancestor=0 if seed else None, apart=given.apart
                )
                for seed in range(4)
            ]
            for name in names:
                found = _measure(name, base, tuned, python, given, dtype)
                rows.append(_row(name, dtype, found))
                bars.append((f"{name}, {dtype}", middle(found["ours"]).wall, middle(found["theirs"]).wall))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    plots.bars(
        given.results / "peers.svg",
        [label for label, _, _ in bars],
        {"graftwork": [ours for _, ours, _ in bars], "mergekit": [theirs for _, _, theirs in bars]},
        "seconds, logarithmic",
    )
    sizes = " and ".join(
        f"{given.size_mb * BYTES[dtype] / 4000:.2f} GB {dtype}" for dtype in given.dtypes or ("float32", "bfloat16")
    )
    return "\n".join(
        [
            f"Models of {sizes} each, as Hugging Face directories; fine-tunes differ from the base by {given.apart:.0%}.",
            "Another process has them mapped, so that they stay in memory. Both tools are",
            f"given the same parameters ({given.through}: `graftwork {given.through}`, `mergekit-yaml`), use the CPU and as many",
            "threads as they like, and start as new processes. The floor reads every input that the method has once and",
            "writes one output. graftwork's output and the floor's are synced to disk, mergekit's is not. Memory is the",
            "process's peak resident set, which counts the pages of files that mergekit maps. Ratios are medians of those",
            "within a round; in brackets what is to be reached.",
            "",
            "| method | dtype | ours s | mergekit s | times faster | floor s | × floor | ours MB | mergekit MB | memory |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
            *rows,
            "",
            "![Seconds by method](peers.svg)",
        ]
    )


def peer() -> Path | None:
    """Return the Python of the environment that has mergekit, None if there is none."""
    named = os.environ.get("GRAFTWORK_PEER_PYTHON")
    if named:
        return Path(named)
    environment = Path(__file__).parent.parent / ".venv-peers"
    return environment / "bin" / "python" if (environment / ".installed").exists() else None


def _measure(
    name: str, base: Path, tuned: list[Path], python: Path, given: Options, dtype: str
) -> dict[str, list[Run]]:
    """Time both tools and the floor on one method."""
    method = METHODS[name]
    sources = tuned[: method.models]
    inputs = [base, *sources] if method.base else sources
    out = given.folder / "peers-out"
    config = given.folder / "peers.yml"
    config.write_text(yaml.safe_dump(_config(name, base, sources, dtype), sort_keys=False))
    theirs = [str(python), "-m", "mergekit.scripts.run_yaml", str(config), str(out)]
    quietly = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet", "--random-seed", "0"]
    if given.through == "run":
        ours = graftwork("run", config, "-o", out)
    else:
        options = {**method.each, **method.all, **method.ours}
        said = [word for key, value in options.items() for word in ("--set", f"{key}={value}")]
        with_base = ["--base", base] if method.base else []
        ours = graftwork("merge", *sources, "-o", out, "--method", name, *with_base, *said)
    print(f"{name}, {dtype}:", flush=True)
    with held(*inputs):
        return alternating(
            {
                "floor": lambda: floor([path / "model.safetensors" for path in inputs], given.folder / "peers-floor"),
                "ours": _removing(out, ours),
                "theirs": _removing(out, lambda: process([*theirs, *quietly], env=OFFLINE)),
            },
            given.rounds,
            cold=("theirs",),
        )


def _removing(out: Path, case: Callable[[], Run]) -> Callable[[], Run]:
    """Return a case whose output goes after it, before what is not yet on disk can slow down the next."""

    def run() -> Run:
        try:
            return case()
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return run


def _config(name: str, base: Path, sources: list[Path], dtype: str) -> dict[str, Any]:
    """Return mergekit's configuration."""
    method = METHODS[name]
    each = {"parameters": method.each} if method.each else {}
    return {
        "merge_method": name,
        **({"base_model": str(base)} if method.base else {}),
        "models": [{"model": str(source), **each} for source in sources],
        **({"parameters": method.all} if method.all else {}),
        "dtype": dtype,
    }


def _row(name: str, dtype: str, found: dict[str, list[Run]]) -> str:
    """Return one line of the table."""
    method = METHODS[name]
    ours, theirs, least = (middle(found[who]) for who in ("ours", "theirs", "floor"))
    faster, floors = ratio(found["theirs"], found["ours"]), ratio(found["ours"], found["floor"])
    memory = theirs.peak_mb / ours.peak_mb if ours.peak_mb else math.inf
    return (
        f"| `{name}` | {dtype} | {ours.wall:.2f} | {theirs.wall:.2f} | {faster:.1f} (≥ {method.faster:g}) | {least.wall:.2f} "
        f"| {floors:.2f} (≤ {method.floors:g}) | {ours.peak_mb:.0f} | {theirs.peak_mb:.0f} | 1/{memory:.1f} (1/{MEMORY}) |"
    )

"""`python -m benchmarks [NAME …]`: measure, print, and write docs/results/NAME.md.

Whole processes, warm page cache, cases in turn within each round, the median of rounds and ratios within a round.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import models
from benchmarks.checkpoints import checkpoints
from benchmarks.distilling import distilling
from benchmarks.ensembles import ensembles
from benchmarks.finetuning import finetuning
from benchmarks.measure import alternating, floor, graftwork, machine, middle, process, ratio
from benchmarks.options import Options
from benchmarks.peers import peers
from benchmarks.scaling import crowd, dtypes, first, scaling

RESULTS = Path(__file__).parent.parent / "docs" / "results"
ROUNDS = 5

TUTORIAL = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import keras, numpy as np
found = [keras.saving.load_model(path, compile=False) for path in sys.argv[2:]]
weights = [np.mean(np.array(each), axis=0) for each in zip(*[model.get_weights() for model in found])]
found[0].set_weights(weights)
found[0].save(sys.argv[1])
"""
"""The way of the tutorials: load all with Keras, average, set, save."""


def merges(given: Options) -> str:
    """Three 1.3 GB float32 models and a base: many tensors, one tensor, and .keras files."""
    folder, rounds = given.folder, given.rounds
    kinds = {
        "181 tensors, safetensors": lambda: [
            models.safetensors(folder, "many", seed, models.many()) for seed in range(4)
        ],
        "1 tensor, safetensors": lambda: [
            models.safetensors(folder, "one", seed, {"w": (325_000_000,)}) for seed in range(4)
        ],
        "38 tensors, .keras": lambda: models.keras(folder, "dense", 4),
    }
    rows, medians = [], {}
    for kind, make in kinds.items():
        base, *files = make()
        out = folder / f"out{base.suffix}"
        ties = ("--method", "ties", "--set", "density=0.5", "--base", base)
        found = alternating(
            {
                "floor": lambda base=base, files=files: floor([*files, base], folder / "floor"),
                "linear": graftwork("merge", *files, "-o", out),
                "ties": graftwork("merge", *files, "-o", out, *ties),
            },
            rounds,
        )
        for file in (out, base, *files):  # the next kind finds memory free for its own page cache
            file.unlink()
        for name, runs in found.items():
            m = middle(runs)
            medians[name, kind] = m.wall
            of_floor = ratio(runs, found["floor"])
            rows.append(f"| {name}, {kind} | {m.wall:.2f} | {m.cpu:.2f} | {m.peak_mb:.0f} | {of_floor:.2f} |")
    keras, plain = "38 tensors, .keras", "181 tensors, safetensors"
    against = {name: medians[name, keras] / medians[name, plain] for name in ("linear", "ties")}
    return "\n".join(
        [
            "Three models of 1.3 GB float32 and, for ties (density 0.5), a base. The floor reads every byte of the four files once",
            "and writes one file of their size, synced, with two threads. All rows are synced to disk; rows of merges are whole",
            "processes, interpreter and imports included.",
            "",
            "| case | wall s | processor s | peak MB | × floor |",
            "|---|---:|---:|---:|---:|",
            *rows,
            "",
            f".keras against safetensors: linear × {against['linear']:.2f}, ties × {against['ties']:.2f}.",
        ]
    )


def tutorial(given: Options) -> str:
    """Three ResNet50 files averaged by graftwork and in the tutorials' way."""
    folder, rounds = given.folder, given.rounds
    files = models.keras(folder, "resnet", 3)
    out = folder / "resnet-out.keras"
    cases = {
        "tutorial": lambda: process(
            [sys.executable, "-c", TUTORIAL, str(out), *map(str, files)], env={"CUDA_VISIBLE_DEVICES": "-1"}
        ),
        "graftwork": graftwork("merge", *files, "-o", out),
    }
    found = alternating(cases, rounds)
    slow, fast = middle(found["tutorial"]), middle(found["graftwork"])
    return "\n".join(
        [
            "Three ResNet50 files (103 MB each) averaged into one: load all with Keras, `np.mean`, `set_weights`, save; against",
            "`graftwork merge`. Whole processes.",
            "",
            "| way | wall s | processor s | peak MB |",
            "|---|---:|---:|---:|",
            f"| tutorial | {slow.wall:.2f} | {slow.cpu:.2f} | {slow.peak_mb:.0f} |",
            f"| graftwork | {fast.wall:.2f} | {fast.cpu:.2f} | {fast.peak_mb:.0f} |",
            "",
            f"graftwork is {ratio(found['tutorial'], found['graftwork']):.1f} times faster, "
            f"with {fast.peak_mb / slow.peak_mb:.1%} of the memory.",
        ]
    )


def startup(given: Options) -> str:
    """Importing, asking for help, and inspecting a 1.3 GB .keras file."""
    folder, rounds = given.folder, given.rounds
    (dense,) = models.keras(folder, "dense", 1)[:1]
    python = sys.executable
    cases = {
        "python -c pass": lambda: process([python, "-c", "pass"]),
        "import graftwork": lambda: process([python, "-c", "import graftwork"]),
        "graftwork --help": lambda: process([python, "-m", "graftwork", "--help"]),
        "graftwork inspect (1.3 GB .keras)": lambda: process([python, "-m", "graftwork", "inspect", str(dense)]),
    }
    found = alternating(cases, rounds)
    rows = [f"| {name} | {middle(runs).wall:.3f} | {middle(runs).peak_mb:.0f} |" for name, runs in found.items()]
    return "\n".join(["| command | wall s | peak MB |", "|---|---:|---:|", *rows])


BENCHMARKS: dict[str, Callable[[Options], str]] = {
    each.__name__: each
    for each in (
        merges,
        tutorial,
        startup,
        dtypes,
        first,
        scaling,
        crowd,
        ensembles,
        checkpoints,
        distilling,
        finetuning,
        peers,
    )
}
BY_DEFAULT = tuple(name for name in BENCHMARKS if name != "peers")
"""All that need nothing but graftwork."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are named, or all that need nothing else."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all but peers by default")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--methods", type=_list, default=(), help="merge methods: linear,ties; where it concerns them")
    parser.add_argument("--dtype", type=_list, default=(), help="dtypes: float32,bfloat16; of peers and dtypes")
    parser.add_argument("--size", type=int, default=1300, help="megabytes of a float32 model; of peers and dtypes")
    parser.add_argument(
        "--largest", type=int, default=4000, help="megabytes of the largest model of scaling, crowd and first"
    )
    parser.add_argument("--apart", type=float, default=0.01, help="how far fine-tunes are from their base, in peers")
    parser.add_argument("--through", choices=("merge", "run"), default="merge", help="our command in peers")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where tables and plots go")
    parser.add_argument(
        "--folder", type=Path, help="where models are made and kept; by default a temporary one (16 GB)"
    )
    said = parser.parse_args(arguments)
    unknown = [name for name in said.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}")
    folder = said.folder or Path(tempfile.mkdtemp(prefix="graftwork-bench-"))
    folder.mkdir(exist_ok=True)
    said.results.mkdir(parents=True, exist_ok=True)
    given = Options(
        folder=folder,
        results=said.results,
        rounds=said.rounds,
        methods=said.methods,
        dtypes=said.dtype,
        size_mb=said.size,
        largest_mb=said.largest,
        apart=said.apart,
        through=said.through,
    )
    try:
        for name in said.names or BY_DEFAULT:
            print(f"{name}:", flush=True)
            body = BENCHMARKS[name](given)
            print(body)
            make = "`make bench-peers`" if name == "peers" else "`make bench`"
            text = (
                f"# {name}\n\n{BENCHMARKS[name].__doc__}\n\nMachine: {machine()}. Command: {make}, or "
                f"`python -m benchmarks {name}`; median of {given.rounds} rounds, cases in turn, page cache warm.\n\n{body}\n"
            )
            (said.results / f"{name}.md").write_text(text)
    finally:
        if said.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()

"""Timing whole processes: wall and processor seconds and peak resident memory, as the operating system accounts for them."""

import contextlib
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BLOCK = 1 << 20


@dataclass(frozen=True)
class Run:
    """One finished process: its seconds, its memory, and how many files it had open at once if that was watched."""

    wall: float
    cpu: float
    peak_mb: float
    files: int = 0


def process(
    command: Sequence[str], *, env: dict[str, str] | None = None, watch: bool = False, most_files: int | None = None
) -> Run:
    """Run a command to its end and return what it took; a failing one ends the benchmark.

    Args:
        command: The program and its arguments.
        env: What to change in the environment.
        watch: Whether to count the files that it has open, every millisecond.
        most_files: How many the operating system lets it have open.
    """

    def limit() -> None:
        if most_files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))

    begin = time.perf_counter()
    child = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, **(env or {})},
        preexec_fn=limit if most_files is not None else None,
    )
    assert child.stderr is not None
    most, done = [0], threading.Event()
    watcher = threading.Thread(target=_count_files, args=(child.pid, most, done))
    if watch:
        watcher.start()
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begin
    done.set()
    if watch:
        watcher.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{' '.join(command)} ended with status {child.returncode}: {said.decode()[-2000:]}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, most[0])


def _count_files(pid: int, most: list[int], done: threading.Event) -> None:
    """Keep the greatest number of open files of a process in `most` until it ends."""
    folder = Path(f"/proc/{pid}/fd")
    while not done.wait(0.001):
        with contextlib.suppress(OSError):
            most[0] = max(most[0], sum(1 for _ in folder.iterdir()))


def graftwork(*arguments: str | Path, env: dict[str, str] | None = None, **how: Any) -> Callable[[], Run]:
    """Return a case that runs the command; `how` as for `process`."""
    command = [sys.executable, "-m", "graftwork", *map(str, arguments), "--overwrite", "--quiet"]
    return lambda: process(command, env=env, **how)


def read(*paths: Path) -> None:
    """Read files, and those of directories, so that they are in the page cache."""
    buffer = memoryview(bytearray(BLOCK))
    for path in paths:
        for file in [path] if path.is_file() else sorted(path.iterdir()):
            with file.open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


HOLD = """
import mmap, sys
held = []
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        held.append(mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ))
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(*paths: Path) -> Iterator[None]:
    """Keep files, and those of directories, in the page cache: another process has them mapped.

    Systems that take back memory which nobody seems to use, as some virtual machines do, drop what was only read within seconds, and
    then a slow program finds other conditions than a fast one. (Not this process, whose memory would count as that of those it starts.)
    """
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.iterdir()))]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, *map(str, filter(lambda file: file.stat().st_size, files))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if not holder.stdout.readline():
            sys.exit("the models cannot be held in memory")
        yield
    finally:
        holder.stdin.close()
        holder.wait()


def floor(sources: Sequence[Path], target: Path, threads: int = 2) -> Run:
    """Read every byte of the sources once and write one source's size once, synced, with as many threads as the merge has."""
    begin, cpu = time.perf_counter(), time.process_time()
    size = max(source.stat().st_size for source in sources)
    files = [os.open(source, os.O_RDONLY) for source in sources]
    out = os.open(target, os.O_CREAT | os.O_RDWR | os.O_TRUNC)
    os.ftruncate(out, size)

    def work(part: int) -> None:
        buffer = memoryview(bytearray(BLOCK))
        for at in range(part * BLOCK, size, threads * BLOCK):
            piece = buffer[: min(BLOCK, size - at)]
            for file in files:
                os.preadv(file, [piece], at)
            os.pwrite(out, piece, at)

    workers = [threading.Thread(target=work, args=(part,)) for part in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os.fsync(out)
    for file in [*files, out]:
        os.close(file)
    target.unlink()
    return Run(time.perf_counter() - begin, time.process_time() - cpu, 0.0)


def alternating(cases: dict[str, Callable[[], Run]], rounds: int, *, cold: Sequence[str] = ()) -> dict[str, list[Run]]:
    """Run all cases in turn, round by round, so that a machine that drifts does so for all of them.

    Args:
        cases: What to run, by name.
        rounds: How often each is timed.
        cold: Cases that are not run once before, to warm up, as the others are.
    """
    found: dict[str, list[Run]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name, case in cases.items():
            if not number and name in cold:
                continue
            run = case()
            print(
                f"  round {number} {name}: {run.wall:.2f} s, {run.cpu:.2f} s of processor, {run.peak_mb:.0f} MB",
                flush=True,
            )
            if number:
                found[name].append(run)
    return found


def middle(runs: Sequence[Run]) -> Run:
    """Return the median of each figure."""
    return Run(
        statistics.median(r.wall for r in runs),
        statistics.median(r.cpu for r in runs),
        max(r.peak_mb for r in runs),
        max(r.files for r in runs),
    )


def ratio(runs: Sequence[Run], others: Sequence[Run]) -> float:
    """Return the median over rounds of wall time against the other case's in the same round."""
    return statistics.median(a.wall / b.wall for a, b in zip(runs, others, strict=True))


def machine() -> str:
    """Return processor, cores and memory in one line."""
    text = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, Linux, Python {sys.version.split()[0]}"

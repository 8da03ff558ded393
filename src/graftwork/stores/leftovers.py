"""Temporary files beside a target: what they are called, and which of them a killed run has left, so that the next may remove them.

Their names say which process makes them: where it runs, its number, and when it began, in ticks of the clock since the machine started::

    .TARGET.WHERE-PID-BEGAN-RANDOM.graftwork-tmp

``WHERE`` is a digest of the machine's name, of the identifier that Linux draws whenever it starts, and of the namespaces that numbers of
processes and the clock belong to. If it is ours, there is one process at most of a number and a beginning, and the kernel says whether
it is there: no number that is given out anew, and no other host or container that shares the directory, is taken for it. Where any of
that cannot be told, the file stays, and a note says so.
"""

import functools
import hashlib
import os
import re
import secrets
import shutil
from pathlib import Path

ENDING = "graftwork-tmp"
ASIDE = "-old"
"""What a temporary name ends in behind `ENDING` where it holds what is being replaced; nothing of that is ever removed."""

NOWHERE = "0" * 12
"""What stands for where a process runs if the system does not tell."""

_NAME = re.compile(
    rf"(?P<where>[0-9a-f]{{12}})-(?P<pid>\d+)-(?P<began>\d+)-[0-9a-f]{{6}}\.{ENDING}(-[a-z0-9_]{{8}}|\.h5)?"
)
"""What stands behind the target in such a name; directories of Python's `tempfile` in its place have eight characters more."""


def temporary(target: Path) -> Path:
    """Return a new temporary name beside a target, in which this process is named."""
    process = f"{_here()}-{os.getpid()}-{_began(os.getpid()) or 0}"
    # the start of the name tells people whose file it is; the whole could make it too long
    return target.with_name(f"{_start(target)}{process}-{secrets.token_hex(3)}.{ENDING}")


def clear(target: Path) -> tuple[str, ...]:
    """Remove what runs that were killed have left beside a target, and say what stays since nobody can know whether it is in use."""
    start = _start(target)
    alike = re.compile(rf"{re.escape(start)}[^.]+\.{ENDING}")
    try:
        names = sorted(path.name for path in target.parent.iterdir() if alike.match(path.name))
    except OSError:
        return ()
    asides = [name for name in names if name.endswith(ASIDE)]
    replaced = {name.removesuffix(ASIDE) for name in asides if not _is_empty(target.with_name(name))}
    notes = []
    for name in names:
        path, base = target.with_name(name), name.removesuffix(ASIDE)
        used = _in_use(base.removeprefix(start))
        if used or (used is False and base not in replaced and _removed(path)):
            continue
        why = (
            f"a run was killed while it replaced {target.name}, and this may be the only copy of what was there, or of what was to come"
            if base in replaced
            else "it cannot be known whether the run that makes it is still going on, or it is somebody else's; if none is, remove it"
        )
        notes.append(f"{path} stays: {why}")
    return tuple(notes)


def _start(target: Path) -> str:
    return f".{target.name[:40]}."


def _in_use(name: str) -> bool | None:
    """Return whether the process that a name speaks of is there, None where that cannot be known."""
    found = _NAME.fullmatch(name)
    if found is None or found["where"] != _here() or _here() == NOWHERE:
        return None
    pid, then = int(found["pid"]), int(found["began"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        pass
    now = _began(pid)
    return None if now is None or not then else now == then


def _is_empty(path: Path) -> bool:
    """Return whether a path is a directory without anything in it, as what is replaced is before that is moved there."""
    try:
        return next(path.iterdir(), None) is None
    except OSError:
        return False


def _removed(path: Path) -> bool:
    """Remove a file or directory of ours; return whether it is gone."""
    try:
        if path.lstat().st_uid != os.geteuid():
            return False
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@functools.cache
def _here() -> str:
    """Return what tells apart places between which numbers and beginnings of processes cannot be compared; `NOWHERE` if nothing does."""
    try:
        if str(Path("/proc/self").readlink()) != str(os.getpid()):  # /proc tells of another namespace
            return NOWHERE
        spaces = [Path(f"/proc/self/ns/{kind}") for kind in ("pid", "time")]  # older kernels have one clock for all
        told = [os.uname().nodename, Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
        told += [str(space.readlink()) for space in spaces if space.is_symlink()]
    except OSError:
        return NOWHERE
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:12]


def _began(pid: int) -> int | None:
    """Return when a process began, None where that is not told."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return int(told.rpartition(")")[2].split()[19])

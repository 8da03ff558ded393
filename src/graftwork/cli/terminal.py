"""What all commands share: refusing in one line, progress on standard error, results on standard output."""

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from graftwork.errors import GraftworkError, OutputError

ROWS = 40
"""So many rows of a table are printed after the work."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells expect it."""


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Turn our own errors into one line and status 1; let bugs show their traceback. Ctrl-C and SIGTERM end work cleanly."""
    from graftwork import models
    from graftwork.kernels import loop

    loop.lean = models.quiet = True
    with _terminable():
        try:
            yield
        except GraftworkError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            typer.echo("interrupted; no half-written result is left", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _silence()
            sys.stderr.close()
            raise typer.Exit(1) from None


@contextlib.contextmanager
def printing(*made: Path) -> Iterator[None]:
    """Refuse where standard output takes nothing more, as on a full disk; what was `made` before stays, which is said.

    Raises:
        OutputError: If it does not.
    """
    try:
        yield
        typer.echo(nl=False)  # flushes: Python's own attempt would come when nothing can be said any more
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence()
        there = f"; what was made is there: {', '.join(map(str, made))}" if made else ""
        raise OutputError(f"standard output cannot be written: {error.strerror}{there}") from error


def _silence() -> None:
    """Close standard output, with what it has not taken: Python would try it once more at the end."""
    with contextlib.suppress(OSError):
        sys.stdout.close()


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that temporary files are removed."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """Yield what to tell how far the work is: a bar with the time left, on a terminal only.

    What is told counts bytes, or steps where details stand behind a colon: ``train: epoch 3/10, loss 0.21``.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        Task,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.text import Text

    counted, of_bytes = MofNCompleteColumn(), DownloadColumn()

    class Amount(DownloadColumn):
        def render(self, task: Task) -> Text:
            return (counted if task.fields["steps"] else of_bytes).render(task)

    class Speed(TransferSpeedColumn):
        def render(self, task: Task) -> Text:
            return Text("") if task.fields["steps"] else super().render(task)

    columns = (TextColumn("{task.description}"), BarColumn(), Amount(), Speed(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}
        lock = threading.Lock()

        def tell(what: str, done: int, total: int) -> None:
            with lock:
                work, colon, _ = what.partition(":")
                if work not in tasks:
                    tasks[work] = bar.add_task(what, total=total, steps=bool(colon))
                bar.update(tasks[work], description=what, completed=done, total=total)

        yield tell


def say(quiet: bool, *lines: str) -> None:
    """Print what is not a result, to standard error."""
    if not quiet:
        for line in lines:
            typer.echo(line, err=True)


def print_json(value: Any) -> None:
    """Print a result for machines."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def show(found: Any, as_json: bool, render: Callable[..., None], **how: Any) -> None:
    """Print what was found: all of it for machines, or as `render` shows it to people."""
    with printing():
        print_json(found.to_dict()) if as_json else render(found, **how)


def tell(result: Any, *, quiet: bool, as_json: bool, tables: bool = False) -> None:
    """Print what was made: its notes (and what was decided) for the user, its path or all of it for programs."""
    if tables and not (quiet or as_json):
        from graftwork.report import render

        render.tables(result.tables, ROWS, sys.stderr)
    say(quiet or as_json, *(f"note: {note}" for note in result.notes))
    with printing(result.path):
        print_json(as_plain(result)) if as_json else typer.echo(str(result.path))


@contextlib.contextmanager
def making(*, quiet: bool, as_json: bool, tables: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the arguments by which a function of the API tells how far it is and what it made; at the end, what was made is told."""
    results: list[Any] = []
    with progress(quiet) as told:
        yield {"progress": told, "on_result": results.append}
    tell(results[0], quiet=quiet, as_json=as_json, tables=tables)


def as_plain(result: Any) -> dict[str, Any]:
    """Return a result as plain JSON values."""
    from dataclasses import asdict

    from graftwork.report.plain import finite

    found: dict[str, Any] = finite(json.loads(json.dumps(asdict(result), default=str)))
    return found

"""What model arguments may be, and what becomes of results: a file where one is wanted, else a live model."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.stores import distinct
from graftwork.writing import Result, labels_of

if TYPE_CHECKING:
    from graftwork.models.custom import Custom

Model = str | PathLike[str] | Any
"""A path to a model in any format of the stores, or a live `keras.Model`."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, bytes dealt with so far and bytes in all."""


@contextlib.contextmanager
def on_disk(
    models: Sequence[Model], names: Sequence[str] | None = None
) -> Iterator[tuple[list[Path], tuple[str, ...]]]:
    """Yield a path and a label for every model; live ones are saved to a temporary directory first."""
    with contextlib.ExitStack() as stack:
        paths: list[Path] = []
        labels: list[str] = []
        folder: Path | None = None
        for position, model in enumerate(models):
            if isinstance(model, str | PathLike):
                paths.append(Path(model))
                labels.append(labels_of([Path(model)])[0])
            elif live.is_live(model):
                if folder is None:
                    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="graftwork-")))
                paths.append(folder / f"{position}.keras")
                live.save(model, paths[-1])
                labels.append(str(model.name))
            else:
                raise OptionError(f"model {position} is a {type(model).__name__}, expected a path or a keras.Model")
        if names is not None:
            if len(names) not in (len(models), len(models) - 1):
                raise OptionError(f"{len(names)} names are given for {len(models)} models")
            labels[: len(names)] = names
        yield paths, distinct(labels)


def words(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return one word as a tuple of one."""
    return (value,) if isinstance(value, str) else tuple(value)


class Pending:
    """A result on its way: under the user's path, or in a temporary file that becomes a live model."""

    def __init__(self, path: Path, load: Callable[[Path], Any] | None = None) -> None:
        self.path = path
        self._load = load

    def finish(self, result: Result) -> Any:
        """Return the path, or the live model in it."""
        return self._load(result.path) if self._load else result.path


@contextlib.contextmanager
def result_place(
    output: str | PathLike[str] | None, like: Any, custom_objects: "Custom | None" = None
) -> Iterator[Pending]:
    """Yield where a result is written: at the output, or in a temporary file that becomes a live model.

    Args:
        output: Where, if the user says it.
        like: A live model whose own classes and functions a live result has, too.
        custom_objects: Further ones.
    """
    if output is not None:
        yield Pending(Path(output))
        return
    from graftwork.models.custom import known

    custom = known(custom_objects)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        yield Pending(Path(folder) / "result.keras", lambda path: live.load(path, like, custom_objects=custom))

"""Classes and functions that models refer to and Keras does not know: a mapping by name, or files and modules of Python that define them.

Naming a file or a module runs it, once in a process; nothing in a model file ever has one run.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from graftwork.data.streams import why
from graftwork.errors import OptionError
from graftwork.models.configuration import holders, is_keras
from graftwork.models.lazy import keras

Custom = Mapping[str, Any] | str | PathLike[str] | Sequence[str | PathLike[str]]
"""Classes and functions by name; or a ``.py`` file or an importable module that defines them, or several of these."""

_offered: dict[str, dict[str, Any]] = {}
"""What files, by their absolute paths, and modules, by their names, offer that were asked for so far."""

_beside: dict[Path, dict[str, ModuleType]] = {}
"""By directory, the files that were run there and what they imported from it; `sys.modules` has them only while a file there runs."""

_running: list[Path] = []
"""The files that are being run."""


def known(said: Custom | None, root: Path = Path()) -> dict[str, Any]:
    """Return classes and functions by the names that configurations have for them.

    A file or module offers what it registers with `keras.saving.register_keras_serializable`, the classes it has that Keras
    saves by name (layers, models, initializers, losses …), and the functions that are defined in it or beside it.

    A file is run as a module that is called as the file is. It may import its neighbours by name: its directory is looked
    through last, behind all that is installed. `sys.path` is as before afterwards, and in `sys.modules` are neither the file nor
    its neighbours. A file that the process has imported already is not run again.

    Args:
        said: The mapping itself; or a ``.py`` file, the dotted name of a module, or several of these.
        root: Directory that paths are relative to.

    Raises:
        OptionError: If a file or module is not there, fails, or offers nothing, or two of them offer different things by one name.
    """
    if isinstance(said, Mapping):
        return dict(said)
    found: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for each in [] if said is None else [said] if isinstance(said, str | PathLike) else said:
        text = os.fspath(each)
        for name, thing in _offer(text, root).items():
            if found.setdefault(name, thing) is not thing:
                raise OptionError(
                    f"custom objects: {owners[name]} and {text} both define {name!r}, and a model says no more than the name; "
                    "rename one of them, or give models the one or the other"
                )
            owners.setdefault(name, text)
    return {**_by_plain_names(found), **found}


def _by_plain_names(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is registered as ``package>Name`` by what it is called in Python, as Keras 2 and older files do, where that is unique."""
    plain = {id(thing): (thing.__name__, thing) for thing in found.values() if hasattr(thing, "__name__")}
    counted = Counter(name for name, _ in plain.values())
    return {name: thing for name, thing in plain.values() if counted[name] == 1}


def origins(things: Iterable[Any]) -> list[str] | None:
    """Return the files, by absolute paths, and modules, by names, that classes and functions were taken from; None if one was not."""
    found: dict[str, None] = {}
    for thing in things:
        places = (text for text, offer in _offered.items() if any(thing is each for each in offer.values()))
        place = next(places, None)
        if place is None:
            return None
        found[place] = None
    return list(found)


def _offer(text: str, root: Path) -> dict[str, Any]:
    """Return what a file or module offers, by the names that configurations have for it."""
    path = (root / Path(text).expanduser()).resolve()
    named = not text.endswith(".py") and all(part.isidentifier() for part in text.split(".")) and not path.exists()
    key = text if named else str(path)
    if key not in _offered:
        registered = keras.saving.get_custom_objects()
        before = dict(registered)
        try:
            module = _imported(text) if named else _run(path, text)
        except OptionError:
            raise
        except (Exception, SystemExit) as error:
            raise OptionError(f"custom objects: {text} cannot be run: {why(error)}") from error
        inside = (module.__name__, f"{module.__name__}.")
        found = {
            name: thing
            for name, thing in registered.items()
            if before.get(name) is not thing or f"{getattr(thing, '__module__', '')}.".startswith(inside[1])
        }
        own = {inside[0].partition(".")[0], *(_beside.get(path.parent, ()) if not named else ())}
        for thing in vars(module).values():
            if _is_class(thing) or (isinstance(thing, FunctionType) and thing.__module__.partition(".")[0] in own):
                found[keras.saving.get_registered_name(thing)] = thing
        if not found:
            raise OptionError(
                f"custom objects: {text} has nothing that Keras could use: it defines no layer or other class that Keras saves by name, "
                "no function, and registers nothing"
            )
        _offered[key] = found
    return _offered[key]


def _is_class(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, holders()) and not is_keras(thing)


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise OptionError(
            f"custom objects: there is no module {error.name!r} where Python looks; name its file, as in path/to/layers.py, or put "
            "its directory on PYTHONPATH"
        ) from error


def _run(path: Path, text: str) -> ModuleType:
    """Return a file as a module: the one that the process has of it, else a new one."""
    if not path.is_file():
        raise OptionError(f"custom objects: there is no file {text}")
    if path.suffix != ".py":
        raise OptionError(f"custom objects: {text} is no file of Python, whose name would end in .py")
    if path in _running:
        raise OptionError(
            f"custom objects: {text} is being run, and asks for itself; put what models need into a file of its own, or what works "
            "with them below `if __name__ == '__main__':`"
        )
    for module in (*_beside.get(path.parent, {}).values(), *sys.modules.values()):
        place = getattr(module, "__dict__", {}).get("__file__")
        if isinstance(place, str) and place.endswith(path.name) and Path(place).resolve() == path:
            return module
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _running.append(path)
    try:
        with _neighbours(path.parent):
            sys.modules[path.stem] = module
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise OptionError(f"custom objects: {text} is not Python: {why(error)}") from error
    finally:
        _running.pop()
    return module


@contextlib.contextmanager
def _neighbours(folder: Path) -> Iterator[None]:
    """Let modules of a directory be imported as long as this lasts, each once for all files that are run there."""
    beside = _beside.get(folder, {})
    path, modules = list(sys.path), dict(sys.modules)
    sys.path.append(str(folder))
    sys.modules.update(beside)
    try:
        yield
        _beside[folder] = _from(folder, modules)
    finally:
        sys.path[:] = path
        for name in _from(folder, modules):
            del sys.modules[name]
            if name in modules:
                sys.modules[name] = modules[name]


def _from(folder: Path, before: Mapping[str, ModuleType]) -> dict[str, ModuleType]:
    """Return the modules that were not there before, and that a directory lent, with all below them."""
    new = {name: module for name, module in sys.modules.items() if before.get(name) is not module}
    return {name: module for name, module in new.items() if _lies_in(new.get(name.partition(".")[0]), folder)}


def _lies_in(module: ModuleType | None, folder: Path) -> bool:
    places = getattr(module, "__path__", None) or [getattr(module, "__file__", None) or folder]
    return folder in {Path(place).resolve().parent for place in places}

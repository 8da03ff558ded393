"""Every error that graftwork raises on purpose.

::

    GraftworkError
    ├── StoreError            a file is not what it claims to be, or cannot be read or written
    │   ├── NonFiniteError    a source holds NaN or infinity
    │   └── OutputError       the target exists, is a source, does not fit the disk, or cannot hold the result
    ├── MismatchError         models that should agree do not (architecture, names, shapes, classes)
    ├── UnknownNameError      a name that nothing is called by, with the nearest ones that exist
    ├── OptionError           an option's value makes no sense, or not for this method
    ├── RecipeError           a recipe is not one, or not a sensible one
    └── DataError             data cannot be read, or is not what a model takes

A message says which thing, where, what was found against what was expected, and what to do. Lower errors (``OSError``,
``zipfile.BadZipFile`` …) are wrapped where only the caller knows enough to say so, and kept as the cause.
"""

import difflib
import re
from collections.abc import Iterable


class GraftworkError(Exception):
    """The root of the tree: catch it to catch every refusal of graftwork."""


class StoreError(GraftworkError):
    """A file is not what it claims to be, or cannot be read or written."""


class NonFiniteError(StoreError):
    """A source holds NaN or infinity."""


class OutputError(StoreError):
    """The target exists, is one of the sources, does not fit the disk, or cannot hold the result."""


class MismatchError(GraftworkError):
    """Models that should agree do not.

    Attributes:
        reasons: Every disagreement that was found, one sentence each; the message holds the first few.
    """

    def __init__(self, *reasons: str, advice: str = "") -> None:
        self.reasons = reasons
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        super().__init__(f"{shown}; {advice}" if advice else shown)


class OptionError(GraftworkError):
    """An option's value makes no sense, or not for this method."""


class RecipeError(GraftworkError):
    """A recipe is not one, or not a sensible one."""


class DataError(GraftworkError):
    """Data cannot be read, or is not what a model takes."""


class UnknownNameError(GraftworkError):
    """Nothing is called by this name.

    Args:
        kind: What was looked for, as in "merge method".
        name: The name that was given.
        known: The names that exist; the nearest are suggested.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        known = list(known)
        super().__init__(f"no {kind} is called {name!r}; {suggest(name, known)}")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return "did you mean …?" for near names, else a list of what there is."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    if not known:
        return "there are none"
    shown = ", ".join(repr(n) for n in known[:12])
    return f"there are {shown}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")


_PLACES = re.compile(
    r"Exception encountered when calling |Graph execution error|Detected at node|<stack traces|File \"|Arguments received"
)
_MARKS = re.compile(r" for '\{\{node .*|\x1b\[\d*m|\s*\[\[\{\{.*|\s*\[Op:.*|\{\{.*?\}\} ?")


def gist(error: BaseException) -> str:
    """Return what another library's error is about, in one line: its type, and what TensorFlow says behind its lists of places."""
    texts = (line.strip() for line in str(error).splitlines())
    said = next(filter(None, (_MARKS.sub("", text) for text in texts if not _PLACES.match(text))), "")
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__

"""How a source is spelled: a path, a model on the Hub, or either with adapters behind plus signs.

::

    path/to/model                       a file or directory in any format
    path/to/model.ckpt-1000             a TensorFlow checkpoint, whose index is path/to/model.ckpt-1000.index
    hf://ORG/NAME   hf://ORG/NAME@REV   see `graftwork.stores.hub`
    BASE+ADAPTER+ADAPTER                see `graftwork.stores.lora`; each part is one of the above

What exists wins: a path with a plus sign in its name, or one below a directory called ``hf:``, is that path.
"""

import os
from pathlib import Path

from graftwork.errors import StoreError
from graftwork.stores import hub

INDEX = ".index"
"""What TensorFlow leaves away from the name of a checkpoint."""


def split(source: str | os.PathLike[str], root: Path = Path()) -> list[str]:
    """Return a source's parts: the base, then its adapters in the order in which they are applied.

    Args:
        source: As the user spelled it.
        root: Directory that its paths are relative to.

    Raises:
        StoreError: If there is nothing before, between or behind plus signs.
    """
    text = os.fspath(source)
    words = text.split("+")
    parts: list[str] = []
    while words:
        joined = ("+".join(words[:count]) for count in range(len(words), 0, -1))
        part = next((part for part in joined if _is_there(part, root)), words[0])
        if not part and len(words) + len(parts) > 1:
            raise StoreError(f"{text!r} has nothing before or behind a plus sign; expected BASE+ADAPTER")
        parts.append(part)
        words = words[part.count("+") + 1 :]
    return parts


def below(root: Path, source: str) -> Path:
    """Return a source whose paths are relative to `root` as one whose paths can be opened; ``~`` is the user's home."""
    parts = [str(Path(part).expanduser()) for part in split(source, root)]
    return Path("+".join(part if _is_on_the_hub(part, root) else str(root / part) for part in parts))


def place(part: str) -> Path:
    """Return where one part of a source lies on the disk, fetched from the Hub if it must be."""
    if not _lies_there(Path(part)) and _lies_there(Path(part + INDEX)):
        return Path(part + INDEX)
    repository = hub.repository(part)
    return hub.fetch(*repository) if repository and not os.path.lexists(part) else Path(part)


def name(part: str) -> str:
    """Return the last part of a path or of a model's name on the Hub."""
    repository = hub.repository(part)
    return repository[0].partition("/")[2] if repository and not os.path.lexists(part) else Path(part).name


def _is_there(part: str, root: Path) -> bool:
    return bool(part) and (_exists(root / Path(part).expanduser()) or hub.repository(part) is not None)


def _is_on_the_hub(part: str, root: Path) -> bool:
    return hub.repository(part) is not None and not _exists(root / part)


def _exists(path: Path) -> bool:
    return _lies_there(path) or _lies_there(path.with_name(path.name + INDEX) if path.name else path)


def _lies_there(path: Path) -> bool:
    try:
        return os.path.lexists(path)
    except ValueError:  # a zero byte
        return False

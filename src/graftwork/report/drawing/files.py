"""A drawing as a file: complete, or not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from graftwork.errors import OutputError, StoreError
from graftwork.stores.base import Format
from graftwork.stores.staged import Staged, check_target


def _not_read(path: Path) -> NoReturn:
    raise StoreError(f"{path} is a drawing, which graftwork writes and does not read")


SVG = Format(
    name="svg",
    summary="a drawing",
    suffixes=(".svg",),
    directory=False,
    recognise=lambda path: path.is_file() and path.name.endswith(".svg"),
    open=_not_read,
    create=None,
)
"""What has to be known of drawings to replace one."""


def write(text: str, target: Path, sources: Sequence[Path], *, overwrite: bool) -> tuple[str, ...]:
    """Write a drawing, and return what is to be known of the place.

    Raises:
        OutputError: If the target does not end in ``.svg``, exists, is a source or cannot be written.
    """
    if not target.name.endswith(".svg"):
        raise OutputError(f"the target {target} must end in .svg, for that is what a drawing is")
    check_target(target, SVG, sources, overwrite=overwrite)
    with Staged(target, SVG, overwrite=overwrite) as staged:
        try:
            staged.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{target} cannot be written: {error.strerror or error}") from error
        staged.commit()
    return staged.notes

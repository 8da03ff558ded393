"""Tensor stores: one file per format, each reading headers first and blocks after.

`open_store` finds what a path or another spelling of a source stands for, `format_for_target` the one that a new path asks
for, and `FORMATS` lists them all.
"""

import importlib
import pkgutil
import re
from collections.abc import Sequence
from pathlib import Path

from graftwork.errors import OutputError, StoreError, UnknownNameError
from graftwork.stores import spelling
from graftwork.stores.base import FORMATS, Extent, Format, Header, Reader, Writer
from graftwork.stores.lora import LoraReader

__all__ = [
    "FORMATS",
    "Extent",
    "Format",
    "Header",
    "Reader",
    "Writer",
    "distinct",
    "format_for_target",
    "label_of",
    "open_store",
    "recognise",
]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")  # each registers its format, so that adding one is adding a file


def recognise(path: Path) -> Format:
    """Return the format of an existing file or directory.

    Raises:
        StoreError: If there is nothing at `path` or no format knows it.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error.strerror or error}") from error
    if not exists:
        meant = (
            "; a model on the Hub is spelled hf://ORG/NAME or hf://ORG/NAME@REVISION"
            if str(path).startswith("hf:")
            else ""
        )
        raise StoreError(f"there is no file or directory {path}{meant}")
    if not path.is_file() and not path.is_dir():
        raise StoreError(f"{path} is neither a regular file nor a directory")
    for row in sorted(FORMATS.values(), key=lambda row: (row.order, row.name)):
        if row.recognise(path):
            return row
    known = ", ".join(suffix for row in FORMATS.values() for suffix in row.suffixes)
    raise StoreError(
        f"{path} is in no format that graftwork knows (files ending in {known}, SavedModels, Keras and Hugging Face directories)"
        + _instead(path)
    )


def _instead(path: Path) -> str:
    """Return what to name instead of a part of a checkpoint, or of a directory with one."""
    data = re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", path.name)
    indexes = [path.with_name(f"{data[1]}.index")] if data else sorted(path.glob("*.index")) if path.is_dir() else []
    found = [str(index) for index in indexes if index.is_file()]
    return f"; name a checkpoint by its index, as {' or '.join(found[:3])}" if found else ""


def open_store(source: Path | str) -> Reader:
    """Open a source, whatever its format: a path, a model on the Hub, or either with adapters (see `graftwork.stores.spelling`).

    Raises:
        StoreError: If it does not exist, is in no known format, or is damaged.
        MismatchError: If an adapter does not fit its base.
    """
    base, *adapters = spelling.split(source)
    path = spelling.place(base)
    if adapters and not path.exists():
        raise StoreError(
            f"there is no file or directory {source}, nor a model {base} that adapters could be applied to"
        )
    reader = recognise(path).open(path)
    try:
        for adapter in adapters:
            reader = LoraReader(reader, spelling.place(adapter))
    except BaseException:
        reader.close()
        raise
    return reader


def label_of(source: Path | str) -> str:
    """Return a short name for a source: its file's or directory's name without an ending, likewise of each adapter."""
    return "+".join(_stem(spelling.name(part)) for part in spelling.split(source))


def distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Return labels with a number behind each that was there before."""
    found: list[str] = []
    for name in names:
        label, number = name, 1
        while label in found:
            number += 1
            label = f"{name}#{number}"
        found.append(label)
    return tuple(found)


def _stem(name: str) -> str:
    stem = name
    for suffix in sorted((s for row in FORMATS.values() for s in row.suffixes), key=len, reverse=True):
        stem = stem.removesuffix(suffix)
    return stem or name


FOREIGN = (".bin", ".gguf", ".npz", ".onnx", ".pkl", ".pt", ".pth")
"""Endings of files of weights that are not written here; nobody who asks for one means a directory."""


def format_for_target(path: Path | str, like: Reader | None = None, name: str | None = None) -> Format:
    """Return the format in which to write a new file or directory.

    Args:
        path: The target; its ending decides.
        like: Decides for a target without the ending of a file (a directory in the format of the first source).
        name: The format's name, where the user says it.

    Raises:
        OutputError: If neither tells.
        UnknownNameError: If no format is called `name`.
    """
    path = Path(path)
    if name is not None:
        if name not in FORMATS:
            raise UnknownNameError("format", name, FORMATS)
        return FORMATS[name]
    endings = sorted(((s, row) for row in FORMATS.values() for s in row.suffixes), key=lambda pair: -len(pair[0]))
    for suffix, row in endings:
        if path.name.endswith(suffix):
            return row
    of_a_file = path.suffix.lower() in (*FOREIGN, *(suffix for suffix, _ in endings))
    if like is not None and FORMATS[like.header.format].directory and not of_a_file:
        return FORMATS[like.header.format]
    known = ", ".join(suffix for suffix, _ in endings)
    raise OutputError(
        f"the target {path} does not say in which format to write; end it in one of {known}, or name the format"
    )

"""A directory of images, one folder for each class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.arrays import fingerprint_of
from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Images:
    """Images in folders named after their classes, decoded as they are wanted; see `graftwork.data.base.Table`.

    Columns are ``image`` (height, width, channels, uint8), ``label``, the number of the class in alphabetical order, and ``file``.

    Args:
        folder: The directory.
        size: Height and width that images are resized to, by bilinear interpolation; by default all must have one size.
        channels: 1, 3 or 4.
        classes: The classes in the order that labels count; by default the folders in alphabetical order.

    Raises:
        DataError: If there are no images, or they are of different sizes and none is asked for.
    """

    labels: str | None = "label"

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        classes: Sequence[str] | None = None,
    ) -> None:
        if channels not in MODES:
            raise DataError(f"images have {' or '.join(map(str, MODES))} channels, not {channels}")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.classes = tuple(classes) if classes is not None else tuple(found)
        missing = sorted({*found} ^ {*self.classes})
        if missing:
            where = f"a folder in {folder}" if missing[0] in self.classes else "one of the classes"
            raise DataError(f"class {missing[0]!r} is not {where}; the folders are {', '.join(found) or 'none'}")
        self.name, self._channels = folder.name, channels
        self._files: list[Path] = []
        numbers: list[int] = []
        for number, name in enumerate(self.classes):
            files = sorted(
                file for file in (folder / name).rglob("*") if file.suffix.lower() in ENDINGS and file.is_file()
            )
            self._files += files
            numbers += [number] * len(files)
        if not self._files:
            raise DataError(
                f"there are no images in the folders of {folder}; expected FOLDER/CLASS/IMAGE with one of {', '.join(ENDINGS)}"
            )
        self._numbers = np.array(numbers, np.int64)
        self._size = size or _size_of(self._files[0])
        self._resizes = size is not None
        self.columns: Mapping[str, Column] = {
            "image": Column((*self._size, channels), "uint8"),
            "label": Column((), "int64"),
            "file": Column((), "str"),
        }

    def __len__(self) -> int:
        return len(self._files)

    def take(self, column: str, rows: Rows) -> NDArray[Any]:
        """Return the entries of some samples; see `Table.take`."""
        if column == "label":
            return self._numbers[rows]
        if column == "file":
            return np.array([str(self._files[row]) for row in rows])
        if column != "image":
            raise UnknownNameError(f"column in {self.name}", column, self.columns)
        out = np.empty((len(rows), *self._size, self._channels), np.uint8)
        for at, row in enumerate(rows):
            out[at] = self._decoded(self._files[row])
        return out

    def _decoded(self, file: Path) -> NDArray[np.uint8]:
        image = _pillow()
        try:
            with image.open(file) as opened:
                picture = opened.convert(MODES[self._channels])
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise DataError(f"{file} cannot be read as an image: {error}") from error
        if picture.size[::-1] != self._size:
            if not self._resizes:
                raise DataError(
                    f"{file} is {picture.height} × {picture.width}, the first image {self._size[0]} × {self._size[1]}; say the size that "
                    "all are resized to (size)"
                )
            picture = picture.resize(self._size[::-1], image.Resampling.BILINEAR)
        return np.asarray(picture, np.uint8).reshape(*self._size, self._channels)

    def fingerprint(self) -> str:
        """Return a text that changes when an image, or how it is read, does."""
        return f"{fingerprint_of(self._files)} {self._size} {self._channels} {self.classes}"


def _size_of(file: Path) -> tuple[int, int]:
    image = _pillow()
    try:
        with image.open(file) as opened:
            return opened.height, opened.width
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{file} cannot be read as an image: {error}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("to read images, install Pillow: pip install 'graftwork[data]'") from error
    return Image

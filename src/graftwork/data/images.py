"""Encoded images: a directory with one folder for each class, and the bytes of one."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.data.arrays import fingerprint_of
from graftwork.data.base import Column, Rows
from graftwork.errors import DataError, UnknownNameError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
"""What is decoded, whatever a file is called: some decoders of Pillow start other programs."""

MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class Images:
    """Images in folders named after their classes, decoded as they are wanted; see `graftwork.data.base.Table`.

    Columns are ``image`` (height, width, channels, uint8), ``label``, the number of the class in alphabetical order, and ``file``.

    Args:
        folder: The directory.
        size: Height and width that images are resized to; by default all must have one size.
        channels: 1, 3 or 4.
        classes: The classes in the order that labels count, of which some may have no folder; by default the folders in alphabetical
            order.

    Raises:
        DataError: If there are no images, or a folder is none of the classes.
    """

    labels: str | None = "label"

    def __init__(
        self,
        folder: Path,
        size: tuple[int, int] | None = None,
        channels: int = 3,
        classes: Sequence[str] | None = None,
    ) -> None:
        found = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        self.classes = tuple(classes) if classes is not None else tuple(found)
        extra = sorted({*found} - {*self.classes})
        if extra:
            raise DataError(
                f"the folder {extra[0]!r} in {folder} is none of the classes {', '.join(self.classes)}; name all of them (classes)"
            )
        self.name, self._channels = folder.name, channels
        self._files: list[Path] = []
        numbers: list[int] = []
        for number, name in enumerate(self.classes):
            files = sorted(file for file in (folder / name).rglob("*") if _is_image(file.relative_to(folder), file))
            self._files += files
            numbers += [number] * len(files)
        if not self._files:
            raise DataError(
                f"there are no images in the folders of {folder}; expected FOLDER/CLASS/IMAGE with one of {', '.join(ENDINGS)}"
            )
        self._numbers = np.array(numbers, np.int64)
        self._resizes = size is not None
        self._size = size or size_of(self._files[0].read_bytes(), str(self._files[0]))
        self._known = fingerprint_of(self._files, "images", self._size, channels, self.classes)
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
            return np.array([str(self._files[row]) for row in rows], dtype=np.str_)
        if column != "image":
            raise UnknownNameError(f"column in {self.name}", column, self.columns)
        out = np.empty((len(rows), *self._size, self._channels), np.uint8)
        for at, row in enumerate(rows):
            file = self._files[row]
            try:
                encoded = file.read_bytes()
            except OSError as error:
                raise DataError(f"{file} cannot be read: {error.strerror}") from error
            out[at] = decoded(encoded, str(file), self._size, self._channels, resizes=self._resizes)
        return out

    def fingerprint(self) -> str:
        """Return a text that changes when an image, or how it is read, does; see `Table.fingerprint`."""
        return self._known


def _is_image(place: Path, file: Path) -> bool:
    hidden = any(part.startswith(".") for part in place.parts)
    return place.suffix.lower() in ENDINGS and not hidden and file.is_file()


def decoded(
    encoded: bytes, what: str, size: tuple[int, int], channels: int, *, resizes: bool = False
) -> NDArray[np.uint8]:
    """Return an image as an array (height, width, channels).

    Transparency is dropped where channels are 1 or 3, and the orientation that a camera noted is not followed, as in Keras's
    `image_dataset_from_directory`. Resizing is bilinear; where it shrinks, all pixels count (Pillow's way, and TensorFlow's with
    ``antialias=True``).

    Args:
        encoded: The bytes of its file.
        what: What messages call it.
        size: Its height and width.
        channels: 1, 3 or 4.
        resizes: Whether an image of another size is resized.

    Raises:
        DataError: If it is no image, has more than 8 bits per channel, or another size.
    """
    image = _pillow()
    with _opened(encoded, what) as opened:
        if opened.mode.startswith(("I", "F")):
            raise DataError(f"{what} has more than 8 bits per channel (mode {opened.mode}); convert it, or use arrays")
        if (opened.height, opened.width) != size and not resizes:
            raise DataError(
                f"{what} is {opened.height} × {opened.width}, expected {size[0]} × {size[1]} as the first image; say the size that all are "
                "resized to (size)"
            )
        try:
            picture = opened.convert(MODES[channels])
        except Exception as error:  # decoders of broken images fail in many ways
            raise DataError(f"{what} cannot be read as an image: {error}") from error
    if (picture.height, picture.width) != size:
        picture = picture.resize(size[::-1], image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8).reshape(*size, channels)


def size_of(encoded: bytes, what: str) -> tuple[int, int]:
    """Return the height and width of an image.

    Raises:
        DataError: If it is none.
    """
    with _opened(encoded, what) as opened:
        return opened.height, opened.width


def _opened(encoded: bytes, what: str) -> Any:
    try:
        return _pillow().open(io.BytesIO(encoded), formats=FORMATS)
    except DataError:
        raise
    except Exception as error:  # as above
        told = "it is none of " + ", ".join(FORMATS) if "cannot identify" in str(error) else error
        raise DataError(f"{what} cannot be read as an image: {told}") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("to read images, install Pillow: pip install 'graftwork[data]'") from error
    return Image

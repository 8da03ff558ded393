"""How data is described: where it lies, which columns are what, and which samples are meant."""

import contextlib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from graftwork.data.records import Feature

Columns: TypeAlias = str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]]
"""The column of a model's input; columns of its inputs in order, or by the inputs' names. Several columns for one input stand side by side
in it."""


class Description(BaseModel):
    """Data: one source, and what of it goes where.

    Exactly one of ``npz``, ``npy``, ``csv``, ``parquet``, ``images``, ``tfrecord``, ``tfds`` and ``python`` says where it lies.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    npz: str | None = None
    """An archive of arrays, as numpy.savez writes it."""

    npy: str | Mapping[str, str] | None = None
    """Files of one array each, by the name of the column; one alone is ``x``."""

    csv: str | tuple[str, ...] | None = None
    """Files of comma-separated values with a line of names at the top; patterns such as ``part-*.csv`` are allowed."""

    parquet: str | tuple[str, ...] | None = None
    """Parquet files; patterns are allowed."""

    images: str | None = None
    """A directory with a folder of images for each class: bmp, gif, jpg, png or webp."""

    tfrecord: str | tuple[str, ...] | None = None
    """TFRecord files of examples, compressed if they end in ``.gz``; patterns are allowed. `features` says what is in them."""

    tfds: str | None = None
    """A data set of TensorFlow Datasets, where that is installed: ``mnist``, or the directory of one that lies there already."""

    python: str | None = None
    """A function ``module:function`` that returns arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`, or yields batches. Its module
    may lie beside the description."""

    x: Columns | None = None
    """Column of the model's input; columns of its inputs in order, or by the inputs' names. Several columns for one input stand side
    by side in it."""

    y: str | None = None
    """Column of the labels; where nothing is said, ``y`` of arrays, and ``label`` of images and data sets of TensorFlow Datasets."""

    weights: str | None = None
    """Column of what each sample counts; where nothing is said, ``weights`` or ``sample_weight`` of arrays."""

    classes: tuple[str, ...] | None = None
    """Names of the classes in the order that labels count; labels that are texts are numbered by it."""

    size: tuple[PositiveInt, PositiveInt] | None = None
    """Height and width that images are resized to; without it all must have one size."""

    channels: Literal[1, 3, 4] = 3
    """Channels of images."""

    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    """What inputs are multiplied with: 0.00392156862745098 for images from 0 to 1."""

    offset: float | None = Field(None, allow_inf_nan=False)
    """What is added to inputs then, ``scale · x + offset``: -1, with 0.00784313725490196 as `scale`, for images from -1 to 1."""

    features: Mapping[str, Feature] = Field(default_factory=dict)
    """What the examples of TFRecord files hold, by name."""

    part: str | float | tuple[float, float] | None = None
    """Which part of the samples is meant, as fractions: ``0:0.8`` four fifths of them, ``0.8:1`` the rest, drawn by `seed`. Parts that do
    not overlap have no sample in common."""

    stratify: bool = False
    """Whether parts have the same share of every class."""

    seed: int = Field(0, ge=0)
    """Draws the order that parts are cut from."""

    split: str = "train"
    """Which split of a data set of TensorFlow Datasets."""

    arguments: Mapping[str, Any] = Field(default_factory=dict)
    """Arguments of the function."""

    batches: PositiveInt | None = None
    """How many of the batches that a function yields are one pass over the data, for one that never ends; without it, all."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Description":
        said = [name for name in SOURCES if getattr(self, name) is not None]
        for name, kinds in SPECIAL.items():
            if len(said) == 1 and name in self.model_fields_set and said[0] not in kinds:
                raise ValueError(f"{name!r} is for {', '.join(kinds)}, not for {said[0]}")
        if self.stratify and self.part is None:
            raise ValueError("'stratify' is for parts; say which one (part)")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("two of the classes have one name")
        self.fractions()
        return self

    def kind(self) -> str | None:
        """Return the word of the source, None unless there is exactly one."""
        found = [name for name in SOURCES if getattr(self, name) is not None]
        return found[0] if len(found) == 1 else None

    def fractions(self) -> tuple[float, float] | None:
        """Return where the part begins and ends, None for all samples."""
        if self.part is None:
            return None
        edges: tuple[float, ...] = ()
        if isinstance(self.part, tuple):
            edges = self.part
        elif isinstance(self.part, float):  # YAML takes an unquoted 0:0.8 for 0.8, in minutes and seconds
            edges = (0.0, self.part)
        elif self.part.count(":") == 1:
            begin, end = (word.strip() for word in self.part.split(":"))
            with contextlib.suppress(ValueError):
                edges = (float(begin or 0), float(end or 1))
        if len(edges) != 2 or not 0 <= edges[0] < edges[1] <= 1:
            raise ValueError(f"{self.part!r} is no part of the samples; write fractions such as 0:0.8")
        return edges[0], edges[1]


SOURCES = ("npz", "npy", "csv", "parquet", "images", "tfrecord", "tfds", "python")
"""The fields that say where data lies."""

SPECIAL = {
    "size": ("images", "tfrecord", "tfds"),
    "channels": ("images", "tfrecord", "tfds"),
    "features": ("tfrecord",),
    "split": ("tfds",),
    "arguments": ("python",),
    "batches": ("python",),
}
"""The kinds of sources that a field is for, of those that are not for all."""

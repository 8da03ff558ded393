"""How data is described: where it lies, which columns are what, and which samples are meant."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from graftwork.data.records import Feature


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
    """A directory with a folder of images for each class."""

    tfrecord: str | tuple[str, ...] | None = None
    """TFRecord files of examples; patterns are allowed. `features` says what is in them."""

    tfds: str | None = None
    """A data set of TensorFlow Datasets, where that is installed: ``mnist``."""

    python: str | None = None
    """A function ``module:function`` that returns arrays, a `tf.data.Dataset` or a `keras.utils.PyDataset`, or yields batches."""

    x: str | tuple[str, ...] | Mapping[str, str | tuple[str, ...]] | None = None
    """Column of the model's input; columns of its inputs in order, or by the inputs' names. Several columns for one input stand side
    by side in it."""

    y: str | None = None
    """Column of the labels."""

    weights: str | None = None
    """Column of what each sample counts."""

    classes: tuple[str, ...] | None = None
    """Names of the classes in the order that labels count; labels that are texts are numbered by it."""

    size: tuple[int, int] | None = None
    """Height and width that images are resized to."""

    channels: int = 3
    """Channels of images: 1, 3 or 4."""

    scale: float | None = None
    """What inputs are multiplied with: 0.00392156862745098 for images from 0 to 1."""

    features: Mapping[str, Feature] = Field(default_factory=dict)
    """What the examples of TFRecord files hold, by name."""

    part: str | None = None
    """Which part of the samples is meant, as fractions: ``0:0.8`` the first four fifths, ``0.8:1`` the rest, in an order drawn from
    `seed`."""

    stratify: bool = False
    """Whether parts have equal shares of every class."""

    seed: int = Field(0, ge=0)
    """Fixes the order that parts are cut from."""

    split: str = "train"
    """Which split of a data set of TensorFlow Datasets."""

    arguments: Mapping[str, Any] = Field(default_factory=dict)
    """Arguments of the function."""

    def kind(self) -> str | None:
        """Return the word of the source, None unless there is exactly one."""
        found = [name for name in SOURCES if getattr(self, name) is not None]
        return found[0] if len(found) == 1 else None


SOURCES = ("npz", "npy", "csv", "parquet", "images", "tfrecord", "tfds", "python")
"""The fields that say where data lies."""

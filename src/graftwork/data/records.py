"""TFRecord files of examples, read by TensorFlow, and data sets of TensorFlow Datasets."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, NonNegativeInt, model_validator

from graftwork.data.arrays import fingerprint_of
from graftwork.data.base import Column
from graftwork.data.images import decoded, size_of
from graftwork.data.spool import Decoder, Spool, Spooled
from graftwork.errors import DataError

PIECE = 128
"""Examples that are read at a time."""

COMPRESSIONS = {".gz": "GZIP", ".gzip": "GZIP", ".zlib": "ZLIB"}


class Feature(BaseModel):
    """What a feature of an example holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Literal["float32", "int64", "str"] = "float32"
    """Its type: these three are all that examples know."""

    shape: tuple[NonNegativeInt, ...] = ()
    """Its shape; every example has as many numbers."""

    decode: Literal["image", "raw:uint8", "raw:float32"] | None = None
    """What a text stands for: an encoded image, or the bytes of an array of this shape."""

    @model_validator(mode="after")
    def _makes_sense(self) -> "Feature":
        if self.decode == "image" and self.shape and (len(self.shape) != 3 or self.shape[2] not in (1, 3, 4)):
            raise ValueError("the shape of an image is [height, width, channels] with 1, 3 or 4 channels")
        return self


def open_tfrecord(
    files: Sequence[Path],
    features: Mapping[str, Feature],
    size: tuple[int, int] | None = None,
    channels: int = 3,
) -> Spooled:
    """Open files of examples. Numbers are unpacked into temporary files; images stay encoded until they are wanted.

    Args:
        files: The files; those that end in ``.gz`` or ``.zlib`` are compressed.
        features: What an example holds, by name.
        size: Height and width that images are resized to; by default all must have one size.
        channels: Channels of images whose feature has no shape.

    Raises:
        DataError: If they cannot be read, or an example lacks a feature.
    """
    if not features:
        raise DataError(
            f"{files[0].name} does not say what is in it; describe its features: {{image: {{shape: [784]}}, label: {{dtype: int64}}}}"
        )
    import tensorflow as tf

    known = fingerprint_of(files, "tfrecord", sorted(features.items()), size, channels)
    wanted = {
        name: tf.io.FixedLenFeature(
            () if feature.decode else feature.shape,
            tf.string if feature.decode or feature.dtype == "str" else feature.dtype,
        )
        for name, feature in features.items()
    }
    decoders: dict[str, Decoder] = {}
    with tf.device("CPU"), Spool(", ".join(file.name for file in files)) as spool:
        for file in files:
            for found in _examples(tf, file, wanted):
                for name, values in found.items():
                    feature = features[name]
                    if feature.decode == "image" and name not in decoders:
                        decoders[name] = _image(values[0], feature, size, channels, f"feature {name!r} of {file.name}")
                    _spool(spool, name, values, feature, file)
        return spool.table(known, decoders=decoders)


def _examples(tf: Any, file: Path, wanted: Mapping[str, Any]) -> Iterator[dict[str, NDArray[Any]]]:
    records = tf.data.TFRecordDataset(str(file), compression_type=COMPRESSIONS.get(file.suffix.lower(), ""))
    try:
        for piece in records.batch(PIECE):
            yield {name: values.numpy() for name, values in tf.io.parse_example(piece, wanted).items()}
    except tf.errors.DataLossError as error:
        raise DataError(
            f"{file} is no TFRecord file, or broken; compressed ones end in {' or '.join(COMPRESSIONS)}: {error.message}"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        said = re.sub(r"\{\{.*?\}\}|\[Op:\w+\]", "", str(error.message).splitlines()[0]).strip()
        raise DataError(f"the examples of {file} do not hold what `features` says of them: {said}") from error
    except tf.errors.OpError as error:
        raise DataError(f"{file} cannot be read: {str(error.message).splitlines()[0]}") from error


def _image(encoded: bytes, feature: Feature, size: tuple[int, int] | None, channels: int, what: str) -> Decoder:
    if feature.shape:
        wanted, channels = (feature.shape[0], feature.shape[1]), feature.shape[2]
    else:
        wanted = size_of(encoded, what)
    wanted = size or wanted
    kind = Column((*wanted, channels), "uint8")
    return kind, lambda each, where: decoded(each, where, wanted, channels, resizes=size is not None)


def _spool(spool: Spool, name: str, values: NDArray[Any], feature: Feature, file: Path) -> None:
    if values.dtype.kind != "O":
        spool.add(name, values)
    elif feature.decode is None or feature.decode == "image":
        flat = values.ravel().tolist()
        spool.add_texts(name, np.array([len(each) for each in flat], np.int64), b"".join(flat), values.shape[1:])
    else:
        dtype = np.dtype(feature.decode.partition(":")[2])
        size = math.prod(feature.shape) * dtype.itemsize
        for each in values:
            if len(each) != size:
                raise DataError(
                    f"feature {name!r} of {file.name} has {len(each):,} bytes; expected {size:,}, for {Column(feature.shape, dtype.name)}"
                )
        spool.add(name, np.frombuffer(b"".join(values), dtype).reshape(len(values), *feature.shape))


def open_tfds(
    name: str, split: str, root: Path = Path(), size: tuple[int, int] | None = None, channels: int = 3
) -> Spooled:
    """Open a data set of TensorFlow Datasets, which is downloaded where it is not there. Images stay encoded until they are wanted.

    Args:
        name: Its name, with configuration and version if need be: ``mnist:3.0.1``; or the directory of one that lies there already.
        split: Which of its splits.
        root: What the directory is relative to.
        size: Height and width that images are resized to; by default all must have one size.
        channels: Channels of images where the data set does not tell.

    Raises:
        DataError: If tensorflow-datasets is not installed, or there is no such data set or split.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            "to read a data set of TensorFlow Datasets, install it: pip install tensorflow-datasets"
        ) from error
    try:
        builder = _builder(tfds, name, root / Path(name).expanduser())
        features = dict(builder.info.features.items())
        images = [key for key, each in features.items() if _is_image(each)]
        found = builder.as_dataset(split=split, decoders={key: tfds.decode.SkipDecoding() for key in images})
        folder = Path(str(builder.data_dir))
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        known = fingerprint_of(files, "tfds", str(builder.info.full_name), split, size, channels)
        decoders: dict[str, Decoder] = {}
        with Spool(f"{name} ({split})") as spool:
            for batch in tfds.as_numpy(found.ragged_batch(PIECE)):
                for column, values in _flat(batch):
                    if column in images and column not in decoders:
                        depth = features[column].shape[-1] or channels
                        what = f"column {column!r} of {spool.name}"
                        decoders[column] = _image(values[0], Feature(dtype="str", decode="image"), size, depth, what)
                    _add_any(spool, column, values)
            said = builder.info.supervised_keys
            labels = said[1] if said and isinstance(said[1], str) else "label"
            names = getattr(features.get(labels), "names", None)
            classes = None if names is None else tuple(map(str, names))
            return spool.table(known, labels, classes, decoders)
    except DataError:
        raise
    except Exception as error:  # builders of data sets fail in their own ways
        told = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DataError(f"the data set {name} ({split}) cannot be opened: {told}") from error


def _builder(tfds: Any, name: str, folder: Path) -> Any:
    if (folder / "dataset_info.json").is_file():
        return tfds.builder_from_directory(str(folder))
    builder = tfds.builder(name)
    builder.download_and_prepare()
    return builder


def _is_image(feature: Any) -> bool:
    """Return whether a feature of TensorFlow Datasets is an image of 8 bits per channel."""
    plain = type(feature).__name__ == "Image" and len(feature.shape) == 3
    return plain and feature.dtype == "uint8" and feature.shape[-1] in (1, 3, 4, None)


def _flat(batch: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, values in batch.items():
        if isinstance(values, Mapping):
            yield from _flat(values, f"{above}{name}.")
        else:
            yield above + name, values


def _add_any(spool: Spool, column: str, values: Any) -> None:
    if not isinstance(values, np.ndarray):
        reason = f"the entries of column {column!r} of {spool.name} may have different shapes, and such are not read"
        spool.useless(column, Column((None,), type(values).__name__), reason)
    elif values.dtype.kind == "O":
        flat = values.ravel().tolist()
        spool.add_texts(column, np.array([len(each) for each in flat], np.int64), b"".join(flat), values.shape[1:])
    else:
        spool.add(column, values)

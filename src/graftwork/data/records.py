"""TFRecord files of examples, read by TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from graftwork.data.spool import Spool, Spooled
from graftwork.errors import DataError

PIECE = 1024
"""Examples that are read at a time."""

COMPRESSIONS = {".gz": "GZIP", ".gzip": "GZIP", ".zlib": "ZLIB"}


class Feature(BaseModel):
    """What a feature of an example holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    dtype: Literal["float32", "int64", "str"] = "float32"
    """Its type: these three are all that examples know."""

    shape: tuple[int, ...] = ()
    """Its shape; every example has as many numbers."""

    decode: Literal["image", "raw:uint8", "raw:float32"] | None = None
    """What a text stands for: an encoded image, or the bytes of an array of this shape."""


def open_tfrecord(files: Sequence[Path], features: Mapping[str, Feature]) -> Spooled:
    """Open files of examples.

    Args:
        files: The files; those that end in ``.gz`` or ``.zlib`` are compressed.
        features: What an example holds, by name.

    Raises:
        DataError: If they cannot be read, or an example lacks a feature.
    """
    if not features:
        raise DataError(
            f"{files[0].name} does not say what is in it; describe its features: {{image: {{shape: [784]}}, label: {{dtype: int64}}}}"
        )
    import tensorflow as tf

    spool = Spool(", ".join(file.name for file in files))
    wanted = {
        name: tf.io.FixedLenFeature(
            () if feature.decode else feature.shape,
            tf.string if feature.decode or feature.dtype == "str" else feature.dtype,
        )
        for name, feature in features.items()
    }
    with tf.device("CPU"):
        for file in files:
            records = tf.data.TFRecordDataset(str(file), compression_type=COMPRESSIONS.get(file.suffix, ""))
            try:
                for piece in records.batch(PIECE):
                    found = tf.io.parse_example(piece, wanted)
                    for name, values in found.items():
                        spool.add(name, _decoded(tf, values, features[name]).numpy())
            except tf.errors.OpError as error:
                raise DataError(f"{file} cannot be read: {str(error.message).splitlines()[0]}") from error
    return spool.table(files)


def _decoded(tf: Any, values: Any, feature: Feature) -> Any:
    if feature.decode is None:
        return values
    if feature.decode == "image":
        channels = feature.shape[-1] if len(feature.shape) == 3 else 3
        return tf.stack(
            [
                tf.ensure_shape(tf.io.decode_image(value, channels, expand_animations=False), feature.shape or None)
                for value in values
            ]
        )
    dtype = feature.decode.partition(":")[2]
    return tf.reshape(tf.io.decode_raw(values, dtype), (-1, *feature.shape))

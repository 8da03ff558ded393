"""Files that lie: one small builder for each way in which a model file can be damaged or meant to do harm.

Every module holds the corpus of one format, as a registry of named builders; `hdf5` and `json_text` hold the faults that several
formats share. All files are made here, byte by byte, without graftwork and without Keras.
"""

from hostile import (
    huggingface,
    keras_dir,
    keras_zip,
    legacy_h5,
    preset,
    safetensors,
    sharded,
    tf_checkpoint,
    weights_h5,
)
from hostile.corpus import Case

CORPORA = {
    corpus.format: corpus
    for corpus in (
        keras_zip.CORPUS,
        weights_h5.CORPUS,
        sharded.CORPUS,
        keras_dir.CORPUS,
        legacy_h5.CORPUS,
        safetensors.CORPUS,
        huggingface.CORPUS,
        preset.CORPUS,
        tf_checkpoint.CORPUS,
    )
}
"""Every corpus by the name of its format."""

CASES: tuple[Case, ...] = tuple(case for corpus in CORPORA.values() for case in corpus.cases.values())
"""Every case of every format."""

"""KerasHub presets: directories with a backbone's configuration and its weights."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hostile import hdf5, json_text, keras_config, sharded
from hostile.corpus import Corpus, Outcome
from hostile.keras_config import MARKER, pickle_that_would_run
from hostile.valid import VALUES, WEIGHTS_KERNEL, fill_weights, h5_bytes, text, write_files

Json = Any
CORPUS = Corpus("preset", VALUES)
METADATA = text(
    {
        "keras_version": "3.15.1",
        "keras_hub_version": "0.21.1",
        "parameter_count": 62,
        "date_saved": "2026-01-01@00:00:00",
    }
)


def config() -> dict[str, Json]:
    """Return a backbone's configuration, which lists no layers."""
    return {
        "module": "keras_hub.src.models.bert.bert_backbone",
        "class_name": "BertBackbone",
        "config": {"name": "bert_backbone", "trainable": True, "vocabulary_size": 8, "num_layers": 1, "hidden_dim": 4},
        "registered_name": "keras_hub>BertBackbone",
    }


def fill_task(file: h5py.File) -> None:
    """Write the tree of a task's head."""
    group = file.create_group("layers/dense/vars")
    group.attrs["name"] = "logits"
    group["0"] = np.full((4, 2), 3.25, "f4")
    group["1"] = np.full(2, 4.25, "f4")


def files() -> dict[str, bytes | None]:
    """Return the files by name."""
    return {
        "config.json": text(config()),
        "metadata.json": METADATA,
        "tokenizer.json": b'{"class_name": "BertTokenizer", "config": {"lowercase": true}}',
        "assets/tokenizer/vocabulary.txt": b"[PAD]\n[UNK]\na\nb\n",
        "model.weights.h5": h5_bytes(lambda f: fill_weights(f, optimizer=False)),
    }


def put(folder: Path, changes: dict[str, bytes | None] | None = None) -> Path:
    """Write the directory with some files changed."""
    return write_files(folder / "model", {**files(), **(changes or {})})


@CORPUS.harmless()
def valid_directory(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder)


@CORPUS.harmless()
def valid_with_a_task(folder: Path) -> Path:
    """Nothing wrong, with a head."""
    task = b'{"class_name": "BertTextClassifier", "config": {"num_classes": 2}}'
    return put(folder, {"task.json": task, "task.weights.h5": h5_bytes(fill_task)})


@CORPUS.harmless()
def valid_sharded_directory(folder: Path) -> Path:
    """Nothing wrong, with sharded weights."""
    return put(folder, {"model.weights.h5": None, **sharded.files()})


hdf5.add_faults(
    CORPUS,
    lambda folder, data: put(folder, {"model.weights.h5": data}),
    lambda file: fill_weights(file, optimizer=False),
    WEIGHTS_KERNEL,
)
for _name, _text in json_text.BROKEN.items():
    CORPUS.add(f"config-{_name}", lambda folder, text=_text: put(folder, {"config.json": text}))
    for _file in ("metadata", "tokenizer", "task"):
        CORPUS.add(
            f"{_file}-{_name}",
            lambda folder, text=_text, file=_file: put(folder, {f"{file}.json": text}),
            Outcome.TOLERATED,
        )
for _name, (_make, _outcome) in sharded.faults_of_an_index().items():

    def _build(folder: Path, make: Any = _make) -> Path:
        hdf5.bait(folder)
        return put(folder, {"model.weights.h5": None, **sharded.files(), **make(folder)})

    CORPUS.add(f"sharded-{_name}", _build, _outcome)
for _name in ("external_link_to_another_file", "cut_in_the_middle", "shape_that_overflows", "values_overlap"):

    def _task(folder: Path, fault: hdf5.Fault = hdf5.FAULTS[_name]) -> Path:
        data = fault.bytes(fill_weights, WEIGHTS_KERNEL, hdf5.bait(folder))
        return put(folder, {"task.json": b'{"class_name": "T", "config": {}}', "task.weights.h5": data})

    CORPUS.add(f"task-h5-{_name}".replace("_", "-"), _task)


@CORPUS.refused()
def config_missing(folder: Path) -> Path:
    """No configuration."""
    return put(folder, {"config.json": None})


@CORPUS.refused()
def weights_missing(folder: Path) -> Path:
    """No weights."""
    return put(folder, {"model.weights.h5": None})


@CORPUS.refused()
def two_sets_of_weights(folder: Path) -> Path:
    """One file and shards: which ones count?"""
    return put(folder, sharded.files())


@CORPUS.refused()
def weights_are_a_pickle(folder: Path) -> Path:
    """A pickle under the name of the weights."""
    return put(folder, {"model.weights.h5": pickle_that_would_run(folder)})


@CORPUS.refused()
def weights_are_a_pipe(folder: Path) -> Path:
    """Weights that would never answer."""
    path = put(folder, {"model.weights.h5": None})
    os.mkfifo(path / "model.weights.h5")
    return path


@CORPUS.tolerated()
def tokenizer_is_a_pipe(folder: Path) -> Path:
    """A tokenizer that would never answer."""
    path = put(folder, {"tokenizer.json": None})
    os.mkfifo(path / "tokenizer.json")
    return path


@CORPUS.tolerated()
def vocabulary_is_a_device(folder: Path) -> Path:
    """A vocabulary without an end."""
    path = put(folder, {"assets/tokenizer/vocabulary.txt": None})
    (path / "assets" / "tokenizer").mkdir(parents=True)
    (path / "assets" / "tokenizer" / "vocabulary.txt").symlink_to("/dev/zero")
    return path


@CORPUS.harmless()
def config_is_a_system_call(folder: Path) -> Path:
    """A backbone that is a function of the standard library."""
    made = {**config(), "module": "os", "class_name": "system", "registered_name": "os>system"}
    made["config"] = {"name": "x", "command": f"touch {folder / MARKER}"}
    return put(folder, {"config.json": text(made)})


@CORPUS.tolerated()
def tokenizer_is_a_system_call(folder: Path) -> Path:
    """A tokenizer that is a function of the standard library."""
    made = {"module": "os", "class_name": "system", "config": {"command": f"touch {folder / MARKER}"}}
    return put(folder, {"tokenizer.json": text(made)})


for _name in ("lambda-that-would-run", "layers-in-a-cycle", "a-hundred-models-in-models", "config-is-null"):

    def _config(folder: Path, fault: keras_config.Fault = keras_config.FAULTS[_name]) -> Path:
        return put(folder, {"config.json": keras_config.config_text(fault.make(folder))})

    CORPUS.add(f"config-{_name}", _config, keras_config.FAULTS[_name].outcome)

"""Unzipped ``.keras`` files: the members as files of a directory."""

import os
from pathlib import Path

from hostile import hdf5, json_text, keras_config, sharded
from hostile.corpus import Corpus, Outcome
from hostile.keras_config import config_text, pickle_that_would_run
from hostile.valid import METADATA, VALUES, WEIGHTS_KERNEL, fill_weights, h5_bytes, sequential, text, write_files

CORPUS = Corpus("keras_dir", VALUES)


def files() -> dict[str, bytes | None]:
    """Return the files by name."""
    return {
        "metadata.json": METADATA,
        "config.json": text(sequential()),
        "model.weights.h5": h5_bytes(fill_weights),
    }


def put(folder: Path, **changes: bytes | None) -> Path:
    """Write the directory with some files changed; ``config`` and the like stand for the file's name."""
    names = {"metadata": "metadata.json", "config": "config.json", "weights": "model.weights.h5"}
    return write_files(folder / "model", {**files(), **{names.get(k, k): v for k, v in changes.items()}})


def sharded_files() -> dict[str, bytes | None]:
    """Return the files of a directory whose weights are sharded."""
    return {**files(), "model.weights.h5": None, **sharded.files()}


@CORPUS.harmless()
def valid_directory(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder)


@CORPUS.harmless()
def valid_sharded_directory(folder: Path) -> Path:
    """Nothing wrong, with sharded weights."""
    return write_files(folder / "model", sharded_files())


hdf5.add_faults(CORPUS, lambda folder, data: put(folder, weights=data), fill_weights, WEIGHTS_KERNEL)
for _name, _text in json_text.BROKEN.items():
    CORPUS.add(f"config-{_name}", lambda folder, text=_text: put(folder, config=text))
    CORPUS.add(f"metadata-{_name}", lambda folder, text=_text: put(folder, metadata=text), Outcome.TOLERATED)
for _name, _fault in keras_config.FAULTS.items():
    CORPUS.add(
        f"config-{_name}",
        lambda folder, fault=_fault: put(folder, config=config_text(fault.make(folder))),
        _fault.outcome,
    )


@CORPUS.refused()
def config_missing(folder: Path) -> Path:
    """No configuration."""
    return put(folder, config=None)


@CORPUS.refused()
def weights_missing(folder: Path) -> Path:
    """No weights."""
    return put(folder, weights=None)


@CORPUS.tolerated()
def metadata_missing(folder: Path) -> Path:
    """No metadata."""
    return put(folder, metadata=None)


@CORPUS.refused()
def two_sets_of_weights(folder: Path) -> Path:
    """One file and shards: which ones count?"""
    return write_files(folder / "model", {**files(), **sharded.files()})


@CORPUS.refused()
def nothing_in_it(folder: Path) -> Path:
    """An empty directory."""
    (folder / "model").mkdir()
    return folder / "model"


@CORPUS.refused()
def weights_are_a_pickle(folder: Path) -> Path:
    """A pickle under the name of the weights."""
    return put(folder, weights=pickle_that_would_run(folder))


@CORPUS.refused()
def config_is_a_pickle(folder: Path) -> Path:
    """A pickle under the name of the configuration."""
    return put(folder, config=pickle_that_would_run(folder))


for _file in ("config.json", "metadata.json", "model.weights.h5"):

    def _pipe(folder: Path, name: str = _file) -> Path:
        path = write_files(folder / "model", {**files(), name: None})
        os.mkfifo(path / name)
        return path

    def _device(folder: Path, name: str = _file) -> Path:
        path = write_files(folder / "model", {**files(), name: None})
        (path / name).symlink_to("/dev/zero")
        return path

    def _directory(folder: Path, name: str = _file) -> Path:
        path = write_files(folder / "model", {**files(), name: None})
        (path / name).mkdir()
        return path

    def _loop(folder: Path, name: str = _file) -> Path:
        path = write_files(folder / "model", {**files(), name: None})
        (path / name).symlink_to(name)
        return path

    _label = _file.split(".")[0]
    CORPUS.add(f"{_label}-is-a-pipe", _pipe)
    CORPUS.add(f"{_label}-is-a-device", _device)
    CORPUS.add(f"{_label}-is-a-directory", _directory)
    CORPUS.add(f"{_label}-is-a-link-to-itself", _loop, Outcome.TOLERATED if _label == "metadata" else Outcome.REFUSED)


@CORPUS.tolerated()
def asset_is_a_pipe(folder: Path) -> Path:
    """A vocabulary that would never answer."""
    path = put(folder)
    (path / "assets").mkdir()
    os.mkfifo(path / "assets" / "vocabulary.txt")
    return path


@CORPUS.tolerated()
def asset_is_a_device(folder: Path) -> Path:
    """A vocabulary without an end."""
    path = put(folder)
    (path / "assets").mkdir()
    (path / "assets" / "vocabulary.txt").symlink_to("/dev/zero")
    return path


@CORPUS.tolerated()
def assets_hold_the_whole_disk(folder: Path) -> Path:
    """A link to a directory far above, and one to itself."""
    path = put(folder)
    (path / "assets").mkdir()
    (path / "assets" / "root").symlink_to("/")
    (path / "assets" / "loop").symlink_to(".")
    return path


@CORPUS.tolerated()
def asset_is_a_system_file(folder: Path) -> Path:
    """A link that would be copied into the merged model."""
    path = put(folder)
    (path / "assets").mkdir()
    (path / "assets" / "vocabulary.txt").symlink_to("/etc/passwd")
    return path


@CORPUS.tolerated()
def asset_of_a_terabyte(folder: Path) -> Path:
    """A vocabulary that is one large hole."""
    path = put(folder)
    (path / "assets").mkdir()
    with (path / "assets" / "vocabulary.txt").open("wb") as file:
        file.truncate(1 << 40)
    return path


@CORPUS.tolerated()
def asset_of_a_gigabyte(folder: Path) -> Path:
    """A vocabulary that is a hole of a gigabyte."""
    path = put(folder)
    (path / "assets").mkdir()
    with (path / "assets" / "vocabulary.txt").open("wb") as file:
        file.truncate(1 << 30)
    return path


@CORPUS.refused()
def config_of_a_terabyte(folder: Path) -> Path:
    """A configuration that is one large hole."""
    path = put(folder)
    with (path / "config.json").open("r+b") as file:
        file.truncate(1 << 40)
    return path


@CORPUS.refused()
def config_of_two_hundred_megabytes(folder: Path) -> Path:
    """A configuration that is a hole."""
    path = put(folder)
    with (path / "config.json").open("r+b") as file:
        file.truncate(200 << 20)
    return path


@CORPUS.harmless()
def files_nobody_asked_for(folder: Path) -> Path:
    """A readme, and a directory."""
    path = put(folder)
    (path / "README.md").write_text("hello")
    (path / "logs").mkdir()
    return path

"""Hugging Face directories: ``config.json`` and one or several safetensors files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile import json_text, safetensors
from hostile.corpus import Corpus, Outcome
from hostile.keras_config import MARKER, pickle_that_would_run
from hostile.valid import VALUES, safetensors_bytes, safetensors_parts, text, write_files

Json = Any
CORPUS = Corpus("huggingface", VALUES)
INDEX, ONE = "model.safetensors.index.json", "model.safetensors"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NAMES = list(VALUES)
CONFIG = text({"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 4, "torch_dtype": "float32"})


def index() -> dict[str, Json]:
    """Return the index, as JSON."""
    return {
        "metadata": {"total_size": sum(v.nbytes for v in VALUES.values())},
        "weight_map": {name: FIRST if i < 3 else SECOND for i, name in enumerate(NAMES)},
    }


def files() -> dict[str, bytes | None]:
    """Return the files of a directory with two shards."""
    return {
        "config.json": CONFIG,
        INDEX: text(index()),
        FIRST: safetensors_bytes(*safetensors_parts(NAMES[:3])),
        SECOND: safetensors_bytes(*safetensors_parts(NAMES[3:])),
    }


def put(folder: Path, changes: dict[str, bytes | None] | None = None) -> Path:
    """Write the directory with some files changed."""
    return write_files(folder / "model", {**files(), **(changes or {})})


@CORPUS.harmless()
def valid_directory(folder: Path) -> Path:
    """Nothing wrong."""
    return put(folder)


@CORPUS.harmless()
def valid_directory_of_one_file(folder: Path) -> Path:
    """Nothing wrong, without an index."""
    return write_files(folder / "model", {"config.json": CONFIG, ONE: safetensors_bytes()})


for _name, _text in json_text.BROKEN.items():
    CORPUS.add(f"index-{_name}", lambda folder, text=_text: put(folder, {INDEX: text}))
    CORPUS.add(f"config-{_name}", lambda folder, text=_text: put(folder, {"config.json": text}), Outcome.TOLERATED)
for _name, (_make, _outcome) in safetensors.faults().items():
    CORPUS.add(
        f"one-{_name}",
        lambda folder, make=_make: write_files(folder / "model", {"config.json": CONFIG, ONE: make()}),
        _outcome,
    )


def keep(name: str, edit: Callable[[dict[str, Json]], object], outcome: Outcome = Outcome.REFUSED) -> None:
    """Add a directory whose index was changed."""

    def build(folder: Path) -> Path:
        (folder / "outside").mkdir()
        (folder / "outside" / "secret.safetensors").write_bytes(safetensors_bytes())
        changed = index()
        edit(changed)
        return put(folder, {INDEX: text(changed)})

    CORPUS.add(name, build, outcome)


def remap(name: str, value: Json, outcome: Outcome = Outcome.REFUSED) -> None:
    """Add a directory whose index puts the first tensor elsewhere."""
    keep(name, lambda i: i["weight_map"].update({NAMES[0]: value}), outcome)


keep("index-without-a-map", lambda i: i.pop("weight_map"))
keep("map-is-a-list", lambda i: i.update(weight_map=[FIRST, SECOND]))
keep("map-is-text", lambda i: i.update(weight_map=FIRST))
keep("map-is-null", lambda i: i.update(weight_map=None))
keep("map-is-empty", lambda i: i.update(weight_map={}))
keep("metadata-missing", lambda i: i.pop("metadata"), Outcome.TOLERATED)
keep("metadata-is-text", lambda i: i.update(metadata="none"), Outcome.TOLERATED)
keep("size-lies", lambda i: i.update(metadata={"total_size": 10**30}), Outcome.TOLERATED)
keep("size-infinite", lambda i: i.update(metadata={"total_size": float("inf")}), Outcome.TOLERATED)
remap("shard-is-a-number", 3)
remap("shard-is-null", None)
remap("shard-is-a-list", [FIRST])
remap("shard-climbs", "../outside/secret.safetensors")
remap("shard-climbs-far", "../../../../../../etc/passwd")
remap("shard-climbs-in-windows", "..\\outside\\secret.safetensors")
remap("shard-is-absolute", "/etc/passwd")
remap("shard-is-a-device", "/dev/zero")
remap("shard-is-the-folder", ".")
remap("shard-is-nothing", "")
remap("shard-holds-a-nul", f"{FIRST}\0")
remap("shard-is-the-index", INDEX)
remap("shard-is-the-config", "config.json")
remap("shard-missing", "model-00003-of-00002.safetensors")
remap("shard-name-of-a-megabyte", "n" * 1_000_000)
remap("shard-name-half-of-a-character", "\ud800")
remap("tensor-in-another-shard", SECOND)
keep("tensor-nobody-has", lambda i: i["weight_map"].update(nobody=FIRST))
keep("tensor-not-listed", lambda i: i["weight_map"].pop(NAMES[0]))
keep("map-backwards", lambda i: i.update(weight_map=dict(list(i["weight_map"].items())[::-1])), Outcome.HARMLESS)
keep(
    "a-hundred-thousand-shards",
    lambda i: i["weight_map"].update({f"t{n}": f"model-{n}.safetensors" for n in range(100_000)}),
)


@CORPUS.refused()
def first_shard_missing(folder: Path) -> Path:
    """The index lists a file that is not there."""
    return put(folder, {FIRST: None})


@CORPUS.refused()
def last_shard_missing(folder: Path) -> Path:
    """The index lists a file that is not there."""
    return put(folder, {SECOND: None})


@CORPUS.refused()
def shard_empty(folder: Path) -> Path:
    """A shard of no bytes."""
    return put(folder, {FIRST: b""})


@CORPUS.refused()
def shard_cut_short(folder: Path) -> Path:
    """A shard without its last byte."""
    return put(folder, {FIRST: (files()[FIRST] or b"")[:-1]})


@CORPUS.refused()
def shard_is_a_pickle(folder: Path) -> Path:
    """A pickle under the name of a shard."""
    return put(folder, {FIRST: pickle_that_would_run(folder)})


@CORPUS.refused()
def shards_swapped(folder: Path) -> Path:
    """Each shard holds what the other should."""
    return put(folder, {FIRST: files()[SECOND], SECOND: files()[FIRST]})


@CORPUS.refused()
def tensor_in_both_shards(folder: Path) -> Path:
    """A shard holds a tensor that the index puts into the other."""
    return put(folder, {SECOND: safetensors_bytes(*safetensors_parts(NAMES))})


@CORPUS.refused()
def no_weights(folder: Path) -> Path:
    """A configuration alone."""
    return put(folder, {INDEX: None, FIRST: None, SECOND: None})


@CORPUS.refused()
def pickled_weights_only(folder: Path) -> Path:
    """``pytorch_model.bin``, a pickle that must not be loaded."""
    bin_ = pickle_that_would_run(folder)
    return put(folder, {INDEX: None, FIRST: None, SECOND: None, "pytorch_model.bin": bin_})


@CORPUS.harmless()
def code_beside_the_weights(folder: Path) -> Path:
    """``modeling.py`` and ``auto_map``, which nobody may import."""
    config = text({"model_type": "evil", "auto_map": {"AutoModel": "modeling.Evil"}})
    code = f"open({str(folder / MARKER)!r}, 'w')\n".encode()
    return put(folder, {"config.json": config, "modeling.py": code, "__init__.py": code, "README.md": b"hello"})


@CORPUS.tolerated()
def config_missing(folder: Path) -> Path:
    """Weights without a configuration."""
    return put(folder, {"config.json": None})


@CORPUS.refused()
def index_and_one_file(folder: Path) -> Path:
    """Both an index and a single file: which one counts?"""
    return put(folder, {ONE: safetensors_bytes()})


@CORPUS.refused()
def shard_is_a_pipe(folder: Path) -> Path:
    """A shard that would never answer."""
    path = put(folder, {FIRST: None})
    os.mkfifo(path / FIRST)
    return path


@CORPUS.refused()
def index_is_a_pipe(folder: Path) -> Path:
    """An index that would never answer."""
    path = put(folder, {INDEX: None})
    os.mkfifo(path / INDEX)
    return path


@CORPUS.refused()
def config_is_a_pipe(folder: Path) -> Path:
    """A configuration that would never answer."""
    path = put(folder, {"config.json": None})
    os.mkfifo(path / "config.json")
    return path


@CORPUS.refused()
def shard_is_a_device(folder: Path) -> Path:
    """A shard without an end."""
    path = put(folder, {FIRST: None})
    (path / FIRST).symlink_to("/dev/zero")
    return path


@CORPUS.harmless()
def shards_are_links(folder: Path) -> Path:
    """Links into a store of blobs beside it, as the cache of the hub is made."""
    path = put(folder, {FIRST: None, SECOND: None})
    (folder / "blobs").mkdir()
    for name in (FIRST, SECOND):
        (folder / "blobs" / name[:11]).write_bytes(files()[name] or b"")
        (path / name).symlink_to(Path("..") / "blobs" / name[:11])
    return path

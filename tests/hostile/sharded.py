"""``.weights.json`` and its shards."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hostile import hdf5, json_text, oddities
from hostile.corpus import Build, Corpus, Outcome
from hostile.keras_config import pickle_that_would_run
from hostile.valid import VALUES, WEIGHTS_KERNEL, fill_weights, h5_bytes, text, write_files

Json = Any
Changes = Callable[[Path], Mapping[str, bytes | None]]
CORPUS = Corpus("sharded", VALUES)
FIRST, SECOND = "model_00000.weights.h5", "model_00001.weights.h5"


def fill_first(file: h5py.File) -> None:
    """Write the tree of the first shard."""
    fill_weights(file, ["dense", "batch_normalization"], optimizer=False)


def fill_second(file: h5py.File) -> None:
    """Write the tree of the second shard."""
    fill_weights(file, ["dense_1"])


def index() -> dict[str, Json]:
    """Return the index, as JSON."""
    return {
        "metadata": {"total_size": 252.0},
        "weight_map": {
            "/layers/dense/vars": [FIRST],
            "/layers/batch_normalization/vars": [FIRST],
            "/layers/dense_1/vars": [SECOND],
            "/optimizer/vars": [SECOND],
        },
    }


def files() -> dict[str, bytes | None]:
    """Return index and shards by name."""
    return {"model.weights.json": text(index()), FIRST: h5_bytes(fill_first), SECOND: h5_bytes(fill_second)}


def faults_of_an_index() -> dict[str, tuple[Changes, Outcome]]:
    """Return, for every fault of an index, the files that differ (a preset has the same index)."""
    found: dict[str, tuple[Changes, Outcome]] = {}

    def keep(name: str, edit: Callable[[dict[str, Json]], object], outcome: Outcome = Outcome.REFUSED) -> None:
        def make(folder: Path) -> Mapping[str, bytes | None]:
            changed = index()
            edit(changed)
            return {"model.weights.json": text(changed)}

        found[name] = (make, outcome)

    def remap(name: str, value: Json, outcome: Outcome = Outcome.REFUSED) -> None:
        keep(name, lambda i: i["weight_map"].update({"/layers/dense/vars": value}), outcome)

    for name, raw in json_text.BROKEN.items():
        found[f"index-{name}"] = (lambda _, raw=raw: {"model.weights.json": raw}, Outcome.REFUSED)
    keep("index-without-a-map", lambda i: i.pop("weight_map"))
    keep("map-is-a-list", lambda i: i.update(weight_map=[FIRST, SECOND]))
    keep("map-is-text", lambda i: i.update(weight_map=FIRST))
    keep("map-is-empty", lambda i: i.update(weight_map={}))
    keep("metadata-is-text", lambda i: i.update(metadata="none"), Outcome.TOLERATED)
    keep("metadata-is-absurd", lambda i: i.update(metadata={"total_size": float("inf")}), Outcome.TOLERATED)
    keep("size-lies", lambda i: i.update(metadata={"total_size": 10**30}), Outcome.TOLERATED)
    remap("shard-is-a-number", 3)
    remap("shard-is-null", None)
    remap("shards-are-numbers", [1, 2])
    remap("shards-are-none", [])
    remap("shards-are-nested", [[FIRST]])
    remap("shard-climbs", "../outside/secret.h5")
    remap("shard-climbs-in-windows", "..\\outside\\secret.h5")
    remap("shard-in-a-folder", f"./{FIRST}")
    remap("shard-is-absolute", "/etc/passwd")
    remap("shard-is-a-device", "/dev/zero")
    remap("shard-is-the-folder", ".")
    remap("shard-is-nothing", "")
    remap("shard-holds-a-nul", f"{FIRST}\0")
    remap("shard-is-the-index", "model.weights.json")
    remap("shard-missing", "model_00007.weights.h5")
    remap("shard-name-of-a-megabyte", "n" * 1_000_000)
    remap("shard-name-is-half-of-a-character", "\ud800")
    remap("shard-listed-twice", [FIRST, FIRST], Outcome.TOLERATED)
    remap("shard-as-text", FIRST, Outcome.HARMLESS)
    remap("tensors-in-another-shard", SECOND)
    remap("tensors-in-one-shard-of-two", [FIRST, SECOND])
    keep("group-nobody-has", lambda i: i["weight_map"].update({"/layers/nobody/vars": [FIRST]}))
    keep("group-that-climbs", lambda i: i["weight_map"].update({"/layers/../layers/dense/vars": [FIRST]}))
    keep("group-not-listed", lambda i: i["weight_map"].pop("/layers/dense_1/vars"))
    keep(
        "a-hundred-thousand-shards",
        lambda i: i["weight_map"].update({f"/layers/d{n}/vars": [f"s{n}.weights.h5"] for n in range(100_000)}),
    )
    found["first-shard-missing"] = (lambda _: {FIRST: None}, Outcome.REFUSED)
    found["last-shard-missing"] = (lambda _: {SECOND: None}, Outcome.REFUSED)
    found["shard-empty"] = (lambda _: {FIRST: b""}, Outcome.REFUSED)
    found["shard-is-json"] = (lambda _: {FIRST: text(index())}, Outcome.REFUSED)
    found["shard-is-a-pickle"] = (lambda folder: {FIRST: pickle_that_would_run(folder)}, Outcome.REFUSED)
    found["shards-swapped"] = (lambda _: {FIRST: files()[SECOND], SECOND: files()[FIRST]}, Outcome.REFUSED)
    found["shards-equal"] = (lambda _: {SECOND: files()[FIRST]}, Outcome.REFUSED)
    found["tensor-in-both-shards"] = (lambda _: _twice(), Outcome.REFUSED)
    found["group-over-two-shards"] = (lambda _: _split(), Outcome.HARMLESS)
    found["shard-nobody-lists"] = (lambda _: {"model_00002.weights.h5": b"garbage"}, Outcome.HARMLESS)
    found["files-nobody-lists"] = (lambda _: {"notes.txt": b"hello"}, Outcome.HARMLESS)
    return found


def _twice() -> dict[str, bytes | None]:
    changed = index()
    changed["weight_map"]["/layers/dense/vars"] = [FIRST, SECOND]

    def fill(file: h5py.File) -> None:
        fill_second(file)
        file["layers/dense/vars/0"] = np.zeros((8, 4), "f4")

    return {"model.weights.json": text(changed), SECOND: h5_bytes(fill)}


def _split() -> dict[str, bytes | None]:
    changed = index()
    changed["weight_map"]["/layers/dense/vars"] = [FIRST, SECOND]

    def first(file: h5py.File) -> None:
        fill_first(file)
        del file["layers/dense/vars/1"]

    def second(file: h5py.File) -> None:
        fill_second(file)
        file["layers/dense/vars/1"] = VALUES["dense/bias"]

    return {"model.weights.json": text(changed), FIRST: h5_bytes(first), SECOND: h5_bytes(second)}


def with_first(folder: Path, shard: bytes) -> Path:
    """Write index and shards with another first shard."""
    return write_files(folder, {**files(), FIRST: shard}) / "model.weights.json"


@CORPUS.harmless()
def valid_file(folder: Path) -> Path:
    """Nothing wrong."""
    return write_files(folder, files()) / "model.weights.json"


hdf5.add_faults(CORPUS, with_first, fill_first, WEIGHTS_KERNEL)
for _name, (_make, _outcome) in faults_of_an_index().items():

    def _changed(folder: Path, make: Changes = _make) -> Path:
        hdf5.bait(folder)
        return write_files(folder, {**files(), **make(folder)}) / "model.weights.json"

    CORPUS.add(_name, _changed, _outcome)


def _index_alone() -> Corpus:
    alone = Corpus("sharded", VALUES)
    oddities.add(alone, "model.weights.json", files()["model.weights.json"] or b"")
    return alone


for _case in _index_alone().cases.values():

    def _beside(folder: Path, build: Build = _case.build) -> Path:
        write_files(folder, {**files(), "model.weights.json": None})
        return build(folder)

    outcome = (
        Outcome.TOLERATED if _case.outcome is Outcome.HARMLESS else _case.outcome
    )  # a link leaves its shards behind
    CORPUS.add(_case.name, _beside, outcome)


@CORPUS.refused()
def shard_is_a_pipe(folder: Path) -> Path:
    """A shard that would never answer."""
    write_files(folder, {**files(), FIRST: None})
    os.mkfifo(folder / FIRST)
    return folder / "model.weights.json"


@CORPUS.refused()
def shard_is_a_link_to_a_device(folder: Path) -> Path:
    """A shard without an end."""
    write_files(folder, {**files(), FIRST: None})
    (folder / FIRST).symlink_to("/dev/zero")
    return folder / "model.weights.json"


@CORPUS.refused()
def shard_is_a_link_to_itself(folder: Path) -> Path:
    """A shard that is nowhere."""
    write_files(folder, {**files(), FIRST: None})
    (folder / FIRST).symlink_to(FIRST)
    return folder / "model.weights.json"


@CORPUS.refused()
def shard_is_a_directory(folder: Path) -> Path:
    """A directory under the name of a shard."""
    write_files(folder, {**files(), FIRST: None})
    (folder / FIRST).mkdir()
    return folder / "model.weights.json"

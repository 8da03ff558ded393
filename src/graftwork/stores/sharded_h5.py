"""Sharded Keras weights: an index and its shards.

::

    X.weights.json           {"metadata": {"total_size": …}, "weight_map": {"/layers/dense/vars": "X_00000.weights.h5" or a list}}
    X_0000N.weights.h5       each an HDF5 file with part of the tree; one group's variables may lie in several

Keras opens the first shard whatever the index says, so shards keep the names that Keras gives them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.stores.base import Format, Raw, Reader, register
from graftwork.stores.files import open_fd, read_json, read_small
from graftwork.stores.hdf5 import H5Source, Tree
from graftwork.stores.keras_weights import (
    PROVENANCE,
    H5Part,
    KerasReader,
    KerasWeights,
    check_places,
    keras_tree,
    open_part,
    weights_header,
)
from graftwork.stores.sharding import in_shards
from graftwork.tensor import TensorSpec

SUFFIX = ".weights.json"


class Shards:
    """The shards of one index, open.

    Args:
        index: Path of the ``.weights.json``.

    Raises:
        StoreError: If the index is not one, names files elsewhere, or disagrees with what the shards hold.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        content = read_json(read_small(index), index.name)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict):
            raise StoreError(f"{index.name} has no `weight_map` object, so it is not an index of Keras weights")
        metadata = content.get("metadata")
        self.record = metadata.get(PROVENANCE) if isinstance(metadata, dict) else None
        self.promised: dict[str, tuple[str, ...]] = {}
        for group, files in weight_map.items():
            listed = [files] if isinstance(files, str) else files
            if not isinstance(listed, list) or not listed or not all(isinstance(f, str) for f in listed):
                raise StoreError(f"{index.name} maps {group!r} to {str(files)[:60]}, expected names of shards")
            for name in listed:
                if "/" in name or "\\" in name or name in ("", ".", "..") or "\0" in name or len(name) > 255:
                    raise StoreError(f"{index.name} refers to the shard {name[:80]!r}, which is not a file beside it")
            self.promised[group.strip("/")] = tuple(listed)
        names = list(dict.fromkeys(name for files in self.promised.values() for name in files))
        self.files = [index.with_name(name) for name in names]
        self.fds: list[int] = []
        self.sources: list[H5Source] = []
        try:
            for file in self.files:
                if not file.exists():
                    raise StoreError(f"{index.name} refers to the shard {file.name!r}, which is not there")
                self.fds.append(open_fd(file))
                self.sources.append(H5Source(file, self.fds[-1]))
            self._agree()
        except BaseException:
            self.close()
            raise

    def _agree(self) -> None:
        held: dict[str, set[str]] = {}
        for source in self.sources:
            for path in source.datasets:
                held.setdefault(path.rpartition("/")[0], set()).add(source.path.name)
        for group, files in self.promised.items():
            missing = set(files) - held.get(group, set())
            if missing:
                raise StoreError(f"{self.index.name} says that {sorted(missing)[0]!r} holds {group!r}, but it does not")
        for group, files_found in held.items():
            surplus = files_found - set(self.promised.get(group, ()))
            if surplus:
                raise StoreError(f"{sorted(surplus)[0]!r} holds {group!r}, which {self.index.name} does not mention")

    def close(self) -> None:
        """Close every shard."""
        for source in self.sources:
            source.close()
        while self.fds:
            os.close(self.fds.pop())


class ShardedReader(KerasReader):
    """Sharded Keras weights, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shards = Shards(path)
        try:
            self.weights = KerasWeights(path, self._shards.sources, None)
            self.header = weights_header(
                "sharded_h5", self.weights, [path, *self._shards.files], provenance=self._shards.record
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        self._shards.close()


class ShardedParts:
    """Index and shards being made in one directory.

    Args:
        index: Path of the index.
        specs: The tensors.
        like: Lends paths and attributes, see `keras_tree`.
        record: Graftwork's record, kept in the index.
        shard_bytes: Greatest size of the values in one shard; a larger tensor gets a shard of its own.
        stem: What shards are called before their number.
    """

    def __init__(
        self,
        index: Path,
        specs: Sequence[TensorSpec],
        like: Reader,
        record: str,
        shard_bytes: int | None = None,
        stem: str | None = None,
    ) -> None:
        shards = in_shards(specs, shard_bytes)
        self.index, self._record = index, record
        stem = stem if stem is not None else index.name.removesuffix(SUFFIX)
        tree, paths = keras_tree(specs, like)
        self._specs = {spec.name: spec for spec in specs}
        self._place: dict[str, tuple[int, str]] = {}
        self.parts: list[H5Part] = []
        self._map: dict[str, list[str]] = {}
        try:
            for number, members in enumerate(shards):
                name = f"{stem}_{number:05}.weights.h5"
                datasets = {paths[s.name]: (s.shape, s.dtype) for s in members}
                holders = {path.rpartition("/")[0] for path in datasets}
                groups = {g: a for g, a in tree.groups.items() if number == 0 or g in holders}
                self.parts.append(open_part(index.with_name(name), Tree(groups=groups, datasets=datasets), ""))
                for spec in members:
                    self._place[spec.name] = (number, paths[spec.name])
                    listed = self._map.setdefault("/" + paths[spec.name].rpartition("/")[0], [])
                    if name not in listed:
                        listed.append(name)
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> dict[str, str]:
        """Where each tensor is in the files."""
        return {name: path for name, (_, path) in self._place.items()}

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        number, path = self._place[name]
        return self.parts[number].write(path, start, block, self._specs[name].dtype)

    def finish(self) -> None:
        """Sync the shards, then write the index."""
        for part in self.parts:
            os.fsync(part.fd)
        metadata: dict[str, Any] = {"total_size": sum(spec.size_bytes for spec in self._specs.values())}
        if self._record:
            metadata[PROVENANCE] = json.loads(self._record)
        weight_map = {group: files[0] if len(files) == 1 else files for group, files in self._map.items()}
        with self.index.open("w", encoding="utf-8") as file:
            json.dump({"metadata": metadata, "weight_map": weight_map}, file, indent=4)
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close every shard."""
        for part in self.parts:
            part.close()


class ShardedWriter:
    """Sharded Keras weights being made: a folder that holds index and shards, which the caller moves into place.

    Args beyond those of every writer:
        shard_bytes: Greatest size of the values in one shard.
        target: The final path, which gives shards their names.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        like: Reader,
        provenance: str,
        target: Path,
        shard_bytes: int | None = None,
    ) -> None:
        path.mkdir()
        self._parts = ShardedParts(path / target.name, specs, like, provenance, shard_bytes)
        self.keys = self._parts.keys
        self.write = self._parts.write
        self.finish = self._parts.finish
        self.close = self._parts.close


def recognise(path: Path) -> bool:
    """Return whether a path is called as an index of sharded Keras weights."""
    return path.name.endswith(SUFFIX) and not path.is_dir()


register(
    Format(
        name="sharded_h5",
        summary="Sharded Keras weights (.weights.json and its shards): no architecture",
        suffixes=(SUFFIX,),
        recognise=recognise,
        open=ShardedReader,
        create=ShardedWriter,
        check=check_places,
        files_beside=True,
    )
)

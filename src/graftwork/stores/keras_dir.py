"""Keras directories: the unzipped ``.keras`` file, and the KerasHub preset.

::

    config.json, metadata.json        as in a .keras file; a preset's configuration is its backbone's
    model.weights.h5                  or model.weights.json and its shards
    assets/…                          vocabularies
    task.json, task.weights.h5, tokenizer.json, preprocessor.json …    a preset's further parts
    graftwork.json                    our record

A preset's ``task.weights.h5`` (the head) counts as part of the model: its tensors have names that begin with ``task/``.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftwork.architecture.layer import Layer
from graftwork.architecture.wiring import checked
from graftwork.errors import StoreError
from graftwork.stores.base import Format, Raw, Reader, register
from graftwork.stores.files import brief, digest_of, open_fd, read_json, read_small
from graftwork.stores.hdf5 import H5Source, Tree
from graftwork.stores.keras_weights import H5Part, KerasReader, KerasWeights, keras_tree, open_part, weights_header
from graftwork.stores.keras_zip import (
    CONFIG,
    METADATA,
    RECORD,
    WEIGHTS,
    carried_members,
    check_architecture,
    without_compile,
)
from graftwork.stores.sharded_h5 import ShardedParts, Shards
from graftwork.tensor import TensorSpec

INDEX, TASK = "model.weights.json", "task.weights.h5"
TASK_PREFIX = "task/"


class KerasDirReader(KerasReader):
    """An unzipped Keras model or a KerasHub preset, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fds: list[int] = []
        self._shards: Shards | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        path = self.path
        if not (path / CONFIG).exists():
            raise StoreError(f"{path} has no {CONFIG}, so it is not a Keras model directory")
        config = read_json(read_small(path / CONFIG), f"{CONFIG} of {path.name}")
        metadata = (
            read_json(read_small(path / METADATA), f"{METADATA} of {path.name}") if (path / METADATA).exists() else {}
        )
        metadata = metadata if isinstance(metadata, dict) else {}
        self.metadata: Mapping[str, Any] = metadata
        self.is_preset = is_preset(path)
        architecture: Layer = checked(config, f"{CONFIG} of {path.name}")
        sources, prefixes, files = self._sources()
        record = read_json(read_small(path / RECORD), f"{RECORD} of {path.name}") if (path / RECORD).exists() else None
        version = str(metadata.get("keras_version", ""))[:40]
        keras2 = version.startswith("2.")
        self.weights = KerasWeights(path, sources, architecture, keras2=keras2, prefixes=prefixes)
        self.other_files = [f for f in _files(path) if f not in files]
        header = weights_header(
            "preset" if self.is_preset else "keras_dir",
            self.weights,
            [*files, *self.other_files],
            config=config,
            architecture=architecture,
            keras2=keras2,
            library=f"Keras {version}" if version else "",
            assets={
                str(f.relative_to(path)): digest_of(f)
                for f in self.other_files
                if f.relative_to(path).parts[0] == "assets" or (self.is_preset and f.name == "tokenizer.json")
            },
            provenance=record,
        )
        self.header = (
            replace(header, library=f"KerasHub {metadata['keras_hub_version']}")
            if (self.is_preset and isinstance(metadata.get("keras_hub_version"), str))
            else header
        )

    def _sources(self) -> tuple[list[H5Source], list[str], list[Path]]:
        path = self.path
        if (path / WEIGHTS).exists() and (path / INDEX).exists():
            raise StoreError(f"{path} has both {WEIGHTS} and {INDEX}; keep the one that is meant")
        files: list[Path] = []
        if (path / INDEX).exists():
            self._shards = Shards(path / INDEX)
            sources = list(self._shards.sources)
            files += [path / INDEX, *self._shards.files]
        elif (path / WEIGHTS).exists():
            sources = [self._one(path / WEIGHTS)]
            files.append(path / WEIGHTS)
        else:
            raise StoreError(f"{path} has neither {WEIGHTS} nor {INDEX}, so it holds no weights")
        prefixes = [""] * len(sources)
        if self.is_preset and (path / TASK).exists():
            sources.append(self._one(path / TASK))
            prefixes.append(TASK_PREFIX)
            files.append(path / TASK)
        return sources, prefixes, files

    def _one(self, file: Path) -> H5Source:
        self._fds.append(open_fd(file))
        return H5Source(file, self._fds[-1])

    def asset(self, name: str) -> bytes:
        """Return the contents of a file that belongs to the model's function."""
        return read_small(self.path / name, 1 << 32)

    def close(self) -> None:
        """Close the files."""
        super().close()
        if self._shards is not None:
            self._shards.close()
        while self._fds:
            os.close(self._fds.pop())


class KerasDirWriter:
    """A Keras directory being made; what a directory `like` has beside weights is copied.

    Args beyond those of every writer:
        shard_bytes: Write an index and shards of at most this size instead of one file; by default as `like` has it.
        drop_compile: Leave out how the model was compiled.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        like: Reader,
        provenance: str,
        shard_bytes: int | None = None,
        drop_compile: bool = False,
    ) -> None:
        self._dtypes = {spec.name: spec.dtype for spec in specs}
        path.mkdir()
        self._carry(path, like, provenance, drop_compile)
        head = [s for s in specs if s.name.startswith(TASK_PREFIX) and like.header.format == "preset"]
        body = [s for s in specs if s not in head] if head else list(specs)
        sharded = shard_bytes is not None or (isinstance(like, KerasDirReader) and (like.path / INDEX).exists())
        self._shards: ShardedParts | None = None
        self._files: list[Any] = []
        self._where: dict[str, tuple[H5Part, str]] = {}
        tree, paths = keras_tree(specs, like)
        if sharded:
            self._shards = ShardedParts(path / INDEX, body, like, "", shard_bytes, stem="model")
        else:
            self._part(path / WEIGHTS, body, tree, paths, "")
        if head:
            self._part(path / TASK, head, tree, paths, TASK_PREFIX)

    def _part(self, path: Path, specs: Sequence[TensorSpec], tree: Tree, paths: Mapping[str, str], prefix: str) -> None:
        other = TASK_PREFIX if not prefix else "\0"
        groups = {
            g.removeprefix(prefix): a
            for g, a in tree.groups.items()
            if g.startswith(prefix) and not g.startswith(other)
        }
        datasets = {paths[s.name].removeprefix(prefix): (s.shape, s.dtype) for s in specs}
        part = open_part(path, Tree(groups=groups, datasets=datasets), "")
        self._files.append(part)
        self._where.update({s.name: (part, paths[s.name].removeprefix(prefix)) for s in specs})

    def _carry(self, path: Path, like: Reader, provenance: str, drop_compile: bool) -> None:
        if isinstance(like, KerasDirReader):
            for file in like.other_files:
                target = path / file.relative_to(like.path)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
            if drop_compile:
                (path / CONFIG).write_bytes(without_compile(like.header.config))
            if provenance:
                (path / RECORD).write_text(provenance, encoding="utf-8")
            return
        for name, data in carried_members(like, provenance, drop_compile=drop_compile).items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        if name in self._where:
            part, path = self._where[name]
            return part.write(path, start, block, self._dtypes[name])
        assert self._shards is not None  # what is in no part is in a shard
        return self._shards.write(name, start, block)

    def finish(self) -> None:
        """Sync every file."""
        for part in self._files:
            os.fsync(part.fd)
        if self._shards is not None:
            self._shards.finish()

    def close(self) -> None:
        """Close every file."""
        for part in self._files:
            part.close()
        if self._shards is not None:
            self._shards.close()


def _files(path: Path) -> list[Path]:
    """Return every file of a directory in a fixed order, without following links to elsewhere."""
    found: list[Path] = []
    root = path.resolve()
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = Path(folder) / name
            try:
                outside = file.is_symlink() and not file.resolve().is_relative_to(root)
            except (OSError, RuntimeError) as error:
                raise StoreError(f"{file} is a link that leads nowhere: {brief(error)}") from error
            if outside:
                raise StoreError(f"{file} links to a file outside of {path.name}; copy it into the directory")
            if file.is_file():
                found.append(file)
    return found


def is_preset(path: Path) -> bool:
    """Return whether a directory is a KerasHub preset: its metadata says so, or it has a preset's further parts."""
    try:
        text = read_small(path / METADATA, 1 << 20) if (path / METADATA).exists() else b""
    except StoreError:
        return False
    return (
        b"keras_hub_version" in text
        or b"keras_nlp_version" in text
        or any((path / name).exists() for name in ("task.json", "tokenizer.json", "preprocessor.json"))
    )


def _recognise_dir(path: Path) -> bool:
    return path.is_dir() and ((path / WEIGHTS).exists() or (path / INDEX).exists() or (path / METADATA).exists())


register(
    Format(
        name="preset",
        summary="KerasHub preset directory",
        suffixes=(),
        recognise=lambda path: _recognise_dir(path) and is_preset(path),
        open=KerasDirReader,
        create=KerasDirWriter,
        check=check_architecture,
        directory=True,
        holds_architecture=True,
    )
)
register(
    Format(
        name="keras_dir",
        summary="Unzipped Keras model directory",
        suffixes=(),
        recognise=lambda path: _recognise_dir(path) and not is_preset(path),
        open=KerasDirReader,
        create=KerasDirWriter,
        check=check_architecture,
        directory=True,
        holds_architecture=True,
    )
)

"""A Hugging Face model directory: safetensors files and small files around them.

::

    config.json                         the architecture, for transformers
    model.safetensors                   or model-00001-of-00003.safetensors … and model.safetensors.index.json:
                                        {"metadata": {"total_size": …}, "weight_map": {"TENSOR": "model-00001-of-00003.safetensors"}}
    tokenizer.json, merges.txt …        the tokenizer and other small files, carried over as they are
    README.md                           the model card; merges get one of their own, see `graftwork.stores.model_card`
    graftwork.json                      our record, in directories that graftwork made

Weights in any other format (PyTorch's pickles, ``tf_model.h5``, …) are neither read nor carried over: beside a merged model they
would be those of another. Unpickling runs whatever code the file holds, so a directory with pickles alone is refused.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from graftwork.errors import OutputError, StoreError
from graftwork.stores.base import Format, Header, Raw, Reader, SpecTable, register
from graftwork.stores.files import digest_of, read_json, read_small
from graftwork.stores.model_card import CARD, card_of, render
from graftwork.stores.safetensors import (
    SafetensorsReader,
    SafetensorsWriter,
    metadata_of,
    roles_of,
    unit_axis_of,
    with_role,
)
from graftwork.stores.sharding import in_shards
from graftwork.tensor import FLOATS, Role, TensorSpec

CONFIG, SINGLE, INDEX, RECORD = "config.json", "model.safetensors", "model.safetensors.index.json", "graftwork.json"

OTHER_WEIGHTS = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "*model*.bin", "*.bin.index.json"),
    *(
        "*.pt",
        "*.pth",
        "*.pkl",
        "*.pickle",
        "*.ckpt",
        "*.ckpt.*",
        "training_args.bin",
        "optimizer.bin",
        "scheduler.bin",
    ),
    *("*.h5", "*.h5.index.json", "*.keras", "*.msgpack", "*.msgpack.index.json", "*.npz", "*.ot"),
    *("*.onnx", "*.onnx_data", "*.gguf", "*.ggml", "*.tflite", "*.mlmodel", "*.nemo"),
)
"""Names of files that hold weights, or an index of them, or a training's state."""

MODEL_CARDS = ("readme.md", "model_card.md", "modelcard.md", "modelcard.json")
"""What is said of the sources does not hold for the result."""

VOCABULARIES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
)
"""The files that give tokens their numbers."""

TOKENIZER_FILES = (
    *VOCABULARIES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
"""The files that belong to the tokenizer."""


class HuggingFaceReader:
    """A Hugging Face directory, open for reading.

    Args:
        path: The directory.

    Attributes:
        metadata: The free texts that all its safetensors files have in common.
        carried: What a model made like this one gets too, by its path in the directory: configuration, tokenizer, …

    Raises:
        StoreError: If it holds no safetensors, or index and shards disagree, or something links to elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = SpecTable(path)
        self._shards: list[SafetensorsReader] = []
        self._holder: dict[str, SafetensorsReader] = {}
        try:
            self._open()
        except OSError as error:
            self.close()
            raise StoreError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        path = self.path
        promised = self._promised()
        names = [SINGLE] if promised is None else sorted(set(promised.values()))
        for name in names:
            if len(name) > 255 or not os.path.lexists(path / name):
                raise StoreError(f"{INDEX} of {path.name} refers to the shard {name[:80]!r}, which is not there")
            file = inside(path / name, path)
            try:
                self._shards.append(SafetensorsReader(file))
            except StoreError as error:
                raise StoreError(f"{path.name} cannot be read: {error}") from error
        if promised is not None:
            self._agree(promised)
        config = self._json(CONFIG)
        if config is not None and not isinstance(config, dict):
            raise StoreError(f"{CONFIG} of {path.name} is not a JSON object")
        said = config or {}
        self._name(quantized=isinstance(said.get("quantization_config"), dict))
        self.metadata: Mapping[str, str] = _common([shard.metadata for shard in self._shards])
        others, left = _files(path)
        self.carried: Mapping[str, Path] = {str(file.relative_to(path)): file for file in others}
        read = [path / name for name in ([] if promised is None else [INDEX]) + names]
        files = [*read, *others]
        version = said.get("transformers_version")
        self.header = Header(
            format="huggingface",
            config=config,
            config_kind="" if config is None else "huggingface",
            library=f"transformers {version}"[:40] if isinstance(version, str) else "",
            files=tuple(files),
            size_bytes=sum(file.stat().st_size for file in files),
            assets={file.name: digest_of(file) for file in others if file.parent == path and file.name in VOCABULARIES},
            provenance=self._json(RECORD),
            notes=_notes(path, [file for file in left if file not in read]),
            cards=(card_of(path, config),),
            unit_axis=unit_axis_of(self._table.specs, self.metadata),
        )

    def _json(self, name: str) -> Any:
        """Return what a small file in the directory says, None if there is no such file."""
        file = self.path / name
        if not os.path.lexists(file):
            return None
        return read_json(read_small(inside(file, self.path)), f"{name} of {self.path.name}")

    def _promised(self) -> dict[str, str] | None:
        """Return which shard holds which tensor by the index, or None where one file holds them all."""
        path = self.path
        single, index = (os.path.lexists(path / name) for name in (SINGLE, INDEX))
        if single and index:
            raise StoreError(f"{path} has both {SINGLE} and {INDEX}; keep the one that is meant")
        if not single and not index:
            raise StoreError(_why_no_weights(path))
        if single:
            return None
        content = self._json(INDEX)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise StoreError(f"{INDEX} of {path.name} has no `weight_map` with tensors, so it is no index of shards")
        for tensor, name in weight_map.items():
            if not isinstance(name, str):
                raise StoreError(f"{INDEX} of {path.name} maps {tensor!r} to {str(name)[:60]}, expected a shard's name")
            if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
                raise StoreError(
                    f"{INDEX} of {path.name} maps {tensor!r} to {name[:60]!r}, which is not the name of a file beside it"
                )
        return weight_map

    def _agree(self, promised: Mapping[str, str]) -> None:
        """Compare what the index says with what the shards hold."""
        holder: dict[str, str] = {}
        for shard in self._shards:
            for tensor in shard.specs():
                if tensor in holder:
                    raise StoreError(
                        f"tensor {tensor!r} is in two shards of {self.path.name}, {holder[tensor]} and "
                        f"{shard.path.name}"
                    )
                holder[tensor] = shard.path.name
        for tensor, name in promised.items():
            if holder.get(tensor) != name:
                found = f"{holder[tensor]} does" if tensor in holder else "no shard does"
                raise StoreError(f"{INDEX} of {self.path.name} says that {name} holds tensor {tensor!r}, but {found}")
        for tensor, name in holder.items():
            if tensor not in promised:
                raise StoreError(f"{name} holds tensor {tensor!r}, which {INDEX} of {self.path.name} does not mention")

    def _name(self, *, quantized: bool) -> None:
        specs = [(shard, spec) for shard in self._shards for spec in shard.specs().values()]
        recorded = {name: role for shard in self._shards for name, role in shard.recorded_roles.items()}
        roles = roles_of({spec.name: spec.dtype for _, spec in specs}, recorded, quantized=quantized)
        for shard, spec in specs:
            self._table.add(with_role(spec, roles[spec.name]), spec.name)
            self._holder[spec.name] = shard

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by name, shard by shard in the order of their names."""
        return self._table.specs

    def key(self, name: str) -> str:
        """Return a tensor's name in its shard, which is its canonical name."""
        return self._table.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self._table[name]
        self._holder[name].read_into(name, start, out)

    def asset(self, name: str) -> bytes:
        """Return the contents of a file that belongs to the model's function."""
        return read_small(inside(self.path / name, self.path))

    def close(self) -> None:
        """Close every shard; closing twice does nothing."""
        for shard in self._shards:
            shard.close()

    def __enter__(self) -> "HuggingFaceReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_of_tokenizer(name: str) -> bool:
    """Return whether a file of a model's directory belongs to its tokenizer."""
    return any(fnmatchcase(name, pattern) for pattern in TOKENIZER_FILES)


def inside(file: Path, root: Path) -> Path:
    """Return `file` if what it links to, if anything, belongs to the directory `root`.

    A folder called ``blobs`` beside `root` or one floor above counts as part of it: in the cache of huggingface_hub,
    ``snapshots/REVISION`` holds links into ``blobs``.

    Raises:
        StoreError: If it links to elsewhere.
    """
    if file.is_symlink():
        try:
            home, end = root.resolve(), file.resolve()
        except (OSError, RuntimeError) as error:
            raise StoreError(f"{file} is a link that leads nowhere") from error
        if not end.is_relative_to(home) and end.parent not in (home.parent / "blobs", home.parent.parent / "blobs"):
            raise StoreError(f"{file} links to a file outside of {root.name}; copy it into the directory")
    return file


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """Return what a model made like this one gets too, and what it does not, down to one level of folders.

    Hidden files and folders are of tools (git, the cache of huggingface_hub), not of the model.
    """
    kept: list[Path] = []
    left: list[Path] = []
    entries = _shown(path)
    for folder in [entry for entry in entries if entry.is_dir()]:
        if folder.is_symlink():
            left.append(folder)
        else:
            entries += _shown(folder)
    for file in entries:
        if file.is_dir():
            if file.parent != path:
                left.append(file)
        elif not file.is_file() or any(fnmatchcase(file.name, pattern) for pattern in OTHER_WEIGHTS):
            left.append(file)
        elif file.name != RECORD and file.name.lower() not in MODEL_CARDS:
            kept.append(inside(file, path))
    return kept, left


def _shown(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _notes(path: Path, left: Sequence[Path]) -> tuple[str, ...]:
    if not left:
        return ()
    names = ", ".join(str(file.relative_to(path)) for file in left[:8])
    more = f" and {len(left) - 8} more" if len(left) > 8 else ""
    return (f"not read, and not carried over to a result: {names}{more}",)


def _why_no_weights(path: Path) -> str:
    pickles = sorted(file.name for file in path.glob("pytorch_model*.bin"))
    if pickles:
        return (
            f"{path} has its weights in {pickles[0]} only, a pickle, which can run any code when it is opened; graftwork never "
            "does. Save the model as safetensors with transformers: save_pretrained(DIRECTORY, safe_serialization=True)"
        )
    if (path / "adapter_model.safetensors").exists():
        return f"{path} holds an adapter, not a model; write BASE+{path}, with the model that it was trained on"
    return f"{path} has neither {SINGLE} nor {INDEX}, so it holds no weights that graftwork reads"


def _common(texts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    first, *others = texts or [{}]
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


# Writing -----------------------------------------------------------------------------------------------------------


class HuggingFaceWriter:
    """A Hugging Face directory being made; what a directory `like` has beside weights is copied.

    ``dtype`` or ``torch_dtype`` in ``config.json`` follow the dtype of most weights.

    Args beyond those of every writer:
        shard_bytes: Greatest size of the values in one shard, 5 GB if not said. A larger tensor gets a shard of its own; one
            file is written when all fits.
    """

    def __init__(
        self,
        path: Path,
        specs: Sequence[TensorSpec],
        *,
        like: Reader,
        provenance: str,
        shard_bytes: int | None = None,
    ) -> None:
        self.path = path
        self._shards: dict[str, SafetensorsWriter] = {}
        self._specs = specs
        parts = in_shards(specs, shard_bytes)
        numbers = range(1, len(parts) + 1)
        names = [SINGLE] if len(parts) == 1 else [f"model-{n:05}-of-{len(parts):05}.safetensors" for n in numbers]
        self._where = {spec.name: name for name, part in zip(names, parts, strict=True) for spec in part}
        try:
            path.mkdir()
            self._small = _carry(path, specs, like, provenance)
            for name, part in zip(names, parts, strict=True):
                self._shards[name] = SafetensorsWriter(
                    path / name, part, like=like, provenance="", metadata=metadata_of(like)
                )
        except OSError as error:
            self.close()
            raise OutputError(f"{error.filename or path} cannot be made: {error.strerror or error}") from error
        except BaseException:
            self.close()
            raise

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        return self._shards[self._where[name]].write(name, start, block)

    def finish(self) -> None:
        """Sync the shards, then write the index."""
        for shard in self._shards.values():
            shard.finish()
        if len(self._shards) > 1:
            total = sum(spec.size_bytes for spec in self._specs)
            index = {"metadata": {"total_size": total}, "weight_map": self._where}
            text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
            (self.path / INDEX).write_text(text, encoding="utf-8")
            self._small.append(self.path / INDEX)
        for path in dict.fromkeys([*self._small, *(file.parent for file in self._small), self.path]):
            _sync(path)

    def close(self) -> None:
        """Close every shard."""
        for shard in self._shards.values():
            shard.close()


def _carry(path: Path, specs: Sequence[TensorSpec], like: Reader, provenance: str) -> list[Path]:
    """Write everything but weights and return those files."""
    made: list[Path] = []
    carried: Mapping[str, Path] = getattr(like, "carried", {})
    for name, file in carried.items():
        target = path / name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        made.append(target)
    if CONFIG in carried:
        config = with_dtype(like.header.config, written_dtype(specs))
        if config != read_json(read_small(carried[CONFIG]), CONFIG):
            (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if provenance:
        (path / RECORD).write_text(provenance, encoding="utf-8")
        made.append(path / RECORD)
        record = json.loads(provenance)
        if "sources" in record and "convert" not in record:
            (path / CARD).write_text(render(record), encoding="utf-8")
            made.append(path / CARD)
    return made


def written_dtype(specs: Sequence[TensorSpec]) -> str | None:
    """Return the dtype that most bytes of the weights have."""
    taken = dict.fromkeys(FLOATS, 0)
    for spec in specs:
        if spec.role is Role.WEIGHT and spec.dtype in taken:
            taken[spec.dtype] += spec.size_bytes
    return max(taken, key=lambda dtype: taken[dtype]) if any(taken.values()) else None


def with_dtype(config: Any, dtype: str | None) -> Any:
    """Return a ``config.json`` that says `dtype` where it said what the whole model's dtype was, parts included."""
    if not isinstance(config, dict) or dtype is None:
        return config
    said = next((config[key] for key in ("dtype", "torch_dtype") if isinstance(config.get(key), str)), None)
    if said is None or said.removeprefix("torch.") not in FLOATS:
        return config

    def follow(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            key: dtype if key in ("dtype", "torch_dtype") and inner == said else follow(inner)
            for key, inner in value.items()
        }

    return config if said == dtype else follow(config)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def recognise(path: Path) -> bool:
    """Return whether a directory holds a Hugging Face model, be it one that is refused."""
    if not path.is_dir():
        return False
    named = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.safetensors")
    return any(os.path.lexists(path / name) for name in named)


register(
    Format(
        name="huggingface",
        summary="Hugging Face directory: safetensors (sharded or not), config.json, tokenizer",
        suffixes=(),
        recognise=recognise,
        open=HuggingFaceReader,
        create=HuggingFaceWriter,
        directory=True,
    )
)

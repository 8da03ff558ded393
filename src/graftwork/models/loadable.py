"""Sources that Keras does not load as they are, written as a ``.keras`` file that it does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from graftwork.architecture.layout import layout
from graftwork.architecture.wiring import checked
from graftwork.errors import OutputError, StoreError
from graftwork.models.upgrade import without_slashes
from graftwork.stores.base import RAW_DTYPES, Header, Raw, Reader
from graftwork.stores.keras_zip import KerasZipWriter
from graftwork.tensor import Role, TensorSpec

BLOCK = 1 << 22
"""Elements that are copied at a time."""


class Headed(Protocol):
    """What says of itself which model it holds: an open reader, or one that is only planned."""

    path: Path
    header: Header


class Reconfigured:
    """A source under another configuration.

    Args:
        reader: The source.
        config: A Keras 3 configuration.
        renames: What the configuration calls tensors that it calls otherwise than the source.
    """

    def __init__(self, reader: Reader, config: Any, renames: Mapping[str, str]) -> None:
        self.path = reader.path
        self._reader = reader
        architecture = checked(config, f"the configuration made for {reader.path.name}")
        self.header: Header = replace(
            reader.header,
            format="keras",
            architecture=architecture,
            config=config,
            config_kind="keras3",
            library="Keras 3.0.0",
            assets={},
        )
        self._names = {renames.get(name, name): name for name in reader.specs()}

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec."""
        specs = self._reader.specs()
        return {name: replace(specs[theirs], name=name) for name, theirs in self._names.items()}

    def key(self, name: str) -> str:
        """Return the source's own key of a tensor."""
        return self._reader.key(self._names[name])

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self._reader.read_into(self._names[name], start, out)

    def close(self) -> None:
        """Do nothing: the source belongs to someone else."""

    def __enter__(self) -> "Reconfigured":
        return self

    def __exit__(self, *_: object) -> None: ...


def upgraded(reader: Reader, config: Any) -> Reader:
    """Return a source of Keras 2 under the configuration of its model rebuilt in Keras 3."""
    old = reader.header.architecture
    assert old is not None  # what was rebuilt
    before, after = (layout(root, keras2=True).variables for root in (old, without_slashes(old)))
    return Reconfigured(reader, config, {a.name: b.name for a, b in zip(before, after, strict=True)})


def write_keras(reader: Reader, path: Path) -> Path:
    """Write a source with an architecture to a ``.keras`` file, without optimizer state.

    Raises:
        StoreError: If the tensors are not those of the architecture.
    """
    specs = [spec for spec in reader.specs().values() if spec.role is not Role.OPTIMIZER]
    try:
        writer = KerasZipWriter(path, specs, like=reader, provenance="", drop_compile=True)
    except OutputError as error:
        raise StoreError(f"{reader.path.name} cannot be made a file that Keras loads: {error}") from error
    try:
        for spec in specs:
            for start in range(0, spec.size, BLOCK):
                block: Raw = np.empty(min(BLOCK, spec.size - start), RAW_DTYPES[spec.dtype])
                reader.read_into(spec.name, start, block)
                writer.write(spec.name, start, block)
        writer.finish()
    finally:
        writer.close()
    return path


def vocabularies_of(source: Headed) -> dict[str, Sequence[str]]:
    """Return the vocabularies that a source holds beside its tensors, by the chain of names of the layer that they belong to."""
    header = source.header
    if not header.assets or header.architecture is None:
        return {}
    chains = layout(header.architecture, keras2=header.config_kind == "keras2").groups
    found: dict[str, Sequence[str]] = {}
    for name in header.assets:
        group, _, file = name.removeprefix("assets/").rpartition("/")
        if file == "vocabulary.txt" and group in chains:
            text: bytes = source.asset(name)  # type: ignore[attr-defined]  # every reader whose header lists assets has it
            found[chains[group]] = text.decode("utf-8").split("\n")
    return found

"""What a file says of itself and of its tensors, from headers alone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from graftwork.architecture.layer import walk
from graftwork.stores.base import Reader
from graftwork.stores.tf_checkpoint import Lender
from graftwork.tensor import Role, TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a file says of itself, from headers alone.

    Attributes:
        path: The file or directory.
        format: Its format.
        library: The version of Keras that wrote it, where it says.
        model: Class and name of the model, where it holds an architecture.
        layers: Number of layers, inner models included; None without an architecture.
        parameters: Number of weights and statistics, without optimizer state.
        trainable: Number of weights alone.
        tensors: Every tensor.
        keys: The format's own key of each tensor, by name.
        dtypes: Parameters by dtype.
        roles: Tensors by role.
        size_bytes: Size on disk.
        assets: Further files that belong to the model.
        provenance: Graftwork's record of how it was made, or None.
        notes: What should be known about how it was read.
    """

    path: str
    format: str
    library: str
    model: str
    layers: int | None
    parameters: int
    trainable: int
    tensors: tuple[TensorSpec, ...]
    keys: Mapping[str, str]
    dtypes: Mapping[str, int]
    roles: Mapping[str, int]
    size_bytes: int
    assets: tuple[str, ...]
    provenance: Any
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        found = asdict(self)
        found["tensors"] = [
            {**asdict(spec), "role": str(spec.role), "shape": list(spec.shape), "key": self.keys[spec.name]}
            for spec in self.tensors
        ]
        del found["keys"]
        return found


def inspect(reader: Reader) -> Inspection:
    """Return what an open source says of itself."""
    header, specs = reader.header, tuple(reader.specs().values())
    own = [spec for spec in specs if spec.role is not Role.OPTIMIZER]
    dtypes: Counter[str] = Counter()
    for spec in own:
        dtypes[spec.dtype] += spec.size
    architecture = header.architecture
    return Inspection(
        path=str(reader.path),
        format=header.format,
        library=header.library,
        model=f"{architecture.class_name} {architecture.name!r}" if architecture else "",
        layers=sum(1 for _ in walk(architecture)) if architecture else None,
        parameters=sum(spec.size for spec in own if spec.role in (Role.WEIGHT, Role.STATISTIC, Role.QUANTIZED)),
        trainable=sum(spec.size for spec in own if spec.role is Role.WEIGHT),
        tensors=specs,
        keys={spec.name: reader.key(spec.name) for spec in specs},
        dtypes=dict(dtypes),
        roles=dict(Counter(str(spec.role) for spec in specs)),
        size_bytes=header.size_bytes,
        assets=tuple(header.assets),
        provenance=header.provenance,
        notes=header.notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRow:
    """One tensor of a file.

    Attributes:
        name: Its canonical name.
        shape: Its shape.
        dtype: Its dtype; ``string`` and the like for texts and objects.
        size_bytes: How long its values are in the file.
        role: What it is for; ``text`` for texts and objects.
        key: The format's own key: in a checkpoint of TensorFlow 2, the path to its object.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    role: str
    key: str

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "shape": list(self.shape)}


def rows_of(reader: Reader) -> tuple[TensorRow, ...]:
    """Return a row for each tensor of an open source, and for each of texts or objects that a checkpoint carries."""
    rows = [
        TensorRow(
            name=spec.name,
            shape=spec.shape,
            dtype=spec.dtype,
            size_bytes=spec.size_bytes,
            role=str(spec.role),
            key=reader.key(spec.name),
        )
        for spec in reader.specs().values()
    ]
    if isinstance(reader, Lender):
        rows += [
            TensorRow(
                name=name,
                shape=text.stored.shape,
                dtype=text.stored.dtype,
                size_bytes=sum(part.entry.size for part in text.stored.parts),
                role="text",
                key=key,
            )
            for name, (key, text) in zip(reader.header.assets, reader.texts.items(), strict=True)
        ]
    return tuple(rows)

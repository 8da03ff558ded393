"""The weights that Keras 3 saves, wherever they lie: one HDF5 file or several, alone, in a zip or in a directory.

::

    layers/<class in snake case>[_k]/…/vars/<i>      the i-th variable of a layer
    layers/…/vars           attribute name           the layer's own name (Keras 3 since 3.6; Keras 2 never)
    optimizer/vars/<i>                               iteration, learning rate, slots

Keys count classes, so they say nothing of which layer is meant: the same layer has other keys in a model that was put together in
another order. Canonical names are made of the layer names, from the attributes, else from the configuration.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from graftwork.architecture.layer import Layer
from graftwork.architecture.layout import Group, Layout, layout, name_tree
from graftwork.errors import OutputError, StoreError
from graftwork.stores.base import Header, Raw, Reader, SpecTable
from graftwork.stores.files import read_json
from graftwork.stores.hdf5 import H5Source, Tree, lay_out
from graftwork.stores.writeback import Sink
from graftwork.tensor import ITEMSIZE, Role, TensorSpec, number_in

PROVENANCE = "graftwork"
"""Name of the root attribute that holds the record of how a file was made."""

MAX_ATTRIBUTE = 60_000
"""HDF5 keeps an attribute up to 64 KiB inside the object's header."""


class KerasWeights:
    """The tensors of one or more HDF5 files that form one model's weights; a reader without a header.

    Args:
        path: What the user named, for messages.
        sources: The open files; they are closed with this object.
        architecture: The model's layers, where they are known.
        keras2: Whether Keras 2 wrote the files.
        prefixes: For each file, a prefix for its keys and canonical names ("" as a rule).
    """

    def __init__(
        self,
        path: Path,
        sources: Sequence[H5Source],
        architecture: Layer | None,
        *,
        keras2: bool = False,
        prefixes: Sequence[str] | None = None,
    ) -> None:
        self.path = path
        self.sources = tuple(sources)
        self.table = SpecTable(path)
        self.notes: list[str] = []
        self.group_names: dict[str, str | None] = {}
        self.twins: dict[str, str] = {}
        self._where: dict[str, tuple[H5Source, str]] = {}
        prefixes = prefixes or [""] * len(sources)
        for prefix in dict.fromkeys(prefixes):
            together = [s for s, p in zip(sources, prefixes, strict=True) if p == prefix]
            self._name(together, prefix, architecture if not prefix else None, keras2)
        empty = not any(path.strip("/") for source in sources for path in source.groups)
        if not self.table.specs and (architecture is None or empty):  # a model may have none, but has layers
            raise StoreError(f"{path.name} holds no tensors")

    def _name(self, sources: Sequence[H5Source], prefix: str, architecture: Layer | None, keras2: bool) -> None:
        groups: dict[str, Group] = {}
        variables: dict[str, dict[str, tuple[tuple[int, ...], str]]] = {}
        found: dict[str, tuple[H5Source, str]] = {}
        for source in sources:
            for path in source.groups:
                if path == "vars" or path.endswith("/vars"):
                    owner = path[:-5] if path != "vars" else ""
                    name = source.text_attribute(path, "name")
                    if path in source.datasets:
                        continue
                    known = groups.get(owner)
                    groups[owner] = Group(
                        name=name or (known.name if known else None), variables=variables.setdefault(owner, {})
                    )
                elif "vars" in path.split("/"):
                    raise StoreError(f"{source.label} has a group at {path[:80]!r}, where a tensor should be")
            for path, dataset in source.datasets.items():
                owner, _, key = path.rpartition("/")
                if owner != "vars" and not owner.endswith("/vars"):
                    raise StoreError(
                        f"{source.label} has a dataset at {path!r}, expected them in groups called `vars` only"
                    )
                if path in found:
                    raise StoreError(f"{path!r} is in two shards, {found[path][0].label} and {source.label}")
                found[path] = (source, path)
                owner = owner[:-5] if owner != "vars" else ""
                held = variables.setdefault(owner, {})
                held[key] = (dataset.shape, dataset.dtype)
                groups.setdefault(owner, Group(name=None, variables=held))
        planned = planned_layout(architecture, keras2=keras2, path=self.path) if architecture is not None else None
        names = name_tree(groups, planned)
        for owner, group in groups.items():
            self.group_names[prefix + owner] = group.name
        for path in _as_counted(found):
            source, _ = found[path]
            dataset = source.datasets[path]
            name, role = names[path]
            role = by_dtype(role, dataset.dtype, name)
            self.table.add(
                TensorSpec(name=prefix + name, shape=dataset.shape, dtype=dataset.dtype, role=role), prefix + path
            )
            self._where[prefix + name] = (source, path)
        for variable in planned.variables if planned else ():
            if variable.same_as in names and variable.path in names:
                self.twins[prefix + names[variable.path][0]] = prefix + names[variable.same_as][0]
        if planned and planned.unknown:
            where = planned.unknown[0] or (architecture.class_name if architecture else "")
            more = f" and {len(planned.unknown) - 1} more" if len(planned.unknown) > 1 else ""
            self.notes.append(
                f"{where!r}{more}: of a class that graftwork does not know, so variables may have numbers for names"
            )

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name."""
        return self.table.specs

    def key(self, name: str) -> str:
        """Return the h5 path of a tensor."""
        return self.table.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self.table[name]
        source, path = self._where[name]
        source.read_into(path, start, out)

    def provenance(self) -> str | None:
        """Return graftwork's own record, where the files carry one."""
        return self.sources[0].text_attribute("", PROVENANCE) if self.sources else None

    def close(self) -> None:
        """Close the HDF5 files and their descriptors where they are this object's."""
        for source in self.sources:
            source.close()


class KerasReader:
    """What the readers of Keras 3's formats have in common: tensors are those of `weights`, wherever its files lie."""

    path: Path
    header: Header
    weights: KerasWeights

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name."""
        return self.weights.specs()

    def key(self, name: str) -> str:
        """Return the h5 path of a tensor, behind ``task/`` for a preset's head."""
        return self.weights.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self.weights.read_into(name, start, out)

    def close(self) -> None:
        """Close the files, also of a reader that could not be made."""
        if hasattr(self, "weights"):
            self.weights.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def planned_layout(architecture: Layer, *, keras2: bool, path: Path) -> Layout:
    """Return the layout of a model, naming the file in what is refused."""
    try:
        return layout(architecture, keras2=keras2)
    except StoreError as error:
        raise StoreError(f"{path.name}: {error}") from error


def _as_counted(paths: Mapping[str, Any]) -> list[str]:
    """Return h5 paths as people count: vars/2 before vars/10, dense before dense_1 before dense_10."""

    def order(path: str) -> list[tuple[str, int]]:
        parts = []
        for part in path.split("/"):
            stem, _, ending = part.rpartition("_")
            whole, number = number_in(part), number_in(ending)
            if whole is not None:
                parts.append(("", whole))
            elif number is not None:
                parts.append((stem, number))
            else:
                parts.append((part, 0))
        return parts

    return sorted(paths, key=order)


def by_dtype(role: Role, dtype: str, name: str) -> Role:
    """A weight that is not a floating-point number is not one: 8-bit codes are quantized, other integers count."""
    if role is not Role.WEIGHT or dtype in ("float16", "bfloat16", "float32", "float64"):
        return role
    if dtype in ("int8", "uint8") or dtype.startswith("float8"):
        return Role.QUANTIZED
    return Role.SEED if "seed" in name.rpartition("/")[2] else Role.COUNTER


# Writing -----------------------------------------------------------------------------------------------------------


def keras_tree(specs: Sequence[TensorSpec], like: Reader) -> tuple[Tree, dict[str, str]]:
    """Return the HDF5 tree that Keras expects for these tensors, and each tensor's path in it.

    A `like` that is a Keras weights file itself lends its paths and attributes; any other needs an architecture whose layers are
    all known.

    Raises:
        OutputError: If the paths cannot be known.
    """
    weights = getattr(like, "weights", None)
    groups: dict[str, dict[str, Any]] = {}
    if isinstance(weights, KerasWeights):
        paths = {spec.name: weights.key(spec.name) for spec in specs}
        for owner, name in weights.group_names.items():
            # Keras 2 gives no names, and opens the group of every layer, even of one without variables
            if name is None:
                groups[f"{owner}/vars" if owner else "vars"] = {}
            elif owner != "optimizer" or any(s.role is Role.OPTIMIZER for s in specs):
                groups[f"{owner}/vars" if owner else "vars"] = {"name": name}
    else:
        paths, groups = _planned_paths(specs, like)
    datasets = {paths[spec.name]: (spec.shape, spec.dtype) for spec in specs}
    return Tree(groups=groups, datasets=datasets), paths


def check_places(specs: Sequence[TensorSpec], like: Reader) -> None:
    """Refuse tensors without a known place in a Keras weights file, as `keras_tree` would."""
    keras_tree(specs, like)


def _planned_paths(specs: Sequence[TensorSpec], like: Reader) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    architecture = like.header.architecture
    if architecture is None:
        raise OutputError(
            f"{like.path.name} holds no Keras architecture, which a Keras weights file needs to know where each tensor goes; "
            "give a Keras model of the same architecture first (`merge`) or as `like` (`convert`), or write safetensors"
        )
    planned = layout(architecture)
    by_name = {v.name: v for v in planned.variables}
    missing = [spec.name for spec in specs if spec.name not in by_name and spec.role is not Role.OPTIMIZER]
    if missing:
        raise OutputError(
            f"tensor {missing[0]!r} (one of {len(missing)}) has no known place in a Keras weights file; "
            "name a file that Keras itself saved from the same architecture with `like`"
        )
    absent = [name for name in by_name if name not in {spec.name for spec in specs}]
    if absent:
        raise OutputError(f"the architecture of {like.path.name} has a variable {absent[0]!r} that no tensor fills")
    paths = {spec.name: by_name[spec.name].path for spec in specs if spec.name in by_name}
    optimizer = [spec.name for spec in specs if spec.role is Role.OPTIMIZER]
    if optimizer:
        raise OutputError(
            f"the optimizer state of {like.path.name} cannot be carried into a Keras weights file from this format; drop it"
        )
    groups = {
        f"{path}/vars" if path else "vars": {"name": chain.rpartition("/")[2] or architecture.name}
        for path, chain in planned.groups.items()
    }
    return paths, groups


@dataclass(slots=True)
class H5Part:
    """One HDF5 file being written: its tree on disk, places for values, still empty."""

    path: Path
    fd: int
    places: Mapping[str, tuple[int, int]]
    sink: Sink
    shift: int = 0  # where the HDF5 file begins in the file

    def write(self, key: str, start: int, block: Raw, dtype: str) -> bool:
        """Write raw elements of the dataset `key`; return whether they were compared."""
        return self.sink.write(block, self.shift + self.places[key][0] + start * ITEMSIZE[dtype])

    def close(self) -> None:
        """Close the descriptor; closing twice does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_part(path: Path, tree: Tree, provenance: str) -> H5Part:
    """Lay out one HDF5 file at `path`, carrying graftwork's record if it is short enough for an attribute."""
    groups = {name: dict(attributes) for name, attributes in tree.groups.items()}
    if provenance and len(provenance.encode()) <= MAX_ATTRIBUTE:
        groups.setdefault("", {})[PROVENANCE] = provenance
    places = lay_out(path, Tree(groups=groups, datasets=tree.datasets))
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return H5Part(path=path, fd=fd, places=places, sink=Sink(fd, os.fstat(fd).st_size))


def weights_header(
    format_name: str,
    weights: KerasWeights,
    files: Sequence[Path],
    *,
    config: Any = None,
    architecture: Layer | None = None,
    keras2: bool = False,
    library: str = "",
    assets: Mapping[str, str] | None = None,
    provenance: Any = None,
) -> Header:
    """Return the header of a source whose tensors are `weights`."""
    record = provenance
    if record is None:
        text = weights.provenance()
        record = read_json(text.encode(), f"the record of graftwork in {weights.path.name}") if text else None
    return Header(
        format=format_name,
        architecture=architecture,
        config=config,
        config_kind="" if config is None else "keras2" if keras2 else "keras3",
        library=library,
        files=tuple(files),
        size_bytes=sum(file.stat().st_size for file in files),
        assets=dict(assets or {}),
        provenance=record,
        notes=tuple(weights.notes),
        twins=weights.twins,
    )

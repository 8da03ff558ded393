"""The legacy ``.h5`` file: a whole model (or its weights alone) as Keras 2 wrote it, and Keras 3 still does when asked.

::

    attributes keras_version, backend, model_config, training_config      (absent in a file of weights alone)
    model_weights/                          attribute layer_names (or the root itself, in a file of weights alone)
        <layer>/                            attribute weight_names
            <weight name>                   a path; Keras 2 ends it in ":0" and leaves out the names of outer models
    optimizer_weights/                      attribute weight_names

Weight names are neither complete nor unique in a model, so canonical names come from the configuration where there is one: a weight is the
variable of its layer whose name ends in the same way.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.architecture.layer import Layer
from graftwork.architecture.layout import Variable, layout
from graftwork.architecture.wiring import checked
from graftwork.errors import OutputError, StoreError
from graftwork.stores.base import Format, Header, Raw, Reader, SpecTable, register
from graftwork.stores.files import open_fd, read_json
from graftwork.stores.hdf5 import H5Source, Tree, has_attribute
from graftwork.stores.keras_weights import MAX_ATTRIBUTE, PROVENANCE, by_dtype, open_part, planned_layout
from graftwork.stores.weights_h5 import is_hdf5
from graftwork.tensor import Role, TensorSpec, number_in

WEIGHTS, OPTIMIZER, CONFIG = "model_weights", "optimizer_weights", "model_config"


class LegacyH5Reader:
    """A legacy ``.h5`` file, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = open_fd(path)
        try:
            self.source = H5Source(path, self._fd)
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        source = self.source
        text = source.text_attribute("", CONFIG)
        if text is None and source.attribute("", CONFIG) is not None:
            raise StoreError(f"attribute {CONFIG!r} of {self.path.name} is not a text")
        version = source.text_attribute("", "keras_version") or source.text_attribute(WEIGHTS, "keras_version") or ""
        keras2 = version.startswith(("1.", "2."))
        config = read_json(text.encode(), f"{CONFIG} of {self.path.name}") if text is not None else None
        architecture = checked(config, f"{CONFIG} of {self.path.name}") if config is not None else None
        self.root = WEIGHTS if WEIGHTS in source.groups else ""
        self.table = SpecTable(self.path)
        listed: set[str] = set()
        for name, key, role in self._named(architecture, keras2):
            if key not in source.datasets:
                raise StoreError(f"{self.path.name} lists the weight {key!r}, but holds no such dataset")
            dataset = source.datasets[key]
            role = by_dtype(role, dataset.dtype, name)
            self.table.add(TensorSpec(name=name, shape=dataset.shape, dtype=dataset.dtype, role=role), key)
            listed.add(key)
        surplus = [path for path in source.datasets if path not in listed]
        if surplus:
            raise StoreError(f"{self.path.name} holds a dataset {surplus[0]!r} that no attribute `weight_names` lists")
        if not listed and architecture is None:  # a model may have no weights
            raise StoreError(f"{self.path.name} holds no tensors")
        record = source.text_attribute("", PROVENANCE)
        self.header = Header(
            format="legacy_h5",
            architecture=architecture,
            config=config,
            config_kind="" if config is None else "keras2" if keras2 else "keras3",
            library=f"Keras {version[:40]}" if version else "",
            files=(self.path,),
            size_bytes=self.path.stat().st_size,
            provenance=read_json(record.encode(), f"the record of graftwork in {self.path.name}") if record else None,
        )

    def _named(self, architecture: Layer | None, keras2: bool) -> Iterator[tuple[str, str, Role]]:
        """Yield (canonical name, h5 path, role) of every weight in the order of the file."""
        variables: dict[str, list[Variable]] = {}
        if architecture is not None:
            inner = architecture.graph.layers if architecture.graph else ()
            slashed = sorted((f"{layer.name}/" for layer in inner if "/" in layer.name), key=len, reverse=True)
            for variable in planned_layout(architecture, keras2=keras2, path=self.path).variables:
                owner = next((name for name in slashed if variable.name.startswith(name)), variable.name)
                owner = owner.removesuffix("/") if owner in slashed else owner.partition("/")[0]
                variables.setdefault(owner, []).append(variable)
        layer_names = _names(self.source, self.root, "layer_names")
        if layer_names is None:
            raise StoreError(f"{self.path.name} has no attribute `layer_names`, so it is not a legacy Keras file")
        extra = ["top_level_model_weights"]
        for layer in layer_names + [e for e in extra if e not in layer_names]:
            group = f"{self.root}/{layer}" if self.root else layer
            if group not in self.source.groups:
                if layer in extra:
                    continue
                raise StoreError(f"{self.path.name} lists the layer {layer!r}, but holds no group for it")
            weights = _names(self.source, group, "weight_names") or []
            for weight, (name, role) in zip(weights, _resolve(layer, weights, variables.get(layer, [])), strict=True):
                yield name, f"{group}/{weight}", role
        for weight in _names(self.source, OPTIMIZER, "weight_names") or [] if OPTIMIZER in self.source.groups else []:
            yield f"optimizer/{_bare(weight)}", f"{OPTIMIZER}/{weight}", Role.OPTIMIZER

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name."""
        return self.table.specs

    def key(self, name: str) -> str:
        """Return the h5 path of a tensor."""
        return self.table.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self.source.read_into(self.table.key(name), start, out)

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "source"):
            self.source.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "LegacyH5Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _bare(weight: str) -> str:
    """Return a weight's name without the ":0" of Keras 2."""
    stem, colon, number = weight.rpartition(":")
    return stem if colon and number_in(number) is not None else weight


def _names(source: H5Source, group: str, attribute: str) -> list[str] | None:
    """Return an attribute that lists names; Keras splits a long one into attribute0, attribute1 and so on."""
    pieces = [source.attribute(group, attribute)]
    if pieces[0] is None:
        pieces = []
        while (piece := source.attribute(group, f"{attribute}{len(pieces)}")) is not None:
            pieces.append(piece)
        if not pieces:
            return None
    found = []
    for piece in pieces:
        for item in piece.tolist() if hasattr(piece, "tolist") else [piece]:
            if isinstance(item, bytes):
                item = item.decode("utf-8", errors="replace")
            if not isinstance(item, str):
                raise StoreError(
                    f"attribute {attribute!r} of {group!r} in {source.label} lists {item!r}, expected names"
                )
            found.append(item)
    return found


def _resolve(layer: str, weights: Sequence[str], variables: Sequence[Variable]) -> list[tuple[str, Role]]:
    """Return canonical name and role of each weight of a top-level layer.

    Each weight takes the variable, not taken yet, that shares the longest ending with it; equal ones in order.
    """
    if len(variables) != len(weights):
        return _without_table(layer, weights)
    left = list(variables)
    result = []
    for weight in weights:
        parts = _bare(weight).split("/")
        best = max(left, key=lambda v: _common_ending(parts, _as_legacy(v, parts[-1])))
        if not _common_ending(parts, _as_legacy(best, parts[-1])):
            return _without_table(layer, weights)
        left.remove(best)
        result.append((best.name, best.role))
    return result


def _as_legacy(variable: Variable, leaf: str) -> list[str]:
    """Return a variable's name in parts, its last one as Keras 2 spells it where `leaf` is Keras 2's word."""
    *chain, last = variable.name.split("/")
    depthwise = leaf == "depthwise_kernel" and variable.layer.class_name in ("DepthwiseConv1D", "DepthwiseConv2D")
    return [*chain, leaf if depthwise and last == "kernel" else last]


def _common_ending(a: Sequence[str], b: Sequence[str]) -> int:
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count


def _without_table(layer: str, weights: Sequence[str]) -> list[tuple[str, Role]]:
    """Name the weights of a layer of unknown insides by their own names, behind the layer's."""
    found: list[tuple[str, Role]] = []
    taken: set[str] = set()
    for weight in weights:
        parts = _bare(weight).split("/")
        parts = parts[parts.index(layer) :] if layer in parts[:-1] else [layer, *parts]
        name = "/".join(parts)
        number = 1
        while name in taken:
            number += 1
            name = "/".join(parts) + f"#{number}"
        taken.add(name)
        statistic = parts[-1] in ("moving_mean", "moving_variance", "mean", "variance")
        found.append((name, Role.STATISTIC if statistic else Role.WEIGHT))
    return found


# Writing -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    tree: Tree
    paths: Mapping[str, str]


class LegacyH5Writer:
    """A legacy ``.h5`` file being made; see `graftwork.stores.base.Writer` for the arguments.

    Args beyond those of every writer:
        drop_compile: Leave out how the model was compiled.
    """

    def __init__(
        self, path: Path, specs: Sequence[TensorSpec], *, like: Reader, provenance: str, drop_compile: bool = False
    ) -> None:
        _refuse_bfloat16(specs)
        plan = _placed(specs, like)
        if drop_compile:
            root = {k: v for k, v in plan.tree.groups[""].items() if k != "training_config"}
            plan = replace(plan, tree=replace(plan.tree, groups={**plan.tree.groups, "": root}))
        self._paths = plan.paths
        self._dtypes = {spec.name: spec.dtype for spec in specs}
        self._part = open_part(path, plan.tree, provenance)

    def write(self, name: str, start: int, block: Raw) -> bool:
        """Write raw elements of a tensor; return whether they were compared."""
        return self._part.write(self._paths[name], start, block, self._dtypes[name])

    def finish(self) -> None:
        """Sync the file."""
        os.fsync(self._part.fd)

    def close(self) -> None:
        """Close the file."""
        self._part.close()


def _refuse_bfloat16(specs: Sequence[TensorSpec]) -> None:
    """Keras writes bfloat16 into legacy files as opaque bytes, and cannot read them back."""
    halves = [spec.name for spec in specs if spec.dtype == "bfloat16"]
    if halves:
        raise OutputError(
            f"tensor {halves[0]!r} is bfloat16, which Keras cannot read from a legacy .h5 file; "
            "write float32 (dtype='float32'), which holds the same values, or a .keras file"
        )


def _placed(specs: Sequence[TensorSpec], like: Reader) -> _Plan:
    return _copied(specs, like) if isinstance(like, LegacyH5Reader) else _made(specs, like)


def _copied(specs: Sequence[TensorSpec], like: LegacyH5Reader) -> _Plan:
    """Keep groups, attributes and paths of a file of the same format."""
    keep_optimizer = any(spec.role is Role.OPTIMIZER for spec in specs)
    groups: dict[str, dict[str, Any]] = {}
    source = like.source
    for path in sorted(source.groups):
        if not keep_optimizer and (path == OPTIMIZER or path.startswith(OPTIMIZER + "/")):
            continue
        groups[path] = {k: source.attribute(path, k) for k in source.attribute_names(path) if k != PROVENANCE}
    paths = {spec.name: like.key(spec.name) for spec in specs}
    return _Plan(Tree(groups=groups, datasets={paths[s.name]: (s.shape, s.dtype) for s in specs}), paths)


def _made(specs: Sequence[TensorSpec], like: Reader) -> _Plan:
    """Lay out a file from an architecture of Keras 3."""
    header = like.header
    if header.architecture is None or header.config_kind != "keras3" or header.architecture.graph is None:
        raise OutputError(
            f"{like.path.name} holds no Keras 3 Functional or Sequential architecture, which a legacy .h5 file needs; "
            "name such a model with `like`, or write safetensors or a weights file"
        )
    if header.assets:
        raise OutputError(
            f"{like.path.name} has {len(header.assets)} vocabularies or other assets, which a legacy .h5 file cannot hold, "
            "so its layers would look up nothing; write a .keras file"
        )
    by_layer: dict[str, list[TensorSpec]] = {}
    known = {v.name: v for v in layout(header.architecture).variables}
    order = creation_order(known.values())
    for spec in specs:
        if spec.role is Role.OPTIMIZER:
            raise OutputError("the optimizer state cannot be carried into a legacy .h5 file from this format; drop it")
        if spec.name not in known:
            raise OutputError(f"tensor {spec.name!r} has no known place in a legacy .h5 file")
        if known[spec.name].same_as is not None:
            raise OutputError(
                f"tensor {spec.name!r} is a second copy of another tensor, for which a legacy .h5 file has no place; "
                "write a .keras file"
            )
        by_layer.setdefault(spec.name.partition("/")[0], []).append(spec)
    names = [layer.name for layer in header.architecture.graph.layers]
    if header.architecture.graph.sequential:
        names = [layer.name for layer in header.architecture.graph.layers if layer.class_name != "InputLayer"]
    version = header.library.removeprefix("Keras ") or "3.0.0"
    config = {k: v for k, v in header.config.items() if k != "compile_config"}
    groups: dict[str, dict[str, Any]] = {
        "": {"keras_version": version, "backend": "tensorflow", CONFIG: json.dumps(config)},
        WEIGHTS: {"keras_version": version, "backend": "tensorflow", **_split("layer_names", names)},
    }
    paths: dict[str, str] = {}
    for name in names:
        # Keras fills a layer by position: the trainable variables first, then the others
        members = sorted(by_layer.get(name, []), key=lambda s: (not known[s.name].trainable, order[s.name]))
        groups[f"{WEIGHTS}/{name}"] = _split("weight_names", [s.name for s in members])
        paths.update({s.name: f"{WEIGHTS}/{name}/{s.name}" for s in members})
    return _Plan(Tree(groups=groups, datasets={paths[s.name]: (s.shape, s.dtype) for s in specs}), paths)


CREATED = ("forward_layer", "backward_layer", "query_dense", "key_dense", "value_dense", "output_dense")
"""Layers inside a layer in the order in which their owner makes them, where that is not the order of their names."""


def creation_order(variables: Iterable[Variable]) -> dict[str, tuple[int, ...]]:
    """Return for each variable's name its place in the order of a live model's `weights`.

    Weights files follow the names of attributes; legacy files follow the order in which layers were made.
    """
    seen: dict[str, dict[str, int]] = {}
    order: dict[str, tuple[int, ...]] = {}
    for variable in variables:
        parent, ranks = "", []
        for part in variable.path.split("/"):
            siblings = seen.setdefault(parent, {})
            first = siblings.setdefault(part, len(siblings))
            word = part.lstrip("_")
            ranks.append(len(CREATED) + first if word not in CREATED else CREATED.index(word))
            parent += "/" + part
        # a layer's own variables come before those of the layers inside it
        ranks[-2] = -1
        order[variable.name] = tuple(ranks)
    return order


def _split(attribute: str, names: Sequence[str]) -> dict[str, Any]:
    """Return a list of names as one attribute, or as several when HDF5 could not hold one."""
    if sum(len(n.encode()) + 16 for n in names) <= MAX_ATTRIBUTE:
        return {attribute: list(names)}
    pieces: list[list[str]] = [[]]
    for name in names:
        if sum(len(n.encode()) + 16 for n in pieces[-1]) + len(name) + 16 > MAX_ATTRIBUTE:
            pieces.append([])
        pieces[-1].append(name)
    return {f"{attribute}{k}": piece for k, piece in enumerate(pieces)}


def recognise(path: Path) -> bool:
    """Return whether a path is a legacy Keras file: HDF5 with the attribute ``layer_names``, or called ``.h5`` or ``.hdf5``."""
    if path.is_dir() or path.name.endswith(".weights.h5"):
        return False
    if path.suffix in (".h5", ".hdf5"):
        return not is_hdf5(path) or _has_layer_names(path)
    return is_hdf5(path) and _has_layer_names(path)


def _has_layer_names(path: Path) -> bool:
    """Look for the attribute without walking the file."""
    found = has_attribute(path, WEIGHTS, ("layer_names", "layer_names0"))
    return path.suffix in (".h5", ".hdf5") if found is None else found


register(
    Format(
        name="legacy_h5",
        summary="Legacy whole-model file (.h5) of Keras 2 and 3",
        suffixes=(".h5", ".hdf5"),
        recognise=recognise,
        open=LegacyH5Reader,
        create=LegacyH5Writer,
        check=_placed,
        holds_architecture=True,
        order=10,
    )
)

"""The Keras 2 model in a SavedModel that Keras 2 saved: its configuration, and which variable is which, told by the object graph.

``keras_metadata.pb`` has a row for every object that was a layer, with its configuration as JSON, the model's under the path *root*. The
checkpoint of the SavedModel keeps each variable once, under the shortest path to it (``variables/13``). Its object graph, though, has
the model's layers as children ``layer-0``, ``layer-1``, … in the order of the configuration, and below them what the layers call their
parts. Walking both together gives each variable the canonical name that it has in every other file of the same model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.architecture.layer import GRAPH_CLASSES, MAX_DEPTH, Json, Layer
from graftwork.architecture.layout import Layout, layout
from graftwork.architecture.variables import Own, children, container_keys, own_variables
from graftwork.architecture.wiring import checked
from graftwork.errors import StoreError
from graftwork.stores.base import Header, Raw
from graftwork.stores.files import read_json
from graftwork.stores.saved_model import SavedModelReader
from graftwork.stores.saved_program import METADATA, read_keras_metadata, read_program
from graftwork.stores.tf_graph import UNNAMED, VALUE
from graftwork.stores.tf_protos import Attribute, Node
from graftwork.tensor import TensorSpec

ALIASES: Mapping[str, tuple[str, ...]] = {
    "kernel": ("kernel", "depthwise_kernel"),
    "vector_u": ("vector_u", "u"),
}
"""What layers of Keras 2 call variables that have another canonical name."""

WORDS: Mapping[str, tuple[str, ...]] = {"vector_u": ("vector_u", "sn_u")}
"""What names of variables end in, where that is not what the layer calls them."""


@dataclass(frozen=True, slots=True)
class Place:
    """A layer of the model and its object.

    Attributes:
        layer: The layer.
        chain: The names of the layers that lead to it.
        group: Its group in a weights file, which `layout` tells.
        node: Number of its object.
        edges: By which names objects refer to each other on the way from the model to it.
        built: Whether it has its variables.
    """

    layer: Layer
    chain: str
    group: str
    node: int
    edges: tuple[str, ...] = ()
    built: bool = True


class Keras2Program:
    """A SavedModel of Keras 2, open for reading as the model that it was saved from.

    Args:
        path: The directory.
        settings: Settings that the configuration lacks, for layers by the chain of names that leads to them.
        reader: The open SavedModel, which then stays its owner's to close.

    Attributes:
        places: Every layer, outer ones first.

    Raises:
        StoreError: If it is not a Functional or Sequential model of Keras 2, or the graph of objects is not that of its configuration.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        reader: SavedModelReader | None = None,
    ) -> None:
        self.path = path
        config = _with_settings(configuration(path), settings or {})
        self._owned = reader is None
        self._source = SavedModelReader(path) if reader is None else reader
        try:
            self._open(config)
        except BaseException:
            self.close()
            raise

    def _open(self, config: Json) -> None:
        where = f"{METADATA} of {self.path.name}"
        architecture = checked(config, where)
        self.nodes = self._source.nodes
        if not self.nodes:
            raise StoreError(f"{self.path.name} has no object graph, which tells variables apart")
        self.places = tuple(self._walk(architecture, Place(architecture, "", "", 0)))
        planned = layout(architecture, keras2=True)
        self._keys = self._found(planned)
        by_key = {self._source.key(name): spec for name, spec in self._source.specs().items()}
        self._specs: dict[str, TensorSpec] = {}
        self._names: dict[str, str] = {}
        for variable in planned.variables:
            key = self._keys[variable.name]
            if key not in by_key:
                raise StoreError(
                    f"variable {variable.name!r} of {self.path.name} should be {key!r}, which is not in its checkpoint"
                )
            self._names[variable.name] = by_key[key].name
            self._specs[variable.name] = replace(by_key[key], name=variable.name, role=variable.role)
        self.header: Header = replace(
            self._source.header,
            architecture=architecture,
            config=config,
            config_kind="keras2",
            library="Keras 2",
            assets={},
        )

    def _walk(self, layer: Layer, place: Place, depth: int = 0) -> Iterator[Place]:
        """Yield a layer and all inside it, with the objects that they are."""
        if depth > MAX_DEPTH:
            raise StoreError(f"layers of {self.path.name} nest more than {MAX_DEPTH} deep below {layer.name!r}")
        yield place
        if layer.graph is not None:
            if layer.class_name not in GRAPH_CLASSES:
                raise StoreError(
                    f"{self.path.name} has a {layer.class_name}, {_called(place)}, a class of its own: what it does beside its graph is in "
                    "its Python code, not in the file"
                )
            listed = list(layer.graph.layers)
            if layer.graph.sequential and listed and listed[0].class_name == "InputLayer":
                listed = listed[1:]
            keys = [f"layers/{key}" for key in container_keys(listed)]
            parts = [(key, f"layer-{k}", part, True) for k, (key, part) in enumerate(zip(keys, listed, strict=True))]
        else:
            parts = self._parts(layer, place)
        for key, edge, part, built in parts:
            node = self._child(place.node, edge)
            if node is None:
                if not built or not _keeps_something(part):
                    continue
                raise StoreError(
                    f"{self.path.name} has no object {edge!r} of {_called(place)}, where its configuration has {part.name!r}"
                )
            chain = f"{place.chain}/{part.name}" if place.chain else part.name
            group = f"{place.group}/{key}" if place.group else key
            yield from self._walk(
                part,
                Place(part, chain, group, node, (*place.edges, *edge.split("/")), place.built and built),
                depth + 1,
            )

    def _parts(self, layer: Layer, place: Place) -> list[tuple[str, str, Layer, bool]]:
        found = children(layer, keras2=True)
        if found is None:
            raise StoreError(
                f"{self.path.name} has a {layer.class_name}, {_called(place)}, a class that does not come with Keras, so its variables "
                "cannot be told apart"
            )
        count: dict[str, int] = {}
        parts = []
        for child in found:
            container, slash, _ = child.attribute.partition("/")
            number = count.setdefault(container, 0)
            count[container] += 1
            parts.append((child.attribute, f"{container}/{number}" if slash else container, child.layer, child.built))
        return parts

    def _child(self, node: int, path: str) -> int | None:
        """Return the object that a path from another leads to."""
        for name in path.split("/"):
            found = next((child for child, called in self.nodes[node].children if called == name), None)
            if found is None:
                return None
            node = found
        return node

    def _found(self, planned: Layout) -> dict[str, str]:
        """Return the key of every variable by its canonical name."""
        by_path: dict[str, str] = {}
        twins: dict[str, tuple[Place, Own]] = {}
        for place in self.places:
            own = own_variables(place.layer, keras2=True) if place.built else ()
            for variable in own or ():
                path = f"{place.group}/vars/{variable.key}" if place.group else f"vars/{variable.key}"
                key = self._key_of(place, variable)
                if key is not None:
                    by_path[path] = key
                elif variable.same_as is not None:
                    twins[path] = place, variable
                else:
                    raise StoreError(
                        f"{self.path.name} has no variable {variable.name!r} of {_called(place)}, which a {place.layer.class_name} has"
                    )
        for path, (place, variable) in twins.items():
            assert variable.same_as is not None
            child, key = variable.same_as
            by_path[path] = by_path[f"{place.group}/{child}/vars/{key}"]
        return {variable.name: by_path[variable.path] for variable in planned.variables}

    def _key_of(self, place: Place, variable: Own) -> str | None:
        """Return the key of a variable of a layer; None if the layer's object refers to none of its name.

        Raises:
            StoreError: If the variable was made under a name that another kind of variable has.
        """
        for word in ALIASES.get(variable.name, (variable.name,)):
            node = self._child(place.node, word)
            found = _value(self.nodes[node]) if node is not None else None
            if found is None:
                continue
            last = found.full_name.rpartition("/")[2].partition(":")[0]
            known = {variable.name, word, UNNAMED, "", *WORDS.get(variable.name, ())}
            if last not in known:
                raise StoreError(
                    f"{_called(place)} of {self.path.name} refers to {found.full_name!r} as its {word!r}; one of the two names is wrong"
                )
            return found.key
        return None

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the spec of every variable of the model by canonical name; metrics and optimizer are left out."""
        return self._specs

    def key(self, name: str) -> str:
        """Return a variable's key in the checkpoint."""
        return self._keys[name]

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a variable."""
        self._source.read_into(self._names[name], start, out)

    def close(self) -> None:
        """Close the files that it has opened; closing twice does nothing."""
        if self._owned:
            self._source.close()

    def __enter__(self) -> "Keras2Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _called(place: Place) -> str:
    return f"layer {place.chain!r}" if place.chain else "the model"


def _keeps_something(layer: Layer) -> bool:
    """Return whether a layer or one inside it has variables, as far as that can be told."""
    if layer.graph is not None:
        return any(_keeps_something(part) for part in layer.graph.layers)
    own, inside = own_variables(layer, keras2=True), children(layer, keras2=True)
    return own is None or inside is None or bool(own) or any(_keeps_something(child.layer) for child in inside)


def _value(node: Node) -> Attribute | None:
    return next((a for a in node.attributes if a.name == VALUE), None)


def configuration(path: Path) -> Json:
    """Return the configuration of the Keras 2 model that a SavedModel was saved from.

    Raises:
        StoreError: If it holds none, or one that is no graph of layers; it says which.
    """
    label = f"the configuration of Keras 2 in {path.name}"
    identifier, metadata = _root(path)
    found = plain(read_json(metadata.encode(), label))
    if not isinstance(found, dict):
        raise StoreError(f"{label} does not describe the model as an object")
    name = found.get("class_name", identifier)
    if not isinstance(found.get("config"), dict) or not isinstance(found["config"].get("layers"), list):
        raise StoreError(
            f"{path.name} is a {str(name)[:80]}, a class of its own: how it computes is in its Python code, "
            "not in the file"
        )
    return {"class_name": name, "config": found["config"]}


def _root(path: Path) -> tuple[str, str]:
    """Return what the model's object is called, and what is said of it; early Keras 2 says it in the program."""
    rows = read_keras_metadata(path)
    for row in rows:
        if row.path == "root":
            return row.identifier, row.metadata
    objects = read_program(path).objects if not rows else ()
    if objects and objects[0].metadata and objects[0].identifier.startswith("_tf_keras"):
        return objects[0].identifier, objects[0].metadata
    raise StoreError(f"{path.name} carries no configuration of a Keras 2 model ({METADATA} is not there)")


def plain(value: Json, depth: int = 0) -> Any:
    """Return JSON with lists in the place of what Keras 2 writes for tuples and shapes."""
    if depth > 4 * MAX_DEPTH:
        raise StoreError(f"{METADATA} nests too deep")
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
            return plain(value["items"], depth + 1)
        return {key: plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    return value


def _with_settings(config: Json, settings: Mapping[str, Mapping[str, Any]], chain: str = "") -> Any:
    """Return the configuration of a model with further settings of its layers."""
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        return config
    own = {**config["config"], **settings.get(chain, {})}
    if isinstance(own.get("layers"), list):
        own["layers"] = [
            _with_settings(part, settings, f"{chain}/{_name_of(part)}" if chain else _name_of(part))
            for part in own["layers"]
        ]
    return {**config, "config": own}


def _name_of(part: Json) -> str:
    own = part.get("config") if isinstance(part, dict) else None
    return str(own.get("name", "")) if isinstance(own, dict) else ""


def lookups(places: Sequence[Place]) -> tuple[Place, ...]:
    """Return the layers that know a vocabulary."""
    return tuple(
        p for p in places if p.layer.class_name in ("StringLookup", "IntegerLookup", "TextVectorization") and p.built
    )


def discretizations(places: Sequence[Place]) -> tuple[Place, ...]:
    """Return the layers whose boundaries between bins were found by adapting them."""
    return tuple(
        p for p in places if p.layer.class_name == "Discretization" and p.layer.config.get("bin_boundaries") is None
    )

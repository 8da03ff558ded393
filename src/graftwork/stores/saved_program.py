"""What a SavedModel says of itself, read from its ``saved_model.pb`` without TensorFlow: signatures, graphs, objects, tables, assets.

::

    SavedModel        1 schema_version   2 meta_graphs
    MetaGraphDef      1 meta_info_def {2 stripped_op_list {1 op}, 4 tags, 5 tensorflow_version}   2 graph_def
                      4 collection_def {1 key, 2 value {2 bytes_list {1 value}, 5 any_list {1 value {2 value}}}}
                      5 signature_def {1 key, 2 value}   6 asset_file_def {1 tensor_info, 2 filename}   7 object_graph_def
    SignatureDef      1 inputs {1 key, 2 value}   2 outputs {1 key, 2 value}   3 method_name
    TensorInfo        1 name   2 dtype   3 tensor_shape   4 coo_sparse   5 composite_tensor
    SavedObjectGraph  1 nodes {1 children {1 node_id, 2 local_name}, 4 user_object {1 identifier, 3 metadata}, 5 asset {1 index}, 6 function
                      {1 concrete_functions}, 7 variable {1 dtype, 2 shape, 3 trainable, 6 name}, 8 bare_concrete_function {1 name},
                      9 constant, 10 resource, 12 captured_tensor}
    SavedMetadata     1 nodes {2 node_id, 3 node_path, 4 identifier, 5 metadata}          (keras_metadata.pb, of Keras 2)

A frozen graph is a file with a GraphDef in it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TypeVar

from graftwork.errors import OptionError, StoreError, UnknownNameError
from graftwork.stores.files import read_small
from graftwork.stores.huggingface import inside
from graftwork.stores.tf_program import PYTHON, Graph, Node, Op, Shape, parse_shape, split_reference, type_name
from graftwork.stores.tf_protos import fields, inner, number, text

PROGRAM, TEXT, SPLIT = "saved_model.pb", "saved_model.pbtxt", "saved_model.cpb"
METADATA = "keras_metadata.pb"

T = TypeVar("T")

MAX_PROGRAM_BYTES = (1 << 31) - 1
"""No protocol buffer is larger."""

SERVE = "serve"
"""The tag of the graph that is for serving."""

ASSETS, TRAINABLE = "saved_model_assets", "trainable_variables"
"""The collections in which TensorFlow 1 keeps assets, and what it trains."""

INITIALIZER = "__saved_model_init_op"
"""What TensorFlow 2 calls the signature that initialises tables, which nobody calls."""

TABLES = (
    "HashTable",
    "HashTableV2",
    "MutableHashTable",
    "MutableHashTableV2",
    "MutableDenseHashTable",
    "MutableDenseHashTableV2",
)
READERS = ("InitializeTableFromTextFile", "InitializeTableFromTextFileV2", "ReadFile")
"""Operations that read a file when a model is loaded or called, and which input names it."""

FILE_INPUT = {"ReadFile": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A named input or output of a signature.

    Attributes:
        key: What the signature calls it.
        tensor: The tensor of the graph that it is; empty for several at once.
        dtype: Element type.
        shape: Shape.
        composite: Whether it is a sparse or ragged tensor, made of several.
    """

    key: str
    tensor: str
    dtype: str
    shape: Shape
    composite: bool = False

    def __str__(self) -> str:
        return f"{self.dtype} {shown_shape(self.shape)}" + (" (sparse or ragged)" if self.composite else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What can be asked of a SavedModel under a name.

    Attributes:
        name: Its name.
        inputs: Its inputs by their names, sorted, as TensorFlow has them.
        outputs: Its outputs likewise.
        method: What TensorFlow Serving takes it for.
    """

    name: str
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    method: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A variable that an object graph or a graph describes."""

    name: str
    dtype: str
    shape: Shape
    trainable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """One object of the object graph, of TensorFlow 2.

    Attributes:
        kind: ``user``, ``asset``, ``function``, ``variable``, ``concrete_function``, ``constant``, ``resource`` or ``captured``.
        identifier: The class of a user's object (``_tf_keras_network`` …).
        metadata: Its configuration, of early Keras 2.
        children: Number of an object and the name by which it is referred to.
        variable: What is known of a variable.
        functions: The functions of the graph's library that a function is made of.
    """

    kind: str
    identifier: str = ""
    metadata: str = ""
    children: tuple[tuple[int, str], ...] = ()
    variable: Variable | None = None
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A file that belongs to the program: the tensor that holds its path, and its name in the directory ``assets``."""

    tensor: str
    filename: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A lookup table that the program makes."""

    name: str
    op: str
    keys: str
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasNode:
    """What Keras 2 says of one object: its class and its configuration, as a JSON text.

    Attributes:
        number: The object's number in the object graph.
        path: The path to it (``root.layer-1``).
        identifier: ``_tf_keras_model``, ``_tf_keras_network``, ``_tf_keras_sequential``, ``_tf_keras_layer`` …
        metadata: The JSON text.
    """

    number: int
    path: str
    identifier: str
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One graph of a SavedModel, with what is said about it.

    Attributes:
        path: The directory, or the file of a frozen graph.
        tags: What it is for; ``serve`` mostly.
        version: The TensorFlow that wrote it, where it says so.
        graph: Nodes and functions.
        ops: The operations that it uses, as far as it describes them.
        signatures: By name; without the one that initialises tables.
        assets: Files that belong to it.
        objects: The object graph, empty in TensorFlow 1.
        keras: Configurations of Keras 2, empty where there are none.
        trainable: Names of the variables that TensorFlow 1 trains.
    """

    path: Path
    tags: tuple[str, ...] = ()
    version: str = ""
    graph: Graph
    ops: Mapping[str, Op]
    signatures: Mapping[str, Signature]
    assets: tuple[Asset, ...] = ()
    objects: tuple[Saved, ...] = ()
    keras: tuple[KerasNode, ...] = ()
    trainable: frozenset[str] = frozenset()

    @property
    def of_tf1(self) -> bool:
        """Whether it has no objects, as programs of TensorFlow 1 have none."""
        return not self.objects

    def signature(self, name: str) -> Signature:
        """Return a signature.

        Raises:
            UnknownNameError: If there is none of this name.
        """
        if name not in self.signatures:
            raise UnknownNameError(f"signature in {self.path.name}", name, self.signatures)
        return self.signatures[name]

    def relevant(self, fed: Iterable[str], fetched: Iterable[str]) -> Graph:
        """Return the part of the graph that a signature is about: in TensorFlow 2 what its outputs need, else all of it.

        Args:
            fed: The nodes of its inputs.
            fetched: The nodes of its outputs.
        """
        if self.of_tf1:
            return self.graph
        return replace(self.graph, nodes=self.needed([*fed, *fetched]))

    def variables(self) -> tuple[Variable, ...]:
        """Return its variables, in the order of its objects, or of its nodes in TensorFlow 1."""
        if self.objects:
            return tuple(saved.variable for saved in self.objects if saved.variable is not None)
        found = [node for node in self.graph.nodes if node.op in ("VarHandleOp", "VariableV2", "Variable")]
        return tuple(
            Variable(
                name=node.name,
                dtype=type_name(node.type("dtype") or 0),
                shape=node.attrs["shape"].shape() if "shape" in node.attrs else None,
                trainable=node.name in self.trainable,
            )
            for node in found
        )

    def tables(self) -> tuple[Table, ...]:
        """Return the tables that it makes, each once."""
        found: dict[str, Table] = {}
        for _, node in self.graph.walk():
            if node.op in TABLES:
                name = node.attrs["shared_name"].text() if "shared_name" in node.attrs else ""
                keys, values = (type_name(node.type(key) or 0) for key in ("key_dtype", "value_dtype"))
                found.setdefault(name or node.name, Table(name=name or node.name, op=node.op, keys=keys, values=values))
        return tuple(found.values())

    def python_functions(self, signature: str | None = None) -> tuple[str, ...]:
        """Return the names of nodes that call a Python function, which only the process that made the program had.

        Args:
            signature: Look only at what this one runs; by default everywhere.
        """
        nodes = self.graph.walk() if signature is None else self._run_by(self.signature(signature))
        return tuple(
            f"{function}/{node.name}" if function else node.name for function, node in nodes if node.op in PYTHON
        )

    def _run_by(self, signature: Signature) -> Iterator[tuple[str, Node]]:
        fetched = [split_reference(port.tensor)[0] for port in signature.outputs.values()]
        nodes = self.needed(fetched)
        for node in nodes:
            yield "", node
        for name, function in self.graph.used(nodes).items():
            for node in function.nodes:
                yield name, node

    def needed(self, names: Iterable[str]) -> tuple[Node, ...]:
        """Return the nodes of the graph itself that must run for others, these included; names that it does not have are passed over."""
        by_name = {node.name: node for node in self.graph.nodes}
        waiting, seen = list(names), set[str]()
        while waiting:
            name = waiting.pop()
            if name in by_name and name not in seen:
                seen.add(name)
                waiting += [split_reference(reference)[0] for reference in by_name[name].inputs]
        return tuple(node for node in self.graph.nodes if node.name in seen)

    def outside_files(self) -> tuple[str, ...]:
        """Return the files that it reads and that do not belong to it, as the program spells them."""
        own = {split_reference(asset.tensor)[0] for asset in self.assets}
        found: list[str] = []
        for nodes in (self.graph.nodes, *(f.nodes for f in self.graph.functions.values())):
            constants = {node.name: node for node in nodes if node.op == "Const"}
            for node in nodes:
                if node.op in READERS and len(node.inputs) > FILE_INPUT.get(node.op, 1):
                    name = split_reference(node.inputs[FILE_INPUT.get(node.op, 1)])[0]
                    if name in constants and (name not in own or nodes is not self.graph.nodes):
                        value = constants[name].attrs.get("value")
                        found += [t.decode("utf-8", "replace") for t in (value.texts() if value else ())]
        return tuple(dict.fromkeys(found))

    def refuse_unrunnable(self, signature: str | None = None) -> None:
        """Refuse a program that cannot run elsewhere, or that reads what is not its own.

        Args:
            signature: Look for Python functions only in what this one runs; by default everywhere.

        Raises:
            StoreError: If it calls a Python function, or reads a file outside of its directory.
        """
        python = self.python_functions(signature)
        if python:
            raise StoreError(
                f"{self.path} calls a Python function in node {python[0]!r}, which only the process had that saved it; "
                "write this part in TensorFlow's own operations and save it again"
            )
        outside = self.outside_files()
        if outside:
            raise StoreError(
                f"{self.path} reads the file {outside[0]!r}, which is not one of its assets, so that its result depends on the machine; "
                "save it with the file as an asset (tf.saved_model.Asset, or assets_collection in TensorFlow 1)"
            )


def shown_shape(shape: Shape) -> str:
    """Return a shape as text, with a question mark for what is left free."""
    return "(…)" if shape is None else f"({', '.join('?' if n is None else str(n) for n in shape)})"


def read_program(path: Path, tags: tuple[str, ...] | None = None) -> Program:
    """Read a SavedModel's program, without its variables.

    Args:
        path: The directory.
        tags: Which of its graphs; by default the one for serving, else the one without tags, or the only one.

    Raises:
        StoreError: If it is no SavedModel, is damaged, or has assets that lie elsewhere.
        OptionError: If it has no graph, or several, with these tags.
    """
    program = path / PROGRAM
    if not program.is_file():
        _refuse_others(path)
    message = read_small(inside(program, path), MAX_PROGRAM_BYTES)
    metas = _guarded(f"{program} is damaged", lambda: [inner(v) for n, v in fields(message) if n == 2])
    found = _chosen(path, [(_tags(program, meta), meta) for meta in metas], tags)
    keras = read_keras_metadata(path)
    result = _guarded(f"{program} is damaged", lambda: _program(path, found, keras))
    _check_assets(result)
    return result


def read_keras_metadata(path: Path) -> tuple[KerasNode, ...]:
    """Return what Keras 2 says of the objects of a SavedModel; nothing where it does not.

    Raises:
        StoreError: If the file is damaged.
    """
    file = path / METADATA
    if not file.exists():
        return ()
    message = read_small(inside(file, path))
    return _guarded(f"{file} is damaged", lambda: tuple(_keras_node(inner(v)) for n, v in fields(message) if n == 1))


def read_frozen(path: Path) -> Program:
    """Read a file with a frozen graph: nodes without signatures.

    Raises:
        StoreError: If it is none.
    """
    message = read_small(path, MAX_PROGRAM_BYTES)
    graph = _guarded(f"{path} is not a graph of TensorFlow's (GraphDef)", lambda: Graph.parse(message))
    if not graph.nodes or not all(node.name and node.op for node in graph.nodes):
        raise StoreError(f"{path} is not a graph of TensorFlow's (GraphDef): it has no nodes, or nodes without a name")
    return Program(path=path, graph=graph, ops={}, signatures={})


def _guarded(label: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except ValueError as error:
        raise StoreError(f"{label}: {error}") from error


def _refuse_others(path: Path) -> None:
    if (path / SPLIT).is_file():
        raise StoreError(
            f"{path / SPLIT} is a program in several pieces, as TensorFlow writes those of more than 2 GB; graftwork reads only "
            f"{PROGRAM}: keep large constants in variables and save again"
        )
    if (path / TEXT).is_file():
        raise StoreError(
            f"{path / TEXT} is a program as text; load it in TensorFlow and save it again, which writes {PROGRAM}"
        )
    why = f"is not a SavedModel: there is no {PROGRAM} in it" if path.exists() else "is not there"
    raise StoreError(f"{path} {why}")


def _tags(program: Path, meta: bytes) -> tuple[str, ...]:
    def read() -> tuple[str, ...]:
        infos = [inner(v) for n, v in fields(meta) if n == 1]
        return tuple(text(v) for info in infos for n, v in fields(info) if n == 4)

    return _guarded(f"{program} is damaged", read)


def _chosen(path: Path, metas: list[tuple[tuple[str, ...], bytes]], tags: tuple[str, ...] | None) -> bytes:
    if not metas:
        raise StoreError(f"{path / PROGRAM} has no graph in it")
    if tags is None:
        serving = [meta for found, meta in metas if found == (SERVE,)]
        if len(serving) == 1 or len(metas) == 1:
            return (serving or [metas[0][1]])[0]
        serving = [meta for found, meta in metas if SERVE in found]
        serving = serving or [meta for found, meta in metas if not found]  # of TensorFlow Hub, beside one for training
        if len(serving) == 1:
            return serving[0]
    else:
        chosen = [meta for found, meta in metas if set(found) == set(tags)]
        if len(chosen) == 1:
            return chosen[0]
    known = " and ".join(repr(",".join(found)) for found, _ in metas)
    raise OptionError(f"{path} has {len(metas)} graphs, tagged {known}; say which by its tags")


def _program(path: Path, meta: bytes, keras: tuple[KerasNode, ...]) -> Program:
    tags: list[str] = []
    version, graph = "", Graph(functions={})
    ops: dict[str, Op] = {}
    signatures: dict[str, Signature] = {}
    assets: list[Asset] = []
    objects: tuple[Saved, ...] = ()
    trainable: set[str] = set()
    for which, value in fields(meta):
        message = inner(value)
        if which == 1:
            for n, v in fields(message):
                if n == 4:
                    tags.append(text(v))
                elif n == 5:
                    version = text(v)
                elif n == 2:
                    found = (Op.parse(inner(op)) for m, op in fields(inner(v)) if m == 1)
                    ops |= {op.name: op for op in found}
        elif which == 2:
            graph = Graph.parse(message)
        elif which == 4:
            key, collection = _entry(message)
            if key == ASSETS:
                assets += [_asset(inner(v)) for listed in _listed(collection, 5) for n, v in fields(listed) if n == 2]
            elif key == TRAINABLE:
                names = (text(v) for listed in _listed(collection, 2) for n, v in fields(listed) if n == 1)
                trainable |= {split_reference(name)[0] for name in names}
        elif which == 5:
            signature = _signature(message)
            if signature.name != INITIALIZER:
                signatures[signature.name] = signature
        elif which == 6:
            assets.append(_asset(message))
        elif which == 7:
            objects = _objects(message)
    return Program(
        path=path,
        tags=tuple(tags),
        version=version,
        graph=graph,
        ops=MappingProxyType(ops),
        signatures=MappingProxyType(dict(sorted(signatures.items()))),
        assets=tuple(dict.fromkeys(assets)),
        objects=objects,
        keras=keras,
        trainable=frozenset(trainable),
    )


def _listed(collection: bytes, kind: int) -> Iterator[bytes]:
    """Yield the messages that a collection lists."""
    for n, listed in fields(collection):
        if n == kind:
            yield from (inner(v) for m, v in fields(inner(listed)) if m == 1)


def _signature(message: bytes) -> Signature:
    name, body = _entry(message)
    ports: dict[int, dict[str, Port]] = {1: {}, 2: {}}
    method = ""
    for n, v in fields(body):
        if n in ports:
            key, info = _entry(inner(v))
            ports[n][key] = _port(key, info)
        elif n == 3:
            method = text(v)
    inputs, outputs = (MappingProxyType(dict(sorted(ports[n].items()))) for n in (1, 2))
    return Signature(name=name, inputs=inputs, outputs=outputs, method=method)


def _port(key: str, message: bytes) -> Port:
    tensor, dtype, composite = "", 0, False
    shape: Shape = ()
    for n, v in fields(message):
        if n == 1:
            tensor = text(v)
        elif n == 2:
            dtype = number(v)
        elif n == 3:
            shape = parse_shape(inner(v))
        elif n in (4, 5):
            composite = True
    return Port(key=key, tensor=tensor, dtype=type_name(dtype), shape=shape, composite=composite)


def _entry(message: bytes) -> tuple[str, bytes]:
    found: dict[int, bytes] = {n: inner(v) for n, v in fields(message) if n in (1, 2)}
    return found.get(1, b"").decode("utf-8"), found.get(2, b"")


def _asset(message: bytes) -> Asset:
    tensor, filename = "", ""
    for n, v in fields(message):
        if n == 1:
            tensor = next((text(t) for m, t in fields(inner(v)) if m == 1), "")
        elif n == 2:
            filename = text(v)
    return Asset(tensor=tensor, filename=filename)


def _check_assets(program: Program) -> None:
    """Refuse assets that lie outside of the directory or are not there."""
    folder = program.path / "assets"
    for asset in program.assets:
        name = PurePosixPath(asset.filename)
        if not asset.filename or name.is_absolute() or ".." in name.parts or "\0" in asset.filename:
            raise StoreError(f"{program.path} has the asset {asset.filename!r}, which lies outside of its directory")
        file = folder / name
        if not file.is_file():
            raise StoreError(f"{program.path} has the asset {asset.filename!r}, and {file} is not there")
        inside(file, program.path)


KINDS = {
    4: "user",
    5: "asset",
    6: "function",
    7: "variable",
    8: "concrete_function",
    9: "constant",
    10: "resource",
    12: "captured",
}


def _objects(message: bytes) -> tuple[Saved, ...]:
    found = tuple(_object(inner(v)) for n, v in fields(message) if n == 1)
    for saved in found:
        for child, _ in saved.children:
            if not 0 <= child < len(found):
                raise ValueError(f"an object refers to object {child} of {len(found)}")
    return found


def _object(message: bytes) -> Saved:
    kind = identifier = metadata = ""
    variable = None
    children, functions = [], []
    for which, value in fields(message):
        if which == 1:
            at, name = 0, ""
            for n, v in fields(inner(value)):
                at, name = (number(v), name) if n == 1 else (at, text(v)) if n == 2 else (at, name)
            children.append((at, name))
        elif which in KINDS:
            kind, body = KINDS[which], inner(value)
            if kind == "user":
                texts = {n: text(v) for n, v in fields(body) if n in (1, 3)}
                identifier, metadata = texts.get(1, ""), texts.get(3, "")
            elif kind == "variable":
                variable = _variable(body)
            elif kind in ("function", "concrete_function"):
                functions = [text(v) for n, v in fields(body) if n == 1]
    return Saved(
        kind=kind,
        identifier=identifier,
        metadata=metadata,
        children=tuple(children),
        variable=variable,
        functions=tuple(functions),
    )


def _variable(message: bytes) -> Variable:
    name, dtype, trainable = "", 0, False
    shape: Shape = ()
    for n, v in fields(message):
        if n == 1:
            dtype = number(v)
        elif n == 2:
            shape = parse_shape(inner(v))
        elif n == 3:
            trainable = bool(v)
        elif n == 6:
            name = text(v)
    return Variable(name=name, dtype=type_name(dtype), shape=shape, trainable=trainable)


def _keras_node(message: bytes) -> KerasNode:
    at, texts = 0, {}
    for n, v in fields(message):
        if n == 2:
            at = number(v)
        elif n in (3, 4, 5):
            texts[n] = text(v)
    return KerasNode(number=at, path=texts.get(3, ""), identifier=texts.get(4, ""), metadata=texts.get(5, ""))

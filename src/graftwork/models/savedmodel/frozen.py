"""Frozen graphs of TensorFlow 1, one or several joined, as a SavedModel or as one frozen graph.

A graph is looked at without TensorFlow: what its outputs need, where its inputs cut it off, whether something in it needs variables, Python
or tables that nothing fills. Nodes of several graphs stand under their labels, and so do functions and shared resources: nothing of one
graph is taken for the other's.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from graftwork.errors import MismatchError, OptionError, StoreError, UnknownNameError
from graftwork.stores.base import Format
from graftwork.stores.saved_program import TABLES, Port, Program, read_frozen, shown_shape
from graftwork.stores.tf_program import PYTHON, Node, split_reference, type_name

VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")
"""Operations that hold a variable, which a frozen graph has none of."""

FILLING = (
    *("InitializeTable", "InitializeTableV2", "InitializeTableFromTextFile", "InitializeTableFromTextFileV2"),
    *("LookupTableImport", "LookupTableImportV2"),
)
"""Operations that fill a lookup table."""

FED = ("Placeholder", "PlaceholderV2")
"""Operations that only give what they are given."""

SINKS = ("NoOp", "Assert", "Print", "Const", *FILLING)
"""Operations that nobody uses as outputs."""


def _not_read(path: Path) -> NoReturn:
    raise StoreError(
        f"{path} is a frozen graph, which has no variables; make a SavedModel of it (savedmodel from-frozen-graph)"
    )


FROZEN = Format(
    name="frozen_graph",
    summary="frozen graph of TensorFlow 1",
    suffixes=(".pb",),
    recognise=Path.is_file,
    open=_not_read,
    create=None,
)
"""What has to be known of the format to replace an earlier file of it."""


@dataclass(frozen=True, slots=True, order=True)
class Tensor:
    """A tensor of one of the graphs: number of the graph, node, number of the node's output."""

    graph: int
    node: str
    output: int = 0

    def __str__(self) -> str:
        return f"{self.node}:{self.output}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """A frozen graph.

    Attributes:
        label: What it is called.
        path: Its file.
        program: What the file tells.
        nodes: Its nodes by name.
        prefix: What stands before their names in the result.
    """

    label: str
    path: Path
    program: Program
    nodes: Mapping[str, Node]
    prefix: str


@dataclass(slots=True, kw_only=True)
class Joined:
    """What of some frozen graphs is wanted, and how they go together.

    Attributes:
        graphs: The graphs, in order.
        connected: Which tensor takes the place of another one.
        inputs: Tensors that are given from outside, by the name that they get.
        outputs: Tensors that are wanted, likewise.
        kept: The nodes of each graph that the outputs need.
        filling: The nodes of each graph that fill tables that are needed.
        notes: What the user should know.
        unsaid: Whether nobody said which outputs are wanted.
    """

    graphs: tuple[Frozen, ...]
    connected: dict[Tensor, Tensor]
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    kept: list[set[str]] = field(default_factory=list)
    filling: list[set[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unsaid: bool = False

    def port(self, key: str, tensor: Tensor) -> Port:
        """Return what the file tells of a tensor; TensorFlow may know more."""
        node = self.graphs[tensor.graph].nodes[tensor.node]
        shapes = node.shapes()
        return Port(
            key=key,
            tensor=str(tensor),
            dtype=type_name(node.type("dtype") or node.type("T") or 0),
            shape=shapes[tensor.output] if tensor.output < len(shapes) else None,
        )

    def source(self, tensor: Tensor) -> Tensor:
        """Return the tensor that takes a tensor's place, or itself."""
        while tensor in self.connected:
            tensor = self.connected[tensor]
        return tensor


def joined(
    sources: Sequence[tuple[str, Path]],
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    connect: Mapping[str, str] | None = None,
    prefixed: bool,
) -> Joined:
    """Look at frozen graphs, and at what is wanted of them.

    Args:
        sources: Their labels and paths.
        inputs: Tensors that are given from outside, ``node``, ``node:1`` or ``name=node:1``; by default all placeholders that are needed.
        outputs: Tensors that are wanted; by default the only one that nothing uses.
        connect: Which tensor is given to another graph, by the tensor that it takes the place of.
        prefixed: Whether nodes stand under the labels of their graphs, in these texts too.

    Raises:
        StoreError: If a graph is damaged, or needs what is not in it.
        UnknownNameError: If a tensor is named that there is not.
        OptionError: If it is not clear what is wanted.
    """
    graphs = tuple(_frozen(label, path, f"{label}/" if prefixed else "") for label, path in sources)
    found = Joined(graphs=graphs, connected=_connected(graphs, connect or {}), unsaid=not outputs)
    if outputs:
        found.outputs = _named(graphs, outputs, "outputs")
    else:
        found.outputs = _named(graphs, [_only_sink(graphs[-1])], "outputs")
    if inputs:
        found.inputs = _named(graphs, inputs, "inputs")
        fed = [text for text, tensor in found.inputs.items() if tensor in found.connected]
        if fed:
            raise OptionError(
                f"the input {fed[0]!r} is given by another graph, as `connect` says; leave out one of the two"
            )
    _walk(found, stop_at_placeholders=not inputs)
    for graph, kept, filling in zip(graphs, found.kept, found.filling, strict=True):
        _check(graph, kept, filling, {t.node for t in (*found.inputs.values(), *found.connected)})
    straight = [key for key, tensor in found.outputs.items() if found.source(tensor) in found.inputs.values()]
    if straight:
        raise OptionError(f"the output {straight[0]!r} is an input; nothing would be computed for it")
    idle = [key for key, tensor in found.inputs.items() if not _is_used(found, tensor)]
    if idle:
        found.notes.append(f"no output needs the input {', '.join(map(repr, idle))}")
    return found


def _frozen(label: str, path: Path, prefix: str) -> Frozen:
    program = read_frozen(path)
    nodes = {node.name: node for node in program.graph.nodes}
    if len(nodes) != len(program.graph.nodes):
        twice = Counter(node.name for node in program.graph.nodes).most_common(1)[0][0]
        raise StoreError(f"{path} has two nodes that are called {twice!r}")
    return Frozen(label=label, path=path, program=program, nodes=nodes, prefix=prefix)


def tensor_of(graphs: Sequence[Frozen], text: str) -> Tensor:
    """Return the tensor that a text names.

    Raises:
        UnknownNameError: If there is no such node.
    """
    name, rest = split_reference(text.strip())
    if rest and not (rest.isascii() and rest.isdecimal()):
        raise OptionError(f"{text!r} is no tensor; expected a node's name, or node:0, node:1 … for its outputs")
    for number, graph in enumerate(graphs):
        own = name.removeprefix(graph.prefix)
        if name.startswith(graph.prefix) and own in graph.nodes:
            return Tensor(number, own, int(rest or 0))
    where = ", ".join(graph.path.name for graph in graphs)
    raise UnknownNameError(
        f"node in {where}", name, [f"{graph.prefix}{node}" for graph in graphs for node in graph.nodes]
    )


def _named(graphs: Sequence[Frozen], texts: Sequence[str], option: str) -> dict[str, Tensor]:
    """Return tensors by the names that they get: those said, else the last part of the node's name where that tells them apart."""
    said: list[tuple[str, Tensor]] = []
    for text in texts:
        key, equals, name = text.rpartition("=")
        said.append((key.strip() if equals else "", tensor_of(graphs, name)))
    last = Counter(tensor.node.rpartition("/")[2] for key, tensor in said if not key)
    found: dict[str, Tensor] = {}
    for key, tensor in said:
        short, whole = tensor.node.rpartition("/")[2], f"{graphs[tensor.graph].prefix}{tensor.node}".replace("/", "_")
        name = key or (short if last[short] == 1 else whole + (f"_{tensor.output}" if tensor.output else ""))
        if name in found:
            raise OptionError(f"two {option} would be called {name!r}; say what they are called: NAME={tensor}")
        found[name] = tensor
    return found


def _connected(graphs: Sequence[Frozen], connect: Mapping[str, str]) -> dict[Tensor, Tensor]:
    found: dict[Tensor, Tensor] = {}
    for taken, given in connect.items():
        target, source = tensor_of(graphs, taken), tensor_of(graphs, given)
        if source.graph >= target.graph:
            raise OptionError(
                f"connect: {given!r} is not of a graph before that of {taken!r}, so it cannot be given to it; list the graphs in order"
            )
        node = graphs[target.graph].nodes[target.node]
        one, other = (graphs[t.graph].nodes[t.node] for t in (source, target))
        shapes = one.shapes(), other.shapes()
        dtypes = one.type("dtype") or one.type("T"), node.type("dtype") or node.type("T")
        if None not in dtypes and dtypes[0] != dtypes[1]:
            raise MismatchError(f"{given} is {type_name(dtypes[0] or 0)} and {taken} is {type_name(dtypes[1] or 0)}")
        if all(shapes) and not _fit(shapes[0][source.output], shapes[1][target.output]):
            raise MismatchError(
                f"{given} has shape {shown_shape(shapes[0][source.output])} and {taken} {shown_shape(shapes[1][target.output])}"
            )
        found[target] = source
    return found


def _fit(one: tuple[int | None, ...] | None, other: tuple[int | None, ...] | None) -> bool:
    if one is None or other is None:
        return True
    return len(one) == len(other) and all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))


def _only_sink(graph: Frozen) -> str:
    used = {split_reference(name)[0] for node in graph.nodes.values() for name in node.inputs}
    sinks = [name for name, node in graph.nodes.items() if name not in used and node.op not in (*SINKS, *FED)]
    if len(sinks) != 1:
        listed = ", ".join(map(repr, sinks[:12])) or "none"
        raise OptionError(f"say which tensors of {graph.path.name} are its outputs; nothing uses {listed}")
    return f"{graph.prefix}{sinks[0]}"


def _walk(found: Joined, *, stop_at_placeholders: bool) -> None:
    """Find out what the outputs need; placeholders become inputs where none are said."""
    found.kept = [set() for _ in found.graphs]
    found.filling = [set() for _ in found.graphs]
    placeholders: set[Tensor] = set()
    given = set(found.inputs.values())
    waiting = list(found.outputs.values())
    while waiting:
        tensor = found.source(waiting.pop())
        node = found.graphs[tensor.graph].nodes.get(tensor.node)
        if tensor in given or tensor.node in found.kept[tensor.graph]:
            continue
        if node is None:
            raise StoreError(
                f"{found.graphs[tensor.graph].path} refers to the node {tensor.node!r}, which is not in it"
            )
        if node.op in FED and stop_at_placeholders:
            placeholders.add(tensor)
            continue
        found.kept[tensor.graph].add(tensor.node)
        waiting += _inputs(tensor.graph, node)
        if node.op in TABLES:
            for name, other in found.graphs[tensor.graph].nodes.items():
                if other.op in FILLING and split_reference(other.inputs[0])[0] == tensor.node:
                    found.filling[tensor.graph].add(name)
                    waiting.append(Tensor(tensor.graph, name))
    if stop_at_placeholders:
        texts = [f"{found.graphs[t.graph].prefix}{t}" for t in sorted(placeholders)]
        found.inputs = _named(found.graphs, texts, "inputs")


def _inputs(graph: int, node: Node) -> Iterator[Tensor]:
    for reference in node.inputs:
        name, rest = split_reference(reference)
        yield Tensor(graph, name, int(rest) if rest.isdecimal() else 0)


def _is_used(found: Joined, tensor: Tensor) -> bool:
    graph = found.graphs[tensor.graph]
    used = {t for name in found.kept[tensor.graph] for t in _inputs(tensor.graph, graph.nodes[name])}
    return tensor in used or tensor in map(found.source, found.outputs.values()) or tensor in found.connected.values()


def _check(graph: Frozen, kept: set[str], filling: set[str], given: set[str]) -> None:
    """Refuse what a graph needs and has not."""
    nodes = tuple(graph.nodes[name] for name in sorted(kept))
    inner = [(f"{name}/{node.name}", node) for name, f in graph.program.graph.used(nodes).items() for node in f.nodes]
    for name, node in (*((node.name, node) for node in nodes), *inner):
        if node.op in VARIABLES:
            raise StoreError(
                f"{graph.path} is not frozen: node {name!r} ({node.op}) needs a variable, whose value is not in the file; freeze it "
                "(tf.compat.v1.graph_util.convert_variables_to_constants), or take the SavedModel that it came from"
            )
        if node.op in PYTHON:
            raise StoreError(
                f"{graph.path} calls a Python function in node {name!r}, which only the process had that made the graph"
            )
        if node.op in FED and node.name not in given:
            raise OptionError(
                f"the outputs need the placeholder {name!r} of {graph.path.name}, which is not among the inputs; add it (--inputs, feeds=)"
            )
    tables = {split_reference(graph.nodes[name].inputs[0])[0] for name in filling}
    empty = [n.name for n in nodes if n.op in ("HashTable", "HashTableV2") and n.name not in tables]
    if empty:
        raise StoreError(
            f"{graph.path} looks something up in the table {empty[0]!r}, and nothing in the file fills it; freeze it with the node that "
            "does (init_all_tables) among the outputs"
        )
    outside = [file for name in filling for file in _files(graph, name)]
    if outside:
        raise StoreError(
            f"{graph.path} fills a table from the file {outside[0]!r}, which is not part of it; take the SavedModel that it came from, "
            "which has the file as an asset"
        )


def _files(graph: Frozen, name: str) -> Iterator[str]:
    node = graph.nodes[name]
    if node.op.startswith("InitializeTableFromTextFile"):
        constant = graph.nodes.get(split_reference(node.inputs[1])[0])
        value = constant.attrs.get("value") if constant is not None else None
        texts = value.texts() if value is not None else ()
        yield texts[0].decode("utf-8", "replace") if texts else "of another node"


def labelled(sources: Sequence[tuple[str, Path]], labels: Sequence[str]) -> list[tuple[str, Path]]:
    """Return sources under labels that can stand before names of nodes.

    Raises:
        OptionError: If there are not as many labels as graphs, one cannot stand there, or two are the same.
    """
    if labels and len(labels) != len(sources):
        raise OptionError(f"`labels` has {len(labels)} names for {len(sources)} graphs")
    names = list(labels) or [re.sub(r"[^A-Za-z0-9_.\-]", "_", path.stem) for _, path in sources]
    if not labels:
        count = Counter(names)
        names = [f"{name}_{number}" if count[name] > 1 else name for number, name in enumerate(names, 1)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.\-]*", name) or names.count(name) > 1:
            raise OptionError(
                f"{name!r} cannot stand before the names of a graph's nodes, or does twice; say labels of letters, digits, points, dashes "
                "and underscores"
            )
    return [(name, path) for name, (_, path) in zip(names, sources, strict=True)]

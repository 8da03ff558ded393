"""One graph without calls: the bodies of functions stand where they are called, their nodes under the name of the call.

A signature of TensorFlow 2 is one node that calls a function, which calls others. Only in a graph without calls has each tensor inside a
name (``StatefulPartitionedCall/model/dense/Relu``) and can be asked for. This gives these names, and the graph itself, which TensorFlow
can import. Functions that are not called but handed over (the branches of ``If``, the bodies of ``While`` and of ``map``) stay functions,
and so do those with a gradient of their own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from graftwork.errors import StoreError
from graftwork.stores.tf_program import CALLS, Attr, Function, Graph, Node, Op, split_reference

MAX_NODES = 200_000
"""A graph has at most this many nodes once its functions stand in it."""

MAX_STEPS = 1000
"""A tensor is handed through at most this many calls and results."""

MAX_DEPTH = 200
"""Functions call functions at most this deep."""

PLACEMENT = "_class"
"""The attribute that names nodes beside which one is to be placed."""

BEFORE = "_before"
"""What a node is called for which all of a function's body waits."""

Describe = Callable[[str], Op | None]
"""Gives the description of an operation, where it is known."""


@dataclass(slots=True)
class _Scope:
    """A graph, or a function where it is called.

    Attributes:
        prefix: What stands before the names of its nodes.
        nodes: Its nodes by the names that they have in it.
        depth: How many calls lead to it.
        function: The function; None for the graph.
        parent: Where it is called.
        call: The node that calls it.
        inner: The scopes of the calls in it, by the node that calls.
    """

    prefix: str
    nodes: Mapping[str, Node]
    depth: int = 0
    function: Function | None = None
    parent: "_Scope | None" = None
    call: Node | None = None
    inner: "dict[str, _Scope]" = field(default_factory=dict)

    def given(self, name: str) -> str | None:
        """Return what the call gives for an argument, as a reference where it stands; None where there is no such argument."""
        if self.function is None or self.call is None or name in self.nodes:
            return None
        places = (i for i, arg in enumerate(self.function.op.inputs) if arg.name == name)
        place = next(places, None)
        return _data(self.call)[place] if place is not None else None


class Flat:
    """A graph with the bodies of its functions in the place of their calls.

    Args:
        graph: The graph.
        describe: Gives descriptions of operations, which tell apart the outputs of nodes inside functions.
        where: What messages call the graph.

    Attributes:
        nodes: Its nodes by name; their inputs are references in the graph. Where a function was called is a node that does nothing.
        functions: The functions that its nodes still use.

    Raises:
        StoreError: If functions call themselves, the graph becomes too large, or references lead nowhere.
    """

    def __init__(self, graph: Graph, describe: Describe, where: str) -> None:
        self._graph, self._describe, self._where = graph, describe, where
        self._count = 0
        self._scopes: dict[str, _Scope] = {}
        root = _Scope("", self._by_name(graph.nodes))
        scopes = [root]
        for scope in scopes:  # grows while calls are found
            scopes += self._calls_in(scope)
        self._called = {scope.prefix.removesuffix("/"): scope for scope in scopes[1:]}
        found: dict[str, Node] = {}
        for node in self._written(root):
            if node.name in found:
                raise StoreError(f"{where} has two nodes that are called {node.name!r} once functions stand in it")
            found[node.name] = node
        self.nodes: Mapping[str, Node] = MappingProxyType(found)
        self.functions: Mapping[str, Function] = graph.used(tuple(found.values()))

    def resolve(self, reference: str) -> str:
        """Return what a reference refers to: ``node``, or ``node:1`` for a second output.

        Raises:
            StoreError: If it leads nowhere.
        """
        node, rest = split_reference(reference)
        if node in self._called and (not rest or _is_number(rest)):
            scope = self._called[node]
            assert scope.parent is not None and scope.call is not None  # only the graph itself has none
            return self._result(scope, int(rest or 0))
        if node not in self.nodes or not (not rest or _is_number(rest)):
            raise StoreError(f"{self._where} has no tensor {reference!r}")
        return _reference(node, int(rest or 0))

    def beside(self, node: str, reference: str) -> str:
        """Return what a reference refers to in the graph or function that a node was written in.

        Raises:
            StoreError: If it leads nowhere.
        """
        return self._resolve(self._scopes[node], reference)

    def ancestors(self, references: Iterable[str]) -> tuple[Node, ...]:
        """Return the nodes that must run for tensors, in the graph's order."""
        waiting = [split_reference(reference)[0] for reference in references]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += [split_reference(reference)[0] for reference in self.nodes[name].inputs]
        return tuple(node for name, node in self.nodes.items() if name in seen)

    def _by_name(self, nodes: Sequence[Node]) -> dict[str, Node]:
        found = {node.name: node for node in nodes}
        if len(found) != len(nodes):
            raise StoreError(f"{self._where} has two nodes of one name in a graph")
        self._count += len(nodes)
        if self._count > MAX_NODES:
            raise StoreError(f"{self._where} has more than {MAX_NODES:,} nodes once its functions stand in it")
        return found

    def _calls_in(self, scope: _Scope) -> Iterator[_Scope]:
        """Yield a scope for each function that is called in one."""
        for node in scope.nodes.values():
            function = self._function(node)
            if function is None:
                continue
            if scope.depth >= MAX_DEPTH:
                raise StoreError(
                    f"{self._where}: functions call each other more than {MAX_DEPTH} deep, {function.op.name!r} too"
                )
            nodes = self._by_name(function.nodes)
            child = _Scope(f"{scope.prefix}{node.name}/", nodes, scope.depth + 1, function, scope, node)
            scope.inner[node.name] = child
            yield child

    def _function(self, node: Node) -> Function | None:
        """Return the function that a node calls, if it can stand in the node's place."""
        names = node.attrs["f"].functions() if node.op in CALLS and "f" in node.attrs else (node.op,)
        if len(names) != 1 or names[0] not in self._graph.functions or names[0] in self._graph.gradients:
            return None
        op = self._graph.functions[names[0]].op
        single = all(not (arg.number_attr or arg.type_list_attr) for arg in (*op.inputs, *op.outputs))
        fits = single and not op.generic and len(_data(node)) == len(op.inputs)
        return self._graph.functions[names[0]] if fits else None

    def _written(self, scope: _Scope) -> Iterator[Node]:
        """Yield the nodes of a scope, and of the scopes in it, as they are in the whole graph."""
        before = self._waits(scope)
        if scope.call is not None and before == (f"^{scope.prefix}{BEFORE}",):
            assert scope.parent is not None
            waits = [self._resolve(scope.parent, r) for r in scope.call.inputs if r.startswith("^")]
            yield _nothing(f"{scope.prefix}{BEFORE}", (*waits, *self._waits(scope.parent)))
        for node in scope.nodes.values():
            name = scope.prefix + node.name
            self._scopes[name] = scope
            if node.name in scope.inner:
                child = scope.inner[node.name]
                assert child.function is not None
                yield from self._written(child)
                ends = [self._result(child, i) for i in range(len(child.function.op.outputs))]
                runs = [self._resolve(child, f"^{control}") for control in child.function.controls]
                yield _nothing(
                    name, (*dict.fromkeys((*runs, *(f"^{split_reference(end)[0]}" for end in ends))), *before)
                )
                continue
            inputs = [self._resolve(scope, reference) for reference in node.inputs]
            data, waits = [r for r in inputs if r[0] != "^"], [r for r in inputs if r[0] == "^"]
            attrs = {key: attr for key, attr in node.attrs.items() if key != PLACEMENT}
            yield replace(
                node, name=name, inputs=(*data, *dict.fromkeys((*waits, *before))), attrs=MappingProxyType(attrs)
            )

    def _waits(self, scope: _Scope) -> tuple[str, ...]:
        """Return what every node of a scope waits for: what the call did, or the call around it."""
        while scope.call is not None and scope.parent is not None:
            if any(reference.startswith("^") for reference in scope.call.inputs):
                return (f"^{scope.prefix}{BEFORE}",)
            scope = scope.parent
        return ()

    def _result(self, scope: _Scope, index: int) -> str:
        """Return what a result of a called function is in the whole graph."""
        assert scope.function is not None
        outputs = scope.function.op.outputs
        if not 0 <= index < len(outputs):
            raise StoreError(f"{self._where} asks for result {index} of {scope.prefix!r}, which has {len(outputs)}")
        return self._resolve(scope, scope.function.results[outputs[index].name])

    def _resolve(self, scope: _Scope, reference: str) -> str:
        """Return what a reference in a scope is in the whole graph."""
        for _ in range(MAX_STEPS):
            name, rest = split_reference(reference)
            given = scope.given(name) if rest != "^" else None
            if given is not None and scope.parent is not None:
                scope, reference = scope.parent, given
                continue
            if name not in scope.nodes:
                break
            if rest == "^":
                return f"^{scope.prefix}{name}"
            index = self._index(scope, scope.nodes[name], rest)
            if name not in scope.inner:
                return _reference(scope.prefix + name, index)
            scope = scope.inner[name]
            assert scope.function is not None
            if not 0 <= index < len(scope.function.op.outputs):
                break
            reference = scope.function.results[scope.function.op.outputs[index].name]
        raise StoreError(f"{self._where}: the reference {reference!r} in {scope.prefix or 'the graph'!r} leads nowhere")

    def _index(self, scope: _Scope, node: Node, rest: str) -> int:
        """Return which of a node's outputs is meant by what stands behind its name."""
        if not rest or _is_number(rest):
            return int(rest or 0)
        word, _, place = rest.partition(":")
        op = self._describe(node.op)
        if op is None and node.op in self._graph.functions:
            op = self._graph.functions[node.op].op
        if op is None:
            raise StoreError(
                f"{self._where} does not describe the operation {node.op} of node {scope.prefix}{node.name!r}"
            )
        at = 0
        for arg in op.outputs:
            if arg.name == word and (not place or _is_number(place)):
                return at + int(place or 0)
            at += len(arg.types(node, op))
        raise StoreError(
            f"{self._where}: operation {node.op} of node {scope.prefix}{node.name!r} has no output {rest!r}"
        )


def _data(node: Node) -> list[str]:
    return [reference for reference in node.inputs if not reference.startswith("^")]


def _nothing(name: str, waits: Sequence[str]) -> Node:
    attrs: dict[str, Attr] = {}
    return Node(name=name, op="NoOp", inputs=tuple(waits), attrs=MappingProxyType(attrs))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 6


def _reference(node: str, index: int) -> str:
    return f"{node}:{index}" if index else node

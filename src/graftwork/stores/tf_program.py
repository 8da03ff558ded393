"""TensorFlow's graphs: nodes, the functions that they call, and the operations that these are of, read byte by byte.

::

    GraphDef       1 node   2 library {1 function   2 gradient {1 function_name}}
    NodeDef        1 name   2 op   3 input   4 device   5 attr {1 key, 2 value}
    FunctionDef    1 signature (OpDef)   3 node_def   4 ret {1 key, 2 value}   6 control_ret {1 key, 2 value}
    OpDef          1 name   2 input_arg (ArgDef)   3 output_arg (ArgDef)   4 attr
    AttrDef        1 name   3 default_value
    ArgDef         1 name   3 type   4 type_attr   5 number_attr   6 type_list_attr
    AttrValue      1 list {2 s, 6 type, 7 shape, 9 func}   2 s   3 i   6 type   7 shape   8 tensor   10 func {1 name}
    TensorProto    1 dtype   8 string_val

The input of a node in a graph is ``node``, ``node:1`` (its second output) or ``^node`` (run before). Inside a function it is ``argument``,
``node:z:0`` (the first of the output that its operation calls z) or ``^node``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as field_
from types import MappingProxyType

from graftwork.errors import StoreError
from graftwork.stores.tf_bundle import DTYPES, OPAQUE, OTHERS, QUANTIZED
from graftwork.stores.tf_protos import MAX_AXES, Value, field, fields, inner, number, read_varint, text

REFERENCE = 100
"""What is added to a type's number for a reference to a variable of TensorFlow 1."""

PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")
"""Operations that call a Python function of the process that made the graph, which no file holds."""

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
"""Operations that call a function, by their attribute ``f``."""

MAX_TENSORS = 1 << 16
"""A node has at most this many inputs or outputs of one name."""

Shape = tuple[int | None, ...] | None
"""Sizes of axes, None where one is left free; None as a whole where the number of axes is."""


def type_name(code: int) -> str:
    """Return the name of an element type by TensorFlow's number: ours where we store it, else TensorFlow's."""
    code = code - REFERENCE if code > REFERENCE else code
    quantized = f"q{QUANTIZED[code]}" if code in QUANTIZED else None
    return DTYPES.get(code) or quantized or OPAQUE.get(code) or OTHERS.get(code) or f"type {code}"


@dataclass(frozen=True, slots=True)
class Attr:
    """The value of a node's attribute, as it was read."""

    message: bytes

    def type(self) -> int | None:
        """Return the number of the element type that it is."""
        return next((number(v) for n, v in fields(self.message) if n == 6), None)

    def types(self) -> tuple[int, ...]:
        """Return the numbers of the element types that it lists."""
        return tuple(found for v in self._listed(6) for found in ((v,) if isinstance(v, int) else _packed(v)))

    def number(self) -> int | None:
        """Return the whole number that it is."""
        return next((number(v) for n, v in fields(self.message) if n == 3), None)

    def text(self) -> str:
        """Return the text that it is; other bytes are replaced."""
        return next((inner(v).decode("utf-8", "replace") for n, v in fields(self.message) if n == 2), "")

    def shape(self) -> Shape:
        """Return the shape that it is."""
        return next((parse_shape(inner(v)) for n, v in fields(self.message) if n == 7), None)

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes that it lists."""
        return tuple(parse_shape(inner(v)) for v in self._listed(7))

    def functions(self) -> tuple[str, ...]:
        """Return the names of the functions that it is or lists."""
        found = [v for n, v in fields(self.message) if n == 10] + self._listed(9)
        return tuple(text(v) for f in found for n, v in fields(inner(f)) if n == 1)

    def texts(self) -> tuple[bytes, ...]:
        """Return the texts of the tensor that it is."""
        tensors = [inner(v) for n, v in fields(self.message) if n == 8]
        return tuple(inner(v) for tensor in tensors for n, v in fields(tensor) if n == 8)

    def _listed(self, which: int) -> list[Value]:
        return [v for n, listed in fields(self.message) if n == 1 for m, v in fields(inner(listed)) if m == which]


def _packed(message: bytes) -> Iterator[int]:
    """Yield the numbers of a packed list, which looks like fields without tags."""
    at = 0
    while at < len(message):
        value, at = read_varint(message, at)
        yield value


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a graph.

    Attributes:
        name: What it is called in its graph or function.
        op: Its operation, or the function that it calls.
        inputs: References to outputs of other nodes, and to nodes that run before.
        attrs: Its attributes.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    attrs: Mapping[str, Attr]

    @classmethod
    def parse(cls, message: bytes) -> "Node":
        """Read a node."""
        name = op = ""
        inputs: list[str] = []
        attrs: dict[str, Attr] = {}
        for which, value in fields(message):
            if which == 1:
                name = text(value)
            elif which == 2:
                op = text(value)
            elif which == 3:
                inputs.append(text(value))
            elif which == 5:
                key, attr = _entry(inner(value))
                attrs[key] = Attr(attr)
        return cls(name=name, op=op, inputs=tuple(inputs), attrs=MappingProxyType(attrs))

    def encode(self) -> bytes:
        """Return the node's bytes, without the device that it was placed on."""
        attrs = (field(5, field(1, key) + field(2, attr.message)) for key, attr in self.attrs.items())
        return field(1, self.name) + field(2, self.op) + b"".join(field(3, i) for i in self.inputs) + b"".join(attrs)

    def type(self, key: str) -> int | None:
        """Return the number of the element type that an attribute is."""
        return self.attrs[key].type() if key in self.attrs else None

    def functions(self) -> tuple[str, ...]:
        """Return the names of the functions that it uses as attributes."""
        return tuple(name for attr in self.attrs.values() for name in attr.functions())

    def shapes(self) -> tuple[Shape, ...]:
        """Return the shapes of its outputs, as far as they were recorded."""
        if "_output_shapes" in self.attrs:
            return self.attrs["_output_shapes"].shapes()
        return (self.attrs["shape"].shape(),) if self.op.startswith("Placeholder") and "shape" in self.attrs else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """An input or output of an operation or a function: one tensor, or as many as an attribute says."""

    name: str
    type: int = 0
    type_attr: str = ""
    number_attr: str = ""
    type_list_attr: str = ""

    @classmethod
    def parse(cls, message: bytes) -> "Arg":
        """Read an argument."""
        found = {n: v for n, v in fields(message) if n in (1, 3, 4, 5, 6)}
        texts = {n: text(v) for n, v in found.items() if n != 3}
        return cls(
            name=texts.get(1, ""),
            type=number(found.get(3, 0)),
            type_attr=texts.get(4, ""),
            number_attr=texts.get(5, ""),
            type_list_attr=texts.get(6, ""),
        )

    def types(self, node: Node, op: "Op") -> tuple[int, ...]:
        """Return the element types of its tensors at a node, 0 for one that is not told.

        Raises:
            StoreError: If the node claims more tensors than any has.
        """
        attrs = {**op.defaults, **node.attrs}
        if self.type_list_attr:
            return attrs[self.type_list_attr].types() if self.type_list_attr in attrs else ()
        one, count = self.type, 1
        if self.type_attr in attrs:
            one = attrs[self.type_attr].type() or 0
        if self.number_attr:
            count = (attrs[self.number_attr].number() or 0) if self.number_attr in attrs else 0
        if not 0 <= count <= MAX_TENSORS:
            raise StoreError(f"node {node.name!r} ({node.op}) claims to have {count:,} times the tensor {self.name!r}")
        return (one,) * count


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """What an operation or a function takes and gives.

    Attributes:
        generic: Whether attributes decide what it is.
        defaults: Values of attributes that nodes leave out.
    """

    name: str
    inputs: tuple[Arg, ...]
    outputs: tuple[Arg, ...]
    generic: bool = False
    defaults: Mapping[str, Attr] = field_(default_factory=dict)

    @classmethod
    def parse(cls, message: bytes) -> "Op":
        """Read the description of an operation."""
        name, inputs, outputs, generic = "", [], [], False
        defaults: dict[str, Attr] = {}
        for which, value in fields(message):
            if which == 1:
                name = text(value)
            elif which == 2:
                inputs.append(Arg.parse(inner(value)))
            elif which == 3:
                outputs.append(Arg.parse(inner(value)))
            elif which == 4:
                generic = True
                found = {n: inner(v) for n, v in fields(inner(value)) if n in (1, 3)}
                if 3 in found:
                    defaults[text(found.get(1, b""))] = Attr(found[3])
        return cls(
            name=name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            generic=generic,
            defaults=MappingProxyType(defaults),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function of a graph's library.

    Attributes:
        op: Its name, arguments and results.
        nodes: Its body.
        results: Which output of the body is which result.
        controls: Nodes that run whenever it is called.
    """

    op: Op
    nodes: tuple[Node, ...]
    results: Mapping[str, str]
    controls: tuple[str, ...]

    @classmethod
    def parse(cls, message: bytes) -> "Function":
        """Read a function."""
        op, nodes, results, controls = None, [], {}, []
        for which, value in fields(message):
            if which == 1:
                op = Op.parse(inner(value))
            elif which == 3:
                nodes.append(Node.parse(inner(value)))
            elif which == 4:
                key, ret = _entry(inner(value))
                results[key] = text(ret)
            elif which == 6:
                controls.append(text(_entry(inner(value))[1]))
        if op is None:
            raise ValueError("a function has no name")
        missing = [arg.name for arg in op.outputs if arg.name not in results]
        if missing:
            raise ValueError(f"function {op.name!r} does not say what its result {missing[0]!r} is")
        return cls(op=op, nodes=tuple(nodes), results=MappingProxyType(results), controls=tuple(controls))


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """A graph and the functions that it calls.

    Attributes:
        nodes: Its nodes, in the order of the file.
        functions: Its library, by name.
        gradients: The functions that have a gradient of their own.
    """

    nodes: tuple[Node, ...] = ()
    functions: Mapping[str, Function]
    gradients: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, message: bytes) -> "Graph":
        """Read a graph."""
        nodes: list[Node] = []
        functions: dict[str, Function] = {}
        gradients = set()
        for which, value in fields(message):
            if which == 1:
                nodes.append(Node.parse(inner(value)))
            elif which == 2:
                for inside, entry in fields(inner(value)):
                    if inside == 1:
                        function = Function.parse(inner(entry))
                        functions[function.op.name] = function
                    elif inside == 2:
                        gradients |= {text(v) for n, v in fields(inner(entry)) if n == 1}
        return cls(nodes=tuple(nodes), functions=MappingProxyType(functions), gradients=frozenset(gradients))

    def used(self, nodes: tuple[Node, ...]) -> dict[str, Function]:
        """Return the functions of the library that nodes call, and those that these call, in that order."""
        found: dict[str, Function] = {}
        waiting = list(reversed(nodes))
        while waiting:
            node = waiting.pop()
            for name in (node.op, *node.functions()):
                if name in self.functions and name not in found:
                    found[name] = self.functions[name]
                    waiting += reversed(self.functions[name].nodes)
        return found

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Yield every node of the graph and of its functions, after the name of the function, empty for the graph itself."""
        for node in self.nodes:
            yield "", node
        for name, function in self.functions.items():
            for node in function.nodes:
                yield name, node


def _entry(message: bytes) -> tuple[str, bytes]:
    """Return the key and the value of an entry of a mapping."""
    key, value = "", b""
    for n, v in fields(message):
        if n == 1:
            key = text(v)
        elif n == 2:
            value = inner(v)
    return key, value


def parse_shape(message: bytes) -> Shape:
    """Return a shape, of which any part may be left free."""
    sizes: list[int | None] = []
    for which, value in fields(message):
        if which == 3 and value:
            return None
        if which == 2:
            size = next((number(v) for n, v in fields(inner(value)) if n == 1), 0)
            sizes.append(size if size >= 0 else None)
    if len(sizes) > MAX_AXES:
        raise ValueError(f"a shape has {len(sizes):,} axes; graftwork reads tensors of at most {MAX_AXES}")
    return tuple(sizes)


def split_reference(reference: str) -> tuple[str, str]:
    """Return the node of a reference and the rest: an output's number or name, "^" for a node to run before, or nothing."""
    if reference.startswith("^"):
        return reference[1:], "^"
    node, _, rest = reference.partition(":")
    return node, rest

"""The tensors inside a signature, by name: what it computes from its inputs, on the way to its outputs and beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from graftwork.errors import StoreError, UnknownNameError
from graftwork.stores.saved_program import Program, Signature
from graftwork.stores.tf_bundle import OPAQUE, RESOURCE, VARIANT
from graftwork.stores.tf_inlining import Flat
from graftwork.stores.tf_program import Node, Shape, split_reference, type_name

HANDLES = (OPAQUE[RESOURCE], OPAQUE[VARIANT])
"""Types of tensors that only operations of their own can use."""

PLACEHOLDER = "Placeholder"

LEAVING = {"Enter": ("Exit", "RefExit"), "RefEnter": ("Exit", "RefExit"), "Switch": ("Merge",), "RefSwitch": ("Merge",)}
"""Operations behind which loops and branches of TensorFlow 1 begin, and those that end them; what is in between cannot be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """One tensor inside a signature.

    Attributes:
        name: What it is called: as its node, with ``:1`` behind it for a second output.
        op: The operation that computes it.
        dtype: Its element type; empty where the program does not tell.
        shape: Its shape, as far as it was recorded.
        output: Which output of the signature it is; empty for none.
    """

    name: str
    op: str
    dtype: str
    shape: Shape
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Insides:
    """What a signature computes.

    Attributes:
        signature: The signature.
        tensors: By name, in the order of the graph.
        flat: The graph.
        call: The node that calls the signature's function, in programs of TensorFlow 2; names leave it out.
    """

    signature: Signature
    tensors: Mapping[str, Inside]
    flat: Flat
    call: str = ""

    def needed(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the inputs of the signature that tensors depend on."""
        fed = {split_reference(port.tensor)[0]: key for key, port in self.signature.inputs.items()}
        prefix = f"{self.call}/" if self.call else ""
        waiting = [split_reference(prefix + name)[0] for name in names]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in seen and name in self.flat.nodes:
                seen.add(name)
                waiting += [split_reference(r)[0] for r in self.flat.nodes[name].inputs if name not in fed]
        return tuple(key for node, key in fed.items() if node in seen)

    def find(self, name: str, where: str) -> Inside:
        """Return the tensor that a user names: by its whole name, by the name of an output, or by the end of a name that only one has.

        Raises:
            UnknownNameError: If there is none.
            StoreError: If several end in this.
        """
        wanted = name.removesuffix(":0")
        if wanted in self.tensors:
            return self.tensors[wanted]
        outputs = [tensor for tensor in self.tensors.values() if wanted in tensor.output.split(", ")]
        ends = outputs or [tensor for tensor in self.tensors.values() if tensor.name.endswith(f"/{wanted}")]
        if len(ends) == 1:
            return ends[0]
        what = f"tensor inside signature {self.signature.name!r} of {where}"
        if not ends:
            raise UnknownNameError(what, name, self.tensors)
        shown = " and ".join(repr(tensor.name) for tensor in ends[:4])
        raise StoreError(
            f"{len(ends)} tensors inside signature {self.signature.name!r} of {where} end in {name!r}: {shown}; give more of the name"
        )


def insides(program: Program, signature: Signature) -> Insides:
    """Return the tensors that a signature computes from its inputs.

    Constants and the values of variables are left out, and so is what needs more than the signature is given, and what stands inside a
    loop.

    Raises:
        StoreError: If the graph is damaged.
    """
    where = str(program.path)
    by_name = {node.name: node for node in program.graph.nodes}
    fed = {split_reference(port.tensor)[0] for port in signature.inputs.values() if port.tensor}
    fetched = {split_reference(port.tensor)[0] for port in signature.outputs.values() if port.tensor}
    flat = Flat(program.relevant(fed, fetched), program.ops.get, where)
    only = by_name[next(iter(fetched))] if len(fetched) == 1 and fetched <= set(by_name) else None
    call = only.name if only is not None and program.objects and only.name not in fed else ""
    prefix = f"{call}/" if call else ""
    outputs: dict[str, list[str]] = {}
    for port in signature.outputs.values():
        if port.tensor:
            outputs.setdefault(flat.resolve(port.tensor), []).append(port.key)
    reached = _behind(flat, fed, ())
    foreign = {n.name for n in flat.nodes.values() if n.op == PLACEHOLDER and n.name not in fed and _is_plain(n)}
    unknown = _behind(flat, foreign, ())
    for op, ends in LEAVING.items():
        unknown |= _behind(flat, (n.name for n in flat.nodes.values() if n.op == op), ends)
    found: dict[str, Inside] = {}
    for node in flat.nodes.values():
        asked = node.name in reached and node.name not in unknown and node.name not in fed and node.op != "NoOp"
        for index, (dtype, shape) in enumerate(_outputs(program, node)):
            reference = f"{node.name}:{index}" if index else node.name
            if dtype in HANDLES or not (asked or reference in outputs):
                continue
            name = reference.removeprefix(prefix)
            keys = ", ".join(outputs.get(reference, ()))
            found[name] = Inside(name=name, op=node.op, dtype=dtype, shape=shape, output=keys)
    return Insides(signature=signature, tensors=MappingProxyType(found), flat=flat, call=call)


def _behind(flat: Flat, begin: Iterable[str], ends: tuple[str, ...]) -> set[str]:
    """Return the names of nodes that take something from others, directly or not, these included; not beyond operations of some kinds."""
    users: dict[str, list[str]] = {}
    for node in flat.nodes.values():
        for reference in node.inputs:
            if not reference.startswith("^"):
                users.setdefault(split_reference(reference)[0], []).append(node.name)
    waiting = [name for name in begin if name in flat.nodes]
    seen = set(waiting)
    while waiting:
        for user in users.get(waiting.pop(), ()):
            if user not in seen and flat.nodes[user].op not in ends:
                seen.add(user)
                waiting.append(user)
    return seen


def _is_plain(node: Node) -> bool:
    return type_name(node.type("dtype") or 0) not in HANDLES


def _outputs(program: Program, node: Node) -> list[tuple[str, Shape]]:
    """Return dtype and shape of each output of a node."""
    op = program.ops.get(node.op)
    if op is None:
        return [("", node.shapes()[0] if node.shapes() else None)] if node.op != "NoOp" else []
    shapes = node.shapes()
    types = [code for arg in op.outputs for code in arg.types(node, op)]
    return [(type_name(code), shapes[i] if i < len(shapes) else None) for i, code in enumerate(types)]

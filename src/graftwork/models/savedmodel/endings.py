"""What the outputs of signatures come out of: their last operation that computes something, also where functions call it."""

from collections.abc import Mapping

from graftwork.errors import StoreError
from graftwork.models.outputs import Kind
from graftwork.stores.saved_program import Port, Program
from graftwork.stores.tf_inlining import Flat
from graftwork.stores.tf_program import split_reference

PASSING = ("Identity", "IdentityN", "StopGradient", "Snapshot", "PreventGradient", "EnsureShape", "CheckNumerics")
"""Operations that give on what they get: the first input, or each its own."""

KINDS_OF: Mapping[str, Kind] = {"Softmax": "probabilities", "Sigmoid": "sigmoid", "LogSoftmax": "logits"}
"""What the outputs of an operation are."""


class Endings:
    """The operations that the outputs of a program come out of.

    Args:
        program: The program.
    """

    def __init__(self, program: Program) -> None:
        try:
            self._graph: Flat | None = Flat(program.graph, program.ops.get, str(program.path))
        except StoreError:  # too large, or built in an unusual way; the user then says what outputs are
            self._graph = None

    def of(self, port: Port) -> str:
        """Return the operation that an output comes out of, such as ``Softmax``."""
        if self._graph is None:
            return "a graph that is not looked into"
        reference, seen = self._graph.resolve(port.tensor.removesuffix(":0")), set[str]()
        while reference not in seen:
            seen.add(reference)
            name, output = split_reference(reference)
            node = self._graph.nodes[name]
            given = [each for each in node.inputs if not each.startswith("^")]
            at = int(output or 0) if node.op == "IdentityN" else 0
            if node.op not in PASSING or at >= len(given):
                return node.op
            reference = given[at]
        return "a cycle"

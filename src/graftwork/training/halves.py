"""A model in two at a tensor: the trunk that makes it, and the head behind it, for as long as the head is trained alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graftwork.compose.cuts import cut
from graftwork.compose.graph import Graph, Tap
from graftwork.compose.naming import Names
from graftwork.compose.parts import like
from graftwork.compose.ports import Port, graph_of
from graftwork.compose.trained import Part, parts
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Two sides of a tensor.

    Attributes:
        model: The model.
        below: The tensor.
        port: The same, by name.
        behind: The layers behind it, by their `id`.
        why_not: Why there is no head that can stand alone; "" where there is one.
    """

    model: Any
    below: Tap
    port: Port
    behind: Mapping[int, Any]
    why_not: str

    def leaves(self) -> list[Part]:
        """Return the layers before the tensor, each once, in the model's order."""
        found = [leaf for part in parts(self.model) for leaf in part.leaves() if id(leaf.layer) not in self.behind]
        return list({id(leaf.layer): leaf for leaf in found}.values())

    def trunk(self) -> Any:
        """Return the model that makes the tensor, of the same layers."""
        return keras.Model(graph_of(self.model)._inputs_struct, self.below.tensor, name="trunk")

    def head(self) -> Any:
        """Return the model that makes the output of the tensor, of the same layers; `settle` is to be called once it is not needed."""
        graph = Graph(self.model, [self.below])
        base = graph.same(self.below.key)
        given = like(self.below.tensor, "features")
        values = graph.run(graph.needed(graph.outputs, [base]), {base: given}, Names())
        return keras.Model(given, values[graph.outputs[0]], name="head")


def halves(model: Any, below: Tap) -> Halves:
    """Return a model in two.

    Args:
        model: A Functional with one output.
        below: A tensor that its output comes from.
    """
    graph = Graph(model, [below], deep=True)
    base = graph.same(below.key)
    found = cut(graph, [base], graph.outputs)
    layers = [each for step in found.behind for each in getattr(step.operation, "_flatten_layers", list)()]
    tensor = below.tensor
    why = ""
    if below.within:
        why = f"{below.address!r} lies inside a nested model"
    elif not found.clean:
        why = f"something passes by {below.address!r}: what lies behind is not computed from it alone"
    port = Port(below.address, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype), tensor)
    return Halves(model=model, below=below, port=port, behind={id(each): each for each in layers}, why_not=why)

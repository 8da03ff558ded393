"""Gradients of their own that operations have (`tf.custom_gradient`), where their graph has been put into another one.

Such a gradient is a function that TensorFlow registers when it loads a SavedModel. It refers to tensors of the graph that was loaded, which
mean nothing in the part that is cut out; here it is handed those of the part.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from graftwork.errors import StoreError
from graftwork.stores.tf_inlining import Flat
from graftwork.stores.tf_program import Attr, Node
from graftwork.stores.tf_protos import field

KEY = "_gradient_op_type"
"""The attribute that names the gradient."""

_NUMBERS = itertools.count()


class Gradients:
    """The gradients of a part of a graph.

    Args:
        flat: The whole graph.
        nodes: The part.

    Attributes:
        needed: What the gradients refer to.
        tensors: What these references are in the part; to be filled when it has been imported.
    """

    def __init__(self, flat: Flat, nodes: Sequence[Node]) -> None:
        self.needed: list[str] = []
        self.tensors: dict[str, Any] = {}
        self._kinds: dict[str, str] = {}
        for node in nodes:
            if KEY in node.attrs:
                self._kinds[node.name] = self._registered(flat, node)

    def renamed(self, node: Node) -> Mapping[str, Attr]:
        """Return the attributes of a node, with the gradient that is for the part."""
        if node.name not in self._kinds:
            return node.attrs
        return MappingProxyType({**node.attrs, KEY: Attr(field(2, self._kinds[node.name]))})

    def _registered(self, flat: Flat, node: Node) -> str:
        """Register a gradient for a node of the part and return its name."""
        import tensorflow as tf

        function = _function(node.attrs[KEY].text())
        given: list[Any] = []
        for tensor in function.captured_inputs if function is not None else ():
            if hasattr(tensor, "numpy"):  # a value, not a tensor of a graph
                given.append(tensor)
            else:
                given.append(flat.beside(node.name, f"{tensor.op.name}:{tensor.value_index}"))
        self.needed += [reference for reference in given if isinstance(reference, str)]
        name = f"graftwork_{next(_NUMBERS)}"
        tf.RegisterGradient(name)(self._gradient(function, given, node.name))
        return name

    def _gradient(self, function: Any, given: Sequence[Any], where: str) -> Callable[..., Any]:
        import tensorflow as tf

        def gradient(op: Any, *upstream: Any) -> Any:
            if function is None:
                raise StoreError(
                    f"operation {where!r} has a gradient of its own that the SavedModel does not hold; save it with "
                    "tf.saved_model.SaveOptions(experimental_custom_gradients=True), or train only what stands behind it"
                )
            grads = [tf.zeros_like(out) if g is None else g for g, out in zip(upstream, op.outputs, strict=True)]
            captured = [self.tensors[one] if isinstance(one, str) else one for one in given]
            return function._call_flat(grads, captured)

        return gradient


def _function(kind: str) -> Any:
    """Return the function that TensorFlow has registered under a name when it loaded a SavedModel; None if it was something else."""
    from tensorflow.python.framework import ops

    try:
        registered = ops.gradient_registry.lookup(kind)
    except LookupError:
        return None
    cells = (cell.cell_contents for cell in registered.__closure__ or ())
    return next((content for content in cells if hasattr(content, "captured_inputs")), None)

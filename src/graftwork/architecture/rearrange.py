"""Where the order of channels goes when the branches of a concatenation stand in another order in B than in A.

Each tensor of B whose last axis is ordered otherwise than in A carries the slices of that axis in A's order. The order is followed
through layers that treat channels one by one, whose own variables then move too, to those that take all channels in, where
it ends. Through anything else it cannot be followed, and the merge must not go on as if it could.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graftwork.architecture.compare import Difference, describe, inner_layers, is_builtin, is_operation, kind_of
from graftwork.architecture.layer import Layer
from graftwork.architecture.wiring import Node, Shape, Tensor, Wiring

Block = tuple[int, int]
"""A slice of an axis: where it starts and how long it is."""


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """One variable of B that must be permuted before it meets A's.

    Attributes:
        layer: Chain of layer names in B.
        variable: Name of the variable (``"kernel"``, ``"gamma"``, …). A layer built without it (``use_bias=False``) is not listed.
        axis: Which of its axes, counted from the last (-2 are a kernel's inputs).
        blocks: Slices ``(start, length)`` of B's axis in the order in which A has them; together the whole axis.
        reason: Why, for reports.
    """

    layer: str
    variable: str
    axis: int
    blocks: tuple[Block, ...]
    reason: str


@dataclass(slots=True, eq=False)
class GraphPair:
    """Two graphs and which node of one is which of the other.

    Attributes:
        a: The graph of A.
        b: The graph of B.
        path_a: Chain of layer names that leads to the graph; empty for the model itself.
        path_b: Likewise in B.
        nodes: Number of a node in A to that in B.
        back: The reverse.
        order: For a node of A whose inputs may stand in another order: slot in A to slot in B.
        inner: Pairs of the models among the layers, by the layer's number in A.
    """

    a: Wiring
    b: Wiring
    path_a: str
    path_b: str
    nodes: dict[int, int] = field(default_factory=dict)
    back: dict[int, int] = field(default_factory=dict)
    order: dict[int, dict[int, int]] = field(default_factory=dict)
    inner: dict[int, "GraphPair"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """An order of channels and the concatenation that it comes from.

    Attributes:
        blocks: Slices of B's axis in A's order.
        where_a: The concatenation in A.
        where_b: The same in B.
        a: Names of its inputs in A.
        b: Names of its inputs in B.
    """

    blocks: tuple[Block, ...]
    where_a: str
    where_b: str
    a: tuple[str, ...]
    b: tuple[str, ...]

    def moved(self, blocks: tuple[Block, ...]) -> "Order":
        """Return another order with the same origin."""
        return Order(blocks, self.where_a, self.where_b, self.a, self.b)

    def times(self, factor: int) -> "Order":
        """Return the order when each channel becomes so many that stand together."""
        return self.moved(tuple((start * factor, length * factor) for start, length in self.blocks))

    def repeated(self, count: int) -> "Order":
        """Return the order of an axis that holds all channels so many times, as flattening positions × channels makes it."""
        width = sum(length for _, length in self.blocks)
        return self.moved(tuple((k * width + start, length) for k in range(count) for start, length in self.blocks))

    @property
    def reason(self) -> str:
        """Say where the order comes from."""
        return f"{self.where_b!r} concatenates {_listed(self.b)} where the first model has {_listed(self.a)}"


class _StuckError(Exception):
    """The order of channels cannot be followed; the text says why."""


_MAX_BLOCKS = 1 << 16
_MAX_DIFFERENCES = 50

_ELEMENTWISE = frozenset(
    """
    Activation ReLU LeakyReLU ELU ThresholdedReLU Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D
    GaussianDropout GaussianNoise AlphaDropout ActivityRegularization Identity Masking
    """.split()  # noqa: SIM905 (names to read, not a column)
)
_ACTIVATIONS = frozenset(
    """
    linear relu relu6 elu selu celu gelu silu mish sigmoid hard_sigmoid hard_silu hard_swish tanh hard_tanh softplus
    softsign exponential leaky_relu log_sigmoid hard_shrink soft_shrink tanh_shrink squareplus sparse_plus threshold
    softmax log_softmax sparsemax
    """.split()  # noqa: SIM905 (names to read, not a column)
)
"""Activations that do not care in which order the channels stand (softmax and its kin move with them)."""

_MERGES = frozenset({"Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"})
_OPERATIONS = frozenset(
    """
    Add Subtract Multiply Divide TrueDivide Maximum Minimum Power Relu Relu6 Sigmoid Tanh Silu Gelu Elu Selu
    Softplus Softsign Exp Log Sqrt Square Abs Absolute Negative Sin Cos Clip Cast LeakyRelu HardSigmoid HardSilu
    Identity
    """.split()  # noqa: SIM905 (names to read, not a column)
)
_WINDOWS = frozenset(
    """
    MaxPooling AveragePooling GlobalMaxPooling GlobalAveragePooling ZeroPadding Cropping UpSampling
    """.split()  # noqa: SIM905 (names to read, not a column)
)
_NORMALIZATIONS = {
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "LayerNormalization": ("gamma", "beta"),
    "RMSNormalization": ("scale",),
}


@dataclass(slots=True, eq=False)
class Flow:
    """Follows orders of channels through a pair of graphs.

    Attributes:
        moves: Variables to rearrange, by layer and name.
        differences: Where an order could not be followed.
        graphs: What came out of each pair of graphs, by identity; a shared model is gone through once.
    """

    moves: dict[tuple[str, str], Rearrangement] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    graphs: dict[int, list[Order | None]] = field(default_factory=dict)

    def run(self, pair: GraphPair) -> None:
        """Follow every order that begins in a pair of models."""
        for order, (key, _) in zip(self._graph(pair, {}), pair.a.outputs, strict=True):
            if order is not None:
                where = f"the model's output {key!r}" if len(pair.a.outputs) > 1 else "the model's output"
                self._refuse(order, f"the order of channels would show in {where}")

    def _refuse(self, order: Order, reason: str) -> None:
        found = Difference(order.where_a, order.where_b, "inputs", list(order.a), list(order.b), reason)
        if len(self.differences) < _MAX_DIFFERENCES and found not in self.differences:
            self.differences.append(found)

    def _graph(self, pair: GraphPair, inputs: Mapping[int, Order]) -> list[Order | None]:
        """Return the orders of a graph's outputs, from those of its inputs by number."""
        if id(pair) in self.graphs:
            return self.graphs[id(pair)]
        orders: dict[Tensor, Order] = {}
        for number, (_, tensor) in enumerate(pair.a.inputs):
            if number in inputs:
                orders[tensor] = inputs[number]
        shared: dict[int, list[Order | None]] = {}
        for number, node in enumerate(pair.a.nodes):
            if number not in pair.nodes or node.is_input:
                continue
            given = [orders.get(tensor) for tensor in node.inputs]
            try:
                self._check_shared(node, given, shared)
                for output, order in enumerate(self._node(pair, number, node, given)):
                    if order is not None:
                        orders[number, output] = order
            except _StuckError as stuck:
                known = [order for order in (*given, *shared.get(node.place, ())) if order is not None]
                self._refuse(known[0] if known else _begin(pair, number, node, ()), str(stuck))
        self.graphs[id(pair)] = [orders.get(tensor) for _, tensor in pair.a.outputs]
        return self.graphs[id(pair)]

    def _check_shared(self, node: Node, given: Sequence[Order | None], shared: dict[int, list[Order | None]]) -> None:
        """See to it that all uses of a shared layer ask for the same."""
        if len(node.layer.calls) > 1:
            before = shared.setdefault(node.place, list(given))
            if [order and order.blocks for order in before] != [order and order.blocks for order in given]:
                raise _StuckError(
                    f"layer {node.layer.name!r} is shared, and its uses would need different orders of channels"
                )

    def _node(self, pair: GraphPair, number: int, node: Node, given: Sequence[Order | None]) -> Sequence[Order | None]:
        other = pair.b.nodes[pair.nodes[number]]
        path = f"{pair.path_b}/{other.layer.name}" if pair.path_b else other.layer.name
        if node.layer.graph is not None:
            inner = pair.inner.get(node.place)
            if inner is None or (any(given) and len(node.inputs) != len(inner.a.inputs)):
                raise _StuckError(
                    f"it goes on into model {node.layer.name!r}, which is not given one tensor for each input"
                )
            return self._graph(inner, {k: order for k, order in enumerate(given) if order is not None})
        if node.flippable and node.concatenates:
            return [_concatenated(pair, number, node, given)]
        if not any(given):
            return []
        shapes = [pair.b.shapes.get(tensor) for tensor in other.inputs]
        return [self._layer(node.layer, other.layer, path, given, shapes, node)]

    def _layer(
        self,
        layer: Layer,
        other: Layer,
        path: str,
        given: Sequence[Order | None],
        shapes: Sequence[Shape | None],
        node: Node | None,
    ) -> Order | None:
        """Return the order of what a layer makes, and note which of its variables move."""
        kind = kind_of(layer)
        order = next(order for order in given if order is not None)
        config = layer.config
        if is_operation(layer):
            if (
                layer.class_name not in _OPERATIONS
                or node is None
                or any(not isinstance(value, int | float | str) for _, value in node.constants)
            ):
                raise _StuckError(
                    f"it goes on into {layer.name!r} ({kind}), through which the order of channels is not followed"
                )
            return _same(given, layer)
        if not is_builtin(layer):
            raise _StuckError(
                f"it goes on into {layer.name!r} ({kind}), of which it is not known what it does with channels"
            )
        if kind in _MERGES:
            return _same(given, layer)
        if kind == "MultiHeadAttention" and node is not None:
            self._attention(path, dict(zip(node.slots, given, strict=True)))
            return None
        if len(given) > 1:
            raise _StuckError(f"it goes on into {layer.name!r} ({kind}), which takes several inputs")
        shape = shapes[0] if shapes else None
        rank = None if shape is None else len(shape)
        fields = describe(layer, rank).fields
        known = fields.get("activation") in _ACTIVATIONS
        if not known and (kind == "Activation" or kind.startswith("DepthwiseConv")):
            raise _StuckError(f"the activation of {layer.name!r} may depend on the order of channels")
        if kind in _ELEMENTWISE:
            return order
        if kind == "Softmax":
            return order
        if kind in _NORMALIZATIONS:
            if fields.get("axis", -1) != -1 or config.get("renorm"):
                raise _StuckError(f"{layer.name!r} ({kind}) does not work on the last axis alone")
            for variable in _NORMALIZATIONS[kind]:
                if not (variable == "gamma" and config.get("scale") is False) and not (
                    variable == "beta" and config.get("center") is False
                ):
                    self._move(path, variable, -1, order)
            return order
        if config.get("data_format") == "channels_first":
            raise _StuckError(f"{layer.name!r} has its channels first")
        if kind.rstrip("123D") in _WINDOWS:
            return order
        if kind == "PReLU":
            shared = list(fields.get("shared_axes") or ())
            if rank is None and shared:
                raise _StuckError(f"the shape of what goes into {layer.name!r} is not known")
            if rank is None or rank - 1 not in shared:
                self._move(path, "alpha", -1, order)
            return order
        if kind == "Flatten":
            return _flattened(order, shape, layer)
        if kind == "Dense" or kind in ("Conv1D", "Conv2D", "Conv3D"):
            if config.get("groups", 1) != 1:
                raise _StuckError(f"{layer.name!r} works on groups of channels")
            self._move(path, "kernel", -2, order)
            return None
        if kind in ("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"):
            self._move(path, "kernel", -1, order)
            return None
        if kind in ("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"):
            self._move(path, "depthwise_kernel" if "filters" in config else "kernel", -2, order)
            multiplier = config.get("depth_multiplier", 1)
            made = order.times(multiplier if type(multiplier) is int else 1)
            if "filters" in config:
                self._move(path, "pointwise_kernel", -2, made)
                return None
            if config.get("use_bias", True):
                self._move(path, "bias", -1, made)
            return made
        if kind == "EinsumDense":
            self._move(path, "kernel", _einsum_axis(layer), order)
            return None
        if kind in ("LSTM", "GRU", "SimpleRNN"):
            self._move(f"{path}/{dict(inner_layers(other))['cell'].name}", "kernel", -2, order)
            return None
        if kind in ("TimeDistributed", "Bidirectional"):
            below = (shape[0], *shape[2:]) if kind == "TimeDistributed" and shape else shape
            came: Order | None = None
            for _, inner in inner_layers(other):
                if inner.graph is not None:
                    raise _StuckError(
                        f"it goes on into model {inner.name!r} in {layer.name!r}, where it is not followed"
                    )
                came = self._layer(inner, inner, f"{path}/{inner.name}", given, [below], None)
            return came
        raise _StuckError(
            f"it goes on into {layer.name!r} ({kind}), through which the order of channels is not followed"
        )

    def _attention(self, path: str, given: Mapping[str, Order | None]) -> None:
        query, value = given.get("0"), given.get("value")
        for name, order in (("query", query), ("value", value), ("key", given.get("key") if "key" in given else value)):
            if order is not None:
                self._move(f"{path}/{name}", "kernel", -3, order)

    def _move(self, path: str, variable: str, axis: int, order: Order) -> None:
        self.moves.setdefault((path, variable), Rearrangement(path, variable, axis, order.blocks, order.reason))


def _same(given: Sequence[Order | None], layer: Layer) -> Order:
    order = next(order for order in given if order is not None)
    if any(other is None or other.blocks != order.blocks for other in given):
        raise _StuckError(
            f"{layer.name!r} ({kind_of(layer)}) joins it with a tensor whose channels stand in another order"
        )
    return order


def _begin(pair: GraphPair, number: int, node: Node, blocks: tuple[Block, ...]) -> Order:
    other = pair.b.nodes[pair.nodes[number]]
    names_a = tuple(pair.a.name(tensor) for tensor in node.inputs)
    names_b = tuple(pair.b.name(tensor) for tensor in other.inputs)
    where_a = f"{pair.path_a}/{node.layer.name}" if pair.path_a else node.layer.name
    where_b = f"{pair.path_b}/{other.layer.name}" if pair.path_b else other.layer.name
    return Order(blocks, where_a, where_b, names_a, names_b)


def _concatenated(pair: GraphPair, number: int, node: Node, given: Sequence[Order | None]) -> Order | None:
    """Return the order of a concatenation of B's tensors, in A's order of the branches."""
    other = pair.b.nodes[pair.nodes[number]]
    places = pair.order.get(number, {})
    flipped = any(slot != place for slot, place in places.items())
    if not flipped and not any(given):
        return None
    axis = describe(node.layer, pair.a.rank(node)).fields.get("axis", -1)
    if axis != -1:
        if not flipped:
            return _same(given, node.layer)
        raise _StuckError(
            f"the branches stand in another order on axis {axis}, and only the last one can be put in order"
        )
    widths: list[int] = []
    for tensor in other.inputs:
        shape = pair.b.shapes.get(tensor)
        if not shape or shape[-1] is None:
            raise _StuckError(
                f"the branches stand in another order, and the width of {pair.b.name(tensor)!r} is not known"
            )
        widths.append(shape[-1])
    starts = list(itertools.accumulate(widths, initial=0))
    blocks: list[Block] = []
    if sum(len(order.blocks) for order in given if order is not None) > _MAX_BLOCKS:
        raise _StuckError("the order of channels falls into too many pieces to be followed")
    for slot, order in enumerate(given):
        place = places.get(slot, slot)
        start = starts[place]
        for begin, length in order.blocks if order is not None else ((0, widths[place]),):
            if blocks and sum(blocks[-1]) == start + begin:
                blocks[-1] = (blocks[-1][0], blocks[-1][1] + length)
            else:
                blocks.append((start + begin, length))
    if len(blocks) == 1:
        return None
    if flipped:
        return _begin(pair, number, node, tuple(blocks))
    return next(order for order in given if order is not None).moved(tuple(blocks))


def _flattened(order: Order, shape: Shape | None, layer: Layer) -> Order:
    if shape is None or None in shape[1:]:
        raise _StuckError(f"{layer.name!r} flattens a tensor whose size is not known")
    count = 1
    for size in shape[1:-1]:
        count *= size or 1
    if count * len(order.blocks) > _MAX_BLOCKS:
        raise _StuckError(f"{layer.name!r} flattens {count:,} positions, too many to put in order one by one")
    return order.repeated(count)


def _einsum_axis(layer: Layer) -> int:
    """Return which axis of the kernel, counted from the last, takes in the input's last one."""
    equation = str(layer.config.get("equation", ""))
    left, _, output = equation.partition("->")
    given, _, kernel = left.partition(",")
    label = given[-1:]
    if label.isalpha() and kernel.count(label) == 1 and given.count(label) == 1 and label not in output:
        return kernel.index(label) - len(kernel)
    raise _StuckError(f"the equation {equation!r} of {layer.name!r} does not take in the last axis as a whole")


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:6])
    return f"{shown} and {len(names) - 6} more" if len(names) > 6 else shown

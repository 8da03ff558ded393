"""The graph inside a model as nodes in an order of computation, the same for a Functional model, a Sequential one, Keras 2 and 3.

A node is one use of a layer. What a call was given is flattened to slots: ``"0"`` for the only tensor of the first argument,
``"0/1"`` for the second one of a list, ``"value"`` for a named argument. References that lead nowhere and cycles are refused.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from graftwork.architecture.compare import inner_layers, is_operation, kind_of
from graftwork.architecture.layer import MAX_DEPTH, Call, Graph, Json, Layer, TensorRef, parse
from graftwork.errors import StoreError

Shape = tuple[int | None, ...]
Tensor = tuple[int, int]
"""A node by its number, and which of its outputs."""

_COMMUTATIVE = frozenset({"Add", "Multiply", "Average", "Maximum", "Minimum"})
"""Layers (and, except for Average, operations) whose inputs may change places."""


@dataclass(slots=True, eq=False)
class Node:
    """One use of one layer.

    Attributes:
        layer: The layer; one without a name stands for the input of a Sequential that has no InputLayer.
        place: Number of the layer among the layers of its graph; -1 for such an input.
        call: Which use of the layer it is.
        inputs: What goes in, one tensor for each slot.
        slots: Where in the arguments each input stands, in the order of `inputs`.
        constants: The other arguments, by slot.
    """

    layer: Layer
    place: int
    call: int
    inputs: tuple[Tensor, ...] = ()
    slots: tuple[str, ...] = ()
    constants: tuple[tuple[str, Json], ...] = ()

    @property
    def flippable(self) -> bool:
        """Whether the inputs can be given in another order, with or without a consequence for what follows."""
        if len(self.inputs) < 2:
            return False
        if is_operation(self.layer):
            return self.layer.class_name in _COMMUTATIVE and not self.constants and len(self.inputs) == 2
        listed = all(slot.startswith("0/") for slot in self.slots)
        return listed and (kind_of(self.layer) in _COMMUTATIVE or self.concatenates)

    @property
    def concatenates(self) -> bool:
        """Whether it is a Concatenate layer."""
        return kind_of(self.layer) == "Concatenate"

    @property
    def is_input(self) -> bool:
        """Whether it stands for an input of the graph."""
        return self.layer.class_name == "InputLayer" or self.place < 0


@dataclass(slots=True, eq=False)
class Wiring:
    """The nodes of one graph, each after those that it needs.

    Attributes:
        graph: The graph as the configuration has it.
        nodes: In an order of computation.
        inputs: The graph's inputs with their keys (see `Graph`).
        outputs: Likewise.
        shapes: Of every tensor whose shape is recorded or follows from the layers.
        users: For each node the nodes that use it, each with the index of its slot.
        inner: Of each model among the layers, by the number of the layer.
    """

    graph: Graph
    nodes: list[Node]
    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[tuple[str, Tensor], ...]
    shapes: dict[Tensor, Shape] = field(default_factory=dict)
    users: list[list[tuple[int, int]]] = field(default_factory=list)
    inner: dict[int, "Wiring"] = field(default_factory=dict)

    def name(self, tensor: Tensor) -> str:
        """Return the name of the layer that makes a tensor."""
        return self.nodes[tensor[0]].layer.name

    def rank(self, node: Node) -> int | None:
        """Return the number of axes of a node's first input, as far as it is known."""
        if node.inputs and node.inputs[0] in self.shapes:
            return len(self.shapes[node.inputs[0]])
        shape = shape_of(node.layer.build_config.get("input_shape"))
        return None if shape is None else len(shape)


def checked(config: Json, where: str) -> Layer:
    """Return the tree of layers of a configuration whose connections all lead somewhere and never in a circle.

    Args:
        config: What ``config.json`` or the attribute ``model_config`` holds.
        where: Whose configuration it is, for messages.

    Raises:
        StoreError: If it does not have the form that Keras writes.
    """
    model = parse(config, where=where)
    try:
        stack = [model]
        while stack:
            layer = stack.pop()
            if layer.graph is not None:
                wire(layer)
                stack += layer.graph.layers
    except StoreError as error:
        raise StoreError(str(error) if where in str(error) else f"{where}: {error}") from error
    return model


def wire(model: Layer, depth: int = 0) -> Wiring:
    """Return the wiring of a model's graph.

    Raises:
        StoreError: If a connection leads nowhere or the graph has a cycle.
    """
    graph = model.graph
    if graph is None:
        raise StoreError(f"{model.class_name} {model.name!r} has no graph of layers to compare")
    if depth > MAX_DEPTH:
        raise StoreError(f"model {model.name!r} nests models more than {MAX_DEPTH} deep; it was not written by Keras")
    wiring = _chain(model, graph) if graph.sequential else _network(model, graph)
    wiring.users = [[] for _ in wiring.nodes]
    for number, node in enumerate(wiring.nodes):
        for slot, (source, _) in enumerate(node.inputs):
            wiring.users[source].append((number, slot))
    _infer(wiring, depth)
    return wiring


def _chain(model: Layer, graph: Graph) -> Wiring:
    nodes: list[Node] = []
    if len({layer.name for layer in graph.layers}) < len(graph.layers):
        twice = Counter(layer.name for layer in graph.layers).most_common(1)[0][0]
        raise StoreError(f"model {model.name!r} has two layers called {twice!r}")
    if not graph.layers or graph.layers[0].class_name != "InputLayer":
        first = graph.layers[0].config if graph.layers else {}
        shape = (
            shape_of(model.build_config.get("input_shape"))
            or shape_of(model.config.get("build_input_shape"))
            or shape_of(first.get("batch_input_shape"))
        )
        given = {} if shape is None else {"batch_shape": list(shape)}
        nodes.append(Node(Layer(name="", class_name="InputLayer", config=given), -1, 0))
    for place, layer in enumerate(graph.layers):
        source = () if not nodes else ((len(nodes) - 1, 0),)
        nodes.append(Node(layer, place, 0, source, ("0",) * len(source)))
    return Wiring(graph, nodes, inputs=(("0", (0, 0)),), outputs=(("0", (len(nodes) - 1, 0)),))


def _network(model: Layer, graph: Graph) -> Wiring:
    found: list[Node] = []
    first: dict[str, tuple[int, int]] = {}  # name -> number of its first node, how many it has
    waiting: list[list[TensorRef]] = []
    for place, layer in enumerate(graph.layers):
        first[layer.name] = (len(found), max(1, len(layer.calls)))
        for use, call in enumerate(layer.calls or (Call(inputs=(), arguments=None),)):
            slots, constants = arguments(call, layer)
            found.append(Node(layer, place, use, slots=tuple(s for s, _ in slots), constants=constants))
            waiting.append([ref for _, ref in slots])

    in_calls, in_outputs = _from_one(graph)

    def locate(ref: TensorRef, what: str, from_one: Set[str]) -> Tensor:
        if ref.layer not in first:
            raise StoreError(
                f"model {model.name!r}: {what} refers to layer {ref.layer!r}, which the model does not have"
            )
        start, uses = first[ref.layer]
        use = ref.call - 1 if ref.layer in from_one else ref.call
        if not 0 <= use < uses or ref.output < 0:
            raise StoreError(
                f"model {model.name!r}: {what} refers to use {ref.call} of layer {ref.layer!r}, which is used {uses} times"
            )
        return start + use, ref.output

    sources = [
        tuple(locate(ref, f"layer {node.layer.name!r}", in_calls) for ref in refs)
        for node, refs in zip(found, waiting, strict=True)
    ]
    order = _order(sources, model)
    number = {old: new for new, old in enumerate(order)}
    for node, tensors in zip(found, sources, strict=True):
        node.inputs = tuple((number[source], output) for source, output in tensors)
    wiring = Wiring(
        graph,
        [found[old] for old in order],
        inputs=_ends(graph.inputs, lambda ref, what: locate(ref, what, set()), number, "its input"),
        outputs=_ends(graph.outputs, lambda ref, what: locate(ref, what, in_outputs), number, "its output"),
    )
    for old, layer_refs in enumerate(sources):
        calls = found[old].layer.calls
        recorded = (
            dict(zip(calls[found[old].call].inputs, calls[found[old].call].shapes, strict=False)) if calls else {}
        )
        for ref, (source, output) in zip(waiting[old], layer_refs, strict=True):
            shape = recorded.get(ref)
            if shape is not None:
                wiring.shapes[number[source], output] = shape
    return wiring


def _from_one(graph: Graph) -> tuple[set[str], set[str]]:
    """Return the layers whose uses count from 1: where calls refer to them, and where the graph's outputs do.

    The use of a Functional model that made the model itself counted as 0. Keras 2 still numbers this way all uses of a model that
    begins with an InputLayer, Keras 3 those of a Functional one (and of subclasses, which do not show) among the outputs only.
    """
    keras_3 = any(
        isinstance(call.arguments, dict) and "args" in call.arguments for layer in graph.layers for call in layer.calls
    )
    by_calls, by_outputs = Counter[str](), Counter[str]()
    zero: set[tuple[str, bool]] = set()
    in_calls = [ref for layer in graph.layers for call in layer.calls for ref in call.inputs]
    for refs, highest, outer in ((in_calls, by_calls, False), ([ref for _, ref in graph.outputs], by_outputs, True)):
        for ref in refs:
            highest[ref.layer] = max(highest[ref.layer], ref.call)
            if ref.call == 0:
                zero.add((ref.layer, outer))
    calls, outputs = set(), set()
    for layer in graph.layers:
        name, uses = layer.name, max(1, len(layer.calls))
        if keras_3:
            model = layer.graph is not None and not layer.graph.sequential
            if (name, True) not in zero and (model or by_outputs[name] == uses):
                outputs.add(name)
            continue
        model = layer.graph is not None and any(x.class_name == "InputLayer" for x in layer.graph.layers[:1])
        seen_zero = (name, True) in zero or (name, False) in zero
        if not seen_zero and (model or (layer.graph is not None and max(by_calls[name], by_outputs[name]) == uses)):
            calls.add(name)
            outputs.add(name)
    return calls, outputs


def _ends(
    ends: Sequence[tuple[str, TensorRef]],
    locate: Callable[[TensorRef, str], Tensor],
    number: Mapping[int, int],
    what: str,
) -> tuple[tuple[str, Tensor], ...]:
    found = []
    for key, ref in ends:
        source, output = locate(ref, f"{what} {key!r}")
        found.append((key, (number[source], output)))
    return tuple(found)


def _order(sources: Sequence[Sequence[Tensor]], model: Layer) -> list[int]:
    """Return the nodes so that each follows its sources (Kahn), those that stand first in the configuration first."""
    missing = [len(tensors) for tensors in sources]
    users: list[list[int]] = [[] for _ in sources]
    for node, tensors in enumerate(sources):
        for source, _ in tensors:
            users[source].append(node)
    ready = deque(node for node, count in enumerate(missing) if count == 0)
    order = []
    while ready:
        node = ready.popleft()
        order.append(node)
        for user in users[node]:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if len(order) < len(sources):
        raise StoreError(f"the connections of model {model.name!r} form a cycle; it was not written by Keras")
    return order


_PARAMETERS = {
    "MultiHeadAttention": ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask"),
    "GroupQueryAttention": ("query", "value", "key", "query_mask", "value_mask", "key_mask", "attention_mask"),
    "LSTM": ("sequence", "initial_state", "mask"),
    "GRU": ("sequence", "initial_state", "mask"),
    "SimpleRNN": ("sequence", "initial_state", "mask"),
    "RNN": ("sequence", "initial_state", "mask"),
    "Bidirectional": ("sequences", "initial_state", "mask"),
}
"""Names of the arguments of calls, for those that are often given by position here and by name there."""

_TRAINING_UNLESS_TOLD = frozenset(
    {
        *("AugMix", "AutoContrast", "CenterCrop", "CutMix", "Equalization", "MixUp", "RandAugment", "RandomBrightness"),
        *(
            "RandomColorDegeneration",
            "RandomColorJitter",
            "RandomContrast",
            "RandomCrop",
            "RandomErasing",
            "RandomFlip",
        ),
        *(
            "RandomGaussianBlur",
            "RandomGrayscale",
            "RandomHue",
            "RandomInvert",
            "RandomPerspective",
            "RandomPosterization",
        ),
        *("RandomRotation", "RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
        *("RandomElasticTransform", "Resizing", "Solarization"),
    }
)
"""Layers whose ``training`` is True by default: Keras 3 writes that as if it had been asked for, Keras 2 and 3.0 to 3.3 do not for all."""


def arguments(call: Call, layer: Layer) -> tuple[list[tuple[str, TensorRef]], tuple[tuple[str, Json], ...]]:
    """Flatten the arguments of a call to tensors and constants, each with its slot.

    Arguments left at None and ``training=False`` are the same as none, and ``training=True`` where that is the default.
    """
    first, rest, named = _signature(call.arguments)
    kind = kind_of(layer)
    names, training = _PARAMETERS.get(kind, ()), kind in _TRAINING_UNLESS_TOLD
    flat = list(_flatten(first, "0", 0))
    for position, value in enumerate(rest, start=1):
        flat += _flatten(value, names[position] if position < len(names) else str(position), 0)
    for name in sorted(named):
        flat += _flatten(named[name], "0" if names and name == names[0] else name, 0)
    tensors: list[tuple[str, TensorRef]] = []
    constants: list[tuple[str, Json]] = []
    for slot, value in flat:
        if isinstance(value, _Place):
            if not 0 <= value.number < len(call.inputs):
                raise StoreError(f"layer {layer.name!r} is given a tensor that its call does not list")
            ref = call.inputs[value.number]
            if ref.layer == "_CONSTANT_VALUE":  # Keras 2 writes a number among tensors this way
                constants.append((slot, ref.output))
            else:
                tensors.append((slot, ref))
        elif value is not None and not (slot == "training" and (value is False or (training and value is True))):
            constants.append((slot, value))
    return tensors, tuple(constants)


@dataclass(frozen=True, slots=True)
class _Place:
    number: int


def _is_place(value: Json) -> bool:
    return isinstance(value, dict) and set(value) == {"tensor"} and type(value["tensor"]) is int


def _is_named(value: Json) -> bool:
    return isinstance(value, dict) and not _is_place(value)


def _signature(value: Json) -> tuple[Json, Sequence[Json], Mapping[str, Json]]:
    """Return the first argument, the other positional ones and the named ones."""
    if isinstance(value, dict) and "args" in value:
        given = value["args"] if isinstance(value["args"], list) else []
        kwargs = value.get("kwargs")
        return (_alone(given[0]) if given else None), given[1:], kwargs if isinstance(kwargs, dict) else {}
    named: dict[str, Json] = {}

    def strip(item: Json, depth: int) -> Json:  # Keras 2 repeats the named arguments beside each tensor of the first
        if depth > MAX_DEPTH:
            return item
        if isinstance(item, list) and len(item) == 2 and _is_place(item[0]) and _is_named(item[1]):
            named.update(item[1])
            return item[0]
        if isinstance(item, list):
            return [strip(part, depth + 1) for part in item]
        if isinstance(item, dict) and not _is_place(item):
            return {key: strip(part, depth + 1) for key, part in item.items()}
        return item

    first = _alone(strip(value, 0))
    named.pop("name", None)  # of the operation, in a TFOpLambda
    return first, (), named


def _alone(value: Json) -> Json:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _flatten(value: Json, slot: str, depth: int) -> Iterator[tuple[str, Json]]:
    if depth > MAX_DEPTH:
        raise StoreError(f"the arguments of a call nest more than {MAX_DEPTH} deep")
    if _is_place(value):
        yield slot, _Place(value["tensor"])
    elif isinstance(value, list):
        if not value:
            yield slot, "[]"
        for position, item in enumerate(value):
            yield from _flatten(item, f"{slot}/{position}", depth + 1)
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from _flatten(value[key], f"{slot}/{key}", depth + 1)
    else:
        yield slot, value


def shape_of(value: Json) -> Shape | None:
    """Return a shape as a configuration writes it, None for anything else."""
    if isinstance(value, list | tuple) and all(size is None or type(size) is int for size in value):
        return tuple(value)
    return None


def _infer(wiring: Wiring, depth: int) -> None:
    """Add the shapes that are not recorded, as far as they follow; Keras 2 and Sequential record none."""
    for number, node in enumerate(wiring.nodes):
        if node.layer.graph is not None and node.place not in wiring.inner:
            wiring.inner[node.place] = wire(node.layer, depth + 1)
        if (number, 0) in wiring.shapes:
            continue
        given = [wiring.shapes.get(tensor) for tensor in node.inputs]
        if given and given[0] is None:
            given[0] = shape_of(node.layer.build_config.get("input_shape"))
            if given[0] is not None:
                wiring.shapes[node.inputs[0]] = given[0]
        if node.layer.graph is not None:
            inner = wiring.inner[node.place]
            for output, (_, tensor) in enumerate(inner.outputs):
                if tensor in inner.shapes:
                    wiring.shapes.setdefault((number, output), inner.shapes[tensor])
            continue
        shape = output_shape(node.layer, given)
        if shape is not None:
            wiring.shapes[number, 0] = shape


_KEEPS_SHAPE = frozenset(
    """
    Activation ReLU LeakyReLU PReLU ELU ThresholdedReLU Softmax Dropout SpatialDropout1D SpatialDropout2D
    SpatialDropout3D GaussianDropout GaussianNoise AlphaDropout ActivityRegularization BatchNormalization
    LayerNormalization GroupNormalization RMSNormalization UnitNormalization Rescaling Normalization Masking
    Identity RandomFlip RandomRotation RandomZoom RandomContrast RandomTranslation RandomBrightness
    """.split()  # noqa: SIM905 (names to read, not a column)
)


def output_shape(layer: Layer, given: Sequence[Shape | None]) -> Shape | None:
    """Return the shape of a layer's output, unknown sizes None; None where even their number is unknown."""
    config = layer.config
    kind = kind_of(layer)
    if kind == "InputLayer":
        return shape_of(config.get("batch_shape", config.get("batch_input_shape")))
    known = [shape for shape in given if shape is not None]
    if not given or len(known) < len(given) or not known[0]:
        return None
    shape = known[0]
    units = config.get("units", config.get("filters"))
    last = config.get("data_format") != "channels_first"
    if kind in _KEEPS_SHAPE or (kind == "MultiHeadAttention" and config.get("output_shape") is None):
        return shape
    if kind in _COMMUTATIVE or kind == "Subtract":
        return max(known, key=len)
    if kind == "Dense" and type(units) is int:
        return (*shape[:-1], units)
    if kind == "Concatenate":
        return _concatenated(known, config.get("axis", -1))
    if kind == "Flatten":
        rest = shape[1:]
        return shape[0], (math.prod(s for s in rest if s is not None) if None not in rest else None)
    if kind == "Reshape":
        target = shape_of(config.get("target_shape"))
        return None if target is None else (shape[0], *(None if size == -1 else size for size in target))
    if kind == "Embedding" and type(config.get("output_dim")) is int:
        return (*shape, config["output_dim"])
    if kind in ("LSTM", "GRU", "SimpleRNN") and type(units) is int and len(shape) == 3:
        return (shape[0], shape[1], units) if config.get("return_sequences") else (shape[0], units)
    if kind == "TimeDistributed" and len(shape) > 2:
        inner = next((x for name, x in inner_layers(layer) if name == "layer"), None)
        made = output_shape(inner, [(shape[0], *shape[2:])]) if inner is not None and inner.graph is None else None
        return None if made is None else (shape[0], shape[1], *made[1:])
    if kind.startswith(("GlobalAverage", "GlobalMax")):
        channels = shape[-1] if last else shape[1]
        flat = (None,) * 0 if not config.get("keepdims") else (1,) * (len(shape) - 2)
        return (shape[0], *flat, channels) if last else (shape[0], channels, *flat)
    if kind.rstrip("123D") in _WINDOWS:
        return _windowed(kind, config, shape, last)
    return None


_WINDOWS = frozenset(
    ("Conv", "DepthwiseConv", "SeparableConv", "MaxPooling", "AveragePooling", "ZeroPadding", "Cropping", "UpSampling")
)


def _concatenated(shapes: Sequence[Shape], axis: Json) -> Shape | None:
    rank = len(shapes[0])
    if type(axis) is not int or not -rank <= axis < rank or any(len(shape) != rank for shape in shapes):
        return None
    sizes = [shape[axis] for shape in shapes]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    return tuple(total if k == axis % rank else size for k, size in enumerate(shapes[0]))


def _windowed(kind: str, config: Mapping[str, Json], shape: Shape, last: bool) -> Shape | None:
    """Shapes after convolutions, pooling, padding and the like."""
    count = len(shape) - 2
    if count < 1:
        return None
    space = shape[1:-1] if last else shape[2:]
    channels: int | None = shape[-1] if last else shape[1]
    family = kind.rstrip("123D")
    new: list[int | None] = []
    if family in ("ZeroPadding", "Cropping", "UpSampling"):
        for k, size in enumerate(space):
            if family == "UpSampling":
                new.append(_times(size, _each(config.get("size"), k)))
                continue
            name = "padding" if family == "ZeroPadding" else "cropping"
            pair = config.get(name) if count == 1 else _each(config.get(name), k)
            pair = (pair, pair) if type(pair) is int else shape_of(pair)
            if pair is None or len(pair) != 2 or None in pair or size is None:
                new.append(None)
            else:
                both = sum(part for part in pair if part is not None)
                new.append(size + both if family == "ZeroPadding" else size - both)
    else:
        pooled = family.endswith("Pooling")
        if "filters" in config:
            channels = config["filters"] if type(config["filters"]) is int else None
        elif not pooled:
            factor = config.get("depth_multiplier", 1)
            channels = channels * factor if channels is not None and type(factor) is int else None
        for k, size in enumerate(space):
            window = _size(config.get("pool_size" if pooled else "kernel_size"), k)
            stride = _size(config.get("strides", 1), k) or window
            dilation = _size(config.get("dilation_rate", 1), k) or 1
            if size is None or not window or not stride:
                new.append(None)
            elif config.get("padding") in ("same", "causal"):
                new.append(-(-size // stride))
            else:
                new.append((size - (window - 1) * dilation - 1) // stride + 1)
    return (shape[0], *new, channels) if last else (shape[0], channels, *new)


def _each(value: Json, k: int) -> Json:
    """Return the k-th of a list, or the value that stands for all."""
    return (value[k] if k < len(value) else None) if isinstance(value, list | tuple) else value


def _size(value: Json, k: int) -> int | None:
    """Return the k-th of a list of sizes, or the one that stands for all; None unless it is a size."""
    size = _each(value, k)
    return size if type(size) is int and size > 0 else None


def _times(size: int | None, factor: Json) -> int | None:
    return size * factor if size is not None and type(factor) is int else None

"""The tree of layers that a Keras configuration describes, as plain values.

Keras 3 (``config.json``, the attribute ``model_config``) and Keras 2 write different JSON for the same thing; here both become `Layer`
and `Graph`. A configuration may come from anywhere, so depth and counts are bounded and whatever has another form than expected
is refused or kept as an opaque value, never executed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graftwork.errors import StoreError

MAX_DEPTH = 64
"""Deepest nesting of models in models that is followed."""

Json = Any
"""A value that came out of `json.loads`."""


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Output number `output` of call number `call` of the layer called `layer`, in the graph that holds the layer."""

    layer: str
    call: int
    output: int


@dataclass(frozen=True, slots=True)
class Call:
    """One use of a layer in a graph.

    Attributes:
        inputs: The tensors that go in, in the order in which they stand in the arguments.
        arguments: Everything else of the call, JSON with each tensor replaced by ``{"tensor": k}``, its place in `inputs`.
        shapes: The shape of each input where it was recorded (Keras 3), else None; empty where none was.
    """

    inputs: tuple[TensorRef, ...]
    arguments: Json
    shapes: tuple[tuple[int | None, ...] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """The inside of a Functional or Sequential model.

    Attributes:
        layers: In the order of the configuration, which is the order of ``model.layers`` and of the keys of a weights file.
        inputs: The model's inputs, flattened, each with its key where they form a dictionary (else its position as text).
        outputs: Likewise.
        sequential: Whether it is a chain without explicit connections; then calls, inputs and outputs are empty.
    """

    layers: tuple["Layer", ...]
    inputs: tuple[tuple[str, TensorRef], ...] = ()
    outputs: tuple[tuple[str, TensorRef], ...] = ()
    sequential: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer (or model, which is a layer too).

    Attributes:
        name: The layer's name.
        class_name: ``"Dense"``, ``"Functional"``, or whatever the user's class is called.
        module: ``"keras.layers"`` and the like; empty where the configuration does not say (Keras 2).
        registered_name: ``"package>Class"`` for a custom class that was registered.
        config: The layer's own configuration, as it stands in the file (for a model, without its layers).
        build_config: What Keras recorded to build it again (``{"input_shape": …}``); empty when absent.
        graph: The inside, for a Functional or Sequential model.
        calls: The uses of this layer in the graph that holds it.
    """

    name: str
    class_name: str
    module: str = ""
    registered_name: str | None = None
    config: Mapping[str, Json] = field(default_factory=dict)
    build_config: Mapping[str, Json] = field(default_factory=dict)
    graph: Graph | None = None
    calls: tuple[Call, ...] = ()

    @property
    def is_builtin(self) -> bool:
        """Whether the class comes with Keras 2 or 3 (KerasHub is not it): a class of the user's may be called ``Dense`` too."""
        if self.module:
            return self.module.split(".")[0] in ("keras", "tf_keras")
        # A class from a notebook has no module but was registered; Keras 2's flat files name neither.
        return self.registered_name is None and ">" not in self.class_name


GRAPH_CLASSES = frozenset({"Functional", "Model", "Sequential"})
"""Class names whose configuration lists ``layers``."""


def parse(config: Json, *, where: str = "the configuration") -> Layer:
    """Return the tree of layers of a model's configuration.

    Args:
        config: What ``config.json`` or the attribute ``model_config`` holds.
        where: Whose configuration it is, for messages.

    Raises:
        StoreError: If it does not have the form that Keras writes.
    """
    return _parse(config, where, 0)


def is_layer(value: Json) -> bool:
    """Return whether a value inside a configuration describes a layer, as wrappers and cells hold them."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("class_name"), str)
        and isinstance(value.get("config"), dict)
        and "name" in value["config"]
        and ("trainable" in value["config"] or "layers" in value["config"])
    )


def nested(value: Json, *, where: str = "the configuration") -> Layer:
    """Return the layer that a value inside another layer's configuration describes (see `is_layer`)."""
    return _parse(value, where, 1)


def walk(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """Yield every layer below a model with the chain of names that leads to it, outer layers first.

    Only graphs are followed (Functional, Sequential); what wrappers and cells hold is theirs to say, see `variables`.
    """
    for inner in layer.graph.layers if layer.graph else ():
        yield inner.name, inner
        for path, deeper in walk(inner):
            yield f"{inner.name}/{path}", deeper


PUBLIC_NAMES = {"GroupedQueryAttention": "GroupQueryAttention"}
"""Layers of Keras that are exported under another name than their class has."""


def _parse(value: Json, where: str, depth: int) -> Layer:
    if depth > MAX_DEPTH:
        raise StoreError(f"{where} nests models more than {MAX_DEPTH} deep; it was not written by Keras")
    if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
        raise StoreError(f"{where} has no `class_name` where a layer should be: {str(value)[:80]}")
    class_name = value["class_name"]
    if "module" not in value:  # a legacy file, which has the class's own name instead of the public one
        class_name = PUBLIC_NAMES.get(class_name, class_name)
    config = value.get("config", {})
    if isinstance(config, list):  # Keras 2.0 wrote a Sequential as a bare list of layers
        config = {"layers": config}
    if not isinstance(config, dict):
        raise StoreError(f"{where}: the `config` of {class_name!r} is a {type(config).__name__}, expected an object")
    graph = None
    own = config
    # A subclass of Model that is called with inputs and outputs is saved as a graph under its own class name.
    is_graph = class_name in GRAPH_CLASSES or {"input_layers", "output_layers"} <= config.keys()
    if class_name in ("Functional", "Sequential") and not isinstance(config.get("layers", []), list):
        raise StoreError(
            f"{where}: the `layers` of {class_name!r} are a {type(config['layers']).__name__}, expected a list"
        )
    if is_graph and isinstance(config.get("layers"), list):
        graph = _graph(config, class_name == "Sequential", where, depth)
        own = {k: v for k, v in config.items() if k not in ("layers", "input_layers", "output_layers")}
    build = value.get("build_config")
    name = config.get("name", value.get("name", ""))
    if class_name == "TensorFlowOpLayer":  # which adds a prefix to the name in its own configuration
        name = value.get("name", name)
    return Layer(
        name=name if isinstance(name, str) else str(name),
        class_name=class_name,
        module=value["module"] if isinstance(value.get("module"), str) else "",
        registered_name=value["registered_name"] if isinstance(value.get("registered_name"), str) else None,
        config=own,
        build_config=build if isinstance(build, dict) else {},
        graph=graph,
        calls=() if graph is not None and depth == 0 else _calls(value.get("inbound_nodes"), where),
    )


def _graph(config: Mapping[str, Json], sequential: bool, where: str, depth: int) -> Graph:
    layers = tuple(_parse(item, where, depth + 1) for item in config["layers"])
    names = [layer.name for layer in layers]
    if not sequential and len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise StoreError(f"{where} has two layers called {twice!r} in one graph")
    if sequential:
        return Graph(layers=layers, sequential=True)
    return Graph(
        layers=layers,
        inputs=tuple(_ends(config.get("input_layers"), where)),
        outputs=tuple(_ends(config.get("output_layers"), where)),
    )


def _is_ref(value: Json) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(number) is int for number in value[1:3])
    )


def _ends(value: Json, where: str, key: str = "") -> Iterator[tuple[str, TensorRef]]:
    """Flatten ``input_layers`` or ``output_layers``: one reference, a list of them, or a dictionary."""
    if value is None:
        return
    if _is_ref(value):
        yield key or "0", TensorRef(value[0], value[1], value[2])
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _ends(item, where, f"{key}/{position}" if key else str(position))
    elif isinstance(value, dict):
        for name in sorted(value):
            yield from _ends(value[name], where, f"{key}/{name}" if key else name)
    else:
        raise StoreError(f"{where} refers to an input or output in a form Keras does not write: {str(value)[:80]}")


def _calls(nodes: Json, where: str) -> tuple[Call, ...]:
    if nodes is None:
        return ()
    if not isinstance(nodes, list):
        raise StoreError(f"{where}: `inbound_nodes` is a {type(nodes).__name__}, expected a list")
    return tuple(_call(node, where) for node in nodes)


def _call(node: Json, where: str) -> Call:
    inputs: list[TensorRef] = []
    # Keras 3: {"args": …, "kwargs": …}. A dictionary of tensors is one that Keras 2 gave to a model.
    if isinstance(node, dict) and "args" in node:
        shapes: list[tuple[int | None, ...] | None] = []
        arguments = _strip3({"args": node["args"], "kwargs": node.get("kwargs")}, inputs, shapes, where, 0)
        return Call(inputs=tuple(inputs), arguments=arguments, shapes=tuple(shapes))
    return Call(arguments=_strip2(node, inputs, where, 0), inputs=tuple(inputs))


def _strip3(
    value: Json, inputs: list[TensorRef], shapes: list[tuple[int | None, ...] | None], where: str, depth: int
) -> Json:
    if depth > MAX_DEPTH:
        raise StoreError(f"{where}: the arguments of a call nest more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            config = value.get("config")
            history = config.get("keras_history") if isinstance(config, dict) else None
            if not isinstance(config, dict) or history is None or not _is_ref(history):
                raise StoreError(f"{where}: a tensor in `inbound_nodes` has no `keras_history`")
            inputs.append(TensorRef(*history[:3]))
            shapes.append(_shape(config.get("shape")))
            return {"tensor": len(inputs) - 1}
        return {k: _strip3(v, inputs, shapes, where, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_strip3(v, inputs, shapes, where, depth + 1) for v in value]
    return value


def _shape(value: Json) -> tuple[int | None, ...] | None:
    if isinstance(value, list) and all(size is None or type(size) is int for size in value):
        return tuple(value)
    return None


def _strip2(value: Json, inputs: list[TensorRef], where: str, depth: int) -> Json:
    """Keras 2: a reference is ``["layer", call, output]`` or ``["layer", call, output, {further arguments}]``."""
    if depth > MAX_DEPTH:
        raise StoreError(f"{where}: the arguments of a call nest more than {MAX_DEPTH} deep")
    if _is_ref(value):
        inputs.append(TensorRef(*value[:3]))
        place = {"tensor": len(inputs) - 1}
        rest = _strip2(value[3], inputs, where, depth + 1) if len(value) == 4 and value[3] else None
        return [place, rest] if rest else place
    if isinstance(value, dict):
        return {k: _strip2(v, inputs, where, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_strip2(v, inputs, where, depth + 1) for v in value]
    return value

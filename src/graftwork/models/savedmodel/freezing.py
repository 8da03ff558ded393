"""Frozen graphs made into SavedModels, or joined into one frozen graph, and run beside what they were made of."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from graftwork.errors import MismatchError, OptionError, StoreError
from graftwork.models.lazy import quietly
from graftwork.models.savedmodel import beside
from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.frozen import Joined, Tensor, joined, labelled
from graftwork.models.savedmodel.serving import SERVING, Sources, rows
from graftwork.stores.files import brief
from graftwork.stores.saved_program import Port
from graftwork.stores.tf_program import split_reference

SHARED = ("shared_name", "container", "frame_name")
"""Attributes by which nodes share a resource, or belong to one loop."""

STARTER = "init_all_tables"
"""What fills the tables of a frozen graph that was made of several."""

FrozenKind = Literal["saved_model", "frozen_graph"]


def plan_from_frozen_graph(
    sources: Sources, *, feeds: Sequence[str] = (), fetches: Sequence[str] = (), examples: str | None = None
) -> ServablePlan:
    """Plan a SavedModel of a frozen graph.

    Args:
        sources: The graph's label and path.
        feeds: Tensors that are given, ``node``, ``node:1`` or ``name=node:1``; by default all placeholders that the outputs need.
        fetches: Tensors that are wanted; by default the only one that nothing uses.
        examples: A file with inputs to compare with.

    Raises:
        GraftworkError: If it cannot be made.
    """
    found = joined(sources, inputs=feeds, outputs=fetches, prefixed=False)
    return _plan("savedmodel_from_frozen_graph", sources, found, "saved_model", examples)


def plan_join_frozen(
    sources: Sources,
    *,
    connect: Mapping[str, str] | None = None,
    feeds: Sequence[str] = (),
    fetches: Sequence[str] = (),
    labels: Sequence[str] = (),
    result: FrozenKind = "saved_model",
    examples: str | None = None,
) -> ServablePlan:
    """Plan one graph of several frozen ones, as a SavedModel or frozen again.

    Args:
        sources: The graphs' labels and paths, those that give before those that take.
        connect: Which tensor is given to another graph, by the tensor that it takes the place of: ``{B/x:0: A/y:0}``.
        feeds: As of `plan_from_frozen_graph`, with the graph's label before the node's name.
        fetches: Likewise.
        labels: What the graphs are called.
        result: What comes out.
        examples: A file with inputs to compare with.

    Raises:
        GraftworkError: If they do not go together.
    """
    if len(sources) < 2:
        raise OptionError("joining takes at least two frozen graphs; from-frozen-graph makes a SavedModel of one")
    sources = labelled(sources, labels)
    found = joined(sources, inputs=feeds, outputs=fetches, connect=connect, prefixed=True)
    return _plan("savedmodel_join_frozen", sources, found, result, examples)


def _plan(kind: str, sources: Sources, found: Joined, format: FrozenKind, examples: str | None) -> ServablePlan:
    taken, given = (
        {key: found.port(key, found.source(tensor)) for key, tensor in side.items()}
        for side in (found.inputs, found.outputs)
    )

    def make(target: Path) -> Sequence[str]:
        with quietly():
            names, known = _written(found, target, format)
        return _checked(found, target, format, names, known, Path(examples) if examples else None)

    size = sum(path.stat().st_size for _, path in sources)
    starts = format == "frozen_graph" and any(found.filling)
    return ServablePlan(
        kind=kind,
        sources=tuple(sources),
        files=tuple(path for _, path in sources),
        format=format,
        signatures=rows({SERVING: (taken, given)}),
        size_bytes=size,
        make=make,
        tables={
            "tensors": [
                {"port": what, "name": key, "tensor": f"{found.graphs[tensor.graph].prefix}{tensor}"}
                for what, side in (("input", found.inputs), ("output", found.outputs))
                for key, tensor in side.items()
            ],
            **({"connections": _connections(found)} if found.connected else {}),
        },
        notes=(*found.notes, *((f"run {STARTER} before the graph: it fills tables",) if starts else ())),
    )


def _connections(found: Joined) -> list[Mapping[str, Any]]:
    prefix = [graph.prefix for graph in found.graphs]
    return [
        {"tensor": f"{prefix[taken.graph]}{taken}", "gets": f"{prefix[given.graph]}{given}"}
        for taken, given in found.connected.items()
    ]


def _written(found: Joined, target: Path, format: FrozenKind) -> tuple[dict[str, str], dict[str, Port]]:
    """Write the result; return the names that inputs and outputs have in it, and what the inputs are."""
    import tensorflow as tf

    v1 = tf.compat.v1
    graph = tf.Graph()
    try:
        with graph.as_default():
            built = _Building(found)
            built.build()
            starter = tf.group(*built.starters, name=STARTER) if built.starters else None
        names = {key: tensor.name for key, tensor in (*built.inputs.items(), *built.outputs.items())}
        if format == "frozen_graph":
            target.write_bytes(graph.as_graph_def().SerializeToString())
        else:
            with v1.Session(graph=graph) as session:
                info = v1.saved_model.build_tensor_info
                signature = v1.saved_model.build_signature_def(
                    {key: info(tensor) for key, tensor in built.inputs.items()},
                    {key: info(tensor) for key, tensor in built.outputs.items()},
                    "tensorflow/serving/predict",
                )
                builder = v1.saved_model.Builder(str(target))
                builder.add_meta_graph_and_variables(session, ["serve"], {SERVING: signature}, main_op=starter)
                builder.save()
    except (MismatchError, OptionError, StoreError):
        raise
    except Exception as error:  # of TensorFlow, with its many classes
        labels = ", ".join(part.path.name for part in found.graphs)
        raise StoreError(f"TensorFlow cannot make one graph of {labels}: {brief(error)}") from error
    known = {
        key: Port(
            key=key,
            tensor=tensor.name,
            dtype=tensor.dtype.base_dtype.name,
            shape=tuple(tensor.shape.as_list()) if tensor.shape.rank is not None else None,
        )
        for key, tensor in built.inputs.items()
    }
    return names, known


class _Building:
    """The making of one graph, in TensorFlow's default graph.

    Attributes:
        inputs: New placeholders by the names of the inputs.
        outputs: Tensors by the names of the outputs.
        starters: Operations that fill tables.
    """

    def __init__(self, found: Joined) -> None:
        self.found = found
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.starters: list[Any] = []
        self.made: dict[Tensor, Any] = {}

    def build(self) -> None:
        """Make inputs, import the graphs one after the other, find outputs."""
        import tensorflow as tf

        graphs = [tf.compat.v1.GraphDef.FromString(graph.path.read_bytes()) for graph in self.found.graphs]
        for key, tensor in self.found.inputs.items():
            like = _alone(graphs[tensor.graph], tensor)
            kept = tensor.node in self.found.kept[tensor.graph]
            plain = not self.found.graphs[tensor.graph].prefix and not kept and not tensor.output
            name = tensor.node if plain else f"inputs/{_scoped(key)}"
            self.inputs[key] = tf.compat.v1.placeholder(like.dtype.base_dtype, like.shape, name=name)
            self.made[tensor] = self.inputs[key]
        for number, definition in enumerate(graphs):
            self._import(number, definition)
        for key, tensor in self.found.outputs.items():
            self.outputs[key] = self._tensor(self.found.source(tensor))
            several = [str(Tensor(tensor.graph, tensor.node, k)) for k in range(len(self.outputs[key].op.outputs))]
            if self.found.unsaid and len(several) > 1:
                prefix = self.found.graphs[tensor.graph].prefix
                raise OptionError(
                    f"nothing uses {prefix + tensor.node!r} of {self.found.graphs[tensor.graph].path.name}, which gives "
                    f"{len(several)} tensors; say which are the outputs (--outputs, fetches=): "
                    + ", ".join(f"{prefix}{each}" for each in several[:12])
                )

    def _tensor(self, tensor: Tensor) -> Any:
        import tensorflow as tf

        if tensor in self.made:
            return self.made[tensor]
        prefix = self.found.graphs[tensor.graph].prefix
        return tf.compat.v1.get_default_graph().get_tensor_by_name(f"{prefix}{tensor}")

    def _import(self, number: int, definition: Any) -> None:
        """Add what is needed of a graph."""
        import tensorflow as tf

        graph, kept = self.found.graphs[number], self.found.kept[number]
        nodes = [node for node in definition.node if node.name in kept]
        replaced: dict[str, Any] = {}
        for node in nodes:
            for reference in node.input:
                name, rest = split_reference(reference)
                tensor = Tensor(number, name, int(rest) if rest.isdecimal() else 0)
                source = self.found.source(tensor)
                if rest == "^" and name not in kept:
                    replaced[reference] = self._tensor(source)
                elif rest != "^" and (source in self.made or source != tensor):
                    replaced[reference] = self._checked(tensor, source, definition)
            node.attr.pop("_class", None)  # it asks for the device of what may have been left out
        del definition.node[:]
        definition.node.extend(nodes)
        if graph.prefix:
            _set_apart(definition, graph.label)
        tf.graph_util.import_graph_def(definition, input_map=replaced, name=graph.prefix.removesuffix("/"))
        current = tf.compat.v1.get_default_graph()
        self.starters += [
            current.get_operation_by_name(f"{graph.prefix}{name}") for name in sorted(self.found.filling[number])
        ]

    def _checked(self, taken: Tensor, given: Tensor, definition: Any) -> Any:
        """Return the tensor that takes the place of another one, if it can."""
        value = self._tensor(given)
        if given in self.made:
            return value
        like = _alone(definition, taken)
        if like.dtype.base_dtype != value.dtype.base_dtype or not like.shape.is_compatible_with(value.shape):
            raise MismatchError(
                f"{value.name} is {value.dtype.name} {value.shape} and {self.found.graphs[taken.graph].prefix}{taken} is "
                f"{like.dtype.name} {like.shape}"
            )
        return value


def _alone(definition: Any, tensor: Tensor) -> Any:
    """Return a tensor of a graph on its own, of which only dtype and shape are of interest."""
    import tensorflow as tf

    needed = tf.compat.v1.graph_util.extract_sub_graph(definition, [tensor.node])
    for node in needed.node:
        node.attr.pop("_class", None)
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(needed, name="")
        return graph.get_tensor_by_name(str(tensor))


def _set_apart(definition: Any, label: str) -> None:
    """Give functions, shared resources and loops of a graph names that no other graph has."""
    functions = {function.signature.name for function in definition.library.function}
    bodies = [definition.node, *(function.node_def for function in definition.library.function)]
    for node in (node for body in bodies for node in body):
        if node.op in functions:
            node.op = _own(label, node.op)
        for name, attr in node.attr.items():
            for called in _called(attr):
                if called.name in functions:
                    called.name = _own(label, called.name)
            if name in SHARED and attr.s:
                attr.s = f"{label}/".encode() + attr.s
    for function in definition.library.function:
        function.signature.name = _own(label, function.signature.name)
        for attr in function.attr.values():
            for called in _called(attr):
                if called.name in functions:
                    called.name = _own(label, called.name)
    for gradient in definition.library.gradient:
        gradient.function_name = _own(label, gradient.function_name)
        if gradient.gradient_func in functions:
            gradient.gradient_func = _own(label, gradient.gradient_func)


def _called(attr: Any) -> Iterator[Any]:
    """Yield the functions that an attribute names, also as arguments of others."""
    found = [attr.func] if attr.WhichOneof("value") == "func" else list(attr.list.func)
    for function in found:
        yield function
        for inner in function.attr.values():
            yield from _called(inner)


def _own(label: str, name: str) -> str:
    return f"{_scoped(label).replace('.', '_').replace('-', '_')}_{name}"


def _scoped(name: str) -> str:
    """Return a name as an operation's."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "_" for c in name)


def _checked(
    found: Joined,
    target: Path,
    format: FrozenKind,
    names: Mapping[str, str],
    known: Mapping[str, Port],
    examples: Path | None,
) -> Sequence[str]:
    """Run the result beside the graphs one by one."""
    ends = {found.source(tensor) for tensor in found.outputs.values()}
    parts: dict[str, dict[str, Any]] = {}
    steps: list[beside.Step] = []
    keys = {tensor: key for key, tensor in found.inputs.items()}
    for number, graph in enumerate(found.graphs):
        taken = [t for t in found.connected if t.graph == number and _needed(found, t)]
        given = [t for t in keys if t.graph == number]
        later = [found.source(t) for t in found.connected if _needed(found, t)]
        wanted = sorted(t for t in {*ends, *later} if t.graph == number and t not in keys)
        parts[graph.label] = {
            **beside.graph(graph.path, {str(t): str(t) for t in (*taken, *given)}, {str(t): str(t) for t in wanted}),
            "init": sorted(found.filling[number]),
        }
        feeds: dict[str, tuple[int | None, str]] = {str(t): (None, keys[t]) for t in given}
        for tensor in taken:
            source = found.source(tensor)
            feeds[str(tensor)] = (None, keys[source]) if source in keys else (source.graph, str(source))
        steps.append(beside.Step(part=graph.label, signature="", feeds=feeds))

    def expected(made: Sequence[beside.Arrays]) -> beside.Arrays:
        sources = {key: found.source(tensor) for key, tensor in found.outputs.items()}
        return {key: made[tensor.graph][str(tensor)] for key, tensor in sources.items()}

    flow = beside.Flow(inputs=known, steps=steps, expected=expected)
    result = None
    if format == "frozen_graph":
        result = {
            **beside.graph(target, {k: names[k] for k in found.inputs}, {k: names[k] for k in found.outputs}),
            "init": [STARTER] if any(found.filling) else [],
        }
    return beside.check(target, parts, {SERVING: flow}, examples, frozen=result)


def _needed(found: Joined, tensor: Tensor) -> bool:
    """Return whether something that is kept takes a tensor."""
    graph = found.graphs[tensor.graph]
    texts = {str(tensor), tensor.node} if not tensor.output else {str(tensor)}
    return any(texts & set(graph.nodes[name].inputs) for name in found.kept[tensor.graph])

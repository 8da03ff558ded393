"""The graph inside a model: its calls in order, over as many levels of nesting as are opened, and running a part of it anew.

A model is unfolded into steps. A nested model stays one step unless it is opened: then its own calls stand among the others, its inputs
are the tensors it was called with and its outputs are those of its last calls. Layers that stand in the unfolded graph must not hide in a
nested model beside it as well, since Keras saves such a model and cannot load it; so such nested models are opened too, and a model that
is opened is opened in each of its calls.

A part is run anew by calling the same layers on other tensors: shared layers stay shared, and the arguments of calls (`training`, masks
that are given, whatever a layer takes) are kept. Masks that Keras hangs on tensors are made anew by the layers that make masks.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.naming import Names, named
from graftwork.compose.ports import graph_of, inputs, outputs
from graftwork.errors import OptionError
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS

Key = tuple[Any, ...]
"""A tensor of an unfolded graph: the calls of the models around it, and itself, each by its `id`."""

Call = Callable[[Sequence[Any], Names], list[Any]]
"""Makes what a step gives of what it takes; the names in use are for operations that it adds."""


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """A tensor inside a model.

    Attributes:
        within: The calls (Keras nodes) of the nested models around it, outermost first.
        tensor: The Keras tensor.
        address: How it is spelled; see `graftwork.compose.addresses`.
    """

    within: tuple[Any, ...]
    tensor: Any
    address: str

    @property
    def key(self) -> Key:
        """Which tensor of an unfolded graph it is, before equal ones are taken for one."""
        return _key(self.within, self.tensor)


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One call of a layer, an operation or a nested model.

    Attributes:
        operation: The layer or operation; None where a tensor enters an opened model that casts or reshapes it, and where steps are
            put into a graph that was not so.
        label: What it is called in messages and in the names of what it adds.
        within: The calls of the opened models around it, outermost first.
        takes: The tensors it is called with.
        gives: The tensors it makes.
        call: Makes those.
        node: The call as Keras keeps it, where it is one.
    """

    operation: Any
    label: str
    within: tuple[Any, ...]
    takes: tuple[Key, ...]
    gives: tuple[Key, ...]
    call: Call
    node: Any = None

    @property
    def is_input(self) -> bool:
        """Whether nothing goes in: an input of the model."""
        return not self.takes


def is_graph(model: Any) -> bool:
    """Return whether a layer is a model that can be looked into: calling it does nothing but run its graph."""
    call = getattr(type(model), "call", None)
    plain = getattr(call, "__module__", "").startswith("keras.") and getattr(call, "__qualname__", "") in (
        "Functional.call",
        "Sequential.call",
    )
    return plain and graph_of(model) is not None


def own_calls(graph: Any) -> list[Any]:
    """Return the calls (Keras nodes) that belong to a Functional, each after those it needs.

    A layer may have been called elsewhere as well; those calls are not the graph's own.
    """
    return [node for depth in sorted(graph._nodes_by_depth, reverse=True) for node in graph._nodes_by_depth[depth]]


def calls_of(graph: Any, operation: Any) -> list[Any]:
    """Return the calls of one layer or operation in a Functional, in the order in which they were made."""
    own = {id(node) for node in own_calls(graph)}
    return [node for node in operation._inbound_nodes if id(node) in own]


class Graph:
    """A model unfolded into steps.

    Args:
        model: A Functional or a built Sequential.
        taps: Tensors that must stand in the graph: the nested models around them are opened.
        deep: Whether every nested model is opened that can be.
        inference: Whether steps are called with `training=False`, as all layers of a graph are by `predict`; else as they were called, and
            Keras notes down `training=True` for layers of augmentation that were called without a word.

    Raises:
        OptionError: If the model, or one that has to be opened, is no graph of layers.
    """

    def __init__(self, model: Any, taps: Sequence[Tap] = (), *, deep: bool = False, inference: bool = False) -> None:
        self.model, self.deep = model, deep
        self.functional = functional(model)
        self.opened = {id(node.operation) for tap in taps for node in tap.within}
        while True:
            self.steps: list[Step] = []
            self._same: dict[Key, Key] = {}
            self._tensors: dict[Key, Any] = {}
            self._unfold(self.functional, (), False if inference else None)
            hidden = self._hidden()
            if not hidden:
                break
            self.opened |= hidden
        self.inputs = [self.same(_key((), tensor)) for tensor in self.functional._inputs]
        self.outputs = [self.same(_key((), tensor)) for tensor in self.functional._outputs]
        self.maker = {key: step for step in self.steps for key in step.gives}

    def tensor(self, key: Key) -> Any:
        """Return the Keras tensor of the model that stands at a place of the graph."""
        return self._tensors[key]

    def step(self, tap: Tap) -> Step:
        """Return the call that makes a tensor.

        Raises:
            OptionError: If it is that of a nested model which was opened.
        """
        node = tap.tensor._keras_history.operation._inbound_nodes[tap.tensor._keras_history.node_index]
        for step in self.steps:
            if step.node is node and step.within == tap.within:
                return step
        raise OptionError(f"{tap.address!r} is a model, and layers inside it are named as well; name one or the other")

    def same(self, key: Key) -> Key:
        """Return the tensor by which several stand that are one: an opened model's output and the tensor that its last layer gave."""
        while key in self._same:
            key = self._same[key]
        return key

    def label(self, key: Key) -> str:
        """Return a tensor's address."""
        step = self.maker[key]
        if step.node is None:
            return step.label
        graphs = [self.functional, *(functional(node.operation) for node in step.within)]
        names = [_spelled(node, graph) for node, graph in zip((*step.within, step.node), graphs, strict=True)]
        return "/".join(names) + (f"[{step.gives.index(key)}]" if len(step.gives) > 1 else "")

    def needed(self, targets: Collection[Key], given: Collection[Key] = ()) -> list[Step]:
        """Return the steps that make some tensors of others that are given, in order; an input that is needed and not given is a step."""
        wanted = {key for key in targets if key not in given}
        found = []
        for step in reversed(self.steps):
            if wanted.isdisjoint(step.gives):
                continue
            found.append(step)
            wanted.update(key for key in step.takes if key not in given)
        return found[::-1]

    def run(self, steps: Sequence[Step], given: Mapping[Key, Any], names: Names) -> dict[Key, Any]:
        """Call the layers of some steps on tensors or arrays.

        Args:
            steps: In order, as `needed` gives them; inputs among them must be given.
            given: What to begin with.
            names: The names in use.

        Returns:
            Every tensor that was given or made.
        """
        values = dict(given)
        masks = _Masks(values.values(), names)
        for step in steps:
            if all(key in values for key in step.gives):
                continue
            made = step.call([values[key] for key in step.takes], names)
            for key, value in zip(step.gives, made, strict=True):
                values.setdefault(key, value)
            masks.name(made, step.label)
        return values

    def _unfold(self, graph: Any, within: tuple[Any, ...], training: bool | None) -> None:
        for node in own_calls(graph):
            if node.is_input and within:
                continue  # the tensor stands for what the model was called with
            takes = tuple(self.same(_key(within, tensor)) for tensor in node.input_tensors)
            if not node.is_input and self._opens(node):
                self._enter(node, within, training)
            else:
                gives = tuple(_key(within, tensor) for tensor in node.outputs)
                self._tensors.update(zip(gives, node.outputs, strict=True))
                operation = node.operation
                self.steps.append(Step(operation, operation.name, within, takes, gives, _calling(node, training), node))

    def _opens(self, node: Any) -> bool:
        forced = id(node.operation) in self.opened
        if not (forced or self.deep) or not is_graph(node.operation):
            return False
        why = why_closed(node)
        if why and forced:
            raise OptionError(f"nested model {node.operation.name!r} cannot be looked into: {why}")
        return not why

    def _enter(self, node: Any, within: tuple[Any, ...], training: bool | None) -> None:
        inner = (*within, node)
        graph = functional(node.operation)
        for given, mask, wanted in zip(_given(node), _masks(node), graph._inputs, strict=True):
            outside, inside = self.same(_key(within, given)), _key(inner, wanted)
            if mask is None and given.dtype == wanted.dtype and len(given.shape) == len(wanted.shape):
                self._same[inside] = outside
            else:
                takes = (outside, *([self.same(_key(within, mask))] if mask is not None else []))
                label = node.operation.name
                self._tensors[inside] = wanted
                self.steps.append(Step(None, label, within, takes, (inside,), _entering(wanted, label)))
        own = node.arguments.kwargs.get("training")
        self._unfold(graph, inner, own if training is None else training)
        for outer, last in zip(node.outputs, graph._outputs, strict=True):
            self._same[_key(within, outer)] = self.same(_key(inner, last))

    def _hidden(self) -> set[int]:
        """Return the nested models that hide a layer which stands in the graph as well."""
        standing = {id(step.operation) for step in self.steps}
        return {
            id(step.operation)
            for step in self.steps
            if is_graph(step.operation)
            and not why_closed(step.node)
            and any(id(layer) in standing for layer in step.operation._flatten_layers(include_self=False))
        }


def functional(model: Any) -> Any:
    """Return the Functional that is a model's graph.

    Raises:
        OptionError: If the model is none.
    """
    if is_graph(model):
        return graph_of(model)
    if isinstance(model, keras.Sequential):
        raise OptionError(
            f"Sequential {model.name!r} has no graph yet, since its input is not known; give it an Input layer or call it once on data"
        )
    raise OptionError(
        f"{type(model).__name__} {model.name!r} is not a graph of layers: its call is code of its own, so the layers in it cannot be "
        "addressed; it can only be used as a whole"
    )


def claim(model: Any, steps: Sequence[Step], names: Names, prefix: str = "") -> None:
    """Give the layers of some steps names for a graph of their own, each used once.

    A layer keeps its name where it is free; where it is not, the name of the model around it is put in front.

    Args:
        model: The model that was unfolded.
        steps: Whose operations are renamed.
        names: The names in use.
        prefix: What every name begins with, followed by the names of the opened models; without it, names are kept where they are free.
    """
    seen: set[int] = set()
    for step in sorted(steps, key=lambda step: len(step.within)):
        if step.is_input or step.operation is None or id(step.operation) in seen:
            continue
        seen.add(id(step.operation))
        around = [model, *(node.operation for node in step.within)]
        label = step.operation.name
        if prefix:
            label = "_".join([prefix, *(each.name for each in around[1:]), label])
        elif label in names:
            label = f"{around[-1].name}_{label}"
        step.operation.name = names.fresh(label)


def settle(*models: Any) -> None:
    """Let the layers of new models forget the calls that are in none of them, so that `layer.output` is the one in the new model.

    Args:
        models: Every new model that has a layer in common with the one that was unfolded. That one can still be run, but not be unfolded,
            called on Keras tensors or saved.
    """
    own = {id(node) for model in models for node in own_calls(functional(model))}
    for operation in {id(each): each for model in models for each in functional(model)._operations}.values():
        operation._inbound_nodes = [node for node in operation._inbound_nodes if id(node) in own]
        operation._outbound_nodes = [node for node in operation._outbound_nodes if id(node) in own]
        for place, node in enumerate(operation._inbound_nodes):
            for tensor in node.outputs:
                tensor._keras_history = tensor._keras_history._replace(node_index=place)
    for model in models:
        graph = functional(model)
        graph._nodes.clear()  # the keys by which Keras finds a graph's own calls when it saves
        graph._nodes.update(
            f"{id(node.operation)}_ib-{node.operation._inbound_nodes.index(node)}" for node in own_calls(graph)
        )


def inline(model: Any, tensors: Mapping[str, Any], names: Names, prefix: str) -> dict[str, Any]:
    """Run a model's layers on tensors, so that they stand in the caller's graph instead of inside one layer.

    Nested models are laid flat as well, on every level; those that cannot be looked into stay as they are.

    Args:
        model: A model that nobody else holds: its layers are renamed, except for its inputs.
        tensors: One for each of its inputs, by name.
        names: The names in use.
        prefix: What the names of its layers begin with.

    Returns:
        The outputs by name.
    """
    graph = Graph(model, deep=True)
    labels = list(outputs(model))
    given = {
        key: _fitted(tensors[name], port.tensor, f"{prefix}_{name}", names)
        for key, (name, port) in zip(graph.inputs, inputs(model).items(), strict=True)
    }
    steps = graph.needed(graph.outputs, given)
    claim(model, steps, names, prefix)
    values = graph.run(steps, given, names)
    return dict(zip(labels, (values[key] for key in graph.outputs), strict=True))


def _key(within: Sequence[Any], tensor: Any) -> Key:
    return tuple(id(node) for node in within), id(tensor)


def _spelled(node: Any, graph: Any) -> str:
    """Return how a call is addressed in its graph."""
    calls = calls_of(graph, node.operation)
    return str(node.operation.name) + (f"#{calls.index(node) + 1}" if len(calls) > 1 else "")


def _given(node: Any) -> list[Any]:
    """Return what a nested model is called with, in the order of its inputs."""
    args, kwargs = node.arguments.args, node.arguments.kwargs
    value = args[0] if args else kwargs.get("inputs")
    graph = functional(node.operation)
    if isinstance(value, Mapping) and not isinstance(graph._inputs_struct, Mapping):
        return [value[tensor.name] for tensor in graph._inputs]  # as Keras does
    return list(keras.tree.flatten(value))


def _masks(node: Any) -> list[Any]:
    """Return the masks that a nested model is called with, in the order of its inputs; None where there is none."""
    masks = node.arguments.kwargs.get("mask")
    flat = list(keras.tree.flatten(masks))
    return flat if len(flat) == len(_given(node)) else [None] * len(_given(node))


def masks_of(step: Step) -> list[Key]:
    """Return the tensors that a step is given as masks."""
    if step.node is None:
        return []
    given = [value for name, value in step.node.arguments.kwargs.items() if name == "mask" or name.endswith("_mask")]
    return [_key(step.within, tensor) for tensor in keras.tree.flatten(given) if isinstance(tensor, keras.KerasTensor)]


def why_closed(node: Any) -> str:
    """Return why a nested model cannot be opened in a call, or nothing."""
    extra = set(node.arguments.kwargs) - {"inputs", "training", "mask"}
    if extra:
        return f"it is called with {', '.join(sorted(extra))}="
    if len(node.arguments.args) > 1:
        return "it is called with more than its inputs"
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in _given(node)):
        return "one of its inputs is left out, or is a constant"
    if not all(mask is None or isinstance(mask, keras.KerasTensor) for mask in _masks(node)):
        return "it is called with a constant mask"
    return ""


def told(operation: Any, kwargs: Mapping[str, Any], training: bool) -> dict[str, Any]:
    """Return keyword arguments that say whether a layer trains, if it can be told, whatever Keras noted down of its call."""
    return {**kwargs, **({"training": training} if "training" in getattr(operation, "_call_context_args", ()) else {})}


def filled(node: Any, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call with values in the place of its tensors, which are in the order of `Step.takes`."""
    rest = iter(values)
    args, kwargs = node.arguments.convert(lambda x: next(rest) if isinstance(x, keras.KerasTensor) else x)
    return tuple(args), dict(kwargs)


def _calling(node: Any, training: bool | None) -> Call:
    """Return what calls the operation of a node as it was called; `training` is what an opened model around it was called with."""

    def call(values: Sequence[Any], names: Names) -> list[Any]:
        args, kwargs = filled(node, values)
        if training is not None:
            kwargs = told(node.operation, kwargs, training)
        return list(keras.tree.flatten(node.operation(*args, **kwargs)))

    return call


def _entering(wanted: Any, label: str) -> Call:
    """Return what brings a tensor, and a mask if there is one, into an opened model."""

    def enter(values: Sequence[Any], names: Names) -> list[Any]:
        for mask in values[1:]:
            keras.src.backend.set_keras_mask(values[0], mask)  # as a model does with what it is called with
        return [_fitted(values[0], wanted, label, names)]

    return enter


class _Masks:
    """Names for the operations that layers add to a graph unasked, to compute the masks that they hang on tensors.

    Args:
        known: Tensors whose masks have names already.
        names: The names in use.
    """

    def __init__(self, known: Iterable[Any], names: Names) -> None:
        self.names = names
        self.known: dict[int, Any] = {}
        for tensor in known:
            self._know(tensor)
            self._know(getattr(tensor, "_keras_mask", None))

    def _know(self, tensor: Any) -> None:
        self.known[id(tensor)] = tensor  # kept, so that no other tensor gets its id

    def name(self, tensors: Iterable[Any], label: str) -> None:
        """Name what computes the masks of the tensors that a layer has just made."""
        tensors = list(tensors)
        for tensor in tensors:
            self._know(tensor)
        found = [getattr(tensor, "_keras_mask", None) for tensor in tensors if isinstance(tensor, keras.KerasTensor)]
        while found:
            mask = found.pop()
            if mask is None or id(mask) in self.known:
                continue
            self._know(mask)
            operation, index, _ = mask._keras_history
            operation.name = self.names.fresh(f"{label}_mask")
            found += operation._inbound_nodes[index].input_tensors


def _fitted(tensor: Any, wanted: Any, label: str, names: Names) -> Any:
    """Return a tensor as a model takes it: cast, and with an axis of one entry more or less, as Keras does in silence."""
    found, dtype = keras.backend.standardize_dtype(tensor.dtype), keras.backend.standardize_dtype(wanted.dtype)
    if found != dtype and found in FLOATS and dtype in FLOATS:
        tensor = keras.layers.Identity(dtype=dtype, name=names.fresh(f"{label}_cast"))(tensor)  # lets masks through
    elif found != dtype:
        tensor = named(keras.ops.cast(tensor, dtype), names.fresh(f"{label}_cast"))
    if len(tensor.shape) == len(wanted.shape) + 1 and tensor.shape[-1] == 1:
        return named(keras.ops.squeeze(tensor, axis=-1), names.fresh(f"{label}_squeeze"))
    if len(tensor.shape) == len(wanted.shape) - 1 and wanted.shape[-1] == 1:
        return named(keras.ops.expand_dims(tensor, axis=-1), names.fresh(f"{label}_expand"))
    return tensor

"""Changing a graph: some of its tensors are made in another way, everything else stays, weights included."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.adapters import Adapt, adapter, fits
from graftwork.compose.base import Composed, Member
from graftwork.compose.graph import Graph, Key, Step, claim, settle
from graftwork.compose.layers import LayerSpec, as_layers
from graftwork.compose.naming import Names, as_layer_name
from graftwork.compose.parts import as_input, as_output, like, model_inputs
from graftwork.compose.ports import Port, describe
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Change:
    """Tensors of a graph that are made in another way.

    Attributes:
        takes: What they are made of.
        gives: The tensors.
        make: Makes them; called with tensors and with arrays.
        where: The way from what is new to what was there, for messages.
        fit: What stands between the two, as for `adapter`.
        adaptable: Whether the user can say what stands between them.
    """

    takes: Sequence[Key]
    gives: Sequence[Key]
    make: Callable[[Sequence[Any]], list[Any]]
    where: str
    fit: LayerSpec | None = None
    adaptable: bool = False


class Changing:
    """The changing of one graph.

    Args:
        graph: Of a model that nobody else holds.
        replaced: Steps that are no longer there, whose names are free.
    """

    def __init__(self, graph: Graph, replaced: Sequence[Step] = ()) -> None:
        self.graph = graph
        self.names = Names()
        self.notes: list[str] = []
        self._fits: dict[Key, Adapt] = {}
        self.inputs = {
            label: (key, like(tensor, self.names.fresh(tensor._keras_history.operation.name)))
            for label, (key, tensor) in model_inputs(graph).items()
        }
        gone = {id(step) for step in replaced}
        claim(graph.model, [step for step in graph.steps if id(step) not in gone], self.names)

    def layers(self, spec: LayerSpec, what: str, name: str | None = None) -> list[Any]:
        """Return new layers, each under a name of its own.

        Args:
            spec: As users spell them.
            what: What they are for, for messages.
            name: What a single layer is called to which the user gives no name.
        """
        made = as_layers(spec, what)
        if not made:
            raise OptionError(f"{what} is empty; name at least one layer")
        nameless = isinstance(spec, str) or (
            isinstance(spec, Mapping) and "name" not in (next(iter(spec.values())) or {})
        )
        for layer in made:
            layer.name = self.names.fresh(name if name is not None and nameless else layer.name)
        return made

    def composed(
        self, member: Member, changes: Sequence[Change], name: str | None, new: Sequence[Any] = ()
    ) -> Composed:
        """Return the changed model.

        Args:
            member: Where the graph is from.
            changes: What is changed, in any order.
            name: What the result is called; None for the model's name.
            new: The layers that are new, whose parameters are counted.
        """
        graph = self.graph
        order = {key: place for place, step in enumerate(graph.steps) for key in step.gives}
        changes = sorted(changes, key=lambda change: max(order[key] for key in change.gives))
        outs = self._run(changes, dict(self.inputs.values()), first=True)
        struct = as_input(graph, {label: tensor for label, (_, tensor) in self.inputs.items()})
        model = keras.Model(struct, as_output(graph, outs), name=as_layer_name(name or member.model.name))
        if not graph.model.trainable:
            model.trainable = False
        for layer in new:
            if isinstance(layer, keras.Model):
                self.notes.append(f"{layer.name} brings its weights: {layer.count_params():,} parameters")
            elif layer.count_params():
                self.notes.append(f"{layer.name} adds {layer.count_params():,} untrained parameters")
        settle(model)
        keys = [key for key, _ in self.inputs.values()]

        def reference(values: Any) -> Any:
            return as_output(graph, self._run(changes, dict(zip(keys, keras.tree.flatten(values), strict=True))))

        return Composed(model=model, reference=reference, exact=True, notes=tuple(self.notes))

    def _run(self, changes: Sequence[Change], given: Mapping[Key, Any], *, first: bool = False) -> list[Any]:
        graph, values = self.graph, dict(given)
        names = self.names if first else Names()
        for change in changes:
            values = graph.run(graph.needed(change.takes, values), values, names)
            made = change.make([values[key] for key in change.takes])
            for key, value in zip(change.gives, made, strict=True):
                if first:
                    self._fits[key] = self._fitted(change, key, value)
                values[key] = self._fits[key](value)
        values = graph.run(graph.needed(graph.outputs, values), values, names)
        return [values[key] for key in graph.outputs]

    def _fitted(self, change: Change, key: Key, tensor: Any) -> Adapt:
        """Return what brings a new tensor into the form of the one in whose place it is; where nothing takes that, it may be another."""
        graph, old = self.graph, self.graph.tensor(key)
        new = Port(
            change.where.partition(" → ")[0], tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype), None
        )
        port = Port(graph.label(key), tuple(old.shape), keras.backend.standardize_dtype(old.dtype), None)
        if change.fit is None and not any(key in step.takes for step in graph.steps):
            if (new.shape, new.dtype) != (port.shape, port.dtype):
                now, was = describe(new.shape, new.dtype), describe(port.shape, port.dtype)
                self.notes.append(f"the output is {now} where it was {was}")
            return _same
        if not change.adaptable and not fits(new.shape, new.dtype, port):
            raise MismatchError(
                f"what comes in the place of {port.name!r} is {describe(new.shape, new.dtype)}, but what is behind it takes "
                f"{describe(port.shape, port.dtype)}",
                advice="put layers there that give that",
            )
        made = adapter(new, port, change.where, change.fit, self.names)
        self.notes += made.notes
        return made.adapt


def _same(tensor: Any) -> Any:
    return tensor


def through(layers: Sequence[Any]) -> Callable[[Sequence[Any]], list[Any]]:
    """Return what calls layers one after the other on one tensor."""

    def make(values: Sequence[Any]) -> list[Any]:
        (tensor,) = values
        for layer in layers:
            tensor = called(layer, tensor)
        return [tensor]

    return make


def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
    """Return what a new layer gives.

    Raises:
        OptionError: If it cannot take what it is called with.
    """
    try:
        made = layer(*args, **kwargs)
    except (ValueError, TypeError) as error:
        shapes = ", ".join(
            describe(tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
            for tensor in keras.tree.flatten((args, kwargs))
            if hasattr(tensor, "shape")
        )
        raise OptionError(f"layer {layer.name!r} cannot take {shapes}: {str(error).splitlines()[0]}") from error
    if len(keras.tree.flatten(made)) != 1:
        raise OptionError(f"layer {layer.name!r} gives {len(keras.tree.flatten(made))} tensors; one is needed")
    return keras.tree.flatten(made)[0]

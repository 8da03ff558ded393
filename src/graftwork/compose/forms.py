"""The form of a piece of a graph: its layers' classes and settings, wiring, shapes and dtypes, and neither names nor values.

Two pieces of one form can stand in each other's place. Which settings matter is what merging weights says of them
(`graftwork.architecture.compare`): rates of dropout, initializers and the like do not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.architecture.compare import Description, describe, differences, inner_layers
from graftwork.architecture.layer import Layer, parse
from graftwork.compose.flow import Flow
from graftwork.compose.graph import Graph, Key, Step, filled, is_graph
from graftwork.compose.ports import describe as said
from graftwork.errors import StoreError
from graftwork.models.configuration import REFUSALS
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True)
class StepForm:
    """The form of one call.

    Attributes:
        settings: Class and settings of the layer, then of the layers in it.
        operation: Which layer of the piece it is, counted by first calls.
        arguments: Everything that it is called with; a tensor is where it comes from.
        gives: Shape and dtype of each tensor.
        weights: Likewise of its weights.
        inside: The form of a nested model.
    """

    settings: tuple[Any, ...]
    operation: int
    arguments: Any
    gives: tuple[tuple[Any, ...], ...]
    weights: tuple[tuple[Any, ...], ...]
    inside: "tuple[StepForm, ...]" = ()


class Forms:
    """The forms of pieces; what is found out about a layer is kept.

    Args:
        ignore: Fields of layers' settings that may differ.
    """

    def __init__(self, ignore: Sequence[str] = ()) -> None:
        self.ignore = frozenset(ignore)
        self._layers: dict[int, tuple[Any, tuple[Description, ...], tuple[StepForm, ...]]] = {}

    def of(self, flow: Flow, steps: Sequence[Step], given: Mapping[Key, str]) -> tuple[StepForm, ...] | None:
        """Return the form of a piece; None where a layer in it does not tell its settings.

        Args:
            flow: The graph.
            steps: In an order that depends on the form alone, as `Flow.between` gives them.
            given: What each tensor that comes from outside is called.
        """
        source: dict[Key, Any] = dict(given)
        operations: dict[int, int] = {}
        found = []
        for place, step in enumerate(steps):
            number = operations.setdefault(id(step.operation), len(operations))
            known = self._known(step)
            if known is None:
                return None
            _, settings, inside = known
            takes = [source[key] for key in step.takes]
            found.append(
                StepForm(
                    settings=tuple((each.kind, *sorted(each.fields.items())) for each in settings),
                    operation=number,
                    arguments=_arguments(step, takes),
                    gives=tuple(shape_of(flow.graph.tensor(key)) for key in step.gives),
                    weights=tuple(shape_of(weight) for weight in weights_of(step)),
                    inside=inside,
                )
            )
            source.update({key: (place, output) for output, key in enumerate(step.gives)})
        return tuple(found)

    def differ(self, one: Step, other: Step) -> str | None:
        """Return what differs between the settings of two layers, the models called by `{a}` and `{b}`."""
        mine, theirs = self._known(one), self._known(other)
        assert mine is not None
        assert theirs is not None
        for a, b in zip(mine[1], theirs[1], strict=False):
            for difference in differences(a, b, one.label, other.label):
                return difference.describe("{a}", "{b}")
        return None

    def _known(self, step: Step) -> tuple[Any, tuple[Description, ...], tuple[StepForm, ...]] | None:
        operation = step.operation
        if id(operation) not in self._layers:
            inside: tuple[StepForm, ...] | None = ()
            if operation is not None and is_graph(operation):
                flow = Flow(Graph(operation))
                ins = {key: f"input {place}" for place, key in enumerate(flow.graph.inputs)}
                inside = self.of(flow, flow.between(flow.outputs, ins), ins)
            settings = self._settings(step)
            if settings is None or inside is None:
                return None
            self._layers[id(operation)] = operation, settings, inside
        return self._layers[id(operation)]

    def _settings(self, step: Step) -> tuple[Description, ...] | None:
        if step.operation is None:
            return ()
        try:
            layer = parse(keras.saving.serialize_keras_object(step.operation), where=step.label)
        except (*REFUSALS, StoreError):
            return None
        rank = len(step.node.input_tensors[0].shape) if step.node is not None and step.node.input_tensors else None
        return tuple(each.without(self.ignore) for each in _descriptions(layer, rank))


def weights_of(step: Step) -> Sequence[Any]:
    """Return the weights of the layer that a step calls."""
    return step.operation.weights if isinstance(step.operation, keras.layers.Layer) else []


def shape_of(tensor: Any) -> tuple[Any, ...]:
    """Return the shape and dtype of a tensor or weight."""
    return tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype)


def spelled(shape: tuple[Any, ...]) -> str:
    """Return what `shape_of` gives as messages say it."""
    return said(*shape)


def _descriptions(layer: Layer, rank: int | None) -> list[Description]:
    found = [describe(layer, rank)]
    for _, inner in inner_layers(layer):
        found += _descriptions(inner, None)
    return found


def _arguments(step: Step, takes: Sequence[Any]) -> Any:
    if step.node is None:
        return tuple(takes)
    args, kwargs = filled(step.node, takes)
    return _plain(args), _plain({key: value for key, value in kwargs.items() if value is not None})


def _plain(value: Any) -> Any:
    """Return the arguments of a call as something that can be compared."""
    if isinstance(value, Mapping):
        return tuple((str(key), _plain(value[key])) for key in sorted(value, key=str))
    if isinstance(value, list | tuple):
        return tuple(_plain(item) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes | type(...)):
        return value
    if isinstance(value, slice):
        return ("slice", value.start, value.stop, value.step)
    if hasattr(value, "shape"):
        array = np.asarray(value)
        return array.shape, str(array.dtype), array.tobytes()
    return repr(value)

"""Frozen layers that Keras would train again once a model was saved and loaded: found, and where possible replaced by ones it keeps frozen.

Keras saves the flag `trainable` of a layer, and makes the layers inside it anew from its settings when it loads: those of
MultiHeadAttention, and of most layers that users write, then train, though the layer around them says that it does not.
"""

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from graftwork.compose.graph import Call, Graph, Key, Step, filled, is_graph
from graftwork.compose.naming import Names
from graftwork.compose.ports import fresh_inputs, inputs, packed
from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.models.lazy import keras
from graftwork.models.skeleton import weightless


def lasting(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a model whose frozen layers are still frozen when it is loaded, and what was done for that, one sentence each.

    Attention layers that would forget it become small models, under the same name, of the layers inside them: the same weights, the same
    arithmetic, and layers that keep their flags. Where there are none, the model itself is returned.

    Args:
        model: A model that nobody else holds.

    Raises:
        OptionError: If another layer would forget it, or attention is computed over masked steps.
    """
    forgetful = {id(layer): path for path, layer in _units(model) if forgets(layer)}
    for path, layer in _units(model):
        if id(layer) in forgetful and not _is_attention(layer):
            raise OptionError(_why(path, layer))
    if not forgetful:
        return model, ()
    replaced = _Replacing(forgetful).model(model)
    paths = list(dict.fromkeys(forgetful.values()))
    said = ", ".join(map(repr, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
    note = f"attention that is frozen ({said}) became a model of the same layers, since Keras would train it again once it is loaded"
    return replaced, (note,)


def _units(layer: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the layers whose inside Keras does not save layer by layer, with their paths; most of them have none."""
    if isinstance(layer, keras.layers.TimeDistributed):
        yield from _units(layer.layer, path)
    elif is_graph(layer) or isinstance(layer, keras.Sequential):
        for each in layer.layers:
            yield from _units(each, f"{path}/{each.name}" if path else each.name)
    else:
        yield path or layer.name, layer


class _Replacing:
    """The replacing of attention layers in a model and the models inside it.

    Args:
        forgetful: Their paths by their `id`.
    """

    def __init__(self, forgetful: Mapping[int, str]) -> None:
        self.forgetful = forgetful
        self.made: dict[int, tuple[tuple[Any, ...], Any]] = {}

    def model(self, model: Any) -> Any:
        """Return a model of the same layers in which attention is replaced."""
        graph = Graph(model)
        given = fresh_inputs(inputs(model), Names())
        values: dict[Key, Any] = dict(zip(graph.inputs, given.values(), strict=True))
        steps = [replace(step, call=self._call(step)) if self._touches(step) else step for step in graph.steps]
        names = Names(step.operation.name for step in graph.steps if step.operation is not None)
        values = graph.run(steps, values, names)
        outs = [values[key] for key in graph.outputs]
        made = keras.Model(
            packed(graph.functional._inputs_struct, given),
            keras.tree.pack_sequence_as(graph.functional._outputs_struct, outs),
            name=model.name,
        )
        if not model.trainable:
            made.trainable = False
        return made

    def _touches(self, step: Step) -> bool:
        layers = step.operation._flatten_layers() if hasattr(step.operation, "_flatten_layers") else ()
        return any(id(layer) in self.forgetful for layer in layers)

    def _call(self, step: Step) -> Call:
        """Return what calls the replacement of a layer as the layer was called."""

        def call(values: Sequence[Any], names: Names) -> list[Any]:
            operation = step.operation
            args, kwargs = filled(step.node, values)
            if id(operation) in self.forgetful:
                arguments = inspect.signature(operation.call).bind(*args, **kwargs).arguments
                return self._attend(operation, arguments)
            if not is_graph(operation):
                inside = next(layer for layer in operation._flatten_layers() if id(layer) in self.forgetful)
                raise OptionError(_why(self.forgetful[id(inside)], inside))
            if id(operation) not in self.made:
                self.made[id(operation)] = (), self.model(operation)
            return list(keras.tree.flatten(self.made[id(operation)][1](*args, **kwargs)))

        return call

    def _attend(self, layer: Any, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what attention gives, run as a model of the layers inside it."""
        taken = {key: value for key, value in arguments.items() if isinstance(value, keras.KerasTensor)}
        masks = [getattr(tensor, "_keras_mask", None) for tensor in taken.values()]
        if any(mask is not None for mask in masks) or {"query_mask", "value_mask", "key_mask"} & set(taken):
            raise OptionError(
                f"{_why(self.forgetful[id(layer)], layer)}. A model of its layers cannot take its place, since steps are masked (mask_zero)"
            )
        tensors = list({id(tensor): tensor for tensor in taken.values()}.values())
        places = {key: next(i for i, tensor in enumerate(tensors) if tensor is value) for key, value in taken.items()}
        others = {key: value for key, value in arguments.items() if key not in taken}
        how = places, [(tensor.shape, tensor.dtype) for tensor in tensors], others
        if id(layer) not in self.made:
            self.made[id(layer)] = how, _unrolled(layer, *how)
        known, model = self.made[id(layer)]
        if known != how:
            raise OptionError(
                f"{_why(self.forgetful[id(layer)], layer)}; it is called in different ways, so no one model replaces it"
            )
        return list(keras.tree.flatten(model(tensors if len(tensors) > 1 else tensors[0])))


def _unrolled(
    layer: Any, places: Mapping[str, int], specs: Sequence[tuple[Any, str]], others: Mapping[str, Any]
) -> Any:
    """Return a model of the layers inside a layer: its own code, run on Keras tensors, leaves their calls behind as a graph."""
    names = Names()
    labels = [next(key for key, place in places.items() if place == i) for i in range(len(specs))]
    given = [
        keras.Input(batch_shape=shape, dtype=dtype, name=names.fresh(f"{label}_input"))
        for label, (shape, dtype) in zip(labels, specs, strict=True)
    ]
    arguments = {**{key: given[place] for key, place in places.items()}, **others}
    wanted = keras.tree.flatten(layer.compute_output_spec(**arguments))
    found = layer.call(**_with_causal_mask(layer, arguments))
    sized = [_sized(*pair) for pair in zip(keras.tree.flatten(found), wanted, strict=True)]
    model = keras.Model(
        given if len(given) > 1 else given[0], keras.tree.pack_sequence_as(found, sized), name=layer.name
    )
    for operation in model.operations:
        if not isinstance(operation, keras.layers.InputLayer):
            operation.name = names.fresh(re.sub(r"_\d+$", "", operation.name))
    if not layer.trainable:
        model.trainable = False
    return model


def _with_causal_mask(layer: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return arguments in which a causal mask is given as a tensor, unless the backend makes it on the way.

    Attention would make it of sizes, which Keras does not always know before the model runs.
    """
    fused = not getattr(layer, "_dropout", getattr(layer, "dropout", 0.0)) and arguments.get("attention_mask") is None
    if not arguments.get("use_causal_mask") or (fused and not arguments.get("return_attention_scores")):
        return arguments
    ops, query, value = keras.ops, arguments["query"], arguments["value"]
    rows = ops.cumsum(ops.ones_like(query[:1, :, :1], dtype="int32"), axis=1)
    columns = ops.cumsum(ops.ones_like(value[:1, :, 0], dtype="int32"), axis=1)
    mask = ops.greater_equal(rows, ops.expand_dims(columns, 1))
    given = arguments.get("attention_mask")
    if given is not None:
        mask = ops.logical_and(ops.cast(given, "bool"), mask)
    return {**arguments, "attention_mask": mask, "use_causal_mask": False}


def _sized(tensor: Any, wanted: Any) -> Any:
    """Return a tensor whose sizes are as fixed as the layer says that they are."""
    sizes = [-1 if size is None else size for size in (None, *wanted.shape[1:])]
    if tuple(tensor.shape[1:]) == tuple(wanted.shape[1:]) or sizes.count(-1) > 1:
        return tensor
    return keras.ops.reshape(tensor, sizes)


def forgets(layer: Any) -> bool:
    """Return whether what is frozen in a layer would train once Keras has made it anew from its settings.

    Args:
        layer: A built layer that is no graph of layers itself.
    """
    if all(_flags(layer)) or not (layer._flatten_layers(include_self=False) or _is_own(layer)):
        return False
    for scope in weightless(), contextlib.nullcontext():  # stateful layers cannot be made without values
        with scope, contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            return _flags(_again(layer)) != _flags(layer)
    return True


def _again(layer: Any) -> Any:
    """Return what Keras makes of a layer's settings."""
    custom = {type(layer).__name__: type(layer), **{cls.__name__: cls for cls in live.custom_classes(layer)}}
    return keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer), custom_objects=custom, safe_mode=False
    )


def _is_own(layer: Any) -> bool:
    return not type(layer).__module__.startswith("keras.")


def _is_attention(layer: Any) -> bool:
    """Return whether a layer is nothing but layers and operations that are called in the same way in training and out of it."""
    return type(layer) in (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


def _flags(layer: Any) -> list[bool]:
    """Return what decides whether anything in a layer changes in training: its weights' flags, and those of BatchNormalization."""
    inside = layer._flatten_layers()
    weights = [bool(variable.trainable) for each in inside for variable in each._trainable_variables]
    return weights + [
        bool(each.trainable) for each in layer._flatten_layers() if isinstance(each, keras.layers.BatchNormalization)
    ]


def _why(path: str, layer: Any) -> str:
    return (
        f"layer {path!r} ({type(layer).__name__}) would train again once the result is saved and loaded, since Keras makes what is inside "
        "it anew from its settings; leave it out of what is frozen, and freeze it in your own code after loading"
    )

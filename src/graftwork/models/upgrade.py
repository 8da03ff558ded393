"""Models of Keras 2 rebuilt in Keras 3 from their configuration: the same graph of the same layers under the same names, without weights.

The graph is called again layer by layer, so nothing depends on how either version numbers calls. A layer keeps its settings where Keras 3
has them; one that it lacks is dropped only at the value at which it does nothing. What TensorFlow computed between layers
(``TFOpLambda``, ``SlicingOpLambda``, ``TensorFlowOpLayer``) becomes ``keras.ops``. Whatever does not become the same function is refused.
"""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from graftwork.architecture.layer import Json, Layer, TensorRef, is_layer, nested
from graftwork.architecture.wiring import Node, Tensor, arguments, wire
from graftwork.errors import StoreError
from graftwork.models.configuration import REFUSALS
from graftwork.models.lazy import keras
from graftwork.models.operations import compute, is_computation, name_operations
from graftwork.stores.files import brief


@dataclass(frozen=True, slots=True)
class Upgrade:
    """How a model of Keras 2 is rebuilt.

    Attributes:
        where: The file, for messages.
        custom_objects: Classes and functions for Keras 3 that the configuration refers to, by name.
        safe_mode: Whether code in the configuration is refused.
        vocabularies: What lookup layers know, by chain of layer names, where the configuration does not hold it.
    """

    where: str
    custom_objects: Mapping[str, Any] = field(default_factory=dict)
    safe_mode: bool = True
    vocabularies: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def model(self, root: Layer) -> Any:
        """Return the model.

        Raises:
            StoreError: If a part of it cannot become the same in Keras 3; it names the layer and its class.
        """
        with keras.saving.custom_object_scope(dict(self.custom_objects)):
            return self._layer(without_slashes(root), "")

    def _layer(self, layer: Layer, chain: str) -> Any:
        if layer.graph is None:
            return self._plain(layer, chain)
        if layer.class_name not in ("Functional", "Model", "Sequential"):
            raise self._refused(
                layer, chain, "is a model class of its own", "rebuild it in Keras 3 and load its weights by name"
            )
        made = self._sequential(layer, chain) if layer.graph.sequential else self._functional(layer, chain)
        if layer.config.get("trainable") is False:
            made.trainable = False
        return made

    def _sequential(self, layer: Layer, chain: str) -> Any:
        assert layer.graph is not None  # asked before
        parts = [self._layer(inner, _join(chain, inner.name)) for inner in layer.graph.layers]
        if parts and not isinstance(parts[0], keras.layers.InputLayer):
            shape = wire(layer).shapes.get((0, 0))
            if shape is not None:
                dtype = _policy(layer.graph.layers[0].config.get("dtype")) or "float32"
                parts.insert(0, keras.Input(batch_shape=shape, dtype=keras.DTypePolicy(dtype).compute_dtype))
        return self._tried(layer, chain, lambda: keras.Sequential(parts, name=layer.name))

    def _functional(self, layer: Layer, chain: str) -> Any:
        assert layer.graph is not None  # asked before
        wiring = wire(layer)
        parts: dict[str, Any] = {}
        tensors: dict[Tensor, Any] = {}
        for number, node in enumerate(wiring.nodes):
            inner, place = node.layer, _join(chain, node.layer.name)
            if is_computation(inner):
                made = self._tried(inner, place, lambda node=node: _computed(node, tensors))
            else:
                if inner.name not in parts:
                    parts[inner.name] = self._layer(inner, place)
                part = parts[inner.name]
                if node.is_input:
                    made = part.output
                else:
                    made = self._tried(inner, place, lambda part=part, node=node: _called(part, node, tensors))
            if isinstance(made, dict):
                made = [made[key] for key in sorted(made)]
            for output, tensor in enumerate(made if isinstance(made, list | tuple) else [made]):
                tensors[number, output] = tensor
        inputs, outputs = (
            _structure([(key, tensors[tensor]) for key, tensor in ends]) for ends in (wiring.inputs, wiring.outputs)
        )
        return self._tried(layer, chain, lambda: keras.Model(inputs, outputs, name=layer.name))

    def _plain(self, layer: Layer, chain: str) -> Any:
        name = layer.class_name.rpartition(">")[2]
        known: Any = getattr(keras.layers, _RENAMED.get(name, name), None) if layer.is_builtin else None
        cls: Any = next((c for n in (layer.registered_name, layer.class_name, name) if (c := self._custom(n))), known)
        if not hasattr(cls, "from_config"):
            why = "which Keras 3 does not have" if layer.is_builtin else "a class that does not come with Keras"
            raise self._refused(
                layer,
                chain,
                why,
                "give a class for Keras 3 that does the same under that name (--custom-objects FILE.py, custom_objects=)",
            )
        settings = {**self._settings(layer, chain, name, cls), "name": layer.name.replace("/", "_")}
        return self._tried(layer, chain, lambda: cls.from_config(settings))

    def _custom(self, name: str | None) -> Any:
        return self.custom_objects.get(name) if name else None

    def _settings(self, layer: Layer, chain: str, name: str, cls: Any) -> dict[str, Any]:
        """Return the settings of a layer as its class in Keras 3 takes them."""
        found: dict[str, Any] = {}
        taken = _taken(cls)
        for key in _ACTIVATIONS:
            if layer.config.get(key) == "hard_sigmoid":
                raise self._refused(
                    layer,
                    chain,
                    f"with {key}='hard_sigmoid', which was x/5 + 1/2 and is x/6 + 1/2 in Keras 3",
                    "keep it in Keras 2",
                )
        for given, value in layer.config.items():
            key = _KEYS.get((name, given), given)
            if key == "dtype" and (taken is None or key in taken):
                found[key] = _policy(value)
            elif key == "batch_input_shape":
                if name == "InputLayer":
                    found["batch_shape"] = value
            elif key in _ACTIVATIONS and isinstance(value, str) and layer.is_builtin:
                found[key] = self._activation(layer, chain, value)
            elif taken is None or key in taken:
                found[key] = self._value(value, chain)
            elif not _does_nothing(key, value):
                raise self._refused(
                    layer, chain, f"with {key}={value!r}, which Keras 3 does not have", "rebuild the layer without it"
                )
        if name == "BatchNormalization" and isinstance(found.get("axis"), list) and len(found["axis"]) == 1:
            found["axis"] = found["axis"][0]
        if name == "SyncBatchNormalization":
            found["synchronized"] = True
        if name == "Lambda":
            found["function"] = self._function(layer, chain)
        if name in LOOKUPS and found.get("vocabulary") is None:
            if chain not in self.vocabularies:
                raise self._refused(
                    layer,
                    chain,
                    "whose vocabulary is not in the file",
                    "save it from Keras 2 as a .keras file, which holds it",
                )
            found["vocabulary"] = list(self.vocabularies[chain])
            found.pop("vocabulary_size", None)
        return found

    def _value(self, value: Json, chain: str) -> Any:
        """Return a setting: layers inside it upgraded, objects without what Keras 2 says of sharing them."""
        if is_layer(value):
            inner = nested(value, where=self.where)
            return keras.saving.serialize_keras_object(self._layer(inner, _join(chain, inner.name)))
        if isinstance(value, list):
            return [self._value(item, chain) for item in value]
        if isinstance(value, dict):
            if value.get("class_name") == "__tuple__":
                return self._value(value.get("items", []), chain)
            return {k: self._value(v, chain) for k, v in value.items() if k != "shared_object_id"}
        return value

    def _activation(self, layer: Layer, chain: str, name: str) -> Any:
        """Return a function by its name: one of Keras's own as it is, for texts are no others to Keras 3."""
        given = self._custom(name)
        if given is not None:
            return given
        try:
            keras.activations.get(name)
        except ValueError as error:
            raise self._refused(
                layer,
                chain,
                f"with the activation {name!r}, which does not come with Keras",
                "give that function (--custom-objects FILE.py, custom_objects=)",
            ) from error
        return name

    def _function(self, layer: Layer, chain: str) -> Any:
        """Return the function of a Lambda layer as Keras 3 writes it."""
        function, kind = layer.config.get("function"), layer.config.get("function_type")
        if isinstance(function, dict) and function.get("class_name") != "__lambda__":
            return function
        if kind == "function" and isinstance(function, str):
            given = self._custom(function)
            if given is None:
                raise self._refused(
                    layer,
                    chain,
                    f"of a function {function!r}",
                    "give that function (--custom-objects FILE.py, custom_objects=)",
                )
            return given
        if self.safe_mode:
            raise self._refused(
                layer,
                chain,
                "made of Python code in the file",
                "if you trust it, load with safe_mode=False, which runs that code",
            )
        code = function["config"] if isinstance(function, dict) else function
        parts = dict(zip(("code", "defaults", "closure"), code, strict=True)) if isinstance(code, list) else code
        return {"class_name": "__lambda__", "config": parts}

    def _tried(self, layer: Layer, chain: str, make: Any) -> Any:
        with contextlib.ExitStack() as stack:
            if not self.safe_mode:
                from keras.src.saving.serialization_lib import (
                    SafeModeScope,  # what Keras's own loading enters; not exported
                )

                stack.enter_context(SafeModeScope(False))
            try:
                return make()
            except StoreError as error:
                if chain and repr(chain) not in str(error):
                    raise self._refused(layer, chain, str(error), "rebuild the model in Keras 3") from error
                raise
            except REFUSALS as error:
                raise self._refused(
                    layer, chain, f"which Keras 3 refuses: {brief(error)}", "rebuild it in Keras 3"
                ) from error

    def _refused(self, layer: Layer, chain: str, why: str, advice: str) -> StoreError:
        what = f"layer {chain!r}" if chain else f"model {layer.name!r}"
        return StoreError(
            f"{self.where} was written by Keras 2, and {what} is a {layer.class_name}, {why.removeprefix('is ')}; {advice}"
        )


LOOKUPS = frozenset({"StringLookup", "IntegerLookup", "TextVectorization"})
"""Layers that know a vocabulary."""

_ACTIVATIONS = ("activation", "recurrent_activation")
"""Settings that name a function."""

_RENAMED = {"SyncBatchNormalization": "BatchNormalization"}

_KEYS = {("LeakyReLU", "alpha"): "negative_slope"}
"""Settings under another name in Keras 3."""

_ANY = object()

_NOTHING: Mapping[str, Any] = {
    "dtype": ("float32", None),
    "dynamic": (False, None),
    "experimental_autocast": _ANY,
    "implementation": _ANY,
    "input_length": _ANY,
    "time_major": (False,),
    "trainable": _ANY,
    "zero_output_for_mask": (False,),
    "ragged": (False,),
    "sparse": (False,),
    "optional": (False,),
    "groups": (1,),
    "noise_shape": (None,),
    "rng_type": _ANY,
    "renorm": (False,),
    "renorm_clipping": _ANY,
    "renorm_momentum": _ANY,
    "virtual_batch_size": (None,),
    "adjustment": (None,),
    "fused": _ANY,
    "softmax_robust_masking": (False,),
    "query_shape": _ANY,
    "key_shape": _ANY,
    "value_shape": _ANY,
    "encoding": ("utf-8", "UTF-8"),
    "vocabulary_size": _ANY,
    "has_input_vocabulary": _ANY,
    "function_type": _ANY,
    "module": _ANY,
    "output_shape_type": _ANY,
    "output_shape_module": _ANY,
    "build_input_shape": _ANY,
}
"""Settings that Keras 3 lacks, and the values at which they change nothing; what is said of a Lambda's code is read elsewhere."""


def _does_nothing(key: str, value: Json) -> bool:
    if key.endswith("_initializer"):  # of weights that the file holds
        return True
    values = (None,) if key.endswith(("_regularizer", "_constraint")) else _NOTHING.get(key)
    return values is _ANY or (values is not None and value in values)


def _taken(cls: Any) -> frozenset[str] | None:
    """Return the settings that a class takes, from every `__init__` that its arguments are handed to; None for one of the user's."""
    if not cls.__module__.startswith("keras."):
        return None
    found: set[str] = set()
    for base in cls.__mro__:
        if base is keras.layers.Layer:
            return frozenset(found | {"name", "trainable", "dtype", "autocast", "activity_regularizer"})
        init = vars(base).get("__init__")
        if init is not None:
            parameters = inspect.signature(init).parameters.values()
            found |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
            if all(p.kind is not p.VAR_KEYWORD for p in parameters):
                break
    return frozenset(found)


def _policy(value: Json) -> Any:
    """Return a dtype, or the name of the policy that Keras 2 writes as an object."""
    if isinstance(value, dict):
        config = value.get("config")
        return config.get("name") if isinstance(config, dict) else None
    return value


def _join(chain: str, name: str) -> str:
    return f"{chain}/{name}" if chain else name


def without_slashes(root: Layer) -> Layer:
    """Return a model whose layers have names that Keras 3 allows: ``conv1/conv`` becomes ``conv1_conv``."""
    if root.graph is None:
        return root
    taken = {layer.name for layer in root.graph.layers}
    names: dict[str, str] = {}
    for layer in root.graph.layers:
        name = layer.name.replace("/", "_")
        while name != layer.name and name in taken:
            name += "_"
        taken.add(name)
        names[layer.name] = name

    def moved(ref: TensorRef) -> TensorRef:
        return replace(ref, layer=names.get(ref.layer, ref.layer))

    layers = tuple(
        replace(
            without_slashes(layer),
            name=names[layer.name],
            calls=tuple(replace(call, inputs=tuple(moved(ref) for ref in call.inputs)) for call in layer.calls),
        )
        for layer in root.graph.layers
    )
    inputs, outputs = (
        tuple((key, moved(ref)) for key, ref in ends) for ends in (root.graph.inputs, root.graph.outputs)
    )
    return replace(
        root, name=root.name.replace("/", "_"), graph=replace(root.graph, layers=layers, inputs=inputs, outputs=outputs)
    )


# Calls --------------------------------------------------------------------------------------------------------------

_RECURRENT = frozenset({"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"})


def _called(part: Any, node: Node, tensors: Mapping[Tensor, Any]) -> Any:
    first, named = _given(node, tensors)
    named = {k: v for k, v in named.items() if v is not None}
    if node.layer.class_name in _RECURRENT and isinstance(first, list) and len(first) > 1:
        first, named = first[0], {"initial_state": first[1:], **named}
    mask = getattr(first, "_keras_mask", None)
    if (
        "initial_state" in named and mask is not None
    ):  # which Keras 3 forgets where a layer is given more than one tensor
        name_operations(f"{node.layer.name}_mask", mask)
        named = {"mask": mask, **named}
    return part(first, **named)


def _computed(node: Node, tensors: Mapping[Tensor, Any]) -> Any:
    first, named = _given(node, tensors)
    return compute(node.layer, first, named)


def _given(node: Node, tensors: Mapping[Tensor, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the first argument of a call and the named ones, with Keras tensors in their places."""
    if not node.layer.calls:
        raise StoreError("it is never called")
    call = node.layer.calls[node.call]
    references, _ = arguments(call, node.layer)
    known = {ref: tensors[tensor] for (_, ref), tensor in zip(references, node.inputs, strict=True)}
    named: dict[str, Any] = {}

    def fill(value: Json) -> Any:
        if isinstance(value, dict):
            if set(value) == {"tensor"} and type(value["tensor"]) is int:
                ref = call.inputs[value["tensor"]]
                return ref.output if ref.layer == CONSTANT else known[ref]
            return {key: fill(item) for key, item in value.items()}
        if not isinstance(value, list):
            return value
        if len(value) == 2 and isinstance(value[1], dict) and set(value[1]) != {"tensor"} and _is_place(value[0]):
            named.update(
                {key: fill(item) for key, item in value[1].items()}
            )  # repeated beside each tensor of the first
            return fill(value[0])
        if value and value[0] == CONSTANT:
            if len(value) > 3 and isinstance(value[3], dict):
                named.update({key: fill(item) for key, item in value[3].items()})
            return value[2]
        return [fill(item) for item in value]

    first = fill(call.arguments)
    return (first[0] if isinstance(first, list) and len(first) == 1 else first), named


CONSTANT = "_CONSTANT_VALUE"
"""What stands in a configuration of Keras 2 instead of a layer's name where a number is given among tensors."""


def _is_place(value: Json) -> bool:
    return isinstance(value, dict) and set(value) == {"tensor"}


def _structure(ends: Sequence[tuple[str, Any]]) -> Any:
    """Return inputs or outputs in the form that their keys tell: a single one, a list, a dictionary, or these inside each other."""
    if len(ends) == 1 and ends[0][0] in ("0", ""):
        return ends[0][1]
    groups: dict[str, list[tuple[str, Any]]] = {}
    for key, tensor in ends:
        head, _, rest = key.partition("/")
        groups.setdefault(head, []).append((rest, tensor))
    found = {head: _structure(inner) for head, inner in groups.items()}
    return list(found.values()) if all(head.isdecimal() for head in found) else found

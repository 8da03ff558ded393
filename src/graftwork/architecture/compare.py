"""Whether two layers, each taken by itself, compute the same function up to their weights.

A configuration says much that does not matter here (names, initializers, what only happens in training) and says the same thing
in several ways (Keras 2 and Keras 3, a string or an object, 3 or -1 for the last of four axes). `describe` brings it into one
form, so that two layers agree exactly when their descriptions are equal.
"""

import itertools
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace

from graftwork.architecture.layer import Json, Layer, is_layer, nested
from graftwork.architecture.variables import children
from graftwork.errors import StoreError

ABSENT = "(absent)"
"""Stands for the value of a field that one of two configurations does not have."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One reason why two configurations do not compute the same function.

    Attributes:
        where_a: Chain of layer names in A (``"encoder/conv"``); empty for the model itself, or where A has no such layer.
        where_b: Likewise in B.
        field: What differs: a field of the configuration, ``"class"``, ``"inputs"``, ``"outputs"``, ``"layers"`` (one has no
            counterpart) or ``"arguments"`` (of a call).
        a: What was found in A.
        b: What was found in B.
        reason: What makes it a difference, where the two values do not show it.
    """

    where_a: str
    where_b: str
    field: str
    a: Json
    b: Json
    reason: str = ""

    def __str__(self) -> str:
        return self.describe("A", "B")

    def describe(self, label_a: str, label_b: str) -> str:
        """Return the difference in one sentence, the models called by these labels."""
        if self.field == "layers" and self.where_a != self.where_b:
            name, label, other = (
                (self.where_a, label_a, label_b) if self.b is None else (self.where_b, label_b, label_a)
            )
            kind = self.a if self.b is None else self.b
            return f"layer {name!r} ({kind}) of {label} has no counterpart in {other}{self._because()}"
        return f"{self._where(label_b)} {self._found(label_a, label_b)}{self._because()}"

    def _where(self, label_b: str) -> str:
        if not self.where_a and not self.where_b:
            return "the model"
        if self.where_a == self.where_b:
            return f"layer {self.where_a!r}"
        return f"layer {self.where_a!r} ({self.where_b!r} in {label_b})"

    def _found(self, label_a: str, label_b: str) -> str:
        if self.field == "class":
            return f"is a {self.a} in {label_a} but a {self.b} in {label_b}"
        if isinstance(self.a, list | tuple) and isinstance(self.b, list | tuple) and max(len(self.a), len(self.b)) > 8:
            place, one, other = next(
                (k, one, other)
                for k, (one, other) in enumerate(itertools.zip_longest(self.a, self.b, fillvalue="nothing"))
                if one != other or k + 1 == max(len(self.a), len(self.b))
            )
            return (
                f"has another {self.field} in {label_a} than in {label_b}: {len(self.a):,} against {len(self.b):,} entries, "
                f"first at {place}: {_short(one)} against {_short(other)}"
            )
        return f"has {self.field} {_short(self.a)} in {label_a} but {_short(self.b)} in {label_b}"

    def _because(self) -> str:
        return f" ({self.reason})" if self.reason else ""


def _short(value: Json) -> str:
    text = value if value == ABSENT else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"


@dataclass(frozen=True, slots=True)
class Description:
    """A layer's own configuration in one form.

    Attributes:
        kind: The class; operations, layers and classes of the user's never share a name.
        fields: What the function depends on, each value hashable and in one spelling.
        lenient: What may differ without changing what is inferred (rates of dropout, precision); worth a note.
    """

    kind: str
    fields: Mapping[str, Json]
    lenient: Mapping[str, Json]

    def without(self, ignored: Set[str]) -> "Description":
        """Return the description with some fields among those that may differ."""
        if not ignored & self.fields.keys():
            return self
        fields = {name: value for name, value in self.fields.items() if name not in ignored}
        return Description(
            self.kind, fields, {**self.lenient, **{n: v for n, v in self.fields.items() if n in ignored}}
        )

    def found(self, name: str) -> Json:
        """Return what a field holds, or what holds without it."""
        if name in self.fields or name in self.lenient:
            return self.fields[name] if name in self.fields else self.lenient[name]
        return _DEFAULTS[name][0] if name in _DEFAULTS else ABSENT


def differences(a: Description, b: Description, where_a: str, where_b: str) -> Iterator[Difference]:
    """Yield what differs between two descriptions; after a difference of class nothing else is worth a word."""
    if a.kind != b.kind:
        yield Difference(where_a, where_b, "class", a.kind, b.kind)
        return
    for name in sorted(a.fields.keys() | b.fields.keys()):
        if a.fields.get(name, ABSENT) != b.fields.get(name, ABSENT):
            one, other = a.found(name), b.found(name)
            quantized = name == "dtype" and (str(one).startswith("quantized") or str(other).startswith("quantized"))
            yield Difference(where_a, where_b, name, one, other, "quantized; dequantize first" if quantized else "")


def is_builtin(layer: Layer) -> bool:
    """Whether the class comes with Keras 3, Keras 2 or TensorFlow's old copy of it, as far as the configuration says."""
    if layer.registered_name and ">" in layer.registered_name and not layer.registered_name.startswith("keras"):
        return False
    if ">" in layer.class_name:
        return False
    return layer.is_builtin or layer.module.startswith(("tf_keras", "keras.", "tensorflow.python.keras"))


def is_operation(layer: Layer) -> bool:
    """Whether it is an operation of ``keras.ops`` that stands in the graph, not a layer."""
    return is_builtin(layer) and ".ops." in f"{layer.module}."


def kind_of(layer: Layer) -> str:
    """Return the class under one name, whatever wrote the configuration."""
    if layer.graph is not None:
        return "model"  # a Sequential and a Functional may hold the same chain
    if is_operation(layer):
        return f"{layer.class_name} (operation)"
    if is_builtin(layer):
        return _RENAMED_CLASSES.get(layer.class_name, layer.class_name)
    name = layer.registered_name or layer.class_name
    return name if ">" in name else f"{name} (custom)"  # which may well be called Dense


_RENAMED_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "Convolution1D": "Conv1D",
    "Convolution2D": "Conv2D",
    "Convolution3D": "Conv3D",
    "Convolution2DTranspose": "Conv2DTranspose",
    "Convolution3DTranspose": "Conv3DTranspose",
    "SeparableConvolution2D": "SeparableConv2D",
    "GlobalAvgPool2D": "GlobalAveragePooling2D",
    "GroupedQueryAttention": "GroupQueryAttention",
    "LSTMV2": "LSTM",
    "GRUV2": "GRU",
    "DenseV2": "Dense",
}

_OF_TRAINING = frozenset(
    """
    name trainable seed seed_generator unit_forget_bias batch_size batch_input_shape batch_shape input_shape
    input_length build_input_shape implementation unroll autocast jit_compile synchronized shared_object_id
    virtual_batch_size query_shape key_shape value_shape rng_type flash_attention softmax_robust_masking fused
    optional renorm_clipping renorm_momentum
    """.split()  # noqa: SIM905 (names to read, not a column)
)
"""Fields of Keras's own layers that say nothing about the function that is inferred, or only how it is computed."""

_LENIENT = frozenset({"momentum", "rate", "stddev", "noise_shape", "dropout", "recurrent_dropout"})
"""Fields that act in training alone; they may differ, and are reported."""

_DEFAULTS: Mapping[str, tuple[Json, ...]] = {
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
    "groups": (1,),
    "renorm": (False,),
    "rms_scaling": (False,),
    "time_major": (False,),
    "zero_output_for_mask": (False,),
    "use_gate": (False,),
    "sliding_window": (None,),
    "data_format": ("channels_last", None),
    "antialias": (False,),
    "crop_to_aspect_ratio": (False,),
    "pad_to_aspect_ratio": (False,),
    "fill_mode": ("constant",),
    "fill_value": (0,),
    "oov_method": ("floormod",),
    "salt": (None,),
    "encoding": ("utf-8",),
    "vocabulary_size": (None,),
    "idf_weights": (None,),
    "sparse": (False,),
    "ragged": (False,),
    "keepdims": (False,),
    "output_padding": (None,),
    "invert": (False,),
    "mask_token": (None,),
    "value_range": ((0, 255),),
}
"""Fields that came with a later version or went with an earlier one, and the value they then have without saying so."""

_AXIS_OF_INPUT = frozenset(
    """
    BatchNormalization LayerNormalization GroupNormalization RMSNormalization UnitNormalization Normalization
    Softmax Concatenate
    """.split()  # noqa: SIM905 (names to read, not a column)
)
"""Classes whose `axis` counts the axes of the input, so that its rank turns 3 into -1."""

_ACTIVATIONS = {"ReLU": "relu", "Softmax": "softmax", "ELU": "elu", "swish": "silu", None: "linear"}

_DEPTH = 32


def describe(layer: Layer, rank: int | None = None) -> Description:
    """Return what a layer computes apart from its weights, without the layers inside it.

    Args:
        layer: Any layer; of a model there is nothing to say, since its function is its graph's.
        rank: Number of axes of its first input (with the batch), where that is known.

    Raises:
        StoreError: If the configuration nests too deep to be one.
    """
    kind = kind_of(layer)
    if layer.graph is not None:
        return Description(kind, {}, {})
    builtin = is_builtin(layer)
    fields: dict[str, Json] = {}
    lenient: dict[str, Json] = {}
    for name, value in layer.config.items():
        if name == "dtype":
            precision = _precision(value)
            (lenient if precision.startswith("float") else fields)[name] = precision
        elif name in ("name", "trainable", "batch_input_shape") or is_inner(name, value):
            continue
        elif not builtin:
            fields[name] = _plain(value)
        elif name in _OF_TRAINING or name.endswith(("_initializer", "_regularizer", "_constraint")):
            continue
        elif name in _LENIENT or (kind.startswith("Random") and kind != "RandomCrop"):
            lenient[name] = _plain(value)
        else:
            _add(fields, kind, name, value, rank)
    return Description(kind, fields, lenient)


def is_inner(name: str, value: Json) -> bool:
    """Whether a field holds layers, which are compared as layers and not as values."""
    if name == "activation" or name.endswith("_activation"):
        return is_layer(value) and _activation(value) is None
    return is_layer(value) or (isinstance(value, list) and bool(value) and all(is_layer(item) for item in value))


def _add(fields: dict[str, Json], kind: str, name: str, value: Json, rank: int | None) -> None:
    plain = _plain(value)
    if name == "activation" or name.endswith("_activation"):
        named = _activation(value)
        plain = plain if named is None else named
    elif name == "axis" and kind in _AXIS_OF_INPUT:
        plain = _axis(plain, rank)
    elif name == "alpha" and kind == "LeakyReLU":
        name = "negative_slope"
    elif name in ("padding", "data_format", "merge_mode", "interpolation", "output_mode") and isinstance(plain, str):
        plain = plain.lower()
    if name in _DEFAULTS and any(plain == default and type(plain) is type(default) for default in _DEFAULTS[name]):
        return
    fields[name] = plain


def _precision(value: Json) -> str:
    """Return a dtype or the name of a policy; one that stores codes instead of weights starts with ``quantized``."""
    name, quantized = value, False
    if isinstance(value, dict):
        inner = value.get("config")
        config = inner if isinstance(inner, dict) else {}
        quantized = isinstance(config.get("mode"), str)  # of QuantizedDTypePolicy, Int4DTypePolicy, GPTQDTypePolicy, …
        name = (
            (quantized and config["mode"])
            or config.get("name")
            or config.get("default_policy")
            or value.get("class_name")
        )
        if isinstance(name, dict):
            return _precision(name)
    text = str(name)
    if quantized or "_from_" in text or text.startswith(("int8", "int4", "float8", "gptq", "awq")):
        return f"quantized {text}"
    if text in (
        "None",
        "mixed_float16",
        "mixed_bfloat16",
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "half",
        "double",
    ):
        return "float32" if text == "None" else f"float ({text})" if not text.startswith("float") else text
    return text


def _activation(value: Json) -> str | None:
    """Return the name of an activation, however it is written; None for one that is more than a name."""
    if value is None or isinstance(value, str):
        return _ACTIVATIONS.get(value, value)
    if not isinstance(value, dict):
        return None
    config = value.get("config")
    if value.get("class_name") == "function":
        name = config.get("name") if isinstance(config, dict) else config
        module = value.get("module")
        if not isinstance(name, str):
            return None
        if module in (None, "builtins", "keras.activations") or str(module).startswith(
            ("keras.src.activations", "tf_keras")
        ):
            registered = value.get("registered_name")
            return registered if isinstance(registered, str) and ">" in registered else _ACTIVATIONS.get(name, name)
        return f"{module}.{name}"
    name = value.get("class_name")
    plain = all(
        (k, v) in (("max_value", None), ("negative_slope", 0), ("threshold", 0), ("axis", -1), ("alpha", 1))
        for k, v in (config if isinstance(config, dict) else {}).items()
        if k not in ("name", "trainable", "dtype")
    )
    return _ACTIVATIONS.get(name) if plain and isinstance(name, str) else None


def _axis(value: Json, rank: int | None) -> Json:
    """Return an axis, or several, counted from the last, if the rank is known; a single one not as a tuple."""
    if isinstance(value, tuple):
        axes = tuple(_axis(item, rank) for item in value)
        return axes[0] if len(axes) == 1 else axes
    return value - rank if type(value) is int and rank is not None and 0 <= value < rank else value


def _plain(value: Json, depth: int = 0) -> Json:
    """Return a value of JSON as something hashable, with one spelling for each meaning."""
    if depth > _DEPTH:
        raise StoreError(f"a layer's configuration nests more than {_DEPTH} deep; it was not written by Keras")
    if isinstance(value, float):
        # What went through float32 (0.30000001192092896) equals what did not; 1.0 equals 1.
        short = float(f"{value:.7g}")
        return int(short) if short.is_integer() and abs(short) < 2**53 else short
    if isinstance(value, list | tuple):
        return tuple(_plain(item, depth + 1) for item in value)
    if isinstance(value, dict):
        if value.get("class_name") in ("__numpy__", "__tensor__", "__tuple__", "__list__"):
            config = value.get("config", value.get("items"))
            return _plain(config.get("value") if isinstance(config, dict) else config, depth + 1)
        own = value["config"].keys() - {"name"} if is_layer(value) else ()  # what a layer is called does not matter
        return tuple(
            (key, _plain({k: value["config"][k] for k in own} if own and key == "config" else value[key], depth + 1))
            for key in sorted(value)
            if key not in ("shared_object_id", "build_config", "name" if own else "shared_object_id")
        )
    return value


def inner_layers(layer: Layer) -> tuple[tuple[str, Layer], ...]:
    """Return the layers that a wrapper, an RNN or an attention holds, each with where it holds it (``"cells/0"``)."""
    found: list[tuple[str, Layer]] = []
    known = children(layer)
    for child in known or ():
        if child.built:
            inner = _one_way(child.layer, layer, child.attribute) if kind_of(layer) == "Bidirectional" else child.layer
            found.append((child.attribute.split("/")[0], inner))
    for name, value in layer.config.items():
        if is_inner(name, value) and (known is None or name.endswith("activation")):
            found += [(name, nested(item)) for item in (value if isinstance(value, list) else [value])]
    count: dict[str, int] = {}
    numbered = []
    for name, inner in found:  # keys of children in lists hold names; their places are what two models share
        numbered.append((f"{name}/{count[name]}" if name in count else name, inner))
        count[name] = count.get(name, 0) + 1
    return tuple(numbered)


def _one_way(inner: Layer, outer: Layer, attribute: str) -> Layer:
    """Return one direction of a Bidirectional as Keras 3 writes it: Keras 2 leaves out the way back, which is the way there."""
    config = {name: value for name, value in inner.config.items() if name != "zero_output_for_mask"}
    if attribute == "backward_layer" and not is_layer(outer.config.get("backward_layer")):
        config["go_backwards"] = not config.get("go_backwards", False)
    return replace(inner, config=config)

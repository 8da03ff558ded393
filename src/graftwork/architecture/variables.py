"""What every built-in Keras layer stores: its own variables in the order of the file, and the layers inside it.

Keras writes ``vars/0``, ``vars/1``, … and says nowhere which is which. The order follows from the class and its options, as
Keras 3.15's sources have it: trainable variables first, then the others, unless the class overrides ``save_own_variables``.
The names are Keras 3's for both versions (the kernel of a Keras 2 ``DepthwiseConv2D``, called ``depthwise_kernel`` there, is
``kernel`` here), so that files of both can be matched.

A layer made up here because no configuration holds it (the cell of an LSTM, the projections of an attention layer) has only
what decides its variables in its ``config``.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from graftwork.architecture.layer import Json, Layer, nested
from graftwork.tensor import Role


@dataclass(frozen=True, slots=True)
class Own:
    """One variable of a layer.

    Attributes:
        key: Its name below the layer's ``vars``: a number as a rule.
        name: What Keras 3 calls it.
        role: What it is for.
        trainable: Whether it is by nature, whatever the layers around it say.
        codes: The dtype of a quantized layer's codes; "" for a number like others.
        same_as: Where the file holds the same variable a second time: the attribute path of the child and the key there.
    """

    key: str
    name: str
    role: Role = Role.WEIGHT
    trainable: bool = True
    codes: str = ""
    same_as: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Child:
    """A layer inside another.

    Attributes:
        attribute: Its path below the h5 group of the layer that holds it (``forward_layer``, ``cells/lstm_cell_1``).
        layer: The layer.
        built: False for one that Keras keeps and never uses, so that nothing in it has variables.
    """

    attribute: str
    layer: Layer
    built: bool = True


def own_variables(layer: Layer, *, keras2: bool = False) -> tuple[Own, ...] | None:
    """Return the variables that a layer stores itself, without those of the layers inside it.

    Args:
        layer: Any layer or model.
        keras2: Whether Keras 2 wrote the file.

    Returns:
        In the order of the file; None for a class that does not come with Keras or keeps its variables elsewhere.
    """
    if layer.graph is not None:
        return ()
    if not layer.is_builtin:
        return None
    if layer.class_name in _ODD:
        return _ODD[layer.class_name](layer, keras2)
    row = _TABLE.get(layer.class_name)
    if row is None:
        return () if layer.class_name in _WITHOUT or layer.class_name in _CHILDREN else None
    present = [variable for variable in row if variable.when(layer.config)]
    return tuple(
        Own(str(key), variable.name, variable.role, variable.role is Role.WEIGHT)
        for key, variable in enumerate(present)
    )


def children(layer: Layer, *, keras2: bool = False) -> tuple[Child, ...] | None:
    """Return the layers inside a layer that is not a Functional or Sequential model.

    Args:
        layer: Any layer; a model's layers are in its graph, so it has none here.
        keras2: Whether Keras 2 wrote the file: some attributes differ, and so does the order.

    Returns:
        In the order in which Keras saves them; None where that cannot be known.
    """
    if layer.graph is not None:
        return ()
    if own_variables(layer, keras2=keras2) is None:
        return None
    find = _CHILDREN.get(layer.class_name)
    if find is None:
        return ()
    found = find(layer, keras2)
    if found is None:
        return None
    # Keras walks `sorted(dir(layer))`, private attributes last; Keras 2 the other way round.
    if keras2:
        return tuple(sorted(found, key=lambda child: child.attribute.split("/")[0], reverse=True))
    return tuple(sorted(found, key=lambda child: re.sub("^_", "~_", child.attribute.split("/")[0])))


@functools.cache
def variants(class_name: str) -> tuple[tuple[Own, ...], ...]:
    """Return every sequence of variables that a built-in class can store, whatever its options; empty for others."""
    options = _OPTIONS.get(class_name, {})
    for variable in _TABLE.get(class_name, ()):
        options = {**options, **variable.when.choices}
    found: dict[tuple[Own, ...], None] = {}
    for values in itertools.product(*options.values()):
        for keras2 in (False, True):
            layer = Layer(name="", class_name=class_name, config=dict(zip(options, values, strict=True)))
            own = own_variables(layer, keras2=keras2)
            if own:
                found[own] = None
    return tuple(found)


def class_names() -> frozenset[str]:
    """Return the classes of layers that the table knows."""
    return frozenset((*_TABLE, *_ODD, *_CHILDREN, *_WITHOUT))


# Classes whose variables follow from a list -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _When:
    """A condition on the configuration, and the values of the options that make it true or false."""

    holds: Callable[[Mapping[str, Json]], bool]
    choices: Mapping[str, tuple[Json, ...]]

    def __call__(self, config: Mapping[str, Json]) -> bool:
        return self.holds(config)


_ALWAYS = _When(lambda _: True, {})


def _if(option: str, *, default: bool = True) -> _When:
    return _When(lambda config: bool(config.get(option, default)), {option: (True, False)})


@dataclass(frozen=True, slots=True)
class _Variable:
    name: str
    when: _When = _ALWAYS
    role: Role = Role.WEIGHT


def _statistic(name: str, when: _When = _ALWAYS) -> _Variable:
    return _Variable(name, when, Role.STATISTIC)


_BIAS = _Variable("bias", _if("use_bias"))
_RENORM = _if("renorm", default=False)
_ADAPTED = _When(lambda config: config.get("mean") is None, {"mean": (None, 0.0)})

_CONV = (_Variable("kernel"), _BIAS)
_SEPARABLE = (_Variable("depthwise_kernel"), _Variable("pointwise_kernel"), _BIAS)
_CELL = (_Variable("kernel"), _Variable("recurrent_kernel"), _BIAS)
_SCALE_CENTER = (_Variable("gamma", _if("scale")), _Variable("beta", _if("center")))
_BATCH_NORM = (
    *_SCALE_CENTER,
    _statistic("moving_mean"),
    _statistic("moving_variance"),
    _statistic("moving_stddev", _RENORM),
    _statistic("renorm_mean", _RENORM),
    _statistic("renorm_stddev", _RENORM),
)
_LAYER_NORM = (  # `rms_scaling`, of Keras before 3.10, forces gamma and forbids beta
    _Variable(
        "gamma",
        _When(lambda c: bool(c.get("scale", True) or c.get("rms_scaling")), {"scale": (True, False)}),
    ),
    _Variable(
        "beta",
        _When(lambda c: bool(c.get("center", True) and not c.get("rms_scaling")), {"center": (True, False)}),
    ),
)
_ATTENTION = (
    _Variable("scale", _if("use_scale", default=False)),
    _Variable(
        "concat_score_weight",
        _When(lambda config: config.get("score_mode") == "concat", {"score_mode": ("dot", "concat")}),
    ),
)
_STFT = (
    _Variable("real_kernel", _When(lambda c: c.get("mode") != "imag", {"mode": ("log", "real", "imag")})),
    _Variable("imag_kernel", _When(lambda c: c.get("mode") != "real", {"mode": ("log", "real", "imag")})),
)

_TABLE: Mapping[str, tuple[_Variable, ...]] = {
    "Conv1D": _CONV,
    "Conv2D": _CONV,
    "Conv3D": _CONV,
    "Conv1DTranspose": _CONV,
    "Conv2DTranspose": _CONV,
    "Conv3DTranspose": _CONV,
    "DepthwiseConv1D": _CONV,
    "DepthwiseConv2D": _CONV,
    "LocallyConnected1D": _CONV,
    "LocallyConnected2D": _CONV,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "LSTMCell": _CELL,
    "GRUCell": _CELL,
    "SimpleRNNCell": _CELL,
    "ConvLSTMCell": _CELL,
    "BatchNormalization": _BATCH_NORM,
    "SyncBatchNormalization": _BATCH_NORM,
    "LayerNormalization": _LAYER_NORM,
    "GroupNormalization": _SCALE_CENTER,
    "RMSNormalization": (_Variable("scale"),),
    "PReLU": (_Variable("alpha"),),
    "Attention": _ATTENTION,
    "AdditiveAttention": (_Variable("scale", _if("use_scale")),),
    "Normalization": (
        _statistic("mean", _ADAPTED),
        _statistic("variance", _ADAPTED),
        _Variable("count", _ADAPTED, Role.COUNTER),
    ),
    "STFTSpectrogram": _STFT,
}

_WITHOUT = frozenset(
    """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D AdaptiveAveragePooling3D
    AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AlphaDropout AutoContrast Average AveragePooling1D
    AveragePooling2D AveragePooling3D CategoryEncoding CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization
    Cropping1D Cropping2D Cropping3D CutMix Dot Dropout ELU Equalization Flatten GaussianDropout GaussianNoise
    GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D
    GlobalMaxPooling3D HashedCrossing Hashing Identity InputLayer Lambda Layer LeakyReLU Masking MaxNumBoundingBoxes
    MaxPooling1D MaxPooling2D MaxPooling3D Maximum MelSpectrogram Minimum MixUp Multiply Permute RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop RandomElasticTransform RandomErasing RandomFlip
    RandomGaussianBlur RandomGrayscale RandomHeight RandomHue RandomInvert RandomPerspective RandomPosterization
    RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation RandomWidth RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing Softmax Solarization SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract
    ThresholdedReLU UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
    TFOpLambda SlicingOpLambda ClassMethod InstanceMethod InstanceProperty
    """.split()  # noqa: SIM905 (a column of 113 strings is no table)
)
"""Layers without variables; the last line is Keras 2's, for TensorFlow operations in a graph."""


# Quantized layers ---------------------------------------------------------------------------------------------------

_FLOAT8 = (
    "inputs_scale",
    "inputs_amax_history",
    "kernel_scale",
    "kernel_amax_history",
    "outputs_grad_scale",
    "outputs_grad_amax_history",
)

_GPTQ_ORDER = ("bias", "kernel", "kernel_scale", "g_idx")
_AWQ_ORDER = ("bias", "kernel", "kernel_scale", "awq_scales", "g_idx")


def _quantization(dtype: Json) -> tuple[str, bool]:
    """Return the mode of a dtype policy ("" for none) and whether it quantizes in groups."""
    name: Json = dtype
    if isinstance(dtype, dict):
        config = dtype.get("config")
        name = (config.get("mode") or "") if isinstance(config, dict) else ""
    if not isinstance(name, str):
        return "", False
    mode, *sizes = name.split("_from_")[0].split("/")
    if mode not in ("int8", "int4", "float8", "gptq", "awq"):
        return "", False
    return mode, bool(sizes) and sizes[-1] != "-1"


def _numbered(names: Iterator[str] | tuple[str, ...], mode: str) -> tuple[Own, ...]:
    """Return variables of a layer that may be quantized; a bias never is."""

    def own(key: int, name: str) -> Own:
        if not mode or name == "bias":
            return Own(str(key), name)
        coded = name in ("kernel", "embeddings", "reverse_embeddings") or name.endswith("_zero")
        codes = {"float8": "", "gptq": "uint8", "awq": "uint8"}.get(mode, "int8") if coded else ""
        return Own(str(key), name, Role.QUANTIZED, trainable=mode == "float8", codes=codes)

    return tuple(own(key, name) for key, name in enumerate(names))


def _dense(layer: Layer, _: bool) -> tuple[Own, ...]:
    bias = layer.config.get("bias_axes") is not None if layer.class_name == "EinsumDense" else _BIAS.when(layer.config)
    mode, grouped = _quantization(layer.config.get("dtype"))
    order = {
        "": ("kernel", "bias"),
        "int8": ("kernel", "bias", "kernel_scale"),
        "int4": ("kernel", "bias", "kernel_scale", *(("kernel_zero", "g_idx") if grouped else ())),
        "float8": ("kernel", "bias", *_FLOAT8),
        "gptq": _GPTQ_ORDER,  # without `kernel_zero`, which Keras 3.15 builds and does not save
        "awq": _AWQ_ORDER,
    }[mode]
    return _numbered(tuple(name for name in order if name != "bias" or bias), mode)


def _embedding(layer: Layer, _: bool) -> tuple[Own, ...]:
    mode, grouped = _quantization(layer.config.get("dtype"))
    if mode not in ("int8", "int4"):  # the other modes do not exist for embeddings
        mode = ""
    grouped = grouped and mode == "int4"
    names = ["embeddings"]
    if mode:
        names.append("embeddings_scale")
    if grouped:
        names += ["embeddings_zero", "g_idx"]
    if layer.class_name == "ReversibleEmbedding" and not layer.config.get("tie_weights", True):
        names.append("reverse_embeddings")
        if mode:
            names.append("reverse_embeddings_scale")
        if grouped:
            names.append("reverse_embeddings_zero")
    return _numbered(tuple(names), mode)


# Other classes that a list does not describe ------------------------------------------------------------------------


def _lookup(layer: Layer, _: bool) -> tuple[Own, ...]:
    if layer.config.get("output_mode") != "tf_idf":
        return ()
    same = ("_lookup_layer", "idf_weights") if layer.class_name == "TextVectorization" else None
    return (Own("idf_weights", "idf_weights", Role.TABLE, trainable=False, same_as=same),)


def _discretization(layer: Layer, keras2: bool) -> tuple[Own, ...]:
    if not keras2 or layer.config.get("bin_boundaries") is not None:
        return ()
    return (Own("0", "summary", Role.STATISTIC, trainable=False),)


def _spectral_normalization(layer: Layer, keras2: bool) -> tuple[Own, ...] | None:
    """The wrapped layer's kernel is tracked by the wrapper too, so the file holds it twice."""
    inner = _layer(layer.config.get("layer"))
    stored = own_variables(inner, keras2=keras2) if inner is not None else None
    twin = next((own for own in stored or () if own.name in ("kernel", "embeddings")), None)
    if inner is None or twin is None:
        return None
    trainable = twin.trainable and inner.config.get("trainable") is not False
    return (
        Own("0", twin.name, twin.role, trainable, twin.codes, same_as=("layer", twin.key)),
        Own("1", "vector_u", Role.STATISTIC, trainable=False),
    )


_ODD: Mapping[str, Callable[[Layer, bool], tuple[Own, ...] | None]] = {
    "Dense": _dense,
    "EinsumDense": _dense,
    "Embedding": _embedding,
    "ReversibleEmbedding": _embedding,
    "StringLookup": _lookup,
    "IntegerLookup": _lookup,
    "TextVectorization": _lookup,
    "Discretization": _discretization,
    "SpectralNormalization": _spectral_normalization,
}

_MODES = (None, "int8", "int4/-1", "int4/128", "float8", "gptq/4/-1", "awq/4/-1")
_OPTIONS: Mapping[str, Mapping[str, tuple[Json, ...]]] = {
    "Dense": {"use_bias": (True, False), "dtype": _MODES},
    "EinsumDense": {"bias_axes": ("", None), "dtype": _MODES},
    "Embedding": {"dtype": _MODES},
    "ReversibleEmbedding": {"tie_weights": (True, False), "dtype": _MODES},
    "Discretization": {"bin_boundaries": (None, [])},
}
"""The options that decide in the functions above, for `variants`."""


# Layers inside layers -----------------------------------------------------------------------------------------------


def _layer(value: Json) -> Layer | None:
    if isinstance(value, dict) and isinstance(value.get("class_name"), str) and isinstance(value.get("config"), dict):
        return nested(value)
    return None


def _made(class_name: str, name: str, **config: Json) -> Layer:
    return Layer(name=name, class_name=class_name, module="keras.layers", config={"name": name, **config})


def _wrapped(layer: Layer, _: bool) -> tuple[Child, ...] | None:
    inner = _layer(layer.config.get("layer"))
    return None if inner is None else (Child("layer", inner),)


def _bidirectional(layer: Layer, keras2: bool) -> tuple[Child, ...] | None:
    forward = _layer(layer.config.get("layer"))
    if forward is None:
        return None
    given = _layer(layer.config.get("backward_layer"))
    backward = given or _renamed(forward, "backward_" + forward.name.removeprefix("backward_"))
    found = (
        Child("forward_layer", _renamed(forward, "forward_" + forward.name.removeprefix("forward_"))),
        Child("backward_layer", backward),
    )
    # Keras 2 keeps the layer that was given, of which the other two are copies.
    return (*found, Child("layer", forward, built=False)) if keras2 else found


def _renamed(layer: Layer, name: str) -> Layer:
    return Layer(
        name=name,
        class_name=layer.class_name,
        module=layer.module,
        registered_name=layer.registered_name,
        config={**layer.config, "name": name},
        build_config=layer.build_config,
        graph=layer.graph,
    )


def _recurrent(cell: str, name: str) -> Callable[[Layer, bool], tuple[Child, ...]]:
    def find(layer: Layer, _: bool) -> tuple[Child, ...]:
        return (Child("cell", _made(cell, name, use_bias=layer.config.get("use_bias", True))),)

    return find


def _rnn(layer: Layer, _: bool) -> tuple[Child, ...] | None:
    cell = _layer(layer.config.get("cell"))
    return None if cell is None else (Child("cell", cell),)


def _contained(option: str, attribute: str) -> Callable[[Layer, bool], tuple[Child, ...] | None]:
    def find(layer: Layer, _: bool) -> tuple[Child, ...] | None:
        items = layer.config.get(option)
        inner = [_layer(item) for item in items] if isinstance(items, list) else [None]
        known = [item for item in inner if item is not None]
        if len(known) != len(inner):
            return None
        return tuple(Child(f"{attribute}/{key}", item) for key, item in zip(container_keys(known), known, strict=True))

    return find


def _attention(layer: Layer, keras2: bool) -> tuple[Child, ...]:
    """The projections have public names in Keras 3's MultiHeadAttention, which come first there; the gate has none."""
    public = layer.class_name == "MultiHeadAttention" and not keras2
    names = {"query": "query", "key": "key", "value": "value", "output": "attention_output"}
    if layer.config.get("use_gate"):
        names["gate"] = "gate"
    axes = "" if layer.config.get("use_bias", True) else None
    dtype = layer.config.get("dtype")
    found = [
        Child(
            f"{part}_dense" if public and part != "gate" else f"_{part}_dense",
            _made("EinsumDense", name, bias_axes=axes, dtype=_policy(dtype, name)),
        )
        for part, name in names.items()
    ]
    return (
        *found,
        Child("_softmax", _made("Softmax", "softmax")),
        Child("_dropout_layer", _made("Dropout", "dropout")),
    )


def _policy(dtype: Json, name: str) -> Json:
    """Return the dtype policy that a `DTypePolicyMap` has for the inner layer of this name; other policies go for all."""
    if not isinstance(dtype, dict) or dtype.get("class_name") != "DTypePolicyMap":
        return dtype
    config = dtype.get("config")
    policies = config.get("policy_map") if isinstance(config, dict) else None
    for path, policy in policies.items() if isinstance(policies, dict) else ():
        if path.split("/")[-1] == name:
            return policy
    return config.get("default_policy") if isinstance(config, dict) else None


def _augmentations(layer: Layer, _: bool) -> tuple[Child, ...]:
    names = ["RandomShear", "RandomTranslation", "RandomRotation", "Solarization", "RandomPosterization"]
    names += ["AutoContrast", "Equalization"]
    if layer.class_name == "RandAugment" or layer.config.get("all_ops", True):
        names += ["RandomBrightness", "RandomColorDegeneration", "RandomContrast", "RandomSharpness"]
    return tuple(Child(snake_case(name), _made(name, snake_case(name))) for name in names)


def _text_vectorization(layer: Layer, _: bool) -> tuple[Child, ...]:
    return (
        Child("_lookup_layer", _made("StringLookup", "string_lookup", output_mode=layer.config.get("output_mode"))),
    )


_CHILDREN: Mapping[str, Callable[[Layer, bool], tuple[Child, ...] | None]] = {
    "Wrapper": _wrapped,
    "TimeDistributed": _wrapped,
    "SpectralNormalization": _wrapped,
    "Bidirectional": _bidirectional,
    "RNN": _rnn,
    "StackedRNNCells": _contained("cells", "cells"),
    "LSTM": _recurrent("LSTMCell", "lstm_cell"),
    "GRU": _recurrent("GRUCell", "gru_cell"),
    "SimpleRNN": _recurrent("SimpleRNNCell", "simple_rnn_cell"),
    "ConvLSTM1D": _recurrent("ConvLSTMCell", "conv_lstm_cell"),
    "ConvLSTM2D": _recurrent("ConvLSTMCell", "conv_lstm_cell"),
    "ConvLSTM3D": _recurrent("ConvLSTMCell", "conv_lstm_cell"),
    "MultiHeadAttention": _attention,
    "GroupQueryAttention": _attention,
    "TextVectorization": _text_vectorization,
    "RandAugment": _augmentations,
    "AugMix": _augmentations,
    "Pipeline": _contained("layers", "layers"),
}


# Keras's way of making keys -----------------------------------------------------------------------------------------


def snake_case(name: str) -> str:
    """Return a class name as Keras writes it in keys: ``Conv2DTranspose`` becomes ``conv2d_transpose``."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


_CLASS_BEHIND = {"GroupQueryAttention": "GroupedQueryAttention"}
"""Configurations hold the public name of a class, keys its own; here they differ."""


def key_of_class(class_name: str) -> str:
    """Return the key of a layer, but for its number, given the class name in its configuration."""
    name = class_name.rpartition(">")[2]  # Keras 2 writes `package>Class`
    return snake_case(_CLASS_BEHIND.get(name, name))


def container_keys(layers: list[Layer]) -> list[str]:
    """Return the keys of the layers in a list: class names in snake case, numbered from the second of each on."""
    used: dict[str, int] = {}
    keys = []
    for layer in layers:
        name = key_of_class(layer.class_name)
        if name in used:
            used[name] += 1
            name = f"{name}_{used[name]}"
        else:
            used[name] = 0
        keys.append(name)
    return keys

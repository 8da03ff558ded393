"""What TensorFlow computed between the layers of a Keras 2 model, in ``keras.ops``.

::

    TFOpLambda            config: function, "math.add"; arguments in the call, by TensorFlow's names
    SlicingOpLambda       function, "__operators__.getitem"; slice_spec in the call
    TensorFlowOpLayer     node_def, a TensorFlow node (Keras 2.4 and before); constants by the number of the input that they are

Every operation gets the name that the layer had, so that results do not depend on what else a process has made.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Set
from typing import Any

import numpy as np

from graftwork.architecture.layer import Json, Layer
from graftwork.errors import StoreError, suggest
from graftwork.models.lazy import keras

COMPUTATIONS = frozenset({"TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer"})


def is_computation(layer: Layer) -> bool:
    """Return whether a layer stands for an operation of TensorFlow's."""
    return layer.class_name in COMPUTATIONS


def compute(layer: Layer, first: Any, named: Mapping[str, Any]) -> Any:
    """Return what an operation makes of Keras tensors.

    Args:
        layer: The layer that stands for it.
        first: Its first argument.
        named: The others, by TensorFlow's names.

    Raises:
        StoreError: If there is no such operation here, or not with these arguments.
    """
    before = {id(tensor) for tensor in _tensors([first, list(named.values())])}
    made = _of_node(layer, first) if layer.class_name == "TensorFlowOpLayer" else _of_function(layer, first, named)
    name_operations(layer.name, made, before)
    return made


def _of_function(layer: Layer, first: Any, named: Mapping[str, Any]) -> Any:
    function = str(layer.config.get("function")).removeprefix("compat.v1.")
    if function not in FUNCTIONS:
        raise StoreError(f"that computes tf.{function}, which is not translated ({suggest(function, FUNCTIONS)})")
    names, make = FUNCTIONS[function]
    given = {key: value for key, value in named.items() if key != "name" and value is not None}
    surplus = [key for key in given if key not in names]
    if surplus:
        raise StoreError(
            f"that computes tf.{function} with {surplus[0]}={str(given[surplus[0]])[:40]}, which is not translated"
        )
    return make(first, **given)


def _of_node(layer: Layer, first: Any) -> Any:
    node = layer.config.get("node_def")
    node = json.loads(node) if isinstance(node, str) else node
    node = node if isinstance(node, dict) else {}
    operation = str(node.get("op"))
    if operation not in NODES:
        raise StoreError(
            f"that computes the TensorFlow node {operation}, which is not translated ({suggest(operation, NODES)})"
        )
    inputs = list(first) if isinstance(first, list) else [first]
    for number, value in sorted((int(k), v) for k, v in (layer.config.get("constants") or {}).items()):
        inputs.insert(number, _constant(value))
    return NODES[operation](inputs, _Attributes(node.get("attr") or {}))


class _Attributes:
    """The attributes of a TensorFlow node, as its JSON has them."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self._found = found

    def flag(self, name: str) -> bool:
        value = self._found.get(name)
        return bool(value.get("b")) if isinstance(value, dict) else False

    def dtype(self, name: str) -> str:
        value = self._found.get(name)
        text = str(value.get("type", "")) if isinstance(value, dict) else ""
        if text not in _NODE_DTYPES:
            raise StoreError(f"whose attribute {name} is {text or 'absent'}, which is not translated")
        return _NODE_DTYPES[text]

    def only(self, *names: str) -> None:
        """Refuse attributes that change what is computed, other than these, at values that are not the usual ones."""
        for name in ("transpose_a", "transpose_b", "adj_x", "adj_y", "keep_dims"):
            if name not in names and self.flag(name):
                raise StoreError(f"whose attribute {name} is set, which is not translated")


_NODE_DTYPES = {
    "DT_FLOAT": "float32",
    "DT_HALF": "float16",
    "DT_DOUBLE": "float64",
    "DT_INT32": "int32",
    "DT_INT64": "int64",
    "DT_BOOL": "bool",
}


def _constant(value: Json) -> Any:
    """Return a constant as Keras writes it into a configuration."""
    if isinstance(value, dict):
        config = value.get("config")
        value = config.get("value") if isinstance(config, dict) else value.get("value")
    return np.asarray(value).tolist()


def _tensors(value: Any) -> Iterator[Any]:
    if isinstance(value, keras.KerasTensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def name_operations(name: str, made: Any, before: Set[int] = frozenset()) -> None:
    """Give operations names that follow from a layer's, where Keras counts them through the whole session.

    Args:
        name: The name of the last one; those that led to it get a number behind it.
        made: The tensors that came out.
        before: The tensors, by `id`, that were there before; layers end the way back as well.
    """
    stack, done = list(_tensors(made)), set[int]()
    while stack:
        tensor = stack.pop(0)
        operation, node, _ = tensor._keras_history
        if id(tensor) in before or id(operation) in done or isinstance(operation, keras.layers.Layer):
            continue
        operation.name = f"{name}_part_{len(done)}" if done else name
        done.add(id(operation))
        stack += list(_tensors(operation._inbound_nodes[node].input_tensors))


# TensorFlow's functions ---------------------------------------------------------------------------------------------


def _like(x: Any, y: Any) -> Any:
    """Return an argument that may be a list of numbers as an array of the dtype of the other."""
    if isinstance(y, list):
        dtype = x.dtype if isinstance(x, keras.KerasTensor) else "float32"
        return np.asarray(y, dtype)
    return y


def _static(value: Any, what: str) -> Any:
    if any(True for _ in _tensors(value if isinstance(value, list) else [value])):
        raise StoreError(f"whose {what} is computed while the model runs, which is not translated")
    return value


def _binary(name: str, second: str = "y") -> tuple[frozenset[str], Callable[..., Any]]:
    def make(x: Any, **named: Any) -> Any:
        y = named[second]
        return getattr(keras.ops, name)(_like(y, x), _like(x, y))

    return frozenset({second}), make


def _unary(name: str) -> tuple[frozenset[str], Callable[..., Any]]:
    return frozenset(), lambda x: getattr(keras.ops, name)(x)


def _reduction(name: str) -> tuple[frozenset[str], Callable[..., Any]]:
    def make(x: Any, axis: Any = None, keepdims: bool = False) -> Any:
        axis = _static(axis, "axis")
        axis = tuple(axis) if isinstance(axis, list) else axis
        return getattr(keras.ops, name)(x, axis=axis, keepdims=keepdims)

    return frozenset({"axis", "keepdims"}), make


def _arg(name: str) -> tuple[frozenset[str], Callable[..., Any]]:
    def make(x: Any, axis: Any = 0, output_type: str = "int64") -> Any:
        return keras.ops.cast(getattr(keras.ops, name)(x, axis=axis), output_type)

    return frozenset({"axis", "output_type"}), make


def _slice(x: Any, slice_spec: Any) -> Any:
    def one(part: Any) -> Any:
        if isinstance(part, dict):
            if part.get("class_name") == "__ellipsis__":
                return Ellipsis
            part = part.get("config", part)
            return slice(*(_static(part.get(k), "slice") for k in ("start", "stop", "step")))
        return _static(part, "slice")

    return x[tuple(one(part) for part in slice_spec)] if isinstance(slice_spec, list) else x[one(slice_spec)]


def _split(value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    sizes = _static(num_or_size_splits, "sizes")
    if isinstance(sizes, list):
        if -1 in sizes:
            raise StoreError("whose sizes are not all given, which is not translated")
        sizes = np.cumsum(sizes)[:-1].tolist()
    return list(keras.ops.split(value, sizes, axis=axis))


def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    mode = mode.lower()
    more = {"constant_values": constant_values} if mode == "constant" else {}
    return keras.ops.pad(tensor, _static(paddings, "padding"), mode=mode, **more)


def _matmul(a: Any, b: Any, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    a, b = _like(b, a), _like(a, b)
    a = keras.ops.swapaxes(a, -1, -2) if transpose_a else a
    return keras.ops.matmul(a, keras.ops.swapaxes(b, -1, -2) if transpose_b else b)


def _bias_add(value: Any, bias: Any, data_format: str = "NHWC") -> Any:
    if data_format.upper().startswith(("NC", "CHANNELS_FIRST")):
        raise StoreError(f"to channels in the layout {data_format}, which is not translated")
    return keras.ops.add(value, _like(value, bias))


def _where(condition: Any, x: Any, y: Any) -> Any:
    return keras.ops.where(condition, _like(y, x), _like(x, y))


def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    if conjugate:
        raise StoreError("of conjugates, which is not translated")
    return keras.ops.transpose(a, axes=_static(perm, "order of axes"))


def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    if axis is None:
        raise StoreError("over all axes, batch included, which is not translated")
    axis = tuple(axis) if isinstance(axis, list) else axis
    squares = keras.ops.sum(keras.ops.square(x), axis=axis, keepdims=True)
    return keras.ops.multiply(x, keras.ops.rsqrt(keras.ops.maximum(squares, epsilon)))


def _squeeze(x: Any, axis: Any = None) -> Any:
    return keras.ops.squeeze(x, axis=tuple(axis) if isinstance(axis, list) else axis)


def _named(make: Callable[..., Any], *names: str) -> tuple[frozenset[str], Callable[..., Any]]:
    return frozenset(names), make


_BINARY = {
    "add": "add",
    "subtract": "subtract",
    "multiply": "multiply",
    "truediv": "true_divide",
    "divide": "true_divide",
    "floordiv": "floor_divide",
    "floormod": "mod",
    "pow": "power",
    "maximum": "maximum",
    "minimum": "minimum",
    "greater": "greater",
    "greater_equal": "greater_equal",
    "less": "less",
    "less_equal": "less_equal",
    "equal": "equal",
    "not_equal": "not_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
}

_UNARY = {
    "negative": "negative",
    "abs": "abs",
    "square": "square",
    "sqrt": "sqrt",
    "rsqrt": "rsqrt",
    "exp": "exp",
    "expm1": "expm1",
    "log": "log",
    "log1p": "log1p",
    "sin": "sin",
    "cos": "cos",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "softplus": "softplus",
    "floor": "floor",
    "ceil": "ceil",
    "sign": "sign",
    "erf": "erf",
    "reciprocal": "reciprocal",
    "logical_not": "logical_not",
}

_REDUCTIONS = {
    "reduce_mean": "mean",
    "reduce_sum": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "prod",
    "reduce_variance": "var",
    "reduce_std": "std",
    "reduce_logsumexp": "logsumexp",
    "reduce_any": "any",
    "reduce_all": "all",
}

FUNCTIONS: dict[str, tuple[frozenset[str], Callable[..., Any]]] = {
    **{f"math.{name}": _binary(ours) for name, ours in _BINARY.items()},
    **{f"math.{name}": _unary(ours) for name, ours in _UNARY.items()},
    **{f"math.{name}": _reduction(ours) for name, ours in _REDUCTIONS.items()},
    "__operators__.add": _binary("add"),
    "__operators__.eq": _binary("equal", "other"),
    "__operators__.ne": _binary("not_equal", "other"),
    **{
        f"nn.{name}": _unary(name)
        for name in ("relu", "relu6", "elu", "selu", "silu", "sigmoid", "tanh", "softplus", "softsign")
    },
    "nn.swish": _unary("silu"),
    "nn.leaky_relu": _named(lambda features, alpha=0.2: keras.ops.leaky_relu(features, negative_slope=alpha), "alpha"),
    "nn.gelu": _named(
        lambda features, approximate=False: keras.ops.gelu(features, approximate=approximate), "approximate"
    ),
    "nn.softmax": _named(lambda logits, axis=-1: keras.ops.softmax(logits, axis=axis), "axis"),
    "nn.log_softmax": _named(lambda logits, axis=-1: keras.ops.log_softmax(logits, axis=axis), "axis"),
    "nn.bias_add": _named(_bias_add, "bias", "data_format"),
    "math.l2_normalize": _named(_l2_normalize, "axis", "epsilon"),
    "nn.l2_normalize": _named(_l2_normalize, "axis", "epsilon"),
    "math.argmax": _arg("argmax"),
    "math.argmin": _arg("argmin"),
    "argmax": _arg("argmax"),
    "linalg.matmul": _named(_matmul, "b", "transpose_a", "transpose_b"),
    "cast": _named(lambda x, dtype: keras.ops.cast(x, dtype), "dtype"),
    "identity": _named(lambda x: keras.ops.cast(x, x.dtype)),
    "reshape": _named(lambda tensor, shape: keras.ops.reshape(tensor, tuple(_static(shape, "shape"))), "shape"),
    "transpose": _named(_transpose, "perm", "conjugate"),
    "concat": _named(lambda values, axis: keras.ops.concatenate(values, axis=axis), "axis"),
    "stack": _named(lambda values, axis=0: keras.ops.stack(values, axis=axis), "axis"),
    "unstack": _named(lambda value, num=None, axis=0: list(keras.ops.unstack(value, num, axis)), "num", "axis"),
    "split": _named(_split, "num_or_size_splits", "axis"),
    "expand_dims": _named(lambda x, axis: keras.ops.expand_dims(x, axis), "axis"),
    "squeeze": _named(_squeeze, "axis"),
    "tile": _named(lambda x, multiples: keras.ops.tile(x, _static(multiples, "multiples")), "multiples"),
    "pad": _named(_pad, "paddings", "mode", "constant_values"),
    "where": _named(_where, "x", "y"),
    "clip_by_value": _named(
        lambda t, clip_value_min, clip_value_max: keras.ops.clip(t, clip_value_min, clip_value_max),
        "clip_value_min",
        "clip_value_max",
    ),
    "ones_like": _unary("ones_like"),
    "zeros_like": _unary("zeros_like"),
    "reverse": _named(lambda tensor, axis: keras.ops.flip(tensor, tuple(axis)), "axis"),
    "__operators__.getitem": _named(_slice, "slice_spec"),
}
"""What each of TensorFlow's functions takes beside its first argument, and what computes it."""


# TensorFlow's nodes -------------------------------------------------------------------------------------------------


def _node(name: str) -> Callable[[list[Any], _Attributes], Any]:
    def make(inputs: list[Any], attributes: _Attributes) -> Any:
        attributes.only()
        if len(inputs) == 2:
            inputs = [_like(inputs[1], inputs[0]), _like(inputs[0], inputs[1])]
        return getattr(keras.ops, name)(*inputs)

    return make


def _reduce_node(name: str) -> Callable[[list[Any], _Attributes], Any]:
    def make(inputs: list[Any], attributes: _Attributes) -> Any:
        x, axis = inputs
        axis = tuple(_static(axis, "axis")) if isinstance(axis, list) else _static(axis, "axis")
        return getattr(keras.ops, name)(x, axis=axis, keepdims=attributes.flag("keep_dims"))

    return make


def _matmul_node(inputs: list[Any], attributes: _Attributes) -> Any:
    a, b = (attributes.flag(f"transpose_{k}") or attributes.flag(f"adj_{n}") for k, n in (("a", "x"), ("b", "y")))
    return _matmul(inputs[0], inputs[1], a, b)


NODES: dict[str, Callable[[list[Any], _Attributes], Any]] = {
    **{name: _node("add") for name in ("Add", "AddV2", "BiasAdd")},
    **{name: _node("true_divide") for name in ("RealDiv", "Div")},
    **{
        name: _node(ours)
        for name, ours in {
            "Sub": "subtract",
            "Mul": "multiply",
            "Pow": "power",
            "FloorDiv": "floor_divide",
            "FloorMod": "mod",
            "Maximum": "maximum",
            "Minimum": "minimum",
            "Neg": "negative",
            "Abs": "abs",
            "Square": "square",
            "Sqrt": "sqrt",
            "Rsqrt": "rsqrt",
            "Exp": "exp",
            "Log": "log",
            "Tanh": "tanh",
            "Sigmoid": "sigmoid",
            "Relu": "relu",
            "Relu6": "relu6",
            "Softplus": "softplus",
            "Softmax": "softmax",
            "Floor": "floor",
        }.items()
    },
    **{
        name: _reduce_node(ours)
        for name, ours in {"Mean": "mean", "Sum": "sum", "Max": "max", "Min": "min", "Prod": "prod"}.items()
    },
    "MatMul": _matmul_node,
    "BatchMatMulV2": _matmul_node,
    "Reshape": lambda inputs, _: keras.ops.reshape(inputs[0], tuple(_static(inputs[1], "shape"))),
    "Transpose": lambda inputs, _: _transpose(inputs[0], inputs[1]),
    "ExpandDims": lambda inputs, _: keras.ops.expand_dims(inputs[0], _static(inputs[1], "axis")),
    "ConcatV2": lambda inputs, _: keras.ops.concatenate(inputs[:-1], axis=_static(inputs[-1], "axis")),
    "Cast": lambda inputs, attributes: keras.ops.cast(inputs[0], attributes.dtype("DstT")),
    "Identity": lambda inputs, _: keras.ops.cast(inputs[0], inputs[0].dtype),
}
"""What computes each of TensorFlow's nodes, of its inputs (constants among them) and attributes."""

"""What stands between a tensor and a port that it does not fit: only what the user asks for, and what would fit is named.

Shapes fit where each size is the same or one of the two is not fixed; dtypes fit where they are the same, or both are floating-point
(then the tensor is cast, which is said). Everything else is refused: Keras would broadcast, squeeze and cast in silence.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from graftwork.compose.layers import LayerSpec, as_layers
from graftwork.compose.naming import Names, named
from graftwork.compose.ports import Port, Shape, describe
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS

Adapt = Callable[[Any], Any]
"""Takes a tensor (or an array) and returns one that fits."""


def _as_words(value: Any) -> Any:
    """Return a mapping whose keys may be pairs ``("a", "b")`` with keys ``"a:b"``."""
    if not isinstance(value, Mapping):
        return value
    return {":".join(key) if isinstance(key, tuple) else key: found for key, found in value.items()}


Adapters = Annotated[Mapping[str, LayerSpec], BeforeValidator(_as_words)]
"""What stands between two models, by ``a:b``."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """What brings a tensor into the form that a port takes.

    Attributes:
        adapt: Does it, to Keras tensors and arrays alike, with the same weights.
        notes: What the user should know of it.
    """

    adapt: Adapt
    notes: tuple[str, ...] = ()


def adapter(
    value: Port,
    port: Port,
    where: str,
    spec: LayerSpec | None,
    names: Names,
    words: "Mapping[str, Maker] | None" = None,
) -> Adapter:
    """Return what a tensor goes through on its way to a port.

    Args:
        value: The tensor: its name, shape and dtype.
        port: Where it goes.
        where: The way, for messages and names: ``"a → b"``.
        spec: The words of `READY`, a layer as `as_layers` takes it, a list of these; None for nothing.
        names: The names in use in the result.
        words: The adapters that have a word, where they are others than `READY`.

    Raises:
        MismatchError: If the tensor does not fit, with what would.
        OptionError: If the adapter makes no sense.
    """
    steps: list[Adapt] = []
    notes: list[str] = []
    shape, dtype = value.shape, value.dtype
    for item in (spec if isinstance(spec, list | tuple) else [spec]) if spec is not None else ():
        step, note = _step(item, shape, dtype, port, where, names, READY if words is None else words)
        try:
            made = step(keras.KerasTensor(shape, dtype=dtype))
        except (ValueError, TypeError) as error:
            raise MismatchError(
                f"{where}: the adapter {_word(item)} cannot take {describe(shape, dtype)}: {str(error).splitlines()[0]}"
            ) from error
        shape, dtype = tuple(made.shape), keras.backend.standardize_dtype(made.dtype)
        steps.append(step)
        notes += [note] if note else []
    if not fits(shape, dtype, port):
        after = f" after the adapter {_word(spec)}" if spec is not None else ""
        raise MismatchError(
            f"{where}: output {value.name!r} is {describe(shape, dtype)}{after}, "
            f"but input {port.name!r} takes {describe(port.shape, port.dtype)}",
            advice=advice(shape, dtype, port),
        )
    if dtype != port.dtype:
        steps.append(cast(port.dtype, names))
        notes.append(f"{where}: {dtype} is cast to {port.dtype}")
    return Adapter(lambda tensor: _through(steps, tensor), tuple(notes))


def _through(steps: list[Adapt], tensor: Any) -> Any:
    for step in steps:
        tensor = step(tensor)
    return tensor


def cast(dtype: str, names: Names) -> Adapt:
    """Return the cast to a dtype."""
    name = names.fresh(f"cast_{dtype}")
    return lambda tensor: named(keras.ops.cast(tensor, dtype), name)


def fits(shape: Shape, dtype: str, port: Port) -> bool:
    """Return whether a tensor goes into a port without an adapter, but for a cast between floating-point numbers."""
    return shapes_fit(shape, port.shape) and _dtypes_fit(dtype, port.dtype)


def shapes_fit(given: Shape, wanted: Shape) -> bool:
    """Return whether a tensor of one shape goes where another is wanted, as far as sizes are fixed."""
    return len(given) == len(wanted) and all(
        a is None or b is None or a == b for a, b in zip(given, wanted, strict=True)
    )


def _dtypes_fit(given: str, wanted: str) -> bool:
    return given == wanted or (given in FLOATS and wanted in FLOATS)


def _step(
    item: Any, shape: Shape, dtype: str, port: Port, where: str, names: Names, words: "Mapping[str, Maker]"
) -> tuple[Adapt, str]:
    if isinstance(item, str) and item in words:
        return words[item](shape, dtype, port, where, names)
    layers = as_layers(item, f"the adapter of {where}")
    for layer in layers:
        layer.name = names.fresh(layer.name)
    count = _untrained(layers, shape, dtype)
    note = f"{where}: adds {count:,} untrained parameters" if count else ""
    return (lambda tensor: _through(layers, tensor)), note


def _untrained(layers: list[Any], shape: Shape, dtype: str) -> int:
    """Return how many parameters new layers have; models bring theirs."""
    tensor = keras.KerasTensor(shape, dtype=dtype)
    for layer in layers:
        tensor = layer(tensor)
    return sum(layer.count_params() for layer in layers if not isinstance(layer, keras.Model))


def _gap(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Average over all positions."""
    return pooling(shape, names.fresh("global_average"), where), ""


def pooling(shape: Shape, name: str, where: str) -> Any:
    """Return the layer that averages over the positions of a tensor, whose last axis are its channels.

    Raises:
        OptionError: If it has no positions.
    """
    layers = {3: "GlobalAveragePooling1D", 4: "GlobalAveragePooling2D", 5: "GlobalAveragePooling3D"}
    if len(shape) not in layers:
        raise OptionError(
            f"{where}: a tensor of shape {shape} has no positions to average over (3 to 5 axes are needed)"
        )
    return getattr(keras.layers, layers[len(shape)])(data_format="channels_last", dtype="float32", name=name)


def _flatten(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Lay all axes but the batch in one."""
    return keras.layers.Flatten(data_format="channels_last", dtype=dtype, name=names.fresh("flatten")), ""


def _dense(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Project the last axis."""
    if not port.shape or port.shape[-1] is None or shape[-1] is None:
        raise OptionError(
            f"{where}: a dense adapter needs fixed sizes of the last axis; they are {shape[-1:]} and {port.shape[-1:]}"
        )
    if dtype not in FLOATS:
        raise OptionError(
            f"{where}: a dense adapter takes floating-point numbers, not {dtype}; put a cast before it: [cast, dense]"
        )
    count = (shape[-1] + 1) * port.shape[-1]
    name = names.fresh(f"{_slug(where)}_dense")
    return keras.layers.Dense(
        port.shape[-1], dtype="float32", name=name
    ), f"{where}: adds {count:,} untrained parameters"


def _resize(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Scale images bilinearly."""
    if len(shape) != 4 or len(port.shape) != 4 or None in port.shape[1:3]:
        raise OptionError(f"{where}: resizing takes images of 4 axes to a fixed size, not {shape} to {port.shape}")
    note = f"{where}: images are resized from {shape[1]}×{shape[2]} to {port.shape[1]}×{port.shape[2]} (bilinear)"
    scaled = resizing(port.shape[1], port.shape[2], names.fresh("resize"))
    if dtype == "float32":
        return scaled, note
    to_float = cast("float32", names)
    return lambda image: scaled(to_float(image)), f"{note}, as float32"


def resizing(height: int | None, width: int | None, name: str) -> Adapt:
    """Return what scales images bilinearly, in their own dtype: whole numbers are rounded.

    Not the layer `Resizing`: Keras runs a model behind that in training mode, unless it is told `training=False`.
    """
    return lambda image: named(
        keras.ops.image.resize(image, (height, width), interpolation="bilinear", data_format="channels_last"), name
    )


def _cast(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Change the dtype."""
    return cast(port.dtype, names), f"{where}: {dtype} is cast to {port.dtype}"


def _pad(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """Add zeros behind, along every axis that is too short."""
    if len(shape) != len(port.shape):
        raise OptionError(f"{where}: padding keeps the number of axes, which are {len(shape)} and {len(port.shape)}")
    wide = []
    for axis, (have, want) in enumerate(zip(shape, port.shape, strict=True)):
        if want is not None and have is not None and have > want:
            raise OptionError(
                f"{where}: axis {axis} has {have} entries, more than the {want} that are wanted; padding only adds"
            )
        if axis and want is not None and have is None:
            raise OptionError(f"{where}: axis {axis} has no fixed size, so it cannot be padded to {want}")
        wide.append((0, (want or 0) - (have or 0) if want is not None and have is not None else 0))
    name = names.fresh(f"{_slug(where)}_pad")
    added = " and ".join(f"{behind} along axis {axis}" for axis, (_, behind) in enumerate(wide) if behind)
    return (lambda tensor: named(keras.ops.pad(tensor, wide), name)), f"{where}: adds zeros: {added}" if added else ""


Maker = Callable[[Shape, str, Port, str, Names], tuple[Adapt, str]]

READY: Mapping[str, Maker] = {
    "gap": _gap,
    "flatten": _flatten,
    "dense": _dense,
    "resize": _resize,
    "cast": _cast,
    "pad": _pad,
}
"""The adapters that have a word: global average pooling, flattening, a projection of the last axis, resizing of images, a cast, zeros."""


def advice(shape: Shape, dtype: str, port: Port) -> str:
    """Return which ready-made adapter would fit, as a sentence's end."""
    words: list[str] = []
    if not _dtypes_fit(dtype, port.dtype):
        words.append("cast")
        if "string" in (dtype, port.dtype):
            return "texts and numbers do not go together; put a layer between them that turns one into the other"
        dtype = port.dtype
    if len(shape) > 2 and len(port.shape) == 2:
        whole = math.prod(size for size in shape[1:] if size is not None) if None not in shape[1:] else None
        if whole == port.shape[1]:
            return _advise([*words, "flatten"])
        if len(shape) <= 5:
            words.append("gap")
            shape = (shape[0], shape[-1])
    if len(shape) == len(port.shape) and not shapes_fit(shape, port.shape):
        wrong = [
            axis
            for axis, (a, b) in enumerate(zip(shape, port.shape, strict=True))
            if a is not None and b is not None and a != b
        ]
        if len(shape) == 4 and set(wrong) <= {1, 2} and None not in port.shape[1:3]:
            words.append("resize")
        elif wrong == [len(shape) - 1] and dtype in FLOATS:
            words.append("dense")
        elif all((shape[axis] or 0) < (port.shape[axis] or 0) for axis in wrong) and 0 not in wrong:
            words.append("pad")
        else:
            return "no ready-made adapter fits; give a layer or put a model between them"
    elif len(shape) != len(port.shape):
        return "no ready-made adapter fits; give a layer or put a model between them"
    return _advise(words)


def _advise(words: list[str]) -> str:
    spelled = words[0] if len(words) == 1 else f"[{', '.join(words)}]"
    return f"the adapter {spelled} would fit"


def _word(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    if isinstance(spec, list | tuple):
        return f"[{', '.join(_word(item) for item in spec)}]"
    return str(getattr(spec, "name", spec))[:40]


def _slug(where: str) -> str:
    return where.replace(" → ", "_to_")

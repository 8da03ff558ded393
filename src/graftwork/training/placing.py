"""Where a model is trained: on a device, on several, in lower precision.

Keras on TensorFlow decides by where a variable was made. So a model that is to be trained elsewhere is copied there, and its values are
carried back when it is done.
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from graftwork.compose.ports import graph_of
from graftwork.errors import OptionError
from graftwork.models.copying import copy_model
from graftwork.models.lazy import keras
from graftwork.training.running import Fit


@contextlib.contextmanager
def placed(model: Any, fit: Fit) -> Iterator[Any]:
    """Yield a model to be compiled and trained in place of another, which has its values in the end.

    It is a Functional of the same layers, or a copy where `fit` names a device or a strategy; the model itself is not compiled. What is
    made inside stands where the copy stands.

    Args:
        model: A Functional that nobody else holds.
        fit: How it is trained.

    Raises:
        OptionError: If there is no such device, or the strategy cannot be had.
    """
    check_place(fit)
    with contextlib.ExitStack() as stack:
        if fit.device is not None:
            stack.enter_context(keras.device(fit.device))
        if fit.strategy is not None:
            stack.enter_context(_mirrored(tuple(_of_a_kind())).scope())
        elsewhere = fit.device is not None or fit.strategy is not None
        working = copy_model(model) if elsewhere else alias(model)
        with in_precision(working, fit.mixed_precision):
            yield working
        if elsewhere:
            for variable, value in zip(model.variables, working.variables, strict=True):
                variable.assign(keras.ops.convert_to_numpy(value))


@contextlib.contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Let models be made, loaded and asked on a device, as long as this lasts.

    Raises:
        OptionError: If there is no such device.
    """
    check_device(device)
    with keras.device(device) if device is not None else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def asked_on(model: Any, device: str | None, precision: str | None) -> Iterator[Any]:
    """Yield a model to be asked in place of another: a copy where a device is named, else the model itself.

    Args:
        model: A Functional that nobody else uses meanwhile.
        device: Where it runs; None for where its variables are.
        precision: What layers compute in; see `in_precision`.

    Raises:
        OptionError: If there is no such device.
    """
    with on_device(device):
        working = copy_model(model) if device is not None else model
        with in_precision(working, precision):
            yield working


def alias(model: Any) -> Any:
    """Return another model of the same layers: it can be compiled without a trace in the first."""
    graph = graph_of(model)
    return keras.Model(graph._inputs_struct, graph._outputs_struct, name=model.name)


@contextlib.contextmanager
def in_precision(model: Any, precision: str | None) -> Iterator[None]:
    """Let layers compute in a lower precision for a while; weights stay as they are, and so do the layers whose outputs are the model's.

    Args:
        model: The model; only layers that compute in float32 are changed.
        precision: ``"float16"`` or ``"bfloat16"``; None for nothing.
    """
    if precision is None:
        yield
        return
    policy = keras.DTypePolicy(f"mixed_{precision}")
    last = {id(layer) for layer in _ends(model)}
    changed = [
        layer
        for layer in model._flatten_layers()
        if layer.dtype_policy.name == "float32" and (id(layer) not in last or layer is model)
    ]
    kept = [layer.dtype_policy for layer in changed]
    try:
        for layer in changed:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, before in zip(changed, kept, strict=True):
            layer.dtype_policy = before


def _ends(model: Any) -> Iterator[Any]:
    """Yield the layers that a model's outputs come out of, in nested models the layers inside."""
    for tensor in graph_of(model)._outputs:
        operation = tensor._keras_history.operation
        if isinstance(operation, keras.layers.Layer):
            yield from operation._flatten_layers()


def check_place(fit: Fit) -> None:
    """Refuse a place where nothing can be trained.

    Raises:
        OptionError: If there is no such device, or the strategy cannot be had.
    """
    if fit.device is not None and fit.strategy is not None:
        raise OptionError("device and strategy exclude each other: a strategy takes all devices of a kind")
    check_device(fit.device)
    if fit.strategy == "multi_worker":
        raise OptionError(
            f"strategy='multi_worker' cannot be had: fit of Keras {keras.__version__} fails under MultiWorkerMirroredStrategy, as it "
            "makes one tensor of a batch that is divided among workers; use mirrored on one machine"
        )
    if fit.strategy is None:
        return
    if keras.config.backend() != "tensorflow":
        raise OptionError(
            f"strategy={fit.strategy!r} is TensorFlow's, and Keras runs on {keras.config.backend()} here; set KERAS_BACKEND=tensorflow"
        )
    if fit.jit:
        raise OptionError(
            f"jit=True and strategy={fit.strategy!r} exclude each other: XLA cannot compile what devices tell each other here"
        )
    if fit.batch % len(_of_a_kind()):
        raise OptionError(
            f"a batch of {fit.batch} cannot be divided evenly among {len(_of_a_kind())} devices, and those with fewer samples would count "
            "as much as the others"
        )


def check_device(device: str | None) -> None:
    """Refuse a device that there is not.

    Raises:
        OptionError: If there is none of this name; with those that there are.
    """
    if device is not None and not any(_same(device, each) for each in _devices()):
        raise OptionError(f"there is no device {device!r}; there are {', '.join(_devices())}")


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> Any:
    """Return the strategy for some devices: one in a process, since several would take each other's messages for their own."""
    import tensorflow as tf

    on_processor = "CPU" in devices[0]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice() if on_processor else None)


def _devices() -> list[str]:
    return [str(each) for each in keras.distribution.list_devices()]


def _of_a_kind() -> list[str]:
    """Return the devices of the best kind that there is."""
    import tensorflow as tf

    for kind in ("TPU", "GPU", "CPU"):
        found = [device.name for device in tf.config.list_logical_devices(kind)]
        if found:
            return found
    return []


def _same(wanted: str, device: str) -> bool:
    return wanted.lower() in ("cpu", device.lower()) or f"{wanted.lower()}:0" == device.lower()

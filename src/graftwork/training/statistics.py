"""Layers that keep statistics of what they are called with: finding them, watching what they are called with, and setting them."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.trained import flat, matching, parts
from graftwork.errors import OptionError
from graftwork.models.lazy import keras
from graftwork.training.moments import Moments, as_rows

Seen = Callable[["Keeper", NDArray[Any], NDArray[Any] | None], bool]
"""Is told what a layer is called with, and which of it counts; returns whether what the layer makes of it is used."""


@dataclass(frozen=True, slots=True, eq=False)
class Keeper:
    """A layer that keeps statistics.

    Attributes:
        path: Its name behind those of the layers around it.
        layer: A BatchNormalization, or an adapted Normalization.
    """

    path: str
    layer: Any

    @property
    def kind(self) -> str:
        """The kind of layer: ``BatchNormalization`` or ``Normalization``."""
        return "Normalization" if self._adapted else "BatchNormalization"

    @property
    def _adapted(self) -> bool:
        return isinstance(self.layer, keras.layers.Normalization)

    def now(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the mean and variance that it has, each laid out flat."""
        layer = self.layer
        pair = (layer.adapt_mean, layer.adapt_variance) if self._adapted else (layer.moving_mean, layer.moving_variance)
        mean, variance = (
            np.asarray(keras.ops.convert_to_numpy(variable)).astype(np.float64).ravel() for variable in pair
        )
        return mean, variance

    def set(self, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
        """Give it a mean and a variance."""
        layer = self.layer
        if self._adapted:
            layer.adapt_mean.assign(mean.reshape(layer.adapt_mean.shape))
            layer.adapt_variance.assign(variance.reshape(layer.adapt_variance.shape))
            layer.finalize_state()
            return
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
        if getattr(layer, "renorm", False):  # what batch renormalization goes on from in training
            deviation = np.sqrt(variance + layer.epsilon)
            layer.renorm_mean.assign(mean)
            layer.moving_stddev.assign(deviation)
            layer.renorm_stddev.assign(deviation)

    def take(self, moments: Moments, values: NDArray[Any], mask: NDArray[Any] | None) -> None:
        """Add what it is called with to its statistics."""
        rank = values.ndim
        kept = tuple(sorted(axis % rank for axis in (self.layer.axis if self._adapted else (self.layer.axis,))))
        rows = as_rows(values, kept)
        if mask is None:
            moments.add(rows)
        else:
            whole = np.broadcast_to(np.asarray(mask, bool)[..., None], values.shape)
            moments.add(rows, as_rows(whole, kept))


def keepers(
    model: Any, layers: str | Sequence[str] | None = None, *, normalizations: bool = False
) -> tuple[list[Keeper], list[str]]:
    """Return the layers of a model that keep statistics, each once, and what to say of those that are left as they are.

    Args:
        model: The model.
        layers: Paths of layers, with ``*`` and the like, to which to keep; see `graftwork.compose.trained.matching`.
        normalizations: Whether adapted Normalization layers are meant as well.

    Raises:
        UnknownNameError: If a pattern matches nothing.
        OptionError: If there is no such layer.
    """
    leaves = [part for part in flat(parts(model)) if not part.parts] if layers is None else matching(model, layers)
    inside: dict[int, tuple[str, Any]] = {}
    for leaf in leaves:
        for layer in leaf.layer._flatten_layers():
            inside.setdefault(id(layer), (leaf.path if layer is leaf.layer else f"{leaf.path}/{layer.name}", layer))
    found, notes = [], []
    for path, layer in inside.values():
        if isinstance(layer, keras.layers.BatchNormalization):
            if layer.built:
                found.append(Keeper(path, layer))
            else:
                notes.append(f"layer {path!r} is never called, and has no statistics")
        elif isinstance(layer, keras.layers.Normalization):
            if not normalizations or layer.input_mean is not None or not layer.built:
                continue
            if layer.invert:
                notes.append(
                    f"layer {path!r} undoes a normalization: its statistics are not those of its input, and stay"
                )
                continue
            found.append(Keeper(path, layer))
        elif any(weight.name.startswith(("moving_", "running_")) for weight in layer._non_trainable_variables):
            notes.append(f"layer {path!r} ({type(layer).__name__}) has moving statistics of its own kind, which stay")
    if not found:
        wanted = "BatchNormalization" + (" or adapted Normalization" if normalizations else "")
        among = "" if layers is None else f" among {', '.join([layers] if isinstance(layers, str) else layers)}"
        raise OptionError(f"model {model.name!r} has no {wanted} layer{among}: there are no statistics to re-estimate")
    return found, notes


class Watch:
    """What layers are called with, while it is watched.

    Attributes:
        hidden: The layers that were called where values cannot be seen.
        forced: The layers that were called with `training=True`.
    """

    def __init__(self) -> None:
        self.hidden: dict[str, None] = {}
        self.forced: dict[str, None] = {}

    @contextlib.contextmanager
    def watching(self, found: Sequence[Keeper], seen: Seen) -> Iterator[None]:
        """Tell a function what layers are called with, and run them in inference mode even where they are called otherwise."""
        try:
            for keeper in found:
                object.__setattr__(keeper.layer, "call", self._watched(keeper, seen))
            yield
        finally:
            for keeper in found:
                keeper.layer.__dict__.pop("call", None)

    def _watched(self, keeper: Keeper, seen: Seen) -> Callable[..., Any]:
        call = keeper.layer.call
        signature = inspect.signature(call)

        def watched(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            given = bound.arguments
            if given.get("training"):
                self.forced[keeper.path] = None
                given["training"] = False
            tensor, mask = next(iter(given.values())), given.get("mask")
            values = values_of(tensor)
            if values is None:
                self.hidden[keeper.path] = None
            elif not seen(keeper, values, None if mask is None else values_of(mask)):
                return tensor
            return call(*bound.args, **bound.kwargs)

        return watched


def values_of(tensor: Any) -> NDArray[Any] | None:
    """Return a tensor's values, None where it has none yet: inside a loop or a function that is traced."""
    try:
        return np.asarray(keras.ops.convert_to_numpy(tensor))
    except Exception:  # each backend says it in its own way
        return None

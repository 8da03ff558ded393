"""Gram matrices of the inputs of a model's linear layers: which inputs occur together, as far as a layer can tell.

The matrix of a layer is over the elements of one unit of its kernel (see `graftwork.methods.base`): the inputs of a dense layer, the
patch under the kernel of a convolution, its axes in the kernel's order. A layer that is called several times, or at many positions, has
all of these as its samples.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.data.samples import Part
from graftwork.errors import OptionError
from graftwork.training.asking import fixed
from graftwork.training.failing import failing, on
from graftwork.training.feeding import packed
from graftwork.training.showing import Counted, only, shown
from graftwork.training.statistics import values_of

PATCH_ELEMENTS = 1 << 23
"""As many elements of patches are laid out at a time."""


@dataclass(slots=True)
class Gram:
    """The matrix of one layer on its way.

    Attributes:
        variable: The layer's kernel.
        sums: ``XᵀX`` so far, each row as often as its sample counts.
        rows: Rows of X so far, counted likewise.
        hidden: Whether the layer was called where its inputs cannot be seen.
    """

    variable: Any
    sums: NDArray[np.float64]
    rows: float = 0.0
    hidden: bool = False

    @property
    def mean(self) -> NDArray[np.float64]:
        """The matrix: XᵀX divided by the number of rows, symmetric to the last bit."""
        return (self.sums + self.sums.T) / (2 * self.rows)


@dataclass(slots=True)
class Found:
    """What was found.

    Attributes:
        grams: By the `id` of the kernel.
        notes: Which layers have none, and why.
        samples: How many samples there were.
    """

    grams: dict[int, Gram] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    samples: int = 0


@dataclass(slots=True)
class _Now:
    """What each sample counts that the model is shown at the moment."""

    weight: float = 1.0


def grams_of(
    model: Any,
    data: Samples | Stream,
    *,
    samples: int | None = None,
    batch: int = 32,
    most_inputs: int = 8192,
    progress: Callable[[int], None] = lambda _: None,
) -> Found:
    """Return the Gram matrices of a model's dense layers and convolutions on some data.

    Dense, EinsumDense whose kernel has its inputs first and its outputs on the last axis alone, Conv1D, Conv2D and Conv3D with one
    group, and each of these in TimeDistributed. Layers run as in inference; sums are float64. Where samples have weights, those that count
    differently are shown apart. A model that takes batches of one size gets as many as it takes.

    Args:
        model: A live model.
        data: Its inputs; labels are not looked at.
        samples: Use the first so many samples.
        batch: Samples shown at a time.
        most_inputs: Layers with more inputs than this (whose matrix has that many rows and columns) are left out.
        progress: Told how many samples are dealt with.

    Raises:
        OptionError: If there is no such layer, or it cannot be seen what any of them is called with.
        MismatchError: If the data does not go into the model.
        DataError: If the data holds NaN or infinity.
    """
    found = Found()
    watched: dict[int, tuple[Any, Gram, Callable[[NDArray[Any]], Iterator[NDArray[Any]]]]] = {}
    layers = list(model._flatten_layers(include_self=False, recursive=True))
    wrapped = {id(layer.layer) for layer in layers if type(layer).__name__ == "TimeDistributed"}
    for layer in layers:
        inner = layer.layer if type(layer).__name__ == "TimeDistributed" else layer
        if id(layer) in wrapped:
            continue
        rows = _rows_of(inner)
        if rows is None:
            continue
        kernel, count, make = rows
        if count > most_inputs:
            found.notes.append(
                f"layer {layer.name!r} has {count:,} inputs, whose Gram matrix would take {8 * count**2:,} bytes: left out "
                f"(--max-inputs {most_inputs})"
            )
            continue
        gram = found.grams.setdefault(id(kernel), Gram(kernel, np.zeros((count, count))))
        watched[id(layer)] = (layer, gram, make)
    if not found.grams:
        raise OptionError(
            f"model {model.name!r} has no dense layer or convolution that Gram matrices could be computed for"
        )
    counted, now = Counted(data.name), _Now()
    size = fixed(model) if graph_of(model) is not None else None
    with _watching(watched, now):
        for part in shown(model, data, batch, most=samples):
            for weight, alike in _alike(part, counted.add(part)):
                for share, whole in _in_batches(alike, size):
                    now.weight = weight * share
                    given = packed(model, whole.inputs)
                    with failing(model.name, on(whole.rows, data.name), model, given):
                        model(given, training=False)
            progress(counted.samples)
    counted.refuse_nothing()
    found.samples = counted.samples
    for layer, gram, _ in watched.values():
        if gram.hidden or not gram.rows:
            why = (
                "is called where its inputs cannot be seen (inside a loop of another layer)"
                if gram.hidden
                else "is never called"
            )
            found.notes.append(f"layer {layer.name!r} {why}: it has no Gram matrix")
            found.grams.pop(id(gram.variable), None)
    if not found.grams:
        raise OptionError(f"model {model.name!r} has no Gram matrix at all: {'; '.join(found.notes)}")
    return found


def _alike(part: Part, weights: NDArray[np.float32] | None) -> Iterator[tuple[float, Part]]:
    """Yield what samples count, and those that count as much: which of a layer's rows are of which sample, nobody can tell."""
    if weights is None:
        yield 1.0, part
        return
    for weight in np.unique(weights[weights > 0]):
        yield float(weight), only(part, weights == weight)


def _in_batches(part: Part, size: int | None) -> Iterator[tuple[float, Part]]:
    """Yield samples in batches of the only size that a model takes, and what each counts there.

    Those that are left over after full batches are shown again and again until batches are full and each was there equally often, and count
    less by as much: nothing else tells the rows of those that fill up a batch.
    """
    count = len(part.rows)
    if size is None:
        yield 1.0, part
        return
    left = count % size
    for first in range(0, count - left, size):
        yield 1.0, only(part, slice(first, first + size))
    rounds = left // math.gcd(left, size)
    for number in range(rounds):
        yield left / (rounds * size), only(part, count - left + np.arange(number * size, (number + 1) * size) % left)


@contextlib.contextmanager
def _watching(
    watched: Mapping[int, tuple[Any, Gram, Callable[[NDArray[Any]], Iterator[NDArray[Any]]]]],
    now: _Now,
) -> Iterator[None]:
    """Have layers add up the Gram matrices of what they are called with, as often as that counts."""

    def watch(layer: Any, gram: Gram, make: Callable[[NDArray[Any]], Iterator[NDArray[Any]]]) -> None:
        call = layer.call

        def watched_call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            values = values_of(inputs)
            for rows in make(values) if values is not None else ():
                gram.sums += now.weight * (rows.T @ rows)
                gram.rows += now.weight * len(rows)
            gram.hidden |= values is None
            return call(inputs, *args, **kwargs)

        object.__setattr__(layer, "call", watched_call)

    try:
        for layer, gram, make in watched.values():
            watch(layer, gram, make)
        yield
    finally:
        for layer, _, _ in watched.values():
            layer.__dict__.pop("call", None)


def _rows_of(layer: Any) -> tuple[Any, int, Callable[[NDArray[Any]], Iterator[NDArray[np.float64]]]] | None:
    """Return a linear layer's kernel, the number of inputs of a unit, and what makes rows of inputs of what it is called with."""
    from keras import layers

    if isinstance(layer, layers.Dense):
        count = int(layer._kernel.shape[0])
        return layer._kernel, count, lambda x: iter([x.reshape(-1, count).astype(np.float64)])
    if isinstance(layer, layers.EinsumDense):
        axes = _contracted(layer.equation)
        if axes is None:
            return None
        count = math.prod(layer._kernel.shape[:-1])

        def contracted(x: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
            last = np.moveaxis(x, [x.ndim + axis for axis in axes], range(-len(axes), 0))
            yield last.reshape(-1, count).astype(np.float64)

        return layer._kernel, count, contracted
    if isinstance(layer, layers.Conv1D | layers.Conv2D | layers.Conv3D) and layer.groups == 1:
        first = layer.data_format == "channels_first"
        size, stride, rate = tuple(layer.kernel_size), tuple(layer.strides), tuple(layer.dilation_rate)

        def under(x: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
            rank = len(size)
            moved = np.moveaxis(x, -rank - 1, -1) if first else x
            return patches(moved.reshape(-1, *moved.shape[-rank - 1 :]), size, stride, rate, layer.padding)

        return layer._kernel, math.prod(layer._kernel.shape[:-1]), under
    return None


def _contracted(equation: str) -> tuple[int, ...] | None:
    """Return the axes of the input, from its end, that a kernel sums over, in the kernel's order; None where it is not units of inputs."""
    given, _, out = equation.replace(" ", "").partition("->")
    inputs, _, kernel = given.partition(",")
    letters, ahead = inputs.replace("...", ""), inputs.startswith("...")
    if ("..." in inputs and not ahead) or "..." in kernel or not kernel:
        return None
    summed, unit = kernel[:-1], kernel[-1]
    if unit in letters or unit not in out or any(letter not in letters or letter in out for letter in summed):
        return None
    return tuple(letters.index(letter) - len(letters) for letter in summed)


def patches(
    x: NDArray[Any],
    size: Sequence[int],
    stride: Sequence[int],
    rate: Sequence[int],
    padding: str,
) -> Iterator[NDArray[np.float64]]:
    """Yield what lies under a convolution's kernel, a patch a row, its axes and channels in the kernel's order.

    Args:
        x: Shape (samples, *space, channels).
        size: The kernel's, for each axis of space.
        stride: Steps between patches.
        rate: Steps between the elements of a patch (dilation).
        padding: ``valid``, ``same`` or ``causal``, as Keras means them.
    """
    reach = [(k - 1) * r + 1 for k, r in zip(size, rate, strict=True)]
    pads = [(0, 0)]
    for length, span, step in zip(x.shape[1:-1], reach, stride, strict=True):
        missing = max((-(-length // step) - 1) * step + span - length, 0)
        before = {"same": missing // 2, "causal": span - 1}.get(padding, 0)
        pads.append((before, missing - before if padding == "same" else 0))
    x = np.pad(x, [*pads, (0, 0)])
    space = tuple(range(1, x.ndim - 1))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=space)  # (samples, *places, channels, *reach)
    windows = windows[
        (slice(None), *(slice(None, None, s) for s in stride), slice(None), *(slice(None, None, r) for r in rate))
    ]
    windows = np.moveaxis(windows, len(space) + 1, -1)
    width = math.prod(size) * x.shape[-1]
    per_sample = math.prod(windows.shape[1 : len(space) + 1]) * width
    together = max(PATCH_ELEMENTS // max(per_sample, 1), 1)
    lines = max(PATCH_ELEMENTS // max(per_sample // max(windows.shape[1], 1), 1), 1)
    for first in range(0, len(windows), together):
        for line in range(0, windows.shape[1], lines):
            yield windows[first : first + together, line : line + lines].reshape(-1, width).astype(np.float64)

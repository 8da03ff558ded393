"""Statistics of BatchNormalization layers, re-estimated on data: what a model needs after its weights were merged.

Averaged weights give other activations than those whose means and variances were averaged with them, and the model is off by as much. Here
each layer gets the mean and the variance of what it is called with in inference mode, over all the data, once all layers before it have
theirs. That is what `torch.optim.swa_utils.update_bn` estimates with batches in training mode; here neither the size of the batches nor
their order plays a part.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.ports import graph_of, inputs
from graftwork.data import Samples
from graftwork.errors import DataError, OptionError
from graftwork.models.configuration import layers_of
from graftwork.models.copying import carry_over, copy_model
from graftwork.models.lazy import keras
from graftwork.training.activations import Activations
from graftwork.training.failing import failing, on
from graftwork.training.feeding import packed
from graftwork.training.matching import matched
from graftwork.training.moments import Moments
from graftwork.training.statistics import Keeper, Watch, keepers
from graftwork.training.tokens import check_all
from graftwork.training.turns import Turns, Unit, turns

KEPT_BYTES = 4 << 30
"""As much of what layers give is kept on the disk between passes."""

SETTLED = 1e-3
"""Statistics that a further pass would change by less than this (of a standard deviation, or of the variance) are as they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibrated:
    """What became of one layer.

    Attributes:
        path: Its name behind those of the layers around it.
        kind: ``BatchNormalization`` or ``Normalization``.
        turn: The pass in which it was done, from 1.
        calls: How often it is called on each batch.
        values: How many values stand behind the mean of a channel (of the one with the fewest).
        shift: By how much the means were off: the root mean square over channels, in standard deviations that the data has.
        spread: The median over channels of the old variance divided by the new one; None where all are constant.
        constant: How many channels are the same on all the data.
        frozen: Whether it does not train.
    """

    path: str
    kind: str
    turn: int
    calls: int
    values: int
    shift: float
    spread: float | None
    constant: int
    frozen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was done to a model.

    Attributes:
        layers: The layers that have new statistics, in the order in which they got them.
        passes: How often the data was gone through.
        samples: How many samples there were.
        kept_bytes: The most that was kept on the disk between passes.
        notes: What the user should know, one sentence each.
    """

    layers: tuple[Recalibrated, ...]
    passes: int
    samples: int
    kept_bytes: int
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What would be done, which the model alone tells.

    Attributes:
        layers: The paths of the layers, those that share a pass together.
        passes: How often the data will be gone through.
        notes: What the user should know, one sentence each.
    """

    layers: tuple[tuple[str, ...], ...]
    passes: int
    notes: tuple[str, ...]


def outlook(model: Any, *, layers: str | Sequence[str] | None = None, normalizations: bool = False) -> Outlook:
    """Return what `recalibrate` would do, without any data.

    Args:
        model: The model, which is left as it is.
        layers: See `recalibrate`.
        normalizations: See `recalibrate`.

    Raises:
        UnknownNameError: If a pattern matches no layer.
        OptionError: If there is nothing to re-estimate, or no order can be found.
    """
    found, notes = keepers(model, layers, normalizations=normalizations)
    order = turns(model, found)
    groups = [
        tuple(keeper.path for unit in order.units if unit.first == number for keeper in unit.keepers)
        for number in range(order.passes)
    ]
    return Outlook(
        layers=tuple(group for group in groups if group), passes=order.passes, notes=(*notes, *_foreseen(order))
    )


def recalibrate(
    model: Any,
    samples: Samples,
    *,
    batch: int = 32,
    layers: str | Sequence[str] | None = None,
    normalizations: bool = False,
    kept_bytes: int = KEPT_BYTES,
    compiled: bool = True,
    progress: Callable[[int, int, int], None] = lambda number, passes, samples: None,
) -> tuple[Any, Report]:
    """Return a copy of a model whose BatchNormalization layers have the means and variances of what they are called with on some data.

    The mean and the population variance of each channel are those over all samples and positions (over those that a mask lets count,
    where a layer is called with one; over all calls, where there are several), in inference mode, with all layers before it already
    recalibrated. Sums are float64; see `graftwork.training.moments`. No other weight changes.

    Args:
        model: A live model, which is left as it is.
        samples: The data; labels and weights are not looked at.
        batch: How many samples are run at a time.
        layers: Paths of layers to which to keep, with ``*`` and the like; a nested model stands for all its layers. By default all.
        normalizations: Whether adapted Normalization layers get new statistics as well.
        kept_bytes: How much of what layers give is kept on the disk, so that a pass begins where the last one ended; 0 for nothing.
        compiled: Whether the copy is compiled as the model is.
        progress: Told the number of the pass, how many there are, and how many samples are done in it.

    Raises:
        UnknownNameError: If a pattern matches no layer.
        MismatchError: If the data does not go into the model.
        DataError: If there is none, or a layer is called with NaN or infinity.
        OptionError: If there is nothing to re-estimate, or a layer is called where its values cannot be seen.
        StoreError: If the model cannot be copied.
    """
    if batch < 1 or kept_bytes < 0:
        raise OptionError(f"batch is {batch} and kept_bytes {kept_bytes}; expected at least 1 and at least 0")
    if not isinstance(samples, Samples):
        raise DataError(
            f"{samples.name} yields batches, perhaps others each time; statistics take several passes over the same samples: give arrays, "
            "a file or a directory"
        )
    keepers(model, layers, normalizations=normalizations)
    if graph_of(model) is not None:
        samples = matched(samples, model)
        _check_batch(model, len(samples), batch)
    if not len(samples):
        raise DataError(f"there are no samples in {samples.name}")
    check_all(samples, model)
    copy = copy_model(model, compiled=compiled)
    found, notes = keepers(copy, layers, normalizations=normalizations)
    order = turns(copy, found)
    work = _Work(copy, order, samples, batch, kept_bytes)
    try:
        for number in range(order.passes):
            work.turn(number, partial(progress, number + 1, order.passes))
        notes += [*_foreseen(order), *work.notes(model)]
    finally:
        work.close()
    carry_over(model, copy)
    for keeper, moments in work.done.items():
        _give(keeper, moments, keeper.now())
    rows = tuple(work.rows.values())
    constant = [row for row in rows if row.constant]
    if constant:
        notes.append(
            f"{sum(row.constant for row in constant):,} channels of {_named([row.path for row in constant])} are the same on all the data: "
            "their variance is 0, so anything else they are given is magnified"
        )
    frozen = [row.path for row in rows if row.frozen]
    if frozen:
        notes.append(f"{_named(frozen)} {'is' if len(frozen) == 1 else 'are'} frozen, and recalibrated all the same")
    return copy, Report(
        layers=rows,
        passes=order.passes,
        samples=len(samples),
        kept_bytes=work.kept_bytes,
        notes=tuple(dict.fromkeys(notes)),
    )


class _Work:
    """Statistics on their way."""

    def __init__(self, copy: Any, order: Turns, samples: Samples, batch: int, kept_bytes: int) -> None:
        self.copy, self.order, self.samples, self.batch = copy, order, samples, batch
        self.watch = Watch()
        self.done: dict[Keeper, Moments] = {}
        self.rows: dict[Keeper, Recalibrated] = {}
        self.unit_of = {keeper: unit for unit in order.units for keeper in unit.keepers}
        self.activations = Activations(order.graph, samples, batch, kept_bytes) if order.graph is not None else None
        self.kept_bytes = 0
        self.again: dict[Keeper, None] = {}  # called again by code of its own, after others were

    def turn(self, number: int, progress: Callable[[int], None]) -> None:
        """Go over the data once, and give those layers their statistics whose turn it is."""
        units = self.order.units_of(number)
        found, calls = self._seen(units, number, progress)
        for keeper, moments in found.items():
            before = keeper.now()
            _give(keeper, moments, before)
            self.done[keeper] = moments
            self.rows[keeper] = _row(keeper, number + 1, calls[keeper], moments, before)

    def _seen(
        self, units: Sequence[Unit], number: int, progress: Callable[[int], None], *, all_at_once: bool = False
    ) -> tuple[dict[Keeper, Moments], dict[Keeper, int]]:
        """Go over the data and return the statistics of the layers whose turn it is, and how often each is called on the first batch."""
        found: dict[Keeper, Moments] = {}
        calls: dict[Keeper, int] = {}
        called: list[Keeper] = []  # on the first batch, in order
        first_of: dict[Unit, Keeper] = {}
        batches = 0

        def seen(keeper: Keeper, values: NDArray[Any], mask: NDArray[Any] | None) -> bool:
            if batches == 0:
                called.append(keeper)
            unit = self.unit_of[keeper]
            in_turn = unit.box and not unit.circular and not all_at_once
            if in_turn and (keeper in self.done or first_of.setdefault(unit, keeper) is not keeper):
                return True
            if batches == 0:
                calls[keeper] = calls.get(keeper, 0) + 1
            if keeper not in found:
                found[keeper] = Moments(keeper.now()[0].size)
            keeper.take(found[keeper], values, mask)
            return unit.box or unit.circular

        def after(done: int) -> None:
            nonlocal batches
            batches += 1
            progress(done)

        with self.watch.watching([keeper for unit in units for keeper in unit.keepers], seen):
            self._run(units, number, after)
        if self.watch.hidden:
            raise OptionError(
                f"layer {_named(list(self.watch.hidden))} of {self.copy.name!r} is called where its values cannot be seen (in a loop or a "
                "compiled function of the layer around it), so it cannot be recalibrated; leave it out (layers)"
            )
        self.again |= dict.fromkeys(_returning([keeper for keeper in called if self.unit_of[keeper].box]))
        return found, calls

    def _run(self, units: Sequence[Unit], number: int, after: Callable[[int], None]) -> None:
        if self.activations is None:
            done = 0
            for part in self.samples.batches(self.batch):
                given = packed(self.copy, part.inputs)
                with failing(self.copy.name, on(part.rows, self.samples.name), self.copy, given):
                    self.copy(given, training=False)
                done += len(part.rows)
                after(done)
            return
        wanted = [key for unit in units for step in unit.steps for key in step.gives]
        keep = self.order.frontier(number, self.activations.given)
        self.activations.run(wanted, keep, after)
        self.kept_bytes = self.activations.most_bytes

    def close(self) -> None:
        """Let go of what is on the disk."""
        if self.activations is not None:
            self.activations.close()

    def notes(self, model: Any) -> list[str]:
        """Return what became known on the way."""
        notes = []
        never = [keeper.path for keeper in self.unit_of if keeper not in self.done]
        if never:
            notes.append(
                f"{_named(never)} {'is' if len(never) == 1 else 'are'} never called on the data: the statistics stay"
            )
        if self.watch.forced:
            notes.append(
                f"{_named(list(self.watch.forced))}: called with training=True, so the model normalizes with the statistics of each batch "
                "there, whatever these are; here it was run in inference mode"
            )
        if _draws(self.copy) != _draws(model):
            notes.append(
                "the model draws random numbers when it predicts; the statistics are of those drawn here, and depend on the batches"
            )
        return [*notes, *self._unsettled()]

    def _unsettled(self) -> list[str]:
        """Return what to say of layers for which there may be no right order: how far they are from what they would be given now."""
        doubtful = [unit for unit in self.order.units if unit.circular or any(k in self.again for k in unit.keepers)]
        if not doubtful:
            return []
        self.close()
        last = self.order.passes  # of this pass nothing is kept
        found, _ = self._seen(doubtful, last, lambda _: None, all_at_once=True)
        off = {}
        for keeper, moments in found.items():
            mean, variance = keeper.now()
            scale = moments.variance + 1e-12 + np.square(mean) * 1e-12
            off[keeper.path] = float(
                max(
                    np.max(np.abs(moments.mean - mean) / np.sqrt(scale), initial=0),
                    np.max(np.abs(moments.variance - variance) / scale, initial=0),
                )
            )
        wrong = {path: value for path, value in off.items() if value > SETTLED}
        if not wrong:
            return []
        worst = max(wrong, key=lambda path: wrong[path])
        return [
            f"{_named(list(wrong))}: called on something that depends on what {'it gives' if len(wrong) == 1 else 'they give'}, so no "
            f"order is right; on the same data they would now change by up to {wrong[worst]:.2g} standard deviations ({worst!r}); "
            "recalibrating again brings them nearer"
        ]


def _foreseen(order: Turns) -> list[str]:
    notes = []
    for unit in order.units:
        if unit.box and len(unit.keepers) > 1:
            what = "the model" if not unit.steps else f"layer {unit.operation.name!r}"
            notes.append(
                f"{what} runs its layers in code of its own: the {len(unit.keepers)} that keep statistics in it are taken in the order in "
                "which they are called, one in a pass"
            )
    return notes


def _give(keeper: Keeper, moments: Moments, before: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    """Give a layer its statistics; a channel of which nothing counts keeps those it has."""
    known = moments.count > 0
    mean, variance = np.where(known, moments.mean, before[0]), np.where(known, moments.variance, before[1])
    _check_finite(keeper, mean, variance)
    keeper.set(mean, variance)
    _check_finite(keeper, *keeper.now())


def _check_finite(keeper: Keeper, mean: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise DataError(
            f"the mean or the variance of what layer {keeper.path!r} is called with is not finite: NaN or infinity is in the data, or the "
            "model makes it of them"
        )


def _row(
    keeper: Keeper, turn: int, calls: int, moments: Moments, before: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> Recalibrated:
    mean, variance = keeper.now()
    epsilon = getattr(keeper.layer, "epsilon", 0.0) or keras.config.epsilon()
    varied = variance > 0
    return Recalibrated(
        path=keeper.path,
        kind=keeper.kind,
        turn=turn,
        calls=calls,
        values=int(moments.count.min(initial=np.inf)) if moments.count.size else 0,
        shift=float(np.sqrt(np.mean(np.square(before[0] - mean) / (variance + epsilon)))),
        spread=float(np.median(before[1][varied] / variance[varied])) if varied.any() else None,
        constant=int((~varied).sum()),
        frozen=keeper.kind == "BatchNormalization" and not keeper.layer.trainable,
    )


def _returning(called: Sequence[Keeper]) -> list[Keeper]:
    """Return those that are called again after others were."""
    seen: set[Keeper] = set()
    found = []
    for place, keeper in enumerate(called):
        if keeper in seen and called[place - 1] is not keeper:
            found.append(keeper)
        seen.add(keeper)
    return found


def _check_batch(model: Any, count: int, batch: int) -> None:
    """Refuse batches of another size than the model takes."""
    for port in inputs(model).values():
        size = port.shape[0]
        if size is not None and (size != batch or count % size):
            raise OptionError(
                f"input {port.name!r} of {model.name!r} takes batches of exactly {size}; set batch to it, and give a multiple of it as "
                f"samples (batch is {batch}, samples are {count:,})"
            )


def _draws(model: Any) -> list[bytes]:
    """Return the states of a model's random generators."""
    return [
        np.asarray(keras.ops.convert_to_numpy(generator.state)).tobytes()
        for layer in layers_of(model)
        for generator in layer._seed_generators
    ]


def _named(paths: Sequence[str]) -> str:
    return ", ".join(map(repr, paths[:6])) + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")

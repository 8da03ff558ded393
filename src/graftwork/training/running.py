"""Training that can be interrupted: Keras's `fit`, with the state of the run on disk after every epoch.

What decides the rest of a run is kept in one file: every variable of the model and of its optimizer, states of random layers included, the
number of the epoch, what was best so far and the history. The order of samples is drawn from the seed and the number of the epoch alone,
and random layers begin in states that the seed gives. So a run that was killed and is started again ends with the weights of one that was
not (on the processor, where Keras's operations give the same bits each time).
"""

import csv
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from graftwork.errors import OptionError, OutputError, StoreError
from graftwork.models.lazy import keras
from graftwork.training.failing import failing
from graftwork.training.feeding import in_order, raised_as_it_was
from graftwork.training.seeding import seed_layers

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done so far and steps in all."""

STATE = "run.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How a model is trained.

    Attributes:
        epochs: How often all samples are seen.
        batch: Samples in a batch.
        optimizer: Keras's name of an optimizer, a class and its settings (``{"SGD": {"momentum": 0.9}}``), or its configuration.
        learning_rate: Its learning rate; by default its own.
        seed: Fixes the order of samples and the states of random layers.
        monitor: What tells the best epoch: a metric of the history; by default ``val_loss`` with validation data, else ``loss``.
        mode: Whether less or more of it is better; by default less, save for accuracies, AUC and the like.
        patience: After how many epochs without improvement training ends early; None for never.
        best: Whether the weights of the best epoch are kept, not the last.
        log: A CSV file that a line is added to after every epoch.
        tensorboard: A directory for TensorBoard.
        jit: Whether the step is compiled by XLA; by default as Keras decides.
        gradient_clip: Norm that the gradient of all weights is clipped to.
        device: Where it is trained: ``"cpu"``, ``"gpu:1"``; by default where Keras does.
        mixed_precision: ``"float16"`` or ``"bfloat16"``, in which layers compute; weights and outputs stay float32.
        strategy: ``"mirrored"`` for one copy of the model on each device of its kind, each batch divided among them.
    """

    epochs: int = 10
    batch: int = 32
    optimizer: str | Mapping[str, Any] = "adam"
    learning_rate: float | None = None
    seed: int = 0
    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    patience: int | None = None
    best: bool = True
    log: Path | None = None
    tensorboard: Path | None = None
    jit: bool | None = None
    gradient_clip: float | None = None
    device: str | None = None
    mixed_precision: Literal["float16", "bfloat16"] | None = None
    strategy: Literal["mirrored", "multi_worker"] | None = None

    def __post_init__(self) -> None:
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch", self.batch, 1),
            ("patience", self.patience, 1),
        ):
            if value is not None and value < least:
                raise OptionError(f"{name} is {value}, expected at least {least}")
        if self.learning_rate is not None and not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise OptionError(f"learning_rate is {self.learning_rate}, expected a number above 0")

    def made_optimizer(self) -> Any:
        """Return a new optimizer.

        Raises:
            OptionError: If Keras knows none of that name or configuration.
        """
        try:
            found = keras.optimizers.get(_spelled(self.optimizer))
        except (ValueError, TypeError, KeyError) as error:
            raise OptionError(f"optimizer {self.optimizer!r}: {str(error).splitlines()[0]}") from error
        config = found.get_config()
        if self.learning_rate is not None:
            config["learning_rate"] = self.learning_rate
        if self.gradient_clip is not None:
            config["global_clipnorm"] = self.gradient_clip
        return type(found).from_config(config)


def _spelled(optimizer: str | Mapping[str, Any]) -> Any:
    """Return an optimizer as Keras spells it, of a class and its settings too: ``{"SGD": {"momentum": 0.9}}``."""
    if isinstance(optimizer, str) or "class_name" in optimizer:
        return optimizer if isinstance(optimizer, str) else dict(optimizer)
    if len(optimizer) != 1 or not isinstance(next(iter(optimizer.values())) or {}, Mapping):
        raise ValueError("write a class and its settings, such as {SGD: {momentum: 0.9}}")
    ((name, settings),) = optimizer.items()
    return {"class_name": name, "config": dict(settings or {})}


@dataclass(slots=True)
class History:
    """What happened.

    Attributes:
        epochs: The metrics of every epoch, those of validation with ``val_`` in front.
        best: The number of the epoch whose weights the model has, from 0 on.
        stopped: Whether training ended early.
        resumed: From which epoch on a run went on, None where it began anew.
        seconds: How long it took, without what was done before it went on.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best: int = 0
    stopped: bool = False
    resumed: int | None = None
    seconds: float = 0.0

    def __getitem__(self, name: str) -> list[float]:
        return [row[name] for row in self.epochs]


def run(
    model: Any,
    feed: Any,
    fit: Fit,
    *,
    validation: Any = None,
    folder: Path | None = None,
    key: str = "",
    progress: Progress | None = None,
    verb: str = "train",
    callbacks: Sequence[Any] = (),
) -> History:
    """Train a compiled model.

    Args:
        model: The model, compiled; it is changed.
        feed: What `feeding.dataset` returns: batches whose order the number of the epoch fixes.
        fit: How.
        validation: Likewise, for what is only measured.
        folder: Where the state of the run is kept, and taken from if there is one; None for a run that is not kept.
        key: What the run depends on: a state that was kept under another key is refused.
        progress: Told how far it is, with the metrics.
        verb: What it is called there.
        callbacks: Further callbacks of Keras.

    Raises:
        StoreError: If the folder holds the state of another run, or no state at all that can be read.
        OptionError: If the metric to monitor does not exist, or the loss is no number any more.
        DataError: If batches cannot be had, or the model fails on one.
    """
    begin = time.perf_counter()
    keeper = _keeper(model, fit, validation is not None, folder, key)
    seed_layers(model, fit.seed)
    first = keeper.restore()
    known = [keeper.callback, *callbacks]
    if hasattr(feed, "start_at"):
        known.insert(0, in_order(feed))
    if progress is not None:
        known.append(_telling(progress, verb, first, fit.epochs, len(feed)))
    if not keeper.history.stopped and first < fit.epochs:
        held = keras.config.backend() != "jax"  # which takes a model's values away while it is trained
        given = (lambda: feed[0][0]) if held else None
        with failing(model.name, "while it is trained", model, given), raised_as_it_was(feed, validation):
            model.fit(
                feed,
                epochs=fit.epochs,
                initial_epoch=first,
                validation_data=validation,
                callbacks=known,
                shuffle=False,
                verbose=0,
            )
    keeper.finish()
    keeper.history.seconds = time.perf_counter() - begin
    return keeper.history


class _Keeper:
    """What is kept of a run: the history, the best weights, and on disk all that decides how it goes on."""

    def __init__(self, model: Any, fit: Fit, validated: bool, folder: Path | None, key: str) -> None:
        self.model, self.fit, self.folder, self.key = model, fit, folder, key
        self.history = History()
        self.monitor = fit.monitor or ("val_loss" if validated else "loss")
        self._best: list[NDArray[Any]] | None = None
        self.callback: Any = None

    @property
    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def restore(self) -> int:
        """Take up the state on disk, if there is one; return the number of the epoch that comes next."""
        if self.folder is None:
            return 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the state of the run cannot be kept in {self.folder}: {error}") from error
        path = self.folder / STATE
        if not path.exists():
            return 0
        try:
            with np.load(path, allow_pickle=False) as kept:
                told = json.loads(str(kept["told"]))
                values = [kept[f"v{place}"] for place in range(told["variables"])]
                best = [kept[f"b{place}"] for place in range(told["best_weights"])]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise StoreError(f"the state of the run in {path} is damaged ({error}); remove it to begin anew") from error
        self.model.optimizer.build(self.model.trainable_variables)
        if told["key"] != self.key or [list(v.shape) for v in values] != [list(v.shape) for v in self._variables]:
            raise StoreError(
                f"{path} is the state of another run: other data, settings or models; name another folder, or remove it"
            )
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        self._best = best or None
        self.history = History(told["epochs"], told["best"], told["stopped"], told["next"])
        self._write_log()
        return int(told["next"])

    def epoch_ended(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Take an epoch in; write the state."""
        row = {name: float(value) for name, value in logs.items()}
        self.history.epochs.append(row)
        if self.monitor not in row:
            raise OptionError(f"there is no metric {self.monitor!r} to monitor; there are {', '.join(row)}")
        if not math.isfinite(row["loss"]):
            raise OptionError(
                f"the loss of epoch {epoch + 1} is {row['loss']}: training went astray; use a smaller learning rate, or gradient_clip"
            )
        sign = 1 if self._mode() == "min" else -1
        values = [sign * each[self.monitor] for each in self.history.epochs]
        if epoch == 0 or values[-1] < values[self.history.best] or not math.isfinite(values[self.history.best]):
            self.history.best = epoch
            if self.fit.best:
                self._best = [np.array(keras.ops.convert_to_numpy(v)) for v in self.model.variables]
        if self.fit.patience is not None and epoch - self.history.best >= self.fit.patience:
            self.history.stopped = self.model.stop_training = True
        self._write(epoch + 1)
        self._write_log()
        if self.fit.tensorboard is not None:
            _write_events(self.fit.tensorboard, epoch, row)

    def _mode(self) -> str:
        more = ("acc", "auc", "f1", "precision", "recall", "r2")
        return self.fit.mode or ("max" if any(word in self.monitor.lower() for word in more) else "min")

    def _write(self, following: int) -> None:
        if self.folder is None:
            return
        best = self._best or []
        told = {
            "key": self.key,
            "next": following,
            "epochs": self.history.epochs,
            "best": self.history.best,
            "stopped": self.history.stopped,
            "variables": len(self._variables),
            "best_weights": len(best),
        }
        arrays = {f"v{place}": keras.ops.convert_to_numpy(v) for place, v in enumerate(self._variables)}
        arrays |= {f"b{place}": value for place, value in enumerate(best)}
        unfinished = self.folder / f".{STATE}.{os.getpid()}"
        try:
            with unfinished.open("wb") as file:
                np.savez(file, told=np.array(json.dumps(told)), **arrays)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(self.folder / STATE)
        except OSError as error:
            raise OutputError(f"the state of the run cannot be kept in {self.folder}: {error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _write_log(self) -> None:
        """Write the whole history as CSV: so the file is right after a run that went on, too."""
        if self.fit.log is None:
            return
        try:
            self.fit.log.parent.mkdir(parents=True, exist_ok=True)
            with self.fit.log.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ["epoch", *dict.fromkeys(k for row in self.history.epochs for k in row)])
                table.writeheader()
                table.writerows({"epoch": place, **row} for place, row in enumerate(self.history.epochs))
        except OSError as error:
            raise OutputError(f"the log {self.fit.log} cannot be written: {error}") from error

    def finish(self) -> None:
        """Give the model the weights of the best epoch."""
        if self.fit.best and self._best is not None:
            for variable, value in zip(self.model.variables, self._best, strict=True):
                variable.assign(value)
        elif not self.fit.best:
            self.history.best = len(self.history.epochs) - 1


def _write_events(folder: Path, epoch: int, row: Mapping[str, float]) -> None:
    """Write the figures of an epoch as TensorBoard reads them, in the folders and under the names that Keras gives them."""
    import tensorflow as tf

    kind = tf.compat.v1.SummaryMetadata(
        plugin_data=tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars"), data_class="DATA_CLASS_SCALAR"
    )
    for word, prefix in (("train", ""), ("validation", "val_")):
        own = {name.removeprefix("val_"): v for name, v in row.items() if name.startswith("val_") == bool(prefix)}
        if own:
            with tf.summary.create_file_writer(str(folder / word)).as_default():
                for name, value in own.items():
                    tf.summary.write(f"epoch_{name}", tf.constant(value, tf.float32), epoch, metadata=kind)


def _keeper(model: Any, fit: Fit, validated: bool, folder: Path | None, key: str) -> _Keeper:
    keeper = _Keeper(model, fit, validated, folder, key)

    class Keep(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            keeper.epoch_ended(epoch, logs or {})

    keeper.callback = Keep()
    return keeper


def _telling(progress: Progress, verb: str, first: int, epochs: int, steps: int) -> Any:
    begin = time.perf_counter()

    class Telling(keras.callbacks.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.epoch = first

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch = epoch

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            done = self.epoch * steps + batch + 1
            left = (time.perf_counter() - begin) / (done - first * steps) * (epochs * steps - done)
            told = "".join(f", {name} {float(value):.4g}" for name, value in (logs or {}).items())
            where = f"epoch {self.epoch + 1}/{epochs}, step {batch + 1}/{steps}"
            progress(f"{verb}: {where}{told}, {_span(left)} left", done, epochs * steps)

    return Telling()


def _span(seconds: float) -> str:
    """Return a time as people say it: ``12 s``, ``3 min``, ``1 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def forget(folder: Path) -> None:
    """Delete the state of a run that is done with; what else lies in the folder stays.

    Args:
        folder: The folder that `run` was given, or one with such folders in it.
    """
    for inner in sorted(folder.iterdir()) if folder.is_dir() else ():
        if inner.is_dir():
            forget(inner)
        elif inner.name == STATE or inner.name.startswith((f".{STATE}.", "features.", ".features.")):
            inner.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

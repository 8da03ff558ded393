"""What every verb takes that trains: the options of `graftwork.training.running.Fit`, and where the state of a run is kept."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from graftwork.compose.base import Verb
from graftwork.training.fed import Fed
from graftwork.training.running import Fit, forget


class Fitting(Fed):
    """A verb that trains; verbs are classes below this one, which has no word of its own."""

    relative: ClassVar[tuple[str, ...]] = ("log", "tensorboard", "run")

    epochs: int = Field(10, ge=1)
    """How often all samples are seen."""

    batch: int = Field(32, ge=1)
    """Samples in a batch."""

    optimizer: str | Mapping[str, Any] = "adam"
    """Keras's name of an optimizer, a class and its settings, or its configuration."""

    learning_rate: float | None = None
    """Its learning rate; by default its own."""

    seed: int = 0
    """Fixes the order of samples, new weights and the states of random layers."""

    monitor: str | None = None
    """What tells the best epoch: a metric of the history; by default `val_loss` with validation data, else `loss`."""

    mode: Literal["min", "max"] | None = None
    """Whether less or more of it is better; by default less, save for accuracies, AUC and the like."""

    patience: int | None = Field(None, ge=1)
    """After how many epochs without improvement training ends early; by default never."""

    best: bool = True
    """Keep the weights of the best epoch, not the last."""

    gradient_clip: float | None = Field(None, gt=0)
    """Norm that the gradient of all weights is clipped to."""

    jit: bool | None = None
    """Compile the step with XLA; by default as Keras decides."""

    log: str | None = None
    """A CSV file that a line is added to after every epoch."""

    tensorboard: str | None = None
    """A directory for TensorBoard."""

    device: str | None = None
    """Where to train: `cpu`, `gpu:1`; by default where Keras does."""

    mixed_precision: Literal["float16", "bfloat16"] | None = None
    """What layers compute in meanwhile; weights stay float32, and so does what the result computes in."""

    strategy: Literal["mirrored", "multi_worker"] | None = None
    """Divide each batch among all devices of a kind: `mirrored`. What `fit` of this Keras cannot do is refused."""

    run: str | None = None
    """A directory where the state of the run is kept after every epoch: a run that was killed goes on from there. By default
    `OUTPUT.run`, beside the output; it is removed once the output is written."""

    def fit(self) -> Fit:
        """Return how a model is trained.

        Raises:
            OptionError: If an option makes no sense.
        """
        return Fit(
            epochs=self.epochs,
            batch=self.batch,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            seed=self.seed,
            monitor=self.monitor,
            mode=self.mode,
            patience=self.patience,
            best=self.best,
            log=Path(self.log) if self.log else None,
            tensorboard=Path(self.tensorboard) if self.tensorboard else None,
            jit=self.jit,
            gradient_clip=self.gradient_clip,
            device=self.device,
            mixed_precision=self.mixed_precision,
            strategy=self.strategy,
        )

    def folder(self) -> Path | None:
        """Return where the state of the run is kept, None where it is not."""
        return Path(self.run) if self.run else None

    def key(self, *told: str) -> str:
        """Return a text that changes when an option does that the result depends on.

        Args:
            told: What else it depends on: models and data.
        """
        beside = {*self.fed, *self.relative}
        options = {name: getattr(self, name) for name in type(self).model_fields if name not in beside}
        return hashlib.sha256(json.dumps([options, told], sort_keys=True, default=_plain).encode()).hexdigest()


def kept_beside(verb: Verb, output: Path) -> Verb:
    """Return a verb that keeps the state of its run beside its output, if it trains and nothing else is said."""
    if not isinstance(verb, Fitting) or verb.run is not None:
        return verb
    return verb.model_copy(update={"run": str(output.with_name(f"{output.name}.run"))})


def done_with(verb: Verb) -> None:
    """Delete the state of a verb's run; its result is written."""
    folder = verb.folder() if isinstance(verb, Fitting) else None
    if folder is not None:
        forget(folder)


def _plain(value: Any) -> str:
    """Return what is no plain value as a text that is the same in another process."""
    return type(value).__name__

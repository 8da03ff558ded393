"""A new task for a trained model."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from graftwork.compose.base import Composed, Member, verb
from graftwork.compose.heads import HeadSpec
from graftwork.training.finetuning import Finetuning
from graftwork.training.fitting import Fitting
from graftwork.training.losses import LossSpec


@verb
class Finetune(Fitting):
    """Train a new head on what a model gives and then, if asked for, the last layers of the model with it.

    While only the head trains, the model below it is frozen and run once over the data; what it gives is kept on the disk, unless
    something random stands in it. One plain model comes out.
    """

    kind: ClassVar[str] = "finetune"
    takes: ClassVar[tuple[str, ...]] = ("trunk",)
    lists: ClassVar[tuple[str, ...]] = ()
    fed: ClassVar[tuple[str, ...]] = ("data", "validation", "old")

    data: Any
    """What to learn from: inputs and labels."""

    validation: Any = None
    """What is measured on after every epoch, in the same form."""

    old: Any = None
    """Data of the task that the model was trained for: what it forgets of that is measured. Labels are looked at where they fit what it
    gives."""

    head: HeadSpec = "linear"
    """A number of units (softmax; sigmoid for one), a layer, a model, a list of these; or a word, for as many units as the labels ask for:
    linear, mlp, conv (a convolution, pooling, linear), logistic (linear, solved by scikit-learn instead of trained), own (the last
    layer with weights that the model has)."""

    at: str | None = None
    """What the head stands on: the address of a tensor, such as `global_pool`. By default what the model gives; where these are
    probabilities, the last layer with weights goes, and the head stands where that stood."""

    port: str | None = None
    """Which output the head takes the place of, where the model has several; the others go."""

    hidden: Sequence[int] = ()
    """Units of Dense layers with relu before the head; of an mlp 256 by default."""

    activation: str | None = None
    """The activation of the head, where it is a number of units or a word: `linear` for values without bounds."""

    outputs: str = "auto"
    """What the head gives, where its last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression."""

    loss: LossSpec | None = None
    """One of Keras, by name or class and settings; by default the usual one for what the head gives."""

    penalty: float = Field(1.0, gt=0)
    """How strongly a logistic head is kept from large weights: the inverse of scikit-learn's C."""

    cache: bool | None = None
    """Run the model below the head once, and keep what it gives on the disk while the head trains: by default where that changes nothing;
    true refuses where it would, false never does it."""

    unfreeze: int | str | Sequence[int] | Sequence[str] | None = None
    """What trains afterwards, with the head: so many layers with weights from the top, or those that paths match (`*` for all). Several
    numbers are as many stages, one after the other."""

    batchnorm: bool = False
    """Whether BatchNormalization among these layers trains as well; its statistics then follow the new data."""

    fine_epochs: int | None = Field(None, ge=1)
    """Epochs of each of these stages; by default as many as of the head."""

    fine_learning_rate: float | Sequence[float] | None = None
    """Their learning rate, or one for each; by default a tenth of the one before."""

    l2_sp: float = Field(0.0, ge=0)
    """How strongly layers of the model are kept near where they began: half of this times the squared distance is added to the loss."""

    interpolate: float | Literal["best"] | None = None
    """Give the result weights between those before layers were unfrozen (0) and those at the end (1): this far on the way, or where the
    loss on `validation` is least."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Put the head on, and look at everything that can be looked at; see `Verb.compose`."""
        (member,) = members
        return Finetuning(self, member).composed()

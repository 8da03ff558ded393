"""A student that learns from teachers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from graftwork.compose.base import Composed, Member, verb
from graftwork.compose.classes import ClassLists
from graftwork.compose.layers import LayerSpec
from graftwork.compose.outputs import OutputKinds
from graftwork.compose.preprocess import Size
from graftwork.training.distilling import TEMPERATURE, Distilling
from graftwork.training.fitting import Fitting
from graftwork.training.hints import Hints
from graftwork.training.losses import LossSpec


@verb
class Distill(Fitting):
    """Train a student to say what teachers say, and what the labels say where there are any.

    The loss is alpha · T² · KL(teachers ‖ student), both at temperature T, plus (1 - alpha) · that of the labels. For models of values,
    the squared difference takes the place of the divergence; for independent yes and no, the divergence is that of each label. Logits and
    probabilities give the same loss on either side. Teachers are asked in inference mode and stay as they are; the result is the plain
    student.
    """

    kind: ClassVar[str] = "distill"
    takes: ClassVar[tuple[str, ...]] = ("teachers", "student")
    lists: ClassVar[tuple[str, ...]] = ("teachers",)
    optional: ClassVar[tuple[str, ...]] = ("student",)
    flags: ClassVar[Mapping[str, tuple[str, ...]]] = {"teachers": ("-t", "--teacher"), "student": ("-s", "--student")}
    served: ClassVar[tuple[str, ...]] = ("teachers", "student")
    fed: ClassVar[tuple[str, ...]] = ("data", "validation")
    relative: ClassVar[tuple[str, ...]] = (*Fitting.relative, "cache")

    data: Any
    """What to learn from: inputs, and labels where there are any."""

    validation: Any = None
    """What is measured on after every epoch, in the same form."""

    width: float | Literal["auto"] = "auto"
    """Where no student is given, it has the architecture of the first teacher with this part of its units and filters; auto: as many as
    give it a tenth of the parameters of all teachers."""

    temperature: float = Field(TEMPERATURE, gt=0)
    """T: at 1 teachers are imitated as they are, above it what they say of unlikely classes counts more."""

    alpha: float | None = Field(None, ge=0, le=1)
    """What the teachers count; the labels count the rest. By default 0.9, and 1 where there are no labels."""

    loss: LossSpec | None = None
    """The loss of the labels: one of Keras, by name or class and settings; by default the usual one for what the student gives."""

    weights: list[float] | Mapping[str, float] | None = None
    """What each teacher counts, in their order or by name."""

    weighting: Literal["fixed", "confidence"] = "fixed"
    """Whether a teacher counts the same for every sample, or by how sure it is: one minus the entropy of what it says, divided by the
    largest that it could have."""

    outputs: OutputKinds = "auto"
    """What models give, where their last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression; or one by
    teacher or student, by output, or by `teacher.output`, which also says which of several outputs teaches."""

    signatures: Mapping[str, str] = {}
    """Which signature of a SavedModel is asked, by teacher; by default the one for serving, or the only one."""

    classes: ClassLists | None = None
    """Names of classes in the order of outputs, by teacher or student, or for each teacher in turn. Each class is learned from the
    teachers that know it."""

    preprocess: Mapping[str, LayerSpec] = {}
    """What the student's input goes through on its way to a teacher, by its name: tf, torch or caffe (raw RGB of 0 to 255 to what such a
    network takes), cast, gap, flatten, pad, a layer, or a list of these."""

    resize: bool | Mapping[str, Size] = False
    """Resize images to what each teacher takes; or by teacher: true, or the size."""

    hints: Hints = ()
    """Layers of the student that are told what to give by layers of a teacher: the teacher's by the student's, or a list with `student`,
    `teacher`, `of` (which teacher), `loss` (attention, relational, or one of Keras; mse) and `weight`."""

    cache: bool | str | None = None
    """Ask the teachers once and keep what they say: in this directory, from where other runs take it, or in a temporary one (true). By
    default in a temporary one where that changes nothing; false asks in every epoch."""

    cache_limit: float = Field(4.0, gt=0)
    """GiB that may be kept."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the student and look at everything that can be looked at; see `Verb.compose`."""
        return Distilling(self, members).composed()

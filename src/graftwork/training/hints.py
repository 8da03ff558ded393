"""Hints: what a student's layers are to give, told by a teacher's layers (FitNets: Romero et al. 2015, https://arxiv.org/abs/1412.6550).

::

    attention    ‖ q(s)/‖q(s)‖ - q(t)/‖q(t)‖ ‖²,  q: the squares of a feature map summed over its channels, as one vector for each sample
    relational   mean over pairs of samples of a batch of Huber(d(s)/mean d(s) - d(t)/mean d(t)),  d: distance of their features
    others       a loss of Keras between the two, the student's projected to the teacher's width where widths differ

Attention transfer is Zagoruyko and Komodakis (2017), https://arxiv.org/abs/1612.03928, whose code takes the mean over positions where this
takes the sum; relational distances are Park et al. (2019), https://arxiv.org/abs/1904.05068. Images of different sizes are brought to the
teacher's size (bilinear). Projections are trained with the student and thrown away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from graftwork import rng
from graftwork.compose.ports import Shape
from graftwork.errors import MismatchError, UnknownNameError
from graftwork.models.lazy import keras
from graftwork.training.distillation import TINY, averaged, spread
from graftwork.training.losses import LossSpec, loss_of

ATTENTION, RELATIONAL = "attention", "relational"


class Hint(BaseModel):
    """One layer of the student that is told what to give by one layer of a teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    student: str
    """The address of a layer of the student, such as `block_2` or `encoder/block_2`."""

    teacher: str
    """The address of a layer of the teacher."""

    of: str | None = None
    """Which teacher, where there are several; by default the first."""

    loss: LossSpec = "mse"
    """`attention`, `relational`, or a loss of Keras."""

    weight: float = Field(1.0, gt=0)
    """What it counts beside the loss of distillation."""


def _as_list(value: Any) -> Any:
    """Return hints that are spelled as one, or as pairs of layers, as a list."""
    if isinstance(value, Hint) or (isinstance(value, Mapping) and {"student", "teacher"} <= set(value)):
        return (value,)
    if isinstance(value, Mapping):
        return tuple({"student": student, "teacher": teacher} for student, teacher in value.items())
    return value


Hints = Annotated[tuple[Hint, ...], BeforeValidator(_as_list)]
"""Hints in a list, one alone, or the teacher's layer by the student's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """A hint whose layers are found.

    Attributes:
        hint: As the user spells it.
        key: What the teacher's feature is called among what the teachers say.
        student: The shape of the student's feature.
        teacher: That of the teacher's.
    """

    hint: Hint
    key: str
    student: Shape
    teacher: Shape

    def __post_init__(self) -> None:
        reason = self._unfit()
        if reason:
            raise MismatchError(
                f"hint {self.hint.student} ← {self.hint.teacher}: the student's feature is {self.student} and the teacher's "
                f"{self.teacher}{reason}"
            )

    def _unfit(self) -> str:
        loss, ours, theirs = self.hint.loss, self.student, self.teacher
        if loss == RELATIONAL:
            return "" if None not in (*ours[1:], *theirs[1:]) else ", whose sizes are not all known"
        if len(ours) != len(theirs):
            return "; give layers of as many axes, or the loss 'relational'"
        if loss == ATTENTION and len(ours) < 3:
            return ", which have no positions; attention is for feature maps and sequences"
        if None in (ours[-1], theirs[-1]):
            return ", whose widths are not both known"
        apart = any(a != b for a, b in zip(ours[1:-1], theirs[1:-1], strict=True) if None not in (a, b))
        if apart and len(ours) != 4:
            return ": only images are brought to another size"
        return ", whose sizes are not all known" if len(ours) == 4 and None in (*ours[1:3], *theirs[1:3]) else ""

    @property
    def note(self) -> str:
        """What is done, in words."""
        resized = len(self.student) == 4 and self.student[1:3] != self.teacher[1:3] and self.hint.loss != RELATIONAL
        told = f"hint: {self.hint.student} {self.student[1:]} ← {self.hint.teacher} {self.teacher[1:]}"
        if self.projects:
            told += f", projected to {self.teacher[-1]}"
        return told + (", brought to the teacher's size" if resized else "")

    @property
    def projects(self) -> bool:
        """Whether the student's feature is projected."""
        return self.hint.loss not in (ATTENTION, RELATIONAL) and self.student[-1] != self.teacher[-1]

    def projection(self, seed: int) -> Any:
        """Return a new layer, built, that brings the student's feature to the teacher's width; None where none is needed."""
        if not self.projects:
            return None
        start = keras.initializers.GlorotUniform(int(rng.key(seed, f"projection {self.key}", 0)) % 2**31)
        layer = keras.layers.Dense(self.teacher[-1], kernel_initializer=start, dtype="float32", name="projection")
        layer.build((None, *self.student[1:]))
        return layer

    def lost(self, student: Any, teacher: Any, weights: Any, mask: Any) -> Any:
        """Return what the hint says of a batch, as one number.

        Args:
            student: The student's feature, projected.
            teacher: The teacher's.
            weights: What each sample, or position, counts.
            mask: Which positions there are.
        """
        ours, theirs = keras.ops.cast(student, "float32"), keras.ops.cast(teacher, "float32")
        loss = self.hint.loss
        if loss in (ATTENTION, RELATIONAL):
            ours, theirs = _unpadded(ours, mask), _unpadded(theirs, mask)
            weights = spread(weights, 1)
            return (
                averaged(_attention(ours, theirs), weights) if loss == ATTENTION else _relational(ours, theirs, weights)
            )
        ours = _sized(ours, theirs)
        return averaged(loss_of(loss, "regression").call(theirs, ours), weights, mask)


def _sized(ours: Any, theirs: Any) -> Any:
    """Return an image in the size of another."""
    if len(ours.shape) != 4 or tuple(ours.shape[1:3]) == tuple(theirs.shape[1:3]):
        return ours
    size = (int(theirs.shape[1]), int(theirs.shape[2]))
    return keras.ops.image.resize(ours, size, interpolation="bilinear", data_format="channels_last")


def _unpadded(feature: Any, mask: Any) -> Any:
    """Return a feature with zeros where there is only padding."""
    if mask is None:
        return feature
    return feature * spread(mask, len(feature.shape))


def _attention(ours: Any, theirs: Any) -> Any:
    """Return the squared distance of two attention maps for each sample."""
    ops = keras.ops
    ours, theirs = (ops.sum(ops.square(each), axis=-1, keepdims=True) for each in (ours, theirs))
    maps = []
    for each in (_sized(ours, theirs), theirs):
        flat = ops.reshape(each, (ops.shape(each)[0], -1))
        maps.append(flat / ops.sqrt(ops.maximum(ops.sum(ops.square(flat), axis=-1, keepdims=True), TINY)))
    return ops.sum(ops.square(maps[0] - maps[1]), axis=-1)


def _relational(ours: Any, theirs: Any, weights: Any) -> Any:
    """Return how differently the samples of a batch lie to each other."""
    ops = keras.ops
    count = ops.shape(ours)[0]
    apart = 1.0 - ops.eye(count, dtype="float32")
    counted = apart if weights is None else apart * weights[:, None] * weights[None, :]
    gap = ops.abs(_distances(ours, apart, counted) - _distances(theirs, apart, counted))
    huber = ops.where(gap < 1.0, 0.5 * ops.square(gap), gap - 0.5)
    pairs = ops.maximum(ops.mean(apart), TINY)  # a batch of one sample has none
    return averaged(huber, counted) / pairs


def _distances(feature: Any, apart: Any, counted: Any) -> Any:
    """Return the distance of each pair of samples, divided by their mean."""
    ops = keras.ops
    flat = ops.reshape(feature, (ops.shape(feature)[0], -1))
    flat = flat - ops.mean(flat, axis=0, keepdims=True)  # what is common would cost digits in the differences
    squares = ops.sum(ops.square(flat), axis=-1)
    between = squares[:, None] + squares[None, :] - 2.0 * ops.matmul(flat, ops.transpose(flat))
    far = ops.sqrt(ops.maximum(between, 1e-12)) * apart
    return far / ops.maximum(ops.sum(far * counted) / ops.maximum(ops.sum(counted), TINY), 1e-12)


def features(hints: Sequence[Hint], teachers: Sequence[str]) -> dict[str, list[str]]:
    """Return which layers of each teacher are wanted, by the teacher's name.

    Args:
        hints: The hints.
        teachers: Names of the teachers, the first of which is meant where none is named.

    Raises:
        UnknownNameError: If a hint is of a teacher that there is not.
    """
    found: dict[str, list[str]] = {name: [] for name in teachers}
    for hint in hints:
        if hint.of is not None and hint.of not in found:
            raise UnknownNameError("teacher (of a hint)", hint.of, teachers)
        wanted = found[hint.of or teachers[0]]
        if hint.teacher not in wanted:
            wanted.append(hint.teacher)
    return found

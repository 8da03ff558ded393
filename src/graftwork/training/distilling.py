"""One distillation: models and data looked at, the student made, then trained.

Teachers answer outside the step (`teachers`), now or from the disk (`caching`); batches carry what they say (`lessons`); the step computes
what the student loses (`distiller`, `distillation`, `hints`); Keras's `fit` runs it, epoch by epoch (`running`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from graftwork.compose.addresses import taps
from graftwork.compose.base import Composed, Member, Progress, Trained
from graftwork.compose.naming import as_layer_name
from graftwork.compose.ports import inputs, outputs
from graftwork.compose.preprocess import Preparations
from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.data.samples import Part
from graftwork.errors import DataError, MismatchError, OptionError
from graftwork.models.combining import FAMILIES, floor_of, weights_of
from graftwork.models.configuration import layers_of
from graftwork.models.lazy import keras
from graftwork.models.own import imports_of
from graftwork.training import lessons
from graftwork.training.asking import fixed
from graftwork.training.caching import Cache
from graftwork.training.distillation import VALUES, Voice
from graftwork.training.distiller import Lesson, distiller, optimizer_for
from graftwork.training.features import digest, told_apart
from graftwork.training.hints import ATTENTION, RELATIONAL, Telling, features
from graftwork.training.losses import loss_of
from graftwork.training.matching import Target, check_labels, check_shape, check_values, matched
from graftwork.training.placing import check_place, placed
from graftwork.training.remembering import check_order
from graftwork.training.running import History, run
from graftwork.training.students import Scaled, automatic, scaled
from graftwork.training.teachers import (
    Order,
    check_names,
    one_family,
    order_of,
    parameters_of,
    target_said,
    teachers_of,
)
from graftwork.training.tokens import check_all

if TYPE_CHECKING:
    from graftwork.training.verbs.distill import Distill

ALPHA = 0.9
"""What teachers count where there are labels too, and nothing is said."""

TEMPERATURE = 4.0
"""T where nothing is said."""

AUGMENTING = ("AugMix", "AutoContrast", "CutMix", "MixUp", "RandAugment")
"""Layers that change samples at random in training, beside those whose names begin with ``Random``."""

Says = Callable[[Part, NDArray[np.int64]], Mapping[str, NDArray[Any]]]
"""Returns what teachers say of samples that were read, whose places among all samples are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """The student.

    Attributes:
        name: What it is called.
        model: The model.
        target: Its output.
        made: How it was made, if nobody gave it.
    """

    name: str
    model: Any
    target: Target
    made: Scaled | None = None


@dataclass(slots=True)
class Feed:
    """Where batches come from: the data itself, and how teachers are asked.

    Attributes:
        batches: What `fit` takes.
        validation: Likewise, for what is measured.
        notes: What the user should know.
    """

    batches: Any
    validation: Any
    notes: list[str] = field(default_factory=list)


class Distilling:
    """One distillation, from looking at the models to the trained student.

    Args:
        wishes: The verb.
        members: The teachers and, if there is one, the student.
    """

    def __init__(self, wishes: "Distill", members: Sequence[Member]) -> None:
        self.wishes, self.notes = (wishes := wishes.given()), list[str]()
        self.fit = wishes.fit()
        check_place(self.fit)
        given = [member for member in members if member.role == "student"]
        every = [member for member in members if member.role != "student"]
        check_names(wishes.outputs, wishes.signatures, members)
        counted = weights_of(wishes.weights, [member.name for member in every])
        self.members = [member for member in every if counted[member.name]]
        if len(self.members) < len(every):
            left = [member.name for member in every if member not in self.members]
            self.notes.append(f"{', '.join(left)} counts nothing and is left out")
        self.weights = [counted[member.name] for member in self.members]
        alone, like = len(members) == 1, next(iter(outputs(given[0].model))) if given else ""
        self.targets = [target_said(member, wishes.outputs, alone, like) for member in self.members]
        names = [member.name for member in self.members]
        one_family(names, [target.kind for target in self.targets])
        self.family = FAMILIES[str(self.targets[0].kind)]
        self._check_options()
        self.data: Samples | Stream = wishes.data
        self.validation: Samples | Stream | None = wishes.validation
        self.student, self.order = self._student(given[0] if given else None)
        one_family([names[0], self.student.name], [self.targets[0].kind, self.student.target.kind])
        self._check_shapes()
        self._check_batches()
        wanted = self._features(names)
        ports = inputs(self.student.model)
        said = Preparations(preprocess=wishes.preprocess, resize=wishes.resize, input_size=None, input_dtype=None)
        self.teachers, notes = teachers_of(self.members, ports, self.targets, said, wanted)
        self.notes += [note.replace("input → ", "student's input → ") for note in notes]
        self.notes += [f"{each.name}: {note}" for each in members if each.served for note in each.served.notes]
        self.tellings = self._tellings()
        self.data, self.labelled = self._matched(self.data)
        if self.validation is not None:
            self.validation, labelled = self._matched(self.validation)
            if self.labelled and not labelled:
                raise MismatchError("the data has labels, and the data for validation has none")
        self.random = self._random()
        for member in (*self.members, *given):
            check_order(member.name, member.model, self.data)

    # What models and options tell ------------------------------------------------------------------------------------

    def _check_options(self) -> None:
        wishes = self.wishes
        for loss in (wishes.loss, *(hint.loss for hint in wishes.hints if hint.loss not in (ATTENTION, RELATIONAL))):
            if loss is not None:
                loss_of(loss, str(self.targets[0].kind))
        if self.family == VALUES:
            for name, usual in (("temperature", TEMPERATURE), ("weighting", "fixed")):
                if getattr(wishes, name) != usual:
                    raise OptionError(f"{name} is for probabilities, and the teachers give values")

    def _student(self, given: Member | None) -> tuple[Learner, Order]:
        wishes = self.wishes
        counted = self.data.classes if isinstance(self.data, Samples) and self.family != VALUES else None
        if given is not None:
            if wishes.width != "auto":
                raise OptionError(
                    "`width` makes a student of a teacher's architecture, and a student is given; leave out one"
                )
            if given.served is not None and given.served.closed:
                raise OptionError(
                    f"student {given.name} is a SavedModel that cannot be trained: {given.served.closed}; put its variables into its Keras "
                    "model (`savedmodel lift`), and give that"
                )
            target = target_said(given, wishes.outputs, alone=False)
            shape = target.shape[-1] if target.shape else None
            order = order_of(
                self.members,
                self.targets,
                (given.name, shape, given.classes),
                wishes.classes,
                self.weights,
                counted,
            )
            self.notes += order.notes
            return Learner(name=given.name, model=given.model, target=target), order
        order = order_of(self.members, self.targets, None, wishes.classes, self.weights, counted)
        first = self.targets[0]
        wider = order.width if first.shape and order.width != first.shape[-1] else None
        leader = self._leader()
        made = (
            automatic(leader, parameters_of(self.members), "student", self.fit.seed, outputs=wider)
            if wishes.width == "auto"
            else scaled(leader, float(wishes.width), "student", self.fit.seed, outputs=wider)
        )
        self.notes += [*order.notes, made.note]
        port = next(iter(outputs(made.model).values()))
        return Learner(
            name="student", model=made.model, target=Target(port.name, port.shape[1:], first.kind), made=made
        ), order

    def _leader(self) -> Any:
        """Return the teacher of whose architecture a student is made."""
        member = self.members[0]
        if imports_of(member.model) or len(outputs(member.model)) > 1:
            why = "is a SavedModel without layers" if imports_of(member.model) else "has several outputs"
            raise OptionError(
                f"no student can be made of the architecture of {member.name}, which {why}: give a student, or name another teacher first"
            )
        member.model.name = as_layer_name(member.name)
        return member.model

    def _features(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return which layers of each teacher hints are about."""
        found = features(self.wishes.hints, names)
        for member in self.members:
            if found[member.name] and member.served is not None and member.served.closed:
                raise OptionError(
                    f"hints: teacher {member.name} is a SavedModel whose layers are not known ({member.served.closed}); leave the hint "
                    "out, or give the Keras model that it was saved from"
                )
        return found

    def _check_batches(self) -> None:
        """Refuse data that does not come in the batches that a student takes, if it takes those of one size only."""
        size = fixed(self.student.model)
        counts = [len(data) for data in (self.data, self.validation) if isinstance(data, Samples)]
        if size is not None and (self.fit.batch != size or any(count % size for count in counts)):
            raise OptionError(
                f"student {self.student.name} only takes batches of {size} samples; build it for batches of any size, or say "
                f"batch={size} and give a multiple of that"
            )

    def _check_shapes(self) -> None:
        """Refuse teachers that do not speak about the same positions."""
        wanted = self.student.target.shape
        for member, target in zip(self.members, self.targets, strict=True):
            fits = len(target.shape) == len(wanted) and all(
                None in (a, b) or a == b for a, b in zip(target.shape[:-1], wanted[:-1], strict=True)
            )
            if not fits:
                raise MismatchError(
                    f"teacher {member.name} gives {target.shape} for each sample and the student gives {wanted}",
                    advice="bring one to the form of the other, for example with the verb chain",
                )

    def _tellings(self) -> list[Telling]:
        found = []
        by_name = {teacher.name: teacher for teacher in self.teachers}
        for hint in self.wishes.hints:
            teacher = by_name[hint.of or self.teachers[0].name]
            key = f"{teacher.name}/{hint.teacher}"
            (tap,) = taps(self.student.model, hint.student)
            telling = Telling(
                hint=hint,
                key=key,
                student=tuple(tap.tensor.shape),
                teacher=teacher.shapes[teacher.keys.index(key)],
            )
            found.append(telling)
            self.notes.append(telling.note)
        return found

    def _matched(self, data: Samples | Stream) -> tuple[Samples | Stream, bool]:
        """Return data as the student takes it, and whether it has labels to learn from or to measure with."""
        if not isinstance(data, Samples):
            return data, self._fits(partial(self._check_stream, data)) if self._runs else True
        found = matched(data, self.student.model)
        if found.labels is None:
            if self.wishes.alpha is not None and self.wishes.alpha < 1:
                check_labels(found, self.student.target)  # says that there are none
            return found, False
        return found, self._fits(partial(check_labels, found, self.student.target))

    def _check_stream(self, stream: Stream) -> bool:
        """Refuse labels of the first batch of a stream that cannot be the student's; return whether there are any."""
        labels = lessons.first_labels(stream, inputs(self.student.model))
        if labels is not None:
            check_shape(labels.shape[1:], self.student.target, f"labels of {stream.name}")
        return labels is not None

    def _fits(self, check: Callable[[], bool | None]) -> bool:
        """Return whether labels can be learned from: what refuses them is said where only the teachers count."""
        try:
            return check() is not False
        except MismatchError as error:
            if self.wishes.alpha != 1:
                raise
            self.notes.append(f"labels are left aside: {error}")
            return False

    @property
    def _runs(self) -> bool:
        """Whether models have values, so that a stream may be looked into."""
        return not keras.src.backend.in_stateless_scope()

    def _random(self) -> str:
        """Return why what teachers say must not be kept, "" if it may be."""
        if not isinstance(self.data, Samples):
            return f"{self.data.name} yields batches, which may be others each time"
        for layer in layers_of(self.student.model):
            word = type(layer).__name__
            if word.startswith("Random") or word in AUGMENTING:
                return f"the student changes samples at random (layer {layer.name!r}, {word})"
        for teacher in self.teachers:
            if teacher.restless:
                return f"teacher {teacher.name} does not say the same twice: {teacher.restless}"
        return ""

    def composed(self) -> Composed:
        """Return the student, and what trains it."""
        if not self.student.model.trainable_variables:
            raise OptionError(f"nothing of the student {self.student.name} trains; unfreeze a layer of it first")
        if self.wishes.cache not in (None, False) and self.random:
            raise OptionError(
                f"what teachers say cannot be kept: {self.random}; leave out the cache, so that they are asked about what comes"
            )
        if self.random.startswith("the student"):
            self.notes.append(f"{self.random}; teachers are asked about the samples as they come, unchanged")
        made = self.student.made
        return Composed(
            model=self.student.model,
            classes=self.order.classes,
            notes=tuple(dict.fromkeys(self.notes)),
            tables={"classes": self.order.rows} if self.order.rows else {},
            finish=made.finish if made is not None else None,
            train=self._train,
        )

    # With values -----------------------------------------------------------------------------------------------------

    def _train(self, progress: Progress | None) -> Trained:
        wishes, student = self.wishes, self.student.model
        targets = {self.student.target.name: self.student.target} if self.labelled else None
        for data in (self.data, self.validation):
            if isinstance(data, Samples):
                check_values(data, targets)
                check_all(data, student, *(teacher.model for teacher in self.teachers))
        alpha = wishes.alpha if wishes.alpha is not None else ALPHA if self.labelled else 1.0
        if alpha < 1 and not self.labelled:
            raise DataError(
                f"{self.data.name} yields no labels, and alpha is {alpha:g}: give labels, or leave alpha out"
            )
        lesson = Lesson(
            kind=str(self.student.target.kind),
            floor=_floor(student),
            voices={
                teacher.name: Voice(
                    kind=str(teacher.target.kind), weight=float(weight), floor=teacher.floor, columns=columns
                )
                for teacher, weight, columns in zip(self.teachers, self.weights, self.order.columns, strict=True)
            },
            temperature=1.0 if self.family == VALUES else wishes.temperature,
            alpha=alpha,
            confident=wishes.weighting == "confidence",
            loss=wishes.loss,
            tellings=self.tellings,
            labelled=self.labelled,
        )
        for teacher in self.teachers if self.fit.jit is False else ():
            teacher.model.jit_compile = False
        key = self._key()
        feed = self._feed(progress)
        with placed(student, self.fit) as working:
            trainer = distiller(working, lesson, self.fit.seed)
            trainer.compile(
                optimizer=optimizer_for(working, self.fit.made_optimizer()),
                loss=None,
                jit_compile="auto" if self.fit.jit is None else self.fit.jit,
            )
            history = run(
                trainer,
                feed.batches,
                self.fit,
                validation=feed.validation,
                folder=wishes.folder(),
                key=key,
                progress=progress,
                verb="distill",
            )
        return Trained(notes=(*feed.notes, *_told(history)), tables={"epochs": _rows(history)})

    def _key(self) -> str:
        """Return a text for all that the run depends on."""
        data = told_apart(self.data), told_apart(self.validation)
        teachers = [teacher.digest() for teacher in self.teachers]
        return self.wishes.key(digest(self.student.model), *data, *teachers, *map(str, self.wishes.hints))

    def _feed(self, progress: Progress | None) -> Feed:
        """Return where batches come from; teachers are asked now where what they say is kept."""
        wishes = self.wishes
        feed = Feed(None, None)
        cache = None
        if wishes.cache is not False and not self.random and (wishes.cache is not None or self.fit.epochs > 1):
            folder = Path(wishes.cache).expanduser() if isinstance(wishes.cache, str) else None
            cache = Cache(folder, int(wishes.cache_limit * 2**30))
        feed.batches = self._batches(self.data, cache, feed.notes, progress, self.fit.seed)
        if self.validation is not None:
            feed.validation = self._batches(self.validation, cache, feed.notes, progress, None)
        return feed

    def _batches(
        self, data: Samples | Stream, cache: Cache | None, notes: list[str], progress: Progress | None, seed: int | None
    ) -> Any:
        student, labelled, teachers = self.student.model, self.labelled, self.teachers
        if not isinstance(data, Samples):
            return lessons.streamed(data, student, teachers, labelled=labelled, target=self.student.target)

        def asked(part: Part, places: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
            return lessons.ask(teachers, part, data.name)

        said: Says = asked
        if cache is not None:
            try:
                said = self._kept(data, cache, notes, progress)
            except OptionError as error:
                if self.wishes.cache is not None:
                    raise
                notes.append(f"teachers are asked in every epoch: {error}")
        return lessons.lessons(data, self.fit.batch, said, seed=seed, labelled=labelled)

    def _kept(self, samples: Samples, cache: Cache, notes: list[str], progress: Progress | None) -> Says:
        def tell(done: int, steps: int) -> None:
            if progress is not None:
                progress(f"distill: teachers, batch {done}/{steps}", done, steps)

        found, asked = lessons.kept(self.teachers, samples, self.fit.batch, cache, tell)
        if isinstance(self.wishes.cache, str):
            before = len(self.teachers) - asked
            notes.append(
                f"{samples.name}: {asked} of {len(self.teachers)} teachers were asked, what {before} say was in {self.wishes.cache}"
            )

        def said(part: Part, places: NDArray[np.int64]) -> Mapping[str, NDArray[Any]]:
            return {key: np.asarray(values[places]) for key, values in found.items()}

        return said


def _floor(student: Any) -> float:
    """Return what stands for a probability of zero in the dtype in which a student gives it."""
    port = next(iter(outputs(student).values()))
    return floor_of(port.dtype)


def _rows(history: History) -> list[Mapping[str, Any]]:
    return [{"epoch": number, **row} for number, row in enumerate(history.epochs, 1)]


def _told(history: History) -> list[str]:
    """Return what came out, in words."""
    best = history.epochs[history.best]
    told = ", ".join(f"{name} {value:.4g}" for name, value in best.items())
    notes = [f"the student has the weights of epoch {history.best + 1} of {len(history.epochs)}: {told}"]
    if history.resumed is not None:
        notes.append(f"the run went on after epoch {history.resumed}")
    return notes

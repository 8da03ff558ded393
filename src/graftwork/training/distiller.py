"""What is trained when a student learns from teachers: a Keras model around the student, for as long as that takes.

It computes the loss of distillation, that of the labels and those of hints, and Keras's `fit` does the rest: optimizers, callbacks, mixed
precision, XLA, any backend. The student stays what it was: it is never compiled, and no layer is added to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.compose.addresses import taps as taps_of
from graftwork.compose.graph import Graph
from graftwork.compose.naming import Names
from graftwork.compose.ports import graph_of
from graftwork.models.combining import FAMILIES
from graftwork.models.configuration import layers_of
from graftwork.models.lazy import keras
from graftwork.training.distillation import CLASSES, LABELS, TINY, Voice, averaged, divergence, mask_of, spread, taught
from graftwork.training.hints import Telling
from graftwork.training.losses import LossSpec, loss_for, loss_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What a student is to learn from.

    Attributes:
        kind: What the student's output is.
        floor: What stands for a probability of zero in the dtype that it computes in.
        voices: What each teacher says, by its key.
        temperature: At which teachers and student are compared.
        alpha: What the teachers count; the labels count the rest.
        confident: Whether each teacher counts, for each sample, by how sure it is.
        loss: The loss of the labels; None for the usual one.
        tellings: The hints.
        labelled: Whether there are labels, to learn from or to measure with.
    """

    kind: str
    floor: float = TINY
    voices: Mapping[str, Voice]
    temperature: float
    alpha: float
    confident: bool = False
    loss: LossSpec | None = None
    tellings: Sequence[Telling] = ()
    labelled: bool = True


def distiller(student: Any, lesson: Lesson, seed: int) -> Any:
    """Return the model that is trained: it takes batches as `lessons.lesson` makes them, and changes the student.

    Args:
        student: The student.
        lesson: What it is to learn.
        seed: Draws the projections of hints.
    """
    ops = keras.ops

    class Distiller(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            # what teachers say must not be rounded to the precision that a student computes in
            super().__init__(name=student.name, dtype="float32", autocast=False)
            self.student = student
            self.projections = [telling.projection(seed) for telling in lesson.tellings]
            self.told = _metrics(lesson)
            self.built = True

        def call(self, x: Any, training: bool | None = None) -> Any:
            given = keras.tree.pack_sequence_as(graph_of(student)._inputs_struct, list(x["inputs"]))
            if not lesson.tellings:
                (said,) = keras.tree.flatten(self.student(given, training=training))
                return {"said": said, "features": []}
            said, *features = _watched(student, lesson, given)
            found = [
                (feature if layer is None else _projected(layer, feature))
                for feature, layer in zip(features, self.projections, strict=True)
            ]
            return {"said": said, "features": found}

        def compute_loss(
            self,
            x: Any = None,
            y: Any = None,
            y_pred: Any = None,
            sample_weight: Any = None,
            training: bool = True,
        ) -> Any:
            parts = self.parts(x, y_pred)
            total = lesson.alpha * parts["distillation"]
            if "supervised" in parts:
                total = total + (1.0 - lesson.alpha) * parts["supervised"]
            for telling, value in zip(lesson.tellings, parts.get("hints", ()), strict=True):
                total = total + telling.hint.weight * value
            for value in self.losses:  # regularizers
                total = total + self._aggregate_additional_loss(value)
            return total

        def parts(self, x: Any, y_pred: Any) -> dict[str, Any]:
            """Return what a batch costs, by what it is for."""
            said, weights = y_pred["said"], x.get("weights")
            mask = mask_of(said)
            target, known = self.target(x)
            lost = divergence(target, said, lesson.kind, lesson.temperature, floor=lesson.floor, known=known)
            found: dict[str, Any] = {"distillation": averaged(lost, weights, mask)}
            if lesson.labelled and lesson.alpha < 1:
                counted = spread(weights, max(len(said.shape) - 1, 1))
                found["supervised"] = _supervised(lesson, x["labels"], said)(x["labels"], said, sample_weight=counted)
            if lesson.tellings:
                found["hints"] = [
                    telling.lost(feature, x["said"][telling.key], weights, mask_of(feature))
                    for telling, feature in zip(lesson.tellings, y_pred["features"], strict=True)
                ]
            return found

        def target(self, x: Any) -> Any:
            """Return what the teachers say together."""
            values = [x["said"][key] for key in lesson.voices]
            return taught(values, list(lesson.voices.values()), lesson.temperature, confident=lesson.confident)

        def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            parts, said = self.parts(x, y_pred), y_pred["said"]
            for name, metric in self.told.items():
                if name == "agreement":
                    target, _ = self.target(x)
                    metric.update_state(_decided(target, lesson.kind), said)
                elif name in parts:
                    value = parts[name]
                    metric.update_state(sum(value) if name == "hints" else value, sample_weight=ops.shape(said)[0])
                else:
                    labels = x["labels"]
                    metric.update_state(ops.argmax(labels, axis=-1) if _one_hot(labels, said, lesson) else labels, said)
            return self.get_metrics_result()

    def _projected(layer: Any, feature: Any) -> Any:
        mask = mask_of(feature)
        made = layer(ops.cast(feature, "float32"))
        if mask is not None:
            keras.src.backend.set_keras_mask(made, mask)
        return made

    return Distiller()


def _watched(student: Any, lesson: Lesson, given: Any) -> list[Any]:
    """Return what a student says and the features that hints are about."""
    found = taps_of(student, list(dict.fromkeys(telling.hint.student for telling in lesson.tellings)))
    graph = Graph(student, found)
    by_address = {tap.address: graph.same(tap.key) for tap in found}
    targets = [*graph.outputs, *(by_address[telling.hint.student] for telling in lesson.tellings)]
    ready = dict(zip(graph.inputs, graph.functional._standardize_inputs(given), strict=True))
    values = graph.run(graph.needed(targets, ready), ready, Names())
    return [values[key] for key in targets]


def _one_hot(labels: Any, said: Any, lesson: Lesson) -> bool:
    """Return whether labels of classes are a number for each class."""
    return FAMILIES[lesson.kind] == CLASSES and tuple(labels.shape[1:]) == tuple(said.shape[1:])


def _supervised(lesson: Lesson, labels: Any, said: Any) -> Any:
    """Return the loss of the labels."""
    if lesson.loss is not None:
        return loss_for(lesson.loss, lesson.kind, spread=_one_hot(labels, said, lesson))
    usual = {CLASSES: "SparseCategoricalCrossentropy", LABELS: "BinaryCrossentropy"}
    word = (
        "CategoricalCrossentropy"
        if _one_hot(labels, said, lesson)
        else usual.get(FAMILIES[lesson.kind], "MeanSquaredError")
    )
    return loss_of(word, lesson.kind)


def _decided(target: Any, kind: str) -> Any:
    """Return the classes, or labels, that teachers decide for."""
    if FAMILIES[kind] == CLASSES:
        return keras.ops.argmax(target, axis=-1)
    return keras.ops.cast(target > 0.5, "float32")


def _metrics(lesson: Lesson) -> dict[str, Any]:
    """Return what is measured beside the loss."""
    metrics = keras.metrics
    found = {"distillation": metrics.Mean("distillation")}
    if lesson.labelled and lesson.alpha < 1:
        found["supervised"] = metrics.Mean("supervised")
    if lesson.tellings:
        found["hints"] = metrics.Mean("hints")
    threshold = 0.5 if lesson.kind == "sigmoid" else 0.0
    if FAMILIES[lesson.kind] == CLASSES:
        found["agreement"] = metrics.SparseCategoricalAccuracy("agreement")
    elif FAMILIES[lesson.kind] == LABELS:
        found["agreement"] = metrics.BinaryAccuracy("agreement", threshold=threshold)
    if lesson.labelled and FAMILIES[lesson.kind] == CLASSES:
        found["accuracy"] = metrics.SparseCategoricalAccuracy("accuracy")
    elif lesson.labelled and FAMILIES[lesson.kind] == LABELS:
        found["accuracy"] = metrics.BinaryAccuracy("accuracy", threshold=threshold)
    elif lesson.labelled:
        found["mae"] = metrics.MeanAbsoluteError("mae")
    return found


def optimizer_for(student: Any, optimizer: Any) -> Any:
    """Return an optimizer for a student: where layers compute in float16, one that scales the loss so that gradients do not vanish."""
    half = any(getattr(layer, "compute_dtype", None) == "float16" for layer in layers_of(student))
    return keras.optimizers.LossScaleOptimizer(optimizer) if half else optimizer


def parameters(model: Any) -> int:
    """Return how many parameters of a model train."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)

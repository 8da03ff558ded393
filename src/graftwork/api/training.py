"""Models that are trained with data.

As in `graftwork.api.compose`, models that go in are paths or live models and stay as they are, and a plain Keras model comes out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from graftwork.api.compose import Wanted, make
from graftwork.api.sources import Model


def distill(
    teachers: Sequence[Model],
    student: Model | None = None,
    *,
    data: Any,
    validation: Any = None,
    width: float | str = "auto",
    temperature: float = 4.0,
    alpha: float | None = None,
    loss: str | Mapping[str, Any] | None = None,
    weights: Sequence[float] | Mapping[str, Any] | None = None,
    weighting: str = "fixed",
    outputs: str | Mapping[str, Any] = "auto",
    classes: Mapping[str, Any] | Sequence[Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    resize: bool | Mapping[str, Any] = False,
    hints: Mapping[str, Any] | Sequence[Any] | None = None,
    cache: bool | str | None = None,
    cache_limit: float = 4.0,
    epochs: int = 10,
    batch: int = 32,
    optimizer: str | Mapping[str, Any] = "adam",
    learning_rate: float | None = None,
    seed: int = 0,
    monitor: str | None = None,
    mode: str | None = None,
    patience: int | None = None,
    best: bool = True,
    gradient_clip: float | None = None,
    jit: bool | None = None,
    log: str | None = None,
    tensorboard: str | None = None,
    device: str | None = None,
    mixed_precision: str | None = None,
    strategy: str | None = None,
    run: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Train a student to say what teachers say, and what the labels say where there are any.

    The loss is alpha · T² · KL(teachers ‖ student), both at temperature T, plus (1 - alpha) · that of the labels. For
    models of values, the squared difference takes the place of the divergence; for independent yes and no, the
    divergence is that of each label. Logits and probabilities give the same loss on either side. Teachers are asked in
    inference mode and stay as they are; the result is the plain student.

    Args:
        teachers: Paths or live models.
        student: A path or a live model, which stays as it is: what is trained is a copy; by default one is made, see
            `width`.
        data: What to learn from: inputs, and labels where there are any.
        validation: What is measured on after every epoch, in the same form.
        width: Where no student is given, it has the architecture of the first teacher with this part of its units and
            filters; auto: as many as give it a tenth of the parameters of all teachers.
        temperature: T: at 1 teachers are imitated as they are, above it what they say of unlikely classes counts more.
        alpha: What the teachers count; the labels count the rest. By default 0.9, and 1 where there are no labels.
        loss: The loss of the labels: one of Keras, by name or class and settings; by default the usual one for what the
            student gives.
        weights: What each teacher counts, in their order or by name.
        weighting: Whether a teacher counts the same for every sample, or by how sure it is: one minus the entropy of
            what it says, divided by the largest that it could have.
        outputs: What models give, where their last operation does not tell: probabilities, logits, sigmoid,
            sigmoid_logits, regression; or one by teacher or student.
        classes: Names of classes in the order of outputs, by teacher or student, or for each teacher in turn. Each
            class is learned from the teachers that know it.
        preprocess: What the student's input goes through on its way to a teacher, by its name: tf, torch or caffe (raw
            RGB of 0 to 255 to what such a network takes), cast, gap, flatten, pad, a layer, or a list of these.
        resize: Resize images to what each teacher takes; or by teacher: true, or the size.
        hints: Layers of the student that are told what to give by layers of a teacher: the teacher's by the student's,
            or a list with `student`, `teacher`, `of` (which teacher), `loss` (attention, relational, or one of Keras;
            mse) and `weight`.
        cache: Ask the teachers once and keep what they say: in this directory, from where other runs take it, or in a
            temporary one (true). By default in a temporary one where that changes nothing; false asks in every epoch.
        cache_limit: GiB that may be kept.
        epochs: How often all samples are seen.
        batch: Samples in a batch.
        optimizer: Keras's name of an optimizer, or its configuration.
        learning_rate: Its learning rate; by default its own.
        seed: Fixes the order of samples, new weights and the states of random layers.
        monitor: What tells the best epoch: a metric of the history; by default `val_loss` with validation data, else
            `loss`.
        mode: Whether less or more of it is better; by default less, save for accuracies, AUC and the like.
        patience: After how many epochs without improvement training ends early; by default never.
        best: Keep the weights of the best epoch, not the last.
        gradient_clip: Norm that the gradient of all weights is clipped to.
        jit: Compile the step with XLA; by default as Keras decides.
        log: A CSV file that a line is added to after every epoch.
        tensorboard: A directory for TensorBoard.
        device: Where to train: `cpu`, `gpu:1`; by default where Keras does.
        mixed_precision: What layers compute in meanwhile; weights stay float32, and so does what the result computes
            in.
        strategy: Divide each batch among all devices of a kind: `mirrored`. What `fit` of this Keras cannot do is
            refused.
        run: A directory where the state of the run is kept after every epoch: a run that was killed goes on from there.
            By default `OUTPUT.run`, beside the output; it is removed once the output is written.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If models and data do not go together, with what would help.
        DataError: If the data cannot be read, or holds what no model should be trained on.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return make(
        "distill",
        {"teachers": teachers, "student": student},
        data=data,
        validation=validation,
        width=width,
        temperature=temperature,
        alpha=alpha,
        loss=loss,
        weights=weights,
        weighting=weighting,
        outputs=outputs,
        classes=classes,
        preprocess=preprocess,
        resize=resize,
        hints=hints,
        cache=cache,
        cache_limit=cache_limit,
        epochs=epochs,
        batch=batch,
        optimizer=optimizer,
        learning_rate=learning_rate,
        seed=seed,
        monitor=monitor,
        mode=mode,
        patience=patience,
        best=best,
        gradient_clip=gradient_clip,
        jit=jit,
        log=log,
        tensorboard=tensorboard,
        device=device,
        mixed_precision=mixed_precision,
        strategy=strategy,
        run=run,
        **wanted,
    )

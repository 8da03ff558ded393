"""Models that are trained with data.

As in `graftwork.api.compose`, models that go in are paths or live models and stay as they are, and a plain Keras model comes out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

from graftwork.api.compose import Wanted, make
from graftwork.api.sources import Model, Progress
from graftwork.data import open_data
from graftwork.errors import OptionError
from graftwork.judging import EvaluationPlan, check_evaluation, save_evaluation
from graftwork.models.custom import Custom, known
from graftwork.training.evaluating import evaluate as judged
from graftwork.training.evaluation import Evaluation
from graftwork.writing import Target


def distill(
    teachers: Sequence[Model],
    student: Model | None = None,
    data: Any = None,
    *,
    validation: Any = None,
    x: Any = None,
    y: str | None = None,
    width: float | str = "auto",
    temperature: float = 4.0,
    alpha: float | None = None,
    loss: str | Mapping[str, Any] | None = None,
    weights: Sequence[float] | Mapping[str, Any] | None = None,
    weighting: str = "fixed",
    outputs: str | Mapping[str, Any] = "auto",
    signatures: Mapping[str, str] | None = None,
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
        teachers: Paths or live models; a SavedModel is asked through a signature of it.
        student: A path or a live model, which stays as it is: what is trained is a copy; by default one is made, see
            `width`.
        data: What to learn from: inputs, and labels where there are any.
        validation: What is measured on after every epoch, in the same form.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
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
            sigmoid_logits, regression; or one by teacher or student, by output, or by `teacher.output`, which also says
            which of several outputs teaches.
        signatures: Which signature of a SavedModel is asked, by teacher; by default the one for serving, or the only
            one.
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
        optimizer: Keras's name of an optimizer, a class and its settings, or its configuration.
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
        x=x,
        y=y,
        width=width,
        temperature=temperature,
        alpha=alpha,
        loss=loss,
        weights=weights,
        weighting=weighting,
        outputs=outputs,
        signatures=signatures,
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


def recalibrate(
    model: Model,
    data: Any,
    *,
    x: Any = None,
    y: str | None = None,
    layers: str | Sequence[str] | None = None,
    normalizations: bool = False,
    batch: int = 32,
    kept: float = 4.0,
    device: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Give BatchNormalization layers the means and variances that they have on data, as merged weights need it.

    Both are exact: over all samples and positions, in inference mode, once every layer before has its own. Neither the
    size of batches nor the order of samples plays a part, labels are not needed, and no other weight changes.

    Args:
        model: A path or a live model.
        data: Samples like those that the model is for; labels are not looked at.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
        layers: Paths of layers to keep to, with * and the like; a nested model stands for all its layers. By default
            all BatchNormalization.
        normalizations: Whether adapted Normalization layers get new statistics as well.
        batch: How many samples are run at a time; it does not change the result.
        kept: GiB of what layers give that are kept on the disk between passes; 0 computes it anew in each.
        device: Where the model runs: `cpu`, `gpu:1`; by default where Keras does.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the data does not go into the model.
        DataError: If the data cannot be read, or a layer is called with NaN or infinity.
        OptionError: If there is nothing to re-estimate, or a layer is called where its values cannot be seen.
        UnknownNameError: If a pattern matches no layer.
    """
    return make(
        "recalibrate",
        [model],
        data=data,
        x=x,
        y=y,
        layers=layers,
        normalizations=normalizations,
        batch=batch,
        kept=kept,
        device=device,
        **wanted,
    )


def finetune(
    trunk: Model,
    data: Any,
    *,
    validation: Any = None,
    old: Any = None,
    x: Any = None,
    y: str | None = None,
    head: Any = "linear",
    at: str | None = None,
    port: str | None = None,
    hidden: Sequence[int] = (),
    activation: str | None = None,
    outputs: str = "auto",
    loss: str | Mapping[str, Any] | None = None,
    penalty: float = 1.0,
    cache: bool | None = None,
    unfreeze: int | str | Sequence[int] | Sequence[str] | None = None,
    batchnorm: bool = False,
    fine_epochs: int | None = None,
    fine_learning_rate: float | Sequence[float] | None = None,
    l2_sp: float = 0.0,
    interpolate: float | str | None = None,
    name: str | None = None,
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
    """Train a new head on what a model gives and then, if asked for, the last layers of the model with it.

    While only the head trains, the model below it is frozen and run once over the data; what it gives is kept on
    the disk, unless something random stands in it. One plain model comes out.

    Args:
        trunk: A path or a live model, which stays as it is.
        data: What to learn from: inputs and labels.
        validation: What is measured on after every epoch, in the same form.
        old: Data of the task that the model was trained for: what it forgets of that is measured. Labels are looked
            at where they fit what it gives.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
        head: A number of units (softmax; sigmoid for one), a layer, a model, a list of these; or a word, for as
            many units as the labels ask for: linear, mlp, conv (a convolution, pooling, linear), logistic (linear,
            solved by scikit-learn instead of trained), own (the last layer with weights that the model has).
        at: What the head stands on: the address of a tensor, such as `global_pool`. By default what the model
            gives; where these are probabilities, the last layer with weights goes, and the head stands where that
            stood.
        port: Which output the head takes the place of, where the model has several; the others go.
        hidden: Units of Dense layers with relu before the head; of an mlp 256 by default.
        activation: The activation of the head, where it is a number of units or a word: `linear` for values without
            bounds.
        outputs: What the head gives, where its last operation does not tell: probabilities, logits, sigmoid,
            sigmoid_logits, regression.
        loss: One of Keras, by name or class and settings; by default the usual one for what the head gives.
        penalty: How strongly a logistic head is kept from large weights: the inverse of scikit-learn's C.
        cache: Run the model below the head once, and keep what it gives on the disk while the head trains: by
            default where that changes nothing; true refuses where it would, false never does it.
        unfreeze: What trains afterwards, with the head: so many layers with weights from the top, or those that
            paths match (`*` for all). Several numbers are as many stages, one after the other.
        batchnorm: Whether BatchNormalization among these layers trains as well; its statistics then follow the new
            data.
        fine_epochs: Epochs of each of these stages; by default as many as of the head.
        fine_learning_rate: Their learning rate, or one for each; by default a tenth of the one before.
        l2_sp: How strongly layers of the model are kept near where they began: half of this times the squared
            distance is added to the loss.
        interpolate: Give the result weights between those before layers were unfrozen (0) and those at the end (1):
            this far on the way, or where the loss on `validation` is least.
        name: What the result is called; by default as the model.
        epochs: How often all samples are seen.
        batch: Samples in a batch.
        optimizer: Keras's name of an optimizer, a class and its settings, or its configuration.
        learning_rate: Its learning rate; by default its own.
        seed: Fixes the order of samples, new weights and the states of random layers.
        monitor: What tells the best epoch: a metric of the history; by default `val_loss` with validation data,
            else `loss`.
        mode: Whether less or more of it is better; by default less, save for accuracies, AUC and the like.
        patience: After how many epochs without improvement training ends early; by default never.
        best: Keep the weights of the best epoch, not the last.
        gradient_clip: Norm that the gradient of all weights is clipped to.
        jit: Compile the step with XLA; by default as Keras decides.
        log: A CSV file that a line is added to after every epoch.
        tensorboard: A directory for TensorBoard.
        device: Where to train: `cpu`, `gpu:1`; by default where Keras does.
        mixed_precision: What layers compute in meanwhile; weights stay float32, and so does what the result
            computes in.
        strategy: Divide each batch among all devices of a kind: `mirrored`. What `fit` of this Keras cannot do is
            refused.
        run: A directory where the state of the run is kept after every epoch: a run that was killed goes on from
            there. By default `OUTPUT.run`, beside the output; it is removed once the output is written.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If model and data do not go together, with what would help.
        DataError: If the data cannot be read, or holds what no model should be trained on.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return make(
        "finetune",
        {"trunk": trunk},
        data=data,
        validation=validation,
        old=old,
        x=x,
        y=y,
        head=head,
        at=at,
        port=port,
        hidden=hidden,
        activation=activation,
        outputs=outputs,
        loss=loss,
        penalty=penalty,
        cache=cache,
        unfreeze=unfreeze,
        batchnorm=batchnorm,
        fine_epochs=fine_epochs,
        fine_learning_rate=fine_learning_rate,
        l2_sp=l2_sp,
        interpolate=interpolate,
        name=name,
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


def evaluate(
    models: Sequence[Model] | Model,
    data: Any,
    *,
    output: str | PathLike[str] | None = None,
    names: Sequence[str] | None = None,
    x: Any = None,
    y: str | None = None,
    outputs: str | Mapping[str, str] = "auto",
    classes: Mapping[str, Sequence[str]] | None = None,
    labels: Mapping[str, str] | None = None,
    top: int = 5,
    batch: int = 32,
    bins: int = 15,
    timed: bool = True,
    device: str | None = None,
    custom_objects: Custom | None = None,
    safe_mode: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Say how good models are on data: every figure that their outputs ask for, agreement, time and size.

    Figures are those of scikit-learn on the same predictions. Several models in files are loaded one after the other, each for a pass
    of its own over the data, which a stream has only one of. Models stay as they are.

    Args:
        models: Paths in any format that loads, SavedModels among them, or live models.
        data: Samples with labels: arrays ``(x, y)``, a file, a directory of images, a description, or something that yields batches.
        output: A ``.json`` file to write the figures to as well.
        names: What the models are called; by default their files' or their own names.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
        outputs: What models give where their last operation does not tell: a kind, or kinds by model, output or model.output.
        classes: Names of each model's classes in the order of its outputs, by model; by default those of the data.
        labels: The column of labels of each output; by default y, or y.NAME for output NAME.
        top: k of the top-k accuracy.
        batch: Samples dealt with at a time.
        bins: Bins of confidence that calibration is measured in.
        timed: Whether to measure how long models take.
        device: Where models run: `cpu`, `gpu:1`; by default where Keras does.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        safe_mode: Whether code in files (of a Lambda layer) is refused; without it, loading runs that code.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is.

    Raises:
        MismatchError: If samples are not what a model takes, or models speak about different things.
        DataError: If the data cannot be read, or holds NaN, or labels that are none.
        OptionError: If it is not known what an output gives, or an option makes no sense.
        StoreError: If a model cannot be loaded.
        OutputError: If the output cannot be written.
    """
    given: list[Any] = list(models) if isinstance(models, list | tuple) else [models]
    if names is not None and len(names) != len(given):
        raise OptionError(f"{len(names)} names are given for {len(given)} models")
    target = Target(path=Path(output), overwrite=overwrite) if output is not None else None
    samples = open_data(data, x=x, y=y)
    if target is not None:
        paths = tuple((str(model), Path(model)) for model in given if isinstance(model, str | PathLike))
        check_evaluation(EvaluationPlan(models=paths, data=samples), target)
    found = judged(
        given if names is None else dict(zip(names, given, strict=True)),
        samples,
        outputs=outputs,
        classes=classes,
        labels=labels,
        top=top,
        batch=batch,
        bins=bins,
        timed=timed,
        device=device,
        custom_objects=known(custom_objects),
        safe_mode=safe_mode,
        progress=progress,
    )
    if target is not None:
        found = replace(found, notes=(*found.notes, *save_evaluation(found, target)))
    return found

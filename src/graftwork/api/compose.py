"""Graphs: models loaded, copied, chained, taken apart and put together.

Every function here makes a plain Keras model. Models that go in are paths or live models; they are copied, never changed, and stand in the
result as layers under names of their own. What all of them take beside their own options is `Wanted`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from graftwork.api.sources import Model, Progress
from graftwork.compose.naming import Names
from graftwork.composing import Source, compose, plan_composition, write_composition
from graftwork.errors import OptionError
from graftwork.models import live
from graftwork.models.custom import Custom, known
from graftwork.recipe.composition import verb_of
from graftwork.stores import label_of, open_store
from graftwork.training.verbs import Verb
from graftwork.writing import Result, Target

Models = Sequence[Model] | Mapping[str, Any]
"""Models in the order of a verb's arguments, or by the names of these."""


class Wanted(TypedDict, total=False):
    """What every verb takes beside its own options.

    Attributes:
        output: Where to write the result; the ending says the format. Without it the live model is returned.
        names: What the models are called in options, messages and the result; by default their files' or their own names.
        custom_objects: Classes and functions that Keras does not know: by name, or Python files or modules that define them, which are run.
        share: Let live models themselves go in, not copies: training the result trains them.
        check: Load the written result in a fresh process, and compare it there with what the models say one by one.
        export: Also write the result for another runtime, beside the output: ``"saved_model"``, ``"onnx"`` or ``"litert"``.
        format: Name of the output's format, where its ending does not tell.
        overwrite: Whether an existing output may be replaced.
        progress: Told how far the work is.
        report: A list to which what the user should know is added, one sentence each.
        on_result: Told what was written.
    """

    output: str | PathLike[str] | None
    names: Sequence[str] | None
    custom_objects: Custom | None
    share: bool
    check: bool
    export: str | None
    format: str | None
    overwrite: bool
    progress: Progress | None
    report: list[str] | None
    on_result: Callable[[Result], None] | None


def make(verb: str, models: Models, **wanted: Any) -> Any:
    """Do what a verb says; the functions below are this with a verb each.

    Args:
        verb: ``"ensemble"``, ``"chain"`` and so on.
        models: The models that go in, in the order of the verb's arguments, or by these.
        **wanted: The verb's options, and what `Wanted` says.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        GraftworkError: If the verb refuses.
    """
    general = {key: wanted.pop(key) for key in list(wanted) if key in Wanted.__annotations__}
    return _made(verb, models, general, **wanted)


def chain(
    models: Sequence[Model],
    *,
    adapters: Mapping[str, Any] | None = None,
    connect: Mapping[str, Any] | None = None,
    inline: bool = False,
    name: str = "chain",
    **wanted: Unpack[Wanted],
) -> Any:
    """Put models one behind the other: what one gives goes into the next.

    A single output goes to a single input; where a model has several, those of the same name meet, and `connect`
    says what else. The result takes what the first model takes and gives what the last one gives.

    Args:
        models: Paths or live models, in order.
        adapters: What stands between two models where the output of one does not fit the other, by ``a:b``: dense, gap,
            flatten, resize, cast, pad, a layer, or a list of these.
        connect: Which output goes to an input, by ``model.input``: ``{b.text: a.features}``; ``input`` makes it an
            input of the result.
        inline: Put the layers of all models in one graph, named after their model, instead of each model as one layer.
        name: What the result is called.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("chain", models, wanted, adapters=adapters, connect=connect, inline=inline, name=name)


def ensemble(
    models: Sequence[Model],
    *,
    combine: str | Mapping[str, Any] = "mean",
    weights: Sequence[float] | Mapping[str, Any] | None = None,
    outputs: str | Mapping[str, Any] = "auto",
    normalize: bool = False,
    classes: Mapping[str, Any] | Sequence[Any] | None = None,
    preprocess: Mapping[str, Any] | None = None,
    resize: bool | Mapping[str, Any] = False,
    input_size: int | Sequence[int] | None = None,
    input_dtype: str | None = None,
    inputs: str = "shared",
    stack_weights: bool = False,
    inline: bool = False,
    name: str = "ensemble",
    **wanted: Unpack[Wanted],
) -> Any:
    """Run models on the same input and combine what they give.

    Members with one output each are combined whatever it is called; where they have several, those of the same name
    are. Outputs of one kind are combined as they are; where some members give logits and others probabilities,
    logits are turned into probabilities first. Combining is done in float32 whatever the members compute in
    (float64 where one of them does). NaN of a member stays NaN.

    Args:
        models: Paths or live models, in order.
        combine: How: mean, geometric (the mean of log-probabilities, normalised), median, max, min, product (of
            probabilities, normalised), vote (the share of members for which a class is the likeliest, the first one where
            several are), concat; or one for each output.
        weights: What each member counts in a mean, a geometric mean or a vote: in the order of the members, or by name.
            They are divided by their sum.
        outputs: What the members' outputs are, where their last operation does not tell: probabilities, logits,
            sigmoid, sigmoid_logits, regression; or one by member, by output, or by `member.output`.
        normalize: Divide probabilities by their sum, which is not 1 after a median, max or min, or where members know
            different classes.
        classes: Names of each member's classes in the order of its outputs. The result has the union of all; each class
            is combined over the members that know it.
        preprocess: What the raw input goes through on its way to a member, by its name: tf, torch or caffe (raw RGB of
            0 to 255 to what such a network takes), cast, gap, flatten, pad, dense, a layer, or a list of these.
        resize: Resize images to what each member takes; or by member: true, or the size.
        input_size: Height and width of the raw images, 0 for any; by default as the first member takes them of which
            nothing is said, else the first.
        input_dtype: Dtype of the raw input, such as uint8; by default as of `input_size`.
        inputs: Give all members the same input, or each an input of its own.
        stack_weights: Lay the weights of members side by side, one multiplication for all: for chains of Dense layers of one
            architecture, on one input.
        inline: Put the layers of all models in one graph, named after their model, instead of each model as one layer.
        name: What the result is called.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made(
        "ensemble",
        models,
        wanted,
        combine=combine,
        weights=weights,
        outputs=outputs,
        normalize=normalize,
        classes=classes,
        preprocess=preprocess,
        resize=resize,
        input_size=input_size,
        input_dtype=input_dtype,
        inputs=inputs,
        stack_weights=stack_weights,
        inline=inline,
        name=name,
    )


def extract(
    model: Model,
    at: Any,
    *,
    start: Any = None,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Take the part of a model that leads to tensors inside it, from its inputs or from other tensors inside.

    The result has the layers in between with their weights. Nested models are opened where an address leads into
    them, else kept as they are.

    Args:
        model: A path or a live model.
        at: What the result gives: the address of a tensor, such as `conv5_block3_out`, `encoder/block_2`, `shared#2`
            (its second call) or `lstm[1]` (its second output); several; or addresses by the names they get.
        start: The tensors that are the inputs of the result, as for `at`; by default the inputs of the model.
        name: What the result is called; by default as the model.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("extract", [model], wanted, at=at, start=start, name=name)


def freeze(
    model: Model,
    *,
    layers: str | Sequence[str] = "*",
    **wanted: Unpack[Wanted],
) -> Any:
    """Freeze layers: their weights, and the statistics of BatchNormalization, stay as they are to the last bit.

    That holds after training other layers, and after saving and loading as well. Nested models are frozen layer by
    layer.

    Args:
        model: A path or a live model.
        layers: Which layers, by their paths: ``block_5_*``, ``member/block_5_*``, or ``re:`` and a regular expression;
            several in a list.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("freeze", [model], wanted, layers=layers)


def fuse(
    models: Sequence[Model],
    taps: Any,
    head: Any,
    *,
    hidden: Sequence[int] | None = None,
    activation: str | None = None,
    pool: str | Mapping[str, Any] = "auto",
    freeze: bool = True,
    inputs: str = "shared",
    inline: bool = False,
    name: str = "fusion",
    **wanted: Unpack[Wanted],
) -> Any:
    """Put a new head on features from inside several models, to be trained.

    Of each model, all that leads to its features is kept, with its weights; the rest is left out. Features with
    positions (images, sequences) are pooled, all are concatenated and go through the head. The models stay as they
    are, unless `freeze` is off.

    Args:
        models: Paths or live models, in order.
        taps: Which features: for each model, in order or by name, the address of a tensor (`global_pool`,
            `encoder/block_2`) or several.
        head: A number of units (softmax; sigmoid for one), a layer, a model, or a list of these.
        hidden: Units of Dense layers with relu before the head.
        activation: The activation of the head, where it is a number of units: `linear` for values without bounds.
        pool: What becomes of positions, for all models or by name: `auto` and `gap` average over them, `gmp` takes the
            largest, `flatten` keeps all in a row, `none` leaves features alone.
        freeze: Keep the models' weights, and the statistics of their BatchNormalization, as they are.
        inputs: `shared` where the models take the same; `separate` where each has inputs of its own.
        inline: Put the layers of all models in one graph, named after their model, instead of each model as one layer.
        name: What the result is called.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made(
        "fuse",
        models,
        wanted,
        taps=taps,
        head=head,
        hidden=hidden,
        activation=activation,
        pool=pool,
        freeze=freeze,
        inputs=inputs,
        inline=inline,
        name=name,
    )


def graft(
    host: Model,
    donor: Model,
    at: str | Sequence[str],
    *,
    start: str | Sequence[str] | None = None,
    donor_at: str | Sequence[str] | None = None,
    donor_start: str | Sequence[str] | None = None,
    adapters: Mapping[str, Any] | None = None,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Put a piece of the donor in the place of a piece of the host; what is around it keeps its weights.

    Each piece lies between tensors: from `start` to `at` in the host, from `donor_start` to `donor_at` in the
    donor. By default a piece begins at its model's inputs, and the donor's ends at its outputs. Several tensors go
    in the order in which they are named; where they are not named, they meet by the names of inputs and outputs.

    Args:
        host: A path or a live model.
        donor: A path or a live model.
        at: The tensors of the host that the donor's piece makes from now on: one address or several.
        start: Where the host's piece begins: the tensors that the donor's piece takes.
        donor_at: Where the donor's piece ends.
        donor_start: Where the donor's piece begins.
        adapters: What stands where the two do not fit, by `host:donor` (into the piece) and `donor:host` (behind it):
            dense, gap, flatten, resize, cast, pad, a layer, or a list of these.
        name: What the result is called; by default as the host.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made(
        "graft",
        [host, donor],
        wanted,
        at=at,
        start=start,
        donor_at=donor_at,
        donor_start=donor_start,
        adapters=adapters,
        name=name,
    )


def insert(
    model: Model,
    layer: Any,
    *,
    after: str | None = None,
    before: str | None = None,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Put a layer, or several, into a model; everything else keeps its weights.

    What is behind must be able to go on: the new tensor has the shape of the one in whose place it is, unless that
    is an output.

    Args:
        model: A path or a live model.
        layer: What is inserted: `Dropout`, `{Dropout: {rate: 0.5}}`, a layer that has no weights yet, a model, or a
            list of these.
        after: The address of a tensor: all that takes it takes what the new layer makes of it.
        before: The address of a layer, or of one of its calls: it alone takes what the new layer makes of its input.
        name: What the result is called; by default as the model.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("insert", [model], wanted, layer=layer, after=after, before=before, name=name)


def remove(
    model: Model,
    at: str | Sequence[str],
    *,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Take layers out of a model: what takes their output takes their input instead; everything else keeps its weights.

    Only layers that give what they take, as far as shape and dtype tell, can be taken out.

    Args:
        model: A path or a live model.
        at: The address of a layer, of one of its calls (`dropout#2`), or of a nested model; or several. Without a
            number, every call goes.
        name: What the result is called; by default as the model.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("remove", [model], wanted, at=at, name=name)


def rename(
    model: Model,
    *,
    mapping: Mapping[str, Any] | None = None,
    prefix: str = "",
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Give layers, or a model, other names; nothing else changes.

    Where inputs or outputs are a dictionary whose keys are the names of layers, the keys change with them.

    Args:
        model: A path or a live model.
        mapping: The new name of a layer by its address: `{dense: logits, encoder/dense: projection}`.
        prefix: What is put before the name of every layer but the inputs, and but those inside nested models; `a_`
            makes `dense` `a_dense`.
        name: What the model is called; by default as before.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("rename", [model], wanted, mapping=mapping, prefix=prefix, name=name)


def replace(
    model: Model,
    at: str,
    layer: Any,
    *,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Put another layer in the place of one; everything else keeps its weights.

    The new layer starts with new weights, whatever it replaces. It is called as often and on the same tensors, and
    what it gives must have the shape that what is behind takes, unless it is an output.

    Args:
        model: A path or a live model.
        at: The address of a layer, of one of its calls (`dense#2`), or of a nested model. Without a number, every call
            is replaced.
        layer: What comes in its place: `ReLU`, `{Dense: {units: 10}}`, a layer that has no weights yet, a model, or a
            list of these. A layer that is given no name gets that of the one it replaces.
        name: What the result is called; by default as the model.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("replace", [model], wanted, at=at, layer=layer, name=name)


def split(
    model: Model,
    at: Any,
    *,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Cut a model in two: a trunk that ends at tensors inside it, and a head that begins there. Chained, they are the model again.

    A cut past which something goes (a skip connection, a mask) is refused, with what passes by and the nearest
    tensors that everything goes through. The head is written beside the trunk.

    Args:
        model: A path or a live model.
        at: Where: the address of a tensor; or several, past which nothing goes: then trunk and head pass them by name.
        name: What the trunk is called; by default as the model, with `_trunk` behind. The head is called so with
            `_head` behind.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("split", [model], wanted, at=at, name=name)


def stack(
    models: Sequence[Model],
    *,
    head: Any = None,
    hidden: Sequence[int] | None = None,
    activation: str | None = None,
    freeze: bool = True,
    inputs: str = "shared",
    inline: bool = False,
    name: str = "stack",
    **wanted: Unpack[Wanted],
) -> Any:
    """Put a new head on what models give side by side, to be trained: it learns whom to believe when.

    The models' outputs are concatenated and go through the head. The models themselves stay as they are, unless
    `freeze` is off.

    Args:
        models: Paths or live models, in order.
        head: A number of units (softmax; sigmoid for one), a layer, a model, or a list of these; by default as many
            units as each model gives.
        hidden: Units of Dense layers with relu before the head.
        activation: The activation of the head, where it is a number of units: `linear` for values without bounds.
        freeze: Keep the models' weights, and the statistics of their BatchNormalization, as they are.
        inputs: `shared` where the models take the same; `separate` where each has inputs of its own.
        inline: Put the layers of all models in one graph, named after their model, instead of each model as one layer.
        name: What the result is called.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made(
        "stack",
        models,
        wanted,
        head=head,
        hidden=hidden,
        activation=activation,
        freeze=freeze,
        inputs=inputs,
        inline=inline,
        name=name,
    )


def swap_head(
    model: Model,
    head: Any,
    *,
    at: str | None = None,
    hidden: Sequence[int] | None = None,
    activation: str | None = None,
    port: str | None = None,
    freeze: bool = False,
    name: str | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Replace the last layers of a model by a new head, to be trained for another task.

    By default the last layer with weights goes, and all that follows it: what it stood on is what the new head
    stands on.

    Args:
        model: A path or a live model.
        head: A number of units (softmax; sigmoid for one), a layer, a model, or a list of these.
        at: What the new head stands on: the address of a tensor, such as `global_pool` or `encoder/block_2`.
        hidden: Units of Dense layers with relu before the head.
        activation: The activation of the head, where it is a number of units: `linear` for values without bounds.
        port: Which output gets the new head, where the model has several; the others stay.
        freeze: Keep the weights of all other layers, and the statistics of their BatchNormalization, as they are.
        name: What the result is called; by default as the model.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made(
        "swap_head",
        [model],
        wanted,
        head=head,
        at=at,
        hidden=hidden,
        activation=activation,
        port=port,
        freeze=freeze,
        name=name,
    )


def to_logits(
    model: Model,
    *,
    outputs: str | Mapping[str, Any] = "auto",
    only: Sequence[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Make a model give logits instead of probabilities.

    The last softmax or sigmoid is taken off, with the same weights, so that softmax (or sigmoid) of what the model
    gives then is what it gave before. Where it cannot be taken off, since something else depends on it, the result
    gives logarithms of the probabilities.

    Args:
        model: A path or a live model.
        outputs: What the model gives, where its last operation does not tell: probabilities, logits, sigmoid,
            sigmoid_logits, regression; or one by output.
        only: Which outputs; by default all that are probabilities.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("to_logits", [model], wanted, outputs=outputs, only=only)


def to_probabilities(
    model: Model,
    *,
    outputs: str | Mapping[str, Any] = "auto",
    only: Sequence[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Any:
    """Make a model give probabilities instead of logits: a softmax (or sigmoid) in float32 behind it.

    Args:
        model: A path or a live model.
        outputs: What the model gives, where its last operation does not tell: probabilities, logits, sigmoid,
            sigmoid_logits, regression; or one by output.
        only: Which outputs; by default all that are logits.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("to_probabilities", [model], wanted, outputs=outputs, only=only)


def unfreeze(
    model: Model,
    *,
    layers: str | Sequence[str] = "*",
    from_layer: str | None = None,
    batchnorm: bool = False,
    **wanted: Unpack[Wanted],
) -> Any:
    """Let layers train again, except for BatchNormalization, whose statistics would move: it stays as it is unless asked for.

    Args:
        model: A path or a live model.
        layers: Which layers, by their paths: ``block_5_*``, ``member/block_5_*``, or ``re:`` and a regular expression;
            several in a list.
        from_layer: Of those, only this layer and the ones after it, by its path; layers are in the order in which the
            model lists them.
        batchnorm: Whether BatchNormalization trains as well; its statistics then follow the new data.
        **wanted: See `Wanted`.

    Returns:
        The path of the output, or a live `keras.Model`.

    Raises:
        MismatchError: If the models do not go together, with what would help.
        OptionError: If an option makes no sense.
        UnknownNameError: If an option names what is not there.
    """
    return _made("unfreeze", [model], wanted, layers=layers, from_layer=from_layer, batchnorm=batchnorm)


# What the functions above share ----------------------------------------------------------------------------------------


def _made(verb: str, models: Models, wanted: Mapping[str, Any], **options: Any) -> Any:
    """Return what a verb makes of models: a live model, or the path where it is written."""
    chosen = verb_of(verb, {name: value for name, value in options.items() if value is not None})
    unknown = set(wanted) - set(Wanted.__annotations__)
    if unknown:
        raise TypeError(f"{verb}() got an unexpected keyword argument {min(unknown)!r}")
    custom_objects, target = known(wanted.get("custom_objects")), target_of(wanted)
    with sources_of(models, wanted, type(chosen)) as sources:
        if target is None:
            composed = compose(chosen, sources, custom_objects, wanted.get("progress"))
            _say(wanted, composed.notes)
            return (composed.model, *composed.more.values()) if composed.more else composed.model
        plan = plan_composition(chosen, sources, custom_objects)
        result = write_composition(plan, target, wanted.get("progress"), export=wanted.get("export"))
        _say(wanted, result.notes)
        if wanted.get("on_result") is not None:
            wanted["on_result"](result)
        return result.path


def _say(wanted: Mapping[str, Any], notes: Sequence[str]) -> None:
    if wanted.get("report") is not None:
        wanted["report"].extend(notes)


def target_of(wanted: Mapping[str, Any]) -> Target | None:
    """Return where a result goes, or None where the live model is wanted."""
    if wanted.get("output") is None:
        return None
    return Target(
        path=Path(wanted["output"]),
        format=wanted.get("format"),
        overwrite=bool(wanted.get("overwrite", False)),
        check=bool(wanted.get("check", True)),
    )


@contextlib.contextmanager
def sources_of(given: Models, wanted: Mapping[str, Any], verb: type[Verb]) -> Iterator[list[Source]]:
    """Yield the sources that models are, files open, each under a name of its own."""
    if isinstance(given, str | PathLike) or live.is_live(given):
        raise OptionError("`models` is one model; give a list of models")
    if not isinstance(given, Mapping):
        given = {verb.takes[0]: given} if verb.takes[0] in verb.lists else dict(zip(verb.takes, given, strict=False))
    roles = verb.roles(given)
    models = [model for _, model in roles]
    names = wanted.get("names")
    if names is not None and len(names) != len(models):
        raise OptionError(f"{len(names)} names are given for {len(models)} models")
    taken = Names()
    with contextlib.ExitStack() as stack:
        found = []
        for position, model in enumerate(models):
            if isinstance(model, str | PathLike):
                reader = stack.enter_context(open_store(Path(model)))
                label = names[position] if names is not None else label_of(Path(model))
                found.append(Source(name=taken.fresh(label), reader=reader, role=roles[position][0]))
            elif live.is_live(model):
                label = names[position] if names is not None else model.name
                shared = bool(wanted.get("share", False))
                found.append(Source(name=taken.fresh(label), model=model, shared=shared, role=roles[position][0]))
            else:
                raise OptionError(f"model {position} is a {type(model).__name__}, expected a path or a keras.Model")
        yield found

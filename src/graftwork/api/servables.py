"""SavedModels put together, and frozen graphs made into them.

Sources stay as they are. The result is run in a fresh process beside its parts, in a session and as TensorFlow 2 loads it, before it takes
its name. What every function takes beside its own options is `graftwork.api.steps.Wanted`.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Unpack

from graftwork.api.steps import Wanted, perform


def combine(
    models: Sequence[str | PathLike[str]],
    *,
    rename: Mapping[str, str] | None = None,
    default: str | None = None,
    examples: str | PathLike[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Path:
    """Put several SavedModels into one servable: the signatures of all of them, side by side.

    A signature keeps its name where no other one has it, else it is ``label_signature``. Variables, tables, files and functions of the
    parts stay as they are, each part under its label.

    Args:
        models: The SavedModels.
        rename: Names of signatures in the result, by ``label.signature``.
        default: Which signature is served where none is named: ``label.signature``, or a label; by default that of the first that has one.
        examples: An ``.npz`` file with inputs for the comparison with the parts, by their names or by ``signature/input``; by default
            random ones.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        OptionError: If two signatures would have one name.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, needs what is not in it, or the result does not do what its parts do.
        UnknownNameError: If a signature is named that there is not.
    """
    choices = {
        "rename": dict(rename or {}),
        "default": default,
        "examples": _text(examples),
    }
    return perform("savedmodel_combine", {"models": list(models)}, choices, wanted)


def chain(
    models: Sequence[str | PathLike[str]],
    *,
    connect: Mapping[str, str] | None = None,
    signatures: Mapping[str, str] | None = None,
    examples: str | PathLike[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Path:
    """Put SavedModels one behind the other: what one gives goes into the next.

    A single output goes to a single input; where a signature has several, those of the same name meet, and `connect` says what else. The
    result takes what the first takes and gives what the last one gives.

    Args:
        models: The SavedModels, in this order.
        connect: Which output goes to an input, by ``model.input``: ``{b.text: a.features}``; ``input`` makes it an input of the result.
        signatures: Which signature of a SavedModel is called, by its label; by default the one for serving, or the only one.
        examples: An ``.npz`` file with inputs for the comparison with the parts, by their names; by default random ones.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If an output does not fit the input that it goes to, or it is not clear which does.
        OptionError: If an option makes no sense.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, needs what is not in it, or the result does not do what its parts do.
        UnknownNameError: If a part, signature, input or output is named that there is not.
    """
    choices = {
        "connect": dict(connect or {}),
        "signatures": dict(signatures or {}),
        "examples": _text(examples),
    }
    return perform("savedmodel_chain", {"models": list(models)}, choices, wanted)


def ensemble(
    models: Sequence[str | PathLike[str]],
    *,
    combine: str | Mapping[str, str] = "mean",
    weights: Sequence[float] | Mapping[str, float] | None = None,
    outputs: str | Mapping[str, str] = "auto",
    signatures: Mapping[str, str] | None = None,
    examples: str | PathLike[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Path:
    """Run SavedModels on the same input and combine what they give.

    Signatures with one output each are combined whatever it is called; where they have several, those of the same name are. Their numbers
    of classes must agree. Outputs of one kind are combined as they are; where some are logits and others probabilities, logits are turned
    into probabilities first. Computed in float32 (float64 where one of them is). NaN of a part stays NaN.

    Args:
        models: The SavedModels.
        combine: How: mean, geometric (the mean of log-probabilities, normalised), median, max, min, product (of probabilities, normalised),
            vote (the share of parts for which a class is the likeliest, the first one where several are), concat; or one for each output.
        weights: What each counts in a mean, a geometric mean or a vote: in their order, or by label. They are divided by their sum.
        outputs: What the outputs are, where their last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression;
            or one by label, by output, or by ``label.output``.
        signatures: Which signature of a SavedModel is called, by its label; by default the one for serving, or the only one.
        examples: An ``.npz`` file with inputs for the comparison with the parts, by their names; by default random ones.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If inputs or outputs do not go together.
        OptionError: If an option makes no sense, or it is not known what an output is.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, needs what is not in it, or the result does not do what its parts do.
        UnknownNameError: If a part, signature or output is named that there is not.
    """
    choices = {
        "combine": combine,
        "weights": weights,
        "outputs": outputs,
        "signatures": dict(signatures or {}),
        "examples": _text(examples),
    }
    return perform("savedmodel_ensemble", {"models": list(models)}, choices, wanted)


def from_frozen_graph(
    graph: str | PathLike[str],
    *,
    feeds: str | Sequence[str] = (),
    fetches: str | Sequence[str] = (),
    examples: str | PathLike[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Path:
    """Make a SavedModel of a frozen graph of TensorFlow 1.

    Its signature calls inputs and outputs by the last part of their nodes' names, or as you say.

    Args:
        graph: The file: ``frozen_graph.pb``.
        feeds: Tensors that are given: ``node``, ``node:1`` or ``name=node:1``; by default all placeholders that the outputs need.
        fetches: Tensors that are wanted, likewise; by default the only one that nothing uses.
        examples: An ``.npz`` file with inputs for the comparison with the graph, by their names; by default random ones.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        OptionError: If it is not clear what goes in or comes out.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, needs what is not in it, or the result does not do what its parts do.
        UnknownNameError: If a node is named that there is not.
    """
    choices = {
        "feeds": feeds,
        "fetches": fetches,
        "examples": _text(examples),
    }
    return perform("savedmodel_from_frozen_graph", {"graph": graph}, choices, wanted)


def join_frozen(
    graphs: Sequence[str | PathLike[str]],
    *,
    connect: Mapping[str, str] | None = None,
    feeds: str | Sequence[str] = (),
    fetches: str | Sequence[str] = (),
    labels: str | Sequence[str] = (),
    result: str = "saved_model",
    examples: str | PathLike[str] | None = None,
    **wanted: Unpack[Wanted],
) -> Path:
    """Join frozen graphs of TensorFlow 1: tensors of one take the place of tensors of another.

    Nodes stand under the label of their graph, ``label/node``, and so do functions, tables and loops.

    Args:
        graphs: The files, those that give before those that take.
        connect: Which tensor takes the place of another one: ``{b/x:0: a/y:0}``.
        feeds: Tensors that are given: ``label/node``, ``label/node:1`` or ``name=label/node:1``; by default all placeholders that are
            needed.
        fetches: Tensors that are wanted, likewise; by default the only one of the last graph that nothing uses.
        labels: What the graphs are called; by default their files' names.
        result: What comes out: a ``saved_model``, or a ``frozen_graph`` again.
        examples: An ``.npz`` file with inputs for the comparison with the graphs, by their names; by default random ones.
        **wanted: See `graftwork.api.steps.Wanted`.

    Returns:
        The path of the output.

    Raises:
        MismatchError: If a tensor does not fit the one whose place it takes.
        OptionError: If it is not clear what goes in or comes out.
        OutputError: If the output exists, is a source or cannot be written.
        StoreError: If a source cannot be read, needs what is not in it, or the result does not do what its parts do.
        UnknownNameError: If a node is named that there is not.
    """
    choices = {
        "connect": dict(connect or {}),
        "feeds": feeds,
        "fetches": fetches,
        "labels": labels,
        "result": result,
        "examples": _text(examples),
    }
    return perform("savedmodel_join_frozen", {"graphs": list(graphs)}, choices, wanted)


def _text(path: str | PathLike[str] | None) -> str | None:
    return None if path is None else str(Path(path))

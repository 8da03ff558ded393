"""Students that nobody gives: the architecture of a teacher with fewer units and filters, and new weights.

Units, filters and the sizes of embeddings are scaled in the teacher's configuration, except where the outputs come from. A convolution
with one filter for each channel keeps that, and a Reshape behind which the channels are as before has as many of them as there are; else
what has no weights stays. Where widths are tied to something that does not scale (a residual around the input, another Reshape, the
input of a model inside), Keras cannot put the layers together any more, and that is said.
"""

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork import rng
from graftwork.compose.graph import functional, is_graph
from graftwork.errors import MismatchError, OptionError, StoreError
from graftwork.models.configuration import configuration_of, layers_of, objects_of, reason, rebuild
from graftwork.models.lazy import keras

SCALED = ("units", "filters", "output_dim", "key_dim", "value_dim")
"""Settings of layers that say how wide they are."""

SHARE = 0.1
"""What part of the teachers' parameters a student has of which nothing is said."""

ADVICE = "give a student of your own, or another width"

ADAPTED = (
    "Normalization",
    "Discretization",
    "StringLookup",
    "IntegerLookup",
    "TextVectorization",
    "Hashing",
    "HashedCrossing",
)
"""Layers that know the data, and are taken over as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """A student made of a teacher's architecture.

    Attributes:
        model: The student, with new weights.
        width: What part of the teacher's units and filters it has.
        teacher: The teacher.
    """

    model: Any
    width: float
    teacher: Any

    def finish(self) -> None:
        """Take over what the teacher's adapted layers know; to be called once where there are values."""
        for ours, theirs in zip(layers_of(self.model), layers_of(self.teacher), strict=True):
            if type(theirs).__name__ not in ADAPTED:
                continue
            store: dict[str, Any] = {}
            theirs.save_own_variables(store)
            ours.load_own_variables(store)
            if hasattr(theirs, "save_assets"):
                with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
                    theirs.save_assets(str(Path(folder)))
                    ours.load_assets(str(Path(folder)))

    @property
    def note(self) -> str:
        """What the student is, in words."""
        return (
            f"the student has the architecture of {self.teacher.name} with {self.width:.3g} of its units and filters: "
            f"{self.model.count_params():,} parameters instead of {self.teacher.count_params():,}, all new"
        )


def scaled(teacher: Any, width: float, name: str, seed: int, *, outputs: int | None = None) -> Scaled:
    """Return a student with a part of a teacher's units and filters.

    Args:
        teacher: The teacher, or its skeleton.
        width: Which part.
        name: What it is called.
        seed: Fixes its weights.
        outputs: How many outputs it has; by default as many as the teacher.

    Raises:
        OptionError: If the width makes no sense, or the teacher cannot be looked into.
        MismatchError: If the layers do not go together when they are scaled.
    """
    if not 0 < width <= 4:
        raise OptionError(f"width is {width}, expected a number above 0 and at most 4")
    kept = {id(layer) for layer in _last(teacher)}
    config = copy.deepcopy(configuration_of(teacher))
    keep = {layer.name for layer in layers_of(teacher) if id(layer) in kept}
    reshaped = _reshaped(teacher)
    for place, layer in enumerate(_layers(config)):
        _scale(layer, width, keep, outputs)
        if layer["class_name"] == "Reshape" and layer["config"].get("name") in reshaped:
            layer["config"]["target_shape"] = [*layer["config"]["target_shape"][:-1], -1]
        _renew(layer, seed, f"{place} {layer['config'].get('name')}")
    config["config"]["name"] = name
    try:
        made = rebuild(config, f"the student of {teacher.name}", objects_of(teacher), safe_mode=False)
        made.trainable = True
    except StoreError as error:
        raise MismatchError(
            f"{teacher.name} cannot be made with {width:.3g} of its units and filters: {reason(error.__cause__ or error).rstrip('.')}",
            advice=ADVICE,
        ) from error
    if outputs is None and [tuple(x.shape[1:]) for x in made.outputs] != [tuple(x.shape[1:]) for x in teacher.outputs]:
        raise MismatchError(
            f"{teacher.name} with {width:.3g} of its units and filters gives {made.output_shape} instead of {teacher.output_shape}",
            advice=ADVICE,
        )
    return Scaled(model=made, width=width, teacher=teacher)


def automatic(teacher: Any, parameters: int, name: str, seed: int, *, outputs: int | None = None) -> Scaled:
    """Return the widest student of a teacher's architecture with at most a tenth of the parameters of all teachers.

    Args:
        teacher: The teacher, or its skeleton.
        parameters: How many parameters all teachers have.
        name: What it is called.
        seed: Fixes its weights.
        outputs: How many outputs it has; by default as many as the teacher.

    Raises:
        MismatchError: If there is none.
    """
    allowed = SHARE * parameters
    low, high = 0, 64  # in 64ths of the teacher's width

    def made(part: int) -> Scaled:
        with keras.StatelessScope(initialize_variables=False):
            return scaled(teacher, part / 64, name, seed, outputs=outputs)

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if made(middle).model.count_params() <= allowed else (low, middle)
    if low == 0:
        raise MismatchError(
            f"a student of the architecture of {teacher.name} with at most {allowed:,.0f} parameters, a tenth of the teachers', is not "
            "possible: what does not scale has more",
            advice="give a student, or a width",
        )
    return scaled(teacher, low / 64, name, seed, outputs=outputs)


def _last(model: Any) -> Iterator[Any]:
    """Yield the layers that decide how wide the outputs are: the last ones that have a width."""
    graph = functional(model)
    stack, seen = list(graph._outputs), set()
    while stack:
        tensor = stack.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        operation, index, place = tensor._keras_history
        inner = getattr(operation, "layer", operation)
        if is_graph(operation):
            inside = functional(operation)
            yield from _last_of(inside, place)
        elif any(getattr(inner, word, None) is not None for word in SCALED[:3]):
            yield inner
        else:
            stack += operation._inbound_nodes[index].input_tensors


def _last_of(graph: Any, place: int) -> Iterator[Any]:
    yield from _last(keras.Model(graph._inputs_struct, [graph._outputs[place]]))


def _reshaped(teacher: Any) -> set[str]:
    """Return the names of Reshape layers of fixed size behind which the last axis, that of channels, is as it was before."""
    found: dict[str, bool] = {}
    for layer in layers_of(teacher):
        if isinstance(layer, keras.layers.Reshape):
            shapes = [tuple(tensor.shape[1:]) for node in layer._inbound_nodes for tensor in node.input_tensors]
            same = -1 not in layer.target_shape and all(
                None not in shape and shape[-1:] == tuple(layer.target_shape[-1:]) for shape in shapes
            )
            found[layer.name] = found.get(layer.name, True) and same
    return {name for name, same in found.items() if same}


def _layers(config: Any) -> Iterator[dict[str, Any]]:
    """Yield everything in a configuration that has a class and settings, layers in layers included."""
    if isinstance(config, dict):
        if isinstance(config.get("config"), dict) and "class_name" in config:
            yield config
        for value in config.values():
            yield from _layers(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _layers(value)


def _scale(layer: dict[str, Any], width: float, keep: set[str], outputs: int | None) -> None:
    """Change how wide a layer is, in its configuration."""
    layer.pop("build_config", None)  # the shapes of before
    settings = layer["config"]
    if settings.get("name") in keep:
        for word in SCALED[:2]:
            if outputs is not None and isinstance(settings.get(word), int):
                settings[word] = outputs
        return
    for word in SCALED:
        size = settings.get(word)
        if isinstance(size, int) and not isinstance(size, bool):
            groups = settings.get("groups") or 1
            if groups == size > 1:  # one filter for each channel
                settings[word] = settings["groups"] = max(round(size * width), 1)
            else:
                settings[word] = max(round(size * width / groups), 1) * groups


def _renew(layer: dict[str, Any], seed: int, where: str) -> None:
    """Let a layer train, take batches of any size, and draw what is random in it from the seed."""
    settings = layer["config"]
    for word in ("batch_shape", "build_input_shape"):
        if settings.get(word):
            settings[word] = [None, *settings[word][1:]]
    if "trainable" in settings:
        settings["trainable"] = True
    if "seed" in settings and settings["seed"] is None:
        settings["seed"] = int(rng.key(seed, where, 0)) % 2**31

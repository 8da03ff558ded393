"""What stands between the raw input that members share and each member's own: scales of pixels, and sizes of images.

The words for scales are those of `keras.applications.imagenet_utils.preprocess_input`; each takes channels-last RGB of 0 to 255.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graftwork.compose.adapters import READY, Adapt, Maker, adapter, advice, resizing, shapes_fit
from graftwork.compose.layers import LayerSpec
from graftwork.compose.naming import Names, named
from graftwork.compose.ports import Port, Shape
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.lazy import keras

Size = bool | int | list[int]
"""Whether to resize to what a member takes; or a height and width."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN = (103.939, 116.779, 123.68)


def _tf(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """From -1 to 1."""
    to_float = _float(dtype, where, names)
    divided, moved = (names.fresh(f"{_slug(where)}_tf_{word}") for word in ("divide", "subtract"))

    def adapt(image: Any) -> Any:
        return named(keras.ops.subtract(named(keras.ops.divide(to_float(image), 127.5), divided), 1.0), moved)

    return adapt, ""


def _torch(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """From 0 to 1, then with each channel's mean over ImageNet taken off and its deviation divided by."""
    _check_channels(shape, where, "torch")
    to_float = _float(dtype, where, names)
    divided, moved, scaled = (names.fresh(f"{_slug(where)}_torch_{word}") for word in ("divide", "subtract", "scale"))

    def adapt(image: Any) -> Any:
        unit = named(keras.ops.divide(to_float(image), 255.0), divided)
        centred = named(keras.ops.subtract(unit, np.array(_MEAN, np.float32)), moved)
        return named(keras.ops.divide(centred, np.array(_DEVIATION, np.float32)), scaled)

    return adapt, ""


def _caffe(shape: Shape, dtype: str, port: Port, where: str, names: Names) -> tuple[Adapt, str]:
    """BGR, with each channel's mean over ImageNet taken off."""
    _check_channels(shape, where, "caffe")
    to_float = _float(dtype, where, names)
    turned, moved = (names.fresh(f"{_slug(where)}_caffe_{word}") for word in ("flip", "subtract"))

    def adapt(image: Any) -> Any:
        bgr = named(keras.ops.flip(to_float(image), axis=-1), turned)
        return named(keras.ops.subtract(bgr, np.array(_CAFFE_MEAN, np.float32)), moved)

    return adapt, ""


def _float(dtype: str, where: str, names: Names) -> Adapt:
    """Return the cast to float32, in which scales are computed; nothing where it is that already."""
    if dtype == "string":
        raise OptionError(f"{where}: texts have no scale of pixels")
    if dtype == "float32":
        return lambda image: image
    name = names.fresh(f"{_slug(where)}_float32")
    return lambda image: named(keras.ops.cast(image, "float32"), name)


def _check_channels(shape: Shape, where: str, word: str) -> None:
    if len(shape) != 4 or shape[-1] != 3:
        raise OptionError(f"{where}: {word} takes images with three channels last, not {shape}")


def _slug(where: str) -> str:
    return where.replace(" → ", "_to_")


SCALES: Mapping[str, Maker] = {"tf": _tf, "torch": _torch, "caffe": _caffe}
"""Scales of pixels by their word."""

WORDS: Mapping[str, Maker] = {**READY, **SCALES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparations:
    """What the user says of inputs.

    Attributes:
        preprocess: What an input goes through, by member or ``member.input``.
        resize: Whether, or to which size, images are resized, for all or by member.
        input_size: Height and width of the raw images; by default what the first member takes that takes them as they are, else the
            first; 0 for any size.
        input_dtype: Dtype of the raw input, by default of the same.
    """

    preprocess: Mapping[str, LayerSpec]
    resize: bool | Mapping[str, Size]
    input_size: int | list[int] | None
    input_dtype: str | None

    def check(self, ports: Mapping[str, Mapping[str, Port]]) -> None:
        """Refuse names that nothing has.

        Raises:
            UnknownNameError: If there are any.
            OptionError: If an option has nothing to be about.
        """
        for option in ("preprocess", "resize"):
            said = getattr(self, option)
            for key in said if isinstance(said, Mapping) else ():
                whole = [name for name, known in ports.items() if len(known) == 1]
                precise = [f"{name}.{port}" for name, known in ports.items() for port in known]
                if key in ports and key not in whole:
                    ways = ", ".join(f"{key}.{port}" for port in ports[key])
                    raise OptionError(f"{option}: {key} has several inputs; say which: {ways}")
                if key not in (*whole, *precise):
                    raise UnknownNameError(f"member (under `{option}`)", key, whole + precise)
        several = any(len(known) > 1 for known in ports.values())
        if several and (self.input_dtype or self.input_size is not None):
            raise OptionError("input_size and input_dtype are for models with a single input")

    def scale(self, member: str, port: str, alone: bool) -> LayerSpec | None:
        """Return what is said of one input."""
        return self.preprocess.get(f"{member}.{port}", self.preprocess.get(member) if alone else None)

    def size(self, member: str, port: str, alone: bool) -> Size:
        """Return to which size one input is resized."""
        if isinstance(self.resize, Mapping):
            return self.resize.get(f"{member}.{port}", self.resize.get(member, False) if alone else False)
        return self.resize

    def is_said(self, member: str, port: str, alone: bool) -> bool:
        """Return whether anything is said of this very input."""
        sized = isinstance(self.resize, Mapping) and self.size(member, port, alone) is not False
        return sized or self.scale(member, port, alone) is not None

    def raw(self, ports: Mapping[str, Mapping[str, Port]]) -> dict[str, dict[str, Port]]:
        """Return what each member takes from the user, by member and input."""
        single = all(len(known) == 1 for known in ports.values())
        found: dict[str, dict[str, Port]] = {}
        for member, known in ports.items():
            found[member] = {}
            for port in known.values():
                same = {
                    name: next(iter(other.values())) if single else other.get(port.name)
                    for name, other in ports.items()
                }
                found[member][port.name] = self._raw(
                    member, port, {name: each for name, each in same.items() if each}, single
                )
        return found

    def _raw(self, member: str, port: Port, same: Mapping[str, Port], single: bool) -> Port:
        plain = [each for name, each in same.items() if not self.is_said(name, each.name, single)]
        model = plain[0] if plain else next(iter(same.values()))
        shape, dtype = port.shape, port.dtype
        if self.is_said(member, port.name, single) or (
            self.size(member, port.name, single) is not False and _is_image(port)
        ):
            shape, dtype = model.shape, model.dtype
        if self.input_size is not None and _is_image(model):
            shape = (model.shape[0], *self._wanted(), model.shape[3])
        elif self.input_size is not None:
            raise OptionError(f"input_size is for images, and {member} takes {port}")
        return replace(port, shape=shape, dtype=self.input_dtype or dtype)

    def _wanted(self) -> tuple[int | None, int | None]:
        return (None, None) if self.input_size == 0 else height_and_width(self.input_size, "input_size")

    def prepare(self, member: str, port: Port, raw: Port, alone: bool, names: Names) -> tuple[Adapt, tuple[str, ...]]:
        """Return what one input goes through, and notes.

        Args:
            member: Whose input it is.
            port: The member's own input.
            raw: What it gets.
            alone: Whether members have a single input each.
            names: The names in use.

        Raises:
            MismatchError: If the input does not fit then.
        """
        said = self.scale(member, port.name, alone)
        steps = list(said) if isinstance(said, list | tuple) else [said] if said is not None else []
        notes: list[str] = []
        where = f"input → {member}"
        first: list[Adapt] = []
        size = self._resized(member, port, raw, self.size(member, port.name, alone))
        if size is not None:
            notes.append(f"{member}: images are resized from {_by(raw.shape)} to {size[0]}×{size[1]} (bilinear)")
            if raw.dtype != "float32":
                first.append(_float(raw.dtype, where, names))
                notes.append(f"{member}: {raw.dtype} is cast to float32")
            first.append(resizing(*size, names.fresh(f"{_slug(where)}_resize")))
            raw = replace(raw, shape=(raw.shape[0], *size, raw.shape[3]), dtype="float32")
        try:
            made = adapter(raw, port, where, steps or None, names, words=WORDS)
        except MismatchError as error:
            if steps:
                raise
            hint = advice(raw.shape, raw.dtype, port)
            raise MismatchError(*error.reasons, advice=f"{hint}; say it under preprocess, for {member!r}") from error
        notes += made.notes
        if steps and any(isinstance(step, str) and step in SCALES for step in steps):
            scale = next(step for step in steps if isinstance(step, str) and step in SCALES)
            notes.append(
                f"{member}: takes raw pixels of 0 to 255, RGB, channels last, which are scaled as {scale} does"
            )
        return lambda tensor: made.adapt(_through(first, tensor)), tuple(notes)

    def _resized(self, member: str, port: Port, raw: Port, size: Size) -> tuple[int, int] | None:
        """Return to which height and width images are resized; None where they are not."""
        if size is False or (isinstance(self.resize, bool) and not _is_image(port)):
            return None
        if not _is_image(port):
            raise OptionError(f"resize: {member} takes {port}, which are no images")
        fixed = [each for each in port.shape[1:3] if each is not None]
        if size is True and len(fixed) < 2:
            if isinstance(self.resize, bool):
                return None  # it takes any size
            raise OptionError(
                f'resize: {member} takes images of any size; say to which they go: resize={{"{member}": 224}}'
            )
        height, width = fixed if size is True else height_and_width(size, f"resize of {member}")
        if (height, width) == raw.shape[1:3]:
            return None
        if raw.shape[3] != port.shape[3] or not shapes_fit((raw.shape[0],), (port.shape[0],)):
            return None  # what differs is not the size: the adapter says so
        return height, width


def height_and_width(size: Any, what: str) -> tuple[int, int]:
    """Return the two numbers that a user spells as one or two.

    Raises:
        OptionError: If they are no sizes.
    """
    both = (
        (size, size)
        if isinstance(size, int) and not isinstance(size, bool)
        else tuple(size)
        if isinstance(size, list | tuple)
        else ()
    )
    if len(both) != 2 or any(not isinstance(each, int) or each < 1 for each in both):
        raise OptionError(f"{what} is {size!r}; expected a number of pixels, or [height, width]")
    return both[0], both[1]


def _is_image(port: Port) -> bool:
    return len(port.shape) == 4


def _by(shape: Shape) -> str:
    return "×".join("any" if size is None else str(size) for size in shape[1:3])


def _through(steps: list[Adapt], tensor: Any) -> Any:
    for step in steps:
        tensor = step(tensor)
    return tensor

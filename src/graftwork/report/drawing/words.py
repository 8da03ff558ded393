"""Texts of a drawing: what a box says about its layer, and how much space a text takes without asking a font."""

import re
import unicodedata
from collections.abc import Sequence

from graftwork.architecture.compare import inner_layers, is_operation
from graftwork.architecture.layer import Json, Layer
from graftwork.architecture.wiring import Shape

LONGEST = 400
"""Characters of any text that are looked at; names come from files."""

_WIDTHS = {
    character: widths
    for characters, *widths in (
        ("'ijl", 0.3, 0.35),
        ("IJ", 0.3, 0.4),
        (" ,./:;\\|·", 0.35, 0.4),
        ("-f()[]t", 0.4, 0.5),
        ('!r_`"*', 0.5, 0.55),
        ("?csz", 0.55, 0.6),
        ("LxFkvy", 0.6, 0.7),
        ("$0123456789ETaeo", 0.65, 0.7),
        ("PSYbdghnpqu{}", 0.65, 0.75),
        ("CZABKRVX", 0.7, 0.8),
        ("NUDGH", 0.8, 0.85),
        ("&OQ#+<=>^~×→", 0.85, 0.9),
        ("wM", 0.9, 1.0),
        ("@…%mW", 1.0, 1.15),
    )
    for character in characters
}
"""Of characters, regular and bold, for letters of size 1, in a font (DejaVu Sans) wider than those that systems prefer."""

_OTHERS = (1.1, 1.2)


def is_plain(text: str) -> bool:
    """Whether a text's width is known, not only estimated."""
    return all(character in _WIDTHS for character in text)


def width(text: str, size: float, *, bold: bool = False) -> float:
    """Return how wide a text is at most, in any font that a reader's system is likely to take."""
    return size * sum(_WIDTHS.get(character, _OTHERS)[bold] for character in text)


def fit(text: str, size: float, limit: float, *, bold: bool = False) -> str:
    """Return a text that is at most so wide, its middle left out where it has to be."""
    if width(text, size, bold=bold) <= limit:
        return text
    low, high = 0, min(len(text), LONGEST)
    while low < high:
        keep = (low + high + 1) // 2
        if width(_middle_out(text, keep), size, bold=bold) <= limit:
            low = keep
        else:
            high = keep - 1
    return _middle_out(text, low)


def wrap(text: str, size: float, limit: float, rows: int) -> list[str]:
    """Return a text in at most so many lines, broken after a comma, an arrow or a dot between words."""
    found: list[str] = []
    for piece in re.split(r"(?<=[,→·]) (?!…)", text):
        joined = f"{found[-1]} {piece}" if found else piece
        if found and (width(joined, size) <= limit or len(found) == rows):
            found[-1] = joined
        else:
            found.append(piece)
    return [fit(line, size, limit) for line in found]


def _middle_out(text: str, keep: int) -> str:
    end = keep // 3
    return text[: keep - end].rstrip() + "…" + (text[-end:].lstrip() if end else "")


def clean(text: str) -> str:
    """Return a text that any XML reader takes: characters that control something, or are none, are replaced."""
    short = text if len(text) <= LONGEST else _middle_out(text, LONGEST - 1)
    return "".join("\ufffd" if unicodedata.category(c).startswith("C") else c for c in short)


def number(value: int) -> str:
    """Return a number as people write it, or what stands for one that is no size of anything."""
    return f"{value:,}" if abs(value) < 10**15 else "…"


def several(count: int, thing: str) -> str:
    """Return ``"1 layer"``, ``"12 layers"``."""
    return f"{number(count)} {thing}{'' if count == 1 else 's'}"


def shape_text(shape: Shape | None) -> str:
    """Return a tensor's shape without its batch, ``?`` for unknown sizes; empty where nothing is known."""
    if shape is None:
        return ""
    if shape and shape[0] is None:
        shape = shape[1:]
    elif shape:
        return f"({', '.join(_size(size) for size in shape)})"
    return " × ".join(_size(size) for size in shape[:8]) or "one value"


def _size(size: int | None) -> str:
    return "?" if size is None else str(size) if abs(size) < 10**15 else "…"


def settings(layer: Layer, depth: int = 0) -> str:
    """Return what tells a layer from others of its class: units, filters and kernel, activation."""
    if layer.graph is not None or is_operation(layer) or depth > 3:
        return ""
    config, found = layer.config, []
    inner = next((x for name, x in inner_layers(layer) if name in ("layer", "forward_layer")), None)
    if inner is not None:
        found.append(f"{clean(inner.class_name)} {settings(inner, depth + 1)}".strip())
    if _is_count(config.get("filters")):
        found.append(number(config["filters"]))
    if _is_count(config.get("units")):
        found.append(several(config["units"], "unit"))
    for name in ("kernel_size", "pool_size", "size", "target_shape", "padding", "cropping"):
        sizes = _sizes(config.get(name))
        if sizes:
            found.append(sizes)
    strides = _sizes(config.get("strides"))
    if strides and set(strides) - set("1×") and strides != _sizes(config.get("pool_size")):
        found.append(f"/ {strides.split('×')[0] if len(set(strides.split('×'))) == 1 else strides}")
    if _is_count(config.get("input_dim")) and _is_count(config.get("output_dim")):
        found.append(f"{number(config['input_dim'])} → {number(config['output_dim'])}")
    if _is_count(config.get("num_heads")) and _is_count(config.get("key_dim")):
        found.append(f"{several(config['num_heads'], 'head')} × {number(config['key_dim'])}")
    if _is_count(config.get("height")) and _is_count(config.get("width")):
        found.append(f"{number(config['height'])}×{number(config['width'])}")
    rate = config.get("rate")
    if isinstance(rate, float) and 0 <= rate < 1:
        found.append(f"{rate:g}")
    if config.get("return_sequences") is True:
        found.append("sequences")
    activation = _activation(config.get("activation"))
    if activation and activation != "linear" and not (activation == "tanh" and "recurrent_activation" in config):
        found.append(activation)
    return " · ".join(found)


def _is_count(value: Json) -> bool:
    return type(value) is int and value > 0


def _sizes(value: Json) -> str:
    if _is_count(value):
        value = [value]
    if isinstance(value, list | tuple) and value and all(type(size) is int and size >= -1 for size in value):
        return "×".join(_size(None if size == -1 else size) for size in value[:4])
    return ""


def _activation(value: Json) -> str:
    if isinstance(value, dict):
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    return clean(value)[:40] if isinstance(value, str) else ""


def classes_in_turn(classes: Sequence[str]) -> str:
    """Return ``"Conv2D → … → ReLU"`` for a run of layers."""
    names = [clean(name) for name in classes]
    return " → ".join(names if len(names) <= 3 else [names[0], "…", names[-1]])

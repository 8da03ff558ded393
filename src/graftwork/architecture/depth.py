"""How deep in its model a tensor lies, from 0 in the first layer to 1 in the last.

Where a source holds a Keras architecture, depth counts the layers that have variables, in the model's order. Where it holds none, it is
read from the number in names such as ``model.layers.3.mlp.up_proj.weight``: embeddings come before the first numbered layer, everything
else outside of them (final norms, heads) after the last.
"""

import re
from collections.abc import Iterable, Mapping

from graftwork.architecture.layer import Layer
from graftwork.architecture.layout import layout

NUMBERED = re.compile(r"(?:^|[./_])(?:layers?|blocks?|h|stages?|resblocks)[._](\d{1,6})(?=[./_])")
"""The number of a repeated block in a tensor's name."""

_FIRST = re.compile(r"embed|wte|wpe|patch|(?:^|[./])stem", re.IGNORECASE)


def block_number(name: str) -> int | None:
    """Return the number of the repeated block that a tensor belongs to, or None outside of such blocks."""
    found = NUMBERED.search(name)
    return int(found[1]) if found else None


def block_parts(name: str) -> tuple[str, int, str] | None:
    """Return a tensor's name in front of its block's number, that number, and what comes behind; None outside of such blocks."""
    found = NUMBERED.search(name)
    return (name[: found.start(1)], int(found[1]), name[found.end(1) :]) if found else None


def comes_first(name: str) -> bool:
    """Return whether a tensor outside of the repeated blocks comes before them, as embeddings do."""
    return _FIRST.search(name) is not None


def depths_and_classes(
    names: Iterable[str], root: Layer | None, *, keras2: bool = False
) -> tuple[Mapping[str, float], Mapping[str, str]]:
    """Return the depth of each tensor and the class of its layer, as far as they are known.

    Args:
        names: Canonical names of the model's tensors.
        root: The model's architecture, where its file holds one.
        keras2: Whether Keras 2 wrote it.
    """
    if root is None:
        return _by_number(list(names)), {}
    variables = layout(root, keras2=keras2).variables
    order: dict[str, int] = {}
    for variable in variables:
        order.setdefault(variable.name.rpartition("/")[0], len(order))
    last = max(len(order) - 1, 1)
    depths = {variable.name: order[variable.name.rpartition("/")[0]] / last for variable in variables}
    return depths, {variable.name: variable.layer.class_name for variable in variables}


def _by_number(names: list[str]) -> dict[str, float]:
    numbers = {name: block_number(name) for name in names}
    most = max((number for number in numbers.values() if number is not None), default=None)
    if most is None:
        return {}
    outside = {name: 0.0 if comes_first(name) else 1.0 for name in names}
    return {
        name: outside[name] if number is None else number / most if most else 1.0 for name, number in numbers.items()
    }

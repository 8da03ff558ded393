"""What several models give, side by side, under one new head."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.adapters import cast
from graftwork.compose.base import Composed
from graftwork.compose.graph import inline, is_graph, settle
from graftwork.compose.heads import Head
from graftwork.compose.inputs import Feeds
from graftwork.compose.lasting import lasting
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, call
from graftwork.compose.trained import count, freeze_all
from graftwork.models.lazy import keras


@dataclass(frozen=True, slots=True, kw_only=True)
class Trunk:
    """A model below a head.

    Attributes:
        name: What it is called.
        model: It, as it goes into the result.
        run: Gives what it gives for arrays by the names of its inputs, in order, without the model that goes into the result; None where
            nothing else tells.
    """

    name: str
    model: Any
    run: Callable[[Mapping[str, Any]], Sequence[Any]] | None


def kept_still(model: Any) -> tuple[Any, tuple[str, ...]]:
    """Return a model in which nothing trains, now or after loading, and what was done for that.

    Args:
        model: A model that nobody else holds.

    Raises:
        OptionError: If it has a layer that Keras cannot keep still.
    """
    freeze_all(model)
    return lasting(model)


def joined(
    trunks: Sequence[Trunk], feeds: Feeds, head: Callable[[Port], Head], names: Names, *, flat: bool, name: str
) -> Composed:
    """Return the trunks' outputs, concatenated in float32, under a head.

    Args:
        trunks: The models.
        feeds: What goes into each.
        head: Makes the head for what it stands on.
        names: The names in use.
        flat: Whether the layers of the trunks stand in one graph with the others instead of inside one layer for each trunk.
        name: What the result is called.
    """
    made = {}
    for trunk in trunks:
        tensors = feeds.tensors[trunk.name]
        placed = (
            inline(trunk.model, tensors, names, trunk.name)
            if flat and is_graph(trunk.model)
            else call(trunk.model, tensors)
        )
        made[trunk.name] = list(placed.values())
    ways = {trunk.name: [_way(tensor, names) for tensor in made[trunk.name]] for trunk in trunks}
    concatenate = keras.layers.Concatenate(axis=-1, dtype="float32", name=names.fresh("features"))

    def features(given: Mapping[str, Sequence[Any]]) -> Any:
        found = [way(value) for trunk in trunks for way, value in zip(ways[trunk.name], given[trunk.name], strict=True)]
        return concatenate(found) if len(found) > 1 else found[0]

    joint = features(made)
    top = head(Port("features", tuple(joint.shape), "float32", None))
    model = keras.Model(feeds.struct, top(joint), name=name)
    if flat:
        settle(model)

    runs = {trunk.name: trunk.run for trunk in trunks if trunk.run is not None}

    def reference(values: Any) -> Any:
        given = feeds.given(values)
        return top(features({name: run(given[name]) for name, run in runs.items()}))

    told = reference if len(runs) == len(trunks) else None
    return Composed(model=model, reference=told, notes=(*feeds.notes, top.note, count(model)))


def _way(tensor: Any, names: Names) -> Callable[[Any], Any]:
    """Return what makes float32 features of what a trunk gives."""
    plain = keras.backend.standardize_dtype(tensor.dtype) == "float32"
    return (lambda value: value) if plain else cast("float32", names)

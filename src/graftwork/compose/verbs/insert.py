"""A layer between two that were there."""

from collections.abc import Sequence
from typing import Any, ClassVar

from graftwork.compose.addresses import place, tap
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.changes import Change, Changing, through
from graftwork.compose.graph import Graph, Tap, masks_of
from graftwork.compose.layers import LayerSpec
from graftwork.compose.parts import named_after
from graftwork.errors import OptionError


@verb
class Insert(Verb):
    """Put a layer, or several, into a model; everything else keeps its weights.

    What is behind must be able to go on: the new tensor has the shape of the one in whose place it is, unless that is an output.
    """

    kind: ClassVar[str] = "insert"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    layer: LayerSpec
    """What is inserted: `Dropout`, `{Dropout: {rate: 0.5}}`, a layer that has no weights yet, a model, or a list of these."""

    after: str | None = None
    """The address of a tensor: all that takes it takes what the new layer makes of it."""

    before: str | None = None
    """The address of a layer, or of one of its calls: it alone takes what the new layer makes of its input."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Insert the layer; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        if (self.after is None) == (self.before is None):
            raise OptionError("insert: say where, either with after= or with before=")
        if self.after is not None:
            found = tap(model, self.after)
            graph = Graph(model, [found])
            changing = Changing(graph)
            layers = changing.layers(self.layer, f"what is inserted after {self.after!r}")
            key = graph.same(found.key)
            where = f"{layers[-1].name} → {self.after}"
            change = Change(takes=[key], gives=[key], make=through(layers), where=where)
        else:
            change, changing, layers = self._before(model, str(self.before))
        return changing.composed(member, [change], self.name, layers)

    def _before(self, model: Any, address: str) -> tuple[Change, Changing, list[Any]]:
        spot = place(model, address)
        if spot.index is not None:
            raise OptionError(f"before: {address!r} names a tensor; name the layer that is to take what is inserted")
        node = spot.node()
        found = Tap(tuple(each.node() for each in spot.around), node.outputs[0], address)
        graph = Graph(model, [found])
        step = graph.step(found)
        if step.is_input:
            raise OptionError(f"before: {address!r} is an input of the model; insert after it")
        masks = {graph.same(key) for key in masks_of(step)}
        tensors = dict.fromkeys(key for key in step.takes if key not in masks)
        if len(tensors) != 1:
            names = ", ".join(repr(graph.label(key)) for key in tensors)
            raise OptionError(f"before: {address!r} takes {len(tensors)} tensors, {names}; insert after one of them")
        changing = Changing(graph)
        layers = changing.layers(self.layer, f"what is inserted before {address!r}")
        (key,) = tensors
        make, kept = through(layers), list(step.takes)

        def call(values: Sequence[Any]) -> list[Any]:
            (new,) = make([values[kept.index(key)]])
            return step.call(
                [new if each == key else value for each, value in zip(kept, values, strict=True)], changing.names
            )

        return Change(takes=kept, gives=step.gives, make=call, where=f"{address} → {address}"), changing, layers

"""Another layer in the place of one."""

from collections.abc import Sequence
from typing import Any, ClassVar

from graftwork.compose.addresses import calls
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.changes import Change, Changing, called, through
from graftwork.compose.graph import Graph, Step, filled
from graftwork.compose.layers import LayerSpec
from graftwork.compose.parts import named_after
from graftwork.errors import MismatchError, OptionError


@verb
class Replace(Verb):
    """Put another layer in the place of one; everything else keeps its weights.

    The new layer starts with new weights, whatever it replaces. It is called as often and on the same tensors, and what it gives must
    have the shape that what is behind takes, unless it is an output.
    """

    kind: ClassVar[str] = "replace"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    at: str
    """The address of a layer, of one of its calls (`dense#2`), or of a nested model. Without a number, every call is replaced."""

    layer: LayerSpec
    """What comes in its place: `ReLU`, `{Dense: {units: 10}}`, a layer that has no weights yet, a model, or a list of these. A layer that
    is given no name gets that of the one it replaces."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the model with the other layer; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        found = calls(model, self.at)
        graph = Graph(model, found)
        steps = [graph.step(tap) for tap in found]
        if steps[0].is_input:
            raise OptionError(f"{self.at!r} is an input of {member.name}, not a layer that could be replaced")
        if len(steps[0].gives) != 1:
            raise MismatchError(
                f"{self.at!r} of {member.name} gives {len(steps[0].gives)} tensors, and a new layer one",
                advice="graft a piece of a model in its place",
            )
        gone = {id(step) for step in steps}
        kept = any(step.operation is steps[0].operation and id(step) not in gone for step in graph.steps)
        changing = Changing(graph, steps)
        layers = changing.layers(self.layer, f"what replaces {self.at!r}", None if kept else steps[0].operation.name)
        changes = [
            Change(takes=step.takes, gives=step.gives, make=_as(step, layers), where=f"{layers[-1].name} → {self.at}")
            for step in steps
        ]
        return changing.composed(member, changes, self.name, layers)


def _as(step: Step, layers: Sequence[Any]) -> Any:
    """Return what calls the first new layer as the old one was called, and the others behind it."""

    def make(values: Sequence[Any]) -> list[Any]:
        args, kwargs = filled(step.node, values)
        takes = getattr(layers[0], "_call_signature", None)
        known = set(takes.parameters) if takes is not None else set()
        # what only the old layer takes, and what Keras finds out for itself, is not passed on
        given = {key: value for key, value in kwargs.items() if key in known and key != "mask" and value is not None}
        return through(layers[1:])([called(layers[0], *args, **given)])

    return make

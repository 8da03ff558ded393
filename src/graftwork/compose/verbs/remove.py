"""A model without a layer."""

from collections.abc import Sequence
from typing import ClassVar

from graftwork.compose.adapters import shapes_fit
from graftwork.compose.addresses import calls
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.changes import Change, Changing
from graftwork.compose.graph import Graph, masks_of
from graftwork.compose.parts import named_after
from graftwork.compose.ports import describe
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras


@verb
class Remove(Verb):
    """Take layers out of a model: what takes their output takes their input instead; everything else keeps its weights.

    Only layers that give what they take, as far as shape and dtype tell, can be taken out.
    """

    kind: ClassVar[str] = "remove"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    at: str | list[str]
    """The address of a layer, of one of its calls (`dropout#2`), or of a nested model; or several. Without a number, every call goes."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the model without the layers; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        addresses = [self.at] if isinstance(self.at, str) else list(dict.fromkeys(self.at))
        found = [tap for address in addresses for tap in calls(model, address)]
        if not found:
            raise OptionError("remove: no layer is named")
        graph = Graph(model, found)
        changes = []
        for tap in found:
            step = graph.step(tap)
            if step.is_input:
                raise OptionError(f"{tap.address!r} is an input of {member.name}; extract the part behind it instead")
            masks = {graph.same(key) for key in masks_of(step)}
            takes = list(dict.fromkeys(key for key in step.takes if key not in masks))
            if len(takes) != 1 or len(step.gives) != 1:
                raise MismatchError(
                    f"{tap.address!r} of {member.name} takes {len(takes)} and gives {len(step.gives)} tensors, so nothing can stand for it",
                    advice="replace it, or graft a piece of a model in its place",
                )
            old, new = (graph.tensor(key) for key in (step.gives[0], takes[0]))
            ways = [(tuple(t.shape), keras.backend.standardize_dtype(t.dtype)) for t in (new, old)]
            if not shapes_fit(ways[0][0], ways[1][0]) or ways[0][1] != ways[1][1]:
                raise MismatchError(
                    f"{tap.address!r} of {member.name} takes {describe(*ways[0])} and gives {describe(*ways[1])}, "
                    "so what is behind it cannot take its input",
                    advice="replace it by a layer that gives the same",
                )
            where = f"{graph.label(takes[0])} → {tap.address}"
            changes.append(Change(takes=takes, gives=step.gives, make=list, where=where))
        return Changing(graph).composed(member, changes, self.name)

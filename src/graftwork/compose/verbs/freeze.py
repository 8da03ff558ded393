"""Layers that no longer train."""

from collections.abc import Sequence
from typing import ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.lasting import lasting
from graftwork.compose.trained import count, has_weights, matching, set_trained
from graftwork.errors import OptionError


@verb
class Freeze(Verb):
    """Freeze layers: their weights, and the statistics of BatchNormalization, stay as they are to the last bit.

    That holds after training other layers, and after saving and loading as well. Nested models are frozen layer by layer.
    """

    kind: ClassVar[str] = "freeze"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    layers: str | Sequence[str] = "*"
    """Which layers, by their paths: ``block_5_*``, ``member/block_5_*``, or ``re:`` and a regular expression; several in a list."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Freeze the layers; see `Verb.compose`."""
        (member,) = members
        found = [part for part in matching(member.model, self.layers) if has_weights(part)]
        if not found:
            raise OptionError(
                f"`layers` ({self.layers}) matches only layers of {member.name} that have no weights, so it freezes nothing"
            )
        set_trained(member.model, {id(part.layer): False for part in found})
        return flagged(member)


def flagged(member: Member) -> Composed:
    """Return a model whose layers' flags have been set, as a result."""
    model, notes = lasting(member.model)
    return Composed(
        model=model,
        reference=member.model.__call__,
        exact=True,
        classes=member.classes,
        notes=(*notes, f"{member.name}: {count(model)}"),
    )

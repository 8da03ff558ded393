"""Layers that train again."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.trained import has_weights, is_batchnorm, matching, set_trained, since
from graftwork.compose.verbs.freeze import flagged
from graftwork.errors import OptionError


@verb
class Unfreeze(Verb):
    """Let layers train again, except for BatchNormalization, whose statistics would move: it stays as it is unless asked for."""

    kind: ClassVar[str] = "unfreeze"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    layers: str | Sequence[str] = "*"
    """Which layers, by their paths: ``block_5_*``, ``member/block_5_*``, or ``re:`` and a regular expression; several in a list."""

    from_layer: str | None = None
    """Of those, only this layer and the ones after it, by its path; layers are in the order in which the model lists them."""

    batchnorm: bool = False
    """Whether BatchNormalization trains as well; its statistics then follow the new data."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Unfreeze the layers; see `Verb.compose`."""
        (member,) = members
        found = matching(member.model, self.layers)
        if self.from_layer is not None:
            later = {id(part.layer) for part in since(member.model, self.from_layer)}
            found = [part for part in found if id(part.layer) in later]
        found = [part for part in found if has_weights(part)]
        chosen = [part for part in found if self.batchnorm or not is_batchnorm(part)]
        if not chosen:
            after = f" from {self.from_layer!r} on" if self.from_layer is not None else ""
            raise OptionError(
                f"`layers` ({self.layers}){after} matches only BatchNormalization in {member.name}, which stays as it is; "
                "ask for it with batchnorm=True"
                if found
                else f"`layers` ({self.layers}){after} matches no layer of {member.name} that has weights, so it unfreezes nothing"
            )
        set_trained(member.model, {id(part.layer): True for part in chosen}, batchnorm=self.batchnorm)
        made = flagged(member)
        kept = len(found) - len(chosen)
        note = (
            f"{kept} BatchNormalization layer{'s' if kept > 1 else ''} did not change (batchnorm=True lets them train)"
        )
        return replace(made, notes=(*made.notes, note)) if kept else made

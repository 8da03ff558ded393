"""A new head in the place of the last layers of a model."""

from collections.abc import Sequence
from typing import ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.graph import settle
from graftwork.compose.heads import Head, HeadSpec, as_head, units_of
from graftwork.compose.lasting import lasting
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port
from graftwork.compose.swapping import swap
from graftwork.compose.trained import count, set_trained


@verb
class SwapHead(Verb):
    """Replace the last layers of a model by a new head, to be trained for another task.

    By default the last layer with weights goes, and all that follows it: what it stood on is what the new head stands on.
    """

    kind: ClassVar[str] = "swap_head"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    head: HeadSpec
    """A number of units (softmax; sigmoid for one), a layer, a model, or a list of these."""

    at: str | None = None
    """What the new head stands on: the address of a tensor, such as `global_pool` or `encoder/block_2`."""

    hidden: Sequence[int] = ()
    """Units of Dense layers with relu before the head."""

    activation: str | None = None
    """The activation of the head, where it is a number of units: `linear` for values without bounds."""

    port: str | None = None
    """Which output gets the new head, where the model has several; the others stay."""

    freeze: bool = False
    """Keep the weights of all other layers, and the statistics of their BatchNormalization, as they are."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Swap the head; see `Verb.compose`."""
        (member,) = members
        swapped = swap(member, self._head, at=self.at, port=self.port, name=self.name)
        result = swapped.model
        if self.freeze:
            set_trained(result, {id(leaf.layer): False for leaf in swapped.below_head()})
        result, said = lasting(result)
        settle(result)
        classes = member.classes if member.classes and len(member.classes) == units_of(self.head) else None
        notes = (*swapped.notes, *said, count(result))
        return Composed(model=result, reference=swapped.reference, classes=classes, notes=notes)

    def _head(self, value: Port, names: Names, spread: bool) -> Head:
        return as_head(self.head, value, names, hidden=self.hidden, activation=self.activation, spread=spread)

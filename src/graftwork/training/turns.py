"""In which order layers get their statistics, so that each sees what it will be called with once all are done.

A layer's turn comes when every layer that what it is called with depends on has had its turn; layers that do not depend on each other have
theirs in the same pass over the data. What a layer runs in code of its own cannot be looked into: the layers inside have one turn after the
other, as they are called.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.graph import Graph, Key, Step, is_graph
from graftwork.errors import OptionError
from graftwork.training.statistics import Keeper


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """A layer that stands in the graph, with the layers in it that keep statistics: itself, or some that it runs in code of its own.

    Attributes:
        operation: The layer.
        keepers: Those that keep statistics.
        steps: Its calls in the graph; none where there is no graph and it is the model itself.
        first: The first pass in which it has a turn, from 0.
        passes: In how many it has one.
        circular: Whether it is called on something that depends on itself.
    """

    operation: Any
    keepers: tuple[Keeper, ...]
    steps: tuple[Step, ...]
    first: int = 0
    passes: int = 1
    circular: bool = False

    @property
    def box(self) -> bool:
        """Whether it runs the layers that keep statistics in code of its own."""
        return any(keeper.layer is not self.operation for keeper in self.keepers)


@dataclass(frozen=True, slots=True, eq=False)
class Turns:
    """Which layers have their turn in which pass over the data.

    Attributes:
        graph: The model unfolded; None where it cannot be.
        units: The layers.
        needs: The units on which each tensor of the graph depends, as the bits of a number.
    """

    graph: Graph | None
    units: tuple[Unit, ...]
    needs: dict[Key, int]

    @property
    def passes(self) -> int:
        """How often the data is gone through."""
        return max(unit.first + unit.passes for unit in self.units)

    def units_of(self, number: int) -> list[Unit]:
        """Return the units that have a turn in a pass."""
        return [unit for unit in self.units if unit.first <= number < unit.first + unit.passes]

    def frontier(self, number: int, given: Collection[Key]) -> list[Key]:
        """Return the tensors from which all later passes can go on, and which are what they will be already in this one.

        Args:
            number: The pass.
            given: The tensors that this one goes on from.
        """
        if self.graph is None:
            return []
        later = [key for unit in self.units if unit.first + unit.passes > number + 1 for key in _gives(unit)]
        open_ = sum(1 << place for place, unit in enumerate(self.units) if unit.first + unit.passes > number)
        found: dict[Key, None] = {}
        for step in self.graph.needed(later, given):
            if any(self.needs[key] & open_ for key in step.gives):
                found.update(dict.fromkeys(key for key in step.takes if not self.needs[key] & open_))
        inputs = {key for step in self.graph.steps if step.is_input for key in step.gives}
        return [key for key in found if key not in inputs]


def _gives(unit: Unit) -> list[Key]:
    return [key for step in unit.steps for key in step.gives]


def turns(model: Any, keepers: Sequence[Keeper]) -> Turns:
    """Return in which order layers of a model have their turns.

    Raises:
        OptionError: If a layer is called by the graph and by the code of another layer as well.
    """
    if not is_graph(model):
        return Turns(None, (Unit(model, tuple(keepers), (), 0, len(keepers)),), {})
    graph = Graph(model, deep=True, inference=True)
    units = _units(graph, keepers)
    places = {id(step): place for place, unit in enumerate(units) for step in unit.steps}
    needs: dict[Key, int] = {}
    direct = [0] * len(units)
    for step in graph.steps:
        before = 0
        for key in step.takes:
            before |= needs[key]
        place = places.get(id(step))
        if place is not None:
            direct[place] |= before
            before |= 1 << place
        needs.update(dict.fromkeys(step.gives, before))
    return Turns(graph, tuple(_in_order(units, _closed(direct))), needs)


def _units(graph: Graph, keepers: Sequence[Keeper]) -> list[Unit]:
    known = {id(keeper.layer): keeper for keeper in keepers}
    steps: dict[int, list[Step]] = {}
    for step in graph.steps:
        if hasattr(step.operation, "_flatten_layers"):
            steps.setdefault(id(step.operation), []).append(step)
    units: list[Unit] = []
    holder: dict[Keeper, Any] = {}
    for calls in steps.values():
        operation = calls[0].operation
        own = [known[id(layer)] for layer in operation._flatten_layers() if id(layer) in known]
        for keeper in own:
            if keeper in holder:
                raise OptionError(
                    f"layer {keeper.path!r} is called by {holder[keeper].name!r} and by {operation.name!r}, of which one runs it in "
                    "its own code, so no order can be found; leave it out (layers)"
                )
            holder[keeper] = operation
        if own:
            units.append(Unit(operation, tuple(own), tuple(calls), 0, len(own)))
    return units


def _closed(direct: Sequence[int]) -> list[int]:
    """Return, of what depends on what at first hand, what depends on what at all."""
    reach = list(direct)
    for middle in range(len(reach)):
        for place, found in enumerate(reach):
            if found >> middle & 1:
                reach[place] = found | reach[middle]
    return reach


def _in_order(units: Sequence[Unit], reach: Sequence[int]) -> list[Unit]:
    """Return the units with their passes; those that depend on each other share one."""
    ends = [0] * len(units)
    found = list(units)
    for place in sorted(range(len(units)), key=lambda place: (reach[place] | 1 << place).bit_count()):
        unit, circular = units[place], bool(reach[place] >> place & 1)
        others = [k for k in range(len(units)) if reach[place] >> k & 1 and not reach[k] >> place & 1]
        first = max((ends[k] for k in others), default=0)
        passes = 1 if circular else unit.passes
        ends[place] = first + passes
        found[place] = Unit(unit.operation, unit.keepers, unit.steps, first, passes, circular)
    return found

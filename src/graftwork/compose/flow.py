"""What depends on what in a graph, as bits: one for each step, so that whatever lies behind a tensor is one number."""

from collections.abc import Collection, Sequence
from dataclasses import replace

from graftwork.compose.graph import Graph, Key, Step


class Flow:
    """The steps of a graph that its outputs need.

    A mask that is combined with itself (as `Add` does with those of two tensors that have the same) is that mask, and counts as one tensor.

    Args:
        graph: The graph.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        same: dict[Key, Key] = {}
        steps = []
        for step in graph.needed(graph.outputs):
            takes = tuple(same.get(key, key) for key in step.takes)
            if type(step.operation).__name__ == "LogicalOr" and len(takes) == 2 and takes[0] == takes[1]:
                same[step.gives[0]] = takes[0]
            else:
                steps.append(replace(step, takes=takes))
        self.outputs = [same.get(key, key) for key in graph.outputs]
        used = {*self.outputs, *(key for step in steps for key in step.takes)}
        self.steps = [step for step in steps if not used.isdisjoint(step.gives)]
        self.maker = {key: place for place, step in enumerate(self.steps) for key in step.gives}
        self.users = dict.fromkeys(self.maker, 0)
        self.behind = dict.fromkeys(self.maker, 0)
        for place, step in reversed(list(enumerate(self.steps))):
            after = 1 << place
            for key in step.gives:
                after |= self.behind[key]
            for key in step.takes:
                self.users[key] |= 1 << place
                self.behind[key] |= after

    def passing(self, key: Key) -> frozenset[Key]:
        """Return the tensors that are not computed from one, and are used with what is, or are outputs: they pass by a cut there."""
        behind = self.behind[key]
        return frozenset(
            other
            for other, place in self.maker.items()
            if other != key and not behind >> place & 1 and (self.users[other] & behind or other in self.outputs)
        )

    def leads(self, key: Key, other: Key) -> bool:
        """Return whether a tensor is computed from another."""
        return bool(self.behind[other] >> self.maker[key] & 1)

    def between(self, targets: Sequence[Key], given: Collection[Key] = ()) -> list[Step]:
        """Return the steps that make some tensors of others, each after those it needs.

        The order follows the arguments of calls, whatever the order of the graph, so it is the same for two pieces of one form.
        """
        found: list[Step] = []
        seen: set[int] = set()
        stack = [(key, False) for key in reversed(targets)]
        while stack:
            key, is_done = stack.pop()
            place = self.maker[key]
            if is_done:
                found.append(self.steps[place])
            elif key not in given and place not in seen:
                seen.add(place)
                stack.append((key, True))
                stack += [(each, False) for each in reversed(self.steps[place].takes)]
        return found

"""Which object of one checkpoint of TensorFlow 2 is which of another: by the names that lead to it, as TensorFlow restores.

A key is the shortest way to a value, and may lead through an optimizer, which counts the variables that it trains. In what order it does
depends on the order in which layers were made, so that number 0 may be the encoder here and the decoder there. Ways through the model count
first; what an optimizer keeps for number 0 meets what the other one does only if both mean the same variable by it.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from graftwork.stores.tf_graph import TRAINED, optimizers_of
from graftwork.stores.tf_protos import Node


def places(ours: Sequence[Node], theirs: Sequence[Node]) -> dict[str, str] | None:
    """Return the key in another graph of every value that lies at the same place there, None if ways lead to different objects.

    Args:
        ours: One object graph.
        theirs: The other.
    """
    met: dict[int, int] = {0: 0}
    optimizers = optimizers_of(ours)
    if not _walk(ours, theirs, met, optimizers):
        return None
    trained = [(n, m) for n, m in met.items() if n in optimizers]
    found = dict(met)
    if all(_meet(met, v, w) for pair in trained for v, w in _trained(ours, theirs, *pair)):
        found = dict(met)
        if _through(ours, theirs, met, trained):
            found = met
    return {
        attribute.key: other
        for n, m in found.items()
        for attribute in ours[n].attributes
        if (other := {a.name: a.key for a in theirs[m].attributes}.get(attribute.name)) is not None
    }


def _through(
    ours: Sequence[Node], theirs: Sequence[Node], met: dict[int, int], trained: Sequence[tuple[int, int]]
) -> bool:
    """Walk through optimizers, too, and return whether nothing speaks against it."""
    for n, m in trained:
        slots = {(variable, name): holder for variable, name, holder in theirs[m].slots}
        for variable, name, holder in ours[n].slots:
            other = slots.get((met.get(variable, -1), name))
            if other is not None and not _meet(met, holder, other):
                return False
    return _walk(ours, theirs, met, set())


def _meet(met: dict[int, int], n: int, m: int) -> bool:
    """Note that two objects are the same, and return whether nothing speaks against it."""
    return met.setdefault(n, m) == m


def _walk(ours: Sequence[Node], theirs: Sequence[Node], met: dict[int, int], ends: set[int]) -> bool:
    """Walk two graphs side by side, not through the objects at which ways end; return whether the same names lead to the same objects."""
    waiting = deque(n for n in met if n not in ends)
    seen = set(waiting)
    while waiting:
        n = waiting.popleft()
        there = {name: child for child, name in theirs[met[n]].children}
        for child, name in ours[n].children:
            if name == TRAINED or name not in there:
                continue
            if not _meet(met, child, there[name]):
                return False
            if child not in seen and child not in ends:
                seen.add(child)
                waiting.append(child)
    return True


def _trained(ours: Sequence[Node], theirs: Sequence[Node], n: int, m: int) -> Iterator[tuple[int, int]]:
    """Yield the variables that two optimizers, and those inside of them, call by the same number."""
    waiting, seen = [(n, m)], {n}
    while waiting:
        n, m = waiting.pop()
        there = {name: child for child, name in theirs[m].children}
        for child, name in ours[n].children:
            if name == TRAINED and name in there:
                numbers = {number: variable for variable, number in theirs[there[name]].children}
                yield from ((v, numbers[number]) for v, number in ours[child].children if number in numbers)
            elif name in there and child not in seen:
                seen.add(child)
                waiting.append((child, there[name]))

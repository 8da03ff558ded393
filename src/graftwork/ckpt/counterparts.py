"""Which tensor of a source is which of a model, where the two do not call them quite alike.

Keras numbers layers through a whole session (``conv2d_57``); a Sequential model puts its name before those of its layers in some files and
not in others; an export of Keras 3 lists variables in the model's order. Four ways are tried in turn, and one counts only if it explains
every tensor that the model needs, in the same shape, by one tensor each, and passes none over that has the model's own name for it:

::

    the same name       dense/kernel            dense/kernel
    a prefix            net/dense/kernel        dense/kernel         the same one before all names
    the order           variables/3             dense_7/kernel       of all variables, last parts of names and shapes equal in each place
    other numbers       conv2d_5/kernel         conv2d_57/kernel     every layer of a kind shifted by the same number

A way that explains some tensors only explains none. Where none explains all, equal names count, and names that end alike in one pair only.
"""

import itertools
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graftwork.tensor import Role, TensorSpec

FREE = (Role.OPTIMIZER, Role.COUNTER, Role.SEED)
"""Roles of tensors that a model computes the same without."""

SPELLINGS = {"kernel": "depthwise_kernel"}
"""Last parts of names that Keras 2 has for what Keras 3 calls otherwise."""


@dataclass(frozen=True, slots=True)
class Counterpart:
    """The tensor of the source that a tensor of the model gets its values from.

    Attributes:
        name: Its name in the source.
        how: By what it was found, in words.
    """

    name: str
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The variables of a model, or of a source, in the order of ``model.variables``.

    Attributes:
        names: Canonical names.
        leaves: The last part of each variable's own name.
    """

    names: tuple[str, ...]
    leaves: tuple[str, ...]

    def without(self, names: Container[str]) -> "Order":
        """Return the order of all others."""
        left = [pair for pair in zip(self.names, self.leaves, strict=True) if pair[0] not in names]
        return Order(names=tuple(name for name, _ in left), leaves=tuple(leaf for _, leaf in left))


Found = dict[str, Counterpart]
Specs = Mapping[str, TensorSpec]


def counterparts(target: Specs, source: Specs, ours: Order | None = None, theirs: Order | None = None) -> Found:
    """Return what each tensor of a model gets its values from; some may get nothing.

    Args:
        target: The model's tensors.
        source: The tensors that there are.
        ours: The order of the model's variables, where it is known.
        theirs: The order of the source's, where it is known.
    """
    needed = {name: spec for name, spec in target.items() if spec.role not in FREE}
    ways: tuple[Callable[[], Found], ...] = (
        lambda: _same(target, source),
        lambda: _prefixed(target, needed, source),
        lambda: _in_order(target, source, ours, theirs),
        lambda: _numbered(target, needed, source),
    )
    for way in ways:
        found = way()
        if needed.keys() <= found.keys():
            return found
    return _piecewise(target, source)


def by_names(target: Specs, source: Specs) -> Found:
    """Return the counterparts of all tensors of a model by equal names, or by names that differ by one prefix; nothing if neither tells."""
    found = _same(target, source)
    if target.keys() != found.keys():
        found = _prefixed(target, target, source)
    return found if target.keys() == found.keys() else {}


def _fits(ours: TensorSpec, theirs: TensorSpec) -> bool:
    return ours.shape == theirs.shape


def _spellings(name: str) -> Iterator[str]:
    """Yield the names that a tensor may have in a source."""
    yield name
    chain, _, leaf = name.rpartition("/")
    if leaf in SPELLINGS:
        yield f"{chain}/{SPELLINGS[leaf]}" if chain else SPELLINGS[leaf]


def _same(target: Specs, source: Specs) -> Found:
    """Return tensors of the same name."""
    return _renamed(target, source, lambda name: name, "the same name")


def _renamed(target: Specs, source: Specs, rename: Callable[[str], str | None], how: str) -> Found:
    found: Found = {}
    for name, spec in target.items():
        for spelling in _spellings(name):
            there = rename(spelling)
            if there is not None and there in source and _fits(spec, source[there]):
                found[name] = Counterpart(there, how)
                break
    used = {counterpart.name for counterpart in found.values()}
    passed_over = (name in source and name not in used for name in found)
    return {} if len(used) < len(found) or any(passed_over) else found


def _prefixed(target: Specs, needed: Specs, source: Specs) -> Found:
    """Return tensors whose names differ by one prefix, the same for all; nothing if two prefixes would do."""
    if not needed:
        return {}
    first = next(iter(needed))
    ways: dict[str, Callable[[str], str | None]] = {}
    for spelling in _spellings(first):
        for name in source:
            if name.endswith(f"/{spelling}"):
                prefix = name.removesuffix(spelling)
                ways[f"behind {prefix}"] = lambda own, prefix=prefix: prefix + own  # type: ignore[misc]
            elif spelling.endswith(f"/{name}"):
                prefix = spelling.removesuffix(name)
                ways[f"without {prefix}"] = lambda own, prefix=prefix: (  # type: ignore[misc]
                    own.removeprefix(prefix) if own.startswith(prefix) else None
                )
    found = [_renamed(target, source, rename, f"the same name {how}") for how, rename in ways.items()]
    whole = [one for one in found if needed.keys() <= one.keys()]
    return whole[0] if len(whole) == 1 else {}


def _in_order(target: Specs, source: Specs, ours: Order | None, theirs: Order | None) -> Found:
    """Return tensors in the same place of two lists, if all last parts of names and all shapes agree."""
    if ours is None or theirs is None or len(ours.names) != len(theirs.names):
        return {}
    pairs = list(zip(ours.names, ours.leaves, theirs.names, theirs.leaves, strict=True))
    if all(
        name in target and there in source and _alike(leaf, other) and _fits(target[name], source[there])
        for name, leaf, there, other in pairs
    ):
        return {name: Counterpart(there, "the order of the variables") for name, _, there, _ in pairs}
    return {}


def _alike(leaf: str, other: str) -> bool:
    return other in (leaf, SPELLINGS.get(leaf))


# Numbers ---------------------------------------------------------------------------------------------------------------

Chain = tuple[str, ...]
Contents = dict[str, tuple[int, ...]]


def _numbered(target: Specs, needed: Specs, source: Specs) -> Found:
    """Return tensors of layers of the same kinds under other numbers, if there is one way only."""
    ours = _layers(needed)
    theirs = _layers({name: spec for name, spec in source.items() if spec.role not in FREE})
    ways: list[dict[Chain, Chain]] = []
    for cut, other in itertools.product(_cuts(ours), _cuts(theirs)):
        if not (cut and other):
            way = _shifted(ours, theirs, cut, other)
            if way and way not in ways:
                ways.append(way)
    if len(ways) != 1:
        return {}
    to = {"/".join(chain): "/".join(there) for chain, there in ways[0].items()}

    def rename(name: str) -> str | None:
        chain, _, leaf = name.rpartition("/")
        return f"{to[chain]}/{leaf}" if chain in to else None

    return _renamed(target, source, rename, "the same kind of layer under another number")


def _layers(specs: Specs) -> dict[Chain, Contents]:
    """Return the shapes of what each layer holds, by the names that lead to it."""
    found: dict[Chain, Contents] = {}
    for name, spec in specs.items():
        *chain, leaf = name.split("/")
        found.setdefault(tuple(chain), {})[SPELLINGS.get(leaf, leaf)] = spec.shape
    return found


def _cuts(layers: Mapping[Chain, Contents]) -> tuple[int, ...]:
    """Return how many first parts of all names may be left out: none, or the one that all share."""
    heads = {chain[:1] for chain in layers}
    return (0, 1) if len(heads) == 1 and all(len(chain) > 1 for chain in layers) else (0,)


def _shifted(
    ours: Mapping[Chain, Contents], theirs: Mapping[Chain, Contents], cut: int, other: int
) -> dict[Chain, Chain]:
    """Return which layer is which, if all layers of each kind are shifted by the same numbers; else nothing."""
    mine, others = _by_kind(ours, cut), _by_kind(theirs, other)
    if mine.keys() - others.keys():
        return {}
    found: dict[Chain, Chain] = {}
    for kind, chains in mine.items():
        listed = others[kind]
        if len(listed) != len(chains):
            return {}
        shifts = set()
        for (numbers, chain), (there, match) in zip(sorted(chains), sorted(listed), strict=True):
            if ours[chain] != theirs[match]:
                return {}
            shifts.add(tuple(a - b for a, b in zip(numbers, there, strict=True)))
            found[chain] = match
        if len(shifts) > 1:
            return {}
    return found


def _by_kind(layers: Mapping[Chain, Contents], cut: int) -> dict[Chain, list[tuple[tuple[int, ...], Chain]]]:
    """Return the numbers in the names of layers, by these names without their numbers."""
    found: dict[Chain, list[tuple[tuple[int, ...], Chain]]] = {}
    for chain in layers:
        parts = [_NUMBER.fullmatch(part) for part in chain[cut:]]
        kind = tuple(part[1] if part else "" for part in parts)
        found.setdefault(kind, []).append((tuple(int(part[2] or 0) if part else 0 for part in parts), chain))
    return found


_NUMBER = re.compile(r"(.*?)(?:_(\d{1,9}))?", re.DOTALL)


# What is left ----------------------------------------------------------------------------------------------------------


def _piecewise(target: Specs, source: Specs) -> Found:
    """Return tensors of the same name, and those whose names end alike (layer and variable) in one pair only."""
    found = _same(target, source)
    taken = {counterpart.name for counterpart in found.values()}
    left = {name: spec for name, spec in target.items() if name not in found and name not in source}
    there = {name: spec for name, spec in source.items() if name not in taken and name not in target}
    near = {
        name: [n for n, s in there.items() if _fits(spec, s) and _end_alike(name, n)] for name, spec in left.items()
    }
    wanted = [name for names in near.values() for name in names]
    for name, names in near.items():
        if len(names) == 1 and wanted.count(names[0]) == 1:
            found[name] = Counterpart(names[0], "the only name that ends alike")
    return found


def _end_alike(name: str, other: str) -> bool:
    """Return whether one name is the end of the other, with a layer's name in it."""
    return any(
        min(a.count("/"), other.count("/")) >= 1 and (a.endswith(f"/{other}") or other.endswith(f"/{a}"))
        for a in _spellings(name)
    )


def likely(name: str, target: Specs, source: Specs, taken: Sequence[str]) -> list[str]:
    """Return the tensors of a source that could be a tensor of the model, by shape and the last part of the name; else by shape alone."""
    spec = target[name]
    free = [n for n, s in source.items() if n not in taken and _fits(spec, s) and s.role not in FREE]
    leaf = name.rpartition("/")[2]
    return [n for n in free if _alike(leaf, n.rpartition("/")[2])] or free

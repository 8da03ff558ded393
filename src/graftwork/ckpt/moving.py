"""Objects of a checkpoint under other names: ``model/=encoder/`` makes of ``Checkpoint(model=…)`` what ``Checkpoint(encoder=…)`` restores.

TensorFlow finds objects by the names by which others refer to them, from the root on, so that one object can have many paths. A rule is
about one path, and moves the last reference on it: what lies below goes along, other paths that lead there stay, and an optimizer keeps its
slots. Objects that a new path needs on its way are made. Where there is an object at the new path already, a scope's contents go into it.
The keys of values follow. Paths are spelled as keys are, where a dot in a name is two and a slash is ``.S``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graftwork.ckpt.names import Rule, nearest
from graftwork.ckpt.objects import COUNTER, escaped
from graftwork.errors import MismatchError, OptionError
from graftwork.stores.tf_graph import ATTRIBUTES
from graftwork.stores.tf_protos import Attribute, Node, fields, node_of, remade
from graftwork.stores.tf_protos import field as encoded

SLOT = "/.OPTIMIZER_SLOT/"
"""What stands in a key between the path to a variable and those to its optimizer and the slot."""

Path = tuple[str, ...]
"""The names that lead from the root to an object, as keys spell them."""

Edge = tuple[int, str]
"""A reference: the number of the object that refers, and the name by which."""


@dataclass(frozen=True, slots=True)
class Moved:
    """An object graph after its objects have been moved.

    Attributes:
        nodes: The objects.
        keys: The new key of every key that has another now.
        paths: Old and new paths of what was moved.
    """

    nodes: tuple[Node, ...]
    keys: Mapping[str, str]
    paths: tuple[tuple[str, str], ...]


def move(nodes: Sequence[Node], keys: Iterable[str], rules: Sequence[Rule], where: str) -> Moved:
    """Return a graph whose objects are found under other names.

    Args:
        nodes: The graph.
        keys: The keys of its values.
        rules: Paths and what they become. Of several that are about one reference the first counts.
        where: What messages call the graph.

    Raises:
        OptionError: If a rule fits nothing, or can do nothing.
        MismatchError: If two objects would have one path, or two values one key.
    """
    moving = _Moving(nodes, where)
    keys = list(keys)
    for rule in rules:
        moving.take(rule, keys)
    return moving.done(keys)


@dataclass(slots=True)
class _Object:
    """An object that is being given other references."""

    node: Node
    children: dict[str, int] = field(default_factory=dict)
    more: list[Node] = field(default_factory=list)  # objects that have become one with it


class _Moving:
    """How a graph changes. References are looked up in the graph as it was, and moved at the end, all at once."""

    def __init__(self, nodes: Sequence[Node], where: str) -> None:
        self.where = where
        self.objects = [_Object(node) for node in nodes]
        for thing in self.objects:
            for child, name in thing.node.children:
                if thing.children.setdefault(escaped(name), child) != child:
                    raise MismatchError(
                        f"an object of {where} refers to two others as {name!r}, so nobody knows which is meant"
                    )
        self.before = [dict(thing.children) for thing in self.objects]
        self.moves: dict[Edge, tuple[Path, bool]] = {}  # where each goes, and whether it may meet an object there
        self.old: dict[Edge, Path] = {}
        self.top: Path | None = None

    # What rules are about

    def take(self, rule: Rule, keys: Sequence[str]) -> None:
        """Note what a rule moves."""
        old, new = (_parts(side.removeprefix("/")) for side in (rule.old, rule.new))
        if rule.is_scope and not old:
            if self.top is not None or not new:
                raise OptionError(f"the rule '{rule}' moves nothing: the top stays where it is, or has been moved")
            self.top = new
            return
        found = [(old, new)] if self.edge(old) is not None else []
        if not found and not rule.is_scope:
            paths = dict.fromkeys(path for path in map(_path_of, keys) if self.edge(_parts(path)) is not None)
            found = [(_parts(path), _parts(becomes)) for path in paths if (becomes := rule.apply(path))]
        if not found:
            raise OptionError(f"the rule '{rule}' fits no object of {self.where}; {self.near(rule)}")
        taken = False
        for path, goal in found:
            edge = self.edge(path)
            assert edge is not None
            if edge not in self.moves and goal != path:
                self.moves[edge], self.old[edge], taken = (goal, rule.is_scope), path, True
        if not taken:
            raise OptionError(f"the rule '{rule}' moves nothing of {self.where} that rules before it do not move")

    def edge(self, path: Path) -> Edge | None:
        """Return the last reference on a path, None where the graph has no such path."""
        at, edge = 0, None
        for name in path:
            if name not in self.before[at]:
                return None
            edge, at = (at, name), self.before[at][name]
        return edge

    def near(self, rule: Rule) -> str:
        """Return what there is where a rule looked for something."""
        path: list[str] = []
        for name in _parts(rule.old):
            if self.edge((*path, name)) is None:
                break
            path.append(name)
        edge = self.edge(tuple(path))
        here = self.before[self.before[edge[0]][edge[1]] if edge else 0]
        return nearest(rule.old, ["/".join((*path, name)) + "/" * rule.is_scope for name in here])

    # How they are moved

    def done(self, keys: Sequence[str]) -> Moved:
        """Move what was noted."""
        targets = {edge: self.objects[edge[0]].children.pop(edge[1]) for edge in self.moves}
        root = 0
        instead: dict[int, int] = {}
        if self.top is not None:
            root = self.made()
            if COUNTER in self.objects[0].children:
                self.objects[root].children[COUNTER] = self.objects[0].children.pop(COUNTER)
            self.attach(root, self.top, 0, may_meet=False, instead=instead)
        for edge, (path, is_scope) in sorted(self.moves.items(), key=lambda item: len(item[1][0])):
            self.attach(root, path, targets[edge], may_meet=is_scope, instead=instead)
        renamed = self.renamed(keys)
        order = [root, *(n for n in range(len(self.objects)) if n != root and n not in instead)]
        numbers = {n: at for at, n in enumerate(order)}
        for n in instead:
            numbers[n] = numbers[_last(instead, n)]
        paths = [("/".join(self.old[edge]), "/".join(path)) for edge, (path, _) in self.moves.items()]
        if self.top is not None:
            paths.append(("/", "/".join(self.top)))
        return Moved(tuple(self.built(n, numbers, renamed) for n in order), renamed, tuple(paths))

    def made(self) -> int:
        """Return the number of a new object."""
        self.objects.append(_Object(node_of()))
        return len(self.objects) - 1

    def attach(self, root: int, path: Path, target: int, *, may_meet: bool, instead: dict[int, int]) -> None:
        """Let a path lead to an object."""
        at, target = root, _last(instead, target)
        for name in path[:-1]:
            children = self.objects[at].children
            if name not in children:
                children[name] = self.made()
            at = _last(instead, children[name])
        if path and path[-1] not in self.objects[at].children:
            self.objects[at].children[path[-1]] = target
            return
        there = _last(instead, self.objects[at].children[path[-1]]) if path else root
        if there == target:
            return
        if not may_meet or target == 0:
            raise MismatchError(f"there is an object {'/'.join(path)!r} in {self.where} already")
        self.join(target, there, path)
        instead[target] = there

    def join(self, one: int, other: int, path: Path) -> None:
        """Let all that an object has be the other's."""
        mine, theirs = self.objects[one], self.objects[other]
        both = [name for name, child in mine.children.items() if theirs.children.get(name, child) != child]
        if both:
            raise MismatchError(
                f"there is an object {'/'.join((*path, both[0]))!r} in {self.where} already"
                + (f", and {len(both) - 1} more that would get the paths of others" if len(both) > 1 else "")
            )
        if any(node.attributes for node in (mine.node, *mine.more)):
            raise MismatchError(
                f"an object of {self.where} has a value of its own, and cannot become one with {'/'.join(path) or 'the root'!r}",
                advice="give it a path of its own",
            )
        theirs.children |= mine.children
        theirs.more += [mine.node, *mine.more]

    def built(self, n: int, numbers: Mapping[int, int], keys: Mapping[str, str]) -> Node:
        """Return an object as it is in the result."""
        thing = self.objects[n]

        def followed(attribute: Attribute) -> Attribute:
            return replace(attribute, key=keys.get(attribute.key, attribute.key))

        rest: dict[bytes, None] = {}
        for node in (thing.node, *thing.more):
            there = remade(node, lambda number: numbers[number], followed)
            rest |= {encoded(which, value): None for which, value in fields(there.message) if which != 1}
        children = [(numbers[child], _plain(name)) for name, child in thing.children.items()]
        return node_of(children, rest=b"".join(rest))

    # Keys

    def renamed(self, keys: Sequence[str]) -> dict[str, str]:
        """Return the new key of every key, and of every value's in the graph, that has another now."""
        given = dict.fromkeys([*keys, *(a.key for thing in self.objects for a in thing.node.attributes)])
        found = {key: self.key(key) for key in given}
        seen: dict[str, str] = {}
        for key in keys:
            if seen.setdefault(found[key], key) != key:
                raise MismatchError(f"{seen[found[key]]!r} and {key!r} of {self.where} would both be {found[key]!r}")
        return {key: new for key, new in found.items() if new != key}

    def key(self, key: str) -> str:
        """Return what a key becomes: that of a slot names a variable, its optimizer and the slot."""
        path, attributes, leaf = key.rpartition(ATTRIBUTES)
        if not attributes:
            return key
        variable, slot, holder = path.partition(SLOT)
        if not slot:
            return self.path(path) + attributes + leaf
        optimizer, slash, name = holder.rpartition("/")
        return self.path(variable) + slot + (self.path(optimizer) if slash else "") + slash + name + attributes + leaf

    def path(self, path: str) -> str:
        """Return what a path becomes, itself where it is none of the graph."""
        at, new = 0, list(self.top or ())
        for name in _parts(path):
            if name not in self.before[at]:
                return path
            if (at, name) in self.moves:
                new = list(self.moves[at, name][0])
            elif (at, name) == (0, COUNTER):
                new = [name]
            else:
                new.append(name)
            at = self.before[at][name]
        return "/".join(new)


def _path_of(key: str) -> str:
    """Return the path to the object that a key is a value of, nothing for a slot's."""
    path, attributes, _ = key.rpartition(ATTRIBUTES)
    return path if attributes and SLOT not in path else ""


def _parts(path: str) -> Path:
    return tuple(name for name in path.split("/") if name)


def _plain(name: str) -> str:
    """Return a name as it was before it was written into a key."""
    return re.sub(r"\.([.S])", lambda found: {".": ".", "S": "/"}[found[1]], name)


def _last(instead: Mapping[int, int], number: int) -> int:
    while number in instead:
        number = instead[number]
    return number

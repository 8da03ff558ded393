"""The object graphs of several checkpoints as one, which ``tf.train.Checkpoint(a=…, b=…)`` restores.

The result has a new root. What a source's root refers to, the new one refers to; with a scope, the source's root is what the new one refers
to by that name. Objects of the same name are a conflict of all that lies below them: one source's are taken, and where something of the
other that is kept (an optimizer) refers to what is not, it refers to what took its place, found by the names that lead there.
``save_counter``, which every `tf.train.Checkpoint` makes anew, is no object of the user's; the result has one.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from graftwork.errors import MismatchError
from graftwork.stores.tf_graph import ATTRIBUTES, UNNAMED, VALUE
from graftwork.stores.tf_protos import Attribute, Node, fields, node_of, remade, rest_of

COUNTER = "save_counter"
COUNTER_KEY = COUNTER + ATTRIBUTES + VALUE

MOST_SHOWN = 300
"""So many characters of the names that lead to an object are told; a graph may be a hundred thousand objects deep."""

SAVER = 4
"""The field of an object that TensorFlow saves with a function of the user's."""

Policy = Literal["error", "first", "last", "equal"]
"""Which of several things of one name is taken: none, that of the first source, that of the last, or any if all are the same."""

Place = tuple[int, str]
"""The number of a source and a key there."""


Object = tuple[int, int]
"""The number of a source and of an object there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The objects of one source.

    Attributes:
        label: What messages call it.
        nodes: Its object graph; not empty.
        keys: The keys of all its tensors and texts.
        scope: The names that lead to its root in the result, none if it is the root.
    """

    label: str
    nodes: tuple[Node, ...]
    keys: tuple[str, ...]
    scope: tuple[str, ...] = ()

    @property
    def counter(self) -> int | None:
        """Number of the object that counts how often the checkpoint was saved."""
        for child, name in self.nodes[0].children:
            node = self.nodes[child]
            if name == COUNTER and child and not node.children and [a.name for a in node.attributes] == [VALUE]:
                return child
        return None

    def prefixed(self, key: str) -> str:
        """Return what a key of the source is in the result."""
        return "".join(f"{escaped(name)}/" for name in self.scope) + key


@dataclass(frozen=True, slots=True)
class Conflict:
    """What several sources have by the same name: that name, the sources' numbers, whose is taken."""

    path: str
    sources: tuple[int, ...]
    taken: int


@dataclass(slots=True)
class Joined:
    """One object graph made of several.

    Attributes:
        nodes: The objects.
        keys: Where each value comes from, by its key in the result.
        counters: The values of ``save_counter`` that there are; the result's is not in `keys`.
        conflicts: Objects, or values of the root, of the same name.
        differences: Why objects of the same name are not the same, one sentence each.
        met: Values that meet one of the same name: the one that is not taken, and the one that is.
        shared: Those of them that kept objects of the same source refer to.
        left_out: Values that are not taken.
        bound: Keys of values that belong to objects.
    """

    nodes: tuple[Node, ...] = ()
    keys: dict[str, Place] = field(default_factory=dict)
    counters: list[Place] = field(default_factory=list)
    conflicts: list[Conflict] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    met: list[tuple[Place, Place]] = field(default_factory=list)
    shared: list[tuple[Place, Place]] = field(default_factory=list)
    left_out: list[Place] = field(default_factory=list)
    bound: set[str] = field(default_factory=set)


def escaped(name: str) -> str:
    """Return a name as TensorFlow writes it into a key, where slashes divide names."""
    return name.replace(".", "..").replace("/", ".S")


def join(sources: Sequence[Objects], policy: Policy) -> Joined:
    """Return the objects of several sources as one graph.

    Args:
        sources: The sources, in order.
        policy: Which of several objects of one name is taken; with ``error`` and ``equal`` the first, and the caller refuses.

    Raises:
        MismatchError: If they cannot be one graph.
    """
    return _Joining(sources, policy).run()


class _Joining:
    """How graphs become one. Objects are told by the number of their source and their own."""

    def __init__(self, sources: Sequence[Objects], policy: Policy) -> None:
        self.sources, self.policy = sources, policy
        self.found = Joined()
        self.instead: dict[Object, Object] = {}  # objects that are not taken, and what took their place
        self.losing: list[set[str]] = [set() for _ in sources]  # names by which roots refer to such
        self.lost: list[set[int]] = [set() for _ in sources]  # all that lies below them
        self.numbers: dict[Object, int] = {}
        self.tops: dict[tuple[str, ...], int] = {}  # number of the object at each scope
        self.counter: int | None = None
        self.parts = [_parts(source) for source in sources]

    def run(self) -> Joined:
        """Return the result."""
        for s, source in enumerate(self.sources):
            if source.scope and any(w == SAVER for node in source.nodes for w, _ in fields(rest_of(node))):
                raise MismatchError(
                    f"{source.label} has objects that TensorFlow saved with a function of their own (a registered saver)",
                    advice="their names must stay what they are, so give this source no scope",
                )
            for depth in range(len(source.scope) + 1):
                self.tops.setdefault(source.scope[:depth], len(self.tops))
            if source.counter is not None:
                self.found.counters += [(s, a.key) for a in source.nodes[source.counter].attributes]
        self._decide()
        kept = [self._kept(s) for s in range(len(self.sources))]
        self.found.nodes = tuple(self._made(kept))
        for s, nodes in enumerate(kept):
            self._values(s, nodes)
        return self.found

    # What the roots refer to

    def _claims(self) -> dict[tuple[tuple[str, ...], str], list[Object]]:
        """Return what sources want the objects at scopes to refer to: scope and name → sources and objects."""
        claims: dict[tuple[tuple[str, ...], str], list[Object]] = {}
        for s, source in enumerate(self.sources):
            for name, child in _children(source, source.nodes[0]).items():
                if child != source.counter:
                    claims.setdefault((source.scope, name), []).append((s, child))
        reserved = {(scope[:-1], scope[-1]): "is also a scope" for scope in self.tops if scope}
        if self.found.counters:
            reserved[(), COUNTER] = "does not count as that of other sources does"
        for place, why in reserved.items():
            if place in claims:
                label = self.sources[claims[place][0][0]].label
                raise MismatchError(
                    f"{label} has an object {'/'.join((*place[0], place[1]))!r}, which {why}",
                    advice="choose another scope, or give this source one",
                )
        return claims

    def _decide(self) -> None:
        """Choose among objects of one name, and find what takes the places of the others."""
        for (scope, name), wanted in self._claims().items():
            path = "/".join((*scope, name))
            roots = [s for s, child in wanted if child == 0]
            if len(wanted) == 1 or len(roots) == len(wanted):
                continue
            if roots:
                raise MismatchError(
                    f"{path!r} leads back to the root of {self.sources[roots[0]].label}, and to other objects in other sources",
                    advice="give the sources scopes of their own",
                )
            taken = wanted[-1 if self.policy == "last" else 0]
            self.found.conflicts.append(Conflict(path, tuple(s for s, _ in wanted), taken[0]))
            for s, child in wanted:
                if s != taken[0]:
                    self.losing[s].add(name)
                    self._replace((s, child), taken, path)
        for other, place in self.instead.items():
            while place in self.instead:  # no circle: what is taken is of a source further ahead (behind, for `last`)
                place = self.instead[place]
            self.instead[other] = place
        for s in range(len(self.sources)):
            self._lose(s)
            self._replace_slots(s)

    def _lose(self, s: int) -> None:
        """Find all that lies below objects that are not taken, but for what a kept name of the root means and nothing took the place of.

        A model that was compiled leads to its optimizer, which the root may mean too.
        """
        nodes = self.sources[s].nodes
        named = {
            child for child, name in nodes[0].children if name not in self.losing[s] and (s, child) not in self.instead
        }
        starts = [child for child, name in nodes[0].children if name in self.losing[s]]
        self.lost[s] = _reached(nodes, starts, named) - named - {0}

    def _replace(self, other: Object, taken: Object, path: str) -> None:
        """Walk two objects of one name side by side."""
        waiting = deque([(other, taken, path)])
        while waiting:
            (s, n), (t, m), path = waiting.popleft()
            if (s, n) in self.instead or n == 0 or m == 0:
                if self.instead.get((s, n), (t, m)) != (t, m) or (n == 0) != (m == 0):
                    self._differ(s, t, path, "leads to another object")
                continue
            self.instead[s, n] = (t, m)
            mine, theirs = self.sources[s].nodes[n], self.sources[t].nodes[m]
            children = _children(self.sources[s], mine), _children(self.sources[t], theirs)
            for name, child in children[0].items():
                if name in children[1]:
                    waiting.append(((s, child), (t, children[1][name]), f"{path}/{name}"[-MOST_SHOWN:]))
            values = [{a.name: 0 for a in node.attributes} for node in (mine, theirs)]
            for a, b in (children, values):
                for name in (*(n for n in a if n not in b), *(n for n in b if n not in a)):
                    self._differ(s, t, path, f"has {name!r} in one of them alone")

    def _replace_slots(self, s: int) -> None:
        """Find what takes the places of slots of optimizers that are not taken."""
        for n in sorted(self.lost[s]):
            t, m = self.instead.get((s, n), (s, n))
            if t == s:
                continue
            mine, theirs = (
                {(self.instead.get((k, v), (k, v)), name): h for v, name, h in self.sources[k].nodes[i].slots}
                for k, i in ((s, n), (t, m))
            )
            for slot, holder in mine.items():
                if slot in theirs:
                    self.instead.setdefault((s, holder), (t, theirs[slot]))
            if set(mine) != set(theirs):
                self._differ(s, t, "an optimizer", "has slots in one of them alone")

    def _differ(self, s: int, t: int, path: str, what: str) -> None:
        labels = self.sources[s].label, self.sources[t].label
        self.found.differences.append(f"{path!r} of {labels[0]} is not that of {labels[1]}: it {what}")

    # What is kept

    def _kept(self, s: int) -> set[int]:
        """Return the objects of a source that are in the result, its root and what counts aside."""
        nodes, root = self.sources[s].nodes, self.sources[s].nodes[0]
        replaced = {n for n in range(len(nodes)) if (s, n) in self.instead}
        starts = [child for child, name in root.children if name not in self.losing[s]] + [h for _, _, h in root.slots]
        seen = _reached(nodes, _referred(root))
        starts += [n for n in range(1, len(nodes)) if n not in seen]
        return _reached(nodes, starts, replaced) - replaced - self.lost[s] - {0, self.sources[s].counter or 0}

    def _wanted(self, s: int, kept: set[int]) -> set[int]:
        """Return the objects of a source that the result refers to."""
        nodes = self.sources[s].nodes
        root = {child for child, name in nodes[0].children if name not in self.losing[s]}
        return root | {n for slot in nodes[0].slots for n in slot[::2]} | _referred(*(nodes[n] for n in kept))

    def _made(self, kept: Sequence[set[int]]) -> list[Node]:
        """Give every object its number; return them all."""
        at = len(self.tops)
        for s, source in enumerate(self.sources):
            self.numbers[s, 0] = self.tops[source.scope]
            for n in range(1, len(source.nodes)):
                if n in kept[s]:
                    self.numbers[s, n], at = at, at + 1
                elif n == source.counter:
                    if self.counter is None:
                        self.counter, at = at, at + 1
                    self.numbers[s, n] = self.counter
        self.numbers |= {other: self.numbers[place] for other, place in self.instead.items() if place in self.numbers}
        if self.policy in ("first", "last"):
            for s, objects in enumerate(kept):
                self._all_there(s, objects)
        nodes = [node_of()] * at
        for s, source in enumerate(self.sources):
            for n in kept[s]:
                nodes[self.numbers[s, n]] = self._renamed(s, source.nodes[n])
            if source.counter is not None and self.counter is not None:
                counter = source.nodes[source.counter]
                nodes[self.counter] = remade(counter, lambda _: None, lambda a: Attribute(a.name, COUNTER, COUNTER_KEY))
        for scope, number in self.tops.items():
            nodes[number] = self._top(scope)
        return nodes

    def _all_there(self, s: int, kept: set[int]) -> None:
        """Refuse objects that refer to what is left out and has nothing in its place."""
        source = self.sources[s]
        missing = min((n for n in self._wanted(s, kept) if (s, n) not in self.numbers), default=None)
        if missing is None:
            return
        keys = [attribute.key for attribute in source.nodes[missing].attributes]
        raise MismatchError(
            f"what is kept of {source.label} refers to {keys[0] if keys else 'an object'!r}, in whose place the source that it gives "
            "way to has nothing",
            advice="what belongs together (a model and its optimizer) must come from one source: drop the rest of the other with "
            "`ckpt drop`, or give each a scope",
        )

    def _renamed(self, s: int, node: Node) -> Node:
        """Return an object with its numbers and keys in the result."""
        source = self.sources[s]

        def renamed(attribute: Attribute) -> Attribute:
            name = attribute.full_name
            name = name if name in ("", UNNAMED) else "/".join((*source.scope, name))
            return replace(attribute, full_name=name, key=source.prefixed(attribute.key))

        return remade(node, lambda n: self.numbers.get((s, n)), renamed)

    def _top(self, scope: tuple[str, ...]) -> Node:
        """Return the object at a scope: all roots that are lifted to it, as one."""
        children: dict[tuple[int, str], None] = {}
        attributes: dict[str, Attribute] = {}
        slots: dict[tuple[int, str, int], None] = {}
        rest: dict[bytes, None] = {}
        for s, source in enumerate(self.sources):
            if source.scope == scope:
                root = self._renamed(s, source.nodes[0])
                children |= {
                    (child, name): None
                    for child, name in root.children
                    if name not in self.losing[s] and (not scope or child != self.counter)
                }
                theirs = {attribute.name: attribute for attribute in root.attributes}
                attributes = {**attributes, **theirs} if self.policy == "last" else {**theirs, **attributes}
                slots |= dict.fromkeys(root.slots)
                rest[rest_of(root)] = None
        children |= {(number, inner[-1]): None for inner, number in self.tops.items() if inner and inner[:-1] == scope}
        if not scope and self.counter is not None:
            children[self.counter, COUNTER] = None
        return node_of(children, attributes.values(), slots, b"".join(rest))

    # Values

    def _values(self, s: int, kept: set[int]) -> None:
        """Find where a source's values go, and which of them meet others."""
        source, found = self.sources[s], self.found
        given = {a.key for n in kept for a in source.nodes[n].attributes}
        bound = {a.key for n, node in enumerate(source.nodes) if n for a in node.attributes}
        for owner, keys in self.parts[s].items():
            for key in keys.values():
                if owner in given or owner not in bound:
                    self._take((s, key), bound=owner in given)
                elif (s, key) not in found.counters:
                    found.left_out.append((s, key))
        wanted = self._wanted(s, kept)
        for n in range(len(source.nodes)):
            if (s, n) in self.instead:
                pairs = list(self._meet((s, n), self.instead[s, n]))
                found.met += pairs
                found.shared += pairs if n in wanted else []

    def _take(self, place: Place, *, bound: bool) -> None:
        """Take a value; those of the root, and those that belong to no object, may meet others of the same key."""
        found = self.found
        key = self.sources[place[0]].prefixed(place[1])
        before = found.keys.setdefault(key, place)
        if before == place:
            found.bound |= {key} if bound else set()
            return
        labels = [self.sources[s].label for s, _ in (before, place)]
        if bound or key in found.bound:
            raise MismatchError(
                f"{labels[0]} and {labels[1]} both keep values under the key {key!r}, of different objects",
                advice="give one of them a scope",
            )
        taken, other = (place, before) if self.policy == "last" else (before, place)
        found.keys[key] = taken
        found.conflicts.append(Conflict(key, (before[0], place[0]), taken[0]))
        found.met.append((other, taken))
        found.left_out.append(other)

    def _meet(self, other: Object, taken: Object) -> Iterator[tuple[Place, Place]]:
        """Yield the values of an object that was not taken with those of the one that was."""
        (s, n), (t, m) = other, taken
        theirs = {a.name: self.parts[t].get(a.key, {}) for a in self.sources[t].nodes[m].attributes}
        for attribute in self.sources[s].nodes[n].attributes:
            mine, others = self.parts[s].get(attribute.key, {}), theirs.get(attribute.name, {})
            for rest in (*mine, *(r for r in others if r not in mine)):
                if rest in mine and rest in others:
                    yield (s, mine[rest]), (t, others[rest])
                else:
                    self._differ(s, t, attribute.key + rest, "has a value in one of them alone")


def _children(source: Objects, node: Node) -> dict[str, int]:
    """Return what an object refers to by name.

    Raises:
        MismatchError: If it refers to two objects by one name.
    """
    found: dict[str, int] = {}
    for child, name in node.children:
        if found.setdefault(name, child) != child:
            raise MismatchError(
                f"an object of {source.label} refers to two others as {name!r}, so nobody knows which is meant"
            )
    return found


def _parts(source: Objects) -> dict[str, dict[str, str]]:
    """Return the keys under which each value is saved, by its key in the graph and what stands behind that.

    A table has one key in the graph, and ``-keys`` and ``-values`` behind it. A key that the graph does not have is its own.
    """
    given = {attribute.key for node in source.nodes for attribute in node.attributes}
    found: dict[str, dict[str, str]] = {}
    for key in source.keys:
        table = key.rpartition("-")[0]
        owner = table if key not in given and table in given else key
        found.setdefault(owner, {})[key.removeprefix(owner)] = key
    return found


def _reached(nodes: Sequence[Node], starts: Iterable[int], ends: Iterable[int] = ()) -> set[int]:
    """Return what objects lead to, by references and slots; the root and `ends` are reached, and not gone through."""
    stop, seen = {0, *ends}, set(starts)
    waiting = list(seen)
    while waiting:
        n = waiting.pop()
        if n not in stop:
            found = {child for child, _ in nodes[n].children} | {holder for _, _, holder in nodes[n].slots}
            waiting += found - seen
            seen |= found
    return seen


def _referred(*nodes: Node) -> set[int]:
    """Return the objects that some refer to, variables that have slots among them."""
    found = {child for node in nodes for child, _ in node.children}
    return found | {n for node in nodes for variable, _, holder in node.slots for n in (variable, holder)}

"""One model after the other: what one gives goes into the next."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from graftwork.compose import adapters as ways
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.graph import inline, settle
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, call, fresh_inputs, graph_of, inputs, outputs, packed
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.lazy import keras


@verb
class Chain(Verb):
    """Put models one behind the other: what one gives goes into the next.

    A single output goes to a single input; where a model has several, those of the same name meet, and `connect` says what else.
    The result takes what the first model takes and gives what the last one gives.
    """

    kind: ClassVar[str] = "chain"

    adapters: ways.Adapters = Field(default_factory=dict)
    """What stands between two models where the output of one does not fit the other, by ``a:b``: dense, gap, flatten, resize, cast, pad,
    a layer, or a list of these."""

    connect: Mapping[str, str] = {}
    """Which output goes to an input, by ``model.input``: ``{b.text: a.features}``; ``input`` makes it an input of the result."""

    inline: bool = False
    """Put the layers of all models in one graph, named after their model, instead of each model as one layer."""

    name: str = "chain"
    """What the result is called."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the chain; see `Verb.compose`."""
        if len(members) < 2:
            raise OptionError("a chain takes at least two models")
        names = Names([self.name])
        for member in members:
            member.model.name = names.fresh(member.name)
        return _Chaining(self, members, names).composed()


class _Chaining:
    """The making of one chain.

    Args:
        wishes: The verb.
        members: Its models.
        names: The names in use.
    """

    def __init__(self, wishes: Chain, members: Sequence[Member], names: Names) -> None:
        self.wishes, self.members, self.names = wishes, members, names
        self.by_name = {member.name: member for member in members}
        self.ins = {member.name: inputs(member.model) for member in members}
        self.outs = {member.name: outputs(member.model) for member in members}
        self.notes: list[str] = []
        self.used_adapters: set[str] = set()
        self.used: set[tuple[str, str]] = set()
        self.extra: dict[str, tuple[str, str]] = {}
        self.feeds = self._feeds()
        unknown = [key for key in wishes.adapters if key not in self.used_adapters]
        if unknown:
            known = [f"{a.name}:{b.name}" for a, b in itertools.pairwise(members)]
            raise UnknownNameError("pair of models (under `adapters`)", unknown[0], known)

    def composed(self) -> Composed:
        """Return the chain."""
        first, last = self.members[0], self.members[-1]
        given = fresh_inputs(self.ins[first.name], self.names)
        more = {
            key: next(iter(fresh_inputs({key: self.ins[name][port]}, self.names).values()))
            for key, (name, port) in self.extra.items()
        }
        struct: Any = packed(graph_of(first.model)._inputs_struct, given)
        if more:
            struct = {**(struct if isinstance(struct, dict) else given), **more}
        made = self._run({**given, **more}, self._placed)
        model = keras.Model(struct, packed(graph_of(last.model)._outputs_struct, made), name=self.wishes.name)
        if self.wishes.inline:
            settle(model)

        def reference(values: Any) -> Any:
            flat = keras.tree.flatten(values)
            ports = [*given, *more] if not more else sorted([*given, *more])
            found = self._run(dict(zip(ports, flat, strict=True)), call)
            return packed(graph_of(last.model)._outputs_struct, found)

        for member in self.members[:-1]:
            idle = [name for name in self.outs[member.name] if (member.name, name) not in self.used]
            if idle:
                self.notes.append(
                    f"of {member.name}, nothing takes the output {', '.join(map(repr, idle))}; the result does not have it"
                )
        return Composed(
            model=model, reference=reference, exact=True, classes=last.classes, notes=tuple(dict.fromkeys(self.notes))
        )

    def _placed(self, model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        if self.wishes.inline and graph_of(model) is not None:
            return inline(model, tensors, self.names, model.name)
        return call(model, tensors)

    def _run(self, given: Mapping[str, Any], place: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Run the members one after the other on tensors or arrays, and return what the last one gives."""
        made: dict[str, dict[str, Any]] = {}
        for member in self.members:
            if member is self.members[0]:
                tensors = {name: given[name] for name in self.ins[member.name]}
            else:
                tensors = {
                    port: given[output] if source is None else adapter.adapt(made[source][output])
                    for port, (source, output, adapter) in self.feeds[member.name].items()
                }
            # by position: layers in one graph with others have other names than before
            made[member.name] = dict(zip(self.outs[member.name], place(member.model, tensors).values(), strict=True))
        return made[self.members[-1].name]

    def _feeds(self) -> dict[str, dict[str, tuple[str | None, str, ways.Adapter]]]:
        """Return for each input of each member after the first which output of which member it gets, and through what."""
        explicit = self._explicit()
        feeds: dict[str, dict[str, tuple[str | None, str, ways.Adapter]]] = {}
        for before, member in itertools.pairwise(self.members):
            feeds[member.name] = {}
            for port in self.ins[member.name].values():
                source, output = explicit.get((member.name, port.name)) or self._meets(before, member, port)
                if source is None:
                    key = (
                        port.name
                        if port.name not in (*self.ins[self.members[0].name], *self.extra)
                        else f"{member.name}.{port.name}"
                    )
                    self.extra[key] = (member.name, port.name)
                    feeds[member.name][port.name] = (None, key, ways.Adapter(lambda tensor: tensor))
                    continue
                self.used.add((source, output))
                key = f"{source}:{member.name}"
                precise = f"{source}.{output}:{member.name}.{port.name}"
                self.used_adapters |= {key, precise}
                spec = self.wishes.adapters.get(precise, self.wishes.adapters.get(key))
                adapter = ways.adapter(
                    replace(self.outs[source][output], tensor=None), port, f"{source} → {member.name}", spec, self.names
                )
                self.notes += adapter.notes
                feeds[member.name][port.name] = (source, output, adapter)
        return feeds

    def _explicit(self) -> dict[tuple[str, str], tuple[str | None, str]]:
        """Return what `connect` says, by member and input."""
        found: dict[tuple[str, str], tuple[str | None, str]] = {}
        order = [member.name for member in self.members]
        for target, source in self.wishes.connect.items():
            member, port = self._port(target, self.ins, "input")
            if member == order[0]:
                raise OptionError(
                    f"connect: {target!r} is an input of the first model, which is an input of the result"
                )
            if source == "input":
                found[member, port] = (None, port)
                continue
            giver, output = self._port(source, self.outs, "output")
            if order.index(giver) >= order.index(member):
                raise OptionError(f"connect: {giver!r} comes after {member!r} in the chain, so it cannot feed it")
            found[member, port] = (giver, output)
        return found

    def _port(self, text: str, ports: Mapping[str, Mapping[str, Port]], what: str) -> tuple[str, str]:
        """Return the member and the port that ``model.port`` or ``model`` names; names may hold points themselves."""
        for member, known in ports.items():
            if text == member and len(known) == 1:
                return member, next(iter(known))
            if text.startswith(f"{member}.") and text.removeprefix(f"{member}.") in known:
                return member, text.removeprefix(f"{member}.")
        raise UnknownNameError(what, text, [f"{member}.{name}" for member, known in ports.items() for name in known])

    def _meets(self, before: Member, member: Member, port: Port) -> tuple[str, str]:
        """Return the output of the model before that an input takes where nothing is said."""
        offered, taken = self.outs[before.name], self.ins[member.name]
        if len(offered) == 1 and len(taken) == 1:
            return before.name, next(iter(offered))
        if port.name in offered:
            return before.name, port.name
        raise MismatchError(
            f"{member.name} takes {', '.join(map(str, taken.values()))} and {before.name} gives {', '.join(map(str, offered.values()))}: "
            f"nothing is called {port.name!r}",
            advice=f'say what it gets: connect={{"{member.name}.{port.name}": "{before.name}.{next(iter(offered))}"}}, or "input"',
        )

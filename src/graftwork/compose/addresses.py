"""Addresses of layers and tensors inside a model, as users spell them.

==================  ==============================================================
``layer``           what a layer gives
``outer/inner``     what a layer of a nested model gives
``layer#2``         what its second call gives, counted from 1
``layer[1]``        the second of several tensors that it gives, counted from 0
``a#2/b/c#1[0]``    all of this together
==================  ==============================================================

A layer whose name looks like one of these is found under its name first.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.graph import Tap, calls_of, functional, is_graph
from graftwork.errors import OptionError, UnknownNameError

_GRAMMAR = re.compile(r"(?P<name>.+?)(?:#(?P<call>\d+))?(?:\[(?P<index>\d+)\])?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Place:
    """A layer (or operation) inside a model, or one of its calls or tensors.

    Attributes:
        operation: The layer.
        graph: The Functional in which it stands.
        around: The places of the nested models around it, outermost first.
        call: Which of its calls is meant, counted from 1; None where none is named.
        index: Which of its tensors is meant, counted from 0; None where none is named.
        address: As it was spelled.
    """

    operation: Any
    graph: Any
    around: tuple["Place", ...]
    call: int | None
    index: int | None
    address: str

    def node(self) -> Any:
        """Return the call that is meant (a Keras node).

        Raises:
            OptionError: If it is called several times and none is named, or not so often.
        """
        calls = calls_of(self.graph, self.operation)
        if self.call is None and len(calls) > 1:
            said = ", ".join(f"{_said(node)} ({self._spell(number)})" for number, node in enumerate(calls, 1))
            raise OptionError(
                f"{self.address!r} does not say which call: {self.operation.name!r} is called {len(calls)} times: {said}"
            )
        if self.call is not None and not 1 <= self.call <= len(calls):
            raise OptionError(
                f"{self.address!r}: {self.operation.name!r} is called {_times(len(calls))}, and calls are counted from 1"
            )
        return calls[(self.call or 1) - 1]

    def nodes(self) -> list[Any]:
        """Return the call that is meant, or every call where none is named."""
        return calls_of(self.graph, self.operation) if self.call is None else [self.node()]

    def tap(self) -> Tap:
        """Return the tensor that is meant.

        Raises:
            OptionError: If it is not said which one.
        """
        within = tuple(place.node() for place in self.around)
        node = self.node()
        if self.index is None and len(node.outputs) > 1:
            raise OptionError(
                f"{self.address!r} does not say which tensor: {self.operation.name!r} gives {len(node.outputs)}; "
                f"write {self.address}[0] to {self.address}[{len(node.outputs) - 1}]"
            )
        if self.index is not None and self.index >= len(node.outputs):
            raise OptionError(
                f"{self.address!r}: {self.operation.name!r} gives {_tensors(len(node.outputs))}, and tensors are counted from 0"
            )
        return Tap(within, node.outputs[self.index or 0], self.address)

    def _spell(self, number: int) -> str:
        head = "".join(f"{place.address.rpartition('/')[2]}/" for place in self.around)
        return f"{head}{self.operation.name}#{number}"


def place(model: Any, address: str) -> Place:
    """Return the layer that an address names.

    Raises:
        UnknownNameError: If there is none of this name.
        OptionError: If it leads into something that has no layers, or cannot be looked into.
    """
    return _place(model, functional(model), address, address, ())


def tap(model: Any, address: str) -> Tap:
    """Return the tensor that an address names.

    Raises:
        UnknownNameError: If there is no layer of this name.
        OptionError: If the address does not name one tensor.
    """
    return place(model, address).tap()


def taps(model: Any, addresses: str | Sequence[str]) -> list[Tap]:
    """Return the tensors that one address or several name.

    Raises:
        UnknownNameError: If there is no layer of this name.
        OptionError: If an address does not name one tensor, or none is given.
    """
    spelled = [addresses] if isinstance(addresses, str) else list(addresses)
    if not spelled:
        raise OptionError("no address is given; name the layer whose tensor is meant")
    return [tap(model, address) for address in spelled]


def calls(model: Any, address: str) -> list[Tap]:
    """Return the first tensor of each call of the layer that an address names; of one call, where it names one.

    Raises:
        UnknownNameError: If there is no layer of this name.
        OptionError: If a tensor is named, or a call that was not made.
    """
    found = place(model, address)
    if found.index is not None:
        raise OptionError(f"{address!r} names a tensor; a layer is meant")
    paths: list[tuple[Any, ...]] = [()]
    for each in (*found.around, found):
        paths = [(*path, node) for path in paths for node in each.nodes()]
    return [Tap(tuple(path[:-1]), path[-1].outputs[0], address) for path in paths]


def _place(model: Any, graph: Any, rest: str, address: str, around: tuple[Place, ...]) -> Place:
    operations = {operation.name: operation for operation in graph._operations}
    if rest in operations:
        return Place(operations[rest], graph, around, None, None, address)
    for head, tail in _splits(rest):
        found = _grammatical(operations, head)
        if found is None:
            continue
        operation, call, index = found
        here = Place(
            operation, graph, around, call, index, address[: len(address) - len(tail) - 1] if tail else address
        )
        if not tail:
            return here
        if index is not None:
            raise OptionError(f"{address!r}: {head!r} is a tensor, which has no layers inside")
        return _place(operation, _inside(operation, address), tail, address, (*around, here))
    raise UnknownNameError(*_unknown(model, operations, rest, address, around))


def _splits(rest: str) -> Iterator[tuple[str, str]]:
    """Yield an address as the name of a layer and what lies inside it, whole first: names may hold slashes themselves."""
    yield rest, ""
    for found in reversed(list(re.finditer("/", rest))):
        if rest[: found.start()] and rest[found.end() :]:
            yield rest[: found.start()], rest[found.end() :]


def _grammatical(operations: dict[str, Any], text: str) -> tuple[Any, int | None, int | None] | None:
    if text in operations:
        return operations[text], None, None
    found = _GRAMMAR.fullmatch(text)
    if found is None or found["name"] not in operations:
        return None
    call, index = found["call"], found["index"]
    return operations[found["name"]], int(call) if call else None, int(index) if index else None


def _inside(operation: Any, address: str) -> Any:
    """Return the graph in a nested model."""
    if (
        hasattr(operation, "_flatten_layers")
        and not is_graph(operation)
        and operation._flatten_layers(include_self=False)
    ):
        raise OptionError(
            f"{address!r}: {type(operation).__name__} {operation.name!r} runs its layers in code of its own, so what lies inside cannot be "
            "addressed; it can only be used as a whole"
        )
    if not is_graph(operation):
        raise OptionError(f"{address!r}: {type(operation).__name__} {operation.name!r} has no layers inside")
    return functional(operation)


def _unknown(
    model: Any, operations: dict[str, Any], rest: str, address: str, around: tuple[Place, ...]
) -> tuple[str, str, list[str]]:
    """Return what is said of a name that is not there: where it is found inside a nested model, that model is named."""
    where = (
        f"layer of {'/'.join(place.operation.name for place in around) or model.name!r}"
        if around
        else f"layer of {model.name!r}"
    )
    bare = rest.partition("/")[0]
    inside = [path for path in deep_names(operations.values()) if path.rpartition("/")[2] == bare]
    return where, rest if rest != address else address, inside or list(operations)


def deep_names(operations: Any) -> Iterator[str]:
    """Yield the addresses of the layers inside nested models."""
    for operation in operations:
        if is_graph(operation):
            inner = functional(operation)._operations
            yield from (f"{operation.name}/{each.name}" for each in inner)
            yield from (f"{operation.name}/{name}" for name in deep_names(inner))


def _said(node: Any) -> str:
    """Return what a call was made on."""
    return "on " + " and ".join(tensor._keras_history.operation.name for tensor in node.input_tensors)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _tensors(count: int) -> str:
    return "one tensor" if count == 1 else f"{count} tensors"

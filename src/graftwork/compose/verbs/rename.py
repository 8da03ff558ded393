"""Other names for a model and its layers."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from graftwork.compose.addresses import Place, place
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.graph import Graph, settle
from graftwork.compose.naming import Names, as_layer_name
from graftwork.compose.parts import as_output, like, model_inputs, named_after
from graftwork.errors import MismatchError, OptionError
from graftwork.models.lazy import keras


@verb
class Rename(Verb):
    """Give layers, or a model, other names; nothing else changes.

    Where inputs or outputs are a dictionary whose keys are the names of layers, the keys change with them.
    """

    kind: ClassVar[str] = "rename"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    mapping: Mapping[str, str] = {}
    """The new name of a layer by its address: `{dense: logits, encoder/dense: projection}`."""

    prefix: str = ""
    """What is put before the name of every layer but the inputs, and but those inside nested models; `a_` makes `dense` `a_dense`."""

    name: str | None = None
    """What the model is called; by default as before."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the renamed model; see `Verb.compose`."""
        (member,) = members
        model = named_after(member)
        if not self.mapping and not self.prefix and self.name is None:
            raise OptionError("rename: nothing is renamed; give mapping=, prefix= or name=")
        graph = Graph(model)
        old = {id(operation): operation.name for operation in graph.functional._operations}
        found = {address: place(model, address) for address in self.mapping}
        for address, spot in found.items():
            _check(address, spot, self.mapping[address])
        if self.prefix:
            for operation in graph.functional._operations:
                if not isinstance(operation, keras.layers.InputLayer):
                    operation.name = _legal(f"{self.prefix}{operation.name}", f"prefix {self.prefix!r}")
        for address, spot in found.items():
            _set(spot.operation, self.mapping[address])
        for within in {id(spot.graph): spot.graph for spot in found.values()}.values():
            _check_unique(within)
        _check_unique(graph.functional)

        ins = {
            label: (key, like(tensor, tensor._keras_history.operation.name))
            for label, (key, tensor) in model_inputs(graph).items()
        }
        steps = graph.needed(graph.outputs, dict(ins.values()))
        values = graph.run(steps, dict(ins.values()), Names(each.name for each in graph.functional._operations))
        struct = keras.tree.pack_sequence_as(graph.functional._inputs_struct, [tensor for _, tensor in ins.values()])
        outs = as_output(graph, [values[key] for key in graph.outputs])
        new = {name: operation.name for operation in graph.functional._operations if (name := old[id(operation)])}
        name = self.name if self.name is not None else model.name
        result = keras.Model(_keyed(struct, new), _keyed(outs, new), name=_legal(name, "name"))
        if not model.trainable:
            result.trainable = False

        settle(result)

        def reference(values: Any) -> Any:
            flat = (
                values if not isinstance(values, Mapping) else {back: values[now] for back, now in _pairs(struct, new)}
            )
            return _keyed(model(flat), new)

        return Composed(model=result, reference=reference, exact=True, classes=member.classes)


def _pairs(struct: Mapping[str, Any], new: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(key, new.get(key, key)) for key in struct]


def _keyed(struct: Any, new: Mapping[str, str]) -> Any:
    """Return a structure whose keys, where they are names of layers, are the new ones."""
    return {now: struct[key] for key, now in _pairs(struct, new)} if isinstance(struct, Mapping) else struct


def _check(address: str, spot: Place, name: str) -> None:
    if spot.call is not None or spot.index is not None:
        raise OptionError(f"rename: {address!r} names a call or a tensor; only layers have names")
    _legal(name, f"mapping: {address}")


def _legal(name: str, what: str) -> str:
    if not name or as_layer_name(name) != name:
        raise OptionError(
            f"{what}: nothing can be called {name!r}; a name is made of letters, digits, points, dashes and underscores, "
            "and does not begin with a dash or an underscore"
        )
    return name


def _check_unique(graph: Any) -> None:
    seen: set[str] = set()
    for operation in graph._operations:
        if operation.name in seen:
            raise MismatchError(
                f"two layers of {graph.name!r} would be called {operation.name!r}", advice="choose another name"
            )
        seen.add(operation.name)


def _set(operation: Any, name: str) -> None:
    operation.name = name
    if isinstance(operation, keras.layers.InputLayer):
        for node in operation._inbound_nodes:
            for tensor in node.outputs:
                tensor.name = name  # a model that takes a list finds its inputs by these

"""What the inputs of a composition are whose members stand side by side: shared by all members, or each member's own."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from graftwork.compose.adapters import cast, shapes_fit
from graftwork.compose.base import Member
from graftwork.compose.naming import Names
from graftwork.compose.ports import Port, Shape, describe, graph_of, inputs, packed
from graftwork.errors import MismatchError
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS

InputMode = Literal["shared", "separate"]
"""Whether members that take the same get it once, or each member has inputs of its own."""

Ports = Mapping[str, Mapping[str, Port]]
"""What members take: the ports by name, by the member's name."""


AUTOMATIC = re.compile(r"input(_layer)?(_\d+)?")
"""Names that Keras gives to inputs that nobody named: numbers of the process that made them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Feeds:
    """The inputs of a composition, and which of them goes where.

    Attributes:
        struct: New Keras inputs in the structure that the result takes.
        order: Their keys, in the order of the flattened structure.
        keys: The key of the input that each port gets, by member and port.
        tensors: What each port gets, by member and port: the input, cast where members take different floating-point numbers.
        notes: What the user should know.
    """

    struct: Any
    order: Sequence[str]
    keys: Mapping[str, Mapping[str, str]]
    tensors: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...] = ()

    def given(self, values: Any) -> dict[str, dict[str, Any]]:
        """Return which of the values each port gets, by member and port.

        Args:
            values: Arrays in the structure of the inputs.
        """
        flat = dict(zip(self.order, keras.tree.flatten(values), strict=True))
        return {member: {port: flat[key] for port, key in ports.items()} for member, ports in self.keys.items()}


def feeds(members: Sequence[Member], names: Names, mode: InputMode) -> Feeds:
    """Return new inputs for members that stand side by side; see `shared_inputs` and `separate_inputs`."""
    return shared_inputs(members, names) if mode == "shared" else separate_inputs(members, names)


def shared_inputs(members: Sequence[Member], names: Names, ports: Ports | None = None) -> Feeds:
    """Return one new input for what members take by the same name; members with a single input share it whatever it is called.

    A size that one member fixes and another leaves open is fixed. Members that take different floating-point numbers share the widest.
    The result takes the structure of the first member, or a dictionary where others take more than it does.

    Args:
        members: The models.
        names: The names in use.
        ports: What the members take from the user, where something stands before their models' own inputs.

    Raises:
        MismatchError: If members take different things by the same name, or it cannot be told which of them are the same.
    """
    ports = ports or {member.name: inputs(member.model) for member in members}
    keys = _matched(ports)
    made: dict[str, Any] = {}
    for key in dict.fromkeys(key for known in keys.values() for key in known.values()):
        takers = [(name, ports[name][port]) for name, known in keys.items() for port in known if known[port] == key]
        made[key] = _shared(takers, names)
    first = members[0]
    if len(made) == len(keys[first.name]):
        spelled = packed(graph_of(first.model)._inputs_struct, dict(zip(made, made, strict=True)))
    else:
        spelled = {tensor.name: key for key, tensor in made.items()}
    return _feeds(spelled, made, keys, ports, names)


def separate_inputs(members: Sequence[Member], names: Names, ports: Ports | None = None) -> Feeds:
    """Return new inputs for each member, in a dictionary: ``a_input``, or ``a_image`` and ``a_text`` for a member that takes several.

    Args:
        members: The models.
        names: The names in use.
        ports: What the members take from the user, where something stands before their models' own inputs.
    """
    ports = ports or {member.name: inputs(member.model) for member in members}
    made: dict[str, Any] = {}
    keys: dict[str, dict[str, str]] = {}
    for name, known in ports.items():
        keys[name] = {}
        for port in known.values():
            tensor = _input(port.shape, port, names.fresh(f"{name}_{'input' if len(known) == 1 else port.name}"))
            made[tensor.name] = tensor
            keys[name][port.name] = tensor.name
    return _feeds(dict(zip(made, made, strict=True)), made, keys, ports, names)


def _feeds(
    spelled: Any, made: Mapping[str, Any], keys: Mapping[str, Mapping[str, str]], ports: Ports, names: Names
) -> Feeds:
    """Return feeds, with casts where a port takes other numbers than its input has."""
    casts: dict[tuple[str, str], Any] = {}
    notes: list[str] = []
    tensors: dict[str, dict[str, Any]] = {}
    for name, known in keys.items():
        tensors[name] = {}
        for port, key in known.items():
            have, want = keras.backend.standardize_dtype(made[key].dtype), ports[name][port].dtype
            if have != want and (key, want) not in casts:
                casts[key, want] = cast(want, names)(made[key])
            if have != want:
                notes.append(f"{name}: the shared input {made[key].name!r} is cast from {have} to {want}")
            tensors[name][port] = casts.get((key, want), made[key])
    return Feeds(
        struct=keras.tree.map_structure(made.__getitem__, spelled),
        order=keras.tree.flatten(spelled),
        keys=keys,
        tensors=tensors,
        notes=tuple(notes),
    )


def _matched(ports: Ports) -> dict[str, dict[str, str]]:
    """Return the key of the shared input for each port of each member."""
    if all(len(known) == 1 for known in ports.values()):
        key = next(iter(next(iter(ports.values()))))
        return {name: dict.fromkeys(known, key) for name, known in ports.items()}
    for name, known in ports.items():
        others = [other for other in ports if other != name]
        unlike = [other for other in others if not _told(set(known), set(ports[other]))]
        if len(unlike) == len(others):
            raise MismatchError(
                f"{name} takes {', '.join(map(str, known.values()))} and "
                f"{unlike[0]} takes {', '.join(map(str, ports[unlike[0]].values()))}: their names do not say which of them are the same",
                advice='rename the inputs that are the same (the verb rename), or give each model its own: inputs="separate"',
            )
    return {name: {port: port for port in known} for name, known in ports.items()}


def _told(ours: set[str], theirs: set[str]) -> bool:
    """Return whether the names of two members' inputs say which of these are the same: numbers of another process say nothing."""
    if ours == theirs:
        return True
    automatic = [any(map(AUTOMATIC.fullmatch, names)) for names in (ours & theirs, ours - theirs, theirs - ours)]
    return bool(ours & theirs) and not automatic[0] and not (automatic[1] and automatic[2])


def _shared(takers: list[tuple[str, Port]], names: Names) -> Any:
    """Return an input that all of the ports can take."""
    first, port = takers[0]
    shape, dtype = port.shape, port.dtype
    for name, other in takers[1:]:
        numbers = dtype == other.dtype or (dtype in FLOATS and other.dtype in FLOATS)
        if not shapes_fit(shape, other.shape) or not numbers or _sparse(port) != _sparse(other):
            raise MismatchError(
                f"{first} takes {_said(port)}, but {name} takes {_said(other)}, so they cannot share one input",
                advice="bring one of them to the form of the other (for images of another size: the verb chain with the adapter resize), "
                'or give each model its own input: inputs="separate"',
            )
        shape = tuple(b if a is None else a for a, b in zip(shape, other.shape, strict=True))
        dtype = dtype if dtype == other.dtype else keras.backend.result_type(dtype, other.dtype)
    return _input(shape, port, names.fresh(port.tensor._keras_history.operation.name), dtype)


def _input(shape: Shape, port: Port, name: str, dtype: str | None = None) -> Any:
    return keras.Input(batch_shape=shape, dtype=dtype or port.dtype, sparse=_sparse(port), name=name)


def _sparse(port: Port) -> bool:
    return bool(getattr(port.tensor, "sparse", False))


def _said(port: Port) -> str:
    return f"{port.name!r} {describe(port.shape, port.dtype)}{' (sparse)' if _sparse(port) else ''}"

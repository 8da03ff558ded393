"""Layers at the end of a model put out and others put in: what a new head stands on, and the model that comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.compose.addresses import tap
from graftwork.compose.base import Member
from graftwork.compose.graph import Graph, Step, Tap, claim
from graftwork.compose.heads import Head
from graftwork.compose.naming import Names
from graftwork.compose.observing import observed
from graftwork.compose.parts import as_input, as_output, like, model_inputs, port_of
from graftwork.compose.ports import Port, outputs
from graftwork.compose.trained import parts, size_of
from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.lazy import keras

MakeHead = Callable[[Port, Names, bool], Head]
"""Makes a head for what it stands on, with the names in use; the flag says whether units may stand at every position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swapped:
    """A model with a new head.

    Attributes:
        model: It; `settle` is still to be called once it is final.
        head: The new head.
        port: What it stands on.
        below: The same as a Keras tensor of the new model.
        reference: Gives what the model gives, without its graph; None where a mask is carried, of which arrays know nothing.
        notes: What the user should know.
    """

    model: Any
    head: Head
    port: Port
    below: Any
    reference: Callable[[Any], Any] | None
    notes: tuple[str, ...]

    def below_head(self) -> list[Any]:
        """Return the layers that are not the head's, those of nested models one by one."""
        new = {id(layer) for layer in self.head.layers}
        return [leaf for part in parts(self.model) if id(part.layer) not in new for leaf in part.leaves()]


def place_of(model: Any, port: str | None) -> int:
    """Return which output gets the new head.

    Raises:
        OptionError: If there are several and none is named.
        UnknownNameError: If there is none of this name.
    """
    known = list(outputs(model))
    if port is None and len(known) > 1:
        raise OptionError(
            f"{model.name} has the outputs {', '.join(map(repr, known))}; say which one gets the new head: port={known[0]!r}"
        )
    if port is not None and port not in known:
        raise UnknownNameError(f"output of {model.name}", port, known)
    return known.index(port) if port is not None else 0


def swap(
    member: Member,
    make: MakeHead,
    *,
    at: str | None = None,
    port: str | None = None,
    on_top: bool = False,
    alone: bool = False,
    name: str | None = None,
) -> Swapped:
    """Return a model whose last layers are replaced by a head.

    Args:
        member: The model.
        make: Makes the head.
        at: What the head stands on; by default what the last layer with weights stands on.
        port: Which output gets the head.
        on_top: Whether the head stands on the output itself where nobody says `at`.
        alone: Whether the other outputs go.
        name: What the result is called; by default as the member.

    Raises:
        OptionError: If it is not clear what the head is to stand on.
        UnknownNameError: If there is no such output or tensor.
    """
    model = member.model
    place = place_of(model, port)
    old = _old(model, place, member.name) if at is None and not on_top else None
    foot = old.foot if old is not None else output_of(model, place) if at is None else tap(model, at)
    graph = Graph(model, [foot])
    base = graph.same(foot.key)
    targets = [base] if alone else [base if i == place else key for i, key in enumerate(graph.outputs)]
    spot = 0 if alone else place
    names = Names()
    called = names.fresh(name or member.name)
    ins = model_inputs(graph, [key for step in graph.needed(targets) if step.is_input for key in step.gives])
    given = {label: like(tensor, names.fresh(label)) for label, (_, tensor) in ins.items()}
    steps = graph.needed(targets, [key for key, _ in ins.values()])
    claim(model, steps, names)
    values = graph.run(steps, {key: given[label] for label, (key, _) in ins.items()}, names)
    stands_on = port_of(graph, base, foot.tensor)
    head = make(stands_on, names, old is not None and old.spreads)
    struct = as_input(graph, given)
    ends = [head(values[key]) if i == spot else values[key] for i, key in enumerate(targets)]
    result = keras.Model(struct, ends[0] if alone else as_output(graph, ends), name=called)
    order = {id(tensor): label for label, tensor in given.items()}
    flat = [order[id(tensor)] for tensor in keras.tree.flatten(struct)]
    others = [] if alone else [Tap((), t, "") for i, t in enumerate(graph.functional._outputs) if i != place]

    def reference(values: Any) -> Any:
        known = {id(ins[label][1]): value for label, value in zip(flat, keras.tree.flatten(values), strict=True)}
        below, *rest = observed(model, [foot, *others], known)
        found = [*rest[:spot], head(below), *rest[spot:]]
        return found[0] if alone else as_output(graph, found)

    masked = getattr(foot.tensor, "_keras_mask", None) is not None
    left = [label for label in model_inputs(graph) if label not in ins]
    gone = [label for i, label in enumerate(outputs(model)) if alone and i != place]
    said = (
        f"{member.name}: the new head stands on {stands_on}; {_removed(graph, steps)}",
        *((f"{_quoted(left)} of {member.name} is not needed any more and not an input of the result",) if left else ()),
        *((f"{_quoted(gone)} of {member.name} is not an output of the result",) if gone else ()),
        head.note,
    )
    return Swapped(
        model=result,
        head=head,
        port=stands_on,
        below=values[base],
        reference=None if masked else reference,
        notes=said,
    )


def output_of(model: Any, place: int) -> Tap:
    """Return an output of a model as a tensor inside it."""
    port = list(outputs(model).values())[place]
    return Tap((), port.tensor, port.name)


def foot_of(model: Any, port: str | None = None) -> Tap:
    """Return what the last layer with weights stands on.

    Raises:
        OptionError: If there is no such layer, or it is not clear on what it stands.
        UnknownNameError: If there is no such output.
    """
    return _old(model, place_of(model, port), model.name).foot


@dataclass(frozen=True, slots=True)
class _Old:
    """An old head: what it stands on, and whether it stood at every position of it."""

    foot: Tap
    spreads: bool


def _old(model: Any, place: int, name: str) -> _Old:
    deep = Graph(model, deep=True)
    last = _last(deep, deep.outputs[place], name)
    return _Old(_foot(last, deep), _spreads(last))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _last(graph: Graph, output: Any, name: str) -> Step:
    """Return the last call of a layer with weights that an output comes from."""
    for step in reversed(graph.needed([output])):
        if getattr(step.operation, "weights", None):
            if isinstance(step.operation, keras.Model):
                raise OptionError(
                    f"the last layer of {name} with weights is the model {graph.label(step.gives[0])!r}, which stays closed; say on "
                    "which tensor the new head is to stand: at="
                )
            if len(step.takes) > 1:
                raise OptionError(
                    f"the last layer of {name} with weights, {graph.label(step.gives[0])!r}, stands on several tensors; say on which "
                    f"the new head is to stand: at={graph.label(step.takes[0])!r}"
                )
            return step
    raise OptionError(f"no layer of {name} has weights; say on which tensor the new head is to stand: at=")


def _foot(step: Step, graph: Graph) -> Tap:
    """Return what a layer stands on."""
    if graph.maker[step.takes[0]].is_input:
        raise OptionError(
            f"the last layer with weights, {graph.label(step.gives[0])!r}, stands on an input, so nothing would be left of the model; "
            "say on which tensor the new head is to stand: at="
        )
    made = graph.maker[step.takes[0]]
    return Tap(made.within, graph.tensor(step.takes[0]), graph.label(step.takes[0]))


def _spreads(step: Step) -> bool:
    """Return whether a layer was itself applied at every position of a sequence or an image."""
    return isinstance(step.operation, keras.layers.Dense | keras.layers.TimeDistributed)


def _removed(graph: Graph, kept: Sequence[Step]) -> str:
    """Return which layers are not in the result, as a sentence's end."""
    stay = {id(step.operation) for step in kept}
    gone = {id(step.operation): step for step in graph.steps if id(step.operation) not in stay and not step.is_input}
    if not gone:
        return "nothing is removed"
    weights = [step for step in gone.values() if getattr(step.operation, "weights", None)]
    shown = weights or list(gone.values())
    said = ", ".join(repr(step.operation.name) for step in shown[:6]) + (" …" if len(shown) > 6 else "")
    size = sum(size_of(step.operation.weights) for step in weights)
    return f"{len(gone)} layer{'s' if len(gone) > 1 else ''} with {size:,} parameters {'are' if len(gone) > 1 else 'is'} removed ({said})"

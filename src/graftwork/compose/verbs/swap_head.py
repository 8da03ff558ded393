"""A new head in the place of the last layers of a model."""

from collections.abc import Sequence
from typing import Any, ClassVar

from graftwork.compose.addresses import tap
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.graph import Graph, Step, Tap, claim, settle
from graftwork.compose.heads import HeadSpec, as_head, units_of
from graftwork.compose.lasting import lasting
from graftwork.compose.naming import Names
from graftwork.compose.observing import observed
from graftwork.compose.parts import as_input, as_output, like, model_inputs, port_of
from graftwork.compose.ports import outputs
from graftwork.compose.trained import count, parts, set_trained, size_of
from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.lazy import keras


@verb
class SwapHead(Verb):
    """Replace the last layers of a model by a new head, to be trained for another task.

    By default the last layer with weights goes, and all that follows it: what it stood on is what the new head stands on.
    """

    kind: ClassVar[str] = "swap_head"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    head: HeadSpec
    """A number of units (softmax; sigmoid for one), a layer, a model, or a list of these."""

    at: str | None = None
    """What the new head stands on: the address of a tensor, such as `global_pool` or `encoder/block_2`."""

    hidden: Sequence[int] = ()
    """Units of Dense layers with relu before the head."""

    activation: str | None = None
    """The activation of the head, where it is a number of units: `linear` for values without bounds."""

    port: str | None = None
    """Which output gets the new head, where the model has several; the others stay."""

    freeze: bool = False
    """Keep the weights of all other layers, and the statistics of their BatchNormalization, as they are."""

    name: str | None = None
    """What the result is called; by default as the model."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Swap the head; see `Verb.compose`."""
        (member,) = members
        model = member.model
        place = self._place(model)
        deep = Graph(model, deep=True)
        old = _last(deep, deep.outputs[place], member.name) if self.at is None else None
        foot = _foot(old, deep) if old is not None else tap(model, self.at or "")
        graph = Graph(model, [foot])
        base = graph.same(foot.key)
        targets = [base if i == place else key for i, key in enumerate(graph.outputs)]
        names = Names()
        name = names.fresh(self.name or member.name)
        ins = model_inputs(graph, [key for step in graph.needed(targets) if step.is_input for key in step.gives])
        given = {label: like(tensor, names.fresh(label)) for label, (_, tensor) in ins.items()}
        steps = graph.needed(targets, [key for key, _ in ins.values()])
        claim(model, steps, names)
        values = graph.run(steps, {key: given[label] for label, (key, _) in ins.items()}, names)
        spread = old is not None and _spreads(old)
        port = port_of(graph, base, foot.tensor)
        head = as_head(self.head, port, names, hidden=self.hidden, activation=self.activation, spread=spread)
        struct = as_input(graph, given)
        ends = [head(values[key]) if i == place else values[key] for i, key in enumerate(targets)]
        result = keras.Model(struct, as_output(graph, ends), name=name)
        new = {id(layer) for layer in head.layers}
        if self.freeze:
            kept = [leaf for part in parts(result) if id(part.layer) not in new for leaf in part.leaves()]
            set_trained(result, {id(leaf.layer): False for leaf in kept})
        result, said = lasting(result)
        settle(result)
        order = {id(tensor): label for label, tensor in given.items()}
        flat = [order[id(tensor)] for tensor in keras.tree.flatten(struct)]
        others = [Tap((), tensor, "") for i, tensor in enumerate(graph.functional._outputs) if i != place]

        def reference(values: Any) -> Any:
            known = {id(ins[label][1]): value for label, value in zip(flat, keras.tree.flatten(values), strict=True)}
            below, *rest = observed(model, [foot, *others], known)
            found = [*rest[:place], head(below), *rest[place:]]
            return as_output(graph, found)

        masked = getattr(foot.tensor, "_keras_mask", None) is not None  # of which arrays know nothing
        removed = _removed(graph, steps)
        left = [label for label in model_inputs(graph) if label not in ins]
        notes = (
            f"{member.name}: the new head stands on {port}; {removed}",
            *(
                (
                    f"{', '.join(map(repr, left))} of {member.name} is not needed any more and not an input of the result",
                )
                if left
                else ()
            ),
            head.note,
            *said,
            count(result),
        )
        classes = member.classes if member.classes and len(member.classes) == units_of(self.head) else None
        return Composed(model=result, reference=None if masked else reference, classes=classes, notes=notes)

    def _place(self, model: Any) -> int:
        """Return which output gets the new head."""
        known = list(outputs(model))
        if self.port is None and len(known) > 1:
            raise OptionError(
                f"{model.name} has the outputs {', '.join(map(repr, known))}; say which one gets the new head: port={known[0]!r}"
            )
        if self.port is not None and self.port not in known:
            raise UnknownNameError(f"output of {model.name}", self.port, known)
        return known.index(self.port) if self.port is not None else 0


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

"""The model before its last softmax or sigmoid."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.naming import Names
from graftwork.compose.outputs import OutputKinds, chosen, converted
from graftwork.compose.ports import graph_of, outputs
from graftwork.compose.stripping import stripped
from graftwork.errors import OptionError
from graftwork.models.lazy import keras
from graftwork.models.outputs import Kind

LOGITS: Mapping[str, Kind] = {"probabilities": "logits", "sigmoid": "sigmoid_logits"}


@verb
class ToLogits(Verb):
    """Make a model give logits instead of probabilities.

    The last softmax or sigmoid is taken off, with the same weights, so that softmax (or sigmoid) of what the model gives then is what it
    gave before. Where it cannot be taken off, since something else depends on it, the result gives logarithms of the probabilities.
    """

    kind: ClassVar[str] = "to_logits"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    outputs: OutputKinds = "auto"
    """What the model gives, where its last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression; or one by
    output."""

    only: list[str] | None = None
    """Which outputs; by default all that are probabilities."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the model; see `Verb.compose`."""
        (member,) = members
        wanted, notes = chosen(member.model, self.outputs, self.only, LOGITS)
        model = _functional(member.model)
        taken = [name for name, kind in wanted.items() if kind in LOGITS]
        labels = list(outputs(model))
        for name in taken:
            without = stripped(model, labels.index(name))
            if without is None:
                notes.append(
                    f"{name}: the {'softmax' if wanted[name] == 'probabilities' else 'sigmoid'} cannot be taken off, so the result gives "
                    "logarithms of the probabilities, of which the smallest are cut off at that of the smallest float"
                )
                model = _with_logarithms(model, labels.index(name), wanted[name])
            else:
                model = without
        if not taken:
            notes.append(f"{member.name} gives logits already, and is left as it is")
        model.name = member.name
        return Composed(model=model, classes=member.classes, notes=tuple(notes))


def _functional(model: Any) -> Any:
    """Return a model as a plain Functional of the same layers.

    Raises:
        OptionError: If it cannot be looked into.
    """
    outputs(model)
    graph = graph_of(model)
    if graph is model:
        return model
    return keras.Model(graph._inputs_struct, graph._outputs_struct, name=model.name)


def _with_logarithms(model: Any, index: int, kind: Kind) -> Any:
    names = Names(operation.name for operation in model._operations)
    flat = list(model.outputs)
    came = keras.backend.standardize_dtype(flat[index].dtype)
    if "float" not in came:
        raise OptionError(f"output {list(outputs(model))[index]!r} is {came}, of which there are no logarithms")
    value = flat[index]
    if came not in ("float32", "float64"):
        value = keras.layers.Activation("linear", dtype="float32", name=names.fresh("to_float32"))(value)
    flat[index] = converted(value, kind, LOGITS[kind], lambda word: names.fresh(f"to_logits_{word}"), came)
    return keras.Model(model._inputs_struct, keras.tree.pack_sequence_as(model._outputs_struct, flat), name=model.name)

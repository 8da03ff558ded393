"""The model with a softmax or sigmoid behind it."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.naming import Names
from graftwork.compose.outputs import OutputKinds, chosen
from graftwork.compose.plain import probabilities
from graftwork.compose.ports import graph_of, outputs
from graftwork.models.lazy import keras
from graftwork.models.outputs import Kind

PROBABILITIES: Mapping[str, Kind] = {"logits": "probabilities", "sigmoid_logits": "sigmoid"}


@verb
class ToProbabilities(Verb):
    """Make a model give probabilities instead of logits: a softmax (or sigmoid) in float32 behind it."""

    kind: ClassVar[str] = "to_probabilities"
    takes: ClassVar[tuple[str, ...]] = ("model",)

    outputs: OutputKinds = "auto"
    """What the model gives, where its last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression; or one by
    output."""

    only: list[str] | None = None
    """Which outputs; by default all that are logits."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the model; see `Verb.compose`."""
        (member,) = members
        wanted, notes = chosen(member.model, self.outputs, self.only, PROBABILITIES)
        graph = graph_of(member.model)
        before = keras.Model(graph._inputs_struct, graph._outputs_struct, name=member.name)
        names = Names(operation.name for operation in graph._operations)
        flat, labels = list(graph.outputs), list(outputs(member.model))
        turned = {labels.index(name): kind for name, kind in wanted.items() if kind in PROBABILITIES}
        for index, kind in turned.items():
            word = "softmax" if kind == "logits" else "sigmoid"
            came = keras.backend.standardize_dtype(flat[index].dtype)
            dtype = "float64" if came == "float64" else "float32"
            flat[index] = keras.layers.Activation(word, dtype=dtype, name=names.fresh(word))(flat[index])
        if not turned:
            notes.append(f"{member.name} gives probabilities already, and is left as it is")
        struct = keras.tree.pack_sequence_as(graph._outputs_struct, flat)

        def reference(values: Any) -> Any:
            found = [keras.ops.convert_to_numpy(each) for each in keras.tree.flatten(before(values))]
            for index, kind in turned.items():
                found[index] = probabilities(np.asarray(found[index], np.float64), kind).astype(flat[index].dtype)
            return keras.tree.pack_sequence_as(graph._outputs_struct, found)

        return Composed(
            model=keras.Model(graph._inputs_struct, struct, name=member.name),
            reference=reference,
            classes=member.classes,
            notes=tuple(notes),
        )

"""A model made of runs of the blocks of others.

It has no word of its own among the verbs: the step `assemble` takes weights alone as well, and asks for this where models have an
architecture (`graftwork.jobs`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from graftwork.compose.base import Composed, Member, Verb
from graftwork.compose.blocks import Blocks, find_blocks
from graftwork.compose.flow import Flow
from graftwork.compose.forms import Forms, StepForm, shape_of, spelled, weights_of
from graftwork.compose.graph import Key, Step, claim, settle
from graftwork.compose.naming import Names, as_layer_name
from graftwork.compose.parts import as_input, as_output, like, model_inputs
from graftwork.errors import MismatchError, NonFiniteError, OptionError, UnknownNameError
from graftwork.methods.arrays import merge_arrays
from graftwork.models.lazy import keras
from graftwork.tensor import FLOATS


class Run(NamedTuple):
    """A run of blocks of a model.

    Attributes:
        model: The name of the model.
        first: Its first block in the run, counted from 0.
        end: The block behind the last.
        scale: What the weights of the run are multiplied with, running statistics aside.
    """

    model: str
    first: int
    end: int
    scale: float = 1.0


class Assemble(Verb):
    """Make a model of runs of the repeated blocks of others.

    What lies before the blocks comes from the first run's model, what lies behind them from the last run's. A block that is used twice
    becomes two, with weights of their own.
    """

    kind: ClassVar[str] = "assemble"
    takes: ClassVar[tuple[str, ...]] = ()

    layers: list[Run] = Field(min_length=1)
    """The runs, in the order of the result."""

    block: str | None = None
    """A glob over names of layers: the blocks are those that hold such a layer; by default the longest run of equal blocks."""

    ignore: list[str] = Field(default_factory=list)
    """Fields of layers' settings that may differ."""

    allow_nonfinite: bool = False
    """Whether weights may hold NaN or infinity."""

    name: str | None = None
    """What the result is called; by default as the first run's model."""

    def copies(self) -> Mapping[str, int]:
        """Return how often a model is needed, since each of its blocks can be used once; see `Verb.copies`."""
        found: dict[str, int] = {}
        for run, copy in self._placed():
            found[run.model] = max(found.get(run.model, 1), copy + 1)
        return found

    def _placed(self) -> list[tuple[Run, int]]:
        """Return the runs, each with the copy of its model that it is taken from: the first in which its blocks are not used yet."""
        found: list[tuple[Run, int]] = []
        for run in self.layers:
            copy = 0
            while any(
                other.model == run.model and each == copy and other.first < run.end and run.first < other.end
                for other, each in found
            ):
                copy += 1
            found.append((run, copy))
        return found

    def compose(self, members: Sequence[Member]) -> Composed:
        """Assemble the model; see `Verb.compose`."""
        by_name = {member.name: member for member in members}
        forms = Forms(self.ignore)
        known: dict[tuple[str, int], Blocks] = {}
        runs: list[tuple[Run, Blocks]] = []
        for run, copy in self._placed():
            if run.model not in by_name:
                raise UnknownNameError("model (under `layers`)", run.model, by_name)
            member = by_name[run.model]
            for number, model in enumerate((member.model, *member.copies)[: copy + 1]):
                if (run.model, number) not in known:
                    model.name = as_layer_name(member.name)
                    known[run.model, number] = find_blocks(member.name, model, forms, self.block)
            runs.append((run, known[run.model, copy]))
        first, last = known[runs[0][0].model, 0], known[runs[-1][0].model, 0]
        for run, blocks in runs:
            _check_form(first, blocks, forms)
            if not 0 <= run.first < run.end <= blocks.count:
                raise OptionError(
                    f"{run.model} has the blocks 0 to {blocks.count - 1}, so {run.first} to {run.end} is no range of them "
                    "(the end is not in it)"
                )
        return _Assembling(self, runs, first, last, forms).composed(by_name[runs[-1][0].model])


def _check_form(first: Blocks, other: Blocks, forms: Forms) -> None:
    """Refuse blocks that are not of one form, with what differs."""
    if first.form == other.form:
        return
    advice = "layers are put together from models of equal blocks"
    works = [spelled(shape_of(blocks.flow.graph.tensor(blocks.cuts[0]))) for blocks in (first, other)]
    if works[0] != works[1]:
        raise MismatchError(
            f"the blocks of {first.label} work on {works[0]}, those of {other.label} on {works[1]}", advice=advice
        )
    for mine, theirs, a, b in zip(first.form, other.form, first.steps[0], other.steps[0], strict=False):
        if mine == theirs:
            continue
        said = forms.differ(a, b)
        where = f"layer {a.label!r} ({b.label!r} in {other.label})"
        if mine.settings != theirs.settings and said is not None:
            raise MismatchError(said.format(a=first.label, b=other.label), advice=advice)
        raise MismatchError(f"{where} {_other(mine, theirs, first.label, other.label)}", advice=advice)
    raise MismatchError(
        f"a block of {first.label} is {len(first.form)} calls, one of {other.label} {len(other.form)}: {first}; {other}",
        advice=advice,
    )


def _other(mine: StepForm, theirs: StepForm, label: str, other: str) -> str:
    for word, a, b in (("gives", mine.gives, theirs.gives), ("has weights", mine.weights, theirs.weights)):
        if a != b:
            return f"{word} {', '.join(map(spelled, a)) or 'none'} in {label}, {', '.join(map(spelled, b)) or 'none'} in {other}"
    return f"{'holds other layers' if mine.inside != theirs.inside else 'is called on something else'} in {label} than in {other}"


class _Assembling:
    """The making of one model.

    Args:
        wishes: The verb.
        runs: The runs, each with the blocks of the copy that it is taken from.
        first: The blocks of the model whose beginning is taken.
        last: Those of the model whose end is taken.
        forms: The forms of pieces.
    """

    def __init__(
        self, wishes: Assemble, runs: Sequence[tuple[Run, Blocks]], first: Blocks, last: Blocks, forms: Forms
    ) -> None:
        self.wishes, self.runs, self.first, self.last, self.forms = wishes, runs, first, last, forms
        self.blocks = [(run, blocks, number) for run, blocks in runs for number in range(run.first, run.end)]
        flow = last.flow
        further = [key for key in flow.maker if key in last.behind()]
        self.further = {key: self._counterpart(key) for key in further if key not in last.context}
        self.behind = flow.between(flow.outputs, {last.cuts[-1], *further})
        self.needed = list(dict.fromkeys([first.cuts[0], *first.context, *self.further.values()]))
        self.before = [step for step in first.flow.between(self.needed) if not step.is_input]
        used = {key for step in self.before for key in step.takes} | set(self.needed)
        self.inputs = model_inputs(first.flow.graph, list(used))
        self.notes = tuple(self._notes())  # now, for layers get other names

    def composed(self, ending: Member) -> Composed:
        """Return the model; `ending` is the member whose end it has."""
        names = Names()
        new = {
            label: like(tensor, names.fresh(tensor._keras_history.operation.name))
            for label, (_, tensor) in self.inputs.items()
        }
        self._name(names)
        graph = self.first.flow.graph
        given = {key: new[label] for label, (key, _) in self.inputs.items()}
        struct = as_input(graph, new)
        name = as_layer_name(self.wishes.name or self.first.label)
        model = keras.Model(struct, self._run(given, names), name=name)
        if not any(
            blocks.flow.graph.model.trainable for _, blocks in (*self.runs, (None, self.first), (None, self.last))
        ):
            model.trainable = False
        settle(model)
        order = {id(tensor): key for key, tensor in given.items()}
        keys = [order[id(tensor)] for tensor in keras.tree.flatten(struct)]

        def reference(values: Any) -> Any:
            return self._run(dict(zip(keys, keras.tree.flatten(values), strict=True)), Names())

        rows = [
            {"block": place, "model": blocks.label, "was": number, "first": ends[0], "last": ends[1]}
            for place, (_, blocks, number) in enumerate(self.blocks)
            for ends in [blocks.ends(number)]
        ]
        return Composed(
            model=model,
            reference=reference,
            exact=True,
            classes=ending.classes,
            notes=self.notes,
            tables={"blocks": rows},
            finish=self._finish(model),
        )

    def _run(self, given: Mapping[Key, Any], names: Names) -> Any:
        """Run everything on tensors or arrays."""
        values = self.first.flow.graph.run(self.before, given, names)
        value, context = values[self.first.cuts[0]], [values[key] for key in self.first.context]
        for _, blocks, number in self.blocks:
            own = {blocks.cuts[number]: value, **dict(zip(blocks.context, context, strict=True))}
            value = blocks.flow.graph.run(blocks.steps[number], own, names)[blocks.cuts[number + 1]]
        last = self.last
        ends = {key: values[mine] for key, mine in self.further.items()}
        ends |= {last.cuts[-1]: value, **dict(zip(last.context, context, strict=True))}
        made = last.flow.graph.run(self.behind, ends, names)
        return as_output(last.flow.graph, [made[key] for key in last.flow.outputs])

    def _counterpart(self, key: Key) -> Key:
        """Return the tensor of the first model in whose place one of the last stands that is used behind the blocks.

        It is the one that is computed from the inputs in the same way, without weights, or else the one of the same name.
        """
        first, last = self.first.flow, self.last.flow
        if first is last:
            return key
        label, shape = last.graph.label(key), shape_of(last.graph.tensor(key))
        before = [other for other in first.maker if not first.leads(other, self.first.cuts[0])]
        origin = self._origin(last, key)
        alike = [other for other in before if origin is not None and self._origin(first, other) == origin]
        called = [other for other in before if first.graph.label(other) == label]
        for other in (*alike, *called):
            if shape_of(first.graph.tensor(other)) == shape:
                return other
            raise MismatchError(
                f"behind its blocks {self.last.label} takes {label!r} {spelled(shape)}, which is "
                f"{spelled(shape_of(first.graph.tensor(other)))} in {self.first.label}"
            )
        raise MismatchError(
            f"behind its blocks {self.last.label} takes {label!r}, which is made before them, and {self.first.label} makes nothing like it",
            advice=f"end with blocks of {self.first.label}",
        )

    def _origin(self, flow: Flow, key: Key) -> Any:
        """Return how a tensor is computed from the inputs, None where weights go in."""
        ins = {each: f"input {place}" for place, each in enumerate(flow.graph.inputs)}
        steps = flow.between([key], ins)
        if any(weights_of(step) for step in steps):
            return None
        return ins.get(key), self.forms.of(flow, steps, ins)

    def _name(self, names: Names) -> None:
        """Give every layer a name of its own: blocks are numbered on where those of the first model are numbered."""
        claimed: set[int] = set()

        def unclaimed(steps: Sequence[Step]) -> list[Step]:
            found = [step for step in steps if step.operation is not None and id(step.operation) not in claimed]
            claimed.update(id(step.operation) for step in found)
            return found

        claim(self.first.flow.graph.model, unclaimed(self.before), names)
        numbered = [_numbering([steps[k].label for steps in self.first.steps]) for k in range(len(self.first.steps[0]))]
        for place, (_, blocks, number) in enumerate(self.blocks):
            for k, step in enumerate(blocks.steps[number]):
                for each in unclaimed([step]):
                    name = numbered[k]
                    if name is not None:
                        each.operation.name = names.fresh(name(place))
                    else:
                        claim(blocks.flow.graph.model, [each], names)
        claim(self.last.flow.graph.model, unclaimed(self.behind), names)

    def _notes(self) -> list[str]:
        """Return what is worth knowing, with the names that layers have in their models."""
        models = {blocks.label: blocks for _, blocks in self.runs}
        notes = [f"{label} has {blocks}" for label, blocks in models.items()]
        if self.first is not self.last:
            notes.append(
                f"what lies before the blocks is from {self.first.label}, what lies behind them from {self.last.label}"
            )
            notes += [
                f"behind the blocks, {self.last.flow.graph.label(key)!r} of {self.last.label} is that of {self.first.label}"
                for key in self.further
            ]
            before = self.last.flow.between([self.last.cuts[0], *self.last.context, *self.further])
            shared = {id(step.operation) for step in before}
            notes += [
                f"{step.label!r} of {self.last.label} is called before its blocks too, where the result has the layer of {self.first.label}"
                for step in self.behind
                if weights_of(step) and id(step.operation) in shared
            ]
        return list(dict.fromkeys(notes))

    def _finish(self, model: Any) -> Callable[[], None]:
        """Return what is done to the values: refused where they are no numbers, and those of a run multiplied with its scale."""

        def finish() -> None:
            if not self.wishes.allow_nonfinite:
                for weight in model.weights:
                    if _is_float(weight) and not bool(keras.ops.all(keras.ops.isfinite(weight))):
                        raise NonFiniteError(
                            f"{weight.path} holds NaN or infinity; pass allow_nonfinite (--allow-nonfinite) to keep them"
                        )
            for run, blocks in self.runs:
                if run.scale == 1:
                    continue
                steps = [step for number in range(run.first, run.end) for step in blocks.steps[number]]
                for weight in {id(weight): weight for step in steps for weight in _learnt(step)}.values():
                    value = keras.ops.convert_to_numpy(weight)
                    weight.assign(merge_arrays("passthrough", [np.asarray(value)], scale=run.scale))

        return finish


def _learnt(step: Step) -> list[Any]:
    """Return the weights of a layer that are made to be trained, frozen or not: what a merge does not take for statistics."""
    if not weights_of(step):
        return []
    layers = step.operation._flatten_layers()
    return [weight for layer in layers for weight in layer._trainable_variables if _is_float(weight)]


def _is_float(weight: Any) -> bool:
    return keras.backend.standardize_dtype(weight.dtype) in FLOATS


def _numbering(names: Sequence[str]) -> Callable[[int], str] | None:
    """Return what gives the name of a layer in a block of any number, where names count the blocks; else None.

    A name counts where it holds numbers that grow by the same from block to block; Keras leaves out the number 0 (`dense`, `dense_1`).
    """
    if len(names) > 1 and re.fullmatch(re.escape(names[0]) + r"_\d+", names[1]):
        found = _numbering([f"{names[0]}_0", *names[1:]])
        return found and (lambda place: names[0] if place == 0 else found(place))
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({(len(part), *part[::2]) for part in parts}) != 1:
        return None
    numbers = [[int(digits) for digits in part[1::2]] for part in parts]
    begin, by = numbers[0], [b - a for a, b in zip(numbers[0], numbers[1], strict=True)]
    if not any(by) or min(by) < 0:
        return None
    if any(row != [a + k * b for a, b in zip(begin, by, strict=True)] for k, row in enumerate(numbers)):
        return None
    texts, digits = parts[0][::2], parts[0][1::2]
    widths = [len(text) if text.startswith("0") and len(text) > 1 else 0 for text in digits]

    def name(place: int) -> str:
        made = [str(a + place * b).zfill(width) for a, b, width in zip(begin, by, widths, strict=True)]
        return "".join(text + number for text, number in zip(texts, [*made, ""], strict=True))

    return name

"""Several models on one input, whose outputs are combined into one."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from graftwork.compose.adapters import Adapt, shapes_fit
from graftwork.compose.base import Composed, Member, Verb, verb
from graftwork.compose.classes import ClassLists, ClassMap, Group, class_lists, class_map
from graftwork.compose.combine import Combination, Given
from graftwork.compose.graph import inline, settle
from graftwork.compose.inputs import Feeds, InputMode, separate_inputs, shared_inputs
from graftwork.compose.layers import LayerSpec
from graftwork.compose.naming import Names, named
from graftwork.compose.outputs import Name, OutputKinds, checked_kind, kind_of, unknown_kind
from graftwork.compose.plain import combined
from graftwork.compose.ports import Port, call, describe, graph_of, has_graph, inputs, outputs
from graftwork.compose.preprocess import Preparations, Size
from graftwork.compose.stacking import Stacked, stacked
from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.combining import CALIBRATED, FAMILIES, NEEDS_KIND, WEIGHTED, Combine, weights_of
from graftwork.models.configuration import trains_unasked
from graftwork.models.lazy import keras
from graftwork.models.outputs import Kind, ending


@verb
class Ensemble(Verb):
    """Run models on the same input and combine what they give.

    Members with one output each are combined whatever it is called; where they have several, those of the same name are. Outputs of one
    kind are combined as they are; where some members give logits and others probabilities, logits are turned into probabilities first.
    Combining is done in float32 whatever the members compute in (float64 where one of them does). NaN of a member stays NaN.
    """

    kind: ClassVar[str] = "ensemble"

    combine: Combine | Mapping[str, Combine] = "mean"
    """How: mean, geometric (the mean of log-probabilities, normalised), median, max, min, product (of probabilities, normalised), vote
    (the share of members for which a class is the likeliest, the first one where several are), concat; or one for each output."""

    weights: list[float] | Mapping[str, float] | None = None
    """What each member counts in a mean, a geometric mean or a vote: in the order of the members, or by name. They are divided by
    their sum."""

    outputs: OutputKinds = "auto"
    """What the members' outputs are, where their last operation does not tell: probabilities, logits, sigmoid, sigmoid_logits, regression;
    or one by member, by output, or by `member.output`."""

    normalize: bool = False
    """Divide probabilities by their sum, which is not 1 after a median, max or min, or where members know different classes."""

    classes: ClassLists | None = None
    """Names of each member's classes in the order of its outputs. The result has the union of all; each class is combined over the members
    that know it."""

    preprocess: Mapping[str, LayerSpec] = {}
    """What the raw input goes through on its way to a member, by its name: tf, torch or caffe (raw RGB of 0 to 255 to what such a network
    takes), cast, gap, flatten, pad, dense, a layer, or a list of these."""

    resize: bool | Mapping[str, Size] = False
    """Resize images to what each member takes; or by member: true, or the size."""

    input_size: int | list[int] | None = None
    """Height and width of the raw images, 0 for any; by default as the first member takes them of which nothing is said, else the first."""

    input_dtype: str | None = None
    """Dtype of the raw input, such as uint8; by default as of `input_size`."""

    inputs: InputMode = "shared"
    """Give all members the same input, or each an input of its own."""

    stack_weights: bool = False
    """Lay the weights of members side by side, one multiplication for all: for chains of Dense layers of one architecture, on one input."""

    inline: bool = False
    """Put the layers of all models in one graph, named after their model, instead of each model as one layer."""

    name: str = "ensemble"
    """What the result is called."""

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the ensemble; see `Verb.compose`."""
        if len(members) < 2:
            raise OptionError("an ensemble takes at least two models")
        return _Ensembling(self, members).composed()


class _Ensembling:
    """The making of one ensemble.

    Args:
        wishes: The verb.
        members: Its models.
    """

    def __init__(self, wishes: Ensemble, members: Sequence[Member]) -> None:
        self.wishes, self.members = wishes, members
        self.names = Names([wishes.name])
        for member in members:
            member.model.name = self.names.fresh(member.name)
        self.notes: list[str] = []
        self.weights = weights_of(wishes.weights, [member.name for member in members])
        idle = [name for name, weight in self.weights.items() if not weight]
        if idle:
            self.notes.append(f"{', '.join(idle)} counts nothing and is left out")
        self.counted = [member for member in members if self.weights[member.name]]
        graphs = [member for member in self.counted if has_graph(member.model)]
        for member in self.counted:
            if not graphs or not member.model.built:  # it would get weights of no meaning
                inputs(member.model)  # says why it cannot be used
        self.leader = graphs[0]
        self.takes = {
            member.name: inputs(member.model if has_graph(member.model) else self.leader.model)
            for member in self.counted
        }
        self.gives = {member.name: list(outputs(member.model)) for member in graphs}
        for member in self.counted:
            if not has_graph(member.model):
                self.notes.append(
                    f"{member.name} is a {type(member.model).__name__}, which cannot be looked into: it is taken to accept what "
                    f"{self.leader.name} does, and the result can only be loaded where its class is known"
                )
        self.notes += [note for member in self.counted for note in _trains(member)]
        self.feeds, self.adapts = self._fed()

    def _fed(self) -> tuple[Feeds, dict[str, dict[str, Adapt]]]:
        """Return the inputs, and what each goes through on its way to each member."""
        wishes = self.wishes
        said = Preparations(
            preprocess=wishes.preprocess,
            resize=wishes.resize,
            input_size=wishes.input_size,
            input_dtype=wishes.input_dtype,
        )
        said.check(self.takes)
        ordered = [self.leader, *(member for member in self.counted if member is not self.leader)]
        takes = {member.name: self.takes[member.name] for member in ordered}
        raw = said.raw(takes)
        feeds = (shared_inputs if wishes.inputs == "shared" else separate_inputs)(ordered, self.names, raw)
        self.notes += feeds.notes
        alone = all(len(known) == 1 for known in self.takes.values())
        adapts: dict[str, dict[str, Adapt]] = {}
        for name, known in takes.items():
            adapts[name] = {}
            for port in known.values():
                tensor = feeds.tensors[name][port.name]
                given = Port(port.name, tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype), tensor)
                adapts[name][port.name], notes = said.prepare(name, port, given, alone, self.names)
                self.notes += notes
        if any((wishes.preprocess, wishes.resize, wishes.input_dtype, wishes.input_size is not None)):
            shapes = [describe(tuple(each.shape), each.dtype) for each in keras.tree.flatten(feeds.struct)]
            self.notes.insert(0, f"the result takes {', '.join(shapes)}")
        return feeds, adapts

    def composed(self) -> Composed:
        """Return the ensemble."""
        whole = self._stacked() if self.wishes.stack_weights else None
        if whole is None:
            made = {
                member.name: self._run(member, self.feeds.tensors[member.name], self._placed) for member in self.counted
            }
        else:
            made = {
                member.name: {self.gives[member.name][0]: tensor}
                for member, tensor in zip(self.counted, whole.tensors, strict=True)
            }
        self.keys = self._matched(made)
        results: dict[str, Any] = {}
        ways: dict[str, tuple[Combination, list[str | None]]] = {}
        tables: dict[str, list[Mapping[str, Any]]] = {}
        for output in self.keys[self.leader.name]:
            tensors = {name: found[self.keys[name][output]] for name, found in made.items()}
            way, kinds = self._way(output, tensors)
            ways[output] = (way, kinds)
            given = [
                Given(tensor=tensor, kind=kind, member=name)
                for (name, tensor), kind in zip(tensors.items(), kinds, strict=True)
            ]
            prefix = "" if len(self.keys[self.leader.name]) == 1 else f"{output.replace('/', '_')}_"
            tensor = way.joined(given, self._namer(prefix))
            results[output] = named(tensor, self.names.fresh(output.replace("/", "_")))
            tables[f"classes of {output}" if prefix else "classes"] = list(way.classes.rows)
        struct = keras.tree.pack_sequence_as(graph_of(self.leader.model)._outputs_struct, list(results.values()))
        model = keras.Model(self.feeds.struct, struct, name=self.wishes.name)
        if self.wishes.inline:
            settle(model)
        only = next(iter(ways.values()))[0] if len(ways) == 1 else None
        return Composed(
            model=model,
            reference=lambda values: self._reference(values, ways),
            exact=whole is None
            and not self.wishes.preprocess
            and not self.wishes.resize
            and all(way.word in ("max", "min", "concat") and _untouched(way, kinds) for way, kinds in ways.values()),
            classes=only.classes.classes if only and only.word != "concat" else None,
            notes=tuple(dict.fromkeys(self.notes)),
            tables={title: rows for title, rows in tables.items() if rows},
            finish=whole.finish if whole is not None else None,
            filled=whole.variables if whole is not None else (),
        )

    def _stacked(self) -> Stacked:
        """Return the members as one."""
        wishes = self.wishes
        if wishes.preprocess or wishes.resize or wishes.inline or wishes.inputs != "shared":
            raise OptionError(
                "stack_weights=True takes one input for all; leave out preprocess, resize, inline and inputs"
            )
        tensor = next(iter(self.feeds.tensors[self.leader.name].values()))
        return stacked(self.counted, tensor, self.names)

    def _namer(self, prefix: str) -> Name:
        return lambda word: self.names.fresh(f"{prefix}{word}")

    def _placed(self, model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        if self.wishes.inline and has_graph(model):
            return inline(model, tensors, self.names, model.name)
        return self._called(model, tensors)

    def _called(self, model: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Call a model as one layer; what has no graph is called as the leader is, and its outputs are those of the leader in order."""
        if has_graph(model):
            return call(model, tensors)
        flat = [tensors[name] for name in self.takes[self.leader.name]]
        result = model(keras.tree.pack_sequence_as(graph_of(self.leader.model)._inputs_struct, flat))
        if isinstance(result, Mapping):
            return {str(key): value for key, value in result.items()}
        flat = keras.tree.flatten(result)
        labels = self.gives[self.leader.name]
        if len(flat) != len(labels):
            raise MismatchError(f"{model.name} gives {len(flat)} outputs and {self.leader.name} gives {len(labels)}")
        return dict(zip(labels, flat, strict=True))

    def _run(self, member: Member, tensors: Mapping[str, Any], place: Callable[..., dict[str, Any]]) -> dict[str, Any]:
        """Run one member on what its inputs are given, and return its outputs by name."""
        ways = self.adapts[member.name]
        found = place(member.model, {port: ways[port](tensors[port]) for port in self.takes[member.name]})
        # by position: layers in one graph with others have other names than before
        return dict(zip(self.gives[member.name], found.values(), strict=True)) if member.name in self.gives else found

    def _matched(self, made: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
        """Return for each member which of its outputs is which of the result."""
        if all(len(found) == 1 for found in made.values()):
            label = next(iter(made[self.leader.name]))
            return {name: {label: next(iter(found))} for name, found in made.items()}
        labels = list(made[self.leader.name])
        for name, found in made.items():
            if set(found) != set(labels):
                raise MismatchError(
                    f"{self.leader.name} gives {', '.join(map(repr, labels))} and {name} gives {', '.join(map(repr, found))}: "
                    "their names do not say which of them are the same",
                    advice="rename the outputs that are the same (the verb rename), or extract one of them",
                )
        return {name: {label: label for label in labels} for name in made}

    def _way(self, output: str, tensors: Mapping[str, Any]) -> tuple[Combination, list[str | None]]:
        """Return how one output is combined, and what each member's is."""
        several = len(self.keys[self.leader.name]) > 1
        word = self._word(output)
        what = f"'s output {output!r}" if several else ""
        self._check_shapes(word, tensors, what)
        kinds, kind = self._kinds(output, word, tensors, several)
        names = list(tensors)
        weights = [self.weights[name] for name in names]
        found = self._class_map(output, word, tensors, weights, several, what)
        self.notes += [note for note in found.notes if word != "concat"]
        if word == "vote" and kind == "probabilities" and None in [tensor.shape[-1] for tensor in tensors.values()]:
            raise OptionError("a vote needs members that fix how many classes they have")
        if self.wishes.normalize and (word == "concat" or kind != "probabilities"):
            which = (
                "what is laid side by side"
                if word == "concat"
                else f"{kind or 'outputs of an unknown kind'} ({output})"
            )
            raise OptionError(f"normalize is for probabilities of classes, not for {which}")
        unequal = word in ("median", "max", "min") or len(found.groups) > 1
        if unequal and kind == "probabilities" and word not in ("geometric", "product") and not self.wishes.normalize:
            self.notes.append(
                f"the {word} of probabilities does not always sum to 1; normalize=True divides by the sum"
            )
        dtypes = {keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors.values()}
        if not all("float" in dtype for dtype in dtypes):
            raise MismatchError(
                f"members{what} give {', '.join(sorted(dtypes))}; only floating-point numbers are combined"
            )
        return (
            Combination(
                word=word,
                kind=kind,
                weights=tuple(weight / sum(weights) for weight in weights),
                classes=found,
                normalize=self.wishes.normalize,
                dtype="float64" if "float64" in dtypes else "float32",
            ),
            kinds,
        )

    def _word(self, output: str) -> Combine:
        combine = self.wishes.combine
        if isinstance(combine, Mapping):
            known = list(self.keys[self.leader.name])
            unknown = [key for key in combine if key not in known]
            if unknown:
                raise UnknownNameError("output (under `combine`)", unknown[0], known)
            word: Combine = combine.get(output, "mean")
        else:
            word = combine
        if self.wishes.weights is not None and word not in WEIGHTED:
            raise OptionError(f"weights are for {', '.join(WEIGHTED)}; {word} counts every member alike")
        return word

    def _check_shapes(self, word: str, tensors: Mapping[str, Any], what: str) -> None:
        """Refuse outputs that could only be combined by broadcasting; widths are the class map's to compare."""
        first = self.leader.name
        for name, tensor in tensors.items():
            one, other = tuple(tensors[first].shape), tuple(tensor.shape)
            if len(one) != len(other) or not shapes_fit(one[:-1], other[:-1]) or (len(one) < 2 and one != other):
                raise MismatchError(
                    f"{first}{what} gives {describe(one, tensors[first].dtype)} and {name} gives {describe(other, tensor.dtype)}",
                    advice="bring one to the form of the other, for example with the verb chain",
                )
        if len(tensors[first].shape) < 2 and word in (*NEEDS_KIND, "concat"):
            raise OptionError(
                f"{word} needs outputs with classes along the last axis; {first}{what} gives one number for each input"
            )

    def _kinds(
        self, output: str, word: Combine, tensors: Mapping[str, Any], several: bool
    ) -> tuple[list[str | None], Kind | None]:
        """Return what each member's output is, and what they are brought to."""
        endings = {}
        found: list[str | None] = []
        for member in self.counted:
            labels = self.gives.get(member.name, [self.keys[member.name][output]])
            endings[member.name] = ending(member.model, labels.index(self.keys[member.name][output]))
            said, explicit = self._said_kind(member.name, output)
            owner = f"{member.name}'s output {output!r}" if several else member.name
            found.append(kind_of(owner, endings[member.name], said, explicit=explicit))
        if word == "concat":
            return [None] * len(found), None
        if None in found and (set(found) != {None} or word in NEEDS_KIND):
            name = self.counted[found.index(None)].name
            owner = f"{name}'s output {output!r}" if several else name
            raise unknown_kind(owner, endings[name], f"{name}.{output}" if several else name)
        if None in found:
            ends = ", ".join(dict.fromkeys(each.what for each in endings.values()))
            self.notes.append(f"{output}: the {word} is that of the members' outputs as they are (they end in {ends})")
            return found, None
        kinds = [kind for kind in found if kind is not None]
        (one, kind), *rest = zip(self.counted, kinds, strict=True)
        for other, unlike in rest:
            if FAMILIES[unlike] != FAMILIES[kind]:
                raise MismatchError(
                    f"{one.name} gives {kind} ({FAMILIES[kind]}) and {other.name} gives {unlike} ({FAMILIES[unlike]})",
                    advice="if that is wrong, say it under `outputs`",
                )
        if word in NEEDS_KIND and kind == "regression":
            raise OptionError(f"{output} is values, of which there is no {word}; take mean, median, max, min or concat")
        if word in NEEDS_KIND:
            return found, CALIBRATED[kind]
        if len(set(kinds)) == 1:
            if kind in ("logits", "sigmoid_logits"):
                self.notes.append(f"{output}: the {word} is that of logits, and gives logits")
            return found, checked_kind(kind, "kind")
        turned = [member.name for member, each in zip(self.counted, kinds, strict=True) if each != CALIBRATED[kind]]
        self.notes.append(f"{output}: the logits of {', '.join(turned)} are turned into probabilities")
        return found, CALIBRATED[kind]

    def _said_kind(self, member: str, output: str) -> tuple[str, bool]:
        """Return what the user says that an output is, and whether it is about this very one."""
        said = self.wishes.outputs
        if isinstance(said, str):
            return said, False
        outs = list(self.keys[self.leader.name])
        known = [*self.weights, *outs, *(f"{name}.{out}" for name, out in itertools.product(self.weights, outs))]
        unknown = [key for key in said if key not in known]
        if unknown:
            raise UnknownNameError("member or output (under `outputs`)", unknown[0], known)
        keys = [key for key in (f"{member}.{output}", output, member) if key in said]
        return (said[keys[0]], True) if keys else ("auto", False)

    def _class_map(
        self,
        output: str,
        word: str,
        tensors: Mapping[str, Any],
        weights: Sequence[float],
        several: bool,
        what: str,
    ) -> ClassMap:
        names = list(tensors)
        widths = [tensor.shape[-1] for tensor in tensors.values()]
        if word == "concat" and self.wishes.classes is not None:
            raise OptionError("concat lays all outputs side by side, classes or not; it takes no `classes`")
        if word == "concat" or len(tensors[names[0]].shape) < 2:
            return ClassMap(classes=None, width=None, groups=(Group((), tuple(range(len(names))), ((),) * len(names)),))
        said = self.wishes.classes
        keys = [f"{name}.{output}" if several else name for name in names]
        if several and said is not None and not isinstance(said, Mapping):
            raise OptionError("members have several outputs; say `classes` by member.output")
        if said is not None and isinstance(said, Mapping):
            every = [
                f"{name}.{out}" if several else name for name in self.weights for out in self.keys[self.leader.name]
            ]
            unknown = [key for key in said if key not in every]
            if unknown:
                raise UnknownNameError("member (under `classes`)", unknown[0], every)
            said = {key: said[key] for key in keys if key in said}
        elif said is not None:
            if len(said) != len(self.members):
                raise OptionError(f"`classes` has {len(said)} lists for {len(self.members)} models")
            said = {
                member.name: each for member, each in zip(self.members, said, strict=True) if member in self.counted
            }
        known = [None if several else member.classes for member in self.counted]
        return class_map(names, widths, class_lists(names, said, known, keys), weights, what)

    def _reference(self, values: Any, ways: Mapping[str, tuple[Combination, list[str | None]]]) -> Any:
        """Return what the members give one by one, combined in NumPy."""
        given = self.feeds.given(values)
        found = {}
        for member in self.counted:
            tensors = {
                port: keras.ops.cast(value, self.feeds.tensors[member.name][port].dtype)
                if "float" in str(self.feeds.tensors[member.name][port].dtype)
                else value
                for port, value in given[member.name].items()
            }
            found[member.name] = self._run(member, tensors, self._called)
        results = []
        for output, (way, kinds) in ways.items():
            arrays = [keras.ops.convert_to_numpy(found[name][self.keys[name][output]]) for name in found]
            one = combined(way.word, arrays, kinds, way.kind, way.weights, way.classes, normalize=way.normalize)
            results.append(one.astype(way.dtype))
        return keras.tree.pack_sequence_as(graph_of(self.leader.model)._outputs_struct, results)


def _trains(member: Member) -> Iterator[str]:
    """Yield what is to be said of layers that train unless they are told not to: what Keras calls after them trains as well."""
    for layer in member.model._flatten_layers(include_self=False):
        if trains_unasked(layer):
            yield (
                f"{member.name} has the layer {layer.name!r}: where the result is called as a function, say training=False, or Keras runs "
                "what comes after this layer in training mode; predict, evaluate and fit say it themselves"
            )
            return


def _untouched(way: Combination, kinds: Sequence[str | None]) -> bool:
    """Return whether nothing is computed but the combination itself."""
    return not way.normalize and (way.kind is None or set(kinds) == {way.kind})

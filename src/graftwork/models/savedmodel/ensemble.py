"""Several SavedModels on one input, whose outputs are combined into one; what each way computes is that of the verb `ensemble`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from graftwork.errors import MismatchError, OptionError, UnknownNameError
from graftwork.models.combining import CALIBRATED, FAMILIES, NEEDS_KIND, WEIGHTED, Combine, weights_of
from graftwork.models.outputs import KINDS
from graftwork.models.savedmodel import beside
from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.endings import KINDS_OF, Endings
from graftwork.models.savedmodel.reduction import Reduction
from graftwork.models.savedmodel.serving import (
    SERVING,
    Part,
    Sources,
    chosen_signatures,
    combine_parts,
    function_of,
    parts,
    rows,
    sessions,
    unlike,
)
from graftwork.stores.saved_program import Port, Signature, shown_shape
from graftwork.tensor import FLOATS

AUTOMATIC = re.compile(r"(input|inputs|input_layer|args|keras_tensor|output)(_\d+)?")
"""Names of ports that nobody gave: they count, and do not tell which port of another model is the same."""


def plan_ensemble(
    sources: Sources,
    *,
    combine: Combine | Mapping[str, Combine] = "mean",
    weights: Sequence[float] | Mapping[str, float] | None = None,
    outputs: str | Mapping[str, str] = "auto",
    signatures: Mapping[str, str] | None = None,
    examples: str | None = None,
) -> ServablePlan:
    """Plan a SavedModel that calls a signature of each of several on the same input, and combines what they give.

    Args:
        sources: The SavedModels.
        combine: How; or one way for each output.
        weights: What each counts, in their order or by label.
        outputs: What outputs are, where their last operation does not tell; or by label, output or ``label.output``.
        signatures: Which signature of a part is called, by its label.
        examples: A file with inputs to compare with.

    Raises:
        GraftworkError: If they do not go together.
    """
    given = parts(sources, least=2)
    counts = weights_of(weights, [part.label for part in given])
    counted = [part for part in given if counts[part.label]]
    chosen = chosen_signatures(given, signatures or {})
    chosen = {part.label: chosen[part.label] for part in counted}
    planned = _Ensemble(counted, chosen, counts, combine, outputs)
    planned.notes += [f"{part.label} counts nothing and is left out" for part in given if part not in counted]
    if weights is not None:
        unweighted = [way.word for way in planned.ways.values() if way.word not in WEIGHTED]
        if unweighted:
            raise OptionError(f"weights are for {', '.join(WEIGHTED)}; {unweighted[0]} counts every member alike")

    def make(target: Path) -> Sequence[str]:
        def build(functions: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
            def call(tensors: Mapping[str, Any]) -> Mapping[str, Any]:
                made = {
                    label: functions[label][found.name](
                        **{port: tensors[key] for port, key in planned.feeds[label].items()}
                    )
                    for label, found in chosen.items()
                }
                return planned.combined(made)

            return {SERVING: function_of(call, planned.inputs)}

        combine_parts(target, counted, build)
        steps = [
            beside.Step(
                part=label,
                signature=found.name,
                feeds={port: (None, key) for port, key in planned.feeds[label].items()},
            )
            for label, found in chosen.items()
        ]
        flow = beside.Flow(
            inputs=planned.inputs,
            steps=steps,
            expected=lambda made: planned.reference(dict(zip(chosen, made, strict=True))),
            exact=False,
        )
        return beside.check(target, sessions(counted), {SERVING: flow}, Path(examples) if examples else None)

    return ServablePlan(
        kind="savedmodel_ensemble",
        sources=tuple(sources),
        files=tuple(file for part in given for file in part.files),
        format="saved_model",
        signatures=rows({SERVING: (planned.inputs, planned.gives)}),
        size_bytes=sum(part.size_bytes for part in counted),
        make=make,
        tables={"outputs": planned.table()},
        notes=tuple(dict.fromkeys(planned.notes)),
    )


@dataclass(frozen=True, slots=True)
class _Member:
    """One output of one part: its label, the output, and what it is."""

    label: str
    port: Port
    kind: str | None
    ends: str


class _Ensemble:
    """What goes in, and how what comes out is combined.

    Attributes:
        inputs: What the result takes.
        feeds: Which of these each input of each part gets.
        ways: How each output is combined, by its name.
        members: Whose outputs it is made of.
        gives: What the result gives.
        notes: What the user should know.
    """

    def __init__(
        self,
        given: Sequence[Part],
        chosen: Mapping[str, Signature],
        counts: Mapping[str, float],
        combine: Combine | Mapping[str, Combine],
        said: str | Mapping[str, str],
    ) -> None:
        self.given, self.chosen, self.counts = given, chosen, counts
        self.combine, self.said = combine, said
        self.notes: list[str] = []
        self.feeds = _matched({label: found.inputs for label, found in chosen.items()}, "takes", "input")
        self.inputs = self._shared()
        keys = _matched({label: found.outputs for label, found in chosen.items()}, "gives", "output")
        names = list(next(iter(keys.values())).values())
        for label, known in keys.items():
            if set(known.values()) != set(names):
                raise MismatchError(
                    f"{next(iter(chosen))} gives {', '.join(map(repr, names))} and {label} gives {', '.join(map(repr, known))}",
                    advice="outputs of the same name are combined; choose signatures that agree",
                )
        self._check_said(names)
        self._endings = {part.label: Endings(part.program) for part in given}
        self.members = {
            name: [
                self._member(part, next(port for port, key in keys[part.label].items() if key == name), name)
                for part in given
            ]
            for name in names
        }
        self.ways = {name: self._way(name) for name in names}
        self.gives = {name: self._port(name) for name in names}

    def combined(self, made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the outputs of the result, given those of the parts as tensors, by label."""
        return {
            name: way.reduced([made[member.label][member.port.key] for member in self.members[name]])
            for name, way in self.ways.items()
        }

    def reference(self, made: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the same for arrays, computed in float64 and rounded at the end."""
        import tensorflow as tf

        found = {}
        for name, way in self.ways.items():
            arrays = [tf.constant(made[member.label][member.port.key]) for member in self.members[name]]
            found[name] = replace(way, dtype="float64").reduced(arrays).numpy().astype(way.dtype)
        return found

    def table(self) -> list[Mapping[str, Any]]:
        """Return how each output comes about, as rows."""
        return [
            {
                "output": name,
                "combine": self.ways[name].word,
                "of": f"{member.label}.{member.port.key}",
                "ends in": member.ends,
                "kind": member.kind or "",
                "weight": self.counts[member.label],
            }
            for name, members in self.members.items()
            for member in members
        ]

    def _shared(self) -> dict[str, Port]:
        """Return one input for what parts take by the same name; a size that one of them fixes is fixed."""
        found: dict[str, Port] = {}
        owner: dict[str, str] = {}
        for label, keys in self.feeds.items():
            for port_key, key in keys.items():
                port = replace(self.chosen[label].inputs[port_key], key=key)
                if key not in found:
                    found[key], owner[key] = port, label
                    continue
                why = unlike(found[key], port)
                if why:
                    raise MismatchError(
                        f"{owner[key]} takes {key!r} {found[key]} and {label} takes {port_key!r} {port}: {why}",
                        advice="nothing is adapted unasked; save one of them with what the other one takes",
                    )
                found[key] = replace(found[key], shape=_narrowed(found[key], port))
        for key in found:
            takers = [label for label, keys in self.feeds.items() if key in keys.values()]
            if len(takers) < len(self.feeds):
                self.notes.append(f"the input {key!r} goes to {', '.join(takers)} alone")
        return found

    def _member(self, part: Part, key: str, name: str) -> _Member:
        port = self.chosen[part.label].outputs[key]
        ends = self._endings[part.label].of(port)
        found = KINDS_OF.get(ends)
        explicit = [
            word
            for word in (f"{part.label}.{name}", name, part.label)
            if not isinstance(self.said, str) and word in self.said
        ]
        said = self.said if isinstance(self.said, str) else self.said[explicit[0]] if explicit else "auto"
        if said == "auto":
            return _Member(part.label, port, found, ends)
        if said not in KINDS:
            raise OptionError(f"outputs is {said!r}; expected auto, {', '.join(KINDS)}")
        if explicit and found is not None and said not in (found, "regression"):
            raise OptionError(
                f"{part.label}'s output {key!r} ends in {ends}, so it gives {found}, not {said} as `outputs` says"
            )
        return _Member(part.label, port, said if explicit or found is None else found, ends)

    def _check_said(self, names: Sequence[str]) -> None:
        """Refuse words for outputs and parts that there are not."""
        labels = [part.label for part in self.given]
        if not isinstance(self.said, str):
            known = [*labels, *names, *(f"{label}.{name}" for label in labels for name in names)]
            unknown = [key for key in self.said if key not in known]
            if unknown:
                raise UnknownNameError("part or output (under `outputs`)", unknown[0], known)
        if not isinstance(self.combine, str):
            unknown = [key for key in self.combine if key not in names]
            if unknown:
                raise UnknownNameError("output (under `combine`)", unknown[0], names)

    def _way(self, name: str) -> Reduction:
        word = self.combine if isinstance(self.combine, str) else self.combine.get(name, "mean")
        if word not in get_args(Combine):
            raise UnknownNameError("way to combine", word, get_args(Combine))
        members = self.members[name]
        dtypes = {member.port.dtype for member in members}
        if not dtypes <= set(FLOATS):
            raise MismatchError(
                f"the parts give {name!r} as {', '.join(sorted(dtypes))}; only floating-point numbers are combined"
            )
        _check_shapes(word, name, members)
        kind = self._kind(word, name, members)
        shares = [self.counts[member.label] for member in members]
        return Reduction(
            word=word,
            kinds=tuple(member.kind for member in members),
            kind=kind,
            weights=tuple(share / sum(shares) for share in shares),
            came=tuple(member.port.dtype for member in members),
            dtype="float64" if "float64" in dtypes else "float32",
        )

    def _kind(self, word: Combine, name: str, members: Sequence[_Member]) -> str | None:
        """Return what outputs are brought to before they are combined; None where they stay as they are."""
        kinds = [member.kind for member in members]
        if word == "concat":
            return None
        if None in kinds and (set(kinds) != {None} or word in NEEDS_KIND):
            member = members[kinds.index(None)]
            raise OptionError(
                f"{member.label}'s output {member.port.key!r} ends in {member.ends}, which does not tell what it is; "
                f'say which: outputs={{"{member.label}": "logits"}}, or another of {", ".join(KINDS)}'
            )
        if None in kinds:
            ends = ", ".join(dict.fromkeys(member.ends for member in members))
            self.notes.append(f"{name}: the {word} is that of the parts' outputs as they are (they end in {ends})")
            return None
        known = [kind for kind in kinds if kind is not None]
        for member, kind in zip(members, known, strict=True):
            if FAMILIES[kind] != FAMILIES[known[0]]:
                raise MismatchError(
                    f"{members[0].label} gives {known[0]} ({FAMILIES[known[0]]}) and {member.label} gives {kind} ({FAMILIES[kind]})",
                    advice="if that is wrong, say it under `outputs`",
                )
        if word in NEEDS_KIND and known[0] == "regression":
            raise OptionError(f"{name} is values, of which there is no {word}; take mean, median, max, min or concat")
        if word in NEEDS_KIND:
            return CALIBRATED[known[0]]
        if len(set(known)) == 1:
            if known[0] in ("logits", "sigmoid_logits"):
                self.notes.append(f"{name}: the {word} is that of logits, and gives logits")
            return known[0]
        turned = [member.label for member, kind in zip(members, known, strict=True) if kind != CALIBRATED[kind]]
        self.notes.append(f"{name}: the logits of {', '.join(turned)} are turned into probabilities")
        return CALIBRATED[known[0]]

    def _port(self, name: str) -> Port:
        ports = [member.port for member in self.members[name]]
        shape = ports[0].shape
        for port in ports[1:]:
            shape = _narrowed(replace(ports[0], shape=shape), port, last=self.ways[name].word != "concat")
        if self.ways[name].word == "concat" and shape is not None:
            widths = [port.shape[-1] if port.shape else None for port in ports]
            shape = (*shape[:-1], None if None in widths else sum(width or 0 for width in widths))
        return replace(ports[0], key=name, shape=shape, dtype=self.ways[name].dtype)


def _narrowed(one: Port, other: Port, *, last: bool = True) -> tuple[int | None, ...] | None:
    """Return the shape that fits both ports; the last axis is the first's where it need not agree."""
    if one.shape is None or other.shape is None:
        return one.shape or other.shape
    found = [b if a is None else a for a, b in zip(one.shape, other.shape, strict=True)]
    return tuple(found) if last else (*found[:-1], one.shape[-1])


def _check_shapes(word: Combine, name: str, members: Sequence[_Member]) -> None:
    """Refuse outputs that could only be combined by broadcasting, or that have other numbers of classes."""
    first = members[0]
    for member in members:
        one, other = first.port.shape, member.port.shape
        if one is None or other is None:
            raise MismatchError(
                f"{(first if one is None else member).label} does not say which shape its output {name!r} has",
                advice="save it with a signature that does (set_shape, or an input_signature with a known number of axes)",
            )
        if len(one) < 1 or (len(one) < 2 and word in (*NEEDS_KIND, "concat")):
            raise OptionError(
                f"{word} needs outputs with classes along the last axis; {first.label} gives {name!r} as {shown_shape(one)}"
            )
        if word == "concat":
            one, other = (*one[:-1], None), (*other[:-1], None)
        why = unlike(replace(first.port, shape=one, dtype=""), replace(member.port, shape=other, dtype=""))
        if why:
            raise MismatchError(
                f"{first.label} gives {name!r} as {shown_shape(first.port.shape)} and {member.label} as {shown_shape(member.port.shape)}",
                advice="outputs are combined class by class, so their numbers of classes must agree",
            )


def _matched(ports: Mapping[str, Mapping[str, Port]], verb: str, what: str) -> dict[str, dict[str, str]]:
    """Return the name in the result of every port of every part: a single one is that of the first, others meet by name."""
    if all(len(known) == 1 for known in ports.values()):
        key = next(iter(next(iter(ports.values()))))
        return {label: dict.fromkeys(known, key) for label, known in ports.items()}
    for label, known in ports.items():
        others = {other: set(found) & set(known) for other, found in ports.items() if other != label}
        telling = [
            other
            for other, same in others.items()
            if same and (set(ports[other]) == set(known) or not any(map(AUTOMATIC.fullmatch, same)))
        ]
        if not telling:
            other = next(iter(others))
            raise MismatchError(
                f"{label} {verb} {', '.join(map(repr, known))} and {other} {verb} {', '.join(map(repr, ports[other]))}: "
                f"their names do not say which {what} of one is which of the other",
                advice="choose signatures that agree, or save one with the names of the other",
            )
    return {label: {key: key for key in known} for label, known in ports.items()}

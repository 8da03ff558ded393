"""Values of other models and checkpoints for one of ours: partial initialisation, with every tensor's fate in a table.

The target lends everything and keeps what no source gives; see `graftwork.ckpt.names` for rules, `graftwork.ckpt.fitting` for shapes. Every
rule that fits a tensor gives its values away, so that one encoder can begin two towers; a tensor that would get two is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.ckpt.fitting import Fitted
from graftwork.ckpt.names import chosen, nearest, rule_of
from graftwork.ckpt.names import renamed as renamed_by
from graftwork.errors import MismatchError, OptionError
from graftwork.methods import get
from graftwork.methods.options import Place
from graftwork.pairing import Source
from graftwork.planning import MergePlan, MergeRequest, Step
from graftwork.recipe.checkpoints import CkptAssign
from graftwork.stores.base import Reader
from graftwork.tensor import FLOATS, Role, TensorSpec

STATE = (Role.OPTIMIZER, Role.COUNTER, Role.SEED)
"""Roles of what belongs to training and not to the model."""


@dataclass(frozen=True, slots=True)
class Given:
    """A tensor of a source that a tensor of the target gets its values from."""

    label: str
    name: str


@dataclass(frozen=True, slots=True)
class Targets:
    """The tensors that may be given values, and what they are called.

    Attributes:
        label: What messages call the target.
        reader: The open target.
        spellings: Further names of its tensors, and their canonical ones.
    """

    label: str
    reader: Reader
    spellings: Mapping[str, str]

    @property
    def specs(self) -> Mapping[str, TensorSpec]:
        """Every tensor by its canonical name."""
        return self.reader.specs()

    def matching(self, patterns: Sequence[str]) -> set[str]:
        """Return the canonical names of those that patterns fit; all of them without any.

        Raises:
            OptionError: If a pattern fits none.
        """
        return {self.meant(name) for name in chosen([*self.specs, *self.spellings], self.label, patterns)}

    def meant(self, name: str) -> str:
        """Return the canonical name of what is called so, or the same name."""
        return self.spellings.get(name, name)

    def shown(self, name: str) -> str:
        """Return what people call a tensor that has no name but a number."""
        if not name.rpartition("/")[2].isdecimal():
            return name
        return next((further for further, own in self.spellings.items() if own == name), name)

    def near(self, name: str) -> str:
        """Return "did you mean …?" for a name that nothing is called by."""
        return nearest(name, [self.shown(own) for own in of_the_model(self.specs)])


def plan_assign(
    step: CkptAssign, readers: Mapping[str, Reader], spellings: Mapping[str, str] | None = None
) -> MergePlan:
    """Return the plan of an assignment.

    Args:
        step: What is asked for.
        readers: The open target and sources by their names.
        spellings: Further names of the target's tensors, and their canonical ones.

    Raises:
        MismatchError: If two tensors would be assigned to one, one does not fit, or nothing would be assigned.
        OptionError: If a rule or a pattern fits nothing.
    """
    target = readers[step.target]
    targets = Targets(step.target, target, spellings or {})
    eligible = targets.matching(step.include) - (targets.matching(step.exclude) if step.exclude else set())
    free = _free_axes(step, targets)
    offers = [offer for label in step.sources for offer in _offers(step, label, readers[label], targets)]
    found = _one_each(targets, [(given, name) for given, name in offers if name in eligible])
    found |= _for_twins(target, found)
    steps: list[Step] = []
    rows: list[dict[str, Any]] = []
    reasons: list[str] = []
    skipped: dict[Given, str] = {}
    for name, spec in target.specs().items():
        given = found.get(name)
        row: dict[str, Any] = {"tensor": targets.shown(name), "shape": list(spec.shape), "from": "", "name there": ""}
        if given is None:
            row["what"] = "kept" if name in eligible else "kept: not among those to be assigned"
            made = _copy(spec, step.target, target)
        else:
            theirs = readers[given.label].specs()[given.name]
            reason = _unfit(step, targets, spec, theirs, given, free.get(name, set()))
            if reason and step.on_shape == "skip" and theirs.shape != spec.shape:
                row["what"] = f"kept: {given.name!r} of {given.label} has the shape {theirs.shape}"
                skipped[given] = f"its shape is not that of {targets.shown(name)!r}, {spec.shape}"
                made = _copy(spec, step.target, target)
            else:
                reasons += [reason] if reason else []
                row |= {"from": given.label, "name there": given.name, "what": _how(step, spec, theirs)}
                made = _assigned(step, spec, theirs, given, readers[given.label], target)
        steps.append(made)
        rows.append(row)
    if reasons:
        raise MismatchError(*reasons, advice="correct the rules, `exclude` it, or say with on_shape what shall happen")
    used = {given for name, given in found.items() if given not in skipped}
    if not used:
        raise MismatchError(
            f"nothing of {', '.join(step.sources)} would be assigned to {step.target}",
            advice=_what_there_is(step, readers),
        )
    unused = _unused(step, readers, {given: targets.shown(name) for given, name in offers}, used, skipped)
    return MergePlan(
        request=MergeRequest(
            method="passthrough", labels=tuple(dict.fromkeys(step.inputs())), seed=step.seed, allow_nonfinite=True
        ),
        models=tuple(readers[label] for label in dict.fromkeys(step.inputs())),
        base=None,
        steps=tuple(steps),
        notes=tuple(_notes(step, readers, rows, unused)),
        tables={"assigned": rows, "unused": unused},
    )


def _offers(step: CkptAssign, label: str, source: Reader, targets: Targets) -> list[tuple[Given, str]]:
    """Return which tensors of a source would give their values to which of the target."""
    names = [name for name, spec in source.specs().items() if step.state or spec.role not in STATE]
    if not step.sources[label]:
        return [(Given(label, name), targets.meant(name)) for name in names if targets.meant(name) in targets.specs]
    rules = [rule_of(text) for text in step.sources[label]]
    offers: list[tuple[Given, str]] = []
    for rule in rules:
        renamed = renamed_by([rule], names, label)
        meant = {name: targets.meant(new) for name, new in renamed.items()}
        there = [(Given(label, name), new) for name, new in meant.items() if new in targets.specs]
        if not there:
            new = next(iter(renamed.values()))
            raise OptionError(
                f"the rule '{rule}' of {label} leads to {new!r}, and {step.target} has no such tensor; "
                f"{targets.near(new)}"
            )
        offers += there
    return offers


def _one_each(targets: Targets, offers: Sequence[tuple[Given, str]]) -> dict[str, Given]:
    """Return what each tensor of the target gets.

    Raises:
        MismatchError: If one would get two.
    """
    found: dict[str, list[Given]] = {}
    for given, name in dict.fromkeys(offers):
        found.setdefault(name, []).append(given)
    reasons = [
        f"{targets.shown(name)!r} of {targets.label} would get "
        + " and ".join(f"{given.name!r} of {given.label}" for given in several)
        for name, several in found.items()
        if len(several) > 1
    ]
    if reasons:
        raise MismatchError(*reasons, advice="a tensor gets its values from one source; make the rules narrower")
    return {name: several[0] for name, several in found.items()}


def _for_twins(target: Reader, found: Mapping[str, Given]) -> dict[str, Given]:
    """Return what those tensors get that the target's file holds a second time.

    Raises:
        MismatchError: If the two would get values of different sources.
    """
    more: dict[str, Given] = {}
    for twin, first in target.header.twins.items():
        if twin in found and first in found and found[twin].label != found[first].label:
            raise MismatchError(
                f"{twin!r} and {first!r} of {target.path.name} are one variable, but would get values of "
                f"{found[twin].label} and of {found[first].label}"
            )
        for one, other in ((twin, first), (first, twin)):
            if one in found and other not in found:
                more[other] = found[one]
    return more


def _free_axes(step: CkptAssign, targets: Targets) -> dict[str, set[int]]:
    """Return the axes along which sizes may differ, by the tensor's name.

    Raises:
        OptionError: If a pattern fits nothing, or an axis is not there.
    """
    free: dict[str, set[int]] = {}
    for pattern, axes in step.axes.items():
        for name in targets.matching([pattern]):
            shape = targets.specs[name].shape
            wrong = next((axis for axis in axes if not -len(shape) <= axis < len(shape)), None)
            if wrong is not None:
                raise OptionError(f"`axes` names axis {wrong} of {targets.shown(name)!r}, which has the shape {shape}")
            free.setdefault(name, set()).update(axis % len(shape) for axis in axes)
    return free


def _unfit(
    step: CkptAssign, targets: Targets, spec: TensorSpec, theirs: TensorSpec, given: Given, free: set[int]
) -> str | None:
    """Return why a tensor cannot have another's values, or None."""
    here, there = f"{targets.shown(spec.name)!r} of {targets.label}", f"{given.name!r} of {given.label}"
    floats = spec.dtype in FLOATS and theirs.dtype in FLOATS
    codes = Role.QUANTIZED in (spec.role, theirs.role) and spec.role is not theirs.role
    if codes or (spec.dtype != theirs.dtype and not floats):
        return f"{there} is {theirs.dtype} ({theirs.role}), and {here} {spec.dtype} ({spec.role})"
    if spec.shape == theirs.shape:
        return None
    told = f"{there} has the shape {theirs.shape}, but {here} {spec.shape}"
    if step.on_shape in ("error", "skip") or len(spec.shape) != len(theirs.shape):
        return told
    for axis, (ours, other) in enumerate(zip(spec.shape, theirs.shape, strict=True)):
        if ours != other and axis not in free:
            return f"{told}, and axis {axis} is not one along which `axes` says that sizes may differ"
        if ours < other and step.on_shape == "pad":
            return f"{told}, which would have to be cut along axis {axis} (on_shape 'slice' or 'fit')"
        if ours > other and step.on_shape == "slice":
            return f"{told}, which would have to be filled up along axis {axis} (on_shape 'pad' or 'fit')"
        if ours > other and step.fill in ("mean", "normal") and spec.dtype not in FLOATS:
            return f"{told}, and is {spec.dtype}, which is not filled up with {step.fill!r}"
        if ours > other == 0 and step.fill in ("mean", "normal"):
            return f"{told}, which has no {step.fill!r}"
    return None


def _how(step: CkptAssign, spec: TensorSpec, theirs: TensorSpec) -> str:
    """Return in words how values are fitted."""
    how = "restored"
    for axis, (ours, other) in enumerate(zip(spec.shape, theirs.shape, strict=False)):
        if ours < other:
            how += f", axis {axis} cut from {other} to {ours}"
        if ours > other:
            how += f", axis {axis} filled up from {other} to {ours} ({step.fill})"
    return how if spec.dtype == theirs.dtype else f"{how}, {theirs.dtype} to {spec.dtype}"


def _copy(spec: TensorSpec, label: str, target: Reader) -> Step:
    return Step(
        spec=spec,
        readers=(target,),
        labels=(label,),
        sources=(Source(name=spec.name),),
        n_models=1,
        method=None,
        place=Place(spec.name, str(spec.role)),
    )


def _assigned(
    step: CkptAssign, spec: TensorSpec, theirs: TensorSpec, given: Given, source: Reader, target: Reader
) -> Step:
    """Return the step that gives a tensor another's values: a copy, a cast, or a copy of it in the target's shape."""
    fits = spec.shape == theirs.shape
    fitted = len(spec.shape) == len(theirs.shape) and not fits
    reader = Fitted(source, given.name, target, spec, fill=step.fill, seed=step.seed) if fitted else source
    return Step(
        spec=spec,
        readers=(reader,),
        labels=(given.label,),
        sources=(Source(name=given.name),),
        n_models=1,
        method=get("passthrough")() if fits and spec.dtype != theirs.dtype else None,
        place=Place(spec.name, str(spec.role)),
    )


def _unused(
    step: CkptAssign,
    readers: Mapping[str, Reader],
    offers: Mapping[Given, str],
    used: set[Given],
    skipped: Mapping[Given, str],
) -> list[dict[str, Any]]:
    """Return the tensors of the sources that went nowhere, and why."""
    rows = []
    for label in step.sources:
        for name, spec in readers[label].specs().items():
            given = Given(label, name)
            if given in used:
                continue
            why = (
                "no rule leads from it to a tensor of the target"
                if step.sources[label]
                else "the target has no such tensor"
            )
            if spec.role in STATE and not step.state:
                why = f"{spec.role}: belongs to training (--state)"
            elif given in skipped:
                why = skipped[given]
            elif given in offers:
                why = f"{offers[given]!r} is not among those to be assigned"
            rows.append({"from": label, "name there": name, "shape": list(spec.shape), "why": why})
    return rows


def _notes(
    step: CkptAssign, readers: Mapping[str, Reader], rows: Sequence[Mapping[str, Any]], unused: Sequence[Any]
) -> list[str]:
    restored = sum(1 for row in rows if row["from"])
    notes = [f"{label}: {note}" for label in dict.fromkeys(step.inputs()) for note in readers[label].header.notes]
    notes.append(
        f"{restored} of {len(rows)} tensors are assigned, {len(rows) - restored} keep their values; "
        f"{len(unused)} of the sources are not used"
    )
    ours = readers[step.target].header
    notes += [
        f"{label} counts the units of its matrices on another axis than {step.target}; nothing is transposed"
        for label in step.sources
        if readers[label].header.unit_axis != ours.unit_axis
    ]
    return notes


def _what_there_is(step: CkptAssign, readers: Mapping[str, Reader]) -> str:
    """Return the first names of each side, for whoever has to write rules."""
    shown = [
        f"those of {label} are called " + ", ".join(repr(name) for name in of_the_model(readers[label].specs())[:3])
        for label in (*step.sources, step.target)
    ]
    return f"write rules: {'; '.join(shown)}"


def of_the_model(specs: Mapping[str, TensorSpec]) -> list[str]:
    """Return the names of tensors that do not belong to training."""
    return [name for name, spec in specs.items() if spec.role not in STATE]

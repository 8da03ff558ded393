"""The union of checkpoints: every tensor of all of them, in one, restored by TensorFlow as its parts were.

Checkpoints of TensorFlow 2 are joined object by object (`graftwork.ckpt.objects`), all others name by name. Sources are read, never
renamed or moved. What several of them have is settled before anything is written; values are read only to see whether they are the same.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graftwork.ckpt.objects import COUNTER, COUNTER_KEY, Joined, Objects, Place, join
from graftwork.ckpt.view import CheckpointView, Shown, plan_of
from graftwork.errors import MismatchError
from graftwork.planning import MergePlan
from graftwork.recipe.checkpoints import CkptMerge
from graftwork.stores.base import RAW_DTYPES, Reader
from graftwork.stores.tf_checkpoint import CheckpointReader, Lender, Text, digest
from graftwork.stores.tf_graph import ATTRIBUTES, OPTIMIZER, VALUE, slot_owner
from graftwork.stores.tf_protos import Node

Value = Shown | Text
"""A tensor of numbers, or of texts and objects."""

ALSO = {"first": "also", "last": "also", "equal": "the same"}
"""What is said of a name that another source has too, by the policy."""

STEPS = "global_step"
"""What TensorFlow 1 calls the number of steps."""

PIECE = 1 << 20
"""Elements that are compared at a time."""


@dataclass(frozen=True, slots=True)
class Part:
    """A source: its label, where its names go, its object graph and its values by their keys."""

    label: str
    reader: Reader
    scope: str
    nodes: tuple[Node, ...]
    values: Mapping[str, Value]


@dataclass(slots=True)
class Settled:
    """What the result will hold.

    Attributes:
        keys: Where each value comes from, by its key in the result.
        nodes: The object graph.
        overlaps: How it was settled whose value is taken, by its key in the result.
        left_out: Values that are not taken, and why.
        reasons: Why it cannot be.
        notes: What the user should know.
    """

    keys: dict[str, Place] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    overlaps: dict[str, str] = field(default_factory=dict)
    left_out: list[tuple[Place, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def plan_union(step: CkptMerge, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a union.

    Args:
        step: What is asked for.
        readers: The open (or planned) checkpoints by their names.

    Raises:
        MismatchError: If several hold what only one may, or they are of kinds that do not go together.
    """
    parts = [_part(label, readers[label], step.scope.get(label, "")) for label in step.models]
    notes = list(_notes(parts))
    graphs = [part for part in parts if part.nodes]
    if graphs and len(graphs) < len(parts):
        other = next(part for part in parts if not part.nodes)
        raise MismatchError(
            f"{graphs[0].label} is a checkpoint of objects (TensorFlow 2), and {other.label} holds tensors by names",
            advice=f"convert {graphs[0].label} to safetensors, and merge by names",
        )
    settled = _by_objects(step, parts) if graphs else _by_names(step, parts)
    if settled.reasons:
        raise MismatchError(
            *settled.reasons,
            advice="say whose is taken with --on-conflict first or last (equal: if they are the same), or put a source below a prefix with "
            "--scope NAME=PREFIX/",
        )
    values = {key: parts[s].values[inner] for key, (s, inner) in settled.keys.items()}
    view = CheckpointView(
        parts[0].reader.path,
        {key: value for key, value in values.items() if isinstance(value, Shown)},
        texts={key: value for key, value in values.items() if isinstance(value, Text)},
        nodes=settled.nodes,
    )
    return plan_of(
        view,
        {part.label: part.reader for part in parts},
        notes=[*notes, *settled.notes],
        tables={"union": _rows(view, parts, settled), "left_out": _left_out(parts, settled)},
    )


def _part(label: str, reader: Reader, scope: str) -> Part:
    if not isinstance(reader, Lender):
        return Part(label, reader, scope, (), {name: Shown(reader, name) for name in reader.specs()})
    numbers = {reader.key(name): Shown(reader, name) for name in reader.specs()}
    return Part(label, reader, scope, tuple(reader.nodes), {**numbers, **reader.texts})


def _notes(parts: Sequence[Part]) -> Iterator[str]:
    for k, part in enumerate(parts):
        for other in parts[:k]:
            if (
                part.reader.path.exists()
                and other.reader.path.exists()
                and part.reader.path.samefile(other.reader.path)
            ):
                yield f"{other.label} and {part.label} are the same file"
        if part.reader.header.config is not None:
            yield f"the architecture of {part.label} is left out: the result holds tensors by their names"


# By names ----------------------------------------------------------------------------------------------------------------


def _by_names(step: CkptMerge, parts: Sequence[Part]) -> Settled:
    """Return the union of tensors by names."""
    settled = Settled()
    chosen: set[str] = set()
    for s, part in enumerate(parts):
        for inner in part.values:
            key, place = part.scope + inner, (s, inner)
            before = settled.keys.get(key)
            if before is None:
                settled.keys[key] = place
            elif key.rpartition("/")[2] == COUNTER:
                _greatest(parts, settled, key, [before, place])
            elif OPTIMIZER.fullmatch(inner) or inner.rpartition("/")[2] == STEPS:
                _settle_bookkeeping(step, parts, settled, key, before, place)
            else:
                _settle(step.on_conflict, parts, settled, key, before, place)
                chosen.add(key)
    if step.on_conflict in ("first", "last"):
        _drop_slots(parts, settled, chosen)
    return settled


def _settle(policy: str, parts: Sequence[Part], settled: Settled, key: str, before: Place, place: Place) -> None:
    """Decide which of two values of one name is taken."""
    labels = parts[before[0]].label, parts[place[0]].label
    if policy == "error":
        settled.reasons.append(f"{key!r} is in {labels[0]} and in {labels[1]}")
        return
    if policy == "equal":
        difference = _difference(parts, before, place)
        if difference:
            settled.reasons.append(f"{key!r} {difference}")
    taken, other = (place, before) if policy == "last" else (before, place)
    settled.keys[key] = taken
    _say(settled, key, f"{ALSO[policy]} in {parts[other[0]].label}")
    settled.left_out.append((other, f"that of {parts[taken[0]].label} is taken"))


def _settle_bookkeeping(
    step: CkptMerge, parts: Sequence[Part], settled: Settled, key: str, before: Place, place: Place
) -> None:
    """Decide about what a graph has once, however many models are in it: decays of Adam, loss scales, the number of steps."""
    if step.bookkeeping == "separate":
        name = re.sub(r"_\d+$", "", key)
        new = next(f"{name}_{k}" for k in itertools.count(1) if f"{name}_{k}" not in settled.keys)
        settled.keys[new] = place
        _say(settled, new, f"{place[1]} of {parts[place[0]].label}")
        return
    if step.bookkeeping == "equal" and _difference(parts, before, place):
        labels = [f"{_shown(_value(parts, found))} in {parts[found[0]].label}" for found in (before, place)]
        raise MismatchError(
            f"{key!r}, which optimizers share, is {' and '.join(labels)}",
            advice="say whose is taken with --bookkeeping first or last, or keep all with --bookkeeping separate, where the second is "
            f"called {key}_1",
        )
    _settle(step.bookkeeping, parts, settled, key, before, place)


def _drop_slots(parts: Sequence[Part], settled: Settled, chosen: set[str]) -> None:
    """Leave out the slots that belong to another value of a variable than the one that is taken."""
    dropped = 0
    for key, (s, inner) in list(settled.keys.items()):
        owner = slot_owner(inner, parts[s].values)
        variable = parts[s].scope + owner if owner is not None else None
        if variable in chosen and settled.keys[variable][0] != s:
            del settled.keys[key]
            settled.left_out.append(
                ((s, inner), f"a slot of {variable}, which is taken from {parts[settled.keys[variable][0]].label}")
            )
            dropped += 1
    if dropped:
        settled.notes.append(
            f"{dropped} slots of optimizers are left out: their variables are taken from another source"
        )


# By objects --------------------------------------------------------------------------------------------------------------


def _by_objects(step: CkptMerge, parts: Sequence[Part]) -> Settled:
    """Return the union of object graphs."""
    sources = [
        Objects(label=p.label, nodes=p.nodes, keys=tuple(p.values), scope=tuple(p.scope.split("/")[:-1])) for p in parts
    ]
    joined = join(sources, step.on_conflict)
    settled = Settled(keys=joined.keys, nodes=joined.nodes)
    labels = [part.label for part in parts]
    if step.on_conflict == "error":
        settled.reasons += [
            f"{conflict.path!r} is in {' and in '.join(labels[s] for s in conflict.sources)}"
            for conflict in joined.conflicts
        ]
    else:
        settled.reasons += joined.differences if step.on_conflict == "equal" else []
        _meet(step, parts, joined, settled)
    if joined.counters:
        _greatest(parts, settled, COUNTER_KEY, joined.counters)
    if joined.conflicts and step.on_conflict != "equal":
        paths = ", ".join(repr(c.path) for c in joined.conflicts[:5]) + ", …" * (len(joined.conflicts) > 5)
        settled.notes.append(f"taken from the {step.on_conflict} source that has it, with all that lies below: {paths}")
    return settled


def _meet(step: CkptMerge, parts: Sequence[Part], joined: Joined, settled: Settled) -> None:
    """Compare values that meet, and say what became of those that are not taken."""
    result = {place: key for key, place in joined.keys.items()}
    for other, taken in joined.met:
        if step.on_conflict == "equal":
            difference = _difference(parts, taken, other)
            if difference:
                settled.reasons.append(f"{result.get(taken, taken[1]).removesuffix(ATTRIBUTES + VALUE)!r} {difference}")
        if taken in result:
            _say(settled, result[taken], f"{ALSO[step.on_conflict]} in {parts[other[0]].label}")
    winner = dict(joined.met)
    for place in joined.left_out:
        why = (
            f"that of {parts[winner[place][0]].label} is taken" if place in winner else "what it belongs to is left out"
        )
        settled.left_out.append((place, why))
    if step.on_conflict == "equal":
        return
    for other, taken in joined.shared:
        mine, theirs = _value(parts, other), _value(parts, taken)
        if _form(mine) != _form(theirs):
            settled.reasons.append(
                f"what is kept of {parts[other[0]].label} refers to {other[1]!r}, {_form(mine)}, but {parts[taken[0]].label} has "
                f"{_form(theirs)} in its place"
            )


# Values ------------------------------------------------------------------------------------------------------------------


def _value(parts: Sequence[Part], place: Place) -> Value:
    return parts[place[0]].values[place[1]]


def _say(settled: Settled, key: str, what: str) -> None:
    settled.overlaps[key] = "; ".join([*([settled.overlaps[key]] if key in settled.overlaps else []), what])


def _greatest(parts: Sequence[Part], settled: Settled, key: str, places: Sequence[Place]) -> None:
    """Take the greatest of some counts."""
    known = [place for place in places if not _is_planned(_value(parts, place))]
    counts = {place: _number(_value(parts, place)) for place in known}
    taken = max(known, key=lambda place: counts[place]) if known else places[0]
    settled.keys[key] = taken
    if len(places) > 1:
        _say(
            settled,
            key,
            "the greatest of " + " and ".join(f"{counts.get(p, '?')} in {parts[p[0]].label}" for p in places),
        )
    if len(set(counts.values())) > 1:
        settled.notes.append(
            f"{key.partition('/.')[0]} is the greatest that there is, {counts[taken]} of {parts[taken[0]].label}"
        )


def _number(value: Value) -> float:
    raw = _read(value, 0, 1) if isinstance(value, Shown) and value.spec.size == 1 else None
    return raw[0].item() if raw is not None else 0


def _difference(parts: Sequence[Part], first: Place, second: Place) -> str:
    """Return how two values differ, as a sentence goes on behind their name; nothing if they do not, or are not there yet."""
    a, b = _value(parts, first), _value(parts, second)
    labels = parts[first[0]].label, parts[second[0]].label
    if _form(a) != _form(b):
        return f"is {_form(a)} in {labels[0]}, but {_form(b)} in {labels[1]}"
    if _is_planned(a) or _is_planned(b) or _same(a, b):
        return ""
    return f"has other values in {labels[0]} than in {labels[1]}"


def _form(value: Value) -> str:
    if isinstance(value, Text):
        return f"{value.stored.dtype} {value.stored.shape}"
    return f"{value.spec.dtype} {value.spec.shape}"


def _is_planned(value: Value) -> bool:
    return isinstance(value, Shown) and bool(getattr(value.reader, "is_planned", False))


def _same(a: Value, b: Value) -> bool:
    """Return whether two values of one form are the same: by their CRCs where both are recorded, else by their bytes."""
    if isinstance(a, Text) or isinstance(b, Text):
        return isinstance(a, Text) and isinstance(b, Text) and digest(a) == digest(b)
    if a.reader is b.reader and a.name == b.name:
        return True
    crcs = [v.reader.crc(v.name) if isinstance(v.reader, CheckpointReader) else None for v in (a, b)]
    if None not in crcs:
        return crcs[0] == crcs[1]
    size = a.spec.size
    starts = range(0, size, PIECE)
    return all(
        _read(a, start, min(PIECE, size - start)).tobytes() == _read(b, start, min(PIECE, size - start)).tobytes()
        for start in starts
    )


def _read(value: Shown, start: int, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    out = np.empty(count, RAW_DTYPES[value.spec.dtype])
    value.reader.read_into(value.name, start, out)
    return out


def _shown(value: Value) -> str:
    """Return a value for a message: the number that it is, or its form."""
    if not isinstance(value, Shown) or value.spec.size != 1 or value.spec.dtype.startswith(("bfloat", "float8")):
        return _form(value)
    return str(_read(value, 0, 1)[0])


# Tables ------------------------------------------------------------------------------------------------------------------


def _rows(view: CheckpointView, parts: Sequence[Part], settled: Settled) -> list[dict[str, Any]]:
    """Return a row for each tensor and text of the result."""
    forms = {name: (view.key(name), spec.shape, spec.dtype) for name, spec in view.specs().items()}
    for (key, text), name in zip(view.texts.items(), view.header.assets, strict=True):
        forms[name] = (key, text.stored.shape, text.stored.dtype)
    return [
        {
            "tensor": name,
            "shape": list(shape),
            "dtype": dtype,
            "from": parts[settled.keys[key][0]].label,
            "overlap": settled.overlaps.get(key, ""),
        }
        for name, (key, shape, dtype) in forms.items()
    ]


def _left_out(parts: Sequence[Part], settled: Settled) -> list[dict[str, Any]]:
    return [{"tensor": inner, "from": parts[s].label, "why": why} for (s, inner), why in settled.left_out]

"""One checkpoint made of one: its tensors under other names, some of them, all but some, or in another dtype.

Names are canonical names; those of texts (vocabularies of tables, …) can be meant too. What an object checkpoint keeps is restored by
objects as before: its graph is kept, without the values that are left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graftwork.ckpt.moving import move
from graftwork.ckpt.names import chosen, renamed, rule_of
from graftwork.ckpt.view import CheckpointView, Shown, copied, plan_of
from graftwork.errors import MismatchError, OptionError
from graftwork.methods import get
from graftwork.planning import MergePlan
from graftwork.recipe.checkpoints import CkptCast, CkptDrop, CkptExtract, CkptRename
from graftwork.stores.base import Reader
from graftwork.stores.tf_checkpoint import Lender, Text
from graftwork.stores.tf_graph import UNNAMED, VALUE, slot_owner
from graftwork.stores.tf_protos import Attribute, Node, remade
from graftwork.tensor import FLOATS, Role


@dataclass(frozen=True, slots=True)
class _Source:
    """An open source, and the keys of all that it holds by their names.

    Attributes:
        label: What messages call it.
        reader: The source.
        tensors: Keys of its tensors.
        texts: Keys of its tensors of texts and objects.
    """

    label: str
    reader: Reader
    tensors: Mapping[str, str]
    texts: Mapping[str, str]

    @property
    def names(self) -> list[str]:
        """The names of all that it holds."""
        return [*self.tensors, *self.texts]

    @property
    def keys(self) -> dict[str, str]:
        """All keys by names."""
        return {**self.tensors, **self.texts}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Its objects; none where it holds names alone."""
        return self.reader.nodes if isinstance(self.reader, Lender) else ()

    def view(self, names: Iterable[str], keys: Mapping[str, str], nodes: Sequence[Node]) -> CheckpointView:
        """Return some of it under other keys."""
        theirs: Mapping[str, Text] = self.reader.texts if isinstance(self.reader, Lender) else {}
        kept = list(names)
        return CheckpointView(
            self.reader.path,
            {keys[name]: Shown(self.reader, name) for name in kept if name in self.tensors},
            texts={keys[name]: theirs[self.texts[name]] for name in kept if name in self.texts},
            nodes=nodes,
        )

    def plan(self, view: CheckpointView, notes: Iterable[str], **tables: Sequence[Mapping[str, Any]]) -> MergePlan:
        """Return the plan that copies what a view shows."""
        return plan_of(view, {self.label: self.reader}, notes=notes, tables=tables)

    def row(self, name: str) -> dict[str, Any]:
        """Return what tables tell of something that it holds."""
        if name in self.texts:
            return {"name": name, "shape": None, "dtype": "text", "role": "text"}
        spec = self.reader.specs()[name]
        return {"name": name, "shape": list(spec.shape), "dtype": spec.dtype, "role": str(spec.role)}

    def is_optimizer(self, name: str) -> bool:
        """Whether it is optimizer state."""
        return name in self.tensors and self.reader.specs()[name].role is Role.OPTIMIZER


def _source(label: str, readers: Mapping[str, Reader]) -> _Source:
    reader = readers[label]
    if not isinstance(reader, Lender):
        return _Source(label, reader, {name: name for name in reader.specs()}, {})
    texts = dict(zip(reader.header.assets, reader.texts, strict=True))
    return _Source(label, reader, {name: reader.key(name) for name in reader.specs()}, texts)


# Some of them ----------------------------------------------------------------------------------------------------------


def plan_extract(step: CkptExtract, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a checkpoint that holds some tensors of another.

    Raises:
        OptionError: If a pattern fits nothing.
        MismatchError: If no tensor is left.
    """
    source = _source(step.model, readers)
    names = chosen(source.names, step.model, step.patterns, step.exclude)
    return source.plan(*_part(source, names), extracted=[source.row(name) for name in names])


def plan_drop(step: CkptDrop, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a checkpoint that lacks some tensors of another.

    Raises:
        OptionError: If a pattern fits nothing.
        MismatchError: If no tensor is left.
    """
    source = _source(step.model, readers)
    names = dict.fromkeys(chosen(source.names, step.model, step.patterns, step.exclude))
    left = [name for name in source.names if name not in names]
    return source.plan(*_part(source, left), dropped=[source.row(name) for name in names])


def _part(source: _Source, names: Sequence[str]) -> tuple[CheckpointView, list[str]]:
    """Return some of a source, and what the user should know about the rest."""
    view = source.view(names, source.keys, source.nodes)
    left_out = len(source.names) - len(names)
    notes = [f"{left_out:,} of {len(source.names):,} tensors of {source.label} are left out"] if left_out else []
    kept = set(names)
    owners = {name: slot_owner(name, source.tensors) for name in names if source.is_optimizer(name)}
    alone = [name for name, owner in owners.items() if owner is not None and owner not in kept]
    if alone:
        notes.append(
            f"the result keeps optimizer state of variables that it does not have: {alone[0]!r}"
            + (f" and {len(alone) - 1:,} more" if len(alone) > 1 else "")
        )
    return view, notes + _called_otherwise(view)


def _called_otherwise(view: CheckpointView, expected: Mapping[str, str] | None = None) -> list[str]:
    """Return notes on tensors that have another name for a reason of their own: no other has it any more."""
    expected = expected or {}
    return [
        f"{tensor.name!r} is called {name!r} in the result, where no other tensor is"
        for name, tensor in view.shown.items()
        if name != expected.get(tensor.name, tensor.name)
    ]


# Other names -----------------------------------------------------------------------------------------------------------


def plan_rename(step: CkptRename, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a checkpoint whose tensors, or objects, have other names.

    Raises:
        OptionError: If a rule fits nothing, or makes no sense.
        MismatchError: If two things would have one name.
    """
    source = _source(step.model, readers)
    if step.objects:
        return _move(step, source)
    new = renamed([rule_of(text) for text in step.rules], source.names, step.model)
    if step.slots:
        new |= {
            name: new[owner] + name.removeprefix(owner)
            for name in source.tensors
            if name not in new and source.is_optimizer(name) and (owner := slot_owner(name, source.tensors)) in new
        }
    _check_names(source, new)
    keys, nodes = source.keys, source.nodes
    if nodes:
        nodes = _with_names(source, new)
    else:
        keys = {name: new.get(name, name) for name in keys}
    view = source.view(source.names, keys, nodes)
    wrong = next(
        ((tensor.name, name) for name, tensor in view.shown.items() if name != new.get(tensor.name, name)), None
    )
    if wrong is not None:
        raise MismatchError(
            f"{wrong[0]!r} of {step.model} cannot be called {new[wrong[0]]!r}, but would be {wrong[1]!r}"
            + (", as TensorFlow calls what nobody named" if new[wrong[0]] == UNNAMED else "")
        )
    rows = [{"name": name, "becomes": new[name]} for name in source.names if name in new]
    return source.plan(view, _called_otherwise(view, new), renamed=rows)


def _check_names(source: _Source, new: Mapping[str, str]) -> None:
    if all(name == other for name, other in new.items()):
        raise OptionError(f"the rules change no name of {source.label}")
    seen: dict[str, str] = {}
    for name in source.names:
        other = seen.setdefault(new.get(name, name), name)
        if other != name:
            raise MismatchError(
                f"{other!r} and {name!r} of {source.label} would both be called {new.get(name, name)!r}"
            )


def _with_names(source: _Source, new: Mapping[str, str]) -> tuple[Node, ...]:
    """Return the objects with other names of variables, which is what TensorFlow 2 does not restore by."""
    keys = source.keys
    names = {keys[name]: other for name, other in new.items() if name != other}
    known = {a.key for node in source.nodes for a in node.attributes if a.name == VALUE}
    unknown = next((name for name in new if keys[name] in names and keys[name] not in known), None)
    if unknown is not None:
        raise MismatchError(
            f"{unknown!r} of {source.label} is no variable with a name of its own",
            advice="it is called by the path to its object, which `objects` renames",
        )

    def named(attribute: Attribute) -> Attribute:
        return replace(attribute, full_name=names.get(attribute.key, attribute.full_name))

    return tuple(remade(node, lambda number: number, named) for node in source.nodes)


def _move(step: CkptRename, source: _Source) -> MergePlan:
    if not source.nodes:
        raise OptionError(f"{step.model} holds names and no objects; rename its tensors without `objects`")
    keys = source.keys
    owners = {a.key for node in source.nodes for a in node.attributes}
    table = {key: key.rpartition("-")[0] for key in keys.values() if key not in owners}
    parts = {key: owner for key, owner in table.items() if owner in owners}
    moved = move(
        source.nodes, [parts.get(key, key) for key in keys.values()], [rule_of(text) for text in step.rules], step.model
    )
    new = {
        name: moved.keys.get(parts.get(key, key), parts.get(key, key)) + key.removeprefix(parts.get(key, key))
        for name, key in keys.items()
    }
    view = source.view(source.names, new, moved.nodes)
    rows = [{"name": name, "key": key, "becomes": new[name]} for name, key in keys.items() if new[name] != key]
    paths = [{"object": old, "becomes": path or "/"} for old, path in moved.paths]
    return source.plan(view, (), objects=paths, keys=rows)


# Another dtype ---------------------------------------------------------------------------------------------------------


def plan_cast(step: CkptCast, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a checkpoint whose weights have another dtype.

    Raises:
        OptionError: If a pattern fits nothing.
        MismatchError: If nothing has to be cast.
    """
    source = _source(step.model, readers)
    names = set(chosen(source.names, step.model, step.patterns, step.exclude))
    view = source.view(source.names, source.keys, source.nodes)
    method = get("passthrough").model_validate({})
    steps, rows = [], []
    left: Counter[str] = Counter()
    for each in copied(view, {step.model: source.reader}):
        spec = each.spec
        if each.sources[0].name not in names or spec.dtype == step.dtype:
            steps.append(each)
        elif spec.role not in (Role.WEIGHT, Role.STATISTIC) or spec.dtype not in FLOATS:
            left[f"{spec.role} {spec.dtype}"] += 1
            steps.append(each)
        else:
            steps.append(replace(each, spec=replace(spec, dtype=step.dtype), method=method))
            rows.append({"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "becomes": step.dtype})
    if not rows:
        raise MismatchError(
            f"no tensor of {step.model} is cast: none of those that are meant is a floating-point weight of another dtype than "
            f"{step.dtype}",
            advice="optimizer state, counters, seeds and tables keep their dtypes",
        )
    notes = [
        f"{count:,} tensors ({what}) keep their dtype" if count > 1 else f"1 tensor ({what}) keeps its dtype"
        for what, count in left.items()
    ]
    plan = plan_of(view, {step.model: source.reader}, steps=steps, notes=notes, tables={"cast": rows})
    return replace(plan, request=replace(plan.request, allow_nonfinite=step.allow_nonfinite))

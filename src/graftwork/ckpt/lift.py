"""Variables of a SavedModel or checkpoint in a Keras model of the same architecture.

`graftwork.ckpt.counterparts` tells which is which, `graftwork.ckpt.assign` carries values over, and the model that comes out is asked for
what the SavedModel's signature says.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graftwork.architecture.layout import layout
from graftwork.ckpt.assign import plan_assign
from graftwork.ckpt.counterparts import FREE, Counterpart, Order, counterparts, likely
from graftwork.ckpt.names import nearest, rule_of
from graftwork.ckpt.names import renamed as renamed_by
from graftwork.errors import MismatchError, OptionError, StoreError
from graftwork.models.live import load_model
from graftwork.models.savedmodel.agreement import agreement, loaded
from graftwork.models.savedmodel.rebuild import output_names
from graftwork.planning import MergePlan
from graftwork.recipe.checkpoints import CkptAssign
from graftwork.recipe.savedmodel import SavedmodelLift
from graftwork.stores.base import Reader
from graftwork.stores.keras2_program import Keras2Program
from graftwork.stores.legacy_h5 import creation_order
from graftwork.stores.saved_model import SavedModelReader
from graftwork.stores.tf_graph import FIRST
from graftwork.tensor import Role, TensorSpec

LISTED = re.compile(rf"{FIRST}(\d+)/.*")
"""Keys of variables that are listed in their order."""


def plan_lift(step: SavedmodelLift, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a lift.

    Args:
        step: What is asked for.
        readers: The open source and model by their names.

    Raises:
        MismatchError: If a tensor of either side has no counterpart, and `partial` does not allow for that.
        OptionError: If a rule fits nothing.
    """
    source, into = _named(readers[step.source]), readers[step.into]
    if into.header.architecture is None:
        raise MismatchError(
            f"{into.path.name} holds no architecture of a Keras model, which variables could be lifted into",
            advice="give a .keras file of the model as Keras 3 builds it, or the live model",
        )
    target, there = _ours(into), {n: s for n, s in source.specs().items() if s.role is not Role.OPTIMIZER}
    given = _given(step, target, there)
    taken = {counterpart.name for counterpart in given.values()}
    left = {name: spec for name, spec in target.items() if name not in given}
    others = {name: spec for name, spec in there.items() if name not in taken}
    theirs = _order(source)
    ours = order_of_model(into) if theirs else None
    told = counterparts(left, others, ours and ours.without(given), theirs and theirs.without(taken))
    found = {
        name: counterpart
        for name, counterpart in (given | told).items()
        if target[name].role not in FREE or target[name].dtype == there[counterpart.name].dtype
    }
    _check(step, target, there, found)
    rules = [f"{_as_pattern(counterpart.name)}={name}" for name, counterpart in found.items()]
    wish = CkptAssign(target=step.into, sources={step.source: tuple(rules)}, state=True)
    plan = plan_assign(wish, {step.into: into, step.source: source})
    return replace(plan, like=into, notes=_notes(plan, found), tables=_tables(plan, found))


def _named(source: Reader) -> Reader:
    """Return a source under the best names that it has: those of its own configuration, where Keras 2 saved one with it."""
    if isinstance(source, SavedModelReader):
        try:
            return Keras2Program(source.path, reader=source)
        except StoreError:  # it has none, or one that is no graph of layers
            return source
    return source


def _ours(into: Reader) -> dict[str, TensorSpec]:
    """Return the tensors of a model, each once."""
    twice = set(into.header.twins.values())
    return {n: s for n, s in into.specs().items() if s.role is not Role.OPTIMIZER and n not in twice}


def order_of_model(reader: Reader, *, keras2: bool = False) -> Order | None:
    """Return the order of a model's variables as its configuration tells it, None if it does not."""
    if reader.header.architecture is None:
        return None
    planned = layout(reader.header.architecture, keras2=keras2)
    if planned.unknown:
        return None
    twice = set(reader.header.twins.values())
    first = {v.name: v for v in planned.variables if v.name in reader.specs() and v.name not in twice}
    rank = creation_order(first.values())
    names = sorted(first, key=lambda name: rank[name])
    return Order(names=tuple(names), leaves=tuple(name.rpartition("/")[2] for name in names))


def _order(source: Reader) -> Order | None:
    """Return the order of a source's variables: as exports of Keras 3 list them, or as a configuration of Keras 2 tells."""
    if isinstance(source, Keras2Program):
        return order_of_model(source, keras2=True)
    if not isinstance(source, SavedModelReader):
        return None
    known = {a.key: a.full_name for node in source.nodes for a in node.attributes}
    listed: list[tuple[int, str, str]] = []
    for name, spec in source.specs().items():
        key = source.key(name)
        found = LISTED.fullmatch(key)
        if found and spec.role not in (Role.SEED, Role.OPTIMIZER):
            listed.append((int(found[1]), name, known.get(key, name).rpartition("/")[2].partition(":")[0]))
    listed.sort()
    return Order(names=tuple(n for _, n, _ in listed), leaves=tuple(leaf for _, _, leaf in listed)) if listed else None


def _given(
    step: SavedmodelLift, target: Mapping[str, TensorSpec], there: Mapping[str, TensorSpec]
) -> dict[str, Counterpart]:
    """Return the counterparts that the user's rules tell.

    Raises:
        OptionError: If a rule leads to no tensor of the model, or two lead to one.
    """
    found: dict[str, Counterpart] = {}
    for name, new in renamed_by([rule_of(text) for text in step.map], there, step.source).items():
        if new not in target:
            raise OptionError(
                f"`map` leads from {name!r} to {new!r}, and {step.into} has no such tensor; {nearest(new, list(target))}"
            )
        if new in found:
            raise OptionError(f"`map` leads to {new!r} from {found[new].name!r} and from {name!r}")
        found[new] = Counterpart(name, "map")
    return found


def _check(
    step: SavedmodelLift,
    target: Mapping[str, TensorSpec],
    there: Mapping[str, TensorSpec],
    found: Mapping[str, Counterpart],
) -> None:
    """Refuse what is left over on either side, and say what would help."""
    if step.partial:
        return
    taken = [counterpart.name for counterpart in found.values()]
    reasons, hints = [], []
    for name, spec in target.items():
        if name in found or spec.role in FREE:
            continue
        near = likely(name, target, there, taken)
        if name in there:
            why = f"has the shape {there[name].shape} in {step.source} and {spec.shape} in {step.into}"
        elif near:
            why = f"of {step.into} could be {_either(near)} of {step.source}"
            hints.append(f"{_as_pattern(near[0])}={name}")
        else:
            why = f"of {step.into} has no counterpart in {step.source}: none of the shape {spec.shape} is left there"
        reasons.append(f"{name!r} {why}")
    reasons += [
        f"{name!r} {spec.shape} of {step.source} has no counterpart in {step.into}"
        for name, spec in there.items()
        if name not in taken and name not in target and spec.role not in (*FREE, Role.TABLE)
    ]
    if reasons:
        example = f", such as {hints[0]!r}" if hints else ""
        raise MismatchError(
            *reasons,
            advice=f"say which is which with map (--map OLD=NEW{example}), or allow for tensors without a counterpart with partial",
        )


def _either(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:3]]
    more = [f"{len(names) - 3} others"] if len(names) > 3 else []
    return " or ".join([*shown, *more])


def _as_pattern(name: str) -> str:
    """Return a name as the old side of a rule, which is a regular expression where it is no name that there is."""
    return name if re.fullmatch(r"[\w/.:@-]+", name) else re.escape(name)


def _tables(plan: MergePlan, found: Mapping[str, Counterpart]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return the tables of an assignment with a column that says how counterparts were found."""
    rows = [
        {**row, "by": found[row["tensor"]].how if row["tensor"] in found else ""} for row in plan.tables["assigned"]
    ]
    unused = [{**row, "why": _why(row["why"])} for row in plan.tables["unused"]]
    return {"lifted": rows, "unused": unused}


def _why(text: str) -> str:
    return "it has no counterpart" if text.startswith("no rule") else text


def _notes(plan: MergePlan, found: Mapping[str, Counterpart]) -> tuple[str, ...]:
    ways: dict[str, int] = {}
    for counterpart in found.values():
        ways[counterpart.how] = ways.get(counterpart.how, 0) + 1
    return (*plan.notes, *(f"{count} tensors are told apart by {how}" for how, count in ways.items()))


def compared(
    step: SavedmodelLift,
    source: Reader,
    result: Reader,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    safe_mode: bool = True,
) -> list[str]:
    """Return what comparing the model that came out with the SavedModel shows.

    Args:
        step: What was asked for.
        source: The open source.
        result: The open result.
        custom_objects: Classes and functions of the model that Keras does not know, by name.
        safe_mode: Whether code in the model is refused.

    Raises:
        StoreError: If the model says something else.
    """
    if not step.check:
        return ["not compared with the source, as asked"]
    if step.partial:
        return ["not compared with the source, for tensors may have kept their values"]
    if source.header.format != "saved_model":
        return [f"not compared: {source.path.name} holds no program"]
    if result.header.architecture is None:
        return [f"not compared: a {result.header.format} file holds no architecture"]
    try:
        model = load_model(result, custom_objects=custom_objects, safe_mode=safe_mode)
        named = _named(source)
        names = output_names(named.header.architecture) if named.header.architecture else ()
        _, note = agreement(loaded(source.path), step.source, model, step.signature, names)
    except StoreError as error:
        raise StoreError(f"{error}; nothing is written unless check=False (--no-check)") from error
    return [note]

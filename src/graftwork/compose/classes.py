"""Classes of members by name: the union of all, and where each member has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graftwork.errors import MismatchError, OptionError, UnknownNameError

ClassLists = Mapping[str, Sequence[str | int]] | Sequence[Sequence[str | int]]
"""Names of classes in the order of a member's outputs, by member, or for each member in turn."""


@dataclass(frozen=True, slots=True)
class Group:
    """Classes that the same members know.

    Attributes:
        classes: Their positions in the result.
        members: Positions of the members.
        columns: For each of the members, where it has each of the classes.
    """

    classes: tuple[int, ...]
    members: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMap:
    """Which output of which member is which of the result.

    Attributes:
        classes: Names in the order of the result; None where members have none and the same order is assumed.
        width: How many outputs the result has; None where no member says.
        groups: All classes, by who knows them.
        rows: One for each class: its name, its coverage (the weight of the members that know it, of all), and its place in each member.
        notes: What the user should know.
    """

    classes: tuple[str, ...] | None
    width: int | None
    groups: tuple[Group, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, ...] | None:
        """For each output of the result its place in the groups laid side by side; None where they are in order."""
        laid = [position for group in self.groups for position in group.classes]
        if laid == sorted(laid):
            return None
        return tuple(int(place) for place in np.argsort(laid))


def class_map(
    members: Sequence[str],
    widths: Sequence[int | None],
    lists: Sequence[Sequence[str] | None],
    weights: Sequence[float],
    what: str = "",
) -> ClassMap:
    """Return the union of members' classes in order of first appearance.

    Args:
        members: Their names.
        widths: How many outputs each has along the last axis.
        lists: Names of each one's classes, where they are known.
        weights: What each counts.
        what: Which output it is about, for messages, as an end to "member a".

    Raises:
        MismatchError: If widths differ and class lists do not say why, or a list does not fit its member.
    """
    for name, width, known in zip(members, widths, lists, strict=True):
        if known is not None:
            _check(f"{name}{what}", width, known)
    listed = [known for known in lists if known is not None]
    if listed and len(listed) < len(lists):
        same = all(tuple(known) == tuple(listed[0]) for known in listed)
        unlisted = [name for name, known in zip(members, lists, strict=True) if known is None]
        if not same or any(width != len(listed[0]) for width in widths):
            with_list = next(name for name, known in zip(members, lists, strict=True) if known is not None)
            raise MismatchError(
                f"{with_list}{what} has names of its classes and {', '.join(unlisted)} has none, so they cannot be matched",
                advice=f'say them: classes={{"{unlisted[0]}": […]}}',
            )
        return _same(
            tuple(listed[0]), len(listed[0]), len(members), f"{', '.join(unlisted)}{what} has no names of its classes: "
        )
    if not listed:
        sizes = {width for width in widths if width is not None}
        if len(sizes) > 1:
            first = next(k for k, width in enumerate(widths) if width is not None)
            other = next(k for k, width in enumerate(widths) if width not in (None, widths[first]))
            raise MismatchError(
                f"{members[first]}{what} gives {widths[first]} values and {members[other]} gives {widths[other]}",
                advice="say which classes they are: classes={"
                + f'"{members[first]}": […], "{members[other]}": […]'
                + "}, or adapt one of the models",
            )
        return _same(
            None,
            next(iter(sizes), None),
            len(members),
            f"the members{what} have no names of their classes: " if what else "",
        )
    return _union(members, [tuple(known) for known in listed], weights)


def _check(owner: str, width: int | None, known: Sequence[str]) -> None:
    twice = [each for k, each in enumerate(known) if each in known[:k]]
    if twice:
        raise MismatchError(f"{owner}: the class {twice[0]!r} stands twice in its list")
    if width is None:
        raise MismatchError(f"{owner} does not fix how many values it gives, so its classes cannot have names")
    if len(known) != width:
        raise MismatchError(f"{owner} gives {width} values, and its list names {len(known)} classes")


def _same(classes: tuple[str, ...] | None, width: int | None, members: int, why: str) -> ClassMap:
    """Return the map of members that all have the same classes in the same order, or are taken to."""
    columns = tuple(range(width)) if width is not None else ()
    note = f"{why or 'no member has names of its classes: '}the same classes in the same order are assumed"
    group = Group(columns, tuple(range(members)), (columns,) * members)
    return ClassMap(classes=classes, width=width, groups=(group,), notes=(note,))


def _union(members: Sequence[str], lists: Sequence[tuple[str, ...]], weights: Sequence[float]) -> ClassMap:
    union = tuple(dict.fromkeys(each for known in lists for each in known))
    places = [{each: k for k, each in enumerate(known)} for known in lists]
    who = {each: tuple(k for k, known in enumerate(places) if each in known) for each in union}
    groups = []
    for knowing in dict.fromkeys(who.values()):
        classes = [k for k, each in enumerate(union) if who[each] == knowing]
        columns = tuple(tuple(places[k][union[at]] for at in classes) for k in knowing)
        groups.append(Group(tuple(classes), knowing, columns))
    whole = sum(weights)
    labels = [f"member {name}" if name in ("class", "coverage") else name for name in members]
    rows = tuple(
        {"class": each, "coverage": sum(weights[k] for k in who[each]) / whole}
        | {label: place.get(each) for label, place in zip(labels, places, strict=True)}
        for each in union
    )
    notes = []
    partial = [each for each in union if len(who[each]) < len(members)]
    if partial:
        notes.append(
            f"{len(partial)} of {len(union)} classes are not known to every member; each class is combined over the members that know it"
        )
    return ClassMap(classes=union, width=len(union), groups=tuple(groups), rows=rows, notes=tuple(notes))


def class_lists(
    members: Sequence[str], said: ClassLists | None, known: Sequence[Sequence[str] | None], keys: Sequence[str]
) -> list[tuple[str, ...] | None]:
    """Return names of each member's classes: what the user says, else what is known of the member.

    Args:
        members: Their names.
        said: The user's lists, by one of `keys`, or for all members in turn.
        known: What is known, by member.
        keys: What each member's list is called in a mapping.

    Raises:
        UnknownNameError: If a mapping names no member.
        OptionError: If there are not as many lists as members.
    """
    found = [tuple(each) if each is not None else None for each in known]
    if said is None:
        return found
    if isinstance(said, Mapping):
        unknown = [key for key in said if key not in keys and key not in members]
        if unknown:
            raise UnknownNameError("member (under `classes`)", unknown[0], keys)
        lists: list[Sequence[str | int] | None] = [
            said.get(key, said.get(name)) for key, name in zip(keys, members, strict=True)
        ]
    else:
        if len(said) != len(members):
            raise OptionError(f"`classes` has {len(said)} lists for {len(members)} members")
        lists = list(said)
    return [tuple(str(each) for each in new) if new is not None else old for new, old in zip(lists, found, strict=True)]

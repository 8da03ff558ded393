r"""How users say which tensors they mean, and what these shall be called: patterns, and rules ``OLD=NEW``.

A pattern is a glob or, behind ``re:``, a regular expression, as everywhere (`graftwork.pairing.matches`). A rule is one of two things.
``scope/=other/`` moves what lies below a scope, where ``/`` alone is the top: ``/=encoder/`` puts all names below *encoder*. All other
rules are a regular expression over whole names, and what these become, with ``\1`` for what the first parentheses matched. Of several
rules the first that fits a name counts. What fits nothing is refused, for it is a slip, or the wrong file.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graftwork.errors import OptionError, suggest
from graftwork.pairing import matches


@dataclass(frozen=True, slots=True)
class Rule:
    """What some names become; see the module.

    Args:
        old: A name, a scope that ends in a slash, or a regular expression over whole names.
        new: What they become.

    Raises:
        OptionError: If it makes no sense.
    """

    old: str
    new: str

    def __post_init__(self) -> None:
        if not self.old or not self.new:
            raise OptionError(f"the rule '{self}' lacks a side; write OLD=NEW, and / for the top of all names")
        if self.old.endswith("/") != self.new.endswith("/"):
            raise OptionError(
                f"the rule '{self}' has a slash at the end of one side only; scope/=other/ is for all that lies below a scope, "
                "and without slashes for whole names"
            )
        if self.is_scope:
            return
        try:
            found = re.compile(f"{self.old}|").fullmatch("")  # the empty text fits, and no group has matched
            assert found is not None
            found.expand(self.new)
        except (re.error, IndexError) as error:
            raise OptionError(f"the rule '{self}' is no regular expression and its replacement: {error}") from error

    def __str__(self) -> str:
        return f"{self.old}={self.new}"

    @property
    def is_scope(self) -> bool:
        """Whether it is about all names below a scope."""
        return self.old.endswith("/")

    def apply(self, name: str) -> str | None:
        """Return what a name becomes, None where the rule is not about it."""
        if self.is_scope:
            scope, other = self.old.removeprefix("/"), self.new.removeprefix("/")
            return other + name.removeprefix(scope) if name.startswith(scope) else None
        if name == self.old:
            return self.new
        found = re.fullmatch(self.old, name)
        return found.expand(self.new) if found else None


def rule_of(text: str) -> Rule:
    """Return the rule that a text ``OLD=NEW`` spells; the last equals sign divides it.

    Raises:
        OptionError: If it is none.
    """
    old, equals, new = text.rpartition("=")
    if not equals:
        raise OptionError(f"{text!r} is no rule OLD=NEW, such as scope/=other/ or 'dense_(.*)=head/\\1'")
    return Rule(old, new)


def renamed(rules: Sequence[Rule], names: Iterable[str], where: str) -> dict[str, str]:
    """Return what each name that a rule is about becomes, in the order of the names.

    Args:
        rules: The first that fits a name counts; one whose old side is a name that there is means that name alone.
        names: The names that there are.
        where: What messages call their source.

    Raises:
        OptionError: If a rule fits none that those before it leave.
    """
    names = list(names)
    known = set(names)
    found: dict[str, str] = {}
    for rule in rules:
        alone = rule.old in known and not rule.is_scope
        fitting = [rule.old] if alone else [name for name in names if rule.apply(name) is not None]
        taken = [name for name in fitting if name not in found]
        if not fitting:
            raise OptionError(f"the rule '{rule}' fits no tensor of {where}; {nearest(rule.old, names)}")
        if not taken:
            raise OptionError(
                f"the rule '{rule}' comes too late: rules before it fit all its tensors of {where}, such as {fitting[0]!r}; "
                "put it before them"
            )
        found |= {name: rule.apply(name) or "" for name in taken}
    empty = next((name for name, new in found.items() if not new), None)
    if empty is not None:
        raise OptionError(f"the rules leave nothing of the name {empty!r} of {where}")
    return {name: found[name] for name in names if name in found}


def chosen(names: Iterable[str], where: str, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[str]:
    """Return the names that fit one of the patterns to include, or all without any, and none of those to exclude.

    Args:
        names: The names that there are.
        where: What messages call their source.
        include: Patterns.
        exclude: Patterns.

    Raises:
        OptionError: If a pattern fits none.
    """
    names = list(names)
    for pattern in (*include, *exclude):
        check_pattern(pattern)
        if not any(matches([pattern], name) for name in names):
            raise OptionError(f"the pattern {pattern!r} fits no tensor of {where}; {nearest(pattern, names)}")
    return [name for name in names if (not include or matches(include, name)) and not matches(exclude, name)]


def check_pattern(pattern: str) -> None:
    """Refuse a pattern that is no regular expression though it says so.

    Raises:
        OptionError: With the reason.
    """
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise OptionError(f"the pattern {pattern!r} is no regular expression: {error}") from error


def nearest(pattern: str, names: Sequence[str]) -> str:
    """Return "did you mean …?" for a name, a scope or a pattern that fits nothing."""
    plain = re.split(r"[][*?(){}|^$+\\]", pattern.removeprefix("re:"))[0]
    scopes: Mapping[str, None] = {name[: at + 1]: None for name in names for at in _slashes(name)}
    if plain.endswith("/") and scopes:
        return suggest(plain, scopes)
    return suggest(plain or pattern, [*names, *scopes])


def _slashes(name: str) -> list[int]:
    return [found.start() for found in re.finditer("/", name)]

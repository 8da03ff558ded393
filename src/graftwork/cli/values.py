"""What the texts of options say: values as YAML has them, and NAME=VALUE."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer


def value(text: str, option: str | None = None) -> Any:
    """Return what a text says in YAML: a number, a word, a list, a mapping."""
    from graftwork import plain_yaml

    try:
        return plain_yaml.load(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a value: {error}", param_hint=option) from None


def pairs(given: Iterable[str], option: str | None = None, *, last: bool = False) -> dict[str, str]:
    """Return the values of texts NAME=VALUE by their names; a name that is given twice is refused, since one of the two would not count.

    Args:
        given: The texts.
        option: What they were given to.
        last: Whether the last = of a text divides it, as where names are regular expressions.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, said = (part.strip() for part in (text.rpartition("=") if last else text.partition("=")))
        if not equals or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        if name in found:
            raise typer.BadParameter(f"{name!r} is given twice, as {found[name]!r} and {said!r}", param_hint=option)
        found[name] = said
    return found


def columns(given: Sequence[str]) -> Mapping[str, tuple[str, ...]] | tuple[str, ...] | None:
    """Return the columns of inputs that the texts of ``--x`` say: ``a,b`` in the order of the inputs, or INPUT=a,b for each."""
    if any("=" in text for text in given):
        return {name: tuple(said.split(",")) for name, said in pairs(given, "--x").items()}
    return tuple(column for text in given for column in text.split(",")) or None

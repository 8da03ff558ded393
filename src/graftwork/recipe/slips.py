"""What pydantic finds wrong with settings, in one sentence that names the place and the word that was meant."""

import re
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from graftwork.errors import suggest

_EXPECTED = {
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "is_instance_of": "a list",
    "sequence_str": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "one or more",
    "string_too_short": "a name",
    "string_pattern_mismatch": "a name without slashes and blanks",
}
"""What a field should be, by pydantic's word for what is wrong."""

_WAY = re.compile(
    r"str|int|float|bool|(list|tuple|dict|literal|union|json-or-python|(constrained|function)-[a-z]+)\[.*"
)
"""What pydantic puts into a place where a value may be one thing or another: which of them it tried."""


def sentence(error: ValidationError, root: type[BaseModel], place: str = "") -> str:
    """Return the first thing that is wrong; a word that is not known may be why another is missing.

    Of a value that may be one thing or another, what came furthest into it is told, or all that it could have been.

    Args:
        error: What pydantic found.
        root: The class that was to be made.
        place: Where in the file it stands: the beginning of every place that is named.
    """
    found = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    tried = [each for each in found if _value(root, each["loc"]) == _value(root, found[0]["loc"])]
    deepest = max(len(_path(root, each["loc"])) for each in tried)
    wrong = [each for each in tried if len(_path(root, each["loc"])) == deepest]
    first = wrong[0]
    path = _path(root, first["loc"])
    where = place + ".".join(map(str, path))
    more = f"; and {len(found) - len(tried)} more" if found[len(tried) :] else ""
    if first["type"] == "extra_forbidden":
        return f"{where!r} is not known; {suggest(str(path[-1]), _home(root, path).model_fields)}{more}"
    if first["type"] == "missing":
        return f"{where!r} is missing{more}"
    return f"{where!r} is {repr(first['input'])[:60]}; {_told(root, path, wrong)}{more}"


def _told(root: type[BaseModel], path: Sequence[Any], wrong: Sequence[Any]) -> str:
    """Return what a value should be, one thing or another, and the word that was probably meant."""
    expected: dict[str, None] = {}
    for each in wrong:
        if each["type"] == "value_error":
            return str(each["ctx"]["error"])
        said = _EXPECTED.get(each["type"]) or each.get("ctx", {}).get("expected")
        if each["type"] == "model_type":
            said = _made_from(_home(root, [*path, ""]))
        if said is None:
            return f"{each['msg'][0].lower()}{each['msg'][1:]}"
        expected[said] = None
    told = f"expected {' or '.join(expected)}"
    meant = suggest(str(wrong[0]["input"]), re.findall("'(.*?)'", told))
    near = isinstance(wrong[0]["input"], str) and meant.startswith("did you mean")
    return f"{told}; {meant}" if near else told


def _value(root: type[BaseModel], place: Sequence[Any]) -> Sequence[Any]:
    """Return the place of the value that pydantic tried in one way or another, or else the whole place."""
    ways = (k for k, part in enumerate(place) if _is_way(_home(root, place[: k + 1]), part))
    return place[: next(ways, len(place))]


def _path(root: type[BaseModel], place: Sequence[Any]) -> list[Any]:
    """Return a place as the user knows it."""
    return [part for k, part in enumerate(place) if part != "[key]" and not _is_way(_home(root, place[: k + 1]), part)]


def _is_way(here: type[BaseModel], part: Any) -> bool:
    return part == here.__name__ or _WAY.fullmatch(str(part)) is not None


def _made_from(found: type[BaseModel]) -> str:
    """Return what a class of settings is made from."""
    needed = [f"`{name}`" for name, field in found.model_fields.items() if field.is_required()]
    text = "a path, or " * ("path" in found.model_fields or hasattr(found, "_from_text"))
    return f"{text}a mapping" + f" with {' and '.join(needed)}" * bool(needed)


def _home(root: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    """Return the class that the last word of a path is no field of."""
    here = root
    for part in path[:-1]:
        field = here.model_fields.get(str(part))
        here = (_model_in(field.annotation) if field is not None else None) or here
    return here


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _model_in(part)) is not None), None)

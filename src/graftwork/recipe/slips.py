"""What pydantic finds wrong with settings, in one sentence that names the place and the word that was meant."""

import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from graftwork.errors import suggest

_EXPECTED = {
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "too_short": "one or more",
    "string_too_short": "a name",
    "string_pattern_mismatch": "a name without slashes and blanks",
}
"""What a field should be, by pydantic's word for what is wrong."""


def sentence(error: ValidationError, root: type[BaseModel], place: str = "") -> str:
    """Return the first thing that is wrong; a word that is not known may be why another is missing.

    Args:
        error: What pydantic found.
        root: The class that was to be made.
        place: Where in the file it stands: the beginning of every place that is named.
    """
    first = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")[0]
    path = [part for part in first["loc"] if part != "[key]"]
    where = place + ".".join(str(part) for part in path)
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where!r} is not known; {suggest(str(path[-1]), _home(root, path).model_fields)}{more}"
    if first["type"] == "missing":
        return f"{where!r} is missing{more}"
    expected = _EXPECTED.get(first["type"]) or first.get("ctx", {}).get("expected")
    if first["type"] == "model_type":
        expected = _made_from(_home(root, [*path, ""]))
    told = f"expected {expected}" if expected else first["msg"][0].lower() + first["msg"][1:]
    if first["type"] == "value_error":
        told = str(first["ctx"]["error"])
    return f"{where!r} is {repr(first['input'])[:60]}; {told}{more}"


def _made_from(found: type[BaseModel]) -> str:
    """Return what a class of settings is made from."""
    needed = [f"`{name}`" for name, field in found.model_fields.items() if field.is_required()]
    text = "a path, or " * ("path" in found.model_fields or hasattr(found, "_from_text"))
    return f"{text}a mapping" + f" with {' and '.join(needed)}" * bool(needed)


def _home(root: type[BaseModel], path: list[Any]) -> type[BaseModel]:
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

"""What every kind of step has: names of what goes in, settings that are checked when it is made, a schema."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, pattern=r"^[^/\s]+$")]
"""What a model or step is called: any word without a slash."""


def as_name(text: str) -> str:
    """Return a text as a name: blanks and slashes become underscores."""
    return re.sub(r"[/\s]+", "_", text) or "model"


def as_tuple(value: Any) -> Any:
    """Return one word as a list of one."""
    return (value,) if isinstance(value, str) else value


def or_one_word(field: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field; a list of words may be a single one."""
    if field.get("type") != "array" or "items" not in field:
        return field
    about = {k: v for k, v in field.items() if k in ("title", "default", "description")}
    return {**about, "anyOf": [{k: v for k, v in field.items() if k not in about}, field["items"]]}


class Frozen(BaseModel):
    """A value that is checked when it is made and never changes."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, defer_build=True)


class Step(Frozen):
    """What is made of models and earlier steps; a kind of step is a class below this one.

    Attributes:
        kind: The word that recipes and records use for it.
    """

    kind: ClassVar[str]

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models and steps that it needs, in order."""
        raise NotImplementedError

    def files(self) -> tuple[str, ...]:
        """Return the further files that it needs, each the name of a step that makes it or a path."""
        return ()

    def settings(self) -> dict[str, Any]:
        """Return the step as its result's record spells it."""
        return self.model_dump(mode="json", exclude_defaults=True)

    @classmethod
    def schema_of_settings(cls) -> dict[str, Any]:
        """Return the JSON Schema of what recipes say of such a step."""
        return cls.model_json_schema()

"""Steps whose fields are declared once: the Python function, the command and the recipe's step have them in the same words.

The docstring of a field is its help text on the command line and in the schema; that of the class is the command's.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from graftwork.recipe.base import Name, Step, as_tuple, or_one_word

Names = Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(as_tuple)]
"""Names of models or earlier steps, in order; one alone need not be in a list."""

Words = Annotated[tuple[str, ...], BeforeValidator(as_tuple)]
"""Texts; one alone need not be in a list."""


class DeclaredStep(Step):
    """A kind of step that is a verb of its own; see the module.

    Attributes:
        takes: The fields that name models, in the order of the verb's arguments: one, a list of any length, or a mapping from names to what
            is said of each. One that may be missing and mappings are options on the command line.
        paths: The fields that are paths of files which are no models; relative to the recipe.
        arguments: The options that are arguments on the command line, behind models and files.
        flags: Names of an option on the command line, where they are not those of the field.
        relative: The options that are paths of files; relative to the recipe.
        loads: Whether Keras loads a model for it, which may need what the user defines.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    takes: ClassVar[tuple[str, ...]] = ("models",)
    paths: ClassVar[tuple[str, ...]] = ()
    arguments: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[dict[str, tuple[str, ...]]] = {}
    relative: ClassVar[tuple[str, ...]] = ()
    loads: ClassVar[bool] = False

    @property
    def is_model(self) -> bool:
        """Whether later steps can use the result."""
        return True

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models."""
        for name in self.takes:
            value = getattr(self, name)
            yield from (value,) if isinstance(value, str) else value or ()

    @classmethod
    def choices(cls) -> dict[str, FieldInfo]:
        """Return the fields that are options."""
        return {name: field for name, field in cls.model_fields.items() if name not in (*cls.takes, *cls.paths)}

    def wishes(self, root: Path = Path()) -> dict[str, Any]:
        """Return the values of the options, files found from a directory."""
        found = {name: getattr(self, name) for name in self.choices()}
        return found | {
            name: str(root / Path(found[name]).expanduser()) for name in self.relative if found[name] is not None
        }

    @classmethod
    def schema_of_settings(cls) -> dict[str, Any]:
        """Return the JSON Schema; where a list is wanted, one word will do."""
        schema = cls.model_json_schema()
        return {**schema, "properties": {name: or_one_word(field) for name, field in schema["properties"].items()}}

"""Reading a recipe from YAML, with every slip turned into one sentence that says where and what instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from graftwork.errors import GraftworkError, RecipeError
from graftwork.recipe.model import STEP_KINDS, ModelSource, Recipe
from graftwork.recipe.slips import sentence
from graftwork.stores.files import read_small

MAX_BYTES = 1 << 22
"""A recipe is written by a person."""


class _Loader(yaml.SafeLoader):
    """YAML without anchors that expand, and without a key given twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise RecipeError(f"line {line} uses a YAML alias (*), which recipes do without")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise RecipeError(f"line {key_node.start_mark.line + 1} has a key that is not a word")
            if key in seen:
                raise RecipeError(f"line {key_node.start_mark.line + 1} gives {key!r} a second time")
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_recipe(source: Path | str | Mapping[str, Any] | Recipe) -> Recipe:
    """Return the recipe in a YAML file, or that a mapping spells.

    Raises:
        RecipeError: If it is not YAML, or not a recipe; with the place and, for a slip of the pen, the word that was meant.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return _validated(dict(source), "the recipe")
    path = Path(source)
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path} holds no recipe: expected a mapping with `models` and `steps`, found {str(data)[:60]!r}"
        )
    return _validated(data, path.name)


def load_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        RecipeError: If it cannot be read or is not YAML.
    """
    if not path.exists():
        raise RecipeError(f"there is no recipe {path}")
    try:
        return yaml.load(read_small(path, MAX_BYTES), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(f"{path} is not YAML: {where}{getattr(error, 'problem', None) or error}") from error
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{path} is not YAML that a recipe needs: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def _validated(data: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {sentence(error, Recipe)}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}") from error
    except GraftworkError as error:
        raise RecipeError(f"{where}: {error}") from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a recipe, every kind of step and every method with its own options."""
    model = ModelSource.model_json_schema()
    kinds = {kind: cls.schema_of_settings() for kind, cls in STEP_KINDS.items()}
    definitions = {name: body for settings in kinds.values() for name, body in settings.pop("$defs", {}).items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "graftwork recipe",
        "type": "object",
        "properties": {
            "models": {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, model]}},
            "steps": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    "oneOf": [
                        {
                            "type": "object",
                            "properties": {kind: body},
                            "required": [kind],
                            "additionalProperties": False,
                        }
                        for kind, body in kinds.items()
                    ]
                },
            },
            "outputs": {"type": "object", "additionalProperties": {"type": "string"}},
        },
        "required": ["models", "steps"],
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }

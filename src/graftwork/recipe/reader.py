"""Reading a recipe from YAML, with every slip turned into one sentence that says where and what instead."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from graftwork.data.description import Description
from graftwork.errors import GraftworkError, RecipeError
from graftwork.plain_yaml import Loader, what_is_wrong
from graftwork.recipe.mergekit import is_mergekit, recipe_of
from graftwork.recipe.model import STEP_KINDS, ModelSource, Recipe
from graftwork.recipe.slips import sentence
from graftwork.stores.files import read_small

MAX_BYTES = 1 << 22
"""A recipe is written by a person."""


MAX_NODES = 200_000
"""Values of a file whose aliases are written out."""


class _Loader(Loader):
    """Knows where the first alias stands."""

    alias_line = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent) and not self.alias_line:
            self.alias_line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


def read_recipe(source: Path | str | Mapping[str, Any] | Recipe) -> Recipe:
    """Return the recipe in a YAML file, or that a mapping spells; mergekit's files and mappings are recipes too.

    Raises:
        RecipeError: If it is not YAML, or not a recipe; with the place and, for a slip of the pen, the word that was meant.
    """
    if isinstance(source, Recipe):
        return source
    if isinstance(source, Mapping):
        return (
            _mergekit([dict(source)], "the recipe", None)
            if is_mergekit([source])
            else _validated(dict(source), "the recipe")
        )
    path = Path(source)
    documents, alias_line = load_yaml(path)
    if is_mergekit(documents):
        return _mergekit(documents, path.name, path.parent)
    if alias_line:
        raise RecipeError(f"{path}: line {alias_line} uses a YAML alias (*), which recipes do without")
    data = documents[0] if documents else None
    if len(documents) > 1:
        raise RecipeError(f"{path} holds {len(documents)} YAML documents; a recipe is one")
    if not isinstance(data, dict):
        raise RecipeError(
            f"{path} holds no recipe: expected a mapping with `models` and `steps`, found {str(data)[:60]!r}"
        )
    return _validated(data, path.name)


def load_yaml(path: Path) -> tuple[list[Any], int]:
    """Return what the documents of a YAML file say, and the line of the first alias, 0 if there is none.

    Raises:
        RecipeError: If it cannot be read, is not YAML, or has aliases that make it large.
    """
    if not path.exists():
        raise RecipeError(f"there is no recipe {path}")
    text, loader = read_small(path, MAX_BYTES), None
    try:
        loader, documents = _Loader(text), []
        while loader.check_node():
            node: Any = loader.get_node()
            if loader.alias_line and _written_out(node, {}) > MAX_NODES:
                raise RecipeError(
                    f"line {loader.alias_line} uses a YAML alias (*), and written out the file would be huge"
                )
            documents.append(loader.construct_document(node))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {what_is_wrong(error)}") from error
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{path} is not YAML that a recipe needs: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error
    else:
        return documents, loader.alias_line
    finally:
        if loader is not None:
            loader.dispose()


def _written_out(node: Any, known: dict[int, int]) -> int:
    """Return how many values there are when every alias is replaced by what it stands for; huge for one that holds itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # counts if the node is met within itself
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = [part for entry in parts for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in inner)
    return known[id(node)]


def _mergekit(documents: list[Any], where: str, folder: Path | None) -> Recipe:
    try:
        return recipe_of(documents, folder)
    except GraftworkError as error:
        raise RecipeError(f"{where}: {error}") from error


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
    model, data = ModelSource.model_json_schema(), Description.model_json_schema()
    definitions = data.pop("$defs", {})
    kinds = {kind: cls.schema_of_settings() for kind, cls in STEP_KINDS.items()}
    for settings in kinds.values():
        definitions |= settings.pop("$defs", {})
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
            "data": {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, data]}},
            "custom_objects": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
        },
        "required": ["models", "steps"],
        "additionalProperties": False,
        **({"$defs": definitions} if definitions else {}),
    }

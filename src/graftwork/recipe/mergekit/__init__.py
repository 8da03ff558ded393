"""mergekit's configuration files: what they say (`document`, `methods`), as steps of a recipe (`step`), from YAML (`reading`)."""

from graftwork.recipe.mergekit.reading import is_mergekit, recipe_of
from graftwork.recipe.mergekit.step import MergekitStep, Slice

__all__ = ["MergekitStep", "Slice", "is_mergekit", "recipe_of"]

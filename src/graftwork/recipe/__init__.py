"""Recipes: the whole way from sources to result as one frozen value, and the YAML that spells it."""

from graftwork.recipe.model import STEP_KINDS, MergeStep, ModelSource, Recipe, Step
from graftwork.recipe.reader import read_recipe, schema

__all__ = ["STEP_KINDS", "MergeStep", "ModelSource", "Recipe", "Step", "read_recipe", "schema"]

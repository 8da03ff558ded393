"""Recipes: the whole way from sources to result as one frozen value, and the YAML that spells it."""

from graftwork.recipe.base import Step, as_name
from graftwork.recipe.merge import MergeStep
from graftwork.recipe.model import (
    STEP_KINDS,
    AssembleStep,
    EstimateStep,
    ExtractLoraStep,
    LayerRun,
    ModelSource,
    Recipe,
)
from graftwork.recipe.reader import read_recipe, schema

__all__ = [
    "STEP_KINDS",
    "AssembleStep",
    "EstimateStep",
    "ExtractLoraStep",
    "LayerRun",
    "MergeStep",
    "ModelSource",
    "Recipe",
    "Step",
    "as_name",
    "read_recipe",
    "schema",
]

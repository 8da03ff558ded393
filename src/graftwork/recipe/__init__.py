"""Recipes: the whole way from sources to result as one frozen value, and the YAML that spells it.

What is taken from here is imported when it is: a merge has one kind of step, and need not wait for the models of all others.
"""

from typing import TYPE_CHECKING

from graftwork.lazy import names_in
from graftwork.recipe.base import Step, as_name

if TYPE_CHECKING:
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

_HOMES = {
    "merge": ("MergeStep",),
    "model": ("STEP_KINDS", "AssembleStep", "EstimateStep", "ExtractLoraStep", "LayerRun", "ModelSource", "Recipe"),
    "reader": ("read_recipe", "schema"),
}

__getattr__ = names_in(__name__, _HOMES)

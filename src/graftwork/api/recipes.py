"""Recipes: planned, and run."""

import os
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from graftwork import pipeline
from graftwork.api.reports import Report, report_of
from graftwork.api.sources import Progress
from graftwork.errors import RecipeError
from graftwork.recipe import Recipe, read_recipe
from graftwork.recipe.mergekit import MergekitStep
from graftwork.writing import Result, Target


def plan(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe, *, threads: int | None = None, overwrite: bool = False
) -> list[Report]:
    """Return what a recipe would do, step by step, reading only headers.

    Args:
        recipe: A YAML file, a mapping that spells a recipe, or a `Recipe`.
        threads: How many threads it would use.
        overwrite: Whether existing outputs may be replaced.

    Raises:
        GraftworkError: For every reason for which `run` would refuse, but those that only values tell.
    """
    found, root = _recipe(recipe)
    outputs = _outputs(found, root)
    with pipeline.planned(found, root) as jobs:
        reports = []
        for name, job in jobs.items():
            target = None
            if name in outputs:
                target = Target(path=outputs[name], overwrite=overwrite, threads=threads or 0)
            reports.append(report_of(name, job, target, threads))
        return reports


def run(
    recipe: str | PathLike[str] | Mapping[str, Any] | Recipe,
    *,
    output: str | PathLike[str] | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    shard_bytes: int | None = None,
    check: bool = True,
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Run a recipe and return its results by step.

    Args:
        recipe: A YAML file, a mapping that spells a recipe, or a `Recipe`. Its paths are relative to the file (else to the
            working directory). A file or mapping of mergekit's is one, too.
        output: Where to write the last step's result, for a recipe that does not say (or says otherwise).
        threads: How many threads work.
        overwrite: Whether existing outputs may be replaced.
        shard_bytes: Greatest size of a shard of each output, for formats with shards.
        check: Load compositions that are written in a fresh process, and compare what they say there with what their members say.
        progress: Told how far each step is.

    Raises:
        RecipeError: If it is no recipe, or says nowhere what to write.
        GraftworkError: As `merge`.
    """
    found, root = _recipe(recipe)
    if output is not None:
        if len(found.outputs) > 1:
            raise RecipeError(f"the recipe has {len(found.outputs)} outputs; `output` can replace only one")
        name = next(iter(found.outputs), found.order()[-1] if found.steps else "")
        outputs = {name: Path(output)}
    else:
        outputs = _outputs(found, root)
    if not outputs or not found.steps:
        ours = not any(isinstance(step, MergekitStep) for step in found.steps.values())
        advice = "add `outputs: {step: path}`, or " * ours
        raise RecipeError(f"the recipe names no outputs; {advice}say where to write (-o, or `output=`)")
    targets = {
        name: Target(path=path, overwrite=overwrite, threads=threads or 0, shard_bytes=shard_bytes, check=check)
        for name, path in outputs.items()
    }
    return pipeline.run(found, root, targets, progress)


def _outputs(recipe: Recipe, root: Path) -> dict[str, Path]:
    outputs: dict[str, Path] = {}
    for name, told in recipe.outputs.items():
        path = root / Path(told).expanduser()
        other = next((o for o, there in outputs.items() if os.path.realpath(there) == os.path.realpath(path)), None)
        if other is not None:
            raise RecipeError(
                f"the outputs of the steps {other!r} and {name!r} have the same path {path}; give them two"
            )
        outputs[name] = path
    return outputs


def _recipe(recipe: str | PathLike[str] | Mapping[str, Any] | Recipe) -> tuple[Recipe, Path]:
    if isinstance(recipe, str | PathLike):
        path = Path(recipe)
        return read_recipe(path), path.parent
    return read_recipe(recipe), Path()

"""The last checkpoints of a directory, oldest first: what was saved one after the other while a model was trained.

TensorFlow's state file `checkpoint` tells their order. Where there is none, files that are called alike but for the number at the end
(``model-100.keras``, ``model-200.keras``) are in the order of that number. Nothing else tells it; times of files do not survive a copy.
"""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from graftwork.errors import MismatchError, RecipeError, StoreError
from graftwork.recipe import ModelSource, Recipe, as_name
from graftwork.recipe.checkpoints import CkptAverage
from graftwork.stores import FORMATS, label_of, spelling
from graftwork.stores.tf_checkpoint import STATE, recorded


def last_of(folder: Path, count: int) -> list[Path]:
    """Return the last checkpoints of a directory, oldest first.

    Raises:
        MismatchError: If there are fewer, or nothing tells their order.
        StoreError: If there is no such directory, or its state file names what is not there.
    """
    if not folder.is_dir():
        raise StoreError(f"{folder} is no directory; `last` takes a directory with checkpoints")
    told_by, found = (
        (f"its file {STATE!r}", recorded(folder, "all_model_checkpoint_paths"))
        if (folder / STATE).is_file()
        else _numbered(folder)
    )
    if len(found) < count:
        names = ", ".join(label_of(path) for path in found) or "none"
        raise MismatchError(
            f"the last {count} checkpoints of {folder} are wanted, but by {told_by} there are {len(found)}: {names}",
            advice="ask for fewer, or name the files",
        )
    return found[-count:]


def _numbered(folder: Path) -> tuple[str, list[Path]]:
    """Return what tells the order of the files of a directory, and these in it."""
    suffixes = tuple(suffix for row in FORMATS.values() for suffix in row.suffixes)
    files = sorted(path for path in folder.iterdir() if path.name.endswith(suffixes) and not path.name.startswith("."))
    numbers: dict[Path, int] = {}
    families: dict[tuple[str, str], Path] = {}
    for path in files:
        label = label_of(path)
        split = re.fullmatch(r"(.*?)(\d+)", label, re.DOTALL)
        if split is None:
            raise MismatchError(
                f"{folder} has no file {STATE!r} that tells the order of its checkpoints, and {path.name!r} has no number at the end",
                advice="name the files in their order",
            )
        numbers[path] = int(split[2])
        families.setdefault((split[1], path.name.removeprefix(label)), path)
    if len(families) > 1:
        one, other, *_ = families.values()
        raise MismatchError(
            f"{folder} has no file {STATE!r} that tells the order of its checkpoints, and {one.name!r} and {other.name!r} are called "
            "by different names",
            advice="name the files in their order",
        )
    order = sorted(files, key=lambda path: numbers[path])
    for one, other in itertools.pairwise(order):
        if numbers[one] == numbers[other]:
            raise MismatchError(
                f"{one.name!r} and {other.name!r} have the same number", advice="name the files in their order"
            )
    return "the numbers at the end of their names", order


def spread(
    step: CkptAverage, paths: Mapping[str, Path], taken: Mapping[str, object]
) -> tuple[CkptAverage, dict[str, Path]]:
    """Return a step on the last checkpoints of a directory as one on these, and where they lie.

    Args:
        step: A step with `last`.
        paths: Where its models lie.
        taken: Names that the checkpoints must not have.
    """
    assert step.last is not None
    (folder,) = step.models
    found: dict[str, Path] = {}
    for path in last_of(paths[folder], step.last):
        name = as_name(label_of(path))
        while name in found or name in taken:
            name += "_"
        found[name] = path
    return step.model_copy(update={"models": tuple(found), "last": None}), found


def spread_recipe(recipe: Recipe, root: Path) -> Recipe:
    """Return a recipe whose steps name every checkpoint, where they said the last of a directory.

    Args:
        recipe: The recipe.
        root: Directory that its paths are relative to.
    """
    wanted = {name: step for name, step in recipe.steps.items() if isinstance(step, CkptAverage) and step.last}
    models, steps = dict(recipe.models), dict(recipe.steps)
    for name, step in wanted.items():
        (folder,) = step.models
        if folder not in recipe.models:
            raise RecipeError(
                f"step {name!r} asks for the last {step.last} of {folder!r}, which is no directory but a step"
            )
        place = spelling.below(root, recipe.models[folder].path)
        steps[name], found = spread(step, {folder: place}, {**models, **steps})
        models |= {label: ModelSource(path=str(path.absolute())) for label, path in found.items()}
    return Recipe(models=models, steps=steps, outputs=recipe.outputs) if wanted else recipe

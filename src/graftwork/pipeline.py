"""A recipe's steps, one after the other: all are planned before the first is made, and what is in between is removed at the end."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from graftwork.ckpt.history import spread_recipe
from graftwork.jobs import JOBS, Job, reader_of
from graftwork.recipe import Recipe
from graftwork.stores import Reader, open_store, spelling
from graftwork.writing import Progress, Result, Target, opened


@contextlib.contextmanager
def planned(recipe: Recipe, root: Path) -> Iterator[dict[str, Job]]:
    """Plan every step of a recipe without making anything; sources stay open in the meantime."""
    recipe = spread_recipe(recipe, root)
    with contextlib.ExitStack() as stack:
        readers: dict[str, Reader] = {}
        jobs: dict[str, Job] = {}
        for name in recipe.order():
            step = recipe.steps[name]
            for wanted in (*step.inputs(), *step.files()):
                if wanted not in readers:
                    readers[wanted] = stack.enter_context(open_store(_path(recipe, wanted, root)))
            job = jobs[name] = JOBS[step.kind](step, recipe, readers, root)
            header = job.header()
            if header is not None:
                readers[name] = reader_of(name, job, header)
        yield jobs


def _path(recipe: Recipe, name: str, root: Path) -> Path:
    return spelling.below(root, recipe.models[name].path if name in recipe.models else name)


def run(
    recipe: Recipe, root: Path, outputs: Mapping[str, Target], progress: Progress | None = None
) -> dict[str, Result]:
    """Run a recipe.

    Args:
        recipe: What to do.
        root: Directory that its paths are relative to.
        outputs: Where results go; what is needed in between lives in a temporary directory beside the first.
        progress: Told how far each step is.

    Returns:
        One result for each output, by step.
    """
    recipe = spread_recipe(recipe, root)
    with planned(recipe, root) as jobs:
        for name, wanted in outputs.items():
            jobs[name].check(wanted)
    needed = _needed(recipe, outputs)
    results: dict[str, Result] = {}
    first = next(iter(outputs.values()))
    with tempfile.TemporaryDirectory(prefix=".graftwork-", dir=first.path.parent) as between:
        made: dict[str, Path] = {}
        for name in recipe.order():
            if name not in needed:
                continue
            step = recipe.steps[name]
            names = list(dict.fromkeys((*step.inputs(), *step.files())))
            with opened([made.get(m) or _path(recipe, m, root) for m in names]) as readers:
                job = JOBS[step.kind](step, recipe, dict(zip(names, readers, strict=True)), root)
                target = outputs.get(name)
                if target is None:
                    suffix, form = job.between
                    target = Target(
                        path=Path(between) / f"{name}{suffix}", format=form, threads=first.threads, check=False
                    )
                result = job.write(target, step, _named(progress, name))
            made[name] = target.path
            if name in outputs:
                results[name] = result
    return results


def _named(progress: Progress | None, step: str) -> Progress | None:
    if progress is None:
        return None
    return lambda verb, done, total: progress(f"{verb} {step}", done, total)


def _needed(recipe: Recipe, outputs: Mapping[str, Target]) -> set[str]:
    needed: set[str] = set()
    left = list(outputs)
    while left:
        name = left.pop()
        if name in recipe.steps and name not in needed:
            needed.add(name)
            left += (*recipe.steps[name].inputs(), *recipe.steps[name].files())
    return needed

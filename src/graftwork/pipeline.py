"""A recipe's steps, one after the other: all are planned before the first is made, and what is in between is removed at the end.

Where a step uses what only making it tells (`graftwork.jobs.UnmadeError`), that is made first, and what is left is planned again.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from graftwork.ckpt.history import spread_recipe
from graftwork.jobs import JOBS, Job, LaterJob, LaterPlan, UnmadeError, reader_of
from graftwork.recipe import Recipe, Step
from graftwork.stores import FORMATS, Reader, open_store, spelling
from graftwork.stores.leftovers import temporary
from graftwork.writing import Progress, Result, Target, opened


@contextlib.contextmanager
def planned(recipe: Recipe, root: Path, made: Mapping[str, Path] | None = None) -> Iterator[dict[str, Job]]:
    """Plan every step of a recipe without making anything; sources stay open in the meantime.

    Args:
        recipe: The recipe.
        root: Directory that its paths are relative to.
        made: Where the results of steps lie that have been made already, which are not planned again.
    """
    recipe, made = spread_recipe(recipe, root), made or {}
    with contextlib.ExitStack() as stack:
        readers: dict[str, Reader] = {}
        jobs: dict[str, Job] = {}
        for name in recipe.order():
            if name in made:
                continue
            step = recipe.steps[name]
            for wanted in _given(step):
                if wanted not in readers:
                    readers[wanted] = stack.enter_context(open_store(made.get(wanted) or _path(recipe, wanted, root)))
            job = jobs[name] = _job(step, recipe, readers, root)
            readers[name] = reader_of(name, job)
        yield jobs


def _job(step: Step, recipe: Recipe, readers: Mapping[str, Reader], root: Path) -> Job:
    """Return the job of a step: a later one, where nobody can look at what it uses yet."""
    try:
        return JOBS[step.kind](step, recipe, readers, root)
    except UnmadeError as missing:
        there = [readers[name] for name in _given(step) if not getattr(readers[name], "is_planned", False)]
        return LaterJob(
            LaterPlan(
                kind=step.kind,
                models=tuple(dict.fromkeys(step.inputs())),
                waits_for=missing.step,
                files=tuple(file for reader in there for file in reader.header.files),
            )
        )


def _given(step: Step) -> list[str]:
    """Return the names of everything that a step uses: models, steps and files."""
    return list(dict.fromkeys((*step.inputs(), *step.files())))


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
    needed = _needed(recipe, outputs)
    results: dict[str, Result] = {}
    made: dict[str, Path] = {}
    first = next(iter(outputs.values()))
    awaited = _checked(recipe, root, outputs, made)
    recipe = recipe.model_copy(update={"steps": {name: recipe.steps[name] for name in recipe.steps if name in needed}})
    used = {given for step in recipe.steps.values() for given in _given(step)}
    with tempfile.TemporaryDirectory(prefix=f"{temporary(first.path).name}-", dir=first.path.parent) as between:
        for name in recipe.order():
            step = recipe.steps[name]
            names = _given(step)
            with opened([made.get(m) or _path(recipe, m, root) for m in names]) as readers:
                job = JOBS[step.kind](step, recipe, dict(zip(names, readers, strict=True)), root)
                if name in outputs:
                    results[name] = job.write(outputs[name], step, _named(progress, name))
                    made[name] = outputs[name].path
                if name not in outputs or (name in used and _lacks_configuration(job, made[name])):
                    suffix, form = job.between
                    made[name] = Path(between) / f"{name}{suffix}"
                    passing = Target(path=made[name], format=form, threads=first.threads, check=False, passing=True)
                    job.write(passing, step, _named(progress, name))
            if name in awaited:
                awaited = _checked(recipe, root, outputs, made)
    return results


def _lacks_configuration(job: Job, written: Path) -> bool:
    """Return whether an output holds weights alone, though the model is more (an architecture, a directory), which steps may need."""
    between = FORMATS.get(job.between[1])
    if between is None or not (between.holds_architecture or between.directory):
        return False
    with open_store(written) as reader:
        return reader.header.config is None


def _checked(recipe: Recipe, root: Path, outputs: Mapping[str, Target], made: Mapping[str, Path]) -> set[str]:
    """Plan what is not made yet, refuse what cannot be, and return the steps after which there is more to plan."""
    with planned(recipe, root, made) as jobs:
        for name, wanted in outputs.items():
            if name in jobs:
                jobs[name].check(wanted)
        return {job.plan.waits_for for job in jobs.values() if isinstance(job, LaterJob)}


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

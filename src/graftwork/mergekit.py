"""Plans of what mergekit's files ask for: layers of several models, or whole models, with their parameters tensor by tensor."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftwork.architecture.depth import block_parts
from graftwork.assembly import Run, plan_runs
from graftwork.errors import MismatchError, RecipeError
from graftwork.methods.options import Place
from graftwork.pairing import pair
from graftwork.planning import MergePlan, MergeRequest, Step, plan_merge
from graftwork.recipe import Recipe
from graftwork.recipe.mergekit import MergekitStep, Slice
from graftwork.stores.base import Reader
from graftwork.stores.files import read_json, read_small
from graftwork.stores.huggingface import is_of_tokenizer
from graftwork.views import View

ADVICE = "if it does not matter, a mergekit file says so under `graftwork: {ignore: [FIELD]}`, which mergekit leaves out of account"

KEEP = "a mergekit file keeps the first model's tensors under `graftwork: {skip: [NAME]}`, which mergekit leaves out of account"


def plan_mergekit_step(step: MergekitStep, recipe: Recipe, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of one document of mergekit's.

    Args:
        step: What is asked for.
        recipe: The recipe that it belongs to.
        readers: The open (or planned) input of each name.

    Raises:
        MismatchError: If the models do not fit, or their vocabularies would have to be united.
        RecipeError: If the parts of the model cannot be told, or a filter is no use.
    """
    like = readers[step.like] if step.like is not None else None
    try:
        if len(step.modules) > 1:
            plan = _plan_modules(step, readers, like)
        else:
            plan = _plan_module(step, next(iter(step.modules.values())), readers, like)
    except MismatchError as error:
        if "`skip`" in str(error):
            raise MismatchError(*error.reasons, advice=KEEP) from error
        if "`ignore`" not in str(error) and "vocabulary" not in str(error):
            raise
        raise MismatchError(*error.reasons, advice=ADVICE) from error
    plan = replace(plan, like=_lender(step, readers, plan.lender), request=replace(plan.request, options={}))
    if step.document.get("chat_template") == "auto":
        _check_template([readers[name] for name in dict.fromkeys(step.inputs())], plan.lender)
    return replace(plan, notes=(*step.notes, *plan.notes, *_several_dtypes(step, plan), *_idle_filters(step, plan)))


def _plan_module(
    step: MergekitStep, slices: Sequence[Slice], readers: Mapping[str, Reader], like: Reader | None
) -> MergePlan:
    """Return the plan of a model, or of a part of one that is seen alone."""
    (word,), names = step.modules, readers[slices[0].sources[0].model].specs()
    others = [name for name in names if word not in name.split(".")]
    if word != "default" and 0 < len(others) < len(names):
        raise RecipeError(
            f"the module {word!r} is a part of the model, and nothing is said of {others[0]!r}; name all parts, or merge the model "
            "as a whole, with `models`"
        )
    if all(source.layers is None for source in slices[0].sources):
        return _plan_whole(step, slices[0], readers, like)
    runs, at = [], 0
    for part in slices:
        sources = [*part.sources, *([part.base] if part.base is not None else [])]
        ranges = tuple(source.layers or (0, 0) for source in sources)
        run = Run(
            request=_request(step, part, _in_slice(step, part, ranges, at)),
            models=tuple(readers[source.model] for source in part.sources),
            base=readers[part.base.model] if part.base is not None else None,
            layers=ranges,
        )
        runs.append(run)
        at += run.length
    models, base = step.models(), step.base
    request = replace(runs[0].request, labels=tuple(models), base_label=base, resolve=None)
    return plan_runs(
        request,
        runs,
        [readers[name] for name in models],
        readers[base] if base is not None else None,
        like=(step.like, like) if step.like is not None and like is not None else None,
    )


def _plan_whole(step: MergekitStep, part: Slice, readers: Mapping[str, Reader], like: Reader | None) -> MergePlan:
    """Return the plan of a merge of all layers."""
    models = [readers[source.model] for source in part.sources]
    counts: dict[str, int] = defaultdict(int)
    for name in models[0].specs():
        found = block_parts(name)
        if found is not None:
            counts[found[0]] = max(counts[found[0]], found[1] + 1)

    whole = models[0].reader if isinstance(models[0], View) else models[0]  # a part of a model may have no layers
    outside = 0.0 if any(block_parts(name) is not None for name in whole.specs()) else None

    def options(place: Place) -> Mapping[str, Any]:
        found = block_parts(place.name)
        depth = _depth(found[1], counts[found[0]]) if found is not None else outside
        return step.options_at(part, depth, place.name, [place.name] * len(models))

    base = readers[part.base.model] if part.base is not None else None
    plan = plan_merge(_request(step, part, options), models, base)
    return replace(plan, like=like)


def _plan_modules(step: MergekitStep, readers: Mapping[str, Reader], like: Reader | None) -> MergePlan:
    """Return the plan of a model of several parts, which are told by a word of their tensors' names."""
    parts: dict[str, dict[str, View]] = {module: {} for module in step.modules}
    names = [*step.models(), *([step.base] if step.base is not None else [])]
    for label in names:
        for name in readers[label].specs():
            if sum(module in name.split(".") for module in step.modules) != 1:
                raise RecipeError(
                    f"the modules {', '.join(step.modules)} are told by words in names, but {name!r} of {label} has none or "
                    "several of them; merge the model as a whole, with `models`, and tell its parts by filters"
                )
        for module, views in parts.items():
            own = [name for name in readers[label].specs() if module in name.split(".")]
            views[label] = View(readers[label], {name: name for name in own})
    steps: list[Step] = []
    notes: list[str] = []
    first, *others = names
    for label in others:  # parts of different models have to fit each other, too
        wishes = _request(step, next(step.slices()), lambda _: {})
        pair((first, readers[first]), (label, readers[label]), wishes, notes)
    for module, slices in step.modules.items():
        if any(source.layers is not None for source in slices[0].sources):
            raise RecipeError("slices are taken from models of one module; this one has several")
        plan = _plan_whole(step, slices[0], parts[module], None)
        steps += [
            replace(each, readers=tuple(reader.reader for reader in each.readers if isinstance(reader, View)))
            for each in plan.steps
        ]
        notes += plan.notes
    base = readers[step.base] if step.base is not None else None
    return MergePlan(
        request=replace(plan.request, labels=tuple(step.models()), base_label=step.base, resolve=None),
        models=tuple(readers[name] for name in step.models()),
        base=base,
        steps=tuple(steps),
        notes=tuple(dict.fromkeys(notes)),
        like=like,
    )


def _request(step: MergekitStep, part: Slice, resolve: Callable[[Place], Mapping[str, Any]]) -> MergeRequest:
    return MergeRequest(
        method=step.method,
        resolve=resolve,
        labels=tuple(source.model for source in part.sources),
        base_label=part.base.model if part.base is not None else None,
        seed=step.extras.seed,
        dtype=step.dtype,
        skip=step.extras.skip,
        ignore=step.extras.ignore,
        allow_nonfinite=step.extras.allow_nonfinite,
    )


def _in_slice(
    step: MergekitStep, part: Slice, ranges: Sequence[tuple[int, int]], at: int
) -> Callable[[Place], Mapping[str, Any]]:
    """Return what tells the options of the tensors of a slice, whose layers are numbered from `at` on in the result."""
    count = ranges[0][1] - ranges[0][0]

    def options(place: Place) -> Mapping[str, Any]:
        found = block_parts(place.name)
        if found is None:
            return step.options_at(part, 0.0, place.name, [place.name] * len(part.sources))
        prefix, number, rest = found
        names = [f"{prefix}{start + number - at}{rest}" for start, _ in ranges[: len(part.sources)]]
        return step.options_at(part, _depth(number - at, count), place.name, names)

    return options


def _depth(number: int, count: int) -> float:
    return number / (count - 1) if count > 1 else 1.0


def _lender(step: MergekitStep, readers: Mapping[str, Reader], like: Reader) -> Reader:
    """Return what lends configuration and small files, with the tokenizer that is wanted.

    Raises:
        MismatchError: If the vocabularies differ that would have to be the same.
    """
    names = [*dict.fromkeys(step.inputs())]
    if step.union:
        first, *others = names
        for other in others:
            if readers[first].header.assets != readers[other].header.assets:
                raise MismatchError(
                    f"the vocabularies of {first} and {other} differ, and graftwork builds no union of them",
                    advice="say `tokenizer_source: base`, if tokens have the same numbers; else give all models one vocabulary first",
                )
    if step.tokenizer is None:
        return like
    donor = readers[step.tokenizer]
    if donor.header.assets != like.header.assets and "assets" not in step.extras.ignore:
        raise MismatchError(
            f"the vocabulary of {step.tokenizer}, whose tokenizer is wanted, is not that of {like.path.name}, whose embeddings count",
            advice="take the tokenizer of a model with the same vocabulary",
        )
    carried: dict[str, Path] = {
        name: file for name, file in getattr(like, "carried", {}).items() if not is_of_tokenizer(name)
    }
    carried |= {name: file for name, file in getattr(donor, "carried", {}).items() if is_of_tokenizer(name)}
    files = (donor.path, *donor.header.files)
    return View(like, {name: name for name in like.specs()}, config=like.header.config, carried=carried, files=files)


def _check_template(readers: Sequence[Reader], lender: Reader) -> None:
    """Refuse a template that most models do not have: mergekit's `auto` is the most common one.

    Raises:
        MismatchError: If it is not that of the tokenizer that is carried over.
    """
    if any(getattr(reader, "is_planned", False) for reader in readers):
        return  # what is yet to be made has no template yet; asked again when it is there
    found = Counter(text for reader in readers if (text := _template(reader)))
    common = found.most_common(1)[0][1] if found else 0
    if found and found[_template(lender)] < common:
        raise MismatchError(
            f"`chat_template: auto` means the most common template, which is not that of {lender.path.name}, whose tokenizer is carried",
            advice="name a model that has it in `tokenizer_source`, or remove `chat_template`",
        )


def _template(reader: Reader) -> str:
    """Return a model's chat template, an empty text if it has none."""
    carried: Mapping[str, Path] = getattr(reader, "carried", {})
    if "chat_template.jinja" in carried:
        return read_small(carried["chat_template.jinja"]).decode("utf-8", "replace").strip()
    name = "tokenizer_config.json"
    said = read_json(read_small(carried[name]), f"{name} of {reader.path.name}") if name in carried else None
    template = said.get("chat_template") if isinstance(said, dict) else None
    return template.strip() if isinstance(template, str) else ""


def _several_dtypes(step: MergekitStep, plan: MergePlan) -> list[str]:
    """Return a note if sources of one tensor have several dtypes and the file says none, for mergekit then takes the widest."""
    if step.dtype is not None:
        return []
    for each in plan.steps:
        sources = zip(each.readers, each.sources, strict=True)
        dtypes = dict.fromkeys(reader.specs()[source.name].dtype for reader, source in sources)
        if len(dtypes) > 1:
            return [
                f"sources hold {' and '.join(dtypes)}: {each.spec.name!r} comes out as {each.spec.dtype}, as in the first model, where "
                "mergekit takes the widest; `dtype` says which"
            ]
    return []


def _idle_filters(step: MergekitStep, plan: MergePlan) -> list[str]:
    names = {name for each in plan.steps for name in (each.spec.name, *(source.name for source in each.sources))}
    idle = [(parameter, text) for parameter, text in step.filters() if not any(text in name for name in names)]
    return [
        f"no tensor's name has {text!r} in it, a filter of `{parameter}`" for parameter, text in dict.fromkeys(idle)
    ]

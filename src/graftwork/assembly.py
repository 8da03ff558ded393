"""Results that are put together from runs of layers, each merged from its own models; plans of the steps that ask for such.

Each run is planned by itself, on views of its models, and takes what it reads from them. What lies before the layers (embeddings) comes
with the first run, what lies behind them (final norms, heads) with the last.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graftwork.architecture.depth import depths_and_classes
from graftwork.architecture.huggingface import with_layers
from graftwork.errors import MismatchError, OptionError
from graftwork.pairing import pair
from graftwork.planning import MergePlan, MergeRequest, Step, plan_merge
from graftwork.recipe import AssembleStep, Recipe
from graftwork.stores.base import Reader
from graftwork.views import Blocks, View, blocks_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of layers of the result.

    Attributes:
        request: How its models are merged; `labels` and `base_label` name them.
        models: The open models, in order.
        base: The open base, if any.
        layers: The first layer, and the one behind the last, of each model, then of the base.
    """

    request: MergeRequest
    models: tuple[Reader, ...]
    base: Reader | None = None
    layers: tuple[tuple[int, int], ...]

    @property
    def length(self) -> int:
        """How many layers it gives the result."""
        return self.layers[0][1] - self.layers[0][0]

    def sources(self) -> list[tuple[str, Reader]]:
        """Return label and reader of every model, then of the base."""
        found = [*zip(self.request.labels, self.models, strict=True)]
        return found if self.base is None else [*found, (self.request.base_label or "base", self.base)]


def plan_assemble_step(step: AssembleStep, recipe: Recipe | None, readers: Mapping[str, Reader]) -> MergePlan:
    """Return the plan of a model made of layers of others.

    Args:
        step: What is asked for.
        recipe: The recipe that it belongs to.
        readers: The open input of each name.
    """
    runs = [
        Run(
            request=MergeRequest(
                method="passthrough",
                options={"scale": run.scale},
                labels=(run.model,),
                dtype=step.dtype,
                ignore=step.ignore,
                allow_nonfinite=step.allow_nonfinite,
            ),
            models=(readers[run.model],),
            layers=(run.range,),
        )
        for run in step.layers
    ]
    labels = tuple(dict.fromkeys(step.inputs()))
    request = replace(runs[0].request, options={}, labels=labels)
    return plan_runs(request, runs, [readers[label] for label in labels])


def plan_runs(
    request: MergeRequest,
    runs: Sequence[Run],
    models: Sequence[Reader],
    base: Reader | None = None,
    *,
    like: tuple[str, Reader] | None = None,
) -> MergePlan:
    """Return the plan of a result that is put together from runs of layers.

    Args:
        request: What is asked for on the whole; its labels name `models` and `base`.
        runs: The runs, in the order of the result.
        models: Every open model, once.
        base: The open base, if any.
        like: What lends the configuration, and what messages call it; by default the first model of the first run.

    Raises:
        MismatchError: If models do not belong together, or their layers cannot be told.
        OptionError: If a model does not have the layers that are wanted.
    """
    blocks: dict[int, Blocks] = {}
    for label, reader in [source for run in runs for source in run.sources()]:
        if id(reader) not in blocks:
            blocks[id(reader)] = blocks_of(label, reader)
    first = blocks[id(runs[0].models[0])]
    notes = [*_belong_together(request, first, blocks.values()), *_mixed(request, first, blocks.values())]
    if like is not None and id(like[1]) not in blocks:  # what it says of itself has to be true of the others' weights
        blocks[id(like[1])] = blocks_of(*like)
        notes += _belong_together(request, first, [blocks[id(like[1])]])
    steps: list[Step] = []
    at = 0
    for k, run in enumerate(runs):
        around = {"before": k == 0, "after": k == len(runs) - 1}
        lengths = {stop - start for start, stop in run.layers}
        if len(lengths) > 1:
            ranges = ", ".join(
                f"{start} to {stop} of {label}"
                for (start, stop), (label, _) in zip(run.layers, run.sources(), strict=True)
            )
            raise OptionError(f"run {k + 1} takes different numbers of layers from its models: {ranges}")
        views = [
            blocks[id(reader)].view(start, stop, at, **around)
            for (start, stop), (_, reader) in zip(run.layers, run.sources(), strict=True)
        ]
        own_base = views.pop() if run.base is not None else None
        plan = plan_merge(run.request, views, own_base)
        steps += [_seen_through(step) for step in plan.steps]
        notes += plan.notes
        at += run.length
    depths, _ = depths_and_classes([step.spec.name for step in steps], None)  # in the result, not in its run
    steps = [replace(step, place=step.place._replace(depth=depths.get(step.spec.name))) for step in steps]
    lender = like[1] if like is not None else first.reader
    return MergePlan(
        request=request,
        models=tuple(models),
        base=base,
        steps=tuple(steps),
        notes=tuple(dict.fromkeys(notes)),
        like=View(lender, {name: name for name in lender.specs()}, config=_config(lender, runs, blocks)),
    )


def _belong_together(request: MergeRequest, first: Blocks, others: Iterable[Blocks]) -> list[str]:
    """Refuse models of different architectures, however many layers they have; return what is worth knowing."""
    notes: list[str] = []
    for other in others:
        if other is first:
            continue
        if other.prefix != first.prefix:
            raise MismatchError(
                f"the layers of {first.label} are called {first.prefix}N, those of {other.label} {other.prefix}N",
                advice="layers are put together from models of one architecture",
            )
        pair((first.label, _without_layers(first)), (other.label, _without_layers(other)), request, notes)
        for number in range(min(first.count, other.count)):
            for rest, name in first.inner[number].items():
                theirs = other.inner[number].get(rest)
                shapes = [first.reader.specs()[name].shape, theirs and other.reader.specs()[theirs].shape]
                if theirs is None or shapes[0] != shapes[1]:
                    raise MismatchError(
                        f"tensor {name!r} has shape {shapes[0]} in {first.label}, but {other.label} has "
                        + (f"{shapes[1]}" if theirs else "no such tensor"),
                        advice="layers are put together from models of one architecture",
                    )
    return notes


def _mixed(request: MergeRequest, first: Blocks, others: Iterable[Blocks]) -> list[str]:
    """Return what is worth knowing of runs of several dtypes."""
    ours, *theirs = (
        (each.label, ", ".join(sorted({spec.dtype for spec in each.reader.specs().values()})))
        for each in (first, *others)
    )
    return [
        f"{label} holds {dtypes} and {ours[0]} {ours[1]}: the result mixes them unless `dtype` says one"
        for label, dtypes in theirs
        if request.dtype is None and dtypes != ours[1]
    ]


def _without_layers(blocks: Blocks) -> View:
    config = blocks.reader.header.config
    return View(blocks.reader, {}, config=config and with_layers(config, blocks.count, []))


def _config(lender: Reader, runs: Sequence[Run], blocks: Mapping[int, Blocks]) -> Any:
    """Return the lender's configuration for the layers that there are now."""
    config = lender.header.config
    if config is None:
        return None
    parts = [(run.models[0].header.config, range(*run.layers[0])) for run in runs]
    return with_layers(config, blocks[id(lender)].count, parts)


def _seen_through(step: Step) -> Step:
    """Return a step on views as one on their sources."""
    views = [reader for reader in step.readers if isinstance(reader, View)]
    return replace(
        step,
        readers=tuple(view.reader for view in views),
        sources=tuple(
            replace(source, name=view.names[source.name]) for view, source in zip(views, step.sources, strict=True)
        ),
    )

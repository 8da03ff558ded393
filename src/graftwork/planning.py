"""What a merge will do, decided from headers alone: which tensor meets which, by what method, at what cost, or why not.

`plan_merge` is where everything that can be wrong with a merge is found before a weight is read. What comes out, a `MergePlan`, is all that
an executor needs; running it can still fail for three reasons only: a source holds NaN or infinity, a file changes or ends under
our hands, or the disk fills up.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from graftwork.architecture.depth import depths_and_classes
from graftwork.errors import MismatchError, OptionError, OutputError
from graftwork.methods import Base, MergeMethod, get
from graftwork.methods.base import Granularity, unit_length
from graftwork.methods.options import Options, Place
from graftwork.pairing import (
    Source,
    class_gathers,
    copied_fits,
    fits,
    fits_as_it_is,
    left_over,
    matches,
    pair,
    refuse_unused,
    with_gather,
)
from graftwork.recipe.merge import Merging
from graftwork.stores import distinct
from graftwork.stores.base import Format, Reader
from graftwork.stores.staged import check_target, free_bytes
from graftwork.tensor import FLOATS, Role, TensorSpec

COPIED = (Role.COUNTER, Role.SEED, Role.TABLE, Role.OPTIMIZER)
"""Roles whose tensors are taken from one model as they are: from the one that lends, optimizer state from the one that is asked for."""

_FACTOR = re.compile(r"/lora_(kernel|embeddings)_[ab]$")
"""What Keras calls the factors of LoRA, where a file holds them."""

REPAIR = "recalibrate the result on data before using it (graftwork recalibrate)"
"""What a note on averaged running statistics advises."""

READ_SPEED, WRITE_SPEED = 3e9, 0.8e9
"""Bytes a second that the estimate of time assumes (page cache, local disk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """What the user asks for; see `graftwork.merge` for the meaning of the fields.

    Attributes:
        resolve: Tells each tensor's options where another dialect's rules say which value counts; `options` is then for the record.
        optimizer: ``"drop"`` the optimizer state, or keep that of the ``"first"`` or the ``"last"`` model.
        lender: Which model lends names, dtypes, settings, counters and everything else that is not merged: ``"first"`` or ``"last"``.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    resolve: Callable[[Place], Mapping[str, Any]] | None = None
    labels: tuple[str, ...]
    base_label: str | None = None
    seed: int = 0
    dtype: str | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    classes: Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None = None
    allow_nonfinite: bool = False
    optimizer: str = "drop"
    lender: str = "first"


def request_of(step: Merging, classes: Mapping[str, Sequence[str]] | None = None) -> MergeRequest:
    """Return what a step asks for.

    Args:
        step: The step.
        classes: What is known of the classes of its models, by their names.
    """
    return MergeRequest(
        method=step.method,
        options=step.options,
        labels=distinct(step.models),
        base_label=step.base,
        seed=step.seed,
        dtype=step.dtype,
        map=step.map,
        skip=step.skip,
        ignore=step.ignore,
        classes=classes or None,
        allow_nonfinite=step.allow_nonfinite,
        optimizer=step.optimizer,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One tensor of the result.

    Attributes:
        spec: Its name, shape, dtype and role in the result.
        readers: The models that it is made of, in order, and the base behind them where the method has one.
        labels: What messages call these.
        sources: Their tensors, in the same order; for a copy only the first counts.
        n_models: How many of them are models; one less than there are where the last is the base.
        method: The method with the options for this tensor, or None to copy the first model's values.
        stream: Whose random stream it draws from: its own name, but for a variable that a file holds twice.
        place: Where it stands in the model, which filters and gradients of options look at.
        unit_axis: The axis that counts the units of a layer: -1 in Keras's layout, 0 in PyTorch's.
        companions: For a method with companions: for each model an open file, and where it tells more of the tensor.
    """

    spec: TensorSpec
    readers: tuple[Reader, ...]
    labels: tuple[str, ...]
    sources: tuple[Source, ...]
    n_models: int
    method: MergeMethod | None
    place: Place
    stream: str = ""
    unit_axis: int = -1
    companions: tuple[tuple[Reader, Source], ...] = ()

    @property
    def has_base(self) -> bool:
        """Whether the last source is the base."""
        return len(self.sources) > self.n_models

    @property
    def unit(self) -> int:
        """Elements of one unit; see `graftwork.methods.base`."""
        return unit_length(self.spec.shape, self.unit_axis)

    @property
    def granularity(self) -> Granularity:
        """How much is seen in one piece: units that do not lie in one piece in the file are seen with the whole tensor."""
        asked: Granularity = "block" if self.method is None else self.method.granularity(self.spec.shape)
        return "tensor" if asked == "unit" and self.is_turned else asked

    @property
    def is_turned(self) -> bool:
        """Whether units are no runs of elements in the file."""
        return self.unit_axis == -1 and len(self.spec.shape) > 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """A merge that nothing in the headers speaks against.

    Attributes:
        request: What was asked for.
        models: Every open source, in order.
        base: The open base model, if any.
        steps: One per tensor of the result, in the order of the file of the model that lends.
        notes: What the user should know, one sentence each.
        renamed: Tensors that have another name in another model: (name in the result, label, name there).
        dropped: Tensors of the model that lends which the result does not have (optimizer state).
        like: Lends configuration and small files to the result, where that is not the first model.
        companions: The open file with more about each model, where the method has such.
        tables: What was decided, by what it is about, as rows of plain values.
    """

    request: MergeRequest
    models: tuple[Reader, ...]
    base: Reader | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    renamed: tuple[tuple[str, str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    like: Reader | None = None
    companions: tuple[Reader, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def lender(self) -> Reader:
        """What lends configuration and small files to the result."""
        return self.like or self.models[0]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        """Every tensor of the result."""
        return tuple(step.spec for step in self.steps)

    @property
    def bytes_read(self) -> int:
        """Bytes of values read in one pass over the sources."""
        return sum(self._size(reader, source) for step in self.steps for reader, source in self._inputs(step))

    @property
    def bytes_written(self) -> int:
        """Bytes of values written."""
        return sum(step.spec.size_bytes for step in self.steps)

    @property
    def passes(self) -> int:
        """Most passes over the values of any tensor."""
        sizes: dict[MergeMethod, int] = {}  # tensors with the same options share one method, which is asked once
        for step in self.steps:
            if step.method is not None:
                sizes[step.method] = max(sizes.get(step.method, 0), step.spec.size)
        most = max((step.n_models for step in self.steps), default=1)
        return max((expected_passes(method, most, size) for method, size in sizes.items()), default=1)

    @property
    def roles(self) -> Mapping[str, int]:
        """How many tensors of each role the result has."""
        return dict(Counter(str(step.spec.role) for step in self.steps))

    def seconds(self) -> float:
        """Return a rough estimate of the time it takes, for sources in the page cache."""
        return 0.6 + self.passes * self.bytes_read / READ_SPEED + self.bytes_written / WRITE_SPEED

    def _inputs(self, step: Step) -> list[tuple[Reader, Source]]:
        used = list(zip(step.readers, step.sources, strict=True))
        return [*used, *step.companions] if step.method is not None else used[:1]

    def _size(self, reader: Reader, source: Source) -> int:
        return reader.specs()[source.name].size_bytes


def expected_passes(method: MergeMethod, n_models: int, size: int) -> int:
    """Return how often a method reads the values of a tensor."""
    if not size:
        return 1
    reduction = method.reduction(n_models, min(size, 4096), np.dtype(np.float32))
    return 1 if reduction is None else 1 + int(getattr(reduction, "passes", 1))


def plan_merge(
    request: MergeRequest,
    models: Sequence[Reader],
    base: Reader | None = None,
    *,
    companions: Sequence[Reader] = (),
) -> MergePlan:
    """Return the plan of a merge.

    Args:
        request: What is asked for; its labels name the models in messages.
        models: The open sources, in order; the first, unless the request says the last, lends architecture, names and dtypes.
        base: The open base model, where the method works on differences.
        companions: For a method with companions, the open file of each model; see `graftwork.methods.options.companion_files`.

    Raises:
        MismatchError: If the models do not compute the same function up to weights, or a tensor does not fit.
        OptionError: If an option, a label or a number of models is not what the method takes.
        UnknownNameError: If no method is called so.
    """
    method = get(request.method)
    _check_numbers(request, method, models, base)
    given: list[tuple[str, Reader]] = [*zip(request.labels, models, strict=True)]
    if base is not None:
        given.append((request.base_label or "base", base))
    _refuse_quantized(given)
    notes = _notes_on_sources(request, given)
    places_of = _lender_first(request, len(given))
    readers = [given[k] for k in places_of]
    lender = readers[0][1]
    pairings = [pair(readers[0], other, request, notes) for other in readers[1:]]
    gathers = class_gathers(request, readers, notes)
    options = Options(
        request.method, request.options, request.labels, has_base=base is not None, resolve=request.resolve
    )
    first = lender.specs()
    places = _places(lender)
    labels = tuple(label for label, _ in given)
    steps: list[Step] = []
    dropped: list[str] = []
    renamed: list[tuple[str, str, str]] = []
    reasons: list[str] = []
    keeper = places_of.index(0 if request.optimizer == "first" else len(models) - 1)
    refuse_unused(request, readers)
    for name, spec in first.items():
        if spec.role is Role.OPTIMIZER:
            if request.optimizer == "drop":
                dropped.append(name)
                continue
            kept = Source(name=name) if keeper == 0 else pairings[keeper - 1].get(name)
            lacking = kept and fits_as_it_is(spec, kept, readers[keeper])
            if kept is None or lacking:
                reasons.append(
                    lacking
                    or f"optimizer state {name!r} is not in {readers[keeper][0]}, or belongs to another variable there"
                )
                continue
            steps.append(_copy_step(places[name], spec, [(readers[keeper], kept)]))
            continue
        found = [p.get(name) for p in pairings]
        if spec.role in COPIED or spec.dtype not in FLOATS or matches(request.skip, name):
            if not matches(request.skip, name):
                reasons += copied_fits(name, spec, found, readers, notes)
            others = [
                (reader, source)
                for reader, source in zip(readers[1 : len(models)], found, strict=False)
                if source is not None and not fits_as_it_is(spec, source, reader)
            ]
            steps.append(_copy_step(places[name], spec, [(readers[0], Source(name=name)), *others]))
            continue
        reason = fits(name, spec, found, readers)
        if reason:
            reasons.append(reason)
            continue
        sources = [Source(name=name), *(s for s in found if s is not None)]
        sources = [with_gather(s, g.get(s.name)) for s, g in zip(sources, gathers, strict=True)]
        for (label, _), source in zip(readers[1:], sources[1:], strict=True):
            if source.name != name:
                renamed.append((name, label, source.name))
        out = TensorSpec(name=name, shape=spec.shape, dtype=request.dtype or spec.dtype, role=spec.role)
        step = Step(
            stream=lender.header.twins.get(name, name),
            spec=out,
            readers=tuple(reader for _, reader in given),
            labels=labels,
            sources=tuple(sources[places_of.index(k)] for k in range(len(given))),
            n_models=len(models),
            method=_method_for(options, places[name], len(models)),
            place=places[name],
            unit_axis=lender.header.unit_axis,
        )
        step, lacking_companions = _with_companions(step, companions)
        reasons += lacking_companions
        steps.append(step)
    if request.optimizer != "drop":
        reasons += _optimizer_left_over(first, readers[keeper], steps)
    reasons += left_over(request, first, pairings, readers)
    if reasons:
        unknown = [label for label, reader in given if reader.header.config is None]
        hint = (
            f"{unknown[0]} holds no architecture, so names alone were compared: use the model's file, or "
            if unknown
            else ""
        )
        raise MismatchError(
            *reasons, advice=f"{hint}map it with `map`, or keep the {request.lender} model's with `skip`"
        )
    merged = [step.place for step in steps if step.method is not None]
    if not merged:
        raise MismatchError("no tensor is left to merge: all are skipped or copied")
    for unused in options.unused_filters(merged):
        raise OptionError(
            f"the filter {unused!r} matches no tensor that is merged; tensors are called {merged[0].name!r} and so on"
        )
    _check_scope(steps)
    notes += _notes_on_result(request, steps, dropped)
    notes += _notes_on_companions(request, steps, companions)
    return MergePlan(
        request=request,
        models=tuple(models),
        base=base,
        steps=tuple(steps),
        notes=tuple(dict.fromkeys(notes)),
        renamed=tuple(renamed),
        dropped=tuple(dropped),
        like=None if lender is models[0] else lender,
        companions=tuple(companions),
    )


def _lender_first(request: MergeRequest, count: int) -> list[int]:
    """Return the positions of models and base, that of the model which lends before the others."""
    lender = 0 if request.lender == "first" else len(request.labels) - 1
    return [lender, *(k for k in range(count) if k != lender)]


def _optimizer_left_over(
    first: Mapping[str, TensorSpec], keeper: tuple[str, Reader], steps: Sequence[Step]
) -> list[str]:
    """Return a reason for every tensor of the kept optimizer state that would get lost."""
    label, reader = keeper
    taken = {step.sources[0].name for step in steps if step.spec.role is Role.OPTIMIZER}
    return [
        f"optimizer state {name!r} of {label} has no place in the result"
        for name, spec in reader.specs().items()
        if spec.role is Role.OPTIMIZER and name not in taken
    ]


def check_output(plan: MergePlan, target: Path, row: Format, *, overwrite: bool, like: Reader | None = None) -> None:
    """Refuse a target that exists, is a source, cannot hold the result, or has too little disk for it.

    Raises:
        OutputError: With the reason and the numbers.
    """
    files = [
        file
        for reader in (*plan.models, *([plan.base] if plan.base else []), *plan.companions, plan.lender)
        for file in (reader.path, *reader.header.files)
    ]
    check_target(target, row, files, overwrite=overwrite)
    lender = like or plan.lender
    if row.check is not None and not getattr(lender, "is_planned", False):
        row.check(plan.specs, lender)
    free, needed = free_bytes(target), result_bytes(plan.bytes_written, plan.lender)
    if free < needed:
        raise OutputError(f"{target.parent} has {free:,} bytes free, but the result needs {needed:,}")


def result_bytes(values: int, like: Reader) -> int:
    """Return about how many bytes a file with these values takes, with everything that is carried along."""
    stored = sum(spec.size_bytes for spec in like.specs().values())
    return values + max(0, like.header.size_bytes - stored) + 2**20


# Numbers and roles -----------------------------------------------------------------------------------------------------


def _check_numbers(
    request: MergeRequest, method: type[MergeMethod], models: Sequence[Reader], base: Reader | None
) -> None:
    least, most = method.models
    count = len(models)
    if not 0 <= request.seed < 2**64:
        raise OptionError(f"seed is {request.seed}, expected a whole number from 0 to 2⁶⁴ - 1")
    if method.base is Base.REQUIRED and base is None:
        raise OptionError(
            f"method {request.method!r} merges differences from a base model; name their common ancestor with `base`"
        )
    if method.base is Base.NONE and base is not None:
        raise OptionError(
            f"method {request.method!r} takes no base model, but one is given; list it with the models, or drop it"
        )
    if count < least or (most is not None and count > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        models_said = f"model{'s' * (wanted != '1')}{' besides the base' * (base is not None)}"
        given = f"{count} {'is' if count == 1 else 'are'} given"
        raise OptionError(f"method {request.method!r} merges {wanted} {models_said}, but {given}")
    if request.dtype is not None and request.dtype not in FLOATS:
        raise OptionError(f"a result cannot have dtype {request.dtype!r}; choose one of {', '.join(FLOATS)}")
    if request.optimizer not in ("drop", "first", "last"):
        raise OptionError(f"optimizer is {request.optimizer!r}, expected 'drop', 'first' or 'last'")
    if request.lender not in ("first", "last"):
        raise OptionError(f"lender is {request.lender!r}, expected 'first' or 'last'")
    if len(set(request.labels)) != len(request.labels):
        raise OptionError(f"two models are called {next(n for n in request.labels if request.labels.count(n) > 1)!r}")


def _refuse_quantized(readers: Sequence[tuple[str, Reader]]) -> None:
    for label, reader in readers:
        codes = [spec for spec in reader.specs().values() if spec.role is Role.QUANTIZED]
        if codes:
            raise MismatchError(
                f"{label} is quantized: {codes[0].name!r} holds {codes[0].dtype} codes, one of {len(codes)} such tensors",
                advice="averaging codes is meaningless; merge the float models and quantize the result, or dequantize first",
            )


def _notes_on_sources(request: MergeRequest, readers: Sequence[tuple[str, Reader]]) -> list[str]:
    notes = []
    seen: dict[tuple[int, int], str] = {}
    for label, reader in readers:
        found = reader.path.stat() if reader.path.exists() else None
        identity = (found.st_dev, found.st_ino) if found else (0, id(reader))
        if identity in seen:
            notes.append(f"{label} and {seen[identity]} are the same file")
        seen.setdefault(identity, label)
        notes += [f"{label}: {note}" for note in reader.header.notes]
        if reader.header.config is None and any(r.header.config is not None for _, r in readers):
            notes.append(f"{label} holds no architecture, so activations and other settings are not compared with it")
    if all(reader.header.config is None for _, reader in readers):
        notes.append(
            "no source holds an architecture: tensors are matched by name and shape, settings cannot be compared"
        )
    return notes


def _notes_on_result(request: MergeRequest, steps: Sequence[Step], dropped: Sequence[str]) -> list[str]:
    notes = []
    statistics = [step for step in steps if step.spec.role is Role.STATISTIC and step.method is not None]
    if any("moving_" in step.spec.name or "running_" in step.spec.name for step in statistics):
        notes.append(
            f"{len(statistics)} running statistics are averaged, which is seldom right for merged weights: " + REPAIR
        )
    elif statistics:
        notes.append(f"{len(statistics)} statistics of adapted layers are averaged")
    factors = [
        step for step in steps if step.method is not None and step.n_models > 1 and _FACTOR.search(step.spec.name)
    ]
    if factors:
        notes.append(
            f"{len(factors)} factors of LoRA ({factors[0].spec.name!r} …) are merged one by one, which does not merge what their "
            "products add; save the models as .keras, which adds it to the weights, and merge those"
        )
    if dropped:
        notes.append(
            f"the optimizer state ({len(dropped)} tensors) is dropped; --optimizer first (optimizer='first') keeps the first model's"
        )
    skipped = [step for step in steps if matches(request.skip, step.spec.name)]
    if skipped:
        notes.append(f"{len(skipped)} tensors are skipped and keep the {request.lender} model's values")
    return notes


def _notes_on_companions(request: MergeRequest, steps: Sequence[Step], companions: Sequence[Reader]) -> list[str]:
    notes = [
        f"the {get(request.method).companion} of {label} and that of {request.labels[i]} are the same file"
        for k, (label, reader) in enumerate(zip(request.labels, companions, strict=False))
        for i, other in enumerate(companions[:k])
        if reader.path.exists() and other.path.exists() and reader.path.samefile(other.path)
    ]
    without = [
        step
        for step in steps
        if companions and step.spec.role is Role.WEIGHT and step.method is not None and not step.companions
    ]
    matrices = [repr(step.spec.name) for step in without if len(step.spec.shape) > 1]
    if matrices:
        shown = ", ".join(matrices[:3]) + f" and {len(matrices) - 3} more" * (len(matrices) > 3)
        what = get(request.method).companion
        notes.append(f"{len(matrices)} matrices are not in every {what} file and are averaged: {shown}")
    return notes


def _places(model: Reader) -> dict[str, Place]:
    """Return where each tensor of a model stands in it."""
    specs = model.specs()
    depths, classes = depths_and_classes(specs, model.header.architecture, keras2=model.header.config_kind == "keras2")
    return {name: Place(name, str(spec.role), classes.get(name, ""), depths.get(name)) for name, spec in specs.items()}


def _method_for(options: Options, place: Place, n_models: int) -> MergeMethod:
    method = options.for_tensor(place)
    if place.role != Role.STATISTIC:
        return method
    return get("linear").model_validate({"weight": method.statistic_weights(n_models)})


def _with_companions(step: Step, companions: Sequence[Reader]) -> tuple[Step, list[str]]:
    """Return a step with its companions if its method needs them, and what they lack."""
    method = step.method
    wanted = method.companion_shape(step.spec.shape, step.unit) if method else None
    if method is None or wanted is None:
        return step, []
    lacking = []
    found = []
    for label, source, companion in zip(step.labels, step.sources, companions, strict=False):
        spec = companion.specs().get(source.name)
        if spec is None:
            stand_in = method.without_companion(step.n_models)
            if stand_in is not None:
                return replace(step, method=stand_in), []
            lacking.append(f"{companion.path.name}, the {method.companion} of {label}, has no tensor {source.name!r}")
        elif spec.shape != wanted or spec.dtype not in FLOATS:
            lacking.append(
                f"{companion.path.name}, the {method.companion} of {label}, has {source.name!r} as {spec.dtype} {spec.shape}, "
                f"expected floating-point numbers of shape {wanted}"
            )
        else:
            found.append((companion, _as_permuted(step, source, wanted)))
    return replace(step, companions=() if lacking else tuple(found)), lacking


def _as_permuted(step: Step, source: Source, shape: tuple[int, ...]) -> Source:
    """Return where a tensor's companion is read: permuted as the tensor is, or both of its axes as the elements of a unit are."""
    if not source.gather or step.granularity == "block":
        return source
    axis = step.unit_axis % len(step.spec.shape)
    inner = step.spec.shape[:axis] + step.spec.shape[axis + 1 :]
    places = np.arange(step.unit).reshape(inner)
    for permuted, index in source.gather:
        if permuted % len(step.spec.shape) != axis:
            places = np.take(
                places, index, axis=permuted % len(step.spec.shape) - (permuted % len(step.spec.shape) > axis)
            )
    order = tuple(places.reshape(-1).tolist())
    return Source(name=source.name, gather=tuple((each, order) for each in range(len(shape))))


def _check_scope(steps: Sequence[Step]) -> None:
    """A reduction over the whole model needs the same options everywhere."""
    wide = {step.method for step in steps if step.method is not None and step.method.scope() == "model"}
    if len(wide) > 1 or (
        wide
        and any(step.method not in wide for step in steps if step.method is not None and step.spec.role is Role.WEIGHT)
    ):
        raise OptionError(
            "a trim over the whole model needs the same options for all tensors; remove the filters or trim by tensor"
        )


def _copy_step(place: Place, spec: TensorSpec, found: Sequence[tuple[tuple[str, Reader], Source]]) -> Step:
    """Return a step that takes the first of some models' values; the others' are looked at whether they are the same."""
    return Step(
        spec=spec,
        readers=tuple(reader for (_, reader), _ in found),
        labels=tuple(label for (label, _), _ in found),
        sources=tuple(source for _, source in found),
        n_models=len(found),
        method=None,
        place=place,
    )

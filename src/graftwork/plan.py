"""What a merge will do, decided from headers alone: which tensor meets which, by what method, at what cost, or why not.

`plan_merge` is where everything that can be wrong with a merge is found before a weight is read. What comes out, a `MergePlan`, is all that
an executor needs; running it can still fail for three reasons only: a source holds NaN or infinity, a file changes or ends under
our hands, or the disk fills up.
"""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graftwork.architecture import huggingface
from graftwork.architecture.layer import Layer
from graftwork.architecture.match import Match, Rearrangement, match
from graftwork.errors import GraftworkError, MismatchError, OptionError, OutputError
from graftwork.methods import Base, MergeMethod, get
from graftwork.methods.options import Options
from graftwork.stores.base import Format, Reader
from graftwork.stores.staged import check_target, free_bytes
from graftwork.tensor import FLOATS, ITEMSIZE, Role, TensorSpec

INTERPRETER_BYTES = 130 * 2**20
"""Resident memory of the interpreter with NumPy, Numba and HDF5, before any block."""

COPIED = (Role.COUNTER, Role.SEED, Role.TABLE, Role.OPTIMIZER)
"""Roles whose tensors are taken from the first model as they are."""

READ_SPEED, WRITE_SPEED = 3e9, 0.8e9
"""Bytes a second that the estimate of time assumes (page cache, local disk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """What the user asks for; see `graftwork.merge` for the meaning of the fields."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tensor of one model as a step needs it.

    Attributes:
        name: Its canonical name there.
        gather: How its axes are permuted before it meets the others: (axis, positions of the source in the order wanted).
    """

    name: str
    gather: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One tensor of the result.

    Attributes:
        spec: Its name, shape, dtype and role in the result.
        sources: The tensors it is made of, one per model in their order; for a copy only the first counts.
        base: The base's tensor, where the method has a base.
        method: The method with the options for this tensor, or None to copy the first model's values.
    """

    spec: TensorSpec
    sources: tuple[Source, ...]
    base: Source | None
    method: MergeMethod | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePlan:
    """A merge that nothing in the headers speaks against.

    Attributes:
        request: What was asked for.
        models: The open sources, in order.
        base: The open base model, if any.
        steps: One per tensor of the result, in the order of the first model's file.
        notes: What the user should know, one sentence each.
        renamed: Tensors that have another name in another model: (name in the result, label, name there).
        dropped: Tensors of the first model that the result does not have (optimizer state).
    """

    request: MergeRequest
    models: tuple[Reader, ...]
    base: Reader | None
    steps: tuple[Step, ...]
    notes: tuple[str, ...]
    renamed: tuple[tuple[str, str, str], ...] = ()
    dropped: tuple[str, ...] = ()

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
        return max((expected_passes(step, len(self.models)) for step in self.steps), default=1)

    @property
    def roles(self) -> Mapping[str, int]:
        """How many tensors of each role the result has."""
        return dict(Counter(str(step.spec.role) for step in self.steps))

    def peak_bytes(self, threads: int) -> int:
        """Return the resident memory that running the plan needs, interpreter included."""
        from graftwork.executor.local import scratch_bytes

        return INTERPRETER_BYTES + scratch_bytes(self, threads)

    def seconds(self) -> float:
        """Return a rough estimate of the time it takes, for sources in the page cache."""
        return 0.6 + self.passes * self.bytes_read / READ_SPEED + self.bytes_written / WRITE_SPEED

    def _inputs(self, step: Step) -> list[tuple[Reader, Source]]:
        used = list(zip(self.models, step.sources, strict=True)) if step.method else [(self.models[0], step.sources[0])]
        if step.method and step.base is not None and self.base is not None:
            used.append((self.base, step.base))
        return used

    def _size(self, reader: Reader, source: Source) -> int:
        return reader.specs()[source.name].size_bytes


def expected_passes(step: Step, n_models: int) -> int:
    """Return how often the values of a step's sources are read."""
    if step.method is None or not step.spec.size:
        return 1
    import numpy as np

    reduction = step.method.reduction(n_models, min(step.spec.size, 4096), np.dtype(np.float32))
    return 1 if reduction is None else 1 + int(getattr(reduction, "passes", 1))


def plan_merge(request: MergeRequest, models: Sequence[Reader], base: Reader | None = None) -> MergePlan:
    """Return the plan of a merge.

    Args:
        request: What is asked for; its labels name the models in messages.
        models: The open sources, in order; the first lends architecture, names and dtypes to the result.
        base: The open base model, where the method works on differences.

    Raises:
        MismatchError: If the models do not compute the same function up to weights, or a tensor does not fit.
        OptionError: If an option, a label or a number of models is not what the method takes.
        UnknownNameError: If no method is called so.
    """
    method = get(request.method)
    _check_numbers(request, method, models, base)
    readers: list[tuple[str, Reader]] = [*zip(request.labels, models, strict=True)]
    if base is not None:
        readers.append((request.base_label or "base", base))
    _refuse_quantized(readers)
    notes = _notes_on_sources(request, readers)
    pairings = [_pair(readers[0], other, request, notes) for other in readers[1:]]
    gathers = _class_gathers(request, readers, notes)
    options = Options(request.method, request.options, request.labels)
    first = models[0].specs()
    steps: list[Step] = []
    dropped: list[str] = []
    renamed: list[tuple[str, str, str]] = []
    reasons: list[str] = []
    for name, spec in first.items():
        if spec.role is Role.OPTIMIZER and request.optimizer == "drop":
            dropped.append(name)
            continue
        if spec.role in COPIED or spec.dtype not in FLOATS or _matches(request.skip, name):
            steps.append(_copy_step(name, spec, pairings, models))
            continue
        found = [p.get(name) for p in pairings]
        reason = _fits(name, spec, found, readers)
        if reason:
            reasons.append(reason)
            continue
        sources = [Source(name=name), *(s for s in found if s is not None)]
        sources = [_with_gather(s, g.get(s.name)) for s, g in zip(sources, gathers, strict=True)]
        for (label, _), source in zip(readers[1:], sources[1:], strict=True):
            if source.name != name:
                renamed.append((name, label, source.name))
        out = TensorSpec(name=name, shape=spec.shape, dtype=request.dtype or spec.dtype, role=spec.role)
        own = sources.pop() if base is not None else None
        steps.append(
            Step(spec=out, sources=tuple(sources), base=own, method=_method_for(options, spec, name, len(models), own))
        )
    reasons += _left_over(request, first, pairings, readers)
    if reasons:
        raise MismatchError(*reasons, advice="map it with `map`, or keep the first model's with `skip`")
    merged = [step.spec.name for step in steps if step.method is not None]
    if not merged:
        raise MismatchError("no tensor is left to merge: all are skipped or copied")
    for unused in options.unused_filters(merged):
        raise OptionError(
            f"the filter {unused!r} matches no tensor that is merged; tensors are called {merged[0]!r} and so on"
        )
    _check_scope(steps)
    notes += _notes_on_result(request, steps, dropped)
    return MergePlan(
        request=request,
        models=tuple(models),
        base=base,
        steps=tuple(steps),
        notes=tuple(dict.fromkeys(notes)),
        renamed=tuple(renamed),
        dropped=tuple(dropped),
    )


def check_output(plan: MergePlan, target: Path, row: Format, *, overwrite: bool) -> None:
    """Refuse a target that exists, is a source, or has too little disk for the result.

    Raises:
        OutputError: With the reason and the numbers.
    """
    files = [
        file
        for reader in (*plan.models, *([plan.base] if plan.base else []))
        for file in (reader.path, *reader.header.files)
    ]
    check_target(target, row, files, overwrite=overwrite)
    free, needed = free_bytes(target), result_bytes(plan.bytes_written, plan.models[0])
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
    if method.base is Base.REQUIRED and base is None:
        raise OptionError(
            f"method {request.method!r} merges differences from a base model; name their common ancestor with `base`"
        )
    if method.base is Base.NONE and base is not None:
        raise OptionError(
            f"method {request.method!r} takes no base model, but one is given; list it with the models, or drop it"
        )
    # a method for pairs takes the base as the first of the two
    have = count + (1 if base is not None and method.base is Base.OPTIONAL and most == 2 else 0)
    if have < least or (most is not None and have > most):
        wanted = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
        raise OptionError(f"method {request.method!r} merges {wanted} models, but {have} are given")
    if request.dtype is not None and request.dtype not in FLOATS:
        raise OptionError(f"a result cannot have dtype {request.dtype!r}; choose one of {', '.join(FLOATS)}")
    if request.optimizer not in ("drop", "first"):
        raise OptionError(f"optimizer is {request.optimizer!r}, expected 'drop' or 'first'")
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
        found = os.stat(reader.path) if reader.path.exists() else None
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
            f"{len(statistics)} running statistics are averaged, which is seldom right for merged weights: "
            "recalibrate the result on data before using it"
        )
    elif statistics:
        notes.append(f"{len(statistics)} statistics of adapted layers are averaged")
    if dropped:
        notes.append(
            f"the optimizer state ({len(dropped)} tensors) is dropped; keep the first model's with optimizer='first'"
        )
    skipped = [step for step in steps if _matches(request.skip, step.spec.name)]
    if skipped:
        notes.append(f"{len(skipped)} tensors are skipped and keep the first model's values")
    return notes


def _method_for(options: Options, spec: TensorSpec, name: str, n_models: int, base: Source | None) -> MergeMethod:
    method = options.for_tensor(name)
    if spec.role is not Role.STATISTIC:
        return method
    linear = get("linear")
    weights = method.statistic_weights(n_models)
    return linear.model_validate({"weight": weights})


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


def _copy_step(name: str, spec: TensorSpec, pairings: Sequence["Pairing"], models: Sequence[Reader]) -> Step:
    others = []
    for pairing, reader in zip(pairings, models[1:], strict=False):
        found = pairing.get(name)
        if found is not None and found.name in reader.specs():
            other = reader.specs()[found.name]
            others.append(found if (other.shape, other.dtype) == (spec.shape, spec.dtype) else None)
        else:
            others.append(None)
    sources = [Source(name=name), *(s if s is not None else Source(name="") for s in others)]
    return Step(spec=spec, sources=tuple(sources), base=None, method=None)


# Matching --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which tensor of another model meets which of the first."""

    sources: Mapping[str, Source]

    def get(self, name: str) -> Source | None:
        """Return the other model's tensor for one of the first's, or None."""
        return self.sources.get(name)


def _pair(first: tuple[str, Reader], other: tuple[str, Reader], request: MergeRequest, notes: list[str]) -> Pairing:
    (label_a, a), (label_b, b) = first, other
    found: Match | None = None
    if a.header.architecture is not None and b.header.architecture is not None:
        found = match(a.header.architecture, b.header.architecture)
        differences = [d for d in found.differences if d.field not in request.ignore]
        if differences:
            raise MismatchError(
                *(d.describe(label_a, label_b) for d in differences),
                advice="models that compute different functions cannot be averaged; compose or distil them "
                "(or pass ignore=[field] if the field does not matter)",
            )
        notes += [f"{label_b}: {note}" for note in found.notes]
        if found.differences:
            notes.append(
                f"{label_b}: differences in {', '.join(sorted({d.field for d in found.differences}))} are ignored as asked"
            )
    elif a.header.config_kind == b.header.config_kind == "huggingface":
        fields = [d for d in huggingface.differences(a.header.config, b.header.config) if d.field not in request.ignore]
        if request.classes is not None:
            fields = [d for d in fields if d.field not in ("id2label", "label2id")]
        if fields:
            raise MismatchError(
                *(d.describe(label_a, label_b) for d in fields),
                advice="merge models of one architecture (or pass ignore=[field] if the field does not matter)",
            )
    _same_assets(first, other, request)
    sources = _by_names(a, b, found, request)
    for rearrangement in found.rearrangements if found else ():
        _rearrange(sources, b, rearrangement)
        notes.append(f"{label_b}: {rearrangement.reason}")
    return Pairing(sources)


def _same_assets(first: tuple[str, Reader], other: tuple[str, Reader], request: MergeRequest) -> None:
    (label_a, a), (label_b, b) = first, other
    if "assets" in request.ignore or not (a.header.assets and b.header.assets):
        return
    # assets are compared as a multiset of contents: their paths count classes, as the keys of weights do
    if sorted(a.header.assets.values()) != sorted(b.header.assets.values()):
        differing = next(
            (n for n in a.header.assets if b.header.assets.get(n) != a.header.assets[n]), next(iter(a.header.assets))
        )
        raise MismatchError(
            f"the vocabulary {differing!r} differs between {label_a} and {label_b}",
            advice="their embeddings and class indices mean different things; models must share one vocabulary",
        )


def _by_names(a: Reader, b: Reader, found: Match | None, request: MergeRequest) -> dict[str, Source]:
    theirs = dict(b.specs())
    renames = {_apply_map(request.map, name): name for name in theirs} if request.map else {}
    sources: dict[str, Source] = {}
    for name in a.specs():
        if name in renames and renames[name] != name:
            sources[name] = Source(name=renames[name])
            continue
        target = _translate(name, found) if found else name
        if target in theirs:
            sources[name] = Source(name=target)
    if found is not None:
        taken = {s.name for s in sources.values()}
        left = {n for n in theirs if n not in taken}
        for name in a.specs():
            if name not in sources and left:
                inner = _by_place(name, a, b, found, left)
                if inner is not None:
                    sources[name] = Source(name=inner)
                    left.discard(inner)
    return sources


def _apply_map(rules: Mapping[str, str], name: str) -> str:
    for pattern, replacement in rules.items():
        try:
            renamed, count = re.subn(f"^(?:{pattern})$", replacement, name)
        except re.error as error:
            raise OptionError(f"the pattern {pattern!r} of `map` is not a regular expression: {error}") from error
        if count:
            return renamed
    return name


def _translate(name: str, found: Match) -> str:
    """Return the name that a tensor of the first model has in the other: the longest matched chain of layers, then the rest."""
    parts = name.split("/")
    for cut in range(len(parts) - 1, 0, -1):
        chain = "/".join(parts[:cut])
        if chain in found.layers:
            rest = parts[cut:]
            return "/".join([found.layers[chain], *rest])
    return name


def _by_place(name: str, a: Reader, b: Reader, found: Match, left: set[str]) -> str | None:
    """Match inside a custom layer, whose inner names may be automatic, by the attributes that lead to the variable."""
    parts = name.split("/")
    for cut in range(len(parts) - 1, 0, -1):
        chain = "/".join(parts[:cut])
        if chain in found.layers:
            place = a.key(name).split("/")[2 * cut :]
            prefix = found.layers[chain] + "/"
            for candidate in sorted(left):
                if candidate.startswith(prefix) and b.key(candidate).split("/")[2 * cut :] == place:
                    return candidate
            return None
    return None


def _rearrange(sources: dict[str, Source], b: Reader, wanted: Rearrangement) -> None:
    name = f"{wanted.layer}/{wanted.variable}"
    spec = b.specs().get(name)
    if spec is None:
        return  # a layer without this variable (use_bias=False)
    axis = wanted.axis % len(spec.shape)
    index = tuple(i for start, length in wanted.blocks for i in range(start, start + length))
    if sorted(index) != list(range(spec.shape[axis])):
        raise MismatchError(
            f"axis {axis} of {name!r} has {spec.shape[axis]} entries, but the configuration says {len(index)}"
        )
    for key, source in sources.items():
        if source.name == name:
            sources[key] = Source(name=name, gather=(*source.gather, (axis, index)))


def _fits(
    name: str, spec: TensorSpec, found: Sequence[Source | None], readers: Sequence[tuple[str, Reader]]
) -> str | None:
    """Return why a tensor of the first model cannot be merged, or None."""
    first_label = readers[0][0]
    for source, (label, reader) in zip(found, readers[1:], strict=True):
        if source is None:
            return f"tensor {name!r} of {first_label} has no counterpart in {label}"
        other = reader.specs()[source.name]
        if other.shape != spec.shape:
            return f"tensor {name!r} has shape {spec.shape} in {first_label} but {other.shape} in {label}" + (
                f" (there {source.name!r})" if source.name != name else ""
            )
        if other.dtype not in FLOATS:
            return f"tensor {name!r} has dtype {spec.dtype} in {first_label} but {other.dtype} in {label}"
    return None


def _left_over(
    request: MergeRequest,
    first: Mapping[str, TensorSpec],
    pairings: Sequence[Pairing],
    readers: Sequence[tuple[str, Reader]],
) -> list[str]:
    """Return a reason for every tensor of another model that meets none of the first."""
    reasons = []
    for pairing, (label, reader) in zip(pairings, readers[1:], strict=True):
        taken = {source.name for source in pairing.sources.values()}
        if len(taken) != len(pairing.sources):
            names = [source.name for source in pairing.sources.values()]
            twice = next(n for n in names if names.count(n) > 1)
            reasons.append(f"two tensors of {readers[0][0]} are matched with {twice!r} of {label}")
        reasons += [
            f"tensor {name!r} of {label} has no counterpart in {readers[0][0]}"
            for name, spec in reader.specs().items()
            if name not in taken and spec.role is not Role.OPTIMIZER and not _matches(request.skip, name)
        ]
    return reasons


def _matches(patterns: Sequence[str], name: str) -> bool:
    for pattern in patterns:
        if pattern.startswith("re:"):
            if re.search(pattern[3:], name):
                return True
        elif fnmatch.fnmatchcase(name, pattern):
            return True
    return False


def _with_gather(source: Source, extra: tuple[int, tuple[int, ...]] | None) -> Source:
    return source if extra is None else Source(name=source.name, gather=(*source.gather, extra))


# Classes ---------------------------------------------------------------------------------------------------------------


def _class_gathers(
    request: MergeRequest, readers: Sequence[tuple[str, Reader]], notes: list[str]
) -> list[dict[str, tuple[int, tuple[int, ...]]]]:
    """Return, for each model, which tensors are permuted so that all have the classes of the first in its order."""
    nothing: list[dict[str, tuple[int, tuple[int, ...]]]] = [{} for _ in readers]
    if request.classes is None:
        return nothing
    labels = [label for label, _ in readers]
    given = request.classes
    if not isinstance(given, Mapping):
        if len(given) not in (len(request.labels), len(labels)):
            raise OptionError(f"`classes` has {len(given)} lists for {len(request.labels)} models")
        given = dict(zip(labels, given, strict=False))
    unknown = [name for name in given if name not in labels]
    if unknown:
        raise OptionError(f"`classes` names {unknown[0]!r}, but the models are called {', '.join(labels)}")
    reference = [str(c) for c in given.get(labels[0], ())]
    if not reference:
        raise OptionError(f"`classes` needs the class names of {labels[0]}, whose order the result keeps")
    result = []
    for label, reader in readers:
        names = [str(c) for c in given.get(label, reference)]
        if len(set(names)) != len(names):
            raise OptionError(
                f"`classes` of {label} has the name {next(n for n in names if names.count(n) > 1)!r} twice"
            )
        if set(names) != set(reference):
            odd = sorted(set(names) ^ set(reference))[0]
            raise MismatchError(
                f"{labels[0]} and {label} do not have the same classes: {odd!r} is in one only",
                advice="models with different classes are ensembled, not averaged",
            )
        index = tuple(names.index(c) for c in reference)
        if index == tuple(range(len(index))):
            result.append({})
            continue
        result.append(dict.fromkeys(_head(label, reader, len(index)), (-1, index)))
        notes.append(f"{label}: its {len(index)} classes are permuted into the order of {labels[0]}")
    return result


TRANSPARENT = frozenset(
    {"Activation", "Softmax", "ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "Flatten", "Identity"}
)
"""Layers after the head through which classes keep their places."""


def _head(label: str, reader: Reader, n_classes: int) -> list[str]:
    """Return the tensors of the layer that gives one number per class, all of which have the classes on their last axis."""
    architecture = reader.header.architecture
    head = _head_layer(architecture) if architecture is not None and architecture.graph is not None else None
    if head is None:
        raise MismatchError(
            f"the classes of {label} cannot be permuted: its last layer with weights is not known to be a Dense or Conv layer",
            advice="reorder them before merging",
        )
    names = [
        name
        for name, spec in reader.specs().items()
        if name.rpartition("/")[0] == head and spec.shape[-1:] == (n_classes,)
    ]
    own = [name for name in reader.specs() if name.rpartition("/")[0] == head]
    if not names or names != own:
        raise MismatchError(
            f"the head {head!r} of {label} does not have {n_classes} classes on the last axis of its weights"
        )
    return names


def _head_layer(model: Layer) -> str | None:
    """Return the chain of names of the only output layer, looking through activations, or None."""
    graph = model.graph
    if graph is None:
        return None
    by_name = {layer.name: layer for layer in graph.layers}
    if graph.sequential:
        order = [layer for layer in graph.layers]
        layer = order.pop() if order else None
        while layer is not None and layer.class_name in TRANSPARENT - {"PReLU", "Flatten"}:
            layer = order.pop() if order else None
    else:
        if len(graph.outputs) != 1:
            return None
        layer = by_name.get(graph.outputs[0][1].layer)
        for _ in range(len(by_name)):
            if layer is None or layer.class_name not in TRANSPARENT - {"PReLU", "Flatten"}:
                break
            inputs = layer.calls[0].inputs if layer.calls else ()
            layer = by_name.get(inputs[0].layer) if len(inputs) == 1 else None
    if layer is None:
        return None
    if layer.graph is not None:
        inner = _head_layer(layer)
        return None if inner is None else f"{layer.name}/{inner}"
    return layer.name if layer.class_name in ("Dense", "Conv1D", "Conv2D", "Conv3D", "EinsumDense") else None


def refusal_reasons(error: GraftworkError) -> list[str]:
    """Return every reason of a refusal, for machines."""
    return list(error.reasons) if isinstance(error, MismatchError) else [str(error)]


def scratch_itemsize(specs: Sequence[TensorSpec]) -> int:
    """Return the bytes of one number in the work arrays."""
    return 8 if any(ITEMSIZE[s.dtype] == 8 for s in specs if s.dtype in FLOATS) else 4

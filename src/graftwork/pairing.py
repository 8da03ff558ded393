"""Which tensor of one model is which tensor of another, and what must be permuted before they meet.

Where both sources hold an architecture, layers are matched by `graftwork.architecture.match` and tensors follow their layers;
else tensors are matched by canonical name. `map` overrides both. Nothing is matched by position alone.
"""

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graftwork.architecture import huggingface
from graftwork.architecture.layer import Layer, walk
from graftwork.architecture.layout import layout
from graftwork.architecture.match import Match, Rearrangement, match
from graftwork.errors import MismatchError, OptionError
from graftwork.stores.base import Reader
from graftwork.stores.tf_checkpoint import Lender
from graftwork.stores.tf_graph import ATTRIBUTES
from graftwork.stores.tf_places import places
from graftwork.tensor import FLOATS, Role, TensorSpec

CONNECTIONS = frozenset({"arguments", "calls", "class", "dtype", "inputs", "layers", "output", "outputs", "shape"})
"""Kinds of difference that are no setting of a layer, so that nobody can say they do not matter."""


STATES = tuple(f"{ATTRIBUTES}{kind}" for kind in ("ITERATOR_STATE", "py_state"))
"""How the names end of texts in a checkpoint of TensorFlow 2 that say where in its data a training was, and not what a model computes."""


class Wishes(Protocol):
    """What the user said about matching; see `graftwork.planning.MergeRequest`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """See `MergeRequest`."""
        ...

    @property
    def map(self) -> Mapping[str, str]:
        """See `MergeRequest`."""
        ...

    @property
    def skip(self) -> tuple[str, ...]:
        """See `MergeRequest`."""
        ...

    @property
    def ignore(self) -> tuple[str, ...]:
        """See `MergeRequest`."""
        ...

    @property
    def classes(self) -> Mapping[str, Sequence[str]] | Sequence[Sequence[str]] | None:
        """See `MergeRequest`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One tensor of one model as a step needs it.

    Attributes:
        name: Its canonical name there.
        gather: How its axes are permuted before it meets the others: (axis, positions of the source in the order wanted).
    """

    name: str
    gather: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True, slots=True)
class Pairing:
    """Which tensor of another model meets which of the first."""

    sources: Mapping[str, Source]

    def get(self, name: str) -> Source | None:
        """Return the other model's tensor for one of the first's, or None."""
        return self.sources.get(name)


def pair(first: tuple[str, Reader], other: tuple[str, Reader], request: Wishes, notes: list[str]) -> Pairing:
    """Return which tensor of another model meets which of the first; what is worth knowing is added to `notes`.

    Raises:
        MismatchError: If the two do not compute the same function up to weights.
    """
    (label_a, a), (label_b, b) = first, other
    found: Match | None = None
    if a.header.architecture is not None and b.header.architecture is not None:
        found = match(a.header.architecture, b.header.architecture, frozenset(request.ignore))
        if found.differences:
            settings = [d.field for d in found.differences if d.field not in CONNECTIONS]
            raise MismatchError(
                *(d.describe(label_a, label_b) for d in found.differences),
                advice="models that compute different functions cannot be averaged; compose or distil them"
                + (f", or name {settings[0]!r} in `ignore` if it does not matter" if settings else ""),
            )
        notes += [f"{label_b}: {note}" for note in (*found.notes, *_unseen_vocabularies(a, b))]
    elif a.header.config_kind == b.header.config_kind == "huggingface":
        ignored = request.ignore if request.classes is None else (*request.ignore, *huggingface.LABELS)
        fields = [
            d
            for d in huggingface.differences(a.header.config, b.header.config)
            if not huggingface.is_among(d.field, ignored)
        ]
        refused = [d.describe(label_a, label_b) for d in fields if not d.left_out]
        if refused:
            raise MismatchError(
                *refused,
                advice="merge models of one architecture, or name the field in `ignore` if it does not matter",
            )
        notes += huggingface.note_on(fields, label_a, label_b)
    _same_assets(first, other, found, request, notes)
    sources = (None if found or request.map else _by_objects(a, b)) or _by_names(a, b, found, request.map)
    if found is None and not request.map and any(source.name != name for name, source in sources.items()):
        notes.append(
            f"{label_b}: tensors are matched by their places among the objects, for names count differently there"
        )
    _refuse_slips_of_map(first, other, request.map, sources)
    for rearrangement in found.rearrangements if found else ():
        _rearrange(sources, b, rearrangement)
        notes.append(f"{label_b}: {rearrangement.reason}")
    return Pairing(sources)


def explore(first: tuple[str, Reader], other: tuple[str, Reader]) -> tuple[Pairing, list[str], list[str]]:
    """Return a pairing as far as there is one, the differences of architecture, and how it was found; refuse nothing."""
    (label_a, a), (label_b, b) = first, other
    found: Match | None = None
    structure: list[str] = []
    notes: list[str] = []
    if a.header.architecture is not None and b.header.architecture is not None:
        found = match(a.header.architecture, b.header.architecture)
        structure = [d.describe(label_a, label_b) for d in found.differences]
        notes = [*found.notes, *_unseen_vocabularies(a, b)]
    elif a.header.config_kind == b.header.config_kind == "huggingface":
        fields = huggingface.differences(a.header.config, b.header.config)
        structure = [d.describe(label_a, label_b) for d in fields if not d.left_out]
        notes = huggingface.note_on(fields, label_a, label_b)
    differing = _differing_asset(a, b, found)
    structure += [f"the vocabulary {differing!r} differs between {label_a} and {label_b}"] if differing else []
    sources = (None if found else _by_objects(a, b)) or _by_names(a, b, found, {})
    for rearrangement in found.rearrangements if found else ():
        _rearrange(sources, b, rearrangement)
        notes.append(rearrangement.reason)
    return Pairing(sources), structure, notes


def _same_assets(
    first: tuple[str, Reader], other: tuple[str, Reader], found: Match | None, request: Wishes, notes: list[str]
) -> None:
    (label_a, a), (label_b, b) = first, other
    if "assets" in request.ignore or not (a.header.assets and b.header.assets):
        return
    differing = _differing_asset(a, b, found)
    if differing:
        raise MismatchError(
            f"the vocabulary {differing!r} differs between {label_a} and {label_b}",
            advice="their embeddings and class indices mean different things; models must share one vocabulary "
            "(if these texts mean nothing to the model, name 'assets' in `ignore`)",
        )
    notes += [
        f"{label_b}: {name!r}, the state of a training, is another one there; the result has that of {label_a}"
        for name, digest in a.header.assets.items()
        if name.endswith(STATES) and b.header.assets.get(name) != digest
    ]


def _differing_asset(a: Reader, b: Reader, found: Match | None) -> str | None:
    """Return an asset of one model that the other has otherwise, or None where one of them has none at all.

    Those of layers that were matched are compared one by one: their paths count classes, as the keys of weights do. Of the others, only the
    contents are.
    """
    ours, theirs = (
        {name: digest for name, digest in reader.header.assets.items() if not name.endswith(STATES)}
        for reader in (a, b)
    )
    if not (ours and theirs):
        return None
    if found is not None:
        places = _asset_places(b)
        for (chain, file), name in _asset_places(a).items():
            other = places.get((found.layers.get(chain, ""), file))
            if other in theirs and ours.pop(name) != theirs.pop(other):
                return name
    if sorted(ours.values()) == sorted(theirs.values()):
        return None
    return next((name for name in ours if theirs.get(name) != ours[name]), next(iter({**ours, **theirs})))


def _asset_places(reader: Reader) -> dict[tuple[str, str], str]:
    """Return every asset that lies in the place of a layer by that layer's chain of names and its own file name."""
    architecture = reader.header.architecture
    if architecture is None:
        return {}
    chains = layout(architecture, keras2=reader.header.config_kind == "keras2").groups
    found = {}
    for name in reader.header.assets:
        group, _, file = name.removeprefix("assets/").rpartition("/")
        if group in chains:
            found[chains[group], file] = name
    return found


def _unseen_vocabularies(a: Reader, b: Reader) -> list[str]:
    """Return a note on the layers whose vocabularies are neither in the configuration nor, as assets, in both of the files."""
    if a.header.architecture is None or (a.header.assets and b.header.assets):
        return []
    unseen = [repr(name) for name, layer in walk(a.header.architecture) if layer.config.get("vocabulary", "") is None]
    return [f"vocabularies that are in no configuration were not compared: {', '.join(unseen)}"] if unseen else []


def _by_objects(a: Reader, b: Reader) -> dict[str, Source] | None:
    """Pair two object checkpoints of TensorFlow 2 by the places of values, where all are there in both and names differ in numbers at most.

    Keras numbers the layers that nobody named, over all models of a process: ``dense_1`` may be the second layer here and the first there.
    TensorFlow itself restores by places alone.
    """
    if not (isinstance(a, Lender) and isinstance(b, Lender) and a.nodes and b.nodes):
        return None
    there = places(a.nodes, b.nodes)
    ours, theirs = ({reader.key(name): name for name in reader.specs()} for reader in (a, b))
    if there is None or not all(ATTRIBUTES in key for key in (*ours, *theirs)):
        return None
    calls = [{v.key: v.full_name for node in reader.nodes for v in node.attributes} for reader in (a, b)]
    pairs: dict[str, str] = {}
    for key, other in there.items():
        if key in ours and other in theirs:
            ends = a.specs()[ours[key]].role is Role.OPTIMIZER, b.specs()[theirs[other]].role is Role.OPTIMIZER
            if ends[0] != ends[1] or (not ends[0] and _unnumbered(calls[0][key]) != _unnumbered(calls[1][other])):
                return None
            pairs[ours[key]] = theirs[other]
    paired = set(pairs), set(pairs.values())
    for reader, known in zip((a, b), paired, strict=True):
        if any(name not in known for name, spec in reader.specs().items() if spec.role is not Role.OPTIMIZER):
            return None
    return {name: Source(name=pairs[name]) for name in a.specs() if name in pairs}


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+", "", name)


def _by_names(a: Reader, b: Reader, found: Match | None, rules: Mapping[str, str]) -> dict[str, Source]:
    theirs = dict(b.specs())
    renames = {_apply_map(rules, name): name for name in theirs} if rules else {}
    attributes = _by_attributes(a, b, found) if found else {}
    sources: dict[str, Source] = {}
    for name in a.specs():
        if name in renames and renames[name] != name:
            sources[name] = Source(name=renames[name])
            continue
        target = attributes.get(name) or (_translate(name, found) if found else name)
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
    else:
        taken = {source.name for source in sources.values()}
        known = {number: name for number, name in numbered(b).items() if name not in taken}
        sources |= {
            name: Source(name=known[number])
            for number, name in numbered(a).items()
            if number in known and name not in sources
        }
    return sources


def numbered(reader: Reader) -> dict[str, str]:
    """Return the tensors of a file of Keras 3's by what they are called where only numbers of variables are known: ``norm/0``.

    Files without an architecture do not always tell: the only variable of a normalization may be its scale or its offset.
    """
    found = {}
    for name in reader.specs():
        _, vars_, number = reader.key(name).rpartition("/vars/")
        if vars_:
            found[f"{name.rpartition('/')[0]}/{number}"] = name
    return found


def _refuse_slips_of_map(
    first: tuple[str, Reader], other: tuple[str, Reader], rules: Mapping[str, str], sources: Mapping[str, Source]
) -> None:
    """Refuse names that a map gives and the first model does not have, where the tensor would be paired otherwise."""
    used = {source.name for source in sources.values()}
    for name in other[1].specs() if rules else ():
        wanted = _apply_map(rules, name)
        if name in used and wanted not in first[1].specs():
            raise MismatchError(
                f"`map` calls tensor {name!r} of {other[0]} {wanted!r}, which {first[0]} does not have",
                advice=f"map it to one that there is, such as {next(iter(sources))!r}, or not at all",
            )


def _apply_map(rules: Mapping[str, str], name: str) -> str:
    found = (_renamed(pattern, replacement, name) for pattern, replacement in rules.items())
    return next((renamed for renamed in found if renamed is not None), name)


def _renamed(pattern: str, replacement: str, name: str) -> str | None:
    """Return what a rule of a map makes of a name; None if its pattern does not fit all of it."""
    try:
        renamed, count = re.subn(f"^(?:{pattern})$", replacement, name)
    except re.error as error:
        raise OptionError(f"the pattern {pattern!r} of `map` is not a regular expression: {error}") from error
    return renamed if count else None


def _translate(name: str, found: Match) -> str:
    """Return the name that a tensor of the first model has in the other: the longest matched chain of layers, then the rest."""
    parts = name.split("/")
    for cut in range(len(parts) - 1, 0, -1):
        chain = "/".join(parts[:cut])
        if chain in found.layers:
            rest = parts[cut:]
            return "/".join([found.layers[chain], *rest])
    return name


def _by_attributes(a: Reader, b: Reader, found: Match) -> dict[str, str]:
    """Pair what lies inside layers of classes that only the user knows by the attributes that lead to it.

    Inner layers seldom have names of their own, and automatic numbers mean nothing: ``dense_3`` may be the first layer here and the
    second one there. Attributes are the same in both. Keys that count classes (``layers/dense_1``) tell only where the names below them are
    others altogether, but for their numbers.
    """
    ours, theirs = _places(a), {(chain, place): (name, inner) for name, (chain, place, inner) in _places(b).items()}
    named = {inner for _, place, inner in ours.values() if _is_counted(place)} == {
        inner for (_, place), (_, inner) in theirs.items() if _is_counted(place)
    }
    pairs = {}
    for name, (chain, place, inner) in ours.items():
        layer = found.layers.get(chain, "") if chain else ""
        other, inside = theirs.get((layer, place), ("", ""))
        told = not _is_counted(place) or (not named and _unnumbered(inner) == _unnumbered(inside))
        if other and told and bool(layer) == bool(chain):
            pairs[name] = other
    return pairs


def _is_counted(place: str) -> bool:
    return "layers" in place.split("/")


def _places(reader: Reader) -> dict[str, tuple[str, str, str]]:
    """Return for each tensor inside a layer of unknown class that layer's chain of names, and the key and the name below it."""
    architecture = reader.header.architecture
    if architecture is None:
        return {}
    planned = layout(architecture, keras2=reader.header.config_kind == "keras2")
    found = {}
    for name in reader.specs() if planned.unknown else ():
        key = reader.key(name)
        for group in planned.unknown:
            if not group or key.startswith(group + "/"):
                chain = planned.groups[group] if group else ""
                found[name] = chain, key[len(group) :].strip("/"), name.removeprefix(chain + "/")
    return found


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


def fits(
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


def copied_fits(
    name: str,
    spec: TensorSpec,
    found: Sequence[Source | None],
    readers: Sequence[tuple[str, Reader]],
    notes: list[str],
) -> list[str]:
    """Return why a tensor that is copied from the first model cannot be; what may differ is added to `notes`."""
    first_label, reasons = readers[0][0], []
    for source, (label, reader) in zip(found, readers[1:], strict=True):
        if source is None:
            notes.append(f"{label}: {spec.role} {name!r} is not there; the result has that of {first_label}")
            continue
        other = reader.specs()[source.name]
        if other.shape != spec.shape:
            reasons.append(f"tensor {name!r} has shape {spec.shape} in {first_label} but {other.shape} in {label}")
        elif (other.dtype in FLOATS) != (spec.dtype in FLOATS):
            reasons.append(f"tensor {name!r} has dtype {spec.dtype} in {first_label} but {other.dtype} in {label}")
        elif other.dtype != spec.dtype:
            notes.append(f"{label}: {spec.role} {name!r} is {other.dtype} there and {spec.dtype} in {first_label}")
    return reasons


def fits_as_it_is(spec: TensorSpec, source: Source, found: tuple[str, Reader]) -> str | None:
    """Return why a model's tensor cannot stand for one of the result bit for bit, or None."""
    label, reader = found
    other = reader.specs()[source.name]
    if (other.shape, other.dtype) == (spec.shape, spec.dtype):
        return None
    return f"{spec.role} {spec.name!r} is {other.dtype} {other.shape} in {label}, and {spec.dtype} {spec.shape} is expected"


def left_over(
    request: Wishes,
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
            if name not in taken and spec.role is not Role.OPTIMIZER and not matches(request.skip, name)
        ]
    return reasons


def refuse_unused(request: Wishes, readers: Sequence[tuple[str, Reader]]) -> None:
    """Refuse patterns of `skip` and `map` that fit nothing: they are slips, or meant for other models.

    Raises:
        OptionError: For the first pattern of `skip` that fits no tensor, or of `map` that fits none of the models after the first.
    """
    known = [name for _, reader in readers for name in reader.specs()]
    for pattern in request.skip:
        if not any(matches([pattern], name) for name in known):
            raise OptionError(
                f"the pattern {pattern!r} of skip fits no tensor of any model; tensors are called {next(iter(known), '')!r} and so on"
            )
    others = known[len(readers[0][1].specs()) :]
    for pattern, replacement in request.map.items():
        if all(_renamed(pattern, replacement, name) is None for name in others):
            raise OptionError(f"the pattern {pattern!r} of map fits no tensor of the models after the first")


def matches(patterns: Sequence[str], name: str) -> bool:
    """Return whether a tensor's name fits one of the globs, or of the regular expressions behind ``re:``.

    Raises:
        OptionError: If one is no regular expression.
    """
    for pattern in patterns:
        try:
            if re.search(pattern[3:], name) if pattern.startswith("re:") else fnmatch.fnmatchcase(name, pattern):
                return True
        except re.error as error:
            raise OptionError(f"the pattern {pattern!r} is not a regular expression: {error}") from error
    return False


def with_gather(source: Source, extra: tuple[int, tuple[int, ...]] | None) -> Source:
    """Return a source with one more permutation, if there is one."""
    return source if extra is None else Source(name=source.name, gather=(*source.gather, extra))


# Classes ---------------------------------------------------------------------------------------------------------------


def class_gathers(
    request: Wishes, readers: Sequence[tuple[str, Reader]], notes: list[str]
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
        given = dict(zip([*request.labels, *labels[len(request.labels) :]], given, strict=False))
    unknown = [name for name in given if name not in labels]
    if unknown:
        raise OptionError(f"`classes` names {unknown[0]!r}, but the models are called {', '.join(labels)}")
    reference = [str(c) for c in given.get(labels[0], ())]
    if not reference:
        raise OptionError(f"`classes` needs the class names of {labels[0]}, whose order the result keeps")
    result: list[dict[str, tuple[int, tuple[int, ...]]]] = []
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
            _check_count(label, reader, len(index))
            result.append({})
            continue
        result.append(dict.fromkeys(_head(label, reader, len(index)), (-1, index)))
        notes.append(f"{label}: its {len(index)} classes are permuted into the order of {labels[0]}")
    return result


TRANSPARENT = frozenset(
    {"Activation", "Softmax", "ReLU", "LeakyReLU", "ELU", "PReLU", "Dropout", "Flatten", "Identity"}
)
"""Layers after the head through which classes keep their places."""


def _check_count(label: str, reader: Reader, n_classes: int) -> None:
    """Refuse a number of names that is not the number of the head's outputs, where the head is known."""
    architecture = reader.header.architecture
    if architecture is not None and architecture.graph is not None and _head_layer(architecture) is not None:
        _head(label, reader, n_classes)


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
        order = list(graph.layers)
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

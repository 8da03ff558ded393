"""Which variable every dataset of a Keras weights file is, from the configuration or, without one, from the file's own groups.

::

    file          layers/bidirectional/forward_layer/cell/vars/0
    canonical     bi/forward_lstm/lstm_cell/kernel              layer names, then the variable; the root's name is not part

`layout` predicts the whole file from a configuration; `name_tree` reads what it can off the groups of a file.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from graftwork.architecture.layer import MAX_DEPTH, Graph, Layer
from graftwork.architecture.variables import (
    Child,
    Own,
    children,
    class_names,
    container_keys,
    key_of_class,
    own_variables,
    variants,
)
from graftwork.errors import StoreError
from graftwork.tensor import Role, number_in


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable of a model.

    Attributes:
        path: Its dataset in a ``.weights.h5`` file (``layers/dense_1/vars/0``).
        name: Its canonical name (``dense_5/kernel``).
        role: What it is for.
        trainable: Whether it is by nature and no layer around it is frozen.
        layer: The layer that it belongs to.
        same_as: The path where the file holds the same variable again; the two must be given the same values.
    """

    path: str
    name: str
    role: Role
    trainable: bool
    layer: Layer
    same_as: str | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """What a weights file of a model holds.

    Attributes:
        variables: In the order in which Keras saves them. A layer that several models share is listed in each; the file holds
            the first only.
        groups: The h5 path of every layer's group, in the same order, with its canonical chain of layer names; the root is "".
        unknown: The groups of layers whose insides cannot be known, so that anything may be below them.
    """

    variables: tuple[Variable, ...]
    groups: Mapping[str, str]
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """The ``vars`` group of a layer in a weights file.

    Attributes:
        name: Its attribute ``name``, the layer's name; None where Keras wrote none.
        variables: Shape and dtype of each dataset by its key.
    """

    name: str | None
    variables: Mapping[str, tuple[tuple[int, ...], str]]


def layout(root: Layer, *, keras2: bool = False) -> Layout:
    """Return what a weights file of a model holds.

    Args:
        root: The model.
        keras2: Whether Keras 2 (``tf_keras``) writes the file.

    Raises:
        StoreError: If layers nest deeper than any real model's.
    """
    places = tuple(_walk(root, "", keras2=keras2, trainable=True, built=True, depth=0))
    chains = _chains((place.group, place.layer.name) for place in places)
    found = [
        Variable(
            path=_dataset(place.group, own.key),
            name=_join(chains[place.group], own.name),
            role=own.role,
            trainable=own.trainable and place.trainable,
            layer=place.layer,
            same_as=_dataset(_join(place.group, own.same_as[0]), own.same_as[1]) if own.same_as else None,
        )
        for place in places
        for own in place.variables
    ]
    names = _unique({variable.path: variable.name for variable in found})
    variables = tuple(
        Variable(v.path, names[v.path], v.role, v.trainable, v.layer, v.same_as) if names[v.path] != v.name else v
        for v in found
    )
    return Layout(variables, chains, tuple(place.group for place in places if not place.known))


def name_tree(groups: Mapping[str, Group], known: Layout | None = None) -> dict[str, tuple[str, Role]]:
    """Return the canonical name and the role of every dataset of a weights file.

    Names of layers come from the attributes, else from the group's place; names of variables from the class in the group's place,
    their number, shapes and dtypes, wherever these leave one possibility. Else the key stays the name (``norm/0``). The state of
    optimizers and metrics keeps its path as name, apart from ``optimizer/iteration`` and ``optimizer/learning_rate``; both have the
    role ``OPTIMIZER``, since neither is part of what the model computes.

    Args:
        groups: Every group of the file that has a ``vars`` group, empty or not, by its path without ``vars`` (the root's is "").
            Groups that are not listed count as mere containers (``layers``, ``cells``).
        known: The layout of the same model where there is a configuration. It decides for groups that hold the keys that it expects.

    Returns:
        By path (``layers/dense_1/vars/0``), in the order of `groups`. Names are unique.
    """
    keras2 = bool(groups) and all(group.name is None for group in groups.values())
    expected = _by_group(known) if known else {}
    training = {path for path in groups if _is_training_state(path, groups)}
    # Known chains come first: Keras numbers the layers that a layer makes inside itself through the whole session.
    layers = [(path, group.name) for path, group in groups.items() if path not in training]
    chains = _chains(layers, known.groups if known else {})
    named: dict[str, tuple[str, Role]] = {}
    for path, group in groups.items():
        planned = expected.get(path, {})
        if path in training:
            own = _training_state(path, group, keras2)
            chain = _join(_parent_chain(path, chains), _below_parent(path, chains))
        elif planned.keys() == group.variables.keys():
            own = {key: (v.name.rpartition("/")[2], v.role) for key, v in planned.items()}
            chain = chains[path]
        elif _is_optimizer(group):
            own = {key: (key, Role.COUNTER) for key in group.variables}
            chain = chains[path]
        else:
            own = _guess(path, group, groups)
            chain = chains[path]
        for key in group.variables:
            leaf, role = own.get(key, (key, Role.WEIGHT))
            named[_dataset(path, key)] = (_join(chain, leaf), role)
    names = _unique({path: name for path, (name, _) in named.items()})
    return {path: (names[path], role) for path, (_, role) in named.items()}


# The layout that a configuration implies ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    group: str
    layer: Layer
    variables: tuple[Own, ...]
    trainable: bool
    known: bool


def _walk(layer: Layer, group: str, *, keras2: bool, trainable: bool, built: bool, depth: int) -> Iterator[_Place]:
    if depth > MAX_DEPTH:
        raise StoreError(f"layers nest more than {MAX_DEPTH} deep below {layer.name!r}; Keras did not write this model")
    trainable = trainable and layer.config.get("trainable") is not False
    own = own_variables(layer, keras2=keras2)
    inner = _in_graph(layer.graph) if layer.graph is not None else children(layer, keras2=keras2)
    known = own is not None and inner is not None
    yield _Place(group, layer, (own or ()) if built else (), trainable, known)
    for child in inner or ():
        yield from _walk(
            child.layer,
            _join(group, child.attribute),
            keras2=keras2,
            trainable=trainable,
            built=built and child.built,
            depth=depth + 1,
        )


def _in_graph(graph: Graph) -> tuple[Child, ...]:
    """Return the layers of a model as Keras saves them: ``model.layers``, which leaves out operations and a chain's input."""
    found = [inner for inner in graph.layers if not _is_operation(inner)]
    if graph.sequential and found and found[0].class_name == "InputLayer":
        found = found[1:]
    return tuple(Child(f"layers/{key}", inner) for key, inner in zip(container_keys(found), found, strict=True))


def _is_operation(layer: Layer) -> bool:
    """``x + 1`` in a graph is listed among the layers, called ``Add`` like the layer, but belongs to another module."""
    return layer.module.startswith(("keras.src.ops", "keras.ops"))


def _by_group(known: Layout) -> dict[str, dict[str, Variable]]:
    found: dict[str, dict[str, Variable]] = {}
    for variable in known.variables:
        group, key = _split(variable.path)
        found.setdefault(group, {})[key] = variable
    return found


# Paths and names ----------------------------------------------------------------------------------------------------


def _join(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _dataset(group: str, key: str) -> str:
    return _join(group, "vars", key)


def _split(path: str) -> tuple[str, str]:
    group, _, key = path.rpartition("/")
    return group.removesuffix("vars").removesuffix("/"), key


def _parent(path: str, groups: Mapping[str, object]) -> str:
    """Return the nearest group above that is a layer's, or the root."""
    while path:
        path = path.rpartition("/")[0]
        if path in groups:
            return path
    return ""


def _chains(named: Iterable[tuple[str, str | None]], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the chain of layer names of every group, given its own name and the chains that are known; the root's is empty.

    Two layers of one name below one parent, which Keras allows in lists of cells, get their keys added: ``cell@lstm_cell_1``.
    """
    names = dict(named)
    parents = {path: _parent(path, names) for path in names}
    own = {path: name or path.rpartition("/")[2] for path, name in names.items()}
    count = Counter((parents[path], own[path]) for path in names if path)
    chains: dict[str, str] = {path: chain for path, chain in (known or {}).items() if path in names}
    # Parents first, whatever the order of the groups.
    for path in sorted(names, key=lambda path: path.count("/") + bool(path)):
        if not path or path in chains:
            chains.setdefault(path, "")
            continue
        name = own[path]
        if count[parents[path], name] > 1:
            name = f"{name}@{path.rpartition('/')[2]}"
        chains[path] = _join(chains.get(parents[path], ""), name)
    return {path: chains[path] for path in names}


def _unique(names: Mapping[str, str]) -> Mapping[str, str]:
    """Return names by path, those that occur twice with the path added."""
    count = Counter(names.values())
    if len(count) == len(names):
        return names
    return {path: f"{name}@{path.replace('/', '.')}" if count[name] > 1 else name for path, name in names.items()}


def _parent_chain(path: str, chains: Mapping[str, str]) -> str:
    return chains.get(_parent(path, chains), "")


def _below_parent(path: str, chains: Mapping[str, str]) -> str:
    return path[len(_parent(path, chains)) :].lstrip("/")


# What a file without a configuration shows --------------------------------------------------------------------------

_TRAINING = frozenset({"optimizer", "metrics", "_metrics", "_compile_metrics", "_loss_tracker", "loss_tracker"})
"""Attributes of a model that hold what only training needs."""


def _is_training_state(path: str, groups: Mapping[str, Group]) -> bool:
    parts = path.split("/")
    for end, part in enumerate(parts):
        above = "/".join(parts[:end])
        if part in _TRAINING and (not above or above in groups):
            return True
    return False


_OPTIMIZERS = frozenset(
    {
        *(
            "adadelta",
            "adafactor",
            "adagrad",
            "adam",
            "adamax",
            "adam_w",
            "ftrl",
            "lamb",
            "lion",
            "loss_scale_optimizer",
        ),
        *("muon", "nadam", "rm_sprop", "schedule_free_adam_w", "sgd"),
    }
)
"""What Keras calls its optimizers, up to a number."""


def _is_optimizer(group: Group) -> bool:
    """Return whether a group is an optimizer's that a model keeps beside the one it was compiled with, as adversarial ones do.

    Its state belongs to one training, and Keras wants it when it loads the model.
    """
    stem, _, number = (group.name or "").rpartition("_")
    name = stem if stem and number_in(number) is not None else group.name
    step, rate = group.variables.get("0"), group.variables.get("1")
    return (
        name in _OPTIMIZERS and step in (((), "int64"), ((), "int32")) and (rate is None or rate[1].startswith("float"))
    )


def _training_state(path: str, group: Group, keras2: bool) -> dict[str, tuple[str, Role]]:
    """Keras 3 keeps the learning rate second, unless a schedule gives it; Keras 2 does not keep it."""
    names = {key: key for key in group.variables}
    if path.rpartition("/")[2] == "optimizer" and "0" in names and group.variables["0"][0] == ():
        names["0"] = "iteration"
        if not keras2 and "1" in names and group.variables["1"] == ((), "float32"):
            names["1"] = "learning_rate"
    return {key: (name, Role.OPTIMIZER) for key, name in names.items()}


_CLASSES = {key_of_class(name): name for name in sorted(class_names())}

_ATTENTION_PARTS = frozenset(
    f"{prefix}{part}_dense" for prefix in ("", "_") for part in ("query", "key", "value", "output", "gate")
)


def _guess(path: str, group: Group, groups: Mapping[str, Group]) -> dict[str, tuple[str, Role]]:
    """Return what the class in a group's place says of its variables: names and roles on which all its forms agree."""
    keys = sorted(group.variables, key=lambda key: (number_in(key) is None, number_in(key) or 0, key))
    if keys == ["idf_weights"]:
        return {"idf_weights": ("idf_weights", Role.TABLE)}
    found = [form for form in _forms(path, groups) if _fits(form, keys, group)]
    result: dict[str, tuple[str, Role]] = {}
    for place, key in enumerate(keys):
        names = {form[place].name for form in found}
        roles = {form[place].role for form in found}
        result[key] = (
            next(iter(names)) if len(names) == 1 else key,
            next(iter(roles)) if len(roles) == 1 else _role_by_dtype(group.variables[key]),
        )
    return result


def _forms(path: str, groups: Mapping[str, Group]) -> Sequence[tuple[Own, ...]]:
    place = path.rpartition("/")[2]
    if place in _ATTENTION_PARTS:
        return variants("EinsumDense")
    if place == "cell":
        return variants("LSTMCell")
    if place == "layer":
        # A wrapped layer's place does not tell its class, but as a rule its name does.
        name = groups[path].name or ""
        return variants(_class(name))
    if _class(place) == "SpectralNormalization":
        return tuple(
            (Own("0", name, same_as=("layer", "0")), Own("1", "vector_u", Role.STATISTIC, trainable=False))
            for name in ("kernel", "embeddings")
        )
    return variants(_class(place))


def _class(place: str) -> str:
    stem, _, number = place.rpartition("_")
    return _CLASSES.get(stem if number_in(number) is not None and stem else place, "")


def _fits(form: Sequence[Own], keys: Sequence[str], group: Group) -> bool:
    if [own.key for own in form] != list(keys):
        return False
    kinds = {own.name: group.variables[own.key] for own in form}
    for own in form:
        dtype = group.variables[own.key][1]
        if dtype != own.codes and (own.codes or _is_code(dtype)) and own.role is not Role.COUNTER:
            return False
    shapes = {name: shape for name, (shape, _) in kinds.items()}
    return len(shapes.get("kernel", (0, 0))) >= 2 and _is_recurrent(shapes)


def _is_code(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def _is_recurrent(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """The kernels of a cell have one rank and the same last axis, and so has the bias."""
    recurrent = shapes.get("recurrent_kernel")
    if recurrent is None:
        return True
    last = {shape[-1:] for shape in shapes.values()}
    return len(recurrent) == len(shapes["kernel"]) and len(last) == 1


def _role_by_dtype(kind: tuple[tuple[int, ...], str]) -> Role:
    """An integer in a class that nobody knows is no weight: eight bits are a code, two unsigned numbers Keras's seed."""
    shape, dtype = kind
    if dtype in ("int8", "uint8") or dtype.startswith("float8"):
        return Role.QUANTIZED
    if dtype == "uint32" and shape == (2,):
        return Role.SEED
    return Role.COUNTER if _is_code(dtype) or dtype == "bool" else Role.WEIGHT

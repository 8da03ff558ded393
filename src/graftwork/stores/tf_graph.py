"""Names and roles of the tensors of a TensorFlow checkpoint, of which only the object graph of TensorFlow 2 says something.

An object checkpoint names a value by the path to it (``model/_operations/1/_kernel/.ATTRIBUTES/VARIABLE_VALUE``), which counts layers.
Its object graph gives the variable's own name, which is the canonical one, unless another variable has the same, or nobody
named it: then its path is. In a checkpoint of TensorFlow 1 the key is the name.
"""

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence

from graftwork.stores.safetensors import roles_of
from graftwork.stores.tf_bundle import QUANTIZED, Stored
from graftwork.stores.tf_protos import Node, prune_graph
from graftwork.tensor import Role, TensorSpec

FIRST, SECOND = "variables/", "_all_variables/"
"""How the keys of variables that Keras 3 exports begin, and those of their second copies."""

METRICS = "keras_api/metrics/"
"""How the keys of what metrics of Keras 2 count begin in a SavedModel."""

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""Key of the object graph."""

UNNAMED = "Variable"
"""What TensorFlow 2 calls every variable that nobody named."""

ATTRIBUTES = "/.ATTRIBUTES/"
VALUE = "VARIABLE_VALUE"

SLOT = re.compile(
    r"(?:.*[_.-])?(?:AMSGrad|AdaMax|Adadelta|Adagrad|AdagradDA|Adam|AdamW|Ftrl|LAMB|LARS|Lion|Momentum|Nadam|ProximalAdagrad|RMSProp|SGD)"
    r"(?:Optimizer)?(?:[_.-].*)?",
    re.IGNORECASE,
)
"""Last parts of the names of an optimizer's slots in TensorFlow 1, behind the variable's own name; users put words before and behind."""

AVERAGE = re.compile(
    r"(?:.*[_.-])?(?:ExponentialMovingAverage|moving_average|average|ema|shadow)(?:[_.-].*)?", re.IGNORECASE
)
"""Last parts of the names of moving averages, which stand behind variables as slots do, and are weights."""

OPTIMIZER = re.compile(r"(?:.*/)?(?:beta[12]_power|loss_scale|current_loss_scale|good_steps)(?:_\d+)?")
"""What else an optimizer of TensorFlow 1 keeps."""

OWN = ("iter", "learning_rate", "decay", "momentum", "beta_1", "beta_2", "rho")
"""The names by which optimizers of Keras 2 referred to numbers of theirs; one that counts has two of them."""

COUNT = "_iterations"
"""The name by which newer ones refer to how often they have been called. Only without a schedule do they keep a learning rate."""

NAMED = re.compile(r"optimizer|.*_optimizer")
"""The names by which users let a checkpoint refer to optimizers, their own ones too."""

TRAINED = "_trainable_variables"
"""The name by which an optimizer of Keras 3 refers to the variables that it trains."""


def names_of(keys: Iterable[str], nodes: Sequence[Node]) -> dict[str, str]:
    """Return the canonical name of every tensor by its key."""
    given = {a.key: a.full_name for node in nodes for a in node.attributes if a.name == VALUE}
    given = {key: given[key] for key in keys if given.get(key, "") not in ("", UNNAMED)}
    count = Counter(given.values())
    names = {key: given[key] if key in given and count[given[key]] == 1 else _path(key) for key in keys}
    twice = Counter(names.values())
    return {key: name if twice[name] == 1 else key for key, name in names.items()}


def second_copies(tensors: Mapping[str, Stored], nodes: Sequence[Node]) -> set[str]:
    """Return the keys of variables that Keras 3 exports a second time: of the name, type, shape and CRC of a first copy."""
    given = {a.key: a.full_name for node in nodes for a in node.attributes if a.key in tensors and a.full_name}

    def what(key: str) -> tuple[str, int, tuple[int, ...], tuple[int, ...]]:
        found = tensors[key]
        return given[key], found.code, found.shape, tuple(part.entry.crc for part in found.parts)

    first = {what(key) for key in given if key.startswith(FIRST)}
    return {key for key in given if key.startswith(SECOND) and what(key) in first}


def _path(key: str) -> str:
    """Return the path to a value's object, which most have only one of."""
    path, found, leaf = key.rpartition(ATTRIBUTES)
    return path if found and path and leaf == VALUE else key


def roles_in(names: Mapping[str, str], tensors: Mapping[str, Stored], nodes: Sequence[Node]) -> dict[str, Role]:
    """Return the role of every tensor by its canonical name.

    Args:
        names: Canonical name of every tensor that is no text, by its key.
        tensors: All tensors by their keys.
        nodes: The object graph, empty in TensorFlow 1.
    """
    found = roles_of({name: tensors[key].dtype for key, name in names.items()})
    optimizers = optimizer_keys(nodes)
    for key, name in names.items():
        leaf = name.rpartition("/")[2]
        if tensors[key].code in QUANTIZED:
            found[name] = Role.QUANTIZED
        elif key in optimizers or (not nodes and (OPTIMIZER.fullmatch(name) or slot_owner(name, names))):
            found[name] = Role.OPTIMIZER
        elif nodes and ATTRIBUTES in key and not key.endswith(ATTRIBUTES + VALUE):
            found[name] = Role.TABLE
        elif leaf in ("global_step", "save_counter") or (nodes and key.startswith(METRICS)):
            found[name] = Role.COUNTER
    return found


def slot_owner(name: str, names: Container[str]) -> str | None:
    """Return the variable of TensorFlow 1 for which an optimizer keeps this one: its name has the word for a slot behind it."""
    owner, _, leaf = name.rpartition("/")
    variable, _, suffix = name.rpartition("_slot_")
    if owner in names and (SLOT.fullmatch(leaf) or _is_one_of_two(owner, leaf, names)):
        return owner
    return variable if variable in names and suffix in ("m", "v", "vr", "vc") else None


def _is_one_of_two(owner: str, leaf: str, names: Container[str]) -> bool:
    """Return whether a variable has a word behind it twice (``w/mine`` and ``w/mine_1``), as optimizers under any name make them."""
    words = {leaf, re.sub(r"_\d+$", "", leaf)}
    return not AVERAGE.fullmatch(leaf) and any(
        f"{owner}/{word}" in names and f"{owner}/{word}_1" in names for word in words
    )


def maybe_slots(specs: Mapping[str, TensorSpec]) -> list[str]:
    """Return the weights of TensorFlow 1 that stand behind another of the same shape: slots under a name of their own, maybe."""
    return [
        name
        for name, spec in specs.items()
        if spec.role is Role.WEIGHT
        and (owner := specs.get(name.rpartition("/")[0])) is not None
        and owner.shape == spec.shape
        and not AVERAGE.fullmatch(name.rpartition("/")[2])
    ]


def optimizer_keys(nodes: Sequence[Node]) -> set[str]:
    """Return the keys of what optimizers keep: all that no way leads to but through one.

    An optimizer refers to the variables that it trains, too, and the shortest path to them may lead through it. A root is none for the
    names that a user has for things in it.
    """
    slots = {holder for node in nodes for _, _, holder in node.slots}
    seen = {0} if nodes else set()
    seen |= {variable for node in nodes for variable, _, _ in node.slots}
    optimizers = optimizers_of(nodes)
    waiting = list(seen)
    while waiting:
        number = waiting.pop()
        for child, name in nodes[number].children:
            if child not in seen and child not in slots and (name == TRAINED or number not in optimizers):
                seen.add(child)
                waiting.append(child)
    seen -= optimizers
    return {a.key for number, node in enumerate(nodes) if number not in seen for a in node.attributes}


def optimizers_of(nodes: Sequence[Node]) -> set[int]:
    """Return the numbers of the objects that are optimizers: by what they keep, or by what the root calls them."""
    found = {number for number, node in enumerate(nodes) if _is_optimizer(node, is_root=not number)}
    return found | {child for child, name in (nodes[0].children if nodes else ()) if NAMED.fullmatch(name)}


def _is_optimizer(node: Node, *, is_root: bool) -> bool:
    names = {name for _, name in node.children}
    return bool(node.slots) or COUNT in names or (not is_root and OWN[0] in names and len(names.intersection(OWN)) > 1)


def pruned(nodes: Sequence[Node], kept: Iterable[str]) -> bytes:
    """Return an object graph without the values that are not in `kept`, the keys of tensors.

    A table has one key in the graph, and behind it ``-keys`` and ``-values`` as keys of tensors.
    """
    keys = set(kept)
    return prune_graph(nodes, keys | {key.rpartition("-")[0] for key in keys})

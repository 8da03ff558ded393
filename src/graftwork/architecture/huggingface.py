"""Which fields of two Hugging Face ``config.json`` files must agree for their weights to be merged, and which count layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graftwork.architecture.transformers import VERSION, alike, leaves_out

HARMLESS = frozenset(
    {
        "_name_or_path",
        "_attn_implementation_autoset",
        "architectures",
        "attn_implementation",
        "auto_map",
        "dtype",
        "finetuning_task",
        "gradient_checkpointing",
        "initializer_range",
        "output_attentions",
        "output_hidden_states",
        "problem_type",
        "pruned_heads",
        "task_specific_params",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    }
)
"""Fields that say where a model came from or how it is run, not what it computes."""

LABELS = frozenset({"id2label", "label2id"})
"""Fields that name classes; they differ as a whole."""

LAYER_COUNTS = frozenset(
    {"num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"}
)
"""Fields that say how many layers a model has."""

LAYER_NUMBERS = frozenset({"mlp_only_layers", "full_attn_idxs", "attn_layer_indices", "cross_attention_layers"})
"""Fields that list the numbers of some layers."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field that has two values.

    Attributes:
        field: Its name, those of parts with a dot.
        a: Its value in the first configuration, None where it is not there.
        b: Its value in the second.
        left_out: Whether one of them does not have it, being of another version of transformers, which may not know it.
    """

    field: str
    a: Any
    b: Any
    left_out: bool = False

    def describe(self, label_a: str, label_b: str) -> str:
        """Return the difference as a sentence."""
        return f"config.json has {self.field} {_short(self.a)} in {label_a} but {_short(self.b)} in {label_b}"


def differences(a: Any, b: Any) -> list[FieldDifference]:
    """Return the fields of two configurations that change what the model computes and differ, those of their parts with a dot.

    What versions of transformers spell in two ways is compared in one. A field that only one of them has counts when its value is neither
    empty nor false. Dropout rates and what only concerns generation do not change inference.
    """
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return [] if a == b else [FieldDifference("config.json", a, b)]
    versions = a.get(VERSION), b.get(VERSION)
    return _differences(a, b, "", all(versions) and versions[0] != versions[1])


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], part: str, other_version: bool) -> list[FieldDifference]:
    a, b = alike(a, b)
    found = []
    for name in [*a, *(n for n in b if n not in a)]:
        if name in HARMLESS or "dropout" in name or name.endswith("_token_id"):
            continue
        x, y, field = a.get(name), b.get(name), part + name
        if name not in LABELS and isinstance(x, Mapping) and isinstance(y, Mapping):
            found += _differences(x, y, f"{field}.", other_version)
        elif x != y and not (not x and not y):
            one_alone = (name in a) != (name in b)
            found.append(FieldDifference(field, x, y, one_alone and other_version and leaves_out(field, x or y)))
    return found


def note_on(fields: Sequence[FieldDifference], label_a: str, label_b: str) -> list[str]:
    """Return what to say of those fields that a configuration of another version does not have."""
    left_out = [d for d in fields if d.left_out]
    if not left_out:
        return []
    told = ", ".join(
        f"{d.field} {_short(d.b if d.a is None else d.a)} of {label_b if d.a is None else label_a}" for d in left_out
    )
    return [
        f"{label_b}: config.json is of another version of transformers than in {label_a}, and only one of them has {told}; "
        "the other is taken to mean the same"
    ]


def is_among(field: str, names: Iterable[str]) -> bool:
    """Return whether a field is named, or the part of the configuration that it belongs to."""
    return any(field == name or field.startswith(f"{name}.") for name in names)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def count_fields(config: Any, count: int) -> list[str]:
    """Return the fields that say that a model has `count` layers, those of its parts with a dot."""
    return [
        ".".join(path)
        for path, value in _fields(config)
        if path[-1] in LAYER_COUNTS and value == count and not isinstance(value, bool)
    ]


def with_layers(config: Any, count: int, parts: Sequence[tuple[Any, Sequence[int]]]) -> Any:
    """Return a configuration for a model made of layers of others.

    Fields that count layers say how many there are now. Lists with one entry for each layer, and lists of layers' numbers, are
    put together from those of the models that the layers come from.

    Args:
        config: The configuration of which everything else is kept.
        count: How many layers it says there are.
        parts: The configuration that each run of layers comes from, and the numbers of the layers there.
    """
    total = sum(len(layers) for _, layers in parts)
    found = [dict(_fields(part)) for part, _ in parts]

    def follow(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {key: follow(inner, (*path, key)) for key, inner in value.items()}
        if path[-1:] and path[-1] in LAYER_COUNTS and value == count and not isinstance(value, bool):
            return total
        if not isinstance(value, list):
            return value
        theirs = [fields.get(path) for fields in found]
        if path[-1] in LAYER_NUMBERS:
            return _numbers(theirs, [layers for _, layers in parts])
        if len(value) == count and ("layer" in path[-1] or path[-1].endswith(("_types", "_pattern"))):
            return [
                each[layer]
                for each, (_, layers) in zip(theirs, parts, strict=True)
                for layer in layers
                if isinstance(each, list) and layer < len(each)
            ]
        return value

    return follow(config, ())


def _numbers(lists: Sequence[Any], layers: Sequence[Sequence[int]]) -> list[int]:
    kept, at = [], 0
    for chosen, numbers in zip(lists, layers, strict=True):
        kept += [at + j for j, number in enumerate(numbers) if isinstance(chosen, list) and number in chosen]
        at += len(numbers)
    return kept


def _fields(config: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Return every field of a configuration and of its parts, by the names that lead to it."""
    if not isinstance(config, Mapping):
        return []
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in config.items():
        found.append(((*path, str(key)), value))
        found += _fields(value, (*path, str(key)))
    return found

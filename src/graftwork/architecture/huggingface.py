"""Which fields of two Hugging Face ``config.json`` files must agree for their weights to be merged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field that has two values."""

    field: str
    a: Any
    b: Any

    def describe(self, label_a: str, label_b: str) -> str:
        """Return the difference as a sentence."""
        return f"config.json has {self.field} {_short(self.a)} in {label_a} but {_short(self.b)} in {label_b}"


def differences(a: Any, b: Any) -> list[FieldDifference]:
    """Return the fields of two configurations that change what the model computes and differ.

    A field that only one of them has counts when its value is neither empty nor false: older versions leave new fields out.
    Dropout rates and what only concerns generation do not change inference.
    """
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return [] if a == b else [FieldDifference("config.json", a, b)]
    found = []
    for name in [*a, *(n for n in b if n not in a)]:
        if name in HARMLESS or "dropout" in name or name.endswith("_token_id"):
            continue
        x, y = a.get(name), b.get(name)
        if x != y and not (not x and not y):
            found.append(FieldDifference(name, x, y))
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"

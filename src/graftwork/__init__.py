"""Make one model of several trained Keras or TensorFlow models.

    >>> import graftwork as gw
    >>> gw.merge(["birds.keras", "flowers.keras"], method="linear", output="both.keras")   # doctest: +SKIP

Names are handed on lazily (PEP 562), so that importing the package costs nothing; neither this nor the weight-only verbs load Keras
or TensorFlow.
"""

import importlib
from typing import TYPE_CHECKING, Any

from graftwork.lazy import names_in

__version__ = "0.1.0"

if TYPE_CHECKING:
    from graftwork.api import (
        assemble,
        chain,
        check,
        convert,
        copy,
        diff,
        distill,
        draw,
        ensemble,
        evaluate,
        export,
        extract,
        extract_lora,
        finetune,
        fisher,
        freeze,
        fuse,
        graft,
        gram,
        insert,
        inspect,
        load,
        merge,
        plan,
        plan_merge,
        recalibrate,
        remove,
        rename,
        replace,
        run,
        split,
        stack,
        swap_head,
        to_logits,
        to_probabilities,
        unfreeze,
        verify,
    )
    from graftwork.api import checkpoints as checkpoints
    from graftwork.api import savedmodel as savedmodel
    from graftwork.errors import (
        DataError,
        GraftworkError,
        MismatchError,
        NonFiniteError,
        OptionError,
        OutputError,
        RecipeError,
        StoreError,
        UnknownNameError,
    )
    from graftwork.methods.arrays import merge_arrays
    from graftwork.recipe import Recipe, schema

_HOMES = {
    "api": (
        "assemble",
        "chain",
        "check",
        "convert",
        "copy",
        "diff",
        "distill",
        "draw",
        "ensemble",
        "evaluate",
        "export",
        "extract",
        "extract_lora",
        "finetune",
        "fisher",
        "freeze",
        "fuse",
        "graft",
        "gram",
        "insert",
        "inspect",
        "load",
        "merge",
        "plan",
        "plan_merge",
        "recalibrate",
        "remove",
        "rename",
        "replace",
        "run",
        "split",
        "stack",
        "swap_head",
        "to_logits",
        "to_probabilities",
        "unfreeze",
        "verify",
    ),
    "errors": (
        "DataError",
        "GraftworkError",
        "MismatchError",
        "NonFiniteError",
        "OptionError",
        "OutputError",
        "RecipeError",
        "StoreError",
        "UnknownNameError",
    ),
    "methods.arrays": ("merge_arrays",),
    "recipe": ("Recipe", "schema"),
}
_MODULES = ("checkpoints", "savedmodel")
"""Names that stand for a module of `graftwork.api`."""

_named = names_in(__name__, _HOMES)

__all__ = [
    "DataError",
    "GraftworkError",
    "MismatchError",
    "NonFiniteError",
    "OptionError",
    "OutputError",
    "Recipe",
    "RecipeError",
    "StoreError",
    "UnknownNameError",
    "__version__",
    "assemble",
    "chain",
    "check",
    "checkpoints",
    "convert",
    "copy",
    "diff",
    "distill",
    "draw",
    "ensemble",
    "evaluate",
    "export",
    "extract",
    "extract_lora",
    "finetune",
    "fisher",
    "freeze",
    "fuse",
    "graft",
    "gram",
    "insert",
    "inspect",
    "load",
    "merge",
    "merge_arrays",
    "plan",
    "plan_merge",
    "recalibrate",
    "remove",
    "rename",
    "replace",
    "run",
    "savedmodel",
    "schema",
    "split",
    "stack",
    "swap_head",
    "to_logits",
    "to_probabilities",
    "unfreeze",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"graftwork.api.{name}")
    return _named(name)


def __dir__() -> list[str]:
    return sorted(__all__)

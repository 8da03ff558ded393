"""What users call. Every function here is also a command and, where it makes something, a recipe's step.

A model argument is a path or a live `keras.Model`. With `output` the result is written there and its path returned; without
it a live model is returned. Sources are never changed. Each name comes from a file of its own kind of work, which is loaded with it.
"""

from typing import TYPE_CHECKING

from graftwork.lazy import names_in

if TYPE_CHECKING:
    from graftwork.api.assembling import assemble
    from graftwork.api.compose import (
        chain,
        ensemble,
        extract,
        freeze,
        fuse,
        graft,
        insert,
        make,
        remove,
        rename,
        replace,
        split,
        stack,
        swap_head,
        to_logits,
        to_probabilities,
        unfreeze,
    )
    from graftwork.api.graphs import check, copy, draw, export, load
    from graftwork.api.headers import inspect
    from graftwork.api.knowledge import extract_lora, fisher, gram
    from graftwork.api.plans import PlanReport
    from graftwork.api.recipes import plan, run
    from graftwork.api.reports import CompositionReport
    from graftwork.api.training import distill, evaluate, finetune, recalibrate
    from graftwork.api.weights import convert, diff, merge, plan_merge, verify

HOMES = {
    "assembling": ("assemble",),
    "compose": (
        "chain",
        "ensemble",
        "extract",
        "freeze",
        "fuse",
        "graft",
        "insert",
        "make",
        "remove",
        "rename",
        "replace",
        "split",
        "stack",
        "swap_head",
        "to_logits",
        "to_probabilities",
        "unfreeze",
    ),
    "graphs": ("check", "copy", "draw", "export", "load"),
    "headers": ("inspect",),
    "knowledge": ("extract_lora", "fisher", "gram"),
    "plans": ("PlanReport",),
    "recipes": ("plan", "run"),
    "reports": ("CompositionReport",),
    "training": ("distill", "evaluate", "finetune", "recalibrate"),
    "weights": ("convert", "diff", "merge", "plan_merge", "verify"),
}
"""Which file each name comes from."""

__all__ = [
    "CompositionReport",
    "PlanReport",
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
    "make",
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
]

__getattr__ = names_in(__name__, HOMES)

"""What users call. Every function here is also a command and, where it makes something, a recipe's step.

A model argument is a path or a live `keras.Model`. With `output` the result is written there and its path returned; without
it a live model is returned. Sources are never changed.
"""

from graftwork.api.compose import chain, check, copy, load, make
from graftwork.api.knowledge import extract_lora, fisher, gram
from graftwork.api.plans import CompositionReport, PlanReport
from graftwork.api.recipes import plan, run
from graftwork.api.weights import assemble, convert, diff, inspect, merge, plan_merge, verify

__all__ = [
    "CompositionReport",
    "PlanReport",
    "assemble",
    "chain",
    "check",
    "convert",
    "copy",
    "diff",
    "extract_lora",
    "fisher",
    "gram",
    "inspect",
    "load",
    "make",
    "merge",
    "plan",
    "plan_merge",
    "run",
    "verify",
]

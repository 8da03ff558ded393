"""Graphs made of graphs: one file per verb, which registers itself when the room is imported; Keras is not imported by that."""

import importlib
import pkgutil

from graftwork.compose.base import VERBS, Composed, Member, Verb, get, verb

__all__ = ["VERBS", "Composed", "Member", "Verb", "get", "verb"]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

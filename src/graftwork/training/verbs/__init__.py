"""Every verb that works with data, one file each, which registers it beside those that compose graphs.

A verb's `compose` makes the architecture, of models with or without values, and refuses whatever does not fit, the data's columns
included; what it returns as `train` then works on the model with the data.
"""

import importlib
import pkgutil

from graftwork.compose import VERBS, Verb, get

__all__ = ["VERBS", "Verb", "get"]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

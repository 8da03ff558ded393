"""Every verb, one file each, which registers it: adding one is adding a file here, and a row in tests/test_composing.py."""

import importlib
import pkgutil

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

"""The configuration of a legacy ``.h5`` file, spelled as a ``.keras`` file needs it.

Keras 3 leaves the module out of a model's configuration in legacy files, and cannot find the class without it in a ``.keras`` file.
"""

from typing import Any

from graftwork.architecture.layer import MAX_DEPTH

MODULES: dict[str, dict[str, str | None]] = {
    "Functional": {"module": "keras.src.models.functional", "registered_name": "Functional"},
    "Model": {"module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"},
    "Sequential": {"module": "keras", "registered_name": None},
    "GroupedQueryAttention": {
        "module": "keras.layers",
        "class_name": "GroupQueryAttention",
        "registered_name": None,
    },
}


def with_modules(config: Any, depth: int = 0) -> Any:
    """Return a configuration in which every model, also inside others, says which module its class is in."""
    if depth > 8 * MAX_DEPTH:
        return config
    if isinstance(config, list):
        return [with_modules(item, depth + 1) for item in config]
    if not isinstance(config, dict):
        return config
    found = {key: with_modules(value, depth + 1) for key, value in config.items()}
    if "module" not in found and isinstance(found.get("config"), dict):
        found.update(MODULES.get(str(found.get("class_name")), {}))
    return found

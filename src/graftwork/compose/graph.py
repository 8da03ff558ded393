"""The graph inside a model: walking it, and running it anew on other tensors."""

from collections.abc import Mapping
from typing import Any

from graftwork.compose.naming import Names


def inline(model: Any, tensors: Mapping[str, Any], names: Names, prefix: str) -> dict[str, Any]:
    """Run a model's layers on tensors, so that they stand in the caller's graph instead of inside one layer.

    Args:
        model: A model that nobody else holds: its layers are renamed.
        tensors: One for each of its inputs, by name.
        names: The names in use.
        prefix: What the names of its layers begin with.

    Returns:
        The outputs by name.
    """
    raise NotImplementedError

"""Values as JSON has them."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """Return plain values with None for NaN and infinity, which JSON does not know: a distance or a loss may be one."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

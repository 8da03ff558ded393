"""Copies of live models that share nothing with their sources and compute the same to the last bit."""

import tempfile
from pathlib import Path
from typing import Any

from graftwork.models import live


def copy_model(model: Any, name: str | None = None, *, compiled: bool = False) -> Any:
    """Return an exact copy of a live model.

    Args:
        model: The source, which is left as it is.
        name: What the copy is called; by default as the source.
        compiled: Whether the copy is compiled as the source is, with its optimizer's state.

    Raises:
        StoreError: If Keras cannot save the model.
        OptionError: If the name cannot be a model's.
    """
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        path = Path(folder) / "copy.keras"
        live.save(model, path)
        return live.renamed(live.load(path, model, compiled=compiled), name)

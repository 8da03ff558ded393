"""Layers that remember the batch before: what they give depends on the order of samples, and so on how these are shuffled."""

from typing import Any

from graftwork.data import Samples
from graftwork.data.base import Stream
from graftwork.errors import OptionError
from graftwork.models.configuration import layers_of


def remembering(model: Any) -> str:
    """Return the layer of a model that keeps a state from batch to batch, as messages say it; "" if none does."""
    found = [layer for layer in layers_of(model) if getattr(layer, "stateful", False)]
    return f"layer {found[0].name!r} ({type(found[0]).__name__}) is stateful" if found else ""


def check_order(name: str, model: Any, data: Samples | Stream) -> None:
    """Refuse samples that come in an order that is drawn for a model that goes by the order.

    Args:
        name: What the model is called.
        model: The model.
        data: What it is shown.

    Raises:
        OptionError: If it is.
    """
    found = remembering(model)
    if found and isinstance(data, Samples):
        raise OptionError(
            f"{name}: {found}, so what it gives depends on the batch before, and samples come in another order in each epoch; make it "
            "with stateful=False, or give batches in their order (a stream)"
        )

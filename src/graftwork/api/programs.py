"""Looking into a SavedModel, with no more loaded than that needs."""

from os import PathLike
from pathlib import Path

from graftwork.report.program import SavedModelListing, list_program


def ls(path: str | PathLike[str], signature: str | None = None, *, tensors: bool = False) -> SavedModelListing:
    """Return what a SavedModel offers, without TensorFlow: signatures, variables, tables, assets, and what a bridge makes of it.

    Args:
        path: The directory of the SavedModel.
        signature: Only this signature; by default all.
        tensors: Also list the tensors inside signatures, by the names that `bridge` takes for ``at``.

    Raises:
        StoreError: If it is no SavedModel, or damaged.
        UnknownNameError: If it has no such signature.
    """
    return list_program(Path(path), signature, tensors=tensors)

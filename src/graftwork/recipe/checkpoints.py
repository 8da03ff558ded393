"""Steps that work on checkpoints: what each is asked for. How they are planned is told in `graftwork.ckpt`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from graftwork.errors import RecipeError
from graftwork.recipe.base import Name, as_tuple
from graftwork.recipe.declared import DeclaredStep
from graftwork.recipe.merge import MergeStep

CHECKPOINT_STEPS: dict[str, type["CheckpointStep"]] = {}
"""Every step that works on checkpoints, by its word."""


class CheckpointStep(DeclaredStep):
    """A step that makes a checkpoint of checkpoints; a kind of it is a class below this one, and is listed when it is declared."""

    kind: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """List the step."""
        CHECKPOINT_STEPS[cls.kind] = cls


class CkptAverage(MergeStep, CheckpointStep):
    """Average checkpoints, or merge them by any other method.

    Optimizer state is never averaged: it is dropped, or kept as it is in one of them. Counters and all else that is no floating-point
    number come from the model that lends names. None of the models' code is needed.
    """

    kind: ClassVar[str] = "ckpt_average"
    takes: ClassVar[tuple[str, ...]] = ("models", "base")
    flags: ClassVar[dict[str, tuple[str, ...]]] = {"options": ("--set",)}

    method: str = "linear"
    """Name of the merge method."""
    models: Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(as_tuple)]
    """The checkpoints, oldest first; with ``last``, the directory that holds them."""
    last: Annotated[int, Field(ge=1)] | None = None
    """Take so many of a directory's checkpoints, the last ones."""
    lender: Literal["first", "last"] = "last"
    """Which of them lends names, objects, texts and counters to the result: the ``first`` or the ``last``."""

    @model_validator(mode="before")
    @classmethod
    def _with_a_method(cls, data: Any) -> Any:
        """Say the method, by which options are told from fields."""
        return {"method": "linear", **data} if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _names_one_directory(self) -> "CkptAverage":
        if self.last is not None and (len(self.models) != 1 or self.files()):
            raise RecipeError(
                f"`last` takes one directory with checkpoints, but {len(self.models)} models are named"
                if len(self.models) != 1
                else f"method {self.method!r} needs a file for each checkpoint; name these instead of `last`"
            )
        return self

"""Steps that work on checkpoints: what each is asked for. How they are planned is told in `graftwork.checkpoints`."""

from typing import ClassVar

from graftwork.recipe.declared import DeclaredStep

CHECKPOINT_STEPS: dict[str, type["CheckpointStep"]] = {}
"""Every step that works on checkpoints, by its word."""


class CheckpointStep(DeclaredStep):
    """A step that makes a checkpoint of checkpoints; a kind of it is a class below this one, and is listed when it is declared."""

    kind: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """List the step."""
        CHECKPOINT_STEPS[cls.kind] = cls

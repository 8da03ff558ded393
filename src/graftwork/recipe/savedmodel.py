"""Steps that work on SavedModels: what each is asked for. How they are done is told in `graftwork.models.savedmodel`."""

from typing import ClassVar

from graftwork.recipe.declared import DeclaredStep

SAVEDMODEL_STEPS: dict[str, type["SavedModelStep"]] = {}
"""Every step that works on SavedModels, by its word."""


class SavedModelStep(DeclaredStep):
    """A step that works on SavedModels; a kind of it is a class below this one, and is listed when it is declared."""

    kind: ClassVar[str] = ""
    is_model: ClassVar[bool] = False

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """List the step."""
        SAVEDMODEL_STEPS[cls.kind] = cls

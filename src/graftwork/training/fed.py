"""What every verb takes that works with data: which columns of that are what, where the data does not tell itself."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from graftwork.compose.base import Verb
from graftwork.data import open_data
from graftwork.data.description import Columns


class Fed(Verb):
    """A verb that works with data; verbs are classes below this one, which has no word of its own.

    Attributes:
        alike: Those of its options that are data in the same form, which `x` and `y` are said of.
    """

    alike: ClassVar[tuple[str, ...]] = ("data", "validation")

    x: Columns | None = None
    """The columns of the inputs, where the data does not tell."""

    y: str | None = None
    """The column of the labels, where the data does not tell."""

    def given(self, known: Mapping[str, Any] = MappingProxyType({}), root: Path = Path()) -> Self:
        """Return the verb with its data open; what is open already stays so.

        Args:
            known: Data by the names that stand for it.
            root: What paths are relative to.

        Raises:
            DataError: If data cannot be read, or makes no sense.
            UnknownNameError: If there is no such column.
        """
        found: dict[str, Any] = {"x": None, "y": None}
        for name in self.fed:
            said = getattr(self, name)
            if said is not None:
                columns = {"x": self.x, "y": self.y} if name in self.alike else {}
                found[name] = open_data(known.get(said, said) if isinstance(said, str) else said, root=root, **columns)
        return self.model_copy(update=found)

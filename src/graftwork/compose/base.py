"""What a verb is: models go in that nobody else holds, one plain Functional model comes out.

A verb never reads the value of a weight. So the same code makes the result from live models and, for a plan, from models whose variables
have shapes and no values (`graftwork.models.skeleton`): whatever can be refused is refused there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from graftwork.errors import OptionError, UnknownNameError
from graftwork.models.savedmodel.answering import Answering

Tensors = Mapping[str, Any]
"""Keras tensors, or arrays, by the name of the port they stand at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A model that goes into a composition.

    Attributes:
        name: What it is called in options, messages and the result; no other member is called so.
        model: The live model, called by the same name. It was loaded or copied for the composition, which may do with it as it likes.
        source: Where it comes from, for messages.
        classes: Names of its classes in the order of its outputs, where they are known.
        copies: Further copies of the model, where the verb asks for them.
        role: Which of the verb's arguments it is; see `Verb.takes`.
        served: What a SavedModel became, where the verb takes such; None for other models.
    """

    name: str
    model: Any
    source: str = ""
    classes: tuple[str, ...] | None = None
    copies: tuple[Any, ...] = ()
    role: str = "models"
    served: Answering | None = None


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much is done so far and how much there is in all: bytes, or, where details stand behind a colon
(``train: epoch 3/10, loss 0.21``), steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What came out of work with data.

    Attributes:
        notes: What the user should know, one sentence each.
        tables: What was measured, by what it is about, as rows of plain values.
    """

    notes: tuple[str, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    """What a verb made.

    Attributes:
        model: A plain Functional model.
        reference: Gives, for inputs in the structure of the model's own, what its outputs should be: the members run one by one, without
            the graph that was made of them. None where there is no other way to tell.
        exact: Whether the two are equal to the last bit, since no arithmetic was added or reordered.
        classes: Names of the classes of its output, where they are known.
        notes: What the user should know, one sentence each.
        tables: What the verb decided, by what it is about, as rows of plain values: the mapping of classes and the like.
        more: Further models that the verb made, by name: the head of a `split`.
        finish: To be called once where there are values: what is done with them.
        filled: Variables of its own that `finish` fills with what the members bring.
        train: To be called once where there are values, after `finish`: works on the model with the verb's data.
    """

    model: Any
    reference: Callable[[Any], Any] | None = None
    exact: bool = False
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    finish: Callable[[], None] | None = None
    filled: tuple[Any, ...] = ()
    train: Callable[[Progress | None], Trained] | None = None


class Verb(BaseModel):
    """One way to make a model of models; a verb is a class below this one.

    Its fields are its options as the Python API, the command line and recipes spell them.

    Attributes:
        kind: The word for it.
        takes: Names of the arguments that are models, in the order of `compose`'s members. None where an option names them.
        lists: Those of them that are lists of any length; the others are one model each.
        optional: Those of them that may be missing.
        flags: Those of them that are options on the command line, and the words for these.
        served: Those of its arguments that may be SavedModels; its option `signatures` says which signature of each is asked.
        fed: The options that are data: whatever `graftwork.data.open_data` opens, and in recipes a name under ``data``.
        relative: The options that are paths of files or directories, where they are texts; in recipes relative to the recipe.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True, use_attribute_docstrings=True
    )

    kind: ClassVar[str]
    takes: ClassVar[tuple[str, ...]] = ("models",)
    lists: ClassVar[tuple[str, ...]] = ("models",)
    optional: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    served: ClassVar[tuple[str, ...]] = ()
    fed: ClassVar[tuple[str, ...]] = ()
    relative: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def roles(cls, given: Mapping[str, Any]) -> list[tuple[str, Any]]:
        """Return every model that is given, with the argument that it is, in the order of the arguments.

        Args:
            given: One model for each argument, or several for a list.

        Raises:
            OptionError: If one is missing.
        """
        found: list[tuple[str, Any]] = []
        for name in cls.takes:
            value = given.get(name)
            if value is None and name not in cls.optional:
                raise OptionError(f"{cls.kind}: {name!r} is missing")
            models = list(value) if name in cls.lists and isinstance(value, list | tuple) else [value]
            found += [(name, model) for model in models if model is not None]
        return found

    def copies(self) -> Mapping[str, int]:
        """Return how many copies of a model it needs, by the name of the member; one of each that is not named."""
        return {}

    def below(self, root: Path) -> Self:
        """Return the verb with its files found from a directory; ``~`` is the user's home."""
        given = {name: value for name in self.relative if isinstance(value := getattr(self, name), str) and value}
        return self.model_copy(update={name: str(root / Path(value).expanduser()) for name, value in given.items()})

    def compose(self, members: Sequence[Member]) -> Composed:
        """Make the result of the members.

        Raises:
            MismatchError: If they do not go together.
            OptionError: If an option makes no sense for them.
            UnknownNameError: If an option names what is not there.
        """
        raise NotImplementedError


VERBS: dict[str, type[Verb]] = {}
"""Every verb by its word."""

V = TypeVar("V", bound=type[Verb])


def verb(cls: V) -> V:
    """Register a verb.

    Raises:
        ValueError: If there is one of this word.
    """
    if cls.kind in VERBS:
        raise ValueError(f"a verb is called {cls.kind!r} already")
    VERBS[cls.kind] = cls
    return cls


def get(kind: str) -> type[Verb]:
    """Return a verb by its word.

    Raises:
        UnknownNameError: If there is none.
    """
    if kind not in VERBS:
        raise UnknownNameError("verb", kind, VERBS)
    return VERBS[kind]

"""Steps that work on checkpoints: what each is asked for. How they are planned is told in `graftwork.ckpt`."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from graftwork.errors import OptionError, RecipeError, UnknownNameError
from graftwork.recipe.base import Name, as_tuple
from graftwork.recipe.declared import DeclaredStep, Names, Words
from graftwork.recipe.merge import Merging

CHECKPOINT_STEPS: dict[str, type["CheckpointStep"]] = {}
"""Every step that works on checkpoints, by its word."""


class CheckpointStep(DeclaredStep):
    """A step that makes a checkpoint of checkpoints; a kind of it is a class below this one, and is listed when it is declared."""

    kind: ClassVar[str] = ""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        """List the step."""
        CHECKPOINT_STEPS[cls.kind] = cls


class CkptAverage(Merging, CheckpointStep):
    """Average checkpoints, or merge them by any other method.

    Optimizer state is never averaged: it is dropped, or kept as it is in one of them. Counters and all else that is no floating-point
    number come from the model that lends names. None of the models' code is needed.
    """

    kind: ClassVar[str] = "ckpt_average"
    takes: ClassVar[tuple[str, ...]] = ("models", "base")
    flags: ClassVar[dict[str, tuple[str, ...]]] = {"options": ("--set",), "method": ("-m", "--method")}

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


def _as_rules(value: Any) -> Any:
    """Return rules as a list of texts: nothing, one text, or a mapping from old to new will do."""
    if isinstance(value, Mapping):
        wrong = next((new for new in value.values() if not isinstance(new, str) or "=" in new), None)
        if wrong is not None:
            raise OptionError(f"a rule cannot lead to {wrong!r}; new names are texts without equals signs")
        return tuple(f"{old}={new}" for old, new in value.items())
    return () if value is None else as_tuple(value)


def _as_axes(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value


Rules = Annotated[
    tuple[str, ...],
    BeforeValidator(_as_rules, json_schema_input_type=tuple[str, ...] | Mapping[str, str] | str | None),
]
"""Rules ``OLD=NEW`` over names; see `graftwork.ckpt.names`."""

Axes = Annotated[tuple[int, ...], BeforeValidator(_as_axes, json_schema_input_type=tuple[int, ...] | int)]
"""Axes of a tensor; one alone need not be in a list."""


class CkptAssign(CheckpointStep):
    """Give a model or checkpoint values from others: all that their names lead to, and the rest stays as it is.

    The first word of a rule is the name in the source, the second that in the target: scope/=other/ for all names below a scope (/ is the
    top), or a regular expression over whole names and what they become. Without rules equal names meet. Optimizer state, counters and seeds
    of the sources are left out.
    """

    kind: ClassVar[str] = "ckpt_assign"
    takes: ClassVar[tuple[str, ...]] = ("target", "sources")
    flags: ClassVar[dict[str, tuple[str, ...]]] = {"sources": ("--from",)}

    target: Name
    """The model or checkpoint that is given values; it stays as it is, the result is another file."""
    sources: Annotated[Mapping[Name, Rules], Field(min_length=1)]
    """Where values come from, each source with its rules."""
    include: Words = ()
    """Globs (or ``re:`` expressions) over the target's names: these alone are given values."""
    exclude: Words = ()
    """Globs (or ``re:`` expressions) over the target's names: these keep their values."""
    on_shape: Literal["error", "skip", "slice", "pad", "fit"] = "error"
    """What happens where shapes differ: ``error``; ``skip`` keeps the target's values; ``slice`` cuts what is longer in the source, ``pad``
    fills up what is shorter, and ``fit`` does either, along the named axes."""
    axes: Mapping[str, Axes] = Field(default_factory=dict)
    """The axes along which sizes may differ, by globs (or ``re:`` expressions) over the target's names: vocabularies, classes."""
    fill: Literal["target", "zeros", "mean", "normal"] = "target"
    """What is filled up with: the ``target``'s own values, ``zeros``, the source's ``mean`` along the axis, or ``normal`` random numbers of
    the source's mean and deviation."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Fixes random numbers."""
    state: bool = False
    """Whether optimizer state, counters and seeds of the sources are assigned too."""

    @model_validator(mode="after")
    def _names_axes(self) -> "CkptAssign":
        if self.on_shape in ("slice", "pad", "fit") and not self.axes:
            raise RecipeError(
                f"on_shape is {self.on_shape!r}, but `axes` names no axis along which sizes may differ, such as "
                "{'embeddings/word*': 0, 'head/*': -1}"
            )
        if self.axes and self.on_shape in ("error", "skip"):
            raise RecipeError(
                f"`axes` says where sizes may differ, but on_shape is {self.on_shape!r}; say slice, pad or fit"
            )
        return self


def as_scope(prefix: str) -> str:
    """Return a prefix of names with a slash behind it.

    Raises:
        RecipeError: If it is none.
    """
    parts = prefix.removesuffix("/").split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise RecipeError(f"{prefix!r} is no prefix of names, such as encoder/ or models/first/")
    return "/".join(parts) + "/"


class CkptMerge(CheckpointStep):
    """Put several checkpoints into one: every tensor of all of them.

    Checkpoints of TensorFlow 2 are joined object by object, so that `tf.train.Checkpoint` restores the result, optimizers too; all others
    name by name. The sources stay what they are.
    """

    kind: ClassVar[str] = "ckpt_merge"

    models: Names
    """The checkpoints, in order."""
    scope: Mapping[Name, Annotated[str, AfterValidator(as_scope)]] = Field(default_factory=dict)
    """Put a checkpoint below a prefix: its name, and the prefix, as in ``A=encoder/``."""
    on_conflict: Literal["error", "first", "last", "equal"] = "error"
    """What several hold by the same name: an ``error``, taken from the ``first`` or the ``last``, or ``equal``: refused if it is not."""
    bookkeeping: Literal["equal", "first", "last", "separate"] = "equal"
    """What a graph of TensorFlow 1 has once (``beta1_power``, ``global_step``, loss scales), and so several hold by the same name:
    ``equal``, taken from the ``first`` or the ``last``, or all kept ``separate``, the second as ``beta1_power_1``."""

    @model_validator(mode="after")
    def _names_its_models(self) -> "CkptMerge":
        if len(set(self.models)) != len(self.models):
            twice = next(name for name in self.models if self.models.count(name) > 1)
            raise RecipeError(f"{twice!r} is listed twice; to have it twice in the result, name its file a second time")
        for name in self.scope:
            if name not in self.models:
                raise UnknownNameError("checkpoint (that `scope` speaks of)", name, self.models)
        return self


class CkptRename(CheckpointStep):
    """Give the tensors of a checkpoint other names.

    A rule is scope/=other/ for all names below a scope (/ is the top), or a regular expression over whole names and what they become. A
    checkpoint of TensorFlow 1 is restored by these names, one of TensorFlow 2 by those of its objects, which ``objects`` changes.
    """

    kind: ClassVar[str] = "ckpt_rename"
    takes: ClassVar[tuple[str, ...]] = ("model",)
    arguments: ClassVar[tuple[str, ...]] = ("rules",)

    model: Name
    """The checkpoint; it stays as it is, the result is another file."""
    rules: Annotated[Rules, Field(min_length=1)]
    """Rules ``OLD=NEW`` over names; of several that fit a name the first counts."""
    slots: bool = True
    """Whether an optimizer's slots (``w/Adam``) go with their variables."""
    objects: bool = False
    """Whether rules are about the paths to objects in a checkpoint of TensorFlow 2, rather than about names."""


class CkptExtract(CheckpointStep):
    """Make a checkpoint of some tensors of another."""

    kind: ClassVar[str] = "ckpt_extract"
    takes: ClassVar[tuple[str, ...]] = ("model",)
    arguments: ClassVar[tuple[str, ...]] = ("patterns",)

    model: Name
    """The checkpoint; it stays as it is, the result is another file."""
    patterns: Annotated[Words, Field(min_length=1)]
    """Globs (or ``re:`` expressions) over names of what is wanted, texts of tables among them."""
    exclude: Words = ()
    """Globs (or ``re:`` expressions) over names of what is not, though a pattern fits it."""


class CkptDrop(CheckpointStep):
    """Make a checkpoint of all but some tensors of another."""

    kind: ClassVar[str] = "ckpt_drop"
    takes: ClassVar[tuple[str, ...]] = ("model",)
    arguments: ClassVar[tuple[str, ...]] = ("patterns",)

    model: Name
    """The checkpoint; it stays as it is, the result is another file."""
    patterns: Annotated[Words, Field(min_length=1)]
    """Globs (or ``re:`` expressions) over names of what is left out, texts of tables among them."""
    exclude: Words = ()
    """Globs (or ``re:`` expressions) over names of what is kept, though a pattern fits it."""


class CkptCast(CheckpointStep):
    """Make a checkpoint whose weights have another dtype.

    Optimizer state, counters and all that is no floating-point number keep theirs. What the dtype cannot hold is refused.
    """

    kind: ClassVar[str] = "ckpt_cast"
    takes: ClassVar[tuple[str, ...]] = ("model",)
    arguments: ClassVar[tuple[str, ...]] = ("patterns",)

    model: Name
    """The checkpoint; it stays as it is, the result is another file."""
    dtype: Literal["float16", "bfloat16", "float32", "float64"]
    """The dtype of the result."""
    patterns: Words = ()
    """Globs (or ``re:`` expressions) over names of what is cast; by default all weights are."""
    exclude: Words = ()
    """Globs (or ``re:`` expressions) over names of what is not, though a pattern fits it."""
    allow_nonfinite: bool = False
    """Whether weights may hold NaN or infinity."""

"""mergekit's documents as values: every field that its files have, checked; an unknown one is refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from graftwork.errors import RecipeError
from graftwork.recipe.base import Frozen, Name, as_tuple


def _as_value(value: Any) -> Any:
    values = value if isinstance(value, list | tuple) else (value,)
    if not all(isinstance(each, bool | int | float | str) for each in values):
        raise ValueError("expected one value, a list of them, or entries {filter, value}")
    return tuple(values) if isinstance(value, list | tuple) else value


class Conditional(Frozen):
    """A value for tensors whose names have a text in them; without a text, or with ``*``, for all.

    Attributes:
        filter: The text.
        value: One value, or values along the layers of a slice.
    """

    filter: str | None = None
    value: Annotated[Any, BeforeValidator(_as_value)]

    def fits(self, name: str) -> bool:
        """Return whether it is for a tensor."""
        return self.filter in (None, "*") or (self.filter or "") in name


def _as_conditionals(value: Any) -> Any:
    if isinstance(value, Mapping):
        return (value,)
    if isinstance(value, list | tuple) and any(isinstance(entry, Mapping | Conditional) for entry in value):
        return value
    return ({"value": value},)


Parameters = Annotated[
    Mapping[str, Annotated[tuple[Conditional, ...], BeforeValidator(_as_conditionals)]],
    BeforeValidator(lambda value: {} if value is None else value),
]


class Located(Frozen):
    """Where a model or an adapter lies.

    Attributes:
        path: A path, or ``ORG/NAME`` on the Hub.
        revision: A branch, tag or commit on the Hub.
    """

    path: str
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        path, _, revision = value.partition("@") if not Path(value).exists() else (value, "", "")
        return {"path": path, "revision": revision or None}


class Reference(Frozen):
    """A model, with an adapter or without.

    Attributes:
        model: Where it lies.
        lora: Where an adapter lies that is applied to it.
        override_architecture: Refused: the architecture is what ``config.json`` says.
    """

    model: Located
    lora: Located | None = None
    override_architecture: None = None

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        parts = value.split("+") if not Path(value).exists() else [value]
        if len(parts) > 2 or not all(parts):
            raise RecipeError(f"{value!r} is no model; expected MODEL or MODEL+LORA")
        return dict(zip(("model", "lora"), parts, strict=False))


class SourceItem(Frozen):
    """A model, under `models` or under the `sources` of a slice."""

    model: Reference
    layer_range: tuple[int, int] | None = None
    parameters: Parameters = Field(default_factory=dict)


class SliceItem(Frozen):
    """Layers that are merged of the same models."""

    sources: Annotated[tuple[SourceItem, ...], Field(min_length=1)]
    base_model: Reference | None = None
    residual_weight: float | None = None
    parameters: Parameters = Field(default_factory=dict)


class ModuleItem(Frozen):
    """A part of the model: slices, or models of which all layers are taken."""

    slices: tuple[SliceItem, ...] | None = None
    models: tuple[SourceItem, ...] | None = None
    parameters: Parameters = Field(default_factory=dict)


Donor = Annotated[Literal["union", "base"] | Reference, Field(union_mode="left_to_right")]
"""Whose tokenizer the result has."""


class Tokenizer(Frozen):
    """What is said of the tokenizer at length."""

    source: Donor = "union"
    tokens: Mapping[str, Any] | None = None
    pad_to_multiple_of: int | None = None


class Extras(Frozen):
    """What graftwork asks for beyond mergekit, under the key ``graftwork``, which mergekit leaves out of account.

    Attributes:
        seed: Fixes every random choice.
        ignore: Fields of ``config.json`` that may differ; ``assets`` for vocabularies.
        skip: Globs over tensors that keep the first model's values.
        allow_nonfinite: Whether sources may hold NaN or infinity.
    """

    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    ignore: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    skip: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    allow_nonfinite: bool = False


Dtype = Annotated[
    Literal["float16", "bfloat16", "float32", "float64"],
    BeforeValidator(lambda value: value.removeprefix("torch.") if isinstance(value, str) else value),
]


class Document(Frozen):
    """One document."""

    merge_method: str
    name: Name | None = None
    models: tuple[SourceItem, ...] | None = None
    slices: tuple[SliceItem, ...] | None = None
    modules: Mapping[str, ModuleItem] | None = None
    base_model: Reference | None = None
    parameters: Parameters = Field(default_factory=dict)
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Donor | None = None
    tokenizer: Tokenizer | None = None
    chat_template: str | None = None
    graftwork: Extras = Extras()

    @model_validator(mode="after")
    def _one_of_three(self) -> "Document":
        given = [name for name in ("models", "slices", "modules") if getattr(self, name)]
        if len(given) != 1:
            raise RecipeError(f"expected one of models, slices and modules; found {' and '.join(given) or 'none'}")
        for name, module in (self.modules or {}).items():
            if bool(module.slices) == bool(module.models):
                raise RecipeError(f"the module {name!r} should have either models or slices")
        if self.tokenizer_source is not None and self.tokenizer is not None:
            raise RecipeError("`tokenizer_source` and `tokenizer` say the same; give one of them")
        return self

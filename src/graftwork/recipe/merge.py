"""The step of a merge: its method, the models, and the method's own options beside the other fields."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from graftwork.data.description import Description
from graftwork.errors import OptionError, RecipeError, suggest
from graftwork.methods import METHODS, Base, MergeMethod, get
from graftwork.methods.options import Options, companion_files, json_schema
from graftwork.recipe.base import Name, Step, as_tuple, or_one_word


class Merging(Step):
    """A merge in weight space: what all kinds of them have."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: str
    """Name of the merge method."""
    models: Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(as_tuple)]
    """The models, in order; the first lends architecture and names to the result."""
    base: Name | None = None
    """Their common ancestor, if the method works on differences."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """The method's own options; in recipes they stand beside the other fields."""
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0
    """Fixes every random choice."""
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None
    """The result's dtype; by default each tensor keeps its own."""
    map: Mapping[str, str] = Field(default_factory=dict)
    """Regular expressions over tensor names of the other models, and the name in the model that lends names."""
    skip: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Globs (or ``re:`` expressions) over tensors that are not merged but taken from the model that lends names."""
    ignore: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    """Fields of layers' settings that may differ."""
    allow_nonfinite: bool = False
    """Whether sources may hold NaN or infinity."""
    optimizer: Literal["drop", "first", "last"] = "drop"
    """``drop`` the optimizer state, or keep that of the ``first`` or the ``last`` model."""

    @model_validator(mode="before")
    @classmethod
    def _collect_options(cls, data: Any) -> Any:
        """Everything that is no field of the step is an option of its method."""
        if not isinstance(data, Mapping) or "options" in data:
            return data
        own = {k: v for k, v in data.items() if k in cls.model_fields}
        options = {k: v for k, v in data.items() if k not in cls.model_fields}
        if "weights" in options:
            if "weight" in options:
                raise OptionError("`weight` and `weights` are one option; give one of them")
            options["weight"] = options.pop("weights")
        if isinstance(own.get("method"), str):
            known = set(get(own["method"]).model_fields) | {
                f.alias for f in get(own["method"]).model_fields.values() if f.alias
            }
            for name in options:
                if name not in known:
                    raise OptionError(
                        f"method {own['method']!r} has no option {name!r}; {suggest(name, sorted(known | set(cls.model_fields)))}"
                    )
        return {**own, "options": options}

    @model_validator(mode="after")
    def _makes_sense(self) -> "Merging":
        method = get(self.method)
        if method.base is Base.REQUIRED and self.base is None:
            raise RecipeError(
                f"method {self.method!r} merges differences from a base model; add `base:` with the name of their common ancestor"
            )
        Options(self.method, self.options, self.models, has_base=self.base is not None)
        self.files()
        return self

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models, then of the base."""
        yield from self.models
        if self.base is not None:
            yield self.base

    def files(self) -> tuple[str, ...]:
        """Return the file of each model that tells more about it, for methods that need such."""
        return companion_files(self.method, self.options, self.models)

    def settings(self) -> dict[str, Any]:
        """Return the step as its result's record spells it, options beside the other fields."""
        return {**self.model_dump(exclude={"options"}, exclude_defaults=True), **self.options}

    @classmethod
    def schema_of_settings(cls) -> dict[str, Any]:
        """Return the JSON Schema, every method with its own options."""
        own = cls.model_json_schema()
        fields = {k: or_one_word(v) for k, v in own["properties"].items() if k not in ("options", "method")}
        return {
            **({"$defs": own["$defs"]} if "$defs" in own else {}),
            "oneOf": [
                {
                    "type": "object",
                    "properties": {
                        "method": {"const": name, "description": (method.__doc__ or "").strip().partition("\n")[0]},
                        **fields,
                        **_options(method),
                    },
                    "required": ["method", "models", *(["base"] if method.base.value == "required" else [])],
                    "additionalProperties": False,
                }
                for name, method in METHODS.items()
            ],
        }


def _options(method: type[MergeMethod]) -> dict[str, Any]:
    """Return the schema of a method's options as recipes spell them."""
    found: dict[str, Any] = json_schema(method)["properties"]
    return {**found, "weights": found["weight"]} if "weight" in found else found


class MergeStep(Merging):
    """One merge in weight space."""

    kind: ClassVar[str] = "merge"

    recalibrate: str | Description | None = None
    """Data on which BatchNormalization gets new statistics afterwards: a name under ``data``, a path, or a description."""

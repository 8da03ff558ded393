"""Steps that compose graphs: a verb with its options, and the names of the models that go in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError, model_validator

from graftwork.data.opening import told
from graftwork.errors import OptionError, suggest
from graftwork.recipe.base import Name, Step
from graftwork.recipe.slips import sentence
from graftwork.training.verbs import VERBS, Verb, get


def verb_of(kind: str, options: Mapping[str, Any]) -> Verb:
    """Return a verb with its options.

    Raises:
        UnknownNameError: If there is no such verb.
        OptionError: If an option is not known or makes no sense.
    """
    cls = get(kind)
    try:
        return cls(**options)
    except ValidationError as error:
        raise OptionError(f"{kind}: {sentence(error, cls)}") from error


class ComposeStep(Step):
    """One composition of graphs; the step of each verb is a class below this one.

    Attributes:
        models: Argument and name of each model, in the order of the verb's arguments.
        verb: What is made of them.
        export: What the result is also written as, beside its output: saved_model, onnx or litert.
    """

    models: tuple[tuple[str, Name], ...] = Field(min_length=1)
    verb: SerializeAsAny[Verb]
    export: Literal["saved_model", "onnx", "litert"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _sorted_out(cls, data: Any) -> Any:
        """Tell the models from the options, which stand side by side in a recipe."""
        verb = VERBS[cls.kind]
        if not isinstance(data, Mapping) or "verb" in data:
            return data
        options = {key: value for key, value in data.items() if key not in (*verb.takes, "export")}
        missing = [name for name in verb.takes if name not in data and name not in verb.optional]
        if missing:
            slips = [key for key in options if key not in verb.model_fields]
            meant = f"; {slips[0]!r} is not known, {suggest(str(slips[0]), verb.takes)}" if slips else ""
            raise OptionError(f"{cls.kind}: {missing[0]!r} is missing{meant}")
        models = tuple(verb.roles(data))
        return {"models": models, "verb": verb_of(cls.kind, options), "export": data.get("export")}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the models, in the order of the verb's arguments."""
        return tuple(name for _, name in self.models)

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models."""
        yield from self.names

    def settings(self) -> dict[str, Any]:
        """Return the step as recipes spell it."""
        return spelled(self.verb, self.models)

    @classmethod
    def schema_of_settings(cls) -> dict[str, Any]:
        """Return the JSON Schema: the names of the models, and the verb's options."""
        verb = VERBS[cls.kind]
        schema = verb.model_json_schema()
        one = TypeAdapter(Name).json_schema()
        many = {"anyOf": [{"type": "array", "items": one, "minItems": 1}, one]}
        models = {name: many if name in verb.lists else one for name in verb.takes}
        return {
            **schema,
            "properties": {
                **models,
                **schema.get("properties", {}),
                "export": {
                    "enum": ["saved_model", "onnx", "litert"],
                    "description": "Write the output for another runtime, too.",
                },
            },
            "required": [*(name for name in verb.takes if name not in verb.optional), *schema.get("required", [])],
            "additionalProperties": False,
        }


def spelled(verb: Verb, models: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return a composition as a recipe's step spells it: the names of its models, and the options that are not the default.

    Args:
        verb: What is made.
        models: Argument and name of each model.
    """
    options = verb.model_dump(exclude={*verb.fed}, exclude_defaults=True)
    options |= {name: told(getattr(verb, name)) for name in verb.fed if getattr(verb, name) is not None}
    named: dict[str, Any] = {}
    for role, name in models:
        named[role] = [*named.get(role, ()), name] if role in verb.lists else name
    return {**named, **options}


def _step_of(kind: str, verb: type[Verb]) -> type[ComposeStep]:
    namespace = {
        "kind": kind,
        "__doc__": verb.__doc__,
        "__module__": __name__,
        "__annotations__": {"kind": ClassVar[str]},
    }
    made: type[ComposeStep] = type(f"{verb.__name__}Step", (ComposeStep,), namespace)
    return made


COMPOSE_STEPS: dict[str, type[Step]] = {kind: _step_of(kind, verb) for kind, verb in VERBS.items()}
"""The step of each verb, by its word."""

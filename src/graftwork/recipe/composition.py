"""Steps that compose graphs: one class for each verb, made of the verb's own fields and the names of the models that go in."""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, create_model

from graftwork.compose import VERBS, Verb
from graftwork.recipe.base import Name, Step, as_tuple


class ComposeStep(Step):
    """One composition of graphs; each verb's step is a class below this one."""

    takes: ClassVar[tuple[str, ...]]

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models."""
        for field in self.takes:
            value = getattr(self, field)
            yield from value if field == "models" else (value,)

    def options(self) -> dict[str, Any]:
        """Return the verb's options, as far as the recipe says them."""
        return {name: getattr(self, name) for name in self.model_fields_set if name not in self.takes}


def _step_of(kind: str, verb: type[Verb]) -> type[ComposeStep]:
    models: dict[str, Any] = {
        name: (
            Annotated[tuple[Name, ...], Field(min_length=1), BeforeValidator(as_tuple)] if name == "models" else Name,
            Field(
                description="Names of models or earlier steps."
                if name == "models"
                else "Name of a model or earlier step."
            ),
        )
        for name in verb.takes
    }
    options: dict[str, Any] = {name: (field.annotation, field) for name, field in verb.model_fields.items()}
    made: type[ComposeStep] = create_model(verb.__name__ + "Step", __base__=ComposeStep, __doc__=verb.__doc__, **models, **options)
    made.kind, made.takes = kind, verb.takes
    return made


COMPOSE_STEPS: dict[str, type[Step]] = {kind: _step_of(kind, verb) for kind, verb in VERBS.items()}
"""The step of each verb, by its word."""

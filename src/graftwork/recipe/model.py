"""What a recipe is: named models, named steps whose outputs other steps may use, and where results go.

Every kind of step is one class, a `Step` and one row of `STEP_KINDS` (those of verbs that compose graphs are made of the verbs); its fields
are its declaration, from which the reader's checks and the JSON Schema are made. How it is planned is one row of
`graftwork.jobs.JOBS`. Paths are as the user wrote them, relative to the recipe's own directory.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, model_validator

from graftwork.data.description import Columns, Description
from graftwork.errors import GraftworkError, RecipeError, UnknownNameError
from graftwork.methods import get
from graftwork.recipe.base import Frozen, Name, Step, as_tuple
from graftwork.recipe.checkpoints import CHECKPOINT_STEPS
from graftwork.recipe.declared import DeclaredStep
from graftwork.recipe.merge import MergeStep, Merging
from graftwork.recipe.savedmodel import SAVEDMODEL_STEPS
from graftwork.recipe.slips import sentence
from graftwork.recipe.training import EvaluateStep


class ModelSource(Frozen):
    """A model to start from.

    Attributes:
        path: A file or directory in any format of the stores.
        classes: Names of its classes in the order of its outputs, where merging needs to know.
    """

    path: str
    classes: tuple[str, ...] | None = None


class LayerRun(Frozen):
    """A run of layers of a model.

    Attributes:
        model: Name of a model or earlier step.
        range: The first layer, counted from 0, and the one behind the last.
        scale: What the tensors of the run are multiplied with.
    """

    model: Name
    range: tuple[int, int]
    scale: float = Field(1.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_one(self) -> "LayerRun":
        start, stop = self.range
        if not 0 <= start < stop:
            raise RecipeError(
                f"the range {start} to {stop} of {self.model} has no layers; the first is 0, and the end is not in the range"
            )
        return self


class AssembleStep(Step):
    """A model made of layers of others, one run after the other.

    Attributes:
        layers: The runs, in the order of the result.
        block: For Keras models, a glob over names of layers: the blocks meant are those that hold such a layer.
        dtype: The result's dtype; by default each tensor keeps its own.
        ignore: Fields of configurations that may differ.
        allow_nonfinite: Whether sources may hold NaN or infinity.
    """

    kind: ClassVar[str] = "assemble"

    layers: Annotated[tuple[LayerRun, ...], Field(min_length=1)]
    block: str | None = None
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None
    ignore: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    allow_nonfinite: bool = False

    def inputs(self) -> Iterator[str]:
        """Yield the model of each run."""
        for run in self.layers:
            yield run.model


class ExtractLoraStep(Step):
    """What a fine-tuned model has learnt, as a LoRA adapter of its base.

    Attributes:
        model: Name of the fine-tuned model.
        base: Name of the model that it was fine-tuned from.
        rank: Greatest rank of a tensor's two factors.
        include: Globs over the tensors that may get factors; all matrices, if there are none.
        exclude: Globs over those that get none.
        embeddings: Whether embeddings get factors too.
        save_rest: Whether what differs and gets no factors is saved whole.
    """

    kind: ClassVar[str] = "extract_lora"

    model: Name
    base: Name
    rank: Annotated[int, Field(ge=1)] = 16
    include: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    exclude: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()
    embeddings: bool = False
    save_rest: bool = False

    def inputs(self) -> Iterator[str]:
        """Yield the two models."""
        yield self.model
        yield self.base


class EstimateStep(Step):
    """What data tells of a model's weights, for merge methods that need to know; a kind of it is a class below this one.

    Attributes:
        model: Name of the model.
        data: The samples: a name under ``data``, a path, or a description.
        x: The columns of the inputs, where the data does not tell.
        y: The column of the labels, where the data does not tell.
        samples: Use the first so many samples.
        batch: Samples dealt with at a time.
    """

    model: Name
    data: str | Description
    x: Columns | None = None
    y: str | None = None
    samples: Annotated[int, Field(ge=1)] | None = None
    batch: Annotated[int, Field(ge=1)] = 32

    def inputs(self) -> Iterator[str]:
        """Yield the model."""
        yield self.model

    def options(self) -> list[str]:
        """Return the names of the settings that say how."""
        return [name for name in type(self).model_fields if name not in ("model", "data")]


class FisherStep(EstimateStep):
    """The diagonal of a model's Fisher information, for the merge method `fisher`.

    Attributes:
        labels: Whose labels: all that the ``model`` can say, one ``sampled`` from what it says, or those of the ``data``.
        outputs: What the model's outputs are, where its last activation does not tell.
        seed: Fixes the labels that are sampled.
    """

    kind: ClassVar[str] = "fisher"

    labels: Literal["model", "sampled", "data"] = "model"
    outputs: Literal["auto", "probabilities", "logits", "sigmoid", "regression"] = "auto"
    seed: Annotated[int, Field(ge=0, lt=2**64)] = 0


class GramStep(EstimateStep):
    """The Gram matrices of the inputs of a model's layers, for the merge method `regmean`.

    Attributes:
        max_inputs: Layers of more inputs get none.
    """

    kind: ClassVar[str] = "gram"

    max_inputs: Annotated[int, Field(ge=1)] = 8192


class _StepKinds(Mapping[str, type[Step]]):
    """Every kind of step by its word; those that compose graphs are loaded when one that is no other is asked for."""

    _own: ClassVar[Mapping[str, type[Step]]] = {
        **{cls.kind: cls for cls in (MergeStep, AssembleStep, ExtractLoraStep, FisherStep, GramStep)},
        **CHECKPOINT_STEPS,
        **SAVEDMODEL_STEPS,
        EvaluateStep.kind: EvaluateStep,
    }

    def _all(self) -> dict[str, type[Step]]:
        from graftwork.recipe.composition import COMPOSE_STEPS

        return {**self._own, **COMPOSE_STEPS}

    def __getitem__(self, kind: str) -> type[Step]:
        return self._own[kind] if kind in self._own else self._all()[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


STEP_KINDS: Mapping[str, type[Step]] = _StepKinds()
"""Every kind of step by the word that recipes use for it."""


class Recipe(Frozen):
    """The whole way from sources to results.

    Attributes:
        models: Where each model lies.
        steps: What is made, in any order; a step may use the result of another by its name.
        outputs: Where results are written; a step that is not listed is only used by others.
        data: What steps train and judge with, by the names that they use.
        custom_objects: Python files or modules that define what models refer to and Keras does not know; planning and running runs them.
    """

    models: Mapping[Name, ModelSource]
    steps: Mapping[Name, SerializeAsAny[Step]]
    outputs: Mapping[Name, str] = Field(default_factory=dict)
    data: Mapping[Name, str | Description] = Field(default_factory=dict)
    custom_objects: Annotated[tuple[str, ...], BeforeValidator(as_tuple)] = ()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, data: Any) -> Any:
        """A path alone is a model; ``{merge: {…}}`` is a step."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        if isinstance(data.get("models"), Mapping):
            data["models"] = {k: {"path": v} if isinstance(v, str) else v for k, v in data["models"].items()}
        if isinstance(data.get("steps"), Mapping):
            data["steps"] = {name: _step(name, step) for name, step in data["steps"].items()}
        return data

    @model_validator(mode="after")
    def _hangs_together(self) -> "Recipe":
        if not self.steps:
            raise RecipeError("there are no steps; add one, such as {soup: {merge: {method: linear, models: [a, b]}}}")
        for name in self.steps:
            if name in self.models:
                raise RecipeError(f"{name!r} is the name of a model and of a step; rename one of them")
        known = [*self.models, *self.steps]
        for name, step in self.steps.items():
            for wanted in step.inputs():
                if wanted not in known:
                    raise UnknownNameError(f"model or step (wanted by step {name!r})", wanted, known)
                if isinstance(self.steps.get(wanted), ExtractLoraStep):
                    raise RecipeError(
                        f"step {name!r} uses {wanted!r}, whose result is an adapter, not a model; list it under `outputs`, and merge "
                        "BASE+ADAPTER in a recipe of its own"
                    )
                if isinstance(self.steps.get(wanted), EstimateStep):
                    raise RecipeError(
                        f"step {name!r} uses {wanted!r}, whose result is no model; a merge names it as option {self.steps[wanted].kind!r}"
                    )
                made = self.steps.get(wanted)
                if isinstance(made, DeclaredStep) and not made.is_model:
                    raise RecipeError(
                        f"step {name!r} uses {wanted!r}, whose result no later step can use; list it under `outputs`, and go on "
                        "from there in a recipe of its own"
                    )
            for wanted in step.files():
                made = self.steps.get(wanted)
                if made is not None and not (isinstance(step, Merging) and made.kind == get(step.method).companion):
                    raise RecipeError(
                        f"step {name!r} wants a file with more about a model, which step {wanted!r} does not make"
                    )
        for name in self.outputs:
            if name not in self.steps:
                raise UnknownNameError("step (listed under `outputs`)", name, self.steps)
        self.order()
        return self

    def order(self) -> list[str]:
        """Return the steps so that each comes after those it uses.

        Raises:
            RecipeError: If steps use each other in a circle.
        """
        done: list[str] = []
        under_way: list[str] = []

        def visit(name: str) -> None:
            if name in done or name not in self.steps:
                return
            if name in under_way:
                circle = " → ".join([*under_way[under_way.index(name) :], name])
                raise RecipeError(f"steps use each other in a circle: {circle}")
            under_way.append(name)
            for wanted in (*self.steps[name].inputs(), *self.steps[name].files()):
                visit(wanted)
            under_way.pop()
            done.append(name)

        for name in self.steps:
            visit(name)
        return done


def _step(name: str, step: Any) -> Step:
    if isinstance(step, Step):
        return step
    if not isinstance(step, Mapping) or len(step) != 1:
        raise RecipeError(
            f"step {name!r} should be one word with its settings, such as {{merge: {{method: linear, models: [a, b]}}}}; "
            f"found {str(step)[:60]}"
        )
    ((kind, settings),) = step.items()
    if kind not in STEP_KINDS:
        raise UnknownNameError(f"kind of step (of step {name!r})", str(kind), STEP_KINDS)
    if not isinstance(settings, Mapping):
        raise RecipeError(f"the settings of step {name!r} are {str(settings)[:60]!r}, expected a mapping")
    try:
        return STEP_KINDS[kind].model_validate(settings)
    except GraftworkError as error:
        raise RecipeError(f"step {name!r}: {error}") from error
    except ValidationError as error:
        raise RecipeError(sentence(error, STEP_KINDS[kind], f"steps.{name}.")) from error

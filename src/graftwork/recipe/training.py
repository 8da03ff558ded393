"""Steps that judge models with data."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.data.description import Columns, Description
from graftwork.recipe.declared import DeclaredStep, Names


class EvaluateStep(DeclaredStep):
    """Say how good models are on data: every figure that their outputs ask for, agreement, time and size, as a JSON file."""

    kind: ClassVar[str] = "evaluate"

    models: Names
    """The models."""
    data: str | Description
    """Samples with labels: a name under ``data``, a path, or a description."""
    x: Columns | None = None
    """The columns of the inputs, where the data does not tell."""
    y: str | None = None
    """The column of the labels, where the data does not tell."""
    outputs: str | Mapping[str, str] = "auto"
    """What models give where their last operation does not tell: a kind, or kinds by model, output or model.output."""
    classes: Mapping[str, tuple[str, ...]] | None = None
    """Names of each model's classes in the order of its outputs, by model; by default those of the data."""
    labels: Mapping[str, str] | None = None
    """The column of labels of each output; by default y, or y.NAME for output NAME."""
    top: Annotated[int, Field(ge=1)] = 5
    """k of the top-k accuracy."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Samples dealt with at a time."""
    bins: Annotated[int, Field(ge=1)] = 15
    """Bins of confidence that calibration is measured in."""
    timed: bool = True
    """Whether to measure how long models take."""
    device: str | None = None
    """Where models run: `cpu`, `gpu:1`; by default where Keras does."""

    @property
    def is_model(self) -> bool:
        """Whether later steps can use the result: figures are no model."""
        return False

"""mergekit's merge methods as its files spell them: every parameter with its default, and what it is here.

From mergekit 0.1.5. Each of its methods has the same name here. What its parameters mean is the same too; where a default differs, or an
option here has to be set to give the same numbers, this is the place that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from graftwork.errors import RecipeError
from graftwork.methods import get
from graftwork.methods.options import is_per_model, spell

REQUIRED = object()
"""The default of a parameter that must be given."""


class Parameter(NamedTuple):
    """One parameter of a method.

    Attributes:
        kind: What its values are.
        default: The value where none is given, or `REQUIRED`.
        of: What it belongs to: the merge, each model but the base, or each model.
        has_effect: Whether it changes anything.
    """

    kind: type
    default: Any
    of: Literal["merge", "model", "input"] = "merge"
    has_effect: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method.

    Attributes:
        base: What it does with `base_model`: an ``ignored`` one is a model like the others.
        parameters: Its parameters.
        ours: Options here that have no parameter there, and the values that make them the same.
    """

    base: Literal["required", "optional", "ignored"]
    parameters: Mapping[str, Parameter]
    ours: Mapping[str, Any] = field(default_factory=dict)


def _differences(*, normalize: bool = False, rescale: bool = False, **more: Parameter) -> dict[str, Parameter]:
    """Return the parameters that all methods on differences share."""
    return {
        "weight": Parameter(float, REQUIRED, "model"),
        "density": Parameter(float, 1.0, "model"),
        **more,
        "normalize": Parameter(bool, normalize),
        "rescale": Parameter(bool, rescale),
        "lambda": Parameter(float, 1.0),
        "int8_mask": Parameter(bool, False, has_effect=False),
    }


_GAMMA, _EPSILON = Parameter(float, 0.01, "model"), Parameter(float, 0.15, "model")

MERGEKIT: dict[str, Row] = {
    "linear": Row(
        base="ignored",
        parameters={"weight": Parameter(float, REQUIRED, "input"), "normalize": Parameter(bool, True)},
    ),
    "slerp": Row(base="required", parameters={"t": Parameter(float, REQUIRED)}),
    "nuslerp": Row(
        base="optional",
        parameters={
            "weight": Parameter(float, REQUIRED, "model"),
            "nuslerp_row_wise": Parameter(bool, False),
            "nuslerp_flatten": Parameter(bool, True),
        },
    ),
    "multislerp": Row(
        base="optional",
        parameters={
            "weight": Parameter(float, REQUIRED, "model"),
            "normalize_weights": Parameter(bool, True),
            "eps": Parameter(float, 1e-8),
        },
    ),
    "karcher": Row(base="ignored", parameters={"max_iter": Parameter(int, 10), "tol": Parameter(float, 1e-5)}),
    "passthrough": Row(base="ignored", parameters={"scale": Parameter(float, 1.0, "input")}),
    "task_arithmetic": Row(
        base="required",
        parameters={
            **_differences(),
            "density": Parameter(float, 1.0, "model", has_effect=False),
            "rescale": Parameter(bool, False, has_effect=False),
        },
    ),
    "ties": Row(base="required", parameters=_differences(normalize=True)),
    "dare_linear": Row(base="required", parameters=_differences(rescale=True), ours={"rescale_norm": "l1"}),
    "dare_ties": Row(base="required", parameters=_differences(rescale=True), ours={"rescale_norm": "l1"}),
    "breadcrumbs": Row(base="required", parameters=_differences(gamma=_GAMMA)),
    "breadcrumbs_ties": Row(base="required", parameters=_differences(gamma=_GAMMA)),
    "della": Row(
        base="required",
        parameters=_differences(normalize=True, rescale=True, epsilon=_EPSILON),
        ours={"rescale_norm": "l1"},
    ),
    "della_linear": Row(
        base="required", parameters=_differences(rescale=True, epsilon=_EPSILON), ours={"rescale_norm": "l1"}
    ),
    "model_stock": Row(base="required", parameters={"filter_wise": Parameter(bool, False)}),
    "sce": Row(
        base="required",
        parameters={"select_topk": Parameter(float, 1.0), "int8_mask": Parameter(bool, False, has_effect=False)},
    ),
    "nearswap": Row(base="required", parameters={"t": Parameter(float, REQUIRED)}),
    "arcee_fusion": Row(base="required", parameters={}),
    "ram": Row(base="required", parameters={"epsilon": Parameter(float, 1e-5)}),
    "ramplus_tl": Row(
        base="required",
        parameters={
            "r": Parameter(float, 0.1),
            "alpha": Parameter(float, 0.2),
            "epsilon": Parameter(float, 1e-5),
        },
    ),
}
"""Every method of mergekit by its name."""


def our_options(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options for mergekit's parameters; those of models are tuples.

    Raises:
        RecipeError: If a parameter has a value that our method cannot have.
    """
    row, fields = MERGEKIT[method], get(method).model_fields
    ours = {spell(get(method), name): field for name, field in fields.items()}
    options = {name: value for name, value in row.ours.items() if name in fields}
    for name, value in values.items():
        parameter = row.parameters[name]
        if not parameter.has_effect:
            continue
        if name in ours:
            alone = isinstance(value, tuple) and not is_per_model(ours[name])
            options[name] = value[0] if alone else list(value) if isinstance(value, tuple) else value
        elif any(each != parameter.default for each in (value if isinstance(value, tuple) else (value,))):
            raise RecipeError(
                f"`{name}: {value}` makes mergekit's {method} do what graftwork's does not; leave it at {parameter.default}"
            )
    return options

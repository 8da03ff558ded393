"""What one document of mergekit asks for, as a step of a recipe, with mergekit's rules for which value of a parameter counts.

A parameter is looked up at the source, then at the slice, the module, and the whole. There, the first entry counts whose filter is part of
the tensor's name; where none is, the search goes on. A list of values lies along the layers of the slice: numbers are
interpolated, other values chosen.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from graftwork.errors import RecipeError
from graftwork.recipe.base import Frozen, Name, Step
from graftwork.recipe.mergekit.document import Dtype, Extras, Parameters
from graftwork.recipe.mergekit.methods import MERGEKIT, REQUIRED, Parameter, our_options

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)) for kind in (bool, int, float)
}


class Source(Frozen):
    """A model that goes into a slice.

    Attributes:
        model: Its name in the recipe.
        layers: The first layer, and the one behind the last; None for all of them.
        parameters: What is said for it alone.
    """

    model: Name
    layers: tuple[int, int] | None = None
    parameters: Parameters = Field(default_factory=dict)


class Slice(Frozen):
    """Layers that are merged of the same models.

    Attributes:
        sources: The models, in order, without the base.
        base: The base, where the method works on differences.
        parameters: What is said for the slice, its module and the whole, in the order in which it is looked up.
    """

    sources: tuple[Source, ...]
    base: Source | None = None
    parameters: tuple[Parameters, ...] = ()


class MergekitStep(Step):
    """What one document of mergekit asks for.

    Attributes:
        method: Name of the method.
        modules: The slices of each part of the model, by the part's name.
        base: Name of the base of all slices, if they have one.
        like: The model that lends the configuration: `base_model`, if that is said.
        dtype: The result's dtype.
        tokenizer: The model that lends the tokenizer, if one is said.
        union: Whether the vocabularies have to be united.
        extras: What mergekit has no words for.
        notes: What the user should know.
        document: The document as it was written.
    """

    kind: ClassVar[str] = "mergekit"

    method: str
    modules: Mapping[str, tuple[Slice, ...]]
    base: Name | None = None
    like: Name | None = None
    dtype: Dtype | None = None
    tokenizer: Name | None = None
    union: bool = False
    extras: Extras = Extras()
    notes: tuple[str, ...] = ()
    document: Mapping[str, Any]

    def slices(self) -> Iterator[Slice]:
        """Yield every slice."""
        for slices in self.modules.values():
            yield from slices

    def models(self) -> list[str]:
        """Return the names of all models in the order in which they are named, without the base of the whole."""
        found = [
            source.model for part in self.slices() for source in (*part.sources, *([part.base] if part.base else []))
        ]
        return [name for name in dict.fromkeys(found) if name != self.base]

    def inputs(self) -> Iterator[str]:
        """Yield the names of the models, then of what lends configuration and tokenizer, which may be among them."""
        yield from self.models()
        yield from (name for name in (self.base, self.like, self.tokenizer) if name is not None)

    def settings(self) -> dict[str, Any]:
        """Return the document as it was written."""
        return dict(self.document)

    def filters(self) -> Iterator[tuple[str, str]]:
        """Yield every parameter and every text that it looks for in names."""
        for part in self.slices():
            for level in (*(source.parameters for source in part.sources), *part.parameters):
                for name, entries in level.items():
                    yield from ((name, entry.filter) for entry in entries if entry.filter not in (None, "*"))

    def options_at(self, part: Slice, depth: float | None, name: str, names: Sequence[str]) -> dict[str, Any]:
        """Return our options for one tensor.

        Args:
            part: The slice that it belongs to.
            depth: 0 in the slice's first layer, 1 in the last; None where layers cannot be told.
            name: Its name in the result.
            names: Its name in each model of the slice.

        Raises:
            RecipeError: If a parameter that must be given is not, or is a list along layers that cannot be told.
        """
        values: dict[str, Any] = {}
        for parameter, spec in MERGEKIT[self.method].parameters.items():
            if spec.of == "merge":
                values[parameter] = _value(parameter, spec, part.parameters, depth, name, "")
            else:
                values[parameter] = tuple(
                    _value(parameter, spec, (source.parameters, *part.parameters), depth, own, source.model)
                    for source, own in zip(part.sources, names, strict=True)
                )
        return our_options(self.method, values)


def _value(
    parameter: str, spec: Parameter, levels: Iterable[Parameters], depth: float | None, name: str, model: str
) -> Any:
    """Return the value that counts for a tensor."""
    for level in levels:
        entry = next((entry for entry in level.get(parameter, ()) if entry.fits(name)), None)
        if entry is None or entry.value == ():
            continue
        if not isinstance(entry.value, tuple):
            return _typed(parameter, spec, entry.value)
        values = [_typed(parameter, spec, value) for value in entry.value]
        if depth is None and len(values) > 1:
            raise RecipeError(
                f"`{parameter}` is a list of values along the layers for the tensor {name!r}, but the models have no numbered "
                "layers, as in 'model.layers.0.'; graftwork's own recipes have gradients over the layers of Keras models"
            )
        place = (depth or 0.0) * (len(values) - 1)
        left = min(int(place), len(values) - 1)
        if spec.kind is bool:
            return values[left]
        right = min(left + 1, len(values) - 1)
        return _typed(parameter, spec, (1 - (place - left)) * values[left] + (place - left) * values[right])
    if spec.default is REQUIRED:
        raise RecipeError(
            f"`{parameter}` is not given for the tensor {name!r}"
            + (f" of {model}" if model else "")
            + "; mergekit has no default for it, so give it under `parameters`"
        )
    return spec.default


def _typed(parameter: str, spec: Parameter, value: Any) -> Any:
    """Return a value as what the parameter is; YAML reads 1e-5 as a text."""
    try:
        return _ADAPTERS[spec.kind].validate_python(value)
    except ValidationError as error:
        wanted = {bool: "true or false", int: "a whole number"}.get(spec.kind, "a number")
        raise RecipeError(f"`{parameter}` is {value!r}; expected {wanted}") from error

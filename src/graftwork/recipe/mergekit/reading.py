"""mergekit's configuration files as recipes: each document becomes one step.

::

    merge_method: slerp
    base_model: ORG/A
    slices:                                     or `models:`, or `modules:`
      - sources:
          - {model: ORG/A, layer_range: [0, 32]}
          - {model: ORG/B, layer_range: [0, 32], parameters: {…}}
    parameters:
      t: [{filter: mlp, value: [0, 0.5, 1]}, {value: 0.5}]
    dtype: bfloat16

A file with several documents, each with a `name`, makes models of which others are made.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graftwork.errors import GraftworkError, RecipeError, UnknownNameError, suggest
from graftwork.recipe.base import as_name
from graftwork.recipe.mergekit.document import Document, Located, ModuleItem, Parameters, Reference, SliceItem
from graftwork.recipe.mergekit.methods import MERGEKIT
from graftwork.recipe.mergekit.step import MergekitStep, Slice, Source
from graftwork.recipe.model import ModelSource, Recipe
from graftwork.recipe.slips import sentence
from graftwork.stores import hub, label_of

RESULT = "merged"
"""What the step of a document without a name is called."""


def is_mergekit(documents: Sequence[Any]) -> bool:
    """Return whether documents are mergekit's: mappings with `merge_method`."""
    return bool(documents) and any(isinstance(d, Mapping) and "merge_method" in d for d in documents)


def recipe_of(documents: Sequence[Mapping[str, Any]], folder: Path | None = None) -> Recipe:
    """Return the recipe that mergekit's documents spell; its last step makes the result.

    Args:
        documents: What the file says.
        folder: The file's directory. Paths are looked for from the working directory, then from there.

    Raises:
        RecipeError: If they are not mergekit's, or ask for what graftwork does not do.
    """
    read = [_Reading.document(data, number, len(documents)) for number, data in enumerate(documents)]
    names = [document.name or RESULT for document in read]
    for name in names:
        if names.count(name) > 1:
            told = "no `name`" if name == RESULT else f"the name {name!r}"
            raise RecipeError(f"{names.count(name)} documents have {told}; each needs a name of its own, but one")
    reading = _Reading(folder, names)
    steps = {
        name: reading.step(document, dict(data)) for name, document, data in zip(names, read, documents, strict=True)
    }
    if RESULT in steps:  # the result comes last, wherever it stands in the file
        steps[RESULT] = steps.pop(RESULT)
    return Recipe(models=reading.models, steps=steps)


class _Reading:
    """What is known while documents are read: which models there are and what they are called."""

    def __init__(self, folder: Path | None, steps: Sequence[str]) -> None:
        self.folder = folder
        self.steps = steps
        self.models: dict[str, ModelSource] = {}
        self._names: dict[str, str] = {}

    @staticmethod
    def document(data: Any, number: int, count: int) -> Document:
        """Return one document, checked."""
        where = f"document {number + 1}: " if count > 1 else ""
        if not isinstance(data, Mapping) or "merge_method" not in data:
            raise RecipeError(f"{where}expected a mapping with `merge_method`, found {str(data)[:60]!r}")
        try:
            document = Document.model_validate(data)
        except ValidationError as error:
            raise RecipeError(f"{where}{sentence(error, Document)}") from error
        except GraftworkError as error:
            raise RecipeError(f"{where}{error}") from error
        if document.merge_method not in MERGEKIT:
            raise UnknownNameError("merge method of mergekit", document.merge_method, MERGEKIT)
        return document

    def step(self, document: Document, written: dict[str, Any]) -> MergekitStep:
        """Return the step that a document asks for."""
        row = MERGEKIT[document.merge_method]
        base = self.name(document.base_model) if document.base_model is not None else None
        if row.base == "required" and base is None and not _every_slice_has_a_base(document):
            raise RecipeError(f"merge_method {document.merge_method!r} needs `base_model`")
        modules = {
            name: tuple(self._slices(document, module, base))
            for name, module in (
                document.modules or {"default": ModuleItem(models=document.models, slices=document.slices)}
            ).items()
        }
        notes: list[str] = []
        tokenizer, union = self._tokenizer(document)
        if document.chat_template not in (None, "auto"):
            raise RecipeError(
                "`chat_template` asks for another template than the models have; remove it (or say auto) to keep that of the base, "
                "and put the template into the result's tokenizer_config.json"
            )
        named = {p for part in _parameters(document) for p in part}
        idle = sorted(p for p in named if not row.parameters[p].has_effect)
        notes += [f"`{name}` has no effect on {document.merge_method}" for name in idle]
        if any(part.residual_weight is not None for part in _slices(document)):
            notes.append("`residual_weight` has no effect, as in mergekit")
        quiet = dict.fromkeys(
            part.base.model for parts in modules.values() for part in parts if part.base and part.base.parameters
        )
        notes += [f"parameters of the base ({name}) have no effect" for name in quiet]
        return MergekitStep(
            method=document.merge_method,
            modules=modules,
            base=base if any(part.base for slices in modules.values() for part in slices) else None,
            dtype=document.out_dtype or document.dtype,
            like=base,
            tokenizer=tokenizer,
            union=union,
            extras=document.graftwork,
            notes=tuple(notes),
            document=written,
        )

    def _slices(self, document: Document, module: ModuleItem, base: str | None) -> Iterator[Slice]:
        """Yield a module's slices; models without slices are one slice of all their layers."""
        row = MERGEKIT[document.merge_method]
        whole = not module.slices
        slices = module.slices or (SliceItem(sources=module.models or ()),)
        for part in slices:
            own_base = self.name(part.base_model) if part.base_model is not None else base
            sources = [
                Source(model=self.name(source.model), layers=source.layer_range, parameters=source.parameters)
                for source in part.sources
            ]
            for source in sources:
                if whole and source.layers is not None:
                    raise RecipeError("`layer_range` belongs under `slices`, not under `models`")
                if not whole and source.layers is None:
                    raise RecipeError(f"the source {source.model} of a slice has no `layer_range`, such as [0, 32]")
            names = [source.model for source in sources]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise RecipeError(f"{twice} is listed twice in one merge")
            if whole and own_base is not None and own_base not in names:
                sources.append(Source(model=own_base))
            own = (
                next((source for source in sources if source.model == own_base), None)
                if row.base != "ignored"
                else None
            )
            if own_base is not None and own is None and row.base != "ignored":
                raise RecipeError(
                    f"the base {own_base} is not among the sources of a slice; list it with its `layer_range`"
                )
            if own is not None and len(sources) == 1:
                raise RecipeError(f"there is nothing but the base {own_base} to merge; list other models")
            self._check(document, part, sources, own)
            yield Slice(
                sources=tuple(source for source in sources if source is not own),
                base=own,
                parameters=(part.parameters, module.parameters, document.parameters),
            )

    @staticmethod
    def _check(document: Document, part: SliceItem, sources: Sequence[Source], base: Source | None) -> None:
        """Refuse parameters that the method does not have, or that mergekit would not look for in their place."""
        method, known = document.merge_method, MERGEKIT[document.merge_method].parameters
        levels = [
            *_parameters(document),
            part.parameters,
            *(source.parameters for source in sources if source is not base),
        ]
        for level in levels:
            for name in level:
                if name not in known:
                    raise RecipeError(f"merge_method {method!r} has no parameter {name!r}; {suggest(name, known)}")
        for source in sources:
            for name in source.parameters:
                if source is not base and known[name].of == "merge":
                    raise RecipeError(
                        f"`{name}` is one value for all models, and mergekit does not look for it at a single one ({source.model}); "
                        "put it under the `parameters` of the slice or of the whole"
                    )

    def _tokenizer(self, document: Document) -> tuple[str | None, bool]:
        """Return the model that lends the tokenizer, if one is said, and whether vocabularies have to be united."""
        said = document.tokenizer_source
        if document.tokenizer is not None:
            said = document.tokenizer.source
            asked = [key for key in ("tokens", "pad_to_multiple_of") if getattr(document.tokenizer, key)]
            if asked:
                raise RecipeError(
                    f"`tokenizer: {asked[0]}` changes the vocabulary, which graftwork does not do; change the models' "
                    "embeddings first (mergekit-tokensurgeon, or transformers' resize_token_embeddings), then merge"
                )
        if said == "union":
            return None, True
        return (self.name(said), False) if isinstance(said, Reference) else (None, False)

    def name(self, reference: Reference) -> str:
        """Return what the recipe calls a model."""
        if reference.model.path in self.steps:
            if reference.lora is not None:
                raise RecipeError(
                    f"{reference.model.path} is made by this file, so no adapter can be applied to it yet"
                )
            return reference.model.path
        source = "+".join(self._spelled(part) for part in (reference.model, reference.lora) if part is not None)
        if source not in self._names:
            label, taken = as_name(label_of(source)), {*self.steps, *self.models}
            name = next(
                each for n in range(1, len(taken) + 2) if (each := label if n == 1 else f"{label}#{n}") not in taken
            )
            self._names[source] = name
            self.models[name] = ModelSource(path=source)
        return self._names[source]

    def _spelled(self, located: Located) -> str:
        """Return a model or adapter as graftwork spells it."""
        here = Path(located.path).expanduser()
        for path in (here, *([self.folder / here] if self.folder is not None else [])):
            if path.exists():
                if located.revision is not None:
                    raise RecipeError(f"{located.path} is a directory, which has no revision {located.revision!r}")
                return str(path.absolute())
        if hub.repository(located.path) is not None:
            return located.path
        if re.fullmatch(r"[\w.-]+/[\w.-]+", located.path) and not located.path.startswith("."):
            return f"hf://{located.path}" + (f"@{located.revision}" if located.revision else "")
        places = "the working directory" + (f" or {self.folder}" if self.folder is not None else "")
        raise RecipeError(f"there is no model {located.path} in {places}, and it is no ORG/NAME on the Hub")


def _slices(document: Document) -> Iterator[SliceItem]:
    yield from document.slices or ()
    for module in (document.modules or {}).values():
        yield from module.slices or ()


def _every_slice_has_a_base(document: Document) -> bool:
    return bool(list(_slices(document))) and all(part.base_model is not None for part in _slices(document))


def _parameters(document: Document) -> Iterator[Parameters]:
    """Yield what is said for the whole, modules, slices and sources."""
    yield document.parameters
    modules = [*(document.modules or {}).values(), ModuleItem(models=document.models, slices=document.slices)]
    for module in modules:
        yield module.parameters
        for part in module.slices or ():
            yield part.parameters
            yield from (source.parameters for source in part.sources)
        yield from (source.parameters for source in module.models or ())

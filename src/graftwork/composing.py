"""From sources to a composed model: loaded or copied, put together, saved, and looked at again in a process of its own.

Planning makes the same composition of the same models without their values (`graftwork.models.skeleton`), so a plan refuses what the
making would refuse, and its numbers are those of the result.
"""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.architecture.layer import Layer, parse
from graftwork.compose import Composed, Member, Verb
from graftwork.compose.lasting import lasting
from graftwork.compose.naming import as_layer_name
from graftwork.compose.ports import has_graph, inputs, outputs
from graftwork.errors import MismatchError, OptionError, OutputError, StoreError
from graftwork.models import live
from graftwork.models.configuration import configuration_of, objects_of, rebuild
from graftwork.models.copying import copy_model
from graftwork.models.custom import origins
from graftwork.models.examples import inputs_for
from graftwork.models.export import check_export, exported_name
from graftwork.models.export import export as export_model
from graftwork.models.fresh import self_check
from graftwork.models.lazy import keras
from graftwork.models.own import LAYER, NEEDS, imports_of
from graftwork.models.savedmodel.answering import Answering, answering
from graftwork.models.skeleton import skeleton, weightless
from graftwork.recipe.composition import spelled
from graftwork.stores import FORMATS, Format, Reader, format_for_target, open_store
from graftwork.stores.staged import check_target
from graftwork.tensor import ITEMSIZE, TensorSpec
from graftwork.training.fitting import done_with, kept_beside
from graftwork.writing import Progress, Result, Target, plan_convert, write_merge


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that goes into a composition.

    Attributes:
        name: What it is called in options and in the result.
        reader: The open file, or the plan of a step that makes it; None for a live model.
        model: The live model; None for a file.
        classes: Names of its classes in the order of its outputs, where they are known.
        shared: Whether the live model itself goes in, not a copy.
        role: Which of the verb's arguments it is.
    """

    name: str
    reader: Reader | None = None
    model: Any = None
    classes: tuple[str, ...] | None = None
    shared: bool = False
    role: str = "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompositionPlan:
    """What a composition would make.

    Attributes:
        verb: Which one.
        sources: What goes in.
        config: Keras's configuration of the result.
        members: One row for each model that goes in: its name, where it comes from, its class, layers and parameters.
        inputs: The ports of the result: name, shape, dtype.
        outputs: Likewise.
        parameters: How many it has: in all, trained, frozen, and new ones, which are not trained yet.
        size_bytes: What its weights need.
        needs: What has to be given to Keras to load the result; empty for a plain model.
        tables: What the verb decided; see `graftwork.compose.Composed`.
        notes: What the user should know.
        custom_objects: Classes and functions of the sources that Keras does not know.
        more: Names of further models that it makes, which are written beside the first.
    """

    verb: Verb
    sources: tuple[Source, ...]
    config: Any
    members: tuple[Mapping[str, Any], ...]
    inputs: tuple[Mapping[str, Any], ...]
    outputs: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, int]
    size_bytes: int
    needs: str
    tables: Mapping[str, Sequence[Mapping[str, Any]]]
    notes: tuple[str, ...]
    custom_objects: Mapping[str, Any]
    more: tuple[str, ...]

    @property
    def files(self) -> list[Path]:
        """Every file that is read."""
        return [file for source in self.sources if source.reader is not None for file in source.reader.header.files]

    def architecture(self) -> Layer:
        """Return the result's layers as merging sees them."""
        return parse(self.config, where=f"the {self.verb.kind}")

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the tensors that the result's file will hold; to know, one is written with weights of no meaning."""
        with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
            path = Path(folder) / "planned.keras"
            live.save(rebuild(self.config, f"the {self.verb.kind}", self.custom_objects, safe_mode=False), path)
            with open_store(path) as reader:
                return dict(reader.specs())


def plan_composition(
    verb: Verb, sources: Sequence[Source], custom_objects: Mapping[str, Any] | None = None
) -> CompositionPlan:
    """Return what a composition would make, without reading a weight.

    Raises:
        GraftworkError: For every reason for which making it would refuse.
    """
    custom = dict(custom_objects or {})
    for source in sources:
        custom.update(
            {cls.__name__: cls for cls in live.custom_classes(source.model)} if source.model is not None else {}
        )
    try:
        with weightless():
            return _planned(verb, sources, custom)
    except StoreError:  # stateful layers, and some that users write, give their variables values themselves
        return _planned(verb, sources, custom)


def _planned(verb: Verb, sources: Sequence[Source], custom: Mapping[str, Any]) -> CompositionPlan:
    members = _members(verb, sources, lambda source: skeleton(_origin(source), custom_objects=custom), values=False)
    brought = {
        id(variable) for member in members for model in (member.model, *member.copies) for variable in model.variables
    }
    rows = tuple(_row(member) for member in members)
    composed = _lasting(verb.compose(members))
    model = composed.model
    config = configuration_of(model)
    weights = [v for v in model.variables if not _is_seed(v)]
    filled = {id(variable) for variable in composed.filled}
    trained = sum(math.prod(v.shape) for v in model.trainable_variables)
    total = sum(math.prod(v.shape) for v in weights)
    return CompositionPlan(
        verb=verb,
        sources=tuple(sources),
        config=config,
        members=rows,
        inputs=tuple(_port(port) for port in inputs(model).values()),
        outputs=tuple(_port(port) for port in outputs(model).values()),
        parameters={
            "total": total,
            "trained": trained,
            "frozen": total - trained,
            "new": sum(math.prod(v.shape) for v in weights if id(v) not in brought and id(v) not in filled),
        },
        size_bytes=sum(math.prod(v.shape) * ITEMSIZE.get(keras.backend.standardize_dtype(v.dtype), 4) for v in weights),
        needs=_needs(model, config),
        tables=composed.tables,
        notes=composed.notes,
        custom_objects=custom,
        more=tuple(composed.more),
    )


def _origin(source: Source) -> Any:
    return source.model if source.model is not None else source.reader


def _members(
    verb: Verb, sources: Sequence[Source], made: Callable[[Source], Any], *, values: bool = True
) -> list[Member]:
    found, wanted = [], verb.copies()
    for source in sources:
        served = _served(verb, source, values)
        model, *copies = (served.model if served else made(source) for _ in range(wanted.get(source.name, 1)))
        where = source.reader.path.name if source.reader is not None else f"live model {source.model.name!r}"
        member = Member(name=source.name, model=model, source=where, classes=source.classes, copies=tuple(copies))
        found.append(replace(member, role=source.role, served=served))
    return found


def _served(verb: Verb, source: Source, values: bool) -> Answering | None:
    """Return what a SavedModel becomes that a verb takes as it is; None for any other source."""
    said: Mapping[str, str] = getattr(verb, "signatures", {})
    is_program = source.reader is not None and source.reader.header.format == "saved_model"
    if not is_program or source.role not in verb.served:
        if source.name in said:
            raise OptionError(f"signatures: {source.name} is no SavedModel, so it has none")
        return None
    assert source.reader is not None
    return answering(source.reader, source.name, said.get(source.name), values=values)


def _row(member: Member) -> dict[str, Any]:
    model = member.model
    weights = [v for v in model.variables if not _is_seed(v)] if model.built else []
    return {
        "name": member.name,
        "source": member.source,
        "class": type(model).__name__,
        "layers": len(list(model._flatten_layers(include_self=False))),
        "parameters": sum(math.prod(v.shape) for v in weights) or (member.served and member.served.parameters) or 0,
        "inputs": [_port(port) for port in inputs(model).values()] if has_graph(model) else [],
        "outputs": [_port(port) for port in outputs(model).values()] if has_graph(model) else [],
    }


def _port(port: Any) -> dict[str, Any]:
    return {"name": port.name, "shape": list(port.shape), "dtype": port.dtype}


def _is_seed(variable: Any) -> bool:
    return "seed_generator" in variable.path or variable.name == "seed_generator_state"


def _needs(model: Any, config: Any) -> str:
    """Return what Keras has to be given to load a model, in words."""
    own = _own(model, config)
    needs = [f"custom_objects with {', '.join(sorted({thing.__name__ for thing in own}))}"] if own else []
    if files := origins(own):
        needs[0] += f" ({', '.join(Path(file).name for file in files)})"
    if _holds_code(model):
        needs.append("safe_mode=False, for it holds the code of a Lambda layer")
    return " and ".join(needs)


def _own(model: Any, config: Any = None) -> list[Any]:
    """Return the classes and functions of the user's that a model cannot be loaded without."""
    return [thing for thing in objects_of(model, config).values() if thing.__module__ != LAYER]


def _holds_code(model: Any) -> bool:
    return any(type(layer).__name__ == "Lambda" for layer in model._flatten_layers())


def compose(
    verb: Verb,
    sources: Sequence[Source],
    custom_objects: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Composed:
    """Return a live composition of copies of the sources, trained if the verb says so.

    Raises:
        GraftworkError: If the sources do not go together.
        StoreError: If one cannot be loaded or copied.
    """
    _check_shared(verb, sources)

    def own(source: Source) -> Any:
        if source.shared:
            return source.model
        if source.reader is None:
            return copy_model(source.model)
        return live.load_model(source.reader, custom_objects=custom_objects)

    composed = verb.compose(_members(verb, sources, own))
    if composed.finish is not None:
        composed.finish()
    if composed.train is not None:
        trained = composed.train(progress)
        composed = replace(
            composed, notes=(*composed.notes, *trained.notes), tables={**composed.tables, **trained.tables}
        )
    return composed if any(source.shared for source in sources) else _lasting(composed)


def _lasting(composed: Composed) -> Composed:
    """Return a composition whose frozen layers stay frozen when it is loaded; where that cannot be had, it says so."""
    try:
        model, notes = lasting(composed.model)
    except OptionError as error:
        return replace(composed, notes=(*composed.notes, f"not frozen once it is loaded: {error}"))
    return replace(composed, model=model, notes=(*composed.notes, *notes))


def _check_shared(verb: Verb, sources: Sequence[Source]) -> None:
    """Refuse to use live models themselves where the result would change them or could not be loaded again."""
    shared = [source for source in sources if source.shared]
    if not shared:
        return
    if any(source.model is None for source in sources):
        raise OptionError("share=True takes live models; a file is loaded for the result alone")
    if verb.takes != ("models",):
        raise OptionError(f"share=True: {verb.kind} changes layers and their names, so it works on a copy of the model")
    if getattr(verb, "inline", False):
        raise OptionError("share=True and inline=True exclude each other: layers would get other names in the sources")
    held: dict[int, str] = {}
    for source in shared:
        if source.name != source.model.name or as_layer_name(source.name) != source.name:
            raise OptionError(
                f"share=True keeps names as they are, but model {source.model.name!r} would be called {source.name!r} in the result; "
                "give every model a name of its own"
            )
        for layer in source.model._flatten_layers():
            other = held.setdefault(id(layer), source.name)
            if other != source.name:
                raise MismatchError(
                    f"{other} and {source.name} share the layer {layer.name!r}; Keras saves such a model and cannot load it again",
                    advice="leave out share=True, so that each gets its own copy",
                )


# Written ---------------------------------------------------------------------------------------------------------------


def check_composition(plan: CompositionPlan, target: Target, export: str | None = None) -> None:
    """Refuse a target that cannot take a composition.

    Args:
        plan: The plan.
        target: Where its result shall go.
        export: What it is exported as, beside the target.

    Raises:
        OutputError: With the reason.
        UnknownNameError: If there is no such export.
    """
    lender = next((source.reader for source in plan.sources if source.reader is not None), None)
    row = format_for_target(target.path, lender, target.format)
    if row.create is None:
        raise OutputError(f"format {row.name!r} is only read")
    if not row.holds_architecture or row.name == "preset":
        raise OutputError(
            f"format {row.name!r} holds weights only, but a composition is an architecture too; end the target in .keras"
        )
    for path in (target.path, *(beside(target.path, row, word) for word in plan.more)):
        check_target(path, row, plan.files, overwrite=target.overwrite)
    if export is not None:
        check_export(beside(target.path, row, "", export), export, plan.files, overwrite=target.overwrite)


def beside(path: Path, row: Format, word: str, export: str | None = None) -> Path:
    """Return where a further result goes: the target's name with a word behind it, or with the ending of an export."""
    ending = next((suffix for suffix in row.suffixes if path.name.endswith(suffix)), "")
    stem = path.name.removesuffix(ending)
    if export is not None:
        return path.with_name(exported_name(stem, export))
    return path.with_name(f"{stem}_{word}{ending}")


def write_composition(
    plan: CompositionPlan,
    target: Target,
    progress: Progress | None = None,
    *,
    export: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Result:
    """Make a composition and write it.

    Args:
        plan: The plan; its sources are open.
        target: Where to.
        progress: Told how far the work is: made, checked and written, a third each.
        export: Also write it for another runtime, beside the target: ``"saved_model"``, ``"onnx"`` or ``"litert"``.
        settings: What the record says of how it was made; by default the verb's options and its models.

    Raises:
        OutputError: If the target cannot be written.
        StoreError: If the result is not what it should be; then nothing is written.
    """
    begin = time.perf_counter()
    check_composition(plan, target, export)

    def tell(done: int) -> None:
        if progress is not None:
            progress(plan.verb.kind, done * plan.size_bytes, 3 * plan.size_bytes)

    tell(0)
    verb = kept_beside(plan.verb, target.path)
    composed = compose(verb, plan.sources, plan.custom_objects, progress)
    notes = list(composed.notes)
    tell(1)
    with tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        path = Path(folder) / "result.keras"
        live.save(composed.model, path)
        imports, files = imports_of(composed.model), origins(_own(composed.model))
        if imports:
            notes.append(f"to load it, {NEEDS}")
        if plan.needs:
            notes.append(f"to load it, Keras needs {plan.needs}")
        if target.check and not target.passing and files is not None and not _holds_code(composed.model):
            notes.append(
                self_check(
                    path,
                    composed.model,
                    inputs_for(composed.model),
                    reference=composed.reference,
                    exact=composed.exact,
                    imports=imports,
                    custom=files,
                )
            )
        tell(2)
        record = spelled(plan.verb, [(s.role, s.name) for s in plan.sources]) if settings is None else settings
        result = _moved(path, plan, target, record, files or ())
        for word, model in composed.more.items():
            path = Path(folder) / f"{word}.keras"
            live.save(model, path)
            there = replace(target, path=beside(target.path, FORMATS[result.format], word))
            further = _moved(path, plan, there, record, files or ())
            notes.append(f"the {word} is {further.path}")
    if export is not None and not target.passing:
        place = beside(target.path, FORMATS[result.format], "", export)
        notes.append(f"{place}: {export_model(composed.model, place, export, overwrite=target.overwrite)}")
    done_with(verb)
    tell(3)
    return replace(result, notes=(*notes, *result.notes), tables=composed.tables, seconds=time.perf_counter() - begin)


def _moved(
    path: Path, plan: CompositionPlan, target: Target, record: Mapping[str, Any], custom: Sequence[str]
) -> Result:
    """Write a saved result where it belongs, with the record of how it was made."""
    with open_store(path) as reader:
        row = format_for_target(target.path, reader, target.format)
        copied, losses = plan_convert(reader, row)
        result = write_merge(
            copied,
            target,
            record,
            verb=plan.verb.kind,
            made_of=[(source.name, source.reader) for source in plan.sources],
            custom_objects=[Path(file).name for file in custom],
        )
    return replace(result, notes=tuple(f"{row.name} cannot carry {loss}: left out" for loss in losses))

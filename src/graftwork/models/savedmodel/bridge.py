"""A SavedModel as a Keras model: rebuilt where it carries its configuration, else a layer around one of its signatures."""

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from graftwork.errors import OptionError, StoreError
from graftwork.models import live
from graftwork.models.alone import array
from graftwork.models.configuration import objects_of
from graftwork.models.custom import origins
from graftwork.models.difference import compare
from graftwork.models.examples import inputs_for
from graftwork.models.fresh import REFERENCE, predict, self_check
from graftwork.models.lazy import keras
from graftwork.models.own import NEEDS, imports_of, register
from graftwork.models.savedmodel.agreement import SERVING, loaded
from graftwork.models.savedmodel.base import ServablePlan
from graftwork.models.savedmodel.folder import files_of, hold
from graftwork.models.savedmodel.rebuild import described, rebuilt, refusal
from graftwork.models.savedmodel.running import Running, Wanted
from graftwork.models.savedmodel.serving import called
from graftwork.stores.files import brief
from graftwork.stores.saved_program import Port, Program, Signature, read_program, shown_shape
from graftwork.stores.saved_tensors import Inside, Insides, insides
from graftwork.stores.tf_bundle import OPAQUE, STRING
from graftwork.stores.tf_program import Shape
from graftwork.tensor import ITEMSIZE

Result = Literal["auto", "rebuild", "layer"]

TEXT = OPAQUE[STRING]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridged:
    """A SavedModel as a Keras model.

    Attributes:
        model: The model.
        kind: ``"rebuild"``: a plain model with weights of its own; or ``"layer"``: a layer around a signature.
        notes: What the user should know.
    """

    model: Any
    kind: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """What will be made of a SavedModel, as far as its program tells.

    Attributes:
        program: The program.
        signature: Which signature.
        inputs: Its inputs that are needed, by name.
        wanted: What is asked for, by the name that it gets.
        tensors: Type and shape of what is asked for, by the same names.
        kind: What comes out: ``"rebuild"`` or ``"layer"``.
        why: Why it is a layer.
        name: What the model is called.
    """

    program: Program
    signature: Signature
    inputs: Mapping[str, Port]
    wanted: Mapping[str, Wanted]
    tensors: Mapping[str, Inside]
    kind: str
    why: str
    name: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What is said beforehand."""
        where = self.program.path.name
        if self.kind == "rebuild":
            return (
                f"{where} carries its configuration of Keras 2, so it is rebuilt: a plain model, all of which can be trained",
            )
        left = [key for key in self.signature.inputs if key not in self.inputs]
        return (
            f"{where} becomes a frozen layer around signature {self.signature.name!r}: {self.why}",
            *((f"inputs {', '.join(map(repr, left))} are not needed and left out",) if left else ()),
        )


def foreseen(
    path: Path,
    *,
    signature: str | None = SERVING,
    at: Sequence[str] = (),
    result: Result = "auto",
    name: str | None = None,
) -> Bridge:
    """Return what a SavedModel can become, from its files alone.

    Args:
        path: The directory.
        signature: Which signature; None for the one for serving, or the only one.
        at: Outputs of the signature, or tensors inside it; by default all outputs.
        result: What to make of it.
        name: What the model is called; by default as the directory.

    Raises:
        GraftworkError: If it cannot become a Keras model.
    """
    program = read_program(path)
    if not program.signatures:
        raise StoreError(
            f"{path} has no signatures, so nothing tells what it takes; save it with signatures= in TensorFlow"
        )
    chosen = called(program, signature, name or path.name)
    signature = chosen.name
    why = _no_rebuild(program, signature, at, result)
    program.refuse_unrunnable(signature)
    _check_inputs(chosen, path)
    inside = insides(program, chosen)
    found = _asked(inside, chosen, at, path)
    inputs = {
        key: port for key, port in chosen.inputs.items() if key in inside.needed([t.name for t in found.values()])
    }
    if not inputs:
        raise StoreError(
            f"signature {signature!r} of {path} takes no inputs that {', '.join(map(repr, found))} depend on, so no model can be made"
        )
    keys = {key: tensor.output.split(", ")[0] for key, tensor in found.items()}
    return Bridge(
        program=program,
        signature=chosen,
        inputs=inputs,
        wanted={key: Wanted(tensor=t.name, output=keys[key], shape=t.shape) for key, t in found.items()},
        tensors=found,
        kind="layer" if why else "rebuild",
        why=why,
        name=re.sub(r"[^\w.-]+", "_", name or path.resolve().name) or "bridge",
    )


def _no_rebuild(program: Program, signature: str, at: Sequence[str], result: Result) -> str:
    """Return why a model is not rebuilt, nothing where it is."""
    reasons = []
    if result == "layer":
        return "as asked"
    if at:
        reasons.append("tensors are asked for by name")
    if signature != SERVING:
        reasons.append(f"only {SERVING!r} is the model itself")
    refused = refusal(program.path)
    if refused is not None and (not reasons or result == "rebuild"):
        reasons.append(refused)
    if reasons and result == "rebuild":
        raise OptionError(
            f"{program.path} cannot be rebuilt as a plain Keras model: {'; '.join(reasons)}; leave out result='rebuild' for a layer"
        )
    return "; ".join(reasons)


def _check_inputs(signature: Signature, path: Path) -> None:
    """Refuse a signature that Keras cannot have as a layer."""
    where = f"signature {signature.name!r} of {path}"
    if not signature.inputs or not signature.outputs:
        what = "inputs" if not signature.inputs else "outputs"
        raise StoreError(f"{where} has no {what}, so no model can be made of it")
    for word, ports in (("input", signature.inputs), ("output", signature.outputs)):
        for port in ports.values():
            if port.composite:
                raise StoreError(
                    f"{word} {port.key!r} of {where} is sparse or ragged, and only plain tensors are taken; export one with plain tensors"
                )
            if port.dtype not in ITEMSIZE and port.dtype != TEXT:
                raise StoreError(f"{word} {port.key!r} of {where} is of type {port.dtype}, which Keras does not know")
    for port in signature.inputs.values():
        if port.shape is None:
            raise StoreError(
                f"input {port.key!r} of {where} may have any number of axes, and a Keras model has a fixed one"
            )
        if not port.shape:
            raise StoreError(f"input {port.key!r} of {where} is one number without a batch, which no Keras model takes")


def _asked(inside: Insides, signature: Signature, at: Sequence[str], path: Path) -> dict[str, Inside]:
    """Return the tensors that are asked for by the names that they get."""
    if not at:
        by_key = {key: tensor for tensor in inside.tensors.values() for key in tensor.output.split(", ") if key}
        return {key: by_key[key] for key in signature.outputs}
    tensors = [inside.find(name, path.name) for name in at]
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise OptionError(f"at: {', '.join(at)} names a tensor twice")
    return dict(zip(_named(tensors), tensors, strict=True))


def _named(tensors: Sequence[Inside]) -> list[str]:
    """Return a name for each tensor: as the signature calls it, or the end of its name that tells it apart."""
    names = [tensor.output.split(", ")[0] or tensor.name for tensor in tensors]
    length = 1
    while len({_end(name, length) for name in names}) < len(names):
        length += 1
    return [_end(name, length) for name in names]


def _end(name: str, length: int) -> str:
    return re.sub(r"[^\w.-]+", "_", "_".join(name.split("/")[-length:]))


# Made ------------------------------------------------------------------------------------------------------------------


def bridge(
    path: Path,
    *,
    signature: str = SERVING,
    at: Sequence[str] = (),
    result: Result = "auto",
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Bridged:
    """Return a SavedModel as a Keras model.

    Args:
        path: The directory, which is not needed afterwards.
        signature: Which signature.
        at: Outputs of the signature, or tensors inside it; by default all outputs.
        result: ``"rebuild"`` for a plain Keras model, which only SavedModels of Keras 2 with their configuration become; ``"layer"`` for a
            frozen layer around the signature; ``"auto"`` for the first where it can be had.
        name: What the model is called; by default as the directory.
        custom_objects: Functions that a model which is rebuilt refers to and Keras does not know, by name.

    Raises:
        GraftworkError: If it cannot become a Keras model.
    """
    return made(foreseen(path, signature=signature, at=at, result=result, name=name), result, custom_objects)


def made(plan: Bridge, result: Result = "auto", custom_objects: Mapping[str, Any] | None = None) -> Bridged:
    """Return the Keras model that was foreseen.

    Args:
        plan: What was foreseen.
        result: What to make of it.
        custom_objects: Functions that a model which is rebuilt refers to and Keras does not know, by name.

    Raises:
        StoreError: If TensorFlow cannot load the SavedModel, or what is cut out of it is not what it should be.
    """
    path, notes = plan.program.path, list(plan.notes)
    if plan.kind == "rebuild":
        try:
            found = rebuilt(path, name=plan.name, custom_objects=custom_objects)
            return Bridged(model=found.model, kind="rebuild", notes=(*notes, found.note))
        except StoreError as error:
            if result == "rebuild":
                raise
            notes = [
                f"{path.name} becomes a frozen layer around signature {plan.signature.name!r}: it cannot be rebuilt ({brief(error)})"
            ]
    register()  # before TensorFlow, which Keras imports as loudly as is wanted
    folder = hold(path)
    running = Running(folder.path, plan.signature.name, list(plan.inputs), plan.wanted)
    specs: dict[str, tuple[tuple[int | None, ...], str]] = {}
    for (key, each), (shape, dtype) in zip(plan.wanted.items(), running.specs(plan.wanted), strict=True):
        shape = _known(shape, each.shape)
        if shape is None:
            shape = _tried(plan, running, key)
            notes.append(f"how many axes {key!r} has is not told; tried out, it has {len(shape)}")
        specs[key] = shape, dtype
    layer, model = _around(plan, specs, folder.digest)
    layer.attach(folder, running)
    size = sum(file.stat().st_size for file in files_of(folder.path))
    notes.append(f"every file of it contains the whole SavedModel ({size:,} bytes); to load one, {NEEDS}")
    return Bridged(model=model, kind="layer", notes=tuple(notes))


def sketched(plan: Bridge) -> Bridged:
    """Return the Keras model that was foreseen without its values; to be called inside `weightless`.

    TensorFlow is loaded only where files do not tell: what tables of lookup layers hold, and how many axes an output has.

    Raises:
        StoreError: If TensorFlow is needed and cannot load the SavedModel.
    """
    if plan.kind == "rebuild":
        try:
            with described(plan.program.path) as (source, _):
                return Bridged(model=live.renamed(live.rebuilt(source), plan.name), kind="rebuild", notes=plan.notes)
        except StoreError:
            pass  # it becomes a layer then
    specs: dict[str, tuple[tuple[int | None, ...], str]] = {}
    for key, tensor in plan.tensors.items():
        port = plan.signature.outputs.get(plan.wanted[key].output)
        shape = _known(port.shape, tensor.shape) if port is not None else tensor.shape
        if shape is None or not tensor.dtype:
            return made(replace(plan, kind="layer"))
        specs[key] = shape, tensor.dtype
    _, model = _around(plan, specs, "")
    return Bridged(model=model, kind="layer", notes=plan.notes)


def _around(plan: Bridge, specs: Mapping[str, tuple[tuple[int | None, ...], str]], digest: str) -> tuple[Any, Any]:
    """Return a layer around a signature, which has no SavedModel yet, and a model of it.

    Args:
        plan: What is foreseen.
        specs: Shape and type of what is asked for, by name.
        digest: That of the SavedModel's files.
    """
    register()
    from graftwork.models.savedmodel.layer import SavedModelLayer

    layer = SavedModelLayer(
        signature=plan.signature.name,
        inputs={key: {"shape": list(port.shape or ()), "dtype": port.dtype} for key, port in plan.inputs.items()},
        outputs={
            key: {"tensor": each.tensor, "output": each.output, "shape": list(specs[key][0]), "dtype": specs[key][1]}
            for key, each in plan.wanted.items()
        },
        digest=digest,
        name=f"{plan.name}_{plan.signature.name}",
    )
    given = {
        key: keras.Input(batch_shape=port.shape, dtype=port.dtype, name=re.sub(r"[^\w.-]+", "_", key))
        for key, port in plan.inputs.items()
    }
    taken = given if len(given) > 1 else next(iter(given.values()))
    return layer, keras.Model(taken, layer(taken), name=plan.name)


def _known(found: Shape, told: Shape) -> Shape:
    """Return what a shape is by what TensorFlow finds, and by what the program tells."""
    if found is None or told is None or len(found) != len(told):
        return told if found is None else found
    return tuple(a if a is not None else b for a, b in zip(found, told, strict=True))


def _tried(plan: Bridge, running: Running, key: str) -> tuple[None, ...]:
    """Return the shape of an output of which TensorFlow does not know how many axes it has, from what it is for zeros and empty texts."""
    try:
        return (None,) * len(running.run(_zeros(plan.inputs))[key].shape)
    except Exception as error:  # of any operation
        raise StoreError(
            f"how many axes {key!r} of signature {plan.signature.name!r} of {plan.program.path} has is not told, and Keras has to know; "
            f"with zeros it does not run: {brief(error)}"
        ) from error


def _zeros(ports: Mapping[str, Port]) -> dict[str, Any]:
    """Return zeros, or empty texts, for inputs."""
    import tensorflow as tf

    return {name: tf.zeros([size or 1 for size in port.shape or ()], port.dtype) for name, port in ports.items()}


def witnessed(plan: Bridge, model: Any) -> str:
    """Compare a layer with the signature that it was made of, as TensorFlow runs it, on example inputs.

    Tensors inside are nothing that the signature says. There the graph that they are cut out of is compared: it is asked for all of the
    signature's outputs as well.

    Returns:
        What was found, as a sentence.

    Raises:
        StoreError: If the two do not say the same.
    """
    path, name = plan.program.path, plan.signature.name
    whole = plan if len(plan.inputs) == len(plan.signature.inputs) else foreseen(path, signature=name, result="layer")
    taker = model if whole is plan else made(whole).model
    given = inputs_for(taker)
    inputs = dict(given) if isinstance(given, Mapping) else {next(iter(whole.inputs)): given}
    with _on_processor():
        tensors = {key: _tensor(values, whole.inputs[key].dtype) for key, values in inputs.items()}
        unneeded = _zeros({key: port for key, port in plan.signature.inputs.items() if key not in tensors})
        said = {key: array(value) for key, value in loaded(path).signatures[name](**tensors, **unneeded).items()}
        ours = predict(model, _as_given({key: inputs[key] for key in plan.inputs}))
        found = dict(ours) if isinstance(ours, Mapping) else {next(iter(plan.wanted)): ours}
        if all(each.output for each in plan.wanted.values()):
            expected = {key: said[each.output] for key, each in plan.wanted.items()}
            what = f"signature {name!r} of {path.name} itself says the same"
        else:
            outputs = foreseen(path, signature=name, result="layer").wanted
            asked = {f"output {key}": replace(each, output="") for key, each in outputs.items()} | dict(plan.wanted)
            cut = Running(path, name, list(whole.inputs), asked).run(tensors)
            expected = {key: array(cut[key]) for key in plan.wanted}
            expected |= {f"output {key}": said[key] for key in outputs}
            found |= {f"output {key}": array(cut[f"output {key}"]) for key in outputs}
            what = f"the graph that it is cut out of gives what signature {name!r} of {path.name} gives"
    far = compare(found, expected, rtol=REFERENCE)
    if not far.agrees:
        raise StoreError(f"the bridge to {path} does not say what its signature {name!r} says: {far}")
    return what + (f" within {far.relative:.1g} of the largest entry" if far.absolute else ", to the last bit")


def _on_processor() -> Any:
    """Return the processor as TensorFlow's device, as long as a `with` lasts."""
    import tensorflow as tf

    return tf.device("cpu:0")


def _tensor(values: Any, dtype: str) -> Any:
    import tensorflow as tf

    if values.dtype.kind in "US":
        return tf.constant(values.tolist(), tf.string, values.shape)
    return tf.cast(tf.constant(values), dtype)


def _as_given(inputs: Mapping[str, Any]) -> Any:
    return dict(inputs) if len(inputs) > 1 else next(iter(inputs.values()))


# Planned ---------------------------------------------------------------------------------------------------------------


def plan_bridge(
    sources: Sequence[tuple[str, Path]],
    *,
    signature: str = SERVING,
    at: Sequence[str] = (),
    result: Result = "auto",
    name: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> ServablePlan:
    """Plan the Keras model that a SavedModel becomes.

    Args:
        sources: Label and path of the SavedModel.
        signature: Which signature.
        at: Outputs of the signature, or tensors inside it; by default all outputs.
        result: What to make of it.
        name: What the model is called.
        custom_objects: Functions that a model which is rebuilt refers to and Keras does not know, by name.

    Raises:
        GraftworkError: If it cannot become a Keras model.
    """
    ((label, path),) = sources
    plan = foreseen(path, signature=signature, at=at, result=result, name=name or label)

    def make(target: Path) -> Sequence[str]:
        with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as folder:
            found = made(plan, result, custom_objects)
            file = Path(folder) / "bridged.keras"
            live.save(found.model, file)
            notes = [note for note in found.notes if note not in plan.notes]
            if found.kind == "layer":
                notes.append(witnessed(plan, found.model))
            own = objects_of(found.model) if found.kind == "rebuild" else {}
            files = origins(own.values())
            if own:
                notes.append(f"to load it, Keras needs custom_objects with {', '.join(own)}")
            if files is not None:
                imports = imports_of(found.model)
                notes.append(self_check(file, found.model, inputs_for(found.model), imports=imports, custom=files))
            file.rename(target)
        return notes

    files = tuple(files_of(path))
    return ServablePlan(
        kind="savedmodel_bridge",
        sources=tuple(sources),
        files=files,
        format="keras",
        signatures=tuple(
            {"signature": signature, "port": word, "name": key, "shape": shown_shape(port.shape), "dtype": port.dtype}
            for word, ports in (("input", plan.inputs), ("output", plan.tensors))
            for key, port in ports.items()
        ),
        size_bytes=sum(file.stat().st_size for file in files),
        make=make,
        tables={"outputs": [{"output": key, "tensor": t.name, "op": t.op} for key, t in plan.tensors.items()]},
        notes=plan.notes,
    )

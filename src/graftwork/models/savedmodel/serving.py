"""SavedModels as parts: looked at without TensorFlow, loaded by it, saved as one.

Each part stays an object of the result (``loaded.a`` for the part labelled ``a``), with its variables, tables, files and functions, those
that are no signatures as well; nothing is shared between parts. The result's own signatures call the parts'.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import OptionError, StoreError, UnknownNameError
from graftwork.models.lazy import quietly
from graftwork.models.savedmodel import beside, legacy
from graftwork.stores.files import brief
from graftwork.stores.saved_model import SavedModelReader
from graftwork.stores.saved_program import Port, Program, Signature, read_program, shown_shape

SERVING = "serving_default"
"""The signature that is called where none is named."""

OWN = "__saved_model"
"""How signatures begin that nobody calls: they initialise, or train."""

Sources = Sequence[tuple[str, Path]]
"""Label and path of everything that goes in."""

Function = Callable[..., Mapping[str, Any]]
"""A signature as TensorFlow has it: tensors by name in, tensors by name out."""

Build = Callable[[Mapping[str, Mapping[str, Function]]], Mapping[str, Any]]
"""Makes the signatures of a result of those of its parts, by label and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A SavedModel that goes into another one.

    Attributes:
        label: What it is called.
        path: Its directory.
        program: What its files tell of it.
        files: All of them.
        size_bytes: Their sizes added up.
    """

    label: str
    path: Path
    program: Program
    files: tuple[Path, ...]
    size_bytes: int

    @property
    def signatures(self) -> dict[str, Signature]:
        """Its signatures by name, without those that nobody calls."""
        return callable_signatures(self.program)

    def signature(self, name: str | None = None) -> Signature:
        """Return a signature: the one named, else the serving one, else the only one.

        Raises:
            UnknownNameError: If there is none of this name.
            OptionError: If several could be meant.
            StoreError: If one of its ports is sparse or ragged.
        """
        found = called(self.program, name, self.label)
        for port in (*found.inputs.values(), *found.outputs.values()):
            if port.composite:
                raise StoreError(
                    f"{port.key!r} of signature {found.name!r} of {self.path} is a sparse or ragged tensor, which is not supported"
                )
        return found


def parts(sources: Sources, *, least: int = 1) -> tuple[Part, ...]:
    """Look at SavedModels, and refuse what cannot be part of another one.

    Args:
        sources: Their labels and paths.
        least: How many there must be.

    Raises:
        StoreError: If one is damaged or incomplete, has no signatures, calls Python, or reads files that are not its own.
        OptionError: If there are too few.
    """
    if len(sources) < least:
        raise OptionError(f"this takes at least {least} SavedModels, and there is {len(sources) or 'none'}")
    return tuple(_part(label, path) for label, path in sources)


def _part(label: str, path: Path) -> Part:
    program = read_program(path)
    program.refuse_unrunnable()
    with SavedModelReader(path) as reader:
        header = reader.header
    part = Part(label=label, path=path, program=program, files=header.files, size_bytes=header.size_bytes)
    if not part.signatures:
        raise StoreError(
            f"{path} has no signatures, so there is nothing of it that could be called; save it with signatures="
        )
    return part


def callable_signatures(program: Program) -> dict[str, Signature]:
    """Return the signatures of a program by name, without those that nobody calls."""
    return {name: found for name, found in program.signatures.items() if not name.startswith(OWN)}


def called(program: Program, name: str | None, label: str) -> Signature:
    """Return the signature that is called: the one named, else the serving one, else the only one.

    Args:
        program: The program.
        name: Which one, if somebody says.
        label: What messages call the SavedModel.

    Raises:
        UnknownNameError: If there is none of this name.
        OptionError: If several could be meant.
        StoreError: If there is none.
    """
    known = callable_signatures(program)
    if name is not None:
        return program.signature(name)
    if not known:
        raise StoreError(
            f"{program.path} has no signatures, so nothing tells what it takes; save it with signatures= in TensorFlow"
        )
    if SERVING not in known and len(known) > 1:
        listed = ", ".join(map(repr, known))
        raise OptionError(f"{label} has the signatures {listed} and no {SERVING!r}; say which under `signatures`")
    return known[SERVING if SERVING in known else next(iter(known))]


def chosen_signatures(given: Sequence[Part], said: Mapping[str, str]) -> dict[str, Signature]:
    """Return the signature of each part that is called, by label.

    Args:
        given: The parts.
        said: Names of signatures by label, where it is not the one for serving.

    Raises:
        UnknownNameError: If there is no such part or signature.
        OptionError: If several could be meant.
    """
    labels = [part.label for part in given]
    unknown = [label for label in said if label not in labels]
    if unknown:
        raise UnknownNameError("part (under `signatures`)", unknown[0], labels)
    return {part.label: part.signature(said.get(part.label)) for part in given}


def sessions(given: Sequence[Part]) -> dict[str, Mapping[str, Any]]:
    """Return what a fresh process has to know of the parts."""
    return {part.label: beside.savedmodel(part.path, part.program.tags) for part in given}


def rows(signatures: Mapping[str, tuple[Mapping[str, Port], Mapping[str, Port]]]) -> tuple[Mapping[str, Any], ...]:
    """Return the rows of `ServablePlan.signatures` for inputs and outputs by signature."""
    return tuple(
        {"signature": name, "port": what, "name": key, "shape": shown_shape(port.shape), "dtype": port.dtype}
        for name, sides in signatures.items()
        for what, ports in zip(("input", "output"), sides, strict=True)
        for key, port in ports.items()
    )


def unlike(one: Port, other: Port) -> str:
    """Return why two ports cannot hold the same tensor; empty if they can."""
    if one.dtype != other.dtype:
        return "their dtypes differ"
    if one.shape is None or other.shape is None:
        return ""
    if len(one.shape) != len(other.shape):
        return "they have different numbers of axes"
    sizes = zip(one.shape, other.shape, strict=True)
    return "" if all(a is None or b is None or a == b for a, b in sizes) else "their shapes differ"


def combine_parts(target: Path, given: Sequence[Part], build: Build) -> None:
    """Save one SavedModel that has all parts in it.

    Args:
        target: Where; there is nothing yet.
        given: The parts.
        build: Makes the result's signatures.

    Raises:
        StoreError: If TensorFlow cannot load a part, or cannot save the result.
    """
    with quietly(), tempfile.TemporaryDirectory(prefix="graftwork-") as folder:
        import tensorflow as tf

        root = tf.Module()
        functions = {}
        for number, part in enumerate(given):
            loaded = _loaded(part, Path(folder) / str(number))
            setattr(root, attribute(part.label), loaded)
            functions[part.label] = {name: loaded.signatures[name] for name in part.signatures}
        try:
            tf.saved_model.save(root, str(target), signatures=build(functions))
        except Exception as error:  # of TensorFlow, with its many classes
            labels = ", ".join(part.label for part in given)
            raise StoreError(f"TensorFlow cannot save {labels} as one SavedModel: {brief(error)}") from error


def _loaded(part: Part, folder: Path) -> Any:
    """Load a part; its variables and tables live as long as the object."""
    import tensorflow as tf

    try:
        path = part.path
        if part.program.of_tf1:
            path = legacy.prepared(part.path, part.program.tags, folder)
        return tf.saved_model.load(str(path))
    except StoreError:
        raise
    except Exception as error:  # of TensorFlow, with its many classes
        raise StoreError(f"TensorFlow cannot load {part.path}: {brief(error)}") from error


def attribute(label: str) -> str:
    """Return the name that a part has as an attribute of the result."""
    import tensorflow as tf

    return f"{label}_" if hasattr(tf.Module, label) or label in ("signatures", "_name") else label


def specs(ports: Mapping[str, Port]) -> dict[str, Any]:
    """Return inputs as TensorFlow's specifications."""
    import tensorflow as tf

    return {key: tf.TensorSpec(port.shape, port.dtype, name=key) for key, port in ports.items()}


def as_word(name: str) -> str:
    """Return a name as TensorFlow spells it as a function's argument; two that become the same cannot stand side by side."""
    word = "".join(letter if letter.isalnum() else "_" for letter in name)
    return word if word[:1].isalpha() else f"arg_{word}"


def function_of(call: Callable[[Mapping[str, Any]], Mapping[str, Any]], inputs: Mapping[str, Port]) -> Any:
    """Return a function of TensorFlow that takes tensors by the names of ports, whatever these names are."""
    import tensorflow as tf

    keys = {as_word(key): key for key in inputs}
    made = tf.function(lambda **given: dict(call({keys[word]: given[word] for word in given})), autograph=False)
    return made.get_concrete_function(**specs(inputs))

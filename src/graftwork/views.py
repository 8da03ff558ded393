"""Parts of models under other names: what assembling a model from layers of others works with.

A view shows some tensors of an open source under the names that they will have in the result, and a configuration that fits them;
values are passed through. Layers are told by the numbers in names such as ``model.layers.3.mlp.up_proj.weight``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.architecture.depth import block_parts, comes_first
from graftwork.architecture.huggingface import count_fields, with_layers
from graftwork.errors import MismatchError, OptionError
from graftwork.stores.base import Raw, Reader
from graftwork.tensor import TensorSpec


class View:
    """Some tensors of another source under other names. Closing it leaves the source open.

    Args:
        reader: The open source.
        names: Name in the view → name in the source, in the view's order.
        config: The configuration that the view shows; by default the source's.
        carried: Small files that a result gets (see `graftwork.stores.huggingface`); by default the source's.
        files: Further files that are read for it.
    """

    def __init__(
        self,
        reader: Reader,
        names: Mapping[str, str],
        *,
        config: Any = None,
        carried: Mapping[str, Path] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.reader = reader
        self.names = names
        self.path = reader.path
        header = reader.header
        self.header = replace(header, config=header.config if config is None else config, files=(*header.files, *files))
        self.metadata: Mapping[str, str] = getattr(reader, "metadata", {})
        self.carried: Mapping[str, Path] = getattr(reader, "carried", {}) if carried is None else carried
        self.is_planned: bool = getattr(reader, "is_planned", False)
        theirs = reader.specs()
        self._specs = {name: replace(theirs[own], name=name) for name, own in names.items()}

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return the specs of the tensors that it shows, by the names in the view."""
        return self._specs

    def key(self, name: str) -> str:
        """Return the source's key of a tensor."""
        return self.reader.key(self.names[name])

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        self.reader.read_into(self.names[name], start, out)

    def close(self) -> None:
        """Do nothing: the source is closed by whoever opened it."""

    def __enter__(self) -> "View":
        return self

    def __exit__(self, *_: object) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """The repeated, numbered blocks of a model, and what lies around them.

    Attributes:
        label: What messages call the model.
        reader: The open model.
        prefix: What stands before the number in names: ``model.layers.``.
        count: How many blocks there are.
        inner: For each block the names of its tensors, by what comes behind the number.
        before: Tensors before the first block.
        after: Tensors behind the last.
    """

    label: str
    reader: Reader
    prefix: str
    count: int
    inner: tuple[Mapping[str, str], ...]
    before: tuple[str, ...]
    after: tuple[str, ...]

    def view(self, start: int, stop: int, at: int = 0, *, before: bool = False, after: bool = False) -> View:
        """Return a run of blocks, numbered from `at` on, and what lies around them if that is wanted.

        Raises:
            OptionError: If the model has no such blocks.
        """
        if not 0 <= start < stop <= self.count:
            raise OptionError(
                f"{self.label} has the layers 0 to {self.count - 1}, so {start} to {stop} is no range of them (the end is not in it)"
            )
        names = {name: name for name in self.before} if before else {}
        for number in range(start, stop):
            for rest, name in self.inner[number].items():
                names[f"{self.prefix}{at + number - start}{rest}"] = name
        if after:
            names |= {name: name for name in self.after}
        return View(self.reader, names, config=self.config(range(start, stop)))

    def config(self, layers: Sequence[int]) -> Any:
        """Return its configuration with some of its layers, None where it has none."""
        config = self.reader.header.config
        return config and with_layers(config, self.count, [(config, layers)])


def blocks_of(label: str, reader: Reader) -> Blocks:
    """Return the numbered blocks of a model.

    Raises:
        MismatchError: If it has none, or several families of them, or numbers are missing, or it is a Keras model.
    """
    if reader.header.architecture is not None:
        raise MismatchError(
            f"{label} holds a Keras architecture, whose graph would have to be built anew from its blocks",
            advice="here layers are those of Hugging Face directories and safetensors files; `assemble` (a step, a command) takes those of "
            "Keras models",
        )
    inner: dict[str, dict[int, dict[str, str]]] = {}
    before: list[str] = []
    after: list[str] = []
    for name in reader.specs():
        parts = block_parts(name)
        if parts is None:
            (before if comes_first(name) else after).append(name)
        else:
            prefix, number, rest = parts
            inner.setdefault(prefix, {}).setdefault(number, {})[rest] = name
    if not inner:
        example = next(iter(reader.specs()), "none")
        raise MismatchError(
            f"{label} has no numbered layers, as in 'model.layers.0.'; its tensors are called {example!r}"
        )
    if len(inner) > 1:
        found = ", ".join(f"{prefix}0 to {max(numbers)}" for prefix, numbers in inner.items())
        raise MismatchError(
            f"{label} has {len(inner)} families of numbered layers: {found}",
            advice="layers can be taken from models with one family only",
        )
    ((prefix, blocks),) = inner.items()
    missing = next((number for number in range(len(blocks)) if number not in blocks), None)
    if missing is not None:
        raise MismatchError(f"{label} has a tensor of the layer {prefix}{max(blocks)}, but none of {prefix}{missing}")
    found_config = reader.header.config
    if found_config is not None and not count_fields(found_config, len(blocks)):
        raise MismatchError(f"config.json of {label} says nowhere that it has {len(blocks)} layers, as its tensors do")
    return Blocks(
        label=label,
        reader=reader,
        prefix=prefix,
        count=len(blocks),
        inner=tuple(blocks[number] for number in range(len(blocks))),
        before=tuple(before),
        after=tuple(after),
    )

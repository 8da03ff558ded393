"""Tensors of open sources under other names and keys: what the result of a verb on checkpoints will be, without a copy.

A view is the `like` of a plan: the writer of a TensorFlow checkpoint takes keys, object graph and texts from it. Sources may be of any
format; then there are no objects, and names are keys.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graftwork.errors import MismatchError
from graftwork.methods.options import Place
from graftwork.pairing import Source
from graftwork.planning import MergePlan, MergeRequest, Step
from graftwork.stores.base import Header, Raw, Reader
from graftwork.stores.tf_checkpoint import Lender, Text, digest
from graftwork.stores.tf_graph import names_of
from graftwork.stores.tf_protos import Node
from graftwork.tensor import TensorSpec


@dataclass(frozen=True, slots=True)
class Shown:
    """A tensor of an open source: the source, and its canonical name there."""

    reader: Reader
    name: str

    @property
    def spec(self) -> TensorSpec:
        """Its spec, by its name in the source."""
        return self.reader.specs()[self.name]


class CheckpointView:
    """Tensors of open sources under keys of the result. Closing it leaves the sources open.

    Args:
        path: What messages call it; usually the first source's path.
        tensors: Every tensor of numbers by its key in the result.
        texts: Every tensor of texts or objects by its key in the result.
        nodes: The object graph of the result; with one, names come from it (see `graftwork.stores.tf_graph`), else keys are names.

    Attributes:
        shown: Every tensor by its canonical name.

    Raises:
        MismatchError: If there is nothing to show.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Shown],
        *,
        texts: Mapping[str, Text] | None = None,
        nodes: Sequence[Node] = (),
    ) -> None:
        if not tensors:
            raise MismatchError(f"no tensor of {path.name} is left", advice="a result holds at least one")
        self.path = path
        self.texts = dict(texts or {})
        self.nodes = tuple(nodes)
        names = names_of([*tensors, *self.texts], self.nodes) if self.nodes else {}
        self._keys = {names.get(key, key): key for key in tensors}
        self.shown = {names.get(key, key): tensor for key, tensor in tensors.items()}
        self._specs = {name: replace(tensor.spec, name=name) for name, tensor in self.shown.items()}
        self.readers = tuple({id(tensor.reader): tensor.reader for tensor in self.shown.values()}.values())
        self._lenders = {id(reader): reader for reader in self.readers if isinstance(reader, Lender)}
        first = self.readers[0]
        self.is_planned = any(getattr(reader, "is_planned", False) for reader in self.readers)
        self.metadata: Mapping[str, str] = getattr(first, "metadata", {})
        self.header = Header(
            format=first.header.format,
            files=tuple(dict.fromkeys(file for reader in self.readers for file in reader.header.files)),
            size_bytes=sum(spec.size_bytes for spec in self._specs.values())
            + sum(part.entry.size for text in self.texts.values() for part in text.stored.parts)
            + sum(len(node.message) for node in self.nodes),
            assets={names.get(key, key): digest(text) for key, text in self.texts.items()},
            unit_axis=first.header.unit_axis,
        )

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every tensor's spec by canonical name, in the order in which they were given."""
        return self._specs

    def key(self, name: str) -> str:
        """Return the key that a tensor has in the result."""
        return self._keys[name]

    def code(self, name: str) -> int | None:
        """Return TensorFlow's number of a tensor's type, None where its source is no checkpoint of TensorFlow."""
        tensor = self.shown.get(name)
        lender = self._lenders.get(id(tensor.reader)) if tensor else None
        return lender.code(tensor.name) if tensor and lender else None

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a tensor."""
        tensor = self.shown[name]
        tensor.reader.read_into(tensor.name, start, out)

    def close(self) -> None:
        """Do nothing: sources are closed by whoever opened them."""

    def __enter__(self) -> "CheckpointView":
        return self

    def __exit__(self, *_: object) -> None: ...


def copied(view: CheckpointView, readers: Mapping[str, Reader]) -> tuple[Step, ...]:
    """Return the steps that copy all tensors of a view.

    Args:
        view: The view.
        readers: Its sources, by the names that messages call them.
    """
    labels = {id(reader): label for label, reader in readers.items()}
    return tuple(
        Step(
            spec=spec,
            readers=(tensor.reader,),
            labels=(labels[id(tensor.reader)],),
            sources=(Source(name=tensor.name),),
            n_models=1,
            method=None,
            place=Place(name, str(spec.role)),
        )
        for (name, spec), tensor in zip(view.specs().items(), view.shown.values(), strict=True)
    )


def plan_of(
    view: CheckpointView,
    readers: Mapping[str, Reader],
    *,
    steps: Iterable[Step] | None = None,
    notes: Iterable[str] = (),
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> MergePlan:
    """Return the plan that makes of a view what it shows.

    Args:
        view: What the result will be.
        readers: Its sources, by the names that messages call them.
        steps: How each tensor is made; by default all are copied.
        notes: What the user should know.
        tables: What was decided.
    """
    return MergePlan(
        request=MergeRequest(method="passthrough", labels=tuple(readers), allow_nonfinite=True),
        models=tuple(readers.values()),
        base=None,
        steps=copied(view, readers) if steps is None else tuple(steps),
        notes=tuple(dict.fromkeys(notes)),
        like=view,
        tables=tables or {},
    )

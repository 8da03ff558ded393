"""What a SavedModel offers: signatures, tensors inside, variables, tables, assets, and what it can become; TensorFlow is not loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import GraftworkError
from graftwork.models.savedmodel.bridge import foreseen
from graftwork.report.inspection import TensorRow, rows_of
from graftwork.stores.saved_model import VARIABLES, SavedModelReader
from graftwork.stores.saved_program import Port, Program, Signature, read_program
from graftwork.stores.saved_tensors import insides


@dataclass(frozen=True, slots=True)
class PortRow:
    """An input or output of a signature; its shape has None where a size is free, and is None where the number of axes is."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, slots=True)
class InsideRow:
    """A tensor inside a signature: its name, as a bridge takes it, and the output of the signature that it is, if any."""

    name: str
    op: str
    dtype: str
    shape: tuple[int | None, ...] | None
    output: str


@dataclass(frozen=True, slots=True)
class SignatureRow:
    """A signature.

    Attributes:
        name: Its name.
        inputs: What it takes.
        outputs: What it gives.
        tensors: What it computes from its inputs on the way; None where that was not asked for.
        becomes: What a bridge makes of it: ``rebuild``, ``layer``, or nothing.
        why: Why it is not rebuilt, or why nothing can be made.
    """

    name: str
    inputs: tuple[PortRow, ...]
    outputs: tuple[PortRow, ...]
    tensors: tuple[InsideRow, ...] | None
    becomes: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModelListing:
    """What a SavedModel offers.

    Attributes:
        path: The directory.
        tags: What its graph is for.
        tensorflow: The version that wrote it.
        of_tf1: Whether it is a graph of TensorFlow 1, without objects.
        keras: Whether it carries a configuration of Keras 2.
        signatures: What can be asked of it.
        variables: Its variables.
        tables: Name, and types of keys and values, of its lookup tables.
        assets: Names of its files in ``assets``.
        python: Nodes that call Python functions, which no file holds.
        outside: Files that it reads and that are not its own.
    """

    path: str
    tags: tuple[str, ...]
    tensorflow: str
    of_tf1: bool
    keras: bool
    signatures: tuple[SignatureRow, ...]
    variables: tuple[TensorRow, ...]
    tables: tuple[tuple[str, str, str], ...]
    assets: tuple[str, ...]
    python: tuple[str, ...]
    outside: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "variables": [row.to_dict() for row in self.variables]}


def list_program(path: Path, signature: str | None = None, *, tensors: bool = False) -> SavedModelListing:
    """Return what a SavedModel offers.

    Args:
        path: The directory.
        signature: Only this signature.
        tensors: Also list the tensors inside.

    Raises:
        StoreError: If it is no SavedModel, or damaged.
        UnknownNameError: If it has no such signature.
    """
    program = read_program(path)
    chosen = [program.signature(signature)] if signature is not None else list(program.signatures.values())
    return SavedModelListing(
        path=str(path),
        tags=program.tags,
        tensorflow=program.version,
        of_tf1=program.of_tf1,
        keras=bool(program.keras),
        signatures=tuple(_signature(program, each, tensors) for each in chosen),
        variables=_variables(path),
        tables=tuple((table.name, table.keys, table.values) for table in program.tables()),
        assets=tuple(asset.filename for asset in program.assets),
        python=program.python_functions(),
        outside=program.outside_files(),
    )


def _variables(path: Path) -> tuple[TensorRow, ...]:
    if not (path / VARIABLES).exists():
        return ()
    with SavedModelReader(path) as reader:
        return rows_of(reader)


def _signature(program: Program, signature: Signature, tensors: bool) -> SignatureRow:
    inside = None
    if tensors:
        found = insides(program, signature).tensors.values()
        inside = tuple(InsideRow(t.name, t.op, t.dtype, t.shape, t.output) for t in found)
    try:
        plan = foreseen(program.path, signature=signature.name)
        becomes, why = plan.kind, plan.why
    except GraftworkError as error:
        becomes, why = "", str(error)
    return SignatureRow(signature.name, _ports(signature.inputs), _ports(signature.outputs), inside, becomes, why)


def _ports(ports: Mapping[str, Port]) -> tuple[PortRow, ...]:
    return tuple(PortRow(port.key, port.dtype, port.shape) for port in ports.values())

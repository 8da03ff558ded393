"""The variables of a TensorFlow SavedModel, a directory that holds a checkpoint; read only.

::

    saved_model.pb                       graph and signatures
    variables/variables.index, .data-…   a checkpoint: by names (TensorFlow 1) or of objects
    assets/                              vocabularies and other files
    keras_metadata.pb                    configuration of a model of Keras 2
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from graftwork.errors import StoreError, UnknownNameError
from graftwork.stores.base import Format, Header, Raw, register
from graftwork.stores.files import digest_of
from graftwork.stores.huggingface import inside
from graftwork.stores.saved_program import PROGRAM, read_program
from graftwork.stores.tf_checkpoint import CheckpointReader
from graftwork.stores.tf_protos import Node
from graftwork.tensor import TensorSpec

PROGRAMS = ("saved_model.pb", "saved_model.pbtxt")
VARIABLES = Path("variables", "variables.index")
ASSETS = "assets"


class SavedModelReader:
    """A SavedModel, open for reading.

    Args:
        path: The directory.

    Raises:
        StoreError: If its variables are damaged or missing, or something links to elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        files = [inside(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
        self._checkpoint: CheckpointReader | None = None
        index = path / VARIABLES
        if index.exists():
            self._checkpoint = CheckpointReader(index, exported=True)
        elif any(file.parent == index.parent for file in files) or _has_variables(path):
            raise StoreError(f"{path} is a SavedModel whose variables are missing: {index} is not there")
        try:
            assets = [file for file in files if file.is_relative_to(path / ASSETS)]
            header = self._checkpoint.header if self._checkpoint else Header(format="saved_model")
            self.header = replace(
                header,
                format="saved_model",
                files=tuple(files),
                size_bytes=sum(file.stat().st_size for file in files),
                assets={**header.assets, **{str(file.relative_to(path)): digest_of(file) for file in assets}},
                notes=(*header.notes, *(("it has no variables",) if self._checkpoint is None else ())),
            )
        except BaseException:
            self.close()
            raise

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The object graph; empty in TensorFlow 1."""
        return self._checkpoint.nodes if self._checkpoint else ()

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every variable's spec by canonical name."""
        return self._checkpoint.specs() if self._checkpoint else {}

    def key(self, name: str) -> str:
        """Return a variable's key in the checkpoint."""
        return self._variables(name).key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a variable."""
        self._variables(name).read_into(name, start, out)

    def _variables(self, name: str) -> CheckpointReader:
        if self._checkpoint is None:
            raise UnknownNameError(f"tensor in {self.path.name}", name, {})
        return self._checkpoint

    def check(self) -> None:
        """Compare all variables with their CRCs."""
        if self._checkpoint is not None:
            self._checkpoint.check()

    def close(self) -> None:
        """Close the files; closing twice does nothing."""
        if self._checkpoint is not None:
            self._checkpoint.close()

    def __enter__(self) -> "SavedModelReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _has_variables(path: Path) -> bool:
    """Return whether a SavedModel's program says that there are variables."""
    return (path / PROGRAM).is_file() and bool(read_program(path).variables())


def recognise(path: Path) -> bool:
    """Return whether a path is a directory with the program of a SavedModel."""
    return path.is_dir() and any((path / name).is_file() for name in PROGRAMS)


register(
    Format(
        name="saved_model",
        summary="TensorFlow SavedModel: its variables, read only",
        suffixes=(),
        recognise=recognise,
        open=SavedModelReader,
        create=None,
        directory=True,
    )
)

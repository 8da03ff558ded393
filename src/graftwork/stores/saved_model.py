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

from graftwork.errors import StoreError
from graftwork.stores.base import Format, Raw, register
from graftwork.stores.files import digest_of
from graftwork.stores.huggingface import inside
from graftwork.stores.tf_checkpoint import CheckpointReader
from graftwork.tensor import TensorSpec

PROGRAMS = ("saved_model.pb", "saved_model.pbtxt")
VARIABLES = Path("variables", "variables.index")
ASSETS = "assets"


class SavedModelReader:
    """A SavedModel, open for reading.

    Args:
        path: The directory.

    Raises:
        StoreError: If it has no variables, or they are damaged, or something links to elsewhere.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = path / VARIABLES
        if not index.exists():
            raise StoreError(f"{path} is a SavedModel without variables: {index} is not there")
        files = [inside(file, path) for file in sorted(path.rglob("*")) if file.is_file()]
        self._checkpoint = CheckpointReader(index, exported=True)
        try:
            assets = [file for file in files if file.is_relative_to(path / ASSETS)]
            self.header = replace(
                self._checkpoint.header,
                format="saved_model",
                files=tuple(files),
                size_bytes=sum(file.stat().st_size for file in files),
                assets={
                    **self._checkpoint.header.assets,
                    **{str(file.relative_to(path)): digest_of(file) for file in assets},
                },
            )
        except BaseException:
            self.close()
            raise

    def specs(self) -> Mapping[str, TensorSpec]:
        """Return every variable's spec by canonical name."""
        return self._checkpoint.specs()

    def key(self, name: str) -> str:
        """Return a variable's key in the checkpoint."""
        return self._checkpoint.key(name)

    def read_into(self, name: str, start: int, out: Raw) -> None:
        """Fill `out` with raw elements of a variable."""
        self._checkpoint.read_into(name, start, out)

    def check(self) -> None:
        """Compare all variables with their CRCs."""
        self._checkpoint.check()

    def close(self) -> None:
        """Close the files; closing twice does nothing."""
        self._checkpoint.close()

    def __enter__(self) -> "SavedModelReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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

"""Is a file sound? Opened, every CRC checked, every value looked at, and loaded by Keras in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graftwork.errors import StoreError
from graftwork.report.measure import count_nonfinite
from graftwork.stores import FORMATS, open_store
from graftwork.stores.base import Header

LOAD_SECONDS = 600
"""A fresh process that loads a model gets this long."""

SCRIPT = """
import json, os, sys
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
try:
    import keras
    model = keras.saving.load_model(sys.argv[1], compile=False)
    described = {
        "class": type(model).__name__,
        "name": model.name,
        "parameters": model.count_params(),
        "inputs": [str(tuple(x.shape)) for x in getattr(model, "inputs", None) or []],
        "outputs": [str(tuple(x.shape)) for x in getattr(model, "outputs", None) or []],
        "keras": keras.__version__,
    }
    print("graftwork:" + json.dumps({"loaded": described}))
except Exception as error:
    print("graftwork:" + json.dumps({"error": " ".join(f"{type(error).__name__}: {error}".split())[:300]}))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        path: The file or directory.
        format: Its format.
        tensors: How many tensors it holds.
        nonfinite: Tensors that hold NaN or infinity, with how many.
        loaded: What Keras says of the model it loaded in a fresh process; None when it was not asked to.
        load_error: Why Keras did not load it; empty when it did or was not asked.
        provenance: Graftwork's record of how it was made, or None.
        notes: What should be known.
    """

    path: str
    format: str
    tensors: int
    nonfinite: Mapping[str, int]
    loaded: Mapping[str, Any] | None
    load_error: str
    provenance: Any
    notes: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing speaks against using the file."""
        return not self.nonfinite and not self.load_error

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {**asdict(self), "sound": self.sound}


def verify(path: Path, *, load: bool, progress: Callable[[str, int, int], None] | None = None) -> Verification:
    """Check a file; see `graftwork.verify`."""
    with open_store(path) as reader:
        total = sum(spec.size_bytes for spec in reader.specs().values())
        done = 0

        def count(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress("verify", min(done, total), total)

        check = getattr(reader, "check", None)
        if check is not None:
            check()
        nonfinite = count_nonfinite(reader, count)
        header, tensors, place = reader.header, len(reader.specs()), reader.path
    notes = list(header.notes)
    loaded, error = None, ""
    if load and _loads_in_keras(header):
        loaded, error = load_in_fresh_process(place)
    elif load:
        notes.append(f"format {header.format!r} is not one that Keras loads as a model, so it was not loaded")
    return Verification(
        path=str(path),
        format=header.format,
        tensors=tensors,
        nonfinite=nonfinite,
        loaded=loaded,
        load_error=error,
        provenance=header.provenance,
        notes=tuple(notes),
    )


def _loads_in_keras(header: Header) -> bool:
    return FORMATS[header.format].holds_architecture and header.config is not None and header.format != "preset"


def load_in_fresh_process(path: Path) -> tuple[dict[str, Any] | None, str]:
    """Return what Keras says of a model that it loads in a process of its own, or why it does not load it.

    Code in the file (Lambda layers) is not run: Keras's safe mode stays on.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"loading took more than {LOAD_SECONDS} seconds"
    except OSError as error:
        raise StoreError(f"no process to load {path.name} in could be started: {error.strerror or error}") from error
    for line in done.stdout.splitlines():
        if line.startswith("graftwork:"):
            found = json.loads(line.removeprefix("graftwork:"))
            return found.get("loaded"), found.get("error", "")
    return None, f"the process that loaded it ended with status {done.returncode}"

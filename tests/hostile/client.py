"""The tests' side of `worker`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

GIB = 1 << 30
SECONDS = 30
"""How long opening and reading a small file may compute, however it is made."""


class Worker:
    """A worker process; use it in a ``with``."""

    def __init__(self) -> None:
        environment = {
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("worker.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self._ask({"path": ""}, skip_request=True)
        self.idle_bytes = self._ask({"path": "", "address_space": 3 * GIB, "seconds": SECONDS})["peak_bytes"]

    def _ask(self, request: dict[str, Any], skip_request: bool = False) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if not skip_request:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the worker died"
        return json.loads(line)

    def read(
        self, path: Path, *, seconds: int = SECONDS, address_space: int = 3 * GIB, block: int = 1 << 16
    ) -> dict[str, Any]:
        """Return how opening and fully reading `path` ended, with ``growth_bytes`` of memory."""
        said = self._ask({"path": str(path), "address_space": address_space, "seconds": seconds, "block": block})
        said["growth_bytes"] = said["peak_bytes"] - self.idle_bytes
        return said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

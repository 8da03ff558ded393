"""Opens and reads files in forked children with limits, one request a line on standard input, one report a line on standard output.

Run as a script with nothing but graftwork and NumPy on its hands, all that reading needs imported, so that a child is one cheap fork away.
A child that crashes, hangs or eats memory is reported and does no harm to the worker.
"""

import hashlib
import importlib
import json
import math
import os
import pkgutil
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

import graftwork.stores

BLOCK = 1 << 16
"""Elements read at once: small, so that tensors are read in several pieces, and odd shapes in odd pieces."""

WAIT = 10
"""Seconds on the clock for each second of computing, so that a busy machine makes no difference."""


def read_all(path: Path, block: int) -> list[dict[str, Any]]:
    """Open a store, read every tensor whole in blocks, and return what was found."""
    from graftwork.stores import open_store
    from graftwork.stores.base import RAW_DTYPES

    found = []
    with open_store(path) as reader:
        header = reader.header
        assert header.format, "a header without a format"
        for name, spec in reader.specs().items():
            key = reader.key(name)
            size = math.prod(spec.shape)
            hasher = hashlib.sha256()
            out = np.empty(min(size, block), RAW_DTYPES[spec.dtype])
            for start in range(0, size, block):
                part = out[: min(block, size - start)]
                reader.read_into(name, start, part)
                hasher.update(part.tobytes())
            found.append(
                {"name": name, "key": key, "shape": spec.shape, "dtype": spec.dtype, "digest": hasher.hexdigest()}
            )
    return found


def report(path: Path, block: int) -> dict[str, Any]:
    """Return how opening and reading `path` ended."""
    from graftwork.errors import GraftworkError

    try:
        return {"end": "read", "tensors": read_all(path, block)}
    except GraftworkError as error:
        return {"end": "refused", "type": type(error).__name__, "message": str(error)}
    except BaseException as error:
        trace = "".join(traceback.format_exception(error, limit=-6)[-8:])
        return {"end": "leaked", "type": type(error).__name__, "message": str(error)[:500], "trace": trace[-3000:]}


def in_child(request: dict[str, Any]) -> dict[str, Any]:
    """Fork, limit, run, and return the child's report with its time and its peak of memory."""
    ours, theirs = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(ours)
            os.setpgid(0, 0)
            limit = request["address_space"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
            said = report(Path(request["path"]), request.get("block", BLOCK)) if request["path"] else {"end": "idle"}
            data = json.dumps(said).encode()
            while data:
                data = data[os.write(theirs, data) :]
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    deadline = began + WAIT * request["seconds"]
    data, timed_out = b"", False
    while True:
        ready, _, _ = select.select([ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
            break
        got = os.read(ours, 1 << 16)
        if not got:
            break
        data += got
    os.close(ours)
    _, status, usage = os.wait4(pid, 0)
    if timed_out:
        said = {"end": "hung", "message": f"still waiting after {WAIT * request['seconds']} s"}
    elif os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        said = {"end": "hung", "message": f"still computing after {request['seconds']} s"}
    elif os.WIFSIGNALED(status):
        said = {"end": "crashed", "message": f"killed by {signal.Signals(os.WTERMSIG(status)).name}"}
    elif status or not data:
        said = {"end": "crashed", "message": f"exit status {os.WEXITSTATUS(status)}"}
    else:
        said = json.loads(data)
    said["seconds"] = time.monotonic() - began
    said["peak_bytes"] = usage.ru_maxrss * 1024
    return said


def main() -> None:
    """Serve until standard input ends."""
    for module in pkgutil.walk_packages(graftwork.stores.__path__, "graftwork.stores."):
        importlib.import_module(module.name)

    print(json.dumps({"end": "ready"}), flush=True)
    for line in sys.stdin:
        print(json.dumps(in_child(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()

"""Runs `graftwork` again and again without importing TensorFlow each time: commands are children of one process that has.

A child is forked before anything was computed, so that it is as good as new: it numbers, draws and writes as a process of its own does.
What a process loads, how soon it begins and how much memory it takes is none of its business; tests of those start real ones.
"""

import contextlib
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never, Self

CLIENT = """#!{python} -ISE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"x"], [0, 1, 2])
    request = {{"program": {program!r}, "words": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
    server.sendall(json.dumps(request).encode())
    server.shutdown(socket.SHUT_WR)
    status = int(server.makefile().read())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""
"""The program that stands in for a real one: hands its streams and words to the server, and ends as the child does."""


class Commands:
    """The server, which starts when something is first run, and its clients; use it in a ``with``."""

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._environment = dict(os.environ)
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="graftwork-tests-")))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @functools.cached_property
    def folder(self) -> Path:
        """A directory to put at the front of PATH: `graftwork` is in it."""
        address = str(self._folder / "socket")
        for program in ("graftwork", "script"):
            client = self._folder / program
            client.write_text(CLIENT.format(python=sys.executable, address=address, program=program))
            client.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, address],
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._stack.callback(server.communicate)  # closes its standard input, which ends it
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        return self._folder

    def graftwork(self, words: Sequence[object], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command; say its status and its streams, as `subprocess.run` does."""
        return self._run("graftwork", words, cwd, None)

    def python(
        self, script: Path | str, *words: object, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run Python, a file or the text itself, likewise."""
        if isinstance(script, Path):
            return self._run("script", [script, *words], cwd, env)
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".py", encoding="utf-8") as file:
            file.write(script)
            file.flush()
            return self._run("script", [file.name, *words], cwd, env)

    def stand_in(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Do as `subprocess.run` does, in a fork for what graftwork starts itself."""
        return subprocess.run(forked(command, str(self.folder / "script")), **options)

    def _run(
        self, program: str, words: Sequence[object], cwd: Path | None, env: Mapping[str, str] | None
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self.folder / program), *map(str, words)]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def serve(address: str) -> None:
    """Fork for each request until standard input ends."""
    import keras  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who answers
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listening, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            client, _ = listening.accept()
            with client:
                if os.fork() == 0:
                    listening.close()
                    answer(client, address)


def answer(client: socket.socket, address: str) -> Never:
    """Run one program in a child, and say how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(client, 1, 3)
    request = client.makefile().read()
    if request:  # else who asked was ended before
        pid = os.fork()
        if pid == 0:
            client.close()
            become(json.loads(request), streams, str(Path(address).with_name("script")))
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(BrokenPipeError):  # who asked was ended meanwhile
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(request: dict[str, Any], streams: list[int], script: str) -> Never:
    """Be the program: its streams, directory, environment and words; what graftwork starts is forked as well."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    run = subprocess.run
    subprocess.run = lambda command, **options: run(forked(command, script), **options)
    if request["program"] == "graftwork":
        sys.argv = ["graftwork", *request["words"]]
        from graftwork.cli import main

        sys.exit(main())
    sys.argv = request["words"]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def forked(command: Sequence[str], script: str) -> list[str]:
    """Return the command that forks where one begins as those do with which graftwork starts its own processes."""
    return [script, *command[2:]] if list(command[:2]) == [sys.executable, "-P"] else list(command)


if __name__ == "__main__":
    serve(sys.argv[1])

"""A child process that answers a line with a line of JSON."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class ChildFailed(Exception):
    """The process ended without an answer; it printed why."""


class Child:
    """A running module of this package.

    Args:
        process: its process, with pipes.
        name: of the module.
    """

    def __init__(self, process: "subprocess.Popen[str]", name: str) -> None:
        self._process = process
        self._name = name

    def wait_until_ready(self) -> None:
        """Wait for its first line."""
        self._line()

    def ask(self, line: str = "") -> Any:
        """Send a line, and return what it answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailed(f"{self._name} has ended") from None
        return json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._name} ended without an answer")
        return line


@contextmanager
def child(module: str, arguments: Sequence[str]) -> Iterator[Child]:
    """Run a module until the block ends."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            started = Child(process, module)
            started.wait_until_ready()
            yield started
        finally:
            # Its input ends with the block, and it with its input; what hangs is ended.
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()

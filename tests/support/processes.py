"""A server of several processes, started as a user starts it."""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.servers import TIMEOUT_S


@dataclass
class Served:
    """A server in processes of its own, and what it has logged."""

    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def until(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line of the log."""
        while (line := self._lines.get(timeout=TIMEOUT_S)) is not None:
            self.events.append(line)
            if line["event"] == event and fields.items() <= line.items():
                return line
        raise AssertionError(f"no '{event}' in {self.events}")

    def rest(self) -> list[dict[str, Any]]:
        """The lines until no process is left that could write one."""
        lines = []
        while (line := self._lines.get(timeout=TIMEOUT_S)) is not None:
            lines.append(line)
        return lines

    def pids(self) -> dict[int, int]:
        """The latest process of each worker, by number."""
        return {line["process"]: line["pid"] for line in self.events if line["event"] == "process started"}


def serve(models: Path, *flags: str) -> subprocess.Popen[str]:
    """Start two workers, unless the flags say otherwise."""
    command = [sys.executable, "-m", "frostline", "serve", "--models", str(models), "--log-format", "json"]
    defaults = ["--device", "cpu", "--processes", "2", "--port", "0", "--metrics-port", "0"]
    return subprocess.Popen([*command, *defaults, *flags], stderr=subprocess.PIPE, text=True)


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that run."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdecimal():
                # After the name, which may hold anything: the state, then the parent.
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
                if int(parent) == pid and state != "Z":
                    found.append(int(folder.name))
    return found


def wait_until_gone(pid: int) -> None:
    """Wait until a process has ended, whoever is to collect it."""
    waited = threading.Event()
    for _ in range(int(TIMEOUT_S * 100)):
        try:
            if (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except OSError:
            return
        waited.wait(0.01)
    raise AssertionError(f"process {pid} still runs")

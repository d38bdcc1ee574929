"""The resource use of a process, as Linux counts it: memory, and CPU time in total and for each thread."""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ThreadTime:
    """CPU time of one thread.

    Attributes:
        name: the thread's name, as the kernel knows it.
        seconds: user and system time.
    """

    name: str
    seconds: float


def cpu_s(pid: int) -> float:
    """User and system time of a process, in seconds, in steps of 10 ms."""
    return _cpu_s(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"))


def threads(pid: int) -> dict[int, ThreadTime]:
    """The same for each of its threads, by the kernel's thread id."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        text = (task / "stat").read_text(encoding="utf-8")
        found[int(task.name)] = ThreadTime(text[text.index("(") + 1 : text.rindex(")")], _cpu_s(text))
    return found


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in MiB; its largest value so far with the field VmHWM."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/{pid}/status has no line {field}")


def whole_mib(pids: Iterable[int]) -> float:
    """Resident memory of several processes in MiB; one that has ended has none."""
    total = 0.0
    for pid in pids:
        with suppress(OSError, ValueError):
            total += memory_mib(pid)
    return total


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, those that these have started, and so on."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            # A process may end meanwhile.
            with suppress(OSError):
                stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
                children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found = list(children.get(pid, ()))
    for each in found:
        found += children.get(each, ())
    return found


def _cpu_s(stat: str) -> float:
    # The second field is a name in brackets, which may hold spaces.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS

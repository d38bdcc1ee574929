"""The sampling profilers: where threads spend their time, by py-spy and perf."""

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_OWN = "frostline_server/"
_RATE = 250


@dataclass(frozen=True)
class Stacks:
    """py-spy's samples of one thread.

    Attributes:
        name: the thread's, as Python knows it.
        lines: samples by place, such as frostline_server/rpc/h2/unary.py:85.
    """

    name: str
    lines: Counter[str]


def python_lines(raw: str) -> dict[int, Stacks]:
    """py-spy's raw output by the kernel's thread id; a sample counts for the innermost line of the server's own code.

    Args:
        raw: a line for each stack: `thread (ID): NAME;FRAME;...;FRAME COUNT`, a frame being `FUNCTION (FILE:LINE)`.
    """
    found: dict[int, Stacks] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        number, _, name = thread.removeprefix("thread (").partition("): ")
        places = [frame.rpartition(" (")[2].rstrip(")") for frame in frames]
        own = [place for place in places if place.startswith(_OWN)]
        stacks = found.setdefault(int(number, 0), Stacks(name, Counter()))
        stacks.lines[own[-1] if own else "outside the server"] += int(count)
    return found


def libraries(script: str) -> dict[int, Counter[str]]:
    """Count perf's samples by the kernel's thread id and the library whose code ran.

    Args:
        script: a line for each sample: `ID ADDRESS (FILE)`.
    """
    found: dict[int, Counter[str]] = {}
    for line in script.splitlines():
        fields = line.split(maxsplit=2)
        if len(fields) == 3 and fields[0].isdigit():
            found.setdefault(int(fields[0]), Counter())[_library(fields[2].strip("()"))] += 1
    return found


def _library(file: str) -> str:
    if file.startswith("["):
        return "the kernel"
    _, installed, package = file.partition("site-packages/")
    return package.partition("/")[0] if installed else Path(file).name.partition(".")[0]


def spy(pid: int, load: Callable[[], object], seconds: float, form: str, path: Path) -> Path:
    """Let py-spy watch a process while `load` runs, and return its output.

    Raises:
        SystemExit: py-spy is missing or lacks the permission.
    """
    program = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if program is None:
        raise SystemExit("py-spy is not installed; it comes with the dev extra")
    command = [program, "record", "--pid", str(pid), "--threads", "--nonblocking", "--rate", str(_RATE)]
    _watch([*command, "--duration", str(max(1, round(seconds))), "--format", form, "--output", str(path)], load)
    return path


def perf(pid: int, load: Callable[[], object], seconds: float) -> str | None:
    """Let perf watch a process while `load` runs; its samples as `libraries` takes them, None where there is no perf.

    Raises:
        SystemExit: perf lacks the permission.
    """
    program = shutil.which("perf")
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/data"
        command = [program, "record", "--event", "cpu-clock", "--freq", "999", "--output", data, "--pid", str(pid)]
        _watch([*command, "--", "sleep", f"{seconds:g}"], load)
        script = [program, "script", "--input", data, "--fields", "tid,ip,dso"]
        return subprocess.run(script, check=True, capture_output=True, text=True).stdout


def _watch(command: Sequence[str], load: Callable[[], object]) -> None:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        load()
        _, errors = process.communicate()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} failed, which may need root or CAP_SYS_PTRACE: {errors.strip()}")

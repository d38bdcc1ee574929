"""The environment of a measurement: machine, versions and date, in one sentence."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime as ort

from frostline_server.runtime.host_limits import cpu_count

QUIET = 0.5
"""The load above which a machine is too busy to measure on."""


def described() -> str:
    """The date, the processor, its cores, and the versions of Python and ONNX Runtime."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()} ({cpu_count()} cores), Python {platform.python_version()}, "
        f"ONNX Runtime {ort.__version__}"
    )


def processor() -> str:
    """The processor's name, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def load() -> float:
    """The machine's load average over the last minute."""
    return os.getloadavg()[0]

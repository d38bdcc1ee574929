"""Where and when something was measured, in one sentence."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import onnxruntime as ort


def described() -> str:
    """The processor, its cores, what ran, and the date."""
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()} ({os.cpu_count()} cores), Python {platform.python_version()}, "
        f"ONNX Runtime {ort.__version__}"
    )


def processor() -> str:
    """The processor's name, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def load() -> float:
    """How many programs wanted the processor in the last minute; above 0.5 before a run, its numbers are of no use."""
    return os.getloadavg()[0]

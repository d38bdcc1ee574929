"""A stand-in for NVIDIA's library on machines without a GPU: each core of the machine in place of a GPU.

Utilisation is the core's, since it was last read, and memory the machine's. What a core draws nobody tells: here it is
20 watts, and 40 more while it is busy, of at most 75.
"""

import os
from dataclasses import dataclass
from pathlib import Path

_IDLE_W, _BUSY_W, _LIMIT_W = 20.0, 40.0, 75.0
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_LEAST_S = 0.5
"""A utilisation is of at least so long, however often it is read."""


class NVMLError(Exception):
    """What the library raises; this one never does."""


@dataclass(frozen=True)
class Memory:
    """In bytes."""

    total: int
    used: int


@dataclass(frozen=True)
class Rates:
    """In per cent."""

    gpu: int


@dataclass
class Core:
    """A core, and what was last read of it.

    Attributes:
        number: from 0.
        busy_s: for how long it had been busy since the machine started.
        up_s: for how long it had been there.
        utilization: before that, 0 to 1.
    """

    number: int
    busy_s: float = 0.0
    up_s: float = 0.0
    utilization: float = 0.0

    def read(self) -> None:
        """Look again, unless it has just been done."""
        line = Path("/proc/stat").read_text("ascii").splitlines()[1 + self.number]
        user, nice, system, idle, waiting, *rest = (float(ticks) * _TICK_S for ticks in line.split()[1:])
        busy_s = user + nice + system + sum(rest[:3])  # interrupts and what the host took; the others are parts of user
        up_s = busy_s + idle + waiting
        if up_s - self.up_s >= _LEAST_S:
            self.utilization = (busy_s - self.busy_s) / (up_s - self.up_s)
            self.busy_s, self.up_s = busy_s, up_s


_CORES = [Core(number) for number in sorted(os.sched_getaffinity(0))]


def nvmlInit() -> None:
    """Nothing to do."""


def nvmlShutdown() -> None:
    """Nothing to do."""


def nvmlDeviceGetCount() -> int:
    """How many cores there are."""
    return len(_CORES)


def nvmlDeviceGetHandleByIndex(index: int) -> Core:
    """A core, as it is now."""
    _CORES[index].read()
    return _CORES[index]


def nvmlDeviceGetUUID(gpu: Core) -> str:
    """Its name, the same in every process."""
    return f"core-{gpu.number}"


def nvmlDeviceGetUtilizationRates(gpu: Core) -> Rates:
    """How busy it was."""
    return Rates(round(100 * gpu.utilization))


def nvmlDeviceGetMemoryInfo(gpu: Core) -> Memory:  # noqa: ARG001  the cores share it
    """The memory of the machine."""
    told = dict(line.split(":") for line in Path("/proc/meminfo").read_text("ascii").splitlines())
    total, free = (1024 * int(told[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return Memory(total, total - free)


def nvmlDeviceGetPowerUsage(gpu: Core) -> float:
    """What it is taken to draw, in milliwatts."""
    return 1000 * (_IDLE_W + _BUSY_W * gpu.utilization)


def nvmlDeviceGetEnforcedPowerLimit(gpu: Core) -> float:  # noqa: ARG001  the same for all
    """The most it is taken to draw, in milliwatts."""
    return 1000 * _LIMIT_W


def nvmlDeviceGetTotalEnergyConsumption(gpu: Core) -> float:
    """What it is taken to have used since the machine started, in millijoules."""
    return 1000 * (_IDLE_W * gpu.up_s + _BUSY_W * gpu.busy_s)

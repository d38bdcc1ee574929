"""Host metrics: CPU, memory and GPU of the machine, under the names that Triton's dashboards query."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

_PROC = Path("/proc")


class CpuClock:
    """The machine's CPU utilisation since the last call."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._last = self._read()

    def utilization(self) -> float:
        """Busy share since the last call, 0 to 1."""
        busy, total = self._read()
        if not total:
            return 0.0
        last_busy, last_total = self._last
        self._last = busy, total
        return (busy - last_busy) / (total - last_total) if total > last_total else 0.0

    def _read(self) -> tuple[int, int]:
        try:
            ticks = [int(word) for word in (self._proc / "stat").read_text().splitlines()[0].split()[1:9]]
        except OSError:  # not Linux, or no more files can be opened
            return 0, 0
        idle = ticks[3] + ticks[4]
        return sum(ticks) - idle, sum(ticks)


def host_families(cpu: CpuClock) -> Iterator[Metric]:
    """CPU and memory of the machine, and its GPUs if NVIDIA's management library is installed and finds any."""
    yield _gauge("nv_cpu_utilization", "CPU utilization rate [0.0 - 1.0]", cpu.utilization())
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    yield _gauge("nv_cpu_memory_total_bytes", "CPU total memory (RAM), in bytes", total)
    yield _gauge(
        "nv_cpu_memory_used_bytes", "CPU used memory (RAM), in bytes", total - os.sysconf("SC_AVPHYS_PAGES") * page
    )
    yield from _gpu_families()


def _gauge(name: str, text: str, value: float) -> Metric:
    family = Metric(name, text, "gauge")
    family.add_sample(name, {}, value)
    return family


def _gpu_families() -> Iterator[Metric]:
    try:
        import pynvml  # noqa: PLC0415  only the cuda extra brings it
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver: nothing to report
        return
    try:
        yield from _read_gpus(pynvml)
    finally:
        pynvml.nvmlShutdown()


def _read_gpus(nvml: Any) -> Iterator[Metric]:
    rows: tuple[tuple[str, Callable[[Any], float], str], ...] = (
        ("nv_gpu_utilization", lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
         "GPU utilization rate [0.0 - 1.0)"),
        ("nv_gpu_memory_total_bytes", lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
         "GPU total memory, in bytes"),
        ("nv_gpu_memory_used_bytes", lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
         "GPU used memory, in bytes"),
        ("nv_gpu_power_usage", lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
         "GPU power usage in watts"),
        ("nv_gpu_power_limit", lambda gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
         "GPU power management limit in watts"),
        ("nv_energy_consumption", lambda gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000,
         "GPU energy consumption in joules since the driver was loaded"),
    )  # fmt: skip
    gpus = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            gpu = nvml.nvmlDeviceGetHandleByIndex(index)
            gpus[str(nvml.nvmlDeviceGetUUID(gpu))] = gpu
        except nvml.NVMLError:  # a GPU that fell off the bus must not take the whole page with it
            continue
    for name, read, text in rows:
        family = Metric(name, text, "gauge")
        for uuid, gpu in gpus.items():
            try:
                family.add_sample(name, {"gpu_uuid": uuid}, read(gpu))
            except nvml.NVMLError:  # a reading this GPU does not offer
                continue
        yield family

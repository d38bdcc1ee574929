"""What the machine is doing: CPU and memory always, GPUs where NVIDIA's library finds some."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from frostline_server.metrics.host import CpuClock, host_families


class FakeNvmlError(Exception):
    """What the library raises."""


class FakeNvml(ModuleType):
    """NVIDIA's management library with GPUs of our choosing; GPU n is the number n.

    Attributes:
        gpus: how many there are; None for a machine without a driver.
        open: how many times it was initialised and not shut down again.
        lost: GPUs that fell off the bus.
    """

    NVMLError = FakeNvmlError

    def __init__(self, gpus: int | None) -> None:
        super().__init__("pynvml")
        self.gpus = gpus
        self.open = 0
        self.lost: set[int] = set()

    def nvmlInit(self) -> None:
        if self.gpus is None:
            raise FakeNvmlError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus or 0

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index in self.lost:
            raise FakeNvmlError("GPU is lost")
        return index

    def nvmlDeviceGetUUID(self, gpu: int) -> str:
        return f"GPU-{gpu}"

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> Any:
        return SimpleNamespace(gpu=50 + gpu)

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> Any:
        return SimpleNamespace(total=1000, used=100 + gpu)

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 70_500

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: int) -> int:
        return 300_000

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        if gpu == 1:
            raise FakeNvmlError("Not Supported")
        return 5_000


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int | None], FakeNvml]]:
    """Puts a fake library in place of the real one, and sees that it is shut down after use."""
    installed: list[FakeNvml] = []

    def install(count: int | None) -> FakeNvml:
        installed.append(FakeNvml(count))
        monkeypatch.setitem(sys.modules, "pynvml", installed[-1])
        return installed[-1]

    yield install
    assert all(nvml.open == 0 for nvml in installed)


def stat(folder: Path, *ticks: int) -> None:
    """Write a /proc/stat: user nice system idle iowait irq softirq steal guest guest_nice."""
    words = " ".join(str(number) for number in (*ticks, 900, 900))
    (folder / "stat").write_text(f"cpu  {words}\ncpu0 {words}\n")


def readings() -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in host_families(CpuClock())
    }


def test_the_cpus_busy_share_is_measured_between_two_looks(tmp_path: Path) -> None:
    stat(tmp_path, 10, 10, 10, 50, 10, 5, 5, 0)
    clock = CpuClock(tmp_path)
    stat(tmp_path, 30, 15, 15, 60, 20, 5, 5, 10)
    assert clock.utilization() == 40 / 60
    stat(tmp_path, 30, 15, 15, 160, 20, 5, 5, 10)
    assert clock.utilization() == 0


def test_two_looks_in_the_same_tick_show_no_load(tmp_path: Path) -> None:
    stat(tmp_path, 10, 10, 10, 50, 10, 5, 5, 0)
    clock = CpuClock(tmp_path)
    assert clock.utilization() == 0


def test_a_system_without_proc_shows_no_load(tmp_path: Path) -> None:
    assert CpuClock(tmp_path / "nowhere").utilization() == 0


def test_memory_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found = readings()
    ((_, total),) = found["nv_cpu_memory_total_bytes"]
    ((_, used),) = found["nv_cpu_memory_used_bytes"]
    ((_, utilization),) = found["nv_cpu_utilization"]
    assert 0 < used < total
    assert 0 <= utilization <= 1


def test_without_nvidias_library_there_are_no_gpu_families(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert set(readings()) == {"nv_cpu_utilization", "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes"}


def test_without_a_driver_there_are_no_gpu_families(gpus: Callable[[int | None], FakeNvml]) -> None:
    gpus(None)
    assert not [name for name in readings() if "gpu" in name or "energy" in name]


def test_every_gpu_is_shown_under_tritons_names_and_units(gpus: Callable[[int | None], FakeNvml]) -> None:
    gpus(2)
    found = readings()
    one, two = {"gpu_uuid": "GPU-0"}, {"gpu_uuid": "GPU-1"}
    assert found["nv_gpu_utilization"] == [(one, 0.5), (two, 0.51)]
    assert found["nv_gpu_memory_total_bytes"] == [(one, 1000), (two, 1000)]
    assert found["nv_gpu_memory_used_bytes"] == [(one, 100), (two, 101)]
    assert found["nv_gpu_power_usage"] == [(one, 70.5), (two, 70.5)]
    assert found["nv_gpu_power_limit"] == [(one, 300), (two, 300)]


def test_a_reading_that_a_gpu_does_not_offer_is_left_out_for_that_gpu_only(
    gpus: Callable[[int | None], FakeNvml],
) -> None:
    gpus(2)
    assert readings()["nv_energy_consumption"] == [({"gpu_uuid": "GPU-0"}, 5)]


def test_a_gpu_that_fell_off_the_bus_does_not_take_the_others_with_it(gpus: Callable[[int | None], FakeNvml]) -> None:
    gpus(2).lost.add(0)
    assert [labels for labels, _ in readings()["nv_gpu_utilization"]] == [{"gpu_uuid": "GPU-1"}]

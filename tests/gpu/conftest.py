"""What the tests on a real GPU share: whether there is one, a server on it, and how much of its memory is used."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import onnxruntime
import pytest

from frostline import server_process
from frostline_server.runtime.devices import CUDA, cuda_devices

Events = list[dict[str, Any]]
MIB = 2**20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CUDA in onnxruntime.get_available_providers() and cuda_devices():
        return
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and the extra `cuda`"))


class OnGpu:
    """A server on the GPU.

    Attributes:
        served: the process.
        events: what it logged until it was ready, and after its end also what came later.
    """

    def __init__(self, served: server_process.Served, events: Events) -> None:
        self.served = served
        self.events = events

    @property
    def address(self) -> str:
        return self.served.address

    @property
    def warnings(self) -> list[str]:
        return [f"{event.get('model')}: {event.get('warning')}" for event in self.events if event.get("warning")]

    def metrics(self) -> str:
        with urlopen(f"{self.served.metrics}/metrics", timeout=30) as response:
            return str(response.read().decode())

    def metric(self, name: str, model: str) -> dict[str, float]:
        """By all labels as one text, a metric's values for a model."""
        found = {}
        for line in self.metrics().splitlines():
            if line.startswith(f"{name}{{") and f'model="{model}"' in line:
                labels, _, value = line.rpartition(" ")
                found[labels] = float(value)
        return found

    def wait_for(self, true: Callable[[], bool], seconds: float = 60.0) -> None:
        """Ask again and again until it is true."""
        end_s = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end_s, "it did not come true"
            time.sleep(0.05)


@contextmanager
def serving(models: Path, *flags: str) -> Iterator[OnGpu]:
    """`frostline serve --device cuda`, which must end with code 0 after SIGTERM."""
    events: Events = []
    with server_process.serve(["--models", str(models), "--device", "cuda", *flags], events.append) as served:
        yield OnGpu(served, events)


@pytest.fixture(scope="session")
def on_gpu() -> Callable[..., AbstractContextManager[OnGpu]]:
    return serving


@pytest.fixture(scope="session")
def used_mib() -> Callable[[], float]:
    """Reads the first GPU's used memory, in MiB."""
    nvml = pytest.importorskip("pynvml")
    nvml.nvmlInit()
    gpu = nvml.nvmlDeviceGetHandleByIndex(0)
    return lambda: float(nvml.nvmlDeviceGetMemoryInfo(gpu).used / MIB)

"""Which devices there are, and which execution providers are asked for on them."""

import sys
from collections.abc import Sequence
from typing import Any

import pytest

from frostline_server.errors import StartError
from frostline_server.runtime.devices import (
    CPU,
    CUDA,
    Provider,
    choose_providers,
    cuda_devices,
    cuda_error,
    load_cuda_libraries,
    why_unbound,
)
from frostline_server.runtime.session_factory import attempts

BOTH = ("TensorrtExecutionProvider", CUDA, CPU)
ON_GPU = "on the GPU"


@pytest.mark.parametrize(
    ("device", "available", "devices", "chosen"),
    [
        ("cpu", BOTH, 1, CPU),
        ("cpu", [CPU], 0, CPU),
        ("auto", [CPU], 0, CPU),
        ("auto", [CPU], 1, CPU),
        ("auto", BOTH, 0, CPU),
        ("auto", BOTH, 1, "0"),
        ("auto", BOTH, 8, "0"),
        ("cuda", BOTH, 1, "0"),
        ("cuda:0", BOTH, 1, "0"),
        ("cuda:3", BOTH, 4, "3"),
    ],
)
def test_the_device_asked_for_decides_the_providers(
    device: str, available: Sequence[str], devices: int, chosen: str
) -> None:
    providers = choose_providers(device, available, devices)
    if chosen == CPU:
        assert providers == [(CPU, {})]
    else:
        assert [name for name, _ in providers] == [CUDA, CPU]
        assert providers[0][1]["device_id"] == chosen


@pytest.mark.parametrize(
    ("device", "available", "devices", "why"),
    [
        ("cuda", [CPU], 1, "this ONNX Runtime was built without CUDA; install onnxruntime-gpu"),
        ("cuda", BOTH, 0, "no CUDA device was found"),
        ("cuda:1", BOTH, 1, "1 CUDA devices were found"),
        ("cuda:8", BOTH, 8, "8 CUDA devices were found"),
    ],
)
def test_a_gpu_that_was_demanded_and_is_not_there_stops_the_start(
    device: str, available: Sequence[str], devices: int, why: str
) -> None:
    with pytest.raises(StartError) as caught:
        choose_providers(device, available, devices)
    assert str(caught.value) == (f"device {device} was requested, but {why}; use --device auto to fall back to the CPU")


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cuda:x", "", "CPU"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(StartError, match="device must be auto, cpu, cuda or cuda:N, got"):
        choose_providers(device, BOTH, 1)


def test_counting_cuda_devices_never_fails() -> None:
    assert cuda_devices() >= 0


def test_a_machine_without_the_driver_has_no_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert cuda_devices() == 0


class FakeDriver:
    """libcuda with so many devices, or one whose initialisation fails."""

    def __init__(self, devices: int, status: int) -> None:
        self._devices = devices
        self._status = status

    def cuInit(self, flags: int) -> int:
        return self._status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._devices
        return 0


@pytest.mark.parametrize(("devices", "status", "found"), [(2, 0, 2), (2, 100, 0), (0, 0, 0)])
def test_the_driver_says_how_many_devices_there_are(
    monkeypatch: pytest.MonkeyPatch, devices: int, status: int, found: int
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: FakeDriver(devices, status))
    assert cuda_devices() == found


def test_a_gpu_is_asked_for_with_options_that_are_safe_for_every_model() -> None:
    (name, options), _ = choose_providers("cuda:2", BOTH, 3)
    assert name == CUDA
    assert options == {
        "device_id": "2",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


GPU: Provider = (CUDA, {"device_id": "0"})
CAPTURING: Provider = (CUDA, {"device_id": "0", "enable_cuda_graph": "1"})
TENSORRT: Provider = ("TensorrtExecutionProvider", {"device_id": "0"})
ON_CPU: Provider = (CPU, {})


@pytest.mark.parametrize(
    ("providers", "strict", "tried"),
    [
        ([ON_CPU], False, [([ON_CPU], "")]),
        ([GPU, ON_CPU], True, [([GPU, ON_CPU], "")]),
        ([GPU, ON_CPU], False, [([GPU, ON_CPU], ""), ([ON_CPU], "cuda")]),
        ([CAPTURING, ON_CPU], True, [([CAPTURING, ON_CPU], ""), ([GPU, ON_CPU], "graphs")]),
        (
            [TENSORRT, GPU, ON_CPU],
            False,
            [([TENSORRT, GPU, ON_CPU], ""), ([GPU, ON_CPU], "accelerators"), ([ON_CPU], "cuda")],
        ),
    ],
)
def test_what_cannot_be_had_is_given_up_one_thing_after_the_other(
    providers: list[Provider], strict: bool, tried: list[tuple[list[Provider], str]]
) -> None:
    assert attempts(providers, strict=strict) == tried


def test_what_nvidias_libraries_lack_is_told_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "onnxruntime.preload_dlls", lambda: sys.stdout.write("Failed to load libcublas.so.13:\n no such file")
    )
    assert load_cuda_libraries() == "Failed to load libcublas.so.13: no such file"
    assert capsys.readouterr().out == ""


def test_a_provider_that_cannot_be_loaded_is_told_by_what_it_lacks() -> None:
    assert "libonnxruntime_providers_nosuch.so: cannot open shared object file" in why_unbound(
        "NoSuchExecutionProvider"
    )


class Driver:
    """NVIDIA's driver with one device.

    Attributes:
        active: whether the process has a context there.
        code: what waiting for the work there ends with.
        held: how often the context is held.
    """

    def __init__(self, *, active: bool, code: int) -> None:
        self.active = active
        self.code = code
        self.held = 0
        self.current = 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        return 0 if index == 0 else 101

    def cuDevicePrimaryCtxGetState(self, device: Any, flags: Any, active: Any) -> int:
        active._obj.value = int(self.active)
        return 0

    def cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:
        assert self.active, "asking must not make a context where there is none"
        self.held += 1
        return 0

    def cuCtxPushCurrent_v2(self, context: Any) -> int:
        self.current += 1
        return 0

    def cuCtxSynchronize(self) -> int:
        assert self.current == 1
        return self.code

    def cuCtxPopCurrent_v2(self, context: Any) -> int:
        self.current -= 1
        return 0

    def cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:
        self.held -= 1
        return 0

    def cuGetErrorString(self, code: int, text: Any) -> int:
        text._obj.value = b"an illegal memory access was encountered"
        return 0


@pytest.mark.parametrize(
    ("driver", "index", "said"),
    [
        (Driver(active=True, code=0), 0, ""),
        (Driver(active=False, code=700), 0, ""),
        (Driver(active=True, code=700), 1, ""),
        (Driver(active=True, code=700), 0, "CUDA error 700: an illegal memory access was encountered"),
        (None, 0, ""),
    ],
    ids=["well", "never used", "another device", "lost", "no driver"],
)
def test_a_lost_device_is_told_by_the_driver(
    monkeypatch: pytest.MonkeyPatch, driver: Driver | None, index: int, said: str
) -> None:
    monkeypatch.setattr("frostline_server.runtime.devices._driver", lambda: driver)
    assert cuda_error(index) == said
    assert driver is None or (driver.held, driver.current) == (0, 0)

"""A device that stops answering as it should is noticed, shown, and forgiven when it recovers."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from frostline.pb import model_config_pb2
from frostline_server.errors import LoadError, RunFailed
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.repository.device_probe import DeviceProbe, probe
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, batching


class Device:
    """Stands in for a session: what its next probes do."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.hold: threading.Event | None = None

    def probe(self, golden: object) -> None:
        if self.hold is not None:
            assert self.hold.wait(TIMEOUT_S)
        if self.failures:
            raise self.failures.pop(0)


@dataclass(eq=False)
class Model:
    """A served model as the canary sees it."""

    sessions: list[Device]
    golden: None = None
    fault: str = ""


def model(device: Device) -> LoadedModel:
    return cast("LoadedModel", Model([device]))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[LoadedModel]:
    folder = write_artifact(tmp_path, "m", 1)
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=batching(), devices=0)
    loaded = loader.load(folder, "m", model_config_pb2.ModelConfig(), print)
    yield loaded
    assert loaded.batcher.close(TIMEOUT_S)


def test_a_network_that_answers_as_trained_has_no_fault(served: LoadedModel) -> None:
    assert probe(served) == ""


def test_a_network_that_answers_otherwise_has_one(served: LoadedModel) -> None:
    assert served.golden is not None
    served.golden.logits[0, 2] += 1
    assert probe(served).startswith("golden check failed: the logits differ from PyTorch's by 1 at row 0, class 2")


@pytest.mark.parametrize("build", [onnx_models.strings, onnx_models.no_batch_axis, onnx_models.dynamic_inner])
def test_without_a_golden_sample_a_row_of_zeros_must_at_least_run(tmp_path: Path, build: Any) -> None:

    folder = write_artifact(tmp_path, "m", 1, build(), golden=False, labels=None)
    loader = Loader([(CPU, {})], strict=True, threads=1, batching=batching(), devices=0)
    loaded = loader.load(folder, "m", model_config_pb2.ModelConfig(), print)
    assert probe(loaded) == ""
    assert loaded.batcher.close(TIMEOUT_S)


def test_a_fault_that_is_gone_when_asked_again_is_none() -> None:
    device = Device()
    device.failures = [RunFailed("once")]
    assert probe(model(device)) == ""


def test_a_fault_comes_and_goes_and_each_is_told_once() -> None:
    sick, well = Device(), Device()
    models = [model(sick), model(well)]
    told: list[tuple[bool, str]] = []
    device_probe = DeviceProbe(lambda: models, lambda served: told.append((served is models[0], served.fault)), 3600)
    device_probe.look()
    assert told == []
    sick.failures = [RunFailed("dead"), RunFailed("dead")]
    device_probe.look()
    assert told == [(True, "dead")]
    sick.failures = [RunFailed("dead"), RunFailed("dead")]
    device_probe.look()
    assert told == [(True, "dead")]
    device_probe.look()
    assert told == [(True, "dead"), (True, "")]


def test_a_device_that_never_answers_is_a_fault_and_is_not_asked_again_until_it_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("frostline_server.repository.device_probe._PATIENCE_S", 0.01)
    device = Device()
    device.hold = threading.Event()
    models = [model(device)]
    told: list[str] = []
    device_probe = DeviceProbe(lambda: models, lambda served: told.append(served.fault), 0.01)
    device_probe.look()
    device_probe.look()
    assert told == ["the device has not answered for 0.01 s"]
    (thread,) = device_probe._hanging.values()
    device.hold.set()
    thread.join(TIMEOUT_S)
    device_probe.look()
    assert told[1:] == [""]


def test_it_looks_once_a_period_until_it_is_closed() -> None:
    looked = threading.Semaphore(0)

    def nothing() -> list[LoadedModel]:
        looked.release()
        return []

    device_probe = DeviceProbe(nothing, lambda served: None, 0.001)
    device_probe.start()
    for _ in range(3):
        assert looked.acquire(timeout=TIMEOUT_S)
    device_probe.close()
    device_probe._thread.join(TIMEOUT_S)
    assert not device_probe._thread.is_alive()


def test_a_golden_row_that_cannot_be_compared_is_a_load_error(served: LoadedModel) -> None:
    assert served.golden is not None
    served.golden.logits[0] = np.nan
    with pytest.raises(LoadError):
        served.session.probe(served.golden)

"""A device that stops answering as it should is noticed, shown, and forgiven when it recovers."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

from frostline.pb import model_config_pb2
from frostline_server.errors import InvalidData, LoadError, RunFailed, RunStopped
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader
from frostline_server.model.sample_rows import RecentRow, Row
from frostline_server.repository.device_probe import DeviceProbe, probe
from frostline_server.runtime.devices import CPU
from tests.support import onnx_models
from tests.support.onnx_models import write_artifact
from tests.support.puppet import TIMEOUT_S, Replies, batching, make_entry


class Device:
    """Stands in for a session: what its next probes do."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.hold: threading.Event | None = None
        self.rows: list[Row] = []

    def probe(self, row: Row, golden: object) -> None:
        self.rows.append(row)
        if self.hold is not None:
            assert self.hold.wait(TIMEOUT_S)
        if self.failures:
            raise self.failures.pop(0)


@dataclass(eq=False)
class Model:
    """A served model as the canary sees it."""

    sessions: list[Device]
    golden: None = None
    probe_row: Row = (np.zeros(1),)
    recent: RecentRow = field(default_factory=RecentRow)
    probe_fault: str = ""


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


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Callable[..., LoadedModel]]:
    """Loads a network without a golden sample."""
    models: list[LoadedModel] = []

    def load(build: onnx.ModelProto, config: str = "") -> LoadedModel:
        folder = write_artifact(tmp_path, "m", 1, build, golden=False, labels=None)
        loader = Loader([(CPU, {})], strict=True, threads=1, batching=batching(), devices=0)
        models.append(loader.load(folder, "m", text_format.Parse(config, model_config_pb2.ModelConfig()), print))
        return models[-1]

    yield load
    for model in models:
        assert model.batcher.close(TIMEOUT_S)


def test_without_a_row_that_was_answered_nothing_is_run(loaded: Callable[..., LoadedModel]) -> None:
    served = loaded(onnx_models.lookup())
    served.sessions = (device := Device(),)  # type: ignore[assignment]  # all of a session that a probe needs
    device.failures = [RunFailed("a row of zeros")]
    assert probe(served) == ""
    assert device.failures


def test_the_row_of_a_request_is_run_once_one_was_answered(loaded: Callable[..., LoadedModel]) -> None:
    served = loaded(onnx_models.lookup())
    replies = Replies()
    tokens = np.array([[3, 1]], np.int64)
    served.batcher.submit(make_entry(tokens, reply=replies, wanted=("doubled",)))
    replies.wait_for(1)
    assert served.recent.row is not None
    np.testing.assert_array_equal(served.recent.row[0], tokens)
    assert probe(served) == ""
    served.sessions = (device := Device(),)  # type: ignore[assignment]  # all of a session that a probe needs
    device.failures = [RunFailed("dead"), RunFailed("dead")]
    assert probe(served) == "dead"
    assert device.rows[0] is served.recent.row


def test_the_row_of_a_warmup_request_is_run(loaded: Callable[..., LoadedModel]) -> None:
    config = (
        'model_warmup { name: "w" inputs { key: "tokens" value { data_type: TYPE_INT64 dims: 2 zero_data: true } } }'
    )
    served = loaded(onnx_models.lookup(), config)
    served.sessions = (device := Device(),)  # type: ignore[assignment]  # all of a session that a probe needs
    assert probe(served) == ""
    np.testing.assert_array_equal(device.rows[0][0], [[0, 0]])


def test_what_the_data_causes_is_no_fault_of_the_device() -> None:
    device = Device()
    device.failures = [InvalidData("indices element out of data bounds")]
    models = [model(device)]
    device_probe = DeviceProbe(lambda: models, lambda served: pytest.fail(served.probe_fault), 3600)
    device_probe.look()
    assert device.failures == []


def test_a_probe_that_ends_with_the_process_is_no_fault_either() -> None:
    device = Device()
    device.failures = [RunStopped("the server stopped")]
    assert probe(model(device)) == ""


def test_data_that_is_refused_when_asked_again_is_no_fault_either() -> None:
    device = Device()
    device.failures = [RunFailed("once"), InvalidData("indices element out of data bounds")]
    assert probe(model(device)) == ""


def test_a_probe_that_dies_of_something_else_says_of_what() -> None:
    device = Device()
    device.failures = [KeyError("row")]
    models = [model(device)]
    told: list[str] = []
    device_probe = DeviceProbe(lambda: models, lambda served: told.append(served.probe_fault), 3600)
    device_probe.look()
    assert told == ["the probe failed: KeyError: 'row'"]


def test_a_fault_that_is_gone_when_asked_again_is_none() -> None:
    device = Device()
    device.failures = [RunFailed("once")]
    assert probe(model(device)) == ""


def test_a_fault_comes_and_goes_and_each_is_told_once() -> None:
    sick, well = Device(), Device()
    models = [model(sick), model(well)]
    told: list[tuple[bool, str]] = []
    device_probe = DeviceProbe(
        lambda: models, lambda served: told.append((served is models[0], served.probe_fault)), 3600
    )
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
    device_probe = DeviceProbe(lambda: models, lambda served: told.append(served.probe_fault), 0.01)
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
    assert served.probe_row is not None
    served.golden.logits[0] = np.nan
    with pytest.raises(LoadError):
        served.session.probe(served.probe_row, served.golden)

"""Loading and unloading by request, and the index, through both front ends."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.repository.registry import Repository
from frostline_server.rpc.repository_control import ModelControl
from tests.support import onnx_models
from tests.support.calls import refused, row_request, stub
from tests.support.servers import TIMEOUT_S, Running, running


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in ("linear", "other"):
        onnx_models.write_artifact(tmp_path, name, 1)
    (onnx_models.write_artifact(tmp_path, "broken", 1) / "golden.npz").write_bytes(b"damaged")
    return tmp_path


@pytest.fixture(params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[Running]:
    settings = {"model_control": "explicit", "load_models": "linear", "log_level": "error", "probe_s": 0.0}
    with running(models, transport=request.param, **settings) as instance:
        yield instance


@pytest.fixture
def calls(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield stub(channel)


def load(calls: Any, model: str, **parameters: Any) -> None:
    request = pb.RepositoryModelLoadRequest(model_name=model, parameters=parameters)
    calls.RepositoryModelLoad(request, timeout=TIMEOUT_S)


def unload(calls: Any, model: str, **parameters: Any) -> None:
    request = pb.RepositoryModelUnloadRequest(model_name=model, parameters=parameters)
    calls.RepositoryModelUnload(request, timeout=TIMEOUT_S)


def index(calls: Any, *, ready: bool = False) -> list[tuple[str, str, str]]:
    found = calls.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=TIMEOUT_S).models
    return [(entry.name, entry.version, entry.state) for entry in found]


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (
            {
                "instance_group": [{"count": 64}],
                "parameters": {"intra_op_thread_count": {"string_value": "64"}},
            },
            "config.pbtxt asks for 64 instances with 64 threads each; at most ",
        ),
        ({"dynamic_batching": {"max_queue_delay_microseconds": 10**12}}, "at most 10000000 is possible"),
        ({"name": "x" * (1 << 18)}, "characters; the most is 262144"),
    ],
)
def test_a_configuration_in_a_request_cannot_ask_for_more_than_makes_sense(
    calls: Any, config: dict[str, Any], why: str
) -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    code, message = refused(load, calls, "other", config={"string_param": json.dumps(config)})
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert why in message
    assert len(list(Path("/proc/self/task").iterdir())) <= threads + 4
    assert ("linear", "1", "READY") in index(calls)


@pytest.mark.parametrize(
    ("kind", "name", "option"),
    [
        ("gpu_execution_accelerator", "tensorrt", "trt_extra_plugin_lib_paths"),
        ("gpu_execution_accelerator", "tensorrt", "trt_engine_cache_path"),
        ("cpu_execution_accelerator", "openvino", "cache_dir"),
    ],
)
def test_a_configuration_in_a_request_cannot_name_files_of_the_server(
    calls: Any, kind: str, name: str, option: str
) -> None:
    accelerator = {"name": name, "parameters": {option: "/tmp/evil.so"}}
    config = {"optimization": {"execution_accelerators": {kind: [accelerator]}}}
    code, message = refused(load, calls, "other", config={"string_param": json.dumps(config)})
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert f"{option}: a request cannot name files of the server" in message


def test_the_index_names_what_is_not_loaded_without_a_version(calls: Any) -> None:
    assert index(calls) == [("linear", "1", "READY"), ("broken", "", ""), ("other", "", "")]
    assert index(calls, ready=True) == [("linear", "1", "READY")]


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
@pytest.mark.parametrize("control", ["none", "explicit"])
def test_the_index_says_what_looks_like_a_version_and_is_none(tmp_path: Path, front_end: str, control: str) -> None:
    onnx_models.write_artifact(tmp_path, "m", 1)
    for name in ("m", "v1"):
        (tmp_path / name / "02").mkdir(parents=True)
        (tmp_path / name / "02" / "model.onnx").write_text("")
    (tmp_path / "empty").mkdir()
    settings = {"model_control": control, "load_models": "m" if control == "explicit" else None, "require": "m"}
    with (
        running(
            tmp_path, transport=front_end, log_level="error", **{key: value for key, value in settings.items() if value}
        ) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        found = stub(channel).RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
        named = "the folder '02' is not a version; the name of a version is a whole number above 0"
        assert [(entry.name, entry.version, entry.state, entry.reason[: len(named)]) for entry in found] == [
            ("m", "1", "READY", ""),
            *([("v1", "0", "UNAVAILABLE", named)] if control == "none" else []),
            ("empty", "", "UNAVAILABLE", "the folder has no version; put the network into 1/model.onnx, or remove the folder"[: len(named)]),
            ("m", "", "UNAVAILABLE", named),
            *([("v1", "", "UNAVAILABLE", named)] if control == "explicit" else []),
        ]  # fmt: skip
        assert len(stub(channel).RepositoryIndex(pb.RepositoryIndexRequest(ready=True), timeout=TIMEOUT_S).models) == 1


def test_a_reason_that_holds_half_a_character_leaves_the_index_whole(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path, "good", 1)
    card = onnx_models.write_artifact(tmp_path, "odd", 1) / "card.json"
    card.write_text(r'{"sha256": "\ud800"}')
    with (
        running(tmp_path, require="good", log_level="error") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        found = stub(channel).RepositoryIndex(pb.RepositoryIndexRequest(), timeout=TIMEOUT_S).models
    assert [(entry.name, entry.state) for entry in found] == [("good", "READY"), ("odd", "UNAVAILABLE")]
    assert found[1].reason.endswith(r"card says \ud800")


def test_a_model_answers_from_its_load_to_its_unload(calls: Any) -> None:
    x = onnx_models.rows(2)
    code, _ = refused(calls.ModelInfer, row_request(x, model="other"), timeout=TIMEOUT_S)
    assert code == grpc.StatusCode.NOT_FOUND
    load(calls, "other")
    response = calls.ModelInfer(row_request(x, model="other"), timeout=TIMEOUT_S)
    got = np.frombuffer(response.raw_output_contents[0], "<f4").reshape(2, 3)
    np.testing.assert_allclose(got, onnx_models.logits_of(x), rtol=1e-5)
    assert ("other", "1", "READY") in index(calls)
    unload(calls, "other", unload_dependents={"bool_param": True})
    code, _ = refused(calls.ModelInfer, row_request(x, model="other"), timeout=TIMEOUT_S)
    assert code == grpc.StatusCode.NOT_FOUND
    assert ("other", "", "") in index(calls)
    assert calls.ModelInfer(row_request(x), timeout=TIMEOUT_S).model_name == "linear"


def test_a_configuration_in_the_request_is_used_instead_of_the_folders(calls: Any) -> None:
    load(calls, "other", config={"string_param": json.dumps({"maxBatchSize": 5})})
    config = calls.ModelConfig(pb.ModelConfigRequest(name="other"), timeout=TIMEOUT_S).config
    assert config.max_batch_size == 5
    load(calls, "other", config={"string_param": json.dumps({"name": "other", "max_batch_size": 6})})
    config = calls.ModelConfig(pb.ModelConfigRequest(name="other"), timeout=TIMEOUT_S).config
    assert config.max_batch_size == 6


@pytest.mark.parametrize("loaded", [True, False])
def test_a_configuration_in_the_request_that_cannot_be_served_is_what_is_at_fault(calls: Any, loaded: bool) -> None:
    if loaded:
        load(calls, "other")
    config = json.dumps({"input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [5]}]})
    code, message = refused(load, calls, "other", config={"string_param": config})

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "version 1: it cannot be served with the configuration of the request to load it" in message
    assert "files changed" not in message
    assert (("other", "1", "READY") in index(calls)) is loaded


def test_files_that_cannot_be_served_are_at_fault_whatever_the_configuration(
    server: Running, calls: Any, tmp_path: Path
) -> None:
    config = {"string_param": json.dumps({"max_batch_size": 5})}
    load(calls, "other", config=config)
    file = server.server.reconciler.folder_of("other") / "1" / "model.onnx"
    kept = file.read_bytes()
    try:
        file.write_bytes(b"spoilt")
        _, message = refused(load, calls, "other", config=config)
    finally:
        file.write_bytes(kept)

    assert "its files changed after it was loaded" in message


def test_a_configuration_of_tritons_is_taken_and_what_is_not_honoured_is_named(
    server: Running, calls: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[tuple[str, str]] = []
    monkeypatch.setattr(server.server.reconciler, "_on_warning", lambda *told: warnings.append(told))
    config = {"max_batch_size": 7, "optimization": {"cuda": {"graphs": True}}, "batch_input": [], "response_cache": {"enable": True}}  # fmt: skip
    load(calls, "other", config={"string_param": json.dumps(config)})
    assert calls.ModelConfig(pb.ModelConfigRequest(name="other"), timeout=TIMEOUT_S).config.max_batch_size == 7
    names = "optimization.cuda, response_cache"
    assert warnings == [
        ("other", f"the configuration in the request has fields that this server does not support: {names}")
    ]


def test_a_model_that_cannot_be_served_says_why(calls: Any) -> None:
    code, message = refused(load, calls, "broken")
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert "golden" in message
    assert ("broken", "1", "UNAVAILABLE") in index(calls)


BAD_LOADS: dict[str, tuple[str, dict[str, Any], grpc.StatusCode, str]] = {
    "no such model": ("nobody", {}, grpc.StatusCode.NOT_FOUND, "failed to load 'nobody'"),
    "files in the request": (
        "linear",
        {"file:1/model.onnx": {"bytes_param": b"onnx"}},
        grpc.StatusCode.UNIMPLEMENTED,
        "parameter 'file:1/model.onnx': a request cannot carry a model's files",
    ),
    "an unknown parameter": (
        "linear",
        {"color": {"string_param": "red"}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "unrecognized parameter 'color' for loading model 'linear'",
    ),
    "a configuration that is no text": (
        "linear",
        {"config": {"int64_param": 1}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid value type for 'config' parameter",
    ),
    "a configuration that is no JSON": (
        "linear",
        {"config": {"string_param": "max_batch_size: 5"}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' for model 'linear': it is not a model configuration",
    ),
    "a configuration nested without end": (
        "linear",
        {"config": {"string_param": "[" * 100_000}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' for model 'linear': it is not a model configuration",
    ),
    "a configuration that is a list": (
        "linear",
        {"config": {"string_param": "[]"}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' for model 'linear': it is not a model configuration: expected a JSON object, got []",
    ),
    "a configuration with a value of the wrong type": (
        "linear",
        {"config": {"string_param": '{"max_batch_size": "many"}'}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' for model 'linear': it is not a model configuration",
    ),
    "the configuration of another backend": (
        "linear",
        {"config": {"string_param": '{"backend": "python"}'}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' for model 'linear': it sets backend 'python'; this server serves only ONNX files",
    ),
    "another model's configuration": (
        "linear",
        {"config": {"string_param": '{"name": "other"}'}},
        grpc.StatusCode.INVALID_ARGUMENT,
        "parameter 'config' is the configuration of 'other', not of 'linear'",
    ),
}


@pytest.mark.parametrize("name", BAD_LOADS)
def test_a_load_that_makes_no_sense_is_refused_and_what_is_served_stays(calls: Any, name: str) -> None:
    model, parameters, code, message = BAD_LOADS[name]
    got_code, got_message = refused(load, calls, model, **parameters)
    assert (got_code, got_message[: len(message)]) == (code, message)
    assert calls.ModelInfer(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S).model_version == "1"


def test_an_unload_that_makes_no_sense_is_refused(calls: Any) -> None:
    code, message = refused(unload, calls, "nobody")
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "failed to unload 'nobody': it is not loaded")
    code, message = refused(unload, calls, "linear", color={"string_param": "red"})
    assert (code, message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "unrecognized parameter 'color' for unloading model 'linear'",
    )
    code, message = refused(unload, calls, "linear", unload_dependents={"int64_param": 1})
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert ("linear", "1", "READY") in index(calls)


def test_other_calls_are_answered_while_a_model_is_unloaded(server: Running, calls: Any) -> None:
    with server.held("linear") as device:
        accepted = calls.ModelInfer.future(row_request(onnx_models.rows(1)), timeout=TIMEOUT_S)
        device.wait_until_queued(1)
        request = pb.RepositoryModelUnloadRequest(model_name="linear")
        unloading = calls.RepositoryModelUnload.future(request, timeout=TIMEOUT_S)
        # Answered again and again, until it shows that the other call is under way.
        while ("linear", "1", "UNLOADING") not in index(calls):
            assert not unloading.done()
    assert accepted.result().model_name == "linear"
    assert unloading.code() == grpc.StatusCode.OK


@pytest.mark.parametrize("front_end", ["h2", "grpcio"])
def test_without_explicit_control_models_are_not_loaded_by_request(models: Path, front_end: str) -> None:
    with (
        running(models, transport=front_end, require="none", model_control="none", log_level="error") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        expected = (
            grpc.StatusCode.UNAVAILABLE,
            "explicit model load / unload is not allowed if polling is enabled",
        )
        assert refused(load, stub(channel), "linear") == expected
        assert refused(unload, stub(channel), "linear") == expected
        assert ("linear", "1", "READY") in index(stub(channel))


class Slow:
    """A repository whose loads last until they are let go, and are counted."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self.loaded: list[str] = []
        self.finished: list[str] = []
        self.trials: dict[str, Future[None]] = {}
        self.go = threading.Event()

    def start_load(self, name: str, config: None, warnings: Sequence[str]) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        assert self.go.wait(TIMEOUT_S)
        self.running -= 1
        self.loaded.append(name)
        if name == "bad":
            raise RuntimeError("nobody waits for this")

    def tried(self, name: str) -> Future[None]:
        self.trials[name] = trial = Future[None]()
        trial.set_running_or_notify_cancel()
        if name != "tried":
            trial.set_result(None)
        return trial

    def finish_load(self, name: str) -> None:
        self.finished.append(name)


async def test_loads_run_one_at_a_time_and_to_their_end_whoever_waits() -> None:
    reconciler = Slow()
    control = ModelControl(Repository(), reconciler)  # type: ignore[arg-type]  # a keeper by hand
    requests = [pb.RepositoryModelLoadRequest(model_name=name) for name in ("bad", "b", "c")]
    tasks = [asyncio.create_task(control.RepositoryModelLoad(request)) for request in requests]
    while reconciler.running == 0:
        await asyncio.sleep(0)
    tasks[0].cancel()  # its client goes away while it runs
    tasks[1].cancel()  # and this one's while it waits
    await asyncio.wait(tasks[:2])
    reconciler.go.set()
    await tasks[2]
    assert reconciler.loaded == ["bad", "c"]
    assert reconciler.most == 1


async def test_while_a_model_is_tried_others_are_loaded_and_its_caller_is_not_answered() -> None:
    reconciler = Slow()
    reconciler.go.set()
    control = ModelControl(Repository(), reconciler)  # type: ignore[arg-type]  # as above
    gone, waiting = (
        asyncio.create_task(control.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="tried")))
        for _ in range(2)
    )
    while len(reconciler.loaded) < 2:
        await asyncio.sleep(0)
    await control.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="other"))
    assert reconciler.finished == ["other"]
    gone.cancel()  # its client goes away
    await asyncio.wait([gone])
    reconciler.trials["tried"].set_result(None)
    await waiting
    assert reconciler.finished == ["other", "tried"]

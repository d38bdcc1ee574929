"""TraceSetting of a server without traces, through both front ends: Triton's names, clear refusals."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from frostline.pb import inference_pb2 as pb
from tests.support import onnx_models
from tests.support.calls import refused, stub
from tests.support.servers import TIMEOUT_S, Running, running

TRACE_AT_THE_START = {
    "trace_level": ["OFF"],
    "trace_rate": ["1000"],
    "trace_count": ["-1"],
    "log_frequency": ["0"],
    "trace_file": [""],
    "trace_mode": ["triton"],
}


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    onnx_models.write_artifact(models, "other", 1)
    with running(models, transport=request.param) as instance:
        yield instance


@pytest.fixture
def calls(server: Running) -> Iterator[Any]:
    with grpc.insecure_channel(server.address) as channel:
        yield stub(channel)


def trace(calls: Any, model: str = "", **settings: list[str]) -> dict[str, list[str]]:
    """Change trace settings; returns those that are told."""
    values: Any = {name: {"value": value} for name, value in settings.items()}
    told = calls.TraceSetting(pb.TraceSettingRequest(settings=values, model_name=model), timeout=TIMEOUT_S).settings
    return {name: list(value.value) for name, value in told.items()}


def test_trace_settings_are_told_under_tritons_names(calls: Any) -> None:
    assert trace(calls) == TRACE_AT_THE_START


def test_a_models_trace_settings_are_its_own_until_they_are_cleared(calls: Any) -> None:
    assert trace(calls, trace_rate=["10"], trace_level=["OFF"])["trace_rate"] == ["10"]
    assert trace(calls, "linear", trace_rate=["5"], trace_count=["9"])["trace_rate"] == ["5"]
    assert trace(calls, "other")["trace_rate"] == ["10"]
    assert trace(calls, "linear", trace_rate=[])["trace_rate"] == ["10"]
    assert trace(calls, "linear")["trace_count"] == ["9"]
    assert trace(calls, "linear", trace_count=[])["trace_count"] == ["-1"]
    assert trace(calls, trace_rate=[]) == TRACE_AT_THE_START


TRACE_BAD: dict[str, tuple[dict[str, list[str]], grpc.StatusCode, str]] = {
    "a trace": (
        {"trace_level": ["TIMESTAMPS"]},
        grpc.StatusCode.UNIMPLEMENTED,
        "trace_level TIMESTAMPS: this server writes no traces",
    ),
    "a trace and none": (
        {"trace_level": ["OFF", "TENSORS"]},
        grpc.StatusCode.UNIMPLEMENTED,
        "trace_level OFF, TENSORS: this server writes no traces",
    ),
    "another mode": (
        {"trace_mode": ["opentelemetry"]},
        grpc.StatusCode.UNIMPLEMENTED,
        "trace_mode opentelemetry: the only mode of this server is triton",
    ),
    "a file": (
        {"trace_file": ["trace.json"]},
        grpc.StatusCode.UNIMPLEMENTED,
        "trace_file trace.json: spans go to a collector of OpenTelemetry, and to no file",
    ),
    "a frequency of files": (
        {"log_frequency": ["7"]},
        grpc.StatusCode.UNIMPLEMENTED,
        "log_frequency 7: spans are sent as they come, and no file is written",
    ),
    "an unknown name": ({"rate": ["1"]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown trace setting 'rate'"),
    "two values": (
        {"trace_rate": ["1", "2"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "expect only 1 value for 'trace_rate', got 2",
    ),
    "no number": ({"trace_rate": ["x"]}, grpc.StatusCode.INVALID_ARGUMENT, "Unable to parse 'trace_rate', got: x"),
    "a number that is too small": (
        {"trace_count": ["-2"]},
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unable to parse 'trace_count', value is out of range [ -1, 2147483647 ], got: -2",
    ),
}


@pytest.mark.parametrize("name", TRACE_BAD)
def test_a_wrong_trace_setting_changes_nothing(calls: Any, name: str) -> None:
    settings, code, message = TRACE_BAD[name]
    got_code, got_message = refused(trace, calls, **{"trace_rate": ["7"], **settings})
    assert (got_code, got_message[: len(message)]) == (code, message)
    assert trace(calls) == TRACE_AT_THE_START


def test_trace_settings_of_an_unknown_model_are_not_found(calls: Any) -> None:
    code, message = refused(trace, calls, "nobody")
    assert (code, message) == (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'nobody' is not found")

"""The paths of the protocol: what their bodies may be, and what is refused."""

import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from frostline_server.http import infer
from frostline_server.http.call import Call
from frostline_server.http.json_size import memory_of
from tests.support import onnx_models
from tests.support.http_calls import ask
from tests.support.servers import TIMEOUT_S, Running, running

LOAD, UNLOAD = "/v2/repository/models/linear/load", "/v2/repository/models/linear/unload"
REGISTER = "/v2/systemsharedmemory/region/r/register"
CUDA = "/v2/cudasharedmemory/region/r/register"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear")
    wide = onnx_models.passed_through(["rows", "n"], output="same")
    onnx_models.write_artifact(models, "wide", 1, wide, golden=False, labels=None)
    (models / "broken" / "1").mkdir(parents=True)
    (models / "broken" / "1" / "model.onnx").write_bytes(b"no network")
    explicit = {"model_control": "explicit", "load_models": "*", "log_level": "error"}
    with running(models, http=True, **explicit) as instance:
        yield instance


@pytest.fixture(scope="module")
def url(server: Running) -> str:
    return server.server.http_url


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v2/repository/index", b"{", "the body is no JSON: EOF"),
        ("/v2/repository/index", b"\xff", "the body is no JSON"),
        ("/v2/repository/index", [1], "the body is [1]; a JSON object is expected"),
        ("/v2/repository/index", {"readi": True}, "the body has 'readi'; it may have ready, repository_name"),
        ("/v2/repository/index", {"ready": "false"}, 'ready is "false"; it must be true or false'),
        ("/v2/repository/index", {"repository_name": 7}, "repository_name is 7; it must be a text"),
        (LOAD, b'{"parameters":{"x":1,"x":2}}', "an object has the field 'x' twice"),
        (LOAD, {"config": "{}"}, "the body has 'config'; it may have parameters"),
        (LOAD, {"parameters": []}, "parameters is []; it must be an object"),
        (LOAD, {"parameters": {"x": None}}, "x is null; it must be a truth value, a whole number or a text"),
        (LOAD, {"parameters": {"x": 2**63}}, "x is 9223372036854775808; it must be"),
        (LOAD, {"parameters": {"x": 0.5}}, "x is 0.5; it must be"),
        (LOAD, {"parameters": {"file:1/model.onnx": "?"}}, "file:1/model.onnx is \"?\"; it must be bytes in base64"),
        (LOAD, {"parameters": {"file:1/model.onnx": 7}}, "file:1/model.onnx is 7; it must be bytes in base64"),
        (UNLOAD, {"parameters": {"unload_dependents": 1}}, "unload_dependents is 1; it must be true or false"),
        (REGISTER, {}, "key is null; it must be the name of a shared memory object"),
        (REGISTER, {"key": "/k"}, "byte_size is null; it must be a whole number, 0 or more"),
        (REGISTER, {"key": "/k", "byte_size": -1}, "byte_size is -1; it must be a whole number"),
        (REGISTER, {"key": "/k", "byte_size": True}, "byte_size is true; it must be a whole number"),
        (REGISTER, {"key": "/k", "byte_size": 2**63}, "byte_size is 9223372036854775808"),
        (REGISTER, {"key": "/k", "byte_size": 1, "offset": 0.5}, "offset is 0.5; it must be a whole number"),
        (CUDA, {"raw_handle": {"b64": "?"}, "byte_size": 1}, 'raw_handle is "?"; it must be bytes in base64'),
        (CUDA, {"raw_handle": "x", "byte_size": 1}, 'raw_handle is "x"; it must be an object'),
        ("/v2/logging", {"log_info": None}, "log_info is null; it must be a truth value, a whole number or a text"),
        ("/v2/logging", {"log_verbose_level": -1}, "log_verbose_level is -1; it must be"),
        ("/v2/trace/setting", {"trace_rate": 0.5}, "trace_rate is 0.5; it must be a text, a number, a list of them"),
        ("/v2/trace/setting", {"trace_file": True}, "trace_file is true; it must be a text"),
        ("/v2/trace/setting", {"trace_level": [None]}, "trace_level is [null]; it must be a text"),
    ],
)  # fmt: skip
def test_a_body_of_something_else_is_refused(url: str, path: str, body: Any, sentence: str) -> None:
    answer = ask(url, path, body)
    assert (answer.status, answer.headers["frostline-error"]) == (400, "invalid_input")
    assert sentence in answer.error


@pytest.mark.parametrize("body", [b"", b"  ", {}, {"ready": False}])
def test_the_index_has_every_version_with_its_state(url: str, body: Any) -> None:
    answer = ask(url, "/v2/repository/index", body)
    broken, linear, _ = answer.json
    assert linear == {"name": "linear", "version": "1", "state": "READY"}
    assert (broken["name"], broken["version"], broken["state"]) == ("broken", "1", "UNAVAILABLE")
    assert "model.onnx cannot be read" in broken["reason"]


def test_the_index_of_what_is_ready_has_no_other(url: str) -> None:
    assert [entry["name"] for entry in ask(url, "/v2/repository/index", {"ready": True}).json] == ["linear", "wide"]


def test_a_version_that_cannot_be_loaded_is_not_ready(url: str) -> None:
    answer = ask(url, "/v2/models/broken/versions/1/ready")
    assert (answer.status, answer.json) == (503, {"name": "broken", "ready": False})
    infer = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    refused = ask(url, "/v2/models/broken/versions/1/infer", infer)
    assert (refused.status, refused.headers["frostline-error"]) == (503, "model_not_ready")


def test_raw_rows_for_what_is_not_ready_are_told_what_http_tells_of_it(url: str) -> None:
    refused = ask(url, "/v2/models/broken/versions/1/predict", {"rows": [[1, 2, 3, 4]]})
    assert (refused.status, refused.headers["frostline-error"]) == (503, "model_not_ready")
    assert refused.error.endswith("; POST /v2/repository/index tells its state and the reason")
    # It does.
    (broken,) = [each for each in ask(url, "/v2/repository/index", {}).json if each["name"] == "broken"]
    assert (broken["state"], broken["reason"] != "") == ("UNAVAILABLE", True)


def test_a_region_that_is_not_there_is_not_found(url: str) -> None:
    answer = ask(url, "/v2/systemsharedmemory/region/nothing/status")
    assert (answer.status, answer.headers["frostline-error"]) == (404, "region_not_found")


def test_long_json_is_read_and_written_in_another_thread_and_its_memory_is_counted(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[tuple[str, str]] = []
    held: list[int] = []
    read, told = infer.header_of, infer.answer_of

    def reading(*arguments: Any) -> Any:
        threads.append(("read", threading.current_thread().name))
        return read(*arguments)

    def telling(*arguments: Any) -> Any:
        threads.append(("told", threading.current_thread().name))
        return told(*arguments)

    monkeypatch.setattr(infer, "header_of", reading)
    monkeypatch.setattr(infer, "answer_of", telling)
    monkeypatch.setattr(Call, "hold", lambda _, size: held.append(size))
    for count, path in ((1, "linear"), (20_000, "wide")):
        tensor = {"name": "input", "shape": [1, 4 * count], "datatype": "FP32", "data": [0.5] * (4 * count)}
        answer = ask(url, f"/v2/models/{path}/infer", {"inputs": [tensor]})
        assert answer.status == 200
    assert threads[:2] == [("read", "server-loop"), ("told", "server-loop")]
    assert [what for what, thread in threads[2:] if thread != "server-loop"] == ["read", "told"]
    assert memory_of(json.dumps({"inputs": [tensor]}).encode()) in held
    assert [size for size in held if 12 * 320_000 < size < 12 * 321_000]


@pytest.mark.parametrize("path", ["/v2/models", "/v2/models/", "/v3", "/v2/models/linear/versions/1/", "/%2e%2e/v2"])
def test_a_path_that_is_not_there_says_where_the_list_is(url: str, path: str) -> None:
    answer = ask(url, path)
    assert (answer.status, answer.headers["frostline-error"]) == (404, "not_found")
    assert "/openapi.json lists what there is" in answer.error


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository%2Findex", {}),
        ("/v2/repository%2findex", {}),
        ("/v2/models/linear%2Fversions%2F1", None),
        ("/v2/models%2Flinear/infer", {}),
        ("/v2%2F", None),
        ("/%2F", None),
    ],
)
def test_a_slash_that_is_part_of_a_name_is_not_one_between_two(url: str, path: str, body: Any) -> None:
    answer = ask(url, path, body)
    assert (answer.status, answer.headers["frostline-error"]) == (404, "not_found")
    assert answer.error == f"there is nothing at {path}; /openapi.json lists what there is"


def test_other_letters_of_a_name_may_be_written_in_any_way(url: str) -> None:
    for path in ("/v2/models/lin%65ar", "/v2/%6dodels/linear"):
        assert ask(url, path).json["name"] == "linear"
    assert "'100% café'" in ask(url, "/v2/models/100%25%20caf%C3%A9").error


@pytest.mark.parametrize("headers", [{}, {infer.HEADER_LENGTH: "99"}])
@pytest.mark.parametrize("body", [b"{}", b"", b"{", {"inputs": 7}])
def test_of_a_model_that_is_not_there_the_body_does_not_matter(url: str, body: Any, headers: dict[str, str]) -> None:
    for path in ("/v2/models/nobody/infer", "/v2/models/linear/versions/7/infer"):
        answer = ask(url, path, body, headers=headers)
        assert (answer.status, answer.headers["frostline-error"]) == (404, "model_not_found")
    assert ask(url, "/v2/models/linear/infer", body, headers=headers).status == 400


@pytest.mark.parametrize("values", [("2", "3"), ("2", "2"), ("2", "x")])
def test_a_body_whose_json_has_two_lengths_is_refused(url: str, values: tuple[str, str]) -> None:
    status, told = twice(url, infer.HEADER_LENGTH, values)
    assert status == 400
    assert f"{infer.HEADER_LENGTH} is '{values[0]}, {values[1]}'; one whole number is expected" in told


@pytest.mark.parametrize("values", [("gzip", "gzip"), ("identity", "gzip"), ("gzip", "identity")])
def test_a_body_that_is_packed_twice_is_refused(url: str, values: tuple[str, str]) -> None:
    status, told = twice(url, "Content-Encoding", values)
    assert status == 415
    assert f"Content-Encoding is '{values[0]}, {values[1]}'; gzip and deflate are understood" in told


def twice(url: str, name: str, values: tuple[str, str]) -> tuple[int, str]:
    """The status and the error of a request that has a header twice."""
    there = urlsplit(url)
    connection = http.client.HTTPConnection(there.hostname or "", there.port, timeout=TIMEOUT_S)
    try:
        connection.putrequest("POST", "/v2/models/linear/infer")
        for value in values:
            connection.putheader(name, value)
        connection.putheader("Content-Length", "2")
        connection.endheaders(b"{}")
        response = connection.getresponse()
        return response.status, json.loads(response.read())["error"]
    finally:
        connection.close()


@pytest.mark.parametrize(("method", "path"), [("GET", LOAD), ("POST", "/v2"), ("DELETE", "/v2/models/linear")])
def test_another_method_is_refused(url: str, method: str, path: str) -> None:
    answer = ask(url, path, b"{}" if method == "POST" else None, method=method)
    assert (answer.status, answer.headers["frostline-error"]) == (405, "unsupported")
    assert answer.error == f"{method} is no method of {path}"


def test_head_is_answered_as_get_without_a_body(url: str) -> None:
    answer = ask(url, "/v2/models/linear", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert int(answer.headers["content-length"]) == len(ask(url, "/v2/models/linear").body)


def test_a_whole_number_may_be_written_with_a_fraction_of_zeros(url: str) -> None:
    assert ask(url, "/v2/trace/setting", {"trace_rate": 5.0}).json["trace_rate"] == "5"
    assert ask(url, "/v2/logging", {"log_verbose_level": 0.0}).json["log_verbose_level"] == 0
    refused = ask(url, REGISTER, {"key": "/frostline-nothing", "byte_size": 4.0})
    assert "Unable to open shared memory region" in refused.error


def test_a_trace_setting_has_one_value_or_a_list(url: str) -> None:
    told = ask(url, "/v2/trace/setting", {"trace_rate": 7, "trace_level": ["OFF"], "log_frequency": None}).json
    assert (told["trace_rate"], told["trace_level"], told["log_frequency"]) == ("7", ["OFF"], "0")
    assert ask(url, "/v2/models/linear/trace/setting").json["trace_rate"] == "7"
    assert ask(url, "/v2/trace/setting", {"trace_rate": None}).json["trace_rate"] == "1000"


def test_only_predictions_are_compressed_unasked(url: str) -> None:
    packed = {"Accept-Encoding": "gzip, deflate"}
    assert "content-encoding" not in ask(url, "/v2/models/linear/config", headers=packed).headers
    tensor = {"name": "input", "shape": [64, 4], "datatype": "FP32", "data": [0.5] * 256}
    rows = {"inputs": [tensor], "outputs": [{"name": "softmax"}]}
    assert ask(url, "/v2/models/linear/infer", rows, headers=packed).headers["content-encoding"] == "gzip"

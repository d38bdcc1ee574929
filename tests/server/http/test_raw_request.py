"""Triton's raw binary request: the elements of the only input as the whole body."""

import gzip
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from frostline_server.http import infer
from frostline_server.http.infer import array_of
from frostline_server.http.statuses import invalid
from tests.support import onnx_models, raw_media
from tests.support.http_calls import Answer, ask, unrouted
from tests.support.servers import Running, running

RAW = {"Inference-Header-Content-Length": "0"}
ROW = np.array([1, -2, 0.5, 4], np.float32)
PNG = raw_media.picture_files()["png"][0]
STRING, UINT8, BOOL = onnx.TensorProto.STRING, onnx.TensorProto.UINT8, onnx.TensorProto.BOOL


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    raw_media.write_texts(models)
    raw_media.write_pictures(models)
    onnx_models.write_artifact(models, "linear", 3)
    for name, model in {
        "no-batch-axis": onnx_models.no_batch_axis(),
        "sequence": onnx_models.dynamic_inner(),
        "two-outputs": onnx_models.two_outputs(),
        "two-inputs": onnx_models.two_inputs(),
        "constant": onnx_models.constant(),
        "shape-free": onnx_models.passed_through(["rows", "n", "m"], output="same"),
        "empty": onnx_models.passed_through(["n", 0], output="same"),
        "word": onnx_models.passed_through(["rows"], element=STRING, output="echo"),
        "one-word": onnx_models.passed_through([1], element=STRING, output="echo"),
        "words": onnx_models.passed_through(["rows", 2], element=STRING, output="echo"),
        "bytes": onnx_models.passed_through(["rows", "n"], element=UINT8, output="same"),
        "flags": onnx_models.passed_through(["rows", 4], element=BOOL, output="same"),
    }.items():
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None)
    with running(models, http=True, log_level="error") as instance:
        yield instance


def raw(server: Running, model: str, body: bytes, **headers: str) -> Answer:
    """The answer to a raw binary request."""
    return ask(server.server.http_url, f"/v2/models/{model}/infer", body, headers={**RAW, **headers})


def outputs(answer: Answer) -> dict[str, np.ndarray[Any, Any]]:
    """The outputs of an answer, all of which are behind its JSON."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers["inference-header-content-length"])
    behind, found = answer.body[length:], {}
    for output in json.loads(answer.body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = array_of(output["datatype"], behind[:size], output["shape"])
        behind = behind[size:]
    assert not behind
    return found


def refusal(server: Running, model: str, body: bytes) -> str:
    """Why a body is refused."""
    answer = raw(server, model, body)
    assert (answer.status, answer.headers["frostline-error"]) == (400, "invalid_input")
    return answer.error


def test_the_elements_of_one_row_are_a_request(server: Running) -> None:
    found = outputs(raw(server, "linear", ROW.tobytes()))
    np.testing.assert_allclose(found["logits"], onnx_models.logits_of(ROW[np.newaxis]), rtol=1e-6)
    double, total = outputs(raw(server, "two-outputs", ROW.tobytes())).values()
    np.testing.assert_array_equal(double, [2 * ROW])
    np.testing.assert_array_equal(total, [3.5])
    assert outputs(raw(server, "no-batch-axis", ROW.tobytes()))["scores"].shape == (3,)


def test_it_may_name_a_version_and_be_compressed(server: Running) -> None:
    packed = gzip.compress(ROW.tobytes())
    answer = ask(
        server.server.http_url,
        "/v2/models/linear/versions/3/infer",
        packed,
        headers={**RAW, "Content-Encoding": "gzip"},
    )
    assert outputs(answer)["logits"].shape == (1, 3)


@pytest.mark.parametrize("steps", [1, 5])
def test_the_one_free_size_follows_from_the_number_of_bytes(server: Running, steps: int) -> None:
    rows = np.tile(ROW, (steps, 1))
    found = outputs(raw(server, "sequence", rows.tobytes()))["logits"]
    np.testing.assert_allclose(found, onnx_models.logits_of(ROW[np.newaxis]), rtol=1e-6)
    assert outputs(raw(server, "bytes", b"abc"))["same"].tolist() == [[97, 98, 99]]
    assert outputs(raw(server, "bytes", b""))["same"].shape == (1, 0)


def test_any_byte_but_0_is_true(server: Running) -> None:
    answer = raw(server, "flags", b"\x00\x01\x02\xff")
    length = int(answer.headers["inference-header-content-length"])
    assert answer.body[length:] == b"\x00\x01\x01\x01"


@pytest.mark.parametrize(("model", "shape"), [("word", (1,)), ("one-word", (1,))])
def test_a_text_needs_no_length_in_front_of_it(server: Running, model: str, shape: tuple[int, ...]) -> None:
    for text in ("zoë", ""):
        found = outputs(raw(server, model, text.encode()))["echo"]
        assert found.shape == shape
        assert found.tolist() == [text.encode()]


def test_a_picture_or_a_text_of_raw_rows_is_a_request(server: Running) -> None:
    for model, body in (("fruit", PNG), ("mood", b"great")):
        packed = len(body).to_bytes(4, "little") + body
        tensor: dict[str, Any] = {"datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(packed)}}
        said = ask(server.server.http_url, f"/v2/models/{model}").json["inputs"][0]
        head = json.dumps({"inputs": [{**tensor, "name": said["name"]}], "parameters": {"binary_data_output": True}})
        answer = ask(
            server.server.http_url,
            f"/v2/models/{model}/infer",
            head.encode() + packed,
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert raw(server, model, body).body == answer.body
        assert answer.status == 200


@pytest.mark.parametrize(
    ("model", "body", "sentence"),
    [
        ("linear", b"123", "input byte size mismatch for input 'input' for model 'linear'. Expected 16, got 3"),
        ("linear", b"", "Expected 16, got 0"),
        (
            "two-inputs",
            b"1",
            "to model 'two-inputs' has one input, and the model has 2 (left, right); send it with JSON",
        ),
        ("constant", b"", "and the model has 0 (none)"),
        ("sequence", b"1" * 24, "has 24 bytes, and input 'input' FP32 [-1, 4] has a multiple of 16"),
        ("empty", b"", "has 0 bytes, and input 'input' FP32 [-1, 0] has a multiple of 0"),
        ("shape-free", b"1234", "cannot tell the 2 free sizes of input 'input' [-1, -1]; send it with JSON in front"),
        ("words", b"ab", "is one text or file, and input 'input' has the shape [2]; send it with JSON in front"),
        ("word", b"\xff", "the bytes are not UTF-8"),
    ],
)
def test_what_does_not_tell_the_shape_of_the_only_input_is_refused(
    server: Running, model: str, body: bytes, sentence: str
) -> None:
    assert sentence in refusal(server, model, body)


def test_what_is_refused_before_it_is_a_request_is_counted_once(server: Running) -> None:
    codes = "INVALID_ARGUMENT", "NOT_FOUND"
    before = [unrouted(server.metrics_url, code) for code in codes]
    answer = raw(server, "nobody", b"")
    assert (answer.status, answer.headers["frostline-error"]) == (404, "model_not_found")
    refusal(server, "two-inputs", b"1")
    after = [unrouted(server.metrics_url, code) for code in codes]
    assert (after[0] - before[0], after[1] - before[1]) == (1, 1)


def test_what_fails_once_it_was_answered_is_counted_as_answered_and_nothing_else(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsayable(*_: Any) -> None:
        raise invalid("the answer cannot be written as JSON")

    codes = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
    before = [unrouted(server.metrics_url, code) for code in codes]
    answered = counted(server, "linear")
    with monkeypatch.context() as patched:
        patched.setattr(infer, "answer_of", unsayable)
        assert refusal(server, "linear", ROW.tobytes()) == "the answer cannot be written as JSON"
    assert counted(server, "linear") == answered + 1
    assert [unrouted(server.metrics_url, code) for code in codes] == before


def counted(server: Running, model: str) -> int:
    """How many requests a model has answered."""
    answer = ask(server.server.http_url, f"/v2/models/{model}/stats")
    return int(json.loads(answer.body)["model_stats"][0]["inference_stats"]["success"]["count"])


def test_curl_sends_a_file_as_it_is(server: Running, tool: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "row.bin").write_bytes(ROW.tobytes())
    url = f"{server.server.http_url}/v2/models/linear/infer"
    command = [tool("curl"), "--silent", "--fail", url, "-H", "Inference-Header-Content-Length: 0"]
    answered = subprocess.run(
        [*command, "--data-binary", "@row.bin"], cwd=tmp_path, check=True, capture_output=True, timeout=60
    ).stdout
    assert answered == raw(server, "linear", ROW.tobytes()).body

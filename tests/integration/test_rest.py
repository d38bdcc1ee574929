"""The REST API through stock clients, and beside gRPC: both answer the same, bit for bit, and share their batches."""

import asyncio
import base64
import gzip
import http.client
import json
import subprocess
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import numpy as np
import onnx
import pytest
import structlog
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.utils import InferenceServerException, shared_memory

from frostline.pb import inference_pb2 as pb
from frostline.protocol import pack_bytes
from frostline_server.http.numbers import DATATYPES, nested
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from frostline_server.runtime.dtypes import DTYPES
from tests.support import onnx_models, raw_media, raw_rows
from tests.support.calls import row_request, statistics, stub
from tests.support.http_calls import ask, unrouted
from tests.support.onnx_models import LABELS, logits_of
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.tokens import TOKENS, entry, write_access_file

Array = np.ndarray[Any, Any]

CLIENTS = Path(__file__).parent / "clients"
ONNX_NAMES = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
HTTP_OF = {"INVALID_ARGUMENT": 400, "NOT_FOUND": 404}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    for name in ("linear", "spare", "größe 1"):
        onnx_models.write_artifact(models, name)
    for datatype in DATATYPES:
        element = onnx.TensorProto.DataType.Value(ONNX_NAMES.get(datatype, datatype))
        same = onnx_models.passed_through(["rows", "n"], element=element, output="same")
        onnx_models.write_artifact(models, datatype, 1, same, golden=False, labels=None)
        wide = onnx_models.passed_through(["rows", "n", "m"], element=element, output="same")
        onnx_models.write_artifact(models, f"{datatype}-wide", 1, wide, golden=False, labels=None)
    for name, model in {"pair": onnx_models.two_inputs(), "double": onnx_models.two_outputs()}.items():
        onnx_models.write_artifact(models, name, 1, model, golden=False, labels=None)
    raw_media.write_pictures(models)
    explicit = {"model_control": "explicit", "load_models": "*"}
    with running(models, http=True, log_level="error", **explicit) as instance:
        yield instance


@pytest.fixture(scope="module")
def url(server: Running) -> str:
    return server.server.http_url


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(urlsplit(url).netloc, concurrency=8) as connected:
        yield connected


def tensor_of(x: Array, name: str = "input", *, datatype: str = "FP32", binary: bool = True) -> Any:
    """An input of Triton's client."""
    tensor = triton.InferInput(name, list(x.shape), datatype)
    tensor.set_data_from_numpy(x, binary_data=binary)
    return tensor


def refused(call: Callable[..., Any], *arguments: Any, **named: Any) -> tuple[str, str]:
    """The status and the message of a call of Triton's client that must be refused."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **named)
    return caught.value.status(), caught.value.message()


# Triton's client


def test_health_and_metadata(client: Any, url: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    assert not client.is_model_ready("nobody")
    assert ask(url, "/v2/health/live").json == {"live": True}
    assert ask(url, "/v2/health/ready").json == {"ready": True}
    assert ask(url, "/v2/models/linear/versions/1/ready").json == {"name": "linear", "ready": True}
    extensions = client.get_server_metadata()["extensions"]
    assert {"binary_tensor_data", "classification", "statistics", "system_shared_memory"} <= set(extensions)
    metadata = client.get_model_metadata("linear")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "softmax", "argmax"]
    config = client.get_model_config("linear", "1")
    assert (config["name"], config["max_batch_size"], config["input"][0]["name"]) == ("linear", 64, "input")
    assert client.get_model_metadata("größe 1")["name"] == "größe 1"


@pytest.mark.parametrize("sent", [True, False])
@pytest.mark.parametrize("told", [True, False])
def test_tensors_in_json_and_behind_it(client: Any, sent: bool, told: bool) -> None:
    x = onnx_models.rows(2)
    asked = [triton.InferRequestedOutput(name, binary_data=told) for name in ("logits", "argmax")]
    result = client.infer("linear", [tensor_of(x, binary=sent)], outputs=asked, request_id="7")
    np.testing.assert_array_equal(result.as_numpy("logits"), logits_of(x))
    np.testing.assert_array_equal(result.as_numpy("argmax"), logits_of(x).argmax(axis=1))
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "linear", "1")


def test_several_inputs_and_outputs(client: Any) -> None:
    left, right = onnx_models.rows(3), onnx_models.rows(3, 2, 2)
    tensors = [tensor_of(right, "right", binary=False), tensor_of(left, "left")]
    result = client.infer("pair", tensors)
    np.testing.assert_array_equal(result.as_numpy("logits"), logits_of(left + right.reshape(3, 4)))
    result = client.infer("double", [tensor_of(left)])
    np.testing.assert_array_equal(result.as_numpy("double"), 2 * left)
    np.testing.assert_array_equal(result.as_numpy("total"), left.sum(axis=1))


def test_many_requests_at_once(client: Any) -> None:
    rows = [onnx_models.rows(2) + number for number in range(50)]
    waiting = [client.async_infer("linear", [tensor_of(x.astype(np.float32))]) for x in rows]
    for x, answer in zip(rows, waiting, strict=True):
        np.testing.assert_allclose(answer.get_result().as_numpy("logits"), logits_of(x), rtol=1e-5)


def test_classification(client: Any) -> None:
    x = onnx_models.rows(2)
    for binary in (True, False):
        asked = triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)
        result = client.infer("linear", [tensor_of(x)], outputs=[asked]).as_numpy("logits")
        for got, row in zip(result, logits_of(x), strict=True):
            best = np.argsort(-row, kind="stable")[:2]
            parts = [(each if isinstance(each, str) else each.decode()).split(":") for each in got]
            assert [(int(index), label) for _, index, label in parts] == [(index, LABELS[index]) for index in best]


@pytest.mark.parametrize("binary", [True, False])
def test_strings(client: Any, binary: bool) -> None:
    words = np.array([["a", "größe"], ["", "\N{FOX FACE}"]], object)
    asked = triton.InferRequestedOutput("same", binary_data=binary)
    result = client.infer("BYTES", [tensor_of(words, datatype="BYTES", binary=binary)], outputs=[asked])
    found = [each if isinstance(each, str) else each.decode() for each in result.as_numpy("same").ravel()]
    assert found == words.ravel().tolist()


@pytest.mark.parametrize("sent", ["gzip", "deflate", None])
@pytest.mark.parametrize("told", ["gzip", "deflate", None])
def test_compression(client: Any, sent: str | None, told: str | None) -> None:
    x = onnx_models.rows(64)
    packing = {"request_compression_algorithm": sent, "response_compression_algorithm": told}
    result = client.infer("linear", [tensor_of(x)], **packing)
    np.testing.assert_array_equal(result.as_numpy("logits"), logits_of(x))


def test_system_shared_memory(client: Any) -> None:
    key, x = f"/frostline-{uuid.uuid4().hex}", onnx_models.rows(2)
    handle = shared_memory.create_shared_memory_region("both", key, 1024)
    try:
        shared_memory.set_shared_memory_region(handle, [x])
        client.register_system_shared_memory("in", key, 512)
        client.register_system_shared_memory("out", key, 512, offset=512)
        status = client.get_system_shared_memory_status()
        assert status == [
            {"name": "in", "key": key, "offset": 0, "byte_size": 512},
            {"name": "out", "key": key, "offset": 512, "byte_size": 512},
        ]
        assert client.get_system_shared_memory_status("in") == status[:1]
        tensor = triton.InferInput("input", list(x.shape), "FP32")
        tensor.set_shared_memory("in", x.nbytes)
        asked = triton.InferRequestedOutput("logits")
        asked.set_shared_memory("out", 24)
        result = client.infer("linear", [tensor], outputs=[asked])
        assert result.get_output("logits")["parameters"]["shared_memory_region"] == "out"
        got = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 3], offset=512)
        np.testing.assert_array_equal(got, logits_of(x))
        client.unregister_system_shared_memory("in")
        assert "in" in refused(client.infer, "linear", [tensor])[1]
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def test_cuda_shared_memory_is_not_there(client: Any) -> None:
    assert client.get_cuda_shared_memory_status() == []
    client.unregister_cuda_shared_memory()
    assert refused(client.register_cuda_shared_memory, "gpu", b"aGFuZGxl", 0, 64)[0] == "501"


def test_model_control(client: Any) -> None:
    def state() -> str:
        index = client.get_model_repository_index()
        return "/".join(entry.get("state", "") for entry in index if entry["name"] == "spare")

    assert state() == "READY"
    client.unload_model("spare", unload_dependents=True)
    assert state() == ""
    assert not client.is_model_ready("spare")
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.load_model("spare", config='{"max_batch_size": 3}')
    assert client.get_model_config("spare")["max_batch_size"] == 3
    assert refused(client.load_model, "nobody")[0] == "404"
    files = {"file:1/model.onnx": b"onnx"}
    assert refused(client.load_model, "spare", config="{}", files=files)[0] == "501"


def test_statistics(client: Any, server: Running) -> None:
    with grpc.insecure_channel(server.address) as channel:
        before = statistics(channel, "double").inference_stats.success.count
        for _ in range(5):
            client.infer("double", [tensor_of(onnx_models.rows(2))])
        assert statistics(channel, "double", before + 5).inference_stats.success.count == before + 5
    (told,) = client.get_inference_statistics("double", "1")["model_stats"]
    assert told["inference_stats"]["success"]["count"] == before + 5
    assert {stats["name"] for stats in client.get_inference_statistics()["model_stats"]} >= {"linear", "double"}


def test_settings_of_logs_and_traces(client: Any) -> None:
    before = client.get_log_settings()
    assert before["log_info"] is False
    changed = client.update_log_settings({"log_info": True, "log_verbose_level": 1, "log_format": "ISO8601"})
    assert (changed["log_info"], changed["log_verbose_level"], changed["log_format"]) == (True, 1, "ISO8601")
    assert client.update_log_settings(before) == before
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    changed = client.update_trace_settings("linear", {"trace_rate": "5", "trace_level": ["OFF"]})
    assert (changed["trace_rate"], changed["trace_level"]) == ("5", ["OFF"])
    assert client.update_trace_settings("linear", {"trace_rate": None})["trace_rate"] == "1000"
    assert refused(client.update_trace_settings, settings={"trace_level": ["TIMESTAMPS"]})[0] == "501"


def test_errors_have_a_status_and_the_servers_words(client: Any) -> None:
    x = onnx_models.rows(2)
    status, message = refused(client.infer, "nobody", [tensor_of(x)], request_id="7")
    assert (status, message) == ("404", "[request id: 7] Request for unknown model: 'nobody' is not found")
    status, message = refused(client.infer, "linear", [tensor_of(x[:, :3])])
    assert (status, "Expected [-1,4], got [2,3]" in message) == ("400", True)
    status, message = refused(client.infer, "linear", [tensor_of(x.astype(np.int64), datatype="INT64")])
    assert (status, "data-type is 'INT64', but model 'linear' expects 'FP32'" in message) == ("400", True)
    status, message = refused(client.infer, "linear", [tensor_of(x, "wrong")])
    assert (status, "unexpected inference input 'wrong'" in message) == ("400", True)
    asked = [triton.InferRequestedOutput("nothing")]
    status, message = refused(client.infer, "linear", [tensor_of(x)], outputs=asked)
    assert (status, "nothing" in message) == ("400", True)


async def test_tritons_client_of_asyncio(url: str) -> None:
    async with triton_aio.InferenceServerClient(urlsplit(url).netloc) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("linear")
        assert (await client.get_model_metadata("linear"))["name"] == "linear"
        assert (await client.get_model_config("linear"))["max_batch_size"] == 64
        assert await client.get_model_repository_index()
        assert (await client.get_inference_statistics("linear"))["model_stats"]
        assert (await client.get_log_settings())["log_error"] is True
        rows = [(onnx_models.rows(2) + number).astype(np.float32) for number in range(50)]
        results = await asyncio.gather(*(client.infer("linear", [tensor_of(x)]) for x in rows))
        for x, result in zip(rows, results, strict=True):
            np.testing.assert_allclose(result.as_numpy("logits"), logits_of(x), rtol=1e-5)
        many = onnx_models.rows(64)
        packing = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "deflate"}
        for options in ({}, packing):
            result = await client.infer("linear", [tensor_of(many)], **options)
            np.testing.assert_array_equal(result.as_numpy("logits"), logits_of(many))
        with pytest.raises(InferenceServerException, match="'nobody' is not found"):
            await client.infer("nobody", [tensor_of(rows[0])])


# Other clients


def test_kserves_client(url: str, kserve_python: Path) -> None:
    command = [str(kserve_python), str(CLIENTS / "kserve_rest.py"), url]
    client = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S * 2, check=False)
    assert client.returncode == 0, client.stdout + client.stderr


def test_fetch(url: str, tool: Callable[[str], str]) -> None:
    picture = base64.b64encode(raw_media.picture_files()["png"][0]).decode()
    command = [tool("node"), str(CLIENTS / "fetch.mjs"), url, picture]
    client = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert client.returncode == 0, client.stdout + client.stderr
    told = json.loads(client.stdout)
    assert told["ready"] == 200
    assert told["echoed"] == told["sent"]
    np.testing.assert_array_equal(told["logits"], logits_of(np.array([[1, 2, 3, 4]], np.float32))[0])
    answer = ask(url, "/v2/models/fruit/predict", {"rows": [picture]})
    assert told["picture"] == answer.json["predictions"][0]["label"]
    assert told["refused"] == [404, "Request for unknown model: 'nobody' is not found"]


def test_a_picture_that_is_none_is_refused_once_and_counted_once(url: str) -> None:
    def failed() -> int:
        return int(ask(url, "/v2/models/fruit/live").json["versions"][0]["failed"])

    before = failed()
    body = {"rows": [base64.b64encode(b"%PDF-1.7").decode()]}
    assert "is a PDF" in ask(url, "/v2/models/fruit/predict", body).error
    assert failed() - before == 1


def test_a_body_that_says_it_is_something_else_is_told_what_is_understood(url: str) -> None:
    answer = ask(url, "/v2/models/fruit/predict", b"%PDF-1.7", headers={"Content-Type": "application/pdf"})
    assert answer.status == 415
    assert "Content-Type is application/pdf; send JSON" in answer.error


def test_one_connection_answers_many_requests(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
    text = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [[1, 2, 3, 4]]}]})
    packed = {"gzip": gzip.compress(text.encode()), "deflate": zlib.compress(text.encode())}
    for coding, body in packed.items():
        connection.request("POST", "/v2/models/linear/infer", body, {"Content-Encoding": coding})
        answer = connection.getresponse()
        (output,) = json.loads(answer.read())["outputs"]
        assert (answer.status, output["data"]) == (200, logits_of(np.array([[1, 2, 3, 4]], np.float32))[0].tolist())
    connection.request("POST", "/v2/models/linear/infer", packed["gzip"], {"Content-Encoding": "br"})
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"][:24]) == (415, "Content-Encoding is 'br'")
    connection.close()


# REST beside gRPC


class Both:
    """A network that gives back what it gets, asked both ways."""

    def __init__(self, server: Running) -> None:
        self._channel = grpc.insecure_channel(server.address)
        self._infer = stub(self._channel).ModelInfer
        self._http = http.client.HTTPConnection(urlsplit(server.server.http_url).netloc, timeout=TIMEOUT_S)

    def close(self) -> None:
        """End both connections."""
        self._channel.close()
        self._http.close()

    def grpc(self, model: str, datatype: str, array: Array) -> Any:
        """The status and the message of a refusal, or the shape and the elements."""
        request = pb.ModelInferRequest(
            model_name=model,
            inputs=[{"name": "input", "datatype": datatype, "shape": array.shape}],
            raw_input_contents=[raw_of(array)],
        )
        try:
            response = self._infer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return HTTP_OF[error.code().name], error.details()
        return list(response.outputs[0].shape), response.raw_output_contents[0]

    def rest(self, model: str, datatype: str, array: Array, *, sent: bool, told: bool) -> Any:
        """The same, with the elements behind the JSON or in it, there and back."""
        tensor: dict[str, Any] = {"name": "input", "datatype": datatype, "shape": array.shape}
        behind = b""
        if sent:
            behind = raw_of(array)
            tensor["parameters"] = {"binary_data_size": len(behind)}
        else:
            tensor["data"] = nested(array)
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": told}}).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))} if sent else {}
        self._http.request("POST", f"/v2/models/{model}/infer", text + behind, headers)
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status != 200:
            return answer.status, json.loads(body)["error"]
        length = int(answer.headers.get("Inference-Header-Content-Length", len(body)))
        (output,) = json.loads(body[:length], parse_constant=pytest.fail)["outputs"]
        if told:
            assert len(body) - length == output["parameters"]["binary_data_size"]
            return output["shape"], body[length:]
        if datatype == "BYTES":
            return output["shape"], pack_bytes(output["data"])
        words = [float(each) if isinstance(each, str) else each for each in output["data"]]
        return output["shape"], canonical(np.array(words, DTYPES[datatype])).tobytes()


def canonical(array: Array) -> Array:
    """The same with one NaN for all NaN, which is what JSON says of them."""
    return np.where(np.isnan(array), np.array(np.nan, array.dtype), array) if array.dtype.kind == "f" else array


def raw_of(array: Array) -> bytes:
    """Elements as they are on the wire."""
    return pack_bytes(array.ravel().tolist()) if array.dtype.hasobject else array.tobytes()


@pytest.fixture(scope="module")
def both(server: Running) -> Iterator[Both]:
    pair = Both(server)
    yield pair
    pair.close()


@pytest.mark.parametrize("datatype", DATATYPES)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rest_answers_as_grpc_does_bit_for_bit(both: Both, datatype: str, data: st.DataObject) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=2, max_dims=3, min_side=0, max_side=3))
    texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).map(str.encode)
    elements = texts if datatype == "BYTES" else None
    array = canonical(data.draw(arrays.arrays(DTYPES[datatype], shape, elements=elements, fill=st.nothing())))
    model = datatype if len(shape) == 2 else f"{datatype}-wide"
    wanted = both.grpc(model, datatype, array)
    if wanted[0] == list(shape):
        assert wanted[1] == raw_of(array)
    for sent in (True, False):
        for told in (True, False):
            assert both.rest(model, datatype, array, sent=sent, told=told) == wanted


SPECIAL: Mapping[str, list[Any]] = {
    "INT64": [-(2**63), 2**53 + 1, 2**63 - 1],
    "UINT64": [0, 2**53 + 1, 2**64 - 1],
    "FP16": [np.nan, np.inf, -np.inf, -0.0, 6e-8, 65504],
    "FP32": [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4028234663852886e38, 7.038530691851209e-26],
    "FP64": [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1.7976931348623157e308, 0.1],
    "BYTES": ["", "zoë \N{FOX FACE}", "\x00", '"\\/', "\u2028", "x" * 7_000],
}


@pytest.mark.parametrize("datatype", SPECIAL)
@pytest.mark.parametrize("rows", [1, 64])
def test_the_limits_of_each_type_go_both_ways(both: Both, datatype: str, rows: int) -> None:
    cells = [each.encode() for each in SPECIAL[datatype]] if datatype == "BYTES" else SPECIAL[datatype]
    array = np.array([cells] * rows, DTYPES[datatype])
    wanted = both.grpc(datatype, datatype, array)
    assert wanted == (list(array.shape), raw_of(array))
    for sent in (True, False):
        for told in (True, False):
            assert both.rest(datatype, datatype, array, sent=sent, told=told) == wanted


def test_a_float_may_have_any_bits_behind_the_json(both: Both) -> None:
    bits = np.array([[0x7F800001, 0xFFC00123, 0x80000001]], np.uint32).view(np.float32)
    wanted = both.grpc("FP32", "FP32", bits)
    assert both.rest("FP32", "FP32", bits, sent=True, told=True) == wanted == ([1, 3], bits.tobytes())


def test_bytes_that_are_no_text_are_refused_as_over_grpc(both: Both) -> None:
    array = np.array([[b"\xff"]], object)
    refusal = both.grpc("BYTES", "BYTES", array)
    assert (refusal[0], "invalid start byte" in refusal[1]) == (400, True)
    assert both.rest("BYTES", "BYTES", array, sent=True, told=True) == refusal


def test_a_request_over_rest_joins_the_batch_of_requests_over_grpc(server: Running, url: str) -> None:
    x = onnx_models.rows(1)
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": x.tolist()}]}
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(2) as pool:
        infer = stub(channel).ModelInfer
        before = statistics(channel, "linear")
        with server.held("linear") as held:
            over_grpc = [infer.future(row_request(x), timeout=TIMEOUT_S) for _ in range(3)]
            over_rest = [pool.submit(ask, url, "/v2/models/linear/infer", body) for _ in range(2)]
            held.wait_until_queued(5)
        for call in over_grpc:
            assert np.frombuffer(call.result().raw_output_contents[0], np.float32).tolist() == logits_of(x)[0].tolist()
        for answer in over_rest:
            assert answer.result().json["outputs"][0]["data"] == logits_of(x)[0].tolist()
        after = statistics(channel, "linear", before.inference_stats.success.count + 6)
    # One for the row that held the device, and one for all five.
    assert after.execution_count - before.execution_count == 2
    assert {batch.batch_size for batch in after.batch_stats} >= {1, 5}


def test_a_client_that_goes_away_is_not_waited_for(server: Running, url: str) -> None:
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
    with grpc.insecure_channel(server.address) as channel:
        before = statistics(channel, "linear")
        with server.held("linear") as held:
            connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT_S)
            for path, sent in {"infer": body, "predict": {"rows": [[1, 2, 3, 4]]}}.items():
                connection.request("POST", f"/v2/models/linear/{path}", json.dumps(sent).encode())
                held.wait_until_queued(1)
                connection.close()
                held.wait_until_queued(0)
        after = statistics(
            channel, "linear", before.inference_stats.success.count + before.inference_stats.fail.count + 3
        )
    assert after.inference_count - before.inference_count == 1
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 2
    # Answered in its turn, so what those had begun is over.
    assert ask(url, "/v2/health/live").status == 200
    front_end = server.server._http
    assert front_end is not None
    assert front_end.budget.used == 0


def test_a_label_of_the_rollout_may_stand_for_the_version(tmp_path: Path) -> None:
    for number, shift in ((1, 0.0), (2, 5.0)):
        onnx_models.write_artifact(tmp_path, "linear", number, onnx_models.linear(shift=shift))
    rollouts.write(tmp_path / "linear", Rollout(labels={"stable": 1, "canary": 2}, split={"canary": 1}))
    x = onnx_models.rows(1)
    body = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": x.tolist()}]}
    with running(tmp_path, http=True, log_level="error") as server:
        url = server.server.http_url
        for label, version, moved in (("stable", "1", 0.0), ("canary", "2", 5.0), ("2", "2", 5.0)):
            path = f"/v2/models/linear/versions/{label}"
            told = ask(url, f"{path}/infer", body).json
            assert (told["model_version"], told["outputs"][0]["data"]) == (version, (logits_of(x)[0] + moved).tolist())
            assert ask(url, f"{path}/predict", {"rows": x.tolist()}).json["version"] == version
            assert ask(url, f"{path}/ready").status == 200
            assert ask(url, f"{path}/schema").json["version"] == version
        answer = ask(url, "/v2/models/linear/versions/shadow/infer", body)
        assert (answer.status, answer.headers["frostline-error"]) == (400, "invalid_input")
        assert "'shadow'" in answer.error


# Who may call


SLOW = "s-" + "4" * 30
INFER = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def bearer(role: str) -> dict[str, str]:
    """The header of a caller with one role."""
    return {"Authorization": f"Bearer {TOKENS[role]}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("guarded")
    onnx_models.write_artifact(folder / "models", "linear")
    raw_rows.write(folder / "models")
    file = write_access_file(folder / "access.toml", entry("slow", SLOW, "predict", requests_per_s=0.001, burst=2))
    named = {"access_file": file, "allow_anonymous": "none", "model_control": "explicit", "load_models": "*"}
    with running(folder / "models", http=True, log_level="info", **named) as instance:
        yield instance


QUESTIONS: Mapping[str, tuple[str, Any, set[str]]] = {
    "infer": ("/v2/models/linear/infer", INFER, {"predict"}),
    "predict": ("/v2/models/linear/predict", {"rows": [[1, 2, 3, 4]]}, {"predict"}),
    "schema": ("/v2/models/churn/schema", None, {"predict", "observe"}),
    "metadata": ("/v2/models/linear", None, {"predict", "observe"}),
    "config": ("/v2/models/linear/config", None, {"predict", "observe"}),
    "statistics": ("/v2/models/stats", None, {"observe"}),
    "index": ("/v2/repository/index", {}, {"observe"}),
    "log settings": ("/v2/logging", None, {"observe"}),
    "set log settings": ("/v2/logging", {"log_info": True}, {"control"}),
    "load": ("/v2/repository/models/linear/load", {}, {"control"}),
    "register": ("/v2/systemsharedmemory/unregister", {}, {"control"}),
}
"""A path, a body, and the roles of which a caller needs one."""


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_role_may_do_what_it_may_on_grpc(guarded: Running, question: str) -> None:
    path, body, roles = QUESTIONS[question]
    url = guarded.server.http_url
    answer = ask(url, path, body)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert ask(url, path, body, headers={"Authorization": "Bearer nobody"}).status == 401
    for role in TOKENS:
        answer = ask(url, path, body, headers=bearer(role))
        assert answer.status == (200 if role in roles else 403), (role, answer.body)
        if role not in roles:
            assert "role" in answer.error


def test_who_may_not_ask_is_counted(guarded: Running) -> None:
    url, metrics = guarded.server.http_url, guarded.metrics_url
    codes = "UNAUTHENTICATED", "PERMISSION_DENIED"
    before = [unrouted(metrics, code) for code in codes]
    for path in ("/v2/models/linear/infer", "/v2/models/linear/predict"):
        assert ask(url, path, INFER).status == 401
        assert ask(url, path, INFER, headers=bearer("observe")).status == 403
    assert [unrouted(metrics, code) for code in codes] == [count + 2 for count in before]


def test_who_may_not_ask_does_not_learn_which_models_there_are(guarded: Running) -> None:
    for path in ("/v2/models/nobody/infer", "/v2/models/nobody/predict"):
        for body in ({}, INFER):
            assert ask(guarded.server.http_url, path, body).status == 401
            assert ask(guarded.server.http_url, path, body, headers=bearer("observe")).status == 403
            assert ask(guarded.server.http_url, path, body, headers=bearer("predict")).status == 404


def test_probes_need_no_credentials(guarded: Running) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(guarded.server.http_url, path).status == 200


def test_many_rows_are_many_requests_to_the_limit_of_a_caller(tmp_path: Path) -> None:
    onnx_models.write_artifact(tmp_path / "models", "linear")
    file = write_access_file(tmp_path / "access.toml", entry("slow", SLOW, "predict", requests_per_s=0.001, burst=2))
    with running(tmp_path / "models", http=True, access_file=file, allow_anonymous="none") as instance:
        rows = {"rows": [[1, 2, 3, 4]] * 3 * instance.config.max_batch_size}
        header = {"Authorization": f"Bearer {SLOW}"}
        answer = ask(instance.server.http_url, "/v2/models/linear/predict", rows, headers=header)
    assert (answer.status, answer.headers["frostline-error"]) == (429, "rate_limited")


def test_a_caller_of_too_many_calls_is_told_when_to_come_again(guarded: Running) -> None:
    # One call, whatever has to be looked up to answer it.
    rows = {"rows": [dict(zip(raw_rows.COLUMNS, raw_rows.ROWS[0], strict=True))]}
    slow = {"Authorization": f"Bearer {SLOW}"}
    answers = [ask(guarded.server.http_url, "/v2/models/churn/predict", rows, headers=slow) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) > 0
    assert answers[2].headers["frostline-error"] == "rate_limited"
    answer = ask(guarded.server.http_url, "/v2/models/churn/schema", headers=slow)
    assert (answer.status, int(answer.headers["retry-after"]) > 0) == (429, True)


def test_control_over_http_is_a_line_of_the_audit_log(guarded: Running) -> None:
    # Also of a server that runs already.
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as logged:
        for role, what in (("control", "unload"), ("control", "load"), ("predict", "load")):
            ask(guarded.server.http_url, f"/v2/repository/models/linear/{what}", {}, headers=bearer(role))
    lines = [line for line in logged if line["event"] == "audit"]
    told = [(line["method"], line["identity"], line["model"], line["status"]) for line in lines]
    assert told == [
        ("RepositoryModelUnload", "control", "linear", "OK"),
        ("RepositoryModelLoad", "control", "linear", "OK"),
        ("RepositoryModelLoad", "predict", "linear", "PERMISSION_DENIED"),
    ]
    assert all(line["peer"].startswith("ipv4:127.0.0.1:") for line in lines)

"""One way of using Triton's own client, checked as its user would: `triton.py EXAMPLE HOST:PORT`."""

import asyncio
import queue
import sys
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException, shared_memory

Array = np.ndarray[Any, Any]

# The model `linear` of the tests, whose classes are these.
WEIGHTS = np.array([[1, 0, -1], [0, 2, 1], [3, -1, 0], [-2, 1, 1]], np.float32)
BIAS = np.array([0.5, 0.0, -0.5], np.float32)
LABELS = ("ant", "bee", "cat")

TIMEOUT_S = 30
SENT = 200
"""Requests on one stream, and at one time."""


def rows(number: int = 0, count: int = 2) -> Array:
    """Rows that differ from those of every other number."""
    return (np.arange(count * 4).reshape(count, 4) % 5 + number).astype(np.float32)


def logits_of(x: Array) -> Array:
    """What `linear` answers."""
    return np.asarray(x @ WEIGHTS + BIAS)


def tensor_of(x: Array) -> Any:
    """The rows as the client's input."""
    tensor = triton.InferInput("input", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    return tensor


def refusal_of(call: Callable[[], Any]) -> Any:
    """The client's exception of a call that must be refused."""
    try:
        call()
    except InferenceServerException as error:
        return error
    raise AssertionError("it was not refused")


def health(client: Any) -> None:
    """Live, ready, model ready."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")


def metadata(client: Any) -> None:
    """Of the server and of a model, and its configuration, as messages and as JSON."""
    server = client.get_server_metadata()
    assert {"statistics", "model_repository", "system_shared_memory", "logging", "trace"} <= set(server.extensions)
    model = client.get_model_metadata("linear", as_json=True)
    assert model["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "4"]}]
    assert [output["name"] for output in model["outputs"]] == ["logits", "softmax", "argmax"]
    config = client.get_model_config("linear").config
    assert (config.name, config.max_batch_size, config.input[0].name) == ("linear", 64, "input")


def infer(client: Any) -> None:
    """One request and its answer."""
    asked = [triton.InferRequestedOutput(name) for name in ("logits", "argmax")]
    result = client.infer("linear", [tensor_of(rows())], outputs=asked, request_id="7", client_timeout=TIMEOUT_S)
    np.testing.assert_allclose(result.as_numpy("logits"), logits_of(rows()), rtol=1e-5)
    np.testing.assert_array_equal(result.as_numpy("argmax"), logits_of(rows()).argmax(axis=1))
    assert result.get_response().id == "7"
    wrong = triton.InferInput("wrong", [1, 4], "FP32")
    wrong.set_data_from_numpy(rows(count=1))
    error = refusal_of(lambda: client.infer("linear", [wrong]))
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert "unexpected inference input 'wrong'" in error.message()


def async_infer(client: Any) -> None:
    """Many requests at once, each with a callback."""
    answers: queue.Queue[tuple[int, Any, Any]] = queue.Queue()
    for number in range(SENT):

        def done(result: Any, error: Any, number: int = number) -> None:
            answers.put((number, result, error))

        client.async_infer("linear", [tensor_of(rows(number))], done, client_timeout=TIMEOUT_S)
    for _ in range(SENT):
        number, result, error = answers.get(timeout=TIMEOUT_S)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("logits"), logits_of(rows(number)), rtol=1e-4)


def stream(client: Any) -> None:
    """Many requests on one stream, one of them wrong."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(SENT):
        client.async_stream_infer("linear", [tensor_of(rows(number))], request_id=str(number))
    client.async_stream_infer("nobody", [tensor_of(rows())], request_id="wrong")
    errors, seen = [], set()
    for _ in range(SENT + 1):
        result, error = answers.get(timeout=TIMEOUT_S)
        if error is not None:
            errors.append(error.message())
            continue
        number = int(result.get_response().id)
        np.testing.assert_allclose(result.as_numpy("logits"), logits_of(rows(number)), rtol=1e-4)
        seen.add(number)
    assert seen == set(range(SENT))
    assert errors == ["[request id: wrong] Request for unknown model: 'nobody' is not found"]
    client.stop_stream()
    # With this header an error ends the stream with its status instead.
    client.start_stream(lambda result, error: answers.put((result, error)), headers={"triton_grpc_error": "true"})
    client.async_stream_infer("nobody", [tensor_of(rows())])
    _, error = answers.get(timeout=TIMEOUT_S)
    assert error.status() == "StatusCode.NOT_FOUND"
    client.stop_stream()


def cancel(client: Any) -> None:
    """A stream and a call that are given up."""
    client.start_stream(lambda result, error: None)
    for _ in range(SENT):
        client.async_stream_infer("linear", [tensor_of(rows())])
    client.stop_stream(cancel_requests=True)
    client.async_infer("linear", [tensor_of(rows())], lambda result, error: None).cancel()
    infer(client)


def strings(client: Any) -> None:
    """Text in, text out."""
    words = np.array([["a", "größe"], ["", "zz"]], object)
    tensor = triton.InferInput("input", [2, 2], "BYTES")
    tensor.set_data_from_numpy(words)
    result = client.infer("text", [tensor], client_timeout=TIMEOUT_S)
    (name,) = [output.name for output in result.get_response().outputs]
    assert [word.decode() for word in result.as_numpy(name).ravel()] == words.ravel().tolist()


def classification(client: Any) -> None:
    """The best classes of each row, as `value:index:label`."""
    asked = triton.InferRequestedOutput("logits", class_count=2)
    result = client.infer("linear", [tensor_of(rows())], outputs=[asked], client_timeout=TIMEOUT_S)
    for got, row in zip(result.as_numpy("logits"), logits_of(rows()), strict=True):
        best = np.argsort(-row, kind="stable")[:2]
        parts = [entry.decode().split(":") for entry in got]
        assert [(int(index), label) for _, index, label in parts] == [(index, LABELS[index]) for index in best]
        np.testing.assert_allclose([float(value) for value, _, _ in parts], row[best], rtol=1e-5)


def system_shared_memory(client: Any) -> None:
    """Tensors in memory that client and server share, in a call and on a stream."""
    key, x = f"/frostline-{uuid.uuid4().hex}", rows()
    handle = shared_memory.create_shared_memory_region("both", key, 1024)
    try:
        shared_memory.set_shared_memory_region(handle, [x])
        client.register_system_shared_memory("in", key, 512)
        client.register_system_shared_memory("out", key, 512, offset=512)
        assert set(client.get_system_shared_memory_status().regions) == {"in", "out"}
        tensor = triton.InferInput("input", list(x.shape), "FP32")
        tensor.set_shared_memory("in", x.nbytes)
        asked = triton.InferRequestedOutput("logits")
        asked.set_shared_memory("out", 24)
        result = client.infer("linear", [tensor], outputs=[asked], client_timeout=TIMEOUT_S)
        assert result.get_output("logits").parameters["shared_memory_region"].string_param == "out"
        got = shared_memory.get_contents_as_numpy(handle, np.float32, [2, 3], offset=512)
        np.testing.assert_allclose(got, logits_of(x), rtol=1e-5)
        client.unregister_system_shared_memory("in")
        assert "in" in refusal_of(lambda: client.infer("linear", [tensor])).message()
        client.unregister_system_shared_memory()
        assert not client.get_system_shared_memory_status().regions
    finally:
        shared_memory.destroy_shared_memory_region(handle)


def cuda_shared_memory(client: Any) -> None:
    """There is none, and that does not stop a tool that asks first."""
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_cuda_shared_memory()
    error = refusal_of(lambda: client.register_cuda_shared_memory("gpu", b"aGFuZGxl", 0, 64))
    assert error.status() == "StatusCode.UNIMPLEMENTED"


def model_control(client: Any) -> None:
    """Unload, load, load with another configuration, and the index meanwhile."""

    def state(name: str) -> str:
        models = client.get_model_repository_index().models
        return "/".join(entry.state for entry in models if entry.name == name)

    assert state("spare") == "READY"
    client.unload_model("spare", unload_dependents=True)
    assert state("spare") == ""
    assert "unknown model: 'spare'" in refusal_of(lambda: client.is_model_ready("spare")).message()
    client.load_model("spare")
    assert client.is_model_ready("spare")
    client.load_model("spare", config='{"max_batch_size": 3}')
    assert client.get_model_config("spare").config.max_batch_size == 3
    assert refusal_of(lambda: client.load_model("nobody")).status() == "StatusCode.NOT_FOUND"
    files = {"file:1/model.onnx": b"onnx"}
    error = refusal_of(lambda: client.load_model("spare", config="{}", files=files))
    assert error.status() == "StatusCode.UNIMPLEMENTED"


def statistics(client: Any) -> None:
    """What a model has answered."""

    def count() -> int:
        return int(client.get_inference_statistics("linear", "1").model_stats[0].inference_stats.success.count)

    before = count()
    for _ in range(5):
        client.infer("linear", [tensor_of(rows())], client_timeout=TIMEOUT_S)
    # A batch is counted after its answers have left.
    while count() < before + 5:
        pass
    assert count() == before + 5
    assert {stats.name for stats in client.get_inference_statistics().model_stats} >= {"linear", "text"}


def settings(client: Any) -> None:
    """Of logs and traces."""
    assert client.get_log_settings().settings["log_info"].bool_param
    changed = client.update_log_settings({"log_info": False, "log_verbose_level": 1, "log_format": "ISO8601"})
    assert changed.settings["log_verbose_level"].uint32_param == 1
    client.update_log_settings({"log_info": True, "log_verbose_level": 0, "log_format": "default"})
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    changed = client.update_trace_settings("linear", {"trace_rate": "5", "trace_level": ["OFF"]}, as_json=True)
    assert changed["settings"]["trace_rate"]["value"] == ["5"]
    client.update_trace_settings("linear", {"trace_rate": None})
    error = refusal_of(lambda: client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]}))
    assert error.status() == "StatusCode.UNIMPLEMENTED"


def compression(client: Any) -> None:
    """Requests compressed with gzip."""
    x = rows(count=64)
    result = client.infer("linear", [tensor_of(x)], compression_algorithm="gzip", client_timeout=TIMEOUT_S)
    np.testing.assert_allclose(result.as_numpy("logits"), logits_of(x), rtol=1e-5)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="deflate")
    client.async_stream_infer("linear", [tensor_of(x)])
    result, error = answers.get(timeout=TIMEOUT_S)
    assert error is None
    np.testing.assert_allclose(result.as_numpy("logits"), logits_of(x), rtol=1e-5)
    client.stop_stream()


async def aio(address: str) -> None:
    """The client for asyncio: calls at once, a stream, and questions."""
    async with triton_aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        assert await client.is_model_ready("linear")
        assert (await client.get_model_metadata("linear")).name == "linear"
        assert (await client.get_model_config("linear")).config.max_batch_size == 64
        assert (await client.get_model_repository_index()).models
        assert (await client.get_inference_statistics("linear")).model_stats
        assert (await client.get_log_settings()).settings
        assert (await client.get_trace_settings()).settings
        await client.unregister_system_shared_memory()
        results = await asyncio.gather(*(client.infer("linear", [tensor_of(rows(n))]) for n in range(SENT)))
        for number, result in enumerate(results):
            np.testing.assert_allclose(result.as_numpy("logits"), logits_of(rows(number)), rtol=1e-4)

        async def requests() -> AsyncIterator[dict[str, Any]]:
            for number in range(SENT):
                yield {"model_name": "linear", "inputs": [tensor_of(rows(number))], "request_id": str(number)}

        seen = set()
        async for result, error in client.stream_infer(requests(), stream_timeout=TIMEOUT_S):
            assert error is None
            number = int(result.get_response().id)
            np.testing.assert_allclose(result.as_numpy("logits"), logits_of(rows(number)), rtol=1e-4)
            seen.add(number)
        assert seen == set(range(SENT))


EXAMPLES: dict[str, Callable[[Any], None]] = {
    example.__name__: example
    for example in (
        health, metadata, infer, async_infer, stream, cancel, strings, classification, system_shared_memory,
        cuda_shared_memory, model_control, statistics, settings, compression,
    )
}  # fmt: skip


def main(name: str, address: str) -> None:
    """Run one example."""
    if name == "aio":
        asyncio.run(aio(address))
        return
    client = triton.InferenceServerClient(address)
    EXAMPLES[name](client)
    client.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""Streams of inference requests, through both front ends: pipelined, bounded, and each request alone in its failure."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest

from frostline.pb import inference_pb2 as pb
from frostline_server.batching.entry import Entry, RowKind
from frostline_server.codec.shared_memory import Regions
from frostline_server.inference import Call, Inference
from frostline_server.model.stats import Unrouted
from frostline_server.rpc import stream_messages
from frostline_server.rpc.stream import StreamFrontEnd
from tests.support import onnx_models
from tests.support.calls import ended, row_request, statistics, stub
from tests.support.servers import TIMEOUT_S, Running, running
from tests.support.streams import METHOD, Conversation, logits

FRONT_ENDS = pytest.mark.parametrize("front_end", ["h2", "grpcio"])


@pytest.fixture(scope="module", params=["h2", "grpcio"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    onnx_models.write_artifact(models, "linear", 1)
    settings = {"max_batch_size": 8, "max_queue_size": 600, "require": "none", "log_level": "error"}
    with running(models, transport=request.param, **settings) as instance:
        yield instance


def assert_goes_on(conversation: Conversation) -> None:
    x = onnx_models.rows(3)
    conversation.send(row_request(x, "good"))
    (answer,) = conversation.take(1)
    assert answer.infer_response.id == "good"
    np.testing.assert_allclose(logits(answer), onnx_models.logits_of(x), rtol=1e-5)


def test_every_request_of_a_stream_gets_its_own_rows_by_its_id(channel: grpc.Channel) -> None:
    sent = {str(number): onnx_models.rows(1 + number % 3) + number for number in range(1000)}
    conversation = Conversation(channel)
    conversation.send(*(row_request(x, request_id) for request_id, x in sent.items()))
    answers = {answer.infer_response.id: answer for answer in conversation.rest()}
    assert answers.keys() == sent.keys()
    for request_id, x in sent.items():
        np.testing.assert_allclose(logits(answers[request_id]), onnx_models.logits_of(x), rtol=1e-4)
    assert conversation.call.code() == grpc.StatusCode.OK


def test_the_requests_of_a_stream_share_batches(server: Running, channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    with server.held("linear") as device:
        conversation.send(*(row_request(onnx_models.rows(1), str(number)) for number in range(16)))
        device.wait_until_queued(16)
        before = statistics(channel, "linear")
    assert len(conversation.rest()) == 16
    # The run that was held, and two full batches.
    assert statistics(channel, "linear", ended(before) + 17).execution_count == before.execution_count + 3


def test_an_answer_says_that_it_is_the_last_of_its_request_as_triton_does(channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    asked = {"triton_enable_empty_final_response": {"bool_param": True}}
    conversation.send(row_request(onnx_models.rows(1), parameters=asked), row_request(onnx_models.rows(1), model="no"))
    for answer in conversation.rest():
        assert answer.infer_response.parameters["triton_final_response"].bool_param


BAD: dict[str, tuple[pb.ModelInferRequest | bytes, str, str, str]] = {
    "an unknown model": (
        row_request(onnx_models.rows(1), "7", "nobody"),
        "[request id: 7] Request for unknown model: 'nobody' is not found",
        "7",
        "nobody",
    ),
    "a wrong shape": (
        row_request(onnx_models.rows(1, 5), "8"),
        "[request id: 8] unexpected shape for input 'input' for model 'linear'",
        "8",
        "linear",
    ),
    "more rows than the queue takes": (
        row_request(onnx_models.rows(9), "9"),
        "[request id: 9] inference request batch-size must be <= 8 for 'linear'",
        "9",
        "linear",
    ),
    "a damaged message": (b"\xff\xff\xff", "the message is not a valid inference.ModelInferRequest", "", ""),
    "an empty message": (b"", "Request for unknown model: '' is not found", "", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_failed_request_is_told_so_and_the_stream_goes_on(channel: grpc.Channel, name: str) -> None:
    request, message, request_id, model = BAD[name]
    conversation = Conversation(channel)
    conversation.send(request)
    (answer,) = conversation.take(1)
    assert answer.error_message.startswith(message)
    assert (answer.infer_response.id, answer.infer_response.model_name) == (request_id, model)
    assert not answer.infer_response.outputs
    assert_goes_on(conversation)
    assert conversation.rest() == []
    assert conversation.call.code() == grpc.StatusCode.OK


def test_a_failed_request_does_not_wait_for_those_before_it(server: Running, channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    with server.held("linear") as device:
        conversation.send(row_request(onnx_models.rows(1), "first"))
        device.wait_until_queued(1)
        conversation.send(row_request(onnx_models.rows(1), "second", "nobody"))
        (answer,) = conversation.take(1)
        assert answer.infer_response.id == "second"
    assert [answer.infer_response.id for answer in conversation.rest()] == ["first"]


def test_a_full_queue_is_told_to_each_request_that_it_refuses(server: Running, channel: grpc.Channel) -> None:
    others = [Conversation(channel) for _ in range(3)]
    with server.held("linear") as device:
        for other in others:
            other.send(*(row_request(onnx_models.rows(8), str(number)) for number in range(25)))
        device.wait_until_queued(600)
        conversation = Conversation(channel)
        conversation.send(row_request(onnx_models.rows(1), "late"))
        (answer,) = conversation.take(1)
    assert answer.error_message.startswith("[request id: late] Exceeds maximum queue size")
    assert all(len(other.rest()) == 25 for other in others)
    assert_goes_on(conversation)


def test_a_stream_that_asks_for_it_ends_with_the_status_of_its_first_error(
    server: Running, channel: grpc.Channel
) -> None:
    conversation = Conversation(channel, metadata=[("triton_grpc_error", "true")])
    assert_goes_on(conversation)
    with server.held("linear") as device:
        conversation.send(row_request(onnx_models.rows(2), "queued"))
        device.wait_until_queued(2)
        conversation.send(row_request(onnx_models.rows(1), "bad", "nobody"))
        assert conversation.call.code() == grpc.StatusCode.NOT_FOUND
        device.wait_until_queued(0)
    assert conversation.call.details() == "[request id: bad] Request for unknown model: 'nobody' is not found"


def test_cancelling_a_stream_gives_up_all_that_it_has_queued(server: Running, channel: grpc.Channel) -> None:
    x = onnx_models.rows(2)
    gone, stays = Conversation(channel), Conversation(channel)
    with server.held("linear") as device:
        # While the device is held, all before is counted.
        before = statistics(channel, "linear")
        stays.send(row_request(x, "mate"))
        device.wait_until_queued(2)
        gone.send(*(row_request(onnx_models.rows(1)) for _ in range(10)))
        device.wait_until_queued(12)
        gone.call.cancel()
        device.wait_until_queued(2)
    (answer,) = stays.take(1)
    np.testing.assert_allclose(logits(answer), onnx_models.logits_of(x), rtol=1e-5)
    stays.rest()
    # The run that was held counts too.
    after = statistics(channel, "linear", ended(before) + 12).inference_stats
    assert after.fail.count == before.inference_stats.fail.count + 10
    assert after.success.count == before.inference_stats.success.count + 2


def test_a_stream_whose_time_is_up_gives_up_all_that_it_has_queued(server: Running, channel: grpc.Channel) -> None:
    with server.held("linear") as device:
        conversation = Conversation(channel, timeout=0.2)
        conversation.send(row_request(onnx_models.rows(3)))
        assert conversation.call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        device.wait_until_queued(0)


def test_a_client_that_closes_its_side_still_gets_every_answer(server: Running, channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    with server.held("linear") as device:
        conversation.send(*(row_request(onnx_models.rows(1), str(number)) for number in range(20)))
        conversation.close()
        device.wait_until_queued(20)
    assert sorted(int(answer.infer_response.id) for answer in conversation.call) == list(range(20))
    assert conversation.call.code() == grpc.StatusCode.OK


def test_a_stream_without_a_request_ends_well(channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    assert conversation.rest() == []
    assert conversation.call.code() == grpc.StatusCode.OK


def test_a_stream_has_no_more_in_flight_than_it_may(server: Running, channel: grpc.Channel) -> None:
    conversation = Conversation(channel)
    with server.held("linear") as device:
        conversation.send(*(row_request(onnx_models.rows(1), str(number)) for number in range(1000)))
        device.wait_until_queued(stream_messages.MAX_OPEN)
        # Another caller comes and goes meanwhile.
        assert stub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
        device.wait_until_queued(stream_messages.MAX_OPEN)
    assert len(conversation.rest()) == 1000


@FRONT_ENDS
def test_a_stream_of_large_answers_has_as_many_in_flight_as_its_bytes_allow(tmp_path: Path, front_end: str) -> None:
    # A row is answered with 1 MiB.
    wide = onnx_models.product(np.ones((4, 1 << 18), np.float32))
    onnx_models.write_artifact(tmp_path, "wide", 1, wide, golden=False, labels=None)
    options = [("grpc.max_receive_message_length", -1)]
    with (
        running(tmp_path, transport=front_end, max_batch_size=16, log_level="error") as server,
        grpc.insecure_channel(server.address, options=options) as channel,
    ):
        conversation = Conversation(channel)
        with server.held("wide") as device:
            conversation.send(*(row_request(onnx_models.rows(16), str(number), "wide") for number in range(8)))
            device.wait_until_queued(64)
            assert stub(channel).ServerLive(pb.ServerLiveRequest(), timeout=TIMEOUT_S).live
            device.wait_until_queued(64)
        assert len(conversation.rest()) == 8


@FRONT_ENDS
def test_a_stopping_server_answers_what_a_stream_had_accepted_and_ends_it(tmp_path: Path, front_end: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with running(tmp_path, transport=front_end) as server, grpc.insecure_channel(server.address) as channel:
        conversation, idle = Conversation(channel), Conversation(channel)
        assert_goes_on(idle)
        with server.held("linear") as device:
            conversation.send(*(row_request(onnx_models.rows(1), str(number)) for number in range(5)))
            device.wait_until_queued(5)
            drained = server.begin_drain()
            assert idle.call.code() == grpc.StatusCode.UNAVAILABLE
            conversation.send(row_request(onnx_models.rows(1), "late"))
            late = Conversation(channel)
            late.send(row_request(onnx_models.rows(1)))
            assert late.call.code() == grpc.StatusCode.UNAVAILABLE
        assert sorted(answer.infer_response.id for answer in conversation.take(5)) == ["0", "1", "2", "3", "4"]
        assert conversation.call.code() == grpc.StatusCode.UNAVAILABLE
        assert conversation.call.details().startswith("Server is stopping")
        assert drained.result(TIMEOUT_S)


@FRONT_ENDS
def test_what_a_stream_still_has_queued_when_the_grace_ends_is_told_so(tmp_path: Path, front_end: str) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1)
    with (
        running(tmp_path, transport=front_end, grace_s=0.05) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        conversation = Conversation(channel)
        with server.held("linear") as device:
            conversation.send(row_request(onnx_models.rows(2), "queued"))
            device.wait_until_queued(2)
            drained = server.begin_drain()
            (answer,) = conversation.take(1)
            assert answer.error_message.startswith("[request id: queued] Server is stopping")
            assert conversation.call.code() == grpc.StatusCode.UNAVAILABLE
        assert not drained.result(TIMEOUT_S)


# One stream on a call that is no network's: what it reads, and when


class Client:
    """A call whose client sends `request` for ever, or `count` times, and takes an answer whenever the test says so."""

    def __init__(self, request: bytes, count: int | None = None) -> None:
        self._request = request
        self._count = count
        self.read_messages = 0
        self.written: list[bytes] = []
        self.taking = asyncio.Event()

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()

    async def read(self) -> Any:
        await asyncio.sleep(0)
        if self.read_messages == self._count:
            return grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs forget it
        self.read_messages += 1
        return self._request

    async def write(self, message: bytes) -> None:
        await self.taking.wait()
        self.written.append(message)


class Repository:
    """A repository that fails in a way nobody foresaw."""

    def get(self, name: str, version: str) -> Any:
        raise RuntimeError(f"{name}:{version} is haunted")


def door_over(repository: Any) -> StreamFrontEnd:
    return StreamFrontEnd(Inference(repository, Unrouted(), 1 << 30, Regions(enabled=False, max_tensor_bytes=0)))


async def settle(client: Client) -> None:
    """Let the stream read until it stops of itself."""
    before = -1
    while client.read_messages != before:
        before = client.read_messages
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_client_that_never_takes_an_answer_is_not_read_any_further() -> None:
    client = Client(b"damaged")
    call = asyncio.create_task(door_over(Repository())._call(None, client))  # type: ignore[arg-type]  # a call by hand
    await settle(client)
    assert client.read_messages == stream_messages.MAX_OPEN
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


class Silent:
    """An inference that accepts everything, and finishes nothing by itself."""

    def __init__(self) -> None:
        self.accepted: list[Any] = []
        self.given_up: list[Any] = []
        self.helped = 0
        self.answer_bytes: int | None = 0

    def prepare(self, method: str, payload: bytes, deadline_s: None, reply: Any, token: Any, origin: None) -> Any:
        served = SimpleNamespace(
            name="linear", codec=SimpleNamespace(answer_bytes=lambda wanted, rows: self.answer_bytes)
        )
        entry = Entry(RowKind((), (), ()), 1, [], (), deadline_s, reply, Call(token, "7", served))  # type: ignore[arg-type]  # hardly a codec
        self.accepted.append(entry)
        return entry

    def submit(self, entry: Any, method: str, payload: bytes, *, inline: bool) -> Any:
        return self

    def run_inline(self) -> None:
        self.helped += 1

    def cancel(self, entry: Any) -> None:
        self.given_up.append(entry)


async def test_large_messages_fill_a_stream_sooner() -> None:
    client, inference = Client(bytes(stream_messages.MAX_OPEN_BYTES // 4)), Silent()
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    assert client.read_messages == 4
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert inference.given_up == inference.accepted


@pytest.mark.parametrize(("answer_bytes", "read"), [(0, 256), (1 << 20, 64), (64 << 20, 1), (None, 16)])
async def test_what_is_running_counts_as_much_as_its_answer_will(answer_bytes: int | None, read: int) -> None:
    client, inference = Client(b""), Silent()
    inference.answer_bytes = answer_bytes
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    assert client.read_messages == read
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_stream_whose_client_has_gone_keeps_no_answer() -> None:
    client = Client(b"damaged")
    front_end = door_over(Repository())
    call = asyncio.create_task(front_end._call(None, client))  # type: ignore[arg-type]  # a call by hand
    await settle(client)
    (stream,) = front_end._streams
    assert stream._answers
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not stream._answers


def test_expected_answers_are_like_the_last_ones() -> None:
    expected = stream_messages.Expected()
    unknown = SimpleNamespace(
        call=SimpleNamespace(served=SimpleNamespace(codec=SimpleNamespace(answer_bytes=lambda wanted, rows: None))),
        wanted=(),
        rows=1,
    )
    assert expected.of(unknown) == 4 << 20  # type: ignore[arg-type]  # hardly an entry
    for _ in range(20):
        expected.came(1000)
    assert expected.of(unknown) == 1000  # type: ignore[arg-type]  # as above
    expected.came(5 << 20)
    assert expected.of(unknown) == 5 << 20  # type: ignore[arg-type]  # as above


async def test_an_answer_that_cannot_be_encoded_fails_alone(capsys: pytest.CaptureFixture[str]) -> None:
    client, inference = Client(b"", count=2), Silent()
    client.taking.set()
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    inference.accepted[0].reply(inference.accepted)
    await call
    answers = [pb.ModelStreamInferResponse.FromString(message) for message in client.written]
    assert [answer.infer_response.id for answer in answers] == ["7", "7"]
    assert all(answer.error_message.startswith("[request id: 7] unexpected AttributeError") for answer in answers)
    assert "request failed unexpectedly" in capsys.readouterr().out


async def test_messages_that_come_in_a_row_are_run_together() -> None:
    client, inference = Client(b"", count=20), Silent()
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    assert len(inference.accepted) == 20
    assert inference.helped == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_messages_that_never_pause_are_run_all_the_same() -> None:
    client, inference = Client(b"", count=200), Silent()
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    assert 200 / 64 <= inference.helped < 20
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_an_answer_that_comes_after_the_end_is_dropped() -> None:
    client, inference = Client(b"", count=1), Silent()
    call = asyncio.create_task(StreamFrontEnd(inference)._call(None, client))  # type: ignore[arg-type]  # both by hand
    await settle(client)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    inference.accepted[0].reply(inference.accepted)
    await settle(client)
    assert client.written == []


async def test_a_defect_in_one_requests_path_is_that_requests_failure(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(pb.ModelInferRequest(model_name="house", id="1").SerializeToString(), count=2)
    client.taking.set()
    await door_over(Repository())._call(None, client)  # type: ignore[arg-type]  # a call by hand
    answers = [pb.ModelStreamInferResponse.FromString(message) for message in client.written]
    assert [answer.error_message for answer in answers] == [
        "[request id: 1] unexpected RuntimeError: house: is haunted"
    ] * 2
    assert "request failed unexpectedly" in capsys.readouterr().out


def test_a_stream_is_reached_under_the_protocols_name() -> None:
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert f"/{service.full_name}/{service.methods_by_name['ModelStreamInfer'].name}" == METHOD

"""The lean client, against gRPC's own server."""

import queue
import select
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc
import numpy as np
import pytest

from bench.load.echo import Echo, listening
from bench.load.workload import framed
from frostline.tune import openloop
from frostline.tune.http2 import Answer, Connection, connected
from frostline_server.rpc.h2.call import Call


def _handlers() -> "grpc.GenericRpcHandler[bytes, bytes]":
    def echo(message: bytes, _: grpc.ServicerContext) -> bytes:
        return message

    def refuse(_: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "7"),))
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full, später")
        raise AssertionError("abort raises")

    def left(_: bytes, context: grpc.ServicerContext) -> bytes:
        return f"{context.time_remaining() < 60}".encode()

    unary = {
        name: grpc.unary_unary_rpc_method_handler(call)
        for name, call in (("Echo", echo), ("Refuse", refuse), ("Left", left))
    }
    stream = {"All": grpc.stream_stream_rpc_method_handler(lambda messages, _: messages)}
    return grpc.method_handlers_generic_handler("t.T", {**unary, **stream})


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    servers: list[grpc.Server] = []

    def start(*options: tuple[str, int]) -> str:
        server = grpc.server(futures.ThreadPoolExecutor(4), options=list(options))
        server.add_generic_rpc_handlers((_handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(0).wait()


def finish(connection: Connection, count: int) -> list[Answer]:
    answers: list[Answer] = []
    while len(answers) < count:
        select.select([connection], [connection] if connection.blocked else [], (), 10)
        connection.flush()
        answers += connection.receive()
    return answers


def test_a_call_is_answered_with_its_status_and_message(serve: Callable[..., str]) -> None:
    with connected(serve(), "/t.T/Echo", 1) as (connection,):
        stream = connection.request(framed(b"hello"))
        connection.flush()
        (answer,) = finish(connection, 1)
    assert (answer.stream, answer.status, answer.messages()) == (stream, 0, [b"hello"])


def test_an_error_comes_with_its_trailers(serve: Callable[..., str]) -> None:
    with connected(serve(), "/t.T/Refuse", 1) as (connection,):
        for _ in range(3):
            connection.request(framed(b""))
        connection.flush()
        answers = finish(connection, 3)
    assert [answer.status for answer in answers] == [8, 8, 8]
    assert answers[2].trailers["grpc-retry-pushback-ms"] == "7"
    assert answers[2].body == b""


def test_a_timeout_reaches_the_server_as_its_deadline(serve: Callable[..., str]) -> None:
    with connected(serve(), "/t.T/Left", 1, timeout_s=30.0) as (connection,):
        connection.request(framed(b""))
        connection.flush()
        assert finish(connection, 1)[0].messages() == [b"True"]


def test_messages_larger_than_every_window_arrive_whole(serve: Callable[..., str]) -> None:
    bodies = [bytes([number]) * 3_000_000 for number in range(4)]
    with connected(serve(), "/t.T/Echo", 1) as (connection,):
        streams = {connection.request(framed(body)): body for body in bodies}
        connection.flush()
        answers = finish(connection, len(bodies))
    assert {answer.stream: answer.messages()[0] for answer in answers} == streams


class Slow(Echo):
    """Answers calls when it is told to."""

    def __init__(self) -> None:
        self.calls: queue.Queue[tuple[Call, bytes]] = queue.Queue()

    def message(self, call: Call, message: bytes) -> None:
        """Keep it."""
        self.calls.put((call, message))


def test_calls_beyond_the_servers_limit_wait_for_their_turn() -> None:
    # gRPC's own server may refuse a stream in the moment in which the one before it ends.
    slow = Slow()
    with (
        listening(slow, "/t.T/Echo", max_calls=2) as (address, listener),
        connected(address, "/t.T/Echo", 1) as (connection,),
    ):
        for number in range(50):
            connection.request(framed(str(number).encode()))
        connection.flush()
        answers: list[Answer] = []
        while len(answers) < 50:
            open_calls = [slow.calls.get(timeout=10) for _ in range(min(2, 50 - len(answers)))]
            assert slow.calls.empty()
            for call, message in open_calls:
                listener.post(call.connection.answer, call, message)
            answers += finish(connection, len(open_calls))
    assert sorted(int(answer.messages()[0]) for answer in answers) == list(range(50))


def test_one_call_carries_many_messages(serve: Callable[..., str]) -> None:
    with connected(serve(), "/t.T/All", 1) as (connection,):
        connection.request(framed(b"a") + framed(b"") + framed(b"ccc"))
        connection.flush()
        (answer,) = finish(connection, 1)
    assert answer.messages() == [b"a", b"", b"ccc"]


def test_open_load_counts_every_request_and_shows_a_sample(serve: Callable[..., str]) -> None:
    due_s = np.linspace(0, 0.01, 100)
    seen: dict[int, Answer] = {}
    with connected(serve(), "/t.T/Echo", 2) as connections:
        outcome = openloop.drive(
            connections,
            [framed(b"even"), framed(b"odd")],
            due_s,
            lambda number, answer: seen.update({number: answer}),
            sample=10,
        )
    assert outcome.status.tolist() == [0] * 100
    assert (outcome.late_s >= 0).all()
    assert (outcome.latency_s >= outcome.late_s).all()
    assert sorted(seen) == list(range(0, 100, 11))
    assert all(answer.messages() == [(b"even", b"odd")[number % 2]] for number, answer in seen.items())


def test_what_a_server_never_answers_counts_as_unanswered() -> None:
    with (
        listening(Slow(), "/t.T/Echo") as (address, _),
        connected(address, "/t.T/Echo", 1) as connections,
    ):
        outcome = openloop.drive(connections, [framed(b"")], np.zeros(3), lambda *_: None, drain_s=0.01)
    assert outcome.status.tolist() == [-1, -1, -1]
    assert np.isnan(outcome.latency_s).all()


def test_a_method_that_does_not_exist_is_an_answer_too(serve: Callable[..., str]) -> None:
    with connected(serve(), "/t.T/Missing", 1) as connections:
        outcome = openloop.drive(connections, [framed(b"")], np.zeros(3), lambda *_: None)
    assert outcome.status.tolist() == [12, 12, 12]

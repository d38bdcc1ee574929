"""The HTTP server's limits, over real sockets: who is slow, idle or rude harms nobody else."""

import asyncio
import contextlib
import email.utils
import errno
import gc
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import structlog

from frostline_server.metrics.http_pages import Page, Response, text
from frostline_server.metrics.http_request import Request
from frostline_server.metrics.http_server import HttpServer, Limits
from tests.support.descriptors import descriptors
from tests.support.puppet import TIMEOUT_S
from tests.support.servers import until

ALIVE = {"/alive": Page(lambda _: text(200, "ok"))}


class Served:
    """A started server.

    Attributes:
        server: it.
        address: where it is.
    """

    def __init__(self, server: HttpServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, TIMEOUT_S)

    def ask(self, request: bytes) -> bytes:
        """What comes until the server closes."""
        with self.connect() as client:
            client.sendall(request)
            return rest(client)

    def status(self, path: str) -> int:
        return int(self.ask(f"GET {path} HTTP/1.0\r\n\r\n".encode()).split()[1])


def rest(client: socket.socket) -> bytes:
    """All that is still to come."""
    parts = []
    while part := client.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def answer(client: socket.socket, body: bytes) -> bytes:
    """An answer, up to its body."""
    got = b""
    while not got.endswith(b"\r\n\r\n" + body):
        part = client.recv(1 << 16)
        assert part
        got += part
    return got


@contextmanager
def serving(
    pages: Mapping[str, Page] = ALIVE, listening: socket.socket | None = None, **limits: Any
) -> Iterator[Served]:
    if listening is None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = HttpServer(listening, pages, limits=Limits(**limits))
    address = listening.getsockname()
    server.start()
    try:
        yield Served(server, address)
    finally:
        server.close()


class Held:
    """A page that waits until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.go = threading.Event()

    def make(self, _: Request) -> Response:
        self.asked.release()
        assert self.go.wait(TIMEOUT_S)
        return text(200, "at last")


def test_a_connection_serves_one_request_after_the_other_also_if_they_come_together() -> None:
    with serving() as served, served.connect() as client:
        client.sendall(b"GET /alive HTTP/1.1\r\n\r\n")
        first = answer(client, b"ok\n")
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Connection: close" not in first
        client.sendall(b"GET /alive HTTP/1.1\r\n\r\nGET /alive HTTP/1.1\r\nConnection: close\r\n\r\n")
        both = rest(client)
        assert both.count(b"HTTP/1.1 200 OK\r\n") == 2
        assert b"Connection: close\r\n" in both


def test_who_asks_for_the_head_gets_no_body() -> None:
    with serving() as served:
        got = served.ask(b"HEAD /alive HTTP/1.0\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 3\r\n" in got
    assert got.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "status", "field"),
    [
        (b"POST /alive HTTP/1.1\r\n\r\n", b"405 Method Not Allowed", b"Allow: GET, HEAD\r\n"),
        (b"POST /alive HTTP/1.1\r\nContent-Length: 9\r\n\r\n123456789", b"413 ", b""),
        (b"GET /else HTTP/1.0\r\n\r\n", b"404 Not Found", b""),
        (b"rubbish\r\n\r\n", b"400 Bad Request", b""),
        (b"GET /alive HTTP/1.1\r\nA: " + b"x" * 100_000, b"431 Request Header Fields Too Large", b""),
    ],
)
def test_what_cannot_be_answered_is_told_why(request_: bytes, status: bytes, field: bytes) -> None:
    with serving() as served:
        with served.connect() as client:
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            got = rest(client)
        assert got.startswith(b"HTTP/1.1 " + status)
        assert field in got
        assert served.status("/alive") == 200


def test_a_thousand_idle_connections_take_no_threads_and_lock_nobody_out() -> None:
    with serving() as served, ExitStack() as idle:
        threads = threading.active_count()
        for _ in range(1000):
            idle.enter_context(served.connect())
            assert served.server.connections <= 128 + 2 * 16
        assert served.status("/alive") == 200
        assert threading.active_count() == threads


def test_the_connection_that_has_waited_longest_makes_way() -> None:
    with serving(connections=2) as served, served.connect() as first:
        until(lambda: served.server.connections == 1)
        with served.connect() as second:
            until(lambda: served.server.connections == 2)
            with served.connect() as third:
                assert rest(first) == b""
                for client in (second, third):
                    client.sendall(b"GET /alive HTTP/1.1\r\n\r\n")
                    answer(client, b"ok\n")


def test_a_connection_too_many_is_closed_where_all_others_are_being_answered() -> None:
    held = Held()
    with serving({"/held": Page(held.make, at_once=1)}, connections=1) as served, served.connect() as first:
        first.sendall(b"GET /held HTTP/1.0\r\n\r\n")
        assert held.asked.acquire(timeout=TIMEOUT_S)
        with served.connect() as second:
            assert rest(second) == b""
        held.go.set()
        assert b"at last" in rest(first)


@pytest.mark.parametrize("said", [b"", b"G", b"GET /alive HTTP/1.1\r\nA: b\r\n"])
def test_a_request_that_does_not_come_is_not_waited_for(said: bytes) -> None:
    with serving(head_s=0.05) as served, served.connect() as slow:
        slow.sendall(said)
        assert rest(slow) == b""


def test_a_connection_without_another_request_is_closed() -> None:
    with serving(idle_s=0.05) as served, served.connect() as client:
        client.sendall(b"GET /alive HTTP/1.1\r\n\r\n")
        answer(client, b"ok\n")
        assert rest(client) == b""


def test_an_answer_that_is_not_taken_is_given_up_and_its_turn_is_free_again() -> None:
    large = Response(200, bytes(64 << 20))
    pages = {"/large": Page(lambda _: large, at_once=1), **ALIVE}
    with serving(pages, write_s=0.05, wait_s=TIMEOUT_S) as served, served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        until(lambda: served.server.connections == 1)
        until(lambda: served.server.connections == 0)
        assert served.ask(b"HEAD /large HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def streams() -> int:
    """How many there are, those included that only wait for the garbage collector."""
    return sum(isinstance(each, asyncio.StreamReader) for each in gc.get_objects())


def test_who_hangs_up_leaves_no_stream_to_the_garbage_collector() -> None:
    large = Response(200, bytes(64 << 20))
    with serving({"/large": Page(lambda _: large, at_once=1)}) as served:
        gc.collect()
        gc.disable()
        before = streams()
        try:
            with served.connect() as client:
                client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
                assert client.recv(1)
            until(lambda: served.server.connections == 0)
            # The thread that owns it may still be letting go of it.
            until(lambda: streams() <= before)
        finally:
            gc.enable()


def test_who_hangs_up_right_before_the_answer_leaves_no_stream_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer's first write fails then, before the stream has been told of it."""

    with serving({"/page": Page(lambda _: Response(200, b"page"))}) as served:
        gc.collect()
        gc.disable()
        before = streams()
        try:
            client = served.connect()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            def hang_up(**_: Any) -> str:
                client.close()
                return "now"

            monkeypatch.setattr(email.utils, "formatdate", hang_up)
            client.sendall(b"GET /page HTTP/1.1\r\n\r\n")
            until(lambda: client.fileno() == -1 and served.server.connections == 0)
            until(lambda: streams() <= before)
        finally:
            gc.enable()


def test_pages_that_take_long_hold_up_no_others_and_too_many_of_them_are_refused() -> None:
    held = Held()
    with serving({"/held": Page(held.make, at_once=2), **ALIVE}, wait_s=0.01) as served, ExitStack() as cleanup:
        cleanup.callback(held.go.set)
        clients = [cleanup.enter_context(served.connect()) for _ in range(2)]
        for client in clients:
            client.sendall(b"GET /held HTTP/1.0\r\n\r\n")
            assert held.asked.acquire(timeout=TIMEOUT_S)
        refusal = served.ask(b"GET /held HTTP/1.0\r\n\r\n")
        assert refusal.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"Retry-After: 1\r\n" in refusal
        assert served.status("/alive") == 200
        held.go.set()
        assert all(b"at last" in rest(client) for client in clients)


class Exhausted(socket.socket):
    """A listening socket of a process that may open no more files, as often as is said."""

    refusals: Iterator[int]

    def accept(self) -> Any:
        number = next(self.refusals, 0)
        if number:
            raise OSError(number, "no more files")
        return super().accept()


def exhausted(*refusals: int) -> Exhausted:
    listening = Exhausted()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    listening.refusals = iter(refusals)
    return listening


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_more_files_a_connection_is_answered_from_the_reserve(number: int) -> None:
    # Three connections: each is refused once, and then had in the place of a reserved descriptor.
    listening = exhausted(*[number, 0] * 3)
    with structlog.testing.capture_logs() as lines, serving(listening=listening) as served:
        got = [served.ask(b"GET /alive HTTP/1.1\r\n\r\n") for _ in range(3)]
    assert all(answer.startswith(b"HTTP/1.1 200 OK\r\n") and b"Connection: close" in answer for answer in got)
    assert [(line["event"], line["reason"]) for line in lines] == [("cannot accept connections", "no more files")]


def test_whoever_has_a_reserved_descriptor_and_says_nothing_does_not_keep_it() -> None:
    with serving(listening=exhausted(errno.EMFILE, 0)) as served, served.connect() as silent:
        assert rest(silent) == b""
        assert served.status("/alive") == 200


def test_where_not_even_the_reserve_helps_it_is_tried_again_later_and_not_at_once() -> None:
    # The descriptor that was given back is taken by somebody else, again and again.
    listening = exhausted(*[errno.EMFILE] * 4)
    with structlog.testing.capture_logs() as lines, serving(listening=listening) as served:
        assert served.status("/alive") == 200
    assert len(lines) == 1


def test_closing_leaves_no_descriptor_and_no_thread() -> None:
    before, threads = descriptors(), threading.active_count()
    listening = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(listening, ALIVE)
    server.start()
    served = Served(server, listening.getsockname())
    with served.connect() as idle, served.connect() as half:
        half.sendall(b"GET")
        until(lambda: server.connections == 2)
        server.close()
        assert rest(idle) == b""
        # What was not read yet when the connection ended resets it.
        with contextlib.suppress(ConnectionResetError):
            assert rest(half) == b""
    assert (descriptors() - before, threading.active_count()) == (set(), threads)

"""The front end's sockets: who gets one, who loses it, and that nobody holds up the others."""

import contextlib
import gc
import math
import os
import resource
import socket
import ssl
import struct
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from ngh2 import Configuration, Role, StreamClosed
from ngh2 import Connection as Session
from structlog.testing import capture_logs

from frostline_server.reserve import Reserve
from frostline_server.rpc.h2 import connection, listener
from frostline_server.rpc.h2.connection import Connection
from frostline_server.rpc.h2.framing import prefixed
from frostline_server.rpc.h2.listener import Crowd, Listener
from frostline_server.rpc.listening import bound
from frostline_server.tls import server_context
from tests.server.rpc.h2.pair import UNARY, Kept, Pair
from tests.support import wire
from tests.support.servers import TIMEOUT_S, until

ROOMY = Crowd(most=100, most_each=100)


class Echo(Kept):
    """Answers each call with its message."""

    def message(self, call: Any, message: bytes) -> None:
        call.connection.answer(call, message)


class Front:
    """A started listener with one method.

    Attributes:
        listener: it.
        port: where it is.
        shared: what its connections have in common.
    """

    def __init__(self, crowd: Crowd, context: ssl.SSLContext | None, **limits: Any) -> None:
        pair = Pair(handshake_timeout_s=math.inf, **limits)
        pair.kept = Echo()
        self.shared = pair.shared
        self.turns = 0
        self.fails = 0
        sockets = bound("127.0.0.1:0")
        self.port = sockets[0].getsockname()[1]
        self.listener = Listener(
            sockets, self.shared, crowd, None if context is None else lambda: context, self._turn, lambda _: None
        )

    def _turn(self) -> None:
        self.turns += 1
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a defect")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection that says nothing."""
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the front end's thread."""
        until(condition, 0.001)


@contextlib.contextmanager
def front(crowd: Crowd = ROOMY, context: ssl.SSLContext | None = None, **limits: Any) -> Iterator[Front]:
    started = Front(crowd, context, **limits)
    started.listener.start()
    try:
        yield started
    finally:
        started.listener.close()


def ask(address: str, message: bytes, credentials: grpc.ChannelCredentials | None = None) -> bytes:
    """One call of gRPC's own client."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    opened = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with opened as channel:
        answer: bytes = channel.unary_unary(UNARY, bytes, bytes)(message, timeout=TIMEOUT_S)
    return answer


def is_closed(client: socket.socket) -> bool:
    """Whether the server closes a connection; waits for it."""
    client.settimeout(TIMEOUT_S)
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 20])
def test_a_message_goes_both_ways(size: int) -> None:
    message = os.urandom(size)
    with front(max_message_bytes=2 << 20) as started:
        assert ask(started.address, message) == message
        assert started.shared.budget.used == 0


def test_a_client_that_has_just_been_parted_with_is_read_no_more() -> None:
    with front() as started, started.connect() as peer:
        started.until(lambda: started.listener.connections == 1)
        done = threading.Event()

        def part_and_read() -> None:
            (client,) = started.listener._clients.values()
            started.listener._part_with(client)
            # As in a turn in which it was ready, too.
            started.listener._read_on([client])
            done.set()

        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(5))
        started.listener.post(part_and_read)
        assert done.wait(TIMEOUT_S)
        assert ask(started.address, b"hello") == b"hello"
        assert started.shared.budget.used == 0
        peer.close()
        started.until(lambda: started.listener.connections == 0)


@contextlib.contextmanager
def waiting_for_room() -> Iterator[tuple[Front, socket.socket]]:
    """A client of which half a frame has come while there was no room."""
    with front() as started, started.connect() as peer:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + wire.settings())
        hear(peer, wire.frame(wire.SETTINGS, 1))  # that they have been read
        started.shared.budget.used = started.shared.budget.limit
        peer.sendall(HALF_READ[:500])
        started.until(lambda: started.shared.owed > 0)
        yield started, peer
        started.until(lambda: started.shared.owed == 0)


def hear(peer: socket.socket, words: bytes) -> None:
    """Wait until the server has said something."""
    heard = b""
    while words not in heard:
        heard += (got := peer.recv(65536))
        assert got


HALF_READ = wire.frame(0x77, payload=bytes(1000))
"""Of a kind that nobody knows."""


def test_a_client_for_whose_bytes_there_is_no_room_is_read_on_when_there_is() -> None:
    with waiting_for_room() as (started, peer):
        peer.sendall(HALF_READ[500:] + wire.frame(wire.PING, payload=b"question"))
        started.shared.budget.used = 0
        hear(peer, b"question")
        started.until(lambda: started.shared.budget.used == 0)


def test_a_client_that_goes_away_while_it_waits_for_room_is_forgotten() -> None:
    with waiting_for_room() as (started, peer):
        # At once, without a farewell.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        started.until(lambda: started.listener.connections == 0)


def test_a_connection_too_many_is_closed_and_room_comes_back() -> None:
    with front(Crowd(most=2, most_each=100)) as started:
        first, second = started.connect(), started.connect()
        started.until(lambda: started.listener.connections == 2)
        with started.connect() as third:
            assert is_closed(third)
        assert started.shared.refused == {"connections": 1}
        first.close()
        started.until(lambda: started.listener.connections == 1)
        assert ask(started.address, b"hello") == b"hello"
        second.close()


def test_an_address_with_too_many_connections_gets_no_more() -> None:
    with front(Crowd(most=100, most_each=1)) as started, started.connect():
        started.until(lambda: started.listener.connections == 1)
        with started.connect() as second:
            assert is_closed(second)
        other = socket.create_connection(("127.0.0.1", started.port), TIMEOUT_S, source_address=("127.0.0.2", 0))
        with other:
            started.until(lambda: started.listener.connections == 2)


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """This process cannot open another file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_when_files_run_out_those_that_are_connected_go_on_and_new_ones_are_turned_away() -> None:
    with front() as started, capture_logs() as logged:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(started.address, options) as channel, socket.socket() as new:
            call = channel.unary_unary(UNARY, bytes, bytes)
            assert call(b"before", timeout=TIMEOUT_S) == b"before"
            sockets = [socket.socket() for _ in range(20)]
            with no_more_files():
                for refused in (new, *sockets):
                    refused.settimeout(TIMEOUT_S)
                    refused.connect(("127.0.0.1", started.port))
                    assert is_closed(refused)
                assert call(b"during", timeout=TIMEOUT_S) == b"during"
            for refused in sockets:
                refused.close()
        assert ask(started.address, b"after") == b"after"
    assert started.shared.refused["files"] >= 21
    assert [line["event"] for line in logged] == ["cannot accept connections"]


def test_where_the_reserve_is_gone_connections_wait_and_are_not_asked_for_again_and_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Reserve, "fill", lambda _: False)
    with front() as started, socket.socket() as waiting:
        with no_more_files():
            waiting.connect(("127.0.0.1", started.port))
            started.until(lambda: "files" in started.shared.refused)
        # It has waited, and is taken at the next look.
        started.until(lambda: started.listener.connections == 1)
        # Once a second, and not in each of thousands of turns.
        assert started.shared.refused["files"] < TIMEOUT_S


def test_a_defect_in_one_turn_does_not_end_the_front_end() -> None:
    with front() as started:
        started.fails = 2
        assert ask(started.address, b"hello") == b"hello"
        started.until(lambda: not started.fails)
        assert ask(started.address, b"hello") == b"hello"


def test_what_another_thread_posts_is_run_also_if_it_fails() -> None:
    ran: list[int] = []

    def fail() -> None:
        raise RuntimeError("a defect")

    with front() as started:
        started.listener.post(fail)
        for number in range(1000):
            started.listener.post(ran.append, number)
        started.until(lambda: len(ran) == 1000)
    assert ran == list(range(1000))


def test_nothing_of_a_connection_that_is_gone_stays_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[weakref.ref[Connection]] = []
    create = Connection.__init__

    def noted(self: Connection, *arguments: Any) -> None:
        create(self, *arguments)
        made.append(weakref.ref(self))

    monkeypatch.setattr(Connection, "__init__", noted)
    gc.disable()
    try:
        with front() as started:
            assert ask(started.address, b"hello") == b"hello"
            started.until(lambda: started.listener.connections == 0)
            started.until(lambda: made[-1]() is None)
    finally:
        gc.enable()


# Turns


class Raw:
    """A client that sends whole calls at once, over a socket of its own.

    Args:
        port: the front end's.
        source: the address that it comes from.
    """

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = Session(Role.CLIENT, Configuration())
        self._session.initiate_connection({})
        self._closed = 0
        self.ask([b"first"])

    def __enter__(self) -> "Raw":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, messages: list[bytes]) -> None:
        """Send a call for each message, all together."""
        usual = {b":method": b"POST", b":scheme": b"http", b":path": UNARY.encode(), b":authority": b"t"}
        headers = [*usual.items(), (b"content-type", b"application/grpc")]
        for message in messages:
            self._session.send_data(self._session.send_request(headers), prefixed(message), end_stream=True)
        self.socket.sendall(self._session.data_to_send())

    def answered(self, calls: int) -> None:
        """Wait until so many have ended."""
        self._closed -= calls
        while self._closed < 0:
            self._session.receive_data(self.socket.recv(65536))
            self._closed += sum(isinstance(event, StreamClosed) for event in self._session.events())
            self.socket.sendall(self._session.data_to_send())

    def ask(self, messages: list[bytes]) -> None:
        """Send calls, and wait for the answers."""
        self.send(messages)
        self.answered(len(messages))


@pytest.fixture
def came(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages of calls, in the order in which they are taken."""
    messages: list[bytes] = []
    message = Echo.message

    def noted(self: Echo, call: Any, body: bytes) -> None:
        messages.append(body)
        message(self, call, body)

    monkeypatch.setattr(Echo, "message", noted)
    return messages


@contextlib.contextmanager
def busy(started: Front) -> Iterator[None]:
    """The front end does nothing, so that what is sent meanwhile comes in one turn."""
    waits, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        waits.set()
        go_on.wait(TIMEOUT_S)

    started.listener.post(wait)
    assert waits.wait(TIMEOUT_S)
    try:
        yield
    finally:
        go_on.set()


def test_who_sends_much_at_once_does_not_hold_up_who_sends_little(
    came: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with front(max_calls=1000) as started, Raw(started.port) as much, Raw(started.port) as little:
        monkeypatch.setattr(connection, "LONG_S", -1.0)
        with busy(started):
            much.send([b"much"] * 200)
            little.send([b"little"])
        much.answered(200)
        little.answered(1)
        assert came.count(b"much") == 200
        assert came[2:].index(b"little") < 20
        started.until(lambda: started.shared.budget.used == 0)


def test_where_not_all_have_a_turn_an_address_with_many_connections_has_no_more_than_one_with_few(
    came: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with front() as started, contextlib.ExitStack() as open_now, Raw(started.port) as one:
        many = [open_now.enter_context(Raw(started.port, "127.0.0.2")) for _ in range(20)]
        # No turn has time for more than one; whoever had to wait for the interpreter has not taken long.
        for known in started.listener._clients.values():
            known.share.takes_long = False
        monkeypatch.setattr(listener, "LONG_S", -1.0)
        with busy(started):
            for client in many:
                client.send([b"many"])
            one.send([b"one"])
        for client in (*many, one):
            client.answered(1)
        assert sorted(came[21:]) == [b"many"] * 20 + [b"one"]
        assert came[21:].index(b"one") <= 2


def test_clients_that_wait_for_a_turn_and_go_away_are_forgotten(
    came: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with front() as started:
        clients = [Raw(started.port) for _ in range(10)]
        monkeypatch.setattr(listener, "LONG_S", -1.0)
        with busy(started):
            for client in clients:
                client.send([b"gone"])
                client.socket.close()
        started.until(lambda: started.listener.connections == 0)
        assert len(came) <= 20
        assert started.shared.budget.used == 0
        assert ask(started.address, b"hello") == b"hello"


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def context(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1")
    (folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    made = server_context(Path(folder / "chain.pem"), Path(folder / "key.pem"))
    made.set_alpn_protocols(["h2"])
    return made


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_both_versions_of_tls_are_spoken(
    authority: trustme.CA, context: ssl.SSLContext, version: ssl.TLSVersion
) -> None:
    client = ssl.create_default_context()
    authority.configure_trust(client)
    client.minimum_version = client.maximum_version = version
    client.set_alpn_protocols(["h2"])
    with (
        front(context=context) as started,
        started.connect() as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        assert secure.selected_alpn_protocol() == "h2"
        assert secure.version() == {"TLSv1_2": "TLSv1.2", "TLSv1_3": "TLSv1.3"}[version.name]
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        # The server's settings, which come first.
        assert secure.recv(9)[3] == 4


def test_an_older_version_is_refused(context: ssl.SSLContext) -> None:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.maximum_version = ssl.TLSVersion.TLSv1_1
    with front(context=context) as started, started.connect() as plain:
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            client.wrap_socket(plain)
        started.until(lambda: started.listener.connections == 0)


@pytest.mark.parametrize("size", [1, 1 << 20])
def test_a_message_goes_both_ways_through_tls(authority: trustme.CA, context: ssl.SSLContext, size: int) -> None:
    message = os.urandom(size)
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with front(context=context, max_message_bytes=2 << 20) as started:
        assert ask(started.address, message, credentials) == message


def test_handshakes_that_never_finish_hold_up_nobody_and_are_counted(
    authority: trustme.CA, context: ssl.SSLContext
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with front(context=context) as started:
        silent = [started.connect() for _ in range(50)]
        for client in silent[:25]:
            client.sendall(b"\x16\x03\x01")
        assert ask(started.address, b"hello", credentials) == b"hello"
        for client in silent:
            client.close()
        started.until(lambda: started.listener.connections == 0)
        assert started.shared.refused == {"handshake": 50}


def test_what_is_no_tls_is_closed(context: ssl.SSLContext) -> None:
    with front(context=context) as started, started.connect() as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert is_closed(client)
        started.until(lambda: started.listener.connections == 0)


# Addresses


@pytest.mark.parametrize(
    ("address", "reached_at"),
    [
        ("localhost:0", ["localhost"]),
        ("0.0.0.0:0", ["127.0.0.1"]),
        ("[::1]:0", ["::1"]),
        ("[::]:0", ["::1", "127.0.0.1"]),
    ],
)
def test_every_form_of_an_address_can_be_bound(address: str, reached_at: list[str]) -> None:
    sockets = bound(address)
    (port,) = {listening.getsockname()[1] for listening in sockets}
    for host in reached_at:
        socket.create_connection((host, port), TIMEOUT_S).close()
    for listening in sockets:
        listening.close()

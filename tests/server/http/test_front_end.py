"""The HTTP port's connections: how many there may be, who makes way, TLS, and how all of it ends."""

import contextlib
import gc
import json
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from frostline_server.app import Server
from frostline_server.http.h1.connection import Connection
from tests.support.calls import row_request, stub
from tests.support.cycles import resident
from tests.support.http_port import (
    INFER,
    LOOPS,
    ROW,
    ZEROS,
    Client,
    Port,
    head,
    nothing_for_the_collector,
    port,
    write_models,
    zeros,
)
from tests.support.https import Files, context
from tests.support.onnx_models import rows
from tests.support.servers import TIMEOUT_S
from tests.support.tokens import TOKENS, write_access_file


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    """The name of an event loop, of whose own lines there are none."""
    yield request.param
    assert not caplog.messages


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    made.write("first.example")
    return made


@contextlib.contextmanager
def narrow(served: Port, secure: ssl.SSLContext | None = None) -> Iterator[Client]:
    """A client whose system takes little of an answer that it does not read."""
    with socket.socket() as plain:
        plain.settimeout(TIMEOUT_S)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(served.address)
        if secure is None:
            yield Client(plain)
        else:
            with secure.wrap_socket(plain, server_hostname="localhost") as wrapped:
                yield Client(wrapped)


@contextlib.contextmanager
def secured(served: Port, trusting: ssl.SSLContext | None = None) -> Iterator[Client]:
    with (
        socket.create_connection(served.address, TIMEOUT_S) as plain,
        (trusting or context()).wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        yield Client(wrapped)


# How many


def test_idle_connections_make_way_for_others(models: Path, loop: str) -> None:
    with port(models, loop, max_connections=4) as served, contextlib.ExitStack() as stack:
        first, *others = [stack.enter_context(served.client()) for _ in range(4)]
        served.wait_until(lambda: served.front_end.connections == 4)
        for each in others:
            each.send(served.get())
            assert each.answer().status == 200
        with served.client() as another:
            another.send(served.get())

            assert another.answer().status == 200
            assert first.ended()
        for each in others:
            each.send(served.get())
            assert each.answer().status == 200


def test_many_at_once_find_as_many_idle_ones(models: Path, loop: str) -> None:
    with port(models, loop, max_connections=8) as served, contextlib.ExitStack() as stack:
        idle = [stack.enter_context(served.client()) for _ in range(8)]
        served.wait_until(lambda: served.front_end.connections == 8)
        new = [stack.enter_context(served.client()) for _ in range(8)]
        for each in new:
            each.send(served.get())

        assert [each.answer().status for each in new] == [200] * 8
        assert all(each.ended() for each in idle)
        assert not served.refused("connections")


def test_where_all_are_busy_another_is_told_so(models: Path, loop: str) -> None:
    with port(models, loop, max_connections=2) as served, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(served.client()) for _ in range(2)]
        with served.server.held("digits") as held:
            for each in busy:
                each.send(served.request())
            held.wait_until_queued(2)
            with served.client() as another:
                answer = another.answer()
                assert answer.status == 503
                assert answer.headers["frostline-error"] == "connections"
                assert another.ended()

        assert [each.answer().status for each in busy] == [200, 200]
        assert served.refused("connections") == 1


def test_who_was_refused_makes_way_for_others(models: Path, loop: str) -> None:
    with port(models, loop, max_connections=2) as served, contextlib.ExitStack() as stack:
        for _ in range(2):
            refused = stack.enter_context(served.client())
            refused.send(b"nonsense\r\n\r\n")
            assert refused.answer().status == 400

        served.works()


def test_one_address_has_its_share_of_connections(models: Path, loop: str) -> None:
    with port(models, loop, max_connections_per_address=2) as served, contextlib.ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(served.client())
        served.wait_until(lambda: served.front_end.connections == 2)
        for _ in range(200):
            with served.client() as another:
                another.send(served.get())
        with served.client() as another, contextlib.suppress(OSError, EOFError):
            assert another.answer().status == 503

        served.wait_until(lambda: served.refused("connections") == 201)
        assert served.front_end.connections == 2


def test_where_no_file_can_be_opened_others_wait_or_are_closed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with port(models, expected="cannot accept connections") as served:
        listener = served.front_end._listener
        assert listener is not None
        accepting = listener._listening

        class Full:
            """A socket that cannot be accepted from."""

            def __getattr__(self, name: str) -> Any:
                return getattr(accepting, name)

            def accept(self) -> None:
                raise OSError(24, "Too many open files")

        monkeypatch.setattr(listener, "_listening", Full())
        with served.client() as client:
            served.wait_until(lambda: served.refused("files") > 0)
            monkeypatch.undo()
            with contextlib.suppress(OSError, EOFError):
                client.send(served.get())
                client.answer()
        served.wait_until(lambda: listener._again is None)

        served.works()


# Answers


def test_an_answer_that_nobody_reads_is_held_and_then_given_up(models: Path, loop: str) -> None:
    with port(models, loop, network_bytes=256 << 20) as served, narrow(served) as client:
        client.send(served.request(ZEROS, zeros(8 << 20)))
        served.wait_until(lambda: any(each.flow is not None and each.flow.write_paused for each in served.connections))
        (connection,) = served.connections

        assert served.front_end.budget.used >= 32 << 20
        assert connection.transport.get_write_buffer_size() < 1 << 20
        served.works()
        served.look(0)
        served.look(59)
        assert len(served.connections) == 1
        served.look(61)
        served.wait_until_quiet()
        assert served.refused("answer_timeout") == 1


def test_the_same_behind_tls(models: Path, loop: str, files: Files) -> None:
    with port(models, loop, network_bytes=256 << 20, **files.settings) as served, narrow(served, context()) as client:
        client.send(served.request(ZEROS, zeros(8 << 20)))
        served.wait_until(lambda: any(each.flow is not None and each.flow.write_paused for each in served.connections))

        assert served.front_end.budget.used >= 32 << 20
        served.look(0)
        served.look(61)
        served.wait_until_quiet()
        assert served.refused("answer_timeout") == 1


def test_answers_that_are_read_slowly_come_whole(models: Path, loop: str) -> None:
    with port(models, loop) as served, narrow(served) as client:
        client.send(served.request(ZEROS, zeros(1 << 20)))
        served.wait_until(lambda: any(each.flow is not None and each.flow.write_paused for each in served.connections))
        answer = client.answer()

        length = int(answer.headers["inference-header-content-length"])
        assert answer.body[length:] == bytes(4 << 20)


def test_answers_that_find_no_room_are_refused(models: Path, loop: str) -> None:
    with port(models, loop, network_bytes=32 << 20) as served:
        taken = served.front_end.budget.limit // 2
        assert served.front_end.budget.take(taken)
        answer = served.ask(served.request(ZEROS, zeros(2 << 20)))
        served.front_end.budget.give(taken)

        assert answer.status == 503
        assert answer.headers["frostline-error"] == "network_full"
        assert answer.headers["retry-after"] == "1"
        assert served.refused("network_full") == 1
        served.works()


@pytest.mark.parametrize("asked", [zeros(8 << 20), zeros(1 << 20).replace(b"true", b"false")], ids=["binary", "json"])
def test_answers_that_could_never_find_room_are_not_sent_again(models: Path, loop: str, asked: bytes) -> None:
    with port(models, loop, network_bytes=32 << 20) as served:
        # Nothing says before the run how long they will be.
        answer = served.ask(served.request(ZEROS, asked))

        assert answer.status == 413
        assert answer.headers["frostline-error"] == "message_too_large"
        assert "retry-after" not in answer.headers
        assert "ask for binary outputs" in answer.error
        assert dict(served.front_end.refused) == {"message_too_large": 1}
        served.works()


def test_answers_that_are_refused_are_not_kept_by_their_refusal(models: Path, loop: str) -> None:
    with port(models, loop, network_bytes=32 << 20) as served:
        asked = served.request(ZEROS, zeros(8 << 20))
        served.ask(asked)
        before = resident()
        gc.disable()
        try:
            assert [served.ask(asked).status for _ in range(12)] == [413] * 12
        finally:
            gc.enable()

        # Each has 32 MiB.
        assert resident() - before < 128 << 20


def test_clients_that_hang_up_in_the_middle_of_an_answer_leave_nothing(models: Path, loop: str) -> None:
    with port(models, loop) as served:
        for _ in range(3):
            with narrow(served) as client:
                client.send(served.request(ZEROS, zeros(2 << 20)))
                assert client.socket.recv(100)
        served.wait_until_quiet()


def test_a_request_that_finds_no_room_is_refused_before_its_body(models: Path, loop: str) -> None:
    with port(models, loop, network_bytes=96 << 20) as served, contextlib.ExitStack() as stack:
        announcing = head("POST", INFER, f"Host: {served.host}", f"Content-Length: {4 << 20}")
        clients = [stack.enter_context(served.client()) for _ in range(20)]
        for each in clients:
            each.send(announcing)
        # HTTP has a third, 32 MiB, of which large ones leave an eighth to others.
        served.wait_until(lambda: served.refused("network_full") == 13)

        assert served.front_end.budget.used == 7 * (4 << 20)
        served.works()


# TLS


def test_tls_is_answered(models: Path, loop: str, files: Files) -> None:
    with port(models, loop, **files.settings) as served, secured(served) as client:
        for _ in range(2):
            client.send(served.request())
            assert client.answer().status == 200


def test_handshakes_that_stall_are_ended(models: Path, loop: str, files: Files) -> None:
    with port(models, loop, handshake_timeout_s=0.2, **files.settings) as served, served.client() as client:
        assert client.ended()
        served.wait_until(lambda: served.refused("handshake") == 1)


def test_handshakes_that_stall_are_counted_and_make_way(models: Path, loop: str, files: Files) -> None:
    with port(models, loop, max_connections=8, **files.settings) as served, contextlib.ExitStack() as stack:
        stalled = [stack.enter_context(served.client()) for _ in range(20)]
        for each in stalled[::2]:
            with contextlib.suppress(OSError):
                each.send(b"\x16\x03\x01\x02\x00\x01")
        # Those that make way end in a turn of the event loop.
        served.wait_until(lambda: served.front_end.connections <= 8)
        with secured(served) as client:
            client.send(served.request())
            assert client.answer().status == 200

        assert all(each.ended() for each in stalled[:13])
        assert served.refused("handshake") >= 13


def test_plain_text_on_a_port_of_tls_is_closed(models: Path, loop: str, files: Files) -> None:
    # asyncio's own TLS leaves what failed to the collector; served is on uvloop.
    tidy = nothing_for_the_collector() if loop == "uvloop" else contextlib.nullcontext()
    with port(models, loop, **files.settings) as served, tidy:
        with served.client() as client, contextlib.suppress(ConnectionError, EOFError):
            client.send(served.request())
            assert not client.socket.recv(100).startswith(b"HTTP")
        served.wait_until(lambda: served.refused("handshake") == 1)
        served.wait_until_quiet()


def test_a_renewed_certificate_is_shown_to_new_connections(models: Path, loop: str, files: Files) -> None:
    def name(client: Client) -> str:
        assert isinstance(client.socket, ssl.SSLSocket)
        names = client.socket.getpeercert()
        assert names is not None
        return str(names["subjectAltName"][2][1])

    with port(models, loop, **files.settings) as served, secured(served) as before:
        files.write("second.example")
        with secured(served) as after:
            assert [name(before), name(after)] == ["first.example", "second.example"]
            for each in (before, after):
                each.send(served.request())
                assert each.answer().status == 200


def test_a_client_certificate_says_who_calls(models: Path, loop: str, files: Files, tmp_path: Path) -> None:
    clients = trustme.CA()
    clients.cert_pem.write_to_path(tmp_path / "clients.pem")
    entry = '[[certificates]]\nname = "gateway"\nsubjects = ["gateway.example"]\nroles = ["predict"]\n'
    settings: dict[str, Any] = {
        "client_certificates": "optional",
        "tls_client_ca": tmp_path / "clients.pem",
        "access_file": write_access_file(tmp_path / "access.toml", entry),
        "allow_anonymous": "none",
    }

    def status(*certificates: trustme.LeafCert) -> int:
        trusting = context()
        for each in certificates:
            each.configure_cert(trusting)
        with secured(served, trusting) as client:
            client.send(served.request())
            return client.answer().status

    with port(models, loop, **files.settings, **settings) as served:
        assert status() == 401
        assert status(clients.issue_cert("gateway.example")) == 200
        assert status(clients.issue_cert("stranger.example")) in (401, 403)
        with pytest.raises((OSError, EOFError)):
            status(trustme.CA().issue_cert("gateway.example"))


def test_a_failure_over_tls_is_read_before_the_end(models: Path, loop: str, files: Files) -> None:
    with port(models, loop, **files.settings) as served, secured(served) as client:
        client.send(b"nonsense\r\n\r\n" + bytes(1 << 20))

        assert client.answer().status == 400
        assert client.ended()


# Who may call


def test_who_may_not_call_sends_no_body(models: Path, loop: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"access_file": write_access_file(tmp_path / "access.toml"), "allow_anonymous": "none"}
    with port(models, loop, **settings) as served:
        with served.client() as client:
            client.send(served.request(INFER, ROW, "Expect: 100-continue")[: -len(ROW)])
            answer = client.answer()
            assert answer.status == 401
            assert answer.headers["connection"] == "close"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert client.ended()
        with served.client() as client:
            allowed = ("Expect: 100-continue", f"Authorization: Bearer {TOKENS['predict']}")
            client.send(served.request(INFER, ROW, *allowed)[: -len(ROW)])
            assert client.answer().status == 100
            client.send(ROW)
            assert client.answer().status == 200


def test_metrics_count_both_ports(models: Path) -> None:
    with port(models, max_connections_per_address=1) as served, served.client() as client:
        with served.client() as another:
            assert another.answer().status == 503
        client.send(served.request()[:-1])
        served.wait_until(lambda: served.front_end.budget.used > 0)
        page = urllib.request.urlopen(f"{served.server.metrics_url}/metrics").read().decode().splitlines()

        assert f"frostline_network_bytes {float(len(ROW))}" in page
        assert "frostline_connections 1.0" in page
        assert 'frostline_network_refused_total{reason="connections"} 1.0' in page


# The end


def test_what_was_accepted_is_answered_before_the_end(models: Path, loop: str) -> None:
    with port(models, loop) as served, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(served.client()) for _ in range(10)]
        with served.server.held("digits") as held:
            for each in clients:
                each.send(served.request())
            held.wait_until_queued(10)
            drained = served.server.begin_drain()
            served.wait_until(lambda: served.server.server.unready() == "draining")

        answers = [each.answer() for each in clients]
        assert [answer.status for answer in answers] == [200] * 10
        # So that their next requests go elsewhere.
        assert [answer.headers["connection"] for answer in answers] == ["close"] * 10
        assert drained.result(TIMEOUT_S)
        assert all(each.ended() for each in clients)


def test_what_comes_during_the_end_is_refused_with_a_status(models: Path, loop: str) -> None:
    with port(models, loop) as served, served.client() as client:
        client.send(served.request())
        assert client.answer().status == 200
        with served.server.held("digits") as held, served.client() as accepted:
            accepted.send(served.request())
            held.wait_until_queued(1)
            drained = served.server.begin_drain()
            served.wait_until(lambda: served.server.server.unready() == "draining")
            client.send(served.request())
            answer = client.answer()
            held.release()
            assert accepted.answer().status == 200
        assert answer.status == 503
        assert answer.headers["connection"] == "close"
        assert client.ended()
        assert drained.result(TIMEOUT_S)


def test_the_end_waits_for_requests_behind_others_and_for_their_answers(models: Path, loop: str) -> None:
    with port(models, loop) as served, served.client() as client:
        with served.server.held("digits") as held:
            client.send(served.request() + served.get("/v2") * 50)
            held.wait_until_queued(1)
            served.wait_until(lambda: any(each.pipeline for each in served.connections))
            drained = served.server.begin_drain()
            served.wait_until(lambda: served.server.server.unready() == "draining")

        assert [client.answer().status for _ in range(51)] == [200] * 51
        assert client.ended()
        assert drained.result(TIMEOUT_S)


def test_an_end_between_two_answers_waits_for_those_that_are_not_parsed_yet(
    models: Path, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, ends = Connection._go_on, list[int]()

    def end_and_go_on(connection: Connection) -> None:
        if connection._rest:
            ends.append(len(connection._rest))
            connection._shared.leaving = True
            connection.shutdown()
        go_on(connection)

    monkeypatch.setattr(Connection, "_go_on", end_and_go_on)
    with port(models, loop) as served, served.client() as client:
        client.send(served.request() + served.get("/v2") * 50)
        assert [client.answer().status for _ in range(51)] == [200] * 51
        assert client.ended()
    assert ends


def test_the_end_does_not_wait_for_idle_or_slow_clients(models: Path, loop: str) -> None:
    with port(models, loop) as served, served.client() as idle, served.client() as slow, narrow(served) as deaf:
        slow.send(served.request()[:-5])
        deaf.send(served.request(ZEROS, zeros(4 << 20)))
        served.wait_until(lambda: any(each.flow is not None and each.flow.write_paused for each in served.connections))
        assert served.server.begin_drain().result(TIMEOUT_S)

        assert idle.ended()
        assert slow.ended()


def test_a_body_that_could_never_find_room_is_too_long_and_not_sent_again(models: Path) -> None:
    with port(models, "asyncio", network_bytes=48 << 20) as served, served.client() as client:
        lines = ("POST /v2/models/digits/infer HTTP/1.1", f"Host: {served.host}", f"Content-Length: {8 << 20}")
        client.send("".join(f"{line}\r\n" for line in (*lines, "")).encode())
        answer = client.answer()
    assert (answer.status, answer.headers["frostline-error"]) == (413, "message_too_large")
    assert "network_bytes has room for" in answer.error


def test_a_reload_harms_no_connection(models: Path, loop: str, files: Files) -> None:
    async def reload(server: Server) -> None:
        server.reload()

    with port(models, loop, **files.settings) as served, secured(served) as client:
        client.send(served.request())
        assert client.answer().status == 200
        served.server.call(reload(served.server.server))
        client.send(served.request())
        assert client.answer().status == 200


def test_rest_joins_the_batches_of_grpc_and_neither_waits_for_the_other(models: Path, loop: str) -> None:
    with (
        port(models, loop) as served,
        served.client() as client,
        grpc.insecure_channel(served.server.address) as channel,
    ):
        with served.server.held("digits") as held:
            answering = stub(channel).ModelInfer.future(row_request(rows(1), model="digits"), timeout=TIMEOUT_S)
            client.send(served.request())
            held.wait_until_queued(2)
        assert client.answer().status == 200
        assert answering.result(TIMEOUT_S).model_name == "digits"
        batches = served.ask(served.get("/v2/models/digits/stats"))
        assert max(each["batch_size"] for each in json.loads(batches.body)["model_stats"][0]["batch_stats"]) == 2

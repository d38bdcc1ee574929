"""What a client sends over the HTTP port, byte by byte: right status, nobody else is harmed, nothing is left."""

import gzip
import json
import socket
import struct
import zlib
from collections.abc import Iterator

import pytest

from tests.support.http_port import (
    INFER,
    LOOPS,
    ROW,
    Client,
    Port,
    head,
    nothing_for_the_collector,
    port,
    quiet,
    write_models,
)
from tests.support.servers import TIMEOUT_S


@pytest.fixture(scope="module", params=LOOPS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Port]:
    models = write_models(tmp_path_factory.mktemp("models"))
    with (
        port(models, request.param, max_message_bytes=4 << 20, network_bytes=128 << 20) as served,
        nothing_for_the_collector(),
    ):
        yield served


@pytest.fixture(autouse=True)
def served(opened: Port, caplog: pytest.LogCaptureFixture) -> Iterator[Port]:
    """The port; after every test somebody else is answered, and then nothing is left."""
    with quiet():
        yield opened
        opened.works()
        opened.wait_until_quiet()
    assert not caplog.messages


def reset(client: Client) -> None:
    """Hang up so that the other side gets an error."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


# Heads


def test_a_head_that_is_too_long_is_refused(served: Port) -> None:
    answer = served.ask(served.get("/v2", "X: " + "y" * 20_000))

    assert answer.status == 431
    assert "max_header_bytes" in answer.error


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (("GET", "/v2", "X: " + "y" * 20_000), 431, "protocol"),
        (("GET", "/v2", "Host: another"), 400, "protocol"),
        (("POST", INFER, f"Content-Length: {1 << 30}"), 413, "message_too_large"),
        (("CONNECT", "localhost:80"), 405, "method"),
        (("POST", INFER, "Transfer-Encoding: gzip, chunked"), 501, "encoding"),
        (("POST", INFER, "Content-Length: 2", "Expect: 200-ok"), 417, "protocol"),
    ],
)
def test_what_is_refused_before_it_is_a_request_is_counted(
    served: Port, sent: tuple[str, ...], status: int, reason: str
) -> None:
    method, target, *lines = sent
    before = served.refused(reason)
    assert served.ask(head(method, target, f"Host: {served.host}", *lines)).status == status
    assert served.refused(reason) == before + 1


def test_a_head_of_many_headers_is_refused(served: Port) -> None:
    assert served.ask(served.get("/v2", *["a: b"] * 4_000)).status == 431


def test_a_target_that_is_too_long_is_refused(served: Port) -> None:
    assert served.ask(served.get("/" + "y" * 20_000)).status == 431


def test_a_head_that_never_ends_is_refused_while_it_comes(served: Port) -> None:
    with served.client() as client:
        client.send(f"GET /v2 HTTP/1.1\r\nHost: {served.host}\r\nX: ".encode())
        for _ in range(30):
            client.send(b"y" * 1000)

        assert client.answer().status == 431
        assert client.ended()


def test_a_head_that_comes_byte_by_byte_is_answered(served: Port) -> None:
    with served.client() as client:
        for byte in served.request():
            client.send(bytes([byte]))

        assert client.answer().status == 200


def test_a_slow_head_is_told_so(served: Port) -> None:
    with served.client() as client:
        client.send(b"GET /v2 HTTP/1.1\r\nHo")
        served.wait_until(lambda: any(each._in_head for each in served.connections))
        served.look(9)
        served.look(11)

        assert client.answer().status == 408
        assert client.ended()
    assert served.refused("handshake_timeout")


def test_line_ends_without_a_request_keep_no_connection_open(served: Port) -> None:
    with served.client() as client:
        client.send(served.get())
        assert client.answer().status == 200
        client.send(b"\r\n")
        served.wait_until(lambda: any(each._began_s is not None for each in served.connections))
        served.look(11)

        assert client.ended()


def test_a_connection_that_says_nothing_is_closed(served: Port) -> None:
    with served.client() as client:
        served.wait_until(lambda: len(served.connections) == 1)
        served.look(11)

        assert client.ended()


@pytest.mark.parametrize(
    "request_line", ["GET /v2", "GET /v2 HTTP/0.9", "GET /v2 HTTP/2.0", "PRI * HTTP/2.0", "GET /v2 HTTP/9.9"]
)
def test_other_versions_of_http_are_refused(served: Port, request_line: str) -> None:
    assert served.ask(f"{request_line}\r\nHost: {served.host}\r\n\r\n".encode()).status in (400, 505)


def test_http_1_0_is_answered_once(served: Port) -> None:
    with served.client() as client:
        client.send(head("GET", "/v2", version="HTTP/1.0"))
        answer = client.answer()

        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert client.ended()


@pytest.mark.parametrize(
    "lines",
    [
        "GET /v2 HTTP/1.1\nHost: localhost\n\n",
        "GET /v2 HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: localhost\r\nX\0: a\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost : localhost\r\n\r\n",
        "GET /v2 HTTP/1.1\r\n Host: localhost\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nX: y\r\n\r\n",
        "GET /v\x7f2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http:///v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http://localhost HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http://elsewhere/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http://user@localhost/v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "BREW /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "get /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_head_that_others_might_read_differently_is_refused(served: Port, lines: str) -> None:
    with served.client() as client:
        client.send(lines.encode("latin-1"))

        assert client.answer().status == 400
        assert client.ended()


def test_connect_is_refused_and_what_follows_is_not_read(served: Port) -> None:
    with served.client() as client:
        client.send(b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n" + served.get())

        assert client.answer().status == 405
        assert client.ended()


def test_options_of_everything_is_answered(served: Port) -> None:
    assert served.ask(head("OPTIONS", "*", f"Host: {served.host}")).status == 204


def test_a_whole_url_of_the_same_host_is_a_target(served: Port) -> None:
    assert served.ask(served.get(f"http://{served.host}/v2")).status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/../../../../etc/passwd",
        "/page/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/page/%252e%252e%252fetc%252fpasswd",
        "/page/..\\..\\etc\\passwd",
        "/v2/models/..%2f..%2fdigits/config",
        "/v2/models/%00/config",
        "/v2/models/digits/versions/..%2f1/config",
        "//v2",
        "/v2/models/digits%0d%0aX:%20y/config",
    ],
)
def test_no_path_leads_out_of_what_is_served(served: Port, path: str) -> None:
    answer = served.ask(served.get(path))

    assert answer.status in (400, 404)
    assert "root:" not in answer.error
    assert "x" not in answer.headers


# Bodies


@pytest.mark.parametrize(
    "length", ["+5", "-5", "5, 5", "5 5", "0x5", "", "5\r\nContent-Length: 6", "99999999999999999999", "1e3", "\u00b2"]
)
def test_a_wrong_content_length_is_refused(served: Port, length: str) -> None:
    answer = served.ask(head("POST", INFER, f"Host: {served.host}", f"Content-Length: {length}") + b"hello")

    assert answer.status == 400


@pytest.mark.parametrize(
    "lines",
    [
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding : chunked",),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: identity", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding:\x0bchunked",),
        ("Transfer-Encoding:\r\n chunked",),
        ("X: y\nTransfer-Encoding: chunked",),
    ],
)
def test_a_body_whose_end_is_in_doubt_is_refused(served: Port, lines: tuple[str, ...]) -> None:
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", *lines) + b"0\r\n\r\n" + served.get())

        assert client.answer().status in (400, 501)
        assert client.ended()


def test_chunks_need_http_1_1(served: Port) -> None:
    lines = (f"Host: {served.host}", "Transfer-Encoding: chunked")

    assert served.ask(head("POST", INFER, *lines, version="HTTP/1.0") + b"0\r\n\r\n").status == 400


@pytest.mark.parametrize(
    "body",
    [b"5\nhello\r\n", b"5\r\nhelloX", b"-1\r\n", b"0x5\r\nhello\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"5 \r\nhello\r\n"],
)
def test_a_chunk_that_others_might_read_differently_is_refused(served: Port, body: bytes) -> None:
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked") + body)

        assert client.answer().status == 400
        assert client.ended()


def test_a_body_in_chunks_is_a_body_and_what_follows_it_is_no_header(served: Port) -> None:
    body = b"%x;note=x\r\n%b\r\n0\r\nContent-Encoding: gzip\r\n\r\n" % (len(ROW), ROW)
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked"))
        client.send(body + served.get())

        assert client.answer().status == 200
        assert client.answer().status == 200


@pytest.mark.parametrize("beginning", [b"5;note=", b"5\r\nhello\r\n0\r\nX: "])
def test_what_never_ends_around_chunks_is_refused(served: Port, beginning: bytes) -> None:
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked") + beginning)
        for _ in range(40):
            client.send(b"y" * 1000)

        assert client.answer().status == 400
        assert client.ended()


def test_chunks_of_a_byte_each_are_refused(served: Port) -> None:
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked") + b"1\r\ny\r\n" * 20_000)

        assert client.answer().status == 400


def test_a_body_of_a_gigabyte_is_refused_by_its_length(served: Port) -> None:
    answer = served.ask(head("POST", INFER, f"Host: {served.host}", f"Content-Length: {1 << 30}"))

    assert answer.status == 413
    assert "max_message_bytes" in answer.error


def test_more_json_than_there_may_be_is_refused_before_it_is_read(
    served: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frostline_server.http.rest.MOST_BYTES", len(ROW))
    assert served.ask(served.request(INFER, ROW)).status == 200

    answer = served.ask(head("POST", INFER, f"Host: {served.host}", f"Content-Length: {len(ROW) + 1}"))

    assert answer.status == 413
    assert answer.error.endswith(
        f"{len(ROW)} bytes of JSON; send tensors in binary, pictures as files of a form, or fewer rows at a time"
    )


def test_packed_or_in_chunks_json_is_no_longer_either(served: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline_server.http.rest.MOST_BYTES", len(ROW))
    packed = served.ask(served.request(INFER, gzip.compress(ROW + b" "), "Content-Encoding: gzip"))
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked"))
        client.send(b"%x\r\n%b \r\n0\r\n\r\n" % (len(ROW) + 1, ROW))

        assert client.answer().status == packed.status == 413


def test_json_that_says_its_length_is_no_longer_either(served: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline_server.http.rest.MOST_BYTES", len(ROW))
    length = "Inference-Header-Content-Length"
    assert served.ask(served.request(INFER, ROW, f"{length}: {len(ROW)}")).status == 200

    answer = served.ask(served.request(INFER, ROW + b" ", f"{length}: {len(ROW) + 1}"))

    assert (answer.status, answer.headers["frostline-error"]) == (413, "message_too_large")
    assert f"{len(ROW)} bytes of JSON; send tensors in binary" in answer.error


def test_binary_tensors_may_be_longer_than_json(served: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"name": "input", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    text = json.dumps({"inputs": [asked]}).encode()
    monkeypatch.setattr("frostline_server.http.rest.MOST_BYTES", len(text))

    answer = served.ask(served.request(INFER, text + bytes(16), f"Inference-Header-Content-Length: {len(text)}"))

    assert answer.status == 200


def test_a_body_of_a_gigabyte_in_chunks_is_refused_while_it_comes(served: Port) -> None:
    chunk = b"10000\r\n" + bytes(65536) + b"\r\n"
    with served.client() as client:
        client.send(head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked"))
        for _ in range(100):
            client.send(chunk)

        assert client.answer().status == 413
        assert client.ended()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_body_that_unpacks_to_too_much_is_refused(served: Port, coding: str) -> None:
    packing = zlib.compressobj(1, zlib.DEFLATED, 31 if coding == "gzip" else 15)
    packed = packing.compress(bytes(1 << 25)) + packing.flush()

    answer = served.ask(served.request(INFER, packed, f"Content-Encoding: {coding}"))

    assert answer.status == 413


def test_a_small_body_that_unpacks_to_much_waits_for_room(served: Port) -> None:
    taken = served.front_end.budget.limit * 7 // 8
    assert served.front_end.budget.take(taken)
    try:
        answer = served.ask(served.request(INFER, gzip.compress(bytes(3 << 20)), "Content-Encoding: gzip"))
    finally:
        served.front_end.budget.give(taken)

    assert answer.status == 503
    assert answer.headers["frostline-error"] == "network_full"


@pytest.mark.parametrize(
    "body", [gzip.compress(ROW)[:-4], gzip.compress(ROW) + b"more", b"no gzip", zlib.compress(ROW)], ids=range(4)
)
def test_a_damaged_gzip_is_refused(served: Port, body: bytes) -> None:
    assert served.ask(served.request(INFER, body, "Content-Encoding: gzip")).status == 400


def test_a_gzip_of_several_members_is_read_whole(served: Port) -> None:
    packed = gzip.compress(ROW[:50]) + gzip.compress(b"") + gzip.compress(ROW[50:])

    assert served.ask(served.request(INFER, packed, "Content-Encoding: gzip")).status == 200


def test_a_body_that_ends_early_is_nobodys(served: Port) -> None:
    with served.client() as client:
        client.send(served.request()[:-1])
        served.wait_until(lambda: served.front_end.budget.used > 0)


def test_a_body_that_is_longer_than_it_says_is_the_next_request(served: Port) -> None:
    with served.client() as client:
        client.send(served.request() + b"and more\r\n\r\n")

        assert client.answer().status == 200
        assert client.answer().status == 400
        assert client.ended()


def test_a_slow_body_is_told_so(served: Port) -> None:
    with served.client() as client:
        client.send(served.request()[:-1])
        served.wait_until(lambda: served.front_end.budget.used > 0)
        served.look(59)
        served.look(61)

        assert client.answer().status == 408
        assert client.ended()
    assert served.refused("message_timeout")


@pytest.mark.parametrize("sent", [0, 10, 200], ids=["nothing", "half a head", "half a body"])
def test_clients_that_hang_up_leave_nothing(served: Port, sent: int) -> None:
    for _ in range(20):
        with served.client() as client:
            client.send(served.request()[:sent])
            reset(client)


def test_clients_that_hang_up_before_they_are_refused_leave_nothing(served: Port) -> None:
    with served.client() as client, served.busy():
        client.send(head("POST", INFER, f"Host: {served.host}", f"Content-Length: {1 << 30}"))
        client.socket.close()


def test_an_answer_before_the_body_says_that_the_connection_ends(served: Port) -> None:
    with served.client() as client:
        client.send(head("POST", "/nowhere", f"Host: {served.host}", "Content-Length: 100") + b"y")
        answer = client.answer()

        assert answer.status == 404
        assert answer.headers["connection"] == "close"
        assert client.ended()


def test_the_rest_of_a_body_that_was_answered_early_is_no_request(served: Port) -> None:
    with served.client() as client:
        client.send(head("POST", "/nowhere", f"Host: {served.host}", "Content-Length: 3000000"))
        assert client.answer().status == 404
        client.send(served.get() * 10)

        assert client.ended()


# Expect, Upgrade, HEAD


def test_who_waits_with_the_body_is_told_to_send_it(served: Port) -> None:
    with served.client() as client:
        client.send(served.request(INFER, ROW, "Expect: 100-continue")[: -len(ROW)])
        assert client.answer().status == 100
        client.send(ROW)

        assert client.answer().status == 200


def test_who_expects_something_else_is_told_so_before_the_body(served: Port) -> None:
    with served.client() as client:
        client.send(served.request(INFER, ROW, "Expect: 100-continue", "Expect: a-miracle")[: -len(ROW)])
        answer = client.answer()

        assert answer.status == 417
        assert answer.error == "the request expects 'a-miracle'; of such conditions 100-continue is understood"
        assert client.ended()


def test_http_1_0_expects_nothing(served: Port) -> None:
    with served.client() as client:
        client.send(b"GET /v2 HTTP/1.0\r\nExpect: a-miracle\r\n\r\n")

        assert client.answer().status == 200


def test_who_waits_with_a_body_that_is_too_long_is_not_told_to_send_it(served: Port) -> None:
    lines = (f"Host: {served.host}", f"Content-Length: {1 << 30}", "Expect: 100-continue")

    assert served.ask(head("POST", INFER, *lines)).status == 413


@pytest.mark.parametrize("at_once", [True, False])
def test_a_request_to_upgrade_has_a_body_and_others_follow_it(served: Port, at_once: bool) -> None:
    upgrade = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    )
    request = served.request(INFER, ROW, *upgrade)
    with served.client() as client:
        if at_once:
            client.send(request + served.request())
        else:
            client.send(request[: -len(ROW)])
            client.send(ROW[:10])
            client.send(ROW[10:])
            client.send(served.request())

        assert client.answer().status == 200
        assert client.answer().status == 200


def test_an_upgrade_with_a_body_in_chunks_is_read_whole(served: Port) -> None:
    lines = (f"Host: {served.host}", "Connection: upgrade", "Upgrade: websocket", "Transfer-Encoding: chunked")
    with served.client() as client:
        client.send(head("POST", INFER, *lines) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(ROW), ROW) + served.get())

        assert client.answer().status == 200
        assert client.answer().status == 200


def test_head_is_a_get_without_the_body(served: Port) -> None:
    with served.client() as client:
        client.send(head("HEAD", "/v2", f"Host: {served.host}") + served.get())
        answer = client.answer(head_only=True)

        assert answer.status == 200
        assert int(answer.headers["content-length"]) > 0
        assert client.answer().status == 200


def test_a_body_that_a_get_has_is_no_request(served: Port) -> None:
    hidden = served.request()
    with served.client() as client:
        client.send(served.request("/v2", hidden, method="GET") + served.get("/nowhere"))

        answers = [client.answer().status, client.answer().status]

    assert answers in ([200, 404], [200, 400])


# One connection, many requests


def test_a_thousand_requests_at_once_are_answered_in_order(served: Port) -> None:
    with served.client() as client:
        client.send(b"".join(served.get("/v2" if number % 3 else "/nowhere") for number in range(1000)))
        statuses = [client.answer().status for _ in range(1000)]

    assert statuses == [200 if number % 3 else 404 for number in range(1000)]


def test_requests_with_bodies_at_once_are_answered_in_order(served: Port) -> None:
    def asking(name: str) -> bytes:
        return served.request(INFER, json.dumps({"id": name, **json.loads(ROW)}).encode())

    with served.client() as client:
        client.send(b"".join(asking(str(number)) for number in range(300)))
        answers = [client.answer() for _ in range(300)]

    assert [json.loads(answer.body)["id"] for answer in answers] == [str(number) for number in range(300)]


def test_requests_that_wait_for_the_one_before_them_take_no_memory(served: Port) -> None:
    with served.server.held("digits"), served.client() as client:
        client.socket.setblocking(False)
        asked = served.request() + served.get() * 200_000
        sent = client.socket.send(asked)
        served.wait_until(lambda: any(each.flow is not None and each.flow.held for each in served.connections))
        (connection,) = served.connections

        assert len(connection.pipeline) < 500
        assert len(connection._rest) <= 1 << 19
        assert served.front_end.budget.used >= len(connection._rest)
        assert sent > 1 << 18


def test_what_was_asked_before_something_broken_is_answered(served: Port) -> None:
    with served.client() as client:
        with served.server.held("digits") as held:
            client.send(served.request())
            held.wait_until_queued(1)
            client.send(b"nonsense\r\n\r\n")
            served.wait_until(lambda: any(each._last is not None for each in served.connections))

        assert client.answer().status == 200
        assert client.answer().status == 400
        assert client.ended()


def test_a_broken_body_behind_another_request_is_refused_in_its_turn(served: Port) -> None:
    with served.client() as client:
        with served.server.held("digits") as held:
            chunked = head("POST", INFER, f"Host: {served.host}", "Transfer-Encoding: chunked")
            client.send(served.request() + chunked + b"zz\r\n")
            held.wait_until_queued(1)

        assert client.answer().status == 200
        assert client.answer().status == 400
        assert client.ended()


def test_a_request_whose_body_is_on_its_way_outlives_the_answer_before_it(served: Port) -> None:
    with served.client() as client:
        client.send(served.request() + served.request()[:-5])
        assert client.answer().status == 200
        client.send(ROW[-5:])

        assert client.answer().status == 200


def test_a_client_is_not_slow_while_the_server_is(served: Port) -> None:
    with served.client() as client:
        with served.server.held("digits") as held:
            client.send(served.request() + served.request()[:-5])
            held.wait_until_queued(1)
            served.wait_until(lambda: any(each.pipeline for each in served.connections))
            served.look(100)

        assert client.answer().status == 200
        client.send(ROW[-5:])
        assert client.answer().status == 200


def test_nothing_is_read_after_the_last_request(served: Port) -> None:
    with served.client() as client:
        client.send(served.get("/v2", "Connection: close") + served.request())

        assert client.answer().status == 200
        assert client.ended()


def test_a_client_that_hangs_up_takes_its_requests_along(served: Port) -> None:
    with served.server.held("digits") as held:
        with served.client() as client:
            client.send(served.request() * 5)
            held.wait_until_queued(1)
            reset(client)
        held.wait_until_queued(0)


def test_timers_end_with_the_connection(served: Port) -> None:
    with served.client() as client:
        client.send(served.get())
        client.answer()
        served.wait_until(lambda: any(each.timeout_keep_alive_task is not None for each in served.connections))
        (connection,) = served.connections
        reset(client)
    served.wait_until_quiet()

    assert connection.timeout_keep_alive_task is None


def test_an_idle_connection_is_closed_in_time(served: Port) -> None:
    with served.client() as client:
        client.send(served.get())
        client.answer()
        served.wait_until(lambda: any(each.timeout_keep_alive_task is not None for each in served.connections))
        (connection,) = served.connections
        assert connection.timeout_keep_alive_task is not None
        assert connection.timeout_keep_alive_task.when() > 0

        async def expire() -> None:
            connection.timeout_keep_alive_handler()

        served.server.call(expire())
        assert client.ended()
        client.socket.settimeout(TIMEOUT_S)

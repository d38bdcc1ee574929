"""The heads of requests: what is one, and what is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frostline_server.metrics.http_request import BadRequest, Request, parse


def test_a_head_has_a_method_a_path_and_fields() -> None:
    head = b"GET /metrics?name[]=a&x=? HTTP/1.1\r\nHost: x\r\nAccept:  a \r\nACCEPT: b\r\nEmpty:\r\n\r\n"
    fields = {"host": "x", "accept": "a, b", "empty": ""}
    assert parse(head) == Request("GET", "/metrics", "name[]=a&x=?", fields, keeps=True)


@pytest.mark.parametrize(
    ("target", "path"), [("http://host:80/readyz?x", "/readyz"), ("http://host", "/"), ("*", "/"), ("host:80", "/")]
)
def test_a_target_may_be_a_whole_address(target: str, path: str) -> None:
    assert parse(f"GET {target} HTTP/1.1\r\n\r\n".encode()).path == path


@pytest.mark.parametrize(
    ("version", "connection", "keeps"),
    [("1.1", "", True), ("1.1", "Connection: x, Close\r\n", False), ("1.0", "Connection: keep-alive\r\n", False)],
)
def test_a_connection_is_kept_unless_the_client_is_old_or_says_otherwise(
    version: str, connection: str, *, keeps: bool
) -> None:
    assert parse(f"GET / HTTP/{version}\r\n{connection}\r\n".encode()).keeps is keeps


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\n\r\n\r\n", 400),
        (b"G\x00T / HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA : b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nA: b\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_with_its_status(head: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(head)
    assert caught.value.status == status


@given(st.binary(max_size=200))
def test_whatever_comes_is_a_request_or_none(noise: bytes) -> None:
    for head in (noise, b"GET /" + noise + b"\r\n\r\n", b"GET / HTTP/1.1\r\n" + noise + b"\r\n\r\n"):
        try:
            request = parse(head)
        except BadRequest:
            continue
        assert request.path.startswith("/")

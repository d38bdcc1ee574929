"""The target of HTTP/2: connections, byte by byte, without a socket."""

import contextlib
from pathlib import Path

from bench.fuzz.mutations import mutated
from bench.fuzz.oracle import Found
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.targets.front_end import COMPRESSED, LIMIT, STREAM, UNARY, Kept, piece_size, shared_state
from bench.load.workload import framed
from frostline.tune.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame
from frostline_server.rpc.h2.connection import Connection, ConnectionOver
from frostline_server.rpc.h2.shared import Peer


def _connection(_: Path) -> Check:
    """The first byte says in what pieces the rest comes, after the preface of HTTP/2."""

    def check(data: bytes) -> None:
        receiver = Kept()
        shared = shared_state(receiver)
        connection = Connection(shared, Peer("ipv4:127.0.0.1:1"), 0.0, lambda: None)
        rest = PREFACE + frame(SETTINGS, 0, 0, b"") + data[1:]
        piece = piece_size((data[:1] or b"\0")[0], len(rest))
        try:
            for at in range(0, len(rest), piece):
                connection.receive(rest[at : at + piece], 1.0)
                while connection.to_send(1 << 16):
                    pass
            connection.look(2.0)
            connection.look(60.0)
            while connection.to_send(1 << 16):
                pass
        except ConnectionOver:
            # Its last words, if it has any.
            with contextlib.suppress(ConnectionOver):
                connection.to_send(1 << 16)
        finally:
            connection.close()
        if shared.budget.used:
            raise Found(f"{shared.budget.used} bytes are held for a connection that is closed", data)
        if any(len(one) > LIMIT for one in receiver.messages):
            raise Found("a message is larger than any may be", data)

    return check


def _block(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A block of headers that needs no table: what names are indexed is in RFC 7541, appendix A."""
    block = bytes((0x83, 0x86, 0x01, 1)) + b"t" + bytes((0x04, len(path))) + path + b"\x0f\x10\x10application/grpc"
    return block + b"".join(bytes((0, len(name))) + name + bytes((len(value),)) + value for name, value in more)


_BLOCK, _STREAM_BLOCK = _block(UNARY, (b"grpc-timeout", b"5S")), _block(STREAM, (b"grpc-encoding", b"gzip"))

_CALL = frame(HEADERS, END_HEADERS, 1, _BLOCK) + frame(DATA, END_STREAM, 1, framed(b"hello"))

TARGETS = (
    Target(
        "connection",
        "HTTP/2 connections",
        _connection,
        (
            b"\xff" + _CALL,
            b"\2" + _CALL,
            b"\xff" + frame(HEADERS, END_HEADERS, 1, _block(b"/no/Method", (b"te", b"trailers"))),
            b"\xff" + frame(HEADERS, END_HEADERS | END_STREAM, 1, _BLOCK),
            b"\xff"
            + frame(HEADERS, END_HEADERS, 1, _STREAM_BLOCK)
            + frame(DATA, 0, 1, COMPRESSED)
            + frame(HEADERS, 5, 1, b"\0\1x\1y"),
            b"\xff"
            + frame(HEADERS, END_HEADERS, 1, _BLOCK)
            + frame(RST_STREAM, 0, 1, bytes(4))
            + frame(PING, 0, 0, bytes(8)),
            b"\x20"
            + frame(HEADERS, END_HEADERS, 1, _STREAM_BLOCK)
            + frame(DATA, 0, 1, framed(b"a") + framed(b"b")[:3])
            + frame(DATA, END_STREAM, 1, framed(b"b")[3:]),
        ),
        mutated,
    ),
)

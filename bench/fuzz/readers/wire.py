"""Targets of the wire: gRPC's framing, its compression and its headers, HTTP/2 connections, and shared memory control."""

import contextlib
import math
import uuid
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from bench.fuzz.mutations import mutated
from bench.fuzz.oracle import Found
from bench.fuzz.readers.messages import shared_memory
from bench.fuzz.readers.mutators import message, text
from bench.fuzz.readers.target import Check, Target
from bench.load.workload import framed
from frostline.pb import inference_pb2 as pb
from frostline.tune.frames import DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame
from frostline_server.codec.shared_memory import FOLDER
from frostline_server.errors import InvalidInput, PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.h2.budget import Budget
from frostline_server.rpc.h2.call import Call, Malformed, Owner, timeout_s
from frostline_server.rpc.h2.connection import Connection, ConnectionOver
from frostline_server.rpc.h2.framing import deflated, inflated
from frostline_server.rpc.h2.inbound import Inbound
from frostline_server.rpc.h2.shared import Elsewhere, Limits, Peer, Route, Shared
from frostline_server.rpc.shared_memory_control import SharedMemory

_LIMIT = 4096
_LARGE = 1 << 21
_ENCODINGS = (b"", b"identity", b"gzip", b"deflate")
_LIMITS = Limits(
    max_message_bytes=_LIMIT,
    max_calls=8,
    max_header_bytes=16384,
    message_timeout_s=10,
    answer_timeout_s=20,
    handshake_timeout_s=5,
    resets_per_s=100,
    max_age_s=math.inf,
    age_grace_s=math.inf,
)
_UNARY, _STREAM = b"/t.T/Unary", b"/t.T/Stream"


class _Kept:
    """A receiver that keeps messages, and answers each with itself."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.finished_calls = 0

    def message(self, call: Call, received: bytes) -> None:
        """Keep it; answer on a real connection."""
        self.messages.append(received)
        if isinstance(call.connection, Connection):
            call.connection.answer(call, received)

    def finished(self, call: Call) -> None:
        """Count it."""
        self.finished_calls += 1
        if isinstance(call.connection, Connection):
            call.connection.end(call)

    def cancelled(self, call: Call) -> None:
        """Nothing is running."""

    def sent(self, call: Call) -> None:
        """Nothing waits for it."""


class _Owner:
    """What a call's messages ask of its connection, which is only this."""

    def __init__(self) -> None:
        self.broken: list[Exception] = []

    def guarded(self, _: Call, step: Callable[[], None]) -> None:
        """Do a step of a call."""
        try:
            step()
        except (PredictionError, Malformed) as error:
            self.broken.append(error)


def _shared(
    receiver: Any = None, limit: int = _LIMIT, elsewhere: Elsewhere = lambda work, then: then(work())
) -> Shared:
    return Shared(
        routes={
            _UNARY: Route(lambda _: receiver, unary=True, guarded="x"),
            _STREAM: Route(lambda _: receiver, unary=False, guarded="x"),
        },
        budget=Budget(1 << 24),
        limits=replace(_LIMITS, max_message_bytes=limit),
        elsewhere=elsewhere,
        counted=lambda _: None,
    )


def _inbound(_: Path) -> Check:
    """The first byte says what kind of call it is, the second in what pieces the rest comes."""

    def check(data: bytes) -> None:
        how, body = data[:1] or b"\0", data[2:]
        piece = _piece((data[1:2] or b"\0")[0], len(body))
        unary, encoding = bool(how[0] & 1), _ENCODINGS[how[0] >> 1 & 3]
        # What may become large is unpacked by another thread, whose results come later.
        limit, later = (_LARGE, how[0] >> 4 & 1) if how[0] & 8 else (_LIMIT, 0)
        waiting: deque[Callable[[], None]] = deque()

        def elsewhere(work: Callable[[], Any], then: Callable[[Any], None]) -> None:
            waiting.append(lambda: then(work()))
            if not later:
                waiting.pop()()

        receiver, owner, shared = _Kept(), _Owner(), _shared(None, limit, elsewhere)
        call = Call(cast("Owner", owner), shared, 1, receiver, {}, 0.0)
        inbound = Inbound(call, encoding, unary=unary)
        broken: Exception | None = None
        try:
            for at in range(0, len(body), piece):
                part = body[at : at + piece]
                if not inbound.append(part):
                    inbound.feed(part, end=False, now_s=1.0)
            inbound.feed(b"", end=True, now_s=2.0)
        except (PredictionError, Malformed) as error:
            broken, call.over = error, True
        while waiting:
            waiting.popleft()()
        expected, whole = _messages(body, encoding, limit)
        if receiver.messages != expected[: len(receiver.messages)]:
            raise Found(f"{receiver.messages} was read of {expected}", data)
        if broken is None and not owner.broken and not (whole and receiver.messages == expected):
            raise Found(f"nobody minds that {expected} is not whole, or not all of it came", data)
        if broken is not None and whole and (len(expected) == 1 or not unary):
            raise Found(f"{expected} was refused: {broken}", data)
        if not 0 <= call.held == shared.budget.used:
            raise Found(f"{call.held} bytes are held, {shared.budget.used} of the budget", data)

    return check


def _piece(asked: int, size: int) -> int:
    """The size of pieces, of which there are not so many that an execution takes long."""
    return max(1 + asked, size // 128)


def _messages(body: bytes, encoding: bytes, limit: int) -> tuple[list[bytes], bool]:
    """The messages of a body, and whether it is all good."""
    found: list[bytes] = []
    at = 0
    while at < len(body):
        flag, size = body[at], int.from_bytes(body[at + 1 : at + 5], "big")
        content = body[at + 5 : at + 5 + size]
        at += 5 + size
        if at > len(body) or size > limit or flag > 1 or (flag and encoding in (b"", b"identity")):
            return found, False
        if flag:
            unpack = zlib.decompressobj(31 if encoding == b"gzip" else 15)
            try:
                content = unpack.decompress(content)
            except zlib.error:
                return found, False
            if not unpack.eof or unpack.unused_data or len(content) > limit:
                return found, False
        found.append(content)
    return found, True


def _inflate(_: Path) -> Check:
    def check(data: bytes) -> None:
        for encoding in (b"gzip", b"deflate"):
            try:
                unpacked = inflated(data, encoding, _LIMIT)
            except ValueError:
                continue
            if unpacked is not None and (
                len(unpacked) > _LIMIT or zlib.decompress(data, 31 if encoding == b"gzip" else 15) != unpacked
            ):
                raise Found(f"unpacked as {unpacked!r}", data)
            if inflated(deflated(data, encoding), encoding, len(data)) != data:
                raise Found("what was packed is unpacked to something else", data)

    return check


def _headers(_: Path) -> Check:
    """A timeout, and a text that becomes a status message."""

    def check(data: bytes) -> None:
        try:
            seconds = timeout_s(data)
        except Malformed:
            pass
        else:
            scale = {"H": 3600, "M": 60, "S": 1, "m": 1e-3, "u": 1e-6, "n": 1e-9}[chr(data[-1])]
            if not 0 <= seconds < 1e12 or seconds != int(data[:-1]) * scale:
                raise Found(f"{data!r} is read as {seconds} s", data)
        # Names of files are texts that may hold what UTF-8 cannot.
        given = data.decode(errors="surrogateescape")
        code, said, more = ending(InvalidInput(given), given)
        said.encode()
        if (
            code is not grpc.StatusCode.INVALID_ARGUMENT
            or len(said.encode()) > 2300
            or unquote(said) is None
            or not more
        ):
            raise Found(f"ends as {code}: {said!r}", data)

    return check


def _connection(_: Path) -> Check:
    """The first byte says in what pieces the rest comes, after the preface of HTTP/2."""

    def check(data: bytes) -> None:
        receiver = _Kept()
        shared = _shared(receiver)
        connection = Connection(shared, Peer("ipv4:127.0.0.1:1"), 0.0, lambda: None)
        rest = PREFACE + frame(SETTINGS, 0, 0, b"") + data[1:]
        piece = _piece((data[:1] or b"\0")[0], len(rest))
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
        if any(len(one) > _LIMIT for one in receiver.messages):
            raise Found("a message is larger than any may be", data)

    return check


def _control(_: Path) -> Check:
    regions = shared_memory()
    control, name = SharedMemory(regions), f"frostline-fuzz-{uuid.uuid4().hex}"

    def check(data: bytes) -> None:
        try:
            request = pb.SystemSharedMemoryRegisterRequest.FromString(data)
        except DecodeError:
            return
        # There is an object only while it is looked for, so that none is left behind.
        if request.key.endswith("object"):
            request.key = request.key.removesuffix("object") + name
            (FOLDER / name).write_bytes(bytes(64))
        try:
            register(request, data)
        finally:
            (FOLDER / name).unlink(missing_ok=True)

    def register(request: pb.SystemSharedMemoryRegisterRequest, data: bytes) -> None:
        try:
            control.SystemSharedMemoryRegister(request)
        except PredictionError as error:
            ending(error)
            return
        try:
            region = regions.find(request.name)
            if len(regions.read(request.name, 0, min(region.byte_size, 16))) != min(region.byte_size, 16):
                raise Found("a region that was registered is not there", data)
            control.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name=request.name)).SerializeToString()
        finally:
            if request.name != "region":
                regions.unregister(request.name)

    return check


def _block(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A block of headers that needs no table: what names are indexed is in RFC 7541, appendix A."""
    block = bytes((0x83, 0x86, 0x01, 1)) + b"t" + bytes((0x04, len(path))) + path + b"\x0f\x10\x10application/grpc"
    return block + b"".join(bytes((0, len(name))) + name + bytes((len(value),)) + value for name, value in more)


_BLOCK, _STREAM_BLOCK = _block(_UNARY, (b"grpc-timeout", b"5S")), _block(_STREAM, (b"grpc-encoding", b"gzip"))
_CALL = frame(HEADERS, END_HEADERS, 1, _BLOCK) + frame(DATA, END_STREAM, 1, framed(b"hello"))
_PACKED = deflated(b"hello " * 9, b"gzip")
_COMPRESSED = b"\1" + len(_PACKED).to_bytes(4, "big") + _PACKED
_BOMB = b"\1" + len(deflated(bytes(_LARGE), b"gzip")).to_bytes(4, "big") + deflated(bytes(_LARGE), b"gzip")

TARGETS = (
    Target(
        "inbound",
        "gRPC messages in pieces, compressed, or in numbers",
        _inbound,
        (
            b"\1\xff" + framed(b"hello"),
            b"\0\2" + framed(b"hello") + framed(b"") + framed(b"world"),
            b"\4\x20" + _COMPRESSED + framed(b"plain"),
            b"\5\xff" + _COMPRESSED,
            b"\x1c\xff" + _BOMB + framed(b"after"),
            b"\x0d\x10" + _BOMB,
        ),
        mutated,
    ),
    Target("inflate", "compressed messages", _inflate, (_PACKED, deflated(bytes(5000), b"deflate")), mutated),
    Target(
        "headers",
        "grpc-timeout, and texts of a status",
        _headers,
        (b"5S", b"99999999H", b"100m", "input 'größe' 100 %".encode()),
        text(b"H", b"M", b"S", b"m", b"u", b"n", b"%", b"\n", b"\0", b"\xff", "٣".encode(), b"\xed\xa0\x80", b" "),
    ),
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
            + frame(DATA, 0, 1, _COMPRESSED)
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
    Target(
        "shared-memory",
        "requests to register shared memory",
        _control,
        (
            pb.SystemSharedMemoryRegisterRequest(name="a", key="/object", offset=8, byte_size=16).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(name="b", key="object", offset=60, byte_size=16).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(name="a", key="/none", offset=8, byte_size=64).SerializeToString(),
            pb.SystemSharedMemoryRegisterRequest(
                name="region", key="a/b", offset=2**63, byte_size=2**63
            ).SerializeToString(),
        ),
        message(pb.SystemSharedMemoryRegisterRequest),
    ),
)

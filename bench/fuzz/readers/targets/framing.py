"""Targets of gRPC's framing: messages in pieces, their compression, and the texts in headers."""

import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import grpc

from bench.fuzz.mutations import mutated
from bench.fuzz.oracle import Found
from bench.fuzz.readers.mutators import text
from bench.fuzz.readers.target import Check, Target
from bench.fuzz.readers.targets.front_end import COMPRESSED, LIMIT, PACKED, Kept, piece_size, shared_state
from bench.load.workload import framed
from frostline_server.errors import InvalidInput, PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.h2.call import Call, Malformed, Owner, timeout_s
from frostline_server.rpc.h2.framing import deflated, inflated
from frostline_server.rpc.h2.inbound import Inbound

_LARGE = (1 << 20) + 4096
"""The most bytes of a message where some are unpacked by another thread, as what may exceed 1 MiB is."""

_ENCODINGS = (b"", b"identity", b"gzip", b"deflate")


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


def _inbound(_: Path) -> Check:
    """The first byte says what kind of call it is, the second in what pieces the rest comes."""

    def check(data: bytes) -> None:
        how, body = data[:1] or b"\0", data[2:]
        piece = piece_size((data[1:2] or b"\0")[0], len(body))
        unary, encoding = bool(how[0] & 1), _ENCODINGS[how[0] >> 1 & 3]
        # What may become large is unpacked by another thread, whose results come later.
        limit, later = (_LARGE, how[0] >> 4 & 1) if how[0] & 8 else (LIMIT, 0)
        waiting: deque[Callable[[], None]] = deque()

        def elsewhere(work: Callable[[], Any], then: Callable[[Any], None]) -> None:
            waiting.append(lambda: then(work()))
            if not later:
                waiting.pop()()

        receiver, owner, shared = Kept(), _Owner(), shared_state(None, limit, elsewhere)
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
                unpacked = inflated(data, encoding, LIMIT)
            except ValueError:
                continue
            if unpacked is not None and (
                len(unpacked) > LIMIT or zlib.decompress(data, 31 if encoding == b"gzip" else 15) != unpacked
            ):
                raise Found(f"unpacked as {unpacked!r}", data)
            if inflated(deflated([data], encoding), encoding, len(data)) != data:
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


_BOMB = b"\1" + len(deflated([bytes(_LARGE)], b"gzip")).to_bytes(4, "big") + deflated([bytes(_LARGE)], b"gzip")

TARGETS = (
    Target(
        "inbound",
        "gRPC messages in pieces, compressed, or in numbers",
        _inbound,
        (
            b"\1\xff" + framed(b"hello"),
            b"\0\2" + framed(b"hello") + framed(b"") + framed(b"world"),
            b"\4\x20" + COMPRESSED + framed(b"plain"),
            b"\5\xff" + COMPRESSED,
            b"\x1c\xff" + _BOMB + framed(b"after"),
            b"\x0d\x10" + _BOMB,
        ),
        mutated,
    ),
    Target("inflate", "compressed messages", _inflate, (PACKED, deflated([bytes(5000)], b"deflate")), mutated),
    Target(
        "headers",
        "grpc-timeout, and texts of a status",
        _headers,
        (b"5S", b"99999999H", b"100m", "input 'größe' 100 %".encode()),
        text(b"H", b"M", b"S", b"m", b"u", b"n", b"%", b"\n", b"\0", b"\xff", "٣".encode(), b"\xed\xa0\x80", b" "),
    ),
)

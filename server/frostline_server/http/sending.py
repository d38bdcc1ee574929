"""Sends one answer over HTTP: with the headers of all answers, packed if asked for, in pieces, held until it has left."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from starlette.responses import Response

from frostline_server.http.call import CODINGS, Call, Receive, Scope
from frostline_server.http.h1.shared import HELD_BYTES
from frostline_server.http.security import ALWAYS
from frostline_server.rpc.h2.framing import deflated

Send = Callable[[Any], Awaitable[None]]

_PACKED_BYTES = 1024
"""Shorter answers are not packed."""
_PIECE_BYTES = 1 << 18
"""Of a long answer, so much is handed over at a time, so that the rest waits here, and not within TLS."""
_UNPACKED_TYPES = (b"image/png", b"image/jpeg", b"image/webp")


class Pieces(Response):
    """An answer whose body is in pieces, none of which is copied.

    Args:
        pieces: of the body.
        media_type: of the body.
        headers: further ones.
    """

    def __init__(
        self, pieces: Sequence[bytes | memoryview], media_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        length = {"content-length": str(sum(map(len, pieces)))}
        super().__init__(None, headers=length | dict(headers or {}), media_type=media_type)
        self._pieces = pieces

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "pieces": self._pieces})


class Sending:
    """Sends one answer: with the headers of all answers, packed if the client can unpack it, held until it has left.

    Args:
        call: the call.
        send: sends ASGI's messages.
        more: further headers.
    """

    def __init__(self, call: Call, send: Send, more: Sequence[tuple[bytes, bytes]]) -> None:
        self.plain = send
        self.started = False
        self._call = call
        self._more = more
        self._start: Any = None

    async def send(self, message: Any) -> None:
        """Send a message of ASGI's; an answer has one of each type, and its body may be in `pieces`."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self.started = True
        start = self._start
        pieces: Sequence[bytes | memoryview] = message.get("pieces") or (message.get("body", b""),)
        size = sum(map(len, pieces))
        headers = {name.lower(): value for name, value in start["headers"]}
        if size > HELD_BYTES:
            # It may be read slowly, or never.
            self._call.hold(size)
        if coding := self._coding(size, headers):
            body = await self._call.elsewhere(size, partial(deflated, pieces, CODINGS[coding], level=1))
            pieces, size = (body,), len(body)
            headers[b"content-encoding"] = coding.encode()
            headers[b"content-length"] = str(size).encode()
            headers[b"vary"] = b"accept-encoding"
        kept = {name for name, _ in self._more}
        said = [*headers.items(), *((name, value) for name, value in ALWAYS if name not in kept), *self._more]
        self._call.exchange.begin_answer()
        await self.plain({"type": "http.response.start", "status": start["status"], "headers": said})
        if size <= HELD_BYTES:
            await self.plain({"type": "http.response.body", "body": b"".join(pieces)})
            return
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), _PIECE_BYTES):
                # Each waits until most of those before it have left.
                part = view[at : at + _PIECE_BYTES]
                await self.plain({"type": "http.response.body", "body": part, "more_body": True})
                # Others have their turn, and it is known by then if the client has gone.
                await asyncio.sleep(0)
        await self.plain({"type": "http.response.body", "body": b""})

    def _coding(self, size: int, headers: dict[bytes, bytes]) -> str:
        if size < _PACKED_BYTES or b"content-encoding" in headers:
            return ""
        if headers.get(b"content-type", b"").startswith(_UNPACKED_TYPES):
            return ""
        if headers.get(b"cache-control") == b"no-transform":
            return ""
        return _accepted(self._call.headers.get("accept-encoding", ""))


def _accepted(header: str) -> str:
    """The first content coding of a header that is understood; "" for none."""
    for part in header.lower().split(","):
        coding, _, weight = part.partition(";")
        if coding.strip() in ("gzip", "deflate") and weight.replace(" ", "") not in ("q=0", "q=0.0"):
            return coding.strip()
    return ""

"""The HTTP application: it checks where a request comes from, has it answered, and makes every failure a JSON object."""

import asyncio
import gzip
import zlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router

from frostline_server.http.call import Call, ClientGone, Receive, Scope
from frostline_server.http.h1.shared import HELD_BYTES
from frostline_server.http.security import ALWAYS, Origins
from frostline_server.http.statuses import Failure

Send = Callable[[Any], Awaitable[None]]

_PACKED_BYTES = 1024
"""Shorter answers are not packed."""
_LONG_BYTES = 1 << 18
"""More than this is packed in another thread."""
_PIECE_BYTES = 1 << 18
"""Of a long answer, so much is handed over at a time, so that the rest waits here, and not within TLS."""
_UNPACKED_TYPES = (b"image/png", b"image/jpeg", b"image/webp")
_CALL = "frostline.call"

_log = structlog.get_logger(__name__)


def call_of(request: Request) -> Call:
    """The call of a request."""
    call: Call = request.scope[_CALL]
    return call


class Application:
    """An ASGI application.

    Args:
        routes: what is answered.
        origins: which pages' requests are.
        most_bytes: the longest body, unpacked.
    """

    def __init__(self, routes: Sequence[BaseRoute], origins: Origins, most_bytes: int) -> None:
        self._router = Router(routes, redirect_slashes=False, default=_nothing_there)
        self._origins = origins
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        call = scope[_CALL] = Call(scope, receive, self._most_bytes)
        # Starlette raises its errors only inside of an application.
        scope["app"] = self
        sending = _Sending(call, send, self._origins.cors(call.headers))
        try:
            failure = await self._answered(call, scope, receive, sending)
        except ClientGone:
            return
        if failure is not None:
            response = Response(failure.body, failure.status)
            response.raw_headers = [(b"content-length", str(len(failure.body)).encode()), *failure.headers]
            await response(scope, receive, sending.send)

    async def _answered(self, call: Call, scope: Scope, receive: Receive, sending: "_Sending") -> Failure | None:
        """Answer a request, or say why that failed."""
        try:
            self._origins.check(scope["method"], call.headers)
            if scope["method"] == "OPTIONS":
                allowed = self._origins.cors(call.headers, preflight=True)
                await Response(status_code=204)(scope, receive, _Sending(call, sending.plain, allowed).send)
            else:
                await self._router(scope, receive, sending.send)
        except Failure as failure:
            # Where it comes from is not held while it is told: large bodies and answers may be there.
            failure.__context__ = failure.__cause__ = None
            return failure.with_traceback(None)
        except HTTPException as error:  # Starlette's own: another method
            sentence = f"{scope['method']} is no method of {scope['path'][:200]}"
            methods = (error.headers or {}).get("Allow", "")
            return Failure(error.status_code, sentence, "unsupported", allowed=methods)
        except (ClientGone, asyncio.CancelledError):
            raise
        except Exception as defect:
            _log.exception("an HTTP request failed unexpectedly", path=scope["path"][:200])
            if sending.started:
                raise
            return Failure(500, f"unexpected {type(defect).__name__}: {defect}", "unknown")
        return None


async def _nothing_there(scope: Scope, _: Receive, __: Send) -> None:
    raise Failure(404, f"there is nothing at {scope['path'][:200]}; /openapi.json lists what there is", "not_found")


class _Sending:
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
        """Send a message of ASGI's; an answer has one of each type."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        self.started = True
        body, start = bytes(message.get("body", b"")), self._start
        headers = {name.lower(): value for name, value in start["headers"]}
        if len(body) > HELD_BYTES:
            # It may be read slowly, or never.
            self._call.hold(len(body))
        if coding := self._coding(body, headers):
            body = await _packed(body, coding)
            headers[b"content-encoding"] = coding.encode()
            headers[b"content-length"] = str(len(body)).encode()
            headers[b"vary"] = b"accept-encoding"
        kept = {name for name, _ in self._more}
        said = [*headers.items(), *((name, value) for name, value in ALWAYS if name not in kept), *self._more]
        self._call.exchange.begin_answer()
        await self.plain({"type": "http.response.start", "status": start["status"], "headers": said})
        if len(body) <= HELD_BYTES:
            await self.plain({"type": "http.response.body", "body": body})
            return
        pieces = memoryview(body)
        for at in range(0, len(body), _PIECE_BYTES):
            # Each waits until most of those before it have left.
            await self.plain({"type": "http.response.body", "body": pieces[at : at + _PIECE_BYTES], "more_body": True})
        await self.plain({"type": "http.response.body", "body": b""})

    def _coding(self, body: bytes, headers: dict[bytes, bytes]) -> str:
        if len(body) < _PACKED_BYTES or b"content-encoding" in headers:
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


async def _packed(body: bytes, coding: str) -> bytes:
    if len(body) > _LONG_BYTES:
        return await asyncio.get_running_loop().run_in_executor(None, _pack, body, coding)
    return _pack(body, coding)


def _pack(body: bytes, coding: str) -> bytes:
    return gzip.compress(body, 1, mtime=0) if coding == "gzip" else zlib.compress(body, 1)

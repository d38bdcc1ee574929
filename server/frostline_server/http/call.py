"""One call over HTTP: its body within the limits, and the caller as the handlers of gRPC methods see it."""

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

import grpc

from frostline.protocol import ERROR_KIND
from frostline_server.access.access import Access
from frostline_server.access.access_file import ANONYMOUS
from frostline_server.access.identity import Identity
from frostline_server.errors import PredictionError
from frostline_server.http import json_size
from frostline_server.http.h1.shared import EXCHANGE, LONG_BYTES, Exchange, too_long
from frostline_server.http.statuses import Failure, failure_of
from frostline_server.rpc.call_report import peer_attributes
from frostline_server.rpc.grpc_status import PUSHBACK
from frostline_server.rpc.h2.framing import LARGEST_RATIO, inflated
from frostline_server.telemetry.finished import Attributes, Report
from frostline_server.tls import listed

Scope = Any
"""An ASGI scope."""
Receive = Callable[[], Awaitable[Any]]
T = TypeVar("T")

CODINGS = {"gzip": b"gzip", "x-gzip": b"gzip", "deflate": b"deflate"}
"""Content codings, with what gRPC calls them."""
_MOST_MEMBERS = 4096
"""Of a gzip body: programs that pack in blocks, or append, have several, of 64 KiB each. An empty one takes 20 bytes, and much
longer to read than they."""
_COPIED_BYTES = 1 << 20
"""What is larger is held twice, as it is copied while it is decoded."""


class ClientGone(Exception):
    """The client has gone away; nobody waits for an answer."""


class Call:
    """A request, and what its answer needs to know of it.

    Args:
        scope: the ASGI scope.
        receive: gives the body.
        most_bytes: the longest body, unpacked.
    """

    def __init__(self, scope: Scope, receive: Receive, most_bytes: int) -> None:
        self.scope = scope
        self._receive = receive
        self._most_bytes = most_bytes
        self.exchange: Exchange = scope[EXCHANGE]
        self.headers: Mapping[str, str] = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(scope["headers"])
        }
        """The first value of each, by its name in small letters."""
        self.queued = False
        """Whether its last request to a model came as far as the batcher, which counts it, however it ends."""
        self._received_s = time.monotonic()
        self._identity = ANONYMOUS

    def all_of(self, name: str) -> str | None:
        """All values of a header that says how the body is to be read, as one list; None where there are none.

        Who sends it more than once may be understood otherwise by a program on the way. A list is no number and no coding, so
        it is refused.
        """
        if len(self.headers) == len(self.scope["headers"]):  # none is there twice, as is usual
            return self.headers.get(name)
        values = [value.decode("latin-1") for each, value in self.scope["headers"] if each == name.encode()]
        return ", ".join(values) if values else None

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What the path names, such as `model` and `version`."""
        found: Mapping[str, Any] = self.scope.get("path_params", {})
        return found

    def identify(self, access: Access) -> Identity:
        """Who calls.

        Raises:
            Failure: the credentials are not known.
        """
        shown = [value for name, value in self.scope["headers"] if name == b"authorization"]
        try:
            # More than one is one that nobody has.
            return access.identify(b",".join(shown) if shown else None, listed(self.exchange.names))
        except PredictionError as error:
            raise failure_of(error) from None

    def admit(self, access: Access, method: str) -> None:
        """Let the caller use a method, or not.

        Raises:
            Failure: it may not, or not now.
        """
        identity = self.identify(access)
        self._identity = identity.name
        try:
            access.permit(identity, method)
            identity.admit(time.monotonic())
        except PredictionError as error:
            raise failure_of(error) from None

    async def body(self, most_bytes: int | None = None) -> bytes:
        """The whole body, unpacked.

        Args:
            most_bytes: how long it may be, if that is less than any body may be.

        Raises:
            Failure: it is too long, packed in a way that is not understood, or damaged, or there is no room for it.
            ClientGone: the client went away before it was there.
        """
        most_bytes = min(most_bytes or self._most_bytes, self._most_bytes)
        announced = self.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most_bytes:
            raise self._too_long(most_bytes)
        parts, size = [], 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise ClientGone
            parts.append(event["body"])
            size += len(event["body"])
            if size > most_bytes:
                raise self._too_long(most_bytes)
            if not event.get("more_body"):
                break
        if size > _COPIED_BYTES:
            self.hold(size)
        packed = parts[0] if len(parts) == 1 else b"".join(parts)
        del parts
        coding = (self.all_of("content-encoding") or "identity").strip().lower()
        if coding in ("identity", ""):
            return packed
        if coding not in CODINGS:
            raise Failure(415, f"Content-Encoding is {coding!r}; gzip and deflate are understood", "unsupported")
        # Nothing says what it will become, so the most it can is held meanwhile.
        most = min(most_bytes, LARGEST_RATIO * len(packed) + 1)
        self.hold(most)
        whole = await self.elsewhere(most, partial(self._unpacked, packed, coding, most_bytes))
        held = 2 * len(whole) if len(whole) > _COPIED_BYTES else len(whole)
        if held > most:
            self.hold(held - most)
        else:
            self.exchange.give(most - held)
        return whole

    def _unpacked(self, packed: bytes, coding: str, most_bytes: int) -> bytes:
        try:
            whole = inflated(packed, CODINGS[coding], most_bytes, _MOST_MEMBERS)
        except ValueError as error:
            raise Failure(400, f"the body is not {coding}, as Content-Encoding says: {error}", "bad_request") from error
        if whole is None:
            raise self._too_long(most_bytes)
        return whole

    def _too_long(self, most_bytes: int) -> Failure:
        if most_bytes < self._most_bytes:
            return too_long(most_bytes, f"of JSON; {json_size.INSTEAD}")
        return too_long(most_bytes)

    async def elsewhere(self, size: int, work: Callable[[], T]) -> T:
        """Do some work, in another thread if it is of many bytes."""
        return await self.exchange.elsewhere(size, work)

    async def read(self, text: bytes, read: Callable[[bytes], T]) -> T:
        """What a JSON text becomes, read where that holds nobody up, and with room for it.

        Args:
            text: the JSON.
            read: reads it.

        Raises:
            Failure: it holds too much, or there is no room, or `read` raises it.
        """
        size = len(text)
        if size > LONG_BYTES:
            self.hold(await self.elsewhere(size, partial(json_size.memory_of, text)))
        return await self.elsewhere(size, partial(read, text))

    async def written(self, size: int, factor: int, write: Callable[[], T], asked: int = 0) -> T:
        """What a message becomes as JSON, written where that holds nobody up, and with room for it.

        Args:
            size: of the message, in bytes.
            factor: about how many bytes of Python's objects and of JSON each of them becomes.
            write: writes it.
            asked: bytes of the request, where what is written has as many parts.

        Raises:
            Failure: there is no room, or `write` raises it.
        """
        needed = factor * size if size > LONG_BYTES else 0
        if needed:
            self.hold(needed)
        written = await self.elsewhere(max(size, asked), write)
        if needed:
            # From here on it is held as what it has become; see `Sending`.
            self.exchange.give(needed)
        return written

    def header(self, name: bytes) -> bytes | None:
        """A header, by its name in small letters; None if there is none."""
        value = self.headers.get(name.decode())
        return None if value is None else value.encode("latin-1")

    def report(self, error: PredictionError | None) -> Report:
        """What is told of the call; see `telemetry.finished.Origin`.

        By https://opentelemetry.io/docs/specs/semconv/http/http-spans/.
        """
        method, path, route = self.scope["method"], self.scope["path"], _route(self.scope["path"])
        status = 200 if error is None else failure_of(error).status
        attributes: Attributes = (
            ("http.request.method", method),
            ("http.route", route),
            ("http.response.status_code", status),
            ("url.path", path),
            ("url.scheme", self.scope["scheme"]),
            *peer_attributes(self.exchange.peer),
        )
        faulty = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        if faulty:
            attributes += (("error.type", str(status)),)
        return Report(
            f"{method} {route}", "http", f"{method} {route}", str(status), faulty, self._identity, self.exchange.peer,
            self._received_s, attributes,
        )  # fmt: skip

    def hold(self, size: int) -> None:
        """Hold so many bytes until the call is over.

        Raises:
            Failure: there is no room.
        """
        if not self.exchange.hold(size):
            raise self.exchange.no_room(size)


_NAMED = {"models": "{model}", "versions": "{version}"}


def _route(path: str) -> str:
    """A path of inference without the names in it."""
    parts = path.split("/")
    return "/".join(_NAMED.get(before, part) for before, part in zip(["", *parts], parts, strict=False))


class Context:
    """A call as the handlers of gRPC methods see it, with grpc.aio's meanings.

    Args:
        call: the call.
    """

    def __init__(self, call: Call) -> None:
        self._call = call

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        """End the call with a status."""
        told = dict(trailing_metadata)
        retry_s = math.ceil(int(told[PUSHBACK]) / 1000) if PUSHBACK in told else None
        raise Failure.of_code(code.name, details, told.get(ERROR_KIND, ""), retry_s)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """The headers, each as often as it was sent."""
        return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in self._call.scope["headers"])

    def peer(self) -> str:
        """The client's address, such as ipv4:127.0.0.1:50051."""
        return self._call.exchange.peer

    def auth_context(self) -> Mapping[str, tuple[bytes, ...]]:
        """The names in the client's certificate, under grpc's keys."""
        return self._call.exchange.names

    def time_remaining(self) -> float | None:
        """None: HTTP has no deadline."""
        return None

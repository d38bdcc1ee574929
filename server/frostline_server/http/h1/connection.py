"""One HTTP/1.1 connection: uvicorn's protocol, with the limits that uvicorn leaves to a proxy in front of it.

uvicorn parses (llhttp), keeps alive, pipelines and applies back pressure. What is added bounds what a client can make the
server hold: the size and the time of a head and of a body, requests before they are answered, answers that nobody reads,
and the memory of all of them.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, cast

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from frostline_server.http.h1.flow import Flow, Lingering
from frostline_server.http.h1.head import body_size, check_target, without_upgrade
from frostline_server.http.h1.shared import EXCHANGE, Exchange, Shared, no_room, too_long
from frostline_server.http.statuses import Failure, failure_head
from frostline_server.tls import certificate_names

_QUICKACK = getattr(socket, "TCP_QUICKACK", None)
"""Only Linux has it."""
_DISCARD_S = 1.0
"""How long the rest of a request that was refused is read, so that the client sees why."""
_SLICE_BYTES = 1024
"""Of what may be many requests, so much is parsed before the first of them is answered."""
_CHUNK_FACTOR = 4
"""A body in chunks may be so many times as long with what is around the chunks; where each has one byte, six times."""

_log = structlog.get_logger(__name__)


_COUNTED = {
    400: "protocol",
    405: "method",
    413: "message_too_large",
    417: "protocol",
    431: "protocol",
    501: "encoding",
    505: "protocol",
}
"""As what it is counted that a request is refused before anything else sees it.

Others are counted where they are seen: 408 as the limit of time that was passed, 503 as `network_full`. 500 is a defect of the
server, which its log has.
"""


class Connection(HttpToolsProtocol):
    """A connection of a client.

    Args:
        shared: what all of them have in common.
        client: its socket.
        peer: its address as grpc writes it.
        ended: is called once it has ended.

    Attributes:
        connecting: makes the connection, with TLS's handshake.
    """

    flow: Flow

    def __init__(self, shared: Shared, client: socket.socket, peer: str, ended: Callable[[], None]) -> None:
        super().__init__(shared.uvicorn, shared.state, {}, shared.loop)
        # uvicorn's takes requests after one that says it is the last.
        self.parser = httptools.HttpRequestParser(self)
        self._shared = shared
        self._limits = shared.limits
        self._client = client
        self._peer = peer
        self._ended = ended
        self._names: Mapping[str, tuple[bytes, ...]] = {}
        self._unsent: tuple[int, float] | None = None
        self._ending: asyncio.TimerHandle | None = None
        # What is being read: nothing, a head, or a body, of which the size may be known.
        self._in_head = self._in_body = self._upgrading = False
        # Whether `headers` are those of what is being read, all of them.
        self._headers_read = False
        self._began_s: float | None = None
        self._begun = self._head_bytes = self._left = self._chunked = self._chunk_bytes = self._quiet = 0
        self._reading: Exchange | None = None
        # What was read and waits until requests before it are answered.
        self._rest = b""
        # Nothing more is parsed, and at last this is said.
        self._deaf = False
        self._last: bytes | None = None
        self._exchanges: dict[Exchange, None] = {}
        self.connecting: asyncio.Task[None] | None = None

    # As uvicorn calls it

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Take a new connection."""
        super().connection_made(transport)
        self.flow = Flow(transport)
        self._began_s = time.monotonic()
        self._names = certificate_names(transport.get_extra_info("peercert"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what the client is not there for any more."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._ending is not None:
            self._ending.cancel()
        for cycle, _ in self.pipeline:
            self._forget(cycle)
        self.pipeline.clear()
        for exchange in list(self._exchanges):
            exchange.give_up()
        self._taken()
        self._shared.waiting.pop(self, None)
        # Both may lead back to here; see `_forget`.
        self.cycle = None  # type: ignore[assignment]  # as uvicorn begins
        self._reading = None
        self._ended()

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        if self._began_s is None:
            # Also where only line ends come, which begin no request.
            self._began_s = time.monotonic()
        if self._rest or self.pipeline:
            self._wait(data)
        elif len(data) <= _SLICE_BYTES:
            self._parse(data)
        else:
            self._parse_slices(data)
        if self._in_body and _QUICKACK is not None:
            # Many clients send the body after the head, and their system holds it back until the head is acknowledged, which
            # this one would do only after 40 ms.
            with suppress(OSError):
                self._client.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)

    def _parse_slices(self, data: bytes) -> None:
        view, at = memoryview(data), 0
        while at < len(data) and not self._deaf:
            if self.pipeline:
                self._wait(data[at:])
                return
            size = max(self._left, _SLICE_BYTES) if self._in_body else _SLICE_BYTES
            self._parse(view[at : at + size])
            at += size

    def _wait(self, data: bytes) -> None:
        """Keep what came until the requests before it are answered, and read no more meanwhile."""
        if not self._shared.budget.take(len(data)):
            self._shared.refused["network_full"] += 1
            self.refuse(no_room(len(data)))
            return
        self._rest += data
        self.flow.hold()

    def _taken(self) -> bytes:
        """What has waited, which waits no more."""
        data, self._rest = self._rest, b""
        self._shared.budget.give(len(data))
        return data

    def _go_on(self) -> None:
        """Parse what has waited."""
        if self.pipeline or self.transport.is_closing():
            return
        data = self._taken()
        if self._began_s is not None:
            # It was not the client who was slow.
            self._began_s = time.monotonic()
        self.flow.let_go()
        if data:
            self.data_received(data)

    def _parse(self, data: bytes | memoryview) -> None:
        begun, chunks = self._begun, self._chunk_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if not self._deaf:
                self._parse_without_upgrade(bytes(data[upgrade.args[0] :]))
            return
        except httptools.HttpParserCallbackError:
            _log.exception("an HTTP request failed unexpectedly")
            self.refuse(Failure(500, "the request's head failed unexpectedly; the server's log says why", "unknown"))
            return
        except httptools.HttpParserError as error:
            cause = str(error) or "it cannot be parsed"
            self.refuse(Failure(400, f"this is no valid HTTP/1.1 request: {cause}", "bad_request"))
            return
        if self._in_head:
            # What came before it began is not known, and no longer than a slice.
            self._quiet += len(data) if begun == self._begun else 0
            if self._quiet > self._limits.head_bytes:
                self._refuse_head()
        elif self._in_body and self._reading is not None:
            self._chunked += len(data)
            self._quiet = self._quiet + len(data) if self._chunk_bytes == chunks else 0
            most = self._limits.head_bytes
            if self._quiet > most or self._chunked > most + _CHUNK_FACTOR * self._chunk_bytes:
                self.refuse(
                    Failure(400, "there is too much around the chunks of the body; send larger ones", "bad_request")
                )

    def _parse_without_upgrade(self, rest: bytes) -> None:
        """Parse a request to go on with another protocol as one of this protocol: llhttp would take it to have no body."""
        head = without_upgrade(self.parser.get_method(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        self._upgrading = False
        self._parse(head)
        if rest and not self._deaf:
            self._parse_slices(rest)

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._in_head, self._headers_read = True, False
        self._begun += 1
        self._head_bytes = self._quiet = 0
        if self._began_s is None:
            self._began_s = time.monotonic()

    def on_url(self, url: bytes) -> None:
        """Take a part of the request's target."""
        self._head_bytes += len(url)
        if self._head_bytes <= self._limits.head_bytes:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what follows a body in chunks is no header of the request."""
        if not self._in_head:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes <= self._limits.head_bytes:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer, or refuse before any of the body was read."""
        if self._deaf:
            return
        if self._head_bytes > self._limits.head_bytes:
            self._refuse_head()
            return
        self._headers_read = True
        version = self.parser.get_http_version()
        try:
            check_target(self.parser.get_method(), self.url, self.headers, version)
            size = body_size(self.headers, version)
        except Failure as failure:
            self.refuse(failure)
            return
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        if size is not None and size > self._limits.body_bytes:
            self.refuse(too_long(self._limits.body_bytes))
            return
        if size and not self._shared.budget.take(size):
            self._refuse_full(size)
            return
        self._in_head, self._in_body = False, True
        self._began_s = time.monotonic()
        self._left, self._chunked, self._chunk_bytes, self._quiet = size or 0, 0, 0, 0
        self.expect_100_continue = self.expect_100_continue and version == "1.1"
        self._shared.waiting.pop(self, None)
        super().on_headers_complete()
        exchange = Exchange(self._shared, self, self.cycle, self._peer, self._names, size or 0)
        self._reading = exchange if size is None else None
        self.scope[EXCHANGE] = exchange  # type: ignore[literal-required]  # a key of our own
        self._exchanges[exchange] = None

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._deaf:
            return
        if self._reading is None:
            self._left -= len(body)
        else:
            self._chunk_bytes += len(body)
            if self._chunk_bytes > self._limits.body_bytes:
                self.refuse(too_long(self._limits.body_bytes))
                return
            if not self._reading.hold(len(body)):
                self._refuse_full(len(body))
                return
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that a request is there."""
        if self._deaf or self._upgrading:
            return
        self._in_body = self._headers_read = False
        self._began_s = self._reading = None
        super().on_message_complete()
        if not self.cycle.keep_alive:
            self._deaf = True

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        if self._ending is not None:
            return
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._last is not None and not self._answering:
            self._unset_keepalive_if_required()
            self._say(self._last)
        elif self.flow.held and not self.pipeline:
            # Not at once, or each request would be within the one before it.
            self.loop.call_soon(self._go_on)
        elif self.cycle.response_complete:
            self._shared.waiting[self] = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if self._in_body:
            # If it had to wait for its turn, the client was not slow.
            self._began_s = time.monotonic()
        self._shared.begin()
        task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, cycle))

    def _over(self, task: "asyncio.Task[None]", cycle: RequestResponseCycle) -> None:
        self.tasks.discard(task)
        self._forget(cycle)

    def _forget(self, cycle: RequestResponseCycle) -> None:
        """Hold nothing more of a request."""
        # The exchange leads back to its scope: left to the collector, requests by the thousand would hold up all threads.
        exchange: Exchange = cycle.scope.pop(EXCHANGE)  # type: ignore[misc]  # a key of our own
        exchange.on_lost = None
        exchange.release()
        del self._exchanges[exchange]

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: it is no fault of the server's."""

    def shutdown(self) -> None:
        """Answer what has come, and no more."""
        if self._ending is not None or self._last is not None:
            return
        if self._rest or self.pipeline:
            # What has come and is not parsed yet is answered too; the last answer ends the connection (`leave_with`).
            return
        super().shutdown()
        if not self._in_body:
            self._deaf = True

    # Limits

    def look(self, now_s: float) -> None:
        """End what takes too long; called about once a second.

        Args:
            now_s: the time on the `time.monotonic` clock.
        """
        limits, began_s = self._limits, self._began_s
        if self._deaf or self.flow.held or self.pipeline or began_s is None or self.transport.is_closing():
            self._abort_if_unread(now_s)
        elif self._in_body and now_s - began_s > limits.body_s:
            self._shared.refused["message_timeout"] += 1
            self.refuse(Failure(408, f"the request's body took longer than {limits.body_s:g} s", "slow"))
        elif not self._in_body and now_s - began_s > limits.head_s:
            self._shared.refused["handshake_timeout"] += 1
            if self._in_head:
                self.refuse(Failure(408, f"the request's head took longer than {limits.head_s:g} s", "slow"))
            else:
                self.transport.close()
        else:
            self._abort_if_unread(now_s)

    def _abort_if_unread(self, now_s: float) -> None:
        size = self.transport.get_write_buffer_size()
        if not size:
            self._unsent = None
        elif self._unsent is None or size != self._unsent[0]:
            self._unsent = (size, now_s)
        elif now_s - self._unsent[1] > self._limits.unread_s:
            self._shared.refused["answer_timeout"] += 1
            self.transport.abort()

    def forgotten(self) -> None:
        """End without having been made."""
        # It leads back to here; see `_forget`.
        self.parser = None  # type: ignore[assignment]  # as uvicorn ends
        self._ended()

    def make_way(self) -> None:
        """End, because another one needs the place."""
        if self.transport is not None:
            self.transport.abort()
        elif self.connecting is not None:
            self.connecting.cancel()

    def refuse(self, failure: Failure) -> None:
        """Answer what is being read with a failure, after what was read before it, and end the connection."""
        if self._deaf:
            return
        if (reason := _COUNTED.get(failure.status)) is not None:
            self._shared.refused[reason] += 1
        self._deaf, self._began_s = True, None
        self._taken()
        told = failure_head(failure, self._cors())
        cycle = self.cycle
        if self._in_body and not any(each is cycle for each, _ in self.pipeline):
            # Its body is being read, and it is answered already or may be.
            if cycle.response_started:
                self.end_with(cycle)
            else:
                _exchange(cycle).give_up()
                self._say(told)
            return
        if self._in_body:
            self.pipeline.popleft()
            self._forget(cycle)
        if self._answering:
            self._last = told
        else:
            self._say(told)
        self.flow.let_go()

    @property
    def requests(self) -> int:
        """How many requests it has that are not over."""
        return len(self._exchanges)

    @property
    def unanswered(self) -> list[Exchange]:
        """Requests that have come whole and whose answers are being made; none while the client does not read others."""
        if self.unsent:
            return []
        return [each for each in self._exchanges if not (each.cycle.more_body or each.cycle.response_started)]

    @property
    def unsent(self) -> int:
        """Bytes of answers that have not left."""
        return 0 if self.transport.is_closing() else self.transport.get_write_buffer_size()

    @property
    def _answering(self) -> bool:
        return any(not exchange.cycle.response_complete for exchange in self._exchanges)

    def end_with(self, cycle: RequestResponseCycle) -> None:
        """End the connection with an answer that comes before the request's body was read."""
        cycle.keep_alive = False
        cycle.transport = cast("asyncio.Transport", Lingering(self.transport, self.end_soon))

    def leave_with(self, cycle: RequestResponseCycle) -> None:
        """End the connection with an answer, if it is the last of those that have been asked for."""
        if not self.pipeline and not self._rest and self._last is None:
            cycle.keep_alive = False
            self._deaf = True

    def end_soon(self) -> None:
        """End the connection once the client has had time to read what it was told."""
        self._deaf = True
        self._unset_keepalive_if_required()
        if self._ending is not None or self.transport.is_closing():
            return
        # Closed at once, with bytes unread, the client's system would drop the answer.
        with suppress(OSError):  # the client has gone already
            if self.transport.can_write_eof():
                self.transport.write_eof()
        self._ending = self.loop.call_later(_DISCARD_S, self.transport.close)
        self._shared.waiting[self] = None
        self.flow.let_go()

    def _cors(self) -> Sequence[tuple[bytes, bytes]]:
        """The headers that let the page read why its request is refused.

        None where the request's headers were not read to their end, as in a head that is too long or too slow: no part of
        them is trusted to be what the client meant.
        """
        if not self._headers_read:
            return ()
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(self.headers)}
        return self._shared.origins.cors(named)

    def _say(self, told: bytes) -> None:
        self.transport.write(told)
        self.end_soon()

    def _refuse_full(self, size: int) -> None:
        self._shared.refused["network_full"] += 1
        self.refuse(no_room(size))

    def _refuse_head(self) -> None:
        most = self._limits.head_bytes
        self.refuse(
            Failure(431, f"the request's head is longer than {most} bytes (max_header_bytes)", "head_too_large")
        )


def _exchange(cycle: RequestResponseCycle) -> Exchange:
    return cast("Exchange", cycle.scope[EXCHANGE])  # type: ignore[literal-required]  # a key of our own

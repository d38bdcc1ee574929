"""An HTTP/1.1 server with limits: one thread owns all connections.

Everything that a client can make it hold is bounded: connections, heads, and the time of each thing. Where room is
short, the connection that has waited longest for its request makes way, so that slow and idle ones lock nobody out.
"""

import asyncio
import email.utils
import http
import math
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from frostline_server.logs import Seldom
from frostline_server.metrics.http_pages import Page, Pages, Response, in_thread, text
from frostline_server.metrics.http_request import METHODS, BadRequest, parse
from frostline_server.reserve import OUT_OF_FILES, Reserve

_ACCEPTS = 16
"""New connections accepted in a turn."""
_RESERVED = 4
"""Connections that can be answered while the process may open no more files."""
_RESERVED_HEAD_S = 1.0
_REFILL_S = 0.01
"""After one of them, until its descriptor is free again."""
_PAUSE_S = 0.2
"""Until it is tried again to accept connections, where not even the reserve helps."""
_DISCARD_S = 1.0
"""How long the rest of a request that was refused is read, so that the client sees why."""
_LOG_S = 60.0
_QUIET = (OSError, EOFError, TimeoutError)  # the client has gone, or was too slow; TLS errors are OSErrors

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may make the server hold.

    Attributes:
        connections: at one time.
        head_bytes: of a request's head.
        head_s: seconds that a head may be on its way; those of TLS's handshake too.
        idle_s: seconds that a connection may be open without a request.
        write_s: seconds in which an answer must have been taken.
        wait_s: seconds that a request waits for its turn to have its page made.
    """

    connections: int = 128
    head_bytes: int = 16_384
    head_s: float = 10.0
    idle_s: float = 120.0
    write_s: float = 10.0
    wait_s: float = 5.0


@dataclass(eq=False, slots=True)
class _Visit:
    """A connection."""

    client: socket.socket
    address: Any
    reserved: bool
    requests: int = 0
    task: "asyncio.Task[None] | None" = None
    transport: asyncio.Transport | None = None


class HttpServer:
    """Serves pages on a socket, from a thread of its own.

    Args:
        listening: the socket.
        pages: by path.
        context: gives the TLS of a new connection; may block; None for no TLS.
        limits: what clients may make it hold.
    """

    def __init__(
        self,
        listening: socket.socket,
        pages: Mapping[str, Page],
        context: Callable[[], ssl.SSLContext] | None = None,
        limits: Limits = Limits(),
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._pages = Pages(pages, limits.wait_s)
        self._context = context
        self._limits = limits
        self._reserve = Reserve(_RESERVED)
        self._visits: set[_Visit] = set()
        # Those without a request, the one that has waited longest first.
        self._waiting: dict[_Visit, None] = {}
        self._looking: asyncio.Task[ssl.SSLContext] | None = None
        self._full, self._failed = Seldom(_LOG_S), Seldom(_LOG_S)
        self._accepting = False
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._visits)

    def start(self) -> None:
        """Start to answer."""
        self._loop = asyncio.SelectorEventLoop()
        self._reserve.fill()
        self._thread.start()

    def close(self) -> None:
        """Close the port and all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._reserve.close()
        self._listening.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._accept_again()
        self._loop.run_forever()
        self._pause()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        tasks = [visit.task for visit in self._visits if visit.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Transports close their sockets in the turn after the one in which they are told to.
        await asyncio.sleep(0)

    # Connections

    def _accept_again(self) -> None:
        self._reserve.fill()
        if not self._accepting and not self._loop.is_closed():
            self._accepting = True
            self._loop.add_reader(self._listening, self._accept)

    def _pause(self) -> None:
        self._accepting = False
        self._loop.remove_reader(self._listening)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                client, address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_FILES:
                    self._accept_from_reserve(error)
                    return
                continue  # it went away before it was accepted
            self._welcome(client, address, reserved=False)

    def _accept_from_reserve(self, error: OSError) -> None:
        """Accept one connection in spite of everything, or none for a moment: they would be reported again and again."""
        if times := self._full.times():
            _log.error("cannot accept connections", port="metrics", reason=error.strerror, times=times)
        accepted = self._reserve.accept(self._listening)
        if accepted is not None:
            self._welcome(*accepted, reserved=True)
            return
        # What it leaves fills the reserve.
        self._make_way()
        self._pause()
        self._loop.call_later(_PAUSE_S, self._accept_again)

    def _welcome(self, client: socket.socket, address: Any, *, reserved: bool) -> None:
        client.setblocking(False)
        if len(self._visits) >= self._limits.connections and not self._make_way():
            client.close()
            return
        visit = _Visit(client, address, reserved)
        self._visits.add(visit)
        self._waiting[visit] = None
        visit.task = self._loop.create_task(self._visit(visit))
        # Also of a task that is told to end before it has begun.
        visit.task.add_done_callback(lambda _: self._over(visit))

    def _over(self, visit: _Visit) -> None:
        if visit.transport is None:
            visit.client.close()
        self._waiting.pop(visit, None)
        self._visits.discard(visit)
        if visit.reserved:
            # At once, or somebody else has it; later too, as TLS may take a turn more.
            self._accept_again()
            self._loop.call_later(_REFILL_S, self._accept_again)

    def _make_way(self) -> bool:
        """End the connection that has waited longest for its request; returns whether there was one."""
        for visit in self._waiting:
            del self._waiting[visit]
            if visit.task is not None:
                visit.task.cancel()
            return True
        return False

    async def _visit(self, visit: _Visit) -> None:
        """Serve a connection until its end."""
        try:
            reader, writer = await self._connected(visit)
            try:
                while await self._exchange(visit, reader, writer):
                    self._waiting[visit] = None
                writer.close()
                async with asyncio.timeout(self._limits.write_s):
                    await writer.wait_closed()
            except _QUIET as error:
                _forget_where(error)
                if reader.exception() is not None:
                    # Why the connection is lost: another error, where the answer's first write has met it.
                    await writer.wait_closed()
        except _QUIET as error:
            _forget_where(error)
        except Exception:  # noqa: BLE001  a defect met by one client must not be one of asyncio's messages
            _log.exception("an HTTP connection failed unexpectedly")
        finally:
            if visit.transport is not None:
                # What was not taken in time is not sent any more.
                visit.transport.abort()

    async def _connected(self, visit: _Visit) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The connection as a stream, after TLS's handshake."""
        loop = self._loop
        reader = asyncio.StreamReader(self._limits.head_bytes, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            async with asyncio.timeout(self._head_s(visit)):
                secure: dict[str, Any] = {}
                if self._context is not None:
                    secure = {"ssl": await self._fresh(self._context), "ssl_shutdown_timeout": self._limits.write_s}
                transport, _ = await loop.connect_accepted_socket(lambda: protocol, visit.client, **secure)
        except _QUIET as error:
            if self._context is not None and (times := self._failed.times()):
                reason = str(error) or type(error).__name__
                _log.info("a TLS handshake failed", client=str(visit.address), reason=reason, times=times)
            raise
        visit.transport = transport
        # So that what is drained is with the kernel, and its time counts.
        transport.set_write_buffer_limits(0)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _fresh(self, context: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """The TLS of a new connection. One look at the files at a time, however many connections come meanwhile."""
        if self._looking is None or self._looking.done():
            self._looking = self._loop.create_task(in_thread(context))
        return await asyncio.shield(self._looking)

    def _head_s(self, visit: _Visit) -> float:
        return min(_RESERVED_HEAD_S if visit.reserved else math.inf, self._limits.head_s)

    # Requests

    async def _exchange(self, visit: _Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Take one request and answer it.

        Returns:
            Whether there may be another one.
        """
        limits, head_s = self._limits, self._head_s(visit)
        # The first must come with the connection.
        async with asyncio.timeout(limits.idle_s if visit.requests else head_s):
            first = await reader.readexactly(1)
        visit.requests += 1
        try:
            async with asyncio.timeout(head_s):
                head = first + await reader.readuntil(b"\r\n\r\n")
            self._waiting.pop(visit, None)
            request = parse(head)
        except asyncio.LimitOverrunError:
            await self._refuse(
                reader, writer, BadRequest(431, f"a request's head has at most {limits.head_bytes} bytes")
            )
            return False
        except BadRequest as error:
            await self._refuse(reader, writer, error)
            return False
        keeps = request.keeps and not visit.reserved

        async def send(response: Response) -> None:
            await self._send(writer, response, keeps=keeps, head_only=request.method == "HEAD")

        await self._pages.answer(request, send)
        return keeps

    # Answers

    async def _send(
        self, writer: asyncio.StreamWriter, response: Response, *, keeps: bool, head_only: bool = False
    ) -> None:
        fields = (
            *response.fields,
            ("Content-Length", str(len(response.body))),
            ("Date", email.utils.formatdate(usegmt=True)),
            *(() if keeps else (("Connection", "close"),)),
        )
        status = http.HTTPStatus(response.status)
        lines = (f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in fields), "", "")
        async with asyncio.timeout(self._limits.write_s):
            writer.write("\r\n".join(lines).encode("latin-1"))
            if not head_only:
                writer.write(response.body)
            await writer.drain()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, error: BadRequest) -> None:
        """Say what is wrong, and read what is still coming: otherwise the kernel would take the answer back."""
        allowed = (("Allow", ", ".join(METHODS)),) if error.status == http.HTTPStatus.METHOD_NOT_ALLOWED else ()
        await self._send(writer, text(error.status, str(error), *allowed), keeps=False)
        if writer.can_write_eof():
            writer.write_eof()
        async with asyncio.timeout(_DISCARD_S):
            while await reader.read(self._limits.head_bytes):
                pass


def _forget_where(error: BaseException | None) -> None:
    """Drop the tracebacks of an error: the stream keeps it, they know the stream, and so all would wait for the collector."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__

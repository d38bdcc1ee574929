"""One HTTP/2 connection: bytes in, calls out, and back.

It owns no socket. With `responses` it is all that knows ngh2, of which they use a dozen calls.
https://www.rfc-editor.org/rfc/rfc9113.html
"""

import random
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, NoReturn

import grpc
from ngh2 import (
    Configuration,
    DataReceived,
    DenialOfServiceError,
    Event,
    Header,
    NGH2Error,
    PingReceived,
    RequestReceived,
    Role,
    SettingsAcknowledged,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from ngh2 import Connection as Session

from frostline_server.errors import MetadataTooLarge, PredictionError, TooManyCalls
from frostline_server.rpc.h2.call import Call, Malformed, timeout_s
from frostline_server.rpc.h2.fairness import LONG_S
from frostline_server.rpc.h2.framing import ENCODINGS, PREFIX_BYTES, understood
from frostline_server.rpc.h2.inbound import Inbound
from frostline_server.rpc.h2.responses import Responses
from frostline_server.rpc.h2.shared import Peer, Route, Shared
from frostline_server.rpc.h2.visitor import Visitor

_FIRST_WINDOW_BYTES = 65535
"""A stream's window until the client has acknowledged the settings; RFC 9113, section 6.9.2."""
_WINDOW_BYTES = 1 << 20
_CONNECTION_WINDOW_BYTES = 8 << 20
_FRAME_BYTES = 1 << 20
"""The largest frame taken. One is held whole while it comes."""
_LARGEST_PART_BYTES = _FRAME_BYTES + (1 << 16)
"""The most bytes that can come without being part of something that an event reports."""

_OWED = 64
"""What part of the budget may have come beside it in all: a read of each of a few clients, who then wait for room."""

_TOO_MANY_HEADERS = 4
"""How many times the largest list of headers ends the connection. What is less is read, and refused for its call alone."""
_HEADER_BYTES = 32
"""What a header counts beside its name and value; RFC 9113, section 6.5.2."""

# RFC 9113, sections 6.5.2 and 7.
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _MAX_HEADER_LIST_SIZE = 3, 4, 5, 6
_NO_ERROR, _PROTOCOL_ERROR, _CANCEL, _ENHANCE_YOUR_CALM = 0, 1, 8, 11

_MOST_TOLD = 200
"""Bytes of a path that is told of a call whose headers are refused."""

_FREE_CONTROL_FRAMES = 1000
"""Frames that carry nothing, such as PING and empty DATA, that may come in a row; each message is good for ten more."""
_PER_MESSAGE = 10
_EARLY_S = 0.01
"""How much sooner than here a deadline may pass at a client, whose clock began earlier."""
_RESETS = 20
"""How many times the resets that a client may make are taken if calls have expired, which is no fault of its own."""
_FEW, _STEP = 64, 16
"""Events that are done without a look at the clock, and between two looks where there are more."""
_MANY = 100
"""Calls that may end at once before that takes too long for one turn."""
_MOST_HANDLED = 100
"""Calls of one connection at one time for which a task waits; questions that are answered at once are not counted."""


class ConnectionOver(Exception):
    """The connection is to be closed, after what is still to be sent."""


class ConnectionEnded(ConnectionOver):
    """All calls of a connection that was to end have ended, and their answers were taken to be sent."""


class Connection:
    """The HTTP/2 side of a connection. Give it what came, and send what it has to send.

    Args:
        shared: see there.
        peer: see there.
        now_s: the time, on the `time.monotonic` clock.
        touched: told whenever there is something to send.
    """

    def __init__(self, shared: Shared, peer: Peer, now_s: float, touched: Callable[[], None]) -> None:
        limits = shared.limits
        self._shared = shared
        self._peer = peer
        self._touched = touched
        self._visitor = None if shared.access is None else Visitor(shared.access, peer.names)
        self._calls: dict[int, Call] = {}
        self._begun_s = now_s
        self._ready = False
        # Bytes of what no event has reported yet, and since when.
        self._part = 0
        self._part_since_s = now_s
        self.owed = 0
        """Bytes that came and are not held, because there was no room: read no more until `settle`."""
        # What came and is not done yet.
        self._events: list[Event] = []
        self.unfinished = False
        """Whether there is any of that; then `go_on` comes before the next `receive`."""
        self._credit = _FREE_CONTROL_FRAMES
        self._window = _FIRST_WINDOW_BYTES
        self._withheld = 0
        self._handled = 0
        # Calls that may be given up now, and since when more are allowed again.
        self._resets = 2.0 * limits.resets_per_s
        self._resets_s = now_s
        # Spread, so that clients that came together do not come back together.
        self._leaving_s = now_s + limits.max_age_s * random.uniform(0.9, 1.1)  # noqa: S311  no secret
        self._leaving = self._left = self._aged = False
        # The newest call's stream, and what is to be said when the session cannot say it any more.
        self._newest = 0
        # The headers of the newest call. A client mostly sends the same with each, and then its calls share them.
        self._came: tuple[Header, ...] = ()
        self._headers: Mapping[bytes, bytes] = {}
        # Why they are refused; "" if they are not.
        self._too_large = ""
        self.ending = False
        """Whether the connection will be over when all has been sent."""
        self._last_words: bytes | None = None
        self._session = Session(
            Role.SERVER,
            Configuration(
                auto_window_update=False,
                max_inbound_header_list_size=_TOO_MANY_HEADERS * limits.max_header_bytes,
                max_inbound_header_count=_TOO_MANY_HEADERS * limits.max_header_bytes // _HEADER_BYTES,
                stream_reset_rate_limit=(2 * _RESETS * limits.resets_per_s, _RESETS * limits.resets_per_s),
                glitch_rate_limit=(1000, 100),
                max_continuations=8,
            ),
        )
        self._session.initiate_connection(
            {
                _MAX_CONCURRENT_STREAMS: limits.max_calls,
                _INITIAL_WINDOW_SIZE: _WINDOW_BYTES,
                _MAX_FRAME_SIZE: _FRAME_BYTES,
                _MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
            }
        )
        self._session.set_local_window_size(_CONNECTION_WINDOW_BYTES)
        self._responses = Responses(self._session, shared, touched)
        self.answer = self._responses.answer
        self.send = self._responses.send
        self.end = self._responses.end
        self.fail = self._responses.fail
        self.finish = self._responses.finish

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._peer

    @property
    def open_calls(self) -> int:
        """How many calls there are."""
        return len(self._calls)

    # What comes

    def receive(self, data: bytes | memoryview, now_s: float) -> None:
        """Take bytes that came; receivers are told what they complete, as far as that takes little time.

        Raises:
            ConnectionOver: see there.
        """
        session = self._session
        try:
            session.receive_data(data)
            events = session.events()
            if not events:
                self._hold_part(len(data), now_s)
                return
            if self._part:
                self._part_came()
            if len(events) <= _FEW:
                self._take_events(events, now_s)
                return
        except NGH2Error as error:
            self._over(error)
        self._events = events
        self.go_on(now_s)

    def _take_events(self, events: list[Event], now_s: float) -> None:
        handlers = self._handlers
        for event in events:
            handle = handlers.get(type(event))
            if handle is not None:
                handle(self, event, now_s)

    def go_on(self, now_s: float) -> None:
        """Go on with what came, for a while.

        Raises:
            ConnectionOver: see there.
        """
        events, left, begun_s = self._events, list[Event](), time.monotonic()
        try:
            for at in range(0, len(events), _STEP):
                if at and time.monotonic() - begun_s > LONG_S:
                    left = events[at:]
                    return
                self._take_events(events[at : at + _STEP], now_s)
        except NGH2Error as error:
            self._over(error)
        finally:
            self._events, self.unfinished = left, bool(left)

    def _over(self, error: NGH2Error) -> NoReturn:
        """End a connection whose client breaks HTTP/2's rules."""
        self._shared.count("protocol")
        code = _ENHANCE_YOUR_CALM if isinstance(error, DenialOfServiceError) else _PROTOCOL_ERROR
        self._last_words = _goaway(self._newest, code)
        raise ConnectionOver(str(error)) from None

    def _hold_part(self, size: int, now_s: float) -> None:
        """Hold what came and no event has reported: part of a frame, or frames that carry nothing."""
        if self._part + size > _LARGEST_PART_BYTES + self._responses.ignored:
            self._flooded()
        if not self._part:
            self._part_since_s = now_s
        self._part += size
        shared = self._shared
        if not shared.budget.take(size):
            shared.owed += size
            self.owed += size
            if shared.owed > shared.budget.limit // _OWED:
                self._flooded()

    def settle(self) -> bool:
        """Hold what came while there was no room for it; returns whether there is now, so that more of it may be read."""
        if self.owed and self._shared.budget.take(self.owed):
            self._shared.owed -= self.owed
            self.owed = 0
        return not self.owed

    def _part_came(self) -> None:
        """Hold no longer what has become something that was reported, or was nothing."""
        self._responses.ignored = max(0, self._responses.ignored - self._part)
        self._shared.budget.give(self._part - self.owed)
        self._shared.owed -= self.owed
        self._part = self.owed = 0

    def _control_frame(self, *_: Any) -> None:
        self._credit -= 1
        if self._credit < 0:
            self._flooded()

    def _flooded(self) -> None:
        self._calm_down("flood", "too much came that carries nothing")

    def _calm_down(self, reason: str, why: str) -> None:
        self._shared.count(reason)
        self._session.terminate_connection(_ENHANCE_YOUR_CALM)
        raise ConnectionOver(why)

    def _on_settings(self, *_: Any) -> None:
        self._ready = True
        self._control_frame()

    def _on_acknowledged(self, *_: Any) -> None:
        for call in self._calls.values():
            call.window += _WINDOW_BYTES - self._window
        self._window = _WINDOW_BYTES

    def _on_request(self, event: RequestReceived, now_s: float) -> None:
        """Begin a call, or refuse it by its headers."""
        headers = self._headers if event.headers == self._came else self._read_headers(event.headers)
        shared, stream = self._shared, event.stream_id
        call = self._calls[stream] = Call(self, shared, stream, _NOBODY, headers, now_s, self._window)
        call.half_closed = event.end_stream
        self._newest = stream
        route = shared.routes.get(headers.get(b":path", b""))  # CONNECT has none
        encoding = headers.get(b"grpc-encoding", b"")
        if self._too_large:
            self._broken(call, MetadataTooLarge(self._too_large))
        elif headers[b":method"] != b"POST":
            self._refuse(call, b"405", (b"allow", b"POST"))
        elif not _is_grpc(headers.get(b"content-type", b"")):
            self._refuse(call, b"415", (b"accept", b"application/grpc"))
        elif route is None:
            shared.count("method")
            self.finish(call, grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        elif encoding and encoding != b"identity" and not understood(encoding):
            shared.count("encoding")
            known = ENCODINGS.decode()
            text = f"messages with grpc-encoding {encoding[:40]!r} cannot be read; these can: {known}"
            self.finish(call, grpc.StatusCode.UNIMPLEMENTED, text, (("grpc-accept-encoding", known),))
        else:
            try:
                timeout = headers.get(b"grpc-timeout")
                if timeout is not None:
                    call.deadline_s = now_s + timeout_s(timeout)
                if self._visitor is not None and route.guarded:
                    self._admit(call, route, now_s)
                if route.lasting:
                    self._handle(call)
                call.receiver = route.receiver(call)
            except (PredictionError, Malformed) as error:
                self._broken(call, error)
                return
            if encoding or not route.unary:
                call.inbound = Inbound(call, encoding, unary=route.unary)
            if event.end_stream:
                self._feed(call, b"", end=True, now_s=now_s)

    def _read_headers(self, came: tuple[Header, ...]) -> Mapping[bytes, bytes]:
        headers = dict(came)
        if len(headers) < len(came):
            # Several of one name are one, as in HTTP; two tokens are none that anybody has.
            values: dict[bytes, list[bytes]] = {}
            for name, value in came:
                values.setdefault(name, []).append(value)
            headers = {name: b",".join(several) for name, several in values.items()}
        size, most = sum([len(name) + len(value) for name, value in came]), self._shared.limits.max_header_bytes
        size += _HEADER_BYTES * len(came)
        self._too_large = ""
        if size > most:
            self._too_large = (
                f"the call has {size} bytes of metadata, {_HEADER_BYTES} for each entry included; it may have {most} "
                "(max_header_bytes)"
            )
            # What it had is not kept.
            came, headers = (), {b":path": headers.get(b":path", b"")[:_MOST_TOLD]}
        self._came, self._headers = came, headers
        return headers

    def _admit(self, call: Call, route: Route, now_s: float) -> None:
        """Ask who calls, and whether it may, and count it; a stream counts its requests itself.

        Raises:
            PredictionError: it may not.
        """
        assert self._visitor is not None, "somebody asks"  # noqa: S101  an invariant, not a check
        identity = self._visitor.permit(call.headers.get(b"authorization"), route.guarded)
        call.identity = identity
        if route.unary:
            identity.admit(now_s)

    def _handle(self, call: Call) -> None:
        """Count a call for which a task waits on the event loop, such as a watch.

        Raises:
            TooManyCalls: there are as many as there may be.
        """
        if self._handled >= _MOST_HANDLED:
            raise TooManyCalls(
                f"this connection has {_MOST_HANDLED} calls open that last, such as watches; end some of them"
            )
        self._handled += 1
        call.handled = True

    def _refuse(self, call: Call, code: bytes, header: tuple[bytes, bytes]) -> None:
        self._shared.count("protocol")
        self._responses.refuse(call, code, header)

    def _on_data(self, event: DataReceived, now_s: float) -> None:
        data, stream = event.data, event.stream_id
        size = len(data)
        call = self._calls.get(stream)
        if call is None or call.over:
            if not size:
                self._control_frame()
            elif call is None:
                self._session.acknowledge_received_data(size, stream)
            else:
                call.window -= size
                self._acknowledge(call, size)
        # The usual case: the only message of a call, in one frame. `inbound` takes all others.
        elif (
            event.end_stream
            and call.inbound is None
            and size >= PREFIX_BYTES
            and data[0] == 0
            and int.from_bytes(data[1:PREFIX_BYTES], "big")
            == size - PREFIX_BYTES
            <= self._shared.limits.max_message_bytes
            and self._shared.budget.take(size)
        ):
            self._credit = _FREE_CONTROL_FRAMES
            call.held = size
            call.half_closed = True
            self._session.acknowledge_received_data(size, stream)
            call.receiver.message(call, data[PREFIX_BYTES:])
        # A large message comes in frames of 16 KiB from most clients.
        elif call.inbound is not None and not call.paused and not event.end_stream and call.inbound.append(data):
            call.window -= size
            self._acknowledge(call, size)
        else:
            self._feed(call, data, end=event.end_stream, now_s=now_s)

    def _on_trailers(self, event: TrailersReceived, now_s: float) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None and not call.over:
            self._feed(call, b"", end=True, now_s=now_s)

    def _feed(self, call: Call, data: bytes, *, end: bool, now_s: float) -> None:
        """Take part of a call's messages."""
        size = len(data)
        call.window -= size
        call.half_closed = end
        if size:
            self._credit = min(self._credit + _PER_MESSAGE, _FREE_CONTROL_FRAMES)
        elif not end:
            self._control_frame()
        inbound = call.inbound
        if inbound is None:
            inbound = call.inbound = Inbound(call, b"", unary=True)
        try:
            inbound.feed(data, end=end, now_s=now_s)
        except (PredictionError, Malformed) as error:
            self._broken(call, error)
        if not size:
            return
        if call.paused and not call.over:
            call.withheld += size
            self._withhold(size)
        else:
            self._acknowledge(call, size)

    def _acknowledge(self, call: Call, size: int) -> None:
        """Give a client credit for what came of a call that may not be whole yet."""
        before = self._stream_window(call)
        self._session.acknowledge_received_data(size, call.stream)
        call.window += self._stream_window(call) - before

    def _stream_window(self, call: Call) -> int:
        try:
            return self._session.stream_local_window_size(call.stream)
        except NGH2Error:  # it has just been closed
            return 0

    def resume(self, call: Call) -> None:
        """Let a client that was held back go on."""
        if call.paused:
            call.paused, call.since_s = False, time.monotonic()
        if call.withheld:
            # A connection that is ending gives no more credit.
            with suppress(NGH2Error):
                self._acknowledge(call, call.withheld)
                self._withhold(-call.withheld)
            call.withheld = 0
            self._touched()

    def _withhold(self, size: int) -> None:
        """Withhold so much more credit from calls; all share the connection's window, so it grows by what they lack."""
        self._withheld += size
        self._session.set_local_window_size(_CONNECTION_WINDOW_BYTES + self._withheld)

    def guarded(self, call: Call, step: Callable[[], None]) -> None:
        """Do a step of a call; what it raises ends the call."""
        try:
            step()
        except (PredictionError, Malformed) as error:
            self._broken(call, error)

    def _broken(self, call: Call, error: PredictionError | Malformed) -> None:
        """End a call that is refused before all of it has come."""
        self._cancel(call)
        if isinstance(error, PredictionError):
            self._shared.counted(error, call)
            self._shared.count(error.kind)
            self.fail(call, error)
        else:
            self._shared.count("protocol")
            self.finish(call, grpc.StatusCode.INTERNAL, str(error))

    def _cancel(self, call: Call) -> None:
        if not call.over:
            call.receiver.cancelled(call)

    def _on_reset(self, event: StreamReset, now_s: float) -> None:
        """Count a call that its client gives up, unless there is nothing left to wait for.

        So it is when its time is over, and when it has ended before the client had sent all of it.
        """
        call = self._calls.get(event.stream_id)
        if call is not None:
            late = call.deadline_s is not None and call.deadline_s - now_s <= _EARLY_S
            if late or (call.over and not call.half_closed):
                return
        rate = self._shared.limits.resets_per_s
        self._resets = min(2.0 * rate, self._resets + (now_s - self._resets_s) * rate) - 1
        self._resets_s = now_s
        if self._resets < 0:
            self._calm_down("protocol", "too many calls were given up")

    def _on_closed(self, event: StreamClosed, _: float) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is not None:
            if call.handled:
                self._handled -= 1
            self._responses.closed(call)
            self.resume(call)
            self._forget(call)

    def _forget(self, call: Call) -> None:
        self._shared.budget.give(call.held)
        call.held = 0
        over, call.over = call.over, True
        if not over:
            call.receiver.cancelled(call)
        # Each of them knows the call, and whatever waits for the garbage collector keeps a message in memory.
        call.inbound = call.token = None
        call.receiver = _NOBODY

    # What is to be sent

    def to_send(self, most: int) -> bytes:
        """What is to be sent next, up to about `most` bytes; call it until it returns less, or nothing if `ending`.

        Raises:
            ConnectionOver: see there.
        """
        session, responses = self._session, self._responses
        if self._last_words is not None:
            words, self._last_words = self._last_words, b""
            return words
        try:
            data = session.data_to_send(most)
            if responses.unwanted and len(data) < most:
                responses.discard_unwanted()
                data += session.data_to_send(most)
            closed = [event for event in session.events() if type(event) is StreamClosed]
            # What is not done yet may be how one of them began.
            if self._events or len(closed) > _MANY:
                self._events.extend(closed)
                self.unfinished = True
            else:
                for event in closed:
                    self._on_closed(event, 0.0)
            self.ending = self._left or not session.want_read
            # Whoever reads much tells so often.
            self._credit = min(_FREE_CONTROL_FRAMES, self._credit + (len(data) >> 12))
        except NGH2Error as error:
            raise ConnectionOver(str(error)) from None
        if responses.sending:
            responses.release_sent()
        if self.ending and not data:
            if self._left and not self._calls:
                raise ConnectionEnded("all calls have ended")
            if not session.want_read:
                self._shared.count("protocol")
                raise ConnectionOver("the client broke HTTP/2's rules, and has been told")
        return data

    @property
    def unsent(self) -> dict[int, int]:
        """Bytes of answers that have not been taken to be sent, or are being compressed, by stream."""
        queued = {stream: self._session.queued_body_size(stream) for stream in self._calls}
        return {stream: size for stream, size in queued.items() if size} | self._responses.packing

    # What time brings

    def look(self, now_s: float) -> None:
        """End what has taken too long, and the connection when it is old. Call it about once a second.

        Raises:
            ConnectionOver: see there.
        """
        limits = self._shared.limits
        if not self._ready and now_s - self._begun_s > limits.handshake_timeout_s:
            self._shared.count("handshake_timeout")
            raise ConnectionOver("it did not begin in time")
        if self._part and now_s - self._part_since_s > limits.message_timeout_s:
            self._shared.count("message_timeout")
            raise ConnectionOver("a frame did not arrive in time")
        if self._part and self._responses.ignored:
            # It may have been nothing but what came of streams that were reset. The answer shows that all of it has come.
            with suppress(NGH2Error):
                self._session.ping()
            self._touched()
        self._credit = min(_FREE_CONTROL_FRAMES, self._credit + 1)
        for call in list(self._calls.values()):
            if call.over or call.queued:
                self._look_at_answer(call, now_s)
            else:
                self._look_at_request(call, now_s)
        if not self._leaving and now_s > self._leaving_s:
            self._aged = True
            self.leave(now_s)
        elif self._aged and now_s - self._leaving_s > limits.age_grace_s:
            raise ConnectionOver("it is too old")
        elif self._leaving and not self._left:
            # A look after the notice, so that calls that the client began before it read that are still answered.
            self._left = True
            with suppress(NGH2Error):
                self._session.send_goaway(_NO_ERROR)
            self._touched()

    def _look_at_answer(self, call: Call, now_s: float) -> None:
        left = self._session.queued_body_size(call.stream)
        if left != call.queued:
            call.queued, call.since_s = left, now_s
        elif left and now_s - call.since_s > self._shared.limits.answer_timeout_s:
            late = now_s - call.since_s > 2 * self._shared.limits.answer_timeout_s
            if self._responses.reset(call, _CANCEL, at_once=late):
                self._shared.count("answer_timeout")
                self._touched()

    def _look_at_request(self, call: Call, now_s: float) -> None:
        timeout_s = self._shared.limits.message_timeout_s
        # Of a call that is held back, the rest is not read, so that it cannot come.
        coming = not (call.half_closed or call.paused) and (call.inbound is None or call.inbound.awaited)
        if call.deadline_s is not None and now_s > call.deadline_s:
            self._cancel(call)
            self.finish(call, grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        elif coming and now_s - call.since_s > timeout_s:
            self._shared.count("message_timeout")
            self._cancel(call)
            text = f"the message did not arrive within {timeout_s:g} s (message_timeout_s)"
            self.finish(call, grpc.StatusCode.DEADLINE_EXCEEDED, text)

    def leave(self, now_s: float) -> None:
        """Tell the client to make its next calls on another connection; those that are open go on."""
        if not self._leaving:
            self._leaving, self._leaving_s = True, now_s
            # One that is ending for another reason has nothing more to say.
            with suppress(NGH2Error):
                self._session.send_shutdown_notice()
            self._touched()

    def close(self) -> None:
        """Give up every call and all that is held; the connection is gone."""
        self._part_came()
        self._events, self.unfinished = [], False
        calls, self._calls = self._calls, {}
        for call in calls.values():
            self._forget(call)
        self._responses.close()

    _handlers: ClassVar[Mapping[type, Callable[["Connection", Any, float], None]]] = {
        RequestReceived: _on_request,
        DataReceived: _on_data,
        TrailersReceived: _on_trailers,
        StreamClosed: _on_closed,
        StreamReset: _on_reset,
        SettingsAcknowledged: _on_acknowledged,
        SettingsReceived: _on_settings,
        PingReceived: _control_frame,
        WindowUpdated: _control_frame,
    }


class _Nobody:
    """The receiver of a call that is refused by its headers."""

    def message(self, _: Call, message: bytes) -> None:
        """Take nothing."""

    def finished(self, _: Call) -> None:
        """Take nothing."""

    def cancelled(self, _: Call) -> None:
        """Take nothing."""

    def sent(self, _: Call) -> None:
        """Take nothing."""


_NOBODY = _Nobody()


def _goaway(newest: int, code: int) -> bytes:
    """A GOAWAY frame (RFC 9113, section 6.8)."""
    return struct.pack(">BHBBIII", 0, 8, 7, 0, 0, newest, code)


def _is_grpc(content_type: bytes) -> bool:
    kind = content_type.partition(b";")[0].strip()
    return kind == b"application/grpc" or kind.startswith(b"application/grpc+")

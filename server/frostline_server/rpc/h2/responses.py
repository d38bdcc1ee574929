"""The answers of one connection's calls: headers, messages and trailers, with the memory that is held until they have left.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from urllib.parse import quote

import grpc
from ngh2 import Connection as Session
from ngh2 import NGH2Error

from frostline_server.codec.chunks import Serialised, chunks_of
from frostline_server.errors import NetworkFull, PredictionError
from frostline_server.rpc.grpc_status import ending
from frostline_server.rpc.h2.call import Call
from frostline_server.rpc.h2.framing import PREFIX_BYTES, deflated, pieces
from frostline_server.rpc.h2.shared import Shared

_JOINED_BYTES = 1 << 16
"""Answers that leave together are joined if they are no more than this; a copy costs less than a call each."""
_BRIEF_BYTES = 1 << 16
"""What is longer is compressed fast rather than well, and by another thread, or not at all."""
_NO_ERROR = 0
_HEADERS = ((b":status", b"200"), (b"content-type", b"application/grpc"))
_MOST_CHARACTERS = 1000
"""Of a status' text; each may be a dozen bytes of a header, of which clients take 8 KiB."""
_PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class Responses:
    """Writes answers into a session. Nothing is written for a call that is over.

    Args:
        session: the connection's HTTP/2.
        shared: see there.
        touched: told whenever there is something to send.
    """

    def __init__(self, session: Session, shared: Shared, touched: Callable[[], None]) -> None:
        self._session = session
        self._shared = shared
        self._touched = touched
        self.ignored = 0
        """About how many bytes may come of streams that were reset; no event reports them."""
        self.packing: dict[int, int] = {}
        """Bytes of answers that another thread compresses, by stream."""
        # Calls with answers of which part has not left.
        self._sending: dict[Call, None] = {}
        # Calls that are over, whose clients still send.
        self._unwanted: list[Call] = []

    def answer(self, call: Call, message: Serialised) -> None:
        """Send a call's only answer, and end it with OK."""
        if call.over:
            return
        shared = self._shared
        if packed := self._packed(call):
            self._answer_packed(call, message, packed)
            return
        try:
            call.hold(PREFIX_BYTES + len(message))
        except NetworkFull as error:
            self._no_room(call, error)
            return
        session, stream, ready = self._session, call.stream, pieces(message)
        try:
            session.send_response(stream, _HEADERS)
            for piece in ready:
                session.send_data(stream, piece)
            session.send_trailers(stream, shared.ok)
        except NGH2Error:  # the stream has just been closed, as an event will say
            pass
        self._over(call)

    def send(self, call: Call, messages: Iterable[Serialised]) -> None:
        """Send further answers of a call; long ones as they are, since all would wait while they are compressed."""
        if call.over:
            return
        packed = self._packed(call)
        made = partial(_deflated_pieces, packed) if packed else pieces
        ready = [piece for message in messages for piece in made(message)]
        self._send(call, ready, packed)

    def _packed(self, call: Call) -> bytes:
        """How a call's answers are compressed: as the server is to and the client can read; b"" for not at all."""
        packing = self._shared.compression
        accepted = packing and packing in re.split(rb"[\s,]+", call.headers.get(b"grpc-accept-encoding", b""))
        return packing if accepted else b""

    def _answer_packed(self, call: Call, message: Serialised, packed: bytes) -> None:
        """Send a call's only answer compressed; a long one once another thread has done it."""

        def answer(whole: bytes) -> None:
            self._send(call, pieces(whole, compressed=True), packed)
            self.end(call)

        size = len(message)
        if size <= _BRIEF_BYTES:
            answer(_deflated(message, packed))
            return
        try:
            call.hold(size)
        except NetworkFull as error:
            self._no_room(call, error)
            return

        # What it was made of is not needed any more.
        call.token = None
        self.packing[call.stream] = size

        def go_on(whole: bytes | None) -> None:
            self.packing.pop(call.stream, None)
            # What was held for a call that is over was given back with it.
            if call.over:
                return
            call.release(size)
            if whole is None:
                self._no_room(call, NetworkFull("the server has no memory to compress the answer; send it again later"))
            else:
                answer(whole)

        self._shared.elsewhere(lambda: None if call.over else _deflated_or_none(message, packed), go_on)

    def _send(self, call: Call, ready: Sequence[bytes | memoryview], packed: bytes) -> None:
        """Send messages with their prefixes, in pieces."""
        if call.over:
            return
        size = sum(map(len, ready))
        try:
            call.hold(size)
        except NetworkFull as error:
            call.receiver.cancelled(call)
            self._no_room(call, error)
            return
        call.queued += size
        self._sending[call] = None

        def write(session: Session) -> None:
            self._begin(call, packed)
            for piece in ready if size > _JOINED_BYTES else [b"".join(ready)]:
                session.send_data(call.stream, piece)

        self._write(call, write)

    def _no_room(self, call: Call, error: NetworkFull) -> None:
        self._shared.count(error.kind)
        self.fail(call, error)

    def end(self, call: Call) -> None:
        """End a call with OK."""
        if call.over:
            return

        def write(session: Session) -> None:
            self._begin(call, b"")
            session.send_trailers(call.stream, self._shared.ok)

        self._write(call, write)
        self._over(call)

    def fail(self, call: Call, error: PredictionError, request_id: str = "") -> None:
        """End a call with an error's status."""
        self.finish(call, *ending(error, request_id))

    def finish(self, call: Call, code: grpc.StatusCode, text: str, more: tuple[tuple[str, str], ...] = ()) -> None:
        """End a call with a status."""
        if call.over:
            return
        last = [
            (b"grpc-status", b"%d" % code.value[0]),
            (b"grpc-message", quote(text[:_MOST_CHARACTERS], safe=_PRINTABLE, errors="replace").encode()),
            *((name.encode(), value.encode()) for name, value in more),
        ]
        if call.answering:
            self._write(call, lambda session: session.send_trailers(call.stream, last))
        else:
            self._write(call, lambda session: session.send_response(call.stream, [*_HEADERS, *last], end_stream=True))
        self._over(call)

    def refuse(self, call: Call, code: bytes, header: tuple[bytes, bytes]) -> None:
        """End what is no gRPC call with an HTTP status."""
        headers = ((b":status", code), header)
        self._write(call, lambda session: session.send_response(call.stream, headers, end_stream=True))
        self._over(call)

    def closed(self, call: Call) -> None:
        """Forget a call whose stream is closed."""
        self._sending.pop(call, None)

    def close(self) -> None:
        """Forget all calls; the connection is gone."""
        # They know the connection: it would wait for the garbage collector, with all that was not sent.
        self._sending.clear()
        self._unwanted.clear()

    def discard_unwanted(self) -> None:
        """Tell clients to stop sending for calls that are over, those that can be told now.

        Call it when all statuses have been written: nghttp2 sends resets first.
        """
        self._unwanted = [call for call in self._unwanted if not self.reset(call, _NO_ERROR)]

    def reset(self, call: Call, code: int, *, at_once: bool = False) -> bool:
        """Close a call's stream, if no frame of it is half there; False if that is to be tried again later.

        ngh2 would forget the part that has come, and nobody could give the client credit for it: the connection's
        window would be smaller from then on. Padding looks like such a part; no gRPC client sends any.
        """
        try:
            whole = at_once or call.half_closed
            if not whole and self._session.stream_local_window_size(call.stream) < call.window:
                return False
            self._session.reset_stream(call.stream, code)
        except NGH2Error:  # the stream is closed, or the connection ends, and why is still to be said
            return True
        if not call.half_closed:
            self.ignored += call.window
        return True

    def release_sent(self) -> None:
        """Hold no longer what has left, and tell the receivers of those calls."""
        for call in list(self._sending):
            left = self._session.queued_body_size(call.stream)
            if left < call.queued:
                call.release(call.queued - left)
                call.queued = left
                if not left:
                    del self._sending[call]
                    if call.over and not call.half_closed:
                        self._unwanted.append(call)
                if not call.over:
                    call.receiver.sent(call)

    @property
    def sending(self) -> bool:
        """Whether part of an answer has not left."""
        return bool(self._sending)

    @property
    def unwanted(self) -> bool:
        """Whether clients still send for calls that are over."""
        return bool(self._unwanted)

    def _begin(self, call: Call, packed: bytes) -> None:
        """Begin a response, if it has not begun."""
        if not call.answering:
            call.answering = True
            headers = (*_HEADERS, (b"grpc-encoding", packed)) if packed else _HEADERS
            self._session.send_response(call.stream, headers)

    def _write(self, call: Call, write: Callable[[Session], None]) -> None:
        try:
            write(self._session)
        except NGH2Error:  # the stream has just been closed; the event that will say so finds the call over
            if not call.over:
                call.over = True
                call.receiver.cancelled(call)
        self._touched()

    def _over(self, call: Call) -> None:
        call.over = True
        # An answer may wait long for its client, and what it was made of must not wait with it.
        call.token = None
        # A reset would drop what is queued, the status too.
        if not call.half_closed and not call.queued:
            self._unwanted.append(call)
        self._touched()


def _deflated_pieces(packed: bytes, message: Serialised) -> tuple[bytes, ...]:
    if len(message) > _BRIEF_BYTES:
        return pieces(message)
    return pieces(_deflated(message, packed), compressed=True)


def _deflated_or_none(message: Serialised, packed: bytes) -> bytes | None:
    try:
        return _deflated(message, packed)
    except MemoryError:  # or the call would wait for ever
        return None


def _deflated(message: Serialised, packed: bytes) -> bytes:
    return deflated(chunks_of(message), packed, 1 if len(message) > _BRIEF_BYTES else -1)

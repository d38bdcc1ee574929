"""A raw HTTP/2 connection (RFC 9113): frames as bytes, sent whether or not the protocol allows them.

It keeps the windows of flow control for those attacks that respect them, and tallies what the server says: how
connections, streams and calls ended. It never blocks.
"""

import select
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterable

import hpack

from frostline.tune.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

# With the parts of frames, so that an attack says all of it with `wire`.
__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "FIRST_WINDOW",
    "FRAME",
    "GOAWAY",
    "HEADERS",
    "LARGEST_WINDOW",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Units",
    "Wire",
    "block",
    "data",
    "field",
    "frame",
    "headers",
    "reset",
    "settings",
    "window_update",
]

FIRST_WINDOW = 65535
FRAME = 16384
"""The largest payload that every server accepts."""
LARGEST_WINDOW = 2**31 - 1

_CODES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
)
_STATUSES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
_CHUNK = 1 << 18


def settings(**values: int) -> bytes:
    """A SETTINGS frame; `window` is SETTINGS_INITIAL_WINDOW_SIZE, `table` SETTINGS_HEADER_TABLE_SIZE."""
    numbers = {"table": 1, "window": 4}
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", numbers[name], value) for name, value in values.items()))


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def reset(stream: int, code: int = 8) -> bytes:
    """A RST_STREAM frame, with the code CANCEL unless another is given."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def block(method: str, extra: Iterable[tuple[str, str]] = ()) -> bytes:
    """The header block of a gRPC call; nothing in it is indexed, so that it is right in every place of a connection."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        *extra,
    ]
    return hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*pair) for pair in headers])


def field(name: bytes, value: bytes, *, indexed: bool = False) -> bytes:
    """A header field in literal form; `indexed` adds it to the dynamic table, where 0xBE then stands for it."""
    return (b"\x40" if indexed else b"\x00") + _literal(name) + _literal(value)


def _literal(text: bytes) -> bytes:
    """A string as RFC 7541 writes it, without Huffman's code: its length as an integer of 7 bits and more, its bytes."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    size -= 127
    prefix = bytearray([127])
    while size > 127:
        prefix.append(size & 127 | 128)
        size >>= 7
    return bytes([*prefix, size]) + text


def headers(stream: int, encoded: bytes, *, end: bool = False) -> bytes:
    """A header block as one HEADERS frame and as many CONTINUATION frames as it takes."""
    parts = [encoded[at : at + FRAME] for at in range(0, len(encoded), FRAME)]
    frames = []
    for number, part in enumerate(parts):
        flags = END_HEADERS if number == len(parts) - 1 else 0
        if number == 0:
            frames.append(frame(HEADERS, flags | (END_STREAM if end else 0), stream, part))
        else:
            frames.append(frame(CONTINUATION, flags, stream, part))
    return b"".join(frames)


def data(stream: int, body: bytes, *, end: bool = True) -> bytes:
    """A body as DATA frames, whatever the windows are."""
    parts = [body[at : at + FRAME] for at in range(0, len(body), FRAME)] or [b""]
    last = len(parts) - 1
    return b"".join(
        frame(DATA, END_STREAM if end and number == last else 0, stream, part) for number, part in enumerate(parts)
    )


class Wire:
    """One connection.

    Args:
        address: of the server.
        source: the address to connect from; empty for any.
        tally: counts how connections, streams and calls end.

    Attributes:
        closed: whether it is of no more use: closed by the server, or refused.
        next_stream: the number of the stream to open next.
        window: bytes that the server lets the connection send.
        windows: the same for each stream that `watch` was called for; a stream that the server ended is gone.
        unsent: bytes that the server has not taken yet.
    """

    def __init__(self, address: tuple[str, int], source: str, tally: Counter[str]) -> None:
        self.closed = False
        self.next_stream = 1
        self.window = FIRST_WINDOW
        self.windows: dict[int, int] = {}
        self.unsent = bytearray()
        self._address = address
        self._source = source
        self._tally = tally
        self._first_window = FIRST_WINDOW
        self._received = bytearray()
        self._skip = 0
        self._decoder = hpack.Decoder()
        self._socket = socket.socket()

    def open(self, greeting: bytes = PREFACE + frame(SETTINGS, 0, 0), timeout_s: float = 2.0) -> bool:
        """Connect and queue a greeting; tells whether it connected."""
        try:
            if self._source:
                self._socket.bind((self._source, 0))
            self._socket.settimeout(timeout_s)
            self._socket.connect(self._address)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
        except OSError as error:
            self._end(f"not connected: {type(error).__name__}")
            return False
        self.unsent += greeting
        return True

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        self._socket.close()

    def take_stream(self) -> int:
        """The number of a new stream."""
        self.next_stream += 2
        return self.next_stream - 2

    def watch(self, stream: int) -> None:
        """Keep this stream's window."""
        self.windows[stream] = self._first_window

    def room(self, stream: int) -> int:
        """Bytes of DATA that the server lets a stream send now; 0 if it has ended."""
        return min(self.window, self.windows.get(stream, 0))

    def spend(self, stream: int, size: int) -> None:
        """Take bytes of DATA from the windows."""
        self.window -= size
        self.windows[stream] -= size

    def turn(self, wait_s: float, *, reading: bool = True) -> bool:
        """Read what has come and send what is queued, as far as the server takes it; tells whether the connection lives.

        Args:
            wait_s: how long to wait until one of the two is possible.
            reading: whether to read at all.
        """
        if self.closed:
            return False
        if wait_s:
            poll = select.poll()
            poll.register(self, (select.POLLIN if reading else 0) | (select.POLLOUT if self.unsent else 0))
            poll.poll(wait_s * 1000)
        try:
            if self.unsent:
                del self.unsent[: self._socket.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError as error:
            if not reading:
                self._end(f"closed: {type(error).__name__}")
        return self._read() if reading and not self.closed else not self.closed

    def _read(self) -> bool:
        while True:
            try:
                chunk = self._socket.recv(_CHUNK)
            except BlockingIOError:
                return True
            except OSError as error:
                self._end(f"closed: {type(error).__name__}")
                return False
            if not chunk:
                self._end("closed")
                return False
            self._parse(chunk)
            if len(chunk) < _CHUNK:
                return True

    def _end(self, how: str) -> None:
        self._tally[how] += 1
        self.close()

    def _parse(self, chunk: bytes) -> None:
        received = self._received
        received += chunk
        at = 0
        while len(received) - at >= 9:
            high, low, kind, flags, stream = HEAD.unpack_from(received, at)
            end = at + 9 + (high << 8 | low)
            if end > len(received):
                break
            if kind != DATA:
                self._take(kind, flags, stream, bytes(received[at + 9 : end]))
            elif flags & END_STREAM:
                self.windows.pop(stream, None)
            at = end
        del received[:at]

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            (more,) = struct.unpack(">I", payload)
            if stream == 0:
                self.window += more
            elif stream in self.windows:
                self.windows[stream] += more
        elif kind == SETTINGS and not flags & ACK:
            first = dict(struct.iter_unpack(">HI", payload)).get(4, self._first_window)
            for each in self.windows:
                self.windows[each] += first - self._first_window
            self._first_window = first
            self.unsent += frame(SETTINGS, ACK, 0)
        elif kind == HEADERS:
            fields = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if flags & END_STREAM:
                self.windows.pop(stream, None)
                self._tally[_status(fields)] += 1
        elif kind == RST_STREAM:
            self.windows.pop(stream, None)
            self._tally[f"RST_STREAM {_name(_CODES, int.from_bytes(payload[:4], 'big'))}"] += 1
        elif kind == GOAWAY:
            self._tally[f"GOAWAY {_name(_CODES, int.from_bytes(payload[4:8], 'big'))}"] += 1


def _status(fields: dict[str, str]) -> str:
    status = fields.get("grpc-status", "")
    return _name(_STATUSES, int(status)) if status.isdigit() else f"HTTP {fields.get(':status', 'without status')}"


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)


Units = Callable[[Wire], tuple[bytes, int]]
"""The next bytes of a flood for a connection, and how many of what is counted they hold."""
